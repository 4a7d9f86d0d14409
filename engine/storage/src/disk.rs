//! A store on a disk: one fjall database in one folder, a keyspace for each space.
//!
//! fjall journals what is written and sorts it later; this module says what is synchronised when, and
//! turns what fjall reports into a [`StoreError`]. It must never skip what cannot be read, and never
//! open a folder whose journal is damaged, since fjall would cut it there; see [`crate::journal`].

mod fault;
mod key;
mod manifest;
mod maps;
mod shrink;
mod sweep;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fjall::config::FilterPolicy;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
};

use self::fault::{Place, explain};
pub(crate) use self::key::restore as restore_key;
pub(crate) use self::manifest::examine_keyspace;
use self::maps::DiskMaps;
pub use self::shrink::LIMIT_BYTES_MIN;
use self::shrink::wait_until_written;
pub use self::sweep::{Alive, Held, Sweep, WallClock};
use crate::journal;
use crate::log_files::LogFiles;
use crate::store::{Batch, Maps, Space, Store, StoreError, Usage, Visitor};

/// Says that all spaces were made; what is missing afterwards is damage.
pub(crate) const MARKER: &str = "petrel";
/// The folder of the log.
const LOG: &str = "log";
/// fjall's own file that one process holds.
const LOCK: &str = "lock";
/// fjall's own file that says that there is a database.
pub(crate) const VERSION: &str = "version";

/// What a file of the log has, unless it is asked for otherwise.
const LOG_FILE_BYTES: usize = 16 << 20;

/// Sealed memtables of a space before a writer waits. fjall waits at 4, for 100 ms and for ever if its
/// worker has failed.
const SEALED_MAX: usize = 3;
/// Runs in the first level of a space before a writer waits. fjall waits at 30.
const RUNS_MAX: usize = 24;

/// How a [`DiskStore`] uses memory and disk. The sizes of memtables and pages hold for a folder from
/// its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Blocks of tables that are kept in memory.
    pub cache_bytes: u64,
    /// Files of the log have this size.
    pub log_file_bytes: usize,
    /// What a space may have in memory before it goes into a table.
    pub memtable_bytes: u64,
    /// What all journals may have; at least 64 MiB. To open a folder takes about a second for each
    /// 128 MiB of them.
    pub journal_bytes_max: u64,
    /// Threads that write and merge tables.
    pub worker_threads: usize,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            log_file_bytes: LOG_FILE_BYTES,
            memtable_bytes: 16 << 20,
            journal_bytes_max: 128 << 20,
            worker_threads: 1,
        }
    }
}

/// An open database.
struct Open {
    /// By [`Space`].
    keyspaces: [Keyspace; Space::ALL.len()],
    database: Database,
    log: LogFiles,
}

/// Ordered maps in a folder.
pub struct DiskStore {
    path: PathBuf,
    options: DiskOptions,
    sweep: Option<Sweep>,
    /// `None` after a failure, until the store has been opened again.
    open: Option<Open>,
    /// A synchronisation may have failed: what the journals are said to have may be in memory only.
    doubtful: bool,
    /// By [`Space`]: it may have been written since all its tables were merged.
    unmerged: [bool; Space::ALL.len()],
    /// Batches below this number may go from the log, if that has been said since it was opened.
    released: Option<u64>,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in a folder, and makes it if there is none.
    ///
    /// # Errors
    /// Another process has it, it is damaged, or the disk fails.
    pub fn open(path: impl Into<PathBuf>, options: DiskOptions) -> Result<Self, StoreError> {
        Self::open_and_sweep(path, options, None)
    }

    /// The same, and drops what nobody can want any more while tables are merged.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_and_sweep(
        path: impl Into<PathBuf>,
        options: DiskOptions,
        sweep: Option<Sweep>,
    ) -> Result<Self, StoreError> {
        let path = path.into();
        let open = Some(open(&path, options, sweep.as_ref())?);
        let unmerged = [true; Space::ALL.len()];
        Ok(Self { path, options, sweep, open, doubtful: false, unmerged, released: None })
    }

    /// True if a folder holds a store.
    #[must_use]
    pub fn exists(path: &Path) -> bool {
        path.join(MARKER).exists() || path.join(VERSION).exists()
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it takes of its disk.
    ///
    /// # Errors
    /// The store could not be opened again after a failure.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.maps()?.usage()
    }

    fn opened(&self) -> Result<&Open, StoreError> {
        self.open.as_ref().ok_or_else(|| not_open(&self.path))
    }

    fn log(&mut self) -> Result<&mut LogFiles, StoreError> {
        let open = self.open.as_mut().ok_or_else(|| not_open(&self.path))?;
        Ok(&mut open.log)
    }

    /// Makes everything that was written into the maps survive.
    fn sync_maps(&mut self) -> Result<(), StoreError> {
        let fault = |error| explain(&Place::folder(&self.path), error);
        let Open { keyspaces, database, .. } = self.opened()?;
        if self.doubtful {
            // Tables have been synchronised by themselves.
            for keyspace in keyspaces {
                keyspace.rotate_memtable().map_err(fault)?;
                wait_until_written(database, keyspace).map_err(fault)?;
            }
        }
        database.persist(PersistMode::SyncData).map_err(fault)?;
        self.doubtful = false;
        Ok(())
    }
}

