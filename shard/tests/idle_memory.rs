//! What a client costs in the shard, by the state it is in.

use petrel_proto::Qos;

mod counting;
mod rig;

use rig::{Asks, Rig, topic};

const CLIENTS: u32 = 20_000;

/// What a bound may lie above the count, so that a regression of one small field is seen.
const SLACK_BYTES: usize = 8;

/// A state, what brings a client there, and the most that it may cost, in bytes.
struct State {
    name: &'static str,
    bytes_max: usize,
    reach: fn(&mut Rig, u32),
}

const STATES: &[State] = &[
    State { name: "connected", bytes_max: 161, reach: connected },
    State { name: "subscribed", bytes_max: 227, reach: subscribed },
    State { name: "with a keep alive", bytes_max: 243, reach: kept_alive },
    State { name: "after a QoS 0 message each way", bytes_max: 231, reach: after_qos_0 },
    State { name: "after a QoS 1 message each way", bytes_max: 231, reach: after_qos_1 },
    State { name: "after a QoS 2 message each way", bytes_max: 231, reach: after_qos_2 },
    State { name: "with a will", bytes_max: 562, reach: with_will },
    State { name: "with 10 subscriptions", bytes_max: 861, reach: with_10_subscriptions },
    State { name: "offline, persistent", bytes_max: 179, reach: offline },
    State { name: "offline, after a QoS 2 message", bytes_max: 183, reach: offline_after_qos_2 },
];

fn connected(rig: &mut Rig, number: u32) {
    rig.connect(number, Asks::default());
}

fn subscribed(rig: &mut Rig, number: u32) {
    connected(rig, number);
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
}

fn kept_alive(rig: &mut Rig, number: u32) {
    rig.connect(number, Asks { keep_alive_s: 60, ..Asks::default() });
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
}

fn after_qos_0(rig: &mut Rig, number: u32) {
    subscribed(rig, number);
    rig.exchange(number, number, Qos::AtMostOnce, 1);
}

fn after_qos_1(rig: &mut Rig, number: u32) {
    subscribed(rig, number);
    rig.exchange(number, number, Qos::AtLeastOnce, 1);
}

fn after_qos_2(rig: &mut Rig, number: u32) {
    subscribed(rig, number);
    rig.exchange(number, number, Qos::ExactlyOnce, 1);
}

fn with_will(rig: &mut Rig, number: u32) {
    rig.connect(number, Asks { will: true, ..Asks::default() });
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
}

fn with_10_subscriptions(rig: &mut Rig, number: u32) {
    connected(rig, number);
    for nth in 0..10 {
        rig.subscribe(number, &format!("device/{number}/{nth}"), Qos::AtLeastOnce);
    }
}

fn offline(rig: &mut Rig, number: u32) {
    rig.connect(number, Asks { persistent: true, ..Asks::default() });
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
    rig.close(number);
}

fn offline_after_qos_2(rig: &mut Rig, number: u32) {
    rig.connect(number, Asks { persistent: true, ..Asks::default() });
    rig.subscribe(number, &topic(number), Qos::ExactlyOnce);
    rig.exchange(number, number, Qos::ExactlyOnce, 1);
    rig.close(number);
}

/// Bytes of heap per client, as asked for and in the allocator's size classes.
fn measure(reach: fn(&mut Rig, u32)) -> (usize, usize) {
    let (before, classes_before) = (counting::held_bytes(), counting::held_class_bytes());
    let mut rig = Rig::new();
    for number in 0..CLIENTS {
        reach(&mut rig, number);
    }
    rig.sleep(1_000);
    let (held, classes) = (counting::held_bytes(), counting::held_class_bytes());
    let each = |held: usize, before: usize| (held - before).div_ceil(CLIENTS as usize);
    (each(held, before), each(classes, classes_before))
}

/// Connection, session, subscription, matcher, interest table and timers together.
#[test]
fn a_client_stays_within_the_bytes_of_its_state() {
    let mut wrong = Vec::new();
    println!("bytes  in classes  at most  state");
    for State { name, bytes_max, reach } in STATES {
        let (bytes, classes) = measure(*reach);
        println!("{bytes:5}  {classes:10}  {bytes_max:7}  {name}");
        if bytes > *bytes_max || bytes + SLACK_BYTES <= *bytes_max {
            wrong.push(format!("{name}: {bytes}, bound {bytes_max}"));
        }
    }
    assert!(wrong.is_empty(), "bounds to keep, or to tighten: {wrong:#?}");
}
