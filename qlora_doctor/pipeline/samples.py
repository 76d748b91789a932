"""Rows of the config's data, read through the datasets library: JSONL, JSON, CSV, Parquet, a folder, or the cache."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.errors import StageError
from ..setup.paths import resolve, train_data
from ..setup.resolved import Taken
from ..setup.setup import ONLINE, SUPERVISED, Setup
from .failures import first_sentence
from .forms.files import builder_of, chosen, files_below, not_at_hand, of_table, read_files, suffix_of

NOT_AT_HAND = "not-at-hand"
"""The kind of error of data that only the hub has: nothing is known of them, good or bad."""
DataFormat = Literal[
    "text", "prompt-completion", "messages", "preference", "unpaired-preference", "prompt-only", "tokens"
]
_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "tokens": ("input_ids",),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "unpaired-preference": ("prompt", "completion", "label"),
    "prompt-only": ("prompt",),
}
_FORMAT_OF_METHOD: dict[str, DataFormat] = {
    **dict.fromkeys(("dpo", "ipo", "orpo", "cpo", "simpo", "reward", "rm"), "preference"),
    **dict.fromkeys(("kto", "bco"), "unpaired-preference"),
    **dict.fromkeys(("grpo", "gdpo", "rloo", "ppo", *ONLINE), "prompt-only"),
}
"""What TRL's trainer of each method takes (docs/source/dataset_formats.md)."""
_LIKE_SUPERVISED = (*SUPERVISED, "gkd", "gold", "minillm")
_SCANNED = 20_000
"""Rows of a table of text that are read, of which the sample is taken."""
_CHATML = {"from": "role", "value": "content"}
COMPARED: tuple[DataFormat, ...] = ("preference", "unpaired-preference", "prompt-only")
"""Formats of methods that compare answers: their trainers have no labels of tokens."""


@dataclass(frozen=True)
class Samples:
    """The first rows of the data.

    Attributes:
        rows: as many as were asked for, or all there are.
        columns: names in the order of the file.
        format: as the setup says, or as the columns show.
        text_field: the column that holds the text; only for format ``text``.
        source: the file, folder or hub id.
    """

    rows: list[dict[str, Any]]
    columns: list[str]
    format: DataFormat
    text_field: str
    source: str

    @property
    def trained_columns(self) -> tuple[str, ...]:
        """The columns that training reads."""
        return _COLUMNS.get(self.format, (self.text_field,))

    def supervised(self) -> Samples:
        """The same rows as supervised fine-tuning takes them: the better answer of a pair, the prompt of a prompt."""
        if self.format not in COMPARED:
            return self
        rows = [_supervised(row) for row in self.rows]
        kind: DataFormat = "prompt-completion" if "completion" in rows[0] else "messages"
        if "text" in rows[0]:
            kind = "text"
        return Samples(rows, list(rows[0]), kind, "text", self.source)


def read_samples(setup: Setup, rows: int) -> Samples:
    """The first rows of ``data.train``. Files stream: the rest of a large file is not read, nothing is cached.

    Raises:
        StageError: kind ``missing-file`` (no such data) or ``other`` (unreadable, empty, or a column is missing).
    """
    return _samples(setup, _first_rows(setup, rows))


def sample_rows(setup: Setup, rows: int) -> Samples:
    """A sample of ``data.train`` with a fixed seed, in the order of the file, the longest rows that were read among it.

    Of a large file a part is read. What is on the hub and not in its cache gives its first rows.

    Raises:
        StageError: as ``read_samples``.
    """
    first = _first_rows(setup, rows)  # the datasets library tells what it cannot read
    if len(first) < rows:
        return _samples(setup, first)
    path = resolve(setup, train_data(setup)[0])
    if path is None:
        return _samples(setup, first)
    files = files_below(path, "train")
    if any(builder_of(file) == "csv" for file in files):
        # Which columns are numbers the library decides, so its own rows are taken, as many as are read at once.
        numbered: list[tuple[int | None, dict[str, Any]]] = list(enumerate(_first_rows(setup, _SCANNED)))
        return _samples(setup, [row for _, row in chosen(numbered, rows)])
    if path.is_dir() and (path / "state.json").is_file():
        from datasets import load_from_disk

        found = [row for _, row in of_table(load_from_disk(str(path)), rows)]
    else:
        try:
            read = read_files(files, rows)
        except StageError as error:
            if "not sampled" in error.message or "no part can be read" in error.message:
                return _samples(setup, first)
            raise
        found = [{name: row.get(name) for name in read.columns} for _, row in read.rows]
    return _samples(setup, found)


