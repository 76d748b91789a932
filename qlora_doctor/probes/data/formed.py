"""What is true of samples that were formed here: who trains, what is left out and why, and what stands twice."""

from __future__ import annotations

import re
import statistics
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...core.labels import IGNORED
from ...facts import BatchFacts
from ...facts.data import DataSetFacts
from ...pipeline.forms import MASKED, Followed, FormedRow, FormedSet, dropped_by_reason
from ...pipeline.samples import is_conversation_as_text
from ..batch import BatchLook
from .rows import of_ids
from .showing import Shown, histogram, rows_shown
from .talk import talk_facts

CONTENT = {
    *("system", "system_prompt", "history", "tools", "input", "context", "reasoning", "reasoning_content", "thinking"),
    *("tool_calls", "images", "image", "thought", "cot", "rationale", "chosen", "rejected"),
}
"""Names of columns that hold a part of what is asked or answered."""
QUESTIONS = {"question", "instruction", "query", "input", "context", "problem", "user", "system", "system_prompt"}
"""Names of columns that hold what is asked."""
ANSWERS = {
    *("output", "outputs", "response", "responses", "answer", "answers", "completion", "target", "targets", "reply"),
    *("assistant", "solution", "gpt", "chosen", "text", "summary", "label_text", "output_text", "final_answer"),
}
"""Names of columns that hold an answer."""


GARBLED = re.compile(
    "\u00c3[\u0080-\u00bf]|\u00c2[\u00a0-\u00bf]|\u00e2\u20ac[\u0153\u009d\u2122\u02dc\u201c\u201d\u00a6]|\ufffd"
)
"""Letters as they come out where UTF-8 was read as Latin-1 or Windows-1252 (``Ã©`` for é, ``â€™`` for ’), and the sign
for what could not be read."""


def facts_of(followed: Followed, vocabulary: int | None) -> dict[str, Any]:
    """Facts of stage ``data``; those of tokens only where there is a tokenizer."""
    sets = [each for each in followed.sets if each.not_followed is None]
    totals = [each.total for each in followed.sets]
    rows = followed.rows
    known: dict[str, Any] = {
        "rendered_by": followed.by,
        "rendered_by_trainer": followed.own,
        "sets": [_set(each) for each in followed.sets],
        "sets_not_followed": len(followed.sets) - len(sets),
        "format": ", ".join(dict.fromkeys(each.form for each in sets if each.form)) or None,
        "columns": list(dict.fromkeys(column for each in sets for column in each.columns)),
        "rows": sum(total for total in totals if total is not None) if None not in totals else None,
        "rows_seen": len(rows),
        "limit": followed.limit,
        "left_out": dropped_by_reason(followed),
        "left_out_reasons": [f"{count} {why}" for why, count in dropped_by_reason(followed).items()],
        "rows_left_out": sum(row.dropped is not None for row in rows),
        "empty_answers": sum(_answers_nothing(row, followed.sets[row.set_number]) for row in rows),
        **_roles(sets),
        **facts_of_texts(rows),
        **talk_facts([row for row in rows if row.dropped is None]),
    }
    known_reads = [each for each in sets if not each.told_by_trainer]
    unread = [column for each in known_reads for column in each.columns if column in CONTENT - each.read - each.empty]
    known["content_columns_unread"] = list(dict.fromkeys(unread))
    answers = [column for each in known_reads for column in each.columns if column in ANSWERS - each.read - each.empty]
    known["answer_columns_unread"] = list(dict.fromkeys(answers))
    untaught = sum(row.teaches is False for row in rows if row.dropped in (None, MASKED))
    known["rows_fully_masked"] = untaught
    if rows and all(row.teaches is False for row in rows):
        known["labels_masked_ratio"] = 1.0
    unseen = next((each.tokens_unseen for each in sets if each.tokens_unseen), None)
    if unseen is not None:
        known["tokens_unseen"] = unseen
    if followed.tokenizer is not None:
        known.update(_of_tokens(followed, vocabulary))
    return known


def _set(told: FormedSet) -> DataSetFacts:
    return DataSetFacts(
        name=told.name,
        key=told.key,
        form=told.form,
        rows=told.total,
        rows_seen=told.seen or None,
        columns_unread=None
        if told.not_followed is not None or told.told_by_trainer
        else [name for name in told.columns if name not in told.read],
        roles=told.roles or None,
        not_followed=told.not_followed,
    )


def _roles(sets: Sequence[FormedSet]) -> dict[str, Any]:
    with_roles = [each for each in sets if each.roles_trained is not None]
    if not with_roles:
        return {}
    untrained = [each for each in with_roles if each.roles_trained and each.asked_roles_missing == each.roles_trained]
    return {
        "roles": list(dict.fromkeys(role for each in with_roles for role in each.roles)),
        "sets_without_trained_role": [each.name for each in untrained if not each.trains_all],
        "roles_trained": list(dict.fromkeys(role for each in with_roles for role in each.roles_trained or ())),
        "roles_missing": list(dict.fromkeys(role for each in with_roles for role in each.asked_roles_missing)),
        "roles_unknown": list(dict.fromkeys(role for each in with_roles for role in each.roles_unknown)),
    }


