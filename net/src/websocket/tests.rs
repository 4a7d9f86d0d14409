//! The server against hand-made bytes, and against the client of this module.

use proptest::prelude::*;

use super::*;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker:8083\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A server, and all that came out of it.
struct Server {
    socket: WebSocket,
    plain: BytesMut,
    out: Vec<u8>,
}

impl Server {
    fn new() -> Self {
        Self::with(WebSocketConfig::default())
    }

    fn with(config: WebSocketConfig) -> Self {
        let socket = WebSocket::new(&Arc::new(config));
        Self { socket, plain: BytesMut::new(), out: Vec::new() }
    }

    fn open() -> Self {
        Self::new().upgraded()
    }

    fn upgraded(mut self) -> Self {
        assert!(self.read(REQUEST.as_bytes()).unwrap().open);
        self.out.clear();
        self
    }

    fn read(&mut self, input: &[u8]) -> Result<WsProgress, WsError> {
        self.socket.read(input, &mut self.plain, &mut self.out)
    }
}

/// A frame of a client, with any first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = vec![first];
    match payload.len() {
        length @ 0..=125 => wire.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            wire.push(0x80 | 126);
            wire.extend((length as u16).to_be_bytes());
        }
        length => {
            wire.push(0x80 | 127);
            wire.extend((length as u64).to_be_bytes());
        }
    }
    wire.extend(MASK);
    wire.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    wire
}

fn status(request: &str) -> (UpgradeRefusal, String) {
    let mut server = Server::new();
    let Err(WsError::Upgrade(refusal)) = server.read(request.as_bytes()) else {
        panic!("accepted: {request}");
    };
    assert_eq!(server.read(b"more"), Err(WsError::Failed));
    let answer = String::from_utf8(server.out).unwrap();
    assert!(answer.starts_with(&format!("HTTP/1.1 {} ", refusal.status())), "{answer}");
    assert!(answer.contains("\r\nConnection: "), "{answer}");
    (refusal, answer)
}

mod upgrade {
    use super::*;

