"""What a script's own order, and what it hands its trainer, come to: an adapter that is not kept, an optimizer that
was made too early, gradients that are off, and what transformers' Trainer stops at by itself.

Said only of a script that was followed from the load to the training.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from ...setup.paths import resolve
from ...setup.setup import Setup
from ...tables.templates import family_of
from .setup_builder import SetupBuilder
from .statements import tokenizer_of
from .training import METHODS
from .training_script import TrainingScript, argument
from .values import Known, Listing, Made, Mapping, Model, Unknown, Value

_MEASURED_BY_EVALUATE = {"loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
"""What Trainer.evaluate measures without compute_metrics."""
_MOST_READ = 64 << 20
_MADE_ITERABLE = ("Dataset.from_", "to_list(", "Dataset.from_generator", "list(")


def note_outcomes(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    if script.is_unsloth:
        return
    _unkept_adapter(script, builder)
    _early_optimizer(script, builder)
    _gradients_off(script, builder)
    _loop_order(script, builder)
    _idle_adapter(script, builder)
    _unmade_initialisation(script, builder)
    _saved_base(script, builder)
    _merged_into_4bit(script, builder)
    _foreign_tokenizer(script, builder)
    _all_splits(script, builder)
    if script.trainer is not None and METHODS.get(script.trainer.maker) is not None:
        _best_metric(script, builder)
        _early_stopping(script, builder)
        _endless_data(script, builder)


# -- the adapter


def _unkept_adapter(script: TrainingScript, builder: SetupBuilder) -> None:
    """``get_peft_model(model, config)`` as a statement: the trainer goes on with the base, which it refuses."""
    if not script.whole or script.trainer is None or not builder.value("quantization.load_in_4bit"):
        return
    dropped = set[int]().union(*(_unkept_calls(source.tree) for source in script.sources))
    attached = [step for step in script.steps if step.kind in ("attach", "load-adapter") and step.sure]
    if len(attached) != 1 or id(attached[0].call.node) not in dropped or script.given("peft_config") is not None:
        return
    step = attached[0]
    if step.call.maker != "get_peft_model":
        return
    where = builder.source.where(step.call.node)
    note = (
        f"transformers stops: what get_peft_model returns in {where} is not kept, and the trainer is given the 4-bit "
        "base itself, which it takes for a model without an adapter."
    )
    builder.refused("adapter-not-kept", note, "lora")


def _unkept_calls(tree: ast.AST) -> set[int]:
    """Calls of which nothing is left: those that are statements, and those whose result a function keeps to itself."""
    found = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        inner = list(ast.walk(function))
        gives = any(isinstance(node, ast.Return | ast.Yield) and node.value is not None for node in inner)
        elsewhere = any(isinstance(node, ast.Global | ast.Nonlocal) for node in inner)
        trains = any("Trainer" in ast.unparse(node.func) for node in inner if isinstance(node, ast.Call))
        if gives or elsewhere or trains:
            continue
        for node in inner:
            if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
                found.add(id(node.value))
    return found


def _idle_adapter(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model.add_adapter(name, config)`` of a PeftModel does not make the new adapter the active one."""
    added = [step for step in script.steps if step.kind == "add-adapter" and step.sure]
    if not script.whole or not added or any(step.kind == "thaw" for step in script.steps):
        return
    call = added[-1].call
    name = argument(call, "adapter_name", 0)
    called = f" {name.data}" if isinstance(name, Known) and isinstance(name.data, str) else ""
    note = (
        f"The adapter{called} is added and never made the active one: what trains is the adapter that was there before."
    )
    builder.remark("adapter-never-active", call.node, note, "lora.added")


def _unmade_initialisation(script: TrainingScript, builder: SetupBuilder) -> None:
    """``init_lora_weights="eva"`` needs the data, which ``initialize_lora_eva_weights`` is given."""
    asked = builder.value("lora.init_lora_weights")
    called = "initialize_lora_eva_weights" in script.code
    if script.whole and asked == "eva" and not called:
        note = (
            'init_lora_weights is "eva", and initialize_lora_eva_weights is never called: no data is looked at, and '
            "the adapter starts as plain LoRA does."
        )
        builder.remark("initialisation-not-made", None, note, "lora.init_lora_weights")


