"""A tiny config of any architecture of transformers, made from its class's defaults; knows nothing of qlora_doctor."""

from __future__ import annotations

import copy
import re
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

HIDDEN, INNER, LAYERS, HEADS, VOCABULARY, POSITIONS = 64, 128, 2, 4, 512, 256
_NAMES: dict[int, str] = {
    HIDDEN: "hidden_size d_model n_embd dim embed_dim word_embed_proj_dim embedding_size emb_dim embedding_dim "
    "hidden_dim word_embed_dim cross_attention_hidden_size projection_dim moe_intermediate_size "
    "expert_ffn_hidden_size lru_width shared_expert_intermediate_size moe_shared_expert_intermediate_size "
    "shared_intermediate_size moe_latent_size expert_intermediate_size moe_ffn_hidden_size",
    INNER: "intermediate_size ffn_dim n_inner encoder_ffn_dim decoder_ffn_dim d_ff ffn_hidden_size mlp_dim dim_ff "
    "d_inner dim_feedforward feed_forward_size dff intermediate_size_mlp dense_intermediate_size "
    "prefix_dense_intermediate_size ffn_intermediate_size mamba_d_ssm",
    LAYERS: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth num_decoder_layers "
    "num_encoder_layers vision_layers num_experts_per_tok num_experts_per_token moe_top_k top_k_experts moe_topk moe_k "
    "index_n_heads linear_num_key_heads zero_expert_num",
    HEADS: "num_attention_heads n_head n_heads encoder_attention_heads decoder_attention_heads num_heads "
    "attention_heads num_encoder_attention_heads num_decoder_attention_heads num_experts num_local_experts "
    "n_routed_experts moe_num_experts linear_num_value_heads linear_num_heads mamba_dt_rank time_step_rank",
    16: "head_dim attention_head_dim global_head_dim swa_head_dim d_kv attention_head_size qk_nope_head_dim "
    "qk_rope_head_dim v_head_dim index_topk mamba_d_state state_size ssm_state_size mamba_state_dim mamba_d_head "
    "mamba_head_dim mamba_headdim linear_key_head_dim linear_value_head_dim kv_channels query_pre_attn_scalar "
    "hidden_size_per_layer_input",
    32: "q_lora_rank kv_lora_rank o_lora_rank index_head_dim mamba_chunk_size chunk_size attention_window_size "
    "sliding_window local_window_size window_size_attn local_attention attention_chunk_size",
    VOCABULARY: "vocab_size text_vocab_size embedding_vocab_size vocab_size_per_layer_input",
    POSITIONS: "max_position_embeddings n_positions max_seq_len n_ctx max_sequence_length max_target_positions "
    "max_source_positions context_length max_encoder_position_embeddings max_decoder_position_embeddings",
    1: "n_group topk_group num_expert_group n_expert_groups num_shared_experts n_shared_experts first_k_dense_replace "
    "moe_layer_start_index num_dense_layers n_mamba_heads mamba_n_groups mamba_ngroups",
    8: "mamba_n_heads mamba_num_heads laurel_rank",
    0: "num_kv_shared_layers num_nextn_predict_layers",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}
VISION = {
    "hidden_size": HIDDEN, "embed_dim": HIDDEN, "out_hidden_size": HIDDEN, "intermediate_size": INNER, "depth": LAYERS,
    "num_hidden_layers": LAYERS, "num_layers": LAYERS, "num_attention_heads": HEADS, "num_heads": HEADS,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
_AT_MOST = {"num_shared_experts", "n_shared_experts", "first_k_dense_replace", "num_kv_shared_layers"}
_KEY_VALUE_HEADS = (
    "num_key_value_heads",
    "n_head_kv",
    "num_kv_heads",
    "num_global_key_value_heads",
    "attention_kv_heads",
)
_TOKEN = re.compile(r"(_token_id|_token_index|_id|_idx|_token)$")
_KEPT = {"model_type", "transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config"}


_TURNED = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
# fmt: off
SPECIAL: dict[str, dict[str, Any]] = {
    **{
        name: {"text_config": {"rope_parameters": _TURNED}}
        for name in ("qwen2_vl", "qwen2_5_vl", "glm4v", "glm46v", "glmga", "glm_ocr", "paddleocr_vl")
    },
    "glm4v_moe": {
        "text_config": {"rope_parameters": _TURNED | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}
    },
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _TURNED | {"mrope_section": [3, 3, 2]}}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 10000.0}
                for kind in ("full_attention", "sliding_attention")
            }
        }
    },
    "chameleon": {"vocabulary_map": {"<image>": 511, "<reserved08707>": 510, "IMGIMGAAAAAZ": 500, "IMGIMGAAABZ": 501}},
    "florence2": {
        "vision_config": {
            "embed_dim": [16, 32, 64, 64],
            "depths": [1] * 4,
            "num_heads": [1, 2, 4, 4],
            "num_groups": [1, 2, 4, 4],
        }
    },
    "glm5_next": {"text_config": {"qk_rope_head_dim": 0}},
    "inkling2": {"vision_config": {"text_hidden_size": HIDDEN}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [-1, -2], "vit_layers": [-1, -2]}},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {
            "hidden_size": HIDDEN, "ffn_hidden_size": HIDDEN, "moe_num_experts": 4, "moe_top_k": 2,
            "ffn_act_fn": {"name": "silu"},
        },
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": None, "topk_group": None, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "gpt_neo": {
        "num_layers": 2, "attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"],
        "window_size": 32,
    },
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "ministral": {"head_dim": 16},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"head_dim": 16, "num_hidden_layers": 4, "num_layers": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "reformer": {
        "is_decoder": True, "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32],
    },
    "zamba": {
        "num_hidden_layers": 6, "attention_hidden_size": 128, "attention_head_dim": 32, "n_mamba_heads": 2,
        "layers_block_type": ["linear_attention", "hybrid"] * 2 + ["linear_attention"] * 2, "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 128,
        "attention_head_dim": 32, "n_mamba_heads": 8, "mamba_headdim": 16, "num_query_groups": 4,
        "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": HIDDEN},
    "t5": {"decoder_start_token_id": 0},
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "xmod": {"default_language": "en_XX"},
    "nemotron": {"num_key_value_heads": 2},
    "step3p7": {"text_config": {"sliding_window": 32}},
}
# fmt: on
"""What the defaults of a class leave to the checkpoint."""


