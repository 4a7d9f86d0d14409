//! A real database, and a desk that asks it.

use petrel_shard::{Question, Verdict};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::back_end::{BackEnd, Kind};
use crate::testing::programs::{Postgres, free_port, pass_over};
use crate::testing::{
    BAD, UNAVAILABLE, ask, next, outside, passwords, question, start, start_with, until, written,
};
use crate::{Answer, Check, Settings, Terms};
use std::sync::Arc;

const USERS: &str = "
    CREATE USER petrel PASSWORD 's3cret';
    CREATE TABLE users (name text PRIMARY KEY, hash text, groups text[], words varchar(99));
    GRANT SELECT ON users TO petrel;
";

/// The database as its administrator sees it.
struct Admin {
    runtime: Runtime,
    client: Client,
}

impl Admin {
    fn new(postgres: &Postgres) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("postgresql://root:root@127.0.0.1:{}/postgres", postgres.port);
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client
        });
        let admin = Self { runtime, client };
        admin.execute(USERS);
        let cheap = |password: &[u8]| hash(password, Cost { memory_kib: 64, passes: 1 }).unwrap();
        for (name, hash, groups, words) in [
            ("alice", Some(cheap(b"a")), Some(vec!["staff", "night"]), Some("staff, night")),
            ("bob", Some(MOSQUITTO.to_owned()), None, None),
            ("carol", None, None, None),
            ("dave", Some("hunter2".to_owned()), None, None),
            ("x'; DROP TABLE users; --", Some(cheap(b"x")), Some(vec![]), Some("")),
        ] {
            let insert = "INSERT INTO users VALUES ($1, $2, $3, $4)";
            let row: [&(dyn ToSql + Sync); 4] = [&name, &hash, &groups, &words];
            admin.runtime.block_on(admin.client.execute(insert, &row)).unwrap();
        }
        admin
    }

    fn execute(&self, text: &str) {
        self.runtime.block_on(self.client.batch_execute(text)).unwrap();
    }

    /// What a query says that gives one number.
    fn number(&self, text: &str) -> i64 {
        self.runtime.block_on(self.client.query_one(text, &[])).unwrap().get(0)
    }
}

/// By `mosquitto_passwd`, of "lamp".
const MOSQUITTO: &str = "$7$101$h+5LcsMPsNX646Td$IRfINSD1zwBcvumTRd6Cv+glWkqEvbYuWNRvCD+cucFNx+YM95Mz9vm52+wTQL4uq40HHS+p6YN71kw/8ySkrA==";

const BY_NAME: &str = "SELECT hash, groups FROM users WHERE name = $1";

fn database(port: u16, query: &str) -> Database {
    Database {
        url: format!("postgresql://petrel@127.0.0.1:{port}/postgres"),
        password: Some("s3cret".to_owned()),
        query: query.to_owned(),
        tls: false,
        ca: None,
        connect_timeout_ms: 60_000,
        timeout_ms: 60_000,
        plaintext: false,
    }
}

fn check(database: &Database, terms: Terms) -> Check {
    let kind = Kind::Postgresql(Postgresql::new(database).unwrap());
    Check::Asks(Arc::new(BackEnd::new("db".to_owned(), terms, kind)))
}

fn terms() -> Terms {
    Terms { timeout_ms: 60_000, ..Terms::default() }
}

fn of(user: &str, password: &str) -> Question {
    question(1, 0, Some(user), Some(password))
}

fn is(user: &str) -> Result<String, petrel_proto::ReasonCode> {
    Ok(user.to_owned())
}

/// Whom the database does not know costs what those cost whom it knows, also where all hashes are cheap.
#[test]
fn the_dearest_hash_is_one_that_was_seen() {
    let database = Postgresql::new(&database(1, BY_NAME)).unwrap();
    let cost = || lock(&database.dearest).as_ref().map(Hash::cost);
    let argon2 = |kib| hash(b"x", Cost { memory_kib: kib, passes: 1 }).unwrap();
    let hashes = [MOSQUITTO, &argon2(128), &argon2(64)].map(|text| Hash::parse(text).unwrap());
    let costs: Vec<_> = hashes.iter().map(Hash::cost).collect();
    assert_eq!(cost(), None);
    for (hash, then) in hashes.iter().zip([costs[0], costs[1], costs[1]]) {
        database.remember(hash);
        assert_eq!(cost(), Some(then));
    }
}

