"""Trainable tensors without a gradient, by the branch of the model that they belong to, and why it has none.

A branch is the largest part of the model below which no tensor got a gradient. That it has none is no fault where the
model is made so: the layers after the one whose output is read (LLaVA's ``vision_feature_layer``), a branch for images
in a batch that brings none, an expert that no token chose, a layer that LayerDrop left out. Where it is a fault, what
cuts the graph is told as far as it was seen: reentrant checkpointing, or a value cast to a packed weight's dtype.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from ...facts.step import BranchWithoutGradient
from ..tensors import is_packed, modules_of, plain_name

_MODALITY = re.compile(r"pixel|patches|image|video|audio|speech|input_features|input_values")
_NO_INPUT = re.compile(r"image_sizes?$|_token|_mask$|grid|_index|output_")
"""Arguments of a forward that describe an input and are none."""
_HEAD = re.compile(r"^(?:head|attention_pool\w*|pool\w*)$")
_CROSS_ATTENTION = re.compile(r"(?i)(?:encoder|cross)_?att(?:n|ention)")
_DROP_PATH = re.compile(r"(?i)drop_?path|stochastic_?depth")
_FEATURE_LAYER = re.compile(r"(?:feature|select)_layers?$")


@dataclass
class Calls:
    """How a training forward called the modules whose tensors got no gradient.

    Attributes:
        called: names of the tensors whose module was called.
        starved: of these, those called by reentrant checkpointing and not computed again with a gradient.
    """

    called: set[str] = field(default_factory=set)
    starved: set[str] = field(default_factory=set)

    def noting(self, name: str) -> Callable[..., None]:
        """A forward hook for the module that holds this tensor."""

        def note(*_: Any) -> None:
            self.called.add(name)
            if torch.is_grad_enabled():
                self.starved.discard(name)
            elif _in_reentrant_checkpoint():
                self.starved.add(name)

        return note


def branches_without_gradient(
    missing: list[str],
    reached: Collection[str],
    calls: Calls | None,
    model: nn.Module,
    inputs: Collection[str],
    integer_inputs: Collection[str] = (),
) -> list[BranchWithoutGradient]:
    """The branches that the tensors without a gradient make up, with what is known of the reason.

    Args:
        missing: names of trainable tensors without a gradient.
        reached: names of those that have one.
        calls: of the modules of the missing ones; None where nobody looked.
        inputs: names of what the batch holds.
        integer_inputs: quantized layers that were given integers.
    """
    seen = _Seen(model, reached, inputs)
    groups: dict[str, list[str]] = {}
    for name in missing:
        groups.setdefault(_branch(name, reached), []).append(name)
    found = []
    for branch, names in groups.items():
        called = None if calls is None else any(name in calls.called for name in names)
        reason, by_design = seen.why(branch, called)
        cause = None if by_design or not called or calls is None else _cause(branch, names, calls, integer_inputs)
        found.append(
            BranchWithoutGradient(
                name=branch,
                tensors=names,
                reason=_CAUSES[cause] if cause is not None else reason,
                by_design=by_design,
                cause=cause,
            )
        )
    return found


_Cause = Literal["checkpointing", "packed-dtype"]
_CAUSES: dict[_Cause, str] = {
    "packed-dtype": "the model casts what it computes with to the dtype of a packed weight, uint8",
    "checkpointing": "reentrant checkpointing computes it without a graph, because nothing that enters it carries a "
    "gradient",
}


def _cause(branch: str, names: list[str], calls: Calls, integer_inputs: Collection[str]) -> _Cause | None:
    if any(plain_name(layer).startswith(f"{branch}.") or plain_name(layer) == branch for layer in integer_inputs):
        return "packed-dtype"
    return "checkpointing" if calls.starved.issuperset(names) else None


def _in_reentrant_checkpoint() -> bool:
    """Whether torch's reentrant checkpoint is what calls: its function's forward is on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class IntegerInputs:
    """Notes which quantized layers are given integers, by hooks on them.

    Some models cast their input to the dtype of a layer's weight (``pixels.to(self.proj.weight.dtype)``), which is a
    float only as long as the weight is not packed: in 4-bit the values are cut to whole numbers from 0 to 255.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: list[str] = []
        self._handles = [
            module.register_forward_pre_hook(self._noting(plain_name(name).removesuffix(".base_layer")))
            for name, module in modules_of(model)
            if is_packed(getattr(module, "weight", None), module)
        ]

    def _noting(self, name: str) -> Callable[..., None]:
        def note(_: nn.Module, given: tuple[Any, ...]) -> None:
            first = given[0] if given else None
            if isinstance(first, torch.Tensor) and not first.is_floating_point() and name not in self.names:
                self.names.append(name)

        return note

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def owners(model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """The modules that hold these tensors, by the tensors' names."""
    wanted = set(names)
    found = {}
    for prefix, module in modules_of(model):
        for name in module._parameters:
            full = plain_name(f"{prefix}.{name}" if prefix else name)
            if full in wanted:
                found[full] = module
    return found


