"""What a trainer's own code made of rows, put in place of what was formed here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.labels import IGNORED
from ..forms.kinds import CannotForm, FormedRow

Made = Sequence[Sequence[Mapping[str, Any]]]
"""Of each row the list of what became of it (see ``child``)."""


def take(
    made: Made, ours: Sequence[FormedRow], rows: Sequence[tuple[int | None, Mapping[str, Any]]], tokenizer: Any
) -> list[FormedRow]:
    """Rows with the trainer's tokens and labels, and with what is known here of their texts.

    Args:
        ours: with their place among ``rows`` as ``number``; empty where they are not formed here.

    Raises:
        CannotForm: the trainer stops at a row.
    """
    known: dict[int | None, list[FormedRow]] = {}
    for row in ours:
        known.setdefault(row.number, []).append(row)
    found = []
    for place, became in enumerate(made):
        number, raw = rows[place]
        mine = known.get(place, [])
        for part, one in enumerate(became):
            if "stops" in one:
                where = f"Row {number + 1}" if number is not None else "A row"
                raise CannotForm(f"{where}: the trainer's own code stops at it: {one['stops']}.")
            same = mine[part] if len(mine) == len(became) else mine[0] if mine else None
            found.append(replace(_taken(one, same, raw, tokenizer), number=number))
    return found


def _taken(one: Mapping[str, Any], same: FormedRow | None, raw: Mapping[str, Any], tokenizer: Any) -> FormedRow:
    ids, labels = list(one.get("ids", ())), list(one.get("labels", ()))
    trained = [label for label in labels if label != IGNORED]
    row = same
    if row is None:
        asked = [token for token, label in zip(ids, labels, strict=True) if label == IGNORED]
        row = FormedRow(
            0,
            None,
            identity=json.dumps(raw, sort_keys=True, default=str),
            prompt=tokenizer.decode(asked, skip_special_tokens=True),
            answer=tokenizer.decode(trained, skip_special_tokens=True),
        )
    lost = row.lost if row.lost and row.lost.strip() not in tokenizer.decode(ids) else None
    dropped = one.get("dropped")
    return replace(
        row,
        ids=ids,
        labels=labels,
        length=int(one.get("length", 0)),
        loses=bool(one.get("loses")),
        cut=row.cut if one.get("length", 0) > len(ids) else [],
        teaches=bool(trained) if dropped is None else row.teaches,
        dropped=(row.dropped or str(dropped)) if dropped is not None else None,
        lost=lost if dropped is None else None,
    )


def adopt(tokenizer: Any, told: Mapping[str, Any]) -> None:
    """Make a tokenizer what the trainer made of it: its added tokens, in their order, and its special ones."""
    known = tokenizer.get_added_vocab()
    missing = [text for text, _ in told.get("added", ()) if text not in known]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
    for name in ("eos_token", "bos_token", "pad_token"):
        text = told.get(name)
        if isinstance(text, str) and getattr(tokenizer, name) != text:
            setattr(tokenizer, name, text)
