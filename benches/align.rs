//! `cargo bench --bench align`: the time of one alignment, by kind of pair.

mod pairs;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use figa_loss::{Aligner, editops};
use pairs::{OTHERS, VOCAB, edited, tokens};
use rand::{SeedableRng, rngs::StdRng};

fn align(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(0);
    for (name, n, rate) in [
        ("sparse_edits_64", 64, 0.05),
        ("sparse_edits_512", 512, 0.05),
        ("sparse_edits_8192", 8192, 0.05),
        ("dense_edits_512", 512, 0.3),
        ("dense_edits_8192", 8192, 0.3),
        ("disjoint_64", 64, 1.0),
        ("disjoint_512", 512, 1.0),
        ("disjoint_2048", 2048, 1.0),
    ] {
        let source = tokens(&mut rng, n, VOCAB);
        let dest = if rate < 1.0 { edited(&mut rng, &source, rate) } else { tokens(&mut rng, n, OTHERS) };
        c.bench_function(name, |b| b.iter(|| editops(black_box(&source), black_box(&dest))));
    }

    let source = tokens(&mut rng, 1024, VOCAB);
    let moved = [&source[128..], &source[..128]].concat();
    let mut group = c.benchmark_group("moved_paragraph");
    for &aligner in Aligner::ALL {
        group.bench_function(format!("{aligner:?}"), |b| {
            b.iter(|| aligner.align(black_box(&source), black_box(&moved)));
        });
    }
}

criterion_group!(benches, align);
criterion_main!(benches);
