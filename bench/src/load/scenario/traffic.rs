//! Streams of messages from some clients to others.

use std::time::Duration;

use super::{Asked, DRAIN, Scenario, busy, residency, spent};
use crate::load::Run;
use crate::load::plan::Group;
use crate::load::report::Report;
use crate::load::worker::Order;

/// Streams of messages between groups: which, and how often each message arrives.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let (mut groups, copies) = streams(asked);
    for &(_, to, _) in &copies {
        groups[usize::from(to)].timed = true;
    }
    let run = asked.start(groups)?;
    let all: Vec<u16> = (0..run.groups().len() as u16).collect();
    let clients: usize = run.groups().iter().map(|group| group.clients).sum();
    run.connect(&all, asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &all, asked.connect_longest(clients))?;
    report.number("clients", "connected", clients as f64, "");
    report.time("connect_s", "all of them within", took);
    let (cpu, watch) = (asked.cpu()?, run.watch()?);
    run.order(|| Order::Publish { groups: all.clone() });
    run.pass("sending", asked.time)?;
    busy(report, "busiest_percent", &run, &watch)?;
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
    let (mut lost, mut unsent) = (0, 0);
    for (index, group) in run.groups().iter().enumerate() {
        let counts = run.counts(index as u16);
        unsent += counts.unsent;
        match group.deaf {
            // The broker may cut who does not read.
            true => report.number("deaf_lost", "deaf clients cut", counts.lost as f64, ""),
            false => lost += counts.lost,
        }
    }
    report.number("lost", "connections lost", lost as f64, "");
    report.number("unsent", "messages due that could not be sent", unsent as f64, "");
    let times = run.times()?;
    for &(from, ..) in &copies {
        let name = run.groups()[usize::from(from)].name;
        let label = format!("sent late by the load itself, {name}");
        report.times(&format!("late_us_{name}"), &label, &times[usize::from(from)].late);
    }
    for &to in &receivers {
        let (name, times) = (run.groups()[usize::from(to)].name, &times[usize::from(to)]);
        let label = format!("time to arrive, {name}");
        report.times(&format!("delivery_us_{name}"), &label, &times.delivery);
        residency(report, name, name, times);
    }
    if let Some(spent) = spent {
        let each = spent.as_secs_f64() * 1e6 / received(&run).max(1) as f64;
        report.number("cpu_per_message_us", "broker CPU per message received", each, "µs");
    }
    for (count, what) in [
        (missing, "messages are missing"),
        (lost, "connections were lost"),
        (unsent, "messages could not be sent when they were due"),
    ] {
        if count > 0 {
            report.fail(format!("{count} {what}"));
        }
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
