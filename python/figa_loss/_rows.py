"""Rows -> batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core

if TYPE_CHECKING:
    import numpy.typing as npt

SIDES = ("original", "revised")
COLUMNS = {"input_ids": np.int64, "labels": np.int64, "weights": np.float32, "token_labels": np.uint8}


def collate(pairs: Iterable[Mapping[str, Any]], pad_id: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Both answers of each pair as rows of one batch, padded on the right: original, revised, original, revised.

    `pairs` have the columns of `PairEncoder`; so have the rows of the files that `figa label` writes. The result is
    `input_ids`, `attention_mask` (bool), `labels` (-100 in prompt and padding) and `weights` (0 there), each
    `[2 * len(pairs), S]`; and `token_labels` (0 there) if the pairs have them.

    >>> pair = {"original_input_ids": [5, 6], "original_labels": [-100, 6], "original_weights": [0, -0.5]}
    >>> pair |= {"revised_input_ids": [5, 7, 8], "revised_labels": [-100, 7, 8], "revised_weights": [0, 1, 1]}
    >>> collate([pair], pad_id=9)["input_ids"].tolist()
    [[5, 6, 9], [5, 7, 8]]
    """
    pairs = list(pairs)
    columns = {"input_ids": pad_id, "labels": -100, "weights": 0}
    if pairs and "original_token_labels" in pairs[0]:
        columns["token_labels"] = 0
    rows = [[_array(pair, side, name) for name in columns] for pair in pairs for side in SIDES]
    size = (len(rows), max((len(row[0]) for row in rows), default=0))
    batch = {name: np.full(size, padding, COLUMNS[name]) for name, padding in columns.items()}
    mask = np.zeros(size, np.bool_)
    for at, row in enumerate(rows):
        for name, values in zip(columns, row, strict=True):
            batch[name][at, : len(values)] = values
        mask[at, : len(row[0])] = True
    return {"input_ids": batch.pop("input_ids"), "attention_mask": mask, **batch}


def pack(pairs: Iterable[Mapping[str, Any]], pad_id: int = 0) -> dict[str, Any]:
    """Both answers of each pair in one row `[len(pairs), S]`: what they begin with once, then a branch for each.

    A token attends to the tokens in front of it in its own answer, whose positions it continues, so it has the hidden
    state that it has in a row of its own. Behind the last token that weighs something, nothing is computed. Returns

    * `input_ids`, `position_ids`: `[B, S]`;
    * `visible_until`: `[B, S]`, column `k` is seen by columns `k` to `visible_until[k] - 1`;
      `figa_loss.torch.attention_mask` makes the mask;
    * `labels`, `weights`, `outputs`, `sequences`: `[N]`, the tokens that have a label, answer by answer, where the
      output that predicts each is among the `B * S` positions (-1 if it is not needed), and the number of its answer;
    * `has_branches`: if no row has any, the mask is the causal one.

    `figa_loss.torch.Rows.of_targets` takes `labels`, `weights`, `outputs` and `sequences`.
    """
    columns = ("input_ids", "labels", "weights")
    groups = [[tuple(_array(pair, side, name) for name in columns) for side in SIDES] for pair in pairs]
    return _core.pack(groups, pad_id)


def _array(pair: Mapping[str, Any], side: str, name: str) -> npt.NDArray[Any]:
    column = f"{side}_{name}"
    if column not in pair:
        raise ValueError(f"pairs: expected the columns of PairEncoder, got a pair without {column}")
    return np.ascontiguousarray(pair[column], COLUMNS[name])
