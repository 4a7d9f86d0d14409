//! What the fuzz targets run: the same code serves cargo-fuzz and the replay of its corpora.

mod compact;

pub use compact::compact;
