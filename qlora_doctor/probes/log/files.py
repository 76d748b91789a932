"""The readers: one file, or one folder of a tracker, → a part of a run's course."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

from .series import STEP_NAMES, Course, Record, Series, as_number, canonical, course_from_records
from .texts import Unreadable, read_text
from .thinning import MOST, chosen, number, standing_out
from .wandb_file import WandbFile, read_wandb_file

CHECKPOINT = re.compile(r"checkpoint[-_](\d+)$")
_MOST_COLUMNS = 2000


# -- trainer_state.json


def read_trainer_state(path: Path) -> Course:
    """``trainer_state.json`` of transformers' Trainer, and what lies beside it.

    Raises:
        Unreadable: it is no such file.
    """
    text = read_text(path)
    state = _shortened(text)
    if state is None:
        try:
            state = json.loads(text)
        except (ValueError, RecursionError):
            return _cut_off_state(path, text)
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise Unreadable(f"{path} holds no log_history, so it is no trainer_state.json.")
    course = course_from_records(
        [row for row in state["log_history"] if isinstance(row, dict)],
        planned_steps=_positive(state.get("max_steps")),
        planned_epochs=_positive(state.get("num_train_epochs")),
        last_step=_positive(state.get("global_step")),
        stopped_early=_stopped_early(state),
    )
    return _named(course, path, "trainer_state")


_HISTORY = re.compile(r'"log_history"\s*:\s*(?=\[)')
_RECORD = re.compile(r"\s*[,\[]\s*(\{[^{]*)")


def _shortened(text: str) -> dict[str, Any] | None:
    """A very long history without most of its records; None where it is short, or its records are no flat objects."""
    begin = _HISTORY.search(text)
    if begin is None or text.count("}", begin.end()) <= MOST:
        return None
    pieces = text[begin.end() :].split("}")
    end = next((i for i, piece in enumerate(pieces) if piece.lstrip()[:1] == "]"), None)
    kept = chosen(pieces[:end]) if end is not None else None
    if end is None or kept is None:
        return None
    records = [_RECORD.fullmatch(pieces[i]) for i in kept]
    if None in records:
        return None
    history = ",".join(f"{record[1]}}}" for record in records if record is not None)
    try:
        state = json.loads(f"{text[: begin.end()]}[{history}{'}'.join(pieces[end:])}")
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def _cut_off_state(path: Path, text: str) -> Course:
    """The records of a file that ends too soon: each of them is a flat object."""
    rows = _objects(re.findall(r"\{[^{}]*\}", text))
    rows = [row for row in rows if "step" in row]
    if not rows:
        raise Unreadable(f"{path} is not whole JSON, and no record can be read out of it.")
    course = _named(course_from_records(rows), path, "trainer_state")
    course.unread.append(f"{path.name} is not whole JSON: {len(rows)} records could be read.")
    return course


def _stopped_early(state: dict[str, Any]) -> bool | None:
    callbacks = state.get("stateful_callbacks")
    if not isinstance(callbacks, dict):
        return None
    early = callbacks.get("EarlyStoppingCallback")
    if early is None:
        return False
    early = early[0] if isinstance(early, list) and early else early
    try:
        return bool(early["attributes"]["early_stopping_patience_counter"] >= early["args"]["early_stopping_patience"])
    except (KeyError, TypeError):
        return None


# -- lines of JSON


def read_json_lines(path: Path, format: str) -> Course:
    """``trainer_log.jsonl`` (LLaMA-Factory), ``logging.jsonl`` (ms-swift), or any file with a JSON object a line.

    Raises:
        Unreadable: no line is a record.
    """
    lines = read_text(path).split("\n")
    kept = chosen(lines)
    if kept is not None:
        lines = [lines[i] for i in kept]
    rows = _objects(lines)
    if not rows:
        raise Unreadable(f"{path} holds no line that is a JSON object.")
    course = _named(course_from_records(rows), path, format)
    lost = sum(1 for line in lines if line and not line.isspace()) - len(rows)
    if lost:
        course.unread.append(f"{path.name}: {lost} of {len(lines)} lines are no JSON objects.")
    return course


def _objects(lines: list[str]) -> list[dict[str, Any]]:
    """The lines that are JSON objects; all in one call where all are."""
    try:
        rows = json.loads("[" + ",".join(line for line in lines if line and not line.isspace()) + "]")
    except (ValueError, RecursionError):
        rows = []
        for line in lines:
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError):
                    continue
    return [row for row in rows if row.__class__ is dict]


def is_lines_of_a_run(head: str) -> bool:
    """Whether a file of JSON lines that was found in a folder is a log, by its beginning: each line has a loss."""
    rows = _objects(head.split("\n")[:-1][:8] or head.split("\n"))
    names = [{canonical(key) for key in row if not isinstance(row[key], str | list | dict)} | {*row} for row in rows]
    losses, steps = {"loss", "eval_loss", "train_loss"}, {"epoch", *STEP_NAMES}
    return len(rows) > 1 and all(each & losses for each in names) and any(each & steps for each in names)


# -- TensorBoard


def read_tensorboard(path: Path) -> Course:
    """An event file, through tensorboard's own reader.

    Raises:
        Unreadable: tensorboard is not installed, or the file holds no scalars.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util import tensor_util
    except ImportError:
        raise Unreadable(
            f"{path} is a TensorBoard file, and tensorboard is not installed.", remedy="pip install tensorboard"
        ) from None
    rows: list[Record] = []
    started: float | None = None
    course = Course()
    try:
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    number = value.simple_value
                elif kind == "tensor" and value.tensor.dtype in (1, 2) and not value.tensor.tensor_shape.dim:
                    number = float(tensor_util.make_ndarray(value.tensor))
                else:
                    continue
                started = event.wall_time if started is None else started
                rows.append({"step": event.step, value.tag: number, "wall_seconds": event.wall_time})
    except Exception as error:  # a record that was cut off, or that is no event at all
        course.unread.append(f"{path.name} ends in a record that cannot be read: {type(error).__name__}.")
    if not rows:
        raise Unreadable(f"{path} holds no scalars.")
    read = course_from_records(rows)
    read.unread += course.unread
    return _named(read, path, "tensorboard")


