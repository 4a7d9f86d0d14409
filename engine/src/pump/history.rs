//! What happened to the clients of a shard lately: the last few thousand events, for those who ask about one
//! client. A client that comes and goes all the time pushes its own events out, and nobody else's.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::SystemTime;

use bytes::Bytes;
use petrel_proto::{ClientId, Text};
use petrel_shard::{EndedBy, Event};

/// Lists of events. A client's are all in one.
const LISTS: usize = 64;
/// Events of each list that are kept.
const LIST_MAX: usize = 64;
/// Events of one client that are kept.
const OF_CLIENT_MAX: usize = 16;

/// How connections end.
const GONE: [&str; 5] = [
    "disconnected by the client",
    "disconnected by the broker",
    "connection lost",
    "disconnected by an operator",
    "cut off",
];
/// What shards say of the end of somebody who is banned.
const BANNED: &str = "banned";
/// What is said of a session that has ended while its client was away.
const SESSION_ENDED: &str = "session ended";

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// When, on the clock of the wall.
    pub at: SystemTime,
    /// To whom, in memory of its own.
    client_id: Box<str>,
    /// Tells most clients of a list apart.
    mark: u32,
    /// What, as one word.
    pub what: &'static str,
    /// The reason code that the client was told, or said; 0 if there is none.
    pub reason: u8,
    /// More of it, in words of ours.
    pub why: &'static str,
}

impl Past {
    /// True if a connection ended.
    #[must_use]
    pub fn is_departure(&self) -> bool {
        GONE.contains(&self.what)
    }
}

/// The last events of a shard.
#[derive(Debug, Default)]
pub struct History {
    /// By the marks of clients; none before something has happened.
    lists: Vec<VecDeque<Past>>,
}

impl History {
    /// Keeps an event, and forgets the oldest of its client if it has many, or else the oldest of its list. Cost: a look
    /// at each of the list, which stand together.
    pub(crate) fn note(&mut self, event: &Event, at: SystemTime) {
        let (client_id, what, reason, why) = match event {
            Event::Connected { client_id, session_present: true, .. } => {
                (client_id, "connected", 0, "its session goes on")
            }
            Event::Connected { client_id, .. } => (client_id, "connected", 0, "a new session"),
            Event::Refused { client_id, reason, what, .. } => {
                (client_id, "refused", *reason as u8, *what)
            }
            // The end of its earlier connection says it.
            Event::TakenOver { .. } => return,
            Event::Revoked { client_id, .. } => {
                (client_id, "unsubscribed", 0, "it may not have a subscription any more")
            }
            Event::SessionEnded { client_id, what } => (client_id, SESSION_ENDED, 0, *what),
            Event::Disconnected { client_id, by, reason, what, .. } => {
                let by = match by {
                    // Whoever has made the ban.
                    EndedBy::Admin if *what == BANNED => GONE[4],
                    EndedBy::Client => GONE[0],
                    EndedBy::Broker => GONE[1],
                    EndedBy::Network => GONE[2],
                    EndedBy::Admin => GONE[3],
                };
                (client_id, by, *reason as u8, *what)
            }
        };
        if self.lists.is_empty() {
            self.lists.resize_with(LISTS, VecDeque::new);
        }
        let mark = mark_of(client_id.as_str());
        let list = &mut self.lists[mark as usize % LISTS];
        let mut own = list.iter().enumerate().filter(|(_, past)| past.mark == mark);
        let oldest = own.next().map(|(at, _)| at);
        if own.count() + 1 >= OF_CLIENT_MAX {
            oldest.map(|at| list.remove(at));
        } else if list.len() == LIST_MAX {
            list.pop_front();
        }
        let client_id = client_id.as_str().into();
        list.push_back(Past { at, client_id, mark, what, reason, why });
    }

    /// What happened to one client, the last of it first.
    pub fn of(&self, client_id: &ClientId) -> impl Iterator<Item = &Past> {
        let list = self.lists.get(mark_of(client_id.as_str()) as usize % LISTS);
        let all = list.into_iter().flat_map(|list| list.iter().rev());
        all.filter(move |past| *past.client_id == *client_id.as_str())
    }
}

/// The same for the same client identifier.
fn mark_of(client_id: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    client_id.hash(&mut hasher);
    hasher.finish() as u32
}

/// A text in memory of its own.
#[must_use]
pub fn owned(text: &str) -> Option<Text> {
    Text::new(Bytes::copy_from_slice(text.as_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use petrel_proto::{ReasonCode, Version};
    use petrel_shard::ConnId;

    use super::*;

    fn id(name: &str) -> ClientId {
        owned(name).expect("a text")
    }

    #[test]
    fn the_last_events_of_a_client_are_kept_and_no_more_than_there_is_room_for() {
        let mut history = History::default();
        let conn = ConnId { index: 0, generation: 0 };
        let connected = |name: &str| Event::Connected {
            conn,
            client_id: id(name),
            version: Version::V5,
            session_present: false,
            keep_alive_s: 60,
            user: None,
        };
        history.note(&connected("a"), SystemTime::UNIX_EPOCH);
        let (by, reason) = (EndedBy::Broker, ReasonCode::KeepAliveTimeout);
        let ended = Event::Disconnected { conn, client_id: id("a"), by, reason, what: "silent" };
        history.note(&ended, SystemTime::UNIX_EPOCH);
        history.note(&connected("b"), SystemTime::UNIX_EPOCH);
        let of_a: Vec<_> =
            history.of(&id("a")).map(|past| (past.what, past.reason, past.why)).collect();
        let last = ("disconnected by the broker", 0x8d, "silent");
        assert_eq!(of_a, [last, ("connected", 0, "a new session")]);
        // One that comes all the time pushes out its own.
        for _ in 0..10_000 {
            history.note(&connected("c"), SystemTime::UNIX_EPOCH);
        }
        let counts = ["a", "b", "c"].map(|name| history.of(&id(name)).count());
        assert_eq!(counts, [2, 1, OF_CLIENT_MAX]);
        // Many do, and there is no more room for them than before.
        for n in 0..100_000 {
            history.note(&connected(&format!("d{n}")), SystemTime::UNIX_EPOCH);
        }
        assert_eq!(history.of(&id("a")).count(), 0);
        assert_eq!(history.of(&id("d99999")).count(), 1);
        let events: usize = history.lists.iter().map(VecDeque::len).sum();
        assert_eq!(events, LISTS * LIST_MAX);
    }
}
