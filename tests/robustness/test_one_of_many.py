"""What one hostile file does stays with it: the others of a folder are checked, and every document is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_doctor.cli import main
from qlora_doctor.core.errors import ConfigError
from qlora_doctor.core.report import Report
from qlora_doctor.reporters import FORMATS, TOGETHER, overview, render
from qlora_doctor.run import many
from qlora_doctor.run.checking import run_check
from qlora_doctor.run.session import CheckOptions, Session
from qlora_doctor.worker.job import Job

LONE = "\ud800"
HEALTHY: dict[str, Any] = {
    "model": "meta-llama/Llama-2-7b-hf",
    "quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_type": "nf4"},
    "lora": {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
    "training": {"learning_rate": 1e-4, "bf16": True},
}


def with_text(text: str) -> dict[str, dict[str, Any]]:
    """Configs that hold a text, each in another place."""
    training = HEALTHY["training"]
    return {
        "value": {**HEALTHY, "training": {**training, "output_dir": text}},
        "key": {**HEALTHY, "training": {**training, text: 1}},
        "model": {**HEALTHY, "model": text},
        "target": {**HEALTHY, "lora": {**HEALTHY["lora"], "target_modules": [text]}},
        "data": {**HEALTHY, "data": {"train": text}},
        "card": {**HEALTHY, "hardware": {"gpu": text}},
        "extra": {**HEALTHY, "lora": {**HEALTHY["lora"], "loftq_config": {text: [text]}}},
    }


def check_folder(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(main, ["check", str(folder), "--no-cache", "--offline", *options])


def test_lone_surrogates_end_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in with_text(f"a{LONE}b").items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    (folder / "healthy.json").write_text(json.dumps(HEALTHY))
    axolotl = {
        "base_model": f"x{LONE}",
        "adapter": "qlora",
        "load_in_4bit": True,
        "lora_r": 8,
        "datasets": [{"path": "y"}],
    }
    (folder / "axolotl.yaml").write_text(json.dumps(axolotl))
    script = (
        "from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments\n"
        "from peft import LoraConfig, get_peft_model\n"
        'model = AutoModelForCausalLM.from_pretrained("meta-llama/Llama-2-7b-hf",'
        " quantization_config=BitsAndBytesConfig(load_in_4bit=True))\n"
        'model = get_peft_model(model, LoraConfig(r=8, target_modules=["q\\ud800_proj"]))\n'
        'arguments = TrainingArguments(output_dir="\\udfff")\n'
    )
    (folder / "train.py").write_text(script)
    files = [f"-o{format}={tmp_path / format}{'' if format in TOGETHER else '-{name}'}" for format in FORMATS]
    result = check_folder(folder, "--stage", "config,structure", "--jobs", "1", *files)
    assert "qlora-doctor failed" not in result.output and not isinstance(result.exception, UnicodeError)
    reports = [Report.model_validate(report) for report in json.loads((tmp_path / "json").read_bytes())]
    stages = {
        Path(str(report.setup and report.setup["file"])).name: {r.name: r.status for r in report.stages}
        for report in reports
    }
    assert len(stages) == 10
    assert stages["healthy.json"] == stages["value.json"] | {"structure": "done", "config": "done"}


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "configs"
    folder.mkdir()
    try:
        Path(str(folder) + "/\udcff.json").write_text(json.dumps(HEALTHY))
    except (OSError, UnicodeError):
        pytest.skip("names are UTF-8 here")
    result = check_folder(folder, "--stage", "structure", "-o", f"json={tmp_path / 'r.json'}")
    assert result.exit_code == 0
    (record,) = [r for r in json.loads((tmp_path / "r.json").read_text())["stages"] if r["name"] == "structure"]
    assert record["status"] == "done", "the worker opens it by its real name"


@pytest.mark.parametrize("place", ["read", "conclude", "report"])
def test_a_fault_of_the_tool_concerns_one_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**HEALTHY, "model": f"{name}/x"}))
    target = {"read": "open_session", "conclude": "work_of"}.get(place)

    def fails(function: Callable[..., Any]) -> Callable[..., Any]:
        def planted(first: Any, *rest: Any, **named: Any) -> Any:
            name = Path(str(first.setup.file if place != "read" else first)).stem
            if name == "b":
                raise RecursionError("nobody foresaw it")
            return function(first, *rest, **named)

        return planted

    if target is not None:
        monkeypatch.setattr(many, target, fails(getattr(many, target)))
    else:
        monkeypatch.setattr("qlora_doctor.run.session.Session.report", fails(Session.report))
    result = check_folder(tmp_path, "--stage", "config", "-o", f"json={tmp_path / 'out.txt'}")
    assert result.exit_code == 3
    assert "qlora-doctor failed on" in result.stderr and "nobody foresaw it" in result.stderr
    reports = json.loads((tmp_path / "out.txt").read_text())
    assert [report["exit_code"] for report in reports] == [0, 3, 0]
    assert [report["stages"][0]["status"] for report in reports] == ["done", "failed", "done"]


def test_a_job_that_cannot_be_handed_over_concerns_one_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for name, rank in (("a", 4), ("b", 8), ("c", 16)):
        config = {**HEALTHY, "lora": {**HEALTHY["lora"], "r": rank}}
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    real = Job.line

    def line(self: Job) -> bytes:
        if self.setup.lora.r == 8:
            raise ValueError("not to be written")
        return real(self)

    monkeypatch.setattr(Job, "line", line)
    result = check_folder(tmp_path, "--stage", "structure", "-o", f"json={tmp_path / 'out.txt'}")
    assert result.exit_code == 3 and "not to be written" in result.stderr
    reports = json.loads((tmp_path / "out.txt").read_text())
    assert [report["exit_code"] for report in reports] == [0, 3, 0]


def test_settings_that_cannot_be_read_concern_the_configs_below_them(tmp_path: Path) -> None:
    below = tmp_path / "vendored"
    below.mkdir()
    (below / "pyproject.toml").write_text("[tool.qlora-doctor]\nbogus = 3\n")
    for folder in (tmp_path, below):
        (folder / "a.json").write_text(json.dumps(HEALTHY))
    result = check_folder(tmp_path, "--stage", "config", "--quiet")
    assert result.exit_code == 2 and "there is no bogus" in result.stderr
    assert "1 passed" in result.stdout and "1 not read" in result.stdout


# -- any text, through every document

TEXTS = st.text(
    st.characters() | st.sampled_from([LONE, "\udfff", "\0", "\x1b", "\x07", "\u202e", "\u2028", "\x85", "\ufeff", "‮"]),
    max_size=12,
)
NUMBERS = st.integers() | st.sampled_from([10**400, -(10**4000), 2**63]) | st.floats()
DEEP = st.integers(1, 120).map(lambda depth: json.loads("[" * depth + "]" * depth))
ANY = st.none() | st.booleans() | NUMBERS | TEXTS | DEEP
VALUES = st.recursive(
    ANY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
KEYS = st.sampled_from(["r", "target_modules", "learning_rate", "bf16", "load_in_4bit", "train", "gpu", "output_dir"])
SECTION = st.dictionaries(KEYS | TEXTS, VALUES, max_size=4)
CONFIGS = st.fixed_dictionaries(
    {"model": TEXTS | VALUES, "lora": SECTION},
    optional=dict.fromkeys(("quantization", "training", "data", "hardware", "budgets"), SECTION),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=CONFIGS | VALUES, dialect=st.sampled_from([None, "native", "axolotl", "custom", "trl", "llamafactory"]))
def test_any_value_through_every_document(
    tmp_path_factory: pytest.TempPathFactory, config: Any, dialect: str | None
) -> None:
    path = tmp_path_factory.mktemp("any") / "config.json"
    path.write_text(json.dumps(config))
    options = CheckOptions(stages=("config",), cache=False, offline=True, dialect=dialect)
    try:
        report = run_check(path, options)
    except ConfigError as error:
        error.message.encode()
        return
    for format in FORMATS.keys() - {"card", "badge"}:  # which need a peak
        render(report, format).encode()
    overview.render([report, report]).encode()
    again = Report.model_validate_json(report.model_dump_json())
    assert again.exit_code == report.exit_code
