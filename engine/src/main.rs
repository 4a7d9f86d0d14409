//! `petrel`: reads the command line, starts the broker, and waits for the signal that ends it.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use petrel_engine::auth::AuthMethods;
use petrel_engine::boot::{self, FdTables, Running, StopError};
use petrel_engine::cli::{self, Command};
use petrel_engine::config::{Config, Listener};
use petrel_engine::figures::Watch;
use petrel_engine::log::{self, Event, Level, Value};
use petrel_engine::memory::Memory;
use petrel_engine::systemd::Systemd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

// The shards make and free small blocks all the time, each on its own core.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why the program ends without success: its exit code and what it says on stderr.
struct Failed(u8, String);

impl Failed {
    /// Petrel could not start.
    fn to_start(why: impl fmt::Display) -> Self {
        Self(2, format!("petrel: {why}"))
    }
}

fn main() -> ExitCode {
    let done = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Print(text)) => print(text),
        Ok(Command::CheckConfig(file)) => check(file.as_deref()),
        Ok(Command::Run(file)) => run(file.as_deref()),
        Err(sentence) => Err(Failed::to_start(sentence)),
    };
    match done {
        Ok(()) => {
            log::last_words(None);
            ExitCode::SUCCESS
        }
        Err(Failed(code, text)) => {
            log::last_words(Some(&text));
            ExitCode::from(code)
        }
    }
}

/// A text on stdout.
fn print(text: impl fmt::Display) -> Result<(), Failed> {
    write!(std::io::stdout(), "{text}")
        .map_err(|error| Failed::to_start(format_args!("cannot write: {error}")))
}

fn load(file: Option<&Path>) -> Result<Config, Failed> {
    // The problems of a file name it themselves.
    file.map_or(Ok(Config::default()), |file| {
        Config::load(file).map_err(|error| Failed(2, error.to_string()))
    })
}

fn check(file: Option<&Path>) -> Result<(), Failed> {
    let config = load(file)?;
    #[cfg(feature = "admin")]
    if let Some(admin) = &config.admin {
        petrel_engine::admin::check(admin).map_err(|error| Failed(2, error))?;
    }
    let name = file.map_or("the built-in configuration".into(), Path::to_string_lossy);
    print(format_args!("{name}: nothing is wrong\n{}\n", config.summary()))
}

fn run(file: Option<&Path>) -> Result<(), Failed> {
    let config = load(file)?;
    // Whoever is at the limit of a file's size is told so by the write, as where a disk is full, instead of ended.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(Failed::to_start)?;
    // Caught before anything starts, so that a signal during the start is not lost.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1]).map_err(Failed::to_start)?;
    log::start(&config.log).map_err(Failed::to_start)?;
    let listeners = config.listeners.clone();
    let mut running = boot::start(config, &AuthMethods::default()).map_err(Failed::to_start)?;
    announce(&running, &listeners);
    let watch = running.watch();
    running.reins().answers_reloads();
    let status = status(&running);
    let systemd = Systemd::serves(running.vigil(), &status).map_err(Failed::to_start)?;
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                systemd.reloads();
                let said = reload(&mut running, file);
                systemd.reloaded(format_args!("{status}; reload: {said}"));
            }
            SIGUSR1 => write_figures(&running, &watch),
            _ => break,
        }
    }
    systemd.stops();
    say(Event::BrokerStopping, "stopping: clients are told to go elsewhere");
    let stopped = running.stop();
    say(Event::Figures, watch.figures().stages());
    stopped.map_err(|error| {
        let code = match error {
            StopError::Shard(_) => 1,
            StopError::Stuck(_) => 3,
        };
        Failed(code, format!("petrel: {error}"))
    })?;
    say(Event::BrokerStopped, "stopped");
    Ok(())
}

