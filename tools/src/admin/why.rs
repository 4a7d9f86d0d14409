//! `petrelctl why`: why a client does not get the messages to a topic.

use serde_json::Value;

use super::reach::{Reach, say};
use super::{part, query, shown};
use crate::failure::Failure;

/// Say whether and where messages to a topic reach a client, or do not reach it.
#[derive(clap::Args)]
#[command(
    after_help = "Exit codes: 0 a message reaches the client, now, later or perhaps, 1 it does not, or wrong \
                        usage, 3 the broker cannot be asked."
)]
pub struct WhyArguments {
    #[command(flatten)]
    reach: Reach,
    /// Client identifier of the receiver.
    #[arg(long, value_name = "CLIENT")]
    client: String,
    /// Topic name, without wildcards.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Client identifier of the publisher, to look at what it may publish.
    #[arg(long, value_name = "CLIENT")]
    publisher: Option<String>,
}

impl WhyArguments {
    /// Asks and prints.
    pub fn run(self) -> Result<(), Failure> {
        let asked = query(&[("topic", Some(self.topic)), ("publisher", self.publisher)]);
        let path = format!("/api/v1/clients/{}/why{asked}", part(&self.client));
        let why = self.reach.broker()?.get(&path)?;
        say(&self.reach, &why, sentences)?;
        match why["reaches"].as_str() {
            Some("no") => Err(Failure::new("no message to this topic reaches the client")),
            _ => Ok(()),
        }
    }
}

fn sentences(why: &Value) -> String {
    let mut text = format!("{}\n", shown(&why["answer"]));
    for finding in why["findings"].as_array().into_iter().flatten() {
        let mark = if finding["fine"] == true { " " } else { "!" };
        let (about, what) = (shown(&finding["about"]), shown(&finding["text"]));
        text.push_str(&format!("{mark} {about:<13} {what}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_has_a_mark() {
        let why = json!({
            "answer": "A message reaches nobody.",
            "findings": [
                {"about": "queue", "fine": false, "text": "it is full"},
                {"about": "socket", "fine": true, "text": "0 bytes wait"},
            ],
        });
        let wanted =
            "A message reaches nobody.\n! queue         it is full\n  socket        0 bytes wait\n";
        assert_eq!(sentences(&why), wanted);
    }
}
