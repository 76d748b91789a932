"""Facts and rules in, findings and outcomes out; pure, and cheap enough to call after every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from ..core.place import Place
from ..core.report import Cause, Evidence, Finding, PatchOperation, Remediation, RuleOutcome, StageRecord
from ..facts import Facts
from ..language.expression import EvaluationError, Unknown, Values
from ..language.values import lookup
from .fingerprint import fingerprint
from .rule import Rule, stage_of
from .selection import Selection

Ended = tuple[tuple[str, str, "str | None", "str | None"], ...]
"""Name, status, reason and remedy of the stages that have ended."""
EVIDENCE_ITEMS = 20
"""A longer list is cut in a finding's evidence; the facts hold it whole."""
Locate = Callable[[str], Place]
InFile = Callable[[Remediation, "str | None"], Remediation]
"""A remedy in native pointers, and the kind of repair of the keys → the remedy in the keys of the user's own file."""


@dataclass(frozen=True)
class Judgement:
    """How the selected rules came out: one outcome each, and a finding for each that fails, worst first."""

    findings: list[Finding]
    outcomes: list[RuleOutcome]


def judge(
    facts: Facts,
    rules: Sequence[Rule],
    *,
    selection: Selection | None = None,
    stages: Sequence[StageRecord] = (),
    locate: Locate | None = None,
    in_file: InFile | None = None,
) -> Judgement:
    """Evaluate each selected rule once.

    Args:
        facts: what is known so far.
        rules: pages, loaded once.
        selection: which of them judge, and at which severity; None takes the recommended ones.
        stages: how the stages ended, which explains the rules that are skipped.
        locate: a native pointer to its place in the user's file.
        in_file: brings a remedy into the user's own file.
    """
    selection = selection or Selection()
    findings: list[Finding] = []
    outcomes: list[RuleOutcome] = []
    subjects = _told_of(facts, lambda refusal: not selection.leaves_out(refusal))
    chosen = _told_of(facts, selection.names) if selection.select else None
    ended = tuple((record.name, record.status, record.reason, record.remedy) for record in stages)
    for rule in rules:
        if selection.takes(rule):
            values = values_for(subjects, rule)
        elif chosen is not None and _tells_a_row(rule, chosen):
            values = values_for(chosen, rule)
        else:
            continue
        outcome = _outcome(rule, values, ended)
        outcomes.append(outcome)
        if outcome.status == "fail":
            findings.append(_finding(rule, values, selection, locate or _nowhere, in_file, _seen_in(rule, ended)))
    return Judgement(in_order(findings), outcomes)


ORDER = {"error": 0, "warning": 1, "info": 2}
"""The worst first."""


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, then by the rules' ids."""
    return sorted(findings, key=lambda finding: (ORDER[finding.severity], finding.rule))


def _told_of(facts: Facts, keeps: Callable[[str | None], bool]) -> dict[str, Any]:
    """The subjects of the facts, with those rows of the trainer's refusals that are kept."""
    subjects = {name: getattr(facts, name) for name in Facts.model_fields}
    config = facts.config
    if config is not None and config.refused:
        kept = [row for row in config.refused if keeps(row.id)]
        if len(kept) < len(config.refused):
            subjects["config"] = config.model_copy(update={"refused": kept})
    return subjects


def _tells_a_row(rule: Rule, chosen: Values) -> bool:
    """True where a rule finds something in these rows of a trainer's refusals, and nothing without them."""
    if "config.refused" not in rule.evidence or not chosen["config"] or not chosen["config"].refused:
        return False
    without = {**chosen, "config": chosen["config"].model_copy(update={"refused": []})}
    try:
        found, else_found = (rule.condition.holds(values_for(each, rule)) for each in (chosen, without))
    except EvaluationError:
        return False
    return found is True and else_found is not True


def values_for(subjects: Values, rule: Rule) -> Values:
    """The values behind the names that a rule may use."""
    return {**subjects, "params": {name: param.default for name, param in rule.params.items()}}


def _outcome(rule: Rule, values: Values, ended: Ended) -> RuleOutcome:
    """How a rule came out; of many configs most come out alike, so that what was said once is said again."""
    status, reason = _status(rule, values, ended)
    known = rule.outcomes.get((status, reason))
    if known is None:
        known = RuleOutcome(
            rule=rule.id, name=rule.name, title=rule.title, status=status, stage=rule.stage, reason=reason
        )
        rule.outcomes[status, reason] = known
    return known


def _status(rule: Rule, values: Values, ended: Ended) -> tuple[Literal["pass", "fail", "skipped"], str | None]:
    """How it came out, and why it was skipped."""
    if all(values.get(name) is None for name in rule.subjects):
        known = rule.unseen.get(ended)
        if known is None:
            known = rule.unseen[ended] = _evaluated(rule, values, ended)
        return known
    return _evaluated(rule, values, ended)


def _evaluated(rule: Rule, values: Values, ended: Ended) -> tuple[Literal["pass", "fail", "skipped"], str | None]:
    try:
        verdict = rule.condition.holds(values)
    except EvaluationError as error:
        return "skipped", f"It cannot be evaluated: {error}."
    if isinstance(verdict, Unknown):
        return "skipped", _why_unknown(verdict.names, ended)
    if not verdict and ended and not _supplied(rule, ended):
        # A default may have answered for a fact that nobody looked at: what did not run is never green.
        return "skipped", " ".join(_why_missing(rule.stage, ended))
    return ("fail" if verdict else "pass"), None


