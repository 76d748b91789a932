"""Chat templates by the names that trainers have for them, and which of their marks a model's vocabulary knows.

``templates.json`` holds what each of LLaMA-Factory's templates writes around a message (``benchmarks/field/
list_templates.py`` takes it from the source). Names of other trainers are joined to these by ``ALIASES``;
``template_marks.json`` has the control tokens that their further templates write around the turns of a plain talk.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.closest import closest

Slot = str | dict[str, str]
"""A text with ``{{content}}`` in it or not, ``{"token": …}`` one token, ``{"special": "eos_token"}`` a special one."""
_MARK = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?(?:start|end)_of_turn>|<\|turn>|<turn\|>|\[gMASK\]|<sop>|\[\|\w+\|\]"
)
"""What stands in a template as a control token, in the spellings that models have."""
ALIASES: dict[str, dict[str, str]] = {
    "axolotl": {
        "chatml": "chatml", "llama3": "llama3", "llama3_2_vision": "llama3", "gemma": "gemma", "gemma3": "gemma3",
        "phi_3": "phi", "phi_35": "phi", "phi_4": "phi4", "qwen_25": "qwen", "qwen3": "qwen3", "qwen2_vl": "qwen2_vl",
        "cohere": "cohere", "mistral_v1": "mistral", "mistral_v2v3": "mistral", "llama4": "llama4",
    },
    "unsloth": {
        "chatml": "chatml", "llama-3": "llama3", "llama3": "llama3", "llama-3.1": "llama3", "llama-3.2": "llama3",
        "llama-3.3": "llama3", "llama-31": "llama3", "llama3.1": "llama3", "gemma": "gemma", "gemma2": "gemma",
        "gemma-2": "gemma", "gemma3": "gemma3", "gemma-3": "gemma3", "phi-3": "phi", "phi-3.5": "phi", "phi-4": "phi4",
        "qwen-2.5": "qwen", "qwen2.5": "qwen", "qwen25": "qwen", "qwen-3": "qwen3", "qwen3": "qwen3",
        "qwen3-instruct": "qwen3_nothink", "mistral": "mistral", "llama": "llama2", "zephyr": "zephyr",
        "vicuna": "vicuna", "alpaca": "alpaca",
    },
    "ms-swift": {
        "qwen": "qwen", "qwen2_5": "qwen", "qwen2": "qwen", "qwen3": "qwen3", "llama3": "llama3", "llama3_2": "llama3",
        "gemma": "gemma", "gemma3_text": "gemma3", "phi3": "phi", "phi4": "phi4", "chatml": "chatml", "yi": "yi",
        "glm4": "glm4", "mistral": "mistral", "llama": "llama2", "zephyr": "zephyr",
    },
}  # fmt: skip
"""Trainer → its name of a template → the row of the table that writes the same marks."""
_CHATML = ("<|im_start|>", "<|im_end|>")
_VOCABULARIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"deepseek|janus|distill|(?:^|[-_/.])r1(?:[-_.]|$)", "DeepSeek", ()),
    (r"dolphin|hermes|chatml|openchat|orca|wizard|tulu|internvl|llava|nemotron|functionary|athene", "", ()),
    (r"qwen|qwq|qvq|kimi-dev|vibethinker", "Qwen", (*_CHATML, "<|endoftext|>")),
    (r"llama[-_ ]?(?:3|guard-3)", "Llama 3",
     ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
      "<|end_of_text|>", "<|finetune_right_pad_id|>")),
    (r"llama[-_ ]?2|tinyllama|codellama|vicuna", "Llama 2", ()),
    (r"(?:^|/)gemma-?[123](?:\D|$)|gemma-[27]b|codegemma", "Gemma", ("<start_of_turn>", "<end_of_turn>")),
    (r"phi-?3", "Phi-3", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>")),
    (r"phi-?4(?!-mini|-multi)", "Phi-4", (*_CHATML, "<|im_sep|>", "<|endoftext|>")),
    (r"(?:mistral|mixtral|ministral|codestral|zephyr|solar)-?", "Mistral", ()),
    (r"smollm", "SmolLM", (*_CHATML, "<|endoftext|>")),
    (r"(?:^|/)yi-", "Yi", (*_CHATML, "<|endoftext|>")),
    (r"internlm2|internlm3", "InternLM", _CHATML),
    (r"glm-?4", "GLM-4",
     ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>", "<|endoftext|>")),
)  # fmt: skip
"""By name of a model: what its family is called, and the control tokens of chat templates that its vocabulary has.

