//! By which ways clients come in: listeners that are stopped and opened again, and the drain that sends everybody
//! away.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Done, Given, Named, Problem, Refused};
use super::{Known, asked};
use crate::log;
use crate::pump::Command;
use crate::pump::history::owned;

/// How long a shard may take to open or close a socket.
const WITHIN: Duration = Duration::from_secs(5);
/// A drain takes no longer.
const DRAIN_S_MAX: u32 = 86_400;
/// A server reference is no longer.
const REFERENCE_BYTES_MAX: usize = 1_024;

/// A listener as it was opened at the start.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: String,
    /// Where it listens, or would.
    pub address: SocketAddr,
}

/// What is open.
#[derive(Debug)]
pub(super) struct Doors {
    doors: Vec<Door>,
    state: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    /// By listener: not stopped by an operator.
    listening: Vec<bool>,
    drain: Option<Draining>,
}

/// A drain that goes on.
#[derive(Debug, Clone)]
struct Draining {
    until_ms: u64,
    server_reference: Option<String>,
}

/// The listeners.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListenersList {
    listeners: Vec<Listener>,
}

/// A listener.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listener {
    name: String,
    /// `mqtt`, `mqtts`, `ws` or `wss`.
    protocol: String,
    address: String,
    /// It takes connections.
    listening: bool,
}

/// How everybody is to be sent away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainGiven {
    /// Over so many seconds.
    #[serde(default)]
    #[schema(maximum = 86_400)]
    within_s: u32,
    /// Where MQTT 5 clients are told to go (0x9C, Server Reference); without it they are told that the server stops
    /// (0x8B).
    #[serde(default)]
    server_reference: Option<String>,
}

/// Whether everybody is sent away, and how far that is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Drain {
    draining: bool,
    server_reference: Option<String>,
    /// Seconds that are left of the time.
    left_s: Option<u64>,
    /// Connections that are still there.
    connections: u64,
}

impl Doors {
    pub(super) fn new(doors: Vec<Door>) -> Self {
        let listening = vec![true; doors.len()];
        Self { doors, state: Mutex::new(Open { listening, drain: None }) }
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has all shards stop a listener, or open it.
fn set_listening(known: &Known, index: usize, open: bool) -> Result<(), Problem> {
    let door = &known.doors.doors[index];
    let (asked, answers) = mpsc::channel();
    let address = open.then_some(door.address);
    // There are at most 64.
    let number = index as u16;
    known.source.shards.tell_all(|| Command::SetListening(number, address, asked.clone()));
    drop(asked);
    for _ in 0..known.source.shards.count() {
        let answer = answers.recv_timeout(WITHIN);
        let done = answer.map_err(|_| Problem::stuck("a shard has not answered"))?;
        done.map_err(|error| {
            let what = if open { "opened" } else { "closed" };
            Problem::conflict(format!("{} cannot be {what}: {error}", door.address))
        })?;
    }
    Ok(())
}

fn find(known: &Known, name: &str) -> Result<usize, Problem> {
    let found = known.doors.doors.iter().position(|door| door.name == name);
    found.ok_or_else(|| Problem::missing(format!("there is no listener called {name:?}")))
}

/// Lists the listeners.
#[utoipa::path(get, path = "/api/v1/listeners", tag = "listeners",
    responses((status = 200, body = ListenersList), Refused), security(("token" = [])))]
pub(super) async fn list(State(known): State<Arc<Known>>) -> Json<ListenersList> {
    let state = known.doors.state();
    let all = known.doors.doors.iter().zip(&state.listening);
    let listeners = all.map(|(door, listening)| Listener {
        name: door.name.clone(),
        protocol: door.protocol.clone(),
        address: door.address.to_string(),
        listening: *listening && state.drain.is_none(),
    });
    Json(ListenersList { listeners: listeners.collect() })
}

