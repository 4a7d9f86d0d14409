//! Looks at fjall's journals before fjall does.
//!
//! fjall cuts a journal at the first entry that it cannot read, and so a flipped bit would take every
//! batch behind it along without a word. This module reads the journals first and tells the end of a
//! journal that was torn by a failure, which was never synchronised and is cut off here, from damage
//! in the middle, which must be said. It must never change anything but a torn end.
//!
//! A batch is a start (1, items u32, number u64), its items (2, kind, compression, keyspace u64, key
//! u16, value u32, stored u32, key, value; or 4, keyspace u64 for a keyspace that was cleared), and
//! an end (3, XXH3 of the items u64, `FJL\x03`). All numbers are little-endian. Behind the last batch
//! there are zeros or nothing.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::store::StoreError;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

const START_BYTES: usize = 13;
const ITEM_HEAD_BYTES: usize = 21;
const CLEAR_BYTES: usize = 9;
const END_BYTES: usize = 13;

/// Numbers grow with each batch, and a journal has no room for more batches than that.
const DISTANCE_MAX: u64 = 1 << 21;

/// What a disk writes whole or not at all, at least.
const SECTOR_BYTES: usize = 512;

/// What is in one journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// The file.
    pub path: PathBuf,
    /// Whole batches from its beginning on.
    pub batches: u64,
    /// Where the last of them ends.
    pub whole_bytes: u64,
    /// What comes then.
    pub rest: Rest,
}

/// What comes behind the whole batches of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Zeros, or nothing.
    Empty,
    /// The beginning of a batch whose end a failure has prevented.
    Torn,
    /// A batch that was whole and cannot be read.
    Damaged {
        /// So many whole batches stand behind it.
        followed_by: u64,
    },
}

/// Looks at the journals of a folder that no process has open, and cuts off what was torn.
///
/// # Errors
/// One is damaged or missing, or cannot be read.
pub fn examine(folder: &Path) -> Result<(), StoreError> {
    let paths = journals(folder)?;
    let newest = paths.len().wrapping_sub(1);
    for (at, path) in paths.iter().enumerate() {
        let journal = read(path)?;
        let name = path.display();
        let offset = journal.whole_bytes;
        match journal.rest {
            Rest::Empty => {}
            Rest::Torn if at == newest => cut(path, offset).map_err(|e| failed(path, &e))?,
            // All of it was synchronised before the next one was begun.
            Rest::Torn => {
                let what = format!("{name} ends at byte {offset}, and a newer journal exists");
                return Err(StoreError::Damaged { what });
            }
            Rest::Damaged { followed_by } => {
                let what = format!(
                    "{name} cannot be read at byte {offset}; behind it, {followed_by} whole \
                     batches follow"
                );
                return Err(StoreError::Damaged { what });
            }
        }
    }
    Ok(())
}

/// The journals of a folder, oldest first.
///
/// # Errors
/// One is missing, or the folder cannot be read.
pub fn journals(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let numbers = numbered(folder)?;
    let missing = match numbers.first() {
        None => Some(0),
        Some(&(first, _)) => (first..).zip(&numbers).find(|(n, (m, _))| n != m).map(|(n, _)| n),
    };
    if let Some(number) = missing {
        let what = format!("journal {number} is missing in {}", folder.display());
        return Err(StoreError::Damaged { what });
    }
    Ok(numbers.into_iter().map(|(_, path)| path).collect())
}

/// The journals that are in a folder, by number.
pub(crate) fn numbered(folder: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, &error))? {
        let path = entry.map_err(|error| failed(folder, &error))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jnl")) {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let number = number.ok_or_else(|| StoreError::Damaged {
                what: format!("{} is no journal, by its name", path.display()),
            })?;
            numbers.push((number, path));
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads one journal.
///
/// *Cost*: all of it is in memory meanwhile; journals have little more than 64 MiB.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Journal, StoreError> {
    Ok(judge_all(path, &used(path)?))
}

/// The bytes of a journal.
fn used(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = fs::read(path).map_err(|error| failed(path, &error))?;
    // What is reserved for the future counts as little as what is missing.
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(bytes)
}

/// What is shown of each change in a journal: keyspace, key, number of the batch, and value, if it has
/// one.
pub(crate) type Changes<'a> =
    dyn FnMut(u64, &[u8], u64, Option<&[u8]>) -> Result<(), StoreError> + 'a;

/// Shows every change of every whole batch, also of those behind damage.
pub(crate) fn salvage(path: &Path, show: &mut Changes<'_>) -> Result<Journal, StoreError> {
    let bytes = used(path)?;
    let (mut at, mut end, mut last_number) = (0, 0, None);
    while let Some(next) = bytes[at..].iter().position(|&byte| byte == START) {
        at += next;
        match batch(&bytes[at..]) {
            // Directly behind another it is one, even if its number is damaged.
            Ok((length, number)) if at == end || may_follow(last_number, number) => {
                changes(&bytes[at..at + length], number, show)?;
                last_number = last_number.max(Some(number));
                at += length;
                end = at;
            }
            _ => at += 1,
        }
    }
    Ok(judge_all(path, &bytes))
}

