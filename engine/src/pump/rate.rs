//! How much each client publishes, and for how long it has to wait.
//!
//! A client that has published more than its share is not read until it has waited long enough. One that would
//! have to wait all the time is disconnected, if that is wanted.

use std::collections::HashMap;

use petrel_net::ConnKey;

/// What a client may publish; 0 for no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRate {
    /// Messages in a second, in the long run.
    pub publish_messages_per_s: u32,
    /// Messages at once, after a time without any.
    pub publish_messages_burst: u32,
    /// Bytes of topic and payload in a second, in the long run.
    pub publish_bytes_per_s: u64,
    /// Bytes at once, after a time without any.
    pub publish_bytes_burst: u64,
    /// How long a client may want more than that without a pause, in seconds, before it is disconnected; 0 for as
    /// long as it likes.
    pub publish_wait_max_s: u32,
}

impl Default for PublishRate {
    fn default() -> Self {
        Self {
            publish_messages_per_s: 0,
            publish_messages_burst: 1000,
            publish_bytes_per_s: 0,
            publish_bytes_burst: 1 << 20,
            publish_wait_max_s: 0,
        }
    }
}

impl PublishRate {
    /// Whether there is a bound.
    pub(super) const fn is_on(&self) -> bool {
        self.publish_messages_per_s > 0 || self.publish_bytes_per_s > 0
    }
}

/// What a client has to do after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing.
    GoOn,
    /// It is read again at this time.
    WaitUntil(u64),
    /// It has wanted too much for too long.
    End,
}

/// The buckets of those who have published lately.
#[derive(Debug, Default)]
pub(super) struct Rates {
    rate: PublishRate,
    clients: HashMap<ConnKey, Buckets>,
}

/// Each is the time at which it will be full again, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Buckets {
    messages_full_at_us: u64,
    bytes_full_at_us: u64,
    /// Since when the client has had to wait again and again; 0 if it has not.
    waits_since_ms: u64,
    /// When it was to be read again.
    read_again_ms: u64,
}

/// A client that waits this long without having to has had a pause.
const PAUSE_MS: u64 = 1000;

const US_PER_S: u64 = 1_000_000;
/// Who would have to wait for longer at once is sent away: nobody could tell whether it is there still.
const WAIT_US_MAX: u64 = 60 * US_PER_S;

impl Rates {
    pub(super) const fn is_on(&self) -> bool {
        self.rate.is_on()
    }

    /// Another rate from now on; what was published before does not count.
    pub(super) fn set(&mut self, rate: PublishRate) {
        self.rate = rate;
        self.clients.clear();
    }

    /// A client has published so many bytes.
    pub(super) fn published(&mut self, conn: ConnKey, bytes: usize, now_ms: u64) -> Pace {
        let rate = self.rate;
        let now_us = now_ms * 1000;
        let buckets = self.clients.entry(conn).or_default();
        let late = |full_at_us: &mut u64, amount: u64, per_s: u64, burst: u64| {
            if per_s == 0 {
                return 0;
            }
            let us = |amount: u64| {
                u64::try_from(u128::from(amount) * u128::from(US_PER_S) / u128::from(per_s))
                    .unwrap_or(u64::MAX)
            };
            *full_at_us = (*full_at_us).max(now_us).saturating_add(us(amount));
            // Below zero the bucket is empty, and the client waits until it is not.
            // Time is looked at four times a second, at the latest.
            (*full_at_us - now_us).saturating_sub(us(burst.max(1).max(per_s / 4)))
        };
        let messages = late(
            &mut buckets.messages_full_at_us,
            1,
            rate.publish_messages_per_s.into(),
            rate.publish_messages_burst.into(),
        );
        let bytes = late(
            &mut buckets.bytes_full_at_us,
            bytes as u64,
            rate.publish_bytes_per_s,
            rate.publish_bytes_burst,
        );
        let wait_us = messages.max(bytes);
        if wait_us == 0 {
            return Pace::GoOn;
        }
        let had_a_pause = now_ms > buckets.read_again_ms + PAUSE_MS;
        if buckets.waits_since_ms == 0 || had_a_pause {
            buckets.waits_since_ms = now_ms.max(1);
        }
        let most_ms = u64::from(rate.publish_wait_max_s) * 1000;
        let waits_ms = now_ms.saturating_sub(buckets.waits_since_ms);
        let is_over = most_ms > 0 && waits_ms >= most_ms;
        if is_over || wait_us > WAIT_US_MAX {
            return Pace::End;
        }
        buckets.read_again_ms = now_ms + wait_us.div_ceil(1000);
        Pace::WaitUntil(buckets.read_again_ms)
    }

