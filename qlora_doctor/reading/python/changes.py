"""What a script does with what it loaded: casts, switches, fields, tokens; and what of it is not followed.

Each is a step of the model, so that only what is done before the training, and to the model that is trained, counts.
A loop over parameters or modules is read where its body is a cast or a switch under tests that a replay can make.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from .arguments import Arguments
from .arithmetic_of_updates import loss_fault, scheduler_per_micro_batch, takes_count
from .values import Class, Function, Known, Listing, Made, Model, Name, Step, Thing, Unknown, Value

TOKENIZER = "a tokenizer"
PARAMETERS, MODULES = "PARAMETERS", "MODULES"
OVER = {"parameters": PARAMETERS, "named_parameters": PARAMETERS, "modules": MODULES, "named_modules": MODULES}
OVERRIDES = {
    "compute_loss", "training_step", "create_optimizer", "create_scheduler", "create_optimizer_and_scheduler",
    "get_train_dataloader", "_prepare_inputs", "_inner_training_loop", "train", "get_batch_samples", "optimizer_step",
    "_get_train_sampler", "concatenated_forward", "get_batch_loss_metrics", "dpo_loss",
    "_generate_and_score_completions", "tokenize_row", "_prepare_dataset",
    "_prepare_model_for_kbit_training", "_compute_loss",
}  # fmt: skip
"""Methods of a trainer that decide what a step does."""
_HARMLESS = {
    "is_parallelizable",
    "model_parallel",
    "warnings_issued",
    "name_or_path",
    "hf_device_map",
    "generation_config",
}
_WEIGHTS = {"weight", "bias", "data"}
_OWN_PARTS = {"optimizers": "optimizer", "optimizer_cls_and_kwargs": "optimizer", "compute_loss_func": "loss"}
_HOOKS = re.compile(r"register_\w*hook$")
_PATCHED = {"torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "unsloth"}
_DTYPES = {"half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"}
_BEARS_ON_TRAINING = re.compile(
    r"requires_grad|param_groups|\.data\b|\boptimizer\b|lr_scheduler|\.train\(\)|\.eval\(\)"
)


class Changes(Arguments):
    """The part of the machine that follows what is done to a model and its tokenizer."""

    # -- assignments

    def set_attribute(self, holder: Value, name: str, value: Value, node: ast.AST) -> None:
        """Follow ``holder.name = value``; what replaces code or modules is noted as not followed."""
        if isinstance(holder, Model) and name not in _HARMLESS and not name.startswith("_"):
            self.unfollowed(holder, "module-replaced", f"model.{name} is replaced.", node)
        elif isinstance(holder, Unknown) and holder.part is not None and isinstance(holder.part[0], Model):
            model, path = holder.part
            what = f"model.{path}.{name}"
            tells = name == "requires_grad" or name in _WEIGHTS or not isinstance(value, Known)
            if name == "requires_grad" and self._switch_part(model, path, node, value):
                tells = False
            if tells and path.partition(".")[0] not in _HARMLESS:
                kind = "requires-grad" if name == "requires_grad" else "monkey-patch"
                kind = "module-replaced" if name in _WEIGHTS else kind
                done = "set" if isinstance(value, Known) else "replaced"
                self.unfollowed(model, kind, f"{what[:80]} is {done}.", node)
        elif isinstance(holder, Name) and holder.dotted.partition(".")[0] in _PATCHED and not isinstance(value, Known):
            self.note("monkey-patch", f"{holder.dotted[:80]}.{name} is replaced.", node)
        elif isinstance(holder, Made) and holder.maker.endswith("Trainer") and not isinstance(value, Known):
            self.note("monkey-patch", f"{holder.maker}.{name} is replaced.", node)
        super().set_attribute(holder, name, value, node)

    def note(self, kind: str, what: str, node: ast.AST | None) -> None:
        """Note a statement that is not followed, once."""
        if not any(each[0] == kind and each[2] is node for each in self.seen.not_followed):
            self.seen.not_followed.append((kind, what, node))

    def unfollowed(self, model: Value, kind: str, what: str, node: ast.AST | None) -> None:
        """Note something that is done to a model and not followed."""
        if isinstance(model, Model) and not any(s.kind == "unfollowed" and s.call.node is node for s in model.steps):
            call = Made(node, maker=kind, arguments={"what": Known(node, data=what)})
            model.steps.append(Step("unfollowed", call, sure=self.is_own(model)))

    def change(self, model: Model, kind: str, node: ast.AST, **arguments: Value) -> None:
        """Write down a change of the model that a replay can make; one that may or may not happen is not followed."""
        if not self.is_own(model):
            self.unfollowed(model, kind, f"Whether {_WORDS[kind]} is decided while the script runs.", node)
            return
        given: dict[Any, Value] = dict(arguments)
        model.steps.append(Step("change", Made(node, maker=kind, arguments=given)))

    # -- the tokenizer

    def add_tokens(self, tokenizer: Made, node: ast.AST, tokens: Value) -> None:
        """Follow ``tokenizer.add_tokens(…)`` and ``add_special_tokens(…)``."""
        name = f"+{sum(str(each).startswith('+') for each in tokenizer.arguments)}"
        tokenizer.arguments[name] = tokens if self.is_own(tokenizer) else Unknown(node, why="A condition decides.")
        tokenizer.places[name] = node

    def _if(self, node: ast.If) -> bool:
        """``if tokenizer.pad_token is None: tokenizer.pad_token = …``, which a replay asks the tokenizer."""
        asked = _asks_for_none(node.test)
        if asked is None or node.orelse:
            return super()._if(node)
        holder = self.evaluate(asked.value)
        if not isinstance(holder, Made) or holder.maker != TOKENIZER or asked.attr in holder.arguments:
            return super()._if(node)
        for statement in node.body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Attribute) and self.evaluate(target.value) is holder and self.is_own(holder):
                assert isinstance(statement, ast.Assign)
                value = self.evaluate(statement.value)
                asks: Value = Known(node, data=asked.attr)
                holder.arguments[target.attr] = Made(node, maker="IF-NONE", arguments={"value": value, "asks": asks})
                holder.places[target.attr] = statement
            else:
                with self.perhaps():
                    self.statement(statement)
        return False

    # -- methods of the model

    def changing_method(self, model: Model, name: str, node: ast.Call, positional: list[Value]) -> bool:
        """Follow a method that changes the model itself; False where it is none of these."""
        first = positional[0] if positional else None
        if name in _DTYPES and not positional:
            self.change(model, "cast", node, over=Known(data="model"), to=Known(node, data=_DTYPES[name]))
        elif name == "to":
            dtype = next((each for each in (self._keyword(node, "dtype"), *positional) if _is_dtype(each)), None)
            if dtype is not None:
                self.change(model, "cast", node, over=Known(data="model"), to=dtype)
        elif name in ("train", "eval"):
            training = name == "train" and not (isinstance(first, Known) and first.data is False)
            if training or self.is_own(model):  # an evaluation under a condition is one between steps
                model.steps.append(
                    Step("change", Made(node, maker="mode", arguments={"to": Known(node, data=training)}))
                )
        elif name == "requires_grad_":
            on = first if first is not None else Known(node, data=True)
            self.change(model, "requires-grad", node, over=Known(data=PARAMETERS), tests=Listing(node), to=on)
        elif name == "resize_token_embeddings":
            self.change(model, "resize", node, to=first or self._keyword(node, "new_num_tokens") or Unknown(node))
        elif _HOOKS.match(name):
            self.unfollowed(model, "hook", f"{name} hooks code of its own into the model.", node)
        elif name == "apply":
            self.unfollowed(model, "given-to-unread-code", "model.apply runs code of its own over the modules.", node)
        else:
            return False
        return True

    def part_method(self, part: tuple[Value, str], name: str, node: ast.Call) -> None:
        """Note what a method of a part of the model does to it: ``model.lm_head.weight.zero_()``, a hook.

        Args:
            part: the model, and the path below it.
        """
        model, path = part
        if not isinstance(model, Model) or path.partition(".")[0] in _HARMLESS:
            return
        what = f"model.{path}.{name}"[:80]
        if _HOOKS.match(name):
            self.unfollowed(model, "hook", f"{what} hooks code of its own into the model.", node)
        elif name == "requires_grad_":
            on = self.evaluate(node.args[0]) if node.args else Known(node, data=True)
            if not self._switch_part(model, path, node, on):
                self.unfollowed(model, "requires-grad", f"{what} freezes or thaws a part.", node)
        elif name.endswith("_") and not name.startswith("_"):
            self.unfollowed(model, "module-replaced", f"{what} writes values into the model.", node)

    def _switch_part(self, model: Value, path: str, node: ast.AST, on: Value) -> bool:
        """Follow a part that is frozen or thawed as a whole; False where the path does not name it."""
        known = isinstance(model, Model) and isinstance(on, Known)
        if not isinstance(model, Model) or not known or not re.fullmatch(r"[A-Za-z_][\w.]*", path):
            return False
        under: Value = Listing(node, items=[Known(data="under"), Known(data=path)])
        self.change(
            model, "requires-grad", node, over=Known(data=PARAMETERS), tests=Listing(node, items=[under]), to=on
        )
        return True

    def _keyword(self, node: ast.Call, name: str) -> Value | None:
        return next((self.evaluate(each.value) for each in node.keywords if each.arg == name), None)

    # -- loops over parameters and modules

    def _expr(self, node: ast.Expr) -> None:
        """``[p.requires_grad_() for n, p in model.named_parameters() if …]``, which is a loop in other words."""
        loop = _as_loop(node.value) if isinstance(node.value, ast.ListComp | ast.SetComp) else None
        if loop is None:
            super()._expr(node)
        else:
            self._for(loop)

    def _for(self, node: ast.For | ast.AsyncFor) -> bool:
        called = node.iter.func if isinstance(node.iter, ast.Call) else None
        if not isinstance(called, ast.Attribute) or called.attr not in OVER:
            self._for_some(node)
            return super()._for(node)
        holder = self.evaluate(called.value)
        if isinstance(holder, Unknown) and holder.part is not None and OVER[called.attr] == PARAMETERS:
            self._for_part(holder.part, node)
        items = self.evaluate(node.iter)
        model = items.arguments.get("model") if isinstance(items, Made) and items.maker in OVER.values() else None
        if not isinstance(model, Model) or not isinstance(items, Made):
            return super()._for(node)
        self.tick(8)
        named = isinstance(items.arguments.get("named"), Known)
        targets = [each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)]
        names = (targets[0] if named and targets else "", targets[-1] if targets else "")
        done = self._body_over(model, items.maker, names, node.body, [])
        if not done:
            self.unfollowed(model, "loop-over-model", "A loop over the model's parameters or modules.", node)
        self._collected(model, items.maker, names, node)
        return False

    _asyncfor = _for

    def _for_some(self, node: ast.For | ast.AsyncFor) -> None:
        """``for p in filter(…, model.parameters()): p.data = …``: over which of them is not followed."""
        targets = [each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)]
        if isinstance(node.iter, ast.Name | ast.Attribute | ast.Constant) or not targets:
            return
        if not any(_changes_anything(each, targets[-1]) for each in node.body):
            return
        for inner in ast.walk(node.iter):
            called = inner.func if isinstance(inner, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in OVER:
                model = self.evaluate(called.value)
                if isinstance(model, Model):
                    self.unfollowed(
                        model, "loop-over-model", "A loop over some of the model's parameters or modules.", node
                    )

    def _for_part(self, part: tuple[Value, str], node: ast.For | ast.AsyncFor) -> None:
        """``for p in model.lm_head.parameters(): p.requires_grad = True``."""
        model, path = part
        target = node.target.elts[-1] if isinstance(node.target, ast.Tuple) and node.target.elts else node.target
        if not isinstance(model, Model) or not isinstance(target, ast.Name) or len(node.body) != 1:
            return
        on = _switched(node.body[0], target.id)
        if on is not None:
            self._switch_part(model, path, node, self.evaluate(on))

    def _collected(self, model: Model, over: str, names: tuple[str, str], node: ast.For | ast.AsyncFor) -> None:
        """What a loop over the model leaves in the script's own names and lists: it is not known here.

        But for the names of the layers of one class, which a loop over named_modules puts into a list or set, as
        ``find_all_linear_names`` of many scripts does.
        """
        of_class = self._one_class(names[1], node) if over == MODULES and names[0] else None
        for inner in ast.walk(node):
            if isinstance(inner, ast.Assign | ast.AugAssign | ast.AnnAssign):
                for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                    if isinstance(target, ast.Name) and target.id in self.scope.names and target.id not in names:
                        self.bind(target.id, Unknown(inner, why="A loop over the model decides."))
            called = inner.func if isinstance(inner, ast.Call) else None
            if not isinstance(called, ast.Attribute) or called.attr not in ("add", "append", "extend", "update"):
                continue
            holder = self.evaluate(called.value) if _is_short_path(called.value, names) else None
            if isinstance(holder, Listing):
                if not holder.items and holder.exact and called.attr in ("add", "append"):
                    holder.linear_of = of_class
                self.loosen(holder)

    def _one_class(self, module: str, node: ast.For | ast.AsyncFor) -> str | None:
        """The class that the loop's one test asks each module for; None where it asks for more, or otherwise."""
        tests = [each.test for each in ast.walk(node) if isinstance(each, ast.If)]
        found: list[str] = []
        for test in tests:
            for part in test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]:
                asked = _asked_class(part, module)
                if asked is not None:
                    value = self.evaluate(asked)
                    found.append(value.last if isinstance(value, Name) else "")
                elif _head_left_out(part) is False:
                    return None
        return found[0] if len(found) == 1 and found[0] else None

    def _body_over(
        self, model: Model, over: str, names: tuple[str, str], body: list[ast.stmt], tests: list[Value]
    ) -> bool:
        """Follow the body of a loop over the model; False where part of it is not understood."""
        understood = True
        for written in body:
            statement = _switch_as_test(written, names)
            if isinstance(statement, ast.If):
                understood = self._test_over(model, over, names, statement, tests) and understood
            elif not _changes_anything(statement, names[1]):
                continue  # it counts, or prints
            else:
                understood = self._change_over(model, over, names[1], statement, tests) and understood
        return understood

    def _test_over(self, model: Model, over: str, names: tuple[str, str], node: ast.If, tests: list[Value]) -> bool:
        if not any(_changes_anything(inner, names[1]) for part in (node.body, node.orelse) for inner in part):
            return True
        found: list[Value] = []
        parts = (
            node.test.values if isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.And) else [node.test]
        )
        for part in parts:
            test = _test_of(part, names) or self._any_named(part, names)
            if test is not None:
                found.append(Listing(part, items=[Known(data=each) for each in test]))
                continue
            known = self.truth(self.evaluate(part)) if not _mentions(part, names) else None
            if known is None:
                return False
            if not known:
                return self._body_over(model, over, names, node.orelse, tests)
        if node.orelse and found:
            if len(found) != 1:
                return False
            negated: list[Value] = [_negated(found[0])]
            return self._body_over(model, over, names, node.body, tests + found) and self._body_over(
                model, over, names, node.orelse, tests + negated
            )
        return self._body_over(model, over, names, node.body, tests + found)

    def _any_named(self, node: ast.expr, names: tuple[str, str]) -> tuple[str, ...] | None:
        """``any(k in name for k in KEEP)`` of texts that are known, as a test that a replay can make."""
        inner = node.args[0] if isinstance(node, ast.Call) and ast.unparse(node.func) == "any" and node.args else None
        if not isinstance(inner, ast.ListComp | ast.GeneratorExp) or len(inner.generators) != 1:
            return None
        each = inner.generators[0]
        if each.ifs or ast.unparse(inner.elt) != f"{ast.unparse(each.target)} in {names[0]}":
            return None
        words = self.evaluate(each.iter)
        if not isinstance(words, Listing) or not words.exact or not words.items:
            return None
        texts = [item.data for item in words.items if isinstance(item, Known) and isinstance(item.data, str)]
        return ("named", *texts) if len(texts) == len(words.items) else None

    def _change_over(self, model: Model, over: str, name: str, node: ast.stmt, tests: list[Value]) -> bool:
        """One statement: ``p.data = p.data.to(dtype)``, ``p.requires_grad = False``, ``module.to(dtype)``."""
        listed = Listing(node, items=list(tests))
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == name:
                if target.attr == "requires_grad":
                    on = self.evaluate(value)
                    self.change(model, "requires-grad", node, over=Known(data=over), tests=listed, to=on)
                    return isinstance(on, Known)
                if target.attr == "data":
                    dtype = self._cast_of(value)
                    if dtype is not None:
                        self.change(model, "cast", node, over=Known(data=over), tests=listed, to=dtype)
                    return dtype is not None
                return False
            is_itself = isinstance(target, ast.Name) and target.id == name
            if not is_itself:
                return False
            if over == PARAMETERS:
                return self._cast_of(value) is not None  # a name that is bound again changes no parameter
            return self._module_cast(model, over, name, value, node, listed)
        if isinstance(node, ast.Expr):
            return self._module_cast(model, over, name, node.value, node, listed)
        return False

    def _module_cast(self, model: Model, over: str, name: str, call: ast.expr, node: ast.stmt, tests: Listing) -> bool:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            return False
        holder = call.func.value
        if not (isinstance(holder, ast.Name) and holder.id == name):
            return False
        if call.func.attr == "requires_grad_":
            on = self.evaluate(call.args[0]) if call.args else Known(node, data=True)
            self.change(model, "requires-grad", node, over=Known(data=over), tests=tests, to=on)
            return isinstance(on, Known)
        dtype = self._cast_of(call)
        if dtype is None:
            return False
        if over == MODULES:
            self.change(model, "cast", node, over=Known(data=over), tests=tests, to=dtype)
        return True

    def _cast_of(self, node: ast.expr) -> Value | None:
        """The dtype of ``….to(dtype)``, ``….float()``, ``….half()``; None for anything else."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return None
        if node.func.attr in _DTYPES and not node.args:
            return Known(node, data=_DTYPES[node.func.attr])
        if node.func.attr not in ("to", "type"):
            return None
        given = [self.evaluate(each) for each in (*node.args, *(k.value for k in node.keywords))]
        return next((each for each in given if _is_dtype(each)), None)

    # -- loops that train

    def _loop(self, node: ast.For | ast.AsyncFor | ast.While) -> bool:
        if not self.in_training_loop and _goes_backward(node):
            self.in_training_loop = True
            self.note("training-loop", "A training loop of its own.", node)
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and _steps_scheduler(call.func):
                    self.note("scheduler-by-hand", "A learning-rate scheduler is stepped by hand.", call)
            early = scheduler_per_micro_batch(node)
            if early is not None:
                self.note("scheduler-per-micro-batch", ast.unparse(early)[:80], early)
            try:
                return super()._loop(node)
            finally:
                self.in_training_loop = False
        return super()._loop(node)

    in_training_loop = False

    def trains_with(self, owner: Class) -> None:
        """Note what a trainer's class of the script does otherwise than the library's."""
        for each in self.lineage(owner):
            for statement in each.body.body if isinstance(each, Class) and each.body is not None else ():
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name in OVERRIDES:
                    name = each.body.name if isinstance(each, Class) and each.body is not None else "The trainer"
                    self.note("overridden-method", f"{name} has a {statement.name} of its own.", statement)
                    fault = loss_fault(statement) if statement.name == "compute_loss" else None
                    if statement.name == "training_step" and not takes_count(statement):
                        fault = "loss-takes-no-count"
                    if fault is not None:
                        self.note(fault, f"{name}.{statement.name}", statement)

    def takes_part(self, trainer: Made) -> None:
        """Note the script's own code that a trainer is given."""
        collator = trainer.arguments.get("data_collator")
        if collator is not None and _is_own_code(collator):
            self.note(
                "collator",
                "The batches are put together by a collator of its own.",
                trainer.places.get("data_collator"),
            )
        for name, what in _OWN_PARTS.items():
            given = trainer.arguments.get(name)
            if given is not None and not (isinstance(given, Known) and given.data is None) and not _are_nothing(given):
                self.note(what, f"The trainer is given {name} of its own.", trainer.places.get(name, trainer.node))
                loss = given.body if what == "loss" and isinstance(given, Function) else None
                if isinstance(loss, ast.FunctionDef) and (fault := loss_fault(loss)) is not None:
                    self.note(fault, loss.name, loss)
        callbacks = trainer.arguments.get("callbacks")
        for each in callbacks.items if isinstance(callbacks, Listing) else ():
            body = each.of.body if isinstance(each, Thing) and each.of is not None else None
            if body is not None and _BEARS_ON_TRAINING.search(ast.unparse(body)[:20_000]):
                self.note("callback", f"The callback {body.name} has code that bears on the training.", body)


