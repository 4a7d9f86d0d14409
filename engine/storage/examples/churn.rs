//! Drives a lane over a disk with messages that wait for sessions, and says what they cost.
//!
//! `a`: nobody takes them. `b`: each is taken after 100,000 others. `c`: each is taken before its
//! batch is written. The sessions are chosen at random, from a seed.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};
use petrel_proto::{Qos, Text, TopicName};
use petrel_shard::record::{DeliveryRecord, Record};
use petrel_shard::{Incarnation, Message, ShardIndex, Slot};
use petrel_storage::disk::WallClock;
use petrel_storage::{
    Alive, Clock, DiskOptions, DiskStore, Lane, LaneSettings, Sweep, SyncLevel, begin,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str =
    "churn [--case a|b|c] [--dir FOLDER] [--messages N] [--sessions N] [--payload BYTES]
      [--batch MESSAGES] [--window MIB] [--log-file MIB] [--memtable MIB] [--journals MIB]
      [--workers N] [--seed N] [--sync commit|interval|never]
      [--sweep]";

struct Options {
    case: char,
    dir: PathBuf,
    messages: u64,
    sessions: u32,
    payload_bytes: usize,
    batch: u64,
    window_mib: usize,
    seed: u64,
    sync: SyncLevel,
    sweep: bool,
    disk: DiskOptions,
}

impl Options {
    fn from_args() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut options = Self {
            case: 'b',
            dir: std::env::temp_dir(),
            messages: 2_000_000,
            sessions: 100_000,
            payload_bytes: 200,
            batch: 1000,
            window_mib: 64,
            seed: 1,
            sync: SyncLevel::Commit,
            sweep: false,
            disk: DiskOptions::default(),
        };
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next()? {
            match arg {
                Long("case") => options.case = args.value()?.parse()?,
                Long("dir") => options.dir = args.value()?.into(),
                Long("messages") => options.messages = args.value()?.parse()?,
                Long("sessions") => options.sessions = args.value()?.parse()?,
                Long("payload") => options.payload_bytes = args.value()?.parse()?,
                Long("batch") => options.batch = args.value()?.parse()?,
                Long("window") => options.window_mib = args.value()?.parse()?,
                Long("seed") => options.seed = args.value()?.parse()?,
                Long("log-file") => {
                    options.disk.log_file_bytes = args.value()?.parse::<usize>()? << 20;
                }
                Long("memtable") => {
                    options.disk.memtable_bytes = args.value()?.parse::<u64>()? << 20;
                }
                Long("journals") => {
                    options.disk.journal_bytes_max = args.value()?.parse::<u64>()? << 20;
                }
                Long("sweep") => options.sweep = true,
                Long("workers") => options.disk.worker_threads = args.value()?.parse()?,
                Long("sync") => {
                    options.sync = match args.value()?.string()?.as_str() {
                        "commit" => SyncLevel::Commit,
                        "interval" => SyncLevel::Interval,
                        "never" => SyncLevel::Never,
                        _ => return Err(USAGE.into()),
                    };
                }
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

/// Makes records as a shard does, apart from what they cost to make.
struct Author {
    case: char,
    sessions: u32,
    random: u64,
    next: u64,
    /// Whose each message is, for those that wait.
    owners: std::collections::VecDeque<Incarnation>,
    message: Arc<Message>,
}

impl Author {
    fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let payload: Vec<u8> = (0..options.payload_bytes).map(|n| (n * 31 + n / 7) as u8).collect();
        let topic = TopicName::new(Text::try_from("site/7/line/3/state")?);
        let message = Message {
            topic: topic.map_err(|_| "no topic")?,
            payload: Bytes::from(payload),
            qos: Qos::AtLeastOnce,
            retain: false,
            properties: petrel_proto::MessageProperties::EMPTY,
            publisher: 9,
            expires_at_ms: u64::MAX,
        };
        let (case, sessions) = (options.case, options.sessions);
        let random = options.seed.max(1);
        let owners = std::collections::VecDeque::new();
        Ok(Self { case, sessions, random, next: 0, owners, message: Arc::new(message) })
    }

    fn batch(&mut self, messages: u64) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..messages {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let count = (self.random >> 20) as u32 % self.sessions + 1;
            let incarnation = incarnation(count);
            let sequence = self.next;
            self.next += 1;
            let delivery = Box::new(DeliveryRecord {
                message: self.message.clone(),
                qos: Qos::AtLeastOnce,
                retain: false,
                identifiers: Default::default(),
                stored: false,
                provided: None,
            });
            records.push(Record::Queued { incarnation, sequence, delivery });
            match self.case {
                'b' => {
                    self.owners.push_back(incarnation);
                    if self.owners.len() > 100_000
                        && let Some(incarnation) = self.owners.pop_front()
                    {
                        let sequence = sequence - 100_000;
                        records.push(Record::Done { incarnation, sequence });
                    }
                }
                'c' => records.push(Record::Done { incarnation, sequence }),
                _ => {}
            }
        }
        records
    }
}

fn incarnation(count: u32) -> Incarnation {
    Incarnation::new(1, Slot(count as u16 % 64), count)
}

/// The disk without a store: 4 KiB at the end of a file, made durable.
struct Probe {
    file: File,
    times: Histogram<u64>,
}

impl Probe {
    fn new(dir: &Path) -> Result<Self, Box<dyn Error>> {
        Ok(Self { file: File::create(dir.join("probe"))?, times: Histogram::new(3)? })
    }

    fn measure(&mut self) -> Result<(), Box<dyn Error>> {
        let begin = Instant::now();
        self.file.write_all(&[7; 4096])?;
        self.file.sync_data()?;
        self.times.record(begin.elapsed().as_micros() as u64)?;
        Ok(())
    }
}

/// What this thread has used.
fn thread_cpu() -> Result<Duration, Box<dyn Error>> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// What all threads have used, also those that have ended: in the program, and in the kernel for it.
fn process_cpu() -> Result<[Duration; 2], Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit(')').next().ok_or("no stat")?;
    let mut ticks = behind_name.split_whitespace().skip(11).map(str::parse::<u64>);
    let mut next = || ticks.next().ok_or("no stat");
    // Linux counts 100 ticks a second, on every machine that Petrel runs on.
    Ok([next()??, next()??].map(|ticks| Duration::from_millis(ticks * 10)))
}

fn written_bytes() -> Result<u64, Box<dyn Error>> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes")?.parse()?)
}

