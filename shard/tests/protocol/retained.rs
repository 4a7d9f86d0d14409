//! Retained messages: sections 3.3.1.3 and 3.8.3.1.

use petrel_proto::{MessageFields, PacketId, Publish, RetainHandling as H, Version};

use crate::harness::{Client, Net, across, across_with, versions};
use crate::packets::*;

/// Topics and flags of what a client gets, in topic order.
fn taken(net: &mut Net, client: Client) -> Vec<(String, bool)> {
    let got = net.settle(client);
    let mut taken: Vec<_> =
        got.iter().map(|p| (p.topic.text().as_str().to_owned(), p.retain)).collect();
    taken.sort();
    taken
}

/// [MQTT5-3.3.1-5] [MQTT5-3.3.1-9] [MQTT311-3.3.1-5] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8]
#[test]
fn a_new_subscription_gets_the_retained_messages_that_it_matches() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        for topic in ["r/1", "r/2", "r/2/x", "s/1", "r"] {
            net.publish(b, message(topic, topic).retained().qos1(1));
        }
        net.publish(b, message("r/3", "not kept"));
        for (name, expected) in [
            ("r/1", vec!["r/1"]),
            ("r/+", vec!["r/1", "r/2"]),
            ("r/#", vec!["r", "r/1", "r/2", "r/2/x"]),
            ("+/1", vec!["r/1", "s/1"]),
            ("r/+/x", vec!["r/2/x"]),
            ("none/#", vec![]),
        ] {
            let a = net.online(connect(version, "a"));
            net.subscribe(a, name, QOS1);
            let expected: Vec<_> = expected.iter().map(|t| ((*t).to_owned(), true)).collect();
            assert_eq!(taken(net, a), expected, "{name}");
        }
    });
}

/// [MQTT5-3.3.1-5] [MQTT5-3.3.1-6] [MQTT5-3.3.1-7] [MQTT311-3.3.1-5] [MQTT311-3.3.1-7] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11]
#[test]
fn a_retained_message_is_replaced_and_cleared() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        let late = |net: &mut Net| {
            let a = net.online(connect(version, "late"));
            net.subscribe(a, "t", QOS2);
            net.settled(a)
        };
        net.publish(b, message("t", "one").retained().qos1(1));
        net.publish(b, message("t", "two").retained());
        assert_eq!(late(net), ["two"]);
        net.publish(b, message("t", "three").retained().qos2(1));
        assert_eq!(late(net), ["three"]);
        assert_eq!(net.census().retained, 1);
        net.publish(b, message("t", "").retained().qos1(1));
        assert_eq!(net.census().retained, 0);
        assert_eq!(late(net), [""; 0]);
        net.publish(b, message("t", "").retained());
        assert_eq!(net.census().retained, 0);
    });
}

/// [MQTT5-3.3.1-6] [MQTT5-3.3.1-7] [MQTT311-3.3.1-10] Current subscribers get the message that clears, as any other.
#[test]
fn the_message_that_clears_is_delivered() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.subscribe(a, "t", QOS1);
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "").retained().qos1(1));
        let got = net.settle(a);
        assert_eq!(payloads(&got), [""]);
        assert!(!got[0].retain);
    });
}

/// [MQTT5-3.3.1-8] [MQTT311-3.3.1-12] RETAIN 0 neither stores nor clears.
#[test]
fn a_message_without_retain_leaves_the_store_alone() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "kept").retained());
        net.publish(b, message("t", "passing"));
        net.publish(b, message("t", ""));
        let a = net.online(connect(version, "a"));
        net.subscribe(a, "t", QOS0);
        assert_eq!(net.settled(a), ["kept"]);
    });
}

/// [MQTT5-3.3.1-12] [MQTT5-3.3.1-13] [MQTT311-3.3.1-9]
#[test]
fn established_subscriptions_get_retain_only_as_published() {
    across(|net| {
        let plain = net.online(v5("plain"));
        net.subscribe(plain, "t", QOS1);
        let old = net.online(v311("old"));
        net.subscribe(old, "t", QOS1);
        let kept = net.online(v5("kept"));
        net.subscribe_with(kept, "t", as_published(QOS1));
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").retained().qos1(1));
        net.publish(b, message("t", "m").qos1(1));
        let flags = |got: Vec<Publish>| got.iter().map(|p| p.retain).collect::<Vec<_>>();
        assert_eq!(flags(net.settle(plain)), [false, false]);
        assert_eq!(flags(net.settle(old)), [false, false]);
        assert_eq!(flags(net.settle(kept)), [true, false]);
    });
}

