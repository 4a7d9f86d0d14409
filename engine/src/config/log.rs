//! `[log]`: the keys, and the rules about more than one of them.

use std::path::Path;

use super::keys::{Key, Kind};
use super::problem::Problems;
use super::read::Places;
use crate::log::{Area, Destination, Format, Level, LogConfig};

/// A key that says which lines of an area are wanted.
macro_rules! level {
    ($name:literal, $area:ident) => {
        Key {
            name: $name,
            unit: "",
            kind: Kind::Choice {
                names: Level::NAMES,
                get: |log| Some(log.levels.of(Area::$area).name().to_owned()),
                set: |log, name| {
                    if let Some(level) = Level::from_name(name) {
                        log.levels.0[Area::$area as usize] = level;
                    }
                },
            },
        }
    };
}

/// A numeric key.
macro_rules! number {
    ($name:literal, $($field:ident).+, $type:ty, $min:expr, $max:expr, $unit:literal) => {
        Key {
            name: $name,
            unit: $unit,
            kind: Kind::Integer {
                min: $min,
                max: $max,
                get: |log| Some(u64::from(log.$($field).+)),
                set: |log, value| log.$($field).+ = <$type>::try_from(value).unwrap_or(<$type>::MAX),
            },
        }
    };
}

pub(super) const LOG: &[Key<LogConfig>] = &[
    Key {
        name: "format",
        unit: "",
        kind: Kind::Choice {
            names: Format::NAMES,
            get: |log| Some(log.format.name().to_owned()),
            set: |log, name| log.format = Format::from_name(name).unwrap_or_default(),
        },
    },
    Key {
        name: "to",
        unit: "",
        kind: Kind::Choice {
            names: Destination::NAMES,
            get: |log| Some(log.to.name().to_owned()),
            set: |log, name| log.to = Destination::from_name(name).unwrap_or_default(),
        },
    },
    Key {
        name: "file",
        unit: "",
        kind: Kind::Text { set: |log, text| log.file = Some(text.into()) },
    },
    number!("file_bytes_maximum", file_bytes_maximum, u64, 4096, 1 << 50, "bytes"),
    number!("files_kept", files_kept, u32, 0, 1000, "files"),
    Key {
        name: "journal_socket",
        unit: "",
        kind: Kind::Text { set: |log, text| log.journal_socket = text.into() },
    },
    number!("lines_per_s", rate.lines_per_s, u32, 1, 100_000, "lines"),
    number!("lines_burst", rate.lines_burst, u32, 1, 1_000_000, "lines"),
    level!("broker", Broker),
    level!("clients", Clients),
    level!("authentication", Authentication),
    level!("messages", Messages),
    level!("listeners", Listeners),
    level!("storage", Storage),
    level!("load", Load),
    level!("admin", Admin),
];

/// Holds the rules about more than one key, and resolves the path.
pub(super) fn check(log: &mut LogConfig, places: &Places, folder: &Path, problems: &mut Problems) {
    let at = |name: &str| places.get(name).copied();
    let to = log.to.name();
    match (&mut log.file, log.to) {
        (Some(file), Destination::File) if file.as_os_str().is_empty() => {
            let text = "`file` is empty; name a file, as in file = \"petrel.log\"";
            problems.add(at("file").unwrap_or(0), text);
        }
        (Some(file), Destination::File) => *file = folder.join(&file),
        (None, Destination::File) => {
            let text =
                "`to` is \"file\", and nothing says which; add `file`, as in file = \"petrel.log\"";
            problems.add(at("to").unwrap_or(0), text);
        }
        _ => {}
    }
    for name in ["file", "file_bytes_maximum", "files_kept"] {
        if let Some(at) = at(name)
            && log.to != Destination::File
        {
            let text = format!(
                "`{name}` has no use while lines go to {to}; add to = \"file\", or leave it out"
            );
            problems.add(at, text);
        }
    }
    if let Some(at) = at("format")
        && log.to == Destination::Journald
        && log.format != Format::Text
    {
        problems
            .add(at, "`format` has no use with to = \"journald\", which has its own; leave it out");
    }
}

impl LogConfig {
    /// This with all of another that can be taken on while it runs; true if that is not all of it.
    pub(super) fn taking_on(&self, new: &Self) -> (Self, bool) {
        let taken = Self { rate: new.rate, levels: new.levels, ..self.clone() };
        let is_left = taken != *new;
        (taken, is_left)
    }
}
