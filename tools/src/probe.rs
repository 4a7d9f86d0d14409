//! `petrelctl probe`: whether a message goes through a broker, and how long it takes.

mod exporter;
mod round;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use petrel_proto::{Qos, TopicName};

use crate::client::{Signals, make_tls};
use crate::failure::Failure;
use crate::json;
use crate::options::broker::BrokerArguments;
use crate::options::{self, Common};
use crate::spread::Spread;
use crate::step::{Failed, Step};

use round::Round;

/// See whether a message goes through a broker and back, and how long each step takes.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "petrelctl probe [-h HOST] [-p PORT] [--count COUNT | --serve ADDRESS] [OPTIONS]",
    next_help_heading = "What is done",
    after_help = "\
A round connects a subscriber, subscribes to a topic that nobody else has, connects a publisher, publishes, waits \
until the message is back, and disconnects both. A round that fails does not end the others.

Exit codes: 0 every round was good, else that of the first failure: 1, or the reason code with which the broker \
refused the connection. --serve says on stderr why rounds fail, whenever that changes, and ends with 0 on SIGINT \
and SIGTERM."
)]
pub struct ProbeArguments {
    /// So many rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000),
          conflicts_with = "serve")]
    count: u32,
    /// From the beginning of one round to that of the next, unless that takes longer.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = options::seconds)]
    interval: Duration,
    /// What a round may take.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = options::seconds)]
    timeout: Duration,
    /// 0, 1 or 2, for the subscription and the message.
    #[arg(short, long, default_value = "1", value_parser = options::qos)]
    qos: Qos,
    /// Default petrelctl/probe/ and a random number.
    #[arg(short, long, value_parser = options::topic_name)]
    topic: Option<TopicName>,
    /// Client identifiers are made of this; by default the broker assigns them.
    #[arg(short = 'I', long, value_name = "PREFIX", help_heading = "Who you are")]
    id_prefix: Option<String>,
    /// Print JSON.
    #[arg(long, conflicts_with = "serve")]
    json: bool,
    /// Go on until it is ended, and answer GET /metrics in OpenMetrics here: an address with a port, or a port of
    /// 127.0.0.1.
    #[arg(long, value_name = "ADDRESS", value_parser = serve_address)]
    serve: Option<SocketAddr>,
    #[command(flatten)]
    broker: BrokerArguments,
}

/// Bytes of one packet that a probe takes: its own have less than a hundred, those of others on the same topic have more.
const PACKET_BYTES_MAX: u32 = 1 << 20;

/// What a round needs to know.
struct Plan {
    subscriber: Common,
    publisher: Common,
    topic: TopicName,
    qos: Qos,
    timeout: Duration,
}

impl ProbeArguments {
    /// Probes, once or until it is ended.
    pub fn run(self, quiet: bool) -> Result<(), Failure> {
        let plan = self.plan()?;
        let signals = Signals::catch()?;
        if let Some(address) = self.serve {
            return exporter::serve(address, &plan, self.interval, &signals, quiet);
        }
        let mut rounds = Vec::new();
        let mut next = Instant::now();
        let mut interrupted = false;
        while rounds.len() < self.count as usize && !interrupted {
            interrupted = signals.pause(Some(next))?;
            if !interrupted {
                next = Instant::now() + self.interval;
                let round = round::run(&plan);
                interrupted = round.was_interrupted();
                rounds.extend((!interrupted).then_some(round));
            }
        }
        let report = Report::of(&plan, &rounds);
        crate::print(&if self.json { report.json() } else { report.text() })?;
        if interrupted {
            return Err(Failure::interrupted());
        }
        report.verdict()
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let common = self.broker.common()?;
        // They are read again for every round; what is wrong with them from the start is no failure of the broker.
        if let Some(tls) = &common.tls {
            make_tls(&mut tls.clone())?;
        }
        let [subscriber, publisher] = ["sub", "pub"].map(|role| {
            let prefix = self.id_prefix.as_deref();
            options::client_id(prefix, common.version, role).map(|client_id| Common {
                client_id,
                packet_bytes_max: PACKET_BYTES_MAX,
                ..common.clone()
            })
        });
        let topic = match self.broker.topic(self.topic.clone())? {
            Some(topic) => topic,
            None => round::topic_of_its_own()?,
        };
        let (subscriber, publisher) = (subscriber?, publisher?);
        Ok(Plan { subscriber, publisher, topic, qos: self.qos, timeout: self.timeout })
    }
}

