//! Reads the files of a store without fjall, as far as they can be read, and says what cannot.
//!
//! fjall opens a folder whole or not at all. Here each file is read by itself: blocks of tables, blobs,
//! and batches of journals have checksums of their own, and each entry has a number by which the newest
//! of a key is known, so neither manifests nor levels are needed to put the rest together. It must never
//! change anything.

pub(crate) mod log;
mod manifest;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use hashbrown::HashMap;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::disk::{MARKER, VERSION, restore_key};
use crate::journal;
use crate::store::{Space, StoreError};

/// What the file says that says which version of fjall made a folder.
const FJALL_VERSION: &[u8] = b"FJL\x03";
/// What stands before key and value of a blob.
const BLOB_HEAD_BYTES: usize = 38;

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which file or folder.
    pub path: PathBuf,
    /// What is wrong, and where.
    pub what: String,
    /// What may have been lost by it.
    pub lost: Lost,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// What may have been lost by a damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Nothing: it can be made again.
    Nothing,
    /// Entries of this space, between these keys where they are known.
    Keys(Space, Option<Bytes>, Option<Bytes>),
    /// The newest changes of anything.
    Changes,
}

/// One state of an entry.
struct Version {
    key: Bytes,
    /// The newest has the highest.
    number: u64,
    value: Value,
}

enum Value {
    Here(Bytes),
    Removed,
    /// In a file of blobs.
    Blob {
        file: u64,
        at: u64,
        bytes: u32,
    },
}

/// The files of a store.
pub(crate) struct Salvage {
    folder: PathBuf,
    /// The highest number of each key, by a hash of space and key.
    newest: HashMap<u128, u64>,
    /// What is damaged, apart from single blobs.
    pub(crate) damage: Vec<Damage>,
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { why: format!("{}: {error}", path.display()) }
}

fn hash(space: Space, key: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&[space as u8]);
    hasher.update(key);
    hasher.digest128()
}

/// The folder of a space; fjall counts them in the order in which they were made, from 1.
fn keyspace(folder: &Path, space: Space) -> PathBuf {
    folder.join("keyspaces").join((space as u64 + 1).to_string())
}

impl Salvage {
    /// Reads all files once.
    ///
    /// *Cost*: about 32 bytes of memory for each key, and one file.
    ///
    /// # Errors
    /// The disk fails; what is damaged is no error.
    pub(crate) fn survey(folder: &Path) -> Result<Self, StoreError> {
        let mut newest: HashMap<u128, u64> = HashMap::new();
        let mut damage = Vec::new();
        versions(folder, &mut damage, &mut |space, version| {
            let highest = newest.entry(hash(space, &version.key)).or_default();
            *highest = version.number.max(*highest);
            Ok(())
        })?;
        frame(folder, &mut damage)?;
        Ok(Self { folder: folder.into(), newest, damage })
    }

