"""Trains a small model rightly and wrongly and keeps the logs: ``python tests/courses/make.py [NAME…]``.

Each course below is a real run of transformers' or TRL's trainer on a tiny Llama with LoRA, a few seconds on a CPU;
what is kept is what the trainer wrote, and nothing is drawn. ``EXPECTED`` says which rules speak of each; a healthy
one has none. A fault is planted as it comes about in life: in the arguments, the data, the optimizer, a hook.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUNS = HERE / "runs"
VOCABULARY, LENGTH = 256, 24
COURSES: dict[str, Callable[[Path], None]] = {}
EXPECTED: dict[str, dict[str, Any]] = {}


def course(*rules: str, **known: Any) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a course, the rules that speak of it, and what its config would tell (fields of ``Known``)."""

    def register(function: Callable[[Path], None]) -> Callable[[Path], None]:
        name = function.__name__
        COURSES[name] = function
        EXPECTED[name] = {"rules": sorted(rules), "known": known}
        return function

    return register


# -- what is trained


def chains(seed: int, rows: int, successors: int = 4) -> list[dict[str, list[int]]]:
    """Sequences of a random chain in which each token has a few successors: learnable, never wholly.

    Chain 1 is the base's own; each other shares two thirds of its tokens' successors with it.
    """
    import random

    def table(of: int) -> dict[int, list[int]]:
        own = random.Random(of)
        return {t: [own.randrange(4, VOCABULARY) for _ in range(successors)] for t in range(VOCABULARY)}

    follow = table(1)
    if seed != 1:
        follow |= {token: after for token, after in table(seed).items() if token % 3 == 0}
    draw = random.Random(seed * 7919 + rows)
    found = []
    for _ in range(rows):
        ids = [draw.randrange(4, VOCABULARY)]
        while len(ids) < LENGTH:
            ids.append(draw.choice(follow[ids[-1]]))
        found.append({"input_ids": ids, "labels": list(ids), "attention_mask": [1] * LENGTH})
    return found


def base(random_weights: bool = False) -> Any:
    """A Llama that has learned one chain; trained once and kept for the other courses of this call."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=3, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    kept = Path(tempfile.gettempdir()) / "courses-base.pt"
    if random_weights:
        return model
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = torch.tensor([row["input_ids"] for row in chains(1, 2000)])
    for step in range(600):
        batch = rows[torch.arange(step * 16, step * 16 + 16) % len(rows)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), kept)
    return model


def wide() -> Any:
    """A random Llama with room to learn rows by heart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, pad_token_id=3, eos_token_id=2,
        )
    )  # fmt: skip


