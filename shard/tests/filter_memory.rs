//! What a distinct filter costs in memory, and that matching allocates nothing.

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Text, TopicFilter};
use petrel_shard::interest::{Interest, InterestWriter};
use petrel_shard::level_hash::{HashKey, TopicLevels};
use petrel_shard::matcher::Matcher;

mod counting;

const KEY: HashKey = HashKey::new([31, 32]);

/// One in ten has wildcards, over eight masks.
fn filter(number: usize) -> String {
    if !number.is_multiple_of(10) {
        return format!("site/{}/line/{number}/temp", number % 97);
    }
    match number / 10 % 8 {
        0 => format!("site/+/line/{number}/temp"),
        1 => format!("site/{number}/+/+/temp"),
        2 => format!("+/{number}/line/+/temp"),
        3 => format!("site/{number}/line/1/+"),
        4 => format!("site/{number}/#"),
        5 => format!("site/+/line/{number}/#"),
        6 => format!("site/{number}/line/#"),
        _ => format!("+/+/+/{number}/+"),
    }
}

fn checked(text: &str) -> TopicFilter {
    TopicFilter::new(Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()).unwrap()
}

#[test]
fn interest_costs_at_most_20_bytes_per_distinct_filter_of_the_process() {
    let before = counting::held_bytes();
    let interest = Arc::new(Interest::new(KEY));
    let mut writers: Vec<_> =
        (0..4).map(|shard| InterestWriter::new(Arc::clone(&interest), shard)).collect();
    counting::peak_bytes();
    let last = 100_000;
    for count in 1..=last {
        let filter = filter(count);
        // Every third one is wanted by all shards.
        let wanting = if count.is_multiple_of(3) { 4 } else { 1 };
        writers[..wanting].iter_mut().for_each(|writer| writer.add(filter.as_bytes()));
        if count >= 30_000 && count.is_multiple_of(1_000) {
            let peak = counting::peak_bytes() - before;
            assert!(peak <= 20 * count, "{} B each for {count} filters", peak / count);
        }
    }
    let held = counting::held_bytes() - before;
    let told = interest.stats().memory_bytes;
    assert!(held.abs_diff(told) < held / 50, "{held} B are held, {told} B are told");
    for count in (30_000..=last).rev() {
        let filter = filter(count);
        let wanting = if count.is_multiple_of(3) { 4 } else { 1 };
        writers[..wanting].iter_mut().for_each(|writer| writer.remove(filter.as_bytes()));
        if count.is_multiple_of(1_000) {
            let held = counting::held_bytes() - before;
            assert!(held <= 20 * count, "{} B each for {count} filters", held / count);
        }
    }
}

#[test]
fn matcher_costs_at_most_24_bytes_per_filter_beyond_its_text() {
    let before = counting::held_bytes();
    let mut matcher = Matcher::new(KEY);
    let mut text_bytes = 0;
    for count in 1..=100_000 {
        let filter = filter(count);
        text_bytes += filter.len();
        matcher.intern(&checked(&filter));
        if count >= 30_000 && count.is_multiple_of(1_000) {
            let held = counting::held_bytes() - before - text_bytes - filter.capacity();
            assert!(held <= 24 * count, "{} B each for {count} filters", held / count);
        }
    }
    assert_eq!(matcher.len(), 100_000);
}

#[test]
fn matching_a_topic_allocates_nothing() {
    let mut matcher = Matcher::new(KEY);
    let interest = Arc::new(Interest::new(KEY));
    let mut writer = InterestWriter::new(Arc::clone(&interest), 0);
    let mut add = |text: &str| {
        matcher.intern(&checked(text));
        writer.add(text.as_bytes());
    };
    (0..2_000).for_each(|number| add(&filter(number)));
    // More masks of one length than are probed, so that the trie has its share.
    for bits in 0..1_u32 << 7 {
        let level = |bit: u32| if bits >> bit & 1 == 1 { "+" } else { "x" };
        add(&(0..7).map(level).collect::<Vec<_>>().join("/"));
    }
    let deep = "x/".repeat(30);
    let topics = ["site/3/line/100/temp", "x/x/x/x/x/x/x", "$SYS/broker", "a", &deep];
    let mut levels = TopicLevels::new();
    let mut found = 0;
    let mut run = || {
        for topic in topics {
            levels.assign(&KEY, topic.as_bytes());
            found += usize::from(!interest.shards(&levels).is_empty());
            matcher.matches(topic.as_bytes(), &levels, &mut |_| found += 1);
        }
    };
    // The first look makes the thread's own record in the table's library.
    run();
    let before = counting::calls();
    run();
    assert_eq!(counting::calls(), before);
    assert!(found > 128);
}
