//! What a broker answers over HTTP about itself.

#![cfg(feature = "admin")]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use common::{Client, PATIENCE, RUNTIMES, config, connect_packet, publish_packet, start};
use petrel_engine::auth::{AuthMethod, AuthMethods};
use petrel_engine::boot::Running;
use petrel_engine::config::AdminConfig;
use petrel_proto::{Packet, Qos, ReasonCode, Text, Version};
use petrel_shard::{Question, Verdict};

/// The status and the body of an answer.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: petrel\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// A broker with an admin interface, and its address.
fn with_admin(shards: u16, runtime: petrel_engine::config::RuntimeChoice) -> (Running, SocketAddr) {
    let mut config = config(shards, runtime);
    config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
    let broker = start(config);
    let address = broker.admin_address().expect("it listens");
    (broker, address)
}

/// All samples, by their names with labels.
fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics");
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, number) = line.rsplit_once(' ').expect("a number");
            (name.to_owned(), number.parse().expect("a number"))
        })
        .collect()
}

/// All samples whose names begin so, together.
fn sum(samples: &BTreeMap<String, f64>, beginning: &str) -> f64 {
    let samples = samples.iter().filter(|(name, _)| name.starts_with(beginning));
    samples.map(|(_, number)| number).sum()
}

/// Waits until something holds of the samples; shards make known what they count four times a second.
fn until(admin: SocketAddr, holds: impl Fn(&BTreeMap<String, f64>) -> bool) {
    let begin = Instant::now();
    loop {
        let found = samples(admin);
        if holds(&found) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{found:?}");
    }
}

#[test]
fn numbers_are_those_of_the_broker_and_add_up() {
    for runtime in RUNTIMES {
        let (broker, admin) = with_admin(2, runtime);
        let address = broker.addresses()[0];
        let mut clients: Vec<_> =
            ["a", "b", "c"].map(|id| Client::connect(address, id, Version::V5)).into();
        clients[0].subscribe("t", Qos::AtLeastOnce);
        clients[1].subscribe("t", Qos::AtMostOnce);
        for (topic, qos, id) in
            [("t", Qos::AtMostOnce, 0), ("t", Qos::AtLeastOnce, 1), ("nobody", Qos::AtLeastOnce, 2)]
        {
            clients[2].send(&publish_packet(topic, "m", qos, id));
        }
        let acks = [(); 2].map(|()| clients[2].receive());
        assert!(acks.iter().all(|ack| matches!(ack, Some(Packet::PubAck(_)))));
        for _ in 0..2 {
            clients[0].receive_publish();
            clients[1].receive_publish();
        }
        let wanted = [
            ("petrel_connections{state=\"plain\"}", 3.0),
            ("petrel_sessions", 3.0),
            ("petrel_connects_accepted_total", 3.0),
            ("petrel_messages_received_total{qos=\"0\"}", 1.0),
            ("petrel_messages_received_total{qos=\"1\"}", 2.0),
            ("petrel_messages_unmatched_total", 1.0),
            ("petrel_messages_routed_total", 2.0),
            ("petrel_copies_due_total", 4.0),
            ("petrel_copies_delivered_total{qos=\"0\"}", 3.0),
            ("petrel_copies_delivered_total{qos=\"1\"}", 1.0),
            ("petrel_copies_held", 0.0),
            ("petrel_subscriptions", 2.0),
            ("petrel_queued_messages", 0.0),
            ("petrel_inflight_messages", 0.0),
            ("petrel_ready", 1.0),
            ("petrel_packets_received_total{type=\"publish\"}", 3.0),
            ("petrel_packets_sent_total{type=\"puback\"}", 2.0),
            ("petrel_disconnects_total{origin=\"client\"}", 0.0),
            ("petrel_disconnects_total{origin=\"admin\"}", 0.0),
        ];
        // Shards make known what they count four times a second.
        let begin = Instant::now();
        let differs = |samples: &BTreeMap<String, f64>| {
            wanted.into_iter().find(|(name, number)| samples.get(*name) != Some(number))
        };
        let found = loop {
            let samples = samples(admin);
            let Some((name, number)) = differs(&samples) else { break samples };
            let found = samples.get(name);
            assert!(begin.elapsed() < PATIENCE, "{name} is {found:?} and not {number}");
        };
        let each = ["0", "1"].map(|shard| {
            let name = format!("petrel_shard_connections{{shard=\"{shard}\"}}");
            found[&name]
        });
        assert_eq!(each[0] + each[1], 3.0);
        let of = |beginning: &str| sum(&found, beginning);
        assert_eq!(of("petrel_listener_connections{"), 3.0);
        assert_eq!((of("petrel_shard_waiting{"), of("petrel_storage_unkept_records")), (0.0, 0.0));
        // Each packet that was sent has been in the broker for some time.
        until(admin, |found| {
            let sent = sum(found, "petrel_packets_sent_total{");
            sent > 0.0 && sum(found, "petrel_residency_seconds_count{") == sent
        });
        // A client with the same identifier takes the place of another.
        let again = Client::connect(address, "a", Version::V3_1_1);
        until(admin, |found| {
            let old = found.iter().find(|(name, _)| {
                name.starts_with("petrel_listener_connections{") && name.contains("\"3.1.1\"")
            });
            sum(found, "petrel_sessions_taken_over_total{") == 1.0
                && old.is_some_and(|it| *it.1 == 1.0)
        });
        drop(again);
        // The shard that accepts a connection is the one of its session, or another.
        let ids = (0..64).map(|number| format!("twice-{number}"));
        let twice: Vec<_> =
            ids.map(|id| [(); 2].map(|()| Client::connect(address, &id, Version::V5))).collect();
        until(admin, |found| {
            let by =
                |which| found[&format!("petrel_sessions_taken_over_total{{accepted=\"{which}\"}}")];
            let (here, elsewhere) = (by("by_its_shard"), by("by_another_shard"));
            here + elsewhere == 65.0 && here > 0.0 && elsewhere > 0.0
        });
        drop(twice);
        assert!(found["process_resident_memory_bytes"] > 1e6);
        assert!(found["process_start_time_seconds"] > 1.7e9);
        drop(clients);
        broker.stop().expect("it stops");
    }
}

