"""A captured output: the Trainer's ``{'loss': …}`` lines, tqdm's bars, and plain ``step 10: loss 1.2`` lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from .notebook import printed
from .series import Course, Record, as_number, course_from_records
from .texts import Unreadable, read_text
from .thinning import chosen

_PIECE = re.compile(
    r"(?P<dict>\{[^{}\n]*['\"](?:loss|eval_loss|train_runtime|grad_norm)['\"] ?:[^{}\n]*\})"
    r"|(?P<done>\d+)/(?P<total>\d+) \[(?P<clock>(?:\d+:)?\d+:\d+)<(?P<rest>[^\]\n\r]*)\]"
)
_PAIR = re.compile(r"([A-Za-z_][\w/ .()-]*?)\s*[=:]\s*([-+]?\d[\d.eE+-]*|nan|inf)\b")
_COUNT = r"\b\s*[:=#\[]?\s*(\d+)(?:\s*/\s*(\d+))?.*?(?:\b|_)loss\b"
_PLAIN = re.compile(rf"\b(?:global[_ ]step|steps?|iter(?:ation)?){_COUNT}", re.IGNORECASE)
_PIECES = re.compile(rf"\b(?:it|batch){_COUNT}", re.IGNORECASE)
_EPOCH = re.compile(rf"\bepochs?{_COUNT}", re.IGNORECASE)
_LOSS = re.compile(
    r"(?:\b(?P<kind>[a-z]+)[ _-]|\b|_)loss\b(?: (?:at|after) [^:=]*)?\W{0,3}?\s*(?:train|is)?\s*(?:tensor\()?\s*"
    r"(?P<value>-?\d[\d.eE+-]*|-?(?:nan|inf)\b)",
    re.IGNORECASE,
)
"""A loss on a line, and what stands before the word."""
_EVALUATED = ("val", "valid", "validation", "eval", "evaluation", "dev", "test")
_ERROR = re.compile(r"^(?:[\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit))\b:?(.*)$", re.MULTILINE)
_EPOCH_NUMBER = re.compile(r"\bepoch\b\s*[:=#\[]?\s*(\d+(?:\.\d+)?)", re.IGNORECASE)
_RANK = re.compile(r"^\s*(\d{1,4}): |\brank[ :=]{0,2}(\d+)\b", re.IGNORECASE)
_HEADING = re.compile(r"^[ |]*Step[ \t|]+(?:Training|Validation) Loss\b.*$", re.MULTILINE)
"""Of the table that the Trainer shows in a notebook (transformers, utils/notebook.py)."""
_OTHER_WORK = ("Loading", "Writing", "Saving", "Map", "Filter", "Tokenizing", "Packing", "Truncating", "Adding",
               "Applying", "Converting", "Generating", "Fetching", "Download")  # fmt: skip
"""What the bars of transformers, datasets, trl and huggingface_hub begin with when they do not train."""
_NAN = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


def read_output(path: Path) -> Course:
    """What a trainer printed.

    Raises:
        Unreadable: there is no loss in it.
    """
    text = read_text(path)
    if path.suffix == ".ipynb":
        text = printed(text) or ""
    course = course_from_output(text)
    if not course.series and course.error in (None, "none"):
        raise Unreadable(f"{path} holds no loss: neither the Trainer's lines nor a bar's.")
    course.sources, course.formats = [str(path)], ["output"]
    return course


def course_from_output(text: str) -> Course:
    """The course out of a captured output."""
    text = _thinned(text)
    rows, planned = _records(text)
    if not rows:
        rows = _shown(text) or _of_all_ranks(_plain(text))
    course = course_from_records(rows, planned_steps=planned)
    course.error = _error(text)
    return course


def _thinned(text: str) -> str:
    """A very long output without most of its lines; a record keeps the bar before it, or else its number."""
    if len(text) < 2_000_000:
        return text
    lines = text.replace("\r", "\n").split("\n")
    kept = chosen(lines)
    if kept is None:
        return text
    has_bars = "it/s" in text or "s/it" in text
    if has_bars:
        return "\n".join(lines[i] for i in sorted({*kept, *(max(0, i - 1) for i in kept)}))
    return "\n".join(_numbered(lines[i], i) for i in kept)


def _numbered(line: str, number: int) -> str:
    end = line.rfind("}")
    return f"{line[:end]}, 'record': {number + 1}{line[end:]}" if end > 0 and line.lstrip()[:1] == "{" else line


def says_loss(sample: str) -> bool:
    """Whether a piece of a file looks like a trainer's output."""
    pieces = _PIECE.finditer(sample)
    if any(match["dict"] or "loss" in (match["rest"] or "") for match in pieces):
        return True
    lines = max(len(_PLAIN.findall(sample)), len(_EPOCH.findall(sample)))
    return lines > 2 or _HEADING.search(sample) is not None


