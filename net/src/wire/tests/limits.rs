//! What a peer can make a wire hold, and for how long.

use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Packet, ReasonCode, Version};

use super::rig::{CONNECT, PINGREQ, Rig, TestClient, publish};
use crate::stages::Stage;
use crate::websocket::WebSocketConfig;
use crate::wire::read::LONG_CONNECTS_MAX;
use crate::{Protocol, WireEvent, WireLimits};

#[test]
fn a_connection_without_connect_is_cut_in_time_however_it_dribbles() {
    let mut rig = Rig::new();
    let mut silent = rig.client();
    let mut dribbling = rig.client();
    rig.until(|rig| rig.wire.connections() == 2);
    for byte in &CONNECT[..9] {
        rig.pass_ms(1_000);
        dribbling.write_all(&[*byte]).expect("sent");
        rig.expect_silence();
    }
    rig.pass_ms(900);
    assert_eq!(rig.wire.connections(), 2);
    rig.pass_ms(500);
    assert_eq!(rig.wire.connections(), 0);
    assert_eq!(silent.read(&mut [0; 8]).ok(), Some(0));
    let ended = dribbling.read(&mut [0; 8]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    rig.expect_silence();
}

/// A crowd whose time is over is cut over many turns: those who stay have theirs between.
#[test]
fn a_crowd_is_cut_in_parts() {
    const CROWD: usize = 100;
    let mut rig = Rig::new();
    let crowd: Vec<_> = (0..CROWD).map(|_| rig.client()).collect();
    rig.until(|rig| rig.wire.connections() == CROWD);
    rig.pass_ms(10_250);
    let mut turns = 1;
    while rig.wire.connections() > 0 {
        assert!(rig.wire.connections() + 4 * turns >= CROWD, "more than four in a turn");
        assert!(rig.wire.has_work());
        rig.turn();
        turns += 1;
    }
    rig.until(|rig| !rig.wire.has_work());
    assert_eq!(rig.wire.census().stage(Stage::ConnectTimedOut), CROWD as u64);
    drop(crowd);
}

/// What strangers can make a shard hold is bounded, however many they are.
#[test]
fn long_connects_are_few_at_a_time() {
    let mut rig = Rig::new();
    // CONNECT of 60,000 bytes, of which the first come.
    let begin = [&b"\x10\xe0\xd4\x03\0\x04MQTT\x05\x02\0\0\0"[..], &[0; 500]].concat();
    let mut clients: Vec<_> = (0..LONG_CONNECTS_MAX).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.write_all(&begin).expect("sent");
    }
    rig.until(|rig| rig.wire.long_connects == LONG_CONNECTS_MAX);
    rig.client().write_all(&begin).expect("sent");
    match rig.expect_event() {
        WireEvent::Refused { conn, version, error } => {
            assert_eq!((version, error.reason), (Some(Version::V5), ReasonCode::ServerBusy));
            rig.wire.close(conn);
        }
        other => panic!("{other:?}"),
    }
    let _others = rig.connected();
    clients.pop();
    rig.until(|rig| rig.wire.long_connects == LONG_CONNECTS_MAX - 1);
    let mut client = rig.client();
    client.write_all(&begin).expect("sent");
    rig.until(|rig| rig.wire.long_connects == LONG_CONNECTS_MAX);
    // A bad one, and one that takes too long, give their places back.
    client.write_all(&[0xff; 60_000]).expect("sent");
    assert!(matches!(rig.expect_event(), WireEvent::Refused { .. }));
    rig.pass_ms(10_250);
    rig.until(|rig| rig.wire.long_connects == 0);
}

#[test]
fn half_a_packet_is_cut_in_time_however_it_dribbles() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    let packet = publish(&[1; 100]);
    for byte in &packet[..29] {
        client.stream.write_all(&[*byte]).expect("sent");
        rig.expect_silence();
        rig.pass_ms(1_000);
    }
    rig.expect_silence();
    rig.pass_ms(1_500);
    match rig.expect_event() {
        WireEvent::Violation { conn, error } => {
            assert_eq!(conn, client.key);
            assert_eq!(error.what, "a packet took too long to arrive");
        }
        other => panic!("{other:?}"),
    }
    rig.pass_ms(60_000);
    rig.expect_silence();
}

/// A binary frame, or part of one, masked with zeros; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat()
}

fn websocket_client(rig: &mut Rig) -> TestClient {
    let mut stream = rig.client();
    let request = "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    stream.write_all(&frame(0x82, CONNECT)).expect("sent");
    TestClient { key: rig.expect_connect().0, stream }
}

