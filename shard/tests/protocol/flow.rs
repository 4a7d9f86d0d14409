//! Flow control: section 4.9 and Receive Maximum.

use petrel_proto::{Ack, Packet, ReasonCode as R, Version};

use crate::harness::{Client, Net, across, across_with};
use crate::packets::*;

/// A subscriber that takes `maximum` messages at a time, and a publisher.
fn pair(net: &mut Net, maximum: u16) -> (Client, Client) {
    let a = net.online(resume(Version::V5, "a").with(|c| {
        c.properties.receive_maximum = Some(maximum);
    }));
    net.subscribe(a, "t", QOS2);
    (a, net.online(v5("b")))
}

/// [MQTT5-3.3.4-9] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2]
#[test]
fn no_more_messages_are_in_flight_than_the_client_takes() {
    across(|net| {
        let (a, b) = pair(net, 3);
        for id in 1..=10 {
            let publish = message("t", &format!("{id}"));
            net.publish(b, if id % 2 == 0 { publish.qos1(id) } else { publish.qos2(id) });
        }
        let got = net.publishes(a);
        assert_eq!(payloads(&got), ["1", "2", "3"]);
        net.send(a, puback(got[1].packet_id.unwrap().get()));
        assert_eq!(payloads(&net.publishes(a)), ["4"]);
        // PUBREC alone returns nothing, PUBCOMP does.
        let first = got[0].packet_id.unwrap().get();
        net.send(a, pubrec(first));
        assert_eq!(net.received(a), [pubrel(first)]);
        net.send(a, pubcomp(first));
        assert_eq!(payloads(&net.publishes(a)), ["5"]);
        // Nor does an acknowledgement that comes twice.
        net.send(a, pubcomp(first));
        net.silent(a);
        let refused = Ack::new(got[2].packet_id.unwrap(), R::UnspecifiedError);
        net.send(a, Packet::PubRec(refused));
        assert_eq!(payloads(&net.publishes(a)), ["6"]);
    });
}

/// [MQTT5-4.9.0-3] [MQTT5-3.3.4-9] [MQTT5-3.3.4-10]
#[test]
fn everything_else_flows_while_the_window_is_closed() {
    across(|net| {
        let (a, b) = pair(net, 1);
        net.publish(b, message("t", "held").qos1(1));
        net.publish(b, message("t", "waits").qos2(2));
        assert_eq!(net.publishes(a).len(), 1);
        net.publish(b, message("t", "zero"));
        assert_eq!(payloads(&net.publishes(a)), ["zero"]);
        net.send(a, Packet::PingReq);
        assert_eq!(net.received(a), [Packet::PingResp]);
        net.subscribe(a, "other", QOS1);
        net.send(a, message("x", "m").qos1(9));
        net.send(a, message("x", "m").qos2(9));
        net.send(a, pubrel(9));
        net.run();
        assert_eq!(net.received(a).len(), 3);
        net.unsuback(a, &["other"]);
    });
}

/// [MQTT5-3.3.4-9] [MQTT5-4.9.0-1] [MQTT5-4.9.0-2] Each connection starts anew.
#[test]
fn the_window_is_that_of_the_connection() {
    across(|net| {
        let (a, b) = pair(net, 1);
        for id in 1..=6 {
            net.publish(b, message("t", &format!("{id}")).qos1(id));
        }
        assert_eq!(net.publishes(a).len(), 1);
        net.drop(a);
        let wider = resume(Version::V5, "a").with(|c| c.properties.receive_maximum = Some(3));
        let a = net.resumed(wider, true);
        let got = net.publishes(a);
        assert_eq!(payloads(&got), ["1", "2", "3"]);
        assert_eq!(got.iter().map(|p| p.dup).collect::<Vec<_>>(), [true, false, false]);
        net.drop(a);
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settled(a), ["1", "2", "3", "4", "5", "6"]);
    });
}

/// [MQTT5-4.9.0-2] A PUBCOMP from before the resume returns nothing that was not taken.
#[test]
fn finishing_what_was_released_before_does_not_widen_the_window() {
    across(|net| {
        let (a, b) = pair(net, 2);
        net.publish(b, message("t", "1").qos2(1));
        net.publish(b, message("t", "2").qos2(2));
        let got = net.publishes(a);
        let ids = [0, 1].map(|at: usize| got[at].packet_id.unwrap().get());
        for id in ids {
            net.send(a, pubrec(id));
        }
        net.drop(a);
        for id in 3..=9 {
            net.publish(b, message("t", &format!("{id}")).qos1(id));
        }
        let a = net.resumed(
            resume(Version::V5, "a").with(|c| c.properties.receive_maximum = Some(2)),
            true,
        );
        let received = net.received(a);
        assert_eq!(received[..2], [pubrel(ids[0]), pubrel(ids[1])]);
        assert_eq!(received.len(), 4, "two releases and a window of two");
        // The client of these tests holds the broker to its window.
        for id in ids {
            net.send(a, pubcomp(id));
        }
        for packet in &received[2..] {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            net.send(a, puback(publish.packet_id.unwrap().get()));
        }
        assert_eq!(net.settled(a), ["5", "6", "7", "8", "9"]);
    });
}

