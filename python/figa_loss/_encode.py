"""Records -> rows."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from ._align import Aligner, _name
from ._rows import SIDES

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow

Files = dict[str, bytes]

logger = logging.getLogger("figa_loss")


class PairEncoder:
    """Turns records into rows: token ids, labels and weights of both answers.

    A record holds a prompt, the model's original answer and the revised one, in any shape that the command `figa`
    reads: texts, messages, or conversations that end with the answer. A row is what the model's chat template renders
    for the whole conversation, or else prompt, answer and EOS. It has one entry a token:

    | column | type | |
    |---|---|---|
    | `original_input_ids`, `revised_input_ids` | int64 | the row |
    | `original_labels`, `revised_labels` | int64 | the same id in the answer, -100 in the prompt |
    | `original_weights`, `revised_weights` | float32 | the signed weight of the token |

    Args:
        model: a model's folder, its `tokenizer.json`, or a fast tokenizer of `transformers`.
        fields: names of a record's fields where they differ from `instruction`, `input`, `output`, `original_output`
            and `revised_output`: `{"instruction": "prompt", "original": "rejected", "revised": "chosen"}`. The fields
            `system`, `tools` and `documents` are read only if they are named.
        max_length: rows are cut after this many tokens, after the answers are aligned.
        prompt: `"chat"`, `"alpaca"`, `"plain"` or `"verbatim"`; by default the model's chat template if it has one,
            else Alpaca.
        eos_token: the token that ends an answer where the template does not; by default the one that the model names.
        weights: what the changes weigh: `"default"`, which suits revisions that change a few tokens of an answer, or
            `"paper"`; the next four take the place of their numbers.
        alpha: reward of added tokens: 1.
        beta: penalty of removed tokens: 0.5.
        gamma: reward of the revised answer's kept tokens: 0.3, in the paper 0.
        eos_weight: reward of the revised answer's EOS: 0.3, in the paper 1.
        aligner: see `Aligner`.
        granularity: `"token"`, `"word"` (words of the text) or `"phrase:N"`; see `align`.
        template_name: which of several named chat templates to use.
        template_variables: what the chat template sees, such as `{"enable_thinking": False}`.
        date: the date or time that the chat template sees if it asks for it; by default now.
        drop_reasoning: accept answers whose reasoning the chat template drops.
        max_answer_tokens: an answer of more tokens is an error; 131,072 by default.
        token_labels: also return what the revision did to each token, `TokenLabel` numbers of type uint8:
            `original_token_labels` and `revised_token_labels`. `collate` makes `token_labels [2 * pairs, S]` of them.
        skip_bad: `encode_batch` leaves out bad records instead of raising `ValueError`, and logs a warning that counts
            them and says what is wrong with the first.

    An encoder can be pickled, for workers on this machine or others: the files of the model travel with it.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Any,
        *,
        fields: Mapping[str, str] | None = None,
        max_length: int | None = None,
        prompt: Literal["chat", "alpaca", "plain", "verbatim"] | None = None,
        eos_token: str | None = None,
        weights: Literal["default", "paper"] = "default",
        alpha: float | None = None,
        beta: float | None = None,
        gamma: float | None = None,
        eos_weight: float | None = None,
        aligner: Aligner | str = Aligner.LEVENSHTEIN,
        granularity: str = "token",
        template_name: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        date: str | None = None,
        drop_reasoning: bool = False,
        max_answer_tokens: int | None = None,
        token_labels: bool = False,
        skip_bad: bool = False,
    ) -> None:
        settings = {
            "eos_token": eos_token,
            "prompt": prompt,
            "template_name": template_name,
            "template_variables": json.dumps(dict(template_variables or {})),
            "date": date,
            "drop_reasoning": drop_reasoning,
            "aligner": _name(aligner),
            "granularity": granularity,
            "weights": (weights, alpha, beta, gamma, eos_weight),
            "max_length": max_length,
            "max_answer_tokens": max_answer_tokens,
            "fields": list((fields or {}).items()),
            "token_labels": token_labels,
            "skip_bad": skip_bad,
        }
        self._settings = settings
        self._files: Files | None = None
        if hasattr(model, "save_pretrained"):
            self._files = _saved(model)
            self._encoder = _start(self._files, settings)
        else:
            self._path = os.fspath(model)
            self._encoder = _core.Encoder(self._path, settings)

    def __getstate__(self) -> tuple[Files, dict[str, Any]]:
        files = _read(Path(self._path)) if self._files is None else self._files
        # Workers see the time that this encoder sees.
        return files, {**self._settings, "date": self._encoder.date()}

    def __setstate__(self, state: tuple[Files, dict[str, Any]]) -> None:
        self._files, self._settings = state
        self._encoder = _start(*state)

    @property
    def eos_id(self) -> int:
        """The id of the end-of-sequence token. It also serves as the `pad_id` of `collate` and `pack`."""
        return self._encoder.eos_id()

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns that `encode_batch` returns."""
        import pyarrow

        columns = {"input_ids": pyarrow.int64(), "labels": pyarrow.int64(), "weights": pyarrow.float32()}
        lists = {f"{side}_{name}": kind for side in SIDES for name, kind in columns.items()}
        if self._settings["token_labels"]:
            lists |= {f"{side}_token_labels": pyarrow.uint8() for side in SIDES}
        item = {kind: pyarrow.list_(pyarrow.field("item", kind, nullable=False)) for kind in lists.values()}
        return pyarrow.schema([pyarrow.field(name, item[kind], nullable=False) for name, kind in lists.items()])

    def encode(self, record: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """The rows of a record, each column an array `[tokens]`.

        Raises `ValueError` with one line that says what is wrong with the record.
        """
        return self._encoder.encode(json.dumps(dict(record)))

    def encode_batch(self, batch: Any) -> Any:
        """The rows of many records, on all cores and without the GIL. What comes back has the kind of what is given:

        * a `pyarrow.Table` or a mapping of lists: a table, for `datasets.map(encoder.encode_batch, batched=True)` and
          for `map_batches(encoder.encode_batch, batch_format="pyarrow")` of Ray Data;
        * a `pyarrow.RecordBatch`: a record batch;
        * an iterator of record batches: an iterator, for `mapInArrow(encoder.encode_batch, schema)` of Spark.
        """
        import pyarrow

        if isinstance(batch, pyarrow.RecordBatch):
            rows, skipped = self._encoder.encode_batch(batch)
            if skipped:
                # Not `warnings`, which shows the same text only once.
                logger.warning("skipped %d of %d records, the first: %s", len(skipped), len(batch), skipped[0])
            return pyarrow.record_batch(rows)
        if isinstance(batch, Iterator):
            return map(self.encode_batch, batch)
        table = pyarrow.table(dict(batch) if isinstance(batch, Mapping) else batch)
        batches = table.combine_chunks().to_batches()
        return pyarrow.Table.from_batches(map(self.encode_batch, batches), self.schema)


def _read(path: Path) -> Files:
    """The files of a model's folder that shape its rows, or a tokenizer and the files beside it."""
    folder = path if path.is_dir() else path.parent
    files = {str(Path(file).relative_to(folder)): Path(file).read_bytes() for file in _core.Encoder.files(str(path))}
    if folder != path:
        # It may have another name.
        files["tokenizer.json"] = files.pop(path.name)
    return files


def _saved(tokenizer: Any) -> Files:
    """The files of a tokenizer of `transformers`."""
    if not getattr(tokenizer, "is_fast", True):
        raise TypeError(f"model: expected a fast tokenizer, got {type(tokenizer).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return _read(Path(folder))


def _start(files: Files, settings: dict[str, Any]) -> _core.Encoder:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        return _core.Encoder(folder, settings)
