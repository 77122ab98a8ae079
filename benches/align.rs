//! `cargo bench --bench align`: the time of one alignment, by kind of pair.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use figa_loss::{Aligner, Workspace, editops};
use rand::{Rng, SeedableRng, rngs::StdRng};

const VOCAB: u32 = 32_000;

fn tokens(rng: &mut StdRng, n: usize) -> Vec<u32> {
    (0..n).map(|_| rng.random_range(0..VOCAB)).collect()
}

/// A copy in which each position is substituted, doubled or dropped at the given rate.
fn edited(rng: &mut StdRng, source: &[u32], rate: f64) -> Vec<u32> {
    let mut dest = Vec::with_capacity(source.len());
    for &token in source {
        match rng.random_bool(rate).then(|| rng.random_range(0..3)) {
            None => dest.push(token),
            Some(0) => dest.push(rng.random_range(0..VOCAB)),
            Some(1) => dest.extend([token, token]),
            Some(_) => {}
        }
    }
    dest
}

fn align(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(0);
    let mut workspace = Workspace::default();
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
        let source = tokens(&mut rng, n);
        let dest = if rate < 1.0 { edited(&mut rng, &source, rate) } else { tokens(&mut rng, n) };
        c.bench_function(name, |b| b.iter(|| editops(black_box(&source), black_box(&dest))));
        c.bench_function(&format!("{name}_warm"), |b| {
            b.iter(|| workspace.editops(black_box(&source), black_box(&dest)).len());
        });
    }

    let source = tokens(&mut rng, 1024);
    let moved = [&source[128..], &source[..128]].concat();
    let mut group = c.benchmark_group("moved_paragraph");
    for aligner in [Aligner::Levenshtein, Aligner::Myers, Aligner::Patience, Aligner::Histogram, Aligner::Hunt] {
        group.bench_function(format!("{aligner:?}"), |b| {
            b.iter(|| aligner.align(black_box(&source), black_box(&moved)));
        });
    }
}

criterion_group!(benches, align);
criterion_main!(benches);
