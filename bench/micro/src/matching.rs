//! Matching at scale: what a filter takes in memory, and what a topic costs.
//!
//! `mix1`: one filter in ten has wildcards, over eight masks, the rest have none; `mix2`: each device
//! has a `#` of its own; `exact`: no wildcards. Topics have five levels and four of five have a filter.
//! `hostile…`: as many masks as so many levels allow, of which a topic matches 17, or thousands.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use petrel_proto::{Text, TopicFilter};
use petrel_shard::interest::{Interest, InterestWriter, ShardMask};
use petrel_shard::level_hash::{HashKey, TopicLevels};
use petrel_shard::matcher::Matcher;

use crate::callgrind::{self, Instructions, measured};
use crate::heap::Count;

const KEY: HashKey = HashKey::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
/// What has so many filters takes minutes to build where instructions are counted.
const COUNTED_FILTERS_MAX: u32 = 1_000_000;
/// Topics that times are taken over, in a random order.
const NAMES: u32 = 1 << 17;

/// Filters, and topics for them.
pub struct Set {
    /// Its name on the command line.
    pub name: &'static str,
    filter: fn(u32) -> String,
    topic: fn(u32) -> String,
    /// How many filters, if that is not a choice.
    filters: Option<u32>,
    /// Topics that a count of instructions is taken over.
    rounds: u32,
}

/// All sets.
pub const SETS: [Set; 8] = [
    Set { name: "mix1", filter: mixed, topic: in_plant, filters: None, rounds: 2000 },
    Set { name: "mix2", filter: of_device, topic: in_device, filters: None, rounds: 2000 },
    Set { name: "exact", filter: in_plant, topic: in_plant, filters: None, rounds: 2000 },
    hostile("hostile8", |n| masked(8, n), |n| four_of(8, n), 1_000),
    hostile("hostile12", |n| masked(12, n), |n| four_of(12, n), 20_000),
    hostile("hostile15", |n| masked(15, n), |n| four_of(15, n), 100_000),
    hostile("hostile-all", all_matching, |_| literal(12, 0), 20_000),
    hostile("hostile-near", |n| nearly(15, n, n), |n| nearly(15, n, u32::MAX), 100_000),
];

const fn hostile(
    name: &'static str,
    filter: fn(u32) -> String,
    topic: fn(u32) -> String,
    filters: u32,
) -> Set {
    Set { name, filter, topic, filters: Some(filters), rounds: 96 }
}

fn in_plant(number: u32) -> String {
    format!("plant/{}/line/{number}/temperature", number % 1000)
}

fn mixed(number: u32) -> String {
    let site = number % 1000;
    match number / 10 % 8 {
        _ if !number.is_multiple_of(10) => in_plant(number),
        0 => format!("plant/+/line/{number}/temperature"),
        1 => format!("plant/{site}/+/{number}/temperature"),
        2 => format!("plant/{site}/line/{number}/+"),
        3 => format!("+/{site}/line/{number}/temperature"),
        4 => format!("plant/{site}/line/{number}/#"),
        5 => format!("plant/+/line/{number}/#"),
        6 => format!("plant/+/+/{number}/temperature"),
        _ => format!("+/+/line/{number}/+"),
    }
}

fn of_device(number: u32) -> String {
    format!("device/{number}/#")
}

fn in_device(number: u32) -> String {
    format!("device/{number}/state/motor/rpm")
}

/// A filter whose wildcards are the low bits of the number; what is above them is in its words. And `#`.
fn masked(depth: u32, number: u32) -> String {
    let variant = number >> depth;
    let level = |at: u32| match number >> at & 1 {
        1 => "+".to_owned(),
        _ => format!("l{at}v{variant}"),
    };
    match number {
        0 => "#".to_owned(),
        _ => joined(depth, level),
    }
}

fn literal(depth: u32, variant: u32) -> String {
    joined(depth, |at| format!("l{at}v{variant}"))
}

/// A topic with four words of [`masked`] filters; 16 of these and `#` match it.
fn four_of(depth: u32, number: u32) -> String {
    let step = depth / 4;
    let first = number % (depth - 3 * step);
    let level =
        |at: u32| match at >= first && (at - first).is_multiple_of(step) && (at - first) / step < 4
        {
            true => format!("l{at}v0"),
            false => "other".to_owned(),
        };
    joined(depth, level)
}

/// Filters of which the topic of all words matches 4,096 of twelve levels and 2,047 that end in `#`.
fn all_matching(number: u32) -> String {
    match number {
        0..4096 => {
            joined(12, |at| if number >> at & 1 == 1 { "+".into() } else { format!("l{at}v0") })
        }
        4096..6143 => {
            let word =
                |at: u32| if number >> at & 1 == 1 { "+".into() } else { format!("l{at}v0") };
            format!("{}/#", joined(11, word))
        }
        _ => masked(12, number & !1),
    }
}

