//! The state machine itself: one entry, one dispatch.

use std::sync::Arc;

use petrel_proto::{ClientId, ConnAck, ConnAckProperties, Disconnect, Packet, ReasonCode};

use crate::clients::ByClient;
use crate::connection::{Connection, PendingConnect, Violation};
use crate::event::EndedBy;
use crate::fanout::Fanouts;
use crate::flow::Flows;
use crate::interest::{Interest, InterestWriter};
use crate::keep::Keep;
use crate::level_hash::HashKey;
use crate::matcher::Matcher;
use crate::outbox::Asked;
use crate::parked::Parked;
use crate::places::Places;
use crate::pool::Pool;
use crate::publish::Publisher;
use crate::receivers::Receivers;
use crate::restore::Restoring;
use crate::retained::Retained;
use crate::route::RouteScratch;
use crate::session::Session;
use crate::share::Groups;
use crate::table::Table;
use crate::timers::{TIMER_SLOTS, TIMER_TICK_MS, Timer};
use crate::watch::Watching;
use crate::wheel::Wheel;
use crate::{
    Banned, ConnId, Input, Limits, Now, Outbox, Passed, SessionRef, ShardConfig, ShardIndex,
};

/// Packets of a client that are kept until its CONNACK may leave.
const EARLY_PACKETS_MAX: usize = 1_024;

/// One core's share of the broker.
///
/// It owns the sessions whose client identifiers are homed on it, the retained messages of the
/// topics and the shared groups that are. Invariants: a session has at most one connection; every
/// subscription is in the matcher and, before its SUBACK is in the outbox, in the interest table;
/// a message enters the process-wide order of its publisher at one point, [`crate::route`].
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) key: HashKey,
    /// By [`ConnId::index`].
    pub(crate) conns: Places<Connection>,
    pub(crate) sessions: Table<Session>,
    /// Positions in `sessions`, by client identifier.
    pub(crate) by_client: ByClient,
    pub(crate) flows: Flows,
    pub(crate) pool: Pool,
    /// When memory that is not used is given back next.
    pub(crate) rests_at_ms: u64,
    pub(crate) matcher: Matcher,
    /// By [`crate::matcher::FilterId`].
    pub(crate) receivers: Places<Receivers>,
    pub(crate) interest: Arc<Interest>,
    pub(crate) interest_writer: InterestWriter,
    pub(crate) groups: Groups,
    pub(crate) retained: Retained,
    pub(crate) wheel: Wheel<Timer>,
    /// What the wheel has yielded and nobody has looked at yet.
    pub(crate) due: std::vec::IntoIter<Timer>,
    /// Something that was due has been left for the next [`Input::Timer`].
    pub(crate) overdue: bool,
    pub(crate) scratch: RouteScratch,
    pub(crate) fanouts: Fanouts,
    /// Sessions whose wills are to be published before the broker stops.
    pub(crate) last_wills: std::vec::IntoIter<u32>,
    pub(crate) assigned: u64,
    /// Sessions ever made, so that no reference to one finds another in its place.
    pub(crate) generation: u32,
    /// Queries for retained messages, counted, so that no answer meets another's question.
    pub(crate) queries: u32,
    pub(crate) stopping: bool,
    pub(crate) parked: Parked,
    /// How often the rules have changed.
    pub(crate) rules_epoch: u32,
    /// The session that is looked at next since they have; `u32::MAX` if all have been.
    /// Bytes that may wait for a socket before QoS 0 messages to it are dropped.
    pub(crate) at_most_once_bytes_max: u32,
    pub(crate) reviewed: u32,
    /// Who is looked for among the sessions meanwhile.
    pub(crate) banned: Vec<Banned>,
    /// See [`Input::Refuse`].
    pub(crate) refuses: bool,
    pub(crate) full: bool,
    /// Somebody watches, and what is handled is not being watched already.
    pub(crate) is_watched: bool,
    pub(crate) watching: Option<Box<Watching>>,
    pub(crate) keep: Keep,
    pub(crate) restoring: Restoring,
}

