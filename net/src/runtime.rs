//! Waiting inside a glommio executor. The only place of this crate that knows glommio.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::io::{PollState, PollableFd};
use glommio::{LocalExecutorBuilder, Placement};

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
        Self::of(wire.instance())
    }

    /// Waits for any epoll instance. Must be called on the executor that will wait.
    ///
    /// # Errors
    /// The executor cannot take the descriptor.
    pub fn of(instance: Arc<OwnedFd>) -> io::Result<Self> {
        let instance = PollableFd::new(instance).map_err(io::Error::from)?;
        Ok(Self { instance, state: PollState::new() })
    }

    /// Ready when [`Wire::poll`] would find something.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.instance.poll_readable(cx, &mut self.state).map_err(io::Error::from)
    }
}

/// Entries in an executor's rings: with one epoll instance to wait for there is little in them.
const RING_DEPTH: usize = 128;
/// After this long an executor looks at its ring although there is work.
const PREEMPT: Duration = Duration::from_millis(20);
/// An executor never sleeps longer than the first of these, even if it sleeps by mistake; two, since
/// one that has just ended is no timer either. See `docs/adr/0001`.
const HEARTBEATS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(77)];

/// What follows a turn of [`drive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another turn.
    Turn,
    /// Another turn once the epoll instance is readable.
    Wait,
    /// The end.
    End,
}

/// Takes turns in an executor of its own on this thread, until one is the last.
///
/// The rings belong to the file table that the thread has now.
///
/// # Errors
/// The executor cannot be made, or a turn has failed.
pub fn drive<T>(instance: Arc<OwnedFd>, mut turn: T) -> io::Result<()>
where
    T: FnMut() -> io::Result<Next>,
{
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(0)
        .ring_depth(RING_DEPTH)
        .preempt_timer(PREEMPT)
        .make()
        .map_err(io::Error::from)?;
    executor.run(async move {
        for every in HEARTBEATS {
            // Ends with the executor.
            let beat = async move {
                loop {
                    glommio::timer::sleep(every).await;
                }
            };
            glommio::spawn_local(beat).detach();
        }
        let mut ready = WireReady::of(instance)?;
        loop {
            match turn()? {
                Next::Turn => glommio::yield_if_needed().await,
                Next::Wait => std::future::poll_fn(|cx| ready.poll(cx)).await?,
                Next::End => return Ok(()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn turns_are_taken_until_the_last_and_wait_for_the_instance() {
        let instance = Arc::new(epoll::create(CreateFlags::CLOEXEC).expect("an instance"));
        let bell = eventfd(0, EventfdFlags::NONBLOCK).expect("a bell");
        let data = EventData::new_u64(1);
        epoll::add(&instance, &bell, data, EventFlags::IN).expect("added");
        let mut turns = 0;
        let driven = drive(Arc::clone(&instance), || {
            turns += 1;
            Ok(match turns {
                1 => Next::Turn,
                2 => {
                    rustix::io::write(&bell, &1_u64.to_ne_bytes())?;
                    Next::Wait
                }
                _ => Next::End,
            })
        });
        match driven {
            Ok(()) => assert_eq!(turns, 3),
            // Where io_uring is refused there is no executor.
            Err(error) => assert_eq!(turns, 0, "{error}"),
        }
    }
}
