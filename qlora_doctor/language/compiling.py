"""Source text → code: jinja2 parses, every name and construct is checked, the syntax tree becomes plain lists.

Imported only where a page is read for the first time; what was read before comes from the cache.
"""

from __future__ import annotations

from jinja2 import nodes

from .code import Code
from .fields import Scope
from .grammar import check_names, dotted, parse_expression, parse_template


def compile_expression(source: str, scope: Scope) -> Code:
    """The code of one expression.

    Raises:
        LanguageError: it cannot be parsed, is not allowed, or names what does not exist.
    """
    tree = parse_expression(source)
    check_names(tree, scope)
    return _code_of(tree)


def compile_template(source: str, scope: Scope) -> list[Code]:
    """The pieces of a text with values in it.

    Raises:
        LanguageError: as for ``compile_expression``.
    """
    tree = parse_template(source)
    check_names(tree, scope)
    return [piece for node in tree.body for piece in _pieces(node)]


def _code_of(node: nodes.Node) -> Code:
    if name := dotted(node):
        return ["fact", name]
    if isinstance(node, nodes.BinExpr) and type(node) in _BINARY:
        return [_BINARY[type(node)], _code_of(node.left), _code_of(node.right)]
    if isinstance(node, nodes.BinExpr):
        return ["binary", node.operator, _code_of(node.left), _code_of(node.right)]
    return _expression(node)


def _expression(node: nodes.Node) -> Code:
    if isinstance(node, nodes.Const):
        return ["const", node.value]
    if isinstance(node, nodes.Getattr):
        return ["member", _code_of(node.node), node.attr]
    if isinstance(node, nodes.Getitem):
        return ["item", _code_of(node.node), _code_of(node.arg)]
    if isinstance(node, nodes.Not):
        return ["not", _code_of(node.node)]
    if isinstance(node, nodes.Neg):
        return ["binary", "-", ["const", 0], _code_of(node.node)]
    if isinstance(node, nodes.Compare):
        return ["compare", _code_of(node.expr), [[operand.op, _code_of(operand.expr)] for operand in node.ops]]
    if isinstance(node, nodes.CondExpr):
        otherwise = ["const", ""] if node.expr2 is None else _code_of(node.expr2)
        return ["choice", _code_of(node.test), _code_of(node.expr1), otherwise]
    if isinstance(node, nodes.Filter):
        assert node.node is not None
        options = {str(keyword.key): _code_of(keyword.value) for keyword in node.kwargs}
        return ["filter", node.name, _code_of(node.node), [_code_of(argument) for argument in node.args], options]
    if isinstance(node, nodes.Test):
        return ["test", node.name, _code_of(node.node)]
    if isinstance(node, nodes.Concat):
        return ["joined", [_code_of(part) for part in node.nodes]]
    assert isinstance(node, nodes.List | nodes.Tuple), type(node)
    return ["list", [_code_of(item) for item in node.items]]


def _pieces(node: nodes.Node) -> list[Code]:
    if isinstance(node, nodes.Output):
        return [piece for part in node.nodes for piece in _pieces(part)]
    if isinstance(node, nodes.TemplateData):
        return [["text", str(node.data)]]
    if isinstance(node, nodes.If):
        cases = [[_code_of(case.test), _body(case.body)] for case in (node, *node.elif_)]
        return [["branch", cases, _body(node.else_)]]
    if isinstance(node, nodes.For):
        assert isinstance(node.target, nodes.Name)
        return [["loop", node.target.name, _code_of(node.iter), _body(node.body), _body(node.else_)]]
    return [["show", _code_of(node)]]


def _body(body: list[nodes.Node]) -> list[Code]:
    return [piece for node in body for piece in _pieces(node)]


_BINARY: dict[type[nodes.Node], str] = {nodes.And: "and", nodes.Or: "or"}
