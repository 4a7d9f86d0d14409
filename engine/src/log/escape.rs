//! What makes text from outside safe for a line, and times readable.

use std::fmt;
use std::time::Duration;

/// Bytes from outside, made safe for a log line: control and non-printing characters as escapes,
/// bytes that are not UTF-8 as `\xNN`, at most [`ESCAPED_BYTES_MAX`] bytes of the original.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

/// How many bytes of the original [`Escaped`] shows before it cuts.
pub const ESCAPED_BYTES_MAX: usize = 128;

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                shown += char.len_utf8();
                if shown > ESCAPED_BYTES_MAX {
                    return self.cut(f);
                }
                write!(f, "{}", char.escape_debug())?;
            }
            for byte in chunk.invalid() {
                shown += 1;
                if shown > ESCAPED_BYTES_MAX {
                    return self.cut(f);
                }
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Escaped<'_> {
    fn cut(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "… ({} bytes)", self.0.len())
    }
}

/// Time since 1970, displayed as UTC in the form of RFC 3339 with milliseconds.
pub(crate) struct Timestamp(pub(crate) Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil_date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let millis = self.0.subsec_millis();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the Gregorian calendar.
fn civil_date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut year = 1970;
    loop {
        let year_days = 365 + u64::from(is_leap(year));
        if days < year_days {
            break;
        }
        days -= year_days;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for month_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < month_days {
            break;
        }
        days -= month_days;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(bytes: &[u8]) -> String {
        Escaped(bytes).to_string()
    }

    #[test]
    fn printable_text_stays_as_it_is() {
        assert_eq!(escaped("café πŸ".as_bytes()), "café πŸ");
    }

    /// Text from outside stands between quotes.
    #[test]
    fn a_client_cannot_end_its_quotes() {
        assert_eq!(escaped(b"x' is cut off: 'y"), "x\\' is cut off: \\'y");
    }

    #[test]
    fn a_client_cannot_forge_a_line_or_steer_a_terminal() {
        assert_eq!(escaped(b"a\nb\r\x1b[2J\0"), "a\\nb\\r\\u{1b}[2J\\0");
        assert_eq!(escaped("\u{202e}\u{200b}\u{feff}".as_bytes()), "\\u{202e}\\u{200b}\\u{feff}");
        assert_eq!(escaped(b"\xff\xc3("), "\\xff\\xc3(");
    }

    #[test]
    fn long_input_is_cut_and_its_length_told() {
        let text = escaped(&[b'x'; 70_000]);
        assert_eq!(text, format!("{}… (70000 bytes)", "x".repeat(ESCAPED_BYTES_MAX)));
        assert!(escaped(&[0xff; 70_000]).len() < 600);
    }

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds: u64| Timestamp(Duration::from_millis(seconds * 1000 + 7)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.007Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.007Z");
    }
}
