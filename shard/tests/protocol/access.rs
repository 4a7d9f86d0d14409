//! Who may do what: CONNECTs that wait for somebody to say who the client is, and rules.

use std::sync::Arc;

use petrel_proto::{Connect, Packet, Qos, ReasonCode as R, Version};
use petrel_shard::access::{Effect, Rule, Rules, Subjects};
use petrel_shard::{Access, Asks, Banned, DropReason, Event, Identity, Verdict};

use crate::harness::{Client, Net, across, versions};
use crate::packets::*;

const ALLOW: Effect = Effect::Allow { max_qos: Qos::ExactlyOnce, retain: true };

/// A rule about everybody, or about some users.
fn rule(users: &[&str], effect: Effect, what: &str, filters: &[&str]) -> Rule {
    Rule {
        subjects: Subjects {
            users: users.iter().map(|user| text(user)).collect(),
            ..Subjects::default()
        },
        effect,
        publish: what != "subscribe",
        subscribe: what != "publish",
        filters: filters.iter().map(|filter| text(filter)).collect(),
    }
}

fn rules(all: impl IntoIterator<Item = Rule>) -> Rules {
    let mut rules = Rules::default();
    all.into_iter().for_each(|rule| rules.add(rule).unwrap());
    rules
}

fn begin(net: &mut Net, rules: Option<Rules>) {
    net.authenticates = true;
    net.begin_with(Access { is_on: true, rules: rules.map(Arc::new), ..Access::default() });
}

fn as_user(user: &str) -> Verdict {
    let identity =
        Identity { user: text(user), groups: vec![text("staff")], ..Identity::default() };
    Verdict::Accept { data: None, identity: Some(Arc::new(identity)) }
}

fn by_password(connect: Connect, user: &str) -> Connect {
    connect.with(|c| {
        c.username = Some(text(user));
        c.password = Some("secret".into());
    })
}

/// A client that is who it says.
fn online_as(net: &mut Net, connect: Connect, user: &str) -> Client {
    let client = net.connect(by_password(connect, user));
    net.verdict(client, as_user(user));
    assert_eq!(net.connack(client).reason, R::Success);
    client
}

/// Ends the session of a client.
fn clean(net: &mut Net, version: Version, id: &str, user: &str) {
    let last = online_as(net, connect(version, id), user);
    net.drop(last);
}

/// [MQTT5-3.1.4-2] [MQTT311-3.1.4-5] What the client sends meanwhile waits ([MQTT5-3.1.4-6]).
#[test]
fn a_connect_waits_until_somebody_has_said_who_it_is() {
    versions(|net, version| {
        begin(net, None);
        let a = net.connect(by_password(connect(version, "a"), "alice"));
        net.silent(a);
        net.send(a, subscribe(&[("t", options(QOS1))]));
        net.send(a, message("t", "early").qos1(2));
        net.run();
        net.silent(a);
        let question = net.verdict(a, as_user("alice"));
        let Asks::Credentials(credentials) = &question.asks else { panic!("{question:?}") };
        assert_eq!(credentials.user_name, Some(text("alice")));
        assert_eq!(credentials.password.as_deref(), Some(&b"secret"[..]));
        assert!(!format!("{question:?}").contains("secret"), "{question:?}");
        assert_eq!(net.connack(a).reason, R::Success);
        assert!(net.take(a, |packet| matches!(packet, Packet::SubAck(_))).is_some());
        assert!(net.take(a, |packet| matches!(packet, Packet::Publish(_))).is_some());
    });
}

