//! What an operator reads of what happens on a shard.
//!
//! Only what somebody may want to act on gets a line, and only some lines a second of all shards
//! together: neither a storm nor an attacker may fill the log. What goes on for long is summed up. What a
//! client sent is escaped and cut.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use petrel_net::stages::{Census, Stage};
use petrel_net::tls::TlsError;
use petrel_proto::{DecodeError, ReasonCode, Text};
use petrel_shard::{DropReason, Drops, EndedBy, Event, Limit, Limited, ShardIndex};

use crate::figures::{ByReason, Decided};
use crate::guard::Denied;
use crate::log::{self, Escaped};

/// Lines that all shards together write in a second, at most.
const LINES_PER_SECOND_MAX: u64 = 10;

/// What is summed up is for so long, in milliseconds.
const SUM_MS: u64 = 10_000;

/// Who is turned away without a line for each, and why.
const TURNED_AWAY: [(Stage, &str); 3] = [
    (Stage::RefusedByRate, "their sources connect more often than source_connections_per_s"),
    (Stage::ProxyUntrusted, "they come from no address in proxy_trusted of their listener"),
    (Stage::ProxyRefused, "they came without a good header of the PROXY protocol"),
];

/// The lines of a second of all shards.
static LINES: Lines = Lines(AtomicU64::new(0));

/// Which second it is and how many lines it has.
#[derive(Debug)]
struct Lines(AtomicU64);

