//! What the broker must know, as the oracles see it.
//!
//! The model watches every input that a shard gets and every output it gives, in the order in
//! which they happen, and keeps the plainest account of it: connections, sessions, messages, wills
//! and retained values. It follows the specification and the published face of the shard, never
//! its inside. The checks over it are the modules of [`crate::oracle`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use petrel_proto::{
    Connect, Packet, PublishProperties, Qos, ReasonCode, RetainHandling, TopicFilter, TopicName,
    Version, Will,
};
use petrel_shard::{ConnId, Limits, SlotMap};

use crate::label::Label;
use crate::policy::Policy;

/// A point of a run: every input of every shard is one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// Position in the order of all inputs.
    pub step: u64,
    /// Virtual time, in milliseconds.
    pub now_ms: u64,
}

/// A connection of the whole process.
pub type Key = (u16, ConnId);

/// The account of a run.
#[derive(Debug)]
pub struct Model {
    /// The broker's limits.
    pub limits: Limits,
    /// Where things live.
    pub slots: SlotMap,
    /// Session queues may overflow, so what waits in one may be lost.
    pub lossy_queues: bool,
    /// The present.
    pub at: Moment,
    /// Connections whose CONNECT was handled and that are not closed.
    pub conns: BTreeMap<Key, Conn>,
    /// All sessions that ever were.
    pub sessions: Vec<Session>,
    /// The latest session of each client identifier.
    pub by_client: BTreeMap<String, usize>,
    /// Every application message that the broker accepted, in that order.
    pub instances: Vec<Instance>,
    /// The messages by label, oldest first.
    pub by_label: HashMap<Label, Vec<usize>>,
    /// Messages that set out in this step, from which shard, and to which shards they were sent.
    pub routing: Vec<Routing>,
    /// Connections that must be closed in this step.
    pub closing: Vec<Key>,
    /// Shared groups by share name and filter.
    pub groups: BTreeMap<(String, String), Group>,
    /// What each topic retained, oldest first.
    pub retained: BTreeMap<String, Vec<Retained>>,
    /// Every will of every connection.
    pub wills: Vec<WillView>,
    /// Wills by label.
    pub will_of: HashMap<Label, usize>,
    /// The AUTH that has to be sent in this step.
    pub auth_due: Option<(Key, ReasonCode)>,
    /// The broker was told to stop.
    pub stopping: bool,
    /// Messages between shards that were sent and not handled yet, by sender and receiver.
    pub under_way: BTreeMap<(u16, u16), usize>,
    /// The rules, and since which step they hold; the last are in force.
    policies: Vec<(u64, Policy)>,
}

/// A message that sets out from a shard.
#[derive(Debug)]
pub struct Routing {
    /// Position in [`Model::instances`].
    pub instance: usize,
    /// The shard.
    pub from: u16,
    /// Shards that it was sent to.
    pub to: BTreeSet<u16>,
}

/// A connection as the oracles see it.
#[derive(Debug)]
pub struct Conn {
    /// Client identifier; empty until CONNACK assigns one.
    pub client_id: String,
    /// Protocol version.
    pub version: Version,
    /// Position in [`Model::sessions`], once there is one.
    pub session: Option<usize>,
    /// Session Present that CONNACK must show; `None` if both are right.
    pub present: Option<bool>,
    /// The CONNECT must be refused.
    pub refuse: bool,
    /// CONNACK was sent.
    pub connack: bool,
    /// DISCONNECT was sent.
    pub disconnect: bool,
    /// The client or the network ended it; the broker may at most say goodbye.
    pub ended: bool,
    /// The broker has to close it in this step, with one of these reasons; empty for no DISCONNECT.
    pub must_close: Option<Vec<ReasonCode>>,
    /// Receive Maximum of the client.
    pub receive_maximum: u16,
    /// Maximum Packet Size of the client.
    pub packet_bytes_max: u32,
    /// Topic Alias Maximum of the client, capped by the broker's own.
    pub alias_max: u16,
    /// Topic aliases towards the broker.
    pub aliases_in: BTreeMap<u16, String>,
    /// Topic aliases towards the client.
    pub aliases_out: BTreeMap<u16, String>,
    /// Position in [`Model::wills`].
    pub will: Option<usize>,
    /// Keep alive in force, in milliseconds; 0 if off.
    pub keep_alive_ms: u64,
    /// When its CONNECT was accepted, in milliseconds.
    pub since_ms: u64,
    /// When it was last heard of.
    pub heard_ms: u64,
    /// Session Expiry Interval in force, in seconds.
    pub expiry_s: u32,
    /// The expiry that the client asked for, in seconds.
    pub asked_expiry_s: Option<u32>,
    /// Answers that are owed, in the order they fell due, by kind.
    pub owed: VecDeque<Owed>,
    /// Bytes written since the last report of the socket, and those that it still held then.
    pub unread_bytes: usize,
    /// QoS 1 and 2 messages sent on this connection and not finished.
    pub in_flight: BTreeSet<u16>,
    /// The position in the session's list of what was last sent again.
    pub resent_up_to: Option<u64>,
    /// The client asked that no reason strings be sent.
    pub quiet: bool,
    /// The client chose no identifier.
    pub nameless: bool,
    /// The CONNECT, while its authentication goes on.
    pub pending: Option<Box<Connect>>,
    /// A later authentication exchange goes on.
    pub exchange: bool,
}

