"""Green is only what was read: what of a run is known, in every document, and what it means for the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.core.report import Report
from qlora_doctor.facts import Facts
from qlora_doctor.facts.config import ConfigFacts
from qlora_doctor.facts.model import ModelFacts
from qlora_doctor.pipeline.architecture import load_config
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup

AXOLOTL = """\
base_model: {model}
adapter: qlora
load_in_4bit: true
lora_r: 8
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 1
learning_rate: 0.0002
sequence_len: 512
bf16: true
datasets: [{{path: tatsu-lab/alpaca, type: alpaca}}]
"""
SCRIPT = """\
import json, sys
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

given = json.load(open(sys.argv[1]))
model = AutoModelForCausalLM.from_pretrained({model}, quantization_config=BitsAndBytesConfig({bits}))
arguments = SFTConfig({arguments})
SFTTrainer(model=model, args=arguments, peft_config=LoraConfig({lora})).train()
"""
KNOWN = {
    "model": '"meta-llama/Llama-2-7b-hf"',
    "bits": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16"',
    "arguments": "learning_rate=1e-4, per_device_train_batch_size=2, bf16=True",
    "lora": 'r=8, target_modules="all-linear", task_type="CAUSAL_LM"',
}
PATHS = [
    "model.name_or_path",
    "quantization.load_in_4bit",
    "lora.r",
    "training.learning_rate",
    "training.per_device_train_batch_size",
]
CONFIG = ("--stage", "config")


def check(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["check", str(path), "--offline", "--no-cache", "--quiet", *options])


def report_of(path: Path, *options: str) -> Report:
    return Report.model_validate_json(check(path, "--format", "json", *options).stdout)


def script(folder: Path, **changes: str) -> Path:
    path = folder / "train.py"
    path.write_text(SCRIPT.format(**{**KNOWN, **changes}))
    return path


def test_a_script_that_tells_all_is_clean(tmp_path: Path) -> None:
    report = report_of(script(tmp_path), *CONFIG)
    assert report.summary.read is not None
    assert (report.summary.read.known, report.summary.read.of, report.summary.read.unknown) == (5, 5, [])
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"model": 'given["model"]', "bits": "**given", "arguments": "**given", "lora": "**given"}, PATHS),
        ({"model": 'given["model"]'}, PATHS[:1]),
        ({"bits": "**given"}, PATHS[1:2]),
        ({"lora": 'r=given["r"], target_modules="all-linear"'}, PATHS[2:3]),
        ({"arguments": 'learning_rate=given["rate"], per_device_train_batch_size=2'}, PATHS[3:4]),
        ({"arguments": 'learning_rate=1e-4, per_device_train_batch_size=given["batch"]'}, PATHS[4:]),
    ],
)
def test_what_the_script_does_not_tell_is_said(tmp_path: Path, changes: dict[str, str], unknown: list[str]) -> None:
    path = script(tmp_path, **changes)
    report = report_of(path, *CONFIG)
    read = report.summary.read
    assert read is not None and read.unknown == unknown and read.known == read.of - len(unknown) == 5 - len(unknown)
    assert read.stops_at is not None and unknown[0] in read.stops_at
    assert report.exit_code == 3
    text = check(path, *CONFIG).stdout
    assert f"read {5 - len(unknown)} of 5 of what decides this run; it stops at" in text
    assert "nothing found" not in text.lower()


def test_a_plain_check_of_it_is_not_green(tmp_path: Path) -> None:
    path = script(tmp_path, model='given["model"]', bits="**given", arguments="**given", lora="**given")
    result = check(path)
    assert result.exit_code == 3 and "read 0 of 5" in result.stdout


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("never", 0), ("unknown", 3), ("warning", 3), ("info", 1)])
def test_fail_on_has_a_level_for_it(tmp_path: Path, level: str, code: int) -> None:
    path = script(tmp_path, lora='r=given["r"], target_modules="all-linear", task_type="CAUSAL_LM"')
    assert check(path, *CONFIG, "--fail-on", level).exit_code == code  # the note itself counts from info on


def test_settings_and_a_baseline_do_not_hide_it(tmp_path: Path) -> None:
    path = script(tmp_path, lora='r=given["r"]')
    known = str(tmp_path / "known.json")
    assert check(path, *CONFIG, "--baseline", known, "--write-baseline").exit_code == 3
    assert check(path, *CONFIG, "--baseline", known).exit_code == 3
    (tmp_path / "qlora-doctor.toml").write_text('fail-on = "error"\n')
    assert check(path, *CONFIG, "--baseline", known).exit_code == 0


def test_a_slip_of_a_known_id_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "q.yml"
    path.write_text(AXOLOTL.format(model="mistralai/Mistrall-7B-v0.1"))
    report = report_of(path, *CONFIG)
    (found,) = [each for each in report.findings if each.rule == "QD909"]
    assert found.severity == "error" and "mistralai/Mistral-7B-v0.1" in found.message and report.exit_code == 1
    assert found.remediation is not None and found.remediation.patch[0].path == "/base_model"
    assert report.summary.read is not None and report.summary.read.unknown == ["model.name_or_path"]


@pytest.mark.parametrize(
    "model",
    [
        "mistralai/Mistral-7B-v0.9",  # another version may be there
        "mistralai/Mistral-8B-v0.1",
        "meta-llama/Llama-2-7b-it",  # another ending
        "someone/Mistral-7B-v0.1",  # somebody's own
        "mistralai/Mistral-7B-v0.1",
        "gpt2x",
    ],
)
def test_another_model_is_no_slip(tmp_path: Path, model: str) -> None:
    path = tmp_path / "q.yml"
    path.write_text(AXOLOTL.format(model=model))
    assert conclude(read_setup(path), None).model_closest is None


def test_an_id_in_the_cache_is_no_slip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--mistralai--Mistrall-7B-v0.1").mkdir()
    path = tmp_path / "q.yml"
    path.write_text(AXOLOTL.format(model="mistralai/Mistrall-7B-v0.1"))
    assert conclude(read_setup(path), None).model_closest is None


def test_an_id_that_nobody_knows_is_unknown_and_not_wrong(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    path = tmp_path / "q.yml"
    path.write_text(AXOLOTL.format(model="someorg/never-heard-of-it-7b"))
    report = report_of(path, "--timeout", "300")
    assert report.exit_code == 3 and report.summary.error == 0
    assert report.summary.read is not None and report.summary.read.unknown == ["model.name_or_path"]
    assert report_of(path, "--fail-on", "error", "--timeout", "300").exit_code == 0


@pytest.mark.parametrize("model", ["./models/not-here", "/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_never_green(tmp_path: Path, model: str) -> None:
    axolotl, native = tmp_path / "q.yml", tmp_path / "n.json"
    axolotl.write_text(AXOLOTL.format(model=model))
    native.write_text(json.dumps({"model": model, "lora": {"r": 8, "target_modules": "all-linear"}}))
    assert report_of(native, *CONFIG).exit_code == 1
    report = report_of(axolotl, *CONFIG)
    assert report.exit_code == 3
    assert report.summary.read is not None and "There is no folder" in str(report.summary.read.stops_at)


def test_the_hub_says_that_there_is_no_such_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import RepositoryNotFoundError

    from qlora_doctor.core.errors import StageError

    def ask(*_: Any, **__: Any) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # what it is made of differs by version

    monkeypatch.setattr(hub, "hf_hub_download", ask)
    path = tmp_path / "q.yml"
    path.write_text(AXOLOTL.format(model="someorg/never-heard-of-it-7b"))
    with pytest.raises(StageError) as raised:
        load_config(read_setup(path), offline=False)
    assert raised.value.kind == "no-such-model"
    path.write_text(AXOLOTL.format(model="meta-llama/Llama-2-7b-hf"))
    assert load_config(read_setup(path), offline=False, with_files=True).source == "table"


def test_tables_and_documents_show_it_in_place_of_passes(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    script(folder, model='given["model"]')
    (folder / "whole.yml").write_text(AXOLOTL.format(model="mistralai/Mistral-7B-v0.1"))
    formats = ("json", "junit", "github", "sarif", "markdown", "gitlab")
    outputs = [f"-o{name}={tmp_path / name}" for name in formats]
    result = check(folder, *CONFIG, *outputs, f"-ohtml={tmp_path / 'pages'}/")
    assert result.exit_code == 3
    assert "read 4 of 5\n" in result.stdout and "1 passed · 1 partly read" in result.stdout
    told = "read 4 of 5 of what decides this run; it stops at line 7 (model.name_or_path)"
    index = (tmp_path / "pages" / "index.html").read_text()
    assert "read 4 of 5" in index and "1 of 2 setups does not pass" in index
    assert "Read 4 of 5 of what decides this run" in (tmp_path / "pages" / "train.html").read_text()
    (failure,) = Xml.parse(tmp_path / "junit").iter("failure")
    assert told in str(failure.get("message"))
    assert f"::{told}" in (tmp_path / "github").read_text()
    notes = json.loads((tmp_path / "sarif").read_text())["runs"][0]["invocations"]
    assert any(told in note["message"]["text"] for each in notes for note in each["toolExecutionNotifications"])
    assert "read 4 of 5" in (tmp_path / "markdown").read_text()
    assert any(issue["check_name"] == "QD908" for issue in json.loads((tmp_path / "gitlab").read_text()))


def test_a_stored_adapter_is_no_run(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "mistralai/Mistral-7B-v0.1", "r": 8}))
    read = report_of(path, *CONFIG).summary.read
    assert read is not None and (read.known, read.of) == (2, 2)


def test_a_model_that_is_not_at_hand_is_not_known() -> None:
    from qlora_doctor.engine import summarise

    config = ConfigFacts(model="x/y", decided_by=["model.name_or_path", "lora.r"], undecided=[])
    facts = Facts(config=config, model=ModelFacts(build_error_kind="missing-config", build_error="It is not here."))
    read = summarise([], [], facts).read
    assert read is not None and read.unknown == ["model.name_or_path"] and "It is not here." in str(read.stops_at)
    assert summarise([], [], Facts()).read is None
