"""Calls of a script in an order, or with a partner, at which the libraries stop, or that leaves the work undone.

As in ``outcomes``, said only of a script that was followed from the load to the training, or of a loop that stands in
one piece.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from ...setup.paths import resolve
from ...setup.setup import Setup
from .data_path import keyword
from .setup_builder import SetupBuilder
from .training_script import TrainingScript, argument
from .values import Known, Listing, Made, Model, Step

_EMBEDDINGS = {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"}
_ATTACHES = ("attach", "add-adapter", "load-adapter", "attach-unsloth")
_COMPARES = ("DPOTrainer", "KTOTrainer", "CPOTrainer", "GRPOTrainer")
_COUNTED_SCHEDULES = {
    "get_scheduler", "get_linear_schedule_with_warmup", "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup", "get_polynomial_decay_schedule_with_warmup",
}  # fmt: skip


def note_order(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    if script.is_unsloth:
        return
    if script.whole and script.trainer is not None:
        _merged_away(script, builder)
        _resized_behind(script, builder)
        _one_optimizer(script, builder)
        _own_reference(script, builder)
        _many_rewards(script, builder)
        _never_evaluated(script, builder)
        _nothing_saved(script, builder)
        _reloaded_without_tokens(script, builder)
    _rate_as_text(script, builder)
    _reloaded_elsewhere(script, builder)
    _from_config(script, builder)
    if script.trainer is None:
        _loops(script, builder)


def _sure(script: TrainingScript) -> Iterator[Step]:
    return (step for step in script.steps if step.sure)


def _merged_away(script: TrainingScript, builder: SetupBuilder) -> None:
    """An adapter that is merged before the training, and no new one: the trainer gets a bare 4-bit base."""
    if not builder.value("quantization.load_in_4bit") or script.given("peft_config") is not None:
        return
    last = next((step for step in reversed(list(_sure(script))) if step.kind in (*_ATTACHES, "merge")), None)
    if last is not None and last.kind == "merge" and last.call.node is not None:
        note = (
            f"transformers stops: the adapter is merged into the 4-bit base in {builder.source.where(last.call.node)}, "
            "and no new one is attached, so that there is nothing that could be trained."
        )
        builder.refused("adapter-merged-away", note, "lora")


def _resized_behind(script: TrainingScript, builder: SetupBuilder) -> None:
    """PEFT wraps the embeddings of modules_to_save, and transformers does not resize what is wrapped."""
    saved = builder.value("lora.modules_to_save")
    if not isinstance(saved, list) or not _EMBEDDINGS & {str(each) for each in saved}:
        return
    attached = False
    for step in _sure(script):
        attached = attached or step.kind == "attach"
        if attached and step.kind == "change" and step.call.maker == "resize" and step.call.node is not None:
            note = (
                f"transformers stops: resize_token_embeddings in {builder.source.where(step.call.node)} comes after "
                f"the adapter is attached, whose modules_to_save ({', '.join(map(str, saved))}) hold the embeddings "
                "in a wrapper by then. Resize before."
            )
            builder.refused("resized-after-attach", note, "lora.modules_to_save")
            return


def _one_optimizer(script: TrainingScript, builder: SetupBuilder) -> None:
    """``optimizers`` is a pair: an optimizer, and a schedule or None."""
    given = script.given("optimizers")
    alone = isinstance(given, Made) and given.maker.startswith("optimizer:")
    if alone or (isinstance(given, Listing) and given.exact and len(given.items) != 2):
        note = (
            "transformers stops: optimizers has to be a pair, of an optimizer and a schedule; where the schedule is "
            "the trainer's own, of an optimizer and None."
        )
        builder.refused("optimizers-no-pair", note, "training.optimizer")


def _many_rewards(script: TrainingScript, builder: SetupBuilder) -> None:
    """RewardTrainer takes a classifier with one output; from_pretrained makes two where nothing says otherwise."""
    load = script.model.load if script.model is not None else None
    if script.trainer is None or script.trainer.maker != "RewardTrainer" or load is None or not load.exact:
        return
    written = load.arguments.get("num_labels")
    if not load.maker.endswith("ForSequenceClassification") or {"config", "id2label"} & load.arguments.keys():
        return
    number = 2 if written is None else written.data if isinstance(written, Known) else None
    name = load.arguments.get(0)
    stored = written is None and not (isinstance(name, Known) and _is_plain_base(str(name.data), builder))
    if isinstance(number, int) and number != 1 and not stored:
        what = (
            "num_labels is not set, so that the model is made with 2" if written is None else f"num_labels is {number}"
        )
        note = f"TRL stops: {what}, and a reward model has one output. Pass num_labels=1 to from_pretrained."
        builder.refused("reward-model-of-many-labels", note, "model.num_labels")


def _is_plain_base(name: str, builder: SetupBuilder) -> bool:
    """True of a folder here whose config.json says nothing of labels."""
    folder = resolve(Setup(file=builder.source.file), name)
    try:
        words = (folder / "config.json").read_text("utf-8") if folder is not None else "id2label"
    except OSError:
        return False
    return "id2label" not in words and "num_labels" not in words


def _never_evaluated(script: TrainingScript, builder: SetupBuilder) -> None:
    """Rows and intervals for an evaluation that no strategy asks for."""
    arguments = script.arguments()
    if not isinstance(arguments, Made) or not arguments.exact or script.given("eval_dataset") is None:
        return
    given = arguments.arguments
    asked = [name for name in ("do_eval", "eval_steps") if name in given]
    silent = not {"eval_strategy", "evaluation_strategy", "eval_on_start", "load_best_model_at_end"} & given.keys()
    if asked and silent and not script.evaluates_by_hand and not builder.has_remark("held-out-unused"):
        note = (
            f"The trainer is given rows to evaluate on, and {' and '.join(asked)}, but no eval_strategy, which is no "
            'by itself: nothing is ever evaluated. Set eval_strategy="steps".'
        )
        builder.remark("held-out-unused", None, note, "training.eval_strategy")


_SAVES = re.compile(
    r"(?i)save|push_to_hub|upload|export|hub_model_id|state_dict|callbacks|serializ|dump|log_model|log_artifact|register|persist"
)
_SAVES_NOTHING = re.compile(
    r"save_(?:strategy|steps|total_limit|only_model|safetensors|on_each_node|embedding_layers)|modules_to_save"
)


def _nothing_saved(script: TrainingScript, builder: SetupBuilder) -> None:
    """No checkpoints, and nothing in the script that could write what was trained."""
    if builder.value("training.save_strategy") != "no" or (builder.source.file or "").endswith(".ipynb"):
        return
    if not _SAVES.search(_SAVES_NOTHING.sub("", script.code)) and not _hands_on(script):
        note = (
            'save_strategy is "no", and the script saves nothing after the training: what is trained is gone when it '
            "ends."
        )
        builder.remark("nothing-saved", None, note, "training.save_strategy")


def _hands_on(script: TrainingScript) -> bool:
    """Whether something is given, after the training, to a function that was not read."""
    trained = max((node.lineno for _, node in _named(script, "train")), default=0)
    known = {node.name for _, node in script.nodes(ast.FunctionDef)} | {
        node.name for _, node in script.nodes(ast.ClassDef)
    }
    return any(
        source is script.sources[0]
        and node.lineno > trained
        and isinstance(node.func, ast.Name)
        and node.func.id not in known
        and not hasattr(builtins, node.func.id)
        and any(isinstance(each, (ast.Name, ast.Attribute)) for each in node.args)
        for source, node in script.nodes(ast.Call)
    )


def _reloaded_without_tokens(script: TrainingScript, builder: SetupBuilder) -> None:
    """Embeddings that were resized are stored with the adapter, and go into no base of the old size.

    Source: peft/utils/save_and_load.py, save_embedding_layers="auto".
    """
    resized = next((step for step in _sure(script) if step.kind == "change" and step.call.maker == "resize"), None)
    if resized is None or resized.call.node is None or "save_embedding_layers" in script.code:
        return
    if not re.search(r"add_(?:special_)?tokens\(", script.code):  # of the size that they had, nothing is stored
        return
    trained = max((node.lineno for _, node in _named(script, "train")), default=None)
    if trained is None:
        return
    first = {
        ast.unparse(node.args[0])
        for _, node in _named(script, "from_pretrained")
        if node.args and node.lineno < trained
    }
    bases = {
        ast.unparse(node.targets[0]): node
        for node in builder.source.nodes
        if isinstance(node, ast.Assign)
        and node.lineno > trained
        and isinstance(node.value, ast.Call)
        and re.match(r"AutoModel\w*\.from_pretrained$", ast.unparse(node.value.func))
        and node.value.args
        and ast.unparse(node.value.args[0]) in first
    }
    again = {
        ast.unparse(node.func.value) for _, node in _named(script, "resize_token_embeddings") if node.lineno > trained
    }
    for _, node in _named(script, "from_pretrained"):
        name = ast.unparse(node.args[0]) if node.args else ""
        loads = ast.unparse(node.func.value).startswith("PeftModel")
        if loads and node.lineno > trained and name in bases and name not in again and bases[name].lineno < node.lineno:
            note = (
                f"PEFT stops: the embeddings are resized in {builder.source.where(resized.call.node)} and stored with "
                f"the adapter, and {builder.source.where(node)} loads it onto a base that was read again and not "
                "resized (size mismatch). Call resize_token_embeddings on that base first."
            )
            builder.refused("reloaded-without-tokens", note, "lora.saved", node=node)
            return


def _named(script: TrainingScript, method: str) -> Iterator[tuple[ast.Attribute, Any]]:
    """Calls of a method in the script's own file, where they stand in the order in which they are run."""
    for source, node in script.nodes(ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == method and source is script.sources[0]:
            yield node.func, node


def _rate_as_text(script: TrainingScript, builder: SetupBuilder) -> None:
    """A rate that the trainer's arguments take as it is, and torch's optimizer compares with 0."""
    arguments = script.arguments()
    value = arguments.arguments.get("learning_rate") if isinstance(arguments, Made) else None
    if not isinstance(value, Known) or not isinstance(value.data, str) or _converts(script):
        return
    try:
        float(value.data)
    except ValueError:
        return
    note = (
        f"transformers stops: learning_rate is the text {value.data}, not a number, and the optimizer compares it with "
        "0. In YAML a number like 2e-4 needs a dot: 2.0e-4."
    )
    builder.refused("rate-as-text", note, "training.learning_rate")


def _converts(script: TrainingScript) -> bool:
    """True where something may turn the texts of a file into numbers."""
    return re.search(r"(?i)omegaconf|hydra|pydantic|ruamel|\bfire\b", script.code) is not None


def _own_reference(script: TrainingScript, builder: SetupBuilder) -> None:
    """TRL refuses a reference that is the very model that trains, for it would move along."""
    reference, model = script.given("ref_model", 1), script.given("model", 0)
    trainer = script.trainer
    compares = trainer is not None and trainer.maker in _COMPARES
    if compares and isinstance(reference, Model) and isinstance(model, Model) and reference.node is model.node:
        note = (
            "TRL stops: ref_model is the model itself. Leave ref_model out: with an adapter the reference is the same "
            "model with the adapter switched off."
        )
        builder.refused("reference-is-the-model", note, "training.ref_model")


def _reloaded_elsewhere(script: TrainingScript, builder: SetupBuilder) -> None:
    """An adapter with a name of its own is saved in a folder of that name; a load of the folder above finds none."""
    names = [
        name.data
        for step in _sure(script)
        if step.kind == "attach"
        and isinstance(name := argument(step.call, "adapter_name", 2), Known)
        and isinstance(name.data, str)
    ]
    if not names or names[-1] == "default":
        return
    if "selected_adapters" in script.code:
        return
    saved: set[str] = set()
    for source, node in script.nodes(ast.Call):
        called = node.func
        if not isinstance(called, ast.Attribute):
            continue
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if called.attr in ("save_pretrained", "save_model"):
            saved |= {str(PurePosixPath(each)) for each in texts[:1]}
        elif called.attr == "from_pretrained" and ast.unparse(called.value).endswith(
            ("PeftModel", "PeftModelForCausalLM", "AutoPeftModelForCausalLM")
        ):
            loaded = next((each for each in texts if str(PurePosixPath(each)) in saved), None)
            if loaded is not None:
                note = (
                    f"The adapter is called {names[-1]}, so that PEFT saves it in {loaded}/{names[-1]}, and "
                    f"{source.where(node)} loads it from {loaded}, where no adapter_config.json is."
                )
                builder.remark("adapter-saved-below", node, note, "lora.saved")
                return


def _from_config(script: TrainingScript, builder: SetupBuilder) -> None:
    """``AutoModelForCausalLM.from_config`` makes a model of random weights, in no 4 bits."""
    if script.trainer is None:
        return
    called_as = [ast.unparse(node.func) for _, node in script.nodes(ast.Call) if isinstance(node.func, ast.Attribute)]
    loads = any(each.endswith(".from_pretrained") and "Model" in each for each in called_as)
    for source, node in script.nodes(ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in ("from_config", "_from_config") and not loads:
            if not ast.unparse(called.value).startswith("AutoModel") or "load_state_dict" in source.code:
                continue
            note = (
                f"{ast.unparse(called)} in {source.where(node)} makes the model of its config alone: its weights are "
                "random and in no 4 bits, and an adapter on them learns nothing of use. Load it with from_pretrained."
            )
            builder.remark("base-of-random-weights", node, note, "model.name_or_path")
            return


# -- loops of the script's own


def _loops(script: TrainingScript, builder: SetupBuilder) -> None:
    for source, outer in script.nodes(ast.For):
        inner = [node for node in ast.walk(outer) if isinstance(node, ast.For) and node is not outer]
        if _clipped_late(outer, builder) or _cut_off(outer, builder):
            return
        if len(inner) == 1 and _short_schedule(outer, inner[0], source.tree, builder):
            return


def _calls(body: list[ast.stmt]) -> list[tuple[str, ast.Call]]:
    """The calls that stand in a body, under no condition, in their order."""
    found = []
    for statement in body:
        for part in statement.body if isinstance(statement, ast.With) else [statement]:
            if isinstance(part, ast.Expr | ast.Assign) and isinstance(part.value, ast.Call):
                found.append((ast.unparse(part.value.func), part.value))
    return found


def _clipped_late(loop: ast.For, builder: SetupBuilder) -> bool:
    """Gradients that are clipped when the optimizer has read them already, and cleared before it reads them again."""
    names = [(name.rpartition(".")[2], name, call) for name, call in _calls(loop.body)]
    steps = [n for n, (last, name, _) in enumerate(names) if last == "step" and "optim" in name.lower()]
    clips = [n for n, (last, _, _) in enumerate(names) if last in ("clip_grad_norm_", "clip_grad_value_")]
    backward = [n for n, (last, _, _) in enumerate(names) if last == "backward"]
    clears = [n for n, (last, _, _) in enumerate(names) if last == "zero_grad"]
    if not (len(steps) == len(clips) == len(backward) == len(clears) == 1):
        return False
    if not (backward[0] < steps[0] < clips[0]) or steps[0] < clears[0] < clips[0]:
        return False
    node = names[clips[0]][2]
    note = (
        f"{names[clips[0]][1]} in {builder.source.where(node)} comes after the optimizer's step: the gradients are "
        "clipped when they have been used already."
    )
    builder.remark("gradients-clipped-late", node, note, "training.max_grad_norm")
    return True


def _cut_off(loop: ast.For, builder: SetupBuilder) -> bool:
    """A loss that nothing can go back from: computed without gradients, detached, or made a plain number."""
    backward = [call for _, call in _calls(loop.body) if ast.unparse(call.func).endswith(".backward")]
    if len(backward) != 1 or not isinstance(backward[0].func, ast.Attribute):
        return False
    name = ast.unparse(backward[0].func.value)
    if name == "accelerator" and backward[0].args:
        name = ast.unparse(backward[0].args[0])
    for statement in loop.body:
        if isinstance(statement, ast.With) and any(
            re.search(r"no_grad\(\)|inference_mode\(\)", ast.unparse(item.context_expr)) for item in statement.items
        ):
            made = {
                ast.unparse(t) for each in ast.walk(statement) if isinstance(each, ast.Assign) for t in each.targets
            }
            uses = next((s for s in loop.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == name), None)
            source = ast.unparse(uses.value).partition(".")[0] if uses is not None else name
            if (name in made or source in made) and statement.lineno < backward[0].lineno:
                note = (
                    f"The forward pass in {builder.source.where(statement)} runs without gradients, and backward of "
                    "its loss stops: element 0 of tensors does not require grad."
                )
                builder.refused("loss-without-gradient", note, "training.loop")
                return True
        value = statement.value if isinstance(statement, ast.Assign) else None
        ends = isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr
        if ends in ("detach", "item") and ast.unparse(statement.targets[0]) == name:  # type: ignore[attr-defined]
            note = (
                f"The loss is cut off from the model by .{ends}() in {builder.source.where(statement)}, and backward "
                "of it stops: it has no gradient."
            )
            builder.refused("loss-without-gradient", note, "training.loop")
            return True
    return False


def _short_schedule(outer: ast.For, inner: ast.For, tree: ast.AST, builder: SetupBuilder) -> bool:
    """A schedule as long as one epoch, stepped with each batch of several: its rate is 0 from the second epoch on."""
    epochs = _range(outer.iter)
    loader = _enumerated(inner.iter)
    if epochs is None or loader is None:
        return False
    stepped = [name for name, _ in _calls(inner.body) if name.endswith(".step") and "sched" in name.lower()]
    if len(stepped) != 1:
        return False
    holder = stepped[0].rpartition(".")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != holder:
            continue
        call = node.value
        if not isinstance(call, ast.Call) or ast.unparse(call.func).rpartition(".")[2] not in _COUNTED_SCHEDULES:
            continue
        total = keyword(call, "num_training_steps")
        if total is None and len(call.args) >= 3:
            total = call.args[2]
        count = _number(epochs, tree)
        if total is not None and ast.unparse(total) == f"len({loader})" and count is not None and count > 1:
            note = (
                f"The schedule of {builder.source.where(call)} is len({loader}) steps long, which is one epoch, and is "
                f"stepped with each batch of {count}: the rate has come to its end after the first."
            )
            builder.remark("schedule-of-one-epoch", call, note, "training.lr_scheduler_type")
            return True
    return False


def _range(node: ast.expr) -> ast.expr | None:
    called = isinstance(node, ast.Call) and ast.unparse(node.func) in ("range", "trange") and len(node.args) == 1
    return node.args[0] if called else None  # type: ignore[attr-defined]


def _enumerated(node: ast.expr) -> str | None:
    """The name of what a loop goes over, behind enumerate and tqdm."""
    while (
        isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in ("enumerate", "tqdm")
    ):
        node = node.args[0]
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else None


def _number(node: ast.expr, tree: ast.AST) -> int | None:
    """A whole number that is written out, or kept under a name that is given one number only."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) else None
    if not isinstance(node, ast.Name):
        return None
    values = [
        each.value
        for each in ast.walk(tree)
        if isinstance(each, ast.Assign) and any(ast.unparse(target) == node.id for target in each.targets)
    ]
    return _number(values[0], ast.Module([], [])) if len(values) == 1 else None
