"""Writes ``qlora_doctor/tables/templates.json``: the texts of LLaMA-Factory's templates, from its own source.

``python benchmarks/field/list_templates.py llamafactory/data/template.py VERSION``. Only what a template writes
around a message is taken, and what it asks of the end token; how tools are written is not.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

SLOTS = {"prefix": "format_prefix", "user": "format_user", "assistant": "format_assistant", "system": "format_system"}
SETTINGS = ("default_system", "stop_words", "efficient_eos", "replace_eos", "thought_words")
FUSED = "Llama2Template"
OUT = Path(__file__).resolve().parents[2] / "qlora_doctor" / "tables" / "templates.json"


def main(source: Path, version: str) -> None:
    """Read the calls of ``register_template`` and write the table."""
    rows = {}
    for node in ast.parse(source.read_text("utf-8")).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register_template":
            given = {each.arg: each.value for each in call.keywords}
            rows[ast.literal_eval(given["name"])] = row(given)
    OUT.write_text(json.dumps({"version": version, "templates": rows}, ensure_ascii=False, indent=0) + "\n", "utf-8")


def row(given: dict[str | None, ast.expr]) -> dict[str, Any]:
    """One template: slots of text, ``{"special": …}`` where a special token stands, and its settings."""
    found: dict[str, Any] = {}
    for name, argument in SLOTS.items():
        if argument in given:
            call = given[argument]
            assert isinstance(call, ast.Call)
            value = next((each.value for each in call.keywords if each.arg == "slots"), None) or call.args[0]
            found[name] = [
                {"special": next(iter(slot))} if isinstance(slot, set) else slot for slot in ast.literal_eval(value)
            ]
    for name in SETTINGS:
        if name in given and (value := ast.literal_eval(given[name])):
            found[name] = value
    kind = getattr(given.get("template_class"), "id", "Template")
    if kind != "Template":
        found["class"] = kind
    if "mm_plugin" in given:
        found["media"] = True
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
