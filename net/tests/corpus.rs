//! Replays the corpora of the fuzz targets on stable Rust.

use std::path::Path;

#[path = "compact_rig/mod.rs"]
mod rig;

mod fuzz_bodies;

#[test]
fn the_corpus_of_the_compact_record_layer_holds() {
    replay("compact", fuzz_bodies::compact);
}

#[test]
fn the_corpus_of_the_proxy_protocol_holds() {
    replay("proxy", fuzz_bodies::proxy);
}

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in &files {
        println!("{}", file.display());
        body(&std::fs::read(file).unwrap());
    }
}
