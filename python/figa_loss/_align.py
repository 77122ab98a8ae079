"""Two sequences: edit scripts, alignments, labels and weights."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from . import _core

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow

    # An array of integers, a text, or a list of anything that can be hashed.
    Tokens = npt.NDArray[np.integer] | Sequence[Hashable]

Tag = Literal["replace", "insert", "delete"]


class Aligner(Enum):
    """How to find the changes; a value, such as `"myers"`, will do as well. For most users, the default, `LEVENSHTEIN`.

    Where whole paragraphs move, Levenshtein would substitute almost every token of them: take one of the diffs then.
    They only insert and delete. `MYERS` is minimal in that sense; `PATIENCE` and `HISTOGRAM` anchor on rare tokens, and
    `HUNT` is the longest common subsequence over matching positions.
    """

    LEVENSHTEIN = "levenshtein"
    MYERS = "myers"
    PATIENCE = "patience"
    HISTOGRAM = "histogram"
    HUNT = "hunt"


class TokenLabel(IntEnum):
    """What the revision did to a token."""

    IGNORED = 0
    """Part of the prompt."""
    KEPT = 1
    """The same token on both sides."""
    INSERTED = 2
    """A revised token where the original has none."""
    DELETED = 3
    """An original token where the revision has none."""
    SUBSTITUTED = 4
    """A token that was replaced (original side), or that replaced it (revised side)."""
    EOS = 5
    """The first end-of-sequence token of an answer, whatever the alignment says about it."""


class Span(NamedTuple):
    """A run of edits of one kind: `original[original_start:original_end]` became `revised[revised_start:revised_end]`.

    The order of the fields is that of `difflib.SequenceMatcher.get_opcodes`, without what is equal.
    """

    tag: Tag
    original_start: int
    original_end: int
    revised_start: int
    revised_end: int


class Alignment(NamedTuple):
    """The changes between two sequences. What neither mask marks is the same on both sides, in the same order."""

    removed: npt.NDArray[np.bool_]
    """`[len(original)]`: deleted or substituted."""
    added: npt.NDArray[np.bool_]
    """`[len(revised)]`: inserted, or in the place of another."""
    spans: list[Span]
    """The changes in order."""


class Labels(NamedTuple):
    """The labels and weights of two answers, an entry for each token."""

    original: npt.NDArray[np.uint8]
    """`[len(original)]`: a `TokenLabel` each."""
    revised: npt.NDArray[np.uint8]
    """`[len(revised)]`: a `TokenLabel` each."""
    original_weights: npt.NDArray[np.float32]
    """`[len(original)]`: `-beta` for removed tokens, else 0."""
    revised_weights: npt.NDArray[np.float32]
    """`[len(revised)]`: `alpha` for added tokens, `gamma` for kept ones, `eos_weight` for EOS."""


def editops(source: Tokens, dest: Tokens) -> list[tuple[Tag, int, int]]:
    """The shortest edit script from `source` to `dest`, as `Levenshtein.editops` of python-Levenshtein returns it.

    Arrays of int64 and int32 are read in place; lists, texts and tensors on the CPU will do as well.

    >>> editops([5, 6, 7], [5, 8, 7, 9])
    [('replace', 1, 1), ('insert', 3, 3)]
    >>> editops("colour", "color")
    [('delete', 4, 4)]
    """
    return _core.editops(source, dest)  # type: ignore[return-value]


def distance(source: Tokens, dest: Tokens) -> int:
    """How many insertions, deletions and substitutions turn `source` into `dest`.

    >>> distance("kitten", "sitting")
    3
    """
    return _core.distance(source, dest)


def align(
    original: Tokens,
    revised: Tokens,
    *,
    aligner: Aligner | str = Aligner.LEVENSHTEIN,
    granularity: str = "token",
    original_words: Sequence[int | None] | None = None,
    revised_words: Sequence[int | None] | None = None,
) -> Alignment:
    """Which tokens the revision changed.

    `granularity` is what counts as one change: `"token"`; `"word"`, where a word with a changed token counts as changed
    throughout; `"phrase:N"`, where changes with at most N kept tokens between them join. Words need the number of each
    token's word, as `word_ids()` of a tokenizer's encoding returns them.

    >>> alignment = align(["the", "cat", "sat"], ["the", "dog", "sat", "down"])
    >>> alignment.removed.tolist(), alignment.added.tolist()
    ([False, True, False], [False, True, False, True])
    >>> alignment.spans[0]
    Span(tag='replace', original_start=1, original_end=2, revised_start=1, revised_end=2)
    """
    method = _method(aligner, granularity, original_words, revised_words)
    removed, added, spans = _core.align(original, revised, method)
    return Alignment(removed, added, [Span(*span) for span in spans])  # type: ignore[arg-type]


def label(
    original: Tokens,
    revised: Tokens,
    eos: Any,
    *,
    weights: Literal["default", "paper"] = "default",
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    eos_weight: float | None = None,
    aligner: Aligner | str = Aligner.LEVENSHTEIN,
    granularity: str = "token",
    original_words: Sequence[int | None] | None = None,
    revised_words: Sequence[int | None] | None = None,
) -> Labels:
    """What the revision did to each token, and its signed weight.

    `eos` is the token that ends an answer, `None` if there is none. `weights` names what the changes weigh: `"default"` is
    `alpha` 1 (reward of added tokens), `beta` 0.5 (penalty of removed tokens), `gamma` 0.3 (reward of kept tokens) and
    `eos_weight` 0.3 (reward of the revised answer's EOS), `"paper"` is 1, 0.5, 0 and 1. Each can be given by itself. See
    `align` for the rest.

    >>> labels = label([5, 6, 7, 0], [5, 8, 7, 0], eos=0)
    >>> labels.original_weights, labels.revised_weights
    (array([ 0. , -0.5,  0. ,  0. ], dtype=float32), array([0.3, 1. , 0.3, 0.3], dtype=float32))
    >>> TokenLabel(labels.revised[1]).name
    'SUBSTITUTED'
    """
    method = _method(aligner, granularity, original_words, revised_words)
    return Labels(*_core.label(original, revised, eos, method, (weights, alpha, beta, gamma, eos_weight)))


def label_batch(
    original: pyarrow.Array | pyarrow.ChunkedArray,
    revised: pyarrow.Array | pyarrow.ChunkedArray,
    eos: int | None,
    *,
    weights: Literal["default", "paper"] = "default",
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    eos_weight: float | None = None,
    aligner: Aligner | str = Aligner.LEVENSHTEIN,
    granularity: str = "token",
) -> pyarrow.RecordBatch:
    """`label` for columns of lists of integers, on all cores and without the GIL.

    Returns the columns `original_token_labels`, `revised_token_labels` (lists of uint8), `original_weights` and
    `revised_weights` (lists of float32).

    >>> import pyarrow
    >>> labels = label_batch(pyarrow.array([[5, 6, 0]]), pyarrow.array([[5, 8, 0]]), eos=0)
    >>> labels["original_weights"].to_pylist()
    [[0.0, -0.5, 0.0]]
    """
    import pyarrow

    method, numbers = (_name(aligner), granularity), (weights, alpha, beta, gamma, eos_weight)
    batch = _core.label_batch(_one_chunk(original), _one_chunk(revised), eos, method, numbers)
    return pyarrow.record_batch(batch)


def _one_chunk(column: Any) -> Any:
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        return pyarrow.concat_arrays(column.chunks) if column.num_chunks else pyarrow.array([], column.type)
    return column


def _method(aligner: Aligner | str, granularity: str, original_words: Any, revised_words: Any) -> dict[str, Any]:
    words = {"original_words": original_words, "revised_words": revised_words}
    return {"aligner": _name(aligner), "granularity": granularity, **words}


def _name(aligner: Aligner | str) -> str:
    return aligner.value if isinstance(aligner, Aligner) else aligner
