//! How much memory a connection at rest costs, counted by the allocator.
//!
//! One test only: the counters are those of the process. What the C part of the TLS library allocates
//! is seen by the C allocator alone, which says what it has handed out, its own overhead included.

use std::alloc::System;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::BytesMut;
use petrel_net::tls::{RecordLayer, TicketSecret, TlsApplication, TlsConfig, TlsSession};
use petrel_net::websocket::{WebSocket, WebSocketClient, WebSocketConfig};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Enough to make the free blocks that the C allocator keeps in reserve a matter of a few bytes.
const CONNECTIONS: usize = 2_000;

/// What we accept per idle TLS session: version, record layer, bytes that Rust asked for, bytes of the
/// heap. A new library version has to stay below.
const TLS_BYTES_MAX: [(&SupportedProtocolVersion, RecordLayer, isize, isize); 4] = [
    (&TLS13, RecordLayer::Rustls, 2_300, 2_500),
    (&TLS12, RecordLayer::Rustls, 2_400, 3_600),
    (&TLS13, RecordLayer::Compact, 152, 200),
    (&TLS12, RecordLayer::Compact, 2_400, 3_600),
];
/// Bytes per idle WebSocket connection that we accept.
const WEBSOCKET_BYTES_MAX: usize = 96;

/// Bytes that are live now and were not when `region` began.
fn live(region: &Region<'_, System>) -> isize {
    let stats = region.change();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

/// What the C allocator has handed out, for C and for Rust.
fn heap_bytes() -> isize {
    // SAFETY: it takes no argument, and returns a structure of numbers by value.
    #[allow(unsafe_code)]
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as isize
}

#[test]
fn a_connection_at_rest_holds_no_buffer() {
    let (server, roots) = tls_config();
    for (version, layer, rust_bytes_max, heap_bytes_max) in TLS_BYTES_MAX {
        let server = server.clone().with_record_layer(layer);
        let client = client_config(version, roots.clone());
        let mut idle = Vec::with_capacity(CONNECTIONS);
        for _ in 0..64 {
            established(&server, &client);
        }
        let (region, heap) = (Region::new(COUNTED), heap_bytes());
        for _ in 0..CONNECTIONS {
            idle.push(established(&server, &client));
        }
        let rust_bytes = live(&region) / CONNECTIONS as isize;
        let heap_bytes = (heap_bytes() - heap) / CONNECTIONS as isize;
        let version = version.version;
        println!("{version:?} {layer:?}: {rust_bytes} bytes, {heap_bytes} of the heap");
        assert!(rust_bytes <= rust_bytes_max, "{version:?} {layer:?}: {rust_bytes} bytes");
        assert!(heap_bytes <= heap_bytes_max, "{version:?} {layer:?}: {heap_bytes} of the heap");
    }
    websocket_at_rest();
}

fn websocket_at_rest() {
    let config = Arc::new(WebSocketConfig::default());
    let (mut plain, mut out) = (BytesMut::with_capacity(4096), Vec::with_capacity(4096));
    let mut client = WebSocketClient::new("localhost", "/mqtt", [7; 16], &mut out);
    let request = std::mem::replace(&mut out, Vec::with_capacity(4096));
    let region = Region::new(COUNTED);
    let mut socket = WebSocket::new(&config);
    for byte in &request {
        socket.read(&[*byte], &mut plain, &mut out).unwrap();
    }
    assert_eq!(live(&region), 0, "the request is forgotten once it is answered");
    client.read(&out, || [1; 4], &mut plain, &mut Vec::new()).unwrap();
    let mut frames = Vec::with_capacity(4096);
    client.write(&[5; 1000], [1, 2, 3, 4], &mut frames);
    out.clear();

    let region = Region::new(COUNTED);
    socket.read(&frames, &mut plain, &mut out).unwrap();
    socket.write(&plain, &mut out);
    assert_eq!(region.change().allocations, 0, "data frames pass without an allocation");
    assert_eq!(plain, vec![5; 1000]);
    let size = size_of::<WebSocket>();
    println!("WebSocket: {size} bytes");
    assert!(size <= WEBSOCKET_BYTES_MAX, "{size} bytes");
}

fn tls_config() -> (TlsConfig, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both.pem");
    std::fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem()).unwrap();
    let secret = TicketSecret::new([1; 32]);
    let config = TlsConfig::from_pem_files(&path, &path, TlsApplication::Mqtt, &secret).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (config, roots)
}

fn client_config(
    version: &'static SupportedProtocolVersion,
    roots: RootCertStore,
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A session that has shaken hands and has carried 100 bytes each way, the last record in two pieces.
fn established(server: &TlsConfig, client: &Arc<ClientConfig>) -> TlsSession {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut session = TlsSession::new(server).unwrap();
    let mut plain = BytesMut::new();
    while session.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut answer = Vec::new();
        session.read(&mut wire, &mut plain, &mut answer).unwrap();
        client.read_tls(&mut answer.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    let mut wire = Vec::new();
    session.write(&[2; 100], &mut wire).unwrap();
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets().unwrap();
    client.reader().read_exact(&mut [0; 100]).unwrap();
    client.writer().write_all(&[3; 100]).unwrap();
    wire.clear();
    client.write_tls(&mut wire).unwrap();
    let (first, second) = wire.split_at_mut(50);
    session.read(first, &mut plain, &mut Vec::new()).unwrap();
    assert_eq!(session.tail_bytes(), 50);
    session.read(second, &mut plain, &mut Vec::new()).unwrap();
    assert_eq!(plain, vec![3; 100]);
    session
}
