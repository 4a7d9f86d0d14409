//! The floor below a TLS broker: handshakes of the library over sockets, and nothing else.
//!
//! `floor-tls` is the server, one thread with one epoll instance; `handshakes` is a client that does no
//! more either. What a broker costs beyond this is its own.

pub mod relay;

use std::io::{ErrorKind, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};

use crate::client::from_loopback;
use crate::load::tls::{Layer, TlsClient};
use crate::options::Handshakes;

/// The number by which epoll names the listener.
const LISTENER: u64 = u64::MAX;
const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 16_384;

/// Serves until it is killed. Says its address once it listens.
pub fn serve(folder: &Path) -> Result<(), String> {
    let config = server_config(folder)?;
    let listener = listener()?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    watch(&epoll, &listener, LISTENER)?;
    println!("listening on {address}");
    let mut held: Vec<Option<(TcpStream, ServerConnection)>> = Vec::new();
    let mut free = Vec::new();
    loop {
        for number in wait(&epoll)? {
            if number == LISTENER {
                accept_all(&listener, &config, &epoll, &mut held, &mut free)?;
                continue;
            }
            let index = number as usize;
            let Some(slot) = held.get_mut(index) else { continue };
            if slot.as_mut().is_some_and(|(stream, conn)| !turn(stream, conn)) {
                *slot = None;
                free.push(index);
            }
        }
    }
}

/// The suites, the groups and the tickets are those of Petrel.
fn server_config(folder: &Path) -> Result<Arc<ServerConfig>, String> {
    let mut provider = default_provider();
    provider.cipher_suites =
        vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    let pem = |error| format!("{}: {error:?}", folder.display());
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem")).map_err(pem)?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(pem)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).map_err(pem)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|it| it.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().map_err(|error| error.to_string())?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn listener() -> Result<TcpListener, String> {
    let fail = |error: rustix::io::Errno| error.to_string();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).map_err(fail)?;
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).map_err(fail)?;
    listen(&socket, BACKLOG).map_err(fail)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(listener)
}

fn watch(epoll: &OwnedFd, of: impl rustix::fd::AsFd, number: u64) -> Result<(), String> {
    epoll::add(epoll, of, EventData::new_u64(number), EventFlags::IN)
        .map_err(|error| error.to_string())
}

fn wait(epoll: &OwnedFd) -> Result<Vec<u64>, String> {
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(events.iter().map(|it| it.data.u64()).collect())
}

fn accept_all(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    epoll: &OwnedFd,
    held: &mut Vec<Option<(TcpStream, ServerConnection)>>,
    free: &mut Vec<usize>,
) -> Result<(), String> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        sockopt::set_tcp_nodelay(&stream, true).map_err(|error| error.to_string())?;
        let conn = ServerConnection::new(Arc::clone(config)).map_err(|error| error.to_string())?;
        let index = free.pop().unwrap_or_else(|| {
            held.push(None);
            held.len() - 1
        });
        watch(epoll, &stream, index as u64)?;
        held[index] = Some((stream, conn));
    }
}

/// Reads, thinks, answers. False once the connection is over.
fn turn(stream: &mut TcpStream, conn: &mut ServerConnection) -> bool {
    match conn.read_tls(stream) {
        Ok(0) => return false,
        Ok(_) => {}
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    }
    if conn.process_new_packets().is_err() {
        return false;
    }
    while conn.wants_write() {
        match conn.write_tls(stream) {
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Handshakes with a server and nothing else; all connections are held until stdin ends.
///
/// Prints `warm` and waits for a line before what is to be measured, `done` after it.
pub fn handshakes(asked: &Handshakes) -> Result<(), String> {
    let tls = TlsClient::new(None, asked.resume, asked.count)?;
    if asked.resume {
        drop(pass(asked, &tls)?);
    }
    println!("warm");
    std::io::stdin().read_line(&mut String::new()).map_err(|error| error.to_string())?;
    let held = pass(asked, &tls)?;
    println!("done {}", held.len());
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).map_err(|error| error.to_string())?;
    Ok(())
}

/// A client's end of a handshake.
struct Client {
    stream: TcpStream,
    layer: Layer,
    complete: bool,
}

fn pass(asked: &Handshakes, tls: &TlsClient) -> Result<Vec<Client>, String> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut clients: Vec<Client> = Vec::with_capacity(asked.count);
    let mut complete = 0;
    let mut scratch = vec![0; 16 * 1024];
    while complete < asked.count {
        while clients.len() < asked.count && clients.len() - complete < asked.under_way {
            let client = begin(asked.address, clients.len(), tls)?;
            watch(&epoll, &client.stream, clients.len() as u64)?;
            clients.push(client);
        }
        for number in wait(&epoll)? {
            let client = &mut clients[number as usize];
            complete += usize::from(client.turn(&mut scratch)?);
        }
    }
    Ok(clients)
}

fn begin(server: SocketAddr, number: usize, tls: &TlsClient) -> Result<Client, String> {
    let mut stream = from_loopback(server, number)?;
    sockopt::set_tcp_nodelay(&stream, true).map_err(|error| error.to_string())?;
    let mut hello = Vec::new();
    let layer = tls.begin(&mut hello)?;
    stream.write_all(&hello).map_err(|error| error.to_string())?;
    stream.set_nonblocking(true).map_err(|error| error.to_string())?;
    Ok(Client { stream, layer, complete: false })
}

impl Client {
    /// True at the moment when the handshake is complete and the server has had its Finished: its
    /// ticket, which it sends thereafter, has come.
    fn turn(&mut self, scratch: &mut [u8]) -> Result<bool, String> {
        let len = match self.stream.read(scratch) {
            Ok(0) => return Err("the server closed a connection".to_owned()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let was_ready = self.layer.is_ready();
        let mut answer = Vec::new();
        self.layer.read(&mut scratch[..len], &mut BytesMut::new(), &mut answer)?;
        self.stream.write_all(&answer).map_err(|error| error.to_string())?;
        let now = was_ready && !self.complete;
        self.complete |= now;
        Ok(now)
    }
}
