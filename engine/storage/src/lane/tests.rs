//! Lanes against the obvious way, over a disk that fails.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use petrel_proto::{PacketId, Qos, SubscriptionOptions, Text, TopicFilter, TopicName};
use petrel_shard::Slot;
use petrel_shard::input::Counted;
use petrel_shard::outbox::Count;
use petrel_shard::peer::GroupKey;
use proptest::prelude::*;

use petrel_shard::Message;
use petrel_shard::record::{DeliveryRecord, Provided, SessionRecord, Stored, SubscriptionRecord};

use super::*;
use crate::disk::{Alive, DiskOptions, DiskStore, Sweep};
use crate::memory::{Fault, MemoryStore};
use crate::sample;

/// A store that a test can break, as far as it can be broken.
trait Breakable: Store {
    fn break_next(&mut self, _fault: Fault) {}
    fn mend(&mut self) {}
    fn set_survival(&mut self, _maps: u32, _log: u32) {}
    /// The machine fails and starts again. False if all that was written has survived.
    fn crash(&mut self) -> bool;
}

impl Breakable for MemoryStore {
    fn break_next(&mut self, fault: Fault) {
        Self::break_next(self, fault);
    }

    fn mend(&mut self) {
        Self::mend(self);
    }

    fn set_survival(&mut self, maps: u32, log: u32) {
        Self::set_survival(self, maps, log);
    }

    fn crash(&mut self) -> bool {
        Self::crash(self);
        true
    }
}

impl Breakable for DiskStore {
    fn crash(&mut self) -> bool {
        self.reopen().unwrap();
        false
    }
}

/// What the records say, kept in the obvious way.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    sessions: BTreeMap<u64, SessionRecord>,
    groups: BTreeMap<u64, GroupKey>,
    subscriptions: BTreeMap<(u64, String), (u32, bool)>,
    receipts: BTreeSet<(u64, u16)>,
    waiting: BTreeMap<(u64, u64), Option<DeliveryRecord>>,
    retained: BTreeMap<String, (Message, Option<Vec<u8>>)>,
    streams: BTreeMap<u64, u64>,
}

