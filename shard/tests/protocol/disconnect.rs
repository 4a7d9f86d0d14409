//! DISCONNECT and errors: sections 3.14, 4.8 of MQTT 3.1.1 and 4.13.

use petrel_proto::{Disconnect, Packet, ReasonCode as R, Version};
use petrel_shard::{EndedBy, Event};

use crate::harness::{across, versions};
use crate::packets::*;

/// [MQTT5-3.14.4-1] [MQTT5-3.14.4-2] [MQTT311-3.14.4-1] [MQTT311-3.14.4-2]
#[test]
fn after_disconnect_the_connection_is_closed_and_nothing_is_heard() {
    versions(|net, version| {
        let witness = net.online(connect(version, "witness"));
        net.subscribe(witness, "t", QOS0);
        let a = net.online(connect(version, "a"));
        net.send(a, Disconnect::new(R::Success));
        assert!(!net.is_open(a));
        net.silent(a);
        net.send(a, message("t", "m"));
        net.run();
        net.silent(witness);
    });
}

/// [MQTT5-3.14.1-1] [MQTT5-3.15.1-1] [MQTT5-2.1.3-1] [MQTT5-4.13.1-1] [MQTT311-3.14.1-1]
/// [MQTT311-2.2.2-1] [MQTT311-2.2.2-2]
#[test]
fn wrong_flags_in_a_fixed_header_end_the_connection() {
    versions(|net, version| {
        let packets: [&[u8]; 9] = [
            &[0xe1, 0],
            &[0xf1, 0],
            &[0xc8, 0],
            &[0x41, 2, 0, 1],
            &[0x52, 2, 0, 1],
            &[0x63, 2, 0, 1],
            &[0x71, 2, 0, 1],
            &[0x83, 2, 0, 1],
            &[0x00, 0],
        ];
        for bytes in packets {
            let a = net.online(connect(version, "a"));
            net.send_bytes(a, bytes);
            net.ended(a, R::MalformedPacket);
        }
    });
}

/// [MQTT5-1.5.5-1] [MQTT5-4.13.1-1]
#[test]
fn a_length_that_is_none_ends_the_connection() {
    versions(|net, version| {
        for bytes in [&[0xc0, 0x80, 0x00][..], &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]] {
            let a = net.online(connect(version, "a"));
            net.send_bytes(a, bytes);
            net.ended(a, R::MalformedPacket);
        }
    });
}

/// [MQTT5-3.14.2-1] [MQTT5-4.13.1-1] A reason that DISCONNECT does not have.
#[test]
fn a_disconnect_with_a_code_of_another_packet_is_an_error() {
    across(|net| {
        for code in [0x01, 0x10, 0x92, 0xff] {
            let a = net.online(v5("a"));
            net.send_bytes(a, &[0xe0, 1, code]);
            assert!(!net.is_open(a));
            assert!(matches!(net.received(a).last(), Some(Packet::Disconnect(_))), "{code:02x}");
        }
    });
}

/// [MQTT5-4.13.2-1] [MQTT5-3.14.0-1] [MQTT311-4.8.0-1] The operator's reason is told.
#[test]
fn a_client_that_is_kicked_is_told_why() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.kick(a, R::AdministrativeAction);
        net.ended(a, R::AdministrativeAction);
    });
}

/// [MQTT5-3.14.0-1] [MQTT5-4.13.2-1] Only when CONNACK has been sent.
#[test]
fn there_is_no_disconnect_before_connack() {
    across(|net| {
        let a = net.connect(v5("a").with(|c| {
            c.properties.authentication_method = Some(text("TEST"));
        }));
        net.questions.clear();
        net.kick(a, R::AdministrativeAction);
        assert!(net.connack(a).reason.is_error());
        net.silent(a);
    });
}

/// [MQTT5-4.13.1-1] [MQTT5-4.13.2-1] [MQTT311-4.8.0-1] One bad client is one bad client.
#[test]
fn an_error_of_one_client_is_no_business_of_another() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.subscribe(a, "t", QOS1);
        for number in 0..5 {
            let bad = net.online(connect(version, &format!("bad{number}")));
            net.send_bytes(bad, &[0xff, 0]);
            assert!(!net.is_open(bad));
        }
        net.publish(a, message("t", "m").qos1(1));
        assert_eq!(net.settled(a), ["m"]);
    });
}

