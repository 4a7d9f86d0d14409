//! Clients that are sent to another server: section 4.11.

use petrel_proto::{Packet, ReasonCode as R, Version};
use petrel_shard::Input;

use crate::harness::versions;
use crate::packets::*;

/// [MQTT5-4.13.2-1] 4.11: the reference is for those who can be told; the session stays.
#[test]
fn a_client_is_sent_to_another_server() {
    versions(|net, version| {
        let a = net.online(resume(version, "a"));
        net.subscribe(a, "t", QOS1);
        let home = net.slots.home_of(b"a").0;
        for reference in [Some("other:1883"), None] {
            let server_reference = reference.map(text);
            let mut conn = None;
            net.home_of("a", |shard, _, _| conn = shard.connection_of(&text("a")));
            let conn = conn.expect("it is connected");
            net.handle_on(home, Input::SendAway { conn, server_reference });
            net.run();
            if reference.is_none() {
                break;
            }
            let told = net.take(a, |packet| matches!(packet, Packet::Disconnect(_)));
            match (version, told) {
                (Version::V5, Some(Packet::Disconnect(told))) => {
                    assert_eq!(told.reason, R::UseAnotherServer);
                    assert_eq!(told.server_reference, Some(text("other:1883")));
                }
                (Version::V5, other) => panic!("{other:?}"),
                (_, told) => assert_eq!(told, None),
            }
            assert!(!net.is_open(a));
            net.resumed(resume(version, "a"), true);
        }
        net.home_of("a", |shard, _, _| {
            assert!(shard.has_session(&text("a")) && shard.connection_of(&text("a")).is_none());
        });
    });
}
