//! Pages: messages that wait for one session, many in one value.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use petrel_shard::Incarnation;

use crate::codec;
use crate::store::StoreError;

/// A page is closed once it has this many bytes.
const PAGE_BYTES: usize = 32 << 10;

/// The key of a page: whose it is, and the sequence number of the first message in it.
pub(crate) fn key(incarnation: Incarnation, first: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(16);
    key.put_u64(incarnation.to_u64());
    key.put_u64(first);
    key.freeze()
}

/// The sequence number in the key of a page.
pub(crate) fn first(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Puts what waits into pages, each by its first sequence number. A page says first when the last of
/// it expires, on the wall clock.
pub(crate) fn write(waiting: &BTreeMap<u64, Bytes>) -> Vec<(u64, Bytes)> {
    let mut pages: Vec<(u64, BytesMut)> = Vec::new();
    let mut expires = 0u64;
    for (&sequence, value) in waiting {
        let open = pages.last_mut().filter(|(_, page)| page.len() < PAGE_BYTES);
        let page = match open {
            Some((_, page)) => page,
            None => {
                expires = 0;
                let mut page = BytesMut::with_capacity(value.len() + 20);
                page.put_u64(0);
                pages.push((sequence, page));
                let last = pages.len() - 1;
                &mut pages[last].1
            }
        };
        expires = expires.max(codec::expires_at_wall_ms(value).unwrap_or(u64::MAX));
        page[..8].copy_from_slice(&expires.to_be_bytes());
        page.put_u64(sequence);
        // A value is a packet of at most 256 MiB and a little more.
        page.put_u32(value.len() as u32);
        page.put_slice(value);
    }
    pages.into_iter().map(|(first, page)| (first, page.freeze())).collect()
}

/// When the last message of a page expires, on the wall clock; `u64::MAX` for never.
#[must_use]
pub fn expires_at_ms(page: &[u8]) -> u64 {
    page.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

/// What a page holds, in order.
pub(crate) fn read(page: &Bytes) -> Result<Vec<(u64, Bytes)>, StoreError> {
    let damaged = || StoreError::Damaged { what: "a page of messages cannot be read".into() };
    let mut rest = page.clone();
    rest.try_get_u64().map_err(|_| damaged())?;
    let mut entries = Vec::new();
    while rest.has_remaining() {
        let sequence = rest.try_get_u64().map_err(|_| damaged())?;
        let bytes = rest.try_get_u32().map_err(|_| damaged())? as usize;
        if rest.len() < bytes {
            return Err(damaged());
        }
        entries.push((sequence, rest.split_to(bytes)));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_out_of_pages_as_it_went_in() {
        let waiting: BTreeMap<u64, Bytes> =
            (0..500).map(|n| (n * 3, Bytes::from(vec![n as u8; 200]))).collect();
        let pages = write(&waiting);
        assert!(pages.len() > 2, "{}", pages.len());
        let mut read_back = BTreeMap::new();
        for (first, page) in &pages {
            let entries = read(page).unwrap();
            assert_eq!(entries[0].0, *first);
            read_back.extend(entries);
        }
        assert_eq!(read_back, waiting);
    }

    #[test]
    fn half_a_page_is_damage() {
        let waiting = BTreeMap::from([(1, Bytes::from_static(b"abc"))]);
        let page = write(&waiting).remove(0).1;
        for end in [0, 7, 9, 19, 22] {
            assert!(read(&page.slice(..end)).is_err(), "{end}");
        }
        assert!(read(&page).is_ok());
    }
}
