//! SUBSCRIBE and UNSUBSCRIBE: sections 3.8 to 3.11.

use petrel_proto::{Packet, ReasonCode as R, Version};

use crate::harness::{across, across_with, versions};
use crate::packets::*;

/// [MQTT5-2.2.1-6] [MQTT5-3.8.4-1] [MQTT5-3.8.4-2] [MQTT5-3.8.4-5] [MQTT5-3.8.4-6] [MQTT5-3.8.4-7]
/// [MQTT5-3.9.3-1] [MQTT311-2.3.1-7] [MQTT311-3.8.4-1] [MQTT311-3.8.4-2] [MQTT311-3.8.4-4]
/// [MQTT311-3.8.4-5] [MQTT311-3.9.3-1]
#[test]
fn suback_has_a_code_for_each_filter_in_order() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        let filters = [
            ("a", options(QOS2)),
            ("b/#", options(QOS0)),
            ("+", options(QOS1)),
            ("a", options(QOS0)),
        ];
        let granted = net.suback(a, subscribe(&filters));
        assert_eq!(granted, [R::GrantedQos2, R::Success, R::GrantedQos1, R::Success]);
    });
}

/// [MQTT5-3.8.4-5] [MQTT311-3.8.4-4] As if each filter had come alone.
#[test]
fn many_filters_in_one_packet_are_many_subscriptions() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.suback(
            a,
            subscribe(&[("a", options(QOS0)), ("b", options(QOS1)), ("c", options(QOS2))]),
        );
        for (number, topic) in ["a", "b", "c"].into_iter().enumerate() {
            net.publish(a, message(topic, topic).qos2(number as u16 + 1));
        }
        let got: Vec<_> = net.settle(a).iter().map(|p| p.qos).collect();
        assert_eq!(got, [QOS0, QOS1, QOS2]);
        assert_eq!(net.census().subscriptions, 3);
    });
}

/// [MQTT5-3.8.4-3] [MQTT311-3.8.4-3]
#[test]
fn the_same_filter_again_replaces_the_subscription() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        let b = net.online(connect(version, "b"));
        for granted in [QOS0, QOS2, QOS1] {
            net.subscribe(a, "t/+", granted);
            net.publish(b, message("t/1", "m").qos2(1));
            let got = net.settle(a);
            assert_eq!(got.len(), 1);
            assert_eq!(got[0].qos, granted);
        }
        assert_eq!((net.census().subscriptions, net.census().filters), (1, 1));
    });
}

/// [MQTT5-3.8.4-3] All options are those of the latest SUBSCRIBE.
#[test]
fn no_local_and_retain_as_published_are_replaced_too() {
    across(|net| {
        let a = net.online(v5("a"));
        net.subscribe_with(a, "t", no_local(QOS1));
        net.publish(a, message("t", "m").qos1(1));
        net.silent(a);
        net.subscribe_with(a, "t", as_published(QOS1));
        net.publish(a, message("t", "m").retained().qos1(1));
        assert!(net.settle(a).iter().all(|p| p.retain));
        net.subscribe_with(a, "t", options(QOS1));
        net.settle(a);
        net.publish(a, message("t", "m").retained().qos1(1));
        assert!(net.settle(a).iter().all(|p| !p.retain));
    });
}

/// [MQTT5-3.8.4-3] [MQTT5-3.8.4-4] What waits is not lost by it.
#[test]
fn replacing_a_subscription_loses_no_message() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "t", QOS1);
        let b = net.online(v5("b"));
        for id in 1..=5 {
            net.publish(b, message("t", &format!("{id}")).qos1(id));
        }
        net.send(a, subscribe(&[("t", options(QOS2))]));
        net.run();
        net.take(a, |packet| matches!(packet, Packet::SubAck(_)));
        net.publish(b, message("t", "6").qos1(6));
        assert_eq!(net.settled(a), ["1", "2", "3", "4", "5", "6"]);
    });
}

/// [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT5-4.7.3-1] [MQTT5-4.8.2-1] [MQTT5-4.8.2-2]
/// [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] [MQTT311-4.7.3-1]
#[test]
fn a_filter_that_is_none_ends_the_connection() {
    versions(|net, version| {
        for name in ["a#", "#/a", "a/#/b", "a+", "+a/b", "", "$share/g", "$share//t", "$share/g/"] {
            let a = net.online(connect(version, "a"));
            let mut body = vec![0, 1];
            body.extend_from_slice(&[0][..usize::from(version.is_v5())]);
            body.extend_from_slice(&[0, name.len() as u8]);
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            let mut bytes = vec![0x82, body.len() as u8];
            bytes.extend_from_slice(&body);
            net.send_bytes(a, &bytes);
            assert!(!net.is_open(a), "{name}");
        }
    });
}

