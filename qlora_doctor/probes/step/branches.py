"""Trainable tensors without a gradient, by the branch of the model that they belong to, and why it has none.

A branch is the largest part of the model below which no tensor got a gradient. That it has none is no fault where the
model is made so: the layers after the one whose output is read (LLaVA's ``vision_feature_layer``), a branch for images
in a batch that brings none, an expert that no token chose, a layer that LayerDrop left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from torch import nn

from ...facts.step import BranchWithoutGradient
from ..tensors import plain_name

_MODALITY = re.compile(r"pixel|image|video|audio|speech|input_features|input_values")
_NO_INPUT = re.compile(r"image_sizes?$|_token|_mask$|grid|_index|output_")
"""Arguments of a forward that describe an input and are none."""
_HEAD = re.compile(r"^(?:head|attention_pool\w*|pool\w*)$")
_FEATURE_LAYER = re.compile(r"(?:feature|select)_layers?$")


def branches_without_gradient(
    missing: list[str],
    reached: Collection[str],
    called: Collection[str] | None,
    model: nn.Module,
    inputs: Collection[str],
) -> list[BranchWithoutGradient]:
    """The branches that the tensors without a gradient make up, with what is known of the reason.

    Args:
        missing: names of trainable tensors without a gradient.
        reached: names of those that have one.
        called: of the missing ones, those whose module a training forward called; None where nobody looked.
        inputs: names of what the batch holds.
    """
    seen = _Seen(model, reached, inputs)
    groups: dict[str, list[str]] = {}
    for name in missing:
        groups.setdefault(_branch(name, reached), []).append(name)
    found = []
    for branch, names in groups.items():
        known = None if called is None else any(name in called for name in names)
        reason, by_design = seen.why(branch, known)
        found.append(BranchWithoutGradient(name=branch, tensors=names, reason=reason, by_design=by_design))
    return found


def owners(model: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """The modules that hold these tensors, by the tensors' names."""
    wanted = set(names)
    found = {}
    for prefix, module in model.named_modules():
        for name in module._parameters:
            full = plain_name(f"{prefix}.{name}" if prefix else name)
            if full in wanted:
                found[full] = module
    return found


class _Seen:
    """What the reasons are drawn from."""

    def __init__(self, model: nn.Module, reached: Collection[str], inputs: Collection[str]) -> None:
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._reached = reached
        self._trunk = _trunk(base)
        self._configs = list(_configs(getattr(base, "config", None)))
        self._lacking = [name for name in _modal_inputs(base) if name not in inputs]

    def why(self, branch: str, called: bool | None) -> tuple[str, bool]:
        """A reason as the end of a sentence, and whether the model is made so."""
        if called is None:
            return "whether the forward calls it was not looked at", False
        if not called:
            if ".experts." in f".{branch}.":
                return "no token of the batch chose it", True
            if self._lacking:
                return f"the batch has no {' and no '.join(self._lacking)}, and the forward does not call it", True
            if any(_is_positive(value) for name, value in self._settings() if "layerdrop" in name):
                return "LayerDrop leaves layers out at random", True
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


def _modal_inputs(base: Any) -> list[str]:
    """Arguments of the model's forward that bring images, video or sound."""
    import inspect

    try:
        arguments = inspect.signature(type(base).forward).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in arguments if _MODALITY.search(name) and not _NO_INPUT.search(name)]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
