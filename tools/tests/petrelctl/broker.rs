//! `petrelctl` with Petrel itself, in this process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::{
    Config, EngineConfig, FdTablesChoice, Listener, Protocol, RecordLayer, RuntimeChoice, Security,
    TlsFiles,
};

use crate::secure::certificates;
use crate::support::{code, outcome, petrelctl};

pub fn listener(protocol: Protocol, tls: Option<TlsFiles>) -> Listener {
    let path = if protocol.is_websocket() { "/mqtt".to_owned() } else { String::new() };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Listener {
        name: "test".to_owned(),
        authentication: Vec::new(),
        protocol,
        address,
        allow_anonymous: true,
        connections_maximum: 0,
        tls,
        record_layer: RecordLayer::default(),
        security: Security::default(),
        path,
    }
}

/// What one shard does with one listener for MQTT.
pub fn plain_config() -> Config {
    config(1, vec![listener(Protocol::Mqtt, None)])
}

fn config(shards: u16, listeners: Vec<Listener>) -> Config {
    // Other tests' sockets are open in this process, and a table of its own would keep copies of them.
    let engine = EngineConfig {
        shards: Some(shards),
        runtime: RuntimeChoice::Auto,
        fd_tables: FdTablesChoice::Shared,
        ..EngineConfig::default()
    };
    Config { engine, listeners, ..Config::default() }
}