def tiny_config(model_type: str) -> Any:
    """The config of a tiny model of this type."""
    config_class = CONFIG_MAPPING[model_type]
    values = _tree(config_class(), model_type)
    for key, value in SPECIAL.get(model_type, {}).items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    return config_class(**values)


def _tree(config: PretrainedConfig, name: str) -> dict[str, Any]:
    said = {key: value for key, value in vars(config).items() if not key.startswith("_")}
    inner = {key: value for key, value in said.items() if isinstance(value, PretrainedConfig)}
    values = _smaller({key: value for key, value in said.items() if key not in inner}, name)
    for key, value in inner.items():
        values[key] = _tree(value, key) | {"model_type": value.model_type}
    for key in ("layer_types", "layers_block_type"):
        kinds = said.get(key)
        if isinstance(kinds, list | tuple) and kinds and isinstance(kinds[0], str):
            kept = list(dict.fromkeys(kinds))
            values[key] = kept if len(kept) > 1 else kept * LAYERS
            for count in ("num_hidden_layers", "n_layer", "num_layers"):
                if count in values:
                    values[count] = len(values[key])
    _turn_less(values, said)
    return values


def _smaller(said: dict[str, Any], name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    heads = next(
        (said[k] for k in ("num_attention_heads", "n_head", "num_heads") if isinstance(said.get(k), int)), None
    )
    token = VOCABULARY - 1
    for key, value in said.items():
        if key in _KEPT or isinstance(value, bool):
            continue
        if key in _KEY_VALUE_HEADS and isinstance(value, int):
            values[key] = HEADS if heads and value >= heads else min(value, LAYERS)
        elif key in SIZES and isinstance(value, int):
            values[key] = min(SIZES[key], value) if key in _AT_MOST else SIZES[key]
        elif isinstance(value, int) and _TOKEN.search(key) and value >= VOCABULARY:
            values[key], token = token, token - 1
        elif isinstance(value, list) and value and _TOKEN.search(key) and all(isinstance(v, int) for v in value):
            beyond = max(value) >= VOCABULARY
            values[key] = [token - at for at in range(len(value))] if beyond else value
            token -= len(value) * beyond
    if any(part in name for part in ("vision", "image", "vit")) or ("patch_size" in said and "vocab_size" not in said):
        values.update({key: size for key, size in VISION.items() if isinstance(said.get(key), int)})
    return values


def _turn_less(values: dict[str, Any], said: dict[str, Any]) -> None:
    """Rotary settings whose parts are as long as a head of the full model."""
    key = "rope_parameters" if said.get("rope_parameters") else "rope_scaling"
    rope = copy.deepcopy(said.get(key))
    if not isinstance(rope, dict):
        return
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if "original_max_position_embeddings" in part:
            part.update(original_max_position_embeddings=POSITIONS // 2, factor=2.0)
        part.update({name: [1.0] * 8 for name in ("short_factor", "long_factor") if name in part})
        if "mrope_section" in part:
            half = int((values.get("head_dim") or 16) * (part.get("partial_rotary_factor") or 1.0)) // 2
            part["mrope_section"] = [half - 2 * (half // 3), half // 3, half // 3]
    values[key] = rope
