"""The plan command: documents, exit codes, no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.core.report import Report


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["plan", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def config(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "config.yaml"
    setup = {
        "model": str(model_folder("llama")),
        "lora": {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        "training": {"per_device_train_batch_size": 2, "bf16": True, "max_length": 64, "learning_rate": 2e-4},
    }
    path.write_text(yaml.safe_dump(setup), encoding="utf-8")
    return path


def test_one_run_writes_every_document(config: Path, tmp_path: Path) -> None:
    html, document = tmp_path / "plan.html", tmp_path / "plan.json"
    result = run(
        config, "--gpu", "rtx-4090", "--memory", "24GiB", "--batch", "1,2", "--sequence", "64", "--sequence", "128",
        "-o", f"html={html}", "-o", f"json={document}", "--offline",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "RTX 4090" in result.stdout and "24 GiB" in result.stdout and "✓" in result.stdout
    report = Report.model_validate_json(document.read_text(encoding="utf-8"))
    memory = report.facts.memory
    assert memory is not None and memory.plans is not None and len(memory.plans) == 2
    assert {(cell.batch, cell.sequence) for cell in memory.plan or ()} == {(1, 64), (1, 128), (2, 64), (2, 128)}
    page = html.read_text(encoding="utf-8")
    assert "Batch × sequence" in page and page.count('<table class="plan">') == 2


def test_json_alone_on_stdout(config: Path) -> None:
    result = run(config, "--gpu", "t4", "--batch", "1", "--sequence", "64", "--format", "json")
    assert result.exit_code == 0
    memory = json.loads(result.stdout)["facts"]["memory"]
    assert memory["plans"][0]["card"] == "Tesla T4" and memory["plans"][0]["bf16"] is False
    assert (memory["predicted"]["batch"], memory["predicted"]["sequence"]) == (1, 64)
    assert memory["plans"][0]["asked"]["fits"] is True and memory["plan_traces"] == 1
    assert "memory done" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "rtx-4091"], "RTX 4090"),
        (["--memory", "much"], "24GiB"),
        (["--memory", "24"], "24GiB"),
        (["--batch", "0"], "positive"),
        (["--batch", "100000"], "up to 1,024"),
        (["--sequence", "99999999"], "up to 1,048,576"),
        (["--sequence", "x"], "whole numbers"),
        (["-o", "sarif=x"], "sarif"),
        (["--batch", ",".join(map(str, range(1, 60)))], "at most"),
    ],
    ids=str,
)
def test_usage_errors_end_with_2(config: Path, arguments: list[str], said: str) -> None:
    result = run(config, *arguments)
    assert result.exit_code == 2 and said in result.stderr and not result.stdout


def test_an_invalid_config_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model": 3}', encoding="utf-8")
    assert run(path).exit_code == 2
    assert run(tmp_path / "missing.yaml").exit_code == 2


def test_a_model_that_is_not_at_hand_ends_with_3(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model": "someone/never-heard-of-it"}', encoding="utf-8")
    result = run(path, "--offline", "--gpu", "l4")
    assert result.exit_code == 3
    assert "someone/never-heard-of-it" in result.stdout and "To have it" in result.stdout


def test_a_missing_package_is_named_with_the_command(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qlora_doctor.run.planning.missing_packages", lambda stage, facts: ["torch", "bitsandbytes"])
    result = run(config)
    assert result.exit_code == 3
    assert "torch, bitsandbytes" in result.stderr and "pip install 'qlora-doctor[probe]'" in result.stderr


def test_a_plan_can_run_out_of_time(config: Path) -> None:
    result = run(config, "--timeout", "0.05", "--gpu", "l4")
    assert result.exit_code == 3 and "longer than" in result.stdout


def test_the_error_band_can_be_widened(tmp_path: Path) -> None:
    """A recorded prediction at 97% of its card: outside the prediction's own band, within a wider one."""
    memory = {
        "predicted": {"peak_allocated_bytes": 90, "peak_reserved_bytes": 97},
        "card": "L4", "card_bytes": 100, "predicted_ratio": 0.97, "margin_ratio": 0.02,
    }  # fmt: skip
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"memory": memory, "config": {"gradient_checkpointing": True}}), encoding="utf-8")

    def found(*arguments: str) -> set[str]:
        result = CliRunner().invoke(main, ["check", "--facts", str(facts), "--format", "json", *arguments])
        return {finding["rule"] for finding in json.loads(result.stdout)["findings"]}

    assert "QD505" not in found()
    assert "QD505" in found("--margin", "5%") & found("--margin", "0.05")
    assert CliRunner().invoke(main, ["check", "--facts", str(facts), "--margin", "much"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "TheBloke/Llama-2-7B-GPTQ"], "GPTQ"),
        (["--model", "Qwen/Qwen2.5-0.5B", "--set", "optim=adamw_torh"], "names like it: adamw_torch"),
        (["--model", "Qwen/Qwen2-VL-2B-Instruct"], "data.image_size does not tell"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_says_why(arguments: list[str], said: str) -> None:
    result = run(*arguments, "--gpu", "l4", "--batch", "1", "--sequence", "64", "--offline")
    assert result.exit_code == 3 and said in " ".join(result.stdout.split())


def test_a_plan_of_two_cards_is_of_a_rank_of_two(config: Path, tmp_path: Path) -> None:
    documents = {}
    for card in ("rtx-4090", "2xrtx-4090"):
        result = run(
            config, "--gpu", card, "--batch", "2", "--sequence", "64", "-o", f"json={tmp_path / card}", "--offline"
        )
        assert result.exit_code == 0, result.stderr
        documents[card] = Report.model_validate_json((tmp_path / card).read_text(encoding="utf-8"))
    one, two = (documents[card].facts.memory for card in ("rtx-4090", "2xrtx-4090"))
    assert one is not None and two is not None and one.plans and two.plans
    assert two.plans[0].card == "RTX 4090"
    assert any("DistributedDataParallel" in each for each in two.predicted.assumptions)
    assert two.plans[0].cells[0].peak_allocated_bytes > one.plans[0].cells[0].peak_allocated_bytes
    refused = run(config, "--gpu", "2xrtx-4090", "--gpu", "l4", "--offline")
    assert refused.exit_code == 2 and "one number of cards" in refused.stderr
