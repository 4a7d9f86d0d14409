//! What runs a pump: a glommio executor, or a plain thread.
//!
//! Both wait for the same epoll instance, the one through its ring, the other inside `epoll_wait`.
//! Besides `petrel_net::runtime` this is the only place that knows glommio.
//!
//! All executors are spawned by the thread that boots, before any of them serves; no executor is
//! made later.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use petrel_net::runtime::WireReady;

use crate::preflight::Runtime;
use crate::pump::{Pump, Turned};

/// Entries in an executor's rings: with one epoll instance to wait for there is little in them.
const RING_DEPTH: usize = 128;
/// After this long an executor looks at its ring although there is work. Nothing urgent is in the
/// ring: bells, sockets and ticks are in epoll, where every turn looks.
const PREEMPT: Duration = Duration::from_millis(20);
/// How long a pump waits before it looks again for what other shards do not announce.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// An executor never sleeps longer than the first of these; see [`beat`]. Two, since one that has
/// just ended is no timer either.
const HEARTBEATS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(77)];

/// A shard's thread.
pub enum ShardThread {
    /// Runs a glommio executor.
    Glommio(ExecutorJoinHandle<io::Result<()>>),
    /// Runs nothing but the pump.
    Plain(JoinHandle<io::Result<()>>),
}

/// Before it sleeps after a busy turn, a shard that has no core of its own lets the others run and looks once
/// more: they are likely to have something for it then, and to sleep and to be woken costs more. With 32 shards
/// on one core that halves the wakes.
struct Manners {
    shares_core: bool,
    yielded: bool,
}

impl Manners {
    const fn new(core: Option<CoreId>) -> Self {
        Self { shares_core: core.is_none(), yielded: false }
    }

    /// Lets the others run, once before each sleep; true if it has.
    fn let_others_run(&mut self, pump: &Pump) -> bool {
        self.yielded = self.shares_core && !self.yielded && pump.was_busy();
        if self.yielded {
            std::thread::yield_now();
        }
        self.yielded
    }
}

/// Starts a thread that builds a pump and runs it until it is over.
///
/// # Errors
/// The thread cannot be made. What the executor itself cannot do is told by
/// [`ShardThread::join`], and `build` has then not been called.
pub fn spawn<B>(
    runtime: Runtime,
    name: &str,
    core: Option<CoreId>,
    build: B,
) -> io::Result<ShardThread>
where
    B: FnOnce() -> io::Result<Pump> + Send + 'static,
{
    let place = move || {
        if let Some(core) = core {
            // A core that was taken away meanwhile costs the pin, not the shard.
            core_affinity::set_for_current(core);
        }
    };
    let manners = Manners::new(core);
    match runtime {
        Runtime::Glommio => LocalExecutorBuilder::new(Placement::Unbound)
            .name(name)
            .io_memory(0)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT)
            .spawn(move || async move {
                place();
                let pump = build()?;
                pump.pulse().begin();
                run_on_glommio(pump, manners).await
            })
            .map(ShardThread::Glommio)
            .map_err(io::Error::from),
        Runtime::Epoll => std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                place();
                let pump = build()?;
                pump.pulse().begin();
                run_plain(pump, manners)
            })
            .map(ShardThread::Plain),
    }
}

impl ShardThread {
    /// Waits for the end of the shard.
    ///
    /// # Errors
    /// What ended it before its time.
    pub fn join(self) -> io::Result<()> {
        let panicked = || io::Error::other("a shard panicked");
        match self {
            Self::Glommio(handle) => handle.join().map_err(io::Error::from)?,
            Self::Plain(handle) => handle.join().map_err(|_| panicked())?,
        }
    }
}

fn run_plain(mut pump: Pump, mut manners: Manners) -> io::Result<()> {
    let bell = Arc::clone(pump.bell());
    let mut turned = Turned::Busy;
    loop {
        let timeout = match turned {
            Turned::Over => {
                pump.pulse().end();
                return Ok(());
            }
            Turned::Busy => Some(Duration::ZERO),
            Turned::Waiting => Some(LOOK_AGAIN),
            Turned::Done if manners.let_others_run(&pump) => Some(Duration::ZERO),
            Turned::Done | Turned::Idle => {
                manners.yielded = false;
                bell.arm();
                pump.has_work().then_some(Duration::ZERO)
            }
        };
        turned = pump.turn(timeout)?;
    }
}

async fn run_on_glommio(mut pump: Pump, mut manners: Manners) -> io::Result<()> {
    let mut ready = WireReady::new(pump.wire())?;
    let mut waker = None;
    let mut timeout = Some(Duration::ZERO);
    for every in HEARTBEATS {
        // Ends with the executor.
        glommio::spawn_local(beat(every)).detach();
    }
    // Nothing has happened from one tick to the next.
    let mut resting = false;
    loop {
        let turned = pump.turn(timeout)?;
        resting = turned == Turned::Idle && (resting || timeout.is_none());
        timeout = Some(Duration::ZERO);
        match turned {
            Turned::Busy => {}
            Turned::Waiting => timeout = Some(LOOK_AGAIN),
            Turned::Done if manners.let_others_run(&pump) => {}
            Turned::Idle if resting => {
                std::future::poll_fn(|cx| wait(&pump, &mut ready, &mut waker, cx)).await?;
            }
            Turned::Done | Turned::Idle => {
                // To park an executor and to wake it costs five calls of the system, and a timeout costs two
                // timers: more than a small message costs otherwise. So a shard for which something happens
                // from tick to tick waits inside epoll, where the tick is as well.
                manners.yielded = false;
                pump.bell().arm();
                if !pump.has_work() {
                    timeout = None;
                }
            }
            Turned::Over => {
                pump.pulse().end();
                return Ok(());
            }
        }
        glommio::yield_if_needed().await;
    }
}

/// Keeps a timer running, so that an executor that sleeps by mistake does not sleep for long.
///
/// glommio-ng 0.12.0 arms its preempt timer and then looks for tasks to run. If the thread is kept
/// from its core in between until that timer has fired, no task is run, that is taken for having
/// none, and the executor sleeps although the pump is ready to run; a waker changes nothing, as the
/// task counts as scheduled already. The longer the timer, the rarer it is, and this ends it.
async fn beat(every: Duration) {
    loop {
        glommio::timer::sleep(every).await;
    }
}

/// Ready when the pump has something to do. Armed before the last look, so that nothing that
/// arrives in between is missed; one registration in the ring serves all waits.
fn wait(
    pump: &Pump,
    ready: &mut WireReady,
    waker: &mut Option<Waker>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *waker = Some(cx.waker().clone());
        pump.pulse().set_waker(cx.waker().clone());
    }
    pump.bell().arm();
    if pump.has_work() {
        pump.bell().disarm();
        return Poll::Ready(Ok(()));
    }
    ready.poll(cx)
}
