//! How to speak to the process that has a storage folder: a socket in the folder, one request for each
//! connection, a line of JSON each way.
//!
//! A request is `{"version":1,"do":"stat"}`, with `"into"` besides for `"backup"`, and `"kind"` and `"who"` for
//! `"ban"` and `"unban"`. An answer is
//! `{"version":1,"text":"...","faults":0}` or `{"version":1,"error":"..."}`.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// The version of what is said.
const VERSION: u64 = 1;
/// The socket's name in the folder.
const NAME: &str = "control";
/// A socket's address has no room for a longer path.
const PATH_BYTES_MAX: usize = 96;
/// A request is no longer than that.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// The text of an answer is cut there.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// How long a request or an answer may take to be sent. What is done between them takes its time.
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// What can be asked of a process that has a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Write a backup into this folder.
    Backup {
        /// An absolute path.
        into: PathBuf,
    },
    /// Say what the lanes take of the disk.
    Stat,
    /// Read everything, and say what cannot be read.
    Check,
    /// Shut somebody out.
    Ban(BanRequest),
    /// Let somebody in again.
    Unban(Subject),
    /// Say who is shut out.
    Bans,
    /// Read the configuration again.
    Reload,
}

/// Whom to shut out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanRequest {
    /// Whom.
    pub subject: Subject,
    /// For so many seconds; `None` for good.
    pub for_s: Option<u64>,
    /// What for.
    pub why: String,
}

/// Whom a ban is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Who uses this client identifier.
    ClientId(String),
    /// Who is this user.
    User(String),
    /// Who comes from this address, or from one that begins like it, as in `10.0.0.0/8`.
    Address(String),
}

impl Subject {
    /// What kinds there are.
    pub const KINDS: [&'static str; 3] = ["client-id", "user", "address"];

    /// One of a kind.
    ///
    /// # Errors
    /// A sentence: there is no such kind.
    pub fn of(kind: &str, who: String) -> Result<Self, String> {
        match kind {
            "client-id" => Ok(Self::ClientId(who)),
            "user" => Ok(Self::User(who)),
            "address" => Ok(Self::Address(who)),
            _ => {
                Err(format!("nobody is banned by {kind:?}; client-id, user and address are known"))
            }
        }
    }

    /// Its kind and who it is.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::ClientId(who) => (Self::KINDS[0], who),
            Self::User(who) => (Self::KINDS[1], who),
            Self::Address(who) => (Self::KINDS[2], who),
        }
    }

    fn parse(value: &Value) -> Result<Self, String> {
        let text = |key: &str| value[key].as_str();
        match (text("kind"), text("who")) {
            (Some(kind), Some(who)) => Self::of(kind, who.to_owned()),
            _ => Err("the request wants \"kind\" and \"who\"".into()),
        }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// Things that cannot be read.
    pub faults: u64,
}

/// The socket through which a folder is reached, and what it goes by while it is used. A long path does
/// not fit into an address, and one by way of a descriptor does.
fn address(folder: &Path) -> io::Result<(PathBuf, Option<File>)> {
    if folder.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((folder.into(), None));
    }
    let open = File::open(folder)?;
    Ok((format!("/proc/self/fd/{}", open.as_raw_fd()).into(), Some(open)))
}