@lru_cache(maxsize=1024)
def _why_unknown(unknown: frozenset[str], ended: Ended) -> str:
    """The unknown facts, and for each stage that should have supplied them how it ended and what would help."""
    names = sorted(unknown)
    sentences = [f"Unknown: {', '.join(names)}."]
    for stage in dict.fromkeys(stage_of(name) for name in names):
        sentences += _why_missing(stage, ended)
    return " ".join(sentences)


def _why_missing(stage: str, ended: Ended) -> list[str]:
    """How a stage that did not end well ended, and what would supply it; nothing where it is done."""
    found = next((each for each in ended if each[0] == stage), None)
    if found is None:
        return [f"The stage {stage} has not run."]
    _, status, reason, remedy = found
    if status == "done":
        return []
    verb = "failed" if status == "failed" else "was skipped"
    sentence = f"The stage {stage} {verb}{': ' + reason if reason else '.'}"
    return [sentence, f"To supply it: {remedy}"] if remedy else [sentence]


def _supplied(rule: Rule, ended: Ended) -> bool:
    """Whether a stage that has what the rule asks has run: batches are made in stage ``data`` as in ``step``."""
    return _ran(rule.stage, ended) or ("batch" in rule.subjects and _ran("data", ended))


def _ran(stage: str, ended: Ended) -> bool:
    return any(name == stage and status == "done" for name, status, _, _ in ended)


def _seen_in(rule: Rule, ended: Ended) -> str:
    """The stage that a finding belongs to: batches are stage data's where no step was trained on them."""
    by_data = "batch" in rule.subjects and _ran("data", ended) and not _ran(rule.stage, ended)
    return "data" if by_data else rule.stage


def _finding(
    rule: Rule, values: Values, selection: Selection, locate: Locate, in_file: InFile | None, stage: str
) -> Finding:
    location = locate(rule.template(rule.locate).render(values))
    return Finding(
        rule=rule.id,
        name=rule.name,
        severity=selection.severity_of(rule),
        confidence=rule.confidence,
        stage=stage,
        message=rule.template(rule.message).sentence(values),
        evidence=_evidence(rule, values),
        location=location,
        causes=_causes(rule, values),
        remediation=_remediation(rule, values, in_file),
        fingerprint=fingerprint(rule.id, location.file, location.pointer),
    )


def _causes(rule: Rule, values: Values) -> list[Cause]:
    """The causes that no known fact excludes."""
    left = []
    for cause, unless in zip(rule.causes, rule.exclusions, strict=True):
        if unless is not None and unless.holds(values) is True:
            continue
        look = rule.template(cause.look).sentence(values) if cause.look else None
        left.append(Cause(text=rule.template(cause.text).sentence(values), look=look))
    return left


def _evidence(rule: Rule, values: Values) -> list[Evidence]:
    found = [(name, lookup(values, name)) for name in rule.evidence]
    return [Evidence(fact=name, value=_plain(value)) for name, value in found if not isinstance(value, Unknown)]


def _plain(value: Any) -> Any:
    """A fact as JSON has it, long lists cut."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, list):
        more = [f"… and {len(value) - EVIDENCE_ITEMS} more"] if len(value) > EVIDENCE_ITEMS else []
        return [_plain(item) for item in value[:EVIDENCE_ITEMS]] + more
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _remediation(rule: Rule, values: Values, in_file: InFile | None) -> Remediation | None:
    if rule.fix is None:
        return None
    remediation = Remediation(
        text=rule.template(rule.fix.text).sentence(values),
        commands=[told for command in rule.fix.commands if (told := rule.template(command).render(values).strip())],
        patch=_patch(rule, values),
        safety=rule.fix.safety,
    )
    if in_file is None or not (remediation.patch or rule.fix.repair):
        return remediation
    return in_file(remediation, rule.fix.repair)


def _patch(rule: Rule, values: Values) -> list[PatchOperation]:
    """The fix as operations with values in them; none where a value it needs is unknown."""
    assert rule.fix is not None
    operations = []
    for operation in rule.fix.patch:
        value = _filled(rule, operation.value, values)
        if isinstance(value, Unknown):
            return []
        operations.append(PatchOperation(op=operation.op, path=operation.path, value=value))
    return operations


def _filled(rule: Rule, value: Any, values: Values) -> Any:
    """A patch's value with its templates rendered natively: a list stays a list, a number a number, an unknown one."""
    if isinstance(value, str):
        return rule.template(value).native(values)
    if isinstance(value, list):
        items = [_filled(rule, item, values) for item in value]
        return next((item for item in items if isinstance(item, Unknown)), items)
    if isinstance(value, dict):
        pairs = {key: _filled(rule, item, values) for key, item in value.items()}
        return next((item for item in pairs.values() if isinstance(item, Unknown)), pairs)
    return value


def _nowhere(pointer: str) -> Place:
    return Place(pointer=pointer or None)
