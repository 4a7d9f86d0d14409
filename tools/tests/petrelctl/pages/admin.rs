//! docs/operate/ADMIN.md.

use std::process::Stdio;
use std::time::{Duration, Instant};

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::Config;
use serde_json::Value;

use super::{blocks, read};
use crate::broker::plain_config;
use crate::support::{outcome, petrelctl};

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker as the page has it, in a folder that stands for the root of a system.
pub struct Shown {
    pub broker: Running,
    pub root: tempfile::TempDir,
}

impl Shown {
    /// With this many shards, and a listener of its own.
    pub fn start(shards: u16) -> Self {
        let page = read("docs/operate/ADMIN.md");
        let [toml] = blocks(&page, "toml")[..] else { panic!("one configuration") };
        let root = tempfile::tempdir().expect("a folder");
        let place = root.path().to_str().expect("UTF-8");
        for folder in ["etc/petrel", "run/petrel"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("made");
        }
        let toml = toml.replace("/run/", &format!("{place}/run/")).replace(":9180", ":0");
        let shown = Config::parse(&toml, root.path()).expect("nothing is wrong");
        let plain = plain_config();
        let engine = petrel_engine::config::EngineConfig {
            shards: Some(shards),
            control: shown.engine.control,
            ..plain.engine
        };
        let config = Config { engine, listeners: plain.listeners, ..shown };
        let broker = boot::start(config, &AuthMethods::default());
        Self { broker: broker.unwrap_or_else(|error| panic!("{error}")), root }
    }

    /// A command line that begins with `petrelctl`, as it is shown but for where the root is.
    pub fn command(&self, line: &str) -> std::process::Command {
        let place = self.root.path().to_str().expect("UTF-8");
        let line = line.replace("/etc/", &format!("{place}/etc/"));
        let words: Vec<_> = line.split_whitespace().collect();
        let ("petrelctl", words) =
            words.split_first().map(|(first, rest)| (*first, rest)).expect("words")
        else {
            panic!("{line} is none of petrelctl")
        };
        let mut command = petrelctl(words);
        command
            .env("PETREL_FOLDER", self.root.path().join("run/petrel"))
            .env_remove("PETREL_TOKEN");
        command
    }

    /// What a command prints that ends well.
    pub fn says(&self, line: &str) -> String {
        let (code, out, err) = outcome(&mut self.command(line));
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
        out
    }

    pub fn until(&self, line: &str, is_it: impl Fn(&str) -> bool) -> String {
        let begin = Instant::now();
        loop {
            let out = self.says(line);
            if is_it(&out) {
                return out;
            }
            assert!(begin.elapsed() < PATIENCE, "{line}: {out}");
        }
    }

    pub fn port(&self) -> u16 {
        self.broker.addresses()[0].port()
    }
}

#[test]
fn the_page_is_followed() {
    let page = read("docs/operate/ADMIN.md");
    let [tokens, drain] = blocks(&page, "sh")[..] else { panic!("two blocks of commands") };
    let shown = Shown::start(1);
    let file = shown.root.path().join("etc/petrel/tokens");
    let tokens: Vec<_> = tokens.lines().collect();
    let [metrics, support, delete] = tokens[..] else { panic!("{tokens:?}") };
    for line in [metrics, support] {
        assert!(shown.says(line).starts_with("petrel_"), "{line}");
    }
    assert!(std::fs::read_to_string(&file).expect("written").contains("support"));
    shown.says(delete);
    let left = std::fs::read_to_string(&file).expect("written");
    assert!(left.contains("prometheus") && !left.contains("support"), "{left}");

    let drain: Vec<_> = drain.lines().collect();
    let [begin, stop] = drain[..] else { panic!("{drain:?}") };
    let port = shown.port();
    let words = format!("sub -p {port} -t x -i reader");
    let words: Vec<_> = words.split_whitespace().collect();
    let reader = petrelctl(&words).stderr(Stdio::piped()).spawn().expect("it starts");
    shown.until("petrelctl clients ls --connected", |out| out.contains("reader"));
    let mut drain = shown.command(begin).stdout(Stdio::piped()).spawn().expect("it starts");
    let said = reader.wait_with_output().expect("it ends").stderr;
    let said = String::from_utf8(said).expect("UTF-8");
    assert!(said.contains("another server") || said.contains("0x9C"), "{said}");
    assert!(drain.wait().expect("it ends").success(), "everybody has gone");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "it still listens");
    shown.says(stop);
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens again"));
    shown.broker.stop().expect("it stops");
}

/// What stands in backticks in a cell.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Each command of the table is one of petrelctl's, and each path one that is answered.
#[test]
fn every_command_and_path_of_the_table_is_there() {
    let page = read("docs/operate/ADMIN.md");
    let table = page.split("| `petrelctl` |").nth(1).expect("a table");
    let rows: Vec<_> = table.lines().skip(2).take_while(|row| row.starts_with("| `")).collect();
    assert!(rows.len() > 15, "{rows:?}");
    let shown = Shown::start(1);
    let url = shown.broker.admin_url().expect("it listens");
    let paths = paths(&url);
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let mut before = "";
        for command in spans(cells[1]) {
            let is_name = |word: &&str| word.chars().all(|char| char.is_ascii_lowercase());
            let names: Vec<_> = command.split_whitespace().take_while(is_name).collect();
            // `start` behind `listeners ls` is `listeners start`.
            let whole = [&[before][..], &names].concat();
            let is_known = |words: &[&str]| {
                outcome(petrelctl(words).arg("--help"))
                    .1
                    .contains(&format!("Usage: petrelctl {}", words.join(" ")))
            };
            if is_known(&names) {
                before = names[0];
            } else {
                assert!(is_known(&whole), "petrelctl {command}: {row}");
            }
        }
        for path in spans(cells[2]).iter().flat_map(|span| span.split(' ')) {
            let path = path.split('?').next().expect("a path");
            if path.chars().all(|char| char.is_ascii_uppercase()) {
                continue;
            }
            if path.starts_with('/') {
                assert!(ureq::get(format!("{url}{path}")).call().is_ok(), "{path}: {row}");
                continue;
            }
            let steps = path.split('/').map(|step| match step {
                "C" | "NAME" => "{}",
                step => step,
            });
            let path = format!("/api/v1/{}", steps.collect::<Vec<_>>().join("/"));
            // `start` behind `listeners/NAME/stop` is its neighbour.
            let last = path.rsplit('/').next().expect("a step");
            let is_neighbour = |it: &String| it.ends_with(&format!("/{{}}/{last}"));
            assert!(paths.iter().any(|it| *it == path || is_neighbour(it)), "{path}: {row}");
        }
    }
    shown.broker.stop().expect("it stops");
}

/// The paths that a broker says it answers, `{}` for what is put in.
fn paths(url: &str) -> Vec<String> {
    let answer = ureq::get(format!("{url}/api/openapi.json")).call();
    let text = answer.expect("it answers").body_mut().read_to_string().expect("text");
    let description: Value = serde_json::from_str(&text).expect("JSON");
    let paths = description["paths"].as_object().expect("paths").keys();
    let bare = |path: &String| {
        let steps = path.split('/').map(|step| if step.starts_with('{') { "{}" } else { step });
        steps.collect::<Vec<_>>().join("/")
    };
    paths.map(bare).collect()
}
