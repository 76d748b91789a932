"""Which dtype from_pretrained loads the weights in, and which of them it keeps in float32."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from ..core.errors import StageError
from ..setup.setup import Setup
from .architecture import Architecture

_SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def resolve_dtype(setup: Setup, architecture: Architecture, *, quantized: bool) -> tuple[torch.dtype, bool]:
    """The dtype and whether it is known (False: bfloat16 stands in for what only the missing weights can tell).

    transformers 5 loads in the checkpoint's dtype where the script is silent; transformers 4 in float32, and in
    float16 where bitsandbytes quantizes (``transformers/quantizers/quantizer_bnb_4bit.py``, ``update_torch_dtype``).

    Raises:
        StageError: kind ``invalid-config``: no such dtype.
    """
    said = setup.model.dtype
    if said not in (None, "auto"):
        dtype = getattr(torch, str(said).removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise StageError(
                f"{said!r} is no dtype that torch knows.",
                kind="invalid-config",
                remedy="Use bfloat16, float16, float32 or auto.",
                place=setup.place("model.dtype"),
            )
        return dtype, True
    if said is None and _major_version() < 5:
        return (torch.float16 if quantized else torch.float32), True
    stored = _config_dtype(architecture.config) or _weights_dtype(architecture.folder)
    return (stored, True) if stored is not None else (torch.bfloat16, False)


def settle_dtypes(model: Any, dtype: torch.dtype) -> None:
    """Give a model built on meta the dtypes that from_pretrained loads it in.

    What ``_keep_in_fp32_modules`` names becomes float32. transformers 4 loads all else in ``dtype``
    (``modeling_utils._infer_parameter_dtype``), also what the model makes in float32 by itself.
    """
    patterns = _float32_patterns(model, dtype)
    kept = re.compile("|".join(rf"(?:^|\.){pattern}(?:\.|$)" for pattern in patterns)) if patterns else None
    older = _major_version() < 5
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or type(parameter).__name__ in ("Params4bit", "Int8Params"):
            continue
        if kept is not None and kept.search(name):
            parameter.data = parameter.data.to(torch.float32)
        elif older:
            parameter.data = parameter.data.to(dtype)


def _float32_patterns(model: Any, dtype: torch.dtype) -> list[str]:
    if hasattr(model, "_get_dtype_plan"):
        return [name.replace("*", r"[^.]*") for name in model._get_dtype_plan(dtype)]
    patterns: list[str] = []
    if dtype == torch.float16:
        patterns += list(getattr(model, "_keep_in_fp32_modules", None) or [])
    if dtype in (torch.float16, torch.bfloat16):
        patterns += list(getattr(model, "_keep_in_fp32_modules_strict", None) or [])
    return patterns


def _config_dtype(config: Any) -> torch.dtype | None:
    for name in ("dtype", "torch_dtype"):
        value = getattr(config, name, None)
        value = getattr(torch, value, None) if isinstance(value, str) else value
        if isinstance(value, torch.dtype):
            return value
    return None


def _weights_dtype(folder: Path | None) -> torch.dtype | None:
    """Dtype of the first floating tensor of the first shard, as from_pretrained takes it; reads the header alone."""
    shards = sorted(folder.glob("*.safetensors")) if folder is not None else []
    if not shards:
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(shards[0], framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                dtype = _SAFETENSORS.get(file.get_slice(name).get_dtype())
                if dtype is not None:
                    return dtype
    except (SafetensorError, OSError):
        return None  # loading will tell what is wrong with the file
    return None


def _major_version() -> int:
    import transformers

    return int(transformers.__version__.split(".")[0])
