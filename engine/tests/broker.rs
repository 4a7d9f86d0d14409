//! A broker over real sockets: both runtimes, one to eight shards.

mod common;

use std::collections::BTreeSet;
use std::thread;

use bytes::Bytes;
use common::{
    Client, RUNTIMES, broker, bytes_of, connect_packet, publish_packet, subscribe_packet,
};
use petrel_proto::{Ack, Packet, Qos, ReasonCode, Version};

#[test]
fn messages_find_their_way_between_all_shards_in_order() {
    for runtime in RUNTIMES {
        for shards in [1, 2, 8] {
            let broker = broker(shards, runtime);
            let address = broker.addresses()[0];
            let mut subscribers: Vec<Client> = (0..16)
                .map(|n| {
                    let version = [Version::V5, Version::V3_1_1][n % 2];
                    let mut client = Client::connect(address, &format!("subscriber-{n}"), version);
                    client.subscribe("news/+", Qos::AtLeastOnce);
                    client
                })
                .collect();
            let mut publisher = Client::connect(address, "publisher", Version::V5);
            for n in 0..100 {
                let qos = [Qos::AtMostOnce, Qos::AtLeastOnce][n % 2];
                publisher.send(&publish_packet("news/today", format!("{n}"), qos, n as u16 + 1));
            }
            for subscriber in &mut subscribers {
                for n in 0..100 {
                    assert_eq!(subscriber.receive_publish().payload, format!("{n}"));
                }
            }
            assert_eq!(broker.stalls(), 0);
            drop((subscribers, publisher));
            broker.stop().expect("it stops");
        }
    }
}

/// [MQTT5-3.3.1-9]
#[test]
fn retained_messages_come_from_every_shard_the_own_one_included() {
    const TOPICS: u16 = 200;
    for runtime in RUNTIMES {
        for shards in [1, 2, 8] {
            let broker = broker(shards, runtime);
            let address = broker.addresses()[0];
            let mut publisher = Client::connect(address, "publisher", Version::V5);
            for n in 1..=TOPICS {
                let topic = format!("kept/{n}");
                let packet = publish_packet(&topic, topic.clone(), Qos::AtLeastOnce, n);
                let Packet::Publish(mut publish) = packet else { unreachable!() };
                publish.retain = true;
                publisher.send(&Packet::Publish(publish));
                assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
            }
            for n in 0..4 {
                let id = format!("subscriber-{n}");
                let mut subscriber = Client::connect(address, &id, Version::V5);
                subscriber.subscribe("kept/+", Qos::AtMostOnce);
                let mut topics: Vec<Bytes> =
                    (0..TOPICS).map(|_| subscriber.receive_publish().payload).collect();
                topics.sort_unstable();
                topics.dedup();
                assert_eq!(topics.len(), usize::from(TOPICS));
            }
            drop(publisher);
            broker.stop().expect("it stops");
        }
    }
}

/// [MQTT5-3.3.1-9] Whichever comes first, the subscriber ends with the latest value.
#[test]
fn a_retained_message_is_not_lost_between_two_shards_when_it_races_with_a_subscribe() {
    const TOPICS: usize = 100;
    for runtime in RUNTIMES {
        let broker = broker(8, runtime);
        let address = broker.addresses()[0];
        let mut publishers: Vec<Client> =
            (0..4).map(|n| Client::connect(address, &format!("p{n}"), Version::V5)).collect();
        for round in 0..20 {
            let topics: Vec<String> = (0..TOPICS).map(|n| format!("race/{round}/{n}")).collect();
            let retain = |value: &'static str| {
                let publish = |(topic, n): (&String, u16)| {
                    let packet = publish_packet(topic, value, Qos::AtLeastOnce, n);
                    let Packet::Publish(mut publish) = packet else { unreachable!() };
                    publish.retain = true;
                    bytes_of(&Packet::Publish(publish), Version::V5)
                };
                topics.iter().zip(1..).flat_map(publish).collect::<Vec<u8>>()
            };
            let (old, new) = (retain("old"), retain("new"));
            publishers[0].send_bytes(&old);
            for _ in 0..TOPICS {
                assert!(matches!(publishers[0].receive(), Some(Packet::PubAck(_))));
            }
            let subscribes: Vec<u8> = topics
                .iter()
                .flat_map(|it| bytes_of(&subscribe_packet(it, Qos::AtLeastOnce), Version::V5))
                .collect();
            let publisher = &mut publishers[1 + round % 3];
            let mut subscribers: Vec<Client> = (0..4)
                .map(|n| Client::connect(address, &format!("s{round}-{n}"), Version::V5))
                .collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    publisher.send_bytes(&new);
                    for _ in 0..TOPICS {
                        assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
                    }
                });
                for subscriber in &mut subscribers {
                    let subscribes = &subscribes;
                    scope.spawn(move || {
                        subscriber.send_bytes(subscribes);
                        let mut latest = BTreeSet::new();
                        while latest.len() < TOPICS {
                            match subscriber.receive() {
                                Some(Packet::SubAck(_)) => {}
                                Some(Packet::Publish(publish)) => {
                                    if publish.payload == "new" {
                                        latest.insert(publish.topic.text().as_str().to_owned());
                                    }
                                    let id = publish.packet_id.expect("QoS 1");
                                    let ack = Ack::new(id, ReasonCode::Success);
                                    subscriber.send(&Packet::PubAck(ack));
                                }
                                other => panic!("{other:?}; {} are missing", TOPICS - latest.len()),
                            }
                        }
                    });
                }
            });
        }
        drop(publishers);
        broker.stop().expect("it stops");
    }
}

