"""What the processes of a run write, read back and put together; nothing trains here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts import Facts, RunFacts
from qlora_doctor.run.differences import differences
from qlora_doctor.run.following import line_of
from qlora_doctor.run.session import CheckOptions
from qlora_doctor.run.watched import Ended, WatchOptions, reports_of, watched_environment
from qlora_doctor.setup.setup import Setup
from qlora_doctor.watching.merging import groups, together
from qlora_doctor.watching.records import Options, Writer, trainings


def write(folder: Path, rank: int, *, pid: int = 1, number: int = 1, world: int = 2, **facts: Any) -> None:
    run = {"world_size": world, "parallel": "ddp", "watched_steps": 2} | facts.pop("run", {})
    known = {"run": {**run, "ranks": [{"rank": rank, "ended": "well"} | facts.pop("seen", {})]}, **facts}
    Writer(folder, f"rank-{rank}.{pid + rank}.{number}", print).state(
        {"started": float(number), "rank": rank, "world_size": world, "facts": known}
    )


def test_ranks_of_one_training_stand_together(tmp_path: Path) -> None:
    for number in (1, 2):
        for rank in (1, 0):
            write(tmp_path, rank, number=number)
    write(tmp_path, 0, pid=50, number=1, world=1)
    found = [[(each.rank, each.number, each.pid) for each in group] for group in groups(trainings(tmp_path))]
    assert sorted(found) == [[(0, 1, 1), (1, 1, 2)], [(0, 1, 50)], [(0, 2, 1), (1, 2, 2)]]


@pytest.mark.parametrize(
    ("second", "differ", "same"),
    [({"trainable": "aa", "batches": ["y"]}, [], []), ({"trainable": "bb", "batches": ["x"]}, [1], [1])],
)
def test_ranks_are_held_against_each_other(tmp_path: Path, second: Any, differ: list[int], same: list[int]) -> None:
    write(tmp_path, 0, seen={"trainable": "aa", "batches": ["x"], "steps": 2})
    write(tmp_path, 1, seen={**second, "steps": 2})
    run = together(groups(trainings(tmp_path))[0]).run
    assert run is not None and (run.ranks_differ, run.ranks_same_batch, run.ranks_behind) == (differ, same, [])


@pytest.mark.parametrize(("parallel", "zero"), [("ddp", ["a", "b"]), ("fsdp2", ["a"])])
def test_what_one_rank_saw(tmp_path: Path, parallel: str, zero: list[str]) -> None:
    """A whole tensor is at fault where one rank says so; of a sharded one every rank has to say it of its part."""
    step = {"parameters_without_gradient": [], "parameters_nonfinite_gradient": []}
    write(tmp_path, 0, run={"parallel": parallel}, step={**step, "parameters_zero_gradient": ["a"]})
    write(tmp_path, 1, run={"parallel": parallel}, step={**step, "parameters_zero_gradient": ["a", "b"]})
    merged = together(groups(trainings(tmp_path))[0]).step
    assert merged is not None and merged.parameters_zero_gradient == zero


def test_damaged_records_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 0, world=1)
    (tmp_path / "rank-1.7.1.json").write_text('{"facts": {', encoding="utf-8")
    (tmp_path / "rank-0.1.1.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    found = trainings(tmp_path)
    assert [each.rank for each in found] == [0] and found[0].series == [{"step": 1, "loss": 2.0}]


def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    monkeypatch.setattr("qlora_doctor.watching.records.write_whole", full)
    writer = Writer(tmp_path, "rank-0.1.1", told.append)
    writer.state({})
    writer.state({})
    assert told == [f"{tmp_path} cannot be written: No space left on device."]


def test_options_travel(tmp_path: Path) -> None:
    options = Options(steps=3, stop_after=7)
    options.write(tmp_path)
    assert Options.read(tmp_path) == options
    (tmp_path / "options.json").write_text("{", encoding="utf-8")
    assert Options.read(tmp_path) == Options()


def test_the_environment_of_the_command(tmp_path: Path) -> None:
    found = watched_environment(tmp_path, {"PYTHONPATH": "/own", "HOME": "/home/x"})
    first, *rest = found["PYTHONPATH"].split(":")
    assert first.endswith("site") and rest == ["/own"] and found["HOME"] == "/home/x"


@pytest.mark.parametrize(
    ("ended", "rule", "kind"), [(Ended(0), None, "none"), (Ended(3), "QD750", "exit"), (Ended(137), "QD751", "signal")]
)
def test_how_a_command_ended(tmp_path: Path, ended: Ended, rule: str | None, kind: str) -> None:
    write(tmp_path, 0, world=1)
    report = reports_of(tmp_path, WatchOptions(), CheckOptions(), ended, ["python", "train.py"])[0]
    assert report.facts.run is not None and report.facts.run.failure is not None
    assert report.facts.run.failure.kind == kind
    assert {f.rule for f in report.findings if f.severity == "error"} == ({rule} if rule else set())


def test_a_run_that_nobody_saw_is_not_green(tmp_path: Path) -> None:
    report = reports_of(tmp_path, WatchOptions(), CheckOptions(), Ended(0), ["true"])[0]
    assert {record.status for record in report.stages} == {"skipped"} and not report.findings
    assert not [outcome for outcome in report.rules if outcome.status == "pass"]


def test_a_run_against_a_config(tmp_path: Path) -> None:
    from qlora_doctor.reading import read_setup

    path = tmp_path / "config.json"
    sections = {
        "model": "meta-llama/Llama-2-7b-hf",
        "lora": {"r": 32, "target_modules": ["q_proj", "v_proj"]},
        "training": {"learning_rate": 2e-4, "per_device_train_batch_size": 4, "max_length": 512},
    }
    path.write_text(json.dumps(sections), encoding="utf-8")
    run = Facts.model_validate(
        {
            "config": {"model": "/models/Llama-2-7b-hf", "lora_r": 16, "lora_dropout": 0.1, "learning_rate": 2e-4,
                       "batch": 2},
            "adapter": {"matched_modules": ["model.layers.0.self_attn.q_proj"]},
            "batch": {"length_max": 2048},
        }
    )  # fmt: skip
    setup: Setup = read_setup(path)
    found = {each.name: (each.file, each.run) for each in differences(setup, run)}
    assert found == {
        "lora_r": ("32", "16"),
        "batch": ("4", "2"),
        "sequence": ("512", "2048 and more"),
        "target_modules": ("q_proj, v_proj", "q_proj"),
    }
    assert run.config is not None
    of_a_loop = run.model_copy(
        update={
            "config": run.config.model_copy(update={"learning_rate": None}),
            "run": RunFacts(learning_rate_real=1e-3, micro_batches=[4, 4]),
        }
    )
    assert {each.name: each.run for each in differences(setup, of_a_loop)}["learning_rate"] == "0.001"


def test_one_line_of_a_run(tmp_path: Path) -> None:
    assert line_of([]) == "waiting for a training"
    write(tmp_path, 0, world=1, run={"steps": 2, "max_steps": 1200, "ended": "running"})
    writer = Writer(tmp_path, "rank-0.1.1", print)
    for step in (10, 20):
        writer.line({"step": step, "time": 2.0 * step, "loss": 1.5, "learning_rate": 1e-4})
    assert line_of(trainings(tmp_path)) == "step 20 of 1,200 · loss 1.5 · rate 0.0001 · 2 s a step · running"


def test_losses_of_ranks_are_judged_together(tmp_path: Path) -> None:
    """A trainer that divides by the tokens of all ranks: one with many of them seems to sum, all together do not."""
    for rank, (backward, tokens) in enumerate([(3.8, 1900), (0.2, 100)]):
        seen = {"backward_loss": backward, "mean_loss": 2.0, "mean_of_means": 2.0, "trained_tokens": tokens}
        write(tmp_path, rank, run={"micro_batches": [2, 2]}, seen=seen)
    run = together(groups(trainings(tmp_path))[0]).run
    assert run is not None and run.sums_over_accumulation is False and run.tokens_per_update == 2000


def test_records_are_a_report_and_can_be_followed(tmp_path: Path) -> None:
    """Also where the doctor's own process was killed: nothing says how the run ended."""
    from click.testing import CliRunner

    from qlora_doctor.cli import main
    from qlora_doctor.run.following import STARTED

    write(tmp_path, 0, world=1, run={"steps": 2, "ended": "running"})
    assert CliRunner().invoke(main, ["report", "--follow", str(tmp_path)]).exit_code == 2  # no run's folder
    (tmp_path / STARTED).write_text(json.dumps({"pid": 2**30, "command": ["python", "train.py"]}), encoding="utf-8")
    shown = CliRunner().invoke(main, ["report", "--follow", str(tmp_path), "--format", "json"])
    assert shown.exit_code == 0 and "step 2 · running" in shown.stderr
    document = json.loads(shown.stdout)
    assert document["facts"]["run"]["command"] == "python train.py"
    assert [stage["name"] for stage in document["stages"]] == ["config", "structure", "load", "step", "run"]


