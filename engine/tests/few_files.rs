//! A broker that runs out of descriptors. In a process of its own, since the limit is the process's.

mod common;

use std::net::TcpStream;
use std::time::Instant;

use common::{Client, broker};
use petrel_net::stages::Stage;
use petrel_proto::{Packet, Version};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count() as u64
}

fn limit_files(files: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).expect("it may be lower");
}

#[test]
fn a_broker_without_descriptors_serves_those_it_has_and_later_the_others() {
    for runtime in common::RUNTIMES {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16);
        let broker = broker(2, runtime);
        let address = broker.addresses()[0];
        let mut first = Client::connect(address, "first", Version::V5);
        limit_files(open_files() + 30);
        let begin = Instant::now();
        // Both sides take descriptors until there are none; the kernel holds what the broker could
        // not accept.
        let mut waiting: Vec<TcpStream> = Vec::new();
        while let Ok(stream) = TcpStream::connect(address) {
            waiting.push(stream);
        }
        // The session that lives is served.
        for _ in 0..100 {
            first.send(&Packet::PingReq);
            assert_eq!(first.receive(), Some(Packet::PingResp));
        }
        let last = waiting.pop().expect("there are many");
        waiting.clear();
        let mut last = Client::over(last);
        last.stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout can be set");
        last.hello("last");
        limit_files(before);
        assert_eq!(broker.stalls(), 0);
        // It is tried again at a tick and not in a loop: four times a second, by two shards.
        let failed = broker.watch().figures().census.stage(Stage::AcceptFailed);
        let tries_max = 2 * (begin.elapsed().as_millis() as u64 / 250 + 2);
        assert!(failed <= tries_max, "{failed} tries");
        drop((first, last));
        broker.stop().expect("it stops");
    }
}
