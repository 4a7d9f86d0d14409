//! Certificates and keys from PEM files.
//!
//! Owns the way from two file names to a chain and a key that belong together, and the sentence that an
//! operator reads when that way ends early. It never prints what a file holds: a key file may be named
//! by mistake where a certificate was meant.

pub mod user;
pub mod validity;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use validity::{Dated, DatedKind};
use zeroize::Zeroizing;

/// Most bytes that a certificate or key file may have.
///
/// *Bounds*: a long chain takes some 20 KB; the limit keeps a device or a wrong file from being read
/// into memory.
pub const PEM_FILE_BYTES_MAX: u64 = 1 << 20;

/// Most bytes that a file of revoked certificates may have; each takes some 50.
pub const CRL_FILE_BYTES_MAX: u64 = 64 << 20;

/// A certificate chain and the private key of its first certificate.
pub(crate) struct Identity {
    pub(crate) certified: CertifiedKey,
    pub(crate) dated: Dated,
}

/// Reads a chain (leaf first) and its key, and checks that the two belong together.
pub(crate) fn load_identity(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<Identity, TlsConfigError> {
    let chain = load_chain(cert, PemRole::Certificate)?;
    let leaf = chain.first().cloned();
    let signing = provider
        .key_provider
        .load_private_key(load_key(key)?)
        .map_err(|_| TlsConfigError::UnusableKey { path: key.to_owned() })?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(TlsConfigError::KeyMismatch { cert: cert.to_owned(), key: key.to_owned() });
        }
        Err(_) => return Err(TlsConfigError::BadCertificate { path: cert.to_owned() }),
    }
    let parsed = leaf.as_ref().and_then(|leaf| x509_parser::parse_x509_certificate(leaf).ok());
    let (_, parsed) = parsed.ok_or(TlsConfigError::BadCertificate { path: cert.to_owned() })?;
    let dated = Dated::certificate(DatedKind::Certificate, cert, &parsed);
    Ok(Identity { certified, dated })
}

/// Reads the certificates of authorities, and says how long each holds.
pub(crate) fn load_authorities(
    path: &Path,
    dated: &mut Vec<Dated>,
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let authorities = load_chain(path, PemRole::ClientAuthority)?;
    for authority in &authorities {
        let (_, parsed) = x509_parser::parse_x509_certificate(authority)
            .map_err(|_| TlsConfigError::BadAuthority { path: path.to_owned() })?;
        dated.push(Dated::certificate(DatedKind::ClientAuthority, path, &parsed));
    }
    Ok(authorities)
}

/// Reads lists of revoked certificates; there is at least one.
pub(crate) fn load_crls(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    let text = read_file(path, PemRole::RevocationList)?;
    let mut lists = Vec::new();
    for section in sections(&text) {
        if let (SectionKind::Crl, der) = section.map_err(|error| bad_pem(path, &error))? {
            lists.push(CertificateRevocationListDer::from(der));
        }
    }
    match lists.is_empty() {
        true => Err(TlsConfigError::NoRevocationList { path: path.to_owned() }),
        false => Ok(lists),
    }
}

fn load_chain(path: &Path, role: PemRole) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let text = read_file(path, role)?;
    let mut chain = Vec::new();
    let mut key_seen = false;
    for section in sections(&text) {
        match section.map_err(|error| bad_pem(path, &error))? {
            (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
            (kind, der) => {
                drop(Zeroizing::new(der));
                key_seen |= is_private_key(kind);
            }
        }
    }
    if chain.is_empty() {
        let found = if key_seen { Found::PrivateKey } else { Found::of(&text) };
        return Err(TlsConfigError::NoCertificate { path: path.to_owned(), found });
    }
    Ok(chain)
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let text = read_file(path, PemRole::PrivateKey)?;
    // Checked before parsing: the older form keeps the ordinary label and says so in a header line,
    // which a PEM reader reports as broken base64.
    if contains(&text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(&text, b"Proc-Type: 4,ENCRYPTED")
    {
        return Err(TlsConfigError::EncryptedKey { path: path.to_owned() });
    }
    let mut certificate_seen = false;
    for section in sections(&text) {
        let (kind, der) = section.map_err(|error| bad_pem(path, &error))?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            return Ok(key);
        }
        certificate_seen |= kind == SectionKind::Certificate;
    }
    let found = if certificate_seen { Found::Certificate } else { Found::of(&text) };
    Err(TlsConfigError::NoKey { path: path.to_owned(), found })
}

