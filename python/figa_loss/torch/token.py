"""Losses of single tokens: a sum over rows, and what it is divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import IGNORE_INDEX, Rows
from .scores import LmHead, Measures, Output, between_compiled_parts, column_log_odds, entropy, log_odds, measure_rows

Reduction = str | float | Tensor
"""What the sum over the tokens is divided by. A denominator of 0, where no token counts, divides nothing.

* `"active_tokens"`: the number of active tokens that are not gated
* `"labelled_tokens"`: the number of tokens with a label, whatever they weigh
* `"abs_weights"`: the sum of |weight| over the active tokens that are not gated
* `"sum"`: 1
* `"sequence_means"`: the mean over each sequence's active tokens that are not gated, then over the sequences
* `"none"`: nothing is summed; the result has the shape of the labels
* a number > 0: the count of a whole step, for micro-batches and processes that share it
"""

_BY_ROW = ("sequence_means", "none")
_REDUCTIONS = ("active_tokens", "labelled_tokens", "abs_weights", "sum", "sequence_means", "none")


@dataclass(frozen=True)
class Scores:
    """What a loss sees of `n` rows."""

    rows: Rows
    measures: Measures

    @property
    def weights(self) -> Tensor:
        return self.rows.weights

    @property
    def log_odds(self) -> Tensor:
        return self.measures["log_odds"]

    @property
    def logp(self) -> Tensor:
        """The log-probability of the label."""
        return F.logsigmoid(self.log_odds)

    @property
    def nll(self) -> Tensor:
        return -self.logp

    @property
    def p(self) -> Tensor:
        """The probability of the label, a constant for the gradient."""
        return self.log_odds.detach().sigmoid()

    @property
    def log_rest(self) -> Tensor:
        """`log(1 - p)`."""
        return F.logsigmoid(-self.log_odds)

    def take(self, name: str, values: Tensor) -> Tensor:
        """The entries of a constant in the shape of the labels, perhaps with a further dimension."""
        shape = self.rows.shape
        if values.shape[: len(shape)] != shape:
            raise ValueError(f"{name}: expected shape {list(shape)}, that of labels, got {list(values.shape)}")
        values = values.detach().flatten(0, len(shape) - 1)[self.rows.tokens.to(values.device)].to(self.weights.device)
        return values.to(self.weights.dtype) if values.is_floating_point() else values

    def sequence_sums(self, values: Tensor) -> Tensor:
        """`[n]` -> the sum of each sequence, all of whose rows have to be here."""
        return values.new_zeros(self.rows.sequence_count).index_add(0, self.rows.sequences, values)


class Loss(nn.Module):
    """What losses of tokens and of pairs have in common.

    Args:
        ignore_index: the label of positions that do not count.
        chunk_rows: how many rows of logits are held at a time where they are computed from hidden states.
    """

    def __init__(self, *, ignore_index: int = IGNORE_INDEX, chunk_rows: int | None = None) -> None:
        super().__init__()
        self.ignore_index, self.chunk_rows = ignore_index, chunk_rows

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor, **further: Any) -> Tensor:
        """The loss of `logits [B, S, V]`, `labels [B, S]` (int64) and `weights [B, S]`, which have the positions of
        `input_ids`: the shift by one happens here. `further` are the keywords of `on`, and the loss's own tensors.
        Returns a scalar in f32 (f64 for f64)."""
        return self.on(logits, Rows.of_batch(labels, weights, self.ignore_index), **further)

    def fused(
        self, hidden: Tensor, head: Tensor | LmHead | nn.Linear, labels: Tensor, weights: Tensor, **further: Any
    ) -> Tensor:
        """The same from `hidden [B, S, H]` and a head `[V, H]`, without ever holding all logits."""
        return self.on((hidden, head), Rows.of_batch(labels, weights, self.ignore_index), **further)

    def on(self, output: Output, rows: Rows, *_: Any, **further: Any) -> Tensor:
        """The loss of a model's output on rows."""
        raise NotImplementedError

    def measure(self, x: Tensor, rows: Rows, *_: Any, **further: Any) -> Measures:
        """What the loss asks of some rows, given their logits `x [n, V]` and the loss's own tensors."""
        return {"log_odds": log_odds(x, rows.labels)}


