//! Connections that pause, and connections that move.

use std::io::{Read, Write};

use bytes::Bytes;
use petrel_proto::Packet;

use super::rig::{CONNECT, PINGREQ, Rig, publish};
use crate::WireEvent;

fn payload_of(packet: Packet) -> Bytes {
    match packet {
        Packet::Publish(publish) => publish.payload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_paused_connection_keeps_its_packets_in_order() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    let many: Vec<u8> = (0..10).flat_map(|n| publish(&[n])).collect();
    client.stream.write_all(&many).expect("sent");
    assert_eq!(payload_of(rig.expect_packet().1), [0][..]);
    rig.wire.pause(client.key);
    client.stream.write_all(&publish(&[10])).expect("sent");
    rig.expect_silence();
    rig.pass_ms(1_000_000);
    rig.expect_silence();
    rig.wire.resume(client.key);
    for n in 1..=10 {
        assert_eq!(payload_of(rig.expect_packet().1), [n][..]);
    }
    rig.expect_at_rest(client.key);
}

#[test]
fn a_connection_moves_with_what_was_read_what_was_not_and_half_a_packet() {
    let (mut from, mut to) = (Rig::new(), Rig::new());
    let mut client = from.client();
    let half = publish(&[3; 1000]);
    let first = [CONNECT, &publish(&[1]), &publish(&[2]), &half[..500]].concat();
    client.write_all(&first).expect("sent");
    let (key, _) = from.expect_connect();
    let moving = from.wire.detach(key).expect("it lives");
    assert_eq!(from.wire.connections(), 0);
    // Arrives while the connection belongs to nobody.
    client.write_all(&half[500..]).expect("sent");
    client.write_all(PINGREQ).expect("sent");
    let key = to.wire.attach(moving).expect("it can be watched");
    for payload in [&[1][..], &[2], &[3; 1000]] {
        let (conn, packet) = to.expect_packet();
        assert_eq!((conn, payload_of(packet)), (key, Bytes::copy_from_slice(payload)));
    }
    assert_eq!(to.expect_packet().1, Packet::PingReq);
    to.expect_at_rest(key);
    from.expect_silence();
    to.wire.write(key, b"hello"[..].into(), &Bytes::new());
    to.flush();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).expect("it came");
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_connection_that_ended_on_the_way_is_told_to_its_new_wire() {
    let (mut from, mut to) = (Rig::new(), Rig::new());
    let mut client = from.client();
    client.write_all(&[CONNECT, PINGREQ].concat()).expect("sent");
    let (key, _) = from.expect_connect();
    let moving = from.wire.detach(key).expect("it lives");
    drop(client);
    let key = to.wire.attach(moving).expect("it can be watched");
    assert_eq!(to.expect_packet().1, Packet::PingReq);
    assert!(matches!(to.expect_event(), WireEvent::Closed { conn, .. } if conn == key));
    assert_eq!(to.wire.connections(), 0);
}

#[test]
fn output_that_waited_moves_along() {
    let (mut from, mut to) = (Rig::new(), Rig::new());
    let mut client = from.connected();
    let payload = Bytes::from(vec![8; 12_000_000]);
    from.wire.write(client.key, b""[..].into(), &payload);
    let moving = from.wire.detach(client.key).expect("it lives");
    let key = to.wire.attach(moving).expect("it can be watched");
    to.wire.write(key, b"end"[..].into(), &Bytes::new());
    to.flush();
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 12_000_003];
        client.stream.read_exact(&mut all).map(|()| (all, client))
    });
    while !matches!(to.expect_event(), WireEvent::Flushed { pending_bytes: 0, .. }) {}
    let (all, _client) = reader.join().expect("no panic").expect("all of it came");
    assert_eq!(all[12_000_000..], b"end"[..]);
}
