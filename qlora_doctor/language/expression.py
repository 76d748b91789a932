"""Expressions and templates of rule pages, evaluated over facts.

Jinja2 parses and this module evaluates, for two reasons. Logic is three-valued (Kleene's): an unknown fact must make a
rule skipped, unless the known part decides, as in ``false and unknown``; compiled Jinja2 has only Python's two. And
only listed constructs can run at all, which is a tighter sandbox than Jinja2's own, at a fraction of the start-up cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from .code import Code, fact_names, needed_names
from .fields import Scope
from .values import TESTS, EvaluationError, Unknown, apply_filter, as_text, binary, compare, lookup, member, unknown_of

Values = Mapping[str, Any]
"""Values of the names in scope: the subjects of the facts, ``params``."""


class Expression:
    """One expression of a page.

    Attributes:
        code: what it does, as plain lists.
    """

    def __init__(self, code: Code) -> None:
        self.code = code

    @classmethod
    def parse(cls, source: str, scope: Scope) -> Expression:
        """The expression of a source text.

        Raises:
            LanguageError: it cannot be parsed, is not allowed, or names what does not exist.
        """
        from .compiling import compile_expression

        return cls(compile_expression(source, scope))

    @cached_property
    def names(self) -> set[str]:
        """Dotted names of the facts (and params) it uses."""
        return fact_names(self.code)

    @cached_property
    def needed(self) -> set[str]:
        """Of these, the ones without which it has no value."""
        return needed_names(self.code)

    def evaluate(self, values: Values) -> Any:
        """Its value, or an ``Unknown`` that names the missing facts.

        Raises:
            EvaluationError: the values cannot be combined as written.
        """
        return _value(self.code, values)

    def holds(self, values: Values) -> bool | Unknown:
        """True, False or unknown."""
        return truth(self.evaluate(values))


class Template:
    """A text of a page with values in it.

    Attributes:
        pieces: what it shows, one after the other, as plain lists.
    """

    def __init__(self, pieces: list[Code]) -> None:
        self.pieces = pieces

    @classmethod
    def parse(cls, source: str, scope: Scope) -> Template:
        """The template of a source text.

        Raises:
            LanguageError: as for ``Expression.parse``.
        """
        from .compiling import compile_template

        return cls(compile_template(source, scope))

    @cached_property
    def names(self) -> set[str]:
        """Dotted names that it uses, loop variables included."""
        return fact_names(self.pieces)

    def render(self, values: Values) -> str:
        """The text; a fact that is unknown reads ``unknown``."""
        return _text(self.pieces, values)

    def sentence(self, values: Values) -> str:
        """The text on one line, however its page was wrapped."""
        return " ".join(self.render(values).split())

    def native(self, values: Values) -> Any:
        """The value itself where the text is one ``{{ expression }}`` (a list stays a list), else the text."""
        if len(self.pieces) == 1 and self.pieces[0][0] == "show":
            return _value(self.pieces[0][1], values)
        return self.render(values)


def truth(value: Any) -> bool | Unknown:
    """The truth of a value; that of an unknown is unknown."""
    return value if isinstance(value, Unknown) else bool(value)


# -- templates


def _text(pieces: list[Code], values: Values) -> str:
    return "".join(_PIECES[word](values, *arguments) for word, *arguments in pieces)


def _branch(values: Values, cases: list[Any], otherwise: list[Code]) -> str:
    for test, body in cases:
        if truth(_value(test, values)) is True:
            return _text(body, values)
    return _text(otherwise, values)


def _loop(values: Values, target: str, items: Code, body: list[Code], otherwise: list[Code]) -> str:
    found = _value(items, values)
    if isinstance(found, Unknown) or not found:
        return _text(otherwise, values)
    texts = []
    for index, item in enumerate(found, start=1):
        loop = {"index": index, "first": index == 1, "last": index == len(found)}
        texts.append(_text(body, {**values, target: item, "loop": loop}))
    return "".join(texts)


_PIECES: dict[str, Callable[..., str]] = {
    "text": lambda values, text: text,
    "show": lambda values, code: as_text(_value(code, values)),
    "branch": _branch,
    "loop": _loop,
}


# -- expressions


def _value(code: Code, values: Values) -> Any:
    return _WORDS[code[0]](values, *code[1:])


def _and(values: Values, left: Code, right: Code) -> bool | Unknown:
    first = truth(_value(left, values))
    if first is False:
        return False
    second = truth(_value(right, values))
    return False if second is False else _unless(unknown_of(first, second), True)


def _or(values: Values, left: Code, right: Code) -> bool | Unknown:
    first = truth(_value(left, values))
    if first is True:
        return True
    second = truth(_value(right, values))
    return True if second is True else _unless(unknown_of(first, second), False)


def _not(values: Values, code: Code) -> bool | Unknown:
    value = truth(_value(code, values))
    return value if isinstance(value, Unknown) else not value


def _compare(values: Values, code: Code, links: list[Any]) -> bool | Unknown:
    """A chain such as ``low <= x < high`` holds where every link does."""
    left, missing = _value(code, values), None
    for symbol, operand in links:
        right = _value(operand, values)
        link = truth(compare(symbol, left, right))
        if link is False:
            return False
        missing = unknown_of(missing, link)
        left = right
    return _unless(missing, True)


def _choice(values: Values, test: Code, chosen: Code, otherwise: Code) -> Any:
    outcome = truth(_value(test, values))
    return outcome if isinstance(outcome, Unknown) else _value(chosen if outcome else otherwise, values)


def _filter(values: Values, name: str, code: Code, arguments: list[Code], options: dict[str, Code]) -> Any:
    given = [_value(argument, values) for argument in arguments]
    named = {key: _value(option, values) for key, option in options.items()}
    return apply_filter(name, _value(code, values), given, named)


def _item(values: Values, code: Code, key: Code) -> Any:
    found = _value(key, values)
    path = f"{code[1] if code[0] == 'fact' else '…'}[{found}]"
    return found if isinstance(found, Unknown) else member(_value(code, values), found, path)


def _list(values: Values, items: list[Code]) -> list[Any] | Unknown:
    found = [_value(item, values) for item in items]
    missing = unknown_of(*found)
    return found if missing is None else missing


def _unless(missing: Unknown | None, known: bool) -> bool | Unknown:
    return known if missing is None else missing


_WORDS: dict[str, Callable[..., Any]] = {
    "fact": lambda values, name: lookup(values, name),
    "const": lambda values, value: value,
    "member": lambda values, code, name: member(_value(code, values), name, f"….{name}"),
    "item": _item,
    "and": _and,
    "or": _or,
    "not": _not,
    "compare": _compare,
    "choice": _choice,
    "binary": lambda values, symbol, left, right: binary(symbol, _value(left, values), _value(right, values)),
    "filter": _filter,
    "test": lambda values, name, code: TESTS[name](_value(code, values)),
    "joined": lambda values, parts: "".join(as_text(_value(part, values)) for part in parts),
    "list": _list,
}

__all__ = ["EvaluationError", "Expression", "Template", "Unknown", "Values", "truth"]
