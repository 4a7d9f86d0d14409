//! Shared subscriptions: section 4.8.2.

use petrel_proto::{Ack, Packet, ReasonCode as R, Version};
use petrel_shard::DropReason;

use crate::harness::{Client, Net, across, across_with, versions};
use crate::packets::*;

/// Three members of `$share/g/t/#`, whose sessions stay, on as many shards as there are.
fn group(net: &mut Net, version: Version) -> [Client; 3] {
    ["m0", "m1", "m2"].map(|id| {
        let member = net.online(resume(version, id));
        net.subscribe(member, "$share/g/t/#", QOS2);
        member
    })
}

fn send(net: &mut Net, from: Client, count: u16) {
    for id in 1..=count {
        net.publish(from, message("t/1", &format!("{id}")).qos1(id));
    }
}

/// [MQTT5-4.8.2-3]
#[test]
fn each_message_goes_to_one_member_and_all_members_have_their_turn() {
    versions(|net, version| {
        for share in ["g", "another", "x/y".split('/').next().unwrap()] {
            let members = ["m0", "m1", "m2"].map(|id| {
                let member = net.online(connect(version, id));
                net.subscribe(member, &format!("$share/{share}/t/#"), QOS1);
                member
            });
            let b = net.online(connect(version, "b"));
            send(net, b, 30);
            let got = members.map(|member| net.settled(member));
            assert!(got.iter().all(|got| got.len() >= 5), "{got:?}");
            let mut all: Vec<u16> = got.iter().flatten().map(|p| p.parse().unwrap()).collect();
            all.sort_unstable();
            assert_eq!(all, (1..=30).collect::<Vec<_>>());
        }
    });
}

/// [MQTT5-3.3.4-2] Groups and plain subscriptions do not know of each other.
#[test]
fn every_group_and_every_plain_subscription_gets_its_copy() {
    across(|net| {
        let a = net.online(v5("a"));
        for name in ["$share/g/t", "$share/h/t", "$share/g/+", "t"] {
            net.subscribe(a, name, QOS1);
        }
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").qos1(1));
        assert_eq!(net.settled(a), ["m", "m", "m", "m"]);
    });
}

/// [MQTT5-3.3.4-3] [MQTT5-3.3.4-5] Each copy has the identifier of its own subscription.
#[test]
fn copies_for_a_group_and_for_a_plain_subscription_have_their_own_identifiers() {
    across(|net| {
        let a = net.online(v5("a"));
        for (name, identifier) in [("$share/g/t", 5), ("t", 6), ("$share/h/+", 7)] {
            let mut packet = subscribe(&[(name, options(QOS1))]);
            packet.subscription_identifier = Some(identifier);
            net.suback(a, packet);
        }
        let b = net.online(v5("b"));
        net.publish(b, message("t", "m").qos1(1));
        let got = net.settle(a);
        let mut identifiers: Vec<_> =
            got.iter().map(|p| p.properties.subscription_identifiers.to_vec()).collect();
        identifiers.sort();
        assert_eq!(identifiers, [[5], [6], [7]]);
    });
}

/// [MQTT5-4.8.2-3] [MQTT5-3.8.4-8]
#[test]
fn each_member_has_its_own_qos() {
    across(|net| {
        let members = [("m0", QOS0), ("m1", QOS1), ("m2", QOS2)].map(|(id, qos)| {
            let member = net.online(v5(id));
            net.subscribe(member, "$share/g/t", qos);
            (member, qos)
        });
        let b = net.online(v5("b"));
        for id in 1..=12 {
            net.publish(b, message("t", "m").qos2(id));
        }
        for (member, granted) in members {
            let got = net.settle(member);
            assert!(!got.is_empty());
            assert!(got.iter().all(|p| p.qos == granted));
        }
    });
}

