//! What the fuzz targets run: the same code serves cargo-fuzz and the replay of its corpora.

mod compact;
mod proxy;

pub use compact::compact;
pub use proxy::proxy;