pub fn start(shards: u16, listeners: Vec<Listener>) -> Running {
    let config = config(shards, listeners);
    boot::start(config, &AuthMethods::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Petrel, with a listener for MQTT on this port.
pub fn plain(shards: u16) -> (Running, u16) {
    let running = start(shards, vec![listener(Protocol::Mqtt, None)]);
    let port = running.addresses()[0].port();
    (running, port)
}

/// The words of a command line with its place put in.
fn words<'l>(line: &'l str, port: &'l str) -> Vec<&'l str> {
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.extend(["-h", "127.0.0.1", "-p", port]);
    words
}

/// Runs a command to its end, which must be a good one; what it printed.
#[track_caller]
pub fn done(port: u16, line: &str) -> String {
    let (code, stdout, stderr) = outcome(&mut petrelctl(&words(line, &port.to_string())));
    assert_eq!((code, stderr.as_str()), (0, ""), "{line}");
    stdout
}

/// A `sub` that is subscribed.
struct Subscriber {
    child: Child,
}

impl Subscriber {
    fn start(port: u16, line: &str) -> Self {
        // Far above what anything here takes; a test that hangs is worse than one that fails.
        let line = format!("sub -d -W 120 {line}");
        let port = port.to_string();
        let mut command = petrelctl(&words(&line, &port));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("petrelctl starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut said = String::new();
        while !said.contains("receives SUBACK") {
            let count = stderr.read_line(&mut said).expect("readable");
            assert!(count > 0, "{said}");
        }
        // What it says later is read too, or it would wait for that.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child }
    }

    /// What it printed until its good end.
    fn finish(mut self) -> String {
        let mut stdout = String::new();
        self.child.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("UTF-8");
        assert_eq!(code(self.child.wait().expect("it ends")), 0);
        stdout
    }
}

#[test]
fn every_version_reaches_every_other_at_every_qos() {
    for shards in [1, 2, 8] {
        let (broker, port) = plain(shards);
        for (from, to) in [("5", "311"), ("311", "31"), ("31", "5")] {
            let subscriber =
                Subscriber::start(port, &format!("-V {to} -t a/+ -q 2 -C 3 -F %t=%p=%q"));
            for qos in 0..=2 {
                done(port, &format!("pub -V {from} -t a/{qos} -m m{qos} -q {qos}"));
            }
            let mut lines: Vec<_> = subscriber.finish().lines().map(str::to_owned).collect();
            // Three connections published, and order is kept within one.
            lines.sort();
            assert_eq!(lines, ["a/0=m0=0", "a/1=m1=1", "a/2=m2=2"], "{from} to {to}");
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_thousand_lines_arrive_once_and_in_order() {
    let (broker, port) = plain(2);
    // As many as wait for a session by default, so that even a slow subscriber misses none.
    let text: String = (0..1000).map(|n| format!("{n}\n")).collect();
    for qos in ["1", "2"] {
        let subscriber = Subscriber::start(port, &format!("-t lines -q {qos} -C 1000"));
        let port = port.to_string();
        let line = format!("pub -t lines -l -q {qos}");
        let mut command = petrelctl(&words(&line, &port));
        let mut publisher = command.stdin(Stdio::piped()).spawn().expect("petrelctl starts");
        let mut stdin = publisher.stdin.take().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        assert_eq!(code(publisher.wait().expect("it ends")), 0);
        assert!(subscriber.finish() == text, "QoS {qos}: lines are lost, doubled or mixed up");
    }
    broker.stop().expect("it stops");
}

#[test]
fn every_transport_carries_messages() {
    let folder = certificates();
    let (cert, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let files = || Some(TlsFiles { cert: cert.clone(), key: key.clone() });
    let broker = start(
        2,
        vec![
            listener(Protocol::Mqtt, None),
            listener(Protocol::Mqtts, files()),
            listener(Protocol::Ws, None),
            listener(Protocol::Wss, files()),
        ],
    );
    let ports: Vec<_> = broker.addresses().iter().map(SocketAddr::port).collect();
    let trust = format!("--cafile {}", cert.display());
    let options = [String::new(), trust.clone(), "--ws".to_owned(), format!("--ws {trust}")];
    let long = "x".repeat(50_000);
    for (port, option) in ports.iter().zip(&options) {
        let subscriber = Subscriber::start(*port, &format!("{option} -t t -C 4 -q 1"));
        for (port, option) in ports.iter().zip(&options) {
            done(*port, &format!("pub {option} -t t -m {long} -q 1"));
        }
        assert_eq!(subscriber.finish(), format!("{long}\n").repeat(4));
        let said = done(*port, &format!("probe {option} --count 2 --interval 0"));
        assert!(said.contains("2 rounds at QoS 1, 2 good, 0 failed\n"), "{said}");
        let said = done(*port, &format!("stress {option} --clients 3 --messages 7"));
        assert!(said.contains("21 published, 21 received"), "{said}");
    }
    broker.stop().expect("it stops");
}

#[test]
fn retained_messages_stay_until_they_are_cleared() {
    let (broker, port) = plain(2);
    for n in 0..5 {
        done(port, &format!("pub -t kept/{n} -m {n} -r -q 1"));
    }
    done(port, "pub -t kept/end -m end -q 1");
    let mut lines: Vec<_> =
        done(port, "sub -t kept/+ -C 5 -v --remove-retained").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["kept/0 0", "kept/1 1", "kept/2 2", "kept/3 3", "kept/4 4"]);
    // The empty messages that clear are on their way when `sub` ends, so they may take a moment.
    while !outcome(&mut petrelctl(&words("sub -t kept/+ -W 0.3", &port.to_string()))).1.is_empty() {
    }
    broker.stop().expect("it stops");
}

#[test]
fn a_kept_session_gets_what_it_has_missed() {
    for version in ["5", "311"] {
        let (broker, port) = plain(2);
        let session = format!("sub -V {version} -i keeper -c -t missed -q 1");
        done(port, &format!("{session} -E"));
        for n in 0..10 {
            done(port, &format!("pub -t missed -m {n} -q 1"));
        }
        let expected: String = (0..10).map(|n| format!("{n}\n")).collect();
        assert_eq!(done(port, &format!("{session} -C 10")), expected);
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_client_that_vanishes_leaves_its_will() {
    let (broker, port) = plain(2);
    let heir = Subscriber::start(port, "-t will -C 1 -v");
    let mut gone = Subscriber::start(port, "-t x --will-topic will --will-payload gone");
    gone.child.kill().expect("it runs");
    gone.child.wait().expect("it ends");
    assert_eq!(heir.finish(), "will gone\n");
    broker.stop().expect("it stops");
}

#[test]
fn a_group_shares_its_messages() {
    let (broker, port) = plain(2);
    let members = [(); 2].map(|()| Subscriber::start(port, "-t $share/g/work -q 1 -C 20"));
    done(port, "pub -t work -m job -q 1 --repeat 40");
    for member in members {
        assert_eq!(member.finish(), "job\n".repeat(20));
    }
    broker.stop().expect("it stops");
}

#[test]
fn properties_go_from_end_to_end() {
    let (broker, port) = plain(2);
    let subscriber = Subscriber::start(
        port,
        "-t p -C 1 -F %C|%D|%E|%F|%P|%R|%S -D subscribe subscription-identifier 77",
    );
    done(
        port,
        "pub -t p -m x -D publish content-type text/x -D publish correlation-data c \
         -D publish message-expiry-interval 4000000 -D publish payload-format-indicator 1 \
         -D publish user-property n v -D publish response-topic r/x",
    );
    assert_eq!(subscriber.finish(), "text/x|c|4000000|1|n:v|r/x|77\n");
    broker.stop().expect("it stops");
}
