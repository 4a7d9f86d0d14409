//! Shards with rings between them, a virtual clock and clients that speak bytes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use petrel_proto::{
    Connect, DecodeError, Frame, Packet, Publish, ReasonCode, TopicName, Version, connect_version,
    decode, encode, frame,
};
use petrel_shard::access::Rules;
use petrel_shard::input::{Counted, Loaded, Run, Waits};
use petrel_shard::level_hash::HashKey;
use petrel_shard::outbox::{Count, Load};
use petrel_shard::record::{
    DeliveryRecord, Incarnation, Record, SessionRecord, Stored, SubscriptionRecord,
};
use petrel_shard::{
    Access, Author, Banned, Census, ConnId, DropReason, Drops, Event, Input, Interest, Keeping,
    Ledger, Limits, Losses, Message, Now, Origin, Outbox, PeerMessage, Question, Shard,
    ShardConfig, ShardIndex, Slot, SlotMap, Subject, Traced, Verdict, Watched, refusal,
};

use crate::packets::{IntoPacket, Shape, message, v5};
use crate::peer::Peer;

const HASH_KEY: [u64; 2] = [7, 11];

/// A client of a [`Net`]; a connection, not a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(usize);

/// The broker without its sockets. Dropping it checks that nothing is left behind.
pub struct Net {
    pub events: Vec<Event>,
    /// What was said to those who watch, with the shard.
    pub traced: Vec<(u16, Traced)>,
    /// How much was not said.
    pub untraced: u64,
    drops: Drops,
    pub questions: Vec<Question>,
    pub limits: Limits,
    pub slots: SlotMap,
    pub allow_anonymous: bool,
    pub authenticates: bool,
    /// Where those who connect come from.
    pub address_of_new: std::net::IpAddr,
    /// Taken by the shards of the next process.
    pub access: Access,
    shards: Vec<Shard>,
    interest: Arc<Interest>,
    /// By sender, then receiver.
    rings: Vec<Vec<VecDeque<PeerMessage>>>,
    clients: Vec<Peer>,
    by_conn: HashMap<(u16, ConnId), usize>,
    now_ms: u64,
    /// What [`Net::finish`] has to clean up: sessions and retained messages.
    client_ids: HashSet<String>,
    retained: HashSet<String>,
    stopped: bool,
    kept: bool,
    /// Which process it is.
    epoch: u32,
    /// What is recorded and not kept yet: shards, and positions of their records.
    recorded: VecDeque<(u16, u64)>,
    /// What waits, by incarnation and place, as records say.
    waiting: BTreeMap<(Incarnation, u64), Option<DeliveryRecord>>,
    /// Questions for it.
    loads: VecDeque<(u16, Load)>,
    /// The last turn has recorded something that is waited for, so that it is kept for good.
    pub is_urgent: bool,
    /// How many questions for retained messages have left, in all.
    pub retained_asked: usize,
    /// Questions for how much of it there is, and whether nobody answers them for now.
    counts: VecDeque<(u16, Count)>,
    pub holds_counts: bool,
    /// What else the records say.
    records: Records,
    /// By shard, what sessions have lost, and what was refused.
    lost: Vec<(Losses, Losses)>,
}

/// What comes back after a restart, beside what waits.
#[derive(Default)]
struct Records {
    sessions: BTreeMap<Incarnation, SessionRecord>,
    subscriptions: BTreeMap<(Incarnation, String), SubscriptionRecord>,
    retained: BTreeMap<TopicName, (Arc<Message>, Option<Arc<Author>>)>,
}

impl Records {
    fn note(&mut self, record: Record) {
        match record {
            Record::Session(session) => {
                self.sessions.insert(session.incarnation, *session);
            }
            Record::Ended { incarnation } => {
                self.sessions.remove(&incarnation);
                self.subscriptions.retain(|(of, _), _| *of != incarnation);
            }
            Record::Subscribed(subscription) => {
                let filter = subscription.filter.text().as_str().to_owned();
                self.subscriptions.insert((subscription.incarnation, filter), *subscription);
            }
            Record::Unsubscribed { incarnation, filter } => {
                self.subscriptions.remove(&(incarnation, filter.text().as_str().to_owned()));
            }
            Record::Retained(message, author) => {
                self.retained.insert(message.topic.clone(), (message, author));
            }
            Record::Cleared(topic) => {
                self.retained.remove(&topic);
            }
            _ => {}
        }
    }
}

