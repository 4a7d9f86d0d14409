//! Every scenario against a real broker, small: nothing is lost, and the counts are right.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A broker with plain MQTT and TLS, ended with this.
struct Broker {
    child: Child,
    ports: Vec<String>,
    folder: tempfile::TempDir,
}

/// The broker's program, where the same build has left it.
fn petrel() -> Option<PathBuf> {
    let bench = Path::new(env!("CARGO_BIN_EXE_petrel-bench"));
    Some(bench.with_file_name("petrel")).filter(|path| path.exists())
}

impl Broker {
    /// `None`, with the reason printed, if the broker has not been built.
    fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same with more in its configuration.
    fn start_with(more: &str) -> Option<Self> {
        let Some(program) = petrel() else {
            eprintln!(
                "not run: there is no petrel beside petrel-bench; `make integration` builds it"
            );
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let write = |name: &str, text: String| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("server.pem", made.cert.pem());
        write("server.key", made.signing_key.serialize_pem());
        let listener = |protocol: &str, more: &str| {
            format!("[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:0\"\n{more}")
        };
        let files = "cert = \"server.pem\"\nkey = \"server.key\"\n";
        let compact = format!("{files}record_layer = \"compact\"\n");
        let config = "[engine]\nshards = 3\n".to_owned()
            + &listener("mqtt", "")
            + &listener("mqtts", files)
            + &listener("mqtts", &compact)
            + more;
        write("p.toml", config);
        let mut child = Command::new(program)
            .arg("--config")
            .arg(folder.path().join("p.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut ports = Vec::new();
        for line in &mut lines {
            let line = line.expect("readable");
            if let Some((_, rest)) = line.split_once("127.0.0.1:") {
                ports.push(rest.chars().take_while(char::is_ascii_digit).collect());
            }
            if line.contains("petrel ready") {
                break;
            }
        }
        // Its further lines are read, so that it never finds the pipe full.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, ports, folder })
    }

    /// Runs a scenario, which must succeed; its results.
    fn bench(&self, port: usize, arguments: &str) -> Value {
        self.whole(port, arguments)["results"].take()
    }

    /// The same with all that is known about the run.
    fn whole(&self, port: usize, arguments: &str) -> Value {
        let json = self.folder.path().join("result.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
        command.args(arguments.split_whitespace()).args(["-p", &self.ports[port], "--quiet"]);
        if port > 0 {
            command.arg("-S").arg("--cafile").arg(self.folder.path().join("server.pem"));
        }
        let output = command.arg("--json").arg(&json).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {text}");
        let results = std::fs::read_to_string(&json).expect("written");
        serde_json::from_str(&results).expect("JSON")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It ends either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn connections_are_held_and_each_gets_its_message() {
    let Some(broker) = Broker::start() else { return };
    for (port, more) in
        [(0, "-V 3"), (0, "-V 4 -q 1"), (1, ""), (2, "-q 2 -t own/%i"), (2, "--resume")]
    {
        let results = broker.bench(port, &format!("connect -c 60 --time 0.1 {more}"));
        assert_eq!(results["clients"], 60.0);
        assert_eq!(results["delivered"], 60.0);
        assert_eq!(results["lost"], 0.0);
    }
}

/// The lower bound of a time is below the upper, and both were taken of the same messages.
fn within(least: &Value, most: &Value) {
    assert!(least["count"].as_f64() > Some(0.0), "{least}");
    assert_eq!(least["count"], most["count"]);
    for quantile in ["p50_us", "p99_us", "max_us"] {
        assert!(least[quantile].as_f64() <= most[quantile].as_f64(), "{least} {most}");
    }
}

#[test]
fn sessions_come_back_from_a_storm() {
    let Some(broker) = Broker::start() else { return };
    for (port, more) in [(0, ""), (1, "--resume"), (2, "")] {
        let storm = format!("storm -c 60 --time 0.2 --pairs 4 -I 20 {more}");
        let results = broker.bench(port, &storm);
        assert_eq!(results["present"], 60.0);
        assert_eq!(results["background_lost"], 0.0);
        assert!(results["background"].as_f64() > Some(10.0), "{results}");
        for phase in ["quiet", "later"] {
            within(
                &results[format!("residency_least_{phase}")],
                &results[format!("residency_{phase}")],
            );
        }
        assert!(results["residency_growth"].as_f64() > Some(0.0), "{results}");
    }
}

/// The time of a session that is turned away goes on: the broker lets in 200 a second.
#[test]
fn attempts_that_fail_are_part_of_the_time_to_be_back() {
    let limits = "[limits]\nsource_connections_per_s = 200\nsource_connections_burst = 200\n";
    let Some(broker) = Broker::start_with(limits) else { return };
    let results = broker.bench(0, "storm -c 600 --pairs 1 -I 20 --time 0.1");
    assert!(results["storm_failed"].as_f64() > Some(0.0), "{results}");
    assert!(results["recovery_s"].as_f64() > Some(1.5), "{results}");
    assert!(results["back_per_s"].as_f64() < Some(400.0), "{results}");
}

#[test]
fn a_broker_that_ends_meanwhile_is_a_failure() {
    for arguments in ["pairs -c 5 -I 20", "fan-out -c 5 -I 20", "connect -c 5"] {
        let Some(mut broker) = Broker::start() else { return };
        let json = broker.folder.path().join("result.json");
        let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
        command.args(arguments.split_whitespace()).args(["-p", &broker.ports[0], "--time", "2"]);
        command.arg("--json").arg(&json).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut bench = command.spawn().expect("it starts");
        let mut progress = BufReader::new(bench.stderr.take().expect("a pipe"));
        let mut said = Vec::new();
        while !["sending", "holding"].iter().any(|it| String::from_utf8_lossy(&said).contains(it)) {
            assert!(progress.read_until(b'\r', &mut said).expect("readable") > 0, "it ended");
        }
        broker.child.kill().expect("it runs");
        let rest = std::thread::spawn(move || progress.lines().for_each(drop));
        assert_eq!(bench.wait().expect("it ends").code(), Some(1), "{arguments}");
        rest.join().expect("no panic");
        let text = std::fs::read_to_string(&json).expect("written");
        let whole: Value = serde_json::from_str(&text).expect("JSON");
        assert_ne!(whole["failures"].as_array().map(Vec::len), Some(0), "{whole}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_told_soon() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    drop(taken);
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
    let output = command.args(["pairs", "-c", "3", "--quiet", "-p", &port]).output();
    let output = output.expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("0 of 6 clients are ready"), "{said}");
}

/// More messages than there is time for: the load says so and ends.
#[test]
fn what_cannot_be_kept_up_with_ends_in_time() {
    let Some(broker) = Broker::start() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
    let arguments = "fan-in -c 100 --receivers 1 -I 0.02 --time 0.5 --quiet";
    command.args(arguments.split_whitespace()).args(["-p", &broker.ports[0]]);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("sent late by the load itself"), "{said}");
}

#[test]
fn a_password_stays_out_of_the_results() {
    let Some(broker) = Broker::start() else { return };
    for password in ["-P hunter2", "-Phunter2", "--password=hunter2"] {
        let whole = broker.whole(0, &format!("connect -c 2 --time 0.1 -u me {password}"));
        assert!(!whole.to_string().contains("hunter2"), "{whole}");
    }
}

#[test]
fn a_result_says_what_was_measured_and_where() {
    let Some(broker) = Broker::start() else { return };
    let pid = format!("--broker-pid {}", broker.child.id());
    // So many that it takes some of the ticks of 10 ms in which the kernel counts.
    let whole = broker.whole(2, &format!("storm -c 400 --time 0.2 --resume -I 20 {pid}"));
    for key in ["kernel", "cpu", "cores"] {
        assert!(!whole["machine"][key].is_null(), "{key}: {whole}");
    }
    assert!(whole["petrel_bench"].is_string(), "{whole}");
    assert!(whole["broker"]["build"].as_str().is_some_and(|it| it.contains("petrel")), "{whole}");
    assert_eq!(whole["asked"]["count"], 400);
    let tls = whole["tls"].as_array().expect("TLS was spoken");
    for handshake in ["full", "resumed"] {
        let found = tls.iter().find(|it| it["handshake"] == handshake);
        let found = found.unwrap_or_else(|| panic!("none is {handshake}: {whole}"));
        assert_eq!(found["protocol"], "TLSv1_3");
        assert!(found["connections"].as_u64() >= Some(40), "{whole}");
        assert!(found["cipher"].is_string() && found["group"].is_string(), "{whole}");
    }
    for key in ["broker_cores", "load_cores", "recovery_over_cpu"] {
        assert!(whole["results"][key].as_f64() > Some(0.0), "{key}: {whole}");
    }
    let whole = broker.whole(0, &format!("connect -c 40 --time 0.1 --broker-build this {pid}"));
    assert_eq!(whole["broker"]["build"], "this");
    for key in ["user_bytes_each", "user_pss_bytes_each", "slab_bytes_each", "tcp_sockets_each"] {
        assert!(whole["results"][key].is_number(), "{key}: {whole}");
    }
}

#[test]
fn times_go_to_a_log_by_series() {
    let Some(broker) = Broker::start() else { return };
    let log = broker.folder.path().join("times.hlog");
    broker.bench(0, &format!("storm -c 20 --pairs 2 -I 20 --time 0.2 --hdr {}", log.display()));
    let text = std::fs::read_to_string(log).expect("written");
    for series in ["fleet.ready", "sink.delivery", "sink.residency", "sink.residency_least"] {
        assert!(text.contains(&format!("Tag={series},")), "{series}: {text}");
    }
}

#[test]
fn every_message_of_a_stream_arrives() {
    let Some(broker) = Broker::start() else { return };
    let streams = [
        "pairs -c 10 -I 20 -q 1",
        "fan-in -c 10 -I 20 -q 1 --receivers 2",
        "fan-out -c 20 -I 20 -q 2",
        "shared -c 10 -I 20 -q 1",
        "mixed -c 10 -I 20 -q 1 --receivers 5 --pairs 3",
        "connected-cars -c 50 -R 1000 -I 100 -q 1",
        "slow-consumer -c 5 -I 20 -q 1 --receivers 2",
    ];
    for stream in streams {
        let results = broker.bench(0, &format!("{stream} --time 0.5"));
        assert_eq!(results["missing"], 0.0, "{stream}");
        assert!(results["busiest_percent"].as_f64() > Some(0.0), "{stream}");
        assert!(results["received"].as_f64() > Some(0.0), "{stream}");
        let timed = |key: &str| results.get(key).is_some_and(|it| it["count"].as_f64() > Some(0.0));
        assert!(timed("residency_sink") || timed("residency_consumer"), "{stream}: {results}");
    }
}

#[test]
fn what_is_kept_for_later_arrives_later() {
    let Some(broker) = Broker::start() else { return };
    let results = broker.bench(0, "retained -c 500 --receivers 3");
    assert_eq!(results["read"], 1500.0);
    // What the first has left behind is not counted again.
    let results = broker.bench(0, "retained -c 100 --receivers 2");
    assert_eq!(results["read"], 200.0);
    let results = broker.bench(0, "offline -c 20 -I 10");
    assert_eq!(results["received"], 200.0);
}

#[test]
fn pings_are_answered_while_connections_are_held() {
    let Some(broker) = Broker::start() else { return };
    let results = broker.bench(2, "keepalive -c 20 -k 1 --time 2");
    assert!(results["pings"].as_f64() >= Some(20.0), "{results}");
}

#[test]
fn options_are_known_by_the_words_of_other_load_generators() {
    let Some(broker) = Broker::start() else { return };
    let whole = broker.whole(
        0,
        "pairs --num-clients 5 -i 1 --interval_of_msg 20 --num-messages 3 -q 1 --time 0.5 -n 100 \
         -u somebody -P secret -x 60 --nice 5 --no-progress",
    );
    assert_eq!(whole["results"]["sent"], 15.0, "{whole}");
    assert_eq!(whole["results"]["missing"], 0.0, "{whole}");
    for (key, value) in [("rate", 1000.0), ("start_number", 100.0), ("nice", 5.0)] {
        assert_eq!(whole["asked"][key].as_f64(), Some(value), "{whole}");
    }
}

#[test]
fn the_group_of_the_key_exchange_is_what_was_asked_for() {
    let Some(broker) = Broker::start() else { return };
    for (groups, agreed) in
        [("x25519mlkem768,x25519", "X25519MLKEM768"), ("x25519", "X25519"), ("p256", "secp256r1")]
    {
        let whole = broker.whole(1, &format!("connect -c 5 --time 0.1 --groups {groups}"));
        assert_eq!(whole["tls"][0]["group"], agreed, "{whole}");
    }
}

#[test]
fn the_load_runs_under_glommio_too() {
    let Some(broker) = Broker::start() else { return };
    let results = broker.bench(0, "pairs -c 10 -I 20 -q 1 --time 0.3 --runtime glommio --pin yes");
    assert_eq!(results["missing"], 0.0, "{results}");
    let storm = "storm -c 30 --time 0.1 --pairs 2 -I 20 --runtime glommio --threads 3 --pin no";
    let results = broker.bench(2, storm);
    assert_eq!(results["present"], 30.0, "{results}");
    assert_eq!(results["background_lost"], 0.0, "{results}");
}

#[test]
fn the_load_measures_itself_without_a_broker() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    for more in ["", "-S -V 4 -q 1", "-q 2"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
        let arguments = format!("self-test -c 40 --time 0.1 --quiet {more}");
        command.args(arguments.split_whitespace()).arg("--json").arg(&json);
        let output = command.output().expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = std::fs::read_to_string(&json).expect("written");
        let whole: Value = serde_json::from_str(&text).expect("JSON");
        let results = &whole["results"];
        for key in ["clients", "connects_per_s", "cpu_per_connect_us"] {
            assert!(results[key].as_f64() > Some(0.0), "{key}: {whole}");
        }
        for key in ["floor_us", "floor_late_us", "residency_floor", "late_us_5k"] {
            assert!(results[key]["count"].as_f64() > Some(0.0), "{key}: {whole}");
        }
        assert_eq!(whole["tls"].is_array(), more.contains("-S"), "{whole}");
    }
}

/// Runs `pair`, which must succeed; its figures by name.
fn pair(port: &str, arguments: &str) -> impl Fn(&str) -> f64 + use<> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
    command.args(["pair", "--seconds", "0.1", "--address", &format!("127.0.0.1:{port}")]);
    let output = command.args(arguments.split_whitespace()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{arguments}: {output:?}");
    let line = String::from_utf8(output.stdout).expect("UTF-8");
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    move |name| {
        let at = words.iter().position(|word| word == name).unwrap_or_else(|| panic!("{name}"));
        words[at + 1].parse().expect("a number")
    }
}

/// Everything that was sent has arrived, at so many each, in order.
fn all_of(figures: impl Fn(&str) -> f64, each: f64) {
    assert!(figures("sent") > 0.0);
    assert_eq!(figures("messages"), figures("sent") * each);
    assert_eq!(figures("out_of_order"), 0.0);
}

#[test]
fn every_shape_of_the_closed_loop_gets_what_it_sends() {
    let Some(broker) = Broker::start() else { return };
    for (port, more) in [(0, "--qos 0"), (0, "--qos 1 --version 5"), (1, "--qos 2 --tls")] {
        let port = &broker.ports[port];
        all_of(pair(port, &format!("--pairs 3 {more}")), 1.0);
        all_of(pair(port, &format!("--pairs 5 --shape fan-in {more}")), 1.0);
        all_of(pair(port, &format!("--pairs 5 --shape fan-out --window 3 {more}")), 5.0);
    }
    let figures = pair(&broker.ports[0], "--pairs 3 --rate 500 --qos 1");
    assert!(figures("sent") <= 51.0);
    all_of(figures, 1.0);
    for kept in ["online", "away"] {
        all_of(pair(&broker.ports[0], &format!("--qos 1 --kept {kept} --messages 50")), 1.0);
    }
    let pid = format!("--pairs 4 --shape fan-out --stuck 1 --broker-pid {}", broker.child.id());
    let figures = pair(&broker.ports[0], &pid);
    assert!(figures("broker_cpu_ns") > 0.0 && figures("broker_private_after") > 0.0);
    all_of(figures, 4.0);
}

#[test]
fn the_relay_gives_everything_to_those_who_are_tied_to_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = || Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
    assert!(bench().arg("certificate").arg(folder.path()).status().expect("it starts").success());
    for (folder, tls) in [(None, ""), (Some(folder.path()), "--tls")] {
        let mut relay = bench();
        relay.arg("floor-relay").args(folder).stdout(Stdio::piped());
        let mut relay = relay.spawn().expect("it starts");
        let mut said = String::new();
        let out = relay.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut said).expect("readable");
        let port = said.trim().rsplit(':').next().expect("a port");
        for more in ["--window 1", "--window 1 --qos 1", "--qos 1"] {
            all_of(pair(port, &format!("--pairs 3 {more} {tls}")), 1.0);
        }
        all_of(pair(port, &format!("--pairs 5 --window 3 --shape fan-out {tls}")), 5.0);
        relay.kill().expect("it runs");
        relay.wait().expect("it ends");
    }
}

#[test]
fn the_result_is_written_though_nobody_reads_the_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
    command.args(["self-test", "-c", "5", "--time", "0.05", "--quiet", "--json"]).arg(&json);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(json.exists());
}

#[test]
fn a_wrong_command_line_is_one_sentence() {
    for (arguments, expected) in [
        ("strom", "there is no scenario \"strom\"; see petrel-bench --help"),
        ("connect -c x", "-c: x is not a number"),
        ("connect -q 3", "QoS is 0, 1 or 2, not 3"),
        ("connect -q 1.5", "QoS is 0, 1 or 2, not 1.5"),
        ("connect -p 70000", "-p: 70000 is not a whole number from 1 to 65535"),
        ("pairs -I 0", "-I: an open loop needs a time between two messages"),
        (
            "fan-in -t a/b",
            "-t: fan-in has topics of its own; connect, keepalive, storm and pairs take one",
        ),
        ("connect --runtime tokio", "--runtime is epoll or glommio, not tokio"),
        ("connect --groups x448", "--groups are x25519, p256 and x25519mlkem768, not x448"),
        ("connect --pin 1", "--pin is yes or no, not 1"),
        ("connect --frob", "there is no option --frob; see --help"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petrel-bench"));
        let output = command.args(arguments.split_whitespace()).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("petrel-bench: {expected}\n"));
    }
}
