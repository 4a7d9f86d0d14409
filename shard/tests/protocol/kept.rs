//! What is promised when records are kept, and when they are not yet.

use petrel_proto::{Ack, Packet, PacketId, Qos, ReasonCode as R, Will};
use petrel_shard::Input;
use petrel_shard::config::QueueFull;
use petrel_shard::event::DropReason;

use crate::harness::{Net, across_with};
use crate::packets::*;

/// A shard whose records are kept when the test says so, a subscriber whose session is kept, and a
/// publisher.
fn slow() -> (Net, crate::harness::Client, crate::harness::Client) {
    let mut net = Net::keeping(1, true, |_| {});
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "t", Qos::ExactlyOnce);
    let b = net.online(resume(petrel_proto::Version::V5, "b"));
    (net, a, b)
}

/// [MQTT5-4.3.2-4] A PUBACK says that the message is kept for everybody whose session is.
#[test]
fn a_puback_waits_until_the_message_is_kept() {
    let (mut net, a, b) = slow();
    net.send(b, message("t", "one").qos1(1));
    assert_eq!(net.unread(b), 0);
    assert_eq!(net.unread(a), 1, "QoS 1 may come twice, so it need not wait");
    net.run();
    assert_eq!(net.received(b), [puback(1)]);
    assert_eq!(net.settled(a), ["one"]);
    // Nobody whose session is kept wants this.
    net.send(b, message("other", "two").qos1(2));
    assert_eq!(net.unread(b), 1);
    net.received(b);
}

/// [MQTT5-4.3.3-8] [MQTT5-4.3.3-4] [MQTT5-4.3.3-11] Each step of QoS 2 waits for the record of the one before.
#[test]
fn every_step_of_qos_2_waits_until_it_is_kept() {
    let (mut net, a, b) = slow();
    net.send(b, message("t", "one").qos2(1));
    assert_eq!((net.unread(a), net.unread(b)), (0, 0));
    // First that it waits for the subscriber, then that it was received.
    net.keep_one();
    assert_eq!((net.unread(a), net.unread(b)), (0, 0));
    net.keep_one();
    assert_eq!((net.unread(a), net.unread(b)), (1, 1));
    let got = net.publishes(a);
    assert_eq!(net.received(b), [pubrec(1)]);
    let id = got[0].packet_id.unwrap().get();
    net.send(a, pubrec(id));
    net.send(b, pubrel(1));
    assert_eq!((net.unread(a), net.unread(b)), (0, 0));
    net.run();
    assert_eq!((net.received(a), net.received(b)), (vec![pubrel(id)], vec![pubcomp(1)]));
    net.send(a, pubcomp(id));
}

/// [MQTT5-3.8.4-1] [MQTT5-3.10.4-4]
#[test]
fn a_subscription_is_acknowledged_when_it_is_kept() {
    let (mut net, a, _) = slow();
    net.send(a, subscribe(&[("u", options(Qos::AtLeastOnce))]));
    assert_eq!(net.unread(a), 0);
    net.run();
    assert!(matches!(net.received(a)[..], [Packet::SubAck(_)]));
    net.send(a, unsubscribe(&["u"]));
    assert_eq!(net.unread(a), 0);
    net.run();
    assert!(matches!(net.received(a)[..], [Packet::UnsubAck(_)]));
}

/// [MQTT5-3.1.2-4] [MQTT5-3.2.0-1] A session that is discarded must not come back, so CONNACK waits; what
/// the client sends meanwhile is handled after it ([MQTT5-3.1.4-6]).
#[test]
fn a_connack_that_discards_a_session_waits_until_that_is_kept() {
    let (mut net, a, _) = slow();
    net.drop(a);
    let clean = resume(petrel_proto::Version::V5, "a").with(|c| c.clean_start = true);
    let a = net.connect_pipelined(0, clean);
    net.send(a, Packet::PingReq);
    net.send(a, subscribe(&[("u", options(Qos::AtLeastOnce))]));
    assert_eq!(net.unread(a), 0);
    let got = net.received(a);
    assert!(
        matches!(
            &got[..],
            [Packet::ConnAck(ack), Packet::PingResp, Packet::SubAck(_)]
                if ack.reason == R::Success && !ack.session_present
        ),
        "{got:?}"
    );
}

