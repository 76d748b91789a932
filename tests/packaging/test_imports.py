"""Imports go one way, and nothing heavy is imported before a stage needs it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "qlora_doctor"
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "datasets", "safetensors", "numpy"}
HEAVY |= {"wrapt"}
ROOMS = (
    "facts",
    "core",
    "language",
    "tables",
    "setup",
    "reading",
    "writing",
    "engine",
    "reporters",
    "pipeline",
    "probes",
    "memory",
    "watching",
    "worker",
    "run",
    "editor",
    "cli",
)
"""The rooms of the house from the ground up: each may import those before it, less what is named in MAY_NOT."""
MAY_NOT = {
    "language": {"facts"},
    "engine": {"tables", "setup", "reading", "writing"},
    "reporters": {"tables", "setup", "reading", "writing"},
    "pipeline": {"reading", "writing", "engine", "reporters"},
    "probes": {"writing", "engine", "reporters"},
    "memory": {"reading", "writing", "engine", "reporters"},
    "watching": {"reading", "writing", "engine", "reporters", "memory"},
    "worker": {"reading", "writing", "engine", "reporters"},
}
LAZY = {"core/report.py": {"reporters"}}
"""The one arrow upward: a Report shows itself in a notebook, and imports the reporter when somebody looks."""
TOP_LEVEL = {"__init__", "__main__", "_version"}
HEAVY_ROOMS = {"pipeline", "probes", "memory", "watching"}


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


def room_of(name: str) -> str:
    return name.split(".")[1]


def test_every_room_is_known() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))} == set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP_LEVEL


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_only(room: str) -> None:
    may = set(ROOMS[: ROOMS.index(room) + 1]) - MAY_NOT.get(room, set()) | {"_version"}
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        if path.relative_to(PACKAGE).parts[0] == room
        for name, _ in imports(path)
        if name.startswith("qlora_doctor.")
        and room_of(name) not in may | LAZY.get(path.relative_to(PACKAGE).as_posix(), set())
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


def test_no_circle_of_modules() -> None:
    """Not even through imports inside functions; only what types alone need may point back."""
    graph = {name: imported_modules(path, name) for name, path in by_name().items()}
    lazy = {("qlora_doctor.core.report", "qlora_doctor.reporters.notebook")}
    circles = circles_of({name: {to for to in graph[name] if (name, to) not in lazy} for name in graph})
    assert circles == []


def test_a_circle_would_be_seen() -> None:
    assert circles_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


@cache
def by_name() -> dict[str, Path]:
    """The modules by their full names."""
    names = {}
    for path in modules():
        parts = ("qlora_doctor", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported_modules(path: Path, name: str) -> set[str]:
    """Modules of ours that one imports when it runs; a package where a name of the package itself is taken."""
    known = by_name()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    left_out = {id(each) for block in for_types for each in ast.walk(block)}
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in left_out:
            above = package[: len(package) - node.level + 1] + ([node.module] if node.module else [])
            base = ".".join(above)
            found |= {full if (full := f"{base}.{alias.name}") in known else base for alias in node.names}
    return found - {name}


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, each sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph.get(start, ()))
        while todo:
            if (one := todo.pop()) not in seen:
                seen.add(one)
                todo += graph.get(one, ())
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {tuple(sorted(to for to in reach[name] if name in reach.get(to, ()))) for name in graph}
    return sorted(list(group) for group in groups if group)
