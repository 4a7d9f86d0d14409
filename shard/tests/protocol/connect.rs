//! CONNECT and CONNACK: sections 3.1 and 3.2.

use std::collections::HashSet;

use petrel_proto::{Packet, Qos, ReasonCode as R, Version};

use crate::harness::{Net, across, across_with, versions};
use crate::packets::*;

/// A CONNECT with an empty payload but for the client identifier `c`, byte by byte.
fn raw(name: &str, level: u8, flags: u8) -> Vec<u8> {
    let mut body = vec![0, name.len() as u8];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[level, flags, 0, 60]);
    if level >= 5 {
        body.push(0);
    }
    body.extend_from_slice(&[0, 1, b'c']);
    let mut packet = vec![0x10, body.len() as u8];
    packet.append(&mut body);
    packet
}

/// [MQTT5-3.1.4-5] [MQTT5-3.2.0-1] [MQTT311-3.1.4-4] [MQTT311-3.2.0-1]
#[test]
fn the_answer_to_a_good_connect_is_connack_success() {
    versions(|net, version| {
        let a = net.resumed(connect(version, "a"), false);
        net.subscribe(a, "t/+", QOS0);
        let b = net.online(connect(version, "b"));
        net.publish(b, message("t/1", "hello"));
        assert_eq!(payloads(&net.publishes(a)), ["hello"]);
        net.silent(b);
    });
}

/// [MQTT5-3.1.0-1] [MQTT311-3.1.0-1] Every other packet type, in its shortest form.
#[test]
fn the_first_packet_must_be_connect() {
    let mut net = Net::new(1);
    let firsts: [&[u8]; 13] = [
        &[0x20, 2, 0, 0],
        &[0x30, 3, 0, 1, b't'],
        &[0x40, 2, 0, 1],
        &[0x50, 2, 0, 1],
        &[0x62, 2, 0, 1],
        &[0x70, 2, 0, 1],
        &[0x82, 6, 0, 1, 0, 1, b't', 0],
        &[0x90, 3, 0, 1, 0],
        &[0xa2, 5, 0, 1, 0, 1, b't'],
        &[0xb0, 2, 0, 1],
        &[0xc0, 0],
        &[0xe0, 0],
        &[0xf0, 0],
    ];
    for first in firsts {
        let client = net.open(0, first);
        assert!(!net.is_open(client), "{first:02x?}");
        net.silent(client);
    }
}

/// [MQTT5-3.1.0-2] [MQTT311-3.1.0-2]
#[test]
fn a_second_connect_is_a_protocol_error() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.send(a, Packet::Connect(Box::new(connect(version, "a"))));
        net.ended(a, R::ProtocolError);
    });
}

/// [MQTT5-3.1.2-1] [MQTT5-3.1.2-2] [MQTT311-3.1.2-1] [MQTT311-3.1.2-2]
#[test]
fn an_unknown_protocol_level_is_refused_in_the_form_that_its_client_understands() {
    let mut net = Net::new(1);
    for level in [6, 7, 0x7f] {
        let client = net.open(0, &raw("MQTT", level, 2));
        assert_eq!(net.version(client), Version::V5);
        net.refused(client, R::UnsupportedProtocolVersion);
    }
    for level in [0, 1, 2] {
        let client = net.open(0, &raw("MQTT", level, 2));
        assert_eq!(net.version(client), Version::V3_1);
        net.refused(client, R::UnsupportedProtocolVersion);
    }
}

/// [MQTT5-3.1.2-3] [MQTT5-3.1.2-11] [MQTT5-3.1.2-12] [MQTT5-3.1.2-13] [MQTT5-3.1.4-1]
/// [MQTT5-4.13.1-1] [MQTT311-3.1.2-3] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] [MQTT311-3.1.2-14]
/// [MQTT311-3.1.2-15] [MQTT311-3.1.4-1] [MQTT311-3.2.2-6] [MQTT311-4.8.0-1]
#[test]
fn bad_connect_flags_are_told_to_mqtt_5_and_close_mqtt_3() {
    let mut net = Net::new(1);
    // The reserved flag; will QoS, then will retain, without a will; will QoS 3.
    for flags in [0b0000_0011, 0b0000_1010, 0b0010_0010, 0b0001_1110] {
        let new = net.open(0, &raw("MQTT", 5, flags));
        net.refused(new, R::MalformedPacket);
        let old = net.open(0, &raw("MQTT", 4, flags));
        net.ended(old, R::MalformedPacket);
    }
}

