//! The log in a folder of its own: files of frames that are written one after the other, and used again
//! when all that is in them has been folded.
//!
//! It must never pass over a batch that was known to survive. A batch may be missing only where a
//! failure can have lost it: nothing behind it says that it was durable.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use xxhash_rust::xxh3::xxh3_64;

use crate::segment::{self, Frame, PAGE_BYTES, Rest};
use crate::store::StoreError;

/// Files that wait to be used again, at most.
const SPARE_MAX: usize = 8;

/// The file that says which file of the log is the newest, or was: it is not waited for.
const NEWEST: &str = "newest";
/// It has two places for that, of which one may be torn.
const NEWEST_BYTES: u64 = 512;

/// A file that holds batches.
#[derive(Debug)]
struct LogFile {
    number: u64,
    path: PathBuf,
    bytes: u64,
    /// Above the number of each batch in it.
    end: u64,
}

/// The file that is written.
#[derive(Debug)]
struct Open {
    file: File,
    key: u64,
    at: usize,
    bytes: usize,
}

/// The files of a log.
#[derive(Debug)]
pub struct LogFiles {
    folder: PathBuf,
    /// Oldest first; the last is the one that is written, if any is.
    files: VecDeque<LogFile>,
    spare: Vec<PathBuf>,
    open: Option<Open>,
    next_file: u64,
    /// A file has this size, unless one batch needs more.
    file_bytes: usize,
    /// Everything below this number is known to survive.
    durable: u64,
    /// What is written next, encoded, behind what aligns it.
    buffer: Vec<u8>,
}

/// How a file is opened, as far as its file system can: past the page cache, since nothing is read again
/// but after a failure. It saves a copy and the memory.
const DIRECT: i32 = OFlags::DIRECT.bits() as i32;

