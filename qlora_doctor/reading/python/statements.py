"""A script's statements about what was loaded → ``changes`` of a Setup, and those that are not followed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from ...setup.setup import Change, NotFollowed
from .arithmetic_of_updates import made_for_micro_batches
from .changes import TOKENIZER, steps_of
from .hf_calls import is_own
from .setup_builder import SetupBuilder, plain
from .training import METHODS
from .training_script import Opaque, TrainingScript
from .values import Known, Listing, Made, Name, Unknown, Value

_READ_ELSEWHERE = {"use_cache"}
"""Fields of the model's config that a Setup has a place for."""
_OF_TOKENIZER = {"pad_token", "padding_side", "truncation_side", "eos_token", "bos_token", "unk_token", "pad_token_id",
                 "model_max_length", "chat_template", "add_eos_token", "add_bos_token", "eos_token_id"}  # fmt: skip


def read_statements(script: TrainingScript, builder: SetupBuilder) -> None:
    """What the script does with the model, its config and its tokenizer before it trains."""
    _read_model(script, builder)
    tokenizer = tokenizer_of(script)
    if tokenizer is not None:
        _read_tokenizer(tokenizer, builder)
    for kind, note, node in script.seen.not_followed:
        micro = kind == "scheduler-per-micro-batch"
        if not (micro and any(made_for_micro_batches(source.tree) for source in script.sources)):
            _leave(builder, kind, note, node)
    if script.trainer is None:
        loops = any(kind == "training-loop" for kind, _, _ in script.seen.not_followed)
        unread = [] if loops else list(_unread_trainings(script))
        if loops or any(kind == "training-loop" for kind, _, _ in unread):
            unread += _unfollowed_mode(script)
        for kind, note, node in unread:
            _leave(builder, kind, note, node)
    if script.trainer is not None and script.trainer.maker not in METHODS:
        _leave(builder, "trainer", f"{script.trainer.maker} is a trainer that is not known here.", script.trainer.node)
    given = script.given("data_collator")
    if isinstance(given, Unknown) or (isinstance(given, Name) and is_own(given)):
        _leave(builder, "collator", "Which collator puts the batches together is not known.", given.node)


def _unread_trainings(script: TrainingScript) -> Iterator[tuple[str, str, ast.AST]]:
    """Trainings by something that is no trainer known here, and no loop that was seen: ``learner.fit(3)``, a step of
    the script's own that something calls."""
    for source in script.sources:
        for node in source.nodes if _STARTS.search(source.code) else ():
            called = node.func if isinstance(node, ast.Call) else None
            if not isinstance(called, ast.Attribute):
                continue
            if called.attr == "backward":
                yield "training-loop", "A training step of its own.", node
            elif called.attr in _STARTING and not _names_a_model(called.value):
                yield "trainer", f"{_short(called)}() trains by code that is not read.", node


_STARTING = {"fit", "train", "finetune", "fine_tune"}
_STARTS = re.compile(rf"\.(?:{'|'.join(sorted(_STARTING))}|backward)\(")


def _short(called: ast.expr) -> str:
    """A call's name, without the arguments of the calls that it is made of."""
    if isinstance(called, ast.Attribute):
        return f"{_short(called.value)}.{called.attr}"
    return f"{_short(called.func)}(…)" if isinstance(called, ast.Call) else ast.unparse(called)[:60]


def _unfollowed_mode(script: TrainingScript) -> Iterator[tuple[str, str, ast.AST]]:
    """A ``model.train()`` in the script's text that was not followed to a model: whose mode it sets is not known."""
    if any(step.kind == "change" and step.call.maker == "mode" for step in script.steps):
        return
    for source in script.sources:
        for node in source.nodes if ".train(" in source.code else ():
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "train" and _names_a_model(called.value):
                note = f"Whether {ast.unparse(called)[:60]}() is of the model that is trained is not followed."
                yield "mode", note, node
                return


