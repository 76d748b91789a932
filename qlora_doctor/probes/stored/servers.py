"""What serving an adapter takes: limits and refusals of the programs, each from its own source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...facts.stored import Server

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank. Source: vllm/config/lora.py; the default is 16."""


def servers(config: Mapping[str, Any], found: Mapping[str, Any]) -> list[Server]:
    """One entry a program.

    Args:
        config: adapter_config.json.
        found: facts of the tensors.
    """
    if config.get("peft_type") not in (None, "LORA"):
        return []
    return [_vllm(config, found), _llama_cpp(config, found), _peft(config)]


def _vllm(config: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """vllm/lora/peft_helper.py: _validate_features and validate_legal."""
    refused = []
    if config.get("use_dora"):
        refused.append("it does not know DoRA")
    if config.get("modules_to_save"):
        refused.append("it takes no modules_to_save")
    if config.get("bias") not in (None, "none"):
        refused.append("it takes no biases")
    rank = found.get("rank")
    if isinstance(rank, int) and rank > _VLLM_RANKS[-1]:
        refused.append(f"its largest rank is {_VLLM_RANKS[-1]}")
    if refused:
        return Server(name="vLLM", status="refuses", note=" and ".join(refused))
    if isinstance(rank, int) and rank > 16:
        return Server(name="vLLM", status="needs", note=f"--max-lora-rank {next(r for r in _VLLM_RANKS if r >= rank)}")
    return Server(name="vLLM", status="serves")


def _llama_cpp(config: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """convert_lora_to_gguf.py: each tensor is a lora_A or a lora_B."""
    if config.get("use_dora") or found.get("magnitude") == "unasked":
        return Server(name="llama.cpp", status="refuses", note="it does not know DoRA; merge first")
    if config.get("modules_to_save") or found.get("saved_unasked"):
        return Server(name="llama.cpp", status="refuses", note="it takes low-rank tensors alone; merge first")
    return Server(name="llama.cpp", status="needs", note="convert_lora_to_gguf.py --base")


_SINCE = {
    "use_rslora": "0.7", "use_dora": "0.9", "layer_replication": "0.9", "lora_bias": "0.14", "exclude_modules": "0.14",
    "trainable_token_indices": "0.15", "target_parameters": "0.17", "arrow_config": "0.18",
    "ensure_weight_tying": "0.19",
}  # fmt: skip
"""Options of LoraConfig that change what is loaded, by the PEFT that brought them."""


def _peft(config: Mapping[str, Any]) -> Server:
    needed = [since for key, since in _SINCE.items() if config.get(key)]
    if not needed:
        return Server(name="PEFT", status="serves")
    newest = max(needed, key=lambda version: int(version.split(".")[1]))
    return Server(name="PEFT", status="needs", note=f"{newest} or newer")
