//! `petrelctl storage`: looks at what a broker keeps, while it runs or not.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use petrel_storage::control::{self, Answer, Request};
use petrel_storage::repair::survey;
use petrel_storage::{DiskOptions, DiskStore, check};

use serde_json::Value;

use crate::admin::reach::{Reach, say};
use crate::admin::{bytes, shown};
use crate::ban::by_socket;
use crate::failure::Failure;

/// Look at the folder in which a broker keeps things, while the broker runs or not.
#[derive(clap::Args)]
#[command(
    after_help = "\
Exit codes: 0 nothing is wrong or it is mended, 1 something cannot be read, or wrong usage, 3 the folder is in use, \
holds nothing, or the disk fails.",
    arg_required_else_help = false
)]
pub struct StorageArguments {
    #[command(subcommand)]
    command: StorageCommand,
}

#[derive(clap::Subcommand)]
enum StorageCommand {
    /// Read everything and say what is there and what cannot be read.
    #[command(
        after_help = "A journal whose end was torn by a failure is cut there, as the broker would do. A broker \
                            that runs reads what it keeps at the moment, and goes on."
    )]
    Check {
        /// The `path` of [storage] in the broker's configuration.
        folder: PathBuf,
    },
    /// Say what it takes of the disk.
    Stat {
        /// The `path` of [storage] in the broker's configuration; without it the admin interface of a broker that runs
        /// is asked.
        #[arg(value_name = "FOLDER")]
        path: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Say what is damaged, what can be read and what is lost, and mend it if that is wanted.
    #[command(
        after_help = "The broker must not run, and the disk must have room for twice what can be read."
    )]
    Repair {
        /// The `path` of [storage] in the broker's configuration.
        folder: PathBuf,
        /// Make a new folder of all that can be read, and keep the damaged one beside it.
        #[arg(long)]
        yes: bool,
    },
}

/// The folder cannot be looked at.
pub const UNUSABLE: u8 = 3;

/// What is asked of a folder.
#[derive(Clone, Copy)]
enum Asked {
    Check,
    Stat,
}

impl StorageArguments {
    /// Looks, or mends.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            StorageCommand::Check { folder } => look(Asked::Check, &folder),
            StorageCommand::Stat { path, reach } => match by_socket(path, &reach)? {
                Some(folder) => look(Asked::Stat, &folder),
                None => say(&reach, &reach.broker()?.get("/api/v1/storage")?, told),
            },
            StorageCommand::Repair { folder, yes } => repair(&folder, yes),
        }
    }
}

/// What a broker says of its storage by its admin interface.
fn told(it: &Value) -> String {
    if it["path"].is_null() {
        return "nothing is kept: the broker has no [storage] path\n".to_owned();
    }
    format!(
        "{}\nfiles       {}\nfree        {}\nin trouble  {} lanes, {} times since the start\nrefused     {} messages\n",
        shown(&it["path"]),
        bytes(&it["bytes"]),
        bytes(&it["free_bytes"]),
        it["lanes_in_trouble"],
        it["troubles"],
        it["refused"],
    )
}

fn look(asked: Asked, folder: &Path) -> Result<(), Failure> {
    let request = match asked {
        Asked::Check => Request::Check,
        Asked::Stat => Request::Stat,
    };
    let mut faults = 0;
    if let Some(answer) = self::asked(folder, &request)? {
        faults = answer.faults;
        crate::print(&answer.text)?;
    } else {
        for lane in lanes(folder)? {
            let text = match asked {
                Asked::Check => {
                    let report = check(&lane, DiskOptions::default()).map_err(unusable)?;
                    faults += report.faults_total;
                    report.to_string()
                }
                Asked::Stat => stat(&lane)?,
            };
            crate::print(&format!("{}\n{text}\n", lane.display()))?;
        }
    }
    match faults {
        0 => Ok(()),
        _ => Err(Failure::new(format!("{faults} things cannot be read, see above"))),
    }
}

/// Says what is damaged, and mends it if that is wanted.
fn repair(folder: &Path, is_wanted: bool) -> Result<(), Failure> {
    // What says that it is a store may be what is missing.
    let paths = lanes_that(folder, |lane| lane.is_dir())?;
    let count = paths.len() as u16;
    let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mark = taken_at.as_secs().to_string();
    let mut damaged = Vec::new();
    for (lane, path) in (0..).zip(paths) {
        let survey = survey(&path).map_err(unusable)?;
        crate::print(&format!("{}\n{survey}\n", path.display()))?;
        if !survey.damage.is_empty() {
            damaged.push((lane, path));
        }
    }
    if damaged.is_empty() {
        return crate::print("nothing is damaged, nothing was changed\n");
    }
    if !is_wanted {
        return Err(Failure::new(
            "nothing was changed; --yes makes a new folder of what can be read",
        ));
    }
    for (lane, path) in damaged {
        let (_, aside) =
            petrel_storage::repair::repair(&path, lane, count, &mark).map_err(unusable)?;
        crate::print(&format!("{} is new; what it was is {}\n", path.display(), aside.display()))?;
    }
    Ok(())
}

/// The folders of the lanes, in order.
pub fn lanes(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    lanes_that(folder, DiskStore::exists)
}

fn lanes_that(folder: &Path, is_one: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let lane = |number: u32| folder.join(format!("lane-{number}"));
    let lanes: Vec<PathBuf> = (0..).map(lane).take_while(|lane| is_one(lane)).collect();
    if lanes.is_empty() {
        let text = format!("{} holds nothing that a broker kept", folder.display());
        return Err(Failure { text, exit_code: UNUSABLE });
    }
    Ok(lanes)
}

fn stat(lane: &Path) -> Result<String, Failure> {
    let store = DiskStore::open(lane, DiskOptions::default()).map_err(unusable)?;
    Ok(store.usage().map_err(unusable)?.to_string())
}

/// Asks the broker that has the folder; `None` if none has it.
pub fn asked(folder: &Path, request: &Request) -> Result<Option<Answer>, Failure> {
    let unusable = |text: String| Failure { text, exit_code: UNUSABLE };
    let answer = control::ask(folder, request)
        .map_err(|error| unusable(format!("the broker of {}: {error}", folder.display())))?;
    answer.transpose().map_err(unusable)
}

pub fn unusable(error: petrel_storage::StoreError) -> Failure {
    Failure { text: error.to_string(), exit_code: UNUSABLE }
}
