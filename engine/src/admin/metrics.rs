//! The numbers of a broker as Prometheus and OpenMetrics want them.
//!
//! Names begin with `petrel_`, those of the process with `process_`; counters end with `_total`, and what is measured
//! stands in the name, in base units. Labels have few values, none of which a client chooses.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use petrel_net::doors::Doors;
use petrel_net::stages::{Stage, State};
use petrel_net::traffic::{OneWay, Traffic};
use petrel_shard::{DropReason, EndedBy, Ledger, Limit};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::clients::version_name;
use super::{Source, process};
use crate::figures::{Figures, Name, ShardFigures};
use crate::guard::GuardFigures;
use crate::memory;
use crate::pump::times;

/// Bounds of what turns and what they send are counted by.
const TIME_BOUNDS: [Duration; 12] = [
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
];

/// All numbers of one moment.
#[derive(Debug)]
pub(super) struct Metrics {
    figures: Figures,
    shards: Vec<ShardFigures>,
    turns: Vec<Histogram<u64>>,
    residency: Vec<Histogram<u64>>,
    guard: GuardFigures,
    stalls: u64,
    stuck: Vec<bool>,
    is_ready: bool,
    listeners: Vec<String>,
}

impl Metrics {
    /// The numbers that shards have made known last.
    pub(super) fn of(source: &Source) -> Self {
        Self {
            figures: source.watch.figures(),
            shards: source.watch.shards().collect(),
            turns: source.watch.turns().collect(),
            residency: source.watch.residency().collect(),
            guard: source.guard.figures(),
            stalls: source.shards.pulses().map(|pulse| pulse.stalls()).sum(),
            stuck: source.vigil.each_stuck(),
            is_ready: source.is_ready(),
            listeners: source.doors.iter().map(|door| door.name.clone()).collect(),
        }
    }

