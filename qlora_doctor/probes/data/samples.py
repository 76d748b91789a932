"""What the rows say as they were read, before any trainer has formed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...pipeline import Batches
from ...pipeline.forms.chat import chat_text, lost_content
from ...pipeline.forms.kinds import CannotForm, FormedRow
from ...pipeline.samples import Samples
from ...setup.resolved import Taken
from ...setup.setup import Setup
from .formed import ANSWERS, CONTENT, QUESTIONS, facts_of_texts
from .overlap import columns_of_evaluation, leaves
from .seen import ROWS
from .talk import talk_facts


def sample_facts(batches: Batches, tokenizer: Any = None) -> dict[str, Any]:
    samples = batches.samples
    if samples is None:
        return {}
    read = len(samples.rows)
    rows = [_parts(samples, row, tokenizer) for row in samples.rows[:ROWS]]
    lost = [found for row in samples.rows[:ROWS] if (found := _lost(tokenizer, row)) is not None]
    return {
        **facts_of_texts(rows),
        **talk_facts(rows),
        "empty_answers": sum(not row.answer.strip() for row in rows),
        "rows_ending_in_prompt": _opened(tokenizer, samples.rows[:ROWS]) if samples.format == "text" else None,
        "content_lost_rows": len(lost),
        "content_columns_unread": _unread(samples),
        "content_lost": lost[0] if lost else None,
        "format": samples.format,
        "columns": samples.columns,
        "rows": read if read < ROWS else None,  # as many as were asked for: there may be more
        "rows_seen": min(read, ROWS),
    }


def not_in_evaluation(setup: Setup, batches: Batches) -> dict[str, Any]:
    """Columns that TRL reads of the training data and that the evaluation data, which it prepares alike, has not."""
    if Taken(setup).trainer != "trl" or batches.samples is None:
        return {}
    held_out = columns_of_evaluation(setup)
    if not held_out:
        return {}
    missing = [name for name in batches.samples.trained_columns if any(name not in each for each in held_out)]
    # Either form will do, also another one than that of the training data.
    forms = ({"messages"}, {"prompt", "completion"}, {Taken(setup)["training.dataset_text_field"]}, {"input_ids"},
             {"conversations"})  # fmt: skip
    formed = all(any(form <= set(each) for form in forms) for each in held_out)
    return {"evaluation_columns_missing": [] if formed else missing}


def _unread(samples: Samples) -> list[str]:
    """Columns with names of content whose text stands nowhere in what is trained."""
    read = {*samples.trained_columns, "tools", "chat_template_kwargs", "images", "image"}
    found = []
    for name in samples.columns:
        if name in read or name not in CONTENT | ANSWERS | QUESTIONS:
            continue
        pairs = [
            (row[name], row) for row in samples.rows[:ROWS] if isinstance(row.get(name), str) and row[name].strip()
        ]
        texts = [(value.strip(), list(leaves({key: row.get(key) for key in read}))) for value, row in pairs]
        # A text that was rendered from what is trained is read by way of it.
        if texts and not any(
            value in " ".join(parts) or all(part in value for part in parts) for value, parts in texts
        ):
            found.append(name)
    return found


def _opened(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Texts that end as a prompt does: in the head of an answer which is not there."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    asked = [{"role": "user", "content": "a"}]
    try:
        closed = tokenizer.apply_chat_template(asked, tokenize=False)
        opened = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    except Exception:  # the template may want other turns
        return None
    head = opened.removeprefix(closed).strip() if opened.startswith(closed) else ""
    if not head:
        return None
    texts = [text for row in rows if isinstance(text := row.get("text"), str)]
    return sum(text.removesuffix(tokenizer.eos_token or "").rstrip().endswith(head) for text in texts)


def _parts(samples: Samples, row: Mapping[str, Any], tokenizer: Any) -> FormedRow:
    """What is asked and what is answered, as text, of a row of any format of TRL's."""
    messages: list[dict[str, Any]] | None = None
    if samples.format == "messages":
        turns = messages = [turn for turn in row.get("messages") or [] if isinstance(turn, dict)]
        asked = [str(turn.get("content")) for turn in turns if turn.get("role") != "assistant"]
        answered = [
            str(turn.get("content") or turn.get("tool_calls") or "")
            for turn in turns
            if turn.get("role") == "assistant"
        ]
        prompt, answer = "\n".join(asked), "\n".join(answered)
    elif samples.format == "prompt-completion":
        parts = [row.get("prompt"), row.get("completion")]
        if all(isinstance(part, list) for part in parts):
            messages = [turn for part in parts for turn in part or [] if isinstance(turn, dict)]
        prompt, answer = _as_text(row.get("prompt")), _as_text(row.get("completion"))
    elif samples.format == "tokens":
        text = "" if tokenizer is None else tokenizer.decode(row["input_ids"])
        prompt, answer = "", text.strip("\ufffd")  # a letter that is cut in two is no fault of the text
    else:
        prompt, answer = "", _as_text(row.get(samples.text_field, row))
    identity = f"{prompt}\0{answer}"
    return FormedRow(
        0, None, identity=identity, prompt=prompt, answer=answer, messages=messages, tools=row.get("tools")
    )


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(turn.get("content")) if isinstance(turn, dict) else str(turn) for turn in value)
    return "" if value is None else str(value)


def _lost(tokenizer: Any, row: Mapping[str, Any]) -> str | None:
    """What of a conversation the chat template leaves out; None where it writes all, or there is none."""
    messages = row.get("messages")
    if tokenizer is None or not isinstance(messages, list) or getattr(tokenizer, "chat_template", None) is None:
        return None
    try:
        return lost_content(chat_text(tokenizer, messages, None, row.get("tools")), messages)
    except CannotForm:
        return None  # the trainer's own attempt tells why
