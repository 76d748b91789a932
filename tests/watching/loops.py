"""Training loops of one's own on a tiny model, watched from inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import qlora_doctor
from qlora_doctor.core.report import Report
from tests.models import VOCABULARY

Batch = dict[str, torch.Tensor]


def adapted(folder: Path, *, checkpointing: bool = False, **lora: Any) -> Any:
    """The tutorial's own steps: load in 4-bit, prepare, attach."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})
    base = prepare_model_for_kbit_training(
        base, use_gradient_checkpointing=checkpointing, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    torch.manual_seed(0)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | lora
    return get_peft_model(base, LoraConfig(**settings))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def adamw(model: nn.Module, rate: float = 2e-4) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trainable(model), lr=rate)


def batches(count: int = 8, rows: int = 2, length: int = 16) -> Iterator[Batch]:
    """Random rows, each another one; labels are the ids."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
        yield {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def train(
    model: Any,
    optimizer: Any,
    data: Sequence[Batch] | None = None,
    *,
    accumulate: int = 1,
    divide: float | None = None,
    train_mode: bool = True,
    scheduler: Any = None,
    every_micro_batch: bool = False,
    after: Callable[[int], None] = lambda number: None,
) -> list[float]:
    """A plain loop; its losses.

    Args:
        divide: what each loss is divided by; None is ``accumulate``.
        every_micro_batch: step the scheduler with each of them.
        after: called after each micro-batch.
    """
    if train_mode:
        model.train()
    losses = []
    for number, batch in enumerate(data if data is not None else list(batches()), start=1):
        loss = model(**batch).loss / (divide or accumulate)
        loss.backward()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
        if scheduler is not None and (every_micro_batch or number % accumulate == 0):
            scheduler.step()
        losses.append(loss.item())
        after(number)
    return losses


def watched(model: Any, optimizer: Any, *arguments: Any, **options: Any) -> Report:
    """The report of a loop that was watched; what the loop raises is in it."""
    seen = None
    try:
        with qlora_doctor.watch(model, optimizer, quiet=True) as seen:
            train(model, optimizer, *arguments, **options)
    except (RuntimeError, ValueError, IndexError):
        pass
    assert seen is not None and seen.report is not None
    return seen.report


def hooks_on(model: nn.Module) -> int:
    """Hooks on the modules and on the parameters."""
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())
