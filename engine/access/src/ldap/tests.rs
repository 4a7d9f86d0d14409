//! A real directory, and a desk that asks it.

use petrel_proto::ReasonCode;
use petrel_shard::{Question, Verdict};

use super::*;
use crate::back_end::{BackEnd, Kind};
use crate::testing::programs::{Slapd, free_port, pass_over};
use crate::testing::{
    BAD, UNAVAILABLE, ask, next, outside, passwords, question, start, start_with, written,
};
use crate::{Answer, Check, Settings, Terms};

/// Some people; the last two have one mail address.
const ENTRIES: &str = "
dn: dc=example
objectClass: dcObject
objectClass: organization
dc: example
o: example

dn: ou=people,dc=example
objectClass: organizationalUnit
ou: people

dn: cn=petrel,dc=example
objectClass: person
cn: petrel
sn: petrel
userPassword: s3cret

dn: uid=alice,ou=people,dc=example
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
title: staff
title: cn=night,ou=groups,dc=example
mail: alice@example
userPassword: a

dn: uid=a\\2Cb\\2Bc *(x)\\5C,ou=people,dc=example
objectClass: inetOrgPerson
uid: a,b+c *(x)\\
cn: Odd
sn: O
mail: both@example
userPassword: odd

dn: uid=carol,ou=people,dc=example
objectClass: inetOrgPerson
uid: carol
cn: Carol
sn: C
mail: both@example
";

const ODD: &str = "a,b+c *(x)\\";

fn directory(port: u16, find: Find) -> Directory {
    Directory {
        url: format!("ldap://127.0.0.1:{port}"),
        starttls: false,
        find,
        groups_attribute: Some("title".to_owned()),
        ca: None,
        connect_timeout_ms: 60_000,
        plaintext: false,
    }
}

fn by_name() -> Find {
    Find::Name("uid=%u,ou=people,dc=example".to_owned())
}

fn by_search(filter: &str, password: &str) -> Find {
    Find::Search {
        base: "ou=people,dc=example".to_owned(),
        filter: filter.to_owned(),
        as_whom: Some(("cn=petrel,dc=example".to_owned(), password.to_owned())),
    }
}

fn check(directory: Directory) -> Check {
    let kind = Kind::Ldap(Ldap::new(directory).unwrap());
    let terms = Terms { timeout_ms: 60_000, ..Terms::default() };
    Check::Asks(Arc::new(BackEnd::new("dir".to_owned(), terms, kind)))
}

fn of(user: &str, password: &str) -> Question {
    question(1, 0, Some(user), Some(password))
}

fn is(user: &str) -> Result<String, ReasonCode> {
    Ok(user.to_owned())
}

#[test]
fn a_real_directory_says_whose_password_it_is() {
    let slapd = match Slapd::start(ENTRIES) {
        Ok(slapd) => slapd,
        Err(why) => return pass_over(&why),
    };
    users_bind(&slapd);
    groups_are_taken_as_they_stand(&slapd);
    a_bind_without_a_password_is_none(&slapd);
    over_tls_its_certificate_is_checked(&slapd);
    what_is_wrong_is_a_failure(&slapd);
}

fn users_bind(slapd: &Slapd) {
    for (find, unknown) in [
        // By name nobody can tell.
        (by_name(), BAD),
        (by_search("(uid=%u)", "s3cret"), is("erin")),
        (by_search("(&(objectClass=person)(|(uid=%u)(cn=%u)))", "s3cret"), is("erin")),
    ] {
        let chain = vec![check(directory(slapd.port, find)), passwords(&[("erin", "e")])];
        let (office, mut desk) = start(Settings::default(), vec![chain]);
        for (user, password, said) in [
            ("alice", "a", is("alice")),
            ("alice", "b", BAD),
            ("alice", "", BAD),
            (ODD, "odd", is(ODD)),
            (ODD, "x", BAD),
            // What would mean something, were it not escaped.
            ("al*", "a", BAD),
            ("*", "a", BAD),
            ("alice)(uid=*", "a", BAD),
            ("alice,ou=people,dc=example", "a", BAD),
            ("alice+cn=Alice", "a", BAD),
            ("x)(|(uid=alice", "a", BAD),
            ("", "a", BAD),
            // The directory takes these for the same name, and rules would not.
            ("ALICE", "a", BAD),
            (" alice", "a", BAD),
            ("alice ", "a", BAD),
            ("al\u{ad}ice", "a", BAD),
            // So long that a directory ends the connection, which would count against it.
            (&"\"".repeat(65_535), "a", BAD),
            // She has no password.
            ("carol", "x", BAD),
            ("carol", "", BAD),
            ("erin", "e", unknown),
        ] {
            assert_eq!(ask(&mut desk, 0, of(user, password)), (false, said), "{user} {password}");
        }
        drop(desk);
        office.stop();
    }
}

