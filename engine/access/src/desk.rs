//! Where shards ask who clients are, and the threads that find it out.
//!
//! Each shard has a [`Desk`]. It knows what was found out a short while ago; what it does not know waits in a
//! line of its own, of which some are given to the threads of the [`Office`] at a time. So a storm of logins
//! makes a line, and no more: the threads give way to the shards, each has one check's memory, and whoever has
//! gone in the meantime costs nothing.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use aws_lc_rs::hmac;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use petrel_net::Bell;
use petrel_proto::{ReasonCode, Text};
use petrel_shard::{Asks, ConnId, Credentials, Identity, Question, Verdict};

use crate::passwords::{Checked, Passwords};
use crate::tokens::{Read, Tokens};

/// Times and bounds, all for the whole process but where it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Threads that check.
    pub threads: u16,
    /// Clients that wait at one shard; one more is told that the broker is busy.
    pub waiting_per_shard: u32,
    /// How long it is known that somebody was let in, in milliseconds; 0 for not at all.
    pub known_ms: u64,
    /// How long it is known that somebody was not, in milliseconds; 0 for not at all.
    pub refused_ms: u64,
    /// What is known at once, at most.
    pub known_maximum: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 1,
            waiting_per_shard: 50_000,
            known_ms: 300_000,
            refused_ms: 5_000,
            known_maximum: 1 << 20,
        }
    }
}

/// One way to find out who a client is.
#[derive(Debug, Clone)]
pub enum Check {
    /// A file of users.
    Passwords(Arc<Passwords>),
    /// Tokens that somebody has signed.
    Tokens(Arc<Tokens>),
    /// The client's certificate, which its transport has verified.
    Certificate,
}

/// The ways of each listener, by its position, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Checks(pub Vec<Vec<Check>>);

/// What a client turned out to be.
#[derive(Debug, Clone)]
enum Outcome {
    Is(Arc<Identity>),
    IsNot,
    /// Nobody knows the client, or has an opinion.
    Unknown,
}

/// The threads, and what they share with the desks.
pub struct Office {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    checks: RwLock<Arc<Checks>>,
    /// Which checks they are: what was found out by others does not count.
    epoch: AtomicU64,
    known: Known,
    settings: Settings,
}

/// One shard's side.
pub struct Desk {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    results: Receiver<(ConnId, Verdict)>,
    to_me: Arc<Way>,
    waiting: VecDeque<(ConnId, Credentials)>,
    /// Given to the threads and not come back.
    under_way: usize,
    under_way_max: usize,
}

/// The way back to a shard.
struct Way {
    results: Sender<(ConnId, Verdict)>,
    bell: Arc<Bell>,
}

struct Job {
    conn: ConnId,
    credentials: Credentials,
    way: Arc<Way>,
    now_ms: u64,
}

/// What a desk has to say of a client that waits.
#[derive(Debug)]
pub enum Answer {
    /// This.
    Verdict(Verdict),
    /// It has gone.
    Gone,
}

/// Jobs of one shard that the threads have at once, for each thread: so that none of them ever waits.
const UNDER_WAY_PER_THREAD: usize = 2;

impl Office {
    /// Starts the threads. There is a desk for each bell.
    ///
    /// # Errors
    /// The system has no threads or random numbers left.
    pub fn start(
        settings: Settings,
        checks: Checks,
        bells: &[Arc<Bell>],
    ) -> io::Result<(Self, Vec<Desk>)> {
        let shared = Arc::new(Shared {
            checks: RwLock::new(Arc::new(checks)),
            epoch: AtomicU64::new(0),
            known: Known::new(settings.known_maximum)?,
            settings,
        });
        let under_way_max = usize::from(settings.threads) * UNDER_WAY_PER_THREAD;
        // There is room for all that desks give away, so that they never wait.
        let (jobs, work) = bounded::<Job>(under_way_max * bells.len().max(1));
        let threads = (0..settings.threads).map(|_| {
            let (shared, work) = (Arc::clone(&shared), work.clone());
            let name = "authentication".to_owned();
            std::thread::Builder::new().name(name).spawn(move || serve(&shared, &work))
        });
        let threads = threads.collect::<io::Result<_>>()?;
        let desk = |bell: &Arc<Bell>| {
            let (sender, results) = unbounded();
            let to_me = Arc::new(Way { results: sender, bell: Arc::clone(bell) });
            let (shared, jobs) = (Arc::clone(&shared), jobs.clone());
            let waiting = VecDeque::new();
            Desk { shared, jobs, results, to_me, waiting, under_way: 0, under_way_max }
        };
        let desks = bells.iter().map(desk).collect();
        Ok((Self { shared, jobs: Some(jobs), threads }, desks))
    }

