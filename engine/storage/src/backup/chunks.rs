//! The file of one lane in a backup: chunks of entries, each under a checksum, and an end.
//!
//! A chunk is its kind (u8), the length of what it holds (u32), a checksum (XXH3 of its number in the
//! file, kind, length and contents, u64), and its contents. The first is the head: `petrel backup`, the
//! format (u32), the lane and the number of lanes (u16 each). Then come entries: the number of the
//! space (u8), the lengths of key and value (u32 each), key and value, one behind the other. The last
//! is the end: how many entries there are of each space (u64 each), and a checksum of the checksums of
//! all chunks before it. Numbers are big-endian. Nothing stands behind the end.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::manifest::LaneSummary;
use super::{BackupError, at};
use crate::store::Space;

const MAGIC: &[u8] = b"petrel backup";
/// The version of what is written here.
pub(super) const FORMAT: u32 = 2;

const HEAD: u8 = 1;
const ENTRIES: u8 = 2;
const END: u8 = 3;

const CHUNK_HEAD_BYTES: usize = 13;
const ENTRY_HEAD_BYTES: usize = 9;
/// A chunk is closed when it has this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// No chunk has more: an entry may be a packet of 256 MiB, with its key.
const CHUNK_BYTES_MAX: usize = 300 << 20;
/// Chunks between two synchronisations, so that no great heap of them disturbs those of the lanes.
const SYNC_EVERY: u64 = 8;

/// What a backup has of one key.
pub(super) struct Entry {
    pub(super) space: Space,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) lane: u16,
    pub(super) lanes: u16,
}

/// The checksum of a chunk.
fn checksum(number: u64, kind: u8, contents: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(&[kind]);
    hasher.update(&(contents.len() as u64).to_be_bytes());
    hasher.update(contents);
    hasher.digest()
}

/// What has been counted of a file.
#[derive(Default)]
struct Tally {
    chunks: u64,
    sums: Xxh3,
    entries: [u64; Space::ALL.len()],
}

impl Tally {
    /// Counts a chunk with this checksum.
    fn count(&mut self, sum: u64) {
        self.chunks += 1;
        self.sums.update(&sum.to_be_bytes());
    }

    /// The contents of the end.
    fn end(&self) -> Bytes {
        let mut end = BytesMut::new();
        self.entries.iter().for_each(|&entries| end.put_u64(entries));
        end.put_u64(self.sums.digest());
        end.freeze()
    }
}

/// A file that is being written.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    chunk: BytesMut,
    tally: Tally,
    bytes: u64,
}

impl Writer {
    /// Begins a file.
    pub(super) fn create(path: &Path, head: Head) -> Result<Self, BackupError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(at(path))?;
        let chunk = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        let mut out = Self { path: path.into(), file, chunk, tally: Tally::default(), bytes: 0 };
        out.chunk.put_slice(MAGIC);
        out.chunk.put_u32(FORMAT);
        out.chunk.put_u16(head.lane);
        out.chunk.put_u16(head.lanes);
        out.close(HEAD)?;
        Ok(out)
    }

    /// Adds an entry. Returns true if it has ended a chunk.
    pub(super) fn add(
        &mut self,
        space: Space,
        key: &[u8],
        value: &[u8],
    ) -> Result<bool, BackupError> {
        self.chunk.put_u8(space as u8);
        // Keys have a few bytes more than 65,535, values are packets of at most 256 MiB, or pages.
        self.chunk.put_u32(key.len() as u32);
        self.chunk.put_u32(value.len() as u32);
        self.chunk.put_slice(key);
        self.chunk.put_slice(value);
        self.tally.entries[space as usize] += 1;
        let ended = self.chunk.len() >= CHUNK_BYTES;
        if ended {
            self.close(ENTRIES)?;
        }
        Ok(ended)
    }

    fn close(&mut self, kind: u8) -> Result<(), BackupError> {
        let sum = checksum(self.tally.chunks, kind, &self.chunk);
        let mut head = [0; CHUNK_HEAD_BYTES];
        head[0] = kind;
        head[1..5].copy_from_slice(&(self.chunk.len() as u32).to_be_bytes());
        head[5..].copy_from_slice(&sum.to_be_bytes());
        let written = self.file.write_all(&head).and_then(|()| self.file.write_all(&self.chunk));
        written.map_err(at(&self.path))?;
        self.bytes += (CHUNK_HEAD_BYTES + self.chunk.len()) as u64;
        self.tally.count(sum);
        self.chunk.clear();
        if self.tally.chunks.is_multiple_of(SYNC_EVERY) {
            self.file.sync_data().map_err(at(&self.path))?;
        }
        Ok(())
    }

    /// Ends the file, and makes it survive the machine.
    pub(super) fn finish(mut self) -> Result<LaneSummary, BackupError> {
        if !self.chunk.is_empty() {
            self.close(ENTRIES)?;
        }
        let checksum = self.tally.sums.digest();
        let entries = self.tally.entries;
        self.chunk.put_slice(&self.tally.end());
        self.close(END)?;
        self.file.sync_all().map_err(at(&self.path))?;
        Ok(LaneSummary { bytes: self.bytes, entries, checksum })
    }
}

