"""A dialect says itself what its trainer does otherwise; nobody below its reader asks for a trainer by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import qlora_doctor
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.dialects import DIALECTS, dialect_named
from qlora_doctor.setup.setup import Setup
from qlora_doctor.setup.traits import NATIVE, Traits

NO_TRAINER = {"foreign", "shell"}
"""Files that are none of a trainer's, and scripts that start one of several."""
ROOMS = ("setup", "pipeline", "probes", "memory", "run", "worker", "editor")
OF_NO_TRAINER = {"native", "python", "notebook", "custom", "peft-adapter", "bnb-config", "accelerate-config"}
"""Kinds of files that anybody may ask for: these are no trainers."""


@pytest.mark.parametrize("name", sorted(DIALECTS.keys() - NO_TRAINER))
def test_each_dialect_has_traits(name: str) -> None:
    assert isinstance(dialect_named(name).TRAITS, Traits)


def test_a_shell_script_has_those_of_the_trainer_that_it_starts(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        "llamafactory-cli train --model_name_or_path x/y --stage sft --do_train --finetuning_type lora "
        "--dataset alpaca_en --template llama3 --output_dir out\n"
    )
    setup = read_setup(script)
    assert setup.dialect == "shell-llamafactory"
    assert setup.traits == dialect_named("llamafactory").TRAITS
    assert setup.traits.lists_linear and not setup.traits.searches_unused


def test_they_go_to_the_worker_and_are_no_part_of_a_report(tmp_path: Path) -> None:
    config = tmp_path / "axolotl.yml"
    config.write_text(
        "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nlora_r: 8\ndatasets: [{path: a, type: alpaca}]\n"
    )
    setup = read_setup(config)
    assert setup.traits.data_key == "datasets" and setup.traits != NATIVE
    assert Setup.model_validate_json(setup.model_dump_json()).traits == setup.traits
    report = qlora_doctor.check(config, stages=("config",), offline=True, cache=False)
    assert report.setup is not None and "traits" not in report.setup


def test_nobody_below_asks_for_a_trainer_by_name() -> None:
    """``setup.dialect == "axolotl"`` in a probe is a trait that its module does not say."""
    package = Path(qlora_doctor.__file__).parent
    found = []
    for path in (path for room in ROOMS for path in (package / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "setup.dialect" in ast.unparse(node.left):
                texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)} - {"shell-"}
                if texts - OF_NO_TRAINER:
                    found.append(f"{path.relative_to(package)}:{node.lineno} {ast.unparse(node)}")
    assert not found
