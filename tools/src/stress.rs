//! `petrelctl stress`: many clients at once, each with messages to itself.

mod client;
mod report;

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use petrel_proto::{Qos, TopicName};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::client::{Signals, make_tls};
use crate::failure::Failure;
use crate::options;
use crate::options::broker::BrokerArguments;

use client::{Load, Outcome};
use report::Report;

/// A thread for each client is what the client code is made for; this bounds them.
const CLIENTS_MAX: i64 = 4_096;
/// Enough for a TLS handshake.
const STACK_BYTES: usize = 1 << 20;
/// Descriptors that are not a client's.
const OTHER_FILES: u64 = 64;

/// Have many clients publish at once and get their own messages back, and say how fast each was.
#[derive(clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "petrelctl stress [-h HOST] [-p PORT] [--clients COUNT] [--messages COUNT] [OPTIONS]",
    next_help_heading = "What is done",
    after_help = "\
Each client connects, subscribes to a topic of its own, publishes its messages as fast as the broker takes them, and \
waits until all are back. It is a thread of this program, so no more than 4096 clients are possible, and at some \
speed what is measured is this program: it is for seeing whether a broker holds, not how far it goes.

Exit codes: 0 every client got everything back, else that of the first failure: 1, or the reason code with which the \
broker refused the connection; 130 after SIGINT or SIGTERM."
)]
pub struct StressArguments {
    /// So many clients at once, at most 4096.
    #[arg(long, value_name = "COUNT", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    clients: u32,
    /// So many messages of each.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: u64,
    /// 0, 1 or 2, for the subscriptions and the messages.
    #[arg(short, long, default_value = "1", value_parser = options::qos)]
    qos: Qos,
    /// Bytes in a message; the first eight are its number.
    #[arg(long, value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(8..=16_777_216))]
    size: u32,
    /// QoS 1 and 2 messages of a client on the way at once.
    #[arg(short = 'M', long, value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
    /// The time over which clients begin, one after the other.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = options::seconds)]
    ramp_up: Duration,
    /// What each client may take, from its beginning.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = options::seconds)]
    timeout: Duration,
    /// Before the number of the client; default petrelctl/stress/ and a random number. It should be used by nobody else.
    #[arg(long, value_name = "PREFIX", value_parser = options::topic_name)]
    topic_prefix: Option<TopicName>,
    /// Client identifiers are made of this and a number; by default the broker assigns them.
    #[arg(short = 'I', long, value_name = "PREFIX", help_heading = "Who you are")]
    id_prefix: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: BrokerArguments,
}

/// What the main thread waits for.
enum News {
    Done(u32, Outcome),
    Interrupted,
}

impl StressArguments {
    /// Runs all clients to their end.
    pub fn run(self) -> Result<(), Failure> {
        let load = Arc::new(self.load()?);
        // What is wrong with an identifier is wrong before anybody connects.
        for number in [0, self.clients - 1] {
            self.client_id(&load, number)?;
        }
        make_room(u64::from(self.clients) + OTHER_FILES)?;
        let signals = Signals::catch()?;
        let began = Instant::now();
        let (sender, news) = mpsc::channel();
        for number in 0..self.clients {
            let start = began + self.ramp_up.mul_f64(f64::from(number) / f64::from(self.clients));
            if start > Instant::now() && signals.pause(Some(start))? {
                return Err(Failure::interrupted());
            }
            let (load, sender) = (Arc::clone(&load), sender.clone());
            let client_id = self.client_id(&load, number)?;
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            let spawned = thread.spawn(move || {
                // Nobody listens any more after an interruption.
                let _ = sender.send(News::Done(number, client::run(&load, number, client_id)));
            });
            spawned.map_err(|error| {
                Failure::new(format!("this system gives no thread for client {number}: {error}"))
            })?;
        }
        thread::spawn(move || {
            if matches!(signals.pause(None), Ok(true)) {
                let _ = sender.send(News::Interrupted);
            }
        });
        let mut outcomes = Vec::new();
        while outcomes.len() < self.clients as usize {
            match news.recv() {
                Ok(News::Done(number, outcome)) => outcomes.push((number, outcome)),
                Ok(News::Interrupted) | Err(_) => break,
            }
        }
        let interrupted = outcomes.len() < self.clients as usize;
        let report = Report::of(&load, &outcomes, began.elapsed());
        crate::print(&if self.json { report.json() } else { report.text() })?;
        if interrupted {
            return Err(Failure::interrupted());
        }
        report.verdict()
    }

    fn load(&self) -> Result<Load, Failure> {
        let topic_prefix = match self.broker.topic(self.topic_prefix.clone())? {
            Some(prefix) => prefix.text().as_str().to_owned(),
            None => format!("petrelctl/stress/{}", options::random_word()?),
        };
        let mut common = self.broker.common()?;
        if let Some(tls) = &mut common.tls {
            make_tls(tls)?;
        }
        Ok(Load {
            common,
            topic_prefix,
            messages: self.messages,
            qos: self.qos,
            size: self.size as usize,
            inflight_maximum: self.max_inflight,
            timeout: self.timeout,
        })
    }

    fn client_id(&self, load: &Load, number: u32) -> Result<petrel_proto::Text, Failure> {
        options::client_id(self.id_prefix.as_deref(), load.common.version, number)
    }
}

/// Lets this process have so many open files, if the system does.
fn make_room(files: u64) -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(files), maximum: limit.maximum };
    if limit.maximum.is_some_and(|most| most < files)
        || setrlimit(Resource::Nofile, raised).is_err()
    {
        let most = limit.maximum.unwrap_or_default();
        return Err(Failure::new(format!(
            "so many clients need {files} open files, and {most} are allowed (ulimit -n); use fewer"
        )));
    }
    Ok(())
}
