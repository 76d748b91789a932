"""transformers' Trainer, watched through ``DoctorCallback``: what it shows, and faults that sit in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import qlora_doctor
from qlora_doctor.core.report import Report
from tests.faults.planting import found, told
from tests.models import VOCABULARY
from tests.watching.loops import adamw, adapted, hooks_on


def rows(count: int = 32, *, masked: int = 0, labels: bool = True, lengths: tuple[int, ...] = (16,)) -> Any:
    """A tokenized data set of random rows whose first ``masked`` labels are -100."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        ids = torch.randint(5, VOCABULARY, (lengths[number % len(lengths)],), generator=generator).tolist()
        row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        made.append(row | ({"labels": [-100] * masked + ids[masked:]} if labels else {}))
    return Dataset.from_list(made)


def trained(
    folder: Path, tmp_path: Path, *, data: Any = None, kind: Any = None, keep: dict[str, Any] | None = None, **more: Any
) -> tuple[Any, Report]:
    """A trainer after four steps, and the report of its callback."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    given = {name: more.pop(name) for name in ("data_collator", "optimizers") if name in more}
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        **{"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 2e-4, "logging_steps": 1}
        | {"report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True} | more,
    )  # fmt: skip
    callback = qlora_doctor.DoctorCallback(quiet=True)
    trainer = (kind or Trainer)(
        model=(keep or {}).get("model") or adapted(folder),
        args=arguments,
        train_dataset=data if data is not None else rows(),
        callbacks=[callback],
        **{"data_collator": default_data_collator} | given,
    )
    trainer.train()
    assert callback.report is not None
    return trainer, callback.report


def test_a_healthy_training(tiny_llama: Path, tmp_path: Path) -> None:
    trainer, report = trained(tiny_llama, tmp_path, gradient_accumulation_steps=2, warmup_steps=1)
    run = report.facts.run
    assert not found(report, "warning"), told(report)
    assert run is not None and run.kind == "trainer" and run.steps == 4 and run.watched_steps == 2
    assert run.loss_scale == pytest.approx(1, rel=0.2) and run.scheduler_steps == 1.0
    assert report.facts.course is not None and report.facts.course.last_step == 4
    assert report.facts.config is not None and report.facts.config.gradient_accumulation == 2
    assert hooks_on(trainer.model) == hooks_on(adapted(tiny_llama)) and "compute_loss" not in vars(trainer)


def test_a_loss_of_ones_own_that_is_summed(tiny_llama: Path, tmp_path: Path) -> None:
    """It takes num_items_in_batch, so that the trainer does not divide, and leaves it aside."""
    from transformers import Trainer

    class Weighted(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            flat = logits[:, :-1].reshape(-1, logits.size(-1))
            return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1))

    _, report = trained(tiny_llama, tmp_path, kind=Weighted, gradient_accumulation_steps=4)
    assert found(report, "error") == {"QD742"}, told(report)


def test_a_collator_that_discards_the_mask(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    _, report = trained(tiny_llama, tmp_path, data=rows(masked=8), data_collator=collator)
    assert found(report, "error") == {"QD633"}, told(report)


def test_a_mask_that_is_kept(tiny_llama: Path, tmp_path: Path) -> None:
    _, report = trained(tiny_llama, tmp_path, data=rows(masked=8))
    assert not found(report, "warning"), told(report)
    assert report.facts.batch is not None and report.facts.batch.trained_ratio == 0.5


def test_weight_decay_that_an_optimizer_of_ones_own_drops(tiny_llama: Path, tmp_path: Path) -> None:
    model = adapted(tiny_llama)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4, weight_decay=0.0)
    _, report = trained(tiny_llama, tmp_path, keep={"model": model}, optimizers=(optimizer, None), weight_decay=0.1)
    assert found(report, "warning") == {"QD745"}, told(report)


def test_a_resume_at_the_end(tiny_llama: Path, tmp_path: Path) -> None:
    trainer, _ = trained(tiny_llama, tmp_path, save_strategy="steps", save_steps=4)
    callback = qlora_doctor.DoctorCallback(quiet=True)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=True)
    assert callback.report is not None
    assert "QD746" in found(callback.report, "error"), told(callback.report)


def test_a_saved_adapter_is_the_one_in_memory(tiny_llama: Path, tmp_path: Path) -> None:
    _, report = trained(tiny_llama, tmp_path, save_strategy="steps", save_steps=4)
    assert report.facts.run is not None and report.facts.run.adapter_saved_differs == []


def test_saved_from_another_model(tiny_llama: Path, tmp_path: Path) -> None:
    from qlora_doctor.watching.saved import differing

    model = adapted(tiny_llama)
    model.save_pretrained(tmp_path)
    assert differing(model, tmp_path) == []
    optimizer = adamw(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert len(differing(model, tmp_path) or ()) == 28
    assert differing(model, tmp_path / "nowhere") is None
