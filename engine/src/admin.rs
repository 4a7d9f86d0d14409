//! What people and machines ask a running broker, and have it do, over HTTP.
//!
//! One thread with a runtime of its own, beside the shards: it reads what they have made known a quarter of a second
//! ago at most, or asks them between two of their inputs, and never makes them wait. [`gate`] says who may do what.
//! What has to wait for a shard does so on a few threads for that.

mod answer;
mod broker;
mod clients;
pub mod doors;
mod gate;
mod levels;
mod messages;
mod metrics;
mod process;
mod serve;
mod storage;
mod traces;
mod why;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use axum::{Json, Router, middleware};
use petrel_net::tls;
use tokio::sync::{Semaphore, oneshot};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::answer::Problem;
use self::doors::{Door, Doors};
use self::gate::Gate;
use self::metrics::Metrics;
use crate::config::AdminConfig;
use crate::figures::Watch;
use crate::guard::Guard;
use crate::log::{self, Event, Level};
use crate::reins::Reins;
use crate::shards::Shards;
use crate::trace::Traces;
use crate::watchdog::Vigil;

/// What the admin interface knows the broker by.
#[derive(Clone)]
pub struct Source {
    /// What the shards count.
    pub watch: Watch,
    /// Who is refused.
    pub guard: Arc<Guard>,
    /// Which of them have turns.
    pub vigil: Arc<Vigil>,
    /// The shards themselves.
    pub shards: Shards,
    /// What an operator may do.
    pub reins: Arc<Reins>,
    /// Recordings.
    pub traces: Arc<Traces>,
    /// Clients are let in.
    pub serves: Arc<AtomicBool>,
    /// The listeners, in the order of the configuration.
    pub doors: Vec<Door>,
    /// What drives the shards.
    pub runtime: String,
    /// The folder of what outlives the process, if anything does.
    pub storage: Option<PathBuf>,
    /// Where `petrelctl` finds its token, if anywhere.
    pub folder: Option<PathBuf>,
}

impl Source {
    /// Clients are let in, and no shard is stuck on which they would wait.
    fn is_ready(&self) -> bool {
        self.serves.load(Ordering::Relaxed) && self.vigil.stuck().is_none()
    }
}

/// Questions to shards at once.
const ASKED_AT_ONCE: usize = 4;

/// What those who answer know.
struct Known {
    source: Source,
    /// Names of the listeners.
    listeners: Arc<[String]>,
    doors: Doors,
    gate: Gate,
    begun: Instant,
    asking: Arc<Semaphore>,
}

impl Known {
    fn new(source: Source, gate: Gate) -> Self {
        let asking = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        let listeners = source.doors.iter().map(|door| door.name.clone()).collect();
        let doors = Doors::new(source.doors.clone());
        // Known from now on, before somebody sets the clock.
        let _ = process::started_s();
        Self { source, listeners, doors, gate, begun: Instant::now(), asking }
    }
}

/// Does something that waits, for a shard or a disk, beside the runtime.
async fn asked<T: Send + 'static>(
    known: &Arc<Known>,
    what: impl FnOnce(&Known) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let stops = || Problem(StatusCode::SERVICE_UNAVAILABLE, "the broker stops".to_owned());
    let place = Arc::clone(&known.asking).acquire_owned().await.map_err(|_| stops())?;
    let known = Arc::clone(known);
    let done = tokio::task::spawn_blocking(move || {
        let done = what(&known);
        drop(place);
        done
    });
    done.await.map_err(|_| stops())?
}

/// The description of everything that can be asked.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Petrel",
        description = "What people and machines ask a running broker, and have it do."
    ),
    components(schemas(answer::Fault))
)]
struct Description;