/// [MQTT5-4.8.2-3] The latest SUBSCRIBE of a member counts.
#[test]
fn subscribing_again_replaces_the_options_of_the_member() {
    across(|net| {
        let a = net.online(v5("a"));
        let b = net.online(v5("b"));
        for (qos, identifier) in [(QOS0, Some(3)), (QOS2, None), (QOS1, Some(9))] {
            let mut packet = subscribe(&[("$share/g/t", options(qos))]);
            packet.subscription_identifier = identifier;
            net.suback(a, packet);
            net.publish(b, message("t", "m").qos2(1));
            let got = net.settle(a);
            assert_eq!(got.len(), 1);
            assert_eq!(got[0].qos, qos);
            let identifiers = got[0].properties.subscription_identifiers.to_vec();
            assert_eq!(identifiers, Vec::from_iter(identifier));
        }
        assert_eq!((net.census().subscriptions, net.census().groups), (1, 1));
    });
}

/// 4.8.2: no retained messages for a shared subscription.
#[test]
fn shared_subscriptions_get_no_retained_messages() {
    across(|net| {
        let b = net.online(v5("b"));
        net.publish(b, message("t", "kept").retained());
        let a = net.online(v5("a"));
        for _ in 0..2 {
            net.subscribe(a, "$share/g/t", QOS1);
            net.silent(a);
        }
        net.publish(b, message("t", "live").retained());
        assert!(net.settle(a).iter().all(|p| !p.retain));
        net.subscribe_with(a, "$share/g/t", as_published(QOS1));
        net.publish(b, message("t", "live").retained());
        assert!(net.settle(a).iter().all(|p| p.retain));
    });
}

/// A member that is away is passed over while another is there.
#[test]
fn members_that_are_there_come_first() {
    versions(|net, version| {
        let [m0, m1, m2] = group(net, version);
        let b = net.online(connect(version, "b"));
        net.drop(m0);
        net.drop(m2);
        send(net, b, 9);
        assert_eq!(net.settled(m1).len(), 9);
        for id in ["m0", "m2"] {
            let member = net.resumed(resume(version, id), true);
            net.silent(member);
        }
    });
}

/// [MQTT5-4.1.0-1] With all members away the group keeps what is to be kept.
#[test]
fn a_group_waits_for_its_first_member_to_come_back() {
    versions(|net, version| {
        let [m0, m1, m2] = group(net, version);
        let b = net.online(connect(version, "b"));
        for member in [m0, m1, m2] {
            net.drop(member);
        }
        net.publish(b, message("t/1", "zero"));
        send(net, b, 200);
        assert_eq!(net.census().group_messages, 200);
        let m1 = net.resumed(resume(version, "m1"), true);
        let got = net.settled(m1);
        assert_eq!(got, (1..=200).map(|id| format!("{id}")).collect::<Vec<_>>());
        let m0 = net.resumed(resume(version, "m0"), true);
        net.silent(m0);
        assert_eq!(net.dropped(DropReason::NoGroupMember), 1);
    });
}

/// What waited for a member's window goes to the others when it leaves.
#[test]
fn what_a_leaving_member_had_not_been_sent_goes_to_another() {
    across(|net| {
        let slow = net.online(resume(Version::V5, "slow").with(|c| {
            c.properties.receive_maximum = Some(1);
        }));
        net.subscribe(slow, "$share/g/t/#", QOS1);
        let b = net.online(v5("b"));
        send(net, b, 10);
        let quick = net.online(v5("quick"));
        net.subscribe(quick, "$share/g/t/#", QOS1);
        net.silent(quick);
        net.drop(slow);
        let mut got: Vec<u16> = net.settled(quick).iter().map(|p| p.parse().unwrap()).collect();
        got.sort_unstable();
        // The first is with the member that has gone, as its session goes on.
        assert_eq!(got, (2..=10).collect::<Vec<_>>());
        let slow = net.resumed(resume(Version::V5, "slow"), true);
        let again = net.settle(slow);
        assert_eq!(payloads(&again), ["1"]);
        assert!(again[0].dup);
    });
}

