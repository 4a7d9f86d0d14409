//! `petrelctl sub`.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Write as _};
use std::time::Instant;

use jiff::Zoned;
use petrel_proto::{
    Ack, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, SubAck, Subscribe,
    SubscribeFilter, Text, Unsubscribe,
};

use crate::client::{Connection, Happening};
use crate::failure::{Failure, in_words};
use crate::options::properties::PacketKind;
use crate::options::subscribe::{Retained, SubscribeOptions};

/// Subscribes and prints until something ends it.
pub fn run(options: &SubscribeOptions) -> Result<(), Failure> {
    let end = options.common.time_limit.map(|limit| Instant::now() + limit);
    let mut subscriber = Subscriber {
        connection: Connection::open(&options.common)?,
        options,
        unacknowledged: HashSet::new(),
        unreleased: HashSet::new(),
        cleared: HashSet::new(),
        printed: 0,
        finishing: false,
        out: Vec::new(),
    };
    subscriber.subscribe()?;
    let verdict = match subscriber.print_all(end) {
        Ok(verdict) => verdict,
        Err(failure) => {
            // What arrived before the connection was lost has been acknowledged, so it is owed.
            subscriber.flush_output()?;
            return Err(failure);
        }
    };
    subscriber.connection.disconnect(&options.common)?;
    verdict
}

struct Subscriber<'o> {
    connection: Connection,
    options: &'o SubscribeOptions,
    /// SUBSCRIBE and UNSUBSCRIBE without an answer.
    unacknowledged: HashSet<PacketId>,
    /// QoS 2 messages that were printed and whose PUBREL is to come ([MQTT5-4.3.3-10]).
    unreleased: HashSet<PacketId>,
    /// Topics whose retained message this program has cleared. The message that does it comes back to it
    /// like to everybody else, and is no news.
    cleared: HashSet<Text>,
    printed: u64,
    /// Nothing more is printed; deliveries that have begun are ended.
    finishing: bool,
    out: Vec<u8>,
}

/// How the program ends once the connection is closed.
type Verdict = Result<(), Failure>;

