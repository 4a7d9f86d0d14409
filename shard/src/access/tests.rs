//! Rules against the slow, obvious way: every topic of a small world, one by one.

use std::net::Ipv4Addr;

use petrel_proto::{TopicFilter, TopicName};
use proptest::prelude::*;

use super::*;

const ALLOW: Effect = Effect::Allow { max_qos: Qos::ExactlyOnce, retain: true };

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

fn who<'a>(user: Option<&'a str>, groups: &'a [Text], client_id: &'a str) -> Who<'a> {
    Who { user, groups, client_id, listener: 0, address: Ipv4Addr::LOCALHOST.into() }
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

fn rules(all: impl IntoIterator<Item = Rule>) -> Rules {
    let mut rules = Rules::default();
    all.into_iter().for_each(|rule| rules.add(rule).unwrap());
    rules
}

/// May `user` (client identifier `c1`) publish to this, and subscribe to it?
fn may(rules: &Rules, user: &str, topic: &str) -> (bool, bool) {
    let who = who(Some(user), &[], "c1");
    let publishes = rules.publishable(&who, None, topic) != Publishable::NOTHING;
    (publishes, rules.subscribable(&who, None, topic).is_some())
}

#[test]
fn without_rules_nobody_may_do_anything() {
    assert_eq!(may(&Rules::default(), "u", "a"), (false, false));
}

#[test]
fn a_subscription_needs_a_right_to_all_that_it_matches() {
    let rules = rules([
        rule(ALLOW, &["plant/+/state", "site/#", "+/public"]),
        rule(Effect::Deny, &["site/secret/#"]),
    ]);
    for (filter, allowed) in [
        ("plant/+/state", true),
        ("plant/1/state", true),
        ("plant/#", false),
        ("plant/+/+", false),
        ("+/+/state", false),
        ("#", false),
        ("site/#", false), // since a part of it is denied
        ("site/+/x", false),
        ("site/open/#", true),
        ("site", true),
        ("+/public", true),
        ("$SYS/public", false), // [MQTT5-4.7.2-1]
        ("site/secret", false),
    ] {
        let who = who(Some("u"), &[], "c");
        assert_eq!(rules.subscribable(&who, None, filter).is_some(), allowed, "{filter}");
    }
}

#[test]
fn what_a_client_is_called_never_widens_a_right() {
    let allowed = rules([rule(ALLOW, &["home/%u/#", "client-%c/+", "%u"])]);
    assert_eq!(may(&allowed, "alice", "home/alice/lamp"), (true, true));
    assert_eq!(may(&allowed, "alice", "home/bob/lamp"), (false, false));
    assert_eq!(may(&allowed, "alice", "client-c1/x"), (true, true));
    for user in ["+", "#", "a/b", "", "a+", "al\0ice"] {
        for topic in ["home/alice/lamp", "home/a/b", "home/+/#", "home/#", "#", "+", "home//x"] {
            assert_eq!(may(&allowed, user, topic), (false, false), "{user:?} {topic}");
        }
    }
    assert_eq!(may(&allowed, "$SYS", "$SYS"), (false, false));
    let anonymous = who(None, &[], "c1");
    assert_eq!(allowed.publishable(&anonymous, None, "home//lamp"), Publishable::NOTHING);
    // What is denied is not evaded by a name that no topic can hold.
    let denied = rules([rule(ALLOW, &["#"]), rule(Effect::Deny, &["home/secret-%u/#"])]);
    assert_eq!(may(&denied, "a", "home/secret-b/x"), (true, true));
    assert_eq!(may(&denied, "a", "home/secret-a/x"), (false, false));
    assert_eq!(may(&denied, "a/b", "home/secret-a/b"), (false, false));
}

