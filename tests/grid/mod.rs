//! What the grids over dtypes, reductions and settings share: a loss of the crate against its dense expression.

use figa_loss::tch::{Device, Kind, Tensor};
use figa_loss::{LmHead, Reduction};

use crate::common::number;

pub const KINDS: [Kind; 4] = [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Half];

pub const REDUCTIONS: [Reduction; 7] = [
    Reduction::ActiveTokens,
    Reduction::LabelledTokens,
    Reduction::AbsWeights,
    Reduction::Sum,
    Reduction::SequenceMeans,
    Reduction::None,
    Reduction::External(5.0),
];

/// The logits, `[B, S, V]`.
pub fn logits(hidden: &Tensor, head: &LmHead<'_>) -> Tensor {
    let logits = hidden.matmul(&head.weight.tr());
    let logits = head.bias.map_or(logits.shallow_clone(), |bias| logits + bias) * head.scale;
    match head.softcap {
        None => logits,
        Some(cap) => (logits / cap).tanh() * cap,
    }
}

/// The loss, and the gradients of the leaves that have one, under an outer gradient that is not 1.
pub fn results(loss: &Tensor, leaves: &[&Tensor]) -> Vec<Tensor> {
    let outer = Tensor::arange(loss.numel() as i64, (Kind::Double, loss.device())).reshape(loss.size()) * 0.3 + 2.0;
    (loss * outer.to_kind(loss.kind())).sum(loss.kind()).backward();
    let gradients = leaves.iter().map(|leaf| leaf.grad()).filter(|gradient| gradient.defined());
    [loss.detach()].into_iter().chain(gradients).collect()
}

/// The distance from the truth.
fn error(result: &Tensor, truth: &Tensor) -> f64 {
    number(&(result.to_kind(Kind::Double) - truth.to_kind(Kind::Double)).norm())
}

/// How much greater than that of the plain expression our error may be. A GPU multiplies matrices in half precision for
/// both of them: their errors are of one size, and which is greater is chance, within the rounding of one number.
fn tolerance(kind: Kind, device: Device) -> f64 {
    let rounding = match kind {
        Kind::BFloat16 => 2f64.powi(-8),
        Kind::Half => 2f64.powi(-11),
        _ => 0.0,
    };
    1e-6 + if device == Device::Cpu { 0.0 } else { rounding }
}

/// Compares what [`results`] returns for inputs of a dtype: our error may not exceed that of the plain expression, both
/// relative to the result's own size. The size of the loss is `size`, however much its terms cancel out.
pub fn assert_no_less_exact(name: &str, kind: Kind, size: f64, ours: &[Tensor], plain: &[Tensor], truth: &[Tensor]) {
    const LEAST_SIZE: f64 = 1e-9;
    let tolerance = tolerance(kind, truth[0].device());
    assert_eq!((ours.len(), plain.len()), (truth.len(), truth.len()), "{name}");
    for (part, truth) in truth.iter().enumerate() {
        let size = if part == 0 { size } else { number(&truth.norm()) }.max(LEAST_SIZE);
        let (ours, plain) = (error(&ours[part], truth) / size, error(&plain[part], truth) / size);
        assert!(ours <= plain + tolerance, "{name}, part {part}: {ours:e} but {plain:e}");
    }
}
