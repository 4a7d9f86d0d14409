//! The matcher against the slow, obvious way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use petrel_proto::{Text, TopicName};
use proptest::prelude::*;

use super::*;

const KEY: HashKey = HashKey::new([11, 12]);

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::new(Text::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()).unwrap()
}

/// A matcher and, beside it, what should be in it.
struct Pair {
    matcher: Matcher,
    model: BTreeMap<String, FilterId>,
}

impl Pair {
    fn new() -> Self {
        Self { matcher: Matcher::new(KEY), model: BTreeMap::new() }
    }

    fn add(&mut self, text: &str) {
        let (id, new) = self.matcher.intern(&filter(text));
        assert_eq!(self.matcher.filter(id), text.as_bytes());
        assert_eq!(self.model.insert(text.to_owned(), id), (!new).then_some(id), "{text}");
    }

    fn remove(&mut self, text: &str) {
        let id = self.matcher.find(text.as_bytes());
        assert_eq!(id, self.model.remove(text), "{text}");
        if let Some(id) = id {
            self.matcher.remove(id);
            assert_eq!(self.matcher.find(text.as_bytes()), None);
            assert_eq!(self.matcher.filter(id), b"");
        }
        assert_eq!(self.matcher.len(), self.model.len());
    }

    /// The filters that match, checked against the model.
    fn check(&self, name: &str) -> usize {
        let levels = TopicLevels::of(&KEY, name.as_bytes());
        let mut found = Vec::new();
        self.matcher.matches(name.as_bytes(), &levels, &mut |id| found.push(id));
        let once: BTreeSet<FilterId> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "a filter was found twice for {name}");
        let name = topic(name);
        let expected: BTreeSet<FilterId> = self
            .model
            .iter()
            .filter(|(text, _)| filter(text).matches(&name))
            .map(|(_, id)| *id)
            .collect();
        assert_eq!(once, expected, "{name:?}");
        expected.len()
    }
}

impl Pair {
    /// Several topics at a time find what each finds alone.
    fn check_many(&self, names: &[String]) {
        let levels: Vec<_> =
            names.iter().map(|name| TopicLevels::of(&KEY, name.as_bytes())).collect();
        let topics: Vec<_> = names.iter().map(|name| name.as_bytes()).zip(&levels).collect();
        let (mut together, mut alone) = (Vec::new(), Vec::new());
        self.matcher.matches_many(&topics, &mut |topic, id| together.push((topic, id)));
        for (topic, (name, levels)) in topics.iter().enumerate() {
            self.matcher.matches(name, levels, &mut |id| alone.push((topic, id)));
        }
        together.sort_unstable();
        alone.sort_unstable();
        assert_eq!(together, alone);
    }
}

/// Few words, so that filters meet topics; empty levels and `$` levels among them.
fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$SYS", "temperature", "$", "é"])
}

fn name() -> impl Strategy<Value = String> {
    let short = prop::collection::vec(word(), 1..7);
    let long = (prop::collection::vec(word(), 1..4), 55..70_usize)
        .prop_map(|(words, len)| words.into_iter().cycle().take(len).collect());
    prop_oneof![9 => short, 1 => long]
        .prop_map(|levels| levels.join("/"))
        .prop_filter("topics have at least one byte", |name| !name.is_empty())
}

/// A filter made from a topic name, so that long ones match at times.
fn pattern() -> impl Strategy<Value = String> {
    (name(), prop::collection::vec(0..4_u8, 1..8), 0..4_u8, any::<prop::sample::Index>())
        .prop_map(|(name, pluses, tail, cut)| {
            let mut levels: Vec<&str> = name.split('/').collect();
            for (level, plus) in levels.iter_mut().zip(pluses.iter().cycle()) {
                if *plus == 0 {
                    *level = "+";
                }
            }
            if tail == 0 {
                levels.truncate(cut.index(levels.len() + 1));
                levels.push("#");
            }
            levels.join("/")
        })
        .prop_filter("filters have at least one byte", |filter| !filter.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// [MQTT5-4.7.1-1], [MQTT5-4.7.1-2], [MQTT5-4.7.2-1], [MQTT5-4.7.3-4]
    #[test]
    fn matcher_equals_the_obvious_one_through_adds_and_removes(
        patterns in prop::collection::vec(pattern(), 1..120),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..80),
        names in prop::collection::vec(name(), 1..20),
    ) {
        let mut pair = Pair::new();
        for pattern in &patterns {
            pair.add(pattern);
        }
        for name in &names {
            pair.check(name);
        }
        pair.check_many(&names);
        for index in removed {
            pair.remove(&patterns[index.index(patterns.len())]);
        }
        for name in &names {
            pair.check(name);
        }
        for pattern in patterns.iter().take(20) {
            pair.add(pattern);
        }
        for name in &names {
            pair.check(name);
        }
        for pattern in &patterns {
            pair.remove(pattern);
        }
        prop_assert!(pair.matcher.is_empty());
        prop_assert_eq!(pair.matcher.masks(), 0);
        prop_assert!(pair.matcher.trie.is_empty());
    }
}

