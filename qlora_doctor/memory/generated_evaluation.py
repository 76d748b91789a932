"""Evaluations that write answers: ``Seq2SeqTrainer`` with ``predict_with_generate`` and compute_metrics.

Without compute_metrics it takes the loss alone, whatever ``predict_with_generate`` says (``prediction_loss_only``).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..setup.resolved import Taken

if TYPE_CHECKING:
    from ..setup.setup import Setup
    from .trace import Recorder


def _by_transformers(setup: Setup) -> bool:
    """Whether the run is Seq2SeqTrainer's own."""
    return setup.traits.switches_of_transformers and Taken(setup).trainer == "transformers"


def generates(setup: Setup) -> bool:
    """Whether evaluations of a setup generate, as far as is known."""
    training = setup.training
    silent = training.eval_strategy in (None, "no") and not setup.is_unknown("training.eval_strategy")
    if not training.extra.get("predict_with_generate") or silent:
        return False
    return bool(training.compute_metrics) or not _by_transformers(setup)


def unmodelled_generation(model: Any, setup: Setup) -> str | None:
    """What of such an evaluation is not modelled, as the subject of a sentence; None where all is."""
    if not generates(setup):
        return None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if setup.training.fsdp or setup.training.deepspeed:
        return "an evaluation that generates in a sharded model"
    if not _by_transformers(setup) or not getattr(base.config, "is_encoder_decoder", False):
        return "an evaluation that generates (predict_with_generate)"
    settings = getattr(base, "generation_config", None)
    beams = setup.training.extra.get("generation_num_beams") or getattr(settings, "num_beams", None) or 1
    return None if beams == 1 else f"an evaluation that generates by {beams} beams"


def generated_tokens(model: Any, setup: Setup) -> int | None:
    """Tokens of an answer in an evaluation; None where it does not generate."""
    if not generates(setup):
        return None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    told = setup.training.extra.get("generation_max_length")
    settings = getattr(base, "generation_config", None)
    return max(1, int(told or getattr(settings, "max_length", None) or 20) - 1)


def generate(model: Any, recorder: Recorder, inputs: dict[str, Any], tokens: int) -> None:
    """Write what ``Seq2SeqTrainer.prediction_step`` takes for the answers to a batch.

    The words are drawn, where the trainer takes the likeliest: what is drawn is a value that a trace can give.
    """
    from .generation import short_answers  # lazy: torch, which a plan does without

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = copy.deepcopy(base.generation_config)
    settings.max_length, settings.num_beams, settings.do_sample, settings.use_cache = None, 1, True, True
    settings.top_k = settings.top_p = None
    with short_answers(model, recorder, tokens):
        model.generate(**{**inputs, "generation_config": settings})
