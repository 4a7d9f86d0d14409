//! Topic aliases that the broker uses towards a client.

/// Shorter topics gain nothing from an alias.
const TOPIC_BYTES_MIN: usize = 4;

/// Which topic stands behind which alias on one connection.
///
/// Each topic has one possible alias, by its hash; a topic that meets another there replaces it.
/// So the choice costs no search, follows what is published now, and holds at most the client's
/// maximum of names. Never more than the client's Topic Alias Maximum ([MQTT5-3.1.2-26]), none at
/// all if it is 0 or absent ([MQTT5-3.1.2-27]).
#[derive(Debug, Default)]
pub(crate) struct OutgoingAliases {
    topics: Vec<Option<Box<[u8]>>>,
}

/// How a topic goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicForm {
    /// In full, without an alias.
    Full,
    /// In full, with the alias that later messages may use.
    Introduced(u16),
    /// Only the alias.
    Known(u16),
}

impl OutgoingAliases {
    /// The form in which `topic` goes out to a client that takes `maximum` aliases; `hash` gives any
    /// fixed hash of it. Nothing changes until [`Self::introduced`] confirms that the packet was sent.
    pub(crate) fn form(
        known: Option<&Self>,
        maximum: u16,
        topic: &[u8],
        hash: impl FnOnce() -> u64,
    ) -> TopicForm {
        if maximum == 0 || topic.len() < TOPIC_BYTES_MIN {
            return TopicForm::Full;
        }
        let at = (hash() % u64::from(maximum)) as u16;
        let topics = known.map_or(&[][..], |aliases| &aliases.topics);
        match topics.get(usize::from(at)) {
            Some(Some(known)) if **known == *topic => TopicForm::Known(at + 1),
            _ => TopicForm::Introduced(at + 1),
        }
    }

    /// Remembers that the client now knows `topic` by `alias`.
    pub(crate) fn introduced(&mut self, topic: &[u8], alias: u16) {
        let at = usize::from(alias.saturating_sub(1));
        if self.topics.len() <= at {
            self.topics.resize_with(at + 1, || None);
        }
        self.topics[at] = Some(topic.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT5-3.1.2-26] [MQTT5-3.1.2-27]
    #[test]
    fn an_alias_is_introduced_once_and_stays_within_the_maximum() {
        let mut aliases = OutgoingAliases::default();
        let form = |aliases: &OutgoingAliases, topic, hash| {
            OutgoingAliases::form(Some(aliases), 2, topic, || hash)
        };
        assert_eq!(form(&aliases, b"a/b/c", 5), TopicForm::Introduced(2));
        aliases.introduced(b"a/b/c", 2);
        assert_eq!(form(&aliases, b"a/b/c", 5), TopicForm::Known(2));
        assert_eq!(form(&aliases, b"a/b/d", 7), TopicForm::Introduced(2));
        aliases.introduced(b"a/b/d", 2);
        assert_eq!(form(&aliases, b"a/b/c", 5), TopicForm::Introduced(2));
        assert_eq!(OutgoingAliases::form(None, 0, b"a/b/c", || 5), TopicForm::Full);
    }
}
