"""Writes the tables of templates in ``qlora_doctor/tables`` from the trainers' own sources.

    python list_templates.py llamafactory VERSION llamafactory/data/template.py   → templates.json
    python list_templates.py ms-swift                                             → swift_templates.json
    python list_templates.py marks axolotl/utils/chat_templates/templates unsloth/chat_templates.py

The last writes template_marks.json. It and the second are run by a Python that has ms-swift. Of LLaMA-Factory only what
a template writes around a message is taken, and what it asks of the end token; how tools are written is not.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

SLOTS = {"prefix": "format_prefix", "user": "format_user", "assistant": "format_assistant", "system": "format_system"}
SETTINGS = ("default_system", "stop_words", "efficient_eos", "replace_eos", "thought_words")
TABLES = Path(__file__).resolve().parents[2] / "qlora_doctor" / "tables"


def llamafactory(version: str, source: str) -> None:
    """Read the calls of ``register_template`` and write the table."""
    rows = {}
    for node in ast.parse(Path(source).read_text("utf-8")).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register_template":
            given = {each.arg: each.value for each in call.keywords}
            rows[ast.literal_eval(given["name"])] = row(given)
    write("templates.json", {"version": version, "templates": rows})


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


FOLLOWED = {"Template", "Gemma3Template"}
"""Classes of ms-swift whose rendering ``pipeline/forms/swift_template.py`` follows."""
OF_SWIFT = (
    *("prefix", "prompt", "chat_sep", "suffix", "system_prefix", "default_system", "stop_words", "auto_add_bos"),
    *(
        "agent_template",
        "is_thinking",
        "thinking_prefix",
        "non_thinking_prefix",
        "preserve_thinking",
        "history_thinking_prefix",
    ),
)


def ms_swift() -> None:
    """Ask ms-swift what it has registered: templates, and the models, types and architectures that take them."""
    from datetime import datetime
    from importlib.metadata import version

    import swift.loss_scale
    from swift.model.register import MODEL_MAPPING
    from swift.template.register import TEMPLATE_MAPPING

    rows = {}
    for name, meta in TEMPLATE_MAPPING.items():
        if meta.template_cls.__name__ in FOLLOWED:
            said = {
                key: value for key in OF_SWIFT if (value := getattr(meta, key)) or (value == [] and key == "chat_sep")
            }
            if meta.is_post_system:
                said["prompt_with_system"] = meta.system_prompt
            if meta.template_cls.__name__ != "Template":
                said["class"] = meta.template_cls.__name__
            today = datetime.now().strftime("%d %b %Y")  # which Llama 3.2's templates write
            rows[name] = json.loads(json.dumps(said).replace(today, "{{TODAY}}"))
    scales = Path(swift.loss_scale.__file__).parent / "config"
    types, models, architectures = {}, defaultdict(set), defaultdict(list)
    for kind, meta in MODEL_MAPPING.items():
        of_kind = meta.candidate_templates
        types[kind] = meta.template or (of_kind[0] if len(of_kind) == 1 else None)
        for architecture in meta.architectures or ["null"]:
            architectures[architecture].append(kind)
        for group in meta.model_groups:
            template = group.template or types[kind]
            for model in group.models if template in rows else ():
                names = (model.ms_model_id, model.hf_model_id, model.model_path)
                models[template] |= {each.rsplit("/", 1)[-1].lower() for each in names if each}
    table = {
        "templates": rows,
        "types": {kind: template for kind, template in types.items() if template in rows},
        "architectures": {
            name: types[kinds[0]] if len(kinds) == 1 else None for name, kinds in sorted(architectures.items())
        },
        "loss_scales": {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(scales.glob("*.json"))},
        "models": {template: " ".join(sorted(names)) for template, names in models.items()},
    }
    parts = [f'{{"version": "{version("ms-swift")}"']
    for part, entries in table.items():
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in entries.items()]
        parts.append(f'"{part}": {{\n' + ",\n".join(lines) + "}")
    (TABLES / "swift_templates.json").write_text(",\n".join(parts) + "}\n", "utf-8")


TURNS = {
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|header_start|>", "<|eot|>"),
    *("<|header_end|>", "<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    *("<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "[gMASK]", "<sop>", "<|end|>", "<|start|>"),
    *("<|message|>", "<|return|>", "<|channel|>"),
}
"""Control tokens of turns; a template that writes others too is left out, as those may be plain text."""
WEAK = {"<|user|>", "<|assistant|>", "<|system|>"}
"""Marks that some models write as plain text."""


def marks(axolotl: str, unsloth: str) -> None:
    """The marks that templates of names which no other table has write around the turns of a plain talk."""
    from swift.template.register import TEMPLATE_MAPPING

    sys.path.insert(0, str(TABLES.parents[1]))
    from qlora_doctor.tables.templates import ALIASES, marks_in

    theirs = {
        "axolotl": {path.stem: talk(path.read_text("utf-8")) for path in sorted(Path(axolotl).glob("*.jinja"))},
        "unsloth": {name: talk(text) for name, text in of_unsloth(Path(unsloth)).items()},
        "ms-swift": {
            name: "".join(
                part
                for key in OF_SWIFT[:5]
                for part in getattr(meta, key) or ()
                if isinstance(part, str)
            )
            for name, meta in TEMPLATE_MAPPING.items()
        },
    }  # fmt: skip
    found: dict[str, dict[str, list[str]]] = {}
    for trainer, texts in theirs.items():
        groups = found.setdefault(trainer, defaultdict(list))
        for name, text in texts.items():
            written = set(marks_in(text or ""))
            if name.lower() not in ALIASES[trainer] and written - WEAK and written <= TURNS | WEAK:
                groups[" ".join(sorted(written))].append(name.lower())
    kept = {trainer: {key: sorted(names) for key, names in sorted(groups.items())} for trainer, groups in found.items()}
    write("template_marks.json", kept)


def of_unsloth(source: Path) -> dict[str, str]:
    """``CHAT_TEMPLATES`` of its module, which itself needs a GPU: the plain assignments are worked out alone."""
    names: dict[str, Any] = {"CHAT_TEMPLATES": {}, "DEFAULT_SYSTEM_MESSAGE": {}}
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign):
            try:
                exec(compile(ast.Module([node], []), str(source), "exec"), names)
            except (NameError, KeyError):  # of what it imports
                continue
    found = names["CHAT_TEMPLATES"].items()
    return {name: str(value[0] if isinstance(value, (tuple, list)) else value) for name, value in found}


def talk(template: str) -> str | None:
    """A question and an answer through a template, with a system message where it takes one."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    known = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    known.globals.update(raise_exception=refuse, strftime_now=lambda form: "a day")
    known.filters["tojson"] = lambda value, **how: json.dumps(value)
    for roles in (("system", "user", "assistant"), ("user", "assistant")):
        for wrap in (lambda text: text, lambda text: [{"type": "text", "text": text}]):
            messages = [{"role": role, "content": wrap(role[0])} for role in roles]
            try:
                made = known.from_string(template)
                return made.render(messages=messages, bos_token="", eos_token="", add_generation_prompt=False)
            except Exception:  # a template refuses as it likes
                continue
    return None


def write(name: str, table: dict[str, Any]) -> None:
    """A table, one value a line."""
    (TABLES / name).write_text(json.dumps(table, ensure_ascii=False, indent=0) + "\n", "utf-8")


if __name__ == "__main__":
    {"llamafactory": llamafactory, "ms-swift": ms_swift, "marks": marks}[sys.argv[1]](*sys.argv[2:])
