//! Deliveries in both directions, for programs that publish and get it back.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use bytes::Bytes;
use petrel_proto::{
    Ack, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, Subscribe, SubscribeFilter,
    SubscriptionOptions, TopicFilter, TopicName, UserProperties,
};

use super::{Connection, Happening};
use crate::failure::{Failure, in_words};

/// What a packet was.
#[derive(Debug)]
pub enum Event {
    /// A message that arrives for the first time.
    Message(Publish),
    /// A QoS 1 or 2 message of ours is with the broker.
    Accepted,
    /// A part of an exchange, or nothing that matters here.
    Nothing,
}

/// QoS 1 and 2 exchanges of one connection that have not come to their end.
#[derive(Debug, Default)]
pub struct Exchanges {
    /// What is published, and whether PUBREC has come.
    published: HashMap<PacketId, Awaits>,
    /// QoS 2 messages that have arrived and whose PUBREL is to come ([MQTT5-4.3.3-10]).
    unreleased: HashSet<PacketId>,
}

/// What a QoS 1 or 2 delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Ack,
    Rec,
    Comp,
}

impl Exchanges {
    /// Messages of ours that the broker has not taken over yet.
    pub fn in_flight(&self) -> usize {
        self.published.len()
    }

    /// True if nothing waits in either direction.
    pub fn is_at_rest(&self) -> bool {
        self.published.is_empty() && self.unreleased.is_empty()
    }

    /// Queues a message.
    pub fn publish(
        &mut self,
        connection: &mut Connection,
        topic: &TopicName,
        qos: Qos,
        payload: Bytes,
    ) -> Result<(), Failure> {
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce | Qos::ExactlyOnce => {
                let awaits = if qos == Qos::AtLeastOnce { Awaits::Ack } else { Awaits::Rec };
                let id = connection.packet_id();
                self.published.insert(id, awaits);
                Some(id)
            }
        };
        connection.send(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic: topic.clone(),
            packet_id,
            properties: PublishProperties::default(),
            payload,
        }))
    }

    /// Answers a packet as its exchange wants it.
    ///
    /// # Errors
    /// The broker does not want a message.
    pub fn on_packet(
        &mut self,
        connection: &mut Connection,
        packet: Packet,
    ) -> Result<Event, Failure> {
        match packet {
            Packet::Publish(publish) => return self.on_publish(connection, publish),
            Packet::PubRel(release) => {
                let reason = match self.unreleased.remove(&release.packet_id) {
                    true => ReasonCode::Success,
                    false => ReasonCode::PacketIdentifierNotFound,
                };
                connection.send(&Packet::PubComp(Ack::new(release.packet_id, reason)))?;
            }
            Packet::PubAck(ack) => return self.on_ack(&ack, Awaits::Ack),
            Packet::PubComp(ack) => return self.on_ack(&ack, Awaits::Comp),
            Packet::PubRec(ack) if ack.reason.is_error() => return self.on_ack(&ack, Awaits::Rec),
            Packet::PubRec(ack) => {
                let reason = match self.published.get_mut(&ack.packet_id) {
                    Some(awaits) if *awaits != Awaits::Ack => {
                        *awaits = Awaits::Comp;
                        ReasonCode::Success
                    }
                    _ => ReasonCode::PacketIdentifierNotFound,
                };
                connection.send(&Packet::PubRel(Ack::new(ack.packet_id, reason)))?;
            }
            _ => {}
        }
        Ok(Event::Nothing)
    }

    fn on_publish(
        &mut self,
        connection: &mut Connection,
        publish: Publish,
    ) -> Result<Event, Failure> {
        let Some(id) = publish.packet_id else { return Ok(Event::Message(publish)) };
        let ack = Ack::new(id, ReasonCode::Success);
        let mut is_new = true;
        match publish.qos {
            Qos::ExactlyOnce => {
                is_new = self.unreleased.insert(id);
                connection.send(&Packet::PubRec(ack))?;
            }
            Qos::AtLeastOnce | Qos::AtMostOnce => connection.send(&Packet::PubAck(ack))?,
        }
        Ok(if is_new { Event::Message(publish) } else { Event::Nothing })
    }

    /// The last step of a delivery, or its rejection.
    fn on_ack(&mut self, ack: &Ack, awaited: Awaits) -> Result<Event, Failure> {
        if self.published.get(&ack.packet_id) != Some(&awaited) {
            return Ok(Event::Nothing);
        }
        self.published.remove(&ack.packet_id);
        if ack.reason.is_error() {
            let (words, code) = (in_words(ack.reason), ack.reason as u8);
            let text = format!("the broker rejects the message: {words} (0x{code:02x})");
            return Err(Failure::new(text));
        }
        Ok(Event::Accepted)
    }
}

/// Subscribes and waits until the broker has acknowledged it.
///
/// # Errors
/// The broker refuses, does not answer in time, or is gone.
pub fn subscribe(
    connection: &mut Connection,
    filter: TopicFilter,
    qos: Qos,
    deadline: Instant,
) -> Result<(), Failure> {
    let packet_id = connection.packet_id();
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    connection.send(&Packet::Subscribe(Box::new(Subscribe {
        packet_id,
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [SubscribeFilter { filter, options }].into_iter().collect(),
    })))?;
    loop {
        while let Some(packet) = connection.arrived()? {
            let Packet::SubAck(ack) = packet else { continue };
            if ack.packet_id != packet_id {
                continue;
            }
            let reason = ack.reasons.first().copied().unwrap_or(ReasonCode::UnspecifiedError);
            if !reason.is_error() {
                return Ok(());
            }
            let (words, code) = (in_words(reason), reason as u8);
            let text = format!("the broker refuses the subscription: {words} (0x{code:02x})");
            return Err(Failure::new(text));
        }
        match connection.wait(Some(deadline), None)? {
            Happening::Interrupted => return Err(Failure::interrupted()),
            Happening::Received | Happening::Written | Happening::Input
                if Instant::now() < deadline => {}
            // Whoever sends other things all the time does not answer either.
            _ => {
                let text = format!("{} does not answer in time", connection.place());
                return Err(Failure::new(text));
            }
        }
    }
}
