//! Traffic secrets, as rustls shows them to a key log during the handshake.
//!
//! The library has no other way to them, and without them keys can't be updated. The log is shared by
//! all connections of a configuration; a thread-local slot says which handshake runs on this thread.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::server::ServerConfig;
use rustls::{KeyLog, Side};
use zeroize::Zeroize;

/// The longest traffic secret of a suite: the output of SHA-384.
pub(super) const SECRET_BYTES_MAX: usize = 48;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    /// Where the handshake that this thread is working on puts its secrets.
    static SLOT: RefCell<Option<Box<Both>>> = const { RefCell::new(None) };
}

/// Makes the connections of a server configuration fit for [`super::CompactSession::from_server`].
pub fn prepare_server(config: &mut ServerConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(KeyCapture { _private: () });
}

/// Makes the connections of a client configuration fit for [`super::CompactSession::from_client`].
pub fn prepare_client(config: &mut ClientConfig) {
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(KeyCapture { _private: () });
}

/// The key log that [`prepare_server`] and [`prepare_client`] install.
///
/// It writes nowhere but into the [`TrafficSecrets`] that capture on the calling thread; outside of
/// [`TrafficSecrets::capture`] it drops what it is told.
#[derive(Debug)]
struct KeyCapture {
    _private: (),
}

/// The two application traffic secrets of one handshake.
///
/// Overwritten when dropped.
#[derive(Default)]
pub struct TrafficSecrets(Option<Box<Both>>);

#[derive(Default)]
struct Both {
    client: Secret,
    server: Secret,
}

#[derive(Default)]
struct Secret {
    /// A whole secret or nothing. Never grown, so no copy is left behind.
    bytes: Vec<u8>,
}

impl TrafficSecrets {
    /// Room for the secrets of a handshake that has not begun.
    pub fn new() -> Self {
        Self(Some(Box::default()))
    }

    /// Runs a step of the handshake and keeps the secrets that it yields.
    ///
    /// Every call that gives the connection input, or lets it answer, has to go through here until the
    /// handshake is complete. Calls may be made on different threads.
    pub fn capture<R>(&mut self, step: impl FnOnce() -> R) -> R {
        SLOT.set(self.0.take());
        let _back = GiveBack(self);
        step()
    }

    /// Whether both secrets have been seen.
    pub fn is_complete(&self) -> bool {
        self.0.as_ref().is_some_and(|it| !it.client.bytes.is_empty() && !it.server.bytes.is_empty())
    }

    /// The secret that protects what `side` sends; empty if it was not seen.
    pub(super) fn sent_by(&self, side: Side) -> &[u8] {
        match (&self.0, side) {
            (Some(both), Side::Client) => &both.client.bytes,
            (Some(both), Side::Server) => &both.server.bytes,
            (None, _) => &[],
        }
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecrets").field("complete", &self.is_complete()).finish()
    }
}

/// Empties the slot of this thread also when the step panics.
struct GiveBack<'a>(&'a mut TrafficSecrets);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.0.0 = SLOT.take();
    }
}

impl Secret {
    fn put(&mut self, secret: &[u8]) {
        self.bytes.zeroize();
        if secret.len() <= SECRET_BYTES_MAX {
            self.bytes = secret.to_vec();
        }
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl KeyLog for KeyCapture {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        SLOT.with_borrow_mut(|slot| match (slot, label) {
            (Some(both), CLIENT) => both.client.put(secret),
            (Some(both), SERVER) => both.server.put(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER) && SLOT.with_borrow(Option::is_some)
    }
}
