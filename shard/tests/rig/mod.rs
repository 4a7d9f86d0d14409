//! One shard and as many clients as wanted, in packets instead of bytes.

use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode,
    Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter, TopicName, UserProperties,
    Version, Will,
};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{
    ConnId, Input, Interest, Limits, Now, Origin, Outbox, Shard, ShardConfig, ShardIndex, SlotMap,
};

const HASH_KEY: [u64; 2] = [1, 2];

/// The shard, its clock, and what carries its outbox out.
pub struct Rig {
    pub shard: Shard,
    pub now_ms: u64,
    out: Outbox,
}

/// What a client asks for when it connects.
#[derive(Clone, Copy, Default)]
pub struct Asks {
    pub persistent: bool,
    pub keep_alive_s: u16,
    pub will: bool,
}

pub fn text(value: &str) -> Text {
    Text::try_from(value).expect("a valid string")
}

/// The topic that client `number` is alone with.
pub fn topic(number: u32) -> String {
    format!("device/{number}/command")
}

impl Rig {
    pub fn new() -> Self {
        let config = ShardConfig {
            index: ShardIndex(0),
            slots: SlotMap::even(1),
            limits: Limits::default(),
            auth_methods: Vec::new(),
            access: Default::default(),
            seed: 3,
            hash_key: HASH_KEY,
            keeping: None,
        };
        let shard = Shard::new(config, Arc::new(Interest::new(HashKey::new(HASH_KEY))));
        Self { shard, now_ms: 1, out: Outbox::new() }
    }

    /// Gives one input to the shard, and back to it what it tells itself.
    pub fn handle(&mut self, input: Input) {
        let now = Now { mono_ms: self.now_ms };
        self.shard.handle(now, input, &mut self.out);
        while let Some((from, message)) = self.out.peers.pop() {
            self.shard.handle(now, Input::Peer { from, message }, &mut self.out);
        }
    }

    /// Everything that waits for a socket has left.
    pub fn flush(&mut self, number: u32) {
        self.handle(Input::Flushed { conn: conn(number), pending_bytes: 0 });
        self.out.clear();
    }

    pub fn packet(&mut self, number: u32, packet: Packet) {
        self.handle(Input::Packet { conn: conn(number), packet });
    }

    pub fn connect(&mut self, number: u32, asks: Asks) {
        let will = Will {
            topic: TopicName::new(text(&topic(number))).expect("a topic"),
            payload: Bytes::from_static(b"gone"),
            qos: Qos::AtLeastOnce,
            retain: false,
            delay_interval_s: None,
            properties: PublishProperties::default(),
        };
        let connect = Box::new(Connect {
            version: Version::V3_1_1,
            clean_start: !asks.persistent,
            keep_alive_s: asks.keep_alive_s,
            client_id: text(&format!("idle-{number}")),
            will: asks.will.then(|| Box::new(will)),
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        });
        let origin = Origin {
            listener: 0,
            allow_anonymous: true,
            authenticates: false,
            address: ([127, 0, 0, 1], 1).into(),
            certificate: None,
        };
        self.handle(Input::Connect { conn: conn(number), connect, origin });
        self.flush(number);
    }

    pub fn subscribe(&mut self, number: u32, filter: &str, qos: Qos) {
        let filter = TopicFilter::new(text(filter)).expect("a filter");
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let packet = Packet::Subscribe(Box::new(Subscribe {
            packet_id: id(1),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: [SubscribeFilter { filter, options }].into_iter().collect(),
        }));
        self.packet(number, packet);
        self.flush(number);
    }

    /// Publishes, and has the one subscriber finish what it got, as packet `packet_id`.
    pub fn exchange(&mut self, from: u32, to: u32, qos: Qos, packet_id: u16) {
        let publish = Publish {
            dup: false,
            qos,
            retain: false,
            topic: TopicName::new(text(&topic(to))).expect("a topic"),
            packet_id: (qos != Qos::AtMostOnce).then(|| id(7)),
            properties: PublishProperties::default(),
            payload: Bytes::from_static(b"0123456789abcdef"),
        };
        self.packet(from, Packet::Publish(publish));
        let ack = Ack::new(id(packet_id), ReasonCode::Success);
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.packet(to, Packet::PubAck(ack)),
            Qos::ExactlyOnce => {
                self.packet(from, Packet::PubRel(Ack::new(id(7), ReasonCode::Success)));
                self.packet(to, Packet::PubRec(ack.clone()));
                self.packet(to, Packet::PubComp(ack));
            }
        }
        self.flush(from);
        self.flush(to);
    }

    /// The client's socket is gone.
    pub fn close(&mut self, number: u32) {
        self.handle(Input::Closed { conn: conn(number) });
        self.out.clear();
    }

    #[allow(dead_code, reason = "each user of this file needs another part of it")]
    pub fn sleep(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.handle(Input::Timer);
        while self.shard.is_overdue() {
            self.handle(Input::Timer);
        }
        self.out.clear();
    }
}

fn conn(number: u32) -> ConnId {
    ConnId { index: number, generation: 1 }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}
