"""Policy gradient losses on sampled answers.

With `l` the log-probability of a token, `l_old` that under the policy that sampled it, and `A` its advantage, the ratio
is `r = exp(l - l_old)`. Weights are the mask of the answers' tokens: tokens of advantage 0 and clipped tokens are rows
too, so that they count in every denominator and the KL term acts on them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .token import Reduction, Scores, TokenLoss, at_least_0, greater_than_0


class PolicyLoss(TokenLoss):
    """A loss of samples. Takes `old_log_probs` and `advantages`, and with `kl_beta` `reference_log_probs`, all in the
    shape of the labels and constants.

    Args:
        kl_beta: the weight of the KL term to a reference model, `exp(l_ref - l) - (l_ref - l) - 1`.
        ratio: `"token"`, or `"sequence"` for the geometric mean over an answer, as in GSPO.

    See `TokenLoss` for the other arguments.
    """

    def __init__(self, *, kl_beta: float = 0.0, ratio: str = "token", **options: Any) -> None:
        super().__init__(**options)
        if ratio not in ("token", "sequence"):
            raise ValueError(f"ratio: expected token or sequence, got {ratio!r}")
        self.kl_beta, self.ratio = at_least_0("kl_beta", kl_beta), ratio
        self.one_pass = ratio == "token"

    def terms(
        self,
        scores: Scores,
        *,
        old_log_probs: Tensor,
        advantages: Tensor,
        reference_log_probs: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        logp, weights = scores.logp, scores.weights
        log_ratio = logp - scores.take("old_log_probs", old_log_probs)
        if self.ratio == "sequence":
            sums, sizes = scores.sequence_sums(log_ratio * weights.abs()), scores.sequence_sums(weights.abs())
            log_ratio = (sums / sizes)[scores.rows.sequences]
        value = self.cost(logp, log_ratio, scores.take("advantages", advantages))
        if self.kl_beta:
            if reference_log_probs is None:
                raise ValueError("reference_log_probs: expected those of the reference model, as kl_beta is not 0, got None")
            distance = logp - scores.take("reference_log_probs", reference_log_probs)
            # exp(-d) + d - 1, exact near 0.
            value = value + self.kl_beta * ((-distance).expm1() + distance)
        return value * weights, None

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        """What each row costs."""
        raise NotImplementedError


def _clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)


class ImportanceSampling(PolicyLoss):
    """The plain policy gradient with importance sampling: `-w r A`."""

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        return -log_ratio.exp() * advantages


class Grpo(PolicyLoss):
    """The clipped surrogate of PPO and GRPO: `-w min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`.

    The mean over each answer's tokens, then over the answers. DAPO has `clip_high=0.28, reduction="active_tokens"`; Dr.
    GRPO divides by a number; GSPO has `ratio="sequence"`.
    """

    reduction: Reduction = "sequence_means"

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        self.clip_low, self.clip_high = at_least_0("clip_low", clip_low), at_least_0("clip_high", clip_high)

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        return -_clipped(log_ratio.exp(), advantages, 1 - self.clip_low, 1 + self.clip_high)


class Cispo(PolicyLoss):
    """Clips the weight of a token instead of its update (arXiv 2506.13585): `-w sg(min(r, ratio_max)) A l`."""

    def __init__(self, ratio_max: float = 5.0, **options: Any) -> None:
        super().__init__(**options)
        self.ratio_max = greater_than_0("ratio_max", ratio_max)

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        return -log_ratio.detach().exp().clamp_max(self.ratio_max) * advantages * logp


class Sapo(PolicyLoss):
    """A smooth gate in place of the clip range (arXiv 2511.20347): `-w (4 / tau) sigmoid(tau (r - 1)) A`.

    `tau` is `tau_positive` where `A > 0`, else `tau_negative`. The mean over each answer's tokens, then over the
    answers.
    """

    reduction: Reduction = "sequence_means"

    def __init__(self, tau_positive: float = 1.0, tau_negative: float = 1.05, **options: Any) -> None:
        super().__init__(**options)
        self.tau_positive = greater_than_0("tau_positive", tau_positive)
        self.tau_negative = greater_than_0("tau_negative", tau_negative)

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        positive, negative = advantages.new_tensor(self.tau_positive), advantages.new_tensor(self.tau_negative)
        tau = torch.where(advantages > 0, positive, negative)
        return -(4 / tau) * (tau * log_ratio.expm1()).sigmoid() * advantages


class Dro(PolicyLoss):
    """Direct reward optimisation, from any policy: `-w (l A - beta / 2 (l - l_old)^2)`."""

    def __init__(self, beta: float = 0.05, **options: Any) -> None:
        super().__init__(**options)
        self.beta = at_least_0("beta", beta)

    def cost(self, logp: Tensor, log_ratio: Tensor, advantages: Tensor) -> Tensor:
        return self.beta / 2 * log_ratio.square() - logp * advantages


class Rlmec(TokenLoss):
    """RLMEC: rewards `R` of single tokens, and text to learn.

        -w l (sg(min(r R, clip(r, clip_low, clip_high) R)) / #(R != 0) + v / #(v != 0))

    Takes `old_log_probs`, `rewards` and `supervised` (`v`, the weights of the text), in the shape of the labels.
    """

    reduction: Reduction = "sum"
    one_pass = False

    def __init__(self, clip_low: float = 0.7, clip_high: float = 1.3, **options: Any) -> None:
        super().__init__(**options)
        self.clip_low, self.clip_high = at_least_0("clip_low", clip_low), at_least_0("clip_high", clip_high)

    def terms(
        self, scores: Scores, *, old_log_probs: Tensor, rewards: Tensor, supervised: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        logp = scores.logp
        rewards, supervised = scores.take("rewards", rewards), scores.take("supervised", supervised)
        ratio = (logp.detach() - scores.take("old_log_probs", old_log_probs)).exp()
        factor = _clipped(ratio, rewards, self.clip_low, self.clip_high) / (rewards != 0).sum().clamp_min(1)
        factor = factor + supervised / (supervised != 0).sum().clamp_min(1)
        return -logp * factor * scores.weights, None
