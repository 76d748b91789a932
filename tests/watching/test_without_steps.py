"""A run that ends before its first step: what it was given, who left it without, and where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qlora_doctor
from qlora_doctor.facts.run import RunFailure
from qlora_doctor.run.watched import with_its_rule
from qlora_doctor.watching.emptied import EmptiedRows
from qlora_doctor.watching.ends import failure_of
from tests.watching.loops import adamw, adapted, batches, watched
from tests.watching.test_run_command import rules_of, run

HEAD = """
import torch
import transformers
from datasets import Dataset
from torch.utils.data import DataLoader
"""


def _raise(error: Exception) -> None:
    raise error


def _told(tmp_path: Path, body: str) -> dict[str, Any]:
    (tmp_path / "train.py").write_text(HEAD + body, encoding="utf-8")
    done = run(tmp_path, sys.executable, "train.py", options=("-q", "-o", "json=report.json"))
    assert done.returncode == 1, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    return found


def test_a_filter_leaves_no_row(tmp_path: Path) -> None:
    report = _told(
        tmp_path,
        "rows = Dataset.from_dict({'input_ids': [[5, 6, 7]] * 9, 'labels': [[-100, -100, -100]] * 9})\n"
        "rows = rows.filter(lambda row: any(label != -100 for label in row['labels']))\n"
        "DataLoader(rows, batch_size=2, shuffle=True)\n",
    )
    assert rules_of(report) == {"QD465"}
    assert report["findings"][0]["message"] == (
        "Nothing is left to train on: filter in train.py, line 7 left out all 9 rows, because no row has a label that "
        "counts in its first 3 tokens."
    )


def test_an_exception_before_the_training(tmp_path: Path) -> None:
    report = _told(tmp_path, "Dataset.from_dict({'text': ['a']}).map(lambda row: {'ids': row['content']})\n")
    assert rules_of(report) == {"QD750"}
    message = report["findings"][0]["message"]
    assert message.startswith("Preparing the data failed: the rows have no column 'content'; theirs are text.")


def test_calls_that_leave_rows_are_not_noted() -> None:
    from datasets import Dataset

    emptied = EmptiedRows(_raise)
    rows = Dataset.from_dict({"text": ["a", "bb"]})

    def call(name: str, function: Any) -> Any:
        return emptied._called(getattr(Dataset, name).__get__(rows), rows, (function,), {"desc": "Choosing"})

    left = call("filter", lambda row: len(row["text"]) > 1)
    assert len(left) == 1 and not emptied.noted and emptied.of(left) is None
    none = call("filter", lambda row: len(row["text"]) > 2)
    assert emptied.of(none) is not None and emptied.noted[0][1].rows == 2
    assert "test_without_steps (Choosing)" in emptied.noted[0][1].by


def test_no_update_takes_that_many_batches(tiny_llama: Path) -> None:
    model = adapted(tiny_llama)
    report = watched(model, adamw(model), list(batches(4)), accumulate=8)
    assert rules_of(report.model_dump()) == {"QD466"}
    assert "4 batches went backward" in report.findings[0].message


def test_an_update_by_hand_is_one(tiny_llama: Path) -> None:
    """No optimizer steps, and the weights move."""
    model = adapted(tiny_llama)
    with qlora_doctor.watch(model, quiet=True) as seen:
        model.train()
        for batch in batches(4):
            model(**batch).loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 1e-2 * parameter.grad
                        parameter.grad = None
    assert seen.report is not None and "QD466" not in rules_of(seen.report.model_dump())


def test_the_loader_gives_no_batch(tiny_llama: Path) -> None:
    from torch.utils.data import DataLoader

    model = adapted(tiny_llama)
    loader = DataLoader(list(range(3)), batch_size=8, drop_last=True)
    with qlora_doctor.watch(model, adamw(model), quiet=True) as seen:
        for batch in loader:
            model(**batch)
    assert seen.report is not None
    assert [f.message for f in seen.report.findings if f.severity != "info"] == [
        "The run ends without one optimizer step: the data loader gives no batch: its 3 rows are fewer than "
        "a batch of 8 and drop_last leaves them out."
    ]


@pytest.mark.parametrize(
    ("module", "phase"), [("/site/trl/trainer/sft_trainer.py", "building the trainer"), ("a.py", None)]
)
def test_the_phase_of_a_constructor(module: str, phase: str | None) -> None:
    names: dict[str, Any] = {}
    exec(compile("def __init__():\n    raise ValueError('no')\n", module, "exec"), names)
    with pytest.raises(ValueError, match="no") as raised:
        names["__init__"]()
    assert failure_of(raised.value, 0, 0).phase == phase


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (
            "The run failed: No columns in the dataset match the model's forward method signature: (input_ids).",
            "QD676 (data-step-not-kept)",
        ),
        ("The run failed: something odd.", None),
        ("The forward failed: the loss is not what was expected in the training.", None),
    ],
)
def test_the_rule_that_speaks_of_a_message(message: str, rule: str | None) -> None:
    found = with_its_rule(RunFailure(kind="other", message=message))
    assert found.speaks_of_it == rule
