//! PUBLISH: section 3.3, and topics: section 4.7.

use petrel_proto::{MessageFields, Packet, PayloadFormat, ReasonCode as R, Version};

use crate::harness::{across, versions};
use crate::packets::*;

/// [MQTT5-3.3.1-1] [MQTT5-3.3.1-2] [MQTT5-3.3.1-3] [MQTT311-3.3.1-1] [MQTT311-3.3.1-3]
#[test]
fn the_dup_flag_of_a_publisher_goes_no_further() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.subscribe(a, "t", QOS2);
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "one").qos1(1).duplicate());
        net.publish(b, message("t", "two").qos2(2).duplicate());
        for publish in net.settle(a) {
            assert!(!publish.dup);
        }
    });
}

/// [MQTT5-3.3.1-2] [MQTT5-3.3.1-4] [MQTT311-3.3.1-2] [MQTT311-3.3.1-4] [MQTT5-4.13.1-1]
#[test]
fn impossible_publish_flags_end_the_connection() {
    versions(|net, version| {
        // DUP at QoS 0; QoS 3.
        for first in [0x38, 0x36, 0x3e] {
            let a = net.online(connect(version, "a"));
            let body: &[u8] =
                if version.is_v5() { &[0, 1, b't', 0, 1, 0] } else { &[0, 1, b't', 0, 1] };
            let mut bytes = vec![first, body.len() as u8];
            bytes.extend_from_slice(body);
            net.send_bytes(a, &bytes);
            net.ended(a, R::MalformedPacket);
        }
    });
}

/// [MQTT5-3.3.2-1] [MQTT5-3.3.2-2] [MQTT5-4.7.0-1] [MQTT5-4.7.3-1] [MQTT5-4.7.3-2]
/// [MQTT311-3.3.2-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1] [MQTT311-4.7.3-1] [MQTT311-4.7.3-2]
#[test]
fn a_topic_name_that_is_none_ends_the_connection() {
    versions(|net, version| {
        let topics: [(&[u8], R); 6] = [
            (b"a/+", R::TopicNameInvalid),
            (b"#", R::TopicNameInvalid),
            (b"a/#", R::TopicNameInvalid),
            (b"a\0b", R::MalformedPacket),
            (b"\xed\xa0\x80", R::MalformedPacket),
            (b"\xff", R::MalformedPacket),
        ];
        for (topic, reason) in topics {
            let a = net.online(connect(version, "a"));
            let properties = usize::from(version.is_v5());
            let mut bytes = vec![0x30, (2 + topic.len() + properties) as u8, 0, topic.len() as u8];
            bytes.extend_from_slice(topic);
            bytes.extend_from_slice(&[0][..properties]);
            net.send_bytes(a, &bytes);
            net.ended(a, reason);
        }
        // No topic at all, and in MQTT 5 no alias either.
        let a = net.online(connect(version, "a"));
        let empty: &[u8] = if version.is_v5() { &[0x30, 3, 0, 0, 0] } else { &[0x30, 2, 0, 0] };
        net.send_bytes(a, empty);
        assert!(!net.is_open(a));
    });
}

/// [MQTT5-2.2.1-3] [MQTT311-2.3.1-1]
#[test]
fn packet_identifier_zero_ends_the_connection() {
    versions(|net, version| {
        let packets: [&[u8]; 7] = [
            &[0x32, 6, 0, 1, b't', 0, 0, 0],
            &[0x34, 6, 0, 1, b't', 0, 0, 0],
            &[0x40, 2, 0, 0],
            &[0x50, 2, 0, 0],
            &[0x62, 2, 0, 0],
            &[0x82, 7, 0, 0, 0, 0, 1, b't', 0],
            &[0xa2, 6, 0, 0, 0, 0, 1, b't'],
        ];
        for packet in packets {
            let a = net.online(connect(version, "a"));
            net.send_bytes(a, packet);
            net.ended(a, R::ProtocolError);
        }
    });
}

