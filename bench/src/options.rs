//! The command line.

mod closed;

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use petrel_proto::{Qos, Version};
use rustls::NamedGroup;

use crate::load::Options;
use crate::load::plan::Target;
use crate::load::process::Process;
use crate::load::scenario::{Asked, Scenario};
use crate::load::tls::TlsClient;
use crate::load::worker::Runtime;
pub use closed::{Handshakes, Idle, Kept, Pair};

pub const HELP: &str = "\
Load for any MQTT broker.

Usage: petrel-bench SCENARIO [OPTIONS]

Scenarios, in an open loop: times count from the moment at which a message was due.
  connect         holds -c connections with a subscription each, then sends a message to each
  storm           cuts -c persistent sessions at once; they come back without any back-off
  keepalive       as connect, with pings (-k 60) for as long as --time says
  pairs           -c publishers, each with a subscriber of its own
  fan-in          -c publishers, --receivers subscribers to all of them
  fan-out         one publisher, -c subscribers
  shared          -c publishers, one shared group of --receivers
  retained        -c retained topics, then --receivers that read them all
  offline         messages for -c sessions that are away, which then come back
  slow-consumer   fan-out with --receivers among the subscribers that never read
  mixed           --pairs pairs, a fan-out to --receivers and -c idle clients
  connected-cars  100,000 cars, a message per 10 s each, six consumers in one shared group
  self-test       what the load can do itself, against a sink of its own instead of a broker

The broker:
  -h, --host HOST         may be repeated; clients are spread over all (127.0.0.1)
  -p, --port PORT         1883, or 8883 with -S
  -V, --version 3|4|5     MQTT 3.1, 3.1.1 or 5 (5)
  -S, --ssl               TLS; any certificate is accepted unless --cafile says otherwise
      --cafile FILE       PEM file of certificates to trust; the name is localhost
      --groups NAMES      for the key exchange, in order: x25519, p256, x25519mlkem768 (x25519)
      --resume            TLS sessions are resumed by ticket
  -u, --username NAME     %i is the number of the client
  -P, --password TEXT
      --broker-pid PID    accounts for the CPU and the memory of that process
      --broker-build TEXT what it is, for the JSON; with a PID its --version is asked otherwise

The load:
  -c, --count N           clients (1,000)
      --receivers N       receivers where the scenario tells them apart (6)
  -R, --connrate N        new connections a second; 0 for as fast as it goes (0)
  -i, --interval MS       the same, said by the time from one to the next
      --under-way N       connections under way at once, at most; 0 for any number (0)
  -I, --interval-of-msg MS   from one message of a client to its next (1000; storm: 100)
      --num-messages N    of each client, at most
  -q, --qos 0|1|2         of messages and subscriptions (0)
  -s, --size BYTES        of payloads, at least 16 (100)
  -r, --retain            messages are retained; in connect, sessions are kept
  -t, --topic TOPIC       of connect, keepalive, storm and pairs; %i is the number of the client
  -k, --keepalive S       (0; keepalive: 60)
      --time S            how long the measured part lasts (10)
      --pairs N           pairs in the background of a storm, QoS 1 (20)
      --patience S        a client that is not ready by then tries again (30)
      --prefix TEXT       what client identifiers begin with (bench-SCENARIO)
  -n, --startnumber N     number of the first client (0)
  -x, --session-expiry S  of sessions that outlive their connections (86400)
      --ifaddr ADDRESS    source address, may be repeated; 127.x.y.z are spread by themselves
      --threads N         threads, each with a file table of its own (one per 15,000 clients, at
                          least two)
      --runtime NAME      what they wait in, epoll or glommio (epoll)
      --nice N            lowers the priority of the threads, those for the background of a storm
                          excepted, so that a broker beside them is not kept from its cores (0)
      --pin yes|no        each thread keeps to a core (yes if there are as many cores)

Output:
      --json FILE         everything, for machines
      --hdr FILE          HdrHistogram log: an interval a second for each series, nanoseconds
      --quiet             no progress

In a closed loop, for comparing brokers by their CPU time (bench/idle.py, bench/hot.py):
petrel-bench idle [--address 127.0.0.1:1883] [--connections 15000] [--version 4]
petrel-bench pair [--address 127.0.0.1:1883] [--shape pair|fan-in|fan-out] [--pairs 10] [--qos 0]
                  [--payload 64] [--window 100] [--seconds 5] [--version 4] [--messages N] [--rate N]
                  [--stuck N] [--tls] [--broker-pid PID] [--kept online|away]
                  --pairs is how many there are on the side that has many, --window how many messages
                  each publisher has on their way; with --rate so many a second are sent in all instead,
                  each when it is due. --stuck adds subscribers that never read. --messages ends it after
                  N of each publisher. With --kept the subscribers' sessions outlive their connections;
                  away, they connect again when all has been acknowledged.

