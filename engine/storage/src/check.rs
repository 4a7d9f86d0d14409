//! Reads everything that is kept, as after a restart, and says what cannot be read.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use petrel_proto::PacketId;
use petrel_shard::Incarnation;

use crate::codec::{self, Clock, Unreadable};
use crate::disk::{DiskOptions, DiskStore};
use crate::journal;
use crate::lane::{FOLDED, LOGGED};
use crate::log::{Operation, Reader};
use crate::page;
use crate::shared::{Named, SharedId};
use crate::store::{Space, Store, StoreError, Visitor};
use crate::view::View;

/// Faults that are said one by one; of more, only the number is said.
const FAULTS_MAX: usize = 1000;

/// What [`check`] has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys, by [`Space`].
    pub keys: [u64; Space::ALL.len()],
    /// Messages in pages.
    pub messages: u64,
    /// Batches in the log.
    pub batches: u64,
    /// Operations in the log.
    pub operations: u64,
    /// What cannot be read, and where; at most a thousand of them.
    pub faults: Vec<String>,
    /// How many faults there are.
    pub faults_total: u64,
    shared: HashMap<SharedId, Tally>,
}

/// What is found of a message that several sessions share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    /// Messages in pages that name it.
    named: u64,
    /// So many should.
    counted: u64,
    is_there: bool,
    /// It expires, and the sweep may have taken it.
    may_be_gone: bool,
}

impl Report {
    fn fault(&mut self, what: String) {
        self.faults_total += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }

    /// Notes an entry of the messages that several sessions share.
    fn tally(&mut self, key: &[u8], value: &[u8]) {
        match SharedId::of_key(key) {
            Some((id, true)) => self.shared.entry(id).or_default().is_there = true,
            Some((id, false)) => {
                let counted = Named::read(value).map_or(0, |named| named.count);
                self.shared.entry(id).or_default().counted = counted;
            }
            None => {}
        }
    }

    /// Compares what is there of messages that several sessions share with what names them. One that
    /// nobody names is no fault: it takes room until it expires.
    fn compare_shared(&mut self) {
        for (id, tally) in std::mem::take(&mut self.shared) {
            let Tally { named, counted, is_there, may_be_gone } = tally;
            let name = id.to_u64();
            if named > 0 && !may_be_gone && !is_there {
                self.fault(format!(
                    "shared {name:#x}: {named} messages name it, and it is missing"
                ));
            } else if named > counted && !may_be_gone {
                self.fault(format!("shared {name:#x}: {named} messages name it, not {counted}"));
            }
        }
    }

