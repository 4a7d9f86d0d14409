//! Variable byte integers ([MQTT5-1.5.5-1]).

use bytes::BufMut;

/// The largest value that four bytes hold.
pub const MAX: u32 = 268_435_455;

/// The number of bytes that the shortest encoding of `value` takes.
#[must_use]
pub const fn len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends the shortest encoding of `value`, which is at most [`MAX`].
pub fn put(out: &mut impl BufMut, mut value: u32) {
    debug_assert!(value <= MAX);
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

/// What the start of `input` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Varint {
    /// A value and the number of bytes it took.
    Value(u32, usize),
    /// More bytes are needed.
    Incomplete,
    /// Longer than four bytes, or not the shortest form.
    Malformed,
}

/// Reads one variable byte integer from the start of `input`.
#[must_use]
#[inline]
pub fn get(input: &[u8]) -> Varint {
    match input.first() {
        Some(&byte) if byte & 0x80 == 0 => Varint::Value(u32::from(byte), 1),
        _ => get_long(input),
    }
}

fn get_long(input: &[u8]) -> Varint {
    let mut value = 0u32;
    for (at, &byte) in input.iter().take(4).enumerate() {
        let shift = [0u32, 7, 14, 21].get(at).copied().unwrap_or(0);
        value |= u32::from(byte & 0x7f) << (shift & 31);
        if byte & 0x80 == 0 {
            if at > 0 && byte == 0 {
                return Varint::Malformed;
            }
            return Varint::Value(value, at.saturating_add(1));
        }
    }
    if input.len() >= 4 { Varint::Malformed } else { Varint::Incomplete }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MQTT5-1.5.5-1] The borders of table 1-1.
    #[test]
    fn the_borders_between_the_lengths_survive_a_round_trip() {
        let borders = [
            (0, 1),
            (127, 1),
            (128, 2),
            (16_383, 2),
            (16_384, 3),
            (2_097_151, 3),
            (2_097_152, 4),
            (MAX, 4),
        ];
        for (value, bytes) in borders {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!((out.len(), len(value)), (bytes, bytes), "{value}");
            assert_eq!(get(&out), Varint::Value(value, bytes));
            for end in 0..bytes {
                assert_eq!(get(&out[..end]), Varint::Incomplete, "{value} cut to {end}");
            }
        }
    }

    /// [MQTT5-1.5.5-1]
    #[test]
    fn longer_forms_than_needed_are_malformed() {
        for input in [&[0x80, 0x00][..], &[0xff, 0x00], &[0x80, 0x80, 0x00], &[0xff, 0xff, 0xff, 0]]
        {
            assert_eq!(get(input), Varint::Malformed, "{input:02x?}");
        }
    }

    /// [MQTT5-1.5.5-1]
    #[test]
    fn a_fifth_byte_is_malformed_before_it_arrives() {
        assert_eq!(get(&[0xff, 0xff, 0xff]), Varint::Incomplete);
        assert_eq!(get(&[0xff, 0xff, 0xff, 0xff]), Varint::Malformed);
    }

    #[test]
    fn what_follows_the_integer_is_not_looked_at() {
        assert_eq!(get(&[0x05, 0xff, 0xff, 0xff, 0xff]), Varint::Value(5, 1));
    }
}
