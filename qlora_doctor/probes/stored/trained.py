"""The tokenizer of the training itself, from what holds it: a report, an adapter, a checkpoint, a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.text import template_digest
from ...facts.run import TrainingTokenizer
from ...setup.paths import resolve
from ...setup.setup import Setup
from ..config.base_names import bases_differ, revisions_differ
from ..config.stored_adapter import CONFIG
from ..config.template import written_template
from ..log.files import CHECKPOINT
from .texts import read_json

TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Trained:
    """What is known of the training's tokenizer.

    Attributes:
        source: where it comes from, in words.
        tokenizer: fields that are not known are None, and tokens that are not known are left out.
        setup: the config of the training, where one is given.
    """

    source: str | None
    tokenizer: TrainingTokenizer
    setup: Setup | None = None


def tokenizer_of(folder: Path) -> TrainingTokenizer | None:
    """The tokenizer that lies in a folder; None where none does."""
    config = read_json(folder / "tokenizer_config.json")[0]
    if config is None:
        return None
    template, known = template_of(folder, config)
    return TrainingTokenizer(
        template_digest=template_digest(template) if known else None,
        special_tokens={name: token_text(config.get(name)) for name in TOKENS},
    )


def template_of(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, bool]:
    """(the chat template of a folder's tokenizer, whether that could be read)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text("utf-8"), True
        except (OSError, UnicodeDecodeError):
            return None, False
    template = config.get("chat_template")
    if template is None:  # of a model that sees images as well
        template = (read_json(folder / "chat_template.json")[0] or {}).get("chat_template")
    if isinstance(template, list):  # several by name, as tokenizers before transformers 4.52 hold them
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return (template, True) if isinstance(template, str) else (None, template is None)


def token_text(value: Any) -> str | None:
    """A special token, however it is written."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def trained_beside(folder: Path, adapter: Path | None) -> Trained | None:
    """From the adapter of a merged model, or from the last checkpoint of the same run that lies beside an adapter."""
    if adapter is not None and (found := tokenizer_of(adapter)) is not None:
        return Trained(f"the adapter's folder {adapter.name}", found)
    own = adapter or folder
    config = read_json(own / CONFIG)[0]
    if config is None or CHECKPOINT.search(own.resolve().name):  # a checkpoint has the training's own beside it
        return None
    for parent in (own, own.resolve().parent):
        numbered = [
            (int(match[1]), each) for each in parent.glob("checkpoint*") if (match := CHECKPOINT.search(each.name))
        ]
        for _, checkpoint in sorted(numbered, reverse=True):
            other = read_json(checkpoint / CONFIG)[0]
            found = tokenizer_of(checkpoint)
            if other is not None and found is not None and _is_same_run(config, other):
                return Trained(f"{checkpoint.name} of the run", found)
    return None


def _is_same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("base_model_name_or_path", "r", "lora_alpha", "peft_type"))


def trained_by(setup: Setup) -> Trained:
    """From the config that the run was started with: only what it writes out is known."""
    extra = setup.training.extra
    tokens: dict[str, str | None] = {}
    for named in setup.named_data:
        written = named.settings.get("special_tokens")
        if isinstance(written, dict):
            tokens |= {name: text for name in TOKENS if (text := token_text(written.get(name))) is not None}
    tokens |= {name: text for name in TOKENS if (text := token_text(extra.get(name))) is not None}
    template = written_template(setup)
    path = extra.get("chat_template_path")
    if template is None and isinstance(path, str) and (place := resolve(setup, path)) is not None:
        if place.is_dir():
            template = template_of(place, read_json(place / "tokenizer_config.json")[0] or {})[0]
        elif place.is_file():
            template = place.read_text("utf-8", "replace")
    known = TrainingTokenizer(
        template_digest=template_digest(template) if template is not None else None, special_tokens=tokens
    )
    return Trained("the config" if template is not None or tokens else None, known, setup)


def differences(trained: Trained, folder: Path, base: Path | None) -> list[str] | None:
    """In what the folder's tokenizer is not that of the training; None where that cannot be known.

    A folder without a tokenizer is served with the base's.
    """
    stored = tokenizer_of(folder)
    own = stored or (tokenizer_of(base) if base is not None else None)
    here = "here" if stored is not None else "in the base"
    if own is None or trained.source is None:
        return None
    then = trained.tokenizer
    found = []
    if then.template_digest is not None and own.template_digest not in (None, then.template_digest):
        which = "no chat template" if own.template_digest == "none" else "another chat template"
        found.append(
            f"{which} {here}" if then.template_digest != "none" else f"a chat template {here}, where training had none"
        )
    for name, token in then.special_tokens.items():
        now = own.special_tokens.get(name)
        if now != token and not (name in ("pad_token", "unk_token") and None in (now, token)):
            found.append(f"{name} is {now!r} {here} and was {token!r} in the training")
    if found and stored is None:
        found.insert(0, "no tokenizer is stored, so that the base's is taken")
    return found


def base_differences(
    trained: Trained | None, named: str | None, recorded: str | None, here: str | None
) -> list[str] | None:
    """In what the base of the config, or of the report, is not the adapter's; None where nothing tells.

    Args:
        named: base_model_name_or_path of the adapter.
        recorded: revision of it.
        here: commit of the base that is at hand.
    """
    if trained is None:
        return None
    found: list[str] = []
    known = False
    commit = trained.tokenizer.base_commit
    if commit is not None and here is not None:
        known = True
        if commit != here:
            found.append(f"the training took commit {commit} of the base, and the one that is here is {here}")
    if trained.setup is not None:
        differ = bases_differ(named, trained.setup)
        known = known or differ is not None
        if differ:
            found.append(
                f"the adapter names {named} as its base, and the config trains {trained.setup.model.name_or_path}"
            )
        elif revisions_differ(recorded, trained.setup):
            found.append(
                f"the adapter names revision {recorded} of its base, and the config {trained.setup.model.revision}"
            )
    return found if known else None
