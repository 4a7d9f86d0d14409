//! Oracle *acks*: every packet of a client is answered once, rightly and in order.
//!
//! [MQTT5-4.3.2-4], [MQTT5-4.3.3-8] to -12, [MQTT5-4.6.0-2] to -4, [MQTT5-3.8.4-1], [MQTT5-3.8.4-2],
//! [MQTT5-3.9.3-1], [MQTT5-3.10.4-4], [MQTT5-3.10.4-5], [MQTT5-3.12.4-1], [MQTT5-2.2.1-5].

use petrel_proto::{
    Ack, Disconnect, Packet, Publish, Qos, ReasonCode, ReasonProperties, Subscribe, Unsubscribe,
    Version,
};

use crate::label::Label;
use crate::model::{Instance, Key, Kind, Model, Owed, Session, Sub};
use crate::oracle::Hint;
use crate::violation::Checked;
use crate::{hold, violated};

const ORACLE: &str = "acks";

impl Model {
    /// Accounts for a packet from a client.
    pub(super) fn on_packet(&mut self, key: Key, packet: &Packet, hint: &Hint) -> Checked {
        let Some(conn) = self.conns.get_mut(&key).filter(|conn| !conn.ended) else {
            return Ok(());
        };
        conn.heard_ms = self.at.now_ms;
        if let Some(reasons) = &hint.hostile {
            return self.on_broken_rule(key, reasons.clone());
        }
        let Some(session) = conn.session else { return Ok(()) };
        match packet {
            Packet::Publish(publish) => return self.on_publish(key, session, publish),
            Packet::PubAck(ack) => self.on_puback(key, session, ack),
            Packet::PubRec(ack) => self.on_pubrec(key, session, ack),
            Packet::PubRel(ack) => self.on_pubrel(key, session, ack),
            Packet::PubComp(ack) => self.finish(key, session, ack.packet_id.get()),
            Packet::Subscribe(subscribe) => self.on_subscribe(key, session, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(key, session, unsubscribe),
            Packet::PingReq => self.owe(key, Kind::PingResp, 0, vec![]),
            Packet::Disconnect(disconnect) => return self.on_disconnect(key, disconnect),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => {}
            Packet::Auth(auth) => self.on_client_auth(key, auth),
        }
        Ok(())
    }

    fn owe(&mut self, key: Key, kind: Kind, packet_id: u16, reasons: Vec<ReasonCode>) {
        let step = self.at.step;
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.owed.push_back(Owed { kind, packet_id, reasons, filters: Vec::new(), step });
        }
    }

