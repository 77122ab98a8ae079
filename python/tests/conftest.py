"""What the tests share: the fixtures of the crate, and a tokenizer."""

import json
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


@pytest.fixture
def fixtures():
    """The cases of one of the crate's fixtures."""

    def read(name):
        return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]

    return read


@pytest.fixture
def tokenizer_json():
    """A tokenizer of the words in the first embedded records."""
    return FIXTURES / "labels-tokenizer.json"


@pytest.fixture
def records():
    """The embedded records."""
    text = (ROOT / "examples" / "data" / "spa_tiny.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny random model with a tokenizer of words."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    path = str(FIXTURES / "labels-tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=path, eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None, eos_token_id=0,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def finetune():
    """The program that trains with the crate. FIGA_FINETUNE says that it has to be there."""
    if named := os.environ.get("FIGA_FINETUNE"):
        return ROOT / named
    built = [path for path in (ROOT / "target" / kind / "finetune" for kind in ("release", "debug")) if path.exists()]
    if not built:
        pytest.skip("finetune is not built: cargo build -p figa-finetune")
    return built[0]
