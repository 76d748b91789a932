"""What a loop of the user's own means by the names of its variables: its accumulation, and what it evaluates on."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

_NAME = re.compile(r"(^|_)(ga|grad_?acc\w*|accum\w*|gradient_accumulation\w*)(_|$)", re.IGNORECASE)
"""How scripts name it: GRAD_ACCUM, accumulation_steps, gradient_accumulation_steps."""
_EVALUATED = re.compile(r"^(?!.*train)(.*_)?(eval|val|test|dev|held|hold_?out)", re.IGNORECASE)
"""How they name a loader of rows that are held out; one of training rows, by its name, is evaluated on by intent."""
_FIELD = "gradient_accumulation_steps"
_LIBRARIES = (
    "torch",
    "accelerate",
    "transformers",
    "peft",
    "bitsandbytes",
    "trl",
    "wrapt",
    "qlora_doctor",
    "deepspeed",
)
_MOST = 4096


def asked_for() -> int | None:
    """Micro-batches to an update, as the code that calls backward names it; None where nothing says so.

    Looks at the variables of the nearest frame that is no library's, and at a field of that name in one of them.
    """
    accelerate = sys.modules.get("accelerate.state")
    state = getattr(getattr(accelerate, "GradientState", None), "_shared_state", None) or {}
    steps = getattr(state.get("plugin_kwargs"), "get", lambda *_: None)("num_steps")
    if isinstance(steps, int) and steps > 1:
        return steps
    frame = next(_own_frames(), None)
    if frame is None:
        return None
    found = {number for names in (frame.f_locals, frame.f_globals) for number in _numbers(names)}
    return found.pop() if len(found) == 1 else None


def evaluating(loaders: Sequence[Any]) -> list[Any]:
    """Those of some loaders that a variable of the code under way, or a field of an object in one, names as such."""
    known = {id(loader): loader for loader in loaders}
    found: dict[int, Any] = {}
    for frame in _own_frames():
        for names in (frame.f_locals, frame.f_globals):
            for name, value in list(names.items()):
                held = getattr(value, "__dict__", {}) if name in ("self", "trainer") else {name: value}
                found |= {
                    id(each): known[id(each)]
                    for inner, each in list(held.items())
                    if id(each) in known and _EVALUATED.match(inner)
                }
    return list(found.values())


def _own_frames() -> Iterator[FrameType]:
    """Frames of code that is no library's, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _LIBRARIES:
            yield frame
        frame = frame.f_back


def _numbers(names: Mapping[str, Any]) -> Iterator[int]:
    for name, value in list(names.items()):
        if _NAME.search(name) and _fits(value):
            yield value
        elif isinstance(value, Mapping) and len(value) < 200:
            if _fits(value.get(_FIELD)):
                yield int(value[_FIELD])
        elif not isinstance(value, type) and hasattr(type(value), "__dict__"):
            field: Any = getattr(value, "__dict__", {}).get(_FIELD) if not callable(value) else None
            if _fits(field):
                yield int(field)


def _fits(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 < value <= _MOST
