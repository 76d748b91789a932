"""The samples that a script names: what it loads, and what it does to them before they are trained on."""

from __future__ import annotations

import ast

from ...setup.setup import NamedData
from ..dialects.named_data import BUILDERS, kind_of
from .data_path import data_way, keyword
from .own_functions import asked_columns
from .setup_builder import SetupBuilder
from .source import Source
from .training_script import TrainingScript
from .values import Known, Listing, Made, Value

_LOADERS = {"load_dataset", "load_from_disk"}
_READERS = {
    *("from_json", "from_csv", "from_parquet", "from_text", "from_list", "from_dict", "from_pandas", "from_generator"),
    *("read_json", "read_csv", "read_parquet", "read_excel", "read_pickle"),
}
_OWNERS = {"Dataset", "IterableDataset", "DatasetDict", "pd", "pandas"}
_TRANSFORMS = {
    *("map", "filter", "select", "shuffle", "train_test_split", "rename_column", "rename_columns", "remove_columns"),
    *("cast", "cast_column", "concatenate_datasets", "interleave_datasets", "add_column", "flatten", "take", "skip"),
}
_FORMERS = ("formatting_func", "data_collator", "dataset_text_field", "preprocess_function")
_MOST_DATA = 20


def name_data(script: TrainingScript, builder: SetupBuilder) -> None:
    """Put what the script loads into the builder, with the code that stands between it and the trainer."""
    template = _template(script, builder)
    may_load = any(word in builder.source.code for word in (*_LOADERS, *_READERS))
    loads = _loads(builder.source.tree) if may_load else []
    if not loads:
        if template is not None:
            why = "The script's code decides."
            builder.named_data.append(
                NamedData(kind="code", template=template, key="get_chat_template", not_followed=why)
            )
        builder.named_data += _made_by_code(builder)
        return
    followed = builder.value("data.train")
    known = {id(call.node): call for call, _ in script.seen.calls if call.maker in _LOADERS}
    transforms = _transforms(builder)
    try:
        way = data_way(builder.source.tree)
    except RecursionError:  # what is written out again may be nested deeper than what is read
        way = None
    _note_idle_split(script, builder, transforms)
    for node in loads:
        told = _told(node, known.get(id(node)), builder).model_copy(update={"template": template})
        if way is not None and way[0] is node and told.kind == "file" and told.role == "train":
            told = told.model_copy(update={"settings": way[1]})
        elif way is not None and way[2] is node:
            told = told.model_copy(update={"role": "eval"})
        if followed is not None and followed in (told.name, *told.files):
            if asked := asked_columns(script):
                told = told.model_copy(update={"settings": {**told.settings, "reward_columns": asked}})
            builder.named_data.append(told)
            continue
        formers = [name for name in _FORMERS if script.given(name) is not None]
        by = ", ".join([*transforms[:3], *(["…"] if len(transforms) > 3 else []), *formers])
        why = f"The script forms the samples by code of its own: {by}." if by else "The script's code decides."
        told = told.model_copy(update={"transforms": transforms, "not_followed": why})
        builder.named_data.append(told)


def _note_idle_split(script: TrainingScript, builder: SetupBuilder, transforms: list[str]) -> None:
    """Rows that are split off for an evaluation that nothing begins: transformers evaluates by eval_strategy alone."""
    begun = builder.knows("training.eval_strategy") and builder.value("training.eval_strategy") != "no"
    split = any("train_test_split" in each for each in transforms)
    by_hand = script.evaluates_by_hand or "eval_on_start" in script.code
    if split and not begun and not by_hand and script.given("eval_dataset") is not None:
        note = (
            "The script splits rows off and gives them to the trainer as eval_dataset, and eval_strategy is no: the "
            "trainer never evaluates on them."
        )
        builder.remark("held-out-unused", None, note, "training.eval_strategy")