impl LogFiles {
    /// Finds the files in a folder, which is made if it is not there. What is in them is read by
    /// [`Self::read`], which comes first. A new file gets `file_bytes`, or what one batch needs.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: PathBuf, file_bytes: usize) -> Result<Self, StoreError> {
        let failed = |error| failed(&folder, &error);
        fs::create_dir_all(&folder).map_err(failed)?;
        let (mut files, mut spare) = (Vec::new(), Vec::new());
        let mut next_file = 1;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let name = entry.file_name();
            if name == NEWEST {
                continue;
            }
            let Some((stem, kind)) = name.to_str().and_then(|name| name.split_once('.')) else {
                return Err(not_ours(&path));
            };
            let number = u64::from_str_radix(stem, 16).map_err(|_| not_ours(&path))?;
            next_file = next_file.max(number + 1);
            match kind {
                "log" => {
                    let bytes = entry.metadata().map_err(failed)?.len();
                    files.push(LogFile { number, path, bytes, end: 0 });
                }
                "spare" => spare.push(path),
                _ => return Err(not_ours(&path)),
            }
        }
        files.sort_unstable_by_key(|file| file.number);
        let (files, buffer) = (files.into(), Vec::new());
        Ok(Self { folder, files, spare, open: None, next_file, file_bytes, durable: 0, buffer })
    }

    /// True if there is no file that may hold batches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Begins a log in which the first batch has this number.
    ///
    /// # Errors
    /// There is no room, or the disk fails.
    pub fn begin(&mut self, first: u64) -> Result<(), StoreError> {
        self.begin_file(first, 0)
    }

    /// Reads the batches from the number `from` on, which surely were in the log up to there. Those
    /// from `below` on are left out, and written again by whoever says so. What is returned survives.
    ///
    /// *Cost*: all of them are in memory.
    ///
    /// # Errors
    /// The log is damaged, or cannot be read.
    pub fn read(&mut self, from: u64, below: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.open = None;
        let newest = newest(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        if newest > self.files.back().map(|file| file.number) {
            let what = format!(
                "{} is missing",
                file_path(&self.folder, newest.unwrap_or_default()).display()
            );
            return Err(StoreError::Damaged { what });
        }
        let mut batches = Vec::new();
        let mut expected = 0;
        let mut oldest = from;
        let mut unwritten = None;
        for file in &mut self.files {
            let bytes = fs::read(&file.path).map_err(|error| failed(&file.path, &error))?;
            let Some((first, key)) = segment::read_header(&bytes, file.number) else {
                return Err(damaged(&file.path, 0, "its first page cannot be read"));
            };
            if expected == 0 {
                oldest = first;
            }
            let found = segment::read(&bytes, key);
            let at = found.whole_bytes;
            if found.rest == Rest::Damaged {
                return Err(damaged(&file.path, at, "a batch was written and cannot be read"));
            }
            // What lies below has been folded.
            let mut next = first.min(from).max(expected);
            if first > next {
                // All before it was there when it was begun.
                missing(&file.path, next, first)?;
            }
            let is_empty = found.frames.is_empty();
            for Frame { number, durable, payload } in found.frames {
                if number > next {
                    missing(&file.path, next, durable)?;
                    continue;
                }
                // What comes again was written again after a failure.
                if number == next {
                    next += 1;
                    if (from..below).contains(&number) {
                        batches.push((number, payload));
                    }
                }
            }
            for Frame { durable, .. } in found.behind {
                missing(&file.path, next, durable)?;
            }
            // A new file is for what comes.
            let is_new = is_empty && found.rest == Rest::Unwritten && first == next;
            unwritten = is_new.then_some(key);
            expected = next;
            file.end = next;
        }
        let next = if self.files.is_empty() { from } else { expected };
        if next < from || batches.first().is_some_and(|(first, _)| *first != from) || oldest > from
        {
            let missing = next.min(from);
            let what = format!("batch {missing} is missing in {}", self.folder.display());
            return Err(StoreError::Damaged { what });
        }
        // What a process has left to the system may not have reached the disk.
        for file in &self.files {
            let synced = File::open(&file.path).and_then(|file| file.sync_all());
            synced.map_err(|error| failed(&file.path, &error))?;
        }
        self.durable = next.min(below);
        if let Some(key) = unwritten.filter(|_| below == u64::MAX)
            && let Some(LogFile { path, bytes, .. }) = self.files.back()
        {
            let file = open_direct(path).map_err(|error| failed(path, &error))?;
            self.open = Some(Open { file, key, at: PAGE_BYTES, bytes: *bytes as usize });
        }
        Ok(batches)
    }

    /// Appends a batch; with `sync`, it and all before it survive once this returns.
    ///
    /// # Errors
    /// There is no room, or the disk fails; then the log is to be opened and read again.
    pub fn append(&mut self, number: u64, batch: &Bytes, sync: bool) -> Result<(), StoreError> {
        let bytes = segment::frame_bytes(batch.len());
        if self.open.as_ref().is_none_or(|open| open.at + bytes > open.bytes) {
            self.begin_file(number, bytes)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let frame = Frame { number, durable: self.durable, payload: batch.clone() };
        let begin = align(&mut self.buffer, bytes);
        segment::put(&mut self.buffer, open.key, open.at, &frame);
        let written = open.file.write_all_at(&self.buffer[begin..], open.at as u64);
        open.at += bytes;
        if let Some(file) = self.files.back_mut() {
            written.map_err(|error| failed(&file.path, &error))?;
            file.end = number + 1;
        }
        if self.buffer.capacity() > self.file_bytes {
            self.buffer = Vec::new();
        }
        if sync { self.sync() } else { Ok(()) }
    }

    /// Makes everything that was appended survive.
    ///
    /// # Errors
    /// The disk fails; then the log is to be opened and read again.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if let (Some(open), Some(file)) = (&self.open, self.files.back()) {
            open.file.sync_data().map_err(|error| failed(&file.path, &error))?;
            self.durable = file.end;
        }
        Ok(())
    }

    /// True if a file holds nothing but batches below a number.
    #[must_use]
    pub fn has_useless(&self, below: u64) -> bool {
        self.files.len() > 1 && self.files.front().is_some_and(|file| file.end <= below)
    }

    /// Takes the files that hold nothing but batches below a number out of the log.
    ///
    /// # Errors
    /// The disk fails; then the log is to be opened and read again.
    pub fn release(&mut self, below: u64) -> Result<(), StoreError> {
        while self.has_useless(below)
            && let Some(file) = self.files.pop_front()
        {
            self.retire(file)?;
        }
        Ok(())
    }

    /// Goes on in a file of the usual size if the newest is longer, which is so if a batch had no room in
    /// such a file, and holds nothing but batches below a number.
    ///
    /// # Errors
    /// There is no room, or the disk fails; then the log is to be opened and read again.
    pub fn shorten(&mut self, below: u64) -> Result<(), StoreError> {
        let long = |file: &&LogFile| file.bytes > self.file_bytes as u64 && file.end <= below;
        if let Some(end) = self.files.back().filter(long).map(|file| file.end) {
            self.begin_file(end, 0)?;
        }
        self.release(below)
    }

    /// Removes the files that wait to be used again.
    ///
    /// # Errors
    /// The disk fails.
    pub fn remove_spare(&mut self) -> Result<(), StoreError> {
        while let Some(path) = self.spare.pop() {
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
        Ok(())
    }

    /// A file is to be used again, or removed.
    fn retire(&mut self, file: LogFile) -> Result<(), StoreError> {
        let result = if file.bytes == self.file_bytes as u64 && self.spare.len() < SPARE_MAX {
            let spare = file.path.with_extension("spare");
            let renamed = fs::rename(&file.path, &spare);
            self.spare.push(spare);
            renamed
        } else {
            fs::remove_file(&file.path)
        };
        result.map_err(|error| failed(&file.path, &error))
    }

    /// Goes on in another file, which has room for so many bytes.
    fn begin_file(&mut self, first: u64, bytes: usize) -> Result<(), StoreError> {
        // Whatever is found in a file, all before it is there.
        self.sync()?;
        self.open = None;
        let number = self.next_file;
        let path = file_path(&self.folder, number);
        let fault = |error: io::Error| failed(&path, &error);
        let bytes = self.file_bytes.max(PAGE_BYTES + bytes);
        let spare = if bytes == self.file_bytes { self.spare.pop() } else { None };
        let old = spare.unwrap_or_else(|| path.with_extension("spare"));
        let file = open_direct(&old).map_err(fault)?;
        let allocated = fallocate(&file, FallocateFlags::empty(), 0, bytes as u64);
        if let Err(error) = allocated
            && error != rustix::io::Errno::OPNOTSUPP
        {
            return Err(fault(error.into()));
        }
        let key = RandomState::new().build_hasher().finish();
        let begin = align(&mut self.buffer, PAGE_BYTES);
        segment::put_header(&mut self.buffer, number, key, first);
        file.write_all_at(&self.buffer[begin..], 0).map_err(fault)?;
        // The name comes last: a file of the log has a first page.
        file.sync_all().map_err(fault)?;
        fs::rename(&old, &path).map_err(fault)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(fault)?;
        note_newest(&self.folder, number).map_err(fault)?;
        self.next_file += 1;
        self.files.push_back(LogFile { number, path, bytes: bytes as u64, end: first });
        self.open = Some(Open { file, key, at: PAGE_BYTES, bytes });
        Ok(())
    }
}

