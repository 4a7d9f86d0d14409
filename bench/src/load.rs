//! Load in an open loop, from as many threads as there are cores or more.

pub mod alarm;
pub mod log;
pub mod plan;
pub mod process;
pub mod report;
pub mod scenario;
pub mod sink;
pub mod slot;
pub mod socket;
pub mod stamps;
pub mod stats;
pub mod tls;
pub mod worker;

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::Log;
use plan::{Group, Target};
use stamps::Stamps;
use stats::{Counters, Counts, Times};
use worker::{Order, Parts, Runtime};

/// How often progress is shown and conditions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A broker that has let nobody in for so long, and has turned some away, is not there.
const NOBODY_MAX: Duration = Duration::from_secs(5);

/// Length of an interval in the log.
const INTERVAL: Duration = Duration::from_secs(1);

/// How a plan is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads.
    pub threads: usize,
    /// What they wait in.
    pub runtime: Runtime,
    /// Each keeps to a core.
    pub pin: bool,
    /// What the priority of its threads is lowered by, those for background traffic excepted.
    pub nice: u8,
    /// No progress on stderr.
    pub quiet: bool,
    /// Where the HdrHistogram log goes.
    pub log: Option<String>,
}

/// Threads that run a plan.
pub struct Run {
    groups: Vec<Group>,
    counters: Vec<Arc<[Counters]>>,
    orders: Vec<mpsc::Sender<Order>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
    clock: Instant,
    quiet: bool,
    collected: RefCell<Collected>,
    log: Option<Log>,
}

/// CPU time of each thread at a time.
#[derive(Debug)]
pub struct Watch {
    since: Duration,
    cpu: Vec<Duration>,
}

/// Times that threads have handed over and nobody has asked for yet.
struct Collected {
    times: Vec<Times>,
    /// Of the run; the next interval of the log begins then.
    until: Duration,
}

impl Run {
    /// Starts the threads; nothing connects yet.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn start(target: &Target, groups: Vec<Group>, options: &Options) -> Result<Self, String> {
        let &Options { threads, runtime, pin, nice, quiet, ref log } = options;
        let clock = Instant::now();
        let log = log.as_deref().map(Log::create).transpose()?;
        let collected = Collected { times: no_times(groups.len())?, until: Duration::ZERO };
        let cores = if pin { core_affinity::get_core_ids().unwrap_or_default() } else { vec![] };
        let stamps = Arc::new(Stamps::new(&groups));
        let mut run = Self {
            groups,
            counters: vec![],
            orders: vec![],
            threads: vec![],
            clock,
            quiet,
            collected: RefCell::new(collected),
            log,
        };
        for index in 0..threads {
            let counters: Arc<[Counters]> =
                run.groups.iter().map(|_| Counters::default()).collect();
            let (order, orders) = mpsc::channel();
            let parts = Parts {
                index,
                threads,
                target: target.clone(),
                groups: run.groups.clone(),
                counters: Arc::clone(&counters),
                stamps: Arc::clone(&stamps),
                orders,
                clock,
                runtime,
                nice,
                core: cores.get(index % cores.len().max(1)).copied(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("load-{index}"))
                .spawn(move || worker::run(parts))
                .map_err(|error| error.to_string())?;
            run.counters.push(counters);
            run.orders.push(order);
            run.threads.push(thread);
        }
        Ok(run)
    }

    /// The groups.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Tells all threads.
    pub fn order(&self, order: impl Fn() -> Order) {
        for thread in &self.orders {
            // A thread that has ended is found by `check`.
            let _ = thread.send(order());
        }
    }

    /// Has groups connect, so many a second in all, so many under way at once in all.
    pub fn connect(&self, groups: &[u16], per_second: f64, under_way_max: usize) {
        self.order(|| Order::Connect { groups: groups.to_vec(), per_second, under_way_max });
    }

    /// The counters of a group now.
    #[must_use]
    pub fn counts(&self, group: u16) -> Counts {
        let mut sum = Counts::default();
        for counters in &self.counters {
            sum.add(&counters[usize::from(group)]);
        }
        sum
    }

