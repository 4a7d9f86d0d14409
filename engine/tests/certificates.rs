//! Certificates of clients, several of the broker's, and files that change, over real sockets.

mod common;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use common::authority::{Authority, Shown, VERSIONS, connect, greet, open};
use common::{Client, PATIENCE, RUNTIMES, start};
use petrel_engine::boot::Running;
use petrel_engine::config::{Config, FdTablesChoice, RuntimeChoice};
use petrel_proto::{Packet, Qos, ReasonCode};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

const ASKING: &str = "client_certificate = \"required\"\nclient_ca = \"ca.pem\"\n";
const DEVICES: &str = "authentication = [\"devices\"]\n[[authenticator]]\nname = \"devices\"\n\
                       kind = \"certificate\"\n";

/// A broker of this folder with one listener that has `server.pem`, and these lines more.
fn broker(folder: &Path, runtime: RuntimeChoice, protocol: &str, more: &str) -> Running {
    let text = format!(
        "[[listener]]\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:0\"\n\
         cert = \"server.pem\"\nkey = \"server.pem\"\n{more}"
    );
    let mut config = match Config::parse(&text, folder) {
        Ok(config) => config,
        Err(problems) => panic!("{problems:?}"),
    };
    config.engine.shards = Some(2);
    config.engine.runtime = runtime;
    config.engine.fd_tables = FdTablesChoice::Shared;
    start(config)
}

fn authority(folder: &Path) -> Authority {
    let authority = Authority::new(folder);
    authority.put("server.pem", &authority.server(&["localhost"]));
    authority
}

fn hello(
    device: &Arc<ClientConfig>,
    address: SocketAddr,
    user: Option<&str>,
) -> Option<ReasonCode> {
    greet(&mut open(device, address, "localhost"), &connect("client", user))
}

const IN: Option<ReasonCode> = Some(ReasonCode::Success);

/// Whose certificate is good is its user, whatever the version and the record layer.
#[test]
fn a_certificate_lets_its_user_in_and_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    fs::create_dir(folder.path().join("foreign")).expect("made");
    let foreign = Authority::new(&folder.path().join("foreign"));
    authority.revoke(&[7]);
    let rules = "[[rule]]\nallow = \"both\"\ntopics = [\"of/%u\"]\n";
    fs::write(folder.path().join("rules"), rules).expect("written");
    let own = authority.client(1, "device-1");
    let revoked = authority.client(7, "device-7");
    let expired = authority.client_with(2, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "device-2");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let tricky = |name: &str| authority.client(3, name);
    let strangers: [(&str, Shown); 6] = [
        ("foreign", foreign.client(1, "device-1")),
        ("revoked", revoked),
        ("expired", expired),
        ("NUL", tricky("device-1\0.example")),
        ("over-long", tricky(&"a".repeat(513))),
        (
            "two names",
            authority.client_with(4, |params| {
                params.distinguished_name.push(rcgen::DnType::CommonName, "device-1");
                let again = rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]);
                params.distinguished_name.push(again, "admin");
            }),
        ),
    ];
    for (runtime, layer) in RUNTIMES.into_iter().zip(["rustls", "compact"]) {
        let more = format!(
            "record_layer = \"{layer}\"\n{ASKING}client_crl = [\"crl.pem\"]\n{DEVICES}\
             [access]\nrules = \"rules\"\n"
        );
        let broker = broker(folder.path(), runtime, "mqtts", &more);
        let address = broker.addresses()[0];
        for version in VERSIONS {
            let device = authority.device(version, Some(&own));
            assert_eq!(hello(&device, address, None), IN);
            assert_eq!(hello(&device, address, Some("device-1")), IN);
            let other = hello(&device, address, Some("admin"));
            assert_eq!(other, Some(ReasonCode::BadUserNameOrPassword));
            for (what, shown) in &strangers {
                let device = authority.device(version, Some(shown));
                assert_eq!(hello(&device, address, None), None, "{what}");
            }
            assert_eq!(hello(&authority.device(version, None), address, None), None);

            // Its user is the one that rules know, also when it resumes.
            let mut client = Client::over(open(&device, address, "localhost"));
            client.hello("client");
            assert_eq!(client.stream.conn.handshake_kind(), Some(HandshakeKind::Resumed));
            client.subscribe("of/device-1", Qos::AtMostOnce);
            client.send(&common::subscribe_packet("of/admin", Qos::AtMostOnce));
            let Some(Packet::SubAck(ack)) = client.receive() else { panic!("no SUBACK") };
            assert_eq!(ack.reasons[..], [ReasonCode::NotAuthorized]);
        }
        broker.stop().expect("it stops");
    }
}

