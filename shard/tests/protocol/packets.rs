//! Short ways to write packets down, and to take answers apart.

use bytes::Bytes;
use petrel_proto::{
    Ack, Auth, ConnAck, Connect, ConnectProperties, Disconnect, MessageFields, MessageProperties,
    Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, ReasonProperties,
    RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter, TopicName,
    Unsubscribe, UserProperties, Version, Will,
};

use crate::harness::{Client, Net};

pub const QOS0: Qos = Qos::AtMostOnce;
pub const QOS1: Qos = Qos::AtLeastOnce;
pub const QOS2: Qos = Qos::ExactlyOnce;

/// What a client can send.
pub trait IntoPacket {
    fn into_packet(self) -> Packet;
}

impl IntoPacket for Packet {
    fn into_packet(self) -> Packet {
        self
    }
}

impl IntoPacket for Publish {
    fn into_packet(self) -> Packet {
        Packet::Publish(self)
    }
}

impl IntoPacket for Subscribe {
    fn into_packet(self) -> Packet {
        Packet::Subscribe(Box::new(self))
    }
}

impl IntoPacket for Disconnect {
    fn into_packet(self) -> Packet {
        Packet::Disconnect(Box::new(self))
    }
}

impl IntoPacket for Auth {
    fn into_packet(self) -> Packet {
        Packet::Auth(Box::new(self))
    }
}

