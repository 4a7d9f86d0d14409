//! What operators type, with Petrel in this process.

use std::path::Path;
use std::time::{Duration, Instant};

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::{AdminConfig, Config};

use crate::broker::plain_config;
use crate::support::{outcome, petrelctl};

/// A broker with an admin interface, and the folder by which `petrelctl` reaches it.
struct Lab {
    broker: Running,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = plain_config();
        config.engine.control = Some(folder.path().join("control"));
        config.admin = Some(AdminConfig::at("127.0.0.1:0".parse().expect("an address")));
        change(&mut config, folder.path());
        let broker = boot::start(config, &AuthMethods::default());
        Self { broker: broker.unwrap_or_else(|error| panic!("{error}")), folder }
    }

    /// Exit code, stdout and stderr of a command for this broker.
    fn type_in(&self, words: &[&str]) -> (i32, String, String) {
        let folder = self.folder.path().join("control");
        let folder = folder.to_str().expect("UTF-8");
        outcome(petrelctl(words).args(["--folder", folder]).env_remove("PETREL_TOKEN"))
    }

    fn says(&self, words: &[&str]) -> String {
        let (code, out, err) = self.type_in(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}: {out}");
        out
    }

    /// `pub` and `sub` by MQTT.
    fn client(&self, words: &[&str]) {
        let port = self.broker.addresses()[0].port().to_string();
        let done = outcome(petrelctl(&words[..1]).args(["-p", &port]).args(&words[1..]));
        assert_eq!(done.0, 0, "{words:?}: {}", done.2);
    }

    /// A session that is away, with a subscription.
    fn away(&self, client_id: &str, filter: &str) {
        self.client(&["sub", "-i", client_id, "-c", "-q", "1", "-t", filter, "-E"]);
        let begin = Instant::now();
        while !self.says(&["clients", "ls", "--away"]).contains(client_id) {
            assert!(begin.elapsed() < Duration::from_secs(30), "{client_id} is still connected");
        }
    }
}

#[test]
fn clients_are_listed_shown_and_their_sessions_ended() {
    let lab = Lab::new(|_, _| {});
    lab.away("meter/7", "jobs/#");
    lab.client(&["pub", "-t", "jobs/1", "-m", "hello", "-q", "1"]);
    let list = lab.says(&["clients", "ls"]);
    let lines: Vec<_> = list.lines().collect();
    assert!(lines[0].starts_with("CLIENT   CONNECTED  ADDRESS  BY  USER"), "{list}");
    assert!(lines[1].starts_with("meter/7  no "), "{list}");
    let one: serde_json::Value =
        serde_json::from_str(&lab.says(&["clients", "show", "meter/7", "--json"])).expect("JSON");
    assert_eq!((&one["client_id"], &one["queued"]), (&"meter/7".into(), &1.into()));
    let shown = lab.says(&["clients", "show", "meter/7"]);
    assert!(shown.contains("queue           1 of 1000 messages"), "{shown}");
    assert!(shown.contains("connected: a new session"), "{shown}");
    assert!(lab.says(&["clients", "subs", "meter/7"]).contains("jobs/#  "));
    assert!(lab.says(&["clients", "queue", "meter/7"]).contains("hello"));
    assert!(lab.says(&["topic", "jobs/2"]).contains("client  meter/7"));
    let (code, _, err) = lab.type_in(&["clients", "kick", "meter/7"]);
    assert_eq!((code, err.as_str()), (1, "petrelctl: \"meter/7\" is not connected\n"));
    assert!(lab.says(&["clients", "rm", "meter/7"]).contains("is ended"));
    assert_eq!(lab.type_in(&["clients", "show", "meter/7"]).0, 1);
    assert!(lab.says(&["audit"]).contains("DELETE /api/v1/clients/meter%2F7"));
    lab.broker.stop().expect("it stops");
}

#[test]
fn it_is_said_why_a_client_gets_nothing() {
    let lab = Lab::new(|_, _| {});
    lab.away("meter", "Jobs/#");
    let (code, out, err) = lab.type_in(&["why", "--client", "meter", "--topic", "jobs/1"]);
    assert_eq!(
        (code, err.as_str()),
        (1, "petrelctl: no message to this topic reaches the client\n")
    );
    assert!(
        out.contains("! subscription  its subscription 'Jobs/#' would match but for upper"),
        "{out}"
    );
    let out = lab.says(&["why", "--client", "meter", "--topic", "Jobs/1"]);
    assert!(out.contains("waits for 'meter'"), "{out}");
    lab.broker.stop().expect("it stops");
}

