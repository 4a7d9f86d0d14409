//! What instructions are counted of.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use petrel_net::tls::RecordLayer;
use petrel_proto::{Frame, Packet, Qos, Text, TopicFilter, decode, encode, frame};
use petrel_shard::Input;
use petrel_shard::level_hash::{HashKey, TopicLevels};
use petrel_shard::matcher::Matcher;

use crate::callgrind::{self, measured};
use crate::crossing::crossed;
use crate::figure::{Figure, Figures};
use crate::matching;
use crate::packets::{self, VERSION, bytes};
use crate::retained;
use crate::rig::{Rig, conn};
use crate::rules;
use crate::sockets::{CountedBy, counted};
use crate::syscalls;
use crate::tls::{Peers, record};

/// What layout and inlining may change without a change in what is done, in percent.
const TOLERANCE_PERCENT: f64 = 2.0;
/// The same for generic code of other crates, which is compiled anew with each program.
const GENERIC_TOLERANCE_PERCENT: f64 = 5.0;

/// One thing that is counted so many times.
struct Case {
    name: &'static str,
    rounds: u32,
    run: fn(u32),
}

const fn case(name: &'static str, rounds: u32, run: fn(u32)) -> Case {
    Case { name, rounds, run }
}

const TOPIC: &str = "plant/1/line/2/temperature";

const CASES: &[Case] = &[
    case("decode PUBLISH", 100, |rounds| decoded(rounds, &publish(Qos::AtMostOnce))),
    case("decode CONNECT", 100, |rounds| decoded(rounds, &packets::connect(1, 60, false))),
    case("decode SUBSCRIBE", 100, |rounds| decoded(rounds, &subscribe())),
    case("encode PUBLISH", 100, |rounds| encoded(rounds, &publish(Qos::AtMostOnce))),
    case("encode CONNECT", 100, |rounds| encoded(rounds, &packets::connect(1, 60, false))),
    case("encode SUBSCRIBE", 100, |rounds| encoded(rounds, &subscribe())),
    case("match by masks, 10,000 filters", 1000, |rounds| matched(rounds, 10_000, by_mask)),
    case("match by trie, 2,048 filters", 100, |rounds| matched(rounds, 2_048, by_trie)),
    case("match mix1, 100,000 filters", 2000, |n| looked_up(n, "mix1", "match")),
    case("match mix2, 100,000 filters", 2000, |n| looked_up(n, "mix2", "match")),
    case("match hostile15, 100,000 filters", 96, |n| looked_up(n, "hostile15", "match")),
    case("interest mix1, 100,000 filters", 2000, |n| looked_up(n, "mix1", "interest")),
    case("interest mix2, 100,000 filters", 2000, |n| looked_up(n, "mix2", "interest")),
    case("interest hostile15, 100,000 filters", 96, |n| looked_up(n, "hostile15", "interest")),
    case("route to another shard", 1000, routed),
    case("mesh, send, 64 together", 6400, |messages| crossed(messages, true)),
    case("mesh, receive, 64 together", 6400, |messages| crossed(messages, false)),
    case("handle CONNECT", 1000, connected),
    case("handle SUBSCRIBE", 1000, subscribed),
    case("handle UNSUBSCRIBE", 1000, unsubscribed),
    case("handle PINGREQ", 1000, |rounds| handled(rounds, &Packet::PingReq)),
    case("handle DISCONNECT", 1000, disconnected),
    case("handle PUBLISH qos0 to nobody", 1000, |n| published(n, Qos::AtMostOnce, 0)),
    case("handle PUBLISH qos1 to nobody", 1000, |n| published(n, Qos::AtLeastOnce, 0)),
    case("handle PUBLISH qos2 to nobody", 1000, |n| published(n, Qos::ExactlyOnce, 0)),
    case("handle PUBLISH qos0 to 1", 1000, |n| published(n, Qos::AtMostOnce, 1)),
    case("handle PUBLISH qos0 to 1 by rules", 1000, |n| {
        published_by(n, Qos::AtMostOnce, with_subscribers_of(Rig::with_rules(), 1), 1);
    }),
    case("rules, may it publish, 100,000 rules", 1000, |n| rules::decided(n, false)),
    case("rules, may it subscribe, 100,000 rules", 1000, |n| rules::decided(n, true)),
    case("handle PUBLISH qos1 to 1", 1000, |n| published(n, Qos::AtLeastOnce, 1)),
    case("handle PUBLISH qos2 to 1", 1000, |n| published(n, Qos::ExactlyOnce, 1)),
    case("handle PUBLISH qos0 to 100", 200, |n| published(n, Qos::AtMostOnce, 100)),
    case("handle PUBLISH qos1 to 100", 200, |n| published(n, Qos::AtLeastOnce, 100)),
    case("message qos0 to 1, bytes to bytes", 1000, |n| whole(n, Qos::AtMostOnce, 1)),
    case("message qos0 to 1, bytes to bytes, each topic once", 1000, once),
    case("message qos1 to 1, bytes to bytes", 1000, |n| whole(n, Qos::AtLeastOnce, 1)),
    case("message qos2 to 1, bytes to bytes", 1000, |n| whole(n, Qos::ExactlyOnce, 1)),
    case("message qos0 to 100, bytes to bytes", 200, |n| whole(n, Qos::AtMostOnce, 100)),
    case("message qos1 to 100, bytes to bytes", 200, |n| whole(n, Qos::AtLeastOnce, 100)),
    case("handle PUBACK", 1000, acknowledged),
    case("handle PUBREC", 1000, |rounds| completed(rounds, Step::Received)),
    case("handle PUBREL", 1000, |rounds| completed(rounds, Step::Released)),
    case("handle PUBCOMP", 1000, |rounds| completed(rounds, Step::Complete)),
    case("retained, exact, 10,000 topics", 1000, |n| answered(n, "exact")),
    case("retained, a/+/c, 10,000 topics", 3200, |n| answered(n, "plus")),
    case("retained, #, 10,000 topics", 9600, |n| answered(n, "all")),
    case("retained, +/x, 10,000 topics", 10_000, |n| answered(n, "passed")),
    case("message qos0 to 1, socket to socket, 64 together", 6400, |messages| {
        counted(messages / 64, Qos::AtMostOnce, 64, CountedBy::Callgrind);
    }),
    case("message qos1 to 1, socket to socket", 100, |n| {
        counted(n, Qos::AtLeastOnce, 1, CountedBy::Callgrind);
    }),
    case("tls rustls, open 100 bytes", 200, |rounds| opened(rounds, RecordLayer::Rustls)),
    case("tls rustls, seal 100 bytes", 200, |rounds| sealed(rounds, RecordLayer::Rustls)),
    case("tls compact, open 100 bytes", 200, |rounds| opened(rounds, RecordLayer::Compact)),
    case("tls compact, seal 100 bytes", 200, |rounds| sealed(rounds, RecordLayer::Compact)),
];

