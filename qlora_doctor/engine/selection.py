"""Which rules judge, and at which severity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..core.closest import closest
from ..core.errors import UsageError
from ..core.report import Severity
from .rule import Profile, Rule

PROFILES: tuple[Profile, ...] = ("min", "recommended", "strict")
"""Each contains the ones before it."""


@dataclass(frozen=True)
class Selection:
    """A choice among the rules; a pattern is an id (``QD301``), the beginning of ids (``QD3``), a name, or ``ALL``.

    The id of a row in a trainer's catalogue (``AX001``, ``tables.refusals``) is a pattern too: of what the trainer
    refuses it takes, or leaves out, that row alone.

    Attributes:
        select: patterns of the rules that judge, whatever their profile; empty takes the profile's.
        ignore: patterns of the rules that do not, which win over ``select``.
        severity: another severity by pattern; the most exact pattern wins.
        profile: ``min``, ``recommended`` or ``strict``.
    """

    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    severity: Mapping[str, Severity] = field(default_factory=dict)
    profile: Profile = "recommended"

    def takes(self, rule: Rule) -> bool:
        """True where this rule judges."""
        if any(matches(pattern, rule) for pattern in self.ignore):
            return False
        if self.select:
            return any(matches(pattern, rule) for pattern in self.select)
        return PROFILES.index(rule.profile) <= PROFILES.index(self.profile)

    def leaves_out(self, refusal: str | None) -> bool:
        """True where this row of a trainer's catalogue is not to be reported."""
        return refusal is not None and any(_begins(pattern, refusal) for pattern in self.ignore)

    def names(self, refusal: str | None) -> bool:
        """True where this row of a trainer's catalogue is selected by its own id."""
        return refusal is not None and any(_begins(pattern, refusal) for pattern in self.select)

    def explain(self, rule: Rule) -> tuple[bool, str]:
        """Whether this rule judges, and by which word."""
        for pattern in self.ignore:
            if matches(pattern, rule):
                return False, f"ignored by {pattern}"
        for pattern in self.select:
            if matches(pattern, rule):
                return True, f"selected by {pattern}"
        if self.select:
            return False, "not among the selected"
        return self.takes(rule), f"in profile {rule.profile}"

    def severity_of(self, rule: Rule) -> Severity:
        """The rule's severity after the overrides."""
        fitting = [pattern for pattern in self.severity if matches(pattern, rule)]
        return self.severity[max(fitting, key=len)] if fitting else rule.severity


def matches(pattern: str, rule: Rule) -> bool:
    """True where a pattern names this rule."""
    wanted = pattern.strip().casefold()
    if wanted == "all" or wanted == rule.name:
        return True
    return _begins(pattern, rule.id)


def _begins(pattern: str, identity: str) -> bool:
    """True where a pattern is this id or the beginning of it, letters and all."""
    wanted, full = pattern.strip().casefold(), identity.casefold()
    return wanted.startswith(full.rstrip("0123456789")) and full.startswith(wanted)


def check_selection(
    selection: Selection, rules: Sequence[Rule], refusals: Callable[[], Sequence[str]] = lambda: ()
) -> None:
    """Look for patterns that name no rule.

    Args:
        selection: the patterns.
        rules: what there is.
        refusals: gives the ids in the trainers' catalogues; asked where no rule has a name.

    Raises:
        UsageError: there is one; the message names the closest.
    """
    for pattern in (*selection.select, *selection.ignore, *selection.severity):
        if not any(matches(pattern, rule) for rule in rules) and not any(_begins(pattern, one) for one in refusals()):
            names = [name for rule in rules for name in (rule.id, rule.name)]
            close = closest(pattern, names, n=3, cutoff=0.5)
            hint = f"; the closest are {', '.join(close)}" if close else ""
            raise UsageError(f"No rule is called {pattern!r}{hint}.", remedy="qlora-doctor rules")
