//! Makes a lane's folder new of what can be read of a damaged one.
//!
//! What is in the maps is read file by file ([`crate::salvage`]), then what is in the log is folded into
//! it, and a new folder is written. The damaged one is kept beside it as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hashbrown::HashSet;
use petrel_shard::Incarnation;

use crate::check::{judge, judge_batch};
use crate::codec::{self, Clock};
use crate::disk::{Alive, DiskOptions, DiskStore};
use crate::fill::Filler;
use crate::lane::{FOLDED, LOGGED, origin};
use crate::log::{Operation, Reader};
use crate::page;
use crate::salvage::Salvage;
pub use crate::salvage::{Damage, Lost};
use crate::shared::SharedId;
use crate::store::{Space, Store, StoreError};
use crate::view::View;

/// Sessions that are named one by one.
const NAMED_MAX: usize = 20;
/// Damages that are said one by one.
const DAMAGES_MAX: usize = 100;
/// Behind so many bits of an incarnation stands its epoch.
const EPOCH_SHIFT: u32 = 44;
/// And behind so many of a place in the order of a session, and of a stream.
const PLACE_BITS: u32 = 40;
const STREAM_BITS: u32 = 32;

/// What can be read of a lane's folder, and what cannot.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Entries that can be read, by [`Space`].
    pub entries: [u64; Space::ALL.len()],
    /// Batches of the log that can be read.
    pub batches: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Client identifiers by incarnation, of all sessions whose record can be read.
    sessions: BTreeMap<u64, String>,
    /// Incarnations to which anything else belongs.
    owners: BTreeSet<u64>,
    /// The last process that gave a number to anything else.
    numbered: u32,
}

impl Survey {
    /// Sessions that may have lost something.
    #[must_use]
    pub fn affected(&self) -> Vec<&str> {
        let all = 0..=u64::MAX;
        let mut found = BTreeSet::new();
        for damage in &self.damage {
            let range = match &damage.lost {
                Lost::Nothing | Lost::Keys(Space::Retained | Space::Stream | Space::Meta, ..) => {
                    continue;
                }
                // Any session may have named it.
                Lost::Changes | Lost::Keys(Space::Shared, ..) => all.clone(),
                Lost::Keys(_, behind, before) => between(behind.as_deref(), before.as_deref()),
            };
            found.extend(self.sessions.range(range).map(|(_, client)| client.as_str()));
        }
        found.into_iter().collect()
    }

    /// Sessions of which something is left but not their record, in which their client is named. Nothing
    /// of them is of use to anybody.
    #[must_use]
    pub fn nameless(&self) -> usize {
        let may_be_lost =
            |damage: &Damage| matches!(damage.lost, Lost::Changes | Lost::Keys(Space::Session, ..));
        match self.damage.iter().any(may_be_lost) {
            true => self.owners.iter().filter(|life| !self.sessions.contains_key(life)).count(),
            // They are over.
            false => 0,
        }
    }

    /// Between which topics retained messages may have been lost.
    fn topics(&self) -> impl Iterator<Item = String> {
        let name = |key: &Option<Bytes>, none: &str| match key {
            Some(key) => format!("\"{}\"", key.escape_ascii()),
            None => none.to_owned(),
        };
        self.damage.iter().filter_map(move |damage| match &damage.lost {
            Lost::Keys(Space::Retained, behind, before) => {
                Some(format!("{} and {}", name(behind, "the first"), name(before, "the last")))
            }
            _ => None,
        })
    }

    /// The epoch of the last process of which anything is left, by the numbers that it gave.
    fn last_epoch(&self) -> u32 {
        let named = self.sessions.last_key_value().map(|(life, _)| life);
        let last = self.owners.last().max(named).map_or(0, |life| life >> EPOCH_SHIFT);
        u32::try_from(last).unwrap_or(0).max(self.numbered)
    }

    /// Notes the process that gave a number; it stands behind so many bits.
    fn note_number(&mut self, number: u64, bits: u32) {
        self.numbered = self.numbered.max(u32::try_from(number >> bits).unwrap_or(0));
    }

    /// Notes the process that gave the numbers in a key.
    fn note_key(&mut self, space: Space, key: &[u8]) {
        let number = || key.first_chunk().copied().map_or(0, u64::from_be_bytes);
        match space {
            Space::Queue => self.note_number(page::last(key), PLACE_BITS),
            Space::Shared => self.note_number(number(), SharedId::COUNT_BITS),
            Space::Stream => self.note_number(number(), STREAM_BITS),
            _ => {}
        }
    }

    /// Notes what an operation of the log says of processes.
    fn note_operation(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { space, key, .. } => self.note_key(*space, key),
            Operation::Queued { sequence, .. } => self.note_number(*sequence, PLACE_BITS),
            Operation::Shared { id, .. } => self.note_number(id.to_u64(), SharedId::COUNT_BITS),
            _ => {}
        }
    }
}

