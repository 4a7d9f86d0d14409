//! Clients that are sent away, evenly over a time.

use petrel_proto::Text;
use petrel_shard::ConnId;
use petrel_shard::look::Wanted;

use super::{Shard, TICK_MS};

/// Sessions that are looked at in a tick for those who are connected.
const LOOKS_PER_TICK: u32 = 20_000;
/// Clients that are sent away in a tick, at most.
const AWAY_PER_TICK_MAX: usize = 5_000;

/// Sends clients away until a time, from session to session.
#[derive(Debug)]
pub(super) struct Drain {
    /// By then all of them are to have gone.
    pub(super) until_ms: u64,
    /// Where they are to go.
    pub(super) server_reference: Option<Text>,
    /// The session that is looked at next.
    at: u32,
}

impl Drain {
    pub(super) const fn new(until_ms: u64, server_reference: Option<Text>) -> Self {
        Self { until_ms, server_reference, at: 0 }
    }

    /// How many go in this tick, if so many are there.
    fn share(&self, now_ms: u64, connected: usize) -> usize {
        let ticks = self.until_ms.saturating_sub(now_ms) / TICK_MS + 1;
        let ticks = usize::try_from(ticks).unwrap_or(usize::MAX);
        connected.div_ceil(ticks).min(AWAY_PER_TICK_MAX)
    }

    /// Those whose turn it is.
    pub(super) fn next(&mut self, shard: &Shard, now_ms: u64, connected: usize) -> Vec<ConnId> {
        let share = self.share(now_ms, connected);
        let wanted = Wanted { connected: Some(true), ..Wanted::default() };
        let mut found = Vec::new();
        if share > 0 {
            let next = shard.list(self.at, &wanted, (share, LOOKS_PER_TICK), &mut found);
            self.at = next.unwrap_or(0);
        }
        found.into_iter().filter_map(|line| line.conn).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_go_within_the_time_and_none_much_before_it() {
        let drain = Drain::new(10_000, None);
        let (mut now_ms, mut left, mut shares) = (0, 1_000, Vec::new());
        while left > 0 {
            let share = drain.share(now_ms, left);
            shares.push(share);
            left -= share;
            now_ms += TICK_MS;
        }
        assert!(now_ms > 9_000 && now_ms <= 10_000 + 2 * TICK_MS, "{now_ms}");
        assert!(shares.iter().all(|share| *share <= 25), "{shares:?}");
        assert_eq!(drain.share(20_000, 100_000), AWAY_PER_TICK_MAX);
        assert_eq!(drain.share(0, 0), 0);
    }
}
