//! Topic names, topic filters and shared subscription filters.
//!
//! Bytes are compared as they are: no normalisation, case or otherwise ([MQTT5-4.7.3-4],
//! [MQTT311-4.7.3-4]).

use bytes::Bytes;

use crate::error::DecodeError;
use crate::text::{has_wildcard, is_plain_topic};
use crate::{ReasonCode, Text};

/// A topic name: no wildcard character; empty only where a topic alias stands in for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicName(Text);

/// A topic filter with its wildcards where they are allowed ([MQTT5-4.7.1-1], [MQTT5-4.7.1-2],
/// [MQTT311-4.7.1-2], [MQTT311-4.7.1-3]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Text);

/// The share name of a shared subscription ([MQTT5-4.8.2-1], [MQTT5-4.8.2-2]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareName(Text);

/// A `$share/{name}/{filter}` taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SharedFilter {
    /// Which group.
    pub share: ShareName,
    /// What the group subscribes to.
    pub filter: TopicFilter,
}

impl TopicName {
    /// The empty name that goes with a topic alias.
    pub const EMPTY: Self = Self(Text::EMPTY);

    /// Checks a topic name of at least one byte.
    ///
    /// # Errors
    /// Topic Name invalid for a wildcard ([MQTT5-3.3.2-2], [MQTT5-4.7.0-1], [MQTT311-4.7.1-1]) or an
    /// empty name ([MQTT5-4.7.3-1], [MQTT311-4.7.3-1]).
    pub fn new(text: Text) -> Result<Self, DecodeError> {
        let invalid = |what| DecodeError { reason: ReasonCode::TopicNameInvalid, what };
        if text.is_empty() {
            return Err(invalid("the topic name is empty [MQTT5-4.7.3-1]"));
        }
        if has_wildcard(text.as_bytes()) {
            return Err(invalid("the topic name holds a wildcard [MQTT5-3.3.2-2]"));
        }
        Ok(Self(text))
    }

    /// The topic name in a part of a frame; that of an empty part is empty.
    ///
    /// # Errors
    /// Those of [`Text::new`] and of [`TopicName::new`], but for an empty name.
    #[inline]
    pub(crate) fn in_frame(frame: &Bytes, name: &[u8]) -> Result<Self, DecodeError> {
        if is_plain_topic(name) {
            return Ok(Self(Text::checked(frame.slice_ref(name))));
        }
        Self::new(Text::new(frame.slice_ref(name))?)
    }

    /// The topic name in these bytes; that of none is empty.
    ///
    /// # Errors
    /// Those of [`Text::new`] and of [`TopicName::new`], but for an empty name.
    #[inline]
    pub fn from_bytes(name: Bytes) -> Result<Self, DecodeError> {
        if is_plain_topic(&name) {
            Ok(Self(Text::checked(name)))
        } else {
            Self::new(Text::new(name)?)
        }
    }

    /// The same name in other memory, where someone has copied it to.
    #[must_use]
    pub fn moved_to(&self, copy: Bytes) -> Self {
        Self(self.0.moved_to(copy))
    }

    /// The text.
    #[must_use]
    pub const fn text(&self) -> &Text {
        &self.0
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// True for names that start with `$`, which no leading wildcard matches ([MQTT5-4.7.2-1]).
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.as_bytes().first() == Some(&b'$')
    }

    /// The levels, in order; at least one, each may be empty.
    pub fn levels(&self) -> impl Iterator<Item = &[u8]> {
        self.as_bytes().split(|&byte| byte == b'/')
    }
}

