//! The interest table against sets of filters: never one shard too few.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use petrel_proto::{Text, TopicFilter, TopicName};
use proptest::prelude::*;

use super::*;

const KEY: HashKey = HashKey::new([21, 22]);

fn matches(filter: &str, topic: &str) -> bool {
    let text = |text: &str| Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap();
    TopicFilter::new(text(filter)).unwrap().matches(&TopicName::new(text(topic)).unwrap())
}

fn shards(interest: &Interest, topic: &str) -> ShardMask {
    interest.shards(&TopicLevels::of(&KEY, topic.as_bytes()))
}

fn pattern() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "", "$SYS", "+", "+", "+"]);
    let depth = prop_oneof![9 => 1..9_usize, 1 => 50..70_usize];
    (prop::collection::vec(level, 1..9), depth, any::<bool>())
        .prop_map(|(levels, depth, tail)| {
            let mut levels: Vec<_> = levels.into_iter().cycle().take(depth).collect();
            if tail {
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("filters have at least one byte", |filter| !filter.is_empty())
}

fn name() -> impl Strategy<Value = String> {
    pattern().prop_map(|pattern| pattern.replace('+', "a").replace('#', "b"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_shard_with_a_matching_filter_is_left_out(
        filters in prop::collection::vec((pattern(), 0..70_u16), 1..150),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        names in prop::collection::vec(name(), 1..20),
    ) {
        let interest = Arc::new(Interest::new(KEY));
        let mut writers: Vec<_> =
            (0..70).map(|shard| InterestWriter::new(Arc::clone(&interest), shard)).collect();
        // How often each filter was added and not removed.
        let mut held: BTreeMap<(String, u16), u32> = BTreeMap::new();
        for (filter, shard) in &filters {
            writers[usize::from(*shard)].add(filter.as_bytes());
            *held.entry((filter.clone(), *shard)).or_default() += 1;
        }
        let check = |held: &BTreeMap<(String, u16), u32>| {
            let levels: Vec<_> =
                names.iter().map(|name| TopicLevels::of(&KEY, name.as_bytes())).collect();
            let mut together = vec![ShardMask(7); names.len()];
            interest.shards_of_many(&levels.iter().collect::<Vec<_>>(), &mut together);
            for (name, together) in names.iter().zip(together) {
                let found = shards(&interest, name);
                assert_eq!(found, together);
                for ((filter, shard), count) in held {
                    let wanted = *count > 0 && matches(filter, name);
                    assert!(!wanted || found.contains(*shard), "{filter} of {shard}: {name}");
                }
            }
        };
        check(&held);
        for index in &removed {
            let (filter, shard) = &filters[index.index(filters.len())];
            let count = held.get_mut(&(filter.clone(), *shard)).unwrap();
            if *count > 0 {
                *count -= 1;
                writers[usize::from(*shard)].remove(filter.as_bytes());
            }
        }
        check(&held);
        for ((filter, shard), count) in &held {
            for _ in 0..*count {
                writers[usize::from(*shard)].remove(filter.as_bytes());
            }
        }
        let stats = interest.stats();
        prop_assert_eq!((stats.entries, stats.masks), (0, 0));
    }
}

#[test]
fn answers_are_precise_while_masks_are_few() {
    let interest = Arc::new(Interest::new(KEY));
    let mut writer = InterestWriter::new(Arc::clone(&interest), 3);
    for device in 0..10_000 {
        writer.add(format!("site/{device}/+/state").as_bytes());
        writer.add(format!("site/{device}/x/#").as_bytes());
        writer.add(format!("site/{device}/name").as_bytes());
    }
    assert_eq!(interest.stats().entries, 30_000);
    for device in 0..20_000 {
        let known = device < 10_000;
        for topic in ["y/state", "x/a/b/c", "x", "name"] {
            let found = shards(&interest, &format!("site/{device}/{topic}"));
            assert_eq!(found.contains(3), known, "site/{device}/{topic}");
        }
        assert!(shards(&interest, &format!("site/{device}/other")).is_empty());
    }
}

#[test]
fn filters_with_masks_beyond_the_bound_share_coarse_entries() {
    let interest = Arc::new(Interest::new(KEY));
    let mut writer = InterestWriter::new(Arc::clone(&interest), 0);
    let filters: Vec<String> = (0..1_u32 << 12)
        .map(|bits| {
            let level = |bit: u32| if bits >> bit & 1 == 1 { "+" } else { "x" };
            let levels: Vec<_> = (0..12).map(level).collect();
            format!("root/{}", levels.join("/"))
        })
        .collect();
    for filter in &filters {
        writer.add(filter.as_bytes());
    }
    let stats = interest.stats();
    assert!(stats.masks <= 16 + 12, "{} masks", stats.masks);
    assert!(stats.entries <= 1 + 16 + 12, "{} entries", stats.entries);
    for filter in &filters {
        writer.remove(filter.as_bytes());
    }
    assert_eq!(interest.stats().entries, 0);
    assert_eq!(interest.stats().masks, 0);
}

#[test]
fn shards_behind_one_bit_are_counted() {
    let interest = Arc::new(Interest::new(KEY));
    let mut low = InterestWriter::new(Arc::clone(&interest), 5);
    let mut high = InterestWriter::new(Arc::clone(&interest), 69);
    low.add(b"a/+");
    high.add(b"a/+");
    low.remove(b"a/+");
    assert_eq!(shards(&interest, "a/b").iter(100).collect::<Vec<_>>(), [5, 69]);
    assert_eq!(shards(&interest, "a/b").iter(64).collect::<Vec<_>>(), [5]);
    high.remove(b"a/+");
    assert!(shards(&interest, "a/b").is_empty());
    high.remove(b"a/+");
    assert_eq!(interest.stats().entries, 0);
}

#[test]
fn removals_give_memory_back_and_graves_are_cleared() {
    let interest = Arc::new(Interest::new(KEY));
    let mut writer = InterestWriter::new(Arc::clone(&interest), 1);
    let fixed = interest.stats().memory_bytes;
    for filter in 0..50_000 {
        writer.add(format!("a/{filter}").as_bytes());
    }
    let full = interest.stats().memory_bytes;
    // A window of filters moves on: as many leave as come.
    for filter in 0..200_000 {
        writer.remove(format!("a/{filter}").as_bytes());
        writer.add(format!("a/{}", filter + 50_000).as_bytes());
    }
    assert!(interest.stats().memory_bytes < full + full / 4);
    assert_eq!(interest.stats().entries, 50_000);
    for filter in 200_000..250_000 {
        writer.remove(format!("a/{filter}").as_bytes());
    }
    // One block for each part, and its place.
    assert!(interest.stats().memory_bytes <= fixed + 256 * (8 * 64 + 8));
}

/// What the stress test believes about one filter of one shard: odd while it is certainly there.
type Epoch = AtomicU64;

/// Adds and removes its filters in a fixed mixture, telling the epochs around each call.
///
/// Goes on until the readers have checked enough, however late they were scheduled.
fn churn(mut writer: InterestWriter, filters: &[String], epochs: &[Epoch], checked: &AtomicU64) {
    let mut state = u64::from(writer.bit) + 1;
    let mut held = vec![false; filters.len()];
    let mut rounds = 0;
    while rounds < 60_000 || checked.load(Ordering::Relaxed) < 10_000 {
        rounds += 1;
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Half of the changes hit a few filters, so that shards meet at one entry.
        let span = if state >> 20 & 1 == 0 { 8 } else { filters.len() as u64 };
        let index = ((state >> 33) % span) as usize;
        if held[index] {
            epochs[index].fetch_add(1, Ordering::SeqCst);
            writer.remove(filters[index].as_bytes());
        } else {
            writer.add(filters[index].as_bytes());
            epochs[index].fetch_add(1, Ordering::SeqCst);
        }
        held[index] = !held[index];
    }
    for (index, held) in held.into_iter().enumerate() {
        if held {
            epochs[index].fetch_add(1, Ordering::SeqCst);
            writer.remove(filters[index].as_bytes());
        }
    }
}

#[test]
fn readers_never_miss_a_filter_while_writers_add_remove_and_grow() {
    let interest = Arc::new(Interest::new(KEY));
    // Enough masks to go beyond the bound, enough filters to make every part grow and shrink.
    let filters: Vec<String> = (0..6_000_u32)
        .map(|number| match number % 4 {
            0 => format!("a/{number}/b"),
            1 => format!("a/+/{number}/#"),
            2 => format!("{number}/#"),
            _ => {
                let level = |bit: u32| if number >> bit & 1 == 1 { "+" } else { "x" };
                format!("c/{}", (2..9).map(level).collect::<Vec<_>>().join("/"))
            }
        })
        .collect();
    let topics: Vec<String> =
        filters.iter().map(|filter| filter.replace('+', "x").replace('#', "y")).collect();
    let shards: Vec<u16> = vec![0, 1, 65];
    let epochs: Vec<Vec<Epoch>> =
        shards.iter().map(|_| filters.iter().map(|_| Epoch::new(0)).collect()).collect();
    let done = AtomicBool::new(false);
    let checked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..2_usize {
            let (interest, topics, shards, epochs) = (&interest, &topics, &shards, &epochs);
            let (done, checked) = (&done, &checked);
            scope.spawn(move || {
                let mut index = reader;
                let mut levels = TopicLevels::new();
                while !done.load(Ordering::Relaxed) {
                    index = if index % 3 == 0 { index * 7 + 1 } else { index % 8 + index / 3 };
                    index %= topics.len();
                    levels.assign(&KEY, topics[index].as_bytes());
                    for (epochs, shard) in epochs.iter().zip(shards) {
                        let before = epochs[index].load(Ordering::SeqCst);
                        let found = interest.shards(&levels);
                        let after = epochs[index].load(Ordering::SeqCst);
                        let certain = before % 2 == 1 && before == after;
                        if certain && !found.contains(*shard) {
                            // So that the writers do not wait for this reader.
                            checked.fetch_add(1 << 32, Ordering::Relaxed);
                            panic!("shard {shard} is missing for {}", topics[index]);
                        }
                        checked.fetch_add(u64::from(certain), Ordering::Relaxed);
                    }
                    index += 1;
                }
            });
        }
        let writers: Vec<_> = shards
            .iter()
            .zip(&epochs)
            .map(|(shard, epochs)| {
                let writer = InterestWriter::new(Arc::clone(&interest), *shard);
                let (filters, checked) = (&filters, &checked);
                scope.spawn(move || churn(writer, filters, epochs, checked))
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(interest.stats().entries, 0);
    assert_eq!(interest.stats().masks, 0);
}
