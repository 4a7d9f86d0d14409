//! The world of a run: shards, lanes, disks and clients, one step after another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    Ack, Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish, PublishProperties, Qos,
    ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter, TopicName,
    Unsubscribe, Version, Will, decode,
};
use petrel_shard::input::{Counted, Loaded};
use petrel_shard::level_hash::HashKey;
use petrel_shard::outbox::Load;
use petrel_shard::{
    ConnId, Input, Interest, Keeping, Limits, Now, Origin, Outbox, PeerMessage, QueueFull, Shard,
    ShardConfig, ShardIndex, SlotMap,
};
use petrel_storage::memory::{Fault, MemoryStore};
use petrel_storage::{
    Clock, Ends, Lane, LaneSettings, Order, Page, SyncLevel, Walk, begin, restore,
};

use super::client::{Client, Habits, MessageId, Unfinished, Wants};
use super::oracle::{Oracle, Published};
use crate::rng::Rng;
use crate::violation::Checked;
use crate::world::check_ledger;
use crate::{hold, violated};

/// The topic of wills, and that of retained messages.
const WILLS: u8 = 9;
const RETAINED: u8 = 8;
/// Wills are numbered as messages of publishers of their own.
const WILL_PUBLISHER: u8 = 100;

/// What a run is like.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Everything follows from it.
    pub seed: u64,
    /// Steps before the run winds down.
    pub steps: u32,
    /// Say what happens.
    pub trace: bool,
}

/// What is lost in a crash.
struct Process {
    shards: Vec<Shard>,
    outs: Vec<Outbox>,
    ends: Vec<Ends>,
    rings: BTreeMap<(u16, u16), VecDeque<PeerMessage>>,
    /// By lane: orders that it has not taken.
    channels: Vec<VecDeque<Order>>,
    /// By lane: questions that wait for the next commit.
    loads: Vec<Vec<Load>>,
    /// By lane: questions for how much waits.
    walks: Vec<VecDeque<Walk>>,
    /// Answers that have not reached their shards: shard, lane, position.
    marks: VecDeque<(u16, usize, u64)>,
    answers: VecDeque<Loaded>,
    counted: VecDeque<Counted>,
    slots: SlotMap,
    conns: BTreeMap<(u16, ConnId), usize>,
    next_conn: u32,
    started_ms: u64,
}

struct World {
    rng: Rng,
    trace: bool,
    step: u64,
    now_ms: u64,
    process: Process,
    lanes: Vec<Lane<MemoryStore>>,
    /// Lanes whose disk has failed and that have not recovered.
    failed: Vec<bool>,
    clients: Vec<Client>,
    oracle: Oracle,
    crashes: u32,
    /// There is a crash at this step, so that it hits what a client has just been promised.
    doomed_at: u64,
    limits: Limits,
    /// Processes that begin before one does anything. Places begin 256 identifiers further on with each,
    /// of 65,535, so those of one that follows 256 others fall on the identifiers of the last that ran.
    starts: u32,
}

/// Runs a seed to its end or to the first broken rule. Returns the number of messages and crashes.
///
/// # Errors
/// A rule was broken.
pub fn run(settings: Settings) -> Checked<(usize, u32)> {
    let mut world = World::new(settings)?;
    let crash_per_myriad = *world.rng.pick(&[5, 15, 60]);
    for _ in 0..settings.steps {
        world.random_step(crash_per_myriad)?;
    }
    world.settle()?;
    Ok((world.oracle.published.len(), world.crashes))
}

/// Opens a lane; the first stores every message once for all sessions for which it waits, and folds in
/// small steps.
fn open(store: MemoryStore, origin_ms: u64, lane: u16, lanes: u16) -> Checked<Lane<MemoryStore>> {
    let settings = LaneSettings { lane, lanes, sync: SyncLevel::Commit, window_bytes_max: 400 };
    let opened = Lane::open(store, Clock { origin_ms }, settings);
    let mut opened = opened.map_err(|error| storage(&error))?;
    if lane == 0 {
        opened.share_from(0);
        opened.fold_in_steps_of(200);
    }
    Ok(opened)
}

fn storage(error: &petrel_storage::StoreError) -> crate::Violation {
    violated!("crash", "the storage says: {error}")
}

