//! One thread of clients: an epoll instance, a file table and a clock.
//!
//! Open loop: what is due is sent when it is due, whether or not earlier messages have arrived, and
//! its time counts from then.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use core_affinity::CoreId;
use petrel_net::runtime::{self, Next};
use petrel_proto::{Frame, Packet, ReasonCode, decode, encode, frame};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::alarm::Alarm;
use super::plan::{Group, Target};
use super::slot::{Phase, Slot, answer, connect, due_ns, mark, publish, subscribe};
use super::socket::{begin_connect, send_some, thread_cpu};
use super::stamps::{Mark, StampedReads, Stamps, wall_ns};
use super::stats::{Counters, Times, bump, drop_one, record};
use super::tls::Layer;

/// Connections that one source address opens: the system has some 28,000 ports for it, and takes the
/// longer to find a free one the fewer are left.
const CLIENTS_PER_SOURCE: usize = 2_000;
const EVENTS_MAX: usize = 1024;
/// New connections of one turn, at most, so that those under way go on.
const OPENS_PER_TURN_MAX: usize = 64;
/// Messages of one turn, at most, so that a thread that cannot keep up still hears its orders.
const SENDS_PER_TURN_MAX: usize = 4096;
/// The thread looks at its orders this often.
const TURN_MAX: Duration = Duration::from_millis(5);

/// After a turn in which something happened a thread under glommio waits so long in epoll before it
/// waits in the ring, since to park an executor costs more than a small message does.
const LINGER: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What a thread waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The ring of a glommio executor.
    Glommio,
    /// epoll itself.
    Epoll,
}

/// Whether there was anything in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turned {
    Busy,
    Idle,
}

/// What a thread is told.
pub enum Order {
    /// Have these groups connect, so many a second, so many under way at once; of both each thread has
    /// its part.
    Connect { groups: Vec<u16>, per_second: f64, under_way_max: usize },
    /// Begin to publish in these groups.
    Publish { groups: Vec<u16> },
    /// Stop publishing.
    Quiet,
    /// Break the connections of a group all at once and let it connect again, so many under way at once.
    Cut { group: u16, under_way_max: usize },
    /// Take leave of a group without its clients coming back.
    Leave { group: u16 },
    /// Say how much CPU time the thread has used.
    Cpu(mpsc::Sender<Duration>),
    /// Hand over the times measured since the last such order.
    Times(mpsc::Sender<Vec<Times>>),
}

/// What a thread is made of.
pub struct Parts {
    /// Which thread it is, and how many there are.
    pub index: usize,
    /// How many there are.
    pub threads: usize,
    /// Where everybody connects to.
    pub target: Target,
    /// Who does.
    pub groups: Vec<Group>,
    /// By group.
    pub counters: Arc<[Counters]>,
    /// When messages were sent.
    pub stamps: Arc<Stamps>,
    /// What it is told; it ends with the channel.
    pub orders: mpsc::Receiver<Order>,
    /// The clock of the run.
    pub clock: Instant,
    /// What the thread waits in.
    pub runtime: Runtime,
    /// Its core, if it is to keep to one.
    pub core: Option<CoreId>,
    /// What its priority is lowered by, unless its groups stand apart.
    pub nice: u8,
}

/// One thread of clients.
struct Worker {
    parts: Parts,
    epoll: Arc<OwnedFd>,
    events: Vec<Event>,
    alarm: Alarm,
    slots: Vec<Slot>,
    /// Clients that are to connect, in order.
    to_open: VecDeque<u32>,
    per_second: f64,
    under_way_max: usize,
    under_way: usize,
    /// When the next may, in nanoseconds.
    next_open_ns: u64,
    /// When who gives up: time, client, generation.
    patience: VecDeque<(u64, u32, u32)>,
    /// By group: when who sends next.
    due: Vec<VecDeque<(u64, u32)>>,
    /// By group: when who pings next, on which of its connections.
    pings: Vec<VecDeque<(u64, u32, u32)>>,
    times: Vec<Times>,
    stamped_reads: StampedReads,
    /// When the bytes that are being looked at arrived, by the kernel, if it was asked.
    arrived_ns: Option<u64>,
    scratch: Vec<u8>,
    plain: BytesMut,
    packet: BytesMut,
    wire: Vec<u8>,
    opened: usize,
    /// The first thing that went wrong, said once.
    complaint: bool,
}

