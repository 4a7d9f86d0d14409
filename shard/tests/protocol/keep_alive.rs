//! Keep alive: sections 3.1.2.10, 3.2.2.3.14 and 3.12.

use petrel_proto::{Packet, ReasonCode as R};
use petrel_shard::Verdict;

use crate::harness::{Net, across, across_with, versions};
use crate::packets::*;

/// [MQTT5-3.1.2-22] [MQTT5-3.2.2-22] [MQTT311-3.1.2-24]
#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    versions(|net, version| {
        let a = net.online(connect(version, "a").with(|c| c.keep_alive_s = 10));
        net.advance(14_750);
        assert!(net.is_open(a));
        net.advance(500);
        net.ended(a, R::KeepAliveTimeout);
    });
}

/// [MQTT5-3.1.2-22] [MQTT311-3.1.2-24] [MQTT5-3.12.4-1] [MQTT311-3.12.4-1] Any packet counts.
#[test]
fn any_packet_keeps_a_connection_alive() {
    versions(|net, version| {
        let a = net.online(connect(version, "a").with(|c| c.keep_alive_s = 10));
        let packets = [
            Packet::PingReq,
            message("t", "x").into_packet(),
            subscribe(&[("u", options(QOS0))]).into_packet(),
            unsubscribe(&["u"]),
            pubrel(9),
        ];
        for packet in packets {
            net.advance(14_000);
            net.send(a, packet);
            assert!(net.is_open(a));
        }
        net.received(a);
        net.advance(15_500);
        net.ended(a, R::KeepAliveTimeout);
    });
}

/// [MQTT5-3.1.2-22] What the broker sends does not count.
#[test]
fn what_the_client_receives_does_not_keep_it_alive() {
    versions(|net, version| {
        let b = net.online(connect(version, "b"));
        let a = net.online(connect(version, "a").with(|c| c.keep_alive_s = 10));
        net.subscribe(a, "t", QOS0);
        for _ in 0..4 {
            net.advance(4_000);
            net.publish(b, message("t", "x"));
        }
        assert!(!net.is_open(a));
    });
}

/// [MQTT5-3.1.2-22] [MQTT311-3.1.2-24] A keep alive of 0 turns it off.
#[test]
fn a_keep_alive_of_zero_is_none() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        net.leap(10_000_000_000);
        assert!(net.is_open(a));
    });
}

/// [MQTT5-3.1.2-22] The watch over an authentication ends with it.
#[test]
fn a_client_that_authenticated_may_be_silent_without_a_keep_alive() {
    across(|net| {
        let a = net.connect(v5("a").with(|c| {
            c.properties.authentication_method = Some(text("TEST"));
        }));
        net.verdict(a, Verdict::Accept { data: None, identity: None });
        net.connack(a);
        net.advance(60_000);
        assert!(net.is_open(a));
    });
}

/// [MQTT5-3.1.2-22] Longer than the timer wheel looks ahead.
#[test]
fn the_longest_keep_alive_is_kept_exactly() {
    versions(|net, version| {
        let a = net.online(connect(version, "a").with(|c| c.keep_alive_s = u16::MAX));
        net.advance(65_535 * 1500 - 500);
        assert!(net.is_open(a));
        net.advance(1_000);
        net.ended(a, R::KeepAliveTimeout);
    });
}

/// [MQTT5-3.2.2-21] [MQTT5-3.1.2-21]
#[test]
fn the_keep_alive_of_the_server_replaces_that_of_the_client() {
    for asked in [0, 10, 100] {
        across_with(
            |limits| limits.server_keep_alive_s = 20,
            |net| {
                let a = net.connect(v5("a").with(|c| c.keep_alive_s = asked));
                assert_eq!(net.connack(a).properties.server_keep_alive_s, Some(20));
                net.advance(29_500);
                assert!(net.is_open(a), "asked for {asked}");
                net.advance(1_000);
                net.ended(a, R::KeepAliveTimeout);
            },
        );
    }
}

