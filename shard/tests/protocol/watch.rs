//! What is said of clients and topics while somebody watches them.

use std::sync::Arc;

use petrel_proto::{Ack, Packet, Qos, ReasonCode as R, TopicFilter, Version};
use petrel_shard::access::{AddressRange, Effect, Rule, Rules, Subjects};
use petrel_shard::{Access, DropReason, Identity, Input, Subject, Traced, Verdict, What};

use crate::harness::{Net, across, across_with};
use crate::packets::*;

fn topic(filter: &str) -> Subject {
    Subject::Topic(TopicFilter::new(text(filter)).unwrap())
}

fn client(id: &str) -> Subject {
    Subject::ClientId(text(id))
}

fn kind(packet: &Packet) -> String {
    let text = format!("{packet:?}");
    text.split(['(', ' ']).next().unwrap().to_uppercase()
}

/// What was said, in short, and whom it is about.
fn brief(traced: &Traced) -> String {
    let who = traced.client_id.as_ref().map_or("-", |id| id.as_str());
    let what = match &traced.what {
        What::Came(packet) => format!("-> {}", kind(packet)),
        What::Sent { packet, .. } => format!("<- {}", kind(packet)),
        What::Right { filter, allowed, rights } => {
            let rules = match filter {
                None => rights.publish_rules,
                Some(_) => rights.subscribe_rules,
            };
            format!("may {allowed:?} {:?} {:?}", rules.allowing, rules.denying)
        }
        What::Routed { copies, shards, retained_in } => {
            format!("routed {copies} +{} {}", shards.len(), retained_in.is_some())
        }
        What::Unmatched { .. } => "unmatched".into(),
        What::FromShard(_) => "from shard".into(),
        What::Queued(waiting) => format!("queued {waiting}"),
        What::Dropped { reason, copies } => format!("dropped {reason:?} {copies}"),
        What::Refused(reason) => format!("refused {reason:?}"),
        What::Delivered => "delivered".into(),
        What::Connected { session_present } => format!("connected {session_present}"),
        What::Ended { by, reason, .. } => format!("ended {by:?} {reason:?}"),
        What::Verified { user } => format!("is {:?}", user.as_ref().map(|user| user.as_str())),
        What::Unverified { reason } => format!("is not {reason:?}"),
        What::Will => "will".into(),
        What::SessionEnded => "session ended".into(),
        other => format!("{other:?}"),
    };
    format!("{who} {what}")
}

fn said(net: &mut Net) -> Vec<String> {
    std::mem::take(&mut net.traced).iter().map(|(_, traced)| brief(traced)).collect()
}

/// A message that crosses shards is seen from its PUBLISH to the PUBACK of its receiver, at the shards of both.
#[test]
fn a_topic_is_followed_from_publisher_to_receiver() {
    let mut net = Net::new(3);
    let (from, to) = (net.on(0, "from"), net.on(1, "to"));
    let (a, b) = (net.online(v5(&from)), net.online(v5(&to)));
    net.subscribe(b, "a/+", QOS1);
    net.watch([topic("a/#")]);
    net.send(a, message("other", "x").qos1(7));
    net.send(a, message("a/b", "x").qos1(8));
    net.run();
    let _ = net.received(a);
    let [publish] = &net.publishes(b)[..] else { panic!("one message") };
    net.send(b, Packet::PubAck(Ack::new(publish.packet_id.unwrap(), R::Success)));
    let shards: Vec<u16> = net.traced.iter().map(|(shard, _)| *shard).collect();
    let expected = [
        format!("{from} -> PUBLISH"),
        format!("{from} may Some(AtLeastOnce) None None"),
        format!("{from} routed 0 +1 false"),
        format!("{from} <- PUBACK"),
        "- from shard".into(),
        "- routed 1 +0 false".into(),
        format!("{to} <- PUBLISH"),
        format!("{to} -> PUBACK"),
        format!("{to} delivered"),
    ];
    assert_eq!(said(&mut net), expected);
    assert_eq!(shards, [0, 0, 0, 0, 1, 1, 1, 1, 1]);
}

