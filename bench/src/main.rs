//! `petrel-bench`: load for any MQTT broker.
//!
//! `load` holds the scenarios, in an open loop. `idle` and `pair` are a closed loop of their own, by
//! which the scripts beside it compare brokers.
#![forbid(unsafe_code)]

mod client;
mod floor;
mod idle;
mod load;
mod options;
mod pair;

use std::path::Path;
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
        options::Command::Certificate(folder) => certificate(&folder).map(|()| true),
        options::Command::FloorRelay(folder) => {
            floor::relay::serve(folder.as_deref()).map(|()| true)
        }
        options::Command::FloorTls(folder) => floor::serve(&folder).map(|()| true),
        options::Command::Handshakes(asked) => floor::handshakes(&asked).map(|()| true),
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

/// Writes a certificate for a broker under load.
fn certificate(folder: &Path) -> Result<(), String> {
    let names = ["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    for (name, text) in
        [("server.pem", made.cert.pem()), ("server.key", made.signing_key.serialize_pem())]
    {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
