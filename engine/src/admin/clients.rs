//! Clients and their sessions: listed, looked at, disconnected, ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::State;
use petrel_net::stages;
use petrel_proto::{ClientId, ReasonCode, Version};
use petrel_shard::look::{Connected, Detail, Line, Subscribed, Waits, Wanted};
use petrel_shard::{DropReason, Input, Loss};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Asked, Done, Named, Problem, Refused};
use super::{Known, asked};
use crate::pump::history::owned;
use crate::shards::{Shards, View, written};

/// Sessions that a shard looks at for one question.
const LOOKS: u32 = 2_048;
/// Questions for one page, after which it ends though it is not full.
const QUESTIONS: usize = 64;
/// Entries of a page, if nobody says.
const LIMIT: u32 = 100;
/// And at most.
const LIMIT_MAX: u32 = 1_000;
/// Events that are told of one client.
const EVENTS_MAX: usize = 50;
/// Bytes of a payload that are told.
const PAYLOAD_BYTES_MAX: usize = 1_024;

/// Which clients are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ClientsAsked {
    /// Where the page before has said to go on.
    cursor: Option<String>,
    /// How many to a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Their client identifiers begin so.
    begins: Option<String>,
    /// Their client identifiers contain this.
    contains: Option<String>,
    /// Their user is this one; known where `[access]` or authentication is in use.
    user: Option<String>,
    /// They are connected, or not.
    connected: Option<bool>,
    /// At least so many messages wait for them.
    queued_min: Option<u64>,
}

/// A page of clients.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientsPage {
    clients: Vec<ClientLine>,
    /// To ask for the next page with; `null` at the end. A page may have fewer entries than were asked for, or none,
    /// though more follow.
    next: Option<String>,
}

/// A client with a session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientLine {
    client_id: String,
    connected: bool,
    /// Where it is connected from.
    address: Option<String>,
    /// The listener that it came by, by its name.
    listener: Option<String>,
    /// `plain`, `tls`, `tls_compact`, `ws` or `wss`.
    transport: Option<&'static str>,
    /// `3.1`, `3.1.1` or `5`.
    version: Option<&'static str>,
    user: Option<String>,
    /// Subscriptions, shared ones included.
    subscriptions: u64,
    /// Messages that wait.
    queued: u64,
    /// QoS 1 and 2 messages that were sent, and whose exchange is not complete.
    in_flight: u64,
    /// The shard that has its session.
    shard: u16,
}

/// All about a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Client {
    #[serde(flatten)]
    line: ClientLine,
    /// Groups of its user.
    groups: Vec<String>,
    /// Session Expiry Interval in seconds; 4294967295 for never.
    session_expiry_s: u32,
    /// Seconds until its session ends, if it does not come back; `null` while it is connected, and for never.
    ends_in_s: Option<u64>,
    /// Something of its session outlives the process.
    kept: bool,
    has_will: bool,
    /// Bytes of the messages that wait.
    queued_bytes: u64,
    /// The queue's bounds.
    queue_messages_max: u32,
    queue_bytes_max: u64,
    in_flight_bytes: u64,
    /// QoS 2 messages that it has published and not released.
    incoming: u64,
    connection: Option<Connection>,
    /// What it has not got; `null` if nothing is known of that.
    lost: Option<Lost>,
    /// What it has published that was refused.
    refused: Option<Lost>,
    /// What happened to it last, the newest first.
    events: Vec<PastEvent>,
}

/// A connection.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Connection {
    /// Bytes that its socket has not taken.
    unsent_bytes: u64,
    /// QoS 1 and 2 messages that may be sent now; 0 if it has to acknowledge some first.
    send_quota: u16,
    receive_maximum: u16,
    /// Maximum Packet Size.
    packet_bytes_max: u32,
    /// Seconds since something came from it.
    silent_s: f64,
    /// After so many it is taken for lost; 0 for never.
    silent_max_s: f64,
}

/// Messages that were not delivered, or not taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Lost {
    messages: u64,
    by_reason: Vec<LostFor>,
    /// Why the last of them.
    last_reason: &'static str,
    /// How long ago, in seconds.
    last_ago_s: f64,
    /// Its topic, or the beginning of it.
    last_topic: String,
}

/// How many for one reason.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LostFor {
    reason: &'static str,
    messages: u64,
}

