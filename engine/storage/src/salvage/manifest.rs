//! Which files belong to a keyspace.

use std::fs;
use std::path::Path;

use bytes::Buf as _;

/// The files of a keyspace, each with its checksum, where it is known.
pub(super) struct Listed {
    pub(super) tables: Vec<(u64, Option<u128>)>,
    pub(super) blobs: Vec<(u64, Option<u128>)>,
}

/// Reads the manifest of a keyspace. An error says what is wrong with it.
pub(super) fn read(keyspace: &Path) -> Result<Listed, String> {
    crate::disk::examine_keyspace(keyspace).map_err(|error| error.to_string())?;
    let unreadable = || "its manifest cannot be understood".to_owned();
    let current = fs::read(keyspace.join("current")).map_err(|error| error.to_string())?;
    let number = current.first_chunk().copied().map(u64::from_le_bytes).ok_or_else(unreadable)?;
    let path = keyspace.join(format!("v{number}"));
    let bytes = fs::read(&path).map_err(|error| error.to_string())?;
    let archive = sfa::Reader::new(&path).map_err(|_| unreadable())?;
    let section = |name: &[u8]| {
        let entry = archive.toc().section(name)?;
        let from = usize::try_from(entry.pos()).ok()?;
        bytes.get(from..from.checked_add(usize::try_from(entry.len()).ok()?)?)
    };
    let tables = section(b"tables").and_then(tables).ok_or_else(unreadable)?;
    let blobs = section(b"blob_files").and_then(blobs).ok_or_else(unreadable)?;
    Ok(Listed { tables, blobs })
}

/// Levels of runs of tables: of each its number u64, the kind of its checksum u8, that u128, and what
/// is added to the numbers of its entries u64, little-endian.
fn tables(mut bytes: &[u8]) -> Option<Vec<(u64, Option<u128>)>> {
    let mut found = Vec::new();
    for _ in 0..bytes.try_get_u8().ok()? {
        for _ in 0..bytes.try_get_u8().ok()? {
            for _ in 0..bytes.try_get_u32_le().ok()? {
                let number = bytes.try_get_u64_le().ok()?;
                bytes.try_get_u8().ok()?;
                found.push((number, Some(bytes.try_get_u128_le().ok()?)));
                bytes.try_get_u64_le().ok()?;
            }
        }
    }
    Some(found)
}

/// The number of each u64, the kind of its checksum u8, that u128, little-endian.
fn blobs(mut bytes: &[u8]) -> Option<Vec<(u64, Option<u128>)>> {
    let mut found = Vec::new();
    for _ in 0..bytes.try_get_u32_le().ok()? {
        let number = bytes.try_get_u64_le().ok()?;
        bytes.try_get_u8().ok()?;
        found.push((number, Some(bytes.try_get_u128_le().ok()?)));
    }
    Some(found)
}
