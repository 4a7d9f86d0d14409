//! What a TLS 1.3 handshake costs the server, its beginning and its end apart.
//!
//! `cargo run --release -p petrel-net --example handshake_cost`. In memory, so the kernel's part is
//! not in it. These are the unit costs of the storm simulator, see `tools/sim/src/storm`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use petrel_net::certificate::user::CertificateUser;
use petrel_net::tls::{
    CertificateFiles, ClientCertificates, Demand, RecordLayer, TicketSecret, TlsApplication,
    TlsConfig, TlsPolicy, TlsSession, TlsSettings,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::TLS13;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

const HANDSHAKES: usize = 3_000;

fn main() {
    let site = Site::new();
    println!("us of {HANDSHAKES} handshakes, best tenth and median: hello, finish");
    for is_mutual in [false, true] {
        let asked = if is_mutual { "with a client's certificate" } else { "without" };
        for (kind, resumption) in
            [("full", Resumption::disabled()), ("resumed", Resumption::in_memory_sessions(8))]
        {
            let client = site.client(is_mutual, resumption);
            for layer in [RecordLayer::Rustls, RecordLayer::Compact] {
                let server = site.server(is_mutual, layer);
                let costs: Vec<_> = (0..HANDSHAKES).map(|_| cost(&server, &client)).collect();
                let (hellos, finishes): (Vec<_>, Vec<_>) = costs.into_iter().unzip();
                let (name, hello) = (layer.name(), summary(hellos));
                println!("{kind:<8} {name:<8} {hello}, {} {asked}", summary(finishes));
            }
        }
    }
}

/// An authority with a list of revoked certificates, and what it has signed.
struct Site {
    folder: tempfile::TempDir,
    trusted: CertificateDer<'static>,
    device: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

impl Site {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text);
        write("ca.pem", authority.pem()).unwrap();
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, key) = signed("localhost");
        write("server.pem", server.pem() + &key.serialize_pem()).unwrap();
        let revoked = (1..=1000_u64).map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        write("crl.pem", list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
        let (device, key) = signed("device-1");
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { folder, trusted: authority.der().clone(), device: (device.der().clone(), key) }
    }

    fn server(&self, is_mutual: bool, record_layer: RecordLayer) -> TlsConfig {
        let path = |name: &str| self.folder.path().join(name);
        let server = path("server.pem");
        let (demand, ca) = (Demand::Required, path("ca.pem"));
        let clients = ClientCertificates { demand, ca, crls: vec![path("crl.pem")] };
        let settings = TlsSettings {
            certificates: &[CertificateFiles { cert: &server, key: &server }],
            application: TlsApplication::Mqtt,
            record_layer,
            policy: &TlsPolicy::default(),
            clients: is_mutual.then_some(&clients),
            user: CertificateUser::default(),
        };
        TlsConfig::new(&settings, &TicketSecret::new([1; 32])).unwrap()
    }

    fn client(&self, is_mutual: bool, resumption: Resumption) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.trusted.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let (device, key) = &self.device;
        let mut client = match is_mutual {
            true => builder.with_client_auth_cert(vec![device.clone()], key.clone_key()).unwrap(),
            false => builder.with_no_client_auth(),
        };
        client.resumption = resumption;
        Arc::new(client)
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
