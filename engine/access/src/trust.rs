//! Whose certificates back ends may have, and what their addresses look like.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// How to speak TLS with a back end: with those of whom `ca` (in PEM) is the authority, or the system trusts.
///
/// # Errors
/// A sentence about what is wrong with `ca`, or with the system.
pub fn tls(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let wrong =
                    |why: &dyn std::fmt::Display| format!("it holds no certificates: {why}");
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err("it holds no certificate in PEM".to_owned());
            }
        }
        None => {
            // Those of a system that cannot be used are no reason to do without the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system has no trusted certificates; name a file of them in `ca`"
                    .to_owned());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// True if what is sent to this host stays on this machine.
#[must_use]
pub fn is_here(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_or_refused() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        assert!(tls(Some(&made.cert.pem())).is_ok());
        assert_eq!(tls(Some("hello")).unwrap_err(), "it holds no certificate in PEM");
        assert!(
            tls(Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err()
        );
    }

    #[test]
    fn some_hosts_are_here() {
        for (host, here) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("::1", true),
            ("10.0.0.1", false),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
        ] {
            assert_eq!(is_here(host), here, "{host}");
        }
    }
}
