"""Every value that a dialect gives to a small file, written or by default, pinned: a changed default fails here.

After a change that is meant, ``python -m tests.reading.dialects.test_defaults`` writes ``defaults.json`` again:
read its diff.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.reading import read_setup
from qlora_doctor.setup.resolved import Resolved
from tests.reading.dialects.silent import SILENT
from tests.small_configs import SMALL

PINNED = Path(__file__).with_name("defaults.json")
FILES = {**{f"small/{name}": it for name, it in SMALL.items()}, **{f"silent/{name}": it for name, it in SILENT.items()}}


def values_of(name: str, text: str, folder: Path) -> dict[str, Any]:
    """Canonical path → [source, value], and what the dialect remarks."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    setup = read_setup(path)
    resolved = Resolved(setup)
    found: dict[str, Any] = {"dialect": setup.dialect}
    for each in resolved:
        value = resolved.written(each)
        if each.endswith(".extra") and not value:
            continue
        if value is not None or each in setup.origins:
            shown = value if value is None or isinstance(value, bool | int | float | str | list | dict) else str(value)
            found[each] = [resolved.origin(each).source, shown]
    remarks = sorted(remark.kind for remark in setup.remarks)
    return found | ({"remarks": remarks} if remarks else {})


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_the_pinned_one(name: str, tmp_path: Path) -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    assert values_of(*FILES[name], tmp_path) == pinned[name]


def test_every_silent_file_is_of_its_own_dialect() -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    for name in SILENT:
        assert name.startswith(pinned[f"silent/{name}"]["dialect"]), name


def write() -> None:
    """Write what is read today."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: values_of(*it, Path(folder)) for name, it in FILES.items()}
    lines = [f'"{n}": {{\n' + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in f.items()) + "\n}"
             for n, f in found.items()]  # fmt: skip
    PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
