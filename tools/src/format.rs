//! `-F`: how a message is printed.

use jiff::Zoned;
use jiff::fmt::strtime;
use petrel_proto::{Publish, PublishProperties};

use crate::json;

/// A format, taken apart once.
#[derive(Debug, Clone)]
pub struct Format {
    pieces: Vec<Piece>,
    newline: bool,
    pretty: bool,
}

/// Why a message cannot be printed as the format wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

#[derive(Debug, Clone)]
enum Piece {
    Literal(Vec<u8>),
    Field {
        letter: u8,
        shape: Shape,
    },
    /// One conversion of strftime, with its percent sign.
    Time(String),
    /// `-v`: the topic, a space, and the payload or `(null)`.
    Verbose,
}

/// Width and precision, as printf has them.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    width: usize,
    precision: Option<usize>,
    left: bool,
    zeros: bool,
}

/// Every letter that may follow a percent sign.
const FIELDS: &[u8] = b"ACDEFIJPRSUXjlmpqrtx";

/// No terminal is wider; a larger number is a slip.
const WIDTH_MAX: usize = 10_000;

impl Format {
    /// The payload, with `verbose` after its topic.
    pub fn plain(verbose: bool, newline: bool) -> Self {
        let payload = Piece::Field { letter: b'p', shape: Shape::default() };
        Self {
            pieces: vec![if verbose { Piece::Verbose } else { payload }],
            newline,
            pretty: false,
        }
    }

