//! Messages of LDAP (RFC 4511), as far as binds and searches need them.
//!
//! What a directory sends is read within bounds and never indexed: one that sends anything else is a failure of its
//! own and of nobody else's.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::back_end::Failure;
use crate::journal::said;

/// No message of a directory is as long as this, in bytes.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Entries of a search that are read: one more than is wanted.
const ENTRIES_MAX: usize = 2;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BIND: u8 = 0x60;
const BIND_ANSWER: u8 = 0x61;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED: u8 = 0x77;
const EXTENDED_ANSWER: u8 = 0x78;
const INTERMEDIATE: u8 = 0x79;
/// The first element of a kind that depends on where it stands.
const FIRST: u8 = 0x80;
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// What messages go over.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A conversation with a directory.
pub(super) struct Talk {
    stream: Stream,
    read: BytesMut,
    last_id: u8,
}

/// How an operation has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub code: u32,
    pub text: String,
}

/// An entry that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub dn: String,
    /// Each attribute with its values, as far as they are text.
    pub attributes: Vec<(String, Vec<String>)>,
}

/// Where a search looks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// At an entry.
    Base = 0,
    /// At it and below it.
    Subtree = 2,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ended(u8, Ended),
    Entry(Entry),
    /// What is of no interest: where else to look.
    Other,
}

impl Talk {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, read: BytesMut::new(), last_id: 0 }
    }

    /// Asks for TLS; the stream to begin it on.
    pub(super) async fn start_tls(mut self) -> Result<TcpStream, Failure> {
        let ended = self.ask(EXTENDED, &tlv(FIRST, START_TLS), EXTENDED_ANSWER).await?;
        if ended.code != 0 {
            return Err(refused("StartTLS", &ended));
        }
        match self.stream {
            // What came before TLS has begun may be anybody's.
            _ if !self.read.is_empty() => Err(failure("it has sent more than was asked for")),
            Stream::Plain(stream) => Ok(stream),
            Stream::Tls(_) => Err(failure("there is TLS already")),
        }
    }

    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<Ended, Failure> {
        let version = tlv(INTEGER, &[3]);
        let request = [version, tlv(OCTETS, dn.as_bytes()), tlv(FIRST, password.as_bytes())];
        self.ask(BIND, &request.concat(), BIND_ANSWER).await
    }

    /// Two entries at most, and how the search has ended if there are no more.
    pub(super) async fn search(
        &mut self,
        base: &str,
        scope: Scope,
        filter: &[u8],
        attributes: &[&str],
    ) -> Result<(Vec<Entry>, Option<Ended>), Failure> {
        let attributes: Vec<_> =
            attributes.iter().map(|attribute| tlv(OCTETS, attribute.as_bytes())).collect();
        let request = [
            tlv(OCTETS, base.as_bytes()),
            tlv(ENUMERATED, &[scope as u8]),
            // Aliases are not followed, and there is no limit of time but that of the whole check.
            tlv(ENUMERATED, &[0]),
            tlv(INTEGER, &[ENTRIES_MAX as u8]),
            tlv(INTEGER, &[0]),
            tlv(BOOLEAN, &[0]),
            filter.to_vec(),
            tlv(SEQUENCE, &attributes.concat()),
        ];
        self.send(SEARCH, &request.concat()).await?;
        let mut entries = Vec::new();
        loop {
            match self.receive().await? {
                Said::Ended(SEARCH_DONE, ended) => return Ok((entries, Some(ended))),
                Said::Ended(..) => return Err(failure("it answers what was not asked")),
                Said::Other => {}
                Said::Entry(entry) => {
                    entries.push(entry);
                    if entries.len() == ENTRIES_MAX {
                        return Ok((entries, None));
                    }
                }
            }
        }
    }

    async fn ask(&mut self, tag: u8, request: &[u8], answer: u8) -> Result<Ended, Failure> {
        self.send(tag, request).await?;
        match self.receive().await? {
            Said::Ended(tag, ended) if tag == answer => Ok(ended),
            _ => Err(failure("it answers what was not asked")),
        }
    }

    async fn send(&mut self, tag: u8, request: &[u8]) -> Result<(), Failure> {
        // A conversation has a few messages.
        self.last_id += 1;
        let message = [tlv(INTEGER, &[self.last_id]), tlv(tag, request)].concat();
        let message = tlv(SEQUENCE, &message);
        let sent = match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(&message).await,
            Stream::Tls(stream) => match stream.write_all(&message).await {
                Ok(()) => stream.flush().await,
                error => error,
            },
        };
        sent.map_err(|error| Failure(said(&error.to_string())))
    }

    /// The next message, which must be an answer to the last request.
    async fn receive(&mut self) -> Result<Said, Failure> {
        loop {
            if let Some(length) = length_of(&self.read)? {
                let message = self.read.split_to(length);
                return heard(&message, self.last_id)
                    .ok_or_else(|| failure("its answer is no message of LDAP that is expected"));
            }
            let read = match &mut self.stream {
                Stream::Plain(stream) => stream.read_buf(&mut self.read).await,
                Stream::Tls(stream) => stream.read_buf(&mut self.read).await,
            };
            if read.map_err(|error| Failure(said(&error.to_string())))? == 0 {
                return Err(failure("it has closed the connection"));
            }
        }
    }
}

fn failure(text: &str) -> Failure {
    Failure(text.to_owned())
}

/// It has answered, but not what it should.
pub(super) fn refused(what: &str, ended: &Ended) -> Failure {
    let text = match &*ended.text {
        "" => String::new(),
        text => format!(": {}", said(text)),
    };
    Failure(format!("it refuses {what} with result code {}{text}", ended.code))
}

