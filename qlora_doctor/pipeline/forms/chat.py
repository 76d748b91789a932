"""Conversations through a chat template, and where each turn stands among the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.labels import IGNORED
from ..failures import first_sentence
from .kinds import CannotForm, Piece

_SENTINELS = ("[[a placeholder of a message]]", "zz another placeholder zz")
"""Texts that begin and end differently, so that what a template writes beside one does not hide in both."""
LOST = 80
"""Characters of lost content that are shown."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text and as tokens.

    Attributes:
        encoding: the tokenizers library's, which knows the characters of each token without a list of them.
    """

    text: str
    ids: list[int]
    encoding: Any

    def tokens(self, begin: int, end: int) -> tuple[int, int]:
        """The tokens of some characters: the first that has one of them, and the first that begins behind them."""
        first = self._at(begin)
        stop = self._at(end)
        while stop < len(self.ids) and self.encoding.token_to_chars(stop)[0] < end:
            stop += 1
        return first, stop

    def _at(self, place: int) -> int:
        """The first token that ends behind a character; spaces may be of no token."""
        for character in range(place, len(self.text)):
            token = self.encoding.char_to_token(character)
            if token is not None:
                return int(token)
        return len(self.ids)


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None, tools: Any) -> Rendered:
    """Messages through a template (None: the tokenizer's own).

    Raises:
        CannotForm: the template refuses them, or there is none.
    """
    text = chat_text(tokenizer, messages, template, tools)
    return tokens_of(tokenizer, text)


def tokens_of(tokenizer: Any, text: str) -> Rendered:
    """A text that holds its own special tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise CannotForm("The tokenizer gives no positions of tokens, which the mask needs (no fast tokenizer).")
    encoded = tokenizer(text, add_special_tokens=False)
    return Rendered(text, list(encoded["input_ids"]), encoded.encodings[0])


def chat_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: str | None, tools: Any) -> str:
    """The text alone; raises as ``render_chat`` does."""
    if template is None and getattr(tokenizer, "chat_template", None) is None:
        raise CannotForm("The data holds messages, but the tokenizer has no chat template.")
    given: dict[str, Any] = {"chat_template": template} if template is not None else {}
    if tools:
        given["tools"] = tools
    try:
        return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, **given))
    except Exception as error:
        raise CannotForm(f"The chat template refuses the messages: {first_sentence(error)}") from error


def turn_span(
    tokenizer: Any,
    rendered: Rendered,
    messages: Sequence[Mapping[str, Any]],
    index: int,
    template: str | None,
    tools: Any,
) -> tuple[int, int] | None:
    """The tokens that a message's content takes (first, one behind the last); None where the text does not have it.

    The message is replaced by placeholders, and what of the text changes is where it stands.
    """
    spans = []
    for sentinel in _SENTINELS:
        other = {"role": messages[index].get("role"), "content": sentinel}
        changed = [*messages[:index], other, *messages[index + 1 :]]
        try:
            spans.append(_difference(rendered.text, chat_text(tokenizer, changed, template, tools)))
        except CannotForm:
            return None
    begin, end = min(a for a, _ in spans), max(b for _, b in spans)
    if end <= begin:
        return None
    return rendered.tokens(begin, end)


def _difference(text: str, other: str) -> tuple[int, int]:
    limit = min(len(text), len(other))
    start = _common(text, other, limit)
    return start, len(text) - _common(text[::-1], other[::-1], limit - start)


def _common(left: str, right: str, limit: int) -> int:
    """Characters that two texts have in common at their beginning, by halving."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def lost_content(text: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The beginning of what the messages hold and the text does not; None where all of it is there.

    Each paragraph of a message is looked for, since templates trim and indent.
    """
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            for line in content.splitlines():
                words = line.strip()
                if len(words) > 3 and words not in text:
                    return f"{message.get('role')}: {words[:LOST]}"
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for call in calls:
                function = call.get("function", call) if isinstance(call, dict) else {}
                name = function.get("name") if isinstance(function, dict) else None
                if isinstance(name, str) and name not in text:
                    return f"{message.get('role')}: the call of {name}"
        for key in ("reasoning_content", "thinking"):
            thought = message.get(key)
            if isinstance(thought, str) and thought.strip() and thought.strip().splitlines()[0].strip() not in text:
                return f"{message.get('role')}: {thought.strip()[:LOST]} ({key})"
    return None


def joined(tokenizer: Any, pieces: Sequence[Piece]) -> tuple[list[int], list[int]]:
    """Pieces tokenized one by one, with the labels of those that are trained."""
    ids: list[int] = []
    labels: list[int] = []
    for piece in pieces:
        if isinstance(piece.content, str):
            found = list(tokenizer(piece.content, add_special_tokens=False)["input_ids"]) if piece.content else []
        else:
            found = list(piece.content)
        ids += found
        labels += found if piece.trained else [IGNORED] * len(found)
    return ids, labels
