//! How the process speaks to its shards, from any thread.
//!
//! What is asked is looked up by the shard itself between two of its turns' inputs, one question in a turn, so
//! that no question holds up more than one turn, and by no more than the question takes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use petrel_net::{Bell, Link, Wire};
use petrel_proto::{Publish, ReasonCode};
use petrel_shard::{ConnId, Input, Now, Outbox, Shard, ShardIndex, SlotMap};

use crate::figures::Counters;
use crate::guard::Target;
use crate::pump::held::Held;
use crate::pump::history::History;
use crate::pump::{Command, key_of};
use crate::reins::Tell;
use crate::trace::{TellWatch, Watch};
use crate::watchdog::Pulse;

/// How long a shard may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// How the process speaks to one shard.
#[derive(Debug, Clone)]
pub(crate) struct ShardHandle {
    pub(crate) commands: Sender<Command>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pulse: Arc<Pulse>,
}

impl ShardHandle {
    pub(crate) fn tell(&self, command: Command) {
        // A shard that has ended needs no telling.
        if self.commands.send(command).is_ok() {
            self.bell.ring();
        }
    }
}

/// What a question sees of a shard.
pub struct View<'a> {
    /// Which shard it is.
    pub index: ShardIndex,
    /// The shard.
    pub shard: &'a Shard,
    /// Where its inputs are handled.
    pub out: &'a Outbox,
    /// The time.
    pub now: Now,
    /// Its sockets.
    pub wire: &'a Wire,
    /// What happened to its clients lately.
    pub history: &'a History,
    /// Connections that are not read for now.
    pub held: &'a Held,
}

impl View<'_> {
    /// Where a connection comes from, and by which way.
    #[must_use]
    pub fn link(&self, conn: ConnId) -> Option<Link> {
        self.wire.link(key_of(conn))
    }

    /// Why a connection is not read for now, if it is not.
    #[must_use]
    pub fn why_held(&self, conn: ConnId) -> Option<&'static str> {
        let key = key_of(conn);
        if self.wire.is_paused(key) {
            return Some(self.held.why(key).unwrap_or("the broker has more to do than it can"));
        }
        self.wire.is_choked(key).then_some("it does not read what it is sent")
    }
}

/// A question to a shard, which takes its answer along.
pub struct Look(Box<dyn FnOnce(&View<'_>) + Send>);

impl Look {
    /// Has the question answered.
    pub(crate) fn answer(self, view: &View<'_>) {
        (self.0)(view);
    }
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// A shard has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered(pub usize);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shard, seconds) = (self.0, ANSWERED_WITHIN.as_secs());
        write!(
            f,
            "shard {shard} has not answered within {seconds} seconds: it is stuck, or the broker stops"
        )
    }
}

/// All shards of a broker.
#[derive(Debug, Clone)]
pub struct Shards {
    handles: Arc<[ShardHandle]>,
    slots: SlotMap,
}

impl Shards {
    pub(crate) fn new(handles: impl Iterator<Item = ShardHandle>, slots: SlotMap) -> Self {
        Self { handles: handles.collect(), slots }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// Where a client identifier, or a topic, is at home.
    #[must_use]
    pub fn home_of(&self, name: &[u8]) -> usize {
        self.slots.home_of(name).0.into()
    }

    /// Signs of life of each.
    pub fn pulses(&self) -> impl Iterator<Item = &Arc<Pulse>> {
        self.handles.iter().map(|handle| &handle.pulse)
    }

    pub(crate) fn tell(&self, shard: usize, command: Command) {
        if let Some(handle) = self.handles.get(shard) {
            handle.tell(command);
        }
    }

    pub(crate) fn tell_all(&self, command: impl Fn() -> Command) {
        self.handles.iter().for_each(|handle| handle.tell(command()));
    }

    /// Gives one an input.
    pub fn feed(&self, shard: usize, input: Input) {
        self.tell(shard, Command::Feed(Box::new(input)));
    }

    /// Has a message published that no client has sent, by the home of its topic.
    pub fn publish(&self, publish: Publish) {
        let home = self.home_of(publish.topic.as_bytes());
        self.tell(home, Command::Publish(Box::new(publish), None));
    }

    /// The same, and waits for what has become of it: see [`Shard::publish_own`].
    ///
    /// # Errors
    /// The shard does not answer.
    pub fn publish_and_see(&self, publish: Publish) -> Result<ReasonCode, Unanswered> {
        let home = self.home_of(publish.topic.as_bytes());
        let (answer, answered) = bounded(1);
        self.tell(home, Command::Publish(Box::new(publish), Some(answer)));
        answered.recv_timeout(ANSWERED_WITHIN).map_err(|_| Unanswered(home))
    }

    /// Asks one, and waits for what it says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask<T: Send + 'static>(
        &self,
        shard: usize,
        look: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = bounded(1);
        let look = move |view: &View<'_>| {
            // Whoever asked may have lost patience.
            let _ = answer.send(look(view));
        };
        self.tell(shard, Command::Look(Look(Box::new(look))));
        answered.recv_timeout(ANSWERED_WITHIN).map_err(|_| Unanswered(shard))
    }

    /// Asks all of them, one after the other.
    ///
    /// # Errors
    /// One does not answer.
    pub fn ask_all<T: Send + 'static>(
        &self,
        look: impl Fn(&View<'_>) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Unanswered> {
        (0..self.count()).map(|shard| self.ask(shard, look.clone())).collect()
    }
}

impl Tell for Shards {
    fn ban(&self, target: &Target) {
        self.tell_all(|| Command::Ban(target.clone()));
    }
}

impl TellWatch for Shards {
    fn watch(&self, watch: Option<Watch>) {
        self.tell_all(|| Command::Watch(watch.clone()));
    }
}

/// An address as people write it: one of IPv4 looks the same whichever socket it came in by.
#[must_use]
pub fn written(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}
