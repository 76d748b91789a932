"""Arguments of a script: argparse, dataclasses, HfArgumentParser and its kin, click and typer.

A script is read as if it ran without arguments: what has a default has it, the rest the command line decides.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from .expressions import Expressions
from .provenance import INNER, given
from .values import Class, Function, Known, Listing, Made, Mapping, Name, Thing, Unknown, Value

TRAINING_CLASSES = {
    "TrainingArguments": "transformers",
    "Seq2SeqTrainingArguments": "transformers",
    "UnslothTrainingArguments": "sft",
    "SFTConfig": "sft",
    "DPOConfig": "dpo",
    "ORPOConfig": "orpo",
    "KTOConfig": "kto",
    "CPOConfig": "cpo",
    "BCOConfig": "bco",
    "GRPOConfig": "grpo",
    "RLOOConfig": "rloo",
    "PPOConfig": "ppo",
    "RewardConfig": "reward",
    "GKDConfig": "gkd",
}
PARSERS = {"HfArgumentParser", "TrlParser", "H4ArgumentParser", "DataClassArgumentParser"}
_PARSED = {"parse_args_into_dataclasses", "parse_args_and_config", "parse", "parse_args"}
_FROM_FILE = {"parse_json_file", "parse_yaml_file", "parse_dict", "parse_yaml_config", "parse_toml_file"}


class Arguments(Expressions):
    """The part of the machine that knows how scripts take arguments."""

    # -- classes of the script

    def base_of_libraries(self, owner: Class) -> str | None:
        """The library's class that a class of the script inherits from."""
        return next((base.last for base in self.lineage(owner) if isinstance(base, Name)), None)

    def is_record(self, owner: Class) -> bool:
        """True for a dataclass, a pydantic model, a NamedTuple: its fields are its arguments."""
        return any(
            base.last in ("BaseModel", "BaseSettings", "NamedTuple", "TypedDict")
            if isinstance(base, Name)
            else isinstance(base, Class) and _is_decorated_record(base)
            for base in self.lineage(owner)
        )

    def fields(self, owner: Class) -> Iterator[tuple[str, Value | None]]:
        """(name, default or None) of a record's fields, those inherited first."""
        for base in reversed(self.lineage(owner)):
            for statement in base.body.body if isinstance(base, Class) and base.body is not None else ():
                self.tick()
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    annotation = statement.annotation
                    if "ClassVar" in _names(annotation.value if isinstance(annotation, ast.Subscript) else annotation):
                        continue
                    yield statement.target.id, self._field_default(owner, statement.value)

    def _field_default(self, owner: Class, node: ast.expr | None) -> Value | None:
        if node is None:
            return None
        if not isinstance(node, ast.Call) or not _called(node, "field", "Field", "HfArg", "Option", "Argument"):
            return self.in_scope(owner, node)
        for keyword in node.keywords:
            if keyword.arg == "default":
                return None if _is_missing(keyword.value) else self.in_scope(owner, keyword.value)
            if keyword.arg in ("default_factory", "factory"):
                return self._from_factory(owner, keyword.value)
        if node.args and not _called(node, "field"):
            return None if _is_missing(node.args[0]) else self.in_scope(owner, node.args[0])
        return None

    def _from_factory(self, owner: Class, factory: ast.expr) -> Value:
        if isinstance(factory, ast.Lambda):
            return self.in_scope(owner, factory.body)
        made = self.in_scope(owner, factory)
        if isinstance(made, Name) and made.dotted in ("list", "tuple", "set"):
            return Listing(factory)
        if isinstance(made, Name) and made.dotted == "dict":
            return Mapping(factory)
        if isinstance(made, Class):
            return self.instantiate(made, factory, [], {}, False)
        return self.call_function(made, [], {}, False) if isinstance(made, Function) else Unknown(factory)

    def instantiate(
        self, owner: Class, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value:
        """An object of a class of the script."""
        base = self.base_of_libraries(owner)
        if base in TRAINING_CLASSES:
            return self._training_arguments(owner, base, node, named, rest)
        if base is not None and (base.endswith("Trainer") or base == "LoraConfig"):
            return self.call_of_libraries(Name(node, dotted=base), node, positional, named, rest)
        thing = Thing(node, of=owner, exact=not rest)
        if self.is_record(owner):
            self._fill(thing, owner, positional, named, rest)
        else:
            maker = self.class_attribute(owner, "__init__")
            if isinstance(maker, Function):
                bound = Function(maker.node, body=maker.body, scope=maker.scope, bound=thing, owner=maker.owner)
                self.call_function(bound, positional, named, rest)
        return thing

    def _fill(self, thing: Thing, owner: Class, positional: list[Value], named: dict[str, Value], rest: bool) -> None:
        for index, (name, default) in enumerate(self.fields(owner)):
            if name in named:
                thing.attributes[name] = named[name]
            elif index < len(positional):
                thing.attributes[name] = positional[index]
            elif rest or default is None:
                thing.attributes[name] = Unknown(default.node if default else None, why=f"{name} is given elsewhere.")
            else:
                thing.attributes[name] = given(default, f"{INNER}{owner.body.name if owner.body else ''}.{name}")
        after = self.class_attribute(owner, "__post_init__")
        if isinstance(after, Function):
            self.call_function(
                Function(after.node, body=after.body, scope=after.scope, bound=thing, owner=owner), [], {}, False
            )

    def _training_arguments(self, owner: Class, base: str, node: ast.AST, named: dict[str, Value], rest: bool) -> Made:
        """Arguments of a class that inherits from TrainingArguments: its own defaults and what is passed."""
        made = Made(node, maker=base, exact=not rest, why="What is passed on is not known." if rest else "")
        for name, default in self.fields(owner):
            if default is not None:
                made.arguments[name] = given(default, f"{INNER}{owner.body.name if owner.body else ''}.{name}")
        made.arguments.update(named)
        return made

    # -- parsers of dataclasses

    def parsed(self, parser: Made, method: str, named: dict[str, Value]) -> Value | None:
        """What a parser of dataclasses returns; None where the method is another."""
        if method not in _PARSED and method not in _FROM_FILE:
            return None
        kinds = parser.arguments.get(0, parser.arguments.get("dataclass_types"))
        classes = kinds.items if isinstance(kinds, Listing) else [kinds] if kinds is not None else []
        whose = "a file" if method in _FROM_FILE else "the command line"
        made: list[Value] = [self.from_outside(each, whose, method in _FROM_FILE) for each in classes]
        more = named.get("return_remaining_strings")
        if isinstance(more, Known) and more.data:
            made.append(Unknown(why="The command line decides."))
        return Listing(parser.node, items=made)

    def from_outside(self, owner: Value, whose: str, all_of_it: bool = False) -> Value:
        """An object whose fields the command line (or a file) may set."""
        why = f"{whose[:1].upper()}{whose[1:]} decides on it."
        if isinstance(owner, Name):
            return Made(owner.node, maker=owner.last, exact=False, why=why)
        if not isinstance(owner, Class) or owner.body is None:
            return Unknown(why=why)
        base = self.base_of_libraries(owner)
        if base in TRAINING_CLASSES:
            made = self._training_arguments(owner, base, owner.body, {}, False)
            made.exact, made.why = False, why
            made.arguments = {n: self._argument(n, v, why, all_of_it) for n, v in made.arguments.items()}
            return made
        thing = Thing(owner.body, of=owner, exact=base in (None, "object"))
        for name, default in self.fields(owner):
            thing.attributes[name] = self._argument(name, default, why, all_of_it)
        after = self.class_attribute(owner, "__post_init__")
        if isinstance(after, Function):
            self.call_function(
                Function(after.node, body=after.body, scope=after.scope, bound=thing, owner=owner), [], {}, False
            )
        return thing

    def _argument(self, name: str, default: Value | None, why: str, all_of_it: bool) -> Value:
        if default is None or all_of_it:
            return Unknown(default.node if default is not None else None, why=why)
        value = given(default, "")
        value.given = f"default of the script's argument --{name}"
        return value

    # -- argparse

    def add_argument(self, parser: Made, node: ast.AST, positional: list[Value], named: dict[str, Value]) -> None:
        """Follow ``parser.add_argument(…)``."""
        flags = [value.data for value in positional if isinstance(value, Known) and isinstance(value.data, str)]
        if not flags:
            return
        long = [flag for flag in flags if flag.startswith("--")] or flags
        dest = named.get("dest")
        name = (
            dest.data
            if isinstance(dest, Known) and isinstance(dest.data, str)
            else long[0].lstrip("-").replace("-", "_")
        )
        action = named.get("action")
        word = action.data if isinstance(action, Known) else None
        default = named.get("default")
        if default is None and word in ("store_true", "store_false"):
            default = Known(node, data=word == "store_false")
        why = f"The command line decides on {long[0]}."
        required = named.get("required")
        needed = (isinstance(required, Known) and required.data) or not long[0].startswith("-")
        if needed or default is None:
            parser.arguments[name] = (
                Unknown(node, why=why) if needed else Known(node, f"script's argument {long[0]}", data=None)
            )
            return
        kind = named.get("type")
        value = given(self._converted(default, kind, node), "")
        value.given = f"default of the script's argument {long[0]}"
        parser.arguments[name] = value

    def _converted(self, default: Value, kind: Value | None, node: ast.AST) -> Value:
        """argparse converts a default that is a text by the argument's type."""
        if not isinstance(default, Known) or not isinstance(default.data, str) or not isinstance(kind, Name):
            return default
        convert = {"int": int, "float": float}.get(kind.dotted)
        if convert is None:
            return default
        try:
            return Known(default.node, data=convert(default.data))
        except ValueError:
            return Unknown(node)

    def namespace(self, parser: Made, node: ast.AST) -> Thing:
        """What ``parse_args()`` returns without arguments."""
        return Thing(node, attributes=dict(parser.arguments), exact=parser.exact)

    # -- click and typer

    def decorated(self, function: Function, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Value:
        """A function under its decorators."""
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call | ast.Attribute | ast.Name):
                continue
            call = decorator if isinstance(decorator, ast.Call) else None
            target = call.func if call is not None else decorator
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            if call is not None and name == "option":
                self._click_option(function, call)
            elif name in ("command", "callback") and isinstance(target, ast.Attribute):
                holder = self.evaluate(target.value)
                if isinstance(holder, Made):
                    holder.arguments["command"] = function
        return function

    def _click_option(self, function: Function, call: ast.Call) -> None:
        values = [self.evaluate(arg) for arg in call.args]
        flags = [value.data for value in values if isinstance(value, Known) and isinstance(value.data, str)]
        named = {keyword.arg: self.evaluate(keyword.value) for keyword in call.keywords if keyword.arg}
        long = next((flag for flag in flags if flag.startswith("--")), None)
        if long is None:
            return
        plain = [flag for flag in flags if not flag.startswith("-")]
        name = plain[0] if plain else long.partition("/")[0].lstrip("-").replace("-", "_").lower()
        flag = named.get("is_flag")
        default: Any = named.get("default")
        if default is None and isinstance(flag, Known) and flag.data:
            default = Known(call, data=False)
        if default is None:
            function.options[name] = Unknown(call, why=f"The command line decides on {long}.")
        else:
            value = given(default, "")
            value.given = f"default of the script's option {long}"
            function.options[name] = value

    # -- given by hf_calls.py

    def call_of_libraries(
        self, callee: Name, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value:
        raise NotImplementedError


def _is_decorated_record(owner: Class) -> bool:
    """True under ``@dataclass``, ``@attrs.define`` and the like."""
    for decorator in owner.body.decorator_list[:8] if owner.body is not None else ():
        names = _names(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if names & {"dataclass", "attr", "attrs", "define"}:
            return True
    return False


def _names(node: ast.expr) -> set[str]:
    """The parts of a dotted name."""
    names: set[str] = set()
    while isinstance(node, ast.Attribute) and len(names) < 8:
        names.add(node.attr)
        node = node.value
    return names | {node.id} if isinstance(node, ast.Name) else names


def _called(node: ast.Call, *names: str) -> bool:
    target = node.func
    return (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")) in names


def _is_missing(node: ast.expr) -> bool:
    """``...`` and ``MISSING`` say that there is no default."""
    return (isinstance(node, ast.Constant) and node.value is ...) or "MISSING" in _names(node)
