//! What the broker says of itself under `$SYS`.

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::process::{Running, folder, listener, petrel, with_config};
use common::{Client, publish_packet};
use petrel_proto::{Packet, Qos, Version};
use rustix::process::Signal;

const ON: &str = "[engine]\nshards = 2\n[sys]\ninterval_s = 1\n";

#[test]
fn values_are_retained_follow_what_happens_and_go_away_when_nobody_wants_them() {
    let folder = folder(&(listener("mqtt", 0) + ON));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    broker.line_with("petrel ready");

    let mut watcher = Client::connect(address, "watcher", Version::V5);
    watcher.subscribe("$SYS/#", Qos::ExactlyOnce);
    // It may come before the first values or after them: those that are still to come come live.
    let mut values = BTreeMap::new();
    let mut until = |watcher: &mut Client, topic: &str, value: &str| {
        while values.get(&format!("$SYS/broker/{topic}")).map(String::as_str) != Some(value) {
            let publish = watcher.receive_publish();
            assert_eq!(publish.qos, Qos::AtMostOnce);
            let value = String::from_utf8(publish.payload.to_vec()).expect("text");
            values.insert(publish.topic.text().as_str().to_owned(), value);
        }
    };
    let version = format!("petrel version {}", env!("CARGO_PKG_VERSION"));
    until(&mut watcher, "version", &version);
    until(&mut watcher, "clients/connected", "1");
    until(&mut watcher, "subscriptions/count", "1");
    let mut other = Client::connect(address, "other", Version::V3_1_1);
    other.send(&publish_packet("t", "m", Qos::AtMostOnce, 0));
    until(&mut watcher, "clients/connected", "2");
    until(&mut watcher, "publish/messages/received", "1");
    until(&mut watcher, "clients/maximum", "2");

    // A client may not pretend to be the broker.
    let mut forger = Client::connect(address, "forger", Version::V3_1_1);
    forger.send(&publish_packet("$SYS/broker/version", "forged", Qos::AtLeastOnce, 1));
    assert!(matches!(forger.receive(), Some(Packet::PubAck(_))));

    let mut late = Client::connect(address, "late", Version::V5);
    late.subscribe("$SYS/broker/version", Qos::AtMostOnce);
    let publish = late.receive_publish();
    assert!(publish.retain);
    assert_eq!(publish.payload, version.as_bytes());

    let file = folder.path().join("p.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, text.replace("interval_s = 1", "interval_s = 0")).expect("written");
    broker.signal(Signal::HUP);
    until(&mut watcher, "version", "");
    until(&mut watcher, "load/bytes/sent/15min", "");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
