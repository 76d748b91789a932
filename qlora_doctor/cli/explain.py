"""``qlora-doctor explain QD301`` and ``explain --symptom "…"``"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.assets import asset_folder
from ..core.errors import UsageError
from ._help import examples

if TYPE_CHECKING:
    from ..engine import Rule

_REFUSAL = re.compile(r"[A-Za-z]{2}\d{3}")
_SHOWN = ("What it checks", "Why it matters", "How to fix", "When to ignore")


@click.command(
    "explain",
    epilog=examples(
        "explain QD301",
        'explain --symptom "loss does not go down"',
        "explain QD301 --format md",
        "explain AX001",
    ),
)
@click.argument("rule", metavar="ID|NAME", required=False)
@click.option("--symptom", metavar="TEXT", help="Find the rules that may explain what you see.")
@click.option("--format", "format", type=click.Choice(["text", "md", "json"]), default="text", show_default=True,
              help="Format of the output.")  # fmt: skip
@click.option("--rules", "folders", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="A folder with rule pages of your own, beside the settings'.")  # fmt: skip
@click.option("--no-color", is_flag=True, help="No colours.")
def command(rule: str | None, symptom: str | None, format: str, folders: tuple[Path, ...], no_color: bool) -> None:
    """Show a rule's page, or find the rules that may explain a symptom."""
    if (rule is None) == (symptom is None):
        raise UsageError("explain takes a rule or --symptom.", remedy="qlora-doctor explain QD301")
    if symptom is not None:
        _search(symptom, format)
        return
    assert rule is not None
    if _REFUSAL.fullmatch(rule) and rule.upper() in _refusal_ids():
        _show_refusal(rule, format, no_color)
        return
    found = _find(rule, folders)
    if format == "json":
        click.echo(json.dumps(as_document(found), indent=2, ensure_ascii=False))
    elif format == "md":
        click.echo(_markdown(found))
    else:
        _show(_markdown(found), no_color)


def _find(rule: str, folders: tuple[Path, ...]) -> Rule:
    """A bundled rule, else one of the user's own; settings are read only where no bundled one has the name."""
    from ..engine import find_rule, load_rules
    from ..run.cache import cache_folder, pages_folder

    try:
        return find_rule(rule)
    except UsageError:
        from ..run.settings import find_settings

        own = {folder.resolve() for folder in (*folders, *find_settings(None).rule_folders)}
        if not own:
            raise
        return find_rule(rule, load_rules(asset_folder("rules"), *own, kept_in=pages_folder(cache_folder())))


def _refusal_ids() -> list[str]:
    from ..tables.refusals import refusal_ids

    return refusal_ids()


def _show_refusal(identity: str, format: str, no_color: bool) -> None:
    """A row of a trainer's catalogue: what the trainer says, when, and files that it stops at."""
    from ..tables.refusals import find_refusal

    trainer, row, fails = find_refusal(identity)
    shown = {"id": row.id, "trainer": trainer, "kind": row.kind, "about": row.about, "key": row.key, "when": row.when,
             "machine": row.machine, "note": row.note, "fails": fails}  # fmt: skip
    if format == "json":
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    lines = [
        f"# {row.id} {row.kind}",
        "",
        f"**A check of {trainer}'s own** · about {row.about} · points at `{row.key}`",
    ]
    lines += ["", "## What it says", "", row.note, "", "## When", "", f"```\n{row.when}\n```"]
    if row.machine:
        lines += ["", f"And on this machine: `{row.machine}`."]
    lines += [
        "",
        "## Examples",
        "",
        "Keys that make a healthy file one that it stops at (null takes the key away).",
        "",
    ]
    lines += ["```json", *(example if isinstance(example, str) else json.dumps(example) for example in fails), "```"]
    text = "\n".join(lines)
    if format == "md":
        click.echo(text)
    else:
        _show(text, no_color)


def as_document(rule: Rule) -> dict[str, Any]:
    """A rule as data, for ``rules --format json`` and ``explain --format json``."""
    from ..engine.causes import likely_causes

    front = rule.model_dump(mode="json", exclude={"path", "examples", "sections", "when", "message", "locate"})
    table = {"likely_causes": [cause.model_dump(mode="json") for cause in likely_causes(rule)]}
    sections = {k: rule.sections.get(k) for k in _SHOWN}
    return {**front, "stage": rule.stage, "when": rule.when, **table, "sections": sections}


def _markdown(rule: Rule) -> str:
    lines = [
        f"# {rule.id} {rule.name}",
        "",
        f"**{rule.title}** · {rule.severity} · {rule.confidence} confidence · stage {rule.stage} · "
        f"profile {rule.profile} · since {rule.since}",
    ]
    lines += ["", "## What people see", "", *(f"- {symptom}" for symptom in rule.symptoms)]
    lines += ["", "## Likely causes", "", *_causes(rule)]
    for heading in _SHOWN:
        if rule.sections.get(heading, "").strip():
            lines += ["", f"## {heading}", "", rule.sections[heading].strip()]
    for name, param in rule.params.items():
        lines += ["", f"`params.{name}`: {param.default} ({param.unit}). {param.why} {param.source}"]
    if rule.references:
        lines += ["", "## References", "", *(f"- {reference}" for reference in rule.references)]
    return "\n".join(lines)


def _causes(rule: Rule) -> list[str]:
    """A line a cause, the likeliest first, with what to look at."""
    from ..engine.causes import likely_causes

    return [f"{number}. {cause.text}" + (f" Look at first: {cause.look}." if cause.look else "")
            for number, cause in enumerate(likely_causes(rule), 1)]  # fmt: skip


def _show(markdown: str, no_color: bool) -> None:
    """The page for a person: rendered on a terminal, as Markdown where it goes elsewhere."""
    from ._terminal import show, wants_color, width

    if not wants_color(sys.stdout, no_color):
        show(markdown)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=width(), force_terminal=True).print(Markdown(markdown, hyperlinks=False))


def _search(symptom: str, format: str) -> None:
    from ..engine import search_symptoms
    from ..engine.causes import likely_causes
    from ._terminal import show

    matches = search_symptoms(symptom)
    if format == "json":
        keys = {"id", "name", "severity", "title"}
        found = [{**m.rule.model_dump(include=keys), "symptom": m.symptom,
                  "likely_causes": [cause.model_dump(mode="json") for cause in likely_causes(m.rule)]}
                 for m in matches]  # fmt: skip
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not matches:
        show("No rule's page speaks of that. `qlora-doctor rules` lists them all.")
        return
    for match in matches:
        show(f"{match.rule.id} {match.rule.name} ({match.rule.severity}): {match.rule.title}")
        show(f"      as others put it: {match.symptom}")
        for line in _causes(match.rule):
            show(f"      {line}")
    show(f"\nqlora-doctor explain {matches[0].rule.id} says more.")
