//! An authority with its certificates and lists, and clients that show them.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petrel_proto::{Connect, Frame, Packet, ReasonCode, Version, decode, frame};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::layers::TlsStream;
use super::{Client, bytes_of, connect_packet, text};

pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// A chain and its key.
pub type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Signs certificates of brokers and of clients. Its own is `ca.pem` in its folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new(folder: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("good");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let certificate = params.self_signed(&key).expect("made");
        fs::write(folder.join("ca.pem"), certificate.pem()).expect("written");
        let certificate = certificate.der().clone();
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate of a broker with its key, as PEM.
    pub fn server(&self, names: &[&str]) -> String {
        self.server_until(names, 2100)
    }

    pub fn server_until(&self, names: &[&str], year: i32) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("good");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let made = params.signed_by(&key, &self.issuer).expect("made");
        made.pem() + &key.serialize_pem()
    }

    /// What a client of this name shows.
    pub fn client(&self, serial: u64, name: &str) -> Shown {
        self.client_with(serial, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    pub fn client_with(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("good");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let made = params.signed_by(&key, &self.issuer).expect("made");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (vec![made.der().clone()], key)
    }

    /// Moves a list with these serial numbers to `crl.pem`.
    pub fn revoke(&self, serials: &[u64]) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("made").pem().expect("made");
        self.put("crl.pem", &list);
    }

    /// Moves a file in the place of another, if there is one.
    pub fn put(&self, name: &str, text: &str) {
        let draft = self.folder.join("draft");
        fs::write(&draft, text).expect("written");
        fs::rename(draft, self.folder.join(name)).expect("moved");
    }

    /// What connections of one client have in common.
    pub fn device(
        &self,
        version: &'static SupportedProtocolVersion,
        shown: Option<&Shown>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a good certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shown {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .expect("a good certificate"),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }
}

/// A connection that asks for a name. The handshake is made by the first write.
pub fn open(device: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> TlsStream {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::clone(device), name).expect("good");
    StreamOwned::new(connection, Client::open(address).stream)
}

/// CONNECT with a user name, if there is one.
pub fn connect(client_id: &str, user: Option<&str>) -> Packet {
    let Packet::Connect(connect) = connect_packet(client_id, Version::V5) else { unreachable!() };
    Packet::Connect(Box::new(Connect { username: user.map(text), ..*connect }))
}

/// The reason of the CONNACK; `None` if the connection ends without one.
pub fn greet(stream: &mut (impl Read + Write), packet: &Packet) -> Option<ReasonCode> {
    stream.write_all(&bytes_of(packet, Version::V5)).ok()?;
    let mut input = Vec::new();
    loop {
        if let Ok(Frame::Complete(length)) = frame(&input, u32::MAX) {
            let packet = bytes::Bytes::copy_from_slice(&input[..length]);
            match decode(&packet, Some(Version::V5)) {
                Ok(Packet::ConnAck(ack)) => return Some(ack.reason),
                other => panic!("no CONNACK but {other:?}"),
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(bytes) => input.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let waited = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
                assert!(!waited.contains(&error.kind()), "nothing is said");
                return None;
            }
        }
    }
}
