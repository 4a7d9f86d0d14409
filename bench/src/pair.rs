//! Publishers and subscribers, as many messages as the broker takes, or at a pace.
//!
//! A closed loop: a publisher has so many messages on their way at most, counted until the last of
//! its subscribers has them, and until they are acknowledged. With `--rate` it is an open one: what is
//! due is sent when it is due, and the thread never sleeps, so that it is. Reads and writes take what
//! there is, and no message is decoded or encoded as a whole, so that the load is cheaper than what it
//! measures.

pub mod packets;
mod shape;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use petrel_proto::{Qos, SubscriptionOptions};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::client::{Client, Filled, Incoming, Server};
use crate::load::tls::TlsClient;
use crate::options::{Kept, Pair};
use packets::{Mark, Seen, Template};
pub use shape::Shape;

/// How long after the end the last message may still arrive.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that one read takes, at most.
const READ_BYTES_MAX: usize = 256 << 10;
const EVENTS_MAX: usize = 512;
/// The longest wait, so that the end is noticed.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

struct Publisher {
    client: Client,
    template: Template,
    sent: u64,
    /// Of what was sent, what has reached everybody whom it is for.
    delivered: u64,
    acknowledged: u64,
    /// When those were sent that have not been acknowledged, in microseconds.
    unacknowledged: VecDeque<u64>,
}

struct Subscriber {
    /// `None` while it is away.
    client: Option<Client>,
    received: u64,
}

/// Everything that runs.
struct Load<'a> {
    options: &'a Pair,
    server: Server<'a>,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    /// Subscribers that never read; they are only held.
    stuck: Vec<Client>,
    start: Instant,
    incoming: Incoming,
    /// Messages that all subscribers have received together.
    received: u64,
    latency_us: Histogram<u64>,
    /// From the sending of a message to its PUBACK or PUBCOMP.
    acknowledgement_us: Histogram<u64>,
    /// When the last message was acknowledged.
    acknowledged_after: Duration,
    out_of_order: u64,
    /// Reads that brought a subscriber something, and writes of publishers.
    reads: u64,
    writes: u64,
}

/// What the broker has used at a time.
struct Used {
    ran: Duration,
    sleeps: u64,
    private_bytes: u64,
}

/// Runs the load and prints one line of figures.
pub fn run(options: &Pair) -> Result<(), String> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let histogram = || Histogram::new(3).map_err(|error| error.to_string());
    let tls = options.tls.then(|| TlsClient::new(None, false, 0)).transpose()?;
    let mut load = Load {
        options,
        server: Server { address: options.address, version: options.version, tls: tls.as_ref() },
        publishers: Vec::new(),
        subscribers: Vec::new(),
        stuck: Vec::new(),
        start: Instant::now(),
        incoming: Incoming::new(READ_BYTES_MAX),
        received: 0,
        latency_us: histogram()?,
        acknowledgement_us: histogram()?,
        acknowledged_after: Duration::ZERO,
        out_of_order: 0,
        reads: 0,
        writes: 0,
    };
    load.open()?;
    for (number, publisher) in load.publishers.iter().enumerate() {
        publisher.client.watch(&epoll, number)?;
    }
    for number in 0..load.subscribers.len() {
        load.watch_subscriber(&epoll, number)?;
    }
    let before = load.used()?;
    load.start = Instant::now();
    let away = options.kept == Kept::Away;
    load.drive(&epoll, away)?;
    if away {
        load.bring_back(&epoll)?;
        load.drive(&epoll, false)?;
    }
    load.report(before);
    load.end_sessions()
}

