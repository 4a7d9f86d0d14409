//! From a backup to a folder that a broker starts from.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::chunks::{Entry, Head, Reader};
use super::{
    BackupError, LaneSummary, MANIFEST, Summary, at, file_name, refuse_contents, synchronise,
};
use crate::disk::{DiskOptions, DiskStore};
use crate::store::{Batch, Space, Store};

/// Bytes of one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Changes of one batch, at most.
const BATCH_CHANGES: usize = 4_096;

/// Reads all of a backup and compares every checksum.
///
/// # Errors
/// It is not whole.
pub fn examine(backup: &Path) -> Result<Summary, BackupError> {
    let path = backup.join(MANIFEST);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => BackupError::Refused(format!(
            "{} is no backup: it has no manifest, which is written last",
            backup.display()
        )),
        _ => BackupError::File(path.clone(), error),
    })?;
    let text = String::from_utf8_lossy(&text);
    let summary = Summary::from_text(&path, &text)?;
    for (lane, expected) in (0..).zip(&summary.lanes) {
        let (mut reader, path) = open(backup, lane, &summary)?;
        while reader.next()?.is_some() {}
        compare(&path, expected, &reader.summary())?;
    }
    Ok(summary)
}

fn open(backup: &Path, lane: u16, summary: &Summary) -> Result<(Reader, PathBuf), BackupError> {
    let path = backup.join(file_name(lane));
    let (reader, head) = Reader::open(&path)?;
    if head != (Head { lane, lanes: summary.lanes.len() as u16 }) {
        let what = format!("{} is lane {} of {}", path.display(), head.lane, head.lanes);
        return Err(BackupError::Damaged(what));
    }
    Ok((reader, path))
}

fn compare(path: &Path, expected: &LaneSummary, found: &LaneSummary) -> Result<(), BackupError> {
    if found.checksum == expected.checksum && found.entries == expected.entries {
        return Ok(());
    }
    let what = format!("{} belongs to another backup than the manifest", path.display());
    Err(BackupError::Damaged(what))
}

/// Checks a whole backup, and then makes a folder of it that a broker starts from, with everything as
/// it was. A failure leaves a folder with `.restoring` behind its name and nothing else.
///
/// # Errors
/// The backup is not whole, the folder holds something, or the disk fails.
pub fn restore(backup: &Path, folder: &Path) -> Result<Summary, BackupError> {
    refuse_contents(folder)?;
    let summary = examine(backup)?;
    let unfinished = beside(folder)?;
    let made = DirBuilder::new().mode(0o700).create(&unfinished);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Refused(format!(
            "{} is there, from a restoration that did not end; remove it",
            unfinished.display()
        )),
        _ => BackupError::File(unfinished.clone(), error),
    })?;
    for (lane, expected) in (0..).zip(&summary.lanes) {
        let (mut reader, path) = open(backup, lane, &summary)?;
        fill(&unfinished.join(format!("lane-{lane}")), &mut reader, summary.epoch)?;
        compare(&path, expected, &reader.summary())?;
    }
    synchronise(&unfinished)?;
    fs::rename(&unfinished, folder).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            BackupError::Refused(format!(
                "{} cannot be replaced, as a place where a file system is mounted cannot: restore \
                 to a folder below it; {} may be moved there, too",
                folder.display(),
                unfinished.display()
            ))
        }
        _ => BackupError::File(folder.into(), error),
    })?;
    synchronise(unfinished.parent().unwrap_or(folder))?;
    Ok(summary)
}

/// A folder beside another, on the same file system.
fn beside(folder: &Path) -> Result<PathBuf, BackupError> {
    let whole = std::path::absolute(folder).map_err(at(folder))?;
    let name = whole.file_name().ok_or_else(|| {
        BackupError::Refused(format!("{} is no name of a folder", folder.display()))
    })?;
    let mut unfinished = OsString::from(name);
    unfinished.push(".restoring");
    Ok(whole.with_file_name(unfinished))
}

/// Makes a store of a lane's entries.
fn fill(folder: &Path, reader: &mut Reader, epoch: u32) -> Result<(), BackupError> {
    let mut store = DiskStore::open(folder, DiskOptions::default())?;
    let mut batch = Batch::default();
    let mut bytes = 0;
    while let Some(entries) = reader.next()? {
        for Entry { space, key, value } in entries {
            bytes += key.len() + value.len();
            batch.put(space, key, value);
            if bytes >= BATCH_BYTES || batch.changes.len() >= BATCH_CHANGES {
                store.write(std::mem::take(&mut batch), false)?;
                bytes = 0;
            }
        }
    }
    store.write(batch, false)?;
    // The process that went on after the backup may have had the next epoch, and given its numbers to
    // sessions whose clients are still there.
    let mut last = Batch::default();
    last.put(Space::Meta, &b"epoch"[..], (epoch + 1).to_be_bytes().to_vec());
    store.write(last, true)?;
    Ok(())
}
