//! MQTT over a transport: CONNECT, keep alive, packets one at a time, DISCONNECT.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use petrel_proto::{
    ConnAck, Connect, Disconnect, Frame, Packet, PacketId, Publish, Qos, ReasonCode,
    ReasonProperties, Text, TopicName, Version, Will, decode, encode, encoded_len, frame,
};

use super::signals::Signals;
use super::trace::describe;
use super::transport::{HANDSHAKE_TIME, Transport};
use crate::failure::{Failure, in_words};
use crate::options::Common;
use crate::options::properties::PacketKind;

/// The largest packet there is.
pub const PACKET_BYTES_MAX: u32 = 268_435_460;

/// An open MQTT connection.
pub struct Connection {
    transport: Transport,
    signals: Signals,
    version: Version,
    debug: bool,
    /// Bytes of one packet that it takes.
    packet_bytes_max: u32,
    incoming: BytesMut,
    keep_alive: Option<KeepAlive>,
    next_packet_id: u16,
    aliases: HashMap<u16, TopicName>,
    /// What the broker said of itself.
    pub broker: Broker,
}

/// What the broker allows, from its CONNACK.
#[derive(Debug, Clone)]
pub struct Broker {
    /// QoS 1 and 2 messages on the way to it at once.
    pub receive_maximum: u16,
    /// Bytes in one packet.
    pub maximum_packet_size: u32,
    /// The highest QoS that it accepts.
    pub maximum_qos: Qos,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
    /// Topic aliases that may be used towards it.
    pub topic_alias_maximum: u16,
}

/// What [`Connection::wait`] ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// The broker sent something, or its end: see [`Connection::arrived`].
    Received,
    /// stdin has bytes, or its end.
    Input,
    /// Everything that was queued is with the system now.
    Written,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The deadline has passed.
    Deadline,
}

/// When something was sent last, and whether a PINGREQ is unanswered.
struct KeepAlive {
    period: Duration,
    sent: Instant,
    asked: Option<Instant>,
}

impl Connection {
    /// Connects and introduces itself.
    pub fn open(options: &Common) -> Result<Self, Failure> {
        Self::open_with(options, Signals::catch()?)
    }

    /// The same with what may interrupt it.
    pub fn open_with(options: &Common, signals: Signals) -> Result<Self, Failure> {
        let deadline =
            Instant::now() + HANDSHAKE_TIME.min(options.time_limit.unwrap_or(HANDSHAKE_TIME));
        let transport = Transport::open(options, &signals, deadline)?;
        let mut connection = Self {
            transport,
            signals,
            version: options.version,
            debug: options.debug,
            packet_bytes_max: options.packet_bytes_max,
            incoming: BytesMut::new(),
            keep_alive: None,
            next_packet_id: 1,
            aliases: HashMap::new(),
            broker: Broker {
                receive_maximum: u16::MAX,
                maximum_packet_size: PACKET_BYTES_MAX,
                maximum_qos: Qos::ExactlyOnce,
                retain_available: true,
                topic_alias_maximum: 0,
            },
        };
        connection.send(&Packet::Connect(Box::new(connect(options))))?;
        let connack = connection.wait_for_connack(deadline)?;
        if connack.reason != ReasonCode::Success {
            return Err(connection.refused(&connack));
        }
        connection.agree(options, &connack);
        Ok(connection)
    }

    fn wait_for_connack(&mut self, deadline: Instant) -> Result<Box<ConnAck>, Failure> {
        loop {
            match self.arrived()? {
                Some(Packet::ConnAck(connack)) => return Ok(connack),
                Some(Packet::Auth(_)) => {
                    return Err(Failure::new(
                        "the broker asks for an authentication exchange, which petrelctl has not",
                    ));
                }
                Some(other) => {
                    return Err(Failure::new(format!(
                        "{} answers CONNECT with {}",
                        self.transport.place(),
                        describe(&other)
                    )));
                }
                None => {}
            }
            match self.wait(Some(deadline), None)? {
                Happening::Interrupted => return Err(Failure::interrupted()),
                Happening::Received | Happening::Written | Happening::Input
                    if Instant::now() < deadline => {}
                // Whoever sends other things all the time does not answer either.
                _ => {
                    return Err(Failure::new(format!(
                        "{} does not answer CONNECT; is that an MQTT broker?",
                        self.transport.place()
                    )));
                }
            }
        }
    }

    fn refused(&self, connack: &ConnAck) -> Failure {
        let code = match self.version.is_v5() {
            true => connack.reason as u8,
            false => connack.reason.connack_v3(),
        };
        let mut text = format!(
            "{} refuses the connection: {} (0x{code:02x})",
            self.transport.place(),
            in_words(connack.reason)
        );
        if let Some(reason) = &connack.properties.reason_string {
            text += &format!(": {reason:?}");
        }
        if let Some(server) = &connack.properties.server_reference {
            text += &format!("; it names {server:?} instead");
        }
        Failure::refused(code, text)
    }

