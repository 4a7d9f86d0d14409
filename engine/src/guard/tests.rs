use std::net::IpAddr;
use std::sync::Arc;

use petrel_proto::{ReasonCode, Text};

use super::*;

fn text(text: &str) -> Text {
    Text::try_from(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guard(limits: GuardLimits) -> Arc<Guard> {
    Arc::new(Guard::new(limits, 2))
}

/// A client without a user name comes.
fn enter(
    guard: &Arc<Guard>,
    (listener, address, id): (u16, &str, &str),
    now_ms: u64,
) -> Result<Option<Box<Seat>>, Denied> {
    let client_id = &text(id);
    let comer =
        Comer { listener, address: Some(ip(address)), client_id, user: None, takes_over: None };
    guard.enter(&comer, now_ms)
}

fn ban(guard: &Guard, target: Target, until_ms: u64) -> bool {
    guard.bans().add(Ban { target, until_ms, why: String::new(), is_own: false }, 0)
}

#[test]
fn nobody_is_counted_without_bounds() {
    let guard = guard(GuardLimits::default());
    for id in 0..10 {
        assert!(enter(&guard, (0, "10.0.0.1", &id.to_string()), 0).unwrap().is_none());
    }
    assert_eq!(guard.figures(), GuardFigures::default());
}

#[test]
fn each_listener_and_each_source_has_its_own_bound() {
    let limits =
        GuardLimits { listeners: vec![3, 0], source_clients_maximum: 2, ..GuardLimits::default() };
    let guard = guard(limits);
    let first = enter(&guard, (0, "10.0.0.1", "a"), 0).unwrap();
    let _second = enter(&guard, (1, "::ffff:10.0.0.1", "b"), 0).unwrap();
    assert_eq!(enter(&guard, (0, "10.0.0.1", "c"), 0).unwrap_err(), Denied::SourceFull);
    let _six = enter(&guard, (0, "2001:db8::1", "d"), 0).unwrap();
    let _seven = enter(&guard, (0, "2001:db8::2", "e"), 0).unwrap();
    assert_eq!(enter(&guard, (1, "2001:db8::3", "f"), 0).unwrap_err(), Denied::SourceFull);
    assert_eq!(enter(&guard, (0, "10.0.0.3", "g"), 0).unwrap_err(), Denied::ListenerFull);
    // Who was denied has kept no place, and who goes gives its own back.
    drop(first);
    let _third = enter(&guard, (0, "10.0.0.1", "h"), 0).unwrap();
    assert_eq!(guard.figures().full, [1, 2, 0]);
    assert_eq!(Denied::SourceFull.reason(), ReasonCode::QuotaExceeded);
}

#[test]
fn each_user_has_its_bound() {
    let guard = guard(GuardLimits { user_clients_maximum: 1, ..GuardLimits::default() });
    let mut first = enter(&guard, (0, "10.0.0.1", "a"), 0).unwrap();
    let mut second = enter(&guard, (0, "10.0.0.2", "b"), 0).unwrap();
    guard.enter_as(first.as_deref_mut(), &text("user"), 0).unwrap();
    // Whoever proves again who it is does not count again.
    guard.enter_as(first.as_deref_mut(), &text("user"), 0).unwrap();
    let full = guard.enter_as(second.as_deref_mut(), &text("user"), 0);
    assert_eq!(full.unwrap_err(), Denied::UserFull);
    guard.enter_as(second.as_deref_mut(), &text("other"), 0).unwrap();
    drop(first);
    let mut third = enter(&guard, (0, "10.0.0.1", "c"), 0).unwrap();
    guard.enter_as(third.as_deref_mut(), &text("user"), 0).unwrap();
}

#[test]
fn places_are_given_back_whatever_happens_at_once() {
    let limits =
        GuardLimits { listeners: vec![8], source_clients_maximum: 5, ..GuardLimits::default() };
    let guard = guard(limits);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..2_000 {
                    let address = format!("10.0.0.{}", round % 3);
                    let seats: Vec<_> =
                        (0..4).map(|_| enter(&guard, (0, &address, "a"), 0)).collect();
                    assert!(seats.iter().filter(|seat| seat.is_ok()).count() <= 5);
                }
            });
        }
    });
    assert_eq!(guard.listeners[0].load(Ordering::Acquire), 0);
    assert!(guard.sources.parts.iter().all(|part| part.lock().unwrap().is_empty()));
}

