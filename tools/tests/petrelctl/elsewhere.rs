//! What operators type for a broker that is elsewhere, and for one that answers as it should not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::AdminConfig;

use crate::broker::plain_config;
use crate::support::{outcome, petrelctl};

/// A broker that lets in whoever has a token of a file, and that file's token.
struct Far {
    broker: Running,
    folder: tempfile::TempDir,
}

impl Far {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tokens = folder.path().join("tokens");
        let made = outcome(&mut petrelctl(&[
            "token",
            tokens.to_str().expect("UTF-8"),
            "ops",
            "--role",
            "operate",
        ]));
        assert_eq!(made.0, 0, "{}", made.2);
        fs::write(folder.path().join("token"), made.1).expect("written");
        let mut config = plain_config();
        config.engine.control = Some(folder.path().join("control"));
        let mut admin = AdminConfig::at("127.0.0.1:0".parse().expect("an address"));
        admin.tokens = Some(tokens);
        config.admin = Some(admin);
        let broker = boot::start(config, &AuthMethods::default());
        Self { broker: broker.unwrap_or_else(|error| panic!("{error}")), folder }
    }

    fn url(&self) -> String {
        format!("http://{}", self.broker.admin_address().expect("it listens"))
    }

    fn type_in(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = petrelctl(words);
        command.args(["--url", &self.url(), "--token-file"]).arg(self.folder.path().join("token"));
        outcome(command.env_remove("PETREL_TOKEN").env_remove("PETREL_FOLDER"))
    }

    fn says(&self, words: &[&str]) -> String {
        let (code, out, err) = self.type_in(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}: {out}");
        out
    }
}

#[test]
fn bans_reload_and_storage_work_from_elsewhere_and_are_in_the_audit() {
    let far = Far::new();
    let banned = far.says(&["ban", "client-id", "meter 7", "--for", "1h", "--why", "it floods"]);
    assert_eq!(banned, "client-id \"meter 7\" is banned for 3600 s: it floods\n");
    let bans = far.says(&["bans"]);
    assert!(bans.contains("client-id  meter 7  60 min  operator  it floods"), "{bans}");
    assert!(far.says(&["unban", "client-id", "meter 7"]).contains("is not banned any more"));
    assert_eq!(far.type_in(&["unban", "client-id", "meter 7"]).0, 1);
    assert_eq!(far.type_in(&["ban", "colour", "red"]).0, 1);
    assert!(far.says(&["storage", "stat"]).starts_with("nothing is kept"));
    // This process is none that reads a configuration again.
    let (code, _, err) = far.type_in(&["reload"]);
    assert_eq!((code, err.as_str()), (1, "petrelctl: this process reads no configuration again\n"));
    let audit = far.says(&["audit"]);
    for said in ["POST /api/v1/bans", "is banned for 3600 s", "POST /api/v1/reload"] {
        assert!(audit.contains(said), "{said}: {audit}");
    }
    // The socket of the folder takes neither.
    let control = far.folder.path().join("control");
    let control = control.to_str().expect("UTF-8");
    let (code, _, err) = far.type_in(&["bans", control]);
    assert!(code == 1 && err.contains("leave one or the other out"), "{err}");
    assert_eq!(outcome(&mut petrelctl(&["ban", control, "user", "eve"])).0, 0);
    assert!(far.says(&["bans"]).contains("eve"));
    far.broker.stop().expect("it stops");
}

#[test]
fn the_token_of_a_folder_is_good_for_another_url() {
    let far = Far::new();
    let control = far.folder.path().join("control");
    let mut command = petrelctl(&["status", "--url", &far.url(), "--folder"]);
    let done = outcome(command.arg(&control).env_remove("PETREL_TOKEN"));
    assert_eq!((done.0, done.2.as_str()), (0, ""), "{}", done.1);
    // Without its name it goes nowhere that somebody else names.
    let mut command = petrelctl(&["status", "--url", &far.url()]);
    let done = outcome(command.env("PETREL_FOLDER", &control).env_remove("PETREL_TOKEN"));
    assert_eq!(done.0, 3, "{}", done.2);
    far.broker.stop().expect("it stops");
}

#[test]
fn a_payload_may_be_bytes_and_a_queue_is_read_in_parts() {
    let far = Far::new();
    let port = far.broker.addresses()[0].port().to_string();
    let sub = ["sub", "-p", &port, "-i", "away", "-c", "-q", "1", "-t", "jobs", "-E"];
    assert_eq!(outcome(&mut petrelctl(&sub)).0, 0);
    let file = far.folder.path().join("payload");
    fs::write(&file, "out of a file").expect("written");
    let file = file.to_str().expect("UTF-8");
    let type_of = ["--content-type", "text/plain"];
    far.says(&["publish", "jobs", "as text", "--qos", "1"]);
    far.says(&[&["publish", "jobs", "--qos", "1", "--file", file][..], &type_of].concat());
    far.says(&["publish", "jobs", "--qos", "1", "--payload-base64", "aW4gYmFzZTY0"]);
    let waits = |rest: &[&str]| far.says(&[&["clients", "queue", "away"], rest].concat());
    let all = waits(&[]);
    assert!(["as text", "out of a file", "in base64"].iter().all(|it| all.contains(it)), "{all}");
    let part = waits(&["--skip", "1", "--most", "1"]);
    assert!(part.contains("out of a file") && !part.contains("as text"), "{part}");
    assert!(!part.contains("in base64"), "{part}");
    let (code, _, err) = far.type_in(&["publish", "$SYS/broker/uptime", "0"]);
    assert!(code == 1 && err.contains("topics that begin with `$`"), "{err}");
    far.broker.stop().expect("it stops");
}

#[test]
fn a_file_of_tokens_stays_readable_for_those_who_could_read_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokens");
    let make = |file: &Path, name: &str| {
        let made = outcome(petrelctl(&["token"]).arg(file).arg(name));
        assert_eq!(made.0, 0, "{}", made.2);
    };
    let mode = || fs::metadata(&file).expect("it is there").permissions().mode() & 0o7777;
    make(&file, "first");
    assert_eq!(mode(), 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");
    // An unrelated file, and a way there by another name.
    fs::write(folder.path().join("tokens.new"), "mine").expect("written");
    std::os::unix::fs::symlink(&file, folder.path().join("link")).expect("linked");
    make(&folder.path().join("link"), "second");
    assert_eq!(mode(), 0o640);
    let text = fs::read_to_string(&file).expect("text");
    assert!(text.contains("first:read:") && text.contains("second:read:"), "{text}");
    assert_eq!(fs::read_to_string(folder.path().join("tokens.new")).expect("text"), "mine");
}

/// Whoever says something that never ends is not listened to for ever.
#[test]
fn a_server_that_trickles_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked).expect("a question");
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sent");
        // A byte at a time, until nobody takes them any more.
        stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).expect("a timeout");
        while stream.write_all(b" ").is_ok() {
            if matches!(stream.read(&mut asked), Ok(0)) {
                return;
            }
        }
    });
    let asked = ["status", "--url", &url, "--timeout", "1"];
    let (code, _, err) = outcome(&mut petrelctl(&asked));
    assert!(code == 3 && err.contains("no whole answer has come"), "{code} {err}");
    server.join().expect("the client goes");
}