/// [MQTT5-3.8.3-2] [MQTT5-3.8.3-5] [MQTT5-3.8.1-1] [MQTT5-3.10.1-1] [MQTT5-3.10.3-2]
/// [MQTT5-3.6.1-1] [MQTT311-3.8.3-3] [MQTT311-3.8.3-4] [MQTT311-3.8.1-1] [MQTT311-3.10.1-1]
/// [MQTT311-3.10.3-2] [MQTT311-3.6.1-1]
#[test]
fn impossible_requests_end_the_connection() {
    versions(|net, version| {
        let v5 = version.is_v5();
        let no_filter: &[u8] = if v5 { &[0x82, 3, 0, 1, 0] } else { &[0x82, 2, 0, 1] };
        let no_unfilter: &[u8] = if v5 { &[0xa2, 3, 0, 1, 0] } else { &[0xa2, 2, 0, 1] };
        let qos_3: &[u8] =
            if v5 { &[0x82, 7, 0, 1, 0, 0, 1, b't', 3] } else { &[0x82, 6, 0, 1, 0, 1, b't', 3] };
        let reserved: &[u8] = if v5 {
            &[0x82, 7, 0, 1, 0, 0, 1, b't', 0x40]
        } else {
            &[0x82, 6, 0, 1, 0, 1, b't', 4]
        };
        let flags: &[u8] =
            if v5 { &[0x80, 7, 0, 1, 0, 0, 1, b't', 0] } else { &[0x80, 6, 0, 1, 0, 1, b't', 0] };
        let unflags: &[u8] =
            if v5 { &[0xa0, 6, 0, 1, 0, 0, 1, b't'] } else { &[0xa0, 5, 0, 1, 0, 1, b't'] };
        let pubrel_flags: &[u8] = &[0x60, 2, 0, 1];
        for bytes in [no_filter, no_unfilter, qos_3, reserved, flags, unflags, pubrel_flags] {
            let a = net.online(connect(version, "a"));
            net.send_bytes(a, bytes);
            assert!(!net.is_open(a), "{bytes:02x?}");
        }
    });
}

/// [MQTT5-3.8.3-4] A subscription identifier of 0 is one too ([MQTT5-4.13.1-1]).
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    across(|net| {
        let a = net.online(v5("a"));
        net.send(a, subscribe(&[("$share/g/t", no_local(QOS0))]));
        net.ended(a, R::ProtocolError);
        let a = net.online(v5("a"));
        net.send_bytes(a, &[0x82, 9, 0, 1, 2, 0x0b, 0, 0, 1, b't', 0]);
        net.ended(a, R::ProtocolError);
    });
}

/// [MQTT5-2.2.1-6] [MQTT5-3.10.4-1] [MQTT5-3.10.4-2] [MQTT5-3.10.4-4] [MQTT5-3.10.4-5]
/// [MQTT5-3.10.4-6] [MQTT5-3.11.3-1] [MQTT5-3.11.3-2] [MQTT311-2.3.1-7] [MQTT311-3.10.4-1]
/// [MQTT311-3.10.4-2] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6]
#[test]
fn unsuback_has_a_code_for_each_filter_in_order() {
    across(|net| {
        let a = net.online(v5("a"));
        for name in ["a/+", "b", "#"] {
            net.subscribe(a, name, QOS1);
        }
        let reasons = net.unsuback(a, &["b", "a/b", "#", "A/+", "b", "$share/g/b"]);
        let none = R::NoSubscriptionExisted;
        assert_eq!(reasons, [R::Success, none, R::Success, none, none, none]);
        net.publish(a, message("b", "gone").qos1(1));
        net.publish(a, message("a/b", "there").qos1(1));
        assert_eq!(net.settled(a), ["there"]);
        let old = net.online(v311("old"));
        net.subscribe(old, "x", QOS1);
        assert_eq!(net.unsuback(old, &["x", "y"]), []);
        net.publish(old, message("x", "gone").qos1(1));
        net.silent(old);
    });
}

/// [MQTT5-3.10.4-3] [MQTT311-3.10.4-3]
#[test]
fn deliveries_that_have_begun_are_finished_after_unsubscribe() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "t", QOS2);
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "one").qos1(1));
        net.publish(b, message("t", "two").qos2(2));
        let got = net.publishes(a);
        net.unsuback(a, &["t"]);
        assert_eq!(net.census().inflight, 2);
        let two = got[1].packet_id.unwrap().get();
        net.send(a, pubrec(two));
        assert_eq!(net.received(a), [pubrel(two)]);
        net.drop(a);
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(net.settled(a), ["one"]);
        assert_eq!(net.census().inflight, 0);
    });
}

