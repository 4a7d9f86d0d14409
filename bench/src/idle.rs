//! Many connections that do nothing.

use std::io::Read;

use petrel_proto::SubscriptionOptions;

use crate::client::{Client, Server};
use crate::options::Idle;

/// Connects, says so, and holds until stdin ends.
pub fn run(options: &Idle) -> Result<(), String> {
    let mut clients = Vec::with_capacity(options.connections);
    let server = Server { address: options.address, version: options.version, tls: None };
    for number in 0..options.connections {
        let mut client = Client::open(server, number)?;
        client.hello(&format!("idle-{number}"))?;
        client.subscribe(&format!("device/{number}/command"), SubscriptionOptions::default())?;
        clients.push(client);
    }
    println!("holding {}", clients.len());
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).map_err(|error| error.to_string())?;
    Ok(())
}
