//! `petrelctl passwd`, and the broker that reads what it wrote.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::Config;

use crate::broker::done;
use crate::support::{outcome, petrelctl};

/// Runs `passwd` with a password on stdin: exit code and what it said.
fn passwd(words: &[&str], password: &str) -> (i32, String) {
    let mut command = petrelctl(&["passwd"]);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("petrelctl starts");
    // It may not want to know it.
    let _ = child.stdin.take().expect("a pipe").write_all(password.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    (output.status.code().expect("no signal"), said)
}

/// Cheap hashes, so that the tests take no time.
fn set(file: &Path, user: &str, password: &str, more: &[&str]) {
    let mut words = vec![file.to_str().unwrap(), user, "--memory", "64", "--passes", "1"];
    words.extend(more);
    assert_eq!(passwd(&words, password), (0, String::new()));
}

/// Petrel with two shards, a listener for MQTT and what else the configuration says.
pub fn start(folder: &Path, config: &str) -> Running {
    let base = "[engine]\nshards = 2\nfd_tables = \"shared\"\n[[listener]]\nprotocol = \"mqtt\"\n\
                address = \"127.0.0.1:0\"\n";
    let config = Config::parse(&format!("{base}{config}"), folder).expect("nothing is wrong");
    boot::start(config, &AuthMethods::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Exit code of a command, which is that of the CONNACK if the broker refuses.
fn code(port: u16, line: &str) -> i32 {
    let port = port.to_string();
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.extend(["-h", "127.0.0.1", "-p", &port]);
    outcome(&mut petrelctl(&words)).0
}

#[test]
fn a_file_of_users_is_written_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    let name = file.to_str().unwrap();
    set(&file, "alice", "secret\n", &["--groups", "staff,night"]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&file, format!("# ours\n{}", fs::read_to_string(&file).unwrap())).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    set(&file, "bob", "b", &[]);
    let before = fs::read_to_string(&file).unwrap();
    set(&file, "alice", "other", &[]);
    let after = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = after.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "# ours"));
    assert!(lines[1].starts_with("alice:$argon2id$") && lines[1].ends_with(":staff,night"));
    assert_ne!(before.lines().nth(1), Some(lines[1]));
    assert_eq!(before.lines().nth(2), Some(lines[2]));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(passwd(&[name, "--check"], ""), (0, format!("{name}: 2 users, nothing is wrong\n")));
    assert_eq!(passwd(&[name, "bob", "--delete"], ""), (0, String::new()));
    assert!(!fs::read_to_string(&file).unwrap().contains("bob"));
    for (words, password, why) in [
        (&[name, "bob", "--delete"][..], "", "there is no user \"bob\""),
        (&[name, "a:b"], "x", "holds no colon"),
        (&[name, "#x"], "x", "begins with no #"),
        (&[name, "x"], "\n", "the password is empty"),
        (&[name, "x", "--memory", "1"], "x", "no cost for argon2"),
        (&[name, "x", "--memory", "a"], "x", "invalid value 'a'"),
        (&[name], "x", "not provided: <USER>;"),
        (&[], "x", "not provided: <FILE> <USER>;"),
        (&["/no/where", "x"], "x", "No such file"),
    ] {
        let kept = fs::read_to_string(&file).unwrap();
        let (code, said) = passwd(words, password);
        assert!(code == 1 && said.contains(why), "{words:?}: {said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), kept);
    }
    fs::write(&file, "alice:secret\n").unwrap();
    let (code, said) = passwd(&[name, "--check"], "");
    assert!(code == 1 && said.contains(":1:") && !said.contains("secret"), "{said}");
}

const CHAIN: &str = "authentication = [\"file\"]\n[[authenticator]]\nname = \"file\"\n\
                     kind = \"passwords\"\nfile = \"users\"\n";

/// CONNACK codes: 4 and 134 for a bad user name or password, 5 and 135 for not authorised.
#[test]
fn who_is_in_the_file_comes_in_until_it_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    set(&file, "alice", "secret", &[]);
    let broker = start(folder.path(), CHAIN);
    let port = broker.addresses()[0].port();
    for _again_from_what_is_known in 0..2 {
        for (version, bad, none) in [("5", 134, 135), ("311", 4, 5), ("31", 4, 5)] {
            let publish = format!("pub -V {version} -t t -m m");
            assert_eq!(code(port, &format!("{publish} -u alice -P secret")), 0);
            assert_eq!(code(port, &format!("{publish} -u alice -P wrong")), bad);
            assert_eq!(code(port, &format!("{publish} -u alice")), bad);
            assert_eq!(code(port, &format!("{publish} -u bob -P secret")), bad);
            assert_eq!(code(port, &publish), none);
        }
    }
    set(&file, "alice", "other", &[]);
    fs::write(folder.path().join("wrong"), "").unwrap();
    broker.reload().expect("nothing is wrong");
    assert_eq!(code(port, "pub -t t -m m -u alice -P secret"), 134);
    assert_eq!(code(port, "pub -t t -m m -u alice -P other"), 0);
    fs::write(&file, "alice\n").unwrap();
    let error = broker.reload().expect_err("the file is wrong").to_string();
    assert!(error.contains("users:1: the line has no colon"), "{error}");
    assert_eq!(code(port, "pub -t t -m m -u alice -P other"), 0);
    broker.stop().expect("it stops");
}

