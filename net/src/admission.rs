//! What a shard does next when more waits than it can do at once.
//!
//! A reconnect storm is more work than there is time for, so its order decides whether it ends. Those
//! who are connected come first; a handshake that has begun is finished before another is begun, since
//! half a handshake is work for nothing when its client loses patience; a new one is begun before
//! another connection is accepted, since the kernel's queue costs nobody anything.
//!
//! Shares are counted in time. The new get [`NEW_PER_TURN`] of a turn, then the connected are looked
//! at again; the connected get [`ESTABLISHED_BEFORE_NEW`] while somebody new waits, then it is the
//! new's turn. So under overload from both sides the connected have ten elevenths of a core, or five
//! sixths if every turn begins a handshake, and the new the rest; whoever is alone has all of it.

pub mod depth;

use std::time::Duration;

/// Time for the new in one turn. It is looked at between steps, so one step may come on top; a
/// handshake, which takes some 100 µs to begin, is only begun if the one before it took no longer than
/// what is left, or as the first of its turn. To end a turn and to look at the connected costs some 2 µs.
pub const NEW_PER_TURN: Duration = Duration::from_micros(50);

/// Time for the connected while somebody new waits, before the new get theirs.
pub const ESTABLISHED_BEFORE_NEW: Duration = Duration::from_micros(500);

/// So long a handshake has its place for certain; then it has it only until another waits for it. Else a
/// few thousand clients that begin and do not go on would keep everybody out until their deadlines.
pub const PLACE_CERTAIN: Duration = Duration::from_secs(1);

/// Steps of handshakes and first packets after which something else that is new has its turn, so that
/// those who send their CONNECT byte by byte hold up nobody for long.
const FINISHES_IN_A_ROW_MAX: u32 = 64;

/// Handshakes to be begun after which a connection is accepted although more of them wait, so that those
/// who send their ClientHello byte by byte keep nobody in the kernel's queue.
const HELLOS_IN_A_ROW_MAX: u32 = 64;

/// Decides by kind; who of a kind comes first is who came first.
///
/// Pure: it is told what waits and what each step has cost.
#[derive(Debug)]
pub struct Admission {
    in_flight: usize,
    in_flight_max: usize,
    /// Of those who were connected and readable when the turn began, how many are left.
    established_left: usize,
    /// What the new have left of this turn.
    new_left: Duration,
    /// What the connected have had since the new had their time, over any number of turns.
    since_new: Duration,
    finishes_in_a_row: u32,
    /// Since the last connection was accepted.
    hellos_in_a_row: u32,
    /// What it took to begin the last handshake, at most [`NEW_PER_TURN`].
    hello: Duration,
}

/// How many of each kind wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Connections that have sent their CONNECT and can be read.
    pub established: usize,
    /// Connections on their way to it, whose handshake has begun or that need none.
    pub finishing: usize,
    /// Connections whose first bytes of a handshake are there.
    pub hellos: usize,
    /// There are connections to accept that will begin a handshake.
    pub accepts: bool,
    /// There are connections to accept that need no handshake.
    pub plain_accepts: bool,
}

impl Waiting {
    /// True if somebody waits who is not connected yet.
    #[must_use]
    pub const fn is_storm(self) -> bool {
        self.finishing > 0 || self.hellos > 0 || self.accepts || self.plain_accepts
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read a connection that is established.
    Established,
    /// Go on with a handshake or a first packet.
    Finish,
    /// Begin a handshake.
    Hello,
    /// Accept a connection of any kind.
    Accept,
    /// Accept a connection that needs no handshake.
    AcceptPlain,
    /// Nothing in this turn.
    Nothing,
}

impl Admission {
    /// With at most so many handshakes begun and not finished.
    #[must_use]
    pub const fn new(in_flight_max: usize) -> Self {
        Self {
            in_flight: 0,
            in_flight_max,
            established_left: 0,
            new_left: Duration::ZERO,
            since_new: Duration::ZERO,
            finishes_in_a_row: 0,
            hellos_in_a_row: 0,
            hello: NEW_PER_TURN,
        }
    }

