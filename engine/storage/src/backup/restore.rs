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
use crate::fill::Filler;
use crate::lane::origin;
use crate::store::Store;

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
        let mut store =
            DiskStore::open(unfinished.join(format!("lane-{lane}")), DiskOptions::default())?;
        fill(&mut store, &mut reader)?;
        // The process that went on after the backup may have had the next epoch, and given its numbers
        // to sessions whose clients are still there.
        store.write(origin(lane, summary.lanes.len() as u16, summary.epoch + 1), true)?;
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

/// Fills a store with a lane's entries.
fn fill(store: &mut DiskStore, reader: &mut Reader) -> Result<(), BackupError> {
    let mut filler = Filler::new(store);
    while let Some(entries) = reader.next()? {
        for Entry { space, key, value } in entries {
            filler.put(space, key, value)?;
        }
    }
    Ok(filler.finish()?)
}