/// [MQTT5-3.1.4-1] [MQTT5-3.1.4-2] [MQTT5-3.2.2-7]
#[test]
fn a_client_that_is_not_who_it_says_is_refused_and_leaves_nothing() {
    versions(|net, version| {
        begin(net, None);
        let old = online_as(net, resume(version, "a"), "alice");
        let a = net.connect(by_password(resume(version, "a"), "alice"));
        net.send(a, subscribe(&[("t", options(QOS1))]));
        net.verdict(a, Verdict::Refuse { reason: R::BadUserNameOrPassword });
        net.refused(a, R::BadUserNameOrPassword);
        assert!(net.is_open(old), "the session is still its user's");
        let b = net.connect(by_password(connect(version, "b"), "bob"));
        net.drop(b);
        // The answer comes too late for anybody.
        net.verdict(b, as_user("bob"));
        assert!(!net.events.iter().any(|event| {
            matches!(event, Event::Connected { client_id, .. } if client_id.as_str() == "b")
        }));
        clean(net, version, "a", "alice");
    });
}

/// Whoever comes later has the session, in whatever order the answers come; and nobody who has not proved
/// anything keeps others out.
#[test]
fn a_connect_that_was_overtaken_never_takes_over() {
    versions(|net, version| {
        begin(net, None);
        let ask = || by_password(connect(version, "a"), "alice");
        let [first, second, third] = [(); 3].map(|()| net.connect(ask()));
        net.verdict_for(second, as_user("alice"));
        assert_eq!(net.connack(second).reason, R::Success);
        net.refused(first, R::ServerBusy);
        net.verdict_for(first, as_user("alice"));
        assert!(net.is_open(second) && net.is_open(third));
        net.verdict_for(third, Verdict::Refuse { reason: R::BadUserNameOrPassword });
        net.refused(third, R::BadUserNameOrPassword);
        assert!(net.is_open(second));
        let fourth = net.connect(ask());
        net.verdict_for(fourth, as_user("alice"));
        assert_eq!(net.connack(fourth).reason, R::Success);
        assert!(!net.is_open(second));
    });
}

/// A token that has run out, for example; the reason is 0xA0, Maximum connect time.
#[test]
fn a_connection_ends_with_the_proof_of_who_it_is() {
    versions(|net, version| {
        begin(net, None);
        let own = rules([rule(&[], ALLOW, "publish", &["own/#"])]);
        let identity =
            Identity { user: text("a"), own: Some(own), ends_at_ms: 61_000, ..Identity::default() };
        let verdict = Verdict::Accept { data: None, identity: Some(Arc::new(identity)) };
        let a = net.connect(by_password(connect(version, "a"), "a"));
        net.verdict(a, verdict);
        assert_eq!(net.connack(a).reason, R::Success);
        // Its own rights are all that it has where there are no rules.
        let told = |reason| if version == Version::V5 { reason } else { R::Success };
        for (topic, reason) in [("own/x", R::NoMatchingSubscribers), ("x", R::NotAuthorized)] {
            net.send(a, message(topic, "m").qos1(1));
            net.run();
            assert!(matches!(net.next(a), Some(Packet::PubAck(ack)) if ack.reason == told(reason)));
        }
        net.advance(59_000);
        assert!(net.is_open(a));
        net.advance(2_000);
        net.ended(a, R::MaximumConnectTime);
    });
}

/// Whoever has proved nothing must not make the broker hold what it likes.
#[test]
fn what_waits_to_be_asked_about_is_bounded() {
    let mut net = Net::new(1);
    begin(&mut net, None);
    let with_will = |number: u32| {
        let connect = by_password(v5(&format!("c{number}")), "mallory");
        connect.with(|c| c.will = Some(will("will", &"x".repeat(60_000))))
    };
    let waiting: Vec<Client> = (0..1300).map(|number| net.connect(with_will(number))).collect();
    let open = waiting.iter().filter(|client| net.is_open(**client)).count();
    assert!((1050..1150).contains(&open), "{open} wait");
    net.refused(waiting[1299], R::ServerBusy);
    // Those who go make room.
    for client in &waiting[..10] {
        net.drop(*client);
    }
    let late = net.connect(with_will(2000));
    assert!(net.is_open(late));
    for client in waiting.iter().skip(10).chain([&late]) {
        net.drop(*client);
    }
}

