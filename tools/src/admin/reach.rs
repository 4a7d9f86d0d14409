//! The way to the admin interface of a broker.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::failure::Failure;

/// Where a broker listens that nobody has named.
const URL: &str = "http://127.0.0.1:9180";
/// The folder of a broker that was installed as a package.
const FOLDER: &str = "/run/petrel";
/// The file in a control folder that says where the admin interface is, with a token.
const COOKIE: &str = "admin.json";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer answers are none.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The exit code when no broker can be asked.
pub const UNREACHABLE: u8 = 3;

/// How the broker is reached.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "The broker")]
pub struct Reach {
    /// The control folder of a broker on this machine, in which it leaves a token; without it and without --url
    /// that of the environment variable PETREL_FOLDER, or /run/petrel.
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
    /// Print what the broker answers, as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A broker that can be asked.
pub struct Broker {
    agent: Agent,
    url: String,
    token: Option<String>,
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
        let (url, own) = match (&self.url, cookie) {
            (Some(url), _) => (url.trim_end_matches('/').to_owned(), None),
            (None, Some((url, token))) => (url, Some(token)),
            (None, None) => (URL.to_owned(), None),
        };
        let token = match &self.token_file {
            Some(file) => Some(first_line(file)?),
            None => own.or_else(|| std::env::var("PETREL_TOKEN").ok()),
        };
        let mut config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("petrelctl/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https:") {
            config = config.tls_config(self.tls()?);
        }
        Ok(Broker { agent: config.build().into(), url, token })
    }

    /// What the broker has left in its folder.
    fn cookie(&self) -> Result<Option<(String, String)>, Failure> {
        if self.url.is_some() {
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

impl Broker {
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
        let sent = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string())
                .map(|request| self.agent.run(request)),
            None => request.body(()).map(|request| self.agent.run(request)),
        };
        let answer = sent
            .map_err(|error| Failure::usage(format!("{url}: {error}")))?
            .map_err(|error| unreachable(error.to_string()))?;
        self.read(answer, reads)
    }

    fn read(&self, answer: Response<Body>, reads: Reads) -> Result<Value, Failure> {
        let status = answer.status();
        let next = answer.headers().get("petrel-next").and_then(|next| next.to_str().ok());
        let next = next.map(str::to_owned);
        let mut body = answer.into_body();
        let text = body
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| Failure::new(format!("{}: {error}", self.url)))?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        if status.is_success() {
            return match (reads, value) {
                (Reads::Text, _) => Ok(Value::String(text)),
                (Reads::Page, _) => Ok(serde_json::json!({ "text": text, "next": next })),
                (Reads::Json, Some(value)) => Ok(value),
                (Reads::Json, None) => Err(Failure::new(format!(
                    "{}: it answers with something else than JSON; is it the admin interface of a broker?",
                    self.url
                ))),
            };
        }
        let said = value.as_ref().and_then(|value| value["error"].as_str()).map(str::to_owned);
        let said = said.unwrap_or_else(|| format!("it answers {status}"));
        let text = super::shown(&Value::String(said));
        Err(Failure { text, exit_code: if status.as_u16() == 401 { UNREACHABLE } else { 1 } })
    }
}

/// Prints an answer: as it came, or as people read it.
pub fn say(
    reach: &Reach,
    answer: &Value,
    people: impl FnOnce(&Value) -> String,
) -> Result<(), Failure> {
    match reach.json {
        true => crate::print(&format!("{answer}\n")),
        false => crate::print(&people(answer)),
    }
}

/// What was done, in the broker's words.
pub fn done(answer: &Value) -> String {
    format!("{}\n", super::shown(&answer["done"]))
}
