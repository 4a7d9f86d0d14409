//! When a connection is taken over, and when it is not.

use bytes::BytesMut;
use petrel_net::tls::compact::{CompactSession, HandoverError, TrafficSecrets};
use rustls::Side;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::version::TLS12;
use std::sync::Arc;

use crate::rig::{ROLES, SUITES, Site, give_to, name, pair, says, shaken, take_from};

#[test]
fn both_roles_carry_data_with_every_suite() {
    for role in ROLES {
        for suite in SUITES {
            let (mut session, mut peer) = pair(role, suite);
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            // A client gets the server's tickets first, and ignores them.
            session.read(&mut says(&mut peer, b"to us"), &mut plain, &mut out).unwrap();
            assert_eq!(&plain[..], b"to us");
            assert!(out.is_empty());
            session.write(b"from us", &mut out).unwrap();
            assert_eq!(give_to(&mut peer, &out).unwrap(), b"from us");
        }
    }
}

#[test]
fn two_compact_sessions_understand_each_other() {
    // Client and server are not of one handshake in `pair`; so the forwarding peer is in between.
    let (mut server, mut to_server) = pair(Side::Server, SUITES[0]);
    let (mut client, mut to_client) = pair(Side::Client, SUITES[2]);
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    client.write(b"forwarded", &mut out).unwrap();
    let heard = give_to(&mut to_client, &out).unwrap();
    server.read(&mut says(&mut to_server, &heard), &mut plain, &mut out).unwrap();
    assert_eq!(&plain[..], b"forwarded");
}

#[test]
fn tls_1_2_stays_with_the_library() {
    let suite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    for role in ROLES {
        let (session, _, _) = shaken(Site::with_version(suite, &TLS12), role);
        assert_eq!(session.err(), Some(HandoverError::NotTls13));
    }
}

#[test]
fn a_handshake_that_is_not_complete_is_refused() {
    let client = Arc::new(Site::new(SUITES[0]).client);
    let conn = UnbufferedClientConnection::new(client, name()).unwrap();
    assert!(!CompactSession::accepts(&conn));
    let result = CompactSession::from_client(conn, TrafficSecrets::new());
    assert_eq!(result.err(), Some(HandoverError::NotReady));
}

#[test]
fn without_preparation_there_are_no_secrets() {
    let site = Site::new(SUITES[0]);
    let (client, server) = (Arc::new(site.client), Arc::new(site.server));
    let mut conn = UnbufferedClientConnection::new(client, name()).unwrap();
    let mut peer = rustls::Connection::from(rustls::ServerConnection::new(server).unwrap());
    let mut secrets = TrafficSecrets::new();
    crate::rig::shake_client(&mut conn, &mut secrets, &mut peer);
    assert!(!secrets.is_complete());
    assert_eq!(CompactSession::from_client(conn, secrets).err(), Some(HandoverError::Refused));
}

#[test]
fn secrets_of_another_connection_are_found_out() {
    let mut sites = [Site::new(SUITES[0]), Site::new(SUITES[0])].map(|mut site| {
        petrel_net::tls::compact::prepare_client(&mut site.client);
        let (client, server) = (Arc::new(site.client), Arc::new(site.server));
        let mut conn = UnbufferedClientConnection::new(client, name()).unwrap();
        let mut peer = rustls::Connection::from(rustls::ServerConnection::new(server).unwrap());
        let mut secrets = TrafficSecrets::new();
        crate::rig::shake_client(&mut conn, &mut secrets, &mut peer);
        assert!(secrets.is_complete());
        Some((conn, secrets))
    });
    let (first, _) = sites[0].take().unwrap();
    let (_, second) = sites[1].take().unwrap();
    let mixed = CompactSession::from_client(first, second);
    assert_eq!(mixed.err(), Some(HandoverError::OtherKeys));
}

#[test]
fn a_session_moves_to_another_thread_with_half_a_record() {
    for role in ROLES {
        let (mut session, mut peer) = pair(role, SUITES[0]);
        let mut wire = says(&mut peer, b"halves");
        let mut rest = wire.split_off(wire.len() / 2);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        session.read(&mut wire, &mut plain, &mut out).unwrap();
        assert_ne!(session.tail_bytes(), 0);
        let moved = std::thread::spawn(move || {
            session.read(&mut rest, &mut plain, &mut out).unwrap();
            session.write(b"back", &mut out).unwrap();
            (session.tail_bytes(), plain, out)
        });
        let (tail, plain, out) = moved.join().unwrap();
        assert_eq!((tail, &plain[..]), (0, &b"halves"[..]));
        assert_eq!(give_to(&mut peer, &out).unwrap(), b"back");
    }
}

#[test]
fn keys_are_not_shown() {
    let (session, mut peer) = pair(Side::Server, SUITES[0]);
    take_from(&mut peer, &mut Vec::new());
    assert_eq!(format!("{session:?}"), "CompactSession { phase: Open, tail_bytes: 0, .. }");
    assert_eq!(format!("{:?}", TrafficSecrets::new()), "TrafficSecrets { complete: false }");
}