/// A client that goes while its CONNACK waits leaves nothing behind.
#[test]
fn a_client_may_go_while_its_connack_waits() {
    let (mut net, a, _) = slow();
    net.drop(a);
    let clean = resume(petrel_proto::Version::V5, "a").with(|c| c.clean_start = true);
    let a = net.connect_pipelined(0, clean);
    assert_eq!(net.unread(a), 0);
    net.drop(a);
    assert_eq!(net.census().promises, 0);
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.received(a);
}

/// More waits for a client that is away than stays in memory: all of it comes, in order.
#[test]
fn a_long_queue_comes_back_in_order() {
    across_with(
        |_| {},
        |net| {
            let a = net.online(resume(petrel_proto::Version::V5, "a"));
            net.subscribe(a, "t", Qos::ExactlyOnce);
            let b = net.online(v5("b"));
            let mut expected = Vec::new();
            for number in 0..300u16 {
                if number == 20 {
                    net.drop(a);
                }
                let text = format!("{number}");
                let publish = message("t", &text);
                net.publish(b, if number % 3 == 0 { publish.qos2(1) } else { publish.qos1(1) });
                if number % 3 == 0 {
                    net.send(b, pubrel(1));
                    net.run();
                    net.received(b);
                }
                expected.push(text);
            }
            let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
            assert_eq!(net.settled(a), expected);
        },
    );
}

/// What waits for nothing but the disk would be in flight by now, and counts as if it were.
#[test]
fn what_waits_for_its_record_is_not_one_too_many() {
    let mut net = Net::keeping(1, true, |limits| {
        limits.session_queue_messages = 0;
        limits.outgoing_inflight_maximum = 30;
    });
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "t", Qos::ExactlyOnce);
    let b = net.online(resume(petrel_proto::Version::V5, "b"));
    for number in 1..=40 {
        net.send(b, message("t", &number.to_string()).qos2(number));
    }
    net.run();
    let expected: Vec<String> = (1..=30).map(|number: u16| number.to_string()).collect();
    let got: Vec<String> = net.settled(a);
    assert_eq!(got, expected);
    assert_eq!(net.dropped(DropReason::QueueFull), 10);
}

/// The bound of a queue holds for what is not in memory too, by either policy.
#[test]
fn a_long_queue_keeps_its_bound() {
    for (policy, first) in [(QueueFull::DropNewest, 0), (QueueFull::DropOldest, 40)] {
        across_with(
            |limits| {
                limits.session_queue_messages = 10;
                limits.session_queue_full = policy;
            },
            |net| {
                let a = net.online(resume(petrel_proto::Version::V5, "a"));
                net.subscribe(a, "t", Qos::AtLeastOnce);
                let b = net.online(v5("b"));
                net.drop(a);
                for number in 0..50u16 {
                    net.publish(b, message("t", &format!("{number}")).qos1(1));
                }
                net.received(b);
                assert_eq!(net.census().queued_messages, 10);
                let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
                let expected: Vec<_> = (first..first + 10).map(|n| n.to_string()).collect();
                assert_eq!(net.settled(a), expected, "{policy:?}");
            },
        );
    }
}

/// What a slow reader does not take stays where it is kept, and comes when it reads again.
#[test]
fn a_slow_reader_gets_all_of_a_long_queue() {
    across_with(
        |limits| limits.outgoing_inflight_maximum = 5,
        |net| {
            let a = net.online(resume(petrel_proto::Version::V5, "a"));
            net.subscribe(a, "t", Qos::AtLeastOnce);
            let b = net.online(v5("b"));
            for number in 0..400u16 {
                net.publish(b, message("t", &format!("{number}")).qos1(1));
                net.received(b);
            }
            let expected: Vec<_> = (0..400).map(|number| number.to_string()).collect();
            assert_eq!(net.settled(a), expected);
        },
    );
}

