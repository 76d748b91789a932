"""Slips of a script's own training code that change how large an update is."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.python.arithmetic_of_updates import (
    loss_fault,
    made_for_micro_batches,
    scheduler_per_micro_batch,
)


def function(arguments: str, body: str) -> ast.FunctionDef:
    (made,) = ast.parse(f"def compute_loss({arguments}):\n    {body}\n").body
    assert isinstance(made, ast.FunctionDef)
    return made


@pytest.mark.parametrize(
    ("arguments", "body", "fault"),
    [
        (
            "self, model, inputs, return_outputs=False, num_items_in_batch=None",
            "return model(**inputs).loss",
            "ignores",
        ),
        ("self, model, inputs, **kwargs", "return super().compute_loss(model, inputs)", "ignores"),
        ("self, model, inputs, return_outputs=False", "return model(**inputs).loss", "takes-no"),
        ("self, model, inputs, **kwargs", "return super().compute_loss(model, inputs, **kwargs)", None),
        ("self, model, inputs, num_items_in_batch=None", "return f(model, inputs, num_items_in_batch)", None),
        ("self, model, inputs, num_items_in_batch=None", "return ce(x) / self.args.gradient_accumulation_steps", None),
        ("self, model, inputs, num_items_in_batch=None", "return ce(x, y, reduction='sum') / n", None),
    ],
)
def test_a_compute_loss(arguments: str, body: str, fault: str | None) -> None:
    found = loss_fault(function(arguments, body))
    assert found == (f"loss-{fault}-count" if fault else None)


LOOP = """
for epoch in range(3):
    for step, batch in enumerate(loader):
        loss = model(**batch).loss / 8
        loss.backward()
        if (step + 1) % 8 == 0:
            optimizer.step()
            {inside}
            optimizer.zero_grad()
        {outside}
    {epoch}
"""


@pytest.mark.parametrize(
    ("inside", "outside", "epoch", "wrong"),
    [
        ("pass", "scheduler.step()", "pass", True),
        ("scheduler.step()", "pass", "pass", False),
        ("pass", "pass", "lr_scheduler.step()", False),
        ("pass", "pass", "pass", False),
    ],
)
def test_a_scheduler(inside: str, outside: str, epoch: str, wrong: bool) -> None:
    loop = ast.parse(LOOP.format(inside=inside, outside=outside, epoch=epoch)).body[0]
    assert (scheduler_per_micro_batch(loop) is not None) is wrong


def test_without_accumulation_every_step_is_one() -> None:
    loop = ast.parse("for b in loader:\n    loss(b).backward()\n    optimizer.step()\n    scheduler.step()").body[0]
    assert scheduler_per_micro_batch(loop) is None


def test_a_script_tells_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "from transformers import AutoModelForCausalLM, Trainer, TrainingArguments\n"
        "class Mine(Trainer):\n"
        "    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):\n"
        "        return model(**inputs).loss\n"
        "model = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B', load_in_4bit=True)\n"
        "Mine(model, TrainingArguments('out', gradient_accumulation_steps=8), train_dataset=d).train()\n"
    )
    config = conclude(read_setup(tmp_path / "train.py"), None)
    told = {each.kind: each for each in config.not_followed or ()}
    assert told["loss-ignores-count"].line == 3 and told["loss-ignores-count"].note == "Mine.compute_loss"


@pytest.mark.parametrize(("returned", "ignored"), [("loss", True), ("loss / num_items_in_batch", False)])
def test_a_loss_function_that_a_trainer_is_given(returned: str, ignored: bool, tmp_path: Path) -> None:
    """What compute_loss_func gives transformers never divides (``Trainer.training_step``)."""
    (tmp_path / "train.py").write_text(
        "from transformers import AutoModelForCausalLM, Trainer, TrainingArguments\n"
        "def mine(outputs, labels, num_items_in_batch=None):\n"
        f"    loss = cross_entropy(outputs.logits, labels)\n    return {returned}\n"
        "model = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-0.5B', load_in_4bit=True)\n"
        "args = TrainingArguments('out', gradient_accumulation_steps=8)\n"
        "Trainer(model, args, train_dataset=d, compute_loss_func=mine).train()\n"
    )
    config = conclude(read_setup(tmp_path / "train.py"), None)
    notes = [each.note for each in config.not_followed or () if each.kind == "loss-ignores-count"]
    assert notes == (["mine"] if ignored else [])


@pytest.mark.parametrize(("ratio", "decay", "dropped"), [(16, 0.01, True), (None, 0.01, False), (16, 0.0, False)])
def test_axolotls_lora_plus_drops_the_decay(ratio: int | None, decay: float, dropped: bool, tmp_path: Path) -> None:
    config = {"base_model": "Qwen/Qwen2.5-7B", "adapter": "qlora", "load_in_4bit": True, "lora_r": 8,
              "micro_batch_size": 1, "weight_decay": decay, "loraplus_lr_ratio": ratio}  # fmt: skip
    (tmp_path / "q.yml").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    found = conclude(read_setup(tmp_path / "q.yml"), None).remark_notes or []
    assert any(each.kind == "optimizer-arguments-dropped" for each in found) is dropped


OPTIMIZER = """
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B", load_in_4bit=True)
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
optimizer = create_loraplus_optimizer(model=model, optimizer_cls=Adam, lr=2e-4, loraplus_lr_ratio=16, GIVEN)
Trainer(model=model, args=TrainingArguments("out", weight_decay=0.1, adam_beta2=0.95), train_dataset=d,
        optimizers=(optimizer, None)).train()
"""


@pytest.mark.parametrize(
    ("given", "dropped"),
    [
        ("", ["weight_decay 0.1", "adam_beta2 0.95"]),
        ("weight_decay=0.1, betas=(0.9, 0.95)", ["weight_decay 0.1", "its own weight_decay"]),
        ("loraplus_weight_decay=0.1, betas=(0.9, 0.95)", []),
        ("**more", []),
    ],
)
def test_an_optimizer_made_without_what_the_arguments_say(given: str, dropped: list[str], tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(OPTIMIZER.replace("GIVEN", given))
    found = conclude(read_setup(tmp_path / "train.py"), None).remark_notes or []
    notes = [each.note or "" for each in found if each.kind == "optimizer-arguments-dropped"]
    assert len(notes) == bool(dropped) and all(each in notes[0] for each in dropped)


@pytest.mark.parametrize(
    ("length", "micro"),
    [("len(loader)", True), ("EPOCHS * len(loader)", True), ("len(loader) // 8", False), ("total", False)],
)
def test_a_schedule_made_for_micro_batches_may_step_with_each(length: str, micro: bool) -> None:
    code = (
        "EPOCHS = 3\ntotal = EPOCHS * len(loader) // ACCUMULATION\n"
        f"schedule = get_scheduler('cosine', optimizer, num_warmup_steps=2, num_training_steps={length})\n"
    )
    assert made_for_micro_batches(ast.parse(code)) is micro
