//! All connections of one shard.
//!
//! Owns the poller, the listeners, the table of connections and the buffers that they share. It
//! turns sockets into packets and writes back what it is given; it knows nothing of sessions. Its
//! user drives it in turns: [`Wire::poll`] once, [`Wire::next_event`] until `None`, then
//! [`Wire::write`], [`Wire::flush`] and [`Wire::close`].
//!
//! Invariants:
//! - a connection is read at most once per turn, so that none can hold up the others;
//! - an idle connection holds no buffer, whatever went through it before;
//! - memory for a packet grows as its bytes arrive, never by what its header announces;
//! - the end of a connection is told exactly once, and only if its CONNECT was handed out.

mod life;
mod read;
mod ready;
mod write;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use petrel_proto::{Connect, DecodeError, Packet, Version};
use rustix::net::getpeername;

use crate::admission::depth::Depth;
use crate::admission::{Admission, Next, Waiting};
use crate::bucket::Buckets;
use crate::conn::{Conn, Flags, Link, Remote};
use crate::deadlines::Deadlines;
use crate::doors::Doors;
use crate::listener::places_max;
use crate::outbound::{Queue, Stage};
use crate::poller::{EVENTS_PER_WAIT_MAX, Happened, Poller, Readiness};
use crate::slab::Slab;
use crate::stages::{Census, State};
use crate::tls::TlsError;
use crate::traffic::Traffic;
use crate::transport::Between;
use crate::volume::{Volume, Volumes};
use crate::{Bell, ConnKey, Listener};
use ready::ReadyList;

/// Whether an address is shut out, at a time in milliseconds.
#[derive(Clone)]
pub struct ShutOut(pub Arc<dyn Fn(IpAddr, u64) -> bool + Send + Sync>);

impl fmt::Debug for ShutOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShutOut")
    }
}

pub use life::Detached;

/// Bytes read from one socket in one turn, at most.
const READ_BYTES_MAX: usize = 64 << 10;

/// Connections that one flush writes to: some 4 µs each.
const SENDS_PER_FLUSH: usize = 32;

/// Packets taken from one connection before all others that can be read have their turn.
const PACKETS_PER_READ_MAX: u32 = 1024;

/// Further batches of events taken in one turn, at most: 16,384 events take some 2 ms.
const EVENT_BATCHES_MAX: usize = 15;

/// Places that an empty list of connections keeps from tick to tick.
const LIST_KEPT: usize = 256;

/// Ends of connections that are dealt with in one turn, at most. Some 10 µs each.
const LEAVING_PER_TURN_MAX: usize = 4;

/// One in so many reads is for those that leave, however many others can be read.
const LEAVING_ONE_IN: usize = 8;

/// How often the tick comes.
pub const TICK: Duration = Duration::from_millis(crate::deadlines::STEP_MS);

/// The limits that a wire keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireLimits {
    /// Largest packet accepted, in bytes.
    pub packet_bytes_max: u32,
    /// From accepting to the whole CONNECT, all handshakes included, in milliseconds.
    pub connect_timeout_ms: u64,
    /// From accepting to the end of the TLS handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// From the first byte of a packet to its last, in milliseconds.
    pub packet_timeout_ms: u64,
    /// How long output may wait for a socket that takes none of it, in milliseconds.
    pub write_timeout_ms: u64,
    /// TLS handshakes begun and not finished, at most; the rest waits in the kernel's queue.
    pub handshakes_max: usize,
    /// A connection with more output waiting than this is not read until half of it has left.
    pub read_stop_bytes: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
            connect_timeout_ms: 10_000,
            handshake_timeout_ms: 8_000,
            packet_timeout_ms: 30_000,
            write_timeout_ms: 60_000,
            handshakes_max: 2000,
            read_stop_bytes: 512 << 10,
        }
    }
}

