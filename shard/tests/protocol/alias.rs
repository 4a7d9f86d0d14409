//! Topic aliases: sections 3.1.2.11.5, 3.2.2.3.8 and 3.3.2.3.4.

use petrel_proto::{Connect, Publish, ReasonCode as R, TopicName, Version};

use crate::harness::{Net, across, across_with};
use crate::packets::*;

fn aliased(topic: &str, payload: &str, alias: u16) -> Publish {
    message(topic, payload).with(|p| p.properties.topic_alias = Some(alias))
}

fn taking(client_id: &str, maximum: u16) -> Connect {
    resume(Version::V5, client_id).with(|c| c.properties.topic_alias_maximum = Some(maximum))
}

/// [MQTT5-3.3.2-12] And is for this connection only.
#[test]
fn an_alias_stands_for_the_topic_it_was_last_given() {
    across(|net| {
        let a = net.online(v5("a"));
        net.subscribe(a, "#", QOS0);
        let b = net.online(v5("b"));
        net.publish(b, aliased("one", "1", 1));
        net.publish(b, aliased("two", "2", 32));
        net.publish(b, aliased("", "3", 1).qos1(1));
        net.publish(b, aliased("", "4", 32).qos2(2));
        net.publish(b, aliased("three", "5", 1));
        net.publish(b, aliased("", "6", 1));
        let got = net.settle(a);
        let topics: Vec<_> = got.iter().map(|p| p.topic.text().as_str()).collect();
        assert_eq!(topics, ["one", "two", "one", "two", "three", "three"]);
        assert!(got.iter().all(|p| p.properties.topic_alias.is_none()), "forwarded aliases");
    });
}

/// [MQTT5-3.3.2-8] [MQTT5-3.3.2-9] [MQTT5-3.2.2-17] [MQTT5-3.2.2-18] [MQTT5-4.13.1-1]
#[test]
fn an_alias_of_zero_or_above_the_maximum_ends_the_connection() {
    across_with(
        |limits| limits.topic_alias_maximum = 3,
        |net| {
            for alias in [0, 4, u16::MAX] {
                let a = net.online(v5("a"));
                net.publish(a, aliased("t", "m", 3));
                net.send(a, aliased("t", "m", alias));
                net.ended(a, R::TopicAliasInvalid);
            }
        },
    );
    across_with(
        |limits| limits.topic_alias_maximum = 0,
        |net| {
            let a = net.connect(v5("a"));
            assert_eq!(net.connack(a).properties.topic_alias_maximum, None);
            net.send(a, aliased("t", "m", 1));
            net.ended(a, R::TopicAliasInvalid);
        },
    );
}

/// [MQTT5-4.13.1-1] 3.3.2.3.4.
#[test]
fn an_unknown_alias_without_a_topic_is_a_protocol_error() {
    across(|net| {
        let a = net.online(v5("a"));
        net.publish(a, aliased("t", "m", 2));
        net.send(a, aliased("", "m", 1));
        net.ended(a, R::ProtocolError);
    });
}

/// [MQTT5-3.3.2-7] Nor does the next connection of the session know them.
#[test]
fn aliases_end_with_their_connection() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        net.publish(a, aliased("t", "m", 1));
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.send(a, aliased("", "m", 1));
        net.ended(a, R::ProtocolError);
    });
}

/// 3.3.2.3.4: each connection has a map of its own.
#[test]
fn aliases_of_two_clients_do_not_mix() {
    across(|net| {
        let witness = net.online(v5("witness"));
        net.subscribe(witness, "#", QOS0);
        let a = net.online(v5("a"));
        let b = net.online(v5("b"));
        net.publish(a, aliased("from/a", "m", 1));
        net.publish(b, aliased("from/b", "m", 1));
        net.publish(a, aliased("", "m", 1));
        net.publish(b, aliased("", "m", 1));
        let topics: Vec<_> =
            net.settle(witness).iter().map(|p| p.topic.text().as_str().to_owned()).collect();
        assert_eq!(topics, ["from/a", "from/b", "from/a", "from/b"]);
    });
}

/// 3.3.2.3.4: a repetition teaches the alias as the first time did.
#[test]
fn a_repeated_qos_2_publish_may_bring_its_alias_again() {
    across(|net| {
        let witness = net.online(v5("witness"));
        net.subscribe(witness, "#", QOS0);
        let a = net.online(resume(Version::V5, "a"));
        net.send(a, message("t", "first").qos2(1));
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.send(a, aliased("t", "first", 5).qos2(1).duplicate());
        net.send(a, aliased("", "second", 5));
        net.run();
        assert_eq!(net.settled(witness), ["first", "second"]);
    });
}

