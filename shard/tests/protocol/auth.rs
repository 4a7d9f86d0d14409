//! Enhanced authentication: section 4.12. The method `TEST` is the only one that is known.

use std::sync::Arc;

use petrel_proto::{Connect, Disconnect, Packet, ReasonCode as R, Version};
use petrel_shard::{Access, Asks, Identity, Verdict};

use crate::harness::{Client, Net, across};
use crate::packets::*;

fn asking(client_id: &str, data: &str) -> Connect {
    resume(Version::V5, client_id).with(|c| {
        c.properties.authentication_method = Some(text("TEST"));
        if !data.is_empty() {
            c.properties.authentication_data = Some(data.to_owned().into());
        }
    })
}

fn go_on(data: &str) -> Verdict {
    Verdict::Continue { data: Some(data.to_owned().into()) }
}

fn accept(data: &str) -> Verdict {
    Verdict::Accept { data: (!data.is_empty()).then(|| data.to_owned().into()), identity: None }
}

fn step(data: &str, starts: bool) -> Asks {
    Asks::Step { method: text("TEST"), listener: 0, data: Some(data.to_owned().into()), starts }
}

fn refuse(reason: R) -> Verdict {
    Verdict::Refuse { reason }
}

/// A client that has authenticated in one step.
fn authenticated(net: &mut Net) -> Client {
    let a = net.connect(asking("a", ""));
    net.verdict(a, accept(""));
    assert_eq!(net.connack(a).reason, R::Success);
    a
}

/// [MQTT5-4.12.0-2] [MQTT5-4.12.0-3] [MQTT5-4.12.0-5] [MQTT5-3.15.2-1] [MQTT5-3.15.2-2]
/// [MQTT5-3.15.2-3]
#[test]
fn an_exchange_of_several_steps_ends_with_connack() {
    across(|net| {
        let a = net.connect(asking("a", "hello"));
        net.silent(a);
        let asked = net.verdict(a, go_on("challenge"));
        assert_eq!(asked.client_id.as_str(), "a");
        assert_eq!(asked.asks, step("hello", true));
        let challenge = auth(R::ContinueAuthentication, "TEST", "challenge").into_packet();
        assert_eq!(net.received(a), [challenge]);
        net.send(a, auth(R::ContinueAuthentication, "TEST", "proof"));
        let asked = net.verdict(a, accept("welcome"));
        assert_eq!(asked.asks, step("proof", false));
        let connack = net.connack(a);
        assert_eq!(connack.reason, R::Success);
        assert_eq!(connack.properties.authentication_method, Some(text("TEST")));
        assert_eq!(connack.properties.authentication_data, Some("welcome".into()));
        net.subscribe(a, "t", QOS0);
    });
}

/// [MQTT5-4.12.0-1]
#[test]
fn an_unknown_method_refuses_the_connect() {
    across(|net| {
        let a = net.connect(v5("a").with(|c| {
            c.properties.authentication_method = Some(text("OTHER"));
        }));
        net.refused(a, R::BadAuthenticationMethod);
        assert!(net.questions.is_empty());
    });
}

/// [MQTT5-4.12.0-4] [MQTT5-4.13.1-1] At the first step or at a later one.
#[test]
fn a_failed_exchange_refuses_the_connect() {
    across(|net| {
        for reason in [R::NotAuthorized, R::BadUserNameOrPassword, R::Banned] {
            let a = net.connect(asking("a", ""));
            net.verdict(a, refuse(reason));
            net.refused(a, reason);
        }
        let a = net.connect(asking("a", ""));
        net.verdict(a, go_on("1"));
        net.received(a);
        net.send(a, auth(R::ContinueAuthentication, "TEST", "2"));
        net.verdict(a, refuse(R::NotAuthorized));
        net.refused(a, R::NotAuthorized);
        assert_eq!((net.census().connections, net.census().sessions), (0, 0));
    });
}

