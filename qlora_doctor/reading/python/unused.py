"""What a script makes and never hands on, and what it names and never calls: the run goes without it in silence."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .setup_builder import SetupBuilder
from .source import Source
from .training_script import TrainingScript

_QUANTIZED_BY = ("quantization_config", "load_in_4bit", "load_in_8bit")
_CALLED = {
    "train", "save_model", "save_pretrained", "backward", "step", "zero_grad", "merge_and_unload", "push_to_hub",
    "gradient_checkpointing_enable", "enable_input_require_grads", "resize_token_embeddings", "evaluate",
}  # fmt: skip
"""Methods that do something, so that naming one without calling it is a slip."""


def note_unused(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    _uncalled(script, builder)
    _quantization(script, builder)
    _lora(script, builder)


def _uncalled(script: TrainingScript, builder: SetupBuilder) -> None:
    for source in script.sources:
        for node in source.nodes:
            named = node.value if isinstance(node, ast.Expr) else None
            if isinstance(named, ast.Attribute) and named.attr in _CALLED:
                text = ast.unparse(named)[:80]
                note = f"{text} in {source.where(named)} is named and not called, for the brackets are missing."
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


def _never_read(script: TrainingScript, makers: tuple[str, ...]) -> Iterator[tuple[Source, ast.Call]]:
    """Calls whose result is kept under a plain name that occurs nowhere else in the script as a value."""
    read = {
        node.id
        for source in script.sources
        for node in source.nodes
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    if read & {"globals", "locals", "vars", "eval", "exec"}:
        return
    for source in script.sources:
        for node in source.nodes:
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.value, ast.Call):
                continue
            target, call = node.targets[0], node.value
            if isinstance(target, ast.Name) and ast.unparse(call.func).rpartition(".")[2] in makers:
                imported = any(f"import {target.id}" in each.code for each in script.sources)
                if target.id not in read and not imported:
                    yield source, call
