"""Samples as axolotl's prompt strategies form them (0.18, 0.19: ``axolotl/prompt_strategies``, ``prompt_tokenizers``).

axolotl is seldom installed where a config is checked; what its documentation and source say is followed here, and
reported as ours. A form that is not followed says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from ...core.labels import IGNORED
from ...setup.setup import NamedData
from ...tables.templates import Slot, find_template
from .chat import Rendered, joined, lost_content, render_chat, turn_span
from .kinds import CannotForm, FormedRow, FormedSet, NotFollowedForm, Piece

_ROLES = {
    "human": "user", "user": "user", "assistant": "assistant", "gpt": "assistant", "system": "system", "tool": "tool",
}  # fmt: skip
_BELOW = "Below is an instruction that describes a task"
_PROMPTS = {
    True: f"{_BELOW}, paired with an input that provides further context. Write a response that appropriately "
    "completes the request.",
    False: f"{_BELOW}. Write a response that appropriately completes the request.",
}
"""What Alpaca's prompt begins with, with an input and without one."""


_TO_A_USER = "Below is an instruction from a USER that describes a task"
_CONCISELY = {
    True: f"{_TO_A_USER}, paired with an input that provides further context. The ASSISTANT writes a response that "
    "concisely and appropriately completes the request.\n\n",
    False: f"{_TO_A_USER}. The ASSISTANT writes a response that appropriately and concisely completes the request.\n\n",
}
_CHOOSE = "Choose the answer that best answers the question."
_IN_CONTEXT = "Use the following contextual information to concisely answer the question.\n"
_CREATIVE = (
    "Answer the following question in a comprehensive, in-depth, and creative way. Additionally your response should "
    "be relevant, accurate, and free of any ambiguity."
)
_NO_ANSWER = (
    "The context provided does not contain any information about your inquiry. Therefore, I'm unable to answer your "
    "question based on the given context."
)


@dataclass(frozen=True)
class _Style:
    system: str
    with_input: str
    without: str


_CHAT_TURNS = ("USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:")
_ARTICLE = "USER: Summarize the following article as a TL;DR.\n{instruction}\n"
_STYLES = {
    "instruct": _Style(
        "{system}\n\n",
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
        "### Instruction:\n{instruction}\n\n### Response:\n",
    ),
    "chat": _Style("SYSTEM: {system}\n", *_CHAT_TURNS),
    "chatml": _Style(
        "<|im_start|>system\n{system}<|im_end|>\n",
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    ),
    "phi": _Style(
        "<|system|>\n{system}<|end|>\n",
        "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
        "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
    ),
    "orca": _Style(
        "### System:\n{system}\n",
        "### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n",
        "### Human:\n{instruction}\n### Assistant:\n",
    ),
    "orcamini": _Style("### System:\n{system}\n\n", "", "### User:\n{instruction}\n\n### Response:\n"),
    "choice": _Style("{system}", *_CHAT_TURNS),
    "summary": _Style("", _ARTICLE + "{input}\nASSISTANT:", _ARTICLE + "ASSISTANT:"),
    "creative": _Style("{system}\n", *_CHAT_TURNS),
    "bare": _Style("", "{instruction}\n{input}", "{instruction}"),
}


@dataclass(frozen=True)
class _Pairs:
    """A form of one question and one answer.

    Attributes:
        instruction, output: a column, or a text with columns in braces.
        input: a column, whose list is written as choices.
        begins: the first sentences with an input and without; None: there are none.
        system: the column of what stands in their place.
        ends: end tokens behind the answer.
    """

    instruction: str
    output: str
    input: str | None = None
    style: str = "instruct"
    begins: Mapping[bool, str] | None = field(default_factory=lambda: _PROMPTS)
    system: str | None = None
    ends: int = 1


def _always(text: str) -> dict[bool, str]:
    return {True: text, False: text}