/// Nobody is turned away, or let in, without a trace.
#[test]
fn every_connect_has_an_event() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.drop(a);
        net.online(resume(version, "a"));
        net.allow_anonymous = false;
        let b = net.connect(connect(version, "b"));
        net.refused(b, R::NotAuthorized);
        let told: Vec<_> = net
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Connected { client_id, session_present, .. } => {
                    Some((client_id.as_str(), Ok(*session_present)))
                }
                Event::Refused { client_id, reason, .. } => {
                    Some((client_id.as_str(), Err(*reason)))
                }
                _ => None,
            })
            .collect();
        let expected = [("a", Ok(false)), ("a", Ok(true)), ("b", Err(R::NotAuthorized))];
        assert_eq!(told, expected);
    });
}

/// Events say who ended what and why.
#[test]
fn every_end_has_an_event_with_its_reason() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.send(a, Disconnect::new(R::Success));
        let b = net.online(connect(version, "b"));
        net.drop(b);
        let c = net.online(connect(version, "c"));
        net.send_bytes(c, &[0xc1, 0]);
        let d = net.online(connect(version, "d"));
        net.kick(d, R::AdministrativeAction);
        let e = net.online(connect(version, "e"));
        net.kick(e, R::MessageRateTooHigh);
        net.online(connect(version, "f"));
        net.ban(&petrel_shard::Banned::ClientId("f".try_into().expect("text")));
        let ends: Vec<_> = net
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Disconnected { client_id, by, reason, .. } => {
                    Some((client_id.as_str(), *by, *reason))
                }
                _ => None,
            })
            .collect();
        let expected = [
            ("a", EndedBy::Client, R::Success),
            ("b", EndedBy::Network, R::UnspecifiedError),
            ("c", EndedBy::Broker, R::MalformedPacket),
            ("d", EndedBy::Admin, R::AdministrativeAction),
            ("e", EndedBy::Broker, R::MessageRateTooHigh),
            ("f", EndedBy::Admin, R::AdministrativeAction),
        ];
        assert_eq!(ends, expected);
    });
}

/// Two clients with one identifier are found by that.
#[test]
fn a_take_over_names_both_connections_before_the_first_ends() {
    versions(|net, version| {
        net.online(connect(version, "a"));
        let before = net.events.len();
        net.online(connect(version, "a"));
        let [
            Event::TakenOver { conn, by, client_id },
            Event::Disconnected { conn: ended, reason: R::SessionTakenOver, .. },
            Event::Connected { conn: came, .. },
        ] = &net.events[before..]
        else {
            panic!("{:?}", &net.events[before..]);
        };
        assert_eq!((conn, by, client_id.as_str()), (ended, came, "a"));
    });
}

/// What the log says of a client that is in.
#[test]
fn a_connect_says_which_keep_alive_holds() {
    versions(|net, version| {
        net.online(connect(version, "a").with(|c| c.keep_alive_s = 90));
        net.online(connect(version, "b"));
        let kept = net.events.iter().filter_map(|event| match event {
            Event::Connected { keep_alive_s, .. } => Some(*keep_alive_s),
            _ => None,
        });
        assert_eq!(kept.collect::<Vec<_>>(), [90, 0]);
    });
}

/// [MQTT5-3.1.2-24] However little the client takes.
#[test]
fn a_connection_is_closed_once_however_small_its_packets() {
    across(|net| {
        for maximum in [20, 25, 30, 100] {
            let tight = v5("a").with(|c| c.properties.maximum_packet_size = Some(maximum));
            let a = net.connect(tight);
            if net.is_open(a) {
                net.send_bytes(a, &[0xc1, 0]);
            }
            assert!(!net.is_open(a));
        }
    });
}

/// [MQTT5-3.14.4-1] What is owed before the end is sent before it.
#[test]
fn answers_precede_the_end_that_the_broker_makes() {
    across(|net| {
        let a = net.online(v5("a"));
        net.send(a, message("t", "m").qos1(1));
        net.send_bytes(a, &[0xc1, 0]);
        let received = net.received(a);
        assert!(matches!(received.as_slice(), [Packet::PubAck(_), Packet::Disconnect(_)]));
    });
}

/// [MQTT5-3.14.4-3] DISCONNECT of MQTT 3.1 has no body and discards the will.
#[test]
fn the_oldest_version_says_goodbye_as_the_others_do() {
    across(|net| {
        let witness = net.online(connect(Version::V3_1, "witness"));
        net.subscribe(witness, "will", QOS1);
        let leaving =
            |id: &str| connect(Version::V3_1, id).with(|c| c.will = Some(will("will", "gone")));
        let a = net.online(leaving("a"));
        net.send(a, Disconnect::new(R::Success));
        net.run();
        net.silent(witness);
        let a = net.online(leaving("a"));
        net.drop(a);
        assert_eq!(net.settled(witness), ["gone"]);
    });
}
