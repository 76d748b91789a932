"""Each row of the tables of refusals: a file that has the fault is refused for it, and its healthy twin is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.dialects.refusals import axolotl, llamafactory
from tests.faults.test_planted_files import AXOLOTL, LLAMAFACTORY

FSDP1 = "fsdp_config: {offload_params: true}\n"
FSDP2 = "fsdp_version: 2\nfsdp_config: {offload_params: false}\n"
REENTRANT = "gradient_checkpointing_kwargs: {use_reentrant: true}\n"
DATASETS = "datasets: [{path: my/rows, type: alpaca}]\n"
KERNEL = "lora_mlp_kernel: true\n"

AXOLOTL_FAULTS: list[tuple[str, str, str]] = [
    # adapter and base: (kind, what is replaced, by what)
    ("quantized-without-adapter", "adapter: qlora\n", ""),
    ("qlora-without-4bit", "load_in_4bit: true\n", ""),
    ("qlora-with-8bit", "", "load_in_8bit: true\n"),
    ("qlora-with-gptq", "", "gptq: true\n"),
    ("target-parameters-with-dropout", "", "lora_target_parameters: [experts.up]\nlora_dropout: 0.1\n"),
    ("unsloth-kernels-removed", "", "unsloth_rope: true\n"),
    ("fused-mlp-with-adapter", "", "flash_attn_fuse_mlp: true\n"),
    ("layers-and-unfrozen", "", "peft_layers_to_transform: [0]\nunfrozen_parameters: [lm_head]\n"),
    ("layers-pattern-alone", "", "peft_layers_pattern: layers\n"),
    ("unfrozen-with-reentrant", "", "unfrozen_parameters: [lm_head]\n" + REENTRANT),
    ("quantization-config-and-bits", "", "model_quantization_config: Mxfp4Config\n"),
    ("q-galore-with-adapter", "", "optimizer: q_galore_adamw8bit\n"),
    ("qat-with-adapter", "", "qat: {weight_dtype: int4}\n"),
    ("adapter-unknown", "adapter: qlora\nload_in_4bit: true", "adapter: qalora"),
    ("qlora-merged-while-quantized", "", "merge_lora: true\n"),
    ("one-bit-with-adapter", "", "use_onebitllms: true\n"),
    ("target-modules-no-pattern", "lora_target_linear: true", "lora_target_modules: ['(v_proj']"),
    ("learning-rate-groups-and-ratio", "", "loraplus_lr_ratio: 16\nlr_groups: [{name: a, modules: [b], lr: 0.1}]\n"),
    ("kernels-with-8bit", "qlora\nload_in_4bit: true", "lora\nload_in_8bit: true\n" + KERNEL),
    ("kernels-with-remote-code", "", "trust_remote_code: true\n" + KERNEL),
    ("experts-quantized-unfit", "", "quantize_moe_experts: true\n"),
    ("relora-unfit", "", "relora: true\n"),
    ("relora-unfit", "", "relora: true\njagged_restart_steps: 9\nflash_attn_fuse_mlp: true\n"),
    ("selective-checkpointing-unfit", "gradient_checkpointing: true", "selective_checkpointing: true"),
    ("selective-checkpointing-of-matmuls", "", "selective_checkpointing: {save: [mm]}\n"),
    ("selective-checkpointing-with-offloading", "", "selective_checkpointing: true\nactivation_offloading: true\n"),
    ("offloading-without-checkpointing", "gradient_checkpointing: true", "activation_offloading: true"),
    (
        "offloading-with-reentrant-and-unfrozen",
        "",
        "activation_offloading: hidden_states\nunfrozen_parameters: [lm_head]\n" + REENTRANT,
    ),
    ("mpt-with-checkpointing", "my/model", "mosaicml/mpt-7b"),
    ("nemotron-h-with-checkpointing", "my/model", "nvidia/Nemotron-H-8B-Base-8K"),
    ("gptq-with-revision", "", "gptq: true\nrevision_of_model: main\n"),
    ("flash-optimum-with-mixed-precision", "", "flash_optimum: true\n"),
    ("polora-unfit", "", "optimizer: polora\npeft_use_dora: true\n"),
    ("quantized-on-npu", "", ""),
    ("optimizer-on-npu", "", "optimizer: adamw_bnb_8bit\n"),
    # steps, samples, evaluation
    ("too-few-batch-keys", "micro_batch_size: 2\ngradient_accumulation_steps: 4", "batch_size: 8"),
    ("too-few-batch-keys-before-0.19", "micro_batch_size: 2\n", ""),
    ("warmup-steps-in-parts", "", "warmup_steps: 0.1\n"),
    ("tokens-no-list", "", "tokens: {pad_token: <pad>}\n"),
    ("liger-preference-by-ipo", "", "rl: dpo\ndpo_use_liger_kernel: true\ndpo_loss_type: [ipo]\n"),
    ("fp8-options-without-fp8", "", "fp8_config: {recipe: rowwise}\n"),
    ("batch-size-and-accumulation", "", "batch_size: 8\n"),
    ("warmup-twice", "", "warmup_steps: 1\nwarmup_ratio: 0.1\n"),
    ("eval-steps-twice", "", "val_set_size: 0.1\neval_steps: 5\nevals_per_epoch: 2\n"),
    ("save-steps-twice", "", "save_steps: 5\nsaves_per_epoch: 2\n"),
    ("evaluates-without-data", "", "val_set_size: 0\neval_steps: 5\n"),
    ("eval-steps-and-strategy", "", "val_set_size: 0.1\neval_strategy: epoch\neval_steps: 5\n"),
    ("save-steps-and-strategy", "", "save_strategy: epoch\nsave_steps: 5\n"),
    ("early-stopping-without-steps", "", "early_stopping_patience: 3\n"),
    ("dataset-type-sharegpt", "type: alpaca", "type: sharegpt"),
    ("packing-with-preference-training", "", "rl: dpo\nsample_packing: true\n"),
    ("empty-output-dir", "", "output_dir:\n"),
    ("deprecated-key", "", "max_packed_sequence_len: 5\n"),
    ("deprecated-key", "", "rope_scaling: {type: linear}\n"),
    ("deprecated-key", "", "s2_attention: true\n"),
    ("deprecated-key", "", "flash_attn_rms_norm: true\n"),
    ("deprecated-key", "", "rpo_alpha: 1.0\n"),
    ("deprecated-key", "", "dpo_generate_during_eval: true\n"),
    ("several-losses", "", "liger_cross_entropy: true\ncut_cross_entropy: true\n"),
    ("saves-without-safetensors", "", "save_safetensors: false\n"),
    ("eval-packing-with-table", "", "sample_packing: true\nval_set_size: 0.1\neval_table_size: 5\n"),
    ("kto-drops-columns", "", "rl: kto\n"),
    ("no-dataset", DATASETS, ""),
    ("test-datasets-and-split", "", "test_datasets: [{path: my/rows}]\nval_set_size: 0.1\n"),
    ("best-checkpoint-without-metric", "", "save_strategy: best\n"),
    ("bench-without-steps", "", "do_bench_eval: true\n"),
    ("generated-evaluation-of-packed-samples", "", "do_causal_lm_eval: true\neval_sample_packing: true\n"),
    ("streaming-without-steps", "", "streaming: true\n"),
    ("streaming-with-split", "", "streaming: true\nmax_steps: 9\nval_set_size: 0.1\n"),
    (
        "streaming-packs-several-datasets",
        DATASETS,
        "datasets: [{path: a}, {path: b}]\nstreaming: true\nmax_steps: 9\nsample_packing: true\n",
    ),
    ("deduplication-passed-by", "", "dataset_exact_deduplication: true\nskip_prepare_dataset: true\n"),
    ("template-missing", "", "chat_template: jinja\n"),
    ("mistral-common-with-own-tokens", "", "tokenizer_use_mistral_common: true\nchat_template: chatml\n"),
    ("noise-twice", "", "noisy_embedding_alpha: 5\nneftune_noise_alpha: 5\n"),
    ("noise-not-positive", "", "neftune_noise_alpha: 0.0\n"),
    ("memory-limited-twice", "", "gpu_memory_limit: 20GiB\nmax_memory: {0: 20GiB}\n"),
    ("compile-options-without-compile", "", "torch_compile_options: {shape_padding: true}\n"),
    ("groups-do-not-fit-batch", "", "rl: grpo\ntrl: {num_generations: 3}\n"),
    ("groups-do-not-fit-batch", "", "rl: grpo\ntrl: {num_generations: 1}\n"),
    ("losses-unfit", "", "rl: dpo\ndpo_loss_weights: [1.0]\n"),
    ("losses-unfit", "", "rl: dpo\ndpo_loss_type: [ipo]\ndpo_loss_weights: [1.0, 2.0]\n"),
    ("losses-unfit", "", "dpo_loss_type: [ipo]\n"),
    ("simpo-with-warmup-ratio", "", "rl: simpo\nwarmup_ratio: 0.1\n"),
    # attention
    ("attention-twice", "", "attn_implementation: sdpa\nflash_attention: true\n"),
    ("attention-unknown", "", "attn_implementation: flash\n"),
    ("attention-on-npu", "", "sdp_attention: true\n"),
    ("tf32-on-npu", "", "tf32: true\n"),
    ("flex-attention-with-older-torch", "", "flex_attention: true\n"),
    ("fp8-attention-with-older-torch", "", "attn_implementation: fp8\n"),
    ("fp8-attention-on-older-card", "", "attn_implementation: fp8\n"),
    ("sage-attention-on-older-card", "", "sage_attention: true\n"),
    ("softmax-scaled-without-flex-attention", "", "scaling_softmax: true\n"),
    ("gemma4-hybrid-with-another-attention", "", "gemma4_hybrid_attn_impl: true\nattn_implementation: sdpa\n"),
    ("flattening-without-varlen-attention", "", "batch_flattening: true\n"),
    # several GPUs
    ("fsdp2-with-8bit-optimizer", "", FSDP2 + "optimizer: adamw_bnb_8bit\n"),
    ("fsdp2-with-quantized-preference-training", "", FSDP2 + "rl: dpo\n"),
    ("fsdp-and-deepspeed", "", "fsdp: [full_shard]\ndeepspeed: zero2.json\n"),
    ("kernels-with-fsdp1", "", FSDP1 + KERNEL),
    ("preference-training-with-reentrant", "", "rl: dpo\ndeepspeed: zero2.json\n" + REENTRANT),
    ("fsdp-offload-with-8bit-optimizer", "", FSDP1 + "optimizer: adamw_torch_8bit\n"),
    ("fsdp2-loads-on-one-rank", "", "fsdp_version: 2\nfsdp_config: {cpu_ram_efficient_loading: true}\n"),
    (
        "mxfp4-loads-on-one-rank",
        "qlora\nload_in_4bit: true",
        "lora\nmodel_quantization_config: Mxfp4Config\nfsdp_config: {cpu_ram_efficient_loading: true}",
    ),
    ("relora-with-sharding", "", "relora: true\njagged_restart_steps: 9\ndeepspeed: zero2.json\n"),
    ("falcon-with-fsdp", "my/model", "tiiuae/falcon-7b\nfsdp: [full_shard]"),
    ("fsdp2-with-older-torch", "", FSDP2),
    ("fsdp1-with-pinning-off", "", "fsdp_config: {cpu_offload_pin_memory: false}\n"),
    ("float32-norms-without-fsdp2", "", FSDP1 + "fp32_norms: true\n"),
    ("float8-gather-without-fsdp2", "", FSDP1 + "fp8_enable_fsdp_float8_all_gather: true\n"),
    ("optimizer-cannot-shard", "", "optimizer: muon\ndeepspeed: zero2.json\n"),
    ("context-parallel-without-flash-attention", "", "context_parallel_size: 2\n"),
    (
        "context-parallel-packing-batches",
        "",
        "context_parallel_size: 2\nsample_packing: true\nflash_attention: true\n",
    ),
    ("deepcompile-without-deepspeed", "", "deepcompile: true\n"),
]

LLAMAFACTORY_FAULTS: list[tuple[str, str, str]] = [
    ("quantized-without-lora", "finetuning_type: lora", "finetuning_type: full"),
    ("quantized-with-pissa", "", "pissa_init: true\n"),
    ("quantized-with-resized-vocabulary", "", "add_tokens: <a>\n"),
    ("quantized-with-new-adapter", "", "adapter_name_or_path: mine\ncreate_new_adapter: true\n"),
    ("quantized-with-several-adapters", "", "adapter_name_or_path: mine,yours\n"),
    ("quantized-with-fp8", "", "fp8: true\n"),
    ("quantized-with-device-map", "", "quantization_device_map: auto\n"),
    ("quantized-to-odd-bits", "quantization_bit: 4", "quantization_bit: 3"),
    ("quantized-under-megatron", "", "tensor_model_parallel_size: 2\n"),
    ("sharded-in-8bit", "quantization_bit: 4", "quantization_bit: 8\nfsdp: full_shard"),
    ("sharded-by-another-method", "", "quantization_method: hqq\ndeepspeed: ds_z3_config.json\n"),
    ("sharded-with-older-bitsandbytes", "", "deepspeed: ds_z3_config.json\n"),
    ("zero3-unfit", "", "deepspeed: ds_z3_config.json\nuse_unsloth: true\n"),
    ("adapter-without-lora", "lora\n", "oft\nadapter_name_or_path: mine\n"),
    ("finetuning-type-unknown", "finetuning_type: lora", "finetuning_type: qlora"),
    ("lora-with-another-method", "", "use_galore: true\n"),
    ("lora-options-without-lora", "finetuning_type: lora", "finetuning_type: oft\nuse_dora: true"),
    ("pissa-with-reference-model", "stage: sft", "stage: kto\npissa_init: true"),
    ("pissa-with-reference-model", "stage: sft", "stage: dpo\npissa_init: true"),
    ("neat-packing-outside-sft", "stage: sft", "stage: dpo\nneat_packing: true"),
    ("history-masked-and-prompt-trained", "", "mask_history: true\ntrain_on_prompt: true\n"),
    ("validation-split-and-set", "", "val_size: 0.1\neval_dataset: other\n"),
    ("streaming-without-steps", "", "streaming: true\n"),
    ("bf16-on-older-card", "bf16: true", "pure_bf16: true"),
    ("no-dataset", "dataset: mine\n", ""),
    ("evaluates-without-data", "", "do_eval: true\n"),
    ("predicts-without-generating", "", "do_predict: true\nval_size: 0.1\n"),
    ("generates-outside-sft", "stage: sft", "stage: dpo\nval_size: 0.1\npredict_with_generate: true"),
    ("reward-model-unfit", "stage: sft", "stage: ppo"),
    ("best-model-of-reward-training", "stage: sft", "stage: rm\nload_best_model_at_end: true"),
    ("label-smoothing-of-another-loss", "stage: sft", "stage: dpo\npref_loss: orpo\ndpo_label_smoothing: 0.1"),
    ("split-without-dataset", "do_train: true\n", "do_train: false\nval_size: 0.1\n"),
    ("streaming-cut", "", "streaming: true\nmax_steps: 9\nmax_samples: 5\n"),
    ("shares-without-interleaving", "", "interleave_probs: 0.5,0.5\n"),
]
_TWINS = {
    "pissa-with-reference-model": ("quantization_bit: 4\n", ""),
    "split-without-dataset": ("dataset: mine\n", ""),
}
"""What these faults need beside what is planted."""


def everything_older() -> EnvironmentFacts:
    """A machine with an Ascend NPU, an old card, and packages of two years ago: every condition of a table holds."""
    packages = Packages(torch="2.5.1", bitsandbytes="0.42.0", transformers="5.0.0", torch_npu="2.5.1", axolotl="0.18.0")
    gpus = [Gpu(index=0, name="Tesla T4", memory_bytes=2**34, capability=7.5)]
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages, gpus=gpus)


def newest() -> EnvironmentFacts:
    packages = Packages(torch="2.13.0", bitsandbytes="0.50.2", transformers="5.23.0", axolotl="0.19.0")
    gpus = [Gpu(index=0, name="NVIDIA H200", memory_bytes=2**37, capability=9.0)]
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=packages, gpus=gpus)


def refusals(tmp_path: Path, text: str, environment: EnvironmentFacts | None) -> set[str]:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    facts = conclude(read_setup(path), environment)
    assert facts.refused is not None
    return {remark.kind for remark in facts.refused}


def planted(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new, 1) if old else text + new


@pytest.mark.parametrize(("kind", "old", "new"), AXOLOTL_FAULTS, ids=[fault[0] for fault in AXOLOTL_FAULTS])
def test_axolotl(kind: str, old: str, new: str, tmp_path: Path) -> None:
    assert kind in refusals(tmp_path, planted(AXOLOTL, old, new), everything_older())


@pytest.mark.parametrize(("kind", "old", "new"), LLAMAFACTORY_FAULTS, ids=[fault[0] for fault in LLAMAFACTORY_FAULTS])
def test_llamafactory(kind: str, old: str, new: str, tmp_path: Path) -> None:
    healthy = planted(LLAMAFACTORY, *_TWINS.get(kind, ("", "")))
    assert kind in refusals(tmp_path, planted(healthy, old, new), everything_older())


@pytest.mark.parametrize("text", [AXOLOTL, LLAMAFACTORY], ids=["axolotl", "llamafactory"])
@pytest.mark.parametrize("environment", [None, newest()], ids=["anywhere", "newest"])
def test_a_healthy_file_is_taken(text: str, environment: EnvironmentFacts | None, tmp_path: Path) -> None:
    assert refusals(tmp_path, text, environment) == set()


def test_every_row_is_planted() -> None:
    """A row without a fault that shows it is a row that nobody has seen at work."""
    rows = {
        "axolotl": axolotl.ROWS,
        "llamafactory": llamafactory.ROWS,
    }
    assert {row.kind for row in rows["axolotl"]} == {fault[0] for fault in AXOLOTL_FAULTS}
    assert {row.kind for row in rows["llamafactory"]} == {fault[0] for fault in LLAMAFACTORY_FAULTS}


def test_what_depends_on_the_machine_is_told_there_alone(tmp_path: Path) -> None:
    """Where nothing is known of a machine, or it is a current one, such a row says nothing."""
    text = AXOLOTL + FSDP2 + "tf32: true\nsage_attention: true\n"
    told = {"quantized-on-npu", "tf32-on-npu", "fsdp2-with-older-torch", "sage-attention-on-older-card"}
    assert told <= refusals(tmp_path, text, everything_older())
    assert not told & refusals(tmp_path, text, newest())
    assert not told & refusals(tmp_path, text, None)
