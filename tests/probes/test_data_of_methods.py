"""Data as each method takes it: what SFT, preference and reinforcement trainers of TRL read, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from qlora_doctor import check
from qlora_doctor.facts import DataFacts
from qlora_doctor.pipeline.samples import read_samples
from qlora_doctor.probes.data.look import look_at_data
from qlora_doctor.setup.setup import Data, Setup
from tests.probes.conftest import make_setup, silent

PROMPT = [{"role": "user", "content": "one two"}]
GOOD, BAD = [{"role": "assistant", "content": "three four"}], [{"role": "assistant", "content": "no"}]
ROWS: dict[str, dict[str, Any]] = {
    "preference": {"prompt": PROMPT, "chosen": GOOD, "rejected": BAD},
    "preference-of-texts": {"prompt": "one two", "chosen": "three four", "rejected": "no"},
    "preference-without-prompt": {"chosen": [*PROMPT, *GOOD], "rejected": [*PROMPT, *BAD]},
    "unpaired": {"prompt": "one two", "completion": "three", "label": True},
    "prompt-only": {"prompt": PROMPT, "answer": "7"},
    "messages": {"messages": [*PROMPT, *GOOD]},
    "conversations": {"conversations": [{"from": "user", "value": "one"}, {"from": "assistant", "value": "two"}]},
    "text": {"text": "one two three"},
}
TAKEN = {
    "dpo": {"preference", "preference-of-texts", "preference-without-prompt"},
    "orpo": {"preference", "preference-of-texts", "preference-without-prompt"},
    "cpo": {"preference", "preference-of-texts", "preference-without-prompt"},
    "reward": {"preference", "preference-of-texts", "preference-without-prompt"},
    "kto": {"unpaired", "preference", "preference-of-texts", "preference-without-prompt"},
    "grpo": {"prompt-only", "preference", "preference-of-texts", "unpaired"},
    "rloo": {"prompt-only", "preference", "preference-of-texts", "unpaired"},
    "sft": {"messages", "conversations", "text", "unpaired"},
}
"""Method → rows that TRL's trainer takes; further columns are passed by (or handed to the reward)."""


def setup_of(folder: Path, file: Path, method: str | None, rows: list[dict[str, Any]], **data: Any) -> Setup:
    pytest.importorskip("trl")
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    setup = make_setup(folder, trainer="trl", max_length=64)
    training = setup.training.model_copy(update={"method": method})
    return setup.model_copy(update={"data": Data(train=str(file), **data), "training": training})


def look(folder: Path, tmp_path: Path, method: str | None, rows: list[dict[str, Any]], **data: Any) -> DataFacts:
    return look_at_data(setup_of(folder, tmp_path / "rows.jsonl", method, rows, **data), silent)


@pytest.mark.parametrize("method", TAKEN)
def test_a_method_takes_its_own_rows_and_no_others(tiny_llama: Path, tmp_path: Path, method: str) -> None:
    taken = set()
    for name, row in ROWS.items():
        facts = look(tiny_llama, tmp_path, method, [row] * 4)
        if facts.failure is None:
            taken.add(name)
            assert facts.rows == 4 and facts.tokens_max
    assert taken == TAKEN[method]


@pytest.mark.parametrize(("method", "name"), [("dpo", "preference"), ("kto", "unpaired"), ("grpo", "prompt-only")])
def test_nothing_is_said_of_labels_that_a_method_has_not(
    tiny_llama: Path, tmp_path: Path, method: str, name: str
) -> None:
    facts = look(tiny_llama, tmp_path, method, [ROWS[name]] * 4)
    known = (facts.labels_masked_ratio, facts.rows_fully_masked, facts.eos_supervised_ratio, facts.double_bos_rows)
    assert known == (None, None, None, None)


