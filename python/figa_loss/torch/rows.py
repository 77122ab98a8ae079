"""Which positions a loss is about."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Rows:
    """The `n` active tokens of a batch: those with a label and a weight other than 0, which some output predicts.

    They are selected where `labels` are. Labels on the host are selected without waiting for the GPU.
    """

    labels: Tensor
    """`[n]`, int64."""
    weights: Tensor
    """`[n]`, float."""
    outputs: Tensor
    """`[n]`, int64: the position of the output that predicts the token, among all positions."""
    tokens: Tensor
    """`[n]`, int64: the place of the token among all labels."""
    sequences: Tensor
    """`[n]`, int64: the answer that the token is in."""
    shape: torch.Size
    """Of the labels."""
    sequence_count: int
    labelled: int
    """How many tokens have a label, whatever they weigh."""
    ignore_index: int

    @classmethod
    def of_batch(cls, labels: Tensor, weights: Tensor, ignore_index: int = IGNORE_INDEX) -> Rows:
        """Rows of `labels [B, S]` and `weights [B, S]`, which have the positions of `input_ids`: the output at `t - 1`
        predicts the label at `t`."""
        weights = checked(labels, weights, (2,))
        # Nothing predicts the first token.
        predicted = torch.ones_like(labels, dtype=torch.bool)
        predicted[:, :1] = False
        tokens = _active(labels, weights, predicted, ignore_index)
        return cls._select(labels, weights, tokens, tokens - 1, predicted, ignore_index)

    @classmethod
    def of_shifted(cls, labels: Tensor, weights: Tensor, ignore_index: int = IGNORE_INDEX) -> Rows:
        """Rows of `labels` and `weights`, `[B, S]` or `[N]`, in the positions of the outputs that predict them."""
        weights = checked(labels, weights, (1, 2))
        predicted = torch.ones_like(labels, dtype=torch.bool)
        tokens = _active(labels, weights, predicted, ignore_index)
        return cls._select(labels, weights, tokens, tokens, predicted, ignore_index)

    @classmethod
    def of_targets(
        cls, labels: Tensor, weights: Tensor, outputs: Tensor, sequences: Tensor, ignore_index: int = IGNORE_INDEX
    ) -> Rows:
        """Rows of the targets that `figa_loss.pack` lists, all `[N]`."""
        weights = checked(labels, weights, (1,))
        for name, numbers in (("outputs", outputs), ("sequences", sequences)):
            if numbers.shape != labels.shape:
                raise ValueError(f"{name}: expected shape [N] = {list(labels.shape)}, got {list(numbers.shape)}")
        outputs, sequences = outputs.to(labels.device), sequences.to(labels.device)
        predicted = torch.ones_like(labels, dtype=torch.bool)
        tokens = _active(labels, weights, predicted, ignore_index)
        if (outputs[tokens] < 0).any():
            raise ValueError("outputs: expected a position for each active token, got -1")
        count = int(sequences.max()) + 1 if len(sequences) else 0
        rows = cls._select(labels, weights, tokens, outputs[tokens], predicted, ignore_index)
        return rows._with(sequences=sequences[tokens], sequence_count=count)

    @classmethod
    def _select(
        cls, labels: Tensor, weights: Tensor, tokens: Tensor, outputs: Tensor, predicted: Tensor, ignore_index: int
    ) -> Rows:
        width = labels.shape[1] if labels.dim() == 2 else max(1, labels.numel())
        chosen = weights.flatten()[tokens]
        chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
        wrong = ~chosen.isfinite()
        if wrong.any():
            place = _place(tokens[wrong][0], labels)
            raise ValueError(f"weights{place}: expected finite numbers, got {chosen[wrong][0].item()}")
        return cls(
            labels=labels.flatten()[tokens],
            weights=chosen.detach(),
            outputs=outputs,
            tokens=tokens,
            sequences=tokens // max(1, width),
            shape=labels.shape,
            sequence_count=labels.shape[0] if labels.dim() == 2 else 1,
            labelled=int(((labels != ignore_index) & predicted).sum()),
            ignore_index=ignore_index,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, end: int) -> Rows:
        """Some of the rows."""
        return self._with(**{name: getattr(self, name)[start:end] for name in _TENSORS})

    def select(self, indices: Tensor) -> Rows:
        """The rows with these indices."""
        return self._with(**{name: getattr(self, name)[indices] for name in _TENSORS})

    def to(self, device: torch.device) -> Rows:
        """The rows on a device."""
        return self._with(**{name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS})

    def check(self, positions: int, vocab: int) -> None:
        """Checks that the rows fit a model's output."""
        wrong = (self.labels < 0) | (self.labels >= vocab)
        if wrong.any():
            label, place = int(self.labels[wrong][0]), _place(self.tokens[wrong][0], self)
            expected = f"0 <= label < V = {vocab}, or ignore_index = {self.ignore_index}"
            raise ValueError(f"labels{place} is {label}: expected {expected}")
        if len(self) and int(self.outputs.max()) >= positions:
            raise ValueError(f"logits: expected an output for each position of labels, got {positions}")

    def _with(self, **changes: object) -> Rows:
        return replace(self, **changes)  # type: ignore[arg-type]


_TENSORS = ("labels", "weights", "outputs", "tokens", "sequences")


def _active(labels: Tensor, weights: Tensor, predicted: Tensor, ignore_index: int) -> Tensor:
    return ((labels != ignore_index) & (weights != 0) & predicted).flatten().nonzero().squeeze(1)


def checked(labels: Tensor, weights: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """The weights, where the labels are."""
    if labels.dim() not in dimensions:
        expected = " or ".join({1: "[N]", 2: "[B, S]"}[n] for n in dimensions)
        raise ValueError(f"labels: expected shape {expected}, got {list(labels.shape)}")
    if weights.shape != labels.shape:
        raise ValueError(f"weights: expected shape {list(labels.shape)}, that of labels, got {list(weights.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected dtype int64, got {labels.dtype}; convert it with .long()")
    if not weights.is_floating_point():
        raise TypeError(f"weights: expected a float dtype, got {weights.dtype}; convert it with .float()")
    return weights.to(labels.device)


def _place(token: Tensor, of: Tensor | Rows) -> str:
    """Indices such as `[1, 2]`."""
    at, indices = int(token), []
    for size in reversed(of.shape):
        indices.append(at % size)
        at //= size
    return str(indices[::-1])
