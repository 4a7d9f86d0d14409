//! One of many clients.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use petrel_proto::{Qos, Text, TopicFilter, TopicName};

use crate::client::{self, Connection, Event, Exchanges, Happening, Signals};
use crate::failure::Failure;
use crate::options::{self, Common};
use crate::step::{Failed, Step};

/// While more waits for the socket, a client publishes nothing new.
const QUEUED_BYTES_MAX: usize = 64 << 10;

/// What each client does.
pub struct Load {
    /// How it connects, but for its identifier.
    pub common: Common,
    /// Before the number of the client.
    pub topic_prefix: String,
    /// Of each client, at least 1.
    pub messages: u64,
    /// Of subscription and messages.
    pub qos: Qos,
    /// Bytes of a message, at least 8.
    pub size: usize,
    /// QoS 1 and 2 messages on the way at once; the broker's Receive Maximum caps it too.
    pub inflight_maximum: u16,
    /// For everything.
    pub timeout: Duration,
}

/// What became of a client.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Messages that the broker has acknowledged, or at QoS 0 that were sent.
    pub published: u64,
    /// Of its own messages, each once.
    pub received: u64,
    /// From the first message to the last that is counted as published; `None` if some are missing.
    pub publish_time: Option<Duration>,
    /// From the first message until the last was back; `None` if some are missing.
    pub receive_time: Option<Duration>,
    /// The step that failed.
    pub failed: Option<Failed>,
}

/// Does everything that a client does.
pub fn run(load: &Load, number: u32, client_id: Text) -> Outcome {
    let mut outcome = Outcome::default();
    outcome.failed = attempt(load, number, client_id, &mut outcome).err();
    outcome
}

fn attempt(load: &Load, number: u32, client_id: Text, outcome: &mut Outcome) -> Result<(), Failed> {
    let deadline = Instant::now() + load.timeout;
    let common = Common { client_id, time_limit: Some(load.timeout), ..load.common.clone() };
    let mut connection =
        Connection::open_with(&common, Signals::ignored()).map_err(Step::Connect.failed())?;
    let subscribe = Step::Subscribe.failed();
    let topic = options::topic_name(&format!("{}/{number}", load.topic_prefix))
        .map_err(|what| subscribe(Failure::new(what)))?;
    let filter = TopicFilter::new(topic.text().clone())
        .map_err(|error| subscribe(Failure::new(error.what)))?;
    client::subscribe(&mut connection, filter, load.qos, deadline).map_err(&subscribe)?;
    let most = load.inflight_maximum.min(connection.broker.receive_maximum);
    let mut messages = Messages {
        load,
        connection,
        exchanges: Exchanges::default(),
        topic,
        inflight_maximum: usize::from(most),
        sent: 0,
        expected: 0,
        began: Instant::now(),
        outcome,
    };
    if let Err(failure) = messages.go_and_come(deadline) {
        let is_published = messages.outcome.publish_time.is_some();
        let step = if is_published { Step::RoundTrip } else { Step::Publish };
        return Err(step.failed()(failure));
    }
    // Everything is back, so a broker that does not let go in good order is no failure of it.
    let _ = messages.connection.disconnect(&common);
    Ok(())
}

/// A client's messages on their way.
struct Messages<'l> {
    load: &'l Load,
    connection: Connection,
    exchanges: Exchanges,
    topic: TopicName,
    inflight_maximum: usize,
    sent: u64,
    /// The lowest number that has not come back; what is lower comes for the second time.
    expected: u64,
    began: Instant,
    outcome: &'l mut Outcome,
}

impl Messages<'_> {
    fn go_and_come(&mut self, deadline: Instant) -> Result<(), Failure> {
        loop {
            while let Some(packet) = self.connection.arrived()? {
                match self.exchanges.on_packet(&mut self.connection, packet)? {
                    Event::Message(message) => self.on_message(&message.payload),
                    Event::Accepted => self.outcome.published += 1,
                    Event::Nothing => {}
                }
            }
            while self.sent < self.load.messages && self.has_room() {
                let payload = payload(self.sent, self.load.size);
                let Load { qos, .. } = *self.load;
                self.exchanges.publish(&mut self.connection, &self.topic, qos, payload)?;
                self.sent += 1;
            }
            self.take_times();
            if self.outcome.receive_time.is_some()
                && self.outcome.publish_time.is_some()
                && self.exchanges.is_at_rest()
            {
                return Ok(());
            }
            match self.connection.wait(Some(deadline), None)? {
                Happening::Deadline => return Err(self.too_late()),
                Happening::Interrupted => return Err(Failure::interrupted()),
                Happening::Received | Happening::Written | Happening::Input => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.exchanges.in_flight() < self.inflight_maximum
            && self.connection.queued_bytes() < QUEUED_BYTES_MAX
    }

    /// Messages of one publisher to one topic at one QoS arrive in their order ([MQTT5-4.6.0-6]).
    fn on_message(&mut self, payload: &[u8]) {
        let number = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let is_new = |number: &u64| (self.expected..self.sent).contains(number);
        if let Some(number) = number.filter(is_new) {
            self.expected = number + 1;
            self.outcome.received += 1;
        }
    }

    fn take_times(&mut self) {
        let Load { messages, qos, .. } = *self.load;
        if qos == Qos::AtMostOnce && self.connection.queued_bytes() == 0 {
            self.outcome.published = self.sent;
        }
        let took = self.began.elapsed();
        if self.outcome.published == messages {
            self.outcome.publish_time.get_or_insert(took);
        }
        if self.outcome.received == messages {
            self.outcome.receive_time.get_or_insert(took);
        }
    }

    fn too_late(&self) -> Failure {
        let Load { messages, timeout, .. } = self.load;
        let seconds = timeout.as_secs_f64();
        Failure::new(match self.outcome.publish_time {
            None => {
                let published = self.outcome.published;
                format!("{published} of {messages} messages were published within {seconds} s")
            }
            Some(_) => {
                let received = self.outcome.received;
                format!("{received} of {messages} messages came back within {seconds} s")
            }
        })
    }
}

fn payload(number: u64, size: usize) -> Bytes {
    let mut bytes = BytesMut::zeroed(size);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes.freeze()
}