    /// Shows the newest state of each entry that can be read, in no order. It can be called once.
    ///
    /// # Errors
    /// The disk fails, or `show` says so.
    pub(crate) fn each(
        &mut self,
        show: &mut dyn FnMut(Space, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut blobs = Blobs { folder: self.folder.clone(), open: None };
        let newest = &mut self.newest;
        // The same key may be found a second time with a blob that can be read.
        let mut unread: BTreeMap<(Space, Bytes), Damage> = BTreeMap::new();
        versions(&self.folder, &mut Vec::new(), &mut |space, version| {
            let hash = hash(space, &version.key);
            if newest.get(&hash) != Some(&version.number) {
                return Ok(());
            }
            let is_removed = matches!(version.value, Value::Removed);
            let value = match version.value {
                Value::Removed => Bytes::new(),
                Value::Here(value) => value,
                Value::Blob { file, at, bytes } => {
                    match blobs.read(space, &version.key, file, at, bytes) {
                        Ok(value) => value,
                        Err((path, what)) => {
                            let key = version.key;
                            let lost = Lost::Keys(space, Some(key.clone()), Some(key.clone()));
                            unread.insert((space, key), Damage { path, what, lost });
                            return Ok(());
                        }
                    }
                }
            };
            unread.remove(&(space, version.key.clone()));
            newest.remove(&hash);
            if is_removed {
                return Ok(());
            }
            let (key, value) = restore_key(version.key, value)?;
            show(space, key, value)
        })?;
        self.damage.extend(unread.into_values());
        Ok(())
    }
}

/// Looks at what can be made again: what says that there is a store, and the list of its spaces.
fn frame(folder: &Path, damage: &mut Vec<Damage>) -> Result<(), StoreError> {
    let mut say = |path: &Path, what: &str| {
        let what = what.to_owned();
        damage.push(Damage { path: path.into(), what, lost: Lost::Nothing });
    };
    let marker = folder.join(MARKER);
    if !marker.try_exists().map_err(|error| failed(&marker, &error))? {
        say(&marker, "the file is missing");
    }
    let version = folder.join(VERSION);
    match fs::read(&version) {
        Ok(bytes) if bytes == FJALL_VERSION => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(&version, &error));
        }
        _ => say(&version, "it does not say that fjall 3 has made this"),
    }
    let list = folder.join("keyspaces").join("0");
    match manifest::read(&list) {
        Err(what) => say(&list, &what),
        Ok(listed) => {
            for (table, sum) in listed.tables {
                let path = list.join("tables").join(table.to_string());
                if fs::read(&path).map(|bytes| xxh3_128(&bytes)).ok() != sum {
                    say(&path, "it is missing, or has another checksum than was written");
                }
            }
        }
    }
    Ok(())
}

/// Shows all states of all entries that can be read.
fn versions(
    folder: &Path,
    damage: &mut Vec<Damage>,
    show: &mut dyn FnMut(Space, Version) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for space in Space::ALL {
        tables(folder, space, damage, &mut |version| show(space, version))?;
    }
    let journals = journal::numbered(folder)?;
    for pair in journals.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1) {
        let what = format!("journal {} is missing", pair[0].0 + 1);
        damage.push(Damage { path: folder.into(), what, lost: Lost::Changes });
    }
    if journals.is_empty() {
        let what = "there is no journal".to_owned();
        damage.push(Damage { path: folder.into(), what, lost: Lost::Changes });
    }
    let newest = journals.len().wrapping_sub(1);
    for (at, (_, path)) in journals.iter().enumerate() {
        let found = journal::salvage(path, &mut |keyspace, key, number, value| {
            let space = keyspace.checked_sub(1).and_then(|space| u8::try_from(space).ok());
            let Some(space) = space.and_then(Space::from_u8) else { return Ok(()) };
            let value =
                value.map_or(Value::Removed, |value| Value::Here(Bytes::copy_from_slice(value)));
            show(space, Version { key: Bytes::copy_from_slice(key), number, value })
        })?;
        let what = match found.rest {
            journal::Rest::Empty => continue,
            // What a failure has torn was never acknowledged.
            journal::Rest::Torn if at == newest => continue,
            journal::Rest::Torn => {
                format!("it ends at byte {}, and a newer journal exists", found.whole_bytes)
            }
            journal::Rest::Damaged { followed_by } => format!(
                "it cannot be read at byte {}; {followed_by} whole batches behind it can",
                found.whole_bytes
            ),
        };
        damage.push(Damage { path: path.clone(), what, lost: Lost::Changes });
    }
    Ok(())
}

