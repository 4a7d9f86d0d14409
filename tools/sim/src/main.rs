//! `petrel-sim`: replays one seed, or runs many; `petrel-sim storm` simulates storms.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use petrel_sim::{Outcome, crash, run, run_watched, storm};

const USAGE: &str = "\
usage: petrel-sim --seed S [--trace]            replay one seed
       petrel-sim --seeds N [--from K] [--jobs J]   run many seeds
       petrel-sim crash --seed S [--trace] | --seeds N [--from K] [--jobs J]
                                                the same, with storage and crashes
       petrel-sim storm --help                  storms larger than a machine";

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
struct Args {
    first: u64,
    count: u64,
    jobs: u64,
    trace: bool,
    crash: bool,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "storm").is_some() {
        return storm(words);
    }
    let crash = words.next_if(|word| word == "crash").is_some();
    let args = match parse(words) {
        Ok(args) => Args { crash, ..args },
        Err(problem) => {
            eprintln!("petrel-sim: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let failures = run_all(args);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn storm(mut words: impl Iterator<Item = String>) -> ExitCode {
    let mut words = words.by_ref().peekable();
    if words.next_if(|word| word == "--help").is_some() {
        println!("{}", storm::command::USAGE);
        return ExitCode::SUCCESS;
    }
    match storm::command::run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("petrel-sim storm: {problem}\n{}", storm::command::USAGE);
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args { first: 0, count: 0, jobs: 1, trace: false, crash: false };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word} needs a number, not {value:?}"))
        };
        match word.as_str() {
            "--seed" => (args.first, args.count) = (number()?, 1),
            "--seeds" => args.count = number()?,
            "--from" => args.first = number()?,
            "--jobs" => args.jobs = number()?.clamp(1, 256),
            "--trace" => args.trace = true,
            _ => return Err(format!("{word:?} is not an option")),
        }
    }
    if args.count == 0 { Err("say which seeds".into()) } else { Ok(args) }
}

/// Runs the seeds on as many threads as asked for. Returns how many failed.
fn run_all(args: Args) -> u64 {
    let next = AtomicU64::new(args.first);
    let (failures, messages) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..args.jobs.min(args.count) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.first + args.count {
                        return;
                    }
                    name_seed_on_panic(seed);
                    let outcome = match args.crash {
                        true => crashed(seed, args.trace),
                        false => checked(seed, args.trace),
                    };
                    messages.fetch_add(outcome.messages as u64, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        failures.fetch_add(1, Ordering::Relaxed);
                        println!(
                            "seed {seed} failed: {violation}\nreplay with: petrel-sim {}--seed \
                             {seed} --trace",
                            if args.crash { "crash " } else { "" }
                        );
                    }
                }
            });
        }
    });
    let failed = failures.into_inner();
    println!("{} seeds, {failed} failed, {} messages", args.count, messages.into_inner());
    failed
}

/// Runs a seed with storage and crashes.
fn crashed(seed: u64, trace: bool) -> Outcome {
    match crash::run(crash::Settings { seed, steps: crash::CRASH_STEPS, trace }) {
        Ok((messages, _)) => Outcome { hash: 0, messages, violation: None },
        Err(violation) => Outcome { hash: 0, messages: 0, violation: Some(violation) },
    }
}

/// Runs a seed; every sixteenth twice, since the same seed must give the same run, and one that is watched as well.
fn checked(seed: u64, trace: bool) -> Outcome {
    let mut outcome = run(seed, None, trace);
    if !trace && seed.is_multiple_of(16) && outcome.violation.is_none() {
        let (again, _) = run_watched(seed, false);
        if again.violation.is_some() {
            outcome.violation = again.violation;
        } else if again.hash != outcome.hash {
            outcome.violation = Some(petrel_sim::Violation {
                oracle: "determinism",
                text: "two runs of one seed differ, the second watched: something depends on that, on \
                       chance, on the time or on the order of a hash map"
                    .into(),
            });
        }
    }
    outcome
}

/// A panic ends the process, so it has to say which seed it was.
fn name_seed_on_panic(seed: u64) {
    thread_local!(static SEED: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) });
    static ONCE: std::sync::Once = std::sync::Once::new();
    SEED.set(Some(seed));
    ONCE.call_once(|| {
        let standard = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            standard(info);
            if let Some(seed) = SEED.get() {
                println!("seed {seed} panicked\nreplay with: petrel-sim --seed {seed} --trace");
            }
        }));
    });
}