#[test]
fn a_stranger_with_its_identifier_keeps_nobody_out() {
    versions(|net, version| {
        begin(net, None);
        let alice = net.connect(by_password(connect(version, "a"), "alice"));
        let stranger = net.online(connect(version, "a"));
        assert!(net.is_open(alice));
        net.verdict_for(alice, as_user("alice"));
        assert_eq!(net.connack(alice).reason, R::Success);
        assert!(!net.is_open(stranger));
    });
}

/// Where users share identifiers, what is in flight and what waits for one is not for the other.
#[test]
fn another_user_does_not_inherit_what_it_may_not_read() {
    versions(|net, version| {
        net.authenticates = true;
        let rules = rules([
            rule(&["alice"], ALLOW, "subscribe", &["u"]),
            rule(&["alice"], ALLOW, "publish", &["#"]),
        ]);
        let rules = Some(Arc::new(rules));
        net.begin_with(Access { is_on: true, shares_client_ids: true, rules, ..Access::default() });
        let publisher = online_as(net, connect(version, "p"), "alice");
        let alice = online_as(net, resume(version, "a"), "alice");
        net.subscribe(alice, "u", QOS2);
        net.send(publisher, message("u", "in flight").qos1(1));
        net.run();
        assert_eq!(net.publishes(alice).len(), 1);
        net.drop(alice);
        net.send(publisher, message("u", "waits").qos1(2));
        net.run();
        let bob = online_as(net, resume(version, "a"), "bob");
        net.silent(bob);
        assert_eq!(net.dropped(DropReason::NotAuthorized), 2);
    });
}

/// Groups and addresses are not kept, and a will that was taken is published.
#[test]
fn a_will_outlives_the_process_whatever_allowed_it() {
    versions(|net, version| {
        if !net.keeps() {
            return;
        }
        let mut by_group = rule(&[], ALLOW, "publish", &["will"]);
        by_group.subjects.groups = vec![text("staff")];
        begin(net, Some(rules([by_group, rule(&[], ALLOW, "subscribe", &["#"])])));
        let witness = online_as(net, resume(version, "witness"), "bob");
        net.subscribe(witness, "will", QOS1);
        let a = resume(version, "a").with(|c| {
            c.will = Some(Box::new(will("will", "gone").with(|w| w.qos = QOS1)));
        });
        online_as(net, a, "alice");
        net.restart();
        net.advance(1_000);
        let witness = net.connect(by_password(resume(version, "witness"), "bob"));
        net.verdict_for(witness, as_user("bob"));
        assert!(net.connack(witness).session_present);
        assert_eq!(net.settled(witness), ["gone"]);
        clean(net, version, "witness", "bob");
        clean(net, version, "a", "alice");
    });
}

#[test]
fn whoever_says_nothing_is_asked_about_only_where_that_is_not_enough() {
    across(|net| {
        begin(net, None);
        let a = net.online(v5("a"));
        assert!(net.is_open(a) && net.questions.is_empty());
        net.allow_anonymous = false;
        let b = net.connect(v5("b"));
        net.verdict(b, Verdict::Refuse { reason: R::NotAuthorized });
        net.refused(b, R::NotAuthorized);
    });
}

/// A client identifier is no secret: whoever knows it must not get the session behind it.
#[test]
fn a_session_belongs_to_the_user_who_made_it() {
    for kept in [false, true] {
        versions(|net, version| {
            begin(net, None);
            let a = online_as(net, resume(version, "a"), "alice");
            net.subscribe(a, "t", QOS1);
            let thief = net.connect(by_password(resume(version, "a"), "mallory"));
            net.verdict(thief, as_user("mallory"));
            net.refused(thief, R::NotAuthorized);
            let nobody = net.connect(resume(version, "a"));
            net.refused(nobody, R::NotAuthorized);
            assert!(net.is_open(a));
            net.drop(a);
            if kept && net.keeps() {
                net.restart();
            }
            let thief = net.connect(by_password(connect(version, "a"), "mallory"));
            net.verdict(thief, as_user("mallory"));
            net.refused(thief, R::NotAuthorized);
            let back = net.connect(by_password(resume(version, "a"), "alice"));
            net.verdict(back, as_user("alice"));
            assert!(net.connack(back).session_present);
            clean(net, version, "a", "alice");
        });
    }
}

