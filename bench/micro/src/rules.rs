//! Files of many rules: how long it takes to read one, and what it costs to ask.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use petrel_access::rules::parse;
use petrel_proto::Text;
use petrel_shard::access::{Publishable, Rules, Who};

use crate::callgrind::measured;

/// A file of so many rules: most are about one user each, some about groups and about everybody, one in a
/// hundred denies.
fn file(rules: u32) -> String {
    let mut text = String::new();
    for number in 0..rules {
        let (says, whom) = match number % 100 {
            0 => ("deny = \"both\"", String::new()),
            1..=9 => ("allow = \"subscribe\"", format!("groups = [\"site-{}\"]\n", number / 10)),
            10..=29 => ("allow = \"publish\"", String::new()),
            _ => ("allow = \"both\"", format!("users = [\"user-{number}\"]\n")),
        };
        let end = if number % 2 == 0 { "#" } else { "+/state" };
        // A text takes what is written to it.
        let _ = write!(
            text,
            "[[rule]]\n{says}\n{whom}topics = [\"plant/{}/device-{number}/{end}\", \"home/%u/{number}/#\"]\n",
            number % 1000
        );
    }
    text
}

/// A user of whom there are rules, and what it does.
struct Asks {
    user: String,
    groups: [Text; 1],
    topic: String,
    filter: String,
}

impl Asks {
    fn of(number: u32) -> Self {
        let group = format!("site-{}", number / 10);
        Self {
            user: format!("user-{number}"),
            groups: [Text::try_from(group.as_str()).expect("it is short")],
            topic: format!("plant/{}/device-{number}/line/state", number % 1000),
            filter: format!("plant/{}/device-{number}/+/state", number % 1000),
        }
    }

    fn who(&self) -> Who<'_> {
        Who {
            user: Some(&self.user),
            groups: &self.groups,
            client_id: "a-client-of-that-user",
            listener: 0,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn publishes(&self, rules: &Rules) {
        let may = rules.publishable(black_box(&self.who()), None, &self.topic);
        assert_eq!(may, Publishable::EVERYTHING);
    }

    fn subscribes(&self, rules: &Rules) {
        let may = rules.subscribable(black_box(&self.who()), None, &self.filter);
        assert!(may.is_some());
    }
}

fn read(rules: u32) -> Rules {
    parse(&file(rules), &[]).unwrap_or_else(|problems| panic!("{:?}", problems[0]))
}

/// Rules whose users may publish and subscribe below their device.
fn askers(rules: u32) -> impl Iterator<Item = Asks> {
    (0..rules).filter(|number| number % 100 >= 30 && number % 2 == 0).map(Asks::of)
}

/// So many decisions that nobody has made before, to be counted.
pub fn decided(rounds: u32, subscribes: bool) {
    let rules = read(100_000);
    let asked: Vec<_> = askers(100_000).take(rounds as usize).collect();
    measured(&mut || {
        for asks in &asked {
            if subscribes { asks.subscribes(&rules) } else { asks.publishes(&rules) }
        }
    });
}

/// Times on this machine: a file is read, and rules are asked.
pub fn report(rules: u32) {
    let text = file(rules);
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        black_box(parse(&text, &[]).expect("it is right"));
        least = least.min(begin.elapsed().as_secs_f64());
    }
    println!("{rules} rules, {:.1} MB, are read in {:.3} s", text.len() as f64 / 1e6, least);
    let rules_read = read(rules);
    let asked: Vec<_> = askers(rules).collect();
    let each = |ask: &dyn Fn(&Asks)| {
        let begin = Instant::now();
        asked.iter().for_each(ask);
        begin.elapsed().as_secs_f64() * 1e6 / asked.len() as f64
    };
    println!("may it publish to a topic: {:.2} µs", each(&|asks| asks.publishes(&rules_read)));
    println!("may it subscribe to a filter: {:.2} µs", each(&|asks| asks.subscribes(&rules_read)));
}
