//! Sessions against the client side of rustls, in memory.
//!
//! The file is compiled twice: as `compact_tests` the server goes over to our own record layer.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use super::*;
use crate::certificate::PEM_FILE_BYTES_MAX;

fn record_layer() -> RecordLayer {
    match module_path!().ends_with("compact_tests") {
        true => RecordLayer::Compact,
        false => RecordLayer::Rustls,
    }
}

/// A self-signed certificate on disk, and configurations for both ends made from it.
struct Site {
    dir: tempfile::TempDir,
    roots: RootCertStore,
}

impl Site {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        Self { dir, roots }
    }

    fn server(&self) -> TlsConfig {
        self.server_for(TlsApplication::Mqtt, 7)
    }

    fn server_for(&self, application: TlsApplication, secret: u8) -> TlsConfig {
        let path = |name: &str| self.dir.path().join(name);
        let secret = TicketSecret::new([secret; 32]);
        TlsConfig::from_pem_files(&path("cert.pem"), &path("key.pem"), application, &secret)
            .unwrap()
            .with_record_layer(record_layer())
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        self.client_with(version, default_provider())
    }

    fn client_with(
        &self,
        version: &'static SupportedProtocolVersion,
        provider: rustls::crypto::CryptoProvider,
    ) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }
}

fn connect(config: ClientConfig) -> ClientConnection {
    connect_with(&Arc::new(config))
}

fn connect_with(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// Both ends and what has come out of the server.
struct Pair {
    client: ClientConnection,
    server: TlsSession,
    plain: BytesMut,
    /// Bytes per call of `read`.
    step: usize,
    /// What the server has said of its handshake, each time.
    completed: Vec<Handshake>,
}

impl Pair {
    fn new(config: &TlsConfig, client: ClientConnection, step: usize) -> Self {
        let server = TlsSession::new(config).unwrap();
        Self { client, server, plain: BytesMut::new(), step, completed: Vec::new() }
    }

    fn shaken(config: &TlsConfig, client: ClientConnection) -> Self {
        let mut pair = Self::new(config, client, usize::MAX);
        pair.run().unwrap();
        assert!(!pair.server.is_handshaking());
        let tls13 = pair.client.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        assert_eq!(pair.server.is_compact(), tls13 && record_layer() == RecordLayer::Compact);
        assert!(!pair.client.is_handshaking());
        pair
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// Gives the client bytes from the server and returns what it can decrypt.
    fn give_client(&mut self, mut wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut plain = Vec::new();
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            let waiting = self.client.process_new_packets()?.plaintext_bytes_to_read();
            let start = plain.len();
            plain.resize(start + waiting, 0);
            std::io::Read::read_exact(&mut self.client.reader(), &mut plain[start..]).unwrap();
        }
        Ok(plain)
    }

    fn give_server(&mut self, mut wire: Vec<u8>) -> (Result<TlsProgress, TlsError>, Vec<u8>) {
        let mut out = Vec::new();
        let mut progress = self.server.read(&mut [], &mut self.plain, &mut out);
        for chunk in wire.chunks_mut(self.step) {
            progress = self.server.read(chunk, &mut self.plain, &mut out);
            self.completed.extend(progress.iter().filter_map(|it| it.completed));
            if progress.is_err() {
                break;
            }
        }
        (progress, out)
    }

    /// Exchanges bytes until neither side has more to say.
    fn run(&mut self) -> Result<TlsProgress, TlsError> {
        loop {
            let wire = self.client_bytes();
            let idle = wire.is_empty();
            let (progress, out) = self.give_server(wire);
            let progress = progress?;
            self.give_client(&out).unwrap();
            if idle && out.is_empty() {
                return Ok(progress);
            }
        }
    }

    fn client_says(&mut self, bytes: &[u8]) -> Vec<u8> {
        std::io::Write::write_all(&mut self.client.writer(), bytes).unwrap();
        self.client_bytes()
    }

    fn server_says(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.server.write(bytes, &mut out).unwrap();
        out
    }
}

#[test]
fn both_versions_shake_hands_and_carry_data_both_ways() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::shaken(&site.server(), connect(site.client(version)));
        let wire = pair.client_says(b"up");
        pair.give_server(wire).0.unwrap();
        assert_eq!(&pair.plain[..], b"up");
        let wire = pair.server_says(b"down");
        assert_eq!(pair.give_client(&wire).unwrap(), b"down");
    }
}