/// [MQTT311-3.1.2-22] MQTT 5 lifted the rule.
#[test]
fn a_password_without_a_user_name_is_an_error_only_before_mqtt_5() {
    let mut net = Net::new(1);
    let mut old = raw("MQTT", 4, 0b0100_0010);
    old.extend_from_slice(&[0, 1, b'p']);
    old[1] += 3;
    let old = net.open(0, &old);
    net.ended(old, R::MalformedPacket);
    net.online(v5("c").with(|c| c.password = Some("secret".into())));
}

/// [MQTT5-3.1.3-6] [MQTT5-3.1.3-7] [MQTT5-3.2.2-16]
#[test]
fn an_empty_client_identifier_gets_one_that_nobody_else_has() {
    across(|net| {
        let mut assigned = HashSet::new();
        for shard in [0, net.slots.shards() - 1] {
            for _ in 0..20 {
                let client = net.connect_at(shard, resume(Version::V5, ""));
                let connack = net.connack(client);
                assert!(!connack.session_present);
                let id = connack.properties.assigned_client_id.expect("no identifier");
                assert_eq!(net.slots.home_of(id.as_bytes()).0, shard, "homed elsewhere");
                assert!(assigned.insert(id));
            }
        }
    });
}

/// [MQTT5-3.2.2-16] The identifier is as good as one of the client's own.
#[test]
fn an_assigned_client_identifier_names_its_session_later() {
    across(|net| {
        let a = net.connect_at(0, resume(Version::V5, ""));
        let id = net.connack(a).properties.assigned_client_id.unwrap();
        net.drop(a);
        let a = net.resumed(resume(Version::V5, id.as_str()), true);
        let other = net.connect_at(0, v5(""));
        assert_ne!(net.connack(other).properties.assigned_client_id, Some(id));
        assert!(net.is_open(a));
    });
}

/// [MQTT311-3.1.3-6] [MQTT311-3.1.3-7] [MQTT311-3.1.3-8]
#[test]
fn mqtt_311_may_leave_the_identifier_out_only_with_a_clean_session() {
    let mut net = Net::new(1);
    net.online(v311(""));
    net.online(v311(""));
    let kept = net.connect(v311("").with(|c| c.clean_start = false));
    net.refused(kept, R::ClientIdentifierNotValid);
}

/// MQTT 3.1 knows no empty identifiers.
#[test]
fn mqtt_31_may_not_leave_the_identifier_out() {
    let mut net = Net::new(1);
    let client = net.connect(connect(Version::V3_1, ""));
    net.refused(client, R::ClientIdentifierNotValid);
    net.online(connect(Version::V3_1, "c"));
}

