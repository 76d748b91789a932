"""Evaluation rows that stand in the training data: the text of the rows, without what seldom makes two rows differ."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...core.errors import StageError
from ...pipeline.forms import NotFollowedForm, read_named
from ...setup.setup import NamedData, Setup
from .formed import normalized

EVALUATION_ROWS = 256
TRAINING_ROWS = 200_000
"""Rows of a file that is read whole; of a larger one the sample counts."""
_RUN, _ALIKE = 5, 0.8
_WORDS = 400
"""Words of a row that are compared."""
_COMPARED = 50_000
"""Training rows that near duplicates are looked for in."""
_NAMES_ONLY = {"id", "idx", "index", "uuid", "source", "url", "row_id", "conversation_id", "split"}
"""Columns that name a row, and are no part of what is learnt."""


def overlap_of(setup: Setup) -> dict[str, Any]:
    """Evaluation rows that were looked at, and how many of them are trained on; nothing where either is not here."""
    named = [each for each in setup.named_data if each.kind in ("file", "folder") or each.files]
    held_out = [each for each in named if each.role == "eval"]
    trained = [each for each in named if each.role == "train"]
    if not held_out or not trained:
        return {}
    known = [text for each in trained for text in _texts(setup, each, TRAINING_ROWS)]
    asked = [text for each in held_out for text in _texts(setup, each, EVALUATION_ROWS)]
    return overlap_facts(known, asked)


def columns_of_evaluation(setup: Setup) -> list[list[str]]:
    """The columns of each file of evaluation data that is here."""
    named = [
        each for each in setup.named_data if each.role == "eval" and (each.kind in ("file", "folder") or each.files)
    ]
    found = []
    for each in named:
        try:
            found.append(read_named(setup, each, 8).columns)
        except (NotFollowedForm, StageError):
            continue
    return found


def overlap_facts(trained: Sequence[str], evaluated: Sequence[str]) -> dict[str, Any]:
    """How many evaluation rows are training rows, the same ones and those that are almost the same."""
    if not trained or not evaluated:
        return {}
    known = set(trained)
    left = [text for text in evaluated if text not in known]
    return {
        "evaluation_rows": len(evaluated),
        "evaluation_rows_in_training": len(evaluated) - len(left),
        "evaluation_near_duplicates": near_duplicates(trained, left),
    }


def near_duplicates(trained: Sequence[str], evaluated: Sequence[str]) -> int:
    """How many of the evaluation rows have a training row with nearly the same words in the same order.

    Two rows are held to be nearly the same where the Jaccard similarity of their runs of five words is at least 0.8, as
    in Lee et al., Deduplicating Training Data Makes Language Models Better (https://arxiv.org/abs/2107.06499), there
    estimated by MinHash. Few rows are asked for, so that it is counted here: of each training row only the runs that
    some evaluation row has are looked up. Rows of fewer than ten words are not compared: in these a name is the row.
    """
    asked = {number: runs for number, text in enumerate(evaluated) if (runs := _runs(text))}
    holders: dict[int, list[int]] = {}
    for number, runs in asked.items():
        for run in runs:
            holders.setdefault(run, []).append(number)
    wanted = holders.keys()
    found: set[int] = set()
    for text in _spread(trained, _COMPARED):
        if len(found) == len(asked):
            break
        runs = _runs(text)
        common = runs & wanted
        if len(common) < _ALIKE * len(runs):
            continue
        shared = Counter(number for run in common for number in holders[run])
        for number, count in shared.items():
            if count >= _ALIKE * (len(runs) + len(asked[number]) - count):
                found.add(number)
    return len(found)


def _spread(texts: Sequence[str], most: int) -> Sequence[str]:
    return texts if len(texts) <= most else random.Random(0).sample(list(texts), most)


def _runs(text: str) -> set[int]:
    words = text.split()[:_WORDS]
    if len(words) < 2 * _RUN:
        return set()
    return {hash(run) for run in zip(*(words[start:] for start in range(_RUN)), strict=False)}


def _texts(setup: Setup, named: NamedData, rows: int) -> list[str]:
    try:
        read = read_named(setup, named, rows)
    except (NotFollowedForm, StageError):
        return []
    return [text for _, row in read.rows if (text := normalized(" ".join(leaves(row))))]


def leaves(value: Any) -> Iterator[str]:
    """Every text inside a row, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if str(key).lower() not in _NAMES_ONLY:
                yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
