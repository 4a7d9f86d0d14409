//! What the process holds of the heap, and how often it has asked for it.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts from its making on.
pub struct Count {
    region: Region<'static, System>,
    c_bytes: i64,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Times that Rust code asked for memory, or for more of what it had.
    pub allocations: i64,
    /// Bytes that it asked for.
    pub bytes: i64,
    /// Bytes of those that it has not given back.
    pub held_bytes: i64,
    /// Bytes that the C allocator has handed out more than before, to Rust and to C, its own
    /// overhead included.
    pub heap_bytes: i64,
}

impl Count {
    /// Counts from now on.
    pub fn begin() -> Self {
        Self { c_bytes: heap_bytes(), region: Region::new(COUNTED) }
    }

    /// What has happened since.
    pub fn end(&self) -> Counted {
        let stats = self.region.change();
        Counted {
            allocations: (stats.allocations + stats.reallocations) as i64,
            bytes: stats.bytes_allocated as i64,
            held_bytes: stats.bytes_allocated as i64 - stats.bytes_deallocated as i64,
            heap_bytes: heap_bytes() - self.c_bytes,
        }
    }
}

/// What the C allocator has handed out, for C and for Rust.
#[cfg(target_env = "gnu")]
fn heap_bytes() -> i64 {
    // SAFETY: it takes no argument, and returns a structure of numbers by value.
    #[allow(unsafe_code)]
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

/// Not to be had from this C library.
#[cfg(not(target_env = "gnu"))]
fn heap_bytes() -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allocation_and_byte_is_counted() {
        let count = Count::begin();
        let mut held: Vec<u8> = Vec::with_capacity(1000);
        held.reserve_exact(3000);
        drop(std::hint::black_box(vec![0u8; 500]));
        let counted = count.end();
        // Other tests run beside this one.
        assert!(counted.allocations >= 3, "{counted:?}");
        assert!(counted.bytes >= 3500, "{counted:?}");
        drop(held);
    }
}
