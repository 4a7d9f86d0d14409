//! A table of fjall, block by block: each has a head with a checksum of its own and one of its contents.

use bytes::{Bytes, BytesMut};
use lsm_tree::coding::Decode as _;
use lsm_tree::table::block::{BlockType, Header};
use lsm_tree::table::{Block, DataBlock};
use lsm_tree::{CompressionType, ValueType};

use super::{Value, Version};
use crate::store::StoreError;

/// Where a block begins.
const MAGIC: &[u8] = b"LSM\x03";

/// A part of a table that cannot be read and may have held entries.
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) upto: u64,
    /// The last key that can be read before it, and the first one after it.
    pub(super) behind: Option<Bytes>,
    pub(super) before: Option<Bytes>,
}

/// Shows the entries of a table. Returns what cannot be read of the part that holds them.
pub(super) fn read(
    bytes: &Bytes,
    show: &mut dyn FnMut(Version) -> Result<(), StoreError>,
) -> Result<Vec<Gap>, StoreError> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut last_key: Option<Bytes> = None;
    // Since where nothing could be read, and behind which key.
    let mut gap: Option<(usize, Option<Bytes>)> = None;
    let mut at = 0;
    // Entries come first, then what helps to find them.
    while at < bytes.len() {
        let Some((length, block)) = block(&bytes[at..]) else {
            gap.get_or_insert_with(|| (at, last_key.clone()));
            at = next_block(bytes, at + 1);
            continue;
        };
        if let Some(block) = block {
            let is_data = block.header.block_type == BlockType::Data;
            let mut first_key = None;
            if is_data {
                for version in versions(block) {
                    first_key.get_or_insert_with(|| version.key.clone());
                    last_key = Some(version.key.clone());
                    show(version)?;
                }
            }
            if let Some((from, behind)) = gap.take() {
                gaps.push(Gap { from: from as u64, upto: at as u64, behind, before: first_key });
            }
            if !is_data {
                return Ok(gaps);
            }
        } else {
            gap.get_or_insert_with(|| (at, last_key.clone()));
        }
        at += length;
    }
    // The part behind the entries is not there, so nobody knows how many there were.
    let (from, behind) = gap.unwrap_or((at, last_key));
    gaps.push(Gap { from: from as u64, upto: bytes.len() as u64, behind, before: None });
    Ok(gaps)
}

/// The block at the beginning of `bytes`: its length, and itself if it is whole. `None` if there is
/// none whose head can be read.
fn block(bytes: &[u8]) -> Option<(usize, Option<Block>)> {
    let header = Header::decode_from(&mut &bytes[..]).ok()?;
    let length = Header::serialized_len() + header.data_length as usize;
    if length > bytes.len() {
        return None;
    }
    Some((length, Block::from_reader(&mut &bytes[..length], CompressionType::None).ok()))
}

/// Where the next block begins that has a whole head, from `at` on.
fn next_block(bytes: &[u8], at: usize) -> usize {
    let mut from = at;
    while let Some(found) = bytes[from..].windows(MAGIC.len()).position(|it| it == MAGIC) {
        from += found;
        if block(&bytes[from..]).is_some() {
            return from;
        }
        from += 1;
    }
    bytes.len()
}

/// The entries of a block whose checksum was right.
fn versions(block: Block) -> Vec<Version> {
    let block = DataBlock::new(block);
    let bytes: Bytes = block.inner.data.clone().into();
    let entries = block.iter().map(|entry| {
        let end = bytes.slice(entry.key.0..entry.key.1);
        let key = match &entry.prefix {
            None => end,
            Some(prefix) => {
                let mut key = BytesMut::from(&bytes[prefix.0..prefix.1]);
                key.extend_from_slice(&end);
                key.freeze()
            }
        };
        let value = entry.value.as_ref().map(|value| bytes.slice(value.0..value.1));
        let value = match (entry.value_type, value) {
            (ValueType::Value, Some(value)) => Value::Here(value),
            (ValueType::Indirection, Some(value)) => place(&value).unwrap_or(Value::Removed),
            _ => Value::Removed,
        };
        Version { key, number: entry.seqno, value }
    });
    entries.collect()
}

/// Where a blob lies: its place, its file and its length, seven bits to a byte, the lowest first.
fn place(mut bytes: &[u8]) -> Option<Value> {
    let mut number = || {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first()?;
            bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    };
    let (at, file) = (number()?, number()?);
    Some(Value::Blob { file, at, bytes: u32::try_from(number()?).ok()? })
}
