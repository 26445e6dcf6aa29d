//! Counts what is taken from memory by the thread that looks at an input.

#![allow(
    unsafe_code,
    reason = "an allocator cannot be written otherwise; it only counts and passes on"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes in use by this thread, and the most that they were.
    static USED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(bytes: isize) {
    // At the end of a thread there is nothing left to count in.
    USED.try_with(|used| {
        let (now, most) = used.get();
        let now = now + bytes;
        used.set((now, most.max(now)));
    })
    .unwrap_or_default();
}

// SAFETY: every call goes to the system's allocator with the arguments that came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What `work` gives, and the bytes that this thread had in use for it at most.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = USED.with(|used| {
        let (now, _most) = used.get();
        used.set((now, now));
        now
    });
    let result = work();
    let most = USED.with(|used| used.get().1);
    (result, usize::try_from(most - before).unwrap_or_default())
}

#[test]
fn what_is_taken_and_given_back_counts_at_its_most() {
    let (length, bytes) = measured(|| {
        let first = vec![1_u8; 10_000];
        let length = first.len();
        drop(first);
        length + vec![2_u8; 5_000].len()
    });
    assert_eq!(length, 15_000);
    assert!((10_000..15_000).contains(&bytes), "{bytes}");
}