def test_an_unknown_method_is_told_by_its_columns(tiny_llama: Path, tmp_path: Path) -> None:
    from qlora_doctor.setup.setup import Origin

    setup = setup_of(tiny_llama, tmp_path / "rows.jsonl", None, [ROWS["preference"]] * 2)
    unknown = {"training.method": Origin(source="unknown")}
    setup = setup.model_copy(update={"origins": {**setup.origins, **unknown}})
    assert read_samples(setup, 2).format == "preference"


def test_the_longer_answer_counts(tiny_llama: Path, tmp_path: Path) -> None:
    long = [{"role": "assistant", "content": "word " * 100}]
    row = {"prompt": PROMPT, "chosen": GOOD, "rejected": long}
    facts = look(tiny_llama, tmp_path, "dpo", [row, ROWS["preference"]])
    assert facts.truncated_ratio == 0.5 and facts.tokens_max is not None and facts.tokens_max > 64
    assert look(tiny_llama, tmp_path, "grpo", [{"prompt": long}]).truncated_ratio == 0.0


def test_pairs_without_a_difference_and_labels_of_one_kind(tiny_llama: Path, tmp_path: Path) -> None:
    same = {"prompt": PROMPT, "chosen": GOOD, "rejected": GOOD}
    assert look(tiny_llama, tmp_path, "dpo", [same, ROWS["preference"]]).identical_pairs == 1
    bad = {**ROWS["unpaired"], "label": False}
    assert look(tiny_llama, tmp_path, "kto", [ROWS["unpaired"]] * 3 + [bad]).desirable_ratio == 0.75


def test_a_step_stands_in_with_the_better_answer(tiny_llama: Path, tmp_path: Path) -> None:
    for name, columns in {
        "preference": ["prompt", "completion"],
        "preference-without-prompt": ["messages"],
        "prompt-only": ["messages"],
    }.items():
        method = "grpo" if name == "prompt-only" else "dpo"
        samples = read_samples(setup_of(tiny_llama, tmp_path / "rows.jsonl", method, [ROWS[name]] * 2), 2)
        assert samples.supervised().columns == columns


@pytest.mark.parametrize("label", ["good", None, 2])
def test_kto_counts_true_and_false_alone(tiny_llama: Path, tmp_path: Path, label: Any) -> None:
    facts = look(tiny_llama, tmp_path, "kto", [ROWS["unpaired"], {**ROWS["unpaired"], "label": label}])
    assert facts.failure is not None and "KTO takes true or false" in facts.failure and repr(label) in facts.failure
    assert look(tiny_llama, tmp_path, "kto", [{**ROWS["unpaired"], "label": n % 2} for n in range(4)]).failure is None


def classes(folder: Path, tmp_path: Path, rows: list[dict[str, Any]], *, unknown: bool = False) -> DataFacts:
    from qlora_doctor.setup.setup import Origin

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    setup = make_setup(folder, trainer=None, max_length=64)
    model = setup.model.model_copy(update={"task": "sequence-classification", "num_labels": None if unknown else 2})
    changed: dict[str, Any] = {"model": model, "data": Data(train=str(file))}
    if unknown:
        changed["origins"] = {**setup.origins, "model.num_labels": Origin(source="unknown")}
    return look_at_data(setup.model_copy(update=changed), silent)


@pytest.mark.parametrize(
    ("label", "told"), [(2, "the label 2, and the model scores 2 classes"), ("good", "text, such as 'good'")]
)
def test_a_label_that_is_no_class_of_the_model(tiny_llama: Path, tmp_path: Path, label: Any, told: str) -> None:
    facts = classes(tiny_llama, tmp_path, [{"text": "one two", "label": 1}, {"text": "one", "label": label}])
    assert facts.failure is not None and told in facts.failure


def test_a_classifier_without_labels(tiny_llama: Path, tmp_path: Path) -> None:
    facts = classes(tiny_llama, tmp_path, [{"text": "one two"}] * 2)
    assert facts.failure is not None and "the data has text and no label" in facts.failure


def test_a_number_of_classes_that_was_not_read_refuses_no_label(tiny_llama: Path, tmp_path: Path) -> None:
    assert classes(tiny_llama, tmp_path, [{"text": "one two", "label": 7}] * 2, unknown=True).failure is None


