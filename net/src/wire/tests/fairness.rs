//! Nobody waits for what another has caused.

use std::io::{Read, Write};

use bytes::Bytes;

use super::rig::{PINGREQ, Rig, TestClient};
use crate::ConnKey;
use crate::wire::{PACKETS_PER_READ_MAX, SENDS_PER_FLUSH};

fn read(client: &mut TestClient, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    client.stream.read_exact(&mut got).expect("it came");
    assert_eq!(got, expected);
}

#[test]
fn a_message_to_many_is_sent_in_parts_and_others_overtake_it() {
    let mut rig = Rig::new();
    let mut many: Vec<TestClient> = (0..3 * SENDS_PER_FLUSH).map(|_| rig.connected()).collect();
    let mut other = rig.connected();
    for client in &many {
        rig.wire.write_as_one_of_many(client.key, b"one "[..].into(), &Bytes::new());
    }
    assert_eq!(rig.wire.staged_bytes(), 4 * many.len());
    let firsts: Vec<ConnKey> = rig.flush().into_iter().map(|(key, _)| key).collect();
    let keys: Vec<ConnKey> = many.iter().map(|client| client.key).collect();
    assert_eq!(firsts, keys[..SENDS_PER_FLUSH]);
    assert!(rig.wire.has_work(), "there is more to be sent");
    // A turn that writes to few: to somebody else, and to the last of those who wait.
    rig.wire.write(other.key, b"alone"[..].into(), &Bytes::new());
    rig.wire.write(keys[keys.len() - 1], b"two"[..].into(), &Bytes::new());
    let next: Vec<ConnKey> = rig.flush().into_iter().map(|(key, _)| key).collect();
    assert_eq!(next[0], other.key);
    assert_eq!(next[1..], keys[SENDS_PER_FLUSH..2 * SENDS_PER_FLUSH]);
    read(&mut other, b"alone");
    assert_eq!(rig.flush().len(), SENDS_PER_FLUSH);
    assert_eq!((rig.wire.staged_bytes(), rig.flush()), (0, vec![]));
    let last = many.len() - 1;
    for (at, client) in many.iter_mut().enumerate() {
        read(client, if at == last { b"one two" } else { b"one " });
    }
    rig.expect_silence();
    assert!(!rig.wire.has_work());
}

#[test]
fn who_is_closed_while_a_message_to_many_waits_gets_it_first() {
    let mut rig = Rig::new();
    let many: Vec<TestClient> = (0..2 * SENDS_PER_FLUSH).map(|_| rig.connected()).collect();
    for client in &many {
        rig.wire.write_as_one_of_many(client.key, b"bye"[..].into(), &Bytes::new());
    }
    rig.wire.close(many[many.len() - 1].key);
    let keys: Vec<ConnKey> = many.iter().map(|client| client.key).collect();
    let TestClient { mut stream, .. } = many.into_iter().next_back().expect("the last");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("an orderly end");
    assert_eq!(all, b"bye");
    drop(stream);
    let mut sent = rig.flush();
    sent.extend(rig.flush());
    assert_eq!(sent.len(), keys.len() - 1);
    assert_eq!(rig.wire.staged_bytes(), 0);
}

#[test]
fn a_flood_of_packets_does_not_keep_another_from_being_read() {
    let mut rig = Rig::new();
    let (mut flood, mut quiet) = (rig.connected(), rig.connected());
    let packets = 4 * PACKETS_PER_READ_MAX as usize;
    flood.stream.write_all(&PINGREQ.repeat(packets)).expect("sent");
    assert_eq!(rig.expect_packet().0, flood.key);
    quiet.stream.write_all(PINGREQ).expect("sent");
    rig.turn();
    let before = (1..packets).take_while(|_| rig.expect_packet().0 != quiet.key).count();
    assert!(before <= PACKETS_PER_READ_MAX as usize, "{before} packets came first");
    for _ in before + 1..packets {
        assert_eq!(rig.expect_packet().0, flood.key);
    }
    rig.expect_silence();
}

#[test]
fn the_end_of_a_turn_puts_who_was_read_last_behind_the_others() {
    let mut rig = Rig::new();
    let (mut first, mut second) = (rig.connected(), rig.connected());
    first.stream.write_all(&PINGREQ.repeat(3)).expect("sent");
    assert_eq!(rig.expect_packet().0, first.key);
    second.stream.write_all(PINGREQ).expect("sent");
    rig.wire.let_others_go_first();
    rig.turn();
    assert_eq!(rig.expect_packet().0, first.key, "it was in the list before the other");
    rig.wire.let_others_go_first();
    assert_eq!(rig.expect_packet().0, second.key);
    assert_eq!(rig.expect_packet().0, first.key);
    rig.expect_silence();
}
