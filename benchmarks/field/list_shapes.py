"""Write what kinds of values axolotl's schema takes, and which names its datasets may use, from an importable checkout.

    PYTHONPATH=AXOLOTL/src python benchmarks/field/list_shapes.py AXOLOTL

Values of each kind are tried on each field, so that what pydantic converts is known as well. The names of prompt
strategies are read from the source with ``ast``. Of what axolotl imports, the schema needs no more than pydantic, torch
and transformers: empty modules do for the rest.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

TARGET = Path(__file__).parents[2] / "qlora_doctor" / "tables" / "shapes" / "axolotl.json"
KEYS = Path(__file__).parents[2] / "qlora_doctor" / "tables" / "keys" / "axolotl.json"
PROBES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int": [3],
    "share": [0.2],
    "text": ["some text"],
    "list": [[], ["some text"], [3]],
    "mapping": [{}],
}
BEGINNINGS = {"chat_template": "tokenizer_default_fallback_"}
"""Texts that a pattern in the schema takes."""
SWITCHES = ("xformers", "sage", "flex", "flash", "sdp", "eager")
"""Older ``…_attention`` keys: what is true of them becomes attn_implementation before they are looked at."""
ITEMS = {"sft": "SFTDataset", "dpo": "DPODataset", "kto": "KTODataset"}
"""Kind of training → what ``validate_config`` makes of each item of ``datasets``."""
UNIONS = ("SFTDataset", "DPODataset", "KTODataset", "StepwiseSupervisedDataset", "SyntheticDataset")
TYPES = ("UserDefinedPrompterType", "UserDefinedDPOType", "UserDefinedKTOType")
OF_METHODS = ("dpo", "kto", "orpo")
NO_STRATEGY = ("base", "jinja_template_analyzer", "bradley_terry", "ebft")


def takes(adapter: TypeAdapter[Any], value: Any) -> bool:
    """Whether the schema takes a value; a mapping that only lacks fields is of the right kind."""
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return isinstance(value, dict) and any(each["type"] == "missing" for each in error.errors())
    except Exception:  # a validator of axolotl's own fell over: the kind is not what it minds
        return True
    return True


def words_of(annotation: Any) -> list[str]:
    """Texts that enumerations and literals inside an annotation name."""
    found: list[str] = []
    waiting = [annotation]
    while waiting:
        each = waiting.pop()
        waiting += list(getattr(each, "__args__", ()))
        found += [each] if isinstance(each, str) else []
        if isinstance(each, type) and hasattr(each, "__members__"):
            found += [str(member.value) for member in each if isinstance(member.value, str)]
    return sorted(set(found))


def shape(field: FieldInfo) -> str | None:
    """Kinds and single words that a field takes; None where it takes all of them."""
    annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        adapter = TypeAdapter(annotation)
    except PydanticUserError:
        return None
    kinds = [kind for kind, values in PROBES.items() if any(takes(adapter, value) for value in values)]
    if len(kinds) == len(PROBES):
        return None
    words = [] if "text" in kinds else [word for word in words_of(field.annotation) if takes(adapter, word)]
    return " ".join([*kinds, *(f"={word}" for word in words)])


def strategies(folder: Path) -> dict[str, dict[str, str]]:
    """Kind of training → module → its functions."""
    found: dict[str, dict[str, str]] = {"sft": {"messages": "load"}}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__" or parts[0] in NO_STRATEGY:
            continue
        body = ast.parse(file.read_text("utf-8")).body
        names = {node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
        assigned = (target for node in body if isinstance(node, ast.Assign) for target in node.targets)
        names |= {"load"} & {target.id for target in assigned if isinstance(target, ast.Name)}
        kind = parts[0] if parts[0] in OF_METHODS else "sft"
        found.setdefault(kind, {})[".".join(parts[1:] if kind != "sft" else parts)] = " ".join(sorted(names))
    return {kind: dict(sorted(modules.items())) for kind, modules in sorted(found.items())}


def main(checkout: Path) -> None:
    """Write the table."""
    from axolotl.utils.data.wrappers import DATASET_HANDLERS  # type: ignore[import-not-found]
    from axolotl.utils.schemas import datasets  # type: ignore[import-not-found]
    from axolotl.utils.schemas.config import AxolotlInputConfig  # type: ignore[import-not-found]

    listed = json.loads(KEYS.read_text("utf-8"))
    validators = AxolotlInputConfig.__pydantic_decorators__.field_validators.values()
    rewritten = {f"{kind}_attention" for kind in SWITCHES}
    rewritten |= {name for each in validators if each.info.mode != "after" for name in each.info.fields}
    fields_by_key = {field.alias or name: field for name, field in AxolotlInputConfig.model_fields.items()}
    shapes = {
        name: found
        for name, field in sorted(fields_by_key.items())
        if name in listed["keys"] and name not in rewritten and (found := shape(field)) is not None
    }
    for name, beginning in BEGINNINGS.items():
        shapes[name] += f" ~{beginning}"

    def items(name: str) -> dict[str, str]:
        made = getattr(datasets, name).model_fields.items()
        return {key: found for key, field in sorted(made) if (found := shape(field)) is not None}

    def fields(*classes: str) -> list[str]:
        return sorted({name for each in classes for name in getattr(datasets, each).model_fields})

    table = {
        "source": listed["source"],
        "version": listed["version"],
        "keys": shapes,
        "dataset": fields(*UNIONS),
        "dataset_items": {kind: items(name) for kind, name in ITEMS.items()},
        "dataset_type": fields(*TYPES),
        "strategies": strategies(checkout / "src" / "axolotl" / "prompt_strategies"),
        "older_strategies": sorted(DATASET_HANDLERS),
    }
    TARGET.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
