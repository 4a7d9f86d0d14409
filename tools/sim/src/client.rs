//! A client that keeps to the protocol: what it must remember and how it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use petrel_proto::{
    Ack, ConnAck, Packet, PacketId, Publish, Qos, ReasonCode, Text, TopicName, Version,
};

use crate::label::Label;
use crate::rng::Rng;
use crate::scenario::Habits;

/// One client over all of its connections.
#[derive(Debug)]
pub struct Client {
    /// What it is like.
    pub habits: Habits,
    /// The identifier that it connects with; the one that was assigned, once there is one.
    pub client_id: String,
    /// Its connection, by position in the world's table.
    pub link: Option<usize>,
    /// CONNACK has come.
    pub connected: bool,
    /// It will not come back.
    pub retired: bool,
    /// It sends no PINGREQ on this connection.
    pub mute: bool,
    /// Keep alive in force, in seconds.
    pub keep_alive_s: u16,
    /// Filters that it believes to be subscribed to.
    pub subscribed: BTreeSet<String>,
    /// QoS 1 and 2 messages that are not finished, in the order of their first sending.
    pub in_flight: Vec<InFlight>,
    /// Packet identifiers of SUBSCRIBE and UNSUBSCRIBE that wait for their answer.
    pub requests: BTreeSet<u16>,
    /// Acknowledgements that it has not sent yet, in order: PUBACK, PUBREC, PUBREL, PUBCOMP.
    pub acks: [VecDeque<Packet>; 4],
    /// Topic aliases of this connection.
    pub aliases: BTreeMap<String, u16>,
    /// What the broker allows.
    pub server: ServerLimits,
    received: BTreeSet<u16>,
    messages: u32,
    wills: u32,
    last_id: u16,
    index: u32,
}

/// A QoS 1 or 2 message on its way to the broker.
#[derive(Debug, Clone)]
pub struct InFlight {
    /// The packet, without an alias.
    pub publish: Publish,
    /// PUBREC has come, PUBREL is due or sent.
    pub received: bool,
}

/// What CONNACK told.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Maximum Packet Size, in bytes.
    pub packet_bytes_max: u32,
    /// Topic Alias Maximum.
    pub alias_max: u16,
}

impl Client {
    /// A client that never connected. `index` makes its labels its own.
    #[must_use]
    pub fn new(index: u32, habits: Habits) -> Self {
        Self {
            client_id: habits.client_id.clone(),
            habits,
            link: None,
            connected: false,
            retired: false,
            mute: false,
            keep_alive_s: 0,
            subscribed: BTreeSet::new(),
            in_flight: Vec::new(),
            requests: BTreeSet::new(),
            acks: Default::default(),
            aliases: BTreeMap::new(),
            server: ServerLimits::before_connack(),
            received: BTreeSet::new(),
            messages: 0,
            wills: 0,
            last_id: 0,
            index,
        }
    }

    /// A name for the next message.
    pub fn next_message(&mut self) -> Label {
        self.messages += 1;
        Label::Message(self.index, self.messages)
    }

    /// A name for the next will.
    pub fn next_will(&mut self) -> Label {
        self.wills += 1;
        Label::Will(self.index, self.wills)
    }

    /// A packet identifier that is not in use.
    pub fn next_id(&mut self) -> PacketId {
        loop {
            // A small range, so that identifiers come back soon.
            self.last_id = self.last_id % 40 + 1;
            let id = self.last_id;
            let used = self.requests.contains(&id)
                || self
                    .in_flight
                    .iter()
                    .any(|m| m.publish.packet_id.map(PacketId::get) == Some(id));
            if let (false, Some(id)) = (used, PacketId::new(id)) {
                return id;
            }
        }
    }

    /// Whether another QoS 1 or 2 message may be sent.
    #[must_use]
    pub fn has_window(&self) -> bool {
        self.in_flight.len() < usize::from(self.server.receive_maximum).min(20)
    }

    /// A new connection: what belonged to the old one is gone.
    pub fn on_new_link(&mut self, link: usize, clean: bool) {
        self.link = Some(link);
        self.connected = false;
        self.server = ServerLimits::before_connack();
        self.aliases.clear();
        self.requests.clear();
        self.acks.iter_mut().for_each(VecDeque::clear);
        if clean {
            self.forget();
        }
    }

    /// The connection is gone.
    pub fn on_link_lost(&mut self) {
        self.link = None;
        self.connected = false;
        self.acks.iter_mut().for_each(VecDeque::clear);
    }

    fn forget(&mut self) {
        self.subscribed.clear();
        self.in_flight.clear();
        self.received.clear();
    }

