"""Paths → runs: a folder is searched, files of one run are joined, a resumed run is one run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import (
    CHECKPOINT,
    is_lines_of_a_run,
    is_table_of_a_run,
    read_json_lines,
    read_mlflow,
    read_table,
    read_tensorboard,
    read_trainer_state,
    read_wandb,
)
from .output import read_output, says_loss
from .series import Course, Series
from .texts import Unreadable, decoded

_SKIPPED = {".git", ".venv", "venv", "node_modules", "__pycache__", "site-packages"}
_LINES = {".jsonl", ".ndjson"}
_OUTPUTS = {".log", ".out", ".txt", ".stdout"}
_SAMPLE = 1 << 16
_TRAINERS_FOLDER = re.compile(r"[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_")
"""How transformers names a folder of events below ``runs``."""
_ORDER = (
    "trainer_state",
    "trainer_log",
    "logging_jsonl",
    "wandb",
    "mlflow",
    "tensorboard",
    "json_lines",
    "csv",
    "output",
)
"""Where two formats hold a quantity with as many points, the one that stands first is taken: it keeps more digits."""
_MOST_FILES = 200_000


@dataclass(frozen=True)
class _Source:
    """A file, or a tracker's folder, and the run that it belongs to."""

    path: Path
    root: Path
    format: str
    read: Callable[[Path], Course]


def read_runs(paths: Sequence[Path]) -> list[Course]:
    """The runs that these files and folders hold, in their order.

    Raises:
        Unreadable: a path does not exist, or nothing in it is a log that can be read.
    """
    runs: list[Course] = []
    for path in paths:
        if not path.exists():
            raise Unreadable(f"{path} does not exist.")
        runs += _runs_of(path)
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1 and run.sources:
            run.name = run.sources[0]
    return runs


def _runs_of(path: Path) -> list[Course]:
    sources = [_source_of(path)] if path.is_file() else _in_folder(path)
    if not sources:
        raise Unreadable(
            f"{path} holds no log that is known.",
            remedy="Name a trainer_state.json, trainer_log.jsonl, logging.jsonl, a TensorBoard, W&B or MLflow folder, "
            "a CSV or a captured output.",
        )
    roots = list(dict.fromkeys(source.root for source in sources))
    runs, troubles = [], []
    for root in roots:
        course, trouble = _joined(root, [source for source in sources if source.root == root])
        troubles += trouble
        if course is not None:
            runs.append(course)
    if not runs:
        raise Unreadable(troubles[0].message if troubles else f"{path} holds no log.", remedy=troubles[0].remedy)
    return runs


def _source_of(path: Path) -> _Source:
    """A file that the user named: by its name, else by its content."""
    found = _by_name(path)
    if found is not None:
        return found
    if path.suffix == ".csv" or path.suffix == ".tsv":
        return _Source(path, path.parent, "csv", read_table)
    if path.suffix == ".ipynb":
        return _Source(path, path.parent, "output", read_output)
    head = _head(path)
    stripped = head.lstrip()
    if stripped.startswith("{") and '"log_history"' in head:
        return _Source(path, path.parent, "trainer_state", read_trainer_state)
    first = stripped.split("\n", 1)[0].rstrip()
    if path.suffix in _LINES or (first.startswith('{"') and first.endswith("}")):
        return _Source(path, path.parent, "logging_jsonl", lambda p: read_json_lines(p, "logging_jsonl"))
    if path.suffix == ".json":
        return _Source(path, path.parent, "trainer_state", read_trainer_state)
    return _Source(path, path.parent, "output", read_output)


def _by_name(path: Path) -> _Source | None:
    name, folder = path.name, path.parent
    if name == "trainer_state.json":
        root = folder.parent if CHECKPOINT.search(folder.name) else folder
        return _Source(path, root, "trainer_state", read_trainer_state)
    if name == "trainer_log.jsonl":
        return _Source(path, folder, "trainer_log", lambda p: read_json_lines(p, "trainer_log"))
    if name == "logging.jsonl":
        return _Source(path, folder, "logging_jsonl", lambda p: read_json_lines(p, "logging_jsonl"))
    if ".tfevents." in name:
        root = folder
        if _TRAINERS_FOLDER.match(folder.name):
            root = folder.parent.parent if folder.parent.name in ("runs", "logs") else folder.parent
        elif folder.name in ("runs", "logs", "tensorboard", "tb"):
            root = folder.parent
        return _Source(path, root, "tensorboard", read_tensorboard)
    if name.startswith("run-") and name.endswith(".wandb"):
        return _Source(folder, _first_of_run(folder), "wandb", read_wandb)
    return None


