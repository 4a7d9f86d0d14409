//! How many may come, who must not, and how much they publish: on whole brokers.

mod common;

use std::time::Instant;

use common::{Client, PATIENCE, RUNTIMES, bytes_of, config, connect_packet, publish_packet, start};
use petrel_engine::boot::Running;
use petrel_engine::config::{Config, RuntimeChoice};
use petrel_net::stages::Stage;
use petrel_proto::{Packet, Qos, ReasonCode, Version};
use petrel_storage::control::{BanRequest, Subject};

/// What a client is told that connects.
fn told(broker: &Running, client_id: &str, version: Version) -> (Client, ReasonCode) {
    let mut client = Client::open(broker.addresses()[0]);
    client.version = version;
    client.send(&connect_packet(client_id, version));
    match client.receive() {
        Some(Packet::ConnAck(ack)) => (client, ack.reason),
        other => panic!("no CONNACK but {other:?}"),
    }
}

fn changed(change: impl Fn(&mut Config)) -> Vec<Running> {
    let changed = RUNTIMES.map(|runtime| {
        let mut config = config(2, runtime);
        change(&mut config);
        start(config)
    });
    changed.into()
}

/// Waits until a client is let in.
fn until_let_in(broker: &Running, client_id: &str) -> Client {
    let begin = Instant::now();
    loop {
        match told(broker, client_id, Version::V5) {
            (client, ReasonCode::Success) => return client,
            (_, reason) => assert!(begin.elapsed() < PATIENCE, "{reason:?}"),
        }
    }
}

/// Clients with these identifiers have homes at both shards.
const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[test]
fn no_more_clients_than_a_listener_or_a_source_may_have() {
    let bounds: [fn(&mut Config); 2] = [
        |config| config.listeners[0].connections_maximum = 3,
        |config| config.guard.source_clients_maximum = 3,
    ];
    for (at, bound) in bounds.into_iter().enumerate() {
        for broker in changed(bound) {
            let mut inside: Vec<_> =
                IDS[..3].iter().map(|id| told(&broker, id, Version::V5)).collect();
            assert!(inside.iter().all(|(_, reason)| *reason == ReasonCode::Success));
            for (version, reason) in [
                (Version::V5, ReasonCode::QuotaExceeded),
                (Version::V3_1_1, ReasonCode::ServerUnavailable),
                (Version::V3_1, ReasonCode::ServerUnavailable),
            ] {
                let (mut refused, told) = told(&broker, "x", version);
                assert_eq!(told, reason, "{version:?}");
                refused.expect_end();
            }
            assert_eq!(broker.guard().figures().full[at], 3);
            // Whoever takes over a session needs a place of its own, and gives the other back.
            let (left, _) = inside.remove(0);
            drop(left);
            let third = until_let_in(&broker, "late");
            for (client, _) in &mut inside {
                client.send(&Packet::PingReq);
                assert_eq!(client.receive(), Some(Packet::PingResp));
            }
            drop((inside, third));
            broker.stop().expect("it stops");
        }
    }
}

