//! Long streams and record boundaries.

use bytes::BytesMut;
use rustls::Side;

use crate::rig::{ROLES, SUITES, give_to, pair, says};

#[test]
fn bulk_crosses_read_boundaries_in_both_directions() {
    let bulk: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for role in ROLES {
        for suite in SUITES {
            let (mut session, mut peer) = pair(role, suite);
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            for part in says(&mut peer, &bulk).chunks_mut(65_536) {
                session.read(part, &mut plain, &mut out).unwrap();
            }
            assert!(plain == bulk);
            session.write(&bulk, &mut out).unwrap();
            assert_eq!(out.len(), bulk.len() + 22 * bulk.len().div_ceil(1 << 14));
            assert!(give_to(&mut peer, &out).unwrap() == bulk);
        }
    }
}

#[test]
fn every_split_of_two_records_gives_the_same_bytes() {
    for at in 0..=55 {
        let (mut session, mut peer) = pair(Side::Server, SUITES[0]);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let mut wire = says(&mut peer, b"first");
        wire.extend(says(&mut peer, b"second"));
        assert_eq!(wire.len(), 55);
        let (first, second) = wire.split_at_mut(at);
        session.read(first, &mut plain, &mut out).unwrap();
        session.read(second, &mut plain, &mut out).unwrap();
        assert_eq!(&plain[..], b"firstsecond", "split at {at}");
        assert_eq!(session.tail_bytes(), 0);
        assert!(out.is_empty());
    }
}

#[test]
fn nothing_said_is_nothing_sent() {
    let (mut session, _) = pair(Side::Server, SUITES[0]);
    let mut out = Vec::new();
    session.write(b"", &mut out).unwrap();
    assert!(out.is_empty());
}
