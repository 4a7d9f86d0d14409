//! How far connections get, what ends them, and how they are counted.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use petrel_proto::Packet;

use super::rig::{CONNECT, HALF_HELLO, PINGREQ, Rig};
use super::tls::hello;
use crate::bucket::{Buckets, Rate};
use crate::conn::Conn;
use crate::stages::{Stage, State};
use crate::transport::Transport;
use crate::{Listener, Protocol, WireEvent, WireLimits};

/// The stages that are not 0.
fn stages(rig: &Rig) -> Vec<(&'static str, u64)> {
    let count = |stage: Stage| (stage.name(), rig.wire.census().stage(stage));
    Stage::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}

/// The states that are not 0, held against the connections themselves.
fn states(rig: &Rig) -> Vec<(&'static str, u64)> {
    let conns: Vec<&Conn> =
        rig.wire.conns.keys().filter_map(|key| rig.wire.conns.get(key)).collect();
    for state in State::ALL {
        let there = conns.iter().filter(|conn| conn.state == state).count() as u64;
        assert_eq!(rig.wire.census().state(state), there, "{}", state.name());
    }
    let count = |state: State| (state.name(), rig.wire.census().state(state));
    State::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}

fn settle(rig: &mut Rig) {
    for _ in 0..5 {
        rig.expect_silence();
    }
}

#[test]
fn whoever_is_accepted_over_tls_is_counted_once_where_it_ends() {
    let (mut rig, config) = Rig::over_tls(WireLimits::default());
    let send = |rig: &Rig, bytes: &[u8]| {
        let mut client = rig.client();
        client.write_all(bytes).expect("sent");
        client
    };
    drop(rig.client());
    settle(&mut rig);
    let _silent = rig.client();
    let _begun = send(&rig, &hello(&config));
    let mut no_tls = send(&rig, CONNECT);
    let gone = send(&rig, &hello(&config));
    rig.until(|rig| rig.wire.census().stage(Stage::HandshakeBegun) == 3);
    drop(gone);
    let (_shaken, _) = rig.shaken(&config);
    assert_eq!(states(&rig), [("handshaking", 2), ("greeting", 1), ("closing", 1)]);
    let mut alert = [0; 16];
    assert_eq!(no_tls.read(&mut alert).ok(), Some(7), "an alert");
    rig.pass_ms(8_500);
    settle(&mut rig);
    assert_eq!(states(&rig), [("greeting", 1)]);
    rig.pass_ms(2_000);
    settle(&mut rig);
    assert_eq!(states(&rig), []);
    assert_eq!(
        stages(&rig),
        [
            ("accepted", 6),
            ("gone_before_handshake", 1),
            ("silent", 1),
            ("handshake_begun", 4),
            ("handshake_timed_out", 1),
            ("handshake_refused", 1),
            ("handshake_gone", 1),
            ("handshake_full", 1),
            ("connect_timed_out", 1),
        ]
    );
}

#[test]
fn whoever_is_accepted_without_tls_is_counted_once_where_it_ends() {
    let mut rig = Rig::new();
    drop(rig.client());
    let _silent = rig.client();
    settle(&mut rig);
    let mut other = rig.client();
    other.write_all(PINGREQ).expect("sent");
    match rig.expect_event() {
        WireEvent::Refused { conn, .. } => rig.wire.close(conn),
        other => panic!("{other:?}"),
    }
    let _connected = rig.connected();
    assert_eq!(states(&rig), [("greeting", 1), ("plain", 1), ("closing", 1)]);
    rig.pass_ms(10_500);
    settle(&mut rig);
    assert_eq!(states(&rig), [("plain", 1)]);
    assert_eq!(
        stages(&rig),
        [
            ("accepted", 4),
            ("connect_timed_out", 1),
            ("connect_gone", 1),
            ("connect_refused", 1),
            ("connect", 1)
        ]
    );
}

