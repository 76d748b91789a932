"""Patterns that may backtrack are tried before PEFT sees them; plain ones cost no process."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from qlora_doctor.pipeline import patterns
from qlora_doctor.pipeline.patterns import PatternWithoutEnd, check_patterns

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]


@pytest.mark.parametrize(
    "pattern", ["(.|.)*_pro[xX]", "(([a-z_.0-9])+)+$X", "(a|aa)*b", "((x?))*y", "(.*)*Z", "(.?){40}Z"]
)
def test_what_may_backtrack_is_tried(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_ends(*_: Any, **named: Any) -> None:
        raise subprocess.TimeoutExpired("python", named["timeout"])

    monkeypatch.setattr(patterns.subprocess, "run", never_ends)
    with pytest.raises(PatternWithoutEnd, match="target_modules"):
        check_patterns(SimpleNamespace(target_modules=pattern), NAMES)


@pytest.mark.parametrize("pattern", [".*q_proj", r".*\.(q_proj|v_proj)", "q_proj|v_proj", "(?:q|k)_proj"])
def test_what_cannot_is_not(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns.subprocess, "run", lambda *_, **__: pytest.fail("tried"))
    check_patterns(SimpleNamespace(target_modules=pattern), NAMES)


def test_a_pattern_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    with pytest.raises(PatternWithoutEnd):
        check_patterns(SimpleNamespace(target_modules="(.|.)*_pro[xX]"), NAMES)
