//! The floor below a broker: bytes from a publisher's socket to its subscriber's and back.
//!
//! It knows as much MQTT 3.1.1 as `petrel-bench pair` needs to begin: CONNECT and SUBSCRIBE are
//! answered, publisher and subscriber number n are tied together, and from then on nothing is looked
//! at. One thread, one epoll instance, one buffer: a receive and a send for each wake of a socket.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use bytes::{Bytes, BytesMut};
use petrel_proto::{Frame, Packet, Version, decode, frame};
use rustix::event::epoll::{self, CreateFlags};
use rustix::net::sockopt;

use super::{LISTENER, listener, wait, watch};

const READ_BYTES_MAX: usize = 64 << 10;

/// One end of a pair.
struct End {
    stream: TcpStream,
    input: BytesMut,
    name: String,
    /// The position of the other end, once there is one.
    other: Option<usize>,
}

/// Relays until it is killed. Says its address once it listens.
pub fn serve() -> Result<(), String> {
    let listener = listener()?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    watch(&epoll, &listener, LISTENER)?;
    println!("listening on {address}");
    let mut relay = Relay::default();
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        for number in wait(&epoll)? {
            if number != LISTENER {
                relay.turn(number as usize, &mut buffer)?;
                continue;
            }
            let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
            stream.set_nonblocking(true).map_err(|error| error.to_string())?;
            sockopt::set_tcp_nodelay(&stream, true).map_err(|error| error.to_string())?;
            watch(&epoll, &stream, relay.ends.len() as u64)?;
            let (input, name) = (BytesMut::new(), String::new());
            relay.ends.push(Some(End { stream, input, name, other: None }));
        }
    }
}

#[derive(Default)]
struct Relay {
    /// By the number that epoll knows them by; what has ended leaves its place empty.
    ends: Vec<Option<End>>,
    publishers: HashMap<String, usize>,
}

impl Relay {
    fn turn(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), String> {
        let Some(end) = self.ends.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let bytes = match end.stream.read(buffer) {
            Ok(0) => 0,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        if bytes == 0 {
            self.ends[index] = None;
            return Ok(());
        }
        let Some(other) = end.other else {
            end.input.extend_from_slice(&buffer[..bytes]);
            return self.hello(index);
        };
        match self.ends.get_mut(other).and_then(Option::as_mut) {
            // The load never has more on its way than a socket takes.
            Some(to) => to.stream.write_all(&buffer[..bytes]).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Answers what a client begins with.
    fn hello(&mut self, index: usize) -> Result<(), String> {
        let Some(end) = self.ends.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        while let Frame::Complete(bytes) =
            frame(&end.input, u32::MAX).map_err(|error| error.to_string())?
        {
            let packet: Bytes = end.input.split_to(bytes).freeze();
            let answer = match decode(&packet, Some(Version::V3_1_1)) {
                Ok(Packet::Connect(connect)) => {
                    end.name = connect.client_id.as_str().to_owned();
                    if let Some(number) = end.name.strip_prefix("publisher-") {
                        self.publishers.insert(number.to_owned(), index);
                    }
                    vec![0x20, 2, 0, 0]
                }
                Ok(Packet::Subscribe(subscribe)) => {
                    let number = end.name.strip_prefix("subscriber-").unwrap_or_default();
                    end.other = self.publishers.get(number).copied();
                    let [high, low] = subscribe.packet_id.get().to_be_bytes();
                    vec![0x90, 3, high, low, 0]
                }
                other => return Err(format!("not what a pair begins with: {other:?}")),
            };
            end.stream.write_all(&answer).map_err(|error| error.to_string())?;
        }
        if let Some(publisher) = end.other
            && let Some(publisher) = self.ends.get_mut(publisher).and_then(Option::as_mut)
        {
            publisher.other = Some(index);
        }
        Ok(())
    }
}
