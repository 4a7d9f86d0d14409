//! The threads that find out who clients are.
//!
//! What has to be computed is computed on threads of their own; what has to be asked elsewhere is asked on one
//! runtime beside them. A client goes from one to the other as its chain wants it ([`Shared::advance`]), and none
//! of them ever waits for the other. All of them give way to the shards. Channels have no bound of their own: desks
//! give away so many clients at a time and no more.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use petrel_net::Bell;
use petrel_shard::ConnId;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::back_end::{BackEnd, Heard, Inquiry, Stored};
use crate::check::{
    Asker, Chain, Check, Checks, Finding, Found, Looks, OnFailure, Outcome, Plan, Why, is,
    of_certificate, of_passwords, of_tokens,
};
use crate::desk::{Desk, Settings};
use crate::journal::Outside;
use crate::known::{Known, Name};

/// How long the runtime may take to end. What it still waits for then is left behind.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Threads of the runtime that ask for addresses of names, which waits.
const NAME_THREADS_MAX: usize = 4;

/// The threads, and what they share with the desks.
pub struct Office {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// What goes to the runtime, once there is one.
    door: Receiver<Work>,
    side: Mutex<Option<Side>>,
}

/// What asks elsewhere.
struct Side {
    runtime: Runtime,
    door: JoinHandle<()>,
}

/// What desks, threads and runtime have in common.
pub(crate) struct Shared {
    current: RwLock<Current>,
    /// Which checks they are: what was found out by others does not count.
    epoch: AtomicU64,
    pub(crate) known: Known,
    pub(crate) settings: Settings,
    outside: Outside,
    to_threads: Sender<Work>,
    /// Shards must not wake the runtime themselves: it may have been made after their file tables parted.
    to_door: Sender<Work>,
    runtime: OnceLock<Handle>,
}

/// The checks of an epoch.
#[derive(Clone)]
struct Current {
    epoch: u64,
    checks: Arc<Checks>,
    plan: Arc<Plan>,
}

/// The way back to a shard.
pub(crate) struct Way {
    pub results: Sender<(Asked, Finding)>,
    pub bell: Arc<Bell>,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub conn: ConnId,
    pub listener: u16,
    /// Since when, in milliseconds.
    pub since_ms: u64,
}

/// A client that is to be found out about.
pub(crate) struct Case {
    pub asked: Asked,
    pub asker: Asker,
    pub way: Arc<Way>,
    pub now_ms: u64,
}

/// What threads do.
pub(crate) enum Work {
    /// Begin.
    Begin(Box<Case>),
    /// Go on.
    Go(Box<Job>),
    /// End.
    End,
}

/// A client on its way through its chain.
pub(crate) struct Job {
    case: Case,
    current: Current,
    name: Name,
    /// Whose turn it is.
    at: usize,
    /// What the back end whose turn it is has said.
    heard: Option<Option<Heard>>,
    /// The keys of tokens whose turn it is have been fetched again as far as they may be.
    is_fresh: bool,
    /// It is let in because whoever would know fails.
    allows: bool,
    /// What comes out may be known for so long, as far as those say who had nothing else to say; 0 if one has failed.
    known_ms: u64,
}

/// Where a client is found out about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where something may be computed.
    Threads,
    /// Where nothing must take long.
    Elsewhere,
}

/// What one check comes to.
pub(crate) enum Step {
    /// It says this, to be known for so many milliseconds at most.
    Found(Outcome, u64),
    /// Others have to say.
    Next,
    /// It would know, but fails.
    Fails,
    /// It has to be computed.
    ToThreads,
    /// It has to be asked.
    Ask,
}

impl Office {
    /// Starts the threads. There is a desk for each bell.
    ///
    /// # Errors
    /// The system has no threads or random numbers left.
    pub fn start(
        settings: Settings,
        checks: Checks,
        bells: &[Arc<Bell>],
        outside: Outside,
    ) -> io::Result<(Self, Vec<Desk>)> {
        let (to_threads, work) = unbounded();
        let (to_door, door) = unbounded();
        let none = Checks::default();
        let plan = Arc::new(none.plan(settings.threads));
        let shared = Arc::new(Shared {
            current: RwLock::new(Current { epoch: 0, checks: Arc::new(none), plan }),
            epoch: AtomicU64::new(0),
            known: Known::new(settings.known_maximum)?,
            settings,
            outside,
            to_threads,
            to_door,
            runtime: OnceLock::new(),
        });
        let mut office =
            Self { shared: Arc::clone(&shared), threads: Vec::new(), door, side: Mutex::default() };
        for _ in 0..settings.threads {
            let (shared, work) = (Arc::clone(&shared), work.clone());
            office.threads.push(spawn("authentication", move || serve(&shared, &work))?);
        }
        office.set_checks(checks)?;
        let desks = bells.iter().map(|bell| Desk::new(Arc::clone(&shared), bell)).collect();
        Ok((office, desks))
    }

