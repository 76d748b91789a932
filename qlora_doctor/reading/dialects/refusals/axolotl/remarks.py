"""What axolotl 0.18 and 0.19 warn of, or should: they go on, and not as the file says.

From utils/schemas/validation.py, config.py, deprecated.py and enums.py.
"""

from __future__ import annotations

from .....tables.conditions import Condition
from ...fields import Reading
from .words import KERNELS, attention, fsdp_version

OLDER_SWITCHES = {
    "xformers_attention": "xformers",
    "sage_attention": "sage",
    "flex_attention": "flex_attention",
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
"""The older switches of attention and what they mean, in axolotl's own order of precedence."""

_OLDER_NAMES = {
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "dpo_beta": "rl_beta",
    "evaluation_strategy": "eval_strategy",
    "eval_max_new_tokens": "generation_max_new_tokens",
    "pretrain_multipack_buffer_size": "streaming_multipack_buffer_size",
    "sequence_parallel_degree": "context_parallel_size",
    "dataset_processes": "dataset_num_proc",
}
_OFFLOADING = {"offload": "true", "offload_disk": "disk"}


def remark(reading: Reading) -> None:
    """Remark on everything that axolotl takes otherwise than it is written, and on what it will drop."""
    _checkpointing(reading)
    _tokens_left_out(reading)
    _kernels(reading)
    _older_torch(reading)
    _deprecations(reading)
    _weight_decay(reading)


def _weight_decay(reading: Reading) -> None:
    """LoRA+ makes groups of its own, with a decay that axolotl does not hand over (core/trainers/mixins/optimizer.py,
    PEFT's create_loraplus_optimizer)."""
    decay = reading.get("weight_decay")
    if reading.get("loraplus_lr_ratio") and isinstance(decay, int | float) and decay > 0:
        note = f"With loraplus_lr_ratio the optimizer's groups have no weight decay: weight_decay {decay:g} is dropped."
        reading.remark("optimizer-arguments-dropped", "weight_decay", note)


def _checkpointing(reading: Reading) -> None:
    kwargs = reading.get("gradient_checkpointing_kwargs")
    plain = isinstance(kwargs, dict) and kwargs.get("use_reentrant") is False
    if reading.get("adapter") == "qlora" and plain and "zero3" in str(reading.get("deepspeed")):
        note = "axolotl warns: QLoRA under ZeRO-3 with use_reentrant: false may end in a CheckpointError."
        reading.remark("zero3-with-plain-checkpointing", "gradient_checkpointing_kwargs", note)
    if reading.get("activation_offloading") == "hidden_states" and reading.get("adapter"):
        note = (
            "activation_offloading: hidden_states recomputes every layer; with an adapter activation_offloading: true "
            "can be faster, as it computes nothing twice and offloads little."
        )
        reading.remark("slower-offloading", "activation_offloading", note)


def _tokens_left_out(reading: Reading) -> None:
    fixed, trained = (_tokens(reading.get(key)) for key in ("fix_untrained_tokens", "peft_trainable_token_indices"))
    idle = sorted(fixed - trained) if trained else []
    if idle and reading.get("adapter"):
        named = ", ".join(map(str, idle[:5]))
        note = f"fix_untrained_tokens names {named}, which peft_trainable_token_indices leaves out."
        reading.remark("fixed-tokens-not-trained", "fix_untrained_tokens", note)


def _tokens(written: object) -> set[int]:
    if isinstance(written, dict):
        written = next(iter(written.values()), None)
    found = written if isinstance(written, list) else [written]
    return {token for token in found if isinstance(token, int)}


def _kernels(reading: Reading) -> None:
    """axolotl's own LoRA kernels, which it takes unless a key of theirs is written (check_auto_enable_lora_kernels)."""
    left_out = any(reading.has(key) for key in (*KERNELS, "rl", "nvfp4_merge_aware"))
    if (
        reading.get("adapter") not in ("lora", "qlora")
        or left_out
        or reading.get("trust_remote_code")
        or fsdp_version(reading) == 1
    ):
        return
    if reading.get("adapter") == "lora" and reading.get("load_in_8bit"):
        return
    note = (
        "axolotl switches its LoRA kernels on for this run, as the file says nothing of them; lora_mlp_kernel, "
        "lora_qkv_kernel, lora_o_kernel and lora_embedding_kernel set to false keep PEFT's own layers."
    )
    reading.remark("kernels-by-default", "adapter", note)


def _older_torch(reading: Reading) -> None:
    note = "axolotl warns: it supports torch 2.6 and later, and the run has an older one."
    reading.remark("torch-too-old", None, note, Condition("torch < 2.6"))


def _deprecations(reading: Reading) -> None:
    first = True
    for key, meant in OLDER_SWITCHES.items():
        if reading.get(key) and not reading.get("attn_implementation"):
            note = (
                f"axolotl takes {key}: true as attn_implementation: {attention(reading)} and will drop the older key."
            )
            reading.deprecated(key, "attn_implementation" if first else None, note, meant)
            first = False
    for key, now in _OLDER_NAMES.items():
        if reading.has(key):
            reading.deprecated(key, now, f"axolotl calls {key} {now} now and will drop the older name.")
    if reading.has("eval_table_size"):
        note = "axolotl has generate_samples and num_generation_samples in its place and will drop it."
        reading.deprecated("eval_table_size", None, note)
    if reading.get("rl") == "ipo":
        reading.deprecated("rl", None, "axolotl will drop rl: ipo; rl: dpo with dpo_loss_type: [ipo] is the same.")
    offload = reading.get("gradient_checkpointing")
    if isinstance(offload, str) and offload in _OFFLOADING:
        note = f"axolotl takes gradient_checkpointing: {offload} as activation_offloading: {_OFFLOADING[offload]}."
        reading.deprecated("gradient_checkpointing", None, note)
    if reading.get("pretraining_dataset") and not reading.get("streaming"):
        note = "axolotl will no longer stream a pretraining_dataset unless streaming: true is set."
        reading.deprecated("pretraining_dataset", None, note)
    _fsdp(reading)


def _fsdp(reading: Reading) -> None:
    config = reading.get("fsdp_config")
    if not isinstance(config, dict) or not config:
        return
    if fsdp_version(reading) == 1:
        key = next((key for key in ("fsdp_version", "fsdp_config") if reading.written(key)), "fsdp_config")
        reading.deprecated(key, None, "axolotl will drop FSDP 1, which it takes where fsdp_version: 2 is not set.")
    for name in config:
        if isinstance(name, str) and name.startswith("fsdp_") and name != "fsdp_version":
            now = name.removeprefix("fsdp_")
            note = f"axolotl calls {name} {now} now and will drop the prefix."
            reading.deprecated(f"fsdp_config.{name}", f"fsdp_config.{now}", note)