/// Has a listener take no more connections; those that are there stay.
#[utoipa::path(post, path = "/api/v1/listeners/{name}/stop", tag = "listeners",
    params(("name" = String, Path, description = "Name of the listener")),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn stop(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Json<Done>, Problem> {
    turn(known, name, false).await
}

/// Has a listener take connections again.
#[utoipa::path(post, path = "/api/v1/listeners/{name}/start", tag = "listeners",
    params(("name" = String, Path, description = "Name of the listener")),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn start(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Json<Done>, Problem> {
    turn(known, name, true).await
}

async fn turn(known: Arc<Known>, name: String, open: bool) -> Result<Json<Done>, Problem> {
    asked(&known, move |known| {
        let index = find(known, &name)?;
        // Held until the shards have done it, so that two who ask do not cross.
        let mut state = known.doors.state();
        if state.drain.is_some() {
            return Err(Problem::conflict("the broker drains: no listener takes connections"));
        }
        set_listening(known, index, open)?;
        state.listening[index] = open;
        let does = if open { "takes connections" } else { "takes no more connections" };
        Ok(Done::new(format!("{name:?} {does}")))
    })
    .await
}

/// Says whether everybody is sent away.
#[utoipa::path(get, path = "/api/v1/drain", tag = "listeners",
    responses((status = 200, body = Drain), Refused), security(("token" = [])))]
pub(super) async fn drain_state(State(known): State<Arc<Known>>) -> Json<Drain> {
    let drain = known.doors.state().drain.clone();
    let left_ms = |until_ms: u64| until_ms.saturating_sub(known.source.reins.now_ms());
    Json(Drain {
        draining: drain.is_some(),
        left_s: drain.as_ref().map(|it| left_ms(it.until_ms).div_ceil(1000)),
        server_reference: drain.and_then(|it| it.server_reference),
        connections: known.source.watch.shards().map(|it| it.connections).sum(),
    })
}

/// Takes no more connections, and sends everybody away over a time; sessions stay.
#[utoipa::path(post, path = "/api/v1/drain", tag = "listeners", request_body = DrainGiven,
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn drain(
    State(known): State<Arc<Known>>,
    Given(DrainGiven { within_s, server_reference }): Given<DrainGiven>,
) -> Result<Json<Done>, Problem> {
    if within_s > DRAIN_S_MAX {
        return Err(Problem::bad(format!("`within_s` is at most {DRAIN_S_MAX}")));
    }
    let reference = server_reference.as_deref().map(|text| {
        let fits = !text.is_empty() && text.len() <= REFERENCE_BYTES_MAX;
        owned(text).filter(|_| fits).ok_or_else(|| {
            Problem::bad(format!(
                "`server_reference` is a text of 1 to {REFERENCE_BYTES_MAX} bytes"
            ))
        })
    });
    let reference = reference.transpose()?;
    asked(&known, move |known| {
        let mut state = known.doors.state();
        known.source.serves.store(false, Ordering::Relaxed);
        for index in 0..known.doors.doors.len() {
            set_listening(known, index, false)?;
        }
        let until_ms = known.source.reins.now_ms() + u64::from(within_s) * 1000;
        known.source.shards.tell_all(|| Command::Drain(Some((until_ms, reference.clone()))));
        state.drain = Some(Draining { until_ms, server_reference });
        log::info(format_args!("draining: clients are sent away within {within_s} seconds"));
        Ok(Done::new(format!("clients are sent away within {within_s} seconds")))
    })
    .await
}

/// Takes connections again.
#[utoipa::path(delete, path = "/api/v1/drain", tag = "listeners",
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn undrain(State(known): State<Arc<Known>>) -> Result<Json<Done>, Problem> {
    asked(&known, |known| {
        let mut state = known.doors.state();
        if state.drain.is_none() {
            return Err(Problem::conflict("the broker does not drain"));
        }
        known.source.shards.tell_all(|| Command::Drain(None));
        for (index, listening) in state.listening.iter().enumerate() {
            if *listening {
                set_listening(known, index, true)?;
            }
        }
        state.drain = None;
        known.source.serves.store(true, Ordering::Relaxed);
        log::info("the drain is called off: clients are let in again");
        Ok(Done::new("clients are let in again"))
    })
    .await
}