def _made_by_code(builder: SetupBuilder) -> list[NamedData]:
    """What the trainer or its loader is given where nothing loads: a class or a function of the script, with the texts
    that it is called with."""
    source, found = builder.source, []
    for node in builder.source.nodes:
        given = None
        if isinstance(node, ast.Call):
            given = keyword(node, "train_dataset")
            if given is None and _last(node.func) == "DataLoader" and node.args:
                given = node.args[0]
        if isinstance(given, ast.Name):
            given = next((each.value for each in _assignments(source, given.id)), None)
        if isinstance(given, ast.Call) and (maker := _last(given.func)) is not None:
            written = [*given.args, *(each.value for each in given.keywords)]
            texts = [each.value for each in written if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            found.append(
                NamedData(
                    kind="code",
                    name=", ".join(texts) or None,
                    key=f"{maker} (line {builder.source.lines[given.lineno - 1].number or given.lineno})",
                    place=builder.source.place(given),
                    not_followed="The script forms the samples by code of its own.",
                )
            )
    return found[:_MOST_DATA]


def _assignments(source: Source, name: str) -> list[ast.Assign]:
    return [
        each
        for each in source.nodes
        if isinstance(each, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == name for target in each.targets)
    ]


def _template(script: TrainingScript, builder: SetupBuilder) -> str | None:
    """The template that Unsloth's get_chat_template is asked for; None where it is not asked for one that is known."""
    known = {id(call.node): call for call, _ in script.seen.calls}
    for node in builder.source.nodes:
        if isinstance(node, ast.Call) and _last(node.func) == "get_chat_template":
            name = _argument(node, known.get(id(node)), "chat_template", 1) or _constant(node, builder.source)
            if name is not None:
                builder.unknown("data.chat_template", "Unsloth has the template under this name.", node)
            return name
    return None


def _constant(node: ast.Call, source: Source) -> str | None:
    """The text behind a name that is given as ``chat_template``, where the script sets it once."""
    given = keyword(node, "chat_template")
    if given is None and len(node.args) > 1:
        given = node.args[1]
    if not isinstance(given, ast.Name):
        return None
    found = _assignments(source, given.id)
    one = found[0].value if len(found) == 1 else None
    return one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else None


def _loads(tree: ast.Module) -> list[ast.Call]:
    """The calls that load samples, in the order of the script."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _last(node.func)
        owner = _last(node.func.value) if isinstance(node.func, ast.Attribute) else None
        if name in _LOADERS or (name in _READERS and owner in _OWNERS):
            found.append(node)
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))[:_MOST_DATA]


def _told(node: ast.Call, call: Made | None, builder: SetupBuilder) -> NamedData:
    first = _argument(node, call, "path", 0) or _argument(node, call, "path_or_paths", 0)
    if first is None:
        first = _argument(node, call, "dataset_path", 0)
    files = _texts(node, call, "data_files")
    name = files[0] if files and (first is None or first in BUILDERS) else first
    loader = _last(node.func)
    return NamedData(
        kind="file" if name in files else kind_of(name),
        name=name,
        subset=_argument(node, call, "name", 1),
        split=_argument(node, call, "split", None),
        files=files,
        format=first if first in BUILDERS else None,
        key=f"{loader} (line {builder.source.lines[node.lineno - 1].number or node.lineno})" if loader else None,
        place=builder.source.place(node),
    )


def _argument(node: ast.Call, call: Made | None, name: str, position: int | None) -> str | None:
    """The text of an argument: as the script was followed, else as it is written."""
    value: Value | None = None
    if call is not None:
        value = call.arguments.get(name)
        if value is None and position is not None:
            value = call.arguments.get(position)
    if isinstance(value, Known) and isinstance(value.data, str):
        return value.data
    written = keyword(node, name)
    if written is None and position is not None and position < len(node.args):
        written = node.args[position]
    return written.value if isinstance(written, ast.Constant) and isinstance(written.value, str) else None


def _texts(node: ast.Call, call: Made | None, name: str) -> list[str]:
    """The texts of an argument that is one, a list of them, or a mapping to them."""
    value = call.arguments.get(name) if call is not None else None
    if isinstance(value, Known) and isinstance(value.data, str):
        return [value.data]
    if isinstance(value, Listing):
        return [each.data for each in value.items if isinstance(each, Known) and isinstance(each.data, str)]
    written = keyword(node, name)
    constants = ast.walk(written.values[0]) if isinstance(written, ast.Dict) and written.values else ()
    if written is not None and not isinstance(written, ast.Dict):
        constants = ast.walk(written)
    return [each.value for each in constants if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def _transforms(builder: SetupBuilder) -> list[str]:
    """What is done to samples, with its line: ``map (line 12)``."""
    found = []
    for node in builder.source.nodes:
        if isinstance(node, ast.Call) and _last(node.func) in _TRANSFORMS and _is_of_data(node):
            found.append((node.lineno, _last(node.func)))
    lines = builder.source.lines
    return [f"{name} (line {lines[row - 1].number or row})" for row, name in sorted(found)][:_MOST_DATA]


def _is_of_data(node: ast.Call) -> bool:
    """True for a method of something, or for a function that joins data sets; ``map(f, x)`` is Python's own."""
    name = _last(node.func) or ""
    if isinstance(node.func, ast.Name):
        return name.endswith("_datasets")
    return not (name in ("filter", "select", "take", "skip", "cast", "flatten") and not _looks_like_data(node.func))


def _looks_like_data(function: ast.expr) -> bool:
    words = {inner.id for inner in ast.walk(function) if isinstance(inner, ast.Name)}
    return any(part in word.lower() for word in words for part in ("data", "ds", "train", "eval", "test", "split"))


def _last(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
