"""Does the class that a config names have the weights of the checkpoint's own class?

``from_pretrained`` of a model class takes any checkpoint: what the class has and the file lacks starts from random
values, what the file has and the class lacks is left in it, and both are only logged.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ...facts.model import ClassMisfit
from ...pipeline.architecture import Architecture
from .inventory import Inventory


def class_misfit(seen: Inventory, architecture: Architecture) -> ClassMisfit | None:
    """What of the built class is not in the class that ``architectures`` of config.json names; None where it all is.

    Heads are left out: a new one is what a task may want.
    """
    import transformers

    named = type(seen.base)
    own_name = next(iter(architecture.raw.get("architectures") or []), None)
    own: Any = getattr(transformers, own_name, None) if isinstance(own_name, str) else None
    if own is None:  # a table without it: the class that transformers has for the config
        own = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(architecture.config), None)
    if own is None or own is named or not hasattr(own, "_from_config"):
        return None
    try:
        with torch.device("meta"):
            model = own._from_config(copy.deepcopy(architecture.config))
    except Exception:  # what the own class cannot be built from says nothing about the named one
        return None
    has = _shapes(seen.base, {name: tuple(_shape(p, module)) for name, p, module in seen.parameters()})
    stored = _shapes(model, {name: tuple(p.shape) for name, p in model.named_parameters()})
    random = [name for name, shape in has.items() if stored.get(name) != shape]
    if not random:
        return None
    unread = sum(name not in has for name in stored)
    return ClassMisfit(named=named.__name__, own=own.__name__, random=random, unread=unread, weights=len(has))


def _shapes(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The weights of the base without its heads, by their names below it."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    return inside or shapes


def _shape(parameter: Any, module: nn.Module) -> Any:
    """The shape as in the checkpoint, where a packed weight is a matrix again."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.shape
    shape = tuple(state.shape)
    conv1d = getattr(getattr(module, "source_cls", None), "__name__", "") == "Conv1D"
    return tuple(reversed(shape)) if conv1d else shape