/// An answer that comes after the client has gone and come back is not taken for another.
#[test]
fn a_late_answer_is_not_taken() {
    let (mut net, a, b) = slow();
    net.drop(a);
    for number in 0..100u16 {
        net.publish(b, message("t", &format!("{number}")).qos1(1));
    }
    net.received(b);
    let a = net.connect_pipelined(0, resume(petrel_proto::Version::V5, "a"));
    let asked = net.take_load().expect("it asks for what waits");
    net.drop_quietly(a);
    let a = net.connect_pipelined(0, resume(petrel_proto::Version::V5, "a"));
    let late = net.answer(asked);
    net.handle_on(0, Input::Loaded(Box::new(late)));
    let expected: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    net.run();
    assert!(matches!(net.next(a), Some(Packet::ConnAck(_))));
    assert_eq!(net.settled(a), expected);
}

/// [MQTT5-3.3.1-9] A SUBACK promises the retained messages; the end of the process does not break that.
/// What had come already may come again.
#[test]
fn retained_messages_go_on_after_a_restart() {
    for shards in [1, 3] {
        let mut net = Net::keeping(shards, true, |_| {});
        let b = net.online(v5("b"));
        let topics: Vec<_> = (0..300).map(|number| format!("many/{number:03}")).collect();
        for topic in &topics {
            net.publish(b, message(topic, "m").retained().qos1(1));
        }
        let one = || {
            resume(petrel_proto::Version::V5, "a").with(|c| c.properties.receive_maximum = Some(1))
        };
        let a = net.online(one());
        net.send(a, subscribe(&[("many/+", options(Qos::AtLeastOnce))]));
        net.run();
        net.stall(a);
        net.restart();
        let a = net.resumed(one(), true);
        let mut got: Vec<_> =
            net.settle(a).iter().map(|p| p.topic.text().as_str().to_owned()).collect();
        got.sort();
        got.dedup();
        assert_eq!(got, topics);
        // All of them have come, so nothing is to be sent again.
        net.restart();
        let a = net.resumed(one(), true);
        net.silent(a);
    }
}

/// Of two sessions of one client the later one counts, and no will of the other is lost
/// ([MQTT5-3.1.2-8]).
#[test]
fn a_session_that_gives_way_after_a_restart_leaves_its_wills() {
    let mut net = Net::keeping(1, true, |_| {});
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "w", Qos::AtLeastOnce);
    net.find_after_restart(|session| {
        let of = |payload| Will { qos: Qos::AtLeastOnce, ..*will("w", payload) };
        session.leaving = vec![of("published before")];
        session.will = Some(Box::new(of("not yet")));
        session.will_at_ms = u64::MAX;
    });
    net.restart();
    let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
    assert_eq!(net.settled(a), ["published before", "not yet"]);
}

/// [MQTT5-3.10.4-2] Nor is it forgotten that the client wants no more of them.
#[test]
fn a_restart_sends_no_retained_messages_that_nobody_waits_for() {
    let mut net = Net::keeping(1, true, |_| {});
    let b = net.online(v5("b"));
    for number in 0..300 {
        net.publish(b, message(&format!("many/{number:03}"), "m").retained().qos1(1));
    }
    let tight =
        || resume(petrel_proto::Version::V5, "a").with(|c| c.properties.receive_maximum = Some(1));
    let a = net.online(tight());
    net.subscribe(a, "many/+", Qos::AtLeastOnce);
    let mut again = options(Qos::AtLeastOnce);
    again.retain_handling = petrel_proto::RetainHandling::DoNotSend;
    net.subscribe_with(a, "many/+", again);
    net.restart();
    let a = net.resumed(tight(), true);
    assert!(net.settle(a).len() < 300);
}

