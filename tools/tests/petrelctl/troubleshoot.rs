//! What operators are told to type when something does not work, against a broker in which it does not.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::AdminConfig;

use crate::broker::plain_config;
use crate::support::{outcome, petrelctl};

const TROUBLESHOOT: &str = include_str!("../../../docs/operate/TROUBLESHOOT.md");
const PATIENCE: Duration = Duration::from_secs(20);

/// Nobody subscribes below `secret`, and `meter` publishes nothing.
const RULES: &str = "
[[rule]]
allow = \"both\"
topics = [\"#\"]

[[rule]]
deny = \"subscribe\"
topics = [\"secret/#\"]

[[rule]]
deny = \"publish\"
topics = [\"House/#\"]
client_ids = [\"meter\"]
";

struct Lab {
    broker: Running,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let rules = folder.path().join("rules.toml");
        std::fs::write(&rules, RULES).expect("written");
        let mut config = plain_config();
        config.engine.control = Some(folder.path().join("control"));
        config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
        config.access.rules = Some(rules);
        config.limits.session_queue_messages = 2;
        let broker = boot::start(config, &AuthMethods::default());
        Self { broker: broker.unwrap_or_else(|error| panic!("{error}")), folder }
    }

    fn control(&self) -> std::path::PathBuf {
        self.folder.path().join("control")
    }

    fn port(&self) -> String {
        self.broker.addresses()[0].port().to_string()
    }

    /// What a command of the admin interface prints, whatever its exit code.
    fn prints(&self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let (_, out, err) = outcome(petrelctl(&words).env("PETREL_FOLDER", self.control()));
        assert!(!out.is_empty(), "{line}: {err}");
        out
    }

    /// Until a command prints this.
    fn until(&self, line: &str, wanted: &str) {
        let begin = Instant::now();
        loop {
            let out = self.prints(line);
            if out.contains(wanted) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{line} does not say {wanted}:\n{out}");
        }
    }

    /// `pub` or `sub`, by MQTT.
    fn client(&self, line: &str) -> i32 {
        let words: Vec<_> = line.split_whitespace().collect();
        outcome(petrelctl(&words[..1]).args(["-p", &self.port()]).args(&words[1..])).0
    }

    /// A session that is away, with a subscription.
    fn away(&self, client_id: &str, filter: &str, qos: u8) {
        assert_eq!(self.client(&format!("sub -i {client_id} -c -q {qos} -t {filter} -E")), 0);
        self.until(&format!("clients show {client_id}"), "no");
    }

    /// A subscriber that stays.
    fn staying(&self, client_id: &str, filter: &str) -> Child {
        let words = ["sub", "-p", &self.port(), "-i", client_id, "-t", filter, "-q", "1"];
        let child = petrelctl(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.until("clients ls --connected", client_id);
        self.until(&format!("clients subs {client_id}"), filter);
        child.expect("it starts")
    }
}

/// The examples below the heading that begins so: command lines, and what they print.
fn examples(heading: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let parts = TROUBLESHOOT.split("\n## ").filter(|part| part.starts_with(heading));
    let blocks = parts.flat_map(|part| part.split("```console\n").skip(1));
    let blocks = blocks.map(|rest| rest.split("\n```").next().expect("an end"));
    let examples: Vec<_> = blocks
        .map(|block| {
            let (line, shown) = block.split_once('\n').expect("a command and its output");
            let line = line.strip_prefix("$ petrelctl ").expect("a command of petrelctl");
            (line, shown.lines().collect())
        })
        .collect();
    assert!(!examples.is_empty(), "{heading} has no example");
    examples
}

/// A line without times and numbers that differ from run to run.
fn shape(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let bare = word.trim_start_matches('(');
        let is_figure = bare.starts_with(|char: char| char.is_ascii_digit());
        if is_figure && word.contains('T') {
            "TIME"
        } else if is_figure {
            "0"
        } else {
            word
        }
    });
    words.collect::<Vec<_>>().join(" ").replace("just now", "0 s ago")
}

/// Each line that is shown is printed.
fn hold(lab: &Lab, heading: &str) {
    for (line, shown) in examples(heading) {
        let begin = Instant::now();
        let missing = |out: &str| {
            let printed: Vec<_> = out.lines().map(shape).collect();
            shown.iter().find(|line| !printed.contains(&shape(line))).copied()
        };
        loop {
            let out = lab.prints(line);
            let Some(missing) = missing(&out) else { break };
            let wanted = shape(missing);
            let printed: Vec<_> = out.lines().map(shape).collect();
            assert!(
                begin.elapsed() < PATIENCE,
                "{line} does not print\n{wanted}\nbut {printed:#?}"
            );
        }
    }
}

#[test]
fn the_reason_is_found_in_each_case() {
    let lab = Lab::new();
    let mut lamp = lab.staying("lamp", "House/+/light");
    hold(&lab, "\"The client gets nothing\": its filter");
    assert_ne!(lab.client("sub -i other -t secret/door -E"), 0);
    hold(&lab, "\"The client gets nothing\": it may not");
    lab.away("meter", "own", 1);
    lab.client("pub -i meter -c -t House/1/light -m x -q 1");
    hold(&lab, "\"The client gets nothing\": nobody may");
    lamp.kill().expect("it runs");
    lamp.wait().expect("it ends");

    lab.away("pump", "jobs/#", 1);
    for n in 1..=5 {
        assert_eq!(lab.client(&format!("pub -t jobs/1 -q 1 -m {n}")), 0);
    }
    hold(&lab, "\"Some messages were lost while it was away\": its queue");

    lab.away("display", "news/#", 0);
    lab.away("valve", "valves/#", 1);
    let publish = "pub -t valves/open -q 1 -m x -D publish message-expiry-interval 1";
    assert_eq!(lab.client(publish), 0);
    lab.until("clients queue valve", "  0 s");
    assert_eq!(lab.client("sub -i valve -c -q 1 -t valves/# -E"), 0);
    hold(&lab, "\"Some messages were lost while it was away\": they had");

    let reader = slow_reader(&lab);
    hold(&lab, "\"It is connected and misses messages\"");
    drop(reader);

    let folder = lab.control();
    let folder = folder.to_str().expect("UTF-8");
    assert_eq!(outcome(&mut petrelctl(&["ban", folder, "client-id", "intruder"])).0, 0);
    hold(&lab, "\"It cannot connect\"");

    lab.away("twin", "t", 1);
    lab.away("twin", "t", 1);
    hold(&lab, "\"It is thrown out again and again\"");
    lab.broker.stop().expect("it stops");
}

/// A client that has subscribed at QoS 0 and reads nothing, until something was dropped for that.
fn slow_reader(lab: &Lab) -> TcpStream {
    let mut stream = TcpStream::connect(lab.broker.addresses()[0]).expect("it listens");
    // CONNECT of MQTT 3.1.1 with the client identifier `slow`, and SUBSCRIBE to `flood/#` at QoS 0.
    stream.write_all(b"\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04slow").expect("sent");
    stream.write_all(b"\x82\x0c\0\x01\0\x07flood/#\0").expect("sent");
    let mut answers = [0; 9];
    stream.read_exact(&mut answers).expect("CONNACK and SUBACK");
    let payload = lab.folder.path().join("payload");
    std::fs::write(&payload, vec![b'x'; 900_000]).expect("written");
    let begin = Instant::now();
    while !lab.prints("why --client slow --topic flood/1").contains("slow reader") {
        let file = payload.to_str().expect("UTF-8");
        assert_eq!(lab.client(&format!("pub -t flood/1 -f {file}")), 0);
        assert!(begin.elapsed() < PATIENCE, "nothing is dropped");
    }
    stream
}

/// The command without anything put in.
#[test]
fn the_first_question_is_one() {
    let [line] = crate::pages::blocks(TROUBLESHOOT, "text")[..] else { panic!("one question") };
    let lab = Lab::new();
    let words = line.replace("CLIENT", "nobody").replace("TOPIC", "t");
    let words: Vec<_> = words.split_whitespace().skip(1).collect();
    let (code, out, _) = outcome(petrelctl(&words).env("PETREL_FOLDER", lab.control()));
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("\n! ") || out.contains("has no session"), "{out}");
    lab.broker.stop().expect("it stops");
}

/// Every page of the operator's has its place in the index, and the index has no other.
#[test]
fn the_index_names_every_page() {
    let index = include_str!("../../../docs/operate/README.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate");
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name}");
    }
}
