//! More than the broker may hold: who publishes waits, and everybody else is served.

mod common;

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::process::{Running, folder, listener, petrel, with_config};
use common::{Client, PATIENCE, bytes_of, connect_packet, publish_packet};
use petrel_proto::{Packet, Qos, ReasonCode, Version};
use rustix::process::Signal;

/// What the process may have, in bytes.
const BOUND: u64 = 256 << 20;

fn resident(broker: &Running) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", broker.child.id())).expect("it runs");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

/// Sends until the broker has read nothing for a second. Returns what was sent, in bytes.
fn send_until_held(client: &mut Client, bytes: &[u8]) -> u64 {
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).expect("it can be set");
    let (mut sent, mut rest) = (0, bytes);
    loop {
        match client.stream.write(rest) {
            Ok(written) => {
                sent += written as u64;
                rest = if written == rest.len() { bytes } else { &rest[written..] };
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
    }
}

fn connack(address: SocketAddr, client_id: &str) -> ReasonCode {
    let mut client = Client::open(address);
    client.send(&connect_packet(client_id, Version::V5));
    match client.receive() {
        Some(Packet::ConnAck(ack)) => ack.reason,
        other => panic!("no CONNACK but {other:?}"),
    }
}

/// [MQTT5-4.13.1-1]
#[test]
fn publishers_wait_while_the_process_has_its_memory_and_go_on_when_there_is_room() {
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
        let mut away = Client::open(address);
        let Packet::Connect(mut connect) = connect_packet("away", Version::V5) else { panic!() };
        connect.properties.session_expiry_interval_s = Some(3600);
        connect.clean_start = false;
        let connect = Packet::Connect(connect);
        away.send(&connect);
        assert!(matches!(away.receive(), Some(Packet::ConnAck(_))));
        away.subscribe("t", Qos::AtLeastOnce);
        drop(away);
        let mut quiet = Client::connect(address, "quiet", Version::V5);
        let mut publisher = Client::connect(address, "publisher", Version::V5);
        let packet = publish_packet("t", vec![7; 500_000], Qos::AtLeastOnce, 1);
        let bytes = bytes_of(&packet, Version::V5);
        let sent = send_until_held(&mut publisher, &bytes);
        let taken = resident(&broker);
        assert!(sent > BOUND / 2, "held after {sent} bytes, with {taken} taken");
        assert!(taken < BOUND + (64 << 20), "{taken} are taken");
        // Those who are in are served, and nobody new comes.
        quiet.send(&Packet::PingReq);
        assert_eq!(quiet.receive(), Some(Packet::PingResp));
        assert_eq!(connack(address, "new"), ReasonCode::ServerBusy);
        // Who has a session comes, and takes what waits.
        let mut away = Client::open(address);
        away.send(&connect);
        let Some(Packet::ConnAck(ack)) = away.receive() else { panic!("no CONNACK") };
        assert!(ack.session_present && ack.reason == ReasonCode::Success);
        // All that was sent whole, what waited in the sockets included.
        for _ in 0..sent / bytes.len() as u64 {
            assert_eq!(away.receive_publish().payload.len(), 500_000);
        }
        let begin = Instant::now();
        while connack(address, "new") != ReasonCode::Success {
            assert!(begin.elapsed() < PATIENCE, "{} are taken", resident(&broker));
        }
        drop((quiet, publisher, away));
        broker.signal(Signal::TERM);
        let (code, _) = broker.end();
        assert_eq!(code, Some(0));
    }
}