/// [MQTT5-3.4.2-1] [MQTT5-3.5.2-1] While nothing can be kept, a publisher that can be told is told, behind
/// what it is owed; the others go on as before, and so does QoS 0.
#[test]
fn what_cannot_be_kept_is_refused_in_order() {
    let (mut net, a, b) = slow();
    let old = net.online(v311("old"));
    net.send(b, message("t", "one").qos1(1));
    net.handle_on(0, Input::Refuse(true));
    net.send(b, message("t", "two").qos1(2));
    net.send(b, message("t", "three").qos2(3));
    net.send(b, message("t", "four"));
    net.send(old, message("t", "five").qos1(1));
    assert_eq!(net.unread(b), 0, "acknowledgements keep their order");
    net.run();
    let full = |packet_id: u16| Ack::new(PacketId::new(packet_id).unwrap(), R::QuotaExceeded);
    assert_eq!(net.received(b), [puback(1), Packet::PubAck(full(2)), Packet::PubRec(full(3))]);
    assert_eq!(net.received(old), [puback(1)]);
    assert_eq!(net.settled(a), ["one", "four", "five"]);
    assert_eq!(net.dropped(DropReason::StorageFull), 2);
    // The identifier is free again ([MQTT5-4.3.3-9]).
    net.handle_on(0, Input::Refuse(false));
    net.send(b, message("t", "six").qos2(3));
    net.run();
    assert_eq!(net.received(b), [pubrec(3)]);
    assert_eq!(net.settled(a), ["six"]);
}

/// Two messages may have one identifier if they are from two processes. The later of them waits until it
/// is kept that the earlier is done with: else its PUBREL came once more after a failure, and the client
/// would take that for the later one's, and the later one for new when it comes again.
#[test]
fn an_identifier_is_used_again_when_it_is_kept_that_it_is_free() {
    let (mut net, a, b) = slow();
    net.drop(a);
    // The places of the next process begin 256 identifiers further on.
    for number in 0..=256 {
        net.publish(b, message("t", &format!("{number}")).qos2(1));
    }
    net.restart();
    let b = net.resumed(resume(petrel_proto::Version::V5, "b"), true);
    net.publish(b, message("t", "257").qos2(1));
    let tight = resume(petrel_proto::Version::V5, "a");
    let a = net.resumed(tight.with(|c| c.properties.receive_maximum = Some(1)), true);
    let mut identifier = 0;
    for number in 0..=256 {
        let got = net.publishes(a);
        assert_eq!(payloads(&got), [format!("{number}")]);
        identifier = got[0].packet_id.unwrap().get();
        net.send(a, pubrec(identifier));
        assert_eq!(net.received(a), [pubrel(identifier)]);
        net.send(a, pubcomp(identifier));
    }
    assert!(net.is_urgent, "what nobody waits for may be lost though it was written");
    assert_eq!(net.unread(a), 0, "the end of the earlier one is not kept");
    let got = net.publishes(a);
    assert_eq!((payloads(&got), got[0].packet_id.unwrap().get()), (vec!["257"], identifier));
    net.send(a, pubrec(identifier));
    assert_eq!(net.received(a), [pubrel(identifier)]);
    net.send(a, pubcomp(identifier));
}

/// Takes what a client has received: what was published, and the identifiers that were released.
fn taken(net: &mut Net, client: crate::harness::Client) -> (Vec<(u16, String)>, Vec<u16>) {
    let (mut published, mut released) = (Vec::new(), Vec::new());
    for packet in net.received(client) {
        match packet {
            Packet::Publish(publish) => {
                let text = payloads(std::slice::from_ref(&publish))[0].to_owned();
                published.push((publish.packet_id.unwrap().get(), text));
            }
            Packet::PubRel(ack) => released.push(ack.packet_id.get()),
            other => panic!("{other:?} is not part of a delivery"),
        }
    }
    (published, released)
}

