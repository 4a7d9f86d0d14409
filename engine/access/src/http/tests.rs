//! A desk, an office and a server that answers as the test wants it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use petrel_proto::ReasonCode;
use petrel_shard::{Asks, Question, Verdict};
use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::back_end::Kind;
use crate::breaker::Limits;
use crate::testing::{
    BAD, Gate, Lines, Reply, Server, UNAVAILABLE, ask, chains, next, ok, outside, passwords,
    question, start, start_with, until, written,
};
use crate::{Answer, BackEnd, Check, Desk, Office, OnFailure, Outside, Settings, Terms};

const ALLOW: &str = r#"{"result": "allow"}"#;

fn address(url: &str) -> Address {
    let headers = vec![("X-Api-Key".to_owned(), "s3cret-key".to_owned())];
    let url = url.to_owned();
    Address { url, headers, ca: None, connect_timeout_ms: 60_000, plaintext: false }
}

fn check_at(address: &Address, terms: Terms) -> Check {
    let http = Http::new(address, terms.in_flight_max).unwrap();
    Check::Asks(Arc::new(BackEnd::new("web".to_owned(), terms, Kind::Http(http))))
}

fn check(server: &Server, terms: Terms) -> Check {
    check_at(&address(&server.url()), terms)
}

/// Patient enough for a busy machine.
fn terms() -> Terms {
    Terms { timeout_ms: 60_000, ..Terms::default() }
}

fn alice() -> Question {
    question(1, 0, Some("alice"), Some("s3cret"))
}

fn end(desk: Desk, office: Office) {
    drop(desk);
    office.stop();
}

#[test]
fn a_program_is_told_who_asks_and_says_who_that_is() {
    let server = Server::start(|_| {
        ok(r#"{"result": "allow", "user": "Alice", "groups": ["staff"], "expires_s": 60,
               "rights": {"publish": ["up/%u"]}, "known_s": 10}"#)
    });
    let (office, mut desk) = start(Settings::default(), vec![vec![check(&server, terms())]]);
    assert!(desk.ask(1000, alice()).is_none());
    let (
        _,
        Answer::Verdict(crate::Finding {
            verdict: Verdict::Accept { identity: Some(who), .. },
            ..
        }),
    ) = next(&mut desk, 1000)
    else {
        panic!("it is let in");
    };
    assert_eq!((who.user.as_str(), who.groups.len(), who.ends_at_ms), ("Alice", 1, 61_000));
    assert!(who.own.is_some());
    let request = server.seen().remove(0);
    assert!(request.head.starts_with("POST /ask?key=hidden HTTP/1.1\r\n"), "{}", request.head);
    assert!(request.head.contains("x-api-key: s3cret-key\r\n"), "{}", request.head);
    assert_eq!(
        request.json(),
        json!({"user": "alice", "password": "s3cret", "client_id": "c", "listener": "door",
               "address": "127.0.0.1"})
    );
    // Not longer than it says.
    assert!(desk.ask(10_999, alice()).is_some() && desk.ask(11_000, alice()).is_none());
    next(&mut desk, 11_000);
    end(desk, office);
}

/// What docs/CONFIGURATION.md shows has the keys of what is asked, each with a value of the same type.
#[test]
fn what_is_shown_is_asked() {
    let page = include_str!("../../../../docs/CONFIGURATION.md");
    let (_, rest) = page.split_once("```json\n").unwrap();
    let (shown, rest) = rest.split_once("```").unwrap();
    assert!(!rest.contains("```json"), "one body is shown");
    let shown: Value = serde_json::from_str(shown).unwrap();
    let server = Server::start(|_| ok(ALLOW));
    let (office, mut desk) = start(Settings::default(), vec![vec![check(&server, terms())]]);
    assert!(desk.ask(1000, alice()).is_none());
    next(&mut desk, 1000);
    let asked = server.seen().remove(0).json();
    let types = |value: &Value| -> Vec<_> {
        let pairs = value.as_object().unwrap().iter();
        pairs.map(|(key, value)| (key.clone(), std::mem::discriminant(value))).collect()
    };
    assert_eq!(types(&shown), types(&asked));
    end(desk, office);
}

