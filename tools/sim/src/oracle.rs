//! The oracles: what must hold, checked at every step.
//!
//! Each module owns one family of rules and names itself in what it reports. They share the
//! account that [`crate::model::Model`] keeps. A step is: [`Model::before`] with the input, the
//! shard, [`Model::after`] with what the shard put into its outbox.

pub mod acks;
pub mod auth;
pub mod census;
pub mod closing;
pub mod delivery;
pub mod order;
pub mod packet_ids;
pub mod retained;
pub mod session;
pub mod shared;
pub mod will;

use petrel_proto::{Packet, ReasonCode};
use petrel_shard::{ConnId, Drops, Event, Input, PeerMessage};

use crate::label::Label;
use crate::model::{Key, Model, Moment};
use crate::violation::Checked;

/// What the world knows of an input beyond the input itself.
#[derive(Debug, Clone, Default)]
pub struct Hint {
    /// The client broke a rule on purpose; the reasons that are right for it.
    pub hostile: Option<Vec<ReasonCode>>,
    /// What a message from a peer carries.
    pub tag: Tag,
}

/// The message of a run that a message between shards carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tag {
    /// None that the oracles follow.
    #[default]
    None,
    /// An application message looking for its receivers.
    Publish(usize),
    /// A retained message on its way to its owner.
    Retain(usize),
}

/// What a shard put into its outbox in one step.
#[derive(Debug, Default)]
pub struct Output {
    /// Packets, with their length in bytes.
    pub packets: Vec<(ConnId, Packet, usize)>,
    /// Messages to peers.
    pub peers: Vec<(u16, PeerMessage)>,
    /// Closes.
    pub closes: Vec<ConnId>,
    /// Events.
    pub events: Vec<Event>,
    /// Messages that were dropped.
    pub drops: Drops,
}

impl Model {
    /// Accounts for an input before the shard sees it.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn before(&mut self, at: Moment, shard: u16, input: &Input, hint: &Hint) -> Checked {
        self.at = at;
        self.routing.clear();
        self.closing.clear();
        match input {
            Input::Connect { conn, connect, .. } => self.on_connect((shard, *conn), connect, hint),
            Input::Packet { conn, packet } => self.on_packet((shard, *conn), packet, hint),
            Input::Violation { conn, error } => {
                self.on_broken_rule((shard, *conn), vec![error.reason])
            }
            Input::Closed { conn } => {
                let key = (shard, *conn);
                if self.conns.contains_key(&key) {
                    self.end_conn(key, false)?;
                    self.conns.remove(&key);
                }
                Ok(())
            }
            Input::Flushed { conn, pending_bytes } => {
                if let Some(conn) = self.conns.get_mut(&(shard, *conn)) {
                    conn.unread_bytes = *pending_bytes;
                }
                Ok(())
            }
            Input::Peer { from, .. } => {
                if let Some(count) = self.under_way.get_mut(&(from.0, shard)) {
                    *count = count.saturating_sub(1);
                }
                match hint.tag {
                    Tag::Publish(instance) => {
                        self.arrive(instance, shard);
                        Ok(())
                    }
                    Tag::Retain(instance) => self.retain(instance, shard),
                    Tag::None => Ok(()),
                }
            }
            Input::Kick { conn, reason } => self.on_broken_rule((shard, *conn), vec![*reason]),
            Input::LastWills => {
                self.on_last_wills(shard);
                Ok(())
            }
            Input::Shutdown => self.on_shutdown(shard),
            Input::Publish(publish) => self.on_own_publish(shard, publish),
            Input::Verdict { conn, verdict } => self.on_verdict((shard, *conn), verdict),
            // Nothing is kept in these runs; see [`crate::crash`].
            Input::Timer
            | Input::Kept { .. }
            | Input::Loaded(_)
            | Input::Counted(_)
            | Input::Refuse(_)
            | Input::Ban(_)
            | Input::EndSession(_)
            | Input::SendAway { .. }
            | Input::Shed(_)
            | Input::Full(_)
            | Input::Limits(_)
            | Input::Watch(_)
            | Input::Rules(_) => Ok(()),
        }
    }

    /// Checks what the shard did about the input. Returns what each message to a peer carries.
    ///
    /// # Errors
    /// A rule was broken.
    pub fn after(&mut self, shard: u16, timer: bool, output: &Output) -> Checked<Vec<Tag>> {
        for &conn in &output.closes {
            self.explain_close((shard, conn))?;
        }
        for (_, message) in &output.peers {
            if let Some(message) = carried_by(message) {
                self.see_will(Label::of(&message.payload), shard)?;
            }
        }
        for (_, packet, _) in &output.packets {
            if let Packet::Publish(publish) = packet {
                self.see_will(Label::of(&publish.payload), shard)?;
            }
        }
        let mut tags = Vec::with_capacity(output.peers.len());
        for (to, message) in &output.peers {
            *self.under_way.entry((shard, *to)).or_default() += 1;
            tags.push(self.sent_to_peer(*to, message));
        }
        for (conn, packet, bytes) in &output.packets {
            self.emitted((shard, *conn), packet, *bytes)?;
        }
        for &conn in &output.closes {
            self.closed((shard, conn))?;
        }
        self.check_drops(&output.drops)?;
        self.check_auth_sent()?;
        self.check_closed()?;
        self.check_routed()?;
        self.check_wills(shard, timer)?;
        if timer {
            self.check_keep_alive(shard)?;
            self.expire_sessions(shard);
        }
        Ok(tags)
    }

    /// Checks a packet to a client.
    fn emitted(&mut self, key: Key, packet: &Packet, bytes: usize) -> Checked {
        self.check_sendable(key, packet, bytes)?;
        match packet {
            Packet::ConnAck(ack) => self.on_connack(key, ack),
            Packet::Publish(publish) => self.on_delivery(key, publish),
            Packet::Disconnect(disconnect) => self.on_server_disconnect(key, disconnect),
            Packet::Auth(auth) => self.on_server_auth(key, auth),
            _ => self.on_answer(key, packet),
        }
    }

    /// Recognises the message that travels to a peer.
    fn sent_to_peer(&mut self, to: u16, message: &PeerMessage) -> Tag {
        let Some(carried) = carried_by(message) else { return Tag::None };
        let label = Label::of(&carried.payload);
        let matches = |instance: &crate::model::Instance| {
            Some(instance.label) == label && instance.topic == carried.topic
        };
        let instances = &self.instances;
        let now = self.routing.iter_mut().find(|routing| matches(&instances[routing.instance]));
        let instance = match now {
            Some(routing) => {
                if message.published().is_some() {
                    routing.to.insert(to);
                }
                routing.instance
            }
            // A shard may hold a message back for a while.
            None => match instances.iter().rposition(matches) {
                Some(instance) => instance,
                None => return Tag::None,
            },
        };
        match message.published() {
            Some(_) => Tag::Publish(instance),
            None => Tag::Retain(instance),
        }
    }
}

/// The message that looks for its receivers or for its place.
fn carried_by(message: &PeerMessage) -> Option<&petrel_shard::Message> {
    match message {
        PeerMessage::Retain(message, _) => Some(message),
        message => message.published(),
    }
}