fn groups_are_taken_as_they_stand(slapd: &Slapd) {
    for find in [by_name(), by_search("(uid=%u)", "s3cret")] {
        let chain = vec![check(directory(slapd.port, find))];
        let (office, mut desk) = start(Settings::default(), vec![chain]);
        assert!(desk.ask(0, of("alice", "a")).is_none());
        let (
            _,
            Answer::Verdict(crate::Finding {
                verdict: Verdict::Accept { identity: Some(who), .. },
                ..
            }),
        ) = next(&mut desk, 0)
        else {
            panic!("it is let in");
        };
        let mut groups: Vec<_> = who.groups.iter().map(Text::as_str).collect();
        groups.sort_unstable();
        assert_eq!(groups, ["cn=night,ou=groups,dc=example", "staff"]);
        drop(desk);
        office.stop();
    }
}

/// The directory takes it for a bind as nobody, and says that it succeeds.
fn a_bind_without_a_password_is_none(slapd: &Slapd) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory_there = Ldap::new(directory(slapd.port, by_name())).unwrap();
    let code = runtime.block_on(async {
        let mut talk = directory_there.connect().await.unwrap();
        talk.bind("uid=alice,ou=people,dc=example", "").await.unwrap().code
    });
    assert_eq!(code, 0, "the trap is there");
    let (office, mut desk) =
        start(Settings::default(), vec![vec![check(directory(slapd.port, by_name()))]]);
    assert_eq!(ask(&mut desk, 0, of("alice", "")), (false, BAD));
    drop(desk);
    office.stop();
}

fn over_tls_its_certificate_is_checked(slapd: &Slapd) {
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let (ldap, ldaps) = (slapd.port, slapd.tls_port);
    for (url, starttls, ca, said) in [
        (format!("ldap://localhost:{ldap}"), true, &slapd.ca, is("alice")),
        (format!("ldap://localhost:{ldap}"), true, &other, UNAVAILABLE),
        (format!("ldaps://localhost:{ldaps}"), false, &slapd.ca, is("alice")),
        (format!("ldaps://localhost:{ldaps}"), false, &other, UNAVAILABLE),
        (format!("ldaps://127.0.0.1:{ldaps}"), false, &slapd.ca, UNAVAILABLE),
    ] {
        let ca = Some(ca.clone());
        let there = Directory { url, starttls, ca, ..directory(0, by_name()) };
        let (outside, lines) = outside();
        let (office, mut desk) = start_with(Settings::default(), vec![vec![check(there)]], outside);
        assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, said), "{}", written(&lines));
        drop(desk);
        office.stop();
    }
}

fn what_is_wrong_is_a_failure(slapd: &Slapd) {
    let nowhere = Find::Search {
        base: "ou=nowhere,dc=example".to_owned(),
        filter: "(uid=%u)".to_owned(),
        as_whom: Some(("cn=petrel,dc=example".to_owned(), "s3cret".to_owned())),
    };
    let both = by_search("(|(uid=%u)(mail=both@example))", "s3cret");
    for (port, find, why) in [
        (slapd.port, by_search("(uid=%u)", "wr0ng"), "the name or the password that Petrel"),
        (slapd.port, both, "finds several entries"),
        (slapd.port, nowhere, "it refuses the search with result code 32"),
        (free_port(), by_name(), "refused"),
    ] {
        let (outside, lines) = outside();
        let chain = vec![check(directory(port, find))];
        let (office, mut desk) = start_with(Settings::default(), vec![chain], outside);
        for _ in 0..2 {
            assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, UNAVAILABLE), "{why}");
        }
        drop(desk);
        office.stop();
        let written = written(&lines);
        assert!(written.contains(why) && !written.contains("wr0ng"), "{why}\n{written}");
    }
}

