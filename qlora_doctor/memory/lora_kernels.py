"""axolotl's LoRA kernels on tensors without storage: what they allocate and what they keep for the backward pass.

axolotl puts a base's product and its adapter's into one autograd function, for queries, keys and values, for the
attention's output, and for a whole MLP: weights are dequantized and let go at once, results are added to in place, and
of an MLP only gate and up are kept. Their own code needs Triton and a GPU, so it is restated here with its
allocations and without its arithmetic. Source: axolotl 0.19, ``kernels/lora.py`` (``matmul_lora``, ``LoRA_QKV``,
``LoRA_O``, ``LoRA_MLP``), ``kernels/quantize.py`` and ``monkeypatch/lora_kernels.py``, which says where they go.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch

from .kernel_switches import LoraKernels

_QKV = ("q_proj", "k_proj", "v_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


def unfit(model: Any, kernels: LoraKernels) -> str | None:
    """Why a model's step with the kernels is not predicted, as the subject of a sentence; None where it is."""
    of = f"axolotl's LoRA kernels in a model of type {model.config.model_type}"
    layers = _layers(model)
    if layers is None or not all(_reads_once(layer) for layer in layers if kernels.qkv or kernels.o):
        return of
    if kernels.mlp and _activation(model) is None:
        return of
    for module in model.modules():
        if getattr(module, "lora_magnitude_vector", None):
            return "axolotl's LoRA kernels with DoRA"
        if getattr(module, "lora_embedding_A", None):
            return "axolotl's LoRA kernels with an adapter on embeddings"
    return None


def put_into(model: Any, kernels: LoraKernels) -> None:
    """What ``apply_lora_kernel_patches`` changes in a PEFT model: layers all of whose parts have an adapter.

    Queries, keys and values are worked out as the queries are asked for; the attention's own code takes the others
    next, of the same states.
    """
    for layer in _layers(model) or ():
        attention, mlp = layer.self_attn, getattr(layer, "mlp", None)
        if kernels.qkv and _adapted(attention, _QKV):
            attention.q_proj.forward, attention.k_proj.forward, attention.v_proj.forward = _together(attention)
        if kernels.o and _adapted(attention, ("o_proj",)):
            attention.o_proj.forward = MethodType(lambda proj, states: _joined(states, [proj])[0], attention.o_proj)
        if kernels.mlp and mlp is not None and _adapted(mlp, _MLP):
            mlp.forward = MethodType(_mlp, mlp)


def _layers(model: Any) -> list[Any] | None:
    """The decoder layers (``get_layers``), None of a model that has none like them."""
    base = model.get_base_model()
    body = getattr(base, "language_model", None) or getattr(base, "model", None)
    layers = getattr(getattr(body, "language_model", body), "layers", None)
    if layers is None or not all(hasattr(layer, "self_attn") for layer in layers):
        return None
    return list(layers)


_READS_QKV = (
    "query_states = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)\n"
    "key_states = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)\n"
    "value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)\n",
    "query_states = self.q_norm(self.q_proj(hidden_states).view(hidden_shape)).transpose(1, 2)\n"
    "key_states = self.k_norm(self.k_proj(hidden_states).view(hidden_shape)).transpose(1, 2)\n"
    "value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)\n",
)
_READS_O = "attn_output = self.o_proj(attn_output)\n"
"""The lines of an attention that axolotl puts its own in place of (``QKV_PATCHES``, ``ORIGINAL_O_CODE``)."""


def _reads_once(layer: Any) -> bool:
    """Whether the layer's attention has the lines that axolotl looks for."""
    try:
        source = inspect.getsource(type(layer.self_attn).forward)
    except (OSError, TypeError):
        return False
    plain = "".join(f"{line.strip()}\n" for line in source.splitlines())
    return _READS_O in plain and any(lines in plain for lines in _READS_QKV)


def _activation(model: Any) -> str | None:
    """The activation of an MLP where axolotl has a kernel of it."""
    config = model.config.get_text_config()
    for field in ("hidden_act", "hidden_activation", "mlp_hidden_act"):
        if hasattr(config, field):
            told = str(getattr(config, field))
            return told if told == "silu" or "gelu" in told else None
    return None