impl TopicFilter {
    /// Checks a topic filter of at least one byte, `$share` grammar included.
    ///
    /// # Errors
    /// Topic Filter invalid for an empty filter ([MQTT5-4.7.3-1]), a misplaced wildcard
    /// ([MQTT5-4.7.1-1], [MQTT5-4.7.1-2]) or a bad share name ([MQTT5-4.8.2-1], [MQTT5-4.8.2-2]).
    pub fn new(text: Text) -> Result<Self, DecodeError> {
        let invalid = |what| DecodeError { reason: ReasonCode::TopicFilterInvalid, what };
        if text.is_empty() {
            return Err(invalid("the topic filter is empty [MQTT5-4.7.3-1]"));
        }
        let mut levels = text.as_bytes().split(|&byte| byte == b'/').peekable();
        while let Some(level) = levels.next() {
            match level {
                b"+" => {}
                b"#" if levels.peek().is_none() => {}
                b"#" => return Err(invalid("# is not the last level [MQTT5-4.7.1-1]")),
                _ if level.contains(&b'#') => {
                    return Err(invalid("# shares a level with other characters [MQTT5-4.7.1-1]"));
                }
                _ if level.contains(&b'+') => {
                    return Err(invalid("+ shares a level with other characters [MQTT5-4.7.1-2]"));
                }
                _ => {}
            }
        }
        let filter = Self(text);
        if filter.is_shared() && filter.shared().is_none() {
            return Err(invalid(
                "$share needs a name without wildcards and a filter [MQTT5-4.8.2-1]",
            ));
        }
        Ok(filter)
    }

    /// The text.
    #[must_use]
    pub const fn text(&self) -> &Text {
        &self.0
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The levels, in order; at least one, each may be empty.
    pub fn levels(&self) -> impl Iterator<Item = &[u8]> {
        self.as_bytes().split(|&byte| byte == b'/')
    }

    /// True if some level is `+` or `#`.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.levels().any(|level| level == b"+" || level == b"#")
    }

