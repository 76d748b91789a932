"""Rows that compare answers, as trainers that are not here form them: axolotl's ``rl`` types, LLaMA-Factory's ranking.

Each becomes what TRL's trainers take: prompt, chosen and rejected, or prompt, completion and label, as text. Followed
are axolotl 0.19 (``prompt_strategies/dpo``, ``kto``, ``orpo``) and LLaMA-Factory 0.9.5 (``data/converter.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...setup.setup import NamedData, Setup
from . import autotrain
from .chat import chat_text
from .kinds import CannotForm, NotFollowedForm
from .swift import ANSWER, CONTENT, MESSAGES, QUERY, ROLE, of_turn

PAIRS = {"dpo", "ipo", "simpo", "orpo"}
UNPAIRED = {"kto"}
_MARKS = {
    "chatml": ("<|im_start|>{role}\n", "<|im_end|>\n", "<|im_end|>"),
    "llama3": ("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", "<|eot_id|>"),
}
"""Family of axolotl's types → (beginning of a turn, end of a prompt's turn, end of an answer)."""
_ASKED = {"intel": "question", "icr": "input", "prompt_pairs": "prompt", "ultra": "prompt", "argilla": "instruction"}
"""Type behind the family → the column of the question."""


@dataclass
class Compared:
    """Rows of one data set.

    Attributes:
        rows: prompt, chosen, rejected, or prompt, completion, label.
        read: columns that the form reads.
        by: whose form it is, in words.
        form: the trainer's word for it.
        dropped: why rows are left out, and how many.
        limit, drops: tokens of a row, and whether a longer one is left out.
    """

    rows: list[dict[str, Any]]
    by: str
    form: str
    read: set[str] = field(default_factory=set)
    dropped: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    drops: bool = False


def compares(setup: Setup) -> bool:
    """Whether the config's trainer is one whose pairs are formed here, and is asked for them."""
    named = next((each for each in setup.named_data if each.role == "train"), None)
    trainer = _TRAINERS.get(setup.traits.forms or "")
    return named is not None and trainer is not None and trainer.compares(named)


def form_compared(
    setup: Setup, named: NamedData, rows: list[dict[str, Any]], columns: list[str], tokenizer: Any
) -> Compared:
    """The rows as the method's trainer gets them; of a setup that :func:`compares`.

    Raises:
        NotFollowedForm: the form is not followed here.
        CannotForm: the trainer stops at a row.
    """
    return _TRAINERS[setup.traits.forms or ""].form(named, rows, columns, tokenizer)


# -- axolotl


def _axolotl(named: NamedData, rows: list[dict[str, Any]], columns: list[str], tokenizer: Any) -> Compared:
    settings = named.settings
    method = str(settings["rl"])
    kind = settings.get("type")
    if isinstance(kind, Mapping):
        form, make = "a form of its own", _own_form(kind, method)
    else:
        form = str(kind or "")
        make = _axolotl_form(form, method, settings, tokenizer)
    made = Compared([], f"qlora-doctor after axolotl's {form}", form)
    made.limit, made.drops = int(settings.get("sequence_len") or 512), True
    seen = _Seen(made.read, columns)
    for number, row in enumerate(rows):
        try:
            made.rows.append(make(seen.of(row)))
        except KeyError as error:
            raise CannotForm(
                f"Row {number + 1}: axolotl's {form} finds no {error}; there are {', '.join(row)}."
            ) from error
        except (IndexError, TypeError, AttributeError) as error:
            raise CannotForm(f"Row {number + 1} is none of axolotl's {form}: {error}.") from error
    return made


class _Seen:
    """Rows that note which columns are read."""

    def __init__(self, read: set[str], columns: list[str]) -> None:
        self._read, self._columns = read, set(columns)

    def of(self, row: Mapping[str, Any]) -> Callable[..., Any]:
        def value(name: str, *default: Any) -> Any:
            self._read.add(name)
            if name in row or not default:
                return row[name]
            return default[0]

        return value


_Make = Callable[[Callable[..., Any]], dict[str, Any]]