/// Words of every length around those that are hashed and compared in another way; some begin alike.
fn long_word() -> impl Strategy<Value = String> {
    let lengths = prop::sample::select(vec![0_usize, 1, 6, 7, 8, 9, 15, 16, 17, 40]);
    (lengths, prop::sample::select(vec!['a', 'é', '\u{7fff}']), any::<bool>()).prop_map(
        |(len, last, ascii)| {
            let mut word: String =
                if ascii { "x" } else { "ü" }.repeat(len).chars().take(len).collect();
            if len > 0 {
                word.push(last);
            }
            word
        },
    )
}

/// Levels of a topic of four to six, and which of them are `+` in a filter or whether a `#` ends it.
fn long_pattern() -> impl Strategy<Value = (Vec<String>, u8, bool)> {
    (prop::collection::vec(long_word(), 4..7), any::<u8>(), any::<bool>())
}

fn spelled(levels: &[String], pluses: u8, tail: bool) -> String {
    let level = |(at, level): (usize, &String)| match pluses >> at & 1 {
        1 => "+".to_owned(),
        _ => level.clone(),
    };
    let text = levels.iter().enumerate().map(level).collect::<Vec<_>>().join("/");
    if tail { format!("{text}/#") } else { text }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// The trie has all that come after the masks of their length are used up.
    #[test]
    fn the_trie_equals_the_obvious_one_with_levels_of_any_length(
        patterns in prop::collection::vec(long_pattern(), 1..150),
        names in prop::collection::vec(long_pattern(), 1..10),
        kept in 0..20_usize,
    ) {
        let mut pair = Pair::new();
        let words = ["t"; 6];
        for len in 4..7 {
            for text in every_mask(&words[..len], 1 << len) {
                pair.add(&text);
                pair.add(&format!("{text}/#"));
            }
        }
        let texts: Vec<String> =
            patterns.iter().map(|(levels, pluses, tail)| spelled(levels, *pluses, *tail)).collect();
        for text in &texts {
            pair.add(text);
        }
        prop_assert!(pair.matcher.trie.nodes() <= pair.model.len());
        let names: Vec<String> = names.iter().chain(patterns.iter().take(10))
            .map(|(levels, ..)| levels.join("/"))
            .filter(|name| !name.is_empty())
            .collect();
        let check = |pair: &Pair| {
            names.iter().for_each(|name| { pair.check(name); });
            pair.check("t/t/t/t/t");
        };
        check(&pair);
        pair.check_many(&names);
        for text in texts.iter().skip(kept) {
            pair.remove(text);
        }
        check(&pair);
        for text in &texts {
            pair.remove(text);
        }
        check(&pair);
        for text in pair.model.keys().cloned().collect::<Vec<_>>() {
            pair.remove(&text);
        }
        prop_assert_eq!(pair.matcher.trie.nodes(), 0);
        prop_assert!(pair.matcher.is_empty());
    }
}

/// Every set of `+` over `depth` levels, spelled from the levels of a topic.
fn every_mask(levels: &[&str], count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |bits| {
        let level = |(index, level): (usize, &&str)| {
            if index < 32 && bits >> index & 1 == 1 { "+".to_owned() } else { (*level).to_owned() }
        };
        levels.iter().enumerate().map(level).collect::<Vec<_>>().join("/")
    })
}

