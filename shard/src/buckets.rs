//! Buckets of one cache line, which find a fingerprint's entries by one word of tags.
//!
//! A table is parts of buckets; a fingerprint says in which part it is, in which bucket it starts, and
//! which tag and which check it has there. An entry that finds its bucket full goes on to another one
//! and leaves its tag in the mark of the full one; readers go on only if the mark allows their tag.
//! Whoever owns the table grows its parts one by one, by the arithmetic that is here too. Several
//! entries may share a fingerprint.
//!
//! Cells are atomic so that a table may be read while one writer changes it: an entry is there before
//! its tag, so a reader that sees the tag sees that entry or a younger one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of a bucket.
pub(crate) const WAYS: usize = 7;
/// Parts of a table.
pub(crate) const PARTS: usize = 256;

/// One cache line: a byte of marks and a tag of seven bits for each entry; then the entries. A way
/// without an entry holds zeros, which is also the tag of some.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Bucket {
    tags: AtomicU64,
    entries: [AtomicU64; WAYS],
}

/// A fingerprint, cut in pieces: from the top 31 bits for the check, one free, 8 for the part, then
/// after 17 that are not looked at 7 for the tag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key(u64);

/// What the first bucket of a key tells.
pub(crate) enum First {
    /// There is no entry.
    Lacks,
    /// There is none but this one, which has the same tag.
    Only(u64),
    /// One has to look on.
    Unclear,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    bucket: usize,
    way: usize,
}

/// The buckets of one part.
pub(crate) trait Buckets {
    /// How many there are.
    fn len(&self) -> usize;

    /// One of them, if there are so many.
    fn at(&self, index: usize) -> Option<&Bucket>;
}

/// How full a part is.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fill {
    /// Entries.
    pub(crate) live: usize,
    /// How often an entry went past a full bucket since the part was copied.
    passed: usize,
}

const ONES: u64 = u64::MAX / 255;
/// One in each tag, none in the marks.
const TAGS: u64 = ONES << 8;
/// The bits of an entry that are a check.
pub(crate) const CHECK: u64 = u64::MAX << 33;
/// The bits of a tag.
const TAG: u64 = 0x7f;
/// Among the marks: some entry went past.
const PASSED: u64 = 0x80;

/// How full parts are kept, in sixteenths: they grow above the first, shrink below the last, and are
/// made for the one between. An entry takes 9.1 bytes divided by that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Density {
    pub(crate) full: usize,
    pub(crate) aim: usize,
    pub(crate) sparse: usize,
}

impl Key {
    /// The bits of a fingerprint that are kept: fingerprints that share them share a key.
    pub(crate) const KEPT: u64 = 0xffff_fffe_ff00_007f;

    #[inline]
    pub(crate) const fn of(fingerprint: u64) -> Self {
        Self(fingerprint)
    }

    /// Which part of the table.
    #[inline]
    pub(crate) const fn part(self) -> usize {
        (self.0 >> 24) as usize % PARTS
    }

    /// What an entry is to hold at its top, beside the tag: 31 bits; the one below is free.
    #[inline]
    pub(crate) const fn check(self) -> u64 {
        self.0 & CHECK
    }

    #[inline]
    const fn tag(self) -> u64 {
        self.0 & TAG
    }

    /// The bucket to start from.
    #[inline]
    const fn home(self, buckets: usize) -> usize {
        (((self.0 >> 33) * buckets as u64) >> 31) as usize
    }

    /// The second bucket; from there on they follow each other.
    const fn second(self, buckets: usize) -> usize {
        (self.home(buckets) + 1 + self.tag() as usize) % buckets
    }

    /// The tags of a bucket that are this one, by their top bits: exact for the first, and others may
    /// only look like it.
    #[inline]
    const fn among(self, tags: u64) -> u64 {
        (tags ^ (self.tag() * ONES)).wrapping_sub(TAGS) & (TAGS << 7)
    }

    /// Whether an entry may have gone past a bucket.
    #[inline]
    const fn passed(self, tags: u64) -> bool {
        (self.tag() | PASSED) & !tags == 0
    }
}

impl Bucket {
    /// Without entries.
    pub(crate) fn new() -> Self {
        Self { tags: AtomicU64::new(0), entries: [const { AtomicU64::new(0) }; WAYS] }
    }

    /// The keys and the entries that are there.
    fn ways(&self) -> impl Iterator<Item = (Key, u64)> {
        let tags = self.tags.load(Ordering::Relaxed).to_le_bytes();
        let entries = self.entries.iter().map(|entry| entry.load(Ordering::Relaxed));
        let taken = tags.into_iter().skip(1).zip(entries).filter(|(_, entry)| *entry != 0);
        taken.map(|(tag, entry)| (Key(entry & CHECK | u64::from(tag)), entry))
    }

    /// Puts an entry into the first free way; if there is none, marks that it went past.
    fn put(&self, key: Key, entry: u64) -> bool {
        let tags = self.tags.load(Ordering::Relaxed);
        let free = self.entries.iter().position(|entry| entry.load(Ordering::Relaxed) == 0);
        if let Some(way) = free {
            self.entries[way].store(entry, Ordering::Relaxed);
        }
        let more = free.map_or(PASSED | key.tag(), |way| key.tag() << (8 * (way + 1)));
        self.tags.store(tags | more, Ordering::Release);
        free.is_some()
    }