# -- MLflow


def read_mlflow(folder: Path) -> Course:
    """A run's folder of MLflow's file store: ``metrics/NAME`` with a line ``timestamp value step`` a point.

    Raises:
        Unreadable: there is no metric in it.
    """
    rows: list[Record] = []
    for file in sorted((folder / "metrics").rglob("*")):
        if not file.is_file():
            continue
        key = file.relative_to(folder / "metrics").as_posix()
        lines = [parts for line in read_text(file).splitlines() if len(parts := line.split()) == 3]
        for parts in _fewer(lines, 1):
            if None not in (numbers := [as_number(part) for part in parts]):
                rows.append({"step": numbers[2], key: numbers[1], "wall_seconds": (numbers[0] or 0) / 1000})
    if not rows:
        raise Unreadable(f"{folder} holds no metrics.")
    rows.sort(key=lambda row: row["step"])
    return _named(course_from_records(rows), folder, "mlflow")


# -- CSV


def read_table(path: Path) -> Course:
    """A CSV export: a column of steps and one a quantity; W&B's ``run - loss`` and TensorBoard's ``Step,Value`` too.

    Raises:
        Unreadable: no column is a loss.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
            reader = csv.reader(stream, dialect=_dialect(stream.read(8192)))
            stream.seek(0)
            header = next(reader, [])[:_MOST_COLUMNS]
            names = [_column(name, path) for name in header]
            plain = [name.strip().rpartition(" - ")[2] for name in header]
            if any(canonical(name) == "loss" for name in plain):  # then train_loss is the Trainer's mean
                names = ["" if name == "train_loss" else own for name, own in zip(plain, names, strict=True)]
            taken = [(i, name) for i, name in enumerate(names) if name]
            # Where semicolons part the cells, a comma is a decimal point.
            point = (lambda cell: cell.replace(",", ".")) if reader.dialect.delimiter == ";" else str
            losses = [i for i, name in taken if canonical(name) == "loss"]
            written = _fewer(list(reader), losses[0]) if losses else reader
            rows: list[Record] = [
                {name: point(cells[i]) for i, name in taken if i < len(cells) and cells[i] not in ("", "NULL")}
                for cells in written
            ]
    except (OSError, csv.Error) as error:
        raise Unreadable(f"{path} cannot be read as CSV: {error}.") from error
    if not any(canonical(name) in ("loss", "eval_loss") for _, name in taken):
        raise Unreadable(f"{path} has no column with a loss.")
    return _named(course_from_records(rows), path, "csv")


def _fewer(rows: list[list[str]], loss: int) -> list[list[str]]:
    """The rows of a very long table that tell its course, by the column of the loss."""
    if len(rows) <= MOST:
        return rows
    return [rows[i] for i in standing_out([number(row[loss]) if loss < len(row) else None for row in rows])]


def _dialect(sample: str) -> Any:
    first = sample.split("\n", 1)[0]

    class Dialect(csv.excel):
        delimiter = max(",;\t", key=first.count)

    return Dialect


_SPELLED = {"training_loss": "loss", "train_loss": "loss", "eval_loss": "eval_loss", "evaluation_loss": "eval_loss",
            "val_loss": "eval_loss", "valid_loss": "eval_loss", "validation_loss": "eval_loss",
            "learning_rate": "learning_rate", "grad_norm": "grad_norm"}  # fmt: skip
"""Columns as people name them; in a table ``train_loss`` is the loss, and not the mean that the Trainer closes with."""


def _column(written: str, path: Path) -> str:
    """The quantity of a column; empty for one that is none."""
    name = written.strip()
    if name.lower() in ("step", "steps", "global_step", "global step", "_step", "iteration", "train/global_step"):
        return "step"
    if name == "Value":  # TensorBoard's download of one tag
        return "eval_loss" if "eval" in path.stem.lower() or "val" in path.stem.lower() else "loss"
    if name == "Wall time":
        return "wall_seconds"
    if name.endswith(("__MIN", "__MAX")):
        return ""
    name = name.rpartition(" - ")[2]
    return _SPELLED.get(name.lower().replace(" ", "_"), name)


def is_table_of_a_run(path: Path) -> bool:
    """Whether a CSV found in a folder is a log: by its first line alone."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            first = stream.readline(1 << 16)
    except OSError:
        return False
    cells = [cell.strip().strip('"') for cell in re.split(r"[,;\t]", first)]
    names = {canonical(_column(cell, path)) for cell in cells if cell}
    return bool(names & {"loss", "eval_loss"}) and any(
        _column(cell, path) == "step" or cell == "epoch" for cell in cells
    )


