"""The JSON Schema (draft-07, which editors know) of the native config, made from Setup and the checks of its reader."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any, TypeGuard

from pydantic import BaseModel

from ..setup import setup
from ..tables.meanings import all_meanings, meaning
from . import native

ID = "config-v1.schema.json"
_SCHEMA_KEY = {"description": "Address of this schema, for editors.", "type": "string"}


def config_schema() -> dict[str, Any]:
    """The schema as a document."""
    sections = {name: _section(name, model) for name, model in setup.SECTIONS.items()}
    sections["model"] = {
        "description": "Hub id or folder of the base model, or from_pretrained's names.",
        "anyOf": [{"type": "string", "minLength": 1}, sections["model"]],
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": ID,
        "title": "qlora-doctor config",
        "type": "object",
        "properties": {"$schema": _SCHEMA_KEY, **sections},
        "required": ["model"],
        "additionalProperties": False,
    }


def key_meanings() -> dict[str, str]:
    """Canonical path → what the key means (Markdown): of fields, of other names for them, and of what is passed on."""
    found = dict(all_meanings())
    for name, model in setup.SECTIONS.items():
        found |= {f"{name}.{field}": told for field, told in _attribute_docstrings(model).items() if field != "extra"}
    return found


def _section(name: str, model: type[BaseModel]) -> dict[str, Any]:
    described = _attribute_docstrings(model)
    properties = {}
    for field, schema in model.model_json_schema()["properties"].items():
        if field != "extra":
            path = f"{name}.{field}"
            properties[field] = _property(path, schema, described.get(field) or meaning(path))
    for alias, target in native.ALIASES.items():
        section, _, field = alias.partition(".")
        if section == name:
            same = _source_of(target)
            properties[field] = {**_property(target, same, None), "description": f"Another name of {target}."}
    for field in sorted(native.PASSED_ON.get(name, ())):
        told = meaning(f"{name}.{field}")
        properties.setdefault(field, {"description": told} if told else {})
    doc = inspect.cleandoc(model.__doc__ or "").splitlines()[0].replace("``", "`")
    return {"description": doc, "type": ["object", "null"], "properties": properties, "additionalProperties": False}


def _source_of(path: str) -> dict[str, Any]:
    section, _, field = path.partition(".")
    schema: dict[str, Any] = setup.SECTIONS[section].model_json_schema()["properties"][field]
    return schema


def _property(path: str, schema: dict[str, Any], description: str | None) -> dict[str, Any]:
    """pydantic's schema of a field with the limits that the reader holds it to; ``null`` is as good as silent."""
    result = {key: value for key, value in schema.items() if key not in ("title", "default", "description")}
    if path in native.CHOICES:
        spellings = [*native.CHOICES[path], *native.other_spellings(path)]
        result = {"enum": [*spellings, None]}
    if path in native.NO_MEANS_FALSE:
        result["anyOf"] = [*result["anyOf"], {"const": False}]
    if path in native.AT_LEAST:
        result["anyOf"] = [_with_minimum(part, native.AT_LEAST[path]) for part in result["anyOf"]]
    if description:
        result["description"] = description
    return result


def _with_minimum(part: dict[str, Any], least: float) -> dict[str, Any]:
    return {**part, "minimum": least} if part.get("type") in ("integer", "number") else part


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Field → the text that stands below it in setup.py, as one line."""
    tree = ast.parse(inspect.getsource(setup))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == model.__name__)
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_text(text):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split()).replace("``", "`")
    return found


def _is_text(node: ast.stmt) -> TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