A name that fits two rows is of the first; a family without a name is one whose vocabulary its maker chose again.
"""
_OF_A_PATH = re.compile(
    r"(?:meta-)?(?:code|tiny)?(?:llama|qwen|gemma|phi|mistral|mixtral|yi|glm|smollm|internlm)[\w.-]*\Z"
)
"""The last part of a path that is named as its maker names it; any other folder may hold anything."""
_KNOWN_WITHOUT = {"Llama 2", "Mistral"}
"""Families whose vocabulary has none of the marks: they write turns as plain text."""


_AS_TEXT = {"zephyr"}
"""Templates whose marks their own models have as plain text."""


@dataclass(frozen=True)
class Template:
    """What one template writes.

    Attributes:
        prefix, user, assistant, system: slots around a message of that role; None where the trainer's default stands.
        default_system: the system message of a conversation without one.
        stop_words: what ends an answer.
        efficient_eos: the end token stands once, behind the last answer.
        replace_eos: the first stop word becomes the tokenizer's end token.
        fused: the system message is written into the first user message.
        thought_words: what opens and closes a reasoning block, of a template that knows such; else None.
        media: images and the like are written too.
        plain: nothing but these slots decides what is written.
    """

    name: str
    prefix: tuple[Slot, ...]
    user: tuple[Slot, ...]
    assistant: tuple[Slot, ...]
    system: tuple[Slot, ...]
    default_system: str
    stop_words: tuple[str, ...]
    efficient_eos: bool
    replace_eos: bool
    fused: bool
    thought_words: tuple[str, str] | None
    media: bool
    plain: bool

    @property
    def marks(self) -> tuple[str, ...]:
        """The control tokens that it writes, in their order."""
        if self.name in _AS_TEXT:
            return ()
        slots = (*self.prefix, *self.user, *self.assistant, *self.system)
        texts = [slot if isinstance(slot, str) else slot.get("token", "") for slot in slots]
        return tuple(dict.fromkeys([mark for text in texts for mark in _MARK.findall(text)]))


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("templates.json").read_text("utf-8"))
    return table


@lru_cache(maxsize=256)
def find_template(name: str, trainer: str = "llamafactory") -> Template | None:
    """A template by the name that a trainer has for it; None where the table does not know it."""
    known = name if trainer == "llamafactory" else ALIASES.get(trainer, {}).get(name.lower())
    row = _table()["templates"].get(known)
    if row is None or known is None:
        return None
    efficient = bool(row.get("efficient_eos"))
    answer: list[Slot] = ["{{content}}"] if efficient else ["{{content}}", {"special": "eos_token"}]
    reasons = "Reasoning" in row.get("class", "")
    return Template(
        name=name,
        prefix=tuple(row.get("prefix", ())),
        user=tuple(row.get("user", ("{{content}}",))),
        assistant=tuple(row.get("assistant", answer)),
        system=tuple(row.get("system", ("{{content}}",))),
        default_system=row.get("default_system", ""),
        stop_words=tuple(row.get("stop_words", ())),
        efficient_eos=efficient,
        replace_eos=bool(row.get("replace_eos")),
        fused=row.get("class") == "Llama2Template",
        thought_words=tuple(row.get("thought_words", ("<think>\n", "\n</think>\n\n"))) if reasons else None,
        media=bool(row.get("media")),
        plain=row.get("class") in (None, "Llama2Template", "ReasoningTemplate"),
    )


def slip_of(name: str) -> str | None:
    """The template of LLaMA-Factory whose name this is a slip of, in its letters alone: another number may be that of a
    newer one. None for a name that it has, and where none is near."""
    known = _table()["templates"]
    near = closest(name, known, cutoff=0.75) if name not in known else []
    if near and name.startswith(f"{near[0]}_"):
        return None  # a variant of one's own
    return near[0] if near and re.findall(r"\d", near[0]) == re.findall(r"\d", name) else None


@lru_cache(maxsize=1)
def _marks_by_name() -> dict[tuple[str, str], tuple[str, ...]]:
    table = json.loads(Path(__file__).with_name("template_marks.json").read_text("utf-8"))
    return {
        (trainer, name): tuple(marks.split())
        for trainer, groups in table.items()
        for marks, names in groups.items()
        for name in names
    }


def marks_of(name: str, trainer: str = "llamafactory") -> tuple[str, ...]:
    """The control tokens that a trainer's template writes; none where it writes none, or is not known."""
    template = find_template(name, trainer)
    return template.marks if template is not None else _marks_by_name().get((trainer, name.lower()), ())


def is_instructed(model: str) -> bool:
    """Whether a model's name says that it was taught to answer, and so has a template of its own."""
    return re.search(r"instruct|chat|(?:^|[-_/])it(?:[-_]|$)|think|reason", model.lower()) is not None


def marks_in(text: str) -> tuple[str, ...]:
    """What looks like a control token in a text, such as a template's own."""
    return tuple(dict.fromkeys(_MARK.findall(text)))


def family_of(model: str) -> tuple[str, frozenset[str]] | None:
    """(name of the family, marks that its vocabulary has) of a model by its name; None where nobody can tell."""
    name = model.rstrip("/").lower()
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        name = name.rpartition("/")[2]
        if _OF_A_PATH.match(name) is None:
            return None
    for pattern, family, marks in _VOCABULARIES:
        if re.search(pattern, name):
            return (family, frozenset(marks)) if marks or family in _KNOWN_WITHOUT else None
    return None
