//! Plain lines on stderr: time, level, text.
//!
//! Nobody who logs waits for stderr: a thread of its own writes what a bounded channel holds, and what
//! finds the channel full is left out and counted.
//!
//! What a client sent goes into a line only through [`Escaped`], so that nobody can forge a line,
//! move the cursor of a terminal or fill a disk with one packet.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Lines that may wait for stderr.
const LINES_WAITING_MAX: usize = 1024;

/// How long the end of the process waits for stderr to take the last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

/// What waits for the thread that writes.
enum Entry {
    Line(String),
    /// Say when everything before has been written.
    Flush(mpsc::Sender<()>),
}

/// The way to the thread that writes, once there is one.
static WRITER: OnceLock<Queue> = OnceLock::new();

/// Lines on their way to where they are written.
struct Queue {
    entries: Sender<Entry>,
    left_out: Arc<AtomicU64>,
}

impl Queue {
    fn push(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.entries.try_send(Entry::Line(line)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was pushed has been written, but not for ever.
    fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.entries.send_timeout(Entry::Flush(done), LAST_LINES_WITHIN).is_ok() {
            // A writer that is stuck keeps the lines; there is nobody to tell.
            let _ = wait.recv_timeout(LAST_LINES_WITHIN);
        }
    }
}

/// Writes until nobody can push any more.
fn write(entries: &Receiver<Entry>, left_out: &AtomicU64, mut out: impl Write) {
    for entry in entries {
        match entry {
            // An error here has no better place to be said.
            Entry::Line(line) => drop(out.write_all(line.as_bytes())),
            Entry::Flush(done) => drop(done.send(())),
        }
        let left_out = left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            let text = format!("{left_out} lines were left out: stderr took none");
            drop(out.write_all(written(Level::Warn, &text).as_bytes()));
        }
    }
}

/// From now on a thread of its own writes the lines. Without it, whoever logs writes.
///
/// # Errors
/// The thread cannot be made.
pub fn start() -> io::Result<()> {
    let (entries, received) = bounded(LINES_WAITING_MAX);
    let left_out = Arc::new(AtomicU64::new(0));
    let queue = Queue { entries, left_out: Arc::clone(&left_out) };
    let run = move || write(&received, &left_out, io::stderr());
    std::thread::Builder::new().name("log".to_owned()).spawn(run)?;
    // A second start changes nothing: the lines of its thread's channel are those of nobody.
    let _ = WRITER.set(queue);
    Ok(())
}

/// Waits, at most a second or two, until all lines have been written, `text` as the last of them.
pub fn last_words(text: Option<&str>) {
    match (WRITER.get(), text) {
        (Some(queue), text) => {
            if let Some(text) = text {
                queue.push(format!("{text}\n"));
            }
            queue.flush();
        }
        // A closed stderr leaves nobody to tell.
        (None, Some(text)) => drop(writeln!(io::stderr(), "{text}")),
        (None, None) => {}
    }
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What the operator should know.
    Info,
    /// Something is not as wanted, and Petrel goes on.
    Warn,
    /// Something failed.
    Error,
}

/// Writes an `info` line.
pub fn info(text: impl fmt::Display) {
    line(Level::Info, &text);
}

/// Writes a `warn` line.
pub fn warn(text: impl fmt::Display) {
    line(Level::Warn, &text);
}

/// Writes an `error` line.
pub fn error(text: impl fmt::Display) {
    line(Level::Error, &text);
}

/// Writes one line with one call, so that lines of several threads never mix.
fn line(level: Level, text: &dyn fmt::Display) {
    let line = written(level, text);
    match WRITER.get() {
        Some(queue) => queue.push(line),
        None => drop(io::stderr().lock().write_all(line.as_bytes())),
    }
}

fn written(level: Level, text: &dyn fmt::Display) -> String {
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{} {level} {text}\n", Timestamp(since_epoch))
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info ",
            Self::Warn => "warn ",
            Self::Error => "error",
        })
    }
}

/// Bytes from outside, made safe for a log line: control and non-printing characters as escapes,
/// bytes that are not UTF-8 as `\xNN`, at most [`ESCAPED_BYTES_MAX`] bytes of the original.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

/// How many bytes of the original [`Escaped`] shows before it cuts.
pub const ESCAPED_BYTES_MAX: usize = 128;

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                shown += char.len_utf8();
                if shown > ESCAPED_BYTES_MAX {
                    return self.cut(f);
                }
                write!(f, "{}", char.escape_debug())?;
            }
            for byte in chunk.invalid() {
                shown += 1;
                if shown > ESCAPED_BYTES_MAX {
                    return self.cut(f);
                }
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Escaped<'_> {
    fn cut(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "… ({} bytes)", self.0.len())
    }
}

/// Time since 1970, displayed as UTC in the form of RFC 3339 with milliseconds.
pub(crate) struct Timestamp(pub(crate) Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil_date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the Gregorian calendar.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut year = 1970;
    loop {
        let year_days = 365 + u64::from(is_leap(year));
        if days < year_days {
            break;
        }
        days -= year_days;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for month_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < month_days {
            break;
        }
        days -= month_days;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        Escaped(bytes).to_string()
    }

    #[test]
    fn printable_text_stays_as_it_is() {
        assert_eq!(escaped("café πŸ".as_bytes()), "café πŸ");
    }

    /// Text from outside stands between quotes.
    #[test]
    fn a_client_cannot_end_its_quotes() {
        assert_eq!(escaped(b"x' is cut off: 'y"), "x\\' is cut off: \\'y");
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_holds_nobody_up() {
        /// Takes nothing until it is told to.
        struct Stuck<'a>(mpsc::Receiver<()>, &'a mut Vec<u8>);
        impl Write for Stuck<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // The end of the channel lets everything through.
                let _ = self.0.recv();
                self.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (entries, received) = bounded(4);
        let left_out = Arc::new(AtomicU64::new(0));
        let queue = Queue { entries, left_out: Arc::clone(&left_out) };
        let (go_on, stuck) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut out = Vec::new();
            write(&received, &left_out, Stuck(stuck, &mut out));
            String::from_utf8(out).expect("text")
        });
        // Four wait and one is with the writer, at most.
        for n in 0..10 {
            queue.push(format!("{n}\n"));
        }
        drop(go_on);
        queue.flush();
        drop(queue);
        let text = writer.join().expect("no panic");
        assert!(text.starts_with("0\n"), "{text}");
        let (_, rest) = text.split_once(" warn  ").expect("something was left out");
        assert!(rest.contains(" lines were left out: stderr took none\n"), "{rest}");
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_steer_a_terminal() {
        assert_eq!(escaped(b"a\nb\r\x1b[2J\0"), "a\\nb\\r\\u{1b}[2J\\0");
        assert_eq!(escaped("\u{202e}\u{200b}\u{feff}".as_bytes()), "\\u{202e}\\u{200b}\\u{feff}");
        assert_eq!(escaped(b"\xff\xc3("), "\\xff\\xc3(");
    }

    #[test]
    fn long_input_is_cut_and_its_length_told() {
        let text = escaped(&[b'x'; 70_000]);
        assert_eq!(text, format!("{}… (70000 bytes)", "x".repeat(ESCAPED_BYTES_MAX)));
        assert!(escaped(&[0xff; 70_000]).len() < 600);
    }

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds: u64| Timestamp(Duration::from_millis(seconds * 1000 + 7)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }
}