/// [MQTT5-3.1.3-5] [MQTT311-3.1.3-5]
#[test]
fn client_identifiers_of_any_length_and_character_are_accepted() {
    versions(|net, version| {
        net.online(connect(
            version,
            "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        ));
        net.online(connect(version, &"x".repeat(65_535)));
        net.online(connect(version, "/+#$ \u{feff}é"));
    });
}

/// [MQTT5-3.1.3-8] [MQTT311-3.1.3-9]
#[test]
fn a_client_identifier_beyond_the_limit_is_refused() {
    across_with(
        |limits| limits.client_id_bytes_maximum = 23,
        |net| {
            let long = "x".repeat(24);
            let client = net.connect(v5(&long));
            net.refused(client, R::ClientIdentifierNotValid);
            let client = net.connect(v311(&long));
            net.refused(client, R::ClientIdentifierNotValid);
            net.online(v5(&long[1..]));
        },
    );
}

/// [MQTT5-3.1.4-3] [MQTT5-3.14.0-1] [MQTT311-3.1.4-2]
#[test]
fn a_second_connection_of_a_client_closes_the_first() {
    versions(|net, version| {
        for next in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let old = net.online(connect(version, "a"));
            let new = net.online(connect(next, "a"));
            net.ended(old, R::SessionTakenOver);
            assert!(net.is_open(new));
            net.send(new, Packet::PingReq);
            assert_eq!(net.received(new), [Packet::PingResp]);
        }
    });
}

/// [MQTT5-3.1.4-3] What the old connection still sends finds nobody.
#[test]
fn a_connection_that_was_taken_over_is_deaf() {
    across(|net| {
        let old = net.online(resume(Version::V5, "a"));
        let new = net.online(resume(Version::V5, "a"));
        net.ended(old, R::SessionTakenOver);
        net.send(old, subscribe(&[("t", options(QOS0))]));
        net.send(old, Packet::PingReq);
        net.drop(old);
        assert!(net.is_open(new));
        net.publish(new, message("t", "x"));
        net.silent(new);
        net.silent(old);
    });
}

/// [MQTT5-3.1.4-6] [MQTT5-3.2.2-7] [MQTT311-3.1.4-5] [MQTT311-3.2.2-5]
#[test]
fn what_follows_a_refused_connect_is_not_processed() {
    across(|net| {
        let witness = net.online(v5("witness"));
        net.subscribe(witness, "#", QOS0);
        net.allow_anonymous = false;
        for version in [Version::V3_1_1, Version::V5] {
            let client = net.connect_pipelined(0, connect(version, "a"));
            net.send(client, message("t", "from nobody"));
            net.send(client, Packet::PingReq);
            net.run();
            net.refused(client, R::NotAuthorized);
        }
        net.silent(witness);
    });
}

/// [MQTT5-3.1.4-6] [MQTT311-3.1.4-5] A client need not wait for CONNACK.
#[test]
fn what_follows_an_accepted_connect_at_once_is_processed() {
    versions(|net, version| {
        let home = net.slots.home_of(b"a").0;
        let a = net.connect_pipelined(home, connect(version, "a"));
        net.send(a, subscribe(&[("t", options(QOS1))]));
        net.send(a, message("t", "own").qos1(1));
        net.send(a, Packet::PingReq);
        net.run();
        net.connack(a);
        let received = net.received(a);
        assert!(matches!(received[0], Packet::SubAck(_)), "{received:?}");
        assert!(received.contains(&Packet::PingResp));
        assert!(received.iter().any(|packet| matches!(packet, Packet::Publish(_))));
    });
}

/// [MQTT5-3.1.2-28] [MQTT5-3.1.2-29]
#[test]
fn response_information_comes_only_when_asked_for() {
    across(|net| {
        for asked in [None, Some(false), Some(true)] {
            let a = net.connect(v5("a").with(|c| {
                c.properties.request_response_information = asked;
            }));
            let told = net.connack(a).properties.response_information;
            assert_eq!(told.is_some(), asked == Some(true), "{asked:?}");
        }
    });
}

/// [MQTT5-3.2.2-9] [MQTT5-3.2.2-10]
#[test]
fn a_maximum_qos_is_told_and_does_not_limit_subscriptions() {
    for maximum in [0, 1] {
        across_with(
            |limits| limits.maximum_qos = maximum,
            |net| {
                let a = net.connect(v5("a"));
                let told = net.connack(a).properties.maximum_qos;
                assert_eq!(told, Qos::from_u8(maximum));
                for qos in [QOS0, QOS1, QOS2] {
                    net.suback(a, subscribe(&[("t", options(qos))]));
                }
                assert!(net.is_open(a));
            },
        );
    }
    let mut net = Net::new(1);
    let a = net.connect(v5("a"));
    assert_eq!(net.connack(a).properties.maximum_qos, None, "2 is never on the wire");
}

/// [MQTT5-3.2.2-12] [MQTT5-3.2.2-13]
#[test]
fn a_will_that_the_server_cannot_publish_refuses_the_connect() {
    across_with(
        |limits| (limits.maximum_qos, limits.retain_available) = (1, false),
        |net| {
            let with = |qos, retain| {
                v5("a").with(|c| {
                    c.will =
                        Some(will("t", "w").with(|w| (w.qos, w.retain) = (qos, retain)).into());
                })
            };
            let client = net.connect(with(QOS2, false));
            net.refused(client, R::QosNotSupported);
            let client = net.connect(with(QOS0, true));
            net.refused(client, R::RetainNotSupported);
            let client = net.online(with(QOS1, false));
            net.send(client, petrel_proto::Disconnect::new(R::Success));
        },
    );
}

/// [MQTT5-3.2.2-14] [MQTT5-3.2.2-11]
#[test]
fn what_the_server_said_it_cannot_do_ends_the_connection() {
    across_with(
        |limits| (limits.maximum_qos, limits.retain_available) = (1, false),
        |net| {
            let a = net.connect(v5("a"));
            assert_eq!(net.connack(a).properties.retain_available, Some(false));
            net.send(a, message("t", "x").retained());
            net.ended(a, R::RetainNotSupported);
            let a = net.online(v5("a"));
            net.send(a, message("t", "x").qos2(1));
            net.ended(a, R::QosNotSupported);
        },
    );
}

/// [MQTT5-3.1.2-19] [MQTT5-3.1.2-17] [MQTT311-3.1.2-19] [MQTT311-3.1.2-21]
#[test]
fn user_name_and_password_are_accepted_where_nothing_is_to_be_proved() {
    versions(|net, version| {
        net.online(connect(version, "a").with(|c| c.username = Some(text("u"))));
        net.online(connect(version, "b").with(|c| {
            (c.username, c.password) = (Some(text("u")), Some("p".into()));
        }));
    });
}

/// [MQTT5-3.1.4-2] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5]
#[test]
fn a_refused_connect_leaves_the_connected_client_alone() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.allow_anonymous = false;
        let b = net.connect(connect(version, "a"));
        net.refused(b, R::NotAuthorized);
        assert!(net.is_open(a));
        net.send(a, Packet::PingReq);
        assert_eq!(net.received(a), [Packet::PingResp]);
    });
}