/// [MQTT5-4.3.1-1] [MQTT5-4.5.0-1] [MQTT311-4.3.1-1] [MQTT311-4.5.0-1]
#[test]
fn each_subscriber_gets_each_message() {
    versions(|net, version| {
        let receivers: Vec<_> = (0..9)
            .map(|number| {
                let client = net.online(connect(version, &format!("r{number}")));
                net.subscribe(client, ["t", "+", "#"][number % 3], QOS0);
                client
            })
            .collect();
        let a = net.online(connect(version, "a"));
        for payload in ["one", "two", ""] {
            net.publish(a, message("t", payload));
        }
        for receiver in receivers {
            assert_eq!(payloads(&net.publishes(receiver)), ["one", "two", ""]);
        }
    });
}

/// [MQTT5-3.8.4-8] [MQTT5-3.9.3-1] [MQTT311-3.8.4-6]
#[test]
fn a_message_is_delivered_at_the_lower_of_both_qos() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        for granted in [QOS0, QOS1, QOS2] {
            let a = net.online(connect(version, "a"));
            net.subscribe(a, "t", granted);
            net.publish(b, message("t", "0"));
            net.publish(b, message("t", "1").qos1(1));
            net.publish(b, message("t", "2").qos2(2));
            let got = net.settle(a);
            let qos: Vec<_> = got.iter().map(|publish| publish.qos).collect();
            assert_eq!(qos, [QOS0, QOS1.min(granted), QOS2.min(granted)]);
        }
    });
}

/// [MQTT5-3.3.4-2] [MQTT5-3.3.4-3] [MQTT5-3.3.4-4] [MQTT311-3.3.5-1]
#[test]
fn overlapping_subscriptions_get_one_copy_at_the_highest_qos_with_all_identifiers() {
    across(|net| {
        let a = net.online(v5("a"));
        for (number, (name, qos)) in
            [("t/#", QOS0), ("t/+", QOS2), ("+/x", QOS1), ("other", QOS2)].into_iter().enumerate()
        {
            let mut packet = subscribe(&[(name, options(qos))]);
            packet.subscription_identifier = Some(10 + number as u32);
            net.suback(a, packet);
        }
        net.subscribe(a, "#", QOS0);
        let b = net.online(v5("b"));
        net.publish(b, message("t/x", "m").qos2(1));
        let got = net.settle(a);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].qos, QOS2);
        let mut identifiers = got[0].properties.subscription_identifiers.to_vec();
        identifiers.sort_unstable();
        assert_eq!(identifiers, [10, 11, 12]);
        net.publish(b, message("other", "m").qos1(1));
        assert_eq!(net.settle(a)[0].properties.subscription_identifiers.to_vec(), [13]);
        net.publish(b, message("none", "m"));
        assert!(net.settle(a)[0].properties.subscription_identifiers.is_empty());
    });
}

/// [MQTT5-3.3.4-3] The same number may stand for several subscriptions.
#[test]
fn subscription_identifiers_are_those_of_the_latest_subscribe() {
    across(|net| {
        let a = net.online(v5("a"));
        let b = net.online(v5("b"));
        for identifier in [Some(268_435_455), Some(1), None] {
            let mut packet = subscribe(&[("t", options(QOS1))]);
            packet.subscription_identifier = identifier;
            net.suback(a, packet);
            net.publish(b, message("t", "m").qos1(1));
            let got = net.settle(a).remove(0).properties.subscription_identifiers;
            assert_eq!(got.to_vec(), Vec::from_iter(identifier));
        }
    });
}

/// [MQTT5-3.3.4-6]
#[test]
fn a_client_must_not_send_a_subscription_identifier() {
    across(|net| {
        let a = net.online(v5("a"));
        let publish = message("t", "x").with(|p| p.properties.subscription_identifiers.push(1));
        net.send(a, publish);
        net.ended(a, R::ProtocolError);
    });
}