_ALPACA = ("instruction", "output", "input")
_FORMS = {
    "alpaca": _Pairs(*_ALPACA),
    "alpaca:instruct": _Pairs(*_ALPACA),
    "alpaca:chat": _Pairs(*_ALPACA, "chat"),
    "alpaca:chatml": _Pairs(*_ALPACA, "chatml"),
    "alpaca:phi": _Pairs(*_ALPACA, "phi"),
    "alpaca_chat": _Pairs(*_ALPACA, "chat"),
    "alpaca_chat.load_concise": _Pairs(*_ALPACA, "chat", _CONCISELY),
    "alpaca_chat.load_no_prompt": _Pairs(*_ALPACA, "chat", None),
    "alpaca_chat.load_qa": _Pairs("question", "answer", None, "chat", _CONCISELY),
    "alpaca_chat.load_camel_ai": _Pairs("message_1", "message_2", None, "chat", _CONCISELY),
    "alpaca_instruct": _Pairs(*_ALPACA),
    "alpaca_instruct.load_no_prompt": _Pairs(*_ALPACA, begins=None),
    "alpaca_w_system": _Pairs(*_ALPACA, "chat", None, "system"),
    "alpaca_w_system.load_instruct": _Pairs(*_ALPACA, "instruct", None, "system"),
    "alpaca_w_system.load_chat": _Pairs(*_ALPACA, "chat", None, "system"),
    "alpaca_w_system.load_open_orca": _Pairs("question", "response", None, "orca", None, "system_prompt"),
    "alpaca_w_system.load_open_orca_chatml": _Pairs("question", "response", None, "chatml", None, "system_prompt"),
    "orcamini": _Pairs("question", "response", None, "orcamini", None, "system_prompt"),
    "oasst": _Pairs("INSTRUCTION", "RESPONSE"),
    "gpteacher": _Pairs("instruction", "response", "input"),
    "jeopardy": _Pairs("question", "what is {answer}", "category"),
    "explainchoice": _Pairs("question", "solution", "choices", begins=_always(f"{_CHOOSE} Explain your reasoning.\n")),
    "concisechoice": _Pairs(
        "question", "solution", "choices", "choice", _always(f"{_CHOOSE} Be concise in your response.\n\n")
    ),
    "summarizetldr": _Pairs("article", "summary", None, "summary", None),
    "context_qa": _Pairs("{article}\n===\n{question}", "answer", None, "chat", _always(_IN_CONTEXT)),
    "context_qa.load_v2": _Pairs("Context: {context}\nQuestion: {question}\n", "Answer: {answer}", None, "bare", None),
    "context_qa.load_404": _Pairs(
        "{article}\n===\n{unanswerable_question}", "{article:.0}" + _NO_ANSWER, None, "chat", _always(_IN_CONTEXT)
    ),
    "creative_acr.load_answer": _Pairs("instruction", "revision", None, "creative", _always(_CREATIVE)),
    "metharme": _Pairs("prompt", "generation", None, "bare", None, ends=3),
}


def settings_of(named: NamedData) -> dict[str, Any]:
    """What the file says of a data set, with axolotl's defaults where it is silent."""
    defaults = {"sequence_len": 512, "train_on_inputs": False, "excess_length_strategy": "drop", "min_sample_len": 2}
    return {**defaults, **named.settings}


def prepare_tokenizer(tokenizer: Any, settings: Mapping[str, Any]) -> None:
    """Add and set what ``special_tokens`` and ``tokens`` say."""
    special = settings.get("special_tokens")
    if isinstance(special, Mapping):
        tokenizer.add_special_tokens({name: text for name, text in special.items() if isinstance(text, str)})
    added = settings.get("tokens")
    if isinstance(added, list):
        tokenizer.add_tokens([token for token in added if isinstance(token, str)])


