//! The manifest of a backup: lines of text that say what belongs to it, the last of them a checksum.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};

use xxhash_rust::xxh3::xxh3_64;

use super::{BackupError, chunks};
use crate::store::Space;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When it was taken, in milliseconds since 1970.
    pub taken_at_ms: u64,
    /// The process whose data it is.
    pub epoch: u32,
    /// By lane.
    pub lanes: Vec<LaneSummary>,
}

/// What a backup holds of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSummary {
    /// Length of its file.
    pub bytes: u64,
    /// Entries, by [`Space`].
    pub entries: [u64; Space::ALL.len()],
    /// Of the file.
    pub checksum: u64,
}

impl Summary {
    /// Entries of a space in all lanes.
    #[must_use]
    pub fn entries(&self, space: Space) -> u64 {
        self.lanes.iter().map(|lane| lane.entries[space as usize]).sum()
    }

    /// The text of the manifest.
    pub(super) fn to_text(&self) -> String {
        let Self { taken_at_ms, epoch, lanes } = self;
        let mut text = format!(
            "petrel backup {}\ntaken_at_ms {taken_at_ms}\nepoch {epoch}\nlanes {}\n",
            chunks::FORMAT,
            lanes.len()
        );
        for (number, lane) in lanes.iter().enumerate() {
            let LaneSummary { bytes, entries, checksum } = lane;
            // A String takes everything.
            let _ = write!(text, "lane {number} {bytes} {checksum:016x}");
            for count in entries {
                let _ = write!(text, " {count}");
            }
            text.push('\n');
        }
        let _ = writeln!(text, "checksum {:016x}", xxh3_64(text.as_bytes()));
        text
    }

    /// Reads the text of a manifest.
    pub(super) fn from_text(path: &Path, text: &str) -> Result<Self, BackupError> {
        let damaged = |what: &str| BackupError::Damaged(format!("{}: {what}", path.display()));
        let (body, sum) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once("checksum "))
            .ok_or_else(|| damaged("it does not end with a checksum"))?;
        if sum != format!("{:016x}", xxh3_64(body.as_bytes())) {
            return Err(damaged("it has another checksum than was written"));
        }
        let mut lines = body.lines();
        let mut number = |name: &str| -> Option<u64> {
            lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()
        };
        let incomplete = || damaged("it is incomplete");
        let format = number("petrel backup").ok_or_else(incomplete)?;
        if format != u64::from(chunks::FORMAT) {
            return Err(BackupError::Refused(format!(
                "{} has format {format}, and this version reads format {} only; use the version \
                 that wrote it",
                path.display(),
                chunks::FORMAT
            )));
        }
        let taken_at_ms = number("taken_at_ms").ok_or_else(incomplete)?;
        let epoch = number("epoch").and_then(|epoch| epoch.try_into().ok());
        let epoch = epoch.ok_or_else(incomplete)?;
        let count = number("lanes").ok_or_else(incomplete)?;
        let lanes: Option<Vec<_>> = (0..).zip(lines).map(|(at, line)| lane(at, line)).collect();
        let lanes = lanes.filter(|lanes| lanes.len() as u64 == count && count > 0);
        Ok(Self { taken_at_ms, epoch, lanes: lanes.ok_or_else(incomplete)? })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sessions, {} subscriptions, {} retained messages, {} pages of waiting messages; \
             {} bytes in {} lanes",
            self.entries(Space::Session),
            self.entries(Space::Subscription),
            self.entries(Space::Retained),
            self.entries(Space::Queue),
            self.lanes.iter().map(|lane| lane.bytes).sum::<u64>(),
            self.lanes.len()
        )
    }
}

fn lane(at: u64, line: &str) -> Option<LaneSummary> {
    fn next<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
        words.next()?.parse().ok()
    }
    let mut words = line.strip_prefix("lane ")?.split_whitespace();
    if next(&mut words) != Some(at) {
        return None;
    }
    let bytes = next(&mut words)?;
    let checksum = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut entries = [0; Space::ALL.len()];
    for count in &mut entries {
        *count = next(&mut words)?;
    }
    Some(LaneSummary { bytes, entries, checksum })
}
