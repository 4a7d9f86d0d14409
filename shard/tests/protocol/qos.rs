//! Delivery protocols, retransmission and order: sections 4.3 to 4.6.

use petrel_proto::{Ack, Packet, Publish, ReasonCode as R, Version};

use crate::harness::{Client, Net, across, across_with, versions};
use crate::packets::*;

/// A receiver whose session stays, subscribed to `t/#`, and a publisher.
fn pair(net: &mut Net, version: Version) -> (Client, Client) {
    let a = net.online(resume(version, "a"));
    net.subscribe(a, "t/#", QOS2);
    (a, net.online(connect(version, "b")))
}

/// The one PUBLISH that came.
fn one(net: &mut Net, client: Client) -> Publish {
    let mut publishes = net.publishes(client);
    assert_eq!(publishes.len(), 1, "{publishes:?}");
    publishes.remove(0)
}

fn id_of(publish: &Publish) -> u16 {
    publish.packet_id.unwrap().get()
}

/// [MQTT5-4.3.2-4] [MQTT5-3.3.4-1] [MQTT5-2.2.1-5] [MQTT311-4.3.2-2] [MQTT311-3.3.4-1] [MQTT311-2.3.1-6]
#[test]
fn a_qos_1_publish_is_answered_with_puback_of_its_identifier() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        for id in [1, 2, 65_535] {
            net.send(b, message("t/1", "m").qos1(id));
            net.run();
            assert_eq!(net.received(b), [puback(id)]);
        }
        assert_eq!(net.settled(a).len(), 3);
    });
}

/// [MQTT5-4.3.2-5] [MQTT311-4.3.2-2]
#[test]
fn after_puback_the_same_identifier_is_a_new_message() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "one").qos1(1));
        net.publish(b, message("t/1", "two").qos1(1).duplicate());
        assert_eq!(net.settled(a), ["one", "two"]);
    });
}

/// [MQTT5-4.3.3-8] [MQTT5-4.3.3-11] [MQTT5-2.2.1-5] [MQTT5-3.3.4-1] [MQTT311-4.3.3-2]
/// [MQTT311-2.3.1-6] [MQTT311-3.3.4-1]
#[test]
fn a_qos_2_publish_is_answered_with_pubrec_and_pubcomp() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.send(b, message("t/1", "m").qos2(9));
        net.run();
        assert_eq!(net.received(b), [pubrec(9)]);
        net.send(b, pubrel(9));
        assert_eq!(net.received(b), [pubcomp(9)]);
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// [MQTT5-4.3.3-10] [MQTT5-4.3.3-12] [MQTT311-4.3.3-2]
#[test]
fn a_repeated_qos_2_publish_is_answered_every_time_and_delivered_once() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        for attempt in 0..4 {
            let publish = message("t/1", "m").qos2(9);
            net.send(b, if attempt > 0 { publish.duplicate() } else { publish });
            net.run();
            let answer = net.received(b);
            assert!(matches!(answer.as_slice(), [Packet::PubRec(ack)] if ack.packet_id == id(9)));
        }
        net.send(b, pubrel(9));
        assert_eq!(net.received(b), [pubcomp(9)]);
        assert_eq!(net.settled(a), ["m"]);
        net.publish(b, message("t/1", "again").qos2(9));
        assert_eq!(net.settled(a), ["again"]);
    });
}

/// [MQTT5-4.3.3-11] [MQTT5-3.7.2-1] [MQTT311-4.3.3-2] Always an answer; in MQTT 5 it says that
/// there was nothing.
#[test]
fn pubrel_of_an_unknown_identifier_is_completed() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        let told = if version.is_v5() { R::PacketIdentifierNotFound } else { R::Success };
        for _ in 0..2 {
            net.send(a, pubrel(5));
            assert_eq!(net.received(a), [Packet::PubComp(Ack::new(id(5), told))]);
        }
    });
}

