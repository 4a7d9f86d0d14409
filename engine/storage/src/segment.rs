//! A file of the log: frames, one behind the other, each a batch.
//!
//! Files are used again, since to write over what is allocated costs a synchronisation half of what it
//! costs to extend a file; so what stands behind the last frame may be the rest of an earlier life of
//! the file. Each sector ends in a mark, made of a key that each life of the file has and the sector's
//! place, by which it can be told which sectors of a frame have been written in this life: if one has not,
//! the frame was torn by a failure, was never synchronised, and does not count; if all have and the
//! checksum is wrong, the frame is damaged, and that must be said. No client knows the key, so none can
//! send what looks like a frame.
//!
//! A frame begins on a page. It is a head (payload bytes u32, number u64, durable u64, checksum u64, sum
//! of the head u32, little-endian) and the payload, cut into sectors of 504 bytes and a mark, and
//! zeros up to the end of the page. The first page of a file holds a frame whose number is that of the
//! first batch that may be in the file; it tells the key, and its own key is the file's number.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Frames begin at multiples of this.
pub(crate) const PAGE_BYTES: usize = 4096;
/// What a disk writes whole or not at all, at least.
const SECTOR_BYTES: usize = 512;
/// A mark at the end of each sector.
const MARK_BYTES: usize = 8;
const BODY_BYTES: usize = SECTOR_BYTES - MARK_BYTES;
const HEAD_BYTES: usize = 32;
/// A mark with so many bits wrong has been written and damaged; what stands there by chance differs in
/// 32 or so.
const WRONG_BITS_MAX: u32 = 8;

/// What the first page of a file says behind its head.
const MAGIC: &[u8; 8] = b"petrel\x00\x01";

/// One batch in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The number of the batch.
    pub(crate) number: u64,
    /// When it was written, all batches below this number were known to survive.
    pub(crate) durable: u64,
    /// The batch.
    pub(crate) payload: Bytes,
}

/// What comes behind the last whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing of this life of the file.
    Unwritten,
    /// A frame of which not all was written.
    Torn,
    /// A frame that was written and cannot be read.
    Damaged,
}

/// What is in a file.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Whole frames from the beginning on.
    pub(crate) frames: Vec<Frame>,
    /// Where the last of them ends.
    pub(crate) whole_bytes: usize,
    /// What comes then.
    pub(crate) rest: Rest,
    /// Whole frames that stand behind that.
    pub(crate) behind: Vec<Frame>,
}

/// Bytes of a file that a frame takes.
pub(crate) const fn frame_bytes(payload_bytes: usize) -> usize {
    let sectors = (HEAD_BYTES + payload_bytes).div_ceil(BODY_BYTES);
    (sectors * SECTOR_BYTES).next_multiple_of(PAGE_BYTES)
}

fn mark(key: u64, sector: usize) -> u64 {
    xxh3_64_with_seed(&(sector as u64).to_le_bytes(), key)
}

fn checksum(key: u64, head: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::with_seed(key);
    hasher.update(head);
    hasher.update(payload);
    hasher.digest()
}

/// Appends a frame to `out`, for a place in a file.
///
/// *Bounds*: a batch has less than 4 GiB.
pub(crate) fn put(out: &mut Vec<u8>, key: u64, at: usize, frame: &Frame) {
    let mut head = [0; HEAD_BYTES];
    let mut rest = &mut head[..];
    rest.put_u32_le(frame.payload.len() as u32);
    rest.put_u64_le(frame.number);
    rest.put_u64_le(frame.durable);
    let sum = checksum(key, &head[..20], &frame.payload);
    head[20..28].copy_from_slice(&sum.to_le_bytes());
    let sum = xxh3_64(&head[..28]) as u32;
    head[28..].copy_from_slice(&sum.to_le_bytes());
    let begin = out.len();
    let mut sector = at / SECTOR_BYTES;
    let mut body = head.chain(&frame.payload[..]);
    while body.has_remaining() {
        let take = body.remaining().min(BODY_BYTES);
        let end = out.len() + SECTOR_BYTES;
        out.put((&mut body).take(take));
        out.resize(end - MARK_BYTES, 0);
        out.extend_from_slice(&mark(key, sector).to_le_bytes());
        sector += 1;
    }
    let padded = (out.len() - begin).next_multiple_of(PAGE_BYTES);
    out.resize(begin + padded, 0);
}

