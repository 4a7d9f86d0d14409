//! What an idle client costs in the shard.

use std::sync::Arc;

use petrel_proto::{
    Connect, ConnectProperties, Packet, PacketId, Subscribe, SubscribeFilter, SubscriptionOptions,
    Text, TopicFilter, UserProperties, Version,
};
use petrel_shard::level_hash::HashKey;
use petrel_shard::{
    ConnId, Input, Interest, Limits, Now, Origin, Outbox, Shard, ShardConfig, ShardIndex, SlotMap,
};

mod counting;

const CLIENTS: u32 = 20_000;
const BYTES_MAX: usize = 680;

fn text(value: &str) -> Text {
    Text::try_from(value).expect("a valid string")
}

fn connect(number: u32) -> Box<Connect> {
    Box::new(Connect {
        version: Version::V3_1_1,
        clean_start: true,
        keep_alive_s: 0,
        client_id: text(&format!("idle-{number}")),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    })
}

fn subscribe(number: u32) -> Packet {
    let filter = TopicFilter::new(text(&format!("device/{number}/command"))).expect("a filter");
    let options = SubscriptionOptions::default();
    Packet::Subscribe(Box::new(Subscribe {
        packet_id: PacketId::new(1).expect("not zero"),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: [SubscribeFilter { filter, options }].into_iter().collect(),
    }))
}

/// Connection, session, subscription, matcher and interest table together.
#[test]
fn an_idle_client_with_one_subscription_stays_within_its_bytes() {
    let before = counting::held_bytes();
    let hash_key = [1, 2];
    let config = ShardConfig {
        index: ShardIndex(0),
        slots: SlotMap::even(1),
        limits: Limits::default(),
        auth_methods: Vec::new(),
        seed: 3,
        hash_key,
    };
    let mut shard = Shard::new(config, Arc::new(Interest::new(HashKey::new(hash_key))));
    let mut out = Outbox::new();
    let now = Now { mono_ms: 1 };
    let address = ([127, 0, 0, 1], 1).into();
    let origin = Origin { listener: 0, allow_anonymous: true, address };
    for number in 0..CLIENTS {
        let conn = ConnId { index: number, generation: 1 };
        shard.handle(now, Input::Connect { conn, connect: connect(number), origin }, &mut out);
        shard.handle(now, Input::Packet { conn, packet: subscribe(number) }, &mut out);
        shard.handle(now, Input::Flushed { conn, pending_bytes: 0 }, &mut out);
        while let Some((from, message)) = out.peers.pop() {
            shard.handle(now, Input::Peer { from, message }, &mut out);
        }
        out.clear();
    }
    drop(out);
    let each = (counting::held_bytes() - before) / CLIENTS as usize;
    println!("{each} B for an idle client");
    assert!(each <= BYTES_MAX, "{each} B for an idle client, at most {BYTES_MAX}");
    assert_eq!(shard.census().subscriptions, CLIENTS as usize);
}
