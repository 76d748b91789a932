"""Whatever stands at a key: a reader answers with a Setup or with a sentence, never with a traceback."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading.dialects import DIALECTS, dialect_named
from qlora_doctor.reading.document import Document, read_document
from tests.reading.dialects.test_readers import CASES, write

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


def keys_of(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        yield from (key for key in data if isinstance(key, str))
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from keys_of(inner)


@pytest.mark.parametrize("case", CASES)
def test_any_mapping_of_a_dialects_keys_is_answered(case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    name, text, _, _ = CASES[case]
    document = read_document(write(tmp_path_factory.mktemp("odd"), name, text))
    dialect = dialect_named(case.removesuffix(" board"))
    words = st.sampled_from(sorted({*keys_of(document.data), "lora", "training", "model", "r", "path", "type"}))
    values = st.recursive(
        st.sampled_from(ODD) | st.floats() | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
        max_leaves=10,
    )

    @settings(max_examples=60, deadline=None)
    @given(changes=st.dictionaries(words, values, max_size=8), keeps=st.booleans())
    def answered(changes: dict[str, Any], keeps: bool) -> None:
        data = {**(document.data if keeps else {}), **changes}
        changed = Document(document.path, document.text, document.format, data)
        assert 0.0 <= dialect.recognise(changed) <= 1.0
        try:
            conclude(dialect.read(changed), None)
        except ConfigError as error:
            assert error.message

    answered()
