//! What goes on while there is no room on the disk, what waits, and what that costs.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use petrel_proto::Will;
use rustix::process::{Pid, kill_process};

use super::*;

/// Never reached: what ends the room is the disk.
const NO_LIMIT: &str = "disk_limit_bytes = 1000000000000\n";

/// A small file system in memory, which is given back.
struct Mount(PathBuf);

impl Mount {
    /// Mounted where a broker will keep what it is given; `None` if this user may not.
    fn over(place: &Place, size: &str) -> Option<Self> {
        let path = place.folder.path().join("data");
        fs::create_dir(&path).expect("a folder");
        let options = format!("size={size},mode=700");
        let mount = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        let done = Command::new("mount").args(mount).arg(&path).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self(path));
        }
        println!("skipped: this user may not mount a file system");
        None
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(status.expect("a program").success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn retained(topic: &str, bytes: usize, qos: Qos) -> Packet {
    let Packet::Publish(publish) = publish_packet(topic, vec![7; bytes], qos, 1) else {
        panic!("a PUBLISH")
    };
    Packet::Publish(Publish { retain: true, ..publish })
}

/// Publishes one message after the other until nobody answers.
fn retain_until_the_end(address: SocketAddr) {
    let mut client = Client::connect(address, "retainer", Version::V5);
    while try_send(&mut client, &retained("r/x", 100_000, Qos::AtLeastOnce)) {
        let Some(Packet::PubAck(_)) = try_receive(&mut client) else { return };
    }
}

/// What waits on a disk is what fills it, so whoever waits for it has to get it.
#[test]
fn what_waits_is_delivered_while_the_disk_is_full_and_the_process_ends_when_told_to() {
    for shards in [1, 2] {
        let place = Place::new();
        let Some(mount) = Mount::over(&place, "64m") else { return };
        let (mut broker, address) = place.start_with(shards, NO_LIMIT);
        let mut subscriber = Subscriber::new(0, Qos::AtLeastOnce);
        subscriber.subscribe(address);
        let mut publisher = Publisher::new(0, Qos::AtLeastOnce);
        publisher.run(address, 500, &AtomicU64::new(0));
        mount.fill();
        std::thread::scope(|scope| {
            scope.spawn(|| retain_until_the_end(address));
            broker.line_with("until it can be written again");
            subscriber.run(address, 500);
            broker.signal(Signal::TERM);
            let (code, lines) = end_or_kill(broker);
            assert_eq!(code, Some(0), "{lines:?}");
        });
        check(&[publisher], &[subscriber]);
    }
}

/// Waits for the end, and brings it about if it does not come: then there is no exit code.
fn end_or_kill(broker: Running) -> (Option<i32>, Vec<String>) {
    let pid = Pid::from_raw(broker.child.id() as i32).expect("not zero");
    let (ended, has_ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if has_ended.recv_timeout(common::PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).expect("it runs");
            }
        });
        let end = broker.end();
        drop(ended);
        end
    })
}

