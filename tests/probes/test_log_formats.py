"""Logs in forms that trackers, spreadsheets and shells leave: what is read of them, what is told where it is not."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from qlora_doctor.probes.log import course_facts, read_runs
from qlora_doctor.probes.log.output import course_from_output
from qlora_doctor.probes.log.texts import Unreadable
from qlora_doctor.reporters.afterwards import course_lines

LINES = [
    f"{{'loss': {2 - i / 100:.3f}, 'grad_norm': 1.0, 'learning_rate': 0.0001, 'epoch': {i / 50}}}" for i in range(60)
]


def wandb(place: Path, own: bytes | None = None, started: str = "20250101_120000", **files: str) -> Path:
    run = place / "wandb" / f"run-{started}-abc123"
    (run / "files").mkdir(parents=True)
    (run / "run-abc123.wandb").write_bytes(b":W&B\xe1\xbe\x00" + bytes(range(200)) if own is None else own)
    for name, text in files.items():
        (run / "files" / name.replace("wandb__", "wandb-").replace("wandb_h", "wandb-h").replace("__", ".")).write_text(
            text
        )
    return place / "wandb"


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, value: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def items(pairs: dict[str, object]) -> bytes:
    return b"".join(field(1, field(1, key.encode()) + field(16, json.dumps(value).encode()))
                    for key, value in pairs.items())  # fmt: skip


def wandb_bytes(records: Iterable[bytes]) -> bytes:
    """A file of W&B: LevelDB's blocks, in which a record that does not fit is cut into pieces."""
    data = b":W&B\xe1\xbe\x00"
    for record in records:
        first = True
        while True:
            if 32768 - len(data) % 32768 < 7:
                data += bytes(32768 - len(data) % 32768)
            room = 32768 - len(data) % 32768 - 7
            piece, record = record[:room], record[room:]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
            if not record:
                break
    return data


def logged(steps: Iterable[int], asked: int) -> list[bytes]:
    """A run's config, and what the Trainer's callback logs: its own step beside W&B's count."""
    config = field(17, field(1, b"abc123") + field(4, items({"max_steps": asked})))
    rows = [{"train/loss": 3 - i / 100, "train/global_step": 5 * i, "_step": 2 * i, "note": "x" * 700} for i in steps]
    return [config, *(field(2, items(row)) for row in rows)]


def test_the_history_of_wandbs_own_file(tmp_path: Path) -> None:
    records = [*logged(range(1, 201), asked=1000), field(18, b"")]
    (run,) = read_runs([wandb(tmp_path, wandb_bytes(records), output__log="\n".join(LINES))])
    assert run.get("loss").values == [3 - i / 100 for i in range(1, 201)]
    assert run.get("loss").steps[-1] == 1000 and run.planned_steps == 1000 and not run.unread
    assert run.error == "none"  # of the captured output


def test_a_file_of_wandb_that_was_cut_off(tmp_path: Path) -> None:
    whole = wandb_bytes(logged(range(1, 201), asked=1000))
    (run,) = read_runs([wandb(tmp_path, whole[: len(whole) * 6 // 10])])
    assert 100 < len(run.get("loss")) < 130 and run.planned_steps == 1000
    assert "cannot be read" in run.unread[0]


def test_a_run_that_wandb_resumed_is_one_run(tmp_path: Path) -> None:
    for started, steps in (("20250101_120000", range(1, 31)), ("20250102_120000", range(21, 61))):
        top = wandb(tmp_path, wandb_bytes(logged(steps, asked=300)), started)
    (run,) = read_runs([top])
    assert len(run.get("loss")) == 60 and run.resumed_at == [105.0]


def test_a_damaged_file_of_wandb_is_told(tmp_path: Path) -> None:
    (run,) = read_runs([wandb(tmp_path, output__log="\n".join(LINES))])
    assert len(run.get("loss")) == 60 and run.formats == ["wandb"]
    assert "is damaged" in run.unread[0]


def test_a_run_of_wandb_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"run-abc123.wandb is damaged\."):
        read_runs([wandb(tmp_path, output__log="no number here")])


def test_the_summary_of_wandb_where_it_is_all_that_is_left(tmp_path: Path) -> None:
    summary = json.dumps({"train/loss": 1.5, "train/global_step": 90, "_wandb": {"runtime": 5}})
    asked = "max_steps:\n  desc: null\n  value: -1\nnum_train_epochs:\n  value: 3\n"
    (run,) = read_runs([wandb(tmp_path, output__log="", wandb__summary__json=summary, config__yaml=asked)])
    assert run.get("loss").values == [1.5] and run.planned_epochs == 3
    assert "the last values alone" in run.unread[0]


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


@pytest.mark.parametrize("form", ["csv", "mlflow", "plain", "state"])
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
    elif form == "state":
        path = tmp_path / "trainer_state.json"
        history = [{"loss": loss, "step": i + 1} for i, loss in enumerate(losses)]
        tail = {"max_steps": 100_000, "stateful_callbacks": {"TrainerControl": {"args": {}, "attributes": {}}}}
        path.write_text(json.dumps({"log_history": history, **tail}, indent=2))
    else:
        path = tmp_path / "train.log"
        path.write_text("\n".join(f"step {i + 1}: loss {loss}" for i, loss in enumerate(losses)))
    (run,) = read_runs([path])
    series = run.get("loss")
    assert len(series) < 60_000
    assert series.steps[series.values.index(50.0)] == 70_002 and series.steps[-1] == 100_000


SHOWN = [(10 * i, round(2 - i / 50, 6), round(2.1 - i / 60, 6)) for i in range(1, 21)]


def test_the_table_of_a_notebook_as_text(tmp_path: Path) -> None:
    lines = ["Step\tTraining Loss\tValidation Loss", *("\t".join(map(str, row)) for row in SHOWN)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (run,) = read_runs([tmp_path])
    assert run.get("loss").values == [row[1] for row in SHOWN]
    assert run.get("eval_loss").steps == [row[0] for row in SHOWN]


def test_the_table_in_a_notebook(tmp_path: Path) -> None:
    head = "<tr>\n <th>Step</th>\n <th>Training Loss</th>\n <th>Validation Loss</th>\n </tr>"
    rows = "".join(f"<tr>\n <td>{a}</td>\n <td>{b}</td>\n <td>{c}</td>\n </tr>" for a, b, c in SHOWN)
    output = {"output_type": "display_data", "data": {"text/html": [f"<div><progress/>[200/200]</div><table>{head}",
                                                                    f"{rows}</table><p>"]}}  # fmt: skip
    error = {"output_type": "error", "ename": "OutOfMemoryError", "evalue": "CUDA out of memory.", "traceback": []}
    cells = [{"cell_type": "code", "source": "trainer.train()", "outputs": [output, error]}]
    (tmp_path / "tune.ipynb").write_text(json.dumps({"cells": cells}))
    for place in (tmp_path, tmp_path / "tune.ipynb"):
        (run,) = read_runs([place])
        assert run.get("loss").values == [row[1] for row in SHOWN]
        assert len(run.get("eval_loss")) == 20 and run.error == "OutOfMemoryError: CUDA out of memory."


def test_a_notebook_that_did_not_run_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "tune.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": []}]}))
    with pytest.raises(Unreadable, match="holds no loss"):
        read_runs([tmp_path / "tune.ipynb"])


