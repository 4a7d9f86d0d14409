//! What clients that do not play along cost. In a process of its own, since it looks at the memory of
//! the whole process.

mod common;

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::{Client, RUNTIMES, broker, publish_packet};
use petrel_proto::{Packet, Qos, Version};

// The broker's own allocator: how much of what was freed goes back to the system is its doing.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Held by the test that measures: the other one's memory would be counted with its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    let kib: u64 =
        line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("it is a number");
    kib << 10
}

#[test]
fn readers_that_do_not_read_cost_a_bounded_amount_of_memory() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for runtime in RUNTIMES {
        for shards in [1, 2] {
            let broker = broker(shards, runtime);
            let address = broker.addresses()[0];
            let slow: Vec<Client> = (0..10)
                .map(|n| {
                    let mut client = Client::connect(address, &format!("slow-{n}"), Version::V5);
                    client.subscribe("flood", Qos::AtMostOnce);
                    client
                })
                .collect();
            let mut publisher = Client::connect(address, "publisher", Version::V5);
            let before = resident();
            let flood = publish_packet("flood", vec![7; 10_000], Qos::AtMostOnce, 0);
            for n in 0..10_000 {
                publisher.send(&flood);
                if n % 100 == 0 {
                    // Everything before it has been handled when the answer comes.
                    publisher.send(&Packet::PingReq);
                    assert_eq!(publisher.receive(), Some(Packet::PingResp));
                }
            }
            let grown = resident().saturating_sub(before);
            assert!(grown < 48 << 20, "{} KiB for 1 GB that nobody reads", grown >> 10);
            drop((slow, publisher));
            broker.stop().expect("it stops");
        }
    }
}

#[test]
fn what_waited_for_readers_who_have_gone_goes_back_to_the_system() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = broker(1, RUNTIMES[0]);
    let address = broker.addresses()[0];
    let before = resident();
    let slow: Vec<Client> = (0..100)
        .map(|n| {
            let mut client = Client::connect(address, &format!("slow-{n}"), Version::V5);
            client.subscribe("flood", Qos::AtMostOnce);
            client
        })
        .collect();
    let mut publisher = Client::connect(address, "publisher", Version::V5);
    let flood = publish_packet("flood", vec![7; 1_000], Qos::AtMostOnce, 0);
    let grown = || resident().saturating_sub(before);
    for _ in 0..1000 {
        (0..20).for_each(|_| publisher.send(&flood));
        publisher.send(&Packet::PingReq);
        assert_eq!(publisher.receive(), Some(Packet::PingResp));
        if grown() > 160 << 20 {
            break;
        }
    }
    assert!(grown() > 160 << 20, "{} KiB, so that there is nothing to give back", grown() >> 10);
    drop((slow, publisher));
    // It does so when it has been quiet for a second, and at most every five; what is left are pages of which
    // some block is in use, 10 to 40 MB.
    let end = Instant::now() + Duration::from_secs(60);
    while grown() > 56 << 20 {
        assert!(Instant::now() < end, "{} KiB are still there", grown() >> 10);
        // Nothing tells when; the loop ends with what is waited for.
        std::thread::sleep(Duration::from_millis(100));
    }
    broker.stop().expect("it stops");
}

#[test]
fn a_client_that_asks_and_does_not_read_is_not_answered_without_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for runtime in RUNTIMES {
        let broker = broker(1, runtime);
        let mut client = Client::connect(broker.addresses()[0], "asks", Version::V5);
        client.stream.set_nonblocking(true).expect("it can be set");
        let before = resident();
        let pings = [0xc0, 0].repeat(50_000);
        let mut refused = 0;
        let mut sent = 0;
        // Both sides' socket buffers fill up, then the broker stops reading.
        while refused < 200 && sent < 400_000_000 {
            match client.stream.write(&pings) {
                Ok(bytes) => {
                    sent += bytes;
                    refused = 0;
                }
                Err(_) => {
                    refused += 1;
                    let mut fds =
                        [rustix::event::PollFd::new(&client.stream, rustix::event::PollFlags::OUT)];
                    let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                    let _ = rustix::event::poll(&mut fds, Some(&wait));
                }
            }
        }
        assert!(sent < 400_000_000, "it reads for ever");
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 << 20, "{} KiB", grown >> 10);
        drop(client);
        broker.stop().expect("it stops");
    }
}