    /// Other checks from now on. What was found out by those before is forgotten, and what they still find out
    /// does not count.
    ///
    /// # Errors
    /// The system has no threads left; then nothing has changed.
    pub fn set_checks(&self, checks: Checks) -> io::Result<()> {
        if checks.wait() {
            self.start_side()?;
        }
        let shared = &self.shared;
        let plan = Arc::new(checks.plan(shared.settings.threads));
        let checks = Arc::new(checks);
        let before = shared.current();
        self.begin(&checks, &before.checks);
        let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = current.epoch + 1;
        *current = Current { epoch, checks, plan };
        shared.epoch.store(epoch, Ordering::Release);
        Ok(())
    }

    /// Has new checks begin what they do by themselves, and says what is dangerous about them.
    fn begin(&self, checks: &Checks, before: &Checks) {
        let mut said: Vec<&str> = Vec::new();
        for check in checks.0.iter().flat_map(|chain| &chain.checks) {
            match check {
                Check::Asks(back_end) => {
                    let name = back_end.name();
                    if back_end.terms().on_failure == OnFailure::Allow && !said.contains(&name) {
                        said.push(name);
                        self.shared.outside.journal.warn(format!(
                            "authenticator {name:?} lets everybody in as whom they say they are \
                             while it fails: it has on_failure = \"allow\""
                        ));
                    }
                }
                #[cfg(feature = "http")]
                Check::Fetched(fetched) => {
                    let others = before.0.iter().flat_map(|chain| &chain.checks);
                    let others = others.filter_map(|other| match other {
                        Check::Fetched(other) => Some(other),
                        _ => None,
                    });
                    if let Some(runtime) = self.shared.runtime.get() {
                        fetched.begin(others, runtime, &self.shared.outside);
                    }
                }
                _ => {}
            }
        }
        let _ = before;
    }

    /// Starts what asks elsewhere, unless it runs.
    fn start_side(&self) -> io::Result<()> {
        let mut side = self.side.lock().unwrap_or_else(PoisonError::into_inner);
        if side.is_some() {
            return Ok(());
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(NAME_THREADS_MAX)
            .thread_name("inquiries")
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        let (shared, work) = (Arc::clone(&self.shared), self.door.clone());
        let door = spawn("inquiry-door", move || open_door(&shared, &work))?;
        // Nobody else sets it, and nobody comes through the door before there are checks that wait.
        let _ = self.shared.runtime.set(runtime.handle().clone());
        *side = Some(Side { runtime, door });
        Ok(())
    }

    /// Ends the threads, once all desks are gone. Whatever back ends do, that takes no longer than one check of a
    /// password and a second.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let side = self.side.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let door = side.map(|Side { runtime, door }| {
            runtime.shutdown_timeout(END_WITHIN);
            door
        });
        for _ in &self.threads {
            // One that has ended needs no word.
            let _ = self.shared.to_threads.send(Work::End);
        }
        let _ = self.shared.to_door.send(Work::End);
        for thread in self.threads.drain(..).chain(door) {
            // One that panicked has aborted the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        give_way();
        run();
    })
}

/// What a thread that computes does.
fn serve(shared: &Arc<Shared>, work: &Receiver<Work>) {
    while let Ok(work) = work.recv() {
        match work {
            Work::Begin(case) => shared.begin(*case, Place::Threads),
            Work::Go(job) => shared.advance(job, Place::Threads),
            Work::End => return,
        }
    }
}

