//! `petrel-bench`: load for any MQTT broker on loopback.
//!
//! `idle` holds connections with one subscription each; `pair` sends messages from publishers to
//! subscribers, each message counted on arrival. The scripts beside it read the broker's memory and
//! CPU time while it runs.
#![forbid(unsafe_code)]

mod client;
mod idle;
mod options;
mod pair;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = options::parse().and_then(|command| match command {
        options::Command::Idle(idle) => idle::run(&idle),
        options::Command::Pair(pair) => pair::run(&pair),
        options::Command::Help => {
            print!("{}", options::HELP);
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("petrel-bench: {error}");
            ExitCode::from(2)
        }
    }
}