/// Shows what the tables of a space hold.
fn tables(
    folder: &Path,
    space: Space,
    damage: &mut Vec<Damage>,
    show: &mut dyn FnMut(Version) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let keyspace = keyspace(folder, space);
    let everything = Lost::Keys(space, None, None);
    let listed = match manifest::read(&keyspace) {
        Ok(listed) => listed,
        Err(what) => {
            // Every table that is there counts. One that is missing is not missed.
            damage.push(Damage { path: keyspace.clone(), what, lost: everything.clone() });
            manifest::Listed {
                tables: numbers(&keyspace.join("tables"))?,
                blobs: numbers(&keyspace.join("blobs"))?,
            }
        }
    };
    for (table, sum) in listed.tables {
        let path = keyspace.join("tables").join(table.to_string());
        let Some(bytes) = contents(&path, &everything, damage)? else { continue };
        let is_whole = sum.is_none_or(|sum| xxh3_128(&bytes) == sum);
        let gaps = table::read(&bytes, show)?;
        if gaps.is_empty() && !is_whole {
            let what = "it has another checksum than was written; all of its entries can be read";
            damage.push(Damage { path: path.clone(), what: what.into(), lost: Lost::Nothing });
        }
        for gap in gaps {
            let what = format!("bytes {} to {} cannot be read", gap.from, gap.upto);
            let lost = Lost::Keys(space, gap.behind, gap.before);
            damage.push(Damage { path: path.clone(), what, lost });
        }
    }
    for (blob, sum) in listed.blobs {
        let path = keyspace.join("blobs").join(blob.to_string());
        // Which entries are in the file is known by the tables.
        let Some(bytes) = contents(&path, &Lost::Nothing, damage)? else { continue };
        if sum.is_some_and(|sum| xxh3_128(&bytes) != sum) {
            let what = "it has another checksum than was written";
            damage.push(Damage { path, what: what.into(), lost: Lost::Nothing });
        }
    }
    Ok(())
}

/// The contents of a file that must be there.
fn contents(
    path: &Path,
    lost: &Lost,
    damage: &mut Vec<Damage>,
) -> Result<Option<Bytes>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = "the file is missing".to_owned();
            damage.push(Damage { path: path.into(), what, lost: lost.clone() });
            Ok(None)
        }
        Err(error) => Err(failed(path, &error)),
    }
}

/// The files in a folder whose names are numbers.
fn numbers(folder: &Path) -> Result<Vec<(u64, Option<u128>)>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(folder, &error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed(folder, &error))?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()).map(|number| (number, None)));
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads blobs; the last file stays open.
struct Blobs {
    folder: PathBuf,
    open: Option<(PathBuf, File)>,
}

impl Blobs {
    /// Reads the blob of a key. An error says of which file what cannot be read.
    fn read(
        &mut self,
        space: Space,
        key: &[u8],
        file: u64,
        at: u64,
        bytes: u32,
    ) -> Result<Bytes, (PathBuf, String)> {
        let path = keyspace(&self.folder, space).join("blobs").join(file.to_string());
        if self.open.as_ref().is_none_or(|(open, _)| *open != path) {
            self.open = File::open(&path).ok().map(|file| (path.clone(), file));
        }
        let Some((_, file)) = &self.open else { return Err((path, "the file is missing".into())) };
        blob(file, key, at, bytes as usize)
            .ok_or_else(|| (path, format!("the blob at byte {at} cannot be read")))
    }
}

/// Reads a blob: `BLOB`, XXH3 of key and value u128, number u64, length of the key u16, lengths of the
/// value u32 twice, key, value; all little-endian.
fn blob(file: &File, key: &[u8], at: u64, bytes: usize) -> Option<Bytes> {
    let left = file.metadata().ok()?.len().checked_sub(at)?;
    let whole = BLOB_HEAD_BYTES + key.len() + bytes;
    let mut found = if whole as u64 <= left { vec![0; whole] } else { return None };
    file.read_exact_at(&mut found, at).ok()?;
    let mut rest = Bytes::from(found);
    let is_blob = rest.starts_with(b"BLOB");
    rest.advance(4);
    let sum = rest.get_u128_le();
    rest.advance(BLOB_HEAD_BYTES - 20);
    let is_it = is_blob && rest.starts_with(key) && xxh3_128(&rest) == sum;
    is_it.then(|| rest.slice(key.len()..))
}
