//! `petrelctl probe`: rounds that are good, and the step in which they are not.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use petrel_proto::{ConnAckProperties, Packet, ReasonCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::access;
use crate::broker::{done, plain};
use crate::support::{Broker, code, outcome, petrelctl};

/// What a probe against a broker says of itself on stderr; it must fail.
fn failed(port: u16, line: &str) -> (i32, String) {
    let port = port.to_string();
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.extend(["-h", "127.0.0.1", "-p", &port]);
    let (code, _, stderr) = outcome(&mut petrelctl(&words));
    assert_ne!(code, 0, "{line}");
    (code, stderr)
}

#[test]
fn a_broker_that_lets_messages_through_is_good_in_every_version_at_every_qos() {
    for shards in [1, 2] {
        let (broker, port) = plain(shards);
        for version in ["31", "311", "5"] {
            for qos in 0..=2 {
                let line = format!(
                    "probe --count 3 --interval 0 --timeout 60 -V {version} -q {qos} --json"
                );
                let said: Value = serde_json::from_str(&done(port, &line)).expect("JSON");
                assert_eq!((&said["rounds"], &said["failed"]), (&3.into(), &0.into()), "{said}");
                assert_eq!(said["first_failure"], Value::Null);
                for step in ["connect", "subscribe", "publish", "round_trip"] {
                    let time = |which: &str| said["seconds"][step][which].as_f64();
                    if (step, qos) == ("publish", 0) {
                        assert_eq!(said["seconds"][step], Value::Null, "nobody acknowledges it");
                        continue;
                    }
                    let order = ["min", "median", "p99", "max"].map(|it| time(it).expect(step));
                    assert!(order[0] > 0.0 && order.is_sorted(), "{said}");
                }
            }
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn a_topic_is_that_of_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "[[rule]]\nallow = \"both\"\ntopics = [\"health\"]\n\
                 [[rule]]\nallow = \"subscribe\"\ntopics = [\"mute\"]\n";
    fs::write(folder.path().join("rules.toml"), rules).unwrap();
    let broker = access::start(folder.path(), "[access]\nrules = \"rules.toml\"\n");
    let port = broker.addresses()[0].port();
    done(port, "probe -t health --count 1 --timeout 60");
    done(port, "probe -L mqtt://localhost/health --count 1 --timeout 60");
    let said = failed(port, "probe -t other --count 2 --interval 0 --timeout 60");
    let expected = "petrelctl: 2 of 2 rounds failed, the first was round 1, step subscribe: the broker refuses the \
                    subscription: not authorized (0x87)\n";
    assert_eq!(said, (1, expected.to_owned()));
    let said = failed(port, "probe -t mute --count 1 --timeout 60");
    let expected =
        "petrelctl: step publish: the broker rejects the message: not authorized (0x87)\n";
    assert_eq!(said, (1, expected.to_owned()));
    let (code, said) = failed(port, "probe -t mute --count 1 -q 0 -V 311 --timeout 3");
    let expected = "petrelctl: step round trip: the message did not come back within 3 s; at QoS 0 a broker says \
                    nothing of what it does not let through\n";
    assert_eq!((code, said.as_str()), (1, expected));
    broker.stop().expect("it stops");
}

#[test]
fn a_refusal_ends_with_its_code_and_silence_with_the_time() {
    let broker = Broker::start(|mut client| {
        client.connack(ReasonCode::BadUserNameOrPassword, ConnAckProperties::default());
    });
    let place = broker.address;
    let (code, said) = failed(place.port(), "probe --count 1 -u me");
    let expected = format!(
        "petrelctl: step connect: {place} refuses the connection: bad user name or password (0x86)\n"
    );
    assert_eq!((code, said), (0x86, expected));
    broker.finish();
    let broker = Broker::start(|mut client| client.rest());
    let place = broker.address;
    let (code, said) = failed(place.port(), "probe --count 1 --timeout 0.3");
    let expected = format!(
        "petrelctl: step connect: {place} does not answer CONNECT; is that an MQTT broker?\n"
    );
    assert_eq!((code, said), (1, expected));
    broker.finish();
}

/// A broker that announces much and sends it is not believed, nor waited for.
#[test]
fn a_packet_without_measure_ends_the_round_before_it_is_taken() {
    for version in ["311", "5"] {
        let broker = Broker::start(|mut client| {
            let connect = client.accept();
            let most = connect.properties.maximum_packet_size;
            assert_eq!(most, connect.version.is_v5().then_some(1 << 20));
            assert!(matches!(client.next(), Some(Packet::Subscribe(_))));
            client.stream.write_all(b"\x30\xff\xff\xff\x7f").expect("it reads");
            while client.stream.write_all(&[b'z'; 65536]).is_ok() {}
        });
        let line = format!("probe --count 1 --timeout 60 -V {version}");
        let said = failed(broker.address.port(), &line);
        let expected = format!(
            "petrelctl: step subscribe: {} sends a packet of more than 1048576 bytes\n",
            broker.address
        );
        assert_eq!(said, (1, expected));
        broker.finish();
    }
}

#[test]
fn a_round_ends_in_time_whatever_a_broker_sends_meanwhile() {
    for answers_connect in [false, true] {
        let broker = Broker::start(move |mut client| {
            match answers_connect {
                true => drop(client.accept()),
                false => assert!(matches!(client.next(), Some(Packet::Connect(_)))),
            }
            let pongs = [0xd0, 0].repeat(1000);
            while client.stream.write_all(&pongs).is_ok() {}
        });
        let (code, said) = failed(broker.address.port(), "probe --count 1 --timeout 0.5");
        let step = if answers_connect { "step subscribe" } else { "step connect" };
        assert_eq!(code, 1);
        assert!(said.contains(step) && said.contains("does not answer"), "{said}");
        broker.finish();
    }
}

/// A number of the page; `None` if it is not there.
fn sample(address: SocketAddr, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: probe\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    let (head, page) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;"));
    assert!(page.ends_with("# EOF\n"), "{page}");
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(value)
}

#[test]
fn what_is_served_follows_the_broker() {
    let (broker, port) = plain(1);
    let port = port.to_string();
    let line = "probe --serve 0 --interval 0.05 --timeout 60 -h 127.0.0.1 -p";
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.push(&port);
    let mut command = petrelctl(&words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("petrelctl starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("where it serves");
    let address =
        line.trim_end().strip_prefix("http://").and_then(|it| it.strip_suffix("/metrics"));
    let address: SocketAddr = address.expect(&line).parse().expect(&line);
    assert!(address.ip().is_loopback());
    while sample(address, "petrel_probe_rounds_total") < Some(3.0) {
        std::thread::yield_now();
    }
    assert_eq!(sample(address, "petrel_probe_success"), Some(1.0));
    let time = sample(address, "petrel_probe_duration_seconds{step=\"round_trip\"}");
    assert!(time.is_some_and(|seconds| seconds > 0.0), "{time:?}");
    broker.stop().expect("it stops");
    while sample(address, "petrel_probe_success") != Some(0.0) {
        std::thread::yield_now();
    }
    // The round in which the broker stopped may have failed in any step; those after it cannot connect.
    while sample(address, "petrel_probe_failures_total{step=\"connect\"}") < Some(3.0) {
        std::thread::yield_now();
    }
    let time = sample(address, "petrel_probe_duration_seconds{step=\"round_trip\"}");
    assert_eq!(time, None, "it did not come so far");
    let pid = Pid::from_raw(child.id().try_into().expect("a process id")).expect("not zero");
    kill_process(pid, Signal::TERM).expect("it runs");
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("UTF-8");
    let refused = format!(
        "petrelctl: step connect: cannot connect to 127.0.0.1:{port}: connection refused; is the broker running there?"
    );
    assert_eq!(said.lines().filter(|line| *line == refused).count(), 1, "{said}");
    assert_eq!(said.lines().last(), Some(&*refused), "{said}");
    assert_eq!(code(child.wait().expect("it ends")), 0);
}

#[test]
fn a_file_that_cannot_be_used_keeps_it_from_serving() {
    let line = "probe --serve 0 -h localhost --cafile nowhere.pem";
    let words: Vec<_> = line.split_whitespace().collect();
    let (code, stdout, stderr) = outcome(&mut petrelctl(&words));
    assert_eq!((code, stdout.len()), (1, 0), "{stderr}");
    assert!(stderr.contains("nowhere.pem"), "{stderr}");
}
