//! Packet sizes, queues and other bounds.

use petrel_proto::{Disconnect, Packet, ReasonCode as R, Version};
use petrel_shard::{DropReason, QueueFull};

use crate::harness::{Client, Net, across, across_with, versions};
use crate::packets::*;

/// [MQTT5-3.2.2-15] [MQTT5-4.13.1-1] 3.2.2.3.6.
#[test]
fn a_packet_above_our_maximum_ends_the_connection() {
    for version in [Version::V3_1_1, Version::V5] {
        across_with(
            |limits| limits.maximum_packet_size_bytes = 1000,
            |net| {
                let a = net.online(connect(version, "a"));
                let header = if version.is_v5() { 3 + 2 + 1 + 1 } else { 3 + 2 + 1 };
                net.publish(a, message("t", &"x".repeat(1000 - header)));
                net.send(a, message("t", &"x".repeat(1001 - header)));
                net.ended(a, R::PacketTooLarge);
            },
        );
    }
}

/// [MQTT5-3.1.2-24] [MQTT5-3.1.2-25] The others get it.
#[test]
fn a_message_above_the_clients_maximum_is_left_out_and_counts_as_delivered() {
    across(|net| {
        let tight = resume(Version::V5, "a").with(|c| c.properties.maximum_packet_size = Some(64));
        let a = net.online(tight.clone());
        net.subscribe(a, "t", QOS2);
        let roomy = net.online(v5("roomy"));
        net.subscribe(roomy, "t", QOS2);
        let b = net.online(v5("b"));
        let big = "x".repeat(100);
        net.publish(b, message("t", &big));
        net.publish(b, message("t", &big).qos1(1));
        net.publish(b, message("t", &big).qos2(2));
        net.publish(b, message("t", "small").qos2(3));
        assert_eq!(net.settled(a), ["small"]);
        assert_eq!(net.settled(roomy).len(), 4);
        assert_eq!(net.dropped(DropReason::TooLarge), 3);
        net.drop(a);
        net.publish(b, message("t", &big).qos1(4));
        net.publish(b, message("t", "late").qos1(5));
        let a = net.resumed(tight, true);
        assert_eq!(net.settled(a), ["late"]);
        assert_eq!(net.settled(roomy).len(), 2);
        assert_eq!((net.census().inflight, net.census().queued_messages), (0, 0));
    });
}

/// [MQTT5-3.1.2-24] To the byte.
#[test]
fn a_message_of_exactly_the_clients_maximum_is_sent() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.maximum_packet_size = Some(64)));
        net.subscribe(a, "t", QOS1);
        let b = net.online(v5("b"));
        let header = 2 + 2 + 1 + 1;
        net.publish(b, message("t", &"x".repeat(64 - header)));
        assert_eq!(net.settled(a).len(), 1);
        net.publish(b, message("t", &"x".repeat(65 - header)));
        net.silent(a);
    });
}

/// [MQTT5-3.1.2-24] [MQTT5-3.14.2-3] [MQTT5-3.14.2-4] A DISCONNECT leaves its words out, or itself.
#[test]
fn a_disconnect_fits_or_is_not_sent() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.maximum_packet_size = Some(30)));
        net.send_bytes(a, &[0xc1, 0]);
        let Some(Packet::Disconnect(last)) = net.next(a) else { panic!("no DISCONNECT") };
        assert_eq!(last.reason, R::MalformedPacket);
        assert!(last.properties.is_empty());
        assert!(!net.is_open(a));
    });
}

fn away(net: &mut Net) -> Client {
    let a = net.online(resume(Version::V5, "a"));
    net.subscribe(a, "t", QOS1);
    net.drop(a);
    net.online(v5("b"))
}

