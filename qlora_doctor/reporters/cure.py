"""A cure for a terminal and a log: the answer, every change that was predicted, the diff of the user's own file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..core.report import Report
from . import _words as words
from ._answer import changes
from ._seen import seen
from ._words import wrapped

if TYPE_CHECKING:
    from ..facts.memory import Cure

MOST = 14
"""Rows of the table at most."""


def render(
    report: Report, *, fixed: Sequence[str] = (), diff: str = "", beside: Sequence[str] = (),
    by_hand: Sequence[str] = (), last: Report | None = None, width: int = 100,
) -> str:  # fmt: skip
    """The whole document.

    Args:
        report: of the file as it stands, with the search in its memory facts.
        fixed: rules whose safe fixes are part of the diff.
        diff: of the user's file.
        beside: environment variables to set.
        by_hand: changes of a program that is not written.
        last: the report of the cured file, checked again.
    """
    memory = report.facts.memory
    blocks = [wrapped(headline(report, fixed), width)]
    if memory is not None and memory.cures:
        blocks.append(cure_table(memory.cures, width))
    if fixed:
        blocks.append(wrapped(f"Safe fixes in the diff: {', '.join(dict.fromkeys(fixed))}.", width))
    if diff:
        blocks.append(diff.rstrip("\n"))
    if by_hand:
        blocks.append(
            "\n".join(["These are no literals in the program; set there:", *(f"  {each}" for each in by_hand)])
        )
    if beside:
        blocks.append("\n".join(f"Set {each} for the run." for each in beside))
    if last is not None:
        blocks.append(wrapped(_checked(last), width))
    return "\n\n".join(block for block in blocks if block) + "\n"


def headline(report: Report, fixed: Sequence[str] = ()) -> str:
    """The answer in one or two sentences."""
    memory = report.facts.memory
    picture = memory.predicted if memory is not None else None
    if memory is None or picture is None or picture.peak_reserved_bytes is None:
        record = next((each for each in report.stages if each.name == "memory"), None)
        reason = (record.reason if record else None) or "the peak cannot be predicted."
        return f"No cure was looked for: {words.one_line(reason)}"
    needs = words.size(picture.peak_reserved_bytes)
    if memory.card_bytes is None and memory.cures is None:
        return f"It needs {needs}; no card is named, so nothing is held against it. Name one with --gpu."
    of = f" of {words.size(memory.card_bytes)} on {words.one_line(memory.card or '')}" if memory.card_bytes else ""
    if (why := unfinished(report)) is not None:
        return f"It needs {needs}{of}; changes with which it fits were looked for, and not to the end: {why}"
    if memory.cures is None:
        return f"It fits: {needs}{of}." + ("" if fixed else " There is nothing to cure.")
    cure = memory.cure
    if cure is None and memory.certain_bytes is not None:
        least = words.size(memory.certain_bytes)
        return f"It needs {needs}{of}; the base alone takes {least} or more, with any change of the training."
    if cure is None:
        return f"It needs {needs}{of}, and no combination of changes that was predicted fits."
    then = words.size(cure.peak_reserved_bytes)
    learned = f" It changes what is learned: {cure.alters_note}." if cure.alters else ""
    return f"{changes(cure)[:1].upper()}{changes(cure)[1:]}: {then} in place of {needs}{of}.{learned}"


def unfinished(report: Report) -> str | None:
    """Why the search was ended before its end; None where it was not."""
    record = next((each for each in report.stages if each.name == "memory"), None)
    if record is None or record.status == "done":
        return None
    return words.one_line(record.reason or "stage memory did not end.")


def cure_table(found: Sequence[Any], width: int) -> str:
    """A row for each combination that was predicted, the cure first; as facts, or as evidence holds them."""
    from ..facts.memory import Cure  # lazy: a check of a config alone needs no facts of memory

    cures = [each if isinstance(each, Cure) else Cure.model_validate(each) for each in found[:MOST]]
    column = min(max((len(changes(cure)) for cure in cures), default=0), max(24, width - 40))
    head = f"{'change':<{column}}  {'peak':>9}  fits  {'time':>5}  learns otherwise"
    rows = [head]
    for cure in cures:
        first, *rest = textwrap.wrap(changes(cure), column, break_long_words=False)
        fits = "✓" if cure.fits else "✗" if cure.fits is False else " "
        alters = "yes" if cure.alters else "no"
        size = words.size(cure.peak_reserved_bytes)
        rows.append(f"{first:<{column}}  {size:>9}   {fits}    {_time(cure):>5}  {alters}")
        rows += rest
    notes = [f"{cure.speed_note.capitalize()}." for cure in cures[:1] if cure.speed_note]
    told = "time: expected time of a step as a multiple, by counts of passes, not measured."
    rows.append(wrapped(" ".join([told, *notes]), width))
    return "\n".join(rows)


def _time(cure: Cure) -> str:
    return f"×{cure.speed:.2f}"


def _checked(last: Report) -> str:
    memory = last.facts.memory
    card = memory.card_bytes if memory else None
    picture = memory.predicted if memory else None
    errors = [each for each in last.findings if each.severity == "error" and each.suppressed is None]
    told = "; ".join(f"{each.rule}: {words.one_line(each.message).rstrip('.')}" for each in errors)
    found = f"{words.plural(len(errors), 'error')} left ({told})" if errors else "no error"
    if picture is None or picture.peak_reserved_bytes is None:
        return f"Checked again: {found}; its peak could not be predicted. {_really(last)}"
    of = f" of {words.size(card)}" if card else ""
    return f"Checked again: {found}, peak {words.size(picture.peak_reserved_bytes)}{of}. {_really(last)}"


def _really(last: Report) -> str:
    """Whether the cured setup was loaded and stepped, or why not."""
    stages = {record.name: record for record in last.stages}
    if last.facts.step is not None and stages["step"].status == "done":
        return f"Really loaded and stepped: {' · '.join(seen(last)) or 'the step was done'}."
    record = next((stages[name] for name in ("load", "step") if name in stages and stages[name].status != "done"), None)
    return f"Not loaded and stepped here: {words.one_line(record.reason or record.status)}" if record else ""