class TokenLoss(Loss):
    """A loss that is a sum over tokens. Subclasses say what a token costs, and whether that depends on other tokens:
    then `one_pass` is False.

    Args:
        reduction: what the sum is divided by, see `Reduction`.
        ignore_index: the label of positions that do not count.
        chunk_rows: how many rows of logits are held at a time where they are computed from hidden states.
    """

    reduction: Reduction = "active_tokens"
    one_pass = True
    """Whether what a row costs depends on no other row, so that its gradient can be computed with it."""

    def __init__(self, *, reduction: Reduction | None = None, **options: Any) -> None:
        super().__init__(**options)
        if reduction is not None:
            self.reduction = reduction
        _check_reduction(self.reduction)

    @between_compiled_parts
    def on(self, output: Output, rows: Rows, *, reduction: Reduction | None = None, **further: Any) -> Tensor:
        """The loss of a model's output on rows. `reduction` replaces that of the loss, as with the count of a step."""
        reduction = self.reduction if reduction is None else reduction

        def measure(x: Tensor, some: Rows) -> Measures:
            return self.measure(x, some, **further)

        def terms(measures: Measures, some: Rows) -> Measures:
            value, counted = self.terms(Scores(some, measures), **further)
            return {"value": value, "counted": torch.ones_like(value, dtype=torch.bool) if counted is None else counted}

        if self.one_pass and not (isinstance(reduction, str) and reduction in _BY_ROW):
            measures, rows = measure_rows(
                output, rows, lambda x, some: terms(measure(x, some), some), self.chunk_rows, total=True
            )
        else:
            measures, rows = measure_rows(output, rows, measure, self.chunk_rows)
            measures = terms(measures, rows)
        return _reduced(reduction, measures["value"], measures["counted"], rows)

    def terms(self, scores: Scores, *_: Any, **further: Any) -> tuple[Tensor, Tensor | None]:
        """What each row adds to the sum, `[n]`, and which rows count (`None`: all); the others add 0. With `one_pass`,
        `scores` may be those of a part of the rows."""
        raise NotImplementedError


def _check_reduction(reduction: Reduction) -> None:
    if isinstance(reduction, str):
        if reduction not in _REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)} or a number, got {reduction!r}")
    elif not isinstance(reduction, Tensor) and not 0 < reduction < float("inf"):
        raise ValueError(f"reduction: expected a number > 0, got {reduction}")


def _reduced(reduction: Reduction, value: Tensor, counted: Tensor, rows: Rows) -> Tensor:
    """`value` is the sum itself where no reduction by row needs more."""
    if not isinstance(reduction, str):
        return value.sum() / reduction
    if reduction == "none":
        return value.new_zeros(rows.shape.numel()).index_add(0, rows.tokens, value).reshape(rows.shape)
    if reduction == "sequence_means":
        counts = value.new_zeros(rows.sequence_count).index_add(0, rows.sequences, counted.to(value.dtype)).clamp_min(1)
        return (value / counts[rows.sequences]).sum() / max(1, rows.sequence_count)
    denominator = {
        "active_tokens": counted.sum(),
        "labelled_tokens": torch.tensor(rows.labelled, device=value.device),
        "abs_weights": torch.where(counted, rows.weights, 0.0).abs().sum(),
        "sum": torch.tensor(1, device=value.device),
    }[reduction]
    return value.sum() / torch.where(denominator == 0, 1, denominator).to(value.dtype)


class FigaLoss(TokenLoss):
    """FIGA (arXiv 2311.04072): signed, gated, token-weighted negative log-likelihood.

        w nll         a token of negative weight counts only while the model still finds it likely: nll <= gate

    Args:
        gate: the greatest nll, in nats, or the range, in which negative weights count; `None` for no gate.
        penalty: what negative weights do: `"nll"`, the paper's, which needs a gate; `"unlikelihood"`, `-|w| log(1 - p)`,
            which is at least 0 and needs none.

    See `TokenLoss` for the other arguments and for shapes.

    >>> import torch
    >>> labels, weights = torch.tensor([[-100, 2, 3]]), torch.tensor([[0, 1, -0.5]])
    >>> FigaLoss()(torch.zeros(1, 3, 4), labels, weights)  # ln 4; the second token is gated
    tensor(1.3863)
    """

    def __init__(
        self, gate: float | tuple[float, float] | None = 0.6, penalty: str = "nll", **options: Any
    ) -> None:
        super().__init__(**options)
        low, high = gate if isinstance(gate, tuple) else (-torch.inf, torch.inf if gate is None else gate)
        if not low <= high:
            raise ValueError(f"gate: expected a number, or (min, max) with min <= max, got {gate}")
        if penalty not in ("nll", "unlikelihood"):
            raise ValueError(f"penalty: expected nll or unlikelihood, got {penalty!r}")
        self.gate, self.penalty = (low, high), penalty

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        weights, nll = scores.weights, scores.nll
        penalised, value = weights < 0, weights * nll
        if self.penalty == "unlikelihood":
            value = torch.where(penalised, weights * scores.log_rest, value)
        low, high = self.gate
        if (low, high) == (-torch.inf, torch.inf):
            return value, None
        counted = ~(penalised & ((nll.detach() < low) | (nll.detach() > high)))
        # Not by multiplying: a gated token may have an infinite nll, and 0 * inf is NaN.
        return torch.where(counted, value, 0.0), counted


