"""The base's modules by their own names, whatever PEFT wrapped around them; on meta, CPU or CUDA alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .naming import find_stack, kind_of
from .sizes import elements, is_4bit

HEAD_NAMES = ("score", "classifier", "classification_head", "qa_outputs")
"""Task heads at the top of a model that get_output_embeddings does not name."""
_NO_WEIGHT = re.compile(r"bias|pos|embed|token|norm|scale|quer|gate|router|a_log|table|prompt|latent|freq|mask|conv")
"""Parts of the names of parameters that are no weights of a product: tables, learned queries, states."""
_SMALLEST = 64
"""Rows and columns of a weight at least: bitsandbytes' block, and more than any state matrix of Mamba has."""
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")


@dataclass(frozen=True, eq=False)
class Part:
    """A module of the base.

    Attributes:
        name: as in the base without an adapter.
        module: the base's own module.
        lora: PEFT's layers around it, outermost first (several where several parameters of it are adapted).
        saved: the trained copy that modules_to_save made of it or of a module above it.
        tokens: PEFT's layer that trains single rows of an embedding (trainable_token_indices).
    """

    name: str
    module: nn.Module
    lora: tuple[Any, ...] = ()
    saved: nn.Module | None = None
    tokens: nn.Module | None = None


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer: nn.Linear and its subclasses, bitsandbytes' included, and transformers' Conv1D."""

    part: Part
    parameters: int
    in_features: int
    out_features: int

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def kind(self) -> str:
        return kind_of(self.part.name)

    @property
    def weight(self) -> Any:
        return self.part.module.weight

    @property
    def four_bit(self) -> bool:
        return is_4bit(self.part.module.weight, self.part.module)

    @property
    def source_class(self) -> type[nn.Module]:
        """The class that it had before it was converted to 4-bit."""
        return getattr(self.part.module, "source_cls", None) or type(self.part.module)

    @property
    def adapted(self) -> bool:
        return bool(self.part.lora)


@dataclass(frozen=True, eq=False)
class ExpertWeight:
    """The weights of all experts of a layer in one parameter, ``[experts, …, …]``."""

    name: str
    parameter: Any
    adapted: bool


class Inventory:
    """What a model is made of.

    Args:
        model: a PeftModel, a transformers model with or without adapters, or any ``nn.Module``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        self.base = base_of(self.model)
        self.parts = list(_parts(self.base))

    @cached_property
    def config(self) -> Any:
        """The transformers config of the text model, None for other modules."""
        config: Any = getattr(self.base, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @cached_property
    def by_name(self) -> dict[str, Part]:
        return {part.name: part for part in self.parts}

    @cached_property
    def stack(self) -> str | None:
        """Name of the list of layers: the decoder's, where a tower for images beside it may have more of them."""
        decoder = self._part_got("get_decoder")
        names = [part.name for part in self.parts]
        inside = [name for name in names if name.startswith(f"{decoder.name}.")] if decoder is not None else []
        return find_stack(inside) or find_stack(names)

    @cached_property
    def total_layers(self) -> int:
        if self.stack is None:
            return 0
        return len(list(self.by_name[self.stack].module.children())) if self.stack in self.by_name else 0

    @cached_property
    def linears(self) -> list[Linear]:
        """All linear layers, heads included, in the order of the model."""
        return [_linear(part) for part in self.parts if is_linear(part.module)]

    @cached_property
    def head(self) -> Part | None:
        """The output head: what get_output_embeddings names."""
        return self._part_got("get_output_embeddings")

    @cached_property
    def task_heads(self) -> list[Part]:
        """Linear heads of a classification task, by name."""
        return [part for part in self.parts if part.name.split(".")[0] in HEAD_NAMES and is_linear(part.module)]

    @cached_property
    def heads(self) -> list[Part]:
        return [*([self.head] if self.head is not None else []), *self.task_heads]

    @cached_property
    def layer_linears(self) -> list[Linear]:
        """Linear layers without the heads."""
        heads = {id(part) for part in self.heads}
        return [linear for linear in self.linears if id(linear.part) not in heads]

    @cached_property
    def embeddings(self) -> list[Part]:
        """Embedding tables, of tokens and of positions."""
        return [part for part in self.parts if isinstance(part.module, nn.Embedding)]

    @cached_property
    def input_embedding(self) -> Part | None:
        return self._part_got("get_input_embeddings")

    @cached_property
    def tied(self) -> bool:
        """Whether the output head's weight is the input embedding's, or would be if modules_to_save had no copy."""
        if self.head is None or self.input_embedding is None:
            return False
        return getattr(self.head.module, "weight", None) is getattr(self.input_embedding.module, "weight", 0)

    @cached_property
    def experts(self) -> list[ExpertWeight]:
        """Routed experts that are held in one parameter for all, which no linear layer shows: 3-D, in DBRX 2-D."""
        count = self.expert_count
        found = []
        for part in self.parts:
            if isinstance(part.module, nn.modules.conv._ConvNd) or is_linear(part.module):
                continue
            for name, parameter in part.module.named_parameters(recurse=False):
                full = f"{part.name}.{name}"
                named = "expert" in full.lower()
                if (parameter.ndim == 3 and (parameter.shape[0] == count or named)) or (
                    named and _is_matrix(name, parameter)
                ):
                    adapted = any(getattr(layer, "parameter_name", None) == name for layer in part.lora)
                    found.append(ExpertWeight(full, parameter, adapted))
        return found

    @cached_property
    def raw_weights(self) -> list[ExpertWeight]:
        """Weights that a module holds itself and multiplies with, no linear layer and no expert (XLNet)."""
        experts = {weight.name for weight in self.experts}
        routers = {id(part) for part in self.routers}
        found = []
        for part in self.parts:
            if _is_known_layer(part.module) or id(part) in routers:
                continue
            for name, parameter in part.module.named_parameters(recurse=False):
                full = f"{part.name}.{name}" if part.name else name
                if full not in experts and _is_matrix(name, parameter):
                    adapted = any(getattr(layer, "parameter_name", None) == name for layer in part.lora)
                    found.append(ExpertWeight(full, parameter, adapted))
        return found

    @cached_property
    def expert_linears(self) -> list[Linear]:
        """Routed experts that are linear layers of their own (transformers 4)."""
        return [linear for linear in self.linears if ".experts." in f".{linear.name}."]

    @cached_property
    def expert_count(self) -> int | None:
        for name in _EXPERT_COUNTS:
            value = getattr(self.config, name, None)
            if isinstance(value, int) and value > 1:
                return value
        return None

    @cached_property
    def routers(self) -> list[Part]:
        """Modules that choose the experts: beside a module ``experts``, one output for each expert."""
        if self.expert_count is None:
            return []
        homes = {part.name.rpartition(".")[0] for part in self.parts if kind_of(part.name) == "experts"}
        found = []
        for part in self.parts:
            home, _, _ = part.name.rpartition(".")
            weight = part.module._parameters.get("weight")
            if home in homes and weight is not None and kind_of(part.name) != "experts":
                rows = part.module.out_features if is_linear(part.module) else weight.shape[0]
                if rows == self.expert_count:
                    found.append(part)
        return found

    @cached_property
    def module_kinds(self) -> list[str]:
        """Last names of the linear layers without the heads, in the order of the model."""
        return list(dict.fromkeys(linear.kind for linear in self.layer_linears))

    def parameters(self) -> Iterator[tuple[str, Any, nn.Module]]:
        """The base's own parameters with their layer, a shared one once; no adapter, no trained copy."""
        seen: set[int] = set()
        for part in self.parts:
            for name, parameter in part.module.named_parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{part.name}.{name}" if part.name else name), parameter, part.module

    def buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The base's own buffers, a shared one once."""
        seen: set[int] = set()
        for part in self.parts:
            for name, buffer in part.module.named_buffers(recurse=False):
                if id(buffer) not in seen:
                    seen.add(id(buffer))
                    yield (f"{part.name}.{name}" if part.name else name), buffer

    def _part_got(self, getter: str) -> Part | None:
        """What a method of the model names; None where it has none, or names nothing."""
        try:
            module = getattr(self.base, getter)()
        except (AttributeError, NotImplementedError, TypeError):
            module = None
        return self._part_of(module) if module is not None else None

    def _part_of(self, module: nn.Module) -> Part | None:
        inner = _strip(module)[0]
        return next((part for part in self.parts if part.module is inner), None)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and (distributed) data parallel's wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            model = model.module
        else:
            return model


def base_of(model: nn.Module) -> nn.Module:
    """The model that PEFT wrapped, or the model itself."""
    from peft import PeftModel

    while isinstance(model, PeftModel):
        model = model.get_base_model()
    return model


def is_linear(module: nn.Module) -> bool:
    """nn.Linear and its subclasses, and transformers' Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _is_known_layer(module: nn.Module) -> bool:
    """Layers whose own parameters are what their class says: matrices of linear layers, tables, filters, norms."""
    known = (nn.Embedding, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    return is_linear(module) or isinstance(module, known) or "norm" in type(module).__name__.lower()


def _is_matrix(name: str, parameter: Any) -> bool:
    """Whether a parameter of a module's own is a weight by its size, and no table, bias, gate or state matrix."""
    if parameter.ndim < 2 or _NO_WEIGHT.search(name.lower()):
        return False
    first, rest = int(parameter.shape[0]), parameter.numel() // max(1, int(parameter.shape[0]))
    return bool(min(first, rest) >= _SMALLEST)


def is_conv1d(linear: Linear) -> bool:
    """Whether the layer was made as transformers' Conv1D, which stores its weight transposed."""
    return linear.source_class.__name__ == "Conv1D"


def _linear(part: Part) -> Linear:
    module = part.module
    if hasattr(module, "in_features"):
        inputs, outputs = int(module.in_features), int(module.out_features)
    else:
        inputs, outputs = (int(size) for size in module.weight.shape)
    return Linear(part, elements(module.weight, module), inputs, outputs)


def _parts(base: nn.Module) -> Iterator[Part]:
    seen: set[int] = set()

    def walk(name: str, module: nn.Module, saved: nn.Module | None) -> Iterator[Part]:
        inner, lora, copy, tokens = _strip(module)
        if id(inner) in seen:
            return
        seen.add(id(inner))
        saved = copy if copy is not None else saved
        yield Part(name, inner, lora, saved, tokens)
        for child_name, child in inner.named_children():
            below = getattr(saved, child_name, None) if saved is not None else None
            yield from walk(f"{name}.{child_name}" if name else child_name, child, below)

    yield from walk("", base, None)


def _strip(module: nn.Module) -> tuple[nn.Module, tuple[Any, ...], nn.Module | None, nn.Module | None]:
    """The base's own module, the LoRA layers around it, modules_to_save's copy, and the layer that trains tokens."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    lora: list[Any] = []
    saved: nn.Module | None = None
    tokens: nn.Module | None = None
    while True:
        if isinstance(module, BaseTunerLayer):
            lora.append(module)
            module = module.base_layer
        elif isinstance(module, AuxiliaryTrainingWrapper):
            if isinstance(module, ModulesToSaveWrapper):
                saved = next(iter(module.modules_to_save.values()), None)
            else:
                tokens = module
            module = module.original_module
        else:
            return module, tuple(lora), saved, tokens
