//! Exact counters: allocations and bytes, by message and by connection.
//!
//! Everything is warmed up first and then counted over many rounds, in one thread and without a
//! clock, so that two runs of one program count the same.

use std::ops::Range;

use bytes::Bytes;
use petrel_proto::{Ack, Packet, Qos};

use crate::crossing::{Crossing, TOGETHER};
use crate::figure::{Figure, Figures};
use crate::heap::{Count, Counted};
use crate::packets::{self, bytes};
use crate::rig::Rig;
use crate::{sockets, tls};

/// Messages that are counted after as many to warm up.
const MESSAGES: u32 = 1000;
/// Clients that a state is counted with.
const CLIENTS: u32 = 4096;

/// Counts everything.
///
/// # Errors
/// The system has no sockets or no files for it.
pub fn count() -> Result<Figures, String> {
    let mut figures = Figures::here();
    for receivers in [1, 100] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let counted = message(qos, receivers);
            let name = format!("message qos{} to {receivers}", qos as u8);
            figures.add(
                format!("{name}: allocations"),
                each(counted.allocations, MESSAGES, "per message"),
            );
            figures.add(format!("{name}: bytes"), each(counted.bytes, MESSAGES, "per message"));
        }
    }
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let counted = with_properties(qos);
        let name = format!("message qos{} with properties, to 1", qos as u8);
        figures.add(
            format!("{name}: allocations"),
            each(counted.allocations, MESSAGES, "per message"),
        );
    }
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let counted = crossing(qos);
        let name = format!("message qos{} to another shard", qos as u8);
        figures.add(
            format!("{name}: allocations"),
            each(counted.allocations, MESSAGES, "per message"),
        );
    }
    for (name, rig, reach) in STATES {
        let held = state(*rig, *reach);
        figures.add(format!("shard, client {name}: bytes"), each(held, CLIENTS, "held"));
    }
    sockets::count(&mut figures)?;
    tls::count(&mut figures)?;
    Ok(figures)
}

/// A total as an exact figure for each of `count`.
pub fn each(total: i64, count: u32, unit: &str) -> Figure {
    Figure::exact(total as f64 / f64::from(count), unit)
}

