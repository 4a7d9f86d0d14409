//! Messages to more receivers than are served in a turn.

use petrel_proto::{Disconnect, Packet, Qos, ReasonCode as R, Version};
use petrel_shard::DropReason;

use crate::harness::{Client, Net};
use crate::packets::*;

const RECEIVERS: usize = 7;

/// One shard, which serves two receivers in a turn; the receivers, and somebody who publishes.
fn many(qos: Qos) -> (Net, Vec<Client>, Client) {
    let mut net = Net::with(1, |limits| limits.receivers_per_turn = 2);
    let receivers = (0..RECEIVERS).map(|n| {
        let receiver = net.online(resume(Version::V5, &format!("r{n}")));
        net.subscribe(receiver, "t", qos);
        receiver
    });
    let receivers = receivers.collect();
    let publisher = net.online(v5("publisher"));
    (net, receivers, publisher)
}

/// What each has got, of which nobody has had anything before.
fn payloads_of(net: &mut Net, receivers: &[Client]) -> Vec<Vec<String>> {
    receivers.iter().map(|&receiver| net.settled(receiver)).collect()
}

fn number_of(net: &mut Net, receivers: &[Client]) -> usize {
    receivers.iter().map(|&receiver| net.publishes(receiver).len()).sum()
}

#[test]
fn two_get_it_in_each_turn_and_all_in_the_end() {
    for qos in [QOS0, QOS1, QOS2] {
        let (mut net, receivers, publisher) = many(qos);
        net.publish(publisher, message("t", "one").qos2(1));
        assert_eq!(number_of(&mut net, &receivers), 2);
        assert!(net.leap_in_part(0));
        net.run();
        assert_eq!(number_of(&mut net, &receivers), 2);
        net.leap(0);
        assert_eq!(number_of(&mut net, &receivers), 3);
        assert!(!net.leap_in_part(0));
    }
}

/// [MQTT5-4.6.0-6] Two publishers, and messages for one receiver alone.
#[test]
fn each_receiver_gets_everything_in_order() {
    for qos in [QOS0, QOS1, QOS2] {
        let (mut net, receivers, publisher) = many(qos);
        let other = net.online(v5("other"));
        net.subscribe(receivers[6], "own", qos);
        for number in 0..20_u16 {
            let name = if number % 5 == 0 { "own" } else { "t" };
            let from = if number % 2 == 0 { publisher } else { other };
            net.publish(from, message(name, &number.to_string()).qos2(number + 1));
        }
        net.leap(0);
        let expected = |own: bool| {
            let all = (0..20).filter(|number| own || number % 5 != 0);
            all.map(|number: u16| number.to_string()).collect::<Vec<_>>()
        };
        let got = payloads_of(&mut net, &receivers);
        assert!(got[..6].iter().all(|got| *got == expected(false)), "{got:?}");
        assert_eq!(got[6], expected(true));
    }
}

/// [MQTT5-3.10.4-2]
#[test]
fn nothing_comes_behind_unsuback() {
    let (mut net, receivers, publisher) = many(QOS1);
    net.publish(publisher, message("t", "one").qos1(1));
    let last = receivers[6];
    net.silent(last);
    net.send(last, unsubscribe(&["t"]));
    net.run();
    let got = net.received(last);
    assert!(matches!(&got[..], [Packet::Publish(_), Packet::UnsubAck(_)]), "{got:?}");
    net.leap(0);
    net.silent(last);
}

