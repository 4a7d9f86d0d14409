//! `petrelctl top`: how a broker is doing, again and again.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::shards;
use super::reach::Reach;
use super::{bytes, shown, time};
use crate::failure::Failure;

/// Show how a broker is doing, again and again, until interrupted.
#[derive(clap::Args)]
pub struct TopArguments {
    #[command(flatten)]
    reach: Reach,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Look so often and end; for ever without it.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Moves the cursor to the beginning and clears what was there.
const CLEAR: &str = "\x1b[H\x1b[2J";

impl TopArguments {
    /// Looks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let broker = self.reach.broker()?;
        let is_terminal = std::io::stdout().is_terminal();
        let mut before: Option<(Instant, Value)> = None;
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let (now, it) = (Instant::now(), broker.get("/api/v1/overview")?);
            let since = before.as_ref().map(|(then, old)| (now.duration_since(*then), old));
            let text = if self.reach.json { format!("{it}\n") } else { screen(&it, since) };
            let clear = if is_terminal && !self.reach.json { CLEAR } else { "" };
            crate::print(&format!("{clear}{text}"))?;
            std::io::stdout().flush().map_err(Failure::output)?;
            before = Some((now, it));
            left -= 1;
            if left > 0 {
                std::thread::sleep(Duration::from_secs(self.every));
            }
        }
        Ok(())
    }
}

/// One picture; rates are since the one before.
fn screen(it: &Value, since: Option<(Duration, &Value)>) -> String {
    let rate = |path: [&str; 2]| {
        let Some((time, old)) = since else { return "-".to_owned() };
        let of = |it: &Value| it[path[0]][path[1]].as_f64().unwrap_or(0.0);
        format!("{:.0}/s", (of(it) - of(old)) / time.as_secs_f64())
    };
    let mut text = format!(
        "petrel, up {}{}\n\n\
         connections {}   sessions {}   subscriptions {}   retained {}   memory {}\n\
         received {}   delivered {}   dropped {}   queued {}   in flight {}\n\n",
        time(&it["uptime_s"]),
        if it["ready"] == true { "" } else { "; clients are not let in" },
        it["connections"],
        it["sessions"],
        it["subscriptions"],
        it["retained"],
        bytes(&it["resident_bytes"]),
        rate(["messages", "received"]),
        rate(["messages", "delivered"]),
        rate(["messages", "dropped"]),
        it["queued"],
        it["in_flight"],
    );
    text.push_str(&shards(it));
    let dropped = it["dropped"].as_array().into_iter().flatten();
    let dropped: Vec<_> = dropped
        .filter(|it| it["number"].as_u64().is_some_and(|number| number > 0))
        .map(|it| format!("{} {}", it["number"], shown(&it["name"])))
        .collect();
    if !dropped.is_empty() {
        text.push_str(&format!("\ndropped: {}\n", dropped.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_what_has_come_since_the_picture_before() {
        let at = |received: u64| json!({"uptime_s": 1, "ready": true, "messages": {"received": received}, "shards": []});
        let text = screen(&at(300), Some((Duration::from_secs(2), &at(100))));
        assert!(text.contains("received 100/s"), "{text}");
        assert!(screen(&at(300), None).contains("received -"));
    }
}