impl<'a> Load<'a> {
    fn open(&mut self) -> Result<(), String> {
        let Pair { shape, count, qos, payload_bytes, version, .. } = *self.options;
        for number in 0..shape.publishers(count) {
            let mut client = Client::open(self.server, number)?;
            client.hello(&format!("publisher-{number}"))?;
            let topic = shape.topic(number);
            self.publishers.push(Publisher {
                client,
                template: Template::new(number, &topic, qos, payload_bytes, version)?,
                sent: 0,
                delivered: 0,
                acknowledged: 0,
                unacknowledged: VecDeque::new(),
            });
        }
        for number in 0..shape.subscribers(count) {
            let mut client = Client::open(self.server, self.publishers.len() + number)?;
            match self.options.kept {
                Kept::No => client.hello(&subscriber_id(number))?,
                Kept::Online | Kept::Away => client.resume(&subscriber_id(number))?,
            }
            self.subscribe(&mut client, number)?;
            let mut client = Some(client);
            if self.options.kept == Kept::Away
                && let Some(client) = client.take()
            {
                client.leave()?;
            }
            self.subscribers.push(Subscriber { client, received: 0 });
        }
        for number in 0..self.options.stuck {
            let mut client = Client::open(self.server, number)?;
            client.hello(&format!("stuck-{}-{number}", std::process::id()))?;
            self.subscribe(&mut client, number)?;
            self.stuck.push(client);
        }
        Ok(())
    }

    fn subscribe(&self, client: &mut Client, number: usize) -> Result<(), String> {
        let qos = self.options.qos;
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        client.subscribe(&self.options.shape.filter(number), options)
    }

    fn watch_subscriber(&self, epoll: &OwnedFd, number: usize) -> Result<(), String> {
        match &self.subscribers[number].client {
            Some(client) => client.watch(epoll, self.publishers.len() + number),
            None => Ok(()),
        }
    }

    /// Connects the subscribers that are away.
    fn bring_back(&mut self, epoll: &OwnedFd) -> Result<(), String> {
        for number in 0..self.subscribers.len() {
            let mut client = Client::open(self.server, self.publishers.len() + number)?;
            client.resume(&subscriber_id(number))?;
            self.subscribers[number].client = Some(client);
            self.watch_subscriber(epoll, number)?;
            // What came with the CONNACK is there already.
            self.on_subscriber(number)?;
        }
        Ok(())
    }

    /// Ends what would outlive this, and get what others send.
    fn end_sessions(&self) -> Result<(), String> {
        if self.options.kept != Kept::No {
            for number in 0..self.subscribers.len() {
                let mut client = Client::open(self.server, self.publishers.len() + number)?;
                client.hello(&subscriber_id(number))?;
            }
        }
        Ok(())
    }

