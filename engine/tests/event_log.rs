//! What the program writes of what happens, as JSON, and to journald.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Instant;

use common::process::{Running, folder, limited, listener, petrel, with_config};
use common::{Client, PATIENCE, connect_packet, publish_packet};
use petrel_access::passwords::{Cost, hash};
use petrel_engine::log::Event;
use petrel_proto::{Packet, Qos, ReasonCode, Text, Version, Will};
use rustix::process::Signal;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../docs/operate/LOG.md");

/// The lines of a log of JSON, each of which has what every line has, and nothing that its event has not.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("a log");
    let lines: Vec<Value> = text.lines().map(checked).collect();
    assert!(!lines.is_empty());
    lines
}

fn checked(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let word = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}"));
    let event = event_of(&value);
    assert_eq!(word("area"), event.area().name(), "{line}");
    assert!(event.levels().iter().any(|level| level.name() == word("level")), "{line}");
    assert!(word("time").ends_with('Z') && !word("message").is_empty(), "{line}");
    for key in value.as_object().expect("an object").keys() {
        let is_of_all = ["time", "level", "area", "event", "message"].contains(&key.as_str());
        assert!(is_of_all || event.fields().contains(&key.as_str()), "{key} in {line}");
    }
    value
}

fn event_of(line: &Value) -> Event {
    let named = |event: &&Event| line["event"] == event.name();
    *Event::ALL.iter().find(named).unwrap_or_else(|| panic!("no such event: {line}"))
}

/// A broker that logs everything to a file, and where that is. Its text on stderr is nothing.
struct Logging {
    broker: Running,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Logging {
    fn start(more: &str) -> Self {
        let config = format!(
            "[engine]\nshards = 1\n[[listener]]\nname = \"door\"\nprotocol = \"mqtt\"\n\
             address = \"127.0.0.1:0\"\n{more}"
        );
        let folder = folder(&config);
        let hash = hash(b"right", Cost { memory_kib: 64, passes: 1 }).expect("a hash");
        fs::write(folder.path().join("users"), format!("alice:{hash}\n")).expect("written");
        let mut command = petrel();
        with_config(&mut command, &folder);
        let mut broker = Running::start(&mut command);
        let file = folder.path().join("petrel.log");
        let begin = Instant::now();
        let address = loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.contains("\"broker_ready\"") {
                let opened = text.lines().map(checked).find(|it| it["event"] == "listener_opened");
                let address = opened.expect("a listener")["address"].as_str().map(str::parse);
                break address.expect("an address").expect("an address");
            }
            if broker.child.try_wait().expect("a child").is_some() {
                panic!("it has ended: {:?}", broker.end());
            }
            assert!(begin.elapsed() < PATIENCE, "it does not serve: {text}");
            std::thread::yield_now();
        };
        Self { broker, folder, address }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("petrel.log")
    }

    /// Ends it; what it has written, and what was on stderr.
    fn end(self) -> (Vec<Value>, Vec<String>) {
        self.broker.signal(Signal::INT);
        let file = self.file();
        let (code, rest) = self.broker.end();
        assert_eq!(code, Some(0), "{rest:?}");
        (lines(&file), rest)
    }

    /// Waits until the file has so many lines of an event.
    fn wait_for(&self, event: Event, count: usize) {
        let begin = Instant::now();
        let of = format!("\"event\":\"{}\"", event.name());
        while fs::read_to_string(self.file()).expect("a log").matches(&of).count() < count {
            assert!(begin.elapsed() < PATIENCE, "no {of}");
            std::thread::yield_now();
        }
    }
}

const JSON: &str = "[log]\nformat = \"json\"\nto = \"file\"\nfile = \"petrel.log\"\n";
const EVERYTHING: &str = "clients = \"info\"\nauthentication = \"info\"\nmessages = \"info\"\n";
const USERS: &str = "authentication = [\"users\"]\n[[authenticator]]\nname = \"users\"\nkind = \"passwords\"\nfile = \"users\"\n";

