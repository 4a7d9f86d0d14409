//! By which ways clients come in: listeners that are stopped and opened again, and the drain that sends everybody
//! away.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
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
    /// Held by whoever opens and closes until the shards have done it, so that two who ask do not cross. Taken before
    /// `state`, and only where it may be waited for.
    turning: Mutex<()>,
    /// Held only to look or to write down.
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

/// Why a listener is not as it was asked to be.
#[derive(Debug, PartialEq, Eq)]
enum Failed {
    /// A shard has not answered; it does it as soon as it has a turn.
    Stuck,
    /// A shard could not, and says why.
    Refused(String),
}

impl Doors {
    pub(super) fn new(doors: Vec<Door>) -> Self {
        let listening = vec![true; doors.len()];
        let state = Mutex::new(Open { listening, drain: None });
        Self { doors, turning: Mutex::default(), state }
    }

    /// By listener: not stopped by an operator.
    fn listening(&self) -> Vec<bool> {
        self.state().listening.clone()
    }

    fn turning(&self) -> MutexGuard<'_, ()> {
        self.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of one that was asked to listen, or not to: it is open unless some shard could not open it.
    fn has_turned(&self, index: usize, open: bool, done: &Result<(), Failed>) {
        let could_not = matches!(done, Err(Failed::Refused(_)));
        self.state().listening[index] = open != could_not;
    }

    /// What went wrong, for people.
    fn told(&self, index: usize, open: bool, failed: &Failed) -> Problem {
        let Door { name, address, .. } = &self.doors[index];
        match failed {
            Failed::Stuck => Problem::stuck(format!("{name:?}: a shard has not answered")),
            Failed::Refused(why) => {
                let what = if open { "opened" } else { "closed" };
                Problem::conflict(format!("{name:?}: {address} cannot be {what}: {why}"))
            }
        }
    }
}

/// What all shards answer of one listener.
struct Turned {
    answers: mpsc::Receiver<io::Result<()>>,
    shards: usize,
}

impl Turned {
    /// Asks all shards to stop a listener, or to open it.
    fn ask(known: &Known, index: usize, open: bool) -> Self {
        let (asked, answers) = mpsc::channel();
        let address = open.then_some(known.doors.doors[index].address);
        // There are at most 64.
        let number = index as u16;
        known.source.shards.tell_all(|| Command::SetListening(number, address, asked.clone()));
        Self { answers, shards: known.source.shards.count() }
    }

