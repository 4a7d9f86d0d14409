//! From a configuration to a running broker, and to its end.
//!
//! The order is a rule: certificates are read and addresses are tried first, so that what the
//! operator got wrong is said before anything runs; then all shards are started; then, where each
//! gets a file table of its own, the tables part; only when all shards are ready do they open their
//! listeners, and only when all have do they serve.
//!
//! The tables part when everything that one thread may ever use to wake another is open: executors,
//! bells, the courier's sockets. After that a descriptor is used by the thread that opened it and by
//! no other.

mod end;
mod error;
mod seed;

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
#[cfg(feature = "admin")]
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use petrel_access::journal::Journal;
use petrel_access::scram::{self, Scram};
use petrel_access::{Notice, Office as Inquiries, Outside};
use petrel_mesh::{PostOffice, mesh};
use petrel_net::bucket::{Buckets, Rate};
use petrel_net::listener::{self, StartLock};
use petrel_net::tls::TicketSecret;
use petrel_net::{Bell, Protocol};
use petrel_shard::access::Rules;
use petrel_shard::level_hash::HashKey;
use petrel_shard::{Interest, Outbox, Shard, ShardConfig, ShardIndex, SlotMap};

pub use self::end::StopError;
pub use self::error::BootError;
use self::seed::{CALLED_OFF, Order, Place, Seed, wire_limits};
#[cfg(feature = "admin")]
use crate::admin::doors::Door;
#[cfg(feature = "admin")]
use crate::admin::{Admin, Source};
use crate::auth::AuthMethods;
use crate::certificates::Certificates;
use crate::config::{self, Config};
use crate::control::Control;
use crate::executor::{ShardThread, spawn};
use crate::figures::{Counters, Watch};
use crate::grace::Marks;
use crate::guard::Guard;
use crate::keeper::{self, Keeper};
use crate::log::{self, Event, Level};
use crate::memory::MemoryWatch;
use crate::preflight::{self, Runtime};
use crate::pump::load::ProcessLoad;
use crate::pump::{Clock, Command, LetsIn};
use crate::reins::Reins;
use crate::report::Names;
use crate::shards::{ShardHandle, Shards};
use crate::storage;
use crate::sys::SysTopics;
use crate::systemd;
use crate::trace::{self, Traces};
use crate::watchdog::{Pulse, Vigil, Watchdog, stuck_after};

/// How long all shards together may take to come up.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long another broker that starts on the same ports may take.
const START_LOCK_WITHIN: Duration = Duration::from_secs(5);

/// How long the last wills may take to be given away.
const LAST_WILLS_WITHIN: Duration = Duration::from_secs(2);

/// How long shards that stop may take before it is asked whether they have turns; twice what they need at most.
const END_WITHIN: Duration = Duration::from_secs(12);

/// A broker that runs.
pub struct Running {
    config: Config,
    certificates: Certificates,
    runtime: Runtime,
    tables: FdTables,
    addresses: Vec<SocketAddr>,
    shards: Vec<RunningShard>,
    handles: Shards,
    staff: Staff,
    reins: Arc<Reins>,
    traces: Arc<Traces>,
    control: Option<Control>,
    #[cfg(feature = "admin")]
    admin: Option<Admin>,
    /// Clients are let in.
    serves: Arc<AtomicBool>,
    sys: Option<SysTopics>,
    vigil: Arc<Vigil>,
    _watchdog: Watchdog,
    memory_watch: MemoryWatch,
    /// Outlives the shards, so that it is this thread's table in which it is closed last.
    _office: Option<PostOffice>,
}

/// Whose file table connections stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdTables {
    /// One for the process.
    Shared,
    /// One for each shard.
    PerShard,
}

/// Who works beside the shards.
struct Staff {
    keeper: Option<Keeper>,
    inquiries: Option<Inquiries>,
    /// What clients may do, as the shards have been told.
    rules: Mutex<Option<Arc<Rules>>>,
}

struct RunningShard {
    thread: ShardThread,
    handle: ShardHandle,
}