fn file_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.log"))
}

/// Notes that a file of the log was begun. It is there for good by then, so whatever a failure leaves of
/// this names a file that is there.
fn note_newest(folder: &Path, number: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).open(folder.join(NEWEST))?;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let sum = xxh3_64(&bytes[..8]);
    bytes[8..].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&bytes, number % 2 * NEWEST_BYTES)
}

/// The newest file that a log had, as far as it has been noted.
pub(crate) fn newest(folder: &Path) -> io::Result<Option<u64>> {
    let bytes = match fs::read(folder.join(NEWEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let noted = bytes.chunks(NEWEST_BYTES as usize).filter_map(|place| {
        let (number, rest) = place.split_first_chunk::<8>()?;
        (*rest.first_chunk()? == xxh3_64(number).to_le_bytes()).then(|| u64::from_le_bytes(*number))
    });
    Ok(noted.max())
}

/// What the files of a log take of their disk, those that wait to be used again included; what cannot
/// be read counts for nothing.
pub(crate) fn taken_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Opens a file that will be written in whole pages, and makes it if it is not there.
fn open_direct(path: &Path) -> io::Result<File> {
    let options = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        options
    };
    let direct = options().custom_flags(DIRECT).open(path);
    match direct {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => options().open(path),
        direct => direct,
    }
}

/// Empties a buffer but for so many bytes that what comes then begins on a page of memory, and says how
/// many. It gets room for `bytes` of it, so that it does not move.
fn align(buffer: &mut Vec<u8>, bytes: usize) -> usize {
    buffer.clear();
    buffer.reserve(PAGE_BYTES + bytes);
    let begin = buffer.as_ptr().addr().next_multiple_of(PAGE_BYTES) - buffer.as_ptr().addr();
    buffer.resize(begin, 0);
    begin
}

/// Batch `next` is not there, and behind it stands one that says what was durable.
fn missing(path: &Path, next: u64, durable: u64) -> Result<(), StoreError> {
    if durable <= next {
        return Ok(());
    }
    let what =
        format!("batch {next} of the log is missing; {} was written after it", path.display());
    Err(StoreError::Damaged { what })
}

fn damaged(path: &Path, at: usize, why: &str) -> StoreError {
    StoreError::Damaged { what: format!("{} cannot be read at byte {at}: {why}", path.display()) }
}

fn not_ours(path: &Path) -> StoreError {
    let what =
        format!("{} is no file of a log, by its name; remove what is not Petrel's", path.display());
    StoreError::Damaged { what }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    let why = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { why },
        _ => StoreError::Failed { why },
    }
}

#[cfg(test)]
mod tests;
