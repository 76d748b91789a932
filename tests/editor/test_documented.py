"""What docs/editors.md offers to copy is read by its consumer's own rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .test_analysis import BROKEN

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def matcher() -> dict[str, Any]:
    tasks = next(json.loads(block) for block in blocks("json") if "problemMatcher" in block)
    found: dict[str, Any] = tasks["tasks"][0]["problemMatcher"]
    return found


def test_the_problem_matcher_takes_every_line_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BROKEN, encoding="utf-8")
    command = [sys.executable, "-m", "qlora_doctor", "check", "--stage", "config", "--format", "github", "--quiet"]
    done = subprocess.run([*command, "config.yaml"], cwd=tmp_path, capture_output=True, text=True)
    pattern = matcher()["pattern"]
    lines = [line for line in done.stdout.splitlines() if "line=" in line]
    found = [re.match(pattern["regexp"], line) for line in lines]
    assert lines and all(found), done.stdout + done.stderr
    misspelt = next(match for match in found if match is not None and "learning_rates" in match[pattern["message"]])
    assert (misspelt[pattern["file"]], misspelt[pattern["line"]], misspelt[pattern["column"]]) == (
        "config.yaml",
        "8",
        "3",
    )
    assert re.fullmatch(r"QD\d{3}", misspelt[pattern["code"]])


@pytest.mark.parametrize("block", blocks("json"))
def test_settings_are_json(block: str) -> None:
    json.loads(block)


def test_the_toml_is_toml() -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    (text,) = blocks("toml")
    assert tomllib.loads(text)["language-server"]["qlora-doctor"]["args"] == ["lsp"]
