//! Sessions: sections 3.1.2.4, 3.1.2.11.2, 3.2.2.1 and 4.1.

use petrel_proto::{Disconnect, MessageFields, ReasonCode as R, Version};
use petrel_shard::Event;

use crate::harness::{across, across_with, versions};
use crate::packets::*;

const NEVER: u32 = u32::MAX;

fn expiry(seconds: u32, clean: bool) -> petrel_proto::Connect {
    v5("a").with(|c| {
        c.clean_start = clean;
        c.properties.session_expiry_interval_s = Some(seconds);
    })
}

/// [MQTT5-3.1.2-4] [MQTT5-3.1.2-5] [MQTT5-3.1.2-6] [MQTT5-3.1.3-2] [MQTT5-3.1.4-4] [MQTT5-3.2.2-2]
/// [MQTT5-3.2.2-3] [MQTT311-3.1.2-4] [MQTT311-3.1.2-6] [MQTT311-3.1.3-2] [MQTT311-3.1.4-3]
/// [MQTT311-3.2.2-1] [MQTT311-3.2.2-2] [MQTT311-3.2.2-3]
#[test]
fn session_present_is_right_in_all_four_combinations() {
    versions(|net, version| {
        let clean = resume(version, "a").with(|c| c.clean_start = true);
        let a = net.resumed(clean.clone(), false);
        net.drop(a);
        if version.is_v5() {
            // The clean session of MQTT 3.1.1 ends with its connection.
            let a = net.resumed(clean.clone(), false);
            net.drop(a);
            let a = net.resumed(resume(version, "a"), true);
            net.drop(a);
        }
        let a = net.resumed(clean, false);
        net.drop(a);
        let other = net.resumed(resume(version, "b"), false);
        net.drop(other);
        let other = net.resumed(resume(version, "b"), true);
        net.drop(other);
        net.resumed(resume(version, "b"), true);
    });
}

/// [MQTT5-3.1.2-4] [MQTT5-3.1.2-5] [MQTT5-3.2.2-3] [MQTT311-3.1.2-4] [MQTT311-3.1.2-5]
#[test]
fn session_present_is_right_when_a_connection_is_taken_over() {
    versions(|net, version| {
        let clean = resume(version, "a").with(|c| c.clean_start = true);
        net.resumed(resume(version, "a"), false);
        net.resumed(resume(version, "a"), true);
        net.resumed(clean, false);
        let goes_on = version.is_v5();
        net.resumed(resume(version, "a"), goes_on);
    });
}

/// [MQTT5-3.1.2-23] [MQTT5-3.2.2-2] A session with an expiry of 0 ends with its connection, even if another
/// connection ends it.
#[test]
fn taking_over_a_session_without_expiry_finds_none() {
    across(|net| {
        let a = net.online(expiry(0, true));
        net.subscribe(a, "t", QOS1);
        let a = net.resumed(expiry(60, false), false);
        net.publish(a, message("t", "x").qos1(1));
        net.silent(a);
    });
}

/// [MQTT5-3.1.2-4] [MQTT311-3.1.2-6] [MQTT5-4.1.0-2]
#[test]
fn a_clean_start_discards_subscriptions_queue_and_inflight() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "t", QOS2);
        net.publish(b, message("t", "sent").qos1(1));
        net.drop(a);
        net.publish(b, message("t", "queued").qos2(2));
        let a = net.resumed(connect(version, "a"), false);
        net.publish(b, message("t", "late").qos1(3));
        net.silent(a);
        assert_eq!((net.census().inflight, net.census().queued_messages), (0, 0));
    });
}

/// [MQTT5-3.1.2-5] [MQTT311-3.1.2-4] [MQTT311-3.1.2-5] [MQTT5-4.1.0-1] [MQTT311-4.1.0-1]
#[test]
fn a_session_that_goes_on_keeps_subscriptions_and_what_came_meanwhile() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "t/#", QOS2);
        net.drop(a);
        net.publish(b, message("t/1", "one").qos1(1));
        net.publish(b, message("t/2", "two").qos2(2));
        net.publish(b, message("t/1", "three").qos1(3));
        let a = net.resumed(resume(version, "a"), true);
        assert_eq!(net.settled(a), ["one", "two", "three"]);
        net.publish(b, message("t/1", "four").qos1(4));
        assert_eq!(net.settled(a), ["four"]);
    });
}

/// [MQTT5-3.1.2-23] [MQTT5-4.1.0-2]
#[test]
fn a_session_ends_when_its_expiry_has_passed_and_not_before() {
    across(|net| {
        let a = net.online(expiry(10, true));
        net.subscribe(a, "t", QOS1);
        net.advance(60_000);
        net.drop(a);
        net.advance(9_000);
        let a = net.resumed(expiry(10, false), true);
        net.drop(a);
        net.events.clear();
        net.advance(10_500);
        assert_eq!((net.census().sessions, net.census().subscriptions), (0, 0));
        let ended = |event: &Event| matches!(event, Event::SessionEnded { what, .. } if what.contains("expiry"));
        assert!(net.events.len() == 1 && net.events.iter().all(ended), "{:?}", net.events);
        net.resumed(expiry(10, false), false);
    });
}

/// [MQTT5-3.1.2-23] [MQTT311-4.1.0-2]
#[test]
fn a_session_that_never_expires_does_not() {
    versions(|net, version| {
        let forever = resume(version, "a").with(|c| {
            c.properties.session_expiry_interval_s = version.is_v5().then_some(NEVER);
        });
        let a = net.online(forever.clone());
        net.drop(a);
        for _ in 0..20 {
            net.leap(u64::from(NEVER) * 100);
        }
        net.resumed(forever, true);
    });
}