impl Subscriber<'_> {
    fn subscribe(&mut self) -> Result<(), Failure> {
        let options = self.options;
        let list = &options.common.properties;
        if !options.filters.is_empty() {
            let packet_id = self.connection.packet_id();
            self.unacknowledged.insert(packet_id);
            let mut subscription = options.subscription;
            if options.retained == Retained::Hidden && self.connection.version().is_v5() {
                subscription.retain_handling = petrel_proto::RetainHandling::DoNotSend;
            }
            let filters = options
                .filters
                .iter()
                .map(|filter| SubscribeFilter { filter: filter.clone(), options: subscription });
            self.connection.send(&Packet::Subscribe(Box::new(Subscribe {
                packet_id,
                subscription_identifier: list.subscription_identifier,
                user_properties: list.user_properties(PacketKind::Subscribe),
                filters: filters.collect(),
            })))?;
        }
        if !options.unsubscribe.is_empty() {
            let packet_id = self.connection.packet_id();
            self.unacknowledged.insert(packet_id);
            self.connection.send(&Packet::Unsubscribe(Box::new(Unsubscribe {
                packet_id,
                user_properties: list.user_properties(PacketKind::Unsubscribe),
                filters: options.unsubscribe.iter().cloned().collect(),
            })))?;
        }
        Ok(())
    }

    fn print_all(&mut self, end: Option<Instant>) -> Result<Verdict, Failure> {
        loop {
            while let Some(packet) = self.connection.arrived()? {
                if let Some(verdict) = self.on_packet(packet)? {
                    self.flush_output()?;
                    return Ok(verdict);
                }
            }
            if !self.flush_output()? {
                return Ok(Ok(()));
            }
            if self.finishing && self.unreleased.is_empty() {
                return Ok(Ok(()));
            }
            match self.connection.wait(end, None)? {
                Happening::Interrupted => return Ok(Ok(())),
                Happening::Deadline if self.finishing => return Ok(Ok(())),
                Happening::Deadline => return Ok(Err(Failure::timed_out())),
                Happening::Received | Happening::Written | Happening::Input => {}
            }
        }
    }

    /// Prints what waits; false if nobody reads any more.
    fn flush_output(&mut self) -> Result<bool, Failure> {
        if self.out.is_empty() {
            return Ok(true);
        }
        let written = io::stdout().lock().write_all(&self.out).and_then(|()| io::stdout().flush());
        self.out.clear();
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::output(error)),
        }
    }

    /// A verdict ends the program.
    fn on_packet(&mut self, packet: Packet) -> Result<Option<Verdict>, Failure> {
        match packet {
            Packet::SubAck(ack) => return Ok(self.on_suback(&ack)),
            Packet::UnsubAck(ack) => {
                self.unacknowledged.remove(&ack.packet_id);
                return Ok(self.end_if_only_subscribing());
            }
            Packet::Publish(publish) => self.on_publish(&publish)?,
            Packet::PubRel(release) => {
                let known = self.unreleased.remove(&release.packet_id);
                let reason = match known {
                    true => ReasonCode::Success,
                    false => ReasonCode::PacketIdentifierNotFound,
                };
                self.connection.send(&Packet::PubComp(Ack::new(release.packet_id, reason)))?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn on_suback(&mut self, ack: &SubAck) -> Option<Verdict> {
        self.unacknowledged.remove(&ack.packet_id);
        let mut refused = 0;
        for (filter, &reason) in self.options.filters.iter().zip(&ack.reasons) {
            if reason.is_error() {
                refused += 1;
                let code = reason as u8;
                let filter = filter.text();
                let words = in_words(reason);
                // A closed stderr leaves nobody to tell.
                let _ = writeln!(
                    io::stderr(),
                    "petrelctl: the broker refuses the subscription to {filter:?}: {words} (0x{code:02x})"
                );
            }
        }
        if refused == self.options.filters.len() {
            return Some(Err(Failure::new("all subscriptions were refused")));
        }
        self.end_if_only_subscribing()
    }

    fn end_if_only_subscribing(&self) -> Option<Verdict> {
        let nothing_more = self.options.only_subscribe || self.options.filters.is_empty();
        (nothing_more && self.unacknowledged.is_empty()).then_some(Ok(()))
    }

    /// Takes a message over: prints it once and acknowledges it. While finishing a new one is left
    /// to the broker, which keeps it for the session.
    fn on_publish(&mut self, publish: &Publish) -> Result<(), Failure> {
        let repeated = publish.qos == Qos::ExactlyOnce
            && publish.packet_id.is_some_and(|id| self.unreleased.contains(&id));
        if self.finishing && !repeated {
            return Ok(());
        }
        if !repeated {
            self.show(publish)?;
        }
        let Some(id) = publish.packet_id else { return Ok(()) };
        let ack = Ack::new(id, ReasonCode::Success);
        match publish.qos {
            Qos::AtMostOnce => Ok(()),
            Qos::AtLeastOnce => self.connection.send(&Packet::PubAck(ack)),
            Qos::ExactlyOnce => {
                self.unreleased.insert(id);
                self.connection.send(&Packet::PubRec(ack))
            }
        }
    }

    fn show(&mut self, publish: &Publish) -> Result<(), Failure> {
        match (self.options.retained, publish.retain) {
            (Retained::Only, false) => {
                self.finishing = true;
                return Ok(());
            }
            (Retained::Hidden, true) => return Ok(()),
            _ => {}
        }
        let empty = publish.payload.is_empty();
        if empty && self.cleared.contains(publish.topic.text()) {
            return Ok(());
        }
        if self.options.filter_out.iter().any(|filter| filter.matches(&publish.topic)) {
            return Ok(());
        }
        if self.options.remove_retained && publish.retain && !empty {
            self.cleared.insert(publish.topic.text().clone());
            self.clear_retained(publish)?;
        }
        if self.options.format.render(publish, &Zoned::now(), &mut self.out).is_err() {
            let topic = publish.topic.text();
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "petrelctl: the payload is not JSON on topic {topic:?}");
            return Ok(());
        }
        self.printed += 1;
        self.finishing |= self.options.count.is_some_and(|count| self.printed >= count);
        Ok(())
    }

    /// An empty retained message takes the place of what is retained ([MQTT5-3.3.1-6]).
    fn clear_retained(&mut self, publish: &Publish) -> Result<(), Failure> {
        self.connection.send(&Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: true,
            topic: publish.topic.clone(),
            packet_id: None,
            properties: PublishProperties::default(),
            payload: bytes::Bytes::new(),
        }))
    }
}