/// [MQTT5-3.3.4-7] [MQTT5-4.13.1-1]
#[test]
fn a_client_beyond_our_receive_maximum_is_disconnected() {
    across_with(
        |limits| limits.receive_maximum = 3,
        |net| {
            let a = net.connect(resume(Version::V5, "a"));
            assert_eq!(net.connack(a).properties.receive_maximum, Some(3));
            for id in 1..=3 {
                net.send(a, message("t", "m").qos2(id));
            }
            // What is acknowledged at once does not count, nor do repetitions.
            net.send(a, message("t", "m").qos1(10));
            net.send(a, message("t", "m").qos2(1).duplicate());
            net.send(a, pubrel(2));
            net.send(a, message("t", "m").qos2(4));
            net.run();
            assert!(net.is_open(a));
            net.send(a, message("t", "m").qos2(5));
            net.ended(a, R::ReceiveMaximumExceeded);
            // On the next connection only what comes on it counts.
            let a = net.resumed(resume(Version::V5, "a"), true);
            for id in [7, 8, 9] {
                net.send(a, message("t", "m").qos2(id));
            }
            net.run();
            assert!(net.is_open(a));
        },
    );
}

/// [MQTT5-3.3.4-7] A refused PUBREC ends the exchange.
#[test]
fn a_refused_message_does_not_count_against_our_receive_maximum() {
    across_with(
        |limits| limits.receive_maximum = 1,
        |net| {
            let a = net.online(v5("a"));
            for id in 1..=5 {
                net.send(a, message("$SYS/x", "m").qos2(id));
            }
            net.send(a, message("t", "m").qos2(9));
            net.run();
            assert_eq!(net.received(a).len(), 6);
            assert!(net.is_open(a));
        },
    );
}

/// [MQTT5-3.3.4-9] MQTT 3.1.1 has no window of its own; the broker's own bound holds.
#[test]
fn the_brokers_own_window_holds_for_every_client() {
    for version in [Version::V3_1_1, Version::V5] {
        across_with(
            |limits| limits.outgoing_inflight_maximum = 4,
            |net| {
                let a = net.online(connect(version, "a"));
                net.subscribe(a, "t", QOS1);
                let b = net.online(connect(version, "b"));
                for id in 1..=20 {
                    net.publish(b, message("t", &format!("{id}")).qos1(id));
                }
                assert_eq!(net.census().inflight, 4);
                assert_eq!(net.settled(a).len(), 20);
            },
        );
    }
}

/// [MQTT5-4.9.0-1] A Receive Maximum of 0 is none.
#[test]
fn a_receive_maximum_of_zero_refuses_the_connect() {
    let mut net = Net::new(1);
    let mut bytes = vec![0x10, 17, 0, 4];
    bytes.extend_from_slice(b"MQTT");
    bytes.extend_from_slice(&[5, 2, 0, 60, 3, 0x21, 0, 0, 0, 1, b'c']);
    bytes[1] = (bytes.len() - 2) as u8;
    let client = net.open(0, &bytes);
    net.refused(client, R::ProtocolError);
}

/// A socket that takes nothing keeps QoS 1 and 2 in the queue and drops QoS 0.
#[test]
fn a_slow_reader_keeps_its_order_and_its_promises() {
    for version in [Version::V3_1_1, Version::V5] {
        across_with(
            |limits| limits.outgoing_bytes_maximum = 256 << 10,
            |net| slow_reader(net, version),
        );
    }
}

fn slow_reader(net: &mut Net, version: Version) {
    let a = net.online(connect(version, "a"));
    net.subscribe(a, "t", QOS1);
    let b = net.online(connect(version, "b"));
    net.stall(a);
    let big = "x".repeat(10_000);
    for id in 1..=100 {
        net.publish(b, message("t", &format!("{id} {big}")).qos1(id));
        net.publish(b, message("t", "zero"));
    }
    assert!(net.dropped(petrel_shard::DropReason::SlowReader) > 0);
    assert!(net.census().queued_messages > 0);
    net.unstall(a);
    let got = net.settled(a);
    let reliable: Vec<u16> = got
        .iter()
        .filter(|p| *p != "zero")
        .map(|p| p.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(reliable, (1..=100).collect::<Vec<_>>());
}