/// The end of a session gives back what it did not acknowledge at QoS 1.
#[test]
fn unacknowledged_messages_of_an_ended_session_go_to_another_member() {
    across(|net| {
        let leaver = net.online(v5("leaver"));
        net.subscribe(leaver, "$share/g/t/#", QOS1);
        let b = net.online(v5("b"));
        send(net, b, 3);
        let first = net.publishes(leaver).remove(0);
        net.send(leaver, puback(first.packet_id.unwrap().get()));
        let heir = net.online(v5("heir"));
        net.subscribe(heir, "$share/g/t/#", QOS1);
        net.drop(leaver);
        let mut got = net.settled(heir);
        got.sort();
        assert_eq!(got, ["2", "3"]);
    });
}

/// [MQTT5-4.8.2-5]
#[test]
fn a_qos_2_message_that_was_sent_to_one_member_goes_to_no_other() {
    across(|net| {
        let leaver = net.online(v5("leaver"));
        net.subscribe(leaver, "$share/g/t/#", QOS2);
        let b = net.online(v5("b"));
        net.publish(b, message("t/1", "published").qos2(1));
        net.publish(b, message("t/1", "released").qos2(2));
        let got = net.publishes(leaver);
        net.send(leaver, pubrec(got[1].packet_id.unwrap().get()));
        let heir = net.online(v5("heir"));
        net.subscribe(heir, "$share/g/t/#", QOS2);
        net.drop(leaver);
        net.silent(heir);
    });
}

/// [MQTT5-4.8.2-4] [MQTT5-4.4.0-1] A session that goes on finishes what it began.
#[test]
fn a_qos_2_delivery_is_finished_with_the_member_that_began_it() {
    across(|net| {
        let [m0, m1, m2] = group(net, Version::V5);
        net.drop(m1);
        net.drop(m2);
        let b = net.online(v5("b"));
        net.publish(b, message("t/1", "m").qos2(1));
        let got = net.publishes(m0);
        net.drop(m0);
        let m1 = net.resumed(resume(Version::V5, "m1"), true);
        net.silent(m1);
        let m0 = net.resumed(resume(Version::V5, "m0"), true);
        let again = net.settle(m0);
        assert_eq!(again[0].packet_id, got[0].packet_id);
        net.silent(m1);
    });
}

/// [MQTT5-4.8.2-6]
#[test]
fn a_message_that_a_member_refuses_is_discarded() {
    across(|net| {
        let members = group(net, Version::V5);
        let b = net.online(v5("b"));
        net.publish(b, message("t/1", "one").qos1(1));
        net.publish(b, message("t/1", "two").qos2(2));
        let mut refused = 0;
        for member in members {
            for publish in net.publishes(member) {
                let ack = Ack::new(publish.packet_id.unwrap(), R::ImplementationSpecificError);
                let qos1 = publish.qos == QOS1;
                net.send(member, if qos1 { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
                refused += 1;
            }
        }
        net.run();
        assert_eq!(refused, 2);
        for member in members {
            net.silent(member);
        }
        assert_eq!(net.census().inflight, 0);
    });
}

/// A full window of one member is no reason to wait while another has room.
#[test]
fn members_with_room_get_what_slow_members_cannot_take() {
    across_with(
        |limits| limits.session_queue_messages = 1000,
        |net| {
            let stuck = net.online(v5("stuck").with(|c| c.properties.receive_maximum = Some(1)));
            net.subscribe(stuck, "$share/g/t/#", QOS1);
            let b = net.online(v5("b"));
            let quick = net.online(v5("quick"));
            net.subscribe(quick, "$share/g/t/#", QOS1);
            let mut got = Vec::new();
            for id in 1..=1000 {
                net.publish(b, message("t/1", &format!("{id}")).qos1(id));
                got.extend(net.settled(quick));
            }
            assert!(got.len() > 600, "{}", got.len());
            got.extend(net.settled(stuck));
            got.extend(net.settled(quick));
            let mut numbers: Vec<u16> = got.iter().map(|p| p.parse().unwrap()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
        },
    );
}

/// A member at the border of what it takes does not tell its groups with every acknowledgement.
#[test]
fn a_member_that_drains_slowly_still_gets_everything() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.receive_maximum = Some(1)));
        net.subscribe(a, "$share/g/t/#", QOS1);
        let b = net.online(v5("b"));
        let mut got = Vec::new();
        for id in 1..=400 {
            net.publish(b, message("t/1", &format!("{id}")).qos1(id));
            // One comes and one goes, with a queue that stands at its border.
            if id > 70
                && let Some(Packet::Publish(publish)) = net.next(a)
            {
                net.send(a, puback(publish.packet_id.unwrap().get()));
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
            }
        }
        got.extend(net.settled(a));
        assert_eq!(got, (1..=400).map(|id| format!("{id}")).collect::<Vec<_>>());
    });
}