    fn note(&mut self, space: Space, key: &[u8], fault: Result<(), String>) {
        if let Err(what) = fault {
            self.fault(format!("{} {}: {what}", space.name(), key.escape_ascii()));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for space in Space::ALL {
            writeln!(f, "{}: {} keys", space.name(), self.keys[space as usize])?;
        }
        writeln!(f, "{} messages in pages", self.messages)?;
        writeln!(f, "{} operations in {} batches of the log", self.operations, self.batches)?;
        for fault in &self.faults {
            writeln!(f, "fault: {fault}")?;
        }
        write!(f, "{} faults", self.faults_total)
    }
}

/// Reads everything in a folder. A journal whose end was torn is cut there, and nothing else changes
/// that a start of the broker would not change.
///
/// # Errors
/// Another process has the folder, there is nothing in it, or the disk fails. Damage is no error but
/// part of the report.
pub fn check(path: &Path, options: DiskOptions) -> Result<Report, StoreError> {
    if !DiskStore::exists(path) {
        return Err(StoreError::Failed { why: format!("{} holds no data", path.display()) });
    }
    let mut report = Report::default();
    match DiskStore::open(path, options) {
        Ok(mut store) => read(&mut store, &mut report),
        Err(StoreError::Damaged { what }) => {
            report.fault(what);
            read_journals(path, &mut report);
        }
        Err(error) => return Err(error),
    }
    Ok(report)
}

/// Says of each journal whether it is whole, since the first fault has hidden the others.
fn read_journals(path: &Path, report: &mut Report) {
    let journals = journal::journals(path).and_then(|paths| {
        paths.iter().map(|path| journal::read(path)).collect::<Result<Vec<_>, _>>()
    });
    match journals {
        Ok(journals) => {
            for journal in journals {
                if let journal::Rest::Damaged { followed_by } = journal.rest {
                    report.fault(format!(
                        "{}: {} whole batches, then damage at byte {}, then {followed_by}",
                        journal.path.display(),
                        journal.batches,
                        journal.whole_bytes
                    ));
                }
            }
        }
        Err(error) => report.fault(error.to_string()),
    }
}

/// Reads everything in a store.
pub fn read(store: &mut impl Store, report: &mut Report) {
    read_maps(|space, visit| store.scan(space, &[], visit), report, &mut || true);
    let folded = store.get(Space::Meta, FOLDED).ok().flatten();
    let from = folded.and_then(|bytes| bytes[..].try_into().ok()).map_or(1, u64::from_be_bytes);
    match store.read_log(from, u64::MAX) {
        Ok(batches) => batches.iter().for_each(|(number, bytes)| batch(*number, bytes, report)),
        Err(error) => report.fault(error.to_string()),
    }
}

/// Reads everything of a lane at one moment. `goes_on` is asked from time to time, and calls it off by
/// saying why.
///
/// # Errors
/// It was called off.
pub fn check_view(
    view: &View,
    goes_on: &mut dyn FnMut() -> Result<(), String>,
) -> Result<Report, String> {
    let mut report = Report::default();
    let mut stopped = Ok(());
    let mut read = 0u64;
    read_maps(|space, visit| view.maps.scan(space, &[], visit), &mut report, &mut || {
        read += 1;
        if read.is_multiple_of(1_000) {
            stopped = goes_on();
        }
        stopped.is_ok()
    });
    for (number, bytes) in (view.first..).zip(&view.batches) {
        stopped.clone()?;
        batch(number, bytes, &mut report);
        stopped = goes_on();
    }
    stopped.map(|()| report)
}

/// Reads everything that `scan` shows of the maps, until `goes_on` says no.
fn read_maps(
    scan: impl Fn(Space, &mut Visitor<'_>) -> Result<(), StoreError>,
    report: &mut Report,
    goes_on: &mut dyn FnMut() -> bool,
) {
    for space in Space::ALL {
        let whole = scan(space, &mut |key, value| {
            report.keys[space as usize] += 1;
            let found = match space {
                Space::Queue => queue(key, value, report),
                _ => entry(space, key, value),
            };
            if space == Space::Shared {
                report.tally(key, value);
            }
            report.note(space, key, found);
            if goes_on() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = whole {
            report.fault(format!("{}: the rest was not read: {error}", space.name()));
        }
    }
    report.compare_shared();
}

/// Says what cannot be read of one entry.
pub(crate) fn judge(space: Space, key: &[u8], value: &Bytes) -> Result<(), String> {
    match space {
        Space::Queue => queue(key, value, &mut Report::default()),
        _ => entry(space, key, value),
    }
}

/// Says what cannot be read of a batch of the log.
pub(crate) fn judge_batch(number: u64, bytes: &Bytes) -> Result<(), String> {
    let mut report = Report::default();
    batch(number, bytes, &mut report);
    report.faults.pop().map_or(Ok(()), Err)
}

fn expected(Unreadable { expected }: Unreadable) -> String {
    format!("{expected} was expected")
}

fn incarnation(key: &[u8]) -> Result<Incarnation, String> {
    let bytes = key.first_chunk::<8>().ok_or("the key is too short for a session")?;
    Ok(Incarnation::from_u64(u64::from_be_bytes(*bytes)))
}

/// Reads an entry of a space that does not hold pages.
fn entry(space: Space, key: &[u8], value: &Bytes) -> Result<(), String> {
    let clock = Clock::default();
    match space {
        Space::Session if codec::is_group(value) => {
            incarnation(key)?;
            codec::group(value.clone()).map_err(expected)?;
        }
        Space::Session => {
            codec::session(incarnation(key)?, value.clone(), clock).map_err(expected)?;
        }
        Space::Subscription => {
            incarnation(key)?;
            codec::subscription(value).map_err(expected)?;
            codec::filter(&key[8..]).map_err(expected)?;
        }
        Space::Receipt => {
            incarnation(key)?;
            let number = key[8..].try_into().map(u16::from_be_bytes).ok();
            number.and_then(PacketId::new).ok_or("a packet identifier was expected")?;
        }
        Space::Retained => {
            let (message, _) = codec::retained(value.clone(), clock).map_err(expected)?;
            if message.topic.as_bytes() != key {
                return Err("the message has another topic".into());
            }
        }
        Space::Stream if key.len() != 8 || value.len() != 8 => {
            return Err("how far a stream has come was expected".into());
        }
        // What else is noted there is known to whoever noted it.
        Space::Meta
            if matches!(key, b"format" | b"lane" | b"epoch" | LOGGED) && value.len() != 4 =>
        {
            return Err("a number was expected".into());
        }
        Space::Meta if key == FOLDED && value.len() != 8 => {
            return Err("the number of a batch was expected".into());
        }
        Space::Shared => match SharedId::of_key(key).ok_or("the name of a message was expected")? {
            (_, true) => {
                codec::message(value.clone(), clock).map_err(expected)?;
            }
            (_, false) => {
                Named::read(value).ok_or("a count was expected")?;
            }
        },
        Space::Stream | Space::Meta | Space::Queue => {}
    }
    Ok(())
}

/// Reads a batch of the log.
fn batch(number: u64, batch: &Bytes, report: &mut Report) {
    report.batches += 1;
    if let Err(what) = operations(number, batch, report) {
        report.fault(format!("batch {number} of the log: {what}"));
    }
}

fn operations(number: u64, batch: &Bytes, report: &mut Report) -> Result<(), String> {
    let mut reader = Reader::new(number, batch, 0);
    let mut named = HashSet::new();
    while let Some(operation) = reader.next().map_err(|error| error.to_string())? {
        report.operations += 1;
        let bytes = |place: crate::log::Place| {
            batch.slice(place.start as usize..place.start as usize + place.bytes as usize)
        };
        match operation {
            Operation::Put { space, key, value } => entry(space, &key, &bytes(value))?,
            Operation::Queued { value, .. } | Operation::Released { value, .. } => {
                let value = bytes(value);
                if codec::shared(&value).is_some_and(|shared| !named.contains(&shared.id)) {
                    return Err("a message that several sessions share is missing".into());
                }
                codec::judge_waiting(value).map_err(expected)?;
            }
            Operation::Shared { id, value } => {
                codec::message(bytes(value), Clock::default()).map_err(expected)?;
                named.insert(id);
            }
            Operation::Remove { .. } | Operation::Done { .. } | Operation::Ended { .. } => {}
        }
    }
    Ok(())
}

/// Reads a page.
fn queue(key: &[u8], value: &Bytes, report: &mut Report) -> Result<(), String> {
    incarnation(key)?;
    let entries = page::read(value).map_err(|error| error.to_string())?;
    if entries.last().is_none_or(|(last, _)| *last != page::last(key)) {
        return Err("the page ends with another message than its key says".into());
    }
    if !entries.is_sorted_by(|(one, _), (other, _)| one < other) {
        return Err("the messages are out of order".into());
    }
    for (sequence, value) in entries {
        report.messages += 1;
        if let Some(shared) = codec::shared(&value) {
            let tally = report.shared.entry(shared.id).or_default();
            tally.named += 1;
            tally.may_be_gone = shared.goes_at_wall_ms() < u64::MAX;
        }
        codec::judge_waiting(value)
            .map_err(|unreadable| format!("message {sequence}: {}", expected(unreadable)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use petrel_shard::record::Record;

    use super::*;
    use crate::{Batch, sample};

    /// A folder with a session, for which 20 messages wait in pages and 20 in the log.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
        let mut lane = sample::lane(store, 0);
        let message = sample::message("a/b", &b"something"[..]);
        let mut records = vec![sample::session(1), Record::Retained(message.clone(), None)];
        for half in 0..2 {
            let sequences = half * 20..(half + 1) * 20;
            records.extend(sequences.map(|sequence| sample::queued(1, sequence, &message)));
            sample::commit(&mut lane, records.drain(..));
            if half == 0 {
                sample::fold(&mut lane);
            }
        }
        folder
    }

    #[test]
    fn a_whole_folder_has_no_faults() {
        let folder = folder();
        let report = check(folder.path(), DiskOptions::default()).unwrap();
        assert_eq!((report.messages, report.operations, report.faults_total), (20, 20, 0));
        assert_eq!(report.batches, 1);
        assert_eq!(report.keys, [5, 1, 0, 4, 0, 1, 0, 0]);
        assert!(report.to_string().ends_with("0 faults"), "{report}");
    }

    #[test]
    fn what_no_codec_can_read_is_a_fault_and_the_rest_is_read() {
        let folder = folder();
        let mut store = DiskStore::open(folder.path(), DiskOptions::default()).unwrap();
        for space in Space::ALL {
            let mut batch = Batch::default();
            let key = if space == Space::Meta { &b"epoch"[..] } else { b"key" };
            batch.put(space, key, &b"nonsense"[..]);
            store.write(batch, true).unwrap();
        }
        drop(store);
        let report = check(folder.path(), DiskOptions::default()).unwrap();
        assert_eq!(report.faults_total, Space::ALL.len() as u64, "{report}");
        assert_eq!((report.messages, report.operations), (20, 20), "{report}");
        assert!(report.faults.iter().any(|fault| fault.contains("retained key:")), "{report}");
    }

    #[test]
    fn a_damaged_journal_is_a_fault_with_its_place() {
        let folder = folder();
        let path = folder.path().join("0.jnl");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let report = check(folder.path(), DiskOptions::default()).unwrap();
        assert!(report.faults_total > 0);
        assert!(report.to_string().contains("0.jnl cannot be read at byte 0"), "{report}");
    }

    #[test]
    fn a_folder_without_data_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path(), DiskOptions::default()).unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