def _axolotl_form(form: str, method: str, settings: Mapping[str, Any], tokenizer: Any) -> _Make:
    family, _, kind = form.partition(".")
    if family in _MARKS and kind in (*_ASKED, "argilla_chat", "default", ""):
        return lambda value: _marked(value, family, kind, method)
    if family == "chat_template" and kind in ("default", "", "argilla", "argilla_chat"):
        if tokenizer is None or tokenizer.chat_template is None:
            raise NotFollowedForm("Without the model's tokenizer its chat template writes no rows.")
        if settings.get("chat_template") not in (None, "tokenizer_default"):
            raise NotFollowedForm("Pairs of another chat template than the tokenizer's own are not followed.")
        whole = method == "orpo" or kind == "argilla_chat"
        return lambda value: _templated(value, settings, tokenizer, whole=whole)
    if form in ("passthrough", "passthrough.default", ""):
        names = ("prompt", "completion", "label") if method in UNPAIRED else ("prompt", "chosen", "rejected")
        return lambda value: {name: value(name) for name in names}
    raise NotFollowedForm(f"Axolotl's form {form} of {method} is not followed.")


def _marked(value: Callable[..., Any], family: str, kind: str, method: str) -> dict[str, Any]:
    """A prompt and its answers between the marks of a family, as text."""
    begin, end, last = _MARKS[family]

    def turn(role: str, text: Any) -> str:
        return begin.format(role=role) + str(text) + end

    if kind == "argilla_chat":
        first = value("completion" if method in UNPAIRED else "chosen")
        prompt = turn("user", first[0]["content"])
    else:
        asked = _ASKED.get(kind)
        if asked is None:
            asked = next(
                (name for name in ("prompt", "input", "question") if value(name, None) is not None), "instruction"
            )
        system = value("system", None)
        prompt = (turn("system", system) if system else "") + turn("user", value(asked))
    prompt += begin.format(role="assistant")
    inner = kind == "argilla_chat" or (kind == "ultra" and method not in UNPAIRED)

    def answer(*names: str) -> str:
        found = next((value(name, None) for name in names if value(name, None) is not None), None)
        found = value(names[0]) if found is None else found
        return f"{found[1]['content'] if inner else found}{last}"

    if method in UNPAIRED:
        return {"prompt": prompt, "completion": answer("completion"), "label": value("label")}
    two = ("chosen_response", "rejected_response") if kind in ("default", "") else ()
    return {
        "prompt": prompt,
        "chosen": answer("chosen", *two[:1]),
        "rejected": answer("rejected", *two[1:]),
    }


def _templated(
    value: Callable[..., Any], settings: Mapping[str, Any], tokenizer: Any, *, whole: bool
) -> dict[str, Any]:
    """The same through the tokenizer's chat template; ``whole`` where chosen and rejected are conversations."""
    mapping = settings.get("message_property_mappings")
    names = {"role": "role", "content": "content", **(mapping if isinstance(mapping, Mapping) else {})}

    def message(found: Any, role: str) -> dict[str, str]:
        if isinstance(found, list):
            found = found[-1]
        if isinstance(found, str):
            return {"role": role, "content": found}
        return {"role": str(found[names["role"]]), "content": str(found[names["content"]])}

    chosen, rejected = (
        value(str(settings.get("field_chosen") or "chosen")),
        value(str(settings.get("field_rejected") or "rejected")),
    )
    if whole:
        asked = [message(each, "user") for each in chosen[:-1]]
    else:
        written = value(str(settings.get("field_messages") or "messages"))
        asked = [message(each, "user") for each in (written if isinstance(written, list) else [written])]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)

    def answer(found: Any) -> str:
        said = message(found, "assistant")
        text = chat_text(tokenizer, [{"role": "user", "content": "[[dummy_message]]"}, said], None, None)
        return text[text.find(said["content"]) :].rstrip()

    return {"prompt": prompt, "chosen": answer(chosen), "rejected": answer(rejected)}


