"""The way of a script's samples: the file that it loads, what it does to them, and the collator that makes the batch.

Only a plain way is followed: a local file, ``map`` and ``filter`` with functions of the script itself, columns renamed
or removed, and a collator of transformers. What is more than that leaves the way unknown.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any, Literal

from ...setup.script_way import Collator, ScriptWay, Step

_TRAINERS = {"Trainer", "SFTTrainer", "Seq2SeqTrainer", "UnslothTrainer"}
_COLLATORS = {
    "DataCollatorForLanguageModeling",
    "DataCollatorForSeq2Seq",
    "DataCollatorWithPadding",
    "DefaultDataCollator",
    "default_data_collator",
}
_LEAVES_ROWS_ALONE = {"shuffle", "with_format", "set_format", "take", "skip", "flatten_indices", "to_list"}
"""What changes which rows there are, or how they are handed out, and not what is in them."""
_MOST_CODE = 40_000
"""Characters of code that a way takes along at most."""


@dataclass
class Way:
    """A data set on its way.

    Attributes:
        load: the call that loads it.
        steps: what is done, in order, each with its name under ``do``.
    """

    load: ast.Call
    steps: list[Step] = field(default_factory=list)

    def then(self, step: Step) -> Way:
        """The same with one more step."""
        return Way(self.load, [*self.steps, step])


def data_way(tree: ast.Module) -> tuple[ast.Call, ScriptWay, ast.Call | None] | None:
    """(the call that loads the samples, what is done to them, the call that loads those of the evaluation where it is
    another one); None where the way is not plain."""
    scope = _scope(tree)
    ways: dict[str, Way] = {}
    end: ScriptWay | None = None
    way: Way | None = None
    evaluated: Way | None = None
    assigned: dict[str, ast.expr] = {}
    for node in _statements(tree, scope):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found = _way(node.value, ways)
            ways.pop(name, None)
            if found is not None:
                ways[name] = found
            assigned[name] = node.value
        for call in (each for each in ast.walk(node) if isinstance(each, ast.Call)):
            if _last(call.func) in _TRAINERS and end is None:
                given = keyword(call, "train_dataset")
                way = _way(given, ways) if given is not None else None
                held_out = keyword(call, "eval_dataset")
                evaluated = _way(held_out, ways) if held_out is not None else None
                end = _end_of_trainer(call, assigned)
                if end is None:
                    return None
            elif _last(call.func) == "DataLoader" and end is None and call.args:
                way = _way(call.args[0], ways)
                collator = _collator(keyword(call, "collate_fn"), assigned)
                if collator == "unknown":
                    return None
                end = {"trainer": None, "collator": collator}
    settings = _settings(tree, way, end) if way is not None and end is not None else None
    if way is None or settings is None:
        return None
    return way.load, settings, evaluated.load if evaluated is not None and evaluated.load is not way.load else None


def _settings(tree: ast.Module, way: Way, end: ScriptWay) -> ScriptWay | None:
    """A way with its end, and all of the script that it needs; None where a part of that is not plain."""
    if end["trainer"] is None:
        end["labels_are_ids"] = _labels_are_ids(tree)
        if not end["labels_are_ids"]:
            return None
    responses = _responses(tree)
    if responses == "unknown":
        return None
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if any(step.get("function") and step["function"] not in functions for step in way.steps):
        return None
    if end.get("formatting_func") and end["formatting_func"] not in functions:
        return None
    sources = {name: ast.unparse(node) for name, node in functions.items() if not node.decorator_list}
    if sum(map(len, sources.values())) > _MOST_CODE:
        return None
    return {
        "steps": way.steps,
        **end,
        "functions": sources,
        "constants": _constants(tree),
        "expressions": _expressions(tree),
        "responses": responses,
        "tokenizers": _tokenizers(tree),
    }


def _scope(tree: ast.Module) -> ast.FunctionDef | None:
    """The function in which the trainer is built; None: the module itself."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(inner, ast.Call) and _last(inner.func) in {*_TRAINERS, "DataLoader"} for inner in ast.walk(node)
        ):
            return node
    return None


