//! Keep alive, session expiry, will delay and the expiry of retained messages.
//!
//! Entries in the wheel are hints: when one fires, its owner looks at its own deadlines and sets
//! the next. So a packet costs one store, and nothing has to be taken out of the wheel.

use petrel_proto::ReasonCode;

use crate::connection::Violation;
use crate::event::Event;
use crate::sabotage::{self, Sabotage};
use crate::shard::{LAST_WILLS_WRITES_MAX, Shard, Turn};
use crate::{ConnId, Now};

/// How exact timers are: they fire late by at most this.
pub(crate) const TIMER_TICK_MS: u64 = 100;
/// Slots of the wheel; with the tick, 102 s in one round.
pub(crate) const TIMER_SLOTS: usize = 1024;
/// The furthest that an entry lies ahead, so that entries of sessions and connections that are
/// long gone do not pile up.
const HORIZON_MS: u64 = 300_000;
/// What one [`crate::Input::Timer`] may cost, in looks of some 0.1 µs, so that thousands of clients
/// that fall silent at once hold up nobody else.
const LOOKS_MAX: u32 = 1_024;

/// How often memory that was not used is given back, in milliseconds.
const REST_MS: u64 = 1_000;
/// What the end of a connection or of a session costs, in looks, with all that comes of it.
const LOOKS_OF_AN_END: u32 = 256;

/// What a timer looks at, in 8 bytes: the silence of a connection, or the expiry and the will of a
/// session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timer {
    /// Position, with [`SESSION`] if it is that of a session.
    index: u32,
    /// Which use of it.
    generation: u32,
}

const SESSION: u32 = 1 << 31;

/// A moment in steps of [`TIMER_TICK_MS`], the size in which the wheel thinks as well.
///
/// *Bounds*: 13 years of the monotonic clock; what lies beyond is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// The first tick at or after a moment.
    pub(crate) fn after(at_ms: u64) -> Self {
        Self(u32::try_from(at_ms.div_ceil(TIMER_TICK_MS)).unwrap_or(u32::MAX))
    }

    /// The moment, in milliseconds; `u64::MAX` for never.
    pub(crate) const fn ms(self) -> u64 {
        if self.0 == u32::MAX { u64::MAX } else { self.0 as u64 * TIMER_TICK_MS }
    }
}

impl Shard {
    pub(crate) fn on_timer(&mut self, turn: &mut Turn<'_>) {
        if turn.now_ms >= self.rests_at_ms {
            self.rests_at_ms = turn.now_ms + REST_MS;
            self.flows.rest();
            self.pool.rest();
            self.scratch.rest();
            self.fanouts.rest();
        }
        self.carry_on(turn);
        self.publish_last_wills(turn, LAST_WILLS_WRITES_MAX);
        let mut left = LOOKS_MAX;
        while left > 0 {
            let Some(Timer { index, generation }) = self.due.next() else {
                let mut due = Vec::new();
                self.wheel.expire(turn.now_ms, &mut due);
                self.due = due.into_iter();
                if self.due.len() == 0 {
                    break;
                }
                continue;
            };
            let ended = match index & SESSION {
                0 => self.check_silence(turn, ConnId { index, generation }),
                _ => self.check_session(turn, index & !SESSION, generation),
            };
            left = left.saturating_sub(if ended { LOOKS_OF_AN_END } else { 1 });
        }
        let all_expired = self.retained.expire(turn.now_ms);
        let all_reviewed = self.reviewed == u32::MAX || !self.review_some(turn);
        self.overdue = self.due.len() > 0 || !all_expired || !all_reviewed;
    }

