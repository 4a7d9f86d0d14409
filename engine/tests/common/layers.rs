//! TLS and WebSocket on the client's side, as streams that block.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use petrel_engine::config::TlsFiles;
use petrel_net::websocket::WebSocketClient;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Client;

/// Writes a certificate for `localhost` into a folder; the files, and what a client must trust.
pub fn certificate(folder: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let files = TlsFiles { cert: folder.join("server.pem"), key: folder.join("server.key") };
    std::fs::write(&files.cert, made.cert.pem()).expect("the folder can be written");
    std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("it can be written");
    (files, made.cert.der().clone())
}

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A TLS connection that trusts this certificate alone. The handshake is made by the first write.
pub fn tls(address: SocketAddr, trusted: &CertificateDer<'static>) -> TlsStream {
    tls_with(&tls_client(trusted), address)
}

/// What connections of one client have in common, its session tickets included.
pub fn tls_client(trusted: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a good certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A TLS connection of such a client. The handshake is made by the first write.
pub fn tls_with(config: &Arc<ClientConfig>, address: SocketAddr) -> TlsStream {
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::clone(config), name).expect("a good configuration");
    StreamOwned::new(connection, Client::open(address).stream)
}

/// A WebSocket over any stream.
pub struct WsStream<S> {
    stream: S,
    socket: WebSocketClient,
    plain: BytesMut,
}

impl<S: Read + Write> WsStream<S> {
    /// Does the upgrade.
    pub fn open(mut stream: S, path: &str) -> Self {
        let mut request = Vec::new();
        let socket = WebSocketClient::new("localhost", path, [7; 16], &mut request);
        stream.write_all(&request).expect("the broker reads");
        let mut this = Self { stream, socket, plain: BytesMut::new() };
        while !this.fill().expect("the broker upgrades") {}
        this
    }

    /// Reads once; true when the upgrade is complete.
    fn fill(&mut self) -> io::Result<bool> {
        let mut input = [0; 4096];
        // The rings of a broker that this thread started may interrupt it when they end.
        let bytes = loop {
            match self.stream.read(&mut input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let mut answers = Vec::new();
        let progress = self
            .socket
            .read(&input[..bytes], || [1, 2, 3, 4], &mut self.plain, &mut answers)
            .map_err(io::Error::other)?;
        self.stream.write_all(&answers)?;
        if bytes == 0 || progress.peer_closed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(progress.open)
    }
}

impl<S: Read + Write> Read for WsStream<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.plain.is_empty() {
            match self.fill() {
                Ok(_) => {}
                // What came with the end is read before it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    if self.plain.is_empty() {
                        return Ok(0);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let bytes = self.plain.len().min(out.len());
        self.plain.copy_to_slice(&mut out[..bytes]);
        Ok(bytes)
    }
}

impl<S: Read + Write> Write for WsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut frame = Vec::new();
        self.socket.write(bytes, [9, 8, 7, 6], &mut frame);
        self.stream.write_all(&frame)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