#[test]
fn every_suite_of_tls_1_3_carries_records_of_every_size_and_changes_keys() {
    let site = Site::new();
    let suites = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    for suite in suites {
        let provider =
            rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
        let client = connect(site.client_with(&TLS13, provider));
        let mut pair = Pair::shaken(&site.server(), client);
        for length in [1, 15, 16, 100, 16_383, 16_384, 16_385, 40_000] {
            let bytes: Vec<u8> = (0..length).map(|n: usize| n as u8).collect();
            let wire = pair.client_says(&bytes);
            pair.plain.clear();
            let (progress, answer) = pair.give_server(wire);
            progress.unwrap();
            assert!(pair.plain[..] == bytes, "{suite:?}, {length} bytes up");
            assert_eq!(pair.give_client(&answer).unwrap(), b"");
            let wire = pair.server_says(&bytes);
            assert!(pair.give_client(&wire).unwrap() == bytes, "{suite:?}, {length} bytes down");
            pair.client.refresh_traffic_keys().unwrap();
        }
        let mut wire = pair.client_says(b"changed on the way");
        *wire.last_mut().unwrap() ^= 1;
        assert!(pair.give_server(wire).0.is_err(), "{suite:?}");
    }
}

#[test]
fn the_cheapest_suite_is_chosen_against_the_order_of_the_client() {
    let site = Site::new();
    let newest = cipher_suite::TLS13_AES_128_GCM_SHA256;
    let older = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    for (version, cheapest) in [(&TLS13, newest), (&TLS12, older)] {
        // Everything is offered, AES-256 before the rest.
        let mut provider = default_provider();
        provider.cipher_suites.sort_by_key(|suite| !format!("{suite:?}").contains("AES_256"));
        let pair = Pair::shaken(&site.server(), connect(site.client_with(version, provider)));
        assert_eq!(pair.client.negotiated_cipher_suite(), Some(cheapest));
    }
}

/// The handshake of a client that offers these groups and a key share for the first.
fn grouped(site: &Site, groups: &[&'static dyn SupportedKxGroup]) -> (NamedGroup, Handshake) {
    let provider =
        rustls::crypto::CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
    let client = connect(site.client_with(&TLS13, provider));
    let mut pair = Pair::shaken(&site.server(), client);
    // What the other record layer goes on with is right: data crosses both ways.
    let wire = pair.client_says(b"up");
    pair.give_server(wire).0.unwrap();
    assert_eq!(&pair.plain[..], b"up");
    let wire = pair.server_says(b"down");
    assert_eq!(pair.give_client(&wire).unwrap(), b"down");
    let group = pair.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(pair.completed.len(), 1);
    (group, pair.completed[0])
}

#[test]
fn the_key_share_that_a_client_sends_is_taken_if_its_group_is_known() {
    use kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let site = Site::new();
    let all = [X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    assert_eq!(grouped(&site, &all), (NamedGroup::X25519MLKEM768, Handshake::Full));
    // Another round trip for a group that we like better would cost more than it is worth.
    for first in 1..all.len() {
        let mut groups = all;
        groups.swap(0, first);
        assert_eq!(grouped(&site, &groups), (groups[0].name(), Handshake::Full));
    }
}

#[test]
fn a_key_share_of_an_unknown_group_costs_one_more_round_trip() {
    use kx_group::{MLKEM1024, SECP256R1, SECP256R1MLKEM768, SECP384R1, X25519};
    let site = Site::new();
    let retried = |groups: &[&'static dyn SupportedKxGroup]| {
        let (group, handshake) = grouped(&site, groups);
        assert_eq!(handshake, Handshake::Retried);
        group
    };
    // The order of the client decides, as far as we know its groups.
    assert_eq!(retried(&[MLKEM1024, X25519, SECP256R1]), NamedGroup::X25519);
    assert_eq!(retried(&[MLKEM1024, SECP256R1, X25519]), NamedGroup::secp256r1);
    assert_eq!(retried(&[SECP256R1MLKEM768, SECP384R1]), NamedGroup::secp384r1);
}

#[test]
fn bytes_may_arrive_one_at_a_time() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::new(&site.server(), connect(site.client(version)), 1);
        let progress = pair.run().unwrap();
        assert!(progress.handshake_done && !progress.peer_closed);
        let wire = pair.client_says(b"one at a time");
        pair.give_server(wire).0.unwrap();
        assert_eq!(&pair.plain[..], b"one at a time");
        assert_eq!(pair.server.tail_bytes(), 0);
    }
}

