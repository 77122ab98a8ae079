"""Two sequences, against the fixture of the crate, python-Levenshtein and RapidFuzz."""

import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import figa_loss
from figa_loss import Aligner, TokenLabel, align, distance, editops, label, label_batch

TAGS = ["replace", "insert", "delete"]


def test_scripts_are_those_of_the_fixture(fixtures):
    cases = fixtures("editops.jsonl")
    assert len(cases) > 3000
    for case in cases:
        expected = [(TAGS[tag], i, j) for tag, i, j in case["ops"]]
        source, dest = case["source"], case["dest"]
        assert editops(source, dest) == expected
        assert distance(source, dest) == len(expected)
        if all(isinstance(item, int) for item in source + dest):
            for dtype in (np.int64, np.int32, np.uint16):
                assert editops(np.array(source, dtype), np.array(dest, dtype)) == expected


def random_pairs(count):
    rng = random.Random(7)
    for _ in range(count):
        alphabet = rng.choice([2, 30, 30_000])
        source = [rng.randrange(alphabet) for _ in range(rng.randrange(200))]
        dest = [item for item in source if rng.random() < 0.9]
        for _ in range(rng.randrange(10)):
            dest.insert(rng.randrange(len(dest) + 1), rng.randrange(alphabet))
        yield source, dest


def test_scripts_are_those_of_python_levenshtein():
    levenshtein = pytest.importorskip("Levenshtein")
    for source, dest in random_pairs(300):
        assert editops(source, dest) == levenshtein.editops(source, dest)
        texts = ["".join(chr(0x4E00 + item % 20_000) for item in items) for items in (source, dest)]
        assert editops(*texts) == levenshtein.editops(*texts)


def test_scripts_and_distances_are_those_of_rapidfuzz():
    rapidfuzz = pytest.importorskip("rapidfuzz.distance").Levenshtein
    for source, dest in random_pairs(300):
        assert editops(source, dest) == rapidfuzz.editops(source, dest).as_list()
        assert distance(source, dest) == rapidfuzz.distance(source, dest)


@pytest.mark.parametrize("convert", [list, tuple, np.array, lambda items: np.array(items + [9])[:-1][::1], bytes])
def test_sequences_of_any_kind(convert):
    assert editops(convert([5, 6, 7]), convert([5, 8, 7, 9])) == [("replace", 1, 1), ("insert", 3, 3)]


def test_sequences_of_different_kinds():
    source, dest = np.array([5, 6, 7, 7])[::2], [5, 8]
    assert editops(source, dest) == [("replace", 1, 1)]
    assert editops(np.array([5, 6], np.int32), np.array([5, 6])) == []
    assert editops(["a", ("b", 1), None], "ab") == [("replace", 1, 1), ("delete", 2, 2)]


def test_a_tensor_is_read_as_an_array():
    torch = pytest.importorskip("torch")
    assert editops(torch.tensor([5, 6]), torch.tensor([6])) == [("delete", 0, 0)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2), int), r"source: expected a 1-D array of integers, got int64 \[2, 2\]"),
        (np.zeros(2), r"source: expected a 1-D array of integers, got float64 \[2\]"),
        (5, "source: expected a sequence of tokens, got int"),
        ([[1], [2]], "unhashable type: 'list'"),
    ],
)
def test_what_is_no_sequence_of_tokens_is_named(source, message):
    with pytest.raises(TypeError, match=message):
        editops(source, [1])


def test_alignments():
    alignment = align([5, 6, 7, 0], [5, 8, 7, 9, 0])
    assert alignment.removed.dtype == alignment.added.dtype == bool
    assert alignment.removed.tolist() == [False, True, False, False]
    assert alignment.added.tolist() == [False, True, False, True, False]
    assert alignment.spans == [("replace", 1, 2, 1, 2), ("insert", 3, 3, 3, 4)]


def test_aligners_and_granularities():
    assert [aligner.value for aligner in Aligner] == figa_loss._core.ALIGNERS
    # Levenshtein substitutes where halves trade places, and a diff keeps one of them.
    assert align("abxcd", "cdyab").removed.sum() == 5
    for aligner in list(Aligner)[1:]:
        assert align("abxcd", "cdyab", aligner=aligner).removed.sum() == 3
    words = {"original_words": [0, 0, 1], "revised_words": [0, 1]}
    widened = align(["un", "happy", "man"], ["happy", "man"], granularity="word", **words)
    assert widened.removed.tolist() == [True, True, False]
    assert align("abcd", "xbyd", granularity="phrase:1").removed.tolist() == [True, True, True, False]
    for options, message in [
        ({"aligner": "best"}, "aligner: expected levenshtein, myers, patience, histogram or hunt, got \"best\""),
        ({"granularity": "line"}, "granularity: expected token, word or phrase:N, got \"line\""),
        ({"granularity": "word"}, "granularity: word needs original_words and revised_words"),
        ({"granularity": "word", "original_words": [0] * 4, "revised_words": [0]}, "original_words: expected at most one"),
    ]:
        with pytest.raises(ValueError, match=message):
            align("abc", "abd", **options)