def _adapted(parent: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(getattr(parent, name, None), "lora_A") for name in names)


@dataclass(frozen=True)
class Projection:
    """What a function is given of a 4-bit layer with an adapter (``get_lora_parameters``)."""

    layer: Any
    bias: torch.Tensor | None
    a: torch.Tensor | None
    b: torch.Tensor | None

    @classmethod
    def of(cls, proj: Any) -> Projection:
        """Those of a PEFT layer; without an adapter where it is switched off."""
        base = proj.base_layer
        if proj.disable_adapters or proj.merged:
            return cls(base, base.bias, None, None)
        name = proj.active_adapters[0]
        return cls(base, base.bias, proj.lora_A[name].weight, proj.lora_B[name].weight)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight: out × in."""
        weight = self.layer.weight
        return tuple(getattr(weight, "quant_state", weight).shape)

    def dequantized(self, statistics: bool = True) -> torch.Tensor:
        """The weight in 16 bits (out × in); of 4 bits it is made, then statistics in float32: ``dequantize``."""
        weight = self.layer.weight
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight
        known = state.state2.absmax if state.nested else state.absmax  # any in float32, which is all that is asked
        out: torch.Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            weight, known, state.blocksize, state.quant_type, tuple(state.shape), state.dtype
        )
        if state.nested and statistics:
            torch.empty(state.absmax.numel(), dtype=torch.float32, device=weight.device)
        return out

    def of_states(self, states: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
        """``matmul_lora``; states have two dimensions."""
        weight = self.dequantized()
        out = torch.matmul(states, weight.t())
        del weight
        if self.a is not None and self.b is not None:
            a, b = self.a.t().to(states.dtype), self.b.t().to(states.dtype)
            out.addmm_((states if dropped is None else dropped) @ a, b)
        if self.bias is not None:
            out += self.bias
        return out


def _dropped(proj: Any, states: torch.Tensor) -> torch.Tensor | None:
    """One mask for all that share their states (``_apply_dropout``)."""
    dropout = proj.lora_dropout[proj.active_adapters[0]]
    if isinstance(dropout, torch.nn.Identity) or not proj.training:
        return None
    out: torch.Tensor = dropout(states)
    return out


def _joined(states: torch.Tensor, modules: list[Any]) -> tuple[torch.Tensor, ...]:
    """The projections of one state; the adapter's tensors are arguments, so that autograd knows of them."""
    projections = [Projection.of(module) for module in modules]
    adapters = [tensor for each in projections for tensor in (each.a, each.b)]
    outs: tuple[torch.Tensor, ...] = _Joined.apply(projections, states, _dropped(modules[0], states), *adapters)
    return outs


def _together(attention: Any) -> list[Any]:
    """The forward methods of q, k and v; the first is asked for all three."""
    waiting: list[torch.Tensor] = []
    modules = [getattr(attention, name) for name in _QKV]

    def first(states: torch.Tensor) -> torch.Tensor:
        out, *others = _joined(states, modules)
        waiting[:] = others
        return out

    return [first, lambda states: waiting.pop(0), lambda states: waiting.pop(0)]


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """All but the last dimension as one."""
    return tensor.reshape(-1, tensor.shape[-1])


def gradients_of(
    a: torch.Tensor | None, b: torch.Tensor | None, states: torch.Tensor, out: torch.Tensor
) -> Iterator[torch.Tensor | None]:
    """What flows back into B, kept for the states' gradient, and the gradients of A and B; ``out`` is the result's."""
    if a is None or b is None:
        yield from (None, None, None)
        return
    of_b = out @ b
    of_a = torch.empty_like(a.t())
    gradient = torch.empty_like(b.t())
    of_a.addmm_(states.t(), of_b, beta=0)
    gradient.addmm_(a @ states.t(), out, beta=0)
    yield from (of_b, of_a.t(), gradient.t())