/// The folder has what it may have, which is less than the log may have: what the log has goes into pages,
/// and who waits for it gets it. When they have it, all of it is given back, and publishers go on.
#[test]
fn publishers_go_on_when_all_that_filled_the_disk_was_read() {
    let place = Place::new();
    let (mut broker, address) = place.start_with(2, &format!("disk_limit_bytes = {LIMIT_BYTES}\n"));
    let mut subscribers = [0, 1].map(|number| Subscriber::new(number, Qos::AtLeastOnce));
    subscribers.iter_mut().for_each(|subscriber| subscriber.subscribe(address));
    let mut publishers = [0, 1]
        .map(|number| Publisher { padding: 150_000, ..Publisher::new(number, Qos::AtLeastOnce) });
    std::thread::scope(|scope| {
        let [first, second] = &mut publishers;
        // Alone more than the limit.
        scope.spawn(move || first.run(address, 1_000, &AtomicU64::new(0)));
        broker.line_with("disk_limit_bytes is reached; publishers of QoS 1 and 2 wait");
        scope.spawn(move || second.run(address, 100, &AtomicU64::new(0)));
        wait_until_folded(&place);
        for subscriber in &mut subscribers {
            scope.spawn(move || subscriber.run(address, 1_100));
        }
    });
    broker.line_with("there is room again");
    for publisher in &publishers {
        assert!(publisher.unfinished.is_empty(), "{:?}", publisher.unfinished);
    }
    check(&publishers, &subscribers);
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// Waits until the lane has no log but the file that it would write.
fn wait_until_folded(place: &Place) {
    let folder = place.folder.path().join("data/lane-0/log");
    let begun_at = Instant::now();
    loop {
        let files = fs::read_dir(&folder).expect("a folder").flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|it| it == "log"));
        if logs.count() <= 1 {
            return;
        }
        assert!(begun_at.elapsed() < common::PATIENCE, "the log stays");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Bytes that a flood has, far above what it may cost.
const FLOOD_BYTES: u64 = 256 << 20;
/// What it may cost in memory: packets that lanes were given before they were in trouble, and buffers.
const COST_BYTES_MAX: u64 = 64 << 20;
/// Turns of a shard after which a connection that was not read is not read any more.
const TURNS: u32 = 1_000;

/// Has a client send something again and again, while others publish at QoS 0, until it has sent all of a
/// flood or is read no longer.
fn flood(address: SocketAddr, client: &Client, packets: &[u8]) {
    let sent = AtomicU64::new(0);
    let mut other = Client::connect(address, "other", Version::V5);
    other.subscribe("zero", Qos::AtMostOnce);
    std::thread::scope(|scope| {
        let (mut stream, sent) = (&client.stream, &sent);
        let flooding = scope.spawn(move || {
            while sent.load(Ordering::Relaxed) < FLOOD_BYTES && stream.write_all(packets).is_ok() {
                sent.fetch_add(packets.len() as u64, Ordering::Relaxed);
            }
        });
        let (mut before, mut turns) = (0, 0);
        while turns < TURNS && !flooding.is_finished() {
            other.send(&publish_packet("zero", "still", Qos::AtMostOnce, 1));
            assert_eq!(&other.receive_publish().payload[..], b"still");
            let now = sent.load(Ordering::Relaxed);
            turns = if now == before { turns + 1 } else { 0 };
            before = now;
        }
        client.stream.shutdown(Shutdown::Both).expect("it is open");
    });
}

/// Floods a broker that has no room with what a client may send without waiting for anything.
fn flood_with_all(broker: &Running, address: SocketAddr) {
    let before = resident_bytes(broker);
    let client = Client::connect(address, "retainer of QoS 0", Version::V5);
    let retained = retained("r/x", 100_000, Qos::AtMostOnce);
    flood(address, &client, &common::bytes_of(&retained, Version::V5));
    let cost = resident_bytes(broker).saturating_sub(before);
    assert!(cost < COST_BYTES_MAX, "RETAIN at QoS 0 has cost {cost} bytes");

    let (client, _) = resume(address, "subscriber");
    let filter = "x".repeat(1_000);
    let mut packets = common::bytes_of(&subscribe_packet(&filter, Qos::AtLeastOnce), Version::V5);
    let unsubscribe = Packet::Unsubscribe(Box::new(petrel_proto::Unsubscribe {
        packet_id: PacketId::new(1).expect("not zero"),
        user_properties: petrel_proto::UserProperties::default(),
        filters: smallvec::smallvec![petrel_proto::TopicFilter::new(text(&filter)).expect("valid")],
    }));
    packets.extend(common::bytes_of(&unsubscribe, Version::V5));
    flood(address, &client, &packets.repeat(50));
    let cost = resident_bytes(broker).saturating_sub(before);
    assert!(cost < COST_BYTES_MAX, "SUBSCRIBE and UNSUBSCRIBE have cost {cost} bytes");
}

/// What a crowd may cost in memory: what lanes may have to write, and as much for sessions and buffers.
const CROWD_BYTES_MAX: u64 = 128 << 20;

/// Has many clients come, each with a packet that is worth keeping, and go again.
fn crowd(address: SocketAddr) {
    for number in 0..4_000 {
        let mut client = Client::open(address);
        client.send(&connect_with_will(&format!("crowd-{number}"), 60_000));
    }
    for _ in 0..300 {
        let mut client = Client::connect(address, "retainer of QoS 0", Version::V5);
        client.send(&retained("r/y", 900_000, Qos::AtMostOnce));
    }
    let mut other = Client::connect(address, "other", Version::V5);
    other.subscribe("zero", Qos::AtMostOnce);
    for _ in 0..TURNS {
        other.send(&publish_packet("zero", "still", Qos::AtMostOnce, 1));
        assert_eq!(&other.receive_publish().payload[..], b"still");
    }
}

/// To hold back connections bounds nothing where each brings something.
#[test]
fn a_crowd_costs_no_more_memory_than_it_may_while_the_disk_is_full() {
    let place = Place::new();
    let Some(mount) = Mount::over(&place, "48m") else { return };
    let (mut broker, address) = place.start_with(1, NO_LIMIT);
    let mut subscriber = Subscriber::new(0, Qos::AtLeastOnce);
    subscriber.subscribe(address);
    mount.fill();
    std::thread::scope(|scope| {
        scope.spawn(|| retain_until_the_end(address));
        broker.line_with("until it can be written again");
        let before = resident_bytes(&broker);
        crowd(address);
        let cost = resident_bytes(&broker).saturating_sub(before);
        assert!(cost < CROWD_BYTES_MAX, "it has cost {cost} bytes");
        // Who comes for what waits does not stand behind the crowd.
        let (_, present) = resume(address, &subscriber.name);
        assert!(present);
        // Whoever still waits when there is room is let in: of two connections of a client the last stays.
        let [mut first, mut last] = [(); 2].map(|()| Client::open(address));
        first.send(&connect_with_will("patient", 100));
        last.send(&connect_with_will("patient", 100));
        mount.grow("400m");
        let Some(Packet::ConnAck(_)) = last.receive() else { panic!("no CONNACK") };
        first.expect_end();
        broker.signal(Signal::KILL);
    });
}

/// What a process has in memory.
fn resident_bytes(broker: &Running) -> u64 {
    let path = format!("/proc/{}/status", broker.child.id());
    let status = fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// What a folder takes of its disk.
fn taken_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Neither what nobody acknowledges nor what is acknowledged later piles up.
#[test]
fn a_flood_costs_no_more_memory_than_it_may_while_the_disk_is_full() {
    let place = Place::new();
    let Some(mount) = Mount::over(&place, "48m") else { return };
    let (mut broker, address) = place.start_with(1, NO_LIMIT);
    mount.fill();
    std::thread::scope(|scope| {
        scope.spawn(|| retain_until_the_end(address));
        broker.line_with("until it can be written again");
        flood_with_all(&broker, address);
        broker.signal(Signal::KILL);
    });
}

#[test]
fn a_flood_costs_no_more_memory_or_disk_than_it_may_when_the_limit_is_reached() {
    let place = Place::new();
    let (mut broker, address) = place.start_without_room(1, "");
    broker.line_with("disk_limit_bytes is reached");
    let folder = place.folder.path().join("data");
    let before = taken_bytes(&folder);
    flood_with_all(&broker, address);
    let cost = taken_bytes(&folder).saturating_sub(before);
    assert!(cost < COST_BYTES_MAX, "it has cost {cost} bytes of the disk");
}

/// A CONNECT with a keep alive of a second, and a will of so many bytes that says whose it is.
fn connect_with_will(client_id: &str, bytes: usize) -> Packet {
    let Packet::Connect(connect) = common::connect_packet(client_id, Version::V5) else {
        panic!("a CONNECT")
    };
    let mut payload = client_id.as_bytes().to_vec();
    payload.resize(bytes, 0);
    let will = Will {
        qos: Qos::AtMostOnce,
        retain: false,
        topic: petrel_proto::TopicName::new(text("will")).expect("valid"),
        payload: payload.into(),
        delay_interval_s: None,
        properties: petrel_proto::PublishProperties::default(),
    };
    Packet::Connect(Box::new(Connect { keep_alive_s: 1, will: Some(Box::new(will)), ..*connect }))
}

fn watched(address: SocketAddr, client_id: &str) -> Client {
    let mut client = Client::open(address);
    client.send(&connect_with_will(client_id, client_id.len()));
    let Some(Packet::ConnAck(_)) = client.receive() else { panic!("no CONNACK") };
    client
}

/// [MQTT5-3.1.2-22] speaks of a client that sends nothing.
#[test]
fn a_publisher_who_waits_for_room_is_not_taken_for_silent() {
    let place = Place::new();
    let (mut broker, address) = place.start_without_room(1, "");
    broker.line_with("disk_limit_bytes is reached");
    let mut witness = Client::connect(address, "witness", Version::V5);
    witness.subscribe("will", Qos::AtMostOnce);
    let mut held = watched(address, "held");
    held.send(&publish_packet("nobody", "1", Qos::AtLeastOnce, 1));
    held.send(&Packet::PingReq);
    // Who is silent without being held came later, and is cut.
    for silent in ["silent", "silent again"] {
        let mut client = watched(address, silent);
        assert_eq!(&witness.receive_publish().payload[..], silent.as_bytes());
        match client.receive() {
            Some(Packet::Disconnect(it)) if it.reason == ReasonCode::KeepAliveTimeout => {}
            other => panic!("{other:?}"),
        }
    }
    broker.signal(Signal::KILL);
    broker.child.wait().expect("it ends");
    // Until then it was held, and nobody has said that it had to go.
    let mut had = Vec::new();
    while let Some(packet) = held.receive() {
        had.push(packet);
    }
    assert!(had.is_empty(), "{had:?}");
}
