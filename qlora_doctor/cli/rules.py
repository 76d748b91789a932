"""``qlora-doctor rules``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..core.errors import UsageError
from ._help import examples


@click.command(
    "rules",
    epilog=examples("rules --tag memory --stage memory", "rules --check examples/team-rules"),
)
@click.option("--format", "format", type=click.Choice(["table", "json", "md"]), default="table", show_default=True,
              help="Format of the output.")  # fmt: skip
@click.option("--rules", "folders", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="A folder with rule pages of your own, listed with the others.")  # fmt: skip
@click.option("--check", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Check the rule pages in a folder: form, names, and their examples.")  # fmt: skip
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only rules with this tag. May be repeated.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only rules of this stage. May be repeated.")
def command(
    format: str, folders: tuple[Path, ...], folder: Path | None, tags: tuple[str, ...], stages: tuple[str, ...]
) -> int:
    """List the rules, or check pages of your own."""
    if folder is not None:
        return _check(folder)
    from ..core.assets import asset_folder
    from ..engine import load_rules
    from ..run.cache import cache_folder, pages_folder
    from ._terminal import show

    every = load_rules(asset_folder("rules"), *folders, kept_in=pages_folder(cache_folder()))
    _must_be_known("tag", tags, {tag for rule in every for tag in rule.tags})
    _must_be_known("stage", stages, {rule.stage for rule in every})
    rules = [
        rule for rule in every if (not tags or set(tags) & set(rule.tags)) and (not stages or rule.stage in stages)
    ]
    if format == "json":
        listed = [
            {
                "id": rule.id,
                "name": rule.name,
                "title": rule.title,
                "severity": rule.severity,
                "confidence": rule.confidence,
                "stage": rule.stage,
                "profile": rule.profile,
                "since": rule.since,
                "tags": rule.tags,
                "failures": rule.failures,
            }
            for rule in rules
        ]
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    elif format == "md":
        click.echo("| id | name | severity | stage | what holds where it passes |\n|---|---|---|---|---|")
        for rule in rules:
            click.echo(f"| {rule.id} | {rule.name} | {rule.severity} | {rule.stage} | {rule.title} |")
    else:
        longest = max((len(rule.name) for rule in rules), default=0)
        for rule in rules:
            show(f"{rule.id}  {rule.severity:<7}  {rule.stage:<9}  {rule.name:<{longest}}  {rule.title}")
        show(f"\n{len(rules)} rules. `qlora-doctor explain ID` shows a rule's page.")
    return 0


def _must_be_known(what: str, named: tuple[str, ...], known: set[str]) -> None:
    """
    Raises:
        UsageError: no rule has it.
    """
    for name in named:
        if name not in known:
            raise UsageError(f"No rule has the {what} {name!r}.", remedy=f"There are {', '.join(sorted(known))}.")


def _check(folder: Path) -> int:
    from ..engine import lint_pages, load_rules

    problems = lint_pages(folder)
    for problem in problems:
        click.echo(str(problem))
    if problems:
        click.echo(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} found.", err=True)
        return 1
    count = len(load_rules(folder))
    click.echo(f"{count} page{'s' if count != 1 else ''} checked, nothing found.", err=True)
    return 0