def adapted(random_weights: bool = False, **lora: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    values = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    return get_peft_model(base(random_weights), LoraConfig(**values))


def train(
    folder: Path,
    *,
    model: Any = None,
    rows: Any = None,
    evaluate: Any = None,
    callbacks: tuple[Any, ...] = (),
    trainer_class: Any = None,
    optimizers: Any = (None, None),
    resume: bool = False,
    keep: tuple[str, ...] = ("trainer_state",),
    **arguments: Any,
) -> Any:
    """One run of the Trainer; its ``trainer_state.json`` is kept at the top of the folder."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    values = {
        "per_device_train_batch_size": 8, "max_steps": 100, "logging_steps": 1, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 10, "save_strategy": "no", "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "seed": 1, "dataloader_pin_memory": False,
    }  # fmt: skip
    values |= arguments
    trainer = (trainer_class or Trainer)(
        model=model if model is not None else adapted(),
        args=TrainingArguments(output_dir=str(folder), **values),
        train_dataset=rows if rows is not None else chains(2, 4000),
        eval_dataset=evaluate,
        data_collator=default_data_collator,
        callbacks=list(callbacks),
        optimizers=optimizers,
    )
    trainer.train(resume_from_checkpoint=resume)
    if "trainer_state" in keep:
        trainer.save_state()
    return trainer


def at_step(step: int, act: Callable[[Any], None], every: bool = False) -> Any:
    """A callback that does something to the model before a step."""
    from transformers import TrainerCallback

    class Act(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            if state.global_step == step or (every and state.global_step > step):
                act(model)

    return Act()


def stop_at(step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            control.should_training_stop = control.should_training_stop or state.global_step >= step

    return Stop()


def writes(path: Path, shape: Callable[[dict[str, Any], Any, float], dict[str, Any] | None]) -> Any:
    """A callback that writes a line of JSON a log, as LLaMA-Factory and ms-swift do."""
    from transformers import TrainerCallback

    began = time.time()

    class Write(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            line = shape(dict(logs or {}), state, time.time() - began)
            if line:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")

    return Write()


def factory_line(logs: dict[str, Any], state: Any, seconds: float) -> dict[str, Any] | None:
    """A line of ``trainer_log.jsonl`` (LLaMA-Factory, train/callbacks.py: LogCallback)."""
    clock = time.strftime("%H:%M:%S", time.gmtime(seconds))
    line = {
        "current_steps": state.global_step, "total_steps": state.max_steps, "loss": logs.get("loss"),
        "eval_loss": logs.get("eval_loss"), "lr": logs.get("learning_rate"), "epoch": logs.get("epoch"),
        "percentage": round(100 * state.global_step / state.max_steps, 2), "elapsed_time": clock,
        "remaining_time": clock,
    }  # fmt: skip
    line = {key: value for key, value in line.items() if value is not None}
    return line if "loss" in line or "eval_loss" in line else None


def swift_line(logs: dict[str, Any], state: Any, seconds: float) -> dict[str, Any] | None:
    """A line of ``logging.jsonl`` (ms-swift, trainers/callback.py: add_train_message)."""
    if "loss" not in logs and "eval_loss" not in logs:
        return None
    share = f"{100 * state.global_step / state.max_steps:.2f}%"
    return {**logs, "global_step/max_steps": f"{state.global_step}/{state.max_steps}", "percentage": share,
            "elapsed_time": f"{int(seconds) // 60}m {int(seconds) % 60}s", "memory(GiB)": round(resident_gib(), 4),
            "train_speed(iter/s)": state.global_step / max(seconds, 1e-9)}  # fmt: skip


def resident_gib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


# -- wrong


@course("QD701")
def flat_rate_tiny(folder: Path) -> None:
    train(folder, learning_rate=1e-9, max_steps=150)


@course("QD701")
def flat_optimizer_of_a_copy(folder: Path) -> None:
    """The optimizer holds the tensors of another model, as after a reload."""
    import copy

    import torch

    model = adapted()
    stale = [p for p in copy.deepcopy(model).parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(stale, lr=2e-3)
    train(folder, model=model, optimizers=(optimizer, None), max_steps=120, logging_steps=2)


@course("QD701")
def flat_and_short(folder: Path) -> None:
    train(folder, learning_rate=1e-8, max_steps=50)


@course("QD716")
def gradient_zero(folder: Path) -> None:
    """Both factors are zero, so neither gets a gradient."""
    import torch

    model = adapted()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.zeros_(parameter)
    train(folder, model=model, max_steps=60)


@course("QD702", vocabulary=VOCABULARY)
def untrained_vocabulary(folder: Path) -> None:
    """The base was made from its config: no weights were loaded, and the adapter cannot make up for it."""
    train(folder, model=adapted(random_weights=True), learning_rate=1e-7, max_steps=80)


@course("QD702", method="dpo")
def untrained_preference(folder: Path) -> None:
    preference(folder, learning_rate=1e-12, max_steps=30)


@course("QD703")
def loss_zero(folder: Path) -> None:
    """Every label is masked; the Trainer's filter writes zero for what is not finite."""
    rows = [{**row, "labels": [-100] * LENGTH} for row in chains(2, 800)]
    train(folder, rows=rows, max_steps=40)


@course("QD704")
def loss_not_finite(folder: Path) -> None:
    """A weight overflows in the middle of the run."""

    def overflow(model: Any) -> None:
        next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(float("nan"))

    train(folder, callbacks=(at_step(60, overflow),), logging_nan_inf_filter=False)


@course("QD703")
def loss_not_finite_filtered(folder: Path) -> None:
    def overflow(model: Any) -> None:
        next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(float("nan"))

    train(folder, callbacks=(at_step(60, overflow),))


@course("QD707")
def diverges(folder: Path) -> None:
    train(folder, learning_rate=0.3, max_grad_norm=0.0, lr_scheduler_type="constant", warmup_steps=40, max_steps=150)


@course("QD707")
def diverges_late(folder: Path) -> None:
    """It learns, until the rate of a schedule that rises becomes too high."""
    import torch

    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 120 else 100.0)
    train(folder, model=model, optimizers=(optimizer, rise), max_steps=200, max_grad_norm=0.0)


@course("QD705")
def spikes_of_bad_rows(folder: Path) -> None:
    """A few rows hold noise in place of text, as after a broken join."""
    import random

    draw = random.Random(5)
    rows = chains(2, 1600)
    for at in (400, 401, 402, 403, 404, 405, 406, 407, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007):
        ids = [draw.randrange(4, 12) if i % 2 else draw.randrange(240, 256) for i in range(LENGTH)]
        rows[at] = {
            "input_ids": ids,
            "labels": [draw.randrange(4, VOCABULARY) for _ in ids],
            "attention_mask": [1] * LENGTH,
        }
    train(folder, rows=Ordered(rows), trainer_class=in_order(), max_steps=200)


@course("QD705")
def spike_of_a_jolt(folder: Path) -> None:
    """The weights take a blow in the middle, as from one step with a huge gradient, and recover."""
    import torch

    def jolt(model: Any) -> None:
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)

    train(folder, callbacks=(at_step(150, jolt),), max_steps=400, logging_steps=8, learning_rate=5e-3)


@course("QD709")
def overfits(folder: Path) -> None:
    """64 rows, thirty times over; only the last checkpoint is left."""
    train(folder, rows=chains(2, 64), evaluate=chains(2, 65), max_steps=240, eval_strategy="steps", eval_steps=24,
          learning_rate=5e-3, save_strategy="steps", save_steps=24, save_total_limit=1,
          save_only_model=True)  # fmt: skip


