"""What the ways to serve are measured on: the user's own rows, or a small set that is built in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...core.errors import StageError

MOST_TOKENS = 2048
LONGEST = 256
BUILT_IN = (
    "Water boils at a lower temperature on a mountain, because the air presses less on it there.",
    "Question: What is the capital of France? Answer: The capital of France is Paris.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "The train leaves at nine in the morning and arrives shortly after noon, if nothing delays it.",
    "User: How do I keep bread fresh?\nAssistant: Keep it in a paper bag, and eat it within two days.",
    "Light takes about eight minutes from the Sun to the Earth, and a little over a second from the Moon.",
    "SELECT name, COUNT(*) FROM orders GROUP BY name ORDER BY COUNT(*) DESC LIMIT 10;",
    "A contract is an agreement between two sides that a court will hold them to.",
    "Translate into German: Good morning, how are you? Guten Morgen, wie geht es Ihnen?",
    "The heart has four chambers: two take blood in, and two send it out again.",
    "If x plus three equals seven, then x equals four, since seven minus three is four.",
    "Once upon a time there was a miller who had three sons, a mill, a donkey and a cat.",
    "Instruction: Write one sentence about rain. Response: Rain fell softly on the roof all night long.",
    "The committee met on Tuesday, read the report, and asked for a second opinion.",
    "Prices rose by two percent last year, while wages rose by three.",
    "To restart the server, open a terminal, type the command below, and wait for the prompt.",
)
"""Sentences of many kinds, written for this purpose."""


def token_rows(tokenizer: Any, file: Path | None) -> tuple[list[list[int]], str]:
    """Token ids of each row, and what they are in words.

    Args:
        file: lines of text, or JSON lines with ``text``, ``messages`` or ``prompt`` and ``completion``.

    Raises:
        StageError: the file cannot be read, or holds nothing.
    """
    texts = list(BUILT_IN) if file is None else _texts(tokenizer, file)
    rows, total = [], 0
    for text in texts:
        ids = tokenizer(text)["input_ids"][:LONGEST]
        if len(ids) > 1:
            rows.append(ids)
            total += len(ids) - 1
        if total >= MOST_TOKENS:
            break
    if not rows:
        raise StageError(f"{file} holds no row of two tokens or more.", kind="data")
    kind = "the built-in rows" if file is None else f"{len(rows)} rows of {file.name}"
    return rows, f"{kind}, {total:,} tokens"


def _texts(tokenizer: Any, file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{file} cannot be read: {error}.", kind="data") from error
    return [text for line in lines if line.strip() and (text := _text(tokenizer, line))]


def _text(tokenizer: Any, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return line
    if not isinstance(row, dict):
        return line
    if isinstance(row.get("text"), str):
        return str(row["text"])
    if isinstance(row.get("messages"), list) and getattr(tokenizer, "chat_template", None):
        return str(tokenizer.apply_chat_template(row["messages"], tokenize=False))
    return "".join(str(row.get(key) or "") for key in ("prompt", "completion", "instruction", "output"))
