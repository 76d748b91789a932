"""Bits that a checkpoint brings by itself: its own quantization_config wins over the config's, or stands in for it.

transformers loads a quantized checkpoint as it is stored (quantizers/auto.py, merge_quantization_configs).
"""

from __future__ import annotations

import re
from typing import Any

from ...core.files import json_mapping
from ...setup.paths import resolve
from ...setup.setup import Origin, Setup, Source

_BY_NAME = re.compile(r"-(?:unsloth-)?bnb-([48])bit\Z|-([48])bit-bnb\Z|-bnb-(nf4)\Z", re.IGNORECASE)
_UNSLOTH: dict[str, Any] = {
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
}
"""What Unsloth publishes under ``-bnb-4bit``."""
SWITCHES = ("load_in_4bit", "load_in_8bit")
_OPTIONS = tuple(_UNSLOTH)
_NOTE = "The checkpoint is stored in these bits, and its own quantization_config counts."
_LIMIT = 16 << 20


def stored_bits(setup: Setup) -> dict[str, Any] | None:
    """The quantization_config of a base that bitsandbytes quantized; None where it has none, or that is not known.

    From the folder's config.json, the bundled table, or what the name says; of a name alone only the width is sure.
    """
    written = setup.model.name_or_path
    if not written or setup.is_unknown("model.name_or_path"):
        return None
    folder = resolve(setup, written)
    if folder is not None and folder.is_dir():
        return _of_bitsandbytes(json_mapping(folder / "config.json", _LIMIT))
    named = _BY_NAME.search(written.rstrip("/"))
    if named is None:
        return None
    from ...tables.architectures import find_architecture

    known = find_architecture(written)
    if known is not None and known.prequantized:
        return _of_bitsandbytes(known.config)
    width = "8" if "8" in named.groups() else "4"
    options = _UNSLOTH if written.lower().startswith("unsloth/") and width == "4" else {}
    return {f"load_in_{width}bit": True, **options}


def with_stored_bits(setup: Setup) -> tuple[Setup, bool]:
    """(the setup with what the checkpoint decides, whether the checkpoint alone brings the bits).

    A switch that the file turns off keeps its meaning, and so do another backend and options that are written.
    """
    stored, asked = stored_bits(setup), setup.quantization
    if stored is None or asked.backend not in ("bitsandbytes", None) or setup.is_unknown("quantization.backend"):
        return setup, False
    wanted = asked.load_in_4bit or asked.load_in_8bit
    if not wanted and any(_is_written(setup, name) for name in SWITCHES):
        return setup, False
    four = bool(stored.get("load_in_4bit"))
    values: dict[str, Any] = {"load_in_4bit": four, "load_in_8bit": not four}
    for option in _OPTIONS if four else ():
        if not _is_written(setup, option):  # one that is written and differs is reported of a built model
            values[option] = stored.get(option)
    origins = dict(setup.origins)
    for name, value in values.items():
        path = f"quantization.{name}"
        source: Source = "unknown" if value is None else "library_default"
        place = origins[path].place if path in origins and name in SWITCHES else None
        origins[path] = Origin(source=source, place=place, note=_NOTE)
    quantization = asked.model_copy(update=values)
    alone = not wanted and not (setup.dialect == "native" and asked.load_in_4bit is None)
    return setup.model_copy(update={"quantization": quantization, "origins": origins}), alone


def _is_written(setup: Setup, name: str) -> bool:
    origin = setup.origins.get(f"quantization.{name}")
    return origin is not None and origin.source == "explicit"


def _of_bitsandbytes(config: dict[str, Any] | None) -> dict[str, Any] | None:
    stored = config.get("quantization_config") if config is not None else None
    if not isinstance(stored, dict):
        return None
    by_bitsandbytes = str(stored.get("quant_method", "bitsandbytes")) == "bitsandbytes"
    width = next((key for key in ("load_in_4bit", "load_in_8bit") if stored.get(key)), None)
    return stored if by_bitsandbytes and width is not None else None
