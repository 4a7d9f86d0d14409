//! `petrelctl` over TLS and WebSocket.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use petrel_net::tls::{TicketSecret, TlsApplication, TlsConfig, TlsSession};
use petrel_net::websocket::{WebSocket, WebSocketConfig};
use petrel_proto::{Packet, ReasonCode};
use tempfile::TempDir;

use crate::support::{Broker, Client, Layers, outcome};

/// A folder with a self-signed `server.pem`, its `server.key`, and an unrelated `other.pem`.
pub fn certificates() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        fs::write(folder.path().join(name), text).expect("written");
    };
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    write("server.pem", made.cert.pem());
    write("server.key", made.signing_key.serialize_pem());
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("made");
    write("other.pem", other.cert.pem());
    folder
}

fn tls(folder: &Path) -> TlsSession {
    let (cert, key) = (folder.join("server.pem"), folder.join("server.key"));
    let secret = TicketSecret::new([7; 32]);
    let config = TlsConfig::from_pem_files(&cert, &key, TlsApplication::Mqtt, &secret);
    TlsSession::new(&config.expect("good files")).expect("a session")
}

fn websocket() -> WebSocket {
    WebSocket::new(&Arc::new(WebSocketConfig::default()))
}

/// A broker behind these layers that sends back what is published, `large` bytes at least.
fn echo(layers: Layers) -> Broker<Vec<Packet>> {
    Broker::start_behind(layers, |mut client: Client| {
        client.accept();
        client.suback(&[ReasonCode::Success]);
        for payload in ["", "x", &"y".repeat(100_000)] {
            client.publish(0, petrel_proto::Qos::AtMostOnce, "a", payload);
        }
        client.rest()
    })
}

fn receives_everything(broker: Broker<Vec<Packet>>, command: &mut Command) {
    let (code, stdout, stderr) = outcome(command);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, format!("a (null)\na x\na {}\n", "y".repeat(100_000)));
    assert!(matches!(broker.finish()[..], [Packet::Disconnect(_)]));
}

#[test]
fn tls_trusts_the_file_that_is_named() {
    let folder = certificates();
    let broker = echo(Layers { tls: Some(tls(folder.path())), websocket: None });
    let mut command = broker.petrelctl("sub -t a -v -C 3 --cafile");
    receives_everything(broker, command.arg(folder.path().join("server.pem")));
}

#[test]
fn tls_without_trust_is_still_tls() {
    let folder = certificates();
    let broker = echo(Layers { tls: Some(tls(folder.path())), websocket: None });
    let mut command = broker.petrelctl("sub -t a -v -C 3 --insecure");
    receives_everything(broker, &mut command);
}

#[test]
fn websocket_carries_mqtt() {
    let broker = echo(Layers { tls: None, websocket: Some(websocket()) });
    let mut command = broker.petrelctl("sub -t a -v -C 3 --ws");
    receives_everything(broker, &mut command);
}

#[test]
fn websocket_over_tls_carries_mqtt() {
    let folder = certificates();
    let broker = echo(Layers { tls: Some(tls(folder.path())), websocket: Some(websocket()) });
    let mut command = broker.petrelctl("sub -t a -v -C 3 --ws --insecure");
    receives_everything(broker, &mut command);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let folder = certificates();
    let other = folder.path().join("other.pem");
    let broker = Broker::start_behind(
        Layers { tls: Some(tls(folder.path())), websocket: None },
        |mut client| client.ends_in_a_fault(),
    );
    let place = broker.address;
    let (code, _, stderr) = outcome(broker.petrelctl("pub -t a -m x --cafile").arg(other));
    assert_eq!(code, 1);
    assert_eq!(
        stderr,
        format!(
            "petrelctl: the certificate of {place} is from nobody that is trusted here; name its \
             authority with --cafile FILE, or accept anybody with --insecure\n"
        )
    );
    assert!(broker.finish(), "the broker got an alert and nothing else");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let folder = certificates();
    let broker = Broker::start_behind(
        Layers { tls: Some(tls(folder.path())), websocket: None },
        |mut client| client.ends_in_a_fault(),
    );
    let port = broker.address.port().to_string();
    let cafile = folder.path().join("server.pem");
    let mut command = crate::support::petrelctl(&["pub", "-t", "a", "-m", "x", "-h", "localhost"]);
    let (code, _, stderr) = outcome(command.args(["-p", &port, "--cafile"]).arg(cafile));
    assert_eq!(code, 1);
    assert!(stderr.contains("is for another name"), "{stderr}");
    assert!(broker.finish());
}

#[test]
fn a_wrong_path_is_told() {
    let broker =
        Broker::start_behind(Layers { tls: None, websocket: Some(websocket()) }, |mut client| {
            client.ends_in_a_fault()
        });
    let (code, _, stderr) = outcome(&mut broker.petrelctl("pub -t a -m x --ws-path /other"));
    assert_eq!(code, 1);
    let end = "the server has no WebSocket at this path (HTTP status 404)\n";
    assert!(stderr.ends_with(end), "{stderr}");
    assert!(broker.finish());
}
