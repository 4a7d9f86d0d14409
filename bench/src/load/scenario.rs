//! The scenarios.

use std::time::Duration;

use petrel_proto::Qos;
use serde_json::{Value, json};

use super::Run;
use super::plan::{Group, Publishing, Target};
use super::process::{Process, slab_bytes};
use super::report::Report;
use super::worker::Order;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which scenario.
    pub scenario: Scenario,
    /// How to reach the broker.
    pub target: Target,
    /// Threads.
    pub threads: usize,
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
    /// No progress on stderr.
    pub quiet: bool,
    /// Where the JSON goes.
    pub json: Option<String>,
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
}

impl Scenario {
    /// Names on the command line.
    pub const NAMES: [(&'static str, Self); 12] = [
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
    match asked.scenario {
        Scenario::Connect | Scenario::KeepAlive => hold(asked, &mut report)?,
        Scenario::Storm => storm(asked, &mut report)?,
        Scenario::Retained => retained(asked, &mut report)?,
        Scenario::Offline => offline(asked, &mut report)?,
        _ => traffic(asked, &mut report)?,
    }
    report.finish(asked.scenario.name(), parameters(asked), asked.json.as_deref())
}

fn parameters(asked: &Asked) -> Value {
    json!({
        "arguments": asked.words,
        "count": asked.count,
        "receivers": asked.receivers,
        "threads": asked.threads,
        "rate": if asked.rate.is_finite() { json!(asked.rate) } else { Value::Null },
        "every_s": asked.every.as_secs_f64(),
        "qos": asked.qos as u8,
        "payload_bytes": asked.bytes,
        "version": asked.target.version.to_string(),
        "tls": asked.target.tls.is_some(),
        "patience_s": asked.target.patience.as_secs_f64(),
    })
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
            messages: u64::MAX,
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
        Run::start(&self.target, groups, self.threads, self.quiet)
    }

    fn connect_longest(&self, clients: usize) -> Duration {
        let at_rate = if self.rate.is_finite() { clients as f64 / self.rate } else { 0.0 };
        // At the least 200 a second once the rate has done its part.
        Duration::from_secs_f64(60.0 + at_rate + clients as f64 / 200.0)
    }

    fn cpu(&self) -> Result<Option<Duration>, String> {
        self.broker.map(Process::cpu).transpose()
    }
}

/// What the broker has spent since `before`.
fn spent(asked: &Asked, before: Option<Duration>) -> Result<Option<Duration>, String> {
    Ok(asked.cpu()?.zip(before).map(|(now, before)| now.saturating_sub(before)))
}

/// Holds connections with a subscription each.
fn hold(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let mut fleet = asked.subscribers("fleet", asked.count, asked.topic("bench/%i"));
    fleet.persistent = asked.retain;
    let mut sender = asked.publishers("sender", 1, asked.topic("bench/%i"));
    if let Some(publishing) = &mut sender.publish {
        publishing.counting = true;
        publishing.retain = false;
        publishing.messages = asked.count as u64;
        publishing.every = Duration::from_micros(50);
    }
    let run = asked.start(vec![fleet, sender])?;
    let (memory, slab) = (asked.broker.map(Process::private_bytes).transpose()?, slab_bytes());
    let cpu = asked.cpu()?;
    run.connect(&[0], asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &[0], asked.connect_longest(asked.count))?;
    connected(asked, &run, took, report)?;
    if let Some(spent) = spent(asked, cpu)? {
        let each = spent.as_secs_f64() * 1e6 / asked.count as f64;
        report.number("cpu_per_connect_us", "broker CPU per connection", each, "µs");
    }
    let (cpu, pongs) = (asked.cpu()?, run.counts(0).pongs);
    run.pass("holding", asked.time)?;
    if let (Some(before), Some(process)) = (memory, asked.broker) {
        let each = process.private_bytes()?.saturating_sub(before) as f64 / asked.count as f64;
        report.number("user_bytes_each", "broker memory per connection", each, "B");
    }
    if let (Some(before), Some(after)) = (slab, slab_bytes()) {
        let each = after.saturating_sub(before) as f64 / asked.count as f64;
        report.number("slab_bytes_each", "kernel slab per connection, both ends", each, "B");
    }
    let pongs = run.counts(0).pongs - pongs;
    if asked.keep_alive_s > 0 {
        report.number("pings", "pings answered while holding", pongs as f64, "");
        let spent = spent(asked, cpu)?.filter(|_| pongs > 0);
        if let Some(spent) = spent {
            let each = spent.as_secs_f64() * 1e6 / pongs as f64;
            report.number("cpu_per_ping_us", "broker CPU per ping", each, "µs");
        }
    }
    run.connect(&[1], f64::INFINITY, usize::MAX);
    run.until_ready("the sender", &[1], DRAIN)?;
    let all = asked.count as u64;
    run.order(|| Order::Publish { groups: vec![1] });
    let longest = DRAIN + Duration::from_micros(100 * all);
    run.until("a message to each", longest, |run| run.counts(0).received >= all)?;
    let counts = run.counts(0);
    report.number("delivered", "of one message to each, arrived", counts.received as f64, "");
    report.times("delivery_us", "time to arrive", &run.times()?[0].delivery);
    report.number("lost", "connections lost", counts.lost as f64, "");
    if counts.received != all {
        report.fail(format!("{} of {all} clients got the message sent to each", counts.received));
    }
    if counts.lost > 0 {
        report.fail(format!("{} connections were lost while they were held", counts.lost));
    }
    run.stop()
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

/// Cuts all persistent sessions at once and has them come back, with traffic beside them.
fn storm(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let mut fleet = asked.subscribers("fleet", asked.count, asked.topic("bench/%i"));
    fleet.persistent = true;
    let sink = asked.subscribers("sink", asked.pairs, "background/%i".to_owned());
    let mut source = asked.publishers("source", asked.pairs, "background/%i".to_owned());
    if let Some(publishing) = &mut source.publish {
        publishing.qos = Qos::AtLeastOnce;
    }
    source.apart = true;
    let subscribe = sink.subscribe.map(|(filter, _)| (filter, Qos::AtLeastOnce));
    let sink = Group { subscribe, apart: true, ..sink };
    let run = asked.start(vec![fleet, sink, source])?;
    run.connect(&[1, 2], f64::INFINITY, usize::MAX);
    run.until_ready("background", &[1, 2], DRAIN)?;
    run.connect(&[0], asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &[0], asked.connect_longest(asked.count))?;
    connected(asked, &run, took, report)?;
    run.order(|| Order::Publish { groups: vec![2] });
    run.pass("quiet", asked.time)?;
    report.times("quiet_us", "background, before", &run.times()?[1].delivery);

    let (before, cpu) = (run.counts(0), asked.cpu()?);
    run.order(|| Order::Cut { group: 0, under_way_max: asked.under_way });
    let goodput = std::cell::RefCell::new(Vec::new());
    let all = asked.count as u64;
    let back = run.until("coming back", asked.connect_longest(asked.count), |run| {
        goodput.borrow_mut().push((run.elapsed(), run.counts(0).accepted));
        let now = run.counts(0);
        now.accepted >= before.accepted + all && now.ready >= all
    })?;
    let (after, spent) = (run.counts(0), spent(asked, cpu)?);
    let times = run.times()?;
    match back {
        Some(_) => {
            let back = Duration::from_micros(times[0].ready.max());
            report.time("recovery_s", "all back within", back);
            report.number(
                "back_per_s",
                "sessions back a second",
                all as f64 / back.as_secs_f64(),
                "/s",
            );
        }
        None => report.fail(format!("{} of {all} sessions came back", after.ready)),
    }
    report.number("best_second", "in the best second", best_second(&goodput.borrow()), "/s");
    report.times("back_us", "time to be back", &times[0].ready);
    let tries = (after.attempts - before.attempts) as f64 / all as f64;
    report.number("attempts_each", "attempts per session", tries, "");
    let gave_up = (after.impatient - before.impatient) as f64;
    report.number("storm_gave_up", "attempts given up", gave_up, "");
    let failed = (after.failed - before.failed) as f64;
    report.number("storm_failed", "attempts failed", failed, "");
    let present = after.present - before.present;
    report.number("present", "back with their session", present as f64, "");
    if back.is_some() && present < all {
        report.fail(format!("{} sessions came back without Session Present", all - present));
    }
    if let Some(spent) = spent {
        let each = spent.as_secs_f64() * 1e6 / all as f64;
        report.number("cpu_per_return_us", "broker CPU per session back, all included", each, "µs");
    }
    report.times("storm_us", "background, meanwhile", &times[1].delivery);
    background_lost(&run, report)?;
    run.stop()
}

/// Most clients let in within a second.
fn best_second(goodput: &[(Duration, u64)]) -> f64 {
    let mut best = 0;
    for (at, accepted) in goodput {
        let before = goodput.iter().find(|(then, _)| *then + Duration::from_secs(1) >= *at);
        best = best.max(accepted - before.map_or(0, |(_, accepted)| *accepted));
    }
    best as f64
}

/// Stops the background traffic and counts what is missing of it.
fn background_lost(run: &Run, report: &mut Report) -> Result<(), String> {
    run.order(|| Order::Quiet);
    run.pass("draining", Duration::from_millis(300))?;
    let sent = |run: &Run| run.counts(2).published;
    run.until("draining", DRAIN, |run| run.counts(1).received >= sent(run))?;
    let missing = sent(run).saturating_sub(run.counts(1).received);
    report.number("background", "background messages, QoS 1", sent(run) as f64, "");
    report.number("background_lost", "of them lost", missing as f64, "");
    if missing > 0 {
        report.fail(format!("{missing} background messages are missing"));
    }
    Ok(())
}

/// Streams of messages between groups: which, and how often each message arrives.
fn traffic(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let (groups, copies) = streams(asked);
    let run = asked.start(groups)?;
    let all: Vec<u16> = (0..run.groups().len() as u16).collect();
    let clients: usize = run.groups().iter().map(|group| group.clients).sum();
    run.connect(&all, asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &all, asked.connect_longest(clients))?;
    report.number("clients", "connected", clients as f64, "");
    report.time("connect_s", "all of them within", took);
    let cpu = asked.cpu()?;
    run.order(|| Order::Publish { groups: all.clone() });
    run.pass("sending", asked.time)?;
    run.order(|| Order::Quiet);
    run.pass("draining", Duration::from_millis(300))?;
    let expected = |run: &Run| -> u64 {
        copies.iter().map(|&(from, _, times)| run.counts(from).published * times).sum()
    };
    let receivers: Vec<u16> = copies.iter().map(|&(_, to, _)| to).collect();
    let received = |run: &Run| -> u64 { receivers.iter().map(|&to| run.counts(to).received).sum() };
    run.until("draining", DRAIN, |run| received(run) >= expected(run))?;
    let spent = spent(asked, cpu)?;
    let sent: u64 = copies.iter().map(|&(from, _, _)| run.counts(from).published).sum();
    report.number("sent", "messages sent", sent as f64, "");
    report.number(
        "sent_per_s",
        "messages sent a second",
        sent as f64 / asked.time.as_secs_f64(),
        "/s",
    );
    report.number("received", "messages received", received(&run) as f64, "");
    let missing = expected(&run).saturating_sub(received(&run));
    report.number("missing", "missing", missing as f64, "");
    let times = run.times()?;
    for &to in &receivers {
        let label = format!("time to arrive, {}", run.groups()[usize::from(to)].name);
        let key = format!("delivery_us_{}", run.groups()[usize::from(to)].name);
        report.times(&key, &label, &times[usize::from(to)].delivery);
    }
    if let Some(spent) = spent {
        let each = spent.as_secs_f64() * 1e6 / received(&run).max(1) as f64;
        report.number("cpu_per_message_us", "broker CPU per message received", each, "µs");
    }
    if missing > 0 && asked.qos > Qos::AtMostOnce && asked.scenario != Scenario::SlowConsumer {
        report.fail(format!("{missing} messages are missing"));
    }
    run.stop()
}

/// Groups, and which of them gets how many copies of what which sends: sender, receiver, copies.
fn streams(asked: &Asked) -> (Vec<Group>, Vec<(u16, u16, u64)>) {
    let (count, receivers) = (asked.count, asked.receivers.max(1));
    let shared = |filter: &str| format!("$share/bench/{filter}");
    match asked.scenario {
        Scenario::FanIn => {
            let to = asked.subscribers("sink", receivers, "fan-in/+".to_owned());
            (
                vec![to, asked.publishers("source", count, "fan-in/%i".to_owned())],
                vec![(1, 0, receivers as u64)],
            )
        }
        Scenario::FanOut | Scenario::SlowConsumer => {
            let to = asked.subscribers("sink", count, "fan-out".to_owned());
            let mut groups = vec![to, asked.publishers("source", 1, "fan-out".to_owned())];
            if asked.scenario == Scenario::SlowConsumer {
                let mut deaf = asked.subscribers("deaf", receivers, "fan-out".to_owned());
                deaf.deaf = true;
                groups.push(deaf);
            }
            (groups, vec![(1, 0, count as u64)])
        }
        Scenario::Shared => {
            let to = asked.subscribers("sink", receivers, shared("shared/+"));
            (vec![to, asked.publishers("source", count, "shared/%i".to_owned())], vec![(1, 0, 1)])
        }
        Scenario::ConnectedCars => {
            let topic = "vehicles/sensor/data/%i".to_owned();
            let to = asked.subscribers("consumer", receivers, shared("vehicles/sensor/data/+"));
            (vec![to, asked.publishers("car", count, topic)], vec![(1, 0, 1)])
        }
        Scenario::Mixed => {
            let pairs = asked.pairs.max(1);
            let groups = vec![
                asked.subscribers("sink", pairs, "mixed/pair/%i".to_owned()),
                asked.publishers("source", pairs, "mixed/pair/%i".to_owned()),
                asked.subscribers("crowd", receivers, "mixed/all".to_owned()),
                asked.publishers("speaker", 1, "mixed/all".to_owned()),
                asked.subscribers("idle", count, "mixed/own/%i".to_owned()),
            ];
            (groups, vec![(1, 0, 1), (3, 2, receivers as u64)])
        }
        _ => {
            let to = asked.subscribers("sink", count, asked.topic("pair/%i"));
            (vec![to, asked.publishers("source", count, asked.topic("pair/%i"))], vec![(1, 0, 1)])
        }
    }
}

/// Retained messages on as many topics as asked for, then subscribers to all of them.
fn retained(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let mut sender = asked.publishers("sender", 1, "retained/%i/state".to_owned());
    if let Some(publishing) = &mut sender.publish {
        publishing.counting = true;
        publishing.retain = true;
        publishing.qos = Qos::AtLeastOnce;
        publishing.messages = asked.count as u64;
        publishing.every = Duration::from_micros(20);
    }
    let readers = asked.subscribers("reader", asked.receivers.max(1), "retained/#".to_owned());
    let run = asked.start(vec![sender, readers])?;
    run.connect(&[0], f64::INFINITY, usize::MAX);
    run.until_ready("the sender", &[0], DRAIN)?;
    run.order(|| Order::Publish { groups: vec![0] });
    let (all, longest) =
        (asked.count as u64, DRAIN + Duration::from_micros(100 * asked.count as u64));
    let kept = run.until("retaining", longest, |run| run.counts(0).acknowledged >= all)?;
    report.number("retained", "topics retained", run.counts(0).acknowledged as f64, "");
    report.time("retain_s", "within", kept.unwrap_or(longest));
    let cpu = asked.cpu()?;
    run.connect(&[1], f64::INFINITY, usize::MAX);
    let wanted = all * asked.receivers.max(1) as u64;
    let read = run.until("reading", longest, |run| run.counts(1).received >= wanted)?;
    let got = run.counts(1).received;
    report.number("read", "retained messages read", got as f64, "");
    report.time("read_s", "within", read.unwrap_or(longest));
    if let Some(spent) = spent(asked, cpu)? {
        let each = spent.as_secs_f64() * 1e6 / got.max(1) as f64;
        report.number("cpu_per_message_us", "broker CPU per message read", each, "µs");
    }
    if got != wanted {
        report.fail(format!("{got} of {wanted} retained messages were read"));
    }
    run.stop()
}

/// Messages for sessions that are away, which then come back.
fn offline(asked: &Asked, report: &mut Report) -> Result<(), String> {
    const EACH: u64 = 10;
    let mut fleet = asked.subscribers("fleet", asked.count, "offline/%i".to_owned());
    fleet.persistent = true;
    fleet.subscribe = fleet.subscribe.map(|(filter, _)| (filter, Qos::AtLeastOnce));
    let mut sender = asked.publishers("sender", asked.count, "offline/%i".to_owned());
    if let Some(publishing) = &mut sender.publish {
        publishing.qos = Qos::AtLeastOnce;
        publishing.messages = EACH;
    }
    let run = asked.start(vec![fleet, sender])?;
    run.connect(&[0, 1], asked.rate, asked.under_way);
    run.until_ready("connecting", &[0, 1], asked.connect_longest(2 * asked.count))?;
    run.order(|| Order::Leave { group: 0 });
    run.until("leaving", DRAIN, |run| run.counts(0).ready == 0)?;
    run.order(|| Order::Publish { groups: vec![1] });
    let all = EACH * asked.count as u64;
    let longest = DRAIN + asked.every * EACH as u32 + Duration::from_micros(100 * all);
    run.until("queueing", longest, |run| run.counts(1).acknowledged >= all)?;
    report.number(
        "queued",
        "messages for sessions that are away",
        run.counts(1).acknowledged as f64,
        "",
    );
    let cpu = asked.cpu()?;
    run.connect(&[0], asked.rate, asked.under_way);
    let took = run.until("coming back", longest, |run| run.counts(0).received >= all)?;
    let got = run.counts(0).received;
    report.number("received", "of them received on return", got as f64, "");
    report.time("return_s", "within", took.unwrap_or(longest));
    if let Some(spent) = spent(asked, cpu)? {
        let each = spent.as_secs_f64() * 1e6 / asked.count as f64;
        report.number("cpu_per_return_us", "broker CPU per session back", each, "µs");
    }
    if got < all {
        report.fail(format!("{} messages are missing", all - got));
    }
    run.stop()
}
