//! Packets and bytes are counted once, in whatever pieces they come and go.

use std::io::Write;

use bytes::Bytes;

use super::rig::{CONNECT, PINGREQ, Rig, publish};
use crate::WireEvent;
use crate::volume::Volume;

fn count(rig: &Rig, name: &str) -> (u64, u64) {
    let of = |way: crate::traffic::OneWay| {
        way.packets().find(|(known, _)| *known == name).map_or(0, |(_, count)| count)
    };
    let traffic = rig.wire.traffic();
    (of(traffic.received), of(traffic.sent))
}

#[test]
fn bytes_are_counted_once_in_whatever_pieces_they_come() {
    let mut rig = Rig::new();
    rig.wire.count_volumes(true);
    let mut client = rig.connected();
    let long = publish(&[7; 100_000]);
    let mut sent = CONNECT.len();
    // Several at once, with the start of one of which the rest comes in two pieces.
    let both = [PINGREQ, PINGREQ, &long[..10]].concat();
    client.stream.write_all(&both).expect("sent");
    sent += 2 * PINGREQ.len();
    for _ in 0..2 {
        assert!(matches!(rig.expect_event(), WireEvent::Packet { .. }));
        // What has been read waits while others have their turn.
        rig.wire.let_others_go_first();
    }
    rig.expect_silence();
    assert_eq!(rig.wire.traffic().received.bytes(), sent as u64);
    for part in long[10..].chunks(50_000) {
        assert_eq!(rig.wire.traffic().received.bytes(), sent as u64, "none of it is whole");
        client.stream.write_all(part).expect("sent");
        if part.len() == 50_000 {
            rig.expect_silence();
        }
    }
    assert!(matches!(rig.expect_event(), WireEvent::Packet { .. }));
    rig.expect_silence();
    sent += long.len();
    assert_eq!(rig.wire.traffic().received.bytes(), sent as u64);
    assert_eq!((count(&rig, "pingreq").0, count(&rig, "publish").0), (2, 1));
    let answer = Bytes::from(vec![0; 5_000]);
    rig.wire.write(client.key, b"\x30\x8b\x27"[..].into(), &answer);
    rig.wire.write(client.key, b"\xd0\0"[..].into(), &Bytes::new());
    assert_eq!(rig.wire.traffic().sent.bytes(), 0, "no socket has it");
    rig.wire.flush(|_, _| ());
    assert_eq!(rig.wire.traffic().sent.bytes(), 5_005);
    assert_eq!((count(&rig, "pingresp").1, count(&rig, "publish").1), (1, 1));
    let volume = Volume { received: sent as u64, sent: 5_005 };
    assert_eq!(rig.wire.volume(client.key), Some(volume));
}