/// What rounds say together.
struct Report<'r> {
    plan: &'r Plan,
    rounds: &'r [Round],
    /// With its number, from 1.
    first_failed: Option<(usize, &'r Failed)>,
    failed: usize,
}

impl<'r> Report<'r> {
    fn of(plan: &'r Plan, rounds: &'r [Round]) -> Self {
        let failed = || {
            let numbered = rounds.iter().enumerate();
            numbered.filter_map(|(at, round)| Some((at + 1, round.failed.as_ref()?)))
        };
        Self { plan, rounds, first_failed: failed().next(), failed: failed().count() }
    }

    /// The times of a step in all rounds that came so far.
    fn spread(&self, step: Step) -> Option<Spread> {
        let times: Vec<_> = self
            .rounds
            .iter()
            .filter_map(|round| round.time(step))
            .map(|time| time.as_secs_f64())
            .collect();
        Spread::of(&times)
    }

    fn text(&self) -> String {
        let (rounds, qos) = (self.rounds.len(), self.plan.qos as u8);
        let plural = if rounds == 1 { "" } else { "s" };
        let mut text = format!(
            "{}: {rounds} round{plural} at QoS {qos}, {} good, {} failed\n",
            self.plan.publisher.place(),
            rounds - self.failed,
            self.failed
        );
        if self.spread(Step::Connect).is_some() {
            text +=
                &format!("\n{:<12}{:>10}{:>10}{:>10}{:>10}\n", "ms", "min", "median", "p99", "max");
        }
        for step in Step::ALL {
            let Some(spread) = self.spread(step) else { continue };
            text += &format!("{:<12}", step.in_words());
            for seconds in [spread.min, spread.median, spread.p99, spread.max] {
                text += &format!("{:>10.3}", seconds * 1e3);
            }
            text.push('\n');
        }
        text
    }

    fn json(&self) -> String {
        let spreads: Vec<_> = Step::ALL
            .into_iter()
            .filter_map(|step| Some((step.name(), seconds_json(&self.spread(step)?))))
            .collect();
        let first = self.first_failed.map_or("null".to_owned(), |(round, failed)| {
            let members = [
                ("round", round.to_string()),
                ("step", json::string(failed.step.name())),
                ("error", json::string(&failed.failure.text)),
            ];
            json::object(&members, None)
        });
        let members = [
            ("broker", json::string(&self.plan.publisher.place())),
            ("topic", json::string(self.plan.topic.text().as_str())),
            ("qos", (self.plan.qos as u8).to_string()),
            ("rounds", self.rounds.len().to_string()),
            ("failed", self.failed.to_string()),
            ("first_failure", first),
            ("seconds", json::object(&spreads, None)),
        ];
        json::object(&members, None) + "\n"
    }

    fn verdict(&self) -> Result<(), Failure> {
        let Some((number, failed)) = self.first_failed else { return Ok(()) };
        let rounds = self.rounds.len();
        let text = match rounds {
            1 => failed.sentence(),
            _ => format!(
                "{} of {rounds} rounds failed, the first was round {number}, {}",
                self.failed,
                failed.sentence()
            ),
        };
        Err(Failure { text, exit_code: failed.failure.exit_code })
    }
}

fn seconds_json(spread: &Spread) -> String {
    let number = |seconds: f64| format!("{seconds:.6}");
    let members = [
        ("min", number(spread.min)),
        ("median", number(spread.median)),
        ("p99", number(spread.p99)),
        ("max", number(spread.max)),
    ];
    json::object(&members, None)
}

/// A port alone is one of this machine, for this machine.
fn serve_address(string: &str) -> Result<SocketAddr, String> {
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    string.parse().map(loopback).or_else(|_| string.parse()).map_err(|_| {
        "write an IP address and a port, as in 127.0.0.1:9884, or a port of 127.0.0.1".to_owned()
    })
}
