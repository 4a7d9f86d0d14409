//! `retained` and `offline`: messages for those who come later.

use std::time::Duration;

use petrel_proto::Qos;

use super::{Asked, DRAIN, spent};
use crate::load::report::Report;
use crate::load::worker::Order;

/// Retained messages on as many topics as asked for, then subscribers to all of them.
pub fn retained(asked: &Asked, report: &mut Report) -> Result<(), String> {
    // What an earlier run has left behind is not this one's.
    let root = format!("retained/{}", std::process::id());
    let mut sender = asked.publishers("sender", 1, format!("{root}/%i/state"));
    if let Some(publishing) = &mut sender.publish {
        publishing.counting = true;
        publishing.retain = true;
        publishing.qos = Qos::AtLeastOnce;
        publishing.messages = asked.count as u64;
        publishing.every = Duration::from_micros(20);
    }
    let readers = asked.subscribers("reader", asked.receivers.max(1), format!("{root}/#"));
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
pub fn offline(asked: &Asked, report: &mut Report) -> Result<(), String> {
    let each = if asked.messages < u64::MAX { asked.messages } else { 10 };
    let mut fleet = asked.subscribers("fleet", asked.count, "offline/%i".to_owned());
    fleet.persistent = true;
    fleet.subscribe = fleet.subscribe.map(|(filter, _)| (filter, Qos::AtLeastOnce));
    let mut sender = asked.publishers("sender", asked.count, "offline/%i".to_owned());
    if let Some(publishing) = &mut sender.publish {
        publishing.qos = Qos::AtLeastOnce;
        publishing.messages = each;
    }
    let run = asked.start(vec![fleet, sender])?;
    run.connect(&[0, 1], asked.rate, asked.under_way);
    run.until_ready("connecting", &[0, 1], asked.connect_longest(2 * asked.count))?;
    run.order(|| Order::Leave { group: 0 });
    run.until("leaving", DRAIN, |run| run.counts(0).ready == 0)?;
    run.order(|| Order::Publish { groups: vec![1] });
    let all = each * asked.count as u64;
    let longest =
        DRAIN + asked.every.saturating_mul(each as u32) + Duration::from_micros(100 * all);
    let cpu = asked.cpu()?;
    let queued = run.until("queueing", longest, |run| run.counts(1).acknowledged >= all)?;
    if let Some(queued) = queued {
        let rate = all as f64 / queued.as_secs_f64();
        report.number("queued_per_s", "messages acknowledged a second", rate, "/s");
    }
    if let Some(spent) = spent(asked, cpu)? {
        let one = spent.as_secs_f64() * 1e6 / all as f64;
        report.number("cpu_per_queued_us", "broker CPU per message queued", one, "µs");
    }
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
