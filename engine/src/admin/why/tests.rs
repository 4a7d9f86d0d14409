//! What is said of clients who miss messages.

use petrel_proto::Version;
use petrel_shard::access::Publishable;
use petrel_shard::look::{Connected, Line};

use super::*;

fn line() -> Line {
    Line {
        client_id: owned("c").expect("a text"),
        conn: None,
        version: Some(Version::V5),
        user: None,
        subscriptions: 1,
        queued: 0,
        inflight: 0,
    }
}

fn connected() -> Connected {
    Connected {
        pending_bytes: 0,
        send_quota: 10,
        receive_maximum: 10,
        maximum_packet_size: u32::MAX,
        silent_ms: 1_500,
        silence_ms_max: 0,
    }
}

fn rights() -> Rights {
    Rights {
        publish: Publishable::EVERYTHING,
        subscribe: Some(Qos::ExactlyOnce),
        publish_rules: Verdicts::default(),
        subscribe_rules: Verdicts::default(),
        are_rules: false,
        has_own: false,
    }
}

fn subscribed(filter: &str, qos: Qos) -> Subscribed {
    let shared = filter.starts_with("$share/");
    let filter = filter.to_owned();
    Subscribed { filter, qos, no_local: false, retain_as_published: false, identifier: 0, shared }
}

/// A client that is connected and has one subscription, which matches.
fn facts() -> Facts {
    let detail = Detail {
        line: line(),
        groups: Vec::new(),
        origin: None,
        expiry_interval_s: 100,
        ends_at_ms: None,
        is_kept: false,
        has_will: false,
        queued_bytes: (0, 0),
        expired: 0,
        inflight_bytes: 0,
        incoming: 0,
        connected: Some(connected()),
        losses: None,
        refusals: None,
    };
    Facts {
        client: "c".into(),
        topic: TopicName::new(owned("a/b").expect("a text")).expect("a topic"),
        session: Some(Session {
            detail,
            matching: vec![subscribed("a/+", Qos::AtLeastOnce)],
            others: vec![subscribed("a/+", Qos::AtLeastOnce)],
            rights: rights(),
            standing: Readiness { online: true, ready: true },
        }),
        is_interested: true,
        ban: None,
        past: Vec::new(),
        now_ms: 10_000,
        limits: Limits::default(),
        groups: Vec::new(),
        refused: Vec::new(),
        retained: None,
        publisher: None,
        held: Vec::new(),
    }
}

/// The verdict, the answer, and what is not fine.
fn explained(change: impl FnOnce(&mut Facts, &mut Session)) -> (Reaches, String, Vec<String>) {
    let mut facts = facts();
    let mut session = facts.session.take().expect("a session");
    change(&mut facts, &mut session);
    facts.session = Some(session);
    let why = explain(&facts);
    let wrong = why.findings.into_iter().filter(|finding| !finding.fine);
    (why.reaches, why.answer, wrong.map(|finding| finding.text).collect())
}

#[test]
fn a_client_that_lacks_nothing_gets_it_at_once() {
    let (reaches, answer, wrong) = explained(|_, _| {});
    assert_eq!(reaches, Reaches::AtOnce);
    assert_eq!(answer, "A message to 'a/b' reaches 'c' at once.");
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn without_a_session_nothing_comes() {
    let mut facts = facts();
    (facts.session, facts.ban) = (None, Some("client 'c' for flooding".into()));
    let why = explain(&facts);
    assert_eq!(why.reaches, Reaches::No);
    assert!(why.findings[0].text.contains("nothing is known of it"));
    assert_eq!(why.findings[1].text, "it is shut out: client 'c' for flooding");
}

#[test]
fn a_client_that_is_away_gets_it_later_or_never() {
    let away = |qos: Qos, queued: u64| {
        explained(|_, session| {
            session.detail.connected = None;
            session.detail.ends_at_ms = Some(70_000);
            session.detail.line.queued = queued;
            session.matching[0].qos = qos;
        })
    };
    let (reaches, answer, wrong) = away(Qos::AtLeastOnce, 0);
    assert_eq!(reaches, Reaches::Later);
    assert!(answer.ends_with(
        "of QoS 1 or 2 waits for 'c', and one of QoS 0 is dropped: it is not connected."
    ));
    assert_eq!(wrong, ["'c' is not connected; its session ends in 60 s"]);
    let (reaches, _, wrong) = away(Qos::AtMostOnce, 0);
    assert_eq!(reaches, Reaches::No);
    assert!(wrong[1].contains("QoS 0 are not kept"), "{wrong:?}");
    let (reaches, answer, wrong) = away(Qos::AtLeastOnce, 1_000_000);
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("its queue is full") && wrong[1].contains("a new message is dropped"));
}

