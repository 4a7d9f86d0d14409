//! The user name that a client's certificate gives.
//!
//! What an authority has signed is not what a name must look like: a name with a NUL, two names where
//! one is looked for, or one that is too long is refused as a whole, never cut.

use std::fmt;

use bytes::Bytes;
use petrel_proto::Text;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oid;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest user name that a certificate may give, in bytes.
pub const USER_BYTES_MAX: usize = 512;

/// Where in a client's certificate its user name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateUser {
    /// The Common Name of the subject.
    #[default]
    CommonName,
    /// The DNS name among the subject's alternative names.
    SanDns,
    /// The mail address among them.
    SanEmail,
    /// The URI among them.
    SanUri,
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// Nowhere: certificates name nobody.
    Nothing,
}

impl CertificateUser {
    /// The names in the configuration file.
    pub const NAMES: &'static [&'static str] =
        &["cn", "san_dns", "san_email", "san_uri", "subject", "none"];

    const ALL: [Self; 6] = [
        Self::CommonName,
        Self::SanDns,
        Self::SanEmail,
        Self::SanUri,
        Self::Subject,
        Self::Nothing,
    ];

    /// The choice for its name in the configuration file.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|it| *it == name)?;
        Self::ALL.get(at).copied()
    }

    /// Its name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The user name in a certificate; `None` if it has none there.
    ///
    /// *Errors*: it has one that is no good user name, or more than one.
    pub(crate) fn of(self, certificate: &X509Certificate<'_>) -> Result<Option<Text>, NameFault> {
        match self {
            Self::Nothing => Ok(None),
            Self::CommonName => {
                let names = certificate.subject().iter_common_name();
                only(names)?.map(|name| acceptable(string(name)?)).transpose()
            }
            Self::Subject => subject(certificate.subject()).map(Some),
            Self::SanDns | Self::SanEmail | Self::SanUri => self.alternative(certificate),
        }
    }

    fn alternative(self, certificate: &X509Certificate<'_>) -> Result<Option<Text>, NameFault> {
        let extension =
            certificate.subject_alternative_name().map_err(|_| NameFault::Unreadable)?;
        let Some(extension) = extension else { return Ok(None) };
        let names = &extension.value.general_names;
        if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
            return Err(NameFault::Unreadable);
        }
        let wanted = names.iter().filter_map(|name| match (self, name) {
            (Self::SanDns, GeneralName::DNSName(text))
            | (Self::SanEmail, GeneralName::RFC822Name(text))
            | (Self::SanUri, GeneralName::URI(text)) => Some(text.as_bytes()),
            _ => None,
        });
        only(wanted)?.map(acceptable).transpose()
    }
}

/// What is wrong with the name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// The part of the certificate in which it stands cannot be read.
    Unreadable,
    /// There are several, and nobody could say which one counts.
    Several,
    /// It is empty.
    Empty,
    /// It has more than [`USER_BYTES_MAX`] bytes.
    TooLong,
    /// It is not UTF-8, or of a kind of string that has no certain meaning.
    NotText,
    /// There is a NUL or another control character in it.
    Control,
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the names in the certificate cannot be read",
            Self::Several => "the certificate has several names where the user name stands",
            Self::Empty => "the user name in the certificate is empty",
            Self::TooLong => "the user name in the certificate is too long",
            Self::NotText => "the user name in the certificate is not UTF-8",
            Self::Control => "the user name in the certificate has a control character",
        })
    }
}

/// A name that somebody else vouches for, if it can be a user name.
pub(crate) fn acceptable(name: &[u8]) -> Result<Text, NameFault> {
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.len() > USER_BYTES_MAX {
        return Err(NameFault::TooLong);
    }
    let text = std::str::from_utf8(name).map_err(|_| NameFault::NotText)?;
    if text.chars().any(char::is_control) {
        return Err(NameFault::Control);
    }
    Text::new(Bytes::copy_from_slice(name)).map_err(|_| NameFault::NotText)
}

