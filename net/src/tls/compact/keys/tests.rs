//! The simple 1-RTT handshake of RFC 8448 section 3: keys and records from its traffic secrets.

use bytes::BytesMut;
use rustls::Side;

use super::*;
use crate::tls::compact::session::{CompactSession, Held, State};

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b\
    9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e3\
    0efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_CLOSE: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_CLOSE: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|it| digit(it[0]) << 4 | digit(it[1])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn session(side: Side) -> CompactSession {
    let mut session = CompactSession::new(Held::Aes128(State::boxed(side, Pair::empty())));
    let (receive, send) = match side {
        Side::Client => (SERVER_SECRET, CLIENT_SECRET),
        Side::Server => (CLIENT_SECRET, SERVER_SECRET),
    };
    let state = session.state_mut();
    state.keys.install(Direction::Receive, &bytes(receive)).unwrap();
    state.keys.install(Direction::Send, &bytes(send)).unwrap();
    // The server's ticket was its first record.
    match side {
        Side::Client => state.receive_sequence = 1,
        Side::Server => state.send_sequence = 1,
    }
    session
}

#[test]
fn keys_follow_from_the_secrets_of_rfc_8448() {
    let mut keys = Pair::<32, 16>::empty();
    let keys: &mut dyn Keys = &mut keys;
    keys.install(Direction::Receive, &bytes(CLIENT_SECRET)).unwrap();
    keys.install(Direction::Send, &bytes(SERVER_SECRET)).unwrap();
    let (_, key, iv) = keys.parts(Direction::Receive);
    assert_eq!(hex(key), "17422dda596ed5d9acd890e3c63f5051");
    assert_eq!(hex(iv), "5b78923dee08579033e523d9");
    let (_, key, iv) = keys.parts(Direction::Send);
    assert_eq!(hex(key), "9f02283b6c9c07efc26bb9f2ac92e356");
    assert_eq!(hex(iv), "cf782b88dd83549aadf1e984");
}

#[test]
fn both_roles_make_and_read_the_records_of_rfc_8448() {
    let payload: Vec<u8> = (0..50).collect();
    let roles = [
        (Side::Client, CLIENT_DATA, CLIENT_CLOSE, SERVER_DATA, SERVER_CLOSE),
        (Side::Server, SERVER_DATA, SERVER_CLOSE, CLIENT_DATA, CLIENT_CLOSE),
    ];
    for (side, own_data, own_close, peer_data, peer_close) in roles {
        let mut session = session(side);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        let mut wire = bytes(peer_data);
        wire.extend(bytes(peer_close));
        assert_eq!(session.read(&mut wire, &mut plain, &mut out), Ok(true));
        assert_eq!(&plain[..], &payload[..]);
        assert!(out.is_empty());
        session.write(&payload, &mut out).unwrap();
        assert_eq!(hex(&out), own_data);
        out.clear();
        session.close_notify(&mut out);
        assert_eq!(hex(&out), own_close);
    }
}

#[test]
fn an_update_takes_a_new_secret_of_the_same_length() {
    for mut keys in
        [Box::new(Pair::<48, 32>::empty()) as Box<dyn Keys>, Box::new(Pair::<32, 32>::empty())]
    {
        let length = keys.parts(Direction::Send).0.len();
        keys.install(Direction::Send, &vec![7; length]).unwrap();
        let before = keys.parts(Direction::Send).0.to_vec();
        keys.update(Direction::Send).unwrap();
        let (secret, key, _) = keys.parts(Direction::Send);
        assert_ne!(secret, before);
        let mut expected = vec![0; length];
        expand_label(keys.suite(), &before, b"traffic upd", &mut expected).unwrap();
        assert_eq!(secret, expected);
        assert_eq!(key.len(), 32);
        assert!(keys.parts(Direction::Receive).0.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn the_nonce_is_the_iv_combined_with_the_record_number() {
    let mut keys = Pair::<32, 16>::empty();
    let keys: &mut dyn Keys = &mut keys;
    keys.parts_mut(Direction::Send).2.copy_from_slice(&[0x11; 12]);
    let nonce = keys.cipher(Direction::Send).unwrap().nonce(0x0102_0304_0506_0708);
    assert_eq!(hex(nonce.as_ref()), "111111111013121514171619");
}

#[test]
fn an_idle_session_is_one_block_of_at_most_152_bytes_with_aes_128() {
    assert!(size_of::<CompactSession>() <= 16);
    assert_eq!(size_of::<State<Pair<32, 16>>>(), 152);
    assert_eq!(size_of::<State<Pair<32, 32>>>(), 184);
    assert_eq!(size_of::<State<Pair<48, 32>>>(), 216);
}
