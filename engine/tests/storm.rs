//! Many clients at once, over TLS, with room for few handshakes.

mod common;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::layers::{TlsStream, certificate, tls_client, tls_with};
use common::{Client, PATIENCE, bytes_of, config, connect_packet, listener, start};
use petrel_engine::boot::Running;
use petrel_engine::config::{Protocol, RecordLayer, RuntimeChoice};
use petrel_engine::figures::Figures;
use petrel_net::stages::{Stage, State};
use petrel_proto::{Packet, Version};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, ClientConnection};

const CLIENTS: usize = 500;
/// Handshakes that a shard has room for.
const ROOM: u32 = 8;
/// Clients that begin a handshake and do not go on: fewer than one shard has room for.
const HALF: usize = 5;
/// Clients that connect and send nothing.
const SILENT: usize = 30;

/// Both ends of all connections are in this process.
fn raise_limit_of_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as far as it goes");
}

/// Waits for figures that are as wanted.
fn figures(broker: &Running, wanted: impl Fn(&Figures) -> bool) -> Figures {
    let begin = Instant::now();
    loop {
        let figures = broker.watch().figures();
        if wanted(&figures) {
            return figures;
        }
        assert!(begin.elapsed() < PATIENCE, "{}\n{}", figures.stages(), figures.connections());
        thread::yield_now();
    }
}

/// The bytes of a ClientHello.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("to memory");
    }
    hello
}

/// One attempt, as far as the first bytes of CONNACK.
fn attempt(address: SocketAddr, config: &Arc<ClientConfig>, id: &str) -> io::Result<TlsStream> {
    let mut stream = tls_with(config, address);
    stream.write_all(&bytes_of(&connect_packet(id, Version::V5), Version::V5))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK, success");
    Ok(stream)
}

/// Clients that all begin at the same moment. Whoever is cut tries again at once, as storms do.
fn storm(address: SocketAddr, tls: &Arc<ClientConfig>) -> Vec<JoinHandle<TlsStream>> {
    let at_once = Arc::new(Barrier::new(CLIENTS));
    let client = |n: usize| {
        let (tls, at_once) = (Arc::clone(tls), Arc::clone(&at_once));
        let run = move || {
            at_once.wait();
            let begin = Instant::now();
            loop {
                match attempt(address, &tls, &format!("client-{n}")) {
                    Ok(stream) => return stream,
                    Err(error) => assert!(begin.elapsed() < PATIENCE, "not let in: {error}"),
                }
            }
        };
        thread::Builder::new().stack_size(256 << 10).spawn(run).expect("a thread")
    };
    (0..CLIENTS).map(client).collect()
}

#[test]
fn all_of_a_storm_get_in_and_the_connected_are_served_meanwhile() {
    raise_limit_of_files();
    let folder = tempfile::tempdir().expect("a folder");
    let (files, trusted) = certificate(folder.path());
    let tls = tls_client(&trusted);
    for (runtime, layer) in [
        (RuntimeChoice::Glommio, RecordLayer::Compact),
        (RuntimeChoice::Epoll, RecordLayer::Rustls),
    ] {
        let mut config = config(2, runtime);
        let over_tls = petrel_engine::config::Listener {
            tls: Some(files.clone()),
            record_layer: layer,
            ..listener(Protocol::Mqtts)
        };
        config.listeners.push(over_tls);
        config.network.handshakes_in_flight_maximum = ROOM;
        config.network.handshake_timeout_s = 3;
        let broker = start(config);
        let [plain, address] = [broker.addresses()[0], broker.addresses()[1]];

        let mut connected = Client::connect(plain, "connected", Version::V5);
        let _silent: Vec<_> = (0..SILENT).map(|_| Client::open(address)).collect();
        let half = || {
            let mut client = Client::open(address);
            client.send_bytes(&client_hello(&tls));
            client
        };
        let _half: Vec<_> = (0..HALF).map(|_| half()).collect();
        let begun = |figures: &Figures| figures.census.stage(Stage::HandshakeBegun);
        figures(&broker, |figures| begun(figures) == HALF as u64);

        let clients = storm(address, &tls);
        while clients.iter().any(|client| !client.is_finished()) {
            connected.send(&Packet::PingReq);
            assert_eq!(connected.receive(), Some(Packet::PingResp));
        }
        let clients: Vec<TlsStream> =
            clients.into_iter().map(|client| client.join().expect("it got in")).collect();

        let state = match layer {
            RecordLayer::Rustls => State::Tls,
            RecordLayer::Compact => State::TlsCompact,
        };
        // Who sent nothing, or no more than a ClientHello, is gone when its time is over. Counters
        // are read one after the other, while the shards count: each is waited for.
        let all = figures(&broker, |figures| {
            let (state_of, stage) =
                (|state| figures.census.state(state), |stage| figures.census.stage(stage));
            state_of(state) == CLIENTS as u64
                && state_of(State::Handshaking) == 0
                && stage(Stage::HandshakeTimedOut) >= HALF as u64
                && stage(Stage::Silent) >= SILENT as u64
        });
        assert!(all.census.handshakes_most <= u64::from(ROOM), "{}", all.stages());
        assert_eq!(all.decided.admitted, CLIENTS as u64 + 1);
        assert_eq!(all.census.state(State::Plain), 1);

        drop(clients);
        figures(&broker, |figures| figures.census.state(state) == 0);
        assert_eq!(broker.stalls(), 0);
        drop(connected);
        broker.stop().expect("it stops");
    }
}
