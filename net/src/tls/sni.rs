//! Which certificate a client is shown.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

/// The certificates of a listener, each with the names that it is for; the first is the default.
#[derive(Debug)]
pub(super) struct ByName(Vec<Named>);

#[derive(Debug)]
struct Named {
    /// In lower case; `*.` stands for one label at the front.
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

impl ByName {
    pub(super) fn new(certificates: Vec<CertifiedKey>) -> Self {
        let named = |certified: CertifiedKey| {
            let leaf = certified.cert.first();
            let names = leaf.map_or_else(Vec::new, |leaf| dns_names(leaf));
            Named { names, certified: Arc::new(certified) }
        };
        Self(certificates.into_iter().map(named).collect())
    }

    /// Those for a name, the exact ones before those with a wildcard, the default last.
    fn candidates(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let wildcard = name.as_ref().and_then(|name| {
            let (_, domain) = name.split_once('.')?;
            Some(format!("*.{domain}"))
        });
        let having = move |wanted: Option<String>| {
            self.0
                .iter()
                .filter(move |it| wanted.as_ref().is_some_and(|it_is| it.names.contains(it_is)))
        };
        having(name).chain(having(wildcard)).chain(self.0.first()).map(|it| &it.certified)
    }
}

impl ResolvesServerCert for ByName {
    /// The first that is for the name and whose key can sign what the client accepts; else the default,
    /// about which the library says what is wrong.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let can_sign = |it: &&Arc<CertifiedKey>| it.key.choose_scheme(schemes).is_some();
        self.candidates(hello.server_name())
            .find(can_sign)
            .or_else(|| self.0.first().map(|it| &it.certified))
            .map(Arc::clone)
    }
}

/// The DNS names among the alternative names of a certificate, in lower case.
fn dns_names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let extension = parsed.subject_alternative_name().ok().flatten();
    let names = extension.map_or(&[][..], |it| it.value.general_names.as_slice());
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}
