//! `petrelctl clients`: who is there, and what is known of each.

use serde_json::Value;

use super::reach::{Broker, Reach, done, say};
use super::{bytes, columns, part, query, shown, time};
use crate::failure::Failure;

/// Entries that are asked for at once.
const PAGE: u32 = 1_000;

/// List, show, disconnect and end the sessions of clients of a broker that runs.
#[derive(clap::Args)]
#[command(arg_required_else_help = false)]
pub struct ClientsArguments {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: ClientsCommand,
}

#[derive(clap::Subcommand)]
enum ClientsCommand {
    /// List clients that have sessions.
    Ls {
        /// Their client identifiers begin so.
        #[arg(long, value_name = "TEXT")]
        begins: Option<String>,
        /// Their client identifiers contain this.
        #[arg(long, value_name = "TEXT")]
        contains: Option<String>,
        /// Their user is this one.
        #[arg(long, value_name = "USER")]
        user: Option<String>,
        /// Only those that are connected.
        #[arg(long, conflicts_with = "away")]
        connected: bool,
        /// Only those that are not connected.
        #[arg(long)]
        away: bool,
        /// At least so many messages wait for them.
        #[arg(long, value_name = "N")]
        queued: Option<u64>,
        /// At most so many are listed; 0 for all.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        most: usize,
    },
    /// Show all that is known of a client.
    Show {
        /// Client identifier.
        client_id: String,
    },
    /// Disconnect a client; its session stays as long as it would by itself.
    Kick {
        /// Client identifier.
        client_id: String,
    },
    /// End the session of a client, with its connection, its subscriptions and what waits for it.
    Rm {
        /// Client identifier.
        client_id: String,
    },
    /// List the subscriptions of a client.
    Subs {
        /// Client identifier.
        client_id: String,
    },
    /// Show what waits for a client, as far as it is in memory.
    Queue {
        /// Client identifier.
        client_id: String,
        /// At most so many messages are shown.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        most: u32,
        /// So many are left out before the first.
        #[arg(long, value_name = "N", default_value_t = 0)]
        skip: u32,
    },
}

impl ClientsArguments {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let Self { reach, command } = self;
        let broker = reach.broker()?;
        let of = |id: &str, rest: &str| format!("/api/v1/clients/{}{rest}", part(id));
        match command {
            ClientsCommand::Ls { begins, contains, user, connected, away, queued, most } => {
                let is_there = (connected || away).then(|| connected.to_string());
                let asked = [
                    ("begins", begins),
                    ("contains", contains),
                    ("user", user),
                    ("connected", is_there),
                    ("queued_min", queued.map(|queued| queued.to_string())),
                ];
                list(&reach, &broker, &asked, if most == 0 { usize::MAX } else { most })
            }
            ClientsCommand::Show { client_id } => {
                say(&reach, &broker.get(&of(&client_id, ""))?, show)
            }
            ClientsCommand::Kick { client_id } => {
                say(&reach, &broker.put("POST", &of(&client_id, "/disconnect"), None)?, done)
            }
            ClientsCommand::Rm { client_id } => {
                say(&reach, &broker.put("DELETE", &of(&client_id, ""), None)?, done)
            }
            ClientsCommand::Subs { client_id } => {
                let all = subscriptions(&broker, &of(&client_id, "/subscriptions"))?;
                say(&reach, &all, subscription_list)
            }
            ClientsCommand::Queue { client_id, most, skip } => {
                let path = format!("{}?limit={most}&skip={skip}", of(&client_id, "/queue"));
                say(&reach, &broker.get(&path)?, queue)
            }
        }
    }
}

