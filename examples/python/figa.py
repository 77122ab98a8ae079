"""Train a model of `transformers` on pairs of answers, with the FIGA loss fused with the head.

    pip install figa-loss torch datasets transformers
    python3 examples/python/figa.py MODEL pairs.jsonl OUT
    torchrun --nproc-per-node 2 examples/python/figa.py MODEL pairs.jsonl OUT

Under torchrun the model is sharded over the processes with `fully_shard`. The weights are those of one process, up to rounding.
"""

import os
import sys

import datasets
import torch
import torch.distributed as dist
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from figa_loss import PairEncoder, collate
from figa_loss.torch import FigaLoss

PAIRS = 4  # of a step, over all processes


def batches(rows, rank, world):
    """The batches of a process, and the number of active tokens in each step."""
    for start in range(0, len(rows) - PAIRS + 1, PAIRS):
        step = collate([rows[at] for at in range(start, start + PAIRS)])
        active = ((step["labels"] != -100) & (step["weights"] != 0))[:, 1:].sum()
        own = collate([rows[at] for at in range(start + rank, start + PAIRS, world)])
        yield {name: torch.from_numpy(values) for name, values in own.items()}, int(active)


def main(folder, pairs, out):
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    encoder = PairEncoder(folder, max_length=1024)
    records = datasets.load_dataset("json", data_files=pairs, split="train")
    rows = records.map(encoder.encode_batch, batched=True, remove_columns=records.column_names)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)
    for step, (batch, active) in enumerate(batches(rows, rank, world), 1):
        # Of the logits, only those of the last position: the loss computes what it needs.
        output = model(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            output_hidden_states=True,
            logits_to_keep=1,
        )
        # The gradients of all processes are averaged, and each has its share of the step's tokens.
        loss = FigaLoss(reduction=active / world).fused(
            output.hidden_states[-1], model.lm_head, batch["labels"], batch["weights"]
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if rank == 0:
            print(f"step {step}  loss {loss.item():.4f}")
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        model.save_pretrained(out, state_dict=weights)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:4])
