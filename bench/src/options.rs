//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use lexopt::prelude::*;
use petrel_proto::{Qos, Version};

pub const HELP: &str = "\
petrel-bench idle [--address 127.0.0.1:1883] [--connections 15000] [--version 4]
    Connects, subscribes once per connection, prints `holding N`, ends when stdin ends.
petrel-bench pair [--address 127.0.0.1:1883] [--pairs 10] [--qos 0] [--payload 64]
                  [--window 100] [--seconds 5] [--version 4]
    Each publisher keeps at most `window` messages on their way to its subscriber.
";

/// What to do.
pub enum Command {
    /// Hold idle connections.
    Idle(Idle),
    /// Send messages.
    Pair(Pair),
    /// Say how to use it.
    Help,
}

/// Options of `idle`.
pub struct Idle {
    pub address: SocketAddr,
    pub connections: usize,
    pub version: Version,
}

/// Options of `pair`.
pub struct Pair {
    pub address: SocketAddr,
    pub pairs: usize,
    pub qos: Qos,
    pub payload_bytes: usize,
    pub window: usize,
    pub time: Duration,
    pub version: Version,
}

/// Reads the command line.
pub fn parse() -> Result<Command, String> {
    let mut parser = lexopt::Parser::from_env();
    let mut name = None;
    let mut address: SocketAddr = ([127, 0, 0, 1], 1883).into();
    let mut version = Version::V3_1_1;
    let (mut connections, mut pairs, mut payload_bytes, mut window) = (15_000, 10, 64, 100);
    let (mut qos, mut seconds) = (Qos::AtMostOnce, 5.0);
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Long("connections") => connections = number(&mut parser, "connections")? as usize,
            Long("pairs") => pairs = number(&mut parser, "pairs")? as usize,
            Long("payload") => payload_bytes = (number(&mut parser, "payload")? as usize).max(8),
            Long("window") => window = number(&mut parser, "window")? as usize,
            Long("seconds") => seconds = number(&mut parser, "seconds")?,
            Long("qos") => {
                qos = Qos::from_u8(number(&mut parser, "qos")? as u8).ok_or("--qos: 0, 1 or 2")?;
            }
            Long("version") => {
                version = match number(&mut parser, "version")? as u8 {
                    4 => Version::V3_1_1,
                    5 => Version::V5,
                    _ => return Err("--version: 4 or 5".into()),
                };
            }
            Long("address") => {
                let value = parser.value().map_err(|error| error.to_string())?;
                address = value.parse().map_err(|error| format!("--address: {error}"))?;
            }
            Long("help") => return Ok(Command::Help),
            Value(value) if name.is_none() => name = Some(value),
            other => return Err(format!("{}; see --help", other.unexpected())),
        }
    }
    let time = Duration::from_secs_f64(seconds);
    match name.as_ref().and_then(|name| name.to_str()) {
        Some("idle") => Ok(Command::Idle(Idle { address, connections, version })),
        Some("pair") => {
            Ok(Command::Pair(Pair { address, pairs, qos, payload_bytes, window, time, version }))
        }
        _ => Err("idle or pair; see --help".into()),
    }
}

fn number(parser: &mut lexopt::Parser, what: &str) -> Result<f64, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value.parse().map_err(|error| format!("--{what}: {error}"))
}
