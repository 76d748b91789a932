"""The log command: documents, exit codes, causes that a config excludes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.core.report import Report
from tests.courses import make


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["log", *(str(argument) for argument in arguments)])


def test_a_healthy_run_is_clean_and_a_flat_one_is_not() -> None:
    healthy, flat = run(make.RUNS / "healthy_plain"), run(make.RUNS / "flat_rate_tiny")
    assert healthy.exit_code == 0 and "nothing found" in healthy.stdout and "1 of 1 stages done" in healthy.stdout
    assert flat.exit_code == 1 and "error[QD701]" in flat.stdout
    assert "it comes to 1e-09" in flat.stdout  # the cause that the log itself shows
    assert "optimizer holds tensors of another model" not in flat.stdout


def test_a_cause_that_the_config_excludes_is_not_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"model": "huggyllama/llama-7b", "training": {"fp16": False, "bf16": True, "max_grad_norm": 0.3}})
    )
    place = make.RUNS / "loss_not_finite"
    with_config, without = run(place, "--config", config), run(place)
    assert "overflow in float16" in without.stdout
    assert "overflow in float16" not in with_config.stdout and "error[QD704]" in with_config.stdout


def test_the_vocabulary_comes_from_the_config(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": make.VOCABULARY}))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model": str(model), "training": {"learning_rate": 1e-7}}))
    place = make.RUNS / "untrained_vocabulary"
    assert "error[QD702]" in run(place, "--config", config).stdout
    assert "error[QD701]" in run(place).stdout


def test_a_report_beside_the_log_is_heard(tmp_path: Path) -> None:
    shutil.copytree(make.RUNS / "flat_optimizer_of_a_copy", tmp_path / "run")
    facts = {"data": {"labels_masked_ratio": 0.1}}
    report = {"schema_version": "1.0", "facts": facts, "setup": {"dialect": "native"}}
    before = run(tmp_path / "run").stdout
    (tmp_path / "run" / "qlora-doctor.json").write_text(json.dumps(report))
    after = run(tmp_path / "run").stdout
    assert "labels are masked" in before and "labels are masked" not in after


def test_several_runs_in_every_document(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    result = run(make.RUNS / "overfits", make.RUNS / "healthy_plain", "--format", "json", "-o", f"html={pages}/")
    reports = [Report.model_validate(each) for each in json.loads(result.stdout)]
    assert [bool(report.findings) for report in reports] == [True, False]
    course = reports[0].facts.course
    assert course is not None and [other.name for other in course.others] == ["healthy_plain"]
    texts = [page.read_text(encoding="utf-8") for page in pages.glob("trainer_state*.html")]
    assert len(texts) == 2 and sum("QD709 best evaluation, step 72" in text for text in texts) == 1
    assert all('class="run other"' in text and 'class="run evaluated"' in text for text in texts)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "holds no loss"), (b"{}", "no log_history"), (b"nothing\n" * 50, "holds no loss")],
)
def test_what_is_no_log_is_told_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / ("state.json" if content == b"{}" else "some.log")
    path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_paths_that_hold_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere").exit_code == 2
    assert "no log that is known" in run(tmp_path).stderr
