//! What the fuzz targets run: the same code serves cargo-fuzz and the replay of its corpora.
#![allow(dead_code, unused_imports, reason = "each fuzz target uses its own body")]

mod decoder;
mod properties;
mod topic_filter;

pub use decoder::decoder;
pub use properties::properties;
pub use topic_filter::topic_filter;