/// Changes made to a value where it is written down.
pub trait With: Sized {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl With for Connect {}
impl With for Will {}
impl With for Publish {}
impl With for Subscribe {}
impl With for Disconnect {}

/// What a publish is made of.
pub trait Shape {
    fn qos1(self, id: u16) -> Self;
    fn qos2(self, id: u16) -> Self;
    fn retained(self) -> Self;
    fn duplicate(self) -> Self;
    fn expiring(self, interval_s: u32) -> Self;
    fn fields(self, fields: MessageFields) -> Self;
}

impl Shape for Publish {
    fn qos1(self, id: u16) -> Self {
        self.with(|p| (p.qos, p.packet_id) = (QOS1, PacketId::new(id)))
    }
    fn qos2(self, id: u16) -> Self {
        self.with(|p| (p.qos, p.packet_id) = (QOS2, PacketId::new(id)))
    }
    fn retained(self) -> Self {
        self.with(|p| p.retain = true)
    }
    fn duplicate(self) -> Self {
        self.with(|p| p.dup = true)
    }
    fn expiring(self, interval_s: u32) -> Self {
        self.with(|p| p.properties.message_expiry_interval_s = Some(interval_s))
    }
    fn fields(self, fields: MessageFields) -> Self {
        self.with(|p| p.properties.message = MessageProperties::of(&fields).unwrap())
    }
}

pub fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

pub fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

pub fn pairs(pairs: &[(&str, &str)]) -> UserProperties {
    let texts: Vec<_> = pairs.iter().map(|(name, value)| (text(name), text(value))).collect();
    UserProperties::from_pairs(texts.iter().map(|(name, value)| (name, value)))
}

/// A clean CONNECT of MQTT 5.
pub fn v5(client_id: &str) -> Connect {
    connect(Version::V5, client_id)
}

/// A clean CONNECT of MQTT 3.1.1.
pub fn v311(client_id: &str) -> Connect {
    connect(Version::V3_1_1, client_id)
}

/// A clean CONNECT.
pub fn connect(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: text(client_id),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A CONNECT that goes on with its session and keeps it: for an hour in MQTT 5.
pub fn resume(version: Version, client_id: &str) -> Connect {
    connect(version, client_id).with(|c| {
        c.clean_start = false;
        c.properties.session_expiry_interval_s = version.is_v5().then_some(3600);
    })
}

pub fn will(topic: &str, payload: &str) -> Box<Will> {
    Box::new(Will {
        topic: TopicName::new(text(topic)).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QOS0,
        retain: false,
        delay_interval_s: None,
        properties: PublishProperties::default(),
    })
}

/// A PUBLISH at QoS 0.
pub fn message(topic: &str, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos: QOS0,
        retain: false,
        topic: TopicName::new(text(topic)).unwrap_or_default(),
        packet_id: None,
        properties: PublishProperties::default(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub fn puback(value: u16) -> Packet {
    Packet::PubAck(Ack::new(id(value), ReasonCode::Success))
}

pub fn pubrec(value: u16) -> Packet {
    Packet::PubRec(Ack::new(id(value), ReasonCode::Success))
}

pub fn pubrel(value: u16) -> Packet {
    Packet::PubRel(Ack::new(id(value), ReasonCode::Success))
}

pub fn pubcomp(value: u16) -> Packet {
    Packet::PubComp(Ack::new(id(value), ReasonCode::Success))
}

pub fn filter(filter: &str) -> TopicFilter {
    TopicFilter::new(text(filter)).unwrap()
}

pub fn options(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

pub fn no_local(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, no_local: true, ..SubscriptionOptions::default() }
}

pub fn as_published(qos: Qos) -> SubscriptionOptions {
    SubscriptionOptions { qos, retain_as_published: true, ..SubscriptionOptions::default() }
}

pub fn handling(qos: Qos, retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions { qos, retain_handling, ..SubscriptionOptions::default() }
}

/// A SUBSCRIBE with packet identifier 7.
pub fn subscribe(filters: &[(&str, SubscriptionOptions)]) -> Subscribe {
    let one = |&(name, options): &_| SubscribeFilter { filter: filter(name), options };
    Subscribe {
        packet_id: id(7),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: filters.iter().map(one).collect(),
    }
}

/// An UNSUBSCRIBE with packet identifier 8.
pub fn unsubscribe(filters: &[&str]) -> Packet {
    Packet::Unsubscribe(Box::new(Unsubscribe {
        packet_id: id(8),
        user_properties: UserProperties::default(),
        filters: filters.iter().map(|name| filter(name)).collect(),
    }))
}

pub fn auth(reason: ReasonCode, method: &str, data: &str) -> Auth {
    let data = (!data.is_empty()).then(|| Bytes::copy_from_slice(data.as_bytes()));
    Auth { reason, method: Some(text(method)), data, properties: ReasonProperties::EMPTY }
}

/// The payloads of publishes, as text.
pub fn payloads(publishes: &[Publish]) -> Vec<&str> {
    publishes.iter().map(|p| std::str::from_utf8(&p.payload).unwrap()).collect()
}

/// What tests do over and over.
impl Net {
    /// Connects and takes the CONNACK, which must accept.
    pub fn online(&mut self, connect: Connect) -> Client {
        let client = self.connect(connect);
        assert_eq!(self.connack(client).reason, ReasonCode::Success);
        client
    }

    /// Connects and takes the CONNACK, which must accept and tell whether the session goes on.
    pub fn resumed(&mut self, connect: Connect, present: bool) -> Client {
        let client = self.connect(connect);
        let connack = self.connack(client);
        assert_eq!(connack.reason, ReasonCode::Success);
        assert_eq!(connack.session_present, present, "Session Present");
        client
    }

    /// Takes the CONNACK, which comes first; what follows stays to be received.
    pub fn connack(&mut self, client: Client) -> ConnAck {
        match self.next(client) {
            Some(Packet::ConnAck(connack)) => *connack,
            other => panic!("{other:?} instead of CONNACK"),
        }
    }

    /// Subscribes at one QoS and takes the SUBACK, which must grant it.
    pub fn subscribe(&mut self, client: Client, name: &str, qos: Qos) {
        self.subscribe_with(client, name, options(qos));
    }

    /// Subscribes and takes the SUBACK, which must grant the QoS asked for.
    pub fn subscribe_with(&mut self, client: Client, name: &str, options: SubscriptionOptions) {
        let reasons = self.suback(client, subscribe(&[(name, options)]));
        assert_eq!(reasons, [ReasonCode::granted(options.qos)]);
    }

    /// Sends a SUBSCRIBE and takes the reasons of its SUBACK.
    pub fn suback(&mut self, client: Client, subscribe: Subscribe) -> Vec<ReasonCode> {
        let packet_id = subscribe.packet_id;
        self.send(client, subscribe);
        self.run();
        let suback = self.take(client, |packet| matches!(packet, Packet::SubAck(_)));
        let Some(Packet::SubAck(suback)) = suback else { panic!("no SUBACK") };
        assert_eq!(suback.packet_id, packet_id, "[MQTT5-3.8.4-2]");
        suback.reasons.to_vec()
    }

    /// Sends an UNSUBSCRIBE and takes the reasons of its UNSUBACK.
    pub fn unsuback(&mut self, client: Client, filters: &[&str]) -> Vec<ReasonCode> {
        self.send(client, unsubscribe(filters));
        self.run();
        let unsuback = self.take(client, |packet| matches!(packet, Packet::UnsubAck(_)));
        let Some(Packet::UnsubAck(unsuback)) = unsuback else { panic!("no UNSUBACK") };
        assert_eq!(unsuback.packet_id, id(8), "[MQTT5-3.10.4-4]");
        unsuback.reasons.to_vec()
    }

    /// Sends a PUBLISH and sees it through: takes the acknowledgements, which must not be errors.
    pub fn publish(&mut self, client: Client, publish: Publish) {
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        self.send(client, publish);
        self.run();
        if qos == QOS1 {
            let ack = self.take(client, |packet| matches!(packet, Packet::PubAck(_)));
            assert!(matches!(ack, Some(Packet::PubAck(ack)) if !ack.reason.is_error()));
        } else if let (QOS2, Some(packet_id)) = (qos, packet_id) {
            let ack = self.take(client, |packet| matches!(packet, Packet::PubRec(_)));
            assert!(matches!(ack, Some(Packet::PubRec(ack)) if !ack.reason.is_error()));
            self.send(client, pubrel(packet_id.get()));
            self.run();
            let ack = self.take(client, |packet| matches!(packet, Packet::PubComp(_)));
            assert!(matches!(ack, Some(Packet::PubComp(_))));
        }
    }

    /// Receives and acknowledges until nothing more comes. Everything must be part of a delivery.
    pub fn settle(&mut self, client: Client) -> Vec<Publish> {
        let mut publishes = Vec::new();
        self.run();
        while let Some(packet) = self.next(client) {
            match packet {
                Packet::Publish(publish) => {
                    match (publish.qos, publish.packet_id) {
                        (QOS1, Some(id)) => self.send(client, puback(id.get())),
                        (QOS2, Some(id)) => self.send(client, pubrec(id.get())),
                        _ => {}
                    }
                    publishes.push(self.resolve(client, publish));
                }
                Packet::PubRel(ack) => self.send(client, pubcomp(ack.packet_id.get())),
                other => panic!("{other:?} is not part of a delivery"),
            }
            self.run();
        }
        publishes
    }

    /// The payloads of [`Net::settle`].
    pub fn settled(&mut self, client: Client) -> Vec<String> {
        payloads(&self.settle(client)).into_iter().map(str::to_owned).collect()
    }

    /// The client must have got nothing.
    pub fn silent(&mut self, client: Client) {
        assert_eq!(self.received(client), []);
    }

    /// The broker must have closed: with this reason in MQTT 5, without a word before.
    pub fn ended(&mut self, client: Client, reason: ReasonCode) {
        assert!(!self.is_open(client), "still open");
        let last = self.received(client).pop();
        match (last, self.version(client)) {
            (Some(Packet::Disconnect(last)), Version::V5) => assert_eq!(last.reason, reason),
            (None, Version::V3_1 | Version::V3_1_1) => {}
            (other, _) => panic!("{other:?} instead of the end with {reason:?}"),
        }
    }

    /// The broker must have refused the CONNECT, told why, and closed.
    pub fn refused(&mut self, client: Client, reason: ReasonCode) {
        let connack = self.connack(client);
        let told = match self.version(client) {
            Version::V5 => reason,
            _ => ReasonCode::from_connack_v3(reason.connack_v3()).unwrap(),
        };
        assert_eq!(connack.reason, told);
        assert!(!connack.session_present, "[MQTT5-3.2.2-6] [MQTT311-3.2.2-4]");
        assert!(!self.is_open(client), "[MQTT5-3.2.2-7] [MQTT311-3.2.2-5]");
        self.silent(client);
    }
}
