"""What in a folder is meant to be checked: configs and scripts that train an adapter or a quantized base.

A file that the user names is read as well as can be. In a folder, nobody has said of a file that it is a config: its
kind, and how much of a run it holds, have to say it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError
from ..setup.setup import Setup
from .dialects import Dialect, accelerate_config, homemade, python_script
from .document import Document

_NOT_TRAINING = {"peft-adapter", "hf-model-config", "native"}
"""Dialects of what is no training config and is checked all the same, and the one in which silence is QLoRA."""
_SECTIONS = ("lora.", "quantization.")
_QUANTIZED_NAME = re.compile(r"(?:^|[-_.])(?:4bit|8bit|bnb|int4|gptq|awq|nf4|qlora|lora)(?:[-_.]|$)")

# -- home-made files: a guess by the names of keys, so that what else has such names has to be known

_LIKELY = 0.5
"""How sure it must be whose file it is, that a fault in reading it counts as one."""
_SENTENCE = 4
"""More words than a value of a config has."""
_DEPTH = 8
_RUN_FOUND = 3
"""Values of a run that a home-made file must hold, one of them of the adapter or of the quantization."""
_SCHEMA = ({"$schema", "properties"}, {"$defs", "properties"}, {"$schema", "definitions"}, {"openapi", "paths"})
_RESULTS = re.compile(
    r"(?:(?:eval|train|test|val|valid|validation|final|best|mean|avg)_)?"
    r"(?:loss|acc|accuracy|f1|f1_score|perplexity|ppl|bleu|rouge\w*|runtime|samples_per_second|steps_per_second|"
    r"tokens_per_second|duration|duration_seconds|elapsed|wall_time|peak_memory\w*|gpu_memory_used\w*|"
    r"trainable_param(?:eter)?s|total_param(?:eter)?s|trainable_ratio)"
)
_RECORDED = re.compile(
    r"(?:created|started|finished|generated|recorded)_at\w*|"
    r"git_(?:commit|sha|revision)|commit_(?:hash|sha)|log_history|best_model_checkpoint|matched_modules"
)
_RESULT_NAME = re.compile(r"\w+_(?:metrics|results|scores)|results")

# -- scripts

_LOADS = {"from_pretrained", "BitsAndBytesConfig", "get_quantization_config"}
_ADAPTS = {"LoraConfig", "get_peft_model", "get_peft_config", "prepare_model_for_kbit_training", "AdaLoraConfig"}
_TRAINS = re.compile(r"\w*Trainer|\w*TrainingArguments|(?:SFT|DPO|ORPO|KTO|CPO|GRPO|PPO|Reward)Config|backward")
_SPEAKS = re.compile(r"lora|peft|4bit|bitsandbytes|kbit|quantiz", re.IGNORECASE)
"""Names of what adapts or quantizes, the script's own helpers for it among them."""
_ENTRY_CALLS = {"main", "train", "fire", "Fire", "run", "app", "cli", "typer", "hydra", "command"}


def why_left_out(document: Document, dialect: Dialect, sure: float, below: Path) -> str | None:
    """Why a recognised file of a folder is no training config; None where it is one.

    Args:
        below: its path below the folder that is walked.
    """
    if dialect.name == "foreign":
        return _foreign(document)
    if dialect.name == accelerate_config.name:
        return f"it is {accelerate_config.WHAT}"
    if below.suffix.lower() == ".py" and _is_test(below):
        return "it is a test"
    if dialect.name == python_script.name:
        return _script(document)
    if dialect.name == homemade.name and (why := _homemade(document)) is not None:
        return why
    if document.format == "text":
        return None
    try:
        setup = dialect.read(document)
    except ConfigError:  # what is wrong with it is reported when it is checked
        return None if sure >= _LIKELY else _too_little(sure)
    if dialect.name == homemade.name and not _holds_a_run(setup):
        return _too_little(sure)
    return None if dialect.name in _NOT_TRAINING or _adapts_or_quantizes(setup) else "it has neither LoRA nor 4 bits"


def _too_little(sure: float) -> str:
    return f"it holds too little of a run ({sure:.0%} sure)"


def _foreign(document: Document) -> str:
    """What a file of another tool is."""
    from .dialects.foreign import kind_of

    found = kind_of(document)
    return f"it is {found[0]}" if found is not None else "it is of another tool"


def _adapts_or_quantizes(setup: Setup) -> bool:
    """True where the file itself speaks of an adapter or of quantization, or its trainer brings one where it is
    silent."""
    kinds = {remark.kind for remark in setup.remarks}
    told = bool(kinds & {"lora-not-switched-on", "lora-switched-off"})
    whole = "no-lora" in kinds and not told  # the trainer's own defaults of LoRA stand for nothing then
    for path, origin in setup.origins.items():
        if not path.startswith(_SECTIONS) or (whole and path.startswith("lora.")):
            continue
        section, _, field = path.partition(".")
        is_off = origin.source != "unknown" and not getattr(getattr(setup, section), field, True)
        if not (whole and is_off) and (origin.source == "explicit" or origin.place is not None):
            return True
    bits = setup.quantization
    name = (setup.model.name_or_path or "").lower()
    rank = None if whole else setup.lora.r
    return bool(bits.load_in_4bit or bits.load_in_8bit or bits.backend or setup.model.adapter or rank or told) or bool(
        _QUANTIZED_NAME.search(name)
    )


