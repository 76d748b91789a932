"""Records of a log → one series per quantity, under one name whoever wrote it."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]

STEP_NAMES = ("step", "global_step", "current_steps", "global_step/max_steps", "iteration", "iter", "_step", "Step",
              "train/global_step", "trainer/global_step")  # fmt: skip
_NAMES = {
    "loss": "loss",
    "train_loss_step": "loss",
    "total_loss": "loss",
    "learning_rate": "learning_rate",
    "lr": "learning_rate",
    "grad_norm": "grad_norm",
    "gradient_norm": "grad_norm",
    "epoch": "epoch",
    "eval_loss": "eval_loss",
    "val_loss": "eval_loss",
    "valid_loss": "eval_loss",
    "validation_loss": "eval_loss",
    "memory(gib)": "memory_gib",
    "memory_gib": "memory_gib",
    "memory/max_active (gib)": "memory_gib",
    "memory/max_mem_active(gib)": "memory_gib",
    "memory/max_memory_active": "memory_gib",
    "memory/device_reserved (gib)": "reserved_gib",
    "memory/max_allocated (gib)": "memory_gib",
    "elapsed_seconds": "elapsed_seconds",
    "elapsed_time": "elapsed_seconds",
    "_runtime": "elapsed_seconds",
    "_timestamp": "wall_seconds",
    "wall_seconds": "wall_seconds",
    "train_speed(iter/s)": "mean_steps_per_second",
    "train_speed(s/it)": "mean_seconds_per_step",
    "seconds_per_step": "seconds_per_step",
    "loss_scale": "loss_scale",
    **dict.fromkeys(("remaining_time", "train_loss", "global_step", "total_flos", "total_steps", "planned_steps"), ""),
    **dict.fromkeys(("max_steps", "percentage", "time", "date", "record"), ""),
}
"""Names as trainers write them, in lower case and without ``train/``; an empty one is passed over."""
SUMMARIES = ("train_runtime", "train_steps_per_second", "train_samples_per_second")
"""Keys of the record with which the Trainer closes a run; its ``train_loss`` is a mean over all of it."""
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|inf|nan|infinity))\s*%?\s*", re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+) days?, )?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?")
_SPOKEN = re.compile(r"(?:(\d+)d ?)?(?:(\d+)h ?)?(?:(\d+)m ?)?(?:(\d+)s)?")


_LARGEST = 1e100
_MOST_STEPS = 1e12


@dataclass
class Series:
    """One quantity: ``values[i]`` at optimizer step ``steps[i]``, steps rising; values may be NaN or infinite."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def finite(self) -> Series:
        """The points with a finite value."""
        if all(map(math.isfinite, self.values)):
            return self
        pairs = [(s, v) for s, v in zip(self.steps, self.values, strict=True) if math.isfinite(v)]
        return Series([s for s, _ in pairs], [v for _, v in pairs])


@dataclass
class Course:
    """One run as its logs have it.

    Attributes:
        series: by canonical name.
        planned_steps, planned_epochs: what the log itself says was asked for.
        ended_well: the process is known to have gone to its end, whatever length was planned.
        finished: True where the closing record is there; None where such a log has none.
        error: last line of a traceback in a captured output, ``none`` where there is none; None without an output.
        checkpoints: steps of the checkpoints beside the log; None where no folder was looked at.
        best_checkpoint: the trainer's own best checkpoint lies there.
    """

    series: dict[str, Series] = field(default_factory=dict)
    name: str | None = None
    sources: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    steps_known: bool = True
    planned_steps: float | None = None
    planned_epochs: float | None = None
    finished: bool | None = None
    stopped_early: bool | None = None
    ended_well: bool = False
    resumed_at: list[float] = field(default_factory=list)
    error: str | None = None
    last_step: float | None = None
    checkpoints: list[float] | None = None

    def get(self, name: str) -> Series:
        """The series of that name, empty where it was not logged."""
        return self.series.get(name) or Series()