#[test]
fn client_identifiers_may_be_shared_where_that_is_said() {
    versions(|net, version| {
        net.authenticates = true;
        net.begin_with(Access { is_on: true, shares_client_ids: true, ..Access::default() });
        let a = online_as(net, resume(version, "a"), "alice");
        online_as(net, resume(version, "a"), "bob");
        assert!(!net.is_open(a));
    });
}

/// [MQTT311-3.3.5-2] MQTT 5 is told at QoS 1 and 2; nobody else can be.
#[test]
fn a_message_that_may_not_be_published_goes_nowhere() {
    versions(|net, version| {
        let upto_1 = Effect::Allow { max_qos: QOS1, retain: false };
        begin(
            net,
            Some(rules([
                rule(&["alice"], upto_1, "publish", &["open/#"]),
                rule(&[], ALLOW, "subscribe", &["#"]),
            ])),
        );
        let all = online_as(net, connect(version, "all"), "bob");
        net.subscribe(all, "#", QOS2);
        let a = online_as(net, connect(version, "a"), "alice");
        let tells = |reason| if version == Version::V5 { reason } else { R::Success };
        let mut number = 0;
        for (topic, shape, may) in [
            ("open/x", 1, true),
            ("open/x", 2, false),
            ("open/x", 3, false),
            ("closed", 1, false),
            ("open", 1, true),
        ] {
            for _again_from_what_is_known in 0..2 {
                number += 1;
                let message = message(topic, "m");
                net.send(
                    a,
                    match shape {
                        1 => message.qos1(number),
                        2 => message.qos2(number),
                        _ => message.qos1(number).retained(),
                    },
                );
                net.run();
                let reason = match net.next(a) {
                    Some(Packet::PubAck(ack) | Packet::PubRec(ack)) => ack.reason,
                    other => panic!("{other:?}"),
                };
                let denied = tells(R::NotAuthorized);
                assert_eq!(reason, if may { R::Success } else { denied }, "{topic} {shape}");
            }
        }
        net.send(a, message("closed", "m"));
        net.run();
        assert!(net.is_open(a));
        assert_eq!(net.dropped(DropReason::NotAuthorized), 7);
        assert_eq!(net.settled(all), ["m"; 4]);
    });
}

/// Who published what is retained is asked again when it is delivered, after a restart as well.
#[test]
fn what_was_retained_by_an_author_who_lost_the_right_is_held_back() {
    versions(|net, version| {
        let of = |users: &[&str], groups: &[&str]| {
            let mut staff = rule(&[], ALLOW, "publish", &["t/group"]);
            staff.subjects.groups = groups.iter().map(|group| text(group)).collect();
            let mut somewhere = rule(&[], Effect::Deny, "publish", &["t/+/elsewhere"]);
            somewhere.subjects.addresses = vec!["10.0.0.0/8".parse().unwrap()];
            let user = rule(users, ALLOW, "publish", &["t/%u/#"]);
            rules([rule(&[], ALLOW, "subscribe", &["#"]), user, staff, somewhere])
        };
        begin(net, Some(of(&[], &["staff"])));
        let asked = |net: &mut Net, filter: &str| {
            let reader = online_as(net, connect(version, "reader"), "reader");
            net.subscribe(reader, filter, QOS1);
            let mut found = net.settled(reader);
            found.sort_unstable();
            net.drop(reader);
            found
        };
        for user in ["alice", "bob"] {
            let client = online_as(net, connect(version, user), user);
            for (number, topic) in ["1", "elsewhere"].iter().enumerate() {
                let topic = format!("t/{user}/{topic}");
                net.send(client, message(&topic, &topic).retained().qos1(number as u16 + 1));
            }
            net.run();
            net.drop(client);
        }
        let alice = online_as(net, connect(version, "alice"), "alice");
        net.send(alice, message("t/group", "t/group").retained().qos1(1));
        net.run();
        net.drop(alice);
        let all = ["t/alice/1", "t/alice/elsewhere", "t/bob/1", "t/bob/elsewhere", "t/group"];
        assert_eq!(asked(net, "t/#"), all);
        net.set_rules(of(&["bob"], &["staff"]));
        assert_eq!(asked(net, "t/#"), all[2..]);
        net.set_rules(of(&[], &["others"]));
        assert_eq!(asked(net, "t/#"), all[..4]);
        assert_eq!(asked(net, "t/group"), [""; 0]);
        if net.keeps() {
            net.restart();
            assert_eq!(asked(net, "t/#"), all[..4]);
        }
        net.set_rules(of(&["bob"], &["others"]));
        assert_eq!(asked(net, "t/alice/1"), [""; 0]);
        // Whoever may publish there says anew what it is.
        let bob = online_as(net, connect(version, "bob"), "bob");
        net.send(bob, message("t/bob/1", "new").retained().qos1(1));
        net.run();
        net.drop(bob);
        assert_eq!(asked(net, "t/#"), ["new", "t/bob/elsewhere"]);
        net.set_rules(of(&[], &["staff"]));
        assert_eq!(asked(net, "t/+/elsewhere"), ["t/alice/elsewhere", "t/bob/elsewhere"]);
        for topic in all {
            let user = if topic.starts_with("t/bob") { "bob" } else { "alice" };
            let client = online_as(net, connect(version, user), user);
            net.send(client, message(topic, "").retained());
            net.run();
            net.drop(client);
        }
        clean(net, version, "reader", "reader");
    });
}

