//! Messages: those that are retained, those that an operator publishes, and whom a topic reaches.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use petrel_proto::{
    MessageFields, MessageProperties, Publish, PublishProperties, Qos, ReasonCode, TopicFilter,
    TopicName,
};
use petrel_shard::look::Shared;
use petrel_shard::{Message, Now};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Asked, Done, Given, Problem, Refused};
use super::clients::{cursor, limit};
use super::why::topic_name;
use super::{Known, asked};
use crate::pump::history::owned;
use crate::shards::Shards;

/// Questions for one page, after which it ends though it is not full.
const QUESTIONS: usize = 64;
/// Bytes of a payload that a list tells.
const PREVIEW_BYTES: usize = 256;
/// Receivers that are named.
const NAMED_MAX: usize = 100;
/// Groups that a shard tells for one question; fewer if they have many members.
const GROUPS_PER_QUESTION: u32 = 1_024;

/// Which retained messages are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RetainedAsked {
    /// Topic filter; `#` without it, which leaves out topics that begin with `$`.
    filter: Option<String>,
    /// Where the page before has said to go on.
    cursor: Option<String>,
    /// How many to a page, more or less.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A page of retained messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetainedPage {
    messages: Vec<Retained>,
    /// To ask for the next page with; `null` at the end. A page may have fewer entries than were asked for, or none,
    /// though more follow.
    next: Option<String>,
}

/// A retained message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retained {
    topic: String,
    qos: u8,
    payload_bytes: usize,
    /// The payload, or its first 256 bytes in a list; what is not UTF-8 is replaced.
    payload: String,
    /// The whole payload in base64, where one message is asked for.
    payload_base64: Option<String>,
    /// Seconds until it expires; `null` for never.
    expires_in_s: Option<u64>,
}

/// One topic.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TopicAsked {
    /// Topic name, without wildcards.
    #[param(example = "plant/1")]
    topic: String,
}

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Publishing {
    #[schema(example = "plant/1")]
    topic: String,
    /// As text; this or `payload_base64`.
    #[serde(default)]
    payload: Option<String>,
    /// As bytes in base64.
    #[serde(default)]
    payload_base64: Option<String>,
    #[serde(default)]
    #[schema(maximum = 2)]
    qos: u8,
    #[serde(default)]
    retain: bool,
    /// Message Expiry Interval in seconds.
    #[serde(default)]
    expires_s: Option<u32>,
    /// Content Type.
    #[serde(default)]
    content_type: Option<String>,
}

/// Whom a topic reaches.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reached {
    /// Subscriptions that match, but for shared ones.
    receivers: u64,
    /// The first 100 clients of them.
    clients: Vec<String>,
    groups: Vec<Group>,
}

/// A shared group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Group {
    filter: String,
    members: u64,
    /// Members that could take a message now.
    ready: u64,
    /// Messages that wait in it.
    queued: u64,
}

/// Which part of the groups is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GroupsAsked {
    /// Where the page before has said to go on.
    cursor: Option<String>,
}

/// A page of shared groups.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GroupsPage {
    groups: Vec<Group>,
    /// To ask for the next page with; `null` at the end.
    next: Option<String>,
}

impl Retained {
    fn new(message: &Message, now: Now, whole: bool) -> Self {
        let payload = &message.payload;
        let shown = if whole { payload.len() } else { payload.len().min(PREVIEW_BYTES) };
        let expires = Some(message.expires_at_ms).filter(|at| *at != u64::MAX);
        Self {
            topic: message.topic.text().as_str().to_owned(),
            qos: message.qos as u8,
            payload_bytes: payload.len(),
            payload: String::from_utf8_lossy(&payload[..shown]).into_owned(),
            payload_base64: whole.then(|| STANDARD.encode(payload)),
            expires_in_s: expires.map(|at| at.saturating_sub(now.mono_ms).div_ceil(1000)),
        }
    }
}

impl From<Shared> for Group {
    fn from(shared: Shared) -> Self {
        let Shared { filter, members, ready, queued, .. } = shared;
        Self { filter, members, ready, queued }
    }
}

/// Where a list of retained messages goes on: the shard, and the last topic.
fn retained_cursor(
    text: Option<&str>,
    shards: &Shards,
) -> Result<(usize, Option<String>), Problem> {
    let Some(text) = text else { return Ok((0, None)) };
    let (shard, topic) = text.split_once('.').unwrap_or((text, ""));
    let shard = shard.parse().ok().filter(|shard| *shard < shards.count());
    let wrong = || Problem::bad("`cursor` is none that a page before has named as `next`");
    Ok((shard.ok_or_else(wrong)?, Some(topic.to_owned()).filter(|topic| !topic.is_empty())))
}

