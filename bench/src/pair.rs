//! Publishers and subscribers in pairs, as many messages as the broker takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use petrel_proto::{
    Ack, Packet, PacketId, Publish, PublishProperties, Qos, ReasonCode, SubscriptionOptions,
    TopicName,
};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

use crate::client::{Client, text};
use crate::options::{Kept, Pair};

/// How long after the end the last message may still arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// One publisher with its subscriber.
struct Lane {
    topic: TopicName,
    sent: u64,
    received: u64,
    acknowledged: u64,
    /// When those were sent that have not been acknowledged, in microseconds.
    unacknowledged: VecDeque<u64>,
}

/// Everything that runs.
struct Load<'a> {
    options: &'a Pair,
    /// Publisher of lane n at 2n, its subscriber at 2n + 1, unless it is away.
    clients: Vec<Option<Client>>,
    lanes: Vec<Lane>,
    start: Instant,
    latency_us: Histogram<u64>,
    /// From the sending of a message to its PUBACK or PUBCOMP.
    acknowledgement_us: Histogram<u64>,
    /// When the last message was acknowledged.
    acknowledged_after: Duration,
    out_of_order: u64,
}

/// Runs the load and prints one line of figures.
pub fn run(options: &Pair) -> Result<(), String> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut load = Load {
        options,
        clients: Vec::new(),
        lanes: Vec::new(),
        start: Instant::now(),
        latency_us: Histogram::new(3).map_err(|error| error.to_string())?,
        acknowledgement_us: Histogram::new(3).map_err(|error| error.to_string())?,
        acknowledged_after: Duration::ZERO,
        out_of_order: 0,
    };
    for number in 0..options.pairs {
        load.open_lane(number)?;
    }
    for (number, client) in load.clients.iter().enumerate() {
        if let Some(client) = client {
            client.watch(&epoll, number)?;
        }
    }
    load.start = Instant::now();
    let away = options.kept == Kept::Away;
    load.drive(&epoll, |lane| if away { lane.acknowledged } else { lane.received })?;
    if away {
        load.bring_back(&epoll)?;
        load.drive(&epoll, |lane| lane.received)?;
    }
    load.report();
    load.end_sessions()
}

