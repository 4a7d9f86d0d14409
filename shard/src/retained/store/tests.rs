//! The store against a map that is searched from end to end.

use std::collections::{BTreeMap, BTreeSet};

use petrel_proto::{MessageFields, MessageProperties, Qos};
use proptest::prelude::*;

use super::*;

const ANY: Room = Room { messages: usize::MAX, bytes: u64::MAX };

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

fn filter(of: &str) -> TopicFilter {
    TopicFilter::new(text(of)).unwrap()
}

fn message(topic: &str, payload: &[u8], expires_at_ms: u64) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new(text(topic)).unwrap(),
        payload: Bytes::copy_from_slice(payload),
        qos: Qos::AtLeastOnce,
        retain: true,
        properties: petrel_proto::MessageProperties::EMPTY,
        publisher: 7,
        expires_at_ms,
    })
}

/// The store and, beside it, what should be in it, by levels. Who has published what is said by its topic.
#[derive(Default)]
struct Pair {
    store: Retained,
    model: BTreeMap<Vec<String>, Arc<Message>>,
    now_ms: u64,
    authors: Authors,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Authors {
    #[default]
    Unknown,
    Known,
    /// One of them has lost its right.
    Lost,
}

const LOST: &str = "has lost it";

fn author(topic: &TopicName) -> Option<Author> {
    let client_id = ["", LOST, "has it"][topic.as_bytes().len() % 3];
    (!client_id.is_empty()).then(|| Author::new(5, client_id, None, false))
}

fn has_lost(topic: &TopicName) -> bool {
    author(topic) == Some(Author::new(5, LOST, None, false))
}

fn levels(topic: &[u8]) -> Vec<String> {
    std::str::from_utf8(topic).unwrap().split('/').map(str::to_owned).collect()
}

impl Pair {
    fn apply(&mut self, message: &Arc<Message>) {
        let key = levels(message.topic.as_bytes());
        let author = self.author(&message.topic);
        let applied = self.store.apply(message, author.as_ref(), self.now_ms, ANY);
        if message.payload.is_empty() || message.expired(self.now_ms) {
            assert_eq!(applied, Applied::Cleared);
            self.model.remove(&key);
        } else {
            assert_eq!(applied, Applied::Kept);
            self.model.insert(key, Arc::clone(message));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        while !self.store.expire(self.now_ms) {}
        self.model.retain(|_, message| !message.expired(self.now_ms));
        self.check();
    }

    fn check(&self) {
        let bytes: usize = self.model.values().map(|message| self.cost(message)).sum();
        assert_eq!(self.store.len(), self.model.len());
        assert_eq!(self.store.bytes(), bytes as u64);
        let large = |m: &&Arc<Message>| !m.properties.is_empty() || m.payload.len() > 256;
        assert_eq!(self.store.large.len(), self.model.values().filter(large).count());
        let pages: Vec<&Page> = self.store.pages.iter().collect();
        for pair in pages.windows(2) {
            assert!(pair[0].floor < pair[1].floor, "floors ascend");
        }
        assert!(pages.iter().skip(1).all(|page| page.block.entries() > 0));
        let expiring = pages.iter().filter(|page| page.earliest_ms != u64::MAX);
        let expiring: BTreeSet<_> =
            expiring.map(|page| (page.earliest_ms, page.floor.clone())).collect();
        assert_eq!(expiring, self.store.expiring);
        for message in self.model.values() {
            assert_eq!(self.store.get(&message.topic, self.now_ms).as_ref(), Some(message));
        }
    }

    fn is_due(&self, filter: &TopicFilter, message: &Message) -> bool {
        filter.matches(&message.topic)
            && !(self.authors == Authors::Lost && has_lost(&message.topic))
    }

    fn author(&self, topic: &TopicName) -> Option<Author> {
        author(topic).filter(|_| self.authors != Authors::Unknown)
    }

    fn cost(&self, message: &Message) -> usize {
        let author = self.author(&message.topic);
        message.cost_bytes() + author.map_or(0, |author| author.as_bytes().len())
    }

    fn expected(&self, filter: &TopicFilter) -> Vec<Arc<Message>> {
        let all = self.model.values().filter(|message| self.is_due(filter, message));
        all.cloned().collect()
    }

    /// One answer, which is checked against what is there now.
    fn answer(&self, filter: &TopicFilter, after: Option<&Text>) -> Answer {
        let judge = |message: &Message, epoch: u32, bytes: &[u8]| {
            let author = self.author(&message.topic).expect("one that is known");
            assert_eq!((epoch, bytes), (author.epoch(), author.as_bytes()));
            self.authors != Authors::Lost || !has_lost(&message.topic)
        };
        let answer = self.store.answer(filter, after, self.now_ms, &judge);
        // Searches end the answer too late by one page at most, whose entries have 12 bytes or more.
        assert!(answer.looks <= ANSWER_LOOKS_MAX + 3 * SEARCH_LOOKS + PAGE_BYTES_MAX / 12);
        assert!(answer.messages.len() <= ANSWER_MESSAGES_MAX);
        let after = after.map(|after| levels(after.as_bytes()));
        let next = answer.next.as_ref().map(|next| levels(next.as_bytes()));
        assert!(next.is_none() || next > after, "the cursor goes on");
        let within = |key: &Vec<String>| {
            after.as_ref().is_none_or(|after| key > after)
                && next.as_ref().is_none_or(|next| key <= next)
        };
        let expected: Vec<_> = self
            .model
            .iter()
            .filter(|(key, message)| within(key) && self.is_due(filter, message))
            .map(|(_, message)| Arc::clone(message))
            .collect();
        assert_eq!(answer.messages, expected, "{filter:?} behind {after:?} up to {next:?}");
        answer
    }

    /// All answers to a filter.
    fn all(&self, filter: &TopicFilter) -> (Vec<Arc<Message>>, usize) {
        let (mut all, mut after, mut looks) = (Vec::new(), None, 0);
        loop {
            let answer = self.answer(filter, after.as_ref());
            all.extend(answer.messages);
            looks += answer.looks;
            after = answer.next;
            if after.is_none() {
                return (all, looks);
            }
        }
    }
}

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "b", "ab", "a\u{1}", "b c", "$", "$S", "\u{1}", "ü", "zz"])
}

