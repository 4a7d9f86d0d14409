//! Wills: sections 3.1.2.5, 3.1.3.2 and 3.14.

use petrel_proto::{
    Connect, Disconnect, MessageFields, MessageProperties, Packet, PayloadFormat, ReasonCode as R,
    Version,
};

use crate::harness::{Client, Net, across, versions};
use crate::packets::*;

/// Keeps its session for `expiry_s`, and a will on `will` that waits `delay_s`.
fn with_will(expiry_s: u32, delay_s: u32) -> Connect {
    resume(Version::V5, "a").with(|c| {
        c.properties.session_expiry_interval_s = Some(expiry_s);
        c.will = Some(Box::new(will("will", "gone").with(|w| w.delay_interval_s = Some(delay_s))));
    })
}

fn witness(net: &mut Net) -> Client {
    let witness = net.online(v5("witness"));
    net.subscribe(witness, "will", QOS2);
    witness
}

/// [MQTT5-3.1.2-7] [MQTT5-3.1.2-8] [MQTT311-3.1.2-8]
#[test]
fn a_lost_connection_publishes_the_will_once() {
    versions(|net, version| {
        let witness = witness(net);
        let a = net.online(connect(version, "a").with(|c| c.will = Some(will("will", "gone"))));
        net.silent(witness);
        net.drop(a);
        assert_eq!(net.settled(witness), ["gone"]);
        net.advance(10_000);
        net.silent(witness);
    });
}

/// [MQTT5-3.1.2-10] [MQTT5-3.14.4-3] [MQTT311-3.1.2-10] [MQTT311-3.14.4-3]
#[test]
fn a_normal_disconnect_discards_the_will() {
    versions(|net, version| {
        let witness = witness(net);
        for connect in [connect(version, "a"), resume(version, "a")] {
            let a = net.online(connect.with(|c| c.will = Some(will("will", "gone"))));
            net.send(a, Disconnect::new(R::Success));
            net.run();
            assert!(!net.is_open(a));
            let a = net.online(connect_again(version));
            net.drop(a);
            net.silent(witness);
        }
    });
}

/// [MQTT311-3.1.2-12]
#[test]
fn a_client_without_a_will_leaves_none() {
    versions(|net, version| {
        let witness = net.online(connect(version, "witness"));
        net.subscribe(witness, "#", QOS0);
        let a = net.online(connect(version, "a"));
        net.drop(a);
        net.silent(witness);
    });
}

fn connect_again(version: Version) -> Connect {
    resume(version, "a")
}

/// [MQTT5-3.1.2-10] [MQTT5-3.14.4-3] Every other reason keeps it.
#[test]
fn a_disconnect_with_any_other_reason_publishes_the_will() {
    across(|net| {
        let witness = witness(net);
        for reason in [R::DisconnectWithWill, R::UnspecifiedError, R::PacketTooLarge] {
            let a = net.online(v5("a").with(|c| c.will = Some(will("will", "gone"))));
            net.send(a, Disconnect::new(reason));
            assert_eq!(net.settled(witness), ["gone"], "{reason:?}");
        }
    });
}

/// [MQTT5-3.1.2-8] [MQTT311-3.1.2-8] Errors, silence, the operator and the end of the broker are no goodbyes.
#[test]
fn a_connection_that_the_broker_closes_publishes_the_will() {
    versions(|net, version| {
        let witness = witness(net);
        let with_will = |keep_alive_s| {
            connect(version, "a").with(|c| {
                c.keep_alive_s = keep_alive_s;
                c.will = Some(will("will", "gone"));
            })
        };
        let a = net.online(with_will(0));
        net.send_bytes(a, &[0xc1, 0]);
        net.ended(a, R::MalformedPacket);
        assert_eq!(net.settled(witness), ["gone"]);
        let a = net.online(with_will(10));
        net.advance(16_000);
        net.ended(a, R::KeepAliveTimeout);
        assert_eq!(net.settled(witness), ["gone"]);
        let a = net.online(with_will(0));
        net.kick(a, R::AdministrativeAction);
        net.ended(a, R::AdministrativeAction);
        assert_eq!(net.settled(witness), ["gone"]);
    });
}

