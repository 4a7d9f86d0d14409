//! What an operator reads of what happens on a shard.
//!
//! Clients cause most of it, so the log has only so many lines of it a second; what goes on for long is summed up.
//! What a client sent is escaped and cut. Counts what it is told of, whether it is written or not.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use petrel_access::Finding;
use petrel_net::ConnKey;
use petrel_net::stages::{Census, Stage};
use petrel_net::tls::TlsError;
use petrel_net::volume::Volume;
use petrel_proto::{ClientId, DecodeError, ReasonCode, Text, Version};
use petrel_shard::{
    ConnId, DropReason, Drops, EndedBy, Event, Limit, Limited, Loss, ShardIndex, Verdict,
};

use crate::figures::{ByReason, Decided, Name};
use crate::guard::Denied;
use crate::log::{self, Area, Escaped, Event as Line, Fields, Level, Value};
use crate::pump::callers::{Caller, Callers};

/// What is summed up is for so long, in milliseconds.
const SUM_MS: u64 = 10_000;
/// How often a message that somebody does not get is looked at, in milliseconds.
const SAMPLE_MS: u64 = 100;

/// What a shard says of a client that its authenticators refuse; they have said more.
const REFUSED_BY_AUTHENTICATORS: &str = "authentication failed";

/// Who is turned away without a line for each, and why.
const TURNED_AWAY: [(Stage, &str); 3] = [
    (Stage::RefusedByRate, "their sources connect more often than source_connections_per_s"),
    (Stage::ProxyUntrusted, "they come from no address in proxy_trusted of their listener"),
    (Stage::ProxyRefused, "they came without a good header of the PROXY protocol"),
];

/// What listeners and those whom they ask are called.
#[derive(Debug, Default)]
pub struct Names {
    /// By position of the listener: its name, and those of its authenticators in their order.
    pub listeners: Vec<(String, Vec<String>)>,
}

impl Names {
    fn listener(&self, listener: u16) -> &str {
        self.listeners.get(usize::from(listener)).map_or("", |(name, _)| name)
    }

    fn authenticator(&self, listener: u16, at: u16) -> &str {
        let of = self.listeners.get(usize::from(listener));
        of.and_then(|(_, names)| names.get(usize::from(at))).map_or("", String::as_str)
    }
}

/// Writes the lines of one shard.
#[derive(Debug)]
pub struct Report {
    shard: ShardIndex,
    names: Arc<Names>,
    /// Failed accepts that nobody has been told of.
    accepts_failed: u64,
    /// Messages that had been dropped at the last sum, and when a line told of one.
    dropped_before: Drops,
    dropped_told: u64,
    sample_at_ms: u64,
    decided: Decided,
    ended: ByReason,
    /// By who ended them.
    gone: [u64; EndedBy::ALL.len()],
    limited: Limited,
    /// Connections refused for what is counted, as far as they were reported.
    turned_away: [u64; TURNED_AWAY.len()],
    summed_since_ms: u64,
}

/// Who has said who a client is, and how long that took.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// Whoever is asked at its listener.
    Desk(&'a Finding),
    /// An exchange by this method.
    Exchange(&'a str),
}

/// A client that is found out about.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Its client identifier.
    pub client_id: &'a ClientId,
    /// The user that it says it is, or has proved to be.
    pub user: Option<&'a Text>,
    /// Where it comes from, if that is kept.
    pub caller: Option<&'a Caller>,
}

impl Report {
    /// Of this shard.
    #[must_use]
    pub fn new(shard: ShardIndex, names: Arc<Names>) -> Self {
        Self {
            shard,
            names,
            accepts_failed: 0,
            dropped_before: Drops::default(),
            dropped_told: 0,
            sample_at_ms: 0,
            decided: Decided::default(),
            ended: ByReason::default(),
            gone: Default::default(),
            limited: Limited::default(),
            turned_away: Default::default(),
            summed_since_ms: 0,
        }
    }

