"""What a file says of its data by words alone: slices of one split, and data that was prepared before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.config.prepared import stale_prepared
from qlora_doctor.probes.config.splits import splits_overlap
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup

BASE = {"base_model": "Qwen/Qwen2.5-7B", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "micro_batch_size": 1}


def setup_of(folder: Path, **more: Any) -> Setup:
    path = folder / "qlora.yml"
    path.write_text(json.dumps({**BASE, **more}))
    return read_setup(path)


@pytest.mark.parametrize(
    ("trained", "evaluated", "said"),
    [
        ("train[:90%]", "train[80%:]", "train[:90%] and train[80%:] of my/set"),
        ("train[:90%]", "train[90%:]", "none"),
        ("train", "train[:1000]", "train and train[:1000] of my/set"),
        ("train[1000:]", "train[:1000]", "none"),
        ("train[500:]", "train[:1000]", "train[500:] and train[:1000] of my/set"),
        ("train", "test", "none"),
        ("train[:90%]", "train[5000:]", None),
        ("train[-500:]", "train[:1000]", None),
        ("train+test", "test", None),
    ],
)
def test_slices(trained: str, evaluated: str, said: str | None, tmp_path: Path) -> None:
    setup = setup_of(
        tmp_path,
        datasets=[{"path": "my/set", "type": "alpaca", "split": trained}],
        test_datasets=[{"path": "my/set", "type": "alpaca", "split": evaluated}],
    )
    assert splits_overlap(setup) == said


def test_another_set_shares_nothing(tmp_path: Path) -> None:
    data = {
        "datasets": [{"path": "my/set", "type": "alpaca"}],
        "test_datasets": [{"path": "other/set", "type": "alpaca"}],
    }
    assert splits_overlap(setup_of(tmp_path, **data)) == "none"
    assert splits_overlap(setup_of(tmp_path, datasets=data["datasets"])) is None


def test_prepared_data_that_is_older_than_its_file(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "output": "b"}\n')
    setup = setup_of(
        tmp_path, datasets=[{"path": "rows.jsonl", "type": "alpaca"}], dataset_prepared_path="last_run_prepared"
    )
    assert stale_prepared(setup) is None, "nothing is prepared"
    table = tmp_path / "last_run_prepared" / "0123" / "data-00000-of-00001.arrow"
    table.parent.mkdir(parents=True)
    table.write_bytes(b"")
    os.utime(rows, (1_000, 1_000))
    assert stale_prepared(setup) == "none"
    os.utime(table, (500, 500))
    assert stale_prepared(setup) == "last_run_prepared is older than rows.jsonl"
