"""What a script surely imports from the libraries, and the calls that the libraries themselves can be asked about.

They are tried in stage ``structure``, which has the libraries at hand: a name that is gone, an argument with a value
that the class stops at. As of keyword arguments, nothing is noted where the script has a way out (``keywords``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from ...setup.setup import LibraryUse
from .arguments import TRAINING_CLASSES
from .keywords import guarded_calls, imports_unsloth, looks_first, versions_of_the_project
from .setup_builder import SetupBuilder, plain
from .training_script import Opaque, TrainingScript
from .values import Made, Name, Unknown, Value

_LIBRARIES = ("transformers", "trl", "peft", "datasets")
_LIBRARY_OF = {"LoraConfig": "peft", "BitsAndBytesConfig": "transformers"}
_MOST_USES = 200


def note_uses(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what stage ``structure`` is to try."""
    if any(imports_unsloth(source) for source in script.sources):
        return  # it puts classes of its own in place of the libraries'
    exact, ranged = versions_of_the_project(script, _LIBRARIES)
    for source in script.sources[:1]:
        for node, module, name in _imports(source.tree):
            library = module.partition(".")[0]
            if library not in ranged and len(builder.uses) < _MOST_USES:
                key = f"imports.{module}.{name}" if name else f"imports.{module}"
                pinned = exact.get(library)
                use = LibraryUse(kind="import", package=library, module=module, name=name, key=key, version=pinned)
                builder.use(use, node)
    if any(looks_first(source) for source in script.sources):
        return
    guarded = set[int]().union(*map(guarded_calls, script.sources))
    for call, sure in script.seen.calls:
        library = _LIBRARY_OF.get(call.maker) or ("transformers" if call.maker.endswith("TrainingArguments") else "trl")
        known = call.maker in TRAINING_CLASSES or call.maker in _LIBRARY_OF
        if known and sure and library not in ranged and id(call.node) not in guarded and len(builder.uses) < _MOST_USES:
            if call.node is None:
                continue
            arguments, whole = _plain_arguments(call)
            key = f"calls.{call.maker}"
            if any(use.key == key for use in builder.uses):
                continue
            use = LibraryUse(
                kind="call",
                package=library,
                module=library,
                name=call.maker,
                arguments=arguments,
                whole=whole and call.exact,
                key=key,
                version=exact.get(library),
            )
            builder.use(use, call.node)
    _note_load(script, builder, exact, ranged)


def _note_load(script: TrainingScript, builder: SetupBuilder, exact: dict[str, str], ranged: set[str]) -> None:
    load = script.model.load if script.model is not None else None
    plain_class = load is not None and (load.maker.startswith("AutoModel") or "For" in load.maker)
    if load is None or load.node is None or not plain_class or "transformers" in ranged or "Peft" in load.maker:
        return
    if not isinstance(load.node, ast.Call) or "WithValueHead" in load.maker or "Liger" in load.maker:
        return
    arguments, whole = _plain_arguments(load)
    names = {str(name): arguments.get(str(name)) for name in load.arguments if isinstance(name, str)}
    pinned = exact.get("transformers")
    builder.use(
        LibraryUse(
            kind="load",
            package="transformers",
            module="transformers",
            name=load.maker,
            arguments=names,
            whole=whole,
            key="calls.from_pretrained",
            version=pinned,
        ),
        load.node,
    )


def _plain_arguments(call: Made) -> tuple[dict[str, Any], bool]:
    """(the arguments that are known, whether these are all)."""
    known: dict[str, Any] = {}
    whole = True
    for name, value in call.arguments.items():
        if not isinstance(name, str) or isinstance(value, Unknown) or _is_member(value):
            whole = whole and (name == 0 or _is_member(value))  # the first is the output folder
            continue
        try:
            known[name] = plain(value)
        except Opaque:
            whole = False
    return known, whole


def _is_member(value: Value) -> bool:
    """True of a member of an enumeration, whose value may be another word than its name; it is what the class takes."""
    return isinstance(value, Name) and not value.dotted.startswith("torch.") and value.dotted.count(".") > 0


def _imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str, str | None]]:
    """(statement, module, name) of the imports that run whenever the script does."""
    for node in _always(tree.body):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").partition(".")[0] in _LIBRARIES:
            for alias in node.names:
                if alias.name != "*":
                    yield node, str(node.module), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if "." in alias.name and alias.name.partition(".")[0] in _LIBRARIES:
                    yield node, alias.name, None


def _always(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.With):
            yield from _always(node.body)
        else:
            yield node