/// [MQTT5-4.3.3-10] [MQTT5-4.1.0-1] [MQTT311-4.3.3-2] [MQTT311-4.1.0-1]
#[test]
fn a_received_qos_2_identifier_outlives_the_connection() {
    versions(|net, version| {
        let (a, _) = pair(net, version);
        let b = net.online(resume(version, "c"));
        net.send(b, message("t/1", "m").qos2(9));
        net.drop(b);
        let b = net.resumed(resume(version, "c"), true);
        net.send(b, message("t/1", "m").qos2(9).duplicate());
        net.run();
        assert_eq!(net.received(b), [pubrec(9)]);
        net.drop(b);
        let b = net.resumed(resume(version, "c"), true);
        net.send(b, pubrel(9));
        assert_eq!(net.received(b), [pubcomp(9)]);
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// [MQTT5-4.1.0-1] A clean start forgets what was received.
#[test]
fn a_clean_start_forgets_received_qos_2_identifiers() {
    versions(|net, version| {
        let (a, _) = pair(net, version);
        let b = net.online(resume(version, "c"));
        net.send(b, message("t/1", "one").qos2(9));
        net.drop(b);
        let b = net.resumed(connect(version, "c"), false);
        net.send(b, message("t/1", "two").qos2(9));
        net.run();
        net.received(b);
        assert_eq!(net.settled(a), ["one", "two"]);
    });
}

/// [MQTT5-4.3.2-1] [MQTT5-4.3.2-2] [MQTT5-4.3.2-3] [MQTT311-4.3.2-1]
#[test]
fn qos_1_messages_go_out_with_an_identifier_until_they_are_acknowledged() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "m").qos1(1));
        let got = one(net, a);
        assert_eq!((got.qos, got.dup), (QOS1, false));
        assert_eq!(net.census().inflight, 1);
        net.advance(100_000);
        net.silent(a);
        net.send(a, puback(id_of(&got)));
        assert_eq!(net.census().inflight, 0);
        net.silent(a);
    });
}

/// [MQTT5-4.3.3-1] [MQTT5-4.3.3-2] [MQTT5-4.3.3-3] [MQTT5-4.3.3-4] [MQTT5-4.3.3-5]
/// [MQTT311-4.3.3-1]
#[test]
fn qos_2_messages_go_out_in_four_steps() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "m").qos2(1));
        let got = one(net, a);
        assert_eq!((got.qos, got.dup), (QOS2, false));
        let id = id_of(&got);
        net.send(a, pubrec(id));
        assert_eq!(net.received(a), [pubrel(id)]);
        assert_eq!(net.census().inflight, 1);
        net.send(a, pubcomp(id));
        net.silent(a);
        assert_eq!(net.census().inflight, 0);
    });
}

/// [MQTT5-4.4.0-1] [MQTT5-4.6.0-1] [MQTT5-3.3.1-1] [MQTT311-4.4.0-1] [MQTT311-4.6.0-1] [MQTT311-3.3.1-1]
#[test]
fn unacknowledged_messages_come_again_in_order_with_dup_and_their_identifiers() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        for (number, payload) in ["one", "two", "three", "four"].into_iter().enumerate() {
            let publish = message("t/1", payload);
            let id = number as u16 + 1;
            net.publish(b, if number % 2 == 0 { publish.qos1(id) } else { publish.qos2(id) });
        }
        let first = net.publishes(a);
        net.drop(a);
        let a = net.resumed(resume(version, "a"), true);
        let again = net.publishes(a);
        assert_eq!(payloads(&again), ["one", "two", "three", "four"]);
        for (first, again) in first.iter().zip(&again) {
            assert_eq!((first.packet_id, first.qos), (again.packet_id, again.qos));
            assert!(!first.dup && again.dup);
        }
        assert_eq!(net.census().inflight, 4);
    });
}

/// [MQTT5-4.4.0-1] [MQTT5-4.3.3-5] [MQTT5-4.3.3-6] [MQTT311-4.4.0-1] At each stage of QoS 2.
#[test]
fn a_qos_2_delivery_goes_on_where_it_stood() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "m").qos2(1));
        let id = id_of(&one(net, a));
        net.drop(a);
        // PUBLISH again, as PUBREC never came.
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(id_of(&one(net, a)), id);
        net.send(a, pubrec(id));
        assert_eq!(net.received(a), [pubrel(id)]);
        // PUBREL again and nothing else, as PUBCOMP never came; also when taken over.
        for _ in 0..2 {
            let a = net.resumed(resume(version, "a"), true);
            assert_eq!(net.received(a), [pubrel(id)]);
        }
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(net.received(a), [pubrel(id)]);
        net.send(a, pubcomp(id));
        let a = net.resumed(resume(version, "a"), true);
        net.silent(a);
    });
}

