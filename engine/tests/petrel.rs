//! The program itself: its command line, its start, its signals, its end.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use common::authority::{self, Authority};
use common::process::{Running, folder, limited, listener, petrel, with_config};
use common::seccomp::{IO_URING_CALLS, forbid};
use common::{Client, connect_packet};
use petrel_proto::{Packet, Qos, ReasonCode, Version};
use rustix::process::Signal;

/// CONNECT of MQTT 5 without anything that is not required.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00";

/// Exit code, stdout and stderr of a command that ends by itself.
fn outcome(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal ended it"), text(stdout), text(stderr))
}

/// Writes `server.pem` and `server.key` anew.
fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("made");
    fs::write(folder.join("server.pem"), made.cert.pem()).expect("written");
    fs::write(folder.join("server.key"), made.signing_key.serialize_pem()).expect("written");
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, stdout, stderr) = outcome(petrel().arg("--help"));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("--check-config"), "{stdout}");
    let version = format!("petrel {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome(petrel().arg("--version")), (0, version, String::new()));
}

#[test]
fn a_wrong_command_line_is_one_sentence() {
    let sentence = "petrel: unexpected argument '--confg' found; a similar argument exists: '--config'; see --help\n".to_owned();
    assert_eq!(outcome(petrel().arg("--confg")), (2, String::new(), sentence));
}

#[test]
fn a_wrong_file_is_told_with_its_places() {
    let folder = folder("[engine]\nshard = 2\n[limits]\nmaximum_qos = 3\n");
    let file = folder.path().join("p.toml");
    let file = file.display();
    let expected = format!(
        "{file}:2:1: unknown key `shard` in [engine]; did you mean `shards`?\n\
         {file}:4:15: `maximum_qos` must be a whole number from 0 to 2, not 3\n"
    );
    for check in [&[][..], &["--check-config"]] {
        let mut command = petrel();
        with_config(command.args(check), &folder);
        assert_eq!(outcome(&mut command), (2, String::new(), expected.clone()));
    }
}

#[test]
fn checking_opens_no_port() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = busy.local_addr().expect("it is bound");
    let folder = folder(&(listener("mqtt", address.port()) + "[engine]\nshards = 3\n"));
    let mut command = petrel();
    with_config(command.arg("--check-config"), &folder);
    let expected = format!(
        "{}: nothing is wrong\nshards: 3, runtime: auto\n\
         storage: none, nothing outlives the process\n\
         listener: mqtt on {address}, anonymous clients allowed\n\
         rules: none, whoever comes in may do everything\n\
         limits: all at their defaults\n",
        folder.path().join("p.toml").display()
    );
    assert_eq!(outcome(&mut command), (0, expected, String::new()));
}

#[test]
fn a_busy_port_is_told() {
    let busy = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = busy.local_addr().expect("it is bound");
    let folder = folder(&listener("mqtt", address.port()));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, 2);
    let last = stderr.lines().last().expect("a sentence");
    assert_eq!(last, format!("petrel: {address} is in use; another program listens there"));
}

/// Whoever comes second finds the port taken, however close behind.
#[test]
fn two_brokers_that_start_together_do_not_share_a_port() {
    for _ in 0..4 {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let folder = folder(&listener("mqtt", port));
        let mut brokers: Vec<Running> = (0..2)
            .map(|_| {
                let mut command = petrel();
                with_config(&mut command, &folder);
                Running::start(&mut command)
            })
            .collect();
        let refused = |broker: &mut Running| loop {
            let line = broker.lines.next().expect("a line").expect("readable");
            if line.contains("petrel ready") || line.contains("is in use") {
                break line.contains("is in use");
            }
        };
        let refused: Vec<bool> = brokers.iter_mut().map(refused).collect();
        assert_ne!(refused[0], refused[1]);
        for (broker, refused) in brokers.into_iter().zip(refused) {
            if !refused {
                broker.signal(Signal::TERM);
            }
            assert_eq!(broker.end().0, Some(if refused { 2 } else { 0 }));
        }
    }
}

