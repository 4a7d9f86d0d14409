//! `--serve`: rounds one after the other, and what the last of them said for Prometheus.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::Plan;
use super::round::{self, Round};
use crate::client::Signals;
use crate::failure::Failure;
use crate::step::{Failed, Step};

mod http;

/// What rounds have said so far.
#[derive(Debug, Default)]
struct Figures {
    probes: u64,
    failures: [u64; Step::ALL.len()],
    last: Option<(Round, SystemTime)>,
}

/// Probes until a signal ends it.
pub fn serve(
    address: SocketAddr,
    plan: &Plan,
    interval: Duration,
    signals: &Signals,
    quiet: bool,
) -> Result<(), Failure> {
    let cannot = |error| Failure::new(format!("cannot serve on {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let figures = Arc::new(Mutex::new(Figures::default()));
    let shown = Arc::clone(&figures);
    http::answer(listener, move || shown.lock().unwrap_or_else(PoisonError::into_inner).text())
        .map_err(cannot)?;
    crate::print(&format!("http://{address}/metrics\n"))?;
    let mut next = Instant::now();
    let mut news = News::default();
    while !signals.pause(Some(next))? {
        next = Instant::now() + interval;
        let round = round::run(plan);
        if round.was_interrupted() {
            break;
        }
        let new = news.of(&round).filter(|_| !quiet);
        if let Some(new) = new {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "petrelctl: {new}");
        }
        figures.lock().unwrap_or_else(PoisonError::into_inner).add(round);
    }
    Ok(())
}

/// Why the last round failed, to say only what is new.
#[derive(Debug, Default)]
struct News(Option<String>);

impl News {
    /// What a round says that the one before it did not.
    fn of(&mut self, round: &Round) -> Option<String> {
        let now = round.failed.as_ref().map(Failed::sentence);
        if self.0 == now {
            return None;
        }
        self.0.clone_from(&now);
        Some(now.unwrap_or_else(|| "messages go through again".to_owned()))
    }
}

impl Figures {
    fn add(&mut self, round: Round) {
        self.probes += 1;
        if let Some(failed) = &round.failed {
            self.failures[failed.step as usize] += 1;
        }
        self.last = Some((round, SystemTime::now()));
    }

    /// In OpenMetrics; before the first round is done, without what only a round can say.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            if name.ends_with("_seconds") {
                let _ = writeln!(text, "# UNIT {name} seconds");
            }
            for (sample, value) in samples {
                let _ = writeln!(text, "{name}{sample} {value}");
            }
        };
        let by_step = |step: Step| format!("{{step=\"{}\"}}", step.name());
        let last = self.last.as_ref();
        let success = last.map(|(round, _)| u8::from(round.failed.is_none()).to_string());
        let success: Vec<_> = success.map(|value| (String::new(), value)).into_iter().collect();
        let help = "Whether the last round was good, 1, or not, 0.";
        family("petrel_probe_success", "gauge", help, &success);
        let durations: Vec<_> = Step::ALL
            .into_iter()
            .filter_map(|step| Some((step, last?.0.time(step)?)))
            .map(|(step, time)| (by_step(step), format!("{:.6}", time.as_secs_f64())))
            .collect();
        let help = "What each step of the last round took that came to its end.";
        family("petrel_probe_duration_seconds", "gauge", help, &durations);
        let ended = last.and_then(|(_, at)| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let ended: Vec<_> = ended
            .map(|at| (String::new(), format!("{:.3}", at.as_secs_f64())))
            .into_iter()
            .collect();
        let help = "When the last round ended, since 1970.";
        family("petrel_probe_last_timestamp_seconds", "gauge", help, &ended);
        let probes = [("_total".to_owned(), self.probes.to_string())];
        family("petrel_probe_rounds", "counter", "Rounds that were done.", &probes);
        let failures = Step::ALL.map(|step| {
            (format!("_total{}", by_step(step)), self.failures[step as usize].to_string())
        });
        let help = "Rounds that were not good, by the step that failed.";
        family("petrel_probe_failures", "counter", help, &failures);
        text + "# EOF\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once_and_its_end_too() {
        let mut news = News::default();
        let failed = |text: &str| {
            let mut round = Round::default();
            round.failed = Some(Failed { step: Step::Connect, failure: Failure::new(text) });
            round
        };
        let good = Round::default();
        let mut say = |round: &Round| news.of(round);
        assert_eq!(say(&good), None);
        assert_eq!(say(&failed("x")).as_deref(), Some("step connect: x"));
        assert_eq!(say(&failed("x")), None);
        assert_eq!(say(&failed("y")).as_deref(), Some("step connect: y"));
        assert_eq!(say(&good).as_deref(), Some("messages go through again"));
        assert_eq!(say(&good), None);
    }

    #[test]
    fn what_is_said_is_openmetrics() {
        let mut figures = Figures::default();
        let before = figures.text();
        assert!(before.contains("# TYPE petrel_probe_success gauge\n# HELP"), "{before}");
        assert!(before.contains("petrel_probe_rounds_total 0\n"), "{before}");
        let mut bad = Round::default();
        bad.failed = Some(Failed { step: Step::Subscribe, failure: Failure::new("x") });
        figures.add(Round::default());
        figures.add(bad);
        let after = figures.text();
        for line in [
            "petrel_probe_success 0",
            "petrel_probe_rounds_total 2",
            "petrel_probe_failures_total{step=\"connect\"} 0",
            "petrel_probe_failures_total{step=\"subscribe\"} 1",
        ] {
            assert!(after.lines().any(|other| other == line), "{line}: {after}");
        }
        assert!(after.ends_with("\n# EOF\n"), "{after}");
    }
}
