//! Certificates of clients: who has to show one, whose count, and which have been revoked.
//!
//! The library verifies a certificate in a full handshake and keeps it in the session ticket; when a
//! client resumes, it looks at nothing again. Two things mend that. Tickets are sealed for the
//! authorities and the demand of their listener, so another listener's, or those of before a change,
//! lead to a full handshake. And whoever resumes is looked up once more: its period, the revoked
//! certificates, and whether the list of those is still in date
//! (`docs/adr/0013-certificates-and-resumption.md`).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use petrel_proto::Text;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::certificate::X509Certificate;

use crate::certificate::user::{CertificateUser, NameFault};
use crate::certificate::validity::{Dated, seconds};
use crate::certificate::{self, TlsConfigError};

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// They may; one that is no good is refused all the same.
    Optional,
    /// They must.
    Required,
}

/// Whose certificates clients of a listener may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whether they must.
    pub demand: Demand,
    /// PEM file with the certificates of the authorities that sign theirs.
    pub ca: PathBuf,
    /// PEM files with lists of revoked certificates; none for no such check.
    pub crls: Vec<PathBuf>,
}

/// What is wrong with a client's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFault {
    /// It shows none, and must.
    Missing,
    /// It cannot be read.
    Unreadable,
    /// It is out of date.
    Expired,
    /// It has been revoked.
    Revoked,
    /// The list that says which of its authority's are revoked is out of date.
    ListExpired,
    /// The user name in it is no good.
    Name(NameFault),
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the client has no certificate",
            Self::Unreadable => "the client's certificate cannot be read",
            Self::Expired => "the client's certificate has expired",
            Self::Revoked => "the client's certificate has been revoked",
            Self::ListExpired => "the list of revoked certificates is out of date",
            Self::Name(fault) => return fault.fmt(f),
        })
    }
}

impl std::error::Error for ClientFault {}

/// What is known of the certificates of a listener's clients.
pub(super) struct Clients {
    user: CertificateUser,
    demand: Demand,
    /// By the issuer's name in DER.
    lists: HashMap<Box<[u8]>, Revoked>,
    /// Of what a ticket must have been made under.
    pub(super) scope: [u8; 32],
    /// Periods of authorities and lists.
    pub(super) dated: Vec<Dated>,
}

/// The revoked certificates of one issuer.
#[derive(Debug, Default)]
struct Revoked {
    serials: HashSet<Box<[u8]>>,
    /// When the newest of its lists is out of date, in seconds since 1970.
    until_s: i64,
}

impl Clients {
    /// Reads authorities and lists, and makes what verifies by them.
    pub(super) fn load(
        settings: &ClientCertificates,
        user: CertificateUser,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Arc<Self>, Arc<dyn ClientCertVerifier>), TlsConfigError> {
        let path = &settings.ca;
        let mut dated = Vec::new();
        let authorities = certificate::load_authorities(path, &mut dated)?;
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            let added = roots.add(authority.clone());
            added.map_err(|_| TlsConfigError::BadAuthority { path: path.clone() })?;
        }
        let mut lists: HashMap<Box<[u8]>, Revoked> = HashMap::new();
        let mut crls = Vec::new();
        for path in &settings.crls {
            for crl in certificate::load_crls(path)? {
                read_list(&crl, path, &mut lists, &mut dated)?;
                crls.push((path, crl));
            }
        }
        let scope = scope(settings.demand, &authorities, lists.keys());
        let clients = Arc::new(Self { user, demand: settings.demand, lists, scope, dated });
        let verifier = verifier(settings, roots, crls, provider)?;
        let verifier = Arc::new(Verifier { inner: verifier, clients: Arc::clone(&clients) });
        Ok((clients, verifier))
    }

    /// The user whom a client's certificate names, if there is a name. Who has `resumed` is looked up
    /// once more.
    pub(super) fn identify(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        resumed: bool,
        now: UnixTime,
    ) -> Result<Option<Text>, ClientFault> {
        let Some((leaf, others)) = chain.and_then(<[_]>::split_first) else {
            return match self.demand {
                Demand::Optional => Ok(None),
                Demand::Required => Err(ClientFault::Missing),
            };
        };
        let parsed = parse(leaf)?;
        if resumed {
            self.look_up_path(&parsed, others, now)?;
        }
        self.user.of(&parsed).map_err(ClientFault::Name)
    }

    /// Looks at a certificate and at those above it, as far as the client has shown them. What else it
    /// has shown was of no meaning when it was verified either.
    fn look_up_path(
        &self,
        leaf: &X509Certificate<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), ClientFault> {
        let others: Vec<_> = others.iter().filter_map(|other| parse(other).ok()).collect();
        let mut current = leaf;
        for _ in 0..=others.len() {
            self.look_up(current, now)?;
            let issuer = current.issuer().as_raw();
            // One that has signed itself is an authority, which is trusted whatever its period.
            let is_above = |it: &&X509Certificate<'_>| {
                it.subject().as_raw() == issuer && it.issuer().as_raw() != issuer
            };
            match others.iter().find(is_above) {
                Some(above) => current = above,
                None => break,
            }
        }
        Ok(())
    }

    /// What may have changed since a certificate was verified.
    fn look_up(&self, of: &X509Certificate<'_>, now: UnixTime) -> Result<(), ClientFault> {
        let now_s = seconds(now);
        let validity = of.validity();
        if now_s < validity.not_before.timestamp() || now_s > validity.not_after.timestamp() {
            return Err(ClientFault::Expired);
        }
        // Which issuers have lists is part of the scope: it was the same when all was verified.
        match self.lists.get(of.issuer().as_raw()) {
            Some(list) if list.serials.contains(serial(of.raw_serial())) => {
                Err(ClientFault::Revoked)
            }
            Some(list) if now_s > list.until_s => Err(ClientFault::ListExpired),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("demand", &self.demand).finish_non_exhaustive()
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, ClientFault> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(ClientFault::Unreadable),
    }
}