#[test]
fn a_handshake_spread_over_many_records_is_put_together() {
    let site = Site::new();
    for step in [1, 3, 50, usize::MAX] {
        let mut config = site.client(&TLS13);
        config.max_fragment_size = Some(32);
        let mut pair = Pair::new(&site.server(), connect(config), step);
        assert!(pair.run().unwrap().handshake_done, "step {step}");
        assert_eq!(pair.server.tail_bytes(), 0);
    }
}

#[test]
fn every_split_of_the_client_hello_is_answered() {
    let site = Site::new();
    let config = site.server();
    let mut client = connect(site.client(&TLS13));
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for at in 1..hello.len() {
        let mut session = TlsSession::new(&config).unwrap();
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        session.read(&mut hello[..at].to_vec(), &mut plain, &mut out).unwrap();
        assert!(out.is_empty() && session.tail_bytes() == at);
        session.read(&mut hello[at..].to_vec(), &mut plain, &mut out).unwrap();
        assert!(!out.is_empty() && session.tail_bytes() == 0);
    }
}

#[test]
fn every_split_of_two_records_gives_the_same_bytes() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    for at in 0..=60 {
        let mut wire = pair.client_says(b"first");
        wire.extend(pair.client_says(b"second"));
        let second = wire.split_off(at.min(wire.len()));
        pair.plain.clear();
        pair.give_server(wire).0.unwrap();
        pair.give_server(second).0.unwrap();
        assert_eq!(&pair.plain[..], b"firstsecond", "split at {at}");
        assert_eq!(pair.server.tail_bytes(), 0);
    }
}

#[test]
fn bulk_crosses_read_boundaries_in_both_directions() {
    let site = Site::new();
    let bulk: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::shaken(&site.server(), connect(site.client(version)));
        pair.client.set_buffer_limit(None);
        pair.step = 65_536;
        let wire = pair.client_says(&bulk);
        pair.give_server(wire).0.unwrap();
        assert_eq!(&pair.plain[..], &bulk[..]);
        let wire = pair.server_says(&bulk);
        assert!(wire.len() < bulk.len() + 19 * 30, "one record per 16 KiB");
        assert_eq!(pair.give_client(&wire).unwrap(), bulk);
    }
}

#[test]
fn what_is_written_together_leaves_in_one_record() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    for length in [1, 1000, 16_384] {
        let wire = pair.server_says(&vec![7; length]);
        assert_eq!(wire.len(), length + 22);
        assert_eq!(pair.give_client(&wire).unwrap().len(), length);
    }
    assert!(pair.server_says(b"").is_empty());
}