def left_out_at_random(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of names of what stochastic depth drops: the blocks that hold a DropPath with a rate above zero.

    A dropped block is multiplied by zero, so that its tensors get a gradient of exactly zero in that step.
    """
    found = []
    for name, module in modules_of(model):
        if _DROP_PATH.search(type(module).__name__):
            rates = (getattr(module, attribute, None) for attribute in ("drop_prob", "drop_path_prob", "p"))
            block = plain_name(name).rpartition(".")[0]
            if block and any(_is_positive(rate) for rate in rates):
                found.append(f"{block}.")
    return tuple(dict.fromkeys(found))


class _Seen:
    """What the reasons are drawn from."""

    def __init__(self, model: nn.Module, reached: Collection[str], inputs: Collection[str]) -> None:
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._model = model
        self._reached = reached
        self._trunk = _trunk(base)
        self._configs = list(_configs(getattr(base, "config", None)))
        arguments = _arguments(base)
        self._lacking = [name for name in arguments if _is_modal(name) and name not in inputs]
        # A decoder alone; the whole model has decoder_input_ids as well, and runs the encoder itself.
        states = {"encoder_hidden_states", "encoder_outputs"} & set(arguments)
        self._reads_encoder = bool(states) and not states & set(inputs) and "decoder_input_ids" not in arguments

    def why(self, branch: str, called: bool | None) -> tuple[str, bool]:
        """A reason as the end of a sentence, and whether the model is made so."""
        if called is None:
            return "whether the forward calls it was not looked at", False
        if not called:
            if ".experts." in f".{branch}.":
                return "no token of the batch chose it", True
            if self._lacking:
                return f"the batch has no {' and no '.join(self._lacking)}, and the forward does not call it", True
            if self._reads_encoder and _CROSS_ATTENTION.search(branch):
                return "the batch has no encoder_hidden_states, and the forward does not call it", True
            if any(_is_positive(value) for name, value in self._settings() if "layerdrop" in name):
                return "LayerDrop leaves layers out at random", True
            if (twin := self._twin(branch)) is not None:
                return f"its weights are those of {twin} too, by which the forward reads them", True
            if self._is_untaken_path(branch):
                return "the forward takes the path beside it", True
            return "the forward never calls it", False
        if self._is_tail(branch):
            named = [f"{name} = {value}" for name, value in self._settings() if _FEATURE_LAYER.search(name)]
            setting = f" ({', '.join(dict.fromkeys(named))})" if named else ""
            return f"what follows reads the hidden states before it{setting}, so that nothing uses its output", True
        if ".indexer." in f".{branch}.":
            return "it chooses the positions that are attended to, and a choice has no gradient", True
        if self._is_unread_head(branch):
            return "nothing reads its output, while the rest of its tower reaches the loss", True
        return "the forward calls it, and the graph is cut between it and the loss", False

    def _twin(self, branch: str) -> str | None:
        """Another part of the model that holds the same weights and reaches the loss; None where there is none.

        Zamba 2's blocks share their weights, and each block holds the small layers of all of them.
        """
        holders: dict[int, list[str]] = {}
        for name, module in self._model.named_modules(remove_duplicate=False):
            base = getattr(module, "base_layer", None)
            weight = getattr(base, "weight", None)
            if weight is not None:
                holders.setdefault(id(weight), []).append(plain_name(name))
        inside = [names for names in holders.values() if any(f"{name}.".startswith(f"{branch}.") for name in names)]
        twins = []
        for names in inside:
            others = [name for name in names if not f"{name}.".startswith(f"{branch}.")]
            twins.append(next((o for o in others if any(r.startswith(f"{o}.") for r in self._reached)), None))
        return twins[0] if twins and all(twin is not None for twin in twins) else None

    def _is_untaken_path(self, branch: str) -> bool:
        """Whether it is one of several ways within a part beside the trunk, another of which reaches the loss.

        A connector for fine tiles, of which the batch has none, or a merger of a layer that the tower does not have.
        """
        home = branch.rpartition(".")[0]
        if self._trunk is None or not home or self._trunk.startswith(f"{home}."):
            return False
        return not branch.startswith(self._trunk) and any(other.startswith(f"{home}.") for other in self._reached)

    def _is_tail(self, branch: str) -> bool:
        """Whether it is a layer beside the trunk whose earlier layers get a gradient and whose later ones do not.

        The graph is then whole, and the output of this layer has no part in the loss.
        """
        stack, _, index = branch.rpartition(".")
        if not index.isdecimal() or (self._trunk is not None and branch.startswith(self._trunk)):
            return False
        depth = [int(rest) for name in self._reached if (rest := _below(name, stack)) is not None]
        return bool(depth) and int(index) > max(depth)

    def _is_unread_head(self, branch: str) -> bool:
        """Whether it is the head of a tower beside the trunk, such as SigLIP's pooling, whose layers are read."""
        home, _, name = branch.rpartition(".")
        if not _HEAD.search(name) or not home or (self._trunk is not None and branch.startswith(self._trunk)):
            return False
        return any(other.startswith(f"{home}.") for other in self._reached)

    def _settings(self) -> Iterator[tuple[str, Any]]:
        for config in self._configs:
            yield from vars(config).items()


def _branch(name: str, reached: Collection[str]) -> str:
    """The largest part of the model that holds this tensor and none with a gradient."""
    parts = re.split(r"\.(?:lora_|modules_to_save|trainable_tokens_|base_layer)", name)[0].split(".")
    for end in range(1, len(parts)):
        prefix = ".".join(parts[:end]) + "."
        if not any(other.startswith(prefix) for other in reached):
            return prefix[:-1]
    return ".".join(parts)


def _below(name: str, stack: str) -> str | None:
    """The number of the layer of a stack that a tensor lies in."""
    if not name.startswith(f"{stack}."):
        return None
    number = name[len(stack) + 1 :].partition(".")[0]
    return number if number.isdecimal() else None


def _trunk(base: Any) -> str | None:
    """The part of the model that the token embeddings belong to: its layers all have to reach the loss."""
    try:
        embeddings = base.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    for name, module in base.named_modules():
        if module is embeddings:
            home = plain_name(name).rpartition(".")[0]
            return f"{home}." if home else None
    return None


def _configs(config: Any) -> Iterator[Any]:
    """A config and those inside of it."""
    if config is None or isinstance(config, dict) or not hasattr(config, "__dict__"):
        return
    yield config
    for value in vars(config).values():
        if type(value).__name__.endswith("Config") and hasattr(value, "to_dict"):
            yield from _configs(value)


def _arguments(base: Any) -> list[str]:
    """Arguments of the model's forward."""
    try:
        return list(inspect.signature(type(base).forward).parameters)
    except (TypeError, ValueError):
        return []


def _is_modal(argument: str) -> bool:
    """Whether an argument of a forward brings images, video or sound."""
    return bool(_MODALITY.search(argument)) and not _NO_INPUT.search(argument)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
