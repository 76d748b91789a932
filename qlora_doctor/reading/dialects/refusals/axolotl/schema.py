"""What axolotl's schema refuses by the kind of a value, and what it makes of the items of ``datasets``.

From utils/schemas/{config,datasets}.py (pydantic converts what can be converted), utils/data/{wrappers,rl}.py and
prompt_strategies/ of axolotl 0.18.
"""

from __future__ import annotations

from typing import Any

from .....tables.keys import KeyList
from .....tables.shapes import Shapes, shapes
from ....lenient import describe_value
from ...fields import Reading
from ...values import is_template

_SETS = ("datasets", "test_datasets")
_PAIRED = {"dpo": "dpo", "ipo": "dpo", "simpo": "dpo", "orpo": "orpo", "kto": "kto"}
"""Kinds of preference training and whose strategies they take; the others take functions of the user's own."""


def judge_values(reading: Reading) -> None:
    """Say of a file all that the schema refuses, and which keys of its datasets nobody reads."""
    schema = shapes("axolotl")
    for key, shape in schema.keys.items():
        value = reading.get(key)
        if value is not None and not is_template(value) and not shape.takes(value):
            note = f"axolotl stops: {key} takes {shape.sentence()}, found {describe_value(value)}."
            reading.refused("value-of-another-kind", key, note)
    for key in _SETS:
        items = reading.get(key)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict):
                _dataset(reading, f"{key}.{index}", item, schema)


def _dataset(reading: Reading, key: str, item: dict[str, Any], schema: Shapes) -> None:
    reading.check_keys(_list(schema, schema.dataset), section=key)
    kind = item.get("type")
    if isinstance(kind, dict):
        reading.check_keys(_list(schema, schema.dataset_type), section=f"{key}.type")
    elif isinstance(kind, str) and kind and not is_template(kind) and _is_unknown(reading, kind, schema):
        note = f"axolotl stops: the type {kind} of {key} names no prompt strategy."
        reading.refused("dataset-type-unknown", f"{key}.type", note)


def _list(schema: Shapes, names: frozenset[str]) -> KeyList:
    return KeyList("axolotl", schema.version, refuses=False, names=names, removed={})


def _is_unknown(reading: Reading, kind: str, schema: Shapes) -> bool:
    """True where a type names nothing of axolotl's; a module of the user's own may be named with dots."""
    method = reading.get("rl")
    if kind.startswith(("bradley_terry", "sharegpt", "ebft")) or reading.get("skip_prepare_dataset"):
        return False
    if method:
        modules = schema.strategies.get(_PAIRED.get(str(method), ""))
        if modules is None:
            return False
        module, _, function = kind.rpartition(".") if "." in kind else (kind, "", "default")
    else:
        modules = schema.strategies["sft"]
        if kind.partition(":")[0] in schema.older_strategies or kind in modules:
            return False
        module, _, function = kind.rpartition(".")
        if not function.startswith("load"):
            module, function = kind, "load"
    if module in modules:
        return function not in modules[module]
    return "." not in module or module.partition(".")[0] in modules
