//! Sockets of the admin interface: HTTP/1.1, over TLS where there is a certificate.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Connections at once; more wait in the kernel.
const CONNECTIONS_MAX: usize = 128;
/// How long a handshake, or the head of a request, may take; and how long a connection may do nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing is accepted after that has failed.
const RETRY: Duration = Duration::from_millis(250);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What new connections are given; `None` for plain HTTP.
pub(super) type Tls = Arc<RwLock<Option<Arc<ServerConfig>>>>;

/// Answers for ever.
pub(super) async fn serve(listener: TcpListener, tls: Tls, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let tls = tls.read().unwrap_or_else(PoisonError::into_inner).clone();
                let router = router.clone().layer(Extension(Peer(peer)));
                tokio::spawn(answer(stream, tls, router, place));
            }
            // No descriptor is left, say.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn answer(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    _place: OwnedSemaphorePermit,
) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // Whoever asks and goes away, or speaks something else, is told nothing.
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, handshake).await {
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}
