"""axolotl 0.18 and 0.19: what the rows of its refusals ask for that takes code.

The rows themselves are in tables/refusals/axolotl.yaml; what it takes otherwise than it is written is in ``remarks``,
and what its schema refuses by the kind of a value in ``schema``.
"""

from __future__ import annotations

import re

from ...fields import Reading
from .. import Computed
from .words import attention, fsdp_version

_MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::matmul", "aten::bmm")


def _broken_pattern(reading: Reading) -> bool:
    written = reading.get("lora_target_modules")
    named = {name for name in written if isinstance(name, str)} if isinstance(written, list) else set()
    return any(not _compiles(name) for name in named)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _saves_matrix_products(reading: Reading) -> bool:
    saved = reading.get("selective_checkpointing.save")
    names = [name for name in saved if isinstance(name, str)] if isinstance(saved, list) else []
    return any(name != "attention" and any(name in product for product in _MATRIX_PRODUCTS) for name in names)


def _sharegpt(reading: Reading) -> bool:
    found = reading.get("datasets")
    return isinstance(found, list) and any(
        isinstance(one, dict) and str(one.get("type", "")).startswith("sharegpt") for one in found
    )


def _output_dir_without_value(reading: Reading) -> bool:
    return reading.written("output_dir") and not reading.has("output_dir")


COMPUTED: Computed = {
    "attention": lambda reading: attention(reading) or None,
    "fsdp_generation": fsdp_version,
    "broken_pattern": _broken_pattern,
    "saves_matrix_products": _saves_matrix_products,
    "sharegpt": _sharegpt,
    "output_dir_without_value": _output_dir_without_value,
}