/// Listens in a folder, which this process must have for itself; what another has left there is
/// replaced.
///
/// # Errors
/// The system refuses it.
pub fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (folder, _open) = address(folder)?;
    let unfinished = folder.join(format!("{NAME}.new"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    // It is found under its name when nobody else may use it any more.
    fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
    fs::rename(&unfinished, folder.join(NAME))?;
    Ok(listener)
}

/// Removes the socket from a folder.
///
/// # Errors
/// The system refuses it.
pub fn remove(folder: &Path) -> io::Result<()> {
    fs::remove_file(folder.join(NAME))
}

/// Asks the process that has a folder; `None` if none listens. Returns what it did, or why it did not.
///
/// # Errors
/// The connection fails or says nothing that can be understood.
pub fn ask(folder: &Path, request: &Request) -> io::Result<Option<Result<Answer, String>>> {
    let connected =
        address(folder).and_then(|(folder, _open)| UnixStream::connect(folder.join(NAME)));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_write_timeout(Some(SENT_WITHIN))?;
    // One that is busy may have answered and gone before it was asked.
    let asked = stream.write_all(request.to_line().as_bytes());
    let mut line = Vec::new();
    // Escaped, a byte has up to six.
    let mut bounded = BufReader::new(stream.take(TEXT_BYTES_MAX as u64 * 6 + 1024));
    let had = bounded.read_until(b'\n', &mut line);
    if line.last() != Some(&b'\n') {
        asked?;
        had?;
    }
    if line.is_empty() {
        let what = "the broker has ended before it answered";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
    }
    parse_answer(&line).map(Some).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the broker's answer cannot be understood")
    })
}

/// Reads the request of a connection.
///
/// # Errors
/// It cannot be understood, does not come in time or is too long: a sentence for the answer.
pub fn receive(stream: &UnixStream) -> Result<Request, String> {
    receive_within(stream, SENT_WITHIN)
}

/// The same, of which the parts come with no longer pauses.
///
/// # Errors
/// See [`receive`].
pub fn receive_within(stream: &UnixStream, pause_max: Duration) -> Result<Request, String> {
    let unreadable = |error: io::Error| format!("the request cannot be read: {error}");
    stream.set_read_timeout(Some(pause_max)).map_err(unreadable)?;
    let mut line = Vec::new();
    let mut bounded = BufReader::new(stream).take(REQUEST_BYTES_MAX);
    bounded.read_until(b'\n', &mut line).map_err(unreadable)?;
    if line.last() != Some(&b'\n') {
        return Err(format!("a request is a line of at most {REQUEST_BYTES_MAX} bytes"));
    }
    Request::parse(&line)
}

/// Answers a connection.
///
/// # Errors
/// Whoever asked has gone, or does not read.
pub fn answer(mut stream: &UnixStream, answer: &Result<Answer, String>) -> io::Result<()> {
    stream.set_write_timeout(Some(SENT_WITHIN))?;
    stream.write_all(answer_line(answer).as_bytes())
}

impl Request {
    fn to_line(&self) -> String {
        let value = match self {
            // Who asks has seen to it that the path is text.
            Self::Backup { into } => {
                json!({ "version": VERSION, "do": "backup", "into": into.to_string_lossy() })
            }
            Self::Stat => json!({ "version": VERSION, "do": "stat" }),
            Self::Check => json!({ "version": VERSION, "do": "check" }),
            Self::Bans => json!({ "version": VERSION, "do": "bans" }),
            Self::Reload => json!({ "version": VERSION, "do": "reload" }),
            Self::Ban(BanRequest { subject, for_s, why }) => {
                let (kind, who) = subject.parts();
                json!({
                    "version": VERSION, "do": "ban",
                    "kind": kind, "who": who, "for_s": for_s, "why": why,
                })
            }
            Self::Unban(subject) => {
                let (kind, who) = subject.parts();
                json!({ "version": VERSION, "do": "unban", "kind": kind, "who": who })
            }
        };
        format!("{value}\n")
    }

    fn parse(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| format!("the request is no line of JSON: {error}"))?;
        match value["version"].as_u64() {
            Some(VERSION) => {}
            Some(other) => {
                return Err(format!(
                    "the request has version {other}, and this broker knows version {VERSION}"
                ));
            }
            None => return Err("the request has no version".into()),
        }
        match value["do"].as_str() {
            Some("stat") => Ok(Self::Stat),
            Some("check") => Ok(Self::Check),
            Some("bans") => Ok(Self::Bans),
            Some("reload") => Ok(Self::Reload),
            Some("ban") => {
                let for_s = match &value["for_s"] {
                    Value::Null => None,
                    seconds => Some(seconds.as_u64().ok_or("\"for_s\" is a number of seconds")?),
                };
                let why = value["why"].as_str().unwrap_or_default().to_owned();
                Ok(Self::Ban(BanRequest { subject: Subject::parse(&value)?, for_s, why }))
            }
            Some("unban") => Subject::parse(&value).map(Self::Unban),
            Some("backup") => {
                let into = value["into"].as_str().map(PathBuf::from);
                let into = into.filter(|into| into.is_absolute());
                let into = into.ok_or("backup wants \"into\", an absolute path")?;
                Ok(Self::Backup { into })
            }
            Some(other) => Err(format!(
                "the request {:?} is unknown; stat, check, backup, ban, unban, bans and reload are known",
                other.chars().take(40).collect::<String>()
            )),
            None => Err("the request does not say what to do".into()),
        }
    }
}

