//! Everything that a peer must not send, sealed with valid keys where that is needed.

use bytes::BytesMut;
use petrel_net::tls::compact::{CompactSession, RECORD_BYTES_MAX, RecordFault};
use rustls::Side;

use crate::rig::contents::{ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE};
use crate::rig::{Forger, Opened, ROLES, SUITES, forged};

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;

fn feed(
    session: &mut CompactSession,
    wire: &[u8],
) -> (Result<bool, RecordFault>, Vec<u8>, Vec<u8>) {
    let (mut plain, mut out) = (BytesMut::new(), Vec::new());
    let result = session.read(&mut wire.to_vec(), &mut plain, &mut out);
    (result, plain.to_vec(), out)
}

fn fatal(description: u8) -> Opened {
    Opened { kind: ALERT, content: vec![2, description] }
}

/// Both roles, whole and byte by byte: the fault, one alert, and nothing more ever.
#[track_caller]
fn refused(make: impl Fn(&mut Forger) -> Vec<u8>, fault: RecordFault, alert: u8) {
    for role in ROLES {
        refused_as(role, &make, fault, alert);
    }
}

#[track_caller]
fn refused_as(role: Side, make: impl Fn(&mut Forger) -> Vec<u8>, fault: RecordFault, alert: u8) {
    assert_eq!(fault.alert(), Some(alert));
    for suite in SUITES {
        for step in [usize::MAX, 1] {
            let (mut session, mut forger) = forged(role, suite);
            let mut wire = forger.record(APPLICATION_DATA, b"before");
            wire.extend(make(&mut forger));
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            let result = wire
                .chunks_mut(step.min(1 << 30))
                .find_map(|part| session.read(part, &mut plain, &mut out).err());
            assert_eq!(result, Some(fault), "{role:?} {suite:?}");
            assert_eq!(&plain[..], b"before");
            let opened = forger.open(&out);
            assert_eq!(opened.last(), Some(&fatal(alert)), "{role:?} {suite:?}");
            assert_eq!(opened.iter().filter(|it| it.kind == ALERT).count(), 1);
            // Nothing follows.
            let (again, plain, mut out) = feed(&mut session, b"\x17\x03\x03");
            assert_eq!((again, plain.len(), out.len()), (Err(RecordFault::Failed), 0, 0));
            assert_eq!(session.write(b"no", &mut out), Err(RecordFault::Failed));
            assert_eq!(session.update_keys(false, &mut out), Err(RecordFault::Failed));
            session.close_notify(&mut out);
            assert!(out.is_empty());
            assert_eq!(session.tail_bytes(), 0);
        }
    }
}

#[test]
fn a_record_that_is_not_encrypted() {
    for kind in [0, CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, 24, 255] {
        let fault = RecordFault::OuterType(kind);
        refused(|_| vec![kind, 3, 3, 0, 1, 1], fault, UNEXPECTED_MESSAGE);
    }
}

#[test]
fn a_wrong_version() {
    for version in [[3, 1], [3, 4], [2, 3], [0xfe, 0xfd]] {
        let record = |_: &mut Forger| vec![23, version[0], version[1], 0, 40];
        refused(record, RecordFault::Version, PROTOCOL_VERSION);
    }
}

#[test]
fn too_much_ciphertext_is_refused_by_its_header() {
    for length in [(1 << 14) + 257, 0xffff_u16] {
        let [high, low] = length.to_be_bytes();
        let header = |_: &mut Forger| vec![23, 3, 3, high, low];
        refused(header, RecordFault::Overflow, RECORD_OVERFLOW);
    }
}

#[test]
fn too_much_plaintext() {
    let content = vec![1; (1 << 14) + 1];
    let record = |forger: &mut Forger| forger.record(APPLICATION_DATA, &content);
    refused(record, RecordFault::Overflow, RECORD_OVERFLOW);
    // Padding counts.
    let mut inner = vec![1, APPLICATION_DATA];
    inner.resize((1 << 14) + 2, 0);
    refused(|forger: &mut Forger| forger.raw(&inner), RecordFault::Overflow, RECORD_OVERFLOW);
}

#[test]
fn the_largest_record_is_read_and_padding_is_taken_off() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    let content = vec![9; 1 << 14];
    let (result, plain, _) = feed(&mut session, &forger.record(APPLICATION_DATA, &content));
    assert_eq!((result, plain == content), (Ok(false), true));
    let mut inner = vec![1, 0, 2, 0, APPLICATION_DATA];
    inner.resize((1 << 14) + 1, 0);
    let (result, plain, out) = feed(&mut session, &forger.raw(&inner));
    assert_eq!((result, plain), (Ok(false), vec![1, 0, 2, 0]));
    assert!(out.is_empty());
}

