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
    return [_vllm(config, found), _tgi(config, found), _llama_cpp(config, found), _peft(config)]


def _vllm(config: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """vllm/lora: peft_helper.py (_validate_features, validate_legal), utils.py (parse_fine_tuned_lora_name)."""
    refused = []
    if config.get("use_dora"):
        refused.append("it does not know DoRA")
    if config.get("modules_to_save"):
        refused.append("it takes no modules_to_save")
    if config.get("bias") not in (None, "none"):
        refused.append("it takes no biases")
    if found.get("named_after_adapter"):
        refused.append(_NAMES)
    rank = found.get("rank")
    if isinstance(rank, int) and rank > _VLLM_RANKS[-1]:
        refused.append(f"its largest rank is {_VLLM_RANKS[-1]}")
    if refused:
        return Server(name="vLLM", status="refuses", note=" and ".join(refused))
    altered = [*_one_scaling(found), *_changed_base(found)]
    if altered:
        return Server(name="vLLM", status="alters", note=" and ".join(altered))
    if isinstance(rank, int) and rank > 16:
        return Server(name="vLLM", status="needs", note=f"--max-lora-rank {next(r for r in _VLLM_RANKS if r >= rank)}")
    return Server(name="vLLM", status="serves")


def _tgi(config: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """text-generation-inference, server/text_generation_server/adapters/lora.py.

    prepare_weights takes one scaling, and a projection only where each layer has it; a name that it does not look for
    is left unread.
    """
    if found.get("named_after_adapter"):
        return Server(name="TGI", status="refuses", note=f"{_NAMES}, and it leaves them unread")
    altered = []
    if config.get("use_dora"):
        altered.append("it leaves DoRA's magnitudes unread")
    if config.get("modules_to_save"):
        altered.append("it leaves modules_to_save unread")
    if config.get("layers_to_transform") is not None or found.get("layers_without_tensors"):
        altered.append("it leaves out each projection that not every layer has")
    altered += [*_one_scaling(found), *_changed_base(found)]
    if altered:
        return Server(name="TGI", status="alters", note=" and ".join(altered))
    return Server(name="TGI", status="needs", note="LORA_ADAPTERS")


def _llama_cpp(config: Mapping[str, Any], found: Mapping[str, Any]) -> Server:
    """convert_lora_to_gguf.py: each tensor is a lora_A or a lora_B; it scales by lora_alpha over the tensor's rank."""
    if config.get("use_dora") or found.get("magnitude") == "unasked":
        return Server(name="llama.cpp", status="refuses", note="it does not know DoRA; merge first")
    if config.get("modules_to_save") or found.get("saved_unasked"):
        return Server(name="llama.cpp", status="refuses", note="it takes low-rank tensors alone; merge first")
    if found.get("named_after_adapter"):
        return Server(name="llama.cpp", status="refuses", note=_NAMES)
    altered = []
    if config.get("use_rslora"):
        altered.append("it scales by alpha over the rank, not over its root")
    if config.get("alpha_pattern"):
        altered.append("it takes lora_alpha for all modules")
    altered += _changed_base(found)
    if altered:
        return Server(name="llama.cpp", status="alters", note=" and ".join([*altered, "merge first"]))
    return Server(name="llama.cpp", status="needs", note="convert_lora_to_gguf.py --base")


_NAMES = "the adapter's name stands in those of the tensors"


def _one_scaling(found: Mapping[str, Any]) -> list[str]:
    scalings = {each.scaling for each in found.get("learned") or []}
    return ["it takes one scaling for all modules"] if len(scalings) > 1 else []


def _changed_base(found: Mapping[str, Any]) -> list[str]:
    init = found.get("init_changes_base")
    return [] if init in (None, "none") else [f"it adds it to the base as it is, and {init} changed that"]


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