    /// Counts what a shard says, and writes it.
    pub fn event(&mut self, now_ms: u64, event: &Event, callers: &Callers) {
        match event {
            Event::Connected { .. } => self.decided.admitted += 1,
            Event::Refused { reason, .. } => self.decided.denied.count(*reason),
            Event::Disconnected { by, reason, .. } => {
                self.gone[*by as usize] += 1;
                if matches!(by, EndedBy::Broker | EndedBy::Admin) {
                    self.ended.count(*reason);
                }
            }
            Event::TakenOver { .. } | Event::Revoked { .. } | Event::SessionEnded { .. } => {}
        }
        // Most of them are wanted by nobody.
        if !log::is_on(Area::Clients, Level::Warn) {
            return;
        }
        match event {
            Event::Connected { conn, client_id, version, session_present, keep_alive_s, user } => {
                if log::is_on(Area::Clients, Level::Info) {
                    let about = (client_id, user.as_ref());
                    let session = (*version, *session_present, *keep_alive_s);
                    self.connected(about, session, callers.get(key_of(*conn)));
                }
            }
            Event::Refused { conn, client_id, reason, what } => {
                self.refused_by(client_id, *reason, what, callers.get(key_of(*conn)));
            }
            Event::Disconnected { conn, client_id, by, reason, what } => {
                let caller = callers.get(key_of(*conn));
                self.disconnected(now_ms, client_id, (*by, *reason, what), caller);
            }
            Event::TakenOver { conn, by, client_id } => {
                let of = |conn: &ConnId| callers.get(key_of(*conn)).and_then(|it| it.address);
                self.taken_over(client_id, of(conn), of(by));
            }
            Event::SessionEnded { client_id, what } => {
                if log::is_on(Area::Clients, Level::Info) {
                    let client = client_id.as_bytes();
                    let fields = [
                        ("client_id", Value::Outside(client)),
                        self.of_shard(),
                        ("what", Value::word(what)),
                    ];
                    let message = format_args!(
                        "the session of client '{}' has ended: {what}",
                        Escaped(client)
                    );
                    log::say(Line::SessionEnded, Level::Info, &fields, message);
                }
            }
            Event::Revoked { client_id, filter } => {
                let (client, filter) = (client_id.as_bytes(), filter.as_bytes());
                let fields = [
                    ("client_id", Value::Outside(client)),
                    self.of_shard(),
                    ("filter", Value::Outside(filter)),
                ];
                let (client, filter) = (Escaped(client), Escaped(filter));
                let message =
                    format_args!("client '{client}' may not subscribe to '{filter}' any more");
                warn(Line::SubscriptionRevoked, &fields, message);
            }
        }
    }

    fn of_shard(&self) -> (&'static str, Value<'static>) {
        ("shard", Value::Number(u64::from(self.shard.0)))
    }

