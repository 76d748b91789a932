"""A reloaded adapter against the outputs that its run kept."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import qlora_doctor
from qlora_doctor.core.errors import UsageError
from qlora_doctor.core.report import Report
from qlora_doctor.run.session import CheckOptions
from qlora_doctor.run.stored import judge_stored
from qlora_doctor.watching.outputs import kept_outputs
from tests.faults.planting import found
from tests.models import make_model, make_tokenizer
from tests.stored.planting import changed
from tests.watching.loops import adamw, adapted, batches


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose weights are large enough that its answers are its own."""
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path_factory.mktemp("reload") / "base", "llama", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter *= 1 if "norm" in name else 6
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: a checkpoint after four steps, the adapter after eight, and the report beside them."""
    folder = tmp_path_factory.mktemp("run")
    model = adapted(base, lora_dropout=0.1)
    optimizer = adamw(model, 2e-2)
    with qlora_doctor.watch(model, optimizer, f"json={folder / 'qlora-doctor.json'}",
                            tokenizer=make_tokenizer(), quiet=True):  # fmt: skip
        for step, batch in enumerate(batches(8)):
            model.train()
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 3:
                model.save_pretrained(folder / "checkpoint-4")
        model.save_pretrained(folder / "adapter")
    return folder


def judged(folder: Path, base: Path, report: Path | None = None) -> Report:
    return judge_stored(folder, CheckOptions(device="cpu"), base=base, load=True, run_report=report)


def test_a_reload_gives_the_outputs_of_training(run: Path, base: Path) -> None:
    report = judged(run / "adapter", base)
    stored = report.facts.stored
    assert stored is not None and stored.reload == "same" and stored.reload_step == 8, stored
    assert stored.reload_way == "adapter-on-4bit" and stored.reload_agreement_ratio == pytest.approx(1, abs=0.1)
    assert stored.base_divergence is not None and stored.reload_divergence is not None
    assert stored.base_divergence > 20 * stored.reload_divergence
    assert not {"QD761", "QD762"} & found(report, "info")


def test_an_earlier_checkpoint_is_not_held_against_the_end(run: Path, base: Path) -> None:
    stored = judged(run / "checkpoint-4", base).facts.stored
    assert stored is not None and stored.reload is None and stored.ways


def test_a_base_that_was_changed_since(run: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.5 * parameter.std() * torch.randn_like(parameter)
    other.save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    report = judged(run / "adapter", tmp_path / "other", run / "qlora-doctor.json")
    assert report.facts.stored is not None and report.facts.stored.reload == "differs"
    assert "QD761" in found(report, "error")


def test_an_adapter_that_is_not_applied(run: Path, base: Path, tmp_path: Path) -> None:
    """The same numbers under names that PEFT leaves unread."""
    folder = tmp_path / "adapter"
    shutil.copytree(run / "adapter", folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 1e-6}))
    report = judged(folder, base, run / "qlora-doctor.json")
    assert report.facts.stored is not None and report.facts.stored.reload == "as-base"
    assert "QD761" in found(report, "error")


def test_weights_of_another_moment(run: Path, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(run / "adapter", folder)
    changed(lambda name: "lora_B" in name, lambda tensor: tensor * 0.5)(folder)
    report = judged(folder, base, run / "qlora-doctor.json")
    assert report.facts.stored is not None and report.facts.stored.reload == "other-weights"
    assert "QD762" in found(report, "warning") and "QD761" not in found(report, "error")


def test_a_report_that_keeps_nothing_is_told(base: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"facts": {}}))
    with pytest.raises(UsageError, match="keeps no outputs"):
        judged(run / "adapter", base, tmp_path / "report.json")


def state_of(model: Any) -> tuple[Any, ...]:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    return weights, [m.training for m in model.modules()], torch.get_rng_state(), random.getstate()


def test_keeping_leaves_everything_as_it_was(base: Path) -> None:
    model = adapted(base, lora_dropout=0.1).train()
    before = state_of(model)
    once = kept_outputs(model, None, step=1, folder=None)
    after = state_of(model)
    assert once is not None and once.ids == kept_outputs(model, None, step=1, folder=None).ids  # type: ignore[union-attr]
    assert before[1:2] == after[1:2] and torch.equal(before[2], after[2]) and before[3] == after[3]
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_kept_equals_a_plain_script(base: Path) -> None:
    model = adapted(base).eval()
    kept = kept_outputs(model, make_tokenizer(), step=1, folder=None)
    assert kept is not None and 8 < len(kept.ids) <= 48
    with torch.no_grad():
        answer = model(input_ids=torch.tensor([kept.ids]), labels=torch.tensor([kept.ids]))
    logs = answer.logits[0, :-1].float().log_softmax(-1)
    assert kept.loss == pytest.approx(answer.loss.item(), rel=1e-3)
    assert [row[0] for row in kept.likeliest] == logs.argmax(-1).tolist()
    assert kept.log_probabilities[3][0] == pytest.approx(logs[3].max().item(), abs=1e-3)
    norm = sum(p.double().square().sum() for n, p in model.named_parameters() if "lora_" in n) ** 0.5
    assert kept.adapter_norm == pytest.approx(float(norm.detach()), rel=1e-6)


def test_it_can_be_left_out(base: Path) -> None:
    model = adapted(base)
    optimizer = adamw(model)
    with qlora_doctor.watch(model, optimizer, quiet=True, keep_outputs=False) as watched:
        for batch in batches(3):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watched.report is not None and watched.report.facts.run is not None
    assert watched.report.facts.run.kept_outputs is None


def test_a_failure_is_told_and_ends_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlora_doctor.watching import outputs

    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(outputs, "kept_outputs", fails)
    model = adapted(base)
    optimizer = adamw(model)
    with qlora_doctor.watch(model, optimizer, quiet=True) as watched:
        for batch in batches(3):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run = watched.report.facts.run if watched.report else None
    assert run is not None and run.ended == "well" and run.kept_outputs is None
    assert run.troubles == ["The trained model's outputs were not kept: OutOfMemoryError: CUDA out of memory."]
    assert run.base_changed_at_end == []