/// Something that happened to a connection.
#[derive(Debug)]
pub enum WireEvent {
    /// The first packet of a connection, and it is a good CONNECT.
    Connect {
        /// The connection; from now on its end will be told.
        conn: ConnKey,
        /// The packet.
        connect: Box<Connect>,
        /// Position of the listener in the configuration.
        listener: u16,
        /// The other end.
        peer: Remote,
    },
    /// A handshake ended since the client's certificate is no good. The connection is being closed.
    Unproven {
        /// Where the client comes from.
        peer: Option<SocketAddr>,
        /// What is wrong.
        error: Box<TlsError>,
    },
    /// The first bytes of a connection are not a good CONNECT. Close it, perhaps with an answer.
    Refused {
        /// The connection; its end will not be told.
        conn: ConnKey,
        /// The version that it asked for, as far as that can be known.
        version: Option<Version>,
        /// What is wrong.
        error: DecodeError,
    },
    /// A later packet.
    Packet {
        /// From this connection.
        conn: ConnKey,
        /// The packet; its bytes are slices of a shared buffer.
        packet: Packet,
    },
    /// Bytes that are not an acceptable packet. Nothing more will come of this connection.
    Violation {
        /// From this connection.
        conn: ConnKey,
        /// What is wrong.
        error: DecodeError,
    },
    /// A socket took bytes that had to wait.
    Flushed {
        /// This connection.
        conn: ConnKey,
        /// Bytes that still wait.
        pending_bytes: usize,
    },
    /// A connection ended without [`Wire::close`].
    Closed {
        /// This connection.
        conn: ConnKey,
        /// Its bytes, if they were counted.
        volume: Option<Volume>,
    },
    /// Accepting failed for want of descriptors or memory; it is tried again at the next tick.
    AcceptFailed {
        /// Position of the listener in the configuration.
        listener: u16,
        /// What is wanting.
        error: rustix::io::Errno,
    },
}

/// Owns the sockets of one shard. See the module.
#[derive(Debug)]
pub struct Wire {
    limits: WireLimits,
    poller: Poller,
    listeners: Vec<Listener>,
    conns: Slab<Conn>,
    deadlines: Deadlines,
    admission: Admission,
    /// How many may wait at each listener that speaks TLS.
    depth: Depth,
    /// The step that runs and when it was begun, while somebody new waits.
    step: Option<(Next, Instant)>,
    /// Established connections to be read, in order.
    ready: ReadyList,
    /// Since when it is known that what is read now can be read, by the clock of [`Wire::tell_time`].
    readable_since_ns: u64,
    /// Connections whose sockets take bytes again, in order.
    writable: VecDeque<ConnKey>,
    /// Established connections whose peer has gone and that have nothing left to be read.
    leaving: VecDeque<ConnKey>,
    /// Reads of established connections, to let those that leave have their part of them.
    reads: usize,
    /// Connections on their way to CONNECT whose handshake has begun, or that need none.
    finishing: VecDeque<ConnKey>,
    /// Connections whose TLS handshake is to begin.
    hellos: VecDeque<ConnKey>,
    /// Whose handshake began when, the first first, those that have ended among them.
    begun: VecDeque<(ConnKey, u64)>,
    /// Connections whose long CONNECT is on its way.
    long_connects: usize,
    /// The listener that is asked first when connections are accepted.
    next_listener: usize,
    /// How often one address may connect, if that is limited.
    buckets: Option<Arc<Buckets>>,
    /// Who is shut out, if anybody may be.
    shut_out: Option<ShutOut>,
    census: Census,
    traffic: Traffic,
    doors: Doors,
    volumes: Volumes,
    events: VecDeque<WireEvent>,
    current: Option<Current>,
    ticked: bool,
    now_ms: u64,
    /// What a socket is read into.
    scratch: Box<[u8]>,
    /// Where packets live until their last slice is gone.
    arena: BytesMut,
    wire_out: Vec<u8>,
    between: Between,
    /// What connections are sent, those in `fresh` and `backlog` and some that are free.
    stages: Vec<Stage>,
    free_stages: Vec<u32>,
    /// The most that were in use at once since the last tick.
    stages_used: usize,
    /// Stages of this turn.
    fresh: Vec<u32>,
    /// Stages of turns that wrote to many: some of them are sent in each turn.
    backlog: VecDeque<u32>,
    /// Bytes in all stages.
    staged_bytes: usize,
    /// Packets that the current input may still bring in this turn.
    packets_left: u32,
    spare_queue: Option<Box<Queue>>,
}

/// Input that is being taken apart.
#[derive(Debug)]
struct Current {
    key: ConnKey,
    chunk: Bytes,
    /// What was read behind `chunk`, if that is a packet in memory of its own.
    behind: Bytes,
}

