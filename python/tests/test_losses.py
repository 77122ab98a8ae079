"""The losses against the fixtures of the crate: values and gradients of plain expressions and of published sources, in f64."""

import functools
import json

import pytest

torch = pytest.importorskip("torch")

from figa_loss import torch as losses  # noqa: E402
from figa_loss.torch import LmHead, Pairs, Reference, Rows, log_probs  # noqa: E402

# For f32 against f64: relative to the largest number of a list.
F32 = 1e-6


def close(actual, expected, tolerance):
    """Relative to the largest number; absolute below 1e-6 of that of one row."""
    expected = torch.as_tensor(expected, dtype=torch.float64).reshape(actual.shape)
    difference = (actual.double() - expected).abs().max().item()
    assert difference <= tolerance * max(expected.abs().max().item(), 1e-3), f"{difference} for {expected.abs().max()}"


def tensors(case, dtype):
    shape = case["shape"]
    logits = torch.tensor(case["logits"], dtype=dtype).reshape(shape).requires_grad_()
    labels = torch.tensor(case["labels"]).reshape(shape[:2])
    weights = torch.tensor(case.get("weights") or [1.0] * labels.numel(), dtype=dtype).reshape(shape[:2])
    return logits, labels, weights


def as_hidden(logits):
    """Hidden states and a head whose product is the logits."""
    return logits, LmHead(torch.eye(logits.shape[-1], dtype=logits.dtype))


WAYS = {
    "logits": lambda loss, logits: loss(logits),
    "fused": lambda loss, logits: loss(as_hidden(logits)),
    "fused in chunks": lambda loss, logits: loss(as_hidden(logits), chunk_rows=2),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, F32)])
def test_figa_equals_the_plain_expression(fixtures, dtype, tolerance, way):
    cases = fixtures("loss.jsonl")
    assert len(cases) == 45
    for case in cases:
        logits, labels, weights = tensors(case, dtype)
        gate = {0: None, 1: lambda gate: gate[0], 2: tuple}[len(case["gate"] or [])]
        gate = gate and gate(case["gate"])

        def loss(output, chunk_rows=None, gate=gate, reduction=case["reduction"], rows=Rows.of_batch(labels, weights)):
            return losses.FigaLoss(gate=gate, reduction=reduction, chunk_rows=chunk_rows).on(output, rows)

        value = WAYS[way](loss, logits)
        value.backward()
        close(value.detach(), case["loss"], tolerance)
        close(logits.grad, case["grad"], tolerance)


