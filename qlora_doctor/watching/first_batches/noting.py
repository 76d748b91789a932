"""What a script does with its data before it trains: the functions it maps, the loaders it reads from."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_ROWS = 20_000
"""Rows of a data set up to which the script has all of them."""
KEPT_ROWS = 4_000
"""Rows of a larger one."""
_LIBRARIES = ("site-packages", "dist-packages", "qlora_doctor")


@dataclass
class Noted:
    """Notes of one process.

    Attributes:
        script: its file.
        cells: of a notebook's code, the cell of each line.
        makers: column → the function that wrote it last, in words.
        loaders: that were iterated, the last one last.
        begun: how often one was begun.
        sampled: True where the script was given a part of a large data set.
        limits: lengths at which the tokenizer was set to cut.
        emptied: the filter that left no row last, in words.
        handed: the first row that a library's function was mapped over: as the trainer is given it.
    """

    script: str
    cells: tuple[int | None, ...] = ()
    makers: dict[str, str] = field(default_factory=dict)
    loaders: list[Any] = field(default_factory=list)
    begun: int = 0
    sampled: bool = False
    limits: set[int] = field(default_factory=set)
    emptied: str | None = None
    handed: dict[str, Any] | None = None

    def place(self, file: str, line: int) -> str:
        """A place of the user's code in words."""
        if self.cells and Path(file) == Path(self.script) and line <= len(self.cells):
            return f"cell {self.cells[line - 1]}"
        return f"{Path(file).name}:{line}"

    def named(self, function: Any) -> str | None:
        """A function or an object that is called, with its place where it is the user's: ``collate (train.py:34)``."""
        if function is None:
            return None
        while isinstance(function, functools.partial):
            function = function.func
        code = _code(function)
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        name = "a lambda" if "<lambda>" in name else name.replace("<locals>.", "")
        if code is None or is_library(code.co_filename):
            return name
        return f"{name} ({self.place(code.co_filename, code.co_firstlineno)})"

    def is_own(self, function: Any) -> bool:
        """Whether a function is the user's."""
        while isinstance(function, functools.partial):
            function = function.func
        code = _code(function)
        return code is not None and not is_library(code.co_filename)


def is_library(file: str) -> bool:
    """Whether code stands in an installed package, or in Python itself."""
    parts = Path(file).parts
    return any(name in parts for name in _LIBRARIES) or file.startswith("<") or "lib/python" in file


def _code(function: Any) -> Any:
    for name in (None, "__func__"):
        found = function if name is None else getattr(function, name, None)
        code = getattr(found, "__code__", None)
        if code is not None:
            return code
    for method in ("torch_call", "__call__"):
        code = getattr(getattr(type(function), method, None), "__code__", None)
        if code is not None and not is_library(code.co_filename):
            return code
    return None


def take_notes(noted: Noted) -> None:
    """Put the notes' hooks on ``datasets`` and on torch's DataLoader, for good."""
    _note_loaders(noted)
    _note_limits(noted)
    try:
        import datasets
    except ImportError:
        return
    datasets.disable_caching()
    for name in ("load_dataset", "load_from_disk"):
        setattr(datasets, name, _bounded(getattr(datasets, name), noted))
    for name in ("map", "filter"):
        setattr(datasets.Dataset, name, _mapped(getattr(datasets.Dataset, name), noted))
    datasets.Dataset.select = _clipped(datasets.Dataset.select, noted)
    datasets.Dataset.train_test_split = _shared(datasets.Dataset.train_test_split, noted)


def _note_loaders(noted: Noted) -> None:
    from torch.utils.data import DataLoader

    plain = DataLoader.__iter__

    @functools.wraps(plain)
    def begin(self: Any) -> Any:
        if self in noted.loaders:
            noted.loaders.remove(self)
        noted.loaders.append(self)
        noted.begun += 1
        return plain(self)

    DataLoader.__iter__ = begin


def _note_limits(noted: Noted) -> None:
    from transformers import PreTrainedTokenizerBase

    plain = PreTrainedTokenizerBase.__call__

    @functools.wraps(plain)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("truncation") not in (None, False, "do_not_truncate"):
            noted.limits.add(kwargs.get("max_length") or self.model_max_length)
        return plain(self, *args, **kwargs)

    PreTrainedTokenizerBase.__call__ = call


def _bounded(plain: Callable[..., Any], noted: Noted) -> Callable[..., Any]:
    """A large data set is handed over as a sample of its rows, in their order."""
    import datasets

    def part(data: Any) -> Any:
        if isinstance(data, datasets.DatasetDict):
            return datasets.DatasetDict({name: part(each) for name, each in data.items()})
        if not isinstance(data, datasets.Dataset) or len(data) <= MOST_ROWS:
            return data
        noted.sampled = True
        return data.select(sorted(random.Random(0).sample(range(len(data)), KEPT_ROWS)))

    @functools.wraps(plain)
    def load(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("num_proc", None)
        return part(plain(*args, **kwargs))

    return load


def _mapped(plain: Callable[..., Any], noted: Noted) -> Callable[..., Any]:
    @functools.wraps(plain)
    def apply(self: Any, function: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs["num_proc"] = None
        made = plain(self, function, *args, **kwargs)
        if plain.__name__ == "filter" and len(self) and not len(made):
            noted.emptied = f"The filter {noted.named(function)} keeps none of the {len(self)} rows it is given."
        if not noted.is_own(function) and noted.handed is None and len(self):
            noted.handed = dict(self[0])
        if noted.is_own(function):
            told = noted.named(function)
            for column in _written(self, made):
                noted.makers[column] = str(told)
        return made

    return apply


def _written(before: Any, after: Any) -> list[str]:
    """Columns that are new, or hold something else in the first row."""
    if not len(after):
        return []
    old = before[0] if len(before) == len(after) and len(before) else {}
    new = after[0]
    return [name for name, value in new.items() if name not in old or not _same(old[name], value)]


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError, TypeError):  # arrays say it element by element
        return False


def _clipped(plain: Callable[..., Any], noted: Noted) -> Callable[..., Any]:
    """Of a sample, ``select(range(10_000))`` takes what there is."""

    @functools.wraps(plain)
    def select(self: Any, indices: Any, *args: Any, **kwargs: Any) -> Any:
        if noted.sampled:
            indices = [index for index in indices if index < len(self)]
        return plain(self, indices, *args, **kwargs)

    return select


def _shared(plain: Callable[..., Any], noted: Noted) -> Callable[..., Any]:
    @functools.wraps(plain)
    def split(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("test_size")
        if noted.sampled and isinstance(asked, int) and asked >= len(self):
            kwargs["test_size"] = 0.1
        return plain(self, *args, **kwargs)

    return split
