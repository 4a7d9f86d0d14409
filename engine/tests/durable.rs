//! What was acknowledged outlives the process, whatever ends it.
//!
//! `PETREL_KILL_ROUNDS=50 cargo test --release -p petrel-engine --test durable` kills more often.

mod common;

#[path = "durable/backup.rs"]
mod backup;
#[path = "durable/full.rs"]
mod full;
#[path = "durable/limits.rs"]
mod limits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::process::{Running, folder, listener, petrel, with_config};
use common::{Client, publish_packet, subscribe_packet, text};
use petrel_proto::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, Qos, ReasonCode, Version,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// Unfinished messages of one publisher.
const WINDOW: usize = 32;

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A folder whose broker keeps what it is given, and the port of that.
struct Place {
    folder: TempDir,
    port: u16,
}

/// What a folder may take of its disk where a test says so.
const LIMIT_BYTES: u64 = 100_000_000;

impl Place {
    fn new() -> Self {
        Self { folder: folder(""), port: free_port() }
    }

    fn start(&self, shards: u16) -> (Running, SocketAddr) {
        self.start_with(shards, "")
    }

    fn start_with(&self, shards: u16, storage: &str) -> (Running, SocketAddr) {
        let limits = "session_queue_messages = 1000000\nsession_queue_bytes = 1000000000\n";
        let mut broker = self.begin(shards, storage, limits);
        broker.line_with("petrel ready");
        (broker, SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    /// Like [`Self::start_with`], with a limit for the disk that something else has reached.
    fn start_without_room(&self, shards: u16, storage: &str) -> (Running, SocketAddr) {
        let data = self.folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let filler = std::fs::File::create(data.join("filler")).expect("a file");
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&filler, flags, 0, LIMIT_BYTES).expect("there is room");
        self.start_with(shards, &format!("disk_limit_bytes = {LIMIT_BYTES}\n{storage}"))
    }

    /// A broker that is about to be ready.
    fn begin(&self, shards: u16, storage: &str, limits: &str) -> Running {
        // Both runtimes keep the same folder.
        let runtime = if shards.is_multiple_of(2) { "epoll" } else { "auto" };
        let config = listener("mqtt", self.port)
            + &format!("[engine]\nshards = {shards}\nruntime = \"{runtime}\"\n")
            + "[storage]\npath = \"data\"\n"
            + storage
            + "[limits]\n"
            + limits;
        std::fs::write(self.folder.path().join("p.toml"), config).expect("written");
        let mut command = petrel();
        with_config(&mut command, &self.folder);
        Running::start(&mut command)
    }
}

/// A connection with a session that lasts.
fn resume(address: SocketAddr, client_id: &str) -> (Client, bool) {
    let mut client = Client::open(address);
    client.version = Version::V5;
    client.send(&Packet::Connect(Box::new(Connect {
        version: Version::V5,
        clean_start: false,
        keep_alive_s: 0,
        client_id: text(client_id),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry_interval_s: Some(u32::MAX),
            receive_maximum: Some(100),
            ..ConnectProperties::default()
        },
    })));
    match client.receive() {
        Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success => {
            (client, ack.session_present)
        }
        other => panic!("no good CONNACK but {other:?}"),
    }
}

/// A publisher and what it has not finished.
struct Publisher {
    name: String,
    number: u8,
    qos: Qos,
    /// Bytes behind the number of each message.
    padding: usize,
    next: u32,
    /// Message, identifier, whether PUBREC has come.
    unfinished: VecDeque<(u32, PacketId, bool)>,
    acknowledged: BTreeSet<u32>,
}

impl Publisher {
    fn new(number: u8, qos: Qos) -> Self {
        let name = format!("publisher-{number}");
        let (unfinished, acknowledged) = (VecDeque::new(), BTreeSet::new());
        Self { name, number, qos, padding: 0, next: 0, unfinished, acknowledged }
    }

