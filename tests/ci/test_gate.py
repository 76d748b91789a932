"""The workflow that gates an adapter: its commands, line by line, on what a run has left."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from qlora_doctor.cli import main
from tests.ci.recipes import recipe
from tests.ci.test_recipes import commands
from tests.courses import make
from tests.models import make_model
from tests.stored.planting import FAULTS, adapt, load_base, trained


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy log, and a sound adapter below it."""
    place = tmp_path_factory.mktemp("gate")
    outputs = shutil.copytree(make.RUNS / "healthy_plain", place / "outputs")
    base = make_model(place / "base", "llama", dtype="float32", num_hidden_layers=8)
    trained(adapt(load_base(base))).save_pretrained(outputs / "adapter")
    return place


def codes(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit code of each command of the workflow."""
    monkeypatch.chdir(place)
    lines = commands(recipe("github.md", ".github/workflows/publish-adapter.yml").data())
    assert len(lines) == 2
    return [CliRunner().invoke(main, shlex.split(line)[1:]).exit_code for line in lines]


def test_a_sound_adapter_is_published(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes(outputs, monkeypatch) == [0, 0]
    assert (outputs / "adapter.html").is_file()


@pytest.mark.parametrize("name", ["saved-before-training", "cut-off", "base-on-another-machine"])
def test_a_broken_one_is_not(name: str, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = shutil.copytree(outputs, tmp_path / "gate")
    FAULTS[name][1](place / "outputs" / "adapter")
    assert codes(place, monkeypatch) == [0, 1]


def test_nor_one_of_a_run_that_went_wrong(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = shutil.copytree(outputs, tmp_path / "gate")
    shutil.copy(make.RUNS / "loss_zero" / "trainer_state.json", place / "outputs" / "trainer_state.json")
    assert codes(place, monkeypatch)[0] == 1