def test_a_class_is_no_token(tiny_llama: Path, tmp_path: Path) -> None:
    facts = classes(tiny_llama, tmp_path, [{"text": "one two", "label": n % 2} for n in range(8)])
    assert facts.failure is None and facts.tokens_max
    assert (facts.labels_masked_ratio, facts.eos_supervised_ratio) == (None, None)


@pytest.mark.parametrize("task", [None, "sequence-classification"])
def test_a_reward_trainer_leaves_long_pairs_out_and_cuts_none(
    tiny_llama: Path, tmp_path: Path, task: str | None
) -> None:
    """A pair of which one answer is too long is left out; a task that names the head makes no classes of pairs."""
    long = {"prompt": "one", "chosen": "three " * 90, "rejected": "no"}
    setup = setup_of(tiny_llama, tmp_path / "rows.jsonl", "reward", [ROWS["preference-of-texts"], long])
    facts = look_at_data(setup.model_copy(update={"model": setup.model.model_copy(update={"task": task})}), silent)
    assert (facts.rows_left_out, facts.truncated_ratio) == (1, 0.0)
    dpo = look(tiny_llama, tmp_path, "dpo", [ROWS["preference-of-texts"], long])
    assert (dpo.rows_left_out, dpo.truncated_ratio) == (None, 0.5)


@pytest.mark.parametrize(("method", "status"), [("online-dpo", "done"), ("sdft", "skipped")])
def test_rows_of_a_method_that_is_not_stepped_are_held_against_its_own_form_or_none(
    tiny_llama: Path, tmp_path: Path, method: str, status: str
) -> None:
    setup = setup_of(tiny_llama, tmp_path / "rows.jsonl", method, [{"prompt": f"What is {n}?"} for n in range(8)])
    report = check(setup, stages=("data",), cache=False, offline=True)
    assert [record.status for record in report.stages if record.name == "data"] == [status]
    assert not [finding for finding in report.findings if finding.severity == "error"]


def test_a_native_config_classifies_by_its_task_type(tiny_llama: Path, tmp_path: Path) -> None:
    from qlora_doctor.probes.data.look import see_data
    from qlora_doctor.reading.native import setup_from_mapping as read_data

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"one two {n}", "label": n % 3}) for n in range(9)), encoding="utf-8")
    config = {"model": {"name_or_path": str(tiny_llama), "num_labels": 3}, "lora": {"task_type": "SEQ_CLS"}}
    seen = see_data(read_data({**config, "data": {"train": str(file)}}), silent)
    assert seen.data.failure is None and seen.batch is not None and seen.batch.classes == 3
    two = read_data({**config, "model": str(tiny_llama), "data": {"train": str(file)}})
    assert "the label 2, and the model scores 2 classes" in (look_at_data(two, silent).failure or "")


def test_completions_that_all_count_as_cut(tiny_llama: Path, tmp_path: Path) -> None:
    """TRL masks a completion whose last token is no end of generation, or that is as long as it may be."""
    rows = [{"prompt": [{"role": "user", "content": f"one {n}"}], "solution": "three four " * 20} for n in range(6)]

    def all_masked(folder: Path, **training: Any) -> bool | None:
        setup = setup_of(folder, tmp_path / "rows.jsonl", "grpo", rows)
        extra = {"mask_truncated_completions": True, "max_completion_length": 4096, **training}
        changed = setup.model_copy(update={"training": setup.training.model_copy(update={"extra": extra})})
        return look_at_data(changed, silent).completions_all_masked

    assert all_masked(tiny_llama) is False and all_masked(tiny_llama, max_completion_length=8) is True
    assert all_masked(tiny_llama, max_completion_length=8, mask_truncated_completions=False) is False
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    (other / "generation_config.json").unlink()
    said = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**said, "eos_token": "<|bos|>"}))
    assert all_masked(other) is True