#[test]
fn who_is_banned_is_shut_out_until_its_time_is_over() {
    let guard = guard(GuardLimits::default());
    assert!(ban(&guard, Target::Addresses("10.1.2.3/16".parse().unwrap()), 5_000));
    assert!(ban(&guard, Target::Addresses("2001:db8::/32".parse().unwrap()), u64::MAX));
    assert!(ban(&guard, Target::ClientId(text("id")), u64::MAX));
    assert!(ban(&guard, Target::User(text("user")), u64::MAX));
    assert!(guard.shuts_out(ip("10.1.9.9"), 4_999) && guard.shuts_out(ip("::ffff:10.1.9.9"), 0));
    assert!(!guard.shuts_out(ip("10.2.0.1"), 0) && !guard.shuts_out(ip("10.1.9.9"), 5_000));
    assert!(guard.shuts_out(ip("2001:db8:1::1"), u64::MAX - 1));
    assert_eq!(enter(&guard, (0, "10.1.0.1", "a"), 0).unwrap_err(), Denied::Banned);
    assert_eq!(enter(&guard, (0, "10.3.0.1", "id"), 0).unwrap_err(), Denied::Banned);
    assert!(enter(&guard, (0, "10.3.0.1", "user"), 0).is_ok());
    let (id, user) = (text("x"), text("user"));
    let comer =
        Comer { listener: 0, address: None, client_id: &id, user: Some(&user), takes_over: None };
    assert_eq!(guard.enter(&comer, 0).unwrap_err(), Denied::Banned);
    assert_eq!(guard.enter_as(None, &user, 0).unwrap_err(), Denied::Banned);
    assert_eq!(guard.figures().banned, 4);
    guard.bans().forget(5_000);
    assert_eq!(guard.bans().list(0).len(), 3);
    assert!(guard.bans().remove(&Target::Addresses("2001:db8:ffff::/32".parse().unwrap())));
    assert!(!guard.bans().remove(&Target::Addresses("2001:db8::/32".parse().unwrap())));
    assert!(!guard.shuts_out(ip("2001:db8:1::1"), 0));
}

#[test]
fn sources_of_what_is_no_mqtt_are_banned_for_a_time() {
    let limits = GuardLimits {
        ban_after_malformed: 3,
        ban_within_s: 10,
        ban_s: 60,
        ..GuardLimits::default()
    };
    let guard = guard(limits);
    let send =
        |address: &str, now_ms| guard.malformed(ip(address), now_ms).map(|it| it.to_string());
    for now_ms in [0, 5_000, 9_999, 10_000, 15_000, 19_999] {
        assert_eq!(send("10.0.0.1", now_ms), None, "at {now_ms}");
    }
    assert_eq!(send("10.0.0.1", 19_999), Some("10.0.0.1".to_owned()));
    assert!(guard.shuts_out(ip("10.0.0.1"), 79_998) && !guard.shuts_out(ip("10.0.0.2"), 20_000));
    assert!(!guard.shuts_out(ip("10.0.0.1"), 79_999));
    (1..=3).for_each(|n| assert_eq!(send(&format!("2001:db8::{n}"), 0), None));
    assert_eq!(send("2001:db8::4", 0), Some("2001:db8::/64".to_owned()));
    assert_eq!(guard.figures().bans, 2);
}

#[test]
fn client_identifiers_that_come_all_the_time_are_banned_for_a_time() {
    let limits = GuardLimits {
        ban_after_connects: 2,
        ban_within_s: 10,
        ban_s: 60,
        ..GuardLimits::default()
    };
    let guard = guard(limits);
    assert!(!guard.connected(&text("a"), 0) && !guard.connected(&text("b"), 0));
    assert!(!guard.connected(&text("a"), 1_000) && guard.connected(&text("a"), 2_000));
    assert_eq!(enter(&guard, (0, "10.0.0.1", "a"), 2_001).unwrap_err(), Denied::Banned);
    assert!(enter(&guard, (0, "10.0.0.1", "b"), 2_001).is_ok());
    assert!(enter(&guard, (0, "10.0.0.1", "a"), 62_000).is_ok());
}