/// [MQTT5-3.3.2-4] [MQTT5-3.3.2-15] [MQTT5-3.3.2-16] [MQTT5-3.3.2-17] [MQTT5-3.3.2-18]
/// [MQTT5-3.3.2-20]
#[test]
fn properties_are_forwarded_unaltered_and_in_order() {
    across(|net| {
        let receivers = [("a0", QOS0), ("a1", QOS1), ("a2", QOS2)].map(|(id, qos)| {
            let client = net.online(v5(id));
            net.subscribe(client, "t", qos);
            client
        });
        let order = [("x", "1"), ("a", ""), ("x", "1"), ("", "v")];
        let b = net.online(v5("b"));
        let sent = message("t", "m").qos2(1).fields(MessageFields {
            payload_format: Some(PayloadFormat::Utf8),
            response_topic: Some(text("re/ply")),
            correlation_data: Some(b"\0\xff".as_slice().into()),
            content_type: Some(text("text/plain")),
            user_properties: pairs(&order),
        });
        net.publish(b, sent.clone());
        for client in receivers {
            let got = net.settle(client).remove(0);
            assert_eq!(got.properties, sent.properties);
            let fields = got.properties.message.fields();
            assert_eq!(fields.user_properties.iter().collect::<Vec<_>>(), order);
        }
    });
}

/// [MQTT5-3.3.2-4] Old clients get the message without them.
#[test]
fn properties_do_not_reach_mqtt_311() {
    across(|net| {
        let a = net.online(v311("a"));
        net.subscribe(a, "t", QOS1);
        let b = net.online(v5("b"));
        let fields = MessageFields { content_type: Some(text("x")), ..MessageFields::default() };
        net.publish(b, message("t", "m").qos1(1).fields(fields));
        assert_eq!(net.settled(a), ["m"]);
        let reverse = net.online(v5("c"));
        net.subscribe(reverse, "u", QOS1);
        net.publish(a, message("u", "n").qos1(1));
        assert_eq!(net.settled(reverse), ["n"]);
    });
}

/// [MQTT5-3.3.2-13] [MQTT5-3.3.2-14]
#[test]
fn a_response_topic_has_no_wildcards() {
    across(|net| {
        let a = net.online(v5("a"));
        let fields =
            MessageFields { response_topic: Some(text("r/+")), ..MessageFields::default() };
        net.send(a, message("t", "x").fields(fields));
        assert!(!net.is_open(a));
        assert!(matches!(net.received(a).last(), Some(Packet::Disconnect(_))));
    });
}

/// [MQTT5-4.7.2-1] [MQTT311-4.7.2-1]
#[test]
fn leading_wildcards_do_not_match_dollar_topics() {
    versions(|net, version| {
        let wild = net.online(connect(version, "wild"));
        for name in ["#", "+/x", "+/#", "/#"] {
            net.subscribe(wild, name, QOS0);
        }
        let exact = net.online(connect(version, "exact"));
        net.subscribe(exact, "$own/#", QOS0);
        let b = net.online(connect(version, "b"));
        net.publish(b, message("$own/x", "m").retained());
        net.silent(wild);
        assert_eq!(net.settled(exact), ["m"]);
        let late = net.online(connect(version, "late"));
        net.subscribe(late, "#", QOS0);
        net.silent(late);
    });
}

/// [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] [MQTT311-3.3.5-2] 4.7.2: these are not the clients'.
#[test]
fn publishing_to_the_servers_own_topics_is_acknowledged_and_not_done() {
    versions(|net, version| {
        let witness = net.online(connect(version, "witness"));
        net.subscribe(witness, "$SYS/#", QOS2);
        let a = net.online(connect(version, "a"));
        let told = if version.is_v5() { R::NotAuthorized } else { R::Success };
        for topic in ["$SYS/broker/x", "$SYS", "$share/g/t"] {
            net.send(a, message(topic, "0").retained());
            net.send(a, message(topic, "1").qos1(1));
            net.send(a, message(topic, "2").qos2(2));
            net.run();
            let received = net.received(a);
            let [Packet::PubAck(ack), Packet::PubRec(rec)] = received.as_slice() else {
                panic!("{received:?}")
            };
            assert_eq!((ack.reason, rec.reason), (told, told));
            if !version.is_v5() {
                net.send(a, pubrel(2));
                net.received(a);
            }
        }
        net.silent(witness);
        assert_eq!(net.census().retained, 0);
    });
}

