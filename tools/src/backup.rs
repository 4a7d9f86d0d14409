//! `petrelctl backup` and `petrelctl restore`: everything that a broker keeps, as plain files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use petrel_storage::backup::{self, BackupError};
use petrel_storage::control::Request;
use petrel_storage::{Clock, DiskOptions, DiskStore, Lane, LaneSettings, SyncLevel, View};

use crate::failure::Failure;
use crate::storage::{asked, lanes, unusable};

const BACKUP_HELP: &str = "\
petrelctl backup writes everything that a broker keeps into a folder, while the broker runs or not.

Usage: petrelctl backup FOLDER DIR

FOLDER is the `path` of [storage] in the broker's configuration. DIR is made, or must be empty, and
is not inside FOLDER; the broker writes it, if it runs, as the user that it runs as.

Everything that was acknowledged before the command began is in the backup. It is whole once the
command has ended well: until then it has no file `manifest`, and cannot be restored.

Exit codes: 0 the backup is whole, 1 wrong usage, 3 there is none.
";

const RESTORE_HELP: &str = "\
petrelctl restore makes a folder that a broker starts from out of a backup.

Usage: petrelctl restore DIR FOLDER

DIR is what petrelctl backup has written; all of it is read and compared with its checksums before
anything is made. FOLDER must not be there, or be empty. The broker needs as many lanes as it had.

Exit codes: 0 everything is there as it was, 1 wrong usage, 3 nothing was made.
";

pub fn run_backup(arguments: &[OsString]) -> Result<(), Failure> {
    let (folder, into) = match arguments {
        [help] if help == "--help" || help == "-h" => return crate::print(BACKUP_HELP),
        [folder, into] => (PathBuf::from(folder), PathBuf::from(into)),
        _ => {
            return Err(Failure::usage(
                "backup wants the folder of a broker and a folder for the backup; petrelctl backup \
                 --help explains them",
            ));
        }
    };
    let whole = std::path::absolute(&into)
        .map_err(|error| Failure::usage(format!("{}: {error}", into.display())))?;
    if whole.to_str().is_none() {
        return Err(Failure::usage(format!("{}: the path is not UTF-8", into.display())));
    }
    backup::refuse_inside(&folder, &whole).map_err(failed)?;
    if let Some(answer) = asked(&folder, &Request::Backup { into: whole })? {
        return crate::print(&format!("{}\n", answer.text));
    }
    let views = views(&folder)?;
    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let taken_at_ms = u64::try_from(taken_at.as_millis()).unwrap_or(u64::MAX);
    let summary = backup::write(&into, views, taken_at_ms, &mut || Ok(())).map_err(failed)?;
    crate::print(&format!("{}: {summary}\n", into.display()))
}

/// What the lanes of a folder keep that no process has.
fn views(folder: &Path) -> Result<Vec<View>, Failure> {
    let paths = lanes(folder)?;
    let count = paths.len() as u16;
    let view = |(lane, path): (u16, PathBuf)| {
        let store = DiskStore::open(path, DiskOptions::default())?;
        let settings =
            LaneSettings { lane, lanes: count, sync: SyncLevel::Commit, window_bytes_max: 0 };
        Lane::open(store, Clock::default(), settings)?.view()
    };
    (0..).zip(paths).map(view).collect::<Result<_, _>>().map_err(unusable)
}

pub fn run_restore(arguments: &[OsString]) -> Result<(), Failure> {
    let (from, folder) = match arguments {
        [help] if help == "--help" || help == "-h" => return crate::print(RESTORE_HELP),
        [from, folder] => (PathBuf::from(from), PathBuf::from(folder)),
        _ => {
            return Err(Failure::usage(
                "restore wants the folder of a backup and a folder for a broker; petrelctl restore \
                 --help explains them",
            ));
        }
    };
    let summary = backup::restore(&from, &folder).map_err(failed)?;
    crate::print(&format!("{}: {summary}\n", folder.display()))
}

fn failed(error: BackupError) -> Failure {
    Failure { text: error.to_string(), exit_code: crate::storage::UNUSABLE }
}