    /// Until when a client that is not read has to wait.
    pub(super) fn waits_until(&self, conn: ConnKey, now_ms: u64) -> Option<u64> {
        if self.clients.is_empty() {
            return None;
        }
        self.clients.get(&conn).map(|it| it.read_again_ms).filter(|&at_ms| at_ms > now_ms)
    }

    /// A client has gone.
    pub(super) fn forget(&mut self, conn: ConnKey) {
        self.clients.remove(&conn);
    }

    /// Time has passed: whose buckets are full again is not remembered.
    pub(super) fn rest(&mut self, now_ms: u64) {
        if !self.clients.is_empty() {
            let now_us = now_ms * 1000;
            self.clients.retain(|_, it| {
                it.messages_full_at_us > now_us
                    || it.bytes_full_at_us > now_us
                    || it.read_again_ms + PAUSE_MS > now_ms
            });
            if self.clients.is_empty() {
                self.clients = HashMap::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnKey = ConnKey { index: 3, generation: 1 };

    fn rates(rate: PublishRate) -> Rates {
        Rates { rate, ..Rates::default() }
    }

    /// The clock of a process begins at 0.
    #[test]
    fn somebody_waits_in_the_first_millisecond() {
        let rate = PublishRate {
            publish_bytes_per_s: 1,
            publish_bytes_burst: 1,
            publish_wait_max_s: 1,
            ..PublishRate::default()
        };
        assert_eq!(rates(rate).published(CONN, 2, 0), Pace::WaitUntil(1000));
    }

    #[test]
    fn a_client_publishes_at_its_rate_after_its_burst() {
        let rate = PublishRate {
            publish_messages_per_s: 10,
            publish_messages_burst: 5,
            ..PublishRate::default()
        };
        let mut rates = rates(rate);
        let mut now_ms = 1_000;
        let mut sent = 0;
        while now_ms < 11_000 {
            sent += 1;
            if let Pace::WaitUntil(at_ms) = rates.published(CONN, 50, now_ms) {
                now_ms = at_ms;
            }
        }
        assert!((105..=106).contains(&sent), "{sent}");
        // Whoever is silent long enough has its burst again.
        now_ms += 5_000;
        let burst = (0..9).take_while(|_| rates.published(CONN, 50, now_ms) == Pace::GoOn).count();
        assert_eq!(burst, 5);
    }

    #[test]
    fn bytes_count_as_well_and_one_message_may_be_larger_than_the_burst() {
        let rate = PublishRate {
            publish_bytes_per_s: 1000,
            publish_bytes_burst: 500,
            ..PublishRate::default()
        };
        let mut rates = rates(rate);
        assert_eq!(rates.published(CONN, 5000, 1_000), Pace::WaitUntil(1_000 + 4_500));
        let other = ConnKey { index: 4, generation: 1 };
        assert_eq!(rates.published(other, 100, 1_000), Pace::GoOn);
    }

    #[test]
    fn who_wants_too_much_for_too_long_is_sent_away_and_who_pauses_is_not() {
        let rate = PublishRate {
            publish_messages_per_s: 1,
            publish_messages_burst: 1,
            publish_wait_max_s: 10,
            ..PublishRate::default()
        };
        let mut greedy = rates(rate);
        let mut now_ms = 500;
        let ended_at = loop {
            match greedy.published(CONN, 1, now_ms) {
                Pace::GoOn => {}
                Pace::WaitUntil(at_ms) => now_ms = at_ms,
                Pace::End => break now_ms,
            }
        };
        assert!((10_500..=11_500).contains(&ended_at), "{ended_at}");
        let mut in_bursts = rates(rate);
        for round in 0..100 {
            let mut now_ms = 500 + round * 6_000;
            for _ in 0..4 {
                match in_bursts.published(CONN, 1, now_ms) {
                    Pace::GoOn => {}
                    Pace::WaitUntil(at_ms) => now_ms = at_ms,
                    Pace::End => panic!("sent away in round {round}"),
                }
            }
        }
    }

    #[test]
    fn nothing_is_remembered_of_who_is_quiet() {
        let rate = PublishRate { publish_messages_per_s: 1, ..PublishRate::default() };
        let mut rates = rates(rate);
        rates.published(CONN, 1, 1_000);
        rates.rest(1_500);
        assert_eq!(rates.clients.len(), 1);
        rates.rest(2_500);
        assert_eq!(rates.clients.len(), 0);
    }
}
