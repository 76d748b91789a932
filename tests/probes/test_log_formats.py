"""Logs in forms that trackers, spreadsheets and shells leave: what is read of them, what is told where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor.probes.log import read_runs
from qlora_doctor.probes.log.texts import Unreadable

LINES = [
    f"{{'loss': {2 - i / 100:.3f}, 'grad_norm': 1.0, 'learning_rate': 0.0001, 'epoch': {i / 50}}}" for i in range(60)
]


def wandb(place: Path, **files: str) -> Path:
    run = place / "wandb" / "run-20250101_120000-abc123"
    (run / "files").mkdir(parents=True)
    (run / "run-abc123.wandb").write_bytes(b":W&B\xe1\xbe\x00" + bytes(range(200)))
    for name, text in files.items():
        (run / "files" / name.replace("__", ".").replace("_history", "-history")).write_text(text)
    return place / "wandb"


def test_a_history_that_wandb_alone_reads_is_told(tmp_path: Path) -> None:
    (run,) = read_runs([wandb(tmp_path, output__log="\n".join(LINES))])
    assert len(run.get("loss")) == 60 and run.formats == ["wandb"]
    assert "needs wandb" in run.unread[0]


def test_a_run_of_wandb_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="needs wandb to be read") as caught:
        read_runs([wandb(tmp_path, output__log="no number here")])
    assert caught.value.remedy == "pip install wandb"


def test_an_exported_history_comes_before_the_captured_output(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"train/loss": 2 - i / 100, "train/global_step": i}) for i in range(30))
    (run,) = read_runs([wandb(tmp_path, output__log="\n".join(LINES), wandb_history__jsonl=rows)])
    assert len(run.get("loss")) == 30 and run.steps_known


def test_what_powershell_redirected(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_bytes("\r\n".join(LINES).encode("utf-16"))
    (run,) = read_runs([tmp_path / "train.log"])
    assert len(run.get("loss")) == 60


def test_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text("step;loss\n1;2,5\n2;2,25\n3;2\n")
    (run,) = read_runs([tmp_path / "run.csv"])
    assert run.get("loss").values == [2.5, 2.25, 2.0]


@pytest.mark.parametrize("form", ["csv", "mlflow", "plain"])
def test_in_a_long_log_a_spike_and_the_last_record_are_kept(form: str, tmp_path: Path) -> None:
    losses = [2.0 + (i % 7) / 100 for i in range(100_000)]
    losses[70_001] = 50.0
    if form == "csv":
        path = tmp_path / "run.csv"
        path.write_text("step,loss\n" + "\n".join(f"{i + 1},{loss}" for i, loss in enumerate(losses)))
    elif form == "mlflow":
        path = tmp_path / "run"
        (path / "metrics").mkdir(parents=True)
        (path / "meta.yaml").write_text("run_id: a\n")
        (path / "metrics" / "loss").write_text("\n".join(f"{i} {loss} {i + 1}" for i, loss in enumerate(losses)))
    else:
        path = tmp_path / "train.log"
        path.write_text("\n".join(f"step {i + 1}: loss {loss}" for i, loss in enumerate(losses)))
    (run,) = read_runs([path])
    series = run.get("loss")
    assert len(series) < 60_000
    assert series.steps[series.values.index(50.0)] == 70_002 and series.steps[-1] == 100_000
