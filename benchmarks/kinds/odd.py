"""Odd small variants of the architectures that are fine-tuned most, trained by the same plain script as ``truth.py``.

What the sweep over all architectures does not vary: tied and untied heads, biases, one layer, a head dimension of its
own, one key-value head, sliding windows, mixtures of one expert, other patches. Knows nothing of qlora_doctor.
Usage: ``python odd.py FOLDER OUT.jsonl [NAME …]``; ``doctor.py`` and ``table.py`` take the output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import truth
from shrink import tiny_config

DENSE = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "olmo2",
    "granite",
    "glm4",
    "smollm3",
    "cohere2",
    "starcoder2",
    "gpt2",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
]
MIXTURES = [
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "deepseek_v3",
    "gpt_oss",
    "olmoe",
    "granitemoe",
    "ernie4_5_moe",
    "glm4_moe",
]
IMAGES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "gemma3", "idefics3", "internvl", "mistral3"]
HYBRIDS = ["falcon_h1", "jamba", "bamba", "qwen3_next", "lfm2", "nemotron_h", "granitemoehybrid"]
ENCODERS = ["t5", "mt5", "bart", "mbart", "pegasus", "marian"]
CLASSIFIERS = ["llama", "qwen2", "bert", "roberta", "deberta-v2", "modernbert", "gpt2", "gemma3_text"]

Change = dict[str, Any]
"""What a variant has that its architecture's defaults do not."""


def variants() -> dict[str, tuple[str, str, Change]]:
    """Kind, architecture and change of each, by name."""
    found: dict[str, tuple[str, str, Change]] = {}

    def add(kind: str, names: list[str], word: str, change: Change) -> None:
        found.update({f"{name}+{word}": (kind, name, change) for name in names})

    add("causal", DENSE, "tied", {"tie_word_embeddings": True})
    add("causal", DENSE, "untied", {"tie_word_embeddings": False})
    add("causal", DENSE, "one-layer", {"LAYERS": 1})
    add("causal", [n for n in DENSE if n not in ("gpt2", "bloom", "opt", "gpt_neox", "falcon", "phi")],
        "one-kv-head", {"num_key_value_heads": 1})  # fmt: skip
    add("causal", ["llama", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "glm4"], "head-24",
        {"head_dim": 24, "num_key_value_heads": 2})  # fmt: skip
    add("causal", ["llama", "qwen2", "qwen3", "olmo2", "granite", "phi3"], "biases",
        {"attention_bias": True, "mlp_bias": True, "use_bias": True})  # fmt: skip
    add("causal", ["qwen2", "qwen3", "mistral", "starcoder2", "gemma3_text"], "window",
        {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0})  # fmt: skip
    add("causal", ["llama", "qwen3", "gemma2", "gpt2", "phi3"], "odd-vocabulary", {"vocab_size": 517})
    # Heads larger than the embeddings' own vocabulary, and embeddings larger than the head.
    add("image", ["idefics"], "larger-head", {"additional_vocab_size": 8})
    add("image", ["mllama"], "larger-embeddings", {"TEXT": {"vocab_size": 517}})
    add("causal", ["moshi"], "larger-embeddings", {"vocab_size": 517})
    add("causal", ["gemma3n_text"], "smaller-per-layer", {"vocab_size_per_layer_input": 256})
    add("causal", MIXTURES, "one-expert", {
        "num_experts": 1, "num_local_experts": 1, "n_routed_experts": 1, "moe_num_experts": 1, "num_experts_per_tok": 1,
        "moe_k": 1, "n_group": 1, "topk_group": 1,
    })  # fmt: skip
    add("causal", MIXTURES, "tied", {"tie_word_embeddings": True})
    add("causal", MIXTURES, "one-layer", {"LAYERS": 1})
    add("causal", HYBRIDS, "tied", {"tie_word_embeddings": True})
    add("causal", HYBRIDS, "untied", {"tie_word_embeddings": False})
    add("image", IMAGES, "patch-4", {"VISION": {"patch_size": 4}})
    add("image", IMAGES, "one-layer", {"LAYERS": 1, "VISION": {"depth": 1, "num_hidden_layers": 1}})
    add("image", IMAGES, "tied", {"tie_word_embeddings": True, "TEXT": {"tie_word_embeddings": True}})
    add("image", IMAGES, "untied", {"tie_word_embeddings": False, "TEXT": {"tie_word_embeddings": False}})
    add("seq2seq", ENCODERS, "untied", {"tie_word_embeddings": False})
    add("seq2seq", ENCODERS, "one-layer", {"LAYERS": 1})
    add("seq2seq", ["t5", "mt5"], "gated", {"feed_forward_proj": "gated-gelu"})
    add("classify", CLASSIFIERS, "one-layer", {"LAYERS": 1})
    add("classify", CLASSIFIERS, "tied", {"tie_word_embeddings": True})
    return found


_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
)  # fmt: skip


def config_of(model_type: str, change: Change) -> Any:
    """The small config with the change, as far as the architecture has such a field."""
    values = tiny_config(model_type).to_dict()
    _put(values, {key: value for key, value in change.items() if key not in ("LAYERS", "VISION", "TEXT")})
    text = values["text_config"] if isinstance(values.get("text_config"), dict) else values
    _put(text, change.get("TEXT", {}))
    if isinstance(values.get("vision_config"), dict):
        _put(values["vision_config"], change.get("VISION", {}))
    if "LAYERS" in change:
        count = change["LAYERS"]
        _put(text, dict.fromkeys(_COUNTS, count))
        for name in ("layer_types", "layers_block_type", "mlp_layer_types"):
            if isinstance(text.get(name), list):
                text[name] = text[name][-count:]
    return transformers.CONFIG_MAPPING[model_type](**values)


def _put(values: dict[str, Any], change: Change) -> None:
    for key, value in change.items():
        if key in values or key in ("tie_word_embeddings", "head_dim"):
            values[key] = value


def main() -> None:
    """All variants, or those named."""
    root, out, *asked = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    root.mkdir(parents=True, exist_ok=True)
    for name, (kind, model_type, change) in variants().items():
        if asked and name not in asked and model_type not in asked:
            continue

        def changed(_: str, of: str = model_type, by: Change = change) -> Any:
            return config_of(of, by)

        truth.tiny_config = changed
        truth._in_child(root / f"{kind}-{name}", kind, name, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