/// [MQTT5-3.3.1-12] [MQTT5-3.3.1-13] One of several subscriptions is enough.
#[test]
fn overlapping_subscriptions_keep_retain_if_one_of_them_does() {
    across(|net| {
        let a = net.online(v5("a"));
        net.subscribe(a, "t/#", QOS2);
        net.subscribe_with(a, "t/+", as_published(QOS0));
        let b = net.online(v5("b"));
        net.publish(b, message("t/1", "m").retained().qos2(1));
        let got = net.settle(a);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].retain, got[0].qos), (true, QOS2));
    });
}

/// 3.3.1.3: Retain As Published says nothing about messages sent on SUBSCRIBE.
#[test]
fn retained_messages_on_subscribe_always_have_retain_set() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").retained());
        for options in [options(QOS0), as_published(QOS0)] {
            let a = net.online(v5("a"));
            net.subscribe_with(a, "t", options);
            assert!(net.settle(a)[0].retain);
        }
    });
}

/// [MQTT5-3.3.1-9] [MQTT5-3.8.4-4] [MQTT311-3.8.4-3] 0: at every SUBSCRIBE.
#[test]
fn subscribing_again_sends_retained_messages_again() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "m").retained().qos1(1));
        let a = net.online(connect(version, "a"));
        for _ in 0..3 {
            net.subscribe(a, "t", QOS1);
            assert_eq!(net.settled(a), ["m"]);
        }
    });
}

/// [MQTT5-3.3.1-10] [MQTT5-3.3.1-11] 1: only if the subscription is new; 2: never.
#[test]
fn retain_handling_decides_when_retained_messages_are_sent() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").retained().qos1(1));
        let a = net.online(resume(Version::V5, "a"));
        net.subscribe_with(a, "t", handling(QOS1, H::SendIfNew));
        assert_eq!(net.settled(a), ["m"]);
        net.subscribe_with(a, "t", handling(QOS0, H::SendIfNew));
        net.silent(a);
        // The subscription is part of the session.
        net.drop(a);
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.subscribe_with(a, "t", handling(QOS1, H::SendIfNew));
        net.silent(a);
        net.unsuback(a, &["t"]);
        net.subscribe_with(a, "t", handling(QOS1, H::SendIfNew));
        assert_eq!(net.settled(a), ["m"]);
        net.unsuback(a, &["t"]);
        net.subscribe_with(a, "t", handling(QOS1, H::DoNotSend));
        net.silent(a);
        net.publish(b, message("t", "live").qos1(1));
        assert_eq!(net.settled(a), ["live"]);
        // A clean session has none.
        let a = net.online(v5("a"));
        net.subscribe_with(a, "t", handling(QOS1, H::SendIfNew));
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// [MQTT5-3.8.4-8] [MQTT311-3.8.4-6] [MQTT311-3.3.1-5]
#[test]
fn retained_messages_come_at_the_lower_of_both_qos() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        for kept in [QOS0, QOS1, QOS2] {
            let publish = message("t", "m").retained();
            net.publish(
                b,
                match kept {
                    QOS0 => publish,
                    QOS1 => publish.qos1(1),
                    QOS2 => publish.qos2(1),
                },
            );
            for granted in [QOS0, QOS1, QOS2] {
                let a = net.online(connect(version, "a"));
                net.subscribe(a, "t", granted);
                assert_eq!(net.settle(a)[0].qos, kept.min(granted));
            }
        }
    });
}

/// [MQTT5-3.3.4-3] [MQTT5-3.3.2-4] With the identifier of the subscription and the properties of the publisher.
#[test]
fn retained_messages_carry_identifier_and_properties() {
    across(|net| {
        let b = net.online(v5("b"));
        let order = [("b", "1"), ("a", "2")];
        let fields = MessageFields {
            content_type: Some(text("x")),
            user_properties: pairs(&order),
            ..MessageFields::default()
        };
        net.publish(b, message("t", "m").retained().qos1(1).fields(fields.clone()));
        let a = net.online(v5("a"));
        let mut packet = subscribe(&[("t", options(QOS1)), ("+", options(QOS0))]);
        packet.subscription_identifier = Some(9);
        net.suback(a, packet);
        let got = net.settle(a);
        assert_eq!(got.len(), 2, "one for each subscription");
        for publish in got {
            assert_eq!(publish.properties.subscription_identifiers.to_vec(), [9]);
            assert_eq!(publish.properties.message.fields(), fields);
        }
    });
}