/// The queue's bound in messages; what is in flight is beside it.
#[test]
fn a_full_queue_drops_the_newest_or_the_oldest() {
    for (policy, expected) in
        [(QueueFull::DropNewest, ["1", "2", "3"]), (QueueFull::DropOldest, ["3", "4", "5"])]
    {
        across_with(
            |limits| (limits.session_queue_messages, limits.session_queue_full) = (3, policy),
            |net| {
                let b = away(net);
                for id in 1..=5 {
                    net.publish(b, message("t", &format!("{id}")).qos1(id));
                }
                assert_eq!(net.dropped(DropReason::QueueFull), 2);
                let a = net.resumed(resume(Version::V5, "a"), true);
                assert_eq!(net.settled(a), expected);
            },
        );
    }
}

/// The queue's bound in bytes.
#[test]
fn a_queue_holds_so_many_bytes() {
    for (policy, expected) in [(QueueFull::DropNewest, "12"), (QueueFull::DropOldest, "45")] {
        across_with(
            |limits| (limits.session_queue_bytes, limits.session_queue_full) = (2500, policy),
            |net| {
                let b = away(net);
                for id in 1..=5 {
                    net.publish(b, message("t", &format!("{id}{}", "x".repeat(1000))).qos1(id));
                }
                // Larger than the queue itself: only this one is lost.
                net.publish(b, message("t", &"y".repeat(3000)).qos1(9));
                let a = net.resumed(resume(Version::V5, "a"), true);
                let firsts: String =
                    net.settled(a).iter().map(|p| p.chars().next().unwrap()).collect();
                assert_eq!(firsts, expected);
            },
        );
    }
}

/// [MQTT5-3.3.2-5] What has expired makes room first.
#[test]
fn a_full_queue_forgets_the_expired_first() {
    across_with(
        |limits| limits.session_queue_messages = 3,
        |net| {
            let b = away(net);
            net.publish(b, message("t", "1").qos1(1));
            net.publish(b, message("t", "2").qos1(2).expiring(5));
            net.publish(b, message("t", "3").qos1(3));
            net.advance(6_000);
            net.publish(b, message("t", "4").qos1(4));
            net.publish(b, message("t", "5").qos1(5));
            let a = net.resumed(resume(Version::V5, "a"), true);
            assert_eq!(net.settled(a), ["1", "3", "4"]);
        },
    );
}

/// The queue is bounded while the client is there, too, and the group's like a session's.
#[test]
fn queues_are_bounded_wherever_they_are() {
    across_with(
        |limits| limits.session_queue_messages = 10,
        |net| {
            let slow = net.online(v5("slow").with(|c| c.properties.receive_maximum = Some(1)));
            net.subscribe(slow, "t", QOS1);
            let gone = net.online(resume(Version::V5, "gone"));
            net.subscribe(gone, "$share/g/t", QOS1);
            net.drop(gone);
            let b = net.online(v5("b"));
            for id in 1..=50 {
                net.publish(b, message("t", &format!("{id}")).qos1(id));
            }
            assert_eq!(net.census().queued_messages, 10);
            assert_eq!(net.census().group_messages, 10);
            assert_eq!(net.settled(slow).len(), 11);
        },
    );
}

/// A bound of ours: 0x90.
#[test]
fn a_topic_name_with_too_many_levels_ends_the_connection() {
    for version in [Version::V3_1_1, Version::V5] {
        across_with(
            |limits| limits.topic_levels_maximum = 3,
            |net| {
                let a = net.online(connect(version, "a"));
                net.publish(a, message("a/b/c", "m").qos1(1));
                net.send(a, message("a/b/c/d", "m").qos1(2));
                net.ended(a, R::TopicNameInvalid);
            },
        );
    }
}