    fn on_publish(&mut self, key: Key, session: usize, publish: &Publish) -> Checked {
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        let mut topic = publish.topic.clone();
        if let Some(alias) = publish.properties.topic_alias {
            if topic.as_bytes().is_empty() {
                let known = conn.aliases_in.get(&alias).cloned().unwrap_or_default();
                topic = petrel_proto::Text::try_from(known.as_str())
                    .and_then(petrel_proto::TopicName::new)
                    .unwrap_or_default();
            } else {
                conn.aliases_in.insert(alias, topic.text().as_str().to_owned());
            }
        }
        let publisher = conn.client_id.clone();
        let version = conn.version;
        let id = publish.packet_id.map_or(0, petrel_proto::PacketId::get);
        let may = self.policy().may_publish(&publisher, topic.text().as_str());
        let answer = match (may, version) {
            (false, Version::V5) => vec![ReasonCode::NotAuthorized],
            _ => accepted(),
        };
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.owe(key, Kind::PubAck, id, answer),
            Qos::ExactlyOnce => {
                let in_qos2 = &mut self.sessions[session].in_qos2;
                if in_qos2.contains(&id) {
                    self.owe(key, Kind::PubRec, id, accepted());
                    return Ok(());
                }
                if may {
                    in_qos2.insert(id);
                }
                self.owe(key, Kind::PubRec, id, answer);
            }
        }
        if !may {
            return Ok(());
        }
        let Some(label) = Label::of(&publish.payload) else { return Ok(()) };
        let expiry_s = publish.properties.message_expiry_interval_s;
        let mut properties = publish.properties.clone();
        properties.message_expiry_interval_s = None;
        properties.topic_alias = None;
        self.set_out(
            key.0,
            Instance {
                label,
                publisher,
                topic,
                qos: publish.qos,
                retain: publish.retain,
                properties,
                payload: publish.payload.clone(),
                at: self.at,
                expires_ms: petrel_shard::message::expiry(expiry_s, self.at.now_ms),
            },
        )
    }

    fn on_puback(&mut self, key: Key, session: usize, ack: &Ack) {
        let id = ack.packet_id.get();
        if outgoing(&self.sessions[session], id).is_some_and(|(qos, _)| qos == Qos::AtLeastOnce) {
            self.finish(key, session, id);
        }
    }

    fn on_pubrec(&mut self, key: Key, session: usize, ack: &Ack) {
        let id = ack.packet_id.get();
        match outgoing(&self.sessions[session], id) {
            Some((Qos::ExactlyOnce, _)) if ack.reason.is_error() => self.finish(key, session, id),
            Some((Qos::ExactlyOnce, _)) => {
                for out in &mut self.sessions[session].out {
                    if out.packet_id == id {
                        out.received = true;
                        out.conn = key;
                    }
                }
                self.owe(key, Kind::PubRel, id, vec![ReasonCode::Success]);
            }
            _ if ack.reason.is_error() => {}
            _ => self.owe(key, Kind::PubRel, id, vec![self.unknown_id(key)]),
        }
    }

    fn on_pubrel(&mut self, key: Key, session: usize, ack: &Ack) {
        let id = ack.packet_id.get();
        let reason = match self.sessions[session].in_qos2.remove(&id) {
            true => ReasonCode::Success,
            false => self.unknown_id(key),
        };
        self.owe(key, Kind::PubComp, id, vec![reason]);
    }

    /// The answer to an acknowledgement of nothing; before MQTT 5 there is no code for it.
    fn unknown_id(&self, key: Key) -> ReasonCode {
        match self.conns.get(&key) {
            Some(conn) if conn.version == Version::V5 => ReasonCode::PacketIdentifierNotFound,
            _ => ReasonCode::Success,
        }
    }

    fn on_subscribe(&mut self, key: Key, session: usize, packet: &Subscribe) {
        let mut owed = Owed {
            kind: Kind::SubAck,
            packet_id: packet.packet_id.get(),
            reasons: Vec::new(),
            filters: Vec::new(),
            step: self.at.step,
        };
        for wanted in &packet.filters {
            let options = wanted.options;
            let written = wanted.filter.text().as_str().to_owned();
            let shared = wanted.filter.shared();
            let filter = shared.as_ref().map_or(&wanted.filter, |shared| &shared.filter);
            let client_id = &self.sessions[session].client_id;
            if !self.policy().may_subscribe(client_id, filter.text().as_str()) {
                let v5 = self.conns.get(&key).is_some_and(|conn| conn.version == Version::V5);
                let (told, before) = (ReasonCode::NotAuthorized, ReasonCode::UnspecifiedError);
                owed.reasons.push(if v5 { told } else { before });
                continue;
            }
            let sub = Sub {
                filter: filter.clone(),
                share: shared.map(|shared| shared.share.text().as_str().to_owned()),
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id: packet.subscription_identifier,
                made: self.at.step,
                acked: None,
            };
            let earlier = self.sessions[session].subs.remove(&written);
            self.replace_asked(session, &sub.filter);
            if sub.wants_retained(options.retain_handling, earlier.is_some()) {
                self.ask_retained(session, key, &sub);
            }
            if let Some(share) = &sub.share {
                self.join_group(session, &written, share, &sub);
            }
            // A subscription that is replaced goes on; it was acknowledged before.
            let (made, acked) = earlier.map_or((sub.made, None), |sub| (sub.made, sub.acked));
            self.sessions[session].subs.insert(written.clone(), Sub { made, acked, ..sub });
            owed.reasons.push(ReasonCode::granted(options.qos));
            owed.filters.push(written);
        }
        if let Some(conn) = self.conns.get_mut(&key) {
            conn.owed.push_back(owed);
        }
    }

    fn on_unsubscribe(&mut self, key: Key, session: usize, packet: &Unsubscribe) {
        let mut reasons = Vec::new();
        for filter in &packet.filters {
            let written = filter.text().as_str();
            reasons.push(match self.sessions[session].subs.remove(written) {
                Some(sub) => {
                    self.replace_asked(session, &sub.filter);
                    if let Some(share) = &sub.share {
                        self.leave_group(session, share, &sub.filter);
                    }
                    ReasonCode::Success
                }
                None => ReasonCode::NoSubscriptionExisted,
            });
        }
        if self.conns.get(&key).is_some_and(|conn| conn.version != Version::V5) {
            reasons.clear();
        }
        self.owe(key, Kind::UnsubAck, packet.packet_id.get(), reasons);
    }

    fn on_disconnect(&mut self, key: Key, packet: &Disconnect) -> Checked {
        if let Some(conn) = self.conns.get_mut(&key)
            && let Some(expiry_s) = packet.session_expiry_interval_s
        {
            conn.expiry_s = expiry_s.min(self.limits.session_expiry_max_s);
        }
        self.must_close(key, Vec::new());
        self.end_conn(key, packet.reason == ReasonCode::Success)
    }

    /// Checks an acknowledgement, SUBACK, UNSUBACK or PINGRESP.
    pub(super) fn on_answer(&mut self, key: Key, packet: &Packet) -> Checked {
        let (kind, id) = Kind::of(packet)
            .ok_or_else(|| violated!(ORACLE, "the broker sent a client's packet: {packet:?}"))?;
        let Some(conn) = self.conns.get_mut(&key) else { return Ok(()) };
        let (who, session) = (conn.client_id.clone(), conn.session);
        let ordered = matches!(kind, Kind::PubAck | Kind::PubRec | Kind::PubRel);
        let first = conn
            .owed
            .iter()
            .position(|owed| owed.kind == kind && (ordered || owed.packet_id == id))
            .filter(|&at| conn.owed[at].packet_id == id);
        let Some(first) = first else {
            if kind == Kind::PubRel {
                return self.on_pubrel_again(key, id);
            }
            let owed: Vec<_> = conn.owed.iter().filter(|owed| owed.kind == kind).collect();
            return Err(violated!(
                ORACLE,
                "{who:?} got {packet:?} out of order or unasked; owed are {owed:?}"
            ));
        };
        let Some(owed) = conn.owed.remove(first) else { return Ok(()) };
        hold!(
            !conn.quiet || problem(packet).is_none_or(ReasonProperties::is_empty),
            ORACLE,
            "{who:?} asked for no problem information and got {packet:?} [MQTT5-3.1.2-29]"
        );
        let given = reasons(packet);
        let right = match kind {
            Kind::SubAck | Kind::UnsubAck => given == owed.reasons,
            Kind::PingResp => true,
            _ => given.iter().all(|reason| owed.reasons.contains(reason)),
        };
        hold!(right, ORACLE, "{who:?} got {packet:?}, right are {:?}", owed.reasons);
        if let Some(session) = session {
            for written in owed.filters {
                self.on_subscribed(session, &written, owed.step);
            }
        }
        Ok(())
    }

    /// A SUBACK makes a subscription live, unless it has ended and another has taken its place.
    fn on_subscribed(&mut self, session: usize, written: &str, asked: u64) {
        let step = self.at.step;
        let sub = self.sessions[session].subs.get_mut(written).filter(|sub| sub.made <= asked);
        let Some(sub) = sub else { return };
        sub.acked.get_or_insert(step);
        if let Some(share) = sub.share.clone() {
            let filter = sub.filter.clone();
            self.joined_group(session, &share, &filter, asked);
        }
    }

    /// Nobody waits for an answer once everything has come to rest.
    pub(crate) fn check_answered(&self) -> Checked {
        for conn in self.conns.values() {
            hold!(
                conn.owed.is_empty(),
                ORACLE,
                "{:?} still waits for {:?}",
                conn.client_id,
                conn.owed
            );
        }
        Ok(())
    }
}

fn accepted() -> Vec<ReasonCode> {
    vec![ReasonCode::Success, ReasonCode::NoMatchingSubscribers]
}

fn outgoing(session: &Session, id: u16) -> Option<(Qos, bool)> {
    session.out.iter().find(|out| out.packet_id == id).map(|out| (out.qos, out.received))
}

/// What an answer says for people.
fn problem(packet: &Packet) -> Option<&ReasonProperties> {
    match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            Some(&ack.properties)
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => Some(&ack.properties),
        _ => None,
    }
}

fn reasons(packet: &Packet) -> Vec<ReasonCode> {
    match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            vec![ack.reason]
        }
        Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.reasons.to_vec(),
        _ => Vec::new(),
    }
}
