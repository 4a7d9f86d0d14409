//! Retained messages at scale: what one takes in memory, and what it costs to find it.
//!
//! Topics have five levels, `plant/SITE/line-LINE/device-DEVICE/NAME`, with ten names to a device, 20
//! sites and 10 lines at each, and come in no order. `passed` has them all in the first of two levels.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_proto::{Qos, Text, TopicFilter, TopicName};
use petrel_shard::Message;
use petrel_shard::retained::{Answer, Applied, Retained, Room};

use crate::callgrind::{self, measured};
use crate::heap::Count;

const NAMES: [&str; 10] = [
    "battery",
    "config",
    "current",
    "firmware",
    "humidity",
    "pressure",
    "status",
    "temperature",
    "uptime",
    "voltage",
];
/// Bytes of every payload.
const PAYLOAD: &[u8] = b"22.50 C ";
const ROOM: Room = Room { messages: usize::MAX, bytes: u64::MAX };
/// What has so many topics takes minutes to build where instructions are counted.
const COUNTED_TOPICS_MAX: u32 = 1_000_000;

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// Its name on the command line.
    pub name: &'static str,
    filter: &'static str,
    topic: fn(u32) -> String,
    /// What its cost is divided by.
    per: &'static str,
    /// Times that a count of instructions is taken over.
    rounds: u32,
}

/// All questions.
pub const QUESTIONS: [Question; 5] = [
    Question {
        name: "exact",
        filter: "plant/3/line-4/device-DEVICE/temperature",
        topic: in_plant,
        per: "look-up",
        rounds: 1000,
    },
    Question {
        name: "plus",
        filter: "plant/+/line-4/+/temperature",
        topic: in_plant,
        per: "result",
        rounds: 3200,
    },
    Question { name: "all", filter: "#", topic: in_plant, per: "result", rounds: 9600 },
    Question {
        name: "leading",
        filter: "+/+/+/+/temperature",
        topic: in_plant,
        per: "result",
        rounds: 960,
    },
    Question { name: "passed", filter: "+/x", topic: flat, per: "name passed", rounds: 10_000 },
];

fn in_plant(number: u32) -> String {
    let (device, name) = (number / 10, NAMES[number as usize % 10]);
    format!("plant/{}/line-{}/device-{device:07}/{name}", device % 20, device / 20 % 10)
}

fn flat(number: u32) -> String {
    format!("device-{number:08}/state")
}

fn text(text: &str) -> Text {
    Text::try_from(text).expect("a valid string")
}

/// A store with so many topics.
fn filled(question: &Question, topics: u32) -> Retained {
    let mut store = Retained::default();
    for number in 0..topics {
        // Odd and not a multiple of 5, so that each number comes once.
        let number = (u64::from(number) * 7_919_237 % u64::from(topics)) as u32;
        let topic = TopicName::new(text(&(question.topic)(number))).expect("a valid name");
        let message = Message {
            topic,
            payload: Bytes::from_static(PAYLOAD),
            qos: Qos::AtLeastOnce,
            retain: true,
            properties: petrel_proto::MessageProperties::EMPTY,
            publisher: 1,
            expires_at_ms: u64::MAX,
        };
        assert_eq!(store.apply(&Arc::new(message), None, 0, ROOM), Applied::Kept);
    }
    assert_eq!(store.len(), topics as usize, "every topic is another");
    store
}

/// The filters of a question; a new one for each look-up.
fn filter(question: &Question, round: u32, topics: u32) -> TopicFilter {
    let of = match question.name {
        "exact" => in_plant(round.wrapping_mul(7919) % topics),
        _ => question.filter.to_owned(),
    };
    TopicFilter::new(text(&of)).expect("a valid filter")
}

/// What was found, or passed, until `enough`, from the beginning again where the end comes before.
fn asked(
    store: &Retained,
    question: &Question,
    enough: u32,
    ask: &mut dyn FnMut(&TopicFilter, Option<&Text>) -> Answer,
) -> Asked {
    let mut all = Asked::default();
    let mut after: Option<Text> = None;
    while all.units < u64::from(enough) {
        let filter = filter(question, all.answers as u32, store.len() as u32);
        let answer = ask(&filter, after.as_ref());
        all.answers += 1;
        all.looks += answer.looks as u64;
        all.units += answer.messages.len() as u64;
        after = answer.next;
        if question.name == "passed" && after.is_none() {
            all.units += store.len() as u64;
        }
    }
    all
}

