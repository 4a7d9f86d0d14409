//! Clients that keep their side of the protocol across lost connections.

use std::collections::{BTreeMap, VecDeque};

use petrel_proto::{Packet, PacketId, Qos};
use petrel_shard::ConnId;

/// One message in the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    /// Who published it.
    pub publisher: u8,
    /// Which of its messages; they are published in this order.
    pub number: u32,
}

impl MessageId {
    /// The payload that says which message it is.
    pub fn payload(self) -> Vec<u8> {
        let mut payload = vec![self.publisher];
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload
    }

    /// The message that a payload says.
    pub fn of(payload: &[u8]) -> Option<Self> {
        let [publisher, number @ ..] = payload else { return None };
        let number = u32::from_be_bytes(number.try_into().ok()?);
        Some(Self { publisher: *publisher, number })
    }
}

/// A message that its publisher has not finished.
#[derive(Debug, Clone)]
pub struct Unfinished {
    pub id: MessageId,
    pub packet_id: PacketId,
    pub topic: u8,
    pub qos: Qos,
    pub retain: bool,
    /// PUBREC has come, PUBREL is due or sent.
    pub received: bool,
    /// It was sent before.
    pub sent: bool,
    /// Message Expiry Interval.
    pub expiry_s: Option<u32>,
}

/// What a client does in a run.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Its session outlives its connections.
    pub lasting: bool,
    /// It publishes.
    pub publishes: bool,
    /// It subscribes to this topic, or to all; `None` for not at all.
    pub subscribes: Option<Wants>,
    pub qos: Qos,
    /// It connects with a will.
    pub will: bool,
    /// Its messages are retained.
    pub retain: bool,
    /// Some of its messages expire.
    pub hurries: bool,
    /// It connects for the first time after so many steps.
    pub late: u64,
    /// It asks for a clean start now and then.
    pub forgetful: bool,
    /// It unsubscribes now and then, and subscribes again.
    pub leaves: bool,
    pub receive_maximum: u16,
}

/// What a subscriber wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Topic(u8),
    All,
    /// All, with others, through a shared group.
    Group(u8),
}

/// A client, and what it remembers.
#[derive(Debug)]
pub struct Client {
    pub habits: Habits,
    pub name: String,
    pub conn: Option<(u16, ConnId)>,
    /// CONNACK has come on this connection.
    pub connected: bool,
    /// It asks for a clean start until it is told that it has one.
    pub clean: bool,
    /// The number of its will on this connection.
    pub will_number: u32,
    /// SUBSCRIBE has been acknowledged in this session.
    pub subscribed: bool,
    pub subscribing: bool,
    /// It unsubscribes when the run winds down, and has.
    pub quits: bool,
    pub has_quit: bool,
    pub published: u32,
    pub unfinished: VecDeque<Unfinished>,
    /// QoS 2 messages that were received and not released: the application has had them, and whatever
    /// comes with these identifiers is taken for them.
    pub receiving: BTreeMap<PacketId, MessageId>,
    /// Packets on their way to the client.
    pub inbox: VecDeque<Packet>,
    /// Acknowledgements that it has not sent yet, in order.
    pub owes: VecDeque<Packet>,
    /// What has reached the application, by message: how often, and when first.
    pub got: BTreeMap<MessageId, Got>,
    /// When it first asked for its subscription in this session, in steps; `u64::MAX` for not yet.
    pub asked_at: u64,
    /// When it was told that it has it; what is published later must come.
    pub since: u64,
    /// Of topics with retained messages, the number of the one that its SUBACK promised, or a later one.
    pub retained: BTreeMap<u8, u32>,
    /// It was told something that makes its session last.
    pub promised: bool,
}

/// How a message has reached an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Got {
    pub times: u32,
    /// In the order of all first arrivals.
    pub at: u64,
    pub qos: Qos,
}

impl Client {
    pub fn new(name: String, habits: Habits) -> Self {
        Self {
            habits,
            name,
            conn: None,
            connected: false,
            clean: false,
            will_number: 0,
            subscribed: false,
            subscribing: false,
            quits: false,
            has_quit: false,
            published: 0,
            unfinished: VecDeque::new(),
            receiving: BTreeMap::new(),
            inbox: VecDeque::new(),
            owes: VecDeque::new(),
            got: BTreeMap::new(),
            asked_at: u64::MAX,
            since: 0,
            retained: BTreeMap::new(),
            promised: false,
        }
    }

    /// It has to subscribe yet, or to unsubscribe for good.
    pub fn waits(&self) -> bool {
        let wants = self.habits.subscribes.is_some() && !self.subscribed && !self.has_quit;
        wants || (self.quits && !self.has_quit)
    }

    /// The shared group of which it wants to be a member.
    pub fn group(&self) -> Option<u8> {
        match self.habits.subscribes {
            Some(Wants::Group(group)) => Some(group),
            _ => None,
        }
    }

    /// The connection is over.
    pub fn lose_connection(&mut self) {
        self.conn = None;
        self.connected = false;
        self.subscribing = false;
        self.inbox.clear();
        self.owes.clear();
    }

    /// The session is over, and the client knows.
    pub fn lose_session(&mut self) {
        self.receiving.clear();
        self.unfinished.clear();
        self.got.clear();
        self.subscribed = false;
        self.asked_at = u64::MAX;
        self.retained.clear();
        self.promised = false;
    }

    /// A free packet identifier.
    pub fn free_packet_id(&self) -> Option<PacketId> {
        let used = |id: PacketId| self.unfinished.iter().any(|one| one.packet_id == id);
        (1..=20).filter_map(PacketId::new).find(|id| !used(*id))
    }
}
