//! The broker as a whole: its version, its numbers, who is shut out, what it reads again, and what was done to it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hdrhistogram::Histogram;
use petrel_net::stages::{Stage, State as Stands};
use petrel_shard::DropReason;
use petrel_storage::control::{BanRequest, Subject};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Asked, Done, Given, Problem, Refused};
use super::clients::limit;
use super::gate::Audited;
use super::{Known, asked};
use crate::figures::ShardFigures;
use crate::memory;

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Version {
    name: &'static str,
    version: &'static str,
    /// What drives the shards.
    runtime: String,
    shards: usize,
    uptime_s: u64,
}

/// The numbers of the broker, as its shards have made them known a quarter of a second ago at most.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Overview {
    uptime_s: u64,
    /// Clients are let in, and all shards have turns.
    ready: bool,
    connections: u64,
    by_state: Vec<Number>,
    sessions: u64,
    subscriptions: u64,
    queued: u64,
    in_flight: u64,
    retained: u64,
    retained_bytes: u64,
    messages: Messages,
    dropped: Vec<Number>,
    /// Bytes of memory that the process has in use.
    resident_bytes: u64,
    connects_accepted: u64,
    shards: Vec<ShardNumbers>,
}

/// Messages and copies since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Messages {
    received: u64,
    routed: u64,
    unmatched: u64,
    refused: u64,
    delivered: u64,
    dropped: u64,
}

/// A number with a name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Number {
    name: &'static str,
    number: u64,
}

/// The numbers of a shard.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShardNumbers {
    shard: usize,
    connections: u64,
    /// How much it has to do, from 0 to 3.
    load_level: u64,
    received: u64,
    delivered: u64,
    /// Times of its turns since the start.
    turn_p50_us: f64,
    turn_p99_us: f64,
    turn_max_us: f64,
}

/// Who is shut out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BansList {
    bans: Vec<Banned>,
}

/// Somebody who is shut out.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Banned {
    /// `client-id`, `user` or `address`.
    kind: &'static str,
    who: String,
    why: String,
    /// For so many seconds more; `null` for good.
    for_s: Option<u64>,
    /// The broker has banned it by itself.
    automatic: bool,
}

/// Whom to shut out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BanGiven {
    /// `client-id`, `user` or `address`.
    #[schema(example = "client-id")]
    kind: String,
    /// Client identifier, user name, or address as in `10.0.0.0/8`.
    who: String,
    /// For so many seconds; for good without it.
    #[serde(default)]
    for_s: Option<u64>,
    #[serde(default)]
    why: String,
}

/// Whom to let in again.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BanAsked {
    /// `client-id`, `user` or `address`.
    #[param(example = "client-id")]
    kind: String,
    /// Client identifier, user name, or address.
    who: String,
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MostAsked {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// What was done by this interface, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditList {
    entries: Vec<Audited>,
}

impl ShardNumbers {
    /// Turns are counted in microseconds.
    fn new(shard: usize, figures: &ShardFigures, turns: &Histogram<u64>) -> Self {
        Self {
            shard,
            connections: figures.connections,
            load_level: figures.level,
            received: figures.ledger.received.iter().sum(),
            delivered: figures.ledger.delivered.iter().sum(),
            turn_p50_us: turns.value_at_quantile(0.5) as f64,
            turn_p99_us: turns.value_at_quantile(0.99) as f64,
            turn_max_us: turns.max() as f64,
        }
    }
}

/// Says what runs.
#[utoipa::path(get, path = "/api/v1/version", tag = "broker",
    responses((status = 200, body = Version), Refused), security(("token" = [])))]
pub(super) async fn version(State(known): State<Arc<Known>>) -> Json<Version> {
    Json(Version {
        name: "petrel",
        version: env!("CARGO_PKG_VERSION"),
        runtime: known.source.runtime.clone(),
        shards: known.source.shards.count(),
        uptime_s: known.begun.elapsed().as_secs(),
    })
}

/// Tells the numbers of the broker.
#[utoipa::path(get, path = "/api/v1/overview", tag = "broker",
    responses((status = 200, body = Overview), Refused), security(("token" = [])))]
