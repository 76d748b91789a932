"""Runs that were really trained, wrongly and rightly: each fault is named, and nothing is said of what is healthy."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import UsageError
from qlora_doctor.engine import Rule, judge, load_rules
from qlora_doctor.facts import Facts
from qlora_doctor.facts.course import CourseFacts
from qlora_doctor.probes.log import Course, Known, course_facts, course_from_records, read_runs
from qlora_doctor.reporters import render
from qlora_doctor.run.courses import judge_logs
from qlora_doctor.run.session import CheckOptions
from tests.courses import make

EXPECTED: dict[str, dict[str, Any]] = json.loads((make.HERE / "expected.json").read_text(encoding="utf-8"))
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
LOGS = {"trainer_state.json", "trainer_log.jsonl", "logging.jsonl", "metrics.jsonl", "train.log", "trainer_log.csv"}


@cache
def rules() -> list[Rule]:
    return [rule for rule in load_rules() if rule.stage == "course"]


def run_of(name: str) -> Course:
    if "tensorboard" in name and not HAS_TENSORBOARD:
        pytest.skip("tensorboard is not installed")
    runs = read_runs([make.RUNS / name])
    assert len(runs) == 1
    return runs[0]


def told(course: CourseFacts) -> list[str]:
    return sorted(finding.rule for finding in judge(Facts(course=course), rules()).findings)


def test_the_script_and_its_runs_belong_together() -> None:
    assert EXPECTED == make.EXPECTED
    assert {folder.name for folder in make.RUNS.iterdir()} == set(EXPECTED)
    wrong = [name for name, expected in EXPECTED.items() if expected["rules"]]
    assert len(wrong) >= 25 and len(EXPECTED) - len(wrong) >= 15
    assert all(name.startswith("healthy") != bool(EXPECTED[name]["rules"]) for name in EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_told_of_a_course(name: str) -> None:
    assert told(course_facts(run_of(name), Known(**EXPECTED[name]["known"]))) == EXPECTED[name]["rules"]


def logs() -> Iterator[Path]:
    for name in EXPECTED:
        yield from (path for path in sorted((make.RUNS / name).rglob("*")) if path.name in LOGS)


def parts_of(data: bytes) -> Iterator[bytes]:
    """A log that was cut off, or whose middle is lost, or in which something else stands."""
    for tenth in (0, 1, 3, 6, 9):
        yield data[: len(data) * tenth // 10]
        yield data[len(data) * tenth // 10 :]
    middle = len(data) // 2
    yield data[:middle] + b"\x00\xff{'loss': \n{\"loss\": }\n[[[" + data[middle:]
    yield b"Traceback (most recent call last)\n" + data
    yield data.replace(b":", b" ")
    yield data + data


@pytest.mark.parametrize("path", logs(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_damaged_log_ends_in_a_sentence(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    for part in parts_of(path.read_bytes()):
        copy.write_bytes(part)
        try:
            for run in read_runs([copy]):
                course_facts(run)
        except UsageError as error:
            assert error.message.endswith(".")


def test_the_same_run_says_the_same_in_other_formats(tmp_path: Path) -> None:
    """The trainer's own file against JSON lines, MLflow's folder, a CSV and a captured output of the same records."""
    state = json.loads((make.RUNS / "overfits" / "trainer_state.json").read_text(encoding="utf-8"))
    rows = [row for row in state["log_history"] if "loss" in row or "eval_loss" in row]
    lines = tmp_path / "lines" / "logging.jsonl"
    mlflow = tmp_path / "mlflow"
    table = tmp_path / "history.csv"
    printed = tmp_path / "train.out"
    for folder in (lines.parent, mlflow / "metrics" / "train"):
        folder.mkdir(parents=True)
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (mlflow / "meta.yaml").write_text("run_id: a\n", encoding="utf-8")
    for key, file in (("loss", "train/loss"), ("eval_loss", "eval_loss"), ("epoch", "epoch")):
        points = [f"{1700000000000 + 100 * row['step']} {row[key]} {row['step']}\n" for row in rows if key in row]
        (mlflow / "metrics" / file).write_text("".join(points), encoding="utf-8")
    table.write_text(
        "Step,run - train/loss,run - train/loss__MIN,run - eval/loss,run - train/epoch\n"
        + "".join(
            f'{row["step"]},"{row.get("loss", "")}","0","{row.get("eval_loss", "")}",{row["epoch"]}\n' for row in rows
        ),
        encoding="utf-8",
    )
    bars = [f"\r {row['step']}/240 [00:0{row['step'] % 10}<00:09, 9.9it/s]\n{row}\n" for row in rows]
    printed.write_text("\r  0%|  | 0/240 [00:00<?, ?it/s]" + "".join(bars), encoding="utf-8")
    for place in (lines, mlflow, table, printed):
        facts = course_facts(read_runs([place])[0])
        assert facts.overfits and facts.best_eval_step == 72, place
        assert facts.best_eval_loss == pytest.approx(2.5763, abs=1e-3)
        assert facts.loss is not None and facts.loss.points == 240
        assert told(facts) in (["QD708"], ["QD708", "QD722"]), place


def test_a_folder_of_runs_is_several_runs(tmp_path: Path) -> None:
    runs = read_runs([make.RUNS])
    names = {run.name for run in runs}
    assert {"overfits", "healthy_plain"} <= names
    assert len([run for run in runs if run.name == "healthy_epochs"]) == 1  # with its checkpoints


def test_the_first_records_of_a_preference_run_leave_it_open() -> None:
    """Its pairs begin to be ranked while its loss is still ln 2 to three digits; one that stays there is told."""
    for name, rules_of_it in (("healthy_preference_slow", []), ("untrained_preference", ["QD702"])):
        records = json.loads((make.RUNS / name / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        for count in (3, 5, 9) if not rules_of_it else (10, 20):
            assert told(course_facts(course_from_records(records[:count]), Known(method="dpo"))) == rules_of_it


FORMS = {
    "Epoch 1/3 - train_loss: 4.1 - val_loss: 4.2\nEpoch 2/3 - train_loss: 3.1 - val_loss: 3.2\n": (
        [4.1, 3.1],
        [4.2, 3.2],
    ),
    "Epoch: 1, Train Loss: 4.1, Val Loss: 4.0\n": ([4.1], [4.0]),
    "step 0: train loss 4.1, val loss 4.2\niter 1: loss 4.0, time 3ms\n": ([4.1, 4.0], [4.2]),
    "epoch 0 step 0 loss 4.0\nepoch 0 step 9 loss 3.9\nepoch 1 step 0 loss 3.8\n": ([4.0, 3.9, 3.8], []),
    "Epoch 1 | Batch 10/50 | Loss 2.1\nEpoch 2 | Batch 10/50 | Loss 1.9\n": ([2.1, 1.9], []),
    "step 10 loss 2.1\nEval loss at step 10: 2.5\nstep 20 loss 2.0\nvalidation loss: 2.4\n": ([2.1, 2.0], [2.5, 2.4]),
    "step 1 loss tensor(2.31, grad_fn=<NllLossBackward0>)\nstep 2 loss tensor(2.2)\n": ([2.31, 2.2], []),
    "step 10 loss -0.21\nstep 20 loss -0.3\n": ([-0.21, -0.3], []),
    "loss: 2.31 grad_norm: nan\nloss: 2.2 grad_norm: nan\n": ([2.31, 2.2], []),
}


@pytest.mark.parametrize("text", FORMS)
def test_lines_as_people_print_them(text: str, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(text, encoding="utf-8")
    run = read_runs([tmp_path / "train.log"])[0]
    assert (run.get("loss").values, run.get("eval_loss").values) == FORMS[text]
    steps = run.get("loss").steps
    assert steps == sorted(set(steps)) and not run.resumed_at


def test_two_records_with_a_gradient_that_is_not_finite_are_enough(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(list(FORMS)[-1], encoding="utf-8")
    assert told(course_facts(read_runs([tmp_path / "train.log"])[0])) == ["QD706"]


def test_what_a_resumed_run_lost_is_left_out() -> None:
    run = run_of("healthy_resumed")
    assert run.resumed_at == [61.0]
    steps = run.get("loss").steps
    assert steps == sorted(set(steps)) and steps[-1] == 150


ODD = (None, True, 0, -1, math.nan, math.inf, "x", "", [], {}, "nan", "1e400", 1e308, 10**400, "12%", "5/10")


@pytest.mark.parametrize("seed", range(4))
def test_odd_values_in_a_log_end_in_a_report_or_a_sentence(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    states = sorted(make.RUNS.rglob("trainer_state.json"))
    for number in range(12):
        state = json.loads(draw.choice(states).read_text(encoding="utf-8"))
        for _ in range(draw.choice((1, 3, 30))):
            row = draw.choice(state["log_history"])
            if draw.random() < 0.2:
                state[draw.choice([key for key in state if key != "log_history"])] = draw.choice(ODD)
            elif isinstance(row, dict) and draw.random() < 0.8:
                row[draw.choice([*row, "eval_loss", "memory(GiB)", "reward", "elapsed_time"])] = draw.choice(ODD)
            else:
                state["log_history"][draw.randrange(len(state["log_history"]))] = draw.choice(ODD)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        try:
            reports = judge_logs([folder], CheckOptions())
        except UsageError:
            continue
        assert all(render(report, format) for report in reports for format in ("html", "json", "text"))


def test_a_gradient_that_is_summed_is_seen_beside_the_step_of_a_check() -> None:
    """The norm of one batch, as check takes it, is that of the healthy run's first step."""
    one = run_of("healthy_plain").get("grad_norm").values[0]
    summed = course_facts(run_of("loss_summed_over_accumulation"), Known(accumulation=8, gradient_norm=one))
    mean = course_facts(run_of("healthy_accumulation"), Known(accumulation=4, gradient_norm=one))
    assert summed.gradient_scaled_by_accumulation is True and told(summed) == ["QD718"]
    assert mean.gradient_scaled_by_accumulation is False and told(mean) == []


def test_the_loss_of_a_check_stands_in_for_an_evaluation() -> None:
    state = json.loads((make.RUNS / "loss_summed_over_accumulation" / "trainer_state.json").read_text(encoding="utf-8"))
    rows = [row for row in state["log_history"] if "eval_loss" not in row]
    before = run_of("healthy_plain").get("loss").values[0]
    assert told(course_facts(course_from_records(rows), Known(accumulation=8, loss_before=before))) == ["QD718"]
