"""What a script's own order, and what it hands its trainer, come to: an adapter that is not kept, an optimizer that
was made too early, gradients that are off, and what transformers' Trainer stops at by itself.

Said only of a script that was followed from the load to the training.
"""

from __future__ import annotations

import ast

from .sheet import Sheet
from .story import Story, argument
from .training import METHODS
from .values import Known, Listing, Made, Mapping, Model, Unknown, Value

_EVALUATED = {"loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
"""What Trainer.evaluate measures without compute_metrics."""
_MADE_ITERABLE = ("Dataset.from_", "to_list(", "Dataset.from_generator", "list(")


def note_outcomes(story: Story, sheet: Sheet) -> None:
    """Write down what is certain of it."""
    if story.is_unsloth:
        return
    _unkept_adapter(story, sheet)
    _early_optimizer(story, sheet)
    _gradients_off(story, sheet)
    _idle_adapter(story, sheet)
    if story.trainer is not None and METHODS.get(story.trainer.maker) is not None:
        _best_metric(story, sheet)
        _early_stopping(story, sheet)
        _endless_data(story, sheet)


# -- the adapter


def _unkept_adapter(story: Story, sheet: Sheet) -> None:
    """``get_peft_model(model, config)`` as a statement: the trainer goes on with the base, which it refuses."""
    if not story.whole or story.trainer is None or not sheet.value("quantization.load_in_4bit"):
        return
    dropped = {
        id(node.value) for source in story.sources for node in ast.walk(source.tree) if isinstance(node, ast.Expr)
    }
    attached = [step for step in story.steps if step.kind in ("attach", "load-adapter") and step.sure]
    if len(attached) != 1 or id(attached[0].call.node) not in dropped or story.given("peft_config") is not None:
        return
    step = attached[0]
    if step.call.maker != "get_peft_model":
        return
    where = sheet.source.where(step.call.node) if step.call.node is not None else "the script"
    note = (
        f"transformers stops: what get_peft_model returns in {where} is not kept, and the trainer is given the 4-bit "
        "base itself, which it takes for a model without an adapter."
    )
    sheet.refused("adapter-not-kept", note, "lora")


def _idle_adapter(story: Story, sheet: Sheet) -> None:
    """``model.add_adapter(name, config)`` of a PeftModel does not make the new adapter the active one."""
    added = [step for step in story.steps if step.kind == "add-adapter" and step.sure]
    if not story.whole or not added or any(step.kind == "thaw" for step in story.steps):
        return
    call = added[-1].call
    name = argument(call, "adapter_name", 0)
    called = f" {name.data}" if isinstance(name, Known) and isinstance(name.data, str) else ""
    note = (
        f"The adapter{called} is added and never made the active one: what trains is the adapter that was there before."
    )
    sheet.remark("adapter-never-active", call.node, note, "lora.added")


# -- the optimizer


def _early_optimizer(story: Story, sheet: Sheet) -> None:
    """An optimizer that was given the parameters before the adapter's were among them."""
    if not story.whole and story.trainer is not None:
        return
    call = _optimizer(story)
    of = call.arguments.get("the model") if call is not None else None
    before = call.arguments.get("steps before") if call is not None else None
    if call is None or story.model is None or not isinstance(of, Model) or not isinstance(before, Known):
        return
    if of.node is not story.model.node or any("add_param_group" in source.code for source in story.sources):
        return
    later = [step for step in story.steps[int(before.data) :] if step.kind.startswith("attach") and step.sure]
    earlier = [step for step in story.steps[: int(before.data)] if step.kind.startswith(("attach", "load-adapter"))]
    by_trainer = story.given("peft_config") if story.trainer is not None else None
    if earlier or not (later or isinstance(by_trainer, Made)):
        return
    what = later[0].call.maker if later else f"{story.trainer.maker}'s peft_config" if story.trainer else "peft_config"
    where = sheet.source.where(call.node) if call.node is not None else "the script"
    note = f"The optimizer of {where} is given the parameters before {what} attaches the adapter."
    sheet.remark("optimizer-before-adapter", call.node, note, "training.optimizer")


def _optimizer(story: Story) -> Made | None:
    """The one that steps: the trainer's own, or the only one of a loop of the script."""
    made = [call for call, sure in story.seen.calls if call.maker.startswith("optimizer:") and sure]
    if story.trainer is None:
        return made[0] if len({id(call.node) for call in made}) == 1 else None
    given = story.given("optimizers")
    first = given.items[0] if isinstance(given, Listing) and given.items else None
    return first if isinstance(first, Made) and first.maker.startswith("optimizer:") else None


def _gradients_off(story: Story, sheet: Sheet) -> None:
    """``torch.set_grad_enabled(False)`` as a statement, and nothing that turns gradients on before the training."""
    if story.trainer is None or not story.seen.runs:
        return
    statements = {
        id(node.value) for source in story.sources for node in ast.walk(source.tree) if isinstance(node, ast.Expr)
    }
    before = [each for each in story.seen.gradients if each[3] == 0 and id(each[1]) in statements]
    if not before or not all(sure for _, _, sure, _ in before) or before[-1][0]:
        return
    node = before[-1][1]
    note = f"torch.set_grad_enabled(False) in {sheet.source.where(node)} is in force when the training begins."
    sheet.remark("gradients-off", node, note, "training.gradients")


# -- what Trainer stops at


def _best_metric(story: Story, sheet: Sheet) -> None:
    """A metric to choose the best checkpoint by that nobody computes."""
    arguments, trainer = story.arguments(), story.trainer
    if not isinstance(arguments, Made) or trainer is None or not trainer.exact:
        return
    named = arguments.arguments.get("metric_for_best_model")
    metric = named.data if isinstance(named, Known) and isinstance(named.data, str) else None
    evaluates = sheet.value("training.eval_strategy") in ("steps", "epoch")
    if metric is None or not evaluates or not sheet.value("training.load_best_model_at_end"):
        return
    plain = trainer.maker in ("Trainer", "Seq2SeqTrainer")
    by_position = any(isinstance(name, int) and name >= 3 for name in trainer.arguments)
    if not plain or by_position or story.given("compute_metrics") is not None:
        return
    several = isinstance(story.given("eval_dataset"), Mapping) or (metric.endswith("_loss") and metric != "eval_loss")
    if metric.removeprefix("eval_") in _EVALUATED or several:
        return
    note = (
        f"transformers stops at the first evaluation: metric_for_best_model is {metric}, which nobody computes; the "
        "trainer is given no compute_metrics, and without it only the loss is measured."
    )
    sheet.refused("best-model-metric", note, "training.load_best_model_at_end", "best-model")


def _early_stopping(story: Story, sheet: Sheet) -> None:
    """EarlyStoppingCallback asserts that there is an evaluation, and a metric."""
    arguments, trainer = story.arguments(), story.trainer
    if trainer is None or not isinstance(arguments, Made) or not arguments.exact:
        return
    callbacks = story.given("callbacks")
    listed = list(callbacks.items) if isinstance(callbacks, Listing) else []
    added = [value for value in story.seen.callbacks if isinstance(value, Made)]
    stopper = next((each for each in (*listed, *added) if _is_stopper(each)), None)
    if stopper is None or not isinstance(stopper, Made):
        return
    strategy = arguments.arguments.get("eval_strategy", arguments.arguments.get("evaluation_strategy"))
    evaluates = None if isinstance(strategy, Unknown) else sheet.value("training.eval_strategy")
    if isinstance(strategy, Unknown):
        return
    problem = None
    if evaluates in (None, "no") and not sheet.value("training.load_best_model_at_end"):
        problem = "and nothing is ever evaluated (eval_strategy is no)"
    elif "metric_for_best_model" not in arguments.arguments and _is_off(arguments, "load_best_model_at_end"):
        problem = "and neither metric_for_best_model nor load_best_model_at_end says by which metric"
    if problem is not None:
        note = f"transformers stops: EarlyStoppingCallback is to end the training early, {problem}."
        sheet.refused("early-stopping-unfit", note, "training.eval_strategy", "best-model")


def _is_stopper(value: Value) -> bool:
    return isinstance(value, Made) and value.maker == "EarlyStoppingCallback"


def _is_off(call: Made, name: str) -> bool:
    value = call.arguments.get(name)
    return value is None or (isinstance(value, Known) and not value.data)


def _endless_data(story: Story, sheet: Sheet) -> None:
    """Streamed rows have no length, so that max_steps has to say how long the training is."""
    arguments, trainer = story.arguments(), story.trainer
    if trainer is None or not isinstance(arguments, Made) or not arguments.exact or "max_steps" in arguments.arguments:
        return
    loads = [call for call, _ in story.seen.calls if call.maker == "load_dataset"]
    streams = [call for call in loads if _says(call, "streaming", True)]
    text = "\n".join(source.code for source in story.sources)
    if not loads or len(streams) != len(loads) or any(word in text for word in _MADE_ITERABLE):
        return
    if trainer.maker in ("GRPOTrainer", "RLOOTrainer") or story.given("train_dataset") is None:
        return
    note = "transformers stops: the rows are streamed, so that their number is not known, and max_steps is not set."
    sheet.refused("streaming-without-steps", note, "training.num_train_epochs")


def _says(call: Made, name: str, wanted: object) -> bool:
    value = call.arguments.get(name)
    return isinstance(value, Known) and value.data is wanted
