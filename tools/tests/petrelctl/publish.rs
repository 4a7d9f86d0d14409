//! `petrelctl pub` against a broker that follows a script.

use std::io::Write as _;

use crate::support::{Broker, Client, ack, code, message, outcome, spawn};
use petrel_proto::{ConnAckProperties, Packet, PayloadFormat, Publish, Qos, ReasonCode, Version};

fn published(packet: Packet) -> Publish {
    match packet {
        Packet::Publish(publish) => publish,
        other => panic!("not PUBLISH: {other:?}"),
    }
}

/// Lets a client in, answers everything it publishes, and returns that.
fn take_all(mut client: Client) -> Vec<Publish> {
    client.accept();
    let mut messages = Vec::new();
    loop {
        match client.expect() {
            Packet::Publish(publish) => {
                match publish.qos {
                    Qos::AtMostOnce => {}
                    Qos::AtLeastOnce => {
                        let id = publish.packet_id.expect("QoS 1 has one");
                        client.send(&Packet::PubAck(ack(id, ReasonCode::Success)));
                    }
                    Qos::ExactlyOnce => {
                        let id = publish.packet_id.expect("QoS 2 has one");
                        client.send(&Packet::PubRec(ack(id, ReasonCode::Success)));
                    }
                }
                messages.push(publish);
            }
            Packet::PubRel(release) => {
                client.send(&Packet::PubComp(ack(release.packet_id, ReasonCode::Success)));
            }
            Packet::Disconnect(_) => return messages,
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn a_message_goes_out_at_every_qos_and_in_every_version() {
    for version in ["5", "311", "31"] {
        for qos in ["0", "1", "2"] {
            let broker = Broker::start(take_all);
            let line = format!("pub -V {version} -q {qos} -t a/b -m hello -r");
            assert_eq!(outcome(&mut broker.petrelctl(&line)), (0, String::new(), String::new()));
            let messages = broker.finish();
            assert_eq!(messages.len(), 1);
            assert_eq!(messages[0].payload, "hello");
            assert_eq!((messages[0].qos as u8).to_string(), qos);
            assert!(messages[0].retain);
        }
    }
}

#[test]
fn connect_says_what_the_options_say() {
    let broker = Broker::start(|mut client| {
        let connect = client.accept();
        client.rest();
        connect
    });
    let line = "pub -t a -n -i me -u name -P secret -c -k 7 --will-topic w --will-payload bye \
                --will-qos 1 --will-retain -D will will-delay-interval 9 \
                -D connect user-property n v";
    assert_eq!(outcome(&mut broker.petrelctl(line)).0, 0);
    let connect = broker.finish();
    assert_eq!(
        (connect.version, connect.clean_start, connect.keep_alive_s),
        (Version::V5, false, 7)
    );
    assert_eq!(connect.client_id.as_str(), "me");
    assert_eq!(connect.username.as_ref().map(|name| name.as_str()), Some("name"));
    assert_eq!(connect.password.as_deref(), Some(&b"secret"[..]));
    assert_eq!(connect.properties.session_expiry_interval_s, Some(u32::MAX));
    assert_eq!(connect.properties.user_properties.iter().collect::<Vec<_>>(), [("n", "v")]);
    let will = connect.will.expect("a will");
    assert_eq!((will.topic.as_bytes(), &will.payload[..]), (&b"w"[..], &b"bye"[..]));
    assert_eq!((will.qos, will.retain, will.delay_interval_s), (Qos::AtLeastOnce, true, Some(9)));
}

#[test]
fn publish_carries_its_properties() {
    let broker = Broker::start(take_all);
    let mut command = broker.petrelctl("pub -t a -m {}");
    for property in [
        &["payload-format-indicator", "1"][..],
        &["message-expiry-interval", "60"],
        &["content-type", "application/json"],
        &["response-topic", "r/x"],
        &["correlation-data", "c"],
        &["user-property", "n", "v"],
        &["user-property", "n", "w"],
    ] {
        command.args(["-D", "publish"]).args(property);
    }
    assert_eq!(outcome(&mut command).0, 0);
    let properties = broker.finish().remove(0).properties;
    let fields = properties.message.fields();
    assert_eq!(fields.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(properties.message_expiry_interval_s, Some(60));
    assert_eq!(fields.content_type.expect("one").as_str(), "application/json");
    assert_eq!(fields.response_topic.expect("one").as_str(), "r/x");
    assert_eq!(fields.correlation_data.as_deref(), Some(&b"c"[..]));
    assert_eq!(fields.user_properties.iter().collect::<Vec<_>>(), [("n", "v"), ("n", "w")]);
}

#[test]
fn each_line_of_stdin_is_a_message() {
    let broker = Broker::start(take_all);
    let mut child = spawn(&mut broker.petrelctl("pub -t a -l -q 1"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"one\n\nthree\nlast without its end").expect("it reads");
    drop(stdin);
    assert_eq!(code(child.wait().expect("it ends")), 0);
    let payloads: Vec<_> = broker.finish().into_iter().map(|it| it.payload).collect();
    assert_eq!(payloads, ["one", "", "three", "last without its end"]);
}

#[test]
fn all_of_stdin_is_one_message() {
    let broker = Broker::start(take_all);
    let mut child = spawn(&mut broker.petrelctl("pub -t a -s"));
    child.stdin.take().expect("a pipe").write_all(b"one\ntwo\n").expect("it reads");
    assert_eq!(code(child.wait().expect("it ends")), 0);
    assert_eq!(broker.finish()[0].payload, "one\ntwo\n");
}

#[test]
fn a_message_is_repeated_as_often_as_asked() {
    let broker = Broker::start(take_all);
    assert_eq!(outcome(&mut broker.petrelctl("pub -t a -m x -q 2 --repeat 50")).0, 0);
    let ids: Vec<_> = broker.finish().iter().map(|it| it.packet_id.expect("one").get()).collect();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
}

/// [MQTT5-3.3.4-7]
#[test]
fn the_brokers_receive_maximum_is_kept() {
    let broker = Broker::start(|mut client| {
        let two = ConnAckProperties { receive_maximum: Some(2), ..Default::default() };
        client.connack(ReasonCode::Success, two);
        let mut waiting = std::collections::VecDeque::new();
        for _ in 0..20 {
            waiting.push_back(published(client.expect()).packet_id.expect("QoS 1"));
            if waiting.len() < 2 {
                continue;
            }
            assert!(client.is_quiet(), "a third is on its way");
            let id = waiting.pop_front().expect("two are there");
            client.send(&Packet::PubAck(ack(id, ReasonCode::Success)));
        }
        for id in waiting {
            client.send(&Packet::PubAck(ack(id, ReasonCode::Success)));
        }
        client.rest().len()
    });
    assert_eq!(outcome(&mut broker.petrelctl("pub -t a -m x -q 1 --repeat 20")).0, 0);
    assert_eq!(broker.finish(), 1, "DISCONNECT and nothing else");
}

#[test]
fn a_refused_connection_ends_with_its_code() {
    for (version, reason, expected) in [
        ("5", ReasonCode::NotAuthorized, (0x87, "not authorized (0x87)")),
        ("311", ReasonCode::NotAuthorized, (5, "not authorized (0x05)")),
        ("5", ReasonCode::ServerBusy, (0x89, "the broker is busy; try again later (0x89)")),
    ] {
        let broker = Broker::start(move |mut client| {
            client.connack(reason, ConnAckProperties::default());
        });
        let place = broker.address;
        let line = format!("pub -V {version} -t a -m x");
        let (code, _, stderr) = outcome(&mut broker.petrelctl(&line));
        let sentence = format!("petrelctl: {place} refuses the connection: {}\n", expected.1);
        assert_eq!((code, stderr), (expected.0, sentence));
        broker.finish();
    }
}

#[test]
fn a_rejected_message_is_a_failure_and_ends_its_delivery() {
    for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let broker = Broker::start(move |mut client| {
            client.accept();
            let answer = ack(
                published(client.expect()).packet_id.expect("QoS 1 or 2"),
                ReasonCode::QuotaExceeded,
            );
            client.send(&match qos {
                Qos::ExactlyOnce => Packet::PubRec(answer),
                _ => Packet::PubAck(answer),
            });
            client.rest()
        });
        let line = format!("pub -t a -m x -q {}", qos as u8);
        let (code, _, stderr) = outcome(&mut broker.petrelctl(&line));
        assert_eq!(code, 1);
        assert_eq!(stderr, "petrelctl: the broker rejects the message: quota exceeded (0x97)\n");
        assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
    }
}

#[test]
fn what_the_broker_cannot_do_is_not_sent() {
    for (line, limits, sentence) in [
        (
            "pub -t a -m x -q 2",
            ConnAckProperties { maximum_qos: Some(Qos::AtLeastOnce), ..Default::default() },
            "the broker accepts QoS 1 at most (-q)",
        ),
        (
            "pub -t a -m x -r",
            ConnAckProperties { retain_available: Some(false), ..Default::default() },
            "the broker keeps no retained messages (-r)",
        ),
        (
            "pub -t a -m x -D publish topic-alias 3",
            ConnAckProperties { topic_alias_maximum: Some(2), ..Default::default() },
            "the broker accepts topic aliases up to 2",
        ),
    ] {
        let broker = Broker::start(move |mut client| {
            client.connack(ReasonCode::Success, limits);
            client.rest()
        });
        let (code, _, stderr) = outcome(&mut broker.petrelctl(line));
        assert_eq!((code, stderr), (1, format!("petrelctl: {sentence}\n")));
        assert_eq!(broker.finish(), [], "nothing is published");
    }
}

/// [MQTT5-3.2.2-15]
#[test]
fn a_message_that_is_too_large_for_the_broker_is_not_sent() {
    let broker = Broker::start(|mut client| {
        let small = ConnAckProperties { maximum_packet_size: Some(20), ..Default::default() };
        client.connack(ReasonCode::Success, small);
        client.rest()
    });
    let place = broker.address;
    let (code, _, stderr) = outcome(&mut broker.petrelctl("pub -t a -m 0123456789012345678"));
    let sentence = format!("petrelctl: the packet is too large: {place} accepts 20 bytes\n");
    assert_eq!((code, stderr), (1, sentence));
    assert_eq!(broker.finish(), []);
}

#[test]
fn a_lost_connection_is_a_failure() {
    let broker = Broker::start(|mut client| {
        client.accept();
        client.expect();
    });
    let place = broker.address;
    let (code, _, stderr) = outcome(&mut broker.petrelctl("pub -t a -m x -q 1"));
    assert_eq!((code, stderr), (1, format!("petrelctl: {place} closed the connection\n")));
    broker.finish();
}

#[test]
fn time_is_up_while_the_broker_says_nothing() {
    let broker = Broker::start(|mut client| {
        client.accept();
        client.rest()
    });
    let (code, _, stderr) = outcome(&mut broker.petrelctl("pub -t a -m x -q 1 -W 0.2"));
    assert_eq!((code, stderr.as_str()), (27, "petrelctl: timed out\n"));
    let packets = broker.finish();
    assert!(matches!(packets[..], [Packet::Publish(_), Packet::Disconnect(_)]), "{packets:?}");
    assert_eq!(published(packets[0].clone()), message(1, Qos::AtLeastOnce, "a", "x"));
}