_WORDS = {
    "cast": "the model is cast",
    "mode": "the model is set to train or evaluate",
    "requires-grad": "parameters are frozen or thawed",
    "resize": "the embeddings are resized",
}


def asked_of_tokenizer(path: str, node: ast.AST, holder: Value) -> Unknown:
    """What is read from a tokenizer: not known here, and a replay asks it."""
    return Unknown(node, why="It is asked of the tokenizer while the script runs.", part=(holder, path))


def _as_loop(node: ast.ListComp | ast.SetComp) -> ast.For | None:
    """The loop over a model's parameters or modules that a comprehension is; None for any other comprehension."""
    each = node.generators[0]
    called = each.iter.func if isinstance(each.iter, ast.Call) else None
    if len(node.generators) != 1 or not isinstance(called, ast.Attribute) or called.attr not in OVER:
        return None
    done: ast.stmt = ast.Expr(node.elt)
    for test in reversed(each.ifs):
        done = ast.If(test, [done], [])
    loop = ast.For(each.target, each.iter, [done], [])
    for made in ast.walk(loop):
        if not hasattr(made, "lineno"):
            ast.copy_location(made, node)
    return loop


def _switched(node: ast.stmt, name: str) -> ast.expr | None:
    """What ``name.requires_grad = …`` or ``name.requires_grad_(…)`` sets; None of any other statement."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{name}.requires_grad":
        return node.value
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and ast.unparse(call.func) == f"{name}.requires_grad_":
        return call.args[0] if call.args else ast.Constant(True)
    return None


def _asks_for_none(test: ast.expr) -> ast.Attribute | None:
    """``x.field`` of ``x.field is None`` and ``not x.field``; None for any other test."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand if isinstance(test.operand, ast.Attribute) else None
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Is | ast.Eq):
        right = test.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(test.left, ast.Attribute):
            return test.left
    return None


