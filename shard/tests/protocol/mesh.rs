//! What must not depend on the shard: everybody lives where it is told to.

use petrel_proto::Version;

use crate::harness::{Client, Net};
use crate::packets::*;

/// Every placement of three things on three shards.
fn placements() -> impl Iterator<Item = [u16; 3]> {
    (0..27).map(|n| [n % 3, n / 3 % 3, n / 9])
}

fn client(net: &mut Net, shard: u16, stem: &str) -> Client {
    let id = net.on(shard, stem);
    net.online(resume(Version::V5, &id))
}

/// [MQTT5-4.5.0-1] [MQTT5-4.6.0-5] [MQTT5-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6]
#[test]
fn order_holds_from_any_shard_to_any_shard() {
    for [from, to, other] in placements() {
        let mut net = Net::new(3);
        let a = client(&mut net, to, "a");
        let c = client(&mut net, other, "c");
        net.subscribe(a, "t/+", QOS2);
        net.subscribe(c, "t/#", QOS1);
        let b = client(&mut net, from, "b");
        for id in 1..=30 {
            let publish = message("t/1", &format!("{id}"));
            net.send(b, publish.qos2(id));
        }
        let expected: Vec<_> = (1..=30).map(|id| format!("{id}")).collect();
        assert_eq!(net.settled(a), expected);
        assert_eq!(net.settled(c), expected);
    }
}

/// [MQTT5-3.3.1-5] [MQTT5-3.3.1-6] [MQTT5-3.3.1-9] [MQTT311-3.3.1-5] [MQTT311-3.3.1-6]
#[test]
fn a_retained_message_is_found_from_any_shard() {
    for [from, to, owner] in placements() {
        let mut net = Net::new(3);
        let topic = net.on(owner, "t/");
        let b = client(&mut net, from, "b");
        net.publish(b, message(&topic, "old").retained().qos1(1));
        net.publish(b, message(&topic, "new").retained().qos1(2));
        let a = client(&mut net, to, "a");
        net.subscribe(a, &topic, QOS1);
        assert_eq!(net.settled(a), ["new"]);
        net.subscribe(a, "t/+", QOS1);
        assert_eq!(net.settled(a), ["new"]);
        net.publish(b, message(&topic, "").retained());
        net.settled(a);
        net.subscribe(a, "#", QOS1);
        assert!(net.settled(a).is_empty());
    }
}

/// The owner of the group is a third party.
#[test]
fn a_group_works_from_any_shard_for_members_on_any_shard() {
    for [first, second, owner] in placements() {
        let mut net = Net::new(3);
        let at = (0..)
            .find(|n| net.slots.home_of(format!("g{n}/t").as_bytes()).0 == owner)
            .map(|n| format!("$share/g{n}/t"))
            .unwrap();
        let m0 = client(&mut net, first, "m");
        let m1 = client(&mut net, second, "n");
        net.subscribe(m0, &at, QOS1);
        net.subscribe(m1, &at, QOS1);
        let b = client(&mut net, (first + 1) % 3, "b");
        for id in 1..=10 {
            net.publish(b, message("t", &format!("{id}")).qos1(id));
        }
        let got = [net.settled(m0), net.settled(m1)];
        assert_eq!(got.iter().map(Vec::len).sum::<usize>(), 10);
        assert!(got.iter().all(|got| got.len() >= 3));
        net.drop(m0);
        net.drop(m1);
        net.publish(b, message("t", "later").qos1(11));
        assert_eq!(net.census().group_messages, 1);
        let id = net.on(second, "n");
        let m1 = net.resumed(resume(Version::V5, &id), true);
        assert_eq!(net.settled(m1), ["later"]);
    }
}

/// [MQTT5-3.8.3-3] No Local knows its client on other shards, and through retained messages.
#[test]
fn no_local_holds_whoever_owns_the_topic() {
    for owner in 0..3 {
        let mut net = Net::new(3);
        let topic = net.on(owner, "t/");
        let a = client(&mut net, 0, "a");
        net.publish(a, message(&topic, "own").retained());
        net.subscribe_with(a, "t/#", no_local(QOS1));
        net.publish(a, message(&topic, "own").retained().qos1(1));
        net.silent(a);
        let b = client(&mut net, 1, "b");
        net.publish(b, message(&topic, "other").retained().qos1(1));
        assert_eq!(net.settled(a), ["other"]);
    }
}

/// [MQTT5-3.1.3-9] [MQTT5-3.1.2-8] Wherever the will goes.
#[test]
fn a_will_reaches_any_shard() {
    for [from, to, owner] in placements() {
        let mut net = Net::new(3);
        let topic = net.on(owner, "will/");
        let a = client(&mut net, to, "a");
        net.subscribe(a, &topic, QOS1);
        let id = net.on(from, "b");
        let b = net.online(v5(&id).with(|c| {
            c.will =
                Some(Box::new(will(&topic, "gone").with(|w| (w.qos, w.retain) = (QOS1, true))));
        }));
        net.drop(b);
        assert_eq!(net.settled(a), ["gone"]);
        let late = client(&mut net, from, "late");
        net.subscribe(late, &topic, QOS0);
        assert_eq!(net.settled(late), ["gone"]);
    }
}

/// [MQTT5-3.8.4-3] [MQTT5-3.10.4-2] Interest comes and goes with the last subscriber of a shard.
#[test]
fn interest_follows_the_subscriptions_of_each_shard() {
    let mut net = Net::new(3);
    let b = client(&mut net, 0, "b");
    let receivers: Vec<_> = (0..6).map(|n| client(&mut net, n % 3, &format!("r{n}-"))).collect();
    for _ in 0..3 {
        for &receiver in &receivers {
            net.subscribe(receiver, "t/+/x", QOS0);
        }
        net.publish(b, message("t/1/x", "m"));
        for &receiver in &receivers {
            assert_eq!(net.settled(receiver), ["m"]);
        }
        for (at, &receiver) in receivers.iter().enumerate() {
            net.unsuback(receiver, &["t/+/x"]);
            net.publish(b, message("t/1/x", "m"));
            for (other, &receiver) in receivers.iter().enumerate() {
                assert_eq!(net.settled(receiver).len(), usize::from(other > at));
            }
        }
    }
}