/// [MQTT311-3.1.2-24] A client that cannot be told keeps its own.
#[test]
fn mqtt_311_keeps_its_own_keep_alive() {
    across_with(
        |limits| limits.server_keep_alive_s = 20,
        |net| {
            let a = net.online(v311("a").with(|c| c.keep_alive_s = 100));
            net.advance(149_000);
            assert!(net.is_open(a));
            net.advance(1_500);
            net.ended(a, R::KeepAliveTimeout);
        },
    );
}

/// [MQTT5-3.2.2-21] Who is within the bounds keeps what it asked for.
#[test]
fn the_keep_alive_is_brought_within_its_bounds() {
    let cases = [(0, Some(60)), (5, Some(10)), (10, None), (60, None), (61, Some(60))];
    for (asked, told) in cases {
        across_with(
            |limits| (limits.keep_alive_min_s, limits.keep_alive_max_s) = (10, 60),
            |net| {
                let a = net.connect(v5("a").with(|c| c.keep_alive_s = asked));
                assert_eq!(net.connack(a).properties.server_keep_alive_s, told, "for {asked}");
                let kept = u64::from(told.unwrap_or(asked));
                net.advance(kept * 1500 - 500);
                assert!(net.is_open(a), "asked for {asked}");
                net.advance(1_000);
                net.ended(a, R::KeepAliveTimeout);
            },
        );
    }
}

/// Without a longest one, none is none.
#[test]
fn no_keep_alive_is_not_short() {
    across_with(
        |limits| limits.keep_alive_min_s = 10,
        |net| {
            let a = net.connect(v5("a").with(|c| c.keep_alive_s = 0));
            assert_eq!(net.connack(a).properties.server_keep_alive_s, None);
            net.advance(100_000);
            assert!(net.is_open(a));
        },
    );
}

/// Who cannot be told is refused, if it would be there for ever.
#[test]
fn before_mqtt_5_a_keep_alive_that_is_too_long_is_refused() {
    across_with(
        |limits| (limits.keep_alive_min_s, limits.keep_alive_max_s) = (10, 60),
        |net| {
            for (asked, enters) in [(0, false), (61, false), (60, true), (1, true)] {
                let a = net.connect(v311("a").with(|c| c.keep_alive_s = asked));
                match enters {
                    true => assert!(net.is_open(a)),
                    false => net.refused(a, R::QuotaExceeded),
                }
            }
        },
    );
}

/// [MQTT5-3.12.4-1] [MQTT311-3.12.4-1]
#[test]
fn pingreq_is_answered_with_pingresp() {
    versions(|net, version| {
        let a = net.online(connect(version, "a"));
        for _ in 0..3 {
            net.send(a, Packet::PingReq);
        }
        assert_eq!(net.received(a), [Packet::PingResp, Packet::PingResp, Packet::PingResp]);
    });
}

/// A crowd that falls silent at once, and its sessions, end over many inputs: those who stay have theirs
/// between.
#[test]
fn a_crowd_of_deadlines_is_dealt_with_in_parts() {
    const CROWD: usize = 200;
    across(|net| {
        let clients: Vec<_> = (0..CROWD)
            .map(|n| net.online(v5(&format!("c{n}")).with(|c| c.keep_alive_s = 10)))
            .collect();
        let of_first = |net: &Net| clients.iter().filter(|&&c| net.is_on(c, 0)).count();
        let all = of_first(net);
        let mut before = all;
        let mut inputs = 0;
        while net.leap_in_part(if inputs == 0 { 15_500 } else { 0 }) {
            inputs += 1;
            let left = of_first(net);
            assert!((1..=4).contains(&(before - left)), "{before} to {left}");
            before = left;
        }
        assert_eq!(of_first(net), 0);
        assert!(inputs >= all / 4 - 1, "{inputs} inputs for {all}");
    });
}
