//! A broker with a file table for each shard that asks a program over HTTP: what wakes the runtime must not be a
//! shard, and the end of the broker must not wait for the program.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use common::process::{Running, folder, listener, petrel, with_config};
use rustix::process::Signal;

/// The return code of a CONNACK to a CONNECT of MQTT 3.1.1 with this user and password.
fn connack(address: SocketAddr, user: &str, password: &str) -> u8 {
    let mut stream = connect(address, user, password);
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("a CONNACK");
    assert_eq!(answer[..2], [0x20, 2]);
    answer[3]
}

fn connect(address: SocketAddr, user: &str, password: &str) -> TcpStream {
    let text = |text: &str| [&[0, text.len() as u8], text.as_bytes()].concat();
    let head = [text("MQTT"), vec![4, 0xc2, 0, 60]].concat();
    let body = [head, text(user), text(user), text(password)].concat();
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(&[&[0x10, body.len() as u8], &body[..]].concat()).expect("it is taken");
    stream
}

/// Answers clients whose password is "right"; never those of the user "patience".
fn program() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // They end with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || converse(stream));
        }
    });
    address
}

fn converse(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        head.make_ascii_lowercase();
        let (_, length) = head.split_once("content-length: ").expect("a length");
        let length = length.lines().next().expect("a line").parse().expect("a number");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let body = String::from_utf8(body).expect("text");
        if body.contains("patience") {
            continue;
        }
        let result = if body.contains("\"password\":\"right\"") { "allow" } else { "deny" };
        let said = format!("{{\"result\": \"{result}\"}}");
        let length = said.len();
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{said}");
        stream.get_mut().write_all(text.as_bytes()).expect("it is taken");
    }
}

#[test]
fn shards_with_file_tables_of_their_own_reach_a_program() {
    for runtime in ["glommio", "epoll"] {
        let url = format!("http://{}/", program());
        let config = format!(
            "[engine]\nshards = 3\nruntime = \"{runtime}\"\nfd_tables = \"per-shard\"\n{}\
             authentication = [\"web\"]\n[[authenticator]]\nname = \"web\"\nkind = \"http\"\n\
             url = \"{url}\"\ntimeout_ms = 60_000\nin_flight_maximum = 4\n",
            listener("mqtt", 0)
        );
        let folder = folder(&config);
        let mut command = petrel();
        with_config(&mut command, &folder);
        let mut broker = Running::start(&mut command);
        let address = broker.address();
        let ready = broker.line_with("petrel ready");
        assert!(ready.ends_with(", a file table each"), "{ready}");
        for index in 0..30 {
            let user = format!("user-{index}");
            assert_eq!(connack(address, &user, "right"), 0);
            assert_eq!(connack(address, &user, "wrong"), 4);
        }
        // Some wait when it ends.
        let _waiting: Vec<_> = (0..10).map(|_| connect(address, "patience", "x")).collect();
        assert_eq!(connack(address, "user-0", "right"), 0, "what is known needs nobody");
        broker.signal(Signal::TERM);
        let (code, lines) = broker.end();
        assert_eq!(code, Some(0), "{lines:?}");
    }
}
