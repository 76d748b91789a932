"""One document: what was understood, seen and judged. Every output is a function of it."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_serializer

from ..facts import Fact, Facts
from .place import Place

SCHEMA_VERSION = "1.0"
STAGES = ("config", "structure", "memory", "data", "load", "step")
"""What ``check`` looks at, in order of cost."""
RUN_STAGES = ("config", "structure", "load", "step", "run")
"""What ``run`` looks at while a training goes on; its course comes to it where the trainer logs."""
AFTERWARDS = ("course", "stored")
"""What is looked at when a run has left something: its logs, its adapter."""
ALL_STAGES = (*STAGES, "run", *AFTERWARDS)
SECTIONS = ("model", "quantization", "lora", "training", "data", "hardware", "budgets")
"""The sections of a setup, in the order in which they are shown."""
NOT_ASKED_FOR = "Not asked for."
"""Why a stage was skipped that ``--stage`` left out."""
Severity = Literal["error", "warning", "info"]
Confidence = Literal["high", "medium", "low"]
FailOn = Literal["error", "unknown", "warning", "info", "never"]
"""The least of findings that makes the exit code 1; from ``unknown`` on, a run that is not all known makes it 3."""
RANK: dict[FailOn, int] = {"info": 0, "warning": 1, "unknown": 2, "error": 2, "never": 3}
"""A finding counts where its severity's rank is at least that of ``fail_on``."""


class PatchOperation(Fact):
    """One RFC 6902 operation on the user's file."""

    op: Literal["add", "remove", "replace"]
    path: str
    value: Any = None
    after: str | None = None
    """Pointer of the key behind which a new one fits; RFC 6902 has no such member and tells readers to ignore it."""


class Remediation(Fact):
    """What to do about a finding."""

    text: str
    commands: list[str] = Field(default_factory=list)
    patch: list[PatchOperation] = Field(default_factory=list)
    """In the keys of the user's own file; empty where these cannot say it."""
    safety: Literal["safe", "unsafe", "display"] = "display"
    diff: str | None = None
    """The patch as a unified diff of the user's own file, where it applies."""


class Evidence(Fact):
    """A fact that a finding rests on."""

    fact: str
    value: Any = None


class Cause(Fact):
    """Why a finding may be: one that the facts of this run do not exclude."""

    text: str
    look: str | None = None
    """What to look at first."""


class Finding(Fact):
    """One thing that is wrong, or worth knowing."""

    rule: str
    name: str
    severity: Severity
    confidence: Confidence = "high"
    stage: str
    message: str
    evidence: list[Evidence] = Field(default_factory=list)
    location: Place = Field(default_factory=Place)
    causes: list[Cause] = Field(default_factory=list)
    """The likeliest first; of those on the rule's page, the ones that no fact excludes."""
    remediation: Remediation | None = None
    fingerprint: str
    url: str | None = None
    """The rule's page on the docs site; None where no site is set, and for rules of the user's own."""
    suppressed: str | None = None
    """Why this finding does not count, where it was suppressed."""

    def __str__(self) -> str:
        """``config.yaml:12:3: error QD301 target_modules match nothing``"""
        place = (self.location.file, self.location.line, self.location.column)
        where = ":".join(str(part) for part in place if part is not None)
        return f"{where + ': ' if where else ''}{self.severity} {self.rule} {self.message}"

    __repr__ = __str__


class RuleOutcome(Fact):
    """How a rule came out."""

    rule: str
    name: str
    title: str | None = None
    """What is true where it passes; a report names it where the page is not at hand."""
    status: Literal["pass", "fail", "skipped"]
    stage: str
    reason: str | None = None
    """Why it was skipped: the facts that are unknown, and what would supply them."""


class StageRecord(Fact):
    """How a stage ended."""

    name: str
    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    """Why it failed or was skipped."""
    remedy: str | None = None
    """What would supply it: a command or an option."""
    seconds: float | None = None
    """What it took; where ``cached``, what it took then."""
    cached: bool = False
    """True where nothing ran: the same had been looked at before, and nothing that this stage looks at has changed."""
    requested: bool = False
    """True where the stage was asked for by name; not completing it is then exit code 3."""


class Read(Fact):
    """How much of what decides the run was known."""

    known: int
    of: int
    unknown: list[str] = Field(default_factory=list)
    """Canonical paths, for example ``lora.r``."""
    stops_at: str | None = None
    """Where reading stopped and why: the first of the unknown, in words."""


class Summary(Fact):
    """Counts of the findings that count, and of the rules that could not be evaluated."""

    read: Read | None = None
    """None where no config was read: objects in memory, or a file that cannot be read."""

    error: int = 0
    warning: int = 0
    info: int = 0
    skipped: int = 0


class Tool(Fact):
    """Who wrote the report."""

    name: str = "qlora-doctor"
    version: str
    created: str
    """UTC, ISO 8601."""
    command: str | None = None


class _Lines:
    """Looks up where the setup's values stand; no part of what a report is, and lost with its process."""

    def __init__(self, look: Callable[[], dict[str, dict[str, int | None]]] | None) -> None:
        self.look = look

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Lines, (None,)


class Report(Fact):
    """The whole result of checking one setup. ``model_dump_json()`` is the JSON report."""

    schema_version: str = SCHEMA_VERSION
    tool: Tool
    setup: dict[str, Any] | None = None
    """The setup as understood, with its ``dialect``; None where the config could not be read."""
    stages: list[StageRecord] = Field(default_factory=list)
    facts: Facts = Field(default_factory=Facts)
    findings: list[Finding] = Field(default_factory=list)
    unused_suppressions: list[str] = Field(default_factory=list)
    """Suppressions that suppress nothing, one sentence each."""
    rules: list[RuleOutcome] = Field(default_factory=list)
    summary: Summary = Field(default_factory=Summary)
    fail_on: FailOn = "unknown"
    """Least of findings that makes the exit code 1; from ``unknown`` on, a run that is not all known makes it 3."""
    exit_code: int = 0
    _lines: _Lines = PrivateAttr(default_factory=lambda: _Lines(None))

    def with_lines(self, lines: Callable[[], dict[str, dict[str, int | None]]]) -> "Report":
        """The report, whose ``setup.origins`` get line and column when it is written out; it costs milliseconds."""
        self._lines = _Lines(lines)
        return self

    @field_serializer("setup")
    def _setup_with_lines(self, setup: dict[str, Any] | None) -> dict[str, Any] | None:
        if setup is None or self._lines.look is None:
            return setup
        lines = self._lines.look()
        origins = {
            path: {**origin, "place": {**origin["place"], **lines[path]}} if path in lines else origin
            for path, origin in setup.get("origins", {}).items()
        }
        return {**setup, "origins": origins}

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        from ..reporters import notebook  # lazy: templates are needed only when somebody looks

        return notebook.render(self)


def stages_of(report: Report) -> tuple[str, ...]:
    """The stages that a report is about: those of ``check``, and what a run has left, as far as it was looked at."""
    recorded = {record.name for record in report.stages}
    if "run" in recorded:
        return (*RUN_STAGES, *(name for name in ("data", *AFTERWARDS) if name in recorded))
    before = STAGES if recorded.intersection(STAGES) or not recorded else ()
    return (*before, *(name for name in AFTERWARDS if name in recorded))
