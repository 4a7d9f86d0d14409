//! `self-test`: what the load can do itself, against a sink that does next to nothing.

use std::time::Duration;

use super::{Asked, DRAIN, residency};
use crate::load::Run;
use crate::load::plan::{Group, Publishing};
use crate::load::report::Report;
use crate::load::sink::Sink;
use crate::load::worker::Order;

/// Clients by which latency is measured while nothing else goes on.
const FLOOR_CLIENTS: usize = 10;
/// Messages a second from them all.
const FLOOR_RATE: f64 = 500.0;
/// Clients of each step of the ramp.
const STEP_CLIENTS: usize = 100;
/// Messages a second of the steps; the first that is not kept up with ends the ramp.
const STEPS: [(&str, f64); 9] = [
    ("5k", 5e3),
    ("10k", 1e4),
    ("20k", 2e4),
    ("40k", 4e4),
    ("60k", 6e4),
    ("80k", 8e4),
    ("120k", 1.2e5),
    ("160k", 1.6e5),
    ("320k", 3.2e5),
];
/// A step is kept up with if 99 of 100 messages are sent no later than this, and all come back.
const LATE_MOST: Duration = Duration::from_millis(5);
/// Group of the connections that are only opened, and of the floor; steps follow.
const FLEET: u16 = 0;
const FLOOR: u16 = 1;

/// Runs it against a sink of its own.
///
/// # Errors
/// It could not be run.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let sink = Sink::start(asked.target.tls.is_some())?;
    let mut asked = asked.clone();
    asked.target.addresses = vec![sink.address];
    let mut groups = vec![asked.subscribers("fleet", asked.count, "self-test/%i".to_owned())];
    groups.push(reflected(&asked, "floor", FLOOR_CLIENTS, FLOOR_RATE));
    groups.extend(STEPS.map(|(name, rate)| reflected(&asked, name, STEP_CLIENTS, rate)));
    let run = asked.start(groups)?;
    connects(&asked, &run, &sink, report)?;
    let others: Vec<u16> = (FLOOR..run.groups().len() as u16).collect();
    run.connect(&others, f64::INFINITY, usize::MAX);
    run.until_ready("the others", &others, DRAIN)?;

    let missing = reflect(&run, FLOOR, asked.time)?;
    let times = run.times()?.swap_remove(usize::from(FLOOR));
    report.times("floor_late_us", "one message at a time: sent late", &times.late);
    report.times("floor_us", "one message at a time: to and fro", &times.delivery);
    residency(report, "floor", "the sink's, the floor of any broker's", &times);
    if missing > 0 {
        report.fail(format!("{missing} messages did not come back from the sink"));
    }
    ramp(&asked, &run, &sink, report)?;
    run.stop()?;
    sink.stop()
}

/// Clients whose messages come back to themselves, so many a second from them all.
fn reflected(asked: &Asked, name: &'static str, clients: usize, per_second: f64) -> Group {
    let publishing = Publishing {
        every: Duration::from_secs_f64(clients as f64 / per_second),
        ..asked.publishing("self-test".to_owned())
    };
    Group { publish: Some(publishing), timed: true, ..Group::idle(name, clients) }
}

/// Connections, each with a subscription.
fn connects(asked: &Asked, run: &Run, sink: &Sink, report: &mut Report) -> Result<(), String> {
    let (own, others) = (run.cpu()?, sink.cpu());
    run.connect(&[FLEET], asked.rate, asked.under_way);
    let longest = asked.connect_longest(asked.count);
    let took = run.until_ready("connecting", &[FLEET], longest)?;
    let own = run.cpu()?.saturating_sub(own).as_secs_f64() * 1e6 / asked.count as f64;
    let others = sink.cpu().saturating_sub(others).as_secs_f64() * 1e6 / asked.count as f64;
    report.number("clients", "connected and subscribed", asked.count as f64, "");
    let rate = asked.count as f64 / took.as_secs_f64();
    report.number("connects_per_s", "connections a second, beside the sink", rate, "/s");
    report.number("cpu_per_connect_us", "CPU of the load per connection", own, "µs");
    report.number("sink_cpu_per_connect_us", "CPU of the sink per connection", others, "µs");
    report.number("connects_per_core_s", "so a core of load connects at most", 1e6 / own, "/s");
    report.times("ready_us", "time to be ready", &run.times()?[usize::from(FLEET)].ready);
    Ok(())
}

/// Has a group publish for a while; how many messages did not come back.
fn reflect(run: &Run, group: u16, time: Duration) -> Result<u64, String> {
    run.order(|| Order::Publish { groups: vec![group] });
    run.pass("to and fro", time)?;
    run.order(|| Order::Quiet);
    // Each order is obeyed before the next: after this, nothing more is sent.
    run.cpu()?;
    let missing = |run: &Run| {
        let counts = run.counts(group);
        (counts.published + counts.unsent).saturating_sub(counts.received)
    };
    run.until("draining", DRAIN, |run| missing(run) == 0)?;
    Ok(missing(run))
}

/// More and more messages, until the load does not keep up.
fn ramp(asked: &Asked, run: &Run, sink: &Sink, report: &mut Report) -> Result<(), String> {
    let mut kept_up = None;
    for (step, (name, rate)) in STEPS.into_iter().enumerate() {
        let group = FLOOR + 1 + step as u16;
        let (own, others) = (run.cpu()?, sink.cpu());
        let missing = reflect(run, group, asked.time)?;
        let messages = run.counts(group).received.max(1) as f64;
        let own = run.cpu()?.saturating_sub(own).as_secs_f64() * 1e6 / messages;
        let others = sink.cpu().saturating_sub(others).as_secs_f64() * 1e6 / messages;
        let times = run.times()?.swap_remove(usize::from(group));
        report.times(&format!("late_us_{name}"), &format!("{name}/s: sent late"), &times.late);
        let delivery = format!("{name}/s: to and fro");
        report.times(&format!("delivery_us_{name}"), &delivery, &times.delivery);
        let cpu = format!("cpu_per_message_us_{name}");
        report.number(&cpu, &format!("{name}/s: CPU of the load per message"), own, "µs");
        let late = Duration::from_nanos(times.late.value_at_quantile(0.99));
        if missing > 0 || late > LATE_MOST {
            break;
        }
        kept_up = Some((rate, own, others));
    }
    let Some((rate, own, others)) = kept_up else {
        report.row("messages", "the load did not keep up with the first step".to_owned());
        return Ok(());
    };
    report.number("messages_per_s", "messages a second kept up with, each way", rate, "/s");
    report.number("cpu_per_message_us", "CPU of the load per message to and fro", own, "µs");
    report.number("sink_cpu_per_message_us", "CPU of the sink for it", others, "µs");
    report.number("messages_per_core_s", "so a core of load sends at most", 1e6 / own, "/s");
    Ok(())
}