fn not_open(path: &Path) -> StoreError {
    StoreError::Failed { why: format!("{} could not be opened again", path.display()) }
}

impl Store for DiskStore {
    fn read_log(&mut self, from: u64, below: u64) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.log()?.read(from, below)
    }

    fn append(&mut self, number: u64, batch: &Bytes, sync: bool) -> Result<(), StoreError> {
        self.log()?.append(number, batch, sync)
    }

    fn sync_log(&mut self) -> Result<(), StoreError> {
        self.log()?.sync()
    }

    fn release_log(&mut self, below: u64) -> Result<(), StoreError> {
        if self.log()?.has_useless(below) {
            self.sync_maps()?;
            self.log()?.release(below)?;
            self.bound_journals(self.journals_max())?;
        }
        self.released = Some(below);
        Ok(())
    }

    fn write(&mut self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        if batch.is_empty() {
            return if sync { self.sync_maps() } else { Ok(()) };
        }
        let Open { keyspaces, database, .. } = self.opened()?;
        let fault = |error| explain(&Place::folder(&self.path), error);
        // Both hand the bytes to the system, so that a failure of the process loses none of them.
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut changes =
            fjall::OwnedWriteBatch::with_capacity(database.clone(), batch.changes.len())
                .durability(Some(mode));
        let mut touched = [false; Space::ALL.len()];
        for change in batch.changes {
            touched[change.space as usize] = true;
            let keyspace = &keyspaces[change.space as usize];
            match change.value {
                Some(value) => {
                    let (key, value) = key::shorten_entry(change.key, value);
                    changes.insert(keyspace, key, value);
                }
                None => changes.remove(keyspace, key::shorten(change.key)),
            }
        }
        for keyspace in keyspaces.iter().zip(touched).filter_map(|(k, on)| on.then_some(k)) {
            wait_for_room(database, keyspace).map_err(fault)?;
        }
        changes.commit().map_err(fault)?;
        self.unmerged.iter_mut().zip(touched).for_each(|(unmerged, on)| *unmerged |= on);
        Ok(())
    }

    fn shrink(&mut self) -> Result<(), StoreError> {
        self.give_back()
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = key::shorten(Bytes::copy_from_slice(key));
        let fault = |error| explain(&Place::key(&self.path, space, &key), error);
        let found = self.opened()?.keyspaces[space as usize].get(&key[..]).map_err(fault)?;
        found.map(|value| Ok(key::restore(key.clone(), value.into())?.1)).transpose()
    }

    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let from = key::shorten(Bytes::copy_from_slice(from));
        let items = self.opened()?.keyspaces[space as usize].range(&from[..]..);
        show(items, &self.path, space, from, visit)
    }

    fn scan_prefix(
        &self,
        space: Space,
        prefix: [u8; 8],
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let from = key::shorten(Bytes::copy_from_slice(from));
        let keyspace = &self.opened()?.keyspaces[space as usize];
        // A key that was shortened still begins as it did.
        let items = match u64::from_be_bytes(prefix).checked_add(1) {
            Some(end) => keyspace.range(&from[..]..&end.to_be_bytes()[..]),
            None => keyspace.range(&from[..]..),
        };
        show(items, &self.path, space, from, visit)
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        (self.open, self.doubtful, self.released) = (None, true, None);
        self.open = Some(open(&self.path, self.options, self.sweep.as_ref())?);
        Ok(())
    }

    fn maps(&self) -> Result<Box<dyn Maps>, StoreError> {
        let Open { keyspaces, database, .. } = self.opened()?;
        Ok(Box::new(DiskMaps::new(&self.path, keyspaces.clone(), database)))
    }
}

/// Shows entries as they were before they were stored. `last` is the key from which on they are.
fn show(
    items: fjall::Iter,
    path: &Path,
    space: Space,
    mut last: Bytes,
    visit: &mut Visitor<'_>,
) -> Result<(), StoreError> {
    for item in items {
        let (key, value) = item
            .into_inner()
            .map_err(|error| explain(&Place::behind(path, space, &last), error))?;
        last = key.into();
        let (key, value) = key::restore(last.clone(), value.into())?;
        if visit(&key, &value) == ControlFlow::Break(()) {
            break;
        }
    }
    Ok(())
}

/// Waits while tables are behind.
fn wait_for_room(database: &Database, keyspace: &Keyspace) -> fjall::Result<()> {
    wait_while(database, || {
        keyspace.sealed_memtable_count() >= SEALED_MAX || keyspace.tree.l0_run_count() >= RUNS_MAX
    })
}

