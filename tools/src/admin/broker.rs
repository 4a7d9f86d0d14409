//! `petrelctl status`, `metrics` and `audit`: the broker as a whole.

use serde_json::Value;

use super::reach::{Reach, say};
use super::{bytes, columns, shown, time};
use crate::failure::Failure;

/// Say how a broker that runs is doing.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 it lets clients in, 1 it does not, or wrong usage, 3 it cannot be asked."
)]
pub struct StatusArguments {
    #[command(flatten)]
    reach: Reach,
}

/// Print the numbers of a broker that runs, as Prometheus reads them.
#[derive(clap::Args)]
pub struct MetricsArguments {
    #[command(flatten)]
    reach: Reach,
}

/// List what was done through the admin interface of a broker that runs, the newest first.
#[derive(clap::Args)]
pub struct AuditArguments {
    #[command(flatten)]
    reach: Reach,
    /// At most so many entries.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    most: u32,
}

impl StatusArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let broker = self.reach.broker()?;
        let (mut overview, version) =
            (broker.get("/api/v1/overview")?, broker.get("/api/v1/version")?);
        overview["version"] = version["version"].clone();
        overview["runtime"] = version["runtime"].clone();
        say(&self.reach, &overview, status)?;
        match overview["ready"] == true {
            true => Ok(()),
            false => Err(Failure::new("clients are not let in")),
        }
    }
}

fn status(it: &Value) -> String {
    let messages = &it["messages"];
    let mut text = format!(
        "petrel {} on {}, for {}{}\n\
         connections    {}\nsessions       {}\nsubscriptions  {}\n\
         queued         {} messages, {} in flight\nretained       {} messages, {}\n\
         messages       {} received, {} delivered, {} dropped, {} refused, {} that nobody wanted\n\
         memory         {}\n",
        shown(&it["version"]),
        shown(&it["runtime"]),
        time(&it["uptime_s"]),
        if it["ready"] == true { "" } else { "; clients are not let in" },
        it["connections"],
        it["sessions"],
        it["subscriptions"],
        it["queued"],
        it["in_flight"],
        it["retained"],
        bytes(&it["retained_bytes"]),
        messages["received"],
        messages["delivered"],
        messages["dropped"],
        messages["refused"],
        messages["unmatched"],
        bytes(&it["resident_bytes"]),
    );
    let dropped = it["dropped"].as_array().into_iter().flatten();
    let dropped = dropped.filter(|it| it["number"].as_u64().is_some_and(|number| number > 0));
    for reason in dropped {
        let (number, reason) = (&reason["number"], shown(&reason["name"]));
        text.push_str(&format!("dropped        {number} {reason}\n"));
    }
    text.push('\n');
    text.push_str(&shards(it));
    text
}

/// A line for each shard.
pub(super) fn shards(it: &Value) -> String {
    let us = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or(0.0));
    let rows: Vec<_> = (it["shards"].as_array().into_iter().flatten())
        .map(|it| {
            vec![
                shown(&it["shard"]),
                shown(&it["connections"]),
                shown(&it["load_level"]),
                shown(&it["received"]),
                shown(&it["delivered"]),
                us(&it["turn_p50_us"]),
                us(&it["turn_p99_us"]),
            ]
        })
        .collect();
    let heads =
        ["SHARD", "CONNECTIONS", "LOAD", "RECEIVED", "DELIVERED", "TURN P50 µs", "TURN P99 µs"];
    columns(&heads, &rows)
}

impl MetricsArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let text = self.reach.broker()?.get_text("/metrics")?;
        if !text.ends_with("# EOF\n") {
            return Err(Failure::new(
                "what it answers are no metrics, or not all of them; is it the admin interface of a broker?",
            ));
        }
        // Whoever answers may be no broker.
        let safe = |char: char| if char.is_control() && char != '\n' { '\u{fffd}' } else { char };
        crate::print(&text.chars().map(safe).collect::<String>())
    }
}

impl AuditArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let answer = self.reach.broker()?.get(&format!("/api/v1/audit?limit={}", self.most))?;
        say(&self.reach, &answer, |answer| {
            let entries = answer["entries"].as_array().into_iter().flatten();
            let row = |it: &Value| {
                let at = jiff::Timestamp::from_second(it["time_s"].as_i64().unwrap_or(0));
                let at = at.map(|at| at.to_string()).unwrap_or_default();
                let rest = ["who", "address", "status", "what", "said"].map(|key| shown(&it[key]));
                [vec![at], rest.to_vec()].concat()
            };
            let rows: Vec<_> = entries.map(row).collect();
            columns(&["TIME", "WHO", "FROM", "STATUS", "WHAT", "SAID"], &rows)
        })
    }
}