fn topic() -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(level(), 1..6).prop_map(|levels| levels.join("/"));
    levels.prop_filter("a topic has a byte", |topic| !topic.is_empty())
}

fn pattern() -> impl Strategy<Value = String> {
    let wild = prop_oneof![2 => level(), 2 => Just("+")];
    (prop::collection::vec(wild, 0..6), prop::bool::weighted(0.4)).prop_filter_map(
        "a filter has a byte",
        |(mut levels, tail)| {
            if tail {
                levels.push("#");
            }
            Some(levels.join("/")).filter(|filter| !filter.is_empty())
        },
    )
}

fn authors() -> impl Strategy<Value = Authors> {
    prop::sample::select(vec![Authors::Unknown, Authors::Known, Authors::Lost])
}

#[derive(Debug, Clone)]
enum Step {
    Apply(String, Vec<u8>, Option<u64>),
    Properties(String),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        2 => Just(Vec::new()),
        6 => prop::collection::vec(any::<u8>(), 1..40),
        1 => Just(vec![3; 257]),
    ];
    let expiry = prop::option::weighted(0.3, 1u64..20);
    prop_oneof![
        20 => (topic(), payload, expiry).prop_map(|(t, p, e)| Step::Apply(t, p, e)),
        2 => topic().prop_map(Step::Properties),
        1 => (0u64..6).prop_map(Step::Pass),
    ]
}

impl Step {
    fn take(&self, pair: &mut Pair) {
        match self {
            Self::Apply(topic, payload, expiry) => {
                let expires_at_ms = expiry.map_or(u64::MAX, |ms| pair.now_ms + ms);
                pair.apply(&message(topic, payload, expires_at_ms));
            }
            Self::Properties(topic) => {
                let mut with = message(topic, b"with", u64::MAX);
                let properties =
                    MessageFields { content_type: Some(text("x")), ..Default::default() };
                Arc::make_mut(&mut with).properties = MessageProperties::of(&properties).unwrap();
                pair.apply(&with);
            }
            Self::Pass(ms) => pair.pass(*ms),
        }
    }
}

proptest! {
    /// [MQTT5-4.7.1-2] [MQTT5-4.7.2-1]
    #[test]
    fn answers_are_what_the_filter_matches(
        steps in prop::collection::vec(step(), 1..150),
        filters in prop::collection::vec(pattern(), 1..12),
        authors in authors(),
    ) {
        let mut pair = Pair { authors, ..Pair::default() };
        for step in &steps {
            step.take(&mut pair);
        }
        pair.check();
        for of in filters.iter().map(|of| filter(of)).chain([filter("#"), filter("+/#")]) {
            prop_assert_eq!(pair.all(&of).0, pair.expected(&of));
        }
    }

    /// [MQTT5-3.3.1-9] What comes and goes between the answers of a cursor moves nothing else.
    #[test]
    fn a_cursor_survives_changes(
        steps in prop::collection::vec(step(), 30..150),
        changes in prop::collection::vec(prop::collection::vec(step(), 0..8), 1..20),
        of in pattern(),
        authors in authors(),
    ) {
        let (mut pair, of) = (Pair { authors, ..Pair::default() }, filter(&of));
        for step in &steps {
            step.take(&mut pair);
        }
        let topics = |pair: &Pair| -> BTreeSet<Vec<String>> {
            let matching = pair.model.iter().filter(|(_, m)| pair.is_due(&of, m));
            matching.map(|(key, _)| key.clone()).collect()
        };
        let (mut always, mut got, mut after) = (topics(&pair), Vec::new(), None);
        let mut changes = changes.iter();
        loop {
            let answer = pair.answer(&of, after.as_ref());
            got.extend(answer.messages.iter().map(|message| levels(message.topic.as_bytes())));
            after = answer.next;
            if after.is_none() {
                break;
            }
            for step in changes.next().into_iter().flatten() {
                step.take(&mut pair);
                always = &always & &topics(&pair);
            }
        }
        prop_assert!(got.windows(2).all(|two| two[0] < two[1]), "in order, and each once: {got:?}");
        prop_assert!(always.iter().all(|topic| got.binary_search(topic).is_ok()));
    }
}

