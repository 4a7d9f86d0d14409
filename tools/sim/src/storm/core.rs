//! One core with its shard: the kernel's queue, the turn, and who is served in it.
//!
//! Owns the clock of the core: nanoseconds of virtual time, which only work and waiting move. Of
//! clients it sees what the broker sees: connections to accept, bytes that have come, ends that
//! were told. What the broker has no deadline for in practice is left out: a connection that is
//! accepted is served at once or found gone long before `connect_timeout_s`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use petrel_net::admission::depth::Depth;
use petrel_net::admission::{Admission, Next, Waiting};

use super::fleet::Fleet;
use super::policy::Policy;
use super::setting::{SECOND, Setting, US};
use super::tally::Tally;
use crate::rng::Rng;

/// Accepts that a limit on the rate lets through at once after a pause.
const BURST: u64 = 64;

/// A connection. What came at `since_us` is what it waits with: SYN, ClientHello, Finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Conn {
    since_us: u32,
    client: u32,
    began_us: u32,
}

/// One shard on a core of its own.
#[derive(Debug)]
pub(crate) struct Core<'a> {
    setting: &'a Setting,
    now_ns: u64,
    /// When the broker last looked at its sockets.
    polled_us: u64,
    fleet: Fleet,
    admission: Admission,
    depth: Depth,
    /// The kernel's queue of connections to accept.
    kernel: VecDeque<Conn>,
    /// Accepted in this turn; seen by the next look.
    accepted: VecDeque<Conn>,
    hellos: VecDeque<Conn>,
    /// Waits for the client's Finished, or for its end.
    shaking: BinaryHeap<Reverse<Conn>>,
    finishing: VecDeque<Conn>,
    /// CONNACKs of this turn.
    answers: Vec<Conn>,
    /// Messages that have arrived, by time.
    ready: VecDeque<u64>,
    /// Messages of this turn.
    handled: Vec<u64>,
    next_message_ns: u64,
    /// When a limit on the rate lets the next one in.
    next_accept_ns: u64,
    rng: Rng,
    tally: Tally,
}

impl<'a> Core<'a> {
    pub(crate) fn new(setting: &'a Setting, clients: u32, seed: u64) -> Self {
        let us = |ms: u64| (ms * 1_000) as u32;
        let mut rng = Rng::new(seed);
        let fleet = Fleet::new(clients, us(setting.patience_ms), us(setting.spread_ms), &mut rng);
        let cap = if setting.policy == Policy::NoCap { usize::MAX } else { setting.handshakes_max };
        Self {
            setting,
            now_ns: 0,
            polled_us: 0,
            fleet: fleet.endless(setting.endless),
            admission: Admission::new(cap),
            depth: Depth::new(setting.backlog),
            kernel: VecDeque::new(),
            accepted: VecDeque::new(),
            hellos: VecDeque::new(),
            shaking: BinaryHeap::new(),
            finishing: VecDeque::new(),
            answers: Vec::new(),
            ready: VecDeque::new(),
            handled: Vec::new(),
            next_message_ns: if setting.messages == 0 { u64::MAX } else { 0 },
            next_accept_ns: 0,
            rng,
            tally: Tally::new(u64::from(clients)),
        }
    }

    /// Runs until all are back, or until the horizon.
    pub(crate) fn run(mut self) -> Tally {
        let horizon_ns = self.setting.horizon_s * SECOND;
        while self.now_ns < horizon_ns && (self.setting.endless || self.somebody_is_away()) {
            self.turn();
            if !self.has_work() {
                self.wait(horizon_ns);
            }
        }
        self.close_the_books()
    }

    fn somebody_is_away(&self) -> bool {
        self.tally.clients == 0 || self.tally.back < self.tally.clients
    }

    fn close_the_books(mut self) -> Tally {
        let inside = self.kernel.len() + self.accepted.len() + self.hellos.len();
        let inside = inside + self.shaking.len() + self.finishing.len();
        self.tally.open = inside as u64 + self.fleet.knocking();
        self.tally.attempts = self.fleet.attempts;
        self.tally.refused = self.fleet.refused;
        self.tally
    }

    const fn now_us(&self) -> u64 {
        self.now_ns / US
    }

    /// Lets time pass with work; what arrives meanwhile interrupts it.
    fn work(&mut self, cost_ns: u64) {
        self.now_ns += cost_ns;
        self.hear();
    }

    fn connecting(&mut self, cost_ns: u64) {
        self.tally.connecting_ns += cost_ns;
        self.work(cost_ns);
    }

