#!/usr/bin/env python3
"""Write a random model of the shape of SmolLM2-135M, its tokenizer, and records in the words of that tokenizer.

    python3 finetune/tests/random_model.py FOLDER

FOLDER gets the folder model, with weights in bf16 that are the same in each run, and pairs.jsonl. Needs nothing but
Python's standard library.
"""

import json
import random
import struct
import sys
from pathlib import Path

SMOL_LM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# What a model of SmolLM2's shape is replaced by on a CPU.
SMALL = {"vocab_size": 400, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
SMALL |= {"num_key_value_heads": 1}
WORDS = ["[UNK]", "<s>", "</s>"] + [f"w{number}" for number in range(3, 40)]
ONE = b"\x80\x3f"
# The upper byte of a number between 2^-7 and 2^-5, positive or negative: 0.02 on average.
SIGNS = bytes(0x3C if byte < 128 else 0xBC for byte in range(256))


def tokenizer() -> dict:
    vocab = {word: number for number, word in enumerate(WORDS)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "added_tokens": [{"id": 2, "content": "</s>", **special}],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }


def record(chance: random.Random) -> dict:
    prompt, answer = (chance.choices(WORDS[3:], k=count) for count in (2, 4))
    revised = [*answer[:1], *chance.choices(WORDS[3:], k=1), *answer[2:]]
    fields = {"instruction": prompt, "original_output": answer, "revised_output": revised}
    return {name: " ".join(words) for name, words in fields.items()}


def shapes(config: dict) -> dict[str, list[int]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    kv = width // config["num_attention_heads"] * config["num_key_value_heads"]
    result = {"model.embed_tokens.weight": [config["vocab_size"], width], "model.norm.weight": [width]}
    for layer in range(config["num_hidden_layers"]):
        block = {
            "self_attn.q_proj": [width, width], "self_attn.k_proj": [kv, width], "self_attn.v_proj": [kv, width],
            "self_attn.o_proj": [width, width], "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width],
            "mlp.down_proj": [width, inner], "input_layernorm": [width], "post_attention_layernorm": [width],
        }  # fmt: skip
        result |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return result


def numbers(chance: random.Random, shape: list[int]) -> bytes:
    """A tensor in bf16: random if it is a matrix, else of ones."""
    if len(shape) == 1:
        return ONE * shape[0]
    size = shape[0] * shape[1]
    result = bytearray(2 * size)
    result[0::2], result[1::2] = chance.randbytes(size), chance.randbytes(size).translate(SIGNS)
    return bytes(result)


def write(folder: Path, config: dict, records: int = 64) -> None:
    chance = random.Random(0)
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text(json.dumps(config))
    (folder / "model/tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record(chance)) + "\n" for _ in range(records)))
    header, end = {}, 0
    for name, shape in shapes(config).items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with open(folder / "model/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in header.values():
            file.write(numbers(chance, tensor["shape"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), SMOL_LM2)