#[test]
fn who_goes_and_comes_again_gets_what_is_kept_for_its_session() {
    for (qos, expected) in [(QOS0, &[][..]), (QOS1, &["one"]), (QOS2, &["one"])] {
        let (mut net, receivers, publisher) = many(qos);
        net.publish(publisher, message("t", "one").qos2(1));
        net.drop(receivers[6]);
        assert_eq!(net.dropped(DropReason::NotConnected), usize::from(qos == QOS0));
        let again = net.resumed(resume(Version::V5, "r6"), true);
        assert_eq!(net.settled(again), expected);
        net.leap(0);
        net.silent(again);
        // Somebody else in the place of a session that has ended.
        net.publish(publisher, message("t", "two").qos2(2));
        let over = Disconnect::new(R::Success).with(|d| d.session_expiry_interval_s = Some(0));
        net.send(receivers[5], over);
        let new = net.online(v5("new"));
        net.leap(0);
        net.silent(new);
    }
}

/// [MQTT5-3.1.2-8]
#[test]
fn a_will_goes_to_all_of_many_and_the_last_ones_before_the_broker_stops() {
    let (mut net, receivers, _) = many(QOS1);
    let with_will = |name: &str| v5(name).with(|c| c.will = Some(will("t", "gone")));
    let a = net.online(with_will("a"));
    net.online(with_will("b"));
    net.drop(a);
    net.leap(0);
    assert!(payloads_of(&mut net, &receivers).iter().all(|got| got[..] == ["gone"]));
    net.shut_down();
    for receiver in receivers {
        let got = net.received(receiver);
        assert!(matches!(&got[..], [Packet::Publish(_), Packet::Disconnect(_)]), "{got:?}");
    }
}

/// More messages under way than may be, and each receiver many times among them.
#[test]
fn messages_under_way_are_bounded() {
    let (mut net, receivers, publisher) = many(QOS0);
    let numbers: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    for number in &numbers {
        net.publish(publisher, message("t", number));
    }
    // Those before the last sixteen have reached everybody.
    assert!(receivers.iter().all(|&receiver| net.publishes(receiver).len() >= 984));
    net.leap(0);
    assert_eq!(number_of(&mut net, &receivers), 16 * RECEIVERS - 2);
}

/// Looking for what is due to one after the other has a bound, behind which everything is delivered.
#[test]
fn those_who_get_something_of_their_own_in_between_do_not_keep_the_shard() {
    const MANY: usize = 400;
    let mut net = Net::with(1, |limits| limits.receivers_per_turn = 1);
    let receivers: Vec<_> = (0..MANY)
        .map(|n| {
            let receiver = net.online(v5(&format!("r{n}")));
            net.subscribe(receiver, "t", QOS0);
            net.subscribe(receiver, &format!("own/{n}"), QOS0);
            receiver
        })
        .collect();
    let publisher = net.online(v5("publisher"));
    let numbers: Vec<String> = (0..16).map(|number| number.to_string()).collect();
    for number in &numbers {
        net.publish(publisher, message("t", number));
    }
    for n in (MANY - 20..MANY).rev() {
        net.publish(publisher, message(&format!("own/{n}"), "own"));
    }
    // The bound was met, so those who were sent nothing else have everything as well.
    assert_eq!(net.publishes(receivers[MANY / 2]).len(), 16);
    net.leap(0);
    let expected: Vec<_> = numbers.iter().map(String::as_str).chain(["own"]).collect();
    for &receiver in &receivers[MANY - 20..] {
        assert_eq!(net.settled(receiver), expected);
    }
}

/// [MQTT5-3.1.2-8] More messages than one input leads to.
#[test]
fn the_last_wills_of_a_crowd_reach_all_of_it() {
    const CROWD: usize = 100;
    for shards in [1, 3] {
        let mut net = Net::new(shards);
        let crowd: Vec<_> = (0..CROWD)
            .map(|n| {
                let with_will = v5(&format!("c{n}")).with(|c| c.will = Some(will("t", "gone")));
                let client = net.online(with_will);
                net.subscribe(client, "t", QOS0);
                client
            })
            .collect();
        net.shut_down();
        for client in crowd {
            let got = net.received(client);
            let wills = got.iter().filter(|packet| matches!(packet, Packet::Publish(_))).count();
            assert_eq!((wills, got.len()), (CROWD, CROWD + 1));
        }
    }
}
