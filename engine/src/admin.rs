//! What people and machines ask a running broker, over HTTP.
//!
//! One thread with a runtime of its own, beside the shards: it reads what they have made known a quarter of a second
//! ago at most, and never waits for them. It listens where `[admin] address` says, on loopback only, for it asks
//! nobody who they are.

mod metrics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use tokio::sync::oneshot;

use self::metrics::Metrics;
use crate::figures::Watch;
use crate::guard::Guard;
use crate::watchdog::Pulse;

/// What the admin interface knows the broker by.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the shards count.
    pub watch: Watch,
    /// Who is refused.
    pub guard: Arc<Guard>,
    /// Signs of life of the shards.
    pub pulses: Vec<Arc<Pulse>>,
    /// Clients are let in.
    pub serves: Arc<AtomicBool>,
}

/// A shard that has had no turn for so long is stuck; an idle one has four in a second.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What those who answer know.
struct Known {
    source: Source,
    /// By shard: its turns, and when they were fewer.
    turns: Mutex<Vec<(u64, Instant)>>,
}

impl Known {
    fn new(source: Source) -> Self {
        let now = Instant::now();
        let turns = source.pulses.iter().map(|pulse| (pulse.turns(), now)).collect();
        Self { source, turns: Mutex::new(turns) }
    }

    /// Looks which shards have had a turn, from time to time, for ever.
    async fn look(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Instant::now();
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            for ((before, at), pulse) in turns.iter_mut().zip(&self.source.pulses) {
                if std::mem::replace(before, pulse.turns()) != *before {
                    *at = now;
                }
            }
        }
    }

    /// The first shard that has had no turn for long.
    fn stuck(&self) -> Option<usize> {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.iter().position(|(_, at)| at.elapsed() > STUCK_AFTER)
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens and answers from now on.
    ///
    /// # Errors
    /// The address cannot be listened on, or the system gives no thread.
    pub fn start(address: SocketAddr, source: Source) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let known = Arc::new(Known::new(source));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                done = axum::serve(listener, routes(Arc::clone(&known))).into_future() => done,
                () = known.look() => Ok(()),
                // Whoever is being answered hears no end of it.
                _ = stopped => Ok(()),
            }
        };
        let run = move || {
            if let Err(error) = runtime.block_on(serve) {
                crate::log::error(format_args!("the admin interface has ended: {error}"));
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

/// What is asked and answered.
fn routes(known: Arc<Known>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(known)
}

/// Whether the process does what it is for, or should be started anew.
async fn live(State(known): State<Arc<Known>>) -> (StatusCode, String) {
    match known.stuck() {
        Some(shard) => {
            let seconds = STUCK_AFTER.as_secs();
            let text = format!("shard {shard} has had no turn for {seconds} seconds\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        None => (StatusCode::OK, "live\n".to_owned()),
    }
}

/// Whether clients should be sent here.
async fn ready(State(known): State<Arc<Known>>) -> (StatusCode, &'static str) {
    match known.source.serves.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "clients are not let in\n"),
    }
}

async fn metrics(
    State(known): State<Arc<Known>>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let text = Metrics::of(&known.source).text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
