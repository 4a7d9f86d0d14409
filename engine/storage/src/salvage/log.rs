//! The files of a log, frame by frame.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Damage, Lost, failed};
use crate::log_files;
use crate::segment::{self, Frame, Rest};
use crate::store::StoreError;

/// Batches in the order of their numbers, and where the next is expected.
struct Batches {
    found: Vec<Bytes>,
    next: u64,
}

/// Reads the batches that can be read and have not been folded, in their order; `from` is the first of
/// them, if anything was. What a failure may have lost is no damage, and what stands behind it does not
/// count.
pub(crate) fn read(
    lane: &Path,
    from: Option<u64>,
    damage: &mut Vec<Damage>,
) -> Result<Vec<Bytes>, StoreError> {
    let folder = lane.join("log");
    let mut say = |path: &Path, what: String| {
        damage.push(Damage { path: path.into(), what, lost: Lost::Changes });
    };
    let files = files(&folder)?;
    if files.is_empty() {
        say(&folder, "there is no log".into());
    }
    let last = files.last().map(|(number, _)| *number);
    let newest = log_files::newest(&folder).map_err(|error| failed(&folder, &error))?;
    if let Some(number) = newest.filter(|_| newest > last) {
        say(&folder, format!("file {number:016x}.log is missing, the newest"));
    }
    // Before anything was folded a log begins with 1.
    let mut batches = Batches { found: Vec::new(), next: from.unwrap_or(1) };
    for (number, path) in files {
        let bytes = fs::read(&path).map_err(|error| failed(&path, &error))?;
        let header = segment::read_header(&bytes, number);
        if header.is_none() {
            say(&path, "its first page cannot be read".into());
        }
        let Some(key) = header.map(|(_, key)| key).or_else(|| segment::guess_key(&bytes)) else {
            continue;
        };
        if let Some((first, _)) = header {
            // A file is begun when everything before it is there.
            batches.skip_to(first, &mut |what| say(&path, what));
        }
        let found = segment::read(&bytes, key);
        let is_damaged = found.rest == Rest::Damaged;
        if is_damaged {
            let what = "a batch was written and cannot be read";
            say(&path, format!("byte {}: {what}", found.whole_bytes));
        }
        let behind = found.behind.into_iter().map(|frame| (frame, is_damaged));
        let frames = found.frames.into_iter().map(|frame| (frame, false)).chain(behind);
        for (Frame { number, durable, payload }, was_there) in frames {
            if number > batches.next && durable <= batches.next && !was_there {
                break;
            }
            batches.skip_to(number, &mut |what| say(&path, what));
            if batches.next == number {
                batches.found.push(payload);
                batches.next = number + 1;
            }
        }
    }
    Ok(batches.found)
}

impl Batches {
    /// Expects a batch, where one before it was expected.
    fn skip_to(&mut self, number: u64, say: &mut dyn FnMut(String)) {
        if number > self.next {
            let (next, last) = (self.next, number - 1);
            say(format!("batches {next} to {last} of the log are missing before it"));
            self.next = number;
        }
    }
}

/// The files of a log that may hold batches, oldest first.
fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(folder, &error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        let is_log = path.extension().is_some_and(|kind| kind == "log");
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.and_then(|stem| u64::from_str_radix(stem, 16).ok());
        found.extend(number.filter(|_| is_log).map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}