impl World {
    fn new(settings: Settings) -> Checked<Self> {
        let mut rng = Rng::new(settings.seed.wrapping_add(1 << 62));
        let lanes = 1 + rng.below(2) as u16;
        let clients = clients(&mut rng);
        let limits = limits(&mut rng);
        let starts = if rng.percent(60) { 256 } else { 1 };
        let mut opened = Vec::new();
        for lane in 0..lanes {
            opened.push(open(MemoryStore::new(), 1_000_000, lane, lanes)?);
        }
        let mut world = Self {
            rng,
            trace: settings.trace,
            step: 0,
            now_ms: 0,
            process: Process::empty(SlotMap::even(1), lanes, 0),
            failed: vec![false; opened.len()],
            lanes: opened,
            clients,
            oracle: Oracle { tight: is_tight(&limits), ..Oracle::default() },
            crashes: 0,
            doomed_at: u64::MAX,
            limits,
            starts,
        };
        world.boot()?;
        Ok(world)
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:6} {:7} ms  {}", self.step, self.now_ms, text());
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms - self.process.started_ms }
    }

    /// A new process over what the lanes have.
    fn boot(&mut self) -> Checked {
        let count = 1 + self.rng.below(4) as u16;
        let lanes = self.lanes.len() as u16;
        let mut epoch = 0;
        for _ in 0..self.starts {
            epoch = begin(&mut self.lanes).map_err(|error| storage(&error))?;
        }
        let slots = SlotMap::even(count);
        let hash_key = [7, 11];
        let interest = Arc::new(Interest::new(HashKey::new(hash_key)));
        self.process = Process::empty(slots.clone(), lanes, self.now_ms);
        self.process.shards = (0..count)
            .map(|index| {
                let config = ShardConfig {
                    index: ShardIndex(index),
                    slots: slots.clone(),
                    limits: self.limits.clone(),
                    auth_methods: Vec::new(),
                    access: Default::default(),
                    seed: u64::from(index),
                    hash_key,
                    keeping: Some(Keeping { epoch, lanes }),
                };
                Shard::new(config, Arc::clone(&interest))
            })
            .collect();
        self.process.outs = (0..count).map(|_| Outbox::new()).collect();
        self.process.ends = (0..count).map(|index| Ends::new(ShardIndex(index), lanes)).collect();
        let now = self.now();
        let restored = restore(&self.lanes, &mut self.process.shards, &slots, now)
            .map_err(|error| storage(&error))?;
        self.say(|| format!("a process with {count} shards, epoch {epoch}: {restored:?}"));
        for shard in 0..count {
            let at = usize::from(shard);
            let Process { shards, outs, .. } = &mut self.process;
            shards[at].finish_restore(now, &mut outs[at]);
            self.carry_out(shard)?;
        }
        Ok(())
    }

    /// Everything dies at once.
    fn crash(&mut self) -> Checked {
        self.crashes += 1;
        self.say(|| "crash".into());
        for at in 0..self.clients.len() {
            self.connection_ends(at);
        }
        let count = self.lanes.len() as u16;
        let mut opened = Vec::new();
        for (index, lane) in std::mem::take(&mut self.lanes).into_iter().enumerate() {
            let mut store = lane.into_store();
            store.mend();
            store.set_survival(self.rng.below(1001) as u32, self.rng.below(1001) as u32);
            store.crash();
            opened.push(open(store, 1_000_000 + self.now_ms, index as u16, count)?);
        }
        self.lanes = opened;
        self.failed = vec![false; self.lanes.len()];
        self.boot()
    }

    /// A connection is over without a word of the client.
    fn connection_ends(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.conn.is_some() && client.habits.will && client.connected {
            let id = will_id(at, client.will_number);
            if let Some(will) = self.oracle.published.get_mut(&id) {
                (will.at, will.acknowledged) = (self.step, self.step);
            }
        }
        client.lose_connection();
        if !client.habits.lasting {
            self.oracle.member_ends(client, self.step);
            for one in std::mem::take(&mut client.unfinished) {
                if let Some(published) = self.oracle.published.get_mut(&one.id) {
                    published.uncertain |= published.acknowledged == u64::MAX;
                }
            }
            client.lose_session();
        }
    }

    fn random_step(&mut self, crash_per_myriad: u64) -> Checked {
        self.step += 1;
        let is_doomed = crash_per_myriad > 0 && self.step >= self.doomed_at;
        if self.rng.below(10_000) < crash_per_myriad || is_doomed {
            self.doomed_at = u64::MAX;
            return self.crash();
        }
        match self.rng.below(1000) {
            20..80 => {
                self.now_ms += self.rng.below(300);
                self.tick()
            }
            80..84 => {
                let lane = self.rng.index(self.lanes.len());
                let fault = *self.rng.pick(&[Fault::Write, Fault::Sync, Fault::Full]);
                let survival = [self.rng.below(1001) as u32, self.rng.below(1001) as u32];
                self.say(|| format!("the disk of lane {lane} will fail: {fault:?}"));
                let store = self.lanes[lane].store_mut();
                store.set_survival(survival[0], survival[1]);
                store.break_next(fault);
                Ok(())
            }
            84..300 => self.storage_step(),
            300..500 => self.peer_step(),
            _ => {
                let at = self.rng.index(self.clients.len());
                self.client_step(at)
            }
        }
    }

    fn tick(&mut self) -> Checked {
        for shard in 0..self.process.shards.len() as u16 {
            self.feed(shard, Input::Timer)?;
        }
        Ok(())
    }

    /// One message of one ring arrives.
    fn peer_step(&mut self) -> Checked {
        let full: Vec<(u16, u16)> = self
            .process
            .rings
            .iter()
            .filter(|(_, ring)| !ring.is_empty())
            .map(|(between, _)| *between)
            .collect();
        if full.is_empty() {
            return Ok(());
        }
        let (from, to) = *self.rng.pick(&full);
        let ring = self.process.rings.entry((from, to)).or_default();
        let Some(message) = ring.pop_front() else { return Ok(()) };
        self.feed(to, Input::Peer { from: ShardIndex(from), message })
    }

    /// Something moves between shards and lanes.
    fn storage_step(&mut self) -> Checked {
        let lane = self.rng.index(self.lanes.len());
        match self.rng.below(12) {
            0..4 => self.take_order(lane)?,
            4..6 => self.commit(lane)?,
            6 => self.fold(lane)?,
            7 | 8 => return self.deliver_mark(),
            9 => self.count(lane)?,
            10 => return self.deliver_count(),
            _ => return self.deliver_answer(),
        }
        Ok(())
    }

    fn take_order(&mut self, lane: usize) -> Checked {
        if self.failed[lane] {
            return Ok(());
        }
        match self.process.channels[lane].pop_front() {
            Some(Order::Keep { from, upto, urgent, records, .. }) => {
                self.lanes[lane].gather(from, upto, urgent, records);
            }
            Some(Order::Load(load)) => {
                self.process.loads[lane].push(load);
                return self.answer_loads(lane);
            }
            // No shard asks for that.
            Some(Order::View(_)) => {}
            Some(Order::Count(count)) => self.process.walks[lane].push_back(Walk::new(count)),
            None => {}
        }
        Ok(())
    }

    fn commit(&mut self, lane: usize) -> Checked {
        let kept = if self.failed[lane] {
            if self.rng.percent(50) {
                return Ok(());
            }
            self.lanes[lane].store_mut().mend();
            self.lanes[lane].recover()
        } else {
            self.lanes[lane].commit()
        };
        match kept {
            Ok(kept) => {
                self.failed[lane] = false;
                for (shard, upto) in kept {
                    self.process.marks.push_back((shard.0, lane, upto));
                }
                self.answer_loads(lane)
            }
            Err(error) => {
                self.say(|| format!("lane {lane}: {error}"));
                self.failed[lane] = true;
                Ok(())
            }
        }
    }

    fn fold(&mut self, lane: usize) -> Checked {
        if !self.failed[lane] && self.lanes[lane].wants_folding() {
            let it = &mut self.lanes[lane];
            let folded = if self.rng.percent(50) { it.fold() } else { it.keep_bound() };
            self.failed[lane] = folded.is_err();
        }
        Ok(())
    }

    /// A lane counts a little of what waits.
    fn count(&mut self, lane: usize) -> Checked {
        if self.failed[lane] {
            return Ok(());
        }
        let most = 1 + self.rng.below(8) as u32;
        let Some(walk) = self.process.walks[lane].front_mut() else { return Ok(()) };
        if self.lanes[lane].count(walk, most).map_err(|error| storage(&error))? {
            let walk = self.process.walks[lane].pop_front();
            self.process.counted.extend(walk.map(Walk::finish));
        }
        Ok(())
    }

    fn deliver_count(&mut self) -> Checked {
        let Some(counted) = self.process.counted.pop_front() else { return Ok(()) };
        self.feed(counted.count.shard.0, Input::Counted(Box::new(counted)))
    }

    fn answer_loads(&mut self, lane: usize) -> Checked {
        let must_wait =
            |load: &Load| self.lanes[lane].must_commit_before(load.incarnation, load.from);
        if self.process.loads[lane].iter().any(must_wait) {
            return Ok(());
        }
        for load in std::mem::take(&mut self.process.loads[lane]) {
            let (messages_max, bytes_max) = (1 + self.rng.index(6), load.bytes_max);
            let page = self.lanes[lane]
                .load(load.incarnation, load.from..load.upto, messages_max, bytes_max)
                .map_err(|error| storage(&error))?;
            let Page { messages, void, next } = page;
            self.process.answers.push_back(Loaded { load, messages, void, next });
        }
        Ok(())
    }

    fn deliver_mark(&mut self) -> Checked {
        let Some((shard, lane, upto)) = self.process.marks.pop_front() else { return Ok(()) };
        match self.process.ends[usize::from(shard)].answered(lane, upto) {
            Some(upto) => self.feed(shard, Input::Kept { upto }),
            None => Ok(()),
        }
    }

    fn deliver_answer(&mut self) -> Checked {
        let Some(loaded) = self.process.answers.pop_front() else { return Ok(()) };
        let shard = loaded.load.session.shard.0;
        self.feed(shard, Input::Loaded(Box::new(loaded)))
    }

    /// Gives a shard an input; its turn ends at once, or with a later one.
    fn feed(&mut self, shard: u16, input: Input) -> Checked {
        let now = self.now();
        let at = usize::from(shard);
        self.say(|| format!("shard {shard} <- {input:?}"));
        let Process { shards, outs, .. } = &mut self.process;
        shards[at].handle(now, input, &mut outs[at]);
        if self.rng.percent(70) { self.carry_out(shard) } else { Ok(()) }
    }

    fn carry_out(&mut self, shard: u16) -> Checked {
        let at = usize::from(shard);
        let Process { shards, outs, .. } = &mut self.process;
        let mut out = std::mem::take(&mut outs[at]);
        shards[at].end_turn(&mut out);
        if !out.records.is_empty() || out.urgent {
            let records = std::mem::take(&mut out.records);
            self.say(|| format!("shard {shard} records {records:?}"));
            let upto = out.records_upto;
            for (lane, order) in self.process.ends[at].split(records, upto, out.urgent) {
                self.process.channels[lane].push_back(order);
            }
        }
        for load in out.loads.drain(..) {
            let lane = self.process.ends[at].lane_of(load.incarnation.slot());
            self.process.channels[lane].push_back(Order::Load(load));
        }
        for count in out.counts.drain(..) {
            self.process.channels[usize::from(count.lane)].push_back(Order::Count(count));
        }
        for (to, message) in out.peers.drain(..) {
            self.process.rings.entry((shard, to.0)).or_default().push_back(message);
        }
        for write in &out.writes {
            let Some(&client) = self.process.conns.get(&(shard, write.conn)) else { continue };
            let mut bytes = BytesMut::new();
            out.copy_to(write, &mut bytes);
            let packet = decode(&bytes.freeze(), Some(Version::V5))
                .map_err(|error| violated!("crash", "a shard wrote nonsense: {error}"))?;
            self.clients[client].inbox.push_back(packet);
        }
        for conn in &out.closes {
            if let Some(client) = self.process.conns.remove(&(shard, *conn)) {
                let name = &self.clients[client].name;
                return Err(violated!("crash", "the broker closed the connection of {name}"));
            }
        }
        out.clear();
        check_ledger(&self.process.shards[at], &out)?;
        self.process.outs[at] = out;
        Ok(())
    }
}

