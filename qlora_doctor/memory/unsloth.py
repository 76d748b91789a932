"""A step of Unsloth's on tensors without storage: its layers, its checkpoints in host memory and its loss.

Unsloth puts code of its own in place of a Llama's and runs it without torch.compile where batches come without
padding, as trl's SFTTrainer makes them under it. Its kernels need Triton and a GPU, so they are restated with their
allocations and without their arithmetic. Source: unsloth and unsloth_zoo 2026.10 (``models/llama.py``,
``kernels/fast_lora.py``, ``rms_layernorm.py`` and ``rope_embedding.py``, ``utils/attention_dispatch.py``;
``gradient_checkpointing.py``, ``fused_losses/fused_linear.py``): the requests of the measured second steps, of at least
1 MiB, are predicted in size and order. Attention is PyTorch's own; with xformers or flash-attn no padded copies of
queries, keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from .autocast import Autocast
from .families import has_cudnn
from .kernel_switches import Unsloth
from .liger import RmsNorm
from .lora_kernels import Projection, as_rows, gradients_of
from .step import StepOptions
from .trace import Recorder

FAMILIES = ("llama", "mistral")
"""Types of models that were measured and take the plain form of its layers."""
_QKV = ("q_proj", "k_proj", "v_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
BUCKET = 128
"""Tokens that lengths are padded up to where cuDNN's attention runs, a whole one more where they fit."""
KEPT_FROM = 2 << 20
"""Bytes up to which a layer's input stays on the card."""
SMALL_CARD = 24.5 * 2**30
"""Bytes of a card up to which the loss always goes through the vocabulary in tiles, else from 4,096 tokens on."""
LOGITS = 512 * 151_936
TILE, TILE_BYTES, MOST_ROWS = 16_384, 256 << 20, 4096
"""Words of a tile of logits, its bytes, and the most tokens of a part of the loss."""


def unfit(model: Any) -> str | None:
    """Why Unsloth's step of a model is not predicted, as the subject of a sentence; None where it is."""
    kind = model.config.model_type
    layers = getattr(getattr(model.get_base_model(), "model", None), "layers", ())
    whole = all(
        hasattr(getattr(parent, name), "lora_A")
        for layer in layers
        for parent, names in ((layer.self_attn, (*_QKV, "o_proj")), (layer.mlp, _MLP))
        for name in names
    )
    if kind not in FAMILIES:
        return f"Unsloth's code for a model of type {kind}"
    return None if whole else "Unsloth's code where not all of a layer's projections have an adapter"


class UnslothStep:
    """What its trainer does in a step, as :class:`.step.Program`."""

    generates = False

    def __init__(self, options: Unsloth) -> None:
        self.options = options
        self.samples = 1
        self.model: Any = None
        self.room: torch.Tensor | None = None
        self.staging: list[torch.Tensor] = []

    def prepare(self, recorder: Recorder, model: Any, options: StepOptions) -> None:
        """Its layers and its loss in the model."""
        base = model.get_base_model()
        base.forward = MethodType(self.forward, base)
        self.model = model

    def batch(self, recorder: Recorder, options: StepOptions) -> dict[str, torch.Tensor]:
        """All samples in one row; with the first one comes what stays from then on."""
        self.samples = options.batch
        if self.room is None:
            self._take(recorder, options)
        shape = (1, options.batch * options.sequence)
        made = {}
        for name in ("input_ids", "labels", "position_ids"):
            made[name] = torch.empty(shape, dtype=torch.int64, device="meta")
            recorder.values.know(made[name], torch.zeros(shape, dtype=torch.int64))
        return made

    def _take(self, recorder: Recorder, options: StepOptions) -> None:
        """A buffer for weights, two for inputs that come back, and tables of rotations for all positions."""
        base = self.model.get_base_model()
        weights = [module.base_layer.weight for module in self.model.modules() if hasattr(module, "lora_A")]
        dtype = weights[0].quant_state.dtype
        self.room = torch.empty(max(each.quant_state.shape.numel() for each in weights), dtype=dtype, device="meta")
        if self.options.offloads:
            count = options.batch * options.sequence * base.config.hidden_size
            self.staging = [torch.empty(count, dtype=dtype, device="meta") for _ in range(2)]
        rows, head = base.config.max_position_embeddings, base.model.layers[0].self_attn.head_dim
        tables = [torch.empty((rows, head), dtype=dtype, device="meta") for _ in range(2)]
        recorder.recategorise(self.room, "dequantized_weights")
        recorder.keep([self.room, self.staging, tables])

    def loss(
        self, model: Any, forward: Callable[..., Any], inputs: dict[str, torch.Tensor], items: torch.Tensor
    ) -> torch.Tensor:
        """``compute_loss`` of its trainer."""
        loss: torch.Tensor = forward(**inputs)["loss"]
        return loss

    def forward(self, base: Any, input_ids: Any = None, **_: Any) -> dict[str, torch.Tensor]:
        """``CausalLM_fast_forward`` and ``LlamaModel_fast_forward``."""
        body = base.model
        states = body.embed_tokens(input_ids)
        if base.training:
            states.requires_grad_(True)
        last = body.layers[-1]
        for layer in body.layers:
            if base.training and self.options.checkpoints:
                states = _Checkpoint.apply(self, layer, layer is last, states)
            else:
                states = self.layer(layer, states)
        normed = _Norm.apply(states, body.norm.weight)
        del states
        return {"loss": _HeadLoss.apply(as_rows(normed), base.lm_head.weight, self.samples)}

    def layer(self, layer: Any, states: torch.Tensor) -> torch.Tensor:
        """``LlamaDecoderLayer_fast_forward``."""
        residual = states
        states = _Norm.apply(states, layer.input_layernorm.weight)
        states = self.attention(layer.self_attn, states)
        states = residual + states
        residual = states
        states = _Norm.apply(states, layer.post_attention_layernorm.weight)
        states = _Mlp.apply(self.room, states, *_given(layer.mlp, _MLP))
        return residual + states

    def attention(self, module: Any, states: torch.Tensor) -> torch.Tensor:
        """``LlamaAttention_fast_forward`` with ``_sdpa_packed_segments``."""
        tokens, head = states.shape[1], module.head_dim
        given = _given(module, _QKV)
        query, key, value = (
            out.view(1, tokens, -1, head).transpose(1, 2) for out in _Joined.apply(self.room, states, *given)
        )
        query, key = _Rotation.apply(query, key)
        length = tokens // self.samples
        parts = [each[0].unflatten(1, (self.samples, length)).transpose(0, 1) for each in (query, key, value)]
        if has_cudnn(Autocast.mode.machine):  # type: ignore[union-attr]
            more = BUCKET - length % BUCKET
            parts = [F.pad(each, (0, 0, 0, more)) for each in parts]
        q, k, v = parts
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=query.shape[1] != key.shape[1])
        del parts, q, k, v
        out = out[..., :length, :]
        outs = [out.transpose(1, 2).flatten(0, 1)]
        joined = torch.cat(outs, dim=0)
        del outs, out
        one: torch.Tensor
        (one,) = _Joined.apply(self.room, joined.reshape(1, tokens, -1), *_given(module, ("o_proj",)))
        return one