    fn other(&mut self, cost_ns: u64) {
        self.tally.other_ns += cost_ns;
        self.work(cost_ns);
    }

    /// What the network has brought until now.
    fn hear(&mut self) {
        while self.fleet.next_us() <= self.now_us() {
            let at_us = self.fleet.next_us();
            let Some(knock) = self.fleet.step() else { continue };
            if self.kernel.len() < self.places() {
                self.fleet.let_in(knock);
                let since_us = (at_us + self.setting.rtt_us) as u32;
                self.kernel.push_back(Conn {
                    since_us,
                    client: knock.client,
                    began_us: knock.began_us,
                });
            } else {
                self.fleet.refuse(knock);
                self.tally.syns_refused += 1;
                self.tally.connecting_ns += self.setting.costs.refuse;
                self.now_ns += self.setting.costs.refuse;
            }
        }
    }

    /// Looks at all sockets, as at the beginning of a turn.
    fn poll(&mut self) {
        self.polled_us = self.now_us();
        self.hellos.append(&mut self.accepted);
        self.tally.accepted_max = self.tally.accepted_max.max(self.hellos.len() as u64);
        while let Some(Reverse(conn)) = self.shaking.peek()
            && u64::from(conn.since_us) <= self.polled_us
        {
            self.finishing.push_back(*conn);
            self.shaking.pop();
        }
        while self.next_message_ns <= self.now_ns {
            self.ready.push_back(self.next_message_ns);
            // Evenly between nothing and twice the mean.
            let gap_ns = 1 + self.rng.below(2 * SECOND / self.setting.messages);
            self.next_message_ns += gap_ns;
        }
    }

    fn turn(&mut self) {
        self.other(self.setting.costs.turn);
        self.poll();
        if !self.setting.policy.admits() {
            self.serve_in_order();
        } else {
            self.serve_by_admission();
        }
        self.write();
    }

    fn serve_by_admission(&mut self) {
        self.admission.begin_turn(self.waiting());
        loop {
            let begun_ns = self.now_ns;
            let next = self.admission.next(self.waiting());
            match next {
                Next::Established => self.message(),
                Next::Finish => self.finish(),
                Next::Hello => self.hello(),
                Next::Accept | Next::AcceptPlain => self.accept(),
                Next::Nothing => return,
            }
            self.admission.spent(next, Duration::from_nanos(self.now_ns - begun_ns));
        }
    }

    /// What came first is done first, one thing in a turn.
    fn serve_in_order(&mut self) {
        let since = |conn: Option<&Conn>| conn.map_or(u64::MAX, |conn| u64::from(conn.since_us));
        let mut accept = since(self.kernel.front().filter(|_| self.may_accept()));
        let mut finish = since(self.finishing.front());
        if self.setting.policy != Policy::Fifo && accept != u64::MAX {
            accept = 0;
        }
        if self.setting.policy == Policy::NewestFirst && finish != u64::MAX {
            finish = 0;
        }
        let hello = since(self.hellos.front());
        let mut message = self.ready.front().map_or(u64::MAX, |at_ns| at_ns / US);
        if self.setting.policy == Policy::NewestFirst && message != u64::MAX {
            message = 0;
        }
        let first = accept.min(hello).min(finish).min(message);
        if first == u64::MAX {
            return;
        }
        if first == message {
            self.message();
        } else if first == finish {
            self.finish();
        } else if first == hello {
            self.hello();
        } else {
            self.accept();
        }
    }

    fn places(&self) -> usize {
        match self.setting.policy {
            Policy::Broker | Policy::NoCap => self.setting.backlog.min(self.depth.places()),
            _ => self.setting.backlog,
        }
    }

    fn may_accept(&self) -> bool {
        let limited = self.setting.policy == Policy::FixedRate && self.next_accept_ns > self.now_ns;
        let there = self.kernel.front().is_some_and(|it| u64::from(it.since_us) <= self.now_us());
        there && !limited
    }

    fn waiting(&self) -> Waiting {
        Waiting {
            established: self.ready.len(),
            finishing: self.finishing.len(),
            hellos: self.hellos.len(),
            accepts: self.may_accept(),
            plain_accepts: false,
        }
    }

    fn has_work(&self) -> bool {
        if !self.accepted.is_empty() {
            return true;
        }
        let waiting = self.waiting();
        if self.setting.policy.admits() {
            self.admission.has_work(waiting)
        } else {
            waiting != Waiting::default()
        }
    }