def _saved_base(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model.save_pretrained`` of the base that the trainer attached its peft_config to, inside of it."""
    trainer = script.trainer
    if not script.whole or trainer is None or not isinstance(script.given("peft_config"), Made):
        return
    given = argument(trainer, "model", 0)
    if not isinstance(given, Model) or re.search(r"\.save_model\(|\.push_to_hub\(|trainer\.model\b", script.code):
        return
    for model, node, runs in script.seen.saves:
        if runs and model.node is given.node and not any(_attaches(step.kind) for step in model.steps):
            where = builder.source.where(node)
            note = (
                f"save_pretrained in {where} is called on the base that was given to the trainer, not on the "
                "trainer's own model: the folder holds the base with the adapter's layers among its tensors, and no "
                "adapter_config.json."
            )
            builder.remark("base-saved", node, note, "lora.saved")
            return


def _attaches(kind: str) -> bool:
    return kind.startswith("attach") or kind == "load-adapter"


def _merged_into_4bit(script: TrainingScript, builder: SetupBuilder) -> None:
    """``merge_and_unload`` of a base that is in 4-bit at that time."""
    for model, node in script.seen.merges:
        given = model.load.arguments.get("quantization_config") if model.load is not None else None
        bits = given.arguments.get("load_in_4bit") if isinstance(given, Made) else None
        if isinstance(bits, Known) and bits.data is True:
            note = (
                f"The adapter is merged into the base in {builder.source.where(node)}, which is loaded in 4-bit there."
            )
            builder.remark("merged-into-4bit", node, note, "lora.merged")
            return


# -- the optimizer


def _early_optimizer(script: TrainingScript, builder: SetupBuilder) -> None:
    """An optimizer that was given the parameters before the adapter's were among them."""
    if not script.whole and script.trainer is not None:
        return
    call = _optimizer(script)
    of = call.arguments.get("the model") if call is not None else None
    before = call.arguments.get("steps before") if call is not None else None
    if call is None or script.model is None or not isinstance(of, Model) or not isinstance(before, Known):
        return
    if of.node is not script.model.node or "add_param_group" in script.code:
        return
    later = [step for step in script.steps[int(before.data) :] if step.kind.startswith("attach") and step.sure]
    earlier = [step for step in script.steps[: int(before.data)] if step.kind.startswith(("attach", "load-adapter"))]
    by_trainer = script.given("peft_config") if script.trainer is not None else None
    if earlier or not (later or isinstance(by_trainer, Made)):
        return
    what = (
        later[0].call.maker if later else f"{script.trainer.maker}'s peft_config" if script.trainer else "peft_config"
    )
    where = builder.source.where(call.node)
    note = f"The optimizer of {where} is given the parameters before {what} attaches the adapter."
    builder.remark("optimizer-before-adapter", call.node, note, "training.optimizer")


def _optimizer(script: TrainingScript) -> Made | None:
    """The one that steps: the trainer's own, or the only one of a loop of the script."""
    made = [call for call, sure in script.seen.calls if call.maker.startswith("optimizer:") and sure]
    if script.trainer is None:
        return made[0] if len({id(call.node) for call in made}) == 1 else None
    given = script.given("optimizers")
    first = given.items[0] if isinstance(given, Listing) and given.items else None
    return first if isinstance(first, Made) and first.maker.startswith("optimizer:") else None


def _gradients_off(script: TrainingScript, builder: SetupBuilder) -> None:
    """``torch.set_grad_enabled(False)`` as a statement, and nothing that turns gradients on before the training."""
    if script.trainer is None or not script.seen.runs:
        return
    statements = {id(node.value) for _, node in script.nodes(ast.Expr)}
    before = [each for each in script.seen.gradients if each[3] == 0 and id(each[1]) in statements]
    if not before or not all(sure for _, _, sure, _ in before) or before[-1][0]:
        return
    node = before[-1][1]
    note = f"torch.set_grad_enabled(False) in {builder.source.where(node)} is in force when the training begins."
    builder.remark("gradients-off", node, note, "training.gradients")


def _loop_order(script: TrainingScript, builder: SetupBuilder) -> None:
    """A loop of the script's own that clears the gradients before the optimizer reads them, or never steps it."""
    if script.trainer is not None:
        return
    for source in script.sources:
        for loop in source.nodes:
            if not isinstance(loop, ast.For | ast.AsyncFor | ast.While) or _has_inner_loop_with_backward(loop):
                continue
            order = list(_called(loop.body))
            kinds = [kind for kind, _ in order]
            if "backward" not in kinds:
                continue
            done = kinds.index("backward")
            cleared = next((n for n in range(done + 1, len(kinds)) if kinds[n] == "clear"), None)
            stepped = next((n for n in range(done + 1, len(kinds)) if kinds[n] == "step"), None)
            if cleared is not None and stepped is not None and cleared < stepped:
                node = order[cleared][1]
                note = f"zero_grad in {builder.source.where(node)} stands between backward and the optimizer's step."
                builder.remark("gradients-cleared-early", node, note, "training.loop")
                return
            if not {"step", "unknown"} & set(kinds) and not any(
                "step" in _names_of(each.tree) for each in script.sources
            ):
                node = order[done][1]
                where = builder.source.where(node)
                note = f"The loop around {where} goes backward, and no optimizer steps anywhere in the script."
                builder.remark("optimizer-never-steps", node, note, "training.loop")
                return


def _has_inner_loop_with_backward(loop: ast.AST) -> bool:
    inner = (
        node for node in ast.walk(loop) if node is not loop and isinstance(node, ast.For | ast.AsyncFor | ast.While)
    )
    return any("backward" in [kind for kind, _ in _called(node.body)] for node in inner)


def _called(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """(``backward``, ``clear``, ``step`` or ``unknown``, call) of what always runs in a body, in its order.

    What stands under a condition is ``unknown`` but for backward: in which rounds it runs is not seen here.
    """
    for node in body:
        if isinstance(node, ast.With | ast.AsyncWith):
            yield from _called(node.body)
            continue
        always = isinstance(node, ast.Expr | ast.Assign)
        for inner in ast.walk(node):
            called = inner.func if isinstance(inner, ast.Call) else None
            name = called.attr if isinstance(called, ast.Attribute) else ""
            if name == "backward":
                yield "backward", inner
            elif name == "zero_grad" and inner.args == [] and always:  # type: ignore[attr-defined]
                yield "clear", inner
            elif name == "step" and isinstance(called, ast.Attribute) and "sched" not in ast.unparse(called).lower():
                yield "step" if always else "unknown", inner


def _names_of(tree: ast.AST) -> set[str]:
    """Attributes that are called anywhere, but for those of schedulers."""
    return {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and "sched" not in ast.unparse(node.func).lower()
    }


# -- the tokenizer


def _foreign_tokenizer(script: TrainingScript, builder: SetupBuilder) -> None:
    """A tokenizer with another vocabulary than the model was trained with."""
    made = tokenizer_of(script)
    _, name = script.seen.tokenizers.get(id(made.node), (None, None)) if made is not None else (None, None)
    model = builder.value("model.name_or_path")
    if (
        not isinstance(name, Known)
        or not isinstance(name.data, str)
        or not isinstance(model, str)
        or name.data == model
    ):
        return
    families = [family_of(each) for each in (name.data, model)]
    if families[0] is not None and families[1] is not None:
        if families[0][0] == families[1][0]:
            return
        what = f"a tokenizer of {families[0][0]}, and the model {model} is one of {families[1][0]}"
    else:
        here = [resolve(Setup(file=builder.source.file), each) for each in (name.data, model)]
        vocabularies = [_vocabulary(folder) if folder is not None else None for folder in here]
        if None in vocabularies or vocabularies[0] == vocabularies[1]:
            return
        what = f"a tokenizer with another vocabulary than that of the model {model}"
    note = f"{name.data} is {what}."
    builder.remark("tokenizer-of-another-model", name.node, note, "data.tokenizer")


def _vocabulary(folder: Path) -> frozenset[str] | None:
    """The tokens of a folder's tokenizer.json with their numbers, as text, but for those that were added."""
    path = Path(folder) / "tokenizer.json"
    try:
        if not path.is_file() or path.stat().st_size > _MOST_READ:
            return None
        words = json.loads(path.read_text("utf-8"))["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return frozenset(f"{word} {number}" for word, number in words.items()) if isinstance(words, dict) else None


# -- what Trainer stops at


def _best_metric(script: TrainingScript, builder: SetupBuilder) -> None:
    """A metric to choose the best checkpoint by that nobody computes."""
    arguments, trainer = script.arguments(), script.trainer
    if not isinstance(arguments, Made) or trainer is None or not trainer.exact:
        return
    named = arguments.arguments.get("metric_for_best_model")
    metric = named.data if isinstance(named, Known) and isinstance(named.data, str) else None
    evaluates = builder.value("training.eval_strategy") in ("steps", "epoch")
    if metric is None or not evaluates or not builder.value("training.load_best_model_at_end"):
        return
    plain = trainer.maker in ("Trainer", "Seq2SeqTrainer")
    by_position = any(isinstance(name, int) and name >= 3 for name in trainer.arguments)
    if not plain or by_position or script.given("compute_metrics") is not None:
        return
    several = isinstance(script.given("eval_dataset"), Mapping) or (metric.endswith("_loss") and metric != "eval_loss")
    if metric.removeprefix("eval_") in _MEASURED_BY_EVALUATE or several:
        return
    note = (
        f"transformers stops at the first evaluation: metric_for_best_model is {metric}, which nothing computes; the "
        "trainer is given no compute_metrics, and without it only the loss is measured."
    )
    builder.refused("best-model-metric", note, "training.load_best_model_at_end", "best-model")


def _early_stopping(script: TrainingScript, builder: SetupBuilder) -> None:
    """EarlyStoppingCallback asserts that there is an evaluation, and a metric."""
    arguments, trainer = script.arguments(), script.trainer
    if trainer is None or not isinstance(arguments, Made) or not arguments.exact:
        return
    callbacks = script.given("callbacks")
    listed = list(callbacks.items) if isinstance(callbacks, Listing) else []
    added = [value for value in script.seen.callbacks if isinstance(value, Made)]
    stopper = next((each for each in (*listed, *added) if _is_stopper(each)), None)
    if stopper is None or not isinstance(stopper, Made):
        return
    strategy = arguments.arguments.get("eval_strategy", arguments.arguments.get("evaluation_strategy"))
    evaluates = None if isinstance(strategy, Unknown) else builder.value("training.eval_strategy")
    if isinstance(strategy, Unknown):
        return
    problem = None
    if evaluates in (None, "no") and not builder.value("training.load_best_model_at_end"):
        problem = "and nothing is ever evaluated (eval_strategy is no)"
    elif "metric_for_best_model" not in arguments.arguments and _is_off(arguments, "load_best_model_at_end"):
        problem = "and neither metric_for_best_model nor load_best_model_at_end says by which metric"
    if problem is not None:
        note = f"transformers stops: EarlyStoppingCallback is to end the training early, {problem}."
        builder.refused("early-stopping-unfit", note, "training.eval_strategy", "best-model")


def _is_stopper(value: Value) -> bool:
    return isinstance(value, Made) and value.maker == "EarlyStoppingCallback"


def _is_off(call: Made, name: str) -> bool:
    value = call.arguments.get(name)
    return value is None or (isinstance(value, Known) and not value.data)


def _endless_data(script: TrainingScript, builder: SetupBuilder) -> None:
    """Streamed rows have no length, so that max_steps has to say how long the training is."""
    arguments, trainer = script.arguments(), script.trainer
    if trainer is None or not isinstance(arguments, Made) or not arguments.exact or "max_steps" in arguments.arguments:
        return
    loads = [call for call, _ in script.seen.calls if call.maker == "load_dataset"]
    streams = [call for call in loads if _says(call, "streaming", True)]
    if not loads or len(streams) != len(loads) or any(word in script.code for word in _MADE_ITERABLE):
        return
    if trainer.maker in ("GRPOTrainer", "RLOOTrainer") or script.given("train_dataset") is None:
        return
    note = "transformers stops: the rows are streamed, so that their number is not known, and max_steps is not set."
    builder.refused("streaming-without-steps", note, "training.num_train_epochs")


def _all_splits(script: TrainingScript, builder: SetupBuilder) -> None:
    """``load_dataset`` without a split gives a dict of splits, which no trainer takes for its rows."""
    given = script.given("train_dataset")
    if not isinstance(given, Made) or given.maker != "load_dataset" or not given.exact or "split" in given.arguments:
        return
    where = builder.source.where(given.node)
    note = (
        f"The trainer is given what load_dataset in {where} returns, a dict of all splits, because no split is "
        'named: it stops at it. Pass split="train", or ["train"] of it.'
    )
    builder.refused("dict-of-splits", note, "data.train")


def _says(call: Made, name: str, wanted: object) -> bool:
    value = call.arguments.get(name)
    return isinstance(value, Known) and value.data is wanted
