"""Values against types: as pydantic reads them, but for truth values and infinities, which are no numbers here."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter, ValidationError

from qlora_doctor.reading.lenient import Mismatch, describe_type, describe_value, read_as
from qlora_doctor.reading.native import SECTIONS

VALUES = [0, 1, 16, 16.0, 0.5, -3, "16", "2e-4", "fast", "", "auto", [], ["a"], ["a", 1], [1, 2], {"a": 1}, {"a": 0.5}]
TYPES = {repr(f.annotation): f.annotation for s in SECTIONS.values() for f in s.model_fields.values()}


@pytest.mark.parametrize("annotation", TYPES.values(), ids=list(TYPES))
def test_as_pydantic_reads_it(annotation: Any) -> None:
    adapter = TypeAdapter(annotation)
    for value in VALUES:
        try:
            expected = adapter.validate_python(value)
        except ValidationError:
            with pytest.raises(Mismatch):
                read_as(annotation, value)
        else:
            read = read_as(annotation, value)
            assert (read, type(read)) == (expected, type(expected)), value


@pytest.mark.parametrize("value", [True, False, math.nan, math.inf, "nan", 10**400])
def test_what_is_no_number(value: Any) -> None:
    for annotation in (float | None, int | None, int | float | None):
        with pytest.raises(Mismatch):
            read_as(annotation, value)


def test_words() -> None:
    assert describe_type(list[str] | str | None) == "a list of texts or a text"
    assert describe_type(Literal["a", "b"] | None) == "one of a, b"
    assert describe_value("x" * 100) == f"the text {'x' * 60!r}…"
    assert describe_value(["a", None]) == "a list with nothing"
    assert describe_value({}) == "a mapping" and describe_value(True) == "true"