/// Runs a test on one shard and on three.
pub fn across(test: impl Fn(&mut Net)) {
    across_with(|_| {}, test);
}

/// Runs a test on one shard and on three, with limits of its own, each without storage and with storage
/// that keeps everything only when nothing else is left to do.
pub fn across_with(limits: impl Fn(&mut Limits), test: impl Fn(&mut Net)) {
    for (shards, kept) in [(1, false), (3, false), (1, true), (3, true)] {
        test(&mut Net::keeping(shards, kept, &limits));
    }
}

/// Runs a test in MQTT 3.1.1 and in MQTT 5, each on one shard and on three.
pub fn versions(test: impl Fn(&mut Net, Version)) {
    for version in [Version::V3_1_1, Version::V5] {
        across(|net| test(net, version));
    }
}

impl Net {
    pub fn new(shards: u16) -> Self {
        Self::with(shards, |_| {})
    }

    pub fn with(shards: u16, change: impl FnOnce(&mut Limits)) -> Self {
        Self::keeping(shards, false, change)
    }

    pub fn keeping(shards: u16, kept: bool, change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let slots = SlotMap::even(shards);
        let interest = Arc::new(Interest::new(HashKey::new(HASH_KEY)));
        let ring_row = || (0..shards).map(|_| VecDeque::new()).collect();
        let mut net = Self {
            events: Vec::new(),
            traced: Vec::new(),
            untraced: 0,
            drops: Drops::default(),
            questions: Vec::new(),
            allow_anonymous: true,
            authenticates: false,
            address_of_new: [127, 0, 0, 1].into(),
            access: Access::default(),
            shards: Vec::new(),
            rings: (0..shards).map(|_| ring_row()).collect(),
            clients: Vec::new(),
            by_conn: HashMap::new(),
            now_ms: 1_000,
            client_ids: HashSet::new(),
            retained: HashSet::new(),
            stopped: false,
            kept,
            epoch: 1,
            recorded: VecDeque::new(),
            waiting: BTreeMap::new(),
            loads: VecDeque::new(),
            counts: VecDeque::new(),
            holds_counts: false,
            is_urgent: false,
            retained_asked: 0,
            records: Records::default(),
            lost: (0..shards).map(|_| Default::default()).collect(),
            interest,
            slots,
            limits,
        };
        net.shards = net.new_shards();
        net
    }

    /// Empty shards of a process.
    fn new_shards(&self) -> Vec<Shard> {
        let epoch = self.epoch;
        let shard = |index| {
            let config = ShardConfig {
                index: ShardIndex(index),
                slots: self.slots.clone(),
                limits: self.limits.clone(),
                auth_methods: vec!["TEST".to_owned()],
                access: self.access.clone(),
                seed: 42 + u64::from(index),
                hash_key: HASH_KEY,
                keeping: self.kept.then_some(Keeping { epoch, lanes: 2 }),
            };
            Shard::new(config, Arc::clone(&self.interest))
        };
        (0..self.slots.shards()).map(shard).collect()
    }

    /// The process ends with everything kept that was recorded, and another goes on.
    pub fn restart(&mut self) {
        for client in &mut self.clients {
            client.open = false;
        }
        self.rings.iter_mut().flatten().for_each(VecDeque::clear);
        self.recorded.clear();
        self.loads.clear();
        self.counts.clear();
        // The receipts are kept too.
        self.waiting.values_mut().flatten().for_each(|waiting| waiting.provided = None);
        self.interest = Arc::new(Interest::new(HashKey::new(HASH_KEY)));
        self.epoch += 1;
        self.shards = self.new_shards();
        let now = Now { mono_ms: self.now_ms };
        let home = |slot| usize::from(self.slots.home(slot).0);
        for session in self.records.sessions.values() {
            let shard = &mut self.shards[home(session.incarnation.slot())];
            shard.restore_session(now, session.clone());
        }
        for subscription in self.records.subscriptions.values() {
            let shard = &mut self.shards[home(subscription.incarnation.slot())];
            shard.restore_subscription(subscription);
        }
        for (message, author) in self.records.retained.values() {
            let shard = &mut self.shards[home(Slot::of(message.topic.as_bytes()))];
            let author = author.as_deref().map(|author| Author::kept(author.as_bytes()).unwrap());
            shard.restore_retained(now, Message::clone(message), author.as_ref());
        }
        for shard in 0..self.shards.len() {
            let mut out = Outbox::new();
            self.shards[shard].finish_restore(now, &mut out);
            self.carry_out(shard as u16, out);
        }
        self.run();
    }

