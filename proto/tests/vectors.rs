//! Replays the vector files, each line in every version that it names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use petrel_proto::{DecodeError, Frame, Packet, Version, decode, encode, encoded_len, frame};

const PACKET_BYTES_MAX: u32 = 1 << 20;

/// One line of a file.
struct Vector {
    place: String,
    versions: Vec<Option<Version>>,
    wire: Vec<u8>,
    outcome: String,
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

fn vectors(file: &Path) -> Vec<Vector> {
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| vector(format!("{name}:{}", at + 1), line))
        .collect()
}

fn vector(place: String, line: &str) -> Vector {
    let columns: Vec<&str> = line.split(" | ").collect();
    let [versions, wire, outcome, statements, note] = columns[..] else {
        panic!("{place}: not five columns");
    };
    assert!(!note.is_empty(), "{place}: no note");
    assert!(
        statements == "-" || statements.split(' ').all(is_statement),
        "{place}: bad statement in {statements}"
    );
    let versions = match versions {
        "none" => vec![None],
        "5" => vec![Some(Version::V5)],
        "3.1.1" => vec![Some(Version::V3_1_1)],
        "3.1" => vec![Some(Version::V3_1)],
        "3" => vec![Some(Version::V3_1), Some(Version::V3_1_1)],
        "all" => vec![Some(Version::V3_1), Some(Version::V3_1_1), Some(Version::V5)],
        other => panic!("{place}: version {other}"),
    };
    let digits: Vec<u8> = wire.bytes().filter(|&byte| byte != b' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let wire = digits.chunks(2).map(byte).collect();
    Vector { place, versions, wire, outcome: outcome.to_owned() }
}

fn is_statement(tag: &str) -> bool {
    let inner = tag.strip_prefix('[').and_then(|tag| tag.strip_suffix(']')).unwrap_or_default();
    let Some((specification, number)) = inner.split_once('-') else { return false };
    let digit = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    matches!(specification, "MQTT5" | "MQTT311")
        && number.split_once('-').is_some_and(|(section, last)| {
            section.split('.').count() == 3 && section.split('.').all(digit) && digit(last)
        })
}

/// What becomes of the bytes: `None` if more are needed.
fn receive(wire: &[u8], version: Option<Version>) -> Result<Option<Packet>, DecodeError> {
    match frame(wire, PACKET_BYTES_MAX)? {
        Frame::Incomplete(_) => Ok(None),
        Frame::Complete(length) => {
            assert_eq!(length, wire.len(), "the vector holds more than one packet");
            decode(&Bytes::copy_from_slice(wire), version).map(Some)
        }
    }
}

fn encoded(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    assert_eq!(encoded_len(packet, version), Some(out.len()));
    out
}

/// A packet with the secrets that it does not show by itself.
fn shown(packet: &Packet) -> String {
    let (name, secret) = match packet {
        Packet::Connect(connect) => ("password", &connect.password),
        Packet::Auth(auth) => ("data", &auth.data),
        _ => return format!("{packet:?}"),
    };
    let hidden = secret.as_ref().map(|secret| format!("{name}: ({} bytes)", secret.len()));
    let debug = format!("{packet:?}");
    hidden
        .map_or(debug.clone(), |hidden| debug.replacen(&hidden, &format!("{name}: {secret:?}"), 1))
}

/// Replays one line in one version; says what is wrong.
fn replay(vector: &Vector, version: Option<Version>) -> Result<(), String> {
    let received = receive(&vector.wire, version);
    let encode_as = version.unwrap_or(Version::V5);
    match (vector.outcome.split_once(": "), received) {
        (None, Ok(None)) if vector.outcome == "incomplete" => Ok(()),
        (None, Err(error)) if vector.outcome == format!("{:#04x}", error.reason as u8) => Ok(()),
        (Some((how, text)), Ok(Some(packet))) => {
            let debug = shown(&packet);
            let again = encoded(&packet, encode_as);
            if !debug.contains(text) {
                return Err(format!("{text} is not in {debug}"));
            }
            if (how == "same") != (again == vector.wire) {
                return Err(format!("{how}, but encoded again: {again:02x?}"));
            }
            match decode(&Bytes::from(again), version) {
                Ok(second) if second == packet => Ok(()),
                other => Err(format!("{packet:?} came back as {other:?}")),
            }
        }
        (_, received) => Err(format!("{} expected, got {received:?}", vector.outcome)),
    }
}

#[test]
fn every_vector_has_the_outcome_that_it_names() {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut failures = String::new();
    for file in files() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let count = counts.entry(name).or_default();
        for vector in vectors(&file) {
            for &version in &vector.versions {
                if vector.outcome.contains(": ") {
                    count.0 += 1
                } else {
                    count.1 += 1
                }
                if let Err(what) = replay(&vector, version) {
                    writeln!(failures, "{} ({version:?}): {what}", vector.place).unwrap();
                }
            }
        }
    }
    for (name, (valid, invalid)) in &counts {
        println!("{name}: {valid} accepted, {invalid} refused or incomplete");
    }
    let total: usize = counts.values().map(|(valid, invalid)| valid + invalid).sum();
    println!("{} files, {total} replays", counts.len());
    assert!(failures.is_empty(), "\n{failures}");
}

/// [MQTT5-2.1.3-1] A cut vector is incomplete, or refused as early as the fixed header shows why.
#[test]
fn a_vector_that_arrives_byte_by_byte_has_the_same_outcome() {
    for file in files() {
        for vector in vectors(&file) {
            let whole = frame(&vector.wire, PACKET_BYTES_MAX);
            let mut refused = false;
            for end in 0..vector.wire.len() {
                match frame(&vector.wire[..end], PACKET_BYTES_MAX) {
                    Ok(Frame::Complete(length)) => {
                        panic!("{}: {end} bytes hold a packet of {length}", vector.place)
                    }
                    Ok(Frame::Incomplete(length)) => {
                        assert!(!refused, "{}: refused, then not", vector.place);
                        if let (Some(length), Ok(Frame::Complete(total))) = (length, whole) {
                            assert_eq!(length, total, "{}", vector.place);
                        }
                    }
                    Err(error) => {
                        refused = true;
                        assert_eq!(whole, Err(error), "{}", vector.place);
                    }
                }
            }
        }
    }
}

/// Cutting a body short, with the remaining length mended, never makes it acceptable in a way that
/// reads beyond the packet, and never panics.
#[test]
fn a_vector_with_a_shortened_body_decodes_or_is_refused() {
    let mut decoded = 0;
    for file in files() {
        for vector in vectors(&file).iter().filter(|vector| (2..120).contains(&vector.wire.len())) {
            for length in 2..vector.wire.len() {
                let mut wire = vector.wire[..length].to_vec();
                wire[1] = u8::try_from(length - 2).unwrap();
                for &version in &vector.versions {
                    decoded += usize::from(decode(&Bytes::from(wire.clone()), version).is_ok());
                }
            }
        }
    }
    assert!(decoded > 0);
}
