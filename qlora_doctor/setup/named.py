"""Data that a config names, in words."""

from __future__ import annotations

from .setup import NamedData, Setup

_MOST = 3


def why_not_looked_at(setup: Setup) -> tuple[str, str | None]:
    """(why the samples are not looked at, what would supply them) of a setup without ``data.train``."""
    named = [each for each in setup.named_data if each.role == "train"]
    if not named:
        if setup.is_unknown("data.train") and setup.dialect == "python":
            return f"The script's data cannot be known: {setup.origins['data.train'].note}", None
        key = setup.traits.data_key
        return "The config names no data.", f"Set {key} to a file, a folder or a hub id." if key is not None else None
    why = next((each.not_followed for each in named if each.not_followed), "It is not followed.")
    return not_looked_at(setup, why), None


def not_looked_at(setup: Setup, why: str) -> str:
    """Why samples that are named are not looked at, with what is named."""
    named = [each for each in setup.named_data if each.role == "train"]
    words = "; ".join(told(each) for each in named[:_MOST])
    more = f"; and {len(named) - _MOST} more" if len(named) > _MOST else ""
    return f"The samples are not looked at: {why} Named are {words}{more}."


def told(named: NamedData) -> str:
    """One data set in words: ``datasets.0: tatsu-lab/alpaca (type alpaca, split train)``."""
    is_name = not (named.name or named.files)
    beside = [
        *([f"type {named.format}"] if named.format and not is_name and named.format != named.name else []),
        *([f"subset {named.subset}"] if named.subset else []),
        *([f"split {named.split}"] if named.split else []),
        *([f"template {named.template}"] if named.template else []),
    ]
    name = named.name or ", ".join(named.files) or named.format or "what its code decides"
    more = f" ({', '.join(beside)})" if beside else ""
    return f"{named.key or 'data'}: {name}{more}"
