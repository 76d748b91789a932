"""Pages of the docs site that follow from the code: rules, commands, keys, the Python API, schemas, the gallery.

Each function returns Markdown; nothing is written, and nothing heavy is imported.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the checkout's own package, whatever is installed

from qlora_doctor.engine import Rule, load_rules  # noqa: E402
from qlora_doctor.engine.causes import likely_causes  # noqa: E402
from tools.docsite import calculator  # noqa: E402

GROUPS = {
    "QD1": "Config and environment",
    "QD2": "Base and 4-bit load",
    "QD3": "Adapter and targets",
    "QD4": "Gradients and step",
    "QD5": "Memory",
    "QD6": "Data",
    "QD7": "The course of a run",
    "QD8": "Distributed training",
    "QD9": "The tool itself",
}
SCHEMAS = ("config-v1.schema.json", "facts-v1.schema.json", "report-v1.schema.json")
_ID = re.compile(r"\bQD\d{3}\b")
_CODE = re.compile(r"(```.*?```|`[^`\n]+`|\[[^\]]*\]\([^)]*\))", re.DOTALL)


@cache
def rules() -> tuple[Rule, ...]:
    """The bundled rules."""
    return tuple(load_rules())


def pages() -> Iterator[tuple[str, Callable[[], str]]]:
    """Every generated page: its path below docs/, and how to make it."""
    yield "rules/index.md", rule_index
    for rule in rules():
        yield f"rules/{rule.id}.md", lambda rule=rule: rule_page(rule)  # type: ignore[misc]
    yield "symptoms.md", symptoms
    yield "commands/index.md", command_index
    for name in command_names():
        yield f"commands/{name}.md", lambda name=name: command_page(name)  # type: ignore[misc]
    yield "calculator.md", calculator.page
    yield "keys.md", keys
    yield "api.md", api
    yield "schema/index.md", schema_index
    yield "schema/report.md", lambda: schema_page("report")
    yield "schema/facts.md", lambda: schema_page("facts")
    yield "gallery.md", gallery


def files() -> Iterator[tuple[str, Path]]:
    """Files that stand on the site as they are: their path there, and where they lie."""
    for name in SCHEMAS:
        yield f"schema/{name}", ROOT / "reports" / "schema" / name
    for page in sorted((ROOT / "reports" / "examples").glob("*.html")):
        yield f"gallery/{page.name}", page
    for traces in sorted((*calculator.TRACES.glob("*.traces"), calculator.TRACES / "index.json")):
        yield f"traces/{traces.name}", traces


# -- rules


def linked(markdown: str, own: str = "", folder: str = "") -> str:
    """Markdown in which each rule's id outside code links to its page."""
    known = {rule.id for rule in rules()}

    def link(match: re.Match[str]) -> str:
        rule = match[0]
        return f"[{rule}]({folder}{rule}.md)" if rule in known and rule != own else rule

    parts = _CODE.split(markdown)
    return "".join(part if index % 2 else _ID.sub(link, part) for index, part in enumerate(parts))


def rule_index() -> str:
    """All rules, a table for each hundred."""
    lines = [
        "# All rules",
        "",
        f"{len(rules())} rules. `qlora-doctor rules` lists them, `qlora-doctor explain QD301` shows a page. Know what "
        "you see and not its name? [Find by symptom](../symptoms.md).",
    ]
    for prefix, title in GROUPS.items():
        group = [rule for rule in rules() if rule.id.startswith(prefix)]
        if not group:
            continue
        lines += ["", f"## {prefix}xx: {title}", ""]
        lines += ["| | rule | severity | stage | passes where |", "|---|---|---|---|---|"]
        lines += [
            f"| [{rule.id}]({rule.id}.md) | {rule.name} | {severity(rule.severity)} | {rule.stage} "
            f"| {cell(rule.title)} |"
            for rule in group
        ]
    return "\n".join(lines) + "\n"


def severity(name: str) -> str:
    """A severity, coloured."""
    return f'<span class="sev-{name}">{name}</span>'


