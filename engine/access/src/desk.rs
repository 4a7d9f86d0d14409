//! Where shards ask who clients are, and the threads that find it out.
//!
//! Each shard has a [`Desk`]. It knows what was found out a short while ago; what it does not know waits in a
//! line of its own, of which some are given to the threads of the [`Office`] at a time. So a storm of logins
//! makes a line, and no more: the threads give way to the shards, each has one check's memory, and whoever has
//! gone in the meantime costs nothing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use petrel_net::Bell;
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{Asks, ConnId, Question};

use crate::check::{Asker, Finding, Plan, Why};
use crate::office::{Asked, Case, Shared, Way};

/// Times and bounds, all for the whole process but where it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Threads that check.
    pub threads: u16,
    /// Clients that wait at one shard; one more is told that the broker is busy.
    pub waiting_per_shard: u32,
    /// How long it is known that somebody was let in, in milliseconds; 0 for not at all.
    pub known_ms: u64,
    /// How long it is known that somebody was not, in milliseconds; 0 for not at all.
    pub refused_ms: u64,
    /// What is known at once, at most.
    pub known_maximum: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 1,
            waiting_per_shard: 50_000,
            known_ms: 300_000,
            refused_ms: 5_000,
            known_maximum: 1 << 20,
        }
    }
}

/// One shard's side.
pub struct Desk {
    shared: Arc<Shared>,
    results: Receiver<(Asked, Finding)>,
    to_me: Arc<Way>,
    /// By listener: so that whoever waits for a slow back end is in nobody else's way.
    lines: Vec<Line>,
    /// Clients in all lines.
    waiting: usize,
    /// Whose line is looked at next.
    turn: usize,
    epoch: u64,
    plan: Arc<Plan>,
}

/// Clients of one listener.
#[derive(Default)]
struct Line {
    /// With the time since when, in milliseconds.
    waiting: VecDeque<(ConnId, Asker, u64)>,
    /// Given away and not come back.
    under_way: usize,
}

/// What a desk has to say of a client that waits.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Verdict(Finding),
    /// It has gone.
    Gone,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, bell: &Arc<Bell>) -> Self {
        let (sender, results) = unbounded();
        let to_me = Arc::new(Way { results: sender, bell: Arc::clone(bell) });
        let (epoch, plan) = shared.plan();
        Self { shared, results, to_me, lines: Vec::new(), waiting: 0, turn: 0, epoch, plan }
    }

    /// Asks who a client is. `None` if the answer comes later, by [`Desk::next`].
    ///
    /// *Cost*: one HMAC over user name and password, and a look; some microseconds.
    pub fn ask(&mut self, now_ms: u64, question: Question) -> Option<Finding> {
        let Question { conn, client_id, asks: Asks::Credentials(credentials) } = question else {
            return Some(Finding::nobody(ReasonCode::BadAuthenticationMethod, Why::Unknown));
        };
        self.look_up();
        let listener = usize::from(credentials.origin.listener);
        // It is kept for those who look at it; the memory that it stands in may be a large buffer's.
        let looks = self.plan.line(listener).looks;
        let client_id = if looks.client_id { client_id.to_owned_text() } else { Text::default() };
        let asker = Asker { client_id, credentials };
        if let Some(finding) = self.known(now_ms, &asker) {
            return Some(finding);
        }
        if self.waiting >= self.shared.settings.waiting_per_shard as usize {
            return Some(Finding::nobody(ReasonCode::ServerBusy, Why::Busy));
        }
        if self.lines.len() <= listener {
            self.lines.resize_with(listener + 1, Line::default);
        }
        self.lines[listener].waiting.push_back((conn, asker, now_ms));
        self.waiting += 1;
        None
    }

    /// The next client of which something is known, or that has gone. To be called in every turn until there is
    /// none: it gives away those that can be found out about, too.
    pub fn next(
        &mut self,
        now_ms: u64,
        mut is_there: impl FnMut(ConnId) -> bool,
    ) -> Option<(ConnId, Answer)> {
        if let Ok((asked, mut finding)) = self.results.try_recv() {
            finding.waited_ms = now_ms.saturating_sub(asked.since_ms);
            if let Some(line) = self.lines.get_mut(usize::from(asked.listener)) {
                line.under_way -= 1;
            }
            return Some((asked.conn, Answer::Verdict(finding)));
        }
        self.look_up();
        for _ in 0..self.lines.len() {
            self.turn = (self.turn + 1) % self.lines.len();
            let plan = *self.plan.line(self.turn);
            while self.lines[self.turn].under_way < plan.under_way_max {
                let Some((conn, asker, since_ms)) = self.lines[self.turn].waiting.pop_front()
                else {
                    break;
                };
                self.waiting -= 1;
                if !is_there(conn) {
                    return Some((conn, Answer::Gone));
                }
                // Many of those who wait may be one user.
                if let Some(mut finding) = self.known(now_ms, &asker) {
                    finding.waited_ms = now_ms.saturating_sub(since_ms);
                    return Some((conn, Answer::Verdict(finding)));
                }
                let asked = Asked { conn, listener: asker.credentials.origin.listener, since_ms };
                let case = Case { asked, asker, way: Arc::clone(&self.to_me), now_ms };
                if !self.shared.give(case, plan.begins_elsewhere) {
                    // The threads have ended, which they do last.
                    let reason = ReasonCode::ServerUnavailable;
                    return Some((conn, Answer::Verdict(Finding::nobody(reason, Why::Failed))));
                }
                self.lines[self.turn].under_way += 1;
            }
        }
        None
    }

    /// True if [`Desk::next`] has something to say.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        let may_give = |(at, line): (usize, &Line)| {
            !line.waiting.is_empty() && line.under_way < self.plan.line(at).under_way_max
        };
        !self.results.is_empty()
            || (self.waiting > 0 && self.lines.iter().enumerate().any(may_give))
    }

    /// How many clients wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting + self.lines.iter().map(|line| line.under_way).sum::<usize>()
    }

    /// Which checks there are now.
    fn look_up(&mut self) {
        if self.shared.epoch() != self.epoch {
            (self.epoch, self.plan) = self.shared.plan();
        }
    }

    fn known(&self, now_ms: u64, asker: &Asker) -> Option<Finding> {
        let listener = usize::from(asker.credentials.origin.listener);
        let looks = self.plan.line(listener).looks;
        let name = self.shared.known.name(self.epoch, looks, asker);
        let found = self.shared.known.get(&name, now_ms)?;
        Some(Finding { is_known: true, ..found.finding(&asker.credentials) })
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