/// A token of HS256 with its end in the year 2100, made by another program.
const TOKEN: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJ1cyIsInN1YiI6ImFsaWNlIiwiZXhwIjo0MTAyNDQ",
    "0ODAwLCJyaWdodHMiOnsicHVibGlzaCI6WyJ1cC8ldS8jIl0sInN1YnNjcmliZSI6WyJkb3duLyMiXX19.Ja4RI5",
    "LRJuynzCOSCmmSUpteojylP25_5NOjoYj6sxA",
);

#[test]
fn a_token_is_a_password_with_rights() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("keys"), "a secret of more than thirty-two bytes\n").unwrap();
    let broker = start(
        folder.path(),
        "authentication = [\"tokens\"]\n[[authenticator]]\nname = \"tokens\"\nkind = \"jwt\"\n\
         file = \"keys\"\nissuer = \"us\"\nrights_claim = \"rights\"\n",
    );
    let port = broker.addresses()[0].port();
    for _again_from_what_is_known in 0..2 {
        assert_eq!(code(port, &format!("pub -t up/alice/x -m m -q 1 -u alice -P {TOKEN}")), 0);
        assert_eq!(code(port, &format!("pub -t up/bob/x -m m -q 1 -u alice -P {TOKEN}")), 1);
        assert_eq!(code(port, &format!("sub -t down/# -E -u alice -P {TOKEN}")), 0);
        assert_eq!(code(port, &format!("pub -t t -m m -u bob -P {TOKEN}")), 134);
        assert_eq!(code(port, &format!("pub -t t -m m -u alice -P {TOKEN}x")), 134);
        assert_eq!(code(port, "pub -t t -m m -u alice -P secret"), 134);
    }
    broker.stop().expect("it stops");
}

#[test]
fn rules_hold_from_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    set(&file, "alice", "a", &["--groups", "staff"]);
    set(&file, "bob", "b", &[]);
    let rules = |text: &str| fs::write(folder.path().join("rules.toml"), text).unwrap();
    let home = "[[rule]]\nallow = \"both\"\ntopics = [\"home/%u/#\"]\n";
    let staff = "[[rule]]\nallow = \"subscribe\"\ntopics = [\"#\"]\ngroups = [\"staff\"]\n";
    rules(&format!("{home}{staff}"));
    let broker = start(folder.path(), &format!("{CHAIN}[access]\nrules = \"rules.toml\"\n"));
    let port = broker.addresses()[0].port();
    done(port, "pub -u bob -P b -t home/bob/x -m kept -r -q 1");
    // Where CONNACK does not say it.
    assert_eq!(code(port, "pub -u bob -P b -t home/alice/x -m m -q 1"), 1, "PUBACK says 0x87");
    assert_eq!(code(port, "sub -u bob -P b -t home/+/x -E"), 1, "its filter is refused");
    assert_eq!(code(port, "pub -u bob -P b -t t -m m --will-topic x --will-payload w"), 135);
    assert_eq!(done(port, "sub -u alice -P a -t home/# -C 1 -v"), "home/bob/x kept\n");
    rules(home);
    broker.reload().expect("nothing is wrong");
    assert_eq!(code(port, "sub -u alice -P a -t home/# -E"), 1);
    rules("[[rule]]\nallow = \"all\"\n");
    let error = broker.reload().expect_err("the file is wrong").to_string();
    assert!(error.contains("rules.toml:2:9: `allow` must be"), "{error}");
    done(port, "pub -u bob -P b -t home/bob/x -m m -q 1");
    broker.stop().expect("it stops");
}

/// Asks a broker by a folder: exit code and what was said.
fn asked(words: &[&str], folder: &Path) -> (i32, String) {
    let [command, rest @ ..] = words else { panic!("no command") };
    let words = [&[*command, folder.to_str().unwrap()], rest].concat();
    let (code, stdout, stderr) = outcome(&mut petrelctl(&words));
    (code, format!("{stdout}{stderr}"))
}

/// Exit code of a publisher with this client identifier.
fn enters(broker: &Running, client_id: &str) -> i32 {
    let port = broker.addresses()[0].port().to_string();
    let line =
        ["pub", "-h", "127.0.0.1", "-p", &port, "-V", "5", "-i", client_id, "-t", "t", "-m", "m"];
    outcome(&mut petrelctl(&line)).0
}

