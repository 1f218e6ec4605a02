//! How often Rust code asks for memory: the only unsafe code of this program.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static COUNTS: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator. It counts only where that is asked for: counting every allocation of
/// every thread would cost more than many of them, and so spoil the CPU times.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Begins or ends to count. What a C library allocates is not seen.
pub(crate) fn count(counts: bool) {
    COUNTS.store(counts, Ordering::Relaxed);
}

/// How many there were while they were counted.
pub(crate) fn counted() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn note() {
    if COUNTS.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is done by the system's allocator, with what was given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps the promises of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_only_when_asked_for() {
        let before = counted();
        count(true);
        let kept = std::hint::black_box(vec![0_u8; 100]);
        count(false);
        assert!(counted() > before, "{}", kept.len());
    }
}