/// Appends the first page of the file of this number, for a life with a key.
pub(crate) fn put_header(out: &mut Vec<u8>, file: u64, key: u64, first: u64) {
    let mut payload = BytesMut::from(&MAGIC[..]);
    payload.put_u64_le(key);
    put(out, file, 0, &Frame { number: first, durable: 0, payload: payload.freeze() });
}

/// The number of the first batch that may be in a file, and its key; `None` if its first page does not
/// say that it is this file.
pub(crate) fn read_header(bytes: &[u8], file: u64) -> Option<(u64, u64)> {
    let Frame { number, mut payload, .. } = frame(bytes, file, 0).ok()?;
    let is_it = payload.len() == 16 && payload.starts_with(MAGIC);
    is_it.then(|| {
        payload.advance(MAGIC.len());
        (number, payload.get_u64_le())
    })
}

/// The key of a file whose first page cannot be read, if no more than one of its bits is wrong and a
/// frame was written with it.
pub(crate) fn guess_key(bytes: &[u8]) -> Option<u64> {
    let at = HEAD_BYTES + MAGIC.len();
    let written = bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)?;
    let others = (0..u64::BITS).map(|bit| written ^ 1 << bit);
    let mut keys = std::iter::once(written).chain(others);
    keys.find(|key| is_written(bytes, *key, PAGE_BYTES / SECTOR_BYTES))
}

/// True if a sector was written in this life of the file.
fn is_written(bytes: &[u8], key: u64, sector: usize) -> bool {
    let end = (sector + 1) * SECTOR_BYTES;
    let Some(found) = bytes.get(end - MARK_BYTES..end) else { return false };
    let found = found.try_into().map_or(0, u64::from_le_bytes);
    (found ^ mark(key, sector)).count_ones() <= WRONG_BITS_MAX
}

/// The frame that begins at a place.
fn frame(bytes: &[u8], key: u64, at: usize) -> Result<Frame, Rest> {
    let sector = at / SECTOR_BYTES;
    if !is_written(bytes, key, sector) {
        return Err(Rest::Unwritten);
    }
    let head = &bytes[at..at + HEAD_BYTES];
    // A sector is written whole.
    if (xxh3_64(&head[..28]) as u32).to_le_bytes() != head[28..] {
        return Err(Rest::Damaged);
    }
    let mut rest = head;
    let payload_bytes = rest.get_u32_le() as usize;
    let (number, durable, sum) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
    let sectors = (HEAD_BYTES + payload_bytes).div_ceil(BODY_BYTES);
    if (sector..sector + sectors).any(|sector| !is_written(bytes, key, sector)) {
        return Err(Rest::Torn);
    }
    let mut payload = BytesMut::with_capacity(sectors * BODY_BYTES);
    for sector in bytes[at..at + sectors * SECTOR_BYTES].chunks_exact(SECTOR_BYTES) {
        payload.put_slice(&sector[..BODY_BYTES]);
    }
    let mut payload = payload.freeze();
    payload.advance(HEAD_BYTES);
    payload.truncate(payload_bytes);
    if checksum(key, &head[..20], &payload) != sum {
        return Err(Rest::Damaged);
    }
    Ok(Frame { number, durable, payload })
}