fn between(behind: Option<&[u8]>, before: Option<&[u8]>) -> RangeInclusive<u64> {
    let life =
        |key: Option<&[u8]>| key.and_then(|key| key.first_chunk()).copied().map(u64::from_be_bytes);
    life(behind).unwrap_or(0)..=life(before).unwrap_or(u64::MAX)
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in self.damage.iter().take(DAMAGES_MAX) {
            writeln!(f, "damage: {damage}")?;
        }
        if self.damage.len() > DAMAGES_MAX {
            writeln!(f, "damage: and {} more", self.damage.len() - DAMAGES_MAX)?;
        }
        for space in Space::ALL {
            writeln!(
                f,
                "can be read: {} entries of {}",
                self.entries[space as usize],
                space.name()
            )?;
        }
        writeln!(f, "can be read: {} batches of the log", self.batches)?;
        for topics in self.topics() {
            writeln!(f, "may be lost: retained messages between {topics}")?;
        }
        let affected = self.affected();
        if !affected.is_empty() {
            let named: Vec<String> =
                affected.iter().take(NAMED_MAX).map(|client| format!("{client:?}")).collect();
            let more = if affected.len() > NAMED_MAX { ", ..." } else { "" };
            writeln!(
                f,
                "may be lost: something of {} sessions: {}{more}",
                affected.len(),
                named.join(", ")
            )?;
        }
        if self.nameless() > 0 {
            let count = self.nameless();
            writeln!(f, "lost: {count} sessions of which it cannot be read whose they are")?;
        }
        let lost = self.damage.iter().filter(|damage| damage.lost != Lost::Nothing).count();
        write!(f, "{} damages, of which {lost} may have lost something", self.damage.len())
    }
}

/// Reads all that can be read of the folder of a lane, and changes nothing.
///
/// # Errors
/// A process has the folder, or the disk fails.
pub fn survey(folder: &Path) -> Result<Survey, StoreError> {
    let _lock = lock(folder)?;
    Ok(gather(folder, &mut |_, _, _| Ok(()))?.0)
}

