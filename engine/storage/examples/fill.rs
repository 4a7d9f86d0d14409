//! Makes a folder with sessions that are away and messages that wait for them, for measurements of
//! a start.
//!
//! One shard and its lanes do it as in the broker, without sockets: each client connects, subscribes
//! to a topic of its own and leaves; then a publisher sends a message of QoS 1 to each of them, and
//! again, so that what waits for one session stands far apart.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use petrel_proto::{
    Connect, ConnectProperties, Disconnect, Packet, PacketId, Publish, PublishProperties, Qos,
    ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions, Text, TopicFilter,
    TopicName, Version,
};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{
    ConnId, Input, Interest, Keeping, Limits, Now, Origin, Outbox, Shard, ShardConfig, ShardIndex,
    SlotMap,
};
use petrel_storage::{
    Alive, Clock, DiskOptions, DiskStore, Ends, Lane, LaneSettings, Order, Sweep, SyncLevel, begin,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str =
    "fill --dir FOLDER [--sessions N] [--messages PER_SESSION] [--payload BYTES] [--lanes N]";

/// Records that a lane writes at once.
const TOGETHER: usize = 4_096;
/// Who publishes to all; whoever subscribes at the moment has the next position.
const PUBLISHER: ConnId = ConnId { index: 0, generation: 1 };
const WINDOW_BYTES: usize = 64 << 20;

struct Options {
    dir: PathBuf,
    sessions: u32,
    messages: u32,
    payload_bytes: usize,
    lanes: u16,
}

impl Options {
    fn from_args() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut options = Self {
            dir: PathBuf::new(),
            sessions: 100_000,
            messages: 10,
            payload_bytes: 100,
            lanes: 1,
        };
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next()? {
            match arg {
                Long("dir") => options.dir = args.value()?.into(),
                Long("sessions") => options.sessions = args.value()?.parse()?,
                Long("messages") => options.messages = args.value()?.parse()?,
                Long("payload") => options.payload_bytes = args.value()?.parse()?,
                Long("lanes") => options.lanes = args.value()?.parse()?,
                _ => return Err(USAGE.into()),
            }
        }
        if options.dir.as_os_str().is_empty() { Err(USAGE.into()) } else { Ok(options) }
    }
}

/// A shard with its lanes.
struct Broker {
    shard: Shard,
    out: Outbox,
    ends: Ends,
    lanes: Vec<Lane<DiskStore>>,
}

impl Broker {
    fn open(options: &Options) -> Result<Self, Box<dyn Error>> {
        let count = options.lanes;
        let mut opened = Vec::new();
        for lane in 0..count {
            let alive = Alive::default();
            let sweep = Sweep { alive: alive.clone(), wall_clock: Arc::new(wall_clock_ms) };
            let folder = options.dir.join(format!("lane-{lane}"));
            let store = DiskStore::open_and_sweep(folder, DiskOptions::default(), Some(sweep))?;
            let sync = SyncLevel::Never;
            let settings =
                LaneSettings { lane, lanes: count, sync, window_bytes_max: WINDOW_BYTES };
            let clock = Clock { origin_ms: wall_clock_ms() };
            opened.push((Lane::open(store, clock, settings)?, alive));
        }
        let (mut lanes, alive): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let epoch = begin(&mut lanes)?;
        for (lane, alive) in lanes.iter_mut().zip(alive) {
            lane.sweep(alive)?;
        }
        let hash_key = [1, 2];
        let config = ShardConfig {
            index: ShardIndex(0),
            slots: SlotMap::even(1),
            limits: Limits { receive_maximum: u16::MAX, ..Limits::default() },
            auth_methods: Vec::new(),
            access: Default::default(),
            seed: 1,
            hash_key,
            keeping: Some(Keeping { epoch, lanes: count }),
        };
        let shard = Shard::new(config, Arc::new(Interest::new(HashKey::new(hash_key))));
        let ends = Ends::new(ShardIndex(0), count);
        Ok(Self { shard, out: Outbox::new(), ends, lanes })
    }