fn answer_line(answer: &Result<Answer, String>) -> String {
    let cut = |text: &str| {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    };
    let value = match answer {
        Ok(Answer { text, faults }) => {
            json!({ "version": VERSION, "text": cut(text), "faults": faults })
        }
        Err(why) => json!({ "version": VERSION, "error": cut(why) }),
    };
    format!("{value}\n")
}

fn parse_answer(line: &[u8]) -> Option<Result<Answer, String>> {
    let value: Value = serde_json::from_slice(line).ok()?;
    if let Some(why) = value["error"].as_str() {
        return Some(Err(why.to_owned()));
    }
    let text = value["text"].as_str()?.to_owned();
    Some(Ok(Answer { text, faults: value["faults"].as_u64()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let into = PathBuf::from("/some where/else");
        for request in [Request::Stat, Request::Check, Request::Backup { into }] {
            assert_eq!(Request::parse(request.to_line().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn an_answer_arrives_as_it_was_sent() {
        let good = Answer { text: "two\n\"lines\"".into(), faults: 3 };
        for answer in [Ok(good), Err("no room".to_owned())] {
            assert_eq!(parse_answer(answer_line(&answer).as_bytes()), Some(answer));
        }
        let long = Answer { text: "ä".repeat(TEXT_BYTES_MAX), faults: 0 };
        let Some(Ok(cut)) = parse_answer(answer_line(&Ok(long)).as_bytes()) else { panic!() };
        assert_eq!(cut.text.len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        for (line, part) in [
            ("nonsense\n", "no line of JSON"),
            ("{}\n", "has no version"),
            ("{\"version\":2,\"do\":\"stat\"}\n", "knows version 1"),
            ("{\"version\":1}\n", "does not say what to do"),
            ("{\"version\":1,\"do\":\"fly\"}\n", "\"fly\" is unknown"),
            ("{\"version\":1,\"do\":\"backup\",\"into\":\"x\"}\n", "an absolute path"),
        ] {
            let error = Request::parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn an_answer_that_came_before_the_request_was_read_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(folder.path()).unwrap();
        let path = folder.path().to_owned();
        let asking = std::thread::spawn(move || ask(&path, &Request::Stat));
        let (stream, _) = listener.accept().unwrap();
        // Its request is there, and is never read.
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&stream, rustix::event::PollFlags::IN)],
            None,
        )
        .unwrap();
        answer(&stream, &Err("busy".to_owned())).unwrap();
        drop(stream);
        assert_eq!(asking.join().unwrap().unwrap(), Some(Err("busy".into())));
    }

    #[test]
    fn a_folder_with_a_long_path_can_be_reached_and_nobody_else_may_use_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(200));
        fs::create_dir(&long).unwrap();
        assert_eq!(ask(&long, &Request::Stat).unwrap(), None);
        for folder in [folder.path(), &long] {
            // What another process has left is replaced.
            drop(listen(folder).unwrap());
            let listener = listen(folder).unwrap();
            let mode = fs::metadata(folder.join(NAME)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let served = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let request = receive(&stream).unwrap();
                answer(&stream, &Err(format!("{request:?}"))).unwrap();
            });
            assert_eq!(ask(folder, &Request::Stat).unwrap(), Some(Err("Stat".into())));
            served.join().unwrap();
            assert_eq!(ask(folder, &Request::Stat).unwrap(), None);
            remove(folder).unwrap();
        }
    }
}