fn connect(client_id: &str, password: &str) -> Packet {
    let Packet::Connect(mut connect) = connect_packet(client_id, Version::V5) else {
        unreachable!("it is a CONNECT");
    };
    connect.keep_alive_s = 60;
    connect.username = Text::try_from("alice").ok();
    connect.password = Some(password.to_owned().into());
    Packet::Connect(connect)
}

/// A client that has said this, and the reason that it was told.
fn come(address: SocketAddr, packet: &Packet) -> (Client, ReasonCode) {
    let mut client = Client::open(address);
    client.send(packet);
    match client.receive() {
        Some(Packet::ConnAck(ack)) => (client, ack.reason),
        other => panic!("no CONNACK but {other:?}"),
    }
}

fn disconnect(mut client: Client) {
    client.send(&Packet::Disconnect(Box::new(petrel_proto::Disconnect::new(ReasonCode::Success))));
    client.expect_end();
}

/// As `LimitFSIZE=` has it: no more is written, and everything else goes on.
#[test]
fn a_log_that_has_reached_the_limit_of_a_file_ends_nothing() {
    // In units of 512 or 1,024 bytes, as the shell likes.
    let log = "[engine]\nshards = 1\n[log]\nto = \"file\"\nfile = \"petrel.log\"\nclients = \"info\"\n\
               lines_per_s = 100000\nlines_burst = 100000\n";
    let (folder, mut command) = limited("-f 8", &(listener("mqtt", 0) + log));
    let mut broker = Running::start(&mut command);
    let file = folder.path().join("petrel.log");
    let text = || String::from_utf8_lossy(&fs::read(&file).unwrap_or_default()).into_owned();
    let begin = Instant::now();
    let address: SocketAddr = loop {
        let text = text();
        let line = text.lines().find(|line| line.contains("listening for "));
        let words = line.map(|line| line.split([' ', ',', '/']));
        if let Some(address) = words.and_then(|mut words| words.find_map(|it| it.parse().ok())) {
            break address;
        }
        assert!(begin.elapsed() < PATIENCE, "it does not serve: {text}");
        std::thread::yield_now();
    };
    let is_full = || fs::metadata(&file).is_ok_and(|file| [4096, 8192].contains(&file.len()));
    while !is_full() {
        come(address, &connect_packet("a", Version::V5));
        assert!(begin.elapsed() < PATIENCE, "{}", text());
    }
    for _ in 0..100 {
        come(address, &connect_packet("a", Version::V5));
    }
    assert!(broker.child.try_wait().expect("a child").is_none());
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// A line without its numbers, which are others each time.
fn shape(line: &Value) -> String {
    let mut line = line.clone();
    line["time"] = "".into();
    let mut shape = String::new();
    for char in line.to_string().chars() {
        match char.is_ascii_digit() {
            true if shape.ends_with('0') => {}
            true => shape.push('0'),
            false => shape.push(char),
        }
    }
    shape
}

/// The examples of the document.
fn examples() -> Vec<Value> {
    DOCUMENT.lines().filter(|line| line.starts_with('{')).map(checked).collect()
}

/// Of each event one line, as it stands in the document.
#[test]
fn what_clients_do_is_written_as_documented() {
    let rate = "lines_burst = 1000\n";
    let logging = Logging::start(&format!("{USERS}{JSON}{EVERYTHING}{rate}"));
    let address = logging.address;
    let (first, reason) = come(address, &connect("lamp-17", "right"));
    assert_eq!(reason, ReasonCode::Success);
    let (mut again, _) = come(address, &connect("lamp-17", "right"));
    drop(first);
    again.subscribe("last/words", Qos::AtMostOnce);
    let (_, reason) = come(address, &connect("intruder", "wr0ng-secret"));
    assert_eq!(reason, ReasonCode::BadUserNameOrPassword);
    // Its will says when the broker has seen that it is gone.
    let Packet::Connect(mut mortal) = connect("mortal", "right") else { unreachable!() };
    mortal.will = Some(Box::new(Will {
        topic: petrel_proto::TopicName::new(common::text("last/words")).expect("a topic"),
        payload: "gone".into(),
        qos: Qos::AtMostOnce,
        retain: false,
        delay_interval_s: None,
        properties: petrel_proto::PublishProperties::default(),
    }));
    drop(come(address, &Packet::Connect(mortal)));
    assert_eq!(&again.receive_publish().payload[..], b"gone");
    // Not what MQTT begins with.
    let mut stranger = Client::open(address);
    stranger.send_bytes(b"GET / HTTP/1.1\r\n\r\n");
    stranger.expect_end();
    // What cannot be, in the middle of a connection.
    let (mut wrong, _) = come(address, &connect("wrong", "right"));
    wrong.send_bytes(&[0xf0, 0x00]);
    wrong.expect_end();
    // One is away for whom something comes.
    let Packet::Connect(mut away) = connect("sleeper", "right") else { unreachable!() };
    away.properties.session_expiry_interval_s = Some(3600);
    let (mut away, _) = come(address, &Packet::Connect(away));
    away.subscribe("house/#", Qos::AtMostOnce);
    disconnect(away);
    again.send(&publish_packet("house/door", "open", Qos::AtMostOnce, 0));
    logging.wait_for(Event::MessageDropped, 1);
    disconnect(again);

    let (lines, stderr) = logging.end();
    assert_eq!(stderr, Vec::<String>::new(), "all is in the file");
    let text = lines.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains("wr0ng-secret") && !text.contains("right"), "no secrets");
    let of = |event: Event, id: &str| -> Vec<&Value> {
        lines.iter().filter(|it| it["event"] == event.name() && it["client_id"] == id).collect()
    };
    assert_eq!(of(Event::ClientConnected, "lamp-17").len(), 2);
    let origins = |id: &str| -> Vec<_> {
        of(Event::ClientDisconnected, id).iter().map(|it| it["origin"].clone()).collect()
    };
    assert_eq!(origins("lamp-17"), ["broker", "client"]);
    assert_eq!(origins("mortal"), ["network"]);
    assert_eq!(origins("wrong"), ["broker"]);
    assert_eq!(of(Event::AuthenticationAccepted, "lamp-17").len(), 2);
    let gone = of(Event::ClientDisconnected, "lamp-17")[1];
    // CONNECT, SUBSCRIBE, PUBLISH and DISCONNECT.
    assert_eq!(gone["bytes_received"], 36 + 18 + 19 + 2, "{gone}");
    let seen: BTreeSet<_> = lines.iter().map(shape).collect();
    let caused = [
        Event::BrokerReady,
        Event::BrokerStopping,
        Event::BrokerStopped,
        Event::ListenerOpened,
        Event::ClientConnected,
        Event::ClientDisconnected,
        Event::ClientRefused,
        Event::SessionTakenOver,
        Event::AuthenticationAccepted,
        Event::AuthenticationRefused,
        Event::MessageDropped,
        Event::ConnectionRefused,
    ];
    for event in caused {
        let documented: Vec<_> =
            examples().into_iter().filter(|it| it["event"] == event.name()).collect();
        let is_seen = documented.iter().any(|it| seen.contains(&shape(it)));
        let of: Vec<_> = lines.iter().filter(|it| it["event"] == event.name()).collect();
        assert!(is_seen, "LOG.md has another example of {event:?} than\n{of:#?}");
    }
}

