//! Recordings of what happens to clients and topics: begun, read, stopped, deleted.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use petrel_proto::{Text, TopicFilter};
use petrel_shard::Subject;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Asked, Done, Given, Named, Problem, Refused, Said};
use super::clients::limit;
use super::{Known, asked};
use crate::trace::{About, Spec, WhenFull};

/// Entries that are read at once, if nobody says.
const LIMIT: u32 = 1_000;
/// Says behind lines of text where to go on.
const NEXT: HeaderName = HeaderName::from_static("petrel-next");

/// What is to be recorded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TraceGiven {
    /// `client-id`, `user`, `address` or `topic`.
    #[schema(example = "client-id")]
    kind: String,
    /// Client identifier, user name, address as in `10.0.0.0/8`, or topic filter.
    who: String,
    /// For people; what it is about without it.
    name: Option<String>,
    /// For so many seconds; 600 without it.
    #[schema(minimum = 1, maximum = 86400)]
    seconds: Option<u32>,
    /// So many bytes of memory; 4 MiB without it.
    #[schema(minimum = 4096, maximum = 67108864)]
    bytes_max: Option<u64>,
    /// So many bytes of each payload; 64 without it.
    #[schema(maximum = 65536)]
    payload_bytes: Option<u32>,
    /// `stop`, or `drop_oldest`: what happens when it is full.
    when_full: Option<String>,
}

/// All recordings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TracesList {
    traces: Vec<Trace>,
}

/// One recording.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Trace {
    id: u64,
    name: String,
    /// `client-id`, `user`, `address` or `topic`.
    kind: &'static str,
    who: String,
    /// `running`, `time_over`, `full` or `stopped`.
    state: &'static str,
    /// In microseconds since 1970.
    begun_at_us: u64,
    /// When it ended, or will end at the latest.
    ends_at_us: u64,
    seconds: u32,
    bytes_max: u64,
    payload_bytes: u32,
    when_full: &'static str,
    /// The position of the first entry that can be read.
    first: u64,
    /// The position behind the last.
    next: u64,
    /// Bytes of memory that it takes.
    bytes: u64,
    /// What was not recorded since too much happened, of all recordings at that time together.
    left_out: u64,
    /// Entries that have made room for newer ones.
    dropped: u64,
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EntriesAsked {
    /// From this position on; from the first without it.
    from: Option<u64>,
    /// At most so many, and fewer if they are large; none only if there are none.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `json`, or `text`: a line for each, and the header `petrel-next`.
    format: Option<String>,
}

/// Some entries of a recording.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TraceEntries {
    #[schema(value_type = Vec<Object>)]
    entries: Vec<serde_json::Value>,
    /// The position to go on from.
    next: u64,
}

impl From<About> for Trace {
    fn from(about: About) -> Self {
        let (kind, who) = about.subject();
        let About { id, spec, state, begun_at_us, ends_at_us, .. } = about;
        Self {
            id,
            name: spec.name,
            kind,
            who,
            state: state.name(),
            begun_at_us,
            ends_at_us,
            seconds: spec.seconds,
            bytes_max: spec.bytes,
            payload_bytes: spec.payload_bytes,
            when_full: spec.when_full.name(),
            first: about.first,
            next: about.next,
            bytes: about.bytes,
            left_out: about.left_out,
            dropped: about.dropped,
        }
    }
}

impl TraceGiven {
    fn spec(self) -> Result<Spec, String> {
        let Self { kind, who, name, seconds, bytes_max, payload_bytes, when_full } = self;
        let text = || Text::try_from(who.as_str()).map_err(|error| format!("`who`: {error}"));
        if who.is_empty() {
            return Err("`who` is empty".into());
        }
        let subject = match kind.as_str() {
            "client-id" => Subject::ClientId(text()?),
            "user" => Subject::User(text()?),
            "address" => Subject::Addresses(who.parse().map_err(|why| format!("{who:?} {why}"))?),
            "topic" => {
                let filter = TopicFilter::new(text()?);
                Subject::Topic(filter.map_err(|error| format!("{who:?}: {error}"))?)
            }
            _ => return Err("`kind` is client-id, user, address or topic".into()),
        };
        let when_full = match when_full {
            None => WhenFull::default(),
            Some(name) => WhenFull::from_name(&name)
                .ok_or_else(|| format!("`when_full` is {}", WhenFull::NAMES.join(" or ")))?,
        };
        // A name is shorter than what it is about may be.
        let of_itself = || who.chars().take(32).collect();
        let spec = Spec::new(name.unwrap_or_else(of_itself), subject);
        Ok(Spec {
            seconds: seconds.unwrap_or(spec.seconds),
            bytes: bytes_max.unwrap_or(spec.bytes),
            payload_bytes: payload_bytes.unwrap_or(spec.payload_bytes),
            when_full,
            ..spec
        })
    }
}

