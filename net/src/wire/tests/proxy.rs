//! Connections behind a proxy.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::rig::{CONNECT, Rig};
use crate::bucket::{Buckets, Rate};
use crate::proxy::Proxies;
use crate::stages::Stage;
use crate::{Protocol, Remote, WireEvent, WireLimits};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 1883\r\n";

/// A header of version 2 with a verified certificate of this name.
fn named(name: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let mut ssl = vec![7, 0, 0, 0, 0, 0x22];
    ssl.extend_from_slice(&length(name.len()));
    ssl.extend_from_slice(name);
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x04, 0xd2, 0x07, 0x5b];
    let rest = length(addresses.len() + 3 + ssl.len());
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
    [&signature[..], &rest, &addresses, &[0x20], &length(ssl.len()), &ssl].concat()
}

fn proxies(trusted: &str) -> Arc<Proxies> {
    Arc::new(Proxies { trusted: vec![trusted.parse().expect("good")], name_users: true })
}

fn behind(trusted: &str) -> Rig {
    Rig::behind(Protocol::Mqtt, Some(proxies(trusted)), WireLimits::default())
}

fn peer_of(rig: &mut Rig) -> (String, Option<String>) {
    match rig.expect_event() {
        WireEvent::Connect { peer: Remote { address: Some(address), user }, .. } => {
            (address.to_string(), user.map(|user| user.as_str().to_owned()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_address_is_the_one_that_the_proxy_says_however_its_header_comes() {
    let mut rig = behind("127.0.0.0/8");
    let mut together = rig.client();
    together.write_all(&[LINE, CONNECT].concat()).expect("sent");
    assert_eq!(peer_of(&mut rig), ("192.0.2.7:1234".to_owned(), None));
    let mut dribbling = rig.client();
    for byte in [&named(b"device-1"), CONNECT].concat() {
        dribbling.write_all(&[byte]).expect("sent");
        rig.turn();
    }
    let expected = ("192.0.2.7:1234".to_owned(), Some("device-1".to_owned()));
    assert_eq!(peer_of(&mut rig), expected);
    let mut local = rig.client();
    local.write_all(&[b"PROXY UNKNOWN\r\n", CONNECT].concat()).expect("sent");
    assert_eq!(peer_of(&mut rig).0, local.local_addr().expect("it has one").to_string());
    assert_eq!(rig.wire.census().stage(Stage::Connect), 3);
}

#[test]
fn who_is_no_proxy_is_closed_and_counted() {
    let mut rig = behind("127.0.0.1");
    let mut stranger = rig.client_from(Ipv4Addr::new(127, 0, 0, 2));
    rig.until(|rig| rig.wire.census().stage(Stage::ProxyUntrusted) == 1);
    assert!(matches!(stranger.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert_eq!(rig.wire.census().stage(Stage::Accepted), 0);
    // A client that comes without a header is no proxy either.
    for bytes in [CONNECT, b"PROXY nonsense\r\n", &named(b"a\0b")] {
        let mut client = rig.client();
        client.write_all(bytes).expect("sent");
        let before = rig.wire.census().stage(Stage::ProxyRefused);
        rig.until(|rig| rig.wire.census().stage(Stage::ProxyRefused) == before + 1);
        assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
    assert_eq!(rig.wire.connections(), 0);
}

#[test]
fn a_header_that_does_not_end_is_cut_in_time() {
    let mut rig = behind("127.0.0.0/8");
    let mut dribbling = rig.client();
    rig.until(|rig| rig.wire.connections() == 1);
    for byte in &LINE[..9] {
        rig.pass_ms(1_000);
        dribbling.write_all(&[*byte]).expect("sent");
        rig.expect_silence();
    }
    rig.pass_ms(1_500);
    rig.expect_silence();
    assert_eq!(rig.wire.connections(), 0);
    assert_eq!(rig.wire.census().stage(Stage::ConnectTimedOut), 1);
}

/// The proxy is one address, and its clients are many.
#[test]
fn each_client_has_a_rate_of_its_own() {
    let mut rig = behind("127.0.0.0/8");
    rig.wire.limit_sources(Arc::new(Buckets::new(Rate { per_s: 1, burst: 1 })));
    let mut clients = Vec::new();
    for last in [1, 2] {
        let mut client = rig.client();
        let line = format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 1234 1883\r\n");
        client.write_all(&[line.as_bytes(), CONNECT].concat()).expect("sent");
        assert_eq!(peer_of(&mut rig).0, format!("192.0.2.{last}:1234"));
        clients.push(client);
    }
    let mut again = rig.client();
    let line = b"PROXY TCP4 192.0.2.2 198.51.100.1 4321 1883\r\n";
    again.write_all(&[line, CONNECT].concat()).expect("sent");
    rig.until(|rig| rig.wire.census().stage(Stage::RefusedByRate) == 1);
    assert_eq!(rig.wire.connections(), 2);
}

/// The header is in the clear, and the handshake behind it.
#[test]
fn tls_begins_behind_the_header() {
    let (protocol, config) = super::tls::mqtts();
    let mut rig = Rig::behind(protocol, Some(proxies("127.0.0.0/8")), WireLimits::default());
    let mut stream = rig.client();
    stream.write_all(LINE).expect("sent");
    let (mut stream, mut tls) = rig.shake(stream, &config);
    tls.writer().write_all(CONNECT).expect("buffered");
    tls.write_tls(&mut stream).expect("sent");
    assert_eq!(peer_of(&mut rig).0, "192.0.2.7:1234");
    // Without one it is none.
    let mut bare = rig.client();
    bare.write_all(&[22, 3, 1, 1, 0]).expect("sent");
    rig.until(|rig| rig.wire.census().stage(Stage::ProxyRefused) == 1);
}