def test_bars_alone_in_a_folder(tmp_path: Path) -> None:
    bars = [f"\r {i}/60 [00:0{i // 10}<00:09, 9.9it/s, loss={2 - i / 100:.3f}, lr=1e-3]" for i in range(1, 61)]
    (tmp_path / "train.log").write_text("".join(bars))
    (run,) = read_runs([tmp_path])
    assert run.get("loss").steps[-1] == 60 and run.planned_steps == 60


@pytest.mark.parametrize("form", ["[rank {}] step {}/60 loss: {} lr: 1e-3", "{}: step {}/60 loss: {}"])
def test_what_several_ranks_print_is_one_run(form: str, tmp_path: Path) -> None:
    """A loss that is none on one rank is none of the run."""
    told = {(s, r): math.nan if s > 40 and r == 0 else 3 - s / 100 + r / 10 for s in range(1, 61) for r in (0, 1)}
    (tmp_path / "train.log").write_text("\n".join(form.format(r, s, loss) for (s, r), loss in told.items()))
    (run,) = read_runs([tmp_path])
    assert run.get("loss").values[:2] == pytest.approx([3.04, 3.03])
    assert run.get("loss").steps == list(range(1, 61)) and math.isnan(run.get("loss").values[-1])


@pytest.mark.parametrize(
    "heading", ["Steps;Train Loss;Val Loss;LR", "step;training_loss;validation_loss;learning_rate"]
)
def test_columns_as_people_name_them(heading: str, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(heading + "\n" + "".join(f"{i};{3 - i},5;{4 - i},5;0,1\n" for i in (1, 2)))
    (run,) = read_runs([tmp_path])
    assert run.get("loss").values == [2.5, 1.5] and run.get("eval_loss").values == [3.5, 2.5]


def test_the_trainers_mean_is_no_loss_beside_the_loss(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("Step,run - train/loss,run - train_loss\n1,2.5,\n2,2.25,\n2,,2.4\n")
    (run,) = read_runs([tmp_path])
    assert run.get("loss").values == [2.5, 2.25]


@pytest.mark.parametrize(
    "bar", ["Loading weights: 100%|##| 21/21 [00:00<00:00, 9.1it/s]", "100%|##| 21/21 [00:01<00:00, 9.1it/s]"]
)
def test_a_bar_that_stands_still_does_not_number_the_records(bar: str) -> None:
    """transformers shows a bar while it loads; with disable_tqdm no other one follows."""
    lines = [
        f"{{'loss': '{6 - 0.1 * i:.3f}', 'grad_norm': '0.9', 'learning_rate': '0.001', 'epoch': '{i / 10}'}}"
        for i in range(20)
    ]
    course = course_from_output("\n".join([bar, *lines]))
    assert course.planned_steps is None
    assert len(course.get("loss").steps) == 20
    assert "the log names no steps: a step here is the number of a record" in course_lines(course_facts(course))
