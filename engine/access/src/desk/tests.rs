//! Desks with threads behind them. Time is what the tests say it is.

use std::time::{Duration, Instant};

use petrel_shard::Verdict;

use super::*;
use crate::Check;
use crate::testing::{ask, chains, next, passwords, question, start};

#[test]
fn who_is_known_is_let_in_and_nobody_else() {
    let (office, mut desk) = start(
        Settings::default(),
        vec![vec![passwords(&[("alice", "a")]), passwords(&[("bob", "b")])]],
    );
    const BAD: Result<String, ReasonCode> = Err(ReasonCode::BadUserNameOrPassword);
    for (user, password, said) in [
        (Some("alice"), Some("a"), Ok("alice".to_owned())),
        (Some("bob"), Some("b"), Ok("bob".to_owned())),
        (Some("alice"), Some("b"), BAD),
        (Some("alice"), Some(""), BAD),
        (Some("alice"), None, BAD),
        (None, Some("a"), BAD),
        (Some("nobody"), Some("a"), BAD),
        // What is said must not run together.
        (Some("alic"), Some("ea"), BAD),
        (None, None, Err(ReasonCode::NotAuthorized)),
    ] {
        for known in [false, true] {
            let asked = question(1, 0, user, password);
            assert_eq!(ask(&mut desk, 0, asked), (known, said.clone()), "{user:?} {password:?}");
        }
    }
    // Nobody is known at another listener.
    assert_eq!(ask(&mut desk, 0, question(1, 1, Some("alice"), Some("a"))), (false, BAD));
    drop(desk);
    office.stop();
}

#[test]
fn what_is_known_is_known_for_a_while_and_until_the_checks_change() {
    let settings = Settings { known_ms: 1000, refused_ms: 100, ..Settings::default() };
    let (office, mut desk) = start(settings, vec![vec![passwords(&[("alice", "a")])]]);
    let right = || question(1, 0, Some("alice"), Some("a"));
    let wrong = || question(1, 0, Some("alice"), Some("x"));
    let is_known = |desk: &mut Desk, now_ms, question| ask(desk, now_ms, question).0;
    assert!(!is_known(&mut desk, 0, right()) && !is_known(&mut desk, 0, wrong()));
    assert!(is_known(&mut desk, 99, right()) && is_known(&mut desk, 99, wrong()));
    assert!(is_known(&mut desk, 999, right()) && !is_known(&mut desk, 100, wrong()));
    assert!(!is_known(&mut desk, 1000, right()));
    office.set_checks(chains(vec![vec![passwords(&[("alice", "x")])]])).unwrap();
    assert_eq!(ask(&mut desk, 1000, right()), (false, Err(ReasonCode::BadUserNameOrPassword)));
    assert_eq!(ask(&mut desk, 1000, wrong()), (false, Ok("alice".to_owned())));
    drop(desk);
    office.stop();
}

#[test]
fn a_line_is_bounded_and_whoever_has_gone_costs_nothing() {
    let settings = Settings { waiting_per_shard: 100, ..Settings::default() };
    let (office, mut desk) = start(settings, vec![vec![passwords(&[("alice", "a")])]]);
    for index in 0..100 {
        let user = format!("user-{index}");
        assert!(desk.ask(0, question(index, 0, Some(&user), Some("a"))).is_none());
    }
    let one_more = desk.ask(0, question(100, 0, Some("alice"), Some("a")));
    assert!(matches!(
        one_more,
        Some(crate::Finding { verdict: Verdict::Refuse { reason: ReasonCode::ServerBusy }, .. })
    ));
    let (mut verdicts, mut gone) = (Vec::new(), Vec::new());
    let end = Instant::now() + Duration::from_secs(60);
    while desk.waiting() > 0 {
        match desk.next(0, |conn| conn.index % 2 == 0) {
            Some((conn, Answer::Gone)) => gone.push(conn.index),
            Some((conn, Answer::Verdict(_))) => verdicts.push(conn.index),
            None => {
                assert!(Instant::now() < end && desk.lines[0].under_way > 0);
                std::thread::yield_now();
            }
        }
    }
    assert!(verdicts.iter().copied().eq((0..100).step_by(2)), "{verdicts:?}");
    assert!(gone.iter().copied().eq((1..100).step_by(2)), "{gone:?}");
    assert!(!desk.has_mail());
    drop(desk);
    office.stop();
}

#[test]
fn a_crowd_of_one_user_is_checked_a_few_times() {
    let (office, mut desk) = start(Settings::default(), vec![vec![passwords(&[("alice", "a")])]]);
    let asked = (0..1000)
        .filter(|&index| desk.ask(0, question(index, 0, Some("alice"), Some("a"))).is_none());
    let asked = asked.count();
    let answers: Vec<_> = (0..asked).map(|_| next(&mut desk, 0)).collect();
    assert!(answers.iter().all(|(_, answer)| {
        matches!(answer, Answer::Verdict(crate::Finding { verdict: Verdict::Accept { .. }, .. }))
    }));
    drop(desk);
    office.stop();
}

fn certified(name: &str, mut question: Question) -> Question {
    if let Asks::Credentials(credentials) = &mut question.asks {
        credentials.origin.certificate = Some(petrel_proto::Text::try_from(name).unwrap());
    }
    question
}

#[test]
fn a_certificate_lets_in_as_the_user_it_names_and_as_nobody_else() {
    let chain = vec![Check::Certificate, passwords(&[("alice", "secret")])];
    let (office, mut desk) = start(Settings::default(), vec![chain]);
    // What is known of one certificate is not known of another, nor of none.
    for _ in 0..2 {
        let alone = certified("device", question(1, 0, None, None));
        assert_eq!(ask(&mut desk, 0, alone).1, Ok("device".to_owned()));
        let named = certified("device", question(2, 0, Some("device"), None));
        assert_eq!(ask(&mut desk, 0, named).1, Ok("device".to_owned()));
        let other = certified("device", question(3, 0, Some("alice"), Some("secret")));
        assert_eq!(ask(&mut desk, 0, other).1, Err(ReasonCode::BadUserNameOrPassword));
        let second = certified("other", question(4, 0, None, None));
        assert_eq!(ask(&mut desk, 0, second).1, Ok("other".to_owned()));
        let none = question(5, 0, None, None);
        assert_eq!(ask(&mut desk, 0, none).1, Err(ReasonCode::NotAuthorized));
        let password = question(6, 0, Some("alice"), Some("secret"));
        assert_eq!(ask(&mut desk, 0, password).1, Ok("alice".to_owned()));
    }
    drop(desk);
    office.stop();
}