/// Waits while fjall's worker has something to do. Its own waiting goes on for ever if the worker has
/// failed, and nothing announces when it is done; to persist says whether it has failed.
fn wait_while(database: &Database, is_behind: impl Fn() -> bool) -> fjall::Result<()> {
    while is_behind() {
        database.persist(PersistMode::Buffer)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Makes a folder, and what is above it, for nobody but the user of this process: messages are in it.
///
/// # Errors
/// Something else is there, or the system refuses it; both say where.
pub fn make_private(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => StoreError::Foreign {
            what: format!(
                "{} is there and is no folder; move it away, or choose another place",
                path.display()
            ),
        },
        ErrorKind::NotADirectory => StoreError::Foreign {
            what: format!(
                "{} cannot be made, since something above it is no folder; move that away, or choose \
                 another place",
                path.display()
            ),
        },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StoreError::Full { why: format!("{} cannot be made: {error}", path.display()) }
        }
        _ => StoreError::Failed { why: format!("{} cannot be made: {error}", path.display()) },
    })
}

fn open(path: &Path, options: DiskOptions, sweep: Option<&Sweep>) -> Result<Open, StoreError> {
    let place = Place::folder(path);
    let fault = |error| explain(&place, error);
    make_private(path)?;
    let marker = path.join(MARKER);
    let was_made = marker.try_exists().map_err(|error| fault(error.into()))?;
    if path.join(VERSION).try_exists().map_err(|error| fault(error.into()))? {
        examine(path, was_made)?;
    } else if was_made {
        let what = format!("{} has no file {VERSION:?} any more", path.display());
        return Err(StoreError::Damaged { what });
    } else {
        remove_unfinished(path)?;
    }
    let mut builder = Database::builder(path)
        .cache_size(options.cache_bytes)
        .max_journaling_size(options.journal_bytes_max)
        .worker_threads(options.worker_threads)
        .manual_journal_persist(true);
    if let Some(sweep) = sweep.cloned() {
        builder = builder.with_compaction_filter_factories(Arc::new(move |name| sweep.of(name)));
    }
    let database = builder.open().map_err(fault)?;
    if database.keyspace_exists(LOG) {
        let what = format!(
            "{} was written by a version of Petrel before the first release, and cannot be read by \
             this one; remove it",
            path.display()
        );
        return Err(StoreError::Foreign { what });
    }
    let mut keyspaces = Vec::with_capacity(Space::ALL.len());
    for space in Space::ALL {
        if was_made && !database.keyspace_exists(space.name()) {
            let what = format!("{} has no space {:?} any more", path.display(), space.name());
            return Err(StoreError::Damaged { what });
        }
        keyspaces.push(database.keyspace(space.name(), || layout(space, options)).map_err(fault)?);
    }
    let mut log = LogFiles::open(path.join(LOG), options.log_file_bytes)?;
    if log.is_empty() {
        if was_made {
            let what = format!("{} has no log any more", path.display());
            return Err(StoreError::Damaged { what });
        }
        log.begin(1)?;
    }
    if !was_made {
        let made = File::create(&marker).and_then(|file| file.sync_all());
        made.and_then(|()| File::open(path)?.sync_all()).map_err(|error| fault(error.into()))?;
    }
    let keyspaces = keyspaces.try_into().unwrap_or_else(|_| unreachable!("one for each space"));
    Ok(Open { keyspaces, database, log })
}

/// Looks at what fjall would throw away, while nobody else can write.
fn examine(path: &Path, was_made: bool) -> Result<(), StoreError> {
    let fault = |error: std::io::Error| explain(&Place::folder(path), error.into());
    let lock = OpenOptions::new().read(true).write(true).open(path.join(LOCK));
    let lock = lock.map_err(|error| match error.kind() {
        ErrorKind::NotFound => StoreError::Damaged {
            what: format!(
                "{} is missing, which keeps two processes from using one folder; see that none uses \
                 it, and make the file again, empty",
                path.join(LOCK).display()
            ),
        },
        _ => fault(error),
    })?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse { path: path.display().to_string() },
        TryLockError::Error(error) => fault(error),
    })?;
    journal::examine(path)?;
    // A keyspace without a manifest was never finished, or fjall would remove what it has.
    if was_made { manifest::examine(path) } else { Ok(()) }
}

/// Removes what a failure has left of a database that was being made; fjall stumbles over it.
fn remove_unfinished(path: &Path) -> Result<(), StoreError> {
    let first = path.join("0.jnl");
    let fault = |error: std::io::Error| explain(&Place::folder(path), error.into());
    if first.try_exists().map_err(fault)? {
        let journal = journal::read(&first)?;
        if journal.batches > 0 || journal.rest != journal::Rest::Empty {
            let what = format!("{} holds data, and nothing else is there", first.display());
            return Err(StoreError::Damaged { what });
        }
        std::fs::remove_file(&first).map_err(fault)?;
    }
    Ok(())
}

/// How a space is kept in tables.
fn layout(space: Space, options: DiskOptions) -> KeyspaceCreateOptions {
    let settings = KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .max_memtable_size(options.memtable_bytes);
    match space {
        // Pages and shared messages are written once: merging moves their keys only.
        Space::Queue | Space::Shared => settings
            .filter_policy(FilterPolicy::disabled())
            .with_kv_separation(Some(KvSeparationOptions::default().separation_threshold(512))),
        _ => settings,
    }
}

#[cfg(test)]
mod tests;
