"""What axolotl's schema refuses by the kind of a value, and what it makes of the items of ``datasets``.

From utils/schemas/{config,datasets}.py (pydantic converts what can be converted), utils/data/{wrappers,rl}.py and
prompt_strategies/ of axolotl 0.18.
"""

from __future__ import annotations

from typing import Any

from .....tables.keys import KeyList
from .....tables.shapes import Shape, Shapes, shapes
from ....lenient import describe_value
from ...fields import Reading
from ...values import is_template

_SETS = ("datasets", "test_datasets")
_PAIRED = {"dpo": "dpo", "ipo": "dpo", "simpo": "dpo", "orpo": "orpo", "kto": "kto"}
"""Kinds of preference training and whose strategies they take; the others take functions of the user's own."""


def judge_values(reading: Reading) -> None:
    """Say of a file all that the schema refuses, and which keys of its datasets nobody reads."""
    schema = shapes("axolotl")
    _kinds(reading, "", reading.data, schema.keys)
    written = reading.get("datasets")
    if written is not None and not is_template(written) and (not isinstance(written, list) or not written):
        note = f"axolotl stops: datasets takes a list of at least one dataset, found {describe_value(written)}."
        reading.refused("value-of-another-kind", "datasets", note)
    for key in _SETS:
        items = reading.get(key)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict):
                _dataset(reading, f"{key}.{index}", item, schema)
            elif key == "datasets" and not is_template(item):
                note = (
                    f"axolotl stops: datasets.{index} takes a mapping with path and type, found {describe_value(item)}."
                )
                reading.refused("value-of-another-kind", f"datasets.{index}", note)


def _kinds(reading: Reading, above: str, values: dict[str, Any], takes: dict[str, Shape]) -> None:
    for key, shape in takes.items():
        value = values.get(key)
        if value is not None and not is_template(value) and not shape.takes(value):
            note = f"axolotl stops: {above}{key} takes {shape.sentence()}, found {describe_value(value)}."
            reading.refused("value-of-another-kind", above + key, note)


def _dataset(reading: Reading, key: str, item: dict[str, Any], schema: Shapes) -> None:
    reading.check_keys(_list(schema, schema.dataset), section=key)
    kind = item.get("type")
    if key.startswith("datasets.") and kind != "_synthetic":  # of test_datasets any of the classes may be meant
        paired = _PAIRED.get(str(reading.get("rl")), "sft")
        _kinds(reading, f"{key}.", item, schema.dataset_items.get(paired, schema.dataset_items["sft"]))
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