def _asked_class(test: ast.expr, module: str) -> ast.expr | None:
    """``cls`` of ``isinstance(module, cls)``; None for any other test."""
    if not isinstance(test, ast.Call) or ast.unparse(test.func) != "isinstance" or len(test.args) != 2:
        return None
    return test.args[1] if ast.unparse(test.args[0]) == module and not isinstance(test.args[1], ast.Tuple) else None


def _head_left_out(test: ast.expr) -> bool:
    """True for a test that leaves the output head out, which PEFT's ``all-linear`` does as well."""
    return isinstance(test, ast.Compare) and "lm_head" in ast.unparse(test) and isinstance(test.ops[0], ast.NotIn)


def _is_short_path(node: ast.expr, names: tuple[str, str]) -> bool:
    """True for a name of the script that the loop did not bind, or an attribute of one."""
    return isinstance(node, ast.Name | ast.Attribute) and _root(node) not in ("", *names)


def _is_dtype(value: Value | None) -> bool:
    return isinstance(value, Name) and value.dotted.startswith("torch.") and value.last in (*_DTYPES.values(), *_DTYPES)


def _is_own_code(value: Value) -> bool:

    return isinstance(value, Thing | Function | Class)


def _are_nothing(value: Value) -> bool:
    """``optimizers=(None, None)``."""
    return isinstance(value, Listing) and all(isinstance(each, Known) and each.data is None for each in value.items)


