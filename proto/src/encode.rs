//! Packets to bytes.

use bytes::BufMut;

use crate::{Packet, PacketId, PublishProperties, Qos, Version};

/// A PUBLISH without its payload, borrowed, with the fields that differ per receiver apart from
/// the message's own properties.
#[derive(Debug, Clone, Copy)]
pub struct PublishHead<'a> {
    /// Set on a retransmission.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name; empty if the alias stands in for it.
    pub topic: &'a [u8],
    /// Present exactly when the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Length of the payload that follows, in bytes.
    pub payload_bytes: usize,
    /// Replaces the Message Expiry Interval of `properties`.
    pub message_expiry_interval_s: Option<u32>,
    /// Replaces the Topic Alias of `properties`.
    pub topic_alias: Option<u16>,
    /// Replaces the Subscription Identifiers of `properties`.
    pub subscription_identifiers: &'a [u32],
    /// Everything else comes from here.
    pub properties: &'a PublishProperties,
}

impl PublishHead<'_> {
    /// Length of the whole packet on the wire, payload included, in bytes; `None` if no packet
    /// can be that long.
    #[must_use]
    pub fn packet_bytes(&self, version: Version) -> Option<usize> {
        let _ = version;
        None
    }

    /// Appends everything up to the payload.
    pub fn encode(&self, version: Version, out: &mut impl BufMut) {
        let _ = (version, out);
    }
}

/// Length of the packet on the wire, in bytes; `None` if no packet can be that long.
#[must_use]
pub fn encoded_len(packet: &Packet, version: Version) -> Option<usize> {
    let _ = (packet, version);
    None
}

/// Appends the packet, exactly [`encoded_len`] bytes. Properties are left out before MQTT 5.
pub fn encode(packet: &Packet, version: Version, out: &mut impl BufMut) {
    let _ = (packet, version, out);
}