def _in_folder(top: Path) -> list[_Source]:
    found: list[_Source] = []
    if _is_mlflow(top):
        return [_Source(top, top, "mlflow", read_mlflow)]
    for folder, files in _walk(top):
        if _is_mlflow(folder):
            found.append(_Source(folder, folder, "mlflow", read_mlflow))
            continue
        if folder.name == "files" and _is_wandb(folder.parent) and {"output.log", "wandb-history.jsonl"} & {*files}:
            found.append(_Source(folder.parent, _first_of_run(folder.parent), "wandb", read_wandb))
            continue
        for name in files:
            path = folder / name
            source = _by_name(path)
            if source is None and path.suffix in (".csv", ".tsv") and is_table_of_a_run(path):
                source = _Source(path, folder, "csv", read_table)
            if source is None and path.suffix in _LINES and is_lines_of_a_run(_head(path)):
                source = _Source(path, folder, "json_lines", lambda p: read_json_lines(p, "json_lines"))
            if source is None and path.suffix == ".ipynb" and "Training Loss" in _head(path, whole=True):
                source = _Source(path, folder, "output", read_output)
            if source is None and path.suffix in _OUTPUTS and says_loss(_head(path) + _tail(path)):
                source = _Source(path, folder, "output", read_output)
            if source is not None:
                found.append(source)
    return list({(source.path, source.format): source for source in found}.values())


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    seen = 0
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        if _is_mlflow(Path(folder)):
            folders[:] = []
        seen += len(files)
        yield Path(folder), sorted(files)
        if seen > _MOST_FILES:
            return


def _is_mlflow(folder: Path) -> bool:
    return (folder / "metrics").is_dir() and (folder / "meta.yaml").is_file()


def _is_wandb(folder: Path) -> bool:
    return folder.name.startswith(("run-", "offline-run-")) or folder.name == "latest-run"


def _first_of_run(folder: Path) -> Path:
    """A run that W&B resumed has a folder for each start; the first stands for it."""
    started, mark, name = folder.resolve().name.rpartition("-")
    if not mark or not re.fullmatch(r"(?:offline-)?run-\d{8}_\d{6}", started):
        return folder
    return min(folder.resolve().parent.glob(f"*run-*-{name}"), key=lambda path: path.name.removeprefix("offline-"))


def _joined(root: Path, sources: Iterable[_Source]) -> tuple[Course | None, list[Unreadable]]:
    """All that is known of one run."""
    parts: dict[str, list[Course]] = {}
    troubles: list[Unreadable] = []
    for source in sources:
        try:
            course = source.read(source.path)
            parts.setdefault(source.format, []).append(course)
        except Unreadable as error:
            troubles.append(error)
    joined = [_one_after_another(format, courses) for format, courses in parts.items()]
    joined.sort(key=lambda course: _ORDER.index(course.formats[0]))
    if not joined:
        return None, troubles
    run = Course(name=root.name or str(root))
    run.steps_known = any(part.steps_known for part in joined)
    for part in joined:
        if run.steps_known and not part.steps_known:
            part.series = {}  # counted records do not stand beside real steps
        for name, series in part.series.items():
            if name not in run.series or len(series) > len(run.series[name]):
                run.series[name] = series
        run.sources += part.sources
        run.formats += part.formats
        run.unread += part.unread
        run.resumed_at = run.resumed_at or part.resumed_at
        for name in ("planned_steps", "planned_epochs", "finished", "stopped_early", "error"):
            if getattr(run, name) is None:
                setattr(run, name, getattr(part, name))
        run.last_step = max((s for s in (run.last_step, part.last_step) if s is not None), default=None)
    run.unread += [trouble.message for trouble in troubles]
    run.checkpoints = _checkpoints(root)
    return run, troubles


def _one_after_another(format: str, courses: list[Course]) -> Course:
    """Parts of one run in one format: the later one replaces the earlier from its first step on."""
    if len(courses) == 1:
        return courses[0]
    if format == "trainer_state":  # each holds the history of those before it
        whole = max(courses, key=lambda course: course.last_step or 0)
        whole.finished = any(course.finished for course in courses) or None
        return whole
    courses.sort(key=lambda course: _begins(course))
    run = courses[0]
    for later in courses[1:]:
        first = min((s.steps[0] for s in later.series.values() if s.steps), default=None)
        if first is not None and run.series:
            if format not in ("csv", "mlflow") and "loss" in later.series:
                run.resumed_at = [*run.resumed_at, later.get("loss").steps[0]]
                run.series = {name: _before(series, first) for name, series in run.series.items()}
            for name, series in later.series.items():
                own = run.get(name)
                merged = dict(zip(own.steps, own.values, strict=True)) | dict(
                    zip(series.steps, series.values, strict=True)
                )
                steps = sorted(merged)
                run.series[name] = Series(steps, [merged[step] for step in steps])
        elif first is not None:
            run.series = later.series
        run.sources += later.sources
        run.unread += later.unread
        run.last_step = max((s for s in (run.last_step, later.last_step) if s is not None), default=None)
        run.finished = run.finished or later.finished
        run.planned_steps = later.planned_steps or run.planned_steps
        run.error = later.error or run.error
    return run


def _begins(course: Course) -> tuple[float, str]:
    """When a part was written: by its own clock, else by the name of its file, which holds the date."""
    wall = course.get("wall_seconds").values
    return (wall[0] if wall else 0.0, course.sources[0] if course.sources else "")


def _before(series: Series, step: float) -> Series:
    count = sum(1 for s in series.steps if s < step)
    return Series(series.steps[:count], series.values[:count])


def _checkpoints(root: Path) -> list[float] | None:
    """Steps of the checkpoints in a run's folder; None where it holds none, for they may lie elsewhere."""
    try:
        found = [match for entry in root.iterdir() if entry.is_dir() and (match := CHECKPOINT.search(entry.name))]
    except OSError:
        return None
    return sorted(float(match[1]) for match in found) or None


def _head(path: Path, *, whole: bool = False) -> str:
    try:
        with path.open("rb") as stream:
            return decoded(stream.read(-1 if whole else _SAMPLE))
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _SAMPLE))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