#[test]
fn health_is_told_and_what_is_not_there_is_not_found() {
    for runtime in RUNTIMES {
        let (broker, admin) = with_admin(1, runtime);
        assert_eq!(get(admin, "/health/live"), (200, "live\n".to_owned()));
        assert_eq!(get(admin, "/health/ready"), (200, "ready\n".to_owned()));
        assert_eq!(get(admin, "/nothing").0, 401, "what is there is told to those with a token");
        broker.stop().expect("it stops");
        assert!(TcpStream::connect(admin).is_err(), "it does not listen any more");
    }
}

/// Does what a method must not do: it keeps its shard from its turns until it is let go.
struct Holds(Mutex<mpsc::Receiver<()>>);

impl AuthMethod for Holds {
    fn name(&self) -> &str {
        "holds"
    }

    fn step(&self, _: &Question) -> Verdict {
        let _ = self.0.lock().expect("no panic").recv();
        Verdict::Refuse { reason: ReasonCode::NotAuthorized }
    }
}

#[test]
fn a_shard_that_is_stuck_is_told_by_health_and_metrics_until_it_goes_on() {
    let mut config = config(2, RUNTIMES[1]);
    config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
    let (let_go, held) = mpsc::channel();
    let mut methods = AuthMethods::default();
    methods.add(Arc::new(Holds(Mutex::new(held))));
    let broker = petrel_engine::boot::start(config, &methods).expect("it starts");
    let admin = broker.admin_address().expect("it listens");
    assert_eq!(sum(&samples(admin), "petrel_shard_stuck{"), 0.0);
    let mut client = Client::open(broker.addresses()[0]);
    let Packet::Connect(mut connect) = connect_packet("a", Version::V5) else {
        panic!("a CONNECT")
    };
    connect.properties.authentication_method = Text::try_from("holds").ok();
    client.send(&Packet::Connect(connect));
    until(admin, |found| sum(found, "petrel_shard_stuck{") == 1.0);
    for path in ["/health/live", "/health/ready"] {
        let (status, text) = get(admin, path);
        assert!(status == 503 && text.ends_with("has had no turn for 5 seconds\n"), "{text}");
    }
    assert_eq!(samples(admin)["petrel_ready"], 0.0);
    let_go.send(()).expect("it is held");
    assert!(matches!(client.receive(), Some(Packet::ConnAck(_))));
    until(admin, |found| sum(found, "petrel_shard_stuck{") == 0.0 && found["petrel_ready"] == 1.0);
    assert_eq!(get(admin, "/health/ready").0, 200);
    broker.stop().expect("it stops");
}

