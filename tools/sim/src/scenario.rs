//! What a seed stands for: the size of the broker, its limits, the network and the habits of the
//! clients.

use petrel_proto::Version;
use petrel_shard::{Limits, QueueFull, SlotMap};

use crate::oracle::delivery::RECEIVERS_MANY;
use crate::policy::Policy;
use crate::rng::Rng;

/// Everything about a run that is decided before its first event.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Shards, 1 to 5.
    pub shards: u16,
    /// Limits of the broker.
    pub limits: Limits,
    /// Longest time that a message spends in a ring, in milliseconds.
    pub ring_delay_ms: u64,
    /// Longest time that bytes spend between a client and the broker, in milliseconds.
    pub net_delay_ms: u64,
    /// Chance in percent that a turn goes on with the next input before its outbox is carried out.
    pub batch_percent: u64,
    /// The clients, the watchers first.
    pub clients: Vec<Habits>,
    /// Actions that the clients take together before the run winds down.
    pub actions: u32,
    /// Longest pause between two actions of a client, in milliseconds.
    pub pause_ms: u64,
    /// Whether the clock sometimes jumps by seconds at once.
    pub jumps: bool,
    /// Whether session queues are so short that they overflow.
    pub short_queues: bool,
    /// Whether the run ends with a shutdown instead of with everybody leaving.
    pub shutdown: bool,
    /// Topics to publish to.
    pub topics: Vec<String>,
    /// Filters to subscribe with.
    pub filters: Vec<&'static str>,
    /// Shared filters; each client keeps to one, so that the copies it gets can be told apart.
    pub shared: Vec<&'static str>,
    /// Rules, which come one after the other; none for everybody may do everything.
    pub policies: Vec<Policy>,
}

/// What one client is like for the whole run.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Client identifier; empty asks the broker for one.
    pub client_id: String,
    /// Protocol version.
    pub version: Version,
    /// Longest wait before an acknowledgement, in milliseconds.
    pub ack_delay_ms: u64,
    /// Bytes that its socket takes while it does not read.
    pub socket_bytes: usize,
    /// Longest wait before it reads, in milliseconds.
    pub read_delay_ms: u64,
    /// Whether it breaks the rules now and then.
    pub hostile: bool,
    /// Only subscribes to every will and loses nothing; through it every will is seen.
    pub watcher: bool,
    /// Chance in percent that it connects with a clean start.
    pub clean_percent: u64,
}

const TOPICS: &[&str] = &[
    "t",
    "t/a",
    "t/b",
    "t/a/b",
    "t/a/c",
    "t//a",
    "/t",
    "u/a",
    "u/a/b",
    "t/a/b/c/d",
    "$d/a",
    "w/1",
    "é/ñ",
];

const FILTERS: &[&str] = &[
    "t", "t/a", "t/b", "t/a/b", "#", "+", "t/#", "t/+", "+/a", "t/+/b", "+/+", "/#", "+/a/#",
    "$d/#", "$d/a", "+/+/+", "t//a", "t/+/a", "u/#", "w/#", "w/+", "t/a/#", "é/+", "/t", "+/t",
];

const SHARED: &[&str] = &[
    "$share/g1/t/#",
    "$share/g2/t/+",
    "$share/g1/#",
    "$share/g1/t/a",
    "$share/g2/+/a",
    "$share/g3/u/#",
];

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let short_queues = rng.percent(6);
        let slow = rng.percent(25);
        let hostile = rng.percent(30);
        let count = rng.between(2, 10);
        let shards = rng.between(1, 5) as u16;
        let jumps = rng.percent(40);
        let mut clients = Habits::watchers(shards);
        clients.extend((1..=count).map(|n| Habits::random(rng, n, slow)));
        if hostile {
            let mut habits = Habits::random(rng, count + 1, false);
            habits.hostile = true;
            clients.push(habits);
        }
        Self {
            shards,
            // With one shard the watcher must not be dropped for being slow.
            limits: Limits {
                // A jump of the clock would cut the watchers too.
                server_keep_alive_s: if jumps { 0 } else { *rng.pick(&[0, 0, 3]) },
                ..limits(rng, short_queues, slow && shards > 1)
            },
            ring_delay_ms: *rng.pick(&[0, 0, 1, 5, 40]),
            net_delay_ms: *rng.pick(&[0, 1, 5, 20]),
            batch_percent: *rng.pick(&[0, 50, 90]),
            actions: *rng.pick(&[60, 200, 200, 400, 400, 1200]),
            pause_ms: *rng.pick(&[5, 40, 200]),
            jumps,
            short_queues,
            shutdown: rng.percent(20),
            topics: topics(rng),
            filters: some(rng, FILTERS, 3),
            shared: vec![*rng.pick(SHARED), *rng.pick(SHARED)],
            policies: Policy::all_of(seed),
            clients,
        }
    }
}