fn sections(text: &[u8]) -> impl Iterator<Item = Result<(SectionKind, Vec<u8>), pem::Error>> {
    <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(text)
}

fn is_private_key(kind: SectionKind) -> bool {
    matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
}

fn read_file(path: &Path, role: PemRole) -> Result<Zeroizing<Vec<u8>>, TlsConfigError> {
    let unreadable = |error: io::Error| TlsConfigError::Unreadable {
        role,
        path: path.to_owned(),
        error: error.kind(),
        why: error.to_string(),
    };
    // A pipe would be waited for, on the thread that also hears of signals.
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut text = Zeroizing::new(Vec::new());
    let bytes_max = role.bytes_max();
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > bytes_max {
        return Err(TlsConfigError::TooLarge { role, path: path.to_owned() });
    }
    Ok(text)
}

fn bad_pem(path: &Path, error: &pem::Error) -> TlsConfigError {
    let fault = match error {
        pem::Error::MissingSectionEnd { .. } => PemFault::NoEnd,
        pem::Error::IllegalSectionStart { .. } => PemFault::BadBegin,
        _ => PemFault::BadBase64,
    };
    TlsConfigError::BadPem { path: path.to_owned(), fault }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Something about a usable certificate that its clients will mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateWarning {
    /// Its validity period is over.
    Expired,
    /// Its validity period has not begun, or this host's clock is wrong.
    NotValidYet,
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the certificate has expired; clients that check it will not connect",
            Self::NotValidYet => "the certificate is not valid yet; look at this host's clock",
        })
    }
}

/// What a PEM file was named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PemRole {
    /// The certificate chain.
    Certificate,
    /// The private key.
    PrivateKey,
    /// The authorities that sign certificates of clients.
    ClientAuthority,
    /// Revoked certificates.
    RevocationList,
}

impl PemRole {
    const fn bytes_max(self) -> u64 {
        match self {
            Self::RevocationList => CRL_FILE_BYTES_MAX,
            _ => PEM_FILE_BYTES_MAX,
        }
    }
}

impl fmt::Display for PemRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
            Self::ClientAuthority => "client authority",
            Self::RevocationList => "revocation list",
        })
    }
}

/// What a file held in place of what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A certificate, where a key was looked for.
    Certificate,
    /// A private key, where a certificate was looked for.
    PrivateKey,
    /// The binary form (DER) of something.
    Der,
    /// Anything else.
    Other,
}

impl Found {
    fn of(text: &[u8]) -> Self {
        match text {
            [] => Self::Nothing,
            // SEQUENCE with a two-byte length: how every certificate and most keys begin in DER.
            [0x30, 0x82 | 0x81, ..] => Self::Der,
            _ => Self::Other,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Nothing => " (it is empty)",
            Self::Certificate => " but a certificate: are the two files swapped?",
            Self::PrivateKey => " but a private key: are the two files swapped?",
            Self::Der => " (it looks like DER; convert it to PEM)",
            Self::Other => " in PEM form",
        }
    }
}

/// How a PEM file is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PemFault {
    /// A section begins and never ends.
    NoEnd,
    /// A BEGIN line is not well formed.
    BadBegin,
    /// The body of a section is not base64.
    BadBase64,
}

