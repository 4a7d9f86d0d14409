//! KeyUpdates: asked for, answered, and sent because a key has protected enough.

use bytes::BytesMut;
use rustls::Side;

use crate::rig::contents::{APPLICATION_DATA, HANDSHAKE};
use crate::rig::{Opened, ROLES, SUITES, forged, give_to, pair, says, take_from};

fn key_update(ask: u8) -> Opened {
    Opened { kind: HANDSHAKE, content: vec![24, 0, 0, 1, ask] }
}

fn data(content: &[u8]) -> Opened {
    Opened { kind: APPLICATION_DATA, content: content.to_vec() }
}

#[test]
fn a_request_is_answered_once_per_read_and_then_the_new_key_is_used() {
    for role in ROLES {
        for suite in SUITES {
            let (mut session, mut forger) = forged(role, suite);
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            let mut wire = forger.key_update(1);
            wire.extend(forger.key_update(1));
            wire.extend(forger.record(APPLICATION_DATA, b"new key"));
            wire.extend(forger.key_update(0));
            session.read(&mut wire, &mut plain, &mut out).unwrap();
            assert_eq!(&plain[..], b"new key");
            session.write(b"answer", &mut out).unwrap();
            assert_eq!(forger.open(&out), [key_update(0), data(b"answer")]);
        }
    }
}

#[test]
fn an_update_that_asks_for_nothing_is_not_answered() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    session.read(&mut forger.key_update(0), &mut plain, &mut out).unwrap();
    assert!(out.is_empty());
    session.read(&mut forger.record(APPLICATION_DATA, b"go on"), &mut plain, &mut out).unwrap();
    assert_eq!(&plain[..], b"go on");
}

#[test]
fn a_key_update_may_come_in_pieces() {
    for cut in 1..5 {
        let (mut session, mut forger) = forged(Side::Server, SUITES[2]);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let message = [24, 0, 0, 1, 1];
        let mut wire = forger.record(HANDSHAKE, &message[..cut]);
        session.read(&mut wire, &mut plain, &mut out).unwrap();
        // The head of a message is kept, and does not disturb what we send.
        assert_eq!(session.tail_bytes(), cut);
        session.write(b"meanwhile", &mut out).unwrap();
        let mut wire = forger.record(HANDSHAKE, &message[cut..]);
        forger.update();
        wire.extend(forger.record(APPLICATION_DATA, b"x"));
        session.read(&mut wire, &mut plain, &mut out).unwrap();
        assert_eq!((&plain[..], session.tail_bytes()), (&b"x"[..], 0));
        assert_eq!(forger.open(&out), [data(b"meanwhile"), key_update(0)]);
    }
}

#[test]
fn a_client_skips_tickets_however_they_are_cut() {
    let mut ticket = vec![4, 0, 1, 44];
    ticket.extend([7; 300]);
    let two = [&ticket[..], &ticket].concat();
    for cut in [1, 3, 4, 5, 100, 303, 304, 305, 307, 308, 500, 608] {
        let (mut session, mut forger) = forged(Side::Client, SUITES[0]);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let (first, second) = two.split_at(cut);
        let mut wire = forger.record(HANDSHAKE, first);
        if !second.is_empty() {
            wire.extend(forger.record(HANDSHAKE, second));
        }
        wire.extend(forger.key_update(0));
        wire.extend(forger.record(APPLICATION_DATA, b"after"));
        session.read(&mut wire, &mut plain, &mut out).unwrap();
        assert_eq!(&plain[..], b"after", "cut at {cut}");
        assert!(out.is_empty());
        assert_eq!(session.tail_bytes(), 0);
    }
}

#[test]
fn our_key_is_renewed_when_it_has_protected_enough() {
    for suite in SUITES {
        let (mut session, mut forger) = forged(Side::Server, suite);
        session.set_update_after_log2(3);
        let mut out = Vec::new();
        for _ in 0..20 {
            session.write(b"x", &mut out).unwrap();
        }
        let opened = forger.open(&out);
        let updates: Vec<_> = (0..opened.len()).filter(|&at| opened[at] == key_update(0)).collect();
        // After 8 records, and again after 8.
        assert_eq!(updates, [8, 17]);
        assert_eq!(opened.len(), 22);
        // Also in the middle of one long write.
        out.clear();
        session.write(&vec![3; 10 << 14], &mut out).unwrap();
        assert_eq!(forger.open(&out).iter().filter(|it| **it == key_update(0)).count(), 1);
    }
}

#[test]
fn a_peer_that_keeps_its_key_too_long_is_asked_once() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    session.set_update_after_log2(3);
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    for _ in 0..30 {
        let mut wire = forger.record(APPLICATION_DATA, b"x");
        session.read(&mut wire, &mut plain, &mut out).unwrap();
    }
    assert_eq!(forger.open(&out), [key_update(1)]);
    out.clear();
    let mut wire = forger.key_update(0);
    for _ in 0..8 {
        wire.extend(forger.record(APPLICATION_DATA, b"y"));
    }
    session.read(&mut wire, &mut plain, &mut out).unwrap();
    assert_eq!(forger.open(&out), [key_update(1)], "the new key wears out too");
    assert_eq!(plain.len(), 38);
}

#[test]
fn rustls_answers_our_request_and_we_answer_its() {
    for role in ROLES {
        for suite in SUITES {
            let (mut session, mut peer) = pair(role, suite);
            let mut plain = BytesMut::new();
            for round in 0..40u8 {
                let mut out = Vec::new();
                session.update_keys(true, &mut out).unwrap();
                session.write(&[round], &mut out).unwrap();
                assert_eq!(give_to(&mut peer, &out).unwrap(), [round]);
                peer.refresh_traffic_keys().unwrap();
                let mut wire = says(&mut peer, &[round]);
                out.clear();
                session.read(&mut wire, &mut plain, &mut out).unwrap();
                assert_eq!(give_to(&mut peer, &out).unwrap(), b"");
                take_from(&mut peer, &mut Vec::new());
            }
            assert_eq!(&plain[..], (0..40).collect::<Vec<u8>>());
        }
    }
}