def _statements(tree: ast.Module, scope: ast.FunctionDef | None) -> list[ast.stmt]:
    """Statements in their order; those of a function behind those of the module, blocks that always run opened."""
    found: list[ast.stmt] = []

    def take(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.With):
                take(node.body)
            elif not isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.append(node)

    take(tree.body)
    if scope is not None:
        take(scope.body)
    return found


def _way(node: ast.expr, ways: dict[str, Way]) -> Way | None:
    if isinstance(node, ast.Name):
        return ways.get(node.id)
    if isinstance(node, ast.Subscript):
        inner = _way(node.value, ways)
        key = node.slice
        part = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        if inner is None or part not in ("train", "text"):
            return None
        return inner if part == "train" else None
    if not isinstance(node, ast.Call):
        return None
    name = _last(node.func)
    if name == "load_dataset":
        return Way(node)
    if not isinstance(node.func, ast.Attribute):
        return None
    inner = _way(node.func.value, ways)
    return _step(inner, str(name), node) if inner is not None else None


def _step(way: Way, name: str, node: ast.Call) -> Way | None:
    if name == "select":
        return way.then({"do": "count", "least": _least(node), "call": _short(node)})
    if name == "train_test_split":
        sizes = [_literal(keyword(node, each)) for each in ("test_size", "train_size")]
        whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool)]
        return way.then({"do": "count", "least": max(whole) + 1 if whole else None, "call": _short(node)})
    if name in _LEAVES_ROWS_ALONE:
        return way
    if name in ("map", "filter"):
        given = node.args[0] if node.args else keyword(node, "function")
        step: Step = {"do": "map" if name == "map" else "filter", "batched": _truth(keyword(node, "batched"))}
        if isinstance(given, ast.Name):
            step["function"] = given.id
        elif isinstance(given, ast.Lambda):
            step["lambda"] = ast.unparse(given)
        else:
            return None
        if keyword(node, "fn_kwargs") is not None or keyword(node, "with_indices") is not None:
            return None
        removed = keyword(node, "remove_columns")
        columns = _literal(removed) if removed is not None else []
        step["remove"] = "all" if columns is None else columns  # not plain: those of the data set, dataset.column_names
        return way.then(step)
    if name == "remove_columns":
        columns = _literal(node.args[0]) if node.args else None
        return way.then({"do": "remove", "columns": columns, "call": _short(node)}) if columns is not None else None
    if name == "rename_column" and len(node.args) == 2:
        old, new = _literal(node.args[0]), _literal(node.args[1])
        if not isinstance(old, str) or not isinstance(new, str):
            return None
        return way.then({"do": "rename", "old": old, "new": new, "call": _short(node)})
    if name == "select_columns" and node.args:
        columns = _literal(node.args[0])
        return way.then({"do": "keep", "columns": columns, "call": _short(node)}) if columns is not None else None
    return None


def _least(node: ast.Call) -> int | None:
    """How many rows ``select(range(n))`` needs; None where that is not plain."""
    given = node.args[0] if node.args else keyword(node, "indices")
    if not isinstance(given, ast.Call) or _last(given.func) != "range" or given.keywords:
        return None
    bounds = [_literal(each) for each in given.args]
    return bounds[min(1, len(bounds) - 1)] if bounds and all(isinstance(each, int) for each in bounds) else None


def _short(node: ast.Call) -> str:
    """A call without what it is a method of."""
    text = ast.unparse(ast.Call(ast.Name(str(_last(node.func))), node.args, node.keywords))
    return text if len(text) <= 70 else f"{text[:67]}…"


def _end_of_trainer(call: ast.Call, assigned: dict[str, ast.expr]) -> ScriptWay | None:
    """None where the collator is one of another make."""
    former = keyword(call, "formatting_func")
    collator = _collator(keyword(call, "data_collator"), assigned)
    if collator == "unknown":
        return None
    end: ScriptWay = {
        "trainer": _last(call.func),
        "collator": collator,
        "keeps_columns": _keeps_columns(keyword(call, "args"), assigned),
        "has_tokenizer": any(keyword(call, name) is not None for name in ("tokenizer", "processing_class")),
    }
    if former is not None:
        end["formatting_func"] = former.id if isinstance(former, ast.Name) else "?"
    return end