    /// As text, in the format of OpenMetrics 1.0.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Writes metrics, one family after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let of = self.0.encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(of)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let of = self.0.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(of)
    }

    /// A histogram for each shard, of microseconds.
    fn times(&mut self, (name, help): (&str, &str), all: &[Histogram<u64>]) -> fmt::Result {
        let mut of = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (shard, times) in all.iter().enumerate() {
            let labels = [("shard", shard.to_string())];
            let buckets = times::buckets(times, &TIME_BOUNDS);
            let sum_s = times.mean() * times.len() as f64 / 1e6;
            let mut of = of.encode_family(&labels)?;
            of.encode_histogram::<NoLabelSet>(sum_s, times.len(), &buckets, None)?;
        }
        Ok(())
    }

    /// A counter for each value of a label.
    fn counters(
        &mut self,
        (name, help, label): (&str, &str, &str),
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut of = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, number) in values {
            let labels = [(label, value)];
            ConstCounter::new(number).encode(of.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A gauge for each value of a label.
    fn gauges(
        &mut self,
        (name, help, label): (&str, &str, &str),
        values: impl IntoIterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut of = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, number) in values {
            let labels = [(label, value)];
            ConstGauge::new(number).encode(of.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The three levels of QoS.
fn by_qos(numbers: [u64; 3]) -> impl Iterator<Item = (String, u64)> {
    numbers.into_iter().enumerate().map(|(qos, number)| (qos.to_string(), number))
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.process(&mut writer)?;
        self.connections(&mut writer)?;
        self.packets(&mut writer)?;
        self.messages(&mut writer)?;
        self.limits(&mut writer)?;
        self.shards(&mut writer)
    }
}

impl Metrics {
    fn process(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "What runs; always 1";
        let mut of =
            writer.0.encode_descriptor("petrel_build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_u64).encode(of.encode_family(&labels)?)?;
        let help = "Whether clients are let in and no shard is stuck: 1, or 0 as while it starts and stops";
        writer.gauge("petrel_ready", help, f64::from(u8::from(self.is_ready)))?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_s = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let counter = ConstCounter::new(cpu_s);
        let help = "User and system time that the process has taken";
        let of =
            writer.0.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        counter.encode(of)?;
        let help = "Resident pages of the process";
        let resident = memory::resident_bytes() as f64;
        writer.gauge("process_resident_memory_bytes", help, resident)?;
        let states = memory::by_state().map(|(state, bytes)| (state.to_owned(), bytes));
        let help =
            "Memory of the process by what it is: anonymous, of files, shared, or swapped out";
        writer.gauges(("petrel_memory_bytes", help, "state"), states)?;
        let help = "When the process was started, in seconds since 1970";
        if let Some(started_s) = process::started_s() {
            writer.gauge("process_start_time_seconds", help, started_s)?;
        }
        if let Some(open) = process::descriptors() {
            let help = "Descriptors that are open; where shards have tables of their own, in the one that has most";
            writer.gauge("process_open_fds", help, open as f64)?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            let help = "Descriptors that a table may have";
            writer.gauge("process_max_fds", help, most as f64)?;
        }
        if let Some(ends_in_s) = self.figures.certificate_ends_in_s {
            let help = "Until the certificate ends that ends first of those that clients are shown; below 0 if it has";
            writer.gauge("petrel_certificate_ends_in_seconds", help, ends_in_s as f64)?;
        }
        Ok(())
    }

    fn connections(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let figures = &self.figures;
        let states = State::ALL.map(|state| (state.name().to_owned(), figures.census.state(state)));
        let help = "Connections by what they are: still to say CONNECT, connected by transport, or closing";
        writer.gauges(("petrel_connections", help, "state"), states)?;
        let help =
            "Connections that have said CONNECT, by the name of their listener and by version";
        let mut of = writer.0.encode_descriptor(
            "petrel_listener_connections",
            help,
            None,
            MetricType::Gauge,
        )?;
        // Several may have one name.
        let mut counts = BTreeMap::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            for (version, count) in Doors::VERSIONS.into_iter().zip(figures.doors.listener(index)) {
                *counts.entry((listener, version_name(version))).or_insert(0) += count;
            }
        }
        for ((listener, version), count) in counts {
            let labels = [("listener", listener.clone()), ("version", version.to_owned())];
            ConstGauge::new(count).encode(of.encode_family(&labels)?)?;
        }
        let help = "Sessions, with a connection or without";
        writer.gauge("petrel_sessions", help, figures.sessions as f64)?;
        let help = "Sessions whose client is away";
        writer.gauge("petrel_sessions_offline", help, figures.sessions_offline() as f64)?;
        let totals = figures.totals;
        let help = "Subscriptions, shared ones included; a shard counts 8,192 sessions in a second";
        writer.gauge("petrel_subscriptions", help, totals.subscriptions as f64)?;
        let help = "Messages that wait in sessions and shared groups, in memory or in storage; counted as subscriptions are";
        writer.gauge("petrel_queued_messages", help, totals.queued as f64)?;
        let help = "Messages that clients have been sent and not acknowledged; counted as subscriptions are";
        writer.gauge("petrel_inflight_messages", help, totals.inflight as f64)?;
        let stages = Stage::ALL.map(|stage| (stage.name().to_owned(), figures.census.stage(stage)));
        let help = "How far connections have come on their way to CONNECT";
        writer.counters(("petrel_connection_stages", help, "stage"), stages)?;
        let help = "CONNECTs that were accepted";
        writer.counter("petrel_connects_accepted", help, figures.decided.admitted)?;
        let reasons = |all: &crate::figures::ByReason| -> Vec<(String, u64)> {
            all.by_name().map(|(name, count)| (name.to_string(), count)).collect()
        };
        let help = "CONNECTs that were refused, by reason code";
        let denied = reasons(&figures.decided.denied);
        writer.counters(("petrel_connects_denied", help, "reason"), denied)?;
        let help = "Connections that the broker or an operator has ended, by reason code";
        writer
            .counters(("petrel_disconnects_by_broker", help, "reason"), reasons(&figures.ended))?;
        let origins = EndedBy::ALL.map(|by| by.name().to_owned());
        let help = "Connections that have ended after their CONNECT, by who ended them; operators and bans are admin";
        let gone = origins.into_iter().zip(figures.gone);
        writer.counters(("petrel_disconnects", help, "origin"), gone)?;
        let help =
            "Connections that moved from the shard that accepted them to that of their session";
        writer.counter("petrel_connections_moved", help, figures.adopted)?;
        let help = "Connections that were ended by another one with the same client identifier, by which shard had accepted that one";
        let accepted = ["by_its_shard", "by_another_shard"].map(str::to_owned).into_iter();
        let taken_over = accepted.zip(figures.between.taken_over);
        writer.counters(("petrel_sessions_taken_over", help, "accepted"), taken_over)?;
        let help = "Connections that were lost on the way there, for want of a descriptor";
        writer.counter("petrel_connections_stranded", help, figures.stranded)
    }

    fn packets(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let Traffic { received, sent } = &self.figures.traffic;
        let help = "MQTT Control Packets that clients have sent, by type";
        let named = |way: &OneWay| -> Vec<(String, u64)> {
            way.packets().map(|(name, count)| (name.to_owned(), count)).collect()
        };
        writer.counters(("petrel_packets_received", help, "type"), named(received))?;
        let help = "MQTT Control Packets that clients were sent, by type";
        writer.counters(("petrel_packets_sent", help, "type"), named(sent))?;
        let help =
            "Bytes of MQTT Control Packets that clients have sent, without TLS and WebSocket";
        writer.counter("petrel_packet_bytes_received", help, received.bytes())?;
        let help =
            "Bytes of MQTT Control Packets that clients were sent, without TLS and WebSocket";
        writer.counter("petrel_packet_bytes_sent", help, sent.bytes())
    }

    fn messages(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let ledger: &Ledger = &self.figures.ledger;
        let help = "Messages that clients have published, by QoS";
        writer.counters(("petrel_messages_received", help, "qos"), by_qos(ledger.received))?;
        let help = "Wills that were published";
        writer.counter("petrel_wills_published", help, ledger.wills)?;
        let help = "Messages that the broker has published itself, or for an operator";
        writer.counter("petrel_own_messages_published", help, ledger.own)?;
        let help =
            "Messages and wills that went no further; petrel_messages_dropped_total says why";
        writer.counter("petrel_messages_refused", help, ledger.refused)?;
        let help = "Messages and wills that no subscription matches";
        writer.counter("petrel_messages_unmatched", help, ledger.unmatched)?;
        let help = "Messages and wills that went on their way to somebody";
        writer.counter("petrel_messages_routed", help, ledger.routed())?;
        let help = "Copies of messages, one for each receiver";
        writer.counter("petrel_copies_due", help, ledger.due)?;
        let help = "Copies that waited in storage when the process began, as far as they have been counted";
        writer.counter("petrel_copies_restored", help, ledger.restored)?;
        let help = "Copies that receivers have, by the QoS of the delivery: sent at QoS 0, acknowledged otherwise";
        writer.counters(("petrel_copies_delivered", help, "qos"), by_qos(ledger.delivered))?;
        let help = "Copies that a receiver does not get; petrel_messages_dropped_total says why";
        writer.counter("petrel_copies_dropped", help, ledger.dropped)?;
        let help =
            "Retained messages that gave way to newer ones of their topics before they were sent";
        writer.counter("petrel_copies_replaced", help, ledger.replaced)?;
        let help = "Copies that are queued, in flight, in a shared group, or in storage";
        writer.gauge("petrel_copies_held", help, ledger.held_by_all() as f64)?;
        let help =
            "Messages that were refused, not retained, or not delivered to one receiver, by reason";
        let drops = DropReason::ALL.map(|why| (Name(why).to_string(), ledger.drops.of(why)));
        writer.counters(("petrel_messages_dropped", help, "reason"), drops)?;
        let retained = self.figures.retained;
        let help = "Retained messages";
        writer.gauge("petrel_retained_messages", help, retained.messages as f64)?;
        let help = "Topics, payloads and properties of retained messages";
        writer.gauge("petrel_retained_bytes", help, retained.bytes as f64)?;
        let storage = self.figures.storage;
        let between = self.figures.between;
        let help =
            "Records that shards have given to the lanes of the storage and that are not kept yet";
        writer.gauge("petrel_storage_unkept_records", help, between.unkept as f64)?;
        let help = "Times that a lane of the storage has written what had come as one batch";
        writer.counter("petrel_storage_commits", help, storage.commits)?;
        let help = "Lanes whose disk fails or has no room";
        writer.gauge("petrel_storage_lanes_in_trouble", help, storage.in_trouble as f64)?;
        let help = "Times that a lane's disk began to fail or had no room";
        writer.counter("petrel_storage_troubles", help, storage.troubles)
    }

    fn limits(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let limited = &self.figures.limited;
        let limits = Limit::ALL.map(|limit| (Name(limit).to_string(), limited.of(limit)));
        let help = "Times that clients have met a limit and went on, or were refused a part of what they wanted";
        writer.counters(("petrel_limits_met", help, "limit"), limits)?;
        let GuardFigures { banned, full: [listener, source, user], busy, bans } = self.guard;
        let refused = [
            ("banned", banned),
            ("listener_full", listener),
            ("source_full", source),
            ("user_full", user),
            ("busy", busy),
        ];
        let refused = refused.map(|(cause, count)| (cause.to_owned(), count));
        let help = "CONNECTs that were refused for what was there already, or for a ban, by cause";
        writer.counters(("petrel_connects_turned_away", help, "cause"), refused)?;
        let help = "Bans of sources and client identifiers that the broker has made itself";
        writer.counter("petrel_bans", help, bans)
    }

    fn shards(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let each = |number: fn(&ShardFigures) -> u64| {
            let shards = self.shards.iter().enumerate();
            shards.map(move |(shard, it)| (shard.to_string(), number(it))).collect::<Vec<_>>()
        };
        let help = "Connections of each shard";
        writer.gauges(("petrel_shard_connections", help, "shard"), each(|it| it.connections))?;
        let help = "Messages, questions and answers that each shard has sent to others";
        writer.counters(("petrel_shard_sent", help, "shard"), each(|it| it.between.sent))?;
        let help = "Of those, what waits for room in the ring of its receiver";
        writer.gauges(("petrel_shard_waiting", help, "shard"), each(|it| it.between.waiting))?;
        let help = "Times that each shard was woken by another thread";
        writer.counters(("petrel_shard_woken", help, "shard"), each(|it| it.between.woken))?;
        let help = "How much each shard has to do: 0, or a level up to 3";
        writer.gauges(("petrel_shard_load_level", help, "shard"), each(|it| it.level))?;
        let help = "Messages that clients of each shard have published";
        let received = each(|it| it.ledger.received.iter().sum());
        writer.counters(("petrel_shard_messages_received", help, "shard"), received)?;
        let help = "How long the turns of each shard took, from what came to what was sent";
        writer.times(("petrel_shard_turn_seconds", help), &self.turns)?;
        let help = "How long what the packets that each shard has sent to clients come of was in the broker: from when it \
                    could be read, by this shard or another, until they were given to their sockets";
        writer.times(("petrel_residency_seconds", help), &self.residency)?;
        let help =
            "Whether each shard is stuck, 1, or has turns, 0: by the judgement of /health/live";
        let stuck = self.stuck.iter().enumerate();
        let stuck = stuck.map(|(shard, &is)| (shard.to_string(), u64::from(is)));
        writer.gauges(("petrel_shard_stuck", help, "shard"), stuck)?;
        let help = "Times that an executor had forgotten its shard; more than 0 is a fault";
        writer.counter("petrel_shard_stalls", help, self.stalls)
    }
}
