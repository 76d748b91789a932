"""Rule pages from folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..core.assets import asset_folder
from ..core.closest import closest
from ..core.errors import UsageError
from .cache import rules_of
from .rule import PageError, Rule

_PAGE = re.compile(r"[A-Z]{2,8}\d{3}-")


def load_rules(*folders: Path | str, kept_in: Path | None = None) -> list[Rule]:
    """The rules of these folders in the order of their ids; the bundled ones where no folder is given.

    Args:
        kept_in: a folder in which pages once read are kept for the next run; None writes nothing.

    Raises:
        PageError: a page cannot be read, or two have the same id or name.
    """
    paths = [path for folder in folders or (asset_folder("rules"),) for path in pages_of(Path(folder))]
    rules = rules_of(paths, kept_in, load_page)
    rules.sort(key=lambda rule: rule.id)
    for label in ("id", "name"):
        seen: dict[str, Rule] = {}
        for rule in rules:
            other = seen.setdefault(getattr(rule, label), rule)
            if other is not rule:
                raise PageError(f"{rule.path.name} and {other.path.name} have the same {label}.")
    return rules


def pages_of(folder: Path) -> list[Path]:
    """Pages in a folder: the files named like ``QD301-….md``, with any letters.

    Raises:
        PageError: there is no such folder.
    """
    if not folder.is_dir():
        raise PageError(f"There is no folder {folder} with rule pages.")
    return sorted(path for path in folder.glob("*.md") if _PAGE.match(path.name))


def load_page(path: Path) -> Rule:
    """One page.

    Raises:
        PageError: it cannot be read.
    """
    from .page import parse_page  # lazy: a page that was read before needs no yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PageError(f"{path} cannot be read: {error}.") from error
    return parse_page(text, path)


def find_rule(wanted: str, rules: Sequence[Rule] | None = None) -> Rule:
    """The rule with this id or name; without ``rules``, among the bundled pages, of which only one is then read.

    Raises:
        UsageError: there is none; the message names the closest.
    """
    known = [f"{rule.id}-{rule.name}" for rule in rules] if rules is not None else []
    if rules is None:
        paths = {path.stem: path for path in pages_of(asset_folder("rules"))}
        known = list(paths)
    for stem in known:
        identity, _, name = stem.partition("-")
        if wanted.casefold() in (identity.casefold(), name.casefold(), stem.casefold()):
            return load_page(paths[stem]) if rules is None else rules[known.index(stem)]
    raise UsageError(f"There is no rule {wanted!r}{_hint(wanted, known)}.", remedy="qlora-doctor rules")


def _hint(wanted: str, known: Sequence[str]) -> str:
    names = {part: stem for stem in known for part in (stem.partition("-")[0], stem.partition("-")[2])}
    close = closest(wanted, names, n=3, cutoff=0.5)
    return f"; the closest are {', '.join(dict.fromkeys(names[name] for name in close))}" if close else ""
