//! The world around the shards: one clock, the rings between them, the wires to the clients.
//!
//! It plays the part of the pump: bytes arrive in any pieces, a CONNECT moves to its home once,
//! an outbox is carried out at the end of a turn. Everything that could go either way is decided
//! by the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use petrel_proto::{Frame, Packet, ReasonCode, decode, encode, frame};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{
    ConnId, Input, Interest, Now, Outbox, PeerMessage, Shard, ShardConfig, ShardIndex, SlotMap,
    Walk,
};

use crate::client::Client;
use crate::link::{Link, Server};
use crate::model::{Key, Model, Moment};
use crate::oracle::{Hint, Output, Tag};
use crate::policy::Policy;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::violation::Checked;
use crate::watch::Watcher;
use crate::{hold, violated};

/// How often shards are told that time has passed, in milliseconds.
const TICK_MS: u64 = 250;

/// Everything there is in a run.
pub struct World {
    /// Chance.
    pub rng: Rng,
    /// What the seed stands for.
    pub scenario: Scenario,
    /// Virtual time, in milliseconds.
    pub now_ms: u64,
    /// The clients.
    pub clients: Vec<Client>,
    /// All connections that ever were.
    pub links: Vec<Link>,
    /// What the oracles know.
    pub model: Model,
    /// The record of the run.
    pub trace: Trace,
    /// Actions that are left before the run winds down.
    pub actions_left: u32,
    /// The run winds down: clients behave and come back.
    pub settling: bool,
    /// The fault that is built in on purpose.
    pub sabotage: Option<Sabotage>,
    /// Somebody who watches.
    pub watcher: Option<Watcher>,
    cores: Vec<Core>,
    interest: Arc<Interest>,
    rings: BTreeMap<(u16, u16), Ring>,
    questions: Vec<Question>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    step: u64,
    /// Events in the queue that are not there all the time.
    busy: usize,
}

/// A shard with its outbox and its table of connections.
struct Core {
    shard: Shard,
    out: Outbox,
    tags: Vec<Tag>,
    /// Messages of the broker itself that it was given.
    own: u32,
    slots: Vec<(u32, Option<usize>)>,
    free: Vec<u32>,
}

/// Messages from one shard to another.
#[derive(Default)]
struct Ring {
    queue: VecDeque<(PeerMessage, Tag)>,
    last_ms: u64,
    /// How many messages have been taken out.
    taken: u64,
}

/// A question about retained messages that waits at the shard that will answer it.
#[derive(Debug)]
struct Question {
    from: u16,
    to: u16,
    message: PeerMessage,
    /// By sender: how many of its messages the shard handles first.
    after: Vec<u64>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// All shards are told the time.
    Tick,
    /// A message comes out of a ring.
    Ring(u16, u16),
    /// A question about retained messages reaches a shard.
    Ask(u16),
    /// Bytes of a client arrive.
    Arrive(usize),
    /// A connection has moved to its home.
    Moved(usize),
    /// A client reads.
    Read(usize),
    /// A client does something.
    Act(usize),
    /// A client sends an acknowledgement: client, connection, kind.
    Ack(usize, usize, usize),
    /// A client shows that it is there: client, connection.
    Ping(usize, usize),
    /// An authentication method answers: shard, connection.
    Verdict(u16, ConnId),
}

impl World {
    /// The world of a seed at its beginning.
    #[must_use]
    pub fn new(seed: u64, sabotage: Option<Sabotage>, trace: Trace) -> Self {
        let scenario = Scenario::of(seed);
        let mut rng = Rng::new(seed.wrapping_add(1 << 63));
        let hash_key = [rng.bits(), rng.bits()];
        let slots = SlotMap::even(scenario.shards);
        let interest = Arc::new(Interest::new(HashKey::new(hash_key)));
        let cores = (0..scenario.shards).map(|index| {
            let config = ShardConfig {
                index: ShardIndex(index),
                slots: slots.clone(),
                limits: scenario.limits.clone(),
                auth_methods: vec!["sim".into()],
                access: Policy::access(scenario.policies.first()),
                seed: rng.bits(),
                hash_key,
                keeping: None,
            };
            Core {
                shard: Shard::new(config, Arc::clone(&interest)),
                out: Outbox::new(),
                tags: Vec::new(),
                own: 0,
                slots: Vec::new(),
                free: Vec::new(),
            }
        });
        let cores = cores.collect();
        let clients = scenario.clients.iter().enumerate();
        let clients = clients.map(|(n, habits)| Client::new(n as u32, habits.clone())).collect();
        let mut model = Model::new(scenario.limits.clone(), slots, scenario.short_queues);
        model.set_policy(scenario.policies.first().cloned().unwrap_or_default());
        let mut world = Self {
            rng,
            now_ms: 0,
            clients,
            links: Vec::new(),
            model,
            trace,
            actions_left: scenario.actions,
            settling: false,
            sabotage,
            watcher: None,
            cores,
            interest,
            rings: BTreeMap::new(),
            questions: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            step: 0,
            busy: 0,
            scenario,
        };
        world.schedule(TICK_MS, Event::Tick);
        world
    }

