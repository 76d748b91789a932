"""Slips with adapters that a script's text shows: a method that knows no 4-bit weights, AdaLoRA that never allocates,
weights that are loaded by names which the model lacks, a resume that transformers' own adapters do not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from .setup_builder import SetupBuilder
from .training_script import TrainingScript
from .values import Known, Made

_WITHOUT_4BIT = {"LoHaConfig": "LoHa", "LoKrConfig": "LoKr", "HRAConfig": "HRA", "DeloraConfig": "DeLoRA"}
"""Methods that read a weight by its shape and have no layer for bitsandbytes' (peft 0.21, tuners/*/layer.py)."""
_ADAPTER_FILE = re.compile(r"adapter_model\.(safetensors|bin)")
_READS_FILE = re.compile(r"(load_file|torch\.load|load_peft_weights)\(")


def note_adapter_slips(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    config = script.adapter()
    if isinstance(config, Made):
        _without_4bit(config, builder)
        _never_allocated(script, config, builder)
    _resumed_in_transformers(script, builder)
    _loaded_by_other_names(script, builder)


def _without_4bit(config: Made, builder: SetupBuilder) -> None:
    method = _WITHOUT_4BIT.get(config.maker)
    if method is None or builder.value("quantization.load_in_4bit") is not True:
        return
    note = (
        f"PEFT stops: {method} takes the shape of a weight from the weight itself, and packed 4-bit bytes have "
        "another. LoRA, AdaLoRA, IA3, OFT, VeRA and RandLoRA work with 4-bit weights."
    )
    builder.refused("method-without-4-bit", note, "lora", node=config.node)


def _never_allocated(script: TrainingScript, config: Made, builder: SetupBuilder) -> None:
    """Neither Trainer nor PEFT calls it (peft, tuners/adalora/model.py): the ranks stay those of the start."""
    if config.maker != "AdaLoraConfig":
        return
    if config.exact and 0 not in config.arguments and "total_step" not in config.arguments:
        note = "PEFT stops: AdaLoRA does not work without total_step, the number of updates of the run."
        builder.refused("adalora-without-steps", note, "lora", node=config.node)
    if "update_and_allocate" in script.code or not script.whole or script.given("callbacks") is not None:
        return
    first = config.arguments.get("init_r")
    rank = f"rank {first.data}" if isinstance(first, Known) and isinstance(first.data, int) else "the rank of its start"
    note = f"Nothing calls update_and_allocate: every matrix of AdaLoRA keeps {rank}, and the budget is never moved."
    builder.remark("ranks-never-allocated", config.node, note, "lora")


def _resumed_in_transformers(script: TrainingScript, builder: SetupBuilder) -> None:
    """Trainer loads an adapter into a PeftModel alone; from another model's checkpoint it wants whole weights."""
    attached = [step for step in script.steps if step.kind.startswith(("attach", "load-adapter"))]
    asked = builder.value("training.resume_from_checkpoint")
    if len(attached) != 1 or not asked or script.trainer is None or script.given("peft_config"):
        return
    step = attached[0]
    if step.call.maker != "add_adapter" or not step.sure or not isinstance(step.call.arguments.get(0), Made):
        return
    source = "" if asked is True else f" (from {asked})"
    note = (
        f"transformers stops: add_adapter leaves a model of transformers' own class, and a resume{source} looks "
        "for its whole weights in the checkpoint, which holds the adapter alone. Attach it with get_peft_model."
    )
    builder.refused("resumed-in-transformers", note, "training.resume_from_checkpoint", node=step.call.node)


def _loaded_by_other_names(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model.load_state_dict(load_file("…/adapter_model.safetensors"), strict=False)`` of a PeftModel."""
    if not any(step.kind == "attach" and step.call.maker == "get_peft_model" for step in script.steps):
        return
    for source in script.sources:
        read = {
            target.id: ast.unparse(node.value)
            for node in source.nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for name in _changed_in_place(source.nodes):
            read.pop(name, None)
        for node in source.nodes:
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            loose = any(each.arg == "strict" and ast.unparse(each.value) == "False" for each in node.keywords)
            given = node.args[0]
            text = read.get(given.id, "") if isinstance(given, ast.Name) else ast.unparse(given)
            kept = node.func.attr == "load_state_dict" and _READS_FILE.match(text) and _ADAPTER_FILE.search(text)
            if loose and kept:
                note = (
                    f"{source.where(node)} loads nothing: PEFT stores its tensors without the adapter's name "
                    "(lora_A.weight), the model has them with it (lora_A.default.weight), and strict=False lets that "
                    "pass."
                )
                builder.remark("loaded-by-other-names", node, note, "model.adapter")
                return


def _changed_in_place(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of what has items set, deleted, taken out or added."""
    changed = set()
    for node in nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
            changed.add(ast.unparse(node.value))
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("pop", "update")
        ):
            changed.add(ast.unparse(node.func.value))
    return changed
