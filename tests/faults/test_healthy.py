"""No false alarm: healthy setups of many architectures end without an error, a warning or a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.planting import check_here, found, healthy_config, told, write
from tests.models import HEALTHY, make_data

STAGES = ("config", "structure", "load", "step")


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_setups_are_silent(
    name: str, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = healthy_config(model_folder(name))
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=STAGES)
    assert not found(report, "warning"), told(report)
    assert report.exit_code == 0, told(report)


@pytest.mark.parametrize("trainer", ["transformers", "trl"])
@pytest.mark.parametrize("kind", ["messages", "prompt-completion", "text"])
def test_healthy_data_is_silent(
    trainer: str, kind: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path / "train.jsonl", kind)
    config = healthy_config(
        tiny_llama, data={"train": "train.jsonl", "format": kind}, training={"trainer": trainer, "max_length": 128}
    )
    report = check_here(write(tmp_path / "config.json", config), monkeypatch)
    assert not found(report, "warning"), told(report)