def _own_form(kind: Mapping[str, Any], method: str) -> _Make:
    """``user_defined.default``: names of columns and formats, given in place of a type."""

    def name(of: str) -> str:
        return str(kind.get(f"field_{of}") or of)

    def shaped(of: str, text: Any, **more: Any) -> str:
        return str(kind.get(f"{of}_format") or "{" + of + "}").format(**{of: text}, **more)

    def make(value: Callable[..., Any]) -> dict[str, Any]:
        system = value(name("system"), None) or ""
        shape = str(kind.get("prompt_format") or "{prompt}")
        given = {"system": system} if "{system}" in shape else {}
        prompt = shape.format(prompt=value(name("prompt")), **given)
        if method in UNPAIRED:
            return {
                "prompt": prompt,
                "completion": shaped("completion", value(name("completion"))),
                "label": value(name("label")),
            }
        return {"prompt": prompt, **{of: shaped(of, value(name(of))) for of in ("chosen", "rejected")}}

    return make


# -- LLaMA-Factory


def _llamafactory(named: NamedData, rows: list[dict[str, Any]], columns: list[str]) -> Compared:
    """Texts without the template's marks: what they add is the same for both answers."""
    settings = named.settings
    stage, form = str(settings["stage"]), str(settings.get("formatting") or "alpaca")
    ranking = bool(settings.get("ranking"))
    if stage in ("dpo", "rm") and not ranking:
        raise CannotForm("stage dpo and rm take data sets of which dataset_info.json says ranking: true.")
    said = settings.get("columns")
    names = {"prompt": "instruction", "query": "input", "messages": "conversations", "chosen": None, "rejected": None,
             "kto_tag": None, "response": "output"}  # fmt: skip
    if isinstance(said, Mapping):
        names = {key: said.get(key) for key in names}
    made = Compared([], f"qlora-doctor after LLaMA-Factory's {form}", form)
    made.limit = int(settings.get("cutoff_len") or 2048)
    made.read = {str(name) for name in names.values() if name}
    for name in made.read:
        if isinstance(said, Mapping) and name not in columns:
            raise CannotForm(f"there is no column {name!r}; there are {', '.join(columns)}.")
    tags = settings.get("tags")
    content = str((tags if isinstance(tags, Mapping) else {}).get("content_tag") or "value")

    def text(found: Any) -> str | None:
        if isinstance(found, Mapping):
            found = found.get(content)
        return found if isinstance(found, str) else None

    for row in rows:
        if form == "alpaca":
            parts = [row.get(str(names[key])) for key in ("prompt", "query")]
            asked = "\n".join(str(part) for part in parts if part)
        else:
            turns = row.get(str(names["messages"])) or []
            last = None if ranking or not turns else turns[-1]
            asked = "\n".join(text(turn) or "" for turn in turns if turn is not last)
        if ranking:
            pair: dict[str, str | None] = {key: text(row.get(str(names[key]))) for key in ("chosen", "rejected")}
            if None in pair.values():
                _left(made, "no text in chosen or rejected")
                continue
            made.rows.append({"prompt": asked, **pair})
            continue
        label = row.get(str(names["kto_tag"]))
        answer = text(row.get(str(names["response"])) if form == "alpaca" else last)
        if not isinstance(label, bool) or answer is None:
            _left(made, "no truth value in kto_tag")
            continue
        made.rows.append({"prompt": asked, "completion": answer, "label": label})
    return made


# -- ms-swift


def _swift(named: NamedData, rows: list[dict[str, Any]]) -> Compared:
    """The conversation's last answer is the better one (swift/llm/template/template_inputs.py)."""
    method, form = str(named.settings["rlhf_type"]), "messages"
    made = Compared([], f"qlora-doctor after ms-swift's {form}", form, read={"messages"})
    most = named.settings.get("max_length")
    made.limit, made.drops = (most if isinstance(most, int) else None), True
    for number, row in enumerate(rows):
        turns = row.get("messages")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
            raise CannotForm(f"Row {number + 1}: {method} takes messages; there are {', '.join(row)}.")
        asked = "\n".join(str(turn.get("content")) for turn in turns[:-1])
        answer = str(turns[-1].get("content"))
        if method in UNPAIRED:
            made.read.add("label")
            if row.get("label") is None:
                raise CannotForm(f"Row {number + 1}: {method} takes a label; there are {', '.join(row)}.")
            made.rows.append({"prompt": asked, "completion": answer, "label": bool(row["label"])})
            continue
        other = row.get("rejected_response", row.get("rejected_messages"))
        made.read |= {"rejected_response", "rejected_messages"}
        if isinstance(other, list) and other and isinstance(other[-1], Mapping):
            other = other[-1].get("content")
        if not isinstance(other, str):
            raise CannotForm(
                f"Row {number + 1}: {method} takes rejected_response or rejected_messages; there are {', '.join(row)}."
            )
        made.rows.append({"prompt": asked, "chosen": answer, "rejected": other})
    return made


