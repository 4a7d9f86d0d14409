//! Why a client gets the messages to a topic, or does not: everything that the broker knows of it, in sentences.

mod groups;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use petrel_proto::{ClientId, Qos, TopicFilter, TopicName};
use petrel_shard::access::Verdicts;
use petrel_shard::config::QueueFull;
use petrel_shard::look::{Detail, Rights, Shared, Subscribed};
use petrel_shard::{DropReason, Limits, Readiness};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Asked, Named, Problem, Refused};
use super::clients::{client_id, version_name};
use super::{Known, asked};
use crate::guard::Target;
use crate::log::Escaped;
use crate::pump::history::{Past, owned};
use crate::shards::{Shards, Unanswered, View};

/// Subscriptions that are looked at for one that is nearly right.
const NEAR_MAX: usize = 1_000;

/// About what is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhyAsked {
    /// Topic name, without wildcards.
    #[param(example = "plant/1")]
    topic: String,
    /// Client identifier of a publisher, to look at what it may publish.
    publisher: Option<String>,
}

/// Whether messages to a topic reach a client, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Why {
    client_id: String,
    topic: String,
    reaches: Reaches,
    /// The answer in one sentence.
    answer: String,
    /// What it follows from.
    findings: Vec<Finding>,
}

/// Whether a message that is published now reaches the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reaches {
    /// At once.
    AtOnce,
    /// It waits in the client's queue.
    Later,
    /// One of the members of a shared group gets it.
    Perhaps,
    /// It does not.
    No,
}

/// Something that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Finding {
    /// What it is about.
    about: &'static str,
    /// Nothing of it keeps messages from the client.
    fine: bool,
    text: String,
}

/// What is known.
#[derive(Debug, Clone)]
struct Facts {
    client: String,
    topic: TopicName,
    /// `None` without a session.
    session: Option<Session>,
    /// Whether the table of all shards has those that have to get the topic for its sake.
    is_interested: bool,
    ban: Option<String>,
    past: Vec<Past>,
    now_ms: u64,
    limits: Limits,
    groups: Vec<Shared>,
    /// Whose messages to the topic were refused, why, and how many milliseconds ago.
    refused: Vec<(String, DropReason, u64)>,
    retained: Option<usize>,
    publisher: Option<Publisher>,
    /// Connections that are not read for now, and why.
    held: Vec<(usize, &'static str)>,
}

#[derive(Debug, Clone)]
struct Session {
    detail: Detail,
    matching: Vec<Subscribed>,
    others: Vec<Subscribed>,
    rights: Rights,
    /// How it stands towards its shared groups.
    standing: Readiness,
}

#[derive(Debug, Clone)]
struct Publisher {
    name: String,
    /// Whether it is connected, and its rights; `None` without a session.
    found: Option<(bool, Rights)>,
    /// Why it is not read for now.
    held: Option<&'static str>,
}

/// Says whether and where messages to a topic reach a client, or do not.
#[utoipa::path(get, path = "/api/v1/clients/{client_id}/why", tag = "clients",
    params(("client_id" = String, Path, description = "Client identifier", example = "sensor-7"), WhyAsked),
    responses((status = 200, body = Why), Refused), security(("token" = [])))]
pub(super) async fn why(
    State(known): State<Arc<Known>>,
    Named(name): Named<String>,
    Asked(about): Asked<WhyAsked>,
) -> Result<Json<Why>, Problem> {
    let id = client_id(&name)?;
    let topic = topic_name(&about.topic)?;
    let publisher = about.publisher.as_deref().map(client_id).transpose()?;
    asked(&known, move |known| {
        let facts = gather(known, &id, &topic, publisher.as_ref())?;
        Ok(Json(explain(&facts)))
    })
    .await
}

/// A topic name as somebody wrote it.
pub(super) fn topic_name(text: &str) -> Result<TopicName, Problem> {
    let topic = owned(text).and_then(|text| TopicName::new(text).ok());
    topic.ok_or_else(|| {
        Problem::bad(
            "`topic` is no topic name: it must not be empty, nor have the wildcards + and #",
        )
    })
}