impl Habits {
    /// Two watchers at different homes, so that a will has to leave the shard where it is published
    /// and is seen in that very step; one if there is only one home.
    fn watchers(shards: u16) -> Vec<Self> {
        let slots = SlotMap::even(shards);
        let mut watchers: Vec<Self> = Vec::new();
        let mut homes = Vec::new();
        for n in 0.. {
            let client_id = format!("watcher-{n}");
            let home = slots.home_of(client_id.as_bytes());
            if !homes.contains(&home) {
                homes.push(home);
                watchers.push(Self { watcher: true, ..Self::good(&client_id, Version::V5) });
            }
            if homes.len() == usize::from(shards.min(2)) {
                break;
            }
        }
        watchers
    }

    /// A client that reads and answers at once.
    #[must_use]
    pub fn good(client_id: &str, version: Version) -> Self {
        Self {
            client_id: client_id.into(),
            version,
            ack_delay_ms: 0,
            socket_bytes: usize::MAX,
            read_delay_ms: 0,
            hostile: false,
            watcher: false,
            clean_percent: 0,
        }
    }

    fn random(rng: &mut Rng, n: u64, slow: bool) -> Self {
        let version = *rng.pick(&[
            Version::V3_1,
            Version::V3_1_1,
            Version::V3_1_1,
            Version::V5,
            Version::V5,
            Version::V5,
            Version::V5,
        ]);
        let nameless = version != Version::V3_1 && rng.percent(10);
        let slow = slow && rng.percent(50);
        Self {
            client_id: if nameless { String::new() } else { format!("client-{n}") },
            version,
            ack_delay_ms: *rng.pick(&[0, 0, 5, 60, 300]),
            socket_bytes: if slow { *rng.pick(&[0, 40, 300]) } else { 1 << 16 },
            read_delay_ms: if slow { *rng.pick(&[50, 400]) } else { 0 },
            hostile: false,
            watcher: false,
            clean_percent: *rng.pick(&[10, 30, 80]),
        }
    }
}

fn limits(rng: &mut Rng, short_queues: bool, slow: bool) -> Limits {
    Limits {
        receive_maximum: *rng.pick(&[1, 2, 10, 1024]),
        maximum_packet_size_bytes: *rng.pick(&[400, 1 << 20]),
        topic_alias_maximum: *rng.pick(&[0, 2, 32]),
        outgoing_topic_alias_maximum: *rng.pick(&[0, 2, 32]),
        session_expiry_max_s: *rng.pick(&[u32::MAX, u32::MAX, 20]),
        session_queue_messages: if short_queues { 4 } else { 1 << 20 },
        session_queue_bytes: 1 << 30,
        session_queue_full: *rng.pick(&[QueueFull::DropNewest, QueueFull::DropOldest]),
        outgoing_inflight_maximum: *rng.pick(&[1, 3, 1024]),
        outgoing_bytes_maximum: if slow { *rng.pick(&[100, 600]) } else { 256 << 10 },
        receivers_per_turn: *rng.pick(&[1, 2, RECEIVERS_MANY]),
        ..Limits::default()
    }
}

/// Topics to publish to; sometimes more of them than one answer to a SUBSCRIBE can hold.
fn topics(rng: &mut Rng) -> Vec<String> {
    let mut topics: Vec<String> = some(rng, TOPICS, 3).into_iter().map(str::to_owned).collect();
    if rng.percent(20) {
        topics.extend((0..rng.between(20, 200)).map(|n| format!("t/{n}")));
    }
    topics
}

fn some(rng: &mut Rng, all: &[&'static str], at_least: usize) -> Vec<&'static str> {
    let count = rng.between(at_least as u64, all.len() as u64) as usize;
    let mut left = all.to_vec();
    (0..count).map(|_| left.swap_remove(rng.index(left.len()))).collect()
}