def _records(text: str) -> tuple[list[Record], float | None]:
    """Records with the step of the bar that stood before each; and the bar's total."""
    dicts: list[str] = []
    before: list[tuple[int, int, str] | None] = []
    bars: list[tuple[int, int, str, str]] = []
    bar: dict[int, tuple[int, int, str]] = {}
    last: tuple[int, int, str] | None = None
    totals: Counter[int] = Counter()
    stands: dict[int, set[int]] = {}
    snapshots: list[dict[int, tuple[int, int, str]]] = []
    for match in _PIECE.finditer(text):
        if match["dict"] is None:
            if _is_of_other_work(text, match.start()):
                continue
            last = int(match["done"]), int(match["total"]), match["clock"]
            bar[last[1]] = last
            if "=" in match["rest"]:
                bars.append((*last, match["rest"]))
            continue
        dicts.append(match["dict"])
        before.append(last)
        if last is not None:
            snapshots.append(dict(bar) if len(bar) > 1 else bar.copy())
            if "'loss'" in match["dict"] or '"loss"' in match["dict"]:
                totals[last[1]] += 1
                stands.setdefault(last[1], set()).add(last[0])
    rows = _parsed(dicts)
    if not rows:
        return [{"step": done, "planned_steps": total, "elapsed_time": clock, **_pairs(rest)}
                for done, total, clock, rest in bars if "loss" in rest], (bars[-1][1] if bars else None)  # fmt: skip
    for total, seen_at in stands.items():
        if totals[total] > 2 and len(seen_at) == 1:
            del totals[total]  # a bar that does not move from record to record is not the training's
    if not totals:
        return [row for row in rows if row is not None], None
    planned = totals.most_common(1)[0][0]
    found: list[Record] = []
    shot = 0
    step: tuple[int, int, str] | None = None
    for row, seen in zip(rows, before, strict=True):
        if seen is not None:
            step = snapshots[shot].get(planned, step)
            shot += 1
        if row is None:
            continue
        if step is not None and "step" not in row:
            row["step"], row["elapsed_time"] = step[0], step[2]
        elif step is None:
            row.setdefault("step", 0)
        found.append(row)
    return found, float(planned)


def _is_of_other_work(text: str, at: int) -> bool:
    """Whether the bar at this place is one of loading, saving or preparing, by what stands before it in its line."""
    before = text[max(0, at - 200) : at].replace("\r", "\n")
    return before[before.rfind("\n") + 1 :].lstrip().startswith(_OTHER_WORK)


def _parsed(dicts: list[str]) -> list[dict[str, Any] | None]:
    """Python's own writing of mappings of texts and numbers, as JSON reads it."""
    try:
        rows = json.loads("[" + ",".join(dicts).replace("'", '"') + "]")
        return list(rows)
    except (ValueError, RecursionError):
        return [_one(text) for text in dicts]


def _one(text: str) -> dict[str, Any] | None:
    quoted = text.replace("'", '"').replace("None", "null").replace("True", "true").replace("False", "false")
    for attempt in (quoted, _NAN.sub(r'"\1"', quoted)):
        try:
            row = json.loads(attempt)
        except (ValueError, RecursionError):
            continue
        return row if isinstance(row, dict) else None
    return dict(_pairs(text.replace("'", "").replace('"', ""))) or None


def _pairs(text: str) -> dict[str, float | None]:
    return {name.strip(): as_number(value) for name, value in _PAIR.findall(text)}