/// [MQTT5-4.3.3-7] [MQTT5-3.3.2-5] Nobody knows after a restart whether a message has been sent. One of
/// QoS 2 that has expired is not sent any more, and its exchange is ended: the client may have it, and
/// would take another message with that identifier for it.
#[test]
fn an_expired_message_that_may_have_been_sent_is_released() {
    for shards in [1, 3] {
        let mut net = Net::keeping(shards, true, |_| {});
        let a = net.online(resume(petrel_proto::Version::V5, "a"));
        net.subscribe(a, "t", Qos::ExactlyOnce);
        let b = net.online(v5("b"));
        net.publish(b, message("t", "one").qos2(1).expiring(5));
        net.publish(b, message("t", "two").qos1(1).expiring(5));
        net.publish(b, message("t", "three").qos2(1));
        let (sent, _) = taken(&mut net, a);
        net.restart();
        net.advance(6_000);
        let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
        assert_eq!(taken(&mut net, a), (vec![sent[2].clone()], vec![sent[0].0]));
        // It goes on over another connection, and another process.
        net.restart();
        let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
        assert_eq!(taken(&mut net, a), (vec![sent[2].clone()], vec![sent[0].0]));
        let unknown = Ack::new(PacketId::new(sent[0].0).unwrap(), R::PacketIdentifierNotFound);
        net.send(a, Packet::PubComp(unknown));
        net.send(a, pubrec(sent[2].0));
        assert_eq!(net.received(a), [pubrel(sent[2].0)]);
        net.send(a, pubcomp(sent[2].0));
        net.run();
        assert_eq!(net.census().inflight, 0);
    }
}

/// [MQTT5-4.3.2-3] [MQTT5-4.3.3-7] What this process has sent is seen through, in memory or not.
#[test]
fn what_was_sent_does_not_expire_though_it_left_the_memory() {
    let mut net = Net::keeping(1, true, |_| {});
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "t", Qos::ExactlyOnce);
    let b = net.online(v5("b"));
    for number in 0..10u16 {
        let publish = message("t", &format!("{number}")).expiring(5);
        net.publish(b, if number.is_multiple_of(2) { publish.qos2(1) } else { publish.qos1(1) });
    }
    let (sent, _) = taken(&mut net, a);
    assert_eq!(sent.len(), 10);
    net.drop(a);
    net.publish(b, message("t", "late").qos2(1).expiring(5));
    net.advance(6_000);
    let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
    let got = net.settle(a);
    assert!(got.iter().all(|publish| publish.dup));
    let expected: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&got), expected);
    assert_eq!(net.dropped(DropReason::Expired), 1);
}

/// [MQTT5-4.3.3-10] What makes room for newer messages may be with the client already.
#[test]
fn what_made_room_is_released_if_it_was_sent() {
    let oldest = |limits: &mut petrel_shard::Limits| {
        limits.session_queue_messages = 8;
        limits.session_queue_full = QueueFull::DropOldest;
    };
    // So many are in flight: not more than stay in memory, or more.
    for count in [8, 3] {
        let mut net = Net::keeping(1, true, oldest);
        let a = net.online(resume(petrel_proto::Version::V5, "a"));
        net.subscribe(a, "t", Qos::ExactlyOnce);
        let b = net.online(v5("b"));
        let number = |number: u16| {
            let publish = message("t", &number.to_string());
            if number.is_multiple_of(2) { publish.qos2(1) } else { publish.qos1(1) }
        };
        (0..count).for_each(|at| net.publish(b, number(at)));
        let (sent, _) = taken(&mut net, a);
        net.drop(a);
        (count..20).for_each(|at| net.publish(b, number(at)));
        let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
        let (again, released) = taken(&mut net, a);
        let open: Vec<u16> = sent.iter().step_by(2).map(|(id, _)| *id).collect();
        let is_again = |id: &u16| again.iter().any(|one| sent.contains(one) && one.0 == *id);
        for id in &open {
            assert!(released.contains(id) != is_again(id), "{id}: {again:?} {released:?}");
        }
        assert!(released.iter().all(|id| open.contains(id)), "{released:?}");
        let newest: Vec<_> = (12..20).map(|number| number.to_string()).collect();
        let texts: Vec<_> = again.iter().map(|(_, text)| text.clone()).collect();
        assert!(texts.ends_with(&newest), "{texts:?}");
        for id in released {
            net.send(a, pubcomp(id));
        }
        for (at, (id, _)) in again.iter().enumerate() {
            let is_second = (texts[at].parse::<u16>().unwrap()).is_multiple_of(2);
            net.send(a, if is_second { pubrec(*id) } else { puback(*id) });
        }
        for id in taken(&mut net, a).1 {
            net.send(a, pubcomp(id));
        }
        net.run();
        assert_eq!(net.census().inflight, 0);
    }
}