/// [MQTT5-4.3.3-4] [MQTT5-4.3.3-6] [MQTT5-3.6.2-1] A second PUBREC gets a second PUBREL, never the
/// message.
#[test]
fn a_repeated_pubrec_is_released_again() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "m").qos2(1));
        let id = id_of(&one(net, a));
        for _ in 0..3 {
            net.send(a, pubrec(id));
            assert_eq!(net.received(a), [pubrel(id)]);
        }
        net.send(a, pubcomp(id));
        let told = if version.is_v5() { R::PacketIdentifierNotFound } else { R::Success };
        net.send(a, pubrec(id));
        assert_eq!(net.received(a), [Packet::PubRel(Ack::new(crate::packets::id(id), told))]);
    });
}

/// [MQTT5-4.4.0-2] [MQTT5-4.3.3-3] [MQTT5-4.3.2-3] [MQTT5-4.9.0-2]
#[test]
fn an_acknowledgement_with_an_error_ends_the_delivery() {
    across(|net| {
        let a =
            net.online(resume(Version::V5, "a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "t/#", QOS2);
        let b = net.online(v5("b"));
        net.publish(b, message("t/1", "one").qos2(1));
        net.publish(b, message("t/1", "two").qos1(2));
        net.publish(b, message("t/1", "three").qos1(3));
        let got = one(net, a);
        let refused = Ack::new(got.packet_id.unwrap(), R::QuotaExceeded);
        net.send(a, Packet::PubRec(refused));
        let got = one(net, a);
        assert_eq!(payloads(std::slice::from_ref(&got)), ["two"]);
        net.send(a, Packet::PubAck(Ack::new(got.packet_id.unwrap(), R::PayloadFormatInvalid)));
        let got = one(net, a);
        assert_eq!(payloads(std::slice::from_ref(&got)), ["three"]);
        net.send(a, puback(id_of(&got)));
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.silent(a);
    });
}

/// [MQTT5-4.3.3-9] A refused QoS 2 message frees its identifier.
#[test]
fn after_a_pubrec_with_an_error_the_identifier_is_new() {
    across(|net| {
        let (a, b) = pair(net, Version::V5);
        net.send(b, message("$SYS/x", "no").qos2(1));
        let refused = Packet::PubRec(Ack::new(id(1), R::NotAuthorized));
        assert_eq!(net.received(b), [refused]);
        net.publish(b, message("t/1", "yes").qos2(1));
        assert_eq!(net.settled(a), ["yes"]);
    });
}

/// [MQTT5-4.13.1-1] 4.3: an answer to another question.
#[test]
fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
    versions(|net, version| {
        type Answer = fn(u16) -> Packet;
        let wrong: [(bool, Answer); 4] =
            [(false, pubrec), (false, pubcomp), (true, puback), (true, pubcomp)];
        for (exactly_once, answer) in wrong {
            let (a, b) = pair(net, version);
            let publish = message("t/1", "m");
            net.publish(b, if exactly_once { publish.qos2(1) } else { publish.qos1(1) });
            let id = id_of(&one(net, a));
            net.send(a, answer(id));
            net.ended(a, R::ProtocolError);
            net.online(connect(version, "a"));
        }
    });
}

/// An acknowledgement that comes twice, as after a retransmission, does no harm.
#[test]
fn an_acknowledgement_of_something_unknown_is_ignored() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.send(a, puback(77));
        net.send(a, pubcomp(77));
        assert!(net.is_open(a));
        net.silent(a);
    });
}

/// [MQTT5-2.2.1-4] [MQTT5-4.3.2-1] [MQTT311-2.3.1-4] The clients of these tests hold it for every
/// packet.
#[test]
fn packet_identifiers_in_use_are_skipped() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "held").qos1(1));
        let held = id_of(&one(net, a));
        for _ in 0..65_540u32 {
            net.send(b, message("t/1", "m").qos1(1));
            net.run();
            let id = id_of(&one(net, a));
            assert_ne!(id, held);
            net.send(a, puback(id));
            net.received(b);
        }
        net.send(a, puback(held));
    });
}

/// [MQTT5-2.2.1-4] A client that never completes anything runs the broker out of identifiers.
#[test]
fn with_all_identifiers_in_use_messages_wait() {
    let mut net = Net::with(1, |limits| limits.outgoing_inflight_maximum = u16::MAX);
    let (a, b) = pair(&mut net, Version::V5);
    for _ in 0..u16::MAX {
        net.send(b, message("t/1", "m").qos2(1));
        net.send(b, pubrel(1));
    }
    let ids: Vec<u16> = net.publishes(a).iter().map(id_of).collect();
    assert_eq!(ids.len(), 65_535);
    for &id in &ids {
        net.send(a, pubrec(id));
    }
    // Released messages do not count against the window of the next connection.
    let a = net.resumed(resume(Version::V5, "a"), true);
    assert_eq!(net.received(a).len(), 65_535);
    for payload in ["one", "two"] {
        net.publish(b, message("t/1", payload).qos1(2));
        net.silent(a);
    }
    assert_eq!(net.census().queued_messages, 2);
    net.send(a, pubcomp(ids[7]));
    let got = one(&mut net, a);
    assert_eq!((id_of(&got), &got.payload[..]), (ids[7], &b"one"[..]));
    net.received(b);
}

