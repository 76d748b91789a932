"""What a script hands its trainer that it stops at, or that it does not find again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .data_path import keyword
from .setup_builder import SetupBuilder
from .source import Source
from .training import METHODS
from .training_script import TrainingScript, adapter_name
from .values import Function, Known, Listing, Made

_SAME_SPLITS = re.compile(
    r"(\w+)\.(map|filter|shuffle|remove_columns|rename_columns?|cast_column|with_format|select_columns)$"
)
"""Methods of a DatasetDict that return one of the same splits."""
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")
_LOADED = re.compile(r"ForCausalLM\.from_pretrained$")
_TAKES_A_MODEL = ("get_peft_model", "PeftModel.from_pretrained", "PeftModelForCausalLM.from_pretrained")
_LAYER = re.compile(r"(^|\.)(Linear|Embedding|Sequential)$")
_HEADS = {"lm_head", "score", "classifier", "embed_out", "embed_tokens"}
"""Parts of transformers' models that scripts put another layer in place of."""
_SHIFTED = re.compile(r"\[[^\]]*(\b1:|:-1|, ?-\d)|\.roll\(|shift|\[\.\.\.,")


def note_given_data(script: TrainingScript, builder: SetupBuilder) -> None:
    """A split that a data set made in the script does not have: ``load_dataset("json", …)["validation"]``."""
    for source in script.sources:
        splits = _splits_of(source)
        if not splits:
            continue
        perhaps = {
            id(inner)
            for node in source.nodes
            if isinstance(node, ast.If | ast.IfExp | ast.Try)
            for inner in ast.walk(node)
        }
        for node in source.nodes:
            if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name) or id(node) in perhaps:
                continue
            there, asked = splits.get(node.value.id), node.slice
            if there is None or not isinstance(asked, ast.Constant) or not isinstance(asked.value, str):
                continue
            if asked.value not in there:
                note = (
                    f"The script stops (KeyError): {source.where(node)} asks {node.value.id} for the split "
                    f"{asked.value}, and it has {' and '.join(sorted(there, reverse=True))} alone."
                )
                builder.refused("split-not-there", note, "data.splits", node=node)
                return


def _splits_of(source: Source) -> dict[str, set[str]]:
    """Names that hold a DatasetDict from the beginning of the script to its end, with its splits."""
    found: dict[str, set[str]] = {}
    lost: set[str] = set()
    for node in source.nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    splits = _splits(node.value)
                    kept = isinstance(node.value, ast.Call) and _SAME_SPLITS.match(ast.unparse(node.value.func))
                    if splits is not None and target.id not in found:
                        found[target.id] = splits
                    elif not (kept and kept[1] == target.id):
                        lost.add(target.id)
                elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                    lost.add(target.value.id)
                else:
                    lost |= {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            lost |= {each.id for each in ast.walk(node.comparators[0]) if isinstance(each, ast.Name)}
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("update", "pop")
        ):
            lost |= {each.id for each in ast.walk(node.func) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.arg):
            lost.add(node.arg)
        elif isinstance(node, ast.For):
            lost |= {each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)}
    return {name: splits for name, splits in found.items() if name not in lost}


def _splits(made: ast.expr) -> set[str] | None:
    """The splits of what a call returns; None where that is not known, or it is no dict of them."""
    if not isinstance(made, ast.Call):
        return None
    name = ast.unparse(made.func).rpartition(".")[2]
    if name == "train_test_split":
        return {"train", "test"}
    given = {each.arg: each.value for each in made.keywords}
    first = made.args[0].value if made.args and isinstance(made.args[0], ast.Constant) else None
    files = given.get("data_files")
    if name != "load_dataset" or first not in ("json", "csv", "parquet", "text") or {"split", None} & given.keys():
        return None
    if isinstance(files, ast.Dict):
        keys = {each.value for each in files.keys if isinstance(each, ast.Constant) and isinstance(each.value, str)}
        return keys if len(keys) == len(files.keys) else None
    listed = files.elts if isinstance(files, ast.List) else [files]
    texts = all(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in listed)
    return {"train"} if texts and listed else None