impl Model {
    fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::Session(session) => {
                self.sessions.insert(session.incarnation.to_u64(), *session);
            }
            Record::Ended { incarnation } => {
                let id = incarnation.to_u64();
                self.sessions.remove(&id);
                self.groups.remove(&id);
                self.subscriptions.retain(|(of, _), _| *of != id);
                self.receipts.retain(|(of, _)| *of != id);
                self.waiting.retain(|(of, _), _| *of != id);
            }
            Record::Subscribed(s) => {
                let key = (s.incarnation.to_u64(), s.filter.text().as_str().to_owned());
                self.subscriptions.insert(key, (s.identifier, s.awaits_retained));
            }
            Record::Unsubscribed { incarnation, filter } => {
                let key = (incarnation.to_u64(), filter.text().as_str().to_owned());
                self.subscriptions.remove(&key);
            }
            Record::Queued { incarnation, sequence, delivery } => {
                self.waiting.insert((incarnation.to_u64(), sequence), Some(*delivery));
            }
            Record::Done { incarnation, sequence } => {
                self.waiting.remove(&(incarnation.to_u64(), sequence));
            }
            Record::Group { incarnation, key } => {
                self.groups.insert(incarnation.to_u64(), (*key).clone());
            }
            Record::Moved { incarnation, sequence, provided } => {
                self.waiting.remove(&(incarnation.to_u64(), sequence));
                self.streams.insert(provided.stream.to_u64(), provided.number);
            }
            Record::Released { incarnation, sequence } => {
                self.waiting.insert((incarnation.to_u64(), sequence), None);
            }
            Record::Received { incarnation, packet_id, provided } => {
                self.receipts.insert((incarnation.to_u64(), packet_id.get()));
                self.streams.insert(provided.stream.to_u64(), provided.number);
            }
            Record::Forgotten { incarnation, packet_id } => {
                self.receipts.remove(&(incarnation.to_u64(), packet_id.get()));
            }
            Record::Retained(message, author) => {
                let topic = message.topic.text().as_str().to_owned();
                let author = author.as_deref().map(|author| author.as_bytes().to_vec());
                self.retained.insert(topic, ((*message).clone(), author));
            }
            Record::Cleared(topic) => {
                self.retained.remove(topic.text().as_str());
            }
        }
    }

    /// What a lane says, as far as it is compared.
    fn of<S: Store>(lane: &Lane<S>, page: usize) -> Self {
        let mut model = Self::default();
        lane.sessions(|session| {
            model.sessions.insert(session.incarnation.to_u64(), session);
        })
        .unwrap();
        lane.groups(|incarnation, key| {
            model.groups.insert(incarnation.to_u64(), key);
        })
        .unwrap();
        let alive: BTreeSet<u64> =
            model.sessions.keys().chain(model.groups.keys()).copied().collect();
        lane.subscriptions(|s| {
            let key = (s.incarnation.to_u64(), s.filter.text().as_str().to_owned());
            if alive.contains(&key.0) {
                model.subscriptions.insert(key, (s.identifier, s.awaits_retained));
            }
        })
        .unwrap();
        lane.receipts(|incarnation, packet_id| {
            if alive.contains(&incarnation.to_u64()) {
                model.receipts.insert((incarnation.to_u64(), packet_id.get()));
            }
        })
        .unwrap();
        lane.retained(|message, author| {
            let author = author.map(|author| author.as_bytes().to_vec());
            model.retained.insert(message.topic.text().as_str().to_owned(), (message, author));
        })
        .unwrap();
        for &id in &alive {
            let mut from = 0;
            loop {
                let life = Incarnation::from_u64(id);
                let part = lane.load(life, from..u64::MAX, page, page * 40).unwrap();
                assert!(part.messages.is_sorted_by_key(|stored| stored.sequence));
                for Stored { sequence, delivery } in part.messages {
                    assert!(sequence >= from, "{sequence} comes again");
                    model.waiting.insert((id, sequence), delivery);
                    assert!(part.next.is_none_or(|next| next > sequence));
                }
                match part.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        model.streams = lane.streams.iter().map(|(s, n)| (s.to_u64(), *n)).collect();
        model
    }
}

impl Model {
    fn difference(&self, other: &Self) -> String {
        let keys = |model: &Self| -> Vec<(u64, u64)> { model.waiting.keys().copied().collect() };
        let parts = [
            ("sessions", self.sessions == other.sessions),
            ("subscriptions", self.subscriptions == other.subscriptions),
            ("receipts", self.receipts == other.receipts),
            ("retained", self.retained == other.retained),
            ("streams", self.streams == other.streams),
        ];
        let others: Vec<_> = parts.iter().filter(|(_, same)| !same).map(|(name, _)| name).collect();
        format!("{others:?} differ; waiting {:?} against {:?}", keys(self), keys(other))
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Something happens to the nth session.
    Act {
        session: usize,
        what: u8,
        pick: u16,
    },
    Commit {
        urgent: bool,
    },
    Fold,
    Fault {
        kind: u8,
        survives: (u32, u32),
    },
    Crash {
        survives: (u32, u32),
    },
}

/// How much of the maps and of the log survives, in thousandths.
fn survival() -> impl Strategy<Value = (u32, u32)> {
    (0u32..=1000, 0u32..=1000)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let act = (0usize..4, any::<u8>(), any::<u16>());
    let step = prop_oneof![
        20 => act.prop_map(|(session, what, pick)| Step::Act { session, what, pick }),
        4 => any::<bool>().prop_map(|urgent| Step::Commit { urgent }),
        6 => Just(Step::Fold),
        1 => (0u8..3, survival()).prop_map(|(kind, survives)| Step::Fault { kind, survives }),
        1 => survival().prop_map(|survives| Step::Crash { survives }),
    ];
    prop::collection::vec(step, 0..200)
}

/// Makes records that a shard could make.
struct Author {
    lives: [u64; 4],
    count: u32,
    sequence: u64,
    known: Model,
    /// What was queued last, and is perhaps queued for another session as well.
    last: Option<std::sync::Arc<Message>>,
}

impl Author {
    fn record(&mut self, session: usize, what: u8, pick: u16, epoch: u32) -> Record {
        let life = Incarnation::from_u64(self.lives[session]);
        let id = life.to_u64();
        if !self.known.sessions.contains_key(&id) && !self.known.groups.contains_key(&id) {
            self.count += 1;
            let life = Incarnation::new(epoch, Slot(session as u16), self.count);
            self.lives[session] = life.to_u64();
            if session == GROUP {
                return Record::Group { incarnation: life, key: group_key(pick) };
            }
            return Record::Session(Box::new(session_record(life, pick)));
        }
        let mine: Vec<(u64, bool)> = self
            .known
            .waiting
            .range((life.to_u64(), 0)..=(life.to_u64(), u64::MAX))
            .map(|((_, sequence), delivery)| (*sequence, delivery.is_some()))
            .collect();
        let picked = mine.get(usize::from(pick) % mine.len().max(1)).copied();
        let packet_id = PacketId::new(pick % 5 + 1).unwrap();
        match what % 32 {
            0 => Record::Ended { incarnation: life },
            1..=6 if session == GROUP => match picked {
                Some((sequence, _)) => {
                    self.sequence += 1;
                    let stream = Stream::new(epoch, 1, 0);
                    let provided = Provided { stream, number: self.sequence };
                    Record::Moved { incarnation: life, sequence, provided }
                }
                None => Record::Group { incarnation: life, key: group_key(pick) },
            },
            1 => Record::Session(Box::new(session_record(life, pick))),
            2 | 3 => Record::Subscribed(Box::new(SubscriptionRecord {
                incarnation: life,
                filter: filter(pick),
                options: SubscriptionOptions::default(),
                identifier: u32::from(pick),
                awaits_retained: pick % 2 == 1,
            })),
            4 => Record::Unsubscribed { incarnation: life, filter: filter(pick) },
            5 => {
                self.sequence += 1;
                let provided = Provided { stream: Stream::new(epoch, 1, 0), number: self.sequence };
                Record::Received { incarnation: life, packet_id, provided }
            }
            6 => Record::Forgotten { incarnation: life, packet_id },
            7 => Record::Retained(message(pick), author(pick)),
            8 => Record::Cleared(message(pick).topic.clone()),
            9..=16 if picked.is_some() => {
                Record::Done { incarnation: life, sequence: picked.unwrap().0 }
            }
            17..=19 if picked.is_some_and(|(_, whole)| whole) => {
                Record::Released { incarnation: life, sequence: picked.unwrap().0 }
            }
            _ => {
                self.sequence += 1;
                let again = self.last.take().filter(|_| what >= 128);
                let message = again.unwrap_or_else(|| message(pick));
                self.last = Some(std::sync::Arc::clone(&message));
                let delivery = Box::new(DeliveryRecord {
                    message,
                    qos: Qos::AtLeastOnce,
                    retain: pick.is_multiple_of(3),
                    identifiers: (0..pick % 3).map(u32::from).collect(),
                    stored: pick.is_multiple_of(5),
                    provided: None,
                });
                Record::Queued { incarnation: life, sequence: self.sequence, delivery }
            }
        }
    }
}

/// Which of the lives is a shared group's.
const GROUP: usize = 3;

fn group_key(pick: u16) -> Arc<GroupKey> {
    let share = Text::try_from(format!("share{pick}").as_str()).unwrap();
    Arc::new(GroupKey { share, filter: filter(pick) })
}

fn session_record(incarnation: Incarnation, pick: u16) -> SessionRecord {
    let will = (pick.is_multiple_of(2)).then(|| {
        Box::new(petrel_proto::Will {
            topic: message(pick).topic.clone(),
            payload: Bytes::from_static(b"gone"),
            qos: Qos::ExactlyOnce,
            retain: pick.is_multiple_of(4),
            delay_interval_s: pick.is_multiple_of(8).then_some(u32::from(pick)),
            properties: petrel_proto::PublishProperties {
                message_expiry_interval_s: pick.is_multiple_of(6).then_some(9),
                message: petrel_proto::MessageProperties::of(&petrel_proto::MessageFields {
                    content_type: Some(Text::try_from("text").unwrap()),
                    ..Default::default()
                })
                .unwrap(),
                ..Default::default()
            },
        })
    });
    SessionRecord {
        incarnation,
        client_id: Text::try_from(format!("client-{}", incarnation.slot().0).as_str()).unwrap(),
        expiry_interval_s: u32::from(pick),
        expires_at_ms: (!pick.is_multiple_of(3)).then_some(u64::from(pick)),
        will_at_ms: if will.is_some() { 77 } else { u64::MAX },
        leaving: will.iter().filter(|_| pick.is_multiple_of(12)).map(|w| (**w).clone()).collect(),
        will,
        user: pick.is_multiple_of(5).then(|| Text::try_from("alice").unwrap()),
    }
}

fn filter(pick: u16) -> TopicFilter {
    TopicFilter::new(Text::try_from(format!("a/{}/#", pick % 4).as_str()).unwrap()).unwrap()
}

/// Somebody who published it, or nobody that is known.
fn author(pick: u16) -> Option<std::sync::Arc<petrel_shard::Author>> {
    let author = petrel_shard::Author::kept(&[0, 0, 2, b'c', b'a' + (pick % 7) as u8]).unwrap();
    pick.is_multiple_of(3).then(|| author.into())
}

fn message(pick: u16) -> std::sync::Arc<Message> {
    let topic = Text::try_from(format!("topic/{}", pick % 7).as_str()).unwrap();
    std::sync::Arc::new(Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from(vec![pick as u8; usize::from(pick % 50)]),
        qos: Qos::ExactlyOnce,
        retain: pick.is_multiple_of(2),
        properties: petrel_proto::MessageProperties::EMPTY,
        publisher: u64::from(pick),
        expires_at_ms: if pick.is_multiple_of(9) { 1000 + u64::from(pick) } else { u64::MAX },
    })
}

const CLOCK: Clock = Clock { origin_ms: 1_700_000_000_000 };

fn settings(sync: SyncLevel) -> LaneSettings {
    LaneSettings { lane: 0, lanes: 1, sync, window_bytes_max: 0 }
}

/// A lane, what it was told, and what it said.
struct Run<S> {
    /// `None` while it is opened again.
    lane: Option<Lane<S>>,
    alive: Alive,
    author: Author,
    /// Every record since the beginning, in order.
    told: Vec<Record>,
    /// How many of them have been committed, and how many surely survive.
    committed: usize,
    durable: usize,
    /// The commits that were written, by how many records they came to.
    commits: Vec<usize>,
    page: usize,
}

impl<S: Breakable> Run<S> {
    fn new(store: S, alive: Alive, sync: SyncLevel, page: usize) -> Self {
        let mut lane = Lane::open(store, CLOCK, settings(sync)).unwrap();
        lane.share_from(20);
        lane.fold_in_steps_of(16 * page);
        begin(std::slice::from_mut(&mut lane)).unwrap();
        lane.sweep(alive.clone()).unwrap();
        let author =
            Author { lives: [0; 4], count: 0, sequence: 0, known: Model::default(), last: None };
        let (told, commits) = (Vec::new(), vec![0]);
        Self { lane: Some(lane), alive, author, told, committed: 0, durable: 0, commits, page }
    }

    fn lane(&mut self) -> &mut Lane<S> {
        self.lane.as_mut().unwrap()
    }

    fn model(&self, upto: usize) -> Model {
        let mut model = Model::default();
        self.told[..upto].iter().for_each(|record| model.apply(record));
        model
    }

    /// The lane comes back with what some commit left, at least with what was said to be durable.
    fn after_crash(&mut self, what: &str) {
        let found = Model::of(self.lane.as_ref().unwrap(), self.page);
        let mut ends: Vec<usize> =
            self.commits.iter().copied().filter(|&end| end >= self.durable).collect();
        ends.push(self.durable);
        ends.sort_unstable();
        let survived = ends.iter().rev().find(|&&end| self.model(end) == found);
        let Some(&end) = survived else {
            let difference = found.difference(&self.model(self.durable));
            panic!("after {what}, against the least that is expected: {difference}");
        };
        self.told.truncate(end);
        self.commits.retain(|&commit| commit <= end);
        (self.committed, self.durable) = (end, end);
        self.author.known = self.model(end);
    }

    fn compare(&self) {
        let (found, expected) =
            (Model::of(self.lane.as_ref().unwrap(), self.page), self.model(self.committed));
        assert!(found == expected, "{}", found.difference(&expected));
        let (named, stored) = super::share::tests::names(self.lane.as_ref().unwrap());
        assert_eq!(named, stored);
    }

    /// Begins to count what waits, but for the newest places.
    fn begin_count(&mut self) -> Walk {
        let ids = self.author.known.sessions.keys();
        let mut walk = Walk::new(Count {
            shard: ShardIndex(0),
            lane: 0,
            sessions: ids.map(|&id| Incarnation::from_u64(id)).collect(),
            before: 1 + self.author.sequence * 3 / 4,
            last: true,
        });
        for _ in 0..self.page {
            self.lane().count(&mut walk, 1).unwrap();
        }
        walk
    }

    /// Counts the rest, and compares.
    fn end_count(&mut self, mut walk: Walk) {
        let piece = self.page as u32;
        while !self.lane().count(&mut walk, piece).unwrap() {}
        let Counted { count, waiting } = walk.finish();
        let model = self.model(self.committed);
        for session in &count.sessions {
            let id = session.to_u64();
            let expected: Vec<_> = model.waiting.range((id, 0)..(id, count.before)).collect();
            let found = waiting.iter().find(|waits| waits.incarnation == *session);
            let places = found.iter().flat_map(|waits| &waits.runs);
            let places = places.flat_map(|run| run.first..run.end());
            // What has been released is no message.
            let counts = expected.iter().filter(|(_, delivery)| delivery.is_some());
            assert!(places.eq(counts.map(|((_, place), _)| *place)), "{found:?}");
            let bytes = expected.iter().filter_map(|(_, delivery)| delivery.as_ref());
            let bytes: usize = bytes.map(|delivery| delivery.message.cost_bytes()).sum();
            assert_eq!(found.map_or(0, |waits| waits.bytes), bytes as u64);
        }
    }

    fn committed(&mut self, urgent: bool, sync: SyncLevel) {
        self.committed = self.told.len();
        self.commits.push(self.committed);
        if urgent && sync == SyncLevel::Commit {
            self.durable = self.committed;
        }
    }

    fn step(&mut self, step: &Step) {
        let sync = self.lane().settings.sync;
        match *step {
            Step::Act { session, what, pick } => {
                let epoch = self.lane().epoch();
                let record = self.author.record(session, what, pick, epoch);
                self.author.known.apply(&record);
                self.told.push(record.clone());
                let upto = self.told.len() as u64;
                self.lane().gather(ShardIndex(0), upto, false, [record]);
            }
            Step::Commit { urgent } => {
                let upto = self.told.len() as u64;
                self.lane().gather(ShardIndex(0), upto, urgent, Vec::new());
                match self.lane().commit() {
                    Ok(marks) => assert_eq!(marks, [(ShardIndex(0), upto)]),
                    Err(_) => {
                        self.lane().store_mut().mend();
                        assert_eq!(self.lane().recover().unwrap(), [(ShardIndex(0), upto)]);
                        self.durable = self.told.len();
                    }
                }
                self.committed(urgent, sync);
                self.compare();
            }
            Step::Fold => {
                let begun = self.begin_count();
                let folded = match self.told.len() % 2 {
                    0 => self.lane().fold(),
                    _ => self.lane().keep_bound(),
                };
                if folded.is_err() {
                    self.lane().store_mut().mend();
                    self.lane().recover().unwrap();
                    self.durable = self.committed;
                }
                self.compare();
                self.end_count(begun);
            }
            Step::Fault { kind, survives } => {
                let kind = [Fault::Write, Fault::Sync, Fault::Full][usize::from(kind)];
                self.lane().store_mut().set_survival(survives.0, survives.1);
                self.lane().store_mut().break_next(kind);
            }
            Step::Crash { survives } => {
                let mut store = self.lane.take().unwrap().into_store();
                store.mend();
                store.set_survival(survives.0, survives.1);
                if !store.crash() {
                    self.durable = self.committed;
                }
                self.lane = Some(Lane::open(store, CLOCK, settings(sync)).unwrap());
                let page = self.page;
                self.lane().share_from(20);
                self.lane().fold_in_steps_of(16 * page);
                self.after_crash("a crash");
                begin(std::slice::from_mut(self.lane())).unwrap();
                let alive = self.alive.clone();
                self.lane().sweep(alive).unwrap();
                self.durable = self.committed;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 320, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_keeps_what_it_has_said_and_nothing_out_of_order(
        steps in steps(),
        sync in prop_oneof![Just(SyncLevel::Commit), Just(SyncLevel::Interval)],
        page in 1usize..20,
    ) {
        let mut run = Run::new(MemoryStore::new(), Alive::default(), sync, page);
        for step in &steps {
            run.step(step);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_lane_over_a_disk_keeps_what_it_has_said(
        steps in steps(),
        sync in prop_oneof![Just(SyncLevel::Commit), Just(SyncLevel::Interval)],
        page in 1usize..20,
    ) {
        // In memory where the system has such a place: nothing here is about power.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(folder).unwrap();
        // Small enough that some of it goes through tables.
        let options =
            DiskOptions { memtable_bytes: 400, log_file_bytes: 32 << 10, ..DiskOptions::default() };
        let alive = Alive::default();
        let sweep = Sweep { alive: alive.clone(), wall_clock: std::sync::Arc::new(|| 0) };
        let store = DiskStore::open_and_sweep(folder.path(), options, Some(sweep)).unwrap();
        let mut run = Run::new(store, alive, sync, page);
        for step in &steps {
            run.step(step);
        }
    }
}

#[test]
fn what_the_client_has_before_the_batch_is_written_is_never_written() {
    let mut lane = Lane::open(MemoryStore::new(), CLOCK, settings(SyncLevel::Commit)).unwrap();
    begin(std::slice::from_mut(&mut lane)).unwrap();
    let syncs = lane.store_mut().syncs();
    let incarnation = Incarnation::new(1, Slot(3), 1);
    let delivery = Box::new(DeliveryRecord {
        message: message(3),
        qos: Qos::AtLeastOnce,
        retain: false,
        identifiers: Default::default(),
        stored: false,
        provided: None,
    });
    lane.gather(ShardIndex(2), 1, true, [Record::Queued { incarnation, sequence: 1, delivery }]);
    lane.gather(ShardIndex(2), 2, false, [Record::Done { incarnation, sequence: 1 }]);
    assert!(lane.is_urgent());
    assert_eq!(lane.commit().unwrap(), [(ShardIndex(2), 2)]);
    assert_eq!(lane.store_mut().syncs(), syncs);
    assert_eq!(lane.window.bytes(), 0);
}

/// Everything that has not been folded stands in the log alone.
#[test]
fn a_recovery_that_fails_in_the_midst_forgets_nothing() {
    let mut lane = sample::lane(MemoryStore::new(), 1 << 20);
    let message = sample::message("a", "b");
    sample::commit(&mut lane, (1..=3).map(|n| sample::queued(1, n, &message)));
    lane.store_mut().break_next(Fault::ReadLog);
    lane.recover().unwrap_err();
    // A broker that ends now writes what it has, and it must not stand behind a gap.
    lane.gather(ShardIndex(0), 2, true, [sample::queued(1, 4, &message)]);
    lane.commit().unwrap_err();
    lane.sync().unwrap_err();
    // The maps are as they were opened, and what belongs to them has not been read.
    assert_eq!(lane.load_kept(sample::life(1), 1..4, 64, 1 << 20).unwrap(), None);
    lane.recover().unwrap();
    sample::commit(&mut lane, [sample::queued(1, 5, &message)]);
    let places = |lane: &Lane<MemoryStore>| {
        let page = lane.load(sample::life(1), 0..9, 64, 1 << 20).unwrap();
        page.messages.iter().map(|it| it.sequence).collect::<Vec<_>>()
    };
    assert_eq!(places(&lane), [1, 2, 3, 4, 5]);
    assert_eq!(places(&sample::open(lane.into_store(), 1 << 20)), [1, 2, 3, 4, 5]);
}

/// Whoever sends long messages fast makes batches that are longer than a step of folding.
#[test]
fn the_log_grows_beyond_its_bound_by_no_more_than_a_batch() {
    const BOUND: usize = 100_000;
    let mut lane = sample::lane(MemoryStore::new(), BOUND);
    lane.fold_in_steps_of(5_000);
    let message = sample::message("a", vec![7; 1_000]);
    let mut most = 0;
    for batch in 0..40 {
        let places = 50 * batch + 1..50 * batch + 51;
        sample::commit(&mut lane, places.map(|n| sample::queued(1, n, &message)));
        let before = lane.window.bytes();
        most = most.max(before);
        lane.keep_bound().unwrap();
        // Others wait meanwhile: it is no more than what has come.
        assert!(before - lane.window.bytes() <= 110_000, "{before}");
    }
    assert!(most < BOUND + 110_000, "{most}");
    let page = lane.load(sample::life(1), 0..u64::MAX, 10_000, usize::MAX).unwrap();
    assert!(page.messages.iter().map(|it| it.sequence).eq(1..=2_000));
}

/// A client that is given what waits says all the time what it has: that alone needs no batch.
#[test]
fn only_what_may_change_an_answer_is_written_before_it() {
    let mut lane = sample::lane(MemoryStore::new(), 1 << 20);
    let (life, other) = (sample::life(1), sample::life(2));
    let message = sample::message("a", "b");
    let done = |sequence| Record::Done { incarnation: life, sequence };
    sample::commit(&mut lane, (1..=9).map(|n| sample::queued(1, n, &message)));
    lane.gather(ShardIndex(0), 2, false, [done(2), done(1)]);
    assert!(lane.must_commit_before(life, 1) && lane.must_commit_before(life, 2));
    assert!(!lane.must_commit_before(life, 3) && !lane.must_commit_before(other, 1));
    let places = |page: Page| page.messages.iter().map(|it| it.sequence).collect::<Vec<_>>();
    let before = places(lane.load(life, 3..10, 64, 1 << 20).unwrap());
    lane.commit().unwrap();
    assert!(!lane.must_commit_before(life, 1));
    assert_eq!(before, places(lane.load(life, 1..10, 64, 1 << 20).unwrap()));
    for record in [
        sample::queued(2, 1, &message),
        Record::Released { incarnation: other, sequence: 1 },
        sample::session(2),
    ] {
        lane.gather(ShardIndex(0), 3, false, [record]);
        assert!(lane.must_commit_before(life, 3));
        lane.commit().unwrap();
        assert!(!lane.must_commit_before(life, 3));
    }
}

#[test]
fn data_of_another_lane_or_format_is_refused_with_what_to_do() {
    let mut lane = Lane::open(MemoryStore::new(), CLOCK, settings(SyncLevel::Commit)).unwrap();
    begin(std::slice::from_mut(&mut lane)).unwrap();
    let other = LaneSettings { lanes: 2, ..settings(SyncLevel::Commit) };
    let error = Lane::open(lane.into_store(), CLOCK, other).unwrap_err();
    assert!(error.to_string().contains("set storage.lanes to 1"), "{error}");
    let mut store = MemoryStore::new();
    let mut batch = Batch::default();
    batch.put(Space::Meta, &b"format"[..], &[0u8, 0, 0, 9][..]);
    store.write(batch, true).unwrap();
    let error = Lane::open(store, CLOCK, settings(SyncLevel::Commit)).unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}

/// The other side of a QoS 2 message: what was queued of it counts only with its receipt.
#[test]
fn what_was_queued_of_a_message_whose_receipt_was_lost_does_not_count() {
    let life = Incarnation::new(1, Slot(3), 1);
    let queued = |number: u64| Record::Queued {
        incarnation: life,
        sequence: number,
        delivery: Box::new(DeliveryRecord {
            message: message(3),
            qos: Qos::ExactlyOnce,
            retain: false,
            identifiers: Default::default(),
            stored: false,
            provided: Some(Provided { stream: Stream::new(1, 0, 0), number }),
        }),
    };
    let mut lane = Lane::open(MemoryStore::new(), CLOCK, settings(SyncLevel::Commit)).unwrap();
    begin(std::slice::from_mut(&mut lane)).unwrap();
    let packet_id = PacketId::new(5).unwrap();
    let provided = Provided { stream: Stream::new(1, 0, 0), number: 1 };
    let received = Record::Received { incarnation: life, packet_id, provided };
    lane.gather(ShardIndex(0), 3, true, [queued(1), queued(2), received]);
    lane.commit().unwrap();
    // In the same process all of it is there, and says what it depends on.
    let page = lane.load(life, 0..u64::MAX, 10, 1000).unwrap();
    assert_eq!(page.messages.len(), 2);
    assert!(page.messages.iter().all(|m| m.delivery.as_ref().unwrap().provided.is_some()));
    let mut lane = Lane::open(lane.into_store(), CLOCK, settings(SyncLevel::Commit)).unwrap();
    begin(std::slice::from_mut(&mut lane)).unwrap();
    for _ in 0..2 {
        let page = lane.load(life, 0..u64::MAX, 10, 1000).unwrap();
        assert_eq!(page.messages.iter().map(|m| m.sequence).collect::<Vec<_>>(), [1]);
        assert_eq!(page.next, None);
        assert_eq!(page.messages[0].delivery.as_ref().unwrap().provided, None);
        lane.fold().unwrap();
    }
}

/// One message to thousands of sessions is more than a batch may have.
#[test]
fn what_is_too_much_for_a_batch_goes_into_several() {
    let mut lane = Lane::open(MemoryStore::new(), CLOCK, settings(SyncLevel::Commit)).unwrap();
    begin(std::slice::from_mut(&mut lane)).unwrap();
    lane.batch_bytes_max = 300;
    let life = Incarnation::new(1, Slot(3), 1);
    let mut records = vec![Record::Session(Box::new(session_record(life, 1)))];
    for number in 1..=60 {
        let provided = Provided { stream: Stream::new(1, 0, 0), number };
        let delivery = Box::new(DeliveryRecord {
            message: message(49),
            qos: Qos::ExactlyOnce,
            retain: false,
            identifiers: Default::default(),
            stored: false,
            provided: Some(provided),
        });
        records.push(Record::Queued { incarnation: life, sequence: number, delivery });
        let packet_id = PacketId::new(number as u16).unwrap();
        records.push(Record::Received { incarnation: life, packet_id, provided });
    }
    let mut model = Model::default();
    records.iter().for_each(|record| model.apply(record));
    lane.gather(ShardIndex(0), 121, true, records);
    // The disk fails in the midst of it.
    lane.store_mut().break_next(Fault::Write);
    lane.commit().unwrap_err();
    assert_eq!(lane.recover().unwrap(), [(ShardIndex(0), 121)]);
    let batches = lane.written().batches;
    assert_eq!(lane.window.next(), lane.durable);
    assert!(Model::of(&lane, 7) == model, "{}", Model::of(&lane, 7).difference(&model));
    for survives in [1000, 0] {
        // How far the stream has come is never behind the receipts: nothing is void.
        let mut store = lane.into_store();
        store.set_survival(survives, survives);
        store.crash();
        lane = Lane::open(store, CLOCK, settings(SyncLevel::Commit)).unwrap();
        begin(std::slice::from_mut(&mut lane)).unwrap();
        assert!(lane.load(life, 0..u64::MAX, 100, 100_000).unwrap().void.is_empty());
    }
    assert!(lane.window.next() > 5, "{batches} batches");
}

#[test]
fn a_lane_that_has_lost_everything_is_not_begun_anew() {
    let open = |lane: u16, store| {
        let settings = LaneSettings { lane, lanes: 2, ..settings(SyncLevel::Commit) };
        Lane::open(store, CLOCK, settings)
    };
    let mut lanes =
        vec![open(0, MemoryStore::new()).unwrap(), open(1, MemoryStore::new()).unwrap()];
    begin(&mut lanes).unwrap();
    let life = Incarnation::new(1, Slot(2), 1);
    let record = Record::Session(Box::new(session_record(life, 1)));
    lanes[0].gather(ShardIndex(0), 1, true, [record]);
    lanes[0].commit().unwrap();
    let whole = lanes.remove(0).into_store();
    let mut lanes = vec![open(0, whole).unwrap(), open(1, MemoryStore::new()).unwrap()];
    let error = begin(&mut lanes).unwrap_err();
    assert!(error.to_string().contains("there is nothing in lane 1"), "{error}");
    // Nor one whose log is of a later process than its maps.
    let mut behind = open(0, MemoryStore::new()).unwrap();
    begin(std::slice::from_mut(&mut behind)).unwrap();
    begin(std::slice::from_mut(&mut behind)).unwrap();
    behind.gather(ShardIndex(0), 1, true, [Record::Session(Box::new(session_record(life, 1)))]);
    behind.commit().unwrap();
    let mut behind = behind.into_store();
    behind.write(origin(0, 2, 1), true).unwrap();
    let error = open(0, behind).unwrap_err();
    assert!(error.to_string().contains("of a later process"), "{error}");
    // Nor one of which only the log is left.
    let mut log = MemoryStore::new();
    log.read_log(1, u64::MAX).unwrap();
    log.append(1, &Bytes::from_static(b""), true).unwrap();
    let error = open(0, log).unwrap_err();
    assert!(error.to_string().contains("says of itself is missing"), "{error}");
}

/// A disk that is full may stay so for long, and who takes what waits makes room.
#[test]
fn what_waits_can_be_read_after_folding_has_failed() {
    let mut lane = sample::lane(MemoryStore::new(), 0);
    let message = sample::message("a/b", vec![7; 2_000]);
    sample::commit(&mut lane, (0..3).map(sample::session));
    let waits = (0..10).flat_map(|place| (0..3).map(move |number| (number, place)));
    let waits = waits.map(|(number, place)| sample::queued(number, place, &message));
    sample::commit(&mut lane, waits);
    let read = |lane: &Lane<MemoryStore>| -> Vec<usize> {
        let load = |number| {
            let page = lane.load_kept(sample::life(number), 0..100, 100, usize::MAX).unwrap();
            page.unwrap().messages.len()
        };
        (0..3).map(load).collect()
    };
    while lane.has_log() {
        lane.store_mut().break_next(Fault::Full);
        lane.fold().unwrap_err();
        assert_eq!(read(&lane), [10, 10, 10]);
        // What has come since may not survive.
        lane.gather(ShardIndex(0), 1, true, [sample::queued(1, 10, &message)]);
        let page = lane.load_kept(sample::life(1), 0..100, 100, usize::MAX).unwrap().unwrap();
        assert_eq!((page.messages.len(), page.next), (10, Some(10)));
        assert_eq!(lane.load_kept(sample::life(1), 10..100, 100, usize::MAX).unwrap(), None);
        lane.gather(
            ShardIndex(0),
            1,
            true,
            [Record::Done { incarnation: sample::life(1), sequence: 10 }],
        );
        let mut sessions = 0;
        lane.sessions(|_| sessions += 1).unwrap();
        assert_eq!(sessions, 3);
        lane.store_mut().mend();
        lane.store_mut().set_survival(1000, 1000);
        lane.recover().unwrap();
        lane.fold().unwrap();
        assert_eq!(read(&lane), [10, 10, 10]);
    }
    let (named, stored) = super::share::tests::names(&lane);
    assert_eq!(named, stored);
}