    fn connected(
        &self,
        (client_id, user): (&ClientId, Option<&Text>),
        (version, session_present, keep_alive_s): (Version, bool, u16),
        caller: Option<&Caller>,
    ) {
        let address = caller.and_then(|caller| caller.address);
        let version = match version {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5",
        };
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("version", Value::Word(version)),
            ("listener", self.listener(caller)),
            ("address", Value::shown(&address)),
            ("user", Value::outside(user)),
            ("session_present", Value::Flag(session_present)),
            ("keep_alive_s", Value::Number(u64::from(keep_alive_s))),
        ];
        let client = Escaped(client_id.as_bytes());
        let from = Part(" from ", address, "");
        let as_user = as_user(user);
        let session = if session_present { "its session goes on" } else { "a new session" };
        let message = format_args!(
            "client '{client}' connected{from}{as_user}: MQTT {version}, {session}, keep alive \
             {keep_alive_s} s"
        );
        log::say(Line::ClientConnected, Level::Info, &fields, message);
    }

    fn disconnected(
        &self,
        now_ms: u64,
        client_id: &ClientId,
        (by, reason, what): (EndedBy, ReasonCode, &str),
        caller: Option<&Caller>,
    ) {
        let is_told =
            matches!(reason, ReasonCode::ServerShuttingDown | ReasonCode::SessionTakenOver);
        let is_cut_off = matches!(by, EndedBy::Broker | EndedBy::Admin) && !what.is_empty();
        let level = if is_cut_off && !is_told { Level::Warn } else { Level::Info };
        if !log::is_on(Area::Clients, level) {
            return;
        }
        let name = Name(reason);
        let address = caller.and_then(|caller| caller.address);
        let volume = caller.and_then(|caller| caller.volume);
        let duration_ms = caller.map(|caller| now_ms.saturating_sub(caller.since_ms));
        // What the end of a socket means nobody can say.
        let reason_value =
            if by == EndedBy::Network { Value::Missing } else { Value::Shown(&name) };
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("origin", Value::Word(by.name())),
            ("reason", reason_value),
            ("what", Value::word(what)),
            ("listener", self.listener(caller)),
            ("address", Value::shown(&address)),
            ("duration_ms", Value::number(duration_ms)),
            ("bytes_received", Value::number(volume.map(|it| it.received))),
            ("bytes_sent", Value::number(volume.map(|it| it.sent))),
        ];
        let (client, code) = (Escaped(client_id.as_bytes()), Code(reason));
        let after = After { duration_ms, volume };
        let message = match by {
            _ if is_cut_off => format_args!("client '{client}' is cut off: {what} ({code}){after}"),
            EndedBy::Client => format_args!("client '{client}' has gone ({code}){after}"),
            EndedBy::Network => {
                format_args!("client '{client}' is lost: its connection ended{after}")
            }
            EndedBy::Broker | EndedBy::Admin => {
                format_args!("client '{client}' is disconnected ({code}){after}")
            }
        };
        log::say(Line::ClientDisconnected, level, &fields, message);
    }

    fn taken_over(
        &self,
        client_id: &ClientId,
        address: Option<SocketAddr>,
        new_address: Option<SocketAddr>,
    ) {
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("address", Value::shown(&address)),
            ("new_address", Value::shown(&new_address)),
        ];
        let client = Escaped(client_id.as_bytes());
        let (from, to) = (Part(" from ", new_address, ""), Part(" from ", address, ""));
        let message = format_args!(
            "client '{client}' has come again{from}, which ends its earlier connection{to}"
        );
        warn(Line::SessionTakenOver, &fields, message);
    }

    fn refused_by(
        &self,
        client_id: &ClientId,
        reason: ReasonCode,
        what: &str,
        caller: Option<&Caller>,
    ) {
        let level = if what == REFUSED_BY_AUTHENTICATORS { Level::Info } else { Level::Warn };
        let address = caller.and_then(|caller| caller.address);
        let name = Name(reason);
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("reason", Value::Shown(&name)),
            ("what", Value::word(what)),
            ("listener", self.listener(caller)),
            ("address", Value::shown(&address)),
        ];
        let (client, code) = (Escaped(client_id.as_bytes()), Code(reason));
        let message = format_args!("client '{client}' is refused: {what} ({code})");
        log::say(Line::ClientRefused, level, &fields, message);
    }

    fn listener(&self, caller: Option<&Caller>) -> Value<'_> {
        caller.map_or(Value::Missing, |caller| Value::word(self.names.listener(caller.listener)))
    }

    /// Counts a client that is held to a limit.
    pub const fn held(&mut self, limit: Limit) {
        self.limited.count(limit);
    }

    /// Limits that clients have met so far, beside those that the shard knows of.
    #[must_use]
    pub const fn limited(&self) -> Limited {
        self.limited
    }

    /// Connections that the broker or an operator has ended so far.
    #[must_use]
    pub const fn ended(&self) -> ByReason {
        self.ended
    }

    /// Connections that have ended so far, in the order of [`EndedBy::ALL`].
    #[must_use]
    pub const fn gone(&self) -> [u64; EndedBy::ALL.len()] {
        self.gone
    }

    /// What became of CONNECTs so far.
    #[must_use]
    pub const fn decided(&self) -> Decided {
        self.decided
    }

    /// Reports what was found out about a client; `listener` is the position of its own.
    pub fn authenticated(
        &self,
        asker: Asker<'_>,
        listener: u16,
        verdict: &Verdict,
        proof: Proof<'_>,
    ) {
        let (event, level, reason) = match verdict {
            Verdict::Continue { .. } => return,
            Verdict::Accept { .. } => (Line::AuthenticationAccepted, Level::Info, None),
            Verdict::Refuse { reason } => (Line::AuthenticationRefused, Level::Warn, Some(*reason)),
        };
        if !log::is_on(Area::Authentication, level) {
            return;
        }
        let why = match proof {
            Proof::Desk(finding) => finding.why.words(),
            Proof::Exchange(_) => "",
        };
        self.proved((event, level), asker, listener, (reason, why), Some(proof));
    }

    /// Says why a user may not come whom the shard refuses then, which is counted there.
    pub fn turned_down(&self, asker: Asker<'_>, listener: u16, denied: Denied) {
        let (event, why) = (Line::AuthenticationRefused, denied.what());
        self.proved((event, Level::Warn), asker, listener, (Some(denied.reason()), why), None);
    }

    fn proved(
        &self,
        (event, level): (Line, Level),
        asker: Asker<'_>,
        listener: u16,
        (reason, why): (Option<ReasonCode>, &str),
        proof: Option<Proof<'_>>,
    ) {
        let Asker { client_id, user, caller } = asker;
        let (authenticator, finding) = match proof {
            Some(Proof::Desk(finding)) => {
                let name = finding.by.map_or("", |by| self.names.authenticator(listener, by));
                (name, Some(finding))
            }
            Some(Proof::Exchange(method)) => (method, None),
            None => ("", None),
        };
        let address = caller.and_then(|caller| caller.address);
        let name = reason.map(Name);
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("user", Value::outside(user)),
            ("authenticator", Value::word(authenticator)),
            ("known", finding.map_or(Value::Missing, |it| Value::Flag(it.is_known))),
            ("latency_ms", Value::number(finding.map(|it| it.waited_ms))),
            ("listener", Value::word(self.names.listener(listener))),
            ("address", Value::shown(&address)),
            ("reason", Value::shown(&name)),
            ("why", Value::word(why)),
        ];
        let fields: Vec<_> =
            fields.into_iter().filter(|(key, _)| event.fields().contains(key)).collect();
        let (client, as_user) = (Escaped(client_id.as_bytes()), as_user(user));
        let by = Part(" by ", Some(authenticator).filter(|name| !name.is_empty()), "");
        let waited = Waited(finding);
        match reason {
            None => log::say(
                event,
                level,
                &fields,
                format_args!("client '{client}' is authenticated{as_user}{by}{waited}"),
            ),
            Some(reason) => {
                let (why, code) =
                    (if why.is_empty() { "not authenticated" } else { why }, Code(reason));
                let message = format_args!(
                    "client '{client}'{as_user} is refused{by}: {why} ({code}){waited}"
                );
                log::say(event, level, &fields, message)
            }
        };
    }

    /// Reports a client who may not come.
    pub fn denied(
        &mut self,
        client_id: &ClientId,
        denied: Denied,
        address: Option<SocketAddr>,
        listener: u16,
    ) {
        self.decided.denied.count(denied.reason());
        let caller = Caller { since_ms: 0, listener, address, volume: None };
        self.refused_by(client_id, denied.reason(), denied.what(), Some(&caller));
    }

    /// Reports that a shard has more to do, or less.
    pub fn level(&self, level: u8, why: &str) {
        let fields = [
            self.of_shard(),
            ("load_level", Value::Number(level.into())),
            ("why", Value::Word(why)),
        ];
        let message = format_args!("shard {}: load level {level}: {why}", self.shard.0);
        warn(Line::LoadLevelChanged, &fields, message);
    }

    /// Reports a client identifier that the broker has banned itself.
    pub fn banned_client(&self, client_id: &ClientId) {
        let client = Escaped(client_id.as_bytes());
        let fields = [("client_id", Value::Outside(client_id.as_bytes())), self.of_shard()];
        warn(Line::Banned, &fields, format_args!("client '{client}' is banned for a time"));
    }

    /// Reports addresses that the broker has banned itself.
    pub fn banned_addresses(&self, addresses: impl fmt::Display) {
        let fields = [self.of_shard(), ("address", Value::Shown(&addresses))];
        warn(Line::Banned, &fields, format_args!("address {addresses} is banned for a time"));
    }

    /// Reports a connection that ended before it had a client identifier.
    pub fn refused(&self, address: Option<IpAddr>, error: &DecodeError) {
        let name = Name(error.reason);
        let fields = [
            self.of_shard(),
            ("address", Value::shown(&address)),
            ("reason", Value::Shown(&name)),
            ("what", Value::Word(error.what)),
        ];
        warn(Line::ConnectionRefused, &fields, format_args!("a connection is refused: {error}"));
    }

    /// Reports a client whose certificate is no good.
    pub fn unproven(&self, peer: Option<SocketAddr>, error: &TlsError) {
        let address = peer.map(|peer| peer.ip());
        let fields =
            [self.of_shard(), ("address", Value::shown(&address)), ("what", Value::Shown(error))];
        let at = Part(" at ", address, "");
        warn(Line::HandshakeRefused, &fields, format_args!("a client{at} is refused: {error}"));
    }

    /// Reports that accepting failed, which it does again and again for as long as its reason lasts: the
    /// first of ten seconds has a line.
    pub fn accept_failed(&mut self, error: rustix::io::Errno) {
        self.accepts_failed += 1;
        if self.accepts_failed == 1 {
            let fields = [self.of_shard(), ("what", Value::Shown(&error))];
            let message = format_args!("connections wait because accepting failed: {error}");
            warn(Line::AcceptFailed, &fields, message);
        }
    }

    /// Reports that a connection could not be taken over from another shard.
    pub fn stranded(&self) {
        let message = format_args!(
            "a connection was lost on the way to the shard of its session, which has no \
             descriptor left for it; raise the limit of open files (ulimit -n)"
        );
        warn(Line::ConnectionLost, &[self.of_shard()], message);
    }

    /// Whether it is time to look at a message that somebody does not get.
    #[must_use]
    pub fn samples(&self, now_ms: u64) -> bool {
        log::is_on(Area::Messages, Level::Info) && now_ms >= self.sample_at_ms
    }

    /// Reports a message that a client does not get, or that it may not publish; `dropped_all` were dropped so far.
    pub fn dropped(&mut self, now_ms: u64, client_id: &ClientId, loss: &Loss, dropped_all: u64) {
        self.sample_at_ms = now_ms + SAMPLE_MS;
        let left_out = dropped_all.saturating_sub(self.dropped_told + 1);
        let (topic, is_whole) = loss.topic();
        let name = Name(loss.last);
        let count = loss.drops.all();
        let fields = [
            ("client_id", Value::Outside(client_id.as_bytes())),
            self.of_shard(),
            ("topic", if topic.is_empty() { Value::Missing } else { Value::Outside(topic) }),
            ("reason", Value::Shown(&name)),
            ("count", Value::Number(count)),
            ("left_out", Value::Number(left_out)),
        ];
        let (client, why) = (Escaped(client_id.as_bytes()), loss.last.words());
        let (topic, more) = (Escaped(topic), if is_whole { "" } else { "…" });
        let message = format_args!(
            "a message to '{topic}{more}' is dropped for client '{client}': {why}; {count} of this \
             client lately, {left_out} of all clients of the shard since the last such line"
        );
        if log::say(Line::MessageDropped, Level::Info, &fields, message) {
            self.dropped_told = dropped_all;
        }
    }

    /// Writes what has been summed up, from time to time.
    pub fn tick(&mut self, now_ms: u64, census: &Census, dropped: &Drops) {
        if now_ms - self.summed_since_ms < SUM_MS {
            return;
        }
        self.summed_since_ms = now_ms;
        let again = std::mem::take(&mut self.accepts_failed).saturating_sub(1);
        let count = |count: u64| ("count", Value::Number(count));
        let seconds = ("seconds", Value::Number(SUM_MS / 1000));
        if again > 0 {
            let fields = [self.of_shard(), count(again), seconds];
            let message = format_args!("accepting failed {again} times more in ten seconds");
            warn(Line::AcceptsFailed, &fields, message);
        }
        let lately = dropped.since(&self.dropped_before);
        if lately.all() > 0 {
            let reasons = reasons(&lately);
            let all = lately.all();
            let fields = [self.of_shard(), count(all), ("reasons", Value::Word(&reasons)), seconds];
            let message = format_args!("{all} messages were dropped in ten seconds: {reasons}");
            warn(Line::MessagesDropped, &fields, message);
            self.dropped_before = *dropped;
        }
        for (at, (stage, why)) in TURNED_AWAY.into_iter().enumerate() {
            let upto = census.stage(stage);
            let refused = upto - std::mem::replace(&mut self.turned_away[at], upto);
            if refused > 0 {
                let fields = [self.of_shard(), count(refused), ("why", Value::Word(why)), seconds];
                let message =
                    format_args!("{refused} connections were refused in ten seconds: {why}");
                warn(Line::ConnectionsRefused, &fields, message);
            }
        }
    }
}

