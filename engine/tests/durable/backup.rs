//! Backups of a broker that runs, and what comes back from them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use petrel_storage::backup::{self, Summary};
use petrel_storage::control::{self, Answer, Request};

use super::*;

fn data(place: &Place) -> PathBuf {
    place.folder.path().join("data")
}

fn ask(folder: &Path, request: &Request) -> Result<Answer, String> {
    control::ask(folder, request).expect("it answers").expect("somebody listens")
}

fn restore(from: &Path, place: &Place) -> Summary {
    backup::restore(from, &data(place)).unwrap_or_else(|error| panic!("{error}"))
}

/// The number in a message of [`publish_on`].
fn number(publish: &Publish) -> u32 {
    u32::from_be_bytes(publish.payload[..4].try_into().expect("four bytes"))
}

/// Publishes numbers until the broker has gone. Says when many are acknowledged.
fn publish_on(address: SocketAddr, under_way: &AtomicBool) {
    let (mut client, _) = resume(address, "load");
    let mut next = 0u32;
    let mut send = |client: &mut Client| {
        let payload = next.to_be_bytes().to_vec();
        next += 1;
        let id = (next % 60_000 + 1) as u16;
        try_send(client, &publish_packet("load/x", payload, Qos::AtLeastOnce, id))
    };
    for _ in 0..WINDOW {
        send(&mut client);
    }
    let mut acknowledged = 0;
    while let Some(Packet::PubAck(_)) = try_receive(&mut client) {
        acknowledged += 1;
        under_way.store(acknowledged > 500, Ordering::Relaxed);
        if !send(&mut client) {
            return;
        }
    }
}

/// Everything that waits for the one who listens to the load, up to the last number.
fn received(address: SocketAddr) -> Vec<u32> {
    let (mut client, present) = resume(address, "listener");
    assert!(present, "its session came back");
    let end = publish_packet("load/x", u32::MAX.to_be_bytes().to_vec(), Qos::AtLeastOnce, 1);
    let mut publisher = Client::connect(address, "end", Version::V5);
    publisher.send(&end);
    let mut got = Vec::new();
    loop {
        let Some(Packet::Publish(publish)) = client.receive() else { panic!("no PUBLISH") };
        let id = publish.packet_id.expect("QoS 1");
        client.send(&Packet::PubAck(Ack::new(id, ReasonCode::Success)));
        match number(&publish) {
            u32::MAX => return got,
            number => got.push(number),
        }
    }
}

/// While others go on publishing; what comes back is a state of one moment, for another number of shards.
#[test]
fn what_was_acknowledged_before_a_backup_comes_back_from_it() {
    for (lanes, shards) in [(1, [2, 3]), (2, [1, 4])] {
        let storage = format!("lanes = {lanes}\n");
        let place = Place::new();
        let (mut broker, address) = place.start_with(shards[0], &storage);
        let mut subscribers =
            [Subscriber::new(0, Qos::AtLeastOnce), Subscriber::new(1, Qos::ExactlyOnce)];
        subscribers.iter_mut().for_each(|subscriber| subscriber.subscribe(address));
        let (mut listener, _) = resume(address, "listener");
        listener.subscribe("load/#", Qos::AtLeastOnce);
        drop(listener);
        let mut publishers =
            [Publisher::new(0, Qos::AtLeastOnce), Publisher::new(1, Qos::ExactlyOnce)];
        for publisher in &mut publishers {
            publisher.run(address, 700, &AtomicU64::new(0));
        }
        let into = place.folder.path().join("backup");
        let under_way = AtomicBool::new(false);
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| publish_on(address, &under_way));
            while !under_way.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            let answer = ask(&data(&place), &Request::Backup { into: into.clone() });
            broker.signal(Signal::KILL);
            broker.child.wait().expect("it ends");
            answer
        });
        let answer = answer.expect("a backup");
        assert!(
            answer.text.contains("5 sessions") || answer.text.contains("6 sessions"),
            "{answer:?}"
        );

        let other = Place::new();
        let summary = restore(&into, &other);
        assert_eq!(summary.lanes.len(), lanes);
        let (broker, address) = other.start_with(shards[1], &storage);
        for subscriber in &mut subscribers {
            subscriber.run(address, 1400);
        }
        check(&publishers, &subscribers);
        let load = received(address);
        assert!(load.len() > 500, "{}", load.len());
        assert!(load.iter().copied().eq(0..load.len() as u32), "there is a hole in {load:?}");
        broker.signal(Signal::TERM);
        assert_eq!(broker.end().0, Some(0));
    }
}