/// Lists retained messages.
#[utoipa::path(get, path = "/api/v1/retained", tag = "messages", params(RetainedAsked),
    responses((status = 200, body = RetainedPage), Refused), security(("token" = [])))]
pub(super) async fn list(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<RetainedAsked>,
) -> Result<Json<RetainedPage>, Problem> {
    let most = limit(wants.limit)?;
    let text = wants.filter.as_deref().unwrap_or("#");
    let filter = owned(text).and_then(|text| TopicFilter::new(text).ok());
    let filter = filter.filter(|filter| !filter.is_shared());
    let filter = filter.ok_or_else(|| Problem::bad("`filter` is no topic filter"))?;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let (mut shard, mut after) = retained_cursor(wants.cursor.as_deref(), shards)?;
        let mut messages = Vec::new();
        for _ in 0..QUESTIONS {
            let (filter, from) = (filter.clone(), after.as_deref().and_then(owned));
            let (page, now) = shards.ask(shard, move |view| {
                (view.shard.list_retained(view.now, &filter, from.as_ref()), view.now)
            })?;
            messages.extend(page.messages.iter().map(|it| Retained::new(it, now, false)));
            match page.next {
                Some(next) => after = Some(next.as_str().to_owned()),
                None => (shard, after) = (shard + 1, None),
            }
            if shard == shards.count() {
                return Ok(Json(RetainedPage { messages, next: None }));
            }
            if messages.len() >= most {
                break;
            }
        }
        let next = Some(format!("{shard}.{}", after.unwrap_or_default()));
        Ok(Json(RetainedPage { messages, next }))
    })
    .await
}

/// Shows the retained message of a topic.
#[utoipa::path(get, path = "/api/v1/retained/message", tag = "messages", params(TopicAsked),
    responses((status = 200, body = Retained), Refused), security(("token" = [])))]
pub(super) async fn show(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<TopicAsked>,
) -> Result<Json<Retained>, Problem> {
    let topic = topic_name(&wants.topic)?;
    asked(&known, move |known| {
        let found = retained_of(&known.source.shards, &topic)?;
        found.map(Json).ok_or_else(|| Problem::missing("the topic has no retained message"))
    })
    .await
}

fn retained_of(shards: &Shards, topic: &TopicName) -> Result<Option<Retained>, Problem> {
    let home = shards.home_of(topic.as_bytes());
    let filter = TopicFilter::new(topic.text().clone());
    let filter = filter.map_err(|_| Problem::bad("`topic` is no topic name"))?;
    // A payload is as long as a packet may be: the shard gives it away, and does not write it out.
    let found = shards.ask(home, move |view| {
        let answer = view.shard.list_retained(view.now, &filter, None);
        (answer.messages.into_iter().next(), view.now)
    })?;
    let (message, now) = found;
    Ok(message.map(|message| Retained::new(&message, now, true)))
}

/// Deletes the retained message of a topic. Subscribers are sent an empty message, as when a client does it.
#[utoipa::path(delete, path = "/api/v1/retained/message", tag = "messages", params(TopicAsked),
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn delete(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<TopicAsked>,
) -> Result<Done, Problem> {
    let topic = topic_name(&wants.topic)?;
    asked(&known, move |known| {
        let shards = &known.source.shards;
        if retained_of(shards, &topic)?.is_none() {
            return Err(Problem::missing("the topic has no retained message"));
        }
        let shown = topic.text().as_str().to_owned();
        publish_in(shards, own(topic, Vec::new(), Qos::AtMostOnce, true))?;
        Ok(Done::new(format!("the retained message of {shown:?} is deleted")))
    })
    .await
}

/// Has the home of a topic publish a message, and says whether it reaches anybody: `NoMatchingSubscribers` if not.
fn publish_in(shards: &Shards, publish: Publish) -> Result<ReasonCode, Problem> {
    let reason = shards.publish_and_see(publish)?;
    match reason {
        ReasonCode::Success | ReasonCode::NoMatchingSubscribers => Ok(reason),
        ReasonCode::QuotaExceeded => Err(Problem::conflict(
            "the broker takes no message at the moment: it has no memory left, or its storage is full or fails",
        )),
        reason => Err(Problem::bad(format!("it is refused: 0x{:02x} {reason:?}", reason as u8))),
    }
}