# -- Weights & Biases


def read_wandb(folder: Path) -> Course:
    """A run's folder of W&B: its own file, else what was exported or captured, else the summary's last values.

    Raises:
        Unreadable: none of them can be read.
    """
    from .output import read_output

    own, needed = _own_file(folder)
    files = folder / "files"
    course: Course | None = None
    if own is not None and own.history:
        course = _named(course_from_records(own.history), folder, "wandb")
        if own.damaged:
            course.unread.append(f"{folder.name}: its .wandb file ends in a record that cannot be read.")
        needed = ""
    elif (files / "wandb-history.jsonl").is_file():
        course = read_json_lines(files / "wandb-history.jsonl", "wandb")
    if (files / "output.log").is_file():
        try:
            output = read_output(files / "output.log")
        except Unreadable:
            output = None
        if course is None:
            course = output
        elif output is not None:
            course.error = output.error
    if course is None and (summary := _summary(files / "wandb-summary.json")):
        course = _named(course_from_records([summary]), files / "wandb-summary.json", "wandb")
        course.unread.append(f"{folder.name}: of its history the last values alone are here.")
    if course is None:
        raise Unreadable(f"{folder} holds no captured output with a loss" + (f", and {needed}." if needed else "."))
    course.formats = ["wandb"]
    if needed:
        course.unread.append(f"{folder.name}: {course.sources[0]} was read; {needed}.")
    _as_asked(course, own.config if own is not None and own.config else _config(files / "config.yaml"))
    return course


def _own_file(folder: Path) -> tuple[WandbFile | None, str]:
    """The run's own file, and what to say where its history cannot be had from it."""
    path = next(iter(sorted(folder.glob("*.wandb"))), None)
    if path is None:
        return None, ""
    try:
        own = read_wandb_file(path)
    except OSError as error:
        return None, f"{path.name} cannot be read: {error.strerror or error}"
    return own, f"{path.name} is damaged" if own.damaged else f"{path.name} holds no history"


def _summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    summary = summary if isinstance(summary, dict) else {}
    return summary if any(canonical(key) in ("loss", "eval_loss") for key in summary) else {}


def _config(path: Path) -> dict[str, Any]:
    """config.yaml, where each key has its ``value``."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    document = document if isinstance(document, dict) else {}
    return {key: entry["value"] for key, entry in document.items() if isinstance(entry, dict) and "value" in entry}


def _as_asked(course: Course, config: dict[str, Any]) -> None:
    """How long the run was to be, by the TrainingArguments that the Trainer puts into W&B's config."""
    steps = _positive(config.get("max_steps"))
    course.planned_steps = course.planned_steps or steps
    if steps is None:
        course.planned_epochs = course.planned_epochs or _positive(config.get("num_train_epochs"))


# -- all


def _named(course: Course, path: Path, format: str) -> Course:
    course.sources, course.formats = [str(path)], [format]
    return course


def _positive(value: Any) -> float | None:
    number = as_number(value)
    return number if number is not None and math.isfinite(number) and number > 0 else None


__all__ = ["CHECKPOINT", "Series", "Unreadable", "is_lines_of_a_run", "is_table_of_a_run", "read_json_lines",
           "read_mlflow", "read_table", "read_tensorboard", "read_text", "read_trainer_state",
           "read_wandb"]  # fmt: skip