def course_from_records(records: Iterable[Record], **known: Any) -> Course:
    """A run from the records of its log, such as ``trainer.state.log_history``.

    A record is a mapping of names to numbers (or texts that are numbers) with a step under one of its usual names. A
    step that goes back means that the run was resumed there: what came later is replaced by what follows. Where there
    are no steps, the records of training are counted.

    Args:
        records: in the order in which they were written.
        known: other fields of ``Course``.
    """
    course = Course(**known)
    rows = records if isinstance(records, list) else list(records)
    keys: dict[str, None] = {}
    for row in rows:
        if not keys.keys() >= row.keys():
            keys.update(dict.fromkeys(row))
    names = {key: canonical(key) for key in keys}
    loss_keys = [key for key, name in names.items() if name == "loss"] or _loss_of_a_loop(rows, keys, names)
    step_keys = [key for key in STEP_NAMES if key in keys]
    if len(step_keys) > 1:
        step_keys = [key for key in step_keys if key != "_step"]  # W&B's own count of calls, an evaluation's among them
    course.steps_known = bool(step_keys)
    steps = _steps(rows, step_keys) if step_keys else _counted(rows, loss_keys)
    if (through := _through_epochs(rows, steps, loss_keys)) is not None:
        steps, course.planned_steps = through, course.planned_steps or 0.0  # what the log plans is one epoch
    rows, steps, resumed = _without_lost(rows, steps, loss_keys)
    course.resumed_at = [*course.resumed_at, *resumed]
    closing = [key for key in SUMMARIES if key in keys]
    if closing:
        course.finished = True
        pairs = [(row, step) for row, step in zip(rows, steps, strict=True) if not any(key in row for key in closing)]
        rows, steps_left = [row for row, _ in pairs], [step for _, step in pairs]
    else:
        steps_left = steps
    for key, name in names.items():
        if name:
            _add(course.series, name, key, rows, steps_left)
    course.last_step = max(
        [*([course.last_step] if course.last_step else []), *(steps[-1:] and [max(steps)])], default=None
    )
    if course.planned_steps is None:
        course.planned_steps = _planned(rows)
    course.planned_steps = course.planned_steps or None
    return course


def _loss_of_a_loop(rows: list[Record], keys: Iterable[str], names: dict[str, str]) -> list[str]:
    """``train_loss`` where it is no mean that the Trainer closes with: a loop writes it in each record."""
    for key in keys:
        written = key.lower().removeprefix("train/")
        if written == "train_loss" and sum(key in row and not any(s in row for s in SUMMARIES) for row in rows) > 1:
            names[key] = "loss"
            return [key]
    return []


def _through_epochs(rows: list[Record], steps: list[float], loss_keys: list[str]) -> list[float] | None:
    """The steps of a loop that counts them again in each epoch, counted on; None where none does so.

    Of a run that was resumed the epoch goes back as well.
    """
    if all(map(operator.lt, steps, itertools.islice(steps, 1, None))):
        return None
    epochs = [as_number(row.get("epoch", row.get("Epoch"))) for row in rows]
    trains = [any(key in row for key in loss_keys) for row in rows]
    found, before, anew = steps[:1], 0.0, False
    for i in range(1, len(steps)):
        now, last = epochs[i], epochs[i - 1]
        later = now is not None and last is not None and now > last
        if steps[i] < steps[i - 1] and not later:
            return None
        if steps[i] < steps[i - 1] or (steps[i] == steps[i - 1] and later and trains[i] and trains[i - 1]):
            gap = next((b - a for a, b in itertools.pairwise(steps[i:]) if b > a), 0.0)
            before, anew = found[-1] + max(gap, steps[i], 1.0) - steps[i], True
        found.append(before + steps[i])
    return found if anew else None


def _steps(rows: list[Record], keys: list[str]) -> list[float]:
    """The step of each record; one without a step stands at the step of the record before it."""
    found: list[float] = []
    last = 0.0
    first, *others = keys
    for row in rows:
        written = row.get(first)
        if written is None:
            written = next((row[key] for key in others if row.get(key) is not None), None)
        if written is not None:
            number = as_number(written.partition("/")[0] if isinstance(written, str) else written)
            last = number if number is not None and 0 <= number < _MOST_STEPS else last
        found.append(last)
    return found


