"""Values that are right alone and not together: what transformers and PEFT refuse, whatever the dialect.

A refusal of the dialect's own trainer is told by its reader; these are those of the libraries below it, read from
utils/quantization_config.py, training_args.py and trainer.py of transformers and tuners/lora/config.py of PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..facts.config import Remark
from .setup import Setup

OWN_LOOPS = {"torchtune", "litgpt", "ludwig", "h2o-llmstudio", "nemo-automodel", "qlora-pipe", "mftcoder"}
"""Dialects whose trainers do not hand their options to transformers' classes."""


def refused_by_libraries(setup: Setup) -> list[Remark]:
    """Combinations at which transformers or PEFT stop, each with the canonical path to change."""
    return [] if setup.dialect in OWN_LOOPS else list(_refusals(setup))


def _refusals(setup: Setup) -> Iterator[Remark]:
    quantization, lora, training = setup.quantization, setup.lora, setup.training
    if quantization.load_in_4bit and quantization.load_in_8bit:
        note = "transformers stops: load_in_4bit and load_in_8bit exclude each other."
        yield Remark(kind="both-widths", about="quantization", key="quantization.load_in_8bit", note=note)
    if training.bf16 and training.fp16:
        note = "transformers stops: bf16 and fp16 exclude each other."
        yield Remark(kind="both-precisions", about="trainer", key="training.fp16", note=note)
    if training.fsdp and training.deepspeed:
        note = "transformers stops: fsdp and deepspeed exclude each other."
        yield Remark(kind="fsdp-and-deepspeed", about="distribution", key="training.deepspeed", note=note)
    if lora.layers_to_transform is not None and isinstance(lora.target_modules, str):
        note = "PEFT stops: layers_to_transform needs target_modules as a list of names, not as one text."
        yield Remark(kind="layers-of-a-pattern", about="freezing", key="lora.layers_to_transform", note=note)
    if lora.layers_pattern and lora.layers_to_transform is None:
        note = "PEFT stops: layers_pattern needs layers_to_transform."
        yield Remark(kind="layers-pattern-alone", about="freezing", key="lora.layers_pattern", note=note)