/// Reads a file from its second page on.
pub(crate) fn read(bytes: &[u8], key: u64) -> Segment {
    let mut frames = Vec::new();
    let mut at = PAGE_BYTES;
    let rest = loop {
        match frame(bytes, key, at) {
            Ok(frame) => {
                at += frame_bytes(frame.payload.len());
                frames.push(frame);
            }
            Err(rest) => break rest,
        }
    };
    let whole_bytes = at;
    let mut behind = Vec::new();
    at += PAGE_BYTES;
    while at < bytes.len() {
        match frame(bytes, key, at) {
            Ok(frame) => {
                at += frame_bytes(frame.payload.len());
                behind.push(frame);
            }
            Err(_) => at += PAGE_BYTES,
        }
    }
    Segment { frames, whole_bytes, rest, behind }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: u64 = 7;
    const KEY: u64 = 0x1234_5678_9abc_def0;

    fn frames() -> Vec<Frame> {
        let sizes = [0, 1, 400, 472, 473, 4000, 9000, 100];
        let frame = |(at, bytes): (usize, usize)| Frame {
            number: 10 + at as u64,
            durable: 10,
            payload: Bytes::from((0..bytes).map(|n| (n * 31 + at) as u8).collect::<Vec<_>>()),
        };
        sizes.into_iter().enumerate().map(frame).collect()
    }

    /// A life of a file with all frames, over what was there before, and where each frame ends.
    fn file(key: u64, mut before: Vec<u8>) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        put_header(&mut bytes, FILE, key, 10);
        let mut ends = Vec::new();
        for frame in frames() {
            let at = bytes.len();
            put(&mut bytes, key, at, &frame);
            assert_eq!(bytes.len(), at + frame_bytes(frame.payload.len()));
            ends.push(bytes.len());
        }
        before.resize(1 << 16, 0);
        before[..bytes.len()].copy_from_slice(&bytes);
        (before, ends)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let earlier = file(KEY + 1, Vec::new()).0;
        for before in [Vec::new(), earlier, vec![0xff; 1 << 16]] {
            let (bytes, ends) = file(KEY, before);
            assert_eq!(read_header(&bytes, FILE), Some((10, KEY)));
            assert_eq!(read_header(&bytes, FILE + 1), None);
            let found = read(&bytes, KEY);
            assert_eq!(found.frames, frames());
            assert_eq!((found.whole_bytes, found.rest), (ends[7], Rest::Unwritten));
            assert!(found.behind.is_empty());
        }
    }

    #[test]
    fn of_an_earlier_life_of_a_file_nothing_is_read() {
        let (mut bytes, ends) = file(KEY, file(KEY + 1, Vec::new()).0);
        // The last two frames are those of the earlier life.
        let earlier = file(KEY + 1, Vec::new()).0;
        bytes[ends[5]..].copy_from_slice(&earlier[ends[5]..]);
        let found = read(&bytes, KEY);
        assert_eq!((found.frames.len(), found.rest), (6, Rest::Unwritten));
    }

    proptest! {
        /// Any sectors of the last frame may be missing, but not all: then it is torn.
        #[test]
        fn a_frame_of_which_a_sector_is_missing_is_torn(
            missing in prop::collection::btree_set(1usize..19, 1..18),
            zeros in any::<bool>(),
        ) {
            let earlier = if zeros { vec![0; 1 << 16] } else { file(KEY + 1, Vec::new()).0 };
            let (mut bytes, ends) = file(KEY, Vec::new());
            bytes.truncate(ends[6]);
            for sector in missing {
                let at = ends[5] + (sector - 1) * SECTOR_BYTES;
                bytes[at..at + SECTOR_BYTES].copy_from_slice(&earlier[at..at + SECTOR_BYTES]);
            }
            let found = read(&bytes, KEY);
            prop_assert_eq!(found.frames.len(), 6);
            prop_assert!(found.rest != Rest::Damaged);
            prop_assert!(found.behind.is_empty());
        }

        /// A bit that has flipped in the last frame or in another takes nothing away in silence.
        #[test]
        fn a_bit_that_flips_is_damage_or_does_no_harm(bit in 0usize..(9 << 15)) {
            let (mut bytes, ends) = file(KEY, file(KEY + 1, Vec::new()).0);
            let at = PAGE_BYTES + bit / 8 % (ends[7] - PAGE_BYTES);
            bytes[at] ^= 1 << (bit % 8);
            let found = read(&bytes, KEY);
            if found.rest == Rest::Unwritten {
                prop_assert_eq!(found.frames, frames());
            } else {
                prop_assert_eq!(found.rest, Rest::Damaged);
            }
        }
    }
}
