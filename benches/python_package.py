"""Compares the Python package with other libraries: the same inputs, alternately, in one run.

    make bench-python

Alignment: python-Levenshtein and RapidFuzz on the same arrays of int64, conversion included, and equal scripts. Loss:
forward and backward pass of the FIGA loss without a gate, from hidden states and a head, beside TRL's chunked
log-probabilities times the weights, Liger-Kernel's chunked policy loss and the plain expression on all logits, with equal
values and gradients; peak memory is what a run adds, in a process of its own. Liger-Kernel's fused cross-entropy needs a GPU.
Its policy loss is plain PyTorch: with CISPO, advantages of 1 and the weights as importance ratios it is the same sum.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

import numpy as np


def seconds(function, repeat):
    begin = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - begin) / repeat


def alternately(functions, rounds, repeat=1):
    """The median seconds of each function."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, repeat))
    return {name: statistics.median(values) for name, values in times.items()}


def edited(rng, length, rate):
    source = [rng.randrange(32_000) for _ in range(length)]
    dest = []
    for token in source:
        kind = rng.random() / rate
        if kind < 1 / 3:
            continue
        dest.append(rng.randrange(32_000) if kind < 2 / 3 else token)
        if 2 / 3 <= kind < 1:
            dest.append(rng.randrange(32_000))
    return np.array(source), np.array(dest)


def alignment():
    import Levenshtein
    from rapidfuzz.distance import Levenshtein as RapidFuzz

    import figa_loss

    rng = random.Random(1)
    for length, rate in ((512, 0.05), (512, 0.3), (4096, 0.05)):
        pairs = [edited(rng, length, rate) for _ in range(20)]
        for source, dest in pairs:
            assert figa_loss.editops(source, dest) == Levenshtein.editops(source.tolist(), dest.tolist())
        times = alternately(
            {
                "figa_loss": lambda pairs=pairs: [figa_loss.editops(*pair) for pair in pairs],
                "Levenshtein": lambda pairs=pairs: [Levenshtein.editops(*pair) for pair in pairs],
                "Levenshtein, tolist": lambda pairs=pairs: [
                    Levenshtein.editops(a.tolist(), b.tolist()) for a, b in pairs
                ],
                "RapidFuzz": lambda pairs=pairs: [RapidFuzz.editops(*pair) for pair in pairs],
                "RapidFuzz, tolist": lambda pairs=pairs: [RapidFuzz.editops(a.tolist(), b.tolist()) for a, b in pairs],
            },
            rounds=7,
        )
        for name, time_of in times.items():
            ratio = time_of / times["figa_loss"]
            print(f"editops, {length} tokens, {rate:.0%} edited  {name:20} {time_of / len(pairs) * 1e6:9.1f} us  {ratio:6.1f}x")


class Losses:
    def __init__(self, tokens, hidden, vocab, share):
        import torch

        torch.manual_seed(1)
        self.hidden = torch.randn(1, tokens, hidden).requires_grad_()
        self.head = (torch.randn(vocab, hidden) / hidden**0.5).requires_grad_()
        self.labels = torch.randint(0, vocab, (1, tokens))
        self.weights = torch.where(torch.rand(1, tokens) < share, torch.randn(1, tokens), 0.0)

    def step(self, loss):
        self.hidden.grad = self.head.grad = None
        value = loss()
        value.backward()
        return value.item()

    def figa_loss(self):
        from figa_loss.torch import FigaLoss

        return FigaLoss(gate=None, reduction="sum").fused(self.hidden, self.head, self.labels, self.weights)

    def trl(self):
        from trl.kernels import ChunkedLogProbFunction

        hidden, labels = self.hidden[:, :-1].flatten(0, 1), self.labels[:, 1:].flatten()
        logp = ChunkedLogProbFunction.apply(hidden, self.head, None, labels, 1.0, 32768, None, 1.0, ())[0]
        return -(logp * self.weights[:, 1:].flatten()).sum()

    def liger(self):
        import torch
        from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

        labels, weights = self.labels[:, 1:], self.weights[:, 1:]
        # What it compiles is the loss of each token, not the products. It would be compiled anew in each step.
        loss = LigerFusedLinearGRPOLoss(beta=0.0, loss_type="cispo", epsilon_high=5.0, use_ref_model=False, compiled=False)
        mask, advantages = torch.ones_like(weights), torch.ones(len(labels))
        arguments = {"vllm_is_ratio": weights, "num_items_in_batch": 1}
        return loss(self.hidden[:, :-1], self.head, labels, mask, advantages, **arguments)[0]

    def plain(self):
        import torch

        logits = (self.hidden[:, :-1] @ self.head.T).flatten(0, 1)
        nll = torch.nn.functional.cross_entropy(logits, self.labels[:, 1:].flatten(), reduction="none")
        return (nll * self.weights[:, 1:].flatten()).sum()

    NAMES = ("figa_loss", "trl", "liger", "plain")


def memory(name, sizes):
    """MiB that a run adds in this process."""
    losses = Losses(*sizes)
    getattr(Losses(8, 8, 8, 1.0), name)().backward()  # loads what it needs
    before = peak()
    losses.step(getattr(losses, name))
    return peak() - before


def peak():
    """The peak memory of this process in MiB. (That of `resource` begins with the memory of the parent.)"""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def loss(tokens, hidden, vocab):
    import torch

    for share in (0.1, 1.0):
        sizes = (tokens, hidden, vocab, share)
        losses = Losses(*sizes)
        results = {}
        for name in Losses.NAMES:
            value = losses.step(getattr(losses, name))
            results[name] = (torch.tensor(value), losses.hidden.grad, losses.head.grad)
        for name, result in results.items():
            for ours, plain in zip(result, results["plain"], strict=True):
                difference = (ours - plain).norm() / plain.norm()
                assert difference < 1e-5, f"{name}: {difference}"
        times = alternately({name: lambda name=name: losses.step(getattr(losses, name)) for name in Losses.NAMES}, rounds=3)
        for name, time_of in times.items():
            command = [sys.executable, __file__, "--memory", json.dumps([name, sizes])]
            added = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ratio = time_of / times["figa_loss"]
            print(f"{tokens} tokens, V {vocab}, H {hidden}, {share:.0%} active  {name:10} {time_of * 1e3:8.0f} ms  {ratio:5.2f}x  {added:6.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory(*json.loads(arguments.memory)))
    else:
        alignment()
        loss(arguments.tokens, arguments.hidden, arguments.vocab)
