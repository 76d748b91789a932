"""A small config of each dialect, with comments and layout that an edit must leave alone."""

from __future__ import annotations

SMALL: dict[str, tuple[str, str]] = {
    "native": (
        "native.yaml",
        """\
# a run
model: meta-llama/Llama-3.1-8B  # the base
quantization:
  load_in_4bit: true
  bnb_4bit_quant_type: fp4  # four bits
lora:
  r: 16
  target_modules:
    - q_proj
    - v_proj  # two of them
training:
  learning_rate: 0.00002
  bf16: true
""",
    ),
    "native-json": (
        "native.json",
        """\
{
    "model": {"name_or_path": "meta-llama/Llama-3.1-8B", "dtype": "bfloat16"},
    "quantization": {"load_in_4bit": true, "bnb_4bit_compute_dtype": "float32"},
    "lora": {
        "r": 16,
        "lora_alpha": 32
    },
    "training": {"bf16": true, "max_seq_length": 512}
}
""",
    ),
    "axolotl": (
        "axolotl.yml",
        """\
base_model: meta-llama/Llama-3.1-8B  # the base

adapter: qlora
load_in_4bit: true

# the adapter
lora_r: 16
lora_alpha: 32  # twice the rank
lora_dropout: 0.05
lora_target_modules:
  - q_proj
  - v_proj

datasets:
  - path: tatsu-lab/alpaca
    type: alpaca

micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0002
bf16: true
val_set_size: 0
""",
    ),
    "llamafactory": (
        "llama3_qlora_sft.yaml",
        """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
quantization_bit: 4  # choices: 8, 4

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj

### dataset
dataset: identity
template: llama3
cutoff_len: 2048

### train
per_device_train_batch_size: 1
learning_rate: 1.0e-4
bf16: true
""",
    ),
    "llamafactory-v1": (
        "v1.yaml",
        """\
model: Qwen/Qwen3-0.6B
train_dataset: data/v1_sft_demo.yaml
peft_config:
  name: lora
  r: 16
  lora_alpha: 32
  target_modules: all
quant_config:
  name: bnb
  quantization_bit: 4
micro_batch_size: 1
learning_rate: 1.0e-4
bf16: true
""",
    ),
    "trl": (
        "sft.yaml",
        """\
model_name_or_path: Qwen/Qwen2-0.5B
dataset_name: trl-lib/Capybara
# 4-bit
load_in_4bit: true
use_bnb_nested_quant: false  # double quantization
use_peft: true
lora_r: 32
lora_target_modules: [q_proj, v_proj]
learning_rate: 2.0e-4
packing: true
""",
    ),
    "alignment-handbook": (
        "recipe.yaml",
        """\
model_name_or_path: mistralai/Mistral-7B-v0.1
torch_dtype: float16
use_flash_attention_2: true
dataset_mixer:
  HuggingFaceH4/ultrachat_200k: 1.0
load_in_4bit: true
use_peft: true
lora_r: 16
lora_target_modules:
- q_proj
- k_proj
bf16: true
learning_rate: 2.0e-04
""",
    ),
    "torchtune": (
        "qlora.yaml",
        """\
model:
  _component_: torchtune.models.llama3.qlora_llama3_8b
  lora_attn_modules: ['q_proj', 'v_proj']
  lora_rank: 8
  lora_alpha: 16
optimizer:
  _component_: torch.optim.AdamW
  lr: 0.00002
batch_size: 2
enable_activation_checkpointing: False
dtype: bf16
""",
    ),
    "litgpt": (
        "litgpt.yaml",
        """\
checkpoint_dir: checkpoints/meta-llama/Llama-2-7b-hf
precision: bf16-true
quantize: bnb.fp4  # 4-bit
lora_r: 8
lora_query: true
train:
  micro_batch_size: 1
  global_batch_size: 8
optimizer:
  class_path: torch.optim.AdamW
  init_args:
    lr: 0.00002
""",
    ),
    "oumi": (
        "oumi.yaml",
        """\
model:
  model_name: "meta-llama/Llama-3.1-8B"
  torch_dtype_str: "bfloat16"
training:
  trainer_type: TRL_SFT
  use_peft: True
  per_device_train_batch_size: 2
  mixed_precision_dtype: BF16
peft:
  q_lora: True
  lora_r: 16
  bnb_4bit_quant_type: "fp4"  # quoted
  lora_target_modules: ["q_proj", "v_proj"]
""",
    ),
    "autotrain": (
        "autotrain.yml",
        """\
task: llm-sft
base_model: meta-llama/Meta-Llama-3-8B
project_name: p
data:
  path: timdettmers/openassistant-guanaco
params:
  peft: true
  quantization: int4
  target_modules: q_proj,v_proj
  lr: 1e-5
  mixed_precision: bf16
""",
    ),
    "unsloth-studio": (
        "unsloth.yaml",
        """\
model: unsloth/Llama-3.2-1B
training:
  training_type: lora
  load_in_4bit: true
  learning_rate: 0.00002
  gradient_checkpointing: "none"  # off
lora:
  lora_r: 16
  target_modules: "q_proj,v_proj"
  vision_all_linear: false
""",
    ),
    "ms-swift": (
        "swift.yaml",
        """\
model: Qwen/Qwen2.5-7B-Instruct
tuner_type: lora
quant_method: bnb
quant_bits: 4
bnb_4bit_compute_dtype: float32
torch_dtype: bfloat16
lora_rank: 8
target_modules: q_proj v_proj
learning_rate: 0.0001
""",
    ),
    "ludwig": (
        "ludwig.yaml",
        """\
model_type: llm
base_model: meta-llama/Llama-2-7b-hf
quantization:
  bits: 4
  bnb_4bit_compute_dtype: float32
adapter:
  type: lora
  r: 16
input_features:
  - name: prompt
    type: text
output_features:
  - name: output
    type: text
trainer:
  learning_rate: 0.00001
""",
    ),
    "h2o-llmstudio": (
        "h2o.yaml",
        """\
llm_backbone: h2oai/h2o-danube2-1.8b-base
architecture:
    backbone_dtype: int4
    gradient_checkpointing: false
training:
    lora: true
    lora_r: 4
    lora_target_modules: ''
    learning_rate: 0.0001
tokenizer:
    max_length: 512
environment:
    mixed_precision_dtype: bfloat16
""",
    ),
    "nemo-automodel": (
        "nemo.yaml",
        """\
recipe: TrainFinetuneRecipeForNextTokenPrediction
step_scheduler:
  local_batch_size: 1
model:
  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained
  pretrained_model_name_or_path: meta-llama/Llama-3.2-1B
peft:
  _target_: nemo_automodel.components._peft.lora.PeftConfig
  match_all_linear: True
  dim: 16
quantization:
  load_in_4bit: True
  bnb_4bit_quant_type: fp4
optimizer:
  _target_: torch.optim.Adam
  lr: 1.0e-5
""",
    ),
    "firefly": (
        "firefly.json",
        """\
{
    "output_dir": "output",
    "model_name_or_path": "meta-llama/Llama-2-7b-hf",
    "train_file": "./data/dummy_data.jsonl",
    "template_name": "llama2",
    "train_mode": "qlora",
    "lora_rank": 64,
    "learning_rate": 1e-5,
    "fp16": true
}
""",
    ),
    "mftcoder": (
        "mft.json",
        """\
{
  "data_paths": "[a]",
  "pretrained_model_path": "codellama/CodeLlama-7b-hf",
  "peft_type": "qlora",
  "quantization": "4bit",
  "lora_rank": 96,
  "learning_rate": 1e-5
}
""",
    ),
    "llm-finetuning-toolkit": (
        "llmtune.yml",
        """\
data:
  path: "x.json"
  prompt_stub: "y"
model:
  hf_model_ckpt: "NousResearch/Llama-2-7b-hf"
  quantize: true
  bitsandbytes:
    load_in_4bit: true
    bnb_4bit_compute_dtype: "float32"
lora:
  r: 32
  target_modules: [q_proj]
training:
  training_args:
    learning_rate: 0.00001
    gradient_checkpointing: false
""",
    ),
    "qlora-pipe": (
        "pipe.toml",
        """\
# Paths
model = '/data/llama'  # the base
output_dir = '/data/out'
lora_rank = 64
lora_dropout = 0.05
pipeline_stages = 1
model_weight_dtype = 'bfloat16'
activation_checkpointing = false
micro_batch_size_per_gpu = 1

[quantization.bnb]
load_in_4bit = true  # four bits
bnb_4bit_quant_type = 'fp4'

[optimizer]
type = 'adamw_kahan'
lr = 5e-6
""",
    ),
    "custom": (
        "train.yaml",
        """\
model:
  name: meta-llama/Llama-3.1-8B
quantization:
  load_in_4bit: true
  compute_dtype: float32
lora:
  rank: 16
  alpha: 32
  target_modules: ["q_proj", "v_proj"]
training:
  lr: 0.00001
  gradient_checkpointing: false
""",
    ),
    "bnb-config": (
        "bnb.json",
        '{"load_in_4bit": true, "bnb_4bit_quant_type": "fp4", "bnb_4bit_compute_dtype": "float32"}\n',
    ),
    "peft-adapter": (
        "adapter_config.json",
        '{"peft_type": "LORA", "base_model_name_or_path": "x/y", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1}\n',
    ),
}