petrel-bench floor-relay [FOLDER] sends what publishers of `pair` send to their subscribers, and nothing
                                  else; over TLS with the files of `certificate`
petrel-bench floor-tls FOLDER     serves TLS handshakes and nothing else, with the files of `certificate`
petrel-bench handshakes [--address 127.0.0.1:8883] [--connections 10000] [--window 90] [--resume]

petrel-bench certificate FOLDER   writes server.pem and server.key, ECDSA P-256, for localhost

Exit codes: 0, 1 if connections or messages were lost, 2 if it could not be run.
";

/// What to do.
pub enum Command {
    /// Hold idle connections, blocking.
    Idle(Idle),
    /// Send messages in a closed loop.
    Pair(Pair),
    /// A scenario.
    Load(Box<Asked>),
    /// Write a certificate for `localhost` and its key into a folder.
    Certificate(PathBuf),
    /// Relay the bytes of publishers and nothing else, over TLS with the certificate of a folder.
    FloorRelay(Option<PathBuf>),
    /// Serve TLS handshakes and nothing else, with the certificate of a folder.
    FloorTls(PathBuf),
    /// Handshakes and nothing else.
    Handshakes(Handshakes),
    /// Say how to use it.
    Help,
}

/// What fits into an MQTT packet, with room for the longest topic and the properties.
const PAYLOAD_BYTES_MAX: usize = 268_000_000;

/// Clients of one thread, if nothing else is said; its file table has to have room for them.
const CLIENTS_PER_THREAD: usize = 15_000;

/// Reads the command line.
pub fn parse() -> Result<Command, String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(name) = words.first().cloned() else { return Ok(Command::Help) };
    let parser = lexopt::Parser::from_args(words.iter().skip(1));
    match name.as_str() {
        "idle" | "pair" | "handshakes" => closed::parse(&name, parser),
        "--help" | "help" => Ok(Command::Help),
        "floor-relay" => Ok(Command::FloorRelay(words.get(1).map(Into::into))),
        "certificate" | "floor-tls" => match (words.get(1), name.as_str()) {
            (Some(folder), "certificate") => Ok(Command::Certificate(folder.into())),
            (Some(folder), _) => Ok(Command::FloorTls(folder.into())),
            (None, name) => Err(format!("{name} needs a folder; see petrel-bench --help")),
        },
        name => match Scenario::NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, scenario)) => load(*scenario, parser, words.clone()),
            None => Err(format!("there is no scenario {name:?}; see petrel-bench --help")),
        },
    }
}

/// What the options say, before it is put together.
struct Raw {
    hosts: Vec<String>,
    port: Option<u16>,
    version: Version,
    ssl: bool,
    groups: Vec<NamedGroup>,
    cafile: Option<PathBuf>,
    resume: bool,
    threads: Option<usize>,
    pin: Option<bool>,
    sources: Vec<Ipv4Addr>,
    asked: Asked,
}

fn defaults(scenario: Scenario, words: Vec<String>) -> Asked {
    let cars = scenario == Scenario::ConnectedCars;
    let every_ms = match scenario {
        Scenario::ConnectedCars => 10_000,
        Scenario::Storm => 100,
        _ => 1_000,
    };
    Asked {
        scenario,
        target: Target {
            addresses: Vec::new(),
            version: Version::V5,
            tls: None,
            sources: Vec::new(),
            prefix: format!("bench-{}", scenario.name()),
            start_number: 0,
            username: None,
            password: None,
            session_expiry_s: 86_400,
            patience: Duration::from_secs(30),
        },
        run: Options {
            threads: 0,
            runtime: Runtime::Epoll,
            pin: false,
            nice: 0,
            quiet: false,
            log: None,
        },
        count: if cars { 100_000 } else { 1_000 },
        receivers: 6,
        rate: if cars { 5_000.0 } else { f64::INFINITY },
        under_way: usize::MAX,
        every: Duration::from_millis(every_ms),
        qos: Qos::AtMostOnce,
        bytes: 100,
        messages: u64::MAX,
        retain: false,
        keep_alive_s: if scenario == Scenario::KeepAlive { 60 } else { 0 },
        topic: None,
        time: Duration::from_secs(10),
        pairs: 20,
        broker: None,
        json: None,
        broker_build: None,
        words,
    }
}

