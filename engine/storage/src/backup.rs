//! Backups: everything that all lanes keep, in one folder of plain files.
//!
//! A backup holds what log and maps say together ([`View::each`]), so it depends neither on how the
//! log is kept nor on how the maps are. There is a file for each lane, and a manifest, which is
//! written last: without it there is no backup. Every byte is under a checksum.

mod chunks;
mod manifest;
mod restore;

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

pub use self::manifest::{LaneSummary, Summary};
pub use self::restore::{examine, restore};
use crate::store::StoreError;
use crate::view::View;

/// The manifest's name in the folder of a backup.
const MANIFEST: &str = "manifest";

/// Why a backup was not made or cannot be used.
#[derive(Debug)]
pub enum BackupError {
    /// What is asked for cannot be done, and nothing was.
    Refused(String),
    /// What is to be backed up cannot be read, or what is restored cannot be written.
    Store(StoreError),
    /// A file or folder cannot be read or written.
    File(PathBuf, io::Error),
    /// The backup is not what was written.
    Damaged(String),
    /// Somebody called it off.
    Stopped(String),
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(what) => f.write_str(what),
            Self::Store(error) => error.fmt(f),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Damaged(what) => write!(f, "the backup is damaged: {what}"),
            Self::Stopped(why) => write!(f, "the backup was called off: {why}"),
        }
    }
}

impl std::error::Error for BackupError {}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError + '_ {
    move |error| BackupError::File(path.into(), error)
}

/// The name of a lane's file.
fn file_name(lane: u16) -> String {
    format!("lane-{lane}.records")
}

/// Writes a backup of all lanes into a folder, which is made if it is not there. `goes_on` is asked
/// about once a mebibyte, and calls it off by saying why. What was written until then is removed.
///
/// *Cost*: a mebibyte at a time is in memory, and what [`View::each`] takes. A lane is not disturbed
/// but by the reading and writing of the disk.
///
/// # Errors
/// The folder holds something, or `views` are not all lanes, or see [`BackupError`].
pub fn write(
    folder: &Path,
    views: Vec<View>,
    taken_at_ms: u64,
    goes_on: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Summary, BackupError> {
    let all = views.iter().map(|view| view.lane).eq(0..views.first().map_or(1, |view| view.lanes));
    if !all {
        return Err(BackupError::Refused("a backup is of all lanes, or none".into()));
    }
    make_empty(folder)?;
    let mut written = Vec::new();
    let done = write_into(folder, views, taken_at_ms, goes_on, &mut written);
    if done.is_err() {
        // Without a manifest it is no backup, so nothing is lost where this fails.
        written.iter().for_each(|path| drop(fs::remove_file(path)));
    }
    done
}

fn write_into(
    folder: &Path,
    views: Vec<View>,
    taken_at_ms: u64,
    goes_on: &mut dyn FnMut() -> Result<(), String>,
    written: &mut Vec<PathBuf>,
) -> Result<Summary, BackupError> {
    let epoch = views.iter().map(|view| view.epoch).max().unwrap_or(0);
    let mut lanes = Vec::new();
    for view in views {
        let path = folder.join(file_name(view.lane));
        let unfinished = path.with_extension("part");
        written.extend([unfinished.clone(), path.clone()]);
        let head = chunks::Head { lane: view.lane, lanes: view.lanes };
        let mut out = chunks::Writer::create(&unfinished, head)?;
        let mut stopped = Ok(());
        let shown = view.each(&mut |space, key, value| {
            let added = out.add(space, key, value);
            let added = added.and_then(|ended| match ended {
                true => goes_on().map_err(BackupError::Stopped),
                false => Ok(()),
            });
            // The reason is kept beside, since what is shown to knows errors of stores only.
            added.map_err(|error| {
                stopped = Err(error);
                StoreError::Failed { why: String::new() }
            })
        });
        stopped?;
        shown?;
        lanes.push(out.finish()?);
        fs::rename(&unfinished, &path).map_err(at(&path))?;
    }
    let summary = Summary { taken_at_ms, epoch, lanes };
    let path = folder.join(MANIFEST);
    let unfinished = path.with_extension("part");
    written.extend([unfinished.clone(), path.clone()]);
    fs::write(&unfinished, summary.to_text()).map_err(at(&unfinished))?;
    synchronise(&unfinished)?;
    // What the manifest speaks of is there before it is.
    synchronise(folder)?;
    fs::rename(&unfinished, &path).map_err(at(&path))?;
    synchronise(folder)?;
    Ok(summary)
}

fn synchronise(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(at(path))
}

/// Refuses a place for a backup that is in the folder it is a backup of: it would take the broker's room,
/// lie among its lanes, and go when the folder does. Links are followed, and nothing has to be there.
///
/// # Errors
/// It is in there, or it cannot be told where it is.
pub fn refuse_inside(storage: &Path, into: &Path) -> Result<(), BackupError> {
    let (storage, whole) = (resolve(storage)?, resolve(into)?);
    if !whole.starts_with(&storage) {
        return Ok(());
    }
    let (into, storage) = (into.display(), storage.display());
    let what = format!(
        "{into} is inside {storage}, which the broker keeps for itself; choose a place outside of it, \
         on another disk if there is one"
    );
    Err(BackupError::Refused(what))
}

/// Where a path leads, as far as it is there.
fn resolve(path: &Path) -> Result<PathBuf, BackupError> {
    let mut whole = PathBuf::new();
    for part in std::path::absolute(path).map_err(at(path))?.components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            part => whole.push(part),
        }
        match whole.canonicalize() {
            Ok(real) => whole = real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::File(whole, error)),
        }
    }
    Ok(whole)
}

/// Makes a folder, for nobody but the user of this process, or takes one that holds nothing.
fn make_empty(folder: &Path) -> Result<(), BackupError> {
    refuse_contents(folder)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(at(folder))?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => synchronise(parent),
        _ => Ok(()),
    }
}

/// Refuses a folder that holds anything; one that is not there holds nothing.
fn refuse_contents(folder: &Path) -> Result<(), BackupError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                let what = format!("{} is not empty, and nothing is replaced", folder.display());
                Err(BackupError::Refused(what))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BackupError::File(folder.into(), error)),
    }
}

#[cfg(test)]
mod tests;
