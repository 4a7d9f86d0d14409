//! Replays the corpora of the fuzz targets, and what the vectors add to them, on stable Rust.

use std::path::{Path, PathBuf};

mod fuzz_bodies;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs the body over every file; a panic names the file in the captured output.
fn replay(target: &str, body: fn(&[u8])) {
    let files = files(&format!("fuzz/corpus/{target}"));
    assert!(!files.is_empty(), "no corpus for {target}");
    for file in &files {
        println!("{}", file.display());
        body(&std::fs::read(file).unwrap());
    }
    println!("{target}: {} inputs", files.len());
}

#[test]
fn the_corpus_of_the_decoder_holds() {
    replay("decoder", fuzz_bodies::decoder);
}

#[test]
fn the_corpus_of_the_topic_filters_holds() {
    replay("topic_filter", fuzz_bodies::topic_filter);
}

#[test]
fn the_corpus_of_the_properties_holds() {
    replay("properties", fuzz_bodies::properties);
}

/// Every packet of the vector files, in every version and through every selector of the decoder's
/// target.
#[test]
fn the_vectors_hold_in_the_decoder_target() {
    for file in files("vectors").iter().filter(|file| file.extension().is_some_and(|e| e == "txt"))
    {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let Some(wire) = line.split(" | ").nth(1) else { continue };
            let digits: Vec<u8> = wire.bytes().filter(|&byte| byte != b' ').collect();
            let digits = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
            let wire: Vec<u8> = digits.map(|it| u8::from_str_radix(it, 16).unwrap()).collect();
            for selector in 0..8 {
                fuzz_bodies::decoder(&[&[selector], &wire[..]].concat());
            }
        }
    }
}