#[test]
fn sources_of_malformed_packets_and_clients_that_flap_are_banned_for_a_time() {
    let brokers = changed(|config| {
        config.guard.ban_after_malformed = 4;
        config.guard.ban_after_connects = 2;
        // Long enough that it does not end meanwhile.
        (config.guard.ban_within_s, config.guard.ban_s) = (3600, 3600);
    });
    for broker in brokers {
        let address = broker.addresses()[0];
        let (mut flapping, _) = told(&broker, "flapping", Version::V5);
        let (other, reason) = told(&broker, "other", Version::V5);
        assert_eq!(reason, ReasonCode::Success);
        let (_again, reason) = told(&broker, "flapping", Version::V5);
        assert_eq!(reason, ReasonCode::Success);
        flapping.expect_end();
        // One more, and whoever has it goes.
        let mut last = Client::open(address);
        last.send(&connect_packet("flapping", Version::V5));
        last.expect_end();
        assert_eq!(told(&broker, "flapping", Version::V5).1, ReasonCode::Banned);
        let (_, reason) = told(&broker, "flapping", Version::V3_1_1);
        assert_eq!(reason, ReasonCode::NotAuthorized);
        // Before CONNECT and after it.
        let mut inside = other;
        inside.send_bytes(&[0xf7, 0xff]);
        inside.expect_end();
        for _ in 0..4 {
            let mut client = Client::open(address);
            client.send_bytes(&[0x10, 0x02, 0xff, 0xff]);
            client.expect_end();
        }
        let mut shut_out = Client::open(address);
        let mut nothing = [0];
        let read = std::io::Read::read(&mut shut_out.stream, &mut nothing);
        assert!(!matches!(read, Ok(1..)), "{read:?}");
        let begin = Instant::now();
        let is_counted = || broker.watch().figures().census.stage(Stage::RefusedByBan) > 0;
        while !is_counted() {
            assert!(begin.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
        assert_eq!(broker.guard().figures().bans, 2);
        let targets: Vec<_> =
            broker.guard().bans().list(0).into_iter().map(|it| it.target).collect();
        for target in &targets {
            assert!(broker.guard().bans().remove(target));
        }
        drop(until_let_in(&broker, "flapping"));
        broker.stop().expect("it stops");
    }
}

#[test]
fn who_is_banned_goes_and_does_not_come_back() {
    for broker in changed(|_| {}) {
        let (mut banned, _) = told(&broker, "banned", Version::V5);
        let (mut other, _) = told(&broker, "other", Version::V5);
        let subject = Subject::ClientId("banned".into());
        let asked = BanRequest { subject: subject.clone(), for_s: None, why: "a test".into() };
        broker.reins().ban(&asked).expect("there is room");
        match banned.receive() {
            Some(Packet::Disconnect(it)) => assert_eq!(it.reason, ReasonCode::AdministrativeAction),
            other => panic!("no DISCONNECT but {other:?}"),
        }
        banned.expect_end();
        assert_eq!(told(&broker, "banned", Version::V5).1, ReasonCode::Banned);
        other.send(&Packet::PingReq);
        assert_eq!(other.receive(), Some(Packet::PingResp));
        assert_eq!(broker.reins().unban(&subject), Ok(true));
        assert_eq!(broker.reins().unban(&subject), Ok(false));
        assert_eq!(told(&broker, "banned", Version::V5).1, ReasonCode::Success);
        drop((banned, other));
        broker.stop().expect("it stops");
    }
}

/// What is too much is read later, in order and without loss; who never stops is sent away.
#[test]
fn who_publishes_more_than_its_rate_is_slowed_down_then_sent_away() {
    for broker in changed(|config| {
        config.rate.publish_messages_per_s = 200;
        config.rate.publish_messages_burst = 50;
    }) {
        let address = broker.addresses()[0];
        let mut subscriber = Client::connect(address, "subscriber", Version::V5);
        subscriber.subscribe("t", Qos::AtMostOnce);
        let mut publisher = Client::connect(address, "publisher", Version::V5);
        let begin = Instant::now();
        let messages: Vec<u8> = (0..250_u16)
            .flat_map(|n| {
                let packet = publish_packet("t", n.to_be_bytes().to_vec(), Qos::AtMostOnce, 0);
                bytes_of(&packet, Version::V5)
            })
            .collect();
        publisher.send_bytes(&messages);
        for n in 0..250_u16 {
            assert_eq!(subscriber.receive_publish().payload, n.to_be_bytes()[..]);
        }
        drop((subscriber, publisher));
        // It cannot be faster than its rate allows, however slow the machine is.
        assert!(begin.elapsed().as_millis() >= 990, "{:?}", begin.elapsed());
        broker.stop().expect("it stops");
    }
    for broker in changed(|config| {
        config.rate.publish_bytes_per_s = 100;
        config.rate.publish_bytes_burst = 1;
        config.rate.publish_wait_max_s = 1;
    }) {
        let mut publisher = Client::connect(broker.addresses()[0], "publisher", Version::V5);
        let packet = publish_packet("t", vec![0; 30], Qos::AtMostOnce, 0);
        publisher.send_bytes(&bytes_of(&packet, Version::V5).repeat(40));
        match publisher.receive() {
            Some(Packet::Disconnect(it)) => assert_eq!(it.reason, ReasonCode::MessageRateTooHigh),
            other => panic!("no DISCONNECT but {other:?}"),
        }
        drop(publisher);
        broker.stop().expect("it stops");
    }
}

/// What a client says first in an exchange of SCRAM-SHA-256.
const FIRST: &str = "n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL";

/// A broker that knows alice by SCRAM, who may publish to `of/alice`.
fn with_scram(runtime: RuntimeChoice) -> (Running, tempfile::TempDir) {
    let verifier = petrel_access::scram::Verifier::make(b"pencil").expect("random numbers");
    let rules = "[[rule]]\nallow = \"publish\"\ntopics = [\"of/%u\"]\n";
    common::with_users(runtime, "scram", &format!("alice:{verifier}\n"), rules)
}

fn scram_step(reason: ReasonCode, data: String) -> Packet {
    let (method, data) = (Some(common::text("SCRAM-SHA-256")), Some(data.into()));
    let properties = petrel_proto::ReasonProperties::EMPTY;
    Packet::Auth(Box::new(petrel_proto::Auth { reason, method, data, properties }))
}

/// The answer to the challenge that comes next.
fn scram_last(client: &mut Client, password: &str) -> Packet {
    let Some(Packet::Auth(challenge)) = client.receive() else { panic!("no challenge") };
    let challenge = String::from_utf8(challenge.data.expect("data").to_vec()).expect("text");
    let last = common::scram::last(password, FIRST, &challenge);
    scram_step(ReasonCode::ContinueAuthentication, last)
}

/// A client that has begun an exchange.
fn scram_begun(broker: &Running, client_id: &str) -> Client {
    let mut client = Client::open(broker.addresses()[0]);
    let Packet::Connect(mut connect) = connect_packet(client_id, Version::V5) else { panic!() };
    connect.properties.authentication_method = Some(common::text("SCRAM-SHA-256"));
    connect.properties.authentication_data = Some(FIRST.into());
    client.send(&Packet::Connect(connect));
    client
}

/// [MQTT5-4.12.0-2] A whole exchange of SCRAM-SHA-256, its rights by rules, and once more; at both shards.
#[test]
fn who_knows_a_password_proves_it_without_sending_it() {
    for runtime in RUNTIMES {
        let (broker, _folder) = with_scram(runtime);
        for (id, password, enters) in
            [("a", "pencil", true), ("b", "pencil", true), ("c", "Pencil", false)]
        {
            let mut client = scram_begun(&broker, id);
            let last = scram_last(&mut client, password);
            client.send(&last);
            let Some(Packet::ConnAck(ack)) = client.receive() else { panic!("no CONNACK") };
            if !enters {
                assert_eq!(ack.reason, ReasonCode::NotAuthorized);
                continue;
            }
            assert_eq!(ack.reason, ReasonCode::Success);
            let signature = ack.properties.authentication_data.expect("the broker's own proof");
            assert!(signature.starts_with(b"v="));
            // It is alice to the rules.
            for (topic, reason) in [
                ("of/alice", ReasonCode::NoMatchingSubscribers),
                ("of/bob", ReasonCode::NotAuthorized),
            ] {
                client.send(&publish_packet(topic, "x", Qos::AtLeastOnce, 1));
                let Some(Packet::PubAck(ack)) = client.receive() else { panic!("no PUBACK") };
                assert_eq!(ack.reason, reason, "{topic}");
            }
            // Once more, on the same connection.
            client.send(&scram_step(ReasonCode::ReAuthenticate, FIRST.to_owned()));
            let last = scram_last(&mut client, password);
            client.send(&last);
            let Some(Packet::Auth(done)) = client.receive() else { panic!("no answer") };
            assert_eq!(done.reason, ReasonCode::Success);
        }
        // A password is nothing there.
        let (_, reason) = told(&broker, "d", Version::V5);
        assert_eq!(reason, ReasonCode::NotAuthorized);
        broker.stop().expect("it stops");
    }
}

/// Who is banned while it proves who it is does not stay, whatever it is banned by.
#[test]
fn who_is_banned_while_it_is_let_in_does_not_stay() {
    for runtime in RUNTIMES {
        let (broker, _folder) = with_scram(runtime);
        for (id, subject) in [
            ("a", Subject::ClientId("a".into())),
            ("b", Subject::ClientId("b".into())),
            ("c", Subject::User("alice".into())),
        ] {
            let mut client = scram_begun(&broker, id);
            let last = scram_last(&mut client, "pencil");
            let asked = BanRequest { subject: subject.clone(), for_s: None, why: "a test".into() };
            broker.reins().ban(&asked).expect("there is room");
            client.send(&last);
            match client.receive() {
                Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Banned => {}
                Some(Packet::ConnAck(ack)) => {
                    assert_eq!(ack.reason, ReasonCode::Success);
                    let Some(Packet::Disconnect(it)) = client.receive() else { panic!("{id}") };
                    assert_eq!(it.reason, ReasonCode::AdministrativeAction);
                }
                other => panic!("no CONNACK but {other:?}"),
            }
            client.expect_end();
        }
        broker.stop().expect("it stops");
    }
}

/// Who waits for something else, as for its messages to many, meets its rate all the same.
#[test]
fn the_rate_holds_for_messages_that_go_out_in_parts() {
    for broker in changed(|config| {
        config.limits.receivers_per_turn = 1;
        config.rate.publish_messages_per_s = 100;
        config.rate.publish_messages_burst = 25;
        config.rate.publish_wait_max_s = 2;
    }) {
        let address = broker.addresses()[0];
        let mut receivers: Vec<_> =
            IDS.iter().map(|id| Client::connect(address, id, Version::V5)).collect();
        receivers.iter_mut().for_each(|it| it.subscribe("t", Qos::AtMostOnce));
        let mut publisher = Client::connect(address, "publisher", Version::V5);
        let packet = publish_packet("t", "m", Qos::AtMostOnce, 0);
        publisher.send_bytes(&bytes_of(&packet, Version::V5).repeat(2_000));
        match publisher.receive() {
            Some(Packet::Disconnect(it)) => assert_eq!(it.reason, ReasonCode::MessageRateTooHigh),
            other => panic!("no DISCONNECT but {other:?}"),
        }
        drop((receivers, publisher));
        broker.stop().expect("it stops");
    }
}

/// Who is held back by its rate gives its place back when it goes, and goes on when the rate is lifted.
#[test]
fn who_is_held_by_its_rate_is_noticed_when_it_goes_and_freed_by_a_reload() {
    for runtime in RUNTIMES {
        let mut slow = config(2, runtime);
        slow.listeners[0].connections_maximum = 1;
        (slow.rate.publish_bytes_per_s, slow.rate.publish_bytes_burst) = (100, 100);
        let fast = config(2, runtime);
        let mut broker = start(slow);
        let mut gone = Client::connect(broker.addresses()[0], "gone", Version::V5);
        let packet = publish_packet("t", vec![0; 5_000], Qos::AtMostOnce, 0);
        gone.send(&packet);
        gone.send(&packet);
        drop(gone);
        let mut held = until_let_in(&broker, "held");
        held.send(&packet);
        held.send(&Packet::PingReq);
        assert!(broker.reload_with(&fast).expect("nothing is wrong").is_empty());
        assert_eq!(held.receive(), Some(Packet::PingResp));
        drop(held);
        broker.stop().expect("it stops");
    }
}