/// Each level one of eight words; in a filter every other one is a `+`.
fn nearly(depth: u32, number: u32, filter: u32) -> String {
    let (words, bits) = (scatter(number), scatter(filter) >> 40);
    let level = |at: u32| match bits >> at & 1 == 1 && filter < u32::MAX {
        true => "+".to_owned(),
        false => format!("l{at}w{}", words >> (at * 3) & 7),
    };
    joined(depth, level)
}

fn joined(depth: u32, level: impl Fn(u32) -> String) -> String {
    (0..depth).map(level).collect::<Vec<_>>().join("/")
}

fn scatter(number: u32) -> u64 {
    let mixed = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 32)
}

impl Set {
    fn named(name: &str) -> Result<&'static Self, String> {
        let found = SETS.iter().find(|set| set.name == name);
        found.ok_or_else(|| format!("there is no set {name:?}"))
    }

    /// The topic of a round; one of five mixes' topics has no filter.
    fn topic_of(&self, round: u32, filters: u32) -> String {
        let span = if self.filters.is_some() { filters } else { filters + filters / 4 };
        (self.topic)((scatter(round) % u64::from(span)) as u32)
    }

    fn matcher(&self, filters: u32) -> Matcher {
        let mut matcher = Matcher::new(KEY);
        for number in 0..filters {
            let text = Text::try_from((self.filter)(number).as_str()).expect("a valid string");
            matcher.intern(&TopicFilter::new(text).expect("a valid filter"));
        }
        matcher
    }

    fn interest(&self, filters: u32) -> Arc<Interest> {
        let interest = Arc::new(Interest::new(KEY));
        let mut writer = InterestWriter::new(Arc::clone(&interest), 7);
        for number in 0..filters {
            writer.add((self.filter)(number).as_bytes());
        }
        interest
    }
}

/// What is counted or timed, of one topic or of [`TOGETHER`] at a time.
pub struct Part {
    /// Its name on the command line.
    pub name: &'static str,
    /// Which of the two tables it needs: the matcher's, the shards'.
    needs: (bool, bool),
    topics: usize,
    step: fn(&mut Asked, &[&[u8]]),
}

const TOGETHER: usize = 16;

/// All parts. `publish` is what a PUBLISH pays on its way: the hashes, the shards, the exact match.
pub const PARTS: [Part; 7] = [
    Part {
        name: "hash",
        needs: (false, false),
        topics: 1,
        step: |asked, topics| asked.hash(topics),
    },
    Part {
        name: "match",
        needs: (true, false),
        topics: 1,
        step: |asked, topics| {
            asked.hash(topics);
            asked.find(topics[0]);
        },
    },
    Part {
        name: "interest",
        needs: (false, true),
        topics: 1,
        step: |asked, topics| {
            asked.hash(topics);
            asked.shards();
        },
    },
    Part {
        name: "publish",
        needs: (true, true),
        topics: 1,
        step: |asked, topics| {
            asked.hash(topics);
            asked.shards();
            asked.find(topics[0]);
        },
    },
    Part {
        name: "match16",
        needs: (true, false),
        topics: TOGETHER,
        step: |asked, topics| {
            asked.hash(topics);
            asked.find_many(topics);
        },
    },
    Part {
        name: "interest16",
        needs: (false, true),
        topics: TOGETHER,
        step: |asked, topics| {
            asked.hash(topics);
            asked.shards_of_many();
        },
    },
    Part {
        name: "publish16",
        needs: (true, true),
        topics: TOGETHER,
        step: |asked, topics| {
            asked.hash(topics);
            asked.shards_of_many();
            asked.find_many(topics);
        },
    },
];

/// What is asked, with scratch for the answer.
struct Asked {
    matcher: Matcher,
    interest: Arc<Interest>,
    levels: Vec<TopicLevels>,
    hits: u64,
}

impl Asked {
    fn new(matcher: Matcher, interest: Arc<Interest>) -> Self {
        Self { matcher, interest, levels: vec![TopicLevels::new(); TOGETHER], hits: 0 }
    }

    #[inline(always)]
    fn hash(&mut self, topics: &[&[u8]]) {
        match topics {
            [topic] => self.levels[0].assign(&KEY, topic),
            _ => {
                for (levels, topic) in self.levels.iter_mut().zip(topics) {
                    levels.assign(&KEY, topic);
                }
            }
        }
    }

    #[inline(always)]
    fn find(&mut self, topic: &[u8]) {
        let hits = &mut self.hits;
        self.matcher.matches(topic, &self.levels[0], &mut |_| *hits += 1);
    }

