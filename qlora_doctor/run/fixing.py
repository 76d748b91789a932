"""Findings that can be put right in the user's own file: applied, looked at again, until nothing is left to do."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import DoctorError, UsageError
from ..core.report import Finding, Report
from ..reading.dialects import dialect_named, read_setup
from ..reading.document import Document, document_of, encoded, read_document
from ..setup.setup import Setup
from ..writing.edit import apply_patch
from ..writing.patch import CannotEdit
from ..writing.remedy import unified
from .checking import run_check
from .observer import Observer
from .session import CheckOptions

MOST_ROUNDS = 10


@dataclass(frozen=True)
class Fixed:
    """One file and what its fixes make of it; nothing is written yet.

    Attributes:
        path: the file.
        before: its text.
        after: its text with the fixes.
        first: the report of the file as it stands.
        last: the report of what remains.
        rules: the rules whose fixes were applied, in their order.
        settled: False where fixes were still undoing each other after the last round.
    """

    path: Path
    before: str
    after: str
    first: Report
    last: Report
    rules: tuple[str, ...] = ()
    settled: bool = True

    @property
    def diff(self) -> str:
        """What would be written, as a unified diff."""
        return unified(self.path.as_posix().lstrip("/"), self.before, self.after) or ""

    @property
    def held_back(self) -> list[Finding]:
        """What remains and could be fixed as well, if unsafe fixes were allowed."""
        return [f for f in self.last.findings if _can_fix(f, unsafe=True)]

    def write(self) -> bool:
        """Write the file whole or not at all, with its encoding, line ends and mode; False where nothing changed.

        Raises:
            UsageError: it may not be written, or is another one by now.
        """
        if self.after == self.before:
            return False
        from ..core.files import write_whole

        try:
            mode = self.path.stat().st_mode
            if not stat.S_ISREG(mode):
                raise UsageError(f"{self.path} is no file that can be written again.")
            if not mode & 0o222:
                raise UsageError(
                    f"{self.path} is read-only, so its fixes are not written.", remedy="--diff shows them."
                )
            if read_document(self.path).text != self.before:
                raise UsageError(f"{self.path} was changed by somebody else meanwhile, so its fixes are not written.")
            write_whole(self.path, encoded(self.path, self.after))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written: {error.strerror or error}.") from error
        return True


def fix(path: Path, options: CheckOptions, *, unsafe: bool = False, observer: Observer | None = None) -> Fixed:
    """Check a file, apply the fixes that do not touch each other, and check again, until there are none left.

    Args:
        path: the config file.
        options: how to check.
        unsafe: apply also fixes that may change what is trained.
        observer: is called with what happens in the first check.

    Raises:
        ConfigError: the config cannot be read or is invalid.
        UsageError: an option cannot be served.
    """
    setup = read_setup(path, dialect=options.dialect)
    first = last = run_check(setup, options, observer)
    document: Document | None = setup._document
    if document is None or document.path is None:
        return Fixed(path, "", "", first, last)
    before = document.text
    texts: list[str] = [before]
    rules: list[str] = []
    for _ in range(MOST_ROUNDS):
        text, applied = _apply(texts[-1], document, _chosen(last.findings, unsafe=unsafe))
        again = _reread(setup, document, text) if text not in texts else None
        if again is None:
            settled = text == texts[-1]
            return Fixed(document.path, before, texts[-1], first, last, tuple(rules), settled)
        texts.append(text)
        rules += applied
        last = run_check(again, options)
    return Fixed(document.path, before, texts[-1], first, last, tuple(rules), not _chosen(last.findings, unsafe=unsafe))


def fix_text(text: str, document: Document, findings: Sequence[Finding], *, unsafe: bool = False) -> str:
    """The text with those fixes of these findings that do not touch each other; nothing is checked again.

    Args:
        document: what the text was read as.
        unsafe: also fixes that may change what is trained.
    """
    return _apply(text, document, _chosen(findings, unsafe=unsafe))[0]


def _can_fix(finding: Finding, *, unsafe: bool) -> bool:
    remedy = finding.remediation
    if remedy is None or not remedy.diff or finding.suppressed is not None:
        return False
    return remedy.safety == "safe" or (unsafe and remedy.safety == "unsafe")


def _chosen(findings: Sequence[Finding], *, unsafe: bool) -> list[Finding]:
    """What can be fixed at once: a fix at a place that another one changes waits for the next round."""
    taken: list[str] = []
    chosen = []
    for finding in findings:
        if _can_fix(finding, unsafe=unsafe):
            places = list(_places(finding))
            if not any(_overlap(place, other) for place in places for other in taken):
                chosen.append(finding)
                taken += places
    return chosen


def _places(finding: Finding) -> Iterator[str]:
    assert finding.remediation is not None
    for operation in finding.remediation.patch:
        yield operation.path


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def _apply(text: str, document: Document, findings: Sequence[Finding]) -> tuple[str, list[str]]:
    """The text with the fixes, and the rules whose fix fits."""
    applied = []
    for finding in findings:
        assert finding.remediation is not None
        try:
            text = apply_patch(text, document.format, finding.remediation.patch)
        except CannotEdit:
            continue
        applied.append(finding.rule)
    return text, applied


def _reread(setup: Setup, document: Document, text: str) -> Setup | None:
    """The Setup of the changed text; None where the reader refuses it, which no fix should bring about."""
    try:
        assert document.path is not None
        found = dialect_named(setup.dialect).read(document_of(document.path, text))
    except DoctorError:
        return None
    return found.model_copy(update={"dialect_confidence": setup.dialect_confidence})
