"""Facts about the base model itself."""

from __future__ import annotations

from typing import Any

from ...core.errors import StageError
from ...core.versions import version_tuple
from ...facts.model import CheckpointQuantization, ModelFacts
from ...pipeline.architecture import Architecture, context_length
from ...setup.setup import Setup
from ..config.needs import of_method
from ..environment import installed_packages
from ..tensors import every_module, own_class
from .class_fit import class_misfit
from .inventory import Inventory, is_conv1d
from .naming import fused_parts
from .sizes import dtype_name, elements


def model_facts(
    model: Any,
    *,
    architecture: Architecture | None = None,
    setup: Setup | None = None,
    dtype: Any = None,
    inventory: Inventory | None = None,
) -> ModelFacts:
    """Facts of a model on any device, with or without adapters; counts are logical and leave the adapter out.

    Args:
        architecture: what it was built from; without it source and published count stay unknown.
        setup: the config, for its conflicts with a checkpoint that is quantized itself.
        dtype: what the weights are (to be) loaded in; None is unknown with an architecture, else the config's own.
    """
    seen = inventory or Inventory(model)
    config = seen.config
    counts = _counts(seen)
    raw = architecture.raw if architecture is not None else {}
    return ModelFacts(
        source=architecture.source if architecture is not None else None,
        model_type=getattr(getattr(seen.base, "config", None), "model_type", None),
        architecture=next(iter(raw.get("architectures") or getattr(config, "architectures", None) or []), None),
        model_class=own_class(seen.base),
        dtype=_own_dtype(config) if dtype is None and architecture is None else dtype_name(dtype),
        layers=getattr(config, "num_hidden_layers", None) or seen.total_layers or None,
        hidden_size=getattr(config, "hidden_size", None),
        vocab_size=getattr(config, "vocab_size", None),
        context_length=context_length(config) if config is not None else None,
        tied_embeddings=seen.tied,
        published_parameters=architecture.published_parameters if architecture is not None else None,
        fused_modules=[kind for kind in _all_kinds(seen) if fused_parts(kind)],
        module_kinds=seen.module_kinds,
        block_classes=_block_classes(seen.base),
        wraps_missing=_wraps_missing(seen.base, setup) if setup is not None else None,
        remote_code=type(seen.base).__module__.startswith("transformers_modules"),
        checkpoint_quantization=checkpoint_quantization(raw),
        checkpoint_conflicts=checkpoint_conflicts(raw, setup) if setup is not None else None,
        build_error_kind="none",
        prepare_error_kind="none",
        supports_checkpointing=getattr(seen.base, "supports_gradient_checkpointing", None),
        **_class_fit(seen, architecture, setup),
        **counts,
    )


def _block_classes(model: Any) -> list[str]:
    """Names of the classes of what stands in the lists of layers, most often decoder layers, in their order."""
    from torch import nn

    lists = [module for module in every_module(model) if isinstance(module, nn.ModuleList)]
    return list(dict.fromkeys(type(inner).__name__ for each in lists for inner in each))


_WRAPPED = ("transformer_layer_cls_to_wrap", "fsdp_transformer_layer_cls_to_wrap")


def _wraps_missing(model: Any, setup: Setup) -> list[str] | None:
    """Classes of layers that FSDP is set to wrap and does not find, at which accelerate stops; None: not known."""
    settings = setup.training.fsdp_config
    if not setup.training.fsdp or settings is None:
        return []
    if not isinstance(settings, dict):
        return None
    found: Any = next((settings[key] for key in _WRAPPED if settings.get(key)), [])
    names = found.split(",") if isinstance(found, str) else found if isinstance(found, list) else []
    there = {type(module).__name__ for module in model.modules()}
    return [name for name in (str(each).strip() for each in names) if name and name not in there]


def _class_fit(seen: Inventory, architecture: Architecture | None, setup: Setup | None) -> dict[str, Any]:
    if architecture is None or setup is None:
        return {}
    if setup.model.model_class is None:
        return {"class_fits": True}
    misfit = class_misfit(seen, architecture)
    return {"class_misfit": misfit, "class_fits": misfit is None}


def failed_model_facts(error: StageError, setup: Setup, architecture: Architecture | None = None) -> ModelFacts:
    """What is known of a model that could not be built, and why."""
    raw = architecture.raw if architecture is not None else {}
    kinds = (
        "missing-config",
        "no-such-model",
        "unknown-architecture",
        "remote-code",
        "invalid-config",
        "unsupported",
    )
    return ModelFacts(
        source=architecture.source if architecture is not None else None,
        model_type=raw.get("model_type"),
        architecture=next(iter(raw.get("architectures") or []), None),
        published_parameters=architecture.published_parameters if architecture is not None else None,
        remote_code=True if error.kind == "remote-code" else None,
        checkpoint_quantization=checkpoint_quantization(raw),
        checkpoint_conflicts=checkpoint_conflicts(raw, setup) if architecture is not None else None,
        build_error=error.message,
        build_error_kind=error.kind if error.kind in kinds else "other",
    )


