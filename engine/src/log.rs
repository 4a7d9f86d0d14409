//! What is written of what happens: as text or JSON, to stderr, stdout, a file or journald.
//!
//! Nobody who logs waits for whoever takes the lines: a thread of its own writes what a bounded channel holds, and
//! what finds the channel full is left out and counted. What clients cause has only so many lines a second for each
//! [`Area`]; the others are counted by [`Event`] and summed up every ten seconds. Which lines are wanted of an area
//! ([`Level`]) can be changed at any time by [`set_level`].
//!
//! What a client sent goes into a sentence only through [`Escaped`] and beside it only as [`Value::Outside`], so that
//! nobody can forge a line, move the cursor of a terminal or fill a disk with one packet.

mod area;
mod escape;
mod event;
mod file;
mod limit;
mod line;
mod writer;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::SystemTime;

pub use self::area::{AREAS, Area, Level, Levels, is_on, levels, set_level};
pub(crate) use self::escape::Timestamp;
pub use self::escape::{ESCAPED_BYTES_MAX, Escaped};
pub use self::event::Event;
pub use self::limit::Rate;
use self::line::Line;
pub use self::line::{Fields, Format, Value};
use self::writer::Queue;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Destination {
    /// Standard error.
    #[default]
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, which begins anew when it is large.
    File,
    /// The journal of systemd, by its own protocol.
    Journald,
}

impl Destination {
    /// The names in the configuration.
    pub const NAMES: &'static [&'static str] = &["stderr", "stdout", "file", "journald"];

    /// The destination for its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Stderr, Self::Stdout, Self::File, Self::Journald];
        all.into_iter().find(|it| it.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// `[log]`: what is written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The form of lines; journald has its own.
    pub format: Format,
    /// Where they go.
    pub to: Destination,
    /// The file, its path resolved.
    pub file: Option<PathBuf>,
    /// A file that would be larger is moved away, in bytes.
    pub file_bytes_maximum: u64,
    /// Files that were moved away and are kept.
    pub files_kept: u32,
    /// Where journald listens.
    pub journal_socket: PathBuf,
    /// Lines of each area that clients can cause.
    pub rate: Rate,
    /// Which lines are wanted.
    pub levels: Levels,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: Format::default(),
            to: Destination::default(),
            file: None,
            file_bytes_maximum: 64 << 20,
            files_kept: 5,
            journal_socket: "/run/systemd/journal/socket".into(),
            rate: Rate::default(),
            levels: Levels::default(),
        }
    }
}

/// The way to the thread that writes, once there is one.
static WRITER: OnceLock<(Queue, LogConfig)> = OnceLock::new();

/// From now on a thread of its own writes the lines where the configuration wants them. Without it, whoever logs
/// writes, to stderr.
///
/// # Errors
/// What keeps lines from going there.
pub fn start(config: &LogConfig) -> io::Result<()> {
    apply(config);
    let queue = writer::start(config)?;
    // A second start changes nothing: the lines of its thread's channel are those of nobody.
    let _ = WRITER.set((queue, config.clone()));
    Ok(())
}

/// Takes on levels and rate. The rest of a changed configuration needs a restart.
pub fn apply(config: &LogConfig) {
    limit::set_rate(config.rate);
    for area in Area::ALL {
        set_level(area, config.levels.of(area));
    }
}

/// Opens the file again, which somebody may have moved away. It waits for nothing.
pub fn reopen() {
    if let Some((queue, _)) = WRITER.get() {
        queue.reopen();
    }
}

/// Waits, at most a second or two, until all lines have been written, `text` as the last of them. It is on stderr
/// wherever lines go.
pub fn last_words(text: Option<&str>) {
    if let Some((queue, config)) = WRITER.get() {
        if let Some(text) = text
            && config.to != Destination::Stderr
        {
            queue.push(encoded(
                config,
                Level::Error,
                Event::BrokerFailed,
                &[],
                format_args!("{text}"),
            ));
        }
        queue.flush();
    }
    if let Some(text) = text {
        // A closed stderr leaves nobody to tell.
        drop(writeln!(io::stderr(), "{text}"));
    }
}

/// Writes an `info` line about nothing that has a name of its own.
pub fn info(text: impl fmt::Display) {
    say(Event::Note, Level::Info, &[], format_args!("{text}"));
}

/// Writes such a `warn` line.
pub fn warn(text: impl fmt::Display) {
    say(Event::Note, Level::Warn, &[], format_args!("{text}"));
}

/// Writes such an `error` line.
pub fn error(text: impl fmt::Display) {
    say(Event::Note, Level::Error, &[], format_args!("{text}"));
}

/// Writes a line, if it is wanted, and if clients have not caused too many lately. True if it was. What operators ask
/// for is always wanted: nobody takes levels down to be unseen.
#[allow(clippy::must_use_candidate, reason = "few want to know")]
pub fn say(event: Event, level: Level, fields: Fields<'_>, message: fmt::Arguments<'_>) -> bool {
    debug_assert!(
        fields.iter().all(|(key, _)| event.fields().contains(key)),
        "{event:?} has other fields"
    );
    debug_assert!(event.levels().contains(&level), "{event:?} has other levels");
    let is_wanted = is_on(event.area(), level) || matches!(event, Event::OperatorAsked);
    if !is_wanted || event.is_limited() && !limit::take(event) {
        return false;
    }
    match WRITER.get() {
        Some((queue, config)) => queue.push(encoded(config, level, event, fields, message)),
        // With one call, so that lines of several threads never mix.
        None => {
            let line = encoded(&LogConfig::default(), level, event, fields, message);
            drop(io::stderr().lock().write_all(&line));
        }
    }
    true
}

/// A line as it is written.
fn encoded(
    config: &LogConfig,
    level: Level,
    event: Event,
    fields: Fields<'_>,
    message: fmt::Arguments<'_>,
) -> Vec<u8> {
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let line = Line { time, level, area: event.area(), event, message, fields };
    match config.to {
        Destination::Journald => line.journal(),
        _ => line.encode(config.format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_switches_the_area_off_is_written_all_the_same() {
        let before = levels().of(Area::Admin);
        set_level(Area::Admin, Level::Off);
        let said = |event, level| say(event, level, &[], format_args!("a test says this"));
        let written = [
            said(Event::OperatorAsked, Level::Info),
            said(Event::OperatorRefused, Level::Warn),
            said(Event::BansDamaged, Level::Error),
        ];
        set_level(Area::Admin, before);
        assert_eq!(written, [true, false, false]);
    }
}