fn memory_mib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
}

fn ms(times: &Histogram<u64>) -> String {
    let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    let max = times.max() as f64 / 1000.0;
    format!("p50 {:.2} p99 {:.2} p99.9 {:.2} max {max:.2} ms", at(0.5), at(0.99), at(0.999))
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args()?;
    let dir = tempfile::tempdir_in(&options.dir)?;
    let alive = Alive::default();
    let wall_clock: WallClock = Arc::new(|| 1_800_000_000_000);
    let sweep = options.sweep.then(|| Sweep { alive: alive.clone(), wall_clock });
    let store = DiskStore::open_and_sweep(dir.path().join("lane-0"), options.disk, sweep)?;
    let window_bytes_max = options.window_mib << 20;
    let settings = LaneSettings { lane: 0, lanes: 1, sync: options.sync, window_bytes_max };
    let mut lane = Lane::open(store, Clock::default(), settings)?;
    begin(std::slice::from_mut(&mut lane))?;
    lane.sweep(alive.clone())?;
    alive.fill((1..=options.sessions).map(incarnation));
    let mut author = Author::new(&options)?;
    let mut probe = Probe::new(dir.path())?;
    let mut commits = Histogram::<u64>::new(3)?;
    let mut folds = Histogram::<u64>::new(3)?;
    let (mut fold_cpu, mut commit_cpu, mut gather_cpu) = Default::default();
    let mut probe_bytes = 0;
    let (before_bytes, before_cpu) = (written_bytes()?, process_cpu()?);
    let mut authored = Duration::ZERO;
    let begin = Instant::now();
    for number in 0..options.messages / options.batch {
        let mut mark = thread_cpu()?;
        let mut lap = |total: &mut Duration| -> Result<(), Box<dyn Error>> {
            let now = thread_cpu()?;
            *total += now - mark;
            mark = now;
            Ok(())
        };
        let records = author.batch(options.batch);
        if number % 8 == 0 {
            probe.measure()?;
            probe_bytes += 4096;
        }
        lap(&mut authored)?;
        lane.gather(ShardIndex(0), (number + 1) * options.batch, true, records);
        lap(&mut gather_cpu)?;
        let at = Instant::now();
        lane.commit()?;
        commits.record(at.elapsed().as_micros() as u64)?;
        lap(&mut commit_cpu)?;
        while lane.wants_folding() {
            let at = Instant::now();
            lane.fold()?;
            folds.record(at.elapsed().as_micros() as u64)?;
        }
        lap(&mut fold_cpu)?;
    }
    lane.sync()?;
    let elapsed = begin.elapsed();
    let count = options.messages as f64;
    let [user, system] = process_cpu()?;
    let (user, system) = (user - before_cpu[0] - authored, system - before_cpu[1]);
    let used = user + system;
    let bytes = (written_bytes()? - before_bytes - probe_bytes) as f64;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / count;
    let usage = lane.store_mut().usage()?;
    let payload = count * options.payload_bytes as f64;
    println!(
        "case {}, {} messages of {} B, {} sessions",
        options.case, options.messages, options.payload_bytes, options.sessions
    );
    println!(
        "  {:.0} messages/s, {:.0} per commit",
        count / elapsed.as_secs_f64(),
        count / commits.len() as f64
    );
    println!(
        "  cpu {:.2} us/message ({:.2} and {:.2} in the kernel): gather {:.2}, commit {:.2}, fold {:.2}, workers {:.2}",
        us(used),
        us(user),
        us(system),
        us(gather_cpu),
        us(commit_cpu),
        us(fold_cpu),
        us(used.saturating_sub(gather_cpu + commit_cpu + fold_cpu))
    );
    println!("  written {:.2} x payload, {:.0} MB", bytes / payload, bytes / 1e6);
    println!("  commit {}", ms(&commits));
    println!("  fold   {}, {} steps", ms(&folds), folds.len());
    println!("  disk   {} (4 KiB and fdatasync)", ms(&probe.times));
    println!(
        "  commit p99 is {:.2} x the disk's",
        commits.value_at_quantile(0.99) as f64 / probe.times.value_at_quantile(0.99) as f64
    );
    let spaces: Vec<String> = usage
        .spaces
        .iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(space, bytes)| format!("{} {:.1}", space.name(), *bytes as f64 / 1e6))
        .collect();
    println!(
        "  MB in tables: {}; journals {:.0}; log {:.0} MB; memory at most {} MiB",
        spaces.join(", "),
        usage.journal_bytes as f64 / 1e6,
        usage.log_bytes as f64 / 1e6,
        memory_mib()?
    );
    drop(lane);
    Ok(())
}
