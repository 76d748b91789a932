"""A rule is a page: strict front matter, a body with fixed headings, and examples that are its tests."""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.errors import UsageError
from ..core.report import ALL_STAGES, Confidence, RuleOutcome, Severity
from ..facts import subject_types
from ..language.expression import Expression, Template
from ..language.fields import LanguageError, field_type

HEADINGS = ("What it checks", "Why it matters", "How to fix", "When to ignore", "Examples")
Profile = Literal["min", "recommended", "strict"]
Line = Annotated[str, Field(min_length=1)]
Repair = Literal["unknown-keys", "removed-keys", "deprecated-keys", "repeated-keys", "text-numbers", "renamed-values"]

_SUBJECT_STAGES = {name: name for name in ALL_STAGES} | {
    "environment": "config",
    "model": "structure",
    "adapter": "structure",
    "script": "structure",
    "quantization": "structure",
    "batch": "step",
}
_LATE_FACTS = ("memory.measured", "memory.difference_ratio")
"""Facts that stand with an early subject and that only a real step supplies."""
_FENCE = re.compile(r"^```json (fail|pass)\n(.*?)^```\n(?:\s*^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


class PageError(UsageError):
    """A rule page that cannot be read (exit code 2)."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, defer_build=True)


class Param(_Strict):
    """A threshold: used as ``params.NAME``."""

    default: float | int | str | list[str]
    unit: Line
    why: Line
    source: Line


class Operation(_Strict):
    """One RFC 6902 operation in native names; texts in ``value`` are templates."""

    op: Literal["add", "remove", "replace"]
    path: Annotated[str, Field(pattern=r"^(/[^/]+)+$")]
    value: Any = None


class Fix(_Strict):
    """What to do about a finding; ``text`` and ``commands`` are templates."""

    text: Line
    safety: Literal["safe", "unsafe", "display"] = "display"
    patch: list[Operation] = []
    repair: Repair | None = None
    """What to do with the keys themselves, as they stand in the file, where the finding is about those."""
    commands: list[Line] = []


class PossibleCause(_Strict):
    """Why a finding may be; ``unless`` is true where the facts exclude it. A cause that may be unknown stays."""

    text: Line
    unless: Line | None = None
    look: Line | None = None
    """What to look at first: a command, an option, another rule."""


class Example(_Strict):
    """A merge patch (RFC 7386) over the healthy facts, and what the rule says of the result."""

    kind: Literal["fail", "pass"]
    patch: dict[str, Any]
    message: str | None = None


class Rule(_Strict):
    """A page: its front matter as fields, its body read when somebody asks; evaluating it is ``judge``'s business."""

    id: Annotated[str, Field(pattern=r"^[A-Z]{2,8}\d{3}$")]
    """``QD`` and three digits; a pack of the user's own has letters of its own."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: Line
    severity: Severity
    confidence: Confidence
    profile: Profile
    since: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    tags: list[Line]
    failures: list[Line] = []
    symptoms: Annotated[list[Line], Field(min_length=1)]
    when: Line
    message: Line
    locate: Annotated[str, Field(pattern=r"^(/.+)?$")] = ""
    evidence: list[Line] = []
    params: dict[str, Param] = {}
    healthy: dict[str, Any] = {}
    """A merge patch over the healthy facts, for a rule that is stricter than they are; examples are patches on top."""
    causes: list[PossibleCause] = []
    """The likeliest first."""
    fix: Fix | None = None
    references: list[Annotated[str, Field(pattern=r"^https://\S+$")]] = []
    path: Path

    def __repr__(self) -> str:
        return f"Rule({self.id} {self.name})"

    @cached_property
    def sections(self) -> dict[str, str]:
        """Body by heading, in the page's order."""
        body = split_page(self.path.read_text(encoding="utf-8"), self.path)[1]
        parts = re.split(r"^## (.+)\n", body, flags=re.MULTILINE)
        return {heading.strip(): text.strip() + "\n" for heading, text in zip(parts[1::2], parts[2::2], strict=True)}

    @cached_property
    def examples(self) -> list[Example]:
        """The examples, in the page's order.

        Raises:
            PageError: one of them is no JSON object.
        """
        try:
            found = _FENCE.findall(self.sections.get("Examples", ""))
            return [Example(kind=k, patch=json.loads(patch), message=text.strip() or None) for k, patch, text in found]
        except ValueError as error:
            raise PageError(
                f"{self.path.name}: an example is no JSON object: {' '.join(str(error).split())}"
            ) from error

    @cached_property
    def scope(self) -> dict[str, Any]:
        """Names that its expressions may use, with their types."""
        return {**subject_types(), "params": {name: type(param.default) for name, param in self.params.items()}}

    @cached_property
    def condition(self) -> Expression:
        """``when``: true where there is a finding."""
        return Expression.parse(self.when, self.scope)

    @cached_property
    def exclusions(self) -> list[Expression | None]:
        """``unless`` of each cause."""
        return [Expression.parse(c.unless, self.scope) if c.unless is not None else None for c in self.causes]

    @cached_property
    def stage(self) -> str:
        """The latest stage among the facts that ``when`` needs (of all it names, where it needs none)."""
        names = {name for name in self.condition.needed if not name.startswith("params")} or self.condition.names
        stages = [stage_of(name) for name in names if not name.startswith("params")]
        return max(stages, key=ALL_STAGES.index, default=ALL_STAGES[0])

    @cached_property
    def subjects(self) -> frozenset[str]:
        """The subjects of the facts that ``when`` names."""
        return frozenset(name.partition(".")[0] for name in self.condition.names) - {"params"}

    @cached_property
    def unseen(self) -> dict[Any, Any]:
        """Status and reason where no fact of its subjects is known, by how the stages ended; kept by ``judge``."""
        return {}

    @cached_property
    def outcomes(self) -> dict[Any, RuleOutcome]:
        """Its outcomes so far, by status and reason; kept by ``judge``."""
        return {}

    @property
    def url(self) -> str | None:
        """The first reference."""
        return self.references[0] if self.references else None

    def template(self, source: str) -> Template:
        """One of the page's texts with values in it; parsed once, since a check judges after every stage."""
        known = self._templates.get(source)
        if known is None:
            known = self._templates[source] = Template.parse(source, self.scope)
        return known

    @cached_property
    def _templates(self) -> dict[str, Template]:
        return {}

    def templates(self) -> list[str]:
        """Every text of the page that may hold values."""
        fixes = [self.fix.text, *self.fix.commands] if self.fix else []
        values = [text for operation in (self.fix.patch if self.fix else []) for text in texts_in(operation.value)]
        causes = [text for cause in self.causes for text in (cause.text, cause.look) if text]
        return [self.message, self.locate, *fixes, *values, *causes]

    def check(self) -> None:
        """Look at every name and construct of the page.

        Raises:
            PageError: one of them is not allowed or does not exist.
        """
        try:
            _ = self.condition
            _ = self.exclusions
            for text in self.templates():
                self.template(text)
            for name in self.evidence:
                field_type(self.scope, name)
        except LanguageError as error:
            raise PageError(f"{self.path.name}: {error}") from error


def stage_of(fact: str) -> str:
    """The stage that supplies a fact, by its dotted name."""
    if fact.startswith(_LATE_FACTS):
        return "step"
    return _SUBJECT_STAGES.get(fact.partition(".")[0], ALL_STAGES[0])


def texts_in(value: Any) -> list[str]:
    """Every text inside a value of a patch."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in texts_in(child)]


def split_page(text: str, path: Path) -> tuple[str, str]:
    """Front matter and body of a page.

    Raises:
        PageError: there is no front matter.
    """
    match = re.match(r"---\n(.*?\n)---\n(.*)", text, re.DOTALL)
    if match is None:
        raise PageError(f"{path.name}: a page begins with front matter between two lines of '---'.")
    return match[1], match[2]
