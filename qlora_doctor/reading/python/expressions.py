"""Expressions: constants, arithmetic, texts, containers, attributes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, TypeVar

from .arithmetic import LARGEST, calculated, tested
from .files import joined_path, path_attribute
from .functions import Functions
from .machine import MOST_UNROLLED
from .provenance import resting_on
from .scopes import Scope
from .values import (
    MOST_ITEMS,
    MOST_TEXT,
    Class,
    Function,
    Known,
    Listing,
    Made,
    Mapping,
    Model,
    Module,
    Name,
    Thing,
    Unknown,
    Value,
    merged,
    same,
)

CAPABILITY = "the card's major compute capability"


Item = TypeVar("Item")
_IN_A_LOOP = "It is worked out in a loop."


class Expressions(Functions):
    """The part of the machine that works out values."""

    def evaluate(self, node: ast.expr | None) -> Value:
        """What an expression is known to be."""
        self.tick()
        if node is None:
            return Known(data=None)
        method = getattr(self, "_on_" + type(node).__name__.lower(), None)
        value: Value = method(node) if method is not None else Unknown(node)
        if self.unsure and value.node is node and isinstance(value, Made | Model | Thing | Listing | Mapping):
            self.born.setdefault(id(value), (self.branch, value))
        return value

    # -- constants and containers

    def _on_constant(self, node: ast.Constant) -> Value:
        return Known(node, data=node.value)

    def _on_list(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        items: list[Value] = []
        exact = True
        for element in node.elts:
            if isinstance(element, ast.Starred):
                inner = self.evaluate(element.value)
                more = inner.items if isinstance(inner, Listing) and len(items) < MOST_ITEMS else None
                items += (more or [])[:MOST_ITEMS]
                self.tick(len(more or []))
                exact = exact and isinstance(inner, Listing) and inner.exact and more is not None
            else:
                items.append(self.evaluate(element))
        return Listing(node, items=items, exact=exact)

    _on_tuple = _on_set = _on_list

    def _on_dict(self, node: ast.Dict) -> Value:
        made = Mapping(node)
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                self.spread(made, self.evaluate(value))
                continue
            name = self.evaluate(key)
            held = self.evaluate(value)
            if isinstance(name, Known) and isinstance(name.data, str | int | bool | None):
                made.items[name.data] = held
            else:
                made.exact = False
        return made

    def spread(self, into: Mapping, value: Value) -> None:
        """Follow ``**value``."""
        if isinstance(value, Mapping):
            into.items.update(value.items)
            into.exact = into.exact and value.exact
            self.tick(len(value.items))
        else:
            into.exact = False

    def _on_joinedstr(self, node: ast.JoinedStr) -> Value:
        text = ""
        for part in node.values:
            value = self.evaluate(part.value if isinstance(part, ast.FormattedValue) else part)
            if isinstance(part, ast.FormattedValue) and part.format_spec is not None:
                return Unknown(node, why="It is a text with formatted numbers.")
            if not isinstance(value, Known) or not isinstance(value.data, str | int | float | bool):
                return value if isinstance(value, Unknown) else Unknown(node)
            if isinstance(value.data, int) and abs(value.data) > LARGEST:
                return Unknown(node)
            text += str(value.data)
            if len(text) > MOST_TEXT:
                return Unknown(node, why="It is a very long text.")
        return Known(node, data=text)

    def _on_listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        items = self._each_round(node, lambda: self.evaluate(node.elt))
        return Listing(node, items=items) if items is not None else Unknown(node, why=_IN_A_LOOP)

    _on_setcomp = _on_generatorexp = _on_listcomp

    def _on_dictcomp(self, node: ast.DictComp) -> Value:
        pairs = self._each_round(node, lambda: (self.evaluate(node.key), self.evaluate(node.value)))
        made = Mapping(node)
        for key, value in pairs if pairs is not None else ():
            if not isinstance(key, Known) or not isinstance(key.data, str | int | bool | None):
                return Unknown(node, why=_IN_A_LOOP)
            made.items[key.data] = value
        return made if pairs is not None else Unknown(node, why=_IN_A_LOOP)

    def _each_round(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, one: Callable[[], Item]
    ) -> list[Item] | None:
        """What each round of a comprehension gives; None unless it runs over one list that is known."""
        first = node.generators[0]
        items = self.evaluate(first.iter)
        if len(node.generators) != 1 or not isinstance(items, Listing) or not items.exact:
            return None
        if len(items.items) > MOST_UNROLLED:
            return None
        found: list[Item] = []
        before, self.scope = self.scope, Scope(outer=self.scope.enclosing)
        try:
            for item in list(items.items):
                self.assign(first.target, item)
                passes = [self.truth(self.evaluate(test)) for test in first.ifs]
                if None in passes:
                    return None
                if all(passes):
                    found.append(one())
        finally:
            self.scope = before
        return found

    # -- operators

    def _on_binop(self, node: ast.BinOp) -> Value:
        chain: list[ast.BinOp] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):  # a long sum leans to the left; it is not followed by recursion
            chain.append(left)
            left = left.left
        value = self.evaluate(left)
        for link in reversed(chain):
            self.tick()
            value = self._binary(link, value, self.evaluate(link.right))
        return value

    def _binary(self, node: ast.BinOp, left: Value, right: Value) -> Value:
        for side in (left, right):
            if isinstance(side, Unknown):
                return side
        if isinstance(left, Listing) and isinstance(right, Listing) and isinstance(node.op, ast.Add):
            if len(left.items) + len(right.items) > MOST_ITEMS:
                return Unknown(node, why="It is a very long list.")
            self.tick(len(left.items) + len(right.items))
            return Listing(node, items=left.items + right.items, exact=left.exact and right.exact)
        if isinstance(left, Mapping) and isinstance(right, Mapping) and isinstance(node.op, ast.BitOr):
            self.tick(len(left.items) + len(right.items))
            return Mapping(node, items={**left.items, **right.items}, exact=left.exact and right.exact)
        if not (isinstance(left, Known) and isinstance(right, Known)):
            return Unknown(node)
        if isinstance(node.op, ast.Div):
            path = joined_path(left, right, node)
            if path is not None:
                return path
        data = calculated(node.op, left.data, right.data)
        if data is None:
            return Unknown(node)
        return Known(node, left.given or right.given, left.by_card or right.by_card, data=data)

    def _on_unaryop(self, node: ast.UnaryOp) -> Value:
        value = self.evaluate(node.operand)
        if isinstance(node.op, ast.Not):
            truth = self.truth(value)
            if truth is None:
                return value if isinstance(value, Unknown) else Unknown(node)
            return Known(node, value.given, value.by_card, data=not truth)
        if (
            isinstance(value, Known)
            and isinstance(value.data, int | float)
            and isinstance(node.op, ast.USub | ast.UAdd)
        ):
            return Known(
                node, value.given, value.by_card, data=-value.data if isinstance(node.op, ast.USub) else value.data
            )
        return value if isinstance(value, Unknown) else Unknown(node)

    def _on_boolop(self, node: ast.BoolOp) -> Value:
        wants = isinstance(node.op, ast.Or)
        seen: list[Value] = []
        met: list[Value] = []
        for part in node.values:
            value = self.evaluate(part)
            truth = self.truth(value)
            met.append(value)
            if truth is wants:
                seen.append(value)
                break
            if truth is None or part is node.values[-1]:
                seen.append(value)
        if len(seen) == 1:
            return resting_on(seen[0], *met)
        if all(isinstance(value, Known) for value in seen):
            return seen[-1]
        return next((value for value in seen if isinstance(value, Unknown)), Unknown(node))

    def _on_compare(self, node: ast.Compare) -> Value:
        left = self.evaluate(node.left)
        results: list[Value] = []
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(right_node)
            results.append(resting_on(self._compared(node, op, left, right), left, right))
            left = right
        unknown = next((value for value in results if not isinstance(value, Known)), None)
        if any(isinstance(value, Known) and not value.data for value in results):
            return next(value for value in results if isinstance(value, Known) and not value.data)
        return unknown if unknown is not None else results[-1]

    def _compared(self, node: ast.AST, op: ast.cmpop, left: Value, right: Value) -> Value:
        if isinstance(left, Made) and left.maker == CAPABILITY:
            return _at_least_ampere(node, op, right)
        for side in (left, right):
            if isinstance(side, Unknown):
                return side
        if isinstance(op, ast.In | ast.NotIn):
            return self._contained(node, op, left, right)
        if isinstance(left, Known) and isinstance(right, Known):
            data = tested(op, left.data, right.data)
            return Unknown(node) if data is None else Known(node, left.given or right.given, data=data)
        if _are_dtypes(left, right) and isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            assert isinstance(left, Name)
            assert isinstance(right, Name)
            return Known(node, left.given, data=(left.last == right.last) is isinstance(op, ast.Eq | ast.Is))
        nothing = any(isinstance(side, Known) and side.data is None for side in (left, right))
        if nothing and isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            other = right if isinstance(left, Known) and left.data is None else left
            if isinstance(other, Listing | Mapping | Model | Class | Function | Thing) or _is_object(other):
                return Known(node, data=isinstance(op, ast.IsNot | ast.NotEq))
        return Unknown(node)

    def _contained(self, node: ast.AST, op: ast.cmpop, left: Value, right: Value) -> Value:
        wants = isinstance(op, ast.In)
        if _are_texts(left, right):
            assert isinstance(left, Known)
            assert isinstance(right, Known)
            return Known(node, left.given or right.given, data=(left.data in right.data) is wants)
        if (
            isinstance(left, Known)
            and isinstance(left.data, str | int | None)
            and isinstance(right, Mapping)
            and right.exact
        ):
            if isinstance(right.items.get(left.data), Unknown):
                return Unknown(node)  # it may be set under a condition
            return Known(node, left.given, data=(left.data in right.items) is wants)
        if isinstance(right, Listing) and right.exact and isinstance(left, Known | Name):
            self.tick(len(right.items))
            if any(same(left, item) for item in right.items):
                return Known(node, left.given, data=wants)
            if isinstance(left, Known) and all(isinstance(item, Known) for item in right.items):
                return Known(node, left.given, data=not wants)
        return Unknown(node)

    def _on_ifexp(self, node: ast.IfExp) -> Value:
        test = self.evaluate(node.test)
        known = self.truth(test)
        if known is not None:
            taken, left = (node.body, node.orelse) if known else (node.orelse, node.body)
            with self.chosen_by(test, [left]):
                return self.noted(self.evaluate(taken))
        why = test.why if isinstance(test, Unknown) else f"It depends on a condition in {self.where(node)}."
        with self.perhaps():
            one = self.evaluate(node.body)
        with self.perhaps():
            other = self.evaluate(node.orelse)
        return merged(one, other, why)

    def _on_namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.evaluate(node.value)
        self.assign(node.target, value)
        return value

    def _on_await(self, node: ast.Await | ast.YieldFrom | ast.Yield) -> Value:
        return self.evaluate(node.value) if node.value is not None else Unknown(node)

    _on_yield = _on_yieldfrom = _on_starred = _on_await

    def _on_lambda(self, node: ast.Lambda) -> Value:
        return Function(node, body=node, scope=self.scope.enclosing)

    # -- names, attributes, elements

    def _on_name(self, node: ast.Name) -> Value:
        found = self.scope.find(node.id)
        return found if found is not None else Name(node, dotted=node.id)

    def _on_attribute(self, node: ast.Attribute) -> Value:
        return self.attribute(self.evaluate(node.value), node.attr, node)

    def attribute(self, holder: Value, name: str, node: ast.AST) -> Value:
        """What ``holder.name`` is known to be."""
        if isinstance(holder, Name):
            dotted = f"{holder.dotted}.{name}"
            return self.argv(node) if dotted == "sys.argv" else Name(node, dotted=dotted)
        if isinstance(holder, Thing):
            return self._of_thing(holder, name, node)
        if isinstance(holder, Made):
            if name in holder.arguments:
                return holder.arguments[name]
            return Unknown(node, why=holder.why or f"{holder.maker} decides on its {name}.")
        if isinstance(holder, Module):
            inner = holder.names.get(name) or self.module_of(f"{holder.dotted}.{name}")
            return inner or Unknown(node, why=f"{holder.dotted}.{name} was not found in what was read.")
        if isinstance(holder, Class):
            return self._of_class(holder, name) or Unknown(node)
        if isinstance(holder, Unknown):
            return Unknown(node, why=holder.why)
        if isinstance(holder, Mapping) and name in holder.items:  # a DictConfig, an EasyDict
            return holder.items[name]
        return (path_attribute(holder, name, node) if isinstance(holder, Known) else None) or Unknown(node)

    def _of_class(self, owner: Class, name: str) -> Value | None:
        found = self.class_attribute(owner, name)
        if isinstance(found, Function) and "classmethod" in _decorators(found):
            return Function(found.node, body=found.body, scope=found.scope, bound=owner, owner=found.owner)
        return found

    def _of_thing(self, thing: Thing, name: str, node: ast.AST) -> Value:
        if name in thing.attributes:
            return thing.attributes[name]
        if name == "__dict__":
            return Mapping(node, items=dict(thing.attributes), exact=thing.exact)
        found = self.class_attribute(thing.of, name) if thing.of is not None else None
        if isinstance(found, Function):
            plain = _decorators(found)
            if "staticmethod" in plain:
                return found
            if "classmethod" in plain and thing.of is not None:
                return self._of_class(thing.of, name) or found
            bound = Function(found.node, body=found.body, scope=found.scope, bound=thing, owner=found.owner)
            return self.call_function(bound, [], {}, False) if plain & {"property", "cached_property"} else bound
        return found if found is not None else Unknown(node, why=f"{name} is set by something that was not read.")

    def lineage(self, owner: Class) -> list[Value]:
        """A class of the script and what it inherits from, the nearest first; a library's class is a ``Name``."""
        found: list[Value] = []
        waiting: list[Value] = [owner]
        while waiting and len(found) < 32:
            value = waiting.pop(0)
            self.tick()
            if not any(value is other for other in found):
                found.append(value)
                waiting += value.bases[:8] if isinstance(value, Class) else []
        return found

    def class_attribute(self, owner: Class, name: str) -> Value | None:
        """An attribute that a class of the script, or one that it inherits from, defines."""
        for each in self.lineage(owner):
            found = self._own_attribute(each, name) if isinstance(each, Class) else None
            if found is not None:
                return found
        return None

    def _own_attribute(self, owner: Class, name: str) -> Value | None:
        if name in owner.attributes:
            return owner.attributes[name]
        found = owner.members.get(name)
        if isinstance(found, Function) and found.owner is None and found.bound is None:
            return Function(found.node, body=found.body, scope=found.scope, owner=owner, options=found.options)
        return found

    def in_scope(self, owner: Class, node: ast.expr) -> Value:
        """An expression of a class's body, which sees the names that the body sets."""
        before, self.scope = self.scope, Scope(owner.members, outer=owner.scope or self.module, is_class=True)
        self.depth += 1
        try:
            return self.evaluate(node) if self.depth < 64 else Unknown(node)
        finally:
            self.scope = before
            self.depth -= 1

    def _on_subscript(self, node: ast.Subscript) -> Value:
        if isinstance(node.slice, ast.Slice):
            return self._part(self.evaluate(node.value), node.slice, node)
        key = self.evaluate(node.slice)
        return resting_on(self.element(self.evaluate(node.value), key, node), key)

    def _part(self, holder: Value, bounds: ast.Slice, node: ast.AST) -> Value:
        """``holder[1:3]`` of what is wholly known."""
        if isinstance(holder, Unknown):
            return Unknown(node, why=holder.why)
        ends = [self.evaluate(each) if each is not None else None for each in (bounds.lower, bounds.upper, bounds.step)]
        numbers: list[Any] = [each.data if isinstance(each, Known) else each for each in ends]
        if any(not isinstance(each, int | None) or isinstance(each, bool) for each in numbers) or numbers[2] == 0:
            return Unknown(node)
        part = slice(*numbers)
        if isinstance(holder, Listing) and holder.exact:
            return Listing(node, items=holder.items[part], exact=True)
        if isinstance(holder, Known) and isinstance(holder.data, str):
            return Known(node, data=holder.data[part])
        return Unknown(node)

    def element(self, holder: Value, key: Value, node: ast.AST) -> Value:
        """What ``holder[key]`` is known to be."""
        if isinstance(holder, Unknown):
            of_model = holder.part is not None and isinstance(holder.part[0], Model)
            part = (holder.part[0], f"{holder.part[1]}[]") if of_model and holder.part is not None else None
            return Unknown(node, why=holder.why, part=part)
        if not isinstance(key, Known):
            return Unknown(node, why=key.why) if isinstance(key, Unknown) else Unknown(node)
        if isinstance(holder, Mapping) and isinstance(key.data, str | int | bool | None) and key.data in holder.items:
            return holder.items[key.data]
        if isinstance(holder, Listing) and isinstance(key.data, int):
            inside = holder.exact and -len(holder.items) <= key.data < len(holder.items)
            return holder.items[key.data] if inside else Unknown(node)
        if isinstance(holder, Known) and isinstance(holder.data, str) and isinstance(key.data, int):
            return (
                Known(node, data=holder.data[key.data])
                if -len(holder.data) <= key.data < len(holder.data)
                else Unknown(node)
            )
        if isinstance(holder, Made) and holder.maker == "RESULT":
            return Unknown(node, why=holder.why)
        return Unknown(node)

    def _on_slice(self, node: ast.Slice) -> Value:
        return Unknown(node)

    # -- given by hf_calls.py and argparsing.py

    def _on_call(self, node: ast.Call) -> Value:
        raise NotImplementedError

    def argv(self, node: ast.AST) -> Listing:
        """``sys.argv``."""
        raise NotImplementedError


def _decorators(function: Function) -> set[str]:
    """Names of the plain decorators of a function."""
    return {each.id for each in getattr(function.body, "decorator_list", []) if isinstance(each, ast.Name)}


def _at_least_ampere(node: ast.AST, op: ast.cmpop, right: Value) -> Value:
    """bf16 came with capability 8.0: a test for it tells the two kinds of cards apart, any other does not."""
    bound = right.data if isinstance(right, Known) else None
    if (isinstance(op, ast.GtE) and bound == 8) or (isinstance(op, ast.Gt) and bound == 7):
        return Known(node, by_card=True, data=True)
    if (isinstance(op, ast.Lt) and bound == 8) or (isinstance(op, ast.LtE) and bound == 7):
        return Known(node, by_card=True, data=False)
    return Unknown(node, why="The card decides.")


def _are_texts(*values: Value) -> bool:
    return all(isinstance(value, Known) and isinstance(value.data, str) for value in values)


def _are_dtypes(*values: Value) -> bool:
    """Only of torch's dtypes is it known that two names are two things."""
    return all(isinstance(value, Name) and value.dotted.startswith("torch.") for value in values)


def _is_object(value: Value) -> bool:
    return isinstance(value, Made) and value.maker != "RESULT"
