//! CONNECT: who may have which session ([MQTT5-3.1], [MQTT5-3.2]).

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{
    ClientId, ConnAck, ConnAckProperties, Connect, DecodeError, Packet, Qos, ReasonCode,
    ReasonProperties, Text, Version,
};

use smallvec::SmallVec;

use crate::connection::{AuthExchange, AwaitedConnAck, Connection, PendingConnect, Violation};
use crate::event::{EndedBy, Event, Limit};
use crate::level_hash::HashKey;
use crate::outbox::{Asks, Credentials, Question};
use crate::sabotage::{self, Sabotage};
use crate::session::{PendingWill, Session};
use crate::shard::{Shard, Turn};
use crate::standing::{Identity, Standing};
use crate::table::Table;
use crate::timers::Tick;
use crate::{ConnId, Outbox, input::Origin};

/// Milliseconds that an authentication exchange may be silent.
const AUTH_SILENCE_MS_MAX: u32 = 10_000;

/// The answer to a first packet that cannot be decoded, if the client is owed one: in MQTT 5 a
/// CONNACK with the reason, before it only for an unknown protocol level ([MQTT5-3.1.2-2],
/// [MQTT311-3.1.2-2]). `version` is what the packet seemed to ask for.
#[must_use]
pub fn refusal(version: Version, error: &DecodeError) -> Option<Packet> {
    let owed = version.is_v5() || error.reason == ReasonCode::UnsupportedProtocolVersion;
    owed.then(|| {
        let properties = ConnAckProperties::default();
        Packet::ConnAck(Box::new(ConnAck {
            session_present: false,
            reason: error.reason,
            properties,
        }))
    })
}

impl Shard {
    pub(crate) fn on_connect(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        mut connect: Box<Connect>,
        origin: Origin,
    ) {
        connect.client_id = connect.client_id.to_owned_text();
        let assigned = connect.client_id.is_empty();
        if let Err(violation) = self.check_connect(turn, &connect, &origin) {
            return refuse(turn.out, conn, &connect, violation);
        }
        if assigned {
            connect.client_id = self.assign_client_id();
        }
        let method = connect.properties.authentication_method.as_ref().map(Text::to_owned_text);
        self.add_connection(turn, conn, &connect);
        let pending = Box::new(PendingConnect { connect, assigned, origin, asked: None });
        match method {
            Some(method) => self.begin_authentication(turn, conn, pending, method),
            None if asks(&pending.connect, &pending.origin) => self.ask_who(turn, conn, pending),
            None => self.accept(turn, conn, *pending, None, None),
        }
    }

    fn check_connect(
        &self,
        turn: &mut Turn<'_>,
        connect: &Connect,
        origin: &Origin,
    ) -> Result<(), Violation> {
        use ReasonCode as R;
        let limits = self.limits();
        let id_bytes = connect.client_id.len();
        if self.stopping {
            return Err(Violation::new(R::ServerShuttingDown, "the broker stops"));
        }
        if id_bytes == 0 {
            // [MQTT5-3.1.3-6]; [MQTT311-3.1.3-8]: without an identifier there is nothing to keep.
            let allowed = match connect.version {
                Version::V5 => true,
                Version::V3_1_1 => connect.clean_start,
                Version::V3_1 => false,
            };
            if !allowed {
                return Err(Violation::new(
                    R::ClientIdentifierNotValid,
                    "an empty client identifier",
                ));
            }
        }
        if id_bytes > usize::from(limits.client_id_bytes_maximum) {
            turn.out.limited.count(Limit::ClientIdsRefused);
            let what = "the client identifier is longer than client_id_bytes_maximum";
            return Err(Violation::new(R::ClientIdentifierNotValid, what));
        }
        let keep_alive_s = connect.keep_alive_s;
        if !connect.version.is_v5()
            && limits.keep_alive_max_s > 0
            && (keep_alive_s == 0 || keep_alive_s > limits.keep_alive_max_s)
        {
            turn.out.limited.count(Limit::KeepAlivesRefused);
            let what = "the keep alive is longer than keep_alive_max_s";
            return Err(Violation::new(R::QuotaExceeded, what));
        }
        if let Some(will) = &connect.will {
            if will.qos as u8 > limits.maximum_qos {
                return Err(Violation::new(R::QosNotSupported, "will QoS [MQTT5-3.2.2-12]"));
            }
            if will.retain && !limits.retain_available {
                return Err(Violation::new(R::RetainNotSupported, "will retain [MQTT5-3.2.2-13]"));
            }
            self.check_levels(&will.topic)?;
            self.check_publish_topic(&will.topic)?;
        }
        match &connect.properties.authentication_method {
            // [MQTT5-4.12.0-1]
            Some(method) if !self.config.auth_methods.iter().any(|m| m == method.as_str()) => {
                Err(Violation::new(R::BadAuthenticationMethod, "unknown authentication method"))
            }
            None if !origin.allow_anonymous && !origin.authenticates => Err(Violation::new(
                R::NotAuthorized,
                "the listener does not let in anonymous clients",
            )),
            _ => Ok(()),
        }
    }

