//! One line, in each of the forms in which it may be written.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::escape::{ESCAPED_BYTES_MAX, Timestamp};
use super::{Area, Event, Level};

/// Something that is said of an event.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Text of our own.
    Word(&'a str),
    /// The same, as it is displayed.
    Shown(&'a dyn fmt::Display),
    /// What somebody else has sent: cut, and escaped where that is needed.
    Outside(&'a [u8]),
    /// Nobody knows, or it is of no meaning here: it is left out.
    Missing,
}

impl<'a> Value<'a> {
    /// What somebody else has sent, if that is known.
    #[must_use]
    pub fn outside(text: Option<&'a petrel_proto::Text>) -> Self {
        text.map_or(Self::Missing, |text| Self::Outside(text.as_bytes()))
    }

    /// As it is displayed, if it is known.
    #[must_use]
    pub fn shown<T: fmt::Display>(value: &'a Option<T>) -> Self {
        value.as_ref().map_or(Self::Missing, |value| Self::Shown(value))
    }

    /// A number, if it is known.
    #[must_use]
    pub fn number(number: Option<u64>) -> Self {
        number.map_or(Self::Missing, Self::Number)
    }

    /// A word; none if it is empty.
    #[must_use]
    pub const fn word(word: &'a str) -> Self {
        if word.is_empty() { Self::Missing } else { Self::Word(word) }
    }
}

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Time, level and a sentence.
    #[default]
    Text,
    /// An object of JSON.
    Json,
}

impl Format {
    /// The names in the configuration.
    pub const NAMES: &'static [&'static str] = &["text", "json"];

    /// The form for its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What is said with a sentence.
pub type Fields<'a> = &'a [(&'static str, Value<'a>)];

/// What a line consists of.
pub(super) struct Line<'a> {
    /// Since 1970.
    pub(super) time: Duration,
    pub(super) level: Level,
    pub(super) area: Area,
    pub(super) event: Event,
    pub(super) message: fmt::Arguments<'a>,
    pub(super) fields: Fields<'a>,
}

impl Line<'_> {
    /// As a line with its end.
    pub(super) fn encode(&self, format: Format) -> Vec<u8> {
        let mut line = String::with_capacity(256);
        // A `String` takes everything; what is displayed is ours.
        let _ = match format {
            Format::Text => self.text(&mut line),
            Format::Json => self.json(&mut line),
        };
        line.push('\n');
        line.into_bytes()
    }

    fn text(&self, line: &mut String) -> fmt::Result {
        write!(line, "{} {} {}", Timestamp(self.time), self.level, self.message)
    }

    fn json(&self, line: &mut String) -> fmt::Result {
        let (level, area, event) = (self.level.name(), self.area.name(), self.event.name());
        write!(line, "{{\"time\":\"{}\",\"level\":\"{level}\"", Timestamp(self.time))?;
        write!(line, ",\"area\":\"{area}\",\"event\":\"{event}\",\"message\":\"")?;
        write!(Quoted(line), "{}", self.message)?;
        line.push('"');
        for (key, value) in self.fields {
            let before = line.len();
            write!(line, ",\"{key}\":")?;
            match value {
                Value::Number(number) => write!(line, "{number}")?,
                Value::Flag(flag) => write!(line, "{flag}")?,
                Value::Missing => line.truncate(before),
                Value::Word(_) | Value::Shown(_) | Value::Outside(_) => {
                    line.push('"');
                    write!(Quoted(line), "{}", Plain(value))?;
                    line.push('"');
                }
            }
        }
        line.push('}');
        Ok(())
    }

    /// As journald takes it: fields with the length of their values, so that none of them can begin another.
    pub(super) fn journal(&self) -> Vec<u8> {
        let mut entry = Vec::with_capacity(512);
        let mut put = |key: &str, value: &dyn fmt::Display| {
            let value = value.to_string();
            entry.extend_from_slice(key.as_bytes());
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
            entry.extend_from_slice(value.as_bytes());
            entry.push(b'\n');
        };
        put("MESSAGE", &self.message);
        put("PRIORITY", &self.level.priority());
        put("SYSLOG_IDENTIFIER", &"petrel");
        put("PETREL_AREA", &self.area.name());
        put("PETREL_EVENT", &self.event.name());
        for (key, value) in self.fields {
            if !matches!(value, Value::Missing) {
                put(&format!("PETREL_{}", key.to_ascii_uppercase()), &Plain(value));
            }
        }
        entry
    }
}

