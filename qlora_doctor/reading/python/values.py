"""What an expression of a script is known to be.

Every value knows where it was written. ``Unknown`` says why it cannot be known; nothing is ever guessed.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from .source import Written

Node = ast.AST
MOST_TEXT = 20_000
MOST_ITEMS = 5_000
MOST_CANDIDATES = 8


@dataclass(slots=True, eq=False)
class Value:
    """Anything an expression can be.

    Attributes:
        node: where it was written.
        given: None where the script itself writes it; otherwise whose default it is, in words.
        by_card: it holds on a card with bf16 arithmetic; on another the script chooses something else.
    """

    node: Node | None = None
    given: str | None = None
    by_card: bool = False


@dataclass(slots=True, eq=False)
class Unknown(Value):
    """Not known, and why.

    Attributes:
        maybe: lists and dicts of the script that it may be: what is done to it may be done to them.
        part: what it is read from, a model or a tokenizer, and under which name.
        either: the texts that it may be, where these are all, such as the configs that several command lines name.
    """

    why: str = "It is worked out while the script runs."
    maybe: tuple[Value, ...] = ()
    either: tuple[Known, ...] = ()
    part: tuple[Value, str] | None = None


@dataclass(slots=True, eq=False)
class Known(Value):
    """A constant: text, number, truth value, None."""

    data: Any = None


@dataclass(slots=True, eq=False)
class Listing(Value):
    """A list, tuple or set; not exact where elements were added that are not known.

    Attributes:
        linear_of: the class of layers whose names a loop over the model's modules put into it, where it holds these
            alone.
        head_taken_out: the output head's name was taken out again.
    """

    items: list[Value] = field(default_factory=list)
    exact: bool = True
    linear_of: str | None = None
    head_taken_out: bool = False


@dataclass(slots=True, eq=False)
class Mapping(Value):
    """A dict; not exact where keys were added that are not known."""

    items: dict[Any, Value] = field(default_factory=dict)
    exact: bool = True


@dataclass(slots=True, eq=False)
class Name(Value):
    """Something of a library: ``torch.bfloat16``, ``transformers.AutoModelForCausalLM``."""

    dotted: str = ""

    @property
    def last(self) -> str:
        return self.dotted.rpartition(".")[2]


@dataclass(slots=True, eq=False)
class Module(Value):
    """A module that lies beside the script and was followed.

    Attributes:
        names: what it defines.
        dotted: its name where it is imported.
    """

    names: dict[str, Value] = field(default_factory=dict)
    dotted: str = ""


@dataclass(slots=True, eq=False)
class Made(Value):
    """What a call into a library returns, with the arguments of the call; assignments to attributes are arguments too.

    Attributes:
        maker: the last part of what was called, or the class of a ``Class.from_pretrained``.
        arguments: by name; positional ones under their number.
        exact: False where arguments came from something that is not known.
        why: what decides those arguments.
    """

    maker: str = ""
    arguments: dict[Any, Value] = field(default_factory=dict)
    exact: bool = True
    why: str = ""
    places: dict[Any, Node] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Model(Value):
    """A model on its way through the script.

    Attributes:
        load: the call that loads it; None where something loads it that was not read.
        steps: what was done with it, in order.
        touched: why something unseen may have been done with it; None where all is seen.
    """

    load: Made | None = None
    steps: list[Step] = field(default_factory=list)
    touched: str | None = None
    config: Made = field(default_factory=lambda: Made(maker="MODEL_CONFIG"))


@dataclass(slots=True, eq=False)
class Step:
    """One thing done with a model.

    Attributes:
        kind: ``prepare``, ``attach``, ``load-adapter``, ``checkpointing``, ``trainer``, …
        sure: False where a condition that is not known decides whether it happens.
    """

    kind: str
    call: Made
    sure: bool = True


@dataclass(slots=True, eq=False)
class Thing(Value):
    """An object of a class of the script, or an argparse namespace."""

    of: Class | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    exact: bool = True


@dataclass(slots=True, eq=False)
class Class(Value):
    """A class of the script."""

    body: ast.ClassDef | None = None
    scope: Any = None
    bases: list[Value] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    """What was assigned to the class after it was made."""
    members: dict[str, Value] = field(default_factory=dict)
    """The names of its body, once that was followed."""


@dataclass(slots=True, eq=False)
class Function(Value):
    """A function of the script, bound to an object where it is a method."""

    body: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None = None
    scope: Any = None
    bound: Value | None = None
    owner: Class | None = None
    options: dict[str, Value] = field(default_factory=dict)


def same(one: Value, other: Value, depth: int = 6) -> bool:
    """True where two values are known to be equal."""
    if one is other:
        return True
    if depth == 0 or type(one) is not type(other):
        return False
    if isinstance(one, Known) and isinstance(other, Known):
        return type(one.data) is type(other.data) and one.data == other.data and one.by_card == other.by_card
    if isinstance(one, Name) and isinstance(other, Name):
        return one.dotted == other.dotted
    if isinstance(one, Listing) and isinstance(other, Listing):
        if not (one.exact and other.exact) or len(one.items) != len(other.items) or len(one.items) > 64:
            return False
        return all(same(a, b, depth - 1) for a, b in zip(one.items, other.items, strict=True))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if not (one.exact and other.exact) or one.items.keys() != other.items.keys() or len(one.items) > 64:
            return False
        return all(same(value, other.items[key], depth - 1) for key, value in one.items.items())
    return False


def merged(one: Value, other: Value, why: str, depth: int = 4) -> Value:
    """What is known where either of two values may stand."""
    if same(one, other):
        return one
    if depth:
        if isinstance(one, Made) and isinstance(other, Made) and one.maker == other.maker:
            return _merged_calls(one, other, why, depth)
        if isinstance(one, Model) and isinstance(other, Model):
            return _merged_models(one, other, why, depth)
        if isinstance(one, Thing) and isinstance(other, Thing) and one.of is other.of:
            both = _merged_items(one.attributes, other.attributes, why, depth)
            return Thing(one.node, of=one.of, attributes=both, exact=one.exact and other.exact)
        if is_written(one) and is_written(other) and isinstance(one, Mapping) and isinstance(other, Mapping):
            both = _merged_items(one.items, other.items, why, depth)
            return Mapping(one.node, items=both, exact=one.exact and other.exact)
    unknown = next((value for value in (one, other) if isinstance(value, Unknown)), None)
    maybe, texts = _candidates(one, other), (_texts(one), _texts(other))
    if unknown is not None and (not maybe or maybe == unknown.maybe) and not all(texts):
        return unknown
    either = (*texts[0], *texts[1])[:MOST_CANDIDATES] if all(texts) else ()
    return Unknown(one.node or other.node, why=unknown.why if unknown is not None else why, maybe=maybe, either=either)


def is_written(value: Value) -> bool:
    """True for what stands in a file that the script reads."""
    return isinstance(value.node, Written)


def _texts(value: Value) -> tuple[Known, ...]:
    """The texts that a value may be, where these are all; empty where they are not known."""
    if isinstance(value, Unknown):
        return value.either
    return (value,) if isinstance(value, Known) and isinstance(value.data, str) else ()


def _candidates(*values: Value) -> tuple[Value, ...]:
    """The lists and dicts that one of these values may be."""
    found: dict[int, Value] = {}
    for value in values:
        for each in value.maybe if isinstance(value, Unknown) else (value,):
            if isinstance(each, Mapping | Listing | Thing | Made):
                found[id(each)] = each
    return tuple(list(found.values())[:MOST_CANDIDATES])


def _merged_items(one: dict[Any, Value], other: dict[Any, Value], why: str, depth: int) -> dict[Any, Value]:
    both: dict[Any, Value] = {}
    for name in [*one, *(name for name in other if name not in one)]:
        if name in one and name in other:
            both[name] = merged(one[name], other[name], why, depth - 1)
        else:
            both[name] = Unknown((one.get(name) or other[name]).node, why=why)
    return both


def _merged_calls(one: Made, other: Made, why: str, depth: int) -> Made:
    """Two calls of the same thing: arguments that differ are unknown."""
    return Made(
        one.node,
        maker=one.maker,
        arguments=_merged_items(one.arguments, other.arguments, why, depth),
        exact=one.exact and other.exact,
        why=one.why or other.why,
        places={**other.places, **one.places},
    )


def merged_calls(calls: list[Made], why: str) -> Made:
    """Several calls of the same thing."""
    made = calls[0]
    for call in calls[1:]:
        made = _merged_calls(made, call, why, 4)
    return made


def _merged_models(one: Model, other: Model, why: str, depth: int) -> Model:
    load = one.load
    if load is not other.load:
        alike = load is not None and other.load is not None and load.maker == other.load.maker
        load = _merged_calls(load, other.load, why, depth) if alike and load and other.load else None
    config = one.config if one.config is other.config else _merged_calls(one.config, other.config, why, depth)
    touched = one.touched or other.touched or (why if load is None else None)
    return Model(one.node, load=load, steps=_merged_steps(one, other, why, depth), touched=touched, config=config)


def _merged_steps(one: Model, other: Model, why: str, depth: int) -> list[Step]:
    """Steps that both went through; those of one alone may or may not have happened."""
    theirs = {id(step) for step in other.steps}
    shared = [step for step in one.steps if id(step) in theirs]
    common = {id(step) for step in shared}
    own = [step for step in one.steps if id(step) not in common]
    twins = [step for step in other.steps if id(step) not in common]
    if [step.kind for step in own] != [step.kind for step in twins]:
        return [*shared, *(Step(step.kind, step.call, sure=False) for step in (*own, *twins))]
    return [
        *shared,
        *(
            Step(a.kind, _merged_calls(a.call, b.call, why, depth), a.sure and b.sure)
            for a, b in zip(own, twins, strict=True)
        ),
    ]
