"""Calls into libraries: what is loaded, configured, attached and trained, and the small helpers around it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import replace

from ...tables.signatures import LIBRARIES as SIGNED
from .arguments import PARSERS, TRAINING_CLASSES, UNSEEN
from .builtin_calls import call_builtin, call_method
from .changes import OVER, TOKENIZER, Changes, asked_of_tokenizer
from .expressions import CAPABILITY
from .files import content, file_method, several_paths_method
from .model_config import field_of, peft_config, quantization_config
from .scopes import LIBRARIES
from .values import Class, Function, Known, Listing, Made, Mapping, Model, Module, Name, Step, Thing, Unknown, Value

UNSLOTH = {"FastLanguageModel", "FastModel", "FastVisionModel", "FastLlamaModel", "FastMistralModel"}
ADAPTED = {"PeftModel", "PeftModelForCausalLM", "PeftModelForSequenceClassification"}
AUTO_PEFT = {"AutoPeftModelForCausalLM", "AutoPeftModel", "AutoPeftModelForSequenceClassification"}
_ADAPTER_CONFIGS = {"PeftConfig", "LoraConfig"}
WITH_HEAD = {"AutoModelForCausalLMWithValueHead", "AutoModelForSeq2SeqLMWithValueHead"}
QUANTIZERS = {"GPTQConfig", "AwqConfig", "HqqConfig", "EetqConfig", "QuantoConfig", "TorchAoConfig", "Mxfp4Config"}
RESUMED = "train(resume_from_checkpoint)"
"""Under this name a trainer keeps what its train() goes on from."""
MODEL_CONFIG = "the model's config"
_TOKENIZER_CLASS = re.compile(r"\w*Tokenizer(Fast)?$|\w*Processor$")
_OPTIMIZERS = ("torch.optim.", "bitsandbytes.optim.", "bnb.optim.", "transformers.AdamW", "transformers.Adafactor")
_MODEL_CLASS = re.compile(
    r"Auto(Liger\w*)?Model(For\w+)?$|AutoLigerKernelForCausalLM$|\w+LMHeadModel$"
    r"|\w+For(CausalLM|ConditionalGeneration|SequenceClassification|TokenClassification|MultipleChoice"
    r"|QuestionAnswering|VisionText2Text)$"
)
_PREPARES = {"prepare_model_for_kbit_training", "prepare_model_for_int8_training"}
_BF16_TEST = {"is_bf16_supported", "is_bfloat16_supported", "is_torch_bf16_gpu_available", "is_torch_bf16_available"}
_SAME_MODEL = {
    "to", "cuda", "half", "bfloat16", "float", "eval", "train", "cpu", "requires_grad_", "get_base_model",
    "base_model", "from_pretrained", "apply",
}  # fmt: skip
"""Methods that return the model itself."""
_PASSED_THROUGH = {
    "compile", "prepare", "prepare_model", "unwrap_model", "deepcopy", "copy", "DataParallel",
    "DistributedDataParallel", "for_training", "patch_peft_model", "FullyShardedDataParallel",
    "train_on_responses_only",
}  # fmt: skip
"""Functions that return what they are given, as far as a config is concerned."""
_WRAPPERS = {"torch.compile", "torch.nn.DataParallel", "nn.DataParallel"}
"""Of these, those that put the model into another module, which has another class."""
_READS_MODEL = re.compile(
    r"print|log|count|show|report|save|info|summar|evaluat|generat|test|find_|set_seed|infer|trainable|all_linear|memory"
)
"""Names of functions that look at a model and leave it as it is."""
_CHANGES_MODEL = re.compile(
    r"set_?up|init|update|override|merge|process|adjust|patch|apply|configur|validat|check|from_(file|dict)"
)
_LEAVES_MODEL = re.compile(r"log|wandb|seed|data|token|dir|print|distributed|logger")
_OTHERS = {
    "wandb", "np", "gc", "random", "print", "len", "isinstance", "hasattr", "getattr", "type", "str", "id", "sum",
    "list", "next", "iter", "repr", "deepspeed", "torchinfo", "logging", "logger", "mlflow", "vllm",
    "safetensors", "huggingface_hub", "auto_gptq", "time", "setattr", "bnb", "evaluate", "trackio", "swanlab",
    "comet_ml", "neptune", "clearml", "tensorboard", "rich", "loguru", "dotenv", "pathlib", "collections",
    "functools", "itertools", "re", "copy", "pprint", "shutil",
}  # fmt: skip
"""Further names that are known to change no model that is handed to them."""
_OTHER_FRAMEWORKS = {"lightning", "pytorch_lightning", "composer", "catalyst", "colossalai", "ignite", "flair"}
"""Their ``Trainer`` is another than that of transformers."""
_STARTERS = {"fire.Fire", "typer.run"}
"""Hand the command line to a function, by the names of its parameters."""
_PLAIN_DATA = {"load_dataset", "load_from_disk", "Dataset"}


class Library(Changes):
    """The part of the machine that knows the libraries."""

    def _on_call(self, node: ast.Call) -> Value:
        holder: Value | None = None
        if isinstance(node.func, ast.Attribute):
            holder = self.evaluate(node.func.value)
            callee = self.attribute(holder, node.func.attr, node.func)
        else:
            callee = self.evaluate(node.func)
        positional, named, rest = self._arguments(node)
        if isinstance(node.func, ast.Attribute) and holder is not None and not isinstance(holder, Name | Module):
            value = self.method(holder, node.func.attr, node, positional, named, rest)
            if value is not None:
                return value
        if isinstance(callee, Function):
            return self.call_function(callee, positional, named, rest)
        if isinstance(callee, Class):
            return self.instantiate(callee, node, positional, named, rest)
        if isinstance(callee, Name):
            return self.call_of_libraries(callee, node, positional, named, rest)
        called = ast.unparse(node.func)[:60] if _is_short(node.func) else "a call"
        self._hand_over([*positional, *named.values()], called, node)
        unseen = "It is returned by something that was not read."
        return Unknown(node, why=callee.why if isinstance(callee, Unknown) else unseen)

    def _arguments(self, node: ast.Call) -> tuple[list[Value], dict[str, Value], bool]:
        positional: list[Value] = []
        named: dict[str, Value] = {}
        rest = False
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                inner = self.evaluate(argument.value)
                if isinstance(inner, Listing) and inner.exact:
                    positional += inner.items
                else:
                    rest = True
            else:
                positional.append(self.evaluate(argument))
        for keyword in node.keywords:
            value = self.evaluate(keyword.value)
            if keyword.arg is not None:
                named[keyword.arg] = value
            elif isinstance(value, Mapping):
                named.update({str(key): inner for key, inner in value.items.items() if isinstance(key, str)})
                rest = rest or not value.exact
            elif isinstance(value, Thing):
                named.update(value.attributes)
                rest = rest or not value.exact
            else:
                rest = True
        self.tick(len(positional) + len(named))
        return positional, named, rest

    # -- methods of objects

    def method(
        self, holder: Value, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value | None:
        """What a method of a known object returns; None where it is nothing that is known here."""
        if isinstance(holder, Model):
            return self._model_method(holder, name, node, positional, named, rest)
        if isinstance(holder, Class):
            return self.validated(holder, name, node, positional)
        if isinstance(holder, Made):
            return self._made_method(holder, name, node, positional, named)
        if isinstance(holder, Known | Listing | Mapping):
            return call_method(self, holder, name, node, positional, named)
        if isinstance(holder, Unknown):
            if holder.part is not None:
                self.part_method(holder.part, name, node)
            of_path = several_paths_method(holder, name, node)
            if of_path is not None:
                return of_path
            for each in holder.maybe:
                if isinstance(each, Listing | Mapping):
                    with self.perhaps():
                        call_method(self, each, name, node, positional, named)
        return None

    def _model_method(
        self, model: Model, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value:
        steps = {
            "gradient_checkpointing_enable": "checkpointing",
            "gradient_checkpointing_disable": "no-checkpointing",
            "enable_input_require_grads": "input-grads",
            "add_adapter": "attach",
            "load_adapter": "load-adapter",
            "set_adapter": "thaw",
        }
        kind = steps.get(name)
        if kind is not None:
            call = self.made(name, node, positional, named, rest)
            if kind == "attach":
                _name_adapter(call, positional)
                kind = "add-adapter" if _is_peft_model(model) else kind
            elif name == "set_adapter":
                _activate(self, model, positional, named)
            self.step(model, kind, call)
        elif name in OVER:
            with_names: Value = Known(node, data=True) if name.startswith("named") else Unknown(node)
            return Made(node, maker=OVER[name], arguments={"model": model, "named": with_names})
        elif self.changing_method(model, name, node, positional):
            return model
        elif name in ("merge_and_unload", "unload", "merge_adapter"):
            if name != "unload":
                self.seen.merges.append((model, node))
            self.step(model, "merge", self.made(name, node, positional, named, rest))
            return Model(node, load=model.load, steps=list(model.steps), touched=model.touched, config=model.config)
        elif name not in _SAME_MODEL:
            if name == "save_pretrained":
                self.seen.saves.append((model, node, len(self.seen.runs)))
            return Unknown(node, why="It is asked of the model while the script runs.", part=(model, f"{name}()"))
        return model

    def attribute(self, holder: Value, name: str, node: ast.AST) -> Value:
        """What ``holder.name`` is known to be."""
        if isinstance(holder, Model):
            if name == "config":
                return holder.config
            if name in ("model", "base_model", "module"):
                return holder
            return Unknown(node, why="It is asked of the model while the script runs.", part=(holder, name))
        if isinstance(holder, Unknown) and holder.part is not None:
            return Unknown(node, why=holder.why, part=(holder.part[0], f"{holder.part[1]}.{name}"))
        if isinstance(holder, Made) and holder.maker == TOKENIZER and name not in holder.arguments:
            return asked_of_tokenizer(name, node, holder)
        if isinstance(holder, Made) and holder.maker == "ModelConfig":
            return field_of(holder, name, node)
        if isinstance(holder, Made) and holder.maker.endswith("Trainer") and name == "model":
            given = holder.arguments.get("model", holder.arguments.get(0))
            if isinstance(given, Model):
                return self._within(holder, given)
        return super().attribute(holder, name, node)

    def _within(self, trainer: Made, given: Model) -> Model:
        """``trainer.model``: the model that the trainer was given, with the adapter that the trainer attached to it."""
        steps = list(given.steps)
        if trainer.arguments.get("peft_config") is not None:
            steps.append(Step("attach", trainer, sure=not self.unsure))
        return Model(trainer.node, load=given.load, steps=steps, touched=given.touched, config=given.config)

    def _made_method(
        self, holder: Made, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value]
    ) -> Value | None:
        if holder.maker == "ArgumentParser":
            return self._parser_method(holder, name, node, positional, named)
        of_file = file_method(self, holder, name, node, positional)
        if of_file is not None:
            return of_file
        if holder.maker == MODEL_CONFIG and name == "update":
            given = positional[0] if positional else Mapping(node)
            for key, value in (dict(given.items) | named if isinstance(given, Mapping) else named).items():
                self.set_attribute(holder, str(key), value, node)
            return Known(node, data=None)
        if holder.maker == TOKENIZER and name in ("add_tokens", "add_special_tokens"):
            self.add_tokens(holder, node, positional[0] if positional else next(iter(named.values()), Unknown(node)))
            return Unknown(node, why="It is asked of the tokenizer while the script runs.")
        if holder.maker in PARSERS:
            found = self.parsed(holder, name, node, positional, named)
            if found is not None:
                return found
        if holder.maker.endswith("Trainer") and name == "add_callback" and positional:
            self.seen.callbacks.append(positional[0])
        if holder.maker.endswith("Trainer") and name == "train":
            run = _as_it_is(holder)
            resumed = named.get("resume_from_checkpoint", positional[0] if positional else None)
            self.seen.runs.append(
                run if resumed is None else replace(run, arguments={**run.arguments, RESUMED: resumed})
            )
            return Unknown(node, why="It is the result of the training.")
        if holder.maker in _PLAIN_DATA:
            plain = name in ("shuffle", "take", "skip")
            return holder if plain else Unknown(node, why="The script forms the samples by code of its own.")
        if holder.maker == "Typer" and name == "__call__":
            return self._run_command(holder)
        models = [value for value in positional if isinstance(value, Model)]
        if name in _PASSED_THROUGH and models:
            return positional[0] if len(positional) == 1 else Listing(node, items=list(positional))
        if name in ("to_dict", "dict"):
            return Mapping(node, items=dict(holder.arguments), exact=False)
        self._hand_over([*positional, *named.values()], f"{holder.maker}.{name}", node)
        return Unknown(node, why=holder.why or f"{holder.maker}.{name}() decides.")

    def _parser_method(
        self, parser: Made, name: str, node: ast.Call, positional: list[Value], named: dict[str, Value]
    ) -> Value:
        if name == "add_argument":
            self.add_argument(parser, node, positional, named)
            return Unknown(node)
        if name.startswith("add_"):
            return parser
        if name == "set_defaults":
            parser.arguments.update(named)
        words = positional[0] if positional else named.get("args")
        if name == "parse_known_args":
            known = self.namespace(parser, node, words)
            return Listing(node, items=[known, Unknown(node, why="The command line decides.")])
        return self.namespace(parser, node, words) if name.startswith("parse_") else Unknown(node)

    def _run_command(self, app: Made) -> Value:
        command = app.arguments.get("command")
        return self.call_function(command, [], {}, False) if isinstance(command, Function) else Unknown(app.node)

    # -- functions and classes of libraries

    def call_of_libraries(
        self, callee: Name, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value:
        """What a call of something that is not the script's own returns."""
        last = callee.last
        self.note_keywords(callee, node, rest)
        builtin = call_builtin(self, callee, node, positional, named, rest)
        if builtin is not None:
            return builtin
        if is_library(callee):
            found = self._known_call(callee, node, positional, named, rest)
            if found is not None:
                return found
        if callee.dotted in _STARTERS and positional and isinstance(positional[0], Function):
            return self.started(positional[0])
        if last in ("Fire", "run") and positional and isinstance(positional[0], Function):
            return self.call_function(positional[0], [], {}, False)
        if last in ("cli", "parse") and positional and isinstance(positional[0], Class):
            return self.from_outside(positional[0], UNSEEN)
        if last in ("Namespace", "SimpleNamespace", "EasyDict", "Munch", "AttrDict", "DictConfig"):
            return _namespace(node, positional, named, rest)
        other = last == "Trainer" and callee.dotted.partition(".")[0] in _OTHER_FRAMEWORKS
        made = self.made(callee.dotted if other else last, node, positional, named, rest)
        if last.endswith("Trainer"):
            self.takes_part(made)
            model = made.arguments.get("model", made.arguments.get(0))
            if isinstance(model, Model):
                self.step(model, "handed-to-trainer", made)
        if last.endswith("Trainer") or (last in PARSERS or last in ("ArgumentParser", "Typer")):
            return self._recorded(made)
        models = [value for value in (*positional, *named.values()) if isinstance(value, Model)]
        if models and last in _PASSED_THROUGH:
            if callee.dotted in _WRAPPERS:
                self.step(models[0], "wrapped", made)
            return models[0]
        if last == "train_on_responses_only" and positional:
            return positional[0]
        if last == "unsloth_train" and positional and isinstance(positional[0], Made):
            self.seen.runs.append(_as_it_is(positional[0]))
        self._hand_over([*positional, *named.values()], callee.dotted, node)
        if last[:1].isupper() and not rest and not is_own(callee):
            return made
        return Unknown(node, why=f"{callee.dotted[:60]}() decides on it.")

    def note_keywords(self, callee: Name, node: ast.AST, rest: bool) -> None:
        """Note what is called with which keywords, where that is the same each time and all of it is seen."""
        if isinstance(node, ast.Call) and callee.dotted.partition(".")[0] in SIGNED:
            known = self.seen.passed.get(id(node))
            same = not rest and (known is None or known[1] == callee.dotted)
            self.seen.passed[id(node)] = (node, callee.dotted if same else "")

    def _known_call(
        self, callee: Name, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value | None:
        """What a call of a name of transformers, peft, trl, unsloth or torch returns."""
        last = callee.last
        owner = callee.dotted.split(".")[-2] if "." in callee.dotted else ""
        if last == "from_pretrained":
            return self._load(owner, node, positional, named, rest)
        if last in _PREPARES:
            return self._on_model("prepare", node, positional, named, rest, callee)
        if last == "get_peft_model":
            kind = "attach-unsloth" if owner in UNSLOTH else "attach"
            return self._on_model(kind, node, positional, named, rest, callee)
        if last in _BF16_TEST:
            return Known(node, by_card=True, data=True)
        if last == "setup_chat_format" and positional:
            return Listing(node, items=list(positional[:2]))
        if last == "get_device_capability":
            return Listing(node, items=[Made(node, maker=CAPABILITY), Unknown(node, why="The card decides.")])
        if callee.dotted.startswith(_OPTIMIZERS):
            return self._recorded(self._optimizer(self.made(f"optimizer:{last}", node, positional, named, rest)))
        if last == "set_grad_enabled" and positional and isinstance(positional[0], Known):
            self.seen.gradients.append((bool(positional[0].data), node, not self.unsure, len(self.seen.runs)))
        if last == "DataLoader":
            return self._recorded(self.made(last, node, positional, named, rest))
        first = positional[0] if positional else None
        if isinstance(first, Made) and first.maker == "ModelConfig":
            if last == "get_peft_config":
                return self._of_model_config(peft_config(first, node))
            if last == "get_quantization_config":
                return self._of_model_config(quantization_config(first, node))
        if last == "load_dataset" or last in TRAINING_CLASSES or last.endswith(("Config", "Accelerator")):
            return self._recorded(self.made(last, node, positional, named, rest))
        return None

    def _optimizer(self, made: Made) -> Made:
        """An optimizer with the model whose parameters it is given, and how much was done to that model before."""
        given = getattr(made.node, "args", [])[:1] + [
            k.value for k in getattr(made.node, "keywords", []) if k.arg == "params"
        ]
        for inner in (each for part in given for each in ast.walk(part)):
            called = inner.func if isinstance(inner, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in OVER:
                model = self.evaluate(called.value)
                if isinstance(model, Model):
                    done = Known(made.node, data=len(model.steps))
                    made.arguments |= {"the model": model, "steps before": done}
        return made

    def _of_model_config(self, value: Value) -> Value:
        return self._recorded(value) if isinstance(value, Made) else value

    def _recorded(self, made: Made) -> Made:
        self.seen.calls.append((made, not self.unsure))
        return made

    def made(self, maker: str, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool) -> Made:
        """A call with its arguments."""
        arguments: dict[str | int, Value] = dict(enumerate(positional))
        arguments.update(named)
        places = {k.arg: k for k in getattr(node, "keywords", []) if k.arg}
        places |= dict(enumerate(getattr(node, "args", [])))
        why = "Further arguments are passed that are not known." if rest else ""
        return Made(node, maker=maker, arguments=arguments, exact=not rest, why=why, places=places)

    # -- models

    def _load(
        self, owner: str, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool
    ) -> Value | None:
        """``Class.from_pretrained(…)``; None for tokenizers and the like."""
        if owner in ADAPTED:
            return self._on_model("load-adapter", node, positional, named, rest, Name(node, dotted=owner))
        if owner in _ADAPTER_CONFIGS:
            return self._stored_config(node, positional[0] if positional else Unknown(node))
        if owner not in UNSLOTH | AUTO_PEFT | WITH_HEAD and not _MODEL_CLASS.search(owner):
            is_tokenizer = _TOKENIZER_CLASS.match(owner) is not None
            if not is_tokenizer:
                return None
            made = self._recorded(Made(node, maker=TOKENIZER))
            name = named.get("pretrained_model_name_or_path", positional[0] if positional else None)
            if name is not None:
                self.seen.tokenizers[id(node)] = (made, name)
            return made
        load = self.made(owner, node, positional, named, rest)
        if positional and isinstance(positional[0], Model):
            return positional[0]
        model = Model(node, load=load, config=Made(node, maker=MODEL_CONFIG))
        self.seen.models.append(model)
        self._recorded(load)
        if owner in AUTO_PEFT:  # peft/auto.py: the base that the adapter names, and PeftModel.from_pretrained on it
            asked = ("pretrained_model_name_or_path", "adapter_name", "is_trainable")
            given = {name: value for n, name in enumerate(asked) if (value := named.get(name, _nth(positional, n)))}
            given["model_id"] = given.pop(asked[0], Unknown(node))
            attached = Made(node, maker="PeftModel", arguments={**given}, exact=not rest, why=load.why)
            self.step(model, "load-adapter", attached)
        if owner in UNSLOTH:
            return Listing(node, items=[model, self._recorded(Made(node, maker=TOKENIZER))])
        return model

    def _stored_config(self, node: ast.AST, folder: Value) -> Value:
        """``PeftConfig.from_pretrained(folder)``: an adapter's adapter_config.json, without its weights."""
        why = "The stored adapter's adapter_config.json decides."
        if not isinstance(folder, Known) or not isinstance(folder.data, str):
            return Unknown(node, why=why)
        read = content(self, Known(node, data=f"{folder.data}/adapter_config.json"), node)
        if not isinstance(read, Mapping) or not isinstance(kind := read.items.get("peft_type"), Known):
            return Unknown(node, why=why)
        if kind.data != "LORA":
            return Made(node, maker=f"{kind.data} config")
        return self._recorded(Made(node, maker="LoraConfig", arguments={**read.items}))

    def _on_model(
        self, kind: str, node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool, callee: Name
    ) -> Value:
        """A function that takes a model and returns it changed."""
        call = self.made(callee.last, node, positional, named, rest)
        self._recorded(call)
        model = named.get("model", positional[0] if positional else None)
        if isinstance(model, Model):
            self.step(model, kind, call)
            return model
        why = model.why if isinstance(model, Unknown) else "The model comes from something that was not read."
        config = Made(node, maker=MODEL_CONFIG)
        made = Model(node, touched=why, steps=[Step(kind, call, sure=not self.unsure)], config=config)
        self.seen.models.append(made)
        return made

    def _hand_over(self, values: Iterable[Value], to: str, node: ast.AST) -> None:
        """Something that was not read is given these, and may change them."""
        root, last = to.partition(".")[0], to.rpartition(".")[2].lower()
        if root in LIBRARIES or root in _OTHERS:
            return
        changes = _CHANGES_MODEL.search(last) is not None and _LEAVES_MODEL.search(last) is None
        for value in values:
            if isinstance(value, Model):
                if not _READS_MODEL.search(last):
                    why = f"{to}() may change the model, and was not read."
                    self.unfollowed(value, "given-to-unread-code", why, node)
                    value.touched = value.touched or why
            elif changes:
                _spoil(value, f"{to}() may change it, and was not read.")


def _nth(values: list[Value], n: int) -> Value | None:
    return values[n] if n < len(values) else None


def is_library(name: Name) -> bool:
    """True for a name that a known package defines, or that is used without an import (in a snippet)."""
    return not is_own(name)


def is_own(name: Name) -> bool:
    """True for a name that is imported from a module other than the known packages."""
    root, dot, _ = name.dotted.partition(".")
    return root == "" or (bool(dot) and root[:1].islower() and root not in LIBRARIES | _OTHERS)


def _spoil(value: Value, why: str) -> None:
    if isinstance(value, Thing):
        value.attributes.update({name: Unknown(old.node, why=why) for name, old in value.attributes.items()})
        value.exact = False
    elif isinstance(value, Mapping):
        value.items.update({name: Unknown(old.node, why=why) for name, old in value.items.items()})
        value.exact = False
    elif isinstance(value, Made):
        value.arguments.update({name: Unknown(old.node, why=why) for name, old in value.arguments.items()})
        value.exact, value.why = False, why
    elif isinstance(value, Listing):
        value.exact = False


def _is_peft_model(model: Model) -> bool:
    """True of a PeftModel, whose add_adapter leaves the active adapter as it is; transformers' own makes it active."""
    return any(
        (step.kind.startswith("attach") and step.call.maker == "get_peft_model")
        or (step.kind == "load-adapter" and step.call.maker in ADAPTED)
        for step in model.steps
    )


def _activate(library: Library, model: Model, positional: list[Value], named: dict[str, Value]) -> None:
    """``set_adapter(name)`` of an adapter that was added: from here on it is the one that trains."""
    wanted = named.get("adapter_name", positional[0] if positional else None)
    for step in [step for step in model.steps if step.kind == "add-adapter"]:
        name = step.call.arguments.get("adapter_name", step.call.arguments.get(0))
        known = isinstance(wanted, Known) and isinstance(name, Known)
        if not known or wanted.data == name.data:  # type: ignore[union-attr]
            library.step(model, "attach", step.call)
            return


def _as_it_is(trainer: Made) -> Made:
    """A trainer with its model and its arguments, so that what comes later does not change them."""
    kept: dict[object, Value] = {}
    for name, value in trainer.arguments.items():
        if isinstance(value, Model):
            config = _copied(value.config)
            value = Model(value.node, load=value.load, steps=list(value.steps), touched=value.touched, config=config)
        elif isinstance(value, Made):
            value = _copied(value)
        kept[name] = value
    places = dict(trainer.places)
    return Made(trainer.node, maker=trainer.maker, arguments=kept, exact=trainer.exact, why=trainer.why, places=places)


def _copied(made: Made) -> Made:
    arguments, places = dict(made.arguments), dict(made.places)
    return Made(made.node, maker=made.maker, arguments=arguments, exact=made.exact, why=made.why, places=places)


def _name_adapter(call: Made, positional: list[Value]) -> None:
    """transformers' ``add_adapter(config, name)`` and PEFT's ``add_adapter(name, config)``."""
    first = [value for value in positional if isinstance(value, Made)]
    config = first[0] if first else call.arguments.get("adapter_config")
    if config is not None:
        call.arguments.setdefault("peft_config", config)


def _namespace(node: ast.AST, positional: list[Value], named: dict[str, Value], rest: bool) -> Value:
    items = dict(named)
    for value in positional:
        if isinstance(value, Mapping):
            items.update({k: v for k, v in value.items.items() if isinstance(k, str)})
    exact = not rest and all(isinstance(value, Mapping) and value.exact for value in positional)
    return Thing(node, attributes=items, exact=exact)


def _is_short(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