_SOLVED = {"accuracy", "cosine", "math_accuracy"}
"""Reward functions of ms-swift's that are handed the column ``solution`` (swift/rewards/orm.py)."""


def _swift_prompts(named: NamedData, rows: list[dict[str, Any]], columns: list[str]) -> Compared:
    """GRPO: the conversation without its last answer; every other column goes to the reward functions."""
    settings = named.settings
    made = Compared([], "qlora-doctor after ms-swift's prompts", "prompts", read=set(columns))
    said = settings.get("reward_funcs")
    asked = {str(each) for each in (said if isinstance(said, list) else [said])}
    need = sorted(asked & _SOLVED)
    if need and "solution" not in columns and not settings.get("columns"):
        raise CannotForm(f"The reward {need[0]} is handed the column solution; there are {', '.join(columns)}.")
    for number, row in enumerate(rows):
        turns = next((row[name] for name in MESSAGES if row.get(name)), None)
        if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
            turns = [{"role": of_turn(turn, ROLE), "content": of_turn(turn, CONTENT)} for turn in turns]
            turns = turns[:-1] if turns[-1]["role"] in ANSWER else turns
            made.rows.append({"prompt": turns})
            continue
        text = next((row[name] for name in QUERY if isinstance(row.get(name), str)), None)
        if text is None:
            raise CannotForm(f"Row {number + 1}: GRPO takes messages or a query; there are {', '.join(row)}.")
        made.rows.append({"prompt": [{"role": "user", "content": text}]})
    return made


# -- oumi


_OUMI_PAIRS, _OUMI_UNPAIRED, _OUMI_PROMPTS = "TRL_DPO", "TRL_KTO", "TRL_GRPO"
_WHOLE_TEXTS = "text_dpo_jsonl"
_OF_OUMI = {
    _OUMI_PAIRS: {_WHOLE_TEXTS, "mlabonne/orpo-dpo-mix-40k"},
    _OUMI_UNPAIRED: {"trl-lib/kto-mix-14k"},
    _OUMI_PROMPTS: {"trl-lib/tldr"},
}
"""Trainer → the names of data sets whose rows are as their base class takes them (0.9: ``core/datasets/base_*.py``)."""
_CODED = {
    *("openai/gsm8k", "d1shs0ap/countdown", "oumi-ai/oumi-letter-count", "oumi-ai/oumi-letter-count-clean"),
    *("oumi-ai/berrybench-v0.1.1", "oumi-rlvr-rubric", "rar-medicine", "rar-science", "anisha2102/RaR-Medicine"),
}
"""Names that stand for code of its own; any other is loaded as it is, for TRL's trainer."""


def _oumi_method(named: NamedData) -> str:
    return str(named.settings.get("training.trainer_type")).upper()