    /// The number of shards.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.scenario.shards
    }

    /// A shard.
    #[must_use]
    pub fn shard(&self, index: u16) -> &Shard {
        &self.cores[usize::from(index)].shard
    }

    /// The table of interests that all shards share.
    #[must_use]
    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Lets an event happen after some time.
    pub fn schedule(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.busy += usize::from(event.is_work());
        self.queue.push(Reverse((self.now_ms + delay_ms, self.sequence, event)));
    }

    /// Runs until nothing but the clock moves, at most for the given time.
    ///
    /// # Errors
    /// A rule was broken, or the time was not enough.
    pub fn run_until_quiet(&mut self, longest_ms: u64) -> Checked {
        let end_ms = self.now_ms + longest_ms;
        while self.busy > 0 {
            if self.now_ms > end_ms {
                return Err(violated!("world", "the run does not come to rest: {:?}", self.queue));
            }
            self.one_event()?;
        }
        Ok(())
    }

    /// Runs for a time.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn run_for(&mut self, ms: u64) -> Checked {
        let end_ms = self.now_ms + ms;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end_ms) {
            self.one_event()?;
        }
        self.now_ms = self.now_ms.max(end_ms);
        Ok(())
    }

    fn one_event(&mut self) -> Checked {
        let Some(Reverse((at_ms, _, event))) = self.queue.pop() else { return Ok(()) };
        self.busy -= usize::from(event.is_work());
        self.now_ms = self.now_ms.max(at_ms);
        match event {
            Event::Tick => self.tick()?,
            Event::Ring(from, to) => self.pop_ring(from, to)?,
            Event::Ask(to) => self.ask(to)?,
            Event::Arrive(link) => self.arrive(link)?,
            Event::Moved(link) => self.moved(link)?,
            Event::Read(link) => self.read(link)?,
            Event::Act(client) => self.act(client)?,
            Event::Ack(client, link, kind) => self.send_ack(client, link, kind),
            Event::Ping(client, link) => self.ping(client, link),
            Event::Verdict(shard, conn) => self.answer_question(shard, conn)?,
        }
        let turn_ends = self.queue.peek().is_none_or(|Reverse((at, ..))| *at > self.now_ms);
        for shard in 0..self.shards() {
            if turn_ends || !self.rng.percent(self.scenario.batch_percent) {
                self.carry_out(shard)?;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Checked {
        for shard in 0..self.shards() {
            self.feed(shard, Input::Timer, &Hint::default())?;
            let lost = self.sabotage == Some(Sabotage::TimerLost);
            while self.cores[usize::from(shard)].shard.is_overdue() && !lost {
                self.feed(shard, Input::Timer, &Hint::default())?;
            }
        }
        self.schedule(TICK_MS, Event::Tick);
        Ok(())
    }

    /// The number of the next message that a shard publishes itself.
    pub(crate) fn next_own(&mut self, shard: u16) -> u32 {
        let core = &mut self.cores[usize::from(shard)];
        core.own += 1;
        core.own
    }

    /// Gives a shard one input, with the oracles watching.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn feed(&mut self, shard: u16, input: Input, hint: &Hint) -> Checked {
        self.step += 1;
        let at = Moment { step: self.step, now_ms: self.now_ms };
        self.trace.input(at, shard, &input, hint);
        self.model.before(at, shard, &input, hint)?;
        let timer = matches!(input, Input::Timer);
        let packet = match &input {
            Input::Packet { conn, packet } if self.watcher.is_some() => {
                self.model.conns.contains_key(&(shard, *conn)).then(|| packet.clone())
            }
            _ => None,
        };
        let core = &mut self.cores[usize::from(shard)];
        let now = Now { mono_ms: self.now_ms };
        if let Some(watcher) = &mut self.watcher {
            watcher.before((shard, &mut core.shard), now, &mut core.out)?;
        }
        let (writes, peers) = (core.out.writes.len(), core.out.peers.len());
        let (closes, events) = (core.out.closes.len(), core.out.events.len());
        let drops = core.out.ledger.drops;
        let lost = self.sabotage.is_some_and(|fault| fault.swallows(&input, self.step));
        if !lost {
            core.shard.handle(now, input, &mut core.out);
        }
        // What a shard has left to its next input is not due before that.
        let timer = timer && !core.shard.is_overdue();
        let output = Output {
            packets: packets(&core.out, writes, shard, &self.model)?,
            peers: core.out.peers[peers..]
                .iter()
                .map(|(to, message)| (to.0, message.clone()))
                .collect(),
            closes: core.out.closes[closes..].to_vec(),
            events: core.out.events[events..].to_vec(),
            drops: core.out.ledger.drops.since(&drops),
        };
        self.trace.output(at, shard, &output);
        if let Some(watcher) = self.watcher.as_mut().filter(|_| !lost) {
            watcher.after(packet.as_ref(), &mut core.out, &output)?;
        }
        check_ledger(&core.shard, &core.out)?;
        let (own, counted) = (u64::from(core.own), core.out.ledger.own);
        hold!(own == counted, "ledger", "{own} own messages were published, and {counted} counted");
        let tags = self.model.after(shard, timer, &output)?;
        self.cores[usize::from(shard)].tags.extend(tags);
        Ok(())
    }

    /// Ends the turn of a shard: everything in its outbox leaves.
    fn carry_out(&mut self, shard: u16) -> Checked {
        while !self.cores[usize::from(shard)].out.is_empty() {
            let core = &mut self.cores[usize::from(shard)];
            let mut out = std::mem::take(&mut core.out);
            let tags = std::mem::take(&mut core.tags);
            for ((to, message), tag) in out.peers.drain(..).zip(tags) {
                self.push_ring(shard, to.0, message, tag);
            }
            let mut written = Vec::new();
            for write in &out.writes {
                let Some(link) = self.link_of((shard, write.conn)) else { continue };
                out.copy_to(write, &mut self.links[link].down);
                if !written.contains(&link) {
                    written.push(link);
                }
            }
            for question in &out.questions {
                let delay_ms = self.rng.below(20);
                self.schedule(delay_ms, Event::Verdict(shard, question.conn));
            }
            for &conn in &out.closes {
                if let Some(link) = self.link_of((shard, conn)) {
                    self.let_go(link);
                    self.links[link].eof = true;
                    if !written.contains(&link) {
                        written.push(link);
                    }
                }
            }
            out.clear();
            self.cores[usize::from(shard)].out = out;
            for link in written {
                self.schedule_read(link);
                self.report_flushed(link)?;
            }
        }
        Ok(())
    }

    fn push_ring(&mut self, from: u16, to: u16, message: PeerMessage, tag: Tag) {
        let delay_ms = match self.scenario.ring_delay_ms {
            0 => 0,
            longest => self.rng.below(longest + 1),
        };
        let faults = self.sabotage.map_or(1, |fault| fault.copies(&message, self.step));
        for _ in 0..faults {
            let now_ms = self.now_ms;
            if matches!(message, PeerMessage::RetainedQuery(_)) {
                let after = self.said_to(to);
                let message = message.clone();
                self.questions.push(Question { from, to, message, after });
                self.schedule(delay_ms, Event::Ask(to));
                continue;
            }
            let ring = self.rings.entry((from, to)).or_default();
            ring.queue.push_back((message.clone(), tag));
            ring.last_ms = ring.last_ms.max(now_ms + delay_ms);
            let wait_ms = ring.last_ms - now_ms;
            if self.sabotage == Some(Sabotage::RingReorders) && ring.queue.len() > 1 {
                let last = ring.queue.len() - 1;
                ring.queue.swap(last, last - 1);
            }
            self.schedule(wait_ms, Event::Ring(from, to));
        }
    }

    fn pop_ring(&mut self, from: u16, to: u16) -> Checked {
        let Some(ring) = self.rings.get_mut(&(from, to)) else { return Ok(()) };
        let Some((message, tag)) = ring.queue.pop_front() else { return Ok(()) };
        ring.taken += 1;
        let hint = Hint { tag, ..Hint::default() };
        self.feed(to, Input::Peer { from: ShardIndex(from), message }, &hint)?;
        self.ask(to)
    }

    /// How many messages each shard has for another, those included that have not left its outbox.
    /// The pump sees to it that a question is answered after all of them.
    fn said_to(&self, to: u16) -> Vec<u64> {
        if self.sabotage == Some(Sabotage::QuestionOvertakes) {
            return vec![0; self.cores.len()];
        }
        let said = |from: usize| {
            let ring = self.rings.get(&(from as u16, to));
            let in_ring = ring.map_or(0, |ring| ring.taken + ring.queue.len() as u64);
            let leaving = self.cores[from].out.peers.iter().filter(|(other, message)| {
                other.0 == to && !matches!(message, PeerMessage::RetainedQuery(_))
            });
            in_ring + leaving.count() as u64
        };
        (0..self.cores.len()).map(said).collect()
    }

    /// Puts the questions to a shard whose time has come.
    fn ask(&mut self, to: u16) -> Checked {
        let taken: Vec<u64> = (0..self.shards())
            .map(|from| self.rings.get(&(from, to)).map_or(0, |ring| ring.taken))
            .collect();
        let ripe = |question: &Question| {
            question.to == to
                && question.after.iter().zip(&taken).all(|(after, taken)| after <= taken)
        };
        while let Some(at) = self.questions.iter().position(ripe) {
            let Question { from, message, .. } = self.questions.remove(at);
            self.feed(to, Input::Peer { from: ShardIndex(from), message }, &Hint::default())?;
        }
        Ok(())
    }

    fn link_of(&self, (shard, conn): Key) -> Option<usize> {
        let (generation, link) = *self.cores[usize::from(shard)].slots.get(conn.index as usize)?;
        link.filter(|_| generation == conn.generation)
    }

    /// The broker is done with a connection: its place is free for another.
    fn let_go(&mut self, link: usize) {
        let link = &mut self.links[link];
        link.server = Server::Closed;
        if let Some((shard, conn)) = link.key.take() {
            let core = &mut self.cores[usize::from(shard)];
            core.slots[conn.index as usize].1 = None;
            core.free.push(conn.index);
        }
    }

    /// Bytes of a client reach the broker.
    fn arrive(&mut self, at: usize) -> Checked {
        let link = &mut self.links[at];
        let bytes = match self.rng.percent(60) {
            true => link.up.len(),
            false => self.rng.index(link.up.len() + 1),
        };
        let arrived = link.up.split_to(bytes);
        link.inbox.extend_from_slice(&arrived);
        let more = !link.up.is_empty();
        if more {
            let delay_ms = self.rng.below(self.scenario.net_delay_ms + 1);
            self.schedule(delay_ms, Event::Arrive(at));
        }
        self.decode_inbox(at)
    }

    fn moved(&mut self, at: usize) -> Checked {
        let link = &mut self.links[at];
        let Some(connect) = link.connect.take() else { return Ok(()) };
        let id = connect.client_id.as_bytes();
        let home = match id.is_empty() {
            true => link.accepted_by,
            false => self.model.slots.home_of(id).0,
        };
        let home = match self.sabotage {
            Some(Sabotage::HomeIgnored) => link.accepted_by,
            _ => home,
        };
        let conn = self.new_conn(home, at);
        let origin = self.links[at].origin();
        self.links[at].key = Some((home, conn));
        self.links[at].server = Server::Live;
        let hint = self.links[at].take_hint(0);
        self.feed(home, Input::Connect { conn, connect, origin }, &hint)?;
        self.decode_inbox(at)
    }

    fn new_conn(&mut self, shard: u16, link: usize) -> ConnId {
        let core = &mut self.cores[usize::from(shard)];
        let index = core.free.pop().unwrap_or_else(|| {
            core.slots.push((0, None));
            core.slots.len() as u32 - 1
        });
        let slot = &mut core.slots[index as usize];
        slot.0 += 1;
        slot.1 = Some(link);
        ConnId { index, generation: slot.0 }
    }

    /// Everything that has arrived and is whole goes to the shard.
    fn decode_inbox(&mut self, at: usize) -> Checked {
        let largest = self.scenario.limits.maximum_packet_size_bytes;
        loop {
            let link = &mut self.links[at];
            let version = match link.server {
                Server::Fresh => None,
                Server::Live => Some(link.version),
                Server::Moving | Server::Broken | Server::Closed => return Ok(()),
            };
            let offset = link.decoded;
            let packet = match frame(&link.inbox, largest) {
                Ok(Frame::Complete(bytes)) => {
                    link.decoded += bytes as u64;
                    decode(&link.inbox.split_to(bytes).freeze(), version)
                }
                Ok(Frame::Incomplete(_)) => return self.end_of_stream(at),
                Err(error) => Err(error),
            };
            match (packet, link.key) {
                (Ok(Packet::Connect(connect)), None) => {
                    link.version = connect.version;
                    link.connect = Some(connect);
                    link.server = Server::Moving;
                    let delay_ms = self.rng.below(self.scenario.ring_delay_ms + 1);
                    self.schedule(delay_ms, Event::Moved(at));
                    return Ok(());
                }
                (_, None) => {
                    // The pump answers for what never reaches a shard.
                    self.let_go(at);
                    self.links[at].eof = true;
                    self.schedule_read(at);
                    return Ok(());
                }
                (Ok(packet), Some((shard, conn))) => {
                    let hint = link.take_hint(offset);
                    self.feed(shard, Input::Packet { conn, packet }, &hint)?;
                }
                (Err(error), Some((shard, conn))) => {
                    let expected = link.take_hint(offset).hostile;
                    let right = expected.map(|right| right.contains(&error.reason));
                    if !right.unwrap_or(link.broke_a_rule) {
                        return Err(violated!("codec", "the decoder refused good bytes: {error}"));
                    }
                    link.server = Server::Broken;
                    self.feed(shard, Input::Violation { conn, error }, &Hint::default())?;
                    return Ok(());
                }
            }
        }
    }

    /// All bytes are decoded; if the client has closed, the shard is told.
    fn end_of_stream(&mut self, at: usize) -> Checked {
        let link = &mut self.links[at];
        if !link.fin || !link.up.is_empty() {
            return Ok(());
        }
        let key = link.key;
        self.let_go(at);
        match key {
            Some((shard, conn)) => self.feed(shard, Input::Closed { conn }, &Hint::default()),
            None => Ok(()),
        }
    }

    /// A client sends a packet.
    pub fn send(&mut self, link: usize, packet: &Packet) {
        let mut bytes = BytesMut::new();
        encode(packet, self.links[link].version, &mut bytes);
        self.send_bytes(link, &bytes, None);
    }

    /// A client sends bytes; with reasons if they break a rule.
    pub fn send_bytes(&mut self, at: usize, bytes: &[u8], hostile: Option<Vec<ReasonCode>>) {
        let link = &mut self.links[at];
        if link.fin {
            return;
        }
        if let Some(reasons) = hostile {
            link.hostile.get_or_insert((link.sent, reasons));
        }
        link.sent += bytes.len() as u64;
        link.up.extend_from_slice(bytes);
        let delay_ms = self.rng.below(self.scenario.net_delay_ms + 1);
        self.schedule(delay_ms, Event::Arrive(at));
    }

    /// A client closes its end. What is still under way arrives only in part if `abrupt`.
    pub fn close_link(&mut self, at: usize, abrupt: bool) {
        let link = &mut self.links[at];
        if link.fin {
            return;
        }
        link.fin = true;
        link.reading = false;
        link.down.clear();
        if abrupt {
            let left = self.rng.index(link.up.len() + 1);
            link.up.truncate(left);
        }
        let delay_ms = self.rng.below(self.scenario.net_delay_ms + 1);
        self.schedule(delay_ms, Event::Arrive(at));
    }

    /// Opens a connection for a client, on any shard.
    pub fn open_link(&mut self, client: usize) -> usize {
        let accepted_by = self.rng.below(u64::from(self.shards())) as u16;
        let habits = &self.clients[client].habits;
        self.links.push(Link::new(client, accepted_by, habits));
        self.links.len() - 1
    }

    fn schedule_read(&mut self, at: usize) {
        let link = &self.links[at];
        if link.reading && !link.read_scheduled {
            let longest = self.scenario.net_delay_ms + link.read_delay_ms;
            let delay_ms = self.rng.below(longest + 1);
            self.links[at].read_scheduled = true;
            self.schedule(delay_ms, Event::Read(at));
        }
    }

    /// A client reads some of what lies in its socket.
    fn read(&mut self, at: usize) -> Checked {
        let link = &mut self.links[at];
        link.read_scheduled = false;
        if !link.reading {
            return Ok(());
        }
        let bytes = match self.rng.percent(70) {
            true => link.down.len(),
            false => self.rng.index(link.down.len() + 1),
        };
        let taken = link.down.split_to(bytes);
        link.client_inbox.extend_from_slice(&taken);
        if !link.down.is_empty() {
            self.schedule_read(at);
        }
        self.report_drained(at)?;
        self.client_reads(at)?;
        let link = &mut self.links[at];
        if link.eof && link.down.is_empty() && link.reading {
            link.reading = false;
            let client = link.client;
            if self.clients[client].link == Some(at) {
                self.on_eof(client);
            }
        }
        Ok(())
    }

    fn client_reads(&mut self, at: usize) -> Checked {
        loop {
            let link = &mut self.links[at];
            let bytes = match frame(&link.client_inbox, u32::MAX) {
                Ok(Frame::Complete(bytes)) => bytes,
                Ok(Frame::Incomplete(_)) => return Ok(()),
                Err(error) => return Err(violated!("codec", "a client cannot read: {error}")),
            };
            let packet = link.client_inbox.split_to(bytes).freeze();
            let packet = decode(&packet, Some(link.version))
                .map_err(|error| violated!("codec", "a client cannot decode: {error}"))?;
            self.on_client_packet(at, &packet);
        }
    }

    /// The pump tells what the socket has not taken.
    fn report_flushed(&mut self, at: usize) -> Checked {
        let link = &mut self.links[at];
        let pending = link.pending();
        link.reported = pending;
        let Some((shard, conn)) = link.key else { return Ok(()) };
        self.feed(shard, Input::Flushed { conn, pending_bytes: pending }, &Hint::default())
    }

    fn report_drained(&mut self, at: usize) -> Checked {
        let link = &self.links[at];
        if link.reported > 0 && link.pending() < link.reported {
            return self.report_flushed(at);
        }
        Ok(())
    }

    /// Ends every connection whose client does not use it any more.
    pub fn close_abandoned(&mut self) {
        for at in 0..self.links.len() {
            if self.clients[self.links[at].client].link != Some(at) {
                self.close_link(at, false);
            }
        }
    }
}

impl Event {
    /// False for what goes on for ever.
    const fn is_work(self) -> bool {
        !matches!(self, Self::Tick | Self::Ping(..))
    }
}

/// The packets that a step added to an outbox.
fn packets(
    out: &Outbox,
    from: usize,
    shard: u16,
    model: &Model,
) -> Checked<Vec<(ConnId, Packet, usize)>> {
    let mut streams: Vec<(ConnId, BytesMut)> = Vec::new();
    for write in &out.writes[from..] {
        let stream = match streams.last_mut() {
            Some((conn, stream)) if *conn == write.conn => stream,
            _ => {
                streams.push((write.conn, BytesMut::new()));
                let last = streams.len() - 1;
                &mut streams[last].1
            }
        };
        out.copy_to(write, stream);
    }
    let mut packets = Vec::new();
    for (conn, mut stream) in streams {
        let version = model.conns.get(&(shard, conn)).map(|conn| conn.version);
        let version = version.ok_or_else(|| {
            violated!("closing", "shard {shard} writes to {conn:?}, which is closed or never was")
        })?;
        while !stream.is_empty() {
            let Ok(Frame::Complete(bytes)) = frame(&stream, u32::MAX) else {
                return Err(violated!("codec", "shard {shard} wrote half a packet to {conn:?}"));
            };
            let packet = stream.split_to(bytes).freeze();
            let packet = decode(&packet, Some(version)).map_err(|error| {
                violated!("codec", "shard {shard} wrote nonsense: {error}: {packet:?}")
            })?;
            packets.push((conn, packet, bytes));
        }
    }
    Ok(packets)
}

/// What has become of messages adds up, and what is held is what the ledger says.
pub(crate) fn check_ledger(shard: &Shard, out: &Outbox) -> Checked {
    let ledger = &out.ledger;
    let totals = shard.walk_on(&mut Walk::default(), u32::MAX).unwrap_or_default();
    let held = totals.queued + totals.inflight;
    let said = ledger.held();
    hold!(said == held, "ledger", "{held} copies are held, and the ledger says {said}: {ledger:?}");
    Ok(())
}
