"""A collator and a loss for `transformers.Trainer`, and for what is built on it, such as TRL's `SFTTrainer`.

The trainer hands a loss function the labels of a batch and nothing else, and counts those that are not -100 over all
micro-batches and processes of a step. So labels and weights travel as one complex tensor: the label of a token is its
real part, its weight the imaginary one, and tokens without a weight are -100. The count is then that of the active
tokens, by which the loss is divided.

    encoder = PairEncoder(model_folder)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(..., remove_unused_columns=False),
        train_dataset=dataset,          # with the columns of encoder.encode_batch
        data_collator=PairCollator(encoder.eos_id),
        compute_loss_func=compute_loss(),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ._rows import collate
from .torch import IGNORE_INDEX, FigaLoss, Rows, TokenLoss


class PairCollator:
    """Makes a batch of pairs with the columns of `PairEncoder`: `input_ids` and `attention_mask`, `[2 * pairs, S]`, and
    `labels`, complex64 of the same shape, with the weights in the imaginary part.

    Args:
        pad_id: what fills up `input_ids`; any id will do.
    """

    def __init__(self, pad_id: int = 0) -> None:
        self.pad_id = pad_id

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(values) for name, values in collate(pairs, self.pad_id).items()}
        batch.pop("token_labels", None)
        weights = batch.pop("weights")
        # Nothing predicts the first token.
        weights[:, :1] = 0
        labels = torch.where(weights == 0, IGNORE_INDEX, batch["labels"])
        return {**batch, "labels": torch.complex(labels.float(), weights)}


def labels_and_weights(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Those of `PairCollator`: int64 and float32."""
    return labels.real.long(), labels.imag


def compute_loss(make: Callable[..., TokenLoss] = FigaLoss, **options: Any) -> Callable[..., Tensor]:
    """A `compute_loss_func`: a loss of `figa_loss.torch` with these options, divided by the active tokens of the whole
    step.

    With the gate of `FigaLoss`, gated tokens count too: a step knows them only at its end. Where the trainer gives no
    count, as in some evaluations, it is that of the batch. Where each step is one batch of one process, a `reduction`
    among the options may replace the count: `"active_tokens"` leaves gated tokens out, as `FigaLoss` itself does.
    """
    loss = make(**options)

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
        rows = Rows.of_batch(*labels_and_weights(labels))
        if "reduction" in options:
            return loss.on(logits, rows)
        count = len(rows) if num_items_in_batch is None else num_items_in_batch
        # A step without an active token has a loss of 0.
        return loss.on(logits, rows, reduction=torch.as_tensor(count).clamp_min(1))

    return compute
