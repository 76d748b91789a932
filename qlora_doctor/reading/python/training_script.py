"""What a training script builds: which model is loaded and how, what is attached to it, and who trains it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ...core.files import json_mapping
from ...setup.paths import resolve
from ...setup.setup import Setup
from .arguments import TRAINING_CLASSES
from .hf_calls import MODEL_CONFIG, Library
from .neighbours import Neighbours
from .provenance import is_outer
from .scopes import Exhausted, Seen
from .source import Source
from .values import Class, Function, Known, Listing, Made, Mapping, Model, Step, Unknown, Value, merged_calls

_TELLING = (
    *("from_pretrained", "LoraConfig", "BitsAndBytesConfig", "get_peft_model"),
    *("TrainingArguments", "Trainer", "SFTConfig"),
)
_Node = TypeVar("_Node", bound=ast.AST)
_SEVERAL = "The script sets it in several ways."


@dataclass
class TrainingScript:
    """What a script builds.

    Attributes:
        seen: everything that was met.
        trainer: the call of a Trainer, as it stood when ``train`` was called; None where there is none.
        model: the model that is trained; None where it is not known which one.
        runs: how many different trainings the script has.
        whole: the script was understood from the load of the model to its training, so that what is absent is absent.
        folders: the script's folder and those above it, up to the project's.
        unfolded: the base of the adapter's folder that from_pretrained is given in place of a model's: transformers
            loads that base, and the adapter into it, for inference.
        sources: the script, and the modules beside it that were followed.
    """

    seen: Seen
    trainer: Made | None = None
    model: Model | None = None
    runs: int = 0
    whole: bool = True
    sources: list[Source] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    unfolded: str | None = None

    @cached_property
    def code(self) -> str:
        """The code of all sources."""
        return "\n".join(source.code for source in self.sources)

    @property
    def evaluates_by_hand(self) -> bool:
        """True where the script itself calls evaluate or predict."""
        return re.search(r"\.(evaluate|predict)\(", self.code) is not None

    def nodes(self, kind: type[_Node]) -> Iterator[tuple[Source, _Node]]:
        """The nodes of one kind in all sources, each with its source."""
        for source in self.sources:
            for node in source.nodes:
                if isinstance(node, kind):
                    yield source, node

    @property
    def is_unsloth(self) -> bool:
        """True where Unsloth loads the model or attaches the adapter."""
        if self.model is None:
            return False
        loaded = self.model.load is not None and self.model.load.maker.startswith("Fast")
        return loaded or any(step.kind == "attach-unsloth" for step in self.model.steps)

    @property
    def steps(self) -> list[Step]:
        """What is done with the model before it is trained."""
        return self.model.steps if self.model is not None else []

    def only(self, *makers: str) -> Made | None:
        """The call of any of these makers, where a single one stands in the script; else None."""
        found = [call for call, _ in self.seen.calls if call.maker in makers]
        if len({id(call.node) for call in found}) != 1:
            return None
        return merged_calls(found, _SEVERAL)

    def given(self, name: str, position: int | str = "") -> Value | None:
        """What the trainer is given under this name, or at this position; None where it is given nothing."""
        if self.trainer is None:
            return None
        value = argument(self.trainer, name, position)
        if isinstance(value, Known) and value.data is None and is_outer(value.given):
            return Unknown(value.node, why=f"The {value.given} decides.")
        if value is None and not self.trainer.exact:
            return Unknown(self.trainer.node, why=self.trainer.why)
        return None if isinstance(value, Known) and value.data is None else value

    def arguments(self) -> Value | None:
        """The TrainingArguments (or what takes their place); None where the trainer is given none."""
        given = self.given("args", 1)
        if isinstance(given, Made) and given.maker in TRAINING_CLASSES:
            return given
        if self.trainer is not None and given is None:
            return None
        alone = self.only(*TRAINING_CLASSES)
        if alone is not None or given is None:
            return alone
        return given if isinstance(given, Unknown) else Unknown(given.node)

    def quantization(self) -> Value | None:
        """``quantization_config`` of the load; None where there is none."""
        alone = self.only("BitsAndBytesConfig")
        if self.model is None or self.model.load is None:
            plain = (other for other in self.seen.models if other.load is not None and not _is_quantized(other))
            if alone is not None and next(plain, None) is not None:
                return Unknown(alone.node, why="Several models are loaded, and not each of them with it.")
            return alone
        given = self.model.load.arguments.get("quantization_config")
        if isinstance(given, Known) and given.data is None:
            return Unknown(given.node, why=f"The {given.given} decides.") if is_outer(given.given) else None
        return given

    @property
    def continued(self) -> Step | None:
        """The step that loads the adapter whose training goes on; None where a new one trains.

        An adapter that is loaded before a new one is attached to the same base stays beside it, frozen, and one that is
        loaded into a model which has an adapter does not become the active one (peft 0.21: ``get_peft_model``,
        ``PeftModel.load_adapter``) before ``set_adapter`` names it.
        """
        return self._active[0]

    @property
    def thawed(self) -> bool:
        """Whether ``set_adapter`` names the adapter whose training goes on, and so lets it train."""
        return self._active[1]

    @property
    def _active(self) -> tuple[Step | None, bool]:
        load = self.model.load if self.model is not None and self.unfolded is not None else None
        found = Step("load-adapter", replace(load, maker="load_adapter")) if load is not None else None
        thawed = False
        adapters: dict[object, Step] = {}
        for step in self.steps:
            if step.kind in ("attach", "attach-unsloth"):
                found = None if step.sure else found
                if step.sure:
                    adapters[adapter_name(step)] = step
            elif step.kind == "load-adapter":
                if not adapters:
                    found, thawed = step, False
                if step.sure:
                    adapters[adapter_name(step)] = step
            elif step.kind == "merge" and step.sure:
                found, thawed, adapters = None, False, {}
            elif step.kind == "thaw" and adapters:
                name = argument(step.call, "adapter_name", 0)
                wanted = name.data if isinstance(name, Known) else None
                named = adapters.get(wanted) if wanted is not None and None not in adapters else None
                if named is None and len(adapters) == 1:
                    named = next(iter(adapters.values()))
                if named is None:  # it may be any of them
                    loaded = next((each for each in adapters.values() if each.kind == "load-adapter"), None)
                    found, thawed = (replace(loaded, sure=False) if loaded is not None else None), False
                else:
                    found = named if named.kind == "load-adapter" else None
                    thawed = found is not None and "inference_mode" not in step.call.arguments
        return found, thawed

    def leaves_out(self, *names: str) -> bool:
        """True where any of these names stands in a branch that an argument of the script would lead to."""
        return not self.seen.left_out.isdisjoint(names)

    def adapter(self) -> Value | None:
        """The LoraConfig that is attached, by get_peft_model or by the trainer; None where none is."""
        for step in self.steps:
            if step.kind == "attach-unsloth":
                return step.call
            config = argument(step.call, "peft_config", 1) if step.kind == "attach" else None
            if config is not None:
                return config
        return self.given("peft_config")


def adapter_name(step: Step) -> object:
    """Under which name a step adds an adapter; None where the script works it out."""
    maker, first = step.call.maker, step.call.arguments.get(0)
    if maker == "add_adapter" and isinstance(first, Known):  # PEFT's; transformers' has the config first
        return first.data
    name = argument(step.call, "adapter_name", 1 if maker in ("add_adapter", "load_adapter") else 2)
    if name is None:
        return "default" if step.call.exact else None
    return name.data if isinstance(name, Known) else None


def follow_script(source: Source) -> TrainingScript:
    """Follow a script and find what it trains.

    Raises:
        RecursionError: it is nested too deeply.
    """
    machine = Library(source.tree, source.where)
    machine.place_of = source.place
    machine.look_around(Neighbours(Path(source.file) if source.file is not None else None))
    seen = machine.run()
    called = True
    if not _has_trainer(seen):
        called = not _follow_the_rest(machine)
    script = TrainingScript(seen, sources=[source, *machine.sources], folders=machine.neighbours.folders)
    script.trainer, script.runs = _trainer(seen)
    if not called and script.runs > 1:  # tests, or a library: nobody knows which of its trainings is meant
        return TrainingScript(seen, runs=script.runs, whole=False, sources=script.sources, folders=script.folders)
    script.model = _model(script)
    script.whole = (
        called
        and not seen.exhausted
        and not source.skipped
        and script.trainer is not None
        and script.model is not None
        and script.model.load is not None
        and script.model.touched is None
    )
    script.unfolded = _base_of_folder(script, source)
    return script


def _base_of_folder(script: TrainingScript, source: Source) -> str | None:
    load = script.model.load if script.model is not None else None
    if load is None or not load.maker.startswith(("AutoModel", "AutoPeft")) or script.adapter() is not None:
        return None  # a new adapter would take the place of the stored one
    name = argument(load, "pretrained_model_name_or_path", 0)
    if not isinstance(name, Known) or not isinstance(name.data, str):
        return None
    folder = resolve(Setup(file=source.file), name.data)
    if folder is None or (folder / "config.json").is_file():
        return None
    base = (json_mapping(folder / "adapter_config.json", 16 << 20) or {}).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def _has_trainer(seen: Seen) -> bool:
    return any(call.maker.endswith("Trainer") for call, _ in seen.calls)


def _follow_the_rest(machine: Library) -> bool:
    """Follow functions and classes that nobody in the file calls, in their order; True where there are any."""
    machine.seen.exhausted = False
    machine.steps = 0
    any_left = False
    try:
        for value in list(machine.module.names.values()):
            if getattr(value.node, "source", None) is not None:
                continue  # of another module
            if isinstance(value, Function) and id(value.body) not in machine.seen.functions and _tells(value.body):
                any_left = True
                machine.call_function(value, [], {}, rest=True)
            elif isinstance(value, Class) and value.body is not None and _tells(value.body):
                any_left = True
                _follow_class(machine, value)
    except Exhausted:
        machine.seen.exhausted = True
    return any_left


def _follow_class(machine: Library, owner: Class) -> None:
    assert owner.body is not None
    thing = machine.instantiate(owner, owner.body, [], {}, rest=True)
    for statement in owner.body.body:
        if isinstance(statement, ast.FunctionDef) and id(statement) not in machine.seen.functions:
            method = machine.attribute(thing, statement.name, statement)
            if isinstance(method, Function):
                machine.call_function(method, [], {}, rest=True)


def _tells(node: ast.AST | None) -> bool:
    if node is None:
        return False
    for inner in ast.walk(node):
        name = inner.id if isinstance(inner, ast.Name) else inner.attr if isinstance(inner, ast.Attribute) else ""
        if name.endswith(_TELLING):
            return True
    return False


def _trainer(seen: Seen) -> tuple[Made | None, int]:
    """(the trainer of the first training, how many trainings there are)."""
    found = seen.runs or [call for call, _ in seen.calls if call.maker.endswith("Trainer")]
    if not found:
        return None, 0
    places = {id(call.node): call for call in found}
    first = next((call for call in found if isinstance(argument(call, "model", 0), Model)), found[0])
    same = [call for call in found if call.node is first.node and call.maker == first.maker]
    return merged_calls(same, _SEVERAL), len(places)


def _model(script: TrainingScript) -> Model | None:
    """The trainer's model; without a trainer, the one that something is attached to, or the only one."""
    trained = argument(script.trainer, "model", 0) if script.trainer is not None else None
    if isinstance(trained, Model):
        return trained if trained.load is not None else _loaded_elsewhere(script, trained)
    if isinstance(trained, Known) and isinstance(trained.data, str) and script.trainer is not None:
        return _loaded_by_trainer(script, script.trainer, trained)
    models = script.seen.models
    likely = [model for model in models if _is_quantized(model)] or models
    if len({id(model.node) for model in likely}) != 1:
        likely = [model for model in models if any(step.kind.startswith("attach") for step in model.steps)]
        if len({id(model.node) for model in likely}) != 1:
            return None
    chosen = likely[0]
    why = trained.why if isinstance(trained, Unknown) else "Nothing in the script is seen to train it."
    touched = chosen.touched or why
    found = Model(chosen.node, load=chosen.load, steps=chosen.steps, touched=touched, config=chosen.config)
    return found if found.load is not None else _loaded_elsewhere(script, found)