/// Starts a broker. It serves when this returns.
///
/// # Errors
/// What kept it from starting; nothing runs then.
pub fn start(config: Config, auth: &AuthMethods) -> Result<Running, BootError> {
    let secret = match &config.engine.ticket_secret {
        Some(file) => TicketSecret::from_file(file)?,
        None => TicketSecret::generate()?,
    };
    let certificates = Certificates::new(&config, secret);
    let mut turn = certificates.turn();
    let fresh = turn.read()?;
    let protocols = turn.take(fresh, |_, _| {});
    claim(&config)?;
    let (runtime, fallback) =
        preflight::runtime(config.engine.runtime).map_err(BootError::Refused)?;
    if let Some(sentence) = fallback {
        log::warn(sentence);
    }
    let tables = fd_tables(&config)?;
    let office = match tables {
        FdTables::Shared => None,
        FdTables::PerShard => {
            Some(PostOffice::open(config.shard_count()).map_err(BootError::Shard)?)
        }
    };
    let clock = Clock::start();
    let guard = Arc::new(Guard::new(config.guard_limits(), config.listeners.len()));
    let process_load = Arc::new(ProcessLoad::default());
    let memory_watch = MemoryWatch::start(config.memory_bytes(), Arc::clone(&process_load))
        .map_err(BootError::Shard)?;
    let (tracers, inbox) = trace::channel();
    let beside = Beside {
        runtime,
        office: office.as_ref(),
        auth,
        clock,
        guard: &guard,
        process_load: &process_load,
        tracers,
    };
    let (shards, orders, staff) = start_shards(&config, &beside)?;
    let slots = SlotMap::even(config.shard_count());
    let handles = Shards::new(shards.iter().map(|shard| shard.handle.clone()), slots);
    let traces = start_traces(&config, inbox, handles.clone(), clock)?;
    let reins = Reins::new(guard, Box::new(handles.clone()), clock, config.control_folder());
    let pulses = shards.iter().map(|shard| Arc::clone(&shard.handle.pulse)).collect();
    let vigil = Arc::new(Vigil::new(pulses, stuck_after(systemd::alive_within())));
    let watchdog = Watchdog::start(Arc::clone(&vigil)).map_err(BootError::Shard)?;
    let mut running = Running {
        addresses: Vec::new(),
        config,
        certificates,
        runtime,
        tables,
        shards,
        handles,
        staff,
        reins: Arc::new(reins),
        traces,
        control: None,
        #[cfg(feature = "admin")]
        admin: None,
        serves: Arc::default(),
        sys: None,
        vigil,
        _watchdog: watchdog,
        memory_watch,
        _office: office,
    };
    match claim_and_open(&running.config, &protocols, &orders) {
        Ok(addresses) => {
            running.addresses = addresses;
            running.control = open_control(&running);
            if let Err(error) = running.open_admin() {
                drop(orders);
                // They end because their start was called off, which is no news.
                let _ = running.join_all();
                return Err(error);
            }
            running.watch_certificates();
            for order in &orders {
                // A shard that ended meanwhile says why when it is joined.
                let _ = order.send(Order::Serve);
            }
            running.vigil.begin();
            running.serves.store(true, Ordering::Relaxed);
            running.speak_of_itself();
            Ok(running)
        }
        Err(error) => {
            drop(orders);
            // They end because their start was called off, which is no news.
            let _ = running.join_all();
            Err(error)
        }
    }
}

/// Opens the way by which `petrelctl` speaks to this process. Opened when the file tables have parted,
/// and used by its own thread only.
fn open_control(running: &Running) -> Option<Control> {
    let folder = running.config.control_folder()?;
    let viewer = running.staff.keeper.as_ref().map(Keeper::viewer);
    let made = if running.config.engine.control.is_some() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    } else {
        // The storage has made it.
        Ok(())
    };
    let opened = made.and_then(|()| Control::open(folder, viewer, Arc::clone(&running.reins)));
    // Messages are more important than backups.
    opened
        .inspect_err(|error| {
            let folder = folder.display();
            let text = format_args!("{folder}: petrelctl cannot reach this process: {error}");
            log::say(Event::AdminInterface, Level::Error, &[], text);
        })
        .ok()
}

/// Begins without recordings.
fn start_traces(
    config: &Config,
    inbox: trace::Inbox,
    shards: Shards,
    clock: Clock,
) -> Result<Arc<Traces>, BootError> {
    let listeners = config.listeners.iter().map(|listener| listener.name.clone()).collect();
    let traces = Traces::start(inbox, Box::new(shards), clock, listeners);
    traces.map(Arc::new).map_err(BootError::Shard)
}

