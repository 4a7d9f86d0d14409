//! How a shard comes up, on its own thread and step by step.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use petrel_access::Desk;
use petrel_access::scram::Scram;
use petrel_mesh::MeshEnd;
use petrel_net::bucket::Buckets;
use petrel_net::proxy::Proxies;
use petrel_net::{Listener, Protocol, ShutOut, Wire, WireLimits};
use petrel_shard::{Outbox, Shard, ShardIndex, SlotMap};

use super::ShardHandle;
use crate::auth::AuthMethods;
use crate::config::Config;
use crate::grace::OwnMark;
use crate::guard::Guard;
use crate::keeper::StorageEnd;
use crate::log;
use crate::preflight;
use crate::pump::load::ProcessLoad;
use crate::pump::rate::PublishRate;
use crate::pump::{Clock, Command, LetsIn, Parts, Pump};
use crate::report::Names;
use crate::trace::Tracer;

/// What a shard that comes up is told, in this order. The end of the channel calls it off.
pub(super) enum Order {
    /// All shards have their threads: make what is this shard's own.
    Prepare,
    /// Open these listeners, and say on which addresses.
    Listen(Vec<Place>, mpsc::Sender<Opened>),
    /// Begin.
    Serve,
}

/// A listener as each shard opens it.
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) proxies: Option<Arc<Proxies>>,
}

/// The addresses of a shard's listeners, or which could not be opened.
pub(super) type Opened = Result<Vec<SocketAddr>, (SocketAddr, io::Error)>;

pub(super) const CALLED_OFF: &str = "the start was called off";

/// Everything that a shard's thread needs to build its pump.
pub(super) struct Seed {
    pub(super) index: ShardIndex,
    pub(super) slots: SlotMap,
    pub(super) mind: Shard,
    /// What the shard wants done before it serves.
    pub(super) begun: Outbox,
    pub(super) storage: Option<StorageEnd>,
    pub(super) limits: WireLimits,
    /// One for all shards.
    pub(super) buckets: Option<Arc<Buckets>>,
    pub(super) guard: Arc<Guard>,
    pub(super) rate: PublishRate,
    pub(super) process_load: Arc<ProcessLoad>,
    /// The thread gets a file table of its own.
    pub(super) own_table: bool,
    /// The folder whose files are the lanes'.
    pub(super) kept_in: Option<PathBuf>,
    pub(super) mesh: MeshEnd,
    pub(super) mark: OwnMark,
    pub(super) commands: crossbeam_channel::Receiver<Command>,
    pub(super) handle: ShardHandle,
    pub(super) lets_in: Vec<LetsIn>,
    pub(super) names: Arc<Names>,
    pub(super) desk: Option<Desk>,
    pub(super) auth: AuthMethods,
    pub(super) scram: Option<Scram>,
    pub(super) clock: Clock,
    pub(super) tracer: Tracer,
}

impl Seed {
    /// Builds the pump on its own thread, step by step as ordered.
    pub(super) fn grow(
        self,
        ready: &mpsc::Sender<()>,
        orders: &mpsc::Receiver<Order>,
    ) -> io::Result<Pump> {
        let called_off = || io::Error::other(CALLED_OFF);
        let Ok(Order::Prepare) = orders.recv() else { return Err(called_off()) };
        if self.own_table {
            preflight::own_fd_table()?;
            // It costs room on the disk at worst.
            if let Some(Err(error)) = self.kept_in.as_deref().map(preflight::let_go_of) {
                log::warn(format_args!("files of the store stay open in a shard: {error}"));
            }
        }
        let now_ms = self.clock.now().mono_ms;
        let mut wire = Wire::new(self.limits, Arc::clone(&self.handle.bell), now_ms)?;
        if let Some(buckets) = self.buckets {
            wire.limit_sources(buckets);
        }
        let guard = Arc::clone(&self.guard);
        wire.set_shut_out(ShutOut(Arc::new(move |address, now_ms| {
            guard.shuts_out(address, now_ms)
        })));
        let parts = Parts {
            index: self.index,
            slots: self.slots,
            wire,
            mesh: self.mesh,
            bell: self.handle.bell,
            commands: self.commands,
            lets_in: self.lets_in,
            names: self.names,
            desk: self.desk,
            auth: self.auth,
            scram: self.scram,
            guard: self.guard,
            rate: self.rate,
            process_load: self.process_load,
            counters: self.handle.counters,
            mark: self.mark,
            pulse: self.handle.pulse,
            clock: self.clock,
            storage: self.storage,
            tracer: self.tracer,
            begun: self.begun,
        };
        let mut pump = Pump::new(self.mind, parts);
        ready.send(()).map_err(|_| called_off())?;
        loop {
            match orders.recv().map_err(|_| called_off())? {
                Order::Prepare => {}
                Order::Listen(listeners, opened) => {
                    // Whoever asked may have given up meanwhile, and then calls it off.
                    let _ = opened.send(listen(pump.wire_mut(), listeners));
                }
                Order::Serve => return Ok(pump),
            }
        }
    }
}

/// Opens the listeners of one shard, on its own thread.
fn listen(wire: &mut Wire, listeners: Vec<Place>) -> Opened {
    let open = |(index, place): (usize, Place)| {
        let Place { address, protocol, proxies } = place;
        let opened = Listener::open(address, protocol, index as u16).and_then(|mut listener| {
            if let Some(proxies) = proxies {
                listener = listener.with_proxies(proxies);
            }
            let bound = listener.local_address()?;
            wire.listen(listener)?;
            Ok(bound)
        });
        opened.map_err(|error| (address, error))
    };
    listeners.into_iter().enumerate().map(open).collect()
}

pub(super) fn wire_limits(config: &Config) -> WireLimits {
    let ms = |seconds: u32| u64::from(seconds) * 1000;
    WireLimits {
        packet_bytes_max: config.limits.maximum_packet_size_bytes,
        connect_timeout_ms: ms(config.network.connect_timeout_s),
        handshake_timeout_ms: ms(config.network.handshake_timeout_s),
        packet_timeout_ms: ms(config.network.packet_timeout_s),
        write_timeout_ms: ms(config.network.write_timeout_s),
        handshakes_max: config.network.handshakes_in_flight_maximum as usize,
        read_stop_bytes: 2 * config.limits.outgoing_bytes_maximum as usize,
    }
}
