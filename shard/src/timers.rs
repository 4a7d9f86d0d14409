//! Keep alive, session expiry, will delay and the expiry of retained messages.
//!
//! Entries in the wheel are hints: when one fires, its owner looks at its own deadlines and sets
//! the next. So a packet costs one store, and nothing has to be taken out of the wheel.

use petrel_proto::ReasonCode;

use crate::connection::Violation;
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};

/// How exact timers are: they fire late by at most this.
pub(crate) const TIMER_TICK_MS: u64 = 100;
/// Slots of the wheel; with the tick, 102 s in one round.
pub(crate) const TIMER_SLOTS: usize = 1024;
/// The furthest that an entry lies ahead, so that entries of sessions and connections that are
/// long gone do not pile up.
const HORIZON_MS: u64 = 300_000;

/// What a timer looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The silence of a connection.
    Connection {
        /// Position.
        index: u32,
        /// Which use of it.
        generation: u32,
    },
    /// The expiry and the will of a session.
    Session {
        /// Position.
        index: u32,
        /// Which use of it.
        generation: u32,
    },
}

impl Shard {
    pub(crate) fn on_timer(&mut self, turn: &mut Turn<'_>) {
        let mut due = Vec::new();
        loop {
            self.wheel.expire(turn.now_ms, &mut due);
            if due.is_empty() {
                break;
            }
            for timer in due.drain(..) {
                match timer {
                    Timer::Connection { index, generation } => {
                        self.check_silence(turn, index, generation);
                    }
                    Timer::Session { index, generation } => {
                        self.check_session(turn, index, generation);
                    }
                }
            }
        }
        self.retained.expire(turn.now_ms);
    }

    /// Sets the timer that watches a connection for silence.
    pub(crate) fn arm_silence(&mut self, turn: &Turn<'_>, index: u32) {
        let Some(connection) = self.conns.get(index as usize).and_then(Option::as_deref) else {
            return;
        };
        if connection.silence_ms_max > 0 {
            let at = connection.last_packet_ms + u64::from(connection.silence_ms_max);
            let timer = Timer::Connection { index, generation: connection.id.generation };
            self.wheel.insert(at.min(turn.now_ms + HORIZON_MS), timer);
        }
    }

    /// Closes a connection that has been silent for one and a half times its keep alive
    /// ([MQTT5-3.1.2-22], [MQTT311-3.1.2-24]), or that does not finish authenticating.
    fn check_silence(&mut self, turn: &mut Turn<'_>, index: u32, generation: u32) {
        let Some(connection) = self
            .conns
            .get(index as usize)
            .and_then(Option::as_deref)
            .filter(|c| c.id.generation == generation)
        else {
            return;
        };
        // The timer may be left from the authentication, or watch what needs no watching now.
        if connection.silence_ms_max == 0 || sabotage::on(Sabotage::KeepAliveIgnored) {
            return;
        }
        let (conn, silence) = (connection.id, turn.now_ms - connection.last_packet_ms);
        if silence >= u64::from(connection.silence_ms_max) {
            let what = "nothing was received for one and a half times the keep alive";
            self.violate(turn, conn, Violation::new(ReasonCode::KeepAliveTimeout, what));
        } else {
            self.arm_silence(turn, index);
        }
    }

    /// Sets the timer of a session for the nearest of its deadlines, if none is set before it.
    pub(crate) fn arm_session(&mut self, turn: &Turn<'_>, index: u32) {
        let generation = self.sessions.generation(index).unwrap_or(0);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let will = session.will().map_or(u64::MAX, |will| will.fires_at_ms);
        let expiry = if session.is_online() { u64::MAX } else { session.expires_at_ms };
        let at = will.min(expiry);
        if at == u64::MAX {
            return;
        }
        let at = at.min(turn.now_ms + HORIZON_MS);
        if at < session.timer_at_ms {
            session.timer_at_ms = at;
            self.wheel.insert(at, Timer::Session { index, generation });
        }
    }

    /// Ends a session whose expiry has passed ([MQTT5-3.1.2-23], [MQTT5-4.1.0-2]) and publishes a
    /// will whose delay has.
    fn check_session(&mut self, turn: &mut Turn<'_>, index: u32, generation: u32) {
        if self.sessions.generation(index) != Some(generation) {
            return;
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.timer_at_ms <= turn.now_ms {
            session.timer_at_ms = u64::MAX;
        }
        let expires = !sabotage::on(Sabotage::ExpiryIgnored);
        if expires && !session.is_online() && session.expires_at_ms <= turn.now_ms {
            return self.end_session(turn, index);
        }
        if session.will().is_some_and(|will| will.fires_at_ms <= turn.now_ms) {
            self.publish_will(turn, index);
        }
        self.arm_session(turn, index);
    }
}
