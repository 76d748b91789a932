"""Values that are right alone and not together: what transformers and PEFT refuse, whatever the dialect.

A refusal of the dialect's own trainer is told by its reader; these are those of the libraries below it, read from
utils/quantization_config.py, training_args.py and trainer.py of transformers and tuners/lora/config.py of PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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


# -- several processes


def distribution_facts(setup: Setup, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the way of distribution makes of the other settings.

    Args:
        facts: those of the config that are known already.
    """
    return {
        "several_processes": _several_processes(setup, facts["distributed"]),
        "find_unused_parameters": _finds_unused(setup),
        "flattened_dtypes": _flattened_dtypes(facts),
    }


def _several_processes(setup: Setup, distributed: str | None) -> bool | None:
    """True where the config itself asks for a distributed run, not only for several cards."""
    training = setup.training
    if distributed not in (None, "none", "ddp") or any(name.startswith("ddp_") for name in training.extra):
        return True
    written = training.ddp_find_unused_parameters
    # False alone stands in many files of single cards; beside several cards it is meant.
    if written or (distributed == "ddp" and _is_explicit(setup, "training.ddp_find_unused_parameters")):
        return True
    return None if distributed is None or setup.is_unknown("training.ddp_find_unused_parameters") else False


def _is_explicit(setup: Setup, path: str) -> bool:
    origin = setup.origins.get(path)
    return origin is not None and origin.source == "explicit"


def _finds_unused(setup: Setup) -> bool | None:
    """``find_unused_parameters`` of DistributedDataParallel, with the Trainer's own answer where the file is silent.

    Trainer turns it off for a PreTrainedModel that checkpoints; a PeftModel is none, and for all else it is on.
    """
    if setup.is_unknown("training.ddp_find_unused_parameters"):
        return None
    written = setup.training.ddp_find_unused_parameters
    return True if written is None and setup.dialect not in OWN_LOOPS else written


def _flattened_dtypes(facts: Mapping[str, Any]) -> list[str] | None:
    """Dtypes that meet in one decoder layer of a 4-bit base, which FSDP 1 lays into one flat tensor."""
    if facts["distributed"] != "fsdp1" or facts["four_bit"] is False:
        return [] if facts["distributed"] is not None else None
    norms = "float32" if facts["prepare_for_kbit_training"] else facts["model_dtype"]
    stored = facts["storage_dtype"]
    if facts["four_bit"] is None or facts["prepare_for_kbit_training"] is None or norms in (None, "auto"):
        return None
    if stored is None or not str(stored).startswith(("float", "bfloat")):
        return [] if stored is not None else None
    return sorted({stored, norms})