    /// Takes an entry out.
    fn clear(&self, way: usize) {
        let others = self.tags.load(Ordering::Relaxed) & !(0xff << (8 * (way + 1)));
        self.tags.store(others, Ordering::Release);
        self.entries[way].store(0, Ordering::Release);
    }
}

/// Looks at the first bucket of a key.
#[inline(always)]
pub(crate) fn first(buckets: &(impl Buckets + ?Sized), key: Key) -> First {
    let Some(bucket) = buckets.at(key.home(buckets.len())) else { return First::Lacks };
    let tags = bucket.tags.load(Ordering::Acquire);
    let equal = key.among(tags);
    if equal == 0 {
        return if key.passed(tags) { First::Unclear } else { First::Lacks };
    }
    let entry = bucket.entries.get(equal.trailing_zeros() as usize / 8 - 1);
    match entry {
        Some(entry) if equal & (equal - 1) == 0 && !key.passed(tags) => {
            First::Only(entry.load(Ordering::Acquire))
        }
        _ => First::Unclear,
    }
}

/// What the first bucket says, for [`tell_lack`].
#[inline(always)]
pub(crate) fn tags(buckets: &(impl Buckets + ?Sized), key: Key) -> u64 {
    let bucket = buckets.at(key.home(buckets.len()));
    bucket.map_or(0, |bucket| bucket.tags.load(Ordering::Acquire))
}

/// Whether the tags of the first bucket tell that a key has no entry.
#[inline(always)]
pub(crate) const fn tell_lack(tags: u64, key: Key) -> bool {
    key.among(tags) == 0 && !key.passed(tags)
}

/// Calls `each` with the entries of a tag, and where they are, until it returns true.
#[inline]
pub(crate) fn search(
    buckets: &(impl Buckets + ?Sized),
    key: Key,
    mut each: impl FnMut(Place, u64) -> bool,
) {
    let mut at = key.home(buckets.len());
    let mut steps = 0;
    while let Some(bucket) = buckets.at(at) {
        let tags = bucket.tags.load(Ordering::Acquire);
        let mut equal = key.among(tags);
        while equal != 0 {
            let way = equal.trailing_zeros() as usize / 8 - 1;
            let Some(entry) = bucket.entries.get(way) else { break };
            if each(Place { bucket: at, way }, entry.load(Ordering::Acquire)) {
                return;
            }
            equal &= equal - 1;
        }
        if !key.passed(tags) || steps > buckets.len() {
            return;
        }
        at = next(buckets, key, at, steps);
        steps += 1;
    }
}

/// The bucket after so many steps more.
#[cold]
fn next(buckets: &(impl Buckets + ?Sized), key: Key, at: usize, steps: usize) -> usize {
    match steps {
        0 => key.second(buckets.len()),
        _ if at + 1 == buckets.len() => 0,
        _ => at + 1,
    }
}

/// The entry at a place.
#[inline]
pub(crate) fn entry(buckets: &(impl Buckets + ?Sized), place: Place) -> Option<&AtomicU64> {
    buckets.at(place.bucket)?.entries.get(place.way)
}

/// Puts an entry, which is not zero, into the first way that is free. There is one, if [`Fill::is_full`] was heeded.
pub(crate) fn insert(buckets: &(impl Buckets + ?Sized), fill: &mut Fill, key: Key, entry: u64) {
    fill.live += 1;
    put(buckets, fill, key, entry);
}

fn put(buckets: &(impl Buckets + ?Sized), fill: &mut Fill, key: Key, entry: u64) {
    let mut at = key.home(buckets.len());
    for steps in 0..=buckets.len() {
        if buckets.at(at).is_some_and(|bucket| bucket.put(key, entry)) {
            return;
        }
        fill.passed += 1;
        at = next(buckets, key, at, steps);
    }
    debug_assert!(false, "a part was not grown in time");
}

/// Takes an entry out.
pub(crate) fn remove(buckets: &(impl Buckets + ?Sized), fill: &mut Fill, place: Place) {
    if let Some(bucket) = buckets.at(place.bucket) {
        bucket.clear(place.way);
        fill.live -= 1;
    }
}

/// Copies all entries to other buckets, by the checks that they hold.
pub(crate) fn copy(from: &(impl Buckets + ?Sized), to: &(impl Buckets + ?Sized), fill: &mut Fill) {
    fill.passed = 0;
    let buckets = (0..from.len()).filter_map(|index| from.at(index));
    for (key, entry) in buckets.flat_map(Bucket::ways) {
        put(to, fill, key, entry);
    }
}

impl Fill {
    /// Whether a part of so many buckets is to be copied before it gets one entry more.
    pub(crate) fn is_full(self, density: Density, buckets: usize) -> bool {
        (self.live + 1) * 16 > buckets * WAYS * density.full || self.passed * 2 > buckets * 3
    }

    /// Whether a part of so many buckets is to be copied to fewer.
    pub(crate) fn is_sparse(self, density: Density, buckets: usize) -> bool {
        self.live * 16 < buckets * WAYS * density.sparse && self.buckets(density) < buckets
    }

    /// How many buckets suit these entries and one more.
    pub(crate) fn buckets(self, density: Density) -> usize {
        ((self.live + 1) * 16).div_ceil(WAYS * density.aim)
    }
}
