"""The house in numbers: rooms, lines, long functions and untyped facts of the package, on any revision.

house.py [REV]    a Markdown table of this checkout, or of a revision of it

What a test holds (circles, top-level modules, the one table of defaults) is not counted here again: see house.md.
"""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONG = 55
"""Lines of a function beyond which it is counted."""
HELPERS = ("facts", "known")
"""Names under which helpers hand each other facts; read as ``facts["…"]`` they are untyped."""


def sources(revision: str) -> dict[str, str]:
    """Path in the package → text, as git has it."""
    archive = subprocess.run(["git", "archive", revision, "qlora_doctor"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            if member.name.endswith(".py") and (file := tar.extractfile(member)) is not None:
                found[member.name.removeprefix("qlora_doctor/")] = file.read().decode()
    return found


def main() -> None:
    revision = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    files = sources(revision)
    rooms: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    long: list[tuple[int, str]] = []
    untyped = 0
    for path, text in files.items():
        room = path.partition("/")[0] if "/" in path else "(top level)"
        rooms[room] += len(text.splitlines())
        modules[room] += 1
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                long += [(lines, f"{path} {node.name}")] if lines > LONG else []
            elif (
                isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name)
            ):
                text_key = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
                untyped += text_key and node.value.id in HELPERS
    print("| room | modules | lines |\n|---|---|---|")
    for room in sorted(rooms):
        print(f"| `{room}` | {modules[room]} | {rooms[room]:,} |")
    print(f"| together | {sum(modules.values())} | {sum(rooms.values()):,} |")
    print(f"\nFunctions over {LONG} lines: {len(long)}")
    for lines, name in sorted(long, reverse=True):
        print(f"    {lines} {name}")
    print(f'Facts that are read by a text, `facts["…"]` and `known["…"]`: {untyped}')


if __name__ == "__main__":
    main()
