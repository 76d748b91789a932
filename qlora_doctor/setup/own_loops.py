"""Dialects whose trainers step by a loop of their own."""

from __future__ import annotations

OWN_LOOPS = {
    "torchtune": "torchtune",
    "litgpt": "LitGPT",
    "nemo-automodel": "NeMo AutoModel",
    "qlora-pipe": "qlora-pipe",
    "unsloth-studio": "Unsloth",
    "xtuner": "XTuner",
    "ludwig": "Ludwig",
    "h2o-llmstudio": "H2O LLM Studio",
    "mftcoder": "MFTCoder",
}
"""Dialect → its trainer's name, where that steps by code of its own, not by transformers' or trl's."""
OPTIONS_OF_ITS_OWN = OWN_LOOPS.keys() - {"unsloth-studio", "xtuner"}
"""Those whose options do not reach transformers' classes either."""
