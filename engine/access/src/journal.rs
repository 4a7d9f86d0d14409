//! What back ends have to say to whoever runs the broker, and the clock by which they say it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A line for the log, without secrets. What others have said in it is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Something is well again.
    Info(String),
    /// Something is not as wanted.
    Warn(String),
}

/// Where notices go. Called from the threads of this crate; must not wait.
#[derive(Clone)]
pub struct Journal(Arc<dyn Fn(Notice) + Send + Sync>);

impl Journal {
    /// One that hands each notice to `write`.
    pub fn new(write: impl Fn(Notice) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    pub(crate) fn info(&self, text: String) {
        (self.0)(Notice::Info(text));
    }

    pub(crate) fn warn(&self, text: String) {
        (self.0)(Notice::Warn(text));
    }
}

/// Tells nobody.
impl Default for Journal {
    fn default() -> Self {
        Self::new(drop)
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

/// A monotonic clock. In tests of this crate it stands until it is put forward.
#[derive(Debug, Clone)]
pub struct Clock {
    #[cfg_attr(test, expect(dead_code, reason = "it stands"))]
    start: Instant,
    #[cfg(test)]
    now_ms: Arc<std::sync::atomic::AtomicU64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            #[cfg(test)]
            now_ms: Arc::default(),
        }
    }
}

#[cfg(not(test))]
impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn put_forward(&self, by_ms: u64) {
        self.now_ms.fetch_add(by_ms, std::sync::atomic::Ordering::AcqRel);
    }
}

/// What back ends write to and go by.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Where they write.
    pub journal: Journal,
    /// What they go by.
    pub clock: Clock,
}

/// One line of a kind, and then none for a while.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Since>);

#[derive(Debug, Default)]
struct Since {
    silent_until_ms: u64,
    left_out: u64,
}

/// For how long nothing is said after a line, in milliseconds.
const SILENT_MS: u64 = 10_000;

impl Seldom {
    /// Warns, if that is not too often; then with the number of lines that were left out.
    pub(crate) fn warn(&self, outside: &Outside, text: impl FnOnce() -> String) {
        let now_ms = outside.clock.now_ms();
        let left_out = {
            let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if now_ms < since.silent_until_ms {
                since.left_out += 1;
                return;
            }
            since.silent_until_ms = now_ms + SILENT_MS;
            std::mem::take(&mut since.left_out)
        };
        let text = text();
        outside.journal.warn(match left_out {
            0 => text,
            more => format!("{text} (and {more} times more before)"),
        });
    }
}

/// Bytes of somebody else's text that go into a line.
const SAID_BYTES_MAX: usize = 200;

/// What somebody else has said, made safe for a line: without control characters, and not long.
pub(crate) fn said(text: &str) -> String {
    let mut safe = String::new();
    for char in text.chars() {
        if safe.len() >= SAID_BYTES_MAX {
            safe.push('…');
            break;
        }
        match char {
            '"' | '\'' => safe.push(char),
            _ => safe.extend(char.escape_debug()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_seldom_and_say_how_many_were_left_out() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&lines);
        let journal = Journal::new(move |notice| to.lock().unwrap().push(notice));
        let outside = Outside { journal, clock: Clock::default() };
        let seldom = Seldom::default();
        for text in ["a", "b", "c"] {
            seldom.warn(&outside, || text.to_owned());
        }
        outside.clock.put_forward(SILENT_MS);
        seldom.warn(&outside, || "d".to_owned());
        let warned = |text: &str| Notice::Warn(text.to_owned());
        let lines = lines.lock().unwrap();
        assert_eq!(*lines, [warned("a"), warned("d (and 2 times more before)")]);
    }

    #[test]
    fn what_others_say_is_one_short_line() {
        assert_eq!(said("a\nb\u{1b}[2J\"'"), "a\\nb\\u{1b}[2J\"'");
        assert!(said(&"x".repeat(10_000)).len() < SAID_BYTES_MAX + 8);
    }
}
