"""Operators on constants, within bounds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from .values import MOST_TEXT

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda a, b: a is b or (a == b and type(a) is type(b)),
    ast.IsNot: lambda a, b: not (a is b or (a == b and type(a) is type(b))),
}
LARGEST = 10**18


def calculated(op: ast.operator, left: Any, right: Any) -> Any:
    """A sum, product, … of constants; None where it fails or would be very large."""
    if isinstance(op, ast.Pow):
        fits = all(isinstance(side, int | float) for side in (left, right)) and abs(right) <= 16 and abs(left) <= 10**6
        try:
            return left**right if fits and not (left == 0 and right < 0) else None
        except (ArithmeticError, TypeError, ValueError):
            return None
    function = _BINARY.get(type(op))
    if function is None:
        return None
    if isinstance(op, ast.Div) and isinstance(left, str) and isinstance(right, str):
        return f"{left.rstrip('/')}/{right}" if len(left) + len(right) < MOST_TEXT else None
    for one, other in ((left, right), (right, left)):
        too_long = isinstance(one, str | bytes) and (not isinstance(other, int) or len(one) * max(other, 0) > MOST_TEXT)
        if isinstance(op, ast.Mult) and too_long:
            return None
    if isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        return None  # a format: "%d %s"
    try:
        result = function(left, right)
    except Exception:  # constants of any types
        return None
    if isinstance(result, int) and abs(result) > LARGEST:
        return None
    return None if isinstance(result, str | bytes) and len(result) > MOST_TEXT else result


def tested(op: ast.cmpop, left: Any, right: Any) -> bool | None:
    try:
        return bool(_COMPARE[type(op)](left, right))
    except (TypeError, KeyError, ValueError):
        return None
