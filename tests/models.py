"""Tiny random models of many architectures, as Hugging Face folders with a tokenizer that is trained on the spot.

``make_model(folder, "llama")`` writes config.json, model.safetensors and the tokenizer; ``make_architecture`` writes
config.json alone. Sizes are multiples of 64, so that every 4-bit block is full.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 512
HIDDEN, INNER, LAYERS, HEADS = 64, 128, 2, 4
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAMA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA},
    "mistral": {"model_type": "mistral", **_LLAMA},
    "qwen2": {"model_type": "qwen2", **_LLAMA, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 16},
    "gemma": {"model_type": "gemma", **_LLAMA, "head_dim": 16, "tie_word_embeddings": True},
    "gemma2": {"model_type": "gemma2", **_LLAMA, "head_dim": 16, "tie_word_embeddings": True, "sliding_window": 64},
    "phi3": {"model_type": "phi3", **_LLAMA, "pad_token_id": 3, "bos_token_id": 0, "eos_token_id": 2},
    "olmo2": {"model_type": "olmo2", **_LLAMA},
    "gpt2": {"model_type": "gpt2", "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256},
    "gpt_neox": {
        "model_type": "gpt_neox",
        **{k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"},
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": HIDDEN,
        "ffn_dim": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": HIDDEN,
    },
    "falcon": {
        "model_type": "falcon",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "new_decoder_architecture": False,
        "alibi": False,
    },
    "mixtral": {"model_type": "mixtral", **_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"model_type": "olmoe", **_LLAMA, **_EXPERTS},
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        **_LLAMA,
        **_EXPERTS,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", **_LLAMA, **_EXPERTS, "head_dim": 16, "moe_intermediate_size": 64},
    "mamba": {"model_type": "mamba", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 8},
}
"""By name: the config of a tiny model of that architecture."""

HEALTHY = ("llama", "mistral", "qwen3", "gemma", "phi3", "olmo2", "gpt2", "gpt_neox", "opt")
"""Architectures on which a healthy setup trains with everything in 4-bit."""


def tiny_config(name: str, **changes: Any) -> Any:
    """A transformers config of a tiny model, with some values changed."""
    from transformers import AutoConfig

    values = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 3} | CONFIGS[name]
    values |= changes
    return AutoConfig.for_model(values.pop("model_type"), **values)


def make_architecture(folder: Path, name: str, **changes: Any) -> Path:
    """Write config.json alone; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(name, **changes)
    if "dtype" not in changes:
        config.dtype = "bfloat16"
    config.architectures = [_model_class(config).__name__]
    config.save_pretrained(folder)
    return folder


def make_model(
    folder: Path, name: str, *, dtype: str = "bfloat16", seed: int = 0, tokenizer: bool = True, **changes: Any
) -> Path:
    """Write a model with random weights and its tokenizer; returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM

    from qlora_doctor.pipeline.base import dtype_argument

    config = tiny_config(name, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, **{dtype_argument(): getattr(torch, dtype)})
    model.save_pretrained(folder)
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer with a chat template, trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|bos|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences() * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def sentences() -> list[str]:
    """Text to train on."""
    things = ("rank", "adapter", "base", "gradient", "step", "layer", "weight", "block")
    return [f"The {a} of the {b} is smaller than the {c}." for a in things for b in things for c in ("whole", "half")]


def make_data(path: Path, kind: str = "messages", rows: int = 32) -> Path:
    """Write JSON Lines with rows of format ``messages``, ``prompt-completion`` or ``text``."""
    makers = {
        "messages": lambda s: {"messages": [{"role": "user", "content": s}, {"role": "assistant", "content": s[::-1]}]},
        "prompt-completion": lambda s: {"prompt": f"Say: {s}", "completion": f" {s}"},
        "text": lambda s: {"text": s},
    }
    lines = [json.dumps(makers[kind](sentence)) for sentence in sentences()[:rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _model_class(config: Any) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found