/// The address of another program is told as that of a listener is.
#[test]
fn an_address_in_use_is_an_error_and_nothing_runs() {
    let (broker, admin) = with_admin(1, RUNTIMES[1]);
    let mut second = config(1, RUNTIMES[1]);
    second.admin = Some(AdminConfig::at(admin));
    let error = petrel_engine::boot::start(second, &Default::default()).err().expect("no second");
    assert_eq!(error.to_string(), format!("{admin} is in use; another program listens there"));
    broker.stop().expect("it stops");
}

/// The families of metrics: name, type, and what it means, as the broker says.
fn families(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let of = |kind: &str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(kind)?.split_once(' '));
        lines.collect::<BTreeMap<_, _>>()
    };
    let (types, helps) = (of("# TYPE "), of("# HELP "));
    assert!(types.keys().eq(helps.keys()), "each has both");
    types
        .into_iter()
        .map(|(name, kind)| (name, (kind, helps[name].trim_end_matches('.'))))
        .collect()
}

/// The names in a text that look like metrics.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(move |letter| !is_part(letter));
    words.filter(|word| word.starts_with("petrel_") || word.starts_with("process_"))
}

/// What operators read and build on are the metrics that there are.
#[test]
fn the_document_the_alerts_and_the_dashboard_have_the_metrics_that_there_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let (files, _) = common::layers::certificate(folder.path());
    let mut config = config(1, RUNTIMES[1]);
    config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
    config.listeners.push(petrel_engine::config::Listener {
        tls: Some(files),
        ..common::listener(petrel_engine::config::Protocol::Mqtts)
    });
    let broker = start(config);
    let (_, text) = get(broker.admin_address().expect("it listens"), "/metrics");
    let families = families(&text);
    let document = include_str!("../../docs/operate/METRICS.md");
    for (name, (kind, meaning)) in &families {
        let shown = if *kind == "counter" { format!("{name}_total") } else { (*name).to_owned() };
        let begin = format!("| `{shown}` | {kind} | ");
        let row = document.lines().find(|row| row.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("no row in METRICS.md begins with {begin}"));
        assert!(row.ends_with(&format!(" | {meaning} |")), "{row}: {meaning}");
    }
    let rows = document
        .lines()
        .filter(|row| row.starts_with("| `petrel_") || row.starts_with("| `process_"));
    assert_eq!(rows.count(), families.len(), "METRICS.md has rows of metrics that are not there");
    let samples: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let files = [
        include_str!("../../docs/operate/alerts.yml"),
        include_str!("../../docs/operate/grafana.json"),
        include_str!("../../docs/operate/SECURE.md"),
    ];
    let mut used = 0;
    for name in files.into_iter().flat_map(names) {
        assert!(samples.contains(&name), "{name} is not there");
        used += 1;
    }
    assert!(used > 30, "{used}");
    broker.stop().expect("it stops");
}

/// One series for each name and version: two listeners for any port are told apart by what they got, and two of one name
/// are counted together.
#[test]
fn no_series_is_there_twice() {
    let mut config = config(1, RUNTIMES[1]);
    config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
    let unnamed = || {
        let listener = common::listener(petrel_engine::config::Protocol::Mqtt);
        let name = listener.address.to_string();
        petrel_engine::config::Listener { name, ..listener }
    };
    let same = common::listener(petrel_engine::config::Protocol::Mqtt);
    config.listeners = vec![unnamed(), unnamed(), same.clone(), same];
    let broker = start(config);
    let (_, text) = get(broker.admin_address().expect("it listens"), "/metrics");
    let mut series: Vec<_> =
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all);
    let listeners = series.iter().filter(|name| name.starts_with("petrel_listener_connections{"));
    assert_eq!(listeners.count(), 9);
    broker.stop().expect("it stops");
}