#[test]
fn a_session_resumes_under_a_new_certificate_with_the_same_secret() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let client = Arc::new(site.client(version));
        let first = Pair::shaken(&site.server(), connect_with(&client));
        assert_eq!(first.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(first.completed, [Handshake::Full]);
        // The second configuration has another certificate, which this client does not trust: only
        // resumption can succeed.
        let second = Pair::shaken(&Site::new().server(), connect_with(&client));
        assert_eq!(second.client.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(second.completed, [Handshake::Resumed]);
        // And the session is as good as the first one: it gives a ticket for the next.
        let third = Pair::shaken(&site.server(), connect_with(&client));
        assert_eq!(third.client.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn another_secret_means_a_full_handshake_and_no_error() {
    let site = Site::new();
    let client = Arc::new(site.client(&TLS13));
    Pair::shaken(&site.server_for(TlsApplication::Mqtt, 1), connect_with(&client));
    let second = Pair::shaken(&site.server_for(TlsApplication::Mqtt, 2), connect_with(&client));
    assert_eq!(second.client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn alpn_is_answered_when_offered_and_refused_when_foreign() {
    let site = Site::new();
    for (application, name) in
        [(TlsApplication::Mqtt, &b"mqtt"[..]), (TlsApplication::WebSocket, b"http/1.1")]
    {
        let server = site.server_for(application, 7);
        let mut config = site.client(&TLS13);
        config.alpn_protocols = vec![b"h2".to_vec(), name.to_vec()];
        let pair = Pair::shaken(&server, connect(config));
        assert_eq!(pair.client.alpn_protocol(), Some(name));
        let pair = Pair::shaken(&server, connect(site.client(&TLS13)));
        assert_eq!(pair.client.alpn_protocol(), None);
        let mut config = site.client(&TLS13);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut pair = Pair::new(&server, connect(config), usize::MAX);
        let wire = pair.client_bytes();
        let (result, out) = pair.give_server(wire);
        assert!(matches!(result, Err(TlsError::Protocol(_))));
        assert!(pair.give_client(&out).is_err(), "the client gets an alert");
    }
}

#[test]
fn a_key_update_is_followed_and_answered() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    for round in 0..3u8 {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.client_says(&[round]);
        let (result, answer) = pair.give_server(wire);
        result.unwrap();
        assert_eq!(pair.give_client(&answer).unwrap(), b"");
        let wire = pair.server_says(&[round]);
        assert_eq!(pair.give_client(&wire).unwrap(), [round]);
    }
    assert_eq!(&pair.plain[..], [0, 1, 2]);
}

#[test]
fn a_client_that_only_updates_keys_is_cut() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    let result = (0..100).find_map(|_| {
        pair.client.refresh_traffic_keys().unwrap();
        let wire = pair.client_bytes();
        pair.give_server(wire).0.err()
    });
    let flood = TlsError::Record(compact::RecordFault::Flood);
    assert!(result == Some(flood) || matches!(result, Some(TlsError::Protocol(_))));
}

#[test]
fn the_close_of_the_client_is_seen_and_what_follows_is_ignored() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::shaken(&site.server(), connect(site.client(version)));
        let mut wire = pair.client_says(b"last");
        pair.client.send_close_notify();
        wire.extend(pair.client_bytes());
        wire.extend(b"noise after the end");
        let (progress, _) = pair.give_server(wire);
        assert!(progress.unwrap().peer_closed);
        assert_eq!(&pair.plain[..], b"last");
        assert_eq!(pair.server.tail_bytes(), 0);
        // Our direction is still open.
        let wire = pair.server_says(b"bye");
        assert_eq!(pair.give_client(&wire).unwrap(), b"bye");
        let (progress, _) = pair.give_server(b"more noise".to_vec());
        assert!(progress.unwrap().peer_closed);
    }
}

#[test]
fn our_close_reaches_the_client_once_and_ends_writing() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::shaken(&site.server(), connect(site.client(version)));
        let mut wire = Vec::new();
        pair.server.close_notify(&mut wire);
        let once = wire.len();
        pair.server.close_notify(&mut wire);
        assert_eq!(wire.len(), once);
        assert_eq!(pair.server.write(b"late", &mut wire), Err(TlsError::NotWritable));
        assert_eq!(wire.len(), once);
        pair.give_client(&wire).unwrap();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        let wire = pair.client_says(b"dropped");
        pair.give_server(wire).0.unwrap();
        assert!(pair.plain.is_empty());
    }
}