/// Rights of its own count as kept where they allowed the message, and only there.
#[test]
fn rights_of_an_authors_own_hold_for_what_they_allowed() {
    versions(|net, version| {
        let subscribers = || rule(&[], ALLOW, "subscribe", &["#"]);
        begin(net, Some(rules([subscribers(), rule(&[], ALLOW, "publish", &["s/#"])])));
        for (user, own) in [
            ("none", None),
            ("empty", Some(rules([]))),
            ("other", Some(rules([rule(&[], ALLOW, "publish", &["up/#"])]))),
            ("reads", Some(rules([rule(&[], ALLOW, "subscribe", &["s/#"])]))),
            ("right", Some(rules([rule(&[], ALLOW, "publish", &["s/%u"])]))),
        ] {
            let client = net.connect(by_password(connect(version, user), user));
            let identity = Identity { user: text(user), own, ..Identity::default() };
            let identity = Some(Arc::new(identity));
            net.verdict(client, Verdict::Accept { data: None, identity });
            assert_eq!(net.connack(client).reason, R::Success);
            let topic = format!("s/{user}");
            net.send(client, message(&topic, &topic).retained().qos1(1));
            if user == "right" {
                net.send(client, message("s/x", "s/x").retained().qos1(2));
            }
            net.run();
            net.drop(client);
        }
        net.set_rules(rules([subscribers()]));
        let reader = online_as(net, connect(version, "reader"), "reader");
        net.subscribe(reader, "s/#", QOS1);
        assert_eq!(net.settled(reader), ["s/right"]);
        net.drop(reader);
        net.set_rules(rules([rule(&[], ALLOW, "both", &["#"])]));
        let cleaner = online_as(net, connect(version, "cleaner"), "cleaner");
        for topic in ["none", "empty", "other", "reads", "right", "x"] {
            net.send(cleaner, message(&format!("s/{topic}"), "").retained());
        }
        net.run();
        net.drop(cleaner);
    });
}

/// Where nobody had to prove anything and nothing was denied there is nothing to lose.
#[test]
fn nobody_is_the_author_of_what_was_retained_before_there_were_rules() {
    versions(|net, version| {
        net.begin_with(Access { is_on: true, ..Access::default() });
        let a = net.online(connect(version, "a"));
        net.send(a, message("t", "m").retained().qos1(1));
        net.run();
        net.drop(a);
        net.set_rules(rules([rule(&[], ALLOW, "subscribe", &["#"])]));
        let reader = net.online(connect(version, "reader"));
        net.subscribe(reader, "#", QOS1);
        assert_eq!(net.settled(reader), ["m"]);
        net.drop(reader);
        net.set_rules(rules([rule(&[], ALLOW, "both", &["#"])]));
        let cleaner = net.online(connect(version, "cleaner"));
        net.send(cleaner, message("t", "").retained());
        net.run();
        net.drop(cleaner);
    });
}

