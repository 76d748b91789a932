"""A conversation as ms-swift's own templates write it (4.6: ``swift/template/base.py``, ``swift/loss_scale``).

A row is a list of texts with a weight each. Neighbours of one weight are joined and tokenized together; tokens of
weight 0 are not trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ...core.labels import IGNORED
from ...tables.swift_templates import WITHOUT, SwiftTemplate, loss_scale, swift_template, template_of
from .kinds import NotFollowedForm
from .swift_tools import AGENTS, call_of, parsed

_STRATEGIES = ("default", "last_round", "all")
_THINK = "</think>"


class Refused(Exception):
    """Why ms-swift leaves a row out."""


Part = str | list[Any]
"""A text, several texts of one message, or token ids."""


@dataclass(frozen=True)
class Encoder:
    """A template with its settings.

    Attributes:
        whole: the chat template is used.
        strategy: which turns are trained.
        scales: what weighs the parts of a trained text, one after another.
        system: the system message of a conversation without one; None: the template's.
        preserve_thinking: thoughts of earlier turns are kept; None: by the template and the strategy.
        agent: the form of tools.
        opening: stands where the answer would, of a row without one.
        adds_prefix: answers without a thought get an empty one.
    """

    tokenizer: Any
    template: SwiftTemplate
    whole: bool
    strategy: str
    scales: tuple[Mapping[str, Any], ...]
    system: str | None
    agent: str | None
    preserve_thinking: bool | None
    adds_prefix: bool
    opening: str

    def encode(self, messages: list[dict[str, Any]], tools: Any) -> tuple[list[int], list[int], str]:
        """(ids, labels, text); the messages are changed.

        Raises:
            Refused: the row is left out.
            NotFollowedForm: how its tools are written is not followed.
        """
        parts, kinds = self._parts(messages, tools)
        weighed = self._weighed(parts, kinds, messages)
        ids, labels = self._tokens(weighed)
        suffix = self._tokens([(part, 0.0) for part in self._resolved(self.template.suffix)])[0]
        _end_answers(ids, labels, suffix)
        if labels:
            labels[0] = IGNORED
        return ids, labels, "".join(part for part, _ in weighed if isinstance(part, str))

    # -- texts

    def _in_rounds(self, messages: list[dict[str, Any]], tools: Any) -> Any:
        """Bring the messages into rounds of a question and an answer, in place; returns the system message.

        Raises:
            Refused: there are none.
        """
        system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else None
        self._merge(messages)
        if self.whole:
            self._think(messages)
            system = self._system(system, tools, messages)
        if messages and messages[0]["role"] == "assistant":
            messages.insert(0, {"role": "user", "content": ""})
        if len(messages) % 2:
            messages.append({"role": "assistant", "content": None})
        if len(messages) > 2 and self.template.chat_sep is None:
            del messages[:-2]
        if not messages:
            raise Refused("it has no messages")
        return system

    def _parts(self, messages: list[dict[str, Any]], tools: Any) -> tuple[list[Part], list[str]]:
        template, system = self.template, self._in_rounds(messages, tools)
        parts: list[Part] = []
        kinds: list[str] = []
        begins, ends = self._around()
        if begins:
            parts.append(begins)
            kinds.append("other")
        at_end = template.prompt_with_system is not None
        prefix = template.prefix if at_end or not system else template.system_prefix or ()
        self._write(prefix, parts, kinds, system=system)
        rounds = len(messages) // 2
        for number in range(rounds):
            asked, answered = messages[2 * number : 2 * number + 2]
            if asked["role"] not in ("user", "tool") or answered["role"] != "assistant":
                raise Refused("a role out of turn")
            last, query, answer = number == rounds - 1, asked["content"], answered["content"]
            prompt: Sequence[Any] = template.prompt
            if asked["role"] == "tool":
                prompt, query = query, ""
            elif at_end and last:
                prompt = template.prompt_with_system or ()
            behind: Sequence[Any] = ()
            if not last:
                behind = (template.chat_sep or ()) if messages[2 * number + 2]["role"] != "tool" else ()
            elif answer is not None:
                ending = answer[-1] if isinstance(answer, list) else answer
                stops = [*template.stop_words, *self._stops()]
                if not ends and not any(ending.endswith(stop) for stop in stops if isinstance(stop, str)):
                    behind = template.suffix
            self._write(prompt, parts, kinds, query=query, system=system, number=number)
            if answer is not None:
                parts.append(answer)
                kinds.append("response")
            elif self.opening:
                parts.append(self.opening)
                kinds.append("other")
            for part in self._resolved(behind):
                parts.append(part)
                kinds.append("suffix" if last else "other")
        if ends:
            parts.append(ends)
            kinds.append("suffix")
        return parts, kinds

    def _write(
        self,
        slots: Sequence[Any],
        parts: list[Part],
        kinds: list[str],
        *,
        query: str | None = None,
        system: str | None = None,
        number: int | None = None,
    ) -> None:
        said = {"{{SYSTEM}}": system, "{{QUERY}}": query, "{{TODAY}}": datetime.now().strftime("%d %b %Y")}
        if number is not None:
            said |= {"{{ROUND0}}": str(number), "{{ROUND1}}": str(number + 1)}
        for slot in self._resolved(slots):
            for mark, text in said.items() if isinstance(slot, str) else ():
                slot = str(slot).replace(mark, text) if text is not None else slot
            if slot:
                parts.append(slot)
                kinds.append("other")

    def _around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts around a text, of a template that asks for them."""
        if not self.template.auto_add_bos:
            return [], []
        around = self.tokenizer.encode("a")
        (one,) = self.tokenizer.encode("a", add_special_tokens=False)
        place = around.index(one)
        return around[:place], around[place + 1 :]

    def _stops(self) -> list[Any]:
        suffix = self._resolved(self.template.suffix)
        last = suffix[-1].strip() if suffix and isinstance(suffix[-1], str) else None
        return [last, self.tokenizer.eos_token]

    def _resolved(self, slots: Sequence[Any]) -> list[Part]:
        """Slots with the names of special tokens as their ids."""
        return [
            slot if isinstance(slot, str) else [getattr(self.tokenizer, x) if isinstance(x, str) else x for x in slot]
            for slot in slots
        ]

    def _merge(self, messages: list[dict[str, Any]]) -> None:
        """Calls become an answer; results of tools, and neighbours of one role, become one message."""
        place = 0
        while place < len(messages):
            if messages[place]["role"] == "tool_call":
                end = place
                while end < len(messages) and messages[end]["role"] == "tool_call":
                    end += 1
                calls = messages[place:end]
                try:
                    text = self._agent().calls([call_of(call["content"]) for call in calls])
                except (TypeError, KeyError, AssertionError, AttributeError) as error:
                    raise Refused("a call of a tool that is no JSON with a name and arguments") from error
                marked = {key: call[key] for call in reversed(calls) for key in ("loss", "loss_scale") if key in call}
                messages[place:end] = [{"role": "assistant", "content": text, **marked}]
            place += 1
        place = 1
        while place < len(messages):
            before, here = messages[place - 1], messages[place]
            roles = (before["role"], here["role"])
            end = place
            while end < len(messages) and messages[end]["role"] == "tool":
                end += 1
            results = [each["content"] for each in messages[place:end]]
            if roles == ("user", "tool"):
                agent = self._agent()
                if not hasattr(agent, "alone"):
                    raise Refused("a tool's result without a call")
                before["content"] += agent.alone(results, self.template)
                del messages[place:end]
            elif roles == ("assistant", "tool"):
                said = before["content"]
                last = said[-1] if isinstance(said, list) else said
                last, prompt = self._agent().results(last, results, self.template)
                before["content"] = [*said[:-1], last] if isinstance(said, list) else last
                messages[place:end] = [{"role": "tool", "content": prompt}]
                place += 1
            elif roles == ("assistant", "assistant"):
                for key in ("content", "loss", "loss_scale"):
                    two = before.get(key), here.get(key)
                    before[key] = [x for value in two for x in (value if isinstance(value, list) else [value])]
                del messages[place]
            elif roles == ("user", "user"):
                before["content"] += here["content"]
                del messages[place]
            else:
                place += 1

    def _agent(self) -> Any:
        if self.agent is None:
            raise Refused("its template has no form for tools (agent_template)")
        if self.agent not in AGENTS:
            raise NotFollowedForm(f"How ms-swift writes tools as {self.agent} is not followed.")
        return AGENTS[self.agent]

    def _think(self, messages: list[dict[str, Any]]) -> None:
        """An empty thought where there is none, and no thoughts of earlier turns, as far as the template asks."""
        template = self.template
        asked = last_question(messages)
        last_alone = self.strategy == "last_round"
        prefix = template.non_thinking_prefix if self.adds_prefix else ""
        first = asked if last_alone and not template.preserve_thinking else -1
        answers = [(i, each) for i, each in enumerate(messages) if each["role"] == "assistant"]
        for place, message in answers if prefix else ():
            if place >= first:
                _change_first(message, lambda text: text if text.startswith(("<think>", prefix)) else prefix + text)
        kept = template.preserve_thinking if self.preserve_thinking is None else self.preserve_thinking
        if kept is None:
            kept = not (template.is_thinking and last_alone)
        for place, message in answers if not kept else ():
            if place < asked:
                _change_first(message, lambda text: template.history_thinking_prefix + text.split(_THINK)[-1].strip())

    def _system(self, said: str | None, tools: Any, messages: list[dict[str, Any]]) -> str | None:
        template = self.template
        takes = template.system_prefix is not None or template.prompt_with_system is not None
        if template.made_by == "Gemma3Template":
            if said is not None and messages:
                messages[0]["content"] = f"{said}\n\n{messages[0]['content']}"
            for message in messages:
                if message["role"] == "assistant" and isinstance(message["content"], str):
                    message["content"] = message["content"].strip("\n")
            said = None
        elif said is not None and not takes:
            raise Refused("its template takes no system message")
        default = template.default_system if self.system is None else self.system
        system = default if said is None else said
        if tools:
            given = parsed(tools) if isinstance(tools, str) else [parsed(tool) for tool in tools]
            listed = given if isinstance(given, list) else [given]
            if not all(isinstance(tool, dict) for tool in listed):
                raise Refused("a tool that is no JSON object")
            wrapped = [t if "type" in t or "function" in t else {"type": "function", "function": t} for t in listed]
            system = self._agent().tools(wrapped, system, messages[0] if messages else {"content": ""})
        return system

    # -- weights and tokens

    def _weighed(
        self, parts: Sequence[Part], kinds: Sequence[str], messages: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Part, float]]:
        found: list[tuple[Part, float]] = []
        last = last_question(messages)
        number = 0
        for part, kind in zip(parts, kinds, strict=True):
            in_last = 2 * number >= last
            query = loss = scale = None
            if kind == "response":
                answer = messages[2 * number + 1]
                query, loss, scale = messages[2 * number]["content"], answer.get("loss"), answer.get("loss_scale")
                number += 1
            several = isinstance(part, list) and bool(part) and isinstance(part[0], str)
            for index, each in enumerate(part if several else [part]):
                one, weight = (value[index] if isinstance(value, list) else value for value in (loss, scale))
                trained = kind in ("response", "suffix") and (self.strategy == "default" or in_last)
                if one or (one is None and (self.strategy == "all" or trained)):
                    found += self._scaled(each, query) if weight is None else [(each, float(weight))]
                else:
                    found.append((each, 0.0))
        return found

    def _scaled(self, part: Part, query: Any) -> list[tuple[Part, float]]:
        found: list[tuple[Part, float]] = [(part, 1.0)]
        for scale in self.scales:
            found = [
                (text, weight * more)
                for each, weight in found
                for text, more in (_by_scale(each, scale, query) if isinstance(each, str) else [(each, 1.0)])
            ]
        return found

    def _tokens(self, weighed: Sequence[tuple[Part, float]]) -> tuple[list[int], list[int]]:
        joined: list[tuple[Part, float]] = []
        for part, weight in weighed:
            if isinstance(part, str) and joined and isinstance(joined[-1][0], str) and joined[-1][1] == weight:
                joined[-1] = (joined[-1][0] + part, weight)
            else:
                joined.append((part, weight))
        ids: list[int] = []
        labels: list[int] = []
        for part, weight in joined:
            text = isinstance(part, str)
            made = list(self.tokenizer(part, add_special_tokens=False)["input_ids"]) if text else list(part)
            ids += made
            labels += made if weight > 0 else [IGNORED] * len(made)
        return ids, labels


