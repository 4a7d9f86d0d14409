//! The floor below a broker: bytes from a publisher's socket to those of its subscribers.
//!
//! It knows as much MQTT 3.1.1 as `petrel-bench pair` needs: CONNECT and SUBSCRIBE are answered, and
//! the last level of a filter says to which publisher a subscriber is tied. From then on what a
//! publisher sends goes to each of its subscribers as it is: a receive for each wake of a socket, and
//! a send for each subscriber. Of QoS 1 it makes what no broker can do without: two receives and two
//! sends for the four packets. The publisher gets its PUBACKs at once, all of a receive with one send,
//! for which packets are looked at as far as their Packet Identifier; the subscriber's PUBACK is
//! received and goes nowhere. One thread, one epoll instance, one buffer. Over TLS a record is opened,
//! and one is sealed for each send, by the library as it is.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use petrel_proto::{Frame, Packet, Version, decode, frame};
use rustix::event::epoll::{self, CreateFlags};
use rustix::net::sockopt;
use rustls::ServerConnection;

use super::{LISTENER, listener, server_config, wait, watch};
use crate::pair::packets::header_bytes;

const READ_BYTES_MAX: usize = 64 << 10;

/// One client.
struct End {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
    role: Role,
    /// The start of a packet.
    input: BytesMut,
    /// The positions of those who get what it sends.
    subscribers: Vec<usize>,
    /// PUBACKs that are to be sent.
    answers: Vec<u8>,
}

/// What a client has shown itself to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing yet.
    New,
    /// What it sends goes nowhere.
    Subscriber,
    /// What it sends goes to its subscribers, and is acknowledged at QoS 1.
    Publisher { acknowledged: bool },
}

/// Relays until it is killed, over TLS with the files of a folder. Says its address once it listens.
pub fn serve(folder: Option<&Path>) -> Result<(), String> {
    let config = folder.map(server_config).transpose()?;
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
            let tls = config.as_ref().map(|it| ServerConnection::new(Arc::clone(it))).transpose();
            relay.ends.push(Some(End {
                stream,
                tls: tls.map_err(|error| error.to_string())?.map(Box::new),
                role: Role::New,
                input: BytesMut::new(),
                subscribers: Vec::new(),
                answers: Vec::new(),
            }));
        }
    }
}

#[derive(Default)]
struct Relay {
    /// By the number that epoll knows them by; what has ended leaves its place empty.
    ends: Vec<Option<End>>,
    /// By the numbers in their client identifiers.
    publishers: HashMap<Vec<u8>, usize>,
}

impl Relay {
    fn end(&mut self, index: usize) -> Option<&mut End> {
        self.ends.get_mut(index)?.as_mut()
    }

    fn turn(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), String> {
        let Some(end) = self.end(index) else { return Ok(()) };
        let Some(bytes) = end.receive(buffer)? else {
            self.ends[index] = None;
            return Ok(());
        };
        let bytes = &buffer[..bytes];
        if end.role == Role::New
            && let Some(first) = bytes.first()
        {
            if first >> 4 != 3 {
                end.input.extend_from_slice(bytes);
                return self.hello(index);
            }
            end.role = Role::Publisher { acknowledged: first >> 1 & 3 == 1 };
        }
        if let Role::Publisher { acknowledged } = end.role {
            if acknowledged {
                end.acknowledge(bytes)?;
            }
            let mut answers = std::mem::take(&mut end.answers);
            let subscribers = std::mem::take(&mut end.subscribers);
            for &subscriber in &subscribers {
                self.end(subscriber).map_or(Ok(()), |to| to.send(bytes))?;
            }
            if let Some(end) = self.end(index) {
                end.send(&answers)?;
                answers.clear();
                (end.answers, end.subscribers) = (answers, subscribers);
            }
        }
        Ok(())
    }

    /// Answers what a client begins with.
    fn hello(&mut self, index: usize) -> Result<(), String> {
        while let Some(end) = self.end(index)
            && let Frame::Complete(bytes) =
                frame(&end.input, u32::MAX).map_err(|error| error.to_string())?
        {
            let packet: Bytes = end.input.split_to(bytes).freeze();
            match decode(&packet, Some(Version::V3_1_1)) {
                Ok(Packet::Connect(connect)) => {
                    end.send(&[0x20, 2, 0, 0])?;
                    if let Some(number) = connect.client_id.as_str().strip_prefix("publisher-") {
                        self.publishers.insert(number.into(), index);
                    }
                }
                Ok(Packet::Subscribe(subscribe)) => {
                    let [high, low] = subscribe.packet_id.get().to_be_bytes();
                    end.role = Role::Subscriber;
                    end.send(&[0x90, 3, high, low, 0])?;
                    let filter = subscribe.filters.first().map(|it| &it.filter);
                    let number = filter.and_then(|it| it.levels().last()).unwrap_or_default();
                    let publisher = self.publishers.get(number).copied();
                    let publisher = publisher.and_then(|publisher| self.end(publisher));
                    publisher.ok_or("no publisher for a filter")?.subscribers.push(index);
                }
                Ok(Packet::Disconnect(_)) => {}
                other => return Err(format!("not what a client begins with: {other:?}")),
            }
        }
        Ok(())
    }
}

impl End {
    /// Receives once. `None` if the connection has ended.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, String> {
        let Some(tls) = &mut self.tls else {
            return Ok(match self.stream.read(buffer) {
                Ok(0) => None,
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
                Err(_) => None,
            });
        };
        match tls.read_tls(&mut self.stream) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(0)),
            Err(_) => return Ok(None),
        }
        tls.process_new_packets().map_err(|error| error.to_string())?;
        let mut bytes = 0;
        while bytes < buffer.len() {
            match tls.reader().read(&mut buffer[bytes..]) {
                Ok(0) => return Ok(None),
                Ok(more) => bytes += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Ok(None),
            }
        }
        // What a handshake has to say.
        self.send(&[])?;
        Ok(Some(bytes))
    }

    /// The load never has more on its way than a socket takes.
    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write_all(bytes).map_err(|error| error.to_string());
        };
        tls.writer().write_all(bytes).map_err(|error| error.to_string())?;
        while tls.wants_write() {
            tls.write_tls(&mut self.stream).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Puts the PUBACKs for what was received into `answers`.
    fn acknowledge(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        while let Frame::Complete(length) =
            frame(&self.input, u32::MAX).map_err(|error| error.to_string())?
        {
            let packet = self.input.split_to(length);
            let body = header_bytes(&packet).and_then(|at| packet.get(at..)).unwrap_or_default();
            let topic = body.first_chunk::<2>().map(|it| usize::from(u16::from_be_bytes(*it)));
            let id = topic.and_then(|topic| body.get(2 + topic..)?.first_chunk::<2>());
            let [high, low] = id.ok_or("not a PUBLISH of QoS 1")?;
            self.answers.extend_from_slice(&[0x40, 2, *high, *low]);
        }
        Ok(())
    }
}