/// Something that happened to a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PastEvent {
    /// When, in seconds since 1970.
    time_s: f64,
    what: &'static str,
    /// Reason code; 0 for none.
    reason: u8,
    why: &'static str,
}

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PartAsked {
    /// So many are left out.
    skip: Option<u32>,
    /// How many to a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Subscriptions of a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SubscriptionsPage {
    subscriptions: Vec<Subscription>,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Subscription {
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
    /// Subscription Identifier; `null` for none.
    pub(super) identifier: Option<u32>,
    pub(super) shared: bool,
}

/// Messages that wait for a client.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueuePage {
    /// Those in memory; what waits in storage only is counted and not shown.
    messages: Vec<Waiting>,
}

/// A message that waits, or is in flight.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Waiting {
    topic: String,
    qos: u8,
    /// It was sent, and has not been acknowledged.
    sent: bool,
    payload_bytes: usize,
    /// The payload, or its first 1,024 bytes; what is not UTF-8 is replaced.
    payload: String,
    /// Seconds until it expires; `null` for never.
    expires_in_s: Option<u64>,
}

pub(super) const fn version_name(version: Version) -> &'static str {
    match version {
        Version::V3_1 => "3.1",
        Version::V3_1_1 => "3.1.1",
        Version::V5 => "5",
    }
}

/// A client identifier as somebody wrote it.
pub(super) fn client_id(text: &str) -> Result<ClientId, Problem> {
    owned(text).ok_or_else(|| Problem::bad("this is no client identifier: it is no text of MQTT"))
}

/// Where a client comes from: its socket's other end, or who a proxy says it is.
fn comes_from(socket: Option<SocketAddr>, origin: IpAddr) -> String {
    let origin = origin.to_canonical();
    match socket.filter(|it| it.ip().to_canonical() == origin) {
        Some(socket) => written(socket),
        None => origin.to_string(),
    }
}

pub(super) fn no_session(client_id: &str) -> Problem {
    Problem::missing(format!("{client_id:?} has no session here"))
}

impl ClientLine {
    fn new(line: &Line, view: &View<'_>, listeners: &[String]) -> Self {
        let link = line.conn.and_then(|conn| view.link(conn));
        Self {
            client_id: line.client_id.as_str().to_owned(),
            connected: line.conn.is_some(),
            address: link.and_then(|link| link.address).map(written),
            listener: link.and_then(|link| listeners.get(usize::from(link.listener)).cloned()),
            transport: link.map(|link| link.state).map(stages::State::name),
            version: line.version.map(version_name),
            user: line.user.as_ref().map(|user| user.as_str().to_owned()),
            subscriptions: line.subscriptions,
            queued: line.queued,
            in_flight: line.inflight,
            shard: view.index.0,
        }
    }
}

impl Client {
    fn new(detail: &Detail, view: &View<'_>, listeners: &[String]) -> Self {
        let now_ms = view.now.mono_ms;
        let limits = view.shard.limits();
        let mut line = ClientLine::new(&detail.line, view, listeners);
        // A proxy may have said who it is.
        if let Some((address, listener)) = detail.origin.filter(|_| line.connected) {
            let link = detail.line.conn.and_then(|conn| view.link(conn));
            line.address = Some(comes_from(link.and_then(|link| link.address), address));
            line.listener = listeners.get(usize::from(listener)).cloned();
        }
        let ends = detail.ends_at_ms.filter(|at| *at != u64::MAX);
        let events = view.history.of(&detail.line.client_id).take(EVENTS_MAX);
        Self {
            line,
            groups: detail.groups.iter().map(|group| group.as_str().to_owned()).collect(),
            session_expiry_s: detail.expiry_interval_s,
            ends_in_s: ends.map(|at| at.saturating_sub(now_ms).div_ceil(1000)),
            kept: detail.is_kept,
            has_will: detail.has_will,
            queued_bytes: detail.queued_bytes.0 + detail.queued_bytes.1,
            queue_messages_max: limits.session_queue_messages,
            queue_bytes_max: limits.session_queue_bytes,
            in_flight_bytes: detail.inflight_bytes,
            incoming: detail.incoming,
            connection: detail.connected.as_ref().map(Connection::from),
            lost: detail.losses.as_ref().map(|loss| Lost::new(loss, now_ms)),
            refused: detail.refusals.as_ref().map(|loss| Lost::new(loss, now_ms)),
            events: events
                .map(|past| PastEvent {
                    time_s: past.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
                    what: past.what,
                    reason: past.reason,
                    why: past.why,
                })
                .collect(),
        }
    }
}