    /// Takes a format apart.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(format: &[u8], newline: bool, pretty: bool) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = format;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            let piece = match byte {
                b'%' => field(&mut rest)?,
                b'@' => time(&mut rest)?,
                b'\\' => Piece::Literal(vec![escape(&mut rest)?]),
                other => Piece::Literal(vec![other]),
            };
            match piece {
                Piece::Literal(bytes) => literal.extend_from_slice(&bytes),
                other => {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    pieces.push(other);
                }
            }
        }
        pieces.push(Piece::Literal(literal));
        Ok(Self { pieces, newline, pretty })
    }

    /// Appends a message that arrived at a time.
    ///
    /// # Errors
    /// The format asks for the payload as JSON, and it is not; nothing is appended.
    pub fn render(&self, message: &Publish, at: &Zoned, out: &mut Vec<u8>) -> Result<(), NotJson> {
        let start = out.len();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Time(conversion) => {
                    out.extend_from_slice(strftime(conversion, at).as_bytes());
                }
                Piece::Verbose => {
                    out.extend_from_slice(message.topic.as_bytes());
                    out.push(b' ');
                    let empty = message.payload.is_empty();
                    out.extend_from_slice(if empty { b"(null)" } else { &message.payload });
                }
                Piece::Field { letter, shape } => {
                    match self.field_bytes(*letter, message, at) {
                        Ok(bytes) => shape.apply(&bytes, out),
                        Err(not_json) => {
                            out.truncate(start);
                            return Err(not_json);
                        }
                    };
                }
            }
        }
        if self.newline {
            out.push(b'\n');
        }
        Ok(())
    }

    fn field_bytes(&self, letter: u8, message: &Publish, at: &Zoned) -> Result<Vec<u8>, NotJson> {
        let properties = &message.properties;
        let fields = properties.message.fields();
        let number = |number: Option<u64>| number.map(|it| it.to_string().into_bytes());
        let bytes = match letter {
            b't' => Some(message.topic.as_bytes().to_vec()),
            b'p' => Some(message.payload.to_vec()),
            b'x' => Some(hexadecimal(&message.payload, b"0123456789abcdef")),
            b'X' => Some(hexadecimal(&message.payload, b"0123456789ABCDEF")),
            b'q' => number(Some(message.qos as u64)),
            b'r' => number(Some(message.retain.into())),
            b'l' => number(Some(message.payload.len() as u64)),
            b'm' => number(Some(message.packet_id.map_or(0, |id| id.get().into()))),
            b'I' => Some(strftime("%Y-%m-%dT%H:%M:%S%z", at).into_bytes()),
            b'U' => {
                let since = at.timestamp().as_nanosecond();
                let (seconds, nanos) = (since / 1_000_000_000, since % 1_000_000_000);
                Some(format!("{seconds}.{nanos:09}").into_bytes())
            }
            b'A' => number(properties.topic_alias.map(u64::from)),
            b'C' => fields.content_type.as_ref().map(|text| text.as_bytes().to_vec()),
            b'D' => fields.correlation_data.as_ref().map(|bytes| bytes.to_vec()),
            b'E' => number(properties.message_expiry_interval_s.map(u64::from)),
            b'F' => number(fields.payload_format.map(|format| format as u64)),
            b'R' => fields.response_topic.as_ref().map(|text| text.as_bytes().to_vec()),
            b'P' => {
                let pairs: Vec<_> = fields
                    .user_properties
                    .iter()
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect();
                Some(pairs.join(" ").into_bytes())
            }
            b'S' => {
                let ids = properties.subscription_identifiers.iter();
                Some(ids.map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes())
            }
            b'j' => Some(self.json(message, at, payload_string(&message.payload))),
            b'J' => {
                let payload = match message.payload.is_empty() {
                    true => "null".to_owned(),
                    false => json::compacted(&message.payload).ok_or(NotJson)?,
                };
                Some(self.json(message, at, payload))
            }
            _ => None,
        };
        Ok(bytes.unwrap_or_default())
    }

    fn json(&self, message: &Publish, at: &Zoned, payload: String) -> Vec<u8> {
        let indent = self.pretty.then_some(0);
        let topic = String::from_utf8_lossy(message.topic.as_bytes());
        let mut members = vec![
            ("tst", json::string(&strftime("%Y-%m-%dT%H:%M:%S.%6f%z", at))),
            ("topic", json::string(&topic)),
            ("qos", (message.qos as u8).to_string()),
            ("retain", u8::from(message.retain).to_string()),
            ("payloadlen", message.payload.len().to_string()),
        ];
        if let Some(id) = message.packet_id {
            members.push(("mid", id.get().to_string()));
        }
        let properties = properties_json(&message.properties, indent.map(|depth| depth + 1));
        if !properties.is_empty() {
            let depth = indent.map(|depth| depth + 1);
            members.push(("properties", json::object(&properties, depth)));
        }
        members.push(("payload", payload));
        json::object(&members, indent).into_bytes()
    }
}

fn payload_string(payload: &[u8]) -> String {
    match payload.is_empty() {
        true => "null".to_owned(),
        false => json::string(&String::from_utf8_lossy(payload)),
    }
}

fn properties_json(
    properties: &PublishProperties,
    indent: Option<usize>,
) -> Vec<(&'static str, String)> {
    let fields = properties.message.fields();
    let mut members = Vec::new();
    let mut add = |name, value: Option<String>| members.extend(value.map(|value| (name, value)));
    add(
        "subscription-identifier",
        match properties.subscription_identifiers.as_slice() {
            [] => None,
            [one] => Some(one.to_string()),
            several => {
                let ids: Vec<_> = several.iter().map(u32::to_string).collect();
                Some(format!("[{}]", ids.join(",")))
            }
        },
    );
    let user: Vec<_> =
        fields.user_properties.iter().map(|(name, value)| (name, json::string(value))).collect();
    let user = (!user.is_empty()).then(|| json::object(&user, indent.map(|depth| depth + 1)));
    add("user-properties", user);
    add("topic-alias", properties.topic_alias.map(|alias| alias.to_string()));
    add("content-type", fields.content_type.as_ref().map(|text| json::string(text.as_str())));
    add(
        "correlation-data",
        fields.correlation_data.as_ref().map(|bytes| json::string(&String::from_utf8_lossy(bytes))),
    );
    add("payload-format-indicator", fields.payload_format.map(|format| (format as u8).to_string()));
    add("response-topic", fields.response_topic.as_ref().map(|text| json::string(text.as_str())));
    add(
        "message-expiry-interval",
        properties.message_expiry_interval_s.map(|seconds| seconds.to_string()),
    );
    members
}

