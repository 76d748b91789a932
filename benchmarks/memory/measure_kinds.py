"""Measure the memory of runs beyond plain fine-tuning on this machine's GPU: methods, images, kernels, evaluation.

    python benchmarks/memory/measure_kinds.py [--seconds 280] [--only TEXT] [--workers 7] [--out DIR, else $OUT]
    python benchmarks/memory/measure_kinds.py --further      # tiles, images by trl, offloading, generation, T5
    python benchmarks/memory/measure_kinds.py --loaded       # cases loaded by from_pretrained, as people load
    python benchmarks/memory/measure_kinds.py --cards 2      # the cases of two cards, one after the other, by torchrun
    python benchmarks/memory/measure_kinds.py --dry-run      # every case, shrunk, on the CPU: does the script work?

Each case runs in a fresh process: a model with random weights goes to the card in 4-bit, layer by layer, and the real
trainer makes its optimizer steps. ``kinds.json`` is a truth file that ``compare_kinds.py`` takes; ``tapes.json.gz``
beside it holds what the allocator was asked for in the second step, and by whom. Both are written anew after each case.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LLAMA_1B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
QWEN_VISION: dict[str, Any] = {
    "model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "in_channels": 3,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama3.2-1b": LLAMA_1B,
    "llama3-8b": LLAMA_8B,
    "llama3-8b/8": {**LLAMA_8B, "num_hidden_layers": 8},
    "qwen2.5-1.5b": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "qwen2.5-32b": {
        "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
        "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "vocab_size": 151936, "num_experts": 128, "num_experts_per_tok": 8, "max_position_embeddings": 40960,
    },
    "qwen2.5-vl-3b": {
        "model_type": "qwen2_5_vl", "image_token_id": 151655, "video_token_id": 151656,
        "vision_start_token_id": 151652, "vision_end_token_id": 151653, "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2_5_vl_text", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
            "max_position_embeddings": 128000, "rope_theta": 1000000.0, "tie_word_embeddings": True,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        },
        "vision_config": {**QWEN_VISION, "out_hidden_size": 2048},
    },
    "gemma3-4b": {
        "model_type": "gemma3", "image_token_index": 262144, "boi_token_index": 255999, "eoi_token_index": 256000,
        "mm_tokens_per_image": 256,
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
            "max_position_embeddings": 131072, "sliding_window": 1024,
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
            "num_attention_heads": 16, "num_hidden_layers": 27, "image_size": 896, "patch_size": 14,
            "vision_use_head": False,
        },
    },
    "llava-1.5-7b": {
        "model_type": "llava", "image_token_index": 32000, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
        "text_config": {
            "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 24, "image_size": 336, "patch_size": 14,
            "projection_dim": 768, "vocab_size": 32000,
        },
    },
    "flan-t5-large": {
        "model_type": "t5", "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_decoder_layers": 24,
        "num_heads": 16, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    },
    "llava-v1.6-mistral-7b": {
        "model_type": "llava_next", "image_token_index": 32000, "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "text_config": {
            "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32064, "sliding_window": None,
            "max_position_embeddings": 32768,
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 24, "image_size": 336, "patch_size": 14,
            "projection_dim": 768, "vocab_size": 32000,
        },
    },
    "bart-large": {
        "model_type": "bart", "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12,
        "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096, "vocab_size": 50265, "max_position_embeddings": 1024,
    },
}  # fmt: skip
FEW = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: list[dict[str, Any]] = [
    {"model": "llama3.2-1b", "bs": 4, "seq": 1024, "liger": True},
    {"model": "llama3-8b", "bs": 1, "seq": 1024, "liger": True, "trainer": "trl"},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "liger": True, "gc": False},
    {"model": "qwen2.5-1.5b", "method": "grpo", "bs": 4, "seq": 256, "completion": 64, "gens": 4},
    {"model": "gemma3-4b", "method": "gvlm", "bs": 1, "seq": 1024},
    {"model": "qwen2.5-vl-3b", "method": "vlm", "bs": 2, "seq": 1024, "grid": [32, 32]},
    {"model": "llama3.2-1b", "method": "grpo", "bs": 8, "seq": 128, "completion": 96, "gens": 8,
     "extra": {"beta": 0.04, "num_iterations": 2}},
    {"model": "qwen3-30b-a3b", "bs": 1, "seq": 1024, "prep": False, "targets": FEW},
    {"model": "flan-t5-large", "method": "s2s", "bs": 4, "seq": 512},
    {"model": "llama3.2-1b", "bs": 4, "seq": 1024, "compile": True},
    {"model": "qwen2.5-1.5b", "method": "orpo", "bs": 2, "seq": 1024},
    {"model": "llama3.2-1b", "method": "cpo", "bs": 2, "seq": 1024},
    {"model": "gemma3-4b", "method": "gvlm", "bs": 2, "seq": 512, "gc": False},
    {"model": "llava-1.5-7b", "method": "gvlm", "bs": 2, "seq": 1024, "image": [336, 576]},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "eval": 4, "metrics": True},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "eval": 4, "metrics": True, "extra": {"eval_accumulation_steps": 1}},
    {"model": "llama3-8b", "method": "rloo", "bs": 4, "seq": 128, "completion": 64, "gens": 4},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "liger": True, "gc": False, "prep": False},
    {"model": "qwen2.5-32b", "bs": 1, "seq": 2048},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "compile": True, "gc": False},
    {"model": "llama3-8b", "bs": 2, "seq": 2048, "expandable": True},
    {"model": "qwen2.5-1.5b", "method": "dpo", "bs": 2, "seq": 1024, "gc": False, "expandable": True},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "trainer": "trl", "save": True, "eval": 2, "best": True},
    {"model": "bart-large", "method": "s2s", "bs": 4, "seq": 512, "gc": False},
    {"model": "llama3-8b", "bs": 1, "seq": 1024, "eval": 4, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "eval": 4, "extra": {"bf16_full_eval": True}},
    {"model": "llama3.2-1b", "method": "grpo", "bs": 4, "seq": 256, "completion": 64, "gens": 4, "accum": 2},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 2048, "liger": True, "trainer": "trl"},
    {"model": "llama3.2-1b", "method": "simpo", "bs": 2, "seq": 1024, "gc": False},
    {"model": "qwen2.5-1.5b", "method": "cls", "bs": 4, "seq": 1024, "gc": False},
    {"model": "llama3.2-1b", "bs": 2, "seq": 2048, "padded": True, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "trainer": "trl", "extra": {"activation_offloading": True}},
]  # fmt: skip
"""What to measure on one card, the most wanted first."""
LOADED: list[dict[str, Any]] = [
    {"loaded": True, **case}
    for case in (
        {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "eval": 8, "eval_rows": 32, "trainer": "trl"},
        {"model": "llama3.2-1b", "method": "dpo", "bs": 4, "seq": 512},
        {"model": "llama3-8b/8", "bs": 1, "seq": 1024, "liger": True, "trainer": "trl"},
        {"model": "llama3.2-1b", "method": "grpo", "bs": 4, "seq": 256, "completion": 64, "gens": 4, "accum": 2},
        {"model": "flan-t5-large", "method": "s2s", "bs": 4, "seq": 512},
        {"model": "llama3.2-1b", "method": "rloo", "bs": 4, "seq": 128, "completion": 64, "gens": 4},
        {"model": "llama3.2-1b", "method": "reward", "bs": 4, "seq": 1024},
        {"model": "llama3.2-1b", "bs": 1, "seq": 512},
    )
]
"""The same of models that come from a checkpoint: what from_pretrained leaves free decides what is reserved."""
FURTHER: list[dict[str, Any]] = [
    {"model": "flan-t5-large", "method": "s2s", "bs": 4, "seq": 512, "contiguous_bias": True},
    {"model": "flan-t5-large", "method": "s2s", "bs": 2, "seq": 512, "gc": False, "contiguous_bias": True},
    {"model": "qwen2.5-vl-3b", "method": "vlm", "bs": 2, "seq": 1024, "grid": [32, 32], "trainer": "trl"},
    {"model": "llama3-8b", "bs": 2, "seq": 2048, "trainer": "trl", "extra": {"activation_offloading": True}},
    {"model": "bart-large", "method": "s2s", "bs": 4, "seq": 512, "eval": 8, "eval_rows": 16, "metrics": True,
     "generate": 64, "extra": {"generation_max_length": 64, "generation_num_beams": 1}},
    {"model": "llava-v1.6-mistral-7b", "method": "tiles", "bs": 1, "seq": 3072, "image": [672, 672]},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "eval": 4, "eval_rows": 12, "metrics": True, "argmax": True},
    {"model": "gemma3-4b", "method": "gvlm", "bs": 1, "seq": 512, "trainer": "trl"},
    {"model": "qwen2.5-vl-3b", "method": "vlm", "bs": 1, "seq": 2048, "grid": [54, 74]},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "gc": False, "trainer": "trl",
     "extra": {"activation_offloading": True}},
]  # fmt: skip
"""Kinds that the others leave out: tiles, images by trl, offloaded activations, evaluations that generate or keep
what preprocess_logits_for_metrics makes; ``contiguous_bias``: T5's bias as transformers makes it from 5.20 on."""
TWO: list[dict[str, Any]] = [
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "fsdp": 2, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "fsdp": 2, "bf16_storage": False},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "fsdp": 1, "fsdp_config": {"use_orig_params": False}},
    {"model": "llama3.2-1b", "method": "dpo", "bs": 1, "seq": 1024, "fsdp": 2},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "fsdp": 2, "bf16_storage": False, "trainer": "trl"},
    {"model": "llama3-8b/8", "bs": 1, "seq": 2048, "fsdp": 1, "fsdp_config": {"use_orig_params": False},
     "trainer": "trl"},
    {"model": "llama3-8b/8", "bs": 1, "seq": 2048, "fsdp": 2, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "parallel": True},
    {"model": "llama3.2-1b", "method": "dpo", "bs": 1, "seq": 1024, "fsdp": 2, "bf16_storage": False},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "fsdp": 1, "fsdp_config": {"use_orig_params": True}},
]  # fmt: skip
"""What to measure on two cards; ``parallel``: both visible to one process, transformers' DataParallel."""
SHARDED: list[dict[str, Any]] = [
    {"model": "llama3-8b", "bs": 1, "seq": 2048, "fsdp": 1, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "zero": 2},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "zero": 3},
    {"model": "qwen2.5-1.5b", "bs": 1, "seq": 2048, "fsdp": 1, "adapter32": True, "accum": 2},
    {"model": "llama3-8b/8", "bs": 1, "seq": 2048, "zero": 2, "trainer": "trl"},
    {"model": "llama3-8b/8", "bs": 1, "seq": 2048, "zero": 3, "trainer": "trl"},
    {"model": "llama3.2-1b", "bs": 1, "seq": 1024, "fsdp": 1, "eval": 2, "eval_rows": 8},
    {"model": "llama3.2-1b", "bs": 1, "seq": 1024, "fsdp": 2, "eval": 2, "eval_rows": 8},
    {"model": "llama3.2-1b", "bs": 1, "seq": 1024, "zero": 2, "eval": 2, "eval_rows": 8},
    {"model": "llama3.2-1b", "bs": 2, "seq": 1024, "zero": 2, "accum": 2, "gc": False},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "zero": 2, "trainer": "trl",
     "zero_config": {"overlap_comm": True, "reduce_bucket_size": "auto"}},
    {"model": "llama3-8b/8", "bs": 1, "seq": 1024, "fsdp": 1, "fsdp_config": {"backward_prefetch": "BACKWARD_PRE"}},
    {"model": "qwen2.5-1.5b", "bs": 2, "seq": 1024, "fsdp": 2, "trainer": "trl", "adapter32": True},
    {"model": "llama3.2-1b", "method": "dpo", "bs": 1, "seq": 1024, "zero": 2},
]  # fmt: skip
"""More on two cards: FSDP 1, ZeRO-2 and ZeRO-3 (with deepspeed), evaluations in between."""
METHOD = (
    "one fresh process a case, several at a time on one card; random weights, quantized layer by layer (FSDP "
    "or loaded: saved and loaded with from_pretrained); NF4 blocksize 64, double quantization; "
    "prepare_model_for_kbit_training unless prep is false or FSDP is on; the trainer of the method, 3 optimizer steps "
    "(2 where it generates); peaks: "
    "[allocated, reserved, seconds] of each optimizer step, evaluation excluded from allocated, its reserve stays; "
    "evals: the same at evaluation batches; saves: between a step's end and the end of saving; loaded: allocated "
    "before training"
)
GIB_AT_ONCE = 118
"""GiB of the card that cases may need together, each counted by :func:`gib`."""
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "moe_intermediate_size": 32,
    "num_experts": 4, "num_experts_per_tok": 2, "depth": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1],
}  # fmt: skip