    /// Waits for what comes next.
    fn wait(&mut self, horizon_ns: u64) {
        let shaking = self.shaking.peek().map(|Reverse(conn)| u64::from(conn.since_us) * US);
        let accept = self.kernel.front().map(|conn| u64::from(conn.since_us) * US);
        let accept = accept.map(|at_ns| match self.setting.policy {
            Policy::FixedRate => at_ns.max(self.next_accept_ns),
            _ => at_ns,
        });
        // A connection that waits already is no news.
        let accept = accept.filter(|at_ns| *at_ns > self.now_ns);
        let fleet = Some(self.fleet.next_us().saturating_mul(US));
        let next = [shaking, accept, fleet, Some(self.next_message_ns), Some(horizon_ns)];
        let next_ns = next.into_iter().flatten().min().unwrap_or(horizon_ns);
        if next_ns > self.now_ns {
            self.tally.idle_ns += next_ns - self.now_ns;
            self.now_ns = next_ns;
        }
        self.hear();
    }

    fn message(&mut self) {
        self.handled.extend(self.ready.pop_front());
        self.other(self.setting.costs.message);
    }

    fn accept(&mut self) {
        let Some(mut conn) = self.kernel.pop_front() else { return };
        if self.kernel.front().is_none_or(|it| u64::from(it.since_us) > self.now_us()) {
            self.depth.drained();
        }
        if self.setting.policy == Policy::FixedRate {
            let gap_ns = SECOND / self.setting.connect_rate.max(1);
            let earliest_ns = self.now_ns.saturating_sub(BURST * gap_ns);
            self.next_accept_ns = self.next_accept_ns.max(earliest_ns) + gap_ns;
        }
        self.connecting(self.setting.costs.accept);
        conn.since_us = self.now_us() as u32;
        self.accepted.push_back(conn);
    }

    /// When the client of this attempt loses patience, as seen from here.
    fn deadline_us(&self, conn: Conn) -> u64 {
        u64::from(conn.began_us) + self.setting.patience_ms * 1_000
    }

    /// True if the end of a connection was told before the last look at it.
    fn is_gone(&self, conn: Conn) -> bool {
        self.deadline_us(conn) <= self.polled_us
    }

    /// True if it is known that the client will have gone before its CONNACK comes, by a policy
    /// that knows such things.
    fn is_foreseen(&self, conn: Conn) -> bool {
        let left_us = self.deadline_us(conn).saturating_sub(self.polled_us);
        self.setting.policy == Policy::Foresight && left_us <= 2 * self.setting.rtt_us
    }

    fn hello(&mut self) {
        let next = match self.setting.policy {
            Policy::NewestFirst => self.hellos.pop_back(),
            _ => self.hellos.pop_front(),
        };
        let Some(mut conn) = next else { return };
        self.depth.looked(self.is_gone(conn));
        if self.setting.policy.looks() && (self.is_gone(conn) || self.is_foreseen(conn)) {
            self.tally.gone_before += 1;
            return self.connecting(self.setting.costs.gone);
        }
        self.admission.begun();
        self.tally.handshakes_max =
            self.tally.handshakes_max.max(self.admission.in_flight() as u64);
        self.connecting(self.setting.costs.hello);
        let finished_us = self.now_us() + self.setting.rtt_us;
        let ended_us = self.deadline_us(conn).max(self.now_us());
        conn.since_us = finished_us.min(ended_us) as u32;
        self.shaking.push(Reverse(conn));
    }

    fn finish(&mut self) {
        let Some(conn) = self.finishing.pop_front() else { return };
        self.admission.ended();
        // What came was the end itself if that was there no later than anything else.
        let only_the_end = u64::from(conn.since_us) >= self.deadline_us(conn);
        if only_the_end || (self.setting.policy.looks() && self.is_gone(conn)) {
            self.tally.gone_within += 1;
            return self.connecting(self.setting.costs.gone);
        }
        self.connecting(self.setting.costs.finish + self.setting.costs.connect);
        self.answers.push(conn);
    }

    /// The end of a turn: what it has to say leaves.
    fn write(&mut self) {
        for at_ns in self.handled.drain(..) {
            self.tally.stayed(self.now_ns - at_ns);
        }
        let mut answers = std::mem::take(&mut self.answers);
        for conn in answers.drain(..) {
            // The client's end of patience is half a round trip older when it is seen here.
            if self.now_us() + self.setting.rtt_us <= self.deadline_us(conn) {
                self.fleet.welcome(conn.client);
                self.tally.came_back(self.now_ns + self.setting.rtt_us * US / 2);
            } else {
                self.tally.late += 1;
            }
        }
        self.answers = answers;
    }
}