    /// [MQTT5-6.0.0-3] [MQTT5-6.0.0-4] [MQTT311-6.0.0-3] [MQTT311-6.0.0-4]
    #[test]
    fn a_good_request_is_answered_with_101_and_the_subprotocol() {
        let mut server = Server::new();
        let progress = server.read(REQUEST.as_bytes()).unwrap();
        assert_eq!(progress, WsProgress { open: true, peer_closed: false });
        assert_eq!(
            String::from_utf8(server.out).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
    }

    /// [MQTT5-6.0.0-4] [MQTT311-6.0.0-4]
    #[test]
    fn the_subprotocol_is_found_in_lists_and_repeated_fields_and_the_old_name_is_echoed() {
        for (offer, chosen) in [
            ("Sec-WebSocket-Protocol: mqttv3.1", "mqttv3.1"),
            ("Sec-WebSocket-Protocol: mqttv3.1, mqtt", "mqtt"),
            ("sec-websocket-protocol: soap\r\nSEC-WEBSOCKET-PROTOCOL: wamp ,mqtt", "mqtt"),
        ] {
            let mut server = Server::new();
            let request = REQUEST.replace("Sec-WebSocket-Protocol: mqtt", offer);
            assert!(server.read(request.as_bytes()).unwrap().open);
            let answer = String::from_utf8(server.out).unwrap();
            assert!(answer.ends_with(&format!("Sec-WebSocket-Protocol: {chosen}\r\n\r\n")));
        }
    }

    /// [MQTT5-6.0.0-3] [MQTT311-6.0.0-3]
    #[test]
    fn a_request_without_the_subprotocol_is_refused() {
        let without = REQUEST.replace("Sec-WebSocket-Protocol: mqtt\r\n", "");
        assert_eq!(status(&without).0, UpgradeRefusal::Subprotocol);
        for other in ["MQTT", "mqtt2", "graphql-ws", ""] {
            let request = REQUEST.replace("Protocol: mqtt", &format!("Protocol: {other}"));
            assert_eq!(status(&request).0, UpgradeRefusal::Subprotocol);
        }
    }

    #[test]
    fn each_fault_of_a_request_has_its_status() {
        use UpgradeRefusal::*;
        for (from, to, expected, code) in [
            ("GET", "POST", Method, 405),
            ("HTTP/1.1", "HTTP/1.0", HttpVersion, 505),
            ("HTTP/1.1", "HTTP/2.0", HttpVersion, 505),
            ("/mqtt", "/", Path, 404),
            ("/mqtt", "/mqtt/", Path, 404),
            ("/mqtt", "/other?/mqtt", Path, 404),
            ("Host: broker:8083\r\n", "", Malformed, 400),
            ("Upgrade: websocket\r\n", "", NotUpgrade, 426),
            ("Upgrade: websocket", "Upgrade: h2c", NotUpgrade, 426),
            ("keep-alive, Upgrade", "keep-alive", NotUpgrade, 426),
            ("Version: 13", "Version: 8", WebSocketVersion, 426),
            ("Sec-WebSocket-Version: 13\r\n", "", WebSocketVersion, 426),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", Key, 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all", Key, 400),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", Key, 400),
            ("Host:", "Content-Length: 5\r\nHost:", Body, 400),
            ("Host:", "Transfer-Encoding: chunked\r\nHost:", Body, 400),
            ("Host:", "H\u{7f}st:", Malformed, 400),
        ] {
            let (refusal, answer) = status(&REQUEST.replacen(from, to, 1));
            assert_eq!((refusal, refusal.status()), (expected, code), "{from} -> {to}");
            assert_eq!(code == 426, answer.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        }
        let twice = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(status(&REQUEST.replace(twice, &twice.repeat(2))).0, Key);
    }

    #[test]
    fn the_path_may_carry_a_query_or_be_a_whole_uri() {
        for target in ["/mqtt?client=7", "http://broker:8083/mqtt", "https://broker/mqtt?a=b"] {
            let mut server = Server::new();
            let request = REQUEST.replace("/mqtt HTTP", &format!("{target} HTTP"));
            assert!(server.read(request.as_bytes()).unwrap().open, "{target}");
        }
        assert_eq!(
            status(&REQUEST.replace("/mqtt HTTP", "http://broker HTTP")).0,
            UpgradeRefusal::Path
        );
    }

    #[test]
    fn extensions_that_are_offered_are_not_accepted() {
        let mut server = Server::new();
        let offer =
            "Host: b\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
        server.read(REQUEST.replace("Host: broker:8083", offer).as_bytes()).unwrap();
        assert!(!String::from_utf8(server.out).unwrap().contains("xtension"));
    }

    #[test]
    fn other_protocols_are_refused_at_their_first_byte() {
        for first in [0x10, 0x16, 0x00, 0xff] {
            let mut server = Server::new();
            let refused = Err(WsError::Upgrade(UpgradeRefusal::NotHttp));
            assert_eq!(server.read(&[first]), refused);
            assert!(server.out.starts_with(b"HTTP/1.1 400 "));
        }
    }

    #[test]
    fn an_endless_head_is_cut_at_the_limit() {
        let mut server = Server::new();
        server.read(b"GET /mqtt HTTP/1.1\r\n").unwrap();
        let mut fed = 0;
        let error = loop {
            fed += 12;
            if let Err(error) = server.read(b"X-Pad: abc\r\n") {
                break error;
            }
        };
        assert_eq!(error, WsError::Upgrade(UpgradeRefusal::HeadTooLarge));
        assert!(fed <= 8192);
        assert!(server.out.starts_with(b"HTTP/1.1 431 "));
        // The same in one piece, and with too many fields rather than bytes.
        let long = REQUEST.replace("Host:", &format!("X-Pad: {}\r\nHost:", "a".repeat(8000)));
        assert_eq!(status(&long).0, UpgradeRefusal::HeadTooLarge);
        let many = REQUEST.replace("Host:", &format!("{}Host:", "A: b\r\n".repeat(60)));
        assert_eq!(status(&many).0, UpgradeRefusal::HeadTooLarge);
    }

    #[test]
    fn frames_right_behind_the_request_are_kept() {
        let wire = [REQUEST.as_bytes(), &frame(0x82, b"CONNECT"), &frame(0x82, b"more")].concat();
        for at in 0..=wire.len() {
            let mut server = Server::new();
            server.read(&wire[..at]).unwrap();
            server.read(&wire[at..]).unwrap();
            assert_eq!(&server.plain[..], b"CONNECTmore", "split at {at}");
            assert!(server.socket.link.is_at_rest());
        }
    }
}

mod frames {
    use super::*;

    fn fault(wire: &[u8]) -> FrameFault {
        let mut server = Server::open();
        let Err(WsError::Frame(fault)) = server.read(wire) else {
            panic!("accepted: {wire:?}");
        };
        let [high, low] = fault.close_code().to_be_bytes();
        assert_eq!(server.out, [0x88, 2, high, low]);
        assert_eq!(server.read(&frame(0x82, b"late")), Err(WsError::Failed));
        assert!(server.plain.is_empty());
        fault
    }