def shrunk(architecture: dict[str, Any]) -> dict[str, Any]:
    """An architecture of two small layers."""
    small = {}
    for name, value in architecture.items():
        small[name] = shrunk(value) if isinstance(value, dict) and name != "rope_scaling" else SMALL.get(name, value)
    if "rope_scaling" in small:
        small["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 3, 3]}
    return small


def gib(case: dict[str, Any]) -> float:
    """Roughly what a case takes at most, in GiB."""
    size = {"qwen3-30b-a3b": 80, "qwen2.5-32b": 34, "llama3-8b": 18, "llava-1.5-7b": 16, "gemma3-4b": 26}
    size["llava-v1.6-mistral-7b"] = 20
    return size.get(case["model"], 13) + (10 if case.get("gc") is False else 0) + (4 if case.get("metrics") else 0)


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": 4 + i for i in range(500)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def materialise(model: Any, device: Any, double_quant: bool) -> None:
    """Random weights for a model on the meta device, each quantized as it comes."""
    import bitsandbytes
    import torch

    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, bitsandbytes.nn.Params4bit):
                weight = torch.empty((module.out_features, module.in_features), dtype=torch.bfloat16, device=device)
                packed, state = bitsandbytes.functional.quantize_4bit(
                    weight.normal_(0, 0.02), blocksize=parameter.blocksize, compress_statistics=double_quant,
                    quant_type="nf4", quant_storage=parameter.quant_storage,
                )  # fmt: skip
                del weight
                new = bitsandbytes.nn.Params4bit(
                    packed, requires_grad=False, quant_state=state, blocksize=parameter.blocksize,
                    compress_statistics=double_quant, quant_type="nf4", bnb_quantized=True,
                )  # fmt: skip
                module._parameters[name], module.quant_state, new.module = new, state, module
            else:
                weight = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                if weight.dim() == 1:
                    weight.fill_(1) if name == "weight" else weight.zero_()
                else:
                    weight.normal_(0, 0.02)
                module._parameters[name] = torch.nn.Parameter(weight, requires_grad=False)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype, device=device)