/// A message of the broker.
fn own(topic: TopicName, payload: Vec<u8>, qos: Qos, retain: bool) -> Publish {
    Publish {
        dup: false,
        qos,
        retain,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload: payload.into(),
    }
}

/// Publishes a message. No rule of `[access]` forbids it; a topic that begins with `$` is the broker's own.
#[utoipa::path(post, path = "/api/v1/publish", tag = "messages", request_body = Publishing,
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn publish(
    State(known): State<Arc<Known>>,
    Given(wants): Given<Publishing>,
) -> Result<Done, Problem> {
    let topic = topic_name(&wants.topic)?;
    if topic.is_system() {
        return Err(Problem::bad(format!(
            "{:?}: topics that begin with `$` are the broker's own; nobody publishes to them",
            topic.text().as_str()
        )));
    }
    let qos = Qos::from_u8(wants.qos).ok_or_else(|| Problem::bad("`qos` is 0, 1 or 2"))?;
    let payload = match (wants.payload, wants.payload_base64) {
        (Some(_), Some(_)) => return Err(Problem::bad("`payload` or `payload_base64`, not both")),
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => {
            STANDARD.decode(text).map_err(|_| Problem::bad("`payload_base64` is not base64"))?
        }
        (None, None) => Vec::new(),
    };
    let content_type = wants
        .content_type
        .as_deref()
        .map(|text| owned(text).ok_or_else(|| Problem::bad("`content_type` is no text of MQTT")));
    let fields =
        MessageFields { content_type: content_type.transpose()?, ..MessageFields::default() };
    let properties =
        MessageProperties::of(&fields).ok_or_else(|| Problem::bad("`content_type` is too long"))?;
    let (retain, expires_s) = (wants.retain, wants.expires_s);
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let home = shards.home_of(topic.as_bytes());
        let most = shards.ask(home, |view| view.shard.limits().maximum_packet_size_bytes)?;
        if payload.len() + topic.as_bytes().len() > most as usize {
            return Err(Problem::bad(format!(
                "it has more than {most} bytes (maximum_packet_size_bytes)"
            )));
        }
        let shown = topic.text().as_str().to_owned();
        let bytes = payload.len();
        let mut publish = own(topic, payload, qos, retain);
        publish.properties.message_expiry_interval_s = expires_s;
        publish.properties.message = properties;
        let reached = match publish_in(shards, publish)? {
            ReasonCode::NoMatchingSubscribers => ", which nobody subscribes to",
            _ => "",
        };
        Ok(Done::new(format!("{bytes} bytes are published to {shown:?}{reached}")))
    })
    .await
}

/// Says whom a message to a topic reaches.
#[utoipa::path(get, path = "/api/v1/topics/receivers", tag = "messages", params(TopicAsked),
    responses((status = 200, body = Reached), Refused), security(("token" = [])))]
pub(super) async fn receivers(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<TopicAsked>,
) -> Result<Json<Reached>, Problem> {
    let topic = topic_name(&wants.topic)?;
    asked(&known, move |known| {
        let all = known.source.shards.ask_all(move |view| view.shard.reached(&topic, NAMED_MAX))?;
        let mut reached = Reached { receivers: 0, clients: Vec::new(), groups: Vec::new() };
        for (count, first, groups) in all {
            reached.receivers += count;
            reached.clients.extend(first.iter().map(|id| id.as_str().to_owned()));
            reached.groups.extend(groups.into_iter().map(Group::from));
        }
        reached.clients.truncate(NAMED_MAX);
        Ok(Json(reached))
    })
    .await
}

/// Lists the shared groups.
#[utoipa::path(get, path = "/api/v1/groups", tag = "messages", params(GroupsAsked),
    responses((status = 200, body = GroupsPage), Refused), security(("token" = [])))]
pub(super) async fn groups(
    State(known): State<Arc<Known>>,
    Asked(wants): Asked<GroupsAsked>,
) -> Result<Json<GroupsPage>, Problem> {
    asked(&known, move |known| {
        let shards = &known.source.shards;
        let (shard, at) = cursor(wants.cursor.as_deref(), shards)?;
        let (found, next) =
            shards.ask(shard, move |view| view.shard.list_shared(at, GROUPS_PER_QUESTION))?;
        let next = match next {
            Some(at) => Some(format!("{shard}.{at}")),
            None => (shard + 1 < shards.count()).then(|| format!("{}.0", shard + 1)),
        };
        Ok(Json(GroupsPage { groups: found.into_iter().map(Group::from).collect(), next }))
    })
    .await
}