    /// Waits for all of them.
    fn wait(self, until: Instant) -> Result<(), Failed> {
        let mut refused = None;
        for _ in 0..self.shards {
            match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => refused = Some(Failed::Refused(error.to_string())),
                Err(_) => return Err(Failed::Stuck),
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// Has all shards stop some listeners, or open them. What cannot be opened by all is open by none.
fn set_listening(known: &Known, wanted: &[usize], open: bool) -> Vec<Problem> {
    let until = Instant::now() + WITHIN;
    let asked: Vec<_> =
        wanted.iter().map(|&index| (index, Turned::ask(known, index, open))).collect();
    let mut problems = Vec::new();
    for (index, turned) in asked {
        let done = turned.wait(until);
        known.doors.has_turned(index, open, &done);
        let Err(failed) = done else { continue };
        problems.push(known.doors.told(index, open, &failed));
        if open && failed != Failed::Stuck {
            // To close a socket needs nothing that may be missing.
            let _ = Turned::ask(known, index, false).wait(Instant::now() + WITHIN);
        }
    }
    problems
}

/// One answer of all that went wrong, behind what was done all the same.
fn partly(done: &str, problems: Vec<Problem>) -> Problem {
    let status = problems.first().map_or(StatusCode::CONFLICT, |problem| problem.0);
    let texts: Vec<_> = problems.into_iter().map(|Problem(_, text)| text).collect();
    Problem(status, format!("{done}, but {}", texts.join("; ")))
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
) -> Result<Done, Problem> {
    turn(known, name, false).await
}

/// Has a listener take connections again.
#[utoipa::path(post, path = "/api/v1/listeners/{name}/start", tag = "listeners",
    params(("name" = String, Path, description = "Name of the listener")),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn start(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Done, Problem> {
    turn(known, name, true).await
}

async fn turn(known: Arc<Known>, name: String, open: bool) -> Result<Done, Problem> {
    asked(&known, move |known| {
        let index = find(known, &name)?;
        let _turning = known.doors.turning();
        if known.doors.state().drain.is_some() {
            return Err(Problem::conflict("the broker drains: no listener takes connections"));
        }
        if let Some(problem) = set_listening(known, &[index], open).pop() {
            return Err(problem);
        }
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
) -> Result<Done, Problem> {
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
        let _turning = known.doors.turning();
        let until_ms = known.source.reins.now_ms() + u64::from(within_s) * 1000;
        let to = server_reference.as_ref().map_or(String::new(), |to| format!(", to {to:?}"));
        let done = format!("clients are sent away within {within_s} seconds{to}");
        // Said before anything is done, so that what goes wrong below can be called off.
        known.doors.state().drain = Some(Draining { until_ms, server_reference });
        known.source.serves.store(false, Ordering::Relaxed);
        let listening = known.doors.listening();
        let problems =
            set_listening(known, &(0..known.doors.doors.len()).collect::<Vec<_>>(), false);
        // What an operator has not stopped listens again when the drain is called off.
        known.doors.state().listening = listening;
        known.source.shards.tell_all(|| Command::Drain(Some((until_ms, reference.clone()))));
        log::info(format_args!("draining: {done}"));
        if problems.is_empty() { Ok(Done::new(done)) } else { Err(partly(&done, problems)) }
    })
    .await
}

/// Takes connections again.
#[utoipa::path(delete, path = "/api/v1/drain", tag = "listeners",
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn undrain(State(known): State<Arc<Known>>) -> Result<Done, Problem> {
    asked(&known, |known| {
        let _turning = known.doors.turning();
        if known.doors.state().drain.take().is_none() {
            return Err(Problem::conflict("the broker does not drain"));
        }
        known.source.shards.tell_all(|| Command::Drain(None));
        let listening = known.doors.listening();
        let wanted: Vec<_> = (0..listening.len()).filter(|index| listening[*index]).collect();
        let problems = set_listening(known, &wanted, true);
        known.source.serves.store(true, Ordering::Relaxed);
        let done = "clients are let in again";
        log::info(format_args!("the drain is called off: {done}"));
        if problems.is_empty() { Ok(Done::new(done)) } else { Err(partly(done, problems)) }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors() -> Doors {
        let address = "127.0.0.1:1883".parse().expect("an address");
        let door =
            |name: &str| Door { name: name.to_owned(), protocol: "mqtt".to_owned(), address };
        Doors::new(vec![door("first"), door("second")])
    }

    /// What two shards come to say of a listener.
    fn said(answers: Vec<io::Result<()>>) -> Result<(), Failed> {
        let (asked, turned) = mpsc::channel();
        answers.into_iter().for_each(|answer| asked.send(answer).expect("somebody waits"));
        Turned { answers: turned, shards: 2 }.wait(Instant::now())
    }

    #[test]
    fn a_shard_that_says_nothing_is_stuck_and_one_that_cannot_is_told() {
        let taken = || Err(io::ErrorKind::AddrInUse.into());
        assert_eq!(said(vec![Ok(()), Ok(())]), Ok(()));
        assert_eq!(said(vec![Ok(())]), Err(Failed::Stuck));
        let refused = Failed::Refused("address in use".to_owned());
        assert_eq!(said(vec![taken(), Ok(())]), Err(refused));
        assert_eq!(said(vec![taken()]), Err(Failed::Stuck));
    }

    #[test]
    fn a_listener_is_told_as_it_will_be() {
        let doors = doors();
        let could_not = || Err(Failed::Refused("why".to_owned()));
        for (open, done, listening) in [
            (false, Ok(()), false),
            (false, could_not(), true),
            (false, Err(Failed::Stuck), false),
            (true, Ok(()), true),
            (true, could_not(), false),
            (true, Err(Failed::Stuck), true),
        ] {
            doors.has_turned(1, open, &done);
            assert_eq!(doors.listening(), [true, listening], "{open} {done:?}");
        }
        let problem = doors.told(1, true, &Failed::Refused("it is in use".to_owned()));
        assert_eq!(problem.1, "\"second\": 127.0.0.1:1883 cannot be opened: it is in use");
    }

    #[test]
    fn whoever_looks_does_not_wait_for_whoever_opens_and_closes() {
        let doors = doors();
        let _turning = doors.turning();
        assert!(doors.state.try_lock().is_ok_and(|state| state.drain.is_none()));
    }
}