/// The identifier of the client is whatever the client likes.
#[test]
fn no_client_writes_lines_of_its_own() {
    let logging = Logging::start(&format!("{JSON}clients = \"info\"\n"));
    let nasty = "\"},{\"event\":\"broker_stopped\"}\\u0041\u{202e}'😀";
    drop(Client::connect(logging.address, nasty, Version::V5));
    let long = "ü".repeat(5000);
    drop(Client::connect(logging.address, &long, Version::V5));
    logging.wait_for(Event::ClientDisconnected, 2);
    let (lines, _) = logging.end();
    let ids: BTreeSet<_> = lines.iter().filter_map(|line| line["client_id"].as_str()).collect();
    let cut = format!("{}… (10000 bytes)", "ü".repeat(64));
    assert_eq!(ids, BTreeSet::from([nasty, &cut]));
    assert_eq!(lines.iter().filter(|line| line["event"] == "broker_stopped").count(), 1);
}

/// Every line that is not written is counted, so that what is written and what is summed up is what has happened.
#[test]
fn one_client_that_comes_all_the_time_has_few_lines_and_a_sum() {
    let rate = "clients = \"info\"\nlines_burst = 20\nlines_per_s = 1\n";
    let logging = Logging::start(&format!("{JSON}{rate}"));
    let begin = Instant::now();
    for _ in 0..300 {
        disconnect(Client::connect(logging.address, "busy", Version::V5));
    }
    let (lines, _) = logging.end();
    let may_be = 20 + begin.elapsed().as_secs() as usize + 1;
    let written = lines.iter().filter(|line| line["area"] == "clients").count();
    assert!((20..=may_be).contains(&written), "{written} lines, {may_be} may be");
    let sums = lines.iter().filter(|line| line["event"] == "lines_left_out");
    let mut left_out = BTreeMap::new();
    for sum in sums {
        assert_eq!(sum["of_area"], "clients");
        let event = sum["of_event"].as_str().expect("an event");
        *left_out.entry(event).or_default() += sum["count"].as_u64().expect("a number");
    }
    let all: u64 = left_out.values().sum();
    assert_eq!(all + written as u64, 600, "{left_out:?}");
}

