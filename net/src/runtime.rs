//! Waiting inside a glommio executor. The only place of this crate that knows glommio.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use glommio::io::{PollState, PollableFd};

use crate::Wire;

/// Waits in the executor's ring until a wire's epoll instance is readable.
///
/// One poll state is kept over all waits: a wait that ends for another reason leaves its
/// registration in place for the next.
#[derive(Debug)]
pub struct WireReady {
    instance: PollableFd<Arc<OwnedFd>>,
    state: PollState,
}

impl WireReady {
    /// Must be called on the executor that will wait.
    ///
    /// # Errors
    /// The executor cannot take the descriptor.
    pub fn new(wire: &Wire) -> io::Result<Self> {
        let instance = PollableFd::new(wire.instance()).map_err(io::Error::from)?;
        Ok(Self { instance, state: PollState::new() })
    }

    /// Ready when [`Wire::poll`] would find something.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.instance.poll_readable(cx, &mut self.state).map_err(io::Error::from)
    }
}
