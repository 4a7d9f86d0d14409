//! What waits in a shared group is kept, and what a member is lent of it.

use petrel_proto::{Qos, Version};
use petrel_shard::config::QueueFull;

use crate::harness::{Client, Net, across_with};
use crate::packets::*;

const FILTER: &str = "$share/g/t";

/// A member of a group on one shard whose records are kept when the test says so, and a publisher.
fn slow(member: petrel_proto::Connect, qos: Qos) -> (Net, Client, Client) {
    let mut net = Net::keeping(1, true, |_| {});
    let m = net.online(member);
    net.subscribe(m, FILTER, qos);
    let b = net.online(resume(Version::V5, "b"));
    (net, m, b)
}

fn numbers(range: std::ops::Range<u16>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// [MQTT5-4.3.2-4] A group is a receiver that is kept, if a member is.
#[test]
fn a_puback_waits_until_the_group_keeps_the_message() {
    let (mut net, m, b) = slow(resume(Version::V5, "m"), QOS1);
    net.send(b, message("t", "one").qos1(1));
    assert_eq!((net.unread(m), net.unread(b)), (1, 0));
    net.run();
    assert_eq!(net.received(b), [puback(1)]);
    net.drop(m);
    net.send(b, message("t", "two").qos1(2));
    assert_eq!(net.unread(b), 0);
    net.run();
    assert_eq!(net.received(b), [puback(2)]);
    let m = net.resumed(resume(Version::V5, "m"), true);
    assert_eq!(net.settled(m), ["one", "two"]);
}

/// A group of clients whose sessions end with their connections ends with them, and nobody waits.
#[test]
fn a_group_of_passing_members_is_not_kept() {
    let (mut net, m, b) = slow(v5("m"), QOS1);
    net.send(b, message("t", "one").qos1(1));
    assert_eq!((net.unread(m), net.unread(b)), (1, 1));
    net.received(b);
    assert_eq!(net.settled(m), ["one"]);
}

/// [MQTT5-4.8.2-4] [MQTT5-4.8.2-5] A QoS 2 message is sent once it is the member's own and the group has
/// it no longer: that takes the receipt of the publisher, the member's record and the group's.
#[test]
fn a_qos_2_message_is_sent_when_it_has_moved() {
    let (mut net, m, b) = slow(resume(Version::V5, "m"), QOS2);
    net.send(b, message("t", "one").qos2(1));
    for _ in 0..2 {
        assert_eq!((net.unread(m), net.unread(b)), (0, 0));
        net.keep_one();
    }
    // Its receipt is kept, so it is lent and asked for; the member's record is on its way.
    assert_eq!((net.unread(m), net.unread(b)), (0, 1));
    net.keep_one();
    assert_eq!(net.unread(m), 0);
    net.keep_one();
    assert_eq!(net.unread(m), 1);
    net.received(b);
    assert_eq!(net.settled(m), ["one"]);
}

/// To a member whose session is not kept it is sent once the group's record is gone.
#[test]
fn a_qos_2_message_is_sent_to_a_passing_member_when_the_group_has_forgotten_it() {
    let (mut net, other, b) = slow(resume(Version::V5, "other"), QOS2);
    net.drop(other);
    let m = net.online(v5("m"));
    net.subscribe(m, FILTER, QOS2);
    net.send(b, message("t", "one").qos2(1));
    for _ in 0..2 {
        assert_eq!((net.unread(m), net.unread(b)), (0, 0));
        net.keep_one();
    }
    assert_eq!((net.unread(m), net.unread(b)), (0, 1));
    net.keep_one();
    assert_eq!(net.unread(m), 1);
    net.received(b);
    assert_eq!(net.settled(m), ["one"]);
}

/// What was asked for and has not moved goes to another when the member goes away.
#[test]
fn what_was_asked_for_comes_back_when_the_member_goes() {
    for passing in [false, true] {
        across_with(
            |_| {},
            |net| {
                let kept = net.online(resume(Version::V5, "kept"));
                net.subscribe(kept, FILTER, QOS2);
                net.drop(kept);
                let connect = if passing { v5("m") } else { resume(Version::V5, "m") };
                let m = net.online(connect);
                net.subscribe(m, FILTER, QOS2);
                let b = net.online(v5("b"));
                net.send(b, message("t", "one").qos2(1));
                net.drop_quietly(m);
                net.run();
                net.received(b);
                let kept = net.resumed(resume(Version::V5, "kept"), true);
                let mut got = net.settled(kept);
                if !passing {
                    let m = net.resumed(resume(Version::V5, "m"), true);
                    got.extend(net.settled(m));
                }
                // To the passing member it may have been sent, and then it goes to nobody else.
                assert!(got == ["one"] || (passing && got.is_empty()), "{got:?}");
            },
        );
    }
}

/// More waits for a group than stays in memory: all of it comes, in order, whoever takes it.
#[test]
fn a_long_queue_of_a_group_comes_back_in_order() {
    for qos in [QOS1, QOS2] {
        across_with(
            |_| {},
            |net| {
                let m = net.online(resume(Version::V5, "m"));
                net.subscribe(m, FILTER, qos);
                net.drop(m);
                let b = net.online(v5("b"));
                for number in 0..300u16 {
                    let publish = message("t", &number.to_string());
                    net.publish(b, if qos == QOS2 { publish.qos2(1) } else { publish.qos1(1) });
                }
                assert_eq!(net.census().group_messages, 300);
                let m = net.resumed(resume(Version::V5, "m"), true);
                assert_eq!(net.settled(m), numbers(0..300));
                assert_eq!(net.census().group_messages, 0);
            },
        );
    }
}

/// The bound of a queue holds for what waits in a group and is not in memory too, by either policy.
#[test]
fn a_long_queue_of_a_group_keeps_its_bound() {
    for (policy, first) in [(QueueFull::DropNewest, 0), (QueueFull::DropOldest, 40)] {
        across_with(
            |limits| {
                limits.session_queue_messages = 10;
                limits.session_queue_full = policy;
            },
            |net| {
                let m = net.online(resume(Version::V5, "m"));
                net.subscribe(m, FILTER, QOS1);
                net.drop(m);
                let b = net.online(v5("b"));
                for number in 0..50u16 {
                    net.publish(b, message("t", &number.to_string()).qos1(1));
                }
                assert_eq!(net.census().group_messages, 10);
                let m = net.resumed(resume(Version::V5, "m"), true);
                assert_eq!(net.settled(m), numbers(first..first + 10), "{policy:?}");
            },
        );
    }
}

/// A member whose session lasts makes the group keep what waits in it already.
#[test]
fn a_group_is_kept_from_its_first_lasting_member_on() {
    across_with(
        |limits| limits.outgoing_inflight_maximum = 1,
        |net| {
            let passing = net.online(v5("passing"));
            net.subscribe(passing, FILTER, QOS1);
            let b = net.online(v5("b"));
            for number in 0..200u16 {
                net.publish(b, message("t", &number.to_string()).qos1(1));
            }
            let m = net.online(resume(Version::V5, "m"));
            net.subscribe(m, FILTER, QOS1);
            let mut got = net.settled(m);
            got.extend(net.settled(passing));
            got.extend(net.settled(m));
            let mut got: Vec<u16> = got.iter().map(|text| text.parse().unwrap()).collect();
            got.sort_unstable();
            assert_eq!(got, (0..200).collect::<Vec<u16>>());
        },
    );
}

/// [MQTT5-2.2.1-4] A member may have been sent messages of its own that are still being loaded. What its
/// group lends would go out with the identifier of one of them, so it comes after them.
#[test]
fn what_is_lent_waits_for_what_may_have_been_sent() {
    let (mut net, m, b) = slow(resume(Version::V5, "m"), QOS1);
    net.subscribe(m, "own", QOS2);
    net.drop(m);
    // The places of the next process begin 256 identifiers further on.
    for number in 0..300u16 {
        net.publish(b, message("own", &number.to_string()).qos2(1));
    }
    net.restart();
    let b = net.resumed(resume(Version::V5, "b"), true);
    let m = net.connect_pipelined(0, resume(Version::V5, "m"));
    let asked = net.take_load().expect("it asks for what waits");
    for _ in 0..100 {
        net.send(b, message("t", "lent").qos1(1));
    }
    let first = net.answer(asked);
    net.handle_on(0, petrel_shard::Input::Loaded(Box::new(first)));
    net.run();
    net.connack(m);
    let got = net.settled(m);
    assert_eq!(got[..300], numbers(0..300));
    assert_eq!(got[300..], vec!["lent"; 100]);
    net.received(b);
}