    /// A session that is kept and of which the shards do not know, as a repair may leave it. It is older
    /// than all others.
    pub fn find_after_restart(&mut self, change: impl FnOnce(&mut SessionRecord)) {
        let first = self.records.sessions.values().next().expect("a session is kept");
        let mut found = first.clone();
        change(&mut found);
        found.incarnation = Incarnation::new(0, Slot::of(found.client_id.as_bytes()), 1);
        self.records.sessions.insert(found.incarnation, found);
    }

    /// A text that starts with `stem` and whose home is that shard.
    pub fn on(&self, shard: u16, stem: &str) -> String {
        let candidates = (0..).map(|number| format!("{stem}{number}"));
        let home = |text: &String| self.slots.home_of(text.as_bytes()) == ShardIndex(shard);
        candidates.into_iter().find(home).unwrap()
    }

    /// Connects, runs, and leaves the answer to be received.
    pub fn connect(&mut self, connect: Connect) -> Client {
        let home = self.slots.home_of(connect.client_id.as_bytes());
        self.connect_at(home.0, connect)
    }

    /// The same, accepted by a shard of choice if the client identifier is empty.
    pub fn connect_at(&mut self, shard: u16, connect: Connect) -> Client {
        let client = self.connect_pipelined(shard, connect);
        self.run();
        client
    }

    /// The same, but what follows is handled before any other shard does anything.
    pub fn connect_pipelined(&mut self, shard: u16, connect: Connect) -> Client {
        let mut bytes = BytesMut::new();
        encode(&Packet::Connect(Box::new(connect)), Version::V5, &mut bytes);
        self.open(shard, &bytes)
    }

    /// A connection whose first bytes are these.
    pub fn open(&mut self, shard: u16, first: &[u8]) -> Client {
        let index = self.clients.len();
        let conn = ConnId { index: (index % 7) as u32, generation: index as u32 };
        let busy = |c: &Peer| c.open && c.shard == shard && c.conn.index == conn.index;
        let conn = if self.clients.iter().any(busy) {
            ConnId { index: index as u32 + 7, ..conn }
        } else {
            conn
        };
        let version = connect_version(first).unwrap_or(Version::V5);
        self.clients.push(Peer::new(shard, conn, version));
        self.by_conn.insert((shard, conn), index);
        match self.cut(first).and_then(|whole| decode(&whole, None)) {
            Ok(Packet::Connect(connect)) => {
                if !connect.client_id.is_empty() {
                    self.client_ids.insert(connect.client_id.as_str().to_owned());
                }
                if let Some(will) = connect.will.as_deref().filter(|will| will.retain) {
                    self.retained.insert(will.topic.text().as_str().to_owned());
                }
                self.clients[index].expect(&connect);
                let address = (self.address_of_new, 1).into();
                let Self { allow_anonymous, authenticates, .. } = *self;
                let origin = Origin {
                    listener: 0,
                    allow_anonymous,
                    authenticates,
                    address,
                    certificate: None,
                };
                self.handle(shard, Input::Connect { conn, connect, origin });
            }
            Ok(other) => panic!("{other:?} was decoded before CONNECT"),
            Err(error) => {
                let asked = connect_version(first);
                if let Some(packet) = asked.and_then(|version| refusal(version, &error)) {
                    let mut bytes = BytesMut::new();
                    encode(&packet, version, &mut bytes);
                    self.clients[index].receive(&bytes);
                }
                self.clients[index].open = false;
            }
        }
        Client(index)
    }

