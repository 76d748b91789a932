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
    assert found["device"] != "cpu" and found["troubles"] == []
    assert found["same_bits"] or not found["plain_repeats_itself"]
    # A tiny model reserves 40 MiB in all: what fingerprints take for a moment is counted in bytes there.
    assert found["peak_allocated_ratio"] <= 1.01 and found["peak_reserved_more_bytes"] <= 96 * 2**20