def facts_of_texts(rows: Sequence[FormedRow]) -> dict[str, int]:
    """Rows that stand twice, prompts with several answers, conversations that are text, and broken letters."""
    identities = Counter(row.identity for row in rows)
    answers: dict[str, set[str]] = {}
    for row in rows:
        if row.prompt.strip() and row.answer.strip():
            answers.setdefault(row.prompt, set()).add(row.answer)
    conflicting = {prompt for prompt, found in answers.items() if len(found) > 1}
    return {
        "duplicate_rows": sum(count - 1 for count in identities.values()),
        "conflicting_rows": sum(row.prompt in conflicting for row in rows),
        "garbled_rows": sum(GARBLED.search(f"{row.prompt}{row.answer}") is not None for row in rows),
        "conversations_as_text": sum(any(map(is_conversation_as_text, (row.prompt, row.answer))) for row in rows),
    }


def _of_tokens(followed: Followed, vocabulary: int | None) -> dict[str, Any]:
    rows, tokenizer = followed.rows, followed.tokenizer
    formed = [row for row in rows if row.ids]
    trained = followed.trained
    if not formed:
        return {"shown": []}
    lengths = [row.length for row in formed]
    limit = followed.limit
    # list.count and max run in C: a row of thousands of tokens is looked at in microseconds.
    counted = sum(len(row.labels) - row.labels.count(IGNORED) for row in trained)
    kept = sum(len(row.ids) for row in trained)
    masked_rows = sum(
        _is_masked(row) if row.ids else row.teaches is False for row in rows if row.dropped in (None, MASKED)
    )
    known: dict[str, Any] = {
        "tokens_min": min(lengths),
        "tokens_mean": statistics.fmean(lengths),
        "tokens_median": int(statistics.median(lengths)),
        "tokens_max": max(lengths),
        "truncated_ratio": sum(row.dropped is None and row.length > len(row.ids) for row in formed) / len(formed),
        "rows_fully_masked": masked_rows,
        "cut_end_rows": sum(row.loses for row in trained) if not followed.packing else None,
        **of_ids([row.ids for row in formed], vocabulary),
        "trained_ratio": counted / kept if kept else None,
        "labels_masked_ratio": 1.0 - counted / kept if kept else 1.0 if masked_rows == len(rows) else None,
    }
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    taught = [row for row in trained if not _is_masked(row)]
    if eos is not None and taught:
        known["eos_supervised_ratio"] = sum(eos in row.labels for row in taught) / len(taught)
    if bos is not None and bos != eos:
        known["double_bos_rows"] = sum(row.ids[:2] == [bos, bos] for row in formed)
    lost = [row.lost for row in formed if row.lost is not None]
    known["content_lost_rows"] = len(lost)
    known["content_lost"] = lost[0] if lost else None
    known["lengths"], known["lengths_bin"] = histogram(lengths)
    names = [each.name for each in followed.sets]
    shown = [
        Shown(row.ids, row.labels, row.length, row.cut, row.dropped, row.number, names[row.set_number])
        for row in formed
    ]
    known["shown"] = rows_shown(shown, tokenizer)
    if limit is not None:
        known["limit"] = limit
    return known


def _answers_nothing(row: FormedRow, of: FormedSet) -> bool:
    """Whether a row's answer is empty; where no message has a role that is trained, that is what is wrong."""
    return row.dropped is None and not row.answer.strip() and not of.asked_roles_missing


def _is_masked(row: FormedRow) -> bool:
    return row.labels.count(IGNORED) == len(row.labels)


def batch_of(followed: Followed, size: int, config: Any) -> BatchFacts | None:
    """The formed rows in batches as they would reach the model, padded, with a label nowhere on padding."""
    import torch

    rows = followed.trained
    if not rows:
        return None
    look = BatchLook(followed.tokenizer, config)
    pad = followed.tokenizer.pad_token_id if followed.tokenizer.pad_token_id is not None else 0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        longest = max(len(row.ids) for row in part)
        lengths = torch.tensor([len(row.ids) for row in part])
        look.look(
            {
                "input_ids": _filled([row.ids for row in part], longest, pad),
                "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
                "labels": _filled([row.labels for row in part], longest, IGNORED),
            }
        )
    return without_repeats(look.facts())


def _filled(rows: Sequence[list[int]], longest: int, fill: int) -> Any:
    """Rows as one tensor, filled up on the right; by way of an array, which reads lists many times faster."""
    import torch

    flat = array("q")
    for row in rows:
        flat.extend(row)
        flat.extend([fill] * (longest - len(row)))
    return torch.frombuffer(flat, dtype=torch.int64).reshape(len(rows), longest)


def without_repeats(facts: BatchFacts | None) -> BatchFacts | None:
    """Rows that stand twice among all that were looked at are the data's, not the sampler's."""
    return facts.model_copy(update={"duplicate_rows": None}) if facts is not None else None


def normalized(text: str) -> str:
    """A text without what seldom makes two rows differ: case and spaces."""
    return re.sub(r"\s+", " ", text).strip().casefold()