#[test]
fn packets_sent_right_behind_connect_follow_it_home() {
    for runtime in RUNTIMES {
        let broker = broker(8, runtime);
        let address = broker.addresses()[0];
        for n in 0..64 {
            let mut client = Client::open(address);
            let mut bytes =
                bytes_of(&connect_packet(&format!("piped-{n}"), Version::V5), Version::V5);
            bytes.extend(bytes_of(&subscribe_packet("echo", Qos::AtMostOnce), Version::V5));
            bytes.extend(bytes_of(&publish_packet("echo", "me", Qos::AtMostOnce, 0), Version::V5));
            bytes.extend(bytes_of(&Packet::PingReq, Version::V5));
            client.send_bytes(&bytes);
            assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
            assert!(matches!(client.receive(), Some(Packet::SubAck(_))));
            // The message takes its own way and may come before or after the PINGRESP.
            let mut seen = (false, false);
            for _ in 0..2 {
                match client.receive() {
                    Some(Packet::Publish(publish)) => seen.0 = publish.payload == "me",
                    Some(Packet::PingResp) => seen.1 = true,
                    other => panic!("not expected: {other:?}"),
                }
            }
            assert_eq!(seen, (true, true));
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    for runtime in RUNTIMES {
        let broker = broker(2, runtime);
        for n in 0..4 {
            let mut client = Client::open(broker.addresses()[0]);
            let mut bytes =
                bytes_of(&connect_packet(&format!("slow-{n}"), Version::V5), Version::V5);
            bytes.extend(bytes_of(&subscribe_packet("a", Qos::AtMostOnce), Version::V5));
            for byte in bytes {
                client.send_bytes(&[byte]);
            }
            assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
            assert!(matches!(client.receive(), Some(Packet::SubAck(_))));
        }
        broker.stop().expect("it stops");
    }
}

/// QoS 0 in one burst, as fast as it can be sent, and QoS 1.
#[test]
fn large_messages_arrive_whole() {
    for runtime in RUNTIMES {
        let broker = broker(2, runtime);
        let address = broker.addresses()[0];
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let mut subscriber = Client::connect(address, "subscriber", Version::V5);
            subscriber.subscribe("large/#", qos);
            let sender = thread::spawn(move || {
                let mut publisher = Client::connect(address, "publisher", Version::V5);
                for (n, size) in SIZES.into_iter().enumerate() {
                    let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                    publisher.send(&publish_packet("large/x", payload, qos, n as u16 + 1));
                    if qos == Qos::AtLeastOnce {
                        assert!(matches!(publisher.receive(), Some(Packet::PubAck(_))));
                    }
                }
                publisher
            });
            for size in SIZES {
                let payload = subscriber.receive_publish().payload;
                assert_eq!(payload.len(), size);
                assert!(payload.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
            }
            sender.join().expect("the publisher was served");
        }
        broker.stop().expect("it stops");
    }
}

const SIZES: [usize; 7] = [1024, 1025, 5_000, 65_530, 200_000, 1_000_000, 0];
