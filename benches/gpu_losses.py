"""Compares fused_linear_figa_loss with the fused losses of Liger-Kernel and cut-cross-entropy on the same tensors.

    python3 benches/gpu_losses.py                   # on a GPU: bf16, V = 128k, H = 4096, 16k tokens; on a CPU: small
    python3 benches/gpu_losses.py --bench BINARY    # a bench that is already built, on a machine without cargo

Needs torch. Rows of liger-kernel and cut-cross-entropy are skipped with a message if the package is missing. The other
losses have no weights per token: they compute the plain cross-entropy, with the labels of inactive tokens set to -100.
A run is a forward pass and a backward pass to hidden states and head; times are medians of 9 runs after 3 that warm up.
"""

import argparse
import json
import pathlib
import statistics
import struct
import subprocess
import tempfile
import time

import torch

IGNORE_INDEX = -100
WARM_UP, ROUNDS = 3, 9
FUSED = "fused_linear_figa_loss"
# How far the values of two losses may differ, relative to the loss: bf16 has 8 bits.
TOLERANCE = 1e-2


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


def timed(run, inputs, sync):
    """The time of a run in ms."""
    times = []
    for _ in range(WARM_UP + ROUNDS):
        sync()
        begin = time.perf_counter()
        torch.autograd.grad(run(), inputs)
        sync()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:]) * 1e3


def others(hidden, lm_head, labels):
    """Yields each other loss: its name and a function that computes it."""
    flat, targets = hidden[:, :-1].reshape(-1, hidden.shape[-1]), labels[:, 1:].reshape(-1)
    yield "dense head, cross_entropy", lambda: torch.nn.functional.cross_entropy((flat @ lm_head.T).float(), targets)
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as liger

        yield "Liger, fused linear cross-entropy", lambda: liger(flat, lm_head, targets)
    except ImportError as error:
        print(f"skipped: Liger-Kernel ({error})")
    try:
        from cut_cross_entropy import linear_cross_entropy

        yield "cut-cross-entropy", lambda: linear_cross_entropy(flat, lm_head, targets)
    except ImportError as error:
        print(f"skipped: cut-cross-entropy ({error})")


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, gpu, cpu in [("batch", 8, 2), ("seq", 2048, 128), ("vocab", 128_000, 8_000), ("hidden", 4096, 256)]:
        parser.add_argument(f"--{name}", type=int, default=gpu if cuda else cpu)
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    parser.add_argument("--bench", help="a built bench; by default cargo builds and runs it")
    args = parser.parse_args()
    device, dtype = "cuda" if cuda else "cpu", getattr(torch, args.dtype)
    sync = torch.cuda.synchronize if cuda else lambda: None
    print(f"{torch.cuda.get_device_name() if cuda else 'CPU'}, torch {torch.__version__}, {vars(args)}")

    root = pathlib.Path(__file__).resolve().parent.parent
    bench = [args.bench] if args.bench else ["cargo", "bench", "--quiet", "--bench", "loss", "--"]
    print(f"{'active':>6}  {'loss':<36} {'ms':>9} {'ratio':>7}")
    for percent in [10, 100]:
        torch.manual_seed(0)
        hidden = torch.randn(args.batch, args.seq, args.hidden, device=device, dtype=dtype)
        lm_head = (torch.randn(args.vocab, args.hidden, device=device) * args.hidden**-0.5).to(dtype)
        labels = torch.randint(args.vocab, (args.batch, args.seq), device=device)
        weights = (torch.rand(args.batch, args.seq, device=device) * 100 < percent).float()
        labels[weights == 0] = IGNORE_INDEX
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/tensors.safetensors"
            save(path, {"hidden": hidden, "lm_head": lm_head, "labels": labels, "weights": weights})
            output = subprocess.run([*bench, "on", path], cwd=root, check=True, capture_output=True, text=True).stdout
        rows = dict(line.split("\t") for line in output.splitlines() if "\t" in line)
        ours = float(rows.pop("loss"))
        rows = {name: float(ms) for name, ms in rows.items()}
        inputs = [hidden.requires_grad_(), lm_head.requires_grad_()]
        for name, run in others(*inputs, labels):
            try:
                theirs = run().item()
                assert abs(theirs - ours) < TOLERANCE * abs(theirs), f"{name}: {theirs}, but ours is {ours}"
                rows[name] = timed(run, inputs, sync)
            except (RuntimeError, ValueError) as error:  # an unsupported device, or too little memory
                print(f"skipped: {name} ({str(error).splitlines()[0]})")
        for name, ms in rows.items():
            print(f"{percent:>4} %  {name:<36} {ms:>9.2f} {ms / rows[FUSED]:>7.2f}")


if __name__ == "__main__":
    main()