impl From<&Connected> for Connection {
    fn from(connected: &Connected) -> Self {
        Self {
            unsent_bytes: connected.pending_bytes,
            send_quota: connected.send_quota,
            receive_maximum: connected.receive_maximum,
            packet_bytes_max: connected.maximum_packet_size,
            silent_s: connected.silent_ms as f64 / 1000.0,
            silent_max_s: connected.silence_ms_max as f64 / 1000.0,
        }
    }
}

impl Lost {
    pub(super) fn new(loss: &Loss, now_ms: u64) -> Self {
        let (topic, is_whole) = loss.topic();
        let topic = String::from_utf8_lossy(topic);
        let reasons = DropReason::ALL.into_iter().filter(|reason| loss.drops.of(*reason) > 0);
        Self {
            messages: loss.drops.all(),
            by_reason: reasons
                .map(|reason| LostFor { reason: reason.words(), messages: loss.drops.of(reason) })
                .collect(),
            last_reason: loss.last.words(),
            last_ago_s: now_ms.saturating_sub(loss.last_ms) as f64 / 1000.0,
            last_topic: if is_whole { topic.into_owned() } else { format!("{topic}…") },
        }
    }
}

impl From<Subscribed> for Subscription {
    fn from(subscribed: Subscribed) -> Self {
        let Subscribed { filter, qos, no_local, retain_as_published, identifier, shared } =
            subscribed;
        let identifier = (identifier > 0).then_some(identifier);
        Self { filter, qos: qos as u8, no_local, retain_as_published, identifier, shared }
    }
}

impl Waiting {
    fn new(waits: &Waits, now_ms: u64) -> Self {
        let message = &waits.message;
        let shown = &message.payload[..message.payload.len().min(PAYLOAD_BYTES_MAX)];
        let expires = Some(message.expires_at_ms).filter(|at| *at != u64::MAX);
        Self {
            topic: message.topic.text().as_str().to_owned(),
            qos: waits.qos as u8,
            sent: waits.sent,
            payload_bytes: message.payload.len(),
            payload: String::from_utf8_lossy(shown).into_owned(),
            expires_in_s: expires.map(|at| at.saturating_sub(now_ms).div_ceil(1000)),
        }
    }
}

/// How many entries a page may have.
pub(super) fn limit(asked: Option<u32>) -> Result<usize, Problem> {
    match asked.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit as usize),
        _ => Err(Problem::bad(format!("`limit` is 1 to {LIMIT_MAX}"))),
    }
}

/// A place in a list that goes over all shards: the shard, and where in it.
pub(super) fn cursor(text: Option<&str>, shards: &Shards) -> Result<(usize, u32), Problem> {
    let Some(text) = text else { return Ok((0, 0)) };
    let parts = text.split_once('.');
    let place = parts.and_then(|(shard, at)| Some((shard.parse().ok()?, at.parse().ok()?)));
    place
        .filter(|(shard, _)| *shard < shards.count())
        .ok_or_else(|| Problem::bad("`cursor` is none that a page before has named as `next`"))
}

/// Lists the clients that have sessions.
#[utoipa::path(get, path = "/api/v1/clients", tag = "clients", params(ClientsAsked),
    responses((status = 200, body = ClientsPage), Refused), security(("token" = [])))]
pub(super) async fn list(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<ClientsAsked>,
) -> Result<Json<ClientsPage>, Problem> {
    let most = limit(wants.limit)?;
    let ClientsAsked { begins, contains, user, connected, queued_min, .. } = wants;
    let queued_min = queued_min.unwrap_or(0);
    let wanted = Arc::new(Wanted { begins, contains, user, connected, queued_min });
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let (mut shard, mut at) = cursor(wants.cursor.as_deref(), shards)?;
        let mut clients = Vec::new();
        for _ in 0..QUESTIONS {
            let (wanted, left) = (Arc::clone(&wanted), most - clients.len());
            let listeners = Arc::clone(&known.listeners);
            let (mut page, next) = shards.ask(shard, move |view| {
                let mut lines = Vec::new();
                let next = view.shard.list(at, &wanted, (left, LOOKS), &mut lines);
                let line = |line: &Line| ClientLine::new(line, view, &listeners);
                (lines.iter().map(line).collect::<Vec<_>>(), next)
            })?;
            clients.append(&mut page);
            match next {
                Some(next) => at = next,
                None => (shard, at) = (shard + 1, 0),
            }
            if shard == shards.count() {
                return Ok(Json(ClientsPage { clients, next: None }));
            }
            if clients.len() == most {
                break;
            }
        }
        Ok(Json(ClientsPage { clients, next: Some(format!("{shard}.{at}")) }))
    })
    .await
}