    fn publish(&self, message: u32, id: PacketId, dup: bool) -> Packet {
        let mut payload = vec![self.number];
        payload.extend_from_slice(&message.to_be_bytes());
        payload.resize(payload.len() + self.padding, 0);
        match publish_packet("t/x", payload, self.qos, id.get()) {
            Packet::Publish(publish) => Packet::Publish(Publish { dup, ..publish }),
            other => other,
        }
    }

    /// Publishes until the broker has gone, or until it has begun so many messages and all are finished.
    fn run(&mut self, address: SocketAddr, upto: u32, acknowledged: &AtomicU64) {
        let (mut client, present) = resume(address, &self.name);
        assert!(present || self.acknowledged.is_empty() || self.qos == Qos::AtLeastOnce);
        for (message, id, received) in self.unfinished.clone() {
            let packet = match received {
                true => Packet::PubRel(Ack::new(id, ReasonCode::Success)),
                false => self.publish(message, id, true),
            };
            if !try_send(&mut client, &packet) {
                return;
            }
        }
        loop {
            while self.unfinished.len() < WINDOW && self.next < upto {
                let used = |id: PacketId| self.unfinished.iter().any(|(_, other, _)| *other == id);
                let id = (1..100).filter_map(PacketId::new).find(|id| !used(*id)).expect("free");
                self.unfinished.push_back((self.next, id, false));
                self.next += 1;
                if !try_send(&mut client, &self.publish(self.next - 1, id, false)) {
                    return;
                }
            }
            if self.unfinished.is_empty() {
                return;
            }
            let Some(packet) = try_receive(&mut client) else { return };
            let find = |id: PacketId| self.unfinished.iter().position(|(_, other, _)| *other == id);
            match packet {
                Packet::PubAck(ack) => {
                    let at = find(ack.packet_id).expect("it was sent");
                    let (message, ..) = self.unfinished.remove(at).expect("it is there");
                    self.acknowledged.insert(message);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Packet::PubRec(ack) => {
                    if let Some(at) = find(ack.packet_id) {
                        self.unfinished[at].2 = true;
                        self.acknowledged.insert(self.unfinished[at].0);
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    let release = Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success));
                    if !try_send(&mut client, &release) {
                        return;
                    }
                }
                Packet::PubComp(ack) => {
                    if let Some(at) = find(ack.packet_id) {
                        self.unfinished.remove(at);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A subscriber and what it got.
struct Subscriber {
    name: String,
    filter: &'static str,
    qos: Qos,
    subscribed: bool,
    receiving: BTreeSet<PacketId>,
    /// Of each publisher: message, how often.
    got: BTreeMap<u8, BTreeMap<u32, u32>>,
    /// Of each publisher: first arrivals, in order.
    order: BTreeMap<u8, Vec<u32>>,
    /// Which connection this is, and what has come with identifiers on all of them.
    connection: u32,
    story: Vec<Came>,
}

/// A PUBLISH or a PUBREL that came.
#[derive(Debug)]
#[allow(dead_code, reason = "read by who looks at a failure")]
struct Came {
    connection: u32,
    packet_id: PacketId,
    /// What was published, its QoS and DUP; `None` for PUBREL.
    publish: Option<((u8, u32), Qos, bool)>,
}

impl Subscriber {
    fn new(number: u8, qos: Qos) -> Self {
        Self {
            name: format!("subscriber-{number}"),
            filter: "t/#",
            qos,
            subscribed: false,
            receiving: BTreeSet::new(),
            got: BTreeMap::new(),
            order: BTreeMap::new(),
            connection: 0,
            story: Vec::new(),
        }
    }

    /// All that came with the identifiers of a message.
    fn story_of(&self, message: (u8, u32)) -> String {
        let is_it = |came: &&Came| came.publish.is_some_and(|(other, ..)| other == message);
        let ids: BTreeSet<_> = self.story.iter().filter(is_it).map(|came| came.packet_id).collect();
        let lines = self.story.iter().filter(|came| ids.contains(&came.packet_id));
        lines.map(|came| format!("\n  {came:?}")).collect()
    }

    fn count(&self) -> usize {
        self.got.values().map(BTreeMap::len).sum()
    }

    /// What it got.
    fn messages(&self) -> impl Iterator<Item = (u8, u32)> {
        let each = self.got.iter();
        each.flat_map(|(publisher, of)| of.keys().map(|message| (*publisher, *message)))
    }

    /// Receives until the broker has gone, or until it has so many messages.
    fn run(&mut self, address: SocketAddr, upto: usize) {
        self.run_and(address, upto, |_| {});
    }

    /// The same, and says what has come.
    fn run_and(&mut self, address: SocketAddr, upto: usize, came: impl Fn((u8, u32))) {
        let (mut client, present) = resume(address, &self.name);
        self.connection += 1;
        assert!(present || !self.subscribed, "the session of {} is lost", self.name);
        if !self.subscribed && !try_send(&mut client, &subscribe_packet(self.filter, self.qos)) {
            return;
        }
        while self.count() < upto {
            let Some(packet) = try_receive(&mut client) else { return };
            let answer = match packet {
                Packet::SubAck(_) => {
                    self.subscribed = true;
                    if upto == 0 {
                        return;
                    }
                    continue;
                }
                Packet::Publish(publish) => {
                    let answer = self.take(&publish);
                    came(message_of(&publish));
                    answer
                }
                Packet::PubRel(ack) => {
                    let (connection, packet_id) = (self.connection, ack.packet_id);
                    self.story.push(Came { connection, packet_id, publish: None });
                    self.receiving.remove(&ack.packet_id);
                    Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::Success))
                }
                other => panic!("{other:?}"),
            };
            if !try_send(&mut client, &answer) {
                return;
            }
        }
    }

    fn take(&mut self, publish: &Publish) -> Packet {
        let id = publish.packet_id.expect("QoS 1 or 2");
        let ack = Ack::new(id, ReasonCode::Success);
        self.story.push(Came {
            connection: self.connection,
            packet_id: id,
            publish: Some((message_of(publish), publish.qos, publish.dup)),
        });
        if publish.qos == Qos::ExactlyOnce && !self.receiving.insert(id) {
            return Packet::PubRec(ack);
        }
        let (publisher, message) = message_of(publish);
        let times = self.got.entry(publisher).or_default().entry(message).or_insert(0);
        *times += 1;
        if *times == 1 {
            self.order.entry(publisher).or_default().push(message);
        }
        match publish.qos {
            Qos::ExactlyOnce => Packet::PubRec(ack),
            _ => Packet::PubAck(ack),
        }
    }

    /// Subscribes, and goes away when it is told that it has.
    fn subscribe(&mut self, address: SocketAddr) {
        let (mut client, _) = resume(address, &self.name);
        client.send(&subscribe_packet(self.filter, self.qos));
        let Some(Packet::SubAck(_)) = client.receive() else { panic!("no SUBACK") };
        self.subscribed = true;
    }
}

/// Publisher and number.
fn message_of(publish: &Publish) -> (u8, u32) {
    let number = publish.payload[1..5].try_into().expect("four bytes");
    (publish.payload[0], u32::from_be_bytes(number))
}

fn try_send(client: &mut Client, packet: &Packet) -> bool {
    use std::io::Write as _;
    let bytes = common::bytes_of(packet, client.version);
    client.stream.write_all(&bytes).is_ok()
}

fn try_receive(client: &mut Client) -> Option<Packet> {
    client.receive()
}

/// Compares what was acknowledged with what was delivered.
fn check(publishers: &[Publisher], subscribers: &[Subscriber]) {
    for subscriber in subscribers {
        for publisher in publishers {
            let none = BTreeMap::new();
            let got = subscriber.got.get(&publisher.number).unwrap_or(&none);
            let who = format!("{} of {}", subscriber.name, publisher.name);
            let missing: Vec<_> = publisher
                .acknowledged
                .iter()
                .filter(|message| !got.contains_key(message))
                .collect();
            assert!(missing.is_empty(), "{who}: acknowledged and lost: {missing:?}");
            let order = &subscriber.order[&publisher.number];
            assert!(order.is_sorted(), "{who}: out of order");
            if publisher.qos == Qos::ExactlyOnce && subscriber.qos == Qos::ExactlyOnce {
                let twice: Vec<_> = got.iter().filter(|(_, times)| **times > 1).collect();
                let story = twice
                    .first()
                    .map(|(message, _)| subscriber.story_of((publisher.number, **message)));
                assert!(
                    twice.is_empty(),
                    "{who}: more than once: {twice:?}{}",
                    story.unwrap_or_default()
                );
            }
        }
    }
}

fn rounds(default: u32) -> u32 {
    std::env::var("PETREL_KILL_ROUNDS").ok().and_then(|it| it.parse().ok()).unwrap_or(default)
}

/// kill -9 under load, again and again, with another number of shards each time; one subscriber of each
/// QoS is there all the time, one comes only at the end.
#[test]
fn nothing_acknowledged_is_lost_by_kill_9_and_nothing_comes_twice_at_qos_2() {
    let place = Place::new();
    let mut publishers: Vec<Publisher> = (0..4)
        .map(|number| {
            let qos = if number % 2 == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
            Publisher::new(number, qos)
        })
        .collect();
    let mut subscribers: Vec<Subscriber> = (0..4)
        .map(|number| {
            let qos = if number % 2 == 0 { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
            Subscriber::new(number, qos)
        })
        .collect();
    let rounds = rounds(5);
    for round in 0..rounds {
        let (mut broker, address) = place.start(1 + (round % 4) as u16);
        if round == 0 {
            subscribers.iter_mut().for_each(|subscriber| subscriber.subscribe(address));
        }
        let acknowledged = AtomicU64::new(0);
        // The broker dies somewhere in the middle of it.
        let enough = 200 + u64::from(round % 7) * 150;
        std::thread::scope(|scope| {
            for publisher in &mut publishers {
                let acknowledged = &acknowledged;
                let upto = publisher.next + 100_000;
                scope.spawn(move || publisher.run(address, upto, acknowledged));
            }
            for subscriber in subscribers.iter_mut().take(2) {
                scope.spawn(move || subscriber.run(address, usize::MAX));
            }
            while acknowledged.load(Ordering::Relaxed) < enough {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            broker.signal(Signal::KILL);
            broker.child.wait().expect("it ends");
        });
    }
    let (broker, address) = place.start(3);
    std::thread::scope(|scope| {
        for publisher in &mut publishers {
            let upto = publisher.next;
            scope.spawn(move || publisher.run(address, upto, &AtomicU64::new(0)));
        }
    });
    // Everything is finished, so everything that was begun must arrive.
    let all = publishers.iter().map(|publisher| publisher.acknowledged.len()).sum();
    std::thread::scope(|scope| {
        for subscriber in &mut subscribers {
            scope.spawn(move || subscriber.run(address, all));
        }
    });
    broker.signal(Signal::TERM);
    let (code, lines) = broker.end();
    assert_eq!(code, Some(0), "{lines:?}");
    check(&publishers, &subscribers);
    println!(
        "{rounds} kills, {all} messages acknowledged, each to {} subscribers",
        subscribers.len()
    );
}

/// The same for a shared group, whose members come and go: what was acknowledged reaches one of them, and
/// at QoS 2 one of them once.
#[test]
fn nothing_that_waits_in_a_shared_group_is_lost_or_comes_twice() {
    let place = Place::new();
    let mut publishers = [Publisher::new(0, Qos::AtLeastOnce), Publisher::new(1, Qos::ExactlyOnce)];
    let mut members: Vec<Subscriber> = (0..3)
        .map(|number| Subscriber {
            filter: "$share/g/t/#",
            ..Subscriber::new(number, Qos::ExactlyOnce)
        })
        .collect();
    let rounds = rounds(5);
    for round in 0..rounds {
        let (mut broker, address) = place.start(1 + (round % 4) as u16);
        if round == 0 {
            members.iter_mut().for_each(|member| member.subscribe(address));
        }
        let acknowledged = AtomicU64::new(0);
        let enough = 200 + u64::from(round % 7) * 150;
        std::thread::scope(|scope| {
            for publisher in &mut publishers {
                let acknowledged = &acknowledged;
                let upto = publisher.next + 100_000;
                scope.spawn(move || publisher.run(address, upto, acknowledged));
            }
            for (number, member) in members.iter_mut().enumerate() {
                if number != round as usize % 4 {
                    scope.spawn(move || member.run(address, usize::MAX));
                }
            }
            while acknowledged.load(Ordering::Relaxed) < enough {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            broker.signal(Signal::KILL);
            broker.child.wait().expect("it ends");
        });
    }
    let (mut broker, address) = place.start(3);
    std::thread::scope(|scope| {
        for publisher in &mut publishers {
            let upto = publisher.next;
            scope.spawn(move || publisher.run(address, upto, &AtomicU64::new(0)));
        }
    });
    // Nobody knows how many each of them gets, so they go on until all has come.
    let all: BTreeSet<(u8, u32)> = publishers
        .iter()
        .flat_map(|one| one.acknowledged.iter().map(|&message| (one.number, message)))
        .collect();
    let had = members.iter().flat_map(Subscriber::messages).collect();
    let missing = Mutex::new(&all - &had);
    std::thread::scope(|scope| {
        for member in &mut members {
            let missing = &missing;
            scope.spawn(move || {
                member.run_and(address, usize::MAX, |message| {
                    missing.lock().expect("nobody fails").remove(&message);
                });
            });
        }
        while !missing.lock().expect("nobody fails").is_empty() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        broker.signal(Signal::KILL);
        broker.child.wait().expect("it ends");
    });
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    for (message, count) in members.iter().filter_map(|member| member.got.get(&1)).flatten() {
        *times.entry(*message).or_default() += count;
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
    println!("{rounds} kills, {} messages acknowledged, each to one of 3 members", all.len());
}

/// SIGTERM and another number of shards: sessions, what waits for them and retained messages are there.
#[test]
fn a_restart_with_other_shards_brings_everything_back() {
    let place = Place::new();
    let (broker, address) = place.start(1);
    let folder = std::fs::metadata(place.folder.path().join("data")).expect("it is there");
    assert_eq!(folder.permissions().mode() & 0o077, 0, "messages are nobody else's business");
    let mut subscriber = Subscriber::new(0, Qos::ExactlyOnce);
    subscriber.subscribe(address);
    let mut publisher = Publisher::new(0, Qos::ExactlyOnce);
    publisher.run(address, 500, &AtomicU64::new(0));
    assert_eq!(publisher.acknowledged.len(), 500);
    let mut retainer = Client::connect(address, "retainer", Version::V5);
    let Packet::Publish(publish) = publish_packet("kept/r", "value", Qos::AtLeastOnce, 1) else {
        panic!("a PUBLISH")
    };
    retainer.send(&Packet::Publish(Publish { retain: true, ..publish }));
    let Some(Packet::PubAck(_)) = retainer.receive() else { panic!("no PUBACK") };
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
    let (broker, address) = place.start(4);
    subscriber.run(address, 500);
    check(&[publisher], &[subscriber]);
    let mut witness = Client::connect(address, "witness", Version::V5);
    witness.send(&subscribe_packet("kept/#", Qos::AtMostOnce));
    let retained = loop {
        match witness.receive() {
            Some(Packet::Publish(publish)) => break publish,
            Some(Packet::SubAck(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((&retained.payload[..], retained.retain), (&b"value"[..], true));
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// When the folder has what it may have, publishers of QoS 1 wait and everything else goes on; what was
/// acknowledged is there when there is room again.
#[test]
fn publishers_wait_for_room_on_the_disk() {
    let place = Place::new();
    let (mut broker, address) = place.start_without_room(1, "");
    let mut subscriber = Subscriber::new(0, Qos::AtLeastOnce);
    subscriber.subscribe(address);
    let mut publisher = Publisher::new(0, Qos::AtLeastOnce);
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let publisher = &mut publisher;
        let acknowledged = &acknowledged;
        scope.spawn(move || publisher.run(address, u32::MAX, acknowledged));
        broker.line_with("disk_limit_bytes is reached; publishers of QoS 1 and 2 wait");
        // QoS 0 does not wait.
        let mut listener = Client::connect(address, "listener", Version::V5);
        listener.subscribe("zero", Qos::AtMostOnce);
        let mut speaker = Client::connect(address, "speaker", Version::V5);
        speaker.send(&publish_packet("zero", "still", Qos::AtMostOnce, 1));
        assert_eq!(&listener.receive_publish().payload[..], b"still");
        broker.signal(Signal::KILL);
        broker.child.wait().expect("it ends");
    });
    let (broker, address) = place.start(1);
    publisher.run(address, publisher.next, &AtomicU64::new(0));
    subscriber.run(address, publisher.acknowledged.len());
    check(&[publisher], &[subscriber]);
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// By configuration, publishers who can be told are refused instead.
#[test]
fn publishers_are_refused_while_there_is_no_room() {
    let place = Place::new();
    let (mut broker, address) = place.start_without_room(1, "when_full = \"refuse\"\n");
    let mut subscriber = Subscriber::new(0, Qos::AtLeastOnce);
    subscriber.subscribe(address);
    broker.line_with("publishers of QoS 1 and 2 are refused");
    let mut speaker = Client::connect(address, "speaker", Version::V5);
    // That there is no room is on its way to the shard when the line is written.
    let mut refused = 0;
    for id in 1..=100 {
        speaker.send(&publish_packet("t/x", vec![0; 5], Qos::AtLeastOnce, id));
        match speaker.receive() {
            Some(Packet::PubAck(ack)) if ack.reason == ReasonCode::QuotaExceeded => refused += 1,
            Some(Packet::PubAck(ack)) => {
                assert_eq!((ack.reason, refused), (ReasonCode::Success, 0))
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 50, "{refused}");
    // Figures are a quarter of a second old.
    let expected = format!("storage: in_trouble=1 troubles=1 refused={refused}");
    loop {
        broker.signal(Signal::USR1);
        if broker.line_with("storage: in_trouble=").contains(&expected) {
            break;
        }
    }
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// Two brokers on one folder would destroy it.
#[test]
fn a_folder_in_use_is_refused() {
    let place = Place::new();
    let (broker, _) = place.start(1);
    let config = listener("mqtt", 0) + "[storage]\npath = \"data\"\n";
    std::fs::write(place.folder.path().join("p.toml"), config).expect("written");
    let mut command = petrel();
    with_config(&mut command, &place.folder);
    let second = Running::start(&mut command);
    let (code, lines) = second.end();
    assert_ne!(code, Some(0));
    assert!(lines.iter().any(|line| line.contains("in use by another process")), "{lines:?}");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

#[test]
fn something_else_where_the_folder_should_be_is_said_with_its_place() {
    let place = Place::new();
    std::fs::write(place.folder.path().join("data"), "").expect("written");
    let (code, lines) = place.begin(1, "", "").end();
    assert_ne!(code, Some(0));
    let told = |line: &String| line.contains("/data is there and is no folder; move it away");
    assert!(lines.iter().any(told), "{lines:?}");
}
