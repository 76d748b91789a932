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


def _first_tile(start: int, stop: int, step: int) -> range:
    return range(start, min(stop, start + step), step)


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
        # Tiles are worked on one after the other in one buffer, so the first tells what all of them take.
        stack.enter_context(patch.object(chunked_logprob, "range", _first_tile, create=True))
        stack.enter_context(
            patch.object(chunked_logprob, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b)), create=True)
        )
        yield