#[test]
fn a_record_that_cannot_be_decrypted() {
    refused(|_| [&[23, 3, 3, 0, 17][..], &[7; 17]].concat(), RecordFault::BadMac, BAD_RECORD_MAC);
    // Too short to hold a tag and a content type.
    for length in 0..17 {
        refused_as(
            Side::Server,
            |_| vec![23, 3, 3, 0, length],
            RecordFault::BadMac,
            BAD_RECORD_MAC,
        );
    }
    // A record a second time: its number is used up.
    let again = |forger: &mut Forger| {
        let record = forger.record(HANDSHAKE, &[24, 0]);
        [&record[..], &record].concat()
    };
    refused(again, RecordFault::BadMac, BAD_RECORD_MAC);
}

#[test]
fn a_record_without_a_content_type() {
    for length in [1, 2, 1000] {
        let zeroes = vec![0; length];
        refused(|forger| forger.raw(&zeroes), RecordFault::AllZero, UNEXPECTED_MESSAGE);
    }
}

#[test]
fn a_content_type_that_is_unknown_or_never_encrypted() {
    for kind in [1, CHANGE_CIPHER_SPEC, 24, 255] {
        let fault = RecordFault::InnerType(kind);
        refused(|forger| forger.record(kind, &[1]), fault, UNEXPECTED_MESSAGE);
    }
}

#[test]
fn a_flood_of_records_without_application_data() {
    let empty = |forger: &mut Forger| -> Vec<u8> {
        (0..33).flat_map(|_| forger.record(APPLICATION_DATA, b"")).collect()
    };
    refused(empty, RecordFault::Flood, UNEXPECTED_MESSAGE);
    let updates =
        |forger: &mut Forger| -> Vec<u8> { (0..33).flat_map(|_| forger.key_update(1)).collect() };
    refused(updates, RecordFault::Flood, UNEXPECTED_MESSAGE);
    let canceled = |forger: &mut Forger| -> Vec<u8> {
        (0..33).flat_map(|_| forger.record(ALERT, &[1, 90])).collect()
    };
    refused(canceled, RecordFault::Flood, UNEXPECTED_MESSAGE);
    let tickets = |forger: &mut Forger| -> Vec<u8> {
        (0..33).flat_map(|_| forger.record(HANDSHAKE, &[4, 0, 0, 1, 0])).collect()
    };
    refused_as(Side::Client, tickets, RecordFault::Flood, UNEXPECTED_MESSAGE);
}

#[test]
fn application_data_ends_the_count_of_idle_records() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    for _ in 0..4 {
        for _ in 0..32 {
            let (result, _, out) = feed(&mut session, &forger.key_update(0));
            assert_eq!((result, out.len()), (Ok(false), 0));
        }
        assert_eq!(feed(&mut session, &forger.record(APPLICATION_DATA, b"x")).1, b"x");
    }
}

#[test]
fn handshake_messages_that_have_no_place() {
    // A server gets no tickets, nobody is asked for a certificate, nothing is negotiated again.
    refused_as(
        Side::Server,
        |forger| forger.record(HANDSHAKE, &[4, 0, 0, 1, 0]),
        RecordFault::Message(4),
        UNEXPECTED_MESSAGE,
    );
    for kind in [0, 1, 2, 5, 8, 11, 13, 15, 20, 254] {
        let fault = RecordFault::Message(kind);
        refused(|forger| forger.record(HANDSHAKE, &[kind]), fault, UNEXPECTED_MESSAGE);
    }
}

#[test]
fn a_handshake_record_without_a_byte() {
    let record = |forger: &mut Forger| forger.record(HANDSHAKE, b"");
    refused(record, RecordFault::EmptyHandshake, UNEXPECTED_MESSAGE);
}

#[test]
fn anything_between_the_parts_of_a_message() {
    for (kind, content) in
        [(APPLICATION_DATA, &b"x"[..]), (APPLICATION_DATA, b""), (ALERT, &[1, 0])]
    {
        let records = |forger: &mut Forger| {
            let part = forger.record(HANDSHAKE, &[24, 0, 0]);
            [part, forger.record(kind, content)].concat()
        };
        refused(records, RecordFault::Interleaved, UNEXPECTED_MESSAGE);
    }
    let in_a_ticket = |forger: &mut Forger| {
        let part = forger.record(HANDSHAKE, &[4, 0, 0, 9, 1, 2]);
        [part, forger.record(APPLICATION_DATA, b"x")].concat()
    };
    refused_as(Side::Client, in_a_ticket, RecordFault::Interleaved, UNEXPECTED_MESSAGE);
}

#[test]
fn a_key_update_that_does_not_end_its_record() {
    for more in [&[24, 0, 0, 1, 0][..], &[0], &[4, 0, 0, 0]] {
        let record =
            |forger: &mut Forger| forger.record(HANDSHAKE, &[&[24, 0, 0, 1, 0][..], more].concat());
        refused(record, RecordFault::UpdateUnaligned, UNEXPECTED_MESSAGE);
    }
}