/// What system calls are counted of: those of the broker in turns over real sockets, whoever makes them.
const TRACED: &[Case] = &[
    case("sockets, qos0, 1 together", 100, |n| counted(n, Qos::AtMostOnce, 1, CountedBy::Tracer)),
    case("sockets, qos0, 64 together", 100, |n| counted(n, Qos::AtMostOnce, 64, CountedBy::Tracer)),
    case("sockets, qos1, 1 together", 100, |n| counted(n, Qos::AtLeastOnce, 1, CountedBy::Tracer)),
];

/// Runs one case, to be counted.
///
/// # Errors
/// There is none of this name.
pub fn run(name: &str) -> Result<(), String> {
    let case = CASES.iter().chain(TRACED).find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name:?}"))?;
    (case.run)(case.rounds);
    Ok(())
}

/// Prints where the instructions of a case go.
///
/// # Errors
/// There is none of this name, or valgrind fails.
pub fn profile(name: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name:?}"))?;
    let functions = callgrind::by_function(&["case", case.name])?;
    let each = |cost: u64| cost as f64 / f64::from(case.rounds);
    println!("{:8.1} in all", each(functions.iter().map(|(_, cost)| cost).sum()));
    for (function, cost) in functions.iter().filter(|(_, cost)| each(*cost) >= 1.0) {
        println!("{:8.1} {function}", each(*cost));
    }
    Ok(())
}

