//! Recordings of what happens to clients and topics in a broker that runs.

mod common;

use std::net::SocketAddr;
use std::time::Instant;

use common::{
    Client, PATIENCE, RUNTIMES, broker, config, connect_packet, publish_packet, start, text,
    with_users,
};
use petrel_access::passwords::{Cost, hash};
use petrel_engine::boot::Running;
use petrel_engine::trace::{About, BYTES_MIN, READ_MAX, Spec, State, WhenFull};
use petrel_proto::{Packet, Qos, TopicFilter, Version};
use petrel_shard::{ShardIndex, SlotMap, Subject};
use serde_json::Value;

fn topic(filter: &str) -> Spec {
    let filter = TopicFilter::new(text(filter)).expect("a filter");
    Spec::new("test".into(), Subject::Topic(filter))
}

fn client(id: &str) -> Spec {
    Spec::new("test".into(), Subject::ClientId(text(id)))
}

/// A client identifier of this shard of two.
fn on(shard: u16, stem: &str) -> String {
    let slots = SlotMap::even(2);
    let mut candidates = (0..).map(|number| format!("{stem}{number}"));
    let is_there = |id: &String| slots.home_of(id.as_bytes()) == ShardIndex(shard);
    candidates.find(is_there).expect("some are")
}

/// The entries of a recording once one of them is this event, which is the last that is waited for.
fn entries_until(broker: &Running, id: u64, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let begin = Instant::now();
    loop {
        let (entries, _) = broker.traces().json(id, 0, READ_MAX).expect("it is there");
        if entries.iter().any(&last) {
            return entries;
        }
        assert!(begin.elapsed() < PATIENCE, "not among {entries:#?}");
        std::thread::yield_now();
    }
}

fn until(broker: &Running, id: u64, is_it: impl Fn(&About) -> bool) -> About {
    let begin = Instant::now();
    loop {
        let about = broker.traces().about(id).expect("it is there");
        if is_it(&about) {
            return about;
        }
        assert!(begin.elapsed() < PATIENCE, "{about:?}");
        std::thread::yield_now();
    }
}

/// Who, what, and the kind of packet.
fn brief(entry: &Value) -> String {
    let word = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
    let (who, event) = (word("client_id"), word("event"));
    match event.as_str() {
        "packet_in" | "packet_out" => format!("{who} {event} {}", word("packet")),
        _ => format!("{who} {event}"),
    }
}

fn is_event(name: &str) -> impl Fn(&Value) -> bool {
    let name = name.to_owned();
    move |entry| entry["event"] == *name
}

/// A client of a listener that asks who it is.
fn login(address: SocketAddr, id: &str, user: &str) -> Client {
    let mut client = Client::open(address);
    let Packet::Connect(mut connect) = connect_packet(id, Version::V5) else { unreachable!() };
    (connect.username, connect.password) = (Some(text(user)), Some("s3cret".into()));
    client.send(&Packet::Connect(connect));
    assert!(matches!(client.receive(), Some(Packet::ConnAck(it)) if it.reason as u8 == 0));
    client
}

const RULES: &str = "[[rule]]\nallow = \"both\"\ntopics = [\"a/#\"]\n\
                     [[rule]]\ndeny = \"publish\"\ntopics = [\"a/secret\"]\n";

/// The blocks of this kind that docs/operate/TRACES.md shows.
fn shown(kind: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/operate/TRACES.md");
    let begin = format!("```{kind}\n");
    let parts = page.split(&begin).skip(1);
    parts.map(|rest| rest.split("```").next().expect("an end")).collect()
}

/// A line of a recording without what differs from run to run: time, port, and what the listener is called.
fn shape(line: &str) -> String {
    let (time, rest) = line.split_once(' ').expect("a time");
    assert!(time.ends_with('Z'), "{line}");
    let Some((who, after)) = rest.split_once("(127.0.0.1") else { return rest.to_owned() };
    let (place, after) = after.split_once(')').expect("an end");
    let port = if place.starts_with(':') { ":PORT" } else { "" };
    format!("{who}(127.0.0.1{port} at LISTENER){after}")
}

/// The lines of each shard are those that are shown, in their order.
#[track_caller]
fn hold(block: usize, count: usize, lines: &[String]) {
    let blocks = shown("text");
    assert_eq!(blocks.len(), 3, "recordings that are shown");
    let shown: Vec<_> = blocks[block].lines().map(shape).collect();
    let lines: Vec<_> = lines[lines.len() - count..].iter().map(|line| shape(line)).collect();
    for shard in ["shard 0 ", "shard 1 "] {
        let of = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| line.starts_with(shard)).cloned().collect()
        };
        assert_eq!(of(&lines), of(&shown));
    }
}