impl Process {
    fn empty(slots: SlotMap, lanes: u16, started_ms: u64) -> Self {
        Self {
            shards: Vec::new(),
            outs: Vec::new(),
            ends: Vec::new(),
            rings: BTreeMap::new(),
            channels: (0..lanes).map(|_| VecDeque::new()).collect(),
            loads: (0..lanes).map(|_| Vec::new()).collect(),
            walks: (0..lanes).map(|_| VecDeque::new()).collect(),
            marks: VecDeque::new(),
            answers: VecDeque::new(),
            counted: VecDeque::new(),
            slots,
            conns: BTreeMap::new(),
            next_conn: 0,
            started_ms,
        }
    }
}

/// Clients: some publish, some subscribe, one retains; the last gets everything.
fn clients(rng: &mut Rng) -> Vec<Client> {
    let qos = |rng: &mut Rng| *rng.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce]);
    let hurries = rng.percent(50);
    let mut clients = Vec::new();
    for number in 0..3 + rng.index(3) {
        let habits = Habits {
            lasting: number == 0 || rng.percent(70),
            publishes: true,
            subscribes: None,
            qos: qos(rng),
            will: number > 0 && rng.percent(40),
            retain: number == 0,
            hurries: number > 0 && hurries,
            late: 0,
            forgetful: false,
            leaves: false,
            receive_maximum: 10,
        };
        clients.push(Client::new(format!("publisher-{number}"), habits));
    }
    for number in 0..2 + rng.index(3) {
        let topic = Wants::Topic(rng.below(3) as u8);
        let habits = Habits {
            lasting: rng.percent(90),
            publishes: rng.percent(30),
            subscribes: Some(if rng.percent(50) { Wants::All } else { topic }),
            qos: qos(rng),
            will: false,
            retain: false,
            hurries,
            late: if rng.percent(40) { rng.below(3_000) } else { 0 },
            forgetful: rng.percent(25),
            leaves: false,
            receive_maximum: 1 + rng.below(8) as u16,
        };
        clients.push(Client::new(format!("subscriber-{number}"), habits));
    }
    add_members(rng, &mut clients);
    clients
}

