//! An allocator that counts what the current thread holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Passes everything on to the system's allocator.
pub struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static CLASSES: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches only plain
// thread-local cells, which neither allocate nor unwind.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        CLASSES.set(CLASSES.get().wrapping_sub(class(layout.size())));
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(more: usize, less: usize) {
    let held = HELD.get().wrapping_add(more).wrapping_sub(less);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
    CLASSES.set(CLASSES.get().wrapping_add(class(more)).wrapping_sub(class(less)));
    CALLS.set(CALLS.get() + 1);
}

/// What mimalloc sets aside for so many bytes: multiples of 16 up to 128, then four classes to each
/// power of two.
const fn class(bytes: usize) -> usize {
    if bytes <= 8 {
        return if bytes == 0 { 0 } else { 8 };
    }
    let step = if bytes <= 128 { 16 } else { 1 << ((bytes - 1).ilog2() - 2) };
    bytes.div_ceil(step) * step
}

/// Bytes of the size classes that hold what [`held_bytes`] counts.
#[allow(dead_code, reason = "each user of this file needs another part of it")]
pub fn held_class_bytes() -> usize {
    CLASSES.get()
}

/// Bytes that this thread allocated and did not free.
pub fn held_bytes() -> usize {
    HELD.get()
}

/// The most that [`held_bytes`] has been since the last call of this.
#[allow(dead_code, reason = "each user of this file needs another part of it")]
pub fn peak_bytes() -> usize {
    PEAK.replace(HELD.get())
}

/// How often this thread asked for memory.
#[allow(dead_code, reason = "each user of this file needs another part of it")]
pub fn calls() -> usize {
    CALLS.get()
}