/// Has a packet wait for the CONNACK.
fn keep_early(early: &mut Vec<Packet>, packet: Packet) -> Result<(), Violation> {
    if early.len() == EARLY_PACKETS_MAX {
        let what = "too many packets before CONNACK";
        return Err(Violation::new(ReasonCode::ReceiveMaximumExceeded, what));
    }
    early.push(packet);
    Ok(())
}

/// Writes that last wills cause in one input before the others wait for the next.
pub(crate) const LAST_WILLS_WRITES_MAX: usize = 4096;

/// The time and the outbox of the input being handled.
pub(crate) struct Turn<'a> {
    pub(crate) now_ms: u64,
    pub(crate) out: &'a mut Outbox,
}

impl Shard {
    /// A shard with no sessions. `interest` is shared by all shards of the process and was made
    /// with the same hash key.
    #[must_use]
    pub fn new(config: ShardConfig, interest: Arc<Interest>) -> Self {
        let key = HashKey::new(config.hash_key);
        let index = config.index.0;
        let at_most_once_bytes_max = config.limits.outgoing_bytes_maximum;
        Self {
            key,
            conns: Places::default(),
            sessions: Table::default(),
            by_client: ByClient::default(),
            flows: Flows::default(),
            pool: Pool::default(),
            rests_at_ms: 0,
            matcher: Matcher::new(key),
            receivers: Places::default(),
            interest_writer: InterestWriter::new(Arc::clone(&interest), index),
            interest,
            groups: Groups::default(),
            retained: Retained::default(),
            wheel: Wheel::new(0, TIMER_TICK_MS, TIMER_SLOTS),
            due: Vec::new().into_iter(),
            overdue: false,
            scratch: RouteScratch::default(),
            fanouts: Fanouts::default(),
            last_wills: Vec::new().into_iter(),
            assigned: 0,
            generation: 0,
            queries: 0,
            stopping: false,
            parked: Parked::default(),
            rules_epoch: 0,
            at_most_once_bytes_max,
            reviewed: u32::MAX,
            banned: Vec::new(),
            refuses: false,
            full: false,
            is_watched: false,
            watching: None,
            keep: Keep::new(config.keeping, config.index, config.slots.shards()),
            restoring: Restoring::default(),
            config,
        }
    }

    /// The number of sessions, with a connection or without.
    #[must_use]
    pub const fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The retained messages whose topics are homed here, and the bytes of their topics, payloads and
    /// properties.
    #[must_use]
    pub const fn retained(&self) -> (usize, u64) {
        (self.retained.len(), self.retained.bytes())
    }

