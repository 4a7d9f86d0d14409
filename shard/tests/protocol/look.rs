//! What operators ask.

use std::sync::Arc;

use petrel_proto::{ClientId, TopicName, Version};
use petrel_shard::access::{Effect, Rule, Rules, Subjects, Verdicts};
use petrel_shard::look::{Line, Wanted};
use petrel_shard::{Access, DropReason, Input};

use crate::harness::{Net, across, across_with};
use crate::packets::*;

fn topic(name: &str) -> TopicName {
    TopicName::new(text(name)).unwrap()
}

fn id_of(name: &str) -> ClientId {
    text(name)
}

/// All that a walk over all shards finds, in pages of this size.
fn listed(net: &Net, wanted: &Wanted, most: usize, looks: u32) -> Vec<Line> {
    let mut all = Vec::new();
    for shard in net.shards() {
        let mut from = Some(0);
        while let Some(at) = from {
            let mut page = Vec::new();
            from = shard.list(at, wanted, (most, looks), &mut page);
            assert!(page.len() <= most);
            assert!(from.is_none_or(|next| next > at || page.len() == most));
            all.append(&mut page);
        }
    }
    all
}

#[test]
fn every_session_is_in_one_page_whatever_their_size() {
    across(|net| {
        for n in 0..50 {
            let client = net.online(resume(Version::V5, &format!("c{n}")));
            if n % 5 == 0 {
                net.subscribe(client, "t", QOS1);
                net.drop(client);
            }
        }
        let other = net.online(connect(Version::V3_1_1, "other"));
        net.publish(other, message("t", "x").qos1(1));
        for (most, looks) in [(1, 1), (3, 1_000), (1_000, 7), (1_000, 1_000)] {
            let mut names: Vec<_> = listed(net, &Wanted::default(), most, looks)
                .into_iter()
                .map(|line| line.client_id.as_str().to_owned())
                .collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), 51, "{most} {looks}");
        }
        let count = |wanted| listed(net, &wanted, 7, 9).len();
        let begins = |text: &str| Wanted { begins: Some(text.into()), ..Wanted::default() };
        assert_eq!(count(begins("c1")), 11);
        assert_eq!(count(Wanted { contains: Some("the".into()), ..Wanted::default() }), 1);
        assert_eq!(count(Wanted { connected: Some(false), ..Wanted::default() }), 10);
        assert_eq!(count(Wanted { queued_min: 1, ..Wanted::default() }), 10);
        let away = listed(net, &begins("c45"), 9, 9);
        assert_eq!((away[0].queued, away[0].subscriptions, away[0].conn), (1, 1, None));
        assert!(listed(net, &begins("other"), 9, 9)[0].version == Some(Version::V3_1_1));
    });
}

#[test]
fn what_a_client_has_lost_and_why_is_known_until_its_session_ends() {
    let small = |limits: &mut petrel_shard::Limits| {
        limits.session_queue_messages = 2;
        limits.outgoing_bytes_maximum = 16 << 10;
    };
    across_with(small, |net| {
        let away = net.online(resume(Version::V5, "away"));
        net.subscribe(away, "jobs/#", QOS1);
        net.drop(away);
        let slow = net.online(v5("slow"));
        net.subscribe(slow, "jobs/#", QOS0);
        net.stall(slow);
        let publisher = net.online(v5("publisher"));
        let big = "x".repeat(10_000);
        for n in 1..=5 {
            net.publish(publisher, message("jobs/1", &big).qos1(n));
        }
        net.home_of("away", |shard, now, out| {
            let detail = shard.detail(now, &id_of("away"), out).expect("a session");
            let losses = detail.losses.expect("it lost some");
            assert_eq!((losses.drops.of(DropReason::QueueFull), losses.drops.all()), (3, 3));
            assert_eq!((losses.last, losses.last_ms), (DropReason::QueueFull, now.mono_ms));
            assert_eq!(losses.topic(), (&b"jobs/1"[..], true));
            assert_eq!((detail.line.queued, detail.connected), (2, None));
            assert!(detail.ends_at_ms.is_some_and(|at| at > now.mono_ms));
        });
        net.home_of("slow", |shard, now, out| {
            let detail = shard.detail(now, &id_of("slow"), out).expect("a session");
            assert!(detail.losses.expect("some").drops.of(DropReason::SlowReader) > 0);
            assert!(detail.connected.expect("it is there").pending_bytes > 16 << 10);
        });
        let home = net.slots.home_of(b"away").0;
        net.handle_on(home, Input::EndSession(id_of("away")));
        net.run();
        net.home_of("away", |shard, now, out| {
            assert_eq!(shard.detail(now, &id_of("away"), out), None);
        });
        // Nothing of it is left for who comes after it.
        let next = net.online(resume(Version::V5, "away"));
        net.home_of("away", |shard, now, out| {
            let detail = shard.detail(now, &id_of("away"), out).expect("a session");
            assert_eq!((detail.losses, detail.line.subscriptions), (None, 0));
        });
        net.drop(next);
        net.unstall(slow);
    });
}

#[test]
fn an_operator_ends_a_session_with_its_connection() {
    across(|net| {
        let watcher = net.online(v5("watcher"));
        net.subscribe(watcher, "w", QOS0);
        let gone = net.online(v5("gone").with(|c| c.will = Some(will("w", "bye"))));
        let home = net.slots.home_of(b"gone").0;
        net.handle_on(home, Input::EndSession(id_of("gone")));
        net.run();
        net.ended(gone, petrel_proto::ReasonCode::AdministrativeAction);
        assert_eq!(net.settled(watcher), ["bye"]);
        assert!(net.shards().iter().all(|shard| !shard.has_session(&id_of("gone"))));
    });
}