#[test]
fn a_handshake_has_its_own_deadline_from_the_accept_however_it_dribbles() {
    let (mut rig, config) = Rig::over_tls(WireLimits::default());
    let mut dribbling = rig.client();
    settle(&mut rig);
    rig.pass_ms(3_000);
    for byte in &HALF_HELLO[..5] {
        dribbling.write_all(&[*byte]).expect("sent");
        settle(&mut rig);
        rig.pass_ms(900);
    }
    settle(&mut rig);
    assert_eq!(rig.wire.connections(), 1, "after 7.5 seconds it is there");
    rig.pass_ms(800);
    assert_eq!(rig.wire.connections(), 0);
    let ended = dribbling.read(&mut [0; 8]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    rig.shaken(&config);
}

/// The time for CONNECT is counted from the accept too: a slow handshake leaves less of it.
#[test]
fn the_time_for_connect_does_not_begin_anew_after_the_handshake() {
    let (mut rig, config) = Rig::over_tls(WireLimits::default());
    let stream = rig.client();
    settle(&mut rig);
    rig.pass_ms(6_000);
    let (mut shaken, _) = rig.shake(stream, &config);
    rig.pass_ms(3_500);
    assert_eq!(states(&rig), [("greeting", 1)]);
    rig.pass_ms(1_000);
    assert_eq!(states(&rig), []);
    shaken.set_nonblocking(false).expect("it can be");
    // A ticket may have come before the end.
    while shaken.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {}
}

#[test]
fn a_handshake_that_failed_gives_its_place_and_its_memory_back_at_once() {
    let limits = WireLimits { handshakes_max: 1, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let mut stays = rig.client();
    stays.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    rig.until(|rig| rig.wire.census().stage(Stage::HandshakeRefused) == 1);
    assert_eq!((rig.wire.handshakes(), rig.wire.connections()), (0, 1));
    let key = rig.wire.conns.keys().next().expect("it is there");
    let conn = rig.wire.conns.get(key).expect("it is there");
    assert!(matches!(conn.transport, Transport::Plain));
    rig.shaken(&config);
}

#[test]
fn handshakes_at_their_cap_keep_nobody_out_who_needs_none() {
    let limits = WireLimits { handshakes_max: 1, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let plain = Listener::open((Ipv4Addr::LOCALHOST, 0).into(), Protocol::Mqtt, 1);
    let plain = plain.expect("there are ports");
    let address = plain.local_address().expect("it is bound");
    rig.wire.listen(plain).expect("it can be watched");
    let _over_tls: Vec<_> = (0..10)
        .map(|_| {
            let mut client = rig.client();
            client.write_all(&hello(&config)).expect("sent");
            client
        })
        .collect();
    settle(&mut rig);
    assert_eq!(rig.wire.handshakes(), 1);
    let mut client = TcpStream::connect(address).expect("the wire listens");
    client.write_all(&[CONNECT, PINGREQ].concat()).expect("sent");
    assert!(matches!(rig.expect_event(), WireEvent::Connect { listener: 1, .. }));
    assert_eq!(rig.expect_packet().1, Packet::PingReq);
}

#[test]
fn a_source_that_connects_too_often_is_closed_at_once_and_the_others_are_not() {
    let mut rig = Rig::new();
    rig.wire.limit_sources(Arc::new(Buckets::new(Rate { per_s: 1, burst: 3 })));
    let [first, second] = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    let mut flood: Vec<_> = (0..10).map(|_| rig.client_from(first)).collect();
    settle(&mut rig);
    assert_eq!(stages(&rig), [("accepted", 3), ("refused_by_rate", 7)]);
    for refused in &mut flood[3..] {
        let ended = refused.read(&mut [0; 8]).expect_err("not an orderly end");
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    }
    let mut quiet = rig.client_from(second);
    quiet.write_all(CONNECT).expect("sent");
    rig.expect_connect();
    rig.pass_ms(1_000);
    let _again: Vec<_> = (0..2).map(|_| rig.client_from(first)).collect();
    settle(&mut rig);
    assert_eq!(rig.wire.census().stage(Stage::RefusedByRate), 8);
    assert_eq!(rig.wire.census().stage(Stage::Accepted), 5);
}

/// Who begins and does not go on has its place for a second; then it is another's who waits for it.
#[test]
fn a_handshake_that_does_not_go_on_makes_room_for_one_that_waits() {
    let limits = WireLimits { handshakes_max: 2, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let begin = |rig: &Rig| {
        let mut client = rig.client();
        client.write_all(&hello(&config)).expect("sent");
        client
    };
    let half = [begin(&rig), begin(&rig)];
    rig.until(|rig| rig.wire.handshakes() == 2);
    rig.pass_ms(5_000);
    settle(&mut rig);
    assert_eq!(rig.wire.handshakes(), 2, "nobody waits for their places");
    let third = rig.client();
    rig.shake(third, &config);
    rig.until(|rig| rig.wire.census().stage(Stage::HandshakeDisplaced) == 2);
    let _young = [begin(&rig), begin(&rig)];
    rig.until(|rig| rig.wire.handshakes() == 2);
    let _waits = begin(&rig);
    rig.pass_ms(900);
    settle(&mut rig);
    assert_eq!(rig.wire.census().stage(Stage::HandshakeBegun), 5, "they have them for certain");
    assert!(!rig.wire.has_work());
    rig.pass_ms(250);
    assert!(rig.wire.has_work(), "no event announces it");
    rig.until(|rig| rig.wire.census().stage(Stage::HandshakeBegun) == 6);
    drop(half);
}

/// The broker was away for longer than a second: who has answered meanwhile keeps its place.
#[test]
fn a_handshake_whose_answer_has_come_is_not_displaced() {
    let limits = WireLimits { handshakes_max: 1, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let mut stream = rig.client();
    let mut tls = super::tls::client(&config);
    tls.write_tls(&mut stream).expect("sent");
    rig.until(|rig| rig.wire.handshakes() == 1);
    while tls.is_handshaking() {
        tls.read_tls(&mut stream).expect("the answer of the broker");
        tls.process_new_packets().expect("a good one");
    }
    let mut waits = rig.client();
    waits.write_all(&hello(&config)).expect("sent");
    rig.pass_ms(1_500);
    tls.write_tls(&mut stream).expect("sent");
    rig.until(|rig| rig.wire.census().stage(Stage::HandshakeBegun) == 2);
    assert_eq!(rig.wire.census().stage(Stage::HandshakeFull), 1);
    assert_eq!(rig.wire.census().stage(Stage::HandshakeDisplaced), 0);
}

#[test]
fn who_waited_for_a_place_in_vain_is_not_called_silent() {
    let limits = WireLimits { handshakes_max: 1, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let mut clients: Vec<_> = (0..3).map(|_| rig.client()).collect();
    rig.until(|rig| rig.wire.connections() == 3);
    rig.pass_ms(7_900);
    for client in &mut clients[..2] {
        client.write_all(&hello(&config)).expect("sent");
    }
    rig.until(|rig| rig.wire.handshakes() == 1);
    rig.pass_ms(400);
    settle(&mut rig);
    assert_eq!(
        stages(&rig),
        [
            ("accepted", 3),
            ("silent", 1),
            ("handshake_not_begun", 1),
            ("handshake_begun", 1),
            ("handshake_timed_out", 1)
        ]
    );
}
