"""Conditions over a file: a key that is absent is off, and a comparison with it does not hold."""

from __future__ import annotations

from typing import Any

import pytest

from qlora_doctor.language.closed import closed
from qlora_doctor.language.compiling import compile_expression
from qlora_doctor.language.expression import Expression

SCOPE = dict.fromkeys(("a", "b", "c", "both"), Any)


def holds(source: str, **values: Any) -> Any:
    names = {"both": compile_expression("a and b", SCOPE)}
    return Expression(closed(compile_expression(source, SCOPE), names)).holds(values)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a", False),
        ("not a", True),
        ("a == 1", False),
        ("a != 1", False),
        ("not a == 1", True),
        ("not a in [1]", True),
        ("a | default(1) == 1", True),
        ("a.b is true or b", False),
        ("a is known", False),
        ("a is unknown and not b", True),
        ("not both", True),
        ("not (c if a else b)", True),
    ],
)
def test_where_nothing_is_written(source: str, expected: bool) -> None:
    assert holds(source) is expected


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        ("both and not c", {"a": 1, "b": True}, True),
        ("both", {"a": 1, "b": 0}, False),
        ("a.b is true", {"a": {"b": True}}, True),
        ("a.b is true", {"a": {"b": 1}}, False),
        ("a.b is true", {"a": "text"}, False),
        ("a is false", {"a": False}, True),
        ("a is list and a | length > 1", {"a": [1, 2]}, True),
        ("a is mapping", {"a": {}}, True),
        ('a | starts("x", "y")', {"a": "yes"}, True),
    ],
)
def test_where_something_is(source: str, values: dict[str, Any], expected: bool) -> None:
    assert holds(source, **values) is expected
