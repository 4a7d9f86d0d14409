//! Clients behind a proxy, over real sockets: where they come from is what the proxy says.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::authority::{Authority, connect, greet};
use common::layers::WsStream;
use common::{Client, PATIENCE, RUNTIMES, start, subscribe_packet};
use petrel_engine::boot::Running;
use petrel_engine::config::{Config, FdTablesChoice, RuntimeChoice};
use petrel_net::stages::Stage;
use petrel_proto::{Packet, Qos, ReasonCode};
use rustls::version::TLS13;
use rustls::{ClientConnection, StreamOwned};

/// Who comes from there may subscribe, as long as it is the user of its topic.
const RULES: &str = "[[rule]]\nallow = \"subscribe\"\ntopics = [\"anybody\"]\naddresses = [\"192.0.2.0/24\"]\n\
                     [[rule]]\nallow = \"subscribe\"\ntopics = [\"of/%u\"]\naddresses = [\"2001:db8::/32\"]\n\
                     [[rule]]\nallow = \"subscribe\"\ntopics = [\"local\"]\naddresses = [\"127.0.0.0/8\"]\n";

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 1883\r\n";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A header of version 2: this command, an IPv6 address, a certificate of this name.
fn version_2(command: u8, client: u8, name: &str) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let mut addresses = [0; 36];
    addresses[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    let mut ssl = vec![client, 0, 0, 0, 0, 0x22];
    ssl.extend_from_slice(&length(name.len()));
    ssl.extend_from_slice(name.as_bytes());
    let rest = length(addresses.len() + 3 + ssl.len());
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let fixed = [command, 0x21];
    [&signature[..], &fixed, &rest, &addresses, &[0x20], &length(ssl.len()), &ssl].concat()
}

/// A broker with a listener of each protocol, all behind these proxies.
fn broker(folder: &Path, runtime: RuntimeChoice, trusted: &str, more: &str) -> Running {
    let listener = |protocol: &str| {
        let keys = match protocol {
            "mqtts" | "wss" => "cert = \"server.pem\"\nkey = \"server.pem\"\n",
            _ => "",
        };
        format!(
            "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:0\"\n{keys}\
             proxy_protocol = true\nproxy_trusted = [\"{trusted}\"]\n\
             authentication = [\"devices\"]\nallow_anonymous = true\n"
        )
    };
    let listeners = ["mqtt", "mqtts", "ws", "wss"].map(listener).concat();
    let text = format!(
        "{listeners}[[authenticator]]\nname = \"devices\"\nkind = \"certificate\"\n\
         [access]\nrules = \"rules\"\n{more}"
    );
    let mut config = match Config::parse(&text, folder) {
        Ok(config) => config,
        Err(problems) => panic!("{problems:?}"),
    };
    config.engine.shards = Some(2);
    config.engine.runtime = runtime;
    config.engine.fd_tables = FdTablesChoice::Shared;
    start(config)
}

fn folder() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new(folder.path());
    authority.put("server.pem", &authority.server(&["localhost"]));
    fs::write(folder.path().join("rules"), RULES).expect("written");
    (folder, authority)
}

/// A connection on which a proxy has said this.
fn behind(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = Client::open(address).stream;
    stream.write_all(header).expect("the broker reads");
    stream
}

/// Whether a client may subscribe, once it is in.
fn may<S: std::io::Read + std::io::Write>(stream: S, topic: &str) -> bool {
    let mut client = Client::over(stream);
    client.hello("client");
    client.send(&subscribe_packet(topic, Qos::AtMostOnce));
    match client.receive() {
        Some(Packet::SubAck(ack)) => (ack.reasons[0] as u8) < 0x80,
        other => panic!("no SUBACK but {other:?}"),
    }
}

