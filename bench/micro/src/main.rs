//! `petrel-micro`: figures that no machine's mood changes, held against those that are committed.
//!
//! Allocations, bytes and writes are counted in this process; instructions by callgrind, in
//! processes of their own. `petrel-micro --help` says how it is used, `docs/PERFORMANCE.md` what
//! gates.
#![deny(unsafe_code)]

mod callgrind;
mod cases;
mod compare;
mod counters;
mod crossing;
mod figure;
mod gate;
mod heap;
mod matching;
mod options;
mod packets;
mod retained;
mod rig;
mod rules;
mod sockets;
mod syscalls;
mod tls;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = options::parse().and_then(|command| match command {
        options::Command::Gate(gate) => gate::run(&gate),
        options::Command::Compare(group, gate) => gate::compare_only(&group, &gate),
        options::Command::Case(name) => cases::run(&name).map(|()| true),
        options::Command::Profile(name) => cases::profile(&name).map(|()| true),
        options::Command::Retained(topics) => retained::report(topics).map(|()| true),
        options::Command::RetainedCase(name, topics) => {
            retained::counted(&name, topics).map(|()| true)
        }
        options::Command::Rules(rules) => {
            rules::report(rules);
            Ok(true)
        }
        options::Command::Match(sizes) => matching::report(&sizes).map(|()| true),
        options::Command::MatchCase(set, filters, part) => {
            matching::counted(&set, filters, &part).map(|()| true)
        }
        options::Command::Help => {
            print!("{}", options::HELP);
            Ok(true)
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("petrel-micro: {error}");
            ExitCode::from(2)
        }
    }
}