/// Checks that the ports are free.
fn claim(config: &Config) -> Result<(), BootError> {
    for it in config.listeners.iter().filter(|it| it.address.port() != 0) {
        listener::claim(it.address).map_err(|error| BootError::Listen(it.address, error))?;
    }
    Ok(())
}

/// Opens the listeners while no other broker does the same on these ports.
fn claim_and_open(
    config: &Config,
    protocols: &[Protocol],
    orders: &Orders,
) -> Result<Vec<SocketAddr>, BootError> {
    let ports = config.listeners.iter().map(|it| it.address.port()).filter(|&port| port != 0);
    // Made after the file tables have parted, or a copy in another table would hold it for ever. One
    // that cannot be had within the time leaves things as they are without it.
    let _starting = StartLock::take(ports, START_LOCK_WITHIN).ok();
    claim(config)?;
    open_listeners(config, protocols, orders)
}

fn fd_tables(config: &Config) -> Result<FdTables, BootError> {
    let shards = config.shard_count();
    let (per_shard, fallback) =
        preflight::fd_tables(config.engine.fd_tables, shards).map_err(BootError::Refused)?;
    let files = preflight::open_files(shards, config.listeners.len(), per_shard)
        .map_err(BootError::Refused)?;
    for warning in fallback.into_iter().chain(files.warning()) {
        log::warn(warning);
    }
    Ok(if per_shard { FdTables::PerShard } else { FdTables::Shared })
}

impl Running {
    /// Listens for those who ask about the broker, if the configuration says where.
    #[cfg(feature = "admin")]
    fn open_admin(&mut self) -> Result<(), BootError> {
        let Some(config) = &self.config.admin else { return Ok(()) };
        let source = Source {
            watch: self.watch(),
            guard: Arc::clone(self.guard()),
            vigil: Arc::clone(&self.vigil),
            shards: self.handles.clone(),
            reins: Arc::clone(&self.reins),
            traces: Arc::clone(&self.traces),
            serves: Arc::clone(&self.serves),
            doors: self.doors(),
            storage: self.config.storage.path.clone(),
            runtime: self.runtime.to_string(),
            folder: self.control.as_ref().and(self.config.control_folder()).map(Path::to_owned),
        };
        let admin = Admin::start(config, source)
            .map_err(|error| BootError::Listen(config.address, error))?;
        self.admin = Some(admin);
        Ok(())
    }

    #[cfg(feature = "admin")]
    fn doors(&self) -> Vec<Door> {
        let all = self.config.listeners.iter().zip(&self.addresses);
        let door = |(listener, &address): (&config::Listener, &SocketAddr)| Door {
            // One that is called by its address is called by that which it got.
            name: match listener.name == listener.address.to_string() {
                true => address.to_string(),
                false => listener.name.clone(),
            },
            protocol: listener.protocol.name().to_owned(),
            address,
        };
        all.map(door).collect()
    }

    #[cfg(not(feature = "admin"))]
    fn open_admin(&mut self) -> Result<(), BootError> {
        match &self.config.admin {
            None => Ok(()),
            Some(_) => Err(BootError::Refused(
                "[admin] names an address, and this petrel was built without the feature `admin`"
                    .into(),
            )),
        }
    }