/// [MQTT5-3.14.4-1]
#[test]
fn a_broker_says_where_it_listens_serves_and_takes_leave() {
    let folder = folder(&(listener("mqtt", 0) + &listener("ws", 0) + "[engine]\nshards = 2\n"));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    assert_ne!(address.port(), 0);
    assert!(broker.line_with("listening for ws on ").ends_with("/mqtt, anonymous clients allowed"));
    assert!(broker.line().starts_with("storage: none, so nothing outlives the process"));
    assert!(broker.line().starts_with("petrel ready: 2 shards on "));

    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    client.write_all(CONNECT).expect("it reads");
    let mut head = [0; 2];
    client.read_exact(&mut head).expect("CONNACK");
    assert_eq!(head[0], 0x20);
    let mut body = vec![0; head[1].into()];
    client.read_exact(&mut body).expect("the rest of it");
    assert_eq!(body[..2], [0, 0], "no session, success");

    broker.signal(Signal::TERM);
    let mut leave = Vec::new();
    client.read_to_end(&mut leave).expect("the end");
    assert_eq!((leave[0], leave[2]), (0xe0, 0x8b), "DISCONNECT, server shutting down: {leave:?}");
    drop(client);
    let (code, rest) = broker.end();
    assert_eq!(code, Some(0), "{rest:?}");
    assert!(rest.last().is_some_and(|line| line.ends_with("stopped")), "{rest:?}");
}

#[test]
fn certificates_are_read_again_on_sighup() {
    let keys = "cert = \"server.pem\"\nkey = \"server.key\"\n";
    let folder = folder(&(listener("mqtts", 0) + keys));
    write_certificate(folder.path());
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    broker.line_with("petrel ready");

    write_certificate(folder.path());
    broker.signal(Signal::HUP);
    assert_eq!(broker.line(), "reload: certificates, users, rules and limits are read again");

    fs::remove_file(folder.path().join("server.key")).expect("removed");
    broker.signal(Signal::HUP);
    let line = broker.line();
    assert!(line.starts_with("reload: ") && line.contains("the private key file "), "{line}");
    assert!(line.ends_with(" does not exist; nothing has changed"), "{line}");

    broker.signal(Signal::INT);
    assert_eq!(broker.end().0, Some(0));
}

/// What is wrong with a file is told once, and what was read before stays in use.
#[test]
fn certificates_are_read_again_when_their_files_change() {
    let keys = "cert = \"server.pem\"\nkey = \"server.key\"\n";
    let folder = folder(&(listener("mqtts", 0) + keys + "name = \"tls\"\n"));
    write_certificate(folder.path());
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    broker.line_with("petrel ready");
    let certificate = folder.path().join("server.pem");
    let changed = format!("{} changed: ", certificate.display());

    let whole = fs::read(&certificate).expect("it is there");
    fs::write(&certificate, &whole[..whole.len() / 2]).expect("written");
    let line = broker.line();
    assert!(line.starts_with(&changed), "{line}");
    let why = "is not valid PEM: a section has no END line; the certificates of before stay in use";
    assert!(line.ends_with(why), "{line}");

    fs::write(&certificate, &whole).expect("written");
    assert_eq!(broker.line(), changed + "certificates are read again, for new connections");

    // It is told at every reading that a certificate ends soon, and how soon is a figure.
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("good");
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("made");
    let made = params.self_signed(&key).expect("made");
    fs::write(folder.path().join("server.pem"), made.pem()).expect("written");
    fs::write(folder.path().join("server.key"), key.serialize_pem()).expect("written");
    broker.signal(Signal::HUP);
    let line = broker.line();
    assert!(line.starts_with("listener tls: the certificate in "), "{line}");
    assert!(line.contains("server.pem has expired"), "{line}");
    broker.line_with("reload: certificates, users, rules and limits are read again");
    broker.signal(Signal::USR1);
    let line = broker.line_with("certificates: first_ends_in_s=");
    let left = line.rsplit('=').next().and_then(|left| left.parse::<i64>().ok());
    assert!(left.is_some_and(|left| left < 0), "{line}");
    broker.signal(Signal::INT);
    assert_eq!(broker.end().0, Some(0));
}

