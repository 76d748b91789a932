"""How dialects write values: dtypes, switches, comma lists → what Setup takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


class Unreadable(Exception):
    """A value is not what its key takes; ``expected`` says in words what is."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


_DTYPES = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "bf16-true": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "float16": "float16",
    "16-true": "float16",
    "fp32": "float32",
    "float": "float32",
    "float32": "float32",
    "32-true": "float32",
    "32": "float32",
    "auto": "auto",
}
_TEMPLATE = re.compile(r"\A\?{3}\Z|\$\{[^}]*\}|\{\{.*\}\}|\$[A-Za-z_]\w*\Z|<[A-Za-z][^<>]*>\Z", re.DOTALL)
_LONGEST_TEMPLATE = 1000
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def is_template(value: Any) -> bool:
    """True for a placeholder that is filled in later: ``${HOME}``, ``$MODEL``, ``{{ model }}``, ``<your model>``, or
    OmegaConf's ``???``."""
    return isinstance(value, str) and len(value) <= _LONGEST_TEMPLATE and _TEMPLATE.search(value) is not None


_OWN_WORDS = {"auto", "automatic", "default", "detect", "infer", "best", "optimal", "none", "null", "all", "linear"}
_KNOWN_WORDS = {
    "model.dtype": {"auto"},
    "model.device_map": {"auto"},
    "training.report_to": {"none", "all"},
    "lora.bias": {"none", "all"},
    "training.eval_strategy": {"none"},
    "training.save_strategy": {"none", "best"},
    "lora.target_modules": {"all", "linear"},
    "training.lr_scheduler_type": {"linear"},
    "data.train": _OWN_WORDS,
    "data.text_field": _OWN_WORDS,
    "training.output_dir": _OWN_WORDS,
}


_LAYERS = {"qkv", "wqkv", "query", "key", "value", "dense", "proj", "fc", "linear", "lin", "out", "gate", "up", "down"}
"""Names of layers that are one plain word."""


def is_own_word(path: str, value: Any) -> bool:
    """True for a word such as ``auto`` where no library knows it: the script that reads the file resolves it."""
    word = value[0] if isinstance(value, list) and len(value) == 1 else value
    word = word.strip().lower() if isinstance(word, str) else None
    if path == "lora.target_modules" and _are_groups(value):
        return True
    return word in _OWN_WORDS and word not in _KNOWN_WORDS.get(path, ())


def _are_groups(value: Any) -> bool:
    """True for words that are no name of a layer, such as ``attention`` and ``mlp``: the script has names for them."""
    listed = value if isinstance(value, list) else str(value).split(",") if isinstance(value, str) else []
    words = [word.strip().lower() for word in listed if isinstance(word, str)]
    plain = bool(words) and len(words) == len(listed) and all(word.isalpha() and len(word) > 2 for word in words)
    return plain and not _LAYERS & set(words)


def dtype(value: Any) -> str:
    """A dtype under any of its names → torch's name."""
    name = str(value).strip().lower().removeprefix("torch.")
    if name not in _DTYPES:
        raise Unreadable("one of bfloat16, float16, float32, auto")
    return _DTYPES[name]


def storage_dtype(value: Any) -> str:
    """The dtype that 4-bit weights are packed in."""
    name = str(value).strip().lower().removeprefix("torch.")
    if name in ("uint8", "int8", "float64"):
        return name
    return dtype(value)


def switch(value: Any) -> bool:
    """true and false, also as the words that argument parsers take."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise Unreadable("true or false")


def negated(value: Any) -> bool:
    """A switch that turns something off."""
    return not switch(value)


def truthy(value: Any) -> bool:
    """Any value that counts as true in Python, as the trainer uses it."""
    return bool(value)


def names(value: Any) -> list[str] | str:
    """Module names: a list, a comma list or a single name; ``all-linear`` and regular expressions stay as they are."""
    if isinstance(value, list):
        listed = [str(name) for name in value]
        return "all-linear" if [name.lower() for name in listed] == ["all-linear"] else listed
    text = str(value).strip()
    if text.replace("_", "-").lower() == "all-linear":
        return "all-linear"
    if re.search(r"[\\()\[\]*+?|^$]", text):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def targets(value: Any) -> list[str] | str:
    """Target modules where the reader hands them to PEFT as they are: a text is a regular expression, commas or not."""
    return value if isinstance(value, str) else names(value)


def name_list(value: Any) -> list[str]:
    """Names that are always a list."""
    found = names(value)
    return found if isinstance(found, list) else [found]


def names_or_all(value: Any) -> list[str] | str:
    """As ``names``, where ``all`` stands for every linear layer."""
    found = names(value)
    return "all-linear" if found in (["all"], ["all-linear"]) else found


def one_or_list(value: Any) -> str | None:
    """The first of a list, or the value itself."""
    if isinstance(value, list):
        value = value[0] if value else None
    return None if value is None else str(value)


def last_of_several(value: Any) -> str | None:
    """The last of names in one text with commas, or in a list."""
    names = [part.strip() for part in joined(value).split(",")] if value is not None else []
    return names[-1] if names else None


def joined(value: Any) -> str:
    """One text, or several joined by commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def strategy(value: Any) -> str:
    """``no``, ``steps``, ``epoch``: YAML reads a bare no as false."""
    if isinstance(value, bool):
        return "steps" if value else "no"
    return str(value)


def optimizer(value: Any) -> str:
    """An optimizer's name as TrainingArguments writes it."""
    return str(value).strip().lower()


def positive(value: Any) -> Any:
    """A number; null where it is zero or less, as trainers write "not set"."""
    number = whole(value)
    return number if number > 0 else None


def whole(value: Any) -> int:
    """A whole number, also written ``512.0`` or ``"512"``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Unreadable("a whole number") from None
    if isinstance(value, bool) or number != number // 1:
        raise Unreadable("a whole number")
    return int(number)


def text(value: Any) -> str:
    """A text; a number or a switch that YAML made of it becomes text again."""
    if isinstance(value, dict | list):
        raise Unreadable("a text")
    return str(value)


def when(value: Any, expected: Any) -> bool:
    """True where a value is the expected one, whatever its case."""
    return str(value).strip().lower() == str(expected)


def chosen(choices: dict[str, Any], expected: str) -> Callable[[Any], Any]:
    """A conversion by a table of words."""

    def convert(value: Any) -> Any:
        word = str(value).strip().lower()
        if word not in choices:
            raise Unreadable(expected)
        return choices[word]

    return convert
