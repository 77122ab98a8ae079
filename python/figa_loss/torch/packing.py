"""Packed batches for a model."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mask(visible_until: Tensor) -> Tensor:
    """The mask of a batch that `figa_loss.pack` has made, bool `[B, 1, S, S]`: true where a query (third dimension)
    attends to a key (fourth dimension).

    Models of `transformers` with `attn_implementation="sdpa"` take it as `attention_mask`, with `position_ids`; those
    whose layers have a sliding window do not.
    """
    columns = torch.arange(visible_until.shape[1], device=visible_until.device)
    query = columns.unsqueeze(1)
    return ((query >= columns) & (query < visible_until.unsqueeze(1))).unsqueeze(1)