    /// Goes on until everything that was sent is done: acknowledged if the subscribers are away, else
    /// received.
    fn drive(&mut self, epoll: &OwnedFd, away: bool) -> Result<(), String> {
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; EVENTS_MAX];
        let deadline = self.start.elapsed().max(self.options.time) + PATIENCE;
        let mut due = Due::new(self.options.rate);
        if self.options.rate.is_none() {
            (0..self.publishers.len()).try_for_each(|number| self.publish(number))?;
        }
        loop {
            if self.is_done(away) {
                return Ok(());
            }
            if self.start.elapsed() > deadline {
                return Err(format!("messages are missing: {}", self.missing()));
            }
            self.send_due(&mut due)?;
            let wait = if self.options.rate.is_some() { AT_ONCE } else { TICK };
            let ready = match epoll::wait(epoll, &mut events, Some(&wait)) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.to_string()),
            };
            for event in &events[..ready] {
                let number = event.data.u64() as usize;
                match number.checked_sub(self.publishers.len()) {
                    None => self.on_publisher(number)?,
                    Some(number) => self.on_subscriber(number)?,
                }
            }
        }
    }

    fn is_done(&self, away: bool) -> bool {
        self.publishers.iter().all(|it| {
            self.is_over(it) && it.sent <= if away { it.acknowledged } else { it.delivered }
        })
    }

    /// True if a publisher sends nothing more.
    fn is_over(&self, publisher: &Publisher) -> bool {
        publisher.sent >= self.options.messages || self.start.elapsed() >= self.options.time
    }

    fn missing(&self) -> u64 {
        self.publishers.iter().map(|it| it.sent.saturating_sub(it.delivered)).sum()
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn on_publisher(&mut self, number: usize) -> Result<(), String> {
        let mut incoming = std::mem::replace(&mut self.incoming, Incoming::new(0));
        loop {
            let publisher = &mut self.publishers[number];
            let filled = publisher.client.fill(&mut incoming)?;
            if filled == Filled::Nothing {
                break;
            }
            let now = self.start.elapsed();
            let (bytes, mut at) = (incoming.bytes(), 0);
            while let Some((seen, length)) = packets::next(&bytes[at..], self.options.version)? {
                at += length;
                match seen {
                    Seen::Acknowledged => {
                        publisher.acknowledged += 1;
                        self.acknowledged_after = now;
                        if let Some(sent_us) = publisher.unacknowledged.pop_front() {
                            let took_us = (now.as_micros() as u64).saturating_sub(sent_us);
                            // A histogram that resizes itself records any value.
                            let _ = self.acknowledgement_us.record(took_us);
                        }
                    }
                    Seen::Between(answer) => {
                        publisher.client.output().extend_from_slice(&answer);
                    }
                    Seen::Publish { .. } | Seen::Other => {}
                }
            }
            publisher.client.keep(&bytes[at..]);
            if filled == Filled::All {
                break;
            }
        }
        self.incoming = incoming;
        self.publish(number)
    }

    fn on_subscriber(&mut self, number: usize) -> Result<(), String> {
        let mut incoming = std::mem::replace(&mut self.incoming, Incoming::new(0));
        while let Some(client) = &mut self.subscribers[number].client {
            let filled = client.fill(&mut incoming)?;
            if filled == Filled::Nothing {
                break;
            }
            self.reads += 1;
            self.take(number, incoming.bytes())?;
            if filled == Filled::All {
                break;
            }
        }
        self.incoming = incoming;
        if let Some(client) = &mut self.subscribers[number].client {
            client.flush()?;
        }
        match self.options.shape {
            Shape::Pair => self.publish(number),
            Shape::FanIn => (0..self.publishers.len()).try_for_each(|it| self.publish(it)),
            Shape::FanOut => {
                self.count_delivered();
                self.publish(0)
            }
        }
    }

    /// Takes what a subscriber has read.
    fn take(&mut self, number: usize, bytes: &[u8]) -> Result<(), String> {
        let now_us = self.now_us();
        let mut at = 0;
        while let Some((seen, length)) = packets::next(&bytes[at..], self.options.version)? {
            at += length;
            let answer = match seen {
                Seen::Publish { stamp_us, mark, answer } => {
                    // A histogram that resizes itself records any value.
                    let _ = self.latency_us.record(now_us.saturating_sub(stamp_us));
                    self.count(number, mark)?;
                    answer
                }
                Seen::Between(answer) => Some(answer),
                Seen::Acknowledged | Seen::Other => None,
            };
            if let (Some(client), Some(answer)) = (&mut self.subscribers[number].client, answer) {
                client.output().extend_from_slice(&answer);
            }
        }
        if let Some(client) = &mut self.subscribers[number].client {
            client.keep(&bytes[at..]);
        }
        Ok(())
    }

    /// Counts a message that has arrived.
    fn count(&mut self, number: usize, mark: Mark) -> Result<(), String> {
        let subscriber = &mut self.subscribers[number];
        let publisher = self.publishers.get_mut(mark.publisher);
        let publisher = publisher.ok_or("a message of a publisher that there is not")?;
        let expected = match self.options.shape {
            Shape::FanOut => subscriber.received,
            Shape::Pair | Shape::FanIn => {
                publisher.delivered += 1;
                publisher.delivered - 1
            }
        };
        self.out_of_order += u64::from(mark.number != expected);
        subscriber.received += 1;
        self.received += 1;
        Ok(())
    }

    /// Of a fan-out: what the last of its subscribers has.
    fn count_delivered(&mut self) {
        let publisher = &mut self.publishers[0];
        if self.received < (publisher.delivered + 1) * self.subscribers.len() as u64 {
            return;
        }
        let last = self.subscribers.iter().map(|it| it.received).min();
        publisher.delivered = last.unwrap_or_default();
    }

    /// Fills the window of a publisher, and sends what it has to say.
    fn publish(&mut self, number: usize) -> Result<(), String> {
        if self.options.rate.is_none() && !self.is_over(&self.publishers[number]) {
            let publisher = &mut self.publishers[number];
            let mut done = publisher.delivered;
            if self.options.kept == Kept::Away {
                done = u64::MAX;
            }
            if self.options.qos != Qos::AtMostOnce {
                done = done.min(publisher.acknowledged);
            }
            let most = done.saturating_add(self.options.window as u64).min(self.options.messages);
            if publisher.sent < most {
                let stamp_us = self.start.elapsed().as_micros() as u64;
                while publisher.sent < most {
                    publisher.queue(self.options.qos, stamp_us);
                }
            }
        }
        self.writes += self.publishers[number].client.flush()?;
        Ok(())
    }

    /// Sends what is due by now.
    fn send_due(&mut self, due: &mut Due) -> Result<(), String> {
        while let Some((sequence, stamp_us)) = due.next(self.now_us()) {
            let number = (sequence % self.publishers.len() as u64) as usize;
            if self.is_over(&self.publishers[number]) {
                return Ok(());
            }
            self.publishers[number].queue(self.options.qos, stamp_us);
            self.writes += self.publishers[number].client.flush()?;
        }
        Ok(())
    }

    fn used(&self) -> Result<Option<Used>, String> {
        let Some(broker) = self.options.broker else { return Ok(None) };
        let private_bytes = broker.memory()?.private_bytes;
        Ok(Some(Used { ran: broker.ran()?, sleeps: broker.sleeps()?, private_bytes }))
    }

    fn report(&self, before: Option<Used>) {
        let seconds = self.start.elapsed().as_secs_f64();
        let at = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile);
        let sent: u64 = self.publishers.iter().map(|it| it.sent).sum();
        print!(
            "messages {} seconds {seconds:.3} rate {:.0} p50_us {} p99_us {} \
             out_of_order {} acknowledged_after {:.3} ack_p50_us {} ack_p99_us {} ack_p999_us {} \
             sent {sent} reads {} writes {}",
            self.received,
            self.received as f64 / seconds,
            at(&self.latency_us, 0.5),
            at(&self.latency_us, 0.99),
            self.out_of_order,
            self.acknowledged_after.as_secs_f64(),
            at(&self.acknowledgement_us, 0.5),
            at(&self.acknowledgement_us, 0.99),
            at(&self.acknowledgement_us, 0.999),
            self.reads,
            self.writes,
        );
        if let (Some(before), Ok(Some(after))) = (before, self.used()) {
            print!(
                " broker_cpu_ns {} broker_sleeps {} broker_private_before {} broker_private_after {}",
                after.ran.saturating_sub(before.ran).as_nanos(),
                after.sleeps.saturating_sub(before.sleeps),
                before.private_bytes,
                after.private_bytes,
            );
        }
        println!();
    }
}

impl Publisher {
    fn queue(&mut self, qos: Qos, stamp_us: u64) {
        self.template.write(self.sent, stamp_us, self.client.output());
        if qos != Qos::AtMostOnce {
            self.unacknowledged.push_back(stamp_us);
        }
        self.sent += 1;
    }
}

/// When messages of an open loop are due.
struct Due {
    every_us: Option<f64>,
    sequence: u64,
}

impl Due {
    fn new(rate: Option<f64>) -> Self {
        Self { every_us: rate.map(|rate| 1e6 / rate), sequence: 0 }
    }

    /// The next that is due by now: which it is, and when it was due, in microseconds.
    fn next(&mut self, now_us: u64) -> Option<(u64, u64)> {
        let due_us = (self.every_us? * self.sequence as f64) as u64;
        if due_us > now_us {
            return None;
        }
        self.sequence += 1;
        Some((self.sequence - 1, due_us))
    }
}

fn subscriber_id(number: usize) -> String {
    // No session of an earlier run is taken up.
    format!("subscriber-{}-{number}", std::process::id())
}