def _given(parent: Any, names: tuple[str, ...]) -> list[Any]:
    """The projections, then what of them is trained."""
    projections = [Projection.of(getattr(parent, name)) for name in names]
    return [projections, *(tensor for each in projections for tensor in (each.a, each.b))]


def _product(states: torch.Tensor, room: torch.Tensor, shape: tuple[int, ...], a: Any, b: Any) -> torch.Tensor:
    """``matmul_lora``: the weight (out × in) is dequantized into a buffer that stays."""
    weight = room[: shape[0] * shape[1]].view(shape)
    out = torch.matmul(states, weight.t())
    reduced = torch.matmul(states, a.to(states.dtype))
    out.addmm_(reduced, b.to(states.dtype))
    return out


class _Norm(RmsNorm):
    """``Fast_RMS_Layernorm``: what flows back is written over what came, and a weight gets nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return gradient.view(gradient.shape), None


class _Rotation(torch.autograd.Function):  # type: ignore[misc]
    """``Fast_RoPE_Embedding_QK``: into new tensors, both ways."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor) -> Any:
        return torch.empty_like(query), torch.empty_like(key)

    @staticmethod
    def backward(ctx: Any, query: torch.Tensor, key: torch.Tensor) -> tuple[Any, ...]:
        return tuple(torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in (query, key))