/// What follows a percent sign: flags, width, precision and the letter.
fn field(rest: &mut &[u8]) -> Result<Piece, String> {
    let mut shape = Shape::default();
    if let Some(after) = rest.strip_prefix(b"%") {
        *rest = after;
        return Ok(Piece::Literal(b"%".to_vec()));
    }
    while let Some((&flag @ (b'-' | b'0'), after)) = rest.split_first() {
        *rest = after;
        match flag {
            b'-' => shape.left = true,
            _ => shape.zeros = true,
        }
    }
    shape.width = number(rest)?.unwrap_or(0);
    if let Some(after) = rest.strip_prefix(b".") {
        *rest = after;
        shape.precision = Some(number(rest)?.ok_or("a number follows the point".to_owned())?);
    }
    match rest.split_first() {
        Some((&letter, after)) if FIELDS.contains(&letter) => {
            *rest = after;
            Ok(Piece::Field { letter, shape })
        }
        Some((&letter, _)) => {
            Err(format!("there is no %{}; --help lists what there is", letter.escape_ascii()))
        }
        None => Err("a letter follows the percent sign".to_owned()),
    }
}

fn number(rest: &mut &[u8]) -> Result<Option<usize>, String> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    if number.is_empty() {
        return Ok(None);
    }
    let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
    match number.filter(|&number| number <= WIDTH_MAX) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("a width is at most {WIDTH_MAX}")),
    }
}

/// What follows an at sign: a letter of strftime, or another at sign.
fn time(rest: &mut &[u8]) -> Result<Piece, String> {
    let Some((&letter, after)) = rest.split_first() else {
        return Err("a letter follows the at sign".to_owned());
    };
    *rest = after;
    if letter == b'@' {
        return Ok(Piece::Literal(b"@".to_vec()));
    }
    let conversion = format!("%{}", char::from(letter));
    let known = letter.is_ascii_alphabetic()
        && strtime::format(
            &conversion,
            &Zoned::new(jiff::Timestamp::UNIX_EPOCH, jiff::tz::TimeZone::UTC),
        )
        .is_ok();
    match known {
        true => Ok(Piece::Time(conversion)),
        false => Err(format!("there is no @{}", letter.escape_ascii())),
    }
}

fn escape(rest: &mut &[u8]) -> Result<u8, String> {
    let Some((&letter, after)) = rest.split_first() else {
        return Err("a letter follows the backslash".to_owned());
    };
    *rest = after;
    Ok(match letter {
        b'\\' => b'\\',
        b'0' => 0,
        b'a' => 0x07,
        b'e' => 0x1b,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        other => return Err(format!("there is no \\{}", other.escape_ascii())),
    })
}

impl Shape {
    fn apply(self, bytes: &[u8], out: &mut Vec<u8>) {
        let bytes = &bytes[..self.precision.unwrap_or(bytes.len()).min(bytes.len())];
        // Text is padded by characters, as people see it.
        let wide = String::from_utf8_lossy(bytes).chars().count();
        let padding = self.width.saturating_sub(wide);
        let fill = if self.zeros && !self.left { b'0' } else { b' ' };
        if !self.left {
            out.extend(std::iter::repeat_n(fill, padding));
        }
        out.extend_from_slice(bytes);
        if self.left {
            out.extend(std::iter::repeat_n(fill, padding));
        }
    }
}

fn hexadecimal(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]])
        .collect()
}

/// The conversions were tried when the format was parsed; one that fails for this time alone
/// prints nothing.
fn strftime(format: &str, at: &Zoned) -> String {
    strtime::format(format, at).unwrap_or_default()
}

#[cfg(test)]
mod tests;
