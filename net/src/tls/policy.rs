//! Which versions, suites and groups a listener speaks.

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::suites;

/// Suites by their names in the registry of IANA, in order of preference.
///
/// AES-128 with SHA-256 leads because the key schedule of a handshake is hashing, and SHA-256 has
/// instructions of its own on the CPUs we run on; SHA-384 has not.
static SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", suites::AES_128_GCM),
    ("TLS_CHACHA20_POLY1305_SHA256", suites::CHACHA20_POLY1305),
    ("TLS_AES_256_GCM_SHA384", suites::AES_256_GCM),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];

/// Key exchange groups by their names in the registry of IANA. The library takes the first that a
/// client has sent a share for, in the order of the client; P-256 stays because many devices send only
/// that share.
static GROUPS: [(&str, &dyn SupportedKxGroup); 4] = [
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("x25519", kx_group::X25519),
    ("secp256r1", kx_group::SECP256R1),
    ("secp384r1", kx_group::SECP384R1),
];

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    /// The names in the configuration file.
    pub const NAMES: &'static [&'static str] = &["1.2", "1.3"];

    /// The version for its name in the configuration file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }

    /// Its name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What a listener speaks: all that we have, unless it is narrowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsPolicy {
    /// The oldest version.
    pub minimum: TlsVersion,
    /// Names of suites, the best first; none for all.
    suites: Vec<&'static str>,
    /// Names of groups; none for all.
    groups: Vec<&'static str>,
}

impl std::fmt::Display for TlsPolicy {
    /// What it narrows.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TLS {} and later", self.minimum.name())?;
        for (what, names) in [("suites", &self.suites), ("groups", &self.groups)] {
            if !names.is_empty() {
                write!(f, ", {what} {}", names.join(" "))?;
            }
        }
        Ok(())
    }
}

/// A policy cannot be had. Displays as one sentence without its full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyError {
    /// There is no suite of this name.
    UnknownSuite(String),
    /// There is no group of this name.
    UnknownGroup(String),
    /// A name stands in its list twice.
    Twice(&'static str),
    /// The suites are all of a version that the minimum forbids.
    NoSuite,
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownSuite(name) => {
                let known = TlsPolicy::known_suites().join(", ");
                write!(f, "there is no cipher suite {name:?}; there are {known}")
            }
            Self::UnknownGroup(name) => {
                let known = TlsPolicy::known_groups().join(", ");
                write!(f, "there is no key exchange group {name:?}; there are {known}")
            }
            Self::Twice(name) => write!(f, "{name} is named twice"),
            Self::NoSuite => f.write_str(
                "all of these suites are of TLS 1.2, which the listener does not speak; name one of \
                 TLS 1.3, such as TLS_AES_128_GCM_SHA256",
            ),
        }
    }
}

impl std::error::Error for PolicyError {}

impl TlsPolicy {
    /// A policy by the names that IANA gives to suites and groups.
    ///
    /// # Errors
    /// A name that nobody knows, or suites that no version can use.
    pub fn new(
        minimum: TlsVersion,
        suites: &[String],
        groups: &[String],
    ) -> Result<Self, PolicyError> {
        let suites = named(&Self::known_suites(), suites, PolicyError::UnknownSuite)?;
        let groups = named(&Self::known_groups(), groups, PolicyError::UnknownGroup)?;
        let policy = Self { minimum, suites, groups };
        if policy.versions().is_empty() {
            return Err(PolicyError::NoSuite);
        }
        Ok(policy)
    }

