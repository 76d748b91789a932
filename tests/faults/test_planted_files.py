"""Faults planted in files of other programs: the stage config alone tells exactly the rule, at its level.

Every text has a healthy twin, the same file without the fault, which says nothing at that level.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.engine import load_rules
from tests.faults.planting import check_here, found, told

RULES = load_rules(asset_folder("rules"))
WITHOUT_A_PLACE: set[str] = set()
"""Rules about what the file does not say."""

AXOLOTL = """\
base_model: my/model
adapter: qlora
load_in_4bit: true
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0002
bf16: true
gradient_checkpointing: true
datasets: [{path: my/rows, type: alpaca}]
"""
LLAMAFACTORY = """\
model_name_or_path: my/model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
quantization_bit: 4
upcast_layernorm: true
template: llama3
dataset: mine
cutoff_len: 1024
learning_rate: 1.0e-4
bf16: true
"""
TRL = """\
model_name_or_path: my/model
dtype: bfloat16
use_peft: true
load_in_4bit: true
use_bnb_nested_quant: true
lora_target_modules: all-linear
dataset_name: my/rows
dataset_text_field: text
learning_rate: 2.0e-4
per_device_eval_batch_size: 1
"""
LITGPT = """\
checkpoint_dir: my/model
quantize: bnb.nf4-dq
precision: bf16-true
lora_r: 16
lora_alpha: 32
data: {class_path: litgpt.data.Alpaca}
train: {global_batch_size: 8, micro_batch_size: 1}
"""
LUDWIG = """\
model_type: llm
base_model: my/model
input_features: [{name: prompt, type: text}]
output_features: [{name: output, type: text}]
adapter: {type: lora}
quantization: {bits: 4, bnb_4bit_compute_dtype: bfloat16}
trainer: {type: finetune, learning_rate: 0.0002, enable_gradient_checkpointing: true}
"""
H2O = """\
llm_backbone: my/model
architecture: {backbone_dtype: int4, pretrained: true}
environment: {mixed_precision: true, mixed_precision_dtype: float16, use_deepspeed: false}
training: {lora: true, lora_r: 16, lora_alpha: 32, learning_rate: 0.0002}
"""
OUMI = """\
model: {model_name: my/model, torch_dtype_str: bfloat16}
data: {train: {datasets: [{dataset_name: yahma/alpaca-cleaned}]}}
training: {trainer_type: TRL_SFT, use_peft: true, learning_rate: 2.0e-4, enable_gradient_checkpointing: true}
peft: {q_lora: true, lora_r: 16, lora_alpha: 32, bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16}
"""
SWIFT = """\
model: my/model
tuner_type: lora
quant_method: bnb
quant_bits: 4
torch_dtype: bfloat16
lora_rank: 16
learning_rate: 1.0e-4
dataset: [my/rows]
"""
CUSTOM = """\
model: {name: my/model, load_in_4bit: true}
quantization: {bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16, bnb_4bit_use_double_quant: true}
lora: {r: 16, lora_alpha: 32, target_modules: [q_proj, v_proj]}
training: {learning_rate: 0.0002, bf16: true, per_device_train_batch_size: 2}
"""
FSDP1 = "fsdp_config: {offload_params: true}\n"
FSDP2 = "fsdp_version: 2\nfsdp_config: {offload_params: false}\n"
PLAIN = "gradient_checkpointing_kwargs: {use_reentrant: false}\n"
UNFROZEN = "peft_layers_to_transform: [0]\nunfrozen_parameters: [lm_head]\n"
SLOW = "lora-dropout-or-kernels-slow-path"
PYTHON = """\
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = AutoModelForCausalLM.from_pretrained("my/model", quantization_config=quantization, dtype=torch.bfloat16)
model = prepare_model_for_kbit_training(model)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
args = SFTConfig(output_dir="out", learning_rate=2e-4, bf16=True, max_length=1024)
trainer = SFTTrainer(
    model=model,
    args=args,
    train_dataset=load_dataset("my/rows", split="train"),
    processing_class=AutoTokenizer.from_pretrained("my/model"),
)
trainer.train()
"""
FILES = {"python": "train.py"}
TEXTS = {
    "python": PYTHON,
    "axolotl": AXOLOTL,
    "llamafactory": LLAMAFACTORY,
    "trl": TRL,
    "litgpt": LITGPT,
    "ludwig": LUDWIG,
    "h2o-llmstudio": H2O,
    "oumi": OUMI,
    "ms-swift": SWIFT,
    "custom": CUSTOM,
}


@dataclass(frozen=True)
class Fault:
    """A rule, the dialect, what is replaced in its healthy text (nothing: added at the end) and by what."""

    rule: str
    level: str
    dialect: str
    old: str
    new: str
    failure: str | None = None

    def __str__(self) -> str:
        return f"{self.rule}-{self.dialect}-{self.failure or self.new.split(':')[0].strip()}"


CONTRADICTION = "qlora-flag-contradiction"
BEST = "load_best_model_at_end: true\n"

FAULTS = [
    # refused by the trainer
    Fault(
        "QD650",
        "warning",
        "llamafactory",
        "model_name_or_path: my/model",
        "model_name_or_path: Qwen/Qwen2.5-7B-Instruct",
    ),
    Fault(
        "QD650",
        "warning",
        "axolotl",
        "base_model: my/model",
        "base_model: Qwen/Qwen2.5-7B-Instruct\nchat_template: llama3",
    ),
    Fault("QD125", "error", "axolotl", "", "warmup_steps: 1\nwarmup_ratio: 0.1\n"),
    Fault("QD125", "error", "axolotl", "gradient_checkpointing: true", "activation_offloading: true"),
    Fault("QD125", "error", "axolotl", "adapter: qlora\nload_in_4bit: true", "adapter: qalora"),
    Fault("QD125", "error", "axolotl", "", "save_safetensors: false\n"),
    Fault("QD125", "error", "axolotl", "", "attn_implementation: flash\n"),
    Fault("QD125", "error", "axolotl", "", "selective_checkpointing: {save: [mm]}\n"),
    Fault("QD125", "error", "axolotl", "lora_target_linear: true", "lora_target_modules: ['q_proj', '(v_proj']"),
    Fault("QD125", "error", "axolotl", "", "relora: true\n"),
    Fault("QD125", "error", "axolotl", "", "quantize_moe_experts: true\n"),
    Fault("QD125", "error", "llamafactory", "finetuning_type: lora", "finetuning_type: qlora"),
    Fault("QD125", "error", "llamafactory", "", "use_galore: true\n"),
    Fault("QD125", "error", "llamafactory", "stage: sft", "stage: dpo\nneat_packing: true"),
    Fault("QD125", "error", "axolotl", "", "optimizer: paged_adamw\n"),
    Fault("QD125", "error", "llamafactory", "", "lr_scheduler_type: cosine_annealing\n"),
    Fault("QD125", "error", "trl", "", "optim: adamw_8bits\n"),
    Fault("QD154", "info", "llamafactory", "", "lr_scheduler_type: constant\nwarmup_ratio: 0.03\n"),
    Fault("QD125", "error", "litgpt", "bf16-true", "bf16-mixed"),
    Fault("QD125", "error", "trl", "", "bf16: true\nfp16: true\n"),
    # the switches of quantization and adapter
    Fault("QD126", "error", "axolotl", "load_in_4bit: true", "load_in_4bit: false", CONTRADICTION),
    Fault("QD126", "error", "axolotl", "adapter: qlora\n", "", CONTRADICTION),
    Fault("QD126", "error", "axolotl", "", "load_in_8bit: true\n", CONTRADICTION),
    Fault("QD126", "error", "axolotl", "", "merge_lora: true\n"),
    Fault("QD126", "error", "llamafactory", "finetuning_type: lora", "finetuning_type: full", CONTRADICTION),
    Fault("QD126", "error", "llamafactory", "", "pissa_init: true\n"),
    Fault("QD126", "error", "llamafactory", "", "resize_vocab: true\n"),
    Fault("QD126", "error", "llamafactory", "quantization_bit: 4", "quantization_bit: 3"),
    Fault("QD126", "error", "ludwig", "adapter: {type: lora}", "adapter: {type: adalora}", CONTRADICTION),
    Fault("QD126", "error", "h2o-llmstudio", "pretrained: true", "pretrained: false"),
    Fault("QD126", "error", "trl", "", "load_in_8bit: true\n", CONTRADICTION),
    # keys without effect
    Fault("QD127", "error", "axolotl", "adapter: qlora", "adapter: lora", CONTRADICTION),
    Fault("QD127", "error", "ms-swift", "quant_method: bnb\n", ""),
    Fault("QD128", "warning", "llamafactory", "", "quantization_method: bitsandbytes\n"),
    Fault("QD129", "warning", "trl", "use_peft: true\nload_in_4bit: true\nuse_bnb_nested_quant: true\n", ""),
    Fault("QD130", "error", "trl", "use_peft: true\n", ""),
    Fault("QD130", "error", "trl", "use_peft: true", "use_peft: false"),
    Fault("QD130", "error", "h2o-llmstudio", "lora: true", "lora: false"),
    Fault("QD135", "warning", "llamafactory", "bf16: true\n", ""),
    Fault("QD241", "warning", "axolotl", "my/model", "my/guideline-adapter", "double-peft-wrap"),
    Fault("QD342", "error", "axolotl", "", UNFROZEN, "conflicting-freeze-controls"),
    Fault("QD344", "error", "axolotl", "", "lora_mlp_kernel: true\ntrust_remote_code: true\n", SLOW),
    Fault("QD346", "warning", "axolotl", "", "fix_untrained_tokens: [7, 8]\npeft_trainable_token_indices: [7]\n"),
    Fault("QD613", "warning", "axolotl", "", "sample_packing: true\n", "packing-no-varlen-attention"),
    Fault("QD613", "warning", "llamafactory", "", "packing: true\n", "packing-no-varlen-attention"),
    Fault("QD345", "info", "llamafactory", "", "use_unsloth: true\nlora_dropout: 0.05\n", SLOW),
    # distribution
    Fault("QD809", "error", "axolotl", "", FSDP2 + "optimizer: adamw_bnb_8bit\n", "paged-or-8bit-optim-unsupported"),
    Fault("QD809", "error", "axolotl", "", FSDP1 + "optimizer: adamw_torch_8bit\n", "paged-or-8bit-optim-unsupported"),
    Fault("QD810", "error", "axolotl", "alpaca}]\n", f"chatml.intel}}]\n{FSDP2}rl: dpo\n", "fsdp2-qlora-rl"),
    Fault("QD811", "error", "axolotl", "", FSDP2 + "deepspeed: zero2.json\n"),
    Fault("QD811", "error", "llamafactory", "", "quantization_method: hqq\ndeepspeed: ds_z3_config.json\n"),
    Fault("QD811", "error", "llamafactory", "quantization_bit: 4", "quantization_bit: 8\nfsdp: full_shard"),
    Fault("QD811", "error", "litgpt", "", "devices: 2\n"),
    Fault("QD811", "error", "h2o-llmstudio", "use_deepspeed: false", "use_deepspeed: true"),
    Fault("QD811", "error", "oumi", "", "fsdp: {enable_fsdp: true}\n"),
    Fault("QD812", "warning", "axolotl", "", "deepspeed: zero3.json\n" + PLAIN),
    # what is taken otherwise, or will not be taken any more
    Fault("QD138", "info", "axolotl", "", "flash_attention: true\n"),
    Fault("QD138", "info", "axolotl", "", "evaluation_strategy: 'no'\n"),
    Fault("QD138", "info", "axolotl", "gradient_checkpointing: true", "gradient_checkpointing: offload"),
    Fault("QD140", "info", "llamafactory", "do_train: true", "do_train: false"),
    Fault("QD429", "info", "axolotl", "", "activation_offloading: hidden_states\n"),
    # arguments of a script that no version has, that are gone since, that a class took before its config did
    Fault("QD102", "warning", "python", "bnb_4bit_use_double_quant=", "bnb_4bit_double_quant="),
    Fault("QD148", "error", "python", "r=16, lora_alpha", "rank=16, lora_alpha"),
    Fault("QD105", "error", "python", "bf16=True", 'bf16=True, evaluation_strategy="no"'),
    Fault("QD105", "error", "python", "processing_class=", "tokenizer="),
    Fault("QD105", "error", "python", "args=args,", "args=args, packing=True,"),
    Fault("QD131", "info", "custom", "load_in_4bit: true", "load_in_4bit: false"),
    # kinds of values, keys and the schedule
    Fault("QD148", "error", "llamafactory", "", "lora_ranks: 8\n"),
    Fault("QD125", "error", "axolotl", "", "logging_steps: 0.2\n"),
    Fault("QD125", "error", "axolotl", "type: alpaca", "type: alpacca"),
    Fault("QD102", "warning", "axolotl", "type: alpaca", "type: alpaca, shard: 2"),
    Fault("QD160", "error", "llamafactory", "", "val_size: 0.1\neval_strategy: steps\nsave_strategy: epoch\n" + BEST),
    Fault("QD162", "warning", "axolotl", "", "max_steps: 60\nwarmup_steps: 500\n"),
    Fault("QD163", "warning", "llamafactory", "", "max_steps: 60\nsave_steps: 500\n"),
    Fault("QD164", "warning", "axolotl", "", BEST),
    Fault("QD165", "warning", "axolotl", "", "val_set_size: 0.1\n"),
    Fault("QD165", "warning", "llamafactory", "", "val_size: 0.1\n"),
    Fault("QD171", "warning", "llamafactory", "stage: sft\n", "stage: dpo\nadapter_name_or_path: out/sft\n"),
    Fault("QD172", "error", "llamafactory", "stage: sft\n", "stage: dpo\npref_beta: 0.0\n"),
    Fault("QD172", "error", "llamafactory", "stage: sft\n", "stage: dpo\npref_loss: orpo\npref_beta: 0.0\n"),
    Fault("QD173", "warning", "llamafactory", "stage: sft\n", "stage: dpo\npref_beta: 2.0\n"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_planted_fault_is_told_alone(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TEXTS[fault.dialect]
    assert fault.old in text
    planted = text.replace(fault.old, fault.new, 1) if fault.old else text + fault.new
    path = tmp_path / FILES.get(fault.dialect, "config.yaml")
    path.write_text(planted)
    report = check_here(path, monkeypatch, stages=("config",))
    assert report.setup["dialect"] == fault.dialect
    assert found(report, fault.level) == {fault.rule}, told(report)
    rule = next(rule for rule in RULES if rule.id == fault.rule)
    assert fault.failure is None or fault.failure in rule.failures
    place = next(finding for finding in report.findings if finding.rule == fault.rule).location
    assert place.line is not None or fault.rule in WITHOUT_A_PLACE


@pytest.mark.parametrize("dialect", TEXTS)
def test_healthy_twin_is_silent(dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / FILES.get(dialect, "config.yaml")
    path.write_text(TEXTS[dialect])
    report = check_here(path, monkeypatch, stages=("config",))
    assert not found(report, "warning"), told(report)


def test_two_is_a_usual_beta_of_simpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory's one stage for pairs holds methods whose beta means something else."""
    path = tmp_path / "config.yaml"
    path.write_text(LLAMAFACTORY.replace("stage: sft\n", "stage: dpo\npref_loss: simpo\npref_beta: 2.0\n"))
    report = check_here(path, monkeypatch, stages=("config",))
    assert not found(report, "warning"), told(report)
    assert report.facts.config.method == "simpo" and report.facts.config.preference.reference == "none"
