//! The way to the admin interface of a broker.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Request, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::failure::Failure;

/// Where a broker listens that nobody has named.
const URL: &str = "http://127.0.0.1:9180";
/// The folder of a broker that was installed as a package.
const FOLDER: &str = "/run/petrel";
/// The file in a control folder that says where the admin interface is, with a token.
const COOKIE: &str = "admin.json";
/// A body comes at least so fast on the whole.
const BYTES_PER_S_MIN: u64 = 8 << 10;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Longer answers are none.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The exit code when no broker can be asked.
pub const UNREACHABLE: u8 = 3;

/// How the broker is reached.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "The broker")]
pub struct Reach {
    /// The control folder of a broker on this machine, in which it leaves a token, and says where it listens unless
    /// --url does; without it and without --url that of the environment variable PETREL_FOLDER, or /run/petrel.
    #[arg(long, value_name = "FOLDER", global = true)]
    folder: Option<PathBuf>,
    /// Where its admin interface listens, as in <https://broker:9180>.
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// File whose first line is a token; the environment variable PETREL_TOKEN has it otherwise.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Certificates that are trusted, in PEM, instead of the system's.
    #[arg(long, value_name = "FILE", global = true)]
    cafile: Option<PathBuf>,
    /// So many seconds may pass in which nothing comes.
    #[arg(long, value_name = "SECONDS", global = true, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print what the broker answers, as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A broker that can be asked.
pub struct Broker {
    agent: Agent,
    url: String,
    token: Option<String>,
    timeout: Duration,
}

/// What comes of an answer, in order.
enum Came {
    /// How it begins: and where it goes on, if it is a page.
    Head(StatusCode, Option<String>),
    Piece(Vec<u8>),
    /// The whole body was there.
    End,
    Failed(String),
}

/// An answer that has come.
struct Whole {
    status: StatusCode,
    next: Option<String>,
    text: String,
}

/// How long an answer is waited for.
#[derive(Clone, Copy)]
struct Patience {
    begin: Instant,
    timeout: Duration,
}

impl Patience {
    /// How long the next piece may take behind so many bytes; `None` if they were too slow.
    fn left(self, now: Instant, bytes: usize) -> Option<Duration> {
        let for_bytes = Duration::from_secs(bytes as u64 / BYTES_PER_S_MIN);
        let end = self.begin + self.timeout + for_bytes;
        let left = end.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(left.min(self.timeout))
    }
}

/// How an answer is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Json,
    Text,
    /// Text, and where it goes on.
    Page,
}

impl Reach {
    /// Finds the broker; nothing is asked yet.
    pub fn broker(&self) -> Result<Broker, Failure> {
        let cookie = self.cookie()?;
        let (named, own) = cookie.unzip();
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => named.unwrap_or_else(|| URL.to_owned()),
        };
        let token = match &self.token_file {
            Some(file) => Some(first_line(file)?),
            None => own.or_else(|| std::env::var("PETREL_TOKEN").ok()),
        };
        let timeout = Duration::from_secs(self.timeout);
        let mut config = Agent::config_builder()
            .timeout_connect(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("petrelctl/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https:") {
            config = config.tls_config(self.tls()?);
        }
        Ok(Broker { agent: config.build().into(), url, token, timeout })
    }

    /// What the broker has left in its folder.
    fn cookie(&self) -> Result<Option<(String, String)>, Failure> {
        // A token goes only where somebody who names both wants it.
        if self.url.is_some() && self.folder.is_none() {
            return Ok(None);
        }
        let named =
            self.folder.clone().or_else(|| std::env::var_os("PETREL_FOLDER").map(Into::into));
        let file = named.as_deref().unwrap_or(Path::new(FOLDER)).join(COOKIE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(_) if named.is_none() => return Ok(None),
            Err(error) => {
                let text = format!(
                    "{}: {error}; a broker with `address` in [admin] and `control` in [engine], or `path` in \
                     [storage], leaves that file there while it runs",
                    file.display()
                );
                return Err(Failure { text, exit_code: UNREACHABLE });
            }
        };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let found = text("url").zip(text("token"));
        found.map(Some).ok_or_else(|| {
            Failure::new(format!("{}: it does not say where the broker is", file.display()))
        })
    }

    fn tls(&self) -> Result<TlsConfig, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates: Vec<CertificateDer<'static>> = match &self.cafile {
            Some(file) => {
                let wrong = |error| Failure::new(format!("{}: {error}", file.display()));
                CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(wrong)?
            }
            None => rustls_native_certs::load_native_certs().certs,
        };
        let roots = certificates.iter().map(|it| Certificate::from_der(it).to_owned());
        let roots = RootCerts::Specific(Arc::new(roots.collect()));
        let config = TlsConfig::builder().root_certs(roots);
        Ok(config.unversioned_rustls_crypto_provider(provider).build())
    }
}

