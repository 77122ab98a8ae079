"""From a model's output to what a loss wants to know of each row, and back: chunk by chunk, on active rows only.

With `q` the softmax over the other columns, a label has the log-odds and the gradient

    log_odds            = x[label] - logsumexp(x[others])      log (p / (1 - p))
    d log_odds / d x    = e_label - q                          e_label: 1 at the label, 0 elsewhere

Everything else is a function of the log-odds, exact even where `p` is almost 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .rows import Rows

# What a chunk may always take.
CHUNK_LOGITS = 4 << 20


@dataclass(frozen=True)
class LmHead:
    """The last layer of a model: `softcap * tanh(scale * (hidden @ weight.T + bias) / softcap)`."""

    weight: Tensor
    """`[V, H]`; a sharded one, as `fully_shard` makes them, is gathered."""
    bias: Tensor | None = None
    """`[V]`."""
    scale: float = 1.0
    softcap: float | None = None

    def finish(self, x: Tensor) -> Tensor:
        """What follows the product."""
        x = x if self.scale == 1.0 else x * self.scale
        return x if self.softcap is None else (x / self.softcap).tanh() * self.softcap


Output = Tensor | tuple[Tensor, "Tensor | LmHead | torch.nn.Linear"]
"""Logits `[..., V]`, or hidden states `[..., H]` and a head."""

Measures = dict[str, Tensor]
"""What is known of `n` rows: tensors `[n]` or `[n, K]`."""

Measure = Callable[[Tensor, Rows], Measures]
"""A function of logits `[n, V]`, f32 or f64, and their rows; by ordinary operations."""

F = TypeVar("F", bound=Callable[..., Any])


def between_compiled_parts(function: F) -> F:
    """Which rows there are depends on the data, so `torch.compile` leaves a loss as it is."""
    return torch.compiler.disable(function)  # type: ignore[no-any-return]


def measure_rows(
    output: Output, rows: Rows, measure: Measure, chunk_rows: int | None = None, *, total: bool = False
) -> tuple[Measures, Rows]:
    """What `measure` says of all rows, differentiable, and the rows on the device of the output.

    With `total`, `measure` says what a row adds to a sum, `value`, and whether it counts, `counted`; if not, its value
    is 0. Then `value` becomes the sum, whose gradient is computed in the same pass.
    """
    source, head = parts(output)
    vocab = source.shape[-1] if head is None else head.weight.shape[0]
    rows.check(source.shape[:-1].numel(), vocab)
    rows = rows.to(source.device)
    if source.dtype == torch.float64:
        rows = rows._with(weights=rows.weights.double())
    dtype = _autocast_dtype(source.device.type)
    with torch.autocast(source.device.type, enabled=False):
        inputs = source.flatten(0, -2).index_select(0, rows.outputs)
        if head is None:
            return _totalled(measure(wide(inputs), rows), total), rows
        chunk = max(inputs.shape[1], CHUNK_LOGITS // vocab) if chunk_rows is None else chunk_rows
        weight, bias = head.weight, head.bias
        if dtype is not None:
            inputs, weight, bias = inputs.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        if len(rows) <= chunk:
            return _totalled(measure(head.finish(_Product.apply(inputs, weight, bias)), rows), total), rows
        if total:
            operands = (inputs, weight, bias)
            needs = tuple(torch.is_grad_enabled() and each is not None and each.requires_grad for each in operands)
            value, counted = _Summed.apply(measure, head, rows, chunk, needs, *operands)
            return {"value": value, "counted": counted}, rows
        names: list[str] = []
        values = _Chunked.apply(measure, names, head, rows, chunk, inputs, weight, bias)
        return dict(zip(names, values, strict=True)), rows


def _totalled(measures: Measures, total: bool) -> Measures:
    return {**measures, "value": measures["value"].sum()} if total else measures


def parts(output: Output) -> tuple[Tensor, LmHead | None]:
    """Logits, or hidden states and a head."""
    if isinstance(output, Tensor):
        _check_floats("logits", output)
        return output, None
    hidden, head = output
    if isinstance(head, torch.nn.Linear):
        head = LmHead(head.weight, head.bias)
    elif not isinstance(head, LmHead):
        head = LmHead(head)
    _check_floats("hidden", hidden)
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"lm_head: expected shape [V, H] = [V, {hidden.shape[-1]}], got {list(head.weight.shape)}")
    weight, bias = _gathered(head.weight), None if head.bias is None else _gathered(head.bias)
    if weight.dtype != hidden.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise TypeError(f"lm_head: expected dtype {hidden.dtype}, that of hidden, got {weight.dtype}")
    return hidden, LmHead(weight, bias, head.scale, head.softcap)


def _check_floats(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: expected a float dtype, got {tensor.dtype}")
    if tensor.dim() < 2:
        raise ValueError(f"{name}: expected shape [..., V] with at least two dimensions, got {list(tensor.shape)}")


def _autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast gives to products; `None` where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _gathered(parameter: Tensor) -> Tensor:
    """A sharded parameter in full. Its gradient is the mean over the processes, as that of `fully_shard` is."""
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial

    sharded: Any = parameter
    mesh = sharded.device_mesh
    full: Tensor = sharded.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if full.requires_grad:
        full.register_hook(lambda gradient: gradient / mesh.size())
    return full


def wide(x: Tensor) -> Tensor:
    """In f32, or f64."""
    return x if x.dtype == torch.float64 else x.float()


def log_odds(x: Tensor, labels: Tensor) -> Tensor:
    """`[n]`: the log-odds of the labels, given logits `x [n, V]`."""
    result: Tensor = _LogOdds.apply(x, labels)
    return result


def column_log_odds(x: Tensor, columns: Tensor) -> Tensor:
    """`[n, K]`: the log-odds of columns `[n, K]`; minus infinity for numbers that are no column."""
    valid = (columns >= 0) & (columns < x.shape[1])
    columns = columns.masked_fill(~valid, 0)
    # Only the likeliest column may have a probability near 1, where p says little about 1 - p.
    greatest = x.detach().argmax(1, keepdim=True)
    others = x.scatter(1, greatest, -torch.inf).logsumexp(1, keepdim=True)
    is_greatest = columns == greatest
    log_p = x.log_softmax(1).gather(1, columns).masked_fill(is_greatest, -1.0)
    odds = torch.where(is_greatest, x.gather(1, greatest) - others, log_p - (-log_p.exp()).log1p())
    return odds.masked_fill(~valid, -torch.inf)


def entropy(x: Tensor, top_k: int | None = None) -> Tensor:
    """`[n]`: the entropy of the `top_k` likeliest columns, renormalised, or of all."""
    if top_k is not None and top_k < x.shape[1]:
        x = x.topk(top_k, 1, sorted=False).values
    log_p = x.log_softmax(1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(x.dtype).min)).sum(1)


class _LogOdds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, labels: Tensor) -> Tensor:
        at = labels.unsqueeze(1)
        label = x.gather(1, at)
        q = x.scatter(1, at, -torch.inf)
        # A finite number: where all others are masked, p is then 1 instead of NaN.
        greatest = q.amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
        q.sub_(greatest).exp_()
        total = q.sum(1, keepdim=True)
        ctx.save_for_backward(q, total, at)
        # A label of plus infinity is as wrong as any other column of that size.
        label = label.masked_fill(label.isposinf(), torch.nan)
        return (label - greatest - total.log()).squeeze(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        q, total, at = ctx.saved_tensors
        # At least 1, but where all others are masked.
        slopes = slopes.unsqueeze(1) / total.clamp_min(1.0)
        return (q * -slopes).scatter_(1, at, slopes * total), None


class _Product(torch.autograd.Function):
    """`inputs @ weight.T + bias` in f32 or f64, whose gradients neither overflow nor underflow in f16."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _logits(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        with torch.autocast(inputs.device.type, enabled=False):
            of_inputs, of_weight, of_bias = _gradients(gradient, inputs, weight, ctx.needs_input_grad)
        return _to(inputs.dtype, of_inputs), _to(weight.dtype, of_weight), _to(weight.dtype, of_bias)