/// Answers until it is dropped.
pub struct Admin {
    address: SocketAddr,
    known: Arc<Known>,
    tls: serve::Tls,
    config: AdminConfig,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What it reads from files.
pub(crate) struct Files {
    bearers: petrel_access::bearer::Bearers,
    tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
}

impl Files {
    fn read(config: &AdminConfig) -> Result<Self, String> {
        let bearers = config.tokens.as_deref().map(gate::read_tokens).transpose()?;
        let tls = config.tls.as_ref().map(|(cert, key)| tls::for_streams(cert, key));
        let tls = tls.transpose().map_err(|error| error.to_string())?;
        Ok(Self { bearers: bearers.unwrap_or_default(), tls })
    }
}

/// Says what is wrong with the files that the configuration names.
///
/// # Errors
/// A sentence.
pub fn check(config: &AdminConfig) -> Result<(), String> {
    Files::read(config).map(drop)
}

impl Admin {
    /// Listens and answers from now on.
    ///
    /// # Errors
    /// The address cannot be listened on, its files are no good, or the system gives no thread.
    pub fn start(config: &AdminConfig, source: Source) -> io::Result<Self> {
        let files = Files::read(config).map_err(io::Error::other)?;
        let listener = TcpListener::bind(config.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(ASKED_AT_ONCE)
            .thread_name("admin")
            .enable_all()
            .build()?;
        if config.is_open() && files.tls.is_none() {
            let text = format_args!(
                "the admin interface speaks plain HTTP on {address}, so whoever can read the network can read \
                 tokens; [admin] `cert` and `key` make it HTTPS"
            );
            log::say(Event::AdminInterface, Level::Warn, &[], text);
        }
        let folder = source.folder.clone();
        let url = config.url(address);
        let gate =
            Gate::new(files.bearers, &url, folder.as_deref().map(Path::new), config.is_open());
        let known = Arc::new(Known::new(source, gate));
        let tls: serve::Tls = Arc::new(RwLock::new(files.tls));
        let (stop, stopped) = oneshot::channel::<()>();
        let (router, given) = (routes(Arc::clone(&known)), Arc::clone(&tls));
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                () = serve::serve(listener, given, router) => {},
                // Whoever is being answered hears no end of it.
                _ = stopped => {},
            }
            io::Result::Ok(())
        };
        let run = move || {
            if let Err(error) = runtime.block_on(serve) {
                let text = format_args!("the admin interface has ended: {error}");
                log::say(Event::AdminInterface, Level::Error, &[], text);
            }
            // What waits for a shard that has ended waits in vain.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(run)?;
        let config = config.clone();
        Ok(Self { address, known, tls, config, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How its URLs begin.
    #[must_use]
    pub fn url(&self) -> String {
        self.config.url(self.address)
    }

    /// Reads tokens and certificate again; nothing has changed yet.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(&self) -> Result<Files, String> {
        Files::read(&self.config)
    }

    /// These hold from now on.
    pub(crate) fn take(&self, files: Files) {
        self.known.gate.set(files.bearers);
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = files.tls;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
        // Not when the last who knows it ends: some may still wait for a shard.
        self.known.gate.close();
    }
}

/// What is asked and answered.
fn routes(known: Arc<Known>) -> Router {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(broker::version))
        .routes(routes!(broker::overview))
        .routes(routes!(broker::bans, broker::ban, broker::unban))
        .routes(routes!(broker::reload))
        .routes(routes!(broker::audit))
        .routes(routes!(storage::storage))
        .routes(routes!(levels::levels, levels::set_level))
        .routes(routes!(doors::list))
        .routes(routes!(doors::stop))
        .routes(routes!(doors::start))
        .routes(routes!(doors::drain_state, doors::drain, doors::undrain))
        .routes(routes!(clients::list))
        .routes(routes!(clients::show, clients::end))
        .routes(routes!(clients::disconnect))
        .routes(routes!(clients::subscriptions))
        .routes(routes!(clients::queue))
        .routes(routes!(why::why))
        .routes(routes!(messages::list))
        .routes(routes!(messages::show, messages::delete))
        .routes(routes!(messages::publish))
        .routes(routes!(messages::receivers))
        .routes(routes!(messages::groups))
        .routes(routes!(traces::list, traces::begin))
        .routes(routes!(traces::show, traces::delete))
        .routes(routes!(traces::stop))
        .routes(routes!(traces::entries))
        .split_for_parts();
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description.components.get_or_insert_default().add_security_scheme("token", token);
    let description = Json(description);
    router
        .route("/api/openapi.json", get(move || async move { description.clone() }))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn_with_state(Arc::clone(&known), gate::gate))
        .with_state(known)
}

/// There is nothing at this path.
async fn nothing() -> Problem {
    Problem::missing("there is nothing at this path; /api/openapi.json lists what there is")
}

/// There is something, and not by this method.
async fn not_so() -> Problem {
    let text = "this path has no such method; /api/openapi.json lists what there is";
    Problem(StatusCode::METHOD_NOT_ALLOWED, text.to_owned())
}

/// Whether the process does what it is for, or should be started anew.
async fn live(State(known): State<Arc<Known>>) -> (StatusCode, String) {
    unless_stuck(&known.source.vigil, "live\n")
}

/// Whether clients should be sent here.
async fn ready(State(known): State<Arc<Known>>) -> (StatusCode, String) {
    match known.source.serves.load(Ordering::Relaxed) {
        true => unless_stuck(&known.source.vigil, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "clients are not let in\n".to_owned()),
    }
}

fn unless_stuck(vigil: &Vigil, well: &str) -> (StatusCode, String) {
    match vigil.stuck() {
        Some(shard) => {
            let seconds = vigil.stuck_after().as_secs_f32();
            let text = format!("shard {shard} has had no turn for {seconds} seconds\n");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
        None => (StatusCode::OK, well.to_owned()),
    }
}

async fn metrics(
    State(known): State<Arc<Known>>,
) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let text = Metrics::of(&known.source).text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}