def _steps_scheduler(called: ast.expr) -> bool:
    is_step = isinstance(called, ast.Attribute) and called.attr == "step"
    return is_step and "sched" in ast.unparse(called)[:80].lower()


def _goes_backward(node: ast.AST) -> bool:
    return any(
        isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "backward"
        for inner in ast.walk(node)
    )


def _switch_as_test(node: ast.stmt, names: tuple[str, str]) -> ast.stmt:
    """``p.requires_grad = "lora" in n`` as the test that it is; any other statement as it stands."""
    if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and _mentions(node.value, names)):
        return node
    target = node.targets[0]
    if not (isinstance(target, ast.Attribute) and target.attr == "requires_grad"):
        return node

    def switched(on: bool) -> list[ast.stmt]:
        return [ast.copy_location(ast.Assign(targets=[target], value=ast.Constant(value=on)), node)]

    return ast.copy_location(ast.If(test=node.value, body=switched(True), orelse=switched(False)), node)


def _changes_anything(statement: ast.stmt, name: str) -> bool:
    """True for a statement that may change what the loop runs over: it is assigned to, or a method of it is called."""
    for inner in ast.walk(statement):
        if isinstance(inner, ast.Assign):
            roots = [_root(target) for target in inner.targets]
            if name in roots:
                return True
        if isinstance(inner, ast.Call):
            if isinstance(inner.func, ast.Attribute) and _root(inner.func) == name:
                if inner.func.attr not in _READING_METHODS and not isinstance(statement, ast.Assign | ast.AugAssign):
                    return True
            elif any(isinstance(each, ast.Name) and each.id == name for each in inner.args):
                called = ast.unparse(inner.func)[:60].rpartition(".")[2]
                if called not in _READING_FUNCTIONS:
                    return True
        if isinstance(inner, ast.For | ast.While | ast.With) and inner is not statement:
            return True
    return False