/// Acknowledgements at QoS 2 name no topic, and are those of a message that is watched nevertheless.
#[test]
fn an_exchange_of_qos_2_is_followed_to_its_end() {
    across(|net| {
        let (a, b) = (net.online(v5("a")), net.online(v5("b")));
        net.subscribe(b, "t", QOS2);
        net.watch([topic("t")]);
        net.send(a, message("t", "x").qos2(3));
        let _ = net.received(a);
        net.send(a, Packet::PubRel(Ack::new(id(3), R::Success)));
        net.run();
        let _ = net.received(a);
        let [publish] = &net.publishes(b)[..] else { panic!("one message") };
        let packet_id = publish.packet_id.unwrap();
        net.send(b, Packet::PubRec(Ack::new(packet_id, R::Success)));
        let _ = net.received(b);
        net.send(b, Packet::PubComp(Ack::new(packet_id, R::Success)));
        let said = said(net);
        let of = |who: &str| -> Vec<&str> {
            let of = said.iter().filter_map(|line| line.strip_prefix(who));
            of.filter(|line| line.contains("PUB") || *line == "delivered").collect()
        };
        assert_eq!(of("a "), ["-> PUBLISH", "<- PUBREC", "-> PUBREL", "<- PUBCOMP"]);
        let to = ["<- PUBLISH", "-> PUBREC", "delivered", "<- PUBREL", "-> PUBCOMP"];
        assert_eq!(of("b "), to);
        net.send(a, message("u", "x").qos2(3));
        assert!(net.traced.is_empty(), "{:?}", net.traced);
        net.send(a, Packet::PubRel(Ack::new(id(3), R::Success)));
        let _ = net.received(a);
        assert!(net.traced.is_empty(), "{:?}", net.traced);
    });
}

/// Who is away has queues, and what does not fit.
#[test]
fn a_client_is_watched_while_it_is_away() {
    across_with(
        |limits| limits.session_queue_messages = 2,
        |net| {
            let away = net.online(v5("away").with(|c| {
                c.properties.session_expiry_interval_s = Some(100);
            }));
            net.subscribe(away, "t", QOS1);
            let a = net.online(v5("a"));
            net.drop(away);
            net.watch([client("away")]);
            for number in 1..=3 {
                net.send(a, message("t", "x").qos1(number));
            }
            net.send(a, message("t", "x"));
            net.run();
            let _ = net.received(a);
            let expected = [
                "away queued 1",
                "away queued 2",
                "away dropped QueueFull 1",
                "away dropped NotConnected 1",
            ];
            assert_eq!(said(net), expected);
            net.leap(101_000);
            assert_eq!(said(net), ["away dropped SessionEnded 2", "away session ended"]);
        },
    );
}

#[test]
fn a_connection_is_watched_from_its_connect_to_its_end() {
    across(|net| {
        net.watch([client("a")]);
        let a = net.online(v5("a"));
        let _ = net.online(v5("b"));
        net.subscribe(a, "t", QOS1);
        net.send_bytes(a, b"\x00\x00");
        let _ = net.received(a);
        let places: Vec<_> = net.traced.iter().map(|(_, it)| it.whence.is_some()).collect();
        let expected = [
            "a -> CONNECT",
            "a connected false",
            "a <- CONNACK",
            "a -> SUBSCRIBE",
            "a may Some(ExactlyOnce) None None",
            "a <- SUBACK",
            "a session ended",
            "a <- DISCONNECT",
            "a ended Broker MalformedPacket",
        ];
        let said = said(net);
        let said: Vec<_> = said.iter().filter(|line| !line.contains("Malformed {")).collect();
        assert_eq!(said, expected.iter().collect::<Vec<_>>());
        assert_eq!(places.iter().filter(|known| !**known).count(), 1, "of the session alone");
    });
}

fn rule(effect: Effect, filters: &[&str]) -> Rule {
    Rule {
        subjects: Subjects::default(),
        effect,
        publish: true,
        subscribe: true,
        filters: filters.iter().map(|filter| text(filter)).collect(),
    }
}

/// The rule that decides is named by its place; a user is watched by what it says, and by what it has proved.
#[test]
fn rules_and_proofs_are_said() {
    across(|net| {
        let mut rules = Rules::default();
        let allow = Effect::Allow { max_qos: Qos::AtLeastOnce, retain: false };
        rules.add(rule(allow, &["t/#"])).unwrap();
        rules.add(rule(Effect::Deny, &["t/secret"])).unwrap();
        net.authenticates = true;
        net.begin_with(Access { is_on: true, rules: Some(Arc::new(rules)), ..Access::default() });
        net.watch([Subject::User(text("alice"))]);
        let by = |id: &str| {
            v5(id).with(|c| {
                c.username = Some(text("alice"));
                c.password = Some("secret".into());
            })
        };
        let refused = net.connect(by("a"));
        net.verdict(refused, Verdict::Refuse { reason: R::NotAuthorized });
        let a = net.connect(by("a"));
        let identity = Identity { user: text("alice"), ..Identity::default() };
        let proved = Verdict::Accept { data: None, identity: Some(Arc::new(identity)) };
        net.verdict(a, proved);
        let _ = (net.received(refused), net.received(a));
        assert!(!format!("{:?}", net.traced).contains("secret"), "{:?}", net.traced);
        net.send(a, subscribe(&[("t/1", options(QOS2)), ("#", options(QOS0))]));
        net.send(a, message("t/secret", "x").qos1(5));
        net.send(a, message("t/1", "x").retained().qos1(6));
        let _ = net.received(a);
        let expected = [
            "a -> CONNECT",
            "a is not NotAuthorized",
            "a <- CONNACK",
            "a -> CONNECT",
            "a is Some(\"alice\")",
            "a connected false",
            "a <- CONNACK",
            "a -> SUBSCRIBE",
            "a may Some(AtLeastOnce) Some(0) None",
            "a may None None Some(1)",
            "a <- SUBACK",
            "a -> PUBLISH",
            "a may None Some(0) Some(1)",
            "a refused NotAuthorized",
            "a <- PUBACK",
            "a -> PUBLISH",
            "a may None Some(0) None",
            "a refused NotAuthorized",
            "a <- PUBACK",
        ];
        assert_eq!(said(net), expected);
        net.authenticates = false;
        net.watch([]);
        net.drop(a);
        assert!(net.traced.is_empty());
        net.begin_with(Access::default());
    });
}