impl Load<'_> {
    fn open_lane(&mut self, number: usize) -> Result<(), String> {
        let topic = format!("bench/pair/{number}");
        let mut publisher = Client::open(self.options.address, 2 * number, self.options.version)?;
        publisher.hello(&format!("publisher-{number}"))?;
        let address = self.options.address;
        let mut subscriber = Client::open(address, 2 * number + 1, self.options.version)?;
        match self.options.kept {
            Kept::No => subscriber.hello(&subscriber_id(number))?,
            Kept::Online | Kept::Away => subscriber.resume(&subscriber_id(number))?,
        }
        let options =
            SubscriptionOptions { qos: self.options.qos, ..SubscriptionOptions::default() };
        subscriber.subscribe(&topic, options)?;
        let mut subscriber = Some(subscriber);
        if self.options.kept == Kept::Away
            && let Some(subscriber) = subscriber.take()
        {
            subscriber.leave()?;
        }
        self.clients.extend([Some(publisher), subscriber]);
        let topic = TopicName::new(text(&topic)?).map_err(|error| error.to_string())?;
        let unacknowledged = VecDeque::new();
        self.lanes.push(Lane { topic, sent: 0, received: 0, acknowledged: 0, unacknowledged });
        Ok(())
    }

    /// Connects the subscribers that are away.
    fn bring_back(&mut self, epoll: &OwnedFd) -> Result<(), String> {
        for number in 0..self.lanes.len() {
            let (address, at) = (self.options.address, 2 * number + 1);
            let mut subscriber = Client::open(address, at, self.options.version)?;
            subscriber.resume(&subscriber_id(number))?;
            subscriber.watch(epoll, at)?;
            self.clients[at] = Some(subscriber);
        }
        // What came with the CONNACK is there already.
        (0..self.clients.len()).try_for_each(|number| self.read(number))
    }

    /// Ends what would outlive this, and get what others send.
    fn end_sessions(&self) -> Result<(), String> {
        if self.options.kept != Kept::No {
            for number in 0..self.lanes.len() {
                let (address, at) = (self.options.address, 2 * number + 1);
                let mut subscriber = Client::open(address, at, self.options.version)?;
                subscriber.hello(&subscriber_id(number))?;
            }
        }
        Ok(())
    }

    /// Goes on until everything that was sent is done.
    fn drive(&mut self, epoll: &OwnedFd, done: impl Fn(&Lane) -> u64) -> Result<(), String> {
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; 256];
        let mut scratch = vec![0u8; 64 << 10];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        for lane in 0..self.lanes.len() {
            self.publish(lane)?;
        }
        let deadline = self.start.elapsed().max(self.options.time) + PATIENCE;
        loop {
            if self.lanes.iter().all(|lane| self.is_over(lane) && done(lane) >= lane.sent) {
                return Ok(());
            }
            if self.start.elapsed() > deadline {
                return Err(format!("messages are missing: {}", self.missing()));
            }
            let ready =
                epoll::wait(epoll, &mut events, Some(&tick)).map_err(|error| error.to_string())?;
            for event in &events[..ready] {
                let number = event.data.u64() as usize;
                while let Some(client) = &mut self.clients[number]
                    && client.fill(&mut scratch)?
                {
                    self.read(number)?;
                }
                if let Some(client) = &mut self.clients[number] {
                    client.flush()?;
                }
                self.publish(number / 2)?;
            }
        }
    }

    /// True if nothing more is sent in a lane.
    fn is_over(&self, lane: &Lane) -> bool {
        lane.sent >= self.options.messages || self.start.elapsed() >= self.options.time
    }

    fn missing(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent.saturating_sub(lane.received)).sum()
    }

    fn read(&mut self, number: usize) -> Result<(), String> {
        while let Some(client) = &mut self.clients[number]
            && let Some(packet) = client.next()?
        {
            let answer = match packet {
                Packet::Publish(publish) => self.arrived(number, &publish),
                Packet::PubAck(_) | Packet::PubComp(_) => {
                    self.acknowledged(number / 2);
                    None
                }
                Packet::PubRec(ack) => {
                    Some(Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success)))
                }
                Packet::PubRel(ack) => {
                    Some(Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success)))
                }
                _ => None,
            };
            if let (Some(client), Some(answer)) = (&mut self.clients[number], answer) {
                client.queue(&answer);
            }
        }
        if let Some(client) = &mut self.clients[number] {
            client.flush()?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        lane.acknowledged += 1;
        self.acknowledged_after = self.start.elapsed();
        if let Some(sent_us) = lane.unacknowledged.pop_front() {
            let now_us = self.acknowledged_after.as_micros() as u64;
            // A histogram that resizes itself records any value.
            let _ = self.acknowledgement_us.record(now_us.saturating_sub(sent_us));
        }
    }

    /// Takes a message. Returns what answers it.
    fn arrived(&mut self, number: usize, publish: &Publish) -> Option<Packet> {
        let answer = publish.packet_id.map(|packet_id| {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            match publish.qos {
                Qos::ExactlyOnce => Packet::PubRec(ack),
                _ => Packet::PubAck(ack),
            }
        });
        let lane = &mut self.lanes[number / 2];
        if let Some(stamp) = publish.payload.first_chunk::<8>() {
            let sent_us = u64::from_be_bytes(*stamp);
            let now_us = self.start.elapsed().as_micros() as u64;
            // A histogram that resizes itself records any value.
            let _ = self.latency_us.record(now_us.saturating_sub(sent_us));
        }
        if publish.payload.len() >= 16 {
            let mut number = [0u8; 8];
            number.copy_from_slice(&publish.payload[8..16]);
            if u64::from_be_bytes(number) != lane.received {
                self.out_of_order += 1;
            }
        }
        lane.received += 1;
        answer
    }

    /// Fills the window of a lane.
    fn publish(&mut self, lane: usize) -> Result<(), String> {
        if self.is_over(&self.lanes[lane]) {
            return Ok(());
        }
        let window = self.options.window as u64;
        let (qos, payload_bytes) = (self.options.qos, self.options.payload_bytes);
        let state = &mut self.lanes[lane];
        let Some(publisher) = &mut self.clients[2 * lane] else { return Ok(()) };
        let mut done = if self.options.kept == Kept::Away { u64::MAX } else { state.received };
        if qos != Qos::AtMostOnce {
            done = done.min(state.acknowledged);
        }
        while state.sent - done < window && state.sent < self.options.messages {
            let mut payload = vec![0u8; payload_bytes];
            let stamp = self.start.elapsed().as_micros() as u64;
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
            if payload_bytes >= 16 {
                payload[8..16].copy_from_slice(&state.sent.to_be_bytes());
            }
            let packet_id = PacketId::new((state.sent % 65_535) as u16 + 1);
            publisher.queue(&Packet::Publish(Publish {
                dup: false,
                qos,
                retain: false,
                topic: state.topic.clone(),
                packet_id: packet_id.filter(|_| qos != Qos::AtMostOnce),
                properties: PublishProperties::default(),
                payload: Bytes::from(payload),
            }));
            if qos != Qos::AtMostOnce {
                state.unacknowledged.push_back(stamp);
            }
            state.sent += 1;
        }
        publisher.flush()?;
        Ok(())
    }

    fn report(&self) {
        let received: u64 = self.lanes.iter().map(|lane| lane.received).sum();
        let seconds = self.start.elapsed().as_secs_f64();
        let at = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile);
        println!(
            "messages {received} seconds {seconds:.3} rate {:.0} p50_us {} p99_us {} \
             out_of_order {} acknowledged_after {:.3} ack_p50_us {} ack_p99_us {} ack_p999_us {}",
            received as f64 / seconds,
            at(&self.latency_us, 0.5),
            at(&self.latency_us, 0.99),
            self.out_of_order,
            self.acknowledged_after.as_secs_f64(),
            at(&self.acknowledgement_us, 0.5),
            at(&self.acknowledgement_us, 0.99),
            at(&self.acknowledgement_us, 0.999),
        );
    }
}

fn subscriber_id(number: usize) -> String {
    // No session of an earlier run is taken up.
    format!("subscriber-{}-{number}", std::process::id())
}
