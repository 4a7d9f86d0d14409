//! Two shards and the mesh between them, in one thread: what a message costs that crosses.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use petrel_mesh::{MeshEnd, Parcel, Taken, mesh};
use petrel_net::Bell;
use petrel_proto::{Packet, Qos};
use petrel_shard::{Input, Now, PeerMessage, ShardIndex};

use crate::callgrind::measured;
use crate::packets::{self, bytes};
use crate::rig::Rig;

/// Messages of a turn.
pub const TOGETHER: u32 = 64;

const TOPIC: &str = "plant/1/line/2/temperature";

/// The first shard has the publisher, client 0, the second the subscriber, client 1.
pub struct Crossing {
    first: Rig,
    second: Rig,
    ends: [MeshEnd; 2],
    messages: Vec<(ShardIndex, PeerMessage)>,
    qos: Qos,
    /// What the publisher sends in a turn.
    publishes: Vec<Bytes>,
    round: u16,
}

impl Crossing {
    /// # Panics
    /// The system has no descriptors left.
    pub fn new(qos: Qos) -> Self {
        let mut first = Rig::new(2);
        let mut second = first.beside(1, 2);
        first.connect(0, 60, false);
        second.connect(1, 60, false);
        second.subscribe(1, TOPIC, Qos::ExactlyOnce);
        let bell = || Arc::new(Bell::new().expect("there are descriptors"));
        let mut ends = mesh(&vec![bell(), bell()].into()).into_iter();
        let mut end = || ends.next().expect("there are two shards");
        let ends = [end(), end()];
        let publish = |number| bytes(&packets::publish(TOPIC, qos, number));
        let publishes = (1..=TOGETHER as u16).map(publish).collect();
        Self { first, second, ends, messages: Vec::new(), qos, publishes, round: 0 }
    }

    /// The messages of one turn, with all acknowledgements. Each side of the mesh is measured if it is
    /// asked for.
    pub fn turn(&mut self, sending: bool, receiving: bool) {
        for publish in &self.publishes {
            self.first.feed(0, publish);
        }
        self.messages.append(&mut self.first.out.peers);
        assert_eq!(self.messages.len(), TOGETHER as usize);
        let Self { ends: [here, there], messages, second, .. } = self;
        maybe(sending, &mut || {
            here.send_all(messages, |_, message| Some(message));
            here.flush();
        });
        // As every message is that goes nowhere else.
        messages.clear();
        if receiving {
            measured(&mut || receive(there, &mut |message| drop(black_box(message))));
            self.first.end_turn();
            return;
        }
        let from = ShardIndex(0);
        let now = Now { mono_ms: second.now_ms };
        receive(there, &mut |message| match message {
            Taken::Passed(message) => {
                second.shard.handle_passed(now, from, &message, &mut second.out)
            }
            Taken::Told(message) => second.handle(Input::Peer { from, message }),
        });
        self.first.end_turn();
        self.second.end_turn();
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        let qos = self.qos;
        for number in 1..=TOGETHER as u16 {
            if qos == Qos::AtMostOnce {
                return;
            }
            self.round = self.round % 65_535 + 1;
            if qos == Qos::ExactlyOnce {
                self.second.packet(1, packets::ack(Packet::PubRec, self.round));
                self.second.packet(1, packets::ack(Packet::PubComp, self.round));
                self.first.packet(0, packets::ack(Packet::PubRel, number));
            } else {
                self.second.packet(1, packets::ack(Packet::PubAck, self.round));
            }
        }
        self.first.end_turn();
        self.second.end_turn();
    }
}

fn maybe(is_measured: bool, work: &mut dyn FnMut()) {
    if is_measured { measured(work) } else { work() }
}

fn receive(end: &mut MeshEnd, take: &mut impl FnMut(Taken<'_>)) {
    end.begin_to_receive();
    while let Some((from, parcel)) = end.receive() {
        let Parcel::Messages(mut messages) = parcel else { continue };
        while let Some(message) = messages.pop() {
            take(message);
        }
        end.give_back(from, messages);
    }
}

/// So many messages of QoS 0, in turns, of which one side of the mesh is measured.
pub fn crossed(messages: u32, sending: bool) {
    let mut crossing = Crossing::new(Qos::AtMostOnce);
    for _ in 0..messages / TOGETHER {
        crossing.turn(sending, !sending);
    }
}