    /// Where the admin interface listens, if it does.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        #[cfg(feature = "admin")]
        return self.admin.as_ref().map(Admin::address);
        #[cfg(not(feature = "admin"))]
        return None;
    }

    /// How the URLs of the admin interface begin, if there is one.
    #[must_use]
    pub fn admin_url(&self) -> Option<String> {
        #[cfg(feature = "admin")]
        return self.admin.as_ref().map(Admin::url);
        #[cfg(not(feature = "admin"))]
        return None;
    }

    /// Where it listens, in the order of the configuration, with the ports that were taken.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What drives the shards.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// Whose file table connections stand in.
    #[must_use]
    pub const fn fd_tables(&self) -> FdTables {
        self.tables
    }

    /// Whether nothing outlives the process.
    #[must_use]
    pub const fn is_forgetful(&self) -> bool {
        self.staff.keeper.is_none()
    }

    /// What each shard counts.
    pub fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.shards.iter().map(|shard| &*shard.handle.counters)
    }

    /// How much each shard has to do: 0 to 3.
    pub fn levels(&self) -> impl Iterator<Item = u64> {
        self.counters().map(|counters| counters.level.load(Ordering::Relaxed))
    }

    /// Reads what all shards count, as long as one likes.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let shards = self.shards.iter().map(|shard| Arc::clone(&shard.handle.counters));
        Watch::new(shards, self.certificates.ends())
    }

    /// Who is banned, and what was refused for want of room.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        self.reins.guard()
    }

    /// What an operator may do to it.
    #[must_use]
    pub const fn reins(&self) -> &Arc<Reins> {
        &self.reins
    }

    /// Recordings of what happens to clients and topics.
    #[must_use]
    pub const fn traces(&self) -> &Arc<Traces> {
        &self.traces
    }

    /// Which shards have turns.
    #[must_use]
    pub const fn vigil(&self) -> &Arc<Vigil> {
        &self.vigil
    }

    /// Times that an executor had forgotten its pump; never above 0 unless something is broken.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.shards.iter().map(|shard| shard.handle.pulse.stalls()).sum()
    }

    /// Has certificates read again when their files change.
    fn watch_certificates(&mut self) {
        let shards: Vec<_> = self.shards.iter().map(|shard| shard.handle.clone()).collect();
        let give = move |index, protocol: &Protocol| {
            shards.iter().for_each(|it| it.tell(Command::SetProtocol(index, protocol.clone())));
        };
        if let Err(error) = self.certificates.watch(give) {
            let text = format_args!(
                "certificates are read again on SIGHUP only, since there is no thread to watch their \
                 files: {error}"
            );
            log::say(Event::Certificates, Level::Error, &[], text);
        }
    }

    /// Reads certificates, users and rules again. New connections get the new certificates, nobody is dropped;
    /// subscriptions that the rules no longer allow end.
    ///
    /// # Errors
    /// What is wrong with the files; then nothing has changed.
    pub fn reload(&self) -> Result<(), BootError> {
        let mut turn = self.certificates.turn();
        let fresh = turn.read()?;
        let checks = self.config.read_checks().map_err(BootError::Refused)?;
        let rules = self.config.read_rules().map_err(BootError::Refused)?;
        #[cfg(feature = "admin")]
        let admin = self.admin.as_ref().map(|admin| Ok((admin, admin.read()?)));
        #[cfg(feature = "admin")]
        let admin = admin.transpose().map_err(BootError::Refused)?;
        let scram = checks.scram();
        // The last that may fail; what follows is taken on.
        if let Some(inquiries) = &self.staff.inquiries {
            let set = inquiries.set_checks(checks);
            set.map_err(|error| BootError::Refused(error.to_string()))?;
        }
        #[cfg(feature = "admin")]
        if let Some((admin, files)) = admin {
            admin.take(files);
        }
        for shard in &self.shards {
            shard.handle.tell(Command::SetScram(scram.clone()));
        }
        let mut told = self.staff.rules.lock().unwrap_or_else(PoisonError::into_inner);
        // What was decided by the same rules need not be decided again.
        if self.config.access.rules.is_some() && *told != rules {
            for shard in &self.shards {
                shard.handle.tell(Command::SetRules(rules.clone()));
            }
            *told = rules;
        }
        turn.take(fresh, |index, protocol| {
            for shard in &self.shards {
                shard.handle.tell(Command::SetProtocol(index, protocol.clone()));
            }
        });
        Ok(())
    }

    /// The same, and takes on what it can of another configuration. Returns the names of what needs a restart.
    ///
    /// # Errors
    /// What is wrong with the files that it names; then nothing has changed.
    pub fn reload_with(&mut self, new: &Config) -> Result<Vec<String>, BootError> {
        let (taken, left) = self.config.taking_on(new);
        self.reload()?;
        self.guard().set_limits(taken.guard_limits());
        log::apply(&taken.log);
        self.memory_watch.set_bound(taken.memory_bytes());
        for shard in &self.shards {
            shard.handle.tell(Command::SetRate(taken.rate));
            shard.handle.tell(Command::SetLimits(Box::new(taken.limits.clone())));
        }
        self.config = taken;
        self.speak_of_itself();
        Ok(left)
    }

    /// Publishes under `$SYS` as often as the configuration says.
    fn speak_of_itself(&mut self) {
        let interval_s = self.config.sys.interval_s;
        if let Some(sys) = &self.sys {
            return sys.set_interval(interval_s);
        }
        if interval_s == 0 {
            return;
        }
        let started = SysTopics::start(self.watch(), self.handles.clone(), interval_s);
        // Messages of clients are more important.
        self.sys = started
            .inspect_err(|error| {
                log::error(format_args!("nothing is published under $SYS: {error}"))
            })
            .ok();
    }

    /// Takes leave of all clients and ends. Returns within some seconds whatever they do.
    ///
    /// # Errors
    /// A shard had ended before its time, or does not end.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.serves.store(false, Ordering::Relaxed);
        self.sys = None;
        if let Some(control) = self.control.take() {
            control.close();
        }
        let (given_away, all) = mpsc::channel();
        for shard in &self.shards {
            shard.handle.tell(Command::LastWills(given_away.clone()));
        }
        drop(given_away);
        let deadline = Instant::now() + LAST_WILLS_WITHIN;
        let left = || deadline.saturating_duration_since(Instant::now());
        // A shard that does not answer in time has other worries than wills.
        while all.recv_timeout(left()).is_ok() {}
        for shard in &self.shards {
            shard.handle.tell(Command::Stop);
        }
        self.join_all()
    }

    fn join_all(self) -> Result<(), StopError> {
        self.certificates.stop();
        let threads = self.shards.into_iter().map(|shard| shard.thread).collect();
        let result = end::join(threads, &self.vigil, END_WITHIN);
        if let Err(StopError::Stuck(_)) = result {
            // Lanes wait for what the shard might still give them.
            return result;
        }
        if let Some(inquiries) = self.staff.inquiries {
            inquiries.stop();
        }
        if let Some(keeper) = self.staff.keeper {
            keeper.stop();
        }
        result
    }
}

