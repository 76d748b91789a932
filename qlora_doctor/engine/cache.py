"""Pages that were read before: their front matter and code, kept beside the results of checks.

Parsing 200 pages takes far longer than judging by them, and needs jinja2 and yaml, which a check else does without.
What is kept is plain JSON under a name that is the digest of the pages' content, so that an edited page is never taken
for the old one; nothing is lost where it cannot be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..core.files import write_whole
from ..language.expression import Expression, Template
from ..language.fields import LanguageError
from .rule import Rule

FORMAT = 3
"""To be raised whenever code or fields mean something else."""
KEPT = 4
"""Cache files that are left in the folder; older ones go."""
_PARSED: dict[tuple[str, tuple[Path, ...]], list[Rule]] = {}
"""What this process has parsed, by the pages' content and paths: many checks in one process parse once."""


def rules_of(pages: Sequence[tuple[Path, str]], folder: Path | None) -> list[Rule]:
    """The rules of these pages (path and text), from the cache where they were read before.

    Args:
        folder: where they are kept; None reads the pages and keeps nothing.

    Raises:
        PageError: a page cannot be read.
    """
    digest, paths = _digest(pages), tuple(path for path, _ in pages)
    file = folder / f"rules-{digest}.json" if folder is not None else None
    if file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _kept(json.loads(file.read_bytes()), paths)
    rules = _PARSED.get((digest, paths))
    if rules is None:
        from .page import parse_page

        if len(_PARSED) == KEPT:
            _PARSED.clear()
        rules = _PARSED[digest, paths] = [parse_page(text, path) for path, text in pages]
    if file is not None:
        with contextlib.suppress(OSError):
            _keep(file, rules)
    return list(rules)


def _digest(pages: Sequence[tuple[Path, str]]) -> str:
    digest = hashlib.sha256(f"{FORMAT} {__version__} {sys.version_info[:2]}".encode())
    for path, text in pages:
        digest.update(f"\0{path.name}\0{text}".encode())
    return digest.hexdigest()[:32]


def _kept(entries: list[dict[str, Any]], paths: Sequence[Path]) -> list[Rule]:
    rules = []
    for entry, path in zip(entries, paths, strict=True):
        rule = Rule.model_validate({**entry["front"], "path": path})
        # What the cached properties would compute.
        rule.__dict__["condition"] = condition = Expression(entry["code"])
        condition.__dict__ |= {"names": set(entry["names"]), "needed": set(entry["needed"])}
        rule.__dict__["exclusions"] = [Expression(code) if code else None for code in entry["exclusions"]]
        rule.__dict__["_templates"] = {source: Template(pieces) for source, pieces in entry["templates"].items()}
        rules.append(rule)
    return rules


def _keep(file: Path, rules: Sequence[Rule]) -> None:
    entries = [
        {
            "front": rule.model_dump(mode="json", exclude={"path"}, exclude_unset=True),
            "code": rule.condition.code,
            "names": sorted(rule.condition.names),
            "needed": sorted(rule.condition.needed),
            "exclusions": [unless.code if unless else None for unless in rule.exclusions],
            "templates": _templates(rule),
        }
        for rule in rules
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(entries, separators=(",", ":")).encode())
    for old in sorted(file.parent.glob("rules-*.json"), key=lambda path: -path.stat().st_mtime)[KEPT:]:
        old.unlink(missing_ok=True)


def _templates(rule: Rule) -> dict[str, list[Any]]:
    """The pieces of the page's texts; one that cannot be parsed is told when it is needed."""
    found = {}
    for source in rule.templates():
        with contextlib.suppress(LanguageError):
            found[source] = rule.template(source).pieces
    return found
