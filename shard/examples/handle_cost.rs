//! What the shard does for one message, to be counted under callgrind.
//!
//! `handle_cost WHAT ROUNDS [CLIENTS]` with WHAT one of `qos0`, `qos1`, `qos2`, `session`. Each round
//! is one message from a client to another one with all its acknowledgements, or one session from
//! CONNECT through SUBSCRIBE to its end. Instructions per round: run it with two numbers of rounds
//! and divide the difference.

#[path = "../tests/rig/mod.rs"]
mod rig;

use petrel_proto::Qos;
use rig::{Asks, Rig, topic};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let what = args.get(1).map_or("qos0", String::as_str);
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u32>().ok());
    let (rounds, clients) = (number(2).unwrap_or(1_000), number(3).unwrap_or(1_000));
    let mut rig = Rig::new();
    for client in 0..clients {
        begin(&mut rig, client);
    }
    // Identifiers are given in turn, one for each message to a client.
    let mut given = vec![0u16; clients as usize];
    for round in 0..rounds {
        let (from, to) = (round % clients, (round + 1) % clients);
        let qos = match what {
            "qos0" => Qos::AtMostOnce,
            "qos1" => Qos::AtLeastOnce,
            "qos2" => Qos::ExactlyOnce,
            _ => {
                begin(&mut rig, clients);
                rig.close(clients);
                continue;
            }
        };
        given[to as usize] = given[to as usize] % u16::MAX + 1;
        rig.exchange(from, to, qos, given[to as usize]);
    }
    println!("{:?}", rig.shard.census());
}

fn begin(rig: &mut Rig, client: u32) {
    rig.connect(client, Asks { keep_alive_s: 60, ..Asks::default() });
    rig.subscribe(client, &topic(client), Qos::ExactlyOnce);
}
