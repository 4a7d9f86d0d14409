//! What tests of this crate have in common: desks that are asked, and servers that answer as they are told.

#[cfg(any(feature = "ldap", feature = "postgresql"))]
pub(crate) mod programs;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use petrel_net::Bell;
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{Asks, ConnId, Credentials, Origin, Question, Verdict};

use crate::journal::Journal;
use crate::passwords::{Cost, hash};
use crate::{Answer, Chain, Check, Checks, Desk, Notice, Office, Outside, Passwords, Settings};

const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

pub(crate) fn passwords(users: &[(&str, &str)]) -> Check {
    let lines = users.iter().map(|(user, password)| {
        format!("{user}:{}:staff\n", hash(password.as_bytes(), CHEAP).unwrap())
    });
    Check::Passwords(Arc::new(Passwords::parse(&lines.collect::<String>()).unwrap()))
}

pub(crate) fn chains(checks: Vec<Vec<Check>>) -> Checks {
    let chain = |checks| Chain { listener: "door".to_owned(), checks };
    Checks(checks.into_iter().map(chain).collect())
}

pub(crate) fn start(settings: Settings, checks: Vec<Vec<Check>>) -> (Office, Desk) {
    start_with(settings, checks, Outside::default())
}

pub(crate) fn start_with(
    settings: Settings,
    checks: Vec<Vec<Check>>,
    outside: Outside,
) -> (Office, Desk) {
    let bell = Arc::new(Bell::new().unwrap());
    let (office, mut desks) = Office::start(settings, chains(checks), &[bell], outside).unwrap();
    (office, desks.remove(0))
}

pub(crate) fn question(
    index: u32,
    listener: u16,
    user: Option<&str>,
    password: Option<&str>,
) -> Question {
    let address = "127.0.0.1:9".parse().unwrap();
    let origin = Origin {
        listener,
        allow_anonymous: false,
        authenticates: true,
        address,
        certificate: None,
    };
    let credentials = Credentials {
        origin,
        user_name: user.map(|user| Text::try_from(user).unwrap()),
        password: password.map(|password| password.to_owned().into()),
    };
    Question {
        conn: ConnId { index, generation: 1 },
        client_id: Text::try_from("c").unwrap(),
        asks: Asks::Credentials(Box::new(credentials)),
    }
}

/// What the desk says next, within a minute.
pub(crate) fn next(desk: &mut Desk, now_ms: u64) -> (u32, Answer) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some((conn, answer)) = desk.next(now_ms, |_| true) {
            return (conn.index, answer);
        }
        assert!(Instant::now() < end, "nothing is said");
        std::thread::yield_now();
    }
}

pub(crate) fn ask(
    desk: &mut Desk,
    now_ms: u64,
    question: Question,
) -> (bool, Result<String, ReasonCode>) {
    let (known, finding) = match desk.ask(now_ms, question) {
        Some(finding) => (true, finding),
        None => match next(desk, now_ms) {
            (_, Answer::Verdict(finding)) => (false, finding),
            (_, Answer::Gone) => panic!("it is there"),
        },
    };
    let said = match finding.verdict {
        Verdict::Accept { identity: Some(identity), .. } => Ok(identity.user.as_str().to_owned()),
        Verdict::Refuse { reason } => Err(reason),
        other => panic!("{other:?}"),
    };
    (known, said)
}

pub(crate) const BAD: Result<String, ReasonCode> = Err(ReasonCode::BadUserNameOrPassword);
pub(crate) const UNAVAILABLE: Result<String, ReasonCode> = Err(ReasonCode::ServerUnavailable);

/// The lines that were written.
pub(crate) type Lines = Arc<Mutex<Vec<Notice>>>;

/// An outside whose lines are kept.
pub(crate) fn outside() -> (Outside, Lines) {
    let lines = Lines::default();
    let to = Arc::clone(&lines);
    let journal = Journal::new(move |notice| to.lock().unwrap().push(notice));
    (Outside { journal, ..Outside::default() }, lines)
}

/// All lines that were written, one below the other.
pub(crate) fn written(lines: &Lines) -> String {
    let lines = lines.lock().unwrap();
    let texts = lines.iter().map(|notice| match notice {
        Notice::Info(text) => format!("info: {text}\n"),
        Notice::Warn(text) => format!("warn: {text}\n"),
    });
    texts.collect()
}

/// Waits for something that comes, a minute at most.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "{what} has not come");
        std::thread::yield_now();
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// First line and headers.
    pub head: String,
    pub body: String,
}

impl Request {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

/// What a server does with a request.
pub(crate) enum Reply {
    /// Answers with this status and body.
    Status(u16, String),
    /// Sends just this and closes.
    Raw(Vec<u8>),
    /// Says nothing and waits until the other side has closed.
    Nothing,
}

pub(crate) fn ok(body: &str) -> Reply {
    Reply::Status(200, body.to_owned())
}

/// A server for HTTP on a port of its own.
pub(crate) struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    /// Requests that are being answered at once, at most.
    pub most: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

impl Server {
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::serving(reply, None)
    }

    pub(crate) fn serving(
        reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, most, now) = (Arc::<Mutex<Vec<_>>>::default(), Arc::default(), Arc::default());
        let is_over = Arc::new(AtomicBool::new(false));
        let reply: Arc<Answers> = Arc::new(reply);
        let thread = {
            let (seen, most, is_over) =
                (Arc::clone(&seen), Arc::clone(&most), Arc::clone(&is_over));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let (seen, most, now) =
                        (Arc::clone(&seen), Arc::clone(&most), Arc::clone(&now));
                    let (reply, tls) = (Arc::clone(&reply), tls.clone());
                    std::thread::spawn(move || match tls {
                        None => converse(stream, &*reply, &seen, &most, &now),
                        Some(config) => {
                            let tls = rustls::ServerConnection::new(config).unwrap();
                            let stream = rustls::StreamOwned::new(tls, stream);
                            converse(stream, &*reply, &seen, &most, &now);
                        }
                    });
                }
            })
        };
        Self { address, seen, most, is_over, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/ask?key=hidden", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
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

/// Answers what comes on one connection.
fn converse(
    stream: impl Read + Write,
    reply: &Answers,
    seen: &Mutex<Vec<Request>>,
    most: &AtomicUsize,
    now: &AtomicUsize,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let request = Request { head, body: String::from_utf8(body).unwrap() };
        seen.lock().unwrap().push(request.clone());
        most.fetch_max(now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
        let reply = reply(&request);
        now.fetch_sub(1, Ordering::AcqRel);
        let sent = match reply {
            Reply::Status(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} x\r\nLocation: /elsewhere\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.get_mut().write_all((head + &body).as_bytes())
            }
            Reply::Raw(bytes) => {
                let _ = stream.get_mut().write_all(&bytes);
                let _ = stream.get_mut().flush();
                return;
            }
            Reply::Nothing => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
        };
        if sent.and_then(|()| stream.get_mut().flush()).is_err() {
            return;
        }
    }
}

/// A gate that is shut until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: std::sync::Condvar,
}

impl Gate {
    pub(crate) fn pass(&self) {
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}