def encoder_of(settings: Mapping[str, Any], tokenizer: Any) -> Encoder:
    """The encoder of a config.

    Raises:
        NotFollowedForm: the template is not known here, or the loss is weighed in a way that is not followed.
    """
    named = settings.get("template") or settings.get("template_type")
    model = str(getattr(tokenizer, "name_or_path", ""))
    name = str(named) if named else template_of(model, settings.get("model_type"))
    if name is None:
        raise NotFollowedForm(
            "Which of ms-swift's templates the model gets is not known here; template or model_type says it."
        )
    template = swift_template(name)
    if template is None:
        raise NotFollowedForm(f"ms-swift's template {name} is rendered by code of its own, which is not followed.")
    if settings.get("template_backend") == "jinja":
        raise NotFollowedForm("Rows through template_backend: jinja are not followed.")
    scale = str(settings["loss_scale"])
    if template.is_hybrid and not settings.get("disable_ignore_empty_think") and "ignore_empty_think" not in scale:
        scale += "+ignore_empty_think"
    strategy, *names = scale.split("+") if scale.split("+")[0] in _STRATEGIES else ("default", *scale.split("+"))
    scales = [loss_scale(each) for each in names]
    if None in scales:
        raise NotFollowedForm(f"ms-swift's loss_scale {settings['loss_scale']} is not known here.")
    whole = settings.get("use_chat_template") is not False
    preserve = settings.get("preserve_thinking")
    if (
        preserve is None
        and template.preserve_thinking is None
        and settings.get("enable_thinking")
        and strategy == "last_round"
    ):
        preserve = False
    system = settings.get("system")
    thinks = settings.get("enable_thinking")
    thinks = template.is_thinking and not template.non_thinking_prefix if thinks is None else thinks
    opening = settings.get("response_prefix")
    if opening is None:
        opening = "" if not whole else template.thinking_prefix if thinks else template.non_thinking_prefix
    return Encoder(
        tokenizer, template if whole else WITHOUT, whole, strategy, tuple(each for each in scales if each is not None),
        str(system).replace("\\n", "\n") if system is not None else None,
        str(settings.get("agent_template") or (whole and template.agent_template) or "") or None,
        preserve, settings.get("add_non_thinking_prefix") is not False,
        str(opening).replace("\\n", "\n"),
    )  # fmt: skip