    /// [MQTT5-6.0.0-1] [MQTT311-6.0.0-1]
    #[test]
    fn a_text_frame_closes_with_1003() {
        assert_eq!(fault(&frame(0x81, b"text")), FrameFault::Text);
        assert_eq!(FrameFault::Text.close_code(), 1003);
    }

    #[test]
    fn each_broken_frame_has_its_fault() {
        use FrameFault::*;
        let two = |a: &[u8], b: &[u8]| [a, b].concat();
        let mut unmasked = vec![0x82, 1];
        unmasked.push(7);
        for (wire, expected) in [
            (unmasked, Mask),
            (frame(0xc2, b"x"), ReservedBits),
            (frame(0xa2, b"x"), ReservedBits),
            (frame(0x92, b"x"), ReservedBits),
            (frame(0x83, b"x"), ReservedOpcode),
            (frame(0x8b, b"x"), ReservedOpcode),
            (frame(0x09, b"x"), FragmentedControl),
            (frame(0x89, &[0; 126]), LongControl),
            (frame(0x80, b"x"), UnexpectedContinuation),
            (frame(0x00, b"x"), UnexpectedContinuation),
            (two(&frame(0x02, b""), &frame(0x82, b"")), UnfinishedMessage),
            (vec![0x82, 0xfe, 0, 125, 1, 2, 3, 4], Length),
            (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4], Length),
            (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4], Length),
            (vec![0x82, 0xff, 0, 0, 0, 0, 0x10, 0, 0, 5, 1, 2, 3, 4], TooLarge),
            (vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4], TooLarge),
            (frame(0x88, &[3]), BadClose),
            (frame(0x88, &[0x03, 0xed]), BadClose),
            (frame(0x88, &[0x00, 0x00]), BadClose),
            (frame(0x88, &[0x03, 0xe8, 0xff]), BadClose),
        ] {
            assert_eq!(fault(&wire), expected, "{wire:?}");
        }
    }

    #[test]
    fn a_message_is_bounded_over_all_its_fragments() {
        let mut server =
            Server::with(WebSocketConfig { message_bytes_max: 10, ..Default::default() })
                .upgraded();
        server.read(&frame(0x02, b"12345")).unwrap();
        server.read(&frame(0x80, b"67890")).unwrap();
        server.read(&frame(0x82, b"1234567890")).unwrap();
        server.read(&frame(0x02, b"12345")).unwrap();
        let too_large = Err(WsError::Frame(FrameFault::TooLarge));
        assert_eq!(server.read(&frame(0x80, b"678901")), too_large);
        assert_eq!(server.out, [0x88, 2, 0x03, 0xf1]);
        assert_eq!(server.plain.len(), 25);
    }

    /// [MQTT5-6.0.0-2] [MQTT311-6.0.0-2]
    #[test]
    fn packets_may_cross_frames_and_frames_may_hold_many_packets() {
        let mut server = Server::open();
        server.read(&frame(0x82, b"one two thr")).unwrap();
        server.read(&frame(0x82, b"ee")).unwrap();
        assert_eq!(&server.plain[..], b"one two three");
    }

    #[test]
    fn a_large_frame_streams_out_as_it_arrives() {
        let payload: Vec<u8> = (0..1_000_000u32).map(|n| (n % 253) as u8).collect();
        let mut server = Server::open();
        for part in frame(0x82, &payload).chunks(10_007) {
            let before = server.plain.len();
            server.read(part).unwrap();
            assert!(server.plain.len() + 14 >= before + part.len());
        }
        assert_eq!(&server.plain[..], &payload[..]);
        assert!(server.socket.link.is_at_rest());
    }

    #[test]
    fn a_ping_between_fragments_is_answered_and_the_message_goes_on() {
        let mut server = Server::open();
        server.read(&frame(0x02, b"be")).unwrap();
        server.read(&frame(0x89, b"are you there")).unwrap();
        server.read(&frame(0x00, b"")).unwrap();
        server.read(&frame(0x80, b"gin")).unwrap();
        assert_eq!(&server.plain[..], b"begin");
        assert_eq!(server.out, b"\x8a\x0dare you there");
    }

    #[test]
    fn only_the_latest_ping_of_one_read_is_answered() {
        let mut server = Server::open();
        let wire: Vec<u8> = (0..200u8).flat_map(|n| frame(0x89, &[n; 125])).collect();
        server.read(&wire).unwrap();
        assert_eq!(server.out.len(), 127);
        assert_eq!(server.out[2..], [199; 125]);
    }

    #[test]
    fn a_pong_is_taken_silently() {
        let mut server = Server::open();
        server.read(&frame(0x8a, b"unasked")).unwrap();
        assert!(server.out.is_empty() && server.plain.is_empty());
    }

    #[test]
    fn a_close_is_echoed_once_and_nothing_behind_it_is_decoded() {
        for (payload, echo) in
            [(&b""[..], &[0x88, 0][..]), (b"\x03\xe8bye", &[0x88, 2, 0x03, 0xe8])]
        {
            let mut server = Server::open();
            let wire =
                [frame(0x82, b"last"), frame(0x88, payload), frame(0x82, b"late"), vec![0xff]];
            let progress = server.read(&wire.concat()).unwrap();
            assert!(progress.peer_closed);
            assert_eq!(&server.plain[..], b"last");
            assert_eq!(server.out, echo);
            server.read(&frame(0x88, payload)).unwrap();
            server.socket.write(b"late", &mut server.out);
            server.socket.close(1000, &mut server.out);
            assert_eq!(server.out, echo);
        }
    }

    #[test]
    fn our_close_waits_for_the_answer_and_drops_what_comes_before_it() {
        let mut server = Server::open();
        server.socket.close(1001, &mut server.out);
        server.socket.close(1001, &mut server.out);
        assert_eq!(server.out, [0x88, 2, 0x03, 0xe9]);
        server.socket.write(b"late", &mut server.out);
        assert!(!server.read(&frame(0x82, b"dropped")).unwrap().peer_closed);
        assert!(!server.read(&frame(0x89, b"not answered")).unwrap().peer_closed);
        assert!(server.read(&frame(0x88, b"\x03\xe9")).unwrap().peer_closed);
        assert_eq!(server.out.len(), 4);
        assert!(server.plain.is_empty());
    }

    #[test]
    fn written_bytes_are_one_unmasked_binary_frame() {
        let mut server = Server::open();
        for (length, header) in [
            (1, &[0x82, 1][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 255, 255]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            server.out.clear();
            server.socket.write(&vec![7; length], &mut server.out);
            assert_eq!(&server.out[..header.len()], header);
            assert_eq!(server.out.len(), header.len() + length);
        }
        server.out.clear();
        server.socket.write(b"", &mut server.out);
        assert!(server.out.is_empty());
    }
}