#[test]
fn who_is_banned_stays_out_after_a_restart_until_the_ban_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let base = "[engine]\nshards = 2\nfd_tables = \"shared\"\ncontrol = \"control\"\n[[listener]]\nprotocol = \
                \"mqtt\"\naddress = \"127.0.0.1:0\"\n";
    let start = || {
        let config = Config::parse(base, folder.path()).expect("nothing is wrong");
        boot::start(config, &AuthMethods::default()).unwrap_or_else(|error| panic!("{error}"))
    };
    let (code, said) = asked(&["bans"], &control);
    assert!(code == 3 && said.contains("no broker that runs"), "{code} {said}");
    let broker = start();
    assert_eq!(asked(&["bans"], &control), (0, String::new()));
    let why = ["--why", "a\ntest"];
    let line = [&["ban", "client-id", "mallory", "--for", "12h"], &why[..]].concat();
    assert_eq!(asked(&line, &control), (0, "client-id \"mallory\" is banned\n".into()));
    assert_eq!(asked(&["ban", "user", "eve"], &control).0, 0);
    assert_eq!(asked(&["ban", "address", "192.0.2.0/24"], &control).0, 0);
    let (code, said) = asked(&["ban", "address", "192.0.2"], &control);
    assert!(code == 3 && said.contains("is no address"), "{code} {said}");
    for wrong in [
        &["ban", "client-id"][..],
        &["ban", "name", "x"],
        &["ban", "user", "x", "--for", "12"],
        &["ban", "user", "x", "--for", "0s"],
        &["ban", "user", "x", "--until", "1d"],
        &["unban", "user"],
        &["bans", "x"],
    ] {
        let (code, said) = asked(wrong, &control);
        let help = format!("petrelctl {} --help explains it\n", wrong[0]);
        assert!(code == 1 && said.ends_with(&help), "{wrong:?}: {code} {said}");
    }
    // 0x8A
    assert_eq!((enters(&broker, "mallory"), enters(&broker, "eve")), (138, 0));
    broker.stop().unwrap();
    let broker = start();
    assert_eq!(enters(&broker, "mallory"), 138);
    let (_, said) = asked(&["bans"], &control);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[2]), (3, "address 192.0.2.0/24", "user \"eve\""));
    assert!(lines[1].starts_with("client-id \"mallory\": a\\ntest, for 43"), "{said}");
    assert_eq!(asked(&["unban", "client-id", "mallory"], &control).0, 0);
    let (code, said) = asked(&["unban", "client-id", "mallory"], &control);
    assert!(code == 3 && said.contains("was not banned"), "{code} {said}");
    assert_eq!(enters(&broker, "mallory"), 0);
    broker.stop().unwrap();
}

/// A broker of its own, since it is told by a signal.
#[test]
fn limits_are_read_again_while_clients_stay_and_what_needs_a_restart_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    let write = |shards: u16, limits: &str| {
        let text = format!(
            "[engine]\nshards = {shards}\ncontrol = \"control\"\n[[listener]]\nprotocol = \"mqtt\"\n\
             address = \"127.0.0.1:0\"\n[limits]\n{limits}\n"
        );
        fs::write(&file, text).unwrap();
    };
    write(2, "");
    let petrel = Path::new(env!("CARGO_BIN_EXE_petrelctl")).with_file_name("petrel");
    if !petrel.exists() {
        eprintln!("passed over: there is no {}, which is built with the engine", petrel.display());
        return;
    }
    let mut command = std::process::Command::new(petrel);
    command.arg("--config").arg(&file).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let port: String = loop {
        let line = lines.next().expect("it says where it listens").unwrap();
        if let Some((_, rest)) = line.split_once("127.0.0.1:") {
            break rest.chars().take_while(char::is_ascii_digit).collect();
        }
    };
    // It must not wait for somebody to read what it says.
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).count());
    let control = folder.path().join("control");
    let reload = || asked(&["reload"], &control);
    let publish = |topic: &str| {
        let line =
            ["pub", "-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", topic, "-m", "m"];
        outcome(&mut petrelctl(&line)).0
    };
    while asked(&["bans"], &control).0 != 0 {
        std::thread::yield_now();
    }
    assert_eq!(publish("a/b/c"), 0);
    write(2, "topic_levels_maximum = 2");
    let (code, said) = reload();
    assert!(code == 0 && said.ends_with("limits are read again\n"), "{code} {said}");
    assert_ne!(publish("a/b/c"), 0);
    assert_eq!(publish("a/b"), 0);
    write(3, "topic_levels_maximum = 3\nreceive_maximum = 7");
    let (code, said) = reload();
    let named = "a restart is needed for [limits] receive_maximum, [engine]\n";
    assert!(code == 0 && said.ends_with(named), "{code} {said}");
    assert_eq!(publish("a/b/c"), 0);
    write(2, "topic_levels_maximum = 1\ntopic_levels = 2");
    let (code, said) = reload();
    assert!(code == 3 && said.contains("topic_levels") && said.contains("nothing has changed"));
    assert_eq!(publish("a/b/c"), 0);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    rest.join().unwrap();
}