/// What listeners are called, and those whom they ask.
fn names(config: &Config) -> Names {
    let authenticators = |listener: &config::Listener| {
        let of = |&at: &usize| config.authenticators.get(at).map(|it| it.name.clone());
        listener.authentication.iter().map(|at| of(at).unwrap_or_default()).collect()
    };
    let of = |listener: &config::Listener| (listener.name.clone(), authenticators(listener));
    Names { listeners: config.listeners.iter().map(of).collect() }
}

/// Whom a listener lets in.
const fn lets_in(listener: &config::Listener) -> LetsIn {
    LetsIn { anonymous: listener.allow_anonymous, asks: !listener.authentication.is_empty() }
}

type Orders = Vec<mpsc::Sender<Order>>;

/// What shards are started with, beside the configuration.
struct Beside<'a> {
    runtime: Runtime,
    office: Option<&'a PostOffice>,
    auth: &'a AuthMethods,
    clock: Clock,
    guard: &'a Arc<Guard>,
    process_load: &'a Arc<ProcessLoad>,
    tracers: trace::Ends,
}

fn start_shards(
    config: &Config,
    beside: &Beside<'_>,
) -> Result<(Vec<RunningShard>, Orders, Staff), BootError> {
    let &Beside { runtime, office, auth, clock, guard, process_load, ref tracers } = beside;
    let count = config.shard_count();
    let bells: io::Result<Vec<Arc<Bell>>> =
        (0..count).map(|_| Ok(Arc::new(Bell::new()?))).collect();
    let bells: Arc<[Arc<Bell>]> = bells.map_err(BootError::Shard)?.into();
    let opened = open_storage(config, clock)?;
    let hash_key = match &opened {
        Some(opened) => opened.hash_key,
        None => [random()?, random()?],
    };
    let access = config.shard_access(config.read_rules().map_err(BootError::Refused)?);
    let rules = Mutex::new(access.rules.clone());
    let interest = Arc::new(Interest::new(HashKey::new(hash_key)));
    let slots = SlotMap::even(count);
    let checks = config.read_checks().map_err(BootError::Refused)?;
    let users = checks.scram();
    let has_scram = users.iter().any(Option::is_some);
    let mut methods = auth.names();
    methods.extend(has_scram.then(|| scram::METHOD.to_owned()));
    let mut minds = Vec::new();
    for index in 0..count {
        let config = ShardConfig {
            index: ShardIndex(index),
            slots: slots.clone(),
            limits: config.limits.clone(),
            auth_methods: methods.clone(),
            access: access.clone(),
            seed: random()?,
            hash_key,
            keeping: opened.as_ref().map(|opened| opened.keeping),
        };
        minds.push(Shard::new(config, Arc::clone(&interest)));
    }
    let (begun, mut ends, keeper) = match opened {
        None => (minds.iter().map(|_| Outbox::new()).collect(), Vec::new(), None),
        Some(mut opened) => {
            let begun = restore(config, &mut opened, &mut minds, &slots, clock)?;
            let (keeper, ends) =
                keeper::start(opened.lanes, &bells, opened.sync_every, &opened.room, process_load)
                    .map_err(BootError::Shard)?;
            (begun, ends, Some(keeper))
        }
    };
    ends.reverse();
    let mut desks = Vec::new().into_iter();
    let mut inquiries = None;
    if config.listeners.iter().any(|listener| !listener.authentication.is_empty()) {
        let settings = config.check_settings();
        let (office, all) =
            Inquiries::start(settings, checks, &bells, outside()).map_err(BootError::Shard)?;
        (inquiries, desks) = (Some(office), all.into_iter());
    }
    let names = Arc::new(names(config));
    let mut minds = minds.into_iter().zip::<Vec<Outbox>>(begun);
    let marks = Marks::new(count);
    let buckets = buckets(config);
    let cores = cores(count);
    let mut readies = Vec::new();
    let mut shards = Vec::new();
    let mut orders = Vec::new();
    for (index, mut mesh) in mesh(&bells).into_iter().enumerate() {
        let shard = ShardIndex(index as u16);
        if let Some(office) = office {
            mesh.set_courier(office.courier(shard));
        }
        let (commands, received) = crossbeam_channel::unbounded();
        let (order, ordered) = mpsc::channel();
        let (ready, readied) = mpsc::channel();
        let handle = ShardHandle {
            commands,
            bell: Arc::clone(&bells[index]),
            counters: Arc::new(Counters::default()),
            pulse: Arc::new(Pulse::default()),
        };
        let Some((mind, begun)) = minds.next() else { break };
        let seed = Seed {
            index: shard,
            slots: slots.clone(),
            mind,
            begun,
            storage: ends.pop(),
            limits: wire_limits(config),
            buckets: buckets.clone(),
            guard: Arc::clone(guard),
            rate: config.rate,
            process_load: Arc::clone(process_load),
            own_table: office.is_some(),
            kept_in: config.storage.path.clone(),
            mesh,
            mark: marks.of(ShardIndex(index as u16)),
            commands: received,
            handle: handle.clone(),
            lets_in: config.listeners.iter().map(lets_in).collect(),
            names: Arc::clone(&names),
            desk: desks.next(),
            auth: auth.clone(),
            scram: match has_scram {
                true => Some(Scram::new(users.clone(), hash_key)),
                false => None,
            },
            clock,
            tracer: tracers.of(shard),
        };
        let name = format!("shard-{index}");
        let build = move || seed.grow(&ready, &ordered);
        let thread =
            spawn(runtime, &name, cores.get(index).copied(), build).map_err(BootError::Shard)?;
        shards.push(RunningShard { thread, handle });
        orders.push(order);
        readies.push(readied);
    }
    for order in &orders {
        // A shard that has ended already is found below.
        let _ = order.send(Order::Prepare);
    }
    let deadline = Instant::now() + READY_WITHIN;
    for ready in readies {
        let left = deadline.saturating_duration_since(Instant::now());
        if ready.recv_timeout(left).is_err() {
            drop(orders);
            return Err(BootError::Shard(first_failure(shards)));
        }
    }
    Ok((shards, orders, Staff { keeper, inquiries, rules }))
}

