"""What follows from a misspelt key is told with it: one cause is one finding.

The key that was meant is silent, so its default is judged as if it had been chosen. A finding that would be gone with
the key set, since its fix sets that key or the trainer stops at its absence, is told in that of the misspelling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..core.report import Finding, RuleOutcome
from ..facts import Facts
from ..facts.config import UnknownKey
from .judge import ORDER
from .rule import Rule

_KEYS = "config.unknown_keys"


def joined(
    findings: Sequence[Finding], outcomes: Sequence[RuleOutcome], facts: Facts, rules: Mapping[str, Rule]
) -> tuple[list[Finding], list[RuleOutcome]]:
    """The findings with the consequences of misspelt keys in one, and the outcomes: a consequence is not judged.

    What is suppressed neither takes others in nor goes into one.
    """
    config = facts.config
    if config is None:
        return list(findings), list(outcomes)
    misspelt = [key for key in config.unknown_keys or [] if key.meant]
    counting = [each for each in findings if each.suppressed is None]
    head = next((each for each in counting if _KEYS in rules[each.rule].evidence), None)
    if head is None or not misspelt:
        return list(findings), list(outcomes)
    rows = [row.note or "" for row in config.refused or []]
    follows = {each.rule: each for each in counting if _follows(rules[each.rule], misspelt, rows)}
    if not follows:
        return list(findings), list(outcomes)
    told = " ".join([head.message, "What follows:", *(each.message for each in follows.values())])
    worst = min((head, *follows.values()), key=lambda each: ORDER[each.severity])
    evidence = [*head.evidence, *(fact for each in follows.values() for fact in each.evidence)]
    whole = head.model_copy(
        update={"message": told, "severity": worst.severity, "confidence": worst.confidence, "evidence": evidence}
    )
    left = [whole if each is head else each for each in findings if each.rule not in follows]
    reason = f"It follows from a misspelt key, and is reported with {head.rule}."
    return left, [
        each.model_copy(update={"status": "skipped", "reason": reason}) if each.rule in follows else each
        for each in outcomes
    ]


def _follows(rule: Rule, misspelt: Sequence[UnknownKey], rows: Sequence[str]) -> bool:
    """Whether a finding of this rule would be gone if the misspelt keys were read."""
    if _KEYS in rule.evidence:
        return False
    if "config.refused" in rule.evidence:
        names = [(key.closest or "").rpartition(".")[2] for key in misspelt]
        return bool(rows) and all(any(re.search(rf"\b{name}\b", row) for name in names) for row in rows)
    paths = {operation.path for operation in rule.fix.patch} if rule.fix is not None else set()
    return bool(paths) and paths <= {"/" + str(key.meant).replace(".", "/") for key in misspelt}