def figa_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The FIGA loss with its default configuration: gate at 0.6 nats, mean over the active tokens.

    `logits [B, S, V]`, `labels [B, S]` (int64, -100 for none) and `weights [B, S]` have the positions of `input_ids`:
    the shift by one happens inside. Returns a scalar in f32 (f64 for f64).
    """
    return FigaLoss().forward(logits, labels, weights)


def fused_linear_figa_loss(
    hidden: Tensor, lm_head: Tensor | LmHead | nn.Linear, labels: Tensor, weights: Tensor
) -> Tensor:
    """`figa_loss` of `hidden @ lm_head.T`, value and gradients, without ever holding all logits.

    `hidden [B, S, H]`, `lm_head [V, H]`, `labels [B, S]`, `weights [B, S]`.
    """
    return FigaLoss().fused(hidden, lm_head, labels, weights)


class WeightedNll(TokenLoss):
    """Cross-entropy with signed weights: `w nll`. Not bounded below for negative weights."""

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return scores.weights * scores.nll, None


class Unlikelihood(TokenLoss):
    """Makes tokens less likely: `-w log(1 - p)`, at least 0 for positive weights (arXiv 1908.04319)."""

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return -scores.weights * scores.log_rest, None


class CandidateUnlikelihood(TokenLoss):
    """Unlikelihood of given tokens at each position: `-w sum_k log(1 - p_k)`, each of the candidates once.

    Takes `candidates [B, S, K]`, int64, in the positions of the labels; numbers that are no column, such as -1, fill
    short lists.
    """

    def measure(self, x: Tensor, rows: Rows, *, candidates: Tensor, **_: Any) -> Measures:
        ids = Scores(rows, {}).take("candidates", candidates)
        return {"candidates": column_log_odds(x, ids)}

    def terms(self, scores: Scores, *, candidates: Tensor, **_: Any) -> tuple[Tensor, Tensor | None]:
        ids = scores.take("candidates", candidates)
        # A candidate is a repetition if it equals one in front of it.
        repeats = (ids.unsqueeze(2) == ids.unsqueeze(1)).tril(-1).any(2)
        penalties = -F.logsigmoid(-scores.measures["candidates"])
        return scores.weights * penalties.masked_fill(repeats, 0).sum(1), None


class Dft(TokenLoss):
    """Dynamic fine-tuning (arXiv 2508.05629): `w sg(p) nll`, where `sg` makes a constant for the gradient."""

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return scores.weights * scores.p * scores.nll, None


class Chord(TokenLoss):
    """The weighting phi of CHORD (arXiv 2508.11408): `w sg(p (1 - p)) nll`, most for tokens of middling probability."""

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        rest = (-scores.log_odds.detach()).sigmoid()
        return scores.weights * scores.p * rest * scores.nll, None


class Focal(TokenLoss):
    """Focal loss (arXiv 1708.02002): `w (1 - p)^gamma nll`, less for tokens that are likely already."""

    def __init__(self, gamma: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = at_least_0("gamma", gamma)

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return scores.weights * (self.gamma * scores.log_rest).exp() * scores.nll, None


class Eaft(TokenLoss):
    """Entropy-adaptive fine-tuning (arXiv 2601.02151): `w sg((H / scale)^alpha) nll`.

    `H` is the entropy of the `top_k` likeliest columns, renormalised (`None`: of all). The defaults are those of
    LLaMA-Factory; axolotl has `scale=1`.
    """

    def __init__(
        self, top_k: int | None = 20, alpha: float = 1.0, scale: float = 3.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: expected at least 1 column, got {top_k}")
        self.top_k, self.alpha, self.scale = top_k, at_least_0("alpha", alpha), greater_than_0("scale", scale)

    def measure(self, x: Tensor, rows: Rows, **_: Any) -> Measures:
        return {"log_odds": log_odds(x, rows.labels), "entropy": entropy(x.detach(), self.top_k)}

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        factor = (scores.measures["entropy"].detach() / self.scale) ** self.alpha
        return scores.weights * factor * scores.nll, None


def at_least_0(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
    return value


def greater_than_0(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a finite number > 0, got {value}")
    return value