/// [MQTT5-2.2.1-4] [MQTT311-2.3.1-4] Nor after a resume, before the old ones are finished.
#[test]
fn identifiers_are_not_reused_after_a_resume() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.publish(b, message("t/1", "one").qos2(1));
        net.publish(b, message("t/1", "two").qos1(2));
        let got = net.publishes(a);
        net.send(a, pubrec(id_of(&got[0])));
        net.drop(a);
        net.publish(b, message("t/1", "three").qos1(3));
        let a = net.resumed(resume(version, "a"), true);
        net.publish(b, message("t/1", "four").qos2(4));
        let received = net.received(a);
        assert_eq!(received.first(), Some(&pubrel(id_of(&got[0]))));
        let ids: Vec<_> = received
            .iter()
            .filter_map(|packet| match packet {
                Packet::Publish(publish) => publish.packet_id,
                _ => None,
            })
            .collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids[0].get(), id_of(&got[1]));
        assert!(!ids[1..].iter().any(|id| got.iter().any(|old| old.packet_id == Some(*id))));
    });
}

/// [MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6] Through a window of one.
#[test]
fn messages_keep_their_order_per_topic_and_qos() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        let mut sent = Vec::new();
        for number in 0..200u16 {
            let payload = format!("{number}");
            net.send(b, message("t/1", &payload).qos1(number + 1));
            sent.push(payload);
            if number == 100 {
                net.run();
                net.drop(a);
            }
        }
        net.run();
        let a = net.resumed(resume(version, "a"), true);
        for number in 200..300u16 {
            let payload = format!("{number}");
            net.send(b, message("t/1", &payload).qos1(number + 1));
            sent.push(payload);
        }
        assert_eq!(net.settled(a), sent);
    });
}

/// [MQTT5-4.6.0-2] [MQTT5-4.6.0-3] [MQTT5-4.6.0-4] [MQTT311-4.6.0-2] [MQTT311-4.6.0-3] [MQTT311-4.6.0-4]
#[test]
fn answers_come_in_the_order_of_the_questions() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        for id in [5, 3, 9] {
            net.send(a, message("t", "m").qos1(id));
        }
        for id in [8, 2, 6] {
            net.send(a, message("t", "m").qos2(id));
        }
        for id in [8, 2, 6] {
            net.send(a, pubrel(id));
        }
        net.run();
        let order: Vec<_> = net
            .received(a)
            .into_iter()
            .map(|packet| match packet {
                Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => {
                    ack.packet_id.get()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, [5, 3, 9, 8, 2, 6, 8, 2, 6]);
    });
}

/// [MQTT5-4.6.0-4] [MQTT311-4.6.0-4] PUBREL in the order of PUBREC.
#[test]
fn releases_come_in_the_order_of_the_receipts() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        for id in 1..=3 {
            net.publish(b, message("t/1", "m").qos2(id));
        }
        let got = net.publishes(a);
        for publish in &got {
            net.send(a, pubrec(id_of(publish)));
        }
        let released = net.received(a);
        let expected: Vec<_> = got.iter().map(|publish| pubrel(id_of(publish))).collect();
        assert_eq!(released, expected);
    });
}

/// [MQTT5-4.5.0-1] [MQTT311-4.5.0-1] Every subscription counts from its SUBACK on.
#[test]
fn a_message_published_after_suback_is_never_missed() {
    versions(|net, version| {
        for number in 0..20 {
            let a = net.online(connect(version, &format!("a{number}")));
            let b = net.online(connect(version, &format!("b{number}")));
            let topic = format!("t/{number}");
            net.send(a, subscribe(&[(&topic, options(QOS1))]));
            assert!(matches!(net.next(a), Some(Packet::SubAck(_))), "no SUBACK in its turn");
            net.send(b, message(&topic, "m").qos1(1));
            net.run();
            assert_eq!(net.settled(a), ["m"]);
        }
    });
}