    #[inline(always)]
    fn shards(&mut self) {
        self.hits += u64::from(!self.interest.shards(&self.levels[0]).is_empty());
    }

    #[inline(always)]
    fn find_many(&mut self, topics: &[&[u8]]) {
        let (hits, levels) = (&mut self.hits, &self.levels);
        let topics: [_; TOGETHER] = std::array::from_fn(|index| (topics[index], &levels[index]));
        self.matcher.matches_many(&topics, &mut |_, _| *hits += 1);
    }

    #[inline(always)]
    fn shards_of_many(&mut self) {
        let levels: [_; TOGETHER] = std::array::from_fn(|index| &self.levels[index]);
        let mut shards = [ShardMask::default(); TOGETHER];
        self.interest.shards_of_many(&levels, &mut shards);
        self.hits += shards.iter().filter(|shards| !shards.is_empty()).count() as u64;
    }
}

/// One part as it is counted.
///
/// # Errors
/// There is no such set or part.
pub fn counted(set: &str, filters: u32, part: &str) -> Result<(), String> {
    let set = Set::named(set)?;
    let part = PARTS.iter().find(|one| one.name == part).ok_or("there is no such part")?;
    let of = |needed: bool| if needed { filters } else { 0 };
    let mut asked = Asked::new(set.matcher(of(part.needs.0)), set.interest(of(part.needs.1)));
    let names: Vec<String> = (0..set.rounds).map(|round| set.topic_of(round, filters)).collect();
    for names in names.chunks_exact(part.topics) {
        let topics: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        measured(&mut || (part.step)(&mut asked, &topics));
    }
    black_box(asked.hits);
    Ok(())
}

/// How many topics [`counted`] takes.
///
/// # Errors
/// There is no such set.
pub fn rounds(set: &str) -> Result<u32, String> {
    Set::named(set).map(|set| set.rounds)
}

/// Writes tables of everything: the mixes with so many filters, and the hostile sets.
///
/// # Errors
/// Valgrind fails.
pub fn report(sizes: &[u32]) -> Result<(), String> {
    println!("for each topic; 16 are that many at a time; B are bytes for each filter");
    for set in &SETS {
        match set.filters {
            Some(filters) => line(set, filters)?,
            None => sizes.iter().try_for_each(|&filters| line(set, filters))?,
        }
    }
    Ok(())
}

fn line(set: &Set, filters: u32) -> Result<(), String> {
    let count = Count::begin();
    let matcher = set.matcher(filters);
    let of_matcher = count.end().held_bytes;
    let texts: usize = (0..filters).map(|number| (set.filter)(number).len()).sum();
    let count = Count::begin();
    let interest = set.interest(filters);
    let of_interest = count.end().held_bytes;
    let masks = matcher.masks();
    let names: Vec<String> = (0..NAMES).map(|round| set.topic_of(round, filters)).collect();
    let mut asked = Asked::new(matcher, interest);
    let each = |bytes: i64| bytes as f64 / f64::from(filters);
    println!(
        "{}, {filters} filters, {masks} masks: matcher {:.1} B, {:.1} beside the text; interest {:.1} B",
        set.name,
        each(of_matcher),
        each(of_matcher - texts as i64),
        each(of_interest),
    );
    for part in &PARTS {
        asked.hits = 0;
        let topics = if set.filters.is_some() { 1 << 14 } else { 1 << 20 };
        let ns = asked.time(part, &names, topics);
        let hits = asked.hits as f64 / topics as f64;
        let counted = match callgrind::version() {
            Some(_) if filters <= COUNTED_FILTERS_MAX => {
                let args = ["match-case", set.name, &filters.to_string(), part.name];
                let Instructions { own, all } = callgrind::count_all(&args)?;
                let each = |count: u64| count as f64 / f64::from(set.rounds);
                format!(
                    "{:8.0} instructions, {:.0} more of the C library",
                    each(own),
                    each(all - own)
                )
            }
            _ => String::new(),
        };
        println!("  {:10} {ns:8.0} ns, {hits:7.1} hits {counted}", part.name);
    }
    Ok(())
}

impl Asked {
    /// Nanoseconds per topic: the median of five passes over so many.
    fn time(&mut self, part: &Part, names: &[String], topics: usize) -> f64 {
        let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let mut passes: Vec<f64> = (0..5)
            .map(|_| {
                self.hits = 0;
                let begin = Instant::now();
                for names in names.chunks_exact(part.topics).cycle().take(topics / part.topics) {
                    (part.step)(self, names);
                }
                begin.elapsed().as_nanos() as f64 / topics as f64
            })
            .collect();
        passes.sort_by(f64::total_cmp);
        passes[2]
    }
}