fn warn(event: Line, fields: Fields<'_>, message: fmt::Arguments<'_>) {
    log::say(event, Level::Warn, fields, message);
}

const fn key_of(id: ConnId) -> ConnKey {
    ConnKey { index: id.index, generation: id.generation }
}

/// What was dropped, and why.
fn reasons(drops: &Drops) -> String {
    let reasons = DropReason::ALL.into_iter().filter(|reason| drops.of(*reason) > 0);
    let words = reasons.map(|reason| format!("{} {}", drops.of(reason), reason.words()));
    let words: Vec<_> = words.collect();
    words.join(", ")
}

/// A reason code as the specification writes it.
struct Code(ReasonCode);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x} {:?}", self.0 as u8, self.0)
    }
}

/// A part of a sentence that is left out if nobody knows what it says.
struct Part<'a, T>(&'a str, Option<T>, &'a str);

impl<T: fmt::Display> fmt::Display for Part<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(before, known, behind) = self;
        known.as_ref().map_or(Ok(()), |known| write!(f, "{before}{known}{behind}"))
    }
}

/// A part of a sentence about a user.
fn as_user(user: Option<&Text>) -> Part<'static, Escaped<'_>> {
    Part(" as '", user.map(|user| Escaped(user.as_bytes())), "'")
}

/// How long a connection was there and what it brought, as far as that is known.
struct After {
    duration_ms: Option<u64>,
    volume: Option<Volume>,
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ms) = self.duration_ms {
            write!(f, ", after {}.{:03} s", ms / 1000, ms % 1000)?;
        }
        if let Some(Volume { received, sent }) = self.volume {
            write!(f, ", {received} bytes received and {sent} sent")?;
        }
        Ok(())
    }
}

/// How long a client has waited for its authentication, if that is known.
struct Waited<'a>(Option<&'a Finding>);

impl fmt::Display for Waited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(finding) if finding.is_known => f.write_str(", as is known from before"),
            Some(finding) => write!(f, ", after {} ms", finding.waited_ms),
            None => Ok(()),
        }
    }
}
