//! Which memory alignment allocates, and which it keeps for the next pair. There is only one test, because the counter
//! sees all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use figa_loss::{Aligner, distance, editops};
use rand::{Rng, SeedableRng, rngs::StdRng};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size, Ordering::Relaxed);
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lengths of sequences whose memory is kept for the next pair, and of longer ones.
const SHORT: usize = 8_192;
const LONG: usize = 60_000;
/// Fewer bytes than this are kept.
const MAX_KEPT: usize = 4 << 20;
const VOCABULARY: u32 = 1000;

fn random(rng: &mut StdRng, n: usize, vocabulary: u32) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(0..vocabulary)).collect()
}

/// A copy in which each item is replaced with probability `rate`.
fn edited(rng: &mut StdRng, source: &[u32], rate: f64) -> Vec<u32> {
    source.iter().map(|&item| if rng.random_bool(rate) { rng.random_range(0..VOCABULARY) } else { item }).collect()
}

#[test]
fn a_thread_that_has_aligned_before_allocates_only_the_result_and_keeps_little() {
    let mut rng = StdRng::seed_from_u64(0);
    let allocations = |run: &mut dyn FnMut()| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        run();
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    let source = random(&mut rng, 3000, VOCABULARY);
    let dest = edited(&mut rng, &source, 0.3);
    let mut align = || drop(Aligner::Levenshtein.align(&source, &dest));
    align();
    // Two masks, and the list of spans, which doubles as it grows.
    let spans = Aligner::Levenshtein.align(&source, &dest).spans().len();
    assert!((3..=2 + spans.ilog2() as usize).contains(&allocations(&mut align)));

    // One pair for each method: nearly equal, dissimilar over a large vocabulary, and with matches everywhere.
    let methods = |rng: &mut StdRng, n: usize| {
        let source = random(rng, n, VOCABULARY);
        let (near, far) = (edited(rng, &source, 0.01), edited(rng, &source, 0.5));
        [(source.clone(), near), (source, far), (random(rng, n, 2), random(rng, n, 2))]
    };
    for (source, dest) in methods(&mut rng, 500) {
        editops(&source, &dest);
        distance(&source, &dest);
        assert_eq!(allocations(&mut || drop(editops(&source, &dest))), 1, "only the result");
    }
    let [short, long] = [SHORT, LONG].map(|n| methods(&mut rng, n));
    let before = BYTES.load(Ordering::Relaxed);
    let kept_after = |pairs: &[(Vec<u32>, Vec<u32>)]| {
        for (source, dest) in pairs {
            editops(source, dest);
        }
        BYTES.load(Ordering::Relaxed).saturating_sub(before)
    };
    assert!((1..MAX_KEPT).contains(&kept_after(&short)));
    assert_eq!(kept_after(&long), 0);
}
