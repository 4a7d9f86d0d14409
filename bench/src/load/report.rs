//! Results: a table for people, JSON for machines.

use std::io::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// What a run found, in order.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    values: Map<String, Value>,
    failures: Vec<String>,
    about: Map<String, Value>,
}

impl Report {
    /// A line of the table alone.
    pub fn row(&mut self, label: &str, text: String) {
        self.rows.push((label.to_owned(), text));
    }

    /// Something of the JSON alone, beside the results.
    pub fn about(&mut self, key: &str, value: Value) {
        self.about.insert(key.to_owned(), value);
    }

    /// A value of the results in the JSON alone.
    pub fn value(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// A number with its unit.
    pub fn number(&mut self, key: &str, label: &str, value: f64, unit: &str) {
        let text = match value {
            it if it.fract() == 0.0 || it.abs() >= 1000.0 => format!("{it:.0} {unit}"),
            it if it.abs() >= 10.0 => format!("{it:.1} {unit}"),
            it => format!("{it:.3} {unit}"),
        };
        self.rows.push((label.to_owned(), text.trim_end().to_owned()));
        self.values.insert(key.to_owned(), json!(value));
    }

    /// A time.
    pub fn time(&mut self, key: &str, label: &str, time: Duration) {
        self.number(key, label, time.as_secs_f64(), "s");
    }

    /// Times in nanoseconds, shown in microseconds.
    pub fn times(&mut self, key: &str, label: &str, times: &Histogram<u64>) {
        if times.is_empty() {
            return;
        }
        let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e3;
        let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
        let max = times.max() as f64 / 1e3;
        let quantiles = [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)];
        let texts = quantiles.map(|(name, it)| match it >= 100.0 {
            true => format!("{name} {it:.0}"),
            false => format!("{name} {it:.1}"),
        });
        self.rows.push((label.to_owned(), format!("{} µs", texts.join("  "))));
        self.values.insert(
            key.to_owned(),
            json!({
                "count": times.len(), "mean_us": times.mean() / 1e3, "p50_us": p50, "p90_us": p90,
                "p99_us": p99, "p99_9_us": p999, "max_us": max,
            }),
        );
    }

    /// True if nothing has been found out yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Something that makes the run a failure.
    pub fn fail(&mut self, sentence: String) {
        self.failures.push(sentence);
    }

    fn table(&self, title: &str) -> String {
        let mut table = format!("{title}\n");
        let width = self.rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        for (label, text) in &self.rows {
            table += &format!("  {label:width$}  {text}\n");
        }
        for failure in &self.failures {
            table += &format!("  FAILED: {failure}\n");
        }
        table
    }

    /// Prints the table; the JSON, with what was asked for, goes to a file if one is named. True if
    /// nothing failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self, title: &str, asked: Value, file: Option<&str>) -> Result<bool, String> {
        match io::stdout().write_all(self.table(title).as_bytes()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.map_err(|error| error.to_string())?,
        }
        if let Some(file) = file {
            let mut whole = json!({
                "petrel_bench": env!("CARGO_PKG_VERSION"),
                "scenario": title,
                "asked": asked,
                "machine": super::process::machine(),
                "results": self.values,
                "failures": self.failures,
            });
            if let Value::Object(whole) = &mut whole {
                whole.extend(self.about);
            }
            let text = serde_json::to_string_pretty(&whole).map_err(|error| error.to_string())?;
            std::fs::write(file, text + "\n").map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(self.failures.is_empty())
    }
}