/// What is wanted of an area can be another after a reload, and a file that was moved away is begun anew.
#[test]
fn levels_change_while_it_runs() {
    let logging = Logging::start(JSON);
    let file = logging.file();
    drop(Client::connect(logging.address, "unseen", Version::V5));
    let config = logging.folder.path().join("p.toml");
    let text = fs::read_to_string(&config).expect("a file") + "clients = \"info\"\n";
    fs::write(&config, text).expect("written");
    let moved = logging.folder.path().join("moved.log");
    fs::rename(&file, &moved).expect("moved");
    let reload = || {
        logging.broker.signal(Signal::HUP);
        let begin = Instant::now();
        while !fs::read_to_string(&file).unwrap_or_default().contains("configuration_reloaded") {
            assert!(begin.elapsed() < PATIENCE, "nothing is reloaded");
            std::thread::yield_now();
        }
    };
    reload();
    // Nor does anything else have to be right for that.
    let text = fs::read_to_string(&config).expect("a file");
    fs::write(&config, format!("{text}nobody = \"info\"\n")).expect("written");
    fs::rename(&file, &moved).expect("moved");
    reload();
    assert!(fs::read_to_string(&file).expect("a log").contains("nothing has changed"));
    disconnect(Client::connect(logging.address, "seen", Version::V5));
    logging.wait_for(Event::ClientConnected, 1);
    let (lines, rest) = logging.end();
    assert!(rest.is_empty(), "{rest:?}");
    let ids: BTreeSet<_> = lines.iter().filter_map(|line| line["client_id"].as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["seen"]));
}

/// The fields of an entry of the journal.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (name, rest) = (&entry[..end], &entry[end + 1..]);
        let (length, rest) = rest.split_at(8);
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        assert_eq!(rest[length], b'\n');
        fields.insert(text(name), text(&rest[..length]));
        entry = &rest[length + 1..];
    }
    assert!(entry.is_empty());
    fields
}