pub(super) async fn overview(State(known): State<Arc<Known>>) -> Json<Overview> {
    let source = &known.source;
    let figures = source.watch.figures();
    let ledger = &figures.ledger;
    let states = Stands::ALL.into_iter();
    let states =
        states.map(|state| Number { name: state.name(), number: figures.census.state(state) });
    let dropped = DropReason::ALL.into_iter();
    let dropped =
        dropped.map(|reason| Number { name: reason.words(), number: ledger.drops.of(reason) });
    let shards = source.watch.shards().zip(source.watch.turns()).enumerate();
    let shards = shards.map(|(shard, (it, turns))| ShardNumbers::new(shard, &it, &turns));
    Json(Overview {
        uptime_s: known.begun.elapsed().as_secs(),
        ready: source.is_ready(),
        connections: source.watch.shards().map(|it| it.connections).sum(),
        by_state: states.collect(),
        sessions: figures.sessions,
        subscriptions: figures.totals.subscriptions,
        queued: figures.totals.queued,
        in_flight: figures.totals.inflight,
        retained: figures.retained.messages,
        retained_bytes: figures.retained.bytes,
        messages: Messages {
            received: ledger.received.iter().sum(),
            routed: ledger.routed(),
            unmatched: ledger.unmatched,
            refused: ledger.refused,
            delivered: ledger.delivered.iter().sum(),
            dropped: ledger.dropped,
        },
        dropped: dropped.collect(),
        resident_bytes: memory::resident_bytes(),
        connects_accepted: figures.census.stage(Stage::Connect),
        shards: shards.collect(),
    })
}

/// Lists who is shut out.
#[utoipa::path(get, path = "/api/v1/bans", tag = "bans",
    responses((status = 200, body = BansList), Refused), security(("token" = [])))]
pub(super) async fn bans(State(known): State<Arc<Known>>) -> Result<Json<BansList>, Problem> {
    asked(&known, move |known| {
        let reins = &known.source.reins;
        let now_ms = reins.now_ms();
        let mut bans: Vec<_> = reins
            .guard()
            .bans()
            .list(now_ms)
            .into_iter()
            .map(|ban| {
                let (kind, who) = crate::reins::parts(&ban.target);
                let left = Some(ban.until_ms).filter(|until| *until != u64::MAX);
                let for_s = left.map(|until| until.saturating_sub(now_ms).div_ceil(1000));
                Banned { kind, who, why: ban.why, for_s, automatic: ban.is_own }
            })
            .collect();
        bans.sort_by(|a, b| (a.kind, &a.who).cmp(&(b.kind, &b.who)));
        Ok(Json(BansList { bans }))
    })
    .await
}

/// Shuts somebody out; whoever it is about is disconnected.
#[utoipa::path(post, path = "/api/v1/bans", tag = "bans", request_body = BanGiven,
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn ban(
    State(known): State<Arc<Known>>,
    Given(BanGiven { kind, who, for_s, why }): Given<BanGiven>,
) -> Result<Done, Problem> {
    let subject = Subject::of(&kind, who.clone()).map_err(Problem::bad)?;
    asked(&known, move |known| {
        let mut told = format!("{kind} {who:?} is banned");
        if let Some(seconds) = for_s {
            told.push_str(&format!(" for {seconds} s"));
        }
        if !why.is_empty() {
            told.push_str(&format!(": {why}"));
        }
        let request = BanRequest { subject, for_s, why };
        known.source.reins.ban(&request)?;
        Ok(Done::new(told))
    })
    .await
}

/// Lets somebody in again.
#[utoipa::path(delete, path = "/api/v1/bans", tag = "bans", params(BanAsked),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn unban(
    State(known): State<Arc<Known>>,
    Asked(BanAsked { kind, who }): Asked<BanAsked>,
) -> Result<Done, Problem> {
    let subject = Subject::of(&kind, who.clone()).map_err(Problem::bad)?;
    asked(&known, move |known| match known.source.reins.unban(&subject)? {
        true => Ok(Done::new(format!("{kind} {who:?} is not banned any more"))),
        false => Err(Problem::missing(format!("{kind} {who:?} was not banned"))),
    })
    .await
}

/// Has the configuration, and the files that it names, read again.
#[utoipa::path(post, path = "/api/v1/reload", tag = "broker",
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn reload(State(known): State<Arc<Known>>) -> Result<Done, Problem> {
    asked(&known, |known| known.source.reins.reload().map(Done::new).map_err(Problem::conflict))
        .await
}

/// Tells what was done by this interface.
#[utoipa::path(get, path = "/api/v1/audit", tag = "broker", params(MostAsked),
    responses((status = 200, body = AuditList), Refused), security(("token" = [])))]
pub(super) async fn audit(
    State(known): State<Arc<Known>>,
    Asked(most): Asked<MostAsked>,
) -> Result<Json<AuditList>, Problem> {
    Ok(Json(AuditList { entries: known.gate.audited(limit(most.limit)?) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_250_us_is_told_as_such() {
        let mut turns = Histogram::new(3).expect("bounds");
        turns.record(250).expect("within them");
        let numbers = ShardNumbers::new(3, &ShardFigures::default(), &turns);
        let told = [numbers.turn_p50_us, numbers.turn_p99_us, numbers.turn_max_us];
        assert_eq!((numbers.shard, told), (3, [250.0; 3]));
    }
}