/// Runs a thread until its orders end.
///
/// # Errors
/// The system gives no epoll instance.
pub fn run(parts: Parts) -> Result<(), String> {
    if let Some(core) = parts.core {
        // A core that was taken away meanwhile costs the pin, not the run.
        core_affinity::set_for_current(core);
    }
    // The first thread is for the groups that stand apart, if there are any.
    let apart = usize::from(parts.threads > 1 && parts.groups.iter().any(|it| it.apart));
    if parts.nice > 0 && parts.index >= apart {
        // On Linux this is the thread's own.
        rustix::process::setpriority_process(None, i32::from(parts.nice))
            .map_err(|error| format!("a lower priority is refused: {error}"))?;
    }
    // The limit of open files holds for each table.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)
        .map_err(|error| format!("a file table of its own is refused: {error}"))?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut slots = Vec::new();
    for (group, it) in parts.groups.iter().enumerate() {
        let own = match (it.apart && apart > 0, parts.index < apart) {
            (true, true) => (0..it.clients).step_by(1),
            (false, false) => (parts.index - apart..it.clients).step_by(parts.threads - apart),
            _ => continue,
        };
        slots.extend(own.map(|number| Slot::new(group as u16, number as u32)));
    }
    let groups = parts.groups.len();
    let times: Result<Vec<Times>, String> = (0..groups).map(|_| Times::new()).collect();
    Worker {
        alarm: Alarm::new(&epoll).map_err(|error| format!("timerfd: {error}"))?,
        epoll: Arc::new(epoll),
        events: Vec::with_capacity(EVENTS_MAX),
        slots,
        to_open: VecDeque::new(),
        per_second: 0.0,
        under_way_max: usize::MAX,
        under_way: 0,
        next_open_ns: 0,
        patience: VecDeque::new(),
        due: vec![VecDeque::new(); groups],
        pings: vec![VecDeque::new(); groups],
        times: times?,
        stamped_reads: StampedReads::new(),
        arrived_ns: None,
        scratch: vec![0; 64 << 10],
        plain: BytesMut::new(),
        packet: BytesMut::new(),
        wire: Vec::new(),
        opened: 0,
        complaint: false,
        parts,
    }
    .drive()
}