/// [MQTT5-3.1.2-30] [MQTT5-3.2.0-1] Nothing but AUTH and DISCONNECT before CONNACK.
#[test]
fn other_packets_during_the_exchange_refuse_the_connect() {
    across(|net| {
        let packets = [
            message("t", "m").into_packet(),
            subscribe(&[("t", options(QOS0))]).into_packet(),
            Packet::PingReq,
            Packet::Connect(Box::new(v5("a"))),
        ];
        for packet in packets {
            let a = net.connect(asking("a", ""));
            net.questions.clear();
            net.send(a, packet);
            net.run();
            net.refused(a, R::ProtocolError);
        }
        let a = net.connect(asking("a", ""));
        net.questions.clear();
        net.send(a, Disconnect::new(R::Success));
        assert!(!net.is_open(a));
        net.silent(a);
        assert_eq!(net.census().connections, 0);
    });
}

/// [MQTT5-4.12.0-5] [MQTT5-4.12.0-3] Each wrong turn of the client.
#[test]
fn a_wrong_turn_refuses_the_connect() {
    across(|net| {
        let wrong = [
            auth(R::ContinueAuthentication, "OTHER", ""),
            auth(R::ReAuthenticate, "TEST", ""),
            auth(R::Success, "TEST", ""),
        ];
        for step in wrong {
            let a = net.connect(asking("a", ""));
            net.verdict(a, go_on("1"));
            net.received(a);
            net.send(a, step);
            net.refused(a, R::ProtocolError);
        }
        // Before it is the client's turn.
        let a = net.connect(asking("a", ""));
        net.questions.clear();
        net.send(a, auth(R::ContinueAuthentication, "TEST", ""));
        net.refused(a, R::ProtocolError);
    });
}

/// [MQTT5-4.12.0-6] [MQTT5-4.12.0-7] [MQTT5-4.13.1-1]
#[test]
fn auth_without_a_method_in_connect_is_a_protocol_error() {
    across(|net| {
        for reason in [R::ReAuthenticate, R::ContinueAuthentication, R::Success] {
            let a = net.connect(v5("a"));
            assert_eq!(net.connack(a).properties.authentication_method, None);
            net.send(a, auth(reason, "TEST", ""));
            net.ended(a, R::ProtocolError);
        }
    });
}

/// [MQTT5-4.12.1-1] [MQTT5-4.12.0-2] [MQTT5-4.12.0-3]
#[test]
fn a_client_may_authenticate_again_while_it_works() {
    across(|net| {
        let a = authenticated(net);
        net.subscribe(a, "t", QOS0);
        for _ in 0..2 {
            net.send(a, auth(R::ReAuthenticate, "TEST", "again"));
            let asked = net.verdict(a, go_on("1"));
            assert!(matches!(asked.asks, Asks::Step { starts: true, .. }));
            assert_eq!(asked.client_id.as_str(), "a");
            net.received(a);
            // The session goes on meanwhile.
            net.publish(a, message("t", "m"));
            assert_eq!(net.settled(a), ["m"]);
            net.send(a, auth(R::ContinueAuthentication, "TEST", "2"));
            net.verdict(a, accept("done"));
            assert_eq!(net.received(a), [auth(R::Success, "TEST", "done").into_packet()]);
        }
    });
}

/// [MQTT5-4.12.1-2] [MQTT5-3.14.2-1]
#[test]
fn a_failed_re_authentication_ends_the_connection() {
    across(|net| {
        for (verdict, told) in [
            (R::NotAuthorized, R::NotAuthorized),
            (R::BadUserNameOrPassword, R::NotAuthorized),
            (R::ServerUnavailable, R::ServerBusy),
        ] {
            let a = authenticated(net);
            net.send(a, auth(R::ReAuthenticate, "TEST", ""));
            net.verdict(a, refuse(verdict));
            net.ended(a, told);
        }
    });
}