/// Tells all about a client.
#[utoipa::path(get, path = "/api/v1/clients/{client_id}", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7")),
    responses((status = 200, body = Client), Refused), security(("token" = [])))]
pub(super) async fn show(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Json<Client>, Problem> {
    let id = client_id(&name)?;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let listeners = Arc::clone(&known.listeners);
        let client = shards.ask(shards.home_of(id.as_bytes()), move |view| {
            let detail = view.shard.detail(view.now, &id, view.out)?;
            Some(Client::new(&detail, view, &listeners))
        })?;
        client.map(Json).ok_or_else(|| no_session(&name))
    })
    .await
}

/// Disconnects a client; its session stays as long as it would by itself.
#[utoipa::path(post, path = "/api/v1/clients/{client_id}/disconnect", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7")),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn disconnect(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Done, Problem> {
    let id = client_id(&name)?;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let home = shards.home_of(id.as_bytes());
        let conn = shards
            .ask(home, move |view| (view.shard.connection_of(&id), view.shard.has_session(&id)))?;
        match conn {
            (Some(conn), _) => {
                let reason = ReasonCode::AdministrativeAction;
                shards.feed(home, Input::Kick { conn, reason });
                Ok(Done::new(format!("{name:?} is disconnected")))
            }
            (None, true) => Err(Problem::conflict(format!("{name:?} is not connected"))),
            (None, false) => Err(no_session(&name)),
        }
    })
    .await
}

/// Ends the session of a client, and its connection; its subscriptions and what waits for it are gone.
#[utoipa::path(delete, path = "/api/v1/clients/{client_id}", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7")),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn end(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
) -> Result<Done, Problem> {
    let id = client_id(&name)?;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let home = shards.home_of(id.as_bytes());
        let asked = id.clone();
        if !shards.ask(home, move |view| view.shard.has_session(&asked))? {
            return Err(no_session(&name));
        }
        shards.feed(home, Input::EndSession(id));
        Ok(Done::new(format!("the session of {name:?} is ended")))
    })
    .await
}

/// Lists the subscriptions of a client.
#[utoipa::path(get, path = "/api/v1/clients/{client_id}/subscriptions", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7"), PartAsked),
    responses((status = 200, body = SubscriptionsPage), Refused), security(("token" = [])))]
pub(super) async fn subscriptions(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
    Asked(part): Asked<PartAsked>,
) -> Result<Json<SubscriptionsPage>, Problem> {
    let (id, most) = (client_id(&name)?, limit(part.limit)?);
    let skip = part.skip.unwrap_or(0) as usize;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let home = shards.home_of(id.as_bytes());
        let found = shards.ask(home, move |view| view.shard.subscribed(&id, skip, most))?;
        let found = found.ok_or_else(|| no_session(&name))?;
        let subscriptions = found.into_iter().map(Subscription::from).collect();
        Ok(Json(SubscriptionsPage { subscriptions }))
    })
    .await
}

/// Shows what waits for a client: what is in flight first, then its queue.
#[utoipa::path(get, path = "/api/v1/clients/{client_id}/queue", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7"), PartAsked),
    responses((status = 200, body = QueuePage), Refused), security(("token" = [])))]
pub(super) async fn queue(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
    Asked(part): Asked<PartAsked>,
) -> Result<Json<QueuePage>, Problem> {
    let (id, most) = (client_id(&name)?, limit(part.limit)?);
    let skip = part.skip.unwrap_or(0) as usize;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let home = shards.home_of(id.as_bytes());
        let found = shards
            .ask(home, move |view| Some((view.shard.queue(&id, skip, most)?, view.now.mono_ms)))?;
        let (waits, now_ms) = found.ok_or_else(|| no_session(&name))?;
        let messages = waits.iter().map(|it| Waiting::new(it, now_ms)).collect();
        Ok(Json(QueuePage { messages }))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_behind_a_proxy_comes_from_where_the_proxy_says() {
        let from = |socket: &str, origin: &str| {
            comes_from(socket.parse().ok(), origin.parse().expect("an address"))
        };
        assert_eq!(from("10.0.0.12:1000", "10.0.0.1"), "10.0.0.1");
        assert_eq!(from("10.0.0.1:1000", "10.0.0.1"), "10.0.0.1:1000");
        assert_eq!(from("[::1]:1000", "::1"), "[::1]:1000");
        assert_eq!(from("[::ffff:10.0.0.1]:1000", "10.0.0.1"), "10.0.0.1:1000");
        assert_eq!(from("nowhere", "2001:db8::1"), "2001:db8::1");
    }
}
