//! What a TLS record of 100 bytes costs the server, with either record layer.
//!
//! `cargo run --release -p petrel-net --example record_cost`. Many connections take turns, so that
//! what each of them holds is out of the caches, as in a broker with idle clients; or one alone.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use petrel_net::tls::{RecordLayer, TicketSecret, TlsApplication, TlsConfig, TlsSession};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls_pki_types::ServerName;

const ROUNDS: usize = 15;
const PAYLOAD: [u8; 100] = [7; 100];

fn main() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.pem");
    std::fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let secret = TicketSecret::new([1; 32]);
    let server = TlsConfig::from_pem_files(&path, &path, TlsApplication::Mqtt, &secret).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    let client = Arc::new(client);
    println!("ns per record of 100 bytes, best of {ROUNDS} rounds: open, seal");
    for connections in [1, 4_000] {
        for layer in [RecordLayer::Rustls, RecordLayer::Compact] {
            let server = server.clone().with_record_layer(layer);
            let mut pairs: Vec<_> = (0..connections).map(|_| shaken(&server, &client)).collect();
            let (open, seal) = cost(&mut pairs);
            println!("{connections:>5} connections, {:<7} {open:>5.0} {seal:>5.0}", layer.name());
        }
    }
}

fn shaken(server: &TlsConfig, client: &Arc<ClientConfig>) -> (TlsSession, ClientConnection) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut session = TlsSession::new(server).unwrap();
    while session.is_handshaking() {
        let (mut wire, mut answer) = (Vec::new(), Vec::new());
        client.write_tls(&mut wire).unwrap();
        session.read(&mut wire, &mut BytesMut::new(), &mut answer).unwrap();
        client.read_tls(&mut answer.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    (session, client)
}

/// Nanoseconds per record that is opened, and that is sealed.
fn cost(pairs: &mut [(TlsSession, ClientConnection)]) -> (f64, f64) {
    let repeat = 4_000 / pairs.len();
    let mut best = (f64::MAX, f64::MAX);
    let (mut plain, mut out) = (BytesMut::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    for _ in 0..ROUNDS {
        let mut wires = Vec::new();
        for (_, client) in pairs.iter_mut() {
            let mut records = Vec::new();
            for _ in 0..repeat {
                let mut wire = Vec::new();
                client.writer().write_all(&PAYLOAD).unwrap();
                client.write_tls(&mut wire).unwrap();
                records.push(wire);
            }
            wires.push(records);
        }
        let count = (pairs.len() * repeat) as f64;
        let begin = Instant::now();
        for ((session, _), records) in pairs.iter_mut().zip(&mut wires) {
            for wire in records {
                plain.clear();
                session.read(wire, &mut plain, &mut out).unwrap();
            }
        }
        best.0 = best.0.min(begin.elapsed().as_nanos() as f64 / count);
        let begin = Instant::now();
        for (session, _) in pairs.iter_mut() {
            for _ in 0..repeat {
                out.clear();
                session.write(&PAYLOAD, &mut out).unwrap();
            }
        }
        best.1 = best.1.min(begin.elapsed().as_nanos() as f64 / count);
    }
    best
}