#[test]
fn a_database_that_sends_nonsense_is_a_failure() {
    use std::io::{Read as _, Write as _};
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"",
        b"R\0\0\0\0",
        b"R\0\0\0\x04",
        b"R\0\0\0\x08\0\0\0\x0a",
        b"R\0\0\0\x06\0\0",
        b"E\0\0\0\x05S",
        b"E\0\0\0\x06S\xff",
        b"S\0\0\0\x05x",
        b"K\0\0\0\x05x",
        b"T\0\0\0\x06\xff\xff",
        b"D\0\0\0\x06\xff\xff",
        b"Z\0\0\0\x04",
        b"\0\0\0\0\0",
    ] {
        for begins in [&b""[..], WELCOME] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let says = [begins, answer].concat();
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 512]);
                stream.write_all(&says).unwrap();
            });
            let chain = vec![check(&database(port, BY_NAME), terms())];
            let (office, mut desk) = start(Settings::default(), vec![chain]);
            assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, UNAVAILABLE), "{answer:?}");
            drop(desk);
            office.stop();
            thread.join().unwrap();
        }
    }
}

#[test]
fn a_real_database_says_whose_password_it_is() {
    let postgres = match Postgres::start() {
        Ok(postgres) => postgres,
        Err(why) => return pass_over(&why),
    };
    let admin = Admin::new(&postgres);
    hashes_are_held_against_passwords(&postgres);
    a_name_that_is_no_data_is_nobody(&postgres);
    queries_look_at_what_they_want(&postgres);
    connections_are_few_and_come_back(&postgres, &admin);
    over_tls_its_certificate_is_checked(&postgres);
    what_is_wrong_is_a_failure(&postgres, &admin);
}

fn hashes_are_held_against_passwords(postgres: &Postgres) {
    let (outside, lines) = outside();
    let chain =
        vec![check(&database(postgres.port, BY_NAME), terms()), passwords(&[("erin", "e")])];
    let (office, mut desk) = start_with(Settings::default(), vec![chain], outside);
    for (user, password, said) in [
        ("alice", "a", is("alice")),
        ("alice", "b", BAD),
        ("alice", "", BAD),
        ("bob", "lamp", is("bob")),
        ("bob", "lamP", BAD),
        ("carol", "", BAD),
        ("carol", "x", BAD),
        ("dave", "hunter2", BAD),
        ("x'; DROP TABLE users; --", "x", is("x'; DROP TABLE users; --")),
        ("' OR '1'='1", "a", BAD),
        ("erin", "e", is("erin")),
        ("erin", "x", BAD),
        ("nobody", "x", BAD),
    ] {
        for known in [false, true] {
            assert_eq!(ask(&mut desk, 0, of(user, password)), (known, said.clone()), "{user}");
        }
    }
    assert_eq!(ask(&mut desk, 0, question(1, 0, Some("alice"), None)).1, BAD);
    drop(desk);
    office.stop();
    let written = written(&lines);
    assert!(written.contains("the hash of a user cannot be used: the hash is none"), "{written}");
    assert!(!written.contains("hunter2") && !written.contains("failed"), "{written}");
}

fn queries_look_at_what_they_want(postgres: &Postgres) {
    let as_words = BY_NAME.replace("groups", "words");
    for query in [BY_NAME, &as_words] {
        let chain = vec![check(&database(postgres.port, query), terms())];
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
        let groups: Vec<_> = who.groups.iter().map(Text::as_str).collect();
        assert_eq!(groups, ["staff", "night"]);
        drop(desk);
        office.stop();
    }
    // The client identifier of a question is "c".
    for (id, said) in [("c", is("alice")), ("d", BAD)] {
        let query = format!("SELECT hash FROM users WHERE name = $1 AND $2::text = '{id}'");
        let chain = vec![check(&database(postgres.port, &query), terms())];
        let (office, mut desk) = start(Settings::default(), vec![chain]);
        assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, said));
        drop(desk);
        office.stop();
    }
}

const OURS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'petrel'";

/// What a client says can be no data for the query; that is nobody, and no fault of the database.
fn a_name_that_is_no_data_is_nobody(postgres: &Postgres) {
    let query = format!("{BY_NAME} AND 1 / (CASE WHEN $1 = 'zero' THEN 0 ELSE 1 END) = 1");
    let (outside, lines) = outside();
    let chain = vec![check(&database(postgres.port, &query), terms())];
    let (office, mut desk) = start_with(Settings::default(), vec![chain], outside);
    for number in 0..20 {
        let asked = of("zero", &number.to_string());
        assert_eq!(ask(&mut desk, 0, asked), (false, BAD));
    }
    assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, is("alice")));
    drop(desk);
    office.stop();
    let written = written(&lines);
    assert!(written.contains("was no data for the query (22012)"), "{written}");
    assert!(!written.contains("failed") && !written.contains("left alone"), "{written}");
}