/// A state of a client in the shard, and what brings it there.
type State = (&'static str, fn() -> Rig, fn(&mut Rig, u32));

const STATES: &[State] = &[
    ("connected", plain, |rig, number| rig.connect(number, 0, false)),
    ("with 1 subscription", plain, subscribed),
    ("with 1 subscription and a keep alive", plain, kept_alive),
    ("after a QoS 1 message each way", plain, |rig, number| {
        subscribed(rig, number);
        let message = Exchange::new(1, Qos::AtLeastOnce, &topic(number));
        exchange(rig, &message, number, number..number + 1);
    }),
    ("offline, 1 subscription", plain, offline),
    ("offline, 1 subscription, kept", Rig::keeping, offline),
    ("offline, 1 subscription, kept, 10 messages wait", Rig::keeping, |rig, number| {
        waited_for(rig, number, 10);
    }),
    ("offline, 1 subscription, kept, 1,000 messages wait", Rig::keeping, |rig, number| {
        waited_for(rig, number, 1_000);
    }),
];

fn plain() -> Rig {
    Rig::new(1)
}

/// The topic that client `number` is alone with.
fn topic(number: u32) -> String {
    format!("device/{number:06}/command")
}

fn subscribed(rig: &mut Rig, number: u32) {
    rig.connect(number, 0, false);
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
}

fn kept_alive(rig: &mut Rig, number: u32) {
    rig.connect(number, 60, false);
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
}

fn offline(rig: &mut Rig, number: u32) {
    rig.connect(number, 0, true);
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
    rig.close(number);
}

/// As [`offline`], and then so many messages come.
fn waited_for(rig: &mut Rig, number: u32, messages: u32) {
    if number == 0 {
        rig.connect(CLIENTS, 0, false);
    }
    offline(rig, number);
    let publish = bytes(&packets::publish(&topic(number), Qos::AtLeastOnce, 7));
    for _ in 0..messages {
        rig.feed(CLIENTS, &publish);
        rig.end_turn();
    }
}

/// Bytes that the shard holds with [`CLIENTS`] in a state, an idle second later.
fn state(rig: fn() -> Rig, reach: fn(&mut Rig, u32)) -> i64 {
    let count = Count::begin();
    let mut rig = rig();
    for number in 0..CLIENTS {
        reach(&mut rig, number);
    }
    rig.sleep(1_000);
    count.end().held_bytes
}

/// [`MESSAGES`] messages through decode, the shard and encode, with all their acknowledgements.
fn message(qos: Qos, receivers: u32) -> Counted {
    let topic = "plant/1/line/2/temperature";
    let mut rig = Rig::new(1);
    for number in 0..=receivers {
        rig.connect(number, 60, false);
    }
    for number in 1..=receivers {
        rig.subscribe(number, topic, Qos::ExactlyOnce);
    }
    // Each receiver is given its packet identifiers in turn, so that all have the same.
    let exchanges: Vec<Exchange> =
        (1..=2 * MESSAGES).map(|round| Exchange::new(round as u16, qos, topic)).collect();
    let (warm_up, counted) = exchanges.split_at(MESSAGES as usize);
    for it in warm_up {
        exchange(&mut rig, it, 0, 1..receivers + 1);
    }
    let count = Count::begin();
    for it in counted {
        exchange(&mut rig, it, 0, 1..receivers + 1);
    }
    let counted = count.end();
    assert_eq!(rig.shard.census().inflight, 0, "everything was acknowledged");
    counted
}

/// [`MESSAGES`] messages with properties, to one receiver.
fn with_properties(qos: Qos) -> Counted {
    let topic = topic(1);
    let mut rig = Rig::new(1);
    rig.connect(0, 60, false);
    subscribed(&mut rig, 1);
    let exchanges: Vec<Exchange> = (1..=2 * MESSAGES as u16)
        .map(|round| Exchange {
            publish: packets::publish_with_properties(&topic, qos, 7),
            ..Exchange::new(round, qos, &topic)
        })
        .collect();
    let (warm_up, counted) = exchanges.split_at(MESSAGES as usize);
    warm_up.iter().for_each(|it| exchange(&mut rig, it, 0, 1..2));
    let count = Count::begin();
    counted.iter().for_each(|it| exchange(&mut rig, it, 0, 1..2));
    count.end()
}

/// [`MESSAGES`] messages that cross from one shard to another, many together, acknowledgements included.
fn crossing(qos: Qos) -> Counted {
    let mut crossing = Crossing::new(qos);
    let turns = MESSAGES.div_ceil(TOGETHER);
    for _ in 0..turns {
        crossing.turn(false, false);
    }
    let count = Count::begin();
    for _ in 0..turns {
        crossing.turn(false, false);
    }
    count.end()
}

/// The packets of one message, on the wire.
struct Exchange {
    publish: Bytes,
    /// From the publisher.
    release: Option<Bytes>,
    /// From each receiver, in order.
    acks: Vec<Bytes>,
}

impl Exchange {
    /// A message that its receivers get as packet `id`.
    fn new(id: u16, qos: Qos, topic: &str) -> Self {
        let ack = |kind: fn(Ack) -> Packet, id| bytes(&packets::ack(kind, id));
        let (release, acks) = match qos {
            Qos::AtMostOnce => (None, vec![]),
            Qos::AtLeastOnce => (None, vec![ack(Packet::PubAck, id)]),
            Qos::ExactlyOnce => (
                Some(ack(Packet::PubRel, 7)),
                vec![ack(Packet::PubRec, id), ack(Packet::PubComp, id)],
            ),
        };
        Self { publish: bytes(&packets::publish(topic, qos, 7)), release, acks }
    }
}

/// One client publishes; the receivers acknowledge what they get, each packet in a turn of its own.
fn exchange(rig: &mut Rig, exchange: &Exchange, publisher: u32, receivers: Range<u32>) {
    rig.feed(publisher, &exchange.publish);
    rig.end_turn();
    if let Some(release) = &exchange.release {
        rig.feed(publisher, release);
        rig.end_turn();
    }
    for ack in &exchange.acks {
        for number in receivers.clone() {
            rig.feed(number, ack);
            rig.end_turn();
        }
    }
}
