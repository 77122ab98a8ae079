//! A warm workspace allocates nothing. (One test alone in its program: the counter sees every thread.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use figa_loss::{Aligner, Workspace};
use rand::{Rng, SeedableRng, rngs::StdRng};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_workspace_allocates_nothing() {
    let mut rng = StdRng::seed_from_u64(0);
    let mut pairs = vec![];
    for n in [0, 10, 300, 3000] {
        for rate in [0.0, 0.02, 0.3, 1.0] {
            let source: Vec<u32> = (0..n).map(|_| rng.random_range(0..1000)).collect();
            let dest: Vec<u32> = source
                .iter()
                .map(|&item| if rng.random_bool(rate) { rng.random_range(0..1000) } else { item })
                .collect();
            pairs.push((source, dest));
        }
    }
    let mut workspace = Workspace::default();
    let mut label_all = || {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for (original, revised) in &pairs {
            workspace.align(Aligner::Levenshtein, original, revised);
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    assert!(label_all() > 0, "the counter does not count");
    assert_eq!(label_all(), 0);
}