    /// Handles one input and appends what is to be done about it to `out`.
    ///
    /// Inputs for a connection that the shard has closed, or that it never had, do nothing.
    /// `now` never goes back.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outbox) {
        if self.is_watched {
            return self.handle_watched(now, input, out);
        }
        let turn = &mut Turn { now_ms: now.mono_ms, out };
        match input {
            Input::Connect { conn, connect, origin } => {
                self.on_connect(turn, conn, connect, origin)
            }
            Input::Packet { conn, packet } => {
                if let Some(connection) = self.connection_mut(conn) {
                    connection.heard(turn.now_ms);
                    let done = match packet {
                        Packet::Publish(publish) if connection.is_live() => {
                            let from = Publisher::of(conn, connection);
                            self.on_publish(turn, &from, publish)
                        }
                        packet => self.on_packet(turn, conn, packet),
                    };
                    if let Err(violation) = done {
                        self.violate(turn, conn, violation);
                    }
                }
            }
            Input::Violation { conn, error } => {
                self.violate(turn, conn, Violation::new(error.reason, error.what));
            }
            Input::Closed { conn } => self.on_closed(turn, conn),
            Input::Flushed { conn, pending_bytes } => self.on_flushed(turn, conn, pending_bytes),
            Input::Peer { from, message } => self.on_peer(turn, from, message),
            Input::Verdict { conn, verdict } => self.on_verdict(turn, conn, verdict),
            Input::Publish(publish) => {
                self.on_own_publish(turn, *publish);
            }
            Input::Kept { upto } => self.on_kept(turn, upto),
            Input::Loaded(loaded) => self.on_loaded(turn, *loaded),
            Input::Counted(counted) => self.on_counted(turn, *counted),
            Input::Timer => self.on_timer(turn),
            Input::Rules(rules) => self.set_rules(rules),
            Input::Watch(watched) => self.set_watched(watched),
            Input::Refuse(refuse) => self.refuses = refuse,
            Input::Full(full) => self.full = full,
            Input::Shed(sheds) => self.set_shed(sheds),
            Input::Limits(limits) => {
                let sheds = self.at_most_once_bytes_max < self.limits().outgoing_bytes_maximum;
                self.config.limits = *limits;
                self.set_shed(sheds);
            }
            Input::LastWills => self.on_last_wills(turn),
            Input::Shutdown => self.on_shutdown(turn),
            Input::Ban(banned) => self.on_ban(turn, banned),
            Input::SendAway { conn, server_reference } => {
                self.on_send_away(turn, conn, server_reference);
            }
            Input::EndSession(client_id) => self.on_end_session(turn, &client_id),
            Input::Kick { conn, reason } => {
                let what = match reason {
                    ReasonCode::MessageRateTooHigh => "it publishes more than its rate",
                    ReasonCode::QuotaExceeded => {
                        "what it published while there was no memory is to be sent again"
                    }
                    _ => "ended by the operator",
                };
                let by = match reason {
                    ReasonCode::MessageRateTooHigh | ReasonCode::QuotaExceeded => EndedBy::Broker,
                    _ => EndedBy::Admin,
                };
                self.end_by(turn, conn, by, Violation::new(reason, what));
            }
        }
    }

    /// Whether somebody with this client identifier is connected here.
    #[must_use]
    pub fn connection_of(&self, client_id: &ClientId) -> Option<ConnId> {
        self.conn_of(self.find_session(client_id)?)
    }

    /// Who a connection is of, of which somebody is asked who that is.
    #[must_use]
    pub fn client_of(&self, conn: ConnId) -> Option<Asked> {
        let connection = self.connection(conn)?;
        let extras = connection.extras()?;
        if let Some(PendingConnect { connect, origin, .. }) = extras.pending.as_deref() {
            let (client_id, user) = (connect.client_id.clone(), connect.username.clone());
            return Some(Asked { client_id, user, listener: origin.listener });
        }
        // It proves it once more.
        let listener = extras.auth.as_ref()?.listener;
        let client_id = self.sessions.get(connection.session)?.client_id();
        Some(Asked { client_id, user: None, listener })
    }

    /// A message that was lost since this was asked last, the last one, and whose it was: of those that sessions have
    /// lost and of those that they have published.
    pub fn last_losses(&self, out: &mut Outbox) -> [Option<(ClientId, crate::Loss)>; 2] {
        [out.losses.take_last(), out.refusals.take_last()].map(|loss| {
            let loss = loss?;
            Some((self.sessions.get(loss.session())?.client_id(), loss))
        })
    }

    fn set_shed(&mut self, sheds: bool) {
        let most = self.config.limits.outgoing_bytes_maximum;
        self.at_most_once_bytes_max = if sheds { most / 16 } else { most };
    }

    /// Whether somebody with this client identifier has a session here.
    #[must_use]
    pub fn has_session(&self, client_id: &ClientId) -> bool {
        self.find_session(client_id).is_some()
    }

    /// Handles a message that another shard has passed on, as [`Input::Peer`] would; nothing of it is kept.
    pub fn handle_passed(
        &mut self,
        now: Now,
        from: ShardIndex,
        message: &Passed<'_>,
        out: &mut Outbox,
    ) {
        if self.is_watched {
            return self.handle_passed_watched(now, from, message, out);
        }
        self.on_passed(&mut Turn { now_ms: now.mono_ms, out }, from, message);
    }

    pub(crate) fn on_packet(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        packet: Packet,
    ) -> Result<(), Violation> {
        let live = self.connection(conn).is_some_and(Connection::is_live);
        if !live && let Some(awaited) = self.connection_mut(conn).and_then(Connection::awaited_mut)
        {
            return keep_early(&mut awaited.early, packet);
        }
        let waits = !live && !matches!(packet, Packet::Disconnect(_));
        if waits && let Some(asked) = self.connection_mut(conn).and_then(Connection::asked_mut) {
            return keep_early(asked, packet);
        }
        match packet {
            Packet::Auth(auth) => self.on_auth(turn, conn, *auth),
            Packet::Disconnect(disconnect) => self.on_disconnect(turn, conn, &disconnect),
            _ if !live => Err(Violation::protocol(
                "only AUTH and DISCONNECT may precede CONNACK here [MQTT5-3.1.2-30]",
            )),
            Packet::Publish(publish) => {
                let Some(connection) = self.connection(conn) else { return Ok(()) };
                let from = Publisher::of(conn, connection);
                self.on_publish(turn, &from, publish)
            }
            Packet::PubAck(ack) => self.on_puback(turn, conn, &ack),
            Packet::PubRec(ack) => self.on_pubrec(turn, conn, &ack),
            Packet::PubRel(ack) => self.on_pubrel(turn, conn, &ack),
            Packet::PubComp(ack) => self.on_pubcomp(turn, conn, &ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(turn, conn, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(turn, conn, &unsubscribe),
            Packet::PingReq => {
                self.send(turn, conn, &Packet::PingResp);
                Ok(())
            }
            Packet::Connect(_) => Err(Violation::protocol("a second CONNECT [MQTT5-3.1.0-2]")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Violation::protocol("a packet that only a server sends"))
            }
        }
    }

    /// The connection, if it is the one that the identifier means.
    pub(crate) fn connection(&self, conn: ConnId) -> Option<&Connection> {
        self.conns.get(conn.index).filter(|c| c.generation == conn.generation)
    }

    /// The connection, if it is the one that the identifier means.
    pub(crate) fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.conns.get_mut(conn.index).filter(|c| c.generation == conn.generation)
    }

    /// Forgets a connection.
    pub(crate) fn remove_connection(&mut self, conn: ConnId) -> Option<Connection> {
        let connection = self.conns.remove(conn.index)?;
        if !connection.has_session() {
            self.parked.remove(connection.client_hash, conn);
        }
        Some(connection)
    }

    /// The position of the session behind a connection that has sent its CONNACK.
    pub(crate) fn session_of(&self, conn: ConnId) -> Option<u32> {
        self.connection(conn).filter(|c| c.is_live()).map(|c| c.session)
    }

    /// The connection of a session, if it has one.
    pub(crate) fn conn_of(&self, session: u32) -> Option<ConnId> {
        let session = self.sessions.get(session).filter(|s| s.is_online())?;
        let generation = self.conns.get(session.conn)?.generation;
        Some(ConnId { index: session.conn, generation })
    }

    /// Gives back what a session no longer needs.
    pub(crate) fn trim(&mut self, index: u32) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.trim_rare();
        }
    }

    /// Takes back the flow of a session if nothing is under way.
    pub(crate) fn settle(&mut self, index: u32) {
        if let Some(session) = self.sessions.get_mut(index) {
            self.flows.settle(&mut session.flow);
        }
    }

    /// A number for the next question to a peer, so that a late answer is not taken for another.
    pub(crate) fn next_query(&mut self) -> u32 {
        self.queries = self.queries.wrapping_add(1);
        self.queries
    }

    /// How other shards name a session of this one.
    pub(crate) fn session_ref(&self, session: u32) -> SessionRef {
        SessionRef {
            shard: self.config.index,
            index: session,
            generation: self.sessions.get(session).map_or(0, |session| session.generation),
        }
    }

    /// The position of a session that another shard named, if it still is the same session.
    pub(crate) fn resolve(&self, named: SessionRef) -> Option<u32> {
        let session = self.sessions.get(named.index)?;
        (session.generation == named.generation).then_some(named.index)
    }

    /// What the shard keeps.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Sends a packet other than PUBLISH. One that is larger than the client accepts cannot be sent
    /// ([MQTT5-3.1.2-24]) and cannot be left out either, so the connection ends, with a DISCONNECT
    /// or CONNACK that says so if not even that is too large.
    pub(crate) fn send(&mut self, turn: &mut Turn<'_>, conn: ConnId, packet: &Packet) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let maximum = connection.maximum_packet_size as usize;
        match turn.out.packet(conn, connection.version, packet, maximum) {
            Some(bytes) => connection.set_pending_bytes(connection.pending_bytes() + bytes),
            None => {
                let version = connection.version;
                let reason = ReasonCode::PacketTooLarge;
                let farewell = match packet {
                    Packet::ConnAck(_) => Packet::ConnAck(Box::new(ConnAck {
                        session_present: false,
                        reason,
                        properties: ConnAckProperties::default(),
                    })),
                    _ => Packet::Disconnect(Box::new(Disconnect::new(reason))),
                };
                if version.is_v5() {
                    // It may be too large as well.
                    let _ = turn.out.packet(conn, version, &farewell, maximum);
                }
                turn.out.closes.push(conn);
                let what = "an answer is larger than the client's Maximum Packet Size";
                self.end_connection(turn, conn, EndedBy::Broker, ReasonCode::PacketTooLarge, what);
            }
        }
    }

    /// Ends a connection for something that the client did, or that happened to it.
    pub(crate) fn violate(&mut self, turn: &mut Turn<'_>, conn: ConnId, violation: Violation) {
        self.end_by(turn, conn, EndedBy::Broker, violation);
    }

    /// Ends a connection, and tells its client why.
    pub(crate) fn end_by(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        by: EndedBy,
        violation: Violation,
    ) {
        let Some(connection) = self.connection(conn) else { return };
        if !connection.has_session() {
            return self.refuse_pending(turn, conn, violation);
        }
        self.send_disconnect(turn, conn, violation);
        if self.connection(conn).is_none() {
            return;
        }
        turn.out.closes.push(conn);
        self.end_connection(turn, conn, by, violation.reason, violation.what);
    }

    fn on_closed(&mut self, turn: &mut Turn<'_>, conn: ConnId) {
        self.end_connection(turn, conn, EndedBy::Network, ReasonCode::UnspecifiedError, "");
    }

    /// The broker is about to close every connection: the wills that this sets free at once are
    /// published while there are still clients that can get them ([MQTT5-3.1.2-8]). Some now, the others while
    /// time passes.
    fn on_last_wills(&mut self, turn: &mut Turn<'_>) {
        self.stopping = true;
        let live = self.conns.iter().filter(|(_, c)| c.is_live());
        let live: Vec<u32> = live.map(|(_, c)| c.session).collect();
        self.last_wills = live.into_iter();
        self.publish_last_wills(turn, LAST_WILLS_WRITES_MAX);
    }

    /// Publishes last wills until there have been so many writes.
    pub(crate) fn publish_last_wills(&mut self, turn: &mut Turn<'_>, writes_max: usize) {
        let most = turn.out.writes.len().saturating_add(writes_max);
        while turn.out.writes.len() < most
            && let Some(index) = self.last_wills.next()
        {
            let at_once = self.sessions.get(index).is_some_and(|session| {
                let delay_s = session.will().and_then(|pending| pending.will.delay_interval_s);
                session.expiry_interval_s == 0 || delay_s.unwrap_or(0) == 0
            });
            if at_once {
                self.publish_will(turn, index);
                self.trim(index);
            }
        }
    }

    /// [MQTT5-4.13.2-1]: 0x8B to MQTT 5 clients, then close.
    fn on_shutdown(&mut self, turn: &mut Turn<'_>) {
        self.on_last_wills(turn);
        self.publish_last_wills(turn, usize::MAX);
        self.finish_fanouts(turn);
        let ids: Vec<ConnId> = self
            .conns
            .iter()
            .map(|(index, c)| ConnId { index, generation: c.generation })
            .collect();
        let why = Violation::new(ReasonCode::ServerShuttingDown, "the broker stops");
        for conn in ids {
            self.violate(turn, conn, why);
        }
    }
}