def checkpoint_quantization(raw: dict[str, Any]) -> CheckpointQuantization | None:
    """What ``quantization_config`` of a config.json says; None where the checkpoint is not quantized."""
    stored = _stored(raw)
    if not stored:
        return None
    method = str(stored.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in stored else "unknown"))
    if method != "bitsandbytes":
        bits = stored.get("bits")
        return CheckpointQuantization(
            method=method, bits=bits if isinstance(bits, int) else None, missing_packages=_missing_packages(method)
        )
    four = bool(stored.get("load_in_4bit") or stored.get("_load_in_4bit"))
    eight = bool(stored.get("load_in_8bit") or stored.get("_load_in_8bit"))
    return CheckpointQuantization(
        method=method,
        bits=4 if four else 8 if eight else None,
        quant_type=stored.get("bnb_4bit_quant_type") if four else None,
        double_quant=stored.get("bnb_4bit_use_double_quant") if four else None,
        compute_dtype=stored.get("bnb_4bit_compute_dtype") if four else None,
    )


def _missing_packages(method: str) -> list[str]:
    installed = installed_packages()
    wanted = of_method(method, version_tuple(installed.transformers))
    return [name for name in wanted if getattr(installed, name) is None]


def _is_heard(raw: dict[str, Any]) -> bool:
    """Whether transformers knows the checkpoint's method at all; else it warns, and does what the setup says."""
    from transformers.quantizers.auto import AutoHfQuantizer

    return bool(AutoHfQuantizer.supports_quant_method(_stored(raw)))


def checkpoint_conflicts(raw: dict[str, Any], setup: Setup) -> list[str]:
    """Settings of the setup that a quantized checkpoint overrides, as ``name: asked, has``."""
    from ...pipeline.base import wants_4bit  # it brings what builds a model, which a look at a live one does without

    own = checkpoint_quantization(raw)
    if own is None:
        return []
    asked = setup.quantization
    if not _is_heard(raw):
        return []
    if own.method != "bitsandbytes":
        return [f"quant_method: bitsandbytes, {own.method}"] if wants_4bit(setup) or asked.load_in_8bit else []
    conflicts = []
    if own.bits == 8 and wants_4bit(setup):
        conflicts.append("load_in_4bit: true, 8-bit")
    if own.bits == 4 and asked.load_in_8bit:
        conflicts.append("load_in_8bit: true, 4-bit")
    stored = _stored(raw)
    for name in (
        "bnb_4bit_quant_type",
        "bnb_4bit_use_double_quant",
        "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_storage",
        "llm_int8_skip_modules",
    ):
        wanted = getattr(asked, name)
        if wanted is not None and name in stored and wanted != stored[name]:
            conflicts.append(f"{name}: {_shown(wanted)}, {_shown(stored[name])}")
    return conflicts


def _counts(seen: Inventory) -> dict[str, Any]:
    tables = {id(part.module.weight): elements(part.module.weight) for part in seen.embeddings}
    heads = {id(part.module.weight): elements(part.module.weight, part.module) for part in seen.heads}
    stacked = sum(weight.parameter.numel() for weight in seen.experts)
    return {
        "total_parameters": sum(elements(parameter, module) for _, parameter, module in seen.parameters()),
        "embedding_parameters": sum(tables.values()),
        "head_parameters": sum(count for key, count in heads.items() if key not in tables),
        "linear_parameters": sum(linear.parameters for linear in seen.layer_linears),
        "linear_modules": len(seen.layer_linears),
        "conv1d_modules": sum(is_conv1d(linear) for linear in seen.layer_linears),
        "expert_parameters": stacked + sum(linear.parameters for linear in seen.expert_linears),
        "expert_parameters_3d": stacked,
    }


def _all_kinds(seen: Inventory) -> list[str]:
    stacked = [weight.name.rpartition(".")[2] for weight in seen.experts]
    return list(dict.fromkeys([*seen.module_kinds, *stacked]))


def _own_dtype(config: Any) -> str | None:
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return dtype if isinstance(dtype, str) else dtype_name(dtype)


def _stored(raw: dict[str, Any]) -> dict[str, Any]:
    stored = raw.get("quantization_config")
    return stored if isinstance(stored, dict) else {}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)
