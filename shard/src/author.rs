//! Who published what is retained, so that it can be judged anew when the rules have changed.

use petrel_proto::Text;

use crate::access::{Rules, Who};
use crate::standing::Identity;

/// Where those are whose place is not known: no rule asks for it.
const UNKNOWN: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// In the first byte.
const HAS_USER: u8 = 1;
const HAD_OWN: u8 = 2;

/// The client that published a retained message, as it was then.
///
/// *Memory*: its names, one byte, and two for each of them.
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
    /// It had rights that came with its proof, and keeps them as far as rules deny nothing.
    had_own: bool,
}

impl Author {
    /// Of the rules of those that were kept: one that no shard reaches.
    const OF_OLD: u32 = u32::MAX;

    /// A client that may publish by the rules of this epoch.
    pub(crate) fn new(epoch: u32, client_id: &str, identity: Option<&Identity>) -> Self {
        let had_own = identity.is_some_and(|identity| identity.own.is_some());
        let flags =
            if identity.is_some() { HAS_USER } else { 0 } | if had_own { HAD_OWN } else { 0 };
        let mut bytes = vec![flags];
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
        Self { epoch, bytes: bytes.into() }
    }

    /// One that was kept as these bytes; `None` if they are no author.
    #[must_use]
    pub fn kept(bytes: &[u8]) -> Option<Self> {
        Known::read(bytes)?;
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
        let had_own = flags & HAD_OWN != 0;
        rest.is_empty().then_some(Self { user, client_id, groups, had_own })
    }
}

impl Rules {
    /// Whether one who published to a topic might do it today, wherever it was; one that nobody can read
    /// might not.
    pub(crate) fn allow_still(&self, author: &[u8], topic: &str) -> bool {
        let Some(Known { user, client_id, groups, had_own }) = Known::read(author) else {
            return false;
        };
        let who = Who { user, groups: &groups, client_id, listener: 0, address: UNKNOWN };
        self.publishable_still(&who, had_own, topic)
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
        let own = Some(Rules::default());
        let identity = Identity { user: text("al\u{fc}ce"), groups, own, ..Identity::default() };
        let author = Author::new(3, "c1", Some(&identity));
        let known = Known::read(author.as_bytes()).expect("an author");
        assert_eq!((known.user, known.client_id), (Some("al\u{fc}ce"), "c1"));
        assert!(known.had_own);
        assert_eq!(known.groups, identity.groups);
        let nobody = Author::new(3, "", None);
        let known = Known::read(nobody.as_bytes()).expect("an author");
        assert_eq!((known.user, known.client_id, known.had_own), (None, "", false));
        assert!(known.groups.is_empty());
    }

    #[test]
    fn a_piece_of_an_author_is_none() {
        let identity = Identity { user: text("alice"), groups: vec![], ..Identity::default() };
        let author = Author::new(3, "c1", Some(&identity));
        let bytes = author.as_bytes();
        for length in 0..bytes.len() {
            assert!(Author::kept(&bytes[..length]).is_none(), "{length} bytes");
        }
        assert!(Author::kept(&[bytes, &[0]].concat()).is_none(), "half a length");
        let kept = Author::kept(bytes).expect("an author");
        assert_ne!(kept.epoch(), author.epoch());
        assert!(!Rules::default().allow_still(&bytes[1..], "a"));
    }
}
