"""What a script makes and never hands on, and what it names and never calls: the run goes without it in silence."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .data_path import keyword
from .setup_builder import SetupBuilder
from .source import Source
from .training_script import TrainingScript
from .values import Known, Made

_QUANTIZED_BY = ("quantization_config", "load_in_4bit", "load_in_8bit")
_DOES_SOMETHING = {
    "train", "save_model", "save_pretrained", "backward", "step", "zero_grad", "merge_and_unload", "push_to_hub",
    "gradient_checkpointing_enable", "enable_input_require_grads", "resize_token_embeddings", "evaluate",
}  # fmt: skip
"""Methods that do something, so that naming one without calling it is a slip."""
_DATASET_STEPS = {
    "map",
    "filter",
    "rename_column",
    "rename_columns",
    "remove_columns",
    "select_columns",
    "cast_column",
}
"""Methods of a ``datasets.Dataset`` that leave it as it is and return another."""
_LOADS_A_DATASET = {"load_dataset", "load_from_disk", "from_json", "from_csv", "from_parquet", "from_list", "from_dict",
          "from_pandas", "from_generator"}  # fmt: skip


def note_unused(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    _uncalled(script, builder)
    _quantization(script, builder)
    _lora(script, builder)
    _data_steps(script, builder)
    _optimizer_arguments(script, builder)


def _uncalled(script: TrainingScript, builder: SetupBuilder) -> None:
    for source in script.sources:
        for node in source.nodes:
            named = node.value if isinstance(node, ast.Expr) else None
            if isinstance(named, ast.Attribute) and named.attr in _DOES_SOMETHING:
                text = ast.unparse(named)[:80]
                note = f"{text} in {source.where(named)} is named and not called: the parentheses are missing."
                builder.remark("method-not-called", named, note, f"training.{named.attr}")
                return


def _quantization(script: TrainingScript, builder: SetupBuilder) -> None:
    """A BitsAndBytesConfig that nothing reads, in a script in which nothing else quantizes."""
    asked = any(_says(source, _QUANTIZED_BY) for source in script.sources)
    made = list(_never_read(script, ("BitsAndBytesConfig",)))
    if not made or asked or builder.has_remark("base-of-random-weights"):
        return
    source, call = made[0]
    note = (
        f"The BitsAndBytesConfig of {source.where(call)} is given to nothing: the base is loaded without "
        "quantization_config, in 16 or 32 bits."
    )
    builder.remark("quantization-not-passed", call, note, "quantization.load_in_4bit")


def _says(source: Source, names: tuple[str, ...]) -> bool:
    """True where a call other than BitsAndBytesConfig's own is given one of these, or anything sets it."""
    for node in source.nodes:
        if isinstance(node, ast.Call) and not ast.unparse(node.func).endswith("BitsAndBytesConfig"):
            if any(keyword.arg in names for keyword in node.keywords):
                return True
        elif (isinstance(node, ast.Constant) and node.value in names) or (
            isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.ctx, ast.Store)
        ):
            return True
    return False


def _lora(script: TrainingScript, builder: SetupBuilder) -> None:
    """A LoraConfig that nothing reads, where the trainer is given a base in 4-bit without an adapter."""
    if not script.whole or script.trainer is None or script.adapter() is not None:
        return
    if any(step.kind in ("attach", "add-adapter", "load-adapter", "attach-unsloth") for step in script.steps):
        return
    made = list(_never_read(script, ("LoraConfig",)))
    if made and builder.value("quantization.load_in_4bit"):
        source, call = made[0]
        note = (
            f"transformers stops: the LoraConfig of {source.where(call)} is given to nothing, and the trainer gets the "
            "4-bit base without an adapter, which it does not train."
        )
        builder.refused("adapter-not-attached", note, "lora")


def _data_steps(script: TrainingScript, builder: SetupBuilder) -> None:
    """``ds.map(f)`` as a statement: the data set that it returns is kept by nothing, and ``ds`` stays as it was."""
    for source in script.sources:
        data = _data_names(source)
        dropped = [
            node.value for node in source.nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ]
        for call in dropped:
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr not in _DATASET_STEPS:
                continue
            holder = function.value.value if isinstance(function.value, ast.Subscript) else function.value
            if not isinstance(holder, ast.Name) or holder.id not in data or _only_looks(call, source):
                continue
            written = ast.unparse(call)
            written = written if len(written) <= 60 else f"{written[:57]}…"
            note = (
                f"{written} in {source.where(call)} returns another data set, which nothing keeps, and leaves "
                f"{ast.unparse(function.value)} as it was: what is trained on is without this step."
            )
            builder.remark("data-step-not-kept", call, note, f"data.{function.attr}")
            return