def _first_rows(setup: Setup, rows: int) -> list[dict[str, Any]]:
    name = setup.data.train or ""
    try:
        import datasets
    except ImportError as error:
        raise StageError(
            "Reading the data needs the datasets library, which is not installed.",
            remedy="pip install 'qlora-doctor[data]'",
        ) from error
    quiet = datasets.utils.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()
    try:
        found = list(itertools.islice(_open(setup), rows))
    except StageError:
        raise
    except StopIteration:  # the datasets library's answer to a JSON file without a row
        found = []
    except Exception as error:
        # A data set that is in the cache may lack a split or a column all the same: that is an answer.
        missing = isinstance(error, FileNotFoundError) or "Couldn't find" in str(error)
        unreached = isinstance(error, ConnectionError) or (_is_offline() and missing)
        if resolve(setup, name) is None and unreached:
            raise StageError(
                not_at_hand(name, error),
                kind=NOT_AT_HAND,
                remedy="Load the data once with a network, or name a file.",
                place=setup.place("data.train"),
            ) from error
        raise StageError(
            f"The data {name!r} cannot be read: {first_sentence(error)}",
            remedy="Repair the file; JSON Lines, JSON, CSV and Parquet are read.",
            place=setup.place("data.train"),
        ) from error
    finally:
        quiet.set_verbosity(level)
    if not found:
        raise StageError(f"The data {name!r} is empty.", place=setup.place("data.train"))
    return found


def _samples(setup: Setup, found: list[dict[str, Any]]) -> Samples:
    """Rows with what they are, by the setup or by their columns."""
    name = setup.data.train or ""
    found = [_in_messages(row) for row in found] if Taken(setup).trainer == "trl" else found
    columns = list(found[0])
    kind = _format(setup, columns)
    text_field = setup.data.text_field or Taken(setup)["training.dataset_text_field"]
    missing = [c for c in _COLUMNS.get(kind, (text_field,)) if c not in columns]
    if missing and kind in COMPARED and setup.data.format is None:
        raise StageError(
            f"{str(setup.training.method).upper()} takes the columns {', '.join(_COLUMNS[kind])}, and the data has "
            f"{', '.join(columns)}.",
            remedy="Name the columns as the trainer of this method takes them.",
            place=setup.place("data"),
        )
    if missing:
        raise StageError(
            f"The data has no column {missing[0]!r}; its columns are {', '.join(columns)}.",
            remedy="Set data.format and data.text_field to what the file holds.",
            place=setup.place("data"),
        )
    if kind == "unpaired-preference":
        _refuse_other_than_true_and_false(found, setup)
    _refuse_rows_without(found, _COLUMNS.get(kind, (text_field,)), setup)
    wrong = conversation_column(found[0]) if kind == "messages" else None
    if wrong is not None:
        raise StageError(wrong.why, remedy=wrong.remedy, place=setup.place("data"))
    return Samples(found, columns, kind, text_field, name)


@dataclass(frozen=True)
class NoConversation:
    """What is wrong with a column that should hold messages, and what to do about it."""

    why: str
    remedy: str


_CONVERSATIONS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")


def conversation_column(row: Mapping[str, Any]) -> NoConversation | None:
    """What is wrong with a row's messages: JSON as text, or messages without role and content; None where nothing is.

    ``prompt`` and its like may be plain text; ``messages`` may not.
    """
    for name in _CONVERSATIONS:
        value = row.get(name)
        if is_conversation_as_text(value):
            return NoConversation(
                f"The column {name!r} holds a conversation as JSON text, and the trainer takes a list of messages.",
                f"Turn the text into a list first: row[{name!r}] = json.loads(row[{name!r}]).",
            )
        if name != "messages":
            continue
        if isinstance(value, str):
            return NoConversation(
                "The column 'messages' holds text, and the trainer takes a list of messages with role and content.",
                "Give each row a list of messages, or name the column that holds text.",
            )
        odd = next((each for each in value or () if not isinstance(each, Mapping) or "role" not in each), None)
        if odd is not None:
            has = ", ".join(map(str, odd)) if isinstance(odd, Mapping) else type(odd).__name__
            return NoConversation(
                f"A message of the column 'messages' has {has}, and the trainer takes role and content.",
                "Rename the fields of the messages to role and content.",
            )
    return None