#[test]
fn a_broken_record_after_our_close_is_no_second_alert() {
    let site = Site::new();
    for version in [&TLS13, &TLS12] {
        let mut pair = Pair::shaken(&site.server(), connect(site.client(version)));
        pair.server.close_notify(&mut Vec::new());
        let mut wire = pair.client_says(b"broken");
        wire[8] ^= 1;
        let (_, out) = pair.give_server(wire);
        assert!(out.is_empty());
    }
}

#[test]
fn nothing_is_written_before_the_handshake_is_done() {
    let site = Site::new();
    let mut session = TlsSession::new(&site.server()).unwrap();
    let mut out = Vec::new();
    assert_eq!(session.write(b"early", &mut out), Err(TlsError::NotWritable));
    session.close_notify(&mut out);
    assert!(out.is_empty());
}

fn refused(first: &[u8]) -> (TlsError, Vec<u8>) {
    let mut session = TlsSession::new(&Site::new().server()).unwrap();
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    let error = session.read(&mut first.to_vec(), &mut plain, &mut out).unwrap_err();
    assert!(plain.is_empty());
    assert_eq!(session.read(&mut [22], &mut plain, &mut out), Err(TlsError::Failed));
    (error, out)
}

#[test]
fn plain_protocols_on_a_tls_port_are_named() {
    let (error, alert) = refused(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00");
    assert_eq!(error.to_string(), "the client spoke plain MQTT on a TLS port");
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 50]);
    let (error, _) = refused(b"GET /mqtt HTTP/1.1\r\n");
    assert_eq!(error.to_string(), "the client spoke plain HTTP on a TLS port");
    assert_eq!(refused(&[0]).0, TlsError::NotTls(NotTls::Other));
}

#[test]
fn garbage_ends_the_session_with_an_alert() {
    for first in [&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0][..], &[22, 9, 9, 0, 1, 0], &[23, 3, 3, 0, 1, 0]]
    {
        let (error, alert) = refused(first);
        assert!(matches!(error, TlsError::Protocol(_)), "{error}");
        assert_eq!(alert[0], 21, "{error}");
    }
}

#[test]
fn a_changed_bit_ends_the_session_with_bad_record_mac() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    let mut wire = pair.client_says(b"good");
    let mut changed = pair.client_says(b"bad");
    changed[10] ^= 1;
    wire.extend(changed);
    let (result, out) = pair.give_server(wire);
    let bad_mac = TlsError::Record(compact::RecordFault::BadMac);
    assert!(result == Err(bad_mac) || matches!(result, Err(TlsError::Protocol(_))));
    assert_eq!(&pair.plain[..], b"good", "what came before the fault is delivered");
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac);
    assert_eq!(pair.give_client(&out), Err(alert));
    assert_eq!(pair.server.write(b"no", &mut Vec::new()), Err(TlsError::Failed));
}

#[test]
fn an_oversized_record_is_refused() {
    // Longer than any record may be: refused by its header.
    let (error, alert) = refused(&[22, 3, 3, 0xff, 0xff]);
    assert!(matches!(error, TlsError::Protocol(_)));
    assert_eq!(alert[0], 21);
    // Longer than any record of ours: refused when more than the limit would have to be kept.
    let mut record = vec![22, 3, 3, 0x47, 0xff];
    record.resize(TAIL_BYTES_MAX + 1, 1);
    let (error, alert) = refused(&record);
    assert_eq!(error, TlsError::TooLarge);
    assert_eq!(alert[0], 21);
}

#[test]
fn a_huge_client_hello_is_cut_at_the_limit() {
    let mut session = TlsSession::new(&Site::new().server()).unwrap();
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    let mut message = vec![1, 0, 0xff, 0x00];
    message.resize(60_000, 0);
    let mut fed = 0;
    let error = message
        .chunks(1000)
        .find_map(|chunk| {
            let mut record = vec![22, 3, 1, 3, 0xe8];
            record.extend_from_slice(chunk);
            fed += record.len();
            let result = session.read(&mut record, &mut plain, &mut out);
            assert!(session.tail_bytes() <= TAIL_BYTES_MAX);
            result.err()
        })
        .unwrap();
    assert_eq!(error, TlsError::TooLarge);
    assert!(fed <= TAIL_BYTES_MAX + 1005);
    assert_eq!(out, [21, 3, 3, 0, 2, 2, 22]);
    assert_eq!(session.tail_bytes(), 0);
}

