"""Whatever stands at a key: a reader answers with a Setup or with a sentence, never with a traceback."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.config.conclude import conclude
from qlora_doctor.config.dialects import DIALECTS, dialect_named
from qlora_doctor.config.document import Document, read_document
from qlora_doctor.errors import ConfigError

from .test_readers import CASES, write

ODD: list[Any] = [
    *(None, True, False, 0, -1, 3, 2.5, float("inf"), 10**30, "", "auto", "x", "${A}", "none", "4bit"),
    *([], ["a"], [None], [{}], [[1]], {}, {"a": 1}, {"r": []}),
]


def steps(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for step, value in items:
        yield (*above, step)
        yield from steps(value, (*above, step))


def with_value(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    container = changed
    for step in way[:-1]:
        container = container[step]
    container[way[-1]] = value
    return changed


@pytest.mark.parametrize("case", CASES)
def test_odd_values_do_not_stop_a_reader(case: str, tmp_path: Path) -> None:
    name, text, _, _ = CASES[case]
    document = read_document(write(tmp_path, name, text))
    dialect = dialect_named(case.removesuffix(" board"))
    for way in steps(document.data):
        for value in ODD:
            changed = Document(document.path, document.text, document.format, with_value(document.data, way, value))
            assert 0.0 <= dialect.recognise(changed) <= 1.0
            try:
                conclude(dialect.read(changed), None)
            except ConfigError as error:
                assert error.message


@pytest.mark.parametrize("data", [None, [], "text", 3, {}, [{"a": 1}], {1: 2}, {"model": None}, {None: {}}])
def test_no_dialect_minds_what_it_is_asked_about(data: Any) -> None:
    document = Document(None, "", "yaml", data)
    for name in DIALECTS:
        dialect = dialect_named(name)
        assert 0.0 <= dialect.recognise(document) <= 1.0
        try:
            dialect.read(document)
        except ConfigError as error:
            assert error.message
