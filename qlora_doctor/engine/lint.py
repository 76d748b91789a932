"""Pages held against what a page must be: metadata, headings, and examples that really pass and fail."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..core.assets import asset_folder
from ..core.report import SECTIONS, Severity
from ..facts import Facts
from .judge import Judgement, judge
from .load import load_page, pages_of
from .rule import HEADINGS, Example, PageError, Rule
from .selection import Selection

HEALTHY = "healthy.json"
LONGEST_EXPRESSION = 300
_EVERY_RULE = Selection(profile="strict")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a page, one sentence."""

    page: str
    message: str

    def __str__(self) -> str:
        return f"{self.page}: {self.message}"


def lint_pages(folder: Path, *, catalogue: Collection[str] | None = None) -> list[Problem]:
    """Everything that is wrong with the pages of a folder; empty where nothing is.

    Args:
        folder: pages, and perhaps a ``healthy.json`` of their own; without one the bundled facts are taken.
        catalogue: known ids for ``failures``; None does not check them.

    Raises:
        PageError: there is no such folder, or its healthy facts cannot be read.
    """
    healthy = healthy_facts(folder)
    rules: list[Rule] = []
    problems: list[Problem] = []
    for path in pages_of(folder):
        try:
            rules.append(load_page(path))
        except PageError as error:
            problems.append(Problem(path.name, error.message))
    problems += [
        Problem(path.name, "A page is called ID-name.md, as in TEAM001-my-rule.md.") for path in _misnamed(folder)
    ]
    if not rules and not problems:
        problems.append(Problem(str(folder), "There is no page in it."))
    problems += [Problem(label, "Two pages have it.") for label in _repeated(rules)]
    for rule in rules:
        problems += lint_rule(rule, healthy, rules, catalogue)
    return problems


def _misnamed(folder: Path) -> list[Path]:
    """Files with a head of metadata that nobody would read, since they are not called like pages."""
    others = set(folder.glob("*.md")) - set(pages_of(folder))
    return sorted(path for path in others if path.read_bytes().startswith((b"---\n", b"---\r\n")))


def healthy_facts(folder: Path) -> dict[str, Any]:
    """The facts that examples are patches over.

    Raises:
        PageError: they cannot be read or are no facts.
    """
    path = folder / HEALTHY if (folder / HEALTHY).is_file() else asset_folder("rules") / HEALTHY
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Facts.model_validate(document)
    except (OSError, ValueError) as error:
        raise PageError(f"{path} holds no facts: {' '.join(str(error).split())}") from error
    return document


def lint_rule(
    rule: Rule, healthy: dict[str, Any], rules: Sequence[Rule], catalogue: Collection[str] | None = None
) -> list[Problem]:
    """Everything that is wrong with one page.

    Args:
        rules: all pages; none of them may fire beside this one, at its level, on one of its failing examples.
    """
    try:
        rule.check()
        healthy = merge_patch(healthy, rule.healthy)
        found = [*_metadata(rule, catalogue), *_body(rule), *_health(rule, healthy)]
        for number, example in enumerate(rule.examples, start=1):
            found += [f"Example {number}: {text}" for text in _example(rule, example, healthy, rules)]
    except PageError as error:
        found = [error.message]
    return [Problem(rule.path.name, text) for text in found]