/// Counts the instructions of every case, in a process each, and the system calls of turns.
///
/// # Errors
/// Valgrind or a case fails.
pub fn count() -> Result<Figures, String> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(case) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let counted = callgrind::count(&["case", case.name]);
                    results.lock().expect("no worker panics with it").push((case, counted));
                }
            });
        }
    });
    let mut figures = Figures::here();
    for (case, counted) in results.into_inner().expect("no worker panics with it") {
        let each = counted? as f64 / f64::from(case.rounds);
        let tolerance_percent = match case.name.split(' ').next() {
            Some("tls" | "encode") => GENERIC_TOLERANCE_PERCENT,
            _ => TOLERANCE_PERCENT,
        };
        figures.add(case.name, Figure::within(each, "instructions", tolerance_percent));
    }
    for case in TRACED {
        let each = f64::from(syscalls::count(&["case", case.name])?) / f64::from(case.rounds);
        let name = format!("{}: system calls", case.name);
        figures.add(name, Figure::within(each, "per turn", TOLERANCE_PERCENT));
    }
    Ok(figures)
}

fn publish(qos: Qos) -> Packet {
    packets::publish(TOPIC, qos, 7)
}

fn subscribe() -> Packet {
    packets::subscribe(TOPIC, Qos::AtLeastOnce)
}

fn decoded(rounds: u32, packet: &Packet) {
    let wire: Bytes = bytes(packet);
    for _ in 0..rounds {
        measured(&mut || drop(black_box(decode(black_box(&wire), Some(VERSION)))));
    }
}

fn encoded(rounds: u32, packet: &Packet) {
    let mut out = BytesMut::with_capacity(4096);
    for _ in 0..rounds {
        out.clear();
        measured(&mut || encode(black_box(packet), VERSION, &mut out));
    }
    black_box(out);
}

/// Topics of a matcher with so many filters, hashed and matched.
fn matched(rounds: u32, filters: u32, make: fn(u32) -> (String, String)) {
    let key = HashKey::new([1, 2]);
    let mut matcher = Matcher::new(key);
    for number in 0..filters {
        let text = Text::try_from(make(number).0.as_str()).expect("a valid string");
        matcher.intern(&TopicFilter::new(text).expect("a valid filter"));
    }
    let (mut levels, mut hits) = (TopicLevels::new(), 0);
    for round in 0..rounds {
        let topic = make(round.wrapping_mul(7919) % filters).1;
        measured(&mut || {
            levels.assign(&key, topic.as_bytes());
            matcher.matches(topic.as_bytes(), &levels, &mut |_| hits += 1);
        });
    }
    assert!(hits >= rounds, "every topic has a filter");
}

/// Topics of one of the sets of [`matching`], hashed and looked for.
fn looked_up(rounds: u32, set: &str, part: &str) {
    assert_eq!(matching::rounds(set), Ok(rounds), "each topic is one round");
    matching::counted(set, 100_000, part).expect("there is this set");
}

/// A filter of one of eight masks, and a topic that it matches.
fn by_mask(number: u32) -> (String, String) {
    let site = number % 100;
    let topic = format!("plant/{site}/line/{number}/temperature");
    let filter = match number % 8 {
        0 => format!("plant/+/line/{number}/temperature"),
        1 => format!("plant/{site}/+/{number}/temperature"),
        2 => format!("plant/{site}/line/{number}/+"),
        3 => format!("plant/{site}/line/{number}/#"),
        4 => format!("+/{site}/line/{number}/temperature"),
        5 => format!("plant/+/line/{number}/#"),
        6 => format!("plant/+/+/{number}/temperature"),
        _ => topic.clone(),
    };
    (filter, topic)
}

/// A filter of eleven levels whose wildcards are the bits of the number: more masks than are probed
/// one by one. And a topic that it matches.
fn by_trie(number: u32) -> (String, String) {
    let level = |bit: u32| if number >> bit & 1 == 1 { "+" } else { "level" };
    let filter: Vec<_> = (0..11).map(level).collect();
    (format!("{}/{number}", filter.join("/")), format!("{}/{number}", ["level"; 11].join("/")))
}

/// Hands a packet to the shard, measured.
fn one(rig: &mut Rig, number: u32, packet: Packet) {
    let mut packet = Some(packet);
    measured(&mut || {
        if let Some(packet) = packet.take() {
            rig.packet(number, packet);
        }
    });
}

