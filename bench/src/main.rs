//! `petrel-bench`: load for any MQTT broker.
//!
//! `load` holds the scenarios, in an open loop. `idle` and `pair` are a closed loop of their own, by
//! which the scripts beside it compare brokers.
#![forbid(unsafe_code)]

mod client;
mod idle;
mod load;
mod options;
mod pair;

use std::process::ExitCode;

use mimalloc::MiMalloc;

// Half a million clients are half a million small blocks.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let outcome = options::parse().and_then(|command| match command {
        options::Command::Idle(idle) => idle::run(&idle).map(|()| true),
        options::Command::Pair(pair) => pair::run(&pair).map(|()| true),
        options::Command::Load(asked) => load::scenario::run(&asked),
        options::Command::Help => {
            print!("{}", options::HELP);
            Ok(true)
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("petrel-bench: {error}");
            ExitCode::from(2)
        }
    }
}