def _names_a_model(node: ast.expr) -> bool:
    """True for ``model``, ``self.model``, ``peft_model`` and the like; an object with a train() of its own is none."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return "model" in name.lower() or name.lower() in ("net", "network", "policy", "student", "llm")


def _leave(builder: SetupBuilder, kind: str, note: str, node: ast.AST | None) -> None:
    builder.not_followed.append(NotFollowed(kind=kind, note=note, place=builder.source.place(node)))


def _read_model(script: TrainingScript, builder: SetupBuilder) -> None:
    model = script.model
    if model is None:
        return
    for name, value in model.config.arguments.items():
        if isinstance(name, str) and name not in _READ_ELSEWHERE:
            node = model.config.places.get(name)
            _take(builder, "config", name, value, node, f"model.config.{name} is set.")
    for step in model.steps:
        if step.kind == "unfollowed":
            what = step.call.arguments["what"]
            _leave(builder, step.call.maker, str(what.data) if isinstance(what, Known) else "", step.call.node)
    for when, step in steps_of(model):
        call = step.call
        if call.maker == "resize":
            _take(builder, "resize", None, call.arguments["to"], call.node, "The embeddings are resized.")
            continue
        to = _plain(call.arguments.get("to"))
        if to is None:
            _leave(builder, call.maker, "To what the model is changed is not known.", call.node)
            continue
        over, tests = _plain(call.arguments.get("over")), _tests(call.arguments.get("tests"))
        change = Change(kind=call.maker, when=when, value=to, place=builder.source.place(call.node),
                        over=over.lower() if isinstance(over, str) else None, tests=tests)  # fmt: skip
        builder.changes.append(change)


def _tests(value: Value | None) -> list[list[str]]:
    if not isinstance(value, Listing):
        return []
    return [
        [str(word.data) for word in test.items if isinstance(word, Known)]
        for test in value.items
        if isinstance(test, Listing)
    ]


def _take(builder: SetupBuilder, kind: str, name: str | None, value: Value, node: ast.AST | None, what: str) -> None:
    """One assignment, where a replay can make it."""
    place = builder.source.place(node if node is not None else value.node)
    asked = value.part if isinstance(value, Unknown) else None
    if asked is not None and isinstance(asked[0], Made) and asked[0].maker == TOKENIZER:
        builder.changes.append(Change(kind=kind, name=name, of_tokenizer=asked[1], place=place))
        return
    data = _plain(value)
    is_nothing = isinstance(value, Known) and value.data is None
    if data is None and not is_nothing:
        builder.not_followed.append(
            NotFollowed(kind=kind, note=f"{what[:-1]} to a value that is not known.", place=place)
        )
    else:
        builder.changes.append(Change(kind=kind, name=name, value=data, place=place))


def _plain(value: Value | None) -> Any:
    try:
        return plain(value) if value is not None else None
    except Opaque:
        return None


def tokenizer_of(script: TrainingScript) -> Made | None:
    """The tokenizer that the trainer is given, else the only one of the script."""
    for name in ("processing_class", "tokenizer"):
        given = script.given(name)
        if isinstance(given, Made):
            return given if given.maker == TOKENIZER else None
    found = {id(call): call for call, _ in script.seen.calls if call.maker == TOKENIZER}
    return next(iter(found.values())) if len(found) == 1 else None


def _read_tokenizer(tokenizer: Made, builder: SetupBuilder) -> None:
    for name, value in tokenizer.arguments.items():
        if not isinstance(name, str):
            continue
        node = tokenizer.places.get(name)
        if name.startswith("+"):
            _read_added(name, value, node, builder)
        elif name in _OF_TOKENIZER:
            _read_field(name, value, node, builder)


def _read_field(name: str, value: Value, node: ast.AST | None, builder: SetupBuilder) -> None:
    if isinstance(value, Made) and value.maker == "IF-NONE":
        before = len(builder.changes)
        _take(builder, "tokenizer", name, value.arguments["value"], node, f"tokenizer.{name} is set.")
        asks = value.arguments["asks"]
        if len(builder.changes) > before and isinstance(asks, Known):
            builder.changes[-1] = builder.changes[-1].model_copy(update={"if_none": str(asks.data)})
        return
    _take(builder, "tokenizer", name, value, node, f"tokenizer.{name} is set.")


def _read_added(name: str, value: Value, node: ast.AST | None, builder: SetupBuilder) -> None:
    """``tokenizer.add_tokens([…])`` and ``add_special_tokens({…})``."""
    data = _plain(value)
    kind = "add-special-tokens" if isinstance(data, dict) else "add-tokens"
    if data is None:
        note = "Tokens are added that are not known."
        builder.not_followed.append(NotFollowed(kind="add-tokens", note=note, place=builder.source.place(node)))
    else:
        builder.changes.append(Change(kind=kind, value=data, place=builder.source.place(node)))
