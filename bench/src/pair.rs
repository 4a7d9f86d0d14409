//! Publishers and subscribers in pairs, as many messages as the broker takes.

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
use crate::options::Pair;

/// How long after the end the last message may still arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// One publisher with its subscriber.
struct Lane {
    topic: TopicName,
    sent: u64,
    received: u64,
    acknowledged: u64,
}

/// Everything that runs.
struct Load<'a> {
    options: &'a Pair,
    /// Publisher of lane n at 2n, its subscriber at 2n + 1.
    clients: Vec<Client>,
    lanes: Vec<Lane>,
    start: Instant,
    latency_us: Histogram<u64>,
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
        out_of_order: 0,
    };
    for number in 0..options.pairs {
        load.open_lane(number)?;
    }
    for (number, client) in load.clients.iter().enumerate() {
        client.watch(&epoll, number)?;
    }
    load.start = Instant::now();
    load.drive(&epoll)?;
    load.report();
    Ok(())
}

impl Load<'_> {
    fn open_lane(&mut self, number: usize) -> Result<(), String> {
        let topic = format!("bench/pair/{number}");
        let mut publisher = Client::open(self.options.address, 2 * number, self.options.version)?;
        publisher.hello(&format!("publisher-{number}"))?;
        let address = self.options.address;
        let mut subscriber = Client::open(address, 2 * number + 1, self.options.version)?;
        subscriber.hello(&format!("subscriber-{number}"))?;
        let options =
            SubscriptionOptions { qos: self.options.qos, ..SubscriptionOptions::default() };
        subscriber.subscribe(&topic, options)?;
        self.clients.extend([publisher, subscriber]);
        let topic = TopicName::new(text(&topic)?).map_err(|error| error.to_string())?;
        self.lanes.push(Lane { topic, sent: 0, received: 0, acknowledged: 0 });
        Ok(())
    }

    fn drive(&mut self, epoll: &OwnedFd) -> Result<(), String> {
        let empty = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [empty; 256];
        let mut scratch = vec![0u8; 64 << 10];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        for lane in 0..self.lanes.len() {
            self.publish(lane)?;
        }
        let deadline = self.options.time + PATIENCE;
        loop {
            let over = self.start.elapsed() >= self.options.time;
            if over && self.lanes.iter().all(|lane| lane.received >= lane.sent) {
                return Ok(());
            }
            if self.start.elapsed() > deadline {
                return Err(format!("messages are missing: {}", self.missing()));
            }
            let ready =
                epoll::wait(epoll, &mut events, Some(&tick)).map_err(|error| error.to_string())?;
            for event in &events[..ready] {
                let number = event.data.u64() as usize;
                while self.clients[number].fill(&mut scratch)? {
                    self.read(number)?;
                }
                self.clients[number].flush()?;
                self.publish(number / 2)?;
            }
        }
    }

    fn missing(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent.saturating_sub(lane.received)).sum()
    }

    fn read(&mut self, number: usize) -> Result<(), String> {
        while let Some(packet) = self.clients[number].next()? {
            match packet {
                Packet::Publish(publish) => self.arrived(number, &publish),
                Packet::PubAck(_) | Packet::PubComp(_) => {
                    self.lanes[number / 2].acknowledged += 1;
                }
                Packet::PubRec(ack) => {
                    let release = Ack::new(ack.packet_id, ReasonCode::Success);
                    self.clients[number].queue(&Packet::PubRel(release));
                }
                Packet::PubRel(ack) => {
                    let done = Ack::new(ack.packet_id, ReasonCode::Success);
                    self.clients[number].queue(&Packet::PubComp(done));
                }
                _ => {}
            }
        }
        self.clients[number].flush()?;
        Ok(())
    }

    fn arrived(&mut self, number: usize, publish: &Publish) {
        if let Some(packet_id) = publish.packet_id {
            let ack = Ack::new(packet_id, ReasonCode::Success);
            let packet = match publish.qos {
                Qos::ExactlyOnce => Packet::PubRec(ack),
                _ => Packet::PubAck(ack),
            };
            self.clients[number].queue(&packet);
        }
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
    }

    /// Fills the window of a lane.
    fn publish(&mut self, lane: usize) -> Result<(), String> {
        if self.start.elapsed() >= self.options.time {
            return Ok(());
        }
        let window = self.options.window as u64;
        let (qos, payload_bytes) = (self.options.qos, self.options.payload_bytes);
        let state = &mut self.lanes[lane];
        let mut done = state.received;
        if qos != Qos::AtMostOnce {
            done = done.min(state.acknowledged);
        }
        while state.sent - done < window {
            let mut payload = vec![0u8; payload_bytes];
            let stamp = self.start.elapsed().as_micros() as u64;
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
            if payload_bytes >= 16 {
                payload[8..16].copy_from_slice(&state.sent.to_be_bytes());
            }
            let packet_id = PacketId::new((state.sent % 65_535) as u16 + 1);
            self.clients[2 * lane].queue(&Packet::Publish(Publish {
                dup: false,
                qos,
                retain: false,
                topic: state.topic.clone(),
                packet_id: packet_id.filter(|_| qos != Qos::AtMostOnce),
                properties: PublishProperties::default(),
                payload: Bytes::from(payload),
            }));
            state.sent += 1;
        }
        self.clients[2 * lane].flush()?;
        Ok(())
    }

    fn report(&self) {
        let received: u64 = self.lanes.iter().map(|lane| lane.received).sum();
        let seconds = self.start.elapsed().as_secs_f64();
        let us = |quantile| self.latency_us.value_at_quantile(quantile);
        println!(
            "messages {received} seconds {seconds:.3} rate {:.0} p50_us {} p99_us {} out_of_order {}",
            received as f64 / seconds,
            us(0.5),
            us(0.99),
            self.out_of_order
        );
    }
}
