"""What the tests share: the fixtures of the crate, and a tokenizer."""

import json
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