/// A file that is being read.
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    tally: Tally,
    /// Where the chunk begins that comes next.
    at: u64,
    bytes: u64,
}

impl Reader {
    /// Reads the head of a file.
    pub(super) fn open(path: &Path) -> Result<(Self, Head), BackupError> {
        let file = File::open(path).map_err(at(path))?;
        let bytes = file.metadata().map_err(at(path))?.len();
        let file = BufReader::with_capacity(CHUNK_BYTES / 4, file);
        let mut reader = Self { path: path.into(), file, tally: Tally::default(), at: 0, bytes };
        let (kind, mut contents) = reader.chunk()?;
        if kind != HEAD || !contents.starts_with(MAGIC) || contents.len() < MAGIC.len() + 4 {
            return Err(reader.damaged(0, "this is no file of a backup"));
        }
        contents.advance(MAGIC.len());
        let format = contents.get_u32();
        if format != FORMAT {
            return Err(BackupError::Refused(format!(
                "{} has format {format}, and this version reads format {FORMAT} only; use the \
                 version that wrote it",
                path.display()
            )));
        }
        if contents.len() != 4 {
            return Err(reader.damaged(0, "it does not say which lane it is of"));
        }
        let head = Head { lane: contents.get_u16(), lanes: contents.get_u16() };
        Ok((reader, head))
    }

    fn damaged(&self, begin: u64, what: &str) -> BackupError {
        BackupError::Damaged(format!("{}, chunk at byte {begin}: {what}", self.path.display()))
    }

    /// Reads a chunk and compares its checksum.
    fn chunk(&mut self) -> Result<(u8, Bytes), BackupError> {
        let begin = self.at;
        let left = self.bytes.saturating_sub(begin);
        let mut head = [0; CHUNK_HEAD_BYTES];
        if left < CHUNK_HEAD_BYTES as u64 {
            return Err(self.damaged(begin, "the file ends before the backup does"));
        }
        self.file.read_exact(&mut head).map_err(at(&self.path))?;
        let mut fields = &head[..];
        let (kind, length, sum) = (fields.get_u8(), fields.get_u32() as usize, fields.get_u64());
        if length > CHUNK_BYTES_MAX || length as u64 > left - CHUNK_HEAD_BYTES as u64 {
            return Err(self.damaged(begin, "it is longer than what is left of the file"));
        }
        let mut contents = vec![0; length];
        self.file.read_exact(&mut contents).map_err(at(&self.path))?;
        if checksum(self.tally.chunks, kind, &contents) != sum {
            return Err(self.damaged(begin, "it has another checksum than was written"));
        }
        self.at += (CHUNK_HEAD_BYTES + length) as u64;
        if kind != END {
            self.tally.count(sum);
        }
        Ok((kind, contents.into()))
    }

    /// The next entries; `None` at the end, when the file has been found whole.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Entry>>, BackupError> {
        let begin = self.at;
        let (kind, contents) = self.chunk()?;
        match kind {
            ENTRIES => {
                let found = entries(contents);
                let found = found.ok_or_else(|| self.damaged(begin, "it holds no entries"))?;
                for Entry { space, .. } in &found {
                    self.tally.entries[*space as usize] += 1;
                }
                Ok(Some(found))
            }
            END if contents != self.tally.end() => {
                Err(self.damaged(begin, "it counts other entries than are there"))
            }
            END if self.at != self.bytes => {
                Err(self.damaged(begin, "something stands behind the end"))
            }
            END => Ok(None),
            _ => Err(self.damaged(begin, "its kind is unknown")),
        }
    }

    /// What was read, once [`Self::next`] has come to the end.
    pub(super) fn summary(&self) -> LaneSummary {
        let Tally { sums, entries, .. } = &self.tally;
        LaneSummary { bytes: self.at, entries: *entries, checksum: sums.digest() }
    }
}

fn entries(mut contents: Bytes) -> Option<Vec<Entry>> {
    let mut found = Vec::new();
    while !contents.is_empty() {
        if contents.len() < ENTRY_HEAD_BYTES {
            return None;
        }
        let space = Space::from_u8(contents.get_u8())?;
        let (key, value) = (contents.get_u32() as usize, contents.get_u32() as usize);
        if contents.len() < key.saturating_add(value) {
            return None;
        }
        let (key, value) = (contents.split_to(key), contents.split_to(value));
        found.push(Entry { space, key, value });
    }
    Some(found)
}
