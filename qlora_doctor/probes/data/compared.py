"""Rows of methods that compare answers or reward them: lengths, and what can be said of pairs."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...core.errors import StageError
from ...facts import DataFacts
from ...pipeline import Architecture
from ...pipeline.batches import render
from ...pipeline.forms import read_named
from ...pipeline.forms.compared import form_compared
from ...pipeline.forms.kinds import CannotForm
from ...pipeline.samples import Samples
from ...setup.setup import Setup
from .formed import ANSWERS, CONTENT, QUESTIONS
from .overlap import overlap_of
from .pairs import pair_facts
from .prepared import limit_of
from .seen import ROWS, DataSeen, load_if_here
from .turn_end import turn_end_facts


def see_compared_elsewhere(setup: Setup, progress: Callable[..., None], offline: bool) -> DataSeen:
    """Rows that compare answers, of a trainer that is not here."""
    every = [each for each in setup.named_data if each.role == "train"]
    _, tokenizer, known = load_if_here(setup, progress, offline)
    known |= {"source": every[0].name, "rows_left_out": 0}
    progress("Reading and forming the pairs")
    rows: list[dict[str, Any]] = []
    columns, unread, dropped, total = [], [], Counter[str](), 0
    counted = True
    limit, drops, by, forms = None, False, None, []
    try:
        for each in every:
            read = read_named(setup, each, max(32, ROWS // len(every)), offline=offline)
            made = form_compared(setup, each, [row for _, row in read.rows], read.columns, tokenizer)
            rows += made.rows
            columns += read.columns
            unread += [name for name in read.columns if name in ANSWERS | CONTENT and name not in made.read]
            dropped.update(made.dropped)
            counted, total = counted and read.total is not None, total + (read.total or 0)
            limit, drops, by = made.limit, made.drops, made.by
            forms.append(made.form)
    except CannotForm as error:
        return DataSeen(DataFacts(**known, failure=str(error)))
    except StageError as error:
        return DataSeen(DataFacts(**known, failure=error.message))
    lengths = [max(_lengths(tokenizer, row)) for row in rows] if tokenizer is not None else []
    long = sum(limit is not None and length > limit for length in lengths)
    if drops and long:
        dropped["longer than the limit"] += long
    left = sum(dropped.values())
    known |= {
        "rendered_by": by,
        "format": ", ".join(dict.fromkeys(forms)),
        "columns": list(dict.fromkeys(columns)),
        "content_columns_unread": list(dict.fromkeys(unread)),
        "rows": total if counted else None,
        "rows_seen": len(rows) + left - (long if drops else 0),
        "rows_left_out": left,
        "left_out": dict(dropped),
        "left_out_reasons": [f"{count} {why}" for why, count in dropped.items()],
        "limit": limit,
        "duplicate_rows": len(rows) - len({repr(row) for row in rows}),
        **pair_facts(rows),
        **overlap_of(setup),
    }
    known |= _token_counts(lengths, 0 if drops else long)
    return DataSeen(DataFacts(**known))


def compared_facts(setup: Setup, samples: Samples, architecture: Architecture, tokenizer: Any) -> dict[str, Any]:
    """Data of a method that compares answers: lengths and what can be said of pairs.

    Its trainers have no labels of tokens, and add the end token by themselves.
    """
    facts: dict[str, Any] = {
        "format": samples.format,
        "columns": samples.columns,
        "rows": len(samples.rows) if len(samples.rows) < ROWS else None,
        "rows_seen": len(samples.rows),
    }
    facts |= pair_facts(samples.rows)
    facts["content_columns_unread"] = _questions_unread(samples.columns, samples.rows)
    facts["duplicate_rows"] = len(samples.rows) - len({repr(row) for row in samples.rows})
    facts |= overlap_of(setup)
    facts |= _rewards(setup, samples.columns)
    if tokenizer is None:
        return facts
    whole = samples.format != "prompt-only"
    lengths = [max(_lengths(tokenizer, row if whole else {"prompt": row["prompt"]})) for row in samples.rows]
    limit = limit_of(setup, architecture) if whole else None
    long = sum(limit is not None and length > limit for length in lengths)
    facts |= _token_counts(lengths, long)
    if not whole:
        facts |= _answers_beyond(setup, samples, tokenizer)
        if any(isinstance(row["prompt"], list) for row in samples.rows):  # answers through the chat template
            facts |= turn_end_facts(tokenizer, architecture.folder)
        masks = setup.training.extra.get("mask_truncated_completions") is True
        facts["completions_all_masked"] = masks and (
            facts.get("turn_end_stops") is False or facts.get("answers_beyond_ratio") == 1.0
        )
    if setup.training.method == "reward":  # RewardTrainer keeps no pair of which one is longer (its _prepare_dataset)
        why = "longer than the limit"
        reasons = [f"{long} {why}"] if long else []
        facts |= {"rows_left_out": long, "left_out": {why: long} if long else {}, "left_out_reasons": reasons}
        facts |= {"limit": limit, "truncated_ratio": 0.0}
    return facts


def _answers_beyond(setup: Setup, samples: Samples, tokenizer: Any) -> dict[str, Any]:
    """How many of the answers that the data knows are longer than what may be generated; nothing where none is known.

    The columns are those that reward functions compare with; the longest of a row counts.
    """
    limit = setup.training.extra.get("max_completion_length")
    names = [name for name in samples.columns if name in ANSWERS]
    rows = [[str(row[name]) for name in names if isinstance(row.get(name), str)] for row in samples.rows]
    if not isinstance(limit, int) or not any(rows):
        return {}
    lengths = [max((_length(tokenizer, None, text) for text in texts), default=0) for texts in rows]
    beyond = sum(length > limit for length in lengths) / len(lengths)
    return {"answers_beyond_ratio": beyond, "completion_limit": limit}


def _rewards(setup: Setup, columns: Sequence[str]) -> dict[str, Any]:
    """Arguments that a script's reward functions cannot do without, where no column brings them."""
    asked = {
        name: names for each in setup.named_data for name, names in each.settings.get("reward_columns", {}).items()
    }
    lacking = {name: [each for each in names if each not in columns] for name, names in asked.items()}
    told = [
        f"{name} asks for {', '.join(names)}, which is no column of the data and nothing that TRL hands over"
        for name, names in lacking.items()
        if names
    ]
    return {"reward_raises": "; ".join(told), "reward_functions": list(asked)} if told else {}