#[test]
fn as_many_masks_as_the_depth_allows_are_matched_exactly() {
    for (depth, count) in [(8, 256), (12, 1_000), (15, 2_000)] {
        let levels: Vec<String> = (0..depth).map(|level| format!("l{level}")).collect();
        let levels: Vec<&str> = levels.iter().map(String::as_str).collect();
        let mut pair = Pair::new();
        for text in every_mask(&levels, count) {
            pair.add(&text);
        }
        assert!(pair.matcher.masks() <= 16, "{} masks", pair.matcher.masks());
        assert_eq!(pair.check(&levels.join("/")), count);
        let mut other = levels.clone();
        other[2] = "x";
        pair.check(&other.join("/"));
        for text in every_mask(&levels, count).step_by(2) {
            pair.remove(&text);
        }
        pair.check(&levels.join("/"));
        for text in every_mask(&levels, count).skip(1).step_by(2) {
            pair.remove(&text);
        }
        assert!(pair.matcher.trie.is_empty());
    }
}

#[test]
fn many_near_misses_in_the_trie_are_no_matches() {
    // Fill the probed masks, then filters that all fit but for the last level.
    let mut pair = Pair::new();
    let levels = ["a"; 10];
    for text in every_mask(&levels, 1 << 10) {
        pair.add(&format!("{text}/z"));
    }
    assert_eq!(pair.check("a/a/a/a/a/a/a/a/a/a/y"), 0);
    assert_eq!(pair.check("a/a/a/a/a/a/a/a/a/a/z"), 1 << 10);
    assert_eq!(pair.check("a/a/a/a/b/a/a/a/a/a/z"), 1 << 9);
}

/// Filters of some literal levels each, the rest `+`, for a topic of so many levels.
fn with_levels(count: usize, each: usize) -> Vec<String> {
    let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..each {
        let longer = |set: &Vec<usize>| {
            let set = set.clone();
            let first = set.last().map_or(0, |last| last + 1);
            (first..count).map(move |next| [&set[..], &[next]].concat())
        };
        sets = sets.iter().flat_map(longer).collect();
    }
    let spell = |set: &Vec<usize>| {
        let level = |at| if set.contains(&at) { format!("l{at}") } else { "+".to_owned() };
        (0..count).map(level).collect::<Vec<_>>().join("/")
    };
    sets.iter().map(spell).collect()
}

#[test]
fn more_nodes_than_there_is_room_for_wait_at_many_levels() {
    let mut pair = Pair::new();
    let levels: Vec<String> = (0..24).map(|at| format!("l{at}")).collect();
    for each in 1..=3 {
        with_levels(24, each).iter().for_each(|text| pair.add(text));
    }
    assert_eq!(pair.check(&levels.join("/")), 24 + 276 + 2024);
    for other in [0, 7, 23] {
        let mut levels = levels.clone();
        levels[other] = "x".to_owned();
        assert_eq!(pair.check(&levels.join("/")), 23 + 253 + 1771);
    }
}

#[test]
fn filters_that_stay_at_a_node_are_found_when_its_steps_are_made_anew() {
    let mut pair = Pair::new();
    let texts: Vec<String> = (1..=3).flat_map(|each| with_levels(16, each)).collect();
    texts.iter().for_each(|text| pair.add(text));
    for text in &texts {
        pair.add(&format!("{text}/#"));
    }
    let name = (0..16).map(|at| format!("l{at}")).collect::<Vec<_>>().join("/");
    let longer = format!("{name}/l16");
    for step in [2, 3, 5, 7] {
        for text in pair.model.keys().cloned().collect::<Vec<_>>().iter().step_by(step) {
            pair.remove(text);
        }
        assert_eq!(pair.check(&name), pair.model.len());
        pair.check(&longer);
    }
    // A filter that comes and goes where others stay.
    for number in 0..2_000 {
        let text = format!("{}l{number}", "+/".repeat(15));
        pair.add(&text);
        pair.remove(&text);
    }
    assert_eq!(pair.check(&name), pair.model.len());
}

