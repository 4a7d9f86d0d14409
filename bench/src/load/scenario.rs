//! The scenarios.

mod hold;
mod kept;
mod self_test;
mod storm;
mod traffic;

use std::time::Duration;

use petrel_proto::Qos;
use serde_json::{Value, json};

use super::plan::{Group, Publishing, Target};
use super::process::Process;
use super::report::Report;
use super::stats::Times;
use super::tls::{Agreed, TlsClient};
use super::{Options, Run, Watch};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which scenario.
    pub scenario: Scenario,
    /// How to reach the broker.
    pub target: Target,
    /// How it is run.
    pub run: Options,
    /// Clients of the scenario's main group.
    pub count: usize,
    /// Receivers, where the scenario tells them apart.
    pub receivers: usize,
    /// New connections a second.
    pub rate: f64,
    /// Connections under way at once, at most.
    pub under_way: usize,
    /// Time from one message of a client to its next.
    pub every: Duration,
    /// QoS of messages and subscriptions.
    pub qos: Qos,
    /// Payload in bytes.
    pub bytes: usize,
    /// Messages of each client, at most.
    pub messages: u64,
    /// RETAIN.
    pub retain: bool,
    /// Keep alive in seconds.
    pub keep_alive_s: u16,
    /// Topic, if another than the scenario's own; `%i` is the client's number.
    pub topic: Option<String>,
    /// How long the measured part lasts.
    pub time: Duration,
    /// Pairs that go on in the background of a storm.
    pub pairs: usize,
    /// The broker's process, to account for what it costs.
    pub broker: Option<Process>,
    /// Where the JSON goes.
    pub json: Option<String>,
    /// What the broker is, in the words of whoever runs it.
    pub broker_build: Option<String>,
    /// All of it as it was given.
    pub words: Vec<String>,
}

/// The kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Holds connections, each with a subscription, and sends a message to each.
    Connect,
    /// Cuts all persistent sessions at once and has them come back.
    Storm,
    /// Connections that do nothing but ping.
    KeepAlive,
    /// Many publishers, few subscribers.
    FanIn,
    /// One publisher, many subscribers.
    FanOut,
    /// Each publisher has its subscriber.
    Pairs,
    /// Many publishers, one shared group.
    Shared,
    /// Retained messages, then a subscriber to all of them.
    Retained,
    /// Messages for sessions that are away, which then come back.
    Offline,
    /// Fan-out with subscribers among them that do not read.
    SlowConsumer,
    /// Pairs, fan-out and idle clients at once.
    Mixed,
    /// 100,000 cars, one message per 10 s each, six consumers in one shared group.
    ConnectedCars,
    /// The load itself, against a sink.
    SelfTest,
}

impl Scenario {
    /// Names on the command line.
    pub const NAMES: [(&'static str, Self); 13] = [
        ("connect", Self::Connect),
        ("storm", Self::Storm),
        ("keepalive", Self::KeepAlive),
        ("fan-in", Self::FanIn),
        ("fan-out", Self::FanOut),
        ("pairs", Self::Pairs),
        ("shared", Self::Shared),
        ("retained", Self::Retained),
        ("offline", Self::Offline),
        ("slow-consumer", Self::SlowConsumer),
        ("mixed", Self::Mixed),
        ("connected-cars", Self::ConnectedCars),
        ("self-test", Self::SelfTest),
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }
}

/// Far more than a working broker needs for what is left to arrive.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs a scenario; true if nothing failed.
///
/// # Errors
/// It could not be run.
pub fn run(asked: &Asked) -> Result<bool, String> {
    let mut report = Report::default();
    if let Some(file) = &asked.json {
        // Better now than when there are results to be lost.
        let writable = std::fs::OpenOptions::new().append(true).create(true).open(file);
        writable.map_err(|error| format!("{file}: {error}"))?;
    }
    let outcome = match asked.scenario {
        Scenario::Connect | Scenario::KeepAlive => hold::run(asked, &mut report),
        Scenario::Storm => storm::run(asked, &mut report),
        Scenario::Retained => kept::retained(asked, &mut report),
        Scenario::Offline => kept::offline(asked, &mut report),
        Scenario::SelfTest => self_test::run(asked, &mut report),
        _ => traffic::run(asked, &mut report),
    };
    match outcome {
        // What was found before is worth telling.
        Err(sentence) if !report.is_empty() => report.fail(sentence),
        other => other?,
    }
    secured(asked, &mut report);
    report.about("broker", broker(asked));
    report.finish(asked.scenario.name(), parameters(asked), asked.json.as_deref())
}

fn parameters(asked: &Asked) -> Value {
    json!({
        "arguments": asked.words,
        "addresses": asked.target.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "source_addresses": asked.target.sources.len(),
        "prefix": asked.target.prefix,
        "count": asked.count,
        "receivers": asked.receivers,
        "pairs": asked.pairs,
        "threads": asked.run.threads,
        "runtime": format!("{:?}", asked.run.runtime).to_lowercase(),
        "pinned": asked.run.pin,
        "nice": asked.run.nice,
        "rate": if asked.rate.is_finite() { json!(asked.rate) } else { Value::Null },
        "under_way": (asked.under_way < usize::MAX).then_some(asked.under_way),
        "every_s": asked.every.as_secs_f64(),
        "time_s": asked.time.as_secs_f64(),
        "qos": asked.qos as u8,
        "payload_bytes": asked.bytes,
        "messages": (asked.messages < u64::MAX).then_some(asked.messages),
        "start_number": asked.target.start_number,
        "session_expiry_s": asked.target.session_expiry_s,
        "retain": asked.retain,
        "topic": asked.topic,
        "keep_alive_s": asked.keep_alive_s,
        "version": asked.target.version.to_string(),
        "tls": asked.target.tls.is_some(),
        "resume": asked.target.tls.as_ref().is_some_and(TlsClient::resumes),
        "patience_s": asked.target.patience.as_secs_f64(),
    })
}

/// What the broker is, as far as it can be found out.
fn broker(asked: &Asked) -> Value {
    let build = asked.broker_build.clone().or_else(|| asked.broker?.build());
    json!({ "build": build, "pid": asked.broker.map(|it| it.0) })
}

/// What TLS connections have agreed on.
fn secured(asked: &Asked, report: &mut Report) {
    let Some(tls) = &asked.target.tls else { return };
    let mut all = Vec::new();
    for (agreed, connections) in tls.agreed() {
        let Agreed { protocol, suite, group, handshake } = &agreed;
        report.row("TLS", format!("{protocol} {suite} {group} {handshake}: {connections}"));
        all.push(json!({
            "protocol": protocol, "cipher": suite, "group": group, "handshake": handshake,
            "connections": connections,
        }));
    }
    report.about("tls", Value::Array(all));
}

impl Asked {
    fn topic(&self, own: &str) -> String {
        self.topic.clone().unwrap_or_else(|| own.to_owned())
    }

