"""Tiny random models that are no plain language models: with images, with an encoder, classifiers, odd weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCABULARY, HIDDEN = 512, 64
_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 3,
}
_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": HIDDEN,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
_BART = {
    "vocab_size": VOCABULARY, "d_model": HIDDEN, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 256,
    "pad_token_id": 3, "decoder_start_token_id": 2,
}  # fmt: skip
_BERT = {key: value for key, value in _TEXT.items() if key != "num_key_value_heads"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "model_type": "llava",
            "vision_config": _CLIP,
            "text_config": {"model_type": "llama", **_TEXT},
            "image_token_index": 511,
            "vision_feature_layer": -1,
            "image_seq_length": 4,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "model_type": "qwen2_5_vl",
            "vision_config": {
                "depth": 2, "hidden_size": HIDDEN, "intermediate_size": 128, "num_heads": 4, "patch_size": 8,
                "out_hidden_size": HIDDEN, "spatial_merge_size": 2, "window_size": 32, "fullatt_block_indexes": [1],
            },
            "text_config": {"model_type": "qwen2_5_vl_text", **_TEXT, "rope_parameters": _ROPE},
            "image_token_id": 511, "video_token_id": 510, "vision_start_token_id": 509, "vision_end_token_id": 508,
        },
    ),
    "bart": ("BartForConditionalGeneration", {"model_type": "bart", **_BART}),
    "bart-classifier": ("BartForSequenceClassification", {"model_type": "bart", **_BART, "eos_token_id": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "model_type": "t5", "vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 16, "d_ff": 128, "num_layers": 2,
            "num_heads": 4, "decoder_start_token_id": 0,
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "model_type": "whisper", **_BART, "num_mel_bins": 16, "max_source_positions": 64,
            "max_target_positions": 64, "eos_token_id": 2, "bos_token_id": 1, "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
    "moonshine": (
        "MoonshineForConditionalGeneration",
        {
            "model_type": "moonshine", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 128,
            "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "decoder_start_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", {"model_type": "wav2vec2", "hidden_size": HIDDEN, "num_hidden_layers": 1}),
    "bert-tokens": ("BertForTokenClassification", {"model_type": "bert", **_BERT, "num_labels": 3}),
    "bert-choice": ("BertForMultipleChoice", {"model_type": "bert", **_BERT}),
    "bert-classifier": ("BertForSequenceClassification", {"model_type": "bert", **_BERT, "num_labels": 2}),
    "dbrx": (
        "DbrxForCausalLM",
        {
            "model_type": "dbrx", "d_model": HIDDEN, "n_heads": 4, "n_layers": 2, "max_seq_len": 256,
            "vocab_size": VOCABULARY,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {
                "hidden_size": HIDDEN, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2,
                "ffn_act_fn": {"name": "silu"},
            },
        },
    ),
    "xlnet": (
        "XLNetLMHeadModel",
        {"model_type": "xlnet", "vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layer": 2, "n_head": 4, "d_inner": 128},
    ),
    "vit": ("ViTModel", {"model_type": "vit", "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4}),
}  # fmt: skip
"""By name: the class of transformers and its config."""


def make_kind(folder: Path, name: str, *, weights: bool = True) -> Path:
    """Write config.json, and with ``weights`` a random checkpoint; returns the folder."""
    import torch
    import transformers

    class_name, values = KINDS[name]
    values = dict(values)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    if not weights:
        config.architectures = [class_name]
        config.save_pretrained(folder)
        return folder
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, class_name)._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder
