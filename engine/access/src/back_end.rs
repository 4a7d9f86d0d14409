//! Programs elsewhere that know who clients are, and what is done when they do not answer.
//!
//! Each has a bound of clients that it is asked about at once, a time for each answer, and a [`Breaker`]. They are
//! asked on the side runtime and nowhere else.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use petrel_shard::Identity;
use tokio::sync::Semaphore;

use crate::breaker::{Breaker, Change, Limits};
use crate::check::{Asker, Looks, OnFailure};
#[cfg(feature = "http")]
use crate::http::Http;
use crate::journal::{Outside, Seldom};
#[cfg(feature = "ldap")]
use crate::ldap::Ldap;
use crate::passwords::Hash;
#[cfg(feature = "postgresql")]
use crate::postgresql::Postgresql;

/// What holds for each back end, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Clients that it is asked about at once.
    pub in_flight_max: u32,
    /// How long one answer may take, from the first byte to the last, in milliseconds.
    pub timeout_ms: u32,
    /// When it is left alone.
    pub breaker: Limits,
    /// What is done with clients when it fails.
    pub on_failure: OnFailure,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            in_flight_max: 32,
            timeout_ms: 5_000,
            breaker: Limits { failures: 5, pause_ms: 1_000 },
            on_failure: OnFailure::Refuse,
        }
    }
}

/// What can be asked.
#[derive(Debug)]
pub enum Kind {
    /// A program over HTTP.
    #[cfg(feature = "http")]
    Http(Http),
    /// A directory.
    #[cfg(feature = "ldap")]
    Ldap(Ldap),
    /// A database.
    #[cfg(feature = "postgresql")]
    Postgresql(Postgresql),
}

/// One that is asked.
pub struct BackEnd {
    name: String,
    terms: Terms,
    kind: Kind,
    places: Semaphore,
    breaker: Mutex<Breaker>,
    failures: Seldom,
    changes: Seldom,
}

/// Whom it is asked about, and where and when the client came.
pub(crate) struct Inquiry<'a> {
    pub asker: &'a Asker,
    pub listener: &'a str,
    pub now_ms: u64,
}

/// What a back end says of a client.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Who it is, to be known for so many milliseconds at most.
    Is(Arc<Identity>, u64),
    /// That it is not who it says, to be known for so long at most.
    IsNot(u64),
    /// Nothing, which is to be known for so long at most.
    Next(u64),
    /// What its password has to be held against.
    Stored(Stored),
}

/// What is stored of a user.
#[derive(Debug)]
pub(crate) enum Stored {
    /// There is no such user.
    Nobody,
    /// There is one without a password.
    NoPassword,
    /// The hash of the password, and the groups.
    Hash(Hash, Vec<petrel_proto::Text>),
}

/// Why there is no answer: a sentence without its full stop, and without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(pub String);

impl BackEnd {
    /// One that has not been asked yet.
    #[must_use]
    pub fn new(name: String, terms: Terms, kind: Kind) -> Self {
        Self {
            name,
            terms,
            kind,
            places: Semaphore::new(terms.in_flight_max as usize),
            breaker: Mutex::new(Breaker::new(terms.breaker)),
            failures: Seldom::default(),
            changes: Seldom::default(),
        }
    }

    pub(crate) const fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it is asked about beside user name and password.
    pub(crate) fn looks(&self) -> Looks {
        match &self.kind {
            #[cfg(feature = "http")]
            Kind::Http(_) => Looks { client_id: true, address: true },
            #[cfg(feature = "ldap")]
            Kind::Ldap(_) => Looks::default(),
            #[cfg(feature = "postgresql")]
            Kind::Postgresql(database) => {
                Looks { client_id: database.wants_client_id(), address: false }
            }
            #[cfg(not(any(feature = "http", feature = "ldap", feature = "postgresql")))]
            _ => Looks::default(),
        }
    }