def _keeps_columns(given: ast.expr | None, assigned: dict[str, ast.expr]) -> bool:
    """True where the trainer's arguments say ``remove_unused_columns=False``."""
    if isinstance(given, ast.Name) and given.id in assigned:
        given = assigned[given.id]
    kept = keyword(given, "remove_unused_columns") if given is not None else None
    return isinstance(kept, ast.Constant) and kept.value is False


def _collator(given: ast.expr | None, assigned: dict[str, ast.expr]) -> Collator | Literal["unknown"] | None:
    """Its class with its plain arguments; ``unknown`` for one of another make, None for the trainer's own choice."""
    if given is None or (isinstance(given, ast.Constant) and given.value is None):
        return None
    if isinstance(given, ast.Name) and given.id in assigned:
        given = assigned[given.id]
    name = _last(given.func) if isinstance(given, ast.Call) else _last(given)
    if name not in _COLLATORS:
        return "unknown"
    arguments: dict[str, Any] = {}
    if isinstance(given, ast.Call):
        for keyword in given.keywords:
            if keyword.arg in ("tokenizer", "processing_class", "model", None):
                continue
            if not isinstance(keyword.value, ast.Constant):
                return "unknown"
            arguments[keyword.arg] = keyword.value.value
        if (
            name == "DataCollatorForLanguageModeling"
            and len(given.args) > 1
            and isinstance(given.args[1], ast.Constant)
        ):
            arguments["mlm"] = given.args[1].value
    return {"name": name, "arguments": arguments}


def _labels_are_ids(tree: ast.Module) -> bool:
    """An own loop hands the model its own ids as labels: ``labels=batch["input_ids"]``."""
    for node in ast.walk(tree):
        given = keyword(node, "labels") if isinstance(node, ast.Call) else None
        while isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute):  # .to(device), .clone()
            given = given.func.value
        if (
            isinstance(given, ast.Subscript)
            and isinstance(given.slice, ast.Constant)
            and given.slice.value == "input_ids"
        ):
            return True
    return False


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that the script sets once, to plain data."""
    found: dict[str, Any] = {}
    twice: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                value = _literal(node.value)
                if target.id in found:
                    twice.add(target.id)
                if value is not None:
                    found[target.id] = value
    return {name: value for name, value in found.items() if name not in twice}


def _expressions(tree: ast.Module) -> dict[str, str]:
    """Names that the module sets once, to more than plain data, as source: ``END = tokenizer.eos_token``."""
    found: dict[str, list[ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    plain = (ast.Attribute, ast.BinOp, ast.JoinedStr, ast.Subscript, ast.IfExp, ast.BoolOp)
    return {
        name: ast.unparse(values[0])
        for name, values in found.items()
        if len(values) == 1 and isinstance(values[0], plain) and _literal(values[0]) is None
    }


def _responses(tree: ast.Module) -> dict[str, str] | Literal["unknown"] | None:
    """The turns' beginnings, as Unsloth's train_on_responses_only gets them; ``unknown`` where that is not plain."""
    call = next(
        (
            each
            for each in ast.walk(tree)
            if isinstance(each, ast.Call) and _last(each.func) == "train_on_responses_only"
        ),
        None,
    )
    if call is None:
        return None
    constants = _constants(tree)
    parts: dict[str, str] = {}
    for place, name in ((1, "instruction_part"), (2, "response_part")):
        given = keyword(call, name)
        if given is None and len(call.args) > place:
            given = call.args[place]
        value = constants.get(given.id) if isinstance(given, ast.Name) else _literal(given)
        if not isinstance(value, str):
            return "unknown"
        parts[name] = value
    return parts


def _tokenizers(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        made = ast.unparse(node.value.func)
        for target in node.targets:
            if isinstance(target, ast.Name) and ("Tokenizer" in made or made.endswith("get_chat_template")):
                names.append(target.id)
            elif isinstance(target, ast.Tuple) and "Fast" in made and len(target.elts) == 2:
                second = target.elts[1]
                names += [second.id] if isinstance(second, ast.Name) else []
    return list(dict.fromkeys(names))


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _truth(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def keyword(call: ast.AST, name: str) -> ast.expr | None:
    return (
        next((each.value for each in call.keywords if each.arg == name), None) if isinstance(call, ast.Call) else None
    )


def _last(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