#[test]
fn journald_gets_a_field_for_each_key() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("journal");
    let journal = UnixDatagram::bind(&path).expect("a socket");
    journal.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let config = format!(
        "[engine]\nshards = 1\n[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:0\"\n\
         [log]\nto = \"journald\"\njournal_socket = \"{}\"\nclients = \"info\"\n",
        path.display()
    );
    let folder = folder(&config);
    let mut command = petrel();
    with_config(&mut command, &folder);
    let broker = Running::start(&mut command);
    let next = || {
        let mut buffer = [0; 16 << 10];
        let bytes = journal.recv(&mut buffer).expect("an entry");
        fields(&buffer[..bytes])
    };
    let until = |event: &str| loop {
        let entry = next();
        if entry["PETREL_EVENT"] == event {
            return entry;
        }
    };
    let address = until("listener_opened")["PETREL_ADDRESS"].parse().expect("an address");
    until("broker_ready");
    let nasty = "a\u{202e}=b\"\\";
    let _client = Client::connect(address, nasty, Version::V5);
    let entry = until("client_connected");
    for (name, value) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "petrel"),
        ("PETREL_AREA", "clients"),
        ("PETREL_CLIENT_ID", nasty),
        ("PETREL_VERSION", "5"),
    ] {
        assert_eq!(entry[name], value, "{entry:?}");
    }
    assert!(entry["MESSAGE"].starts_with("client 'a\\u{202e}=b\\\"\\\\' connected"), "{entry:?}");
    broker.signal(Signal::INT);
    until("broker_stopped");
    assert_eq!(broker.end(), (Some(0), Vec::new()));
}

#[test]
fn a_log_that_cannot_be_written_keeps_it_from_starting() {
    let folder = folder("[log]\nto = \"file\"\nfile = \"no/where.log\"\n");
    let mut command = petrel();
    with_config(&mut command, &folder);
    let (code, said) = Running::start(&mut command).end();
    assert_eq!((code, said.len()), (Some(2), 1), "{said:?}");
    assert!(said[0].starts_with("petrel: the log cannot be written to "), "{said:?}");
}

#[test]
fn lines_may_go_to_stdout() {
    let folder = folder(
        "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:0\"\n[log]\nto = \"stdout\"\n\
         format = \"json\"\n",
    );
    let mut command = petrel();
    with_config(&mut command, &folder);
    command.stdout(std::process::Stdio::piped());
    let mut broker = Running::start(&mut command);
    let out = broker.child.stdout.take().expect("a pipe");
    let mut out = std::io::BufRead::lines(std::io::BufReader::new(out));
    let mut next = || checked(&out.next().expect("a line").expect("readable"));
    while next()["event"] != "broker_ready" {}
    broker.signal(Signal::INT);
    while next()["event"] != "broker_stopped" {}
    assert_eq!(broker.end(), (Some(0), Vec::new()));
}

/// The document has a row for each event, and an example.
#[test]
fn the_document_has_every_event_with_its_area_levels_and_keys() {
    let examples = examples();
    for event in Event::ALL {
        let levels: Vec<_> = event.levels().iter().map(|it| format!("`{}`", it.name())).collect();
        let keys: Vec<_> = event.fields().iter().map(|key| format!("`{key}`")).collect();
        let (name, area) = (event.name(), event.area().name());
        let row = format!("| `{name}` | `{area}` | {} | {} |", levels.join(" "), keys.join(" "));
        assert!(DOCUMENT.contains(&row), "LOG.md lacks\n{row}");
        assert!(examples.iter().any(|it| it["event"] == name), "LOG.md has no example of {name}");
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, Event::ALL.len(), "LOG.md has events that are not there");
    // Keys stand in the order of the table.
    for example in DOCUMENT.lines().filter(|line| line.starts_with('{')) {
        let of = event_of(&checked(example));
        let at = |key: &&str| example.find(&format!(",\"{key}\":"));
        let places: Vec<_> = of.fields().iter().filter_map(at).collect();
        assert!(places.is_sorted(), "{example}");
    }
}
