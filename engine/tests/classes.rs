//! The classes of faults that have hit brokers, each as a test by its name, over sockets: what a client must not
//! bring about by what it sends. Most rules behind them have tests of their own in the shard and the codec; here a
//! whole broker meets the bytes, and somebody else is served before and after.

mod common;

#[path = "classes/rights.rs"]
mod rights;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use common::{Client, RUNTIMES, bytes_of, config, connect_packet, start, text};
use petrel_engine::boot::Running;
use petrel_proto::{Packet, ReasonCode, Version};

/// What a client gets that sends bytes: packets until the connection ends.
fn answers(address: SocketAddr, client_id: Option<&str>, bytes: &[u8]) -> Vec<Packet> {
    let mut client = Client::open(address);
    if let Some(client_id) = client_id {
        client.hello(client_id);
    }
    // It may have ended before all was sent.
    let _ = client.stream.write_all(bytes);
    if client_id.is_some() {
        // Else it has to be refused, and who has hung up while that is decided is told nothing.
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
    }
    std::iter::from_fn(|| client.receive()).collect()
}

/// How the broker ends a connection after these bytes.
fn ended(broker: &Running, client_id: Option<&str>, bytes: &[u8]) -> Option<ReasonCode> {
    match answers(broker.addresses()[0], client_id, bytes).pop() {
        Some(Packet::Disconnect(it)) => Some(it.reason),
        Some(Packet::ConnAck(it)) => Some(it.reason),
        _ => None,
    }
}

/// Runs a test on a broker of each runtime, with somebody beside it who must be served at the end.
fn beside_somebody(test: impl Fn(&Running)) {
    for runtime in RUNTIMES {
        let broker = start(config(2, runtime));
        let mut somebody = Client::connect(broker.addresses()[0], "somebody", Version::V5);
        test(&broker);
        somebody.send(&Packet::PingReq);
        assert_eq!(somebody.receive(), Some(Packet::PingResp));
        drop(somebody);
        broker.stop().expect("it stops");
    }
}

/// A packet with its remaining length.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let more = length >> 7;
        bytes.push((length & 0x7f) as u8 | if more > 0 { 0x80 } else { 0 });
        length = more;
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// Text as MQTT has it.
fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A PUBLISH of QoS 0 for MQTT 5.
fn publish(topic: &[u8], properties: &[u8]) -> Vec<u8> {
    let length = u8::try_from(properties.len()).expect("short");
    packet(0x30, &[&field(topic)[..], &[length], properties, b"x"].concat())
}

/// A CONNECT of MQTT 5 with these flags, and what comes behind its client identifier.
fn connect(flags: u8, client_id: &[u8], rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x05", &[flags, 0, 60, 0][..], &field(client_id), rest].concat())
}

const MALFORMED: Option<ReasonCode> = Some(ReasonCode::MalformedPacket);
const PROTOCOL: Option<ReasonCode> = Some(ReasonCode::ProtocolError);

