"""The rule language: Jinja2's syntax, a short list of its constructs, and names that must exist.

Jinja2 parses; what is allowed is listed here, so that a page cannot call, import, assign or reach a private name, and
so that a misspelt fact is an error when the page is loaded instead of a rule that never fires.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from .fields import LanguageError, Scope, field_of, field_type, known_part
from .values import FILTERS, TESTS

_OPERATIONS = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow)
_EXPRESSIONS = (
    *_OPERATIONS,
    nodes.And,
    nodes.Compare,
    nodes.Concat,
    nodes.CondExpr,
    nodes.Const,
    nodes.Filter,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Keyword,
    nodes.List,
    nodes.Name,
    nodes.Neg,
    nodes.Not,
    nodes.Operand,
    nodes.Or,
    nodes.Test,
    nodes.Tuple,
)
_STATEMENTS = (nodes.For, nodes.If, nodes.Output, nodes.Template, nodes.TemplateData)
_NUMBERS = {"abs", "round", "int", "float", "length", "count", "sum"}
_TEXTS = {"join", "listed", "replace", "lower", "upper", "bytes", "human", "thousands", "percent", "short", "plural"}
_ENVIRONMENT = Environment(autoescape=False)


def parse_expression(source: str) -> nodes.Expr:
    """The syntax tree of one expression.

    Raises:
        LanguageError: it is no single expression, or uses a construct that is not allowed.
    """
    tree = parse_template("{{ (" + source + ") }}")
    parts = list(tree.body[0].iter_child_nodes()) if len(tree.body) == 1 else []
    if len(parts) != 1 or not isinstance(parts[0], nodes.Expr) or isinstance(parts[0], nodes.TemplateData):
        raise LanguageError(f"This is not one expression: {source!r}.")
    return parts[0]


def parse_template(source: str) -> nodes.Template:
    """The syntax tree of a text with ``{{ … }}``, ``{% if %}`` and ``{% for %}``.

    Raises:
        LanguageError: it cannot be parsed, or uses a construct that is not allowed.
    """
    try:
        tree = _ENVIRONMENT.parse(source)
    except TemplateSyntaxError as error:
        raise LanguageError(f"{source!r} cannot be parsed: {error.message}.") from error
    for node in _walk(tree):
        _refuse(node, source)
    return tree


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _refuse(node: nodes.Node, source: str) -> None:
    if isinstance(node, nodes.Call):
        raise LanguageError(f"A call is not allowed in {source!r}; add a fact instead.")
    if not isinstance(node, (*_EXPRESSIONS, *_STATEMENTS)):
        raise LanguageError(f"{type(node).__name__} is not allowed in {source!r}.")
    if isinstance(node, nodes.Const) and node.value is None:
        raise LanguageError(f"Nothing compares to none in {source!r}; write 'is known' or 'is unknown'.")
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise LanguageError(f"There is no filter {node.name!r} in {source!r}; there are {', '.join(sorted(FILTERS))}.")
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise LanguageError(f"There is no test 'is {node.name}' in {source!r}; there are {', '.join(TESTS)}.")
    if isinstance(node, nodes.For) and (node.recursive or node.test or not isinstance(node.target, nodes.Name)):
        raise LanguageError(f"A loop in {source!r} takes one name and no condition.")


def check_names(node: nodes.Node, scope: Scope) -> Any:
    """Check every name below this node against the types in scope, and infer the node's own type.

    Returns:
        a type annotation, or ``Any`` where the type does not matter any more.

    Raises:
        LanguageError: a name or field does not exist.
    """
    if isinstance(node, nodes.Name):
        if node.name not in scope:
            raise LanguageError(f"There is no {node.name!r}; there are {', '.join(sorted(scope))}.")
        return scope[node.name]
    if isinstance(node, nodes.Getattr):
        return field_of(check_names(node.node, scope), node.attr, dotted(node))
    if isinstance(node, nodes.Getitem):
        return _item_type(check_names(node.node, scope), node.arg)
    if isinstance(node, nodes.Filter):
        return _filter_type(node, scope)
    if isinstance(node, nodes.For):
        return _check_loop(node, scope)
    if isinstance(node, nodes.CondExpr):
        kinds = [check_names(child, scope) for child in node.iter_child_nodes()]
        return kinds[1]
    for child in node.iter_child_nodes():
        check_names(child, scope)
    return type(node.value) if isinstance(node, nodes.Const) else Any


def dotted(node: nodes.Node) -> str:
    """``a.b.c`` for a plain chain of names, else an empty text."""
    if isinstance(node, nodes.Name):
        return str(node.name)
    if isinstance(node, nodes.Getattr):
        above = dotted(node.node)
        return f"{above}.{node.attr}" if above else ""
    return ""


def _item_type(kind: Any, argument: nodes.Expr) -> Any:
    kind = known_part(kind)
    if typing.get_origin(kind) is dict:
        return typing.get_args(kind)[1]
    if typing.get_origin(kind) is list:
        return typing.get_args(kind)[0]
    if kind is Any:
        return Any
    raise LanguageError(f"{getattr(kind, '__name__', kind)} has no items.")


def _filter_type(node: nodes.Filter, scope: Scope) -> Any:
    assert node.node is not None
    kind = known_part(check_names(node.node, scope))
    for child in [*node.args, *(keyword.value for keyword in node.kwargs)]:
        check_names(child, scope)
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else Any
    attribute = _attribute_argument(node)
    reached = field_type(item, attribute) if attribute is not None and item is not Any else Any
    if node.name == "map":
        return types.GenericAlias(list, (reached,))
    if node.name in ("first", "last", "max", "min"):
        return item
    if node.name in ("sort", "unique", "where", "without", "default"):
        return kind
    return float if node.name in _NUMBERS else str if node.name in _TEXTS else Any


def _attribute_argument(node: nodes.Filter) -> str | None:
    """The attribute that a filter reads off each item; it must be written out, so that it can be checked."""
    written = [keyword.value for keyword in node.kwargs if keyword.key == "attribute"]
    if node.name in ("where", "without"):
        written = node.args[:1]
    if not written:
        return None
    if not isinstance(written[0], nodes.Const) or not isinstance(written[0].value, str):
        raise LanguageError(f"The attribute of the filter {node.name!r} is a quoted name.")
    return written[0].value


def _check_loop(node: nodes.For, scope: Scope) -> Any:
    kind = known_part(check_names(node.iter, scope))
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is list else Any
    assert isinstance(node.target, nodes.Name)
    inner = {**scope, node.target.name: item, "loop": {"index": int, "first": bool, "last": bool}}
    for child in (*node.body, *node.else_):
        check_names(child, inner)
    return Any
