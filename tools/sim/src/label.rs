//! Labels: the part of a payload that tells every message of a run apart.

use bytes::Bytes;

/// Names one PUBLISH that a client made, or one will, or one message of the broker itself, within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// The n-th message of a client.
    Message(u32, u32),
    /// The n-th will of a client.
    Will(u32, u32),
    /// The n-th message that a shard publishes itself.
    Own(u32, u32),
    /// An empty payload, which clears a retained message. It carries no name of its own.
    Empty,
}

/// Bytes that a label takes in a payload.
pub const LABEL_BYTES: usize = 17;

impl Label {
    /// A payload that starts with the label and is at least `bytes` long. Plain ASCII, so that it
    /// may be declared to be text.
    #[must_use]
    pub fn payload(self, bytes: usize) -> Bytes {
        let (kind, client, number) = match self {
            Self::Message(client, number) => ('m', client, number),
            Self::Will(client, number) => ('w', client, number),
            Self::Own(shard, number) => ('o', shard, number),
            Self::Empty => return Bytes::new(),
        };
        let mut payload = format!("{kind}{client:08x}{number:08x}").into_bytes();
        payload.resize(payload.len().max(bytes), b'.');
        payload.into()
    }

    /// The label at the start of a payload.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        if payload.is_empty() {
            return Some(Self::Empty);
        }
        let text = std::str::from_utf8(payload.get(..LABEL_BYTES)?).ok()?;
        let client = u32::from_str_radix(text.get(1..9)?, 16).ok()?;
        let number = u32::from_str_radix(text.get(9..17)?, 16).ok()?;
        match text.as_bytes().first()? {
            b'm' => Some(Self::Message(client, number)),
            b'w' => Some(Self::Will(client, number)),
            b'o' => Some(Self::Own(client, number)),
            _ => None,
        }
    }
}