/// [MQTT5-3.1.2-25] What is too large for the client now it may have had when it took more.
#[test]
fn what_has_become_too_large_is_released() {
    across_with(
        |_| {},
        |net| {
            let a = net.online(resume(petrel_proto::Version::V5, "a"));
            net.subscribe(a, "t", Qos::ExactlyOnce);
            let b = net.online(v5("b"));
            for count in 1..=6 {
                net.publish(b, message("t", &"x".repeat(100)).qos2(count));
            }
            let (sent, _) = taken(net, a);
            net.drop(a);
            let small = resume(petrel_proto::Version::V5, "a")
                .with(|c| c.properties.maximum_packet_size = Some(60));
            let a = net.resumed(small, true);
            let ids: Vec<u16> = sent.iter().map(|(id, _)| *id).collect();
            assert_eq!(taken(net, a), (vec![], ids.clone()));
            ids.iter().for_each(|id| net.send(a, pubcomp(*id)));
            net.run();
            assert_eq!(net.census().inflight, 0);
        },
    );
}

/// What made room before it was known what waits from before the process is gone, though a question for
/// it was under way.
#[test]
fn what_has_made_room_before_the_count_does_not_come() {
    let mut net = Net::keeping(1, true, |limits| {
        limits.session_queue_messages = 4;
        limits.session_queue_full = QueueFull::DropOldest;
    });
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "t", Qos::AtLeastOnce);
    net.drop(a);
    let b = net.online(v5("b"));
    (0..2).for_each(|at| net.publish(b, message("t", &format!("{at}")).qos1(1)));
    net.holds_counts = true;
    net.restart();
    let b = net.online(v5("b"));
    (2..6).for_each(|at| net.publish(b, message("t", &format!("{at}")).qos1(1)));
    let a = net.connect_pipelined(0, resume(petrel_proto::Version::V5, "a"));
    let asked = net.take_load().expect("it asks for what waits");
    let late = net.answer(asked);
    net.publish(b, message("t", "6").qos1(1));
    net.holds_counts = false;
    net.run();
    assert_eq!(net.census().queued_messages, 6, "two of them from before");
    net.handle_on(0, Input::Loaded(Box::new(late)));
    net.run();
    net.connack(a);
    assert_eq!(net.settled(a), ["0", "1", "3", "4", "5", "6"]);
    assert_eq!(net.census().queued_messages, 0);
}

/// A message that has expired cannot have been sent while one before it has its identifier, and a PUBREL
/// would release that.
#[test]
fn what_expired_behind_another_with_its_identifier_is_not_released() {
    let mut net = Net::keeping(1, true, |limits| limits.session_queue_messages = 2);
    let a = net.online(resume(petrel_proto::Version::V5, "a"));
    net.subscribe(a, "t", Qos::ExactlyOnce);
    let b = net.online(resume(petrel_proto::Version::V5, "b"));
    // The places of the next process begin 256 identifiers further on.
    for number in 0..256 {
        net.publish(b, message("t", &format!("{number}")).qos2(1));
        net.settle(a);
    }
    net.publish(b, message("t", "held").qos2(1));
    let (held, _) = taken(&mut net, a);
    net.restart();
    let b = net.resumed(resume(petrel_proto::Version::V5, "b"), true);
    net.publish(b, message("t", "expires").qos2(1).expiring(5));
    net.restart();
    net.advance(6_000);
    let a = net.resumed(resume(petrel_proto::Version::V5, "a"), true);
    assert_eq!(taken(&mut net, a), (held.clone(), vec![]));
    // It has to make room.
    let b = net.resumed(resume(petrel_proto::Version::V5, "b"), true);
    (0..2).for_each(|_| net.publish(b, message("t", "new").qos1(1)));
    assert_eq!(net.dropped(DropReason::Expired), 1);
    net.silent(a);
    net.send(a, pubrec(held[0].0));
    let (new, released) = taken(&mut net, a);
    assert_eq!((new.len(), released), (2, vec![held[0].0]));
    new.iter().for_each(|(id, _)| net.send(a, puback(*id)));
    net.send(a, pubcomp(held[0].0));
    net.silent(a);
}
