//! Pages: messages that wait for one session, many in one value.

use bytes::{BufMut, Bytes, BytesMut};
use petrel_shard::Incarnation;

use crate::codec;
use crate::store::StoreError;

/// A page is closed once it has this many bytes; in tests, so few that a session has many.
const PAGE_BYTES: usize = if cfg!(test) { 300 } else { 32 << 10 };

/// The key of a page: whose it is, and the sequence number of the last message in it. So a scan from
/// any number on begins with the page that has it.
pub(crate) fn key(incarnation: Incarnation, last: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(16);
    key.put_u64(incarnation.to_u64());
    key.put_u64(last);
    key.freeze()
}

/// The sequence number in the key of a page: its last.
pub(crate) fn last(key: &[u8]) -> u64 {
    key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The sequence number of the first message in a page.
pub(crate) fn first(page: &[u8]) -> u64 {
    let number = page.get(8..).and_then(|rest| rest.first_chunk::<8>());
    number.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Puts what waits into pages, each by its last sequence number. A page says first when the last of
/// it expires, on the wall clock.
pub(crate) fn write<'a>(waiting: impl IntoIterator<Item = (u64, &'a Bytes)>) -> Vec<(u64, Bytes)> {
    let mut pages: Vec<(u64, BytesMut)> = Vec::new();
    let mut expires = 0u64;
    for (sequence, value) in waiting {
        if pages.last().is_none_or(|(_, page)| page.len() >= PAGE_BYTES) {
            expires = 0;
            let mut page = BytesMut::with_capacity(value.len() + 20);
            page.put_u64(0);
            pages.push((sequence, page));
        }
        let Some((last, page)) = pages.last_mut() else { continue };
        *last = sequence;
        expires = expires.max(codec::expires_at_wall_ms(value).unwrap_or(u64::MAX));
        page[..8].copy_from_slice(&expires.to_be_bytes());
        page.put_u64(sequence);
        // A value is a packet of at most 256 MiB and a little more.
        page.put_u32(value.len() as u32);
        page.put_slice(value);
    }
    pages.into_iter().map(|(last, page)| (last, page.freeze())).collect()
}

/// When the last message of a page expires, on the wall clock; `u64::MAX` for never.
#[must_use]
pub fn expires_at_ms(page: &[u8]) -> u64 {
    page.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

/// What a page holds, in order, without a copy; nothing comes behind an error.
pub(crate) fn entries(page: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), StoreError>> {
    let mut rest = page.get(8..);
    std::iter::from_fn(move || {
        let now = match rest {
            Some([]) => return None,
            Some(now) => now,
            None => &[],
        };
        let entry = entry(now);
        rest = entry.map_or(Some(&[]), |(_, _, rest)| Some(rest));
        let damaged = || StoreError::Damaged { what: "a page of messages cannot be read".into() };
        Some(entry.map(|(sequence, value, _)| (sequence, value)).ok_or_else(damaged))
    })
}

/// The first of these entries: its sequence number, its value, and what comes behind it.
fn entry(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (sequence, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((u64::from_be_bytes(*sequence), value, rest))
}

/// The same, all of it, as parts of the page.
pub(crate) fn read(page: &Bytes) -> Result<Vec<(u64, Bytes)>, StoreError> {
    entries(page).map(|entry| entry.map(|(at, value)| (at, page.slice_ref(value)))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_waits_comes_out_of_pages_as_it_went_in() {
        let waiting: BTreeMap<u64, Bytes> =
            (0..500).map(|n| (n * 3, Bytes::from(vec![n as u8; 200]))).collect();
        let pages = write(waiting.iter().map(|(at, value)| (*at, value)));
        assert!(pages.len() > 2, "{}", pages.len());
        let mut read_back = BTreeMap::new();
        for (at, page) in &pages {
            let entries = read(page).unwrap();
            assert_eq!((entries[0].0, entries[entries.len() - 1].0), (first(page), *at));
            read_back.extend(entries);
        }
        assert_eq!(read_back, waiting);
    }

    #[test]
    fn half_a_page_is_damage() {
        let page = write([(1, &Bytes::from_static(b"abc"))]).remove(0).1;
        for end in [0, 7, 9, 19, 22] {
            assert!(read(&page.slice(..end)).is_err(), "{end}");
        }
        assert!(read(&page).is_ok());
    }
}
