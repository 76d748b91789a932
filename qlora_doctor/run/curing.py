"""One config → the closest one that has no error and fits: safe fixes first, then changes that were predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import StageError, UsageError
from ..core.report import PatchOperation, Report, StageRecord
from ..memory.cure_stage import all_levers, recalled_cure
from ..memory.levers import Lever, shorter
from ..memory.stage import recalled_memory, sequence_of
from ..probes.config.settle import settled
from ..reading.dialects import dialect_named
from ..reading.document import document_of, read_document
from ..setup.meant_for import meant_for
from ..worker.events import End, Learned
from ..worker.job import CureRequest
from ..writing.express import express
from ..writing.patch import CannotEdit, NoEditor
from ..writing.program import is_program, rewritten, understood
from ..writing.remedy import unified
from .checking import conclude_config, missing_packages, open_session, predict, run_check
from .fixing import Fixed, fix
from .observer import Observer
from .session import CheckOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..facts.memory import Change, MemoryFacts
    from ..memory.levers import Prefer
    from ..setup.setup import Setup
    from .session import Session


@dataclass(frozen=True)
class Cured:
    """What was found.

    Attributes:
        path: the file.
        before, after: its text, and its text with the safe fixes and the cure.
        fixed: the rules whose safe fixes were applied.
        first: what was predicted of the file as it stands, with ``facts.memory.cures``.
        last: the report of the cured file, checked again; None where nothing was changed for memory.
        beside: what the file cannot say: environment variables to set.
        by_hand: changes of a program that is not written, for they are no literals there: each as ``key=value``, with
            its line where it stands there.
    """

    path: Path
    before: str
    after: str
    fixed: tuple[str, ...]
    first: Report
    last: Report | None
    beside: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()

    @property
    def memory(self) -> MemoryFacts | None:
        """The prediction and the search."""
        return self.first.facts.memory

    @property
    def diff(self) -> str:
        """What would be written, as a unified diff."""
        return unified(self.path.as_posix().lstrip("/"), self.before, self.after) or ""


def cure(
    path: Path,
    options: CheckOptions,
    *,
    keep: Sequence[str] = (),
    prefer: Prefer = "closest",
    alters: bool = False,
    observer: Observer | None = None,
) -> Cured:
    """Look for the closest setup that fits; nothing is written.

    Args:
        path: the config file.
        options: how to read it and run the stages; its card is the one to fit.
        keep: keys that stay as they are, by their canonical path, its last part, or their name in the file.
        prefer: which of several cures is taken.
        alters: changes of what is learned count as any other.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: the card is not known.
        StageError: a package that it needs is missing.
    """
    observer = observer or Observer()
    how = replace(options, stages=("config",), card=None, fail_on="never")
    fixed = _fixed(path, how, observer)
    before, text = fixed.before, fixed.after
    session = open_session(_reread(path, text, options), replace(how, stages=("memory",)), observer)
    setup = session.setup
    assert setup is not None
    session.setup = meant_for(setup, options.card) if options.card is not None else setup
    conclude_config(session)
    assert session.facts.config is not None
    missing = missing_packages("memory", session.facts)
    levers = _sayable(setup, session.setup, session.facts, keep)
    request = CureRequest(levers=tuple(levers), prefer=prefer, alters=alters)
    known = settled(session.setup, session.facts.config)
    if not _recall(session, lambda: recalled_cure(known, session.facts, request)):
        _must_be_installed(missing)
        predict(session, known, cure=request)
    first = session.report()
    memory = session.facts.memory
    if memory is None or memory.cure is None:
        return Cured(path, before, text, fixed.rules, first, None)
    every = (levers.get(each.change) or _length(setup, each) for each in memory.cure.changes)
    chosen = list({lever.change: lever for lever in every}.values())
    after, beside = _written(setup, text, chosen)
    again = _reread(path, after, options)
    for lever in chosen:  # what the file cannot say is made beside it
        again = lever.applied(again) if after == text or lever.kind == "segments" else again
    again = meant_for(again, options.card) if options.card is not None else again
    observer.on_part("checking the cured setup")
    how = replace(how, stages=None, left_out=("data",), fail_on="error", cache=False, savings=False)
    last = (_checked_lightly if missing else run_check)(again, how, observer)
    by_hand = _by_hand(setup, chosen) if after == text else ()
    return Cured(path, before, after, fixed.rules, first, last, beside, by_hand)


def _fixed(path: Path, how: CheckOptions, observer: Observer) -> Fixed:
    """The safe fixes of a file, with its text before and after them."""
    fixed = fix(path, how, observer=observer)
    if path.is_file() and not fixed.before:  # a program has no such fixes
        text = read_document(path).text
        return replace(fixed, before=text, after=text)
    return fixed


def _by_hand(setup: Setup, levers: Sequence[Lever]) -> tuple[str, ...]:
    """The changes as they would stand in a program, in its own names."""
    found: dict[str, str] = {}
    for operation in (each for lever in levers if lever.kind != "segments" for each in lever.operations):
        place = setup.place(operation.path)
        name = operation.path.rpartition(".")[2]
        at = f" (line {place.line})" if place is not None and place.line else ""
        found[operation.path] = f"{name}={operation.value!r}{at}"
    return tuple(found.values())


def _must_be_installed(missing: Sequence[str]) -> None:
    if missing:
        what = f"A prediction needs {', '.join(missing)}, not installed here."
        raise StageError(what, remedy="pip install 'qlora-doctor[probe]'")


def _length(setup: Setup, change: Change) -> Lever:
    """A length that was found between those that are offered."""
    return shorter(sequence_of(setup), int(change.value or 0))


def _recall(session: Session, recalled: Callable[[], MemoryFacts | None]) -> bool:
    """Take stage memory from traces that come with the package; False where they do not tell it."""
    session.begin("memory")
    memory = recalled()
    if memory is None:
        return False
    record = StageRecord(name="memory", status="done", cached=True)
    session.take([Learned(subject="memory", value=memory), End(record=record)])
    return True


def _checked_lightly(setup: Setup, how: CheckOptions, observer: Observer) -> Report:
    """What can be looked at without torch: the config, and the peak where traces that come with the package tell it."""
    session = open_session(setup, replace(how, stages=("config", "memory")), observer)
    conclude_config(session)
    assert session.setup is not None and session.facts.config is not None
    known = settled(session.setup, session.facts.config)
    _recall(session, lambda: recalled_memory(known, session.facts))
    return session.report()


def _sayable(setup: Setup, meant: Setup, facts: object, keep: Sequence[str]) -> dict[str, Lever]:
    """The changes that the user's own file can say and that touch no key to be kept, by their words."""
    kept = {name.strip().casefold() for name in keep}
    found: dict[str, Lever] = {}
    for lever in (each for group in all_levers(meant, facts) for each in group):  # type: ignore[arg-type]
        if any(_names(setup, operation.path) & kept for operation in lever.operations):
            continue
        if lever.kind == "segments" or setup.file is None or _operations(setup, [lever]) is not None:
            found[lever.change] = lever
    return found


