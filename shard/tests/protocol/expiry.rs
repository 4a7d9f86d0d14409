//! Message expiry: section 3.3.2.3.3.

use petrel_proto::Version;
use petrel_shard::DropReason;

use crate::harness::{Client, Net, across, versions};
use crate::packets::*;

fn away(net: &mut Net) -> Client {
    let a = net.online(resume(Version::V5, "a"));
    net.subscribe(a, "t", QOS2);
    net.drop(a);
    net.online(v5("b"))
}

/// [MQTT5-3.3.2-6]
#[test]
fn the_interval_that_is_left_is_forwarded() {
    across(|net| {
        let b = away(net);
        let live = net.online(v5("live"));
        net.subscribe(live, "t", QOS2);
        net.publish(b, message("t", "m").qos1(1).expiring(100));
        assert_eq!(net.settle(live)[0].properties.message_expiry_interval_s, Some(100));
        net.advance(30_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settle(a)[0].properties.message_expiry_interval_s, Some(70));
        net.publish(b, message("t", "m").qos1(1));
        assert_eq!(net.settle(a)[0].properties.message_expiry_interval_s, None);
    });
}

/// [MQTT5-3.3.2-5]
#[test]
fn a_message_that_expired_while_it_waited_is_not_delivered() {
    across(|net| {
        let b = away(net);
        net.publish(b, message("t", "short").qos2(1).expiring(10));
        net.publish(b, message("t", "long").qos1(2).expiring(20));
        net.publish(b, message("t", "forever").qos1(3));
        net.advance(15_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settled(a), ["long", "forever"]);
        assert_eq!(net.dropped(DropReason::Expired), 1);
    });
}

/// [MQTT5-3.3.2-5] Also behind a window that stays shut.
#[test]
fn a_message_may_expire_behind_a_slow_client() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "t", QOS1);
        let b = net.online(v5("b"));
        net.publish(b, message("t", "first").qos1(1));
        net.publish(b, message("t", "second").qos1(2).expiring(5));
        net.publish(b, message("t", "third").qos1(3));
        net.advance(6_000);
        assert_eq!(net.settled(a), ["first", "third"]);
    });
}

/// [MQTT5-4.3.2-3] [MQTT5-4.3.3-7] What has been sent is seen through.
#[test]
fn a_message_does_not_expire_once_it_was_sent() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        net.subscribe(a, "t", QOS2);
        let b = net.online(v5("b"));
        net.publish(b, message("t", "one").qos1(1).expiring(5));
        net.publish(b, message("t", "two").qos2(2).expiring(5));
        net.publish(b, message("t", "three").qos2(3).expiring(5));
        let got = net.publishes(a);
        let third = got[2].packet_id.unwrap().get();
        net.send(a, pubrec(third));
        net.drop(a);
        net.advance(60_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settled(a), ["one", "two"]);
        assert_eq!(net.census().inflight, 0);
    });
}

/// [MQTT5-4.3.3-13] An expiry of what was received does not end its exchange.
#[test]
fn the_exchange_with_the_publisher_outlives_the_message() {
    across(|net| {
        let b = net.online(v5("b"));
        net.send(b, message("t", "m").qos2(1).expiring(1));
        net.advance(10_000);
        net.run();
        net.received(b);
        net.send(b, pubrel(1));
        assert_eq!(net.received(b), [pubcomp(1)]);
    });
}

/// [MQTT5-3.3.2-5] MQTT 3.1.1 clients are spared old messages too.
#[test]
fn messages_expire_for_clients_of_every_version() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "t", QOS1);
        net.drop(a);
        let b = net.online(v5("b"));
        net.publish(b, message("t", "short").qos1(1).expiring(10));
        net.publish(b, message("t", "long").qos1(2).expiring(1000));
        net.advance(11_000);
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(net.settled(a), ["long"]);
    });
}

/// [MQTT5-3.3.2-6] The longest interval is no overflow.
#[test]
fn the_longest_interval_is_kept() {
    across(|net| {
        let b = away(net);
        net.publish(b, message("t", "m").qos1(1).expiring(u32::MAX));
        net.leap(10_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        let left = net.settle(a)[0].properties.message_expiry_interval_s;
        assert_eq!(left, Some(u32::MAX - 10));
    });
}
