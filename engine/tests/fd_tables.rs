//! A file table for each shard: more connections than one table has room for.

mod common;

use std::collections::BTreeMap;

use common::process::{Running, limited, listener};
use common::{Client, bytes_of, publish_packet};
use petrel_proto::{Packet, Qos, Version};
use rustix::process::Signal;

const SHARDS: usize = 4;
/// Files in each table.
const FILES: usize = 200;
/// More than one table holds, by far.
const CLIENTS: usize = 500;

/// Clients of all shards, three quarters of them moved there, send to each other.
#[test]
fn tables_of_their_own_hold_more_connections_and_connections_move_between_them() {
    for runtime in ["glommio", "epoll"] {
        let config = listener("mqtt", 0)
            + &format!("[engine]\nshards = {SHARDS}\nruntime = \"{runtime}\"\n");
        let (_folder, mut command) = limited(&format!("-n {FILES}"), &config);
        let mut broker = Running::start(&mut command);
        let address = broker.address();
        let ready = broker.line_with("petrel ready");
        assert!(ready.ends_with(", a file table each"), "{ready}");
        let mut clients: Vec<Client> = (0..CLIENTS)
            .map(|n| {
                let mut client = Client::connect(address, &format!("client-{n}"), Version::V5);
                client.subscribe(&format!("to/{n}"), Qos::AtLeastOnce);
                client
            })
            .collect();
        for (n, client) in clients.iter_mut().enumerate() {
            let topic = format!("to/{}", (n * 7 + 3) % CLIENTS);
            let publish = publish_packet(&topic, topic.clone(), Qos::AtLeastOnce, 1);
            let bytes = bytes_of(&publish, Version::V5);
            client.send_bytes(&bytes);
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let (mut published, mut acknowledged) = (0, 0);
            while published + acknowledged < 2 {
                match client.receive() {
                    Some(Packet::PubAck(_)) => acknowledged += 1,
                    Some(Packet::Publish(publish)) => {
                        assert_eq!(publish.payload, format!("to/{n}"));
                        published += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        drop(clients);
        // The places are free again, in every table.
        for round in 0..3 {
            let again: Vec<Client> = (0..CLIENTS)
                .map(|n| Client::connect(address, &format!("again-{round}-{n}"), Version::V5))
                .collect();
            drop(again);
        }
        broker.signal(Signal::TERM);
        assert_eq!(broker.end().0, Some(0));
    }
}

/// Otherwise a file that the store has removed would take its room for as long as Petrel runs.
#[test]
fn shards_hold_no_copies_of_the_files_of_the_store() {
    for runtime in ["glommio", "epoll"] {
        let config = listener("mqtt", 0)
            + &format!("[engine]\nshards = 2\nruntime = \"{runtime}\"\n")
            + "[storage]\npath = \"data\"\n";
        let (folder, mut command) = limited(&format!("-n {FILES}"), &config);
        let mut broker = Running::start(&mut command);
        let ready = broker.line_with("petrel ready");
        assert!(ready.ends_with(", a file table each"), "{ready}");
        let data = folder.path().join("data").canonicalize().expect("it is there");
        let mut copies = BTreeMap::new();
        let tasks = format!("/proc/{}/task", broker.child.id());
        for task in std::fs::read_dir(tasks).expect("proc is mounted") {
            let task = task.expect("it is there").path();
            let name = std::fs::read_to_string(task.join("comm")).expect("a name");
            let open = std::fs::read_dir(task.join("fd")).expect("its table");
            let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            let count = links.filter(|file| file.starts_with(&data)).count();
            // Threads that a runtime has made for itself are named like it, and are in no table of their own.
            copies
                .entry(name)
                .and_modify(|least: &mut usize| *least = count.min(*least))
                .or_insert(count);
        }
        let shards: Vec<_> = copies.iter().filter(|(name, _)| name.starts_with("shard-")).collect();
        assert!(shards.len() >= 2 && shards.iter().all(|(_, copies)| **copies == 0), "{copies:?}");
        assert!(copies["storage-0\n"] > 0, "{copies:?}");
        broker.signal(Signal::TERM);
        assert_eq!(broker.end().0, Some(0));
    }
}

/// Those that do not fit into their home's table are closed; nobody else notices.
#[test]
fn a_full_table_refuses_newcomers_and_serves_the_others() {
    let config = listener("mqtt", 0) + "[engine]\nshards = 2\n";
    let (_folder, mut command) = limited("-n 100", &config);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    let mut first = Client::connect(address, "first", Version::V5);
    let mut open: BTreeMap<usize, Client> = BTreeMap::new();
    for n in 0..300 {
        let Ok(stream) = std::net::TcpStream::connect(address) else { break };
        let mut client = Client::over(stream);
        let connect = common::connect_packet(&format!("client-{n}"), Version::V5);
        client.send(&connect);
        open.insert(n, client);
    }
    for _ in 0..100 {
        first.send(&Packet::PingReq);
        assert_eq!(first.receive(), Some(Packet::PingResp));
    }
    drop(open);
    let mut last = Client::connect(address, "last", Version::V5);
    last.send(&Packet::PingReq);
    assert_eq!(last.receive(), Some(Packet::PingResp));
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