/// A bound of ours: 0x90, and 0x8F for a filter.
#[test]
fn a_topic_that_is_too_long_is_refused() {
    for (version, told) in
        [(Version::V5, R::TopicFilterInvalid), (Version::V3_1_1, R::UnspecifiedError)]
    {
        across_with(
            |limits| limits.topic_bytes_maximum = 5,
            |net| {
                let a = net.online(connect(version, "a"));
                let asked = [("a/b/cd", options(QOS1)), ("a/b/c", options(QOS1))];
                assert_eq!(net.suback(a, subscribe(&asked)), [told, R::GrantedQos1]);
                net.publish(a, message("a/b/c", "m").qos1(1));
                assert_eq!(net.settled(a), ["m"]);
                net.send(a, message("a/b/cd", "m").qos1(2));
                net.ended(a, R::TopicNameInvalid);
                let b =
                    net.connect(connect(version, "b").with(|c| c.will = Some(will("a/b/cd", "w"))));
                net.refused(b, R::TopicNameInvalid);
            },
        );
    }
}

/// [MQTT5-3.8.4-6] There is a code for each filter, and none is granted.
#[test]
fn a_subscribe_of_too_many_filters_is_refused_as_a_whole() {
    for (version, told) in [(Version::V5, R::QuotaExceeded), (Version::V3_1_1, R::UnspecifiedError)]
    {
        across_with(
            |limits| limits.filters_per_subscribe_maximum = 2,
            |net| {
                let a = net.online(connect(version, "a"));
                let asked = ["x", "y", "z"].map(|filter| (filter, options(QOS0)));
                assert_eq!(net.suback(a, subscribe(&asked)), [told; 3]);
                assert_eq!(net.suback(a, subscribe(&asked[1..])), [R::Success; 2]);
                net.publish(a, message("x", "lost"));
                net.publish(a, message("y", "m"));
                assert_eq!(net.settled(a), ["m"]);
            },
        );
    }
}

/// A will is a publish to come.
#[test]
fn a_will_with_too_many_levels_refuses_the_connect() {
    across_with(
        |limits| limits.topic_levels_maximum = 3,
        |net| {
            let a = net.connect(v5("a").with(|c| c.will = Some(will("a/b/c/d", "w"))));
            net.refused(a, R::TopicNameInvalid);
        },
    );
}

/// A hostile topic costs no more than another.
#[test]
fn a_topic_of_nothing_but_separators_is_bounded() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.send(a, message(&"/".repeat(65_535), "m").qos1(1));
        net.ended(a, R::TopicNameInvalid);
        let b = net.online(connect(version, "b"));
        net.subscribe(b, "#", QOS0);
        net.publish(b, message(&"/".repeat(127), "m"));
        assert_eq!(net.settled(b), ["m"]);
    });
}

/// [MQTT5-3.8.4-5] [MQTT5-3.10.4-6] [MQTT311-3.8.4-4] [MQTT311-3.10.4-6] As many as a packet holds;
/// what handles them must not look at all of them for each.
#[test]
fn a_packet_full_of_filters_is_granted_and_taken_back() {
    versions(|net, version| {
        for stem in ["t/", "+/", "$share/g/"] {
            let a = net.online(connect(version, "a"));
            let names: Vec<String> = (0..4_000).map(|number| format!("{stem}{number}")).collect();
            let asked: Vec<_> = names.iter().map(|name| (name.as_str(), options(QOS1))).collect();
            assert_eq!(net.suback(a, subscribe(&asked)), vec![R::GrantedQos1; 4_000]);
            assert_eq!(net.census().subscriptions, 4_000);
            net.publish(a, message("t/7", "m").qos1(1));
            net.settle(a);
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            net.unsuback(a, &names);
            assert_eq!((net.census().subscriptions, net.census().filters), (0, 0));
        }
    });
}

/// Many connections of one client, one session.
#[test]
fn reconnecting_leaves_nothing_behind() {
    across(|net| {
        for round in 0..50 {
            let connect = if round % 3 == 0 { v5("a") } else { resume(Version::V5, "a") };
            let a = net.online(connect);
            net.subscribe(a, "t", QOS1);
            net.subscribe(a, "$share/g/t", QOS1);
            net.publish(a, message("t", "m").qos1(1));
            if round % 2 == 0 {
                net.drop(a);
            }
        }
        let census = net.census();
        assert_eq!((census.sessions, census.subscriptions, census.groups), (1, 2, 1));
    });
}