/// [MQTT5-3.1.2-26] [MQTT5-3.1.2-27] [MQTT5-3.3.2-11]
#[test]
fn the_broker_uses_aliases_only_up_to_the_clients_maximum() {
    across(|net| {
        let b = net.online(v5("b"));
        for (maximum, used) in [(0, false), (1, true), (2, true), (u16::MAX, true)] {
            let a = net.online(taking("a", maximum));
            net.subscribe(a, "#", QOS1);
            let mut expected = Vec::new();
            for round in 0..4u16 {
                for number in 0..5 {
                    let topic = format!("some/long/topic/name/{number}");
                    net.publish(b, message(&topic, "m").qos1(round + 1));
                    expected.push(topic);
                }
            }
            let packets = net.settle(a);
            let topics: Vec<_> = packets.iter().map(|p| p.topic.text().as_str()).collect();
            assert_eq!(topics, expected);
            let with_alias = packets.iter().any(|p| p.properties.topic_alias.is_some());
            assert_eq!(with_alias, used, "maximum {maximum}");
            net.unsuback(a, &["#"]);
        }
    });
}

/// [MQTT5-3.1.2-26] Interoperability suites expect it of every QoS.
#[test]
fn the_broker_abbreviates_at_every_qos() {
    across(|net| {
        let a = net.online(taking("a", 1));
        net.subscribe(a, "#", QOS2);
        let b = net.online(v5("b"));
        learn(net, b, a);
        for publish in
            [message("some/long/topic", "m").qos1(1), message("some/long/topic", "m").qos2(2)]
        {
            net.send(b, publish);
            net.run();
            let got = net.received(a).into_iter().find_map(|packet| match packet {
                petrel_proto::Packet::Publish(publish) => Some(publish),
                _ => None,
            });
            let got = got.expect("it is delivered");
            assert_eq!((got.properties.topic_alias, &got.topic), (Some(1), &TopicName::EMPTY));
        }
    });
}

/// [MQTT5-3.1.2-27] A client that says nothing takes none.
#[test]
fn without_a_maximum_there_are_no_aliases() {
    across(|net| {
        for connect in [v5("a"), v311("a")] {
            let a = net.online(connect);
            net.subscribe(a, "t", QOS0);
            let b = net.online(v5("b"));
            for _ in 0..5 {
                net.publish(b, message("t", "m"));
            }
            let packets = net.received(a);
            assert_eq!(packets.len(), 5);
            for packet in packets {
                let petrel_proto::Packet::Publish(publish) = packet else { panic!() };
                assert_eq!(publish.properties.topic_alias, None);
                assert_ne!(publish.topic, TopicName::EMPTY);
            }
        }
    });
}

/// Sends the same topic until the broker abbreviates it.
fn learn(net: &mut Net, from: crate::harness::Client, to: crate::harness::Client) {
    for _ in 0..10 {
        net.publish(from, message("some/long/topic", "m"));
    }
    let last = net.received(to).pop();
    let Some(petrel_proto::Packet::Publish(last)) = last else { panic!("{last:?}") };
    assert_eq!(last.topic, TopicName::EMPTY, "the broker uses no alias");
}

/// [MQTT5-3.3.2-7] [MQTT5-4.4.0-1] What is sent again, and what waited, has its whole topic on the new connection.
#[test]
fn after_a_resume_topics_are_whole_again() {
    across(|net| {
        let b = net.online(v5("b"));
        let a = net.online(taking("a", 10));
        net.subscribe(a, "#", QOS1);
        learn(net, b, a);
        net.publish(b, message("some/long/topic", "sent").qos1(1));
        net.received(a);
        net.drop(a);
        net.publish(b, message("some/long/topic", "queued").qos1(2));
        let a = net.resumed(taking("a", 10), true);
        // The client of these tests knows no alias that this connection has not taught it.
        let got = net.settle(a);
        assert_eq!(payloads(&got), ["sent", "queued"]);
        assert!(got.iter().all(|p| p.topic.text().as_str() == "some/long/topic"));
    });
}

/// [MQTT5-3.1.2-24] An alias that could not be introduced is not known.
#[test]
fn a_message_too_large_to_send_teaches_no_alias() {
    across(|net| {
        let a = net.online(taking("a", 10).with(|c| c.properties.maximum_packet_size = Some(60)));
        net.subscribe(a, "#", QOS0);
        let b = net.online(v5("b"));
        for round in 0..6 {
            let payload = if round % 2 == 0 { "x".repeat(60) } else { "fits".to_owned() };
            net.publish(b, message("some/long/topic", &payload));
            for length in 30..45 {
                net.publish(b, message("some/longer/topic", &"y".repeat(length)));
            }
        }
        let got = net.publishes(a);
        assert!(got.iter().any(|p| p.topic.text().as_str() == "some/long/topic"));
    });
}

/// [MQTT5-3.1.2-24] An alias is for saving bytes.
#[test]
fn a_message_that_fits_only_without_an_alias_goes_without() {
    across(|net| {
        let b = net.online(v5("b"));
        // Header, topic, properties and payload of a QoS 0 message on `some/topic`.
        for (spare, alias) in [(0, false), (2, false), (3, true)] {
            let length = (2 + 2 + 10 + 1 + 20) + spare;
            let tight = taking("a", 10).with(|c| c.properties.maximum_packet_size = Some(length));
            let a = net.online(tight);
            net.subscribe(a, "some/topic", QOS0);
            for _ in 0..5 {
                net.publish(b, message("some/topic", &"x".repeat(20)));
            }
            let got = net.publishes(a);
            assert_eq!(got.len(), 5, "{spare}");
            assert_eq!(got.iter().any(|p| p.properties.topic_alias.is_some()), alias, "{spare}");
        }
    });
}
