"""Losses of pairs of answers: the chosen one should become likelier than the rejected one.

With the weights `w` of the tokens, `l` their log-probabilities and `l_ref` those under a reference model:

    L = sum w l        D = sum w (l - l_ref)        over the tokens of an answer; a bar: divided by sum |w|

Weights of 1 give the published losses. Other weights say which tokens matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .distill import Reference
from .rows import Rows, checked
from .scores import Measures, Output, between_compiled_parts, log_odds, measure_rows
from .token import Loss, Scores, at_least_0, greater_than_0


@dataclass(frozen=True)
class Pairs:
    """Which sequences belong together: `chosen[i]` is better than `rejected[i]`, numbers of rows in the batch."""

    chosen: Tensor
    rejected: Tensor

    @classmethod
    def alternating(cls, pairs: int) -> Pairs:
        """Original, revised, original, revised, as `figa_loss.collate` has them."""
        return cls(torch.arange(1, 2 * pairs, 2), torch.arange(0, 2 * pairs, 2))

    @classmethod
    def halves(cls, pairs: int) -> Pairs:
        """All chosen ones, then all rejected ones, as TRL has them."""
        return cls(torch.arange(pairs), torch.arange(pairs, 2 * pairs))

    @classmethod
    def rejected_only(cls, sequences: int) -> Pairs:
        """For losses of answers to forget."""
        return cls(torch.arange(0), torch.arange(sequences))

    def skip_common_prefix(self, labels: Tensor, weights: Tensor) -> Tensor:
        """The weights `[B, S]` with 0 where both answers of a pair begin with the same labels and weights.

        After the same prompt, at the same positions, such tokens cancel in the sums of `Dpo` and `Ipo`, value and
        gradient: only the others are computed then. They do not cancel in averages, in `Tdpo` and in other losses.

        >>> labels = torch.tensor([[-100, 5, 6, 7], [-100, 5, 8, 7]])
        >>> Pairs.alternating(1).skip_common_prefix(labels, torch.ones(2, 4))
        tensor([[0., 0., 1., 1.],
                [0., 0., 1., 1.]])
        """
        weights = checked(labels, weights, (2,))
        chosen, rejected = self.chosen.to(labels.device), self.rejected.to(labels.device)
        same = (labels[chosen] == labels[rejected]) & (weights[chosen] == weights[rejected])
        skipped = torch.full_like(labels[:, 0], labels.shape[1])
        lengths = same.cumprod(1).sum(1)
        # Both answers of a pair skip the same number of tokens, and one answer may be in several pairs.
        while True:
            skipped.scatter_reduce_(0, chosen, lengths, "amin").scatter_reduce_(0, rejected, lengths, "amin")
            shorter = skipped[chosen].minimum(skipped[rejected])
            if shorter.equal(lengths):
                break
            lengths = shorter
        is_skipped = torch.arange(labels.shape[1], device=labels.device) < skipped.unsqueeze(1)
        return weights.masked_fill(is_skipped, 0)


@dataclass(frozen=True)
class Answers:
    """The sums of some answers, each `[P]`."""

    logp: Tensor
    """`L`."""
    gain: Tensor
    """`D`; `L` where there is no reference."""
    size: Tensor
    """`sum |w|`."""
    divergence: Tensor | None
    """The sum of the divergences from the reference, for losses that ask for it."""

    @property
    def mean_logp(self) -> Tensor:
        return self.logp / self.size

    @property
    def mean_gain(self) -> Tensor:
        return self.gain / self.size


class PreferenceLoss(Loss):
    """A mean over pairs. Subclasses say what a pair costs.

    Args:
        ignore_index: the label of positions that do not count.
        chunk_rows: how many rows of logits are held at a time where they are computed from hidden states.
    """

    needs_reference = False
    is_paired = True
    nll_factor = 0.0
    """The factor of the mean nll of the chosen answers' tokens, which is added to the loss."""

    @between_compiled_parts
    def on(
        self,
        output: Output,
        rows: Rows,
        *,
        pairs: Pairs | None = None,
        reference_log_probs: Tensor | None = None,
        denominators: tuple[float, float] | None = None,
        **further: Any,
    ) -> Tensor:
        """The loss of a model's output on rows.

        Args:
            pairs: by default original and revised in turn (`Pairs.alternating`), for losses of answers to forget all of
                them.
            reference_log_probs: those of the labels under the reference model, in the shape of the labels; `log_probs`
                returns them.
            denominators: how many pairs, and how much weight of chosen tokens, the step has, where several batches make
                one.
        """
        if pairs is None:
            count = rows.sequence_count
            pairs = Pairs.alternating(count // 2) if self.is_paired else Pairs.rejected_only(count)
        for number in torch.cat([pairs.chosen, pairs.rejected]).tolist():
            if not 0 <= number < rows.sequence_count:
                raise ValueError(f"pairs: expected sequences that the rows have, got {number} of {rows.sequence_count}")
        if self.is_paired and len(pairs.chosen) != len(pairs.rejected):
            counts = f"{len(pairs.chosen)} chosen and {len(pairs.rejected)} rejected"
            raise ValueError(f"pairs: expected a chosen answer for each rejected one, got {counts}")
        if self.needs_reference and reference_log_probs is None:
            raise ValueError("reference_log_probs: expected the log-probabilities under a reference model, got None")
        measures, rows = measure_rows(output, rows, lambda x, some: self.measure(x, some, **further), self.chunk_rows)
        scores = Scores(rows, measures)
        chosen, rejected = (_sums(scores, reference_log_probs, some) for some in (pairs.chosen, pairs.rejected))
        tiny = torch.finfo(chosen.size.dtype).tiny
        of_pairs, of_tokens = denominators or (max(1, len(pairs.rejected)), chosen.size.sum().clamp_min(tiny))
        loss = self.losses(chosen, rejected).sum() / of_pairs
        return loss - self.nll_factor * chosen.logp.sum() / of_tokens if self.nll_factor else loss

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The loss of each pair, `[P]`."""
        raise NotImplementedError


def _sums(scores: Scores, reference: Tensor | None, sequences: Tensor) -> Answers:
    sequences, weights, logp = sequences.to(scores.weights.device), scores.weights, scores.logp
    gain = logp if reference is None else logp - scores.take("reference_log_probs", reference)
    divergence = scores.measures.get("divergence")

    def of(values: Tensor) -> Tensor:
        return scores.sequence_sums(values)[sequences]

    # An answer without rows divides nothing.
    size = of(weights.abs()).clamp_min(torch.finfo(weights.dtype).tiny)
    return Answers(of(weights * logp), of(weights * gain), size, None if divergence is None else of(divergence))


def log_probs(output: Output, rows: Rows, chunk_rows: int | None = None) -> Tensor:
    """The log-probability of each active token in the shape of the labels, 0 elsewhere: a constant, for a reference."""
    with torch.no_grad():
        measures, rows = measure_rows(output, rows, lambda x, some: {"log_odds": log_odds(x, some.labels)}, chunk_rows)
        logp = F.logsigmoid(measures["log_odds"])
        return logp.new_zeros(rows.shape.numel()).index_add(0, rows.tokens, logp).reshape(rows.shape)


def _smoothed(z: Tensor, smoothing: float) -> Tensor:
    loss = -F.logsigmoid(z)
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * F.logsigmoid(-z)


def _check_smoothing(value: float) -> float:
    if not 0 <= value < 0.5:
        raise ValueError(f"label_smoothing: expected 0 <= label_smoothing < 0.5, got {value}")
    return value


class Dpo(PreferenceLoss):
    """Direct preference optimisation (arXiv 2305.18290): `-log sigmoid(beta (D_c - D_r))`.

    Weights of 3 (or 5) for changed tokens and 1 for others make it the DDPO of RLHF-V. `average` divides each `D` by
    `sum |w|`.
    """

    needs_reference = True

    def __init__(
        self, beta: float = 0.1, label_smoothing: float = 0.0, average: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.beta, self.average = greater_than_0("beta", beta), average
        self.label_smoothing = _check_smoothing(label_smoothing)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        return _smoothed(self.beta * _difference(chosen, rejected, self.average), self.label_smoothing)


def _difference(chosen: Answers, rejected: Answers, average: bool) -> Tensor:
    return chosen.mean_gain - rejected.mean_gain if average else chosen.gain - rejected.gain


class Ipo(PreferenceLoss):
    """Identity preference optimisation (arXiv 2310.12036): `(D_c - D_r - 1 / (2 beta))^2`, by averages in TRL."""

    needs_reference = True

    def __init__(self, beta: float = 0.1, average: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.beta, self.average = greater_than_0("beta", beta), average

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        return (_difference(chosen, rejected, self.average) - 0.5 / self.beta).square()


class SimPo(PreferenceLoss):
    """Simple preference optimisation (arXiv 2405.14734):
    `-log sigmoid(beta (Lbar_c - Lbar_r) - gamma_beta_ratio beta)`."""

    def __init__(
        self, beta: float = 2.0, gamma_beta_ratio: float = 0.25, label_smoothing: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.beta, self.gamma_beta_ratio = greater_than_0("beta", beta), at_least_0("gamma_beta_ratio", gamma_beta_ratio)
        self.label_smoothing = _check_smoothing(label_smoothing)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        z = self.beta * (chosen.mean_logp - rejected.mean_logp) - self.gamma_beta_ratio * self.beta
        return _smoothed(z, self.label_smoothing)


class Cpo(PreferenceLoss):
    """Contrastive preference optimisation (arXiv 2401.08417): `-log sigmoid(beta (L_c - L_r)) + alpha nll_c`."""

    def __init__(
        self, beta: float = 0.1, alpha: float = 1.0, label_smoothing: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.beta, self.nll_factor = greater_than_0("beta", beta), at_least_0("alpha", alpha)
        self.label_smoothing = _check_smoothing(label_smoothing)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        return _smoothed(self.beta * (chosen.logp - rejected.logp), self.label_smoothing)


class Orpo(PreferenceLoss):
    """Odds-ratio preference optimisation (arXiv 2403.07691):
    `nll_c - factor log sigmoid(logit(exp Lbar_c) - logit(exp Lbar_r))`."""

    nll_factor = 1.0

    def __init__(self, factor: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.factor = at_least_0("factor", factor)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        def odds(mean: Tensor) -> Tensor:
            # log (1 - p), exact where p is almost 1.
            return mean - (-mean.expm1()).log()

        return -self.factor * F.logsigmoid(odds(chosen.mean_logp) - odds(rejected.mean_logp))


class Tdpo(PreferenceLoss):
    """Token-level direct preference optimisation (arXiv 2404.11999): DPO with the divergences from the reference.

        -log sigmoid(beta (D_c - D_r - (K_r - K_c)))                   TDPO1, alpha None
        -log sigmoid(beta (D_c - D_r - alpha (K_r - sg K_c)))          TDPO2

    Takes `reference`, a `Reference`, beside `reference_log_probs`.
    """

    needs_reference = True

    def __init__(self, beta: float = 0.1, alpha: float | None = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.beta, self.alpha = greater_than_0("beta", beta), alpha
        at_least_0("alpha", alpha or 0.0)

    def measure(self, x: Tensor, rows: Rows, *, reference: Reference, **_: Any) -> Measures:
        return {"log_odds": log_odds(x, rows.labels), "divergence": reference.divergence_from(x, rows)}

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        assert chosen.divergence is not None and rejected.divergence is not None
        if self.alpha is None:
            further = rejected.divergence - chosen.divergence
        else:
            further = self.alpha * (rejected.divergence - chosen.divergence.detach())
        return -F.logsigmoid(self.beta * (chosen.gain - rejected.gain - further))


class Npo(PreferenceLoss):
    """Negative preference optimisation (arXiv 2404.05868), for answers to forget:
    `-(2 / beta) log sigmoid(-beta D_r)`."""

    needs_reference, is_paired = True, False

    def __init__(self, beta: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.beta = greater_than_0("beta", beta)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        return -2 / self.beta * F.logsigmoid(-self.beta * rejected.gain)


class SimNpo(PreferenceLoss):
    """Npo without a reference, by mean log-probabilities (arXiv 2410.07163):
    `-(2 / beta) log sigmoid(beta (-Lbar_r - gamma))`."""

    is_paired = False

    def __init__(self, beta: float = 0.1, gamma: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.beta, self.gamma = greater_than_0("beta", beta), at_least_0("gamma", gamma)

    def losses(self, chosen: Answers, rejected: Answers) -> Tensor:
        return -2 / self.beta * F.logsigmoid(-self.beta * (rejected.mean_logp + self.gamma))