#[test]
fn a_slow_reader_and_one_that_acknowledges_nothing_are_told_apart() {
    let (reaches, answer, _) = explained(|facts, session| {
        let connected = session.detail.connected.as_mut().expect("it is there");
        connected.pending_bytes = facts.limits.outgoing_bytes_maximum.into();
        session.matching[0].qos = Qos::AtMostOnce;
    });
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("it reads too slowly"), "{answer}");
    let (reaches, answer, _) = explained(|_, session| {
        session.detail.connected.as_mut().expect("it is there").send_quota = 0;
    });
    assert_eq!(reaches, Reaches::Later);
    assert!(answer.contains("it has not acknowledged 10 messages"), "{answer}");
}

/// Each of these was once answered otherwise than it is.
#[test]
fn what_becomes_of_each_qos_is_told() {
    let full = |session: &mut Session| session.detail.line.queued = 1_000_000;
    let (reaches, answer, _) = explained(|facts, session| {
        let connected = session.detail.connected.as_mut().expect("it is there");
        connected.pending_bytes = facts.limits.outgoing_bytes_maximum.into();
    });
    assert_eq!(reaches, Reaches::Later);
    assert!(answer.contains("one of QoS 0 is dropped: it reads too slowly"), "{answer}");
    let (reaches, answer, _) = explained(|_, session| full(session));
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("QoS 1 or 2 does not reach 'c', and one of QoS 0 is sent"), "{answer}");
    let (reaches, _, _) = explained(|_, session| {
        full(session);
        session.detail.expired = 999_999;
        session.detail.connected = None;
    });
    assert_eq!(reaches, Reaches::Later, "what has expired makes room");
    let (reaches, answer, _) = explained(|facts, session| {
        session.detail.inflight_bytes = facts.limits.outgoing_inflight_bytes_maximum;
    });
    assert_eq!(reaches, Reaches::Later);
    assert!(answer.contains("outgoing_inflight_bytes_maximum"), "{answer}");
    let (reaches, answer, _) = explained(|_, session| {
        session.detail.connected.as_mut().expect("it is there").maximum_packet_size = 6;
    });
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("the topic alone makes them longer"), "{answer}");
    let (reaches, answer, _) = explained(|facts, session| {
        session.matching[0].no_local = true;
        facts.publisher =
            Some(Publisher { name: "c".into(), found: Some((true, rights())), held: None });
    });
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("No Local"), "{answer}");
    let (_, _, wrong) = explained(|facts, _| {
        facts.topic = TopicName::new(owned("$SYS/x").expect("a text")).expect("a topic");
        facts.ban = Some("client-id \"c\"".into());
    });
    assert!(wrong[0].contains("cannot come back") && wrong[1].contains("no client may publish"));
}

/// A publisher that may not publish is why nothing comes, whoever would get it.
#[test]
fn a_publisher_that_may_not_publish_is_the_answer() {
    let by = |publish: Publishable| {
        explained(|facts, _| {
            let rights = Rights { publish, are_rules: true, ..rights() };
            facts.publisher =
                Some(Publisher { name: "p".into(), found: Some((true, rights)), held: None });
            (facts.limits.maximum_qos, facts.limits.retain_available) = (1, false);
        })
    };
    let (reaches, answer, _) = by(Publishable::NOTHING);
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("'p' may not publish to 'a/b': no rule allows it"), "{answer}");
    assert_eq!(by(Publishable::EVERYTHING).0, Reaches::AtOnce);
    let (reaches, answer, _) = explained(|facts, _| facts.limits.topic_levels_maximum = 1);
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("topic_levels_maximum"), "{answer}");
    let (reaches, _, wrong) = explained(|facts, session| {
        (facts.limits.session_queue_messages, facts.limits.session_queue_full) =
            (0, QueueFull::DropOldest);
        session.detail.connected = None;
    });
    assert_eq!(reaches, Reaches::No, "{wrong:?}");
    let (reaches, _, wrong) = explained(|facts, _| facts.limits.session_queue_messages = 0);
    assert_eq!((reaches, wrong.len()), (Reaches::AtOnce, 0), "{wrong:?}");
}