/// [MQTT5-4.12.1-1] [MQTT5-4.12.0-5] The method is that of the CONNECT.
#[test]
fn a_wrong_turn_of_a_re_authentication_ends_the_connection() {
    across(|net| {
        let wrong = [
            auth(R::ReAuthenticate, "OTHER", ""),
            auth(R::ContinueAuthentication, "TEST", ""),
            auth(R::Success, "TEST", ""),
        ];
        for step in wrong {
            let a = authenticated(net);
            net.send(a, step);
            net.ended(a, R::ProtocolError);
        }
        let a = authenticated(net);
        net.send(a, auth(R::ReAuthenticate, "TEST", ""));
        net.questions.clear();
        net.send(a, auth(R::ReAuthenticate, "TEST", ""));
        net.ended(a, R::ProtocolError);
    });
}

/// [MQTT5-3.1.4-3] Who has not proved anything takes nothing over.
#[test]
fn a_session_is_taken_over_only_when_the_exchange_succeeds() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        let thief = net.connect(asking("a", ""));
        assert!(net.is_open(a));
        net.verdict(thief, refuse(R::NotAuthorized));
        net.refused(thief, R::NotAuthorized);
        assert!(net.is_open(a));
        let owner = net.connect(asking("a", ""));
        net.verdict(owner, accept(""));
        assert!(net.connack(owner).session_present);
        net.ended(a, R::SessionTakenOver);
    });
}

/// [MQTT5-3.1.2-8] A will counts from CONNACK on.
#[test]
fn a_client_that_goes_during_the_exchange_has_no_will() {
    across(|net| {
        let witness = net.online(v5("witness"));
        net.subscribe(witness, "will", QOS0);
        let a = net.connect(asking("a", "").with(|c| c.will = Some(will("will", "gone"))));
        net.questions.clear();
        net.drop(a);
        net.silent(witness);
        assert_eq!(net.census().connections, 1);
    });
}

/// A verdict that comes too late finds nobody.
#[test]
fn a_verdict_for_a_connection_that_is_gone_does_nothing() {
    across(|net| {
        let a = net.connect(asking("a", ""));
        net.drop(a);
        net.verdict(a, accept(""));
        net.silent(a);
        assert_eq!(net.census().sessions, 0);
    });
}

/// 4.12: nobody may hold a connection without proving anything.
#[test]
fn a_client_that_falls_silent_during_the_exchange_is_refused() {
    across(|net| {
        let a = net.connect(asking("a", ""));
        net.verdict(a, go_on("1"));
        net.received(a);
        net.advance(11_000);
        assert!(!net.is_open(a));
        assert_eq!(net.census().connections, 0);
        assert!(net.connack(a).reason.is_error());
    });
}

/// [MQTT5-3.1.3-6] [MQTT5-3.2.2-16] An identifier is assigned once the exchange is over, too.
#[test]
fn an_assigned_identifier_comes_with_the_connack_of_an_exchange() {
    across(|net| {
        let a = net.connect_at(0, asking("", ""));
        let asked = net.verdict(a, accept(""));
        assert_eq!(net.connack(a).properties.assigned_client_id, Some(asked.client_id));
    });
}

fn accept_as(user: &str) -> Verdict {
    let identity = Identity { user: text(user), ..Identity::default() };
    Verdict::Accept { data: None, identity: Some(Arc::new(identity)) }
}

/// [MQTT5-4.12.1-2] A session stays its user's, whatever its client proves later.
#[test]
fn who_proves_to_be_somebody_else_is_disconnected() {
    for (second, stays) in [("alice", true), ("bob", false)] {
        across(|net| {
            net.begin_with(Access { is_on: true, ..Access::default() });
            let passing = |c: &mut Connect| c.properties.session_expiry_interval_s = None;
            let a = net.connect(asking("a", "hello").with(passing));
            net.verdict(a, accept_as("alice"));
            assert_eq!(net.connack(a).reason, R::Success);
            net.send(a, auth(R::ReAuthenticate, "TEST", "again"));
            net.verdict(a, accept_as(second));
            match stays {
                true => {
                    let done = net.received(a);
                    assert!(matches!(&done[..], [Packet::Auth(it)] if it.reason == R::Success));
                }
                false => net.ended(a, R::NotAuthorized),
            }
        });
    }
}