#[test]
fn half_a_frame_is_cut_in_time() {
    let ping = frame(0x89, b"0123456789");
    let halves: [&[u8]; 4] =
        [&frame(0x82, PINGREQ)[..1], &frame(0x82, PINGREQ)[..6], &ping[..9], &frame(0x02, b"")];
    for half in halves {
        let config = Arc::new(WebSocketConfig::default());
        let mut rig = Rig::speaking(Protocol::Ws(config), WireLimits::default());
        let mut client = websocket_client(&mut rig);
        client.stream.write_all(half).expect("sent");
        rig.expect_silence();
        rig.pass_ms(29_000);
        rig.expect_silence();
        rig.pass_ms(1_500);
        let event = rig.expect_event();
        assert!(
            matches!(event, WireEvent::Violation { conn, .. } if conn == client.key),
            "{half:x?}: {event:?}"
        );
    }
}

#[test]
fn frames_that_always_end_behind_a_read_are_never_cut() {
    let config = Arc::new(WebSocketConfig::default());
    let mut rig = Rig::speaking(Protocol::Ws(config), WireLimits::default());
    let mut client = websocket_client(&mut rig);
    for part in [&frame(0x82, PINGREQ), &frame(0x89, b"hello")] {
        client.stream.write_all(&part[..3]).expect("sent");
        for _ in 0..20 {
            rig.pass_ms(29_000);
            client.stream.write_all(&[&part[3..], &part[..3]].concat()).expect("sent");
            match part[0] {
                0x82 => assert_eq!(rig.expect_packet().1, Packet::PingReq),
                _ => rig.expect_silence(),
            }
        }
        client.stream.write_all(&part[3..]).expect("sent");
        if part[0] == 0x82 {
            assert_eq!(rig.expect_packet().1, Packet::PingReq);
        }
        rig.expect_at_rest(client.key);
    }
}

#[test]
fn whole_packets_at_any_pace_are_never_cut() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    for _ in 0..20 {
        client.stream.write_all(&publish(b"x")[..5]).expect("sent");
        rig.expect_silence();
        rig.pass_ms(29_000);
        rig.expect_silence();
        client.stream.write_all(b"x").expect("sent");
        assert!(matches!(rig.expect_packet().1, Packet::Publish(_)));
        rig.pass_ms(1_000_000);
    }
    rig.expect_at_rest(client.key);
}

#[test]
fn a_packet_that_is_too_large_is_refused_by_its_header() {
    let limits = WireLimits { packet_bytes_max: 1000, ..WireLimits::default() };
    let mut rig = Rig::with(limits);
    let mut client = rig.connected();
    client.stream.write_all(&publish(&[0; 10_000])[..3]).expect("sent");
    match rig.expect_event() {
        WireEvent::Violation { error, .. } => assert_eq!(error.reason, ReasonCode::PacketTooLarge),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_announced_length_costs_nothing_until_it_arrives() {
    let limits = WireLimits { packet_bytes_max: u32::MAX, ..WireLimits::default() };
    let mut rig = Rig::with(limits);
    let mut client = rig.connected();
    // 268,435,455 bytes of PUBLISH, of which 100 come.
    client.stream.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]).expect("sent");
    client.stream.write_all(&[0; 95]).expect("sent");
    let held = |rig: &Rig| {
        let conn = rig.wire.conns.get(client.key).expect("it lives");
        conn.inbox.as_ref().map_or((0, 0), |inbox| (inbox.bytes.len(), inbox.bytes.capacity()))
    };
    rig.until(|rig| held(rig).0 == 100);
    assert!(held(&rig).1 <= 400, "{} bytes", held(&rig).1);
}

#[test]
fn a_connect_is_held_to_a_narrower_limit() {
    let limits = WireLimits { packet_bytes_max: u32::MAX, ..WireLimits::default() };
    let mut rig = Rig::with(limits);
    rig.client().write_all(&[0x10, 0xff, 0xff, 0xff, 0x7f]).expect("sent");
    assert!(matches!(rig.expect_event(), WireEvent::Refused { error, .. }
        if error.reason == ReasonCode::PacketTooLarge));
}

#[test]
fn a_peer_that_reads_nothing_is_cut_in_time() {
    let mut rig = Rig::new();
    let client = rig.connected();
    rig.wire.write(client.key, b""[..].into(), &Bytes::from(vec![0; 20_000_000]));
    assert!(rig.flush()[0].1 > 0);
    rig.pass_ms(59_000);
    rig.expect_silence();
    rig.pass_ms(1_500);
    assert!(matches!(rig.expect_event(), WireEvent::Closed { conn, .. } if conn == client.key));
    assert_eq!(rig.wire.connections(), 0);
}

