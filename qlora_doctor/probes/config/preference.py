"""What preference and reinforcement methods hold the policy to: the reference, beta, label smoothing.

Read from TRL 0.19 to 1.16 (dpo_trainer.py, kto_trainer.py, grpo_trainer.py, rloo_trainer.py, generation/
vllm_generation.py) and LLaMA-Factory 0.9.5 (train/dpo/trainer.py, train/trainer_utils.py, model/adapter.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...facts.config import ConfigFacts
from ...facts.schedule import PreferenceFacts
from ...setup.defaults import Libraries, of_trl
from ...setup.setup import ONLINE, Setup

PREFERENCE = ("dpo", "ipo", "kto", "orpo", "cpo", "simpo", "bco", "reward", "rm")
REINFORCEMENT = ("grpo", "gdpo", "rloo", "ppo", "ebft", "gkd", *ONLINE)
_WITH_REFERENCE = {"dpo": (0, 27), "ipo": (0, 27), "kto": (0, 27), "grpo": (0, 29), "rloo": (0, 29)}
"""Methods with a reference, and the TRL that first copies a continued adapter for it."""
_FREE = ("orpo", "cpo", "simpo")


def preference_facts(
    setup: Setup, get: Callable[..., Any], known: ConfigFacts, libraries: Libraries
) -> PreferenceFacts | None:
    """Facts of a method that compares answers, and of one that does not; None where it is unknown.

    Args:
        get: canonical path, default → value; None where it cannot be known.
        known: the facts of the config that are known already.
        libraries: the installed versions.
    """
    method = known.method
    if method is None and get("training.use_vllm", False) and get("training.num_generations"):
        method = "grpo"  # or RLOO, of which the same is true
    if method is None:
        return None
    continues = _continues(setup)
    if method not in (*PREFERENCE, *REINFORCEMENT):
        return PreferenceFacts(
            reference="none",
            continues_adapter=continues,
            label_smoothing=0.0,
            label_smoothing_unused=False,
            merges_into_4bit=False,
        )
    return PreferenceFacts(
        reference=_reference(setup, str(method), continues, get, libraries),
        continues_adapter=continues,
        beta=get("training.beta", _beta(str(method), libraries)),
        label_smoothing=get("training.label_smoothing", 0.0),
        label_smoothing_unused=_unused_smoothing(setup, str(method), get, libraries),
        merges_into_4bit=_merges(setup, str(method), get, known),
    )


def _beta(method: str, libraries: Libraries) -> float | None:
    """TRL's own default, of the newest release where none is known."""
    known = libraries if libraries.trl is not None else Libraries(trl=(1, 16))
    found: float | None = of_trl("dpo" if method == "ipo" else method, "beta", known)
    return found


def _continues(setup: Setup) -> bool | None:
    if setup.model.adapter is None:
        if setup.is_unknown("model.adapter") and setup.model.adapter_is_trainable:
            return True  # which one is not known; that it trains on is
        return None if setup.is_unknown("model.adapter") else False
    return setup.model.adapter_is_trainable


def _reference(
    setup: Setup, method: str, continues: bool | None, get: Callable[..., Any], libraries: Libraries
) -> str | None:
    if method in _FREE or (method in ("grpo", "rloo") and get("training.beta", _beta(method, libraries)) == 0):
        return "none"
    if method not in _WITH_REFERENCE:
        return None
    if setup.says("reference-given"):
        return "second-model"
    if setup.traits.reference_is_base:
        return "base"  # it switches the adapter off, whatever was in it
    if setup.training.trainer not in ("trl", None) and not setup.traits.rl_by_trl:
        return None
    if continues is False:
        return "base"
    if continues is None or libraries.trl is None:
        return None
    return "adapter-copy" if libraries.trl >= _WITH_REFERENCE[method] else "base"


_SMOOTHED = ("robust", "exo_pair", "aot")
"""Losses of TRL's DPO that read label_smoothing, whatever the version."""


def _unused_smoothing(setup: Setup, method: str, get: Callable[..., Any], libraries: Libraries) -> bool | None:
    smoothing, loss = get("training.label_smoothing", 0.0), get("training.loss_type", "sigmoid")
    if smoothing is None or loss is None:
        return None
    if not smoothing or method != "dpo" or setup.training.trainer != "trl" or any(name in loss for name in _SMOOTHED):
        return False
    if "sigmoid" in loss.split(","):
        return None if libraries.trl is None else libraries.trl >= (0, 29)
    return True


def _merges(setup: Setup, method: str, get: Callable[..., Any], known: ConfigFacts) -> bool | None:
    """TRL merges the adapter into the base to hand the weights to vLLM, and takes it out again afterwards."""
    uses = get("training.use_vllm", False)
    if method not in ("grpo", "rloo", "online-dpo", "online_dpo") or uses is False:
        return False
    if (
        uses is None
        or known.four_bit is None
        or (setup.training.trainer not in ("trl", None) and not setup.traits.rl_by_trl)
    ):
        return None
    return bool(known.four_bit) and known.quantization_backend == "bitsandbytes"