fn is_tight(limits: &Limits) -> bool {
    limits.session_queue_messages < Limits::default().session_queue_messages
}

/// Some worlds have queues that are soon full.
fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits::default();
    if rng.percent(30) {
        limits.session_queue_messages = 4 + rng.below(12) as u32;
        limits.session_queue_full = *rng.pick(&[QueueFull::DropNewest, QueueFull::DropOldest]);
    }
    limits.receivers_per_turn = *rng.pick(&[1, 512]);
    limits
}

/// Members of shared groups. The first of group 0 stays for ever, group 1 comes and goes.
fn add_members(rng: &mut Rng, clients: &mut Vec<Client>) {
    let steady = rng.percent(50);
    let counts = [rng.index(4), rng.index(3)];
    for (group, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            let stays = group == 0 && (number == 0 || steady);
            let habits = Habits {
                lasting: stays || rng.percent(60),
                publishes: false,
                subscribes: Some(Wants::Group(group as u8)),
                qos: *rng.pick(&[Qos::AtLeastOnce, Qos::ExactlyOnce, Qos::ExactlyOnce]),
                will: false,
                retain: false,
                hurries: false,
                late: 0,
                forgetful: !stays && rng.percent(40),
                leaves: (group, number) != (0, 0) && rng.percent(50),
                receive_maximum: 1 + rng.below(8) as u16,
            };
            clients.push(Client::new(format!("member-{group}-{number}"), habits));
        }
    }
}

fn will_id(client: usize, number: u32) -> MessageId {
    MessageId { publisher: WILL_PUBLISHER + client as u8, number }
}

/// All names have one length, so that messages have.
fn topic_name(topic: u8) -> TopicName {
    let text = Text::try_from(format!("t/{topic:02}").as_str()).unwrap_or_default();
    TopicName::new(text).unwrap_or_default()
}

mod act;
mod audit;