    fn publishing(&self, topic: String) -> Publishing {
        Publishing {
            topic,
            counting: false,
            qos: self.qos,
            bytes: self.bytes,
            retain: self.retain,
            every: self.every,
            messages: self.messages,
        }
    }

    /// A group that subscribes.
    fn subscribers(&self, name: &'static str, clients: usize, filter: String) -> Group {
        Group {
            subscribe: Some((filter, self.qos)),
            keep_alive_s: self.keep_alive_s,
            ..Group::idle(name, clients)
        }
    }

    /// A group that publishes.
    fn publishers(&self, name: &'static str, clients: usize, topic: String) -> Group {
        Group { publish: Some(self.publishing(topic)), ..Group::idle(name, clients) }
    }

    fn start(&self, groups: Vec<Group>) -> Result<Run, String> {
        Run::start(&self.target, groups, &self.run)
    }

    fn connect_longest(&self, clients: usize) -> Duration {
        let at_rate = if self.rate.is_finite() { clients as f64 / self.rate } else { 0.0 };
        // At the least 200 a second once the rate has done its part.
        let longest = Duration::from_secs_f64(60.0 + at_rate + clients as f64 / 200.0);
        // Who is patient may have to be.
        longest.max(self.target.patience)
    }

    fn cpu(&self) -> Result<Option<Duration>, String> {
        self.broker.map(Process::cpu).transpose()
    }
}

/// What the broker has spent since `before`.
fn spent(asked: &Asked, before: Option<Duration>) -> Result<Option<Duration>, String> {
    Ok(asked.cpu()?.zip(before).map(|(now, before)| now.saturating_sub(before)))
}

/// What connecting the first group took.
fn connected(asked: &Asked, run: &Run, took: Duration, report: &mut Report) -> Result<(), String> {
    let counts = run.counts(0);
    report.number("clients", "connected and subscribed", counts.ready as f64, "");
    report.time("connect_s", "all of them within", took);
    let rate = asked.count as f64 / took.as_secs_f64();
    report.number("connects_per_s", "connections a second", rate, "/s");
    report.number("gave_up", "attempts given up", counts.impatient as f64, "");
    report.number("failed", "attempts failed", counts.failed as f64, "");
    report.times("ready_us", "time to be ready", &run.times()?[0].ready);
    Ok(())
}

/// What the kernel saw of messages inside the broker.
fn residency(report: &mut Report, key: &str, label: &str, times: &Times) {
    report.times(&format!("residency_{key}"), &format!("residency, {label}"), &times.residency);
    let least = format!("residency, {label}, at least");
    report.times(&format!("residency_least_{key}"), &least, &times.residency_least);
    if times.untimed > 0 {
        let label = format!("residency, {label}, not known");
        report.number(&format!("untimed_{key}"), &label, times.untimed as f64, "");
    }
}

/// How busy the load itself was.
fn busy(report: &mut Report, key: &str, run: &Run, watch: &Watch) -> Result<(), String> {
    let percent = (run.busiest(watch)? * 1000.0).round() / 10.0;
    report.number(key, "the load's busiest thread has worked", percent, "% of the time");
    Ok(())
}