def _data_names(source: Source) -> set[str]:
    """Names that hold what a loader of the datasets library returns, or what is made of that."""
    names: set[str] = set()
    if not any(word in source.code for word in _LOADS_A_DATASET):
        return names
    for node in source.nodes:
        targets = node.targets if isinstance(node, ast.Assign) else ()
        root = node.value if isinstance(node, ast.Assign) else None
        while isinstance(root, ast.Subscript | ast.Call | ast.Attribute):
            made = root.func if isinstance(root, ast.Call) else None
            if made is not None and ast.unparse(made).rpartition(".")[2] in _LOADS_A_DATASET:
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and root.id in names:
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def _only_looks(call: ast.Call, source: Source) -> bool:
    """Whether a step is made for what its function does besides: one that returns nothing."""
    given = call.args[0] if call.args else keyword(call, "function")
    if isinstance(given, ast.Lambda):
        return isinstance(given.body, ast.Call) and ast.unparse(given.body.func).endswith(
            (".append", ".add", ".update")
        )
    if isinstance(given, ast.Name):
        own = [node for node in source.nodes if isinstance(node, ast.FunctionDef) and node.name == given.id]
        return any(not any(isinstance(each, ast.Return) and each.value for each in ast.walk(node)) for node in own)
    return False


_OPTIMIZER_ARGUMENTS = {"weight_decay": ("weight_decay",), "adam_beta1": ("betas",), "adam_beta2": ("betas",)}
"""Argument of TrainingArguments → what an optimizer calls it."""
_LORA_PLUS = "create_loraplus_optimizer"


def _optimizer_arguments(script: TrainingScript, builder: SetupBuilder) -> None:
    """What the arguments say of the optimizer, where the trainer is given one that was made without it.

    PEFT's create_loraplus_optimizer puts ``loraplus_weight_decay`` into its groups, 0 unless it is said, whatever
    ``weight_decay`` it is given (peft/optimizers/loraplus.py).
    """
    arguments, call = script.arguments(), _own_optimizer(script)
    if call is None:
        return
    maker = ast.unparse(call.func).rpartition(".")[2]
    given = {each.arg for each in call.keywords}
    if None in given:
        return  # what else it is given is not known
    said = arguments.arguments if isinstance(arguments, Made) else {}
    dropped = []
    for name, names in _OPTIMIZER_ARGUMENTS.items():
        value = said.get(name)
        names = ("loraplus_weight_decay",) if maker == _LORA_PLUS and name == "weight_decay" else names
        if isinstance(value, Known) and isinstance(value.data, int | float) and value.data and not given & set(names):
            dropped.append(f"{name} {value.data:g}")
    if maker == _LORA_PLUS and "weight_decay" in given and "loraplus_weight_decay" not in given:
        dropped.append("its own weight_decay, which its groups replace by loraplus_weight_decay, 0 unless it is said")
    if dropped:
        note = (
            f"The trainer is given the optimizer of {maker} ({builder.source.where(call)}), which is made without "
            f"{' and '.join(dropped)}: the optimizer's own values count."
        )
        builder.remark("optimizer-arguments-dropped", call, note, "training.weight_decay")


def _own_optimizer(script: TrainingScript) -> ast.Call | None:
    """The call that makes the optimizer which the trainer is given as ``optimizers=(optimizer, scheduler)``."""
    for source in script.sources:
        pairs = [
            keyword.value
            for node in source.nodes
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "optimizers" and isinstance(keyword.value, ast.Tuple) and keyword.value.elts
        ]
        first = pairs[0].elts[0] if len(pairs) == 1 and isinstance(pairs[0], ast.Tuple) else None
        if isinstance(first, ast.Call):
            return first
        made = [
            node.value
            for node in source.nodes
            if isinstance(node, ast.Assign)
            and isinstance(first, ast.Name)
            and any(isinstance(target, ast.Name) and target.id == first.id for target in node.targets)
        ]
        if len(made) == 1 and isinstance(made[0], ast.Call):
            return made[0]
    return None


def _never_read(script: TrainingScript, makers: tuple[str, ...]) -> Iterator[tuple[Source, ast.Call]]:
    """Calls whose result is kept under a plain name that occurs nowhere else in the script as a value."""
    read = {node.id for _, node in script.nodes(ast.Name) if isinstance(node.ctx, ast.Load)}
    if read & {"globals", "locals", "vars", "eval", "exec"}:
        return
    for source, node in script.nodes(ast.Assign):
        if len(node.targets) != 1 or not isinstance(node.value, ast.Call):
            continue
        target, call = node.targets[0], node.value
        if isinstance(target, ast.Name) and ast.unparse(call.func).rpartition(".")[2] in makers:
            imported = any(f"import {target.id}" in each.code for each in script.sources)
            if target.id not in read and not imported:
                yield source, call