/// [MQTT5-3.8.3-3] No Local holds for what the client itself had retained.
#[test]
fn no_local_leaves_out_the_clients_own_retained_messages() {
    across(|net| {
        let a = net.online(v5("a"));
        net.publish(a, message("t/own", "m").retained());
        let b = net.online(v5("b"));
        net.publish(b, message("t/other", "m").retained());
        net.subscribe_with(a, "t/#", no_local(QOS0));
        assert_eq!(taken(net, a), [("t/other".to_owned(), true)]);
    });
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6]
#[test]
fn retained_messages_expire_and_tell_what_is_left() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").retained().expiring(10));
        net.advance(4_000);
        let a = net.online(v5("a"));
        net.subscribe(a, "t", QOS0);
        assert_eq!(net.settle(a)[0].properties.message_expiry_interval_s, Some(6));
        net.advance(6_500);
        assert_eq!(net.census().retained, 0);
        net.subscribe(a, "t", QOS0);
        net.silent(a);
    });
}

/// [MQTT5-3.3.1-5] A replacement takes the expiry of its own.
#[test]
fn a_replacement_forgets_the_old_expiry() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "short").retained().expiring(5));
        net.publish(b, message("t", "long").retained());
        net.advance(60_000);
        assert_eq!(net.census().retained, 1);
        net.publish(b, message("t", "short").retained().expiring(5));
        net.advance(6_000);
        assert_eq!(net.census().retained, 0);
    });
}

/// [MQTT5-3.3.1-9] [MQTT5-3.3.4-9] More than any window or batch, at the pace of the client.
#[test]
fn many_retained_messages_come_once_each() {
    across(|net| {
        let b = net.online(v5("b"));
        for number in 0..500 {
            net.publish(b, message(&format!("many/{number:03}"), "m").retained().qos1(1));
            net.publish(b, message(&format!("other/{number:03}"), "m").retained());
        }
        let tight = v5("a").with(|c| c.properties.receive_maximum = Some(3));
        let a = net.online(tight);
        net.subscribe(a, "many/+", QOS1);
        let got = taken(net, a);
        assert_eq!(got.len(), 500);
        assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "twice the same");
    });
}

/// [MQTT5-3.3.1-9] [MQTT5-4.1.0-1] The subscription is promised its messages, the connection is not.
#[test]
fn retained_messages_go_on_after_a_lost_connection() {
    across(|net| {
        let b = net.online(v5("b"));
        for number in 0..300 {
            net.publish(b, message(&format!("many/{number:03}"), "m").retained().qos1(1));
        }
        let tight = resume(Version::V5, "a").with(|c| c.properties.receive_maximum = Some(1));
        let a = net.online(tight.clone());
        net.send(a, subscribe(&[("many/+", options(QOS1))]));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            net.drop(a);
            let a = net.resumed(tight.clone(), true);
            net.stall(a);
            net.unstall(a);
            seen.extend(net.publishes(a).into_iter().map(|p| p.topic));
            net.drop(a);
        }
        let a = net.resumed(tight, true);
        let got: Vec<_> = net.settle(a).into_iter().map(|p| p.topic).collect();
        assert_eq!(got.len(), got.iter().collect::<std::collections::BTreeSet<_>>().len());
        seen.extend(got);
        assert_eq!(seen.len(), 300);
    });
}

/// [MQTT5-3.3.1-9] Losing the connection while an answer is under way repeats nothing.
#[test]
fn an_answer_to_the_last_connection_is_not_taken_twice() {
    across(|net| {
        let b = net.online(v5("b"));
        for number in 0..100 {
            net.publish(b, message(&format!("many/{number:03}"), "m").retained().qos1(1));
        }
        let home = net.slots.home_of(b"a").0;
        let a = net.online(resume(Version::V5, "a"));
        net.send(a, subscribe(&[("many/+", options(QOS1))]));
        let mut last = a;
        for _ in 0..3 {
            last = net.connect_pipelined(home, resume(Version::V5, "a"));
        }
        net.run();
        net.connack(last);
        let got: Vec<_> = net.settle(last).into_iter().map(|p| p.topic).collect();
        assert_eq!(got.len(), 100);
    });
}

/// [MQTT5-4.6.0-5] A live message is newer than any retained one that comes after it.
#[test]
fn an_old_retained_message_does_not_follow_a_new_one() {
    across(|net| {
        for number in 0..10 {
            let topic = format!("t/{number}");
            let b = net.online(v5("b"));
            net.publish(b, message(&topic, "old").retained().qos1(1));
            let a = net.online(v5("a"));
            net.send(a, subscribe(&[(&topic, options(QOS1))]));
            net.send(b, message(&topic, "new").retained().qos1(2));
            net.run();
            net.take(a, |packet| matches!(packet, petrel_proto::Packet::SubAck(_)));
            let got = net.settled(a);
            assert_eq!(got.last().map(String::as_str), Some("new"), "{got:?}");
        }
    });
}

