from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALIGNERS",
    "Batch",
    "Encoder",
    "__version__",
    "align",
    "distance",
    "editops",
    "label",
    "label_batch",
    "pack",
    "run",
]
__version__: str
ALIGNERS: list[str]

_Weights = tuple[str, float | None, float | None, float | None, float | None]

@final
class Batch:
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[Any, Any]: ...

@final
class Encoder:
    def __new__(cls, model: str, settings: Mapping[str, Any]) -> Encoder: ...
    @staticmethod
    def files(model: str) -> list[Any]: ...
    def eos_id(self) -> int: ...
    def date(self) -> str | None: ...
    def encode(self, record: str) -> dict[str, npt.NDArray[Any]]: ...
    def encode_batch(self, batch: Any) -> tuple[Batch, list[str]]: ...

def run(arguments: Sequence[str]) -> int: ...
def editops(source: Any, dest: Any) -> list[tuple[str, int, int]]: ...
def distance(source: Any, dest: Any) -> int: ...
def align(
    original: Any, revised: Any, method: Mapping[str, Any]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], list[tuple[str, int, int, int, int]]]: ...
def label(
    original: Any, revised: Any, eos: Any, method: Mapping[str, Any], weights: _Weights
) -> list[npt.NDArray[Any]]: ...
def label_batch(
    original: Any, revised: Any, eos: int | None, method: tuple[str, str], weights: _Weights
) -> Batch: ...
def pack(groups: Sequence[Sequence[tuple[Any, ...]]], pad_id: int) -> dict[str, Any]: ...