/// Whoever looks for a device that does not come in finds why.
#[test]
fn a_certificate_that_is_no_good_is_told() {
    let more = "cert = \"server.pem\"\nkey = \"server.pem\"\nclient_certificate = \"required\"\n\
                client_ca = \"ca.pem\"\n";
    let folder = folder(&(listener("mqtts", 0) + more));
    let authority = Authority::new(folder.path());
    authority.put("server.pem", &authority.server(&["localhost"]));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    broker.line_with("petrel ready");
    let tricky = authority.client(1, "admin\0.example");
    for (shown, why) in [
        (None, "the client has no certificate"),
        (Some(tricky), "the user name in the certificate has a control character"),
    ] {
        let device = authority.device(&rustls::version::TLS13, shown.as_ref());
        let mut stream = authority::open(&device, address, "localhost");
        assert_eq!(authority::greet(&mut stream, &authority::connect("client", None)), None);
        let line = broker.line_with("is refused");
        assert_eq!(line, format!("a client at 127.0.0.1 is refused: {why}"));
    }
    broker.signal(Signal::INT);
    assert_eq!(broker.end().0, Some(0));
}

/// The number of a line of figures by its name.
fn figure(line: &str, name: &str) -> u64 {
    let number = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn figures_are_written_on_sigusr1_and_at_the_end() {
    let limits = "[limits]\nsource_connections_per_s = 1\nsource_connections_burst = 2\n";
    let folder = folder(&(listener("mqtt", 0) + "[engine]\nshards = 2\n" + limits));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();
    broker.line_with("petrel ready");
    let _client = Client::connect(address, "one", Version::V5);
    // One more than a source may make at once, whichever shard they come to.
    let _others = [Client::open(address), Client::open(address)];
    // The shards make known what they count four times a second.
    let begin = Instant::now();
    loop {
        broker.signal(Signal::USR1);
        let [
            stages,
            connections,
            retained,
            storage,
            denied,
            ledger,
            limits,
            dropped,
            ended,
            refused,
            memory,
        ] = [(); 11].map(|()| broker.line());
        assert!(denied.ends_with("denied:"), "{denied}");
        assert_eq!(figure(&ledger, "received"), 0);
        assert_eq!(figure(&limits, "filters_refused"), 0);
        assert_eq!(figure(&dropped, "queue_full"), 0);
        assert!(ended.ends_with("ended:"), "{ended}");
        assert_eq!(figure(&refused, "busy"), 0);
        assert_eq!(figure(&retained, "messages"), 0);
        assert_eq!(figure(&storage, "in_trouble"), 0);
        let got = [
            ("accepted", &stages),
            ("refused_by_rate", &stages),
            ("admitted", &stages),
            ("greeting", &connections),
            ("plain", &connections),
            ("sessions", &connections),
            ("sessions_offline", &connections),
        ]
        .map(|(name, line)| figure(line, name));
        assert!(figure(&memory, "rss_bytes") > figure(&memory, "anonymous_bytes"), "{memory}");
        if got == [2, 1, 1, 1, 1, 1, 0] {
            break;
        }
        assert!(begin.elapsed() < common::PATIENCE, "{stages}\n{connections}");
    }
    broker.signal(Signal::TERM);
    let (code, rest) = broker.end();
    assert_eq!(code, Some(0));
    let last = rest.iter().find(|line| line.contains("stages:")).expect("the last figures");
    assert_eq!((figure(last, "accepted"), figure(last, "connect")), (2, 1));
}

#[test]
fn a_listener_that_refuses_everybody_is_a_warning() {
    let folder = folder(&(listener("mqtt", 0) + "allow_anonymous = false\n"));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    broker.line_with("anonymous clients refused");
    broker.line_with("nobody can connect to 127.0.0.1:");
    broker.line_with("petrel ready");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

/// What the file limits is what clients are told, and what happens to them.
#[test]
fn the_limits_of_the_file_are_the_limits_of_the_broker() {
    let limits = "[limits]\nreceive_maximum = 7\nmaximum_packet_size_bytes = 1000\n\
                  topic_alias_maximum = 3\nserver_keep_alive_s = 99\nmaximum_qos = 1\n\
                  retain_available = false\nsession_expiry_max_s = 60\n\
                  connect_timeout_s = 1\npacket_timeout_s = 1\n";
    let folder = folder(&(listener("mqtt", 0) + limits));
    let mut command = petrel();
    with_config(&mut command, &folder);
    let mut broker = Running::start(&mut command);
    let address = broker.address();

    let mut client = Client::open(address);
    let Packet::Connect(mut connect) = connect_packet("", Version::V5) else { unreachable!() };
    connect.properties.session_expiry_interval_s = Some(1000);
    client.send(&Packet::Connect(connect));
    let Some(Packet::ConnAck(connack)) = client.receive() else { panic!("not CONNACK") };
    let told = &connack.properties;
    assert_eq!(told.receive_maximum, Some(7));
    assert_eq!(told.maximum_packet_size, Some(1000));
    assert_eq!(told.topic_alias_maximum, Some(3));
    assert_eq!(told.server_keep_alive_s, Some(99));
    assert_eq!(told.maximum_qos, Some(Qos::AtLeastOnce));
    assert_eq!(told.retain_available, Some(false));
    assert_eq!(told.session_expiry_interval_s, Some(60));

    // Half a packet, and then nothing.
    client.send_bytes(b"\x30\x10");
    client.expect_end();
    drop(client);
    // A connection without CONNECT.
    Client::open(address).expect_end();
    // One byte too many: refused by its length alone.
    let mut client = Client::connect(address, "large", Version::V5);
    client.send_bytes(b"\x30\xe6\x07");
    let Some(Packet::Disconnect(disconnect)) = client.receive() else { panic!("not DISCONNECT") };
    assert_eq!(disconnect.reason, ReasonCode::PacketTooLarge);
    client.expect_end();
    drop(client);

    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

#[test]
fn a_low_limit_of_files_is_told() {
    let (_folder, mut command) =
        limited("-n 20", &(listener("mqtt", 0) + "[engine]\nshards = 2\n"));
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("petrel: RLIMIT_NOFILE is 20 and Petrel needs "), "{stderr}");

    let (_folder, mut command) =
        limited("-n 1000", &(listener("mqtt", 0) + "[engine]\nshards = 2\n"));
    let mut broker = Running::start(&mut command);
    assert!(broker.line().starts_with("RLIMIT_NOFILE is 1000, so about "));
    broker.line_with("petrel ready");
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}

#[test]
fn a_low_limit_of_locked_memory_is_told_or_avoided() {
    let config = |runtime| listener("mqtt", 0) + &format!("[engine]\nruntime = \"{runtime}\"\n");
    let (_folder, mut command) = limited("-l 64", &config("glommio"));
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, 2);
    let last = stderr.lines().last().expect("a sentence");
    assert!(
        last.starts_with("petrel: RLIMIT_MEMLOCK is 64 KiB and glommio needs 512 KiB"),
        "{last}"
    );

    let (_folder, mut command) = limited("-l 64", &config("auto"));
    falls_back_to_epoll(&mut command, "RLIMIT_MEMLOCK is 64 KiB");
}

#[test]
fn without_io_uring_the_epoll_runtime_serves() {
    for call in IO_URING_CALLS {
        let restricted = thread::spawn(move || {
            forbid(call);
            let folder = folder(&listener("mqtt", 0));
            let mut command = petrel();
            with_config(&mut command, &folder);
            falls_back_to_epoll(&mut command, "io_uring is ");
        });
        restricted.join().expect("no panic");
    }
}

fn falls_back_to_epoll(command: &mut Command, why: &str) {
    let mut broker = Running::start(command);
    let line = broker.line_with(why);
    assert!(line.ends_with("; the epoll runtime runs instead"), "{line}");
    assert!(broker.line_with("petrel ready").contains(" on epoll"));
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