def _oumi(named: NamedData, rows: list[dict[str, Any]], columns: list[str]) -> Compared:
    method, kind = _oumi_method(named), str(named.settings.get("dataset_name"))
    if kind in _CODED or (kind not in _OF_OUMI[method] and "/" not in kind):
        raise NotFollowedForm(f"oumi's data set {kind} forms the samples by code of its own.")
    as_it_is = kind not in _OF_OUMI[method]
    names = {_OUMI_PAIRS: ("prompt", "chosen", "rejected"), _OUMI_UNPAIRED: ("prompt", "completion", "label")}.get(
        method, ("prompt", "completion")
    )
    made = Compared([], f"qlora-doctor after oumi's {kind}", kind, read=set(names))
    optional = {"prompt"} if as_it_is and method == _OUMI_PAIRS else {"completion"} if as_it_is else set()
    if any(name not in columns for name in names if name not in optional):
        raise CannotForm(f"oumi's {kind} takes {', '.join(names)}; there are {', '.join(columns)}.")
    if as_it_is:
        kept = names[:1] if method == _OUMI_PROMPTS else names
        made.rows = [{name: row[name] for name in kept if name in row} for row in rows]
        return made
    for number, row in enumerate(rows):
        where = f"Row {number + 1}"
        if method == _OUMI_PROMPTS or kind == _WHOLE_TEXTS:
            odd = next((name for name in names if not isinstance(row.get(name) or "", str)), None)
            if odd is not None:
                raise CannotForm(f"{where}: its {odd} is {type(row[odd]).__name__}, where oumi's {kind} takes text.")
        if method == _OUMI_PROMPTS:
            made.rows.append({"prompt": str(row.get("prompt") or "").strip()})
        elif method == _OUMI_UNPAIRED:
            found = row.get("completion")
            if isinstance(found, list):
                turns = [turn for turn in found if isinstance(turn, Mapping) and turn.get("role") == "assistant"]
                if not turns:
                    raise CannotForm(f"{where}: its completion has no turn of the assistant.")
                found = turns[-1].get("content")
            made.rows.append({"prompt": row.get("prompt"), "completion": found, "label": bool(row.get("label"))})
        else:
            made.rows.append(
                {name: _turns(row.get(name), name) if kind != _WHOLE_TEXTS else row.get(name) for name in names}
            )
    return made


def _turns(found: Any, name: str) -> Any:
    """A text as one turn; a turn as a list of it."""
    if isinstance(found, str):
        return [{"role": "user" if name == "prompt" else "assistant", "content": found}]
    return [found] if isinstance(found, Mapping) else found


# -- AutoTrain


def _autotrain(named: NamedData, rows: list[dict[str, Any]], columns: list[str]) -> Compared:
    """Columns renamed to what TRL's trainers take (``process_input_data``)."""
    settings = autotrain.settings_of(named)
    names = {"chosen": settings.get("text_column"), "rejected": settings.get("rejected_text_column")}
    if settings["kind"] != "reward":
        names["prompt"] = settings.get("prompt_text_column")
    missing = [f"{of}, as {name!r}" for of, name in names.items() if name not in columns]
    if missing:
        raise CannotForm(f"AutoTrain reads {'; '.join(missing)}; there are {', '.join(columns)}.")
    form = str(settings["kind"])
    made = Compared([], f"qlora-doctor after AutoTrain's {form}", form, read={str(name) for name in names.values()})
    made.rows = [{of: row.get(str(name)) for of, name in names.items()} for row in rows]
    return made


def _left(made: Compared, why: str) -> None:
    made.dropped[why] = made.dropped.get(why, 0) + 1


@dataclass(frozen=True)
class _Trainer:
    """A trainer whose pairs are formed: whether a data set is one of pairs there, and its rows."""

    compares: Callable[[NamedData], bool]
    form: Callable[[NamedData, list[dict[str, Any]], list[str], Any], Compared]


_TRAINERS = {
    "axolotl": _Trainer(lambda named: str(named.settings.get("rl")) in PAIRS | UNPAIRED, _axolotl),
    "ms-swift": _Trainer(
        lambda named: str(named.settings.get("rlhf_type")) in (*PAIRS, *UNPAIRED, "cpo", "rm", "grpo"),
        lambda named, rows, columns, tokenizer: (
            _swift_prompts(named, rows, columns) if named.settings["rlhf_type"] == "grpo" else _swift(named, rows)
        ),
    ),
    "oumi": _Trainer(
        lambda named: _oumi_method(named) in _OF_OUMI,
        lambda named, rows, columns, tokenizer: _oumi(named, rows, columns),
    ),
    "autotrain": _Trainer(
        lambda named: autotrain.settings_of(named)["kind"] in ("dpo", "orpo", "reward"),
        lambda named, rows, columns, tokenizer: _autotrain(named, rows, columns),
    ),
    "llamafactory": _Trainer(
        lambda named: str(named.settings.get("stage")) in ("dpo", "rm", "kto"),
        lambda named, rows, columns, tokenizer: _llamafactory(named, rows, columns),
    ),
}
"""By the name that a dialect's traits have (``Traits.forms``)."""
