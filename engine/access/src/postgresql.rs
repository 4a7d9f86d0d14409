//! A PostgreSQL database that has the hashes of passwords.
//!
//! The query is prepared and gets the user name as a parameter: nothing that a client says becomes a part of its
//! text. The password never goes to the database; its hash comes from there and is computed here.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use petrel_proto::Text;
use rustls::ClientConfig;
use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::back_end::{Failure, Heard, Stored};
use crate::check::Asker;
use crate::journal::said;
use crate::passwords::{Cost, Hash, hash};
use crate::tokens::text;
use crate::trust;

/// Where a database is and what it is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    /// `postgresql://user@host:port/database`.
    pub url: String,
    /// The password of that user.
    pub password: Option<String>,
    /// The query: `$1` is the user name, `$2` the client identifier.
    pub query: String,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whose certificate it may have, in PEM; those whom the system trusts otherwise.
    pub ca: Option<String>,
    /// How long a connection may take to come about, in milliseconds.
    pub connect_timeout_ms: u32,
    /// How long a query may take there, in milliseconds.
    pub timeout_ms: u32,
    /// It may be on another machine though the connection is not encrypted.
    pub plaintext: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("query", &self.query).finish_non_exhaustive()
    }
}

/// A database that is asked.
pub struct Postgresql {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    query: String,
    wants_client_id: bool,
    timeout_ms: u32,
    /// Connections that nobody uses; there are at most as many as clients that are asked about at once.
    idle: Mutex<Vec<Connection>>,
    /// What costs what hashes of Petrel's own cost, until others have been seen.
    made_up: Hash,
    /// The hash that costs most of those that have been seen.
    dearest: Mutex<Option<Hash>>,
}

/// A connection with its query. It ends with its client.
struct Connection {
    client: Client,
    statement: Statement,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Postgresql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgresql").field("query", &self.query).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Postgresql {
    /// One that has not been connected to.
    ///
    /// # Errors
    /// A sentence about what is wrong with its address or the query.
    pub fn new(database: &Database) -> Result<Self, String> {
        // The error says what is wrong, and not what stands there.
        let mut config: Config = database.url.parse().map_err(|error| format!("{error}"))?;
        if config.get_password().is_some() {
            return Err("the URL has a password in it, which would be shown with it; write it \
                        into a file and name that in `password_file`"
                .to_owned());
        }
        if config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err("the URL has no host or no user; write it as in \
                        \"postgresql://user@host/database\""
                .to_owned());
        }
        let is_here = |host: &Host| match host {
            Host::Tcp(name) => trust::is_here(name),
            Host::Unix(_) => true,
        };
        if !database.tls && !database.plaintext && !config.get_hosts().iter().all(is_here) {
            return Err("the connection would not be encrypted; take `tls = false` out, or write \
                        `plaintext = true` if nobody can listen on the way"
                .to_owned());
        }
        if !database.query.contains("$1") {
            return Err("the query has no $1, which is the user name".to_owned());
        }
        let is_unix = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let tls: Option<ClientConfig> = match database.tls && !is_unix {
            true => Some((*trust::tls(database.ca.as_deref())?).clone()),
            false => None,
        };
        config
            .ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .application_name("petrel")
            .connect_timeout(Duration::from_millis(database.connect_timeout_ms.into()));
        if let Some(password) = &database.password {
            config.password(password);
        }
        Ok(Self {
            config,
            tls: tls.map(MakeRustlsConnect::new),
            query: database.query.clone(),
            wants_client_id: database.query.contains("$2"),
            timeout_ms: database.timeout_ms,
            idle: Mutex::default(),
            made_up: Hash::parse(&hash(b"", Cost::default())?)?,
            dearest: Mutex::default(),
        })
    }

    pub(crate) const fn wants_client_id(&self) -> bool {
        self.wants_client_id
    }

    /// Takes as long as it takes to hold a password against the dearest hash.
    pub(crate) fn take_time(&self, password: &[u8]) {
        let dearest = lock(&self.dearest).clone();
        // Whatever it says.
        std::hint::black_box(dearest.as_ref().unwrap_or(&self.made_up).is_of(password));
    }

    /// A hash of a user has been seen.
    pub(crate) fn remember(&self, hash: &Hash) {
        let mut dearest = lock(&self.dearest);
        if dearest.as_ref().is_none_or(|dearest| hash.cost() > dearest.cost()) {
            *dearest = Some(hash.clone());
        }
    }

    /// What is stored of a client's user. `odd` is told what is wrong with it.
    pub(crate) async fn ask(&self, asker: &Asker, odd: impl Fn(&str)) -> Result<Heard, Failure> {
        let (Some(user), Some(_)) = (asker.user(), asker.password()) else {
            return Ok(Heard::Next(u64::MAX));
        };
        let client_id = asker.client_id.as_str();
        let all: [&(dyn ToSql + Sync); 2] = [&user, &client_id];
        let parameters = if self.wants_client_id { &all[..] } else { &all[..1] };
        let idle = lock(&self.idle).pop();
        let mut answer = None;
        if let Some(connection) = idle {
            match rows(&connection, parameters, &odd).await {
                // The database has ended it meanwhile, which says nothing about a new one.
                Err(error) if error.is_closed() || connection.client.is_closed() => {}
                Err(error) => return Err(why(&error)),
                Ok(rows) => answer = Some((connection, rows)),
            }
        }
        let (connection, rows) = match answer {
            Some(answer) => answer,
            None => {
                let connection = self.connect().await?;
                let rows = rows(&connection, parameters, &odd).await;
                (connection, rows.map_err(|error| why(&error))?)
            }
        };
        let stored = match &rows[..] {
            [] => Stored::Nobody,
            [row] => stored(row, odd)?,
            // The connection ends, with all the rows that may still come.
            [..] => {
                return Err(Failure(
                    "the query gives several rows for one user; it must give one \
                                    or none"
                        .to_owned(),
                ));
            }
        };
        // One that has failed is not used again.
        lock(&self.idle).push(connection);
        Ok(Heard::Stored(stored))
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let failed = |error| why(&error);
        let (client, task) = match &self.tls {
            Some(tls) => {
                let (client, connection) =
                    self.config.connect(tls.clone()).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }).abort_handle())
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(async move { drop(connection.await) }).abort_handle())
            }
        };
        // So that queries nobody waits for any more end there too.
        let set = format!("SET statement_timeout = {}", self.timeout_ms);
        client.batch_execute(&set).await.map_err(failed)?;
        let statement = client.prepare(&self.query).await.map_err(failed)?;
        let parameters = 1 + usize::from(self.wants_client_id);
        if statement.params().len() != parameters || !(1..=2).contains(&statement.columns().len()) {
            return Err(Failure(format!(
                "the query has {} parameters and {} columns; it must have $1 and may have $2, and \
                 give a hash and perhaps groups",
                statement.params().len(),
                statement.columns().len()
            )));
        }
        Ok(Connection { client, statement, task })
    }
}

