"""Hold what is said and read of axolotl configs against axolotl's own validation and conclusions.

    PYTHONPATH=AXOLOTL/src python benchmarks/field/compare_axolotl.py FILE…

``AXOLOTL`` is a checkout, or the unpacked wheel, that can be imported; of what it imports, the schema needs no more
than pydantic, torch and transformers, so that empty modules do for the rest. Each file goes the way of ``axolotl
train`` up to the model's load: plugins, validation on an H100, dtype. Told are files that one refuses and the other
does not, and values that the two hold differently. Refusals on some machines only are left out.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects.axolotl import _FIELDS as FIELDS

CARD = {"bf16": True, "fp8": True, "tf32": True, "n_gpu": 1, "compute_capability": "sm_90"}
SOFTWARE = {"torch_version": "2.11.0"}
DERIVED = {"training.gradient_checkpointing_kwargs", "training.eval_strategy"}
"""Compared in another form, or concluded from several keys."""


def validated(path: Path) -> Any:
    """axolotl's config of a file, as it loads the model by it.

    Raises:
        Exception: axolotl refuses the file; its validators raise many kinds.
    """
    from axolotl.integrations.base import PluginManager  # type: ignore[import-not-found]
    from axolotl.utils import config as own  # type: ignore[import-not-found]
    from axolotl.utils.dict import DictDefault  # type: ignore[import-not-found]

    cfg = DictDefault(yaml.safe_load(path.read_text("utf-8")))
    PluginManager.get_instance().plugins.clear()
    own.prepare_plugins(cfg)
    cfg = own.validate_config(cfg, capabilities=CARD, env_capabilities=SOFTWARE)
    gemma4 = any(name in str(cfg.base_model).lower() for name in ("gemma-4", "gemma4"))
    own.load_model_config = lambda _: SimpleNamespace(model_type="gemma4" if gemma4 else "llama")
    own.get_model_support = lambda _: None
    own.choose_device = lambda _: None
    own.is_torch_bf16_gpu_available = lambda: True
    cfg.device, cfg.use_ray = "cuda:0", None  # with Ray the worker does the same, later
    own.normalize_config(cfg)
    return cfg


def differences(setup: Setup, cfg: Any) -> list[str]:
    """Values that are read as the file's own and that axolotl holds differently, and its conclusions."""
    found = []
    keys: dict[str, list[str]] = {}
    for key, row in FIELDS.items():
        keys.setdefault(row if isinstance(row, str) else row[0], []).append(key)
    theirs = {path: next((cfg[key] for key in named if cfg[key] is not None), None) for path, named in keys.items()}
    theirs = {path: value for path, value in theirs.items() if value is not None and path not in DERIVED}
    theirs["training.bf16"] = cfg.bf16 != "full" and bool(cfg.bf16 or cfg.bfloat16)
    theirs["training.fp16"] = bool(cfg.fp16 and not cfg.bf16)
    theirs["model.dtype"] = str(cfg.torch_dtype).removeprefix("torch.")
    theirs["training.gradient_checkpointing"] = bool(cfg.gradient_checkpointing)
    for path, own in theirs.items():
        section, _, field = path.partition(".")
        ours = getattr(getattr(setup, section), field)
        if setup.is_unknown(path) or path not in setup.origins:
            continue
        if comparable(ours) != comparable(own):
            found.append(f"{path}: read {ours!r}, axolotl has {own!r}")
    if cfg.gradient_checkpointing and not setup.is_unknown("training.gradient_checkpointing"):
        kwargs = cfg.gradient_checkpointing_kwargs
        own = False if kwargs is None else kwargs.get("use_reentrant")  # core/builders/base.py
        ours = (setup.training.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if ours != own:
            found.append(f"use_reentrant: read {ours!r}, axolotl has {own!r}")
    return found


def comparable(value: Any) -> Any:
    """A value without the form that pydantic gives it: enums, numbers, lists."""
    value = getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return {str(key): comparable(inner) for key, inner in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{float(value):g}"


def compared(path: Path) -> list[str]:
    """What the two say differently of one file."""
    setup = read_setup(path)
    refused = [remark for remark in setup.remarks if remark.effect == "refused" and not remark.machine]
    ours = ", ".join(remark.kind for remark in refused)
    try:
        cfg = validated(path)
    except Exception as error:  # whatever its validators raise is a refusal
        return [] if ours else [f"axolotl: {' '.join(str(error).split())[:160]}; reader: takes it"]
    return [f"axolotl: takes it; reader: {ours}"] if ours else differences(setup, cfg)


def main(paths: list[str]) -> int:
    """Print what differs; the number of differences is the exit code."""
    logging.disable(logging.CRITICAL)
    count = read = 0
    for path in paths:
        try:
            found = compared(Path(path))
        except ConfigError as error:
            print(f"{path}: not read: {error}")
            continue
        read += 1
        for sentence in found:
            count += 1
            print(f"{path}: {sentence}")
    print(f"{read} files, {count} differences")
    return min(count, 100)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
