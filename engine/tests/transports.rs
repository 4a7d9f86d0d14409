//! MQTT over TCP, TLS, WebSocket and both; with connections that move between shards.

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;

use common::layers::{WsStream, certificate, tls};
use common::{Client, RUNTIMES, config, listener, publish_packet, start};
use petrel_engine::boot::Running;
use petrel_engine::config::{Protocol, RecordLayer, RuntimeChoice, TlsFiles};
use petrel_proto::{Packet, Qos, Version};
use rustls::pki_types::CertificateDer;

const PROTOCOLS: [Protocol; 4] = [Protocol::Mqtt, Protocol::Mqtts, Protocol::Ws, Protocol::Wss];

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Compact];

fn broker(shards: u16, runtime: RuntimeChoice, files: &TlsFiles, layer: RecordLayer) -> Running {
    let mut config = config(shards, runtime);
    config.listeners = PROTOCOLS
        .map(|protocol| {
            let mut listener = listener(protocol);
            listener.tls = protocol.is_tls().then(|| files.clone());
            listener.record_layer = layer;
            listener
        })
        .into();
    start(config)
}

fn open(
    protocol: Protocol,
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> Client<Box<dyn Stream>> {
    Client::over(match protocol {
        Protocol::Mqtt => Box::new(Client::open(address).stream),
        Protocol::Mqtts => Box::new(tls(address, trusted)),
        Protocol::Ws => Box::new(WsStream::open(Client::open(address).stream, "/mqtt")),
        Protocol::Wss => Box::new(WsStream::open(tls(address, trusted), "/mqtt")),
    })
}

/// [MQTT5-4.2.0-1] [MQTT311-7.1.1-1]
#[test]
fn clients_of_all_transports_meet() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, trusted) = certificate(folder.path());
    for runtime in RUNTIMES {
        for (shards, layer) in [(1, LAYERS[0]), (8, LAYERS[0]), (1, LAYERS[1]), (8, LAYERS[1])] {
            let broker = broker(shards, runtime, &files, layer);
            let mut clients: Vec<_> = (0..16)
                .map(|n| {
                    let at = n % PROTOCOLS.len();
                    let mut client = open(PROTOCOLS[at], broker.addresses()[at], &trusted);
                    client.version = [Version::V5, Version::V3_1_1][n / 8];
                    client.hello(&format!("client-{n}"));
                    client.subscribe("all/#", Qos::AtLeastOnce);
                    client
                })
                .collect();
            for (n, size) in [3, 1025, 40_000, 400_000].into_iter().enumerate() {
                let payload = vec![n as u8; size];
                let packet = publish_packet("all/x", payload.clone(), Qos::AtMostOnce, 0);
                clients[n * 5].send(&packet);
                for client in &mut clients {
                    assert!(client.receive_publish().payload == payload);
                }
            }
            assert_eq!(broker.stalls(), 0);
            drop(clients);
            broker.stop().expect("it stops");
        }
    }
}

#[test]
fn tls_connections_move_with_packets_right_behind_connect() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, trusted) = certificate(folder.path());
    for (runtime, layer) in RUNTIMES.into_iter().flat_map(|it| LAYERS.map(|layer| (it, layer))) {
        let broker = broker(8, runtime, &files, layer);
        for n in 0..64 {
            let protocol = [Protocol::Mqtts, Protocol::Wss][n % 2];
            let at = if n % 2 == 0 { 1 } else { 3 };
            let mut client = open(protocol, broker.addresses()[at], &trusted);
            let version = Version::V5;
            let mut bytes =
                common::bytes_of(&common::connect_packet(&format!("tls-{n}"), version), version);
            let mine = publish_packet(&format!("own/{n}"), vec![1; n * 700], Qos::AtLeastOnce, 7);
            bytes.extend(common::bytes_of(&mine, version));
            bytes.extend(common::bytes_of(&Packet::PingReq, version));
            // Several records, cut anywhere.
            for part in bytes.chunks(bytes.len() / 3 + 1) {
                client.send_bytes(part);
            }
            assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
            assert!(matches!(client.receive(), Some(Packet::PubAck(_))));
            assert_eq!(client.receive(), Some(Packet::PingResp));
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn new_certificates_are_for_new_connections_and_nobody_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    for runtime in RUNTIMES {
        let (files, old) = certificate(folder.path());
        let broker = broker(2, runtime, &files, RecordLayer::Compact);
        let address = broker.addresses()[1];
        let mut before = open(Protocol::Mqtts, address, &old);
        before.hello("before");

        std::fs::write(&files.cert, "nothing").expect("it can be written");
        let error = broker.reload().expect_err("that is no certificate");
        assert!(error.to_string().contains("server.pem"), "{error}");
        open(Protocol::Mqtts, address, &old).hello("still");

        let (_, new) = certificate(folder.path());
        broker.reload().expect("they are good");
        // A shard takes the news at its next turn, and each listens on its own.
        let trusts_new = |trusted: &CertificateDer<'static>| {
            let mut stream = tls(address, trusted);
            stream.conn.complete_io(&mut stream.sock).is_ok()
        };
        let begin = std::time::Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 32 {
            assert!(begin.elapsed() < common::PATIENCE, "the new certificate is not used");
            in_a_row = if trusts_new(&new) { in_a_row + 1 } else { 0 };
        }
        before.send(&Packet::PingReq);
        assert_eq!(before.receive(), Some(Packet::PingResp));
        drop(before);
        broker.stop().expect("it stops");
    }
}

#[test]
fn half_a_tls_record_is_cut_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, trusted) = certificate(folder.path());
    for runtime in RUNTIMES {
        let mut config = config(8, runtime);
        config.network.packet_timeout_s = 1;
        config.listeners = vec![listener(Protocol::Mqtts)];
        config.listeners[0].tls = Some(files.clone());
        let broker = start(config);
        let mut cut: Vec<Client<_>> = (0..8)
            .map(|n| {
                let mut client = Client::over(tls(broker.addresses()[0], &trusted));
                client.hello(&format!("client-{n}"));
                // The header of an application record of 64 bytes, and some of them.
                client.stream.sock.write_all(&[23, 3, 3, 0, 64, 1, 2, 3]).expect("it is open");
                client
            })
            .collect();
        cut.iter_mut().for_each(Client::expect_end);
        broker.stop().expect("it stops");
    }
}

/// Clients that come back after a restart need no full handshake if the secret is kept.
#[test]
fn tls_sessions_are_resumed_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, trusted) = certificate(folder.path());
    let client = common::layers::tls_client(&trusted);
    for kept in [true, false] {
        let resumed = (0..2).map(|_| {
            let mut config = config(2, RuntimeChoice::Auto);
            config.engine.ticket_secret = kept.then(|| folder.path().join("secret"));
            config.listeners = vec![listener(Protocol::Mqtts)];
            config.listeners[0].tls = Some(files.clone());
            let broker = start(config);
            let stream = common::layers::tls_with(&client, broker.addresses()[0]);
            let mut it = Client::over(stream);
            it.hello("client");
            // The ticket comes before what is sent now.
            it.send(&Packet::PingReq);
            assert_eq!(it.receive(), Some(Packet::PingResp));
            let kind = it.stream.conn.handshake_kind();
            drop(it);
            broker.stop().expect("it stops");
            kind == Some(rustls::HandshakeKind::Resumed)
        });
        assert_eq!(resumed.collect::<Vec<bool>>(), [false, kept]);
    }
}
