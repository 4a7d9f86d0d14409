//! Thousands of connections that move between more executors than there are cores.

mod common;

use std::sync::atomic::Ordering;
use std::thread;

use common::{
    Client, RUNTIMES, broker, bytes_of, connect_packet, publish_packet, subscribe_packet,
};
use petrel_engine::boot::Running;
use petrel_proto::{Packet, Qos, Version};

const SHARDS: u16 = 8;
const THREADS: usize = 4;
const ROUNDS: usize = 500;

/// One life: CONNECT with packets right behind it, the answers to all of them, and an end that
/// differs from round to round.
fn live(broker: &Running, thread: usize, round: usize) {
    let version = [Version::V5, Version::V3_1_1][round % 2];
    let topic = format!("own/{thread}/{round}");
    let mut client = Client::open(broker.addresses()[0]);
    client.version = version;
    let mut bytes =
        bytes_of(&connect_packet(&format!("client-{thread}-{round}"), version), version);
    bytes.extend(bytes_of(&subscribe_packet(&topic, Qos::AtMostOnce), version));
    bytes.extend(bytes_of(&publish_packet(&topic, vec![7; round], Qos::AtLeastOnce, 9), version));
    match round % 5 {
        // Gone before the broker has read much: nobody there to be answered.
        0 => return client.send_bytes(&bytes),
        1 => {
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            client.send_bytes(first);
            client.send_bytes(rest);
        }
        _ => client.send_bytes(&bytes),
    }
    assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
    assert!(matches!(client.receive(), Some(Packet::SubAck(_))));
    let mut seen = (false, false);
    for _ in 0..2 {
        match client.receive() {
            Some(Packet::Publish(publish)) => seen.0 = publish.payload == vec![7; round],
            Some(Packet::PubAck(ack)) => seen.1 = ack.packet_id.get() == 9,
            other => panic!("not expected: {other:?}"),
        }
    }
    assert_eq!(seen, (true, true));
    if round.is_multiple_of(3) {
        let reason = petrel_proto::ReasonCode::Success;
        client.send(&Packet::Disconnect(Box::new(petrel_proto::Disconnect::new(reason))));
        client.expect_end();
    }
}

#[test]
fn a_storm_of_connections_finds_home_and_leaves_nothing_behind() {
    for runtime in RUNTIMES {
        let broker = broker(SHARDS, runtime);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let broker = &broker;
                scope.spawn(move || (0..ROUNDS).for_each(|round| live(broker, thread, round)));
            }
        });
        let adopted: u64 =
            broker.counters().map(|counters| counters.adopted.load(Ordering::Relaxed)).sum();
        let lives = (THREADS * ROUNDS) as u64;
        // Of eight shards seven are not home.
        assert!(adopted > lives / 2 && adopted <= lives, "{adopted} of {lives} moved");
        let connections = || -> u64 {
            broker.counters().map(|counters| counters.connections.load(Ordering::Relaxed)).sum()
        };
        let begin = std::time::Instant::now();
        while connections() > 0 {
            assert!(begin.elapsed() < common::PATIENCE, "{} are left", connections());
            thread::yield_now();
        }
        assert_eq!(broker.stalls(), 0);
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_client_that_comes_again_takes_its_session_over_wherever_it_is_accepted() {
    for runtime in RUNTIMES {
        let broker = broker(SHARDS, runtime);
        let address = broker.addresses()[0];
        let mut before = Client::connect(address, "the same", Version::V5);
        for _ in 0..20 {
            let next = Client::connect(address, "the same", Version::V5);
            match before.receive() {
                Some(Packet::Disconnect(packet)) => assert_eq!(packet.reason as u8, 0x8e),
                other => panic!("no DISCONNECT but {other:?}"),
            }
            assert_eq!(before.receive(), None);
            before = next;
        }
        drop(before);
        broker.stop().expect("it stops");
    }
}
