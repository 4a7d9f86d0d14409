//! What fjall reports, in the words of a store.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use fjall::{Error as Fjall, LsmError};

use crate::store::{Space, StoreError};

/// Free bytes of a disk below which a worker that failed is taken to have found no room.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// Where something went wrong.
pub(super) struct Place {
    folder: PathBuf,
    what: String,
}

impl Place {
    /// Somewhere in a folder.
    pub(super) fn folder(folder: &Path) -> Self {
        Self { folder: folder.into(), what: folder.display().to_string() }
    }

    /// At a key.
    pub(super) fn key(folder: &Path, space: Space, key: &[u8]) -> Self {
        let what = format!("{}, {} {}", folder.display(), space.name(), key.escape_ascii());
        Self { folder: folder.into(), what }
    }

    /// Behind a key.
    pub(super) fn behind(folder: &Path, space: Space, key: &[u8]) -> Self {
        let (name, key) = (space.name(), key.escape_ascii());
        let what = format!("{}, {name} behind {key}", folder.display());
        Self { folder: folder.into(), what }
    }
}

/// Says what an error of fjall is.
pub(super) fn explain(place: &Place, error: Fjall) -> StoreError {
    let why = || format!("{}: {error}", place.what);
    if let Fjall::Locked = error {
        return StoreError::InUse { path: place.folder.display().to_string() };
    }
    if let Some(io) = io_error(&error) {
        return match io.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { why: why() }
            }
            // A file is shorter than what it says of itself, or is missing.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::NotFound => {
                StoreError::Damaged { what: why() }
            }
            _ => StoreError::Failed { why: why() },
        };
    }
    match error {
        // A worker failed and has kept the reason to itself.
        Fjall::Poisoned if has_no_room(&place.folder) => StoreError::Full { why: why() },
        Fjall::Poisoned | Fjall::KeyspaceDeleted => StoreError::Failed { why: why() },
        Fjall::InvalidVersion(_) | Fjall::Storage(LsmError::InvalidVersion(_)) => {
            let what = format!("{}: another version of fjall made it: {error}", place.what);
            StoreError::Foreign { what }
        }
        _ => StoreError::Damaged { what: why() },
    }
}

fn io_error(error: &Fjall) -> Option<&io::Error> {
    let mut link: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = link {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        link = error.source();
    }
    None
}

fn has_no_room(folder: &Path) -> bool {
    rustix::fs::statvfs(folder)
        .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM_BYTES_MIN)
}