fn missing(id: u64) -> Problem {
    Problem::missing(format!("there is no recording {id}"))
}

/// Begins a recording.
#[utoipa::path(post, path = "/api/v1/traces", tag = "traces", request_body = TraceGiven,
    responses((status = 200, body = Trace), Refused), security(("token" = [])))]
pub(super) async fn begin(
    State(known): State<Arc<Known>>,
    Given(given): Given<TraceGiven>,
) -> Result<Response, Problem> {
    let spec = given.spec().map_err(Problem::bad)?;
    spec.check().map_err(Problem::bad)?;
    asked(&known, move |known| {
        let traces = &known.source.traces;
        let id = traces.begin(spec).map_err(Problem::conflict)?;
        let about = traces.about(id).ok_or_else(|| missing(id))?;
        let (kind, who) = about.subject();
        let said = Said(format!("recording {id} of {kind} {who:?} has begun"));
        Ok((Extension(said), Json(Trace::from(about))).into_response())
    })
    .await
}

/// Lists the recordings.
#[utoipa::path(get, path = "/api/v1/traces", tag = "traces",
    responses((status = 200, body = TracesList), Refused), security(("token" = [])))]
pub(super) async fn list(State(known): State<Arc<Known>>) -> Result<Json<TracesList>, Problem> {
    asked(&known, move |known| {
        let traces = known.source.traces.list().into_iter().map(Trace::from).collect();
        Ok(Json(TracesList { traces }))
    })
    .await
}

/// Tells of a recording.
#[utoipa::path(get, path = "/api/v1/traces/{id}", tag = "traces",
    params(("id" = u64, Path, description = "Number of the recording", example = 1)),
    responses((status = 200, body = Trace), Refused), security(("token" = [])))]
pub(super) async fn show(
    State(known): State<Arc<Known>>,
    Named(id): Named<u64>,
) -> Result<Json<Trace>, Problem> {
    asked(&known, move |known| {
        let about = known.source.traces.about(id).ok_or_else(|| missing(id))?;
        Ok(Json(about.into()))
    })
    .await
}

/// Ends a recording, which can be read until it is deleted.
#[utoipa::path(post, path = "/api/v1/traces/{id}/stop", tag = "traces",
    params(("id" = u64, Path, description = "Number of the recording", example = 1)),
    responses((status = 200, body = Trace), Refused), security(("token" = [])))]
pub(super) async fn stop(
    State(known): State<Arc<Known>>,
    Named(id): Named<u64>,
) -> Result<Json<Trace>, Problem> {
    asked(&known, move |known| {
        let about = known.source.traces.stop(id).ok_or_else(|| missing(id))?;
        Ok(Json(about.into()))
    })
    .await
}

/// Ends a recording and forgets it.
#[utoipa::path(delete, path = "/api/v1/traces/{id}", tag = "traces",
    params(("id" = u64, Path, description = "Number of the recording", example = 1)),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn delete(
    State(known): State<Arc<Known>>,
    Named(id): Named<u64>,
) -> Result<Done, Problem> {
    asked(&known, move |known| match known.source.traces.delete(id) {
        true => Ok(Done::new(format!("recording {id} is deleted"))),
        false => Err(missing(id)),
    })
    .await
}

/// Reads a recording, from a position on. What happened in the last fifth of a second is not there yet.
#[utoipa::path(get, path = "/api/v1/traces/{id}/entries", tag = "traces",
    params(("id" = u64, Path, description = "Number of the recording", example = 1), EntriesAsked),
    responses((status = 200, content((TraceEntries = "application/json"), (String = "text/plain"))),
        Refused),
    security(("token" = [])))]
pub(super) async fn entries(
    State(known): State<Arc<Known>>,
    Named(id): Named<u64>,
    Asked(EntriesAsked { from, limit: most, format }): Asked<EntriesAsked>,
) -> Result<Response, Problem> {
    let (from, most) = (from.unwrap_or(0), limit(most.or(Some(LIMIT)))?);
    let is_text = match format.as_deref() {
        None | Some("json") => false,
        Some("text") => true,
        Some(_) => return Err(Problem::bad("`format` is json or text")),
    };
    asked(&known, move |known| {
        let traces = &known.source.traces;
        if is_text {
            let (mut lines, next) = traces.text(id, from, most).ok_or_else(|| missing(id))?;
            lines.iter_mut().for_each(|line| line.push('\n'));
            let headers =
                [(CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()), (NEXT, next.to_string())];
            return Ok((headers, lines.concat()).into_response());
        }
        let (entries, next) = traces.json(id, from, most).ok_or_else(|| missing(id))?;
        Ok(Json(TraceEntries { entries, next }).into_response())
    })
    .await
}