impl Lines {
    /// True if this second has room for a line more.
    fn take(&self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        let more = |before: u64| {
            let lines = if before >> 16 == second { before & 0xffff } else { 0 };
            (lines < LINES_PER_SECOND_MAX).then_some(second << 16 | (lines + 1))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// Writes the lines of one shard.
#[derive(Debug, Default)]
pub struct Report {
    left_out: u64,
    /// Failed accepts that nobody has been told of.
    accepts_failed: u64,
    /// Messages that had been dropped at the last sum.
    dropped_before: Drops,
    decided: Decided,
    ended: ByReason,
    /// By who ended them: client, broker, network.
    gone: [u64; 3],
    limited: Limited,
    /// Connections refused for what is counted, as far as they were reported.
    turned_away: [u64; TURNED_AWAY.len()],
    summed_since_ms: u64,
}

impl Report {
    /// Reports what a shard says.
    pub fn event(&mut self, now_ms: u64, event: &Event) {
        if let Event::Disconnected { by, reason, .. } = event {
            self.gone[*by as usize] += 1;
            if *by == EndedBy::Broker {
                self.ended.count(*reason);
            }
        }
        match event {
            Event::Refused { client_id, reason, .. } => {
                self.decided.denied.count(*reason);
                let client = Escaped(client_id.as_bytes());
                self.line(now_ms, format_args!("client '{client}' is refused: {}", Code(*reason)));
            }
            Event::Disconnected { client_id, by: EndedBy::Broker, reason, what, .. }
                if !what.is_empty() && *reason != ReasonCode::ServerShuttingDown =>
            {
                let client = Escaped(client_id.as_bytes());
                let code = Code(*reason);
                self.line(now_ms, format_args!("client '{client}' is cut off: {what} ({code})"));
            }
            Event::Revoked { client_id, filter } => {
                let client = Escaped(client_id.as_bytes());
                let filter = Escaped(filter.as_bytes());
                self.line(
                    now_ms,
                    format_args!("client '{client}' may not subscribe to '{filter}' any more"),
                );
            }
            Event::Connected { .. } => self.decided.admitted += 1,
            Event::Disconnected { .. } => {}
        }
    }

    /// Counts a client that is held to a limit.
    pub const fn held(&mut self, limit: Limit) {
        self.limited.count(limit);
    }

    /// Limits that clients have met so far, beside those that the shard knows of.
    #[must_use]
    pub const fn limited(&self) -> Limited {
        self.limited
    }

    /// Connections that the broker has ended so far.
    #[must_use]
    pub const fn ended(&self) -> ByReason {
        self.ended
    }

    /// Connections that have ended so far, by who ended them: client, broker, network.
    #[must_use]
    pub const fn gone(&self) -> [u64; 3] {
        self.gone
    }

    /// What became of CONNECTs so far.
    #[must_use]
    pub const fn decided(&self) -> Decided {
        self.decided
    }

    /// Reports a client who may not come.
    pub fn denied(&mut self, now_ms: u64, who: &Text, denied: Denied) {
        self.decided.denied.count(denied.reason());
        self.turned_down(now_ms, who, denied);
    }

    /// Says why a user may not come whom the shard refuses then, which is counted there.
    pub fn turned_down(&mut self, now_ms: u64, who: &Text, denied: Denied) {
        let who = Escaped(who.as_bytes());
        self.line(now_ms, format_args!("'{who}' is refused: {}", denied.what()));
    }

    /// Reports that a shard has more to do, or less.
    pub fn level(&mut self, now_ms: u64, (shard, level): (ShardIndex, u8), why: &str) {
        self.line(now_ms, format_args!("shard {}: load level {level}: {why}", shard.0));
    }

    /// Reports a ban that the broker has made itself.
    pub fn banned(&mut self, now_ms: u64, who: fmt::Arguments<'_>) {
        self.line(now_ms, format_args!("{who} is banned for a time"));
    }

    /// Reports a connection that ended before it had a client identifier.
    pub fn refused(&mut self, now_ms: u64, error: &DecodeError) {
        self.line(now_ms, format_args!("a connection is refused: {error}"));
    }

    /// Reports a client whose certificate is no good.
    pub fn unproven(&mut self, now_ms: u64, peer: Option<SocketAddr>, error: &TlsError) {
        match peer {
            Some(peer) => {
                self.line(now_ms, format_args!("a client at {} is refused: {error}", peer.ip()));
            }
            None => self.line(now_ms, format_args!("a client is refused: {error}")),
        }
    }

    /// Reports that accepting failed, which it does again and again for as long as its reason lasts: the
    /// first of ten seconds has a line.
    pub fn accept_failed(&mut self, now_ms: u64, error: rustix::io::Errno) {
        self.accepts_failed += 1;
        if self.accepts_failed == 1 {
            self.line(now_ms, format_args!("connections wait because accepting failed: {error}"));
        }
    }

    /// Reports that a connection could not be taken over from another shard.
    pub fn stranded(&mut self, now_ms: u64) {
        self.line(
            now_ms,
            format_args!(
                "a connection was lost on the way to the shard of its session, which has no \
                 descriptor left for it; raise the limit of open files (ulimit -n)"
            ),
        );
    }

    /// Writes what has been summed up, from time to time.
    pub fn tick(&mut self, now_ms: u64, census: &Census, dropped: &Drops) {
        if now_ms - self.summed_since_ms < SUM_MS {
            return;
        }
        self.summed_since_ms = now_ms;
        let again = std::mem::take(&mut self.accepts_failed).saturating_sub(1);
        if again > 0 {
            log::warn(format_args!("accepting failed {again} times more in ten seconds"));
        }
        let lately = dropped.since(&self.dropped_before);
        if lately.all() > 0 {
            log::warn(format_args!("{}", summed(&lately)));
            self.dropped_before = *dropped;
        }
        for ((stage, why), before) in TURNED_AWAY.into_iter().zip(&mut self.turned_away) {
            let upto = census.stage(stage);
            let refused = upto - std::mem::replace(before, upto);
            if refused > 0 {
                log::warn(format_args!("{refused} connections were refused in ten seconds: {why}"));
            }
        }
        if self.left_out > 0 {
            log::warn(format_args!("{} lines were left out", self.left_out));
            self.left_out = 0;
        }
    }

    fn line(&mut self, now_ms: u64, line: std::fmt::Arguments<'_>) {
        match LINES.take(now_ms) {
            true => log::warn(line),
            false => self.left_out += 1,
        }
    }
}

/// What was dropped, and why.
fn summed(drops: &Drops) -> String {
    let reasons = DropReason::ALL.into_iter().filter(|reason| drops.of(*reason) > 0);
    let words = reasons.map(|reason| format!("{} {}", drops.of(reason), reason.words()));
    let words: Vec<_> = words.collect();
    format!("{} messages were dropped in ten seconds: {}", drops.all(), words.join(", "))
}

/// A reason code as the specification writes it.
struct Code(ReasonCode);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:02x} {:?}", self.0 as u8, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_few_lines() {
        let lines = Lines(AtomicU64::new(0));
        assert_eq!((0..100).filter(|_| lines.take(1_500)).count(), 10);
        assert!(lines.take(2_000));
    }
}