#[test]
fn subscriptions_and_what_waits_are_told_page_by_page() {
    across(|net| {
        let a = net.online(resume(Version::V5, "a"));
        for n in 0..5 {
            net.subscribe(a, &format!("own/{n}/#"), QOS1);
        }
        net.subscribe_with(a, "$share/g/own/+", options(QOS2));
        net.drop(a);
        let b = net.online(v5("b"));
        for n in 1..=3 {
            net.publish(b, message("own/1", &format!("{n}")).qos1(n));
        }
        net.home_of("a", |shard, _, _| {
            let all = shard.subscribed(&id_of("a"), 0, 100).expect("a session");
            assert_eq!(all.len(), 6);
            let pages: Vec<_> =
                (0..7).flat_map(|n| shard.subscribed(&id_of("a"), n, 1).unwrap()).collect();
            assert_eq!(pages, all);
            assert_eq!(shard.subscribed(&id_of("a"), 4, 9).unwrap(), all[4..]);
            let mut to = shard.subscribed_to(&id_of("a"), &topic("own/1")).expect("a session");
            to.sort_by(|a, b| a.filter.cmp(&b.filter));
            let filters: Vec<_> = to.iter().map(|it| (it.filter.as_str(), it.shared)).collect();
            assert_eq!(filters, [("$share/g/own/+", true), ("own/1/#", false)]);
            let payloads = |skip, most| -> Vec<_> {
                let queue = shard.queue(&id_of("a"), skip, most).expect("a session");
                assert!(queue.iter().all(|waits| !waits.sent));
                queue.iter().map(|waits| waits.message.payload.clone()).collect()
            };
            assert_eq!(payloads(1, 10), ["2", "3"]);
            assert_eq!(payloads(1, 1), ["2"]);
            assert!(payloads(3, 1).is_empty());
            assert!(shard.is_interested(&topic("own/1")));
            let (_, first, _) = shard.reached(&topic("own/1"), 5);
            assert_eq!(first, [id_of("a")]);
        });
        let reached = net.shards().iter().map(|shard| shard.reached(&topic("own/1"), 5).0);
        assert_eq!(reached.sum::<u64>(), 2, "the session and the group");
        let groups: Vec<_> =
            net.shards().iter().flat_map(|shard| shard.list_shared(0, 10).0).collect();
        assert_eq!(groups.len(), 1);
        assert_eq!((groups[0].members, groups[0].ready), (1, 0));
    });
}

/// A page is a bounded step: it ends before its number is reached if filters are long or members many.
#[test]
fn pages_end_early_where_each_line_is_much() {
    let mut net = Net::new(1);
    let a = net.online(v5("a"));
    let long = "x".repeat(60_000);
    for n in 0..40 {
        net.subscribe(a, &format!("{n}/{long}"), QOS0);
    }
    net.home_of("a", |shard, _, _| {
        let mut found = 0;
        let mut pages = 0;
        loop {
            let page = shard.subscribed(&id_of("a"), found, 1_000).expect("a session");
            if page.is_empty() {
                break;
            }
            assert!(page.iter().map(|it| it.filter.len()).sum::<usize>() < 1_200_000);
            (found, pages) = (found + page.len(), pages + 1);
        }
        assert_eq!((found, pages), (40, 3));
        assert_eq!(shard.list_shared(0, 1_000), (Vec::new(), None));
    });
    for n in 0..40 {
        net.subscribe_with(a, &format!("$share/g/{n}/{long}"), options(QOS0));
    }
    net.home_of("a", |shard, _, _| {
        let (first, next) = shard.list_shared(0, 1_000);
        assert_eq!((first.len(), next), (22, Some(22)), "940 looks each");
        let (rest, next) = shard.list_shared(22, 1_000);
        assert_eq!((rest.len(), next), (18, None));
    });
}

#[test]
fn it_is_said_which_rule_allows_and_which_denies_and_whose_messages_were_refused() {
    across(|net| {
        let all = Effect::Allow { max_qos: QOS2, retain: true };
        let rule = |effect, filter: &str| Rule {
            subjects: Subjects::default(),
            effect,
            publish: true,
            subscribe: true,
            filters: vec![text(filter)],
        };
        let mut rules = Rules::default();
        for rule in [rule(all, "open/#"), rule(all, "#"), rule(Effect::Deny, "open/closed")] {
            rules.add(rule).unwrap();
        }
        let access = Access { is_on: true, rules: Some(Arc::new(rules)), ..Access::default() };
        net.begin_with(access);
        let a = net.online(v5("a"));
        net.send(a, message("open/closed", "x"));
        net.run();
        net.home_of("a", |shard, _, out| {
            let closed = shard.rights(&id_of("a"), &topic("open/closed")).expect("a session");
            assert_eq!((closed.subscribe, closed.publish.allows(QOS0, false)), (None, false));
            let verdicts = Verdicts { allowing: Some(0), denying: Some(2) };
            assert_eq!((closed.publish_rules, closed.subscribe_rules), (verdicts, verdicts));
            let other = shard.rights(&id_of("a"), &topic("else")).expect("a session");
            assert_eq!(other.publish_rules, Verdicts { allowing: Some(1), denying: None });
            let refused = shard.refused_for(&topic("open/closed"), out);
            let (who, why, _) = &refused[0];
            assert_eq!((who.as_str(), *why), ("a", DropReason::NotAuthorized));
            assert!(shard.refused_for(&topic("open"), out).is_empty());
        });
    });
}