/// [MQTT5-3.1.2-9] [MQTT5-3.1.2-14] [MQTT5-3.1.2-15] [MQTT311-3.1.2-9] [MQTT311-3.1.2-16] [MQTT311-3.1.2-17]
#[test]
fn a_will_has_its_qos_its_retain_flag_and_its_properties() {
    across(|net| {
        let witness = net.online(v5("witness"));
        net.subscribe_with(witness, "will", as_published(QOS2));
        let fields = MessageFields {
            payload_format: Some(PayloadFormat::Utf8),
            content_type: Some(text("text/plain")),
            response_topic: Some(text("answer")),
            correlation_data: Some("id".into()),
            user_properties: pairs(&[("b", "1"), ("a", "2"), ("b", "1")]),
        };
        for (qos, retain) in [(QOS0, false), (QOS1, true), (QOS2, false)] {
            let a = net.online(v5("a").with(|c| {
                c.will = Some(Box::new(will("will", "gone").with(|w| {
                    (w.qos, w.retain) = (qos, retain);
                    w.properties.message_expiry_interval_s = Some(30);
                    w.properties.message = MessageProperties::of(&fields).unwrap();
                })));
            }));
            net.drop(a);
            let got = net.settle(witness).remove(0);
            assert_eq!((got.qos, got.retain), (qos, retain));
            assert_eq!(got.properties.message_expiry_interval_s, Some(30));
            assert_eq!(got.properties.message.fields(), fields);
        }
        let late = net.online(v5("late"));
        net.subscribe(late, "will", QOS2);
        assert_eq!(net.settle(late).len(), 1, "the one with RETAIN is kept");
    });
}