/// An answer that a client waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK or PINGRESP.
    pub kind: Kind,
    /// Packet identifier; 0 for PINGRESP.
    pub packet_id: u16,
    /// The reason codes; a list for SUBACK and UNSUBACK, otherwise the acceptable ones.
    pub reasons: Vec<ReasonCode>,
    /// The filters that a SUBACK makes live.
    pub filters: Vec<String>,
    /// The step of the request.
    pub step: u64,
}

/// The packets that answer another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the specification's own")]
pub enum Kind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    SubAck,
    UnsubAck,
    PingResp,
}

/// A session as the oracles see it.
#[derive(Debug)]
pub struct Session {
    /// Whose.
    pub client_id: String,
    /// Its home.
    pub shard: u16,
    /// Its connection, if any.
    pub conn: Option<Key>,
    /// Protocol version of its latest connection.
    pub version: Version,
    /// When it certainly ended.
    pub ended: Option<Moment>,
    /// When it may end because its expiry interval passes; set while there is no connection.
    pub expires_ms: Option<u64>,
    /// Its subscriptions by filter as written.
    pub subs: BTreeMap<String, Sub>,
    /// Deliveries in flight towards the client, in the order of their first sending.
    pub out: Vec<Outgoing>,
    /// Packet identifiers of QoS 2 messages from the client that await PUBREL.
    pub in_qos2: BTreeSet<u16>,
    /// Deliveries that are due or done, by label.
    pub expected: HashMap<Label, Vec<Expected>>,
    /// SUBSCRIBEs that asked for retained messages.
    pub asked: Vec<RetainedAsked>,
    /// Retained messages that were sent: in which step, and of which topic.
    pub retained_sent: Vec<(u64, String)>,
    /// Last message sent first, per publisher, topic, published and delivered QoS.
    pub latest: HashMap<(String, String, Qos, Qos), usize>,
    /// Smallest Maximum Packet Size that any connection of it had.
    pub packet_bytes_min: u32,
    /// QoS that shared subscriptions ever had, by filter as written.
    pub shared_qos: BTreeMap<String, BTreeSet<Qos>>,
    /// Identifiers that shared subscriptions ever had, by filter as written.
    pub shared_ids: BTreeMap<String, BTreeSet<Option<u32>>>,
    /// Counts first sendings.
    pub sendings: u64,
}

/// A subscription.
#[derive(Debug, Clone)]
pub struct Sub {
    /// The filter, without `$share/{name}/`.
    pub filter: TopicFilter,
    /// Share name if shared.
    pub share: Option<String>,
    /// Granted QoS.
    pub qos: Qos,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier.
    pub id: Option<u32>,
    /// The step of the SUBSCRIBE that made it; one that only replaces it changes nothing here.
    pub made: u64,
    /// The step in which the SUBACK was sent.
    pub acked: Option<u64>,
}

