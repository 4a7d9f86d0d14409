//! Limits of queues that have outlived a process.

use super::*;

/// A broker with short queues, once it serves and has counted what waits.
fn start(place: &Place, shards: u16) -> (Running, SocketAddr) {
    let mut broker = place.begin(shards, "", "session_queue_messages = 20\n");
    let mut awaited = vec!["petrel ready", "all that waits has been counted"];
    while !awaited.is_empty() {
        let line = broker.line();
        awaited.retain(|part| !line.contains(part));
    }
    (broker, SocketAddr::from((Ipv4Addr::LOCALHOST, place.port)))
}

fn publish(address: SocketAddr, numbers: std::ops::Range<u8>) {
    let (mut client, _) = resume(address, "speaker");
    for number in numbers {
        client.send(&publish_packet("t/x", vec![number], Qos::AtLeastOnce, 1));
        assert!(matches!(client.receive(), Some(Packet::PubAck(_))));
    }
}

/// What has been queued before and after a kill is bounded together, and none of it is lost.
#[test]
fn the_bound_of_a_queue_holds_across_kill_9() {
    let place = Place::new();
    let (mut broker, address) = start(&place, 2);
    let (mut away, _) = resume(address, "away");
    away.subscribe("t/x", Qos::AtLeastOnce);
    away.send(&Packet::Disconnect(Box::new(petrel_proto::Disconnect::new(ReasonCode::Success))));
    away.expect_end();
    publish(address, 0..15);
    broker.signal(Signal::KILL);
    broker.child.wait().expect("it ends");
    let (broker, address) = start(&place, 3);
    publish(address, 15..30);
    let (mut away, present) = resume(address, "away");
    assert!(present);
    let numbers: Vec<u8> = (0..20).map(|_| away.receive_publish().payload[0]).collect();
    assert_eq!(numbers, Vec::from_iter(0..20));
    away.send(&Packet::PingReq);
    assert!(matches!(away.receive(), Some(Packet::PingResp)));
    broker.signal(Signal::TERM);
    assert_eq!(broker.end().0, Some(0));
}