def _change_first(message: dict[str, Any], change: Callable[[str], str]) -> None:
    """Change an answer, of one that was several the first."""
    content = message["content"]
    if isinstance(content, list) and content and isinstance(content[0], str):
        content[0] = change(content[0])
    elif isinstance(content, str):
        message["content"] = change(content)


def _by_scale(text: str, scale: Mapping[str, Any], query: Any) -> list[tuple[str, float]]:
    """A text in parts with the weight of each (``swift/loss_scale/utils.py``)."""
    if "response" in scale:
        for asked, weights in scale["query"].items():
            if isinstance(query, str) and asked in query:
                return [(text, float(weights[0]))]
        scale = scale["response"]
    pairs = {key: two for key, two in scale.items() if len(two) == 2}
    keys = [re.escape(key) for key in pairs] or list(scale)
    found: list[tuple[str, float]] = []
    weight = 1.0
    for piece in re.split("|".join(f"({key})" for key in keys), text, flags=re.DOTALL):
        if piece is None:
            continue
        if pairs and piece in pairs:
            found.append((piece, float(pairs[piece][0])))
            weight = float(pairs[piece][1])
            continue
        alone = next((scale[key] for key in keys if not pairs and re.match(key, piece, re.DOTALL)), None)
        if piece:
            found.append((piece, float(alone[0]) if alone else weight))
        if pairs:
            weight = 1.0
    return found


def _end_answers(ids: list[int], labels: list[int], suffix: list[int]) -> None:
    """Train the end of an earlier answer too, where the tokens behind it are those of the last one's end."""
    start, width = 0, len(suffix)
    for place in range(1, len(labels) + 1):
        ends = place == len(labels)
        if labels[place - 1] >= 0 and not ends and labels[place] == IGNORED:
            start = place
            continue
        behind = start > 0 and labels[place - 1] == IGNORED and (ends or labels[place] >= 0)
        if behind and place - start >= width and ids[start : start + width] == suffix:
            labels[start : start + width] = suffix


def last_question(messages: Sequence[Mapping[str, Any]]) -> int:
    """Place of the last message that asks, or gives a tool's result; -1 without one."""
    return max((i for i, each in enumerate(messages) if each["role"] in ("user", "tool")), default=-1)
