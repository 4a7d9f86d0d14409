//! What many clients say together.

use std::time::Duration;

use super::client::{Load, Outcome};
use crate::failure::Failure;
use crate::json;
use crate::spread::{Bar, Spread, histogram};
use crate::step::{Failed, Step};

/// Bars of a histogram, and the length of the longest.
const BARS: usize = 8;
const BAR_LENGTH: usize = 40;

/// All outcomes, and what they were asked for.
pub struct Report<'r> {
    load: &'r Load,
    outcomes: &'r [(u32, Outcome)],
    elapsed: Duration,
}

impl<'r> Report<'r> {
    /// Of clients with their numbers.
    pub fn of(load: &'r Load, outcomes: &'r [(u32, Outcome)], elapsed: Duration) -> Self {
        Self { load, outcomes, elapsed }
    }

    /// Not good if a client failed.
    pub fn verdict(&self) -> Result<(), Failure> {
        let Some((number, first)) = self.failed().next() else { return Ok(()) };
        let (failed, clients) = (self.failed().count(), self.outcomes.len());
        let text = format!(
            "{failed} of {clients} clients failed, the first was client {number}, {}",
            first.sentence()
        );
        Err(Failure { text, exit_code: first.failure.exit_code })
    }

    fn failed(&self) -> impl Iterator<Item = (u32, &'r Failed)> {
        self.outcomes
            .iter()
            .filter_map(|(number, outcome)| Some((*number, outcome.failed.as_ref()?)))
    }

    fn failed_in(&self, step: Step) -> usize {
        self.failed().filter(|(_, failed)| failed.step == step).count()
    }

    fn total(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.outcomes.iter().map(|(_, outcome)| of(outcome)).sum()
    }

    /// Messages in a second, of each client that has all of them.
    fn rates(&self, of: impl Fn(&Outcome) -> Option<Duration>) -> Vec<f64> {
        let time = |(_, outcome): &(u32, Outcome)| of(outcome);
        let rate = |time: Duration| self.load.messages as f64 / time.as_secs_f64().max(1e-9);
        self.outcomes.iter().filter_map(time).map(rate).collect()
    }

    fn publish_rates(&self) -> Vec<f64> {
        self.rates(|outcome| outcome.publish_time)
    }

    fn receive_rates(&self) -> Vec<f64> {
        self.rates(|outcome| outcome.receive_time)
    }

    /// For people.
    pub fn text(&self) -> String {
        let Load { messages, qos, size, .. } = *self.load;
        let (clients, failed) = (self.outcomes.len(), self.failed().count());
        let mut text = format!(
            "{}: {clients} clients, {messages} messages each, QoS {}, {size} bytes\n\n",
            self.load.common.place(),
            qos as u8,
        );
        text += &format!("clients    {} good, {failed} failed", clients - failed);
        let by_step = Step::ALL.map(|step| (self.failed_in(step), step.in_words()));
        let by_step: Vec<_> = by_step
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, step)| format!("{count} in step {step}"))
            .collect();
        if !by_step.is_empty() {
            text += &format!(": {}", by_step.join(", "));
        }
        text += &format!(
            "\nmessages   {} published, {} received, in {:.3} s\n",
            self.total(|outcome| outcome.published),
            self.total(|outcome| outcome.received),
            self.elapsed.as_secs_f64()
        );
        let mut head = format!(
            "\n{:<20}{:>12}{:>12}{:>12}\n",
            "messages/s of one", "slowest", "median", "fastest"
        );
        for (name, rates) in [("publish", self.publish_rates()), ("receive", self.receive_rates())]
        {
            let Some(Spread { min, median, max, .. }) = Spread::of(&rates) else { continue };
            text += &std::mem::take(&mut head);
            text += &format!("{name:<20}{min:>12.0}{median:>12.0}{max:>12.0}\n");
        }
        text += &bars("publish", &self.publish_rates());
        text += &bars("receive", &self.receive_rates());
        text
    }

    /// The same on one line.
    pub fn json(&self) -> String {
        let number = |number: f64| format!("{number:.3}");
        let by_step = Step::ALL.map(|step| (step.name(), self.failed_in(step).to_string()));
        let first = self.failed().next().map_or("null".to_owned(), |(client, failed)| {
            let members = [
                ("client", client.to_string()),
                ("step", json::string(failed.step.name())),
                ("error", json::string(&failed.failure.text)),
            ];
            json::object(&members, None)
        });
        let rates = |rates: &[f64]| {
            let Some(Spread { min, median, max, .. }) = Spread::of(rates) else {
                return "null".to_owned();
            };
            let bars = histogram(rates, BARS).into_iter().map(|Bar { from, count }| {
                json::object(&[("from", number(from)), ("clients", count.to_string())], None)
            });
            let bars: Vec<_> = bars.collect();
            let members = [
                ("slowest", number(min)),
                ("median", number(median)),
                ("fastest", number(max)),
                ("histogram", format!("[{}]", bars.join(","))),
            ];
            json::object(&members, None)
        };
        let members = [
            ("broker", json::string(&self.load.common.place())),
            ("topic_prefix", json::string(&self.load.topic_prefix)),
            ("clients", self.outcomes.len().to_string()),
            ("messages_each", self.load.messages.to_string()),
            ("qos", (self.load.qos as u8).to_string()),
            ("size", self.load.size.to_string()),
            ("failed", self.failed().count().to_string()),
            ("failed_by_step", json::object(&by_step, None)),
            ("first_failure", first),
            ("published", self.total(|outcome| outcome.published).to_string()),
            ("received", self.total(|outcome| outcome.received).to_string()),
            ("seconds", number(self.elapsed.as_secs_f64())),
            ("publish_per_second", rates(&self.publish_rates())),
            ("receive_per_second", rates(&self.receive_rates())),
        ];
        json::object(&members, None) + "\n"
    }
}

/// Clients by their rates; nothing for less than two.
fn bars(name: &str, rates: &[f64]) -> String {
    if rates.len() < 2 {
        return String::new();
    }
    let bars = histogram(rates, BARS);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
    let mut text = format!("\n{name}, from messages/s, clients\n");
    for Bar { from, count } in bars {
        let length = (count * BAR_LENGTH).div_ceil(most);
        text += &format!("{from:>12.0} |{:<BAR_LENGTH$} {count}\n", "#".repeat(length));
    }
    text
}
