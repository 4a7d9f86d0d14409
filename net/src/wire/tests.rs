//! A wire and its clients in one thread: real sockets, invented time.

mod fairness;
mod limits;
mod moving;
mod proxy;
mod rig;
mod stages;
mod tls;
mod volume;

use std::io::{Read, Write};

use bytes::Bytes;
use petrel_proto::{Packet, ReasonCode, Version};
use rig::{CONNECT, PINGREQ, Rig, TestClient, publish};

use super::{LIST_KEPT, WireEvent};
use crate::poller::EVENTS_PER_WAIT_MAX;

#[test]
fn packets_come_out_as_they_went_in() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.write_all(&[CONNECT, PINGREQ, &publish(b"abc"), PINGREQ].concat()).expect("sent");
    let (_, connect) = rig.expect_connect();
    assert_eq!(connect.version, Version::V3_1_1);
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
    assert!(matches!(rig.expect_packet().1, Packet::Publish(it) if it.payload == "abc"));
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
}

#[test]
fn who_is_connected_is_found_behind_a_crowd_of_newcomers() {
    const CROWD: usize = 5 * EVENTS_PER_WAIT_MAX;
    let mut rig = Rig::new();
    let mut stays = rig.connected();
    let mut crowd: Vec<_> = (0..CROWD).map(|_| rig.client()).collect();
    rig.until(|rig| rig.wire.connections() == CROWD + 1);
    for client in &mut crowd {
        client.write_all(&CONNECT[..5]).expect("sent");
    }
    stays.stream.write_all(PINGREQ).expect("sent");
    rig.turn();
    assert_eq!(rig.wire.waiting().established, 1);
}

#[test]
fn a_packet_in_single_bytes_is_put_together() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    for byte in publish(&[7; 300]) {
        client.stream.write_all(&[byte]).expect("sent");
        rig.turn();
    }
    assert!(matches!(rig.expect_packet().1, Packet::Publish(it) if it.payload == vec![7; 300]));
    rig.expect_at_rest(client.key);
}

#[test]
fn a_long_packet_and_what_follows_it_are_told_apart() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    let long = publish(&[9; 200_000]);
    for part in [long, PINGREQ.to_vec(), publish(b"x")].concat().chunks(50_001) {
        client.stream.write_all(part).expect("sent");
        rig.turn();
    }
    assert!(matches!(rig.expect_packet().1, Packet::Publish(it) if it.payload == vec![9; 200_000]));
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
    assert!(matches!(rig.expect_packet().1, Packet::Publish(it) if it.payload == "x"));
    rig.expect_at_rest(client.key);
}

/// [MQTT5-3.1.0-1] [MQTT311-3.1.0-1]
#[test]
fn a_first_packet_other_than_connect_is_refused_without_an_answer() {
    let mut rig = Rig::new();
    for first in [PINGREQ, b"GET / HTTP/1.1\r\n\r\n", &[0xff]] {
        rig.client().write_all(first).expect("sent");
        let event = rig.expect_event();
        assert!(matches!(event, WireEvent::Refused { version: None, .. }), "{event:?}");
    }
}