fn routed(rounds: u32) {
    let mut rig = Rig::new(2);
    let elsewhere = rig.interest_elsewhere(1, TOPIC);
    rig.connect(0, 60, false);
    for _ in 0..rounds {
        one(&mut rig, 0, publish(Qos::AtMostOnce));
        assert_eq!(rig.out.peers.len(), 1, "the other shard gets it");
        rig.end_turn();
    }
    drop(elsewhere);
}

fn connected(rounds: u32) {
    let mut rig = Rig::new(1);
    for number in 0..rounds {
        one(&mut rig, number, packets::connect(number, 60, false));
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().sessions, rounds as usize);
}

/// A shard with so many clients.
fn with_clients(clients: u32) -> Rig {
    with_clients_of(Rig::new(1), clients)
}

fn with_clients_of(mut rig: Rig, clients: u32) -> Rig {
    for number in 0..clients {
        rig.connect(number, 60, false);
    }
    rig
}

fn subscribed(rounds: u32) {
    let mut rig = with_clients(rounds);
    for number in 0..rounds {
        let filter = format!("device/{number:06}/command");
        one(&mut rig, number, packets::subscribe(&filter, Qos::AtLeastOnce));
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().filters, rounds as usize);
}

fn unsubscribed(rounds: u32) {
    let mut rig = with_clients(rounds);
    let filter = |number: u32| format!("device/{number:06}/command");
    for number in 0..rounds {
        rig.subscribe(number, &filter(number), Qos::AtLeastOnce);
    }
    for number in 0..rounds {
        one(&mut rig, number, packets::unsubscribe(&filter(number)));
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().filters, 0);
}

fn handled(rounds: u32, packet: &Packet) {
    let mut rig = with_clients(1);
    for _ in 0..rounds {
        one(&mut rig, 0, packet.clone());
        rig.end_turn();
    }
}

fn disconnected(rounds: u32) {
    let mut rig = with_clients(rounds);
    for number in 0..rounds {
        rig.subscribe(number, &format!("device/{number:06}/command"), Qos::AtLeastOnce);
    }
    for number in 0..rounds {
        one(&mut rig, number, packets::disconnect());
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().sessions, 0);
}

/// A publisher, client 0, and so many subscribers to its topic.
fn with_subscribers(subscribers: u32) -> Rig {
    with_subscribers_of(Rig::new(1), subscribers)
}

fn with_subscribers_of(rig: Rig, subscribers: u32) -> Rig {
    let mut rig = with_clients_of(rig, subscribers + 1);
    for number in 1..=subscribers {
        rig.subscribe(number, TOPIC, Qos::ExactlyOnce);
    }
    rig
}

/// PUBLISH alone is measured. All acknowledgements that it leads to come before the next.
fn published(rounds: u32, qos: Qos, subscribers: u32) {
    published_by(rounds, qos, with_subscribers(subscribers), subscribers);
}

fn published_by(rounds: u32, qos: Qos, mut rig: Rig, subscribers: u32) {
    for round in 1..=rounds as u16 {
        one(&mut rig, 0, publish(qos));
        rig.end_turn();
        if qos == Qos::ExactlyOnce {
            rig.packet(0, packets::ack(Packet::PubRel, 7));
        }
        for number in 1..=subscribers {
            match qos {
                Qos::AtMostOnce => {}
                Qos::AtLeastOnce => rig.packet(number, packets::ack(Packet::PubAck, round)),
                Qos::ExactlyOnce => {
                    rig.packet(number, packets::ack(Packet::PubRec, round));
                    rig.packet(number, packets::ack(Packet::PubComp, round));
                }
            }
        }
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().inflight, 0, "everything was acknowledged");
}

/// The same for messages of which each has a topic that has not come before.
fn once(rounds: u32) {
    let mut rig = with_clients(2);
    rig.subscribe(1, "plant/1/line/#", Qos::AtMostOnce);
    for number in 0..rounds {
        let topic = format!("plant/1/line/{number:03}/speed");
        let wire = bytes(&packets::publish(&topic, Qos::AtMostOnce, 7));
        measured(&mut || whole_packet(&mut rig, 0, &wire));
        assert_eq!(rig.out.writes.len(), 1, "the subscriber gets it");
        rig.end_turn();
    }
}

