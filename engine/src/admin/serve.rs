//! Sockets of the admin interface: HTTP/1.1, over TLS where there is a certificate.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Connections at once; more wait in the kernel.
const CONNECTIONS_MAX: usize = 128;
/// How long a handshake, or the head of a request, may take; and how long a connection may do nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection lasts, whatever it does: whoever reads no answers holds no place for good.
const LIFE: Duration = Duration::from_secs(60);
/// Connections of one address at once, so that one alone cannot take the places of all others; more are closed.
const CONNECTIONS_OF_ADDRESS_MAX: usize = 32;
/// Bytes that wait for a socket, or to be looked at.
const BUFFER_BYTES: usize = 64 << 10;
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
    let sources = Sources::default();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(source) = sources.enter(peer.ip()) else { continue };
                let tls = tls.read().unwrap_or_else(PoisonError::into_inner).clone();
                let router = router.clone().layer(Extension(Peer(peer)));
                tokio::spawn(answer(stream, tls, router, (place, source)));
            }
            // No descriptor is left, say.
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection of an address; it counts until this is dropped.
#[derive(Debug)]
struct Source(Sources, IpAddr);

impl Sources {
    /// One more; `None` if the address has enough.
    fn enter(&self, address: IpAddr) -> Option<Source> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= CONNECTIONS_OF_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Source(self.clone(), address))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

async fn answer(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    _held: (OwnedSemaphorePermit, Source),
) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(BUFFER_BYTES);
    // Whoever asks and goes away, or speaks something else, is told nothing.
    match tls {
        None => {
            drop(timeout(LIFE, http.serve_connection(TokioIo::new(stream), service)).await);
        }
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            if let Ok(Ok(stream)) = timeout(PATIENCE, handshake).await {
                drop(timeout(LIFE, http.serve_connection(TokioIo::new(stream), service)).await);
            }
        }
    }
}