    fn feed(&mut self, input: Input) -> Result<(), Box<dyn Error>> {
        self.shard.handle(Now::default(), input, &mut self.out);
        if self.out.records.len() >= TOGETHER { self.keep() } else { Ok(()) }
    }

    /// Ends a turn: everything so far is kept.
    fn keep(&mut self) -> Result<(), Box<dyn Error>> {
        self.shard.end_turn(&mut self.out);
        let records = std::mem::take(&mut self.out.records);
        let orders = self.ends.split(records, self.out.records_upto, true);
        self.out.clear();
        for (lane, order) in orders {
            let Order::Keep { from, upto, urgent, records, .. } = order else { continue };
            self.lanes[lane].gather(from, upto, urgent, records);
            let mut kept = 0;
            for (_, upto) in self.lanes[lane].commit()? {
                kept = upto;
            }
            while self.lanes[lane].wants_folding() {
                self.lanes[lane].fold()?;
            }
            if let Some(upto) = self.ends.answered(lane, kept) {
                self.shard.handle(Now::default(), Input::Kept { upto }, &mut self.out);
            }
        }
        Ok(())
    }

    fn connect(&mut self, conn: ConnId, name: &str, lasts: bool) -> Result<(), Box<dyn Error>> {
        let connect = Box::new(Connect {
            version: Version::V5,
            clean_start: true,
            keep_alive_s: 0,
            client_id: Text::try_from(name)?,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval_s: lasts.then_some(86_400),
                ..ConnectProperties::default()
            },
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let origin = Origin {
            listener: 0,
            allow_anonymous: true,
            authenticates: false,
            address,
            certificate: None,
        };
        self.feed(Input::Connect { conn, connect, origin })
    }

    /// A client that subscribes and leaves.
    fn visit(&mut self, number: u32) -> Result<(), Box<dyn Error>> {
        let conn = ConnId { index: 1, generation: number };
        self.connect(conn, &client_id(number), true)?;
        let filter = TopicFilter::new(Text::try_from(topic(number).as_str())?)?;
        // Who leaves before the answer gets it after a restart, and is held in memory until then.
        let retain_handling = RetainHandling::DoNotSend;
        let qos = Qos::AtLeastOnce;
        let options = SubscriptionOptions { qos, retain_handling, ..Default::default() };
        let subscribe = Subscribe {
            packet_id: PacketId(std::num::NonZeroU16::MIN),
            subscription_identifier: None,
            user_properties: Default::default(),
            filters: [SubscribeFilter { filter, options }].into_iter().collect(),
        };
        self.feed(Input::Packet { conn, packet: Packet::Subscribe(Box::new(subscribe)) })?;
        let packet = Packet::Disconnect(Box::new(Disconnect::new(ReasonCode::Success)));
        self.feed(Input::Packet { conn, packet })
    }

    fn publish(&mut self, number: u32, payload: &Bytes) -> Result<(), Box<dyn Error>> {
        let publish = Publish {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: TopicName::new(Text::try_from(topic(number).as_str())?)?,
            packet_id: Some(PacketId(std::num::NonZeroU16::MIN)),
            properties: PublishProperties::default(),
            payload: payload.clone(),
        };
        self.feed(Input::Packet { conn: PUBLISHER, packet: Packet::Publish(publish) })
    }
}

fn client_id(number: u32) -> String {
    format!("away-{number}")
}

fn topic(number: u32) -> String {
    format!("away/{number}")
}

fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis() as u64
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args()?;
    let mut broker = Broker::open(&options)?;
    for number in 0..options.sessions {
        broker.visit(number)?;
    }
    broker.connect(PUBLISHER, "publisher", false)?;
    let payload: Bytes = (0..options.payload_bytes).map(|n| (n * 31 + n / 7) as u8).collect();
    for _ in 0..options.messages {
        for number in 0..options.sessions {
            broker.publish(number, &payload)?;
        }
    }
    broker.keep()?;
    broker.lanes.iter_mut().try_for_each(Lane::sync)?;
    Ok(())
}