/// The one element, if there is any.
fn only<T>(mut names: impl Iterator<Item = T>) -> Result<Option<T>, NameFault> {
    let first = names.next();
    if names.next().is_some() { Err(NameFault::Several) } else { Ok(first) }
}

/// The bytes of an attribute that is a string of which UTF-8 is a superset.
fn string<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Result<&'a [u8], NameFault> {
    let value = attribute.attr_value();
    match value.tag() {
        Tag::Utf8String => Ok(value.data),
        // Other bytes than those of ASCII mean what everybody wants them to mean.
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString if value.data.is_ascii() => {
            Ok(value.data)
        }
        _ => Err(NameFault::NotText),
    }
}

/// The attributes whose names RFC 4514 section 3 gives.
const SHORT_NAMES: [(oid::Oid<'static>, &str); 9] = [
    (oid::OID_X509_COMMON_NAME, "CN"),
    (oid::OID_X509_LOCALITY_NAME, "L"),
    (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST"),
    (oid::OID_X509_ORGANIZATION_NAME, "O"),
    (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU"),
    (oid::OID_X509_COUNTRY_NAME, "C"),
    (oid::OID_X509_STREET_ADDRESS, "STREET"),
    (oid::OID_DOMAIN_COMPONENT, "DC"),
    (oid::OID_USERID, "UID"),
];

/// A subject as RFC 4514 writes it: the last part first, and whatever could be taken for the end of a
/// part escaped, so that two subjects never look the same.
fn subject(name: &X509Name<'_>) -> Result<Text, NameFault> {
    let mut written = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        if !written.is_empty() {
            written.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                written.push('+');
            }
            let kind = attribute.attr_type();
            match SHORT_NAMES.iter().find(|(known, _)| known == kind) {
                Some((_, short)) => written.push_str(short),
                None => written.push_str(&kind.to_id_string()),
            }
            written.push('=');
            let value = acceptable(string(attribute)?)?;
            escape(value.as_str(), &mut written);
            if written.len() > USER_BYTES_MAX {
                return Err(NameFault::TooLong);
            }
        }
    }
    acceptable(written.as_bytes())
}

/// RFC 4514 section 2.4.
fn escape(value: &str, out: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, sign) in value.chars().enumerate() {
        let special = match sign {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => true,
            '#' => at == 0,
            ' ' => at == 0 || at == last,
            _ => false,
        };
        if special {
            out.push('\\');
        }
        out.push(sign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_a_name() {
        for name in CertificateUser::NAMES {
            assert_eq!(CertificateUser::from_name(name).map(CertificateUser::name), Some(*name));
        }
        assert_eq!(CertificateUser::from_name("CN"), None);
    }

    #[test]
    fn what_cannot_be_a_user_name_is_refused_and_not_cut() {
        for (name, fault) in [
            (&b""[..], NameFault::Empty),
            (b"admin\0.example", NameFault::Control),
            (b"admin\n", NameFault::Control),
            ("admin\u{85}".as_bytes(), NameFault::Control),
            (b"admin\xff", NameFault::NotText),
            (b"\xc0\x80", NameFault::NotText),
            (&[b'a'; USER_BYTES_MAX + 1], NameFault::TooLong),
        ] {
            assert_eq!(acceptable(name), Err(fault), "{name:?}");
        }
        let longest = [b'a'; USER_BYTES_MAX];
        assert_eq!(acceptable(&longest).map(|name| name.len()), Ok(USER_BYTES_MAX));
    }

    #[test]
    fn a_value_cannot_end_its_part_of_a_subject() {
        let mut out = String::new();
        escape(" x, CN=admin+#1\\ ", &mut out);
        assert_eq!(out, "\\ x\\, CN\\=admin\\+#1\\\\\\ ");
        out.clear();
        escape("#a b", &mut out);
        assert_eq!(out, "\\#a b");
    }
}
