//! PUBLISH from a client, and the QoS 2 exchange that follows ([MQTT5-3.3], [MQTT5-4.3]).

use petrel_proto::{Ack, Packet, PacketId, Publish, Qos, ReasonCode, Text, TopicName, Version};

use crate::connection::{Connection, Violation};
use crate::event::DropReason;
use crate::flow::Incoming;
use crate::keep::Needs;
use crate::ledger::refuse_message;
use crate::losses::refused;
use crate::record::{Provided, Record};
use crate::sabotage::{self, Sabotage};
use crate::session::Session;
use crate::shard::{Shard, Turn};
use crate::{ConnId, Message};

/// Who publishes: a connection that has got its CONNACK.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publisher {
    conn: ConnId,
    /// Position of its session.
    session: u32,
    client_hash: u64,
}

impl Publisher {
    pub(crate) const fn of(conn: ConnId, connection: &Connection) -> Self {
        Self { conn, session: connection.session, client_hash: connection.client_hash }
    }
}

impl Shard {
    pub(crate) fn on_publish(
        &mut self,
        turn: &mut Turn<'_>,
        from: &Publisher,
        mut publish: Publish,
    ) -> Result<(), Violation> {
        let Publisher { conn, session: index, client_hash: publisher } = *from;
        self.check_publish(&publish)?;
        let topic = self.resolve_alias(conn, &mut publish)?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if qos == Qos::ExactlyOnce
            && let Some(packet_id) = packet_id
            && !self.first_receipt(index, packet_id)?
            && !sabotage::on(Sabotage::DuplicateRouted)
        {
            // [MQTT5-4.3.3-10]: answered every time, published once.
            let again = Packet::PubRec(Ack::new(packet_id, ReasonCode::Success));
            if !self.rejoin_receipt(conn, again.clone()) {
                self.owe(turn, conn, again, &Needs::default());
            }
            return Ok(());
        }
        if self.keep.is_on() {
            self.check_owed(index, conn, qos)?;
        }
        turn.out.ledger.received[qos as usize] += 1;
        let since = self.keep.begin();
        let mut provided = None;
        let cannot_keep = self.refuses && qos != Qos::AtMostOnce && self.can_refuse(conn);
        let reason = match self.check_publish_topic(&topic) {
            Ok(()) if !self.may_publish(index, &topic, qos, publish.retain) => {
                refuse_message(turn, DropReason::NotAuthorized);
                refused(turn, index, topic.as_bytes(), DropReason::NotAuthorized);
                if self.config.access.disconnects
                    && (qos == Qos::AtMostOnce || !self.can_refuse(conn))
                {
                    let what = "the client may not publish to this topic";
                    return Err(Violation::new(ReasonCode::NotAuthorized, what));
                }
                ReasonCode::NotAuthorized
            }
            Ok(()) if self.full => {
                refuse_message(turn, DropReason::MemoryFull);
                refused(turn, index, topic.as_bytes(), DropReason::MemoryFull);
                if qos > Qos::AtMostOnce && !self.can_refuse(conn) {
                    if let Some(packet_id) = packet_id.filter(|_| qos == Qos::ExactlyOnce) {
                        self.forget_receipt(index, packet_id);
                    }
                    return Ok(());
                }
                ReasonCode::QuotaExceeded
            }
            Ok(()) if cannot_keep => {
                refuse_message(turn, DropReason::StorageFull);
                refused(turn, index, topic.as_bytes(), DropReason::StorageFull);
                ReasonCode::QuotaExceeded
            }
            Ok(()) => {
                if qos == Qos::ExactlyOnce {
                    provided = self.provide(index);
                }
                let message = Message::from_publish(publish, topic, publisher, turn.now_ms);
                let matched = self.route(turn, message, provided, Some(index));
                if matched {
                    ReasonCode::Success
                } else {
                    turn.out.ledger.unmatched += 1;
                    ReasonCode::NoMatchingSubscribers
                }
            }
            // [MQTT311-3.3.5-2]: an acknowledgement says it; QoS 0 and MQTT 3 cannot be told.
            Err(violation) => {
                refuse_message(turn, DropReason::NotAuthorized);
                refused(turn, index, topic.as_bytes(), DropReason::NotAuthorized);
                violation.reason
            }
        };
        let Some(packet_id) = packet_id else { return Ok(()) };
        if qos == Qos::ExactlyOnce && reason.is_error() {
            self.forget_receipt(index, packet_id);
        }
        if sabotage::on(Sabotage::AckLost) && packet_id.get() % 8 == 0 {
            return Ok(());
        }
        let ack = Ack::new(packet_id, reason);
        let packet =
            if qos == Qos::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) };
        if !self.keep.is_on() {
            self.send(turn, conn, &packet);
            return Ok(());
        }
        let needs = self.keep.needs(since);
        match provided {
            Some(provided) => self.owe_receipt(turn, conn, provided, packet, &needs),
            None => self.owe(turn, conn, packet, &needs),
        }
        Ok(())
    }

    /// Whether a client can be told that its message is refused, and go on; one of MQTT 3 cannot.
    #[must_use]
    pub fn can_refuse(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|connection| connection.version.is_v5())
    }

    /// Names the receipt of a QoS 2 message, and notes that it will be recorded, if its publisher's
    /// session is kept: the publisher would send it again after a failure.
    fn provide(&mut self, index: u32) -> Option<Provided> {
        let session = self.sessions.get_mut(index)?;
        let incarnation = session.kept_whole()?.incarnation;
        self.next_receipt(incarnation)
    }

    /// Whether one message more may wait for its acknowledgement ([MQTT5-3.3.4-7]).
    fn check_owed(&self, index: u32, conn: ConnId, qos: Qos) -> Result<(), Violation> {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_deref());
        let owed = flow.map_or(0, |flow| flow.owed.len());
        let version = self.connection(conn).map(|connection| connection.version);
        // Twice, since what is owed are not PUBACKs only.
        let bound = 2 * usize::from(self.limits().receive_maximum);
        if qos == Qos::AtLeastOnce && version.is_some_and(Version::is_v5) && owed >= bound {
            let what = "more unfinished messages than our Receive Maximum [MQTT5-3.3.4-7]";
            return Err(Violation::new(ReasonCode::ReceiveMaximumExceeded, what));
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

    /// Whether a topic name is within the broker's own bounds.
    pub(crate) fn check_levels(&self, topic: &TopicName) -> Result<(), Violation> {
        let (topic, most) = (topic.as_bytes(), usize::from(self.limits().topic_levels_maximum));
        // A name of so many bytes has one level more at most.
        if topic.len() >= most && topic.iter().filter(|&&byte| byte == b'/').count() >= most {
            let what = "the topic name has more levels than topic_levels_maximum";
            return Err(Violation::new(ReasonCode::TopicNameInvalid, what));
        }
        if topic.len() > usize::from(self.limits().topic_bytes_maximum) {
            let what = "the topic name is longer than topic_bytes_maximum";
            return Err(Violation::new(ReasonCode::TopicNameInvalid, what));
        }
        Ok(())
    }

    /// Whether clients may publish to a topic: those under `$SYS` and `$share` are the broker's.
    pub(crate) fn check_publish_topic(&self, topic: &TopicName) -> Result<(), Violation> {
        if topic.is_system() && matches!(topic.levels().next(), Some(b"$SYS" | b"$share")) {
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
            Err(at) => {
                let recorded = session.kept.as_deref().is_some_and(|kept| kept.whole);
                flow.incoming.insert(at, Incoming { packet_id, counted: true, recorded });
            }
        }
        Ok(found.is_err())
    }

    /// Releases a QoS 2 publish and returns it.
    fn forget_receipt(&mut self, index: u32, packet_id: PacketId) -> Option<Incoming> {
        let session = self.sessions.get_mut(index)?;
        let known = session.flow.as_deref_mut().and_then(|flow| flow.forget_incoming(packet_id));
        self.flows.settle(&mut session.flow);
        known
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
        let packet_id = ack.packet_id;
        let known = self.forget_receipt(index, packet_id);
        let reason = match known {
            Some(_) => ReasonCode::Success,
            None => ReasonCode::PacketIdentifierNotFound,
        };
        if !self.keep.is_on() {
            self.send(turn, conn, &Packet::PubComp(Ack::new(packet_id, reason)));
            return Ok(());
        }
        let mut needs = Needs::default();
        if known.is_some_and(|incoming| incoming.recorded)
            && !self.forget_receipt_early(index, packet_id)
            && let Some(incarnation) = self.sessions.get(index).and_then(|s| s.incarnation())
        {
            self.record(turn, Record::Forgotten { incarnation, packet_id });
            needs = self.keep.needs_all();
        } else if known.is_none()
            && !sabotage::on(Sabotage::CompletionUnawaited)
            && self.sessions.get(index).is_some_and(Session::is_kept_whole)
        {
            // It may have been forgotten a moment ago, on another connection.
            needs = self.keep.needs_all();
        }
        self.owe(turn, conn, Packet::PubComp(Ack::new(packet_id, reason)), &needs);
        Ok(())
    }
}