    /// The first packet of some bytes, as the wire delimits it.
    fn cut(&self, bytes: &[u8]) -> Result<Bytes, DecodeError> {
        match frame(bytes, self.limits.maximum_packet_size_bytes)? {
            Frame::Complete(len) => Ok(Bytes::copy_from_slice(&bytes[..len])),
            Frame::Incomplete(_) => panic!("half a packet"),
        }
    }

    /// Sends a packet. It is handled at once, what other shards do about it when the net runs.
    pub fn send(&mut self, client: Client, packet: impl IntoPacket) {
        let packet = packet.into_packet();
        if let Packet::Publish(publish) = &packet
            && publish.retain
            && publish.topic != TopicName::EMPTY
        {
            self.retained.insert(publish.topic.text().as_str().to_owned());
        }
        let version = self.clients[client.0].version;
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes);
        assert!(!bytes.is_empty(), "{packet:?} does not exist in version {version}");
        self.clients[client.0].sent(&packet);
        self.send_bytes(client, &bytes);
    }

    /// Sends the bytes of one packet, well-formed or not.
    pub fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        let Peer { shard, conn, version, .. } = self.clients[client.0];
        let input = match self.cut(bytes).and_then(|whole| decode(&whole, Some(version))) {
            Ok(packet) => Input::Packet { conn, packet },
            Err(error) => Input::Violation { conn, error },
        };
        self.handle(shard, input);
    }

    /// The client's end of the connection goes away without a word.
    pub fn drop(&mut self, client: Client) {
        let Peer { shard, conn, open, .. } = self.clients[client.0];
        self.clients[client.0].open = false;
        if open {
            self.handle(shard, Input::Closed { conn });
        }
        self.run();
    }

    /// The client's socket takes no more bytes until [`Net::unstall`].
    pub fn stall(&mut self, client: Client) {
        self.clients[client.0].stalled = true;
    }

    pub fn unstall(&mut self, client: Client) {
        self.clients[client.0].stalled = false;
        self.flush(client.0);
        self.run();
    }

    /// Answers the oldest question, which must be about this client.
    pub fn verdict(&mut self, client: Client, verdict: Verdict) -> Question {
        let question = self.questions.remove(0);
        let Peer { shard, conn, .. } = self.clients[client.0];
        assert_eq!(question.conn, conn);
        self.handle(shard, Input::Verdict { conn, verdict });
        self.run();
        question
    }

    /// Whether there is storage.
    pub fn keeps(&self) -> bool {
        self.kept
    }

    /// Other rules for all shards.
    pub fn set_rules(&mut self, rules: Rules) {
        let rules = Some(Arc::new(rules));
        self.access.rules.clone_from(&rules);
        for shard in 0..self.shards.len() as u16 {
            self.handle(shard, Input::Rules(rules.clone()));
        }
        self.run();
    }

    /// These are watched from now on.
    pub fn watch(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        let mut subjects = subjects.into_iter();
        let subjects = std::array::from_fn(|_| subjects.next());
        let watched = Arc::new(Watched { number: 1, subjects });
        for shard in 0..self.shards.len() as u16 {
            self.handle(shard, Input::Watch(Some(Arc::clone(&watched))));
        }
    }

    /// Shuts somebody out, at all shards.
    pub fn ban(&mut self, banned: &Banned) {
        for shard in 0..self.shards.len() as u16 {
            self.handle(shard, Input::Ban(banned.clone()));
        }
        self.run();
    }

    /// The shards begin anew, without what they have.
    pub fn begin_with(&mut self, access: Access) {
        self.access = access;
        self.shards = self.new_shards();
    }

    /// Answers the question about this client, whichever others there are.
    pub fn verdict_for(&mut self, client: Client, verdict: Verdict) {
        let Peer { shard, conn, .. } = self.clients[client.0];
        self.questions.retain(|question| question.conn != conn);
        self.handle(shard, Input::Verdict { conn, verdict });
        self.run();
    }

    pub fn kick(&mut self, client: Client, reason: ReasonCode) {
        let Peer { shard, conn, .. } = self.clients[client.0];
        self.handle(shard, Input::Kick { conn, reason });
        self.run();
    }

    pub fn shut_down(&mut self) {
        self.stopped = true;
        for last in [true, false] {
            for shard in 0..self.shards.len() as u16 {
                self.handle(shard, if last { Input::LastWills } else { Input::Shutdown });
            }
            self.run();
        }
    }

    /// Everything that the client has received since it was last asked.
    pub fn received(&mut self, client: Client) -> Vec<Packet> {
        self.keep();
        self.clients[client.0].inbox.drain(..).collect()
    }

    /// The same, where all of it is PUBLISH; aliases are resolved to their topics.
    pub fn publishes(&mut self, client: Client) -> Vec<Publish> {
        let packets = self.received(client).into_iter();
        packets
            .map(|packet| match packet {
                Packet::Publish(publish) => self.resolve(client, publish),
                other => panic!("{other:?} instead of PUBLISH"),
            })
            .collect()
    }

    /// The next packet that the client has received.
    pub fn next(&mut self, client: Client) -> Option<Packet> {
        self.keep();
        self.clients[client.0].inbox.pop_front()
    }

    /// The first packet of a kind that the client has received, ahead of others.
    pub fn take(&mut self, client: Client, is: impl Fn(&Packet) -> bool) -> Option<Packet> {
        self.keep();
        let inbox = &mut self.clients[client.0].inbox;
        let at = inbox.iter().position(is)?;
        inbox.remove(at)
    }

    pub fn resolve(&mut self, client: Client, publish: Publish) -> Publish {
        self.clients[client.0].resolved(publish)
    }

    pub fn version(&self, client: Client) -> Version {
        self.clients[client.0].version
    }

    /// True if a client is connected, and to that shard.
    pub fn is_on(&self, client: Client, shard: u16) -> bool {
        self.is_open(client) && self.clients[client.0].shard == shard
    }

    pub fn is_open(&self, client: Client) -> bool {
        self.clients[client.0].open
    }

    /// Messages that did not reach a receiver for this reason, so far.
    pub fn dropped(&self, reason: DropReason) -> usize {
        self.drops.of(reason) as usize
    }

    /// What all shards hold together.
    pub fn census(&self) -> Census {
        self.shards.iter().map(Shard::census).fold(Census::default(), |sum, one| Census {
            connections: sum.connections + one.connections,
            sessions: sum.sessions + one.sessions,
            subscriptions: sum.subscriptions + one.subscriptions,
            filters: sum.filters + one.filters,
            groups: sum.groups + one.groups,
            group_messages: sum.group_messages + one.group_messages,
            queued_messages: sum.queued_messages + one.queued_messages,
            inflight: sum.inflight + one.inflight,
            timers: sum.timers + one.timers,
            retained: sum.retained + one.retained,
            retained_bytes: sum.retained_bytes + one.retained_bytes,
            promises: sum.promises + one.promises,
            parked: sum.parked + one.parked,
        })
    }

    /// Lets the shards talk until they have nothing more to say.
    pub fn run(&mut self) {
        let shards = self.shards.len();
        let mut handled = true;
        while handled {
            handled = false;
            for (from, to) in (0..shards).flat_map(|from| (0..shards).map(move |to| (from, to))) {
                if let Some(message) = self.rings[from][to].pop_front() {
                    let from = ShardIndex(from as u16);
                    self.handle(to as u16, Input::Peer { from, message });
                    handled = true;
                }
            }
            if !handled && let Some((shard, upto)) = self.recorded.pop_front() {
                self.handle(shard, Input::Kept { upto });
                handled = true;
            }
            if !handled && let Some((shard, load)) = self.loads.pop_front() {
                let loaded = self.answer(load);
                self.handle(shard, Input::Loaded(Box::new(loaded)));
                handled = true;
            }
            if !handled
                && !self.holds_counts
                && let Some((shard, count)) = self.counts.pop_front()
            {
                let counted = self.count(count);
                self.handle(shard, Input::Counted(Box::new(counted)));
                handled = true;
            }
        }
    }

    /// What a lane counts.
    fn count(&self, count: Count) -> Counted {
        let of_one = |incarnation: Incarnation| {
            let places = (incarnation, 0)..(incarnation, count.before);
            let waiting = self.waiting.range(places).filter_map(|((_, first), delivery)| {
                let delivery = delivery.as_ref()?;
                let run = Run { first: *first, count: 1, qos: delivery.qos };
                Some((run, delivery.message.cost_bytes() as u64))
            });
            let (runs, bytes): (Vec<Run>, Vec<u64>) = waiting.unzip();
            let bytes = bytes.into_iter().sum();
            (!runs.is_empty()).then_some(Waits { incarnation, bytes, runs })
        };
        let waiting = count.sessions.iter().copied().filter_map(of_one).collect();
        Counted { count, waiting }
    }

    fn note(&mut self, record: Record) {
        self.records.note(record.clone());
        match record {
            Record::Queued { incarnation, sequence, delivery } => {
                self.waiting.insert((incarnation, sequence), Some(*delivery));
            }
            Record::Released { incarnation, sequence } => {
                self.waiting.insert((incarnation, sequence), None);
            }
            Record::Done { incarnation, sequence }
            | Record::Moved { incarnation, sequence, .. } => {
                self.waiting.remove(&(incarnation, sequence));
            }
            Record::Ended { incarnation } => self.waiting.retain(|(of, _), _| *of != incarnation),
            _ => {}
        }
    }

    /// What a lane answers.
    pub fn answer(&self, load: Load) -> Loaded {
        let (from, upto) = ((load.incarnation, load.from), (load.incarnation, load.upto));
        let mut found = self.waiting.range(from..upto);
        let messages = found.by_ref().take(load.messages_max);
        let messages = messages
            .map(|((_, sequence), delivery)| Stored {
                sequence: *sequence,
                delivery: delivery.clone(),
            })
            .collect();
        Loaded {
            load,
            messages,
            void: Vec::new(),
            next: found.next().map(|((_, sequence), _)| *sequence),
        }
    }

    /// Packets that a client has received and that were not looked at.
    pub fn unread(&self, client: Client) -> usize {
        self.clients[client.0].inbox.len()
    }

    /// Lets the oldest records be kept, and nothing else happen.
    pub fn keep_one(&mut self) {
        let (shard, upto) = self.recorded.pop_front().expect("something is recorded");
        self.handle(shard, Input::Kept { upto });
    }

    /// Takes a question away that nobody has answered.
    pub fn take_load(&mut self) -> Option<Load> {
        self.loads.pop_front().map(|(_, load)| load)
    }

    /// The client's end goes away, and nothing else happens.
    pub fn drop_quietly(&mut self, client: Client) {
        let Peer { shard, conn, .. } = self.clients[client.0];
        self.clients[client.0].open = false;
        self.handle(shard, Input::Closed { conn });
    }

    /// The shard where a client identifier, or a topic, is at home, the time, and what was lost there.
    pub fn home_of(&mut self, name: &str, look: impl FnOnce(&Shard, Now, &Outbox)) {
        let home = usize::from(self.slots.home_of(name.as_bytes()).0);
        let mut out = Outbox::new();
        (out.losses, out.refusals) = std::mem::take(&mut self.lost[home]);
        look(&self.shards[home], Now { mono_ms: self.now_ms }, &out);
        self.lost[home] = (out.losses, out.refusals);
    }

    /// All shards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Gives a shard an input.
    pub fn handle_on(&mut self, shard: u16, input: Input) {
        self.handle(shard, input);
    }

    /// Has the home of its topic publish a message of the broker itself. Returns what has become of it, and what that
    /// adds to the ledger.
    pub fn publish_own(&mut self, publish: Publish) -> (ReasonCode, Ledger) {
        let home = self.slots.home_of(publish.topic.as_bytes()).0;
        let (now, mut out) = (Now { mono_ms: self.now_ms }, Outbox::new());
        let reason = self.shards[usize::from(home)].publish_own(now, publish, &mut out);
        let ledger = out.ledger;
        self.carry_out(home, out);
        self.run();
        (reason, ledger)
    }

    /// Lets everything be kept that the client waits for, as it is without storage.
    fn keep(&mut self) {
        if self.kept {
            self.run();
        }
    }

    /// Lets one message of one ring arrive; false if there is none.
    pub fn pop(&mut self, from: u16, to: u16) -> bool {
        let message = self.rings[usize::from(from)][usize::from(to)].pop_front();
        let found = message.is_some();
        if let Some(message) = message {
            self.handle(to, Input::Peer { from: ShardIndex(from), message });
        }
        found
    }

    /// Lets time pass in the steps of the pump.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms = end.min(self.now_ms + 250);
            self.tick();
        }
    }

    /// Lets time pass at once: for spans that would take too many steps.
    pub fn leap(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tick();
    }

    /// Lets time pass at once and gives one [`Input::Timer`] to the first shard; true if it has left
    /// something to the next.
    pub fn leap_in_part(&mut self, ms: u64) -> bool {
        self.now_ms += ms;
        self.handle(0, Input::Timer);
        self.shards[0].is_overdue()
    }

    /// Gives every shard the time, as often as it wants.
    pub fn tick_once(&mut self) {
        self.tick();
        self.run();
    }

    fn tick(&mut self) {
        for shard in 0..self.shards.len() as u16 {
            self.handle(shard, Input::Timer);
            while self.shards[usize::from(shard)].is_overdue() {
                self.handle(shard, Input::Timer);
            }
        }
        self.run();
    }

    fn handle(&mut self, shard: u16, input: Input) {
        let mut out = Outbox::new();
        (out.losses, out.refusals) = std::mem::take(&mut self.lost[usize::from(shard)]);
        let now = Now { mono_ms: self.now_ms };
        self.shards[usize::from(shard)].handle(now, input, &mut out);
        self.lost[usize::from(shard)] =
            (std::mem::take(&mut out.losses), std::mem::take(&mut out.refusals));
        self.carry_out(shard, out);
    }

    fn carry_out(&mut self, shard: u16, mut out: Outbox) {
        self.shards[usize::from(shard)].end_turn(&mut out);
        self.is_urgent = out.urgent;
        if !out.records.is_empty() {
            self.recorded.push_back((shard, out.records_upto));
        }
        self.loads.extend(out.loads.drain(..).map(|load| (shard, load)));
        self.counts.extend(out.counts.drain(..).map(|count| (shard, count)));
        for record in out.records.drain(..) {
            self.note(record);
        }
        let mut written = Vec::new();
        for write in &out.writes {
            let client = self.by_conn[&(shard, write.conn)];
            self.clients[client].arrive(&out, write);
            written.push(client);
        }
        for conn in &out.closes {
            let client = self.by_conn[&(shard, *conn)];
            self.clients[client].close();
        }
        for (to, message) in out.peers.drain(..) {
            let asks = matches!(message, PeerMessage::RetainedQuery(_));
            self.retained_asked += usize::from(asks);
            self.rings[usize::from(shard)][usize::from(to.0)].push_back(message);
        }
        self.questions.append(&mut out.questions);
        self.events.append(&mut out.events);
        self.untraced += out.untraced;
        self.traced.extend(out.traced.drain(..).map(|traced| (shard, traced)));
        self.drops.add(&out.ledger.drops);
        written.sort_unstable();
        written.dedup();
        for client in written {
            self.flush(client);
        }
    }

    /// Takes what waits for a client's socket and says so to its shard.
    fn flush(&mut self, client: usize) {
        let Peer { shard, conn, open, .. } = self.clients[client];
        let pending_bytes = self.clients[client].flush();
        if open {
            self.handle(shard, Input::Flushed { conn, pending_bytes });
        }
    }

    /// Ends every connection and session and clears every topic; nothing may be left.
    fn finish(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].stalled = false;
            self.drop(Client(client));
        }
        assert_eq!(self.census().connections, 0, "connections without a client");
        if self.stopped {
            return;
        }
        self.allow_anonymous = true;
        let assigned = self.clients.iter_mut().filter_map(|peer| peer.assigned.take());
        self.client_ids.extend(assigned);
        for id in std::mem::take(&mut self.client_ids) {
            let client = self.connect(v5(&id));
            for topic in std::mem::take(&mut self.retained) {
                self.send(client, message(&topic, "").retained());
            }
            self.run();
            self.drop(client);
        }
        self.leap(301_000);
        self.leap(301_000);
        assert_eq!(self.census(), Census::default(), "something is left behind");
        assert_eq!(self.interest.stats().entries, 0, "interest is left behind");
        assert_eq!(self.interest.stats().masks, 0, "masks are left behind");
        assert!(self.waiting.is_empty(), "records are left behind: {:?}", self.waiting);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}
