"""Exceptions of a real run → the kind, the sentence and the phase that facts and reports tell."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import StageError
from ..facts.load import LoadFailure

# Beyond what the pipeline distinguishes: what a step can end with.
_SIGNS: tuple[tuple[str, str], ...] = (
    ("no-gradient", r"does not require grad and does not have a grad_fn|None of the inputs have requires_grad"),
    ("no-rows", r"num_samples=0$|Batch does not contain any data"),
    ("float16-gradients", r"Attempting to unscale FP16 gradients"),
    ("no-adapter", r"cannot perform fine-tuning on purely quantized models|training is not currently supported"),
    ("token-out-of-range", r"index out of range in self|srcIndex < srcSelectDimSize|vectorized_gather_kernel"),
    (
        "dtype-mismatch",
        r"must have the same dtype|expected (m1|mat1|scalar type|.* dtype)|have the same dtype|found dtype",
    ),
)
_REMEDIES = {
    "no-gradient": "Let the inputs carry a gradient: call prepare_model_for_kbit_training or "
    "model.enable_input_require_grads() before attaching the adapter, or checkpoint with use_reentrant=False.",
    "float16-gradients": "Keep trainable weights in float32, or train in bf16.",
    "no-adapter": "Attach the adapter before the trainer is built.",
    "no-rows": "Look at the path, the split, the filters and the length that rows are cut at.",
    "token-out-of-range": "Resize the embeddings to the tokenizer, or use a padding token that exists.",
}


def explain(error: BaseException, doing: str) -> StageError:
    """What ended a stage, for a user: a StageError as it is, a library's exception by kind and first sentence."""
    from ..pipeline.failures import as_stage_error

    known = as_stage_error(error, doing)
    if known.kind != "other" or isinstance(error, StageError):
        return known
    text = f"{type(error).__name__}: {error}"
    for kind, pattern in _SIGNS:
        if re.search(pattern, text):
            return StageError(known.message, kind=kind, remedy=_REMEDIES.get(kind) or known.remedy)
    return known


def of_other_indices(error: StageError) -> StageError:
    """An index that is beyond a table although no token id is: that of a position, of a segment, of a class."""
    return StageError(
        f"{error.message.rstrip('.')}, and no token id of the batch is: positions or segments are.",
        kind="other",
        remedy="Set max_length to the positions that the model has.",
    )


def failure_fact(error: StageError, phase: str | None, module: str | None = None) -> LoadFailure:
    """The fact that a rule can judge."""
    return LoadFailure(kind=error.kind, message=error.message, phase=phase, module=module)


def adapted_module(error: BaseException, model: Any) -> str | None:
    """Plain name of the innermost adapted module in whose forward an exception was raised; None for any other."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    from .tensors import plain_name

    layer: Any = None
    trace = error.__traceback__
    while trace is not None:
        holder = trace.tb_frame.f_locals.get("self")
        layer = holder if isinstance(holder, BaseTunerLayer) else layer
        trace = trace.tb_next
    if layer is None or not hasattr(model, "named_modules"):
        return None
    return next((plain_name(name) for name, module in model.named_modules() if module is layer), None)


NO_FAILURE = LoadFailure(kind="none", message="")
