"""Losses that compare the model's distribution with that of another model, the teacher or a reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import Rows
from .scores import Measures, Output, _logits, column_log_odds, log_odds, parts, wide
from .token import Scores, TokenLoss, at_least_0


@dataclass(frozen=True)
class Reference:
    """A model whose distribution `t` at the positions of the rows is the reference for the model's own, `p`.

    It gets no gradient. If the vocabularies differ in size, both distributions are taken over the columns that both have.
    """

    output: Output
    """Its logits, or its hidden states and head, at the same positions."""
    divergence: str | float = "forward"
    """`"forward"`, KL(t || p); `"reverse"`, KL(p || t); or a number b from 0 to 1 for the generalised Jensen-Shannon
    divergence `b KL(t || m) + (1 - b) KL(p || m)` with `m = b t + (1 - b) p`. As in TRL, 0 means forward and 1
    reverse."""
    temperature: float = 1.0
    """Both models' logits are divided by it."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature: expected a number > 0, got {self.temperature}")
        known = self.divergence in ("forward", "reverse")
        if not known and not (isinstance(self.divergence, float | int) and 0 <= self.divergence <= 1):
            raise ValueError(f"divergence: expected forward, reverse or a number from 0 to 1, got {self.divergence!r}")

    @torch.no_grad()
    def logits(self, rows: Rows) -> Tensor:
        """`[n, V]`, f32 or f64."""
        source, head = parts(self.output)
        outputs = source.flatten(0, -2).index_select(0, rows.outputs.to(source.device))
        return wide(outputs) if head is None else head.finish(_logits(outputs, head.weight, head.bias))

    def divergence_from(self, x: Tensor, rows: Rows) -> Tensor:
        """`[n]`: the divergence of each row, given the model's logits `x [n, V]`."""
        teacher = self.logits(rows)
        columns = min(x.shape[1], teacher.shape[1])
        p, t = ((logits[:, :columns] / self.temperature).log_softmax(1) for logits in (x, teacher.to(x.dtype)))
        b = {"forward": 0.0, "reverse": 1.0}[self.divergence] if isinstance(self.divergence, str) else self.divergence
        if b == 0:
            return kl_terms(t, p).sum(1)
        if b == 1:
            return kl_terms(p, t).sum(1)
        m = torch.logaddexp(p + log(1 - b), t + log(b))
        return b * kl_terms(t, m).sum(1) + (1 - b) * kl_terms(p, m).sum(1)


def kl_terms(a: Tensor, b: Tensor) -> Tensor:
    """What each column adds to KL(a || b), given log-probabilities: nothing where `a` is 0, whatever `b` is."""
    return a.exp() * (a - b).masked_fill(a.isneginf(), 0.0)


class Distillation(TokenLoss):
    """A divergence from the teacher at the positions of the rows: `w K`. Takes `reference`, a `Reference`.

    As in TRL, there is no factor `temperature^2`. See `Anchored` for the divergence beside another loss.
    """

    def measure(self, x: Tensor, rows: Rows, *, reference: Reference, **_: Any) -> Measures:
        return {"divergence": reference.divergence_from(x, rows)}

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return scores.weights * scores.measures["divergence"], None


class TopKDistillation(TokenLoss):
    """Distillation from the likeliest columns of a teacher: `w sum_k t_k (log t_k - log p_k)`, and its tail.

    Takes `columns [B, S, K]`, int64, and `log_probs [B, S, K]`. Numbers that are no column of the student are left out.

    Args:
        tail: `"bucket"`, all other columns are one; `"renormalised"` over the teacher's columns; or `"ignored"`.
    """

    def __init__(self, tail: str = "bucket", **options: Any) -> None:
        super().__init__(**options)
        if tail not in ("bucket", "renormalised", "ignored"):
            raise ValueError(f"tail: expected bucket, renormalised or ignored, got {tail!r}")
        self.tail = tail

    def measure(self, x: Tensor, rows: Rows, *, columns: Tensor, **_: Any) -> Measures:
        return {"columns": column_log_odds(x, Scores(rows, {}).take("columns", columns))}

    def terms(self, scores: Scores, *, log_probs: Tensor, **_: Any) -> tuple[Tensor, Tensor | None]:
        odds = scores.measures["columns"]
        missing = odds.isneginf()
        t = scores.take("log_probs", log_probs).masked_fill(missing, -torch.inf)
        # A column that is missing has no mass: any finite number stands for its log-probability.
        p = F.logsigmoid(odds.masked_fill(missing, 0.0)).masked_fill(missing, -torch.inf)
        if self.tail == "renormalised":
            t, p = t.log_softmax(1), p.log_softmax(1)
        k = kl_terms(t, p).sum(1)
        if self.tail == "bucket":
            # Rounding may leave a little less than nothing.
            t, p = ((1 - values.exp().sum(1)).clamp_min(1e-12).log() for values in (t, p))
            k = k + kl_terms(t, p)
        return scores.weights * k, None


class Asft(TokenLoss):
    """Anchored supervised fine-tuning (arXiv 2509.23753): `w (sg(p) nll + alpha KL(ref || p))`.

    Takes `reference`, a `Reference`.
    """

    def __init__(self, alpha: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = at_least_0("alpha", alpha)

    def measure(self, x: Tensor, rows: Rows, *, reference: Reference, **_: Any) -> Measures:
        return {"log_odds": log_odds(x, rows.labels), "divergence": reference.divergence_from(x, rows)}

    def terms(self, scores: Scores, **_: Any) -> tuple[Tensor, Tensor | None]:
        return scores.weights * (scores.p * scores.nll + self.alpha * scores.measures["divergence"]), None


@dataclass(frozen=True)
class Anchored:
    """A loss of tokens, and the divergence from a reference model on other rows: `loss + factor sum v K / denominator`,
    where `v` are the weights of the anchor's rows.

    FIGA leaves kept tokens alone, and nothing in it keeps them as likely as they are. The anchor does, with the kept
    tokens of the revised answers as rows: with `PairEncoder(token_labels=True)`, those where the `token_labels` of
    `collate` are `TokenLabel.KEPT`, in every second row.

    >>> import torch
    >>> from figa_loss.torch import FigaLoss
    >>> logits, labels = torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 3]])
    >>> rows, kept = (Rows.of_batch(labels, torch.tensor([weights])) for weights in ([0.0, 0, 1], [0.0, 1, 0]))
    >>> Anchored(FigaLoss(), factor=0.1).on(logits, rows, kept, reference=Reference(logits))  # ln 4; K is still 0
    tensor(1.3863)
    """

    loss: TokenLoss
    """Such as `FigaLoss()`."""
    factor: float
    """What the anchor is multiplied by."""
    anchor: Distillation = field(default_factory=Distillation)
    """The divergence, and what its sum is divided by: by default, the anchor's active tokens."""

    def __post_init__(self) -> None:
        at_least_0("factor", self.factor)

    def on(self, output: Output, rows: Rows, anchor_rows: Rows, *, reference: Reference, **further: Any) -> Tensor:
        """The loss of a model's output on `rows`, and the anchor on `anchor_rows`. `further` are the keywords of the
        loss."""
        anchor = self.anchor.on(output, anchor_rows, reference=reference)
        return self.loss.on(output, rows, **further) + self.factor * anchor
