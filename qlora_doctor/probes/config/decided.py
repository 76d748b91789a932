"""How much of what decides a run its config tells: green is only what was read and is right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ...core.files import hub_cache
from ...facts.config import ConfigFacts, Undecided
from ...setup.setup import Setup

_MODEL, _BITS, _RANK = "model.name_or_path", "quantization.load_in_4bit", "lora.r"
_OF_A_RUN = (_MODEL, _BITS, _RANK, "training.learning_rate", "training.per_device_train_batch_size")
_WITHOUT_LORA = {"no-lora", "lora-switched-off", "lora-not-switched-on"}


def decided_facts(setup: Setup, known: ConfigFacts) -> dict[str, Any]:
    """Facts of what decides the run.

    Args:
        known: facts of the config that are concluded already: ``model_kind`` and ``eight_bit``.
    """
    of_a_file = setup.traits.decided_by
    paths = list(_OF_A_RUN if of_a_file is None else of_a_file)
    kinds = {remark.kind for remark in setup.remarks}
    if _RANK in paths and of_a_file is None and (setup.model.adapter or kinds & _WITHOUT_LORA):
        paths.remove(_RANK)  # the stored adapter has it, or there is none
    if known.eight_bit:
        paths.remove(_BITS) if _BITS in paths else None
    closest = closest_id(setup) if known.model_kind == "hub" else None
    return {
        "decided_by": paths,
        "undecided": [each for path in paths if (each := _undecided(setup, path, known.model_kind)) is not None],
        "model_closest": closest,
    }


def _undecided(setup: Setup, path: str, model_kind: str | None) -> Undecided | None:
    why = _why_undecided(setup, path, model_kind)
    if why is None:
        return None  # and no place is asked for: a file's places are made on first use
    place = setup.place(path) if path in setup.origins else None
    return Undecided(path=path, why=why or None, line=place.line if place is not None else None)


def _why_undecided(setup: Setup, path: str, model_kind: str | None) -> str | None:
    """Why a value is not known, empty where nothing says so; None for a value that is known."""
    if setup.is_unknown(path):
        return setup.origins[path].note or ""
    if path != _MODEL:
        return None
    if setup.model.name_or_path is None:
        return "No model is named."
    if model_kind in ("missing", "elsewhere"):
        return f"There is no folder {setup.model.name_or_path!r} here."
    if model_kind == "hub" and setup.traits.hub_ids and _names_nothing(setup.model.name_or_path):
        return f"The hub has no model {setup.model.name_or_path!r} without its owner's name."
    return None


_OF_NO_OWNER = re.compile(
    r"(?:distil)?(?:gpt2|bert|roberta|gpt|xlm?|xlnet|t5|albert|camembert|ctrl|transfo-xl|openai-gpt)\b"
)
"""Names of the hub's first days, when a model needed no owner; they still lead to it."""


def _names_nothing(written: str) -> bool:
    """True for a word alone that is neither such a name nor known here: the hub gives none of these out any more."""
    from ...tables.architectures import find_architecture

    bare = "/" not in written and _OF_NO_OWNER.match(written.casefold()) is None
    return bare and find_architecture(written) is None and not _is_cached(written)


# -- an id that is nearly a known one

_SHORTEST_WORD = 4
"""Letters of a word in which a slip shows; of shorter ones (``it``, ``pt``, ``hf``) each may be another model."""


def closest_id(setup: Setup) -> str | None:
    """The known hub id that this one is a slip of; None where it may be a model of its own.

    A slip is in one word, of letters alone: another number, size or ending is another model.
    """
    written = setup.model.name_or_path
    return None if written is None or "/" not in written or _is_cached(written) else _closest(written)


@lru_cache(maxsize=64)
def _closest(written: str) -> str | None:
    words = _words(written)
    return next((known for known, parts in _known_words() if _is_slip(words, parts)), None)


@lru_cache(maxsize=1)
def _known_words() -> list[tuple[str, list[str]]]:
    from ...tables.architectures import all_ids

    return [(known, _words(known)) for known in all_ids()]


def _words(identity: str) -> list[str]:
    return re.split(r"([/_.\-]|(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z]))", identity.casefold())


def _is_slip(written: list[str], known: list[str]) -> bool:
    if len(written) != len(known):
        return False
    other = [(a, b) for a, b in zip(written, known, strict=True) if a != b]
    if len(other) != 1:
        return False
    ((a, b),) = other
    return min(len(a), len(b)) >= _SHORTEST_WORD and (a + b).isalpha() and b in _one_slip_from(a)


def _one_slip_from(word: str) -> set[str]:
    """All words that one letter left out, doubled, swapped with the next, added or replaced makes of it."""
    return set(_slips(word))


def _slips(word: str) -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for at in range(len(word) + 1):
        before, behind = word[:at], word[at:]
        if behind:
            yield before + behind[1:]
        if len(behind) > 1:
            yield before + behind[1] + behind[0] + behind[2:]
        for letter in letters:
            yield before + letter + behind
            if behind:
                yield before + letter + behind[1:]


def _is_cached(identity: str) -> bool:
    """True where the hub's cache of this machine holds it: then it exists, however it is spelled."""
    try:
        return hub_cache(identity).is_dir()
    except (OSError, ValueError, RuntimeError):
        return False
