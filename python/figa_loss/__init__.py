"""Fine-grained losses for language models: what a revision changed, token by token, and what it weighs.

A model's original answer is compared with a minimally revised one. Tokens that the revision added are rewarded, tokens
that it removed are penalised, and kept tokens are left alone (FIGA, arXiv 2311.04072).

* `editops`, `distance`, `align`, `label`, `label_batch`: two sequences of tokens, or columns of them;
* `PairEncoder`, `collate`, `pack`: records -> rows -> batches;
* `figa_loss.torch`: the losses, in PyTorch;
* `figa_loss.trainer`: a collator and a loss for `transformers.Trainer`;
* `python -m figa_loss`: the command `figa`, which is installed under that name too.

PyTorch, transformers and pyarrow are imported by the functions that need them, and only by those.
"""

from ._align import (
    Aligner,
    Alignment,
    Labels,
    Span,
    TokenLabel,
    align,
    distance,
    editops,
    label,
    label_batch,
)
from ._core import __version__
from ._encode import PairEncoder
from ._rows import collate, pack

__all__ = [
    "Aligner",
    "Alignment",
    "Labels",
    "PairEncoder",
    "Span",
    "TokenLabel",
    "__version__",
    "align",
    "collate",
    "distance",
    "editops",
    "label",
    "label_batch",
    "pack",
]
