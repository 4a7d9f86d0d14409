//! Programs over HTTP: who is asked for clients, and where keys are fetched.
//!
//! Redirects are not followed, so that no password goes anywhere but where the configuration says; answers are
//! read up to a bound.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use petrel_proto::Text;
use petrel_shard::Identity;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::back_end::{Failure, Heard, Inquiry};
use crate::journal::said;
use crate::tokens::{rules, text};
use crate::trust;

/// No answer about a client is as long as this, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// No head of an answer either.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections that nobody needs end after this.
const IDLE: Duration = Duration::from_secs(30);

/// Where a program is and how it is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// `http://` or `https://`.
    pub url: String,
    /// What goes along with each request.
    pub headers: Vec<(String, String)>,
    /// Whose certificate it may have, in PEM; those whom the system trusts otherwise.
    pub ca: Option<String>,
    /// How long a connection may take to come about, in milliseconds.
    pub connect_timeout_ms: u32,
    /// It may be on another machine though the connection is not encrypted.
    pub plaintext: bool,
}

/// Without what may be secret.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Address").field("headers", &names).finish_non_exhaustive()
    }
}

/// The way to one program.
pub(crate) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

impl Client {
    pub(crate) fn new(address: &Address, connections_max: u32) -> Result<Self, String> {
        let uri = checked(&address.url, address.plaintext)?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("petrel"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for (name, value) in &address.headers {
            let wrong = |what: &str| format!("the header {name:?} {what}");
            let key = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong("has a name that no header can have"))?;
            if ["host", "content-length", "transfer-encoding", "connection"].contains(&key.as_str())
            {
                return Err(wrong("is made by Petrel itself"));
            }
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| wrong("has a value that no header can have"))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let tls = match uri.scheme_str() {
            Some("https") => trust::tls(address.ca.as_deref())?,
            _ => nobody()?,
        };
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector
            .set_connect_timeout(Some(Duration::from_millis(address.connect_timeout_ms.into())));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((*tls).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(connections_max as usize)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Ok(Self { pool, uri, headers })
    }

    /// The body of an answer with status 200.
    pub(crate) async fn fetch(
        &self,
        method: Method,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<Bytes, Failure> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if *request.method() == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        let response = self.pool.request(request).await.map_err(|error| Failure(why(&error)))?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(Failure(format!("it redirects ({status}), which is not followed")));
            }
            status => return Err(Failure(format!("it answers with {status}, not with 200"))),
        }
        let collected = Limited::new(response.into_body(), bytes_max).collect().await;
        collected.map(|body| body.to_bytes()).map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Failure(format!("its answer is longer than {bytes_max} bytes"))
            } else {
                Failure(why(&*error))
            }
        })
    }
}

/// TLS that trusts nobody, for addresses that have none.
fn nobody() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// An address that passwords may be sent to.
fn checked(url: &str, plaintext: bool) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or("the URL has no host; write it as in \"https://host/path\"")?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the URL has a user or a password in it, which would be shown with it; \
                    write an `Authorization` header in `header_files`"
            .to_owned());
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plaintext || trust::is_here(host) => Ok(uri),
        Some("http") => Err("the connection would not be encrypted; write https://, or \
                             `plaintext = true` if nobody can listen on the way"
            .to_owned()),
        _ => Err("the URL must begin with https:// or http://".to_owned()),
    }
}

/// An error and what has led to it, in one sentence.
fn why(error: &dyn std::error::Error) -> String {
    let mut texts = vec![said(&error.to_string())];
    let mut source = error.source();
    while let Some(error) = source {
        let text = said(&error.to_string());
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        source = error.source();
    }
    texts.join(": ")
}

/// A program that is asked about clients.
pub struct Http(Client);

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// One at an address, with so many connections that are kept.
    ///
    /// # Errors
    /// A sentence about what is wrong with the address.
    pub fn new(address: &Address, connections_max: u32) -> Result<Self, String> {
        Client::new(address, connections_max).map(Self)
    }

    pub(crate) async fn ask(&self, inquiry: &Inquiry<'_>) -> Result<Heard, Failure> {
        let body = question(inquiry);
        let answer = self.0.fetch(Method::POST, body, ANSWER_BYTES_MAX).await?;
        heard(&answer, inquiry)
            .map_err(|why| Failure(format!("its answer is not as it must be: {why}")))
    }
}

/// What is asked.
fn question(inquiry: &Inquiry<'_>) -> Vec<u8> {
    let asker = inquiry.asker;
    let origin = &asker.credentials.origin;
    let mut question = json!({
        "user": asker.user(),
        "client_id": asker.client_id.as_str(),
        "listener": inquiry.listener,
        "address": origin.address.ip().to_string(),
    });
    let (name, password) = match asker.password().map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => ("password", Value::Null),
        Some((_, Ok(text))) => ("password", text.into()),
        Some((bytes, Err(_))) => ("password_base64", STANDARD.encode(bytes).into()),
    };
    question[name] = password;
    question.to_string().into_bytes()
}

/// What an answer says. A word that is not known makes all of it worth nothing: it may have been meant to take
/// something away.
fn heard(answer: &[u8], inquiry: &Inquiry<'_>) -> Result<Heard, String> {
    const KEYS: [&str; 6] = ["result", "user", "groups", "rights", "expires_s", "known_s"];
    let Once(answer) = serde_json::from_slice(answer)
        .map_err(|_| "it is no JSON object, or has a key twice".to_owned())?;
    if let Some(other) = answer.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("it has \"{}\", which means nothing", said(other)));
    }
    let wrong = |key: &str, what: &str| format!("`{key}` must be {what}");
    let ms = |key: &str| match answer.get(key) {
        None => Ok::<_, String>(u64::MAX),
        Some(value) => {
            let seconds = value.as_u64().ok_or_else(|| wrong(key, "a number of seconds"))?;
            Ok(seconds.saturating_mul(1000))
        }
    };
    let known_ms = ms("known_s")?;
    let result = answer.get("result").and_then(Value::as_str);
    match result {
        Some("allow") => {}
        Some("deny") => return Ok(Heard::IsNot(known_ms)),
        Some("next") => return Ok(Heard::Next(known_ms)),
        _ => return Err(wrong("result", "\"allow\", \"deny\" or \"next\"")),
    }
    let user = match answer.get("user") {
        None => inquiry.asker.credentials.user_name.clone().unwrap_or_default(),
        Some(user) => user
            .as_str()
            .filter(|user| !user.is_empty())
            .and_then(text)
            .ok_or_else(|| wrong("user", "a text that can be a user name of MQTT"))?,
    };
    let groups = match answer.get("groups") {
        None => Some(Vec::new()),
        Some(groups) => groups.as_array().and_then(|groups| {
            groups.iter().map(|group| text(group.as_str()?)).collect::<Option<Vec<Text>>>()
        }),
    };
    let groups = groups.ok_or_else(|| wrong("groups", "a list of texts"))?;
    let own = match answer.get("rights") {
        None => None,
        Some(rights) => Some(rights.as_object().and_then(rules).ok_or_else(|| {
            wrong("rights", "an object with `publish` and `subscribe`, lists of topic filters")
        })?),
    };
    let ends_at_ms = ms("expires_s")?.saturating_add(inquiry.now_ms);
    Ok(Heard::Is(Arc::new(Identity { user, groups, own, ends_at_ms }), known_ms))
}

/// An object in which no key stands twice: who reads the first and who reads the last must not differ.
struct Once(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Once, A::Error> {
                let mut all = Map::new();
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    if all.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key stands twice"));
                    }
                }
                Ok(Once(all))
            }
        }
        from.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests;