#[test]
fn words_for_no_and_for_no_opinion_and_what_is_known_by_them() {
    let server = Server::start(|request| match request.json()["user"].as_str() {
        Some("alice") => ok(ALLOW),
        Some("bob") => ok(r#"{"result": "next"}"#),
        Some("eve") => ok(r#"{"result": "next", "known_s": 0}"#),
        _ => ok(r#"{"result": "deny"}"#),
    });
    let chain =
        vec![check(&server, terms()), passwords(&[("bob", "b"), ("carol", "c"), ("eve", "e")])];
    let (office, mut desk) = start(Settings::default(), vec![chain]);
    for (user, password, said) in [
        ("alice", "x", Ok("alice".to_owned())),
        ("bob", "b", Ok("bob".to_owned())),
        ("bob", "x", BAD),
        ("carol", "c", BAD),
    ] {
        for known in [false, true] {
            let asked = question(1, 0, Some(user), Some(password));
            assert_eq!(ask(&mut desk, 0, asked), (known, said.clone()), "{user} {password}");
        }
    }
    assert_eq!(server.seen().len(), 4);
    // It has no opinion, and wants to be asked again.
    for _ in 0..2 {
        let asked = question(1, 0, Some("eve"), Some("e"));
        assert_eq!(ask(&mut desk, 0, asked), (false, Ok("eve".to_owned())));
    }
    // The program may look at the client identifier, so what it says is known for that one.
    let mut other = question(1, 0, Some("alice"), Some("x"));
    other.client_id = Text::try_from("d").unwrap();
    assert!(!ask(&mut desk, 0, other).0);
    // And at the address.
    let mut other = question(1, 0, Some("alice"), Some("x"));
    let Asks::Credentials(credentials) = &mut other.asks else { panic!() };
    credentials.origin.address = "127.0.0.2:9".parse().unwrap();
    assert!(!ask(&mut desk, 0, other).0);
    // A password that is no text comes as such, and none at all as well.
    let mut other = question(1, 0, None, Some("x"));
    let Asks::Credentials(credentials) = &mut other.asks else { panic!() };
    credentials.password = Some(Bytes::from_static(b"\xff\0"));
    assert_eq!(ask(&mut desk, 0, other).1, BAD);
    assert_eq!(ask(&mut desk, 0, question(1, 0, None, None)).1, BAD);
    let seen: Vec<_> = server.seen().iter().rev().map(|it| it.json()).take(2).collect();
    assert_eq!(seen[1]["password_base64"], "/wA=");
    assert!(seen[0]["user"].is_null() && seen[0]["password"].is_null());
    end(desk, office);
}

/// What becomes of a client whose back end answers so, twice; and the lines of it.
fn fails(reply: impl Fn() -> Reply + Send + Sync + 'static, timeout_ms: u32) -> String {
    let server = Server::start(move |_| reply());
    let terms = Terms { timeout_ms, ..terms() };
    let (outside, lines) = outside();
    let (office, mut desk) =
        start_with(Settings::default(), vec![vec![check(&server, terms)]], outside);
    for times in 1..=2 {
        assert_eq!(ask(&mut desk, 0, alice()), (false, UNAVAILABLE), "a failure is not kept");
        assert_eq!(server.seen().len(), times, "nothing else is asked");
    }
    end(desk, office);
    let written = written(&lines);
    assert!(!written.contains("s3cret") && !written.contains("hidden"), "{written}");
    assert_eq!(written.lines().count(), 1, "{written}");
    written
}

#[test]
fn whatever_is_no_answer_is_a_failure_and_no_denial() {
    for (status, body, why) in [
        (500, ALLOW, "it answers with 500"),
        (503, "", "it answers with 503"),
        (401, r#"{"result": "deny"}"#, "it answers with 401"),
        (204, "", "it answers with 204"),
        (302, "", "it redirects (302 Found), which is not followed"),
        (307, "", "it redirects (307 Temporary Redirect)"),
        (200, "", "it is no JSON object"),
        (200, "<html>", "it is no JSON object"),
        (200, "[]", "it is no JSON object"),
        (200, "{}", "`result` must be"),
        (
            200,
            r#"{"result": "deny", "result": "allow"}"#,
            "it is no JSON object, or has a key twice",
        ),
        (200, r#"{"result": true}"#, "`result` must be"),
        (200, r#"{"result": "allowed"}"#, "`result` must be"),
        (200, r#"{"result": "allow", "right": {}}"#, "it has \"right\", which means nothing"),
        (200, r#"{"result": "allow", "user": 7}"#, "`user` must be"),
        (200, r#"{"result": "allow", "user": ""}"#, "`user` must be"),
        (200, r#"{"result": "allow", "user": "a\u0000"}"#, "`user` must be"),
        (200, r#"{"result": "allow", "groups": "staff"}"#, "`groups` must be"),
        (200, r#"{"result": "allow", "rights": {"publish": ["a/#/b"]}}"#, "`rights` must be"),
        (200, r#"{"result": "allow", "expires_s": -1}"#, "`expires_s` must be"),
        (200, r#"{"result": "allow", "known_s": "1"}"#, "`known_s` must be"),
    ] {
        let written = fails(move || Reply::Status(status, body.to_owned()), 60_000);
        assert!(written.contains(why), "{status} {body}: {written}");
    }
    let long = format!("{{\"result\": \"allow\", \"user\": \"{}\"}}", "x".repeat(ANSWER_BYTES_MAX));
    let written = fails(move || ok(&long), 60_000);
    assert!(written.contains("its answer is longer than 65536 bytes"), "{written}");
    let endless = || {
        let mut head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let chunk = [b"1000\r\n".to_vec(), vec![b' '; 0x1000], b"\r\n".to_vec()].concat();
        (0..100).for_each(|_| head.extend(&chunk));
        Reply::Raw(head)
    };
    assert!(fails(endless, 60_000).contains("longer than 65536 bytes"));
    assert!(fails(|| Reply::Raw(b"\x16\x03\x01\0\0garbage".to_vec()), 60_000).contains("failed"));
    assert!(fails(|| Reply::Raw(Vec::new()), 60_000).contains("failed"));
    let torn = || Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"resu".to_vec());
    assert!(fails(torn, 60_000).contains("failed"));
    assert!(fails(|| Reply::Nothing, 50).contains("there was no answer within 50 ms"));
    let line = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(10 * HEAD_BYTES_MAX);
    assert!(fails(move || Reply::Raw(line.clone().into_bytes()), 60_000).contains("failed"));
}

#[test]
fn nobody_at_the_address_is_a_failure() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (outside, lines) = outside();
    let there = address(&format!("http://{closed}/"));
    let (office, mut desk) =
        start_with(Settings::default(), vec![vec![check_at(&there, terms())]], outside);
    assert_eq!(ask(&mut desk, 0, alice()), (false, UNAVAILABLE));
    end(desk, office);
    let written = written(&lines);
    assert!(written.contains("\"web\" failed") && written.contains("refused"), "{written}");
}

/// A server whose answers have this status; a broker with these terms that asks it, and then knows bob.
fn with_status(status: &Arc<AtomicU16>, terms: Terms) -> (Server, Office, Desk, Outside, Lines) {
    let status = Arc::clone(status);
    let server =
        Server::start(move |_| Reply::Status(status.load(Ordering::Acquire), ALLOW.to_owned()));
    let (outside, lines) = outside();
    let chain = vec![check(&server, terms), passwords(&[("bob", "b")])];
    let (office, desk) = start_with(Settings::default(), vec![chain], outside.clone());
    (server, office, desk, outside, lines)
}

#[test]
fn who_fails_too_often_is_left_alone_and_then_tried_again() {
    let status = Arc::new(AtomicU16::new(500));
    let breaker = Limits { failures: 3, pause_ms: 10_000 };
    let (server, office, mut desk, outside, lines) =
        with_status(&status, Terms { breaker, ..terms() });
    for _ in 0..10 {
        assert_eq!(ask(&mut desk, 0, alice()), (false, UNAVAILABLE));
    }
    assert_eq!(server.seen().len(), 3);
    outside.clock.put_forward(10_000);
    for _ in 0..10 {
        assert_eq!(ask(&mut desk, 0, alice()), (false, UNAVAILABLE));
    }
    assert_eq!(server.seen().len(), 4, "one has found out that it still fails");
    status.store(200, Ordering::Release);
    outside.clock.put_forward(19_999);
    assert_eq!(ask(&mut desk, 0, alice()), (false, UNAVAILABLE));
    outside.clock.put_forward(1);
    assert_eq!(ask(&mut desk, 0, alice()), (false, Ok("alice".to_owned())));
    assert_eq!(server.seen().len(), 5);
    end(desk, office);
    let written = written(&lines);
    let has = |text: &str| assert!(written.contains(text), "{text}: {written}");
    has("warn: authenticator \"web\" failed: it answers with 500");
    has("is left alone for 10000 ms; meanwhile clients that need it are refused");
    has("is left alone for 20000 ms");
    has("info: authenticator \"web\" answers again");
}

#[test]
fn the_configuration_says_what_a_failure_means() {
    let status = Arc::new(AtomicU16::new(500));
    let on_failure = OnFailure::Next;
    let (_server, office, mut desk, _, _) = with_status(&status, Terms { on_failure, ..terms() });
    let bob = |password| question(1, 0, Some("bob"), Some(password));
    for _ in 0..2 {
        assert_eq!(ask(&mut desk, 0, bob("b")), (false, Ok("bob".to_owned())));
        assert_eq!(ask(&mut desk, 0, bob("x")), (false, BAD));
        assert_eq!(ask(&mut desk, 0, alice()), (false, BAD), "not kept: it may be back");
    }
    status.store(200, Ordering::Release);
    end(desk, office);

    let status = Arc::new(AtomicU16::new(500));
    let on_failure = OnFailure::Allow;
    let (_server, office, mut desk, _, lines) =
        with_status(&status, Terms { on_failure, ..terms() });
    assert_eq!(ask(&mut desk, 0, alice()), (false, Ok("alice".to_owned())));
    assert_eq!(ask(&mut desk, 0, alice()), (false, Ok("alice".to_owned())), "not kept");
    assert_eq!(ask(&mut desk, 0, question(1, 0, None, None)), (false, UNAVAILABLE));
    end(desk, office);
    let written = written(&lines);
    assert!(written.starts_with("warn: authenticator \"web\" lets everybody in"), "{written}");
}

#[test]
fn a_chain_goes_to_and_fro() {
    let first = Server::start(|request| match request.json()["user"].as_str() {
        Some("web") => ok(ALLOW),
        Some("no") => ok(r#"{"result": "deny"}"#),
        _ => ok(r#"{"result": "next"}"#),
    });
    let last = Server::start(|request| match request.json()["user"].as_str() {
        Some("last") => ok(ALLOW),
        _ => ok(r#"{"result": "next"}"#),
    });
    let chain = vec![
        passwords(&[("early", "p")]),
        check(&first, terms()),
        passwords(&[("late", "p")]),
        check(&last, terms()),
    ];
    let (office, mut desk) = start(Settings::default(), vec![chain]);
    for (user, password, said, asked) in [
        ("early", "p", Ok("early".to_owned()), (0, 0)),
        ("early", "x", BAD, (0, 0)),
        ("web", "p", Ok("web".to_owned()), (1, 0)),
        ("no", "p", BAD, (2, 0)),
        ("late", "p", Ok("late".to_owned()), (3, 0)),
        ("late", "x", BAD, (4, 0)),
        ("last", "p", Ok("last".to_owned()), (5, 1)),
        ("nobody", "p", BAD, (6, 2)),
    ] {
        let (_, verdict) = ask(&mut desk, 0, question(1, 0, Some(user), Some(password)));
        assert_eq!(verdict, said, "{user} {password}");
        assert_eq!((first.seen().len(), last.seen().len()), asked, "{user} {password}");
    }
    end(desk, office);
}

/// Who is told no has cost what each file of the chain costs, whoever has said so.
#[test]
fn a_denial_takes_the_time_of_those_that_were_not_asked() {
    let server = Server::start(|_| ok(r#"{"result": "deny"}"#));
    let (before, after) = (passwords(&[("alice", "a")]), passwords(&[("bob", "b")]));
    let taken = |check: &Check| match check {
        Check::Passwords(passwords) => passwords.taken.load(Ordering::Acquire),
        _ => panic!("a file"),
    };
    let chain = vec![before.clone(), check(&server, terms()), after.clone()];
    let (office, mut desk) = start(Settings::default(), vec![chain]);
    // By the first file, and by the program.
    for (user, asked, times) in [("alice", 0, (0, 1)), ("carol", 1, (1, 2))] {
        assert_eq!(ask(&mut desk, 0, question(1, 0, Some(user), Some("x"))).1, BAD);
        assert_eq!((server.seen().len(), (taken(&before), taken(&after))), (asked, times));
    }
    end(desk, office);
}

#[test]
fn many_that_wait_for_a_slow_program_are_in_nobodys_way() {
    const CROWD: u32 = 20_000;
    let gate = Arc::new(Gate::default());
    let behind = Arc::clone(&gate);
    let server = Server::start(move |_| {
        behind.pass();
        ok(ALLOW)
    });
    let terms = Terms { in_flight_max: 4, ..terms() };
    let chain = vec![vec![check(&server, terms)], vec![passwords(&[("bob", "b")])]];
    let (office, mut desk) = start(Settings { threads: 1, ..Settings::default() }, chain);
    for index in 0..CROWD {
        let user = format!("user-{index}");
        assert!(desk.ask(0, question(index, 0, Some(&user), Some("x"))).is_none());
    }
    // Another listener's clients pass by.
    let bob = question(CROWD, 1, Some("bob"), Some("b"));
    assert_eq!(ask(&mut desk, 0, bob), (false, Ok("bob".to_owned())));
    until("four requests", || server.seen().len() == 4);
    assert!(desk.waiting() == CROWD as usize && !desk.has_mail(), "{desk:?}");
    gate.open();
    // Most of them have gone.
    let (mut accepted, mut gone) = (0, 0);
    until("all of them", || {
        match desk.next(0, |conn| conn.index % 100 == 0) {
            Some((_, Answer::Verdict(crate::Finding { verdict: Verdict::Accept { .. }, .. }))) => {
                accepted += 1
            }
            Some((_, Answer::Gone)) => gone += 1,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        accepted + gone == CROWD
    });
    // Those that were given away before are among them.
    assert!((200..=210).contains(&accepted), "{accepted}");
    assert!(server.most.load(Ordering::Acquire) <= 4);
    end(desk, office);
}

#[test]
fn what_replaced_checks_still_find_out_does_not_count() {
    let gate = Arc::new(Gate::default());
    let behind = Arc::clone(&gate);
    let old = Server::start(move |_| {
        behind.pass();
        ok(ALLOW)
    });
    let new = Server::start(|_| ok(r#"{"result": "deny"}"#));
    let (office, mut desk) = start(Settings::default(), vec![vec![check(&old, terms())]]);
    assert!(desk.ask(0, alice()).is_none() && desk.next(0, |_| true).is_none());
    until("a request", || old.seen().len() == 1);
    office.set_checks(chains(vec![vec![check(&new, terms())]])).unwrap();
    gate.open();
    let (_, Answer::Verdict(crate::Finding { verdict, .. })) = next(&mut desk, 0) else {
        panic!("it is there")
    };
    let by_the_new = Verdict::Refuse { reason: ReasonCode::BadUserNameOrPassword };
    assert_eq!(format!("{verdict:?}"), format!("{by_the_new:?}"));
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
    end(desk, office);
}

#[test]
fn nobody_waits_for_a_program_when_the_broker_ends() {
    let server = Server::start(|_| Reply::Nothing);
    let (office, mut desk) = start(Settings::default(), vec![vec![check(&server, terms())]]);
    assert!(desk.ask(0, alice()).is_none() && desk.next(0, |_| true).is_none());
    until("a request", || server.seen().len() == 1);
    // Its time-out is a minute; that this ends before is for whoever runs the tests to see.
    end(desk, office);
}

#[test]
fn over_tls_only_whom_the_authority_knows_is_told() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let reply = move |_: &_| {
        count.fetch_add(1, Ordering::AcqRel);
        ok(ALLOW)
    };
    let server = Server::serving(reply, Some(Arc::new(config)));
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let port = server.address.port();
    for (ca, host, said, asked) in [
        (made.cert.pem(), "localhost", Ok("alice".to_owned()), 1),
        (other.cert.pem(), "localhost", UNAVAILABLE, 1),
        (made.cert.pem(), "127.0.0.1", UNAVAILABLE, 1),
    ] {
        let there = Address { ca: Some(ca), ..address(&format!("https://{host}:{port}/")) };
        let (office, mut desk) = start(Settings::default(), vec![vec![check_at(&there, terms())]]);
        assert_eq!(ask(&mut desk, 0, alice()), (false, said), "{host}");
        assert_eq!(served.load(Ordering::Acquire), asked);
        end(desk, office);
    }
}

#[test]
fn addresses_and_headers_that_are_wrong_say_why() {
    for (url, why) in [
        ("", "no URL"),
        ("/ask", "no host"),
        ("ftp://localhost/", "must begin with"),
        ("http://example.org/", "would not be encrypted"),
        ("http://127.0.0.1.example.org/", "would not be encrypted"),
        ("https://me:s3cret@localhost/", "a user or a password"),
    ] {
        let error = Http::new(&address(url), 1).unwrap_err();
        assert!(error.contains(why) && !error.contains("s3cret"), "{url}: {error}");
    }
    assert!(Http::new(&Address { plaintext: true, ..address("http://example.org/") }, 1).is_ok());
    for (name, value, why) in [
        ("a b", "x", "has a name that no header"),
        ("a", "s3cret\r\nb: c", "has a value that no header"),
        ("Host", "x", "is made by Petrel itself"),
    ] {
        let headers = vec![(name.to_owned(), value.to_owned())];
        let there = Address { headers, ..address("http://localhost/") };
        let error = Http::new(&there, 1).unwrap_err();
        assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
    }
    let shown = format!("{:?}", address("https://localhost/?key=hidden"));
    assert!(!shown.contains("s3cret") && !shown.contains("hidden"), "{shown}");
}
