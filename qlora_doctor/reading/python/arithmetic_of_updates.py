"""Two slips of a script's own training code that change how large an update is, seen in its syntax alone."""

from __future__ import annotations

import ast
import re

_ITEMS_IN_BATCH = "num_items_in_batch"
_DIVIDES = re.compile(r"gradient_accumulation_steps|model_accepts_loss_kwargs|loss_is_scaled_for_ga")
_SUMS = re.compile(r"reduction\s*=\s*['\"](?:sum|none)['\"]|\.sum\(")


def loss_fault(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """What is wrong with a Trainer's own compute_loss; None where nothing is, or that cannot be known.

    ``loss-takes-no-count``: it has no argument for the count of tokens that transformers hands over since 4.46, and
    stops. ``loss-ignores-count``: it returns a mean although transformers then does not divide by the accumulation
    (``Trainer.training_step``).
    """
    named = {each.arg for each in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}
    rest = function.args.kwarg.arg if function.args.kwarg is not None else None
    if _ITEMS_IN_BATCH not in named and rest is None:
        return "loss-takes-no-count"
    text = "\n".join(ast.unparse(each) for each in function.body)
    used = {node.id for each in function.body for node in ast.walk(each) if isinstance(node, ast.Name)}
    if _ITEMS_IN_BATCH in used or (rest is not None and rest in used) or _DIVIDES.search(text) or _SUMS.search(text):
        return None
    return "loss-ignores-count"


def takes_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a ``training_step`` has room for the count that Trainer hands over, as its third argument."""
    arguments = function.args
    return arguments.vararg is not None or len(arguments.posonlyargs) + len(arguments.args) >= 4


def scheduler_per_micro_batch(loop: ast.AST) -> ast.Call | None:
    """The step of a scheduler that comes with every micro-batch, where the optimizer steps only with some of them."""
    guarded: set[int] = set()
    waits = False
    for node in ast.walk(loop):
        if not isinstance(node, ast.If) or not any(isinstance(each, ast.Mod) for each in ast.walk(node.test)):
            continue
        inner = [call for each in node.body for call in ast.walk(each) if isinstance(call, ast.Call)]
        if any(_steps(call, "optim") for call in inner):
            waits = True
            guarded.update(map(id, inner))
    if not waits:
        return None
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call)]
    if any(_steps(call, "optim") and id(call) not in guarded for call in calls):
        return None  # it may step with each of them after all
    found = next((call for call in calls if _steps(call, "sched") and id(call) not in guarded), None)
    return found if found is not None and _in_innermost(loop, found, guarded) else None


_STEP_ARGUMENTS = ("num_training_steps", "total_steps", "T_max", "total_iters", "steps_per_epoch")
"""Arguments that say how many steps a schedule has."""
_SCHEDULE_NAME = re.compile(r"schedule|LR$")


def made_for_micro_batches(tree: ast.AST) -> bool:
    """Whether a script gives its schedule a length in batches: ``len(loader)`` in it, and no division."""
    values = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if not _SCHEDULE_NAME.search(name):
            continue
        given = [each.value for each in call.keywords if each.arg in _STEP_ARGUMENTS]
        given += call.args[-1:] if not given and len(call.args) > 1 else []
        if given and all(_in_batches(each, values) for each in given):
            return True
    return False


def _in_batches(value: ast.expr, values: dict[str, ast.expr], depth: int = 4) -> bool:
    parts = list(ast.walk(value))
    names = {node.id for node in parts if isinstance(node, ast.Name)} & values.keys()
    if any(isinstance(node, ast.Div | ast.FloorDiv) for node in parts):
        return False
    counts = any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "len" for node in parts)
    inner = [values[name] for name in names if isinstance(values[name], ast.BinOp | ast.Call | ast.Name)]
    divides = any(isinstance(node, ast.Div | ast.FloorDiv) for each in inner for node in ast.walk(each))
    return not divides and (counts or (depth > 0 and any(_in_batches(each, values, depth - 1) for each in inner)))


def _steps(call: ast.Call, what: str) -> bool:
    function = call.func
    is_step = isinstance(function, ast.Attribute) and function.attr == "step"
    name = ast.unparse(function)[:80].lower()
    other = "sched" if what == "optim" else "\0"
    return (
        is_step and (what in name or (what == "optim" and name in ("opt.step", "self.opt.step"))) and other not in name
    )


def _in_innermost(loop: ast.AST, call: ast.Call, guarded: set[int]) -> bool:
    """Whether the scheduler steps in the loop over batches, and not once an epoch behind it."""
    holders = [
        node
        for node in ast.walk(loop)
        if isinstance(node, ast.For | ast.While) and any(id(each) in guarded for each in ast.walk(node))
    ]
    innermost = min(holders, key=lambda node: sum(1 for _ in ast.walk(node)), default=None)
    return innermost is not None and any(each is call for each in ast.walk(innermost))
