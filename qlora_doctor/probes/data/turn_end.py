"""Where a chat template ends an answer, and whether generation stops there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...pipeline.forms.chat import chat_text
from ...pipeline.forms.kinds import CannotForm

_ASKED, _ANSWERED = "zz a question zz", "zz an answer zz"


def turn_end_facts(tokenizer: Any, folder: Path | None) -> dict[str, Any]:
    """The special token behind an answer, and whether it is one that generation stops at.

    Args:
        folder: of the model, whose generation_config.json may name further end tokens; None where there is none.
    """
    if tokenizer is None or getattr(tokenizer, "chat_template", None) is None:
        return {}
    messages = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}]
    try:
        text = chat_text(tokenizer, messages, None, None)
    except CannotForm:
        return {}
    _, found, tail = text.rpartition(_ANSWERED)
    if not found:
        return {}
    special = set(getattr(tokenizer, "all_special_ids", ())) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    ids = (
        [token for token in tokenizer(tail, add_special_tokens=False)["input_ids"] if token in special] if tail else []
    )
    if not ids:
        return {}
    stops = {tokenizer.eos_token_id, *_of_generation(folder)}
    return {
        "turn_end": tokenizer.convert_ids_to_tokens(ids[0]),
        "turn_end_stops": any(token in stops for token in ids),
        "stops_at": tokenizer.eos_token,
    }


def _of_generation(folder: Path | None) -> set[int]:
    if folder is None:
        return set()
    try:
        said = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return set()
    return {each for each in (said if isinstance(said, list) else [said]) if isinstance(each, int)}