    fn add_connection(&mut self, turn: &Turn<'_>, conn: ConnId, connect: &Connect) {
        let hash = self.key.hash(connect.client_id.as_bytes());
        let connection = Connection::new(conn, connect, hash, self.limits(), turn.now_ms);
        self.conns.insert(conn.index, connection);
    }

    /// An identifier that nobody has, homed here ([MQTT5-3.1.3-6], [MQTT5-3.2.2-16]).
    fn assign_client_id(&mut self) -> ClientId {
        loop {
            self.assigned += 1;
            let mut seed = [0u8; 16];
            seed[..8].copy_from_slice(&self.config.seed.to_le_bytes());
            seed[8..].copy_from_slice(&self.assigned.to_le_bytes());
            let (high, low) = (self.key.hash(&seed), self.key.hash(&seed[1..]));
            let id = format!("petrel-{high:016x}{:08x}", low as u32);
            let home = self.config.slots.home_of(id.as_bytes());
            if let Ok(id) = Text::try_from(id.as_str())
                && home == self.config.index
                && self.find_session(&id).is_none()
            {
                return id;
            }
        }
    }

    /// The position of the session of a client identifier.
    pub(crate) fn find_session(&self, client_id: &ClientId) -> Option<u32> {
        let id = client_id.as_bytes();
        self.by_client.find(self.key.hash(id), |index| {
            self.sessions.get(index).is_some_and(|session| session.client_id.as_bytes() == id)
        })
    }

    /// Accepts a CONNECT: takes the session over or makes one, answers with CONNACK, and sends
    /// what the session has waiting. `data` ends an authentication exchange.
    pub(crate) fn accept(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        pending: PendingConnect,
        data: Option<bytes::Bytes>,
        identity: Option<Arc<Identity>>,
    ) {
        let PendingConnect { mut connect, assigned, origin, asked } = pending;
        let early = asked.unwrap_or_default();
        let mut earlier = SmallVec::new();
        if !self.parked.is_empty() {
            let hash = self.key.hash(connect.client_id.as_bytes());
            earlier = self.parked.before(hash, conn);
            self.parked.remove(hash, conn);
        }
        let is_on = self.config.access.is_on;
        let standing = is_on.then(|| Box::new(Standing::new(identity, &origin)));
        if let Err(violation) = self.admit_client(&connect, standing.as_deref()) {
            self.remove_connection(conn);
            return refuse(turn.out, conn, &connect, violation);
        }
        if let Some(user) = standing.as_deref().and_then(Standing::user) {
            let user = user.clone();
            self.refuse_earlier(turn, &earlier, &connect.client_id, &user);
        }
        if sabotage::on(Sabotage::BytesPerConnection) {
            std::mem::forget(std::hint::black_box(Box::new([0u8; 64])));
        }
        let since = self.keep.begin();
        let session_present =
            self.take_session(turn, conn, &connect) && !sabotage::on(Sabotage::SessionPresentUnset);
        // The session that was discarded must not come back, and a will is a promise too.
        let promises = self.keep.position() > since || connect.will.is_some();
        let index = self.attach_session(turn, conn, &mut connect, standing);
        let auth_method = self.connection_mut(conn).and_then(|connection| {
            connection.session = index;
            connection.auth_mut().map(|auth| {
                auth.running = false;
                auth.method.clone()
            })
        });
        let client_id = connect.client_id.clone();
        let expiry_s = self.sessions.get(index).map_or(0, |session| session.expiry_interval_s);
        let mut properties = self.connack_properties(&connect, expiry_s, assigned);
        properties.authentication_method = auth_method;
        properties.authentication_data = data;
        let reason = ReasonCode::Success;
        let connack = ConnAck { session_present, reason, properties };
        let mut packet = Packet::ConnAck(Box::new(connack));
        let bytes_max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        fit(&mut packet, connect.version, bytes_max);
        self.arm_silence(turn, conn);
        if promises && self.await_kept(turn, conn) {
            let awaited = AwaitedConnAck { packet, client_id, session_present, early };
            if let Some(connection) = self.connection_mut(conn) {
                connection.extras_mut().awaited = Some(Box::new(awaited));
            }
            return;
        }
        self.send_connack(turn, conn, &packet, client_id, session_present);
        self.handle_early(turn, conn, early);
    }