/// A serial number without the zeros in front that some encoders leave there.
fn serial(raw: &[u8]) -> &[u8] {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw.get(zeros..).unwrap_or_default()
}

/// Adds what a list says to what is known of its issuer.
fn read_list(
    crl: &CertificateRevocationListDer<'_>,
    path: &std::path::Path,
    lists: &mut HashMap<Box<[u8]>, Revoked>,
    dated: &mut Vec<Dated>,
) -> Result<(), TlsConfigError> {
    let bad = || TlsConfigError::BadRevocationList { path: path.to_owned() };
    let (rest, list) = x509_parser::parse_x509_crl(crl).map_err(|_| bad())?;
    if !rest.is_empty() {
        return Err(bad());
    }
    let until_s = list.next_update().map(|time| time.timestamp());
    dated.push(Dated {
        kind: certificate::validity::DatedKind::RevocationList,
        path: path.to_owned(),
        from_s: list.last_update().timestamp(),
        until_s,
    });
    let revoked = lists.entry(list.issuer().as_raw().into()).or_default();
    // The library takes no list without an end.
    revoked.until_s = revoked.until_s.max(until_s.unwrap_or(i64::MAX));
    let serials = list.iter_revoked_certificates().map(|it| serial(it.raw_serial()).into());
    revoked.serials.extend(serials);
    Ok(())
}

/// Under what a ticket was made: whether a certificate was demanded, by whom it could be signed, and
/// for which issuers there were lists.
fn scope<'a>(
    demand: Demand,
    authorities: &[CertificateDer<'_>],
    issuers: impl Iterator<Item = &'a Box<[u8]>>,
) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&[demand as u8]);
    let mut sorted: Vec<&[u8]> = authorities.iter().map(|it| it.as_ref()).collect();
    let mut issuers: Vec<&[u8]> = issuers.map(|it| &**it).collect();
    for names in [&mut sorted, &mut issuers] {
        names.sort_unstable();
        names.dedup();
        context.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            context.update(&(name.len() as u64).to_le_bytes());
            context.update(name);
        }
    }
    let mut scope = [0; 32];
    scope.copy_from_slice(context.finish().as_ref());
    scope
}

fn verifier(
    settings: &ClientCertificates,
    roots: RootCertStore,
    crls: Vec<(&PathBuf, CertificateRevocationListDer<'static>)>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
    let roots = Arc::new(roots);
    let builder = |crls: Vec<CertificateRevocationListDer<'static>>| {
        let (roots, provider) = (Arc::clone(&roots), Arc::clone(provider));
        WebPkiClientVerifier::builder_with_provider(roots, provider).with_crls(crls)
    };
    for (path, crl) in &crls {
        // Said of the one that is no good: of all together nobody could tell which it is.
        let bad = |_| TlsConfigError::BadRevocationList { path: (*path).clone() };
        builder(vec![crl.clone()]).build().map_err(bad)?;
    }
    let crls = crls.into_iter().map(|(_, crl)| crl).collect();
    // A list that is out of date says nothing about what has been revoked since.
    let mut builder = builder(crls).enforce_revocation_expiration();
    if settings.demand == Demand::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|_| TlsConfigError::BadAuthority { path: settings.ca.clone() })
}

/// The library's verifier, and then a look at the name.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ClientCertVerifier>,
    clients: Arc<Clients>,
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let chain = std::slice::from_ref(end_entity);
        match self.clients.identify(Some(chain), false, now) {
            Ok(_) => Ok(verified),
            Err(fault) => {
                let fault = OtherError(Arc::new(fault));
                Err(Error::InvalidCertificate(CertificateError::Other(fault)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