#[test]
fn the_broker_is_looked_at() {
    let lab = Lab::new(|_, _| {});
    lab.client(&["pub", "-t", "kept", "-m", "x", "-r", "-q", "1"]);
    let status = lab.says(&["status"]);
    assert!(status.starts_with(concat!("petrel ", env!("CARGO_PKG_VERSION"), " on ")), "{status}");
    assert!(lab.says(&["metrics"]).contains("petrel_connections{"));
    let begin = Instant::now();
    while !lab.says(&["top", "--count", "1"]).contains("retained 1 ") {
        assert!(begin.elapsed() < Duration::from_secs(30), "no retained message is counted");
    }
    assert!(lab.says(&["retained", "ls"]).contains("kept "));
    assert!(lab.says(&["retained", "show", "kept"]).ends_with("\nx\n"));
    assert!(lab.says(&["groups"]).starts_with("FILTER"));
    lab.broker.stop().expect("it stops");
}

#[test]
fn a_token_is_made_used_and_taken_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    let name = file.to_str().expect("UTF-8");
    let (code, token, _) = outcome(&mut petrelctl(&["token", name, "support"]));
    assert_eq!(code, 0);
    let lab = Lab::new(|config, _| {
        config.admin.as_mut().expect("it is there").tokens = Some(file.clone());
    });
    let url = lab.broker.admin_url().expect("it listens");
    let by = |token: &str| {
        let words = ["clients", "ls", "--url", &url];
        outcome(petrelctl(&words).env("PETREL_TOKEN", token))
    };
    assert_eq!(by(token.trim()).0, 0);
    let (code, _, err) = by("petrel_wrong");
    assert!(code == 3 && err.contains("show a token"), "{code} {err}");
    let (code, _, err) = outcome(
        petrelctl(&["clients", "rm", "x", "--url", &url]).env("PETREL_TOKEN", token.trim()),
    );
    assert!(code == 1 && err.contains("is good for read; this needs operate"), "{code} {err}");
    let twice = outcome(&mut petrelctl(&["token", name, "support"]));
    assert!(twice.0 == 1 && twice.2.contains("two tokens called support"), "{}", twice.2);
    assert_eq!(outcome(&mut petrelctl(&["token", name, "support", "--delete"])).0, 0);
    lab.broker.reload().expect("a good file");
    assert_eq!(by(token.trim()).0, 3);
    lab.broker.stop().expect("it stops");
}

#[test]
fn listeners_are_stopped_and_everybody_is_sent_away() {
    let lab = Lab::new(|_, _| {});
    let address = lab.broker.addresses()[0];
    assert!(lab.says(&["listeners", "ls"]).contains(&format!("test  mqtt      {address}  yes")));
    assert!(lab.says(&["listeners", "stop", "test"]).contains("takes no more connections"));
    assert!(std::net::TcpStream::connect(address).is_err());
    lab.says(&["listeners", "start", "test"]);
    let port = address.port().to_string();
    let mut reader = petrelctl(&["sub", "-p", &port, "-t", "x"]).spawn().expect("it starts");
    let begin = Instant::now();
    while !lab.says(&["clients", "ls"]).contains(" yes ") {
        assert!(begin.elapsed() < Duration::from_secs(30), "the reader has not come");
    }
    assert_eq!(lab.says(&["drain", "--within", "0"]), "0 connections are left\n");
    assert!(!reader.wait().expect("it ends").success());
    assert_eq!(lab.type_in(&["status"]).0, 1);
    assert!(lab.says(&["drain", "--stop"]).contains("let in again"));
    lab.says(&["status"]);
    lab.broker.stop().expect("it stops");
}

#[test]
fn a_broker_that_is_not_there_is_said_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().to_str().expect("UTF-8");
    let (code, _, err) = outcome(&mut petrelctl(&["status", "--folder", name]));
    assert!(code == 3 && err.contains("admin.json: No such file"), "{code} {err}");
    let url = "http://127.0.0.1:1";
    let (code, _, err) = outcome(&mut petrelctl(&["status", "--url", url]));
    assert!(code == 3 && err.contains("--folder or --url say where the broker is"), "{code} {err}");
}

/// The end of a recording is not there yet when it ends, and every entry of it is printed once.
#[test]
fn a_recording_is_followed_to_its_end() {
    let lab = Lab::new(|_, _| {});
    for form in [&[][..], &["--json"]] {
        let started = lab.says(&["trace", "start", "topic", "t/#"]);
        let id = started.split(' ').nth(1).expect("its number").to_owned();
        for n in 0..5 {
            lab.client(&["pub", "-t", &format!("t/{n}"), "-m", "x"]);
        }
        lab.says(&["trace", "stop", &id]);
        let said = lab.says(&[&["trace", "show", &id, "--follow"], form].concat());
        let count = |what: &str| said.lines().filter(|line| line.contains(what)).count();
        for n in 0..5 {
            let topic = format!("t/{n}");
            assert_eq!(count(&topic), 3, "PUBLISH, what it may, where it goes: {said}");
        }
    }
}
