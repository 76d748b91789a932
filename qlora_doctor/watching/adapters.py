"""Which adapter the optimizer holds, which one trains and which one the forward uses; and whether the one that was
loaded is still there."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..probes.tensors import adapter_of, modules_of, parameters_of


@dataclass(frozen=True)
class Loaded:
    """An adapter that PEFT loaded.

    Attributes:
        layer: a layer of it, to tell whether the model that trains still has that very layer.
        folder: where it was loaded from.
        adapter: its name in the model.
    """

    layer: weakref.ref[nn.Module]
    folder: str
    adapter: str


def loaded_into(model: nn.Module, folder: Any, adapter: Any) -> Loaded | None:
    """Note what was loaded; None where the model has no layer of that name."""
    for _, module in modules_of(model):
        lora = module.__dict__.get("_modules", {}).get("lora_A")
        if isinstance(lora, nn.ModuleDict) and adapter in lora:
            return Loaded(weakref.ref(module), str(folder), str(adapter))
    return None


def overwritten(model: Any, loads: Sequence[Loaded]) -> dict[str, Any]:
    """Fields of ``RunFacts``: tensors of a loaded adapter that is about to train and are not what its file holds.

    Only of layers that are still the ones that were loaded into: an adapter that was merged and taken off is over.
    """
    from .saved import differing

    own = {id(module) for _, module in modules_of(model)}
    last: dict[str, Loaded] = {each.adapter: each for each in loads}
    known: dict[str, Any] = {}
    for each in last.values():
        layer = each.layer()
        if layer is None or id(layer) not in own:
            continue
        folder = _local(each.folder)
        found = differing(model, folder, each.adapter) if folder is not None else None
        if found is None:
            continue
        known["adapter_loaded"] = each.folder
        known["adapter_loaded_differs"] = [*known.get("adapter_loaded_differs", []), *found]
    return known


def _local(folder: str) -> Path | None:
    if Path(folder).is_dir():
        return Path(folder)
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(folder, "adapter_model.safetensors")
    except Exception:  # no name of the hub either
        return None
    return Path(found).parent if isinstance(found, str) else None


def roles(model: Any, held: set[int]) -> dict[str, Any]:
    """Fields of ``RunFacts`` about adapters.

    Args:
        held: ids of the tensors that the optimizer holds.
    """
    adapters = getattr(model, "peft_config", None)
    if not isinstance(adapters, dict) or not adapters:
        return {}
    trains: dict[str, bool] = {}  # by adapter, whether a gradient reached it
    holds: dict[str | None, None] = {}
    for name, parameter in parameters_of(model):
        owner = adapter_of(name, adapters)
        if parameter.requires_grad and owner is not None:
            trains[owner] = trains.get(owner, False) or parameter.grad is not None
        if id(parameter) in held:
            holds[owner] = None
    active = active_adapters(model)
    known: dict[str, Any] = {"adapters_trainable": list(trains)}
    if active is not None:
        known["adapters_active"] = active
        known["adapters_idle"] = [name for name, reached in trains.items() if name not in active and not reached]
    if holds:
        of_adapters = [name for name in holds if name is not None]
        known["optimizer_holds"] = of_adapters or ["the base"]
        known["optimizer_elsewhere"] = bool(trains) and not set(trains) & set(of_adapters)
    return known


def active_adapters(model: Any) -> list[str] | None:
    """The adapters that the layers use, as they say themselves; None where they do not agree."""
    found = {
        tuple(active if isinstance(active, list | tuple) else [active])
        for _, module in modules_of(model)
        if (active := module.__dict__.get("_active_adapter")) is not None
    }
    return list(next(iter(found))) if len(found) == 1 else None