def family(case, dtype):
    """The loss of a case as a function of a model's output."""
    logits, labels, weights = tensors(case, dtype)
    rows = Rows.of_shifted(labels, weights)
    name, count = case["name"], labels.shape[0]

    def tokens(key):
        return torch.tensor(case[key], dtype=dtype).reshape(labels.shape)

    teacher = torch.tensor(case["teacher"], dtype=dtype).reshape(case["shape"]) if "teacher" in case else None
    if name in ("dft", "dft of trl"):
        return losses.Dft, {}, rows
    if name == "eaft":
        return losses.Eaft, {}, rows
    if name == "asft":
        return losses.Asft, {"reference": Reference(teacher)}, rows
    if name == "distillation":
        return losses.Distillation, {"reference": Reference(teacher, case["divergence"], case["temperature"])}, rows
    if name in ("npo", "simnpo"):
        kind = losses.Npo if name == "npo" else functools.partial(losses.SimNpo, beta=2.5, gamma=3.0)
        return kind, {"reference_log_probs": tokens("reference")}, rows
    if name == "tgdpo":
        sign = torch.cat([torch.ones(count // 2, 1), -torch.ones(count // 2, 1)]).to(dtype)
        rows = Rows.of_shifted(labels, 1 + 0.05 * sign * tokens("rewards"))
    pairs = {
        "dpo": losses.Dpo,
        "tis-dpo": losses.Dpo,
        "ddpo": losses.Dpo,
        "tgdpo": losses.Dpo,
        "ddpo average": functools.partial(losses.Dpo, average=True),
        "ipo": functools.partial(losses.Ipo, average=True),
        "simpo": losses.SimPo,
        "cpo": losses.Cpo,
        "orpo": losses.Orpo,
        "tdpo1": functools.partial(losses.Tdpo, alpha=None),
        "tdpo2": losses.Tdpo,
    }
    if name in pairs:
        further = {"pairs": Pairs.halves(count // 2), "reference_log_probs": tokens("reference")}
        if teacher is not None:
            further["reference"] = Reference(teacher)
        return pairs[name], further, rows
    further = {"old_log_probs": tokens("old"), "advantages": tokens("advantages")}
    options = {}
    if "reference" in case:
        further["reference_log_probs"] = tokens("reference")
        options["kl_beta"] = 0.04
    policies = {
        "cispo": losses.Cispo,
        "sapo": losses.Sapo,
        "dapo": functools.partial(losses.Grpo, clip_high=0.28, reduction="active_tokens"),
        "liger dapo token": functools.partial(losses.Grpo, reduction="active_tokens"),
        "liger grpo token": losses.Grpo,
        "liger grpo sequence": functools.partial(losses.Grpo, ratio="sequence"),
    }
    if name == "rlmec":
        further = {"old_log_probs": tokens("old"), "rewards": tokens("advantages"), "supervised": tokens("supervised")}
        return losses.Rlmec, further, rows
    return functools.partial(policies[name], **options), further, rows


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, F32)])
def test_the_family_equals_its_published_sources(fixtures, dtype, tolerance, way):
    cases = fixtures("family.jsonl")
    assert len(cases) == 28
    for case in cases:
        logits = tensors(case, dtype)[0]
        if case["name"] == "unlikelihood of candidates":
            _, labels, weights = tensors(case, dtype)
            rows = Rows.of_shifted(labels, weights)
            candidates = torch.tensor(case["candidates"]).reshape(*labels.shape, -1)

            def loss(output, chunk_rows=None, rows=rows, candidates=candidates, factor=case["factor"]):
                options = {"reduction": "sum", "chunk_rows": chunk_rows}
                penalty = losses.CandidateUnlikelihood(**options).on(output, rows, candidates=candidates)
                return losses.WeightedNll(**options).on(output, rows) + factor * penalty

        else:
            make, further, rows = family(case, dtype)

            def loss(output, chunk_rows=None, make=make, further=further, rows=rows):
                return make(chunk_rows=chunk_rows).on(output, rows, **further)

        value = WAYS[way](loss, logits)
        value.backward()
        within = max(tolerance, case.get("tolerance", 0))
        try:
            close(value.detach(), case["loss"], within)
            close(logits.grad, case["grad"], within)
        except AssertionError as error:
            raise AssertionError(f"{case['name']}: {error}") from None


def plain_formulas(logp, w, old, advantages):
    """The losses without a case in the fixtures, each token's by ordinary operations."""
    p, ratio = logp.exp(), (logp - old).exp()
    return {
        losses.WeightedNll: (-w * logp, {}),
        losses.Unlikelihood: (-w * (1 - p).log(), {}),
        losses.Chord: (-w * (p * (1 - p)).detach() * logp, {}),
        losses.Focal: (-w * (1 - p) ** 2 * logp, {}),
        losses.ImportanceSampling: (-w * ratio * advantages, {"old_log_probs": old, "advantages": advantages}),
        losses.Dro: (
            -w * (logp * advantages - 0.025 * (logp - old) ** 2),
            {"old_log_probs": old, "advantages": advantages},
        ),
    }


@pytest.mark.parametrize("way", WAYS)
def test_other_losses_equal_their_formulas(way):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 6, (2, 4), generator=generator)
    w, old, advantages = (torch.randn(2, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    rows = Rows.of_shifted(labels, w)
    for make in plain_formulas(*[torch.zeros(1)] * 4):
        plain = logits.clone().requires_grad_()
        logp = plain.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        value, further = plain_formulas(logp, w, old, advantages)[make]
        value.mean().backward()
        own = logits.clone().requires_grad_()

        def loss(output, chunk_rows=None, make=make, further=further):
            return make(chunk_rows=chunk_rows).on(output, rows, **further)

        result = WAYS[way](loss, own)
        result.backward()
        close(result.detach(), value.mean().item(), 1e-9)
        close(own.grad, plain.grad, 1e-9)


@pytest.mark.parametrize("tail", ["bucket", "renormalised", "ignored"])
def test_the_likeliest_columns_of_a_teacher(tail):
    generator = torch.Generator().manual_seed(6)
    logits, teacher = (torch.randn(2, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    labels, weights = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.float64)
    t, columns = teacher.log_softmax(-1).topk(3)
    plain, own = (logits.clone().requires_grad_() for _ in range(2))
    p = plain.log_softmax(-1).gather(-1, columns)
    a, b = (t, p) if tail != "renormalised" else (t.log_softmax(-1), p.log_softmax(-1))
    value = (a.exp() * (a - b)).sum(-1)
    if tail == "bucket":
        rest = [1 - values.exp().sum(-1) for values in (t, p)]
        value = value + rest[0] * (rest[0] / rest[1]).log()
    value.mean().backward()
    loss = losses.TopKDistillation(tail).on(own, Rows.of_shifted(labels, weights), columns=columns, log_probs=t)
    loss.backward()
    close(loss.detach(), value.mean().item(), 1e-9)
    close(own.grad, plain.grad, 1e-9)


@pytest.mark.parametrize("make", [losses.Dpo, losses.Ipo])
def test_a_common_prefix_cancels(make):
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(7, 6, generator=generator, dtype=torch.float64).repeat(5, 1, 1)
    labels, weights = torch.full((5, 7), 2), torch.ones(5, 7, dtype=torch.float64)
    # Answer 0 is in two pairs and answer 4 in none. The others differ from token 5, 4 and 3 on, the last by a weight.
    pairs = losses.Pairs(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]))
    labels[1, 5], labels[2, 4], weights[3, 3] = 3, 3, 2
    for answer, first in ((1, 5), (2, 4), (3, 3)):
        logits[answer, first:] = torch.randn(7 - first, 6, generator=generator, dtype=torch.float64)
    fewer = pairs.skip_common_prefix(labels, weights)
    assert [(answer == 0).tolist().count(True) for answer in fewer] == [3, 3, 3, 3, 7]
    results = []
    for some in (weights, fewer):
        own = logits.clone().requires_grad_()
        loss = make()(own, labels, some, pairs=pairs, reference_log_probs=torch.zeros_like(weights))
        loss.backward()
        # The same hidden states in front of the first difference get the sum.
        results.append((loss.detach(), torch.cat([own.grad[:, :2].sum(0), own.grad[:, 2:].flatten(0, 1)])))
    close(results[1][0], results[0][0].item(), 1e-9)
    close(results[1][1], results[0][1], 1e-9)
    with pytest.raises(ValueError, match="weights: expected shape"):
        pairs.skip_common_prefix(labels, weights[0])


@pytest.mark.parametrize("way", WAYS)
def test_an_anchor_adds_the_mean_divergence_of_its_rows(way):
    generator = torch.Generator().manual_seed(7)
    logits, base = (torch.randn(2, 4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 6, (2, 4), generator=generator)
    weights = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 0]], dtype=torch.float64)
    kept = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.float64)
    plain, own = (logits.clone().requires_grad_() for _ in range(2))
    nll = torch.nn.functional.cross_entropy(plain.flatten(0, 1), labels.flatten(), reduction="none")
    kl = torch.nn.functional.kl_div(plain.log_softmax(-1), base.log_softmax(-1), reduction="none", log_target=True)
    value = (nll * weights.flatten()).sum() / 3 + 0.5 * (kl.sum(-1) * kept).sum() / 3
    value.backward()

    def loss(output, **options):
        anchored = losses.Anchored(losses.FigaLoss(**options), 0.5, losses.Distillation(**options))
        rows, anchor_rows = (Rows.of_shifted(labels, some) for some in (weights, kept))
        return anchored.on(output, rows, anchor_rows, reference=Reference(base))

    result = WAYS[way](loss, own)
    result.backward()
    close(result.detach(), value.item(), 1e-9)
    close(own.grad, plain.grad, 1e-9)
    with pytest.raises(ValueError, match="factor: expected a finite number >= 0, got -1"):
        losses.Anchored(losses.FigaLoss(), -1)