#[test]
fn a_broker_that_runs_says_what_it_keeps_and_whether_it_can_be_read() {
    let place = Place::new();
    let (mut broker, address) = place.start(2);
    let mut subscriber = Subscriber::new(0, Qos::AtLeastOnce);
    subscriber.subscribe(address);
    Publisher::new(0, Qos::AtLeastOnce).run(address, 100, &AtomicU64::new(0));
    let folder = data(&place);
    let checked = ask(&folder, &Request::Check).expect("an answer");
    assert_eq!(checked.faults, 0, "{checked:?}");
    assert!(checked.text.contains("lane-0\nmeta: "), "{checked:?}");
    let stat = ask(&folder, &Request::Stat).expect("an answer");
    assert!(stat.text.contains("\nlog "), "{stat:?}");
    let into = place.folder.path().to_owned();
    let refused = ask(&folder, &Request::Backup { into }).expect_err("not empty");
    assert!(refused.contains("is not empty"), "{refused}");
    let into = folder.join("lane-0/backup");
    let refused = ask(&folder, &Request::Backup { into: into.clone() }).expect_err("inside");
    assert!(refused.contains("which the broker keeps for itself"), "{refused}");
    assert!(!into.exists());

    // What the next process finds of one that was killed is replaced.
    broker.signal(Signal::KILL);
    broker.child.wait().expect("it ends");
    assert_eq!(control::ask(&folder, &Request::Stat).expect("no error"), None);
    let (broker, _) = place.start(1);
    ask(&folder, &Request::Stat).expect("an answer");
    let mut stream = UnixStream::connect(folder.join("control")).expect("it listens");
    stream.write_all(b"{\"version\":1,\"do\":\"sing\"}\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains("\"error\"") && answer.contains("is unknown"), "{answer}");
    // Whoever says that it has said everything still gets its answer.
    let mut stream = UnixStream::connect(folder.join("control")).expect("it listens");
    stream.write_all(b"{\"version\":1,\"do\":\"check\"}\n").expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("it can be said");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains("\"faults\":0"), "{answer}");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
    assert!(!folder.join("control").exists());
}

/// One request after the other, at once; what each is told.
fn stat_again_and_again(folder: &Path) -> impl Iterator<Item = String> {
    (0..100_000).map(|_| {
        let mut stream = UnixStream::connect(folder.join("control")).expect("it listens");
        stream.write_all(b"{\"version\":1,\"do\":\"stat\"}\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    })
}

#[test]
fn who_comes_beside_a_backup_is_told_that_the_broker_is_busy() {
    let place = Place::new();
    let (broker, address) = place.start(1);
    Subscriber::new(0, Qos::AtLeastOnce).subscribe(address);
    let mut publisher = Publisher { padding: 100_000, ..Publisher::new(0, Qos::AtLeastOnce) };
    publisher.run(address, 100, &AtomicU64::new(0));
    let folder = data(&place);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Mebibyte after mebibyte; now and then it is the backup that comes beside something else.
            for number in 0..500 {
                let into = place.folder.path().join(format!("backup-{number}"));
                if let Err(why) = ask(&folder, &Request::Backup { into: into.clone() }) {
                    assert!(why.contains("busy"), "{why}");
                }
                let _ = std::fs::remove_dir_all(into);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let busy = stat_again_and_again(&folder).filter(|answer| {
            let busy = answer.contains("the broker is busy with another request of petrelctl");
            assert!(busy || answer.contains("\"text\""), "{answer}");
            busy
        });
        assert_eq!(busy.take(5).count(), 5);
        is_over.store(true, Ordering::Relaxed);
    });
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
