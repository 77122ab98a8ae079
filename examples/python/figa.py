"""Train with labels that `figa label` has made, in plain PyTorch.

    figa label pairs.jsonl --tokenizer MODEL --out labels.parquet
    pip install torch datasets transformers
    python3 examples/python/figa.py MODEL labels.parquet

`figa_loss` is the loss of the Rust crate with its default configuration, in eight lines. It computes every row of logits; what
the crate's own loss saves is the work for tokens that weigh nothing.
"""

import sys

import torch
from torch.nn.utils.rnn import pad_sequence


def figa_loss(logits, labels, weights, gate=0.6):
    logits, labels, weights = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), weights[:, 1:].flatten()
    active = (labels != -100) & (weights != 0)
    logits, labels, weights = logits[active], labels[active], weights[active]
    nll = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
    ungated = (weights > 0) | (nll.detach() <= gate)
    loss = torch.where(ungated, weights * nll, 0.0).sum()
    return loss / ungated.sum().clamp(min=1)


def collate(records):
    """Both answers of each record as rows, padded on the right."""
    rows = [(record, side) for record in records for side in ("original", "revised")]

    def column(name, padding, dtype):
        lists = [torch.tensor(record[f"{side}_{name}"], dtype=dtype) for record, side in rows]
        return pad_sequence(lists, batch_first=True, padding_value=padding)

    lengths = torch.tensor([len(record[f"{side}_labels"]) for record, side in rows])
    labels = column("labels", -100, torch.long)
    return {
        "input_ids": column("input_ids", 0, torch.long),
        "attention_mask": torch.arange(labels.shape[1]) < lengths[:, None],
        "labels": labels,
        "weights": column("weights", 0.0, torch.float),
    }


def main(model, path):
    import datasets
    import transformers

    data = datasets.load_dataset("parquet", data_files=path, split="train")
    model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate)
    for step, batch in enumerate(loader, 1):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = figa_loss(logits, batch["labels"], batch["weights"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"step {step}  loss {loss.item():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