/// [MQTT5-4.6.0-5] What waits in the session's queue is older than a live message too.
#[test]
fn an_old_retained_message_leaves_the_queue_when_a_new_one_passes_it() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "old").retained().qos1(1));
        let a = net.online(v5("a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "full", QOS1);
        net.publish(b, message("full", "window").qos1(2));
        let window = net.publishes(a).remove(0);
        net.subscribe(a, "t", QOS1);
        net.publish(b, message("t", "new").retained());
        net.send(a, puback(window.packet_id.map_or(0, PacketId::get)));
        assert_eq!(net.settled(a), ["new"]);
    });
}

/// [MQTT5-3.10.4-2] An UNSUBSCRIBE ends what a subscription still waits for.
#[test]
fn unsubscribing_stops_the_retained_messages() {
    across(|net| {
        let b = net.online(v5("b"));
        for number in 0..300 {
            net.publish(b, message(&format!("many/{number:03}"), "m").retained().qos1(1));
        }
        let a = net.online(v5("a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "many/+", QOS1);
        net.unsuback(a, &["many/+"]);
        assert!(net.settle(a).len() < 300);
    });
}

/// 3.2.2.3.5: where there are none, SUBSCRIBE finds none.
#[test]
fn a_server_without_retained_messages_still_takes_subscriptions() {
    across_with(
        |limits| limits.retain_available = false,
        |net| {
            let a = net.online(v5("a"));
            net.subscribe_with(a, "t", as_published(QOS1));
            net.publish(a, message("t", "m"));
            assert_eq!(net.settled(a), ["m"]);
        },
    );
}

/// [MQTT311-3.1.2-7] [MQTT311-3.3.1-6] A retained message outlives whoever published it.
#[test]
fn retained_messages_are_no_part_of_a_session() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t", "m").retained());
        net.drop(b);
        let a = net.online(connect(version, "a"));
        net.subscribe(a, "t", QOS0);
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// Clients that read slowly and want thousands of retained messages: an input leads to one answer of 32
/// messages at most, each client has three of them, and what others get meanwhile comes with its own input.
#[test]
fn slow_readers_of_retained_messages_delay_others_by_one_answer() {
    const SLOW: usize = 20;
    let mut net = Net::new(1);
    let b = net.online(v5("b"));
    for number in 0..2_000 {
        net.publish(b, message(&format!("many/{number:04}"), "m").retained().qos1(1));
    }
    let other = net.online(v5("other"));
    net.subscribe(other, "live", QOS1);
    let slow: Vec<Client> = (0..SLOW)
        .map(|at| {
            let connect = v5(&format!("slow{at}"));
            net.online(connect.with(|c| c.properties.receive_maximum = Some(1)))
        })
        .collect();
    net.retained_asked = 0;
    for (at, &client) in slow.iter().enumerate() {
        net.send(client, subscribe(&[("many/#", options(QOS1))]));
        assert_eq!(net.retained_asked, at + 1, "one question with each subscription");
    }
    let (mut turns, mut queued) = (0, 0);
    while net.pop(0, 0) {
        turns += 1;
        let more = net.census().queued_messages - queued;
        assert!(more <= 32, "{more} messages in one turn");
        assert!(net.retained_asked <= SLOW + turns, "more than one question in a turn");
        queued += more;
        net.send(b, message("live", "m").qos1(1));
        assert_eq!((net.unread(other), net.unread(b)), (turns, turns), "in its own turn");
    }
    assert_eq!((turns, net.retained_asked), (3 * SLOW, 3 * SLOW));
    assert_eq!(queued, SLOW * (3 * 32 - 1));
    // A client that goes on is asked for when less than 64 wait for it.
    for step in 1..=32 {
        let packet = net.take(slow[0], |packet| matches!(packet, petrel_proto::Packet::Publish(_)));
        let Some(petrel_proto::Packet::Publish(publish)) = packet else { panic!("{packet:?}") };
        net.send(slow[0], puback(publish.packet_id.map_or(0, PacketId::get)));
        assert_eq!(net.retained_asked, 3 * SLOW + usize::from(step == 32), "{step}");
    }
    assert!(net.pop(0, 0) && !net.pop(0, 0));
    net.received(b);
    net.settle(other);
}
