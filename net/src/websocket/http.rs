//! What both sides of the upgrade share: finding the end of a head, and reading its fields.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::Header;

/// Collects the head of an HTTP message as it arrives.
///
/// *Bounds*: keeps no more than the maximum it is given, and nothing while a head comes in one piece.
#[derive(Debug, Default)]
pub(super) struct HeadCollector {
    kept: Vec<u8>,
}

/// What [`HeadCollector::feed`] has found.
pub(super) enum Head<'i> {
    /// The end of the head has not arrived.
    Partial,
    /// The head is longer than the maximum.
    TooLarge,
    /// The whole head, and the bytes that came behind it.
    Complete(std::borrow::Cow<'i, [u8]>, &'i [u8]),
}

impl HeadCollector {
    /// Whether nothing has arrived.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Looks for the end of the head in what was kept and `input` together.
    pub(super) fn feed<'i>(&mut self, input: &'i [u8], bytes_max: usize) -> Head<'i> {
        // Only the new bytes, and the seam to those before them, can hold the end.
        let overlap = self.kept.len().min(END.len() - 1);
        let before = self.kept.iter().skip(self.kept.len() - overlap);
        let seam: Vec<u8> = before.chain(input.iter().take(END.len() - 1)).copied().collect();
        let at_seam = find_end(&seam).map(|end| end - overlap);
        let Some(end) = at_seam.or_else(|| find_end(input)) else {
            if self.kept.len() + input.len() > bytes_max {
                return Head::TooLarge;
            }
            self.kept.reserve_exact(input.len());
            self.kept.extend_from_slice(input);
            return Head::Partial;
        };
        if self.kept.len() + end > bytes_max {
            return Head::TooLarge;
        }
        let (last, behind) = input.split_at(end);
        let mut kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            return Head::Complete(last.into(), behind);
        }
        kept.extend_from_slice(last);
        Head::Complete(kept.into(), behind)
    }
}

const END: &[u8] = b"\r\n\r\n";

/// The index behind the empty line that ends a head.
fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

/// The value of a field that may occur only once; `None` when it is absent or repeated.
pub(super) fn single<'h>(headers: &[Header<'h>], name: &str) -> Option<&'h [u8]> {
    let mut values = values(headers, name);
    let value = values.next()?;
    values.next().is_none().then_some(value.trim_ascii())
}

/// The comma-separated members of all fields with this name.
pub(super) fn members<'h>(headers: &[Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Whether a list field has this member, in any case of letters.
pub(super) fn has_member(headers: &[Header<'_>], name: &str, member: &str) -> bool {
    members(headers, name).any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
}

fn values<'h>(headers: &[Header<'h>], name: &str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
}

/// The answer to a key, RFC 6455 section 4.2.2.
pub(super) fn accept(key: &[u8]) -> String {
    let proof = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &proof))
}

/// Whether a key is 16 bytes in base64.
pub(super) fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16)
}

/// A key from 16 random bytes.
pub(super) fn key(nonce: [u8; 16]) -> String {
    STANDARD.encode(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_answered_as_printed() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_head_is_found_at_every_split_and_keeps_what_is_behind() {
        let wire = b"GET / HTTP/1.1\r\nA: b\r\n\r\n\x82\x80";
        for at in 0..wire.len() {
            let mut collector = HeadCollector::default();
            let mut found = None;
            let mut behind_all = Vec::new();
            for part in [&wire[..at], &wire[at..]] {
                if found.is_some() {
                    behind_all.extend_from_slice(part);
                    continue;
                }
                if let Head::Complete(head, behind) = collector.feed(part, 100) {
                    behind_all.extend_from_slice(behind);
                    found = Some(head.into_owned());
                }
            }
            assert_eq!(found.unwrap(), &wire[..24], "split at {at}");
            assert_eq!(behind_all, b"\x82\x80");
        }
    }

    #[test]
    fn a_head_is_cut_at_the_limit_in_any_pieces() {
        for piece in [1, 7, 64, 1000] {
            let wire = [b'a'; 1000];
            let mut collector = HeadCollector::default();
            let mut fed = 0;
            let cut = wire.chunks(piece).any(|part| {
                fed += part.len();
                assert!(collector.kept.len() <= 64);
                matches!(collector.feed(part, 64), Head::TooLarge)
            });
            assert!(cut && fed <= 64 + piece);
        }
    }
}