    fn agree(&mut self, options: &Common, connack: &ConnAck) {
        let said = &connack.properties;
        self.broker = Broker {
            receive_maximum: said.receive_maximum.unwrap_or(u16::MAX),
            maximum_packet_size: said.maximum_packet_size.unwrap_or(PACKET_BYTES_MAX),
            maximum_qos: said.maximum_qos.unwrap_or(Qos::ExactlyOnce),
            retain_available: said.retain_available.unwrap_or(true),
            topic_alias_maximum: said.topic_alias_maximum.unwrap_or(0),
        };
        let keep_alive_s = said.server_keep_alive_s.unwrap_or(options.keep_alive_s);
        self.keep_alive = (keep_alive_s > 0).then(|| KeepAlive {
            period: Duration::from_secs(keep_alive_s.into()),
            sent: Instant::now(),
            asked: None,
        });
    }

    /// `host:port`, for sentences.
    pub fn place(&self) -> &str {
        self.transport.place()
    }

    /// The version that is spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A packet identifier that was not used for the last 65,534 ones.
    pub fn packet_id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_packet_id).unwrap_or(PacketId(std::num::NonZeroU16::MIN));
        self.next_packet_id = id.get().wrapping_add(1).max(1);
        id
    }

    /// Bytes that wait for the broker, at most.
    pub fn queued_bytes(&self) -> usize {
        self.transport.queued_bytes()
    }

    /// Queues a packet. [`Connection::wait`] sends what is queued.
    pub fn send(&mut self, packet: &Packet) -> Result<(), Failure> {
        let bytes = encoded_len(packet, self.version)
            .filter(|&bytes| bytes as u64 <= u64::from(self.broker.maximum_packet_size))
            .ok_or_else(|| {
                Failure::new(format!(
                    "the packet is too large: {} accepts {} bytes",
                    self.transport.place(),
                    self.broker.maximum_packet_size
                ))
            })?;
        if self.debug {
            eprintln!("petrelctl: sends {}", describe(packet));
        }
        let mut encoded = BytesMut::with_capacity(bytes);
        encode(packet, self.version, &mut encoded);
        if let Some(keep_alive) = &mut self.keep_alive {
            keep_alive.sent = Instant::now();
        }
        self.transport.send(&encoded)
    }

    /// A packet that has arrived already.
    ///
    /// # Errors
    /// The broker said DISCONNECT, or something that is not MQTT.
    pub fn arrived(&mut self) -> Result<Option<Packet>, Failure> {
        loop {
            let whole =
                frame(&self.incoming, self.packet_bytes_max).map_err(|error| {
                    match error.reason {
                        ReasonCode::PacketTooLarge => self.too_large(),
                        _ => self.not_mqtt(error.what),
                    }
                })?;
            let Frame::Complete(bytes) = whole else { return Ok(None) };
            let encoded = self.incoming.split_to(bytes).freeze();
            let packet = decode(&encoded, Some(self.version)).map_err(|error| {
                self.incoming = encoded.clone().into();
                self.not_mqtt(error.what)
            })?;
            if self.debug {
                eprintln!("petrelctl: receives {}", describe(&packet));
            }
            match packet {
                Packet::PingResp => {
                    if let Some(keep_alive) = &mut self.keep_alive {
                        keep_alive.asked = None;
                    }
                }
                Packet::Disconnect(it) => return Err(self.disconnected(&it)),
                Packet::Publish(mut publish) => {
                    self.resolve_alias(&mut publish)?;
                    return Ok(Some(Packet::Publish(publish)));
                }
                other => return Ok(Some(other)),
            }
        }
    }

    /// Puts the topic in that an alias stands for ([MQTT5-3.3.2-12]).
    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), Failure> {
        let Some(alias) = publish.properties.topic_alias else { return Ok(()) };
        if publish.topic.as_bytes().is_empty() {
            publish.topic = self.aliases.get(&alias).cloned().ok_or_else(|| {
                Failure::new(format!(
                    "the broker uses topic alias {alias} without naming its topic"
                ))
            })?;
        } else {
            self.aliases.insert(alias, publish.topic.clone());
        }
        Ok(())
    }

    /// Sends what is queued and waits for what comes first. To be called when
    /// [`Connection::arrived`] has nothing more.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn wait(
        &mut self,
        deadline: Option<Instant>,
        input: Option<BorrowedFd<'_>>,
    ) -> Result<Happening, Failure> {
        if !self.transport.is_open() {
            return Err(self.closed());
        }
        loop {
            let patience = self.keep_alive()?;
            let was_pending = self.transport.is_pending();
            self.transport.flush()?;
            let pending = self.transport.is_pending();
            let until = [deadline, patience].into_iter().flatten().min();
            let more = self.transport.has_more();
            let at_once = more || was_pending && !pending;
            let until = if at_once { Some(Instant::now()) } else { until };
            let ready = self.signals.wait(self.transport.as_fd(), pending, input, until)?;
            if ready.interrupted {
                return Ok(Happening::Interrupted);
            }
            if ready.readable || more {
                self.transport.read(&mut self.incoming)?;
                return Ok(Happening::Received);
            }
            if ready.input {
                return Ok(Happening::Input);
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(Happening::Deadline);
            }
            if was_pending && !pending {
                return Ok(Happening::Written);
            }
        }
    }

    /// Asks with PINGREQ when nothing was sent for long; says when to look again.
    fn keep_alive(&mut self) -> Result<Option<Instant>, Failure> {
        let Some(keep_alive) = &mut self.keep_alive else { return Ok(None) };
        let now = Instant::now();
        let period = keep_alive.period;
        if let Some(asked) = keep_alive.asked {
            let patience = asked + period;
            if now >= patience {
                return Err(Failure::new(format!(
                    "{} did not answer within {} s",
                    self.transport.place(),
                    period.as_secs()
                )));
            }
            return Ok(Some(patience));
        }
        let due = keep_alive.sent + period;
        if now < due {
            return Ok(Some(due));
        }
        keep_alive.asked = Some(now);
        self.send(&Packet::PingReq)?;
        Ok(Some(now + period))
    }

    /// Says goodbye, lets the broker read everything, and closes.
    pub fn disconnect(mut self, options: &Common) -> Result<(), Failure> {
        let properties = &options.properties;
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.session_expiry_interval_s = properties.disconnect_session_expiry_interval_s;
        disconnect.properties = ReasonProperties {
            reason_string: properties.disconnect_reason_string.clone(),
            user_properties: properties.user_properties(PacketKind::Disconnect),
        };
        self.send(&Packet::Disconnect(Box::new(disconnect)))?;
        self.transport.close(&self.signals)
    }

    fn disconnected(&self, disconnect: &Disconnect) -> Failure {
        let mut text =
            format!("{} disconnects: {}", self.transport.place(), in_words(disconnect.reason));
        text += &format!(" (0x{:02x})", disconnect.reason as u8);
        if let Some(reason) = &disconnect.properties.reason_string {
            text += &format!(": {reason:?}");
        }
        if let Some(server) = &disconnect.server_reference {
            text += &format!("; it names {server:?} instead");
        }
        Failure::new(text)
    }

    fn closed(&self) -> Failure {
        let place = self.transport.place();
        Failure::new(match self.keep_alive.is_none() && self.next_packet_id == 1 {
            true => format!(
                "{place} closed the connection without an answer to CONNECT; does it want TLS \
                 (--tls) or WebSocket (--ws), or another MQTT version (-V)?"
            ),
            false => format!("{place} closed the connection"),
        })
    }

    fn too_large(&self) -> Failure {
        let (place, most) = (self.transport.place(), self.packet_bytes_max);
        Failure::new(format!("{place} sends a packet of more than {most} bytes"))
    }

    /// Guesses from the first bytes what else is spoken at that port.
    fn not_mqtt(&self, what: &str) -> Failure {
        let place = self.transport.place();
        Failure::new(if self.incoming.chunk().starts_with(b"HTTP/") {
            format!("{place} answers in HTTP; MQTT over WebSocket needs --ws")
        } else if matches!(self.incoming.chunk(), [0x15, 0x03, ..]) {
            format!("{place} answers in TLS; use --tls, --cafile FILE or --insecure")
        } else {
            format!("{place} sends what is not MQTT {}: {what}", self.version)
        })
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

/// The CONNECT that the options describe.
fn connect(options: &Common) -> Connect {
    let list = &options.properties;
    let mut properties = list.connect.clone();
    properties.user_properties = list.user_properties(PacketKind::Connect);
    if options.version.is_v5() && options.packet_bytes_max < PACKET_BYTES_MAX {
        let most = options.packet_bytes_max;
        let given = properties.maximum_packet_size.unwrap_or(most);
        properties.maximum_packet_size = Some(given.min(most));
    }
    properties.session_expiry_interval_s =
        options.session_expiry_s.or(properties.session_expiry_interval_s);
    let will = options.will.as_ref().map(|will| {
        Box::new(Will {
            topic: will.topic.clone(),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            delay_interval_s: list.will_delay_interval_s,
            properties: list.will_properties(),
        })
    });
    Connect {
        version: options.version,
        clean_start: options.clean,
        keep_alive_s: options.keep_alive_s,
        client_id: Text::clone(&options.client_id),
        will,
        username: options.credentials.username.clone(),
        password: options.credentials.password.clone(),
        properties,
    }
}
