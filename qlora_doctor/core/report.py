"""One document: what was understood, seen and judged. Every output is a function of it."""

from typing import Any, Literal

from pydantic import Field

from ..facts import Fact, Facts
from .place import Place

SCHEMA_VERSION = "1.0"
STAGES = ("config", "structure", "memory", "data", "load", "step")
Severity = Literal["error", "warning", "info"]
Confidence = Literal["high", "medium", "low"]
FailOn = Literal["error", "warning", "info", "never"]


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
    remediation: Remediation | None = None
    fingerprint: str
    suppressed: str | None = None
    """Why this finding does not count, where it was suppressed."""


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


class Summary(Fact):
    """Counts of the findings that count, and of the rules that could not be evaluated."""

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
    fail_on: FailOn = "error"
    """Least severity of a finding that makes the exit code 1."""
    exit_code: int = 0

    def _repr_html_(self) -> str:
        """Show the report in a notebook."""
        from ..reporters import notebook  # lazy: templates are needed only when somebody looks

        return notebook.render(self)