def _names(setup: Setup, path: str) -> set[str]:
    """What a user may call a canonical path: the path, its last part, its key in the file."""
    place = setup.place(path)
    own = place.pointer.strip("/").replace("/", ".") if place is not None and place.pointer else path
    return {name.casefold() for name in (path, path.rpartition(".")[2], own, own.rpartition(".")[2])}


def _operations(setup: Setup, levers: list[Lever]) -> list[PatchOperation] | None:
    """The changes in the keys of the user's file; None where it cannot say them."""
    values = {each.pointer: each.value for lever in levers if lever.kind != "segments" for each in lever.operations}
    patch = [PatchOperation(op="add", path=pointer, value=value) for pointer, value in values.items()]
    try:
        return list(express(setup, patch).operations) if patch else []
    except NoEditor:  # a program: its changes are shown, not written
        return []
    except CannotEdit:
        return None


def _written(setup: Setup, text: str, levers: list[Lever]) -> tuple[str, tuple[str, ...]]:
    """The text with the changes, and what has to be set beside it."""
    from ..writing.edit import apply_patch

    beside = ("PYTORCH_ALLOC_CONF=expandable_segments:True",) if any(each.kind == "segments" for each in levers) else ()
    if is_program(setup):
        values = {each.path: each.value for lever in levers if lever.kind != "segments" for each in lever.operations}
        with contextlib.suppress(CannotEdit):
            text = rewritten(setup, values)
        return text, beside
    operations = _operations(setup, levers)
    if operations is None:
        raise UsageError("The changes cannot be written into this file together.")
    document = setup._document
    return apply_patch(text, document.format, operations) if operations and document is not None else text, beside


def _reread(path: Path, text: str, options: CheckOptions) -> Setup:
    from ..reading import read_setup

    setup = read_setup(path, dialect=options.dialect)
    document = setup._document
    if is_program(setup) and setup.file is not None:
        return understood(setup, text)
    if document is None or document.path is None or document.text == text:
        return setup
    return dialect_named(setup.dialect).read(document_of(document.path, text))
