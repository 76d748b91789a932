"""What docs/ci/ offers to copy: fenced blocks that begin with the name of the file they are for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "ci").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class _Loader(yaml.SafeLoader):
    """YAML as the services read it: ``on`` is a name."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first not in "oOyYnN"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Recipe:
    """One block; ``target`` is what its first line says."""

    page: str
    language: str
    target: str
    text: str

    def data(self) -> Any:
        """The YAML as values."""
        return read_yaml(self.text)


def read_yaml(text: str) -> Any:
    """YAML as GitHub and GitLab read it."""
    return yaml.load(text, _Loader)


def recipes() -> Iterator[Recipe]:
    """Every block of docs/ci/ in its order."""
    for page in PAGES:
        for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            first = text.partition("\n")[0]
            yield Recipe(page.name, language, first.removeprefix("# ") if first.startswith("# ") else "", text)


def recipe(page: str, target: str) -> Recipe:
    """The block of a page for this file."""
    (found,) = [each for each in recipes() if (each.page, each.target) == (page, target)]
    return found