class _Joined(torch.autograd.Function):  # type: ignore[misc]
    """``LoRA_QKV`` of three projections, ``LoRA_O`` of one."""

    @staticmethod
    def forward(
        ctx: Any, projections: list[Projection], states: torch.Tensor, dropped: torch.Tensor | None, *adapters: Any
    ) -> tuple[torch.Tensor, ...]:
        flat = as_rows(states)
        outs = [each.of_states(flat, None if dropped is None else as_rows(dropped)) for each in projections]
        halves = [None if each is None else each.to(states.dtype) for each in adapters]
        ctx.save_for_backward(states, states if dropped is None else dropped, *halves)
        ctx.projections, ctx.drops = projections, dropped is not None
        return tuple(out.view(*states.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        states, dropped, *halves = ctx.saved_tensors
        flat = as_rows(dropped)
        outs = [as_rows(gradient) for gradient in gradients]
        learned = [
            tuple(gradients_of(halves[2 * place], halves[2 * place + 1], flat, out)) for place, out in enumerate(outs)
        ]
        whole = None
        for each, out in zip(ctx.projections, outs, strict=True):
            weight = each.dequantized()
            if whole is None:
                whole = torch.mm(out, weight)
            else:
                whole.addmm_(out, weight)
            del weight
        assert whole is not None
        of_dropped = None
        if ctx.drops and len(outs) == 1:
            of_dropped = (learned[0][0] @ halves[0] * 2.0).view(states.shape)
        else:
            into = whole
            if ctx.drops:
                into = of_dropped = torch.zeros_like(flat)
            for place, (of_b, *_) in enumerate(learned):
                if of_b is not None:
                    into.addmm_(of_b, halves[2 * place])
            of_dropped = None if of_dropped is None else of_dropped.view(states.shape)
        adapters = [gradient for _, *both in learned for gradient in both]
        return None, whole.view(states.shape), of_dropped, *adapters


def _mlp(self: Any, states: torch.Tensor) -> torch.Tensor:
    """``apply_lora_mlp_swiglu`` and ``apply_lora_mlp_geglu``."""
    modules = [getattr(self, name) for name in _MLP]
    projections = [Projection.of(module) for module in modules]
    adapters = [tensor for each in projections for tensor in (each.a, each.b)]
    out: torch.Tensor = _Mlp.apply(projections, states, _dropped(modules[0], states), *adapters)
    return out


class _Mlp(torch.autograd.Function):  # type: ignore[misc]
    """``LoRA_MLP``: the activation's kernel writes the gradients of gate and up over them, and its result over what
    flows back."""

    @staticmethod
    def forward(
        ctx: Any, projections: list[Projection], states: torch.Tensor, dropped: torch.Tensor | None, *adapters: Any
    ) -> torch.Tensor:
        flat = as_rows(states)
        masked = None if dropped is None else as_rows(dropped)
        gate, up, down = projections
        gates, ups = gate.of_states(flat, masked), up.of_states(flat, masked)
        hidden = torch.empty_like(gates)
        out = down.of_states(hidden, None)
        halves = [None if each is None else each.to(states.dtype) for each in adapters]
        ctx.save_for_backward(states, states if dropped is None else dropped, gates, ups, *halves)
        ctx.projections, ctx.drops = projections, dropped is not None
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        states, dropped, gates, ups, *halves = ctx.saved_tensors
        gate, up, down = ctx.projections
        out, flat = as_rows(gradient), as_rows(dropped)
        weight = down.dequantized()
        hidden = torch.matmul(out, weight)
        del weight
        if halves[5] is not None:
            hidden.addmm_(out @ halves[5], halves[4])
        of_down = tuple(gradients_of(halves[4], halves[5], hidden, out))
        of_up = tuple(gradients_of(halves[2], halves[3], flat, ups))
        of_gate = tuple(gradients_of(halves[0], halves[1], flat, gates))
        weight = up.dequantized()
        whole = torch.matmul(ups, weight)
        del weight
        weight = gate.dequantized()
        whole.addmm_(gates, weight)
        del weight
        into, of_dropped = whole, None
        if ctx.drops:
            into = of_dropped = torch.zeros_like(flat)
        for (of_b, *_), a in ((of_up, halves[2]), (of_gate, halves[0])):
            if of_b is not None:
                into.addmm_(of_b, a)
        adapters = [each for _, *both in (of_gate, of_up, of_down) for each in both]
        of_dropped = None if of_dropped is None else of_dropped.view(states.shape)
        return None, whole.view(states.shape), of_dropped, *adapters