def _loaded_elsewhere(script: TrainingScript, model: Model) -> Model:
    """A model that one function of the script loads and another adapts, where only one is loaded."""
    loads = [other.load for other in script.seen.models if other.load is not None]
    if len({id(load.node) for load in loads}) != 1:
        return model
    return Model(model.node, load=loads[0], steps=model.steps, touched=model.touched, config=model.config)


def _is_quantized(model: Model) -> bool:
    return model.load is not None and bool(model.load.arguments.keys() & {"quantization_config", "load_in_4bit"})


def _loaded_by_trainer(script: TrainingScript, trainer: Made, name: Known) -> Model:
    """A trainer that is given a model's name loads it with ``model_init_kwargs``."""
    options = script.given("model_init_kwargs")
    arguments = argument(trainer, "args", 1)
    if options is None and isinstance(arguments, Made):
        options = arguments.arguments.get("model_init_kwargs")
        if options is None and not arguments.exact:
            options = Unknown(arguments.node, why=arguments.why)
    if isinstance(options, Known) and options.data is None:
        options = None
    named = dict(options.items) if isinstance(options, Mapping) else {}
    quantization = script.given("quantization_config")
    if quantization is not None:
        named["quantization_config"] = quantization
    exact = options is None or (isinstance(options, Mapping) and options.exact)
    why = "" if exact else options.why if isinstance(options, Unknown) else "model_init_kwargs is not fully known."
    place = trainer.places.get("model", trainer.node)
    places = {0: place} if place is not None else {}
    load = Made(trainer.node, maker="model", arguments={0: name, **named}, exact=exact, why=why, places=places)
    return Model(trainer.node, load=load, config=Made(trainer.node, maker=MODEL_CONFIG))


def argument(call: Made, name: str, position: int | str) -> Value | None:
    """An argument by name, or by position where it is passed so."""
    return call.arguments.get(name, call.arguments.get(position))


class Opaque(Exception):
    """Part of a value is not known."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def flat(value: Value) -> object:
    """A value as plain data.

    Raises:
        Opaque: part of it is not known.
    """
    left = [2_000]
    return _flat(value, left, 12)


def _flat(value: Value, left: list[int], depth: int) -> object:
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise Opaque("It is very large.")
    if isinstance(value, Known):
        return value.data
    if isinstance(value, Listing) and value.exact:
        return [_flat(item, left, depth - 1) for item in value.items]
    if isinstance(value, Mapping) and value.exact:
        return {key: _flat(item, left, depth - 1) for key, item in value.items.items()}
    if isinstance(value, Unknown):
        raise Opaque(value.why)
    raise Opaque("It is put together while the script runs.")
