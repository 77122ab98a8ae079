"""The side of PyTorch in the benchmark of tch-c10d: the same decoder, with DistributedDataParallel.

    cargo bench -p tch-c10d --bench reduce

`reduce.rs` beside it starts this program with the variables of a launcher. It reads what to do from standard input, a line
each, and answers with the seconds.
"""

import argparse
import contextlib
import sys
import time

import torch
import torch.nn.functional as F
from torch import distributed, nn

VOCABULARY, HIDDEN, HEADS, KV_HEADS, FEED_FORWARD = 49152, 576, 9, 3, 1536
HEAD = HIDDEN // HEADS
SEQUENCES, TOKENS = 2, 128


class Decoder(nn.Module):
    def __init__(self, layers: int):
        super().__init__()
        kv = KV_HEADS * HEAD
        matrices = [(HIDDEN, HIDDEN), (kv, HIDDEN), (kv, HIDDEN), (HIDDEN, HIDDEN)]
        matrices += [(FEED_FORWARD, HIDDEN), (FEED_FORWARD, HIDDEN), (HIDDEN, FEED_FORWARD)]
        shapes = [(VOCABULARY, HIDDEN), *([(HIDDEN,), (HIDDEN,), *matrices] * layers), (HIDDEN,)]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedding, *rest, last = self.weights
        heads = lambda tensor: tensor.view(SEQUENCES, TOKENS, -1, HEAD).transpose(1, 2)
        norm = lambda tensor, weight: F.rms_norm(tensor, (HIDDEN,), weight, 1e-5)
        hidden = F.embedding(ids, embedding)
        for first in range(0, len(rest), 9):
            norm_1, norm_2, query, key, value, output, gate, up, down = rest[first : first + 9]
            normed = norm(hidden, norm_1)
            query, key, value = (heads(F.linear(normed, weight)) for weight in (query, key, value))
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            hidden = hidden + F.linear(mixed.transpose(1, 2).reshape(SEQUENCES, TOKENS, HIDDEN), output)
            normed = norm(hidden, norm_2)
            hidden = hidden + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)
        return F.cross_entropy(F.linear(norm(hidden, last), embedding).view(-1, VOCABULARY), ids.view(-1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, required=True)
    layers = parser.parse_args().layers
    torch.set_num_threads(1)
    torch.manual_seed(1)
    distributed.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(Decoder(layers))
    ids = torch.randint(VOCABULARY, (SEQUENCES, TOKENS))
    for line in sys.stdin:
        distributed.barrier()
        start = time.perf_counter()
        with model.no_sync() if line.strip() == "step" else contextlib.nullcontext():
            model(ids).backward()
        print(time.perf_counter() - start, flush=True)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()


main()