#[test]
fn a_client_without_a_common_version_is_told() {
    // A TLS 1.0 hello with one CBC suite, as an old device sends it.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    let (error, alert) = refused(&hello);
    assert!(matches!(error, TlsError::Protocol(ref fault) if !fault.is_peer_alert()), "{error}");
    assert_eq!(alert[0], 21);
}

#[test]
fn an_alert_of_the_client_is_told_apart() {
    let site = Site::new();
    let mut pair = Pair::new(&Site::new().server(), connect(site.client(&TLS13)), usize::MAX);
    let wire = pair.client_bytes();
    let (_, out) = pair.give_server(wire);
    assert!(pair.give_client(&out).is_err(), "the certificate is unknown to the client");
    let wire = pair.client_bytes();
    let (result, _) = pair.give_server(wire);
    assert!(matches!(result, Err(TlsError::Protocol(fault)) if fault.is_peer_alert()));
}

/// A pair whose client is replaced by a forger that has its keys.
fn forged() -> (Pair, Forger) {
    let site = Site::new();
    let mut config = site.client(&TLS13);
    config.enable_secret_extraction = true;
    let mut pair = Pair::shaken(&site.server(), connect(config));
    let client = std::mem::replace(&mut pair.client, connect(site.client(&TLS13)));
    (pair, Forger::new(client))
}

#[test]
fn writing_goes_on_while_a_fragment_of_a_handshake_message_is_kept() {
    let (mut pair, mut forger) = forged();
    // A KeyUpdate in two halves, each in a record of its own.
    for half in [&[24, 0, 0][..], &[1, 1]] {
        pair.give_server(forger.handshake_record(half)).0.unwrap();
        assert!(!pair.server_says(b"not disturbed").is_empty());
    }
    assert_eq!(pair.server.tail_bytes(), 0);
}

#[test]
fn closing_works_while_a_fragment_of_a_handshake_message_is_kept() {
    let (mut pair, mut forger) = forged();
    pair.give_server(forger.handshake_record(&[24, 0, 0])).0.unwrap();
    assert_ne!(pair.server.tail_bytes(), 0);
    let mut wire = Vec::new();
    pair.server.close_notify(&mut wire);
    assert!(!wire.is_empty());
    assert_eq!(pair.server.tail_bytes(), 0);
}

/// Seals records that no honest client sends.
struct Forger {
    key: aws_lc_rs::aead::LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    fn new(client: ClientConnection) -> Self {
        #[allow(deprecated, reason = "the raw keys are what the test needs")]
        let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
        let rustls::ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("the server prefers AES-128");
        };
        let key = aws_lc_rs::aead::UnboundKey::new(&aws_lc_rs::aead::AES_128_GCM, key.as_ref());
        let iv = iv.as_ref().try_into().unwrap();
        Self { key: aws_lc_rs::aead::LessSafeKey::new(key.unwrap()), iv, sequence }
    }

    fn handshake_record(&mut self, fragment: &[u8]) -> Vec<u8> {
        use aws_lc_rs::aead::{Aad, Nonce};
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= seq;
        }
        self.sequence += 1;
        let mut body = fragment.to_vec();
        body.push(22);
        let header = [23, 3, 3, 0, (body.len() + 16) as u8];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
        [&header[..], &body].concat()
    }
}

#[test]
fn a_session_may_be_sent_to_another_thread_in_the_middle_of_a_record() {
    let site = Site::new();
    let mut pair = Pair::shaken(&site.server(), connect(site.client(&TLS13)));
    let mut wire = pair.client_says(b"halves");
    let second = wire.split_off(11);
    pair.give_server(wire).0.unwrap();
    let mut session = pair.server;
    let plain = std::thread::spawn(move || {
        let mut plain = BytesMut::new();
        session.read(&mut second.clone(), &mut plain, &mut Vec::new()).unwrap();
        plain
    });
    assert_eq!(&plain.join().unwrap()[..], b"halves");
}