/// What the thread does by which shards reach the runtime.
fn open_door(shared: &Arc<Shared>, work: &Receiver<Work>) {
    while let Ok(work) = work.recv() {
        match work {
            Work::Begin(case) => shared.begin(*case, Place::Elsewhere),
            Work::Go(job) => shared.advance(job, Place::Elsewhere),
            Work::End => return,
        }
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
    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The epoch, and what desks have to know of its checks.
    pub(crate) fn plan(&self) -> (u64, Arc<Plan>) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.epoch, Arc::clone(&current.plan))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Gives a client away; false if there is nobody any more.
    pub(crate) fn give(&self, case: Case, begins_elsewhere: bool) -> bool {
        let to = if begins_elsewhere { &self.to_door } else { &self.to_threads };
        to.send(Work::Begin(Box::new(case))).is_ok()
    }

    fn begin(self: &Arc<Self>, case: Case, place: Place) {
        let current = self.current();
        let chain = current.checks.chain(case.asked.listener);
        let looks = chain.map_or(Looks::default(), Chain::looks);
        let name = self.known.name(current.epoch, looks, &case.asker);
        if let Some(found) = self.known.get(&name, case.now_ms) {
            return answer(&case, &found, true);
        }
        let (heard, is_fresh, known_ms) = (None, false, u64::MAX);
        let job = Job { case, current, name, at: 0, heard, is_fresh, known_ms, allows: false };
        self.advance(Box::new(job), place);
    }

    /// Takes a client on through its chain, as far as that goes here.
    fn advance(self: &Arc<Self>, mut job: Box<Job>, place: Place) {
        loop {
            let Some(check) = job.check().cloned() else {
                return self.close(job, Outcome::Unknown, u64::MAX, place);
            };
            let step = match &check {
                Check::Passwords(_) | Check::Tokens(_) if place != Place::Threads => {
                    Step::ToThreads
                }
                Check::Scram(_) => Step::of(None),
                Check::Certificate => Step::of(of_certificate(&job.case.asker)),
                Check::Passwords(passwords) => Step::of(of_passwords(passwords, &job.case.asker)),
                Check::Tokens(tokens) => {
                    Step::of(of_tokens(tokens, &job.case.asker, job.case.now_ms))
                }
                #[cfg(feature = "http")]
                Check::Fetched(_) if place != Place::Threads => Step::ToThreads,
                #[cfg(feature = "http")]
                Check::Fetched(fetched) => {
                    let Job { case, is_fresh, .. } = &*job;
                    fetched.step(&case.asker, case.now_ms, *is_fresh)
                }
                Check::Asks(back_end) => self.step_of(back_end, &mut job, place),
            };
            match step {
                Step::Found(outcome, known_ms) => return self.close(job, outcome, known_ms, place),
                Step::Next => job.turn(),
                Step::Fails => {
                    job.known_ms = 0;
                    match (check.on_failure(), &job.case.asker.credentials.user_name) {
                        (OnFailure::Allow, Some(user)) => {
                            let outcome = is(user.clone(), Vec::new());
                            job.allows = true;
                            return self.close(job, outcome, 0, place);
                        }
                        (OnFailure::Next, _) => job.turn(),
                        (OnFailure::Refuse | OnFailure::Allow, _) => {
                            return self.close(job, Outcome::Failed, 0, place);
                        }
                    }
                }
                Step::ToThreads => return self.to_threads(job),
                Step::Ask => return self.ask(&check, job),
            }
        }
    }

    /// What a back end says, as far as it has been asked.
    fn step_of(&self, back_end: &BackEnd, job: &mut Job, place: Place) -> Step {
        let Some(heard) = &job.heard else {
            let is_open = back_end.is_open(self.outside.clock.now_ms());
            return if is_open { Step::Fails } else { Step::Ask };
        };
        let asker = &job.case.asker;
        match heard {
            None => Step::Fails,
            Some(Heard::Is(identity, known_ms)) => {
                Step::Found(Outcome::Is(Arc::clone(identity)), *known_ms)
            }
            Some(Heard::IsNot(known_ms)) => Step::Found(Outcome::IsNot, *known_ms),
            Some(Heard::Next(known_ms)) => {
                job.known_ms = job.known_ms.min(*known_ms);
                Step::Next
            }
            Some(Heard::Stored(_)) if place != Place::Threads => Step::ToThreads,
            Some(Heard::Stored(stored)) => {
                let right = asker.password().is_some_and(|it| back_end.is_of(stored, it));
                match (stored, &asker.credentials.user_name) {
                    (Stored::Nobody, _) => Step::Next,
                    (Stored::Hash(_, groups), Some(user)) if right => {
                        Step::Found(is(user.clone(), groups.clone()), u64::MAX)
                    }
                    _ => Step::Found(Outcome::IsNot, u64::MAX),
                }
            }
        }
    }

    /// Has a client's back end asked, and goes on with what it says.
    fn ask(self: &Arc<Self>, check: &Check, mut job: Box<Job>) {
        // A job that has to be asked comes from checks that wait, and those start the runtime.
        let Some(runtime) = self.runtime.get() else { return };
        let shared = Arc::clone(self);
        match check {
            Check::Asks(back_end) => {
                let back_end = Arc::clone(back_end);
                runtime.spawn(async move {
                    let Case { asker, now_ms, .. } = &job.case;
                    let inquiry = Inquiry { asker, listener: job.listener(), now_ms: *now_ms };
                    let heard = back_end.ask(&inquiry, &shared.outside).await;
                    job.heard = Some(heard);
                    shared.advance(job, Place::Elsewhere);
                });
            }
            #[cfg(feature = "http")]
            Check::Fetched(fetched) => {
                let fetched = Arc::clone(fetched);
                runtime.spawn(async move {
                    fetched.freshen(&shared.outside).await;
                    job.is_fresh = true;
                    shared.to_threads(job);
                });
            }
            Check::Passwords(_) | Check::Tokens(_) | Check::Certificate | Check::Scram(_) => {}
        }
    }

    fn to_threads(&self, job: Box<Job>) {
        // Threads that have ended have no desk to answer to.
        let _ = self.to_threads.send(Work::Go(job));
    }

    /// Says what a client is, unless the checks have changed meanwhile.
    fn close(self: &Arc<Self>, job: Box<Job>, outcome: Outcome, known_ms: u64, place: Place) {
        if matches!(outcome, Outcome::IsNot) {
            let rest = job.current.checks.chain(job.case.asked.listener);
            let rest = rest.and_then(|chain| chain.checks.get(job.at + 1..)).unwrap_or_default();
            let rest = rest.iter().filter(|check| check.takes_time());
            if rest.clone().next().is_some() && place != Place::Threads {
                // It is said again where it can be computed.
                return self.to_threads(job);
            }
            // Or it would be told who stands in which file by how long it takes.
            rest.for_each(|check| check.take_time(&job.case.asker));
        }
        let known_ms = known_ms.min(job.known_ms);
        let Job { case, current, name, at, allows, .. } = *job;
        if self.epoch() != current.epoch {
            return match place {
                Place::Threads => self.begin(case, place),
                // A client has its turn in the line of the threads again.
                Place::Elsewhere => drop(self.give(case, true)),
            };
        }
        let for_ms = match &outcome {
            // Not longer than what it was found out by.
            Outcome::Is(who) => {
                let left_ms = who.ends_at_ms.saturating_sub(case.now_ms);
                self.settings.known_ms.min(left_ms).min(known_ms)
            }
            Outcome::IsNot | Outcome::Unknown => self.settings.refused_ms.min(known_ms),
            Outcome::Failed => 0,
        };
        // First, so that whoever comes after the answer is known.
        let mut found = Found::of(outcome, at);
        if allows {
            found.why = Why::Allowed;
        }
        self.known.put(name, found.clone(), case.now_ms, for_ms);
        answer(&case, &found, false);
    }
}

/// Says it to the shard.
fn answer(case: &Case, found: &Found, is_known: bool) {
    let finding = Finding { is_known, ..found.finding(&case.asker.credentials) };
    // A shard that has ended needs no answer.
    let _ = case.way.results.send((case.asked, finding));
    case.way.bell.ring();
}

impl Step {
    pub(crate) fn of(outcome: Option<Outcome>) -> Self {
        outcome.map_or(Self::Next, |outcome| Self::Found(outcome, u64::MAX))
    }
}

impl Job {
    fn chain(&self) -> Option<&Chain> {
        self.current.checks.chain(self.case.asked.listener)
    }

    fn listener(&self) -> &str {
        self.chain().map_or("", |chain| &chain.listener)
    }

    fn check(&self) -> Option<&Check> {
        self.chain()?.checks.get(self.at)
    }

    /// The next one's turn.
    fn turn(&mut self) {
        self.at += 1;
        self.heard = None;
        self.is_fresh = false;
    }
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Office").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}