#[test]
fn the_deepest_topics_and_filters_are_matched() {
    let slashes = "/".repeat(65_535);
    let mut pair = Pair::new();
    pair.add(&slashes);
    pair.add(&format!("{}+", &slashes[..65_534]));
    pair.add(&format!("{}#", &slashes[..65_534]));
    pair.add(&format!("+{}", &slashes[..65_534]));
    pair.add("#");
    pair.add("+/+/#");
    assert_eq!(pair.check(&slashes), 4);
    assert_eq!(pair.check(&slashes[..65_534]), 6 - 1);
    // Enough to split the trie all the way down.
    for last in 0..20 {
        pair.add(&format!("{}+/{last}", &slashes[..65_000]));
    }
    assert_eq!(pair.check(&format!("{}/7", &slashes[..65_000])), 3);
    for last in 0..20 {
        pair.remove(&format!("{}+/{last}", &slashes[..65_000]));
    }
    assert_eq!(pair.check(&slashes), 4);
}

#[test]
fn more_topics_together_than_one_round_has_looks_for() {
    let mut pair = Pair::new();
    let words = ["a", "b", "c", "d", "e", "f"];
    for text in every_mask(&words, 64) {
        pair.add(&text);
    }
    let names: Vec<String> = (0..100).map(|n| format!("a/b/c/d/e/{}", n % 7)).collect();
    pair.check_many(&names);
    pair.check_many(&[words.join("/"), "x".into()]);
    pair.check_many(&[]);
}

#[test]
fn ids_are_used_again() {
    let mut pair = Pair::new();
    pair.add("a");
    pair.add("b/+");
    let freed = pair.model["a"];
    pair.remove("a");
    pair.add("c/#");
    assert_eq!(pair.model["c/#"], freed);
    pair.matcher.remove(FilterId(99));
    assert_eq!(pair.matcher.len(), 2);
}

/// [MQTT5-4.7.2-1], [MQTT311-4.7.2-1]
#[test]
fn system_topics_are_kept_from_leading_wildcards_in_table_and_trie() {
    let mut pair = Pair::new();
    for text in every_mask(&["$SYS", "b", "c", "d", "e", "f"], 64) {
        pair.add(&text);
    }
    for text in ["#", "+/#", "$SYS/#", "$SYS/+/#", "+"] {
        pair.add(text);
    }
    assert_eq!(pair.check("$SYS/b/c/d/e/f"), 32 + 2);
    assert_eq!(pair.check("$SYS"), 1);
    assert_eq!(pair.check("x/b/c/d/e/f"), 32 + 2);
}

#[test]
fn filters_that_differ_in_length_alone_are_apart_in_every_stretch() {
    // All masks of so many levels are taken by others, so that these are in the trie.
    let mut pair = Pair::new();
    let lengths = [1, 2, 15, 63, 64, 65, 66, 67, 128, 129, 130, 192, 193];
    for len in lengths {
        let levels = vec!["a"; len];
        for text in every_mask(&levels, 40) {
            pair.add(&text);
            pair.add(&format!("{text}/#"));
        }
        for last in ["+", "+/#"] {
            pair.add(&format!("{}{last}", "+/".repeat(len - 1)));
        }
    }
    let check = |pair: &Pair| {
        for len in lengths {
            pair.check(&vec!["a"; len].join("/"));
            pair.check(&vec!["a"; len + 1].join("/"));
            pair.check(&format!("$SYS{}", "/a".repeat(len)));
        }
    };
    check(&pair);
    let texts: Vec<String> = pair.model.keys().cloned().collect();
    for text in &texts {
        pair.add(text);
    }
    for text in texts.iter().step_by(2) {
        pair.remove(text);
    }
    check(&pair);
    for text in texts.iter().skip(1).step_by(2) {
        pair.remove(text);
    }
    assert!(pair.matcher.is_empty());
    assert!(pair.matcher.trie.is_empty());
}

#[test]
fn an_end_after_the_last_level_that_is_kept_is_found_though_the_trie_has_no_other() {
    let mut pair = Pair::new();
    // As many as the root and the node below it hold, and the one that has to go on.
    let lengths = 58..=64;
    for len in lengths.clone() {
        for text in every_mask(&vec!["t"; len], 17) {
            pair.add(&text);
        }
        pair.add(&format!("a{}", "/+".repeat(len - 1)));
    }
    assert_eq!(pair.matcher.trie.nodes(), 2);
    for len in lengths {
        assert_eq!(pair.check(&vec!["a"; len].join("/")), 1);
    }
}