/// Page by page, so that a million clients take no memory here and no time there.
fn list(
    reach: &Reach,
    broker: &Broker,
    asked: &[(&str, Option<String>)],
    most: usize,
) -> Result<(), Failure> {
    let (mut cursor, mut left, mut first) = (None, most, true);
    loop {
        let limit = left.min(PAGE as usize).to_string();
        let mut values = asked.to_vec();
        values.extend([("limit", Some(limit)), ("cursor", cursor)]);
        let page = broker.get(&format!("/api/v1/clients{}", query(&values)))?;
        let clients = page["clients"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(clients.len());
        cursor = page["next"].as_str().map(str::to_owned);
        if reach.json {
            let lines = clients.iter().map(|client| format!("{client}\n"));
            crate::print(&lines.collect::<String>())?;
        } else {
            let rows: Vec<_> = clients.iter().map(row).collect();
            let text = columns(&HEADS, &rows);
            let behind = text.find('\n').map_or(0, |at| at + 1);
            crate::print(if first { &text } else { &text[behind..] })?;
        }
        first = false;
        if cursor.is_none() || left == 0 {
            return Ok(());
        }
    }
}

const HEADS: [&str; 8] =
    ["CLIENT", "CONNECTED", "ADDRESS", "BY", "USER", "SUBSCRIPTIONS", "QUEUED", "IN FLIGHT"];

fn row(client: &Value) -> Vec<String> {
    let by = match (client["transport"].as_str(), client["version"].as_str()) {
        (Some(transport), Some(version)) => format!("{transport} {version}"),
        _ => "-".to_owned(),
    };
    let connected = if client["connected"] == true { "yes" } else { "no" };
    let text = |key: &str| shown(&client[key]);
    vec![
        text("client_id"),
        connected.to_owned(),
        text("address"),
        by,
        text("user"),
        text("subscriptions"),
        text("queued"),
        text("in_flight"),
    ]
}

/// All about one client.
fn show(client: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<16}{value}\n"));
    line("client", shown(&client["client_id"]));
    let version = || format!("MQTT {}", shown(&client["version"]));
    let connected = match client["connected"] == true {
        true => format!(
            "from {} by {} ({}, {})",
            shown(&client["address"]),
            shown(&client["listener"]),
            shown(&client["transport"]),
            version()
        ),
        false => match client["ends_in_s"].is_null() {
            true => "no".to_owned(),
            false => format!("no; its session ends in {}", time(&client["ends_in_s"])),
        },
    };
    line("connected", connected);
    if !client["user"].is_null() {
        let groups = client["groups"].as_array().into_iter().flatten().map(shown);
        let groups = groups.collect::<Vec<_>>().join(", ");
        line("user", format!("{} ({groups})", shown(&client["user"])));
    }
    line(
        "session expiry",
        match client["session_expiry_s"].as_u64() {
            Some(4_294_967_295) => "never".to_owned(),
            _ => time(&client["session_expiry_s"]),
        },
    );
    line("subscriptions", shown(&client["subscriptions"]));
    line(
        "queue",
        format!(
            "{} of {} messages, {} of {}",
            client["queued"],
            client["queue_messages_max"],
            bytes(&client["queued_bytes"]),
            bytes(&client["queue_bytes_max"])
        ),
    );
    line("in flight", format!("{}, {}", client["in_flight"], bytes(&client["in_flight_bytes"])));
    let connection = &client["connection"];
    if !connection.is_null() {
        line("socket", format!("{} unsent", bytes(&connection["unsent_bytes"])));
        line(
            "window",
            format!("{} of {} free", connection["send_quota"], connection["receive_maximum"]),
        );
        line("silent for", time(&connection["silent_s"]));
    }
    for (name, key) in [("lost", "lost"), ("refused", "refused")] {
        let lost = &client[key];
        if !lost.is_null() {
            let reasons = lost["by_reason"].as_array().into_iter().flatten();
            let reasons = reasons.map(|it| format!("{} {}", it["messages"], shown(&it["reason"])));
            line(
                name,
                format!(
                    "{} messages ({}), the last '{}' {} ago",
                    lost["messages"],
                    reasons.collect::<Vec<_>>().join(", "),
                    shown(&lost["last_topic"]),
                    time(&lost["last_ago_s"])
                ),
            );
        }
    }
    for event in client["events"].as_array().into_iter().flatten() {
        let at = event["time_s"].as_f64().unwrap_or(0.0);
        let at = jiff::Timestamp::from_second(at as i64).map(|at| at.to_string());
        let reason = match event["reason"].as_u64() {
            Some(0) | None => String::new(),
            Some(reason) => format!(" (0x{reason:02x})"),
        };
        let why = match event["why"].as_str() {
            Some("") | None => String::new(),
            Some(why) => format!(": {why}"),
        };
        let what = shown(&event["what"]);
        line("event", format!("{} {what}{reason}{why}", at.unwrap_or_default()));
    }
    text
}

fn subscriptions(broker: &Broker, path: &str) -> Result<Value, Failure> {
    let mut all = Vec::new();
    loop {
        let page = broker.get(&format!("{path}?limit={PAGE}&skip={}", all.len()))?;
        let found = page["subscriptions"].as_array().cloned().unwrap_or_default();
        // A page of long filters has fewer than were asked for.
        let is_last = found.is_empty();
        all.extend(found);
        if is_last {
            return Ok(serde_json::json!({ "subscriptions": all }));
        }
    }
}

fn subscription_list(answer: &Value) -> String {
    let all = answer["subscriptions"].as_array().into_iter().flatten();
    let rows: Vec<_> = all
        .map(|it| {
            let mut options = Vec::new();
            for (key, name) in
                [("no_local", "no local"), ("retain_as_published", "retain as published")]
            {
                if it[key] == true {
                    options.push(name.to_owned());
                }
            }
            if !it["identifier"].is_null() {
                options.push(format!("identifier {}", it["identifier"]));
            }
            vec![shown(&it["filter"]), shown(&it["qos"]), options.join(", ")]
        })
        .collect();
    columns(&["FILTER", "QOS", "OPTIONS"], &rows)
}

fn queue(answer: &Value) -> String {
    let all = answer["messages"].as_array().into_iter().flatten();
    let rows: Vec<_> = all
        .map(|it| {
            let sent = if it["sent"] == true { "in flight" } else { "queued" };
            vec![
                shown(&it["topic"]),
                shown(&it["qos"]),
                sent.to_owned(),
                shown(&it["payload_bytes"]),
                time(&it["expires_in_s"]),
                shown(&it["payload"]).chars().take(60).collect(),
            ]
        })
        .collect();
    columns(&["TOPIC", "QOS", "STATE", "BYTES", "EXPIRES IN", "PAYLOAD"], &rows)
}