/// Makes a folder new of what can be read of it, as lane `lane` of `lanes`. The damaged one gets a name
/// that ends in `.damaged-` and `mark`, which is returned.
///
/// *Cost*: the disk must have room for twice what can be read.
///
/// # Errors
/// A process has the folder, or the disk fails; the folder is as it was then.
pub fn repair(
    folder: &Path,
    lane: u16,
    lanes: u16,
    mark: &str,
) -> Result<(Survey, PathBuf), StoreError> {
    let _lock = lock(folder)?;
    let beside = |end: &str| {
        let mut name = folder.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let (read, repaired) = (beside(".read"), beside(".repaired"));
    let aside = beside(&format!(".damaged-{mark}"));
    for path in [&read, &repaired, &aside] {
        if path.try_exists().map_err(|error| failed(path, &error))? {
            let what =
                format!("{} is there, from an attempt that did not end; remove it", path.display());
            return Err(StoreError::Foreign { what });
        }
    }
    let made = make(folder, &read, &repaired, lane, lanes);
    let made = made.and_then(|survey| {
        fs::remove_dir_all(&read).map_err(|error| failed(&read, &error))?;
        fs::rename(folder, &aside).map_err(|error| failed(folder, &error))?;
        fs::rename(&repaired, folder).map_err(|error| failed(&repaired, &error))?;
        let parent = folder.parent().unwrap_or(folder);
        let synchronised = File::open(parent).and_then(|parent| parent.sync_all());
        synchronised.map_err(|error| failed(parent, &error))?;
        Ok((survey, aside))
    });
    if made.is_err() {
        // Nothing but what was made here.
        for path in [&read, &repaired] {
            let _ = fs::remove_dir_all(path);
        }
    }
    made
}

fn make(
    folder: &Path,
    read: &Path,
    repaired: &Path,
    lane: u16,
    lanes: u16,
) -> Result<Survey, StoreError> {
    let mut maps = DiskStore::open(read, DiskOptions::default())?;
    let mut filler = Filler::new(&mut maps);
    let mut shared = HashSet::new();
    let (survey, batches, epoch) = gather(folder, &mut |space, key, value| {
        if let (Space::Shared, Some((id, true))) = (space, SharedId::of_key(&key)) {
            shared.insert(id);
        }
        filler.put(space, key, value)
    })?;
    filler.finish()?;
    for (number, batch) in (1..).zip(&batches) {
        let mut reader = Reader::new(number, batch, 0);
        while let Some(operation) = reader.next()? {
            if let Operation::Shared { id, .. } = operation {
                shared.insert(id);
            }
        }
    }
    let _held = Alive::default().hold();
    let view = View {
        lane,
        lanes,
        epoch,
        maps: maps.maps()?,
        first: 1,
        batches,
        is_salvaged: true,
        _held,
    };
    let mut store = DiskStore::open(repaired, DiskOptions::default())?;
    let mut filler = Filler::new(&mut store);
    view.each(&mut |space, key, value| match space {
        Space::Queue => {
            // What names a message that is lost is lost with it.
            let mut waiting = page::read(value)?;
            waiting.retain(|(_, it)| codec::shared(it).is_none_or(|it| shared.contains(&it.id)));
            let life = Incarnation::from_u64(
                key.first_chunk().map_or(0, |life| u64::from_be_bytes(*life)),
            );
            for (last, page) in page::write(waiting.iter().map(|(at, value)| (*at, value))) {
                filler.put(space, page::key(life, last), page)?;
            }
            Ok(())
        }
        _ => filler.put(space, key.clone(), value.clone()),
    })?;
    filler.finish()?;
    // Numbers may have been given of which nothing is left.
    store.write(origin(lane, lanes, epoch.max(survey.last_epoch()) + 1), true)?;
    Ok(survey)
}

/// What can be read of a folder: its entries are shown, its batches returned, and the epoch it names.
fn gather(
    folder: &Path,
    show: &mut dyn FnMut(Space, Bytes, Bytes) -> Result<(), StoreError>,
) -> Result<(Survey, Vec<Bytes>, u32), StoreError> {
    let mut survey = Survey::default();
    let mut salvage = Salvage::survey(folder)?;
    let (mut epoch, mut folded) = (0, None);
    let mut unsound = Vec::new();
    salvage.each(&mut |space, key, value| {
        if let Err(what) = judge(space, &key, &value) {
            let what = format!("{} {}: {what}", space.name(), key.escape_ascii());
            let lost = Lost::Keys(space, Some(key.clone()), Some(key));
            unsound.push(Damage { path: folder.into(), what, lost });
            return Ok(());
        }
        survey.entries[space as usize] += 1;
        survey.note_key(space, &key);
        match space {
            Space::Session => survey.session(&key, &value),
            Space::Subscription | Space::Queue | Space::Receipt => survey.owner(&key),
            Space::Meta if &key[..] == b"epoch" => {
                epoch = value[..].try_into().map_or(0, u32::from_be_bytes);
            }
            Space::Meta if &key[..] == FOLDED => {
                folded = value[..].try_into().map(u64::from_be_bytes).ok();
            }
            _ => {}
        }
        show(space, key, value)
    })?;
    survey.damage = salvage.damage;
    survey.damage.append(&mut unsound);
    let batches = crate::salvage::log::read(folder, folded, &mut survey.damage)?;
    let mut log = Vec::new();
    for batch in batches {
        match judge_batch(log.len() as u64 + 1, &batch) {
            Ok(()) => log.push(batch),
            Err(what) => {
                survey.damage.push(Damage { path: folder.into(), what, lost: Lost::Changes });
            }
        }
    }
    survey.batches = log.len() as u64;
    for (number, batch) in (1..).zip(&log) {
        let mut reader = Reader::new(number, batch, 0);
        while let Some(operation) = reader.next()? {
            survey.note_operation(&operation);
            match operation {
                Operation::Put { space: Space::Session, key, value } => {
                    let start = value.start as usize;
                    survey.session(&key, &batch.slice(start..start + value.bytes as usize));
                }
                Operation::Put { space: Space::Meta, key, value } if &key[..] == LOGGED => {
                    let start = value.start as usize;
                    let logged =
                        batch[start..].first_chunk().copied().map_or(0, u32::from_be_bytes);
                    epoch = epoch.max(logged);
                }
                Operation::Queued { incarnation, .. } => {
                    survey.owners.insert(incarnation.to_u64());
                }
                Operation::Ended { incarnation } => {
                    survey.owners.remove(&incarnation.to_u64());
                    survey.sessions.remove(&incarnation.to_u64());
                }
                _ => {}
            }
        }
    }
    Ok((survey, log, epoch))
}

impl Survey {
    fn owner(&mut self, key: &[u8]) {
        self.owners.extend(key.first_chunk().copied().map(u64::from_be_bytes));
    }

    fn session(&mut self, key: &[u8], value: &Bytes) {
        let Some(life) = key.first_chunk().copied().map(u64::from_be_bytes) else { return };
        let session = codec::session(Incarnation::from_u64(life), value.clone(), Clock::default());
        if let Ok(session) = session {
            let client = String::from_utf8_lossy(session.client_id.as_bytes()).into_owned();
            self.sessions.insert(life, client);
        }
    }
}

/// Keeps other processes from the folder of a lane.
fn lock(folder: &Path) -> Result<Option<File>, StoreError> {
    let path = folder.join("lock");
    let file = match File::open(&path) {
        // Nobody can have it then.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| failed(&path, &error))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::InUse { path: folder.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(failed(&path, &error)),
    }
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { why: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests;
