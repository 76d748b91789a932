"""Imports go one way, and nothing heavy is imported before a stage needs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "qlora_doctor"
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "datasets", "safetensors", "numpy"}
MAY_KNOW = {
    "facts": {"facts"},
    "engine": {"engine", "facts", "report", "errors", "_assets"},
    "reporters": {"reporters", "facts", "report", "comparing", "errors", "_assets", "engine"},
    "pipeline": {"pipeline", "config", "facts", "errors"},
    "memory": {"memory", "pipeline", "config", "facts", "errors"},
    "probes": {"probes", "pipeline", "memory", "config", "facts", "errors", "report", "caching"},
}
"""Rooms and the rooms of ours that they may import; reporters read the rule pages through the engine."""
HEAVY_ROOMS = {"pipeline", "probes", "memory"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Absolute names that a module imports, and whether at its top level (not under TYPE_CHECKING or in a function)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    package = ("qlora_doctor", *path.relative_to(PACKAGE).with_suffix("").parts)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: -node.level] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            if node.level and node.module is None:
                found += [(f"{name}.{alias.name}", id(node) in top) for alias in node.names]
            else:
                found.append((name, id(node) in top))
    return found


@pytest.mark.parametrize("room", MAY_KNOW)
def test_imports_go_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] == room
        for name, _ in imports(path)
        if name.startswith("qlora_doctor.") and name.split(".")[1] not in MAY_KNOW[room] | {"__version__"}
    ]
    assert not wrong


def test_heavy_packages_stay_in_their_rooms() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        for name, at_top in imports(path)
        if name.split(".")[0] in HEAVY and (path.relative_to(PACKAGE).parts[0] not in HEAVY_ROOMS) and at_top
    ]
    assert not wrong
