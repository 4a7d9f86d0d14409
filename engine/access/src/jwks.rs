//! Keys of tokens that are fetched: at the start, ever again, and when a token names one that is not there.
//!
//! While fetching fails the keys that there are go on. Without any, whoever brings a token is treated as the
//! configuration says for failures.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use hyper::Method;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::back_end::{Failure, Terms};
use crate::check::{Asker, OnFailure, of_tokens};
use crate::http::{Address, Client};
use crate::journal::{Outside, Seldom};
use crate::office::Step;
use crate::tokens::{Claims, Tokens, header};

/// No set of keys is as long as this, in bytes.
const KEYS_BYTES_MAX: usize = 256 << 10;
/// Tokens do not make it fetched again before so many milliseconds have gone.
const AGAIN_MS: u64 = 10_000;
/// The first pause after fetching has failed; each is twice the one before, up to the usual.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Where keys are and what tokens have to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where they are fetched.
    pub address: Address,
    /// How often, in milliseconds.
    pub refresh_ms: u64,
    /// What tokens have to say.
    pub claims: Claims,
}

/// Tokens that are checked with keys from elsewhere.
pub struct Fetched {
    name: String,
    terms: Terms,
    source: Source,
    client: Client,
    keys: RwLock<Option<Arc<Tokens>>>,
    state: Mutex<State>,
    /// Changes whenever fetching has ended, well or not.
    ended: watch::Sender<()>,
    /// Rung when it is to begin at once.
    wanted: Arc<Notify>,
    task: Mutex<Option<AbortHandle>>,
    failures: Seldom,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Somebody has been told to fetch, and has not ended.
    is_under_way: bool,
    /// When fetching ended last.
    ended_at_ms: u64,
    /// It failed then.
    has_failed: bool,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetched {
    /// One that has no keys yet.
    ///
    /// # Errors
    /// A sentence about what is wrong with the address.
    pub fn new(name: String, terms: Terms, source: Source) -> Result<Self, String> {
        let client = Client::new(&source.address, 1)?;
        Ok(Self {
            name,
            terms,
            source,
            client,
            keys: RwLock::default(),
            // The task begins with it.
            state: Mutex::new(State { is_under_way: true, ..State::default() }),
            ended: watch::Sender::default(),
            wanted: Arc::default(),
            task: Mutex::default(),
            failures: Seldom::default(),
        })
    }

    pub(crate) const fn in_flight_max(&self) -> usize {
        self.terms.in_flight_max as usize
    }

    /// Nobody is let in by a token that cannot be checked: it says nothing of who brings it.
    pub(crate) const fn on_failure(&self) -> OnFailure {
        match self.terms.on_failure {
            OnFailure::Next => OnFailure::Next,
            OnFailure::Refuse | OnFailure::Allow => OnFailure::Refuse,
        }
    }

    /// Begins to fetch, unless it has begun, with the keys of the one that it replaces until then.
    pub(crate) fn begin<'a>(
        self: &Arc<Self>,
        before: impl Iterator<Item = &'a Arc<Self>>,
        runtime: &Handle,
        outside: &Outside,
    ) {
        let mut task = lock(&self.task);
        if task.is_some() {
            return;
        }
        for other in before.filter(|other| other.source == self.source) {
            let keys = other.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        let (me, wanted, outside) =
            (Arc::downgrade(self), Arc::clone(&self.wanted), outside.clone());
        *task = Some(runtime.spawn(go_on(me, wanted, outside)).abort_handle());
    }

    fn keys(&self) -> Option<Arc<Tokens>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the keys say of a client. Computes.
    pub(crate) fn step(&self, asker: &Asker, now_ms: u64, is_fresh: bool) -> Step {
        let Some(password) = asker.password().filter(|password| header(password).is_some()) else {
            return Step::Next;
        };
        let keys = self.keys();
        if keys.as_ref().is_some_and(|keys| !keys.lacks_key_of(password)) || is_fresh {
            let has_failed = lock(&self.state).has_failed;
            return match keys {
                // Nobody knows whose it is.
                Some(keys) if has_failed && keys.lacks_key_of(password) => Step::Fails,
                Some(keys) => Step::of(of_tokens(&keys, asker, now_ms)),
                None => Step::Fails,
            };
        }
        Step::Ask
    }

    /// Has the keys fetched and waits for it, unless that has been done a moment ago.
    pub(crate) async fn freshen(&self, outside: &Outside) {
        let mut ended = self.ended.subscribe();
        {
            let mut state = lock(&self.state);
            if !state.is_under_way {
                if outside.clock.now_ms().saturating_sub(state.ended_at_ms) < AGAIN_MS {
                    return;
                }
                state.is_under_way = true;
                self.wanted.notify_one();
            }
        }
        let within = Duration::from_millis(self.terms.timeout_ms.into());
        // Whatever comes of it, the keys that there are then decide.
        let _ = tokio::time::timeout(within, ended.changed()).await;
    }

    /// Fetches once; says when to do it again, if nobody wants it before.
    async fn fetch(&self, pause: &mut Duration, outside: &Outside) -> Duration {
        let within = Duration::from_millis(self.terms.timeout_ms.into());
        lock(&self.state).is_under_way = true;
        let fetched = self.client.fetch(Method::GET, Vec::new(), KEYS_BYTES_MAX);
        let fetched = tokio::time::timeout(within, fetched).await.unwrap_or_else(|_| {
            Err(Failure(format!("there was no answer within {} ms", self.terms.timeout_ms)))
        });
        let tokens = fetched.and_then(|body| {
            Tokens::of_published(&body, self.source.claims.clone())
                .map_err(|why| Failure(format!("its answer cannot be used: {why}")))
        });
        let usual = Duration::from_millis(self.source.refresh_ms);
        let name = &self.name;
        let has_failed = tokens.is_err();
        let next = match tokens {
            Ok(tokens) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tokens));
                *pause = FIRST_PAUSE;
                usual
            }
            Err(Failure(why)) => {
                let then = match self.keys().is_some() {
                    true => "those that there are go on",
                    false => "there are none, and clients with tokens are not let in",
                };
                self.failures.warn(outside, || {
                    format!("authenticator {name:?} could not fetch its keys: {why}; {then}")
                });
                let next = *pause;
                *pause = (next * 2).min(usual.max(FIRST_PAUSE));
                next.min(usual)
            }
        };
        let ended_at_ms = outside.clock.now_ms();
        let before = std::mem::replace(
            &mut *lock(&self.state),
            State { is_under_way: false, ended_at_ms, has_failed },
        );
        if before.has_failed && !has_failed {
            outside.journal.info(format!("authenticator {name:?} has fetched its keys again"));
        }
        // Nobody may wait for it.
        self.ended.send_replace(());
        next
    }
}

/// Fetches until the one whose keys they are is gone.
async fn go_on(fetched: Weak<Fetched>, wanted: Arc<Notify>, outside: Outside) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(me) = fetched.upgrade() else { return };
        let next = me.fetch(&mut pause, &outside).await;
        drop(me);
        // Either will do.
        let _ = tokio::time::timeout(next, wanted.notified()).await;
    }
}

#[cfg(test)]
mod tests;