def _questions_unread(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns with a question that no answer repeats, where TRL finds no ``prompt`` and takes what both answers begin
    with for it (``trl.data_utils.maybe_extract_prompt``)."""
    if "prompt" in columns or not {"chosen", "rejected"} <= set(columns):
        return []
    found = []
    for name in columns:
        texts = [(row.get(name), row.get("chosen")) for row in rows] if name in QUESTIONS else []
        plain = [
            (one, other) for one, other in texts if isinstance(one, str) and isinstance(other, str) and one.strip()
        ]
        if plain and all(one.strip() not in other for one, other in plain):
            found.append(name)
    return found


def _token_counts(lengths: Sequence[int], truncated: int) -> dict[str, Any]:
    """Facts of the rows' lengths in tokens; none where no row has any."""
    if not lengths:
        return {}
    return {
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": truncated / len(lengths),
    }


def _lengths(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """Tokens of each answer of a row with its prompt, or of the prompt alone."""
    prompt = row.get("prompt")
    answers = [row[name] for name in ("chosen", "rejected", "completion") if row.get(name) is not None]
    return [_length(tokenizer, prompt, answer) for answer in answers or [None]]


def _length(tokenizer: Any, prompt: Any, answer: Any) -> int:
    parts = [part for part in (prompt, answer) if part is not None]
    if any(isinstance(part, list) for part in parts):
        messages = [message for part in parts for message in (part if isinstance(part, list) else [part])]
        return len(render(tokenizer, messages))
    return len(tokenizer("".join(map(str, parts)))["input_ids"])
