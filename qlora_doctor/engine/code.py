"""Expressions and templates as plain nested lists: what the evaluator walks, and what can be kept as JSON.

Jinja2's syntax tree → code. An instruction is a list that begins with its word; the words are those of ``expression``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from jinja2 import nodes

from .language import dotted

Code: TypeAlias = "list[Any]"


def code_of(node: nodes.Node) -> Code:
    """The code of one expression."""
    if name := dotted(node):
        return ["fact", name]
    if isinstance(node, nodes.BinExpr) and type(node) in _BINARY:
        return [_BINARY[type(node)], code_of(node.left), code_of(node.right)]
    if isinstance(node, nodes.BinExpr):
        return ["binary", node.operator, code_of(node.left), code_of(node.right)]
    return _expression(node)


def template_code(tree: nodes.Template) -> Code:
    """The code of a template: a list of pieces."""
    return [piece for node in tree.body for piece in _pieces(node)]


def fact_names(code: Any) -> set[str]:
    """Dotted names of the facts, params and loop variables in this code."""
    return _names(code, needed=False)


def needed_names(code: Any) -> set[str]:
    """Of ``fact_names``, those that have to be known: not what ``default`` stands in for or ``is known`` asks about."""
    return _names(code, needed=True)


def _names(code: Any, needed: bool) -> set[str]:
    if not isinstance(code, list) or not code:
        return set()
    if code[0] == "fact":
        return {code[1]}
    if code[0] == "const" or (needed and code[0] == "test" and code[1] in ("known", "unknown")):
        return set()
    parts = code[3] if needed and code[:2] == ["filter", "default"] else code
    children = [*parts, *(value for part in parts if isinstance(part, dict) for value in part.values())]
    return {name for child in children for name in _names(child, needed)}


def _expression(node: nodes.Node) -> Code:
    if isinstance(node, nodes.Const):
        return ["const", node.value]
    if isinstance(node, nodes.Getattr):
        return ["member", code_of(node.node), node.attr]
    if isinstance(node, nodes.Getitem):
        return ["item", code_of(node.node), code_of(node.arg)]
    if isinstance(node, nodes.Not):
        return ["not", code_of(node.node)]
    if isinstance(node, nodes.Neg):
        return ["binary", "-", ["const", 0], code_of(node.node)]
    if isinstance(node, nodes.Compare):
        return ["compare", code_of(node.expr), [[operand.op, code_of(operand.expr)] for operand in node.ops]]
    if isinstance(node, nodes.CondExpr):
        otherwise = ["const", ""] if node.expr2 is None else code_of(node.expr2)
        return ["choice", code_of(node.test), code_of(node.expr1), otherwise]
    if isinstance(node, nodes.Filter):
        assert node.node is not None
        options = {str(keyword.key): code_of(keyword.value) for keyword in node.kwargs}
        return ["filter", node.name, code_of(node.node), [code_of(argument) for argument in node.args], options]
    if isinstance(node, nodes.Test):
        return ["test", node.name, code_of(node.node)]
    if isinstance(node, nodes.Concat):
        return ["joined", [code_of(part) for part in node.nodes]]
    assert isinstance(node, nodes.List | nodes.Tuple), type(node)
    return ["list", [code_of(item) for item in node.items]]


def _pieces(node: nodes.Node) -> list[Code]:
    if isinstance(node, nodes.Output):
        return [piece for part in node.nodes for piece in _pieces(part)]
    if isinstance(node, nodes.TemplateData):
        return [["text", str(node.data)]]
    if isinstance(node, nodes.If):
        cases = [[code_of(case.test), _body(case.body)] for case in (node, *node.elif_)]
        return [["branch", cases, _body(node.else_)]]
    if isinstance(node, nodes.For):
        assert isinstance(node.target, nodes.Name)
        return [["loop", node.target.name, code_of(node.iter), _body(node.body), _body(node.else_)]]
    return [["show", code_of(node)]]


def _body(body: list[nodes.Node]) -> list[Code]:
    return [piece for node in body for piece in _pieces(node)]


_BINARY: dict[type[nodes.Node], str] = {nodes.And: "and", nodes.Or: "or"}