def merge_patch(target: Any, patch: Any) -> Any:
    """A JSON document after a merge patch (RFC 7386): objects merge, null removes, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _repeated(rules: Sequence[Rule]) -> list[str]:
    labels = [label for rule in rules for label in (rule.id, rule.name)]
    return sorted({label for label in labels if labels.count(label) > 1})


def _metadata(rule: Rule, catalogue: Collection[str] | None) -> list[str]:
    found = []
    if rule.path.name != f"{rule.id}-{rule.name}.md":
        found.append(f"The file must be called {rule.id}-{rule.name}.md.")
    if len(" ".join(rule.when.split())) > LONGEST_EXPRESSION:
        found.append(f"'when' is longer than {LONGEST_EXPRESSION} characters; add a fact instead.")
    unknown = [failure for failure in rule.failures if catalogue is not None and failure not in catalogue]
    found += [f"The catalogue has no failure {failure!r}." for failure in unknown]
    unused = [name for name in rule.params if not _mentions(rule, name)]
    found += [f"The param {name!r} is not used." for name in unused]
    texts = [
        name for name, param in rule.params.items() if isinstance(param.default, str) and _is_number(param.default)
    ]
    found += [f"The param {name!r} is a number that YAML reads as a text; write it with a dot." for name in texts]
    for operation in rule.fix.patch if rule.fix else []:
        if operation.path.split("/")[1] not in SECTIONS:
            found.append(f"The fix patches {operation.path}, which is in no section of the native config.")
    if rule.fix and rule.fix.safety != "display" and not rule.fix.patch and not rule.fix.repair:
        found.append(f"A fix that is {rule.fix.safety} needs a patch or a repair.")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mentions(rule: Rule, param: str) -> bool:
    return any(f"params.{param}" in text for text in (rule.when, *rule.templates()))


def _body(rule: Rule) -> list[str]:
    found = []
    if tuple(rule.sections) != HEADINGS:
        found.append(f"The headings must be {', '.join(HEADINGS)}, in this order.")
    found += [f"'{heading}' is empty." for heading, text in rule.sections.items() if not text.strip()]
    kinds = [example.kind for example in rule.examples]
    found += [f"There is no '{kind}' example." for kind in ("fail", "pass") if kind not in kinds]
    if len(kinds) != len(re.findall(r"^\s*```json", rule.sections.get("Examples", ""), re.MULTILINE)):
        found.append("An example's fence must be '```json fail' or '```json pass'.")
    return found


def _health(rule: Rule, healthy: dict[str, Any]) -> list[str]:
    try:
        outcome = _judged(healthy, [rule]).outcomes[0]
    except ValidationError as error:
        return [f"The healthy patch makes no facts document: {' '.join(str(error).split())}"]
    if outcome.status == "pass":
        return []
    told = f"On the healthy facts it comes out as {outcome.status}, not pass. {outcome.reason or ''}".strip()
    return [f"{told} A rule that is stricter than they are has a `healthy` patch on its page."]


def _judged(facts: dict[str, Any], rules: Sequence[Rule]) -> Judgement:
    return judge(Facts.model_validate(facts), rules, selection=_EVERY_RULE)


def _example(rule: Rule, example: Example, healthy: dict[str, Any], rules: Sequence[Rule]) -> list[str]:
    try:
        judgement = _judged(merge_patch(healthy, example.patch), [rule, *(r for r in rules if r.id != rule.id)])
    except ValidationError as error:
        return [f"It is no facts document: {' '.join(str(error).split())}"]
    outcome = judgement.outcomes[0]
    if outcome.status != example.kind:
        return [f"It comes out as {outcome.status}, not {example.kind}. {outcome.reason or ''}".strip()]
    if example.kind == "pass":
        return ["A passing example has no message."] if example.message is not None else []
    return [*_message(rule, example, judgement), *_company(rule, rule.severity, judgement)]


def _message(rule: Rule, example: Example, judgement: Judgement) -> list[str]:
    finding = next(finding for finding in judgement.findings if finding.rule == rule.id)
    texts = [finding.message, finding.remediation.text if finding.remediation else ""]
    found = []
    if example.message != finding.message:
        found.append(f"The message is {finding.message!r}, the page says {example.message!r}.")
    if not finding.message.endswith((".", "!", "?")):
        found.append("The message must end as a sentence does.")
    if any(re.search(r"\{[{%]|[%}]\}", text) for text in texts):
        found.append("A placeholder is left in the message or the fix.")
    if "unknown" in finding.message and "unknown" not in rule.message:
        found.append(f"The message needs a fact that the example leaves unknown: {finding.message!r}.")
    if rule.evidence and not finding.evidence:
        found.append("None of the evidence is known.")
    pointer = finding.location.pointer
    if pointer and not pointer.startswith("/"):
        found.append(f"'locate' gives {pointer!r}, which is no JSON pointer.")
    return found


def _company(rule: Rule, severity: Severity, judgement: Judgement) -> list[str]:
    """One fault is one finding at its level: who else speaks at this level tells the same thing twice."""
    others = [f.rule for f in judgement.findings if f.rule != rule.id and f.severity == severity]
    return [f"{', '.join(others)} fires as well, at the same level."] if others else []
