//! How many lines clients can cause, and how many they would have caused.
//!
//! One bucket for each area, of all shards together. What finds it empty is counted by event, and the thread that
//! writes says from time to time how many those were.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::area::AREAS;
use super::{Area, Event};

/// Lines of each area that clients can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a second, over long.
    pub lines_per_s: u32,
    /// At once.
    pub lines_burst: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { lines_per_s: 10, lines_burst: 50 }
    }
}

static PER_S: AtomicU32 = AtomicU32::new(10);
static BURST: AtomicU32 = AtomicU32::new(50);

/// Other bounds from now on.
pub(super) fn set_rate(rate: Rate) {
    PER_S.store(rate.lines_per_s.max(1), Ordering::Relaxed);
    BURST.store(rate.lines_burst.max(1), Ordering::Relaxed);
}

fn rate() -> Rate {
    Rate { lines_per_s: PER_S.load(Ordering::Relaxed), lines_burst: BURST.load(Ordering::Relaxed) }
}

/// By area.
static BUCKETS: [Bucket; AREAS] = [const { Bucket(AtomicU64::new(0)) }; AREAS];

/// By event.
static LEFT_OUT: [AtomicU64; Event::NUMBERS] = [const { AtomicU64::new(0) }; Event::NUMBERS];

/// Whether there is room for one more line of an event; counts it if there is not.
pub(super) fn take(event: Event) -> bool {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    let now_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let has_room = BUCKETS[event.area() as usize].take(now_us, rate());
    if !has_room {
        leave_out(event, 1);
    }
    has_room
}

/// Counts lines that are not written.
pub(super) fn leave_out(event: Event, lines: u64) {
    LEFT_OUT[event as usize].fetch_add(lines, Ordering::Relaxed);
}

/// What was left out since this was asked last, by event.
pub(super) fn left_out() -> impl Iterator<Item = (Area, Event, u64)> {
    let count = |&event: &Event| {
        let counted = &LEFT_OUT[event as usize];
        let lines = match counted.load(Ordering::Relaxed) {
            0 => 0,
            _ => counted.swap(0, Ordering::Relaxed),
        };
        (lines > 0).then_some((event.area(), event, lines))
    };
    Event::ALL.iter().filter_map(count)
}

/// The time at which it is full again, in microseconds.
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, now_us: u64, rate: Rate) -> bool {
        let line_us = 1_000_000 / u64::from(rate.lines_per_s);
        let most_us = line_us * u64::from(rate.lines_burst);
        let more = |full_us: u64| {
            let full_us = full_us.max(now_us) + line_us;
            (full_us - now_us <= most_us).then_some(full_us)
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_burst_and_then_a_rate() {
        let bucket = Bucket(AtomicU64::new(0));
        let rate = Rate { lines_per_s: 10, lines_burst: 50 };
        let lines = |at_us: u64| (0..1000).filter(|_| bucket.take(at_us, rate)).count();
        assert_eq!(lines(5_000_000), 50);
        assert_eq!(lines(5_000_000), 0);
        assert_eq!(lines(5_100_000), 1);
        assert_eq!(lines(6_100_000), 10);
        assert_eq!(lines(60_000_000), 50);
        let seldom = Rate { lines_per_s: 1, lines_burst: 1 };
        let bucket = Bucket(AtomicU64::new(0));
        let seconds = (0..10).filter(|n| bucket.take(n * 500_000, seldom)).count();
        assert_eq!(seconds, 5);
    }

    /// No other test of this process leaves out lines of that.
    #[test]
    fn what_is_left_out_is_counted_by_event() {
        leave_out(Event::BansDamaged, 3);
        leave_out(Event::BansDamaged, 1);
        let of = |wanted: Event| left_out().find(|(_, event, _)| *event == wanted);
        assert_eq!(of(Event::BansDamaged), Some((Area::Admin, Event::BansDamaged, 4)));
        assert_eq!(of(Event::BansDamaged), None);
    }
}