/// Topics `site/device/name` of so many sites and devices, and one more name where it is told.
fn plant(sites: u32, devices: u32, names: &[&str]) -> Pair {
    let mut pair = Pair::default();
    for site in 0..sites {
        for device in 0..devices {
            for name in names {
                pair.apply(&message(&format!("s{site}/d{device}/{name}"), b"m", u64::MAX));
            }
        }
    }
    pair
}

#[test]
fn what_cannot_match_is_not_looked_at() {
    let mut pair = plant(30, 30, &["a", "b", "c", "d"]);
    pair.apply(&message("s7/d7/state", b"m", u64::MAX));
    let looks = |of: &str, results: usize| {
        let (found, looks) = pair.all(&filter(of));
        assert_eq!(found.len(), results, "{of}");
        looks
    };
    // A page holds some 8 topics; each search counts 16.
    assert!(looks("s7/d7/state", 1) <= 16);
    assert!(looks("s7/+/state", 1) <= 30 * 32);
    assert!(looks("s7/d7/#", 5) <= 64);
    assert!(looks("nobody/+/c", 0) <= 32);
    assert!(looks("+/d7/c", 30) <= 30 * 64);
    let all = pair.store.len();
    let per_answer = SEARCH_LOOKS + 8;
    assert!(looks("#", all) <= all + all.div_ceil(ANSWER_MESSAGES_MAX) * per_answer);
}

/// A name that no topic has, behind a wildcard: each name of the level above costs a look or a
/// search, and never more than that at once.
#[test]
fn a_filter_that_matches_nothing_is_answered_in_pieces() {
    let pair = plant(2_000, 1, &["on"]);
    let of = filter("+/x");
    let (mut after, mut answers) = (None, 0);
    loop {
        let answer = pair.answer(&of, after.as_ref());
        assert!(answer.messages.is_empty());
        after = answer.next;
        answers += 1;
        if after.is_none() {
            break;
        }
    }
    assert!(answers >= 2_000 / ANSWER_LOOKS_MAX, "{answers} answers");
    assert!(pair.all(&of).1 <= 2_000 * 2 + answers * (2 * SEARCH_LOOKS + 8));
}

#[test]
fn messages_and_bytes_are_bounded() {
    let mut store = Retained::default();
    let room = Room { messages: 2, bytes: 20 };
    let mut apply = |topic: &str, payload: &[u8]| {
        let applied = store.apply(&message(topic, payload, u64::MAX), None, 0, room);
        (applied, store.len(), store.bytes())
    };
    assert_eq!(apply("a", b"1234"), (Applied::Kept, 1, 5));
    assert_eq!(apply("b", b"1234"), (Applied::Kept, 2, 10));
    assert_eq!(apply("c", b"1234"), (Applied::NoRoom, 2, 10));
    assert_eq!(apply("a", &[1; 14]), (Applied::Kept, 2, 20));
    assert_eq!(apply("b", &[1; 5]), (Applied::NoRoom, 1, 15), "the old one is not left");
    assert_eq!(apply("a", b""), (Applied::Cleared, 0, 0));
    assert_eq!(apply("a", &[1; 300]), (Applied::NoRoom, 0, 0));
}

/// With fewer shards than before, one of them may hold more than its part.
#[test]
fn a_replacement_that_takes_no_more_always_has_room() {
    let mut store = Retained::default();
    for topic in ["a", "b", "c"] {
        store.apply(&message(topic, b"1234", u64::MAX), None, 0, ANY);
    }
    let room = Room { messages: 1, bytes: 1 };
    assert_eq!(store.apply(&message("a", b"4321", u64::MAX), None, 0, room), Applied::Kept);
    assert_eq!(store.apply(&message("d", b"1", u64::MAX), None, 0, room), Applied::NoRoom);
    assert_eq!((store.len(), store.bytes()), (3, 15));
}

/// [MQTT5-3.3.2-5]
#[test]
fn expiry_is_done_in_pieces() {
    let mut pair = Pair::default();
    for number in 0..500 {
        pair.apply(&message(&format!("t/{number}"), b"m", 10 + number % 2));
    }
    let mut calls = 0;
    while !pair.store.expire(10) {
        calls += 1;
    }
    assert_eq!(pair.store.len(), 250);
    assert!(calls > 500 * 12 / PAGE_BYTES_MAX / EXPIRED_PAGES_MAX / 2, "{calls} calls");
    pair.pass(11);
    assert_eq!((pair.store.len(), pair.store.pages.iter().count()), (0, 1));
}
