//! Who may do what over HTTP, and what was done.
//!
//! Health is told to everybody, and so are the numbers on loopback. For everything else a token is shown, as in
//! `Authorization: Bearer petrel_…`; its role says what it is good for. Who can read the file `admin.json` in the
//! control folder finds one in it that is good for everything and lives as long as the process.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use petrel_access::bearer::{Bearer, Bearers, Role};
use petrel_access::files::{self, Rights};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Known;
use super::answer::{Problem, Said};
use super::serve::Peer;
use crate::log::{self, Escaped, Event, Level, Value};

/// The file in the control folder.
const COOKIE: &str = "admin.json";
/// A file of tokens is no longer than that.
const TOKENS_BYTES_MAX: u64 = 1 << 20;
/// Things done that are remembered.
const AUDITED_MAX: usize = 1_000;
/// Of an answer, so much is remembered.
const SAID_CHARS_MAX: usize = 512;
/// Refusals have one line in such a time.
const REFUSED_EVERY: Duration = Duration::from_secs(1);

/// Who may do what, and what they did.
#[derive(Debug)]
pub(super) struct Gate {
    bearers: RwLock<Bearers>,
    /// Of this process.
    own: Option<Bearer>,
    cookie: Option<PathBuf>,
    /// Others than this machine may reach it.
    is_open: bool,
    audited: Mutex<VecDeque<Audited>>,
    refused: Mutex<Refusals>,
}

/// Who was turned away since that was last said.
#[derive(Debug, Default)]
struct Refusals {
    said: Option<Instant>,
    count: u64,
}

impl Refusals {
    /// One more; how many there are to tell of, if it is time to.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.said.is_some_and(|said| now.duration_since(said) < REFUSED_EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

/// Something that was done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Audited {
    /// When, in seconds since 1970.
    time_s: u64,
    /// Name of the token.
    who: String,
    /// From where.
    address: String,
    /// What: the method and the path.
    #[schema(example = "DELETE /api/v1/clients/sensor-7")]
    what: String,
    /// What came of it, as HTTP has it.
    status: u16,
    /// What was answered, in a sentence: it names what the body has asked for.
    #[schema(example = "the session of \"sensor-7\" is ended")]
    said: String,
}