/// Shows the changes of a whole batch.
fn changes(batch: &[u8], number: u64, show: &mut Changes<'_>) -> Result<(), StoreError> {
    let mut at = START_BYTES;
    for _ in 0..u32_at(batch, 1) {
        let Ok(length) = item(&batch[at..]) else { return Ok(()) };
        let item = &batch[at..at + length];
        if item[0] == ITEM {
            let (key, value) =
                item[ITEM_HEAD_BYTES..].split_at(usize::from(u16::from_le_bytes(array(item, 11))));
            let keyspace = u64::from_le_bytes(array(item, 3));
            show(keyspace, key, number, (item[1] == 0).then_some(value))?;
        }
        at += length;
    }
    Ok(())
}

fn judge_all(path: &Path, bytes: &[u8]) -> Journal {
    let used = bytes.len();
    let (mut at, mut batches, mut last_number) = (0, 0, None);
    let rest = loop {
        match batch(&bytes[at..]) {
            // The checksum of a batch does not cover its number.
            Ok((_, number)) if !may_follow(last_number, number) => {
                break Rest::Damaged { followed_by: whole_batches(&bytes[at + 1..], last_number) };
            }
            Ok((length, number)) => {
                at += length;
                batches += 1;
                last_number = Some(number);
            }
            Err(_) if at == used => break Rest::Empty,
            Err(broken) => break judge(bytes, at, broken, last_number),
        }
    };
    Journal { path: path.into(), batches, whole_bytes: at as u64, rest }
}

/// Why there is no whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// It goes on where nothing is.
    Short,
    /// It is none.
    Wrong,
}

/// The length and the number of the whole batch at the beginning of `bytes`.
fn batch(bytes: &[u8]) -> Result<(usize, u64), Broken> {
    let head = bytes.get(..START_BYTES).ok_or(Broken::Short)?;
    if head[0] != START {
        return Err(Broken::Wrong);
    }
    let items = u32_at(head, 1);
    let mut at = START_BYTES;
    for _ in 0..items {
        at += item(&bytes[at..])?;
        if at > bytes.len() {
            return Err(Broken::Short);
        }
    }
    let end = bytes.get(at..at + END_BYTES).ok_or(Broken::Short)?;
    if end[0] != END || &end[9..] != TRAILER {
        return Err(Broken::Wrong);
    }
    let mut hasher = Xxh3::new();
    hasher.update(&bytes[START_BYTES..at]);
    if hasher.digest() != u64::from_le_bytes(array(end, 1)) {
        return Err(Broken::Wrong);
    }
    Ok((at + END_BYTES, u64::from_le_bytes(array(head, 5))))
}

/// The length that the item at the beginning of `bytes` says it has.
fn item(bytes: &[u8]) -> Result<usize, Broken> {
    match bytes.first() {
        None => Err(Broken::Short),
        Some(&CLEAR) => Ok(CLEAR_BYTES),
        Some(&ITEM) => {
            let head = bytes.get(..ITEM_HEAD_BYTES).ok_or(Broken::Short)?;
            let (kind, compression) = (head[1], head[2]);
            // A value, and two ways to remove one; nothing is compressed.
            if kind > 2 || compression != 0 {
                return Err(Broken::Wrong);
            }
            let key_bytes = usize::from(u16::from_le_bytes(array(head, 11)));
            let (value_bytes, stored_bytes) = (u32_at(head, 13), u32_at(head, 17));
            if value_bytes != stored_bytes {
                return Err(Broken::Wrong);
            }
            Ok(ITEM_HEAD_BYTES + key_bytes + stored_bytes as usize)
        }
        Some(_) => Err(Broken::Wrong),
    }
}

/// Says what the batch at `at` is, which cannot be read. Nothing but zeros stands behind `bytes`.
fn judge(bytes: &[u8], at: usize, broken: Broken, last_number: Option<u64>) -> Rest {
    let followed_by = whole_batches(&bytes[at + 1..], last_number);
    // A failure keeps a beginning of what was written, or any of its sectors.
    let ends_early = broken == Broken::Short && !bytes.ends_with(TRAILER);
    if followed_by == 0 && (ends_early || misses_a_sector(bytes, at)) {
        Rest::Torn
    } else {
        Rest::Damaged { followed_by }
    }
}

/// True if a batch of this number may stand somewhere behind another in a journal.
fn may_follow(last: Option<u64>, number: u64) -> bool {
    last.is_none_or(|last| number > last && number - last <= DISTANCE_MAX)
}

/// How many whole batches stand somewhere in `bytes` that may come behind the batch of this number.
/// What a client has sent may look like a batch, but hardly knows a number.
fn whole_batches(bytes: &[u8], last_number: Option<u64>) -> u64 {
    let mut found = 0;
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|&byte| byte == START) {
        at += next;
        match batch(&bytes[at..]) {
            Ok((length, number)) => {
                found += u64::from(may_follow(last_number, number));
                at += length;
            }
            Err(_) => at += 1,
        }
    }
    found
}

/// True if a sector from `from` on may never have been written. A sector that holds the end of what
/// is whole may have been written before.
fn misses_a_sector(bytes: &[u8], from: usize) -> bool {
    let first_bytes = SECTOR_BYTES - from % SECTOR_BYTES;
    let (first, others) = bytes[from..].split_at(first_bytes.min(bytes.len() - from));
    // A single byte may be a zero by a flipped bit.
    let is_missing = |sector: &[u8]| sector.len() > 1 && sector.iter().all(|&byte| byte == 0);
    is_missing(first) || others.chunks(SECTOR_BYTES).any(is_missing)
}

fn cut(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { why: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests;
