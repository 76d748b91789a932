"""Asks a trainer's own Python what becomes of rows, within bounds of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core import confining
from ...core.processes import kill_group
from .finding import TrainerPython

SECONDS = 180.0
"""Time for the imports of the trainer, which take most of it, and the rows."""
MEMORY = 8 << 30
"""Bytes."""
_ENVIRONMENT = {
    **confining.ENVIRONMENT, "AXOLOTL_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    # Whether its libraries are of versions that it likes is no question of its rows.
    "DISABLE_VERSION_CHECK": "1",
}  # fmt: skip
_LEFT_OUT = (*confining.LEFT_OUT, "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")


@dataclass(frozen=True)
class Asked:
    """What the trainer made of the rows.

    Attributes:
        by: whose code it was, in words.
        sets: of each data set, of each of its rows: what was made of it, as ``child`` describes it; a set that it stops
            at ends with that row.
        tokens: what became of the tokenizer.
        failure: that nothing was made, and why, in words; None where something was.
    """

    by: str
    sets: Sequence[Sequence[Sequence[Mapping[str, Any]]]] = ()
    tokens: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None


def ask(
    found: TrainerPython,
    name: str,
    model: str,
    settings: Mapping[str, Any],
    sets: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> Asked:
    """What the trainer's own code makes of rows; never raises for what it does.

    Args:
        name: the trainer's, as people write it.
        model: folder or hub id that its tokenizer is loaded from.
        settings: of the config's top.
        sets: settings and rows of each data set.
    """
    by = f"{name} {found.version or ''}".strip()
    if not found.asked:
        return Asked(
            by, failure=f"{by} of {Path(found.python).parents[1].name} forms them where --trainer-python names it"
        )
    try:
        with_rows = [{"settings": dict(said), "rows": list(rows)} for said, rows in sets]
        request = json.dumps({
            "trainer": found.trainer, "model": model, "settings": dict(settings), "memory": MEMORY,
            "confining": confining.__file__, "sets": with_rows,
        })  # fmt: skip
    except (TypeError, ValueError):  # pictures and sounds: bytes
        return Asked(by, failure=f"{by} did not form them: rows with bytes are not handed over")
    with tempfile.TemporaryDirectory(prefix="qlora-doctor-", ignore_cleanup_errors=True) as folder_name:
        folder = Path(folder_name)
        (folder / "request.json").write_text(request, encoding="utf-8")
        why = _run(found.python, folder)
        try:
            reply = json.loads((folder / "reply.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            sys.stderr.write((folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:])
            return Asked(by, failure=f"{by} did not form them: {why or 'it ended without an answer'}")
    by = f"{name} {reply.get('version') or ''}".strip()
    if "failure" in reply:
        return Asked(by, failure=f"{by} did not form them: {reply['failure']}")
    return Asked(by, reply["sets"], reply["tokens"])


def _run(python: str, folder: Path) -> str | None:
    """Run the child to its end; why it did not come to one."""
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    try:
        with (folder / "output.txt").open("wb") as output:
            child = subprocess.Popen(
                [python, str(Path(__file__).with_name("child.py")), str(folder)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**kept, **_ENVIRONMENT, "TMPDIR": str(folder)},
                start_new_session=True,
            )
            try:
                child.wait(SECONDS)
            except subprocess.TimeoutExpired:
                return f"it took more than {SECONDS:.0f} seconds"
            finally:
                kill_group(child)
                child.wait()
    except OSError as error:
        return f"{python} cannot be started: {error.strerror}"
    return None
