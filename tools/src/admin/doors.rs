//! `petrelctl listeners` and `drain`: by which ways clients come in, and how they are sent away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::reach::{Broker, Reach, done, say};
use super::{columns, part, shown};
use crate::failure::Failure;

/// So long it may take until all listeners are as they are to be.
const TURN_S: u64 = 30;

/// List, stop and open the listeners of a broker that runs.
#[derive(clap::Args)]
#[command(arg_required_else_help = false)]
pub struct ListenersArguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: ListenersCommand,
}

#[derive(clap::Subcommand)]
enum ListenersCommand {
    /// List the listeners.
    Ls,
    /// Have a listener take no more connections; those that are there stay.
    Stop {
        /// Its name, which is its address unless the configuration gives it one.
        name: String,
    },
    /// Have a listener take connections again.
    Start {
        /// Its name.
        name: String,
    },
}

/// Take no more connections and send all clients away, as before a restart; sessions stay.
#[derive(clap::Args)]
#[command(
    after_help = "MQTT 5 clients are told 0x9C with the server reference, or 0x8B without one. Exit codes: 0 \
                        all have gone, or it is called off, 1 some are left, or wrong usage, 3 the broker cannot be \
                        asked."
)]
pub struct DrainArguments {
    #[command(flatten)]
    reach: Reach,
    /// Over so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    within: u32,
    /// Where MQTT 5 clients are told to go.
    #[arg(long, value_name = "HOST")]
    server_reference: Option<String>,
    /// Return at once, and do not wait until all have gone.
    #[arg(long)]
    no_wait: bool,
    /// Call it off: clients are let in again.
    #[arg(long, conflicts_with_all = ["within", "server_reference", "no_wait"])]
    stop: bool,
}

/// How often it is looked who is left.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long clients may take to go after their time.
const BEYOND: Duration = Duration::from_secs(10);

impl ListenersArguments {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, command } = self;
        // All shards have to do it.
        let broker = reach.broker()?.patient(TURN_S);
        let turn = |name: &str, how: &str| {
            broker.put("POST", &format!("/api/v1/listeners/{}/{how}", part(name)), None)
        };
        match command {
            ListenersCommand::Ls => say(&reach, &broker.get("/api/v1/listeners")?, list),
            ListenersCommand::Stop { name } => say(&reach, &turn(&name, "stop")?, done),
            ListenersCommand::Start { name } => say(&reach, &turn(&name, "start")?, done),
        }
    }
}

fn list(answer: &Value) -> String {
    let all = answer["listeners"].as_array().into_iter().flatten();
    let rows: Vec<_> = all
        .map(|it| {
            let listening = if it["listening"] == true { "yes" } else { "no" };
            let texts = ["name", "protocol", "address"].map(|key| shown(&it[key]));
            [texts.to_vec(), vec![listening.to_owned()]].concat()
        })
        .collect();
    columns(&["NAME", "PROTOCOL", "ADDRESS", "LISTENING"], &rows)
}

impl DrainArguments {
    /// Sends everybody away, and waits until they have gone.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, within, server_reference, no_wait, stop } = self;
        // All shards have to do it.
        let broker = reach.broker()?.patient(TURN_S);
        if stop {
            return say(&reach, &broker.put("DELETE", "/api/v1/drain", None)?, done);
        }
        let how = json!({ "within_s": within, "server_reference": server_reference });
        let answer = broker.put("POST", "/api/v1/drain", Some(&how))?;
        if no_wait {
            return say(&reach, &answer, done);
        }
        let state = until_gone(&broker, Duration::from_secs(within.into()) + BEYOND)?;
        say(&reach, &state, |state| format!("{} connections are left\n", state["connections"]))?;
        match state["connections"].as_u64() {
            Some(0) => Ok(()),
            _ => Err(Failure::new("some clients have not gone")),
        }
    }
}

fn until_gone(broker: &Broker, patience: Duration) -> Result<Value, Failure> {
    let begin = Instant::now();
    loop {
        let state = broker.get("/api/v1/drain")?;
        if state["connections"] == 0 || begin.elapsed() > patience {
            return Ok(state);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
