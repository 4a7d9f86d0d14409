//! How long what a listener reads from files holds.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;

use super::CertificateWarning;

const DAY_S: i64 = 86_400;

/// What a file holds that ends some day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatedKind {
    /// A certificate of ours.
    Certificate,
    /// The certificate of an authority that signs those of clients.
    ClientAuthority,
    /// A list of revoked certificates.
    RevocationList,
}

/// Something with a period, and the file in which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// What it is.
    pub kind: DatedKind,
    /// Its file.
    pub path: PathBuf,
    /// When it begins to hold, in seconds since 1970.
    pub from_s: i64,
    /// When it ends; `None` for a list that does not say when its successor comes.
    pub until_s: Option<i64>,
}

impl Dated {
    pub(super) fn certificate(kind: DatedKind, path: &Path, of: &X509Certificate<'_>) -> Self {
        let validity = of.validity();
        Self {
            kind,
            path: path.to_owned(),
            from_s: validity.not_before.timestamp(),
            until_s: Some(validity.not_after.timestamp()),
        }
    }

    /// What is wrong with its period at a time, as far as clients will notice.
    #[must_use]
    pub fn warning(&self, now_s: i64) -> Option<CertificateWarning> {
        match self.until_s {
            _ if now_s < self.from_s => Some(CertificateWarning::NotValidYet),
            Some(until_s) if now_s > until_s => Some(CertificateWarning::Expired),
            _ => None,
        }
    }

    /// What an operator should hear: its period has not begun, is over, or ends within so many days.
    ///
    /// Lists of revoked certificates are made anew all the time. Of them it is told when nine tenths of
    /// their time are over and no other is there, if that is within these days too.
    #[must_use]
    pub fn complaint(&self, now_s: i64, days: u32) -> Option<Complaint<'_>> {
        let soon = |until_s: i64| {
            let left_s = until_s - now_s;
            let early_s = i64::from(days) * DAY_S;
            let early_s = match self.kind {
                DatedKind::RevocationList => early_s.min((until_s - self.from_s) / 10),
                _ => early_s,
            };
            (left_s < early_s).then_some(Trouble::EndsIn(left_s))
        };
        let trouble = match self.warning(now_s) {
            Some(warning) => Trouble::Now(warning),
            None => self.until_s.and_then(soon)?,
        };
        Some(Complaint { dated: self, trouble })
    }
}

impl Complaint<'_> {
    /// Whether something is wrong already, and not only soon.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        matches!(self.trouble, Trouble::Now(_))
    }
}

/// A sentence about the period of something. Displays without its full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint<'a> {
    dated: &'a Dated,
    trouble: Trouble,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Now(CertificateWarning),
    /// In so many seconds.
    EndsIn(i64),
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CertificateWarning::{Expired, NotValidYet};
        let path = self.dated.path.display();
        let what = match self.dated.kind {
            DatedKind::Certificate => "the certificate in",
            DatedKind::ClientAuthority => "the certificate of a client authority in",
            DatedKind::RevocationList => "the list of revoked certificates in",
        };
        match (self.trouble, self.dated.kind) {
            (Trouble::EndsIn(left_s), _) => {
                let (days, hours) = (left_s / DAY_S, left_s % DAY_S / 3600);
                write!(f, "{what} {path} ends in {days} days and {hours} hours; renew it")
            }
            (Trouble::Now(NotValidYet), _) => {
                write!(f, "{what} {path} is not valid yet; look at this host's clock")
            }
            (Trouble::Now(Expired), DatedKind::Certificate) => write!(
                f,
                "{what} {path} has expired; clients that check it will not connect; renew it"
            ),
            (Trouble::Now(Expired), DatedKind::ClientAuthority) => {
                write!(f, "{what} {path} has expired; clients with its certificates are refused")
            }
            (Trouble::Now(Expired), DatedKind::RevocationList) => write!(
                f,
                "{what} {path} is out of date; clients of its authority are refused until a newer \
                 one is there"
            ),
        }
    }
}

/// A time as certificates have it.
pub(crate) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dated(kind: DatedKind, from_s: i64, until_s: Option<i64>) -> Dated {
        Dated { kind, path: "c.pem".into(), from_s, until_s }
    }

    fn said(dated: &Dated, now_s: i64) -> Option<String> {
        dated.complaint(now_s, 14).map(|complaint| complaint.to_string())
    }

    #[test]
    fn an_end_that_comes_soon_is_told_and_a_later_one_is_not() {
        let it = dated(DatedKind::Certificate, 0, Some(100 * DAY_S));
        assert_eq!(said(&it, 86 * DAY_S), None);
        let soon = "the certificate in c.pem ends in 13 days and 23 hours; renew it";
        assert_eq!(said(&it, 86 * DAY_S + 1).as_deref(), Some(soon));
        assert_eq!(it.complaint(86 * DAY_S + 1, 0), None);
        assert!(said(&it, 100 * DAY_S + 1).is_some_and(|it| it.contains("has expired")));
        assert!(said(&it, -1).is_some_and(|it| it.contains("not valid yet")));
    }

    #[test]
    fn a_list_is_told_of_when_its_successor_is_late() {
        let it = dated(DatedKind::RevocationList, 0, Some(DAY_S));
        assert_eq!(said(&it, DAY_S * 9 / 10), None);
        let late = "the list of revoked certificates in c.pem ends in 0 days and 2 hours; renew it";
        assert_eq!(said(&it, DAY_S * 9 / 10 + 1).as_deref(), Some(late));
        assert!(said(&it, DAY_S + 1).is_some_and(|it| it.contains("out of date")));
        assert_eq!(said(&dated(DatedKind::RevocationList, 0, None), i64::MAX), None);
    }
}