def form(
    named: NamedData, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """The rows of one data set.

    Args:
        told: is filled with what is learnt of the set.
        tokenizer: None leaves the tokens out; what does not need them is reported all the same.

    Raises:
        NotFollowedForm: this form is not followed here.
    """
    settings = settings_of(named)
    if settings.get("rl"):
        raise NotFollowedForm("Axolotl's forms of preference data are not followed.")
    if settings.get("processor_type"):
        raise NotFollowedForm("Axolotl hands rows with images to the model's processor.")
    if {"input_ids", "attention_mask", "labels"} <= set(told.columns):
        told.form = "tokenized"
        return _each(rows, told, lambda row: _tokenized(row, told))
    kind = settings.get("type")
    told.form = kind if isinstance(kind, str) else "a form of its own" if isinstance(kind, Mapping) else None
    if isinstance(kind, Mapping):
        return _each(rows, told, lambda row: _user_defined(row, kind, settings, told, tokenizer))
    kind = str(kind or "")
    if kind in ("chat_template", "chat_template.default", "chat_template.load"):
        chat = _Chat(settings, tokenizer)
        return chat.form(rows, told)
    if kind.partition(":")[0].split(".")[0] == "sharegpt":
        fields = {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"}}
        chat = _Chat({**settings, **fields}, tokenizer)
        return chat.form(rows, told)
    if kind == "completion":
        return _completions(rows, settings, told, tokenizer)
    if kind in ("input_output", "input_output.load"):
        return _each(rows, told, lambda row: _segments(row, settings, told, tokenizer))
    pairs = _FORMS.get(kind.removesuffix(".load"))
    if pairs is None:
        raise NotFollowedForm(f"Axolotl's form {kind or 'without a type'} is not followed.")
    return _each(rows, told, lambda row: _pair(row, pairs, settings, told, tokenizer))


def limits(settings: Mapping[str, Any]) -> tuple[int, str]:
    """(tokens of a row at most, what happens to a longer one): axolotl leaves it out unless set to cut."""
    cuts = str(settings["excess_length_strategy"]).lower() == "truncate"
    return int(settings["sequence_len"]), "cut" if cuts else "drop"


def _each(rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet, one: Any) -> list[FormedRow]:
    found = []
    for number, row in rows:
        try:
            formed: FormedRow = one(row)
        except CannotForm as error:
            raise CannotForm(f"{_place(number)}: {error}") from error
        formed.number = number
        found.append(formed)
    return found


def _place(number: int | None) -> str:
    return f"Row {number + 1}" if number is not None else "A row"


def _column(row: Mapping[str, Any], name: str, told: FormedSet) -> Any:
    told.read.add(name)
    if name not in row and name not in told.columns:
        raise CannotForm(f"there is no column {name!r}; there are {', '.join(row)}.")
    return row.get(name)


def _optional(row: Mapping[str, Any], name: str | None, told: FormedSet) -> str:
    if name is None:
        return ""
    told.read.add(name)
    return str(row.get(name) or "")


# -- pairs


def _pair(
    row: Mapping[str, Any], form: _Pairs, settings: Mapping[str, Any], told: FormedSet, tokenizer: Any
) -> FormedRow:
    instruction = _written(row, form.instruction, told)
    given = _choices(row, form.input, told) if form.input == "choices" else _optional(row, form.input, told)
    system = str(_column(row, form.system, told) or "") if form.system else (form.begins or _NOTHING)[bool(given)]
    style = _STYLES[form.style]
    body = (style.with_input if given else style.without).format(instruction=instruction, input=given)
    prompt = (style.system.format(system=system) if system or form.style == "orcamini" else "") + body
    output = form.output
    if output == "solution" and "solution" not in told.columns:
        output = "explanation"
    answer = _written(row, output, told) if "{" in output else _column(row, output, told)
    return _prompt_and_answer(prompt, answer, str(instruction) + given, settings, tokenizer, form.ends)


_NOTHING = _always("")


def _written(row: Mapping[str, Any], what: str, told: FormedSet) -> str:
    """A column's text, or a text with the columns that it names."""
    if "{" not in what:
        return str(_column(row, what, told) or "")
    names = [name for _, name, _, _ in Formatter().parse(what) if name]
    return what.format(**{name: str(_column(row, name, told) or "") for name in names})


def _choices(row: Mapping[str, Any], name: str, told: FormedSet) -> str:
    choices = _column(row, name, told)
    if not isinstance(choices, list | str):
        raise CannotForm(f"{name} is no list.")
    return "\n".join(f'- "{choice}"' for choice in choices)


def _user_defined(
    row: Mapping[str, Any], kind: Mapping[str, Any], settings: Mapping[str, Any], told: FormedSet, tokenizer: Any
) -> FormedRow:
    instruction = str(_column(row, str(kind.get("field_instruction") or "instruction"), told) or "")
    given = _optional(row, str(kind.get("field_input") or "input"), told)
    system = _optional(row, str(kind.get("field_system") or "system"), told) or str(kind.get("system_prompt") or "")
    shape = str(kind.get("format") or "{instruction} {input} ") if given else None
    shape = shape or str(kind.get("no_input_format") or "{instruction} ")
    try:
        prompt = shape.format(instruction=instruction, input=given)
        if system:
            prompt = str(kind.get("system_format") or "{system}").format(system=system) + prompt
    except (KeyError, IndexError, ValueError) as error:
        raise CannotForm(f"the format names {error}, which it cannot have.") from error
    answer = _optional(row, str(kind.get("field_output") or "output"), told)
    return _prompt_and_answer(prompt, answer, instruction + given, settings, tokenizer)


def _prompt_and_answer(
    prompt: str, answer: Any, asked: str, settings: Mapping[str, Any], tokenizer: Any, ends: int = 1
) -> FormedRow:
    if answer is not None and not isinstance(answer, str):
        raise CannotForm(f"the answer is {type(answer).__name__}, no text.")
    answer = answer or ""
    on_inputs = bool(settings["train_on_inputs"])
    formed = FormedRow(
        0, None, teaches=bool(answer) or on_inputs, prompt=asked, answer=answer, identity=prompt + "\0" + answer
    )
    if tokenizer is not None:
        first = _tokens(tokenizer, prompt, end=False)
        second = _tokens(tokenizer, answer, end=True)
        second += [tokenizer.eos_token_id] * (ends - 1 if second else 0)
        if second and second[0] == tokenizer.bos_token_id:
            second = second[1:]
        formed.ids = first + second
        formed.labels = (first if on_inputs else [IGNORED] * len(first)) + second
    return formed


def _tokens(tokenizer: Any, text: str, *, end: bool) -> list[int]:
    """Of an empty text nothing; with the end token where the text has none."""
    if not text:
        return []
    ids = list(tokenizer(text)["input_ids"])
    eos = tokenizer.eos_token_id
    return [*ids, eos] if end and eos is not None and ids and ids[-1] != eos else ids


# -- texts and segments


def _completions(
    rows: list[tuple[int | None, dict[str, Any]]], settings: Mapping[str, Any], told: FormedSet, tokenizer: Any
) -> list[FormedRow]:
    """Every text is cut into pieces of sequence_len tokens, all of which are trained."""
    column = str(settings.get("field") or "text")
    limit = int(settings["sequence_len"])
    found = []
    for number, row in rows:
        try:
            text = str(_column(row, column, told) or "")
        except CannotForm as error:
            raise CannotForm(f"{_place(number)}: {error}") from error
        if not text:
            found.append(FormedRow(0, number, dropped="an empty text"))
            continue
        if tokenizer is None:
            found.append(FormedRow(0, number, teaches=bool(text), answer=text, identity=text))
            continue
        ids = _tokens(tokenizer, text, end=True)
        for start in range(0, max(len(ids), 1), limit):
            part = ids[start : start + limit]
            found.append(
                FormedRow(0, number, part, list(part), teaches=bool(part), answer=text, identity=f"{text}\0{start}")
            )
    return found


def _segments(row: Mapping[str, Any], settings: Mapping[str, Any], told: FormedSet, tokenizer: Any) -> FormedRow:
    segments = _column(row, "segments", told)
    if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
        raise CannotForm("segments is no list of {label, text}.")
    on_inputs = bool(settings["train_on_inputs"])
    pieces = [Piece(str(each.get("text") or ""), bool(each.get("label")) or on_inputs) for each in segments]
    asked = "".join(str(piece.content) for piece in pieces if not piece.trained)
    answer = "".join(str(piece.content) for piece in pieces if piece.trained)
    formed = FormedRow(0, None, teaches=bool(answer), prompt=asked, answer=answer, identity=asked + "\0" + answer)
    if tokenizer is not None:
        formed.ids, formed.labels = joined(tokenizer, pieces)
    return formed


def _tokenized(row: Mapping[str, Any], told: FormedSet) -> FormedRow:
    """A row that has its tokens and labels, which is taken as it is."""
    told.read |= {"input_ids", "attention_mask", "labels"}
    ids, labels = row["input_ids"], row["labels"]
    if not isinstance(ids, list) or not isinstance(labels, list) or len(ids) != len(labels):
        raise CannotForm("input_ids and labels are no lists of one length.")
    teaches = any(label != IGNORED for label in labels)
    return FormedRow(0, None, list(ids), list(labels), teaches=teaches, answer=repr(labels), identity=repr(ids))


# -- conversations


@dataclass
class _Chat:
    """``chat_template``: which turns are trained, and where they stand in the rendered text."""

    settings: Mapping[str, Any]
    tokenizer: Any
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        said = self.settings.get("roles")
        self.names = dict(_ROLES)
        if isinstance(said, Mapping) and said:
            self.names = {str(source): str(to) for to, sources in said.items() for source in _listed(sources)}
        mapping = self.settings.get("message_property_mappings")
        self.mapping = dict(mapping) if isinstance(mapping, Mapping) and mapping else _DEFAULT_MAPPING
        old = {"role": self.settings.get("message_field_role"), "content": self.settings.get("message_field_content")}
        self.mapping = {**self.mapping, **{key: value for key, value in old.items() if value}}
        asked = self.settings.get("roles_to_train", ["assistant"])
        self.asked = [str(each) for each in _listed(asked)]
        self.trained = {self.names.get(role, role) for role in self.asked}
        self.on_eos = self.settings.get("train_on_eos", "turn")
        self.on_eot = self.settings.get("train_on_eot") or self.on_eos
        self.template = self._template()

    def form(self, rows: list[tuple[int | None, dict[str, Any]]], told: FormedSet) -> list[FormedRow]:
        column = str(self.settings.get("field_messages") or "messages")
        told.roles_trained = self.asked
        told.trains_all = bool(self.settings["train_on_inputs"] or self.settings.get("message_field_training"))
        found = _each(rows, told, lambda row: self._row(row, column, told))
        present = {self.names.get(role, role) for role in told.roles}
        told.asked_roles_missing = [role for role in self.asked if self.names.get(role, role) not in present]
        return found

    def _row(self, row: Mapping[str, Any], column: str, told: FormedSet) -> FormedRow:
        turns = self._turns(row, column, told)
        tools = _parsed(row.get(str(self.settings.get("field_tools") or "tools")))
        told.read.add(str(self.settings.get("field_tools") or "tools"))
        trains = [self._trains(turn) for turn in turns]
        answer = "\n".join(_text_of(turn) for turn, yes in zip(turns, trains, strict=True) if yes)
        asked = "\n".join(_text_of(turn) for turn, yes in zip(turns, trains, strict=True) if not yes)
        formed = FormedRow(
            0, None, teaches=bool(answer.strip()), prompt=asked, answer=answer, identity=json.dumps(turns, default=str),
            messages=turns, tools=tools,
        )  # fmt: skip
        if self.tokenizer is not None:
            messages = [{key: value for key, value in turn.items() if key != "training"} for turn in turns]
            rendered = render_chat(self.tokenizer, messages, self.template, tools)
            formed.ids = rendered.ids
            formed.labels = self._labels(rendered, messages, trains, tools)
            formed.lost = lost_content(rendered.text, messages)
        return formed

    def _turns(self, row: Mapping[str, Any], column: str, told: FormedSet) -> list[dict[str, Any]]:
        messages = _parsed(_column(row, column, told))
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise CannotForm(f"{column} is no list of messages.")
        turns = []
        for message in messages:
            turn: dict[str, Any] = {
                key: message[source] for key, source in self.mapping.items() if message.get(source) is not None
            }
            if "role" not in turn:
                raise CannotForm(f"a message has no {self.mapping.get('role', 'role')!r}; it has {', '.join(message)}.")
            written = str(turn["role"])
            told.roles[written] = told.roles.get(written, 0) + 1
            if written not in self.names and written not in _USUAL:
                told.roles_unknown[written] = told.roles_unknown.get(written, 0) + 1
            turn["role"] = self.names.get(written, written)
            marks = self.settings.get("message_field_training")
            if marks and message.get(marks) is not None:
                turn["training"] = bool(message[marks])
            for key in ("tool_calls", "tool_call_id", "name"):
                if message.get(key) is not None and key not in turn:
                    turn[key] = message[key]
            if isinstance(turn.get("content"), list):
                turn["content"] = "".join(
                    str(p.get("text") or p.get("content") or p.get("value") or "") for p in turn["content"]
                )
            if self.settings.get("split_thinking") and turn["role"] == "assistant":
                self._split(turn)
            turns.append(turn)
        told.read.add("system")  # whatever field_system says: this form does not hand it on
        if turns[0]["role"] != "system" and row.get("system"):
            turns.insert(0, {"role": "system", "content": str(row["system"])})
        if self.settings.get("drop_system_message") and turns[0]["role"] == "system":
            turns = turns[1:]
        return turns

    def _split(self, turn: dict[str, Any]) -> None:
        """Move what an answer holds between two marks of thinking into a field of its own."""
        if "content" not in turn:
            raise CannotForm("an answer has no content, which split_thinking looks into.")
        content = str(turn["content"])
        for begin, end in _THOUGHTS:
            first, last = content.find(begin), content.find(end)
            if first >= 0 and last >= 0:
                key = str(self.settings.get("template_thinking_key") or "reasoning_content")
                turn[key] = content[first + len(begin) : last].strip()
                rest = content[last + len(end) :].lstrip()
                left, right = rest.find(_SOLUTION[0]), rest.find(_SOLUTION[1])
                turn["content"] = rest[left + len(_SOLUTION[0]) : right].strip() if left >= 0 and right >= 0 else rest
                return

    def _trains(self, turn: Mapping[str, Any]) -> bool:
        marked = turn.get("training")
        if marked is not None:
            return bool(marked)
        return bool(self.settings["train_on_inputs"]) or turn["role"] in self.trained

    def _labels(self, rendered: Rendered, messages: list[dict[str, Any]], trains: list[bool], tools: Any) -> list[int]:
        """Contents of trained turns, and of the end tokens behind them those that train_on_eos names."""
        ids = rendered.ids
        labels = [IGNORED] * len(ids)
        ends = {self.on_eos: {self.tokenizer.eos_token_id}}
        turn_ends = self.tokenizer.convert_tokens_to_ids(self._turn_ends())
        ends.setdefault(self.on_eot, set()).update(turn_ends)
        last: dict[Any, int] = {}
        for index, trained in enumerate(trains):
            if not trained and "all" not in (self.on_eos, self.on_eot):
                continue
            span = turn_span(self.tokenizer, rendered, messages, index, self.template, tools)
            if span is None:
                continue
            start, end = span
            if trained:
                labels[start:end] = ids[start:end]
            for when, tokens in ends.items():
                place = next((at for at in range(end, min(end + 4, len(ids))) if ids[at] in tokens), None)
                if place is None:
                    continue
                last[when] = place
                if when == "all" or (when == "turn" and trained):
                    labels[place] = ids[place]
        if "last" in last:
            labels[last["last"]] = ids[last["last"]]
        return labels

    def _turn_ends(self) -> list[str]:
        """Tokens that ``train_on_eot`` is about.

        Raises:
            CannotForm: the end token is one of several of them, and is to be trained in two ways.
        """
        eos = self.tokenizer.eos_token
        said = self.settings.get("eot_tokens")
        named = [str(each) for each in said] if isinstance(said, list) and said else [eos]
        if named != [eos] and eos in named and self.on_eos != self.on_eot:
            raise CannotForm("train_on_eos and train_on_eot differ, and the end token is one of eot_tokens.")
        return named

    def _template(self) -> str | None:
        """The template's text; None: the tokenizer's own.

        Raises:
            NotFollowedForm: it is one whose text is not known here.
        """
        choice = str(self.settings.get("chat_template") or "tokenizer_default")
        own = self.settings.get("chat_template_jinja")
        if choice == "jinja" or (own and choice == "tokenizer_default"):
            if isinstance(own, str) and "{" in own:
                return own
            raise NotFollowedForm("The template of chat_template_jinja is not in the file itself.")
        if choice == "tokenizer_default" or self.tokenizer is None:
            return None
        if choice.startswith("tokenizer_default_fallback_"):
            if self.tokenizer.chat_template:
                return None
            choice = choice.removeprefix("tokenizer_default_fallback_")
        text = _jinja(choice)
        if text is None:
            raise NotFollowedForm(f"The text of axolotl's template {choice} is not known here.")
        return text


_DEFAULT_MAPPING = {"role": "role", "content": "content", "tool": "tool", "reasoning_content": "reasoning_content"}
_THOUGHTS = (
    ("<think>", "</think>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
_USUAL = {"developer", "function", "function_call", "observation", "ipython"}
"""Roles that templates know by themselves."""


def _jinja(name: str) -> str | None:
    """A template of the table as Jinja; only of those that write each turn alone."""
    if name not in ("chatml", "llama3"):
        return None
    row = find_template(name, "axolotl")
    if row is None:
        return None
    end = {"chatml": "<|im_end|>\n", "llama3": "<|eot_id|>"}[name]
    begin = {
        "chatml": ("<|im_start|>", "\n"),
        "llama3": ("<|start_header_id|>", "<|end_header_id|>\n\n"),
    }[name]
    first = "{{ bos_token }}" if any(_is_special(slot) for slot in row.prefix) else ""
    return (
        f"{first}{{% for message in messages %}}{{{{ {begin[0]!r} + message['role'] + {begin[1]!r} + "
        f"message['content'] + {end!r} }}}}{{% endfor %}}{{% if add_generation_prompt %}}"
        f"{{{{ {begin[0]!r} + 'assistant' + {begin[1]!r} }}}}{{% endif %}}"
    )


def _is_special(slot: Slot) -> bool:
    return isinstance(slot, dict) and "special" in slot


def _text_of(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    calls = turn.get("tool_calls")
    return (content if isinstance(content, str) else "") + (json.dumps(calls, default=str) if calls else "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parsed(value: Any) -> Any:
    """A text that holds JSON as what it holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
