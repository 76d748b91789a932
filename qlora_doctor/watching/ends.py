"""How a training ended early, read from the exception that ended it: its kind, its phase, the batch under way."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ..facts.run import RunFailure
from ..probes.failures import explain

_PHASES = (
    ("/trl/", "__init__", "building the trainer"),
    ("transformers/trainer.py", "__init__", "building the trainer"),
    ("transformers/training_args.py", "__post_init__", "building the trainer"),
    ("", "from_pretrained", "loading"),
    ("peft/", "get_peft_model", "attaching the adapter"),
    ("peft/", "inject_adapter", "attaching the adapter"),
    ("", "_prepare_dataset", "preparing the data"),
    ("datasets/arrow_dataset.py", "", "preparing the data"),
    ("torch/optim/", "", "optimizer"),
    ("bitsandbytes/optim/", "", "optimizer"),
    ("torch/autograd/", "backward", "backward"),
    ("torch/_tensor.py", "backward", "backward"),
    ("transformers/trainer.py", "evaluat", "evaluation"),
    ("transformers/trainer.py", "save", "save"),
    ("", "forward", "forward"),
)
"""Part of a file's path, part of a function's name, phase: the innermost frame that fits decides."""
_ASKED_BYTES = re.compile(r"Tried to allocate ([\d.]+) ([KMGT]i?B)")
_CARD_BYTES = re.compile(r"total capacity of ([\d.]+) ([KMGT]i?B)")
_ALLOCATED_BYTES = re.compile(r"([\d.]+) ([KMGT]i?B) is allocated by PyTorch")
_IDLE_BYTES = re.compile(r"([\d.]+) ([KMGT]i?B) is reserved by PyTorch but unallocated")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def failure_of(error: BaseException, rank: int, steps: int) -> RunFailure:
    """The facts of an exception that nothing caught."""
    phase, shape = _where(error.__traceback__)
    doing = f"the {phase or 'run'}" if " " not in (phase or "") and phase != "loading" else str(phase)
    explained = explain(error, doing) if isinstance(error, Exception) else None
    text = str(error)
    message = explained.message if explained is not None else _sentence(error)
    columns = _columns_without(error)
    if columns:
        message = (
            f"{doing[:1].upper()}{doing[1:]} failed: the rows have no column {error}; theirs are {', '.join(columns)}."
        )
    return RunFailure(
        kind=_kind(error, explained),
        message=message,
        phase=phase,
        rank=rank,
        step=steps,
        batch=shape[0] if shape else None,
        sequence=shape[1] if shape else None,
        asked_bytes=_bytes(_ASKED_BYTES, text),
        allocated_bytes=_bytes(_ALLOCATED_BYTES, text) or _allocated(),
        idle_bytes=_bytes(_IDLE_BYTES, text),
        card_bytes=_bytes(_CARD_BYTES, text),
    )


def _kind(error: BaseException, explained: Any) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, SystemExit):
        return "exit"
    return getattr(explained, "kind", None) or "other"


def _sentence(error: BaseException) -> str:
    text = " ".join(traceback.format_exception_only(type(error), error)[-1].split())
    return text[:300]


def _where(tb: TracebackType | None) -> tuple[str | None, tuple[int, int] | None]:
    """Phase and batch: from the outermost frame inwards, the innermost that says something wins."""
    phase: str | None = None
    shape: tuple[int, int] | None = None
    while tb is not None:
        code = tb.tb_frame.f_code
        path = code.co_filename.replace("\\", "/")
        for part, name, found in _PHASES:
            if part in path and name in code.co_name:
                phase = found
                break
        shape = _shape(tb) or shape
        tb = tb.tb_next
    return phase, shape


def _shape(tb: TracebackType) -> tuple[int, int] | None:
    """Rows and length of ``input_ids`` among the arguments of a frame; the process ends, so that looking is safe."""
    for name in ("inputs", "batch", "kwargs", "input_ids"):
        value = tb.tb_frame.f_locals.get(name)
        ids: Any = value.get("input_ids") if isinstance(value, Mapping) else value
        size = getattr(ids, "shape", None)
        if size is not None and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def _columns_without(error: BaseException) -> list[str]:
    """Columns of the row, or of the rows, that a key was looked up in; none for an error of another kind."""
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    found: list[str] = []
    tb = error.__traceback__ if isinstance(key, str) else None
    while tb is not None:
        for name in ("example", "examples", "row", "rows", "batch", "x"):
            value = tb.tb_frame.f_locals.get(name)
            value = value[0] if isinstance(value, list) and value else value
            looked_up = re.search(rf"\b{name}(\[\w+\])?\[(['\"]){re.escape(key or '')}\2\]", _line(tb))
            if not looked_up or not isinstance(value, Mapping) or key in value:
                continue
            if all(isinstance(each, str) for each in value):
                found = list(value)[:20]
        tb = tb.tb_next
    return found


def _line(tb: TracebackType) -> str:
    return linecache.getline(tb.tb_frame.f_code.co_filename, tb.tb_lineno)


def _bytes(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(float(found[1]) * _UNITS[found[2][0]]) if found else None


def _allocated() -> int | None:
    import torch

    try:
        return int(torch.cuda.memory_allocated()) if torch.cuda.is_initialized() else None
    except RuntimeError:  # the device is gone with the error
        return None