def test_log_probs_are_those_of_a_softmax():
    logits, labels = torch.randn(2, 4, 6), torch.randint(0, 6, (2, 4))
    expected = logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:].unsqueeze(-1)).squeeze(-1)
    for output in (logits, as_hidden(logits)):
        actual = log_probs(output, Rows.of_batch(labels, torch.ones(2, 4)))
        assert torch.allclose(actual[:, 1:], expected, atol=1e-6) and (actual[:, 0] == 0).all()


def test_the_loss_of_a_batch_is_that_of_the_crate(tokenizer_json, records):
    """The batch and the numbers of labels.py, which a test of the crate computes as well."""
    from conftest import FIXTURES

    from figa_loss import PairEncoder, collate

    expected = json.loads((FIXTURES / "labels.json").read_text())
    encoder = PairEncoder(tokenizer_json, eos_token="</s>", prompt="plain", weights="paper")
    batch = collate([encoder.encode(record) for record in records[:8]])
    ids, labels, weights = (torch.from_numpy(batch[name]) for name in ("input_ids", "labels", "weights"))
    vocab = expected["shape"][2]
    logits = 2 * torch.sin(ids[:, :, None].double() + 0.37 * torch.arange(vocab, dtype=torch.float64))
    boost = 8 * torch.sin(torch.arange(ids.shape[1] - 1, dtype=torch.float64)).expand(ids.shape[0], -1)
    logits[:, :-1].scatter_add_(2, ids[:, 1:, None], boost[:, :, None])
    logits = logits.float().requires_grad_()
    loss = losses.figa_loss(logits, labels, weights)
    loss.backward()
    assert list(logits.shape) == expected["shape"]
    assert loss.item() == pytest.approx(expected["loss"], rel=F32)
    assert logits.grad.norm().item() == pytest.approx(expected["grad_norm"], rel=F32)
