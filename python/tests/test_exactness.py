"""What must not change a loss: chunks, autocast, accumulation, compilation, sharding, packing. And what must be an error."""

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from figa_loss import PairEncoder, collate, pack  # noqa: E402
from figa_loss import torch as losses  # noqa: E402
from figa_loss.torch import FigaLoss, LmHead, Rows, attention_mask, fused_linear_figa_loss  # noqa: E402

B, S, H, V = 3, 11, 16, 37


def batch(dtype=torch.float32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, S, H, generator=generator).to(dtype).requires_grad_()
    head = (0.7 * torch.randn(V, H, generator=generator)).to(dtype).requires_grad_()
    labels = torch.randint(0, V, (B, S), generator=generator)
    labels[:, :3] = -100
    weights = torch.tensor([-0.5, 0.0, 1.0])[torch.randint(0, 3, (B, S), generator=generator)]
    return hidden, head, labels, weights


def gradients(loss, *inputs):
    for tensor in inputs:
        tensor.grad = None
    loss.backward()
    return [loss.detach().double(), *(tensor.grad.double() for tensor in inputs)]


def error(actual, expected):
    """The size of the difference, relative to that of what is expected."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(actual, expected, strict=True))


def plain(hidden, head, labels, weights, gate=0.6):
    """The FIGA loss by ordinary operations on all logits."""
    logp = (hidden @ head.T)[:, :-1].float().log_softmax(-1)
    labels, weights = labels[:, 1:], weights[:, 1:]
    nll = -logp.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    counted = (labels != -100) & (weights != 0) & ((weights > 0) | (nll.detach() <= gate))
    return torch.where(counted, weights * nll, 0.0).sum() / counted.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk_rows", [None, 1, 4])
def test_half_precision_is_no_worse_than_the_plain_expression(dtype, chunk_rows):
    hidden, head, labels, weights = batch(dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, head)]
    truth = gradients(FigaLoss().fused(*exact, labels, weights), *exact)
    ours = gradients(FigaLoss(chunk_rows=chunk_rows).fused(hidden, head, labels, weights), hidden, head)
    theirs = gradients(plain(hidden, head, labels, weights), hidden, head)
    for own, other, true in zip(ours, theirs, truth, strict=True):
        assert error([own], [true]) <= 1.1 * error([other], [true]) + 1e-6


@pytest.mark.parametrize("chunk_rows", [None, 4])
def test_small_slopes_do_not_underflow_in_f16(chunk_rows):
    # The gradients of the logits are subnormal numbers of f16, those of the head are not.
    hidden, head, labels, weights = batch(torch.float16)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, head)]
    truth = gradients(FigaLoss(gate=None, reduction=1e4).fused(*exact, labels, weights), *exact)
    loss = FigaLoss(gate=None, reduction=1e4, chunk_rows=chunk_rows)
    assert error(gradients(loss.fused(hidden, head, labels, weights), hidden, head), truth) < 6e-4


@pytest.mark.parametrize("way", ["logits", "fused", "chunked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_takes_the_product_and_nothing_else(way, dtype):
    hidden, head, labels, weights = batch()
    loss = FigaLoss(chunk_rows=3 if way == "chunked" else None)
    with torch.autocast("cpu", dtype):
        if way == "logits":
            result = loss(hidden @ head.T, labels, weights)
        else:
            result = loss.fused(hidden, head, labels, weights)
        assert result.dtype == torch.float32
        actual = gradients(result, hidden, head)
    halves = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden, head)]
    assert error(actual, gradients(loss.fused(*halves, labels, weights), *halves)) < 2e-2
    assert hidden.grad.dtype == head.grad.dtype == torch.float32


def test_micro_batches_add_up_to_the_batch():
    hidden, head, labels, weights = batch()
    count = int(((labels != -100) & (weights != 0))[:, 1:].sum())
    whole = gradients(FigaLoss(gate=None).fused(hidden, head, labels, weights), hidden, head)
    loss = FigaLoss(gate=None, reduction=count)
    parts = [loss.fused(hidden[at : at + 1], head, labels[at : at + 1], weights[at : at + 1]) for at in range(B)]
    assert error(gradients(sum(parts), hidden, head), whole) < 1e-6


def test_an_outer_factor_and_a_tied_head():
    hidden, head, labels, weights = batch()
    tokens = torch.randint(0, V, (B, S), generator=torch.Generator().manual_seed(1))

    def loss(of):
        return 3 * of(head[tokens] + hidden, head, labels, weights) + head.square().sum()

    expected = gradients(loss(plain), hidden, head)
    for chunk_rows in (None, 2):
        assert error(gradients(loss(FigaLoss(chunk_rows=chunk_rows).fused), hidden, head), expected) < 1e-5


def test_bias_scale_and_softcap():
    hidden, head, labels, weights = batch()
    bias = torch.linspace(-1, 1, V).requires_grad_()
    logits = ((hidden @ head.T + bias) * 0.5 / 3).tanh() * 3
    expected = gradients(FigaLoss()(logits, labels, weights), hidden, head, bias)
    for chunk_rows in (None, 2):
        own = FigaLoss(chunk_rows=chunk_rows).fused(hidden, LmHead(head, bias, 0.5, 3.0), labels, weights)
        assert error(gradients(own, hidden, head, bias), expected) < 1e-5


def test_frozen_parts_get_no_gradient():
    hidden, head, labels, weights = batch()
    for chunk_rows in (None, 2):
        loss = FigaLoss(chunk_rows=chunk_rows)
        loss.fused(hidden, head.detach(), labels, weights).backward()
        assert hidden.grad is not None and head.grad is None
        hidden.grad = None
        with torch.no_grad():
            assert not loss.fused(hidden, head, labels, weights).requires_grad


def test_ratios_of_sequences_span_chunks():
    hidden, head, labels, weights = batch()
    further = {"old_log_probs": torch.full((B, S), -3.0), "advantages": torch.linspace(-1, 1, B * S).reshape(B, S)}

    def loss(chunk_rows):
        policy = losses.Grpo(ratio="sequence", reduction="active_tokens", chunk_rows=chunk_rows)
        return gradients(policy.fused(hidden, head, labels, weights.abs(), **further), hidden, head)

    assert error(loss(2), loss(None)) < 1e-6


@pytest.mark.parametrize("reduction", ["active_tokens", "sequence_means"])
def test_gradients_may_be_taken_twice(reduction):
    hidden, head, labels, weights = batch()
    for chunk_rows in (None, 2):
        loss = FigaLoss(reduction=reduction, chunk_rows=chunk_rows).fused(hidden, head, labels, weights)
        first = [2 * gradient for gradient in torch.autograd.grad(loss, (hidden, head), retain_graph=True)]
        assert error(torch.autograd.grad(2 * loss, (hidden, head)), first) < 1e-6


def test_compiled_steps_have_the_same_gradients():
    hidden, head, labels, weights = batch()
    expected = gradients(fused_linear_figa_loss(hidden.sin(), head, labels, weights), hidden, head)

    def step(hidden, head):
        return fused_linear_figa_loss(hidden.sin(), head, labels, weights) * 1.0

    compiled = torch.compile(step, backend="aot_eager")
    assert error(gradients(compiled(hidden, head), hidden, head), expected) < 1e-6


@pytest.mark.parametrize("kind", ["sharded", "replicated"])
def test_a_head_on_two_processes_gets_the_mean_gradient(tmp_path, kind):
    """Each process has a row of the batch, and half of the head or all of it."""
    import torch.multiprocessing as multiprocessing

    hidden, head, labels, weights = batch()
    loss = FigaLoss(gate=None, reduction="sum")
    expected = gradients(loss.fused(hidden[:2], head, labels[:2], weights[:2]) / 2, head)[1]
    multiprocessing.spawn(process, (str(tmp_path), kind), nprocs=2)
    for rank in range(2):
        assert error([torch.load(tmp_path / f"{rank}.pt")], [expected]) < 1e-6


class HeadOnly(torch.nn.Module):
    """A model of which the loss computes the head."""

    def __init__(self, head):
        super().__init__()
        self.head = torch.nn.Parameter(head)

    def forward(self, hidden):
        return hidden * 1.0


def process(rank, folder, kind):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    hidden, head, labels, weights = batch()
    model = HeadOnly(head.detach())
    if kind == "sharded":
        model.head = torch.nn.Parameter(distribute_tensor(head.detach(), init_device_mesh("cpu", (2,)), [Shard(0)]))
    else:
        model = torch.nn.parallel.DistributedDataParallel(model)
    own = getattr(model, "module", model).head
    loss = FigaLoss(gate=None, reduction="sum", chunk_rows=2)
    part = slice(rank, rank + 1)
    loss.fused(model(hidden[part]), own, labels[part], weights[part]).backward()
    gradient = own.grad.full_tensor() if kind == "sharded" else own.grad
    torch.save(gradient.double(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("reduction", ["active_tokens", "labelled_tokens", "abs_weights", "sum", "sequence_means", "none"])
def test_packed_answers_have_the_loss_of_rows_of_their_own(model_folder, records, reduction):
    import transformers

    encoder = PairEncoder(model_folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64, attn_implementation="sdpa")
    pairs = [encoder.encode(record) for record in records[:3]]
    rows = {name: torch.from_numpy(values) for name, values in collate(pairs).items()}
    packed = {name: torch.from_numpy(values) for name, values in pack(pairs).items() if isinstance(values, np.ndarray)}
    targets = Rows.of_targets(*(packed[name] for name in ("labels", "weights", "outputs", "sequences")))
    mask = attention_mask(packed["visible_until"])
    loss = FigaLoss(reduction=reduction)
    results = []
    for kind in ("rows", "packed"):
        model.zero_grad()
        if kind == "rows":
            logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
            value = loss(logits, rows["labels"], rows["weights"]).sum()
        else:
            inputs = {"input_ids": packed["input_ids"], "position_ids": packed["position_ids"], "attention_mask": mask}
            value = loss.on(model(**inputs).logits, targets).sum()
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in model.parameters())])
    assert error(results[1], results[0]) < 1e-9


def test_masked_columns_are_as_in_a_softmax():
    labels, weights = torch.tensor([[-100, 0]]), torch.tensor([[0.0, 1.0]])
    for least in (torch.finfo(torch.float32).min, -torch.inf):
        logits = torch.full((1, 2, 3), least).requires_grad_()
        with torch.no_grad():
            logits[0, 0, 0] = 1
        loss = FigaLoss()(logits, labels, weights)
        loss.backward()
        assert loss == 0 and (logits.grad == 0).all()


def test_a_gated_token_may_be_impossible():
    logits = torch.zeros(1, 3, 3)
    logits[0, 0, 0] = -torch.inf
    logits.requires_grad_()
    labels, weights = torch.tensor([[-100, 0, 1]]), torch.tensor([[0.0, -0.5, 1.0]])
    loss = FigaLoss()(logits, labels, weights)
    loss.backward()
    assert loss.item() == pytest.approx(np.log(3), rel=1e-6) and logits.grad.isfinite().all()


def test_nearly_certain_tokens_keep_their_gradient():
    logits = torch.tensor([[[40.0, 0.0], [0.0, 0.0]]]).requires_grad_()
    labels, weights = torch.tensor([[-100, 0]]), torch.tensor([[0.0, 1.0]])
    loss = losses.WeightedNll()(logits, labels, weights)
    loss.backward()
    assert loss.item() == pytest.approx(np.exp(-40.0), rel=1e-5)
    assert logits.grad[0, 0].tolist() == pytest.approx([-np.exp(-40.0), np.exp(-40.0)], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_without_active_tokens_the_loss_is_0(dtype):
    hidden, head, labels, weights = batch(dtype)
    for reduction in ("active_tokens", "abs_weights", "sequence_means", 5.0):
        loss = FigaLoss(reduction=reduction).fused(hidden, head, labels, torch.zeros_like(weights))
        value, *others = gradients(loss, hidden, head)
        assert value == 0 and all((gradient == 0).all() for gradient in others)


ERRORS = {
    "labels: expected shape [B, S], got [3]": (ValueError, {"labels": torch.zeros(3, dtype=torch.long)}),
    "weights: expected shape [3, 11], that of labels, got [3, 1]": (ValueError, {"weights": torch.zeros(3, 1)}),
    "labels: expected dtype int64, got torch.int32": (TypeError, {"labels": torch.zeros(B, S, dtype=torch.int32)}),
    "weights: expected a float dtype, got torch.int64": (TypeError, {"weights": torch.ones(B, S, dtype=torch.long)}),
    "labels[0, 1] is 37: expected 0 <= label < V = 37, or ignore_index = -100": (
        ValueError,
        {"labels": torch.full((B, S), V), "weights": torch.ones(B, S)},
    ),
    "weights[0, 3]: expected finite numbers, got nan": (ValueError, {"weights": torch.full((B, S), torch.nan)}),
    "lm_head: expected shape [V, H] = [V, 16], got [5, 15]": (ValueError, {"head": torch.zeros(5, 15)}),
    "lm_head: expected dtype torch.float32, that of hidden, got torch.float16": (
        TypeError,
        {"head": torch.zeros(V, H, dtype=torch.float16)},
    ),
    "hidden: expected a float dtype, got torch.int64": (TypeError, {"hidden": torch.zeros(B, S, H, dtype=torch.long)}),
}


@pytest.mark.parametrize("message", ERRORS)
def test_arguments_that_do_not_fit_are_named(message):
    kind, changes = ERRORS[message]
    arguments = dict(zip(("hidden", "head", "labels", "weights"), batch(), strict=True)) | changes
    with pytest.raises(kind) as error:
        FigaLoss().fused(arguments["hidden"], arguments["head"], arguments["labels"], arguments["weights"])
    assert str(error.value).startswith(message)


def test_settings_outside_of_their_domain_are_named():
    for make, message in [
        (lambda: FigaLoss(gate=(1, 0.5)), "gate: expected a number, or (min, max) with min <= max, got (1, 0.5)"),
        (lambda: FigaLoss(penalty="none"), "penalty: expected nll or unlikelihood, got 'none'"),
        (lambda: FigaLoss(reduction="mean"), "reduction: expected one of active_tokens"),
        (lambda: FigaLoss(reduction=0), "reduction: expected a number > 0, got 0"),
        (lambda: losses.Dpo(beta=0), "beta: expected a finite number > 0, got 0"),
        (lambda: losses.Eaft(top_k=0), "top_k: expected at least 1 column, got 0"),
        (lambda: losses.Reference(torch.zeros(1, 1), divergence=2), "divergence: expected forward, reverse or"),
    ]:
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value).startswith(message)