/// Topics behind aliases are known in both directions, and who watches two things has both marks.
#[test]
fn aliases_hide_no_topic() {
    across(|net| {
        let a = net.online(v5("a"));
        let b = net.online(v5("b").with(|c| c.properties.topic_alias_maximum = Some(5)));
        net.subscribe(b, "long/topic", QOS0);
        net.watch([topic("long/topic"), client("b")]);
        let by_alias = |name: &str| {
            message(name, "x").with(|publish| publish.properties.topic_alias = Some(1))
        };
        net.send(a, by_alias("long/topic"));
        net.traced.clear();
        net.send(
            a,
            message("", "x").with(|publish| {
                publish.topic = petrel_proto::TopicName::EMPTY;
                publish.properties.topic_alias = Some(1);
            }),
        );
        net.run();
        let _ = net.received(b);
        let traced = &net.traced;
        assert!(!traced.is_empty());
        assert!(traced.iter().all(|(_, it)| it.topic == Some(text("long/topic"))), "{traced:?}");
        let sent = traced.iter().find(|(_, it)| matches!(it.what, What::Sent { .. })).unwrap();
        assert!(sent.1.to.has(0) && sent.1.to.has(1) && !sent.1.to.has(2));
        let Version::V5 = net.version(a) else { panic!("MQTT 5") };
        assert_eq!(net.dropped(DropReason::SlowReader), 0);
    });
}

/// A will, a message that nobody wants, and one to many.
#[test]
fn wills_and_messages_for_nobody_are_said() {
    across(|net| {
        let a = net.online(v5("a").with(|c| c.will = Some(will("gone", "x"))));
        let b = net.online(v5("b"));
        net.watch([client("a"), topic("gone")]);
        net.send(b, message("gone", "x"));
        assert_eq!(said(net)[2..], ["b unmatched"]);
        net.subscribe(b, "gone", QOS0);
        net.traced.clear();
        net.drop(a);
        net.run();
        let _ = net.received(b);
        let said = said(net);
        assert!(
            said.contains(&"a will".into()) && said.contains(&"b <- PUBLISH".into()),
            "{said:?}"
        );
    });
}

/// However much one input leads to, so much of it is said, and the rest is counted.
#[test]
fn what_one_input_leads_to_is_said_in_part_and_counted() {
    let mut net = Net::new(1);
    let everybody: AddressRange = "0.0.0.0/0".parse().unwrap();
    net.watch([Subject::Addresses(everybody)]);
    for n in 0..600 {
        let _ = net.online(v5(&format!("client{n}")));
    }
    net.traced.clear();
    assert_eq!(net.untraced, 0);
    net.handle_on(0, Input::Shutdown);
    assert_eq!(net.traced.len(), 1_024);
    assert_eq!(
        net.untraced,
        1_800 - 1_024,
        "a DISCONNECT for each, its end, and that of its session"
    );
}

/// Receivers that have forms of their own share a long payload in what is said of them too.
#[test]
fn a_payload_is_not_copied_for_what_is_said() {
    let mut net = Net::new(1);
    let publisher = net.online(v5("publisher"));
    for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
        let client = net.online(v5(name));
        let mut packet = subscribe(&[("t", options(QOS0))]);
        packet.subscription_identifier = Some(200 + at as u32);
        net.suback(client, packet);
    }
    net.watch([topic("t")]);
    let long = "x".repeat(100_000);
    net.publish(publisher, message("t", &long));
    let sent: Vec<_> = net
        .traced
        .iter()
        .filter_map(|(_, traced)| match &traced.what {
            What::Sent { packet, bytes } => match &**packet {
                Packet::Publish(publish) => Some((publish.clone(), *bytes)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    assert_eq!(sent.len(), 3);
    for (publish, bytes) in &sent {
        assert_eq!(publish.payload, long);
        assert_eq!(publish.payload.as_ptr(), sent[0].0.payload.as_ptr());
        assert_eq!(publish.topic.as_bytes(), b"t");
        // First byte, three of length, topic, properties with their length.
        assert_eq!(*bytes, 4 + 3 + 1 + 3 + 100_000);
    }
}