/// [MQTT5-4.6.0-5] One member gets its messages in order, through queue and group queue alike.
#[test]
fn a_lone_member_gets_everything_in_order() {
    versions(|net, version| {
        let a = net.online(resume(version, "a").with(|c| c.properties.receive_maximum = Some(2)));
        net.subscribe(a, "$share/g/t/#", QOS1);
        let b = net.online(connect(version, "b"));
        send(net, b, 600);
        let expected: Vec<_> = (1..=600).map(|id| format!("{id}")).collect();
        assert_eq!(net.settled(a), expected);
    });
}

/// [MQTT5-3.10.4-2]
#[test]
fn a_member_that_unsubscribed_gets_nothing_more() {
    versions(|net, version| {
        let [m0, m1, m2] = group(net, version);
        net.unsuback(m0, &["$share/g/t/#"]);
        let b = net.online(connect(version, "b"));
        send(net, b, 9);
        net.silent(m0);
        assert_eq!(net.settled(m1).len() + net.settled(m2).len(), 9);
        for member in [m1, m2] {
            net.unsuback(member, &["$share/g/t/#"]);
        }
        assert_eq!((net.census().groups, net.census().filters), (0, 0));
        send(net, b, 3);
        net.silent(m1);
    });
}

/// [MQTT5-3.1.2-23] A group ends with the last session in it.
#[test]
fn a_group_whose_sessions_expired_is_gone() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a").with(|c| {
            c.properties.session_expiry_interval_s = Some(10);
        }));
        net.subscribe(a, "$share/g/t/#", QOS1);
        net.drop(a);
        let b = net.online(v5("b"));
        send(net, b, 5);
        assert_eq!((net.census().groups, net.census().group_messages), (1, 5));
        net.advance(11_000);
        assert_eq!((net.census().groups, net.census().group_messages), (0, 0));
    });
}

/// [MQTT5-4.8.2-1] [MQTT5-4.8.2-2] [MQTT5-4.7.2-1] What is behind the name is a filter as any other.
#[test]
fn the_filter_of_a_group_matches_as_any_filter() {
    across(|net| {
        let a = net.online(v5("a"));
        net.subscribe(a, "$share/g/#", QOS0);
        let own = net.online(v5("own"));
        net.subscribe(own, "$share/g/$own/+", QOS0);
        let lead = net.online(v5("lead"));
        net.subscribe(lead, "$share/g//t", QOS0);
        let b = net.online(v5("b"));
        net.publish(b, message("$own/x", "dollar"));
        net.silent(a);
        assert_eq!(net.settled(own), ["dollar"]);
        net.publish(b, message("/t", "slash"));
        assert_eq!(net.settled(a), ["slash"]);
        assert_eq!(net.settled(lead), ["slash"]);
    });
}

/// [MQTT5-3.1.4-3] A takeover changes nothing for the group.
#[test]
fn a_member_that_is_taken_over_stays_a_member() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "$share/g/t/#", QOS1);
        let b = net.online(connect(version, "b"));
        send(net, b, 3);
        let a = net.resumed(resume(version, "a"), true);
        send(net, b, 3);
        assert_eq!(net.settled(a), ["1", "2", "3", "1", "2", "3"]);
        net.resumed(connect(version, "a"), false);
        assert_eq!((net.census().groups, net.census().inflight), (0, 0));
    });
}