def cell(text: str) -> str:
    """Text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def rule_page(rule: Rule) -> str:
    """One rule: what its page in rules/ says, with symptoms before it and thresholds, fix and tests behind it."""
    head = (
        f"{severity(rule.severity)} · {rule.confidence} confidence · stage `{rule.stage}` · profile `{rule.profile}` · "
        f"since {rule.since}"
    )
    lines = [f"# {rule.id} {rule.name}", "", f"**Passes where:** {cell(rule.title)}", "", head]
    lines += ["", "What people see:", "", *(f"- {cell(symptom)}" for symptom in rule.symptoms)]
    for heading in ("What it checks", "Why it matters", "How to fix", "When to ignore"):
        if body := rule.sections.get(heading, "").strip():
            lines += ["", f"## {heading}", "", linked(body, rule.id)]
    if rule.causes:
        lines += ["", "## Likely causes", ""]
        lines += ["The likeliest first; one that the facts of a run exclude is not named.", ""]
        lines += [
            linked(f"1. {cell(cause.text)}" + (f" Look at: {cell(cause.look)}." if cause.look else ""), rule.id)
            for cause in likely_causes(rule)
        ]
    if rule.params:
        lines += ["", "## Thresholds", "", "| | default | unit | why | source |", "|---|---|---|---|---|"]
        lines += [
            f"| `{name}` | `{each.default}` | {cell(each.unit)} | {cell(each.why)} | {cell(each.source)} |"
            for name, each in rule.params.items()
        ]
    lines += [
        "",
        "## The rule itself",
        "",
        "Finds something where this is true of the [facts](../schema/facts.md):",
        "",
    ]
    lines += ["```jinja", " ".join(rule.when.split()), "```"]
    if rule.fix is not None and rule.fix.patch:
        lines += ["", f"Its fix is **{rule.fix.safety}**:", "", "```json"]
        lines += [json.dumps(operation.model_dump(mode="json")) for operation in rule.fix.patch] + ["```"]
    for example in rule.examples:
        told = "Finds it" if example.kind == "fail" else "Says nothing"
        body = json.dumps(example.patch, indent=2, ensure_ascii=False)
        lines += ["", f'??? example "{told}"', "", "    ```json", textwrap.indent(body, "    "), "    ```"]
        if example.message:
            lines += ["", "    ```text", textwrap.indent(example.message, "    "), "    ```"]
    if rule.references:
        lines += ["", "## References", "", *(f"- <{reference}>" for reference in rule.references)]
    return "\n".join(lines) + "\n"


def symptom_index() -> dict[str, Any]:
    """What symptoms.js searches: the words of engine/search.py with their counts."""
    from qlora_doctor.engine import search

    words: dict[str, list[tuple[int, int]]] = {}
    lengths = []
    for number, rule in enumerate(rules()):
        document = search._document(rule)
        lengths.append(sum(document.values()))
        for word, count in document.items():
            words.setdefault(word, []).append((number, count))
    shown = [{"id": r.id, "name": r.name, "title": r.title, "symptoms": r.symptoms} for r in rules()]
    return {
        "k1": search._K1, "b": search._B,
        "stop": sorted(search._STOP), "same": search._SAME, "endings": search._ENDINGS,
        "frame": sorted(search._FRAME), "frame_weight": search._FRAME_WEIGHT, "least_covered": search._LEAST_COVERED,
        "words": words, "lengths": lengths, "rules": shown,
    }  # fmt: skip


def symptoms() -> str:
    """A field to type into, and below it every symptom for who has no scripts."""
    index = json.dumps(symptom_index(), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    lines = [
        "---", "search:", "  exclude: true", "---",
        "# Find by symptom", "",
        "Say what you see, in your own words, or paste an error message. "
        "`qlora-doctor explain --symptom \"…\"` does the same.", "",
        '<label for="symptom">What do you see?</label>',
        '<input id="symptom" type="search" placeholder="loss does not go down" autocomplete="off">',
        '<p id="said" role="status"></p>',
        '<ul id="matches"></ul>',
        f'<script type="application/json" id="symptom-index">{index}</script>',
        '<script src="../assets/symptoms.js" defer></script>', "",
        "## Every symptom", "",
    ]  # fmt: skip
    for prefix, title in GROUPS.items():
        group = [rule for rule in rules() if rule.id.startswith(prefix)]
        if group:
            lines += [f"### {title}", ""]
            lines += [
                f"- {cell(symptom)}: [{rule.id}](rules/{rule.id}.md)" for rule in group for symptom in rule.symptoms
            ]
            lines.append("")
    return "\n".join(lines) + "\n"


# -- commands


def command_names() -> list[str]:
    """The commands, in the order of ``--help``."""
    from qlora_doctor.cli import _COMMANDS

    return list(_COMMANDS)


def _command(name: str) -> Any:
    from importlib import import_module

    return import_module(f"qlora_doctor.cli.{name}").command


def command_index() -> str:
    """Every command with its first sentence."""
    lines = ["# Commands", "", "Each has `--help`. stdout holds the document alone; the rest goes to stderr.", ""]
    lines += ["| command | |", "|---|---|"]
    for name in command_names():
        lines.append(f"| [`{name}`]({name}.md) | {cell(_command(name).get_short_help_str(200))} |")
    lines += ["", "Exit codes and formats: [the contract](../contract.md)."]
    return "\n".join(lines) + "\n"


def command_page(name: str) -> str:
    """A command's help as a page."""
    import click

    command = _command(name)
    context = click.Context(command, info_name=f"qlora-doctor {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"# qlora-doctor {name}", "", "```text", f"qlora-doctor {name} {usage}", "```", ""]
    lines += [_help(command.help or ""), ""]
    if (examples := (command.epilog or "").partition("Examples:")[2].strip()) != "":
        lines += ["## Examples", "", "```sh", *(line.strip() for line in examples.splitlines()), "```", ""]
    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    if options:
        lines += ["## Options", "", "| option | |", "|---|---|"]
        for option in options:
            names, told = option.get_help_record(context) or ("", "")
            lines.append(f"| <code>{html.escape(cell(names)).replace('&amp;lt;', '&lt;')}</code> | {cell(told)} |")
    return "\n".join(lines) + "\n"


def _help(text: str) -> str:
    """click's help as Markdown: a paragraph behind a backspace keeps its lines."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            paragraphs.append("```text\n" + paragraph.lstrip("\b").strip("\n") + "\n```")
        else:
            paragraphs.append(paragraph.replace("\f", "").replace("<", "&lt;"))
    return "\n\n".join(paragraphs)


# -- keys, API, schemas


def keys() -> str:
    """Every key of the native config: its meaning and what silence stands for."""
    from qlora_doctor.reading.schema import config_schema
    from qlora_doctor.setup.resolved import Resolved
    from qlora_doctor.setup.setup import Setup

    resolved = Resolved(Setup(dialect="native"))
    lines = [
        "# Keys of the native config", "",
        "The names are those of the libraries. Where a default depends on the versions that are installed, none is "
        "named here: an editor with [the language server](editors.md) shows the one that holds for yours. "
        "The [JSON schema](schema/index.md) says the same to programs.",
    ]  # fmt: skip
    for section, schema in config_schema()["properties"].items():
        if section.startswith("$"):
            continue
        part = next((each for each in schema.get("anyOf", []) if "properties" in each), schema)
        lines += [
            "",
            f"## {section}",
            "",
            cell(schema.get("description", "")),
            "",
            "| key | default | |",
            "|---|---|---|",
        ]
        for key, told in part["properties"].items():
            path = f"{section}.{key}"
            default = resolved.default(path)
            shown = f"`{json.dumps(default, ensure_ascii=False)}`" if default is not None else ""
            lines.append(f"| `{key}` | {shown} | {cell(told.get('description', ''))} |")
    return "\n".join(lines) + "\n"


def api() -> str:
    """The public names, from their docstrings."""
    import qlora_doctor

    lines = [
        "# Python API", "",
        "What `import qlora_doctor` offers. Nothing heavy is imported before something that needs it is called. "
        "The documents are described field by field: [Report](schema/report.md), [Facts](schema/facts.md).", "",
        "```python", _shown(inspect.cleandoc(qlora_doctor.__doc__ or "").partition("\n\n")[2]), "```",
    ]  # fmt: skip
    for name in qlora_doctor.__all__:
        if not name.startswith("_"):
            lines += ["", *_described(name, getattr(qlora_doctor, name))]
    from qlora_doctor.run.session import CheckOptions

    lines += ["", *_described("CheckOptions", CheckOptions)]
    return "\n".join(lines) + "\n"


def _shown(doctest: str) -> str:
    """Doctests as code to copy; what stands between them becomes comments."""
    lines = []
    for line in doctest.splitlines():
        code = re.sub(r"\s*# doctest: \+SKIP$", "", line)
        lines.append(code[4:] if code.startswith((">>> ", "... ")) else f"# {code}" if code else "")
    return "\n".join(lines).rstrip()


def _described(name: str, thing: Any) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    try:
        signature = str(inspect.signature(thing)) if not _is_model(thing) else ""
    except (TypeError, ValueError):
        signature = ""
    if signature:
        shown = f"{name}{re.sub(r'qlora_doctor[.][a-z_.]+[.]', '', signature)}".replace("'", "")
        yield from ("```python", shown, "```", "")
    yield docstring(inspect.getdoc(thing) or "")
    if _is_model(thing):
        yield ""
        yield "Fields: " + ", ".join(f"`{field}`" for field in thing.model_fields) + "."
        return
    if inspect.isclass(thing) and not hasattr(thing, "__dataclass_fields__"):
        for method, value in vars(thing).items():
            if not method.startswith("_") and callable(value) and value.__doc__:
                yield ""
                yield f"**{method}**: {' '.join(inspect.cleandoc(value.__doc__).split())}"


def _is_model(thing: Any) -> bool:
    return inspect.isclass(thing) and hasattr(thing, "model_fields")


def docstring(text: str) -> str:
    """A docstring as Markdown: double backticks single, ``Args:`` and the like as lists."""
    lines: list[str] = []
    section = False
    for line in text.replace("``", "`").splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Attributes|Yields):", line):
            section = True
            lines += ["", f"**{line[:-1]}**", ""]
        elif section and re.match(r"    \S", line):
            head, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{head}`: {rest}" if colon and re.fullmatch(r"[\w, *]+", head) else f"- {line.strip()}")
        elif section and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join(lines)


def schema_index() -> str:
    """The three schemas, to download and to read."""
    return """# JSON schemas

| document | schema | read it |
|---|---|---|
| the native config | [config-v1.schema.json](config-v1.schema.json) | [its keys](../keys.md) |
| the report (`-o json=…`) | [report-v1.schema.json](report-v1.schema.json) | [its fields](report.md) |
| the facts in it | [facts-v1.schema.json](facts-v1.schema.json) | [its fields](facts.md) |

`qlora-doctor schema config|report|facts` prints the one of the version that you have. Within version 1 fields are only
added.
"""


def schema_page(name: str) -> str:
    """The fields of the report or the facts, one table for each class."""
    from qlora_doctor.reporters.schema import schema

    document = schema(name)
    parts = {document.get("title", name): document, **document.get("$defs", {})}
    facts = set(schema("facts").get("$defs", {})) | {"Facts"}
    lines = [f"# Fields of the {name}", ""]
    for title, part in parts.items():
        if "properties" not in part or (name == "report" and title in facts and title != "Report"):
            continue
        lines += [
            f"## {title}",
            "",
            cell(part.get("description", "").partition("\n\n")[0]),
            "",
            "| field | type | |",
            "|---|---|---|",
        ]
        lines += [
            f"| `{field}` | {_type(each, parts, facts if name == 'report' else set())} | {cell(_sentence(each))} |"
            for field, each in part["properties"].items()
        ]
        lines.append("")
    return "\n".join(lines) + "\n"


def _sentence(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).replace("``", "`")


def _type(schema: dict[str, Any], parts: dict[str, Any], elsewhere: set[str]) -> str:
    if "$ref" in schema:
        title = schema["$ref"].rpartition("/")[2]
        if title in elsewhere:
            return f"[{title}](facts.md#{title.lower()})"
        return f"[{title}](#{title.lower()})" if "properties" in parts.get(title, {}) else title
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(_type(each, parts, elsewhere) for each in schema["anyOf"])
    kind = schema.get("type", "any value")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_type(schema['items'], parts, elsewhere)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {_type(schema['additionalProperties'], parts, elsewhere)}"
    return str(kind)


# -- gallery


def gallery() -> str:
    """The reports of reports/examples, with what each of them shows."""
    told = {
        "index": "the page that lists several reports",
        "llama-3.1-8b": "a healthy setup, with the table of what fits",
        "falcon-7b": "target modules of another architecture",
        "mixtral-8x7b": "experts that stay out of 4-bit",
        "out-of-memory": "a setup that does not fit its card",
        "masked-data": "rows without a label to learn from",
        "measured-on-h200": "predicted and measured, on a real card",
    }
    lines = ["# Gallery of reports", "", "One HTML file each: no network, useful with scripts off, light and dark.", ""]
    for page in sorted((ROOT / "reports" / "examples").glob("*.html")):
        lines.append(f"- [{page.stem}](gallery/{page.name})" + (f": {told[page.stem]}" if page.stem in told else ""))
    lines += ["", "![A report](report.png)", ""]
    lines += ["How they hold up [against Lighthouse's](report-compared-with-lighthouse.md)."]
    return "\n".join(lines) + "\n"
