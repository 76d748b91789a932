"""Functions of the script's own that a library calls: whether they take what they are called with, seen in their head.

The calls are those of transformers (``CallbackHandler.call_event``) and of TRL's trainers
that generate (``GRPOTrainer._calculate_rewards``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .setup_builder import SetupBuilder
from .training_script import TrainingScript
from .values import Function, Listing, Value

REWARDED = ("GRPOTrainer", "RLOOTrainer")
_HANDED = ("prompts", "completions", "completion_ids")
"""What a reward function is always called with, by keyword; with the columns of the rows and the trainer's state."""
_OF_TRAINER = ("trainer_state", "log_extra", "log_metric", "environments", "self")
_NUMBERS = {"sum", "float", "int", "len", "max", "min", "round", "abs"}
_EVENTS = {
    "on_init_end", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_step_begin",
    "on_pre_optimizer_step", "on_optimizer_step", "on_substep_end", "on_step_end", "on_evaluate", "on_predict",
    "on_save", "on_log", "on_prediction_step",
}  # fmt: skip


def note_own_functions(script: TrainingScript, builder: SetupBuilder) -> None:
    """Write down those that stop at the first call."""
    if script.trainer is None:
        return
    _callbacks(script, builder)
    if script.trainer.maker in REWARDED:
        functions = list(_rewards(script.given("reward_funcs", 1)))
        for function in functions:
            _reward(function, builder)
        _constant_rewards(script, functions, builder)


def asked_columns(script: TrainingScript) -> dict[str, list[str]]:
    """By reward function the arguments that it cannot do without and that only a column of the rows can bring."""
    if script.trainer is None or script.trainer.maker not in REWARDED:
        return {}
    found = {}
    for function in _rewards(script.given("reward_funcs", 1)):
        arguments = function.args
        places = [*arguments.posonlyargs, *arguments.args]
        needed = places[: len(places) - len(arguments.defaults)]
        needed += [one for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value is None]
        found[function.name] = [each.arg for each in needed if each.arg not in (*_HANDED, *_OF_TRAINER)]
    return {name: columns for name, columns in found.items() if columns}


def _callbacks(script: TrainingScript, builder: SetupBuilder) -> None:
    """Every event comes with the model, the optimizer and more, by keyword."""
    for source, owner in script.nodes(ast.ClassDef):
        if len(owner.bases) != 1:
            continue
        if not ast.unparse(owner.bases[0]).endswith("TrainerCallback") or f"{owner.name}(" not in source.code:
            continue
        for method in owner.body:
            if isinstance(method, ast.FunctionDef) and method.name in _EVENTS and method.args.kwarg is None:
                where = source.where(method)
                note = (
                    f"transformers stops at the first {method.name}: {owner.name}.{method.name} in {where} has no "
                    "**kwargs, and every event of a callback is called with the model and more by keyword."
                )
                builder.refused("callback-takes-too-little", note, "training.callbacks")
                return


def _rewards(given: Value | None) -> Iterator[ast.FunctionDef]:
    for value in given.items if isinstance(given, Listing) else [given]:
        if not isinstance(value, Function) or not isinstance(value.body, ast.FunctionDef) or value.bound is not None:
            continue
        if not value.body.decorator_list:  # which may make another function of it
            yield value.body


def _reward(function: ast.FunctionDef, builder: SetupBuilder) -> None:
    arguments = function.args
    named = [each.arg for each in (*arguments.args, *arguments.kwonlyargs)]
    missing = [name for name in _HANDED if name not in named]
    note = None
    if arguments.kwarg is None and missing:
        note = (
            f"TRL stops at the first rewards: the function {function.name} has no **kwargs, and is called with "
            f"{', '.join(_HANDED)} and each column of the rows by keyword; it does not take {missing[0]}."
        )
    elif _gives_a_number(function):
        note = (
            f"TRL stops at the first rewards: the function {function.name} returns one number, where a list with one "
            "for each completion is asked for."
        )
    elif _gives_nothing(function):
        note = (
            f"TRL stops at the first rewards: the function {function.name} returns nothing, where a list with one "
            "number for each completion is asked for."
        )
    if note is not None:
        builder.refused("reward-function-unfit", note, "training.reward_funcs")


def _gives_a_number(function: ast.FunctionDef) -> bool:
    """True where each ``return`` of the function is surely one number."""
    given = [node.value for node in _own(function.body) if isinstance(node, ast.Return)]
    return bool(given) and all(_is_number(value) for value in given)


def _gives_nothing(function: ast.FunctionDef) -> bool:
    nodes = list(_own(function.body))
    given = [node.value for node in nodes if isinstance(node, ast.Return)]
    ends = any(isinstance(node, ast.Yield | ast.YieldFrom | ast.Raise) for node in nodes)
    return not ends and all(
        value is None or (isinstance(value, ast.Constant) and value.value is None) for value in given
    )


def _constant_rewards(script: TrainingScript, functions: list[ast.FunctionDef], builder: SetupBuilder) -> None:
    """Where no function that rewards can tell one completion from another: each gives one number, whatever it is."""
    given = script.given("reward_funcs", 1)
    if isinstance(given, Listing) and not given.exact:
        return
    asked = len(given.items) if isinstance(given, Listing) else 1
    numbers = [_same_for_all(function) for function in functions]
    if numbers and len(numbers) == asked and None not in numbers:
        names = ", ".join(function.name for function in functions)
        told = f"{names} {'gives' if len(numbers) == 1 else 'give'} every completion {', '.join(map(str, numbers))}"
        builder.remark("reward-constant", functions[0], told, "training.reward_funcs")


def _same_for_all(function: ast.FunctionDef) -> str | None:
    """The one number that stands in the list that a function returns; None where it may hold several."""
    nodes = list(_own(function.body))
    given = [node.value for node in nodes if isinstance(node, ast.Return)]
    if len(given) != 1:
        return None
    value = given[0]
    if isinstance(value, ast.Name):
        name = value.id
        calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                 and isinstance(node.func.value, ast.Name) and node.func.value.id == name]  # fmt: skip
        made = [node.value for node in nodes if isinstance(node, ast.Assign)
                and any(isinstance(each, ast.Name) and each.id == name for each in node.targets)]  # fmt: skip
        uses = sum(isinstance(node, ast.Name) and node.id == name for node in nodes)
        if len(made) != 1 or uses != 2 + len(calls):
            return None
        if not calls:
            value = made[0]
        elif isinstance(made[0], ast.List) and not made[0].elts and all(each.func.attr == "append" for each in calls):  # type: ignore[attr-defined]
            return _one_number([each.args[0] for each in calls if each.args])
        else:
            return None
    if isinstance(value, ast.ListComp):
        return _one_number([value.elt])
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult) and isinstance(value.left, ast.List):
        return _one_number(value.left.elts)
    return None


def _one_number(values: list[ast.expr]) -> str | None:
    texts = {ast.unparse(each) for each in values}
    is_number = all(isinstance(each, ast.Constant) and isinstance(each.value, int | float) for each in values)
    return texts.pop() if is_number and len(texts) == 1 else None


def _is_number(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Constant):
        return isinstance(value.value, int | float)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in _NUMBERS
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        return _is_number(value.left) and _is_number(value.right)
    return isinstance(value, ast.IfExp) and _is_number(value.body) and _is_number(value.orelse)


def _own(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What stands in a function itself, not in one that is defined within it."""
    left: list[ast.AST] = list(body)
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            left += ast.iter_child_nodes(node)