class _Chunked(torch.autograd.Function):
    """What `measure` says of all rows, with one chunk of logits at a time: they are computed again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        measure: Measure,
        names: list[str],
        head: LmHead,
        rows: Rows,
        chunk: int,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        chunks = []
        for start in range(0, len(rows), chunk):
            x = head.finish(_logits(inputs[start : start + chunk], weight, bias))
            chunks.append(measure(x, rows.part(start, start + chunk)))
        names.extend(chunks[0])
        ctx.state = (measure, tuple(names), head, rows, chunk)
        ctx.save_for_backward(inputs, weight, bias)
        ctx.set_materialize_grads(False)
        return tuple(torch.cat([measures[name] for measures in chunks]) for name in names)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        measure, names, head, rows, chunk = ctx.state
        inputs, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad[5:]
        slopes = {name: slope for name, slope in zip(names, given, strict=True) if slope is not None}
        # Rows that do not matter to the loss, such as gated ones, are not computed again.
        matter = torch.stack([(slope != 0).reshape(len(rows), -1).any(1) for slope in slopes.values()]).any(0)
        indices = matter.nonzero().squeeze(1)
        gradients = _Gradients(inputs, weight, needs)
        with torch.autocast(inputs.device.type, enabled=False):
            for some in indices.split(chunk):
                x = _logits(inputs[some], weight, bias).requires_grad_()
                with torch.enable_grad():
                    measures = measure(head.finish(x), rows.select(some))
                known = [name for name in slopes if measures[name].requires_grad]
                (dx,) = torch.autograd.grad([measures[name] for name in known], x, [slopes[name][some] for name in known])
                gradients.add(some, dx)
        of_inputs, of_weight, of_bias = gradients.finished()
        return (None,) * 5 + (_to(inputs.dtype, of_inputs), _to(weight.dtype, of_weight), _to(weight.dtype, of_bias))


class _Summed(torch.autograd.Function):
    """The sum of the values of all rows with its gradient, in one pass, and which rows count."""

    @staticmethod
    def forward(
        ctx: Any,
        measure: Measure,
        head: LmHead,
        rows: Rows,
        chunk: int,
        needs: tuple[bool, ...],
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients(inputs, weight, needs)
        sums, counted = [], []
        for some in torch.arange(len(rows), device=inputs.device).split(chunk):
            x = _logits(inputs[some], weight, bias).requires_grad_(any(needs))
            with torch.set_grad_enabled(any(needs)):
                measures = measure(head.finish(x), rows.select(some))
                value = measures["value"].sum()
            sums.append(value.detach())
            counted.append(measures["counted"])
            if value.requires_grad:
                (dx,) = torch.autograd.grad(value, x)
                if not counted[-1].all():
                    some, dx = some[counted[-1]], dx[counted[-1]]
                gradients.add(some, dx)
        ctx.gradients = gradients.finished()
        ctx.dtypes = (inputs.dtype, weight.dtype, weight.dtype)
        all_counted = torch.cat(counted)
        ctx.mark_non_differentiable(all_counted)
        return torch.stack(sums).sum(), all_counted

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if gradient is None else gradient * slope for gradient in ctx.gradients)
        return (None,) * 5 + tuple(map(_to, ctx.dtypes, scaled))


class _Gradients:
    """The gradients of `inputs @ weight.T + bias`, given that of the product, some rows at a time. In f32 or f64."""

    def __init__(self, inputs: Tensor, weight: Tensor, needs: tuple[bool, ...]) -> None:
        self.inputs, self.weight, self.needs = inputs, weight, needs
        self.of_inputs = torch.zeros_like(inputs, dtype=wide(inputs[:0]).dtype) if needs[0] else None
        self.of_weight: Tensor | None = None
        self.of_bias: Tensor | None = None

    def add(self, some: Tensor, gradient: Tensor) -> None:
        of_inputs, self.of_weight, of_bias = _gradients(
            gradient, self.inputs[some], self.weight, self.needs, self.of_weight
        )
        if self.of_inputs is not None and of_inputs is not None:
            self.of_inputs[some] = of_inputs
        if of_bias is not None:
            self.of_bias = of_bias if self.of_bias is None else self.of_bias + of_bias

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if self.of_weight is None:
            # There may have been no rows.
            self.add(torch.arange(0, device=self.inputs.device), wide(self.inputs.new_zeros(0, len(self.weight))))
        return self.of_inputs, self.of_weight, self.of_bias


def _logits(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = _product(inputs, weight.T)
    return x if bias is None else x + bias


def _product(a: Tensor, b: Tensor) -> Tensor:
    """In f32 or f64, which is never rounded to half precision."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def _gradients(
    gradient: Tensor, inputs: Tensor, weight: Tensor, needs: tuple[bool, ...], sum_: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of a product, that of the weight added to `sum_`. In half precision each row is scaled by a power
    of 2, so that its greatest entry is about 1, and the factors are multiplied where there is room for them."""
    of_inputs = of_weight = None
    if inputs.dtype in (torch.float16, torch.bfloat16):
        exponents = gradient.abs().amax(1, keepdim=True).frexp().exponent
        sizes = torch.ldexp(torch.ones_like(gradient[:, :1]), exponents)
        unit, greatest = (gradient / sizes).to(inputs.dtype), sizes.max() if len(sizes) else sizes.new_ones(())
        if needs[0]:
            of_inputs = _product(unit, weight) * sizes
        if needs[1]:
            of_weight = _product(unit.T, (inputs * (sizes / greatest)).to(inputs.dtype)) * greatest
            of_weight = of_weight if sum_ is None else sum_.add_(of_weight)
    else:
        of_inputs = gradient @ weight if needs[0] else None
        if needs[1]:
            of_weight = gradient.T @ inputs if sum_ is None else sum_.addmm_(gradient.T, inputs)
    return of_inputs, of_weight, gradient.sum(0) if needs[2] else None


def _to(dtype: torch.dtype, gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)