fn load(
    scenario: Scenario,
    mut parser: lexopt::Parser,
    words: Vec<String>,
) -> Result<Command, String> {
    let mut raw = Raw {
        hosts: Vec::new(),
        port: None,
        version: Version::V5,
        ssl: false,
        groups: vec![NamedGroup::X25519],
        cafile: None,
        resume: false,
        threads: None,
        pin: None,
        sources: Vec::new(),
        asked: defaults(scenario, words),
    };
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let argument = match argument {
            Short(short) => format!("-{short}"),
            Long("help") => return Ok(Command::Help),
            Long(long) => format!("--{long}"),
            Value(value) => return Err(format!("{value:?} is not expected; see --help")),
        };
        raw.take(&argument, &mut parser)?;
    }
    raw.finish().map(|asked| Command::Load(Box::new(asked)))
}

impl Raw {
    fn take(&mut self, name: &str, parser: &mut lexopt::Parser) -> Result<(), String> {
        let mut number = || number(parser, name);
        let asked = &mut self.asked;
        match name {
            "-c" | "--count" | "--num-clients" => asked.count = whole(number()?, name, 1)?,
            "--receivers" => asked.receivers = whole(number()?, name, 0)?,
            "-R" | "--connrate" => {
                asked.rate = Some(number()?).filter(|it| *it > 0.0).unwrap_or(f64::INFINITY)
            }
            "-i" | "--interval" => {
                asked.rate =
                    Some(number()?).filter(|it| *it > 0.0).map_or(f64::INFINITY, |it| 1000.0 / it)
            }
            "--num-messages" => asked.messages = whole(number()?, name, 1)? as u64,
            "--nice" => asked.run.nice = at_most(number()?, name, 0, 19)? as u8,
            "-n" | "--startnumber" => asked.target.start_number = whole(number()?, name, 0)?,
            "-x" | "--session-expiry" => {
                asked.target.session_expiry_s =
                    at_most(number()?, name, 0, u32::MAX as usize)? as u32
            }
            "-u" | "--username" => asked.target.username = Some(word(parser, name)?),
            "-P" | "--password" => asked.target.password = Some(word(parser, name)?),
            "--groups" => self.groups = groups(&word(parser, name)?)?,
            "--under-way" => {
                asked.under_way =
                    Some(whole(number()?, name, 0)?).filter(|it| *it > 0).unwrap_or(usize::MAX)
            }
            "-I" | "--interval-of-msg" | "--interval_of_msg" => {
                asked.every = seconds(number()? / 1000.0, name)?;
                if asked.every.is_zero() {
                    return Err(format!("{name}: an open loop needs a time between two messages"));
                }
            }
            "-q" | "--qos" => asked.qos = qos(number()?)?,
            "-s" | "--size" => asked.bytes = at_most(number()?, name, 16, PAYLOAD_BYTES_MAX)?,
            "-r" | "--retain" => asked.retain = true,
            "-t" | "--topic" => asked.topic = Some(word(parser, name)?),
            "-k" | "--keepalive" => {
                asked.keep_alive_s = at_most(number()?, name, 0, usize::from(u16::MAX))? as u16
            }
            "--time" => asked.time = seconds(number()?, name)?,
            "--pairs" => asked.pairs = whole(number()?, name, 0)?,
            "--patience" => asked.target.patience = seconds(number()?, name)?,
            "--prefix" => asked.target.prefix = word(parser, name)?,
            "--broker-pid" => asked.broker = Some(Process(whole(number()?, name, 1)? as u32)),
            "--json" => asked.json = Some(word(parser, name)?),
            "--hdr" => asked.run.log = Some(word(parser, name)?),
            "--broker-build" => asked.broker_build = Some(word(parser, name)?),
            "--quiet" | "--no-progress" => asked.run.quiet = true,
            "-h" | "--host" => self.hosts.push(word(parser, name)?),
            "-p" | "--port" => {
                self.port = Some(at_most(number()?, name, 1, usize::from(u16::MAX))? as u16)
            }
            "-V" | "--version" => self.version = version(number()?)?,
            "-S" | "--ssl" => self.ssl = true,
            "--cafile" => self.cafile = Some(word(parser, name)?.into()),
            "--resume" => self.resume = true,
            "--threads" => self.threads = Some(whole(number()?, name, 1)?),
            "--runtime" => asked.run.runtime = runtime(&word(parser, name)?)?,
            "--pin" => self.pin = Some(yes(&word(parser, name)?, name)?),
            "--ifaddr" => {
                let address = word(parser, name)?;
                self.sources.push(address.parse().map_err(|error| format!("{name}: {error}"))?);
            }
            other => return Err(format!("there is no option {other}; see --help")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Asked, String> {
        let mut asked = self.asked;
        use Scenario::{Connect, KeepAlive, Pairs, Storm};
        if asked.topic.is_some() && ![Connect, KeepAlive, Pairs, Storm].contains(&asked.scenario) {
            let name = asked.scenario.name();
            return Err(format!(
                "-t: {name} has topics of its own; connect, keepalive, storm and pairs take one"
            ));
        }
        if let Some(password) = asked.target.password.as_deref().filter(|it| !it.is_empty()) {
            // The words are written to the JSON.
            asked.words.iter_mut().for_each(|word| *word = word.replace(password, "***"));
        }
        let port = self.port.unwrap_or(if self.ssl { 8883 } else { 1883 });
        let hosts = if self.hosts.is_empty() { vec!["127.0.0.1".to_owned()] } else { self.hosts };
        for host in hosts {
            let found = (host.as_str(), port).to_socket_addrs();
            let found = found.map_err(|error| format!("{host}: {error}"))?.next();
            asked.target.addresses.push(found.ok_or(format!("{host} has no address"))?);
        }
        asked.target.version = self.version;
        let clients = asked.count + asked.receivers + 2 * asked.pairs;
        let clients = if asked.scenario == Scenario::Pairs { 2 * clients } else { clients };
        let apart = usize::from(asked.scenario == Scenario::Storm);
        let threads = (clients.div_ceil(CLIENTS_PER_THREAD) + apart).max(2);
        asked.run.threads = self.threads.unwrap_or(threads);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        asked.run.pin = self.pin.unwrap_or(asked.run.threads <= cores);
        let loopback = asked.target.addresses.iter().all(|it| is_loopback_v4(it.ip()));
        asked.target.sources = match self.sources.is_empty() && loopback {
            true => (0..250u8)
                .flat_map(|high| (1..=4u8).map(move |low| Ipv4Addr::new(127, 1, high, low)))
                .collect(),
            false => self.sources,
        };
        if self.ssl {
            let cafile = self.cafile.as_deref();
            asked.target.tls =
                Some(TlsClient::with_groups(cafile, &self.groups, self.resume, 2 * asked.count)?);
        }
        Ok(asked)
    }
}

fn is_loopback_v4(ip: IpAddr) -> bool {
    ip.is_ipv4() && ip.is_loopback()
}

fn word(parser: &mut lexopt::Parser, name: &str) -> Result<String, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value.into_string().map_err(|value| format!("{name}: {value:?} is not UTF-8"))
}

fn number(parser: &mut lexopt::Parser, name: &str) -> Result<f64, String> {
    let value = word(parser, name)?;
    let number: f64 = value.parse().map_err(|_| format!("{name}: {value} is not a number"))?;
    match number >= 0.0 && number.is_finite() {
        true => Ok(number),
        false => Err(format!("{name}: {value} is not 0 or more")),
    }
}

fn whole(number: f64, name: &str, least: usize) -> Result<usize, String> {
    at_most(number, name, least, 999_999_999)
}

fn at_most(number: f64, name: &str, least: usize, most: usize) -> Result<usize, String> {
    match number.fract() == 0.0 && number >= least as f64 && number <= most as f64 {
        true => Ok(number as usize),
        false => Err(format!("{name}: {number} is not a whole number from {least} to {most}")),
    }
}

fn seconds(number: f64, name: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number).map_err(|error| format!("{name}: {error}"))
}

fn qos(number: f64) -> Result<Qos, String> {
    let qos = if number.fract() == 0.0 { Qos::from_u8(number as u8) } else { None };
    qos.ok_or_else(|| format!("QoS is 0, 1 or 2, not {number}"))
}

fn groups(names: &str) -> Result<Vec<NamedGroup>, String> {
    let group = |name: &str| match name {
        "x25519" => Ok(NamedGroup::X25519),
        "p256" => Ok(NamedGroup::secp256r1),
        "x25519mlkem768" => Ok(NamedGroup::X25519MLKEM768),
        _ => Err(format!("--groups are x25519, p256 and x25519mlkem768, not {name}")),
    };
    names.split(',').map(group).collect()
}

fn runtime(name: &str) -> Result<Runtime, String> {
    match name {
        "epoll" => Ok(Runtime::Epoll),
        "glommio" => Ok(Runtime::Glommio),
        _ => Err(format!("--runtime is epoll or glommio, not {name}")),
    }
}

fn yes(value: &str, name: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{name} is yes or no, not {value}")),
    }
}

fn version(number: f64) -> Result<Version, String> {
    match number {
        3.0 => Ok(Version::V3_1),
        4.0 => Ok(Version::V3_1_1),
        5.0 => Ok(Version::V5),
        _ => Err(format!("the version is 3, 4 or 5, not {number}")),
    }
}