/// [MQTT5-4.7.3-3] [MQTT5-4.7.3-4] [MQTT311-4.7.3-3] [MQTT311-4.7.3-4] [MQTT5-1.5.4-3] [MQTT311-1.5.3-3]
#[test]
fn topics_are_compared_byte_by_byte() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        for name in ["Up", "/lead", "trail/", "a//b", "\u{feff}bom", "caf\u{e9}", " "] {
            net.subscribe(a, name, QOS0);
        }
        let b = net.online(connect(version, "b"));
        for miss in ["up", "lead", "trail", "a/b", "bom", "cafe\u{301}", "  ", "/"] {
            net.publish(b, message(miss, "miss"));
        }
        net.silent(a);
        for hit in ["Up", "/lead", "trail/", "a//b", "\u{feff}bom", "caf\u{e9}", " "] {
            net.publish(b, message(hit, hit));
            assert_eq!(net.settled(a), [hit]);
        }
    });
}

/// [MQTT5-4.7.3-3] [MQTT311-4.7.3-3] The longest topic there is.
#[test]
fn a_topic_of_65535_bytes_is_a_topic() {
    versions(|net, version| {
        let long = "x".repeat(65_535);
        let a = net.online(connect(version, "a"));
        net.subscribe(a, &long, QOS1);
        net.publish(a, message(&long, "m").qos1(1));
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// [MQTT5-3.8.3-3]
#[test]
fn no_local_keeps_a_client_from_its_own_messages_only() {
    across(|net| {
        let a = net.online(v5("a"));
        let b = net.online(v5("b"));
        net.subscribe_with(a, "t/#", no_local(QOS1));
        net.subscribe_with(b, "t/#", no_local(QOS1));
        net.publish(a, message("t/1", "from a").qos1(1));
        net.publish(b, message("t/1", "from b").qos1(1));
        assert_eq!(net.settled(a), ["from b"]);
        assert_eq!(net.settled(b), ["from a"]);
        // Another subscription of the same client is not bound by it.
        net.subscribe(a, "t/2", QOS0);
        net.publish(a, message("t/2", "own"));
        assert_eq!(net.settled(a), ["own"]);
    });
}

/// [MQTT5-3.8.3-3] The client identifier counts, not the connection.
#[test]
fn no_local_holds_for_a_session_that_went_on() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        net.subscribe_with(a, "t", no_local(QOS1));
        net.publish(a, message("t", "own").qos1(1));
        net.drop(a);
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.publish(a, message("t", "own").qos1(1));
        net.silent(a);
    });
}

/// 3.4.2.1 and 3.5.2.1: the publisher may be told that nobody listens.
#[test]
fn a_publisher_learns_that_nobody_subscribes() {
    across(|net| {
        let a = net.online(v5("a"));
        net.send(a, message("lonely", "x").qos1(1));
        net.send(a, message("lonely", "x").qos2(2));
        net.run();
        let received = net.received(a);
        let [Packet::PubAck(ack), Packet::PubRec(rec)] = received.as_slice() else {
            panic!("{received:?}")
        };
        assert_eq!((ack.reason, rec.reason), (R::NoMatchingSubscribers, R::NoMatchingSubscribers));
        net.send(a, pubrel(2));
        assert!(matches!(net.next(a), Some(Packet::PubComp(ack)) if ack.reason == R::Success));
    });
}