@course("QD708")
def overfits_best_kept(folder: Path) -> None:
    train(folder, rows=chains(2, 64), evaluate=chains(2, 65), max_steps=240, eval_strategy="steps", eval_steps=24,
          learning_rate=5e-3, save_strategy="steps", save_steps=24, save_total_limit=2, save_only_model=True,
          load_best_model_at_end=True)  # fmt: skip


@course("QD708")
def overfits_few_evaluations(folder: Path) -> None:
    train(folder, rows=chains(2, 96), evaluate=chains(2, 97), max_steps=240, eval_strategy="steps", eval_steps=48,
          logging_steps=5, learning_rate=5e-3, model=adapted(r=64))  # fmt: skip


@course("QD710")
def staircase(folder: Path) -> None:
    """A full fine-tune on rows without any order, which can only be learned by heart."""
    train(folder, rows=chains(2, 320, successors=250), model=wide(), max_steps=240, learning_rate=2e-3,
          lr_scheduler_type="constant")  # fmt: skip


@course("QD711", evaluates=True)
def evaluation_never_run(folder: Path) -> None:
    train(folder, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=20, eval_delay=500, max_steps=120)


@course("QD713")
def rate_below_peak(folder: Path) -> None:
    train(folder, learning_rate=2e-2, warmup_steps=1000, max_steps=100)


@course("QD713", learning_rate=2e-2)
def rate_of_another_config(folder: Path) -> None:
    train(folder, learning_rate=2e-3, max_steps=100)


@course("QD712")
def rate_zero(folder: Path) -> None:
    import torch

    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    train(folder, model=model, max_steps=60, logging_steps=2,
          optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)))  # fmt: skip


