"""Files of other tools that look like configs of a fine-tuning, and none of them is one: said in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from ...core.errors import ConfigError
from ...setup.setup import Setup
from ..document import Document

name = "foreign"

Test = Callable[[dict[str, Any]], bool]


def _keys(*wanted: str) -> Test:
    return lambda data: set(wanted) <= data.keys()


_SERVES = {
    *("max_model_len", "gpu_memory_utilization", "tensor_parallel_size", "enable_lora", "max_lora_rank", "max_loras"),
    *("lora_modules", "max_num_seqs", "served_model_name", "mem_fraction_static", "enforce_eager"),
}
"""Keys of vLLM and SGLang that no trainer has at its top."""
_TRAINS = {"learning_rate", "lr", "lora", "training", "train", "trainer", "optimizer", "adapter", "datasets", "dataset"}
KINDS: tuple[tuple[str, Test, str], ...] = (
    (
        "an mlx-lm config",
        lambda d: "lora_parameters" in d or {"model", "train", "iters", "num_layers"} <= d.keys(),
        "mlx-lm trains on Apple silicon without bitsandbytes; qlora-doctor looks at PyTorch trainers.",
    ),
    (
        "a DeepSpeed config",
        lambda d: "zero_optimization" in d and "model" not in d and "base_model" not in d,
        "Check the training config that names it under `deepspeed`.",
    ),
    (
        "an Olive workflow",
        lambda d: "passes" in d and {"input_model", "systems", "engine", "target"} & d.keys() != set(),
        "Check the adapter or the script that its fine-tuning pass starts from.",
    ),
    (
        "a mergekit config",
        lambda d: "merge_method" in d and {"models", "slices"} & d.keys() != set(),
        "It merges models and trains none.",
    ),
    (
        "a LLaMA-Factory v1 config that exports a model",
        lambda d: (
            "train_dataset" not in d and isinstance(d.get("peft_config"), dict) and "export_dir" in d["peft_config"]
        ),
        "It merges an adapter and trains none; check the config that trained it.",
    ),
    (
        "a tokenizer's config",
        lambda d: "tokenizer_class" in d and "architectures" not in d,
        "Check the training config.",
    ),
    (
        "a config of an engine that serves",
        lambda d: (
            {"model", "model_tag", "served_model_name"} & d.keys() != set()
            and {str(key).replace("-", "_") for key in d} & _SERVES != set()
            and not _TRAINS & d.keys()
        ),
        "It trains nothing; check the config that trained the adapter.",
    ),
    ("a trainer state", _keys("global_step", "log_history"), "Check the training config of that run."),
    (
        "a Docker Compose file",
        lambda d: isinstance(d.get("services"), dict) and "model" not in d,
        "Check the training config.",
    ),
)

_XTUNER_1 = re.compile(r"^[ \t]*(?:from|import)[ \t]+xtuner\.v1\b", re.MULTILINE)
_XTUNER_1_KIND = (
    "code of XTuner 1",
    "XTuner 1 trains whole models and has no LoRA (at b934f46, August 2026); configs of XTuner 0.2 are read.",
)


def recognise(document: Document) -> float:
    """Sure of files whose tool is known."""
    return 0.97 if kind_of(document) is not None else 0.0


def kind_of(document: Document) -> tuple[str, str] | None:
    """What a file of another tool is, and what to check in its place; None where it is of none that is known."""
    if document.format == "text":
        path, code = document.path, document.text
        is_python = path is None or path.suffix.lower() in (".py", "")
        return _XTUNER_1_KIND if is_python and _XTUNER_1.search(code) is not None and "peft" not in code else None
    if not isinstance(document.data, dict):
        return None
    return next(((what, remedy) for what, test, remedy in KINDS if test(document.data)), None)


def read(document: Document) -> Setup:
    """Say what the file is.

    Raises:
        ConfigError: always.
    """
    _refuse(document)


def _refuse(document: Document) -> NoReturn:
    what, remedy = kind_of(document) or ("a file of a tool that is not known", "Check the training config.")
    raise ConfigError(f"{document.path or 'The file'} is {what}, which is not checked here.", remedy=remedy)