    /// Handles a CONNACK. Returns what is to be sent again.
    pub fn on_connack(&mut self, ack: &ConnAck) -> Vec<Packet> {
        if ack.reason != ReasonCode::Success {
            return Vec::new();
        }
        self.connected = true;
        let properties = &ack.properties;
        if self.habits.version == Version::V5 {
            self.server = ServerLimits {
                receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
                packet_bytes_max: properties.maximum_packet_size.unwrap_or(u32::MAX),
                alias_max: properties.topic_alias_maximum.unwrap_or(0),
            };
            if let Some(s) = properties.server_keep_alive_s {
                self.keep_alive_s = s;
            }
        }
        if let Some(assigned) = &properties.assigned_client_id {
            self.client_id = assigned.as_str().to_owned();
        }
        // MQTT 3.1 does not say whether the session goes on, so its clients always go on.
        if !ack.session_present && self.habits.version != Version::V3_1 {
            // What was sent before CONNACK belongs to the new session.
            let early = self.requests.is_empty();
            let subscribed = std::mem::take(&mut self.subscribed);
            self.forget();
            if !early {
                self.subscribed = subscribed;
            }
        }
        self.in_flight
            .iter()
            .map(|message| match (message.received, message.publish.packet_id) {
                (true, Some(id)) => Packet::PubRel(Ack::new(id, ReasonCode::Success)),
                _ => Packet::Publish(Publish { dup: true, ..message.publish.clone() }),
            })
            .collect()
    }

    /// Handles any other packet; acknowledgements wait in [`Client::acks`].
    pub fn on_packet(&mut self, packet: &Packet, rng: &mut Rng) {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish, rng),
            Packet::PubAck(ack) => self.finish(ack.packet_id),
            Packet::PubRec(ack) if ack.reason.is_error() => self.finish(ack.packet_id),
            Packet::PubRec(ack) => {
                for message in &mut self.in_flight {
                    message.received |= message.publish.packet_id == Some(ack.packet_id);
                }
                self.acks[2].push_back(Packet::PubRel(Ack::new(ack.packet_id, success())));
            }
            Packet::PubRel(ack) => {
                let known = self.received.remove(&ack.packet_id.get());
                let reason = match (known, self.habits.version) {
                    (false, Version::V5) => ReasonCode::PacketIdentifierNotFound,
                    _ => success(),
                };
                self.acks[3].push_back(Packet::PubComp(Ack::new(ack.packet_id, reason)));
            }
            Packet::PubComp(ack) => self.finish(ack.packet_id),
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => {
                self.requests.remove(&ack.packet_id.get());
            }
            _ => {}
        }
    }

    fn on_publish(&mut self, publish: &Publish, rng: &mut Rng) {
        let Some(id) = publish.packet_id else { return };
        let refused = self.habits.version == Version::V5 && !self.habits.watcher && rng.percent(2);
        let reason = if refused { ReasonCode::ImplementationSpecificError } else { success() };
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.acks[0].push_back(Packet::PubAck(Ack::new(id, reason))),
            Qos::ExactlyOnce => {
                let again = self.received.contains(&id.get());
                let reason = if again { success() } else { reason };
                if !reason.is_error() {
                    self.received.insert(id.get());
                }
                self.acks[1].push_back(Packet::PubRec(Ack::new(id, reason)));
            }
        }
    }

    fn finish(&mut self, id: PacketId) {
        self.in_flight.retain(|message| message.publish.packet_id != Some(id));
    }

    /// Replaces the topic by an alias where the broker allows it, or makes one.
    pub fn alias(&mut self, publish: &mut Publish, rng: &mut Rng) {
        if self.habits.version != Version::V5 || self.server.alias_max == 0 || rng.percent(40) {
            return;
        }
        let topic = publish.topic.text().as_str().to_owned();
        if let Some(&alias) = self.aliases.get(&topic) {
            publish.properties.topic_alias = Some(alias);
            publish.topic = TopicName::EMPTY;
            return;
        }
        let alias = rng.between(1, u64::from(self.server.alias_max)) as u16;
        self.aliases.retain(|_, other| *other != alias);
        self.aliases.insert(topic, alias);
        publish.properties.topic_alias = Some(alias);
    }
}

impl ServerLimits {
    /// What a client may rely on while it waits for CONNACK.
    #[must_use]
    pub const fn before_connack() -> Self {
        Self { receive_maximum: 1, packet_bytes_max: 400, alias_max: 0 }
    }
}

const fn success() -> ReasonCode {
    ReasonCode::Success
}

/// A valid text.
#[must_use]
pub fn text(text: &str) -> Text {
    Text::try_from(text).unwrap_or_default()
}