fn gather(
    known: &Known,
    id: &ClientId,
    topic: &TopicName,
    publisher: Option<&ClientId>,
) -> Result<Facts, Unanswered> {
    let shards = &known.source.shards;
    let (asked_id, asked_topic) = (id.clone(), topic.clone());
    let look = move |view: &View<'_>| {
        let past: Vec<_> = view.history.of(&asked_id).take(3).cloned().collect();
        let session = session_of(view, &asked_id, &asked_topic);
        let is_interested = view.shard.is_interested(&asked_topic);
        (session, past, view.now.mono_ms, view.shard.limits().clone(), is_interested)
    };
    let (session, past, now_ms, limits, is_interested) =
        shards.ask(shards.home_of(id.as_bytes()), look)?;
    let asked_topic = topic.clone();
    let elsewhere = shards.ask_all(move |view| {
        let (_, _, groups) = view.shard.reached(&asked_topic, 0);
        let now_ms = view.now.mono_ms;
        let refused = view.shard.refused_for(&asked_topic, view.out).into_iter();
        let refused =
            refused.map(|(who, why, at)| (who.as_str().to_owned(), why, now_ms.saturating_sub(at)));
        // Messages of a group go to the shard that owns it.
        let is_interested = view.shard.is_interested(&asked_topic);
        let groups: Vec<_> = groups.into_iter().map(|group| (group, is_interested)).collect();
        (groups, refused.collect::<Vec<_>>(), view.held.counts().collect::<Vec<_>>())
    })?;
    let (mut groups, mut refused, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for (of_shard, refused_there, held_there) in elsewhere {
        groups.extend(of_shard);
        refused.extend(refused_there);
        held.extend(held_there);
    }
    let matching = || session.iter().flat_map(|it| &it.matching);
    groups.retain(|(group, _)| matching().any(|own| own.filter == group.filter));
    let is_plain = matching().any(|own| !own.shared);
    let ban = known.source.guard.bans().list(now_ms).into_iter().find_map(|ban| {
        let detail = session.as_ref().map(|session| &session.detail);
        let is_it = match &ban.target {
            Target::ClientId(banned) => banned == id,
            Target::User(user) => detail.is_some_and(|it| it.line.user.as_ref() == Some(user)),
            Target::Addresses(range) => {
                detail.and_then(|it| it.origin).is_some_and(|(address, _)| range.contains(address))
            }
        };
        is_it.then(|| ban.to_string())
    });
    Ok(Facts {
        client: id.as_str().to_owned(),
        topic: topic.clone(),
        ban,
        past,
        now_ms,
        limits,
        is_interested: (is_interested || !is_plain) && groups.iter().all(|(_, is)| *is),
        groups: groups.into_iter().map(|(group, _)| group).collect(),
        refused,
        held,
        retained: retained(shards, topic)?,
        publisher: publisher.map(|it| look_at_publisher(shards, it, topic)).transpose()?,
        session,
    })
}

fn session_of(view: &View<'_>, id: &ClientId, topic: &TopicName) -> Option<Session> {
    let shard = view.shard;
    Some(Session {
        detail: shard.detail(view.now, id, view.out)?,
        matching: shard.subscribed_to(id, topic)?,
        others: shard.subscribed(id, 0, NEAR_MAX)?,
        rights: shard.rights(id, topic)?,
        standing: shard.standing_in_groups(id)?,
    })
}

fn retained(shards: &Shards, topic: &TopicName) -> Result<Option<usize>, Unanswered> {
    let home = shards.home_of(topic.as_bytes());
    let filter = TopicFilter::new(topic.text().clone());
    shards.ask(home, move |view| {
        let found = view.shard.list_retained(view.now, &filter.ok()?, None);
        found.messages.first().map(|message| message.payload.len())
    })
}

fn look_at_publisher(
    shards: &Shards,
    id: &ClientId,
    topic: &TopicName,
) -> Result<Publisher, Unanswered> {
    let (asked_id, asked_topic) = (id.clone(), topic.clone());
    let found = shards.ask(shards.home_of(id.as_bytes()), move |view| {
        let rights = view.shard.rights(&asked_id, &asked_topic)?;
        let conn = view.shard.connection_of(&asked_id);
        Some((conn.is_some(), rights, conn.and_then(|conn| view.why_held(conn))))
    })?;
    let held = found.and_then(|(_, _, held)| held);
    let found = found.map(|(is_connected, rights, _)| (is_connected, rights));
    Ok(Publisher { name: id.as_str().to_owned(), found, held })
}

