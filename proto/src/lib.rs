//! MQTT 3.1, 3.1.1 and 5: bytes to packets and back.
//!
//! One packet family serves all three versions; the version is a parameter of [`decode()`] and
//! [`encode()`]. The crate owns the syntax and the rules that one packet alone can break. It never
//! holds state about a connection or a session, does no I/O and does not panic on any input: the
//! lints below hold that.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod decode;
pub mod encode;
pub mod error;
pub mod packet;
pub mod property;
pub mod reason;
pub mod text;
pub mod topic;
pub mod types;
pub mod varint;

pub use decode::{Frame, connect_version, decode, decode_front, frame};
pub use encode::{PublishHead, SharedHead, Written, encode, encoded_len};
pub use error::DecodeError;
pub use packet::*;
pub use property::{
    MessageFields, MessageProperties, PublishProperties, ReasonProperties, UserProperties,
};
pub use reason::ReasonCode;
pub use text::{ClientId, Text};
pub use topic::{ShareName, SharedFilter, TopicFilter, TopicName};
pub use types::{PacketId, PayloadFormat, Qos, RetainHandling, Version};