/// [MQTT5-3.10.4-2] [MQTT311-3.10.4-2]
#[test]
fn nothing_new_comes_after_unsuback() {
    versions(|net, version| {
        for number in 0..10 {
            let a = net.online(connect(version, &format!("a{number}")));
            let b = net.online(connect(version, &format!("b{number}")));
            net.subscribe(a, "t", QOS0);
            net.unsuback(a, &["t"]);
            net.publish(b, message("t", "m"));
            net.silent(a);
            assert_eq!((net.census().subscriptions, net.census().filters), (0, 0));
        }
    });
}

/// [MQTT5-3.9.3-2] 0x97 for what is beyond a limit; the others of the packet are granted.
#[test]
fn subscriptions_beyond_the_limit_are_refused_one_by_one() {
    across_with(
        |limits| limits.session_subscriptions_maximum = 2,
        |net| {
            let a = net.online(v5("a"));
            let asked = [("a", options(QOS1)), ("b", options(QOS0)), ("c", options(QOS0))];
            assert_eq!(
                net.suback(a, subscribe(&asked)),
                [R::GrantedQos1, R::Success, R::QuotaExceeded]
            );
            // To replace one is not to add one.
            net.subscribe(a, "b", QOS2);
            net.unsuback(a, &["a"]);
            net.subscribe(a, "$share/g/c", QOS1);
            net.subscribe(a, "$share/g/c", QOS2);
            assert_eq!(net.suback(a, subscribe(&[("a", options(QOS1))])), [R::QuotaExceeded]);
        },
    );
}

/// [MQTT5-3.9.3-2] [MQTT311-3.9.3-2] Before MQTT 5 there is one code for a failure.
#[test]
fn a_filter_that_is_too_deep_is_refused_in_the_words_of_the_version() {
    for (version, told) in
        [(Version::V5, R::TopicFilterInvalid), (Version::V3_1_1, R::UnspecifiedError)]
    {
        across_with(
            |limits| limits.topic_levels_maximum = 3,
            |net| {
                let a = net.online(connect(version, "a"));
                let asked = [("a/b/c/d", options(QOS1)), ("a/b/c", options(QOS1))];
                assert_eq!(net.suback(a, subscribe(&asked)), [told, R::GrantedQos1]);
            },
        );
    }
}

/// [MQTT5-3.3.2-3] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT311-3.3.2-3] [MQTT311-3.8.3-2]
/// [MQTT311-4.7.1-2] [MQTT311-4.7.1-3] The examples of section 4.7.
#[test]
fn filters_match_as_the_specification_says() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        for (name, hits, misses) in [
            (
                "sport/tennis/player1/#",
                vec!["sport/tennis/player1", "sport/tennis/player1/x/y"],
                vec!["sport/tennis"],
            ),
            ("sport/+", vec!["sport/", "sport/x"], vec!["sport", "sport/x/y"]),
            ("+/+", vec!["/finance", "a/b", "/"], vec!["finance"]),
            ("/+", vec!["/finance"], vec!["a/finance"]),
            ("+", vec!["finance"], vec!["/finance"]),
            ("+/tennis/#", vec!["x/tennis", "/tennis/y"], vec!["tennis"]),
            ("a//#", vec!["a/", "a//", "a//b"], vec!["a", "a/b"]),
        ] {
            let a = net.online(connect(version, "a"));
            net.subscribe(a, name, QOS0);
            for topic in hits {
                net.publish(b, message(topic, topic));
                assert_eq!(net.settled(a), [topic], "{name}");
            }
            for topic in misses {
                net.publish(b, message(topic, topic));
                net.silent(a);
            }
        }
    });
}

/// [MQTT5-4.13.1-1] [MQTT311-4.8.0-1] A server's packet from a client.
#[test]
fn packets_that_only_a_server_sends_end_the_connection() {
    versions(|net, version| {
        let v5 = version.is_v5();
        let packets: [&[u8]; 4] = [
            if v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] },
            if v5 { &[0x90, 4, 0, 1, 0, 0] } else { &[0x90, 3, 0, 1, 0] },
            if v5 { &[0xb0, 4, 0, 1, 0, 0] } else { &[0xb0, 2, 0, 1] },
            &[0xd0, 0],
        ];
        for bytes in packets {
            let a = net.online(connect(version, "a"));
            net.send_bytes(a, bytes);
            net.ended(a, R::ProtocolError);
        }
    });
}

/// [MQTT5-3.8.4-3] The same filter twice in one packet: the last one counts.
#[test]
fn the_last_of_equal_filters_counts() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.suback(a, subscribe(&[("t", options(QOS2)), ("t", options(QOS0))]));
        net.publish(a, message("t", "m").qos2(1));
        assert_eq!(net.settle(a)[0].qos, QOS0);
        assert_eq!(net.census().subscriptions, 1);
    });
}