def make_bias_contiguous() -> None:
    """What transformers does from 5.20 on: a learned bias goes to the attention in one piece, so a kernel takes it."""
    from transformers.integrations import sdpa_attention

    made = sdpa_attention.create_position_bias_mask

    def contiguous(*args: Any, **kwargs: Any) -> Any:
        return made(*args, **kwargs).contiguous()

    sdpa_attention.create_position_bias_mask = contiguous


def build(case: dict[str, Any], dry: bool, device: Any, result: dict[str, Any]) -> tuple[Any, Any]:
    """The PEFT model of a case, and its config."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoConfig, BitsAndBytesConfig
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer

    method, fsdp = case.get("method", "sft"), case.get("fsdp")
    architecture = ARCHITECTURES[case["model"]]
    config = AutoConfig.for_model(**(shrunk(architecture) if dry else architecture))
    double_quant, attention = case.get("dq", True), case.get("attn", "sdpa")
    as_floats = case.get("bf16_storage", bool(fsdp or case.get("zero") == 3))
    storage = torch.bfloat16 if as_floats else torch.uint8
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_quant_storage=storage,
    )  # fmt: skip
    classifier = transformers.AutoModelForSequenceClassification
    auto = {
        "cls": classifier, "reward": classifier,
        **dict.fromkeys(("vlm", "gvlm", "tiles"), transformers.AutoModelForImageTextToText),
        "s2s": transformers.AutoModelForSeq2SeqLM,
    }.get(method, transformers.AutoModelForCausalLM)  # fmt: skip
    if method in ("cls", "reward"):
        config.num_labels, config.pad_token_id = case.get("labels", 1 if method == "reward" else 3), 0
    sharded = fsdp or case.get("zero")
    if (sharded or case.get("loaded")) and not dry:
        root = os.environ["CHECKPOINTS"] if sharded else tempfile.mkdtemp()
        folder = Path(root) / case["model"].replace("/", "-")
        if int(os.environ.get("RANK", 0)) == 0 and not (folder / "done").exists():
            with torch.device(device):
                model = auto.from_config(config, dtype=torch.bfloat16)
            model.save_pretrained(folder)
            (folder / "done").touch()
            del model
            torch.cuda.empty_cache()
        while not (folder / "done").exists():
            time.sleep(0.3)
        torch.cuda.reset_peak_memory_stats()
        model = auto.from_pretrained(
            folder, quantization_config=quantization, dtype=torch.bfloat16, attn_implementation=attention
        )
        result["load_peak"] = torch.cuda.max_memory_allocated()
    else:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
        skip = quantizer.get_modules_to_not_convert(model, None, getattr(model, "_keep_in_fp32_modules", None))
        model = replace_with_bnb_linear(model, modules_to_not_convert=skip, quantization_config=quantization)
        materialise(model, device, double_quant)
        model.tie_weights()
        model.is_loaded_in_4bit, model.hf_quantizer = True, quantizer
        model.hf_device_map = {"": device}
    model.config.use_cache = False
    checkpointing = {"use_reentrant": case.get("reentrant", False)}
    if case.get("prep", not sharded):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=case.get("gc", True), gradient_checkpointing_kwargs=checkpointing
        )
    task = {"cls": "SEQ_CLS", "reward": "SEQ_CLS", "s2s": "SEQ_2_SEQ_LM"}.get(method, "CAUSAL_LM")
    lora = LoraConfig(
        r=case.get("r", 16), lora_alpha=32, lora_dropout=case.get("dropout", 0.05),
        target_modules=case.get("targets", "all-linear"), task_type=task,
    )  # fmt: skip
    model = get_peft_model(
        model, lora, **({} if case.get("adapter32", not fsdp) else {"autocast_adapter_dtype": False})
    )
    return model, config


def trainer_of(case: dict[str, Any], model: Any, config: Any, callback: Any, dry: bool) -> Any:
    """The real trainer of a case, with made-up data."""
    import torch
    from transformers import Trainer, TrainingArguments

    method, batch, length = case.get("method", "sft"), case["bs"], case["seq"]
    completion, grid = case.get("completion"), case.get("grid")
    if dry:
        length, completion, grid = min(length, 64), completion and min(completion, 8), grid and [4, 4]
    generates = method in ("grpo", "rloo")
    options: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": case.get("accum", 1), "max_steps": case.get("steps", 2 if generates else 3),
        "bf16": True, "gradient_checkpointing": case.get("gc", True),
        "gradient_checkpointing_kwargs": {"use_reentrant": case.get("reentrant", False)},
        "optim": case.get("optim", "adamw_torch_fused"), "report_to": [], "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "learning_rate": 1e-4, "dataloader_pin_memory": False,
    } | case.get("extra", {})  # fmt: skip
    if case.get("eval"):
        options |= {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": case["eval"]}
    if case.get("save"):
        options |= {"save_strategy": "steps", "save_steps": 1}
    if case.get("best"):
        options |= {"load_best_model_at_end": True}
    for key, name, value in (
        ("liger", "use_liger_kernel", True), ("neftune", "neftune_noise_alpha", 5), ("compile", "torch_compile", True),
    ):  # fmt: skip
        if case.get(key):
            options[name] = value
    if case.get("fsdp") and not dry:
        options |= {"fsdp": "full_shard auto_wrap"}
        options["fsdp_config"] = {"fsdp_version": case["fsdp"], **case.get("fsdp_config", {})}
    if case.get("zero") and not dry:
        options["deepspeed"] = {
            "bf16": {"enabled": "auto"}, "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto",
            "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
            "zero_optimization": {"stage": case["zero"], **case.get("zero_config", {})},
        }  # fmt: skip
    if case.get("ddp"):
        options["ddp_find_unused_parameters"] = False
    if case.get("generate"):
        options |= {"predict_with_generate": True}
    if dry:
        options |= {"use_cpu": True, "torch_compile": False}
        options.pop("use_liger_kernel", None)
        options.pop("activation_offloading", None)
        if not torch.cuda.is_available():
            options["optim"] = "adamw_torch"
    words = tokenizer()

    def text(count: int) -> str:
        return " ".join(f"w{random.randrange(500)}" for _ in range(count))

    lengths = [length] * 64 if not case.get("padded") else [max(16, int(length * f)) for f in [1, 0.3, 0.7, 0.5] * 16]
    ids = [torch.randint(4, 500, (count,)) for count in lengths]

    def collate(rows: list[Any]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        fill = torch.nn.functional.pad
        made = {
            "input_ids": torch.stack([fill(r["input_ids"], (0, longest - len(r["input_ids"]))) for r in rows]),
            "attention_mask": torch.stack(
                [fill(torch.ones_like(r["input_ids"]), (0, longest - len(r["input_ids"]))) for r in rows]
            ),
        }
        labels = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
        made["labels"] = torch.zeros(len(rows), dtype=torch.int64) if method == "cls" else labels
        return made

    with_trl = (
        method in ("dpo", "kto", "reward", "orpo", "cpo", "simpo", "grpo", "rloo") or case.get("trainer") == "trl"
    )
    common: dict[str, Any] = {"model": model, "callbacks": [callback]}
    if method in ("vlm", "gvlm", "tiles") or not with_trl:
        if case.get("metrics"):
            common["compute_metrics"] = lambda predictions: {}
        if case.get("argmax"):
            common["preprocess_logits_for_metrics"] = lambda logits, labels: logits.argmax(-1)
        if method == "vlm":
            high, wide = grid
            count, token, vision = high * wide // 4, config.image_token_id, config.vision_config
            width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2

            def images(rows: list[Any]) -> dict[str, Any]:
                k = len(rows)
                x = torch.randint(4, 500, (k, length))
                x[:, 0], x[:, 1 : 1 + count], x[:, 1 + count] = (
                    config.vision_start_token_id, token, config.vision_end_token_id,
                )  # fmt: skip
                return {
                    "input_ids": x, "attention_mask": torch.ones_like(x), "labels": x.masked_fill(x == token, -100),
                    "pixel_values": torch.randn(k * high * wide, width),
                    "image_grid_thw": torch.tensor([[1, high, wide]] * k), "mm_token_type_ids": (x == token).long(),
                }  # fmt: skip
        elif method == "gvlm":
            token = config.image_token_index if hasattr(config, "image_token_index") else config.image_token_id
            side, count = case.get("image", [896, 256])
            if dry:
                length = count + 32

            def images(rows: list[Any]) -> dict[str, Any]:
                k = len(rows)
                x = torch.randint(4, 500, (k, length))
                x[:, 1 : 1 + count] = token
                made = {
                    "input_ids": x, "attention_mask": torch.ones_like(x), "labels": x.masked_fill(x == token, -100),
                    "pixel_values": torch.randn(k, 3, side, side),
                }  # fmt: skip
                return made | ({"token_type_ids": (x == token).long()} if config.model_type == "gemma3" else {})
        elif method == "tiles":
            # One picture that fills a grid of tiles, as LLaVA-Next's processor cuts it: the grid and the whole.
            side, token = config.vision_config.image_size, config.image_token_index
            size = [side, 2 * side] if dry else case["image"]
            patches = side // config.vision_config.patch_size
            high, wide = (pixels // side for pixels in size)
            tiles = high * wide + 1
            count = patches**2 + high * patches * (wide * patches + 1)
            if dry:
                length = count + 32

            def images(rows: list[Any]) -> dict[str, Any]:
                k = len(rows)
                x = torch.randint(4, 500, (k, length))
                x[:, 1 : 1 + count] = token
                return {
                    "input_ids": x, "attention_mask": torch.ones_like(x), "labels": x.masked_fill(x == token, -100),
                    "pixel_values": torch.randn(k, tiles, 3, side, side), "image_sizes": torch.tensor([size] * k),
                }  # fmt: skip
        else:
            images = None  # type: ignore[assignment]
        rows: list[Any] = [{"i": 0}] * 64 if images else [{"input_ids": each} for each in ids]
        if with_trl:
            import trl
            from datasets import Dataset

            told = trl.SFTConfig(
                **options, max_length=None, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}
            )
            made = Dataset.from_list([{"input_ids": [4]}] * 64)
            common |= {"data_collator": images, "processing_class": words}
            return trl.SFTTrainer(args=told, train_dataset=made, **common)
        if case.get("generate"):
            from transformers import Seq2SeqTrainer as Trainer
            from transformers import Seq2SeqTrainingArguments as TrainingArguments
        arguments = TrainingArguments(**options, remove_unused_columns=False)
        if not case.get("parallel"):
            _ = arguments.device
            arguments._n_gpu = min(arguments._n_gpu, 1)
        return Trainer(
            args=arguments, train_dataset=rows, data_collator=images or collate,
            eval_dataset=rows[: case.get("eval_rows", 16)] if case.get("eval") else None, **common,
        )  # fmt: skip
    import trl
    from datasets import Dataset

    half = length // 2
    common["processing_class"] = words
    if method == "sft":
        data = Dataset.from_dict({"input_ids": [each.tolist() for each in ids]})
        evaluated = data.select(range(case.get("eval_rows", 16))) if case.get("eval") else None
        arguments = trl.SFTConfig(**options, max_length=length, packing=case.get("packing", False))
        return trl.SFTTrainer(args=arguments, train_dataset=data, eval_dataset=evaluated, **common)
    if generates:
        data = Dataset.from_list([{"prompt": text(length)} for _ in range(32)])
        classes = (trl.GRPOTrainer, trl.GRPOConfig) if method == "grpo" else (trl.RLOOTrainer, trl.RLOOConfig)
        arguments = classes[1](**options, max_completion_length=completion, num_generations=case["gens"])
        rewards = lambda completions, **_: [random.random() for _ in completions]  # noqa: E731
        return classes[0](args=arguments, train_dataset=data, reward_funcs=rewards, **common)
    pairs = [
        {"prompt": text(half), "chosen": " " + text(half - 1), "rejected": " " + text(half - 1)} for _ in range(32)
    ]
    if method == "kto":
        pairs = [{"prompt": text(half), "completion": " " + text(half - 1), "label": i % 2 == 0} for i in range(32)]
    if method == "reward":
        pairs = [{"chosen": text(length - 1), "rejected": text(length - 1)} for _ in range(32)]
    name, fixed = {
        "dpo": ("DPO", {}), "kto": ("KTO", {}), "reward": ("Reward", {}), "orpo": ("ORPO", {}), "cpo": ("CPO", {}),
        "simpo": ("CPO", {"loss_type": "simpo", "cpo_alpha": 0.0}),
    }[method]  # fmt: skip
    try:
        room: Any = trl
        classes = getattr(room, f"{name}Trainer"), getattr(room, f"{name}Config")
    except AttributeError:
        import importlib

        room = importlib.import_module(f"trl.experimental.{name.lower()}")
        classes = getattr(room, f"{name}Trainer"), getattr(room, f"{name}Config")
    arguments = classes[1](**options, max_length=length, **fixed)
    return classes[0](args=arguments, train_dataset=Dataset.from_list(pairs), **common)


def tape_of(snapshot: dict[str, Any], least: int) -> dict[str, Any]:
    """What was asked for and given back, in order, and by whom: requests of at least ``least`` bytes.

    ``events``: [bytes, place in ``frames``, stream] of a request, the number of a request that is given back.
    """
    frames: dict[str, int] = {}
    events: list[Any] = []
    live: dict[int, int] = {}
    count = 0
    traces = max(snapshot["device_traces"], key=len)
    for entry in traces:
        action, size = entry["action"], entry["size"]
        if size < least:
            continue
        if action == "alloc":
            told = _place(entry.get("frames") or [])
            events.append([size, frames.setdefault(told, len(frames)), entry.get("stream", 0) and 1])
            live[entry["addr"]] = count
            count += 1
        elif action == "free_completed" and entry["addr"] in live:
            events.append(live.pop(entry["addr"]))
        elif action in ("segment_alloc", "segment_free"):
            events.append([-size if action == "segment_free" else size, -1, 0])
    return {"frames": list(frames), "events": events}


def _place(frames: list[dict[str, Any]]) -> str:
    """The three innermost places in Python that are not PyTorch's own."""
    told = []
    for frame in frames:
        name = frame["filename"]
        if ("/torch/" in name and "checkpoint" not in name) or not name.endswith(".py"):
            continue
        told.append(f"{'/'.join(name.split('/')[-2:])}:{frame['line']}:{frame['name']}")
        if len(told) == 3:
            break
    return " < ".join(told)


