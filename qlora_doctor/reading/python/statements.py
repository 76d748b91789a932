"""A story's statements about what was loaded → ``changes`` of a Setup, and those that are not followed."""

from __future__ import annotations

import ast
from typing import Any

from ...setup.setup import Change, NotFollowed
from .changes import TOKENIZER, steps_of
from .hf_calls import is_own
from .sheet import Sheet, plain
from .story import Opaque, Story
from .training import METHODS
from .values import Known, Listing, Made, Name, Unknown, Value

_READ_ELSEWHERE = {"use_cache"}
"""Fields of the model's config that a Setup has a place for."""
_OF_TOKENIZER = {"pad_token", "padding_side", "truncation_side", "eos_token", "bos_token", "unk_token", "pad_token_id",
                 "model_max_length", "chat_template", "add_eos_token", "add_bos_token", "eos_token_id"}  # fmt: skip
_WITHOUT_EFFECT = {"mode"}


def read_statements(story: Story, sheet: Sheet) -> None:
    """What the script does with the model, its config and its tokenizer before it trains."""
    _read_model(story, sheet)
    tokenizer = tokenizer_of(story)
    if tokenizer is not None:
        _read_tokenizer(tokenizer, sheet)
    for kind, note, node in story.seen.not_followed:
        _leave(sheet, kind, note, node)
    mode = None
    if story.trainer is None and any(kind == "training-loop" for kind, _, _ in story.seen.not_followed):
        mode = _unfollowed_mode(story)
    if mode is not None:
        _leave(sheet, "mode", *mode)
    if story.trainer is not None and story.trainer.maker not in METHODS:
        _leave(sheet, "trainer", f"{story.trainer.maker} is a trainer that is not known here.", story.trainer.node)
    given = story.given("data_collator")
    if isinstance(given, Unknown) or (isinstance(given, Name) and is_own(given)):
        _leave(sheet, "collator", "Which collator puts the batches together is not known.", given.node)


def _unfollowed_mode(story: Story) -> tuple[str, ast.AST] | None:
    """A ``model.train()`` in the script's text that was not followed to a model: whose mode it sets is not known."""
    if any(step.kind == "change" and step.call.maker == "mode" for step in story.steps):
        return None
    for source in story.sources:
        for node in ast.walk(source.tree) if ".train(" in source.code else ():
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "train" and _names_a_model(called.value):
                note = f"Whether {ast.unparse(called)[:60]}() is of the model that is trained is not followed."
                return note, node
    return None


def _names_a_model(node: ast.expr) -> bool:
    """True for ``model``, ``self.model``, ``peft_model`` and the like; an object with a train() of its own is none."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return "model" in name.lower() or name.lower() in ("net", "network", "policy", "student", "llm")


def _leave(sheet: Sheet, kind: str, note: str, node: ast.AST | None) -> None:
    sheet.not_followed.append(NotFollowed(kind=kind, note=note, place=sheet.source.place(node)))


def _read_model(story: Story, sheet: Sheet) -> None:
    model = story.model
    if model is None:
        return
    for name, value in model.config.arguments.items():
        if isinstance(name, str) and name not in _READ_ELSEWHERE:
            node = model.config.places.get(name)
            _take(sheet, "config", name, value, node, f"model.config.{name} is set.")
    for step in model.steps:
        if step.kind == "unfollowed":
            what = step.call.arguments["what"]
            _leave(sheet, step.call.maker, str(what.data) if isinstance(what, Known) else "", step.call.node)
    for when, step in steps_of(model):
        call = step.call
        if call.maker == "resize":
            _take(sheet, "resize", None, call.arguments["to"], call.node, "The embeddings are resized.")
            continue
        to = _plain(call.arguments.get("to"))
        if to is None:
            _leave(sheet, call.maker, "To what the model is changed is not known.", call.node)
            continue
        over, tests = _plain(call.arguments.get("over")), _tests(call.arguments.get("tests"))
        change = Change(kind=call.maker, when=when, value=to, place=sheet.source.place(call.node),
                        over=over.lower() if isinstance(over, str) else None, tests=tests)  # fmt: skip
        sheet.changes.append(change)


def _tests(value: Value | None) -> list[list[str]]:
    if not isinstance(value, Listing):
        return []
    return [
        [str(word.data) for word in test.items if isinstance(word, Known)]
        for test in value.items
        if isinstance(test, Listing)
    ]


def _take(sheet: Sheet, kind: str, name: str | None, value: Value, node: ast.AST | None, what: str) -> None:
    """One assignment, where a replay can make it."""
    place = sheet.source.place(node if node is not None else value.node)
    asked = value.part if isinstance(value, Unknown) else None
    if asked is not None and isinstance(asked[0], Made) and asked[0].maker == TOKENIZER:
        sheet.changes.append(Change(kind=kind, name=name, of_tokenizer=asked[1], place=place))
        return
    data = _plain(value)
    is_nothing = isinstance(value, Known) and value.data is None
    if data is None and not is_nothing:
        sheet.not_followed.append(
            NotFollowed(kind=kind, note=f"{what[:-1]} to a value that is not known.", place=place)
        )
    else:
        sheet.changes.append(Change(kind=kind, name=name, value=data, place=place))


def _plain(value: Value | None) -> Any:
    try:
        return plain(value) if value is not None else None
    except Opaque:
        return None


def tokenizer_of(story: Story) -> Made | None:
    """The tokenizer that the trainer is given, else the only one of the script."""
    for name in ("processing_class", "tokenizer"):
        given = story.given(name)
        if isinstance(given, Made):
            return given if given.maker == TOKENIZER else None
    found = {id(call): call for call, _ in story.seen.calls if call.maker == TOKENIZER}
    return next(iter(found.values())) if len(found) == 1 else None


def _read_tokenizer(tokenizer: Made, sheet: Sheet) -> None:
    for name, value in tokenizer.arguments.items():
        if not isinstance(name, str):
            continue
        node = tokenizer.places.get(name)
        if name.startswith("+"):
            _read_added(name, value, node, sheet)
        elif name in _OF_TOKENIZER:
            _read_field(name, value, node, sheet)


def _read_field(name: str, value: Value, node: ast.AST | None, sheet: Sheet) -> None:
    if isinstance(value, Made) and value.maker == "IF-NONE":
        before = len(sheet.changes)
        _take(sheet, "tokenizer", name, value.arguments["value"], node, f"tokenizer.{name} is set.")
        asks = value.arguments["asks"]
        if len(sheet.changes) > before and isinstance(asks, Known):
            sheet.changes[-1] = sheet.changes[-1].model_copy(update={"if_none": str(asks.data)})
        return
    _take(sheet, "tokenizer", name, value, node, f"tokenizer.{name} is set.")


def _read_added(name: str, value: Value, node: ast.AST | None, sheet: Sheet) -> None:
    """``tokenizer.add_tokens([…])`` and ``add_special_tokens({…})``."""
    data = _plain(value)
    kind = "add-special-tokens" if isinstance(data, dict) else "add-tokens"
    if data is None:
        note = "Tokens are added that are not known."
        sheet.not_followed.append(NotFollowed(kind="add-tokens", note=note, place=sheet.source.place(node)))
    else:
        sheet.changes.append(Change(kind=kind, value=data, place=sheet.source.place(node)))