#[test]
fn a_key_update_of_a_wrong_form() {
    for length in [[0, 0, 0], [0, 0, 2], [1, 0, 1], [0, 1, 1]] {
        let message = [&[24][..], &length, &[0, 0]].concat();
        let record = |forger: &mut Forger| forger.record(HANDSHAKE, &message);
        refused(record, RecordFault::MessageLength, DECODE_ERROR);
    }
    for request in [2, 255] {
        let record = |forger: &mut Forger| forger.record(HANDSHAKE, &[24, 0, 0, 1, request]);
        refused(record, RecordFault::UpdateRequest(request), ILLEGAL_PARAMETER);
    }
}

#[test]
fn the_old_key_after_a_key_update() {
    let records = |forger: &mut Forger| {
        let update = forger.record(HANDSHAKE, &[24, 0, 0, 1, 0]);
        [update, forger.record(APPLICATION_DATA, b"old")].concat()
    };
    refused(records, RecordFault::BadMac, BAD_RECORD_MAC);
}

#[test]
fn a_ticket_longer_than_any() {
    let record = |forger: &mut Forger| forger.record(HANDSHAKE, &[4, 0xff, 0, 0]);
    refused_as(Side::Client, record, RecordFault::MessageLength, DECODE_ERROR);
}

#[test]
fn an_alert_of_a_wrong_form() {
    for content in [&[][..], &[2], &[1, 0, 0], &[1, 0, 1, 0]] {
        let record = |forger: &mut Forger| forger.record(ALERT, content);
        refused(record, RecordFault::AlertForm, DECODE_ERROR);
    }
}

#[test]
fn a_fatal_alert_ends_the_session_without_an_answer() {
    for role in ROLES {
        for (level, description) in [(2, 40), (1, 41), (0, 255), (2, 1), (1, 100)] {
            let (mut session, mut forger) = forged(role, SUITES[0]);
            let mut wire = forger.record(APPLICATION_DATA, b"last");
            wire.extend(forger.record(ALERT, &[level, description]));
            wire.extend(forger.record(APPLICATION_DATA, b"too late"));
            let (result, plain, mut out) = feed(&mut session, &wire);
            assert_eq!(result, Err(RecordFault::PeerAlert(description)));
            assert_eq!((&plain[..], out.len()), (&b"last"[..], 0));
            assert_eq!(session.write(b"no", &mut out), Err(RecordFault::Failed));
        }
    }
}

#[test]
fn a_closed_peer_is_not_listened_to_but_may_be_written_to() {
    for (level, role) in [(1, Side::Server), (2, Side::Client)] {
        let (mut session, mut forger) = forged(role, SUITES[1]);
        let mut wire = forger.record(ALERT, &[1, 90]);
        wire.extend(forger.record(ALERT, &[level, 0]));
        wire.extend(b"noise");
        let (result, plain, mut out) = feed(&mut session, &wire);
        assert_eq!((result, plain.len(), out.len()), (Ok(true), 0, 0));
        assert_eq!(session.tail_bytes(), 0);
        assert_eq!(feed(&mut session, b"more noise").0, Ok(true));
        session.write(b"bye", &mut out).unwrap();
        session.close_notify(&mut out);
        session.close_notify(&mut out);
        let opened = forger.open(&out);
        assert_eq!(opened[0], Opened { kind: APPLICATION_DATA, content: b"bye".to_vec() });
        assert_eq!(opened[1..], [Opened { kind: ALERT, content: vec![1, 0] }]);
    }
}

#[test]
fn after_our_close_nothing_is_read_written_or_answered() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    let mut out = Vec::new();
    feed(&mut session, &forger.record(APPLICATION_DATA, b"x")[..9]).0.unwrap();
    assert_eq!(session.tail_bytes(), 9);
    session.close_notify(&mut out);
    assert_eq!(session.tail_bytes(), 0);
    assert_eq!(session.write(b"late", &mut out), Err(RecordFault::NotWritable));
    assert_eq!(session.update_keys(true, &mut out), Err(RecordFault::NotWritable));
    assert_eq!(forger.open(&out), [Opened { kind: ALERT, content: vec![1, 0] }]);
    for wire in [&forger.key_update(1)[..], b"\x16broken"] {
        assert_eq!(feed(&mut session, wire), (Ok(false), vec![], vec![]));
    }
}

#[test]
fn no_more_than_a_record_is_kept() {
    let (mut session, mut forger) = forged(Side::Server, SUITES[0]);
    let record = forger.record(APPLICATION_DATA, &vec![5; 1 << 14]);
    assert!(record.len() <= RECORD_BYTES_MAX);
    let mut heard = 0;
    for (at, byte) in record.iter().enumerate() {
        heard += feed(&mut session, &[*byte]).1.len();
        assert_eq!(session.tail_bytes(), (at + 1) % record.len());
    }
    assert_eq!(heard, 1 << 14);
}
