//! Bytes in and out: sockets, TLS and WebSocket. Knows packets, not sessions.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod tls;
pub mod websocket;