#[test]
fn a_ban_of_an_operator_is_not_made_shorter_by_the_guard() {
    let limits = GuardLimits {
        ban_after_connects: 1,
        ban_within_s: 10,
        ban_s: 60,
        ..GuardLimits::default()
    };
    let guard = guard(limits);
    ban(&guard, Target::ClientId(text("a")), u64::MAX);
    assert!(!guard.connected(&text("a"), 0) && !guard.connected(&text("a"), 0));
    let [kept] = &guard.bans().list(0)[..] else { panic!("there is one") };
    assert_eq!((kept.until_ms, kept.is_own), (u64::MAX, false));
}

/// More names than there is room for are forgotten, and take no more memory.
#[test]
fn what_is_remembered_of_offences_is_bounded() {
    let offences = Offences::<Text>::default();
    for n in 0..200_000_u32 {
        assert!(!offences.is_too_often(&text(&n.to_string()), (5, 60), 0));
    }
    assert!(offences.len() <= 64 * 1024);
}

/// A client comes that takes over a connection.
fn come_to(
    guard: &Arc<Guard>,
    listener: u16,
    id: &str,
    address: &str,
    takes_over: Option<&Seat>,
) -> Result<Option<Box<Seat>>, Denied> {
    let (client_id, address) = (&text(id), Some(ip(address)));
    guard.enter(&Comer { listener, address, client_id, user: None, takes_over }, 0)
}

/// A device that lost its network comes back before its old connection is known to be gone; by the same way, or
/// by another, which must have room.
#[test]
fn whoever_takes_over_its_own_connection_gets_in_at_the_bound() {
    let limits = GuardLimits {
        listeners: vec![1, 1],
        source_clients_maximum: 1,
        user_clients_maximum: 1,
        ..GuardLimits::default()
    };
    let guard = guard(limits);
    let mut old = come_to(&guard, 0, "a", "10.0.0.1", None).unwrap();
    guard.enter_as(old.as_deref_mut(), &text("user"), 0).unwrap();
    assert!(come_to(&guard, 0, "b", "10.0.0.1", None).is_err());
    let mut new = come_to(&guard, 0, "a", "10.0.0.1", old.as_deref()).unwrap();
    guard.enter_as(new.as_deref_mut(), &text("user"), 0).unwrap();
    // Not one more with each that tries.
    assert!(come_to(&guard, 0, "a", "10.0.0.1", old.as_deref()).is_err());
    drop(old);
    assert!(come_to(&guard, 0, "b", "10.0.0.1", None).is_err());
    // A connection elsewhere leaves no place here.
    let there = come_to(&guard, 1, "c", "10.0.0.2", None).unwrap();
    assert!(matches!(
        come_to(&guard, 0, "c", "10.0.0.1", there.as_deref()),
        Err(Denied::ListenerFull)
    ));
    let other_source = come_to(&guard, 1, "a", "10.0.0.2", there.as_deref());
    assert!(matches!(other_source, Ok(Some(_))));
    drop(other_source);
    drop(there);
    assert!(matches!(come_to(&guard, 1, "a", "10.0.0.1", None), Err(Denied::SourceFull)));
    drop(new);
    assert!(come_to(&guard, 0, "b", "10.0.0.1", None).is_ok());
}

/// Who takes over the connection of somebody else, or of nobody, leaves its user's other connections as they are.
#[test]
fn whoever_takes_over_somebody_elses_connection_is_one_more_of_its_user() {
    let guard = guard(GuardLimits { user_clients_maximum: 1, ..GuardLimits::default() });
    let mut first = come_to(&guard, 0, "x", "10.0.0.1", None).unwrap();
    guard.enter_as(first.as_deref_mut(), &text("alice"), 0).unwrap();
    let mut other = come_to(&guard, 0, "y", "10.0.0.1", None).unwrap();
    let mut taken = come_to(&guard, 0, "y", "10.0.0.1", other.as_deref()).unwrap();
    let full = guard.enter_as(taken.as_deref_mut(), &text("alice"), 0);
    assert_eq!(full.unwrap_err(), Denied::UserFull);
    guard.enter_as(other.as_deref_mut(), &text("bob"), 0).unwrap();
    let mut taken = come_to(&guard, 0, "y", "10.0.0.1", other.as_deref()).unwrap();
    let full = guard.enter_as(taken.as_deref_mut(), &text("alice"), 0);
    assert_eq!(full.unwrap_err(), Denied::UserFull);
}