    /// The names of all suites, in order of preference.
    #[must_use]
    pub fn known_suites() -> Vec<&'static str> {
        SUITES.iter().map(|(name, _)| *name).collect()
    }

    /// The names of all groups.
    #[must_use]
    pub fn known_groups() -> Vec<&'static str> {
        GROUPS.iter().map(|(name, _)| *name).collect()
    }

    fn suites(&self) -> Vec<SupportedCipherSuite> {
        let of = |name: &&str| SUITES.iter().find(|(known, _)| known == name).map(|it| it.1);
        match self.suites.is_empty() {
            true => SUITES.iter().map(|(_, suite)| *suite).collect(),
            false => self.suites.iter().filter_map(of).collect(),
        }
    }

    fn groups(&self) -> Vec<&'static dyn SupportedKxGroup> {
        let is_wanted = |name: &str| self.groups.is_empty() || self.groups.contains(&name);
        GROUPS.iter().filter(|(name, _)| is_wanted(name)).map(|(_, group)| *group).collect()
    }

    /// The versions for which there is a suite.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let suites = self.suites();
        let speaks = |version: &SupportedProtocolVersion| {
            suites.iter().any(|suite| suite.version().version == version.version)
        };
        let is_young_enough = |&(name, _): &(TlsVersion, _)| name >= self.minimum;
        [(TlsVersion::Tls13, &TLS13), (TlsVersion::Tls12, &TLS12)]
            .into_iter()
            .filter(is_young_enough)
            .map(|(_, version)| version)
            .filter(|version| speaks(version))
            .collect()
    }

    /// The cryptography of a listener.
    pub(super) fn provider(&self) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.suites(),
            kx_groups: self.groups(),
            ..default_provider()
        }
    }
}

/// The names as the tables have them, in the order that is wanted.
fn named(
    known: &[&'static str],
    wanted: &[String],
    unknown: impl Fn(String) -> PolicyError,
) -> Result<Vec<&'static str>, PolicyError> {
    let mut found = Vec::new();
    for name in wanted {
        let Some(name) = known.iter().find(|it| *it == name) else {
            return Err(unknown(name.clone()));
        };
        if found.contains(name) {
            return Err(PolicyError::Twice(name));
        }
        found.push(*name);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(minimum: &str, suites: &[&str], groups: &[&str]) -> Result<TlsPolicy, String> {
        let minimum = TlsVersion::from_name(minimum).expect("a version");
        let owned =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        TlsPolicy::new(minimum, &owned(suites), &owned(groups)).map_err(|error| error.to_string())
    }

    /// The library's name of a suite of TLS 1.3 differs by two letters.
    #[test]
    fn the_names_are_those_of_what_they_name() {
        for (name, suite) in &SUITES {
            let own = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
            assert_eq!(*name, own);
        }
        for (name, group) in &GROUPS {
            let own = format!("{:?}", group.name());
            assert!(name.eq_ignore_ascii_case(&own), "{name} {own}");
        }
    }

    #[test]
    fn suites_decide_which_versions_there_are() {
        let versions = |minimum: &str, suites: &[&str]| {
            let policy = policy(minimum, suites, &[]).expect("it is good");
            policy.versions().iter().map(|it| format!("{:?}", it.version)).collect::<Vec<_>>()
        };
        assert_eq!(versions("1.2", &[]), ["TLSv1_3", "TLSv1_2"]);
        assert_eq!(versions("1.3", &[]), ["TLSv1_3"]);
        assert_eq!(versions("1.2", &["TLS_AES_256_GCM_SHA384"]), ["TLSv1_3"]);
        let old = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        assert_eq!(versions("1.2", &[old]), ["TLSv1_2"]);
        assert!(policy("1.3", &[old], &[]).is_err_and(|why| why.contains("all of these suites")));
    }

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        let why = policy("1.2", &["TLS_RSA_WITH_RC4_128_MD5"], &[]).expect_err("unknown");
        assert!(why.starts_with(
            "there is no cipher suite \"TLS_RSA_WITH_RC4_128_MD5\"; there are TLS_AES_128"
        ));
        let why = policy("1.2", &[], &["secp521r1"]).expect_err("unknown");
        let known = "X25519MLKEM768, x25519, secp256r1, secp384r1";
        assert_eq!(why, format!("there is no key exchange group \"secp521r1\"; there are {known}"));
        let why = policy("1.2", &[], &["x25519", "x25519"]).expect_err("twice");
        assert_eq!(why, "x25519 is named twice");
    }
}