def test_a_gate_without_a_training_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from qlora_doctor.cli import main

    monkeypatch.setenv("QLORA_DOCTOR_RUNS", str(tmp_path))
    command = ["run", "-q", "--stop-after", "2", "--", "true"]
    assert CliRunner().invoke(main, command).exit_code == 3
    assert CliRunner().invoke(main, ["run", "-q", "--", "true"]).exit_code == 0
    assert CliRunner().invoke(main, ["run", "-q", "--", "no-such-command-anywhere"]).exit_code == 2


def test_several_trainings_are_several_pages() -> None:
    from qlora_doctor.cli.run import _for_each
    from qlora_doctor.run.outputs import Output

    outputs = [Output("html", "a/report.html"), Output("json", "a/report.json"), Output("html", "a/{name}.html")]
    assert [output.path for output in _for_each(outputs, 1)] == [output.path for output in outputs]
    assert [output.path for output in _for_each(outputs, 2)] == [
        "a/report-{name}.html",
        "a/report.json",
        "a/{name}.html",
    ]


def test_records_of_a_run_go_where_nothing_is_to_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.run.watched import records_folder

    monkeypatch.delenv("QLORA_DOCTOR_RUNS", raising=False)
    monkeypatch.setenv("QLORA_DOCTOR_CACHE", "off")
    with records_folder(None) as (folder, stays):
        (folder / "rank.json").write_text("{}")
    assert not stays and not folder.exists()
    with records_folder(tmp_path / "asked") as (folder, stays):
        pass
    assert stays and folder.is_dir()
