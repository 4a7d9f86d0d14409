//! Gives back to the file system what a store has of what was removed.
//!
//! fjall does so when it writes, and only as far as it has to, which is no help where nobody may write
//! until there is room. What stays behind, and why:
//!
//! - A file of values goes with the merging *after* the one that found its last value removed, so
//!   spaces with such files are merged twice.
//! - Tables and files of values stay as long as an older version of a space names them, and older
//!   versions go when any memtable with something in it is sealed.
//! - A sealed journal goes once each space that it has something of has a table with something as new,
//!   which merging takes away again: what is newest are often marks of what was removed, and merged
//!   into the last level those go. fjall looks whenever a memtable is sealed or has been written out.
//!
//! So all spaces are merged, then get a mark of their own that removes nothing, and that is written out
//! before anybody looks. What no call can give back is the journal that is being written, which is
//! sealed above [`JOURNAL_BYTES_SEALED`] only.
//!
//! The same marks keep journals from piling up behind a space that is written no more.

use fjall::{Database, Keyspace};

use super::fault::{Place, explain};
use super::{DiskStore, LOG_FILE_BYTES, Open, wait_while};
use crate::store::{Batch, Space, Store as _, StoreError};

/// A key that no space has: it is no topic name, since it is no UTF-8, and too short for the others.
const NOBODYS_KEY: &[u8] = b"\xff";

/// Below this a limit for what a store takes of its disk could be reached though nothing is kept, and
/// nothing would help. It holds for [`super::DiskOptions::default`].
pub const LIMIT_BYTES_MIN: u64 = 90_000_000;

/// What a store has at most that holds nothing and has been shrunk: a journal, a file of the log, and
/// what says that there is nothing else.
pub(super) const EMPTY_BYTES_MAX: u64 =
    JOURNAL_BYTES_SEALED + LOG_FILE_BYTES as u64 + TABLES_BYTES_MAX;

/// fjall seals a journal that is longer when the next memtable is written out.
const JOURNAL_BYTES_SEALED: u64 = 64_000_000;
/// What tables of nothing, and the files that say what there is, have together at most.
const TABLES_BYTES_MAX: u64 = 2 << 20;

const _: () = assert!(EMPTY_BYTES_MAX < LIMIT_BYTES_MIN, "room for messages");

/// So many journals more than fjall was told there may be are waited for.
const JOURNALS_MORE: usize = 4;

/// Marks are written once more if merging in the background has taken some away; then the tables are
/// too few to be merged again.
const ROUNDS_MAX: usize = 4;

/// Spaces in which something may expire, though nobody writes.
const EXPIRING: [Space; 3] = [Space::Queue, Space::Retained, Space::Shared];

impl DiskStore {
    /// See [`crate::Store::shrink`].
    pub(super) fn give_back(&mut self) -> Result<(), StoreError> {
        self.sync_maps()?;
        let released = self.released;
        let log = self.log()?;
        released.map_or(Ok(()), |below| log.shorten(below))?;
        log.remove_spare()?;
        for space in Space::ALL {
            if self.unmerged[space as usize] || EXPIRING.contains(&space) {
                self.compact(space)?;
                self.unmerged[space as usize] = false;
            }
        }
        self.mark_all()?;
        self.bound_journals(1)
    }

    /// Has sealed journals go that fjall would keep, so that there are so many with the one that is
    /// being written, if there are more.
    ///
    /// *Cost*: if so, all memtables go into tables.
    pub(super) fn bound_journals(&mut self, most: usize) -> Result<(), StoreError> {
        for _ in 0..ROUNDS_MAX {
            if self.opened()?.database.journal_count() <= most {
                break;
            }
            self.mark_all()?;
        }
        Ok(())
    }

    /// As many journals as there are while fjall does what it was told to.
    pub(super) const fn journals_max(&self) -> usize {
        (self.options.journal_bytes_max / JOURNAL_BYTES_SEALED) as usize + JOURNALS_MORE
    }

    /// Writes marks into all spaces; then all that is older can go.
    fn mark_all(&mut self) -> Result<(), StoreError> {
        self.mark(&Space::ALL)?;
        // fjall looks when this is sealed.
        self.mark(&[Space::Meta])
    }

    /// Merges all tables of a space, and waits for it.
    ///
    /// # Errors
    /// The disk fails, or what is there cannot be read.
    pub fn compact(&self, space: Space) -> Result<(), StoreError> {
        let Open { keyspaces, database, .. } = self.opened()?;
        let keyspace = &keyspaces[space as usize];
        let merge = || {
            keyspace.rotate_memtable()?;
            wait_until_written(database, keyspace)?;
            keyspace.major_compact()?;
            if keyspace.fragmented_blob_bytes() > 0 { keyspace.major_compact() } else { Ok(()) }
        };
        merge().map_err(|error| explain(&Place::folder(self.path()), error))
    }

    /// Writes marks that remove nothing into spaces, and these into tables.
    fn mark(&mut self, spaces: &[Space]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for &space in spaces {
            batch.remove(space, NOBODYS_KEY);
        }
        let unmerged = self.unmerged;
        self.write(batch, false)?;
        self.unmerged = unmerged;
        let Open { keyspaces, database, .. } = self.opened()?;
        let written = || {
            let keyspaces = || spaces.iter().map(|&space| &keyspaces[space as usize]);
            keyspaces().try_for_each(|keyspace| keyspace.rotate_memtable().map(drop))?;
            keyspaces().try_for_each(|keyspace| wait_until_written(database, keyspace))
        };
        written().map_err(|error| explain(&Place::folder(self.path()), error))
    }
}

/// Waits until all sealed memtables of a space are in tables.
pub(super) fn wait_until_written(database: &Database, keyspace: &Keyspace) -> fjall::Result<()> {
    wait_while(database, || keyspace.sealed_memtable_count() > 0)
}