    fn send_connack(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: &Packet,
        client_id: ClientId,
        session_present: bool,
    ) {
        let Some(connection) = self.connection(conn) else { return };
        let (version, index, keep_alive_s) =
            (connection.version, connection.session, connection.keep_alive_s());
        self.send(turn, conn, packet);
        let standing = self.sessions.get(index).and_then(|session| session.standing.as_deref());
        let user = standing.and_then(Standing::user).cloned();
        let event =
            Event::Connected { conn, client_id, version, session_present, keep_alive_s, user };
        turn.out.events.push(event);
        self.tell_groups(turn, index);
        self.drain(turn, index);
    }

    /// What a CONNACK promises is kept: it leaves, and what the client has sent meanwhile is handled.
    pub(crate) fn finish_connect(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(awaited) = connection.take_awaited() else { return };
        let AwaitedConnAck { packet, client_id, session_present, early } = *awaited;
        self.send_connack(turn, conn, &packet, client_id, session_present);
        self.handle_early(turn, conn, early);
    }

    /// Handles what a client has sent before its CONNACK.
    fn handle_early(&mut self, turn: &mut Turn<'_>, conn: ConnId, early: Vec<Packet>) {
        for packet in early {
            if self.connection(conn).is_none() {
                return;
            }
            if let Err(violation) = self.on_packet(turn, conn, packet) {
                self.violate(turn, conn, violation);
            }
        }
    }

    /// Closes the connection that the client still has ([MQTT5-3.1.4-3], [MQTT311-3.1.4-2]) and
    /// discards its session if a clean start was asked for ([MQTT5-3.1.2-4], [MQTT5-3.1.2-5]).
    /// Returns Session Present ([MQTT5-3.2.2-2], [MQTT5-3.2.2-3]).
    fn take_session(&mut self, turn: &mut Turn<'_>, conn: ConnId, connect: &Connect) -> bool {
        let Some(index) = self.find_session(&connect.client_id) else { return false };
        if let Some(old) = self.conn_of(index) {
            let why = Violation::new(ReasonCode::SessionTakenOver, "another connection took over");
            let client_id = connect.client_id.clone();
            turn.out.events.push(Event::TakenOver { conn: old, by: conn, client_id });
            // A will with a delay is cancelled by this very connection if the session goes on
            // ([MQTT5-3.1.3-9]); one without a delay, or whose session ends, is published.
            self.violate(turn, old, why);
        }
        // It may have ended with its connection, when its expiry interval was 0.
        let Some(index) = self.find_session(&connect.client_id) else { return false };
        if connect.clean_start {
            self.end_session(turn, index);
            return false;
        }
        true
    }