def note_inner_model(script: TrainingScript, builder: SetupBuilder) -> None:
    """``PeftModel.from_pretrained(base.model, …)``: an adapter of the language model on the decoder in it."""
    if builder.value("lora.task_type") != "CAUSAL_LM":
        return
    for source, node in script.nodes(ast.Call):
        given = node.args[0] if node.args else None
        if not isinstance(given, ast.Attribute) or given.attr != "model":
            continue
        called, whole = ast.unparse(node.func), ast.unparse(given.value)
        if called.endswith(_TAKES_A_MODEL) and whole in _loaded_in(source):
            note = (
                f"PEFT stops (no attribute prepare_inputs_for_generation): {called} in {source.where(node)} is given "
                f"{ast.unparse(given)}, the decoder inside of the language model, and the adapter is one of the whole "
                f"model. Give it {whole}."
            )
            builder.refused("adapter-on-the-inner-model", note, "model.adapter", node=node)
            return


def _loaded_in(source: Source) -> set[str]:
    """Names that a causal language model is loaded under."""
    return {
        target.id
        for node in source.nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and _LOADED.search(ast.unparse(node.value.func))
    }


def note_handed(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    trainer = script.trainer
    if script.is_unsloth or trainer is None or METHODS.get(trainer.maker) is None:
        return
    _wrapped(script, builder)
    _formatter(script, builder)
    _reward_weights(script, builder)
    _language_model_as_reward(script, builder)
    _resumes_from_saved(script, builder)
    _best_of_a_named_adapter(script, builder)
    _metrics_not_shifted(script, builder)
    _part_replaced(script, builder)


def _wrapped(script: TrainingScript, builder: SetupBuilder) -> None:
    """A 4-bit model behind ``torch.compile`` or ``DataParallel``: Trainer sees the wrapper, not the adapter in it."""
    step = next((step for step in script.steps if step.kind == "wrapped" and step.sure), None)
    if step is None or not script.whole or not builder.value("quantization.load_in_4bit"):
        return
    if not _hands_over(script, step.call.node):
        return
    where = builder.source.where(step.call.node)
    if step.call.maker == "compile":
        note = (
            f"transformers stops: the 4-bit model is compiled in {where}, and the trainer does not take the wrapper "
            "of torch.compile around a quantized model. Hand over the model itself; torch_compile of the trainer's "
            "arguments compiles it."
        )
        builder.refused("compiled-before-trainer", note, "model.wrapped", node=step.call.node)
    else:
        note = (
            f"transformers stops: the model is wrapped in {step.call.maker} in {where}, whose forward names "
            "no arguments, so that every column is taken off the batch; save_pretrained is missing as well. The "
            "trainer wraps the model by itself."
        )
        builder.refused("wrapped-before-trainer", note, "model.wrapped", node=step.call.node)


def _hands_over(script: TrainingScript, wrapper: ast.AST | None) -> bool:
    """Whether the trainer is given what this call returns, by itself or by a name that it was assigned to."""
    trainer = script.trainer.node if script.trainer is not None else None
    if not isinstance(trainer, ast.Call) or wrapper is None:
        return False
    given = keyword(trainer, "model")
    given = given if given is not None else next(iter(trainer.args), None)
    names = {
        target.id
        for _, node in script.nodes(ast.Assign)
        if node.value is wrapper
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return given is wrapper or (isinstance(given, ast.Name) and given.id in names)


def _formatter(script: TrainingScript, builder: SetupBuilder) -> None:
    """TRL: a formatting function makes one text of prompt and completion, in which no completion can be found."""
    arguments, trainer = script.arguments(), script.trainer
    asked = arguments.arguments.get("completion_only_loss") if isinstance(arguments, Made) else None
    given = script.given("formatting_func")
    if trainer is None or trainer.maker != "SFTTrainer" or not isinstance(asked, Known) or asked.data is not True:
        return
    if isinstance(given, Function):
        note = (
            "TRL stops: formatting_func makes one text of each row, in which completion_only_loss=True finds no "
            "completion. Give the rows as prompt and completion, or leave completion_only_loss out."
        )
        builder.refused("formatter-and-completion-only", note, "training.completion_only_loss", node=asked.node)


def _reward_weights(script: TrainingScript, builder: SetupBuilder) -> None:
    """One weight for each reward function."""
    arguments, functions = script.arguments(), script.given("reward_funcs", 1)
    weights = arguments.arguments.get("reward_weights") if isinstance(arguments, Made) else None
    if not isinstance(weights, Listing) or not weights.exact or functions is None:
        return
    if isinstance(functions, Listing):
        number = len(functions.items) if functions.exact else None
    else:
        number = 1 if isinstance(functions, Function | Known) else None
    if number is not None and number != len(weights.items):
        note = (
            f"TRL stops: reward_weights has {len(weights.items)} weights, and reward_funcs {number} "
            f"{'function' if number == 1 else 'functions'}."
        )
        builder.refused("weights-of-rewards", note, "training.reward_weights", node=weights.node)


def _language_model_as_reward(script: TrainingScript, builder: SetupBuilder) -> None:
    load = script.model.load if script.model is not None else None
    if script.trainer is None or script.trainer.maker != "RewardTrainer" or load is None or not script.whole:
        return
    if load.maker.endswith(_LANGUAGE_MODELS) and load.maker.startswith("AutoModel"):
        note = (
            f"TRL stops: the model is loaded as {load.maker}, and a reward model is a classifier with one output. Load "
            "it with AutoModelForSequenceClassification.from_pretrained(…, num_labels=1)."
        )
        builder.refused("reward-of-a-language-model", note, "model.model_class", node=load.node)


def _resumes_from_saved(script: TrainingScript, builder: SetupBuilder) -> None:
    """``save_model("x")`` and then ``train(resume_from_checkpoint="x")``: it holds no state of a training."""
    saved: set[str] = set()
    for source, call in _method_calls(script):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if name in ("save_model", "save_pretrained") and isinstance(first, str):
            saved.add(first.rstrip("/"))
        elif name == "save_state":
            return
        elif name == "train":
            asked = keyword(call, "resume_from_checkpoint")
            folder = asked.value if isinstance(asked, ast.Constant) else None
            if isinstance(folder, str) and folder.rstrip("/") in saved and "checkpoint-" not in folder:
                note = (
                    f"transformers stops: {source.where(call)} goes on from {folder}, which holds what the script "
                    "saved and no trainer_state.json. Name a checkpoint-N of output_dir, or load the adapter with "
                    "PeftModel.from_pretrained(…, is_trainable=True)."
                )
                builder.refused("resumed-from-saved", note, "training.resume_from_checkpoint", node=call)
                return


def _method_calls(script: TrainingScript) -> Iterator[tuple[Source, ast.Call]]:
    for source in script.sources:
        calls = [each for each in source.nodes if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)]
        for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
            yield source, call


def _part_replaced(script: TrainingScript, builder: SetupBuilder) -> None:
    """``model.lm_head = nn.Linear(…)`` behind get_peft_model: outside of what PEFT trains and saves."""
    attached = False
    assigned = {
        id(target): node
        for source in script.sources
        for node in source.nodes
        if isinstance(node, ast.Assign)
        for target in (node, *node.targets)
    }
    for step in script.steps:
        attached = attached or (step.kind in ("attach", "load-adapter") and step.sure)
        node = assigned.get(id(step.call.node))
        if not attached or step.kind != "unfollowed" or step.call.maker != "module-replaced":
            continue
        target, made = (node.targets[0], node.value) if node is not None else (None, None)
        if (
            not isinstance(target, ast.Attribute)
            or not isinstance(made, ast.Call)
            or not _LAYER.search(ast.unparse(made.func))
            or (isinstance(target.value, ast.Name) and target.attr not in _HEADS)
        ):
            continue
        assert node is not None
        where = builder.source.where(node)
        if isinstance(target.value, ast.Name):
            what = (
                f"sets {ast.unparse(target)} on the PeftModel itself, whose forward goes through the base: "
                "the new layer is never used, and the old one stays"
            )
        else:
            what = (
                f"replaces {ast.unparse(target)} after the adapter was attached: the new layer starts at random, "
                "trains in full beside the adapter, and is not saved with it, because it is not in modules_to_save"
            )
        note = f"{where[:1].upper()}{where[1:]} {what}."
        builder.remark("part-replaced-after-attach", node, note, "lora.replaced")
        return


def _best_of_a_named_adapter(script: TrainingScript, builder: SetupBuilder) -> None:
    """A PEFT adapter that is not called default lies in a folder of its name, where Trainer does not look."""
    if not script.whole or builder.value("training.load_best_model_at_end") is not True:
        return
    attached = [step for step in script.steps if step.kind in ("attach", "load-adapter") and step.sure]
    if len(attached) != 1 or any(step.kind == "merge" for step in script.steps):
        return
    name = adapter_name(attached[0])
    if isinstance(name, str) and name != "default":
        note = (
            f"The adapter is called {name}, so that each checkpoint holds it in a folder {name}, where "
            "load_best_model_at_end does not look: the model ends with the last weights, not with the best."
        )
        builder.remark("best-adapter-not-loaded", attached[0].call.node, note, "training.load_best_model_at_end")


def _metrics_not_shifted(script: TrainingScript, builder: SetupBuilder) -> None:
    """``argmax(-1) == labels`` of a causal model, with no shift anywhere in the code that it goes through."""
    trainer, load = script.trainer, script.model.load if script.model is not None else None
    if trainer is None or load is None or not load.maker.endswith("ForCausalLM"):
        return
    given = [script.given(name) for name in ("compute_metrics", "preprocess_logits_for_metrics")]
    metrics, before = (each.body if isinstance(each, Function) else None for each in given)
    if not isinstance(metrics, ast.FunctionDef) or (given[1] is not None and before is None):
        return
    text = "\n".join(ast.unparse(node) for node in (metrics, before) if node is not None)
    own = {node.name for _, node in script.nodes(ast.FunctionDef)} - {metrics.name}
    called = {ast.unparse(each.func).rpartition(".")[2] for each in ast.walk(metrics) if isinstance(each, ast.Call)}
    # a function of the script may do the shift; what decodes goes by texts
    if "argmax" not in text or _SHIFTED.search(text) or called & {*own, "batch_decode", "decode"}:
        return
    predictions = _from_predictions(metrics)
    for node in ast.walk(metrics):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            sides = (ast.unparse(node.left), ast.unparse(node.comparators[0]))
            found = [any(re.search(rf"\b{re.escape(name)}\b", side) for name in predictions) for side in sides]
            labels = [re.search(r"label|references", side) is not None for side in sides]
            if any(found[n] and labels[1 - n] and not labels[n] for n in (0, 1)):
                note = (
                    f"{metrics.name} in {builder.source.where(metrics)} compares the predictions with labels of the "
                    "same place, and a causal model's predictions at a place are of the next token: the metric is "
                    "wrong."
                )
                builder.remark("metrics-not-shifted", node, note, "training.compute_metrics")
                return


def _from_predictions(function: ast.FunctionDef) -> set[str]:
    """Names that hold the argmax, or the predictions that preprocess_logits_for_metrics made one of."""
    names: set[str] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple):
            pairs = (
                list(zip(target.elts, value.elts, strict=True))
                if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)
                else [(target.elts[0], value)]
            )
        for to, what in pairs:
            text = ast.unparse(what)
            if isinstance(to, ast.Name) and re.search(r"argmax|predictions|logits|^\w+$|\[0\]", text):
                names.add(to.id)
    return {name for name in names if "label" not in name and "mask" not in name}
