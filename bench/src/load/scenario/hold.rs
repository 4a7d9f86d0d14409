//! `connect` and `keepalive`: many connections, held.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Asked, DRAIN, busy, connected, spent};
use crate::load::process::{Memory, Process, slab_bytes, slab_caches, tcp_sockets};
use crate::load::report::Report;
use crate::load::worker::Order;

/// What is held in memory at a time.
struct Held {
    user: Option<Memory>,
    slab: Option<u64>,
    sockets: Option<u64>,
    caches: BTreeMap<String, u64>,
}

impl Held {
    fn now(asked: &Asked) -> Result<Self, String> {
        let user = asked.broker.map(Process::memory).transpose()?;
        Ok(Self { user, slab: slab_bytes(), sockets: tcp_sockets(), caches: slab_caches() })
    }
}

/// Nothing is due any more for this long before memory is looked at again.
const IDLE: Duration = Duration::from_secs(1);
/// From one message to the next when each client gets or sends one.
const PACE: Duration = Duration::from_micros(50);

/// What a connection takes: of the broker by its pages, of the kernel by its caches of objects. The
/// kernel's are those of the whole machine, so both ends of each connection are in them.
fn memory(asked: &Asked, before: &Held, report: &mut Report) -> Result<(), String> {
    let after = Held::now(asked)?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / asked.count as f64;
    if let (Some(before), Some(after)) = (before.user, after.user) {
        let private = each(before.private_bytes, after.private_bytes);
        report.number("user_bytes_each", "broker memory per connection, private", private, "B");
        let pss = each(before.pss_bytes, after.pss_bytes);
        report.number("user_pss_bytes_each", "broker memory per connection, PSS", pss, "B");
    }
    if let (Some(before), Some(after)) = (before.slab, after.slab) {
        let both = each(before, after);
        report.number("slab_bytes_each", "kernel memory per connection, both ends", both, "B");
        report.number("kernel_bytes_each", "of one end, by half", both / 2.0, "B");
    }
    if let (Some(before), Some(after)) = (before.sockets, after.sockets) {
        let sockets = each(before, after);
        let label = "TCP sockets of the machine per connection; 2, or others come and go";
        report.number("tcp_sockets_each", label, sockets, "");
    }
    let caches = after.caches.iter().filter_map(|(name, &after)| {
        let each = each(before.caches.get(name).copied().unwrap_or(0), after);
        (each.abs() >= 1.0).then(|| (name.clone(), json!(each)))
    });
    report.value("slab_caches_bytes_each", Value::Object(caches.collect()));
    Ok(())
}

/// Holds connections with a subscription each.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let mut fleet = asked.subscribers("fleet", asked.count, asked.topic("bench/%i"));
    fleet.persistent = asked.retain;
    let mut sender = asked.publishers("sender", 1, asked.topic("bench/%i"));
    if let Some(publishing) = &mut sender.publish {
        publishing.counting = true;
        publishing.retain = false;
        publishing.messages = asked.count as u64;
        publishing.every = PACE;
    }
    // Nobody gets it, whatever topic was asked for.
    let mut answer = asked.publishing(format!("{}/answer", asked.topic("bench/%i")));
    (answer.retain, answer.messages, answer.every) = (false, 1, PACE * asked.count as u32);
    fleet.publish = Some(answer);
    let run = asked.start(vec![fleet, sender])?;
    let before = Held::now(asked)?;
    let (cpu, watch) = (asked.cpu()?, run.watch()?);
    run.connect(&[0], asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &[0], asked.connect_longest(asked.count))?;
    busy(report, "connect_busiest_percent", &run, &watch)?;
    connected(asked, &run, took, report)?;
    if let Some(spent) = spent(asked, cpu)? {
        let each = spent.as_secs_f64() * 1e6 / asked.count as f64;
        report.number("cpu_per_connect_us", "broker CPU per connection", each, "µs");
    }
    let (cpu, pongs) = (asked.cpu()?, run.counts(0).pongs);
    run.pass("holding", asked.time)?;
    memory(asked, &before, report)?;
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
    run.order(|| Order::Publish { groups: vec![0] });
    run.until("a message from each", longest, |run| run.counts(0).published >= all)?;
    run.pass("idle again", IDLE)?;
    if let (Some(before), Some(process)) = (before.user, asked.broker) {
        let after = process.memory()?.private_bytes as f64 - before.private_bytes as f64;
        let label = "broker memory per connection, after traffic";
        report.number("user_bytes_after_each", label, after / asked.count as f64, "B");
    }
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