    /// Finds or makes the session and ties it to the connection. Returns its position.
    fn attach_session(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        connect: &mut Connect,
        standing: Option<Box<Standing>>,
    ) -> u32 {
        let index = self.find_session(&connect.client_id).unwrap_or_else(|| {
            self.generation = self.generation.wrapping_add(1);
            let session = Session::new(&connect.client_id, self.generation);
            let index = self.sessions.insert(session);
            let (key, sessions) = (&self.key, &self.sessions);
            let hash = key.hash(connect.client_id.as_bytes());
            self.by_client.insert(hash, index, |other| client_hash(key, sessions, other));
            index
        });
        let expiry_max = self.limits().session_expiry_max_s;
        let expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_interval_s.unwrap_or(0),
            // [MQTT311-3.1.2-4], [MQTT311-3.1.2-6]
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        // What was routed before the client came is not for its new connection, or waits with the rest.
        self.give_due(turn, index);
        let (keep_alive_s, _) = self.effective_keep_alive_s(connect);
        if keep_alive_s != connect.keep_alive_s {
            turn.out.limited.count(Limit::KeepAlivesChanged);
        }
        if expiry_s > expiry_max {
            turn.out.limited.count(Limit::SessionExpiriesCapped);
        }
        if let Some(connection) = self.connection_mut(conn) {
            connection.silence_ms_max = u32::from(keep_alive_s) * 1500;
            connection.heard(turn.now_ms);
        }
        if let Some(session) = self.sessions.get_mut(index) {
            session.conn = conn.index;
            if let Some(mut standing) = standing {
                // What waits for another user may be what this one must not get.
                standing.is_doubtful = session
                    .standing
                    .as_deref()
                    .is_some_and(|old| old.is_doubtful || old.user() != standing.user());
                session.standing = Some(standing);
            }
            session.expiry_interval_s = expiry_s.min(expiry_max);
            session.expires_at = Tick::NEVER;
            if let Some(flow) = session.flow.as_deref_mut() {
                flow.counted = 0;
                for incoming in &mut flow.incoming {
                    incoming.counted = false;
                }
            }
            let will = connect
                .will
                .take()
                .map(|will| Box::new(PendingWill { will: own_will(will), fires_at_ms: u64::MAX }));
            let keep_will = sabotage::on(Sabotage::WillNotCancelled) && session.will().is_some();
            if (will.is_some() || session.rare.is_some()) && !keep_will {
                // [MQTT5-3.1.3-9]: a will still waiting for its delay is not sent.
                session.rare().will = will;
            }
        }
        self.keep_session(turn, index);
        // Another user may have it now, or the rules may have changed.
        self.review(turn, index);
        self.arm_session(turn, index);
        index
    }

    /// The keep alive of a connection, and whether it is not what the client has asked for.
    fn effective_keep_alive_s(&self, connect: &Connect) -> (u16, bool) {
        let limits = self.limits();
        let asked = connect.keep_alive_s;
        if !connect.version.is_v5() {
            // Before MQTT 5 a client cannot be told, so it is not held to another value.
            return (asked, false);
        }
        let kept = match (limits.server_keep_alive_s, limits.keep_alive_max_s) {
            (0, 0) if asked == 0 => 0,
            (0, 0) => asked.max(limits.keep_alive_min_s),
            (0, max) if asked == 0 => max,
            (0, max) => asked.max(limits.keep_alive_min_s).min(max),
            (imposed, _) => imposed,
        };
        (kept, kept != asked || limits.server_keep_alive_s > 0)
    }

    fn connack_properties(
        &self,
        connect: &Connect,
        expiry_s: u32,
        assigned: bool,
    ) -> ConnAckProperties {
        let limits = self.limits();
        let asked = connect.properties.session_expiry_interval_s.unwrap_or(0);
        let (keep_alive_s, is_told) = self.effective_keep_alive_s(connect);
        let maximum_qos = Qos::from_u8(limits.maximum_qos).filter(|&qos| qos != Qos::ExactlyOnce);
        ConnAckProperties {
            session_expiry_interval_s: (expiry_s != asked).then_some(expiry_s),
            receive_maximum: (limits.receive_maximum != u16::MAX).then_some(limits.receive_maximum),
            maximum_qos,
            retain_available: (!limits.retain_available).then_some(false),
            maximum_packet_size: Some(limits.maximum_packet_size_bytes),
            assigned_client_id: assigned.then(|| connect.client_id.clone()),
            topic_alias_maximum: (limits.topic_alias_maximum > 0)
                .then_some(limits.topic_alias_maximum),
            server_keep_alive_s: is_told.then_some(keep_alive_s),
            response_information: response_information(connect),
            ..ConnAckProperties::default()
        }
    }

