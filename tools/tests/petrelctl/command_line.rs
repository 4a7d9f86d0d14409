//! Command lines that fail before, or while, a connection is made.

use std::io::Write as _;

use crate::support::{Broker, outcome, petrelctl};

/// The sentence on stderr of a command line that is refused.
fn refused(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let (code, stdout, stderr) = outcome(&mut petrelctl(&words));
    assert_eq!((code, stdout.as_str()), (1, ""), "{line}: {stderr}");
    let sentence = stderr.strip_prefix("petrelctl: ").and_then(|it| it.strip_suffix('\n'));
    sentence.expect(&stderr).to_owned()
}

#[test]
fn mistakes_are_found_before_connecting() {
    for (line, expected) in [
        (
            "push",
            "unrecognized subcommand 'push'; a similar subcommand exists: 'pub'; petrelctl --help explains it",
        ),
        ("pub -m x", "pub needs a topic (-t)"),
        (
            "pub -t a",
            "the following required arguments were not provided: <--message <TEXT>|--file <FILE>|--stdin-file|--stdin-line|--null-message>; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -n",
            "the argument '--message <TEXT>' cannot be used with '--null-message'; petrelctl pub --help explains it",
        ),
        (
            "pub -t a/+ -m x",
            "invalid value 'a/+' for '--topic <TOPIC>': the topic name holds a wildcard [MQTT5-3.3.2-2]; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -q 3",
            "invalid value '3' for '--qos <QOS>': QoS is 0, 1 or 2; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -p 0",
            "invalid value '0' for '--port <PORT>': 0 is not in 1..=65535; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -t",
            "a value is required for '--topic <TOPIC>' but none was supplied; petrelctl pub --help explains it",
        ),
        (
            "sub -h",
            "a value is required for '--host <HOST>' but none was supplied; petrelctl sub --help explains it",
        ),
        ("pub -t a -m x y", "unexpected argument 'y' found; petrelctl pub --help explains it"),
        (
            "pub -t a -m x --retian",
            "unexpected argument '--retian' found; a similar argument exists: '--retain'; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x --unix /s",
            "--unix is not supported: Petrel listens on IP addresses only; use -h and -p",
        ),
        (
            "pub -t a -m x -c",
            "-c needs a client identifier (-i), or the session could not be found again",
        ),
        (
            "pub -t a -m x -V 4",
            "invalid value '4' for '--protocol-version <VERSION>': it is 5, 311 or 31; petrelctl pub --help explains it",
        ),
        ("pub -t a -m x -V 311 -x 5", "-x needs MQTT 5; leave -V out or write -V 5"),
        ("pub -t a -m x -V 311 -P p", "before MQTT 5 a password (-P) needs a user name (-u)"),
        (
            "pub -t a -m x -V 31 -i 123456789012345678901234",
            "an MQTT 3.1 client identifier has 1 to 23 characters",
        ),
        ("pub -t a -m x --will-qos 1", "a will needs --will-topic"),
        ("pub -t a -m x --cert c.pem", "--cert and --key go together"),
        (
            "pub -t a -m x -L http://h/a",
            "invalid value 'http://h/a' for '--url <URL>': http:// is not one of mqtt://, mqtts://, ws:// and wss://; petrelctl pub --help explains it",
        ),
        (
            "pub -m x -L mqtt://h/a/#",
            "the topic of -L: the topic name holds a wildcard [MQTT5-3.3.2-2]",
        ),
        (
            "pub -t a -m x -D publish foo 1",
            "-D publish foo: publish has no property \"foo\"; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -D publish user-property 1",
            "-D publish user-property needs a name and a value; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -D publish content-type 1 2",
            "-D publish content-type needs one value, not two; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -m x -D subscribe user-property a b",
            "-D subscribe: this command sends no subscribe packet",
        ),
        (
            "pub -t a -m x -D publish topic-alias 0",
            "-D publish topic-alias: the value is a number from 1 to 65535, not \"0\"; petrelctl pub --help explains it",
        ),
        (
            "pub -t a -f /nowhere/x",
            "cannot read /nowhere/x: No such file or directory (os error 2)",
        ),
        (
            "pub -t a -l --repeat 3",
            "the argument '--stdin-line' cannot be used with '--repeat <COUNT>'; petrelctl pub --help explains it",
        ),
        ("sub", "sub needs a topic filter (-t)"),
        (
            "sub -t a/#/b",
            "invalid value 'a/#/b' for '--topic <FILTER>': # is not the last level [MQTT5-4.7.1-1]; petrelctl sub --help explains it",
        ),
        ("sub -t a -F %z", "-F: there is no %z; --help lists what there is"),
        (
            "sub -t a -R --retained-only",
            "the argument '-R' cannot be used with '--retained-only'; petrelctl sub --help explains it",
        ),
        ("sub -t a -V 311 --no-local", "--no-local needs MQTT 5; leave -V out or write -V 5"),
        (
            "sub -t $share/g/a --no-local",
            "--no-local does not go with a shared subscription [MQTT5-3.8.3-4]",
        ),
        (
            "stress --clients 4097",
            "invalid value '4097' for '--clients <COUNT>': 4097 is not in 1..=4096; petrelctl stress --help explains it",
        ),
        (
            "stress --clients 4096 -V 31 -I twenty-characters-ab",
            "an MQTT 3.1 client identifier has 1 to 23 characters, not \"twenty-characters-ab4095\"",
        ),
        (
            "probe --serve here",
            "invalid value 'here' for '--serve <ADDRESS>': write an IP address and a port, as in 127.0.0.1:9884, or a port of 127.0.0.1; petrelctl probe --help explains it",
        ),
        (
            "probe --serve 0 --count 1",
            "the argument '--serve <ADDRESS>' cannot be used with '--count <COUNT>'; petrelctl probe --help explains it",
        ),
        (
            "storage repair",
            "the following required arguments were not provided: <FOLDER>; petrelctl storage repair --help explains it",
        ),
    ] {
        assert_eq!(refused(line), expected, "{line}");
    }
}