/// The client's last flight with application data and a KeyUpdate right behind it.
fn finished_and_more(site: &Site) -> (Pair, Vec<u8>) {
    let mut pair = Pair::new(&site.server(), connect(site.client(&TLS13)), usize::MAX);
    let hello = pair.client_bytes();
    let (_, flight) = pair.give_server(hello);
    pair.give_client(&flight).unwrap();
    let mut wire = pair.client_says(b"at once, ");
    pair.client.refresh_traffic_keys().unwrap();
    wire.extend(pair.client_says(b"and under the next key"));
    (pair, wire)
}

#[test]
fn what_comes_with_the_finished_is_read_however_it_is_cut() {
    let site = Site::new();
    let length = finished_and_more(&site).1.len();
    for at in (0..=length).step_by(7) {
        let (mut pair, mut wire) = finished_and_more(&site);
        let rest = wire.split_off(at.min(wire.len()));
        let (first, mut answer) = pair.give_server(wire);
        first.unwrap();
        let (second, more) = pair.give_server(rest);
        assert!(second.unwrap().handshake_done, "cut at {at}");
        assert_eq!(&pair.plain[..], b"at once, and under the next key", "cut at {at}");
        answer.extend(more);
        pair.give_client(&answer).unwrap();
        let wire = pair.server_says(b"heard");
        assert_eq!(pair.give_client(&wire).unwrap(), b"heard");
        assert_eq!(pair.server.is_compact(), record_layer() == RecordLayer::Compact);
    }
}

