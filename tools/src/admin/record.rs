//! `petrelctl trace` and `log`: what is recorded, and what is written to the event log.

use std::time::Duration;

use serde_json::{Value, json};

use super::reach::{Broker, Reach, done, say};
use super::{bytes, columns, shown};
use crate::failure::Failure;

/// Record what happens to a client, a user, an address or a topic of a broker that runs.
#[derive(clap::Args)]
#[command(arg_required_else_help = false)]
pub struct TraceArguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(clap::Subcommand)]
enum TraceCommand {
    /// Begin a recording.
    Start {
        /// What is known of them.
        #[arg(value_parser = ["client-id", "user", "address", "topic"])]
        kind: String,
        /// Client identifier, user name, address as in 10.0.0.0/8, or topic filter.
        who: String,
        /// What it is called.
        #[arg(long)]
        name: Option<String>,
        /// For so many seconds.
        #[arg(long, value_name = "N", default_value_t = 600)]
        seconds: u32,
        /// At most so many bytes of memory.
        #[arg(long, value_name = "N")]
        bytes: Option<u64>,
        /// So many bytes of each payload.
        #[arg(long, value_name = "N")]
        payload_bytes: Option<u32>,
        /// What happens when it is full.
        #[arg(long, value_parser = ["stop", "drop_oldest"])]
        when_full: Option<String>,
        /// Print what happens until the recording ends, or this is interrupted.
        #[arg(long, short)]
        follow: bool,
    },
    /// List the recordings.
    Ls,
    /// Print a recording.
    Show {
        /// Its number.
        id: u64,
        /// Go on until it ends, or this is interrupted.
        #[arg(long, short)]
        follow: bool,
    },
    /// End a recording; it can be read until it is deleted.
    Stop {
        /// Its number.
        id: u64,
    },
    /// End a recording and forget it.
    Rm {
        /// Its number.
        id: u64,
    },
}

/// Say up to which level each area of the event log is written, or change that.
#[derive(clap::Args)]
pub struct LogArguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Option<LogCommand>,
}

#[derive(clap::Subcommand)]
enum LogCommand {
    /// Change the level of an area, until the configuration is read again or the broker ends.
    Set {
        /// Area, as in the list.
        area: String,
        /// Level.
        #[arg(value_parser = ["off", "error", "warn", "info"])]
        level: String,
    },
}

/// Entries that are read at once.
const PAGE: usize = 1_000;
/// How often it is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// After the end of a recording all of it can be read within this.
const SETTLES_WITHIN: Duration = Duration::from_millis(800);

impl TraceArguments {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, command } = self;
        let broker = reach.broker()?;
        let of = |id: u64, rest: &str| format!("/api/v1/traces/{id}{rest}");
        match command {
            TraceCommand::Start {
                kind,
                who,
                name,
                seconds,
                bytes,
                payload_bytes,
                when_full,
                follow,
            } => {
                let wanted = json!({
                    "kind": kind, "who": who, "name": name, "seconds": seconds, "bytes_max": bytes,
                    "payload_bytes": payload_bytes, "when_full": when_full,
                });
                let trace = broker.put("POST", "/api/v1/traces", Some(&wanted))?;
                let id = trace["id"].as_u64().unwrap_or(0);
                match follow {
                    true => print(&reach, &broker, id, true),
                    false => say(&reach, &trace, |_| format!("recording {id} runs\n")),
                }
            }
            TraceCommand::Ls => say(&reach, &broker.get("/api/v1/traces")?, list),
            TraceCommand::Show { id, follow } => print(&reach, &broker, id, follow),
            TraceCommand::Stop { id } => {
                let trace = broker.put("POST", &of(id, "/stop"), None)?;
                say(&reach, &trace, |_| format!("recording {id} has ended\n"))
            }
            TraceCommand::Rm { id } => say(&reach, &broker.put("DELETE", &of(id, ""), None)?, done),
        }
    }
}

/// All entries, in the form that is wanted; with `follow` until the recording ends.
fn print(reach: &Reach, broker: &Broker, id: u64, follow: bool) -> Result<(), Failure> {
    let about = format!("/api/v1/traces/{id}");
    let mut trace = broker.get(&about)?;
    let mut from = trace["first"].as_u64().unwrap_or(0);
    let mut is_whole = !follow;
    loop {
        let path = format!("{about}/entries?from={from}&limit={PAGE}");
        let (text, next) = match reach.json {
            true => {
                let page = broker.get(&path)?;
                let entries = page["entries"].as_array().into_iter().flatten();
                let text: String = entries.map(|entry| format!("{entry}\n")).collect();
                (text, page["next"].as_u64().unwrap_or(from))
            }
            false => broker.get_page(&format!("{path}&format=text"))?,
        };
        if next != from {
            crate::print(&text)?;
            from = next;
            continue;
        }
        if is_whole {
            return Ok(());
        }
        // What happened shortly before the end is there shortly after it.
        is_whole = trace["state"] != "running";
        if is_whole {
            std::thread::sleep(SETTLES_WITHIN);
        } else {
            std::thread::sleep(LOOK_EVERY);
            trace = broker.get(&about)?;
        }
    }
}

fn list(answer: &Value) -> String {
    let all = answer["traces"].as_array().into_iter().flatten();
    let rows: Vec<_> = all
        .map(|it| {
            let entries = it["next"].as_u64().unwrap_or(0) - it["first"].as_u64().unwrap_or(0);
            vec![
                shown(&it["id"]),
                shown(&it["name"]),
                shown(&it["kind"]),
                shown(&it["who"]),
                shown(&it["state"]),
                entries.to_string(),
                bytes(&it["bytes"]),
                shown(&it["left_out"]),
            ]
        })
        .collect();
    columns(&["ID", "NAME", "KIND", "WHO", "STATE", "ENTRIES", "MEMORY", "LEFT OUT"], &rows)
}

impl LogArguments {
    /// Asks, or changes it.
    pub fn run(self) -> Result<(), Failure> {
        let broker = self.reach.broker()?;
        let Some(LogCommand::Set { area, level }) = self.command else {
            return say(&self.reach, &broker.get("/api/v1/log")?, |answer| {
                let areas = answer["areas"].as_array().into_iter().flatten();
                let row = |it: &Value| vec![shown(&it["area"]), shown(&it["level"])];
                columns(&["AREA", "LEVEL"], &areas.map(row).collect::<Vec<_>>())
            });
        };
        let wanted = json!({ "area": area, "level": level });
        say(&self.reach, &broker.put("PUT", "/api/v1/log", Some(&wanted))?, done)
    }
}