mod client {
    use super::*;

    /// A client and a server that have upgraded, with all bytes cut to `step`.
    fn pair() -> (WebSocketClient, Server) {
        let mut wire = Vec::new();
        let mut client = WebSocketClient::new("broker:8083", "/mqtt", [9; 16], &mut wire);
        let mut server = Server::new();
        server.read(&wire).unwrap();
        let mut plain = BytesMut::new();
        for byte in std::mem::take(&mut server.out) {
            client.read(&[byte], || MASK, &mut plain, &mut Vec::new()).unwrap();
        }
        (client, server)
    }

    #[test]
    fn client_and_server_exchange_messages() {
        let (mut client, mut server) = pair();
        let mut wire = Vec::new();
        client.write(b"up", MASK, &mut wire);
        assert_ne!(&wire[6..], b"up", "the payload is masked");
        server.read(&wire).unwrap();
        assert_eq!(&server.plain[..], b"up");
        let (mut down, mut plain) = (Vec::new(), BytesMut::new());
        server.socket.write(b"down", &mut down);
        let progress = client.read(&down, || MASK, &mut plain, &mut Vec::new()).unwrap();
        assert_eq!(progress, WsProgress { open: true, peer_closed: false });
        assert_eq!(&plain[..], b"down");
    }

    #[test]
    fn the_answers_of_a_client_are_masked() {
        let (mut client, mut server) = pair();
        let (mut out, mut plain) = (Vec::new(), BytesMut::new());
        client.read(b"\x89\x02hi", || MASK, &mut plain, &mut out).unwrap();
        assert_eq!(out, frame(0x8a, b"hi"));
        server.read(&out).unwrap();
        out.clear();
        client.close(1000, MASK, &mut out);
        assert!(server.read(&out).unwrap().peer_closed);
        out.clear();
        let progress = client.read(&server.out, || MASK, &mut plain, &mut out).unwrap();
        assert!(progress.peer_closed && out.is_empty());
    }

