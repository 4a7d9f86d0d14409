//! `$SYS`: what the broker says of itself on topics, by Mosquitto's names and in its formats.
//!
//! A thread reads what the shards make known anyway and has the home of each topic publish its value, retained and at
//! QoS 0: the next value makes up for one that is lost. Only values that have changed are published. They are taken
//! away when they are wanted no longer.

mod load;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use petrel_net::stages::Stage;
use petrel_net::traffic::OneWay;
use petrel_proto::{Publish, PublishProperties, Qos, Text, TopicName};

use self::load::{Flows, Load};
use crate::figures::{Figures, Watch};
use crate::shards::Shards;

/// Topics and their values, without `$SYS/broker/`.
type Values = BTreeMap<String, String>;

/// Publishes from time to time, until it is dropped.
#[derive(Debug)]
pub(crate) struct SysTopics {
    /// How often; 0 for no longer.
    interval_s: Option<Sender<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl SysTopics {
    /// Publishes every so many seconds from now on.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub(crate) fn start(watch: Watch, shards: Shards, interval_s: u32) -> std::io::Result<Self> {
        let (sender, intervals) = channel();
        let run = move || Sayer::new(watch, shards).run(interval_s, &intervals);
        let thread = std::thread::Builder::new().name("sys".to_owned()).spawn(run)?;
        Ok(Self { interval_s: Some(sender), thread: Some(thread) })
    }

    /// Publishes as often as this; with 0 the old values are taken away.
    pub(crate) fn set_interval(&self, interval_s: u32) {
        if let Some(sender) = &self.interval_s {
            // The thread lives as long as this does.
            let _ = sender.send(interval_s);
        }
    }
}

impl Drop for SysTopics {
    fn drop(&mut self) {
        self.interval_s = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Knows what has been said last.
struct Sayer {
    watch: Watch,
    shards: Shards,
    begun: Instant,
    said: Values,
    load: Load,
    most_connected: u64,
}

impl Sayer {
    fn new(watch: Watch, shards: Shards) -> Self {
        let load = Load::since(flows(&watch.figures()));
        let said = Values::new();
        Self { watch, shards, begun: Instant::now(), said, load, most_connected: 0 }
    }

    fn run(mut self, mut interval_s: u32, intervals: &Receiver<u32>) {
        loop {
            if interval_s > 0 {
                self.say_all();
            } else {
                self.take_back();
            }
            // Who wants none waits for others, for as long as it takes.
            let wait = match interval_s {
                0 => intervals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                s => intervals.recv_timeout(Duration::from_secs(s.into())),
            };
            match wait {
                Ok(other) => interval_s = other,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn say_all(&mut self) {
        let figures = self.watch.figures();
        let now = Instant::now();
        self.load.pass(now, flows(&figures));
        let connected = figures.sessions.saturating_sub(figures.sessions_offline());
        self.most_connected = self.most_connected.max(connected);
        let uptime_s = now.saturating_duration_since(self.begun).as_secs();
        let values = values(&figures, uptime_s, self.most_connected).chain(self.load.values());
        for (topic, value) in values {
            if self.said.get(&topic) != Some(&value) {
                self.say(&topic, value.clone());
                self.said.insert(topic, value);
            }
        }
    }

    fn take_back(&mut self) {
        for topic in std::mem::take(&mut self.said).into_keys() {
            self.say(&topic, String::new());
        }
    }

    fn say(&self, topic: &str, value: String) {
        let name = Text::try_from(format!("$SYS/broker/{topic}").as_str());
        let Ok(topic) = name.and_then(TopicName::new) else { return };
        self.shards.publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: true,
            topic,
            packet_id: None,
            properties: PublishProperties::default(),
            payload: Bytes::from(value),
        });
    }
}

fn packets(way: &OneWay) -> u64 {
    way.packets().map(|(_, count)| count).sum()
}

fn packets_of(way: &OneWay, name: &str) -> u64 {
    way.packets().filter(|(of, _)| *of == name).map(|(_, count)| count).sum()
}

/// What passes through the broker, for averages.
fn flows(figures: &Figures) -> Flows {
    let traffic = &figures.traffic;
    [
        ("connections", packets_of(&traffic.received, "connect")),
        ("sockets", figures.census.stage(Stage::Accepted)),
        ("messages/received", packets(&traffic.received)),
        ("messages/sent", packets(&traffic.sent)),
        ("publish/received", packets_of(&traffic.received, "publish")),
        ("publish/sent", packets_of(&traffic.sent, "publish")),
        ("publish/dropped", figures.ledger.dropped),
        ("bytes/received", traffic.received.bytes()),
        ("bytes/sent", traffic.sent.bytes()),
    ]
}

/// All values but the averages.
fn values(
    figures: &Figures,
    uptime_s: u64,
    most_connected: u64,
) -> impl Iterator<Item = (String, String)> {
    let Figures { traffic, ledger, totals, retained, .. } = figures;
    let disconnected = figures.sessions_offline();
    let stored = totals.queued + totals.inflight + retained.messages;
    let numbers = [
        ("clients/connected", figures.sessions.saturating_sub(disconnected)),
        ("clients/disconnected", disconnected),
        ("clients/maximum", most_connected),
        ("clients/total", figures.sessions),
        ("messages/received", packets(&traffic.received)),
        ("messages/sent", packets(&traffic.sent)),
        ("messages/stored", stored),
        ("store/messages/count", stored),
        ("publish/messages/received", packets_of(&traffic.received, "publish")),
        ("publish/messages/sent", packets_of(&traffic.sent, "publish")),
        ("publish/messages/dropped", ledger.dropped),
        ("bytes/received", traffic.received.bytes()),
        ("bytes/sent", traffic.sent.bytes()),
        ("subscriptions/count", totals.subscriptions),
        ("retained messages/count", retained.messages),
    ];
    let texts = [
        ("version", concat!("petrel version ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("uptime", format!("{uptime_s} seconds")),
    ];
    let numbers = numbers.into_iter().map(|(topic, number)| (topic, number.to_string()));
    texts.into_iter().chain(numbers).map(|(topic, value)| (topic.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_the_figures_say() {
        let mut figures = Figures { sessions: 7, ..Figures::default() };
        figures.totals.queued = 3;
        figures.totals.inflight = 1;
        figures.totals.subscriptions = 9;
        figures.retained.messages = 5;
        figures.ledger.dropped = 4;
        let values: Values = values(&figures, 61, 6).collect();
        let of = |topic: &str| values.get(topic).map(String::as_str);
        assert_eq!(of("uptime"), Some("61 seconds"));
        assert_eq!(of("clients/total"), Some("7"));
        assert_eq!(of("clients/disconnected"), Some("7"));
        assert_eq!(of("clients/maximum"), Some("6"));
        assert_eq!(of("messages/stored"), Some("9"));
        assert_eq!(of("retained messages/count"), Some("5"));
        assert_eq!(of("publish/messages/dropped"), Some("4"));
        assert_eq!(of("subscriptions/count"), Some("9"));
    }
}
