//! What a client that breaks the rules sends, and the reasons that are right for it.

use bytes::BytesMut;
use petrel_proto::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish,
    PublishProperties, Qos, ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions,
    UserProperties, Version, encode,
};

use crate::client::text;
use crate::workload::{filter, topic};
use crate::world::World;

use ReasonCode::{
    MalformedPacket, PacketTooLarge, ProtocolError, ReceiveMaximumExceeded, TopicAliasInvalid,
};

impl World {
    /// Sends something that no client may send.
    pub(crate) fn break_a_rule(&mut self, client: usize, link: usize) {
        let v5 = self.clients[client].habits.version == Version::V5;
        let choices = if v5 { 13 } else { 6 };
        let loose = vec![MalformedPacket, ProtocolError];
        match self.rng.below(choices) {
            0 => self.send_bytes(link, &[0x00, 0x00], Some(loose)),
            1 => self.send_wrong(link, &second_connect(self.clients[client].habits.version), loose),
            2 => self.send_bytes(link, b"\x36\x05\x00\x01a\x00\x01", Some(loose)),
            3 => self.send_bytes(link, b"\x80\x06\x00\x01\x00\x01a\x00", Some(loose)),
            4 => self.send_wrong(link, &connack(), loose),
            5 => {
                let too_large = b"\x30\xff\xff\xff\x7f".as_slice();
                self.send_bytes(link, too_large, Some(vec![PacketTooLarge]));
            }
            6 => self.alias(link, self.scenario.limits.topic_alias_maximum + 1, "t"),
            7 => self.alias(link, 0, "t"),
            8 if self.scenario.limits.topic_alias_maximum > 0
                && self.clients[client].aliases.values().all(|&alias| alias != 31) =>
            {
                let packet = publish(Qos::AtMostOnce, None, Some(31), "");
                let reasons = vec![ProtocolError, TopicAliasInvalid];
                self.send_wrong(link, &packet, reasons);
            }
            9 => self.too_many(link),
            10 => self.send_wrong(link, &no_local_on_shared(), vec![ProtocolError]),
            11 => {
                let mut packet = Disconnect::new(ReasonCode::Success);
                packet.session_expiry_interval_s = Some(10);
                let zero = self.links[link]
                    .key
                    .and_then(|key| self.model.conns.get(&key))
                    .is_some_and(|conn| conn.asked_expiry_s.unwrap_or(0) == 0);
                if zero {
                    let packet = Packet::Disconnect(Box::new(packet));
                    self.send_wrong(link, &packet, vec![ProtocolError]);
                }
            }
            _ => self.send_bytes(link, b"\xff\xff\xff\xff\xff", Some(loose)),
        }
    }

    fn send_wrong(&mut self, link: usize, packet: &Packet, reasons: Vec<ReasonCode>) {
        let mut bytes = BytesMut::new();
        encode(packet, self.links[link].version, &mut bytes);
        self.send_bytes(link, &bytes, Some(reasons));
    }

    fn alias(&mut self, link: usize, alias: u16, topic: &str) {
        let packet = publish(Qos::AtMostOnce, None, Some(alias), topic);
        self.send_wrong(link, &packet, vec![TopicAliasInvalid]);
    }

    /// More QoS 2 messages than the broker takes at a time.
    fn too_many(&mut self, link: usize) {
        let client = self.links[link].client;
        let allowed = self.scenario.limits.receive_maximum;
        if allowed > 10 || !self.clients[client].in_flight.is_empty() {
            return;
        }
        for n in 0..=allowed {
            let packet = publish(Qos::ExactlyOnce, PacketId::new(1000 + n), None, "nobody/cares");
            match n == allowed {
                true => self.send_wrong(link, &packet, vec![ReceiveMaximumExceeded]),
                false => self.send(link, &packet),
            }
        }
    }
}

fn publish(qos: Qos, packet_id: Option<PacketId>, alias: Option<u16>, name: &str) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic(name),
        packet_id,
        properties: PublishProperties { topic_alias: alias, ..Default::default() },
        payload: Default::default(),
    })
}

fn second_connect(version: Version) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: text("again"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }))
}

fn connack() -> Packet {
    Packet::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: ConnAckProperties::default(),
    }))
}

fn no_local_on_shared() -> Packet {
    let options = SubscriptionOptions { no_local: true, ..Default::default() };
    let wanted = SubscribeFilter { filter: filter("$share/x/t"), options };
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId(std::num::NonZeroU16::MIN),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [wanted].into_iter().collect(),
    }))
}