def _plain(text: str) -> list[Record]:
    """Lines of loops that people write themselves, and of torchtune and LitGPT: a loss on a line, and its step.

    Where no line has a step, those with a batch or an epoch are taken; without these, all that name a loss. A line with
    an evaluation alone stands at the step before it.
    """
    lines = [(line, losses) for line in text.splitlines() if (losses := _losses(line))]
    for pattern in (_PLAIN, _PIECES, _EPOCH, None):
        found = [(line, losses, pattern.search(line) if pattern else None) for line, losses in lines]
        if not pattern or any(match is not None for *_, match in found):
            rows: list[Record] = [
                {**_row_of(line, match, counts=pattern is not _EPOCH), **losses}
                for line, losses, match in found
                if not pattern or match is not None or "loss" not in losses
            ]
            return rows if any("loss" in row for row in rows) else []
    return []


def _losses(line: str) -> dict[str, float | None]:
    """The losses that a line names: of training the first, and of an evaluation."""
    found: dict[str, float | None] = {}
    for match in _LOSS.finditer(line):
        name = "eval_loss" if (match["kind"] or "").lower() in _EVALUATED else "loss"
        found.setdefault(name, as_number(match["value"].rstrip(".")))
    return found


def _row_of(line: str, match: re.Match[str] | None, *, counts: bool) -> dict[str, Any]:
    """The other numbers of such a line.

    Args:
        counts: what was matched is the number of the step, and not that of the epoch.
    """
    row: dict[str, Any] = {}
    if match is not None and counts:
        row["step"] = match[1]
        if match[2]:
            row["planned_steps"] = match[2]
    epoch = _EPOCH_NUMBER.search(line)
    if epoch:
        row["epoch"] = as_number(epoch[1])
    rank = _RANK.search(line)
    if rank:
        row["rank"] = rank[1] or rank[2]
    begin = match.start(1) if match is not None else 0
    pairs = {_word(name): value for name, value in _pairs(line[begin:]).items()}
    return {word: value for word, value in pairs.items() if "loss" not in word} | row


def _of_all_ranks(rows: list[Record]) -> list[Record]:
    """One record a step where several ranks print theirs: the mean of each number, which is none where one is none."""
    if len({row.get("rank") for row in rows}) < 2:
        return rows
    steps: dict[Any, list[Record]] = {}
    for row in rows:
        steps.setdefault(row["step"], []).append(row)
    joined: list[Record] = []
    for same in steps.values():
        row = dict(same[0])
        for name in {name for each in same for name in each} - {"step", "planned_steps", "rank"}:
            numbers = [number for each in same if (number := as_number(each.get(name))) is not None]
            row[name] = sum(numbers) / len(numbers) if numbers else None
        joined.append(row)
    return joined


def _shown(text: str) -> list[Record]:
    """The rows of the table that the Trainer shows in a notebook; each time that it is shown again it is longer."""
    found: dict[Any, Record] = {}
    for heading in _HEADING.finditer(text):
        names = [_word(name) for name in _cells(heading[0])]
        for line in text[heading.end() :].lstrip("\n").split("\n"):
            cells = _cells(line)
            if len(cells) != len(names) or as_number(cells[0]) is None:
                if set(line) <= set(" |-:\t\r"):
                    continue
                break
            found[as_number(cells[0])] = dict(zip(names, cells, strict=True))
    return list(found.values())


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"\t|\||\s{2,}", line.strip(" |\t\r")) if cell.strip()]


def _word(name: str) -> str:
    """``train loss`` and ``val`` of such a line as the Trainer would call them."""
    word = name.strip().lower().rpartition("|")[2].strip()
    if word in ("loss train", "train loss", "training loss"):
        return "loss"
    if word in ("step", "epoch"):
        return word
    if word in ("val", "val loss", "loss val", "validation loss", "eval loss"):
        return "eval_loss"
    return word.replace(" ", "_")


def _error(text: str) -> str:
    """The exception that the output ends in; ``none`` where there is no traceback."""
    at = text.rfind("Traceback (most recent call last)")
    if at < 0 or any(match["dict"] for match in _PIECE.finditer(text, at)):
        return "none"  # what was caught, and trained on after it, ended nothing
    found = _ERROR.search(text, at)
    if found is None:
        return "none"
    return " ".join(found[0].split())[:300]