    /// Refuses a CONNECT that was waiting for its authentication.
    pub(crate) fn refuse_pending(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        violation: Violation,
    ) {
        if self.watching.is_some() {
            self.watchers_of_conn(conn);
        }
        let Some(connection) = self.connection_mut(conn) else { return };
        let hash = connection.client_hash;
        if let Some(pending) = connection.take_pending() {
            self.parked.remove(hash, conn);
            self.remove_connection(conn);
            refuse(turn.out, conn, &pending.connect, violation);
        }
    }

    /// Refuses the CONNECTs of a client that came before the one that is accepted, and still wait: or they would
    /// take over from it when their answers come ([MQTT5-3.1.4-3]). Those that say to be of another user go on
    /// waiting, so that nobody keeps others out by their client identifier.
    fn refuse_earlier(
        &mut self,
        turn: &mut Turn<'_>,
        earlier: &[ConnId],
        client_id: &ClientId,
        user: &Text,
    ) {
        for &earlier in earlier {
            let is_of = |pending: &PendingConnect| {
                let says = pending.connect.username.as_ref().filter(|says| !says.is_empty());
                pending.connect.client_id == *client_id && says.is_none_or(|says| says == user)
            };
            let extras = self.connection(earlier).and_then(Connection::extras);
            if extras.and_then(|extras| extras.pending.as_deref()).is_some_and(is_of) {
                let what = "a later connection of the client came in first";
                self.violate(turn, earlier, Violation::new(ReasonCode::ServerBusy, what));
            }
        }
    }

    /// Has a CONNECT wait, in memory of its own; false if too much waits already, and it is refused.
    fn park(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        mut pending: Box<PendingConnect>,
    ) -> bool {
        if self.parked.is_full() {
            self.remove_connection(conn);
            let what = "too much waits to be authenticated";
            let violation = Violation::new(ReasonCode::ServerBusy, what);
            refuse(turn.out, conn, &pending.connect, violation);
            return false;
        }
        let Some(connection) = self.connection_mut(conn) else { return false };
        let connect = &mut *pending.connect;
        // What has been asked about need not be kept, and what is kept pins no read buffer.
        connect.username = connect.username.as_ref().map(Text::to_owned_text);
        let said = connect.password.take().map_or(0, |password| password.len())
            + connect.username.as_ref().map_or(0, |user| 2 * user.len())
            + pending.origin.certificate.as_ref().map_or(0, |name| 2 * name.len());
        connect.properties.user_properties = Default::default();
        connect.properties.authentication_data = None;
        connect.properties.authentication_method = None;
        connect.will = connect.will.take().map(own_will);
        let will = connect.will.as_deref().map_or(0, |will| {
            will.topic.as_bytes().len() + will.payload.len() + will.properties.message.len()
        });
        let bytes = size_of::<PendingConnect>() + size_of::<Connect>() + connect.client_id.len();
        // A packet has at most 256 MiB.
        let bytes = (bytes + said + will) as u32;
        connection.extras_mut().pending = Some(pending);
        let hash = connection.client_hash;
        self.parked.push(hash, conn, bytes);
        true
    }

    /// Asks who a client is; its CONNECT waits for the answer.
    fn ask_who(&mut self, turn: &mut Turn<'_>, conn: ConnId, mut pending: Box<PendingConnect>) {
        let PendingConnect { connect, origin, asked, .. } = &mut *pending;
        *asked = Some(Vec::new());
        let credentials = Box::new(Credentials {
            origin: origin.clone(),
            user_name: connect.username.as_ref().map(Text::to_owned_text),
            password: connect.password.as_deref().map(Bytes::copy_from_slice),
        });
        let (client_id, asks) = (connect.client_id.clone(), Asks::Credentials(credentials));
        if !self.park(turn, conn, pending) {
            return;
        }
        turn.out.questions.push(Question { conn, client_id, asks });
    }

    fn begin_authentication(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        pending: Box<PendingConnect>,
        method: Text,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let data = pending.connect.properties.authentication_data.clone();
        connection.silence_ms_max = AUTH_SILENCE_MS_MAX;
        let listener = pending.origin.listener;
        let auth = Some(AuthExchange { method, listener, asked: false, running: true });
        connection.extras_mut().auth = auth;
        if !self.park(turn, conn, pending) {
            return;
        }
        self.arm_silence(turn, conn);
        self.ask(turn, conn, data, true);
    }