/// [MQTT5-1.5.4-1] [MQTT5-1.5.4-2]
#[test]
fn nul_and_ill_formed_utf8() {
    beside_somebody(|broker| {
        for bad in
            [&b"a\0b"[..], b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
        {
            assert_eq!(ended(broker, Some("a"), &publish(bad, b"")), MALFORMED, "{bad:?}");
            let subscribe = packet(0x82, &[&[0, 1, 0][..], &field(bad), &[0]].concat());
            assert_eq!(ended(broker, Some("a"), &subscribe), MALFORMED, "{bad:?}");
            assert_eq!(ended(broker, None, &connect(2, bad, b"")), MALFORMED, "{bad:?}");
        }
    });
}

/// [MQTT5-4.7.3-1] An empty topic without an alias.
#[test]
fn empty_topics() {
    beside_somebody(|broker| {
        assert_eq!(ended(broker, Some("a"), &publish(b"", b"")), PROTOCOL);
        let subscribe = packet(0x82, &[0, 1, 0, 0, 0, 0]);
        let refused = ended(broker, Some("a"), &subscribe);
        assert!(refused.is_some_and(ReasonCode::is_error), "{refused:?}");
        let will = [&[0][..], &field(b""), &field(b"x")].concat();
        assert!(ended(broker, None, &connect(6, b"a", &will)).is_some_and(ReasonCode::is_error));
    });
}

#[test]
fn deep_topics() {
    beside_somebody(|broker| {
        let deep = "/".repeat(65_535);
        assert_eq!(
            ended(broker, Some("a"), &publish(deep.as_bytes(), b"")),
            Some(ReasonCode::TopicNameInvalid)
        );
        let filter = "+/".repeat(32_000) + "#";
        let subscribe = packet(0x82, &[&[0, 1, 0][..], &field(filter.as_bytes()), &[0]].concat());
        let address = broker.addresses()[0];
        let suback = answers(address, Some("a"), &subscribe);
        assert!(
            matches!(&suback[..], [Packet::SubAck(it)] if it.reasons[..] == [ReasonCode::TopicFilterInvalid]),
            "{suback:?}"
        );
    });
}

/// As many user properties as a packet holds are one packet's work; more do not come in.
#[test]
fn property_floods() {
    beside_somebody(|broker| {
        let one = [&[0x26][..], &field(b"k"), &field(b"v")].concat();
        let many = one.repeat(140_000);
        let mut length = vec![];
        let mut left = many.len();
        while left > 0 {
            length.push((left & 0x7f) as u8 | if left > 0x7f { 0x80 } else { 0 });
            left >>= 7;
        }
        let body = [&field(b"t")[..], &length, &many].concat();
        assert!(body.len() < 1 << 20);
        let mut receiver = Client::connect(broker.addresses()[0], "receiver", Version::V5);
        receiver.subscribe("t", petrel_proto::Qos::AtMostOnce);
        assert_eq!(answers(broker.addresses()[0], Some("a"), &packet(0x30, &body)), []);
        let got = receiver.receive_publish();
        assert_eq!(got.properties.message.fields().user_properties.iter().count(), 140_000);
        // The same property twice where it may come once.
        let twice = [0x01, 0, 0x01, 0];
        assert_eq!(ended(broker, Some("a"), &publish(b"t", &twice)), PROTOCOL);
    });
}

/// Lengths inside of a packet that say more than there is.
#[test]
fn length_underflow() {
    beside_somebody(|broker| {
        for bytes in [
            // A topic longer than the packet; a packet identifier beyond its end.
            packet(0x30, &[0xff, 0xff, b'a']),
            packet(0x32, &[0, 1, b'a', 0]),
            // Properties longer than the packet, and a property longer than them.
            packet(0x30, &[0, 1, b'a', 0x7f, 1]),
            packet(0x30, &[0, 1, b'a', 3, 0x03, 0xff, 0xff]),
            // A length of properties that never ends.
            packet(0x30, &[0, 1, b'a', 0xff, 0xff, 0xff, 0xff, 0xff]),
            packet(0x82, &[0]),
            packet(0x40, &[]),
        ] {
            assert_eq!(ended(broker, Some("a"), &bytes), MALFORMED, "{bytes:?}");
        }
        // A remaining length of five bytes.
        assert_eq!(ended(broker, Some("a"), &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]), MALFORMED);
    });
}

/// [MQTT5-3.3.2-8] [MQTT5-3.3.2-9]
#[test]
fn alias_tricks() {
    beside_somebody(|broker| {
        let alias = |topic: &[u8], alias: u16| {
            publish(topic, &[&[0x23][..], &alias.to_be_bytes()].concat())
        };
        let invalid = Some(ReasonCode::TopicAliasInvalid);
        assert_eq!(ended(broker, Some("a"), &alias(b"t", 0)), invalid);
        assert_eq!(ended(broker, Some("a"), &alias(b"t", 33)), invalid);
        assert_eq!(ended(broker, Some("a"), &alias(b"t", u16::MAX)), invalid);
        // One that nobody has set, on this connection.
        assert_eq!(answers(broker.addresses()[0], Some("a"), &alias(b"t", 5)), []);
        assert!(ended(broker, Some("a"), &alias(b"", 5)).is_some_and(ReasonCode::is_error));
    });
}

