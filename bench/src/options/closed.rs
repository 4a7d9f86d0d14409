//! The command line of what runs in a closed loop.

use std::net::SocketAddr;
use std::time::Duration;

use lexopt::prelude::*;
use petrel_proto::{Qos, Version};

use super::{Command, number, qos, seconds, whole, word};
use crate::load::process::Process;
use crate::pair::Shape;

/// Options of `idle`.
pub struct Idle {
    pub address: SocketAddr,
    pub connections: usize,
    pub version: Version,
}

/// Options of `pair`.
pub struct Pair {
    pub address: SocketAddr,
    pub shape: Shape,
    /// Clients on the side that has many.
    pub count: usize,
    /// Subscribers beside them that never read.
    pub stuck: usize,
    pub qos: Qos,
    pub payload_bytes: usize,
    /// Messages that each publisher has on their way, at most.
    pub window: usize,
    /// Messages a second in all, instead of a window.
    pub rate: Option<f64>,
    pub time: Duration,
    pub version: Version,
    pub tls: bool,
    /// Of each publisher, at most.
    pub messages: u64,
    pub kept: Kept,
    /// Whose CPU time is counted.
    pub broker: Option<Process>,
}

/// What becomes of the sessions of subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// They end with their connections.
    No,
    /// They outlive them.
    Online,
    /// They outlive them, and have none while messages are sent.
    Away,
}

/// Options of `handshakes`.
pub struct Handshakes {
    pub address: SocketAddr,
    pub count: usize,
    pub under_way: usize,
    pub resume: bool,
}

/// Everything that may be said, as it is if nothing is.
struct Raw {
    connections: usize,
    resume: bool,
    pair: Pair,
}

impl Default for Raw {
    fn default() -> Self {
        let pair = Pair {
            address: ([127, 0, 0, 1], 1883).into(),
            shape: Shape::Pair,
            count: 10,
            stuck: 0,
            qos: Qos::AtMostOnce,
            payload_bytes: 64,
            window: 100,
            rate: None,
            time: Duration::from_secs(5),
            version: Version::V3_1_1,
            tls: false,
            messages: u64::MAX,
            kept: Kept::No,
            broker: None,
        };
        Self { connections: 15_000, resume: false, pair }
    }
}

/// Reads what follows `idle`, `pair` or `handshakes`.
pub(super) fn parse(name: &str, mut parser: lexopt::Parser) -> Result<Command, String> {
    let mut raw = Raw::default();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Long("help") => return Ok(Command::Help),
            Long(long) => {
                let long = format!("--{long}");
                raw.take(&long, &mut parser)?;
            }
            other => return Err(format!("{}; see --help", other.unexpected())),
        }
    }
    let Raw { connections, resume, pair } = raw;
    let Pair { address, version, .. } = pair;
    if name == "handshakes" {
        let (count, under_way) = (connections, pair.window.max(1));
        return Ok(Command::Handshakes(Handshakes { address, count, under_way, resume }));
    }
    if name == "idle" {
        return Ok(Command::Idle(Idle { address, connections, version }));
    }
    if pair.kept == Kept::Away && pair.qos == Qos::AtMostOnce {
        return Err("--kept away: nobody keeps QoS 0 for those who are away; --qos 1 or 2".into());
    }
    Ok(Command::Pair(pair))
}

impl Raw {
    fn take(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), String> {
        let pair = &mut self.pair;
        let mut number = || number(parser, name);
        match name {
            "--connections" => self.connections = number()? as usize,
            "--resume" => self.resume = true,
            "--pairs" => pair.count = whole(number()?, name, 1)?,
            "--stuck" => pair.stuck = whole(number()?, name, 0)?,
            "--payload" => pair.payload_bytes = number()? as usize,
            "--window" => pair.window = whole(number()?, name, 1)?,
            "--rate" => pair.rate = Some(number()?).filter(|rate| *rate > 0.0),
            "--seconds" => pair.time = seconds(number()?, name)?,
            "--qos" => pair.qos = qos(number()?)?,
            "--version" => pair.version = super::version(number()?)?,
            "--messages" => pair.messages = number()? as u64,
            "--broker-pid" => pair.broker = Some(Process(whole(number()?, name, 1)? as u32)),
            "--tls" => pair.tls = true,
            "--address" => {
                let address = word(parser, name)?;
                pair.address = address.parse().map_err(|error| format!("--address: {error}"))?;
            }
            "--shape" => {
                pair.shape = match word(parser, name)?.as_str() {
                    "pair" => Shape::Pair,
                    "fan-in" => Shape::FanIn,
                    "fan-out" => Shape::FanOut,
                    other => {
                        return Err(format!("--shape is pair, fan-in or fan-out, not {other}"));
                    }
                }
            }
            "--kept" => {
                pair.kept = match word(parser, name)?.as_str() {
                    "online" => Kept::Online,
                    "away" => Kept::Away,
                    other => return Err(format!("--kept: {other:?} is neither online nor away")),
                }
            }
            other => return Err(format!("there is no option {other}; see --help")),
        }
        Ok(())
    }
}
