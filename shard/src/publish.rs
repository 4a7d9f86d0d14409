//! PUBLISH from a client, and the QoS 2 exchange that follows ([MQTT5-3.3], [MQTT5-4.3]).

use petrel_proto::{Ack, Packet, PacketId, Publish, Qos, ReasonCode, Text, TopicName};

use crate::connection::Violation;
use crate::flow::Incoming;
use crate::sabotage::{self, Sabotage};
use crate::shard::{Shard, Turn};
use crate::{ConnId, Message};

impl Shard {
    pub(crate) fn on_publish(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        mut publish: Publish,
    ) -> Result<(), Violation> {
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        self.check_publish(&publish)?;
        let topic = self.resolve_alias(conn, &mut publish)?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if qos == Qos::ExactlyOnce
            && let Some(packet_id) = packet_id
            && !self.first_receipt(index, packet_id)?
            && !sabotage::on(Sabotage::DuplicateRouted)
        {
            // [MQTT5-4.3.3-10]: answered every time, published once.
            self.acknowledge(turn, conn, qos, packet_id, ReasonCode::Success);
            return Ok(());
        }
        let Some(publisher) = self.connection(conn).map(|c| c.client_hash) else { return Ok(()) };
        let reason = match self.check_publish_topic(&topic) {
            Ok(()) => {
                let message = Message::from_publish(publish, topic, publisher, turn.now_ms);
                let matched = self.route(turn, message);
                if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers }
            }
            // [MQTT311-3.3.5-2]: an acknowledgement says it; QoS 0 and MQTT 3 cannot be told.
            Err(violation) => violation.reason,
        };
        if let Some(packet_id) = packet_id {
            if qos == Qos::ExactlyOnce && reason.is_error() {
                self.forget_receipt(index, packet_id);
            }
            if sabotage::on(Sabotage::AckLost) && packet_id.get() % 8 == 0 {
                return Ok(());
            }
            self.acknowledge(turn, conn, qos, packet_id, reason);
        }
        Ok(())
    }

    fn check_publish(&self, publish: &Publish) -> Result<(), Violation> {
        let limits = self.limits();
        if !publish.properties.subscription_identifiers.is_empty() {
            let what = "a client must not send a Subscription Identifier [MQTT5-3.3.4-6]";
            return Err(Violation::protocol(what));
        }
        if publish.qos as u8 > limits.maximum_qos {
            let what = "QoS above the server's Maximum QoS [MQTT5-3.2.2-11]";
            return Err(Violation::new(ReasonCode::QosNotSupported, what));
        }
        if publish.retain && !limits.retain_available {
            let what = "RETAIN, which the server does not offer [MQTT5-3.2.2-14]";
            return Err(Violation::new(ReasonCode::RetainNotSupported, what));
        }
        self.check_levels(&publish.topic)
    }

    /// Whether a topic name is within the broker's own bound.
    pub(crate) fn check_levels(&self, topic: &TopicName) -> Result<(), Violation> {
        let levels = topic.as_bytes().iter().filter(|&&byte| byte == b'/').count() + 1;
        if levels > usize::from(self.limits().topic_levels_maximum) {
            let what = "the topic name has more levels than topic_levels_maximum";
            return Err(Violation::new(ReasonCode::TopicNameInvalid, what));
        }
        Ok(())
    }

    /// Whether clients may publish to a topic: those under `$SYS` and `$share` are the broker's.
    pub(crate) fn check_publish_topic(&self, topic: &TopicName) -> Result<(), Violation> {
        let first = topic.levels().next().unwrap_or_default();
        if matches!(first, b"$SYS" | b"$share") {
            let what = "clients must not publish to the server's own topics (4.7.2)";
            return Err(Violation::new(ReasonCode::NotAuthorized, what));
        }
        Ok(())
    }

    /// The topic name that the packet means, learning its alias if it brings one
    /// ([MQTT5-3.3.2-7] to [MQTT5-3.3.2-12]).
    fn resolve_alias(
        &mut self,
        conn: ConnId,
        publish: &mut Publish,
    ) -> Result<TopicName, Violation> {
        let topic = std::mem::take(&mut publish.topic);
        let Some(alias) = publish.properties.topic_alias.take() else { return Ok(topic) };
        if alias == 0 || alias > self.limits().topic_alias_maximum {
            let what = "a topic alias of 0 or above the maximum [MQTT5-3.3.2-8]";
            return Err(Violation::new(ReasonCode::TopicAliasInvalid, what));
        }
        let Some(connection) = self.connection_mut(conn) else { return Ok(topic) };
        let at = usize::from(alias - 1);
        if topic.as_bytes().is_empty() {
            let aliases = connection.extras().map_or(&[][..], |extras| &extras.incoming_aliases);
            let known = aliases.get(at).cloned().unwrap_or_default();
            if known.as_bytes().is_empty() {
                return Err(Violation::protocol("an unknown topic alias and no topic name"));
            }
            return Ok(known);
        }
        let aliases = &mut connection.extras_mut().incoming_aliases;
        if aliases.len() <= at {
            aliases.resize_with(at + 1, TopicName::default);
        }
        let owned = TopicName::new(Text::to_owned_text(topic.text()));
        aliases[at] = owned.unwrap_or_default();
        Ok(topic)
    }

    /// Notes a QoS 2 publish. Returns false if it was received before and not released.
    fn first_receipt(&mut self, index: u32, packet_id: PacketId) -> Result<bool, Violation> {
        let maximum = self.limits().receive_maximum;
        let Some(session) = self.sessions.get_mut(index) else { return Ok(true) };
        let flow = self.flows.of(&mut session.flow);
        let found = flow.find_incoming(packet_id);
        let counted = matches!(found, Ok(at) if flow.incoming[at].counted);
        if !counted {
            if flow.counted >= maximum {
                let what =
                    "more unfinished QoS 2 messages than our Receive Maximum [MQTT5-3.3.4-7]";
                return Err(Violation::new(ReasonCode::ReceiveMaximumExceeded, what));
            }
            flow.counted += 1;
        }
        match found {
            Ok(at) => flow.incoming[at].counted = true,
            Err(at) => flow.incoming.insert(at, Incoming { packet_id, counted: true }),
        }
        Ok(found.is_err())
    }

    /// Releases a QoS 2 publish. Returns false if there was none.
    fn forget_receipt(&mut self, index: u32, packet_id: PacketId) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let known = session.flow.as_deref_mut().is_some_and(|flow| flow.forget_incoming(packet_id));
        self.flows.settle(&mut session.flow);
        known
    }

    /// PUBACK or PUBREC ([MQTT5-4.3.2-4], [MQTT5-4.3.3-8]).
    fn acknowledge(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        qos: Qos,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        let ack = Ack::new(packet_id, reason);
        let packet =
            if qos == Qos::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        self.send(turn, conn, &packet);
    }

    /// The client releases a QoS 2 message: answered with PUBCOMP, 0x92 if it was unknown
    /// ([MQTT5-4.3.3-11], [MQTT5-4.3.3-12]).
    pub(crate) fn on_pubrel(
        &mut self,
        turn: &mut Turn<'_>,
        conn: ConnId,
        ack: &Ack,
    ) -> Result<(), Violation> {
        let Some(index) = self.session_of(conn) else { return Ok(()) };
        let known = self.forget_receipt(index, ack.packet_id);
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        self.send(turn, conn, &Packet::PubComp(Ack::new(ack.packet_id, reason)));
        Ok(())
    }
}