def test_labels_and_weights():
    labels = label([5, 6, 7, 0], [5, 8, 7, 9, 0], 0)
    names = [TokenLabel(number).name for number in labels.revised]
    assert names == ["KEPT", "SUBSTITUTED", "KEPT", "INSERTED", "EOS"]
    assert labels.original_weights.tolist() == [0, -0.5, 0, 0]
    assert np.allclose(labels.revised_weights, [0.3, 1, 0.3, 1, 0.3])
    paper = label([5, 6, 7, 0], [5, 8, 7, 9, 0], 0, weights="paper")
    assert paper.revised_weights.tolist() == [0, 1, 0, 1, 1]
    assert labels.revised_weights.dtype == np.float32
    others = label([5, 6, 7, 0], [5, 8, 7, 9, 0], None, alpha=2, beta=0.25, gamma=0.1)
    assert others.original_weights.tolist() == [0, -0.25, 0, 0]
    assert np.allclose(others.revised_weights, [0.1, 2, 0.1, 2, 0.1])
    weighed = label([5, 0], [6, 0], 0, weights="paper", eos_weight=0.25)
    assert weighed.revised_weights.tolist() == [1, 0.25] and weighed.original_weights.tolist() == [-0.5, 0]
    assert label(["a", "</s>"], ["b", "</s>"], "</s>").revised.tolist() == [4, 5]
    assert label("ab.", "cb.", ".").revised.tolist() == [4, 1, 5]
    with pytest.raises(ValueError, match="weights.beta: expected a finite number >= 0, got -1"):
        label([1], [2], None, beta=-1)
    with pytest.raises(ValueError, match='weights: expected "default" or "paper", got "papre"'):
        label([1], [2], None, weights="papre")


def test_columns_are_labelled_as_their_pairs_are():
    pa = pytest.importorskip("pyarrow")
    pairs = list(random_pairs(200)) + [([], []), ([1], [])]
    originals, reviseds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for original, revised in [
        (pa.array(originals), pa.array(reviseds)),
        (pa.array([[7]] + originals)[1:], pa.array(reviseds, pa.large_list(pa.int32()))),
        (pa.chunked_array([originals[:50], originals[50:]]), pa.chunked_array([reviseds])),
    ]:
        batch = label_batch(original, revised, 3, beta=0.25)
        assert batch.schema.names == [
            "original_token_labels", "revised_token_labels", "original_weights", "revised_weights",
        ]
        for at, pair in enumerate(pairs):
            expected = [list(column) for column in label(*pair, 3, beta=0.25)]
            assert [column[at].as_py() for column in batch.columns] == expected


@pytest.mark.parametrize(
    ("original", "error", "message"),
    [
        ([[1], [2]], ValueError, "revised: expected 2 lists, as in original, got 1"),
        ([[1, None]], ValueError, "original: expected lists of integers, got null"),
        ([[1], None], ValueError, "original: expected lists of integers, got null"),
        ([["a"]], TypeError, "original: expected a column of lists of integers, got List"),
        ([1], TypeError, "original: expected a column of lists of integers, got Int64"),
    ],
)
def test_columns_that_cannot_be_labelled(original, error, message):
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(error, match=message):
        label_batch(pa.array(original), pa.array([[1]]), None)
    with pytest.raises(TypeError, match="original: expected Arrow data, such as pyarrow.array"):
        label_batch([[1]], pa.array([[1]]), None)


LONG_CALLS = {
    "one pair": "figa_loss.distance(*numpy.random.randint(0, 4, (2, 1_000_000)))",
    "many pairs": "figa_loss.label_batch(*[pyarrow.array(list(numpy.random.randint(0, 4, (2000, 10_000)))) "
    "for _ in range(2)], None)",
}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("call", LONG_CALLS)
def test_ctrl_c_ends_a_long_call(call):
    pytest.importorskip("pyarrow")
    script = f"""
        import os, signal, figa_loss, numpy, pyarrow
        # A shell makes programs in the background ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("started", flush=True)
        try:
            {LONG_CALLS[call]}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(0)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    # The work itself would take minutes.
    assert process.communicate(timeout=20)[0] == "interrupted\n"
