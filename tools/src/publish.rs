//! `petrelctl pub`.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use petrel_proto::{Ack, Packet, PacketId, Publish, Qos, ReasonCode};

use crate::client::{Connection, Happening};
use crate::failure::{Failure, in_words};
use crate::options::publish::{PublishOptions, Source};

/// While more waits for the socket, nothing new is taken from the source.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// How much of stdin is read at once.
const READ_BYTES: usize = 64 << 10;

/// Publishes everything and disconnects.
pub fn run(options: &PublishOptions) -> Result<(), Failure> {
    let end = options.common.time_limit.map(|limit| Instant::now() + limit);
    let mut publisher = Publisher {
        connection: Connection::open(&options.common)?,
        options,
        feed: Feed::new(&options.source),
        in_flight: HashMap::new(),
        rejected: None,
    };
    publisher.check()?;
    match publisher.publish_all(end) {
        Ok(()) => {
            publisher.connection.disconnect(&options.common)?;
            publisher.rejected.map_or(Ok(()), Err)
        }
        Err(Stop::Failed(failure)) => Err(failure),
        Err(Stop::Early(why)) => {
            publisher.connection.disconnect(&options.common)?;
            Err(why)
        }
    }
}

struct Publisher<'o> {
    connection: Connection,
    options: &'o PublishOptions,
    feed: Feed,
    in_flight: HashMap<PacketId, Awaits>,
    /// The first message that the broker did not want.
    rejected: Option<Failure>,
}

/// What a QoS 1 or 2 delivery waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Ack,
    Rec,
    Comp,
}