/// A value without escapes, and not too long.
struct Plain<'a>(&'a Value<'a>);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Number(number) => write!(f, "{number}"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Word(word) => f.write_str(word),
            Value::Shown(shown) => write!(f, "{shown}"),
            Value::Missing => Ok(()),
            Value::Outside(bytes) => {
                let mut shown = 0;
                for chunk in bytes.utf8_chunks() {
                    for char in chunk.valid().chars() {
                        shown += char.len_utf8();
                        if shown > ESCAPED_BYTES_MAX {
                            return write!(f, "… ({} bytes)", bytes.len());
                        }
                        f.write_char(char)?;
                    }
                    if !chunk.invalid().is_empty() {
                        shown += chunk.invalid().len();
                        if shown > ESCAPED_BYTES_MAX {
                            return write!(f, "… ({} bytes)", bytes.len());
                        }
                        f.write_char(char::REPLACEMENT_CHARACTER)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Writes what stands between the quotes of a string of JSON. Everything that could move a cursor or hide text is
/// escaped, not only what JSON wants.
struct Quoted<'a>(&'a mut String);

impl fmt::Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                '\n' => self.0.push_str("\\n"),
                '\t' => self.0.push_str("\\t"),
                '\'' => self.0.push('\''),
                _ if char.escape_debug().len() == 1 => self.0.push(char),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn line<'a>(message: fmt::Arguments<'a>, fields: Fields<'a>) -> Line<'a> {
        Line {
            time: Duration::from_millis(1_700_000_000_123),
            level: Level::Warn,
            area: Area::Clients,
            event: Event::ClientRefused,
            message,
            fields,
        }
    }

    #[test]
    fn a_line_says_the_same_in_each_form() {
        let fields = [
            ("client_id", Value::Outside(b"lamp")),
            ("shard", Value::Number(3)),
            ("reason", Value::Word("not_authorized")),
            ("address", Value::Missing),
        ];
        let line = line(format_args!("client 'lamp' is refused"), &fields);
        let text = String::from_utf8(line.encode(Format::Text)).unwrap();
        assert_eq!(text, "2023-11-14T22:13:20.123Z warn  client 'lamp' is refused\n");
        let json = String::from_utf8(line.encode(Format::Json)).unwrap();
        assert_eq!(
            json,
            "{\"time\":\"2023-11-14T22:13:20.123Z\",\"level\":\"warn\",\"area\":\"clients\",\
             \"event\":\"client_refused\",\"message\":\"client 'lamp' is refused\",\
             \"client_id\":\"lamp\",\"shard\":3,\"reason\":\"not_authorized\"}\n"
        );
        let journal = String::from_utf8(line.journal()).unwrap();
        let long = |text: &str| format!("\n{}\0\0\0\0\0\0\0{text}\n", char::from(text.len() as u8));
        let expected = [
            ("MESSAGE", "client 'lamp' is refused"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "petrel"),
            ("PETREL_AREA", "clients"),
            ("PETREL_EVENT", "client_refused"),
            ("PETREL_CLIENT_ID", "lamp"),
            ("PETREL_SHARD", "3"),
            ("PETREL_REASON", "not_authorized"),
        ];
        let expected = expected.map(|(key, value)| format!("{key}{}", long(value)));
        assert_eq!(journal, expected.concat());
    }

    /// What a machine reads is what the client has sent; what a terminal shows does nothing.
    #[test]
    fn a_client_identifier_is_itself_whatever_it_holds() {
        let nasty = "\"},{\"a\":1}\n\r\t\0\u{1b}[2J\u{7f}\u{85}\u{202e}\u{feff}\\u0041'😀\u{e0001}";
        let fields = [("client_id", Value::Outside(nasty.as_bytes()))];
        let json = line(format_args!("{nasty}"), &fields).encode(Format::Json);
        let text = std::str::from_utf8(&json).unwrap();
        assert!(
            !text
                .trim_end()
                .contains(|it: char| it.is_control() || "\u{202e}\u{feff}".contains(it))
        );
        let read: Json = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (read["client_id"].as_str(), read["message"].as_str()),
            (Some(nasty), Some(nasty))
        );
    }

    #[test]
    fn no_client_fills_a_line() {
        let long = "é".repeat(30_000);
        let fields = [("client_id", Value::Outside(long.as_bytes()))];
        let line = line(format_args!("x"), &fields);
        let read: Json = serde_json::from_slice(&line.encode(Format::Json)).unwrap();
        assert_eq!(read["client_id"], format!("{}… (60000 bytes)", "é".repeat(64)));
        assert!(line.journal().len() < 500);
        let bytes = [0xff; 30_000];
        let fields = [("client_id", Value::Outside(&bytes))];
        assert!(self::line(format_args!("x"), &fields).encode(Format::Json).len() < 800);
    }
}