    /// The connection is over: its session goes offline, or ends. The transport may be gone.
    pub(crate) fn end_connection(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        by: EndedBy,
        reason: ReasonCode,
        what: &'static str,
    ) {
        if self.connection(conn).is_none() {
            return;
        }
        if self.watching.is_some() {
            // Nobody could say it afterwards.
            self.watchers_of_conn(conn);
        }
        let Some(connection) = self.remove_connection(conn).filter(Connection::has_session) else {
            return;
        };
        let index = connection.session;
        if let Some(session) = self.sessions.get(index) {
            let client_id = session.client_id();
            turn.out.events.push(Event::Disconnected { conn, client_id, by, reason, what });
        }
        self.session_offline(turn, index);
    }
}

/// Whether somebody has to say who a client is: it or its certificate says so, or it may not come in without.
const fn asks(connect: &Connect, origin: &Origin) -> bool {
    let says =
        connect.username.is_some() || connect.password.is_some() || origin.certificate.is_some();
    origin.authenticates && (says || !origin.allow_anonymous)
}

/// The keyed hash of the client identifier of a session.
pub(crate) fn client_hash(key: &HashKey, sessions: &Table<Session>, index: u32) -> u64 {
    sessions.get(index).map_or(0, |session| key.hash(session.client_id.as_bytes()))
}

/// Answers a CONNECT with a refusal that CONNACK may carry, and closes ([MQTT5-3.1.4-1],
/// [MQTT5-3.2.2-6], [MQTT5-3.2.2-8]).
fn refuse(out: &mut Outbox, conn: ConnId, connect: &Connect, violation: Violation) {
    let mut properties = ConnAckProperties::default();
    if connect.properties.request_problem_information.unwrap_or(true) {
        properties.reason_string = Text::try_from(violation.what).ok();
    }
    let reason = match violation.reason {
        reason if reason.is_of_connack() => reason,
        ReasonCode::ServerShuttingDown => ReasonCode::ServerUnavailable,
        _ => ReasonCode::UnspecifiedError,
    };
    let connack = ConnAck { session_present: false, reason, properties };
    let mut packet = Packet::ConnAck(Box::new(connack));
    let bytes_max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
    fit(&mut packet, connect.version, bytes_max);
    // A CONNACK that does not fit even so is left out; the close says enough.
    let _ = out.packet(conn, connect.version, &packet, bytes_max as usize);
    out.closes.push(conn);
    let (client_id, what) = (connect.client_id.clone(), violation.what);
    out.events.push(Event::Refused { conn, client_id, reason, what });
}

/// Leaves out what is optional if the packet would be larger than the client accepts
/// ([MQTT5-3.2.2-19], [MQTT5-3.14.2-3], 3.1.2.11.6).
pub(crate) fn fit(packet: &mut Packet, version: Version, bytes_max: u32) {
    let fits = |packet: &Packet| {
        petrel_proto::encoded_len(packet, version).is_some_and(|len| len <= bytes_max as usize)
    };
    if fits(packet) {
        return;
    }
    match packet {
        Packet::ConnAck(connack) => {
            connack.properties.reason_string = None;
            connack.properties.response_information = None;
        }
        Packet::Disconnect(disconnect) => disconnect.properties = ReasonProperties::EMPTY,
        _ => {}
    }
}

/// A topic prefix that is this client's own, if it asked for one ([MQTT5-3.1.2-28]) and its
/// identifier can be part of a topic.
fn response_information(connect: &Connect) -> Option<Text> {
    let asked = connect.properties.request_response_information == Some(true);
    let id = connect.client_id.as_str();
    if !asked || id.is_empty() || id.contains(['+', '#']) {
        return None;
    }
    Text::try_from(format!("response/{id}").as_str()).ok()
}

/// A copy of a will that pins no read buffer.
fn own_will(mut will: Box<petrel_proto::Will>) -> Box<petrel_proto::Will> {
    let message = crate::message::will_message(&will, 0, 0).into_owned();
    will.topic = message.topic;
    will.payload = message.payload;
    will.properties.message = message.properties;
    will
}
