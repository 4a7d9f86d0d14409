//! What runs a pump: a glommio executor, or a plain thread.
//!
//! Both wait for the same epoll instance, the one through its ring, the other inside `epoll_wait`.
//! Besides `petrel_net::runtime` this is the only place that knows glommio.
//!
//! All executors are spawned by the thread that boots, before any of them serves; no executor is
//! made later.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use petrel_net::runtime::WireReady;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::preflight::Runtime;
use crate::pump::{Pump, Turned};

/// Entries in an executor's rings: with one epoll instance to wait for there is little in them.
const RING_DEPTH: usize = 128;
/// After this long an executor looks at its ring although there is work.
const PREEMPT: Duration = Duration::from_millis(1);
/// How often the watchdog looks; the tick alone makes two turns in this time.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long an executor gets to run what it has before the watchdog calls it a stall.
const WATCH_GRACE: Duration = Duration::from_millis(20);

/// A shard's thread.
pub enum ShardThread {
    /// Runs a glommio executor.
    Glommio(ExecutorJoinHandle<io::Result<()>>),
    /// Runs nothing but the pump.
    Plain(JoinHandle<io::Result<()>>),
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
    match runtime {
        Runtime::Glommio => LocalExecutorBuilder::new(Placement::Unbound)
            .name(name)
            .io_memory(0)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT)
            .spawn(move || async move {
                place();
                run_on_glommio(build()?).await
            })
            .map(ShardThread::Glommio)
            .map_err(io::Error::from),
        Runtime::Epoll => std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                place();
                run_plain(build()?)
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

fn run_plain(mut pump: Pump) -> io::Result<()> {
    let bell = Arc::clone(pump.bell());
    let mut turned = Turned::Busy;
    loop {
        let timeout = match turned {
            Turned::Over => return Ok(()),
            Turned::Busy => Some(Duration::ZERO),
            Turned::Idle => {
                bell.arm();
                pump.has_work().then_some(Duration::ZERO)
            }
        };
        turned = pump.turn(timeout)?;
    }
}

async fn run_on_glommio(mut pump: Pump) -> io::Result<()> {
    let mut ready = WireReady::new(pump.wire())?;
    let waker = Rc::new(RefCell::new(None));
    let watchdog = glommio::spawn_local(watch(
        pump.wire().instance(),
        Arc::clone(pump.counters()),
        Rc::clone(&waker),
    ))
    .detach();
    let result = loop {
        match pump.turn(Some(Duration::ZERO)) {
            Ok(Turned::Busy) => glommio::yield_if_needed().await,
            Ok(Turned::Idle) => {
                let wait = std::future::poll_fn(|cx| wait(&pump, &mut ready, &waker, cx));
                if let Err(error) = wait.await {
                    break Err(error);
                }
            }
            Ok(Turned::Over) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    watchdog.cancel();
    result
}

/// Ready when the pump has something to do. Armed before the last look, so that nothing that
/// arrives in between is missed; one registration in the ring serves all waits.
fn wait(
    pump: &Pump,
    ready: &mut WireReady,
    waker: &RefCell<Option<Waker>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut kept = waker.borrow_mut();
    if !kept.as_ref().is_some_and(|kept| kept.will_wake(cx.waker())) {
        *kept = Some(cx.waker().clone());
    }
    pump.bell().arm();
    if pump.has_work() {
        pump.bell().disarm();
        return Poll::Ready(Ok(()));
    }
    ready.poll(cx)
}

/// Wakes a pump that its executor has forgotten: its epoll instance is readable, and yet it was not
/// run for longer than its own tick. Never seen with this way of waiting; counted, so that a test
/// or an operator sees it if it ever comes.
async fn watch(
    instance: Arc<std::os::fd::OwnedFd>,
    counters: Arc<crate::pump::Counters>,
    waker: Rc<RefCell<Option<Waker>>>,
) {
    let turns = || counters.turns.load(Ordering::Relaxed);
    loop {
        let before = turns();
        glommio::timer::sleep(WATCH_EVERY).await;
        if turns() != before {
            continue;
        }
        // The thread itself may have been kept from running; then the pump is next in line.
        glommio::timer::sleep(WATCH_GRACE).await;
        let mut fds = [PollFd::new(&*instance, PollFlags::IN)];
        let readable = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1);
        if turns() == before && readable {
            counters.stalls.fetch_add(1, Ordering::Relaxed);
            if let Some(waker) = waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}