impl Worker {
    fn drive(mut self) -> Result<(), String> {
        match self.parts.runtime {
            Runtime::Epoll => while self.turn(None)?.is_some() {},
            Runtime::Glommio => {
                let mut busy = false;
                runtime::drive(Arc::clone(&self.epoll), || {
                    let timeout = if busy { LINGER } else { Timespec::default() };
                    let turned = self.turn(Some(timeout)).map_err(io::Error::other)?;
                    busy = turned == Some(Turned::Busy);
                    Ok(match turned {
                        Some(Turned::Busy) => Next::Turn,
                        Some(Turned::Idle) => Next::Wait,
                        None => Next::End,
                    })
                })
                .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Does what is due and what has happened, for which it waits so long at most; without a limit
    /// the alarm ends the wait. Nothing if the run is over.
    fn turn(&mut self, longest: Option<Timespec>) -> Result<Option<Turned>, String> {
        loop {
            match self.parts.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(None),
            }
        }
        let now_ns = self.now_ns();
        self.open_some(now_ns);
        self.lose_patience(now_ns);
        self.send_due(now_ns);
        let mut events = std::mem::take(&mut self.events);
        let at_once = self.set_alarm()?;
        let timeout = if at_once { Some(Timespec::default()) } else { longest };
        match epoll::wait(&*self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        let turned = if at_once || !events.is_empty() { Turned::Busy } else { Turned::Idle };
        for event in events.drain(..) {
            let data = event.data.u64();
            if data != Alarm::DATA {
                self.on_event((data >> 32) as u32, data as u32, event.flags);
            }
        }
        self.events = events;
        Ok(Some(turned))
    }

    fn now_ns(&self) -> u64 {
        self.parts.clock.elapsed().as_nanos() as u64
    }

    /// True if something is due; else the alarm will end the next wait by the time it is.
    fn set_alarm(&mut self) -> Result<bool, String> {
        let now_ns = self.now_ns();
        let wait = self.until_next(now_ns);
        if !wait.is_zero() {
            self.alarm.ring_by(now_ns, wait).map_err(|error| format!("timerfd: {error}"))?;
        }
        Ok(wait.is_zero())
    }

    fn until_next(&self, now_ns: u64) -> Duration {
        let due = self.due.iter().filter_map(|due| Some(due.front()?.0));
        let pings = self.pings.iter().filter_map(|due| Some(due.front()?.0));
        let next_ns = due.chain(pings).min().unwrap_or(u64::MAX);
        let opening = !self.to_open.is_empty() && self.under_way < self.under_way_max;
        let next_ns = if opening { next_ns.min(self.next_open_ns) } else { next_ns };
        TURN_MAX.min(Duration::from_nanos(next_ns.saturating_sub(now_ns)))
    }

    fn of_group(&self, group: u16) -> Vec<u32> {
        let all = self.slots.iter().enumerate().filter(|(_, slot)| slot.group == group);
        all.map(|(at, _)| at as u32).collect()
    }

    fn obey(&mut self, order: Order) {
        let now_ns = self.now_ns();
        match order {
            Order::Connect { groups, per_second, under_way_max } => {
                let own: Vec<u32> = groups.iter().flat_map(|&it| self.of_group(it)).collect();
                self.per_second = per_second * self.part(&groups, own.len());
                self.limit_under_way(&groups, own.len(), under_way_max);
                self.next_open_ns = now_ns;
                for at in own {
                    self.slots[at as usize].told_ns = 0;
                    self.to_open.push_back(at);
                }
            }
            Order::Publish { groups } => {
                for group in groups {
                    self.schedule(group, now_ns);
                }
            }
            Order::Quiet => self.due.iter_mut().for_each(VecDeque::clear),
            Order::Cut { group, under_way_max } => {
                self.per_second = f64::INFINITY;
                let own = self.of_group(group);
                self.limit_under_way(&[group], own.len(), under_way_max);
                for at in own {
                    self.hang_up(at, true);
                    self.slots[at as usize].told_ns = now_ns;
                    self.to_open.push_back(at);
                }
            }
            Order::Leave { group } => {
                for at in self.of_group(group) {
                    self.hang_up(at, false);
                }
            }
            // Whoever asked may have gone.
            Order::Cpu(answer) => drop(answer.send(thread_cpu())),
            Order::Times(answer) => {
                let fresh: Result<Vec<Times>, String> =
                    self.times.iter().map(|_| Times::new()).collect();
                if let Ok(fresh) = fresh {
                    // Whoever asked may have gone.
                    let _ = answer.send(std::mem::replace(&mut self.times, fresh));
                }
            }
        }
    }

    /// What part of the clients of some groups so many are.
    fn part(&self, groups: &[u16], own: usize) -> f64 {
        let all: usize = groups.iter().map(|&it| self.parts.groups[usize::from(it)].clients).sum();
        own as f64 / all.max(1) as f64
    }

    /// Takes this thread's part of how many may be under way, at least one.
    fn limit_under_way(&mut self, groups: &[u16], own: usize, of_all: usize) {
        self.under_way_max = match of_all {
            usize::MAX => usize::MAX,
            of_all => ((of_all as f64 * self.part(groups, own)) as usize).max(1),
        };
    }

    /// Spreads what the clients of a group do over its interval.
    fn schedule(&mut self, group: u16, now_ns: u64) {
        let it = &self.parts.groups[usize::from(group)];
        let spread = |every: Duration, number: u32| {
            let share = f64::from(number) / it.clients.max(1) as f64;
            now_ns + (every.as_nanos() as f64 * share) as u64
        };
        let own = self.of_group(group);
        if let Some(publishing) = &it.publish {
            let due = own
                .iter()
                .map(|&at| (spread(publishing.every, self.slots[at as usize].number), at));
            self.due[usize::from(group)] = due.collect();
        }
    }

    fn open_some(&mut self, now_ns: u64) {
        for _ in 0..OPENS_PER_TURN_MAX {
            if self.under_way >= self.under_way_max || self.next_open_ns > now_ns {
                return;
            }
            let Some(at) = self.to_open.pop_front() else { return };
            let paced = self.per_second.is_finite();
            let due_ns = if paced { self.next_open_ns } else { now_ns };
            if paced {
                self.next_open_ns += (1e9 / self.per_second) as u64;
            }
            if self.slots[at as usize].told_ns == 0 {
                self.slots[at as usize].told_ns = due_ns;
            }
            if let Err(sentence) = self.open(at, now_ns) {
                self.complain(&sentence);
                bump(&self.counters(at).failed);
                self.to_open.push_back(at);
            }
        }
    }

    fn counters(&self, at: u32) -> &Counters {
        &self.parts.counters[usize::from(self.slots[at as usize].group)]
    }

    fn complain(&mut self, sentence: &str) {
        if !self.complaint {
            self.complaint = true;
            eprintln!(
                "\nthread {}: {sentence} (further problems are only counted)",
                self.parts.index
            );
        }
    }

    fn open(&mut self, at: u32, now_ns: u64) -> Result<(), String> {
        let target = &self.parts.target;
        let address = target.addresses[self.opened % target.addresses.len()];
        let source = match target.sources.len() {
            0 => None,
            sources => {
                let turn =
                    self.parts.index + self.parts.threads * (at as usize / CLIENTS_PER_SOURCE);
                Some(target.sources[turn % sources])
            }
        };
        let socket =
            begin_connect(address, source).map_err(|error| format!("{address}: {error}"))?;
        self.opened += 1;
        let slot = &mut self.slots[at as usize];
        if self.parts.groups[usize::from(slot.group)].timed {
            StampedReads::enable(&socket)?;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let data = EventData::new_u64(u64::from(at) << 32 | u64::from(slot.generation));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, &socket, data, flags).map_err(|error| error.to_string())?;
        slot.socket = Some(socket);
        slot.phase = Phase::Connecting;
        let patience_ns = target.patience.as_nanos() as u64;
        self.patience.push_back((now_ns + patience_ns, at, slot.generation));
        self.under_way += 1;
        bump(&self.counters(at).attempts);
        Ok(())
    }

    fn lose_patience(&mut self, now_ns: u64) {
        while let Some(&(when, at, generation)) = self.patience.front() {
            if when > now_ns {
                return;
            }
            self.patience.pop_front();
            let slot = &self.slots[at as usize];
            if slot.generation == generation && !matches!(slot.phase, Phase::Ready | Phase::Off) {
                bump(&self.counters(at).impatient);
                self.hang_up(at, true);
                self.to_open.push_back(at);
            }
        }
    }

    fn send_due(&mut self, now_ns: u64) {
        for group in 0..self.due.len() {
            let mut left = SENDS_PER_TURN_MAX;
            while let Some(&(when, at)) = self.due[group].front()
                && when <= now_ns
                && left > 0
            {
                left -= 1;
                self.due[group].pop_front();
                self.publish(group, at, when);
            }
            while let Some(&(when, at, generation)) = self.pings[group].front()
                && when <= now_ns
            {
                self.pings[group].pop_front();
                let slot = &self.slots[at as usize];
                if slot.phase == Phase::Ready && slot.generation == generation {
                    self.send(at, &Packet::PingReq);
                    self.plan_ping(at, now_ns);
                }
            }
        }
    }

    fn publish(&mut self, group: usize, at: u32, due_ns: u64) {
        let late_ns = self.now_ns().saturating_sub(due_ns);
        record(&mut self.times[group].late, late_ns);
        let Some(publishing) = self.parts.groups[group].publish.clone() else { return };
        let slot = &mut self.slots[at as usize];
        if slot.phase == Phase::Ready {
            let packet = publish(slot, &publishing, self.parts.target.start_number, due_ns);
            let mark = slot.mark();
            slot.sent += 1;
            let done = slot.sent >= publishing.messages;
            match packet {
                Ok(packet) => {
                    bump(&self.counters(at).published);
                    self.send_stamped(at, mark, &packet);
                }
                Err(sentence) => {
                    bump(&self.counters(at).unsent);
                    self.complain(&sentence);
                }
            }
            if done {
                return;
            }
        } else {
            bump(&self.counters(at).unsent);
        }
        self.due[group].push_back((due_ns + publishing.every.as_nanos() as u64, at));
    }

    fn on_event(&mut self, at: u32, generation: u32, flags: EventFlags) {
        let Some(slot) = self.slots.get(at as usize) else { return };
        if slot.generation != generation || slot.phase == Phase::Off {
            return;
        }
        let deaf = self.parts.groups[usize::from(slot.group)].deaf && slot.phase == Phase::Ready;
        let result = match slot.phase {
            Phase::Connecting if flags.intersects(EventFlags::OUT | EventFlags::ERR) => {
                self.connected(at)
            }
            _ if flags.contains(EventFlags::OUT) => self.flush(at),
            _ => Ok(()),
        };
        let reads = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) && !deaf;
        let result = result.and_then(|()| if reads { self.read(at) } else { Ok(()) });
        if let Err(sentence) = result {
            self.fail(at, &sentence);
        }
    }

    fn connected(&mut self, at: u32) -> Result<(), String> {
        let slot = &mut self.slots[at as usize];
        let Some(socket) = &slot.socket else { return Ok(()) };
        match sockopt::socket_error(socket) {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => return Err(format!("connect: {error}")),
        }
        match &self.parts.target.tls {
            None => self.greet(at),
            Some(tls) => {
                slot.phase = Phase::Securing;
                slot.layer = tls.begin(&mut self.wire)?;
                self.transmit(at)
            }
        }
    }

    fn greet(&mut self, at: u32) -> Result<(), String> {
        let slot = &mut self.slots[at as usize];
        slot.phase = Phase::Greeting;
        let group = &self.parts.groups[usize::from(slot.group)];
        let packet = connect(&self.parts.target, group, slot.number)?;
        self.try_send(at, &packet)
    }

    fn read(&mut self, at: u32) -> Result<(), String> {
        loop {
            let slot = &mut self.slots[at as usize];
            let Some(socket) = &slot.socket else { return Ok(()) };
            let timed = self.parts.groups[usize::from(slot.group)].timed;
            let read = match timed {
                true => self.stamped_reads.read(socket, &mut self.scratch),
                false => rustix::io::read(socket, &mut self.scratch[..]).map(|bytes| (bytes, None)),
            };
            let bytes = match read {
                Ok((0, _)) => return Err("the broker closed the connection".to_owned()),
                Ok((bytes, stamp)) => {
                    self.arrived_ns = stamp;
                    bytes
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
            };
            self.plain.clear();
            self.plain.extend_from_slice(&std::mem::take(&mut slot.tail));
            let ready =
                slot.layer.read(&mut self.scratch[..bytes], &mut self.plain, &mut self.wire)?;
            let securing = slot.phase == Phase::Securing;
            self.transmit(at)?;
            if securing && ready {
                self.greet(at)?;
            }
            self.take_packets(at)?;
            if bytes < self.scratch.len() {
                // A short read has emptied the socket; what comes later is another event.
                return Ok(());
            }
        }
    }

    fn take_packets(&mut self, at: u32) -> Result<(), String> {
        let version = self.parts.target.version;
        let mut plain = std::mem::take(&mut self.plain);
        while let Frame::Complete(length) = frame(&plain, u32::MAX).map_err(|it| it.to_string())? {
            let packet = plain.split_to(length).freeze();
            let packet = decode(&packet, Some(version)).map_err(|error| error.to_string())?;
            self.on_packet(at, &packet)?;
        }
        if !plain.is_empty() {
            self.slots[at as usize].tail = plain.to_vec();
        }
        plain.clear();
        self.plain = plain;
        Ok(())
    }

    fn on_packet(&mut self, at: u32, packet: &Packet) -> Result<(), String> {
        match packet {
            Packet::ConnAck(ack) if ack.reason == ReasonCode::Success => {
                bump(&self.counters(at).accepted);
                if ack.session_present {
                    bump(&self.counters(at).present);
                }
                let slot = &mut self.slots[at as usize];
                let group = &self.parts.groups[usize::from(slot.group)];
                match &group.subscribe {
                    Some((filter, qos)) if !ack.session_present => {
                        slot.phase = Phase::Subscribing;
                        let number = slot.number as usize + self.parts.target.start_number;
                        let packet = subscribe(filter, *qos, number)?;
                        self.try_send(at, &packet)?;
                    }
                    _ => self.ready(at),
                }
            }
            Packet::ConnAck(ack) => return Err(format!("CONNECT was refused: {:?}", ack.reason)),
            Packet::SubAck(ack) if ack.reasons.iter().all(|it| !it.is_error()) => self.ready(at),
            Packet::SubAck(ack) => return Err(format!("SUBSCRIBE was refused: {:?}", ack.reasons)),
            Packet::Disconnect(it) => return Err(format!("the broker said {:?}", it.reason)),
            Packet::PingResp => bump(&self.counters(at).pongs),
            Packet::PubAck(_) | Packet::PubComp(_) => bump(&self.counters(at).acknowledged),
            Packet::Publish(message) => {
                bump(&self.counters(at).received);
                self.time(at, &message.payload);
            }
            _ => {}
        }
        match answer(packet) {
            Some(answer) => self.try_send(at, &answer),
            None => Ok(()),
        }
    }

    /// Times a message that has arrived.
    fn time(&mut self, at: u32, payload: &Bytes) {
        let (Some(due_ns), Some(mark)) = (due_ns(payload), mark(payload)) else { return };
        let took_ns = self.now_ns().saturating_sub(due_ns);
        let group = usize::from(self.slots[at as usize].group);
        let times = &mut self.times[group];
        record(&mut times.delivery, took_ns);
        if !self.parts.groups[group].timed {
            return;
        }
        match self.arrived_ns.and_then(|arrived_ns| self.parts.stamps.residency(mark, arrived_ns)) {
            Some(residency) => {
                record(&mut times.residency, residency.most_ns);
                record(&mut times.residency_least, residency.least_ns);
            }
            None => times.untimed += 1,
        }
    }

    fn ready(&mut self, at: u32) {
        let now_ns = self.now_ns();
        let slot = &mut self.slots[at as usize];
        slot.phase = Phase::Ready;
        let took_ns = now_ns.saturating_sub(slot.told_ns);
        let group = usize::from(slot.group);
        self.under_way -= 1;
        self.plan_ping(at, now_ns);
        bump(&self.counters(at).ready);
        record(&mut self.times[group].ready, took_ns);
    }

    /// A ping well within the keep alive, whatever else is sent. Later calls give later times.
    fn plan_ping(&mut self, at: u32, now_ns: u64) {
        let slot = &self.slots[at as usize];
        let group = usize::from(slot.group);
        let every_ns = u64::from(self.parts.groups[group].keep_alive_s) * 800_000_000;
        if every_ns > 0 {
            self.pings[group].push_back((now_ns + every_ns, at, slot.generation));
        }
    }

    fn send(&mut self, at: u32, packet: &Packet) {
        if let Err(sentence) = self.try_send(at, packet) {
            self.fail(at, &sentence);
        }
    }

    /// Sends a message and remembers when.
    fn send_stamped(&mut self, at: u32, mark: Mark, packet: &Packet) {
        let sent = self.wrap(at, packet).and_then(|()| {
            self.parts.stamps.before(mark, wall_ns());
            self.transmit(at)?;
            let all = self.slots[at as usize].unsent.is_empty();
            self.parts.stamps.after(mark, wall_ns(), all);
            Ok(())
        });
        if let Err(sentence) = sent {
            self.fail(at, &sentence);
        }
    }

    fn try_send(&mut self, at: u32, packet: &Packet) -> Result<(), String> {
        self.wrap(at, packet)?;
        self.transmit(at)
    }

    /// Puts a packet into `wire` as it goes to the broker.
    fn wrap(&mut self, at: u32, packet: &Packet) -> Result<(), String> {
        self.packet.clear();
        encode(packet, self.parts.target.version, &mut self.packet);
        self.slots[at as usize].layer.write(&self.packet, &mut self.wire)
    }

    /// Sends what is in `wire`, behind what waits.
    fn transmit(&mut self, at: u32) -> Result<(), String> {
        if self.wire.is_empty() {
            return Ok(());
        }
        let slot = &mut self.slots[at as usize];
        let waited = !slot.unsent.is_empty();
        let mut taken = 0;
        if !waited && let Some(socket) = &slot.socket {
            taken = send_some(socket, &self.wire)?;
        }
        slot.unsent.extend_from_slice(&self.wire[taken..]);
        self.wire.clear();
        Ok(())
    }

    fn flush(&mut self, at: u32) -> Result<(), String> {
        let slot = &mut self.slots[at as usize];
        if slot.unsent.is_empty() {
            return Ok(());
        }
        let Some(socket) = &slot.socket else { return Ok(()) };
        let taken = send_some(socket, &slot.unsent)?;
        slot.unsent.drain(..taken);
        if slot.unsent.is_empty() {
            slot.unsent = Vec::new();
        }
        Ok(())
    }

    /// A connection is over by itself; the client connects again at once. Until it is ready its time
    /// goes on.
    fn fail(&mut self, at: u32, sentence: &str) {
        let slot = &self.slots[at as usize];
        if slot.phase == Phase::Off {
            return;
        }
        let was_ready = slot.phase == Phase::Ready;
        self.complain(sentence);
        let counters = self.counters(at);
        bump(if was_ready { &counters.lost } else { &counters.failed });
        self.hang_up(at, false);
        if was_ready {
            self.slots[at as usize].told_ns = self.now_ns();
        }
        self.to_open.push_back(at);
    }

    /// Ends a connection, with a reset or in good order.
    fn hang_up(&mut self, at: u32, reset: bool) {
        let slot = &mut self.slots[at as usize];
        let before = std::mem::replace(&mut slot.phase, Phase::Off);
        slot.layer = Layer::Plain;
        slot.tail = Vec::new();
        slot.unsent = Vec::new();
        if let Some(socket) = slot.socket.take()
            && reset
        {
            // It ends either way.
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        match before {
            Phase::Off => {}
            Phase::Ready => drop_one(&self.counters(at).ready),
            _ => self.under_way -= 1,
        }
        self.wire.clear();
    }
}