/// An element of BER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => bytes.push(short),
        _ => {
            bytes.push(0x84);
            bytes.extend((length as u32).to_be_bytes());
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

/// Elements of BER, one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// The tag and the content of the next.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next, which must have this tag.
    fn of(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.of(OCTETS)?.to_vec()).ok()
    }

    fn number(&mut self, tag: u8) -> Option<u32> {
        let digits = self.of(tag).filter(|digits| (1..=4).contains(&digits.len()))?;
        Some(digits.iter().fold(0, |sum, &digit| sum << 8 | u32::from(digit)))
    }
}

/// The length of the first message, if it is there as a whole.
fn length_of(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let no_message = || Err(failure("its answer is no message of LDAP"));
    let Some((&tag, rest)) = bytes.split_first() else { return Ok(None) };
    if tag != SEQUENCE {
        return no_message();
    }
    let Some((&first, rest)) = rest.split_first() else { return Ok(None) };
    let (head, content) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81..=0x84 => {
            let count = usize::from(first & 0x7f);
            let Some(digits) = rest.get(..count) else { return Ok(None) };
            (2 + count, digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit)))
        }
        _ => return no_message(),
    };
    if content > MESSAGE_BYTES_MAX {
        return Err(Failure(format!("its answer is longer than {MESSAGE_BYTES_MAX} bytes")));
    }
    Ok((bytes.len() >= head + content).then_some(head + content))
}

/// What a message says that answers the request with this number.
fn heard(message: &[u8], id: u8) -> Option<Said> {
    let mut message = Elements(Elements(message).of(SEQUENCE)?);
    if message.number(INTEGER)? != u32::from(id) {
        return None;
    }
    let (tag, content) = message.next()?;
    let mut content = Elements(content);
    match tag {
        BIND_ANSWER | SEARCH_DONE | EXTENDED_ANSWER => {
            let code = content.number(ENUMERATED)?;
            let (_matched, text) = (content.text()?, content.text()?);
            Some(Said::Ended(tag, Ended { code, text }))
        }
        SEARCH_ENTRY => {
            let dn = content.text()?;
            let mut all = Elements(content.of(SEQUENCE)?);
            let mut attributes = Vec::new();
            while let Some(one) = all.of(SEQUENCE) {
                let mut one = Elements(one);
                let name = one.text()?;
                let mut values = Elements(one.of(SET)?);
                let mut texts = Vec::new();
                while let Some(value) = values.of(OCTETS) {
                    texts.extend(String::from_utf8(value.to_vec()).ok());
                }
                attributes.push((name, texts));
            }
            Some(Said::Entry(Entry { dn, attributes }))
        }
        SEARCH_REFERENCE | INTERMEDIATE => Some(Said::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(id: u8, op: Vec<u8>) -> Vec<u8> {
        tlv(SEQUENCE, &[tlv(INTEGER, &[id]), op].concat())
    }

    fn ended(tag: u8, code: u8) -> Vec<u8> {
        let content = [tlv(ENUMERATED, &[code]), tlv(OCTETS, b""), tlv(OCTETS, b"why")];
        tlv(tag, &content.concat())
    }

    fn entry() -> Vec<u8> {
        let values = tlv(SET, &[tlv(OCTETS, b"staff"), tlv(OCTETS, b"\xff")].concat());
        let attribute = tlv(SEQUENCE, &[tlv(OCTETS, b"title"), values].concat());
        tlv(SEARCH_ENTRY, &[tlv(OCTETS, b"uid=a"), tlv(SEQUENCE, &attribute)].concat())
    }

    #[test]
    fn messages_are_read_as_a_whole_and_only_those_that_were_asked_for() {
        let why = || Ended { code: 49, text: "why".to_owned() };
        let bound = message(1, ended(BIND_ANSWER, 49));
        assert_eq!(heard(&bound, 1), Some(Said::Ended(BIND_ANSWER, why())));
        assert_eq!(heard(&bound, 2), None);
        let attributes = vec![("title".to_owned(), vec!["staff".to_owned()])];
        let found = Entry { dn: "uid=a".to_owned(), attributes };
        assert_eq!(heard(&message(2, entry()), 2), Some(Said::Entry(found)));
        for length in 0..bound.len() {
            assert_eq!(length_of(&bound[..length]).unwrap(), None, "{length}");
        }
        assert_eq!(length_of(&[&bound[..], b"more"].concat()).unwrap(), Some(bound.len()));
        let long = tlv(OCTETS, &[b'x'; 300]);
        assert_eq!(Elements(&long).of(OCTETS).map(<[u8]>::len), Some(300));
        assert!(length_of(b"\x30\x84\xff\xff\xff\xff").is_err(), "too long");
        assert!(length_of(b"\x30\x80").is_err() && length_of(b"HTTP").is_err());
        for wrong in [&b"\x30\x00"[..], b"\x30\x02\x02\x00", b"\x30\x03\x02\x01\x01"] {
            assert_eq!(heard(wrong, 1), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_directory_sends_is_no_panic(
            at in 0..64_usize,
            byte: u8,
            cut in 0..64_usize,
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let (bound, found) = (message(1, ended(BIND_ANSWER, 0)), message(1, entry()));
            for mut bytes in [bound, found, noise] {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
                bytes.truncate(bytes.len().saturating_sub(cut));
                let _ = (length_of(&bytes), heard(&bytes, 1));
            }
        }
    }
}