    /// True for filters that start with `$share/`.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.as_bytes().starts_with(b"$share/")
    }

    /// Takes a `$share/{name}/{filter}` apart; `None` if it is not one.
    #[must_use]
    pub fn shared(&self) -> Option<SharedFilter> {
        let bytes = self.0.bytes();
        let rest = bytes.strip_prefix(b"$share/".as_slice())?;
        let slash = rest.iter().position(|&byte| byte == b'/')?;
        let (share, filter) = rest.split_at_checked(slash)?;
        let filter = filter.get(1..)?;
        let wild = share.iter().any(|byte| matches!(byte, b'+' | b'#'));
        // What follows the name is a filter of a subscription that is not shared.
        let nested = filter.starts_with(b"$share/");
        if share.is_empty() || filter.is_empty() || wild || nested {
            return None;
        }
        Some(SharedFilter {
            share: ShareName(Text::new(bytes.slice_ref(share)).ok()?),
            filter: Self(Text::new(bytes.slice_ref(filter)).ok()?),
        })
    }

    /// Whether the filter matches the name: the slow, obvious way that tests compare with.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut names = topic.levels();
        let mut first = true;
        for level in self.levels() {
            let wild = level == b"+" || level == b"#";
            if first && wild && topic.is_system() {
                return false;
            }
            first = false;
            match (level, names.next()) {
                (b"#", _) | (b"+", Some(_)) => {
                    if level == b"#" {
                        return true;
                    }
                }
                (literal, Some(name)) if literal == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl ShareName {
    /// The text.
    #[must_use]
    pub const fn text(&self) -> &Text {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Result<TopicFilter, DecodeError> {
        TopicFilter::new(Text::try_from(text).unwrap())
    }

    fn name(text: &str) -> Result<TopicName, DecodeError> {
        TopicName::new(Text::try_from(text).unwrap())
    }

    fn matches(filter_text: &str, name_text: &str) -> bool {
        filter(filter_text).unwrap().matches(&name(name_text).unwrap())
    }

    /// [MQTT5-4.7.0-1], [MQTT5-3.3.2-2], [MQTT311-4.7.1-1], [MQTT311-3.3.2-2]
    #[test]
    fn a_topic_name_has_no_wildcard() {
        for text in ["+", "#", "a/+", "a#", "+a", "a/#/b"] {
            assert_eq!(name(text).unwrap_err().reason, ReasonCode::TopicNameInvalid, "{text}");
        }
    }

    /// [MQTT5-4.7.3-1], [MQTT311-4.7.3-1]
    #[test]
    fn names_and_filters_have_at_least_one_character() {
        assert_eq!(name("").unwrap_err().reason, ReasonCode::TopicNameInvalid);
        assert_eq!(filter("").unwrap_err().reason, ReasonCode::TopicFilterInvalid);
    }

    /// [MQTT5-4.7.1-1], [MQTT311-4.7.1-2]
    #[test]
    fn a_multi_level_wildcard_stands_alone_and_last() {
        for text in ["#", "a/#", "/#", "+/#"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["a#", "#a", "#/a", "a/#/b", "##", "a/b#", "#+"] {
            assert_eq!(filter(text).unwrap_err().reason, ReasonCode::TopicFilterInvalid, "{text}");
        }
    }

    /// [MQTT5-4.7.1-2], [MQTT311-4.7.1-3]
    #[test]
    fn a_single_level_wildcard_fills_its_level() {
        for text in ["+", "+/a", "a/+/b", "/+", "+/+/#"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["a+", "+a", "a/+b/c", "++"] {
            assert_eq!(filter(text).unwrap_err().reason, ReasonCode::TopicFilterInvalid, "{text}");
        }
    }

    /// The examples of section 4.7.1.
    #[test]
    fn filters_match_as_the_specification_says() {
        for topic in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/s/w"]
        {
            assert!(matches("sport/tennis/player1/#", topic), "{topic}");
        }
        assert!(matches("sport/#", "sport"));
        assert!(!matches("sport/#", "sports"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance") && matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(matches("+/tennis/#", "a/tennis") && matches("#", "a/b"));
        assert!(!matches("a/b/c", "a/b") && !matches("a/b", "a/b/c"));
    }

    /// [MQTT5-4.7.2-1], [MQTT311-4.7.2-1]
    #[test]
    fn a_leading_wildcard_does_not_match_a_dollar_topic() {
        assert!(!matches("#", "$SYS"));
        assert!(!matches("+/monitor", "$SYS/monitor"));
        assert!(!matches("+", "$SYS"));
        assert!(matches("$SYS/#", "$SYS/monitor") && matches("$SYS/+", "$SYS/monitor"));
        assert!(matches("$SYS/#", "$SYS"));
        assert!(matches("a/#", "a/$SYS") && matches("a/+", "a/$SYS"));
    }

    /// [MQTT5-4.7.3-4], [MQTT311-4.7.3-4]
    #[test]
    fn nothing_is_normalised() {
        assert!(!matches("ACCOUNTS", "Accounts"));
        assert!(!matches("/a", "a") && !matches("a", "a/"));
        assert!(!matches("e\u{301}", "\u{e9}"));
    }

    /// [MQTT5-4.8.2-1], [MQTT5-4.8.2-2]
    #[test]
    fn a_shared_filter_has_a_name_and_a_filter() {
        for text in
            ["$share/", "$share//t", "$share/g", "$share/g/", "$share/+/t", "$share/g/$share/g/t"]
        {
            assert_eq!(filter(text).unwrap_err().reason, ReasonCode::TopicFilterInvalid, "{text}");
        }
        let shared = filter("$share/g/a/+/#").unwrap().shared().unwrap();
        assert_eq!(shared.share.text().as_str(), "g");
        assert_eq!(shared.filter, filter("a/+/#").unwrap());
        let slash = filter("$share/g//").unwrap().shared().unwrap();
        assert_eq!(slash.filter, filter("/").unwrap());
    }

    #[test]
    fn what_only_looks_like_a_share_is_an_ordinary_filter() {
        for text in ["$share", "$shared/g/t", "share/g/t", "$SHARE/g/t"] {
            let filter = filter(text).unwrap();
            assert!(!filter.is_shared() && filter.shared().is_none(), "{text}");
        }
    }

    #[test]
    fn wildcards_are_seen() {
        for (text, wild) in [("a/b", false), ("a/+", true), ("#", true), ("$share/g/+", true)] {
            assert_eq!(filter(text).unwrap().has_wildcard(), wild, "{text}");
        }
    }
}
