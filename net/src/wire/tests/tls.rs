//! What TLS and the wire do together.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::rig::{CONNECT, HALF_HELLO, PINGREQ, Rig};
use crate::tls::{TicketSecret, TlsApplication, TlsConfig};
use crate::{Protocol, WireLimits};

/// MQTT over TLS with a new certificate, and what a client needs to trust it.
pub(super) fn mqtts() -> (Protocol, Arc<ClientConfig>) {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let secret = TicketSecret::generate().expect("random numbers");
    let tls = TlsConfig::from_pem_files(&cert, &key, TlsApplication::Mqtt, &secret);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&cert).expect("a certificate")).expect("a good one");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("there are versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Protocol::Mqtts(tls.expect("a good certificate")), Arc::new(config))
}

/// The TLS of a new client.
pub(super) fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = "localhost".try_into().expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a client")
}

/// The bytes of a whole ClientHello.
pub(super) fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let (mut tls, mut hello) = (client(config), Vec::new());
    while tls.wants_write() {
        tls.write_tls(&mut hello).expect("to memory");
    }
    hello
}

#[test]
fn a_ticket_leaves_with_the_connack() {
    let (protocol, config) = mqtts();
    let mut tls = client(&config);
    let mut rig = Rig::speaking(protocol, WireLimits::default());
    let mut client = rig.client();
    while tls.wants_write() {
        tls.write_tls(&mut client).expect("sent");
    }
    client.set_nonblocking(true).expect("it can be");
    while tls.is_handshaking() {
        rig.expect_silence();
        receive(&mut tls, &mut client);
    }
    // Finished and CONNECT in one segment, as a client sends them that does not dawdle.
    tls.writer().write_all(CONNECT).expect("buffered");
    let mut both = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut both).expect("to memory");
    }
    client.write_all(&both).expect("sent");
    let (key, _) = rig.expect_connect();
    assert_eq!(client.peek(&mut [0]).expect_err("nothing yet").kind(), ErrorKind::WouldBlock);
    rig.wire.write(key, b"\x20\x02\0\0"[..].into(), &Bytes::new());
    assert_eq!(rig.flush(), [(key, 0)]);
    receive(&mut tls, &mut client);
    assert_eq!(tls.tls13_tickets_received(), 1);
    let mut connack = [0; 4];
    tls.reader().read_exact(&mut connack).expect("it came with the ticket");
    assert_eq!(&connack, b"\x20\x02\0\0");
    rig.expect_at_rest(key);
}

/// A client that has sent everything and leaves at once.
#[test]
fn what_comes_with_the_end_behind_a_handshake_is_read() {
    let (mut rig, config) = Rig::over_tls(WireLimits::default());
    let mut tls = client(&config);
    let mut client = rig.client();
    client.set_nonblocking(true).expect("it can be");
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut client).expect("sent");
        }
        rig.expect_silence();
        receive(&mut tls, &mut client);
    }
    tls.writer().write_all(&[CONNECT, PINGREQ].concat()).expect("buffered");
    while tls.wants_write() {
        tls.write_tls(&mut client).expect("sent");
    }
    client.shutdown(std::net::Shutdown::Write).expect("it can be");
    let (key, _) = rig.expect_connect();
    assert_eq!(rig.expect_packet(), (key, petrel_proto::Packet::PingReq));
    assert!(matches!(rig.expect_event(), crate::WireEvent::Closed { conn, .. } if conn == key));
    assert_eq!(rig.wire.handshakes(), 0);
}

#[test]
fn less_than_a_client_hello_holds_no_place() {
    let (mut rig, config) =
        Rig::over_tls(WireLimits { handshakes_max: 1, ..WireLimits::default() });
    let beginners: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut client = rig.client();
            client.write_all(HALF_HELLO).expect("sent");
            client
        })
        .collect();
    rig.until(|rig| rig.wire.connections() == beginners.len());
    let mut client = rig.client();
    client.write_all(&hello(&config)).expect("sent");
    rig.until(|rig| rig.wire.handshakes() == 1);
    assert_eq!(rig.wire.connections(), beginners.len() + 1);
}

/// Reads once, if there is anything.
fn receive(tls: &mut ClientConnection, stream: &mut TcpStream) {
    match tls.read_tls(stream) {
        Ok(_) => drop(tls.process_new_packets().expect("the wire speaks TLS")),
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
}
