//! Other people's TLS on the other side of a socket: OpenSSL's `s_client`, and Python's `ssl` in both
//! roles. Keys wear out after four records here, so both sides change theirs all the time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use petrel_net::tls::compact::CompactSession;
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::rig::{SUITES, Site, connect, pem, serve};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends a program that a failed test leaves behind.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program, or says why the test has nothing to do.
fn start(command: &mut Command) -> Option<Program> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(child) => Some(Program(child)),
        Err(error) => {
            println!("not tested, {:?} does not start: {error}", command.get_program());
            None
        }
    }
}

/// Serves one client: greets it, and sends back what it says until it closes.
fn echo(suite: SupportedCipherSuite) -> (SocketAddr, JoinHandle<usize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut session = serve(Site::new(suite), &mut stream);
        session.set_update_after_log2(2);
        let (mut plain, mut out) = (BytesMut::new(), Vec::new());
        session.write(b"ready\n", &mut out).unwrap();
        stream.write_all(&out).unwrap();
        let mut echoed = 0;
        while let Some(open) = step(&mut session, &mut stream, &mut plain) {
            out.clear();
            session.write(&plain, &mut out).unwrap();
            echoed += plain.len();
            plain.clear();
            if !open {
                session.close_notify(&mut out);
            }
            // A client that is closing may not read it any more.
            let sent = stream.write_all(&out);
            if !open {
                return echoed;
            }
            sent.unwrap();
        }
        panic!("the client went without close_notify");
    });
    (address, server)
}

/// Reads once; whether the peer is still open, `None` when it is gone.
fn step(
    session: &mut CompactSession,
    stream: &mut TcpStream,
    plain: &mut BytesMut,
) -> Option<bool> {
    let mut wire = [0; 2048];
    let count = stream.read(&mut wire).unwrap();
    let mut out = Vec::new();
    let closed = session.read(&mut wire[..count], plain, &mut out).unwrap();
    stream.write_all(&out).unwrap();
    (count > 0 || closed).then_some(!closed)
}

fn openssl_name(suite: SupportedCipherSuite) -> &'static str {
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        _ => "TLS_CHACHA20_POLY1305_SHA256",
    }
}

/// Reads lines until one is `line`.
fn wait_for(line: &str, from: &mut impl BufRead) {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        assert_ne!(from.read_line(&mut seen).unwrap(), 0, "no {line:?} in {seen:?}");
        if seen[start..].trim_end() == line {
            return;
        }
    }
}

#[test]
fn s_client_follows_our_key_updates_and_we_follow_its() {
    for suite in SUITES {
        let (address, server) = echo(suite);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-brief", "-tls1_3", "-ciphersuites", openssl_name(suite)]);
        command.args(["-connect", &address.to_string(), "-servername", "localhost"]);
        let Some(mut client) = start(&mut command) else { return };
        let mut input = client.0.stdin.take().unwrap();
        let mut output = BufReader::new(client.0.stdout.take().unwrap());
        let mut errors = BufReader::new(client.0.stderr.take().unwrap());
        wait_for("ready", &mut output);
        let mut said = 0;
        for round in 0..12 {
            // `K` also asks for a new key of ours. A command has to be all that it reads.
            input.write_all([&b"K\n"[..], b"k\n"][round % 2]).unwrap();
            wait_for("KEYUPDATE", &mut errors);
            let line = format!("line {round}");
            writeln!(input, "{line}").unwrap();
            said += line.len() + 1;
            wait_for(&line, &mut output);
        }
        drop(input);
        assert_eq!(server.join().unwrap(), said);
    }
}

const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.minimum_version = ssl.TLSVersion.TLSv1_3
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) as plain:
    with context.wrap_socket(plain, server_hostname="localhost") as stream:
        assert stream.recv(100) == b"ready\n"
        for n in range(60):
            message = bytes([n]) * (n * n * 7 + 1)
            stream.sendall(message)
            heard = b""
            while len(heard) < len(message):
                part = stream.recv(65536)
                assert part, "closed"
                heard += part
            assert heard == message
        stream.unwrap()
print("done")
"#;

const PYTHON_SERVER: &str = r#"
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.minimum_version = ssl.TLSVersion.TLSv1_3
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    plain, _ = listener.accept()
    plain.settimeout(30)
    with context.wrap_socket(plain, server_side=True) as stream:
        while True:
            part = stream.recv(65536)
            if not part:
                break
            stream.sendall(part)
        stream.unwrap()
print("done", flush=True)
"#;

#[test]
fn pythons_client_hears_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cert.pem");
    std::fs::write(&file, pem().0).unwrap();
    for suite in SUITES {
        let (address, server) = echo(suite);
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_CLIENT, &address.port().to_string()]).arg(&file);
        let Some(mut client) = start(&mut command) else { return };
        let (mut said, mut errors) = (String::new(), String::new());
        client.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        client.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(said.starts_with("done"), "{errors}");
        assert_eq!(server.join().unwrap(), (0..60).map(|n| n * n * 7 + 1).sum::<usize>());
    }
}

#[test]
fn pythons_server_is_served_by_our_client() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, pem().0).unwrap();
    std::fs::write(&key, pem().1).unwrap();
    for suite in SUITES {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON_SERVER]).arg(&cert).arg(&key);
        let Some(mut server) = start(&mut command) else { return };
        let mut output = BufReader::new(server.0.stdout.take().unwrap());
        let mut port = String::new();
        output.read_line(&mut port).unwrap();
        let port: u16 = port.trim().parse().expect("the server prints its port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut session = connect(Site::new(suite), &mut stream);
        session.set_update_after_log2(2);
        for n in 0..60_usize {
            let message = vec![n as u8; n * n * 7 + 1];
            let (mut plain, mut out) = (BytesMut::new(), Vec::new());
            session.write(&message, &mut out).unwrap();
            stream.write_all(&out).unwrap();
            while plain.len() < message.len() {
                assert_eq!(step(&mut session, &mut stream, &mut plain), Some(true));
            }
            assert!(plain == message);
        }
        let mut out = Vec::new();
        session.close_notify(&mut out);
        stream.write_all(&out).unwrap();
        wait_for("done", &mut output);
    }
}