class _Joined(torch.autograd.Function):  # type: ignore[misc]
    """``LoRA_QKV`` of three projections, whose states' gradient is written over the states; ``LoRA_W`` of one."""

    @staticmethod
    def forward(
        ctx: Any, room: torch.Tensor, states: torch.Tensor, projections: list[Projection], *adapters: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        rows = as_rows(states)
        outs = []
        for place, each in enumerate(projections):
            a, b = adapters[2 * place : 2 * place + 2]
            outs.append(_product(rows, room, each.shape, a.t(), b.t()).view(*states.shape[:-1], -1))
        ctx.save_for_backward(states, *adapters)
        ctx.projections = projections
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        states, *adapters = ctx.saved_tensors
        rows = as_rows(states)
        outs = [as_rows(gradient) for gradient in gradients]
        halves = [each.to(states.dtype) for each in adapters]
        found = [
            tuple(gradients_of(halves[2 * place], halves[2 * place + 1], rows, out)) for place, out in enumerate(outs)
        ]
        whole = rows if len(outs) > 1 else None
        for place, (each, out) in enumerate(zip(ctx.projections, outs, strict=True)):
            weight = each.dequantized(statistics=False)
            if whole is None:
                whole = torch.mm(out, weight)
            elif place == 0:
                torch.mm(out, weight, out=whole)
            else:
                whole.addmm_(out, weight)
            del weight
            whole.addmm_(found[place][0], halves[2 * place])
        assert whole is not None
        return None, whole.view(states.shape), None, *(each for _, *both in found for each in both)


class _Mlp(torch.autograd.Function):  # type: ignore[misc]
    """``LoRA_MLP``: gate and up are kept and written over, the states' gradient is written over the states."""

    @staticmethod
    def forward(
        ctx: Any, room: torch.Tensor, states: torch.Tensor, projections: list[Projection], *adapters: torch.Tensor
    ) -> torch.Tensor:
        rows = as_rows(states)
        gate, up, down = projections
        gates = _product(rows, room, gate.shape, adapters[0].t(), adapters[1].t())
        ups = _product(rows, room, up.shape, adapters[2].t(), adapters[3].t())
        hidden = torch.empty_like(gates)
        out = _product(hidden, room, down.shape, adapters[4].t(), adapters[5].t())
        ctx.save_for_backward(states, gates, ups, *adapters)
        ctx.projections, ctx.room = projections, room
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        states, gates, ups, *adapters = ctx.saved_tensors
        gate, up, down = ctx.projections
        rows, out = as_rows(states), as_rows(gradient)
        halves = [each.to(states.dtype) for each in adapters]
        hidden = _product(out, ctx.room, down.shape[::-1], halves[5], halves[4])
        of_down = tuple(gradients_of(halves[4], halves[5], hidden, out))
        of_up = tuple(gradients_of(halves[2], halves[3], rows, ups))
        of_gate = tuple(gradients_of(halves[0], halves[1], rows, gates))
        for place, (each, grads, found, a) in enumerate(
            ((up, ups, of_up, halves[2]), (gate, gates, of_gate, halves[0]))
        ):
            weight = each.dequantized(statistics=False)
            if place == 0:
                torch.mm(grads, weight, out=rows)
            else:
                rows.addmm_(grads, weight)
            del weight
            rows.addmm_(found[0], a)
        adapters = [each for _, *both in (of_gate, of_up, of_down) for each in both]
        return None, rows.view(states.shape), None, *adapters


class _Checkpoint(torch.autograd.Function):  # type: ignore[misc]
    """``UnslothCheckpointFunction``: a layer's input waits in host memory, but for the last layer's and small ones."""

    @staticmethod
    def forward(ctx: Any, step: UnslothStep, layer: Any, is_last: bool, states: torch.Tensor) -> torch.Tensor:
        ctx.step, ctx.layer, ctx.shape = step, layer, states.shape
        size = states.numel() * states.element_size()
        ctx.offloads = step.options.offloads and not is_last and size > KEPT_FROM
        if not ctx.offloads:
            ctx.save_for_backward(states)
        with torch.no_grad():
            return step.layer(layer, states)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        source = ctx.step.staging[0].view(ctx.shape) if ctx.offloads else ctx.saved_tensors[0]
        states = source.detach().requires_grad_(True)
        del source
        with torch.enable_grad(), torch.autocast("cuda", dtype=states.dtype):
            out = ctx.step.layer(ctx.layer, states)
        torch.autograd.backward(out, gradient)
        return None, None, None, states.grad


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """``fused_linear_cross_entropy`` of a frozen head: logits in float32, of some tokens or some words at a time."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, samples: int) -> torch.Tensor:
        tokens, width = states.shape
        words, kept = weight.shape[0], tokens - samples
        device = states.device
        gradient = torch.zeros_like(states) if states.requires_grad else None
        card = Autocast.mode.machine.card  # type: ignore[union-attr]
        tiled = -(-words // TILE) > 2 and kept >= (0 if card.memory_bytes <= SMALL_CARD else 4096)
        rows, columns = min(MOST_ROWS, kept), TILE
        if not tiled:
            least = min(max(_power_below(LOGITS / words), 512), MOST_ROWS)
            rows, columns = min(max(_power_below(kept * width / words), least), MOST_ROWS, kept), -(-words // 8) * 8
        logits = torch.empty((rows, columns), dtype=torch.float32, device=device)
        sums = torch.empty((rows, width), dtype=torch.float32, device=device) if tiled else None
        for start in range(0, kept, rows):
            count = min(rows, kept - start)
            part = torch.empty((count, width), dtype=states.dtype, device=device)
            if tiled:
                statistics = torch.empty((8, -(-words // TILE), count), device=device)
            elif gradient is not None:
                of_part = torch.empty((count, width), dtype=torch.float32, device=device)
                of_part.to(states.dtype)
        part = statistics = of_part = None  # noqa: F841
        del logits, sums
        ctx.save_for_backward(gradient)
        return torch.empty((), device=device)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        (found,) = ctx.saved_tensors
        return torch.empty_like(found), None, None


def _power_below(number: float) -> int:
    """The largest power of two that is not above it."""
    return 1 << max(0, int(number).bit_length() - 1)
