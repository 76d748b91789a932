"""What the demo promises to show is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qlora_doctor.cli import example
from qlora_doctor.cli.demo import _Show
from qlora_doctor.reading import read_setup


def test_the_script_that_learns_nothing_is_found_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = example.make(tmp_path)
    assert _Show(made, "cpu", True, True, False).silent_failure()
    shown = capfd.readouterr().out
    losses = {line.split()[-1] for line in shown.splitlines() if line.startswith("step ")}
    assert len(losses) == 1 and "\ndone\n" in shown, "it is silent only where it ends well"
    assert "error QD416 optimizer-misses-trainable-tensors" in shown
    assert (tmp_path / "silent.html").is_file()


def test_the_large_setup_is_the_starter_with_another_batch_and_length(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(example.large_config(), encoding="utf-8")
    training = yaml.safe_load(path.read_text(encoding="utf-8"))["training"]
    assert (training["per_device_train_batch_size"], training["max_length"]) == (4, 4096)
    assert read_setup(path).hardware.gpu == "RTX 4090"