/// Collects findings.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, about: &'static str, text: String) {
        self.0.push(Finding { about, fine: true, text });
    }

    fn wrong(&mut self, about: &'static str, text: String) {
        self.0.push(Finding { about, fine: false, text });
    }
}

fn explain(facts: &Facts) -> Why {
    let mut findings = Findings::default();
    let client = quoted(&facts.client);
    let topic = quoted(facts.topic.text().as_str());
    let (reaches, answer) = match &facts.session {
        None => {
            without_session(facts, &mut findings);
            (Reaches::No, format!("No message reaches {client}, for it has no session."))
        }
        Some(session) => {
            if let Some(ban) = &facts.ban {
                findings.wrong("ban", format!("it is shut out, and cannot come back: {ban}"));
            }
            with_session(facts, session, &mut findings)
        }
    };
    let refused = publishers(facts, &mut findings);
    let is_own = facts.topic.is_system() && facts.publisher.is_none();
    let (reaches, answer) = match refused {
        // What the broker itself publishes there comes.
        Some(why) if reaches != Reaches::No && !is_own => {
            (Reaches::No, format!("No such message reaches {client}: {why}."))
        }
        _ => (reaches, answer),
    };
    let retained = match facts.retained {
        Some(bytes) => format!("{topic} has a retained message of {bytes} bytes"),
        None => format!("{topic} has no retained message"),
    };
    findings.fine("retained", retained);
    Why {
        client_id: facts.client.clone(),
        topic: facts.topic.text().as_str().to_owned(),
        reaches,
        answer,
        findings: findings.0,
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", Escaped(text.as_bytes()))
}

fn ago(ms: u64) -> String {
    match ms / 1000 {
        0 => "just now".to_owned(),
        seconds @ 1..=119 => format!("{seconds} s ago"),
        seconds @ 120..=7199 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

fn without_session(facts: &Facts, findings: &mut Findings) {
    let client = quoted(&facts.client);
    let last = match facts.past.first() {
        Some(past) => {
            let ago = past.at.elapsed().unwrap_or_default();
            let (ago, what) = (ago_of(ago), what_happened(past));
            format!("{client} has no session; the last that happened to it, {ago}: {what}")
        }
        None => format!(
            "{client} has no session, and nothing is known of it: it has not come lately, or comes with another \
             client identifier"
        ),
    };
    findings.wrong("session", last);
    if let Some(ban) = &facts.ban {
        findings.wrong("ban", format!("it is shut out: {ban}"));
    }
}

fn what_happened(past: &Past) -> String {
    let why = if past.why.is_empty() { String::new() } else { format!(", {}", past.why) };
    let code = if past.reason > 0 { format!(" (0x{:02x})", past.reason) } else { String::new() };
    format!("{}{why}{code}", past.what)
}

fn ago_of(time: std::time::Duration) -> String {
    ago(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn with_session(facts: &Facts, session: &Session, findings: &mut Findings) -> (Reaches, String) {
    let client = quoted(&facts.client);
    let topic = quoted(facts.topic.text().as_str());
    presence(facts, session, findings);
    if !subscriptions(facts, session, findings) {
        losses(facts, session, findings);
        let text =
            format!("A message to {topic} does not reach {client}: no subscription of it matches.");
        return (Reaches::No, text);
    }
    let never = own_message(facts, session)
        .or_else(|| silent(facts))
        .or_else(|| too_large(facts, session, Qos::AtMostOnce));
    let fate = match never {
        Some(why) => Fate::same(Outcome::Dropped, why),
        None => {
            let fate = fate(facts, session, findings);
            match (fate.reliable, too_large(facts, session, Qos::AtLeastOnce)) {
                (Some(_), Some(why)) => Fate { reliable: Some(Outcome::Dropped), why, ..fate },
                _ => fate,
            }
        }
    };
    losses(facts, session, findings);
    match session.matching.iter().all(|it| it.shared) {
        true => groups::answer(facts, session, (&client, &topic), &fate),
        false => answer(&client, &topic, &fate),
    }
}

/// What becomes of a message, and why.
struct Fate {
    /// Delivered at QoS 0.
    unreliable: Outcome,
    /// Delivered at QoS 1 or 2; `None` if the subscription has QoS 0.
    reliable: Option<Outcome>,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Sent,
    Waits,
    Dropped,
}

impl Fate {
    fn same(outcome: Outcome, why: String) -> Self {
        Self { unreliable: outcome, reliable: Some(outcome), why }
    }
}

fn answer(client: &str, topic: &str, fate: &Fate) -> (Reaches, String) {
    let Fate { unreliable, reliable, why } = fate;
    match (*reliable, *unreliable) {
        (Some(Outcome::Sent) | None, Outcome::Sent) => {
            (Reaches::AtOnce, format!("A message to {topic} reaches {client} at once."))
        }
        (None | Some(Outcome::Dropped), Outcome::Dropped) => {
            (Reaches::No, format!("A message to {topic} does not reach {client}: {why}."))
        }
        (Some(Outcome::Waits), of_zero) => {
            let becomes = if of_zero == Outcome::Sent { "is sent at once" } else { "is dropped" };
            let text = format!(
                "A message to {topic} of QoS 1 or 2 waits for {client}, and one of QoS 0 {becomes}: {why}."
            );
            (Reaches::Later, text)
        }
        (Some(Outcome::Dropped), _) => {
            let text = format!(
                "A message to {topic} of QoS 1 or 2 does not reach {client}, and one of QoS 0 is sent at once: {why}."
            );
            (Reaches::No, text)
        }
        // Nothing else comes of a connection that takes QoS 1 and 2.
        (_, _) => (Reaches::AtOnce, format!("A message to {topic} reaches {client} at once.")),
    }
}

/// Why a client does not get what it publishes itself, if that is asked.
fn own_message(facts: &Facts, session: &Session) -> Option<String> {
    let itself = facts.publisher.as_ref().is_some_and(|publisher| publisher.name == facts.client);
    let all = session.matching.iter().all(|own| own.no_local);
    (itself && all)
        .then(|| "it has asked not to get what it publishes itself (No Local)".to_owned())
}

/// Why the broker says nothing on a topic of its own, if that is so: what it says there is retained.
fn silent(facts: &Facts) -> Option<String> {
    (is_sys(facts) && facts.retained.is_none()).then(|| {
        "the broker publishes nothing there: [sys] interval_s is 0, or there is no such topic"
            .to_owned()
    })
}

/// Why no message to the topic fits a packet that it takes, of any QoS or of QoS 1 and 2.
fn too_large(facts: &Facts, session: &Session, qos: Qos) -> Option<String> {
    let most = session.detail.connected.as_ref()?.maximum_packet_size as usize;
    // Type and length, the length of the topic name, an identifier, and the length of the properties.
    let identifier = if qos == Qos::AtMostOnce { 0 } else { 2 };
    let least = 2 + 2 + facts.topic.as_bytes().len() + identifier + 1;
    (least > most).then(|| {
        format!("it takes packets of up to {most} bytes, and the topic alone makes them longer")
    })
}

fn presence(facts: &Facts, session: &Session, findings: &mut Findings) {
    let client = quoted(&facts.client);
    let detail = &session.detail;
    if let Some(connected) = &detail.connected {
        let version = detail.line.version.map_or("?", version_name);
        let silent = ago(connected.silent_ms);
        findings.fine(
            "connection",
            format!(
                "{client} is connected by MQTT {version}; the last packet from it came {silent}"
            ),
        );
        return;
    }
    let ends = match detail.ends_at_ms {
        Some(u64::MAX) | None => "never".to_owned(),
        Some(at) => format!("in {} s", at.saturating_sub(facts.now_ms).div_ceil(1000)),
    };
    let left = facts.past.iter().find(|past| past.is_departure()).map(|past| {
        let ago = ago_of(past.at.elapsed().unwrap_or_default());
        format!("; it went {ago}: {}", what_happened(past))
    });
    findings.wrong(
        "connection",
        format!("{client} is not connected; its session ends {ends}{}", left.unwrap_or_default()),
    );
}

/// Whether a subscription matches.
fn subscriptions(facts: &Facts, session: &Session, findings: &mut Findings) -> bool {
    let topic = quoted(facts.topic.text().as_str());
    for own in &session.matching {
        let filter = quoted(&own.filter);
        let mut text = format!("its subscription {filter} at QoS {} matches", own.qos as u8);
        if own.no_local {
            text.push_str(", but not what it publishes itself (No Local)");
        }
        findings.fine("subscription", text);
    }
    groups::describe(facts, findings);
    rights(session, &topic, findings);
    if session.matching.is_empty() {
        let count = session.detail.line.subscriptions;
        let text = match count {
            0 => "it has no subscription at all".to_owned(),
            count => format!("none of its {count} subscriptions matches {topic}"),
        };
        findings.wrong("subscription", text);
        let near = session.others.iter().find_map(|own| near(&own.filter, &facts.topic));
        if let Some(near) = near {
            findings.wrong("subscription", near);
        }
        return false;
    }
    if !facts.is_interested {
        findings.wrong(
            "interest",
            "the table of all shards does not say that its shard wants this topic, which is a fault of Petrel"
                .to_owned(),
        );
    }
    true
}

fn rights(session: &Session, topic: &str, findings: &mut Findings) {
    let Rights { subscribe, subscribe_rules, are_rules, .. } = session.rights;
    if !are_rules && subscribe.is_some() {
        return;
    }
    let rule = which(&subscribe_rules, subscribe.is_some());
    match subscribe {
        Some(qos) => findings.fine(
            "rights",
            format!("it may subscribe to {topic} at up to QoS {}{rule}", qos as u8),
        ),
        None => findings.wrong(
            "rights",
            format!(
                "it may not subscribe to {topic}{rule}, so a SUBSCRIBE for it is refused with 0x87"
            ),
        ),
    }
}

/// Which rule of the file decided.
fn which(verdicts: &Verdicts, may: bool) -> String {
    match (verdicts.allowing, verdicts.denying, may) {
        (_, Some(rule), false) => format!(": rule {} of the file denies it", rule + 1),
        (None, None, false) => ": no rule allows it".to_owned(),
        (Some(_), None, false) => ": a rule allows some of it, and none allows this".to_owned(),
        (Some(rule), _, true) => format!(": rule {} of the file allows it", rule + 1),
        (None, _, true) => ": by rights of its own".to_owned(),
    }
}

/// What is nearly right about a filter that does not match.
fn near(filter: &str, topic: &TopicName) -> Option<String> {
    let topic = topic.text().as_str();
    let plain = filter.strip_prefix("$share/").and_then(|it| Some(it.split_once('/')?.1));
    let plain = plain.unwrap_or(filter);
    let shown = quoted(filter);
    let matches = |filter: &str, topic: &str| {
        let filter = owned(filter).and_then(|it| TopicFilter::new(it).ok());
        let topic = owned(topic).and_then(|it| TopicName::new(it).ok());
        filter.zip(topic).is_some_and(|(filter, topic)| filter.matches(&topic))
    };
    if matches(&plain.to_lowercase(), &topic.to_lowercase()) {
        return Some(format!("its subscription {shown} would match but for upper and lower case"));
    }
    if matches(plain.trim_matches('/'), topic.trim_matches('/')) {
        return Some(format!(
            "its subscription {shown} would match but for a slash at the beginning or the end, which is a level of \
             its own"
        ));
    }
    if matches(&plain.replace(' ', ""), &topic.replace(' ', "")) {
        return Some(format!("its subscription {shown} would match but for spaces"));
    }
    if matches(&format!("{plain}/#"), topic) {
        return Some(format!(
            "its subscription {shown} ends where the topic goes on: '{}/#' would match",
            Escaped(plain.as_bytes())
        ));
    }
    if plain.starts_with(['+', '#']) && topic.starts_with('$') {
        return Some(format!(
            "its subscription {shown} begins with a wildcard, which matches no topic that begins with $"
        ));
    }
    None
}

/// What becomes of a message that the client subscribes to, by its queue, its window and its socket.
fn fate(facts: &Facts, session: &Session, findings: &mut Findings) -> Fate {
    let (detail, limits) = (&session.detail, &facts.limits);
    let qos = asked_qos(facts, session);
    let full = queue_is_full(detail, limits, findings);
    let reliable = |outcome| (qos > Qos::AtMostOnce).then_some(outcome);
    // What must wait waits in the queue, or is dropped.
    let queued = |unreliable, why: String| match full.clone() {
        Some(full) => Fate { unreliable, reliable: reliable(Outcome::Dropped), why: full },
        None => Fate { unreliable, reliable: reliable(Outcome::Waits), why },
    };
    let Some(connected) = &detail.connected else {
        if qos == Qos::AtMostOnce {
            let text = match is_sys(facts) {
                true => {
                    "the broker publishes there at QoS 0, which is not kept for a client that is away"
                }
                false => {
                    "its subscription has QoS 0, and messages of QoS 0 are not kept for a client that is away"
                }
            };
            findings.wrong("QoS", text.to_owned());
            return Fate { unreliable: Outcome::Dropped, reliable: None, why: text.to_owned() };
        }
        return queued(Outcome::Dropped, "it is not connected".to_owned());
    };
    if u64::from(limits.outgoing_bytes_maximum) <= connected.pending_bytes {
        let text = format!(
            "it reads too slowly: {} bytes wait for its socket, of at most {} (outgoing_bytes_maximum)",
            connected.pending_bytes, limits.outgoing_bytes_maximum
        );
        findings.wrong("socket", text.clone());
        return queued(Outcome::Dropped, text);
    }
    if connected.pending_bytes > 0 {
        let bytes = connected.pending_bytes;
        findings.fine("socket", format!("{bytes} bytes wait for its socket"));
    }
    if connected.maximum_packet_size < u32::MAX {
        let bytes = connected.maximum_packet_size;
        let text = format!("it takes packets of up to {bytes} bytes; longer messages are dropped");
        findings.fine("packet size", text);
    }
    match window_is_full(facts, session) {
        Some(text) => {
            findings.wrong("in flight", text.clone());
            queued(Outcome::Sent, text)
        }
        None if detail.line.queued > 0 => {
            queued(Outcome::Sent, format!("{} messages wait before it", detail.line.queued))
        }
        None => Fate {
            unreliable: Outcome::Sent,
            reliable: reliable(Outcome::Sent),
            why: String::new(),
        },
    }
}

/// The QoS at which it gets messages: by a subscription of its own if it has one, for a copy of each comes by that
/// whatever shared groups do.
fn asked_qos(facts: &Facts, session: &Session) -> Qos {
    if is_sys(facts) {
        return Qos::AtMostOnce;
    }
    let highest = |shared: bool| {
        let of = session.matching.iter().filter(|it| it.shared == shared);
        of.map(|it| it.qos).max()
    };
    highest(false).or_else(|| highest(true)).unwrap_or_default()
}

/// True of the topics on which the broker says how it is.
fn is_sys(facts: &Facts) -> bool {
    facts.topic.levels().next() == Some(b"$SYS")
}

/// Why no more may be in flight to it, if that is so.
fn window_is_full(facts: &Facts, session: &Session) -> Option<String> {
    let connected = session.detail.connected.as_ref()?;
    if connected.send_quota == 0 {
        return Some(format!(
            "it has not acknowledged {} messages, as many as may be in flight to it",
            connected.receive_maximum
        ));
    }
    let (bytes, most) =
        (session.detail.inflight_bytes, facts.limits.outgoing_inflight_bytes_maximum);
    let next = facts.topic.as_bytes().len() as u64;
    (bytes > 0 && bytes + next > most).then(|| {
        format!(
            "it has not acknowledged messages of {bytes} bytes, and at most {most} may be in flight to it \
             (outgoing_inflight_bytes_maximum)"
        )
    })
}

/// Why its queue takes no more, if it does not.
fn queue_is_full(detail: &Detail, limits: &Limits, findings: &mut Findings) -> Option<String> {
    let bytes = detail.queued_bytes.0 + detail.queued_bytes.1;
    let (messages, most) = (detail.line.queued, u64::from(limits.session_queue_messages));
    let text = format!(
        "{messages} messages wait in its queue, of at most {most} (session_queue_messages), with {bytes} bytes of at \
         most {} (session_queue_bytes)",
        limits.session_queue_bytes
    );
    // A new message makes those give way that have expired.
    if messages - detail.expired.min(messages) < most && bytes < limits.session_queue_bytes {
        let expired = match detail.expired {
            0 => String::new(),
            expired => format!("; {expired} of them have expired, and make room for others"),
        };
        findings.fine("queue", format!("{text}{expired}"));
        return None;
    }
    if most == 0 && detail.connected.is_some() {
        // What can be sent at once is not missed there.
        findings.fine("queue", text);
        return Some("its queue may hold nothing (session_queue_messages is 0)".to_owned());
    }
    let policy = match limits.session_queue_full {
        QueueFull::DropNewest => "a new message is dropped",
        QueueFull::DropOldest => "the oldest message makes room for a new one",
    };
    findings.wrong("queue", format!("{text}: it is full, and {policy} (session_queue_full)"));
    (most == 0 || limits.session_queue_full == QueueFull::DropNewest)
        .then(|| "its queue is full, and new messages are dropped".to_owned())
}

fn losses(facts: &Facts, session: &Session, findings: &mut Findings) {
    let Some(loss) = &session.detail.losses else {
        findings.fine("lost", "it has lost nothing lately that is known of".to_owned());
        return;
    };
    let reasons = DropReason::ALL.into_iter().filter(|reason| loss.drops.of(*reason) > 0);
    let reasons = reasons.map(|reason| format!("{} {}", loss.drops.of(reason), reason.words()));
    let (last, ago) = (loss.last.words(), ago(facts.now_ms.saturating_sub(loss.last_ms)));
    let (topic, is_whole) = loss.topic();
    let topic = match topic {
        b"" => String::new(),
        topic => format!(" '{}'{}", Escaped(topic), if is_whole { "" } else { "…" }),
    };
    let text = format!(
        "it has lost {} messages ({}), the last{topic} {ago}: {last}",
        loss.drops.all(),
        reasons.collect::<Vec<_>>().join(", "),
    );
    findings.wrong("lost", text);
}

/// What publishers may do. Why no message comes to the topic, if that is so.
fn publishers(facts: &Facts, findings: &mut Findings) -> Option<String> {
    let topic = quoted(facts.topic.text().as_str());
    let mut refused = topic_is_refused(facts, &topic);
    if let Some(text) = &refused {
        findings.wrong("publisher", text.clone());
    }
    for (who, why, ms) in &facts.refused {
        let (who, why, ago) = (quoted(who), why.words(), ago(*ms));
        findings
            .wrong("publisher", format!("a message of {who} to {topic} was refused {ago}: {why}"));
    }
    for (count, why) in &facts.held {
        let text = format!(
            "{count} connections of a shard are not read for now, so what they publish comes later: {why}"
        );
        findings.fine("publishers", text);
    }
    let Some(publisher) = &facts.publisher else { return refused };
    let name = quoted(&publisher.name);
    if let Some(why) = publisher.held {
        let text = format!("{name} is not read for now, so what it publishes comes later: {why}");
        findings.wrong("publisher", text);
    }
    let Some((connected, rights)) = &publisher.found else {
        findings.wrong("publisher", format!("{name} has no session here"));
        return refused;
    };
    if !connected {
        findings.wrong("publisher", format!("{name} is not connected"));
    }
    if refused.is_some() {
        return refused;
    }
    let highest = facts.limits.maximum_qos;
    let may = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce].into_iter();
    let may = may.filter(|qos| *qos as u8 <= highest);
    let most = may.filter(|qos| rights.publish.allows(*qos, false)).max();
    let rule =
        if rights.are_rules { which(&rights.publish_rules, most.is_some()) } else { String::new() };
    match most {
        Some(qos) => {
            let may_retain = rights.publish.allows(qos, true) && facts.limits.retain_available;
            let retain = if may_retain { "" } else { ", not retained" };
            let text =
                format!("{name} may publish to {topic} at up to QoS {}{retain}{rule}", qos as u8);
            findings.fine("publisher", text);
        }
        None => {
            let text = format!("{name} may not publish to {topic}{rule}");
            findings.wrong("publisher", text.clone());
            refused = Some(text);
        }
    }
    refused
}

/// Why no client may publish to the topic, if that is so.
fn topic_is_refused(facts: &Facts, topic: &str) -> Option<String> {
    if facts.topic.is_system() && matches!(facts.topic.levels().next(), Some(b"$SYS" | b"$share")) {
        return Some(format!("no client may publish to {topic}: only the broker does"));
    }
    let (levels, most) = (facts.topic.levels().count(), facts.limits.topic_levels_maximum);
    (levels > usize::from(most)).then(|| {
        format!("{topic} has {levels} levels, and a topic may have {most} (topic_levels_maximum)")
    })
}

#[cfg(test)]
mod tests;
