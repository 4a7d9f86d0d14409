//! The texts of filters by id.

use crate::name::Name;
use crate::table::Table;

/// Texts by id; freed ids are given out again.
#[derive(Debug, Default)]
pub(super) struct Texts(Table<Name>);

impl Texts {
    /// Copies a text and gives it an id.
    pub(super) fn insert(&mut self, text: &[u8]) -> u32 {
        self.0.insert(Name::new(text))
    }

    /// The text of an id; empty if the id is not in use.
    #[inline]
    pub(super) fn get(&self, id: u32) -> &[u8] {
        self.0.get(id).map(Name::as_bytes).unwrap_or_default()
    }

    /// Drops a text and frees its id.
    pub(super) fn remove(&mut self, id: u32) {
        self.0.remove(id);
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}