/// Why publishing ends before its end: with the connection lost, or still to be closed.
enum Stop {
    Failed(Failure),
    Early(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Publisher<'_> {
    /// Compares what is asked for with what the broker has said that it can.
    fn check(&self) -> Result<(), Failure> {
        let broker = &self.connection.broker;
        if self.options.qos > broker.maximum_qos {
            let most = broker.maximum_qos as u8;
            return Err(Failure::new(format!("the broker accepts QoS {most} at most (-q)")));
        }
        if self.options.retain && !broker.retain_available {
            return Err(Failure::new("the broker keeps no retained messages (-r)"));
        }
        let alias = self.options.common.properties.publish.topic_alias.unwrap_or(0);
        if alias > broker.topic_alias_maximum {
            let most = broker.topic_alias_maximum;
            return Err(Failure::new(format!("the broker accepts topic aliases up to {most}")));
        }
        Ok(())
    }

    fn publish_all(&mut self, end: Option<Instant>) -> Result<(), Stop> {
        loop {
            while let Some(packet) = self.connection.arrived()? {
                self.on_packet(packet)?;
            }
            let mut next_at = None;
            while self.has_room() {
                match self.feed.next() {
                    Next::Message(payload) => self.publish(payload)?,
                    Next::At(time) => {
                        next_at = Some(time);
                        break;
                    }
                    Next::AfterInput => break,
                    Next::Never if self.in_flight.is_empty() => return Ok(()),
                    Next::Never => break,
                }
            }
            let stdin = io::stdin();
            let input = (self.feed.wants_input() && self.has_room()).then(|| stdin.as_fd());
            let deadline = [next_at, end].into_iter().flatten().min();
            match self.connection.wait(deadline, input)? {
                Happening::Input => self.feed.read()?,
                Happening::Interrupted => return Err(Stop::Early(Failure::interrupted())),
                Happening::Deadline if end.is_some_and(|end| end <= Instant::now()) => {
                    return Err(Stop::Early(Failure::timed_out()));
                }
                Happening::Received | Happening::Deadline | Happening::Written => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        let most = self.options.inflight_maximum.min(self.connection.broker.receive_maximum);
        self.in_flight.len() < usize::from(most)
            && self.connection.queued_bytes() < QUEUED_BYTES_MAX
    }

    fn publish(&mut self, payload: Bytes) -> Result<(), Failure> {
        let packet_id = match self.options.qos {
            Qos::AtMostOnce => None,
            qos => {
                let mut id = self.connection.packet_id();
                while self.in_flight.contains_key(&id) {
                    id = self.connection.packet_id();
                }
                let awaited = if qos == Qos::AtLeastOnce { Awaits::Ack } else { Awaits::Rec };
                self.in_flight.insert(id, awaited);
                Some(id)
            }
        };
        let properties = self.options.common.properties.publish_properties();
        self.connection.send(&Packet::Publish(Publish {
            dup: false,
            qos: self.options.qos,
            retain: self.options.retain,
            topic: self.options.topic.clone(),
            packet_id,
            properties,
            payload,
        }))
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), Failure> {
        match packet {
            Packet::PubAck(ack) => {
                self.on_ack(&ack, Awaits::Ack);
                Ok(())
            }
            Packet::PubRec(ack) => {
                let waited_for = self.in_flight.get(&ack.packet_id);
                if waited_for == Some(&Awaits::Rec) && !ack.reason.is_error() {
                    self.in_flight.insert(ack.packet_id, Awaits::Comp);
                    return self.release(ack.packet_id, ReasonCode::Success);
                }
                match waited_for {
                    Some(Awaits::Comp) => self.release(ack.packet_id, ReasonCode::Success),
                    Some(_) => {
                        self.on_ack(&ack, Awaits::Rec);
                        Ok(())
                    }
                    None => self.release(ack.packet_id, ReasonCode::PacketIdentifierNotFound),
                }
            }
            Packet::PubComp(ack) => {
                self.on_ack(&ack, Awaits::Comp);
                Ok(())
            }
            // Nothing was subscribed to; a kept session may have messages, which stay there.
            _ => Ok(()),
        }
    }

    fn release(&mut self, id: PacketId, reason: ReasonCode) -> Result<(), Failure> {
        self.connection.send(&Packet::PubRel(Ack::new(id, reason)))
    }

    /// The last step of a delivery, or its rejection.
    fn on_ack(&mut self, ack: &Ack, awaited: Awaits) {
        if self.in_flight.get(&ack.packet_id) != Some(&awaited) {
            return;
        }
        self.in_flight.remove(&ack.packet_id);
        if ack.reason.is_error() && self.rejected.is_none() {
            let mut text = format!(
                "the broker rejects the message: {} (0x{:02x})",
                in_words(ack.reason),
                ack.reason as u8
            );
            if let Some(reason) = &ack.properties.reason_string {
                text += &format!(": {reason:?}");
            }
            self.rejected = Some(Failure::new(text));
        }
    }
}

/// The messages to publish, one after the other.
enum Feed {
    Repeated { payload: Bytes, left: u64, pause: Duration, next: Instant },
    Lines { buffer: BytesMut, searched: usize, ended: bool },
}

/// What the feed has now.
enum Next {
    Message(Bytes),
    At(Instant),
    AfterInput,
    Never,
}

impl Feed {
    fn new(source: &Source) -> Self {
        match source {
            Source::Repeated { payload, count, pause } => Self::Repeated {
                payload: payload.clone(),
                left: *count,
                pause: *pause,
                next: Instant::now(),
            },
            Source::Lines => Self::Lines { buffer: BytesMut::new(), searched: 0, ended: false },
        }
    }

    fn next(&mut self) -> Next {
        match self {
            Self::Repeated { left: 0, .. } => Next::Never,
            Self::Repeated { payload, left, pause, next } => {
                let now = Instant::now();
                if *next > now {
                    return Next::At(*next);
                }
                *left -= 1;
                *next = now + *pause;
                Next::Message(payload.clone())
            }
            Self::Lines { buffer, searched, ended } => {
                let newline = buffer[*searched..].iter().position(|&byte| byte == b'\n');
                match newline {
                    Some(at) => {
                        let line = buffer.split_to(*searched + at).freeze();
                        buffer.advance(1);
                        *searched = 0;
                        Next::Message(line)
                    }
                    None if *ended && buffer.is_empty() => Next::Never,
                    None if *ended => {
                        *searched = 0;
                        Next::Message(buffer.split().freeze())
                    }
                    None => {
                        *searched = buffer.len();
                        Next::AfterInput
                    }
                }
            }
        }
    }

    fn wants_input(&self) -> bool {
        matches!(self, Self::Lines { ended: false, .. })
    }

    /// Reads what stdin has now.
    fn read(&mut self) -> Result<(), Failure> {
        let Self::Lines { buffer, ended, .. } = self else { return Ok(()) };
        let mut chunk = [0; READ_BYTES];
        match rustix::io::read(io::stdin(), &mut chunk) {
            Ok(0) => *ended = true,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(Failure::new(format!("cannot read stdin: {error}"))),
        }
        Ok(())
    }
}