    #[test]
    fn a_masked_frame_of_a_server_is_refused() {
        let (mut client, _) = pair();
        let mut out = Vec::new();
        let result = client.read(&frame(0x82, b"x"), || MASK, &mut BytesMut::new(), &mut out);
        assert_eq!(result, Err(ClientError::Frame(FrameFault::Mask)));
        assert_eq!(out, frame(0x88, &1002u16.to_be_bytes()));
    }

    #[test]
    fn bad_answers_are_told_apart() {
        let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        let judge = |answer: &str| {
            let mut client = WebSocketClient::new("b", "/", *b"the sample nonce", &mut Vec::new());
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            let result = client.read(answer.as_bytes(), || MASK, &mut plain, &mut out);
            if result.is_err() {
                let again = client.read(b"", || MASK, &mut plain, &mut out);
                assert_eq!(again, Err(ClientError::Failed));
            }
            result.map(|progress| progress.open)
        };
        assert_eq!(judge(good), Ok(true));
        assert_eq!(judge(&good.replace("s3p", "abc")), Err(ClientError::BadUpgrade));
        assert_eq!(judge(&good.replace("websocket", "h2c")), Err(ClientError::BadUpgrade));
        let extension = good.replace("Upgrade:", "Sec-WebSocket-Extensions: x\r\nUpgrade:");
        assert_eq!(judge(&extension), Err(ClientError::BadUpgrade));
        assert_eq!(judge(&good.replace("mqtt", "soap")), Err(ClientError::Subprotocol));
        assert_eq!(judge("HTTP/1.1 404 Not Found\r\n\r\n"), Err(ClientError::Refused(404)));
        assert_eq!(judge("\x20\x02\x00\x00\r\n\r\n"), Err(ClientError::NotHttp));
        assert_eq!(judge(&"x".repeat(9000)), Err(ClientError::NotHttp));
    }
}

/// Feeds `wire` in pieces whose lengths are drawn from `cuts`, round and round.
fn feed(server: &mut Server, wire: &[u8], cuts: &[usize]) -> Result<(), WsError> {
    let mut rest = wire;
    for &cut in cuts.iter().cycle() {
        if rest.is_empty() {
            return Ok(());
        }
        let (now, later) = rest.split_at(cut.min(rest.len()));
        server.read(now)?;
        rest = later;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_fragmentation_and_any_split_gives_the_same_stream(
        messages in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..5), 0..6),
        cuts in prop::collection::vec(1usize..600, 1..8),
        pings in any::<bool>(),
    ) {
        let mut wire = REQUEST.as_bytes().to_vec();
        let mut expected = Vec::new();
        for fragments in &messages {
            for (n, fragment) in fragments.iter().enumerate() {
                let opcode = if n == 0 { 2 } else { 0 };
                let fin = if n + 1 == fragments.len() { 0x80 } else { 0 };
                wire.extend(frame(fin | opcode, fragment));
                expected.extend_from_slice(fragment);
                if pings {
                    wire.extend(frame(0x89, b"ping"));
                }
            }
        }
        let mut server = Server::new();
        feed(&mut server, &wire, &cuts).unwrap();
        prop_assert_eq!(&server.plain[..], &expected[..]);
        prop_assert!(server.socket.link.is_at_rest());
    }

    #[test]
    fn random_bytes_never_panic_and_what_comes_out_is_bounded(
        upgraded in any::<bool>(),
        wire in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(0x82), Just(0x80), Just(0x89), Just(b'\n')], 0..300),
        cuts in prop::collection::vec(1usize..40, 1..4),
    ) {
        let mut server = if upgraded { Server::open() } else { Server::new() };
        let mut rest = &wire[..];
        for &cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            let (plain, out) = (server.plain.len(), server.out.len());
            let result = server.read(now);
            prop_assert!(server.plain.len() <= plain + now.len());
            prop_assert!(server.out.len() <= out + 512);
            rest = later;
            if rest.is_empty() || result.is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_request_with_random_changes_never_panics(
        changes in prop::collection::vec((0..REQUEST.len(), any::<u8>()), 0..6),
    ) {
        let mut request = REQUEST.as_bytes().to_vec();
        for (at, byte) in changes {
            request[at] = byte;
        }
        let mut server = Server::new();
        let _ = server.read(&request);
        prop_assert!(server.plain.is_empty());
    }

    #[test]
    fn random_answers_never_panic_the_client(
        answer in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let wire = [b"HTTP/1.1 101 x\r\n".as_slice(), &answer, b"\r\n\r\n"].concat();
        let mut client = WebSocketClient::new("b", "/", [0; 16], &mut Vec::new());
        let _ = client.read(&wire, || MASK, &mut BytesMut::new(), &mut Vec::new());
    }
}
