//! What a TLS 1.3 handshake costs the server, its beginning and its end apart.
//!
//! `cargo run --release -p petrel-net --example handshake_cost`. In memory, so the kernel's part is
//! not in it. These are the unit costs of the storm simulator, see `tools/sim/src/storm`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use petrel_net::tls::{RecordLayer, TicketSecret, TlsApplication, TlsConfig, TlsSession};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls_pki_types::ServerName;

const HANDSHAKES: usize = 3_000;

fn main() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.pem");
    std::fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let secret = TicketSecret::new([1; 32]);
    let server = TlsConfig::from_pem_files(&path, &path, TlsApplication::Mqtt, &secret).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    println!("us of {HANDSHAKES} handshakes, best tenth and median: hello, finish");
    for (kind, resumption) in
        [("full", Resumption::disabled()), ("resumed", Resumption::in_memory_sessions(8))]
    {
        let mut client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        client.resumption = resumption;
        let client = Arc::new(client);
        for layer in [RecordLayer::Rustls, RecordLayer::Compact] {
            let server = server.clone().with_record_layer(layer);
            let costs: Vec<_> = (0..HANDSHAKES).map(|_| cost(&server, &client)).collect();
            let (hellos, finishes): (Vec<_>, Vec<_>) = costs.into_iter().unzip();
            let name = layer.name();
            println!("{kind:<8} {name:<8} {}, {}", summary(hellos), summary(finishes));
        }
    }
}

/// From ClientHello to the answer, and from the client's Finished to the ticket.
fn cost(server: &TlsConfig, client: &Arc<ClientConfig>) -> (Duration, Duration) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    let (mut arena, mut answer) = (BytesMut::new(), Vec::new());

    let begun = Instant::now();
    let mut session = TlsSession::new(server).unwrap();
    session.read(&mut wire, &mut arena, &mut answer).unwrap();
    let hello = begun.elapsed();

    client.read_tls(&mut answer.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    wire.clear();
    client.write_tls(&mut wire).unwrap();
    answer.clear();
    let begun = Instant::now();
    session.read(&mut wire, &mut arena, &mut answer).unwrap();
    let finish = begun.elapsed();

    assert!(!session.is_handshaking());
    client.read_tls(&mut answer.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    (hello, finish)
}

fn summary(mut costs: Vec<Duration>) -> String {
    costs.sort_unstable();
    let us = |at: usize| costs[at].as_secs_f64() * 1e6;
    format!("{:>6.1} {:>6.1}", us(costs.len() / 10), us(costs.len() / 2))
}
