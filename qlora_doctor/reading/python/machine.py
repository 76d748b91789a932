"""Statements: a script followed in its order, every branch that may be taken.

Nothing is executed. A condition that is known chooses its branch; of one that is not, both are followed, and what
they leave different is unknown. A loop is followed once, with what changes in it unknown.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...core.place import Place
from .command_line import Option
from .provenance import is_outer, marked
from .scopes import LIBRARIES, Exhausted, Scope, Seen
from .source import same_file
from .values import (
    Class,
    Function,
    Known,
    Listing,
    Made,
    Mapping,
    Model,
    Module,
    Name,
    Step,
    Thing,
    Unknown,
    Value,
    merged,
    same,
)

MOST_STEPS = 60_000
MOST_ROUNDS = 6
"""How often a loop is followed until nothing more changes."""


MOST_UNROLLED = 64
"""Items of a list that is known, for each of which a loop's body is followed."""


class Machine:
    """Follows one script."""

    def __init__(self, tree: ast.Module, where: Callable[[ast.AST], str] | None = None) -> None:
        """Follow a tree; ``where`` says of a node in which line or cell it stands."""
        self.tree = tree
        self.where = where or (lambda node: f"line {getattr(node, 'lineno', '?')}")
        self.module = Scope({"__name__": Known(data="__main__")})
        self.scope = self.module
        self.seen = Seen()
        self.steps = 0
        self.unsure = 0
        self.by_card = 0
        self.by_default: str | None = None
        self.words: dict[int, set[str]] = {}
        self.branch = self.branches = 0
        self.born: dict[int, tuple[int, Value]] = {}
        self.depth = 0
        self.changes: list[int] = []
        self.returns: list[list[Value]] = []
        self.leaving: list[list[dict[str, Value]]] = []
        self.following: list[int] = []
        self.options: dict[int, tuple[Made, list[Option]]] = {}
        self.place_of: Callable[[ast.AST], Place | None] = lambda node: None

    def run(self) -> Seen:
        """Follow the module from top to bottom."""
        try:
            self.block(self.tree.body)
        except Exhausted:
            self.seen.exhausted = True
        return self.seen

    def tick(self, count: int = 1) -> None:
        """Count a step.

        Raises:
            Exhausted: there were too many.
        """
        self.steps += count
        if self.steps > MOST_STEPS:
            raise Exhausted

    # -- statements

    def block(self, body: list[ast.stmt]) -> bool:
        """Follow statements; True where none behind them is reached."""
        return any(self.statement(statement) for statement in body)

    def statement(self, node: ast.stmt) -> bool:
        self.tick()
        method = getattr(self, "_" + type(node).__name__.lower(), None)
        if method is None:
            return False
        return bool(method(node))

    def _expr(self, node: ast.Expr) -> None:
        self.evaluate(node.value)

    def _assign(self, node: ast.Assign) -> None:
        value = self.evaluate(node.value)
        for target in node.targets:
            self.assign(target, value)

    def _annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.evaluate(node.value))

    def _augassign(self, node: ast.AugAssign) -> None:
        target = node.target
        current = ast.Name(id=target.id, ctx=ast.Load()) if isinstance(target, ast.Name) else target
        operation = ast.copy_location(ast.BinOp(left=current, op=node.op, right=node.value), node)
        ast.copy_location(current, node)
        same_file(operation, node)
        self.assign(target, self.evaluate(operation))

    def _if(self, node: ast.If) -> bool:
        test = self.evaluate(node.test)
        known = self.truth(test)
        if known is not None:
            taken, left = (node.body, node.orelse) if known else (node.orelse, node.body)
            if is_outer(test.given) and _fails(taken):
                return self.block(left)  # who starts the script passes something else
            with self.chosen_by(test, left):
                return self.block(taken)
        why = f"It depends on a condition in {self.where(node)} that is not known."
        return self.either([node.body, node.orelse], why)

    def either(self, branches: list[list[ast.stmt]], why: str) -> bool:
        """Follow every branch from the same start, and keep what they have in common."""
        scope, start = self.scope, self.scope.names
        ends: list[dict[str, Value]] = []
        self.tick(len(branches) * len(start) // 4)
        for branch in branches:
            scope.names = dict(start)  # in place: functions look names up in the scope itself
            with self.perhaps():
                if not self.block(branch):
                    ends.append(scope.names)
        scope.names = start
        return not self._join(ends, why)

    @contextmanager
    def perhaps(self) -> Iterator[None]:
        """Within, nothing is sure to happen."""
        outside, self.branch = self.branch, self.branches + 1
        self.branches += 1
        self.unsure += 1
        try:
            yield
        finally:
            self.branch = outside
            self.unsure -= 1

    def _join(self, ends: list[dict[str, Value]], why: str) -> bool:
        """Keep what several ways have in common; False where none of them goes on."""
        if not ends:
            return False
        result = ends[0]
        for other in ends[1:]:
            result = self._joined(result, other, why)
        self.scope.names = result
        return True

    def _joined(self, one: dict[str, Value], other: dict[str, Value], why: str) -> dict[str, Value]:
        joined: dict[str, Value] = {}
        done: dict[tuple[int, int], Value] = {}
        self.tick(1 + (len(one) + len(other)) // 8)
        for name in [*one, *(name for name in other if name not in one)]:
            a, b = one.get(name), other.get(name)
            if a is None or b is None:
                present = a if a is not None else b
                assert present is not None
                joined[name] = present
                continue
            key = (id(a), id(b))
            if key not in done:
                self.tick(0 if a is b else 4)
                done[key] = a if a is b else merged(a, b, why)
            joined[name] = done[key]
        return joined

    def _for(self, node: ast.For | ast.AsyncFor) -> bool:
        items = self.evaluate(node.iter)
        if isinstance(items, Listing) and items.exact and len(items.items) == 0:
            return False
        if isinstance(items, Listing) and items.exact and len(items.items) <= MOST_UNROLLED and not _leaves(node):
            return self._rounds(node, items.items)
        return self._loop(node)

    def _rounds(self, node: ast.For | ast.AsyncFor, items: list[Value]) -> bool:
        """Follow the body once for each item of a list that is known."""
        for item in list(items):
            self.assign(node.target, item)
            if self.block(node.body):
                return True
        return self.block(node.orelse)

    _asyncfor = _for

    def _while(self, node: ast.While) -> bool:
        self.evaluate(node.test)
        return self._loop(node)

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> bool:
        """Follow the body as any of its rounds: until nothing more changes of what it finds when it begins."""
        why = f"It may change in the loop of {self.where(node)}."
        scope, start = self.scope, self.scope.names
        begin, settled = start, False
        for _ in range(MOST_ROUNDS):
            before, made = len(self.changes), self.branches
            ends = self._round(node, dict(begin))
            scope.names = start
            self._join([begin, *ends], why)
            settled = min(self.changes[before:], default=made + 1) > made and _alike(begin, scope.names)
            if settled:
                break
            begin = scope.names
        if not settled:
            self.seen.exhausted = True
            for name, value in scope.names.items():
                if not _settled(begin.get(name), value):
                    scope.names[name] = Unknown(node, why=why)
        if node.orelse:
            self.either([node.orelse, []], why)
        return False

    def _round(self, node: ast.For | ast.AsyncFor | ast.While, names: dict[str, Value]) -> list[dict[str, Value]]:
        """The names as they may be after one round that begins with these."""
        self.tick(len(names) // 4)
        self.scope.names = names
        self.leaving.append([])
        with self.perhaps():
            if not isinstance(node, ast.While):
                self.assign(node.target, Unknown(node.target, why="It takes several values in a loop."))
            over = self.block(node.body)
        return [*([] if over else [self.scope.names]), *self.leaving.pop()]

    def _with(self, node: ast.With | ast.AsyncWith) -> bool:
        for item in node.items:
            value = self.evaluate(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value)
        return self.block(node.body)

    _asyncwith = _with

    def _try(self, node: ast.Try) -> bool:
        """The body is taken to succeed: a script that falls back tells nothing of when."""
        over = self.block(node.body)
        if not over:
            over = self.block(node.orelse)
        return self.block(node.finalbody) or over

    _trystar = _try

    def _match(self, node: ast.Match) -> bool:
        self.evaluate(node.subject)
        why = f"It depends on the case in {self.where(node)}."
        return self.either([*(case.body for case in node.cases), []], why) and False

    def _return(self, node: ast.Return) -> bool:
        value = self.evaluate(node.value) if node.value is not None else Known(node, data=None)
        if self.returns:
            self.returns[-1].append(self.noted(value))
        return True

    def _raise(self, node: ast.Raise) -> bool:
        if isinstance(node.exc, ast.Call):
            self.evaluate(node.exc)  # raise SystemExit(main())
        return True

    def _break(self, node: ast.Break | ast.Continue) -> bool:
        if self.leaving:
            self.tick(len(self.scope.names) // 8)
            self.leaving[-1].append(dict(self.scope.names))
        return True

    _continue = _break

    def _delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name) and not self.unsure:
                self.scope.names.pop(target.id, None)

    def _global(self, node: ast.Global) -> None:
        self.scope.elsewhere.update(dict.fromkeys(node.names, self.scope.module))

    def _nonlocal(self, node: ast.Nonlocal) -> None:
        for name in node.names:
            scope = self.scope.outer
            while scope is not None and name not in scope.names:
                scope = scope.outer
            self.scope.elsewhere[name] = scope or self.scope.module

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            dotted = alias.name if alias.asname else alias.name.partition(".")[0]
            found = self.module_of(alias.name)
            if found is not None and not alias.asname:
                found = self.module_of(dotted)
            self.bind(alias.asname or dotted, found or Name(node, dotted=dotted))

    def _importfrom(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        found = self.module_of(module)
        for alias in node.names:
            if alias.name == "*":
                self._import_all(node, module, found)
                continue
            inner = found.names.get(alias.name) if found is not None else None
            if inner is None:
                inner = self.module_of(f"{module}{'' if module.endswith('.') else '.'}{alias.name}")
            self.bind(alias.asname or alias.name, inner or Name(node, dotted=f"{module}.{alias.name}"))

    def _import_all(self, node: ast.ImportFrom, module: str, found: Module | None) -> None:
        """``from module import *`` may replace any name, and a module of the script's own often does."""
        if module.partition(".")[0] in LIBRARIES:
            return
        if found is not None:
            for name, value in found.names.items():
                if not name.startswith("_"):
                    self.bind(name, value)
            return
        for name, value in self.scope.names.items():
            if not isinstance(value, Name | Function | Class) and not name.startswith("_"):
                self.scope.names[name] = Unknown(node, why=f"{module}, which was not read, may set it.")

    def _functiondef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        function = Function(node, body=node, scope=self.scope.enclosing)
        self.bind(node.name, self.decorated(function, node))

    _asyncfunctiondef = _functiondef

    def _classdef(self, node: ast.ClassDef) -> None:
        bases = [self.evaluate(base) for base in node.bases]
        before, self.scope = self.scope, Scope(outer=self.scope, is_class=True)
        try:
            self.block(node.body)
            members = self.scope.names
        finally:
            self.scope = before
        self.bind(node.name, Class(node, body=node, scope=self.scope, bases=bases, members=members))

    # -- names

    def bind(self, name: str, value: Value) -> None:
        """Give a name a value in the scope that is being followed."""
        scope = self.scope.elsewhere.get(name, self.scope)
        if scope is not self.scope and self.unsure and name in scope.names:
            value = self.changed(scope.names[name], value)
        scope.names[name] = self.noted(value)

    def noted(self, value: Value) -> Value:
        """The value, marked where it was chosen for a card with bf16 or by the default of an argument."""
        return marked(value, self.by_default, bool(self.by_card))

    def assign(self, target: ast.expr, value: Value) -> None:
        """Follow an assignment to a name, an attribute, an element or several of them."""
        if isinstance(target, ast.Name):
            self.bind(target.id, value)
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target.elts, value)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, Unknown(target, why="It is the rest of several values."))
        elif isinstance(target, ast.Attribute):
            self.set_attribute(self.evaluate(target.value), target.attr, self.noted(value), target)
        elif isinstance(target, ast.Subscript):
            self._set_element(self.evaluate(target.value), self.evaluate(target.slice), self.noted(value))

    def _unpack(self, targets: list[ast.expr], value: Value) -> None:
        items = value.items if isinstance(value, Listing) and value.exact and len(value.items) == len(targets) else None
        for index, target in enumerate(targets):
            if items is not None:
                self.assign(target, items[index])
            else:
                why = value.why if isinstance(value, Unknown) else "It is one of several values that are not known."
                self.assign(target, Unknown(target, why=why))

    def _set_element(self, holder: Value, key: Value, value: Value) -> None:
        if isinstance(holder, Mapping):
            if isinstance(key, Known) and isinstance(key.data, str | int | bool | None):
                old = holder.items.get(key.data)
                holder.items[key.data] = self.weakened(holder, old, value)
            elif isinstance(key, Unknown) and key.either:
                for text in key.either:
                    with self.perhaps():
                        holder.items[text.data] = self.changed(holder.items.get(text.data), value, holder)
            else:
                self.scatter(holder)
        elif isinstance(holder, Listing):
            self.loosen(holder)
        elif isinstance(holder, Unknown):
            for each in holder.maybe:
                with self.perhaps():
                    self._set_element(each, key, value)

    def scatter(self, holder: Mapping) -> None:
        """A key that is not known is set: it may be any of them."""
        self.loosen(holder)
        for key, old in holder.items.items():
            holder.items[key] = self.changed(old, Unknown(why="A key that is not known is set."), holder)

    def set_attribute(self, holder: Value, name: str, value: Value, node: ast.AST) -> None:
        """Follow ``holder.name = value``."""
        if isinstance(holder, Thing | Class):
            holder.attributes[name] = self.weakened(holder, holder.attributes.get(name), value)
        elif isinstance(holder, Made):
            holder.arguments[name] = self.weakened(holder, holder.arguments.get(name), value)
            holder.places[name] = node
        elif isinstance(holder, Unknown):
            for each in holder.maybe:
                with self.perhaps():
                    self.set_attribute(each, name, value, node)

    def is_own(self, holder: Value) -> bool:
        """True where a change of this object surely happens once the object is there."""
        return not self.unsure or self.born.get(id(holder), (0, holder))[0] == self.branch

    def weakened(self, holder: Value, old: Value | None, new: Value) -> Value:
        """The new value; under a condition that is not known, what old and new have in common."""
        if self.is_own(holder):
            return new
        return self.changed(old, new, holder)

    def changed(self, old: Value | None, new: Value, holder: Value | None = None) -> Value:
        """What old and new have in common, where a condition that is not known decides between them."""
        why = "It depends on a condition that is not known."
        value = merged(old, new, why) if old is not None else Unknown(new.node, why=why)
        if not _settled(old, value):
            self.changes.append(self._birth(holder))
        return value

    def _birth(self, holder: Value | None) -> int:
        """The branch in which an object was made; what is made within a round of a loop is new in each."""
        return self.born[id(holder)][0] if id(holder) in self.born else 0

    def loosen(self, holder: Listing | Mapping | Thing | Made) -> None:
        """Say that elements were added or taken away that are not known."""
        if holder.exact:
            self.changes.append(self._birth(holder))
        holder.exact = False

    # -- conditions

    @contextmanager
    def chosen_by(self, test: Value, left_out: Sequence[ast.AST]) -> Iterator[None]:
        """Within, what is assigned holds for a card with bf16, or where an argument of the script keeps its default.

        Args:
            test: the condition that led here.
            left_out: what would have been followed otherwise.
        """
        default, self.by_default = self.by_default, self.by_default or (test.given if is_outer(test.given) else None)
        self.by_card += test.by_card
        if is_outer(test.given):
            for node in left_out:
                self.seen.left_out |= self._words(node)
        try:
            yield
        finally:
            self.by_card -= test.by_card
            self.by_default = default

    def _words(self, node: ast.AST) -> set[str]:
        """Names, attributes and keywords within."""
        if id(node) not in self.words:
            inner = list(ast.walk(node))
            self.tick(len(inner) // 4)
            found = {n.id for n in inner if isinstance(n, ast.Name)} | {
                n.attr for n in inner if isinstance(n, ast.Attribute)
            }
            self.words[id(node)] = found | {n.arg for n in inner if isinstance(n, ast.keyword) and n.arg is not None}
        return self.words[id(node)]

    def truth(self, value: Value) -> bool | None:
        """Whether a value counts as true; None where that is not known."""
        if isinstance(value, Known):
            return bool(value.data)
        if isinstance(value, Listing):
            return bool(value.items) or (None if not value.exact else False)
        if isinstance(value, Mapping):
            return bool(value.items) or (None if not value.exact else False)
        if isinstance(value, Made):
            return None if value.maker in ("RESULT",) else True
        if isinstance(value, Model | Class | Function):
            return True
        if isinstance(value, Thing) and value.of is not None:
            own = value.of.members.keys() & {"__bool__", "__len__"}
            return None if own or not all(isinstance(base, Class) for base in value.of.bases) else True
        return None

    # -- given by the other half, in expressions.py and modules.py

    def module_of(self, dotted: str) -> Module | None:
        """A module that lies beside the script, followed; None for any other."""
        raise NotImplementedError

    def evaluate(self, node: ast.expr | None) -> Value:
        raise NotImplementedError

    def decorated(self, function: Function, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Value:
        raise NotImplementedError

    def step(self, model: Model, kind: str, call: Made) -> None:
        """Write down what is done with a model."""
        model.steps.append(Step(kind, call, sure=self.is_own(model)))


def _fails(body: Sequence[ast.stmt]) -> bool:
    """True for a branch that ends the script with an error or a word of help."""
    last = body[-1] if body else None
    if isinstance(last, ast.Raise):
        return True
    call = last.value if isinstance(last, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("exit", "quit", "_exit", "error", "abort")


def _leaves(node: ast.For | ast.AsyncFor) -> bool:
    """True where a round of a loop may end it, or itself, early."""
    return any(isinstance(inner, ast.Break | ast.Continue) for each in node.body for inner in ast.walk(each))


def _alike(one: dict[str, Value], other: dict[str, Value]) -> bool:
    """True where no name stands for something else, or something less known."""
    return one.keys() == other.keys() and all(_settled(value, other[name]) for name, value in one.items())


def _settled(one: Value | None, other: Value | None, depth: int = 4) -> bool:
    """True where two values tell the same."""
    if one is other:
        return True
    if one is None or other is None or type(one) is not type(other) or depth == 0:
        return False
    if isinstance(one, Unknown):
        return True
    if isinstance(one, Thing) and isinstance(other, Thing):
        return one.of is other.of and _settled_items(one.attributes, other.attributes, depth)
    if isinstance(one, Made) and isinstance(other, Made):
        return one.maker == other.maker and _settled_items(one.arguments, other.arguments, depth)
    if isinstance(one, Model) and isinstance(other, Model):
        return one.load is other.load and [step.kind for step in one.steps] == [step.kind for step in other.steps]
    return same(one, other)


def _settled_items(one: dict[Any, Value], other: dict[Any, Value], depth: int) -> bool:
    return one.keys() == other.keys() and all(_settled(value, other[key], depth - 1) for key, value in one.items())
