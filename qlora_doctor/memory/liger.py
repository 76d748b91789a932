"""Liger's kernels on tensors without storage: what they allocate and what they keep for the backward pass.

Liger's own code needs Triton and a GPU, so each kernel that ``use_liger_kernel`` puts into a model, and axolotl's
plugin, is restated here with its allocations and without its arithmetic. Source: ``liger_kernel`` 0.8.5, ``ops`` and
``transformers`` (the functions of the same names, ``monkey_patch.py``); ``scope.LIGER_FAMILIES`` says for which models.
Three measured steps of Llama and Qwen 2 are predicted to 0.04% so (benchmarks/memory).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from .kernel_switches import LigerKernels


def put_into(model: Any, kernels: LigerKernels) -> None:
    """What ``_apply_liger_kernel_to_instance`` changes in a (PEFT) model itself; see :func:`rotating` for the rest."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    body = getattr(base, base.base_model_prefix, base)
    norms = [body.norm]
    for layer in body.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        if base.config.model_type == "qwen3":
            norms += [layer.self_attn.q_norm, layer.self_attn.k_norm]
        if kernels.swiglu:
            layer.mlp.forward = MethodType(_mlp, layer.mlp)
    if kernels.rms_norm:
        for norm in norms:
            norm.forward = MethodType(lambda self, states: RmsNorm.apply(states, self.weight), norm)
    if kernels.fused_linear_cross_entropy:
        base.forward = MethodType(_forward, base)


@contextmanager
def rotating(model: Any, kernels: LigerKernels | None) -> Iterator[None]:
    """Within, the model's module rotates queries and keys by Liger's kernel."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    module = sys.modules[type(base).__module__]
    if kernels is None or not kernels.rope or not hasattr(module, "apply_rotary_pos_emb"):
        yield
        return
    with patch.object(module, "apply_rotary_pos_emb", lambda q, k, cos, sin, *_: _Rotation.apply(q, k, cos, sin)):
        yield


class RmsNorm(torch.autograd.Function):  # type: ignore[misc]
    """``LigerRMSNormFunction``, casting as in Llama: a float32 a row is kept; the gradient goes into the one given."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        states = states.contiguous()
        out = torch.empty_like(states)
        scales = torch.empty(states.shape[:-1], dtype=torch.float32, device=states.device)
        ctx.save_for_backward(states, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        _, weight, _ = ctx.saved_tensors
        gradient = gradient.contiguous()
        return gradient.view(gradient.shape), torch.empty_like(weight) if ctx.needs_input_grad[1] else None


class _Swiglu(torch.autograd.Function):  # type: ignore[misc]
    """``LigerSiLUMulFunction``: the gradients are written over gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        gate, up = ctx.saved_tensors
        gradient.contiguous()
        return gate.view(gradient.shape), up.view(gradient.shape)


def _mlp(self: Any, states: torch.Tensor) -> torch.Tensor:
    """``LigerSwiGLUMLP.forward``."""
    out: torch.Tensor = self.down_proj(_Swiglu.apply(self.gate_proj(states), self.up_proj(states)))
    return out


class _Rotation(torch.autograd.Function):  # type: ignore[misc]
    """``LigerRopeFunction``: in place where a head's rows lie one behind the other, which they do."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        query, key = query.transpose(1, 2).contiguous(), key.transpose(1, 2).contiguous()
        ctx.save_for_backward(cos.contiguous(), sin.contiguous())
        return query.transpose(1, 2), key.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, query: torch.Tensor, key: torch.Tensor) -> tuple[Any, ...]:
        query, key = query.transpose(1, 2).contiguous(), key.transpose(1, 2).contiguous()
        return query.transpose(1, 2), key.transpose(1, 2), None, None


class _HeadLoss(torch.autograd.Function):  # type: ignore[misc]
    """``LigerFusedLinearCrossEntropyFunction``: logits of some tokens at a time, and the gradients at once."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        tokens, width = states.shape
        words = weight.shape[0]
        learns = states.requires_grad or weight.requires_grad
        chunk = min(_power_of_two(-(-tokens // -(-words // width))), tokens)
        gradient = torch.zeros_like(states)
        of_weight = torch.zeros_like(weight) if learns and weight.requires_grad else None
        losses = torch.zeros(tokens, dtype=torch.float32, device=states.device)
        wanted = labels != -100
        _ = wanted.sum()
        reuses = _writes_into(states, weight)
        room = torch.empty((chunk, words), dtype=states.dtype, device=states.device) if reuses else None
        for start in range(0, tokens, chunk):
            part = states[start : start + chunk]
            logits = part @ weight.t() if room is None else torch.mm(part, weight.t(), out=room[: part.shape[0]])
            labels[start : start + chunk].contiguous()
            if learns and room is not None:
                torch.mm(logits, weight, out=gradient[start : start + chunk])
            elif learns:
                gradient[start : start + chunk] = logits @ weight
            if of_weight is not None:
                transposed = logits.t()
                if of_weight.dtype is transposed.dtype or of_weight.dtype is torch.float32:
                    part = part if part.dtype is transposed.dtype else part.to(transposed.dtype)
                else:
                    of_weight += torch.mm(transposed, part).float()
                del transposed
            del logits, part
        del room
        loss = torch.sum(losses)
        ctx.save_for_backward(gradient.detach(), None if of_weight is None else of_weight.detach())
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        of_states, of_weight = ctx.saved_tensors
        return of_states, of_weight, None


def _writes_into(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether products go into buffers that are there: only where autocast would cast nothing (``_can_use_mm_out``)."""
    if states.dtype is not weight.dtype:
        return False
    return not torch.is_autocast_enabled("cuda") or states.dtype is torch.get_autocast_dtype("cuda")


def _power_of_two(number: int) -> int:
    """The next power of two (``triton.next_power_of_2``)."""
    return 1 << max(0, number - 1).bit_length()


def _forward(
    self: Any,
    input_ids: Any = None,
    labels: Any = None,
    num_items_in_batch: Any = None,
    skip_logits: bool | None = None,
    shift_labels: Any = None,
    **kwargs: Any,
) -> Any:
    """``lce_forward``: the loss from the last layer's states, without logits where labels are there to train by."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    kept = kwargs.pop("logits_to_keep", 0)
    outputs = self.model(input_ids=input_ids, **kwargs)
    states = outputs[0]
    states = states[:, slice(-kept, None) if isinstance(kept, int) else kept, :]
    has_labels = labels is not None or shift_labels is not None
    if skip_logits is None:
        skip_logits = self.training and has_labels
    if not skip_logits:
        logits = self.lm_head(states)
        loss = None
        if has_labels:
            loss = self.loss_function(
                logits=logits, labels=labels, shift_labels=shift_labels, vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )  # fmt: skip
        return CausalLMOutputWithPast(loss=loss, logits=logits)
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
    weight = getattr(self.lm_head, "weight", None)
    if hasattr(self.lm_head, "modules_to_save"):
        weight = self.lm_head.modules_to_save[self.lm_head.active_adapter].weight
    loss = _HeadLoss.apply(states.view(-1, states.shape[-1]), weight, shift_labels.view(-1))
    return CausalLMOutputWithPast(loss=loss if num_items_in_batch is None else loss / num_items_in_batch)
