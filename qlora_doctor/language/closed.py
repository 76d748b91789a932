"""An expression over a file, where what does not stand there is not asked for.

A rule is skipped where a fact is unknown. A trainer that reads a file knows what is in it: a key that is absent is off,
and a comparison with it does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .code import Code


def closed(code: Code, names: Mapping[str, Code]) -> Code:
    """The same expression, in which whatever is unknown where a truth is asked for counts as false.

    Args:
        code: the expression.
        names: what further names stand for; they may not use each other in a circle.
    """
    return _off_if_unknown(_closed(_spelt_out(code, names)))


def _spelt_out(code: Any, names: Mapping[str, Code]) -> Any:
    """The expression with each name replaced by what it stands for."""
    if isinstance(code, dict):
        return {key: _spelt_out(value, names) for key, value in code.items()}
    if not isinstance(code, list) or code[:1] == ["const"]:
        return code
    if code[:1] == ["fact"]:
        return _spelt_out(names[code[1]], names) if code[1] in names else code
    return [_spelt_out(part, names) for part in code]


def _closed(code: Any) -> Any:
    if isinstance(code, dict):
        return {key: _closed(value) for key, value in code.items()}
    if not isinstance(code, list) or code[:1] in (["const"], ["fact"]):
        return code
    parts = [_closed(part) for part in code]
    if parts[:1] in (["and"], ["or"], ["not"]):
        return [parts[0], *(_off_if_unknown(part) for part in parts[1:])]
    if parts[:1] == ["choice"]:
        return ["choice", _off_if_unknown(parts[1]), *parts[2:]]
    return parts


def _off_if_unknown(code: Code) -> Code:
    if code[0] in ("and", "or", "not") or code[:1] == ["test"]:
        return code
    return ["filter", "default", code, [["const", False]], {}]
