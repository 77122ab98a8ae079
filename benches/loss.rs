//! `cargo bench --bench loss`: forward and backward from logits (B = 4, S = 128, V = 8000, f32), ours beside the flat
//! expression that computes every row.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use figa_loss::figa_loss;
use figa_loss::tch::{Device, Kind, Reduction, Tensor};

const B: i64 = 4;
const S: i64 = 128;
const V: i64 = 8000;

fn flat(logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    let logits = logits.slice(1, 0, -1, 1).reshape([-1, V]);
    let (labels, weights) = (labels.slice(1, 1, None, 1).reshape([-1]), weights.slice(1, 1, None, 1).reshape([-1]));
    let nll = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::None, -100, 0.0);
    (nll * &weights).sum(Kind::Float) / weights.ne(0).sum(Kind::Float).clamp_min(1)
}

fn loss(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward_backward");
    group.sample_size(10);
    for percent in [10, 100] {
        let cpu = |kind| (kind, Device::Cpu);
        let logits = Tensor::randn([B, S, V], cpu(Kind::Float)).set_requires_grad(true);
        let labels = Tensor::randint(V, [B, S], cpu(Kind::Int64));
        let weights = Tensor::rand([B, S], cpu(Kind::Float)).lt(f64::from(percent) / 100.0).to_kind(Kind::Float);
        let step = |loss: Tensor| Tensor::run_backward(&[loss], &[&logits], false, false);
        group.bench_function(BenchmarkId::new("figa_loss", percent), |b| {
            b.iter(|| step(figa_loss(&logits, &labels, &weights).unwrap()));
        });
        group.bench_function(BenchmarkId::new("flat_expression", percent), |b| {
            b.iter(|| step(flat(&logits, &labels, &weights)));
        });
    }
}

criterion_group!(benches, loss);
criterion_main!(benches);
