//! What matching costs: nanoseconds per topic and bytes per filter, by mix and number of filters.
//!
//! `match_cost [MIX [FILTERS [TOPICS]]]` runs one case or, without arguments, a table of them.
//! Mixes: 1 = one filter in ten has wildcards, over eight masks; 2 = `device/<id>/#`; 3 = exact;
//! 4 = every mask of ten levels, 5 = the same and none matches by its last level. For instructions per topic run one case under callgrind and divide
//! the inclusive counts of `hash` (called thrice per topic), `match_topic` and `interested`.

#[path = "../tests/counting/mod.rs"]
mod counting;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use petrel_proto::{Text, TopicFilter};
use petrel_shard::interest::{Interest, InterestWriter};
use petrel_shard::level_hash::{HashKey, TopicLevels};
use petrel_shard::matcher::Matcher;

const KEY: HashKey = HashKey::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    println!("mix  filters | hash ns | matcher ns  hits  B/filter | interest ns  B/filter  masks");
    if let Some(&mix) = args.first() {
        let filters = args.get(1).copied().unwrap_or(100_000);
        run(mix, filters, args.get(2).copied().unwrap_or(1_000_000));
        return;
    }
    for mix in 1..=3 {
        for filters in [1_000, 100_000, 1_000_000] {
            run(mix, filters, 1_000_000);
        }
    }
    run(4, 1_000, 50_000);
    run(5, 1_000, 50_000);
    run(5, 20_000, 50_000);
}

fn run(mix: usize, filters: usize, topics: usize) {
    let (mut matcher, matcher_bytes) = (Matcher::new(KEY), counting::held_bytes());
    let mut text_bytes = 0;
    for number in 0..filters {
        let filter = filter(mix, number);
        text_bytes += filter.len();
        let text = Text::new(Bytes::from(filter)).expect("filters are short and plain");
        matcher.intern(&TopicFilter::new(text).expect("filters are well formed"));
    }
    let matcher_bytes = counting::held_bytes() - matcher_bytes - text_bytes;

    let (interest, interest_bytes) = (Arc::new(Interest::new(KEY)), counting::held_bytes());
    let mut writer = InterestWriter::new(Arc::clone(&interest), 7);
    for number in 0..filters {
        writer.add(filter(mix, number).as_bytes());
    }
    let interest_bytes = counting::held_bytes() - interest_bytes;

    // Topics in a random order, four of five with a filter of their own.
    let names: Vec<String> = (0..1 << 17)
        .map(|index| topic(mix, scatter(index as u64) as usize % (filters * 5 / 4)))
        .collect();
    let mut levels = TopicLevels::new();
    let hash_ns = time(topics, &names, |name| hash(&mut levels, name));
    let mut hits = 0_usize;
    let matcher_ns = time(topics, &names, |name| {
        hash(&mut levels, name);
        hits += match_topic(&matcher, name, &levels);
    });
    let interest_ns = time(topics, &names, |name| {
        hash(&mut levels, name);
        interested(&interest, &levels);
    });
    println!(
        "{mix:3} {filters:8} | {hash_ns:7.0} | {:10.0} {:5.1} {:9.1} | {:11.0} {:9.1} {:6}",
        matcher_ns - hash_ns,
        hits as f64 / topics.max(1) as f64,
        matcher_bytes as f64 / filters as f64,
        interest_ns - hash_ns,
        interest_bytes as f64 / filters as f64,
        interest.stats().masks,
    );
}

// Not inlined, so that a profiler tells them apart.

#[inline(never)]
fn hash(levels: &mut TopicLevels, name: &[u8]) {
    levels.assign(&KEY, name);
}

#[inline(never)]
fn match_topic(matcher: &Matcher, name: &[u8], levels: &TopicLevels) -> usize {
    let mut hits = 0;
    matcher.matches(name, levels, &mut |_| hits += 1);
    hits
}

#[inline(never)]
fn interested(interest: &Interest, levels: &TopicLevels) {
    black_box(interest.shards(levels));
}

/// Nanoseconds per topic.
fn time(topics: usize, names: &[String], mut each: impl FnMut(&[u8])) -> f64 {
    let start = Instant::now();
    for index in 0..topics {
        each(names[index % names.len()].as_bytes());
    }
    start.elapsed().as_nanos() as f64 / topics.max(1) as f64
}

fn scatter(index: u64) -> u64 {
    let mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn filter(mix: usize, number: usize) -> String {
    let site = number % 1_000;
    match mix {
        1 if number.is_multiple_of(10) => match number / 10 % 8 {
            0 => format!("plant/+/line/{number}/temperature"),
            1 => format!("plant/{site}/+/{number}/temperature"),
            2 => format!("plant/{site}/line/{number}/+"),
            3 => format!("+/{site}/line/{number}/temperature"),
            4 => format!("plant/{site}/line/{number}/#"),
            5 => format!("plant/+/line/{number}/#"),
            6 => format!("plant/+/+/{number}/temperature"),
            _ => format!("+/+/line/{number}/+"),
        },
        2 => format!("device/{number}/#"),
        4 => masked(number),
        5 => format!("{}/{number}", masked(number)),
        _ => topic(mix, number),
    }
}

fn topic(mix: usize, number: usize) -> String {
    match mix {
        2 => format!("device/{number}/state/motor/rpm"),
        4 => other(number),
        5 => format!("{}/none", other(number)),
        _ => format!("plant/{}/line/{number}/temperature", number % 1_000),
    }
}

/// Ten levels, the bits of the number say which of them are wildcards.
fn masked(number: usize) -> String {
    let level = |bit: usize| if number >> bit & 1 == 1 { "+" } else { "level" };
    (0..10).map(level).collect::<Vec<_>>().join("/")
}

/// What all of [`masked`] match that have a wildcard at one level, or no level of its own.
fn other(number: usize) -> String {
    let level = |bit: usize| if number % 11 == bit { "other" } else { "level" };
    (0..10).map(level).collect::<Vec<_>>().join("/")
}