#[test]
fn a_publisher_that_is_not_read_is_told() {
    let (reaches, _, wrong) = explained(|facts, _| {
        let why = "it has published more than its share";
        let found = Some((true, rights()));
        facts.held = vec![(1, why)];
        facts.publisher = Some(Publisher { name: "p".into(), found, held: Some(why) });
    });
    assert_eq!(reaches, Reaches::AtOnce, "what does come");
    let said = "'p' is not read for now, so what it publishes comes later: it has published more than its share";
    assert_eq!(wrong, [said]);
}

/// A group of which the client is a member: those of its members that are ready and online, and what waits in it.
fn in_group(
    (ready, online, queued): (u64, u64, u64),
    qos: Qos,
    own: (bool, bool),
    change: impl FnOnce(&mut Facts, &mut Session),
) -> (Reaches, String, Vec<String>) {
    explained(|facts, session| {
        session.matching = vec![subscribed("$share/g/a/+", qos)];
        session.standing = Readiness { online: own.0, ready: own.1 };
        if !own.0 {
            session.detail.connected = None;
        }
        let filter = "$share/g/a/+".to_owned();
        facts.groups.push(Shared { filter, members: 2, ready, online, queued, queued_bytes: 0 });
        change(facts, session);
    })
}

#[test]
fn a_shared_group_goes_on_without_a_member_that_takes_nothing() {
    let away = (false, false);
    let (reaches, answer, _) = in_group((1, 1, 0), Qos::AtLeastOnce, away, |_, _| {});
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("goes to another member"), "{answer}");
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let (reaches, answer, _) = in_group((0, 0, 0), qos, away, |_, _| {});
        assert_eq!(reaches, Reaches::Later);
        assert!(answer.contains("of QoS 1 or 2 waits in the shared group"), "{answer}");
        assert!(answer.contains("one of QoS 0 is dropped"), "{answer}");
    }
}

#[test]
fn who_is_alone_in_a_shared_group_is_told_what_becomes_of_its_messages() {
    let here = (true, true);
    let (reaches, answer, _) = in_group((1, 1, 0), Qos::AtLeastOnce, here, |_, _| {});
    assert_eq!(reaches, Reaches::AtOnce, "{answer}");
    let (reaches, ..) = in_group((2, 2, 0), Qos::AtLeastOnce, here, |_, _| {});
    assert_eq!(reaches, Reaches::Perhaps);
    // It is ready for the group as long as its queue is short, though its window is full.
    let (reaches, answer, _) = in_group((1, 1, 0), Qos::AtLeastOnce, here, |_, session| {
        session.detail.connected = Some(Connected { send_quota: 0, ..connected() });
    });
    assert_eq!(reaches, Reaches::Later, "{answer}");
    assert!(
        answer.contains("waits for 'c'") && answer.contains("one of QoS 0 reaches"),
        "{answer}"
    );
}

#[test]
fn a_shared_group_that_is_full_drops_what_comes() {
    let (reaches, answer, wrong) =
        in_group((0, 0, 3), Qos::AtLeastOnce, (false, false), |facts, _| {
            facts.limits.session_queue_messages = 3;
        });
    assert_eq!(reaches, Reaches::No, "{answer}");
    assert!(wrong.iter().any(|text| text.contains("as much as may")), "{wrong:?}");
}

#[test]
fn a_subscription_of_its_own_counts_before_those_of_groups() {
    let (reaches, answer, _) =
        in_group((0, 0, 0), Qos::AtLeastOnce, (true, false), |_, session| {
            session.matching.push(subscribed("a/b", Qos::AtMostOnce));
            session.detail.connected = Some(Connected { send_quota: 0, ..connected() });
        });
    assert_eq!(reaches, Reaches::AtOnce, "{answer}");
}

