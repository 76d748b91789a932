"""Which objects of a process belong to a training: found among what the garbage collector knows, nothing patched."""

from __future__ import annotations

import gc
from itertools import compress
from typing import Any

from torch import nn

_HOME_OF_CLASS = {
    "PeftModel": "peft.peft_model",
    "PreTrainedModel": "transformers.modeling_utils",
    "PreTrainedTokenizerBase": "transformers.tokenization_utils_base",
    "Trainer": "transformers.trainer",
    "Optimizer": "torch.optim.optimizer",
    "LRScheduler": "torch.optim.lr_scheduler",
    "DataLoader": "torch.utils.data.dataloader",
    "_BaseDataLoaderIter": "torch.utils.data.dataloader",
    "GradScaler": "torch.amp.grad_scaler",
}
"""Class and the module that defines it."""


def objects() -> dict[str, list[Any]]:
    """Live objects of the wanted classes and their subclasses, oldest first.

    Only their types are looked at: an object that does something when it is touched is not touched.
    """
    found: dict[str, list[Any]] = {name: [] for name in _HOME_OF_CLASS}
    every = gc.get_objects()
    # Of half a million objects a handful is wanted: no line of Python runs for each of the others.
    wanted = {kind: name for kind in set(map(type, every)) if (name := _kind(kind)) is not None}
    for each in compress(every, map(wanted.__contains__, map(type, every))):
        found[wanted[type(each)]].append(each)
    return found


def _kind(kind: type) -> str | None:
    for base in kind.__mro__:
        if _HOME_OF_CLASS.get(base.__name__) == base.__module__:
            return base.__name__
    return None


def subject_of(module: nn.Module) -> nn.Module | None:
    """The model that a forward of this module trains; None where it is none of a language model.

    A PEFT model is taken whole: its parts may be called one by one.
    """
    parameters = {id(p): p for p in module.parameters()}
    if not any(p.requires_grad for p in parameters.values()) or any(p.is_meta for p in parameters.values()):
        return None
    inner = unwrapped(module)
    for part in inner.modules():
        if _kind(type(part)) == "PeftModel":
            return part
    for model in objects()["PeftModel"]:
        if any(id(p) in parameters and p.requires_grad for p in model.parameters()):
            return model
    if any(_kind(type(part)) == "PreTrainedModel" or _is_quantized(part) for part in inner.modules()):
        return inner
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, FSDP 1, torch.compile and DeepSpeed's engine."""
    while True:
        kind = type(module)
        if kind.__name__ == "OptimizedModule":
            inner = getattr(module, "_orig_mod", None)
        elif kind.__module__.startswith(("torch.nn.parallel", "torch.distributed", "deepspeed")):
            inner = getattr(module, "module", None)
        else:
            return module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def is_compiled(module: nn.Module | None) -> bool:
    """Whether torch.compile stands around the module, or inside it."""
    if module is None:
        return False
    return any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def _is_quantized(module: nn.Module) -> bool:
    return any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)
