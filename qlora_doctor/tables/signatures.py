"""Which keyword arguments the libraries' classes take, and in which of their versions.

``benchmarks/field/list_signatures.py`` writes the tables; only facts are in them: names, and since or until when.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .conditions import Condition, both
from .keys import closest_of

LIBRARIES = ("transformers", "trl", "peft")
_BASE_CLASS = ("transformers", "TrainingArguments")
_CONFIGURED_BY = {"Trainer": "TrainingArguments", "Seq2SeqTrainer": "Seq2SeqTrainingArguments"}
"""Where people look for an argument next: the class that configures the one they wrote it in."""
_NAMES_ELSEWHERE = {"rank": "r", "lora_r": "r", "lora_rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
"""What other trainers call LoraConfig's arguments."""


@dataclass(frozen=True)
class RefusedArgument:
    """That a name is not taken.

    Attributes:
        kind: ``removed`` (older versions took it), ``later`` (newer ones do), ``unknown`` (none does).
        closest: the new name, or the one that looks most like it, as ``Class.name``.
        note: in which versions, and what the class does about it.
        machine: the condition on what is installed under which this is so.
    """

    kind: str
    closest: str | None
    note: str
    machine: Condition | None


LOADS = "from_pretrained"
_OF_LOADS: dict[str, tuple[str | None, str]] = {
    "use_auth_token": ("token", ""),
    "resume_download": (None, ""),
    "use_flash_attention_2": (None, ' Write attn_implementation="flash_attention_2".'),
}
"""What a model's from_pretrained took up to transformers 4, and its name now; the tokenizer's and the config's leave
what they do not know aside. It takes any keyword and hands on what it does not know, so that the tables, which are
made of signatures, have no row for it."""


@dataclass(frozen=True)
class _Verdict:
    """What one library's own class says of a name."""

    kind: str
    machine: Condition | None = None
    entry: Any = None


def is_refused(library: str, maker: str, name: str) -> bool:
    """True where some version of the library has this class and does not take this keyword argument."""
    makers = _table(library)["makers"]
    if maker == LOADS:
        return name in _OF_LOADS
    if maker not in makers or name.startswith("_"):
        return False
    own = _verdict(library, maker, name).kind
    return own != "taken" and ("extends" not in makers[maker] or _verdict(*_BASE_CLASS, name).kind != "taken")


def since(library: str, maker: str, name: str) -> str | None:
    """The first version whose class takes this keyword argument; None where the oldest that is known does, or none."""
    row = _table(library)["makers"].get(maker, {})
    entry = row.get("since", {}).get(name)
    return str(entry["since"]) if entry else None


def refusals(library: str, maker: str, name: str) -> Iterator[RefusedArgument]:
    """What is to be said of a keyword argument; nothing where the class takes it in every version that is known.

    Args:
        library: one of ``LIBRARIES``.
        maker: a class or a function of it.
        name: of the argument.
    """
    if not is_refused(library, maker, name):
        return
    if maker == LOADS:
        note = "transformers 5 hands it on to the model's class, which stops with a TypeError."
        now, more = _OF_LOADS[name]
        closest = f"{maker}.{now}" if now is not None else None
        yield RefusedArgument("removed", closest, note + more, Condition("transformers >= 5.0"))
        return
    own = _verdict(library, maker, name)
    above = _verdict(*_BASE_CLASS, name) if "extends" in _table(library)["makers"][maker] else None
    if above is None or (own.kind == "removed" and above.kind == "unknown"):
        yield from _told(library, maker, maker, name, own, own.machine)
    elif own.kind == "unknown" and above.kind == "removed":
        yield from _told(*_BASE_CLASS, maker, name, above, above.machine)
    elif own.kind == "unknown" and above.kind == "later":
        yield from _told(*_BASE_CLASS, maker, name, above, both(own.machine, above.machine))
    else:
        yield from _told(library, maker, maker, name, own, both(own.machine, above.machine))


def _verdict(library: str, maker: str, name: str) -> _Verdict:
    table = _table(library)
    row = table["makers"][maker]
    if name in row["gone"]:
        entry = row["gone"][name]
        return _Verdict("removed", Condition(f"{library} >= {entry['since']}"), entry)
    first = Condition(f"{library} >= {row['from']}")
    if name in row["since"]:
        entry = row["since"][name]
        return _Verdict("later", both(first, f"{library} <= {entry['without']}"), entry)
    return _Verdict("taken" if name in row["takes"] else "unknown", both(first, f"{library} <= {table['version']}"))


def _told(
    library: str, maker: str, written: str, name: str, verdict: _Verdict, machine: Condition | None
) -> Iterator[RefusedArgument]:
    """The sentences of a verdict; of a removal as many as the argument had new names.

    Args:
        maker: the class whose table says so.
        written: the class that the script calls.
    """
    table = _table(library)
    reader, row = table["written"], table["makers"][maker]
    does = "stops with a TypeError" if row["refuses"] else "passes it by without a warning"
    if verdict.kind == "unknown":
        versions = f"any {reader} from {row['from']} to {table['version']}"
        note = f"{written} takes no {name} in {versions} and {does}."
        yield RefusedArgument("unknown", _closest(library, written, name), note, machine)
    elif verdict.kind == "later":
        since = verdict.entry["since"]
        yield RefusedArgument("later", None, f"{reader} knows {name} since {since} only and {does} before.", machine)
    else:
        entry = verdict.entry
        more = f" {entry['note']}" if "note" in entry else ""
        note = f"{reader} does not know it since {entry['since']} and {does}.{more}"
        fates = list(entry.get("now", {entry["since"]: None}).items())
        for index, (since, now) in enumerate(fates):
            ends = f"{library} < {fates[index + 1][0]}" if index + 1 < len(fates) else None
            begins = f"{library} >= {since}" if index else None
            new = now.replace(f"{maker}.", f"{written}.") if now is not None else None
            yield RefusedArgument("removed", new, note, both(machine, begins, ends))


def _closest(library: str, maker: str, name: str) -> str | None:
    if maker == "LoraConfig" and name in _NAMES_ELSEWHERE:
        return f"{maker}.{_NAMES_ELSEWHERE[name]}"
    makers = _table(library)["makers"]
    config = _CONFIGURED_BY.get(maker, maker.replace("Trainer", "Config"))
    if config != maker and config in makers and name in _names(library, config):
        return f"{config}.{name}"
    found = closest_of(name, _names(library, maker))
    return f"{maker}.{found}" if found is not None else None


@lru_cache(maxsize=32)
def _names(library: str, maker: str) -> frozenset[str]:
    """All that the newest version takes."""
    row = _table(library)["makers"][maker]
    above = _names(*_BASE_CLASS) if "extends" in row else frozenset[str]()
    return above | frozenset(row["takes"])


@lru_cache(maxsize=4)
def _table(library: str) -> Any:
    return json.loads((Path(__file__).parent / "signatures" / f"{library}.json").read_text("utf-8"))