/// 3.1.2.11.6: optional even if it was asked for.
#[test]
fn response_information_is_left_out_where_it_does_not_fit() {
    across(|net| {
        let connect = |bytes| {
            v5(&"x".repeat(60)).with(|c| {
                c.properties.maximum_packet_size = Some(bytes);
                c.properties.request_response_information = Some(true);
            })
        };
        let tight = net.connect(connect(60));
        let Some(Packet::ConnAck(ack)) = net.next(tight) else { panic!("no CONNACK") };
        assert_eq!((ack.reason, ack.properties.response_information), (R::Success, None));
        let roomy = net.connect(connect(200));
        net.ended(tight, R::SessionTakenOver);
        let Some(Packet::ConnAck(ack)) = net.next(roomy) else { panic!("no CONNACK") };
        assert!(ack.properties.response_information.is_some());
    });
}

/// [MQTT5-3.1.2-24] What cannot be sent is not, and the client learns why.
#[test]
fn an_answer_that_is_too_large_ends_in_a_disconnect_that_says_so() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.maximum_packet_size = Some(24)));
        let filters: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let filters: Vec<_> = filters.iter().map(|f| (f.as_str(), options(QOS1))).collect();
        net.send(a, subscribe(&filters));
        net.ended(a, R::PacketTooLarge);
        let b = net.connect(v5("b").with(|c| c.properties.maximum_packet_size = Some(5)));
        net.refused(b, R::PacketTooLarge);
    });
}

/// What is sent and not acknowledged is held, also for a client that is away.
#[test]
fn bytes_in_flight_are_bounded_and_nothing_is_lost() {
    across_with(
        |limits| limits.outgoing_inflight_bytes_maximum = 250,
        |net| {
            for qos in [QOS1, QOS2] {
                let a = net.online(resume(Version::V5, "a"));
                net.subscribe(a, "t", qos);
                let b = net.online(v5("b"));
                let payloads: Vec<String> = (0..8).map(|n| n.to_string().repeat(99)).collect();
                for (payload, id) in payloads.iter().zip(1..) {
                    net.publish(b, message("t", payload).qos2(id));
                }
                let sent = net.publishes(a);
                assert_eq!(sent.len(), 2, "two of 100 bytes each fit");
                let census = net.census();
                assert_eq!((census.inflight, census.queued_messages), (2, 6));
                net.drop(a);
                let a = net.resumed(resume(Version::V5, "a"), true);
                assert_eq!(net.settled(a), payloads);
                // Larger than all that may be in flight, and sent nevertheless.
                let large = "x".repeat(400);
                net.publish(b, message("t", &large).qos2(20));
                net.publish(b, message("t", "next").qos2(21));
                assert_eq!(net.settled(a), [large.as_str(), "next"]);
                net.send(
                    a,
                    Disconnect::new(R::Success).with(|d| {
                        d.session_expiry_interval_s = Some(0);
                    }),
                );
            }
        },
    );
}

/// What is not retained is delivered all the same.
#[test]
fn topics_with_a_retained_message_are_bounded() {
    let mut net = Net::with(1, |limits| limits.retained_messages_maximum = 2);
    let (a, b) = (net.online(v5("a")), net.online(v5("b")));
    net.subscribe(a, "#", QOS1);
    for topic in ["1", "2", "3", "2"] {
        net.publish(b, message(topic, topic).retained());
    }
    assert_eq!(net.settled(a).len(), 4);
    assert_eq!((net.census().retained, net.dropped(DropReason::RetainedFull)), (2, 1));
    net.publish(b, message("1", "").retained());
    net.publish(b, message("3", "now").retained());
    assert_eq!((net.census().retained, net.dropped(DropReason::RetainedFull)), (2, 1));
}