#[test]
fn help_and_version_succeed() {
    for line in [&["--help"][..], &["pub", "--help"], &["sub", "--help"], &["--version"]] {
        let (code, stdout, stderr) = outcome(&mut petrelctl(line));
        assert_eq!((code, stderr.as_str()), (0, ""));
        let start = if line == ["--version"] { "petrelctl " } else { "\n\nUsage: petrelctl " };
        assert!(stdout.contains(start), "{stdout}");
    }
}

#[test]
fn what_can_be_done_is_said_to_who_says_nothing() {
    let said = refused("");
    let expected = "requires a subcommand but one was not provided [subcommands: pub, sub, probe, ";
    assert!(said.contains(expected) && said.ends_with("; petrelctl --help explains it"), "{said}");
}

#[test]
fn of_options_that_are_given_twice_the_last_counts() {
    let line = "pub -h a.invalid -h b.invalid -L mqtt://u@c.invalid:1 -m x -m y -t t -d -d";
    assert!(refused(line).contains("\"b.invalid\""), "{}", refused(line));
}

#[test]
fn every_shell_gets_completions_of_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, stdout, stderr) = outcome(&mut petrelctl(&["completions", shell]));
        assert_eq!((code, stderr.as_str()), (0, ""));
        for word in ["petrelctl", "restore", "max-inflight"] {
            assert!(stdout.contains(word), "{shell} knows no {word}");
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let words = ["man", pages.to_str().unwrap()];
    assert_eq!(outcome(&mut petrelctl(&words)), (0, String::new(), String::new()));
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).expect(name);
    assert!(page("petrelctl.1").contains("petrelctl\\-pub(1)"), "{}", page("petrelctl.1"));
    assert!(
        page("petrelctl-pub.1").contains("\\-\\-max\\-inflight"),
        "{}",
        page("petrelctl-pub.1")
    );
    assert!(page("petrelctl-storage-repair.1").contains("Make a new folder"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = refused(&format!("man {}", file.join("x").display()));
    assert!(said.starts_with("cannot write man pages into "), "{said}");
}

#[test]
fn quiet_hides_the_sentence_and_keeps_the_code() {
    let (code, stdout, stderr) = outcome(&mut petrelctl(&["sub", "--quiet"]));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (1, "", ""));
}

#[test]
fn nobody_listening_is_told_with_a_question() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    let sentence = refused(&format!("sub -h 127.0.0.1 -p {port} -t a"));
    assert_eq!(
        sentence,
        format!(
            "cannot connect to 127.0.0.1:{port}: connection refused; is the broker running there?"
        )
    );
}

#[test]
fn a_port_that_speaks_something_else_is_recognised() {
    for (answer, option, expected) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "",
            "answers in HTTP; MQTT over WebSocket needs --ws",
        ),
        (&[0x15, 3, 3, 0, 2, 2, 50], "", "answers in TLS; use --tls, --cafile FILE or --insecure"),
        (b"\x20\x02\x00\x00", "--insecure", "does not answer in TLS; is that a port without TLS?"),
        (
            b"",
            "",
            "closed the connection without an answer to CONNECT; does it want TLS (--tls) or WebSocket (--ws), or another MQTT version (-V)?",
        ),
        (
            b"",
            "--insecure",
            "closed the connection during the TLS handshake; is that a port without TLS?",
        ),
        (
            b"",
            "--ws",
            "closed the connection during the WebSocket handshake; is that a port without WebSocket?",
        ),
        (b"\xff\xff\xff\xff\xff", "", "sends what is not MQTT 5: "),
    ] {
        let broker = Broker::start(move |mut client| {
            client.stream.peek(&mut [0]).expect("the client speaks first");
            client.stream.write_all(answer).expect("the client reads");
            client.stream.shutdown(std::net::Shutdown::Write).expect("it is open");
            let mut ignored = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client.stream, &mut ignored);
        });
        let place = broker.address;
        let (code, _, stderr) = outcome(&mut broker.petrelctl(&format!("pub {option} -t a -m x")));
        assert_eq!(code, 1);
        let start = format!("petrelctl: {place} {expected}");
        assert!(stderr.starts_with(&start), "{stderr:?} does not start with {start:?}");
        broker.finish();
    }
}
