//! A whole broker that asks others who clients are, over HTTP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, Running};
use petrel_engine::config::Config;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};

use crate::broker::done;
use crate::support::{outcome, petrelctl};

/// A server that answers each request with what this says of its head and body.
struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Answer = dyn Fn(&str, &str) -> (u16, String) + Send + Sync;

impl Server {
    fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, answer) = (Arc::clone(&is_over), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || converse(stream, &*answer));
            }
        });
        Self { address, is_over, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers requests until the other side has closed.
fn converse(stream: TcpStream, answer: &Answer) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head), Ok(1..)) {
                return;
            }
        }
        head.make_ascii_lowercase();
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let (status, said) = answer(&head, &String::from_utf8(body).unwrap());
        let length = said.len();
        let text = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{said}");
        if stream.get_mut().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn start(folder: &Path, lines: &str) -> Running {
    let text = format!(
        "[engine]\nshards = 2\nfd_tables = \"shared\"\n[[listener]]\nprotocol = \"mqtt\"\n\
         name = \"door\"\naddress = \"127.0.0.1:0\"\nauthentication = [\"it\"]\n\
         [[authenticator]]\nname = \"it\"\ntimeout_ms = 60_000\n{lines}"
    );
    let config = Config::parse(&text, folder).expect("nothing is wrong");
    boot::start(config, &AuthMethods::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Exit code of a command, which is that of the CONNACK if the broker refuses.
fn code(port: u16, line: &str) -> i32 {
    let port = port.to_string();
    let mut words: Vec<_> = line.split_whitespace().collect();
    words.extend(["-h", "127.0.0.1", "-p", &port]);
    outcome(&mut petrelctl(&words)).0
}

/// What a program says of some users, to those who have the key of the day.
fn of_users(key: &str, head: &str, body: &str) -> (u16, String) {
    let says = |text: &str| (200, text.to_owned());
    let has = |name: &str, value: &str| body.contains(&format!("\"{name}\":\"{value}\""));
    if !head.contains(&format!("authorization: bearer {key}\r\n")) || !has("listener", "door") {
        return (403, String::new());
    }
    match body {
        _ if has("user", "alice") && has("password", "a") => {
            says(r#"{"result": "allow", "groups": ["staff"]}"#)
        }
        _ if has("user", "bob") && has("password", "b") => {
            says(r#"{"result": "allow", "rights": {"publish": ["up/%u"]}}"#)
        }
        _ if has("user", "broken") => (500, String::new()),
        _ => says(r#"{"result": "deny"}"#),
    }
}

/// CONNACK codes: 4 and 134 for a bad user name or password, 3 and 136 for a server that is unavailable.
#[test]
fn a_program_says_who_comes_in_and_what_for() {
    let key = Arc::new(Mutex::new("monday"));
    let key_of_the_day = Arc::clone(&key);
    let server =
        Server::start(move |head, body| of_users(*key_of_the_day.lock().unwrap(), head, body));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("token", "Bearer monday\n");
    write(
        "rules.toml",
        "[[rule]]\nallow = \"both\"\ntopics = [\"plant/#\"]\ngroups = [\"staff\"]\n",
    );
    let url = format!("http://{}/ask", server.address);
    let lines = format!(
        "kind = \"http\"\nurl = \"{url}\"\nheader_files = [\"Authorization: token\"]\n\
         [access]\nrules = \"rules.toml\"\n"
    );
    let broker = start(folder.path(), &lines);
    let port = broker.addresses()[0].port();
    for (version, bad, unavailable) in [("5", 134, 136), ("311", 4, 3), ("31", 4, 3)] {
        let publish = format!("pub -V {version} -m m -t plant/x");
        assert_eq!(code(port, &format!("{publish} -u alice -P a")), 0);
        assert_eq!(code(port, &format!("{publish} -u alice -P x")), bad);
        assert_eq!(code(port, &format!("{publish} -u carol -P a")), bad);
        assert_eq!(code(port, &format!("{publish} -u broken -P a")), unavailable);
    }
    done(port, "pub -u alice -P a -t plant/x -m m -q 1");
    assert_eq!(code(port, "pub -u alice -P a -t up/alice -m m -q 1"), 1);
    done(port, "pub -u bob -P b -t up/bob -m m -q 1");
    assert_eq!(code(port, "pub -u bob -P b -t plant/x -m m -q 1"), 1);

    *key.lock().unwrap() = "tuesday";
    assert_eq!(code(port, "pub -u alice -P a -i new -t plant/x -m m"), 136);
    write("token", "");
    let error = broker.reload().expect_err("there is no key").to_string();
    assert!(error.contains("token must hold one line, the secret"), "{error}");
    write("token", "Bearer tuesday\n");
    broker.reload().expect("nothing is wrong");
    assert_eq!(code(port, "pub -u alice -P a -i new -t plant/x -m m"), 0);
    drop(server);
    broker.stop().expect("it stops");
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of Ed25519 with its end in the year 2100.
fn token(pair: &KeyPair, user: &str) -> String {
    let header = encoded(r#"{"alg": "EdDSA", "kid": "ours"}"#);
    let claims = encoded(format!("{{\"sub\": \"{user}\", \"exp\": 4102444800}}"));
    let signature = pair.sign(format!("{header}.{claims}").as_bytes()).unwrap();
    format!("{header}.{claims}.{}", encoded(signature))
}

#[test]
fn keys_of_tokens_are_fetched_though_not_there_at_the_start() {
    let ours = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let set = format!(
        r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "kid": "ours", "x": "{}"}}]}}"#,
        encoded(ours.der_bytes())
    );
    let is_there = Arc::new(AtomicBool::new(false));
    let may_say = Arc::clone(&is_there);
    let server = Server::start(move |_, _| match may_say.load(Ordering::Acquire) {
        true => (200, set.clone()),
        false => (503, String::new()),
    });
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}/keys", server.address);
    let lines = format!("kind = \"jwt\"\njwks = \"{url}\"\nrefresh_s = 86_400\n");
    let broker = start(folder.path(), &lines);
    let port = broker.addresses()[0].port();
    let good = token(&ours, "alice");
    assert_eq!(code(port, &format!("pub -t t -m m -u alice -P {good}")), 136);
    assert_eq!(code(port, "pub -t t -m m -u alice -P secret"), 134, "no token, so bad anyway");
    is_there.store(true, Ordering::Release);
    broker.reload().expect("nothing is wrong");
    assert_eq!(code(port, &format!("pub -t t -m m -u alice -P {good}")), 0);
    let forged = token(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), "alice");
    assert_eq!(code(port, &format!("pub -t t -m m -u alice -P {forged}")), 134);
    is_there.store(false, Ordering::Release);
    broker.reload().expect("a server that fails is no fault of the configuration");
    assert_eq!(code(port, &format!("pub -t t -m m -i x -u alice -P {good}")), 0, "they go on");
    broker.stop().expect("it stops");
}