/// Whoever proves once more who it is may have lost a group meanwhile.
#[test]
fn subscriptions_are_looked_at_when_a_client_has_proved_again_who_it_is() {
    across(|net| {
        let mut staff = rule(&[], ALLOW, "subscribe", &["s/#"]);
        staff.subjects.groups = vec![text("staff")];
        let open = rule(&[], ALLOW, "both", &["open"]);
        let all = rule(&["root"], ALLOW, "both", &["#"]);
        begin(net, Some(rules([staff, open, all])));
        let of = |groups: &[&str]| {
            let groups = groups.iter().map(|group| text(group)).collect();
            let identity = Identity { user: text("alice"), groups, ..Identity::default() };
            Verdict::Accept { data: None, identity: Some(Arc::new(identity)) }
        };
        let a = net.connect(connect(Version::V5, "a").with(|c| {
            c.properties.authentication_method = Some(text("TEST"));
        }));
        net.verdict(a, of(&["staff"]));
        assert_eq!(net.connack(a).reason, R::Success);
        for filter in ["s/x", "$share/g/s/x", "open"] {
            net.subscribe(a, filter, QOS1);
        }
        let root = online_as(net, connect(Version::V5, "root"), "root");
        for (groups, expected) in [(&["staff"][..], &["m", "m", "m"][..]), (&[], &["m"])] {
            net.send(a, auth(R::ReAuthenticate, "TEST", ""));
            net.run();
            net.verdict(a, of(groups));
            assert!(matches!(net.next(a), Some(Packet::Auth(it)) if it.reason == R::Success));
            for topic in ["s/x", "open"] {
                net.send(root, message(topic, "m"));
            }
            net.run();
            assert_eq!(net.settled(a), expected, "{groups:?}");
        }
        net.drop(root);
        net.drop(a);
    });
}

#[test]
fn a_client_that_cannot_be_told_may_be_disconnected_instead() {
    versions(|net, version| {
        let access = Access {
            is_on: true,
            disconnects: true,
            rules: Some(Arc::new(rules([]))),
            ..Access::default()
        };
        net.begin_with(access);
        let a = net.online(connect(version, "a"));
        net.send(a, message("t", "m").qos1(1));
        net.run();
        assert_eq!(net.is_open(a), version == Version::V5);
        let b = net.online(connect(version, "b"));
        net.send(b, message("t", "m"));
        net.run();
        assert!(!net.is_open(b));
    });
}

/// [MQTT5-3.9.3-2] [MQTT311-3.9.3-1] Wildcards and `$share` are no way around what is denied.
#[test]
fn a_subscription_is_granted_as_far_as_the_rules_go() {
    versions(|net, version| {
        let upto_1 = Effect::Allow { max_qos: QOS1, retain: true };
        begin(
            net,
            Some(rules([
                rule(&[], ALLOW, "subscribe", &["plant/+/state", "home/%u/#"]),
                rule(&["alice"], upto_1, "subscribe", &["news"]),
                rule(&[], Effect::Deny, "subscribe", &["plant/9/#"]),
            ])),
        );
        let a = online_as(net, connect(version, "a"), "alice");
        for (filter, reason) in [
            ("plant/1/state", R::GrantedQos2),
            ("plant/+/state", R::NotAuthorized),
            ("plant/9/state", R::NotAuthorized),
            ("home/alice/#", R::GrantedQos2),
            ("home/bob/x", R::NotAuthorized),
            ("home/+/x", R::NotAuthorized),
            ("#", R::NotAuthorized),
            ("news", R::GrantedQos1),
            ("$share/g/home/bob/x", R::NotAuthorized),
            ("$share/g/home/alice/x", R::GrantedQos2),
            ("$SYS/#", R::NotAuthorized),
        ] {
            if version != Version::V5 && filter.starts_with("$share") {
                continue;
            }
            net.send(a, subscribe(&[(filter, options(QOS2))]));
            net.run();
            let Some(Packet::SubAck(suback)) = net.next(a) else { panic!("no SUBACK") };
            let told = match reason {
                R::NotAuthorized if version != Version::V5 => R::UnspecifiedError,
                reason => reason,
            };
            assert_eq!(suback.reasons.as_slice(), [told], "{filter}");
        }
    });
}

