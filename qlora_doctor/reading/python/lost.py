"""What a script does and then loses: a model under a name that is overwritten, a merge that nobody keeps, a switch that
is set where nothing reads it, a tokenizer that the trainer never sees."""

from __future__ import annotations

import ast
import re

from .changes import TOKENIZER
from .setup_builder import SetupBuilder
from .training import METHODS
from .training_script import TrainingScript
from .values import Known, Listing, Made, Model

_RETURNS = {
    "set_peft_model_state_dict": "the names of the keys that did not fit",
    "load_adapter": "what became of the adapter's keys",
    "add_adapter": "nothing",
    "set_adapter": "nothing",
    "enable_adapters": "nothing",
    "disable_adapters": "nothing",
    "delete_adapter": "nothing",
    "gradient_checkpointing_enable": "nothing",
    "gradient_checkpointing_disable": "nothing",
    "enable_input_require_grads": "nothing",
    "print_trainable_parameters": "nothing",
    "resize_token_embeddings": "the embeddings alone",
}
"""Functions and methods that change the model they are given, and return no model (peft 0.21, transformers 5.23)."""
_RESUME = "training.resume_from_checkpoint"


def note_lost(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    _overwritten(script, builder)
    _merge_dropped(script, builder)
    _by_position(script, builder)
    if script.trainer is None:
        return
    _resume_unread(script, builder)
    _tokenizer_unseen(script, builder)
    _loss_without_outputs(script, builder)
    _label_names(script, builder)


# -- names


def _overwritten(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model = model.resize_token_embeddings(n)``: what the method returns is no model."""
    own = {node.name for _, node in script.nodes(ast.FunctionDef)}
    for source in script.sources:
        perhaps = {
            id(inner)
            for node in source.nodes
            if isinstance(node, ast.If | ast.Try | ast.IfExp)
            for inner in ast.walk(node)
            if inner is not node
        }
        for node in source.nodes:
            if not isinstance(node, ast.Assign) or len(node.targets) != 1 or id(node) in perhaps:
                continue
            call, target = node.value, node.targets[0]
            if not isinstance(call, ast.Call) or not isinstance(target, ast.Name):
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            if name not in _RETURNS or name in own or not _is_of(call, target.id):
                continue
            used = (
                each
                for each in source.nodes
                if isinstance(each, ast.Name) and each.id == target.id and isinstance(each.ctx, ast.Load)
            )
            if any(each.lineno > (node.end_lineno or node.lineno) for each in used):
                note = (
                    f"The script stops: {name} in {source.where(node)} changes the model in place and returns "
                    f"{_RETURNS[name]}, and {target.id} is overwritten with that. Call it without assigning its result."
                )
                builder.refused("model-overwritten", note, "model.name_or_path")
                return


def _is_of(call: ast.Call, name: str) -> bool:
    """True where the call changes what is kept under this name, or something that it makes itself."""
    if not isinstance(call.func, ast.Attribute):
        return bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id == name
    holder = call.func.value
    made = isinstance(holder, ast.Call) and ast.unparse(holder.func).rpartition(".")[2] in (
        "get_peft_model", "prepare_model_for_kbit_training", "from_pretrained",
    )  # fmt: skip
    return made or (isinstance(holder, ast.Name) and holder.id == name)


def _merge_dropped(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model.merge_and_unload()`` as a statement, and then ``model.save_pretrained`` of what has no adapter left."""
    for source in script.sources:
        dropped: dict[str, ast.Expr] = {}
        for node in sorted((each for each in source.nodes if isinstance(each, ast.Expr | ast.Assign)), key=_line):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    dropped.pop(ast.unparse(target), None)
                continue
            called = node.value.func if isinstance(node.value, ast.Call) else None
            if not isinstance(called, ast.Attribute):
                continue
            holder = ast.unparse(called.value)
            if called.attr == "merge_and_unload":
                dropped[holder] = node
            elif called.attr in ("save_pretrained", "push_to_hub") and holder in dropped:
                note = (
                    f"What merge_and_unload returns in {source.where(dropped[holder])}, the merged model, is not kept. "
                    f"{holder} itself is still a PeftModel, now without an adapter, and {called.attr} in "
                    f"{source.where(node)} writes an adapter of no tensors."
                )
                builder.remark("merge-not-kept", node, note, "lora.merged")
                return


def _line(node: ast.stmt) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _by_position(script: TrainingScript, builder: SetupBuilder) -> None:
    """``LoraConfig(model, r=8)`` and ``LoraConfig(8, 16)``: its first argument is the task type."""
    for call, sure in script.seen.calls:
        first = call.arguments.get(0) if call.maker == "LoraConfig" and sure else None
        number = isinstance(first, Known) and isinstance(first.data, int | float) and not isinstance(first.data, bool)
        if isinstance(first, Model) or number:
            given = "the model" if isinstance(first, Model) else str(first.data)  # type: ignore[union-attr]
            note = (
                "PEFT stops (Invalid task type): the first argument of LoraConfig is task_type, and it is given "
                f"{given} there. Pass its arguments by name."
            )
            builder.refused("task-type-by-position", note, "lora.task_type")
            return


# -- what the trainer does not get


def _resume_unread(script: TrainingScript, builder: SetupBuilder) -> None:
    """TrainingArguments keeps resume_from_checkpoint for the script, and train() goes on only from what it is given."""
    arguments = script.arguments()
    asked = arguments.arguments.get("resume_from_checkpoint") if isinstance(arguments, Made) else None
    if not isinstance(asked, Known) or not asked.data or not script.seen.runs or script.runs != 1:
        return
    reads = any(re.search(r"\.resume_from_checkpoint\b|\.train\(\s*[^)\s]", each.code) for each in script.sources)
    if not reads and not _overrides(script, "train"):
        note = (
            f"resume_from_checkpoint is {asked.data!r} in the trainer's arguments, which only keep it for the script, "
            "and train() is called without it: the training starts at the beginning."
        )
        builder.remark("resume-not-passed", asked.node, note, _RESUME)


def _overrides(script: TrainingScript, *methods: str) -> bool:
    return any(node.name in methods for _, node in script.nodes(ast.FunctionDef))


def _tokenizer_unseen(script: TrainingScript, builder: SetupBuilder) -> None:
    """TRL's trainers load a tokenizer of their own, by the model's name, where they are given none."""
    trainer = script.trainer
    if trainer is None or not trainer.exact or METHODS.get(trainer.maker) is None or script.is_unsloth:
        return
    if trainer.maker in ("Trainer", "Seq2SeqTrainer") or not script.whole:
        return
    if any(script.given(name) is not None for name in ("processing_class", "tokenizer", "data_collator")):
        return
    if any(isinstance(name, int) and name >= 2 for name in trainer.arguments):
        return
    made = {id(call): call for call, _ in script.seen.calls if call.maker == TOKENIZER}
    if len(made) != 1 or any(re.search(r"apply_chat_template|tokenizer\(", each.code) for each in script.sources):
        return
    (tokenizer,) = made.values()
    _, name = script.seen.tokenizers.get(id(tokenizer.node), (None, None))
    loaded = isinstance(name, Known) and name.data == builder.value("model.name_or_path")
    added = [key for key in tokenizer.arguments if isinstance(key, str) and key.startswith("+")]
    what = "a chat template" if "chat_template" in tokenizer.arguments else "tokens" if added else None
    if what is None or not loaded:
        return
    node = tokenizer.places.get(added[0] if what == "tokens" else "chat_template")
    where = builder.source.where(node) if node is not None else "The script"
    note = (
        f"The script gives its tokenizer {what} of its own ({where}), and hands it to nothing: {trainer.maker} loads "
        "another one by the model's name, and trains with that. Pass processing_class=tokenizer."
    )
    builder.remark("tokenizer-not-passed", node, note, "data.tokenizer")


def _loss_without_outputs(script: TrainingScript, builder: SetupBuilder) -> None:
    """A compute_loss that never returns the outputs stops at the first evaluation, which asks for them."""
    if builder.value("training.eval_strategy") not in ("steps", "epoch"):
        return
    if _overrides(script, "prediction_step", "evaluate", "evaluation_loop"):
        return
    for source in script.sources:
        for owner in source.nodes:
            methods = owner.body if isinstance(owner, ast.ClassDef) else []
            if not isinstance(owner, ast.ClassDef) or script.trainer is None or owner.name != _own_class(script):
                continue
            for method in methods:
                if isinstance(method, ast.FunctionDef) and method.name == "compute_loss" and _one_value(method):
                    note = (
                        f"transformers stops at the first evaluation (iteration over a 0-d tensor): "
                        f"{owner.name}.compute_loss in {source.where(method)} returns the loss alone, also where it is "
                        "called with return_outputs=True. Return (loss, outputs) then."
                    )
                    builder.refused("loss-without-outputs", note, "training.compute_loss")
                    return


def _own_class(script: TrainingScript) -> str | None:
    """The class that the script calls for its trainer, where it is one of its own."""
    node = script.trainer.node if script.trainer is not None else None
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _one_value(method: ast.FunctionDef) -> bool:
    """True where no return may be a pair, for return_outputs is never looked at."""
    names = {node.id for node in ast.walk(method) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    if "return_outputs" in names or method.args.kwarg is not None or method.args.vararg is not None:
        return False
    returned = [node.value for node in ast.walk(method) if isinstance(node, ast.Return)]
    pairs = any(isinstance(node, ast.Tuple) for value in returned if value is not None for node in ast.walk(value))
    kept = {ast.unparse(value) for value in returned if isinstance(value, ast.Name)}
    tuples = {
        ast.unparse(node.targets[0])
        for node in ast.walk(method)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    }
    return bool(returned) and not pairs and not kept & tuples


def _label_names(script: TrainingScript, builder: SetupBuilder) -> None:
    """An evaluation without a loss: the columns that label_names lists are none of a causal model's batch."""
    arguments, trainer = script.arguments(), script.trainer
    if not isinstance(arguments, Made) or trainer is None or trainer.maker not in ("Trainer", "SFTTrainer"):
        return
    given = arguments.arguments.get("label_names")
    if not isinstance(given, Listing) or not given.exact or not given.items:
        return
    names = [each.data for each in given.items if isinstance(each, Known) and isinstance(each.data, str)]
    causal = builder.value("lora.task_type") == "CAUSAL_LM"
    evaluates = builder.value("training.eval_strategy") in ("steps", "epoch")
    if len(names) != len(given.items) or not causal or not evaluates:
        return
    if _overrides(script, "prediction_step", "evaluate"):
        return
    strange = [name for name in names if name not in ("labels", "input_ids", "attention_mask")]
    written = any(
        re.search(rf"['\"]{re.escape(name)}['\"]\s*(:|\]\s*=)|rename_column", source.code)
        for name in strange
        for source in script.sources
    )
    if strange and not written:
        note = (
            f"label_names lists {', '.join(strange)}, which is no column of the batches, so that Trainer takes them "
            "for rows without labels: the evaluation has no loss, and compute_metrics is never called. The column is "
            "labels, which is looked for where label_names is not set."
        )
        builder.remark("labels-not-found", given.node, note, "training.label_names")
