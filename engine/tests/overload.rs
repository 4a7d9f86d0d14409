//! More than the broker may hold: who publishes waits, and everybody else is served.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use common::process::{Running, folder, listener, petrel, with_config};
use common::{Client, PATIENCE, connect_packet, publish_packet};
use petrel_proto::{Packet, Qos, ReasonCode, Version};
use rustix::process::Signal;

/// What the process may have, in bytes.
const BOUND: u64 = 256 << 20;

fn resident(broker: &Running) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", broker.child.id())).expect("it runs");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

fn connack(address: SocketAddr, client_id: &str) -> ReasonCode {
    let mut client = Client::open(address);
    client.send(&connect_packet(client_id, Version::V5));
    match client.receive() {
        Some(Packet::ConnAck(ack)) => ack.reason,
        other => panic!("no CONNACK but {other:?}"),
    }
}

/// Has a session subscribe whose client goes and may come back, with this CONNECT.
fn subscribed_and_gone(address: SocketAddr) -> Packet {
    let mut away = Client::open(address);
    let Packet::Connect(mut connect) = connect_packet("away", Version::V5) else { panic!() };
    connect.properties.session_expiry_interval_s = Some(3600);
    connect.clean_start = false;
    let connect = Packet::Connect(connect);
    away.send(&connect);
    assert!(matches!(away.receive(), Some(Packet::ConnAck(_))));
    away.subscribe("t", Qos::AtLeastOnce);
    connect
}

/// What one message of QoS 1 is acknowledged with.
fn publish(client: &mut Client) -> ReasonCode {
    client.send(&publish_packet("t", vec![7; 900_000], Qos::AtLeastOnce, 1));
    match client.receive() {
        Some(Packet::PubAck(ack)) => ack.reason,
        other => panic!("no PUBACK but {other:?}"),
    }
}

/// Nothing is taken that would need more, what makes room is heard, and all goes on by itself.
#[test]
fn nothing_is_taken_while_the_process_has_its_memory_and_all_goes_on_when_there_is_room() {
    for runtime in ["glommio", "epoll"] {
        let config = format!(
            "[engine]\nshards = 2\nruntime = \"{runtime}\"\n{}[limits]\nmemory_bytes = {BOUND}\n\
             session_queue_messages = 1000000\nsession_queue_bytes = 100000000000\n",
            listener("mqtt", 0)
        );
        let folder = folder(&config);
        let mut command = petrel();
        with_config(&mut command, &folder);
        let mut broker = Running::start(&mut command);
        let address = broker.address();
        let connect = subscribed_and_gone(address);
        let mut old = Client::connect(address, "old", Version::V3_1_1);
        let mut publisher = Client::connect(address, "publisher", Version::V5);
        let mut accepted = 0;
        // Each shard sees at its next tick how it is, and what is given back may be room for a little more.
        let mut fill = |publisher: &mut Client| {
            while publish(publisher) != ReasonCode::QuotaExceeded {
                accepted += 1;
                let taken = resident(&broker);
                assert!(taken < BOUND + (64 << 20), "{taken} are taken");
            }
        };
        fill(&mut publisher);
        // Who cannot be told is not acknowledged, and heard; or it has been disconnected for that.
        loop {
            old.send(&publish_packet("t", "m", Qos::AtLeastOnce, 1));
            old.send(&Packet::PingReq);
            match old.receive() {
                Some(Packet::PingResp) | None => break,
                Some(Packet::PubAck(_)) => assert_eq!(old.receive(), Some(Packet::PingResp)),
                other => panic!("no PINGRESP but {other:?}"),
            }
            fill(&mut publisher);
        }
        loop {
            publisher.send(&common::subscribe_packet("more", Qos::AtMostOnce));
            match publisher.receive() {
                Some(Packet::SubAck(it)) if it.reasons[..] == [ReasonCode::QuotaExceeded] => break,
                Some(Packet::SubAck(_)) => fill(&mut publisher),
                other => panic!("no SUBACK but {other:?}"),
            }
        }
        // Its shard may have seen a moment of a little room.
        while connack(address, "new") != ReasonCode::ServerBusy {
            fill(&mut publisher);
        }
        assert!(accepted > 100, "refused after {accepted}");
        // Who has a session comes, and its acknowledgements are heard behind what it publishes itself.
        let mut away = Client::open(address);
        away.send(&connect);
        let Some(Packet::ConnAck(ack)) = away.receive() else { panic!("no CONNACK") };
        assert!(ack.session_present && ack.reason == ReasonCode::Success);
        for id in 1..=20 {
            away.send(&publish_packet("other", vec![7; 20_000], Qos::AtLeastOnce, id));
        }
        let (mut received, mut answered) = (0, 0);
        while received < accepted || answered < 20 {
            match away.receive() {
                Some(Packet::Publish(it)) => {
                    received += usize::from(it.payload.len() == 900_000);
                    let id = it.packet_id.expect("of QoS 1");
                    away.send(&Packet::PubAck(petrel_proto::Ack::new(id, ReasonCode::Success)));
                }
                Some(Packet::PubAck(_)) => answered += 1,
                other => panic!("no message but {other:?}"),
            }
        }
        old.expect_end();
        let begin = Instant::now();
        while connack(address, "new") != ReasonCode::Success {
            assert!(begin.elapsed() < PATIENCE, "{} are taken", resident(&broker));
        }
        assert_ne!(publish(&mut publisher), ReasonCode::QuotaExceeded);
        drop((publisher, away));
        broker.signal(Signal::TERM);
        let (code, _) = broker.end();
        assert_eq!(code, Some(0));
    }
}

/// What waits in storage is not in memory for good: who comes anew comes in, whoever has what waits.
#[test]
fn the_log_of_storage_gives_way_when_memory_is_wanted() {
    const LITTLE: u64 = 128 << 20;
    let config = format!(
        "[engine]\nshards = 2\n{}[limits]\nmemory_bytes = {LITTLE}\nsession_queue_messages = 1000000\n\
         session_queue_bytes = 100000000000\n[storage]\npath = \"data\"\ndisk_limit_bytes = 10000000000\n",
        listener("mqtt", 0)
    );
    let folder = folder(&config);
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    subscribed_and_gone(address);
    let mut publisher = Client::connect(address, "publisher", Version::V5);
    let begin = Instant::now();
    let mut taken = 0;
    while taken < 150 {
        assert!(begin.elapsed() < PATIENCE, "{taken} are taken, {} bytes", resident(&broker));
        taken += u32::from(publish(&mut publisher) != ReasonCode::QuotaExceeded);
    }
    let begin = Instant::now();
    while connack(address, "new") != ReasonCode::Success {
        assert!(begin.elapsed() < PATIENCE, "{} bytes are taken", resident(&broker));
    }
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