/// A SUBSCRIBE that makes the broker send retained messages for one filter.
#[derive(Debug)]
pub struct RetainedAsked {
    /// When it was handled.
    pub at: Moment,
    /// On which connection.
    pub conn: Key,
    /// The filter.
    pub filter: TopicFilter,
    /// Granted QoS.
    pub qos: Qos,
    /// Subscription Identifier.
    pub id: Option<u32>,
    /// No Local, which a broker may apply to retained messages too.
    pub no_local: bool,
    /// Retained messages have to be sent, as opposed to may.
    pub open: bool,
    /// The answers it got, by topic.
    pub answered: BTreeMap<String, RetainedAnswer>,
}

/// A retained message that was sent, as far as it shows which SUBSCRIBE it answers.
#[derive(Debug, Clone)]
pub struct RetainedAnswer {
    /// Position in [`Model::instances`].
    pub instance: usize,
    /// QoS it was sent with.
    pub qos: Qos,
    /// Its subscription identifiers.
    pub ids: Vec<u32>,
    /// When the topic's owner had taken a newer one.
    pub replaced: Option<Moment>,
}

/// A delivery in flight towards a client.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Packet identifier.
    pub packet_id: u16,
    /// Position in [`Model::instances`].
    pub instance: usize,
    /// What was sent.
    pub label: Label,
    /// Where.
    pub topic: String,
    /// At which QoS.
    pub qos: Qos,
    /// PUBREC came, so that PUBREL is due or sent.
    pub received: bool,
    /// On which connection it was last sent.
    pub conn: Key,
    /// A later connection may be too small for it, so that it may count as delivered
    /// ([MQTT5-3.1.2-25]).
    pub given_up: bool,
    /// Position in the order of first sendings.
    pub number: u64,
    /// The shared group it came from, and the message.
    pub group: Option<((String, String), usize)>,
}

/// A delivery of a message to a session that follows from its plain subscriptions.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Position in [`Model::instances`].
    pub instance: usize,
    /// When it was routed to the session.
    pub at: Moment,
    /// QoS to deliver with.
    pub qos: Qos,
    /// Subscription identifiers, sorted.
    pub ids: Vec<u32>,
    /// RETAIN stays as published: one of the overlapping subscriptions asks for it.
    pub as_published: bool,
    /// It may not be missing.
    pub must: bool,
    /// At QoS 0: it may go out in a later step.
    pub late: bool,
    /// It was sent.
    pub sent: bool,
}

/// An application message that the broker accepted.
#[derive(Debug)]
pub struct Instance {
    /// Its name.
    pub label: Label,
    /// Client identifier of the publisher.
    pub publisher: String,
    /// Where.
    pub topic: TopicName,
    /// At which QoS.
    pub qos: Qos,
    /// RETAIN as published.
    pub retain: bool,
    /// The properties that must arrive unaltered.
    pub properties: PublishProperties,
    /// The application's bytes.
    pub payload: Bytes,
    /// When it was accepted.
    pub at: Moment,
    /// When it expires, in milliseconds; `u64::MAX` never.
    pub expires_ms: u64,
}

/// A shared group as the oracles see it.
#[derive(Debug, Default)]
pub struct Group {
    /// Its members, by session.
    pub members: Vec<Member>,
    /// What was sent for each message.
    pub sent: BTreeMap<usize, Vec<GroupSending>>,
    /// Messages that matched while somebody was a member.
    pub routed: Vec<GroupRouted>,
}

/// A message that matched a group.
#[derive(Debug)]
pub struct GroupRouted {
    /// Position in [`Model::instances`].
    pub instance: usize,
    /// The connections of all members, if all were connected.
    pub online: Option<Vec<(usize, Key)>>,
}

/// A membership of a session in a group, over its time.
#[derive(Debug, Clone)]
pub struct Member {
    /// Which session.
    pub session: usize,
    /// The step of the SUBSCRIBE.
    pub since: u64,
    /// The step of the SUBACK.
    pub acked: Option<u64>,
    /// The step in which it left.
    pub left: Option<u64>,
}

/// A message of a group on its way to a member.
#[derive(Debug, Clone)]
pub struct GroupSending {
    /// To which session.
    pub session: usize,
    /// At which QoS.
    pub qos: Qos,
    /// The member acknowledged it.
    pub acked: bool,
}

/// One value in the history of a retained topic.
#[derive(Debug, Clone)]
pub struct Retained {
    /// When the broker accepted it.
    pub at: Moment,
    /// The message; `None` if the topic was cleared.
    pub instance: Option<usize>,
}