#[test]
fn a_rule_is_about_those_whom_all_its_lists_name() {
    let subjects = |of: fn(&mut Subjects)| {
        let mut subjects = Subjects::default();
        of(&mut subjects);
        rules([Rule { subjects, ..rule(ALLOW, &["t"]) }])
    };
    let may = |rules: &Rules, who: &Who<'_>| rules.subscribable(who, None, "t").is_some();
    let groups = [text("staff"), text("night")];
    let alice = who(Some("alice"), &groups, "sensor-7");
    let nobody = who(None, &[], "x");

    let by_user = subjects(|it| it.users = vec![text("bob"), text("alice")]);
    assert!(may(&by_user, &alice) && !may(&by_user, &nobody));
    let by_both = subjects(|it| {
        it.users = vec![text("alice")];
        it.groups = vec![text("day")];
    });
    assert!(!may(&by_both, &alice));
    let by_group = subjects(|it| it.groups = vec![text("night"), text("day")]);
    assert!(may(&by_group, &alice) && !may(&by_group, &nobody));
    let by_id = subjects(|it| it.client_ids = vec![text("sensor-*"), text("y")]);
    assert!(may(&by_id, &alice) && !may(&by_id, &nobody));
    let by_exact_id = subjects(|it| it.client_ids = vec![text("x")]);
    assert!(!may(&by_exact_id, &alice) && may(&by_exact_id, &nobody));
    let proved = subjects(|it| it.authenticated = Some(true));
    assert!(may(&proved, &alice) && !may(&proved, &nobody));
    let by_listener = subjects(|it| it.listeners = vec![3]);
    assert!(!may(&by_listener, &alice) && may(&by_listener, &Who { listener: 3, ..alice }));
    let by_address = subjects(|it| it.addresses = vec!["127.0.0.0/8".parse().unwrap()]);
    let elsewhere = Who { address: Ipv4Addr::new(10, 0, 0, 1).into(), ..alice };
    assert!(may(&by_address, &alice) && !may(&by_address, &elsewhere));
    let mapped = Who { address: Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), ..alice };
    assert!(may(&by_address, &mapped));
}