/// [MQTT5-3.1.3-10] User properties keep their order.
#[test]
fn a_will_keeps_the_order_of_its_user_properties() {
    across(|net| {
        let witness = witness(net);
        let order = [("z", "1"), ("a", "2"), ("z", "0")];
        let a = net.online(v5("a").with(|c| {
            c.will = Some(
                will("will", "")
                    .with(|w| {
                        let user_properties = pairs(&order);
                        let fields = MessageFields { user_properties, ..MessageFields::default() };
                        w.properties.message = MessageProperties::of(&fields).unwrap();
                    })
                    .into(),
            );
        }));
        net.drop(a);
        let got = net.settle(witness).remove(0);
        let fields = got.properties.message.fields();
        assert_eq!(fields.user_properties.iter().collect::<Vec<_>>(), order);
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-3.1.3-9]
#[test]
fn a_delayed_will_waits_for_its_delay() {
    across(|net| {
        let witness = witness(net);
        let a = net.online(with_will(3600, 10));
        net.drop(a);
        net.advance(9_500);
        net.silent(witness);
        net.advance(1_000);
        assert_eq!(net.settled(witness), ["gone"]);
        net.advance(60_000);
        net.silent(witness);
        net.resumed(with_will(0, 0), true);
    });
}

/// [MQTT5-3.1.2-8] The end of the session comes first.
#[test]
fn a_delayed_will_is_published_when_its_session_ends() {
    across(|net| {
        let witness = witness(net);
        let a = net.online(with_will(5, 100));
        net.drop(a);
        net.advance(4_000);
        net.silent(witness);
        net.advance(1_500);
        assert_eq!(net.settled(witness), ["gone"]);
        // An expiry of 0 ends it at once.
        let a = net.online(with_will(0, 100));
        net.drop(a);
        assert_eq!(net.settled(witness), ["gone"]);
        // As does a DISCONNECT that says so.
        let a = net.online(with_will(50, 100));
        let leave = Disconnect::new(R::DisconnectWithWill);
        net.send(a, leave.with(|d| d.session_expiry_interval_s = Some(0)));
        assert_eq!(net.settled(witness), ["gone"]);
    });
}

/// [MQTT5-3.1.3-9]
#[test]
fn coming_back_before_the_delay_cancels_the_will() {
    across(|net| {
        let witness = witness(net);
        let a = net.online(with_will(3600, 10));
        net.drop(a);
        net.advance(9_000);
        let a = net.resumed(resume(Version::V5, "a"), true);
        net.advance(60_000);
        net.drop(a);
        net.advance(60_000);
        net.silent(witness);
    });
}

/// [MQTT5-3.1.3-9] Taking over is coming back.
#[test]
fn taking_over_cancels_a_delayed_will_if_the_session_goes_on() {
    across(|net| {
        let witness = witness(net);
        net.online(with_will(3600, 10));
        net.resumed(resume(Version::V5, "a"), true);
        net.advance(60_000);
        net.silent(witness);
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-3.1.4-3] [MQTT311-3.1.2-8]
#[test]
fn taking_over_publishes_a_will_without_delay() {
    versions(|net, version| {
        let witness = witness(net);
        net.online(resume(version, "a").with(|c| c.will = Some(will("will", "gone"))));
        net.resumed(resume(version, "a"), true);
        assert_eq!(net.settled(witness), ["gone"]);
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-3.1.2-4] A clean start ends the session, and so the wait.
#[test]
fn a_clean_start_publishes_a_delayed_will() {
    across(|net| {
        let witness = witness(net);
        net.online(with_will(3600, 10));
        net.online(v5("a"));
        assert_eq!(net.settled(witness), ["gone"]);
        let a = net.online(with_will(3600, 10));
        net.drop(a);
        net.silent(witness);
        net.online(v5("a"));
        assert_eq!(net.settled(witness), ["gone"]);
        net.advance(30_000);
        net.silent(witness);
    });
}

/// [MQTT5-3.1.2-8] A session without expiry ends with its connection, whoever takes over.
#[test]
fn taking_over_a_session_without_expiry_publishes_its_delayed_will() {
    across(|net| {
        let witness = witness(net);
        net.online(with_will(0, 10));
        net.resumed(resume(Version::V5, "a"), false);
        assert_eq!(net.settled(witness), ["gone"]);
    });
}

/// [MQTT5-3.1.3-9] Each connection has a will of its own.
#[test]
fn a_new_connection_replaces_the_will() {
    across(|net| {
        let witness = witness(net);
        let a = net.online(with_will(3600, 10));
        net.drop(a);
        net.advance(5_000);
        let a = net.online(with_will(3600, 10).with(|c| c.will = Some(will("will", "second"))));
        net.drop(a);
        assert_eq!(net.settled(witness), ["second"]);
        net.advance(30_000);
        net.silent(witness);
    });
}

/// [MQTT5-3.3.2-5] The expiry of a will counts from its publication.
#[test]
fn the_expiry_of_a_delayed_will_begins_when_it_is_published() {
    across(|net| {
        let witness = witness(net);
        let a = net.online(with_will(3600, 10).with(|c| {
            let will = c.will.as_mut().unwrap();
            will.properties.message_expiry_interval_s = Some(5);
        }));
        net.drop(a);
        net.advance(11_000);
        let got = net.settle(witness).remove(0);
        assert_eq!(got.properties.message_expiry_interval_s, Some(5));
    });
}

/// [MQTT5-3.1.2-15] [MQTT5-3.3.1-6] [MQTT311-3.1.2-17] [MQTT311-3.3.1-10]
#[test]
fn an_empty_will_with_retain_clears_the_topic() {
    versions(|net, version| {
        let b = net.online(v5("b"));
        net.publish(b, message("will", "kept").retained());
        let empty = will("will", "").with(|w| w.retain = true);
        let a = net.online(connect(version, "a").with(|c| c.will = Some(empty.into())));
        assert_eq!(net.census().retained, 1);
        net.drop(a);
        assert_eq!(net.census().retained, 0);
    });
}

/// 4.7.2: the server's own topics are closed to wills too.
#[test]
fn a_will_on_a_topic_of_the_server_refuses_the_connect() {
    versions(|net, version| {
        let a = net.connect(connect(version, "a").with(|c| c.will = Some(will("$SYS/x", "w"))));
        net.refused(a, R::NotAuthorized);
    });
}

/// [MQTT5-3.1.2-8] [MQTT5-4.13.2-1] [MQTT5-3.14.0-1]
#[test]
fn a_broker_that_stops_says_so_and_publishes_wills() {
    across(|net| {
        let keeper = net.online(resume(Version::V5, "keeper"));
        net.subscribe(keeper, "will", QOS1);
        let mut last = Vec::new();
        for version in [Version::V3_1_1, Version::V5] {
            let id = format!("a{version}");
            last.push(net.online(connect(version, &id).with(|c| {
                c.will = Some(will("will", "gone").with(|w| w.qos = QOS1).into());
            })));
        }
        let delayed = net.online(v5("delayed").with(|c| {
            c.properties.session_expiry_interval_s = Some(60);
            let will = will("will", "early").with(|w| w.delay_interval_s = Some(30));
            c.will = Some(will.into());
        }));
        net.shut_down();
        // Everybody gets them, wherever they live and whenever they connected; not the one that may
        // still be cancelled.
        for _ in 0..2 {
            let packet = net.take(keeper, |packet| matches!(packet, Packet::Publish(_)));
            assert!(matches!(packet, Some(Packet::Publish(will)) if will.payload == "gone"));
        }
        assert!(net.take(keeper, |packet| matches!(packet, Packet::Publish(_))).is_none());
        net.ended(delayed, R::ServerShuttingDown);
        for client in last {
            net.ended(client, R::ServerShuttingDown);
        }
        assert!(!net.is_open(keeper));
        let next = net.connect(v5("next"));
        net.refused(next, R::ServerUnavailable);
    });
}