#[test]
fn every_step_of_a_connection_may_be_made_on_another_thread() {
    let site = Site::new();
    let (server, mut client) = (site.server(), connect(site.client(&TLS13)));
    let mut session = TlsSession::new(&server).unwrap();
    let mut plain = BytesMut::new();
    for _ in 0..3 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        // The pieces cut records anywhere.
        for piece in wire.chunks(100) {
            let mut piece = piece.to_vec();
            let step = move || {
                let mut out = Vec::new();
                session.read(&mut piece, &mut plain, &mut out).unwrap();
                (session, plain, out)
            };
            let out;
            (session, plain, out) = std::thread::spawn(step).join().unwrap();
            let mut out = &out[..];
            while !out.is_empty() {
                client.read_tls(&mut out).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        if !client.is_handshaking() {
            std::io::Write::write_all(&mut client.writer(), b"moved ").unwrap();
        }
    }
    assert_eq!(&plain[..], b"moved moved ");
    assert_eq!(session.is_compact(), record_layer() == RecordLayer::Compact);
}

#[test]
fn a_session_is_a_pointer_and_what_it_points_to() {
    assert_eq!(size_of::<TlsSession>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Option<TlsSession>>(), 2 * size_of::<usize>());
}

mod files {
    use super::*;

    fn load(cert: &Path, key: &Path) -> Result<TlsConfig, TlsConfigError> {
        let secret = TicketSecret::new([7; 32]);
        TlsConfig::from_pem_files(cert, key, TlsApplication::Mqtt, &secret)
    }

    /// The sentence about a pair of files with this content.
    fn sentence(cert: &[u8], key: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (cert_path, key_path) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        std::fs::write(&cert_path, cert).unwrap();
        std::fs::write(&key_path, key).unwrap();
        let text = load(&cert_path, &key_path).unwrap_err().to_string();
        text.replace(&format!("{}/", dir.path().display()), "")
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_missing_file_is_named() {
        let site = Site::new();
        let absent = site.dir.path().join("absent.pem");
        let cert = site.dir.path().join("cert.pem");
        let key = site.dir.path().join("key.pem");
        let error = load(&absent, &key).unwrap_err().to_string();
        assert!(
            error.starts_with("the certificate file ")
                && error.ends_with("absent.pem does not exist")
        );
        let error = load(&cert, &absent).unwrap_err().to_string();
        assert!(
            error.starts_with("the private key file ")
                && error.ends_with("absent.pem does not exist")
        );
        let error = load(site.dir.path(), &key).unwrap_err().to_string();
        assert!(error.ends_with("cannot be read: Is a directory (os error 21)"), "{error}");
    }

    #[test]
    fn wrong_contents_are_explained() {
        let (cert, key) = made();
        let (_, foreign) = made();
        let (cert, key) = (cert.as_bytes(), key.as_bytes());
        assert_eq!(
            sentence(key, cert),
            "the file c.pem holds no certificate but a private key: are the two files swapped?"
        );
        assert_eq!(
            sentence(cert, cert),
            "the file k.pem holds no private key but a certificate: are the two files swapped?"
        );
        assert_eq!(sentence(b"", key), "the file c.pem holds no certificate (it is empty)");
        assert_eq!(sentence(b"hello", key), "the file c.pem holds no certificate in PEM form");
        assert_eq!(
            sentence(&[0x30, 0x82, 1, 1], key),
            "the file c.pem holds no certificate (it looks like DER; convert it to PEM)"
        );
        assert_eq!(
            sentence(cert, foreign.as_bytes()),
            "the private key in k.pem does not belong to the certificate in c.pem"
        );
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(sentence(broken, key), "the first certificate in c.pem cannot be parsed");
        let broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(sentence(cert, broken).starts_with("the private key in k.pem cannot be used"));
        assert_eq!(
            sentence(&cert[..cert.len() - 20], key),
            "the file c.pem is not valid PEM: a section has no END line"
        );
        let size = PEM_FILE_BYTES_MAX as usize + 1;
        assert_eq!(
            sentence(&vec![b' '; size], key),
            "the certificate file c.pem is larger than 1048576 bytes"
        );
    }

    #[test]
    fn a_key_with_a_passphrase_is_explained() {
        let (cert, _) = made();
        for key in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let text = sentence(cert.as_bytes(), key.as_bytes());
            assert!(text.contains("protected by a passphrase"), "{text}");
        }
    }

    #[test]
    fn one_file_may_hold_both() {
        let (cert, key) = made();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("both.pem");
        std::fs::write(&path, format!("{key}{cert}")).unwrap();
        assert_eq!(load(&path, &path).unwrap().warning(), None);
    }

    #[test]
    fn a_certificate_outside_its_period_is_only_a_warning() {
        for (years, expected) in [
            ((2001, 2002), CertificateWarning::Expired),
            ((3001, 3002), CertificateWarning::NotValidYet),
        ] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
            params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
            let cert = params.self_signed(&key).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("both.pem");
            std::fs::write(&path, format!("{}{}", key.serialize_pem(), cert.pem())).unwrap();
            assert_eq!(load(&path, &path).unwrap().warning(), Some(expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn changed_bytes_in_either_flight_never_panic(
        tls13 in any::<bool>(),
        second_flight in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        step in 1usize..2000,
        close_first in any::<bool>(),
    ) {
        let site = shared_site();
        let version = if tls13 { &TLS13 } else { &TLS12 };
        let mut pair = Pair::new(&site.server(), connect(site.client(version)), step);
        let mut wire = pair.client_bytes();
        if second_flight {
            let (_, out) = pair.give_server(wire);
            pair.give_client(&out).unwrap();
            wire = pair.client_bytes();
        }
        for (at, byte) in changes {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        if close_first {
            pair.server.close_notify(&mut Vec::new());
        }
        let (result, out) = pair.give_server(wire);
        prop_assert!(result.is_ok() || out.len() < 8192);
        prop_assert!(pair.server.tail_bytes() <= TAIL_BYTES_MAX);
        prop_assert!(pair.plain.is_empty());
        // Neither of these may touch input that was refused.
        let _ = pair.server.write(b"late", &mut Vec::new());
        pair.server.close_notify(&mut Vec::new());
        let _ = pair.give_server(vec![22, 3, 3, 0, 1, 0]);
    }
}

fn shared_site() -> &'static Site {
    static SITE: std::sync::LazyLock<Site> = std::sync::LazyLock::new(Site::new);
    &SITE
}
