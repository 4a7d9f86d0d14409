//! The command line of `petrelctl pub`.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use petrel_proto::{Qos, TopicName};

use super::common::{self, Common, CommonArguments};
use super::properties::PacketKind;
use super::{Arguments, text};
use crate::failure::Failure;

/// What `petrelctl pub --help` prints.
pub const HELP: &str = concat!(
    "\
petrelctl pub publishes messages.

Usage: petrelctl pub [-h HOST] [-p PORT] -t TOPIC {-m TEXT | -f FILE | -s | -l | -n} [OPTIONS]

What is published:
  -t, --topic TOPIC
  -m, --message TEXT
  -f, --file FILE         the whole file as one message
  -s, --stdin-file        all of stdin as one message
  -l, --stdin-line        each line of stdin as a message
  -n, --null-message      an empty message; with -r it clears what is retained
  -q, --qos QOS           0 (default), 1 or 2
  -r, --retain            the broker keeps the message for later subscribers
      --repeat COUNT      publish that many times
      --repeat-delay SECONDS
                          wait between repetitions
  -M, --max-inflight COUNT
                          QoS 1 and 2 messages on the way at once; default 20
  -W SECONDS              give up after this time

",
    include_str!("common_help.txt")
);

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

/// Reads the command line, and the file or stdin that it names; `None` if it asks for help.
///
/// # Errors
/// What is wrong, in one sentence.
pub fn parse(arguments: Vec<OsString>) -> Result<Option<PublishOptions>, Failure> {
    let mut arguments = Arguments::new(arguments);
    let mut shared = CommonArguments::default();
    let (mut topic, mut wanted) = (None, Vec::new());
    let (mut qos, mut retain) = (Qos::AtMostOnce, false);
    let (mut count, mut pause, mut inflight_maximum) = (None, None, 20);
    while let Some(option) = arguments.next()? {
        if shared.take(&option, &mut arguments)? {
            continue;
        }
        match option.as_str() {
            "-t" | "--topic" => topic = Some(arguments.text()?),
            "-m" | "--message" => wanted.push(Wanted::Message(arguments.bytes()?.into())),
            "-f" | "--file" => wanted.push(Wanted::File(arguments.value()?.into())),
            "-s" | "--stdin-file" => wanted.push(Wanted::Stdin),
            "-l" | "--stdin-line" => wanted.push(Wanted::Lines),
            "-n" | "--null-message" => wanted.push(Wanted::Message(Bytes::new())),
            "-q" | "--qos" => qos = arguments.qos()?,
            "-r" | "--retain" => retain = true,
            "--repeat" => count = Some(arguments.number(1, u64::MAX)?),
            "--repeat-delay" => pause = Some(common::seconds(&mut arguments)?),
            "-M" | "--max-inflight" => inflight_maximum = arguments.number(1, u16::MAX)?,
            "--help" => return Ok(None),
            _ => return Err(arguments.unknown("petrelctl pub")),
        }
    }
    let topic = match (topic, shared.url_topic.take()) {
        (Some(topic), _) => topic,
        (None, Some(from_url)) => text(&from_url).map_err(Failure::usage)?,
        (None, None) => return Err(Failure::usage("pub needs a topic (-t)")),
    };
    let topic = common::topic_name("-t", topic)?;
    let common = shared.finish(&[PacketKind::Publish])?;
    let wanted = match (wanted.pop(), wanted.is_empty()) {
        (Some(wanted), true) => wanted,
        (None, _) => {
            return Err(Failure::usage("pub needs a message: -m TEXT, -f FILE, -s, -l or -n"));
        }
        (Some(_), false) => {
            return Err(Failure::usage("-m, -f, -s, -l and -n exclude each other"));
        }
    };
    if matches!(wanted, Wanted::Lines) && (count.is_some() || pause.is_some()) {
        return Err(Failure::usage("--repeat and --repeat-delay do not go with -l"));
    }
    let source = match wanted {
        Wanted::Lines => Source::Lines,
        other => Source::Repeated {
            payload: payload(other)?,
            count: count.unwrap_or(1),
            pause: pause.unwrap_or_default(),
        },
    };
    Ok(Some(PublishOptions { common, topic, source, qos, retain, inflight_maximum }))
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