/// An entry of a recording has the keys of the one that is shown, with values of the same type.
#[track_caller]
fn hold_json(entries: &[Value]) {
    let [text] = shown("json")[..] else { panic!("one entry is shown") };
    let shown: Value = serde_json::from_str(text).expect("JSON");
    let is_it = |it: &&Value| it["event"] == shown["event"] && it["packet"] == shown["packet"];
    let entry = entries.iter().find(is_it).expect("it is there");
    let mut same = entry.clone();
    for key in ["connection", "time", "time_us"] {
        assert_eq!(
            std::mem::discriminant(&entry[key]),
            std::mem::discriminant(&shown[key]),
            "{key} of {entry}"
        );
        same[key] = shown[key].clone();
    }
    assert_eq!(same, shown);
}

#[test]
fn a_message_is_seen_from_publish_to_puback_across_shards() {
    for runtime in RUNTIMES {
        let hashed = hash(b"s3cret", Cost { memory_kib: 64, passes: 1 }).expect("in bounds");
        let users = format!("alice:{hashed}\n");
        let (broker, _folder) = with_users(runtime, "passwords", &users, RULES);
        let address = broker.addresses()[0];
        let (from, to) = (on(0, "from"), on(1, "to"));
        let mut publisher = login(address, &from, "alice");
        let mut subscriber = login(address, &to, "alice");
        subscriber.subscribe("a/+", Qos::AtLeastOnce);
        let id = broker.traces().begin(topic("a/#")).expect("room");
        publisher.send(&publish_packet("a/b", "hello", Qos::AtLeastOnce, 7));
        assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
        subscriber.receive_publish();
        let entries = entries_until(&broker, id, is_event("delivered"));
        let seen: Vec<_> = entries.iter().map(brief).collect();
        let expected = [
            format!("{from} packet_in PUBLISH"),
            format!("{from} right"),
            format!("{from} routed"),
            format!("{from} packet_out PUBACK"),
            "- from_shard".to_owned(),
            "- routed".to_owned(),
            format!("{to} packet_out PUBLISH"),
            format!("{to} packet_in PUBACK"),
            format!("{to} delivered"),
        ];
        // What the shards do at the same time stands in the order of their clocks.
        let of = |shard: u16, lines: &[String]| -> Vec<String> {
            let mine = lines.iter().zip(&entries).filter(|(_, entry)| entry["shard"] == shard);
            mine.map(|(line, _)| line.clone()).collect()
        };
        assert_eq!(of(0, &seen), expected[..4]);
        assert_eq!(of(1, &seen), expected[4..]);
        let of =
            |event: &str| entries.iter().find(|it| it["event"] == *event).expect("it is there");
        assert_eq!(of("right")["allowing_rule"], 1);
        assert_eq!(of("right")["allowed"], true);
        assert_eq!(of("routed")["shards"], serde_json::json!([1]));
        assert_eq!(of("packet_in")["payload"], "hello");
        let times: Vec<_> =
            entries.iter().map(|it| it["time_us"].as_u64().expect("a time")).collect();
        assert!(times.is_sorted());
        let (lines, next) = broker.traces().text(id, 0, READ_MAX).expect("it is there");
        assert_eq!((lines.len(), next), (entries.len(), entries.len() as u64));
        assert!(lines[0].contains("-> PUBLISH 'a/b' packet_id=7 qos=1"), "{}", lines[0]);
        assert!(lines.iter().any(|it| it.contains("may publish this: rule 1 allows it")));
        assert!(lines.iter().any(|it| it.ends_with("'a/b': goes to shard 1")), "{lines:#?}");
        hold(0, 9, &lines);
        hold_json(&entries);

        let id = broker.traces().begin(client(&from)).expect("room");
        publisher.send(&publish_packet("a/secret", "x", Qos::AtLeastOnce, 8));
        assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
        let is_puback = |entry: &Value| entry["packet"] == "PUBACK";
        let entries = entries_until(&broker, id, is_puback);
        let seen: Vec<_> = entries.iter().map(brief).collect();
        let expected = ["packet_in PUBLISH", "right", "refused", "packet_out PUBACK"]
            .map(|it| format!("{from} {it}"));
        assert_eq!(seen, expected);
        assert_eq!(entries[1]["denying_rule"], 2);
        assert_eq!(entries[2]["why"], "not authorised");
        assert_eq!(entries[3]["reason_code"], 0x87);
        hold(1, 4, &broker.traces().text(id, 0, READ_MAX).expect("it is there").0);
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_queue_that_is_full_is_seen() {
    for runtime in RUNTIMES {
        let mut config = config(2, runtime);
        config.limits.session_queue_messages = 2;
        let broker = start(config);
        let address = broker.addresses()[0];
        let (from, to) = (on(0, "from"), on(1, "to"));
        let mut away = Client::open(address);
        let Packet::Connect(mut connect) = connect_packet(&to, Version::V5) else { unreachable!() };
        connect.properties.session_expiry_interval_s = Some(1_000);
        connect.password = Some("s3cret".into());
        connect.username = Some(text("somebody"));
        let id = broker.traces().begin(client(&to)).expect("room");
        away.send(&Packet::Connect(connect));
        assert!(matches!(away.receive(), Some(Packet::ConnAck(_))));
        away.subscribe("t", Qos::AtLeastOnce);
        drop(away);
        entries_until(&broker, id, is_event("ended"));
        let mut publisher = Client::connect(address, &from, Version::V5);
        for packet_id in 1..=3 {
            publisher.send(&publish_packet("t", "x", Qos::AtLeastOnce, packet_id));
            assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
        }
        let entries = entries_until(&broker, id, is_event("dropped"));
        let seen: Vec<_> = entries.iter().map(brief).collect();
        let expected = [
            "packet_in CONNECT",
            "connected",
            "packet_out CONNACK",
            "packet_in SUBSCRIBE",
            "right",
            "packet_out SUBACK",
            "ended",
            "queued",
            "queued",
            "dropped",
        ];
        assert_eq!(seen, expected.map(|it| format!("{to} {it}")));
        assert_eq!(entries[9]["why"], "queue full");
        assert_eq!(entries[0]["address"], "127.0.0.1");
        assert_eq!(entries[0]["listener"], "test");
        assert_eq!(entries[0]["password"], true);
        let (lines, _) = broker.traces().text(id, 0, READ_MAX).expect("it is there");
        let all = format!("{lines:?} {entries:?}");
        assert!(!all.contains("s3cret"), "{all}");
        hold(2, 4, &lines);
        let stopped = broker.traces().stop(id).expect("it is there");
        assert_eq!(stopped.state, State::Stopped);
        broker.stop().expect("it stops");
    }
}

#[test]
fn bounds_of_time_and_of_bytes_hold() {
    for runtime in RUNTIMES {
        let broker = broker(2, runtime);
        let address = broker.addresses()[0];
        let (from, to) = (on(0, "from"), on(1, "to"));
        let mut publisher = Client::connect(address, &from, Version::V5);
        let mut subscriber = Client::connect(address, &to, Version::V3_1_1);
        subscriber.subscribe("t", Qos::AtMostOnce);
        let begin = |spec: Spec| broker.traces().begin(spec).expect("room");
        let full = begin(Spec { bytes: BYTES_MIN, ..topic("#") });
        let newest =
            begin(Spec { bytes: BYTES_MIN, when_full: WhenFull::DropOldest, ..topic("#") });
        let short = begin(Spec { seconds: 1, ..topic("#") });
        for number in 0..200 {
            publisher.send(&publish_packet("t", format!("{number}"), Qos::AtMostOnce, 0));
            subscriber.receive_publish();
        }
        let about = until(&broker, full, |about| about.state == State::Full);
        assert!(about.bytes <= BYTES_MIN && about.dropped == 0, "{about:?}");
        let about = until(&broker, short, |about| about.state == State::TimeOver);
        assert!(about.ends_at_us - about.begun_at_us <= 1_000_000, "{about:?}");
        // Another says that everything before has arrived.
        let last = |entry: &Value| entry["event"] == "packet_out" && entry["payload"] == "199";
        let entries = entries_until(&broker, newest, last);
        let about = broker.traces().about(newest).expect("it is there");
        assert!(about.dropped > 0 && about.bytes <= BYTES_MIN, "{about:?}");
        assert_eq!(about.state, State::Running);
        assert!(entries.len() < 200);
        let held = about.first;
        let (entries, next) = broker.traces().json(newest, 0, 1).expect("it is there");
        assert_eq!((entries.len(), next), (1, held + 1));
        assert!(broker.traces().delete(newest));
        broker.stop().expect("it stops");
    }
}
