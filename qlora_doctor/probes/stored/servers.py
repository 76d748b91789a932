"""What serving an adapter takes: limits and refusals of the programs, each from its own source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...facts.stored import Server

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
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
    """vllm/lora: peft_helper.py (_validate_features, validate_legal), utils.py (parse_fine_tuned_lora_name).

    What only its newest versions take is reported as a need; read in versions up to the autumn of 2026.
    """
    refused = []
    if config.get("use_dora"):
        refused.append("it does not know DoRA")
    saved = config.get("modules_to_save") or []
    if set(saved) - _VLLM_HEADS:
        refused.append("it takes no modules_to_save")
    if _has_biases(config):
        refused.append("it takes no biases")
    if config.get("layer_replication"):
        refused.append("it knows no layer_replication")
    if found.get("named_after_adapter"):
        refused.append(_NAMES)
    rank = found.get("rank")
    if isinstance(rank, int) and rank > _VLLM_RANKS[-1]:
        refused.append(f"its largest rank is {_VLLM_RANKS[-1]}")
    if refused:
        return Server(name="vLLM", status="refuses", note=" and ".join(refused))
    altered = [*_one_scaling(found), *_changed_base(found)]
    if altered:
        note = f"{' and '.join(altered)}; its newest versions take each module's scaling, and refuse a changed base"
        return Server(name="vLLM", status="alters", note=note)
    needed = []
    if isinstance(rank, int) and rank > 16:
        needed.append(f"--max-lora-rank {next(r for r in _VLLM_RANKS if r >= rank)}")
    if config.get("trainable_token_indices"):
        needed.append(f"--max-lora-trainable-tokens {_tokens(config)}, which only its newest versions have")
    if saved:
        needed.append("a version that takes a classifier's head in modules_to_save")
    return Server(name="vLLM", status="needs" if needed else "serves", note=" and ".join(needed) or None)


_VLLM_HEADS = {"classifier", "score"}


def _tokens(config: Mapping[str, Any]) -> int:
    """Tokens that are trained by themselves, of the module with the most of them."""
    asked = config["trainable_token_indices"]
    return max((len(rows) for rows in (asked.values() if isinstance(asked, Mapping) else [asked])), default=0)


def _has_biases(config: Mapping[str, Any]) -> bool:
    return config.get("bias") not in (None, "none") or bool(config.get("lora_bias"))


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
    if _has_biases(config):
        altered.append("it leaves biases unread")
    if config.get("trainable_token_indices"):
        altered.append("it leaves trained tokens unread")
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
    whole = [*(config.get("modules_to_save") or []), *(found.get("saved_unasked") or [])]
    others = [name for name in whole if not str(name).rpartition(".")[2].endswith("norm")]
    if others or _has_biases(config) or config.get("trainable_token_indices"):
        return Server(name="llama.cpp", status="refuses", note="it takes low-rank tensors and norms alone; merge first")
    if config.get("layer_replication"):
        return Server(name="llama.cpp", status="refuses", note="it knows no layer_replication; merge first")
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


_CHANGING = ("use_dora", "layer_replication", "lora_bias", "exclude_modules", "trainable_token_indices",
             "target_parameters", "arrow_config", "ensure_weight_tying", "alora_invocation_tokens", "use_qalora",
             "use_bdlora", "kasa_config", "monteclora_config", "velora_config")  # fmt: skip
"""Options of LoraConfig that change what is loaded."""


def _peft(config: Mapping[str, Any]) -> Server:
    from ...tables.signatures import since

    needed = [first for key in _CHANGING if config.get(key) and (first := since("peft", "LoraConfig", key))]
    if not needed:
        return Server(name="PEFT", status="serves")
    newest = max(needed, key=lambda version: int(version.split(".")[1]))
    return Server(name="PEFT", status="needs", note=f"{newest} or newer")