def is_conversation_as_text(value: Any) -> bool:
    """Whether a text is a list of messages, or of turns, as JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return False
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return False
    keys = ({"role", "content"}, {"from", "value"})
    return (
        isinstance(found, list) and bool(found) and any(isinstance(found[0], dict) and k <= set(found[0]) for k in keys)
    )


def _refuse_rows_without(rows: list[dict[str, Any]], needed: tuple[str, ...], setup: Setup) -> None:
    """A column that some rows leave empty: another file, or a part of one, has another name for it.

    Raises:
        StageError: with how many rows, and what these have instead.
    """
    for column in needed:
        without = [row for row in rows if row[column] is None]
        if without:
            others = [name for name, value in without[0].items() if value is not None]
            raise StageError(
                f"{len(without)} of the {len(rows)} rows looked at have nothing in the column {column!r}, where "
                f"training stops; one of them has {', '.join(others) or 'nothing at all'}.",
                remedy=f"Give every row a {column}, or take these rows out.",
                place=setup.place("data"),
            )


def _refuse_other_than_true_and_false(rows: list[dict[str, Any]], setup: Setup) -> None:
    """KTO counts labels as truth: text is none, whatever it says.

    Raises:
        StageError: with the first label that is neither.
    """
    odd = next((row["label"] for row in rows if not isinstance(row["label"], bool) and row["label"] not in (0, 1)), 0)
    if odd != 0:
        raise StageError(
            f"{str(setup.training.method).upper()} takes true or false as the label of an answer, and the data has "
            f"{odd!r}.",
            remedy="Turn the labels into booleans.",
            place=setup.place("data"),
        )


def _in_messages(row: dict[str, Any]) -> dict[str, Any]:
    """``conversations`` of ``from`` and ``value`` as messages, as TRL takes them (data_utils.py)."""
    turns = row.get("conversations")
    if "messages" in row or not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return row
    messages = [
        {_CHATML.get(name, name): value for name, value in turn.items()}
        for turn in turns  # roles stay as they are
    ]
    return {**{name: value for name, value in row.items() if name != "conversations"}, "messages": messages}


def _supervised(row: dict[str, Any]) -> dict[str, Any]:
    prompt, answer = row.get("prompt"), row.get("chosen", row.get("completion"))
    if answer is None:
        answer = prompt
        prompt = None
    if prompt is not None:
        return {"prompt": prompt, "completion": answer}
    return {"messages": answer} if isinstance(answer, list) else {"text": str(answer)}


def form_is_known(setup: Setup) -> bool:
    """Whether it is known what columns the setup's method takes."""
    method = setup.training.method
    return setup.data.format is not None or method in _LIKE_SUPERVISED or method in _FORMAT_OF_METHOD


def _format(setup: Setup, columns: list[str]) -> DataFormat:
    """As the setup says, else by the columns, as trl tells them apart."""
    if setup.data.format is not None:
        return setup.data.format
    pairs = {"chosen", "rejected"} <= set(columns)
    asked = _FORMAT_OF_METHOD.get(str(setup.training.method))
    if asked is not None:  # KTO takes pairs as well, and takes them apart
        return "preference" if asked == "unpaired-preference" and pairs else asked
    if setup.is_unknown("training.method"):
        if pairs:
            return "preference"
        if "prompt" in columns and "completion" not in columns:
            return "prompt-only"
    if "input_ids" in columns:
        return "tokens"
    if "messages" in columns:
        return "messages"
    if {"prompt", "completion"} <= set(columns):
        return "prompt-completion"
    return "text"


def _is_offline() -> bool:
    """Whether the hub's libraries are set to stay off the network."""
    import datasets
    import huggingface_hub

    return bool(datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE)


def _open(setup: Setup) -> Any:
    """An iterable of rows."""
    from datasets import load_dataset, load_from_disk

    name, subset, _ = train_data(setup)
    path = resolve(setup, name)
    if path is None:
        if builder_of(Path(name)) is not None or name.startswith((".", "/", "~")):
            raise StageError(
                f"There is no file {name!r}.",
                kind="missing-file",
                remedy="Correct the path; it is read relative to the config file.",
                place=setup.place("data.train"),
            )
        # Offline from the cache alone; otherwise a few hundred rows come over the network, and not the whole set.
        return load_dataset(name, subset, split="train", streaming=not _is_offline())
    if (path / "state.json").is_file():
        return load_from_disk(str(path))
    files = files_below(path, "train")
    builders = {builder_of(f) for f in files}
    if len(builders) != 1 or None in builders:
        raise StageError(
            f"{path} holds no data of one kind that can be read.",
            kind="missing-file",
            remedy="Name a JSON Lines, JSON, CSV or Parquet file, or a folder of such files.",
            place=setup.place("data.train"),
        )
    options: dict[str, Any] = {"sep": "\t"} if suffix_of(files[0]) == ".tsv" else {}
    names = [str(f) for f in files]
    locks = _locks().name
    return load_dataset(builders.pop(), data_files=names, split="train", streaming=True, cache_dir=locks, **options)


@functools.cache
def _locks() -> tempfile.TemporaryDirectory[str]:
    """Where the datasets library leaves a lock for each file that it reads; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True)