fn connections_are_few_and_come_back(postgres: &Postgres, admin: &Admin) {
    until("the connections before have ended", || admin.number(OURS) == 0);
    let few = Terms { in_flight_max: 3, ..terms() };
    let settings = Settings { known_ms: 0, refused_ms: 0, ..Settings::default() };
    let chain = vec![check(&database(postgres.port, BY_NAME), few)];
    let (office, mut desk) = start(settings, vec![chain]);
    let mut said = 0;
    for index in 0..200 {
        assert!(desk.ask(0, question(index, 0, Some("bob"), Some("lamp"))).is_none());
    }
    while said < 200 {
        let (_, answer) = next(&mut desk, 0);
        assert!(
            matches!(
                answer,
                Answer::Verdict(crate::Finding { verdict: Verdict::Accept { .. }, .. })
            ),
            "{answer:?}"
        );
        said += 1;
    }
    assert!((1..=3).contains(&admin.number(OURS)));
    // The database ends them; the next client does not notice.
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'petrel'",
    );
    until("they have ended", || admin.number(OURS) == 0);
    assert_eq!(ask(&mut desk, 0, of("alice", "a")).1, is("alice"));
    drop(desk);
    office.stop();
    until("they end with the office", || admin.number(OURS) == 0);
}

fn over_tls_its_certificate_is_checked(postgres: &Postgres) {
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (host, ca, said) in [
        ("localhost", postgres.ca.clone(), is("alice")),
        ("localhost", other.cert.pem(), UNAVAILABLE),
        ("127.0.0.1", postgres.ca.clone(), UNAVAILABLE),
    ] {
        let url = format!("postgresql://petrel@{host}:{}/postgres", postgres.port);
        let there = Database { url, tls: true, ca: Some(ca), ..database(0, BY_NAME) };
        let (outside, lines) = outside();
        let (office, mut desk) =
            start_with(Settings::default(), vec![vec![check(&there, terms())]], outside);
        assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, said), "{}", written(&lines));
        drop(desk);
        office.stop();
    }
}

/// More rows than anybody should take.
const MANY: &str = "SELECT hash FROM (SELECT hash, generate_series(1, 100000000) FROM users \
                    WHERE name = $1) AS many";

fn what_is_wrong_is_a_failure(postgres: &Postgres, admin: &Admin) {
    let there = database(postgres.port, BY_NAME);
    let with_query = |query: &str| Database { query: query.to_owned(), ..there.clone() };
    let slow = "SELECT hash FROM users, pg_sleep(600) WHERE name = $1";
    let nobody = database(free_port(), BY_NAME);
    let timed = Terms { timeout_ms: 300, ..terms() };
    for (there, terms, why) in [
        (with_query(MANY), terms(), "gives several rows for one user"),
        (
            with_query("SELECT hash FROM nowhere WHERE name = $1"),
            terms(),
            "\"nowhere\" does not exist",
        ),
        (
            with_query("SELECT $1::text, $2::text, $3::text"),
            terms(),
            "has 3 parameters and 3 columns",
        ),
        (with_query("SELECT length(hash) FROM users WHERE name = $1"), terms(), "first column"),
        (with_query("SELECT hash, 7 FROM users WHERE name = $1"), terms(), "second column"),
        (with_query("SELEC $1"), terms(), "syntax error"),
        (
            Database { password: Some("wr0ng".to_owned()), ..there.clone() },
            terms(),
            "password authentication failed",
        ),
        (Database { password: None, ..there.clone() }, terms(), "password missing"),
        (nobody, terms(), "refused"),
        (Database { timeout_ms: 300, ..with_query(slow) }, timed, "300 ms"),
        (
            Database { timeout_ms: 100, ..with_query(slow) },
            terms(),
            "canceling statement due to statement timeout (57014)",
        ),
    ] {
        let (outside, lines) = outside();
        let (office, mut desk) =
            start_with(Settings::default(), vec![vec![check(&there, terms)]], outside);
        for _ in 0..2 {
            assert_eq!(ask(&mut desk, 0, of("alice", "a")), (false, UNAVAILABLE), "{why}");
        }
        drop(desk);
        office.stop();
        let written = written(&lines);
        let is_so = written.contains(why) || (why == "300 ms" && written.contains("timeout"));
        assert!(is_so, "{why}\n{written}");
        assert!(!written.contains("s3cret") && !written.contains("wr0ng"), "{written}");
    }
    until("no query goes on", || admin.number(OURS) == 0);
}