#[test]
fn an_optional_certificate_is_asked_for_and_none_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    let own = authority.client(1, "device-1");
    for (demand, without, with) in
        [("optional", IN, IN), ("none", IN, Some(ReasonCode::BadUserNameOrPassword))]
    {
        let more = match demand {
            "none" => "authentication = [\"file\"]\nallow_anonymous = true\n[[authenticator]]\n\
                       name = \"file\"\nkind = \"passwords\"\nfile = \"users\"\n"
                .to_owned(),
            _ => format!("allow_anonymous = true\n{}{DEVICES}", ASKING.replace("required", demand)),
        };
        fs::write(folder.path().join("users"), "# nobody\n").expect("written");
        let broker = broker(folder.path(), RuntimeChoice::Auto, "mqtts", &more);
        let address = broker.addresses()[0];
        assert_eq!(hello(&authority.device(&TLS13, None), address, None), without);
        let device = authority.device(&TLS13, Some(&own));
        assert_eq!(hello(&device, address, Some("device-1")), with, "{demand}");
        broker.stop().expect("it stops");
    }
}

/// Over WebSocket too.
#[test]
fn a_certificate_counts_under_websocket() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    let more = format!("record_layer = \"compact\"\n{ASKING}{DEVICES}");
    let broker = broker(folder.path(), RuntimeChoice::Auto, "wss", &more);
    let own = authority.client(1, "device-1");
    for user in [("device-1", IN), ("admin", Some(ReasonCode::BadUserNameOrPassword))] {
        let stream =
            open(&authority.device(&TLS13, Some(&own)), broker.addresses()[0], "localhost");
        let mut stream = common::layers::WsStream::open(stream, "/mqtt");
        assert_eq!(greet(&mut stream, &connect("client", Some(user.0))), user.1);
    }
    broker.stop().expect("it stops");
}

/// Until something is as it should be.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Each shard takes the news at its next turn, and listens on its own: all have it when so many
/// connections in a row find it so.
fn everywhere(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut in_a_row = 0;
    until(what, || {
        in_a_row = if is_so() { in_a_row + 1 } else { 0 };
        in_a_row == 16
    });
}

/// A client that has been revoked cannot come back on the session that it has.
#[test]
fn a_new_list_of_revoked_certificates_is_found_and_resuming_does_not_help() {
    for (runtime, layer) in RUNTIMES.into_iter().zip(["compact", "rustls"]) {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(folder.path());
        authority.revoke(&[7]);
        let more =
            format!("record_layer = \"{layer}\"\n{ASKING}client_crl = [\"crl.pem\"]\n{DEVICES}");
        let broker = broker(folder.path(), runtime, "mqtts", &more);
        let address = broker.addresses()[0];
        let [bad, good] = [(1, "bad"), (2, "good")].map(|(serial, name)| {
            let shown = authority.client(serial, name);
            VERSIONS.map(|version| authority.device(version, Some(&shown)))
        });
        for device in bad.iter().chain(&good) {
            assert_eq!(hello(device, address, None), IN);
        }
        let mut connected = Client::over(open(&good[0], address, "localhost"));
        connected.hello("connected");
        authority.revoke(&[1, 7]);
        everywhere("the revoked one is refused", || {
            // Each attempt resumes, as long as it succeeds; a fresh client cannot come in either.
            bad.iter().all(|device| hello(device, address, None).is_none())
        });
        for device in &good {
            let mut client = open(device, address, "localhost");
            assert_eq!(greet(&mut client, &connect("good", None)), IN);
            let kind = client.conn.handshake_kind();
            assert_eq!(kind, Some(HandshakeKind::Resumed), "a new list costs the others nothing");
        }
        connected.send(&Packet::PingReq);
        assert_eq!(connected.receive(), Some(Packet::PingResp));
        drop(connected);
        broker.stop().expect("it stops");
    }
}

