"""Compares losses of this crate with those of other libraries: the same tensors, alternately, in one run.

    python3 benches/gpu_losses.py                   # on a GPU: bf16, V = 128k, H = 4096, 16k tokens; on a CPU: small
    python3 benches/gpu_losses.py --loss pairs --batch 16 --seq 512 --vocab 32000 --hidden 512
    python3 benches/gpu_losses.py --bench BINARY    # a bench that is already built, on a machine without cargo

--loss tokens: the nll of single tokens with token weights. The other libraries compute the nll of each token, times its
weight. --loss pairs: DPO with token weights. Liger-Kernel's has none, and gets the labels of the same tokens.

Needs torch. Losses of a package that is missing, or that does not run on this device, are skipped with a message:
benches/gpu_losses.txt lists the packages. A run is a forward pass and a backward pass to hidden states and head. Times
are medians, each with a synchronisation in front and behind. Peak memory is what one run adds to the inputs: on a CPU in
a process of its own, on a GPU as torch's allocator counts it, which does not see the crate's.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import types

import torch
import torch.nn.functional as F

IGNORE_INDEX = -100
BETA = 0.1
# How far the values of two losses may differ, relative to the loss.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-4}
# Of the crate, as its bench names them: the loss, and the least that computes its gradient.
OURS = {
    "tokens": ["fused_linear_figa_loss", "three matrix products"],
    "pairs": ["Dpo with token weights", "three matrix products"],
}


def make(args, percent):
    """The tensors of a batch; the same for the same arguments. Sequences of pairs alternate: rejected, chosen."""
    torch.manual_seed(0)
    new = {"device": args.device}
    hidden = torch.randn(args.batch, args.seq, args.hidden, **new).to(args.dtype)
    lm_head = (torch.randn(args.vocab, args.hidden, **new) * args.hidden**-0.5).to(args.dtype)
    labels = torch.randint(args.vocab, (args.batch, args.seq), **new)
    weights = torch.rand(args.batch, args.seq, **new) + 0.5
    weights *= torch.rand(args.batch, args.seq, **new) * 100 < percent
    labels[weights == 0] = IGNORE_INDEX
    return {"hidden": hidden, "lm_head": lm_head, "labels": labels, "weights": weights}


def save(path, tensors):
    """Writes a safetensors file."""
    header, end = {}, 0
    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())


class Tokens:
    """The mean of weight times nll over the active tokens, as other libraries compute it."""

    def __init__(self, hidden, lm_head, labels, weights):
        self.hidden, self.lm_head = hidden[:, :-1].reshape(-1, hidden.shape[-1]), lm_head
        self.targets, self.weights = labels[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
        self.active = (self.targets != IGNORE_INDEX).sum()

    def mean(self, nll, weights=None):
        return (nll * (self.weights if weights is None else weights)).sum() / self.active

    def plain(self):
        logits = (self.hidden @ self.lm_head.T).float()
        return self.mean(F.cross_entropy(logits, self.targets, ignore_index=IGNORE_INDEX, reduction="none"))

    def liger(self):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as nll

        return self.mean(nll(self.hidden, self.lm_head, self.targets, reduction="none"))

    def cut_cross_entropy(self):
        from cut_cross_entropy import linear_cross_entropy as nll

        return self.mean(nll(self.hidden, self.lm_head, self.targets, reduction="none"))

    def trl(self):
        from trl.kernels import ChunkedLogProbFunction

        try:
            import trl.trainer.utils
        except ImportError:  # its backward takes a function from there that does nothing here; the rest needs many packages
            stub = types.ModuleType("trl.trainer.utils")
            stub.maybe_gather_lm_head_ctx = lambda *_: contextlib.nullcontext()
            sys.modules[stub.__name__] = stub
        # As its trainers call it.
        mask, temperature, chunk_size = self.targets != IGNORE_INDEX, 1.0, 32768
        hidden, targets = self.hidden[mask], self.targets[mask]
        logp = ChunkedLogProbFunction.apply(hidden, self.lm_head, None, targets, temperature, chunk_size, None, 1.0, ())[0]
        return self.mean(-logp, self.weights[mask])

    def all(self):
        return {
            "dense head, plain expression": (self.plain, self.plain),
            "Liger-Kernel, fused cross-entropy": (self.liger, self.plain),
            "cut-cross-entropy": (self.cut_cross_entropy, self.plain),
            "TRL, chunked log-probabilities": (self.trl, self.plain),
        }


class Pairs:
    """DPO with a reference of 0, as other libraries compute it."""

    def __init__(self, hidden, lm_head, labels, weights):
        self.hidden, self.lm_head = hidden, lm_head
        self.targets, self.weights = labels[:, 1:], weights[:, 1:]

    def dpo(self, weights):
        logp = (self.hidden[:, :-1] @ self.lm_head.T).float().log_softmax(-1)
        logp = logp.gather(-1, self.targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        rejected, chosen = (logp * weights).sum(-1).unflatten(0, (-1, 2)).unbind(1)
        return -F.logsigmoid(BETA * (chosen - rejected)).mean()

    def plain(self):
        return self.dpo(self.weights)

    def without_weights(self):
        return self.dpo(self.weights.ne(0))

    def liger(self):
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        # Chosen answers first.
        order = torch.arange(len(self.hidden)).unflatten(0, (-1, 2)).flip(1).T.flatten().to(self.hidden.device)
        loss = LigerFusedLinearDPOLoss(beta=BETA, compiled=False, use_ref_model=False)
        return loss(self.lm_head, self.hidden[order, :-1], self.targets[order])[0]

    def all(self):
        return {
            "dense head, plain expression": (self.plain, self.plain),
            "Liger-Kernel, chunked DPO": (self.liger, self.without_weights),
        }


LOSSES = {"tokens": Tokens, "pairs": Pairs}


class Bench:
    """The bench of the crate on the tensors of a file."""

    def __init__(self, args, path):
        root = pathlib.Path(__file__).resolve().parent.parent
        program = [args.bench] if args.bench else ["cargo", "bench", "--quiet", "--bench", "loss", "--"]
        self.command, self.pipes = [*program, "on", path], {"cwd": root, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, **self.pipes)
        self.device = self.process.stdout.readline().strip()

    def run(self, name):
        """The time of a run in ms, and the loss."""
        print(name, file=self.process.stdin, flush=True)
        ms, loss = self.process.stdout.readline().split("\t")
        return float(ms), float(loss)

    def peak(self, name):
        return float(subprocess.run([*self.command, "peak", name], check=True, **self.pipes).stdout)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(args, run, inputs):
    """The time of a run in ms, and the loss."""
    args.sync()
    begin = time.perf_counter()
    loss = run()
    torch.autograd.grad(loss, inputs)
    args.sync()
    return (time.perf_counter() - begin) * 1e3, loss.item()


def own_peak(args, percent, name):
    """What a run adds to the inputs, in MiB."""

    def run_on(tensors):
        inputs = [tensors[name].requires_grad_() for name in ("hidden", "lm_head")]
        timed(args, LOSSES[args.loss](**tensors).all()[name][0], inputs)

    tensors = make(args, percent)
    run_on({key: tensor if key == "lm_head" else tensor[:, :8].contiguous() for key, tensor in tensors.items()})
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_on(tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def most():
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = most()
    run_on(tensors)
    return most() - before


def peak(args, percent, name):
    if args.device == "cuda":
        return own_peak(args, percent, name)
    command = [sys.executable, *sys.argv, "--peak", name, "--loss", args.loss, "--active", str(percent)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(args, percent, path):
    """Prints the rows of one share of active tokens."""
    tensors = make(args, percent)
    save(path, tensors)
    bench = Bench(args, path)
    if (bench.device == "Cpu") != (args.device == "cpu"):
        sys.exit(f"the crate runs on {bench.device}, but torch on {args.device}")
    inputs = [tensors[name].requires_grad_() for name in ("hidden", "lm_head")]
    runs = {name: (lambda name=name: bench.run(name)) for name in OURS[args.loss]}
    ours, bare = OURS[args.loss]
    others = LOSSES[args.loss](**tensors)
    values = {ours: (bench.run(ours)[1], others.plain)}
    for name, (run, expected) in others.all().items():
        try:
            values[name] = timed(args, run, inputs)[1], expected
            runs[name] = lambda run=run: timed(args, run, inputs)
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"skipped: {name} ({str(error).splitlines()[0]})")
    for name, (value, expected) in values.items():
        with torch.no_grad():
            expected = expected().item()
        if not abs(value - expected) < TOLERANCE[args.dtype] * abs(expected):
            sys.exit(f"{name}: the loss is {value}, expected {expected}")
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            run()  # not timed: the memory of the run before it is still being reclaimed
            times[name].append(run()[0])
    bench.close()
    print(f"{percent:>4} %  the crate on {bench.device}")
    del tensors, inputs
    times = {name: statistics.median(values) for name, values in times.items()}
    for name, ms in times.items():
        if name not in OURS[args.loss]:
            mib = f"{peak(args, percent, name):.0f}"
        else:
            mib = f"{bench.peak(name):.0f}" if args.device == "cpu" else "?"
        print(f"{percent:>4} %  {name:<34} {ms:>9.2f} {ms / times[bare]:>7.2f} {ms / times[ours]:>7.2f} {mib:>10}")


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=list(LOSSES), action="append", help="all of them by default")
    sizes = [("--batch", 8, 4), ("--seq", 2048, 128), ("--vocab", 128_000, 8_000), ("--hidden", 4096, 256)]
    for name, gpu, cpu in sizes:
        parser.add_argument(name, type=int, default=gpu if cuda else cpu)
    parser.add_argument("--rounds", type=int, default=9 if cuda else 3, help="timed runs of each, each after one that is not")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    parser.add_argument("--active", type=int, action="append", help="percent of active tokens (10 and 100)")
    parser.add_argument("--bench", help="a built bench; by default cargo builds and runs it")
    parser.add_argument("--peak", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.device, args.dtype = "cuda" if cuda else "cpu", getattr(torch, args.dtype)
    args.sync = torch.cuda.synchronize if cuda else lambda: None
    losses = args.loss or list(LOSSES)
    if args.peak:
        args.loss = losses[-1]
        print(own_peak(args, args.active[-1], args.peak))
        return
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {args.dtype}")
    print(f"B = {args.batch}, S = {args.seq}, V = {args.vocab}, H = {args.hidden}")
    for args.loss in losses:
        print(f"\n{args.loss}\n{'active':>6}  {'':<34} {'ms':>9} {'/ bare':>7} {'/ ours':>7} {'peak, MiB':>10}")
        for percent in args.active or [10, 100]:
            with tempfile.TemporaryDirectory() as folder:
                compare(args, percent, f"{folder}/tensors.safetensors")


if __name__ == "__main__":
    main()
