//! What a [`super::DiskStore`] holds at one moment, for a thread that reads it while the store goes on.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, Readable, Snapshot};

use super::fault::{Place, explain};
use super::{LOG, key, show};
use crate::log_files;
use crate::store::{Maps, Space, StoreError, Usage, Visitor};

/// Maps at one moment. As long as this is there, the store cannot be opened again, and what it has
/// written anew since takes its place on the disk beside the old.
pub(super) struct DiskMaps {
    path: PathBuf,
    keyspaces: [Keyspace; Space::ALL.len()],
    snapshot: Snapshot,
    database: Database,
}

impl DiskMaps {
    pub(super) fn new(
        path: &Path,
        keyspaces: [Keyspace; Space::ALL.len()],
        database: &Database,
    ) -> Self {
        let snapshot = database.snapshot();
        Self { path: path.into(), keyspaces, snapshot, database: database.clone() }
    }
}

impl Maps for DiskMaps {
    fn scan(&self, space: Space, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let from = key::shorten(Bytes::copy_from_slice(from));
        let items = self.snapshot.range(&self.keyspaces[space as usize], &from[..]..);
        show(items, &self.path, space, from, visit)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let journal_bytes = self.database.journal_disk_space();
        Ok(Usage {
            spaces: Space::ALL.map(|space| (space, self.keyspaces[space as usize].disk_space())),
            journal_bytes: journal_bytes
                .map_err(|error| explain(&Place::folder(&self.path), error))?,
            log_bytes: log_files::taken_bytes(&self.path.join(LOG)),
        })
    }
}