impl Wire {
    /// A wire without connections, woken by `bell`.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(limits: WireLimits, bell: Arc<Bell>, now_ms: u64) -> io::Result<Self> {
        Ok(Self {
            limits,
            poller: Poller::new(bell, TICK)?,
            listeners: Vec::new(),
            conns: Slab::new(),
            deadlines: Deadlines::new(now_ms),
            admission: Admission::new(limits.handshakes_max),
            depth: Depth::new(places_max()),
            step: None,
            ready: ReadyList::default(),
            readable_since_ns: 0,
            writable: VecDeque::new(),
            leaving: VecDeque::new(),
            reads: 0,
            finishing: VecDeque::new(),
            hellos: VecDeque::new(),
            begun: VecDeque::new(),
            long_connects: 0,
            next_listener: 0,
            buckets: None,
            shut_out: None,
            census: Census::default(),
            traffic: Traffic::default(),
            doors: Doors::default(),
            volumes: Volumes::default(),
            events: VecDeque::new(),
            current: None,
            ticked: false,
            now_ms,
            scratch: vec![0; READ_BYTES_MAX].into_boxed_slice(),
            arena: BytesMut::new(),
            wire_out: Vec::new(),
            between: Between::default(),
            stages: Vec::new(),
            free_stages: Vec::new(),
            stages_used: 0,
            fresh: Vec::new(),
            backlog: VecDeque::new(),
            staged_bytes: 0,
            packets_left: 0,
            spare_queue: None,
        })
    }

    /// Accepts connections from now on.
    ///
    /// # Errors
    /// The system refuses to watch the socket.
    pub fn listen(&mut self, listener: Listener) -> io::Result<()> {
        // A process has far fewer listeners than 2^32.
        self.poller.add_listener(&listener.socket, self.listeners.len() as u32)?;
        self.listeners.push(listener);
        Ok(())
    }

    /// Closes at once who connects more often than this.
    pub fn limit_sources(&mut self, buckets: Arc<Buckets>) {
        self.buckets = Some(buckets);
    }

    /// Closes at once who is shut out.
    pub fn set_shut_out(&mut self, shut_out: ShutOut) {
        self.shut_out = Some(shut_out);
    }

    /// Accepts nothing from now on; the sockets that listen are closed.
    pub fn stop_listening(&mut self) {
        self.listeners.clear();
    }

    /// Stops one listener by its position in the configuration, or has it listen again at its address.
    ///
    /// # Errors
    /// The system refuses a socket; then nothing has changed. There is no such listener.
    pub fn set_listening(&mut self, index: u16, address: Option<SocketAddr>) -> io::Result<()> {
        let at = self.listeners.iter().position(|listener| listener.index == index);
        let Some(at) = at else { return Err(io::ErrorKind::NotFound.into()) };
        let listener = &mut self.listeners[at];
        match address {
            None if listener.shut => Ok(()),
            None => listener.shut(),
            Some(_) if !listener.shut => Ok(()),
            Some(address) => {
                listener.reopen(address)?;
                self.poller.add_listener(&listener.socket, at as u32).inspect_err(|_| {
                    // A socket that nobody accepts from lets clients wait in vain. It costs no descriptor more.
                    let _ = listener.shut();
                })
            }
        }
    }

    /// The listeners, to change what new connections are given.
    pub fn listeners_mut(&mut self) -> &mut [Listener] {
        &mut self.listeners
    }

    /// The epoll instance: readable whenever [`Wire::poll`] would find something.
    #[must_use]
    pub fn instance(&self) -> Arc<OwnedFd> {
        self.poller.instance()
    }

    /// Begins a turn: looks for what has happened, waiting at most `timeout` (`None`: for ever, and the
    /// tick ends that). False if nothing has but the tick.
    ///
    /// # Errors
    /// The epoll instance is broken, which nothing can mend.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        self.end_step(None);
        for listener in self.listeners.iter_mut().filter(|it| it.protocol.is_tls()) {
            listener.deepen(self.depth.places());
        }
        let mut events = self.take_events(timeout)?;
        let something = events > usize::from(self.ticked);
        // Who is connected may stand behind thousands of others in the kernel's list.
        for _ in 0..EVENT_BATCHES_MAX {
            if events < EVENTS_PER_WAIT_MAX {
                break;
            }
            events = self.take_events(Some(Duration::ZERO))?;
        }
        // Thousands of sockets may take bytes again at once.
        for _ in 0..SENDS_PER_FLUSH {
            let Some(key) = self.writable.pop_front() else { break };
            self.resume_output(key);
        }
        if self.can_displace() {
            self.displace();
        }
        self.admission.begin_turn(self.waiting());
        Ok(something)
    }

    /// Takes one batch of events; returns how many.
    fn take_events(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let events = self.poller.wait(timeout)?;
        for at in 0..events {
            match self.poller.event(at) {
                Happened::Conn { key, readiness } => self.on_ready(key, readiness),
                Happened::Listener(number) => {
                    if let Some(listener) = self.listeners.get_mut(number as usize) {
                        listener.ready = true;
                    }
                }
                Happened::Bell => {}
                Happened::Tick => {
                    self.poller.acknowledge_tick();
                    self.ticked = true;
                }
            }
        }
        Ok(events)
    }

    /// Tells the time. Deadlines are looked at here, and whether a tick has passed since the last
    /// call is returned.
    pub fn advance(&mut self, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        let ticked = std::mem::take(&mut self.ticked);
        if ticked || self.deadlines.is_overdue() {
            self.expire();
        }
        if ticked {
            for listener in &mut self.listeners {
                listener.resting = false;
            }
            let ready = &mut self.ready.keys;
            for list in [ready, &mut self.leaving, &mut self.finishing, &mut self.hellos] {
                rest(list);
            }
            rest(&mut self.events);
            rest(&mut self.writable);
            rest(&mut self.begun);
            self.rest_stages();
        }
        ticked
    }

    /// Tells the time more exactly, in nanoseconds of whatever clock the caller has: what [`Wire::poll`] has found
    /// since the last call can be read since now.
    pub fn tell_time(&mut self, now_ns: u64) {
        self.ready.tell(now_ns);
        self.readable_since_ns = now_ns;
    }

    /// Since when it is known that the bytes of the last event could be read, by the clock of [`Wire::tell_time`].
    /// What a connection has sent beyond what is read of it at once is known to be there from then on.
    #[must_use]
    pub const fn readable_since_ns(&self) -> u64 {
        self.readable_since_ns
    }

    /// The next thing that happened in this turn.
    pub fn next_event(&mut self) -> Option<WireEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.current.is_some() {
                if self.packets_left == 0 {
                    self.let_others_go_first();
                } else if let Some(event) = self.decode() {
                    self.packets_left -= 1;
                    return Some(event);
                }
                continue;
            }
            self.readable_since_ns = self.ready.now_ns();
            let key = match self.next_step() {
                Next::Established => self.next_established(),
                Next::Finish => self.finishing.pop_front(),
                Next::Hello => self.hellos.pop_front(),
                Next::Accept => {
                    self.accept(Listener::can_accept);
                    continue;
                }
                Next::AcceptPlain => {
                    self.accept(|it| it.can_accept() && !it.protocol.is_tls());
                    continue;
                }
                Next::Nothing => return None,
            };
            if let Some(key) = key {
                self.read(key);
            }
        }
    }

    /// Puts what is left of the current input behind all others that can be read. To be called by whoever
    /// ends a turn before [`Wire::next_event`] has said `None`.
    pub fn let_others_go_first(&mut self) {
        if let Some(key) = self.current.as_ref().map(|current| current.key) {
            self.put_aside(key);
            self.make_ready(key);
        }
    }

    /// Who is read next. When a network fails thousands leave at once, and those who stay do not wait
    /// for that; a part of the reads is theirs in any case.
    fn next_established(&mut self) -> Option<ConnKey> {
        self.reads = self.reads.wrapping_add(1);
        let turn_of_leaving = self.reads.is_multiple_of(LEAVING_ONE_IN);
        if turn_of_leaving && let Some(key) = self.leaving.pop_front() {
            return Some(key);
        }
        let Some((key, since_ns)) = self.ready.pop_front() else { return self.leaving.pop_front() };
        self.readable_since_ns = since_ns;
        Some(key)
    }

    /// What comes next. The clock is read only while somebody new waits.
    fn next_step(&mut self) -> Next {
        let waiting = self.waiting();
        let now = (self.step.is_some() || waiting.is_storm()).then(Instant::now);
        self.end_step(now);
        let next = self.admission.next(waiting);
        if waiting.is_storm() && next != Next::Nothing {
            self.step = now.map(|now| (next, now));
        }
        next
    }

    /// Counts what the step that runs has cost, all that its user made of its events included.
    fn end_step(&mut self, now: Option<Instant>) {
        if let Some((step, begun)) = self.step.take() {
            let now = now.unwrap_or_else(Instant::now);
            self.admission.spent(step, now.saturating_duration_since(begun));
        }
    }

    /// What waits, by kind.
    fn waiting(&self) -> Waiting {
        let accepts = |tls: bool| {
            self.listeners.iter().any(|it| it.can_accept() && it.protocol.is_tls() == tls)
        };
        Waiting {
            established: self.ready.keys.len() + self.leaving.len().min(LEAVING_PER_TURN_MAX),
            finishing: self.finishing.len(),
            hellos: self.hellos.len(),
            accepts: accepts(true),
            plain_accepts: accepts(false),
        }
    }

    /// True if there is work that no event will announce.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.events.is_empty()
            || self.current.is_some()
            || !self.fresh.is_empty()
            || !self.backlog.is_empty()
            || !self.writable.is_empty()
            || self.deadlines.is_overdue()
            || self.admission.has_work(self.waiting())
            || self.can_displace()
    }

    /// True if the peer of a connection has ended it, as far as the kernel has said, or it is gone.
    #[must_use]
    pub fn has_ended(&self, key: ConnKey) -> bool {
        self.conns.get(key).is_none_or(|conn| conn.flags.has(Flags::ENDED))
    }

    /// The other end of a connection, as far as it has not sent its CONNECT.
    #[must_use]
    pub fn peer(&self, key: ConnKey) -> Option<SocketAddr> {
        self.conns.get(key)?.edge.as_ref()?.peer.address
    }

    /// Where a connection comes from, and by which way. Cost: a system call.
    #[must_use]
    pub fn link(&self, key: ConnKey) -> Option<Link> {
        let conn = self.conns.get(key)?;
        let known = conn.edge.as_ref().and_then(|edge| edge.peer.address);
        let address = known.or_else(|| getpeername(&conn.socket).ok()??.try_into().ok());
        Some(Link { address, listener: conn.listener, state: conn.state })
    }

    /// The number of connections, those before CONNECT and those being closed included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// TLS handshakes begun and not finished.
    #[must_use]
    pub const fn handshakes(&self) -> usize {
        self.admission.in_flight()
    }

    /// How far connections got since the start, and the states of those that are there.
    #[must_use]
    pub const fn census(&self) -> &Census {
        &self.census
    }

    /// Packets since the start.
    #[must_use]
    pub const fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Connections that have said CONNECT, by listener and version.
    #[must_use]
    pub const fn doors(&self) -> &Doors {
        &self.doors
    }

    /// Counts the bytes of each connection that comes from now on, or no longer.
    pub fn count_volumes(&mut self, is_on: bool) {
        self.volumes.set(is_on);
    }

    /// The bytes of a connection, if they are counted.
    #[must_use]
    pub fn volume(&self, key: ConnKey) -> Option<Volume> {
        self.volumes.of(key)
    }

    /// Counts a connection as in another state.
    fn enter(&mut self, key: ConnKey, state: State) {
        if let Some(conn) = self.conns.get_mut(key) {
            self.census.leave(conn.state);
            self.census.enter(state);
            conn.state = state;
        }
    }

    /// Takes a connection out of the table.
    fn forget(&mut self, key: ConnKey) -> Option<Conn> {
        let conn = self.conns.remove(key)?;
        self.census.leave(conn.state);
        if let Some(version) = conn.version {
            self.doors.leave(conn.listener, version);
        }
        if conn.flags.has(Flags::HANDSHAKE) {
            self.admission.ended();
        }
        self.long_connects -= usize::from(conn.flags.has(Flags::LONG_CONNECT));
        Some(conn)
    }

    fn on_ready(&mut self, key: ConnKey, readiness: Readiness) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if readiness.ended {
            conn.flags.set(Flags::ENDED);
        }
        if readiness.writable && !conn.flags.has(Flags::WRITABLE) {
            conn.flags.set(Flags::WRITABLE);
            if conn.queue.is_some() {
                self.writable.push_back(key);
            }
        }
        if readiness.readable {
            self.make_ready(key);
        }
    }

    /// Has a connection read in this turn or the next.
    fn make_ready(&mut self, key: ConnKey) {
        if let Some(conn) = self.conns.get_mut(key)
            && conn.flags.raise(Flags::QUEUED)
        {
            let established = conn.flags.has(Flags::KNOWN) || conn.flags.has(Flags::CLOSING);
            let begun = conn.flags.has(Flags::HANDSHAKE) || !conn.transport.is_handshaking();
            match (established, begun) {
                (true, _) if conn.flags.has(Flags::ENDED) && is_drained(conn) => {
                    self.leaving.push_back(key);
                }
                (true, _) => self.ready.push_back(key),
                (false, true) => self.finishing.push_back(key),
                (false, false) => self.hellos.push_back(key),
            }
        }
    }
}

/// Gives back what a list took while a crowd stood in it.
fn rest<T>(list: &mut VecDeque<T>) {
    if list.is_empty() && list.capacity() > LIST_KEPT {
        list.shrink_to(LIST_KEPT);
    }
}

/// True if the kernel holds nothing of a connection that its peer has ended: what was said before the
/// end keeps its place among what others say.
fn is_drained(conn: &Conn) -> bool {
    let inside = conn.flags.has(Flags::BACKLOG) || conn.flags.has(Flags::FINISHED);
    !inside && rustix::io::ioctl_fionread(&conn.socket).is_ok_and(|bytes| bytes == 0)
}
