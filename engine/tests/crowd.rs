//! Messages to more subscribers than are served in a turn. In a process of its own, for it needs many
//! files.

mod common;

use common::{Client, RUNTIMES, broker, publish_packet};
use petrel_proto::{Packet, Qos, Version};
use petrel_shard::{ShardIndex, SlotMap};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than one part, which is 1,024.
const CROWD: usize = 1100;
const MESSAGES: u16 = 40;

/// Client identifiers that are at home on a shard.
fn at_home(shards: u16, shard: u16, stem: &str) -> impl Iterator<Item = String> {
    let slots = SlotMap::even(shards);
    let names = (0..).map(move |n| format!("{stem}-{n}"));
    names.filter(move |name| slots.home_of(name.as_bytes()) == ShardIndex(shard))
}

/// [MQTT5-4.6.0-6] Two publishers at once, whose messages each subscriber gets in their order; one of the
/// subscribers has its own as well.
#[test]
fn a_crowd_gets_everything_in_order() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("as far as it goes");
    // On one shard, and with the second publisher or both on another one.
    for (runtime, homes) in
        RUNTIMES.into_iter().flat_map(|it| [(it, [0, 0]), (it, [0, 1]), (it, [1, 1])])
    {
        let shards = 1 + homes[1];
        let broker = broker(shards, runtime);
        let address = broker.addresses()[0];
        let mut crowd: Vec<Client> = at_home(shards, 0, "crowd")
            .take(CROWD)
            .enumerate()
            .map(|(n, name)| {
                let mut client = Client::connect(address, &name, Version::V5);
                client.subscribe("news/#", [Qos::AtMostOnce, Qos::AtLeastOnce][n % 2]);
                client
            })
            .collect();
        crowd[CROWD - 1].subscribe("own", Qos::AtLeastOnce);
        let publishers: Vec<_> = [("a", homes[0]), ("b", homes[1])]
            .map(|(name, home)| {
                let client_id = at_home(shards, home, name).next().expect("there are many names");
                std::thread::spawn(move || {
                    let mut client = Client::connect(address, &client_id, Version::V5);
                    let topic = format!("news/{name}");
                    for n in 1..=MESSAGES {
                        let qos = [Qos::AtMostOnce, Qos::AtLeastOnce][usize::from(n % 2)];
                        client.send(&publish_packet(&topic, n.to_string(), qos, n));
                        client.send(&publish_packet("own", format!("{name}{n}"), qos, 1000 + n));
                    }
                    for _ in 0..MESSAGES {
                        assert!(matches!(client.receive(), Some(Packet::PubAck(_))));
                    }
                })
            })
            .into();
        for (n, client) in crowd.iter_mut().enumerate() {
            let is_last = n == CROWD - 1;
            // By publisher: the last number of its news and of its own messages. Those of QoS 0 are not dropped
            // here, so nothing is missing.
            let mut last = [[0; 2]; 2];
            for _ in 0..2 * usize::from(MESSAGES) * (1 + usize::from(is_last)) {
                let publish = client.receive_publish();
                let payload = std::str::from_utf8(&publish.payload).expect("we wrote it");
                let (kind, publisher, number) = match publish.topic.text().as_str() {
                    "own" => (1, &payload[..1], &payload[1..]),
                    topic => (0, &topic[5..], payload),
                };
                let last = &mut last[usize::from(publisher == "b")][kind];
                *last += 1;
                assert_eq!(number, last.to_string(), "of {publisher}, to {n}");
            }
        }
        for publisher in publishers {
            publisher.join().expect("it got its acknowledgements");
        }
        drop(crowd);
        broker.stop().expect("it stops");
    }
}