/// A will as the oracles see it.
#[derive(Debug)]
pub struct WillView {
    /// Its name.
    pub label: Label,
    /// What will be published.
    pub will: Will,
    /// Client identifier.
    pub client_id: String,
    /// Home of the session.
    pub shard: u16,
    /// Where it stands.
    pub state: WillState,
}

/// Where a will stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillState {
    /// The connection is up.
    Armed,
    /// It must be published in this step.
    Now,
    /// It must be published in this step, which is the last chance.
    Last,
    /// It must be published soon after this time, in milliseconds, and not before.
    Due(u64),
    /// It may be published or not: two rules raced.
    Either,
    /// It must not be published.
    Removed,
    /// It was.
    Published,
}

impl Model {
    /// An empty broker.
    #[must_use]
    pub fn new(limits: Limits, slots: SlotMap, lossy_queues: bool) -> Self {
        Self {
            limits,
            slots,
            lossy_queues,
            at: Moment::default(),
            conns: BTreeMap::new(),
            sessions: Vec::new(),
            by_client: BTreeMap::new(),
            instances: Vec::new(),
            by_label: HashMap::new(),
            routing: Vec::new(),
            closing: Vec::new(),
            groups: BTreeMap::new(),
            retained: BTreeMap::new(),
            wills: Vec::new(),
            will_of: HashMap::new(),
            auth_due: None,
            stopping: false,
            under_way: BTreeMap::new(),
            policies: Vec::new(),
        }
    }

    /// Other rules from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policies.push((self.at.step, policy));
    }

    /// The rules that hold.
    pub(crate) fn policy(&self) -> &Policy {
        match self.policies.last() {
            Some((_, policy)) => policy,
            None => panic!("there are always rules, even if they deny nothing"),
        }
    }

    /// All rules that have held since a step.
    pub(crate) fn policies_since(&self, step: u64) -> impl Iterator<Item = &Policy> {
        let over = self.policies.iter().rposition(|(since, _)| *since < step).unwrap_or(0);
        self.policies[over..].iter().map(|(_, policy)| policy)
    }

    /// The shard that owns a name.
    #[must_use]
    pub fn home(&self, name: &[u8]) -> u16 {
        self.slots.home_of(name).0
    }

    /// Whether the session may have ended by now although nobody saw it.
    #[must_use]
    pub fn doubtful(&self, session: usize) -> bool {
        self.sessions[session].expires_ms.is_some_and(|at| at <= self.at.now_ms)
    }
}

impl Session {
    /// A session at its beginning.
    #[must_use]
    pub fn new(client_id: String, shard: u16, version: Version) -> Self {
        Self {
            client_id,
            shard,
            conn: None,
            version,
            ended: None,
            expires_ms: None,
            subs: BTreeMap::new(),
            out: Vec::new(),
            in_qos2: BTreeSet::new(),
            expected: HashMap::new(),
            asked: Vec::new(),
            retained_sent: Vec::new(),
            latest: HashMap::new(),
            packet_bytes_min: u32::MAX,
            shared_qos: BTreeMap::new(),
            shared_ids: BTreeMap::new(),
            sendings: 0,
        }
    }
}

impl Kind {
    /// The kind of an answer, with its packet identifier; `None` for other packets.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<(Self, u16)> {
        Some(match packet {
            Packet::PubAck(ack) => (Self::PubAck, ack.packet_id.get()),
            Packet::PubRec(ack) => (Self::PubRec, ack.packet_id.get()),
            Packet::PubRel(ack) => (Self::PubRel, ack.packet_id.get()),
            Packet::PubComp(ack) => (Self::PubComp, ack.packet_id.get()),
            Packet::SubAck(ack) => (Self::SubAck, ack.packet_id.get()),
            Packet::UnsubAck(ack) => (Self::UnsubAck, ack.packet_id.get()),
            Packet::PingResp => (Self::PingResp, 0),
            _ => return None,
        })
    }
}

impl Sub {
    /// Whether retained messages are sent when this subscription is made.
    #[must_use]
    pub fn wants_retained(&self, handling: RetainHandling, existed: bool) -> bool {
        self.share.is_none()
            && match handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !existed,
                RetainHandling::DoNotSend => false,
            }
    }
}
