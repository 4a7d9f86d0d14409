//! Who published what is retained, so that it can be judged anew when the rules have changed.

use petrel_proto::Text;

use crate::access::{Rules, Who};
use crate::standing::Identity;

/// Where those are whose place is not known: no rule asks for it.
const UNKNOWN: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// In the first byte.
const HAS_USER: u8 = 1;
const BY_OWN: u8 = 2;
const NAMELESS: u8 = 4;

/// An author whose names take more is kept without them, and may nothing once the rules are others or the process
/// is: they would be kept with each of its messages, and read for each that is judged.
const NAMES_BYTES_MAX: usize = 1024;

/// The client that published a retained message, as it was then.
///
/// *Memory*: its names, one byte, and two for each of them; one byte in all if that is more than a KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    epoch: u32,
    bytes: Box<[u8]>,
}

/// What is known of an author.
#[derive(Debug)]
struct Known<'a> {
    user: Option<&'a str>,
    client_id: &'a str,
    groups: Vec<Text>,
    /// Rights that came with its proof allowed it, and count as kept as far as rules deny nothing.
    by_own: bool,
}

impl Author {
    /// Of the rules of those that were kept: one that no shard reaches.
    const OF_OLD: u32 = u32::MAX;

    /// A client that may publish by the rules of this epoch, or by rights of its own.
    pub(crate) fn new(
        epoch: u32,
        client_id: &str,
        identity: Option<&Identity>,
        by_own: bool,
    ) -> Self {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let mut bytes = vec![flag(identity.is_some(), HAS_USER) | flag(by_own, BY_OWN)];
        let mut put = |name: &str| {
            // A name of MQTT has at most 65,535 bytes.
            bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        };
        put(client_id);
        if let Some(identity) = identity {
            put(identity.user.as_str());
            identity.groups.iter().for_each(|group| put(group.as_str()));
        }
        if bytes.len() > NAMES_BYTES_MAX {
            bytes = vec![NAMELESS];
        }
        Self { epoch, bytes: bytes.into() }
    }

    /// Whether rights of its own allowed it.
    pub(crate) fn is_by_own(&self) -> bool {
        self.bytes.first().is_some_and(|flags| flags & BY_OWN != 0)
    }

    /// One that was kept as these bytes; `None` if they are no author.
    #[must_use]
    pub fn kept(bytes: &[u8]) -> Option<Self> {
        if bytes != [NAMELESS] {
            Known::read(bytes)?;
        }
        Some(Self { epoch: Self::OF_OLD, bytes: bytes.into() })
    }

    /// What is to be kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The rules by which it might.
    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl<'a> Known<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&flags, mut rest) = bytes.split_first()?;
        let mut name = || {
            let (length, behind) = rest.split_first_chunk()?;
            let (name, behind) = behind.split_at_checked(u16::from_be_bytes(*length).into())?;
            let name = std::str::from_utf8(name).ok()?;
            rest = behind;
            Some(name)
        };
        let client_id = name()?;
        let user = if flags & HAS_USER != 0 { Some(name()?) } else { None };
        let mut groups = Vec::new();
        while let Some(group) = name() {
            groups.push(Text::try_from(group).ok()?);
        }
        let by_own = flags & BY_OWN != 0;
        rest.is_empty().then_some(Self { user, client_id, groups, by_own })
    }
}

impl Rules {
    /// Whether one who published to a topic might do it today, wherever it was; one that nobody can read
    /// might not.
    pub(crate) fn allow_still(&self, author: &[u8], topic: &str) -> bool {
        let Some(Known { user, client_id, groups, by_own }) = Known::read(author) else {
            return false;
        };
        let who = Who { user, groups: &groups, client_id, listener: 0, address: UNKNOWN };
        self.publishable_still(&who, by_own, topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::try_from(text).expect("a valid string")
    }

    #[test]
    fn what_is_kept_of_an_author_is_read_as_it_was() {
        let groups = vec![text("staff"), text("")];
        let identity = Identity { user: text("al\u{fc}ce"), groups, ..Identity::default() };
        let author = Author::new(3, "c1", Some(&identity), true);
        let known = Known::read(author.as_bytes()).expect("an author");
        assert_eq!((known.user, known.client_id), (Some("al\u{fc}ce"), "c1"));
        assert!(known.by_own && author.is_by_own());
        assert_eq!(known.groups, identity.groups);
        let nobody = Author::new(3, "", None, false);
        let known = Known::read(nobody.as_bytes()).expect("an author");
        assert_eq!((known.user, known.client_id, known.by_own), (None, "", false));
        assert!(known.groups.is_empty());
    }

    #[test]
    fn a_piece_of_an_author_is_none() {
        let identity = Identity { user: text("alice"), groups: vec![], ..Identity::default() };
        let author = Author::new(3, "c1", Some(&identity), false);
        let bytes = author.as_bytes();
        for length in 0..bytes.len() {
            assert!(Author::kept(&bytes[..length]).is_none(), "{length} bytes");
        }
        assert!(Author::kept(&[bytes, &[0]].concat()).is_none(), "half a length");
        let kept = Author::kept(bytes).expect("an author");
        assert_ne!(kept.epoch(), author.epoch());
        assert!(!Rules::default().allow_still(&bytes[1..], "a"));
    }

    #[test]
    fn names_that_are_very_long_are_not_kept_with_each_message() {
        let long = "x".repeat(NAMES_BYTES_MAX);
        let author = Author::new(3, &long, None, true);
        assert_eq!(author.as_bytes(), [NAMELESS]);
        let kept = Author::kept(author.as_bytes()).expect("an author");
        let mut rules = Rules::default();
        let effect =
            crate::access::Effect::Allow { max_qos: petrel_proto::Qos::ExactlyOnce, retain: true };
        let filters = vec![text("#")];
        let subjects = Default::default();
        rules
            .add(crate::access::Rule { subjects, effect, publish: true, subscribe: true, filters })
            .unwrap();
        assert!(!rules.allow_still(kept.as_bytes(), "a"), "nobody knows who it was");
        assert!(rules.allow_still(Author::new(3, "x", None, false).as_bytes(), "a"));
    }
}
