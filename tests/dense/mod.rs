//! The loss in its plainest form, on every row and with autograd: the oracle for the loss of the crate.

use figa_loss::tch::{Kind, Tensor};
use figa_loss::{FigaLoss, Gate, Penalty, Reduction};

/// `figa_loss` from `logits [B, S, V]`; `[B, S]` for [`Reduction::None`].
pub fn loss(config: &FigaLoss, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> Tensor {
    reduced(config, logits, labels, weights, |terms| terms)
}

/// The loss if all terms were positive. Rounding errors are relative to this size, however much the terms cancel out.
pub fn size(config: &FigaLoss, logits: &Tensor, labels: &Tensor, weights: &Tensor) -> f64 {
    reduced(config, logits, labels, weights, |terms| terms.abs()).norm().double_value(&[])
}

fn reduced(
    config: &FigaLoss,
    logits: &Tensor,
    labels: &Tensor,
    weights: &Tensor,
    of_terms: fn(Tensor) -> Tensor,
) -> Tensor {
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let steps = logits.size()[1] - 1;
    let (targets, weights) = (labels.narrow(1, 1, steps), weights.narrow(1, 1, steps).to_kind(kind));
    let labelled = targets.ne(config.ignore_index);
    let log_p = logits.narrow(1, 0, steps).to_kind(kind).log_softmax(-1, kind);
    let nll = -log_p.gather(-1, &targets.clamp_min(0).unsqueeze(-1), false).squeeze_dim(-1);

    let gated = match config.objective.gate {
        None => labelled.zeros_like(),
        Some(Gate::AtMost(limit)) => nll.detach().gt(limit),
        Some(Gate::Band { min, max }) => nll.detach().lt(min).logical_or(&nll.detach().gt(max)),
        Some(_) => unreachable!("all gates are listed"),
    };
    let penalised = weights.lt(0);
    let active = labelled.logical_and(&weights.ne(0)).logical_and(&penalised.logical_and(&gated).logical_not());
    let zeros = nll.zeros_like();
    let mut cost = &weights * &nll;
    if config.objective.penalty == Penalty::Unlikelihood {
        let one_minus_p = -(-&nll).expm1();
        cost = (&weights * one_minus_p.log()).where_self(&penalised, &cost);
    }
    let cost = of_terms(cost.where_self(&active, &zeros));
    let count = |mask: &Tensor| mask.sum(kind).clamp_min(1);
    match config.reduction {
        Reduction::ActiveTokens => cost.sum(kind) / count(&active),
        Reduction::LabelledTokens => cost.sum(kind) / count(&labelled),
        Reduction::AbsWeights => {
            let sum = weights.abs().where_self(&active, &zeros).sum(kind);
            cost.sum(kind) / sum.where_self(&sum.ne(0), &sum.ones_like())
        }
        Reduction::Sum => cost.sum(kind),
        Reduction::SequenceMeans => {
            let counts = active.sum_dim_intlist(1, false, kind).clamp_min(1);
            (cost.sum_dim_intlist(1, false, kind) / counts).mean(kind)
        }
        Reduction::None => cost.constant_pad_nd([1, 0]),
        Reduction::External(number) => cost.sum(kind) / number,
        _ => unreachable!("all reductions are listed"),
    }
}