fn open_storage(config: &Config, clock: Clock) -> Result<Option<storage::Opened>, BootError> {
    let fresh = [random()?, random()?];
    let elapsed = Duration::from_millis(clock.now().mono_ms);
    let path = config.storage.path.clone().unwrap_or_default();
    storage::open(&config.storage, fresh, elapsed).map_err(|error| BootError::Storage(path, error))
}

/// Brings back what was kept. Returns what the shards want done before they serve.
fn restore(
    config: &Config,
    opened: &mut storage::Opened,
    minds: &mut [Shard],
    slots: &SlotMap,
    clock: Clock,
) -> Result<Vec<Outbox>, BootError> {
    let path = config.storage.path.clone().unwrap_or_default();
    let begun_at = Instant::now();
    let alive = std::mem::take(&mut opened.alive);
    let lanes = &mut opened.lanes;
    let restored = petrel_storage::restore_on_threads(lanes, alive, minds, slots, clock.now())
        .map_err(|error| BootError::Storage(path.clone(), error))?;
    let finish = |mind: &mut Shard| {
        let mut out = Outbox::new();
        mind.finish_restore(clock.now(), &mut out);
        out
    };
    let outboxes = std::thread::scope(|scope| {
        let threads: Vec<_> =
            minds.iter_mut().map(|mind| scope.spawn(move || finish(mind))).collect();
        let end = |thread: std::thread::ScopedJoinHandle<'_, Outbox>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(end).collect()
    });
    let text = format_args!(
        "storage in {}: {} sessions, {} subscriptions and {} retained messages are back after {} ms",
        path.display(),
        restored.sessions,
        restored.subscriptions,
        restored.retained,
        begun_at.elapsed().as_millis()
    );
    log::say(Event::Storage, Level::Info, &[], text);
    Ok(outboxes)
}

