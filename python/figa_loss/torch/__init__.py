"""The losses, in PyTorch: token-weighted objectives on active rows only.

| you have | loss | needs |
|---|---|---|
| a revised and an original answer | `FigaLoss`, `figa_loss`, `fused_linear_figa_loss` | signed weights |
| good answers | `WeightedNll`, `Dft`, `Chord`, `Eaft`, `Focal` | weights |
| the same, and a base model not to leave | `Asft` | weights, a `Reference` |
| any of these, and kept tokens must stay as likely | `Anchored` around it | as the loss, a `Reference` |
| unwanted tokens | `Unlikelihood`, `CandidateUnlikelihood` | weights, candidates |
| samples with advantages | `Grpo`, `Cispo`, `Sapo`, `ImportanceSampling`, `Dro`, `Rlmec` | old log-probabilities, advantages |
| pairs of answers | `Dpo`, `Ipo`, `Tdpo` | log-probabilities of a reference |
| pairs, and no reference | `SimPo`, `Cpo`, `Orpo` | |
| answers to forget | `Npo`, `SimNpo` | log-probabilities of a reference; none |
| a teacher | `Distillation`, `TopKDistillation` | its output, or its likeliest columns |

Each is a module that is called with `logits [B, S, V]`, `labels [B, S]` and `weights [B, S]`, in the positions of
`input_ids`. Its method `fused` takes hidden states and a head instead, and `on` a model's output and `Rows`, such as
those of a packed batch. Only active tokens are computed: those with a label and a weight other than 0.

Under autocast the head's product has its dtype, and everything behind it is f32. A gradient that is needed for several
micro-batches or processes takes a number as `reduction`: the count of all. A head that `fully_shard` has sharded is
gathered, and its gradient reduced.
"""

from .distill import Anchored, Asft, Distillation, Reference, TopKDistillation
from .packing import attention_mask
from .policy import Cispo, Dro, Grpo, ImportanceSampling, PolicyLoss, Rlmec, Sapo
from .preference import Answers, Cpo, Dpo, Ipo, Npo, Orpo, Pairs, PreferenceLoss, SimNpo, SimPo, Tdpo, log_probs
from .rows import IGNORE_INDEX, Rows
from .scores import LmHead, column_log_odds, entropy, log_odds
from .token import (
    CandidateUnlikelihood,
    Chord,
    Dft,
    Eaft,
    FigaLoss,
    Focal,
    Scores,
    TokenLoss,
    Unlikelihood,
    WeightedNll,
    figa_loss,
    fused_linear_figa_loss,
)

__all__ = [
    "IGNORE_INDEX",
    "Anchored",
    "Answers",
    "Asft",
    "CandidateUnlikelihood",
    "Chord",
    "Cispo",
    "Cpo",
    "Dft",
    "Distillation",
    "Dpo",
    "Dro",
    "Eaft",
    "FigaLoss",
    "Focal",
    "Grpo",
    "ImportanceSampling",
    "Ipo",
    "LmHead",
    "Npo",
    "Orpo",
    "Pairs",
    "PolicyLoss",
    "PreferenceLoss",
    "Reference",
    "Rlmec",
    "Rows",
    "Sapo",
    "Scores",
    "SimNpo",
    "SimPo",
    "Tdpo",
    "TokenLoss",
    "TopKDistillation",
    "Unlikelihood",
    "WeightedNll",
    "attention_mask",
    "column_log_odds",
    "entropy",
    "figa_loss",
    "fused_linear_figa_loss",
    "log_odds",
    "log_probs",
]