    /// A turn begins with these waiting: sockets have just been looked at. Who is connected and
    /// becomes readable later belongs to the next.
    pub const fn begin_turn(&mut self, waiting: Waiting) {
        self.established_left = waiting.established;
        self.new_left = NEW_PER_TURN;
        if !waiting.is_storm() {
            self.since_new = Duration::ZERO;
        }
    }

    /// What to do next in this turn.
    ///
    /// *Bounds*: between two turns at most [`NEW_PER_TURN`] and one step are spent on the new, and
    /// while somebody new can be helped at most [`ESTABLISHED_BEFORE_NEW`] and one step on the
    /// connected before that happens.
    pub fn next(&mut self, waiting: Waiting) -> Next {
        if self.new_left.is_zero() {
            return Next::Nothing;
        }
        let new = self.next_new(waiting);
        let owed = new != Next::Nothing && self.since_new >= ESTABLISHED_BEFORE_NEW;
        if self.established_left > 0 && waiting.established > 0 && !owed {
            self.established_left -= 1;
            return Next::Established;
        }
        if new == Next::Hello && self.new_left < self.hello {
            // It would go beyond the time of the new, so they have had theirs.
            self.new_left = Duration::ZERO;
            self.since_new = Duration::ZERO;
            return Next::Nothing;
        }
        self.finishes_in_a_row = match new {
            Next::Finish => self.finishes_in_a_row.saturating_add(1),
            _ => 0,
        };
        match new {
            Next::Hello => self.hellos_in_a_row = self.hellos_in_a_row.saturating_add(1),
            Next::Accept => self.hellos_in_a_row = 0,
            _ => {}
        }
        new
    }

    const fn next_new(&self, waiting: Waiting) -> Next {
        let other = self.next_but_finish(waiting);
        let may_finish =
            self.finishes_in_a_row < FINISHES_IN_A_ROW_MAX || matches!(other, Next::Nothing);
        if waiting.finishing > 0 && may_finish { Next::Finish } else { other }
    }

    const fn next_but_finish(&self, waiting: Waiting) -> Next {
        if self.may_accept(waiting) {
            Next::Accept
        } else if waiting.hellos > 0 && self.may_begin() {
            Next::Hello
        } else if waiting.plain_accepts {
            Next::AcceptPlain
        } else {
            Next::Nothing
        }
    }

    /// A step has taken this long, with all that came of it.
    pub fn spent(&mut self, step: Next, time: Duration) {
        match step {
            Next::Established => self.since_new = self.since_new.saturating_add(time),
            Next::Nothing => {}
            Next::Finish | Next::Hello | Next::Accept | Next::AcceptPlain => {
                self.new_left = self.new_left.saturating_sub(time);
                if matches!(step, Next::Hello) {
                    self.hello = time.min(NEW_PER_TURN);
                }
                if self.new_left.is_zero() {
                    self.since_new = Duration::ZERO;
                }
            }
        }
    }

    /// True if there is something to do that no event will announce.
    #[must_use]
    pub fn has_work(&self, waiting: Waiting) -> bool {
        waiting.established > 0 || self.next_new(waiting) != Next::Nothing
    }

    const fn may_begin(&self) -> bool {
        self.in_flight < self.in_flight_max
    }

    const fn may_accept(&self, waiting: Waiting) -> bool {
        let turn = waiting.hellos == 0 || self.hellos_in_a_row >= HELLOS_IN_A_ROW_MAX;
        waiting.accepts && turn && self.may_begin()
    }

    /// True if somebody waits for the place of a handshake and there is none.
    #[must_use]
    pub const fn is_full_for(&self, waiting: Waiting) -> bool {
        (waiting.hellos > 0 || waiting.accepts) && !self.may_begin()
    }

    /// A handshake has begun.
    pub const fn begun(&mut self) {
        self.in_flight += 1;
    }

    /// A handshake has ended, one way or the other.
    pub const fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Handshakes begun and not ended.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
mod tests;
