//! MQTT 3.1, which has no numbered statements: what its clients rely on.

use petrel_proto::{Packet, ReasonCode as R, Version};

use crate::harness::across;
use crate::packets::*;

const OLD: Version = Version::V3_1;

/// All levels, retained messages and shared subscriptions, between the oldest and the newest.
#[test]
fn clients_of_mqtt_31_and_mqtt_5_talk_to_each_other() {
    across(|net| {
        let old = net.online(connect(OLD, "old"));
        let new = net.online(v5("new"));
        for (from, to) in [(old, new), (new, old)] {
            net.subscribe(to, "t/#", QOS2);
            net.publish(from, message("t/0", "0"));
            net.publish(from, message("t/1", "1").qos1(1));
            net.publish(from, message("t/2", "2").qos2(2).retained());
            let got = net.settle(to);
            assert_eq!(payloads(&got), ["0", "1", "2"]);
            assert!(got.iter().all(|publish| !publish.retain));
            net.unsuback(to, &["t/#"]);
            net.subscribe(to, "t/+", QOS1);
            assert!(net.settle(to)[0].retain);
            net.unsuback(to, &["t/+"]);
            net.publish(from, message("t/2", "").retained());
        }
    });
}

/// Its CONNACK has no Session Present; the session is there all the same.
#[test]
fn a_session_of_mqtt_31_goes_on_and_does_not_say_so() {
    across(|net| {
        let a = net.online(resume(OLD, "a"));
        net.subscribe(a, "t", QOS2);
        let b = net.online(connect(OLD, "b"));
        net.publish(b, message("t", "sent").qos2(1));
        assert_eq!(net.publishes(a).len(), 1);
        net.drop(a);
        net.publish(b, message("t", "queued").qos1(2));
        let a = net.resumed(resume(OLD, "a"), false);
        let got = net.settle(a);
        assert_eq!(payloads(&got), ["sent", "queued"]);
        assert_eq!(got.iter().map(|p| p.dup).collect::<Vec<_>>(), [true, false]);
    });
}

/// It sets DUP when it repeats a request or a PUBREL; later versions reserve the bit.
#[test]
fn repeated_requests_of_mqtt_31_are_answered() {
    across(|net| {
        let a = net.online(connect(OLD, "a"));
        net.send_bytes(a, &[0x8a, 6, 0, 1, 0, 1, b't', 1]);
        net.send_bytes(a, &[0xaa, 5, 0, 2, 0, 1, b't']);
        net.send_bytes(a, &[0x6a, 2, 0, 3]);
        net.run();
        let received = net.received(a);
        assert!(matches!(
            received.as_slice(),
            [Packet::SubAck(_), Packet::UnsubAck(_), Packet::PubComp(_)]
        ));
        let later = net.online(v311("later"));
        net.send_bytes(later, &[0x8a, 6, 0, 1, 0, 1, b't', 1]);
        net.ended(later, R::MalformedPacket);
    });
}

/// Errors, kicks and silence close without a word.
#[test]
fn a_client_of_mqtt_31_is_never_told_why() {
    across(|net| {
        let a = net.online(connect(OLD, "a").with(|c| c.keep_alive_s = 10));
        net.advance(16_000);
        net.ended(a, R::KeepAliveTimeout);
        let a = net.online(connect(OLD, "a"));
        net.kick(a, R::AdministrativeAction);
        net.ended(a, R::AdministrativeAction);
        let a = net.online(connect(OLD, "a"));
        net.send_bytes(a, &[0xf0, 0]);
        net.ended(a, R::MalformedPacket);
    });
}