/// Reads the file and what it names again, and says what became of that.
fn reload(running: &mut Running, file: Option<&Path>) -> String {
    // Whatever becomes of the rest: who moves the log away says so by the same signal.
    log::reopen();
    // Whoever asks while the files are read may mean what is in them later.
    let asking = running.reins().reloads();
    let left = match file.map(Config::load).transpose() {
        Ok(Some(new)) => running.reload_with(&new).map_err(|error| error.to_string()),
        Ok(None) => running.reload().map(|()| Vec::new()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let said = match left {
        Ok(left) if left.is_empty() => {
            Ok("certificates, users, rules and limits are read again".to_owned())
        }
        Ok(left) => Ok(format!(
            "certificates, users, rules and limits are read again; a restart is needed for {}",
            left.join(", ")
        )),
        Err(error) => Err(format!("{error}; nothing has changed")),
    };
    match &said {
        Ok(said) => say(Event::ConfigurationReloaded, format_args!("reload: {said}")),
        Err(wrong) => {
            let text = format_args!("reload: {wrong}");
            log::say(Event::ConfigurationReloaded, Level::Error, &[], text);
        }
    }
    asking.tell(&said);
    said.unwrap_or_else(|wrong| wrong)
}

/// What somebody sees who asks systemd.
fn status(running: &Running) -> String {
    let addresses: Vec<_> = running.addresses().iter().map(ToString::to_string).collect();
    format!("serving on {} with {}", addresses.join(", "), shards(running))
}

/// How many shards there are, and on what.
fn shards(running: &Running) -> String {
    let shards = running.counters().count();
    let tables = match running.fd_tables() {
        FdTables::Shared => "",
        FdTables::PerShard => ", a file table each",
    };
    let plural = if shards == 1 { "shard" } else { "shards" };
    format!("{shards} {plural} on {}{tables}", running.runtime())
}

/// What has been counted, and what is there now, a line for each kind.
fn write_figures(running: &Running, watch: &Watch) {
    let figures = watch.figures();
    say(Event::Figures, figures.stages());
    say(Event::Figures, figures.connections());
    say(Event::Figures, figures.retained);
    say(Event::Figures, figures.storage);
    say(Event::Figures, figures.denied());
    say(Event::Figures, figures.ledger());
    say(Event::Figures, figures.limits());
    say(Event::Figures, figures.drops());
    say(Event::Figures, figures.ends());
    let levels: Vec<_> = running.levels().map(|level| level.to_string()).collect();
    say(Event::Figures, format_args!("{} levels={}", running.guard().figures(), levels.join(",")));
    if let Some(ends_in_s) = figures.certificate_ends_in_s {
        say(Event::Figures, format_args!("certificates: first_ends_in_s={ends_in_s}"));
    }
    match Memory::of_this_process() {
        Ok(memory) => say(Event::Figures, memory),
        Err(error) => {
            let text = format_args!("memory is not known: {error}");
            log::say(Event::Figures, Level::Warn, &[], text);
        }
    }
}

/// Writes an `info` line.
fn say(event: Event, text: impl fmt::Display) {
    log::say(event, Level::Info, &[], format_args!("{text}"));
}

/// A line for each listener, and then the one that says that Petrel serves.
fn announce(running: &Running, listeners: &[Listener]) {
    for (listener, &address) in listeners.iter().zip(running.addresses()) {
        let fields = [
            ("listener", Value::Word(&listener.name)),
            ("protocol", Value::Word(listener.protocol.name())),
            ("address", Value::Shown(&address)),
        ];
        let shown = Listener { address, ..listener.clone() };
        let text = format_args!("listening for {shown}");
        log::say(Event::ListenerOpened, Level::Info, &fields, text);
        if !listener.allow_anonymous && listener.authentication.is_empty() {
            let text = format_args!(
                "nobody can connect to {address}: allow_anonymous is false there, and it names no \
                 authenticator in `authentication`"
            );
            let fields =
                [("listener", Value::Word(&listener.name)), ("address", Value::Shown(&address))];
            log::say(Event::ListenerUseless, Level::Warn, &fields, text);
        }
    }
    if let Some(url) = running.admin_url() {
        let text = format_args!("admin interface: {url}");
        log::say(Event::AdminInterface, Level::Info, &[("address", Value::Shown(&url))], text);
    }
    if running.is_forgetful() {
        let text = "storage: none, so nothing outlives the process; [storage] path names a folder";
        say(Event::Storage, text);
    }
    let (count, runtime) = (running.counters().count(), running.runtime());
    let fields = [("shards", Value::Number(count as u64)), ("runtime", Value::Shown(&runtime))];
    let text = format_args!("petrel ready: {}", shards(running));
    log::say(Event::BrokerReady, Level::Info, &fields, text);
}
