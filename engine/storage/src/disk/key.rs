//! Keys that are longer than fjall takes: the filter of a subscription may have 65,535 bytes, and 8 of
//! an incarnation stand before it.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use crate::store::StoreError;

/// A stored key of this length is a beginning and a hash; its end stands behind its value.
const LONG_BYTES: usize = 65_535;
const HASH_BYTES: usize = 16;
const BEGINNING_BYTES: usize = LONG_BYTES - HASH_BYTES;

/// The key under which a key is stored.
pub(super) fn shorten(key: Bytes) -> Bytes {
    if key.len() < LONG_BYTES {
        return key;
    }
    let mut short = BytesMut::with_capacity(LONG_BYTES);
    short.put_slice(&key[..BEGINNING_BYTES]);
    short.put_u128(xxh3_128(&key));
    short.freeze()
}

/// What is stored of an entry.
pub(super) fn shorten_entry(key: Bytes, value: Bytes) -> (Bytes, Bytes) {
    if key.len() < LONG_BYTES {
        return (key, value);
    }
    let end = &key[BEGINNING_BYTES..];
    let mut long = BytesMut::with_capacity(value.len() + end.len() + 4);
    long.put_slice(&value);
    long.put_slice(end);
    // Keys have a few bytes more than 65,535.
    long.put_u32(end.len() as u32);
    (shorten(key.clone()), long.freeze())
}

/// The entry of which this is stored.
pub(crate) fn restore(key: Bytes, value: Bytes) -> Result<(Bytes, Bytes), StoreError> {
    if key.len() < LONG_BYTES {
        return Ok((key, value));
    }
    let damaged = || StoreError::Damaged {
        what: format!("a long key has no end: {}...", key[..64].escape_ascii()),
    };
    let (rest, count) = value.split_last_chunk::<4>().ok_or_else(damaged)?;
    let end = rest.len().checked_sub(u32::from_be_bytes(*count) as usize).ok_or_else(damaged)?;
    let mut whole = BytesMut::with_capacity(LONG_BYTES + HASH_BYTES);
    whole.put_slice(&key[..BEGINNING_BYTES]);
    whole.put_slice(&rest[end..]);
    Ok((whole.freeze(), value.slice(..end)))
}