    /// Other checks from now on. What was found out by those before is forgotten.
    pub fn set_checks(&self, checks: Checks) {
        let mut current = self.shared.checks.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(checks);
        self.shared.epoch.fetch_add(1, Ordering::Release);
    }

    /// Ends the threads, once all desks are gone.
    pub fn stop(mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

/// What a thread does.
fn serve(shared: &Shared, work: &Receiver<Job>) {
    give_way();
    while let Ok(Job { conn, credentials, way, now_ms }) = work.recv() {
        let verdict = shared.find_out(&credentials, now_ms);
        // A shard that has ended needs no answer.
        let _ = way.results.send((conn, verdict));
        way.bell.ring();
    }
}

/// Has the calling thread run when the shards do not want to.
fn give_way() {
    const LAST: i32 = 19;
    let thread = Some(rustix::thread::gettid());
    // Without it logins take more from the others, which is no reason to refuse them.
    let _ = rustix::process::setpriority_process(thread, LAST);
}

impl Shared {
    /// What the checks say. Waits for them.
    fn find_out(&self, credentials: &Credentials, now_ms: u64) -> Verdict {
        let epoch = self.epoch.load(Ordering::Acquire);
        let name = self.known.name(epoch, credentials);
        if let Some(outcome) = self.known.get(&name, now_ms) {
            return verdict(&outcome, credentials);
        }
        let checks = self.checks.read().unwrap_or_else(PoisonError::into_inner);
        let checks = Arc::clone(&checks);
        let chain = checks.0.get(usize::from(credentials.origin.listener));
        let chain = chain.map_or(&[][..], Vec::as_slice);
        let mut outcome = Outcome::Unknown;
        for (at, check) in chain.iter().enumerate() {
            if let Some(found) = check.of(credentials, now_ms) {
                if matches!(found, Outcome::IsNot) {
                    // Or it would be told who stands in which file by how long it takes.
                    chain[at + 1..].iter().for_each(|other| other.take_time(credentials));
                }
                outcome = found;
                break;
            }
        }
        if self.epoch.load(Ordering::Acquire) != epoch {
            // The checks have changed meanwhile.
            return self.find_out(credentials, now_ms);
        }
        let for_ms = match &outcome {
            // Not longer than what it was found out by.
            Outcome::Is(who) => self.settings.known_ms.min(who.ends_at_ms.saturating_sub(now_ms)),
            Outcome::IsNot | Outcome::Unknown => self.settings.refused_ms,
        };
        let verdict = verdict(&outcome, credentials);
        self.known.put(name, outcome, now_ms, for_ms);
        verdict
    }
}

impl Check {
    /// Takes as long as it takes to find out that it does not know a client.
    fn take_time(&self, credentials: &Credentials) {
        if let (Self::Passwords(passwords), Some(password)) = (self, &credentials.password) {
            passwords.take_time(password);
        }
    }

    /// Who a client is; `None` if that is for others to say.
    fn of(&self, credentials: &Credentials, now_ms: u64) -> Option<Outcome> {
        match self {
            Self::Certificate => Some(by_certificate(credentials)?),
            Self::Tokens(tokens) => {
                let user = credentials.user_name.as_ref().map(Text::as_str);
                match tokens.read(user, credentials.password.as_deref()?, now_ms) {
                    Read::Right(identity) => Some(Outcome::Is(identity)),
                    Read::Wrong => Some(Outcome::IsNot),
                    Read::NoToken => None,
                }
            }
            Self::Passwords(passwords) => {
                let (user, password) =
                    (credentials.user_name.as_ref()?, credentials.password.as_deref()?);
                match passwords.check(user.as_str(), password) {
                    Checked::Right(groups) => {
                        let (user, groups) = (user.clone(), groups.to_vec());
                        Some(Outcome::Is(Arc::new(Identity {
                            user,
                            groups,
                            ..Identity::default()
                        })))
                    }
                    Checked::Wrong => Some(Outcome::IsNot),
                    Checked::Unknown => None,
                }
            }
        }
    }
}

/// The user whom the client's certificate names; `None` if it names nobody. Who says to be somebody else
/// is not who it says.
fn by_certificate(credentials: &Credentials) -> Option<Outcome> {
    let user = credentials.origin.certificate.clone()?;
    Some(match &credentials.user_name {
        Some(said) if *said != user => Outcome::IsNot,
        _ => Outcome::Is(Arc::new(Identity { user, ..Identity::default() })),
    })
}

/// [MQTT5-3.1.4-2]: what a client is told.
fn verdict(outcome: &Outcome, credentials: &Credentials) -> Verdict {
    let says = credentials.user_name.is_some() || credentials.password.is_some();
    match outcome {
        Outcome::Is(identity) => {
            Verdict::Accept { data: None, identity: Some(Arc::clone(identity)) }
        }
        Outcome::Unknown if !says => Verdict::Refuse { reason: ReasonCode::NotAuthorized },
        // Whether there is such a user is not told.
        Outcome::IsNot | Outcome::Unknown => {
            Verdict::Refuse { reason: ReasonCode::BadUserNameOrPassword }
        }
    }
}

impl Desk {
    /// Asks who a client is. `None` if the answer comes later, by [`Desk::next`].
    ///
    /// *Cost*: one HMAC over user name and password, and a look; some microseconds.
    pub fn ask(&mut self, now_ms: u64, question: Question) -> Option<Verdict> {
        let Question { conn, asks: Asks::Credentials(credentials), .. } = question else {
            return Some(Verdict::Refuse { reason: ReasonCode::BadAuthenticationMethod });
        };
        if let Some(verdict) = self.known(now_ms, &credentials) {
            return Some(verdict);
        }
        if self.waiting.len() >= self.shared.settings.waiting_per_shard as usize {
            return Some(Verdict::Refuse { reason: ReasonCode::ServerBusy });
        }
        self.waiting.push_back((conn, *credentials));
        None
    }

    /// The next client of which something is known, or that has gone. To be called in every turn until there is
    /// none: it gives the threads what they can take, too.
    pub fn next(
        &mut self,
        now_ms: u64,
        mut is_there: impl FnMut(ConnId) -> bool,
    ) -> Option<(ConnId, Answer)> {
        if let Ok((conn, verdict)) = self.results.try_recv() {
            self.under_way -= 1;
            return Some((conn, Answer::Verdict(verdict)));
        }
        while self.under_way < self.under_way_max {
            let (conn, credentials) = self.waiting.pop_front()?;
            if !is_there(conn) {
                return Some((conn, Answer::Gone));
            }
            // Many of those who wait may be one user.
            if let Some(verdict) = self.known(now_ms, &credentials) {
                return Some((conn, Answer::Verdict(verdict)));
            }
            let job = Job { conn, credentials, way: Arc::clone(&self.to_me), now_ms };
            if self.jobs.try_send(job).is_err() {
                // The threads have ended, which they do last.
                let reason = ReasonCode::ServerUnavailable;
                return Some((conn, Answer::Verdict(Verdict::Refuse { reason })));
            }
            self.under_way += 1;
        }
        None
    }

    /// True if [`Desk::next`] has something to say.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        !self.results.is_empty()
            || (!self.waiting.is_empty() && self.under_way < self.under_way_max)
    }

    /// How many clients wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.under_way
    }