#[test]
fn an_empty_password_is_refused_without_asking() {
    // Nobody is there who could be asked.
    let chain = vec![check(directory(free_port(), by_name()))];
    let (office, mut desk) = start(Settings::default(), vec![chain]);
    assert_eq!(ask(&mut desk, 0, of("alice", "")), (false, BAD));
    assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, UNAVAILABLE));
    drop(desk);
    office.stop();
}

#[test]
fn where_a_name_stands_is_read_from_the_template() {
    let all = |template: &str, between: &[char]| -> Vec<_> {
        let all = spellings(template, between).into_iter();
        all.map(|it| format!("{} {}%{}", it.attribute, it.before, it.behind)).collect()
    };
    assert_eq!(all("uid=%u,ou=people,dc=example", &[',', '+']), ["uid %"]);
    assert_eq!(all("cn=x + mail=%u@example.org,dc=example", &[',', '+']), ["mail %@example.org"]);
    assert_eq!(all("%u@example.org", &[',', '+']), [""; 0]);
    let filter = "(&(objectClass=person)(|(uid=%u)(cn:caseExactMatch:=Dr. %u)))";
    assert_eq!(all(filter, &['(', ')']), ["uid %", "cn Dr. %"]);
    let starred = directory(389, by_search("(uid=*%u)", "s3cret"));
    assert!(Ldap::new(starred).is_err_and(|why| why.contains("a * beside %u")));
}

#[test]
fn names_and_filters_are_escaped() {
    for (user, name) in [
        ("alice", "uid=alice,dc=x"),
        ("a,b", "uid=a\\2cb,dc=x"),
        ("a=b+c", "uid=a\\3db\\2bc,dc=x"),
        (" #", "uid=\\20#,dc=x"),
        ("# ", "uid=\\23\\20,dc=x"),
        ("a\\b", "uid=a\\5cb,dc=x"),
        ("*)(x=*", "uid=*)(x\\3d*,dc=x"),
        ("\"<;>", "uid=\\22\\3c\\3b\\3e,dc=x"),
        ("ü", "uid=ü,dc=x"),
        ("%u", "uid=%u,dc=x"),
    ] {
        assert_eq!(name_of("uid=%u,dc=x", user), name, "{user}");
        // Whatever it is, it is held against one attribute, and as it stands.
        let length = user.len() as u8;
        let wanted = [&[0xa3, length + 7, 4, 3], &b"uid"[..], &[4, length], user.as_bytes()];
        assert_eq!(filter_of("(uid=%u)", user), Some(wanted.concat()), "{user}");
    }
    assert_eq!(filter_of("(objectClass=*)", "").as_deref(), Some(EVERY_ENTRY));
}

proptest::proptest! {
    #[test]
    fn whatever_a_user_is_called_is_one_value_of_a_filter(user in "[\\PC*()\\\\\u{1}]{0,40}") {
        let value = [&[4, user.len() as u8], user.as_bytes()].concat();
        let filter = filter_of("(uid=%u)", &user);
        // An empty one is none, and is never asked for.
        let is_so = filter.is_some_and(|filter| user.is_empty() || filter.ends_with(&value));
        proptest::prop_assert!(is_so || user.len() > 127);
    }
}

/// Answers of which a library for directories has panicked, which would end the broker.
#[test]
fn a_directory_that_sends_nonsense_is_a_failure() {
    use std::io::{Read as _, Write as _};
    let cut_off: [&[u8]; 6] = [
        b"\x30\x00",
        b"\x30\x02\x02\x00",
        b"\x30\x05\x02\x01\x01\x61\x00",
        b"\x30\x08\x02\x01\x01\x61\x03\x0a\x01\x00",
        // An entry, and the end of a search, for a bind.
        b"\x30\x0c\x02\x01\x01\x64\x07\x04\x01\x61\x30\x02\x30\x00",
        b"\x30\x0c\x02\x01\x01\x65\x07\x0a\x01\x00\x04\x00\x04\x00",
    ];
    for (answer, starttls) in cut_off.iter().flat_map(|it| [(*it, false), (*it, true)]) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            stream.write_all(answer).unwrap();
            let _ = stream.read(&mut [0; 512]);
        });
        let there = Directory { starttls, ..directory(port, by_name()) };
        let (office, mut desk) = start(Settings::default(), vec![vec![check(there)]]);
        assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, UNAVAILABLE), "{answer:?}");
        drop(desk);
        office.stop();
        thread.join().unwrap();
    }
}
