"""The text of an open file → what the config stage finds in it; nothing where it is no training config.

Nothing is built or loaded, torch is not imported, and no text makes it raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ConfigError, DoctorError
from ..core.report import Finding, Report, Severity
from ..reading.document import MAX_BYTES, Document
from ..run.session import CheckOptions
from .ranges import Range, Text

if TYPE_CHECKING:
    from ..engine import Rule
    from ..facts.environment import EnvironmentFacts
    from ..setup.setup import Setup

OptionsOf = Callable[[Path], CheckOptions]
"""A file → how to check it: which rules judge, and what its repository's settings say."""


@dataclass(frozen=True)
class Problem:
    """One line in the editor's list of problems.

    Attributes:
        code: the rule's id, or ``config`` where the file cannot be read.
        finding: None where the file cannot be read.
    """

    range: Range
    severity: Severity
    code: str
    message: str
    url: str | None = None
    finding: Finding | None = None


@dataclass(frozen=True)
class Analysis:
    """What is known of one version of a file.

    Attributes:
        setup: None where it is no config, or cannot be read.
        trouble: why nothing is known although it may be a config; for the log.
    """

    path: Path
    text: Text
    problems: list[Problem] = field(default_factory=list)
    setup: Setup | None = None
    report: Report | None = None
    trouble: str | None = None

    @property
    def document(self) -> Document | None:
        """The text as it was parsed."""
        return self.setup._document if self.setup is not None else None

    @cached_property
    def lines(self) -> dict[str, dict[str, int | None]]:
        """Line and column of every canonical path that the file sets."""
        return self.setup.lines() if self.setup is not None else {}


class Analyst:
    """Looks at texts; keeps what does not change between two keystrokes.

    Args:
        options_of: how to check a file.
        root: the folder that is open in the editor.
    """

    def __init__(self, options_of: OptionsOf, root: Path | None = None) -> None:
        self.options_of = options_of
        self.root = root
        self._rules: dict[tuple[Path, ...], list[Rule]] = {}
        self._environment: EnvironmentFacts | None = None
        self._configs: set[Path] = set()

    def look(self, path: Path, text: str) -> Analysis:
        """Check one version of a file. Never raises."""
        text = _readable(text)
        nothing = Analysis(path, Text(text))
        try:
            return self._look(path, text)
        except ConfigError as error:
            # A text that cannot be read may be anything; one that was a config a moment ago is one.
            return replace(nothing, problems=[_unread(error, nothing.text)]) if path in self._configs else nothing
        except DoctorError as error:
            return replace(nothing, trouble=error.message)
        except Exception as error:  # the editor goes on, whatever somebody opens in it
            return replace(nothing, trouble=f"{path.name}: {type(error).__name__}: {error}"[:400])

    def _look(self, path: Path, text: str) -> Analysis:
        nothing = Analysis(path, Text(text))
        if len(text) > MAX_BYTES or "\0" in text:
            return nothing
        setup = self._setup(path, text)
        if setup is None:
            self._configs.discard(path)
            return nothing
        report = self._report(path, setup)
        problems = [_problem(finding, nothing.text) for finding in report.findings if finding.suppressed is None]
        return Analysis(path, nothing.text, problems, setup, report)

    def _setup(self, path: Path, text: str) -> Setup | None:
        """What the text means; None where it is no training config."""
        from ..core.text import cleaned
        from ..reading.dialects import LEAST_SURE, recognise
        from ..reading.document import document_of
        from ..reading.kinds import why_left_out

        if not text.strip():
            return None
        document = document_of(path, text)
        try:
            dialect, sure = recognise(document)
        except ConfigError:
            return None
        if sure < LEAST_SURE or why_left_out(document, dialect, sure, self._below(path)) is not None:
            return None
        self._configs.add(path)
        setup = cleaned(dialect.read(document))
        return setup.model_copy(update={"dialect_confidence": sure, "file": setup.file})

    def _below(self, path: Path) -> Path:
        if self.root is not None and path.is_relative_to(self.root):
            return path.relative_to(self.root)
        return Path(path.name)

    def _report(self, path: Path, setup: Setup) -> Report:
        from ..run.checking import open_session, rules_of, work_of
        from ..run.observer import Observer

        options = replace(self.options_of(path), stages=("config",))
        if options.rules not in self._rules:
            self._rules[options.rules] = list(rules_of(options))
        session = open_session(setup, options, Observer(), rules=self._rules[options.rules])
        session.environment = self._environment  # what is installed does not change while somebody types
        work_of(session)
        self._environment = session.facts.environment
        session.hold_budgets()
        return session.report()


def _readable(text: str) -> str:
    """The text without halves of characters, which a broken client may send; every other place stays where it is."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def _problem(finding: Finding, text: Text) -> Problem:
    place = finding.location
    if place.line is None:
        start, end = 0, len(text.text.splitlines()[0]) if text.text.strip() else 0
    else:
        start = text.offset(place.line, place.column)
        end = text.offset(place.end_line or place.line, place.end_column or (place.column or 1) + 1)
    told = finding.message
    if finding.remediation is not None:
        told = f"{told}\n{finding.remediation.text}"
    return Problem(text.range(start, max(start, end)), finding.severity, finding.rule, told, finding.url, finding)


def _unread(error: ConfigError, text: Text) -> Problem:
    place = error.place
    start = text.offset(place.line, place.column) if place is not None else 0
    end = text.offset(place.end_line, place.end_column) if place is not None and place.end_line is not None else start
    told = f"{error.message} {error.remedy}" if error.remedy else error.message
    return Problem(text.range(start, max(start, end)), "error", "config", told)
