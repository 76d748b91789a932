"""Slips in a training or evaluation loop of the script's own that let it run to its end: an optimizer that is made for
each batch, a model that stays in evaluation mode, a loss that is added up with all that it was computed from."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .setup_builder import SetupBuilder
from .source import Source
from .training_script import TrainingScript

_GRADIENTS_OFF = re.compile(r"no_grad|inference_mode|set_grad_enabled")
_OPTIMIZER = re.compile(r"(^|\.)(optim\.\w+|\w*Adam\w*|Lion\w*|SGD\w*|Adafactor)$")
_ENDS_OF_LOSS = (".loss", "['loss']")
_DETACHES = re.compile(r"\.(item|detach)\(|float\(")


def note_loops(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down what is certain of it."""
    if script.trainer is not None:
        return
    own_forward = any(function.name == "forward" for _, function in script.nodes(ast.FunctionDef))
    for source in script.sources:
        for loop in source.nodes:
            if not isinstance(loop, ast.For | ast.While):
                continue
            if any(isinstance(node, ast.For | ast.While) for node in ast.walk(loop) if node is not loop):
                _left_in_eval_mode(source, loop, builder)
                continue
            trains = any(call.endswith("backward") for call in _called(loop))
            if trains:
                if not own_forward:
                    _no_labels(source, loop, builder)
                _optimizer_anew(source, loop, builder)
            _loss_kept(source, loop, trains, builder)


def _called(node: ast.AST) -> set[str]:
    return {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}


def _no_labels(source: Source, loop: ast.For | ast.While, builder: SetupBuilder) -> None:
    """``model(input_ids=…).loss`` without labels: transformers computes no loss, and its ``loss`` is None."""
    without: dict[str, ast.Call] = {}
    for statement in _flat(loop.body):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name, value = statement.targets[0].id, statement.value
        asked = isinstance(value, ast.Attribute) and value.attr == "loss"
        made = value.value if asked and isinstance(value, ast.Attribute) else value
        call = made if isinstance(made, ast.Call) and _names_columns(made) else None
        if asked and isinstance(made, ast.Name):
            call = without.get(made.id)
        if call is None:
            without.pop(name, None)
        elif not asked:
            without[name] = call
        elif f"{name}.backward" in _called(loop) or "accelerator.backward" in _called(loop):
            note = (
                f"The script stops ('NoneType' object has no attribute 'backward'): {source.where(call)} calls the "
                "model without labels, and without them it computes no loss. Pass labels."
            )
            builder.refused("model-without-labels", note, "training.labels", node=call)
            return


def _names_columns(call: ast.Call) -> bool:
    """True of ``model(input_ids=…, …)`` that is given no labels."""
    given = {each.arg for each in call.keywords}
    own = re.fullmatch(r"(self\.)?(\w+_)?model", ast.unparse(call.func)) is not None
    return own and "input_ids" in given and not call.args and not {None, "labels"} & given


def _optimizer_anew(source: Source, loop: ast.For | ast.While, builder: SetupBuilder) -> None:
    """An optimizer that is made for each batch has no memory: every step is its first."""
    for statement in loop.body:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        if not _OPTIMIZER.search(ast.unparse(statement.value.func)) or builder.has_remark("optimizer-made-anew"):
            continue
        if f"{ast.unparse(statement.targets[0])}.step" in _called(loop):
            note = (
                f"The optimizer of {source.where(statement)} is made anew in each round of the loop that it steps in, "
                "so that it has no averages of the rounds before: every step is its first."
            )
            builder.remark("optimizer-made-anew", statement, note, "training.optim")


