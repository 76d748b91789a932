"""Pages that were read before: their front matter and code, kept beside the results of checks.

Parsing 200 pages takes far longer than judging by them, and needs jinja2 and yaml, which a check else does without.
What is kept is plain JSON under a name that is the digest of the pages' places, sizes and times of change, so that an
edited page is never taken for the old one; nothing is lost where it cannot be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from .._version import __version__
from ..core.files import write_whole
from ..language.expression import Expression, Template
from ..language.fields import LanguageError
from .rule import Fix, Operation, Param, PossibleCause, Rule

FORMAT = 4
"""To be raised whenever code or fields mean something else."""
KEPT = 4
"""Cache files that are left in the folder; older ones go."""
Model = TypeVar("Model", bound=BaseModel)
_PARSED: dict[str, list[Rule]] = {}
"""What this process has parsed, by digest and paths: many checks in one process parse once."""


def rules_of(paths: Sequence[Path], folder: Path | None, load: Callable[[Path], Rule]) -> list[Rule]:
    """The rules of these pages, from the cache where they were read before.

    Args:
        folder: where they are kept; None reads the pages and keeps nothing.
        load: reads one page; what it raises is raised.
    """
    digest = _digest(paths)
    if digest is None:
        return [load(path) for path in paths]
    file = folder / f"rules-{digest}.json" if folder is not None else None
    if file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _kept(json.loads(file.read_bytes()), paths)
    rules = _PARSED.get(digest)
    if rules is None:
        if len(_PARSED) == KEPT:
            _PARSED.clear()
        rules = _PARSED[digest] = [load(path) for path in paths]
    if file is not None:
        with contextlib.suppress(OSError):
            _keep(file, rules)
    return list(rules)


def _digest(paths: Sequence[Path]) -> str | None:
    """None where a page cannot be looked at: reading it says why."""
    digest = hashlib.sha256(f"{FORMAT} {__version__} {sys.version_info[:2]}".encode())
    try:
        for path in paths:
            seen = path.stat()
            digest.update(f"\0{path}\0{seen.st_size} {seen.st_mtime_ns}".encode(errors="surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest()[:32]


def _kept(entries: list[dict[str, Any]], paths: Sequence[Path]) -> list[Rule]:
    rules = []
    for entry, path in zip(entries, paths, strict=True):
        rule = _as_it_was(entry["front"], path)
        # What the cached properties would compute.
        rule.__dict__["condition"] = condition = Expression(entry["code"])
        condition.__dict__ |= {"names": set(entry["names"]), "needed": set(entry["needed"])}
        rule.__dict__["exclusions"] = [Expression(code) if code else None for code in entry["exclusions"]]
        rule.__dict__["_templates"] = {source: Template(pieces) for source, pieces in entry["templates"].items()}
        rules.append(rule)
    return rules


def _as_it_was(front: dict[str, Any], path: Path) -> Rule:
    """A rule of front matter that was validated when its page was parsed.

    Nothing is validated again: building Rule's validator and calling it would be a tenth of what a config check takes.
    """
    fix = front["fix"]
    return _restored(
        Rule,
        front
        | {
            "path": path,
            "params": {name: _restored(Param, param) for name, param in front["params"].items()},
            "causes": [_restored(PossibleCause, cause) for cause in front["causes"]],
            "fix": fix and _restored(Fix, fix | {"patch": [_restored(Operation, one) for one in fix["patch"]]}),
        },
    )


def _restored(kind: type[Model], fields: dict[str, Any]) -> Model:
    """A model with all of its fields, as unpickling makes it."""
    model = kind.__new__(kind)
    unset = {"__pydantic_extra__": None, "__pydantic_private__": None}
    model.__setstate__({"__dict__": fields, "__pydantic_fields_set__": set(fields), **unset})
    return model


def _keep(file: Path, rules: Sequence[Rule]) -> None:
    entries = [
        {
            "front": rule.model_dump(mode="json", exclude={"path"}),
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
    """The pieces of the page's texts; one that cannot be parsed raises when it is needed."""
    found = {}
    for source in rule.templates():
        with contextlib.suppress(LanguageError):
            found[source] = rule.template(source).pieces
    return found
