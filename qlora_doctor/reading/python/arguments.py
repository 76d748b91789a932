"""Arguments of a script: argparse, dataclasses, HfArgumentParser and its kin, click and typer.

A script is read as if it ran without arguments: what has a default has it, the rest the command line decides.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .argparsing import Argparse
from .files import content
from .hydra import composed
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
    "OnlineDPOConfig": "online-dpo",
    "NashMDConfig": "nash-md",
    "XPOConfig": "xpo",
    "PRMConfig": "prm",
    "GOLDConfig": "gold",
    "SDFTConfig": "sdft",
    "SDPOConfig": "sdpo",
    "TPOConfig": "tpo",
    "A2POConfig": "a2po",
    "GMPOConfig": "gmpo",
    "IWOPDConfig": "iw-opd",
    "AsyncGRPOConfig": "grpo",
    "MiniLLMConfig": "minillm",
    "PAPOConfig": "papo",
}
PARSERS = {"HfArgumentParser", "TrlParser", "H4ArgumentParser", "DataClassArgumentParser"}
_PARSED = {"parse_args_into_dataclasses", "parse_args_and_config", "parse", "parse_args"}
_FROM_FILE = {"parse_json_file", "parse_yaml_file", "parse_dict", "parse_yaml_config", "parse_toml_file"}


@dataclass(frozen=True)
class Outside:
    """What the fields of dataclasses are set to from outside.

    Attributes:
        whose: ``the command line`` or ``a file``.
        values: what it sets, by name.
        whole: all that it sets is known, so that the rest has its default.
        decides_all: a file of its own brings every value, and was not read.
        why: in words, where that is more than whose it is.
    """

    whose: str
    values: dict[str, Value]
    whole: bool
    decides_all: bool = False
    why: str = ""

    @property
    def reason(self) -> str:
        """Why a value cannot be known."""
        return self.why or f"{self.whose[:1].upper()}{self.whose[1:]} decides on it."


UNSEEN = Outside("the command line", {}, whole=False)


class Arguments(Argparse):
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
                    assert isinstance(base, Class)
                    name = statement.target.id
                    yield name, self._field_default(base, name, statement.value)

    def _field_default(self, owner: Class, name: str, node: ast.expr | None) -> Value | None:
        if node is None:
            return None
        if not isinstance(node, ast.Call) or not _called(node, "field", "Field", "HfArg", "Option", "Argument"):
            return owner.members.get(name)
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
        if base is not None and base.endswith("Trainer"):
            self.trains_with(owner)
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
        kinds = dict(self.annotations(owner)) if any(isinstance(value, Mapping) for value in named.values()) else {}
        for index, (name, default) in enumerate(self.fields(owner)):
            if name in named:
                thing.attributes[name] = self._record_of(named[name], kinds.get(name, set()), owner)
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

    def _record_of(self, value: Value, kinds: set[str], owner: Class) -> Value:
        """A dict passed for a field that is a record of its own becomes one, as pydantic has it."""
        if not isinstance(value, Mapping) or not value.exact or not self.is_model(owner):
            return value
        scope = owner.scope or self.module
        classes = [found for name in sorted(kinds) if isinstance(found := scope.find(name), Class)]
        if len(classes) != 1 or not self.is_record(classes[0]) or self.depth > 40:
            return value
        named = {str(name): inner for name, inner in value.items.items()}
        return self.instantiate(classes[0], value.node or classes[0].node or ast.Pass(), [], named, False)

    def is_model(self, owner: Class) -> bool:
        """True for a pydantic model."""
        return any(
            isinstance(base, Name) and base.last in ("BaseModel", "BaseSettings") for base in self.lineage(owner)
        )

    def validated(self, owner: Value, name: str, node: ast.AST, positional: list[Value]) -> Value | None:
        """``Model.model_validate(dict)`` of pydantic; None for anything else."""
        if name not in ("model_validate", "parse_obj", "validate_python") or not isinstance(owner, Class):
            return None
        if not positional or not isinstance(positional[0], Mapping) or not self.is_model(owner):
            return None
        named = {str(key): value for key, value in positional[0].items.items()}
        return self.instantiate(owner, node, [], named, not positional[0].exact)

    def _training_arguments(self, owner: Class, base: str, node: ast.AST, named: dict[str, Value], rest: bool) -> Made:
        """Arguments of a class that inherits from TrainingArguments: its own defaults and what is passed."""
        made = Made(node, maker=base, exact=not rest, why="What is passed on is not known." if rest else "")
        for name, default in self.fields(owner):
            if default is not None:
                made.arguments[name] = given(default, f"{INNER}{owner.body.name if owner.body else ''}.{name}")
        made.arguments.update(named)
        return made

    # -- parsers of dataclasses

    def parsed(
        self, parser: Made, method: str, node: ast.AST, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        """What a parser of dataclasses returns; None where the method is another."""
        if method not in _PARSED and method not in _FROM_FILE:
            return None
        kinds = parser.arguments.get(0, parser.arguments.get("dataclass_types"))
        classes = kinds.items if isinstance(kinds, Listing) else [kinds] if kinds is not None else []
        if method in _FROM_FILE:
            outside = self._from_file(method, node, positional, named)
        else:
            outside = self._from_command_line(parser, method, classes, node)
        made: list[Value] = [self.from_outside(each, outside) for each in classes]
        more = named.get("return_remaining_strings")
        if isinstance(more, Known) and more.data:
            made.append(Unknown(why="The command line decides."))
        return Listing(parser.node, items=made)

    def _from_file(self, method: str, node: ast.AST, positional: list[Value], named: dict[str, Value]) -> Outside:
        """``parse_yaml_file(path)`` and its kin: what the file leaves out has its default."""
        held = positional[0] if positional else next((v for n, v in named.items() if n != "allow_extra_keys"), None)
        if isinstance(held, Known) and isinstance(held.data, str):
            held = content(self, held, node)
        if isinstance(held, Mapping) and held.exact:
            return Outside("a file", {str(name): value for name, value in held.items.items()}, whole=True)
        why = held.why if isinstance(held, Unknown) else "A file decides on it."
        return Outside("a file", {}, whole=False, decides_all=True, why=why)

    def _from_command_line(self, parser: Made, method: str, classes: list[Value], node: ast.AST) -> Outside:
        """The command lines that start the script, and the config file that one names."""
        own = [each for each in classes if isinstance(each, Class)]
        listed, texts = set[str](), set[str]()
        for owner in own:
            for name, words in self.annotations(owner):
                if words & {"list", "List", "Sequence", "Tuple"}:
                    listed.add(name)
                elif "str" in words and not words & {"int", "float", "bool"}:
                    texts.add(name)
        values, all_given = self.settings(listed, texts)
        whole = bool(all_given) and all(each.whole for each in all_given)
        named = values.pop("config", None) if parser.maker == "TrlParser" else None
        if named is None and parser.maker == "H4ArgumentParser" and len(self.starts) == 1:
            first = next(iter(self.argv(node).items[1:]), None)
            named = first if isinstance(first, Known) and str(first.data).endswith((".yaml", ".yml")) else None
        if isinstance(named, Known):
            held = content(self, named, node)
            if isinstance(held, Mapping):
                values = {**{str(name): value for name, value in held.items.items()}, **values}
            else:
                whole = False
        elif named is not None:
            whole = False
        return Outside("the command line", values, whole)

    def annotations(self, owner: Class) -> Iterator[tuple[str, set[str]]]:
        """(name, names within the annotation) of a record's fields."""
        for base in self.lineage(owner):
            for statement in base.body.body if isinstance(base, Class) and base.body is not None else ():
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    written = statement.annotation
                    if isinstance(written, ast.Constant) and isinstance(written.value, str):
                        yield statement.target.id, set(re.findall(r"\w+", written.value[:200]))
                    else:
                        names = (n for n in ast.walk(written) if isinstance(n, ast.Name | ast.Attribute))
                        yield statement.target.id, {n.id if isinstance(n, ast.Name) else n.attr for n in names}

    def from_outside(self, owner: Value, outside: Outside) -> Value:
        """An object whose fields the command line (or a file) may set."""
        why = outside.reason
        if isinstance(owner, Name):
            return Made(owner.node, maker=owner.last, arguments=dict(outside.values), exact=outside.whole, why=why)
        if not isinstance(owner, Class) or owner.body is None:
            return Unknown(why=why)
        base = self.base_of_libraries(owner)
        if base in TRAINING_CLASSES:
            made = self._training_arguments(owner, base, owner.body, {}, False)
            made.exact, made.why = outside.whole, why
            made.arguments = {n: self._argument(n, v, outside) for n, v in made.arguments.items()} | outside.values
            return made
        thing = Thing(owner.body, of=owner, exact=base in (None, "object"))
        for name, default in self.fields(owner):
            thing.attributes[name] = self._argument(name, default, outside)
        after = self.class_attribute(owner, "__post_init__")
        if isinstance(after, Function):
            self.call_function(
                Function(after.node, body=after.body, scope=after.scope, bound=thing, owner=owner), [], {}, False
            )
        return thing

    def _argument(self, name: str, default: Value | None, outside: Outside) -> Value:
        if name in outside.values:
            return outside.values[name]
        if default is None or outside.decides_all:
            return Unknown(default.node if default is not None else None, why=outside.reason)
        value = given(default, "")
        value.given = f"{INNER}the class" if outside.whole else f"default of the script's argument --{name}"
        return value

    def from_cli(self, node: ast.AST) -> Made:
        """What ``OmegaConf.from_cli()`` returns: what the command line sets, each of which replaces a value."""
        return Made(node, maker="OVERRIDES", exact=False, why="The command line decides.")

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
            elif call is not None and name == "main" and ast.unparse(target) == "hydra.main" and node.args.args:
                given_to = {keyword.arg: self.evaluate(keyword.value) for keyword in call.keywords if keyword.arg}
                function.options[node.args.args[0].arg] = composed(self, call, given_to)
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

    # -- given by changes.py and hf_calls.py

    def trains_with(self, owner: Class) -> None:
        """Note what a trainer's class of the script does otherwise than the library's."""
        raise NotImplementedError

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
