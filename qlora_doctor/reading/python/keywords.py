"""Keyword arguments of a script that the class it calls does not take, in the versions that it runs with.

These are the versions that its project pins (``reading.pins``), else those that are installed; where the project pins a
range, nothing is said of that library. Said only where the script has no way out: not within ``try``, nothing that asks
for versions or signatures, no ``**kwargs`` that are not known, no Unsloth (which lets the trainers take their old
arguments), no package of another version that a notebook installs by itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ...tables.conditions import Excluded, under_pins
from ...tables.keys import MOST_SUGGESTIONS
from ...tables.signatures import LIBRARIES, LOADS, is_refused, refusals
from ..pins import PACKAGES, Pin, fitting, pins_in, pins_of
from .setup_builder import SetupBuilder
from .source import Source
from .training_script import TrainingScript

_ASKS_THE_LIBRARY = re.compile(
    r"inspect\.signature|getfullargspec|\bsignature\(|__dataclass_fields__|dataclasses\.fields|\bfields\("
    r"|\.__init__\b(?!\s*\()|co_varnames|parse_version|\bVersion\(|version\.parse"
)
"""What a script does that passes what the installed version takes, or makes it take more."""
_OTHERS_VERSIONS = {"sys", "torch", "platform", "cuda", "np", "numpy"}
_PINNED = r"\b{0}(?:\[[\w,]*\])?\s*(?:[>!]=?[\s\d.]+,\s*)?(?:===?|~=|<)|/{0}(?:\.git)?@(?!main\b|master\b)"
_OF_A_MODEL = re.compile(r"\.(?:AutoModel\w*|\w+Model|\w+For[A-Z]\w+)\.from_pretrained\Z")
_EXPECTS = {"suppress", "raises", "assertRaises", "assertRaisesRegex"}


def check_keywords(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down the keyword arguments that are not taken, each with its place."""
    found = list(_not_taken(script))
    if not found or any(imports_unsloth(source) or looks_first(source) for source in script.sources):
        return
    guarded = set[int]().union(*map(guarded_calls, script.sources))
    exact, ranged = versions_of_the_project(script)
    told: set[str] = set()
    for library, maker, call, keyword in found:
        key = f"{maker}.{keyword.arg}"
        if library in ranged or id(call) in guarded or key in told or len(told) >= MOST_SUGGESTIONS:
            continue
        told.add(key)
        for refusal in refusals(library, maker, str(keyword.arg)):
            try:
                machine = under_pins(refusal.machine, exact, ranged)
            except Excluded:
                continue
            builder.not_taken(
                key,
                keyword,
                removed=refusal.kind == "removed",
                closest=refusal.closest,
                note=refusal.note,
                machine=machine,
            )


def asked_versions(script: TrainingScript, packages: tuple[str, ...] = PACKAGES) -> dict[str, Pin]:
    """What the script's project asks for of each package: what the script itself installs, else what lies beside it."""
    written = "\n".join(source.written for source in script.sources)
    own = pins_of(written, packages, _whose(script))
    for library in packages:
        # "torch <" is a comparison as often as a version.
        if library not in (*own, "torch") and re.search(_PINNED.format(library), written) is not None:
            own[library] = Pin(None, bounded=True, by=f"the script names versions of {library}")
    beside = pins_in(script.folders, packages) if own.keys() < set(packages) else {}
    return {name: pin for name, pin in fitting(beside | own).items() if pin.bounded and name in packages}


def _whose(script: TrainingScript) -> str:
    file = script.sources[0].file if script.sources else None
    return "the notebook" if file is not None and file.endswith(".ipynb") else "the script"


def versions_of_the_project(
    script: TrainingScript, libraries: tuple[str, ...] = LIBRARIES
) -> tuple[dict[str, str], set[str]]:
    """The versions that the script's project pins, by library; and the libraries of which it pins a range only."""
    pins = asked_versions(script, libraries)
    exact = {name: pin.exact for name, pin in pins.items() if pin.exact is not None}
    return exact, pins.keys() - exact.keys()


def _not_taken(script: TrainingScript) -> Iterator[tuple[str, str, ast.Call, ast.keyword]]:
    """(library, class, call, keyword) of each that some version refuses."""
    for call, dotted in script.seen.passed.values():
        library, maker = dotted.partition(".")[0], dotted.rpartition(".")[2]
        if maker == LOADS and (library != "transformers" or _OF_A_MODEL.search(dotted) is None):
            continue
        if library in LIBRARIES and ".experimental." not in dotted:
            for keyword in call.keywords:
                if keyword.arg is not None and is_refused(library, maker, keyword.arg):
                    yield library, maker, call, keyword


def imports_unsloth(source: Source) -> bool:
    """True where the script imports Unsloth, which replaces classes of the libraries."""
    for node in source.nodes if "unsloth" in source.code else ():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = [node.module]
        if any(name.partition(".")[0] in ("unsloth", "unsloth_zoo") for name in names):
            return True
    return False


def looks_first(source: Source) -> bool:
    """True where the script asks which version is there, or what a class takes, before it decides what to pass."""
    if _ASKS_THE_LIBRARY.search(source.code) is not None:
        return True
    if "version" not in source.code.lower():
        return False
    compared = (node for node in source.nodes if isinstance(node, ast.Compare))
    return any(_is_version(inner) for node in compared for inner in ast.walk(node))


def _is_version(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        root = node.value.id if isinstance(node.value, ast.Name) else ""
        return "version" in node.attr.lower() and root not in _OTHERS_VERSIONS
    return isinstance(node, ast.Name) and "version" in node.id.lower() and "python" not in node.id.lower()


def guarded_calls(source: Source) -> set[int]:
    """The calls that may fail without harm, by id: those within ``try``, and what a ``try`` for a TypeError calls."""
    found: set[int] = set()
    functions: set[str] = set()
    if not any(word in source.code for word in ("except", *_EXPECTS)):
        return found
    for node in source.nodes:
        if isinstance(node, ast.Try):
            caught = [ast.unparse(each.type) if each.type is not None else "Exception" for each in node.handlers]
            if any(re.search(r"\b(Base)?Exception\b|\bTypeError\b", each) for each in caught):
                calls = list(_calls(node.body))
                found |= {id(call) for call in calls}
                if any("TypeError" in each for each in caught):
                    functions |= {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        elif isinstance(node, ast.With) and any(_expects(item.context_expr) for item in node.items):
            found |= {id(call) for call in _calls(node.body)}
    for node in source.nodes if functions else ():
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            found |= {id(call) for call in _calls(node.body)}
    return found


def _calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    return (node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Call))


def _expects(node: ast.expr) -> bool:
    target = node.func if isinstance(node, ast.Call) else node
    return (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")) in _EXPECTS