#[test]
fn ranges_of_addresses_are_read() {
    let range = |text: &str| text.parse::<AddressRange>();
    assert!(range("10.1.2.3").unwrap().contains("10.1.2.3".parse().unwrap()));
    assert!(!range("10.1.2.3").unwrap().contains("10.1.2.4".parse().unwrap()));
    assert!(range("0.0.0.0/0").unwrap().contains("255.1.2.3".parse().unwrap()));
    assert!(!range("0.0.0.0/0").unwrap().contains("::1".parse().unwrap()));
    assert!(range("::/0").unwrap().contains("2001:db8::1".parse().unwrap()));
    assert!(range("2001:db8::/32").unwrap().contains("2001:db8:1::".parse().unwrap()));
    for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "x", "", "10.0.0.0/", "10.0.0.0/-1"] {
        assert!(range(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn rules_that_allow_add_up_and_say_how() {
    let upto = |max_qos, retain| Effect::Allow { max_qos, retain };
    let rules = rules([
        rule(upto(Qos::AtLeastOnce, false), &["a/#"]),
        rule(upto(Qos::AtMostOnce, true), &["a/b"]),
    ]);
    let who = who(None, &[], "c");
    let both = rules.publishable(&who, None, "a/b");
    assert!(both.allows(Qos::AtLeastOnce, false) && both.allows(Qos::AtMostOnce, true));
    assert!(!both.allows(Qos::AtLeastOnce, true) && !both.allows(Qos::ExactlyOnce, false));
    let one = rules.publishable(&who, None, "a");
    assert!(one.allows(Qos::AtLeastOnce, false) && !one.allows(Qos::AtMostOnce, true));
    assert_eq!(rules.subscribable(&who, None, "a/b"), Some(Qos::AtLeastOnce));
    // What comes with a client counts as well, and is denied as well.
    let own = super::tests::rules([rule(ALLOW, &["a/#", "c"])]);
    assert_eq!(rules.subscribable(&who, Some(&own), "c"), Some(Qos::ExactlyOnce));
    assert_eq!(rules.publishable(&who, Some(&own), "a"), Publishable::EVERYTHING);
    let deny = super::tests::rules([rule(ALLOW, &["#"]), rule(Effect::Deny, &["c"])]);
    assert_eq!(deny.subscribable(&who, Some(&own), "c"), None);
}

#[test]
fn filters_that_are_none_are_refused_with_a_reason() {
    let long = "a/".repeat(200);
    for (filter, why) in [
        ("", "empty"),
        ("a/#/b", "not its last level"),
        ("a/b+", "shares its level"),
        ("a/%u#", "shares its level"),
        ("a/%x", "no u, c or %"),
        ("a/%", "no u, c or %"),
        ("$share/g/a", "shared subscription"),
        (&long, "more than 128 levels"),
    ] {
        let error = Rules::default().add(rule(ALLOW, &[filter])).unwrap_err();
        assert!(error.contains(why), "{filter:?}: {error}");
    }
    let percent = rules([rule(ALLOW, &["100%%/x"])]);
    assert_eq!(may(&percent, "u", "100%/x"), (true, true));
}

/// A rule's filter with a client's values in it; `None` if it has none that matches anything.
fn filled(filter: &str, who: &Who<'_>) -> Option<String> {
    let mut levels = Vec::new();
    for level in filter.split('/') {
        let level = match who.user {
            Some(user) => level.replace("%u", user),
            None if level.contains("%u") => return None,
            None => level.to_owned(),
        };
        levels.push(level);
    }
    Some(levels.join("/"))
}

fn matches(filter: &str, topic: &str) -> bool {
    let topic = TopicName::new(text(topic)).unwrap();
    TopicFilter::new(text(filter)).unwrap().matches(&topic)
}

/// All topics of up to five levels; `z` is in no rule.
fn world() -> Vec<String> {
    let mut world: Vec<String> = Vec::new();
    let mut last = vec![String::new()];
    for depth in 0..5 {
        let deeper = |before: &String| {
            ["a", "b", "$s", "z"].map(|level| match depth {
                0 => level.to_owned(),
                _ => format!("{before}/{level}"),
            })
        };
        last = last.iter().flat_map(deeper).collect();
        world.extend(last.iter().cloned());
    }
    world
}

fn filter_of(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    let levels = prop::collection::vec(prop::sample::select(levels), 1..4);
    (levels, any::<bool>()).prop_map(|(levels, rest)| {
        let filter = levels.join("/");
        if rest { format!("{filter}/#") } else { filter }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rules_say_what_each_topic_by_itself_says(
        given in prop::collection::vec(
            (prop::sample::select(&[true, true, true, false][..]), filter_of(&["a", "b", "+", "$s", "%u", "#"]),
                0..4_u8, any::<bool>(), any::<bool>()),
            1..7,
        ),
        asked in filter_of(&["a", "b", "+", "$s", "z"]),
        all in prop::sample::select(&[true, false, false, false][..]),
    ) {
        let groups = [text("g")];
        let who = who(Some("a"), &groups, "c");
        let mut compiled = Rules::default();
        let mut plain = Vec::new();
        for (allows, filter, of, publish, subscribe) in &given {
            // A `#` in the middle is no filter.
            let filter = filter.split_once("/#/").map_or(filter.clone(), |(before, _)| format!("{before}/#"));
            let filter = if filter.starts_with("#/") { "#".to_owned() } else { filter };
            let mut subjects = Subjects::default();
            match of {
                0 => subjects.users = vec![text("a")],
                1 => subjects.groups = vec![text("g"), text("h")],
                2 => subjects.users = vec![text("b")],
                _ => {}
            }
            let effect = if *allows { ALLOW } else { Effect::Deny };
            let (publish, subscribe) = (*publish, *subscribe);
            let filters = vec![text(&filter)];
            compiled.add(Rule { subjects, effect, publish, subscribe, filters }).unwrap();
            if *of != 2 {
                plain.push((*allows, filled(&filter, &who).unwrap(), publish, subscribe));
            }
        }
        let world = world();
        for topic in &world {
            let any = |allows: bool| plain.iter().any(|(it, filter, publish, _)| {
                *it == allows && *publish && matches(filter, topic)
            });
            let may = compiled.publishable(&who, None, topic) != Publishable::NOTHING;
            prop_assert_eq!(may, any(true) && !any(false), "{} {:?}", topic, plain);
        }
        let asked = if all { "#".to_owned() } else { asked };
        let wanted: Vec<_> = world.iter().filter(|topic| matches(&asked, topic)).collect();
        let covered = plain.iter().any(|(allows, filter, _, subscribe)| {
            *allows && *subscribe && wanted.iter().all(|topic| matches(filter, topic))
        });
        let denied = plain.iter().any(|(allows, filter, _, subscribe)| {
            !*allows && *subscribe && wanted.iter().any(|topic| matches(filter, topic))
        });
        let may = compiled.subscribable(&who, None, &asked).is_some();
        prop_assert_eq!(may, covered && !denied, "{} {:?}", asked, plain);
    }
}
