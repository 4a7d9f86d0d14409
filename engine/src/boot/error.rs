//! Why a broker does not start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use petrel_net::tls::{RandomUnavailable, SecretFileError, TlsConfigError};
use petrel_storage::StoreError;

/// Why a broker did not start. Displays as one sentence without its full stop.
#[derive(Debug)]
pub enum BootError {
    /// A certificate or key cannot be used.
    Tls(TlsConfigError),
    /// The secret of session tickets cannot be used.
    Secret(SecretFileError),
    /// An address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The system refuses what the configuration or the runtime needs.
    Refused(String),
    /// A shard did not come up.
    Shard(io::Error),
    /// What outlives the process cannot be used.
    Storage(PathBuf, StoreError),
    /// The system gives no random numbers.
    Random,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => error.fmt(f),
            Self::Secret(error) => error.fmt(f),
            Self::Listen(address, error) => match error.kind() {
                io::ErrorKind::AddrInUse => {
                    write!(f, "{address} is in use; another program listens there")
                }
                io::ErrorKind::PermissionDenied => write!(
                    f,
                    "listening on {address} is not permitted; ports below 1024 need \
                     CAP_NET_BIND_SERVICE"
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(f, "{} is not an address of this machine", address.ip())
                }
                _ => write!(f, "cannot listen on {address}: {error}"),
            },
            Self::Refused(sentence) => f.write_str(sentence),
            Self::Shard(error) if error.kind() == io::ErrorKind::WouldBlock => f.write_str(
                "a shard did not come up: the system allows no more threads; raise it with \
                 `ulimit -u` or TasksMax= in the systemd unit",
            ),
            Self::Shard(error) => write!(f, "a shard did not come up: {error}"),
            Self::Storage(path, error) => write!(f, "storage in {}: {error}", path.display()),
            Self::Random => f.write_str("the system gives no random numbers"),
        }
    }
}

impl std::error::Error for BootError {}

impl From<TlsConfigError> for BootError {
    fn from(error: TlsConfigError) -> Self {
        Self::Tls(error)
    }
}

impl From<SecretFileError> for BootError {
    fn from(error: SecretFileError) -> Self {
        Self::Secret(error)
    }
}

impl From<RandomUnavailable> for BootError {
    fn from(_: RandomUnavailable) -> Self {
        Self::Random
    }
}