    /// True if the last [`crate::Input::Timer`] has left some of what was due to the next, which should
    /// come soon: one input deals with four ends or 1,024 looks at most, and with one part of a message
    /// for many.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.overdue || self.is_delivering() || self.last_wills.len() > 0
    }

    /// True if messages for many are on their way to their receivers.
    #[must_use]
    pub fn is_delivering(&self) -> bool {
        !self.fanouts.is_empty()
    }

    /// How many messages that went in parts have reached all their receivers; those came in this order.
    #[must_use]
    pub fn done_in_parts(&self) -> u64 {
        self.fanouts.done()
    }

    /// How many messages have ever gone to their receivers in parts.
    #[must_use]
    pub const fn begun_in_parts(&self) -> u64 {
        self.fanouts.begun()
    }

    /// A connection is not read at the moment, so that it is silent is not its doing.
    pub fn excuse(&mut self, now: Now, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.heard(now.mono_ms);
        }
    }

    /// Sets the timer that watches a connection for silence.
    pub(crate) fn arm_silence(&mut self, turn: &Turn<'_>, conn: ConnId) {
        let Some(connection) = self.connection(conn) else { return };
        if connection.silence_ms_max > 0 {
            let silence_ms = connection.silence_ms(turn.now_ms);
            let left_ms = u64::from(connection.silence_ms_max.saturating_sub(silence_ms));
            let timer = Timer { index: conn.index, generation: conn.generation };
            self.wheel.insert(turn.now_ms + left_ms.min(HORIZON_MS), timer);
        }
    }

    /// Closes a connection that has been silent for one and a half times its keep alive
    /// ([MQTT5-3.1.2-22], [MQTT311-3.1.2-24]), or that does not finish authenticating.
    ///
    /// True if it has.
    fn check_silence(&mut self, turn: &mut Turn<'_>, conn: ConnId) -> bool {
        let Some(connection) = self.connection(conn) else { return false };
        // The timer may be left from the authentication, or watch what needs no watching now.
        if connection.silence_ms_max == 0 || sabotage::on(Sabotage::KeepAliveIgnored) {
            return false;
        }
        let over = connection.silence_ms(turn.now_ms) >= connection.silence_ms_max;
        if over {
            let what = "nothing was received for one and a half times the keep alive";
            self.violate(turn, conn, Violation::new(ReasonCode::KeepAliveTimeout, what));
        } else {
            self.arm_silence(turn, conn);
        }
        over
    }

    /// Sets the timer of a session for the nearest of its deadlines, if none is set before it.
    pub(crate) fn arm_session(&mut self, turn: &Turn<'_>, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let will = session.will().map_or(u64::MAX, |will| will.fires_at_ms);
        let expiry = match session.is_online() {
            true => session.standing.as_deref().map_or(u64::MAX, |it| it.ends_at.ms()),
            false => session.expires_at.ms(),
        };
        let at = will.min(expiry);
        if at == u64::MAX {
            return;
        }
        let at = Tick::after(at.min(turn.now_ms + HORIZON_MS));
        if at < session.timer_at {
            session.timer_at = at;
            let timer = Timer { index: index | SESSION, generation: session.generation };
            self.wheel.insert(at.ms(), timer);
        }
    }

    /// Ends a session whose expiry has passed ([MQTT5-3.1.2-23], [MQTT5-4.1.0-2]) and publishes a
    /// will whose delay has. True if it did either.
    fn check_session(&mut self, turn: &mut Turn<'_>, index: u32, generation: u32) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        if session.generation != generation {
            return false;
        }
        if session.timer_at.ms() <= turn.now_ms {
            session.timer_at = Tick::NEVER;
        }
        let expires = !sabotage::on(Sabotage::ExpiryIgnored);
        if expires && !session.is_online() && session.expires_at.ms() <= turn.now_ms {
            let (client_id, what) = (session.client_id(), "its expiry interval is over");
            turn.out.events.push(Event::SessionEnded { client_id, what });
            self.end_session(turn, index);
            return true;
        }
        let proof_ends =
            session.standing.as_deref().is_some_and(|it| it.ends_at.ms() <= turn.now_ms);
        if proof_ends && let Some(conn) = self.conn_of(index) {
            let what = "the proof of who the client is has come to its end";
            self.violate(turn, conn, Violation::new(ReasonCode::MaximumConnectTime, what));
            return true;
        }
        let Some(session) = self.sessions.get(index) else { return false };
        let fires = session.will().is_some_and(|will| will.fires_at_ms <= turn.now_ms);
        if fires {
            self.publish_will(turn, index);
        }
        self.arm_session(turn, index);
        fires
    }
}