fn first_line(file: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

impl Reach {
    /// Whether something says that it is reached by its admin interface.
    pub const fn is_named(&self) -> bool {
        self.folder.is_some() || self.url.is_some() || self.token_file.is_some() || self.json
    }
}

impl Broker {
    /// One that is given so long at least before it says anything.
    pub fn patient(self, seconds: u64) -> Self {
        let timeout = self.timeout.max(Duration::from_secs(seconds));
        Self { timeout, ..self }
    }

    /// What a path says.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask("GET", path, None, Reads::Json)
    }

    /// What a path says, as text.
    pub fn get_text(&self, path: &str) -> Result<String, Failure> {
        let value = self.ask("GET", path, None, Reads::Text)?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// Part of what a path says, as text, and the position behind it.
    pub fn get_page(&self, path: &str) -> Result<(String, u64), Failure> {
        let value = self.ask("GET", path, None, Reads::Page)?;
        let next = value["next"].as_str().and_then(|next| next.parse().ok());
        let next = next.ok_or_else(|| {
            Failure::new(format!("{}: it does not say where {path} goes on", self.url))
        })?;
        Ok((value["text"].as_str().unwrap_or_default().to_owned(), next))
    }

    /// Has something done.
    pub fn put(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.ask(method, path, body, Reads::Json)
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        reads: Reads,
    ) -> Result<Value, Failure> {
        let url = format!("{}{path}", self.url);
        let unreachable = |what: String| Failure {
            text: format!("{}: {what}; --folder or --url say where the broker is", self.url),
            exit_code: UNREACHABLE,
        };
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let wrong = |error| Failure::usage(format!("{url}: {error}"));
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request.body(String::new()),
        };
        let (tell, told) = sync_channel(1);
        let (agent, request) = (self.agent.clone(), request.map_err(wrong)?);
        // Ends with what it waits for, or with the process: the library has no bound for a pause.
        std::thread::spawn(move || fetch(&agent, request, &tell));
        let answer = self.await_answer(&told).map_err(unreachable)?;
        self.understood(answer, reads)
    }

    /// Takes an answer as it comes, as long as it comes.
    fn await_answer(&self, told: &Receiver<Came>) -> Result<Whole, String> {
        let timeout = self.timeout;
        let patience = Patience { begin: Instant::now(), timeout };
        let (mut status, mut next, mut body) = (StatusCode::OK, None, Vec::new());
        loop {
            let slow = || {
                format!(
                    "no whole answer has come, {} bytes so far; --timeout gives it longer",
                    body.len()
                )
            };
            let left = patience.left(Instant::now(), body.len()).ok_or_else(slow)?;
            match told.recv_timeout(left) {
                Ok(Came::Head(said, goes_on)) => (status, next) = (said, goes_on),
                Ok(Came::Piece(piece)) => body.extend_from_slice(&piece),
                Ok(Came::End) => break,
                Ok(Came::Failed(what)) => return Err(what),
                Err(_) => return Err(slow()),
            }
            if body.len() > ANSWER_BYTES_MAX {
                return Err(format!("its answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
        }
        let text = String::from_utf8(body).map_err(|_| "its answer is no text".to_owned())?;
        Ok(Whole { status, next, text })
    }

    fn understood(&self, answer: Whole, reads: Reads) -> Result<Value, Failure> {
        let Whole { status, next, text } = answer;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        if status.is_success() {
            return match (reads, value) {
                (Reads::Text, _) => Ok(Value::String(text)),
                (Reads::Page, _) => Ok(serde_json::json!({ "text": text, "next": next })),
                // All its answers are objects.
                (Reads::Json, Some(value)) if value.is_object() => Ok(value),
                (Reads::Json, _) => Err(Failure::new(format!(
                    "{}: it answers with something else than a JSON object; is it the admin interface of a broker?",
                    self.url
                ))),
            };
        }
        let said = value.as_ref().and_then(|value| value["error"].as_str()).map(str::to_owned);
        let said = said.unwrap_or_else(|| format!("it answers {status}"));
        // It is the broker's own sentence, in which it has escaped what came from elsewhere.
        let text = super::safe(&said);
        Err(Failure { text, exit_code: if status.as_u16() == 401 { UNREACHABLE } else { 1 } })
    }
}

/// Asks, and gives on what comes until nobody takes it.
fn fetch(agent: &Agent, request: Request<String>, tell: &SyncSender<Came>) {
    let answer = match request.body().is_empty() {
        true => agent.run(request.map(|_| ())),
        false => agent.run(request),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            // Whoever asked may have lost patience.
            let _ = tell.send(Came::Failed(error.to_string()));
            return;
        }
    };
    let next = answer.headers().get("petrel-next").and_then(|next| next.to_str().ok());
    let mut came = tell.send(Came::Head(answer.status(), next.map(str::to_owned)));
    let mut body = answer.into_body().into_reader();
    let mut piece = vec![0; PIECE_BYTES];
    while came.is_ok() {
        came = match body.read(&mut piece) {
            Ok(0) => {
                let _ = tell.send(Came::End);
                return;
            }
            Ok(bytes) => tell.send(Came::Piece(piece[..bytes].to_vec())),
            Err(error) => {
                let _ = tell.send(Came::Failed(error.to_string()));
                return;
            }
        };
    }
}

/// Prints an answer: as it came, or as people read it.
pub fn say(
    reach: &Reach,
    answer: &Value,
    people: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    match reach.json {
        true => crate::print(&format!("{}\n", super::safe(&answer.to_string()))),
        false => crate::print(&people(answer)),
    }
}

/// What was done, in the broker's words.
pub fn done(answer: &Value) -> String {
    format!("{}\n", super::safe(answer["done"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_trickles_is_not_waited_for_and_a_long_one_is() {
        let (begin, s) = (Instant::now(), Duration::from_secs);
        let patience = Patience { begin, timeout: s(10) };
        let left = |after_s, bytes| patience.left(begin + s(after_s), bytes);
        assert_eq!([left(0, 0), left(9, 0), left(10, 0)], [Some(s(10)), Some(s(1)), None]);
        assert_eq!([left(9, 9), left(10, 10)], [Some(s(1)), None], "a byte in a second");
        assert_eq!([left(60, 1 << 20), left(139, 1 << 20)], [Some(s(10)), None]);
    }
}
