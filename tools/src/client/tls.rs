//! TLS as a client sees it: whom to trust, and what to say when trust fails.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::failure::Failure;
use crate::options::{TlsOptions, Trust};
use verify::{TrustAnybody, TrustFile};

mod verify;

/// Begins a TLS connection with a host.
pub fn connection(options: &TlsOptions, host: &str) -> Result<ClientConnection, Failure> {
    let config = match &options.made {
        Some(config) => Arc::clone(config),
        None => Arc::new(config(options)?),
    };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::new(format!("{host:?} is not a name that a certificate can have")))?;
    let mut connection = ClientConnection::new(config, name)
        .map_err(|error| Failure::new(format!("cannot set TLS up: {error}")))?;
    // The queue is bounded by its user, who asks how much is waiting.
    connection.set_buffer_limit(None);
    Ok(connection)
}

/// Reads the files once, for many connections.
pub fn make(options: &mut TlsOptions) -> Result<(), Failure> {
    options.made = Some(Arc::new(config(options)?));
    Ok(())
}

fn config(options: &TlsOptions) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::new(format!("cannot set TLS up: {error}")))?;
    let builder = match &options.trust {
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)))
        }
        Trust::File(file) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustFile::new(file, provider)?)),
        Trust::System => builder.with_root_certificates(authorities_of_the_system()?),
    };
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates_in(cert)?;
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                Failure::new(format!("cannot use the key file {}: {error}", key.display()))
            })?;
            builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                Failure::new(format!("cannot use the certificate {}: {error}", cert.display()))
            })?
        }
    };
    config.enable_sni = true;
    // Every connection is one of a client that comes for the first time.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn certificates_in(file: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |error: rustls_pki_types::pem::Error| {
        Failure::new(format!("cannot use the certificate file {}: {error}", file.display()))
    };
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(wrong)?;
    if certificates.is_empty() {
        return Err(Failure::new(format!(
            "the file {} holds no certificate in PEM form",
            file.display()
        )));
    }
    Ok(certificates)
}

fn authorities_of_the_system() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Failure::new(
            "this system trusts no certificate authority; name one with --cafile FILE",
        ));
    }
    Ok(roots)
}

/// What a TLS failure means for the person at the keyboard.
pub fn in_words(error: &rustls::Error, place: &str) -> String {
    use rustls::Error;
    let hint = "name its authority with --cafile FILE, or accept anybody with --insecure";
    match error {
        // Among the others is an authority's own certificate, which is what people make first. A bad
        // signature is an authority of the same name made anew.
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::Other(_),
        ) => {
            format!("the certificate of {place} is from nobody that is trusted here; {hint}")
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the certificate of {place} is for another name; use a name that is in it with -h, or \
             accept anybody with --insecure"
        ),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!("the certificate of {place} has expired"),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!("the certificate of {place} is not valid yet; is this machine's clock right?"),
        Error::InvalidCertificate(other) => {
            format!("the certificate of {place} is not acceptable ({other}); {hint}")
        }
        Error::InvalidMessage(_) => {
            format!("{place} does not answer in TLS; is that a port without TLS?")
        }
        Error::AlertReceived(alert) => {
            format!(
                "{place} refuses the TLS connection ({alert:?}); does it want --cert and --key?"
            )
        }
        other => format!("TLS with {place} failed: {other}"),
    }
}