fn whole_packet(rig: &mut Rig, number: u32, wire: &Bytes) {
    let Ok(Frame::Complete(length)) = frame(black_box(wire), u32::MAX) else { return };
    let Ok(packet) = decode(black_box(wire), Some(VERSION)) else { return };
    black_box(length);
    rig.input(Input::Packet { conn: conn(number), packet });
}

/// Everything between two sockets that a message costs, its acknowledgements included: packets are
/// delimited, decoded and handled, and what is to be written is there at the end.
fn whole(rounds: u32, qos: Qos, subscribers: u32) {
    let mut rig = with_subscribers(subscribers);
    let feed = |rig: &mut Rig, number: u32, packet: Packet| {
        let wire = bytes(&packet);
        measured(&mut || whole_packet(rig, number, &wire));
        rig.end_turn();
    };
    let exchange = |round: u16| match qos {
        Qos::AtMostOnce => vec![],
        Qos::AtLeastOnce => vec![packets::ack(Packet::PubAck, round)],
        Qos::ExactlyOnce => {
            vec![packets::ack(Packet::PubRec, round), packets::ack(Packet::PubComp, round)]
        }
    };
    for round in 1..=rounds as u16 {
        feed(&mut rig, 0, publish(qos));
        if qos == Qos::ExactlyOnce {
            feed(&mut rig, 0, packets::ack(Packet::PubRel, 7));
        }
        for number in 1..=subscribers {
            for packet in exchange(round) {
                feed(&mut rig, number, packet);
            }
        }
    }
    assert_eq!(rig.shard.census().inflight, 0, "everything was acknowledged");
}

fn acknowledged(rounds: u32) {
    let mut rig = with_subscribers(1);
    for round in 1..=rounds as u16 {
        rig.packet(0, publish(Qos::AtLeastOnce));
        rig.end_turn();
        one(&mut rig, 1, packets::ack(Packet::PubAck, round));
        rig.end_turn();
    }
    assert_eq!(rig.shard.census().inflight, 0, "everything was acknowledged");
}

/// The packets that follow a PUBLISH of QoS 2, from its receiver, its sender and its receiver again.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Received,
    Released,
    Complete,
}

/// Messages of QoS 2 from one client to another, of which one step is measured.
fn completed(rounds: u32, step: Step) {
    let mut rig = with_subscribers(1);
    for round in 1..=rounds as u16 {
        rig.packet(0, publish(Qos::ExactlyOnce));
        rig.end_turn();
        for (next, from, packet) in [
            (Step::Released, 0, packets::ack(Packet::PubRel, 7)),
            (Step::Received, 1, packets::ack(Packet::PubRec, round)),
            (Step::Complete, 1, packets::ack(Packet::PubComp, round)),
        ] {
            match step == next {
                true => one(&mut rig, from, packet),
                false => rig.packet(from, packet),
            }
            rig.end_turn();
        }
    }
    assert_eq!(rig.shard.census().inflight, 0, "everything was acknowledged");
}

/// Questions to 10,000 retained messages, until so many results, or names passed.
fn answered(rounds: u32, question: &str) {
    assert_eq!(retained::rounds(question, 10_000), rounds, "each result is one round");
    retained::counted(question, 10_000).expect("there is this question");
}

fn opened(rounds: u32, layer: RecordLayer) {
    let peers = Peers::new().expect("there is a place for a certificate");
    let (mut session, mut client) = peers.shaken(layer);
    let (mut plain, mut out) = (BytesMut::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    for _ in 0..rounds {
        let mut wire = record(&mut client, &[7; 100]);
        plain.clear();
        measured(&mut || drop(session.read(&mut wire, &mut plain, &mut out)));
        assert_eq!(plain.len(), 100);
    }
}

fn sealed(rounds: u32, layer: RecordLayer) {
    let peers = Peers::new().expect("there is a place for a certificate");
    let mut session = peers.shaken(layer).0;
    let mut out = Vec::with_capacity(1 << 16);
    for _ in 0..rounds {
        out.clear();
        measured(&mut || drop(session.write(black_box(&[7; 100]), &mut out)));
        assert!(out.len() > 100);
    }
}
