"""What trl's SFTTrainer does to a model and how it gets its loss, without its training loop.

trl projects onto the vocabulary in tiles and never holds all logits; on CUDA a Triton kernel folds each tile in place.
Its own code runs here, with the Triton kernels left out, because they take no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from .trace import Recorder


def prepare_for_sft(recorder: Recorder, model: Any, checkpointing: bool) -> None:
    """What ``SFTTrainer.__init__`` changes in a PEFT model on a quantized base.

    The adapter goes to bfloat16 (not DoRA's magnitudes), with gradient checkpointing the embedding's output wants a
    gradient, and the head is fused with the loss. Source: ``trl/trainer/sft_trainer.py``, 1.16.
    """
    if checkpointing:
        model.enable_input_require_grads()
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_magnitude_vector" not in name:
                    parameter.data = parameter.data.to(torch.bfloat16)
                    recorder.recategorise(parameter, "adapter")
    head = _fused_head()
    if head is not None:
        head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))


def sft_loss(outputs: Any, items: torch.Tensor) -> torch.Tensor:
    """``SFTTrainer.compute_loss`` from the fused head's outputs, its metrics included."""
    if not hasattr(outputs, "log_probs"):
        loss: torch.Tensor = outputs["loss"]
        return loss
    per_token = -outputs.log_probs
    loss = per_token.sum() / torch.as_tensor(items).clamp(min=1)
    with torch.no_grad():
        outputs.label_mask.sum()
        outputs.entropy.detach().sum()
        outputs.is_top1.sum()
    return loss


def has_fused_head() -> bool:
    """Whether the installed trl fuses the head with the loss (1.16 and later)."""
    return _fused_head() is not None


def _fused_head() -> Any | None:
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError:
        return None
    return add_fused_lm_head


class _NoKernel:
    """A Triton kernel that works in place."""

    def __getitem__(self, grid: object) -> Any:
        return lambda *args, **kwargs: None


class _LogProbEntropy(torch.autograd.Function):  # type: ignore[misc]
    """``trl/kernels/logprob_entropy.py``: a few numbers a token, and one gradient of the logits; no softmax of them."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.empty(logits.shape[:-1], dtype=torch.float32, device=logits.device)
        entropy, total, expected = (torch.empty_like(chosen) for _ in range(3))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, index, total, expected)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, of_chosen: torch.Tensor | None, of_entropy: torch.Tensor | None) -> tuple[Any, ...]:
        logits = ctx.saved_tensors[0]
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for given in (of_chosen, of_entropy):
            if given is not None:
                given.contiguous()
        return gradient, None


def _logprob_entropy(logits: torch.Tensor, index: torch.Tensor, **options: Any) -> Any:
    return _LogProbEntropy.apply(logits, index)


def _takes_kernel(
    logits: torch.Tensor, index: torch.Tensor | None = None, row_mask: torch.Tensor | None = None
) -> bool:
    """Whether the kernel is for such logits (``_supports_trl_loss_kernel``)."""
    return 1 <= logits.dim() <= 3 and logits.stride(-1) == 1 and (index is None or index.shape == logits.shape[:-1])


def _first_tiles(start: int, stop: int, step: int) -> range:
    """Tiles are worked on one after the other in one buffer, so the first tells what all of them take; of the head's
    the second too, whose copy in 16 bits is made while that of the first is still there."""
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE

    return range(start, min(stop, start + (1 if step == TOKEN_CHUNK_SIZE else 2) * step), step)


@contextmanager
def without_triton() -> Iterator[None]:
    """Within, trl's chunked loss takes the path of a CUDA card."""
    if _fused_head() is None:
        yield
        return
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    with ExitStack() as stack:
        for module in (chunked_logprob, utils):
            if hasattr(module, "_use_triton"):
                stack.enter_context(patch.object(module, "_use_triton", lambda device: True))
        for name in ("_forward_kernel", "_backward_kernel"):
            stack.enter_context(patch.object(chunked_logprob, name, _NoKernel()))
        # CUDA adds the product to the float32 sum without a copy of either factor.
        stack.enter_context(patch.object(chunked_logprob, "_addmm_fp32", lambda total, a, b: None))
        stack.enter_context(patch.object(chunked_logprob, "range", _first_tiles, create=True))
        if hasattr(utils, "_supports_trl_loss_kernel"):
            stack.enter_context(patch.object(utils, "is_triton_available", lambda: True))
            stack.enter_context(patch.object(utils, "_supports_trl_loss_kernel", _takes_kernel))
            stack.enter_context(patch.object(utils, "_fused_logprob_entropy", _logprob_entropy, create=True))
        stack.enter_context(
            patch.object(chunked_logprob, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b)), create=True)
        )
        yield