    /// The times measured since this was last asked, by group.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn times(&self) -> Result<Vec<Times>, String> {
        self.collect()?;
        let none = no_times(self.groups.len())?;
        Ok(std::mem::replace(&mut self.collected.borrow_mut().times, none))
    }

    /// Has the threads hand over their times; they are an interval of the log.
    fn collect(&self) -> Result<(), String> {
        let mut sum = no_times(self.groups.len())?;
        for thread in &self.orders {
            let (answer, answered) = mpsc::channel();
            let gone = || "a thread of the load has ended".to_owned();
            thread.send(Order::Times(answer)).map_err(|_| gone())?;
            let times = answered.recv().map_err(|_| gone())?;
            for (sum, times) in sum.iter_mut().zip(&times) {
                sum.add(times)?;
            }
        }
        let mut collected = self.collected.borrow_mut();
        let (start, now) = (collected.until, self.elapsed());
        for ((group, times), collected) in self.groups.iter().zip(&sum).zip(&mut collected.times) {
            collected.add(times)?;
            let Some(log) = &self.log else { continue };
            for (series, times) in times.series() {
                log.add(
                    format!("{}.{series}", group.name),
                    start,
                    now.saturating_sub(start),
                    times,
                );
            }
        }
        collected.until = now;
        Ok(())
    }

    /// Waits until something holds, at most so long; shows progress meanwhile. Returns how long it
    /// took, or nothing if it did not.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn until(
        &self,
        what: &str,
        longest: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Result<Option<Duration>, String> {
        let begin = Instant::now();
        let mut shown = Instant::now();
        loop {
            self.check()?;
            let done = holds(self);
            if self.log.is_some() && self.elapsed() >= self.collected.borrow().until + INTERVAL {
                self.collect()?;
            }
            if shown.elapsed() > Duration::from_millis(500) || done {
                shown = Instant::now();
                self.show(what, begin.elapsed());
            }
            if done || begin.elapsed() >= longest {
                self.line();
                return Ok(done.then(|| begin.elapsed()));
            }
            std::thread::sleep(LOOK_EVERY.min(longest.saturating_sub(begin.elapsed())));
        }
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn pass(&self, what: &str, time: Duration) -> Result<(), String> {
        self.until(what, time, |_| false).map(|_| ())
    }

    /// Waits until all clients of some groups are ready.
    ///
    /// # Errors
    /// They are not within the time.
    pub fn until_ready(
        &self,
        what: &str,
        groups: &[u16],
        longest: Duration,
    ) -> Result<Duration, String> {
        let all: usize = groups.iter().map(|&it| self.groups[usize::from(it)].clients).sum();
        let ready = |run: &Self| groups.iter().map(|&it| run.counts(it).ready).sum::<u64>();
        let begin = Instant::now();
        let nobody = |run: &Self| {
            let mut sum = Counts::default();
            run.counters.iter().flat_map(|it| it.iter()).for_each(|it| sum.add(it));
            begin.elapsed() > NOBODY_MAX && sum.accepted == 0 && sum.failed > 0
        };
        let took = self.until(what, longest, |run| ready(run) >= all as u64 || nobody(run))?;
        match (ready(self), took) {
            (ready, Some(took)) if ready >= all as u64 => Ok(took),
            (ready, took) => {
                let after = took.unwrap_or(longest).as_secs_f64();
                Err(format!("{what}: {ready} of {all} clients are ready after {after:.0} s"))
            }
        }
    }

    /// CPU time that the threads have used. What was ordered before has been done once this returns.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn cpu(&self) -> Result<Duration, String> {
        Ok(self.cpu_by_thread()?.iter().sum())
    }

    fn cpu_by_thread(&self) -> Result<Vec<Duration>, String> {
        let of = |thread: &mpsc::Sender<Order>| {
            let (answer, answered) = mpsc::channel();
            let gone = || "a thread of the load has ended".to_owned();
            thread.send(Order::Cpu(answer)).map_err(|_| gone())?;
            answered.recv().map_err(|_| gone())
        };
        self.orders.iter().map(of).collect()
    }

    /// Begins to look how busy the threads are.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn watch(&self) -> Result<Watch, String> {
        Ok(Watch { since: self.elapsed(), cpu: self.cpu_by_thread()? })
    }

    /// Share of its time that the busiest thread has worked since then, from 0 to 1: near 1 it is the
    /// load that is measured.
    ///
    /// # Errors
    /// A thread has ended.
    pub fn busiest(&self, watch: &Watch) -> Result<f64, String> {
        let now = self.cpu_by_thread()?;
        let passed = self.elapsed().saturating_sub(watch.since).as_secs_f64().max(1e-6);
        let used = now.iter().zip(&watch.cpu).map(|(now, before)| now.saturating_sub(*before));
        Ok(used.max().unwrap_or_default().as_secs_f64() / passed)
    }

    fn check(&self) -> Result<(), String> {
        match self.threads.iter().any(JoinHandle::is_finished) {
            true => Err("a thread of the load has ended before its time".to_owned()),
            false => Ok(()),
        }
    }

    fn show(&self, what: &str, elapsed: Duration) {
        if self.quiet {
            return;
        }
        let mut sum = Counts::default();
        for counters in self.counters.iter().flat_map(|it| it.iter()) {
            sum.add(counters);
        }
        eprint!(
            "\r{what} {:5.1} s  ready {}  attempts {}  gave up {}  failed {}  sent {}  got {}   ",
            elapsed.as_secs_f64(),
            sum.ready,
            sum.attempts,
            sum.impatient,
            sum.failed,
            sum.published,
            sum.received
        );
        // Progress that cannot be shown is not worth an error.
        let _ = std::io::stderr().flush();
    }

    fn line(&self) {
        if !self.quiet {
            eprintln!();
        }
    }

    /// Ends all threads and their connections.
    ///
    /// # Errors
    /// What ended a thread before.
    pub fn stop(self) -> Result<(), String> {
        if self.log.is_some() {
            self.collect()?;
        }
        if let Some(log) = self.log {
            log.finish()?;
        }
        drop(self.orders);
        for thread in self.threads {
            thread.join().map_err(|_| "a thread of the load panicked".to_owned())??;
        }
        Ok(())
    }

    /// Since the run began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }
}

fn no_times(groups: usize) -> Result<Vec<Times>, String> {
    (0..groups).map(|_| Times::new()).collect()
}