@course("QD715")
def rate_ends_early(folder: Path) -> None:
    """The schedule was made for the steps of one process, and the run has three times as many."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    train(folder, model=model, max_steps=180, optimizers=(optimizer, get_linear_schedule_with_warmup(optimizer, 5, 60)))


@course("QD714")
def rate_restarts(folder: Path) -> None:
    """Continued without its optimizer and schedule: the second part warms up anew."""
    log = folder / "trainer_log.jsonl"
    trainer = train(folder / "a", max_steps=100, callbacks=(writes(log, factory_line),), keep=())

    def later(logs: dict[str, Any], state: Any, seconds: float) -> dict[str, Any] | None:
        line = factory_line(logs, state, seconds)
        return line and {**line, "current_steps": line["current_steps"] + 100, "total_steps": 200}

    train(
        folder / "b", model=trainer.model, rows=chains(2, 4001), max_steps=100, callbacks=(writes(log, later),), keep=()
    )


@course("QD717")
def gradient_explodes(folder: Path) -> None:
    """The scale of a loss grows as a scaler's does, and nobody takes it out of the gradient again."""
    model = adapted()
    steps = [0]

    def scaled(gradient: Any) -> Any:
        return gradient * 2 ** (steps[0] // 20)

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(scaled)

    def count(model: Any) -> None:
        steps[0] += 1

    train(folder, model=model, max_steps=160, callbacks=(at_step(0, count, every=True),))


@course("QD706")
def gradient_not_finite(folder: Path) -> None:
    """Gradients overflow, and a guard leaves every step out, as a scaler does in float16."""
    import torch

    class Guarded(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:
            if all(p.grad is None or p.grad.isfinite().all() for group in self.param_groups for p in group["params"]):
                super().step(closure)

    def overflow(model: Any) -> None:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.register_hook(lambda grad: grad * float("inf"))

    model = adapted()
    optimizer = Guarded([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    train(folder, model=model, callbacks=(at_step(50, overflow),), optimizers=(optimizer, None), max_steps=120)


@course("QD718", accumulation=8)
def loss_summed_over_accumulation(folder: Path) -> None:
    """A compute_loss of one's own that leaves num_items_in_batch out, with a model that says it takes it."""
    from transformers import Trainer

    class Sums(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

        def prediction_step(self, *arguments: Any, **rest: Any) -> Any:
            return super().prediction_step(*arguments, **rest)

    train(folder, trainer_class=Sums, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=20, max_steps=60,
          gradient_accumulation_steps=8, per_device_train_batch_size=2)  # fmt: skip


@course("QD719")
def slows_down(folder: Path) -> None:
    """Something that is done each step takes longer each time."""
    from transformers import TrainerCallback

    class Slower(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            time.sleep(0.0015 * state.global_step)

    log = folder / "trainer_log.csv"
    began = time.time()

    class Clock(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                new = not log.is_file()
                with log.open("a") as stream:
                    if new:
                        stream.write("step,loss,learning_rate,grad_norm,_runtime\n")
                    stream.write(f"{state.global_step},{logs['loss']},{logs['learning_rate']},{logs['grad_norm']},"
                                 f"{time.time() - began:.4f}\n")  # fmt: skip

    train(folder, callbacks=(Slower(), Clock()), logging_steps=4, max_steps=160, keep=())


@course("QD720")
def memory_creeps(folder: Path) -> None:
    """Losses are collected with their graph."""
    import torch
    from transformers import Trainer

    held: list[Any] = []

    class Holds(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
            loss = super().compute_loss(model, inputs, return_outputs=return_outputs, **rest)
            held.append((loss, torch.ones(1 << 18)))
            return loss

    train(folder, trainer_class=Holds, callbacks=(writes(folder / "logging.jsonl", swift_line),), max_steps=150,
          logging_steps=5, keep=())  # fmt: skip


@course("QD721")
def stops_short(folder: Path) -> None:
    """A time limit ends the run; the Trainer closes it as if it were done."""
    train(folder, callbacks=(stop_at(60),), max_steps=200, logging_steps=5)


@course("QD723")
def ends_in_an_error(folder: Path) -> None:
    captured(folder, "ends_in_an_error", max_steps=100, fails_at=40)


# -- healthy


@course()
def healthy_plain(folder: Path) -> None:
    train(folder, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=25)


@course()
def healthy_long(folder: Path) -> None:
    train(folder, max_steps=800, logging_steps=10, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=100)


@course()
def healthy_short(folder: Path) -> None:
    train(folder, max_steps=20, evaluate=chains(2, 65), eval_strategy="epoch")


@course()
def healthy_noisy(folder: Path) -> None:
    """One row a step."""
    train(folder, max_steps=400, per_device_train_batch_size=1, evaluate=chains(2, 65), eval_strategy="steps",
          eval_steps=100)  # fmt: skip


@course()
def healthy_epochs(folder: Path) -> None:
    train(folder, rows=chains(2, 400), max_steps=-1, num_train_epochs=3, evaluate=chains(2, 65), eval_strategy="epoch",
          save_strategy="epoch", save_only_model=True)  # fmt: skip


@course(accumulation=4, evaluates=True, learning_rate=2e-3)
def healthy_accumulation(folder: Path) -> None:
    train(folder, gradient_accumulation_steps=4, per_device_train_batch_size=2, evaluate=chains(2, 65),
          eval_strategy="steps", eval_steps=20, lr_scheduler_type="linear")  # fmt: skip


@course(method="dpo")
def healthy_preference(folder: Path) -> None:
    preference(folder, learning_rate=2e-3, max_steps=60)


@course()
def healthy_constant_rate(folder: Path) -> None:
    train(folder, lr_scheduler_type="constant", warmup_steps=0, max_steps=250, logging_steps=5, evaluate=chains(2, 65),
          eval_strategy="steps", eval_steps=50)  # fmt: skip


@course(restarts=True)
def healthy_restarts(folder: Path) -> None:
    train(folder, lr_scheduler_type="cosine_with_restarts", lr_scheduler_kwargs={"num_cycles": 3}, max_steps=240,
          logging_steps=2, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=60)  # fmt: skip


@course()
def healthy_resumed(folder: Path) -> None:
    """Killed at 70, resumed from the checkpoint at 60."""
    log = folder / "trainer_log.jsonl"
    same = {"max_steps": 150, "save_strategy": "steps", "save_steps": 60, "keep": (), "evaluate": chains(2, 65),
            "eval_strategy": "steps", "eval_steps": 30}  # fmt: skip
    train(folder, callbacks=(writes(log, factory_line), stop_at(70)), **same)
    shutil.rmtree(folder / "checkpoint-70", ignore_errors=True)
    train(folder, callbacks=(writes(log, factory_line),), resume=True, **same)
    shutil.rmtree(folder / "checkpoint-150", ignore_errors=True)


@course()
def healthy_early_stopping(folder: Path) -> None:
    from transformers import EarlyStoppingCallback

    train(folder, rows=chains(2, 64), evaluate=chains(2, 65), max_steps=400, eval_strategy="steps", eval_steps=10,
          save_strategy="steps", save_steps=10, save_total_limit=2, save_only_model=True, load_best_model_at_end=True,
          learning_rate=1e-3, callbacks=(EarlyStoppingCallback(early_stopping_patience=2),))  # fmt: skip


@course()
def healthy_captured(folder: Path) -> None:
    captured(folder, "healthy_captured", max_steps=120, logging_steps=4)


@course()
def healthy_swift(folder: Path) -> None:
    train(folder, callbacks=(writes(folder / "logging.jsonl", swift_line),), max_steps=150, logging_steps=5, keep=(),
          evaluate=chains(2, 65), eval_strategy="steps", eval_steps=50)  # fmt: skip


@course()
def healthy_full_fine_tune(folder: Path) -> None:
    train(folder, model=base(), learning_rate=5e-4, evaluate=chains(2, 65), eval_strategy="steps", eval_steps=40,
          max_steps=160, lr_scheduler_type="linear")  # fmt: skip


@course()
def healthy_high_rate(folder: Path) -> None:
    """As high as it goes without harm, with clipping: noisy, and it learns."""
    train(folder, learning_rate=1e-2, max_steps=300, logging_steps=2, evaluate=chains(2, 65), eval_strategy="steps",
          eval_steps=100)  # fmt: skip


@course(vocabulary=VOCABULARY)
def healthy_from_scratch(folder: Path) -> None:
    """It begins at ln V, as it must, and leaves it."""
    train(folder, model=base(random_weights=True), max_steps=200, learning_rate=3e-3, logging_steps=2,
          evaluate=chains(2, 65), eval_strategy="steps", eval_steps=50)  # fmt: skip


@course()
def healthy_tensorboard(folder: Path) -> None:
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "runs" / "Jan01_00-00-00_host")
    train(folder, max_steps=80, report_to=["tensorboard"], keep=(), evaluate=chains(2, 65), eval_strategy="steps",
          eval_steps=40)  # fmt: skip


# -- other methods, schedules and intervals


def pairs(rows: int = 600, same: bool = False) -> list[dict[str, str]]:
    """The chosen answer repeats the prompt's word; with ``same`` the rejected one does too."""
    import random

    draw = random.Random(3)
    words = ("rank", "adapter", "base", "gradient", "step", "layer", "weight", "block")
    drawn = [draw.sample(words, 2) for _ in range(rows)]
    return [{"prompt": f"The {a} is", "chosen": f" the {a}", "rejected": f" the {a if same else b}"} for a, b in drawn]


def tiny(folder: Path, kind: str = "AutoModelForCausalLM", **options: Any) -> Any:
    """A random Llama with the tests' own tokenizer."""
    import transformers

    sys.path.insert(0, str(HERE.parents[1]))
    from tests.models import make_model

    make_model(folder, "llama", dtype="float32")
    model = getattr(transformers, kind).from_pretrained(folder, **options)
    model.config.pad_token_id = 3
    return model


def with_trl(name: str, folder: Path, rows: Any, kind: str = "", extra: Any = None, **arguments: Any) -> None:
    """A run of one of TRL's trainers with LoRA."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig

    sys.path.insert(0, str(HERE.parents[1]))
    from tests.models import make_tokenizer

    values = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False,
              "save_strategy": "no", "disable_tqdm": True, "seed": 1, "gradient_checkpointing": False}  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        head = kind == "AutoModelForSequenceClassification"
        model = tiny(Path(place), kind, num_labels=1) if head else tiny(Path(place))
    task = "SEQ_CLS" if head else "CAUSAL_LM"
    trainer = getattr(trl, f"{name}Trainer")(
        model=model,
        args=getattr(trl, f"{name}Config")(output_dir=str(folder), **(values | arguments)),
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type=task),
        **(extra or {}),
    )
    trainer.train()
    trainer.save_state()


def reinforced(folder: Path, reward: Callable[[str], float], **arguments: Any) -> None:
    """A run of GRPO."""

    def rewards(completions: list[str], **_: Any) -> list[float]:
        return [reward(text) for text in completions]

    with_trl("GRPO", folder, [{"prompt": f"The {word} is"} for word in ("rank", "base", "step", "layer") * 40],
             extra={"reward_funcs": rewards}, max_completion_length=6, num_generations=4, **arguments)  # fmt: skip


@course(method="grpo")
def healthy_reinforced(folder: Path) -> None:
    """Many groups have no best answer, so that loss and gradient are zero there."""
    reinforced(
        folder, lambda text: float(text.count("e")), max_steps=40, learning_rate=3e-3, logging_steps=2, beta=0.04
    )


@course("QD695", "QD696", "QD716", method="grpo")
def rewards_all_equal(folder: Path) -> None:
    reinforced(folder, lambda text: 1.0, max_steps=30, learning_rate=1e-3)


@course(method="kto")
def healthy_unpaired(folder: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in pairs(400) for side in ("chosen", "rejected")]  # fmt: skip
    with_trl("KTO", folder, rows, max_steps=80, logging_steps=4, learning_rate=2e-3)


@course(method="reward")
def healthy_reward_model(folder: Path) -> None:
    with_trl("Reward", folder, pairs(), "AutoModelForSequenceClassification", max_steps=100, logging_steps=5,
             learning_rate=2e-3)  # fmt: skip


@course("QD702", method="reward")
def untrained_reward_model(folder: Path) -> None:
    """Both answers of each pair are the same text, after a broken join."""
    with_trl("Reward", folder, pairs(same=True), "AutoModelForSequenceClassification", max_steps=60, logging_steps=2,
             learning_rate=1e-3)  # fmt: skip


def classified(folder: Path, noise: float, rows: int, rate: float = 2e-3, **arguments: Any) -> None:
    """Two classes by the last token, some labels drawn at random."""
    import random

    from peft import LoraConfig, get_peft_model

    with tempfile.TemporaryDirectory() as place:
        model = tiny(Path(place), "AutoModelForSequenceClassification", num_labels=2)
    adapter = LoraConfig(r=8, target_modules="all-linear", task_type="SEQ_CLS")
    draw = random.Random(1)

    def made(count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            label = draw.randrange(2)
            ids = [draw.randrange(10, 400) for _ in range(11)] + [20 + label]
            told = label if draw.random() > noise else draw.randrange(2)
            found.append({"input_ids": ids, "attention_mask": [1] * 12, "labels": told})
        return found

    model = get_peft_model(model, adapter)
    train(folder, model=model, rows=made(rows), evaluate=made(64), max_steps=-1, warmup_steps=0, eval_strategy="epoch",
          lr_scheduler_type="linear", learning_rate=rate, **arguments)  # fmt: skip


@course(labels=2)
def healthy_noisy_labels(folder: Path) -> None:
    """Three in ten labels are drawn: evaluation of 64 rows moves up a little, training does not fall."""
    classified(folder, 0.3, 800, num_train_epochs=3, logging_steps=10)


@course("QD705", "QD708", labels=2)
def overfits_classes(folder: Path) -> None:
    """By heart, but for a batch now and then, whose loss is twenty times the others'."""
    classified(folder, 0.5, 64, rate=3e-3, num_train_epochs=40, logging_steps=8)


@course()
def healthy_batches_of_one(folder: Path) -> None:
    """It learns, by a third of what one record scatters."""
    train(folder, per_device_train_batch_size=1, max_steps=400, learning_rate=5e-4)


@course()
def healthy_logged_each_hundred(folder: Path) -> None:
    train(folder, max_steps=1500, logging_steps=100, lr_scheduler_type="linear")


@course()
def healthy_stable_then_decay(folder: Path) -> None:
    shape = {"num_decay_steps": 40, "num_stable_steps": 150}
    train(folder, max_steps=200, logging_steps=5, lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=shape,
          evaluate=chains(2, 65), eval_strategy="steps", eval_steps=50)  # fmt: skip


@course()
def healthy_two_epochs_of_forty_rows(folder: Path) -> None:
    train(folder, rows=chains(2, 40), max_steps=-1, num_train_epochs=2, warmup_steps=0)


@course("QD701")
def flat_each_tenth(folder: Path) -> None:
    train(folder, max_steps=300, logging_steps=10, learning_rate=1e-9)


@course("QD707")
def diverges_each_fiftieth(folder: Path) -> None:
    train(folder, max_steps=1200, logging_steps=50, learning_rate=0.2, max_grad_norm=0.0,
          lr_scheduler_type="constant_with_warmup", warmup_steps=600)  # fmt: skip


# -- rows in one order, several ranks, tables, restarts


@course("QD705")
def rows_in_one_order(folder: Path) -> None:
    """Easy rows first, hard ones last, in each of five epochs: a saw, and no divergence."""
    train(folder, rows=Ordered(chains(1, 240) + chains(9, 80)), trainer_class=in_order(), max_steps=-1,
          num_train_epochs=5, learning_rate=5e-4)  # fmt: skip


@course(method="dpo")
def healthy_preference_slow(folder: Path) -> None:
    """It ranks nineteen of twenty pairs in the end, with a loss that is never far from ln 2."""
    preference(folder, learning_rate=3e-5, max_steps=150, logging_steps=5)


@course("QD702", method="dpo")
def untrained_preference_of_a_tiny_beta(folder: Path) -> None:
    preference(folder, learning_rate=2e-3, max_steps=40, beta=1e-7)


def texts() -> list[dict[str, str]]:
    return [{"text": f"The {row['prompt']} {row['chosen']}."} for row in pairs(800)]


@course()
def healthy_packed(folder: Path) -> None:
    with_trl("SFT", folder, texts(), max_steps=100, learning_rate=2e-3, logging_steps=2, packing=True, max_length=32)


@course("QD712")
def rate_zero_of_sft(folder: Path) -> None:
    with_trl("SFT", folder, texts(), max_steps=60, learning_rate=0.0, logging_steps=2)


@course()
def healthy_evaluated_on_start(folder: Path) -> None:
    train(folder, max_steps=150, logging_steps=15, eval_on_start=True, evaluate=chains(2, 65), eval_strategy="steps",
          eval_steps=30)  # fmt: skip


@course()
def healthy_adafactor(folder: Path) -> None:
    train(folder, max_steps=200, logging_steps=5, optim="adafactor", learning_rate=5e-3, lr_scheduler_type="constant")


@course("QD704")
def factory_not_finite(folder: Path) -> None:
    def overflow(model: Any) -> None:
        next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(float("nan"))

    log = folder / "trainer_log.jsonl"
    train(folder, callbacks=(writes(log, factory_line), at_step(70, overflow)), max_steps=120, logging_steps=5,
          logging_nan_inf_filter=False, keep=())  # fmt: skip


@course()
def healthy_resumed_twice(folder: Path) -> None:
    log = folder / "trainer_log.jsonl"
    same = {"max_steps": 150, "save_strategy": "steps", "save_steps": 25, "keep": (), "logging_steps": 5}
    for stop in (40, 95, 160):
        train(folder, callbacks=(writes(log, factory_line), stop_at(stop)), resume=stop != 40, **same)
        if stop % 25:
            shutil.rmtree(folder / f"checkpoint-{stop}", ignore_errors=True)


@course()
def healthy_swift_of_texts(folder: Path) -> None:
    """As an older ms-swift writes it: every number a text, the speed in seconds a step."""

    def line(logs: dict[str, Any], state: Any, seconds: float) -> dict[str, Any] | None:
        found = swift_line(logs, state, seconds)
        if found is None:
            return None
        del found["train_speed(iter/s)"]
        found["train_speed(s/it)"] = seconds / max(state.global_step, 1)
        return {key: str(value) if isinstance(value, float) else value for key, value in found.items()}

    place = folder / "v0-20250101-000000" / "logging.jsonl"
    train(folder, callbacks=(writes(place, line),), max_steps=120, logging_steps=5, keep=())


@course()
def healthy_two_ranks(folder: Path) -> None:
    looped(folder, "[rank {rank}] step {step}/{steps} loss: {loss:.4f} lr: 1.00e-03\n", ranks=2)


@course("QD704")
def one_rank_not_finite(folder: Path) -> None:
    looped(folder, "[rank {rank}] step {step}/{steps} loss: {loss:.4f} lr: 1.00e-03\n", ranks=2, broken_from=60)


@course()
def healthy_bars_alone(folder: Path) -> None:
    looped(folder, "\r{share:3d}%|####  | {step}/{steps} [00:0{tens}<00:09,  9.9it/s, loss={loss:.3f}, lr=1e-3]")


@course()
def healthy_loop_of_epochs(folder: Path) -> None:
    looped(folder, "iter {step}: loss {loss:.4f}, time 3.20ms, mfu 1.00%\n")


@course("QD722")
def ends_between_checkpoints(folder: Path) -> None:
    """Killed at 120 of 200 steps: what is left is in the checkpoints."""
    train(folder, max_steps=200, logging_steps=5, save_strategy="steps", save_steps=50, callbacks=(stop_at(120),),
          keep=(), save_only_model=True)  # fmt: skip
    shutil.rmtree(folder / "checkpoint-120", ignore_errors=True)


@course("QD701")
def flat_of_other_tensors(folder: Path) -> None:
    """The optimizer holds one norm of the base, at a rate for adapters of a large model."""
    import torch

    model = adapted()
    held = [p for n, p in model.named_parameters() if "layernorm" in n][:1]
    train(folder, model=model, optimizers=(torch.optim.AdamW(held, lr=1e-7), None), max_steps=200, logging_steps=2)


@course("QD708")
def overfits_in_a_table(folder: Path) -> None:
    """Its history as somebody's own export has it."""
    with tempfile.TemporaryDirectory() as place:
        train(Path(place), rows=chains(2, 64), evaluate=chains(2, 65), max_steps=240, eval_strategy="steps",
              eval_steps=24, learning_rate=5e-3)  # fmt: skip
        rows = json.loads((Path(place) / "trainer_state.json").read_text())["log_history"]
    keys = ("step", "loss", "eval_loss", "learning_rate")
    lines = [";".join(str(row.get(key, "")) for key in keys) for row in rows if "loss" in row or "eval_loss" in row]
    (folder / "trainer_log.csv").write_text("\n".join(["Steps;Train Loss;Val Loss;LR", *lines, ""]))


@course("QD703")
def not_finite_at_the_very_end(folder: Path) -> None:
    """Two records of twenty see it: a gradient that is NaN, and a zero in place of the loss."""

    def overflow(model: Any) -> None:
        next(p for n, p in model.named_parameters() if "lora_B" in n).data.fill_(float("nan"))

    train(folder, callbacks=(at_step(185, overflow),), max_steps=200, logging_steps=10)


@course("QD713")
def rate_below_peak_printed(folder: Path) -> None:
    """Its first record happens to be the lowest, and nothing diverges."""
    captured(folder, "", max_steps=60, logging_steps=5, warmup_steps=500, lr_scheduler_type="constant_with_warmup")


@course("QD719")
def slows_down_in_swift(folder: Path) -> None:
    """The speed that ms-swift writes is a mean over all steps so far, and rises at first all the same."""
    from transformers import TrainerCallback

    class Slower(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            time.sleep(0.001 * state.global_step)

    train(folder, callbacks=(Slower(), writes(folder / "logging.jsonl", swift_line)), max_steps=150, logging_steps=5,
          keep=())  # fmt: skip


@course("QD708")
def overfits_by_epochs(folder: Path) -> None:
    """A loop of one's own that prints a line an epoch."""
    line = "Epoch {epoch}/{epochs} - train_loss: {mean:.4f} - val_loss: {evaluated:.4f}"
    by_epochs(folder / "train.log", 64, 20, 5e-3, of_epoch=line, rank=32)


@course("QD701")
def flat_and_counted_anew(folder: Path) -> None:
    by_epochs(folder / "train.log", 200, 6, 1e-9, of_step="epoch {epoch} step {step}/25 loss {loss:.4f}")


@course()
def healthy_counted_anew(folder: Path) -> None:
    """Each epoch counts its steps from zero, and nothing was resumed."""
    by_epochs(folder / "train.log", 400, 4, 5e-4, of_step="epoch {epoch} step {step} loss {loss:.4f}",
              of_epoch="Epoch {epoch} validation loss: {evaluated:.4f}")  # fmt: skip


@course()
def healthy_in_lines_of_its_own(folder: Path) -> None:
    line = '{{"epoch": {epoch}, "train_loss": {mean:.5f}, "val_loss": {evaluated:.5f}}}'
    by_epochs(folder / "metrics.jsonl", 800, 6, 5e-4, of_epoch=line)


# -- helpers of single courses


def by_epochs(
    log: Path, rows: int, epochs: int, rate: float, *, of_step: str = "", of_epoch: str = "", rank: int = 8
) -> None:
    """A loop of one's own with an evaluation after each epoch; what it prints is kept."""
    import torch

    model = adapted(r=rank)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    ids, held_out = (torch.tensor([row["input_ids"] for row in chains(2, count)]) for count in (rows, 65))
    torch.manual_seed(0)
    lines = []
    for epoch in range(1, epochs + 1):
        losses = []
        for step, batch in enumerate(ids[torch.randperm(len(ids))].split(8)):
            loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            lines += [of_step.format(epoch=epoch, step=step, loss=losses[-1])] if of_step else []
        with torch.no_grad():
            told = {"evaluated": model(input_ids=held_out, labels=held_out).loss.item(), "epochs": epochs}
        if of_epoch:
            lines.append(of_epoch.format(epoch=epoch, mean=sum(losses) / len(losses), **told))
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join([*lines, ""]), encoding="utf-8")


def looped(folder: Path, line: str, ranks: int = 1, broken_from: int = 0) -> None:
    """A loop of one's own in a process for each rank, all of which print to one file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("wb") as stream:
        processes = [
            subprocess.Popen([sys.executable, __file__, "--looped", line, str(rank), str(broken_from)], stdout=stream)
            for rank in range(ranks)
        ]
        for process in processes:
            process.wait(300)


def print_loop(line: str, rank: int, broken_from: int, steps: int = 120) -> None:
    import torch

    torch.set_num_threads(1)
    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows = torch.tensor([row["input_ids"] for row in chains(2, 2000)])
    torch.manual_seed(rank)
    for step in range(1, steps + 1):
        batch = rows[torch.randint(0, len(rows), (4,))]
        loss = model(input_ids=batch, labels=batch).loss
        if rank == 1 and 0 < broken_from <= step:
            loss = loss * float("nan")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        told = {"rank": rank, "step": step, "steps": steps, "share": 100 * step // steps, "tens": step // 14}
        print(line.format(loss=loss.item(), **told), end="", flush=True)


class Ordered(list):  # type: ignore[type-arg]
    """Rows that are taken in their order."""


def in_order() -> Any:
    from torch.utils.data import SequentialSampler
    from transformers import Trainer

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    return InOrder


def preference(folder: Path, **arguments: Any) -> None:
    """A run of TRL's DPO: the chosen answer repeats the prompt's word, the rejected one does not."""
    import random

    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    sys.path.insert(0, str(HERE.parents[1]))
    from tests.models import make_model, make_tokenizer

    with tempfile.TemporaryDirectory() as place:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(make_model(Path(place), "llama", dtype="float32"))
    draw = random.Random(3)
    words = ("rank", "adapter", "base", "gradient", "step", "layer", "weight", "block")
    rows = []
    for _ in range(600):
        a, b = draw.sample(words, 2)
        rows.append({"prompt": f"The {a} is", "chosen": f" the {a}", "rejected": f" the {b}"})
    values = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False,
              "save_strategy": "no", "disable_tqdm": True, "seed": 1, "gradient_checkpointing": False}  # fmt: skip
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=str(folder), **(values | arguments)),
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_state()


def captured(folder: Path, name: str, **arguments: Any) -> None:
    """The run in a process of its own, with what it prints kept as ``train.log``."""
    command = [sys.executable, __file__, "--captured", name, json.dumps(arguments)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.log").open("wb") as stream:
        subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False, timeout=300)


def print_course(arguments: dict[str, Any]) -> None:
    fails_at = arguments.pop("fails_at", None)

    def fail(model: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    callbacks = (at_step(fails_at, fail),) if fails_at else ()
    with tempfile.TemporaryDirectory() as place:
        train(Path(place), disable_tqdm=False, callbacks=callbacks, evaluate=chains(2, 65), eval_strategy="steps",
              eval_steps=30, keep=(), **arguments)  # fmt: skip


def tidy(folder: Path) -> None:
    """Leave the logs alone: of a checkpoint its folder and its trainer_state.json."""
    kept = {"trainer_state.json", "trainer_log.jsonl", "logging.jsonl", "metrics.jsonl", "train.log", "trainer_log.csv"}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.name not in kept and ".tfevents." not in path.name:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def main(names: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    for name in names or COURSES:
        folder = RUNS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.time()
        COURSES[name](folder)
        tidy(folder)
        print(f"{name}: {time.time() - began:.1f} s, expects {EXPECTED[name]['rules'] or 'nothing'}")
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--captured"]:
        print_course(json.loads(sys.argv[3]))
    elif sys.argv[1:2] == ["--looped"]:
        print_loop(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(sys.argv[1:])