#[test]
fn a_peer_that_reads_nothing_is_not_read_either() {
    let limits = WireLimits { read_stop_bytes: 1000, ..WireLimits::default() };
    let mut rig = Rig::with(limits);
    let mut client = rig.connected();
    let payload = Bytes::from(vec![0; 12_000_000]);
    rig.wire.write(client.key, b""[..].into(), &payload);
    rig.flush();
    client.stream.write_all(PINGREQ).expect("sent");
    rig.expect_silence();
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; 12_000_000];
        client.stream.read_exact(&mut all).map(|()| client)
    });
    loop {
        match rig.expect_event() {
            WireEvent::Flushed { .. } => {}
            WireEvent::Packet { packet, .. } => break assert_eq!(packet, Packet::PingReq),
            other => panic!("{other:?}"),
        }
    }
    reader.join().expect("no panic").expect("all of it came");
}

#[test]
fn a_closed_peer_that_does_not_end_is_dropped_in_time() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    rig.wire.close(client.key);
    assert_eq!(client.stream.read(&mut [0; 8]).ok(), Some(0));
    rig.pass_ms(1_900);
    rig.expect_silence();
    assert_eq!(rig.wire.connections(), 1);
    rig.pass_ms(500);
    assert_eq!(rig.wire.connections(), 0);
    rig.expect_silence();
}

#[test]
fn a_closed_peer_that_sends_without_end_is_dropped() {
    let mut rig = Rig::new();
    let mut client = rig.connected();
    rig.wire.close(client.key);
    let writer =
        std::thread::spawn(move || while client.stream.write_all(&[0; 100_000]).is_ok() {});
    rig.until(|rig| rig.wire.connections() == 0);
    writer.join().expect("no panic");
}

#[test]
fn a_flood_at_one_listener_does_not_hold_up_another() {
    let mut rig = Rig::new();
    let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let second = crate::Listener::open(any, Protocol::Mqtt, 1).expect("there are ports");
    let address = second.local_address().expect("it is bound");
    rig.wire.listen(second).expect("it can be watched");
    let _flood: Vec<_> = (0..400).map(|_| rig.client()).collect();
    let mut quiet = std::net::TcpStream::connect(address).expect("the wire listens");
    quiet.write_all(CONNECT).expect("sent");
    match rig.expect_event() {
        WireEvent::Connect { listener, .. } => assert_eq!(listener, 1),
        other => panic!("{other:?}"),
    }
    let accepted = rig.wire.census().stage(Stage::Accepted);
    assert!(accepted < 300, "{accepted} were accepted before");
}

#[test]
fn handshakes_in_flight_are_capped_and_the_rest_waits() {
    let limits = WireLimits { handshakes_max: 3, ..WireLimits::default() };
    let (mut rig, config) = Rig::over_tls(limits);
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = rig.client();
            client.write_all(&super::tls::hello(&config)).expect("sent");
            client
        })
        .collect();
    for _ in 0..50 {
        rig.expect_silence();
    }
    assert_eq!(rig.wire.handshakes(), 3);
    assert!(!rig.wire.has_work(), "what waits for others is not work");
    drop(clients);
    rig.until(|rig| rig.wire.census().stage(Stage::Accepted) == 40 && rig.wire.connections() == 0);
    assert_eq!(rig.wire.handshakes(), 0);
    let stage = |stage| rig.wire.census().stage(stage);
    assert_eq!(stage(Stage::HandshakeBegun) + stage(Stage::GoneBeforeHandshake), 40);
    assert_eq!(stage(Stage::HandshakeBegun), stage(Stage::HandshakeGone));
    assert_eq!(rig.wire.census().handshakes_most, 3);
}

#[test]
fn a_queue_of_those_who_have_gone_is_made_shallow_until_it_runs_dry() {
    let mut rig = Rig::speaking(super::tls::mqtts().0, WireLimits::default());
    for _ in 0..400 {
        drop(rig.client());
    }
    let most = rig.wire.depth.places();
    let least = Cell::new(most);
    rig.until(|rig| {
        least.set(least.get().min(rig.wire.listeners[0].places));
        rig.wire.census().stage(Stage::Accepted) == 400 && rig.wire.connections() == 0
    });
    assert!(least.get() < most, "they had gone");
    let _client = rig.client();
    rig.until(|rig| rig.wire.census().stage(Stage::Accepted) == 401);
    rig.until(|rig| rig.wire.listeners[0].places == most);
}