#[test]
fn a_bad_connect_is_refused_with_the_version_it_asked_for() {
    let mut rig = Rig::new();
    let bad_flags = [&[0x10, 13, 0, 4][..], b"MQTT", &[5, 0x01, 0, 0, 0, 0, 0]].concat();
    rig.client().write_all(&bad_flags).expect("sent");
    match rig.expect_event() {
        WireEvent::Refused { version, error, .. } => {
            assert_eq!(version, Some(Version::V5));
            assert_eq!(error.reason, ReasonCode::MalformedPacket);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_decoded_behind_a_violation() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    client.stream.write_all(&[PINGREQ, &[0x00, 0x00], PINGREQ].concat()).expect("sent");
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
    assert!(matches!(rig.expect_event(), WireEvent::Violation { conn, .. } if conn == client.key));
    client.stream.write_all(PINGREQ).expect("sent");
    rig.expect_silence();
}

#[test]
fn the_end_of_a_connection_is_told_after_its_last_packet_and_once() {
    let mut rig = Rig::new();
    let TestClient { mut stream, key } = rig.connected();
    stream.write_all(&[PINGREQ, PINGREQ].concat()).expect("sent");
    drop(stream);
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
    assert!(matches!(rig.expect_event(), WireEvent::Closed { conn, .. } if conn == key));
    rig.expect_silence();
    assert_eq!(rig.wire.connections(), 0);
}

#[test]
fn the_lists_of_a_crowd_are_given_back_at_the_next_tick() {
    const CROWD: usize = 600;
    let mut rig = Rig::new();
    let crowd: Vec<TestClient> = (0..CROWD).map(|_| rig.connected()).collect();
    drop(crowd);
    while rig.wire.leaving.len() < CROWD {
        rig.turn();
    }
    assert!(rig.wire.leaving.capacity() >= CROWD, "they all stand there");
    let mut ends = 0;
    while ends < CROWD {
        ends += usize::from(matches!(rig.expect_event(), WireEvent::Closed { .. }));
    }
    rig.pass_ms(250);
    assert!(rig.wire.leaving.capacity() < 2 * LIST_KEPT);
}

/// A network fails: those who stay are served before all the ends are dealt with.
#[test]
fn a_crowd_that_leaves_does_not_hold_up_those_who_stay() {
    const CROWD: usize = 100;
    let mut rig = Rig::new();
    let crowd: Vec<TestClient> = (0..CROWD).map(|_| rig.connected()).collect();
    let mut stays = rig.connected();
    drop(crowd);
    stays.stream.write_all(PINGREQ).expect("sent");
    let (mut ends, mut before) = (0, None);
    while ends < CROWD || before.is_none() {
        match rig.expect_event() {
            WireEvent::Closed { .. } => ends += 1,
            WireEvent::Packet { conn, .. } => {
                assert_eq!(conn, stays.key);
                before = Some(ends);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(before.is_some_and(|ends| ends <= 1), "{before:?} ends came first");
    assert_eq!(rig.wire.connections(), 1);
}

/// What a client said last is read in its turn: a DISCONNECT must not come after the client's return.
#[test]
fn those_who_leave_with_a_word_keep_their_place() {
    const CROWD: usize = 100;
    let mut rig = Rig::new();
    let mut stays = rig.connected();
    let crowd: Vec<TestClient> = (0..CROWD).map(|_| rig.connected()).collect();
    for mut client in crowd {
        client.stream.write_all(PINGREQ).expect("sent");
    }
    stays.stream.write_all(PINGREQ).expect("sent");
    let mut words = 0;
    loop {
        match rig.expect_event() {
            WireEvent::Packet { conn, .. } if conn == stays.key => break,
            WireEvent::Packet { .. } => words += 1,
            WireEvent::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(words, CROWD);
    while rig.wire.connections() > 1 {
        assert!(matches!(rig.expect_event(), WireEvent::Closed { .. }));
    }
}

#[test]
fn what_was_written_before_a_close_arrives_although_input_is_unread() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    client.stream.write_all(&publish(&[0; 100_000])).expect("sent");
    let payload = Bytes::from(vec![5; 3_000_000]);
    rig.wire.write(client.key, b"head"[..].into(), &payload);
    rig.wire.close(client.key);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.stream.read_to_end(&mut all).map(|_| all)
    });
    rig.until(|rig| rig.wire.connections() == 0);
    let all = reader.join().expect("no panic").expect("an orderly end");
    assert_eq!(all, [&b"head"[..], &payload].concat());
}

#[test]
fn output_waits_for_a_slow_reader_and_leaves_in_order() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    let payload = Bytes::from((0..12_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    rig.wire.write(client.key, b"first"[..].into(), &payload);
    assert!(rig.flush()[0].1 > 1_000_000);
    rig.wire.write(client.key, b"second"[..].into(), &Bytes::new());
    assert!(rig.flush()[0].1 > 1_000_000);
    let whole = [&b"first"[..], &payload, b"second"].concat();
    let length = whole.len();
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; length];
        client.stream.read_exact(&mut all).map(|()| (all, client))
    });
    let mut left = usize::MAX;
    while left > 0 {
        match rig.expect_event() {
            WireEvent::Flushed { pending_bytes, .. } => left = pending_bytes,
            other => panic!("{other:?}"),
        }
    }
    let (all, client) = reader.join().expect("no panic").expect("all of it came");
    assert!(all == whole);
    rig.expect_at_rest(client.key);
}

#[test]
fn everything_for_one_connection_leaves_in_one_write() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    for _ in 0..100 {
        rig.wire.write(client.key, b"0123456789"[..].into(), &Bytes::from_static(b"abcdef"));
    }
    assert_eq!(rig.flush(), [(client.key, 0)]);
    let mut all = [0; 4096];
    assert_eq!(client.stream.read(&mut all).expect("it came"), 1600);
}

#[test]
fn a_key_of_a_connection_that_is_gone_does_nothing() {
    let mut rig = Rig::new();
    let TestClient { stream, key } = rig.connected();
    drop(stream);
    rig.expect_event();
    let next = rig.connected();
    assert_eq!(next.key.index, key.index);
    rig.wire.write(key, b"x"[..].into(), &Bytes::new());
    rig.wire.pause(key);
    rig.wire.close(key);
    assert!(rig.wire.detach(key).is_none());
    assert_eq!(rig.flush(), []);
    assert_eq!(rig.wire.connections(), 1);
}
