//! What clients have lately lost: the answer to why a message did not come.
//!
//! Owns a few lines for each of some sessions, in a table of a fixed size in which a session that loses something
//! takes the place of another that falls on the same line; so that a flood of drops costs one line of memory each
//! and nothing grows. The exact numbers of all drops are the [`crate::Ledger`]'s.

use crate::event::{DropReason, Drops};
use crate::ledger::drop_message;
use crate::shard::Turn;
use crate::traced::{Note, topic_text};

/// Lines of the table, once anything was lost.
const LINES: usize = 1_024;
/// Bytes of a topic that a line keeps.
const TOPIC_BYTES: usize = 64;
/// Bytes at the end of a longer one that it keeps too: topics of many devices begin alike.
const END_BYTES: usize = 16;

/// What sessions have lost, and what was refused that they published.
#[derive(Debug, Default)]
pub struct Losses {
    lines: Vec<Loss>,
    /// Who has lost something last, unless that was taken.
    last: Option<u32>,
}

/// What one session has lost since it is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Position of the session; [`u32::MAX`] for none.
    session: u32,
    /// What and how much.
    pub drops: Drops,
    /// Why it lost the last message.
    pub last: DropReason,
    /// When, on the monotonic clock.
    pub last_ms: u64,
    topic: [u8; TOPIC_BYTES],
    end: [u8; END_BYTES],
    topic_bytes: u16,
}

impl Loss {
    const NONE: Self = Self {
        session: u32::MAX,
        drops: Drops::from_numbers([0; DropReason::ALL.len()]),
        last: DropReason::QueueFull,
        last_ms: 0,
        topic: [0; TOPIC_BYTES],
        end: [0; END_BYTES],
        topic_bytes: 0,
    };

    /// Position of the session.
    pub(crate) const fn session(&self) -> u32 {
        self.session
    }

    /// The topic of the last message, or its beginning, without part of a character; empty if it is not known any more.
    /// True if it is whole.
    #[must_use]
    pub fn topic(&self) -> (&[u8], bool) {
        let kept = &self.topic[..usize::from(self.topic_bytes).min(TOPIC_BYTES)];
        let is_whole = kept.len() == usize::from(self.topic_bytes);
        let whole_bytes = match std::str::from_utf8(kept) {
            Err(cut) if !is_whole => cut.valid_up_to(),
            _ => kept.len(),
        };
        (&kept[..whole_bytes], is_whole)
    }

    /// True if the last message had this topic, as far as that is kept.
    pub(crate) fn is_about(&self, topic: &[u8]) -> bool {
        let of_this = Self::NONE.with_topic(topic);
        (self.topic_bytes, self.topic, self.end)
            == (of_this.topic_bytes, of_this.topic, of_this.end)
    }

    fn with_topic(mut self, topic: &[u8]) -> Self {
        let kept = topic.len().min(TOPIC_BYTES);
        (self.topic, self.end) = ([0; TOPIC_BYTES], [0; END_BYTES]);
        self.topic[..kept].copy_from_slice(&topic[..kept]);
        if topic.len() > TOPIC_BYTES {
            self.end.copy_from_slice(&topic[topic.len() - END_BYTES..]);
        }
        self.topic_bytes = u16::try_from(topic.len()).unwrap_or(u16::MAX);
        self
    }
}

impl Losses {
    fn note(&mut self, session: u32, reason: DropReason, topic: &[u8], now_ms: u64) {
        if self.lines.is_empty() {
            self.lines = vec![Loss::NONE; LINES];
        }
        let Some(line) = self.lines.get_mut(session as usize % LINES) else { return };
        if line.session != session {
            *line = Loss { session, ..Loss::NONE };
        }
        self.last = Some(session);
        line.drops.count(reason);
        (line.last, line.last_ms) = (reason, now_ms);
        *line = line.with_topic(topic);
    }

    /// What a session has lost, as far as that is known.
    pub(crate) fn of(&self, session: u32) -> Option<&Loss> {
        self.lines.get(session as usize % LINES).filter(|line| line.session == session)
    }

    /// What was lost last, once.
    pub(crate) fn take_last(&mut self) -> Option<Loss> {
        let session = self.last.take()?;
        self.of(session).copied()
    }

    /// All that is known.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Loss> {
        self.lines.iter().filter(|line| line.session != u32::MAX)
    }

    /// The session has ended; its position is another's then.
    pub(crate) fn forget(&mut self, session: u32) {
        if let Some(line) = self.lines.get_mut(session as usize % LINES)
            && line.session == session
        {
            *line = Loss::NONE;
        }
    }
}

/// Counts a copy that a session does not get, and keeps why.
#[cold]
#[inline(never)]
pub(crate) fn lose(turn: &mut Turn<'_>, session: u32, topic: &[u8], reason: DropReason) {
    drop_message(turn, reason);
    turn.out.losses.note(session, reason, topic, turn.now_ms);
    turn.out.notes.add(|| Note::lost(session, topic, reason, 1));
}

/// Keeps why a message that a session has published goes no further. Whoever calls has counted it.
#[cold]
#[inline(never)]
pub(crate) fn refused(turn: &mut Turn<'_>, session: u32, topic: &[u8], reason: DropReason) {
    turn.out.refusals.note(session, reason, topic, turn.now_ms);
    turn.out.notes.add(|| Note::Refused { session, topic: topic_text(topic), reason });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_what_it_lost_until_another_takes_its_line_or_it_ends() {
        let mut losses = Losses::default();
        assert!(losses.of(7).is_none());
        losses.note(7, DropReason::QueueFull, b"a/b", 10);
        losses.note(7, DropReason::SlowReader, &[b'x'; 100], 20);
        let loss = losses.of(7).expect("noted");
        assert_eq!((loss.drops.of(DropReason::QueueFull), loss.drops.all()), (1, 2));
        assert_eq!((loss.last, loss.last_ms), (DropReason::SlowReader, 20));
        assert_eq!(loss.topic(), (&[b'x'; TOPIC_BYTES][..], false));
        losses.note(7, DropReason::Expired, b"a", 30);
        assert_eq!(losses.of(7).expect("noted").topic(), (&b"a"[..], true));
        // A character of two bytes lies across the end of what is kept.
        let long = |end: &str| format!("{}\u{e9}/of-a-device/{end}", "x".repeat(TOPIC_BYTES - 1));
        losses.note(7, DropReason::Expired, long("17").as_bytes(), 35);
        let loss = losses.of(7).expect("noted");
        assert_eq!(loss.topic(), (&[b'x'; TOPIC_BYTES - 1][..], false));
        assert!(loss.is_about(long("17").as_bytes()));
        for other in [long("18"), long("7"), "x".repeat(TOPIC_BYTES), "a".into(), String::new()] {
            assert!(!loss.is_about(other.as_bytes()), "{other}");
        }
        losses.note(7, DropReason::Expired, b"a", 36);
        assert!(losses.of(7).expect("noted").is_about(b"a"));
        let other = 7 + LINES as u32;
        losses.forget(other);
        assert!(losses.of(7).is_some());
        losses.note(other, DropReason::Expired, b"c", 40);
        assert!(losses.of(7).is_none());
        assert_eq!(losses.take_last().map(|loss| loss.session()), Some(other));
        assert_eq!(losses.take_last(), None);
        losses.note(other, DropReason::Expired, b"c", 50);
        losses.forget(other);
        assert!(losses.of(other).is_none());
        assert_eq!(losses.take_last(), None);
    }
}
