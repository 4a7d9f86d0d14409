//! `storm`: all persistent sessions cut at once, with traffic beside them.

use std::time::Duration;

use hdrhistogram::Histogram;
use petrel_proto::Qos;

use super::{Asked, DRAIN, busy, connected, residency, spent};
use crate::load::Run;
use crate::load::plan::Group;
use crate::load::process::cores;
use crate::load::report::Report;
use crate::load::stats::Times;
use crate::load::worker::Order;

/// What connecting has left behind is over by then, and does not count as quiet.
const SETTLE: Duration = Duration::from_secs(1);

/// Cuts all persistent sessions at once and has them come back, with traffic beside them.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let mut fleet = asked.subscribers("fleet", asked.count, asked.topic("bench/%i"));
    fleet.persistent = true;
    let sink = asked.subscribers("sink", asked.pairs, "background/%i".to_owned());
    let mut source = asked.publishers("source", asked.pairs, "background/%i".to_owned());
    if let Some(publishing) = &mut source.publish {
        publishing.qos = Qos::AtLeastOnce;
    }
    source.apart = true;
    let subscribe = sink.subscribe.map(|(filter, _)| (filter, Qos::AtLeastOnce));
    let sink = Group { subscribe, apart: true, timed: true, ..sink };
    let run = asked.start(vec![fleet, sink, source])?;
    run.connect(&[1, 2], f64::INFINITY, usize::MAX);
    run.until_ready("background", &[1, 2], DRAIN)?;
    run.connect(&[0], asked.rate, asked.under_way);
    let took = run.until_ready("connecting", &[0], asked.connect_longest(asked.count))?;
    connected(asked, &run, took, report)?;
    run.order(|| Order::Publish { groups: vec![2] });
    run.pass("settling", SETTLE.min(asked.time))?;
    run.times()?;
    run.pass("quiet", asked.time)?;
    let quiet = run.times()?.swap_remove(1);
    report.times("quiet_us", "background, before", &quiet.delivery);

    let (before, cpu, watch) = (run.counts(0), asked.cpu()?, run.watch()?);
    let own = run.cpu()?;
    run.order(|| Order::Cut { group: 0, under_way_max: asked.under_way });
    let goodput = std::cell::RefCell::new(Vec::new());
    let all = asked.count as u64;
    let back = run.until("coming back", asked.connect_longest(asked.count), |run| {
        goodput.borrow_mut().push((run.elapsed(), run.counts(0).accepted));
        let now = run.counts(0);
        now.accepted >= before.accepted + all && now.ready >= all
    })?;
    let (after, spent) = (run.counts(0), spent(asked, cpu)?);
    let own = run.cpu()?.saturating_sub(own);
    busy(report, "storm_busiest_percent", &run, &watch)?;
    let times = run.times()?;
    match back {
        Some(_) => {
            let back = Duration::from_nanos(times[0].ready.max());
            report.time("recovery_s", "all back within", back);
            if let Some(spent) = spent {
                least(report, back, spent, own);
            }
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
    run.pass("quiet again", asked.time)?;
    let later = run.times()?.swap_remove(1);
    report.times("late_us", "background, sent late by the load itself", &times[2].late);
    report.times("later_us", "background, after", &later.delivery);
    residency(report, "quiet", "before", &quiet);
    residency(report, "storm", "meanwhile", &times[1]);
    residency(report, "later", "after", &later);
    grown(report, &quiet, &times[1]);
    background_lost(&run, report)?;
    run.stop()
}

/// How far the recovery is from what the CPU time that went into it would take on all cores at once.
fn least(report: &mut Report, back: Duration, broker: Duration, load: Duration) {
    let cores = cores() as f64;
    let used = |cpu: Duration| cpu.as_secs_f64() / back.as_secs_f64();
    report.number("broker_cores", "cores that the broker used meanwhile", used(broker), "");
    report.number("load_cores", "cores that the load used meanwhile", used(load), "");
    let over = cores / used(broker + load);
    let label = format!("recovery, over what both need of {cores} cores");
    report.number("recovery_over_cpu", &label, over, "");
}

/// How much longer messages are inside the broker while sessions come back.
fn grown(report: &mut Report, quiet: &Times, storm: &Times) {
    let p99 = |times: &Histogram<u64>| times.value_at_quantile(0.99) as f64;
    for (key, label, quiet, storm) in [
        (
            "residency_growth",
            "residency, p99 meanwhile / before",
            &quiet.residency,
            &storm.residency,
        ),
        (
            "residency_least_growth",
            "the same, at least",
            &quiet.residency_least,
            &storm.residency_least,
        ),
    ] {
        if !quiet.is_empty() && !storm.is_empty() {
            report.number(key, label, p99(storm) / p99(quiet).max(1.0), "");
        }
    }
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