def one(case: dict[str, Any], dry: bool, out: Path | None) -> dict[str, Any]:
    """Measure one case in this process."""
    import gc
    import warnings

    warnings.filterwarnings("ignore")
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    began = time.time()
    rank = int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available() and not dry
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    result: dict[str, Any] = {"case": case, "rank": int(os.environ.get("RANK", 0))}
    stats: Any = torch.cuda if cuda else None

    def peak() -> tuple[int, int]:
        if stats is None:
            return 0, 0
        stats.synchronize()
        found = stats.max_memory_allocated(), stats.max_memory_reserved()
        stats.reset_peak_memory_stats()
        return found

    try:
        if case.get("contiguous_bias"):
            make_bias_contiguous()
        model, config = build(case, dry, device, result)
        result["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        gc.collect()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            result["loaded"] = torch.cuda.memory_allocated()
        torch.manual_seed(0)
        random.seed(0)
        peaks: list[Any] = []
        evaluations: list[Any] = []
        saves: list[Any] = []
        tapes: list[Any] = []

        class Watch(transformers.TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *a: Any, **k: Any) -> None:
                peak()
                self.began = time.time()
                if cuda and len(peaks) == 1:
                    torch.cuda.memory._record_memory_history(max_entries=400_000, stacks="python", context="alloc")

            def on_step_end(self, *a: Any, **k: Any) -> None:
                seconds = round(time.time() - self.began, 3)
                if cuda and len(peaks) == 1:
                    torch.cuda.synchronize()
                    snapshot = torch.cuda.memory._snapshot()
                    torch.cuda.memory._record_memory_history(enabled=None)
                    generates = case.get("method") in ("grpo", "rloo")
                    tapes.append(tape_of(snapshot, (4 << 20) if generates else (1 << 20)))
                peaks.append((*peak(), seconds))

            def on_prediction_step(self, *a: Any, **k: Any) -> None:
                if stats is not None:
                    evaluations.append((stats.max_memory_allocated(), stats.max_memory_reserved()))

            def on_evaluate(self, *a: Any, **k: Any) -> None:
                result.setdefault("evaluated", []).append(peak())

            def on_save(self, *a: Any, **k: Any) -> None:
                saves.append(peak())

        trainer = trainer_of(case, model, config, Watch(), dry)
        result["trainer"] = type(trainer).__name__
        trainer.train()
        result |= {"peaks": peaks, "evals": evaluations[:40], "saves": saves, "last": peak()}
        result["after"] = torch.cuda.memory_allocated() if cuda else 0
        result["loss"] = [entry.get("loss") for entry in trainer.state.log_history][:3]
        if tapes and out is not None and result["rank"] == 0:
            result["tape"] = tapes[0]
    except BaseException as error:
        import traceback

        result |= {"error": repr(error)[:300], "trace": traceback.format_exc()[-1200:]}
    result["s"] = round(time.time() - began, 1)
    return result


def environment_of(case: dict[str, Any]) -> dict[str, str]:
    """The environment of a case's process."""
    told = dict(os.environ)
    if case.get("expandable"):
        told["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    told.setdefault("TOKENIZERS_PARALLELISM", "false")
    return told


def record(out: Path, results: list[dict[str, Any]], ranks: int, name: str) -> None:
    """Write what is measured so far."""
    import torch

    rows = []
    tapes = []
    for result in results:
        row = {key: value for key, value in result.items() if key != "tape"}
        rows.append(row | {"ranks": ranks if not row["case"].get("parallel") else 1})
        tapes.append({"case": result["case"], **(result.get("tape") or {})})
    used = {row["case"]["model"] for row in rows}
    document = {
        "about": f"Measured with torch {torch.__version__} by measure_kinds.py: {METHOD}",
        "architectures": {key: value for key, value in ARCHITECTURES.items() if key in used},
        "cases": rows,
    }
    (out / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    with gzip.open(out / f"{name}-tapes.json.gz", "wt", encoding="utf-8") as file:
        json.dump(tapes, file, separators=(",", ":"))


def started(case: dict[str, Any], folder: Path, place: int, options: Any, cards: int) -> subprocess.Popen[bytes]:
    """A process that measures one case."""
    (folder / f"{place}.in").write_text(json.dumps(case), encoding="utf-8")
    command = [sys.executable]
    if cards > 1 and not case.get("parallel"):
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(cards), "--master-port", str(29600 + place)]
    command += [__file__, "--case", str(folder / f"{place}.in"), "--out", str(folder)]
    if options.dry_run:
        command.append("--dry-run")
    told = environment_of(case)
    if cards == 1 and "CUDA_VISIBLE_DEVICES" not in told and not options.dry_run:
        told["CUDA_VISIBLE_DEVICES"] = "0"
    told.setdefault("CHECKPOINTS", str(folder))
    return subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=280)
    parser.add_argument("--only", default="")
    parser.add_argument("--workers", type=int, default=7)
    parser.add_argument("--cards", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--further", action="store_true", help="the kinds that the others leave out")
    parser.add_argument("--loaded", action="store_true", help="the cases loaded by from_pretrained")
    parser.add_argument("--sharded", action="store_true", help="the more of two cards")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--case", type=Path, help="measure this one case, in this process")
    options = parser.parse_args(arguments)
    if options.case is not None:
        result = one(json.loads(options.case.read_text(encoding="utf-8")), options.dry_run, options.out)
        path = options.case.with_suffix(f".{result['rank']}")
        path.write_text(json.dumps(result), encoding="utf-8")
        os._exit(0)
    deadline = time.time() + options.seconds
    name, wanted = ("kinds", CASES) if options.cards == 1 else ("kinds-two", TWO)
    if options.sharded:
        name, wanted = "kinds-sharded", SHARDED
    elif options.further or options.loaded:
        name, wanted = ("kinds-further", FURTHER) if options.further else ("kinds-loaded", LOADED)
    cases = [case for case in wanted if options.only in json.dumps(case)]
    workers = options.workers if options.cards == 1 else 1
    running: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    results: list[dict[str, Any]] = []
    waiting = list(range(len(cases)))
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        while waiting or running:
            used = sum(size for _, size in running.values())
            for place in list(waiting):
                size = gib(cases[place])
                if len(running) < workers and used + size <= GIB_AT_ONCE and time.time() < deadline - 25:
                    running[place] = started(cases[place], folder, place, options, options.cards), size
                    waiting.remove(place)
                    used += size
            for place, (process, _) in list(running.items()):
                late = time.time() > deadline
                if process.poll() is None and not late:
                    continue
                if process.poll() is None:
                    process.kill()
                told = folder / f"{place}.0"
                if told.exists():
                    result = json.loads(told.read_text(encoding="utf-8"))
                else:
                    said = b"" if late or process.stderr is None else process.stderr.read()[-600:]
                    result = {"case": cases[place], "error": "out of time" if late else said.decode(errors="replace")}
                results.append(result)
                del running[place]
                print(json.dumps({k: v for k, v in result.items() if k not in ("tape",)})[:700], flush=True)
                record(options.out, results, options.cards, name)
            if time.time() > deadline and not running:
                break
            time.sleep(0.2)
    for place in waiting:
        print("not measured:", cases[place], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