#[test]
fn the_address_that_a_proxy_says_is_the_one_of_rules() {
    let (folder, authority) = folder();
    for runtime in RUNTIMES {
        let broker = broker(folder.path(), runtime, "127.0.0.0/8", "");
        let [plain, tls, ws, wss] = broker.addresses() else { panic!("four listeners") };
        let device = authority.device(&TLS13, None);
        let over_tls = |address: SocketAddr, header: &[u8]| {
            let name = "localhost".try_into().expect("a name");
            let session = ClientConnection::new(Arc::clone(&device), name).expect("good");
            StreamOwned::new(session, behind(address, header))
        };
        for (header, anybody, local) in [(LINE, true, false), (UNKNOWN, false, true)] {
            for (topic, expected) in [("anybody", anybody), ("local", local)] {
                assert_eq!(may(behind(*plain, header), topic), expected);
                assert_eq!(may(over_tls(*tls, header), topic), expected);
                let socket = WsStream::open(behind(*ws, header), "/mqtt");
                assert_eq!(may(socket, topic), expected);
                let socket = WsStream::open(over_tls(*wss, header), "/mqtt");
                assert_eq!(may(socket, topic), expected);
            }
        }
        let local = version_2(0x20, 7, "device-1");
        assert!(may(behind(*plain, &local), "local"), "the proxy speaks for itself");
        broker.stop().expect("it stops");
    }
}

#[test]
fn the_certificate_that_a_proxy_has_verified_names_the_user() {
    let (folder, _authority) = folder();
    let broker = broker(folder.path(), RuntimeChoice::Auto, "127.0.0.0/8", "");
    let plain = broker.addresses()[0];
    let shown = version_2(0x21, 7, "device-1");
    assert!(may(behind(plain, &shown), "of/device-1"));
    assert!(!may(behind(plain, &shown), "of/admin"));
    let says = |user| greet(&mut behind(plain, &shown), &connect("client", Some(user)));
    assert_eq!(says("device-1"), Some(ReasonCode::Success));
    assert_eq!(says("admin"), Some(ReasonCode::BadUserNameOrPassword));
    // It came by TLS and has shown none.
    assert!(!may(behind(plain, &version_2(0x21, 1, "device-1")), "of/device-1"));
    broker.stop().expect("it stops");
}

/// Waits for figures, which are a quarter of a second old.
fn until(broker: &Running, stage: Stage, count: u64) {
    let begin = Instant::now();
    while broker.watch().figures().census.stage(stage) != count {
        assert!(begin.elapsed() < PATIENCE, "{} is not {count}", stage.name());
        std::thread::yield_now();
    }
}

#[test]
fn who_is_no_trusted_proxy_is_closed_and_counted() {
    let (folder, _authority) = folder();
    for runtime in RUNTIMES {
        let broker = broker(folder.path(), runtime, "10.0.0.0/8", "");
        let mut stranger = TcpStream::connect(broker.addresses()[0]).expect("it listens");
        // It may be gone before that.
        let _ = stranger.write_all(LINE);
        assert!(matches!(stranger.read(&mut [0; 8]), Ok(0) | Err(_)));
        until(&broker, Stage::ProxyUntrusted, 1);
        broker.stop().expect("it stops");

        let broker = self::broker(folder.path(), runtime, "127.0.0.1", "");
        for address in broker.addresses() {
            let mut client = Client::open(*address).stream;
            client.write_all(b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0").expect("the broker reads");
            assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
        }
        until(&broker, Stage::ProxyRefused, 4);
        broker.stop().expect("it stops");
    }
}

/// A proxy is one address; the rate is that of each of its clients.
#[test]
fn the_rate_of_a_source_is_that_of_the_client() {
    let (folder, _authority) = folder();
    let limits = "[limits]\nsource_connections_per_s = 1\nsource_connections_burst = 1\n";
    let broker = broker(folder.path(), RuntimeChoice::Auto, "127.0.0.1", limits);
    let line = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 1234 1883\r\n");
    let comes_in = |last: u8| {
        let mut stream = behind(broker.addresses()[0], line(last).as_bytes());
        greet(&mut stream, &connect("client", None)).is_some()
    };
    assert!((1..20).all(comes_in));
    // Of connections that are made at once all but one are refused, unless that takes a second each.
    let many: Vec<_> =
        (0..20).map(|_| behind(broker.addresses()[0], line(100).as_bytes())).collect();
    let mut figures = broker.watch().figures();
    let begin = Instant::now();
    while figures.census.stage(Stage::RefusedByRate) == 0 {
        assert!(begin.elapsed() < PATIENCE, "nobody is refused");
        std::thread::yield_now();
        figures = broker.watch().figures();
    }
    drop(many);
    broker.stop().expect("it stops");
}