def _counted(rows: list[Record], loss_keys: list[str]) -> list[float]:
    found, count = [], 0
    for row in rows:
        count = row["record"] if "record" in row else count + any(key in row for key in loss_keys)
        found.append(float(max(count, 1)))
    return found


def _without_lost(
    rows: list[Record], steps: list[float], loss_keys: list[str]
) -> tuple[list[Record], list[float], list[float]]:
    """The records without those that a resumed run made once more, and where it was resumed."""
    if all(map(operator.le, steps, itertools.islice(steps, 1, None))):
        return rows, steps, []
    starts, last = [0], -math.inf
    for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
        if any(key in row for key in loss_keys):
            if step < last:
                starts.append(i)
            last = step
    kept: list[tuple[Record, float]] = []
    limit = math.inf
    for start, end in reversed([*zip(starts, [*starts[1:], len(rows)], strict=True)]):
        part = [(row, step) for row, step in zip(rows[start:end], steps[start:end], strict=True) if step < limit]
        kept[:0] = part
        limit = min(limit, steps[start])
    return [row for row, _ in kept], [step for _, step in kept], [steps[start] for start in starts[1:]]


def _add(series: dict[str, Series], name: str, key: str, rows: list[Record], steps: list[float]) -> None:
    pairs = [(step, row[key]) for step, row in zip(steps, rows, strict=True) if key in row]
    if not pairs:
        return
    values: list[float | None] = [
        value if value.__class__ is float and -_LARGEST < value < _LARGEST else as_number(value) for _, value in pairs
    ]
    points = {step: value for (step, _), value in zip(pairs, values, strict=True) if value is not None}
    if not points:
        return
    if name in series:
        points = dict(zip(series[name].steps, series[name].values, strict=True)) | points
    ordered = list(points)
    if any(map(operator.gt, ordered, itertools.islice(ordered, 1, None))):
        ordered.sort()
    series[name] = Series(ordered, [points[step] for step in ordered])


def _planned(rows: list[Record]) -> float | None:
    for row in rows[-1:] + rows[:1]:
        for key in ("total_steps", "planned_steps", "max_steps"):
            if key in row:
                return as_number(row[key])
        written = row.get("global_step/max_steps")
        if isinstance(written, str) and "/" in written:
            return as_number(written.partition("/")[2])
    return None


def canonical(key: str) -> str:
    """The one name of a quantity; an empty text for what is no quantity of training."""
    if key in STEP_NAMES or key in SUMMARIES:
        return ""
    name = key.strip().lower()
    for prefix in ("train/", "training/", "train-"):
        name = name.removeprefix(prefix)
    for prefix in ("eval/", "validation/", "val/", "valid/", "evaluation/"):
        if name.startswith(prefix):
            name = "eval_" + name.removeprefix(prefix)
    if name in SUMMARIES:
        return ""
    if name.startswith("learning_rate/"):
        name = "learning_rate"
    return _NAMES.get(name, name)


def _bounded(number: float) -> float:
    """The number as a float; one beyond what any quantity of training can be is infinite, as float16 would have it."""
    return (
        float(number) if -_LARGEST < number < _LARGEST or number != number else (math.inf if number > 0 else -math.inf)
    )


def as_number(written: Any) -> float | None:
    """A number, however it was written; None for what is none."""
    if isinstance(written, bool) or written is None:
        return None
    if isinstance(written, int | float):
        return _bounded(written)
    if isinstance(written, str):
        match = _NUMBER.fullmatch(written)
        if match:
            return _bounded(float(match[1]))
        clock = _CLOCK.fullmatch(written.strip()) or _SPOKEN.fullmatch(written.strip())
        if clock and clock[0]:
            days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
            return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)
    return None