    fn known(&self, now_ms: u64, credentials: &Credentials) -> Option<Verdict> {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        let name = self.shared.known.name(epoch, credentials);
        Some(verdict(&self.shared.known.get(&name, now_ms)?, credentials))
    }
}

/// What was found out lately, under names that tell nobody what they are made of.
struct Known {
    key: hmac::Key,
    parts: Box<[Mutex<Part>]>,
    /// Entries of a part.
    maximum: usize,
}

type Name = [u8; 32];
type Part = HashMap<Name, (u64, Outcome)>;

/// So that shards seldom meet.
const PARTS: usize = 64;

impl Known {
    fn new(maximum: u32) -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            maximum: (maximum as usize).div_ceil(PARTS),
        })
    }

    /// The name of what a client says of itself. The key lives as long as the process, and the password
    /// cannot be found from it without.
    fn name(&self, epoch: u64, credentials: &Credentials) -> Name {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&epoch.to_le_bytes());
        context.update(&credentials.origin.listener.to_le_bytes());
        let user = credentials.user_name.as_ref().map(Text::as_bytes);
        let certificate = credentials.origin.certificate.as_ref().map(Text::as_bytes);
        for part in [user, credentials.password.as_deref(), certificate] {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(part.unwrap_or_default());
        }
        let mut name = [0; 32];
        name.copy_from_slice(context.sign().as_ref());
        name
    }

    fn part(&self, name: &Name) -> MutexGuard<'_, Part> {
        let part = &self.parts[usize::from(name[0]) % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &Name, now_ms: u64) -> Option<Outcome> {
        let part = self.part(name);
        let (until_ms, outcome) = part.get(name)?;
        (*until_ms > now_ms).then(|| outcome.clone())
    }

    fn put(&self, name: Name, outcome: Outcome, now_ms: u64, for_ms: u64) {
        if for_ms == 0 || self.maximum == 0 {
            return;
        }
        let mut part = self.part(&name);
        if part.len() >= self.maximum {
            part.retain(|_, (until_ms, _)| *until_ms > now_ms);
        }
        if part.len() >= self.maximum {
            // What is forgotten is found out again.
            part.clear();
        }
        part.insert(name, (now_ms + for_ms, outcome));
    }
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Office").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
