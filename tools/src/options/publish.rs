//! The command line of `petrelctl pub`.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use petrel_proto::{Qos, TopicName};

use super::common::{Common, CommonArguments};
use super::properties::PacketKind;
use super::{bytes, qos, seconds, topic_name};
use crate::failure::Failure;

/// Publish messages.
#[derive(Debug, Clone, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "petrelctl pub [-h HOST] [-p PORT] -t TOPIC {-m TEXT | -f FILE | -s | -l | -n} [OPTIONS]",
    next_help_heading = "What is published",
    group = clap::ArgGroup::new("source").required(true),
    after_help = super::common::EXIT_CODES
)]
pub struct PublishArguments {
    /// Where it goes.
    #[arg(short, long, value_parser = topic_name, allow_hyphen_values = true)]
    topic: Option<TopicName>,
    /// This text.
    #[arg(short, long, value_name = "TEXT", group = "source", allow_hyphen_values = true)]
    message: Option<OsString>,
    /// The whole file as one message.
    #[arg(short, long, group = "source")]
    file: Option<PathBuf>,
    /// All of stdin as one message.
    #[arg(short, long, group = "source")]
    stdin_file: bool,
    /// Each line of stdin as a message.
    #[arg(short = 'l', long, group = "source")]
    stdin_line: bool,
    /// An empty message; with -r it clears what is retained.
    #[arg(short, long, group = "source")]
    null_message: bool,
    /// 0 (default), 1 or 2.
    #[arg(short, long, value_parser = qos, default_value = "0", hide_default_value = true)]
    qos: Qos,
    /// The broker keeps the message for later subscribers.
    #[arg(short, long)]
    retain: bool,
    /// Publish that many times.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..),
          conflicts_with = "stdin_line")]
    repeat: Option<u64>,
    /// Wait between repetitions.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "stdin_line")]
    repeat_delay: Option<Duration>,
    /// QoS 1 and 2 messages on the way at once.
    #[arg(short = 'M', long, value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
    /// Give up after this time.
    #[arg(short = 'W', value_name = "SECONDS", value_parser = seconds)]
    time_limit: Option<Duration>,
    #[command(flatten)]
    common: CommonArguments,
}

/// Where the messages come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// One message, published `count` times with a pause between.
    Repeated {
        /// What it says.
        payload: Bytes,
        /// At least 1.
        count: u64,
        /// Between two.
        pause: Duration,
    },
    /// Each line of stdin.
    Lines,
}

/// What `petrelctl pub` is asked to do.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// Where the broker is and who we are.
    pub common: Common,
    /// Where the messages go.
    pub topic: TopicName,
    /// What they are.
    pub source: Source,
    /// At which QoS.
    pub qos: Qos,
    /// Whether they are retained.
    pub retain: bool,
    /// QoS 1 and 2 messages on the way at once; the broker's Receive Maximum caps it too.
    pub inflight_maximum: u16,
}

/// What the command line says of the source, before anything is read.
enum Wanted {
    Message(Bytes),
    File(PathBuf),
    Stdin,
    Lines,
}

impl PublishArguments {
    /// Checks the whole, and reads the file or stdin that it names.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub fn options(self) -> Result<PublishOptions, Failure> {
        let wanted = self.wanted();
        let topic = self.common.broker.topic(self.topic)?;
        let topic = topic.ok_or_else(|| Failure::usage("pub needs a topic (-t)"))?;
        let mut common = self.common.finish(&[PacketKind::Publish])?;
        common.time_limit = self.time_limit;
        let source = match wanted {
            Wanted::Lines => Source::Lines,
            other => Source::Repeated {
                payload: payload(other)?,
                count: self.repeat.unwrap_or(1),
                pause: self.repeat_delay.unwrap_or_default(),
            },
        };
        let (qos, retain, inflight_maximum) = (self.qos, self.retain, self.max_inflight);
        Ok(PublishOptions { common, topic, source, qos, retain, inflight_maximum })
    }

    /// The one source that is given; that there is one is a rule of the command line.
    fn wanted(&self) -> Wanted {
        if let Some(text) = &self.message {
            Wanted::Message(bytes(text))
        } else if let Some(file) = &self.file {
            Wanted::File(file.clone())
        } else if self.stdin_file {
            Wanted::Stdin
        } else if self.stdin_line {
            Wanted::Lines
        } else {
            Wanted::Message(Bytes::new())
        }
    }
}

/// More than any MQTT packet holds.
const PAYLOAD_BYTES_MAX: u64 = 268_435_455;

fn payload(wanted: Wanted) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let (name, read) = match wanted {
        Wanted::Message(bytes) => return Ok(bytes),
        Wanted::File(file) => {
            let opened = fs::File::open(&file);
            let read =
                opened.and_then(|open| open.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut bytes));
            (file.display().to_string(), read)
        }
        Wanted::Stdin | Wanted::Lines => {
            let stdin = std::io::stdin().lock();
            ("stdin".to_owned(), stdin.take(PAYLOAD_BYTES_MAX + 1).read_to_end(&mut bytes))
        }
    };
    match read {
        Err(error) => Err(Failure::new(format!("cannot read {name}: {error}"))),
        Ok(_) if bytes.len() as u64 > PAYLOAD_BYTES_MAX => {
            Err(Failure::new(format!("{name} is larger than any MQTT packet (256 MB)")))
        }
        Ok(_) => Ok(bytes.into()),
    }
}