/// 3.2.2.3: a server says what differs from the defaults.
#[test]
fn connack_tells_the_limits_of_the_server() {
    across_with(
        |limits| {
            limits.receive_maximum = 5;
            limits.maximum_packet_size_bytes = 1000;
            limits.topic_alias_maximum = 3;
            limits.server_keep_alive_s = 9;
        },
        |net| {
            let a = net.connect(v5("a"));
            let told = net.connack(a).properties;
            assert_eq!(told.receive_maximum, Some(5));
            assert_eq!(told.maximum_packet_size, Some(1000));
            assert_eq!(told.topic_alias_maximum, Some(3));
            assert_eq!(told.server_keep_alive_s, Some(9));
            assert_eq!(told.session_expiry_interval_s, None);
            assert_eq!(told.assigned_client_id, None);
            assert_eq!(told.response_information, None);
            assert_eq!(told.authentication_method, None);
        },
    );
}

/// [MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.1.2-24]
#[test]
fn a_refusal_that_would_be_too_large_goes_without_its_reason_string() {
    across(|net| {
        net.allow_anonymous = false;
        let roomy = net.connect(v5("a"));
        assert!(net.connack(roomy).properties.reason_string.is_some());
        let tight = net.connect(v5("a").with(|c| c.properties.maximum_packet_size = Some(5)));
        assert_eq!(net.connack(tight).properties.reason_string, None);
    });
}

/// [MQTT5-3.1.2-24] A client that cannot be told that it is connected is not. It learns why if even
/// that fits.
#[test]
fn a_client_that_accepts_no_connack_is_closed() {
    across(|net| {
        for maximum in 1..6 {
            let a = net.connect(v5("a").with(|c| {
                c.properties.maximum_packet_size = Some(maximum);
            }));
            match maximum {
                5 => net.refused(a, R::PacketTooLarge),
                _ => net.silent(a),
            }
            assert!(!net.is_open(a), "{maximum}");
        }
    });
}

/// [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] [MQTT5-3.5.2-2] [MQTT5-3.5.2-3] [MQTT5-3.6.2-2] [MQTT5-3.6.2-3]
/// [MQTT5-3.7.2-2] [MQTT5-3.7.2-3] [MQTT5-3.9.2-1] [MQTT5-3.9.2-2] [MQTT5-3.11.2-1] [MQTT5-3.11.2-2]
/// The client of these tests measures every packet.
#[test]
fn answers_fit_a_client_that_takes_little() {
    across(|net| {
        let tight = v5("a").with(|c| c.properties.maximum_packet_size = Some(20));
        let a = net.online(tight);
        net.send(a, message("$SYS/x", "no").qos1(1));
        net.send(a, message("$SYS/x", "no").qos2(2));
        net.send(a, pubrel(9));
        net.send(a, pubrec(9));
        net.send(a, subscribe(&[("t", options(QOS0)), ("$share/g/t", options(QOS0))]));
        net.send(a, unsubscribe(&["t", "other", "$share/g/t"]));
        net.run();
        assert_eq!(net.received(a).len(), 6);
        assert!(net.is_open(a));
    });
}

/// [MQTT5-3.1.2-29] A request problem information of 0 leaves only codes.
#[test]
fn without_problem_information_acknowledgements_carry_no_words() {
    across(|net| {
        let quiet = v5("a").with(|c| c.properties.request_problem_information = Some(false));
        let a = net.online(quiet);
        net.send(a, message("$SYS/x", "no").qos1(1));
        net.send(a, message("$SYS/x", "no").qos2(2));
        net.send(a, pubrel(9));
        net.send(a, subscribe(&[("t", options(QOS0))]));
        net.send(a, unsubscribe(&["other"]));
        net.run();
        for packet in net.received(a) {
            let properties = match packet {
                Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubComp(ack) => ack.properties,
                Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.properties,
                other => panic!("{other:?}"),
            };
            assert!(properties.is_empty(), "{properties:?}");
        }
    });
}
