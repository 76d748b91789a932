"""The chat template that a config names against the vocabulary of its model: a template of another family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...setup.paths import resolve
from ...setup.setup import NamedData, Setup
from ...setup.traits import Traits
from ...tables.templates import family_of, is_instructed, marks_in, marks_of

_MOST_READ = 64 << 20


def template_facts(setup: Setup) -> dict[str, Any]:
    """Name of the template, family of the model, and marks of the first that the second has no token for.

    Nothing where the template is not named, not known, or the vocabulary of the model cannot be known.
    """
    written = written_template(setup)
    if written is not None:
        return _of_text(setup, written)
    traits = setup.traits
    named = next((each for each in setup.named_data if _name_of(each) and each.role == "train"), None)
    model = setup.model.name_or_path
    if named is None or model is None or setup.is_unknown("model.name_or_path"):
        return {}
    name = str(_name_of(named))
    marks = marks_of(name, traits.templates or "llamafactory")
    known: dict[str, Any] = {"template": name}
    family = family_of(model)
    if family is not None:
        known["model_family"] = family[0]
    if not marks or traits.templates is None:
        return known
    vocabulary = _vocabulary(setup, model)
    if vocabulary is not None:
        foreign = [mark for mark in marks if f'"{mark}"' not in vocabulary]
    elif family is not None:
        foreign = [mark for mark in marks if mark not in family[1]]
    else:
        return known
    # A base has no template of its own; LLaMA-Factory alone makes the marks new tokens, which nothing trains.
    accepted = _adds_tokens(named, traits) or not (traits.adds_template_tokens or is_instructed(model))
    known["template_foreign_marks"] = [] if accepted else foreign
    return known


def written_template(setup: Setup) -> str | None:
    """A template that is given as text, by the config or by a script; None where there is none."""
    text = setup.data.chat_template
    for change in setup.changes:
        if change.kind == "tokenizer" and change.name == "chat_template" and isinstance(change.value, str):
            text = change.value
    for named in setup.named_data:
        own = named.settings.get("chat_template_jinja")
        text = own if isinstance(own, str) and text is None else text
    return text if text is not None and "{" in text else None


def _of_text(setup: Setup, text: str) -> dict[str, Any]:
    """The marks of a text against the vocabulary of a model that has a template of its own.

    Whoever gives a template to a base, or adds tokens, may mean the marks as they are.
    """
    model = setup.model.name_or_path
    adds = any(change.kind in ("add-tokens", "add-special-tokens") for change in setup.changes)
    adds = adds or any(_adds_tokens(named, setup.traits) for named in setup.named_data)
    if model is None or setup.is_unknown("model.name_or_path"):
        return {}
    vocabulary, family = _vocabulary(setup, model), family_of(model)
    known: dict[str, Any] = {"template": "that is written out"}
    if family is not None:
        known["model_family"] = family[0]
    if vocabulary is not None:
        foreign = [mark for mark in marks_in(text) if f'"{mark}"' not in vocabulary]
    elif family is not None:
        foreign = [mark for mark in marks_in(text) if mark not in family[1]]
    else:
        return known
    known["template_foreign_marks"] = [] if adds or not _has_template(setup, model) else foreign
    return known


def _has_template(setup: Setup, model: str) -> bool:
    """Whether the model was taught a template: its name says so, or its folder has one."""
    folder = resolve(setup, model)
    if folder is None or not Path(folder).is_dir():
        return is_instructed(model)
    try:
        said = (Path(folder) / "tokenizer_config.json").read_text("utf-8")
    except (OSError, ValueError):
        said = ""
    return (Path(folder) / "chat_template.jinja").is_file() or '"chat_template"' in said or is_instructed(model)


def _name_of(named: NamedData) -> str | None:
    """The template that a data set names: axolotl's types of pairs have one in their own name, ``chatml.intel``."""
    family = (named.format or "").partition(".")[0]
    return family if named.settings.get("rl") and family in ("chatml", "llama3") else named.template


def _adds_tokens(named: NamedData, traits: Traits) -> bool:
    return any(named.settings.get(key) for key in traits.token_keys)


def _vocabulary(setup: Setup, model: str) -> str | None:
    """The text of a folder's tokenizer.json, in which every token stands between quotes; None where there is none."""
    folder = resolve(setup, model)
    path = Path(folder) / "tokenizer.json" if folder is not None else None
    try:
        if path is None or not path.is_file() or path.stat().st_size > _MOST_READ:
            return None
        text = path.read_text("utf-8")
        # Control tokens are ASCII almost everywhere; DeepSeek's are not, and may be written as escapes.
        return json.dumps(json.loads(text), ensure_ascii=False) if "\\u" in text else text
    except (OSError, ValueError, RecursionError):
        return None
