"""Records, rows and batches."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import figa_loss
from figa_loss import PairEncoder, TokenLabel, collate, pack

SIDES = ("original", "revised")


@pytest.fixture
def encoder(tokenizer_json):
    return PairEncoder(tokenizer_json, eos_token="</s>", prompt="plain")


def as_lists(rows):
    return {name: np.asarray(values).tolist() for name, values in rows.items()}


def figa(*arguments):
    return subprocess.run([sys.executable, "-m", "figa_loss", *map(str, arguments)], capture_output=True, text=True)


def test_rows_are_those_of_the_command(encoder, tokenizer_json, records, tmp_path):
    pairs, labels = tmp_path / "pairs.jsonl", tmp_path / "labels.jsonl"
    pairs.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = figa("label", pairs, "--tokenizer", tokenizer_json, "--eos", "</s>", "--prompt", "plain", "--out", labels)
    assert run.returncode == 0, run.stderr
    expected = [json.loads(line) for line in labels.read_text().splitlines()]
    assert len(expected) == len(records) == 252
    for record, row in zip(records, expected, strict=True):
        rows = encoder.encode(record)
        assert [values.dtype for values in rows.values()] == ["int64", "int64", "float32"] * 2
        assert row.keys() - {"record"} == rows.keys()
        # A file has as many digits as an f32 needs.
        assert all(np.array_equal(values, np.asarray(row[name], values.dtype)) for name, values in rows.items())


def test_the_command_fails_as_figa_does(tmp_path):
    run = figa("show", tmp_path / "none.jsonl")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert figa("stats").returncode == 2
    assert figa("--version").stdout == f"figa {figa_loss.__version__}\n"


def test_batches_of_any_kind_have_the_rows_of_their_records(encoder, records):
    pa = pytest.importorskip("pyarrow")
    expected = [as_lists(encoder.encode(record)) for record in records]
    table = pa.Table.from_pylist(records)
    rows = encoder.encode_batch(table)
    assert rows.to_pylist() == expected and rows.schema == encoder.schema
    assert encoder.encode_batch(table.to_pydict()).equals(rows)
    batches = encoder.encode_batch(iter(table.to_batches(max_chunksize=100)))
    batches = list(batches)
    assert [len(batch) for batch in batches] == [100, 100, 52]
    assert pa.Table.from_batches(batches).equals(rows)
    assert encoder.encode_batch(table[:0]).schema == encoder.schema


def test_records_of_other_shapes(tokenizer_json):
    pa = pytest.importorskip("pyarrow")
    fields = {"instruction": "prompt", "original": "data.rejected", "revised": "data.chosen"}
    encoder = PairEncoder(tokenizer_json, eos_token="</s>", prompt="plain", fields=fields)
    user = [{"role": "user", "content": "The apple"}]
    answers = {
        side: user + [{"role": "assistant", "content": text, "tool_calls": None}]
        for side, text in (("rejected", "It is a"), ("chosen", "It is the"))
    }
    record = {"data": answers}
    rows = encoder.encode(record)
    assert rows["revised_weights"].tolist()[-2:] == pytest.approx([1, 0.3])
    assert encoder.encode_batch(pa.Table.from_pylist([record])).to_pylist() == [as_lists(rows)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"instruction": "a", "original_output": "b"}, "record:1:.*`revised_output`"),
        ({"instruction": "a", "original_output": "b", "revised_output": 5}, "record:1: `revised_output` is a number"),
        ({"instruction": "a", "original_output": "b", "revised_output": "\ud800"}, "record:1:"),
    ],
)
def test_a_bad_record_is_one_line(encoder, record, message):
    with pytest.raises(ValueError, match=message) as error:
        encoder.encode(record)
    assert "\n" not in str(error.value)


def test_the_row_of_a_bad_record_is_named(encoder, records):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist([*records[:3], {**records[3], "revised_output": None}])
    with pytest.raises(ValueError, match="batch:4: "):
        encoder.encode_batch(table)
    with pytest.raises(TypeError, match="batch: expected columns"):
        encoder._encoder.encode_batch(pa.array([1]))


def test_token_labels_are_those_of_both_answers(tokenizer_json, records):
    pa = pytest.importorskip("pyarrow")
    encoder = PairEncoder(tokenizer_json, eos_token="</s>", prompt="plain", token_labels=True)
    pairs = [encoder.encode(record) for record in records[:8]]
    for pair in pairs:
        answers = {side: pair[f"{side}_labels"] != -100 for side in SIDES}
        ids = {side: pair[f"{side}_input_ids"][answer] for side, answer in answers.items()}
        expected = figa_loss.label(ids["original"], ids["revised"], encoder.eos_id)
        for side, answer in answers.items():
            token_labels = pair[f"{side}_token_labels"]
            assert token_labels.dtype == "uint8"
            assert token_labels[answer].tolist() == getattr(expected, side).tolist()
            assert (token_labels[~answer] == TokenLabel.IGNORED).all()
    rows = encoder.encode_batch(pa.Table.from_pylist(records[:8]))
    assert rows.schema == encoder.schema and rows.to_pylist() == [as_lists(pair) for pair in pairs]
    batch = collate(pairs)
    assert batch["token_labels"].shape == batch["labels"].shape
    assert (batch["token_labels"][batch["labels"] == -100] == 0).all()
    kept = (batch["token_labels"] == TokenLabel.KEPT).sum()
    assert kept == sum((pair[f"{side}_token_labels"] == TokenLabel.KEPT).sum() for pair in pairs for side in SIDES) > 0


def test_bad_records_are_skipped_and_reported(tokenizer_json, records, caplog):
    pa = pytest.importorskip("pyarrow")
    encoder = PairEncoder(tokenizer_json, eos_token="</s>", prompt="plain", skip_bad=True)
    bad = {**records[3], "revised_output": None}
    rows = encoder.encode_batch(pa.Table.from_pylist([records[0], bad, records[1], bad]))
    assert rows.to_pylist() == [as_lists(encoder.encode(record)) for record in records[:2]]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.count("skipped 2 of 4 records, the first: batch:2: ") == 1
    rows = encoder.encode_batch(pa.Table.from_pylist([bad]))
    assert len(rows) == 0 and rows.schema == encoder.schema
    with pytest.raises(ValueError, match="record:1: "):
        encoder.encode(bad)


def test_settings_that_do_not_fit_are_named(tokenizer_json, tmp_path):
    for options, message in [
        ({}, "names no eos_token"),
        ({"eos_token": "<end>"}, 'has no token "<end>"'),
        ({"eos_token": "</s>", "prompt": "chat"}, "prompt: the model has no chat template"),
        ({"eos_token": "</s>", "prompt": "none"}, "prompt: expected chat, alpaca, plain or verbatim"),
        ({"eos_token": "</s>", "fields": {"chosen": "a"}}, "fields: expected instruction"),
        ({"eos_token": "</s>", "alpha": float("nan")}, "weights.alpha: expected a finite number"),
    ]:
        with pytest.raises(ValueError, match=message):
            PairEncoder(tokenizer_json, **options)
    with pytest.raises(OSError, match="none"):
        PairEncoder(tmp_path / "none")


def test_an_encoder_can_be_pickled(encoder, records):
    again = pickle.loads(pickle.dumps(encoder))
    assert as_lists(again.encode(records[0])) == as_lists(encoder.encode(records[0]))
    assert again.eos_id == encoder.eos_id == 0


def test_a_tokenizer_of_transformers_gives_the_rows_of_its_folder(tokenizer_json, records, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json), eos_token="</s>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} </s>{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path)
    rows = [as_lists(PairEncoder(model).encode(records[0])) for model in (tokenizer, tmp_path)]
    assert rows[0] == rows[1]
    again = pickle.loads(pickle.dumps(PairEncoder(tokenizer)))
    assert as_lists(again.encode(records[0])) == rows[0]


def test_collated_rows_are_padded_on_the_right(encoder, records):
    pairs = [encoder.encode(record) for record in records[:3]]
    batch = collate(pairs, pad_id=7)
    rows = [(pair, side) for pair in pairs for side in SIDES]
    for at, (pair, side) in enumerate(rows):
        length = len(pair[f"{side}_labels"])
        assert batch["attention_mask"][at].sum() == length
        for name, padding in (("input_ids", 7), ("labels", -100), ("weights", 0)):
            assert batch[name][at, :length].tolist() == pair[f"{side}_{name}"].tolist()
            assert (batch[name][at, length:] == padding).all()
    assert collate([])["input_ids"].shape == (0, 0)
    with pytest.raises(ValueError, match="pairs: expected the columns of PairEncoder, got a pair without original_input_ids"):
        collate([{}])


def test_packed_rows_hold_each_active_token_once(encoder, records):
    pairs = [encoder.encode(record) for record in records[:3]]
    rows, packed = collate(pairs), pack(pairs)
    active = (rows["labels"] != -100) & (rows["weights"] != 0)
    needed = packed["outputs"] >= 0
    assert sorted(packed["labels"][needed]) == sorted(rows["labels"][active])
    assert packed["input_ids"].shape == packed["position_ids"].shape == packed["visible_until"].shape
    assert packed["input_ids"].size < rows["input_ids"].size / 2 + 60
    assert packed["sequences"].tolist() == sorted(packed["sequences"]) and packed["sequences"].max() == 5
