"""What the settings of a repository and the options of a command add up to; an option wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..run.settings import Found, Ignored, find_settings, read_settings

if TYPE_CHECKING:
    from ..core.report import FailOn, Severity
    from ..engine import Selection
    from ..engine.budgets import Budget
    from ..engine.rule import Profile
    from ..engine.suppression import Suppression
    from ..run.session import CheckOptions


class Judging(NamedTuple):
    """Which rules judge, how severely, and by which settings, as the command line says.

    Attributes:
        select: rules, or beginnings of their ids; empty leaves it to the profile.
        severity: of a rule, in place of its page's.
        profile, fail_on: None leaves them to the settings.
        settings: a file in place of the nearest one.
        rules: folders with pages of the user's own.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, Severity] = MappingProxyType({})
    profile: Profile | None = None
    fail_on: FailOn | None = None
    settings: Path | None = None
    rules: tuple[Path, ...] = ()


def found_settings(source: Path | None, judging: Judging) -> Found:
    """The settings that hold for one config.

    Raises:
        ConfigError: they cannot be read or are invalid.
    """
    return read_settings(judging.settings) if judging.settings else find_settings(source)


def with_settings(options: CheckOptions, judging: Judging, source: Path | None) -> CheckOptions:
    """The options of a command, and where they are silent those of the settings that hold for a config.

    Raises:
        ConfigError: the settings cannot be read or are invalid.
        UsageError: a budget is of no fact.
    """
    found = found_settings(source, judging)
    return replace(
        options,
        selection=selection(found, judging),
        fail_on=judging.fail_on or found.settings.fail_on or "unknown",
        rules=_once(*judging.rules, *found.rule_folders),
        suppressions=(*options.suppressions, *map(_suppression_from(found), found.settings.ignored_findings)),
        budgets=_budgets(found),
        docs=options.docs or found.settings.docs,
    )


def selection(found: Found, judging: Judging) -> Selection:
    """Which rules judge: ``--select`` and ``--profile`` replace the settings', ``--ignore`` and ``--severity`` add."""
    from ..engine import Selection

    settings = found.settings
    return Selection(
        select=judging.select or tuple(settings.select),
        ignore=(*settings.ignored_rules, *judging.ignore),
        severity={**settings.severity, **judging.severity},
        profile=judging.profile or settings.profile or "recommended",
    )


def _once(*folders: Path) -> tuple[Path, ...]:
    """Each folder once, however often and by whatever path it is named."""
    return tuple({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


def _budgets(found: Found) -> tuple[Budget, ...]:
    if not found.settings.budgets:
        return ()
    from ..engine.budgets import Budget, check_budget

    budgets = tuple(
        Budget(fact, limit.max, limit.min, "error" if limit.level == "error" else "warning")
        for fact, limit in found.settings.budgets.items()
    )
    for budget in budgets:
        check_budget(budget)
    return budgets


def _suppression_from(found: Found) -> Any:
    from ..engine.suppression import Suppression

    origin = found.file.name if found.file else "settings"

    def suppression(ignored: Ignored) -> Suppression:
        return Suppression(
            rule=ignored.rule,
            reason=ignored.reason,
            origin=origin,
            file=ignored.path,
            pointer=ignored.pointer,
            until=ignored.until,
        )

    return suppression


def explain_selection(source: Path | None, judging: Judging, kept_in: Path | None) -> None:
    """Print which rules judge, and what selects them.

    Args:
        kept_in: the folder in which rule pages are kept compiled; None keeps none.
    """
    from ..core.assets import asset_folder
    from ..engine import check_selection, load_rules
    from ..run.cache import pages_folder
    from ..tables.refusals import refusal_ids

    found = found_settings(source, judging)
    chosen = selection(found, judging)
    pages = _once(*judging.rules, *found.rule_folders)
    rules = load_rules(asset_folder("rules"), *pages, kept_in=pages_folder(kept_in))
    check_selection(chosen, rules, refusal_ids)
    click.echo(f"settings: {found.file or 'none'} · profile {chosen.profile}")
    for rule in rules:
        taken, why = chosen.explain(rule)
        severity = chosen.severity_of(rule)
        changed = f" (page: {rule.severity})" if severity != rule.severity else ""
        click.echo(f"{rule.id}  {'on ' if taken else 'off'}  {severity:<7}{changed}  {rule.name}: {why}")
