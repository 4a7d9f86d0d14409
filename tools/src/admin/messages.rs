//! `petrelctl retained`, `groups` and `topic`: messages that are kept for everybody, and whom messages reach.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::reach::{Broker, Reach, done, say};
use super::{columns, query, shown, time};
use crate::failure::Failure;

/// List, show and delete retained messages of a broker that runs.
#[derive(clap::Args)]
#[command(arg_required_else_help = false)]
pub struct RetainedArguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: RetainedCommand,
}

#[derive(clap::Subcommand)]
enum RetainedCommand {
    /// List retained messages.
    Ls {
        /// Topic filter; `#` leaves out topics that begin with `$`.
        #[arg(default_value = "#")]
        filter: String,
        /// At most so many are listed; 0 for all.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        most: usize,
    },
    /// Show the retained message of a topic.
    Show {
        /// Topic name.
        topic: String,
    },
    /// Delete the retained message of a topic; subscribers are sent an empty message.
    Rm {
        /// Topic name.
        topic: String,
    },
}

/// Say whom messages to a topic reach.
#[derive(clap::Args)]
pub struct TopicArguments {
    #[command(flatten)]
    reach: Reach,
    /// Topic name, without wildcards.
    topic: String,
}

/// List the shared groups of a broker that runs.
#[derive(clap::Args)]
pub struct GroupsArguments {
    #[command(flatten)]
    reach: Reach,
}

/// No packet of MQTT is longer, and the broker says what it takes.
const CONTENT_BYTES_MAX: u64 = 256 << 20;

/// Have a broker that runs publish a message, which no rule of [access] forbids.
#[derive(clap::Args)]
#[command(after_help = "`petrelctl pub` publishes as a client, by MQTT.")]
pub struct PublishArguments {
    #[command(flatten)]
    reach: Reach,
    /// Topic name.
    topic: String,
    /// The payload as text; empty without it.
    payload: Option<String>,
    /// The payload as bytes, in base64.
    #[arg(long, value_name = "BASE64", conflicts_with = "payload")]
    payload_base64: Option<String>,
    /// The file that has the payload; - for stdin.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["payload", "payload_base64"])]
    file: Option<PathBuf>,
    /// Content Type, as in application/json.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// QoS.
    #[arg(long, short, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Retain it.
    #[arg(long, short)]
    retain: bool,
    /// Seconds after which it expires.
    #[arg(long, value_name = "SECONDS")]
    expires: Option<u32>,
}

impl RetainedArguments {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, command } = self;
        let broker = reach.broker()?;
        let of =
            |topic: String| format!("/api/v1/retained/message{}", query(&[("topic", Some(topic))]));
        match command {
            RetainedCommand::Ls { filter, most } => {
                list(&reach, &broker, &filter, if most == 0 { usize::MAX } else { most })
            }
            RetainedCommand::Show { topic } => say(&reach, &broker.get(&of(topic))?, show),
            RetainedCommand::Rm { topic } => {
                say(&reach, &broker.put("DELETE", &of(topic), None)?, done)
            }
        }
    }
}

fn list(reach: &Reach, broker: &Broker, filter: &str, most: usize) -> Result<(), Failure> {
    let heads = ["TOPIC", "QOS", "BYTES", "EXPIRES IN", "PAYLOAD"];
    let (mut cursor, mut left, mut first) = (None, most, true);
    loop {
        let asked = [
            ("filter", Some(filter.to_owned())),
            ("limit", Some(left.min(1_000).to_string())),
            ("cursor", cursor),
        ];
        let page = broker.get(&format!("/api/v1/retained{}", query(&asked)))?;
        let messages = page["messages"].as_array().cloned().unwrap_or_default();
        let shown_now = messages.iter().take(left);
        if reach.json {
            let lines = shown_now.map(|message| format!("{message}\n"));
            crate::print(&lines.collect::<String>())?;
        } else {
            let text = columns(&heads, &shown_now.map(row).collect::<Vec<_>>());
            let behind = text.find('\n').map_or(0, |at| at + 1);
            crate::print(if first { &text } else { &text[behind..] })?;
        }
        left = left.saturating_sub(messages.len());
        cursor = page["next"].as_str().map(str::to_owned);
        first = false;
        if cursor.is_none() || left == 0 {
            return Ok(());
        }
    }
}

fn row(message: &Value) -> Vec<String> {
    vec![
        shown(&message["topic"]),
        shown(&message["qos"]),
        shown(&message["payload_bytes"]),
        time(&message["expires_in_s"]),
        shown(&message["payload"]).chars().take(60).collect(),
    ]
}

fn show(message: &Value) -> String {
    format!(
        "topic       {}\nqos         {}\nexpires in  {}\nbytes       {}\n{}\n",
        shown(&message["topic"]),
        message["qos"],
        time(&message["expires_in_s"]),
        message["payload_bytes"],
        shown(&message["payload"]),
    )
}

impl TopicArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let asked = query(&[("topic", Some(self.topic))]);
        let answer = self.reach.broker()?.get(&format!("/api/v1/topics/receivers{asked}"))?;
        say(&self.reach, &answer, |answer| {
            let mut text = format!("{} receivers\n", answer["receivers"]);
            for client in answer["clients"].as_array().into_iter().flatten() {
                text.push_str(&format!("client  {}\n", shown(client)));
            }
            for group in answer["groups"].as_array().into_iter().flatten() {
                let (filter, members) = (shown(&group["filter"]), &group["members"]);
                text.push_str(&format!("group   {filter} ({members} members)\n"));
            }
            text
        })
    }
}

impl GroupsArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let broker = self.reach.broker()?;
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = broker.get(&format!("/api/v1/groups{}", query(&[("cursor", cursor)])))?;
            all.extend(page["groups"].as_array().cloned().unwrap_or_default());
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        say(&self.reach, &json!({ "groups": all }), |answer| {
            let groups = answer["groups"].as_array().into_iter().flatten();
            let row = |it: &Value| {
                ["filter", "members", "ready", "queued"].map(|key| shown(&it[key])).to_vec()
            };
            let rows: Vec<_> = groups.map(row).collect();
            columns(&["FILTER", "MEMBERS", "READY", "QUEUED"], &rows)
        })
    }
}

/// All of a file, or of stdin.
fn content(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = match file.to_str() {
        Some("-") => io::stdin().take(CONTENT_BYTES_MAX).read_to_end(&mut content),
        _ => File::open(file).and_then(|it| it.take(CONTENT_BYTES_MAX).read_to_end(&mut content)),
    };
    read.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    Ok(content)
}

impl PublishArguments {
    /// Has it published.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, topic, payload, payload_base64, file, content_type, .. } = self;
        let payload_base64 = match &file {
            Some(file) => Some(STANDARD.encode(content(file)?)),
            None => payload_base64,
        };
        let message = json!({
            "topic": topic, "payload": payload, "payload_base64": payload_base64, "qos": self.qos,
            "retain": self.retain, "expires_s": self.expires, "content_type": content_type,
        });
        say(&reach, &reach.broker()?.put("POST", "/api/v1/publish", Some(&message))?, done)
    }
}