/// [MQTT5-4.7.2-1]
#[test]
fn wills_and_messages_to_the_topics_of_the_broker() {
    beside_somebody(|broker| {
        let mut receiver = Client::connect(broker.addresses()[0], "receiver", Version::V5);
        receiver.subscribe("$SYS/#", petrel_proto::Qos::AtMostOnce);
        receiver.subscribe("$share/x/$SYS/#", petrel_proto::Qos::AtMostOnce);
        for topic in [&b"$SYS/broker/version"[..], b"$SYS", b"$share/g/t"] {
            let will = [&[0][..], &field(topic), &field(b"x")].concat();
            let refused = ended(broker, None, &connect(6, b"a", &will));
            assert!(refused.is_some_and(ReasonCode::is_error), "{topic:?} {refused:?}");
            // At QoS 0 nobody can be told, so it only goes nowhere.
            let said = answers(broker.addresses()[0], Some("a"), &publish(topic, b""));
            assert!(said.len() <= 1, "{said:?}");
        }
        // Of one client there is an order, so it would have had them.
        assert_eq!(
            answers(broker.addresses()[0], Some("a"), &packet(0xc0, &[])),
            [Packet::PingResp]
        );
        receiver.send(&Packet::PingReq);
        assert_eq!(receiver.receive(), Some(Packet::PingResp));
    });
}

/// Section 3.8.2.1.2.
#[test]
fn subscription_identifier_of_zero() {
    beside_somebody(|broker| {
        let subscribe = packet(0x82, &[0, 1, 2, 0x0b, 0, 0, 1, b'a', 0]);
        assert_eq!(ended(broker, Some("a"), &subscribe), PROTOCOL);
        // Longer than it may be.
        let subscribe = packet(0x82, &[0, 1, 6, 0x0b, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 1, b'a', 0]);
        assert_eq!(ended(broker, Some("a"), &subscribe), MALFORMED);
    });
}

/// [MQTT5-2.2.1-2] No identifier, one that is not there, and one that is in use.
#[test]
fn identifiers_that_are_none() {
    beside_somebody(|broker| {
        let zero = packet(0x32, &[&field(b"t")[..], &[0, 0, 0]].concat());
        assert!(matches!(ended(broker, Some("a"), &zero), PROTOCOL | MALFORMED));
        let zero = packet(0x82, &[0, 0, 0, 0, 1, b'a', 0]);
        assert!(matches!(ended(broker, Some("a"), &zero), PROTOCOL | MALFORMED));
        // Acknowledgements of nothing, as many as there are identifiers.
        let acks: Vec<u8> = (1..=u16::MAX).flat_map(|id| packet(0x40, &id.to_be_bytes())).collect();
        let told = answers(broker.addresses()[0], Some("a"), &acks);
        assert!(told.len() <= 1, "{} packets", told.len());
    });
}

/// A frame that is announced takes no memory before it is there.
#[test]
fn huge_frames() {
    beside_somebody(|broker| {
        let too_large = Some(ReasonCode::PacketTooLarge);
        assert_eq!(ended(broker, Some("a"), &[0x30, 0xff, 0xff, 0xff, 0x7f, 0, 1]), too_large);
        let head = [0x10, 0xff, 0xff, 0xff, 0x7f];
        let before_connect = answers(broker.addresses()[0], None, &head);
        assert!(before_connect.len() <= 1, "{before_connect:?}");
    });
}

/// A second CONNECT, what comes before the first, and what only a broker sends.
#[test]
fn packets_out_of_their_order() {
    beside_somebody(|broker| {
        let again = bytes_of(&connect_packet("a", Version::V5), Version::V5);
        assert_eq!(ended(broker, Some("a"), &again), PROTOCOL);
        for first in [
            &publish(b"t", b"")[..],
            &packet(0xc0, &[]),
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
        ] {
            let said = answers(broker.addresses()[0], None, first);
            assert!(said.len() <= 1, "{first:?}: {said:?}");
        }
        for first in [0x20, 0x90, 0xb0, 0xd0, 0x00] {
            let reason = ended(broker, Some("a"), &packet(first, &[0, 1, 0]));
            assert!(reason.is_some_and(ReasonCode::is_error), "{first:#x} {reason:?}");
        }
    });
}