_READING_METHODS = {
    *("numel", "dim", "size", "nelement", "element_size", "items", "norm", "sum", "mean", "is_floating_point", "item"),
    *("named_parameters", "parameters", "isnan", "any"),
}
_READING_FUNCTIONS = {
    *("print", "isinstance", "len", "append", "type", "hasattr", "getattr", "str", "add", "info", "numel", "update"),
    *("isnan", "id", "debug", "prod", "int"),
}


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _mentions(node: ast.AST, names: tuple[str, str]) -> bool:
    return any(isinstance(inner, ast.Name) and inner.id in names for inner in ast.walk(node))


def _negated(test: Value) -> Value:
    assert isinstance(test, Listing)
    return Listing(test.node, items=[Known(data="not"), *test.items])


def _test_of(node: ast.expr, names: tuple[str, str]) -> tuple[str, ...] | None:
    """A test that a replay can make, as words: ``("requires_grad",)``, ``("named", "norm")``; None for any other."""
    name, item = names
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = _test_of(node.operand, names)
        return ("not", *inner) if inner is not None else None
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        parts = [_test_of(each, names) for each in node.values]
        if all(part is not None and part[0] == "named" for part in parts):
            return ("named", *(word for part in parts if part is not None for word in part[1:]))
        return None
    written = ast.unparse(node)
    if written == f"{item}.requires_grad":
        return ("requires_grad",)
    if written in (f"{item}.ndim == 1", f"{item}.dim() == 1", f"len({item}.shape) == 1"):
        return ("ndim", "1")
    if written == f"{item}.is_floating_point()":
        return ("floating",)
    if isinstance(node, ast.Call) and written.startswith("hasattr(") and len(node.args) == 2:
        attribute = node.args[1]
        if _root(node.args[0]) == item and isinstance(attribute, ast.Constant):
            return ("has", str(attribute.value))
    if isinstance(node, ast.Call) and written.startswith("isinstance(") and len(node.args) == 2:
        kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
        if _root(node.args[0]) == item:
            return ("instance", *(ast.unparse(kind).rpartition(".")[2] for kind in kinds))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _comparison(node, name, item)
    return None


def _comparison(node: ast.Compare, name: str, item: str) -> tuple[str, ...] | None:
    left, right = ast.unparse(node.left), ast.unparse(node.comparators[0])
    words: tuple[str, ...]
    of_name = isinstance(node.ops[0], ast.In | ast.NotIn) and name and right in (name, f"{name}.lower()")
    if of_name and isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
        words = ("named", node.left.value)
        return words if isinstance(node.ops[0], ast.In) else ("not", *words)
    if isinstance(node.ops[0], ast.Eq | ast.NotEq) and left in (f"{item}.dtype", f"{item}.weight.dtype"):
        words = ("dtype", right.rpartition(".")[2])
        return words if isinstance(node.ops[0], ast.Eq) else ("not", *words)
    return None


def steps_of(model: Model) -> Iterator[tuple[str, Step]]:
    """(when, step) of each change: after the load, after the preparation, or after an adapter was attached."""
    when = "loaded"
    for step in model.steps:
        if step.kind == "prepare":
            when = "prepared"
        elif step.kind.startswith("attach") or step.kind in ("load-adapter", "handed-to-trainer"):
            when = "attached" if step.kind != "handed-to-trainer" or step.call.arguments.get("peft_config") else when
        elif step.kind == "change":
            yield when, step