#[test]
fn a_will_needs_a_right_at_connect_and_when_it_is_published() {
    versions(|net, version| {
        let may = || rules([rule(&["alice"], ALLOW, "both", &["#"])]);
        begin(net, Some(may()));
        let witness = online_as(net, connect(version, "witness"), "alice");
        net.subscribe(witness, "will", QOS1);
        let with_will = |id| connect(version, id).with(|c| c.will = Some(will("will", "gone")));
        let b = net.connect(by_password(with_will("b"), "bob"));
        net.verdict(b, as_user("bob"));
        net.refused(b, R::NotAuthorized);
        let a = online_as(net, with_will("a"), "alice");
        net.drop(a);
        assert_eq!(net.settled(witness), ["gone"]);
        let a = online_as(net, with_will("a"), "alice");
        net.set_rules(rules([
            rule(&["alice"], ALLOW, "subscribe", &["#"]),
            rule(&["alice"], ALLOW, "publish", &["other"]),
        ]));
        net.drop(a);
        net.silent(witness);
        assert_eq!(net.dropped(DropReason::NotAuthorized), 1);
    });
}

/// Sessions that are resumed are the classic way around rules.
#[test]
fn subscriptions_end_with_the_right_to_them() {
    versions(|net, version| {
        let of = |filters: &[&str]| {
            rules([
                rule(&["alice"], ALLOW, "subscribe", filters),
                rule(&[], ALLOW, "publish", &["#"]),
            ])
        };
        begin(net, Some(of(&["a", "b", "c"])));
        let alice = online_as(net, resume(version, "alice"), "alice");
        let bob = online_as(net, connect(version, "bob"), "bob");
        for filter in ["a", "b", "c"] {
            net.subscribe(alice, filter, QOS1);
        }
        if version == Version::V5 {
            net.subscribe(alice, "$share/g/b", QOS1);
        }
        // Live: the rules change under it.
        net.set_rules(of(&["a", "c"]));
        net.tick_once();
        for topic in ["a", "b", "c"] {
            net.send(bob, message(topic, topic));
        }
        net.run();
        assert_eq!(net.settled(alice), ["a", "c"]);
        // Away: it comes back to fewer, and what waits is no way around.
        net.drop(alice);
        for topic in ["a", "c", "a"] {
            net.send(bob, message(topic, topic).qos1(1));
            net.run();
            assert!(matches!(net.next(bob), Some(Packet::PubAck(_))));
        }
        net.set_rules(of(&["a"]));
        net.tick_once();
        let alice = net.connect(by_password(resume(version, "alice"), "alice"));
        net.verdict(alice, as_user("alice"));
        assert!(net.connack(alice).session_present);
        assert_eq!(net.settled(alice), ["a", "a"]);
        assert_eq!(net.dropped(DropReason::NotAuthorized), 1);
        for topic in ["a", "b", "c"] {
            net.send(bob, message(topic, topic));
        }
        net.run();
        assert_eq!(net.settled(alice), ["a"]);
        let revoked: Vec<_> = net
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Revoked { filter, .. } => Some(filter.text().as_str().to_owned()),
                _ => None,
            })
            .collect();
        let shared = (version == Version::V5).then(|| "$share/g/b".to_owned());
        let expected = ["b".to_owned()].into_iter().chain(shared).chain(["c".to_owned()]);
        assert_eq!(revoked, expected.collect::<Vec<_>>());
        clean(net, version, "alice", "alice");
    });
}