#[derive(Debug, Default)]
struct Asked {
    units: u64,
    answers: u64,
    looks: u64,
}

/// One question as it is counted: instructions of the answers to so many results.
pub fn counted(name: &str, topics: u32) -> Result<(), String> {
    let question = named(name)?;
    let store = filled(question, topics);
    let enough = if question.name == "passed" { topics } else { question.rounds };
    let asked = asked(&store, question, enough, &mut |filter, after| {
        let mut answer = Answer::default();
        measured(&mut || answer = black_box(&store).answer(filter, after, 0, &|_, _, _| true));
        answer
    });
    assert_eq!(asked.units, u64::from(enough), "what is counted is what is divided by");
    Ok(())
}

/// How often a case of the gate repeats a question.
pub fn rounds(name: &str, topics: u32) -> u32 {
    match named(name) {
        Ok(question) if question.name == "passed" => topics,
        Ok(question) => question.rounds,
        Err(_) => 0,
    }
}

fn named(name: &str) -> Result<&'static Question, String> {
    let found = QUESTIONS.iter().find(|question| question.name == name);
    found.ok_or_else(|| format!("there is no question {name:?}"))
}

/// Writes a table of everything over so many topics.
///
/// # Errors
/// Valgrind fails.
pub fn report(topics: u32) -> Result<(), String> {
    println!("{topics} topics, payloads of {} bytes", PAYLOAD.len());
    for flat_names in [false, true] {
        let of = |question: &&Question| (question.name == "passed") == flat_names;
        let questions: Vec<&Question> = QUESTIONS.iter().filter(of).collect();
        let count = Count::begin();
        let begin = Instant::now();
        let store = filled(questions[0], topics);
        let took = begin.elapsed();
        let held = count.end();
        let each = |bytes: i64| bytes as f64 / f64::from(topics);
        let names = store.bytes() as f64 / f64::from(topics) - PAYLOAD.len() as f64;
        println!(
            "topics of {names:.0} bytes: {:.1} bytes each asked for, {:.1} of the heap; {:.0} ns to \
             retain one",
            each(held.held_bytes),
            each(held.heap_bytes),
            nanoseconds(took, u64::from(topics)),
        );
        for question in questions {
            ask_all(&store, question, topics)?;
        }
    }
    Ok(())
}

fn ask_all(store: &Retained, question: &Question, topics: u32) -> Result<(), String> {
    let (mut most, mut sum) = (0, Duration::ZERO);
    let enough = if question.name == "exact" { 100_000.min(topics) } else { 1 };
    let mut one_pass = enough;
    if matches!(question.name, "plus" | "all" | "leading") {
        let pattern = filter(question, 0, topics);
        let (mut results, mut after) = (0, None);
        loop {
            let answer = store.answer(&pattern, after.as_ref(), 0, &|_, _, _| true);
            results += answer.messages.len() as u32;
            after = answer.next;
            if after.is_none() {
                break;
            }
        }
        one_pass = results;
    }
    let asked = asked(store, question, one_pass, &mut |filter, after| {
        let begin = Instant::now();
        let answer = store.answer(filter, after, 0, &|_, _, _| true);
        (most, sum) = (most.max(answer.looks), sum + begin.elapsed());
        answer
    });
    let instructions = match callgrind::version() {
        Some(_) if topics <= COUNTED_TOPICS_MAX => {
            let counted = callgrind::count(&["retained-case", question.name, &topics.to_string()])?;
            let rounds = f64::from(rounds(question.name, topics));
            format!("{:.0} instructions, ", counted as f64 / rounds)
        }
        _ => String::new(),
    };
    println!(
        "{:8} {:42} {:9} of {:8} answers; per {}: {instructions}{:.2} looks, {:.0} ns; at most {most} \
         looks an answer",
        question.name,
        question.filter,
        asked.units,
        asked.answers,
        question.per,
        asked.looks as f64 / asked.units as f64,
        nanoseconds(sum, asked.units),
    );
    Ok(())
}

fn nanoseconds(of: Duration, count: u64) -> f64 {
    of.as_nanos() as f64 / count.max(1) as f64
}
