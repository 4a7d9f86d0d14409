//! A shard that is fed with bytes, turn by turn, as the broker's pump does.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use petrel_proto::{Packet, Qos, decode};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{
    Access, ConnId, Input, Interest, InterestWriter, Keeping, Limits, Now, Origin, Outbox, Shard,
    ShardConfig, ShardIndex, SlotMap,
};

use crate::packets::{self, VERSION};

const HASH_KEY: [u64; 2] = [1, 2];

/// One shard of one or more, and its clients.
pub struct Rig {
    /// The shard.
    pub shard: Shard,
    interest: Arc<Interest>,
    pub now_ms: u64,
    /// What the shard wants done.
    pub out: Outbox,
    written: Vec<ConnId>,
}

/// The connection of client `number`.
pub const fn conn(number: u32) -> ConnId {
    ConnId { index: number, generation: 1 }
}

impl Rig {
    /// A shard of a process with so many; it is the first.
    pub fn new(shards: u16) -> Self {
        Self::with(shards, None)
    }

    /// A shard with storage, which keeps everything within the turn.
    pub fn keeping() -> Self {
        Self::with(1, Some(Keeping { epoch: 1, lanes: 1 }))
    }

    /// A shard with rules by which everybody may do everything below `plant`.
    pub fn with_rules() -> Self {
        let rules = petrel_access::rules::parse(
            "[[rule]]\nallow = \"both\"\ntopics = [\"plant/#\"]\n",
            &[],
        );
        let rules = rules.ok().map(Arc::new);
        let access = Access { is_on: true, rules, ..Access::default() };
        let interest = Arc::new(Interest::new(HashKey::new(HASH_KEY)));
        Self::of(ShardIndex(0), 1, None, interest, access)
    }

    /// Another shard of the same process.
    pub fn beside(&self, index: u16, shards: u16) -> Self {
        Self::of(ShardIndex(index), shards, None, Arc::clone(&self.interest), Access::default())
    }

    fn with(shards: u16, keeping: Option<Keeping>) -> Self {
        let interest = Arc::new(Interest::new(HashKey::new(HASH_KEY)));
        Self::of(ShardIndex(0), shards, keeping, interest, Access::default())
    }

    fn of(
        index: ShardIndex,
        shards: u16,
        keeping: Option<Keeping>,
        interest: Arc<Interest>,
        access: Access,
    ) -> Self {
        let config = ShardConfig {
            index,
            slots: SlotMap::even(shards),
            limits: Limits::default(),
            auth_methods: Vec::new(),
            access,
            seed: 3,
            hash_key: HASH_KEY,
            keeping,
        };
        let shard = Shard::new(config, Arc::clone(&interest));
        Self { shard, interest, now_ms: 1, out: Outbox::new(), written: Vec::new() }
    }

    /// Says that another shard wants a filter. What is returned must be kept.
    pub fn interest_elsewhere(&self, shard: u16, filter: &str) -> InterestWriter {
        let mut writer = InterestWriter::new(Arc::clone(&self.interest), shard);
        writer.add(filter.as_bytes());
        writer
    }

    /// Hands one input to the shard.
    #[inline]
    pub fn input(&mut self, input: Input) {
        self.shard.handle(Now { mono_ms: self.now_ms }, input, &mut self.out);
    }

    /// Hands one input to the shard, and back to it what it tells itself.
    pub fn handle(&mut self, input: Input) {
        let now = Now { mono_ms: self.now_ms };
        self.shard.handle(now, input, &mut self.out);
        if self.out.peers.iter().any(|(to, _)| *to == ShardIndex(0)) {
            for (to, message) in std::mem::take(&mut self.out.peers) {
                assert_eq!(to, ShardIndex(0), "one shard cannot answer for another");
                self.shard.handle(now, Input::Peer { from: to, message }, &mut self.out);
            }
        }
    }

    /// Decodes one packet of client `number` and hands it to the shard.
    pub fn feed(&mut self, number: u32, bytes: &Bytes) {
        let packet = decode(bytes, Some(VERSION)).expect("a valid packet");
        self.packet(number, packet);
    }

    /// Hands one packet of client `number` to the shard. No client sends a second CONNECT.
    pub fn packet(&mut self, number: u32, packet: Packet) {
        let conn = conn(number);
        let input = match packet {
            Packet::Connect(connect) => {
                let address = ([127, 0, 0, 1], 1).into();
                let origin = Origin {
                    listener: 0,
                    allow_anonymous: true,
                    authenticates: false,
                    address,
                    certificate: None,
                };
                Input::Connect { conn, connect, origin }
            }
            packet => Input::Packet { conn, packet },
        };
        self.handle(input);
    }

    /// Ends a turn: what was written has left, which the shard is told once per connection.
    pub fn end_turn(&mut self) {
        self.written.clear();
        for write in &self.out.writes {
            black_box((self.out.head(write), self.out.payload(write)));
            if self.written.last() != Some(&write.conn) {
                self.written.push(write.conn);
            }
        }
        let (kept, upto) = (!self.out.records.is_empty(), self.out.records_upto);
        self.out.clear();
        if kept {
            self.handle(Input::Kept { upto });
        }
        for at in 0..self.written.len() {
            self.handle(Input::Flushed { conn: self.written[at], pending_bytes: 0 });
        }
        self.out.clear();
    }

    /// Lets time pass, with a tick at its end.
    pub fn sleep(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.handle(Input::Timer);
        self.end_turn();
    }

    /// Client `number` connects.
    pub fn connect(&mut self, number: u32, keep_alive_s: u16, persistent: bool) {
        self.packet(number, packets::connect(number, keep_alive_s, persistent));
        self.end_turn();
    }

    /// Client `number` subscribes.
    pub fn subscribe(&mut self, number: u32, filter: &str, qos: Qos) {
        self.feed(number, &packets::bytes(&packets::subscribe(filter, qos)));
        self.end_turn();
    }

    /// The client's socket is gone.
    pub fn close(&mut self, number: u32) {
        self.handle(Input::Closed { conn: conn(number) });
        self.end_turn();
    }
}