/// What kept a shard from coming up. Joins only threads that are ending: those that failed, and
/// those whose start is called off, which is no news.
fn first_failure(shards: Vec<RunningShard>) -> io::Error {
    let called_off = |error: &io::Error| error.to_string() == CALLED_OFF;
    let mut failed = shards.into_iter().filter_map(|shard| shard.thread.join().err());
    failed.find(|error| !called_off(error)).unwrap_or_else(|| io::ErrorKind::TimedOut.into())
}

/// What limits how often one address may connect, if the configuration wants that.
fn buckets(config: &Config) -> Option<Arc<Buckets>> {
    let rate = Rate {
        per_s: config.network.source_connections_per_s,
        burst: config.network.source_connections_burst,
    };
    (rate.per_s > 0).then(|| Arc::new(Buckets::new(rate)))
}

/// One core per shard, or none at all if there are more shards than cores: then the scheduler of
/// the system does better than a fixed choice.
fn cores(shards: u16) -> Vec<core_affinity::CoreId> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if usize::from(shards) <= cores.len() { cores } else { Vec::new() }
}

/// Has every shard open every listener; the first decides on the ports that are free to choose.
fn open_listeners(
    config: &Config,
    protocols: &[Protocol],
    orders: &Orders,
) -> Result<Vec<SocketAddr>, BootError> {
    let gone = || BootError::Shard(io::Error::other("a shard ended before it could listen"));
    let mut addresses: Vec<SocketAddr> = config.listeners.iter().map(|it| it.address).collect();
    for order in orders {
        let kinds = config.listeners.iter().zip(protocols);
        let place =
            |(address, (listener, protocol)): (&SocketAddr, (&config::Listener, &Protocol))| {
                let (protocol, proxies) = (protocol.clone(), listener.security.proxies.clone());
                Place { address: *address, protocol, proxies }
            };
        let listeners = addresses.iter().zip(kinds).map(place).collect();
        let (opened, answer) = mpsc::channel();
        order.send(Order::Listen(listeners, opened)).map_err(|_| gone())?;
        addresses = answer
            .recv()
            .map_err(|_| gone())?
            .map_err(|(address, error)| BootError::Listen(address, error))?;
    }
    Ok(addresses)
}

/// What those who ask elsewhere write to and go by.
fn outside() -> Outside {
    let journal = Journal::new(|notice| match notice {
        Notice::Info(text) => {
            log::say(Event::Authenticator, Level::Info, &[], format_args!("{text}"));
        }
        Notice::Warn(text) => {
            log::say(Event::Authenticator, Level::Warn, &[], format_args!("{text}"));
        }
    });
    Outside { journal, ..Outside::default() }
}

fn random() -> Result<u64, BootError> {
    getrandom::u64().map_err(|_| BootError::Random)
}