#[test]
fn certificates_are_read_again_when_their_files_change_and_nobody_is_dropped() {
    for runtime in RUNTIMES {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority(folder.path());
        let broker = broker(folder.path(), runtime, "mqtts", "");
        let address = broker.addresses()[0];
        let shown = || {
            let mut stream = open(&authority.device(&TLS13, None), address, "localhost");
            assert_eq!(greet(&mut stream, &connect("client", None)), IN);
            stream.conn.peer_certificates().expect("it shows one")[0].to_vec()
        };
        let device = authority.device(&TLS13, None);
        let mut connected = Client::over(open(&device, address, "localhost"));
        connected.hello("connected");
        let first = shown();

        // Half a file, written in place: the old one stays in use.
        let next = authority.server(&["localhost"]);
        fs::write(folder.path().join("server.pem"), &next[..next.len() / 2]).expect("written");
        assert_eq!(shown(), first);
        fs::write(folder.path().join("server.pem"), &next).expect("written");
        everywhere("the certificate in place is shown", || shown() != first);
        let second = shown();
        // Another file is moved there.
        authority.put("server.pem", &authority.server(&["localhost"]));
        everywhere("the certificate that was moved there is shown", || {
            let now = shown();
            now != first && now != second
        });
        connected.send(&Packet::PingReq);
        assert_eq!(connected.receive(), Some(Packet::PingResp));
        drop(connected);
        broker.stop().expect("it stops");
    }
}

/// Another authority counts as soon as it is in the file, and a session from before is worth nothing.
#[test]
fn another_authority_ends_what_the_first_has_begun() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    let broker = broker(folder.path(), RuntimeChoice::Auto, "mqtts", &format!("{ASKING}{DEVICES}"));
    let address = broker.addresses()[0];
    let own = authority.client(1, "device-1");
    let device = authority.device(&TLS13, Some(&own));
    assert_eq!(hello(&device, address, None), IN);
    fs::create_dir(folder.path().join("next")).expect("made");
    let _next = Authority::new(&folder.path().join("next"));
    let pem = fs::read_to_string(folder.path().join("next/ca.pem")).expect("it is there");
    authority.put("ca.pem", &pem);
    everywhere("the first authority counts no more", || hello(&device, address, None).is_none());
    broker.stop().expect("it stops");
}

#[test]
fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    authority.put("wild.pem", &authority.server(&["*.example.org"]));
    let more = "[[listener.certificate]]\ncert = \"wild.pem\"\nkey = \"wild.pem\"\n";
    let broker = broker(folder.path(), RuntimeChoice::Auto, "mqtts", more);
    for version in VERSIONS {
        let device = authority.device(version, None);
        let comes_in = |name: &str| {
            let mut stream = open(&device, broker.addresses()[0], name);
            greet(&mut stream, &connect("client", None)).is_some()
        };
        assert!(comes_in("localhost") && comes_in("a.example.org"));
        assert!(!comes_in("example.org") && !comes_in("a.b.example.org"));
    }
    broker.stop().expect("it stops");
}

#[test]
fn a_listener_speaks_the_versions_and_groups_that_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    for (policy, new, old) in [
        ("tls_minimum = \"1.3\"\n", true, false),
        ("tls_suites = [\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]\n", false, true),
        ("tls_groups = [\"X25519MLKEM768\"]\n", true, false),
    ] {
        let broker = broker(folder.path(), RuntimeChoice::Auto, "mqtts", policy);
        let comes_in = |version| {
            hello(&authority.device(version, None), broker.addresses()[0], None).is_some()
        };
        assert_eq!((comes_in(&TLS13), comes_in(&TLS12)), (new, old), "{policy}");
        broker.stop().expect("it stops");
    }
}

/// What is counted is the certificate that ends first.
#[test]
fn the_end_of_the_certificates_is_a_figure() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = authority(folder.path());
    authority.put("old.pem", &authority.server_until(&["old.example"], 2020));
    let plain = start(common::config(1, RuntimeChoice::Auto));
    assert_eq!(plain.watch().figures().certificate_ends_in_s, None);
    plain.stop().expect("it stops");
    let more = "[[listener.certificate]]\ncert = \"old.pem\"\nkey = \"old.pem\"\n";
    for (more, has_ended) in [("", false), (more, true)] {
        let broker = broker(folder.path(), RuntimeChoice::Auto, "mqtts", more);
        let ends_in_s = broker.watch().figures().certificate_ends_in_s.expect("there is one");
        assert_eq!(ends_in_s < 0, has_ended);
        broker.stop().expect("it stops");
    }
}