/// What a client calls itself never makes a line of its own in the log, nor ends one.
#[test]
fn log_injection() {
    use petrel_engine::log::Escaped;
    for name in ["a\nerror everything is lost", "a\r\x1b[2J", "\u{85}\u{2028}x", "\u{202e}txet"] {
        let shown = Escaped(name.as_bytes()).to_string();
        assert!(shown.chars().all(|shown| shown == ' ' || shown.is_ascii_graphic()), "{shown:?}");
    }
}

/// Slow at every layer: they are cut, and keep nobody out meanwhile.
#[test]
fn slowloris_on_tcp_and_websocket() {
    for runtime in RUNTIMES {
        let mut config = config(2, runtime);
        config.listeners.push(common::listener(petrel_engine::config::Protocol::Ws));
        config.network.connect_timeout_s = 1;
        config.network.packet_timeout_s = 1;
        let broker = start(config);
        let [plain, ws] = [broker.addresses()[0], broker.addresses()[1]];
        let whole = bytes_of(&connect_packet("slow", Version::V5), Version::V5);
        let begun = |address, bytes: &[u8]| {
            let mut client = Client::open(address);
            client.send_bytes(bytes);
            client
        };
        let mut slow: Vec<_> = (0..100)
            .map(|n| match n % 3 {
                0 => begun(plain, &whole[..n % whole.len()]),
                1 => begun(ws, b"GET /mqtt HTTP/1.1\r\nHost: x\r\n"),
                _ => {
                    let mut client = Client::connect(plain, &format!("c{n}"), Version::V5);
                    client.send_bytes(&[0x30, 0x7f, 0]);
                    client
                }
            })
            .collect();
        let mut other = Client::connect(plain, "other", Version::V5);
        for client in &mut slow {
            let mut all = Vec::new();
            // A reset ends it as well.
            let _ = client.stream.read_to_end(&mut all);
        }
        other.send(&Packet::PingReq);
        assert_eq!(other.receive(), Some(Packet::PingResp));
        drop((slow, other));
        broker.stop().expect("it stops");
    }
}

/// An empty user name, an empty password and a password alone are no way in, and no crash.
#[test]
fn empty_password() {
    use petrel_engine::config::Config;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("users"), "").expect("written");
    let config = "[engine]\nshards = 2\nfd_tables = \"shared\"\n[[listener]]\nprotocol = \"mqtt\"\n\
                  address = \"127.0.0.1:0\"\nauthentication = [\"users\"]\n[[authenticator]]\n\
                  name = \"users\"\nkind = \"passwords\"\nfile = \"users\"\n";
    let config = Config::parse(config, folder.path()).expect("nothing is wrong");
    let broker = start(config);
    let mut client_id = 0;
    let mut told = |user: Option<&str>, password: Option<&'static str>| {
        client_id += 1;
        let Packet::Connect(mut connect) = connect_packet(&client_id.to_string(), Version::V5)
        else {
            panic!("it is a CONNECT");
        };
        connect.username = user.map(text);
        connect.password = password.map(Into::into);
        ended(&broker, None, &bytes_of(&Packet::Connect(connect), Version::V5))
    };
    for (user, password) in [
        (None, None),
        (Some(""), None),
        (Some(""), Some("")),
        (Some("user"), Some("")),
        (Some("user"), None),
        (None, Some("")),
        (None, Some("secret")),
    ] {
        let reason = told(user, password);
        let refused = [ReasonCode::BadUserNameOrPassword, ReasonCode::NotAuthorized];
        assert!(
            reason.is_some_and(|reason| refused.contains(&reason)),
            "{user:?} {password:?}: {reason:?}"
        );
    }
    broker.stop().expect("it stops");
}
