"""Expressions and templates of rule pages, evaluated over facts.

The tree that Jinja2 parses is walked here instead of being compiled by Jinja2, for two reasons. Logic is three-valued
(Kleene's): an unknown fact must make a rule skipped, unless the known part decides, as in ``false and unknown``;
compiled Jinja2 has only Python's two. And only listed constructs can run at all, which is a tighter sandbox than
Jinja2's own, at a fraction of the start-up cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from jinja2 import nodes

from .language import Scope, check_names, dotted, fact_names, needed_names, parse_expression, parse_template
from .values import TESTS, EvaluationError, Unknown, apply_filter, as_text, binary, compare, member, unknown_of

Values = Mapping[str, Any]
"""Values of the names in scope: the subjects of the facts, ``params``."""


class Expression:
    """One expression of a page.

    Raises:
        LanguageError: it cannot be parsed, is not allowed, or names what does not exist.
    """

    def __init__(self, source: str, scope: Scope) -> None:
        self.source = source
        self._tree = parse_expression(source)
        check_names(self._tree, scope)

    @cached_property
    def names(self) -> set[str]:
        """Dotted names of the facts (and params) it uses."""
        return fact_names(self._tree)

    @cached_property
    def needed(self) -> set[str]:
        """Of these, the ones without which it has no value."""
        return needed_names(self._tree)

    def evaluate(self, values: Values) -> Any:
        """Its value, or an ``Unknown`` that names the missing facts.

        Raises:
            EvaluationError: the values cannot be combined as written.
        """
        return _value(self._tree, values)

    def holds(self, values: Values) -> bool | Unknown:
        """True, False or unknown."""
        return truth(self.evaluate(values))


class Template:
    """A text of a page with values in it.

    Raises:
        LanguageError: as for ``Expression``.
    """

    def __init__(self, source: str, scope: Scope) -> None:
        self.source = source
        self._tree = parse_template(source)
        check_names(self._tree, scope)

    @cached_property
    def names(self) -> set[str]:
        """Dotted names that it uses, loop variables included."""
        return fact_names(self._tree)

    def render(self, values: Values) -> str:
        """The text; a fact that is unknown reads ``unknown``."""
        return "".join(_text(node, values) for node in self._tree.body)

    def sentence(self, values: Values) -> str:
        """The text on one line, however its page was wrapped."""
        return " ".join(self.render(values).split())

    def native(self, values: Values) -> Any:
        """The value itself where the text is one ``{{ expression }}`` (a list stays a list), else the text."""
        parts = [part for node in self._tree.body for part in node.iter_child_nodes()]
        if len(self._tree.body) == 1 and len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData):
            return _value(parts[0], values)
        return self.render(values)


def truth(value: Any) -> bool | Unknown:
    """The truth of a value; that of an unknown is unknown."""
    return value if isinstance(value, Unknown) else bool(value)


def _either(missing: Unknown | None, known: bool) -> bool | Unknown:
    return known if missing is None else missing


def _text(node: nodes.Node, values: Values) -> str:
    if isinstance(node, nodes.TemplateData):
        return str(node.data)
    if isinstance(node, nodes.Output):
        return "".join(_text(part, values) for part in node.nodes)
    if isinstance(node, nodes.If):
        return _branch(node, values)
    if isinstance(node, nodes.For):
        return _loop(node, values)
    return as_text(_value(node, values))


def _branch(node: nodes.If, values: Values) -> str:
    for case in (node, *node.elif_):
        if truth(_value(case.test, values)) is True:
            return "".join(_text(child, values) for child in case.body)
    return "".join(_text(child, values) for child in node.else_)


def _loop(node: nodes.For, values: Values) -> str:
    items = _value(node.iter, values)
    if isinstance(items, Unknown) or not items:
        return "".join(_text(child, values) for child in node.else_)
    assert isinstance(node.target, nodes.Name)
    texts = []
    for index, item in enumerate(items, start=1):
        loop = {"index": index, "first": index == 1, "last": index == len(items)}
        inner = {**values, node.target.name: item, "loop": loop}
        texts += [_text(child, inner) for child in node.body]
    return "".join(texts)


def _value(node: nodes.Node, values: Values) -> Any:
    if isinstance(node, nodes.BinExpr) and type(node) not in _RULES:
        return binary(node.operator, _value(node.left, values), _value(node.right, values))
    return _RULES[type(node)](node, values)


def _name(node: nodes.Name, values: Values) -> Any:
    return member(values, node.name, node.name)


def _attribute(node: nodes.Getattr, values: Values) -> Any:
    return member(_value(node.node, values), node.attr, dotted(node) or node.attr)


def _item(node: nodes.Getitem, values: Values) -> Any:
    key = _value(node.arg, values)
    return key if isinstance(key, Unknown) else member(_value(node.node, values), key, f"{dotted(node.node)}[{key}]")


def _and(node: nodes.And, values: Values) -> bool | Unknown:
    left = truth(_value(node.left, values))
    if left is False:
        return False
    right = truth(_value(node.right, values))
    return False if right is False else _either(unknown_of(left, right), True)


def _or(node: nodes.Or, values: Values) -> bool | Unknown:
    left = truth(_value(node.left, values))
    if left is True:
        return True
    right = truth(_value(node.right, values))
    return True if right is True else _either(unknown_of(left, right), False)


def _not(node: nodes.Not, values: Values) -> bool | Unknown:
    value = truth(_value(node.node, values))
    return value if isinstance(value, Unknown) else not value


def _comparison(node: nodes.Compare, values: Values) -> bool | Unknown:
    """A chain such as ``low <= x < high`` holds where every link does."""
    left, missing = _value(node.expr, values), None
    for operand in node.ops:
        right = _value(operand.expr, values)
        link = truth(compare(operand.op, left, right))
        if link is False:
            return False
        missing = unknown_of(missing, link)
        left = right
    return _either(missing, True)


def _filtered(node: nodes.Filter, values: Values) -> Any:
    assert node.node is not None
    arguments = [_value(argument, values) for argument in node.args]
    options = {str(keyword.key): _value(keyword.value, values) for keyword in node.kwargs}
    return apply_filter(node.name, _value(node.node, values), arguments, options)


def _choice(node: nodes.CondExpr, values: Values) -> Any:
    test = truth(_value(node.test, values))
    if isinstance(test, Unknown):
        return test
    chosen = node.expr1 if test else node.expr2
    return "" if chosen is None else _value(chosen, values)


def _negative(node: nodes.Neg, values: Values) -> Any:
    return binary("-", 0, _value(node.node, values))


def _joined(node: nodes.Concat, values: Values) -> str:
    return "".join(as_text(_value(part, values)) for part in node.nodes)


def _items(node: nodes.List | nodes.Tuple, values: Values) -> list[Any] | Unknown:
    items = [_value(item, values) for item in node.items]
    missing = unknown_of(*items)
    return items if missing is None else missing


_RULES: dict[type[nodes.Node], Callable[[Any, Values], Any]] = {
    nodes.And: _and,
    nodes.Compare: _comparison,
    nodes.Concat: _joined,
    nodes.CondExpr: _choice,
    nodes.Const: lambda node, values: node.value,
    nodes.Filter: _filtered,
    nodes.Getattr: _attribute,
    nodes.Getitem: _item,
    nodes.List: _items,
    nodes.Name: _name,
    nodes.Neg: _negative,
    nodes.Not: _not,
    nodes.Or: _or,
    nodes.Test: lambda node, values: TESTS[node.name](_value(node.node, values)),
    nodes.Tuple: _items,
}

__all__ = ["EvaluationError", "Expression", "Template", "Unknown", "Values", "truth"]