/// [MQTT5-3.1.2-23] Longer than the timer wheel looks ahead.
#[test]
fn a_session_of_a_year_ends_after_a_year() {
    across(|net| {
        let a = net.online(expiry(31_536_000, true));
        net.drop(a);
        for _ in 0..364 {
            net.leap(86_400_000);
        }
        assert_eq!(net.census().sessions, 1);
        net.leap(86_400_000);
        net.leap(300_000);
        assert_eq!(net.census().sessions, 0);
    });
}

/// [MQTT5-4.1.0-1] While the connection is open the session is kept, whatever its expiry.
#[test]
fn a_session_does_not_expire_while_it_is_connected() {
    across(|net| {
        let a = net.online(expiry(1, true));
        net.drop(a);
        let a = net.resumed(expiry(1, false), true);
        net.subscribe(a, "t", QOS0);
        net.advance(30_000);
        net.publish(a, message("t", "x"));
        assert_eq!(net.settled(a), ["x"]);
    });
}

/// 3.2.2.3.2: the interval that counts is told if it is not the one asked for.
#[test]
fn a_cap_on_session_expiry_is_told_and_kept() {
    across_with(
        |limits| limits.session_expiry_max_s = 20,
        |net| {
            for (asked, told) in [(NEVER, Some(20)), (21, Some(20)), (20, None), (0, None)] {
                let a = net.connect(expiry(asked, true));
                let properties = net.connack(a).properties;
                assert_eq!(properties.session_expiry_interval_s, told, "asked for {asked}");
                net.drop(a);
            }
            let a = net.online(expiry(100, true));
            net.drop(a);
            net.advance(20_500);
            assert_eq!(net.census().sessions, 0);
            // MQTT 3.1.1 cannot be told, but the cap holds.
            let old = net.online(resume(Version::V3_1_1, "old"));
            net.drop(old);
            net.advance(20_500);
            assert_eq!(net.census().sessions, 0);
        },
    );
}

/// [MQTT5-3.1.2-23] 3.14.2.2.2: DISCONNECT may change the interval ...
#[test]
fn disconnect_replaces_the_session_expiry() {
    across(|net| {
        let leave = |seconds| {
            Disconnect::new(R::Success).with(|d| d.session_expiry_interval_s = Some(seconds))
        };
        let a = net.online(expiry(5, true));
        net.send(a, leave(100));
        net.advance(50_000);
        let a = net.resumed(expiry(100, false), true);
        net.send(a, leave(0));
        assert_eq!(net.census().sessions, 0);
        let a = net.resumed(expiry(100, false), false);
        net.send(a, leave(5));
        net.advance(6_000);
        assert_eq!(net.census().sessions, 0);
    });
}

/// 3.14.2.2.2: ... but not from 0 ([MQTT5-4.13.1-1]).
#[test]
fn disconnect_cannot_bring_a_session_without_expiry_to_life() {
    across(|net| {
        for connect in [v5("a"), expiry(0, true)] {
            let a = net.online(connect);
            net.send(
                a,
                Disconnect::new(R::Success).with(|d| d.session_expiry_interval_s = Some(1)),
            );
            net.ended(a, R::ProtocolError);
            assert_eq!(net.census().sessions, 0);
        }
        let a = net.online(v5("a"));
        net.send(a, Disconnect::new(R::Success).with(|d| d.session_expiry_interval_s = Some(0)));
        net.silent(a);
    });
}

/// [MQTT5-3.1.2-23] The interval of the latest CONNECT counts.
#[test]
fn each_connect_sets_the_expiry_anew() {
    across(|net| {
        let a = net.online(expiry(5, true));
        net.drop(a);
        let a = net.resumed(expiry(50, false), true);
        net.drop(a);
        net.advance(40_000);
        let a = net.resumed(v5("a").with(|c| c.clean_start = false), true);
        net.drop(a);
        assert_eq!(net.census().sessions, 0);
    });
}

/// [MQTT5-3.1.2-5] [MQTT311-3.1.2-4] A session outlives a change of version.
#[test]
fn a_session_goes_on_in_another_version() {
    across(|net| {
        let b = net.online(v5("b"));
        let a = net.online(resume(Version::V3_1_1, "a"));
        net.subscribe(a, "t", QOS1);
        net.drop(a);
        net.publish(b, message("t", "one").qos1(1));
        let a = net.resumed(resume(Version::V5, "a"), true);
        assert_eq!(net.settled(a), ["one"]);
        net.drop(a);
        let fields = MessageFields { content_type: Some(text("x")), ..MessageFields::default() };
        net.publish(b, message("t", "two").fields(fields).qos1(1));
        let a = net.resumed(resume(Version::V3_1_1, "a"), true);
        assert_eq!(net.settled(a), ["two"]);
    });
}

/// 3.14.2.2.2 speaks of the interval in CONNECT, not of what became of it ([MQTT5-3.14.4-3]).
#[test]
fn a_server_that_keeps_no_sessions_takes_a_goodbye_as_it_is_meant() {
    across_with(
        |limits| limits.session_expiry_max_s = 0,
        |net| {
            let witness = net.online(v5("witness"));
            net.subscribe(witness, "will", QOS0);
            let leaving = expiry(100, true).with(|c| c.will = Some(will("will", "gone")));
            let a = net.connect(leaving);
            assert_eq!(net.connack(a).properties.session_expiry_interval_s, Some(0));
            let goodbye = Disconnect::new(R::Success);
            net.send(a, goodbye.with(|d| d.session_expiry_interval_s = Some(50)));
            net.run();
            net.silent(a);
            net.silent(witness);
            assert_eq!(net.census().sessions, 1);
            let old = net.online(resume(Version::V3_1_1, "old"));
            net.drop(old);
            assert_eq!(net.census().sessions, 1);
        },
    );
}
