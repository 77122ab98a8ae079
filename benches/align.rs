//! `cargo bench --bench align`: the time of one alignment, by kind of pair and by aligner.

mod pairs;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use figa_loss::{Aligner, editops};
use pairs::{OTHERS, VOCAB, edited, tokens};
use rand::{SeedableRng, rngs::StdRng};

/// Name, length, and the rate of edits; `None` for two sequences without a common token.
const PAIRS: [(&str, usize, Option<f64>); 8] = [
    ("sparse_edits_64", 64, Some(0.05)),
    ("sparse_edits_512", 512, Some(0.05)),
    ("sparse_edits_8192", 8192, Some(0.05)),
    ("dense_edits_512", 512, Some(0.3)),
    ("dense_edits_8192", 8192, Some(0.3)),
    ("disjoint_64", 64, None),
    ("disjoint_512", 512, None),
    ("disjoint_2048", 2048, None),
];

/// Tokens of a text, and of the paragraph that moves from its beginning to its end.
const TEXT: usize = 1024;
const PARAGRAPH: usize = 128;

fn align(c: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(0);
    for (name, n, rate) in PAIRS {
        let source = tokens(&mut rng, n, VOCAB);
        let dest = match rate {
            Some(rate) => edited(&mut rng, &source, rate),
            None => tokens(&mut rng, n, OTHERS),
        };
        c.bench_function(name, |b| b.iter(|| editops(black_box(&source), black_box(&dest))));
    }

    let source = tokens(&mut rng, TEXT, VOCAB);
    let moved = [&source[PARAGRAPH..], &source[..PARAGRAPH]].concat();
    let mut group = c.benchmark_group("moved_paragraph");
    for &aligner in Aligner::ALL {
        group.bench_function(format!("{aligner:?}"), |b| {
            b.iter(|| aligner.align(black_box(&source), black_box(&moved)));
        });
    }
}

criterion_group!(benches, align);
criterion_main!(benches);
