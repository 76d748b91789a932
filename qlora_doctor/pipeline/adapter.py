"""LoRA on the base, by PEFT itself: a fresh LoraConfig, or an adapter that is continued."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from ..core.errors import StageError
from ..setup.setup import Setup
from .architecture import find_folder
from .base import Base
from .changes import change_model
from .failures import as_stage_error, first_sentence
from .patterns import check_patterns

_NOT_OF_PEFT = {"autocast_adapter_dtype", "targets_beside_linear", "extra"}
_WEIGHTS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"


def lora_config(setup: Setup, notes: list[str] | None = None) -> Any:
    """PEFT's ``LoraConfig`` with what the setup says and nothing else.

    A field that the installed PEFT does not know is left out and named in ``notes``.

    Raises:
        StageError: kind ``invalid-config``: a value that LoraConfig refuses.
    """
    from peft import LoraConfig

    known = inspect.signature(LoraConfig).parameters
    said = setup.lora.model_dump(exclude=_NOT_OF_PEFT) | setup.lora.extra
    arguments: dict[str, Any] = {}
    for name, value in said.items():
        if value is None:
            continue
        if name in known:
            arguments[name] = value
        elif notes is not None:
            notes.append(f"lora.{name} was left out: the installed PEFT does not know it.")
    try:
        return LoraConfig(**arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise StageError(
            f"PEFT refuses the LoRA settings: {first_sentence(error)}",
            kind="invalid-config",
            remedy="Correct them; names and values are those of LoraConfig.",
            place=setup.place("lora"),
        ) from error


def attach(base: Base, setup: Setup) -> Any:
    """The PeftModel with what a script does to it once it is there; see ``_attached``.

    Raises:
        ValueError, TypeError, …: whatever PEFT raises for an adapter that does not fit; the message is PEFT's.
        StageError: the adapter's folder is missing or unreadable, a LoRA setting is not valid, or what the script does
            with the model fails.
    """
    model = _attached(base, setup)
    change_model(model, setup, "attached", None, base.notes)
    return model


def _attached(base: Base, setup: Setup) -> Any:
    """The PeftModel: ``get_peft_model``, or ``PeftModel.from_pretrained`` where ``model.adapter`` names a folder.

    On the meta device an adapter that is continued gets its config and no weights. The base's layers are wrapped in
    place.

    Raises:
        ValueError, TypeError, …: whatever PEFT raises for an adapter that does not fit; the message is PEFT's.
        PatternWithoutEnd: a pattern of it does not come to an end on the model's names.
        StageError: the adapter's folder is missing or unreadable, or a LoRA setting is not valid.
    """
    arguments: dict[str, Any] = {}
    if setup.lora.autocast_adapter_dtype is not None:
        arguments["autocast_adapter_dtype"] = setup.lora.autocast_adapter_dtype
    if setup.model.adapter is None:
        config = lora_config(setup, base.notes)
        if setup.traits.lists_linear and setup.lora.target_modules == "all-linear":
            config.target_modules = _linear_names(base.model) | set(setup.lora.targets_beside_linear or ())
        _check_names(config, base)
        with nullcontext() if setup.traits.drops_on_experts else _without_dropout_on_parameters():
            return _wrap(base, config, arguments)
    folder = adapter_folder(setup)
    trainable = bool(setup.model.adapter_is_trainable)
    _check_names(_stored_config(folder, trainable), base)
    if base.device.type == "meta":
        return _wrap(base, _stored_config(folder, trainable), arguments)
    _check_weights(folder, setup)
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base.model, str(folder), is_trainable=trainable, **arguments)
    except OSError as error:
        raise as_stage_error(error, "loading the adapter") from error
    except UnpicklingError as error:  # PEFT reads it with weights_only, and that is refused
        raise StageError(
            f"{folder / _PICKLED} holds more than tensors, so that it is not read: a pickle can run code.",
            kind="pickle-only",
            remedy="Take an adapter that was saved as safetensors.",
            place=setup.place("model.adapter"),
        ) from error


@contextmanager
def _without_dropout_on_parameters() -> Iterator[None]:
    """Adapters on parameters get no dropout in place of an error, as in axolotl (loaders/adapter.py,
    ``_patch_peft_param_wrapper_dropout``)."""
    from peft.tuners.lora import layer

    wrapper = getattr(layer, "ParamWrapper", None)
    if wrapper is None:
        yield
        return
    original = wrapper.__init__

    def patched(self: Any, base_layer: Any, adapter_name: str, parameter_name: str, config: Any, **named: Any) -> None:
        config = copy.copy(config)
        config.lora_dropout = 0.0
        original(self, base_layer, adapter_name, parameter_name, config, **named)

    takes_config = "config" in inspect.signature(original).parameters
    wrapper.__init__ = patched if takes_config else original
    try:
        yield
    finally:
        wrapper.__init__ = original


def _check_names(config: Any, base: Base) -> None:
    check_patterns(config, (name for name, _ in base.model.named_modules() if name))


def _linear_names(model: Any) -> set[str]:
    """Last names of the linear layers, the output head left out: ``find_all_linear_names`` in axolotl's loaders."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, nn.Linear) or "Linear" in type(module).__name__)
    }
    return names - {"lm_head"}


