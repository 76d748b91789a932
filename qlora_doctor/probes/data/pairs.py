"""What can be said of rows that compare answers: pairs of which one is preferred, answers that are good or bad."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_PAIRS = (("chosen", "rejected"), ("chosen_ids", "rejected_ids"), ("chosen_input_ids", "rejected_input_ids"))
"""Columns of a pair: as text or messages, and as TRL tokenizes them."""


def pair_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts of preference rows; nothing where the rows are none."""
    if not rows:
        return {}
    names = next((each for each in _PAIRS if all(name in rows[0] for name in each)), None)
    if names is not None:
        found = _of_pairs([(row[names[0]], row[names[1]]) for row in rows])
        before = names[0].replace("chosen", "prompt")
        repeated = sum(_repeat(row.get(before), row[names[0]], row[names[1]]) for row in rows)
        return found | {"prompts_repeated": repeated}
    answers = "completion" in rows[0] or "completion_ids" in rows[0]
    if answers and all(isinstance(row.get("label"), bool) for row in rows):
        return {"desirable_ratio": statistics.fmean(bool(row["label"]) for row in rows)}
    return {}


def _of_pairs(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    longer = [len(as_text(chosen)) > len(as_text(rejected)) for chosen, rejected in pairs]
    return {
        "identical_pairs": sum(_answer(chosen) == _answer(rejected) for chosen, rejected in pairs),
        "longer_chosen_ratio": statistics.fmean(longer),
        "pairs_of_two_prompts": sum(of_two_prompts(chosen, rejected) for chosen, rejected in pairs),
    }


def _repeat(prompt: Any, *answers: Any) -> bool:
    """Whether both answers begin with the prompt that stands before them; TRL takes it out of conversations behind a
    prompt that is a text (trl 1.16, data_utils.py: maybe_extract_prompt), and of nothing else."""
    if isinstance(prompt, str):
        start = prompt.strip()
        return len(start) > 1 and all(isinstance(each, str) and each.strip().startswith(start) for each in answers)
    size = len(prompt) if isinstance(prompt, list | tuple) else 0
    return size > 0 and all(isinstance(each, list | tuple) and list(each[:size]) == list(prompt) for each in answers)


_ANSWER = re.compile(
    r"\n\s*(?:assistant|### (?:response|answer|assistant)|<\|(?:im_start|start_header_id)\|>assistant)\b", re.I
)
"""Where the answer of a talk that is written as text begins."""


def of_two_prompts(chosen: Any, rejected: Any) -> bool:
    """Whether two whole conversations begin with another question; answers alone have none."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        heads = [_ANSWER.split(each, maxsplit=1) for each in (chosen, rejected)]
        return all(len(parts) > 1 for parts in heads) and heads[0][0].strip() != heads[1][0].strip()
    asked = [_asked(each) for each in (chosen, rejected)]
    return None not in asked and asked[0] != asked[1]


def _asked(value: Any) -> str | None:
    """The first message of a user in a conversation; None where there is none."""
    if not isinstance(value, list | tuple):
        return None
    for turn in value:
        if isinstance(turn, Mapping):
            role = turn.get("role", turn.get("from"))
            if role in ("user", "human"):
                return str(turn.get("content", turn.get("value")))
    return None


def _answer(value: Any) -> str | Sequence[Any]:
    """What is answered: the last message of a conversation, or all of a text."""
    if isinstance(value, list | tuple) and value and isinstance(value[-1], Mapping):
        last = value[-1]
        return str(last.get("content", last.get("value")) or last.get("tool_calls") or "")
    return as_text(value)


def as_text(value: Any) -> str | Sequence[Any]:
    """A text, the texts of a conversation, or token ids as they are."""
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int):
            return [*value]
        return "\n".join(
            str(turn.get("content", turn.get("value"))) if isinstance(turn, Mapping) else str(turn) for turn in value
        )
    return "" if value is None else str(value)
