//! `petrelctl backup` and `petrelctl restore`: everything that a broker keeps, as plain files.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use petrel_storage::backup::{self, BackupError};
use petrel_storage::control::Request;
use petrel_storage::{Clock, DiskOptions, DiskStore, Lane, LaneSettings, SyncLevel, View};

use crate::failure::Failure;
use crate::storage::{asked, lanes, unusable};

/// Write everything that a broker keeps into a folder, while the broker runs or not.
#[derive(clap::Args)]
#[command(after_help = "\
Everything that was acknowledged before the command began is in the backup. It is whole once the command has ended \
well: until then it has no file `manifest`, and cannot be restored. If the broker runs it writes the backup itself, \
as the user that it runs as.

Exit codes: 0 the backup is whole, 1 wrong usage, 3 there is none.")]
pub struct BackupArguments {
    /// The `path` of [storage] in the broker's configuration.
    folder: PathBuf,
    /// Where the backup goes: is made, or must be empty, and is not inside FOLDER.
    dir: PathBuf,
}

/// Make a folder that a broker starts from out of a backup.
#[derive(clap::Args)]
#[command(after_help = "\
The broker needs as many lanes as it had.

Exit codes: 0 everything is there as it was, 1 wrong usage, 3 nothing was made.")]
pub struct RestoreArguments {
    /// What petrelctl backup has written; all of it is read and compared with its checksums before anything is made.
    dir: PathBuf,
    /// The folder for the broker, which must not be there, or be empty.
    folder: PathBuf,
}

impl BackupArguments {
    /// Writes the backup.
    pub fn run(self) -> Result<(), Failure> {
        back_up(&self.folder, &self.dir)
    }
}

impl RestoreArguments {
    /// Makes the folder.
    pub fn run(self) -> Result<(), Failure> {
        let summary = backup::restore(&self.dir, &self.folder).map_err(failed)?;
        crate::print(&format!("{}: {summary}\n", self.folder.display()))
    }
}

fn back_up(folder: &Path, into: &Path) -> Result<(), Failure> {
    let whole = std::path::absolute(into)
        .map_err(|error| Failure::usage(format!("{}: {error}", into.display())))?;
    if whole.to_str().is_none() {
        return Err(Failure::usage(format!("{}: the path is not UTF-8", into.display())));
    }
    backup::refuse_inside(folder, &whole).map_err(failed)?;
    if let Some(answer) = asked(folder, &Request::Backup { into: whole })? {
        return crate::print(&format!("{}\n", answer.text));
    }
    let views = views(folder)?;
    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let taken_at_ms = u64::try_from(taken_at.as_millis()).unwrap_or(u64::MAX);
    let summary = backup::write(into, views, taken_at_ms, &mut || Ok(())).map_err(failed)?;
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

fn failed(error: BackupError) -> Failure {
    Failure { text: error.to_string(), exit_code: crate::storage::UNUSABLE }
}