/// Reads a file of tokens.
pub(super) fn read_tokens(file: &Path) -> Result<Bearers, String> {
    let shown = file.display();
    let about = fs::metadata(file).map_err(|error| format!("{shown}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{shown}: it is no file"));
    }
    if about.len() > TOKENS_BYTES_MAX {
        return Err(format!("{shown}: it is too long for a file of tokens"));
    }
    let text = fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
    Bearers::parse(&text).map_err(|problems| {
        let lines = problems.iter().map(|it| format!("{shown}:{}: {}", it.line, it.text));
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// Writes what keeps somebody from using the interface.
fn complain(text: std::fmt::Arguments<'_>) {
    log::say(Event::AdminInterface, Level::Error, &[], text);
}

impl Gate {
    /// Lets in who has a token of the file, and who can read the control folder.
    pub(super) fn new(bearers: Bearers, url: &str, folder: Option<&Path>, is_open: bool) -> Self {
        let (mut own, mut cookie) = (None, None);
        if let Some(folder) = folder {
            let file = folder.join(COOKIE);
            match Bearer::make("local", Role::Operate) {
                Ok((bearer, token)) => match write_cookie(&file, url, &token) {
                    Ok(()) => (own, cookie) = (Some(bearer), Some(file)),
                    Err(error) => complain(format_args!(
                        "{}: {error}; petrelctl needs a token to use the admin interface",
                        file.display()
                    )),
                },
                Err(error) => complain(format_args!("the admin interface: {error}")),
            }
        }
        Self {
            bearers: RwLock::new(bearers),
            own,
            cookie,
            is_open,
            audited: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// The process ends: its own token is of no more use.
    pub(super) fn close(&self) {
        if let Some(file) = &self.cookie {
            // What somebody has removed is as good as removed.
            let _ = fs::remove_file(file);
        }
    }

    /// These tokens hold from now on.
    pub(super) fn set(&self, bearers: Bearers) {
        *self.bearers.write().unwrap_or_else(PoisonError::into_inner) = bearers;
    }

    /// What was done last, the newest first.
    pub(super) fn audited(&self, most: usize) -> Vec<Audited> {
        let audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
        audited.iter().rev().take(most).cloned().collect()
    }

    /// Who it is, if that is known.
    fn who(&self, request: &Request) -> Option<Bearer> {
        let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        let token = token.trim();
        let own = || self.own.clone().filter(|own| own.has(token));
        let known =
            || self.bearers.read().unwrap_or_else(PoisonError::into_inner).find(token).cloned();
        scheme.eq_ignore_ascii_case("bearer").then(|| own().or_else(known)).flatten()
    }

    /// What a request needs; `None` for nothing.
    fn needs(&self, request: &Request) -> Option<Role> {
        match request.uri().path() {
            "/health/live" | "/health/ready" | "/api/openapi.json" => None,
            "/metrics" => self.is_open.then_some(Role::Metrics),
            _ if [Method::GET, Method::HEAD].contains(request.method()) => Some(Role::Read),
            _ => Some(Role::Operate),
        }
    }

    fn admit(&self, request: &Request) -> Result<Option<Bearer>, Problem> {
        let Some(needed) = self.needs(request) else { return Ok(None) };
        let Some(bearer) = self.who(request) else {
            let nobody = self.own.is_none()
                && self.bearers.read().unwrap_or_else(PoisonError::into_inner).is_empty();
            let text = match nobody {
                true => {
                    "nobody may do this: name a file of tokens in [admin] `tokens`, which petrelctl token \
                     writes, or a folder in [engine] `control`"
                }
                false => {
                    "show a token, as in Authorization: Bearer petrel_…; petrelctl token makes them"
                }
            };
            return Err(Problem(StatusCode::UNAUTHORIZED, text.to_owned()));
        };
        if bearer.role < needed {
            let Bearer { name, role, .. } = bearer;
            let text = format!("the token {name} is good for {role}; this needs {needed}");
            return Err(Problem(StatusCode::FORBIDDEN, text));
        }
        Ok(Some(bearer))
    }

    /// Says that somebody was turned away, at most once in a while.
    fn turned_away(&self, request: &Request, problem: &Problem) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = refused.add(Instant::now()) else { return };
        drop(refused);
        let address = address_of(request);
        let path = Escaped(request.uri().path().as_bytes());
        let (status, method) = (problem.0.as_u16(), request.method());
        let what = format!("{status} for {method} {path}");
        let fields = [
            ("address", Value::Word(&address)),
            ("what", Value::Word(&what)),
            ("count", Value::Number(times)),
        ];
        let text = format_args!(
            "the admin interface turned away {times} requests, the last of {address}: {what}"
        );
        log::say(Event::OperatorRefused, Level::Warn, &fields, text);
    }

    fn note(&self, who: &Bearer, address: String, what: &str, answer: &Response) {
        let status = answer.status().as_u16();
        let said = answer.extensions().get::<Said>().map_or("", |said| &said.0);
        let kept = said.chars().take(SAID_CHARS_MAX).collect();
        let (shown, said) = (Escaped(what.as_bytes()), Escaped(said.as_bytes()));
        let fields = [
            ("operator", Value::Word(&who.name)),
            ("address", Value::Word(&address)),
            ("request", Value::Shown(&shown)),
            ("status", Value::Number(status.into())),
        ];
        let text = format_args!("admin: {} at {address}: {shown}: {status} {said}", who.name);
        log::say(Event::OperatorAsked, Level::Info, &fields, text);
        let time_s = UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_secs();
        let what = shown.to_string();
        let mut audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
        if audited.len() == AUDITED_MAX {
            audited.pop_front();
        }
        audited.push_back(Audited {
            time_s,
            who: who.name.clone(),
            address,
            what,
            status,
            said: kept,
        });
    }
}

fn write_cookie(file: &Path, url: &str, token: &str) -> io::Result<()> {
    let text = format!("{}\n", json!({ "url": url, "token": token }));
    files::replace(file, &text, Rights::Always(0o600))
}

fn address_of(request: &Request) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.map_or_else(String::new, |Peer(address)| address.ip().to_canonical().to_string())
}

/// Lets a request through, or does not, and keeps what was done.
pub(super) async fn gate(
    State(known): State<Arc<Known>>,
    request: Request,
    next: Next,
) -> Response {
    let who = match known.gate.admit(&request) {
        Ok(who) => who,
        Err(problem) => {
            known.gate.turned_away(&request, &problem);
            let is_unknown = problem.0 == StatusCode::UNAUTHORIZED;
            let mut answer = problem.into_response();
            if is_unknown {
                let scheme = HeaderValue::from_static("Bearer realm=\"petrel\"");
                answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            return answer;
        }
    };
    let changes = ![Method::GET, Method::HEAD].contains(request.method());
    let Some(who) = who.filter(|_| changes) else { return next.run(request).await };
    let what = format!("{} {}", request.method(), request.uri());
    let address = address_of(&request);
    // Whoever asks may go away before the answer; what is done then is kept all the same.
    let done = tokio::spawn(async move {
        let answer = next.run(request).await;
        known.gate.note(&who, address, &what, &answer);
        answer
    });
    done.await.unwrap_or_else(|_| Problem::stuck("the broker stops").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_a_second_and_none_is_forgotten() {
        let (mut refusals, begin) = (Refusals::default(), Instant::now());
        let told = [0, 1, 999, 1_000, 1_500, 2_500];
        let told = told.map(|ms| refusals.add(begin + Duration::from_millis(ms)));
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