def _left_in_eval_mode(source: Source, loop: ast.For | ast.While, builder: SetupBuilder) -> None:
    """``model.eval()`` behind an epoch's batches, and no ``model.train()`` in the epoch: the next one trains so."""
    called = _called(loop)
    if any(name.rpartition(".")[2] == "train" for name in called) or _rounds(loop) == 1:
        return
    trained = False
    for statement in loop.body:
        if isinstance(statement, ast.For | ast.While):
            trained = trained or any(name.endswith("backward") for name in _called(statement))
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not trained or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr == "eval" and not _handed_on(loop, ast.unparse(call.func.value)):
            note = (
                f"{ast.unparse(statement)} in {source.where(statement)} comes after the batches of an epoch, and "
                "nothing in the epoch calls train()."
            )
            builder.remark("left-in-eval-mode", statement, note, "training.loop")
            return


def _handed_on(loop: ast.AST, name: str) -> bool:
    """True where a function of the script is given it, and may set its mode."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and any(ast.unparse(each) == name for each in node.args)
        for node in ast.walk(loop)
    )


def _rounds(loop: ast.For | ast.While) -> int | None:
    made = loop.iter if isinstance(loop, ast.For) else None
    if isinstance(made, ast.Call) and ast.unparse(made.func) in ("range", "trange") and len(made.args) == 1:
        number = made.args[0]
        return number.value if isinstance(number, ast.Constant) and isinstance(number.value, int) else None
    return None


def _loss_kept(source: Source, loop: ast.For | ast.While, trains: bool, builder: SetupBuilder) -> None:
    """``total += loss`` of a loss that is still tied to what it was computed from."""
    if builder.has_remark("loss-kept-with-graph") or (not trains and not _keeps_graphs(source, loop)):
        return
    tied: set[str] = set()
    for statement in _flat(loop.body):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            words, name = ast.unparse(statement.value), statement.targets[0].id
            if words.endswith(_ENDS_OF_LOSS):
                tied.add(name)
            elif name in tied and _DETACHES.search(words):
                tied.discard(name)
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
            words, total = ast.unparse(statement.value), ast.unparse(statement.target)
            if (words in tied or words.endswith(_ENDS_OF_LOSS)) and not _goes_back(source, total):
                held = (
                    "which holds on to a piece of the graph of every step"
                    if trains
                    else "with gradients on, so that it holds every activation of every batch"
                )
                note = f"{ast.unparse(statement)} in {source.where(statement)} adds up the loss as a tensor, {held}."
                builder.remark("loss-kept-with-graph", statement, note, "training.loop")
                return


def _goes_back(source: Source, total: str) -> bool:
    """True where the sum, or what is made of it, is what backward starts from."""
    of_sum = re.compile(rf"\b{re.escape(total)}\b")
    names = [total]
    for node in source.nodes:
        if isinstance(node, ast.Assign) and of_sum.search(ast.unparse(node.value)):
            names += [ast.unparse(target) for target in node.targets]
    started = [
        ast.unparse(each)
        for node in source.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("backward")
        for each in (node.func, *node.args)
    ]
    return any(re.search(rf"\b{re.escape(name)}\b", each) for name in names for each in started)


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that always run, those under ``with`` among them."""
    for statement in body:
        if isinstance(statement, ast.With | ast.AsyncWith):
            yield from _flat(statement.body)
        else:
            yield statement


def _keeps_graphs(source: Source, loop: ast.For | ast.While) -> bool:
    """True where the loop runs a model and nothing around it, in it or above it switches gradients off."""
    if not any(re.fullmatch(r"(self\.)?\w*model", name) for name in _called(loop)):
        return False
    for node in source.nodes:
        if isinstance(node, ast.With):
            off = any(_GRADIENTS_OFF.search(ast.unparse(item.context_expr)) for item in node.items)
        elif isinstance(node, ast.FunctionDef):
            off = any(_GRADIENTS_OFF.search(ast.unparse(each)) for each in node.decorator_list)
        else:
            continue
        if off and (_holds(node, loop) or _holds(loop, node)):
            return False
    return not re.search(r"set_grad_enabled\(|enable_grad|\bmodel\.requires_grad_\(False", source.code)


def _holds(outer: ast.AST, inner: ast.AST) -> bool:
    return any(each is inner for each in ast.walk(outer))