/// Any order of CONNECTs, answers and ends: a session has one connection, that of its user, and nothing is left
/// behind of those that waited.
#[test]
fn whatever_the_order_of_answers_a_session_has_one_client() {
    for seed in 0..300_u64 {
        let mut net = Net::new(if seed % 2 == 0 { 1 } else { 3 });
        begin(&mut net, None);
        let mut state = seed;
        let mut below = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let users = ["alice", "bob"];
        // Client, its identifier and its user, in the order in which they came.
        let mut waiting: Vec<(Client, u64, usize)> = Vec::new();
        let mut online: Vec<Option<(Client, usize)>> = vec![None; 3];
        for _ in 0..60 {
            match below(8) {
                0..=3 => {
                    let (id, user) = (below(3), below(2) as usize);
                    let version = [Version::V3_1_1, Version::V5][below(2) as usize];
                    let connect = match below(2) {
                        0 => connect(version, &format!("c{id}")),
                        _ => resume(version, &format!("c{id}")),
                    };
                    waiting.push((net.connect(by_password(connect, users[user])), id, user));
                }
                4..=6 if !waiting.is_empty() => {
                    let (client, id, user) = waiting.remove(below(waiting.len() as u64) as usize);
                    if below(4) == 0 {
                        net.verdict_for(client, Verdict::Refuse { reason: R::NotAuthorized });
                        assert!(!net.is_open(client), "seed {seed}");
                        continue;
                    }
                    net.verdict_for(client, as_user(users[user]));
                    if !net.is_open(client) {
                        continue;
                    }
                    // Whoever came before it has lost.
                    if let Some((before, _)) = online[id as usize].replace((client, user)) {
                        assert!(!net.is_open(before), "seed {seed}");
                    }
                }
                _ => {
                    let id = below(3) as usize;
                    if let Some((client, _)) = online[id].take() {
                        net.drop(client);
                    }
                }
            }
            waiting.retain(|(client, _, _)| net.is_open(*client));
            for (client, user) in online.iter().flatten() {
                assert!(net.is_open(*client), "seed {seed}: {user} lost it to nobody");
            }
            assert_eq!(net.census().parked, waiting.len(), "seed {seed}");
        }
        for (client, _, _) in waiting {
            net.drop(client);
        }
        assert_eq!(net.census().parked, 0);
        for client in online.into_iter().flatten() {
            net.drop(client.0);
        }
        for id in 0..3 {
            // One of the two owns what is left.
            for user in users {
                let last = net.connect(by_password(v5(&format!("c{id}")), user));
                net.verdict_for(last, as_user(user));
                net.drop(last);
            }
        }
    }
}

/// [MQTT5-4.13.2-1] Of more sessions than are looked at at once, those who are meant.
#[test]
fn who_is_banned_is_disconnected_and_nobody_else() {
    for what in 0..3 {
        across(|net| {
            begin(net, None);
            let others: Vec<_> =
                (0..300).map(|n| online_as(net, v5(&format!("other-{n}")), "other")).collect();
            net.address_of_new = "10.1.2.3".parse().unwrap();
            let banned = online_as(net, v5("banned"), "mallory");
            let who = match what {
                0 => Banned::ClientId(text("banned")),
                1 => Banned::User(text("mallory")),
                _ => Banned::Addresses("10.1.0.0/16".parse().unwrap()),
            };
            net.ban(&Banned::ClientId(text("nobody")));
            net.ban(&Banned::User(text("banned")));
            net.ban(&Banned::Addresses("10.2.0.0/16".parse().unwrap()));
            net.advance(1_000);
            assert!(net.is_open(banned));
            net.ban(&who);
            net.advance(1_000);
            net.ended(banned, R::AdministrativeAction);
            assert!(others.iter().all(|&other| net.is_open(other)));
            // To keep it out is not the shard's: what it forgets is not held against others.
            let again = online_as(net, v5("banned"), "mallory");
            net.advance(1_000);
            assert!(net.is_open(again));
        });
    }
}
