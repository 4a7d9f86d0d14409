//! `petrelctl retained`, `groups` and `topic`: messages that are kept for everybody, and whom messages reach.

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

/// Have a broker that runs publish a message, which no rule of [access] forbids.
#[derive(clap::Args)]
#[command(after_help = "`petrelctl pub` publishes as a client, by MQTT.")]
pub struct PublishArguments {
    #[command(flatten)]
    reach: Reach,
    /// Topic name.
    topic: String,
    /// The payload; empty without it.
    #[arg(default_value = "", hide_default_value = true)]
    payload: String,
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

impl PublishArguments {
    /// Has it published.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, topic, payload, qos, retain, expires } = self;
        let message = json!({
            "topic": topic, "payload": payload, "qos": qos, "retain": retain, "expires_s": expires,
        });
        say(&reach, &reach.broker()?.put("POST", "/api/v1/publish", Some(&message))?, done)
    }
}
