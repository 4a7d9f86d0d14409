//! `connect` and `keepalive`: many connections, held.

use std::time::Duration;

use super::{Asked, DRAIN, connected, spent};
use crate::load::process::{Process, slab_bytes};
use crate::load::report::Report;
use crate::load::worker::Order;

/// Holds connections with a subscription each.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), String> {
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