/// [MQTT5-4.5.0-1] [MQTT5-4.6.0-5] [MQTT311-4.5.0-1] [MQTT311-4.6.0-6]
#[test]
fn the_receivers_share_one_order_of_one_publisher() {
    across(|net| {
        let receivers: Vec<_> = (0..6)
            .map(|number| {
                let client = net.online(v5(&format!("r{number}")));
                net.subscribe(client, "t", QOS2);
                client
            })
            .collect();
        let b = net.online(v5("b"));
        for id in 1..=50 {
            let publish = message("t", &format!("{id}")).qos2(id);
            net.send(b, publish);
        }
        let expected: Vec<_> = (1..=50).map(|id| format!("{id}")).collect();
        for receiver in receivers {
            assert_eq!(net.settled(receiver), expected);
        }
    });
}

/// [MQTT311-3.1.2-5] QoS 0 messages for a client that is away are not kept.
#[test]
fn qos_0_messages_do_not_wait_for_a_client_that_is_away() {
    versions(|net, version| {
        let (a, b) = pair(net, version);
        net.drop(a);
        net.publish(b, message("t/1", "zero"));
        net.publish(b, message("t/1", "one").qos1(1));
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(net.settled(a), ["one"]);
    });
}

/// [MQTT5-4.4.0-1] [MQTT311-4.4.0-1] A smaller window than when they were sent.
#[test]
fn retransmission_respects_a_smaller_receive_maximum() {
    across(|net| {
        let (a, b) = pair(net, Version::V5);
        for id in 1..=6 {
            let publish = message("t/1", &format!("{id}"));
            net.publish(b, if id % 2 == 0 { publish.qos1(id) } else { publish.qos2(id) });
        }
        let got = net.publishes(a);
        net.send(a, pubrec(id_of(&got[2])));
        net.drop(a);
        let tight = resume(Version::V5, "a").with(|c| c.properties.receive_maximum = Some(1));
        let a = net.resumed(tight, true);
        let mut received = net.received(a);
        // What is released may come before or after what is published again.
        if received[0] == pubrel(id_of(&got[2])) {
            received.remove(0);
            net.send(a, pubcomp(id_of(&got[2])));
        }
        assert!(matches!(received.as_slice(), [Packet::Publish(_)]), "{received:?}");
        let Packet::Publish(first) = &received[0] else { unreachable!() };
        assert_eq!(payloads(std::slice::from_ref(first)), ["1"]);
        net.publish(b, message("t/1", "7").qos1(7));
        net.send(a, pubrec(id_of(first)));
        assert_eq!(net.received(a), [pubrel(id_of(first))]);
        net.send(a, pubcomp(id_of(first)));
        let rest = net.settled(a);
        assert_eq!(rest, ["2", "4", "5", "6", "7"]);
    });
}

/// [MQTT5-4.4.0-1] What the new connection cannot take is not sent to it ([MQTT5-3.1.2-25]).
#[test]
fn retransmission_leaves_out_what_has_become_too_large() {
    across(|net| {
        let (a, b) = pair(net, Version::V5);
        net.publish(b, message("t/1", &"x".repeat(500)).qos1(1));
        net.publish(b, message("t/1", "small").qos1(2));
        net.received(a);
        net.drop(a);
        let tight = resume(Version::V5, "a").with(|c| c.properties.maximum_packet_size = Some(100));
        let a = net.resumed(tight, true);
        assert_eq!(net.settled(a), ["small"]);
        assert_eq!(net.census().inflight, 0);
    });
}

/// [MQTT5-4.3.3-10] Takeover in the middle of a reception.
#[test]
fn a_takeover_keeps_the_receipts_of_the_old_connection() {
    across_with(
        |limits| limits.receive_maximum = 2,
        |net| {
            let (a, _) = pair(net, Version::V5);
            let c = net.online(resume(Version::V5, "c"));
            net.send(c, message("t/1", "one").qos2(1));
            net.send(c, message("t/1", "two").qos2(2));
            net.run();
            let c = net.resumed(resume(Version::V5, "c"), true);
            net.send(c, message("t/1", "one").qos2(1).duplicate());
            net.send(c, message("t/1", "two").qos2(2).duplicate());
            net.send(c, pubrel(1));
            net.send(c, message("t/1", "three").qos2(3));
            net.run();
            assert_eq!(net.received(c), [pubrec(1), pubrec(2), pubcomp(1), pubrec(3)]);
            assert_eq!(net.settled(a), ["one", "two", "three"]);
        },
    );
}
