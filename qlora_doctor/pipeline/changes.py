"""What a script does with the model and the tokenizer that it loaded, done here as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ..core.errors import StageError
from ..setup.setup import Change, Setup
from .failures import first_sentence


def change_model(model: Any, setup: Setup, when: str, tokenizer: Any = None, notes: list[str] | None = None) -> None:
    """Make the script's changes of this moment, in its order.

    Args:
        model: changed in place.
        when: ``loaded``, ``prepared`` or ``attached``.
        tokenizer: what the changes ask the tokenizer; None leaves those out, and says so.
        notes: is given what was left out; one sentence each.

    Raises:
        StageError: kind ``invalid-config``: the change fails, as it does in the script.
    """
    for change in setup.changes:
        if change.when != when or change.kind not in _MADE:
            continue
        if change.of_tokenizer is not None and tokenizer is None:
            if notes is not None:
                what = "The embeddings" if change.kind == "resize" else f"model.config.{change.name}"
                notes.append(f"{what} stayed as they were: the tokenizer, which decides, is not on this machine.")
            continue
        try:
            _MADE[change.kind](model, change, tokenizer)
        except Exception as error:
            raise StageError(
                f"What the script does with the model fails: {first_sentence(error)}",
                kind="invalid-config",
                place=change.place,
            ) from error


def change_config(config: Any, setup: Setup, tokenizer: Any = None) -> None:
    """Set the fields of the model's config that the script sets; those that a missing tokenizer decides stay."""
    for change in setup.changes:
        if change.kind == "config" and (tokenizer is not None or change.of_tokenizer is None):
            setattr(config, str(change.name), _value(change, tokenizer))


def align_padding(config: Any, tokenizer: Any) -> None:
    """What transformers' Trainer does with the tokenizer that it is given, as its training begins: from 4.56 on the
    model's config names that one's padding token (``align_special_tokens``)."""
    from transformers import Trainer, trainer_utils

    own = tokenizer.tokenizer if hasattr(tokenizer, "tokenizer") else tokenizer
    aligns = hasattr(trainer_utils, "align_special_tokens") or hasattr(Trainer, "_align_special_tokens")
    if aligns and getattr(own, "pad_token_id", None) is not None:
        config.get_text_config().pad_token_id = own.pad_token_id


def change_tokenizer(tokenizer: Any, setup: Setup) -> Any:
    """The tokenizer with the fields and the tokens that the script gives it."""
    for change in setup.changes:
        if change.if_none is not None and getattr(tokenizer, change.if_none, None) is not None:
            continue
        if change.kind == "tokenizer" and change.name is not None:
            setattr(tokenizer, change.name, _value(change, tokenizer))
        elif change.kind == "add-tokens":
            tokenizer.add_tokens(change.value)
        elif change.kind == "add-special-tokens":
            tokenizer.add_special_tokens(change.value)
    return tokenizer


def asks_tokenizer(setup: Setup) -> bool:
    """True where a change of the model asks the tokenizer something."""
    return any(change.of_tokenizer is not None and change.kind in _MADE for change in setup.changes)


def _value(change: Change, tokenizer: Any) -> Any:
    if change.of_tokenizer is None:
        return change.value
    return len(tokenizer) if change.of_tokenizer == "len" else getattr(tokenizer, change.of_tokenizer, None)


def _set_config(model: Any, change: Change, tokenizer: Any) -> None:
    setattr(model.config, str(change.name), _value(change, tokenizer))


def _resize(model: Any, change: Change, tokenizer: Any) -> None:
    size = _value(change, tokenizer)
    on_meta = next(model.parameters()).device.type == "meta"
    # The mean of the old rows, which new ones start from, has no meaning without numbers.
    model.resize_token_embeddings(size, **({"mean_resizing": False} if on_meta else {}))


def _cast(model: Any, change: Change, tokenizer: Any) -> None:
    dtype = getattr(torch, str(change.value))
    if change.over == "model":
        model.to(dtype)
        return
    for thing in _changed(model, change):
        if isinstance(thing, torch.nn.Module):
            thing.to(dtype)
        else:
            thing.data = thing.data.to(dtype)


def _switch(model: Any, change: Change, tokenizer: Any) -> None:
    for thing in _changed(model, change):
        thing.requires_grad_(bool(change.value))


def _set_mode(model: Any, change: Change, tokenizer: Any) -> None:
    model.train(bool(change.value))


_MADE = {"config": _set_config, "resize": _resize, "cast": _cast, "requires-grad": _switch, "mode": _set_mode}


def _changed(model: Any, change: Change) -> Iterator[Any]:
    named = model.named_modules() if change.over == "modules" else model.named_parameters()
    for name, thing in list(named):
        if all(_holds(test, name, thing) for test in change.tests):
            yield thing


def _holds(test: list[str], name: str, thing: Any) -> bool:
    kind, *words = test
    if kind == "not":
        return not _holds(words, name, thing)
    if kind == "requires_grad":
        return bool(thing.requires_grad)
    if kind == "named":
        return any(word in name for word in words)
    if kind == "under":
        return f".{words[0]}." in f".{name}."
    if kind == "dtype":
        tensor = getattr(thing, "weight", thing)
        return str(getattr(tensor, "dtype", "")).removeprefix("torch.") == words[0]
    if kind == "ndim":
        return getattr(thing, "ndim", None) == int(words[0])
    if kind == "floating":
        return bool(thing.is_floating_point())
    if kind == "has":
        return hasattr(thing, words[0])
    return any(each.__name__ in words for each in type(thing).__mro__)  # instance