#[test]
fn what_fits_no_packet_is_told_for_each_qos() {
    let of = |bytes: u32| {
        explained(|_, session| {
            let connected = Connected { maximum_packet_size: bytes, ..connected() };
            session.detail.connected = Some(connected);
        })
    };
    // The topic has three bytes.
    assert_eq!(of(7).0, Reaches::No);
    let (reaches, answer, _) = of(9);
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("one of QoS 0 is sent at once"), "{answer}");
    assert_eq!(of(10).0, Reaches::AtOnce);
}

#[test]
fn what_the_broker_says_of_itself_is_of_qos_0_and_only_where_it_says_it() {
    let of = |retained: Option<usize>, is_connected: bool| {
        explained(|facts, session| {
            let topic = owned("$SYS/broker/uptime").expect("a text");
            facts.topic = TopicName::new(topic).expect("a topic");
            facts.retained = retained;
            session.matching = vec![subscribed("$SYS/#", Qos::AtLeastOnce)];
            if !is_connected {
                session.detail.connected = None;
            }
        })
    };
    assert_eq!(of(Some(3), true).0, Reaches::AtOnce);
    assert_eq!(of(Some(3), false).0, Reaches::No);
    let (reaches, answer, _) = of(None, true);
    assert_eq!(reaches, Reaches::No);
    assert!(answer.contains("[sys] interval_s is 0"), "{answer}");
}

#[test]
fn a_filter_that_is_nearly_right_is_named() {
    for (filter, hint) in [
        ("A/b", "but for upper and lower case"),
        ("/a/b", "but for a slash"),
        ("a/b ", "but for spaces"),
        ("a", "'a/#' would match"),
        ("$share/g/A/+", "but for upper and lower case"),
    ] {
        let (reaches, _, wrong) = explained(|_, session| {
            session.matching.clear();
            session.others =
                vec![subscribed("x/y", Qos::AtMostOnce), subscribed(filter, Qos::AtMostOnce)];
        });
        assert_eq!(reaches, Reaches::No);
        assert!(wrong.iter().any(|text| text.contains(hint)), "{filter}: {wrong:?}");
    }
    let (_, _, wrong) = explained(|facts, session| {
        facts.topic = TopicName::new(owned("$SYS/x").expect("a text")).expect("a topic");
        session.matching.clear();
        session.others = vec![subscribed("#", Qos::AtMostOnce)];
    });
    assert!(wrong.iter().any(|text| text.contains("begins with a wildcard")), "{wrong:?}");
}

#[test]
fn the_rule_that_decides_is_named() {
    let (_, _, wrong) = explained(|facts, session| {
        session.matching.clear();
        session.others.clear();
        session.detail.line.subscriptions = 0;
        session.rights.are_rules = true;
        session.rights.subscribe = None;
        session.rights.subscribe_rules = Verdicts { allowing: Some(0), denying: Some(2) };
        let rights = Rights {
            publish: Publishable::NOTHING,
            publish_rules: Verdicts::default(),
            ..session.rights
        };
        facts.publisher =
            Some(Publisher { name: "p".into(), found: Some((true, rights)), held: None });
    });
    assert_eq!(
        wrong,
        [
            "it may not subscribe to 'a/b': rule 3 of the file denies it, so a SUBSCRIBE for it is refused with 0x87",
            "it has no subscription at all",
            "'p' may not publish to 'a/b': no rule allows it",
        ]
    );
}

#[test]
fn messages_that_were_refused_are_told_of_the_publisher_and_a_shared_group_of_its_members() {
    let (reaches, answer, wrong) = explained(|facts, session| {
        facts.refused.push(("p\n".into(), DropReason::NotAuthorized, 5_000));
        session.matching = vec![subscribed("$share/g/a/+", Qos::AtLeastOnce)];
        let filter = "$share/g/a/+".to_owned();
        facts.groups.push(Shared {
            filter,
            members: 3,
            ready: 2,
            online: 2,
            queued: 2,
            queued_bytes: 10,
        });
    });
    assert_eq!(reaches, Reaches::Perhaps);
    assert!(answer.contains("one member of the shared group"), "{answer}");
    assert_eq!(wrong, ["a message of 'p\\n' to 'a/b' was refused 5 s ago: not authorised"]);
}
