//! Certificates of clients, several of ours, and policies, against the client side of rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, DnValue, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, string::Ia5String,
};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::*;
use crate::certificate::user::{CertificateUser, NameFault, USER_BYTES_MAX};
use crate::certificate::validity::DatedKind;

const LAYERS: [RecordLayer; 2] = [RecordLayer::Rustls, RecordLayer::Compact];
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// An authority, and the folder with its files.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let this = Self { folder, issuer: Issuer::new(params, key) };
        this.server("server", &["localhost"]);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate of ours with its key in one file.
    fn server(&self, file: &str, names: &[&str]) -> PathBuf {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let path = self.path(file);
        std::fs::write(&path, format!("{}{}", made.pem(), key.serialize_pem())).unwrap();
        path
    }

    /// What a client shows.
    fn client(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let made = params.signed_by(&key, &self.issuer).unwrap();
        (vec![made.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn named(&self, serial: u64, name: &str) -> Shown {
        self.client(serial, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    /// Writes a list of revoked certificates.
    fn revoke(&self, serials: &[u64], until_year: i32) {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(until_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        std::fs::write(self.path("crl.pem"), list.pem().unwrap()).unwrap();
    }

    fn clients(&self, demand: Demand, with_list: bool) -> ClientCertificates {
        let crls = if with_list { vec![self.path("crl.pem")] } else { Vec::new() };
        ClientCertificates { demand, ca: self.path("ca.pem"), crls }
    }
}

/// A listener's settings, as a test changes them.
struct Site {
    authority: Authority,
    certificates: Vec<PathBuf>,
    clients: Option<ClientCertificates>,
    user: CertificateUser,
    policy: TlsPolicy,
    layer: RecordLayer,
}

impl Site {
    fn new(layer: RecordLayer) -> Self {
        let authority = Authority::new("authority");
        let certificates = vec![authority.path("server")];
        let (clients, user) = (None, CertificateUser::default());
        Self { authority, certificates, clients, user, policy: TlsPolicy::default(), layer }
    }

    fn asking(layer: RecordLayer, demand: Demand, with_list: bool) -> Self {
        let mut site = Self::new(layer);
        site.clients = Some(site.authority.clients(demand, with_list));
        site
    }

    fn config(&self) -> TlsConfig {
        self.try_config().unwrap()
    }

    fn try_config(&self) -> Result<TlsConfig, TlsConfigError> {
        let files = |path: &'_ PathBuf| -> (PathBuf, PathBuf) { (path.clone(), path.clone()) };
        let owned: Vec<_> = self.certificates.iter().map(files).collect();
        let certificates: Vec<_> =
            owned.iter().map(|(cert, key)| CertificateFiles { cert, key }).collect();
        let settings = TlsSettings {
            certificates: &certificates,
            application: TlsApplication::Mqtt,
            record_layer: self.layer,
            policy: &self.policy,
            clients: self.clients.as_ref(),
            user: self.user,
        };
        TlsConfig::new(&settings, &TicketSecret::new([7; 32]))
    }

    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        shown: Option<&Shown>,
    ) -> Arc<ClientConfig> {
        client(&self.authority.path("ca.pem"), version, shown, default_provider())
    }
}

fn client(
    trusted: &Path,
    version: &'static SupportedProtocolVersion,
    shown: Option<&Shown>,
    provider: CryptoProvider,
) -> Arc<ClientConfig> {
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// What came of a connection.
#[derive(Debug)]
struct Outcome {
    result: Result<Option<String>, TlsError>,
    kind: Option<HandshakeKind>,
    plain: BytesMut,
    /// What the client was told.
    told: Result<(), rustls::Error>,
    shown: Vec<u8>,
}

impl Outcome {
    fn user(self) -> Option<String> {
        self.result.unwrap()
    }
}

/// Makes a connection on which the client speaks as soon as it can.
fn connect(config: &TlsConfig, client: &Arc<ClientConfig>) -> Outcome {
    connect_to(config, client, "localhost")
}

fn connect_to(config: &TlsConfig, client: &Arc<ClientConfig>, name: &str) -> Outcome {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = TlsSession::new(config).unwrap();
    let mut plain = BytesMut::new();
    let (mut user, mut told, mut has_spoken) = (None, Ok(()), false);
    let mut result = Ok(());
    while result.is_ok() && told.is_ok() {
        if !client.is_handshaking() && !has_spoken {
            has_spoken = true;
            std::io::Write::write_all(&mut client.writer(), b"hello").unwrap();
        }
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut answer = Vec::new();
        match server.read(&mut wire, &mut plain, &mut answer) {
            Ok(progress) => user = user.or(progress.user),
            Err(error) => result = Err(error),
        }
        let idle = wire.is_empty() && answer.is_empty();
        let mut answer = &answer[..];
        while !answer.is_empty() && told.is_ok() {
            client.read_tls(&mut answer).unwrap();
            told = client.process_new_packets().map(drop);
        }
        if idle {
            break;
        }
    }
    let shown = client.peer_certificates().map_or_else(Vec::new, |chain| chain[0].to_vec());
    let result = result.map(|()| user.map(|user| user.as_str().to_owned()));
    Outcome { result, kind: client.handshake_kind(), plain, told, shown }
}

/// Each version over each record layer.
fn everywhere(test: impl Fn(RecordLayer, &'static SupportedProtocolVersion)) {
    for layer in LAYERS {
        for version in VERSIONS {
            test(layer, version);
        }
    }
}

#[test]
fn a_required_certificate_names_the_user() {
    everywhere(|layer, version| {
        let site = Site::asking(layer, Demand::Required, false);
        let config = site.config();
        let shown = site.authority.named(1, "device-1");
        let outcome = connect(&config, &site.client(version, Some(&shown)));
        assert_eq!(&outcome.plain[..], b"hello");
        assert_eq!(outcome.user().as_deref(), Some("device-1"));
        let outcome = connect(&config, &site.client(version, None));
        assert!(outcome.result.is_err() && outcome.plain.is_empty(), "{outcome:?}");
    });
}

#[test]
fn an_optional_certificate_may_be_missing_and_must_not_be_wrong() {
    everywhere(|layer, version| {
        let site = Site::asking(layer, Demand::Optional, false);
        let config = site.config();
        assert_eq!(connect(&config, &site.client(version, None)).user(), None);
        let own = site.authority.named(1, "device-1");
        let user = connect(&config, &site.client(version, Some(&own))).user();
        assert_eq!(user.as_deref(), Some("device-1"));
        let foreign = Authority::new("authority").named(1, "device-1");
        let outcome = connect(&config, &site.client(version, Some(&foreign)));
        assert!(outcome.result.is_err() && outcome.plain.is_empty(), "{outcome:?}");
    });
}

#[test]
fn a_certificate_out_of_date_is_refused() {
    everywhere(|layer, version| {
        let site = Site::asking(layer, Demand::Required, false);
        let old = site.authority.client(1, |params| {
            params.distinguished_name.push(DnType::CommonName, "device-1");
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        let outcome = connect(&site.config(), &site.client(version, Some(&old)));
        assert!(outcome.result.is_err() && outcome.plain.is_empty(), "{outcome:?}");
    });
}

/// Also when its client resumes a session from before.
#[test]
fn a_revoked_certificate_is_refused_whatever_its_client_has_in_hand() {
    everywhere(|layer, version| {
        let site = Site::asking(layer, Demand::Required, true);
        site.authority.revoke(&[7], 2100);
        let before = site.config();
        let shown = site.authority.named(1, "device-1");
        let client = site.client(version, Some(&shown));
        let outcome = connect(&before, &client);
        assert_eq!(outcome.kind, Some(HandshakeKind::Full));
        let outcome = connect(&before, &client);
        assert_eq!(outcome.kind, Some(HandshakeKind::Resumed));
        assert_eq!(outcome.user().as_deref(), Some("device-1"), "a resumed session has its user");

        site.authority.revoke(&[1], 2100);
        let after = site.config();
        let outcome = connect(&after, &client);
        assert_eq!(outcome.kind, Some(HandshakeKind::Resumed), "tickets outlive a new list");
        assert_eq!(outcome.result, Err(TlsError::Client(ClientFault::Revoked)));
        assert!(outcome.plain.is_empty());
        let fresh = site.client(version, Some(&shown));
        let outcome = connect(&after, &fresh);
        let why = outcome.result.unwrap_err();
        assert!(why.is_about_certificate() && why.to_string().contains("Revoked"), "{why}");
        let other = site.authority.named(2, "device-2");
        let user = connect(&after, &site.client(version, Some(&other))).user();
        assert_eq!(user.as_deref(), Some("device-2"));
    });
}

#[test]
fn a_list_out_of_date_lets_nobody_in() {
    everywhere(|layer, version| {
        let site = Site::asking(layer, Demand::Required, true);
        site.authority.revoke(&[7], 2100);
        let shown = site.authority.named(1, "device-1");
        let client = site.client(version, Some(&shown));
        assert!(connect(&site.config(), &client).result.is_ok());
        site.authority.revoke(&[7], 2021);
        let outcome = connect(&site.config(), &client);
        assert_eq!(outcome.result, Err(TlsError::Client(ClientFault::ListExpired)));
        let outcome = connect(&site.config(), &site.client(version, Some(&shown)));
        assert!(outcome.result.is_err(), "{outcome:?}");
    });
}

/// What a session was begun under is what it can be resumed under.
#[test]
fn a_ticket_of_another_demand_or_authority_is_a_full_handshake() {
    everywhere(|layer, version| {
        let mut site = Site::asking(layer, Demand::Optional, false);
        let without = site.client(version, None);
        assert_eq!(connect(&site.config(), &without).user(), None);
        assert_eq!(connect(&site.config(), &without).kind, Some(HandshakeKind::Resumed));
        site.clients = Some(site.authority.clients(Demand::Required, false));
        assert!(connect(&site.config(), &without).result.is_err(), "none was shown");

        let shown = site.authority.named(1, "device-1");
        let client = site.client(version, Some(&shown));
        assert!(connect(&site.config(), &client).result.is_ok());
        let other = Authority::new("another");
        site.clients = Some(other.clients(Demand::Required, false));
        let outcome = connect(&site.config(), &client);
        assert!(matches!(outcome.result, Err(TlsError::Protocol(_))), "{outcome:?}");
        site.clients = None;
        let outcome = connect(&site.config(), &client);
        assert_eq!((outcome.kind, outcome.user()), (Some(HandshakeKind::Full), None));
    });
}

#[test]
fn a_lost_list_of_an_issuer_is_a_full_handshake() {
    let mut site = Site::asking(RecordLayer::Rustls, Demand::Required, false);
    let shown = site.authority.named(1, "device-1");
    let client = site.client(&TLS13, Some(&shown));
    assert!(connect(&site.config(), &client).result.is_ok());
    site.authority.revoke(&[7], 2100);
    site.clients = Some(site.authority.clients(Demand::Required, true));
    let outcome = connect(&site.config(), &client);
    assert_eq!(outcome.kind, Some(HandshakeKind::Full));
    assert!(outcome.result.is_ok());
}

/// A name that an authority was talked into must not be read as another.
#[test]
fn tricks_with_names_are_refused_in_the_handshake() {
    let site = Site::asking(RecordLayer::Compact, Demand::Required, false);
    let config = site.config();
    let long = "a".repeat(USER_BYTES_MAX + 1);
    let tricks: [(&str, Vec<DnValue>); 7] = [
        ("a NUL", vec![DnValue::Utf8String("admin\0.example".into())]),
        ("a line", vec![DnValue::Utf8String("admin\nx".into())]),
        ("two", vec![DnValue::Utf8String("user".into()), DnValue::Utf8String("admin".into())]),
        ("too long", vec![DnValue::Utf8String(long)]),
        ("empty", vec![DnValue::Utf8String(String::new())]),
        ("wide", vec![DnValue::BmpString("admin".try_into().unwrap())]),
        ("teletex", vec![DnValue::TeletexString("admin".try_into().unwrap())]),
    ];
    for (what, names) in tricks {
        // The library keeps one name of each type, so the second goes by its number.
        let shown = site.authority.client(1, |params| {
            for (at, name) in names.into_iter().enumerate() {
                let kind = match at {
                    0 => DnType::CommonName,
                    _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
                };
                params.distinguished_name.push(kind, name);
            }
        });
        let outcome = connect(&config, &site.client(&TLS13, Some(&shown)));
        assert!(outcome.result.is_err() && outcome.plain.is_empty(), "{what}: {outcome:?}");
        assert!(outcome.told.is_err(), "{what}");
        let why = outcome.result.unwrap_err();
        assert!(why.is_about_certificate() && why.to_string().contains("name"), "{what}: {why}");
    }
    let nameless = site.authority.client(1, |_| {});
    assert_eq!(connect(&config, &site.client(&TLS13, Some(&nameless))).user(), None);
}

#[test]
fn the_user_stands_where_the_listener_looks() {
    let mut site = Site::asking(RecordLayer::Rustls, Demand::Required, false);
    let ia5 = |text: &str| Ia5String::try_from(text).unwrap();
    let shown = site.authority.client(1, |params| {
        params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
        params.distinguished_name.push(DnType::CommonName, "device-1");
        params.subject_alt_names = vec![
            SanType::DnsName(ia5("device-1.example")),
            SanType::Rfc822Name(ia5("device-1@example.org")),
            SanType::URI(ia5("urn:device:1")),
        ];
    });
    let client = site.client(&TLS13, Some(&shown));
    for (user, expected) in [
        (CertificateUser::CommonName, Some("device-1")),
        (CertificateUser::SanDns, Some("device-1.example")),
        (CertificateUser::SanEmail, Some("device-1@example.org")),
        (CertificateUser::SanUri, Some("urn:device:1")),
        (CertificateUser::Subject, Some("CN=device-1,O=Acme\\, Inc.")),
        (CertificateUser::Nothing, None),
    ] {
        site.user = user;
        // Full and resumed.
        for _ in 0..2 {
            assert_eq!(connect(&site.config(), &client).user().as_deref(), expected, "{user:?}");
        }
    }
    site.user = CertificateUser::SanDns;
    let two = site.authority.client(2, |params| {
        params.subject_alt_names =
            ["a.example", "b.example"].map(|it| SanType::DnsName(ia5(it))).into();
    });
    let outcome = connect(&site.config(), &site.client(&TLS13, Some(&two)));
    assert!(outcome.result.is_err(), "{outcome:?}");
    let clients = site.config().clients().unwrap();
    let fault = clients.identify(Some(&two.0), false, rustls_pki_types::UnixTime::now());
    assert_eq!(fault, Err(ClientFault::Name(NameFault::Several)));
}

#[test]
fn files_of_clients_that_are_no_good_are_explained() {
    let mut site = Site::asking(RecordLayer::Rustls, Demand::Required, true);
    let said = |site: &Site| {
        let text = site.try_config().unwrap_err().to_string();
        text.replace(&format!("{}/", site.authority.folder.path().display()), "")
    };
    assert_eq!(said(&site), "the revocation list file crl.pem does not exist");
    std::fs::write(site.authority.path("crl.pem"), "nothing").unwrap();
    let none = "the file crl.pem holds no list of revoked certificates (X509 CRL) in PEM form";
    assert_eq!(said(&site), none);
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    std::fs::write(site.authority.path("crl.pem"), broken).unwrap();
    assert!(said(&site).starts_with("a list of revoked certificates in crl.pem cannot be used"));
    site.authority.revoke(&[], 2100);
    let kinds: Vec<_> = site.config().dated().iter().map(|it| it.kind).collect();
    use DatedKind::{Certificate, ClientAuthority, RevocationList};
    assert_eq!(kinds, [Certificate, ClientAuthority, RevocationList]);
    site.clients.as_mut().unwrap().ca = site.authority.path("absent.pem");
    assert_eq!(said(&site), "the client authority file absent.pem does not exist");
}

#[test]
fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    for layer in LAYERS {
        let mut site = Site::new(layer);
        let more = [("a", "a.example"), ("wild", "*.b.example"), ("exact", "x.b.example")];
        for (file, name) in more {
            site.certificates.push(site.authority.server(file, &[name, "localhost"]));
        }
        let config = site.config();
        let first_of = |path: &Path| {
            use rustls_pki_types::pem::PemObject as _;
            CertificateDer::from_pem_file(path).unwrap().to_vec()
        };
        for version in VERSIONS {
            for (name, at) in [
                ("localhost", 0),
                ("a.example", 1),
                ("A.Example", 1),
                ("y.b.example", 2),
                ("x.b.example", 3),
                ("b.example", 0),
                ("z.y.b.example", 0),
                ("unknown.example", 0),
            ] {
                let client = site.client(version, None);
                let outcome = connect_to(&config, &client, name);
                let expected = first_of(&site.certificates[at]);
                // Who is shown the default minds, and has seen it.
                let is_theirs = !["b.example", "z.y.b.example", "unknown.example"].contains(&name);
                assert_eq!(outcome.told.is_ok(), is_theirs, "{name}: {:?}", outcome.told);
                if is_theirs {
                    assert!(outcome.shown == expected, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_listener_speaks_what_its_policy_allows() {
    let strings = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    for layer in LAYERS {
        let mut site = Site::new(layer);
        site.policy = TlsPolicy::new(TlsVersion::Tls13, &[], &[]).unwrap();
        assert!(connect(&site.config(), &site.client(&TLS13, None)).result.is_ok());
        let outcome = connect(&site.config(), &site.client(&TLS12, None));
        assert!(outcome.result.is_err() && outcome.told.is_err(), "TLS 1.2 is too old");

        let groups = strings(&["secp384r1"]);
        site.policy = TlsPolicy::new(TlsVersion::Tls12, &[], &groups).unwrap();
        let offering = |groups: &[&'static dyn SupportedKxGroup]| {
            let provider = CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
            let ca = site.authority.path("ca.pem");
            connect(&site.config(), &client(&ca, &TLS13, None, provider))
        };
        assert!(offering(&[kx_group::X25519]).result.is_err());
        let retried = offering(&[kx_group::X25519, kx_group::SECP384R1]);
        assert_eq!(retried.kind, Some(HandshakeKind::FullWithHelloRetryRequest));

        let suites = strings(&["TLS_AES_256_GCM_SHA384"]);
        site.policy = TlsPolicy::new(TlsVersion::Tls12, &suites, &[]).unwrap();
        assert!(connect(&site.config(), &site.client(&TLS13, None)).result.is_ok());
        assert!(connect(&site.config(), &site.client(&TLS12, None)).result.is_err());
    }
}

/// Whatever stands behind the handshake in the same read.
#[test]
fn nothing_is_heard_of_a_client_whose_end_comes_before_it_is_known() {
    for layer in LAYERS {
        let site = Site::asking(layer, Demand::Required, false);
        let shown = site.authority.named(1, "device-1");
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(site.client(&TLS13, Some(&shown)), name).unwrap();
        let mut server = TlsSession::new(&site.config()).unwrap();
        let (mut plain, mut wire, mut answer) = (BytesMut::from("before"), Vec::new(), Vec::new());
        client.write_tls(&mut wire).unwrap();
        server.read(&mut wire, &mut plain, &mut answer).unwrap();
        client.read_tls(&mut &answer[..]).unwrap();
        client.process_new_packets().unwrap();
        std::io::Write::write_all(&mut client.writer(), b"hello").unwrap();
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        wire.extend_from_slice(&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5]);
        assert!(server.read(&mut wire, &mut plain, &mut answer).is_err());
        assert_eq!(&plain[..], b"before", "{layer:?}");
    }
}