/// [MQTT5-4.5.0-1] [MQTT5-3.8.4-2] The SUBACK waits for the owner of the group.
#[test]
fn a_group_message_published_after_suback_is_never_missed() {
    across(|net| {
        for number in 0..20 {
            let a = net.online(v5(&format!("a{number}")));
            net.subscribe(a, &format!("$share/g{number}/t/{number}"), QOS0);
            let b = net.online(v5(&format!("b{number}")));
            net.publish(b, message(&format!("t/{number}"), "m"));
            assert_eq!(net.settled(a), ["m"]);
        }
    });
}

/// [MQTT5-3.3.2-5]
#[test]
fn an_expired_message_at_the_end_of_a_burst_holds_nothing_up() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        net.subscribe(a, "$share/g/t", QOS1);
        let b = net.online(v5("b"));
        net.drop(a);
        net.run();
        // The owner hands out 64 at a time; the 64th is no longer there to be handed out.
        for id in 1..=70u16 {
            let publish = message("t", &format!("{id}")).qos1(id);
            net.publish(b, if id == 64 { publish.expiring(5) } else { publish });
        }
        net.advance(10_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settled(a).len(), 69);
        assert_eq!(net.dropped(DropReason::Expired), 1);
    });
}

/// [MQTT5-3.3.2-5] [MQTT5-3.3.2-6] While it waits in the group too.
#[test]
fn group_messages_expire() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        net.subscribe(a, "$share/g/t", QOS1);
        net.drop(a);
        let b = net.online(v5("b"));
        net.publish(b, message("t", "short").qos1(1).expiring(5));
        net.publish(b, message("t", "long").qos1(2).expiring(60));
        net.advance(10_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        let got = net.settle(a);
        assert_eq!(payloads(&got), ["long"]);
        assert_eq!(got[0].properties.message_expiry_interval_s, Some(50));
    });
}

/// [MQTT5-3.1.2-25] [MQTT5-3.3.4-9] What is too large for the member counts as delivered.
#[test]
fn a_group_message_that_is_too_large_does_no_harm() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.properties.maximum_packet_size = Some(100)));
        net.subscribe(a, "$share/g/t", QOS1);
        let b = net.online(v5("b"));
        net.publish(b, message("t", &"x".repeat(200)).qos1(1));
        net.publish(b, message("t", "small").qos1(2));
        assert_eq!(net.settled(a), ["small"]);
        assert_eq!((net.census().inflight, net.census().group_messages), (0, 0));
    });
}

/// [MQTT5-3.8.4-2] The answer to a request that waits for a group is not lost by other requests.
#[test]
fn several_shared_requests_at_once_are_all_answered() {
    across(|net| {
        let a = net.online(v5("a"));
        for number in 1..=20u16 {
            let name = format!("$share/g/{}", number % 5);
            let mut packet = subscribe(&[(&name, options(QOS1)), ("plain", options(QOS0))]);
            packet.packet_id = id(number);
            net.send(a, packet);
        }
        net.run();
        let mut answered: Vec<u16> = net
            .received(a)
            .into_iter()
            .map(|packet| match packet {
                Packet::SubAck(suback) => {
                    assert_eq!(suback.reasons.to_vec(), [R::GrantedQos1, R::Success]);
                    suback.packet_id.get()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, (1..=20).collect::<Vec<_>>());
    });
}

/// [MQTT5-3.8.4-1] [MQTT5-4.5.0-1] A group's answer to a join that is forgotten answers no other.
#[test]
fn the_answer_to_an_earlier_join_does_not_answer_a_later_one() {
    let mut net = Net::new(2);
    let filter = format!("$share/{}", net.on(0, "g/t"));
    let member = net.on(1, "a");
    let a = net.online(resume(Version::V5, &member));
    net.send(a, subscribe(&[(&filter, options(QOS1))]));
    let a = net.connect_pipelined(1, resume(Version::V5, &member));
    net.connack(a);
    net.send(a, subscribe(&[(&filter, options(QOS1))]));
    assert!(net.pop(1, 0));
    assert!(net.pop(0, 1));
    assert_eq!(net.received(a), []);
    net.run();
    assert!(matches!(net.next(a), Some(Packet::SubAck(_))));
}