def _homemade(document: Document) -> str | None:
    """What a home-made file is, where it is no config."""
    data = document.data
    if not isinstance(data, dict):
        return "it is no mapping"
    if any(keys <= data.keys() for keys in _SCHEMA) or data.get("type") == "object":
        return "it is a schema"
    if {"schema_version", "findings"} <= data.keys() or {"findings", "stages"} <= data.keys():
        return "it is a report"
    leaves = [value for _, value in _items(data) if not isinstance(value, dict | list)]
    if sum(isinstance(leaf, str) and len(leaf.split()) > _SENTENCE for leaf in leaves) > len(leaves) / 2:
        return "it describes keys"
    for key, value in _items(data):
        name = key.lower()
        held = value not in (None, "", [], {})
        numbers = isinstance(value, dict) and any(_is_number(inner) for _, inner in _items(value))
        if (
            (held and _RECORDED.fullmatch(name))
            or (_is_number(value) and _RESULTS.fullmatch(name))
            or (numbers and _RESULT_NAME.fullmatch(name))
        ):
            return f"it holds results ({key})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _items(data: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(key, value) of all mappings, also of those inside lists and of each other."""
    for key, value in data.items() if isinstance(data, dict) else ():
        yield str(key), value
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    for value in inner if depth < _DEPTH else ():
        if isinstance(value, dict | list):
            yield from _items(value, depth + 1)


def _holds_a_run(setup: Setup) -> bool:
    """True where values of the adapter or the quantization stand beside others of a run."""
    found = {path for path, origin in setup.origins.items() if origin.source == "explicit"}
    telling = found.intersection(homemade._TELLING)
    return bool(telling) and len(telling | found.intersection(homemade._RUN)) >= _RUN_FOUND


def _script(document: Document) -> str | None:
    """What a Python file is, where it is no script that trains an adapter or a quantized base."""
    from .python.source import read_source

    try:
        tree = read_source(document).tree
    except (ConfigError, RecursionError):
        return None  # what is wrong with it is reported when it is checked
    calls = _calls(tree)
    adapts, trains = bool(calls & _ADAPTS), any(_TRAINS.fullmatch(name) for name in calls)
    speaks = any(_SPEAKS.search(name) for name in calls)  # what adapts may stand in a module beside it
    if not speaks:
        return "it calls nothing that adapts or quantizes a model"
    if not (adapts or trains):
        return "it trains nothing"
    if bool(calls & _LOADS) + (adapts or speaks) + trains < 2:
        return "it is a part of a program: it loads, adapts or trains a model, and no two of these"
    if document.format == "text" and not _is_run(tree):
        return "it is a module for others: nothing runs when it is started"
    return None


def _is_test(below: Path) -> bool:
    name = below.name
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def _calls(tree: ast.AST) -> set[str]:
    """The last names of what is called, the classes whose from_pretrained or parse is, and the keywords of calls."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        waiting.extend(ast.iter_child_nodes(node))
        if not isinstance(node, ast.Call):
            continue
        found.update(keyword.arg for keyword in node.keywords if keyword.arg)
        function = node.func
        if isinstance(function, ast.Attribute):
            found.add(function.attr)
            owner = function.value
            found.update({getattr(owner, "id", ""), getattr(owner, "attr", "")})
        elif isinstance(function, ast.Name):
            found.add(function.id)
            if function.id.endswith("ArgumentParser") or function.id == "TrlParser":
                found.update(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return found


def _is_run(tree: ast.Module) -> bool:
    """True where something happens when the file is started: a call or a loop at its top, behind its definitions."""
    return any(_runs(node) for node in tree.body)


def _runs(node: ast.stmt) -> bool:
    if isinstance(node, ast.If | ast.With | ast.For | ast.While | ast.Try):
        return any(isinstance(inner, ast.Call) for inner in ast.walk(node)) and not _only_imports(node)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return node.value is not None and bool(_calls(node.value) & _START_CALLS)
    return isinstance(node, ast.FunctionDef) and any(_ENTRY_CALLS & _names(each) for each in node.decorator_list)


_START_CALLS = _LOADS | _ADAPTS | {"train", "main", "Trainer", "SFTTrainer", "DPOTrainer", "GRPOTrainer", "ORPOTrainer"}


def _only_imports(node: ast.AST) -> bool:
    """True for ``try: import …`` and ``if TYPE_CHECKING: import …``."""
    statements = [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node]
    return all(isinstance(inner, ast.Import | ast.ImportFrom | ast.Pass | ast.Assign) for inner in statements)


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} | {
        inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)
    }