/// Why a TLS configuration could not be made; each is one sentence that names the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsConfigError {
    /// The file cannot be opened or read.
    Unreadable {
        /// What the file was named for.
        role: PemRole,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::ErrorKind,
        /// The same in the system's words.
        why: String,
    },
    /// The file has more than [`PEM_FILE_BYTES_MAX`] bytes, or [`CRL_FILE_BYTES_MAX`].
    TooLarge {
        /// What the file was named for.
        role: PemRole,
        /// The file.
        path: PathBuf,
    },
    /// The file is not well-formed PEM.
    BadPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: PemFault,
    },
    /// The certificate file holds no certificate.
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Found,
    },
    /// The first certificate cannot be parsed.
    BadCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file holds no private key.
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Found,
    },
    /// The key is protected by a passphrase.
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot be parsed or is of a kind that TLS cannot use.
    UnusableKey {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate are not a pair.
    KeyMismatch {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// A certificate of an authority cannot be parsed.
    BadAuthority {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no list of revoked certificates.
    NoRevocationList {
        /// The file.
        path: PathBuf,
    },
    /// A list of revoked certificates cannot be used.
    BadRevocationList {
        /// The file.
        path: PathBuf,
    },
    /// The TLS library refused its own settings.
    Provider,
}

impl TlsConfigError {
    /// The file that is wrong, if one is; of two that do not fit together, the second.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path, .. }
            | Self::BadPem { path, .. }
            | Self::NoCertificate { path, .. }
            | Self::BadCertificate { path }
            | Self::NoKey { path, .. }
            | Self::EncryptedKey { path }
            | Self::UnusableKey { path }
            | Self::KeyMismatch { key: path, .. }
            | Self::BadAuthority { path }
            | Self::NoRevocationList { path }
            | Self::BadRevocationList { path } => Some(path),
            Self::Provider => None,
        }
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { role, path, error, why } => match error {
                io::ErrorKind::NotFound => {
                    write!(f, "the {role} file {} does not exist", path.display())
                }
                _ => write!(f, "the {role} file {} cannot be read: {why}", path.display()),
            },
            Self::TooLarge { role, path } => write!(
                f,
                "the {role} file {} is larger than {} bytes",
                path.display(),
                role.bytes_max()
            ),
            Self::BadPem { path, fault } => {
                let fault = match fault {
                    PemFault::NoEnd => "a section has no END line",
                    PemFault::BadBegin => "a BEGIN line is malformed",
                    PemFault::BadBase64 => "a section is not base64",
                };
                write!(f, "the file {} is not valid PEM: {fault}", path.display())
            }
            Self::NoCertificate { path, found } => {
                write!(f, "the file {} holds no certificate{}", path.display(), found.hint())
            }
            Self::BadCertificate { path } => {
                write!(f, "the first certificate in {} cannot be parsed", path.display())
            }
            Self::NoKey { path, found } => {
                write!(f, "the file {} holds no private key{}", path.display(), found.hint())
            }
            Self::EncryptedKey { path } => write!(
                f,
                "the private key in {} is protected by a passphrase, which is not supported; \
                 store it without one and restrict who may read the file",
                path.display()
            ),
            Self::UnusableKey { path } => write!(
                f,
                "the private key in {} cannot be used; RSA (2048 bits or more), ECDSA \
                 (P-256, P-384, P-521) and Ed25519 keys can",
                path.display()
            ),
            Self::KeyMismatch { cert, key } => write!(
                f,
                "the private key in {} does not belong to the certificate in {}",
                key.display(),
                cert.display()
            ),
            Self::BadAuthority { path } => {
                write!(f, "a certificate in {} is not one of an authority", path.display())
            }
            Self::NoRevocationList { path } => write!(
                f,
                "the file {} holds no list of revoked certificates (X509 CRL) in PEM form",
                path.display()
            ),
            Self::BadRevocationList { path } => write!(
                f,
                "a list of revoked certificates in {} cannot be used; it must be of version 2, \
                 say when the next one comes, and be no delta",
                path.display()
            ),
            Self::Provider => f.write_str("the TLS library refused the built-in settings"),
        }
    }
}

impl std::error::Error for TlsConfigError {}
