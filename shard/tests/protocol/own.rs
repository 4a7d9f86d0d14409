//! Messages that no client publishes.

use std::sync::Arc;

use petrel_proto::{ReasonCode as R, SubscriptionOptions};
use petrel_shard::access::{Effect, Rule, Rules, Subjects};
use petrel_shard::event::DropReason;
use petrel_shard::{Access, Input};

use crate::harness::{Net, across};
use crate::packets::*;

/// [MQTT5-4.7.2-1] [MQTT5-3.3.1-5] [MQTT5-3.3.1-6]
#[test]
fn the_broker_publishes_where_clients_must_not() {
    across(|net| {
        let a = net.online(v5("a"));
        let as_published = SubscriptionOptions { retain_as_published: true, ..options(QOS1) };
        net.subscribe_with(a, "$SYS/#", as_published);
        let everything = net.online(v5("everything"));
        net.subscribe(everything, "#", QOS1);
        let (reason, ledger) = net.publish_own(message("$SYS/broker/x", "1").retained());
        assert_eq!(reason, R::Success);
        assert_eq!((ledger.own, ledger.unmatched, ledger.received), (1, 0, [0; 3]));
        let live = net.publishes(a);
        assert_eq!(payloads(&live), ["1"]);
        assert!(live[0].retain);
        let late = net.online(v5("late"));
        net.subscribe(late, "$SYS/broker/+", QOS0);
        assert_eq!(net.settled(late), ["1"]);
        // An empty payload takes it away, as a client's does.
        net.publish_own(message("$SYS/broker/x", "").retained());
        assert_eq!(net.settled(a), [""]);
        assert_eq!(net.census().retained, 0);
        net.silent(everything);
    });
}

/// [MQTT5-3.3.4-2] [MQTT5-3.3.2-4] [MQTT5-3.3.2-6] [MQTT5-3.8.3-3]
#[test]
fn what_an_operator_publishes_goes_the_way_of_any_other_message() {
    across(|net| {
        let a = net.online(v5("a"));
        let no_local = SubscriptionOptions { no_local: true, ..options(QOS1) };
        net.subscribe_with(a, "t/+", no_local);
        let nobody = net.publish_own(message("u", "?"));
        assert_eq!((nobody.0, nobody.1.unmatched), (R::NoMatchingSubscribers, 1));
        let (reason, _) = net.publish_own(message("t/1", "m").qos2(1).expiring(60));
        assert_eq!(reason, R::Success);
        let got = net.settle(a);
        assert_eq!(payloads(&got), ["m"]);
        assert_eq!(got[0].qos, QOS1);
        assert_eq!(got[0].properties.message_expiry_interval_s, Some(60));
    });
}

#[test]
fn rules_are_for_clients() {
    let mut net = Net::new(2);
    let rules = || {
        let mut rules = Rules::default();
        let (effect, filters) = (Effect::Allow { max_qos: QOS2, retain: true }, vec![text("t")]);
        let subjects = Subjects::default();
        rules.add(Rule { subjects, effect, publish: false, subscribe: true, filters }).unwrap();
        rules
    };
    let access = Access { is_on: true, rules: Some(Arc::new(rules())), ..Access::default() };
    net.begin_with(access);
    assert_eq!(net.publish_own(message("t", "m").retained()).0, R::NoMatchingSubscribers);
    let late = net.online(v5("late"));
    net.subscribe(late, "t", QOS0);
    assert_eq!(net.settled(late), ["m"]);
    // It has no author who could lose the right.
    net.set_rules(rules());
    net.subscribe(late, "t", QOS0);
    assert_eq!(net.settled(late), ["m"]);
    net.publish_own(message("t", "").retained());
}

#[test]
fn what_there_is_no_room_for_is_refused() {
    let mut net = Net::new(1);
    let a = net.online(v5("a"));
    net.subscribe(a, "t", QOS1);
    net.handle_on(0, Input::Refuse(true));
    let (reason, ledger) = net.publish_own(message("t", "1").qos1(1));
    assert_eq!((reason, ledger.refused), (R::QuotaExceeded, 1));
    assert_eq!(ledger.drops.of(DropReason::StorageFull), 1);
    assert_eq!(net.publish_own(message("t", "0")).0, R::Success);
    net.handle_on(0, Input::Full(true));
    let (reason, ledger) = net.publish_own(message("t", "2"));
    assert_eq!((reason, ledger.drops.of(DropReason::MemoryFull)), (R::QuotaExceeded, 1));
    assert_eq!(net.settled(a), ["0"]);
    net.handle_on(0, Input::Full(false));
}

#[test]
fn a_topic_beyond_the_brokers_bounds_is_refused() {
    let mut net = Net::with(1, |limits| limits.topic_bytes_maximum = 5);
    let (reason, ledger) = net.publish_own(message("t/long", "1"));
    assert_eq!((reason, ledger.own, ledger.refused), (R::TopicNameInvalid, 1, 1));
}

#[test]
fn values_of_the_broker_itself_end_with_the_process() {
    let mut net = Net::keeping(2, true, |_| {});
    for topic in ["$SYS/broker/x", "t"] {
        net.publish_own(message(topic, "1").retained());
    }
    net.run();
    assert_eq!(net.census().retained, 2);
    net.restart();
    let a = net.online(v5("a"));
    for (filter, kept) in [("$SYS/#", &[][..]), ("t", &["1"])] {
        net.subscribe(a, filter, QOS0);
        assert_eq!(net.settled(a), kept);
    }
    net.publish_own(message("t", "").retained());
}