    /// True if passwords are held against hashes that it gives.
    pub(crate) const fn hashes(&self) -> bool {
        #[cfg(feature = "postgresql")]
        if let Kind::Postgresql(_) = self.kind {
            return true;
        }
        false
    }

    /// Takes as long as to hold a password against a hash, if that is what is done with it.
    pub(crate) fn take_time(&self, password: &[u8]) {
        #[cfg(feature = "postgresql")]
        if let Kind::Postgresql(database) = &self.kind {
            database.take_time(password);
        }
        let _ = password;
    }

    /// Whether a password is what is stored. Takes the time of the hash, or of the dearest so far.
    pub(crate) fn is_of(&self, stored: &Stored, password: &[u8]) -> bool {
        match stored {
            Stored::Hash(hash, _) => {
                #[cfg(feature = "postgresql")]
                if let Kind::Postgresql(database) = &self.kind {
                    database.remember(hash);
                }
                hash.is_of(password)
            }
            Stored::Nobody | Stored::NoPassword => {
                self.take_time(password);
                false
            }
        }
    }

    /// True if nobody is to ask it now.
    pub(crate) fn is_open(&self, now_ms: u64) -> bool {
        self.breaker().is_open(now_ms)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, when there is a place; `None` if it fails, or is left alone for having failed.
    pub(crate) async fn ask(&self, inquiry: &Inquiry<'_>, outside: &Outside) -> Option<Heard> {
        let _place = self.places.acquire().await.ok()?;
        let leave = self.breaker().leave(outside.clock.now_ms())?;
        let within = Duration::from_millis(self.terms.timeout_ms.into());
        let heard = tokio::time::timeout(within, self.of_kind(inquiry, outside)).await;
        let heard = heard.unwrap_or_else(|_| {
            Err(Failure(format!("there was no answer within {} ms", self.terms.timeout_ms)))
        });
        let change = self.breaker().heard(leave, outside.clock.now_ms(), heard.is_ok());
        self.tell(change, heard.as_ref().err(), outside);
        heard.ok()
    }

    async fn of_kind(&self, inquiry: &Inquiry<'_>, outside: &Outside) -> Result<Heard, Failure> {
        let _ = (inquiry, outside);
        match &self.kind {
            #[cfg(feature = "http")]
            Kind::Http(http) => http.ask(inquiry).await,
            #[cfg(feature = "ldap")]
            Kind::Ldap(directory) => directory.ask(inquiry.asker).await,
            #[cfg(feature = "postgresql")]
            Kind::Postgresql(database) => {
                database.ask(inquiry.asker, |why| self.warn(outside, why)).await
            }
            #[cfg(not(any(feature = "http", feature = "ldap", feature = "postgresql")))]
            _ => Ok(Heard::Next(u64::MAX)),
        }
    }

    /// Says that something is wrong with one answer, though it is one.
    #[cfg(feature = "postgresql")]
    fn warn(&self, outside: &Outside, why: &str) {
        self.failures.warn(outside, || format!("authenticator {:?}: {why}", self.name));
    }

    fn tell(&self, change: Option<Change>, failure: Option<&Failure>, outside: &Outside) {
        let name = &self.name;
        if let Some(Failure(why)) = failure {
            self.failures.warn(outside, || format!("authenticator {name:?} failed: {why}"));
        }
        let then = match self.terms.on_failure {
            OnFailure::Refuse => "clients that need it are refused",
            OnFailure::Next => "clients are left to the next in the chain",
            OnFailure::Allow => "clients are let in as whom they say they are",
        };
        match change {
            Some(Change::Opened(for_ms)) => self.changes.warn(outside, || {
                format!("authenticator {name:?} is left alone for {for_ms} ms; meanwhile {then}")
            }),
            Some(Change::Closed) => {
                outside.journal.info(format!("authenticator {name:?} answers again"));
            }
            None => {}
        }
    }
}

impl fmt::Debug for BackEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackEnd")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
