//! Looks at the manifests of fjall's keyspaces before fjall does: the list of a keyspace's tables has a
//! checksum, and fjall does not compare it.

use std::fs;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::fault::{Place, explain};
use crate::store::StoreError;

/// Which list counts: its number u64, its XXH3 u128, both little-endian, and the kind of the checksum.
const CURRENT: &str = "current";
const CURRENT_BYTES: usize = 25;

/// Compares the manifests of all keyspaces in a folder with their checksums.
///
/// # Errors
/// One is damaged or missing.
pub(super) fn examine(folder: &Path) -> Result<(), StoreError> {
    let keyspaces = folder.join("keyspaces");
    let fault = |error: std::io::Error| explain(&Place::folder(&keyspaces), error.into());
    for entry in fs::read_dir(&keyspaces).map_err(fault)? {
        examine_keyspace(&entry.map_err(fault)?.path())?;
    }
    Ok(())
}

/// Compares the manifest of one keyspace with its checksum.
///
/// # Errors
/// It is damaged or missing.
pub(crate) fn examine_keyspace(keyspace: &Path) -> Result<(), StoreError> {
    let damaged = |path: &Path, what: &str| StoreError::Damaged {
        what: format!("{} {what}", path.display()),
    };
    let read =
        |path: &Path| fs::read(path).map_err(|error| explain(&Place::folder(path), error.into()));
    let path = keyspace.join(CURRENT);
    let current = read(&path)?;
    let parts = current.split_first_chunk::<8>().and_then(|(number, rest)| {
        let (sum, kind) = rest.split_first_chunk::<16>()?;
        (current.len() == CURRENT_BYTES && kind == [0])
            .then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*sum)))
    });
    let (number, sum) = parts.ok_or_else(|| damaged(&path, "names no manifest"))?;
    let path = keyspace.join(format!("v{number}"));
    if xxh3_128(&read(&path)?) == sum {
        Ok(())
    } else {
        Err(damaged(&path, "has another checksum than was written"))
    }
}
