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
        ("", "no command is given; petrelctl --help lists them"),
        ("push", "there is no command \"push\"; petrelctl --help lists them"),
        ("pub -m x", "pub needs a topic (-t)"),
        ("pub -t a", "pub needs a message: -m TEXT, -f FILE, -s, -l or -n"),
        ("pub -t a -m x -n", "-m, -f, -s, -l and -n exclude each other"),
        (
            "pub -t a/+ -m x",
            "-t \"a/+\" is not a topic to publish to: the topic name holds a wildcard [MQTT5-3.3.2-2]",
        ),
        ("pub -t a -m x -q 3", "-q must be a number from 0 to 2, not \"3\""),
        ("pub -t a -m x -p 0", "-p must be a number from 1 to 65535, not \"0\""),
        ("pub -t a -m x -t", "-t needs a value"),
        ("sub -h", "-h needs a host; --help explains the options"),
        (
            "pub -t a -m x y",
            "\"y\" does not belong to an option; every value has one, as in -t TOPIC",
        ),
        ("pub -t a -m x --retian", "unknown option --retian; petrelctl pub --help lists them"),
        (
            "pub -t a -m x --unix /s",
            "--unix is not supported: Petrel listens on IP addresses only; use -h and -p",
        ),
        (
            "pub -t a -m x -c",
            "-c needs a client identifier (-i), or the session could not be found again",
        ),
        ("pub -t a -m x -V 4", "-V must be 5, 311 or 31, not \"4\""),
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
            "-L: http:// is not one of mqtt://, mqtts://, ws:// and wss://",
        ),
        ("pub -t a -m x -D publish foo 1", "-D publish foo: publish has no property \"foo\""),
        (
            "pub -t a -m x -D subscribe user-property a b",
            "-D subscribe: this command sends no subscribe packet",
        ),
        (
            "pub -t a -m x -D publish topic-alias 0",
            "-D publish topic-alias: the value is a number from 1 to 65535, not \"0\"",
        ),
        (
            "pub -t a -f /nowhere/x",
            "cannot read /nowhere/x: No such file or directory (os error 2)",
        ),
        ("pub -t a -l --repeat 3", "--repeat and --repeat-delay do not go with -l"),
        ("sub", "sub needs a topic filter (-t)"),
        (
            "sub -t a/#/b",
            "-t \"a/#/b\" is not a topic filter: # is not the last level [MQTT5-4.7.1-1]",
        ),
        ("sub -t a -F %z", "-F: there is no %z; --help lists what there is"),
        ("sub -t a -R --retained-only", "-R and --retained-only exclude each other"),
        ("sub -t a -V 311 --no-local", "--no-local needs MQTT 5; leave -V out or write -V 5"),
        (
            "sub -t $share/g/a --no-local",
            "--no-local does not go with a shared subscription [MQTT5-3.8.3-4]",
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
        assert!(stdout.starts_with("petrelctl "), "{stdout}");
    }
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
