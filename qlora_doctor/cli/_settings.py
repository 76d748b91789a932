"""What the settings of a repository and the options of a command add up to; an option wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..run.settings import Found, Ignored, find_settings, read_settings

if TYPE_CHECKING:
    from ..engine import Selection
    from ..engine.budgets import Budget
    from ..engine.suppression import Suppression
    from ..run.session import CheckOptions


def found_settings(source: Path | None, given: Mapping[str, Any]) -> Found:
    """The settings that hold for one config.

    Raises:
        ConfigError: they cannot be read or are invalid.
    """
    return read_settings(given["settings"]) if given.get("settings") else find_settings(source)


def with_settings(options: CheckOptions, found: Found, given: Mapping[str, Any]) -> CheckOptions:
    """The options of a command, and where they are silent those of the settings.

    Raises:
        UsageError: a budget is of no fact.
    """
    return replace(
        options,
        selection=selection(found, given),
        fail_on=given["fail_on"] or found.settings.fail_on or "unknown",
        rules=_once(*options.rules, *found.rule_folders),
        suppressions=(*options.suppressions, *map(_suppression_from(found), found.settings.ignored_findings)),
        budgets=_budgets(found),
        docs=options.docs or found.settings.docs,
    )


def selection(found: Found, given: Mapping[str, Any]) -> Selection:
    """Which rules judge: ``--select`` and ``--profile`` replace the settings', ``--ignore`` and ``--severity`` add."""
    from ..engine import Selection

    settings = found.settings
    return Selection(
        select=given["select"] or tuple(settings.select),
        ignore=(*settings.ignored_rules, *given["ignore"]),
        severity={**settings.severity, **given["severity"]},
        profile=given["profile"] or settings.profile or "recommended",
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


def explain_selection(source: Path | None, given: Mapping[str, Any]) -> None:
    """Print which rules judge, and by whose word."""
    from ..core.assets import asset_folder
    from ..engine import check_selection, load_rules
    from ..run.cache import cache_folder, pages_folder
    from ..tables.refusals import refusal_ids

    found = found_settings(source, given)
    chosen = selection(found, given)
    kept_in = None if given["no_cache"] else pages_folder(given["cache_dir"] or cache_folder())
    rules = load_rules(asset_folder("rules"), *_once(*given["rules"], *found.rule_folders), kept_in=kept_in)
    check_selection(chosen, rules, refusal_ids)
    click.echo(f"settings: {found.file or 'none'} · profile {chosen.profile}")
    for rule in rules:
        taken, why = chosen.explain(rule)
        severity = chosen.severity_of(rule)
        changed = f" (page: {rule.severity})" if severity != rule.severity else ""
        click.echo(f"{rule.id}  {'on ' if taken else 'off'}  {severity:<7}{changed}  {rule.name}: {why}")
