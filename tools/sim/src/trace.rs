//! The record of a run: a hash to compare runs by, and lines for people.

use petrel_shard::{Drops, Input};

use crate::model::Moment;
use crate::oracle::{Hint, Output};

/// A running hash of all inputs and outputs, printed as it goes if asked for.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The hash so far.
    pub hash: u64,
    /// Whether lines are printed.
    pub print: bool,
}

impl Trace {
    /// An empty record.
    #[must_use]
    pub const fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    /// An input of a shard.
    pub fn input(&mut self, at: Moment, shard: u16, input: &Input, hint: &Hint) {
        if self.print && !matches!(input, Input::Timer | Input::Flushed { pending_bytes: 0, .. }) {
            let hostile = if hint.hostile.is_some() { " (hostile)" } else { "" };
            let input = brief(format!("{input:?}"));
            println!("{:>7} {:>8} ms shard {shard} <- {input}{hostile}", at.step, at.now_ms);
        }
        self.add(at.step);
        self.add(at.now_ms);
        self.add(u64::from(shard));
    }

    /// What the shard did.
    pub fn output(&mut self, at: Moment, shard: u16, output: &Output) {
        for (conn, packet, bytes) in &output.packets {
            self.line(at, shard, &|| format!("{conn:?} {packet:?}"));
            self.add(u64::from(conn.index) << 32 | *bytes as u64);
            self.add(u64::from(packet_kind(packet)));
            if let petrel_proto::Packet::Publish(publish) = packet {
                publish.payload.iter().take(17).for_each(|&byte| self.add(u64::from(byte)));
            }
        }
        for (to, message) in &output.peers {
            self.line(at, shard, &|| format!("to shard {to} {message:?}"));
            self.add(u64::from(*to));
        }
        if output.drops != Drops::default() {
            self.line(at, shard, &|| format!("dropped {:?}", output.drops));
        }
        for event in &output.events {
            self.line(at, shard, &|| format!("event {event:?}"));
        }
        for conn in &output.closes {
            self.line(at, shard, &|| format!("close {conn:?}"));
            self.add(u64::from(conn.index));
        }
    }

    fn line(&self, at: Moment, shard: u16, text: &dyn Fn() -> String) {
        if self.print {
            println!("{:>7} {:>8} ms shard {shard}  -> {}", at.step, at.now_ms, brief(text()));
        }
    }

    fn add(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

/// Leaves out what says nothing, so that a line can be read.
fn brief(mut line: String) -> String {
    let nothing = [
        ": None",
        ": false",
        ": UserProperties(b\"\")",
        ": MessageFields {  }",
        ": []",
        ": ReasonProperties {  }",
        ": PublishProperties {  }",
        ": ConnectProperties {  }",
        ": ConnAckProperties {  }",
        ": 18446744073709551615",
    ];
    for value in nothing {
        while let Some(end) = line.find(value) {
            let start = line[..end].rfind([' ', '{']).map_or(0, |space| space + 1);
            let mut rest = end + value.len();
            if line[rest..].starts_with(", ") {
                rest += 2;
            }
            line.replace_range(start..rest, "");
        }
    }
    line.replace("ConnId { index: ", "(").replace(", generation: ", " use ").replace(" })", ")")
}

fn packet_kind(packet: &petrel_proto::Packet) -> u8 {
    use petrel_proto::Packet as P;
    match packet {
        P::Connect(_) => 1,
        P::ConnAck(_) => 2,
        P::Publish(_) => 3,
        P::PubAck(_) => 4,
        P::PubRec(_) => 5,
        P::PubRel(_) => 6,
        P::PubComp(_) => 7,
        P::Subscribe(_) => 8,
        P::SubAck(_) => 9,
        P::Unsubscribe(_) => 10,
        P::UnsubAck(_) => 11,
        P::PingReq => 12,
        P::PingResp => 13,
        P::Disconnect(_) => 14,
        P::Auth(_) => 15,
    }
}