/// What a query gives. An error about its data (class 22), such as a name that the database's encoding has no
/// letters for, says that there is no such user and that the database is well; else whoever says such a name could
/// have it left alone.
async fn rows(
    connection: &Connection,
    parameters: &[&(dyn ToSql + Sync)],
    odd: &impl Fn(&str),
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let rows = all_rows(connection, parameters).await;
    let state = rows.as_ref().err().and_then(tokio_postgres::Error::code);
    match state.filter(|state| state.code().starts_with("22")) {
        Some(state) => {
            odd(&format!("what a client said was no data for the query ({})", state.code()));
            Ok(Vec::new())
        }
        None => rows,
    }
}

/// Two rows at most, for that is one too many.
async fn all_rows(
    connection: &Connection,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let parameters = parameters.iter().copied();
    let stream = connection.client.query_raw(&connection.statement, parameters).await?;
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        rows.push(row?);
        if rows.len() == 2 {
            break;
        }
    }
    Ok(rows)
}

/// What a row says of its user.
fn stored(row: &Row, odd: impl Fn(&str)) -> Result<Stored, Failure> {
    let wrong = |column: &str| Failure(format!("the {column} of a row is of no type that is read"));
    let hash: Option<String> =
        row.try_get(0).map_err(|_| wrong("first column, the hash, must be text; that"))?;
    let groups: Vec<String> = match row.len() {
        1 => Vec::new(),
        _ => match row.try_get::<_, Option<Vec<String>>>(1) {
            Ok(groups) => groups.unwrap_or_default(),
            Err(_) => {
                let words: Option<String> = row.try_get(1).map_err(|_| {
                    wrong("second column, the groups, must be text or text[]; that")
                })?;
                let words = words.unwrap_or_default();
                let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
                words.map(str::to_owned).collect()
            }
        },
    };
    let Some(hash) = hash else { return Ok(Stored::NoPassword) };
    let groups: Option<Vec<Text>> = groups.iter().map(|group| text(group)).collect();
    match (Hash::parse(&hash), groups) {
        (Ok(hash), Some(groups)) => Ok(Stored::Hash(hash, groups)),
        (Err(error), _) => {
            odd(&format!("the hash of a user cannot be used: {error}"));
            Ok(Stored::NoPassword)
        }
        (_, None) => {
            odd("a group of a user can be no group");
            Ok(Stored::NoPassword)
        }
    }
}

/// What went wrong, by the database's own words if it has said some.
fn why(error: &tokio_postgres::Error) -> Failure {
    let mut text = match error.as_db_error() {
        Some(error) => format!("{} ({})", said(error.message()), error.code().code()),
        None => said(&error.to_string()),
    };
    let mut source = std::error::Error::source(error);
    while let (Some(cause), None) = (source, error.as_db_error()) {
        text = format!("{text}: {}", said(&cause.to_string()));
        source = cause.source();
    }
    Failure(text)
}

#[cfg(test)]
mod tests;
