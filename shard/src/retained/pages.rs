//! The blocks of a shard, in the order of their keys.
//!
//! Two levels of lists: a search is two bisections, the neighbour of a page is the next position, and
//! growing moves a few kilobytes at most. Invariants: the first page, once it is there, stays and has an
//! empty floor; no other page stays when it is empty; floors ascend strictly, and a page's keys are not
//! below its floor.

use super::block::Block;

/// Pages in one list, at most.
const LIST_MAX: usize = 256;

/// A block and what is known of it.
#[derive(Debug)]
pub(super) struct Page {
    /// Not above any of its keys, above all keys of the page before. Never changes.
    pub(super) floor: Box<[u8]>,
    /// Nothing in it expires before this moment; `u64::MAX` if nothing does.
    pub(super) earliest_ms: u64,
    pub(super) block: Block,
}

/// Where a page is, until pages come or go.
pub(super) type At = (usize, usize);

/// All pages.
#[derive(Debug, Default)]
pub(super) struct Pages(Vec<Vec<Page>>);

impl Pages {
    /// The page in which a key is or belongs. Cost: two bisections.
    pub(super) fn find(&self, key: &[u8]) -> At {
        let below = |page: &Page| *page.floor <= *key;
        let list = self.0.partition_point(|list| below(&list[0])).saturating_sub(1);
        let at = self.0.get(list).map_or(0, |pages| pages.partition_point(below));
        (list, at.saturating_sub(1))
    }

    /// Makes the first page, if there is none yet.
    pub(super) fn begin(&mut self) {
        if self.0.is_empty() {
            let (floor, block) = (Box::default(), Block::default());
            self.0.push(vec![Page { floor, earliest_ms: u64::MAX, block }]);
        }
    }

    pub(super) fn get(&self, (list, at): At) -> Option<&Page> {
        self.0.get(list)?.get(at)
    }

    pub(super) fn get_mut(&mut self, (list, at): At) -> &mut Page {
        &mut self.0[list][at]
    }

    /// The position behind one; no page is there if it was the last.
    pub(super) fn next(&self, (list, at): At) -> At {
        match self.0.get(list).is_some_and(|pages| at + 1 < pages.len()) {
            true => (list, at + 1),
            false => (list + 1, 0),
        }
    }

    /// Puts a page behind another.
    pub(super) fn insert_behind(&mut self, (list, at): At, page: Page) {
        let pages = &mut self.0[list];
        pages.insert(at + 1, page);
        if pages.len() > LIST_MAX {
            let is_last = at + 2 == pages.len();
            let upper = pages.split_off(if is_last { LIST_MAX } else { LIST_MAX / 2 });
            pages.shrink_to_fit();
            self.0.insert(list + 1, upper);
        }
    }

    /// Takes an empty page away, unless it is the first.
    pub(super) fn remove(&mut self, (list, at): At) {
        if (list, at) == (0, 0) {
            return;
        }
        self.0[list].remove(at);
        if self.0[list].is_empty() {
            self.0.remove(list);
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Page> {
        self.0.iter().flatten()
    }
}