def _check_weights(folder: Path, setup: Setup) -> None:
    """PEFT takes a folder without weights for a hub id, and says so."""
    if not any((folder / name).is_file() for name in (_WEIGHTS, _PICKLED)):
        raise StageError(
            f"{folder} holds no adapter weights ({_WEIGHTS}).",
            kind="missing-file",
            remedy="Name the folder that save_pretrained wrote the adapter to.",
            place=setup.place("model.adapter"),
        )


def _wrap(base: Base, config: Any, arguments: dict[str, Any]) -> Any:
    from peft import get_peft_model

    # PEFT makes an adapter on the CPU and then moves it to where the layer is; on meta that is time for nothing.
    on_meta = base.device.type == "meta"
    with torch.device("meta") if on_meta else nullcontext():
        model = get_peft_model(base.model, config, **arguments)
    if on_meta and arguments.get("autocast_adapter_dtype") is False:
        _take_dtype_of_layers(model)
    return model


def _take_dtype_of_layers(model: Any) -> None:
    """Give the adapter the dtype of its layers, as PEFT does with every one that is not on the meta device.

    A 4-bit layer counts by its compute dtype. Source: ``_move_adapter_to_device_of_base_layer`` in PEFT's
    ``tuners/tuners_utils.py`` and ``tuners/lora/layer.py``.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        base = module.get_base_layer()
        weight = getattr(base, getattr(module, "parameter_name", None) or "weight", None)
        dtype = getattr(base, "compute_dtype", None) or getattr(weight, "dtype", None)
        if dtype is None or not dtype.is_floating_point:
            continue
        for name in (*module.adapter_layer_names, *module.other_param_names):
            held = getattr(module, name, None)
            if isinstance(held, nn.ModuleDict):
                held.to(dtype=dtype)
            elif isinstance(held, nn.ParameterDict):
                for key, parameter in held.items():
                    held[key] = nn.Parameter(parameter.to(dtype), requires_grad=parameter.requires_grad)


def adapter_folder(setup: Setup) -> Path:
    """The folder of the adapter to continue from.

    Raises:
        StageError: kind ``missing-file``: there is no such folder, or it holds no adapter.
    """
    name = setup.model.adapter or ""
    folder = find_folder(name, setup)
    if folder is None or not (folder / "adapter_config.json").is_file():
        problem = f"There is no folder {name!r}" if folder is None else f"{folder} holds no adapter_config.json"
        below = sorted(folder.glob("*/adapter_config.json")) if folder is not None else []
        raise StageError(
            f"{problem}, so there is no adapter to continue from.",
            kind="missing-file",
            remedy=f"Name {below[0].parent.name} in it: PEFT stores an adapter that is not called default in a folder."
            if len(below) == 1
            else "Name the folder that save_pretrained wrote the adapter to.",
            place=setup.place("model.adapter"),
        )
    return folder


def _stored_config(folder: Path, trainable: bool) -> Any:
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise as_stage_error(error, "reading the adapter's config") from error
    config.inference_mode = not trainable
    return config
