"""Watching on CUDA: the same bits, the same peak, nothing that failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.gpu


def test_watching_changes_neither_a_bit_nor_the_peak(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "watching.py"), "--pairs", "1", "--steps", "8"]
    subprocess.run([*script, "--out", str(out)], check=True, timeout=600, cwd=ROOT)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["device"] != "cpu" and found["same_bits"] and found["troubles"] == []
    assert found["peak_allocated_ratio"] <= 1.01 and found["peak_reserved_ratio"] <= 1.01
