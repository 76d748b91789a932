"""As little as each dialect takes: everything else in these files is its default, and is pinned in defaults.json."""

from __future__ import annotations

SILENT: dict[str, tuple[str, str]] = {
    "native": ("native.yaml", "model: meta-llama/Llama-3.1-8B\nlora:\n  r: 16\n"),
    "axolotl": (
        "axolotl.yml",
        "base_model: meta-llama/Llama-3.1-8B\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\n"
        "datasets:\n  - path: tatsu-lab/alpaca\n    type: alpaca\nmicro_batch_size: 2\nlearning_rate: 0.0002\n",
    ),
    "axolotl-lora": (
        "axolotl.yml",
        "base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nlora_r: 16\n"
        "datasets:\n  - path: tatsu-lab/alpaca\n    type: alpaca\nmicro_batch_size: 2\nlearning_rate: 0.0002\n",
    ),
    "llamafactory": (
        "llama.yaml",
        "model_name_or_path: meta-llama/Meta-Llama-3-8B\nstage: sft\ndo_train: true\nfinetuning_type: lora\n"
        "quantization_bit: 4\ndataset: identity\ntemplate: llama3\n",
    ),
    "llamafactory-dpo": (
        "llama.yaml",
        "model_name_or_path: meta-llama/Meta-Llama-3-8B\nstage: dpo\ndo_train: true\nfinetuning_type: lora\n"
        "quantization_bit: 4\ndataset: dpo_en_demo\ntemplate: llama3\n",
    ),
    "llamafactory-v1": (
        "v1.yaml",
        "model: Qwen/Qwen3-0.6B\ntrain_dataset: data/v1_sft_demo.yaml\npeft_config:\n  name: lora\n"
        "quant_config:\n  name: bnb\n  quantization_bit: 4\n",
    ),
    "trl": (
        "sft.yaml",
        "model_name_or_path: Qwen/Qwen2-0.5B\ndataset_name: trl-lib/Capybara\nuse_peft: true\nload_in_4bit: true\n",
    ),
    "alignment-handbook": (
        "recipe.yaml",
        "model_name_or_path: mistralai/Mistral-7B-v0.1\ndataset_mixer:\n  HuggingFaceH4/ultrachat_200k: 1.0\n"
        "use_peft: true\nload_in_4bit: true\n",
    ),
    "torchtune": (
        "qlora.yaml",
        "model:\n  _component_: torchtune.models.llama3.qlora_llama3_8b\n  lora_attn_modules: ['q_proj', 'v_proj']\n"
        "optimizer:\n  _component_: torch.optim.AdamW\n",
    ),
    "litgpt": (
        "litgpt.yaml",
        "checkpoint_dir: checkpoints/meta-llama/Llama-2-7b-hf\nquantize: bnb.nf4\n"
        "lora_r: 8\nlora_alpha: 16\ntrain:\n  micro_batch_size: 1\n",
    ),
    "oumi": (
        "oumi.yaml",
        'model:\n  model_name: "meta-llama/Llama-3.1-8B"\ntraining:\n  trainer_type: TRL_SFT\n  use_peft: True\n'
        "peft:\n  q_lora: True\n",
    ),
    "autotrain": (
        "autotrain.yml",
        "task: llm-sft\nbase_model: meta-llama/Meta-Llama-3-8B\nproject_name: p\n"
        "data:\n  path: timdettmers/openassistant-guanaco\nparams:\n  peft: true\n  quantization: int4\n",
    ),
    "unsloth-studio": (
        "unsloth.yaml",
        "model: unsloth/Llama-3.2-1B\ntraining:\n  training_type: lora\n  load_in_4bit: true\nlora:\n  lora_r: 16\n",
    ),
    "ms-swift": (
        "swift.yaml",
        "model: Qwen/Qwen2.5-7B-Instruct\ntuner_type: lora\nquant_method: bnb\nquant_bits: 4\ndataset: x\n",
    ),
    "ludwig": (
        "ludwig.yaml",
        "model_type: llm\nbase_model: meta-llama/Llama-2-7b-hf\nquantization:\n  bits: 4\nadapter:\n  type: lora\n"
        "input_features:\n  - name: prompt\n    type: text\noutput_features:\n  - name: output\n    type: text\n",
    ),
    "h2o-llmstudio": (
        "h2o.yaml",
        "llm_backbone: h2oai/h2o-danube2-1.8b-base\narchitecture:\n    backbone_dtype: int4\n"
        "training:\n    lora: true\n"
        "tokenizer: {}\nenvironment: {}\n",
    ),
    "nemo-automodel": (
        "nemo.yaml",
        "recipe: TrainFinetuneRecipeForNextTokenPrediction\nmodel:\n"
        "  _target_: nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained\n"
        "  pretrained_model_name_or_path: meta-llama/Llama-3.2-1B\n"
        "peft:\n  _target_: nemo_automodel.components._peft.lora.PeftConfig\nquantization:\n  load_in_4bit: True\n",
    ),
    "firefly": (
        "firefly.json",
        '{"model_name_or_path": "meta-llama/Llama-2-7b-hf", "train_file": "./a.jsonl", "template_name": "llama2",'
        ' "train_mode": "qlora"}\n',
    ),
    "mftcoder": (
        "mft.json",
        '{"data_paths": "[a]", "pretrained_model_path": "codellama/CodeLlama-7b-hf", "peft_type": "qlora",'
        ' "quantization": "4bit"}\n',
    ),
    "llm-finetuning-toolkit": (
        "llmtune.yml",
        'data:\n  path: "x.json"\n  prompt_stub: "y"\nmodel:\n  hf_model_ckpt: "NousResearch/Llama-2-7b-hf"\n'
        "  quantize: true\n  bitsandbytes:\n    load_in_4bit: true\nlora:\n  r: 32\n",
    ),
    "qlora-pipe": (
        "pipe.toml",
        "model = '/data/llama'\noutput_dir = '/data/out'\nlora_rank = 64\npipeline_stages = 1\n"
        "micro_batch_size_per_gpu = 1\n\n[quantization.bnb]\nload_in_4bit = true\n\n"
        "[optimizer]\ntype = 'adamw_kahan'\nlr = 5e-6\n",
    ),
    "custom": (
        "train.yaml",
        "model:\n  name: meta-llama/Llama-3.1-8B\nquantization:\n  load_in_4bit: true\nlora:\n  rank: 16\n"
        "training:\n  lr: 0.00001\n",
    ),
    "bnb-config": ("bnb.json", '{"load_in_4bit": true}\n'),
    "peft-adapter": ("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "x/y"}\n'),
    # What the files above have to say to be themselves, left out where the dialect still takes it for its own.
    "axolotl-gradient-accumulation": (
        "axolotl.yml",
        "base_model: meta-llama/Llama-3.1-8B\nadapter: qlora\nload_in_4bit: true\nlora_r: 16\n"
        "datasets:\n  - path: tatsu-lab/alpaca\n    type: alpaca\ngradient_accumulation_steps: 2\n",
    ),
    "llamafactory-stage": (
        "llama.yaml",
        "model_name_or_path: meta-llama/Meta-Llama-3-8B\ndo_train: true\nfinetuning_type: lora\n"
        "quantization_bit: 4\ndataset: identity\ntemplate: llama3\n",
    ),
    "llamafactory-v1-lora": (
        "v1.yaml",
        "model: Qwen/Qwen3-0.6B\ntrain_dataset: data/v1_sft_demo.yaml\npeft_config:\n  name: lora\n",
    ),
    "trl-lora": ("sft.yaml", "model_name_or_path: Qwen/Qwen2-0.5B\ndataset_name: trl-lib/Capybara\nuse_peft: true\n"),
    "litgpt-rank": (
        "litgpt.yaml",
        "checkpoint_dir: checkpoints/meta-llama/Llama-2-7b-hf\nquantize: bnb.nf4\nlora_alpha: 16\ntrain: {}\n",
    ),
    "litgpt-lora": (
        "litgpt.yaml",
        "checkpoint_dir: checkpoints/meta-llama/Llama-2-7b-hf\nlora_r: 8\nlora_alpha: 16\ntrain:\n  epochs: 1\n",
    ),
    "oumi-precision": (
        "oumi.yaml",
        'model:\n  model_name: "meta-llama/Llama-3.1-8B"\ntraining:\n  trainer_type: TRL_SFT\n  use_peft: True\n'
        "  mixed_precision_dtype: NONE\npeft:\n  q_lora: True\n",
    ),
    "autotrain-evaluated": (
        "autotrain.yml",
        "task: llm-sft\nbase_model: meta-llama/Meta-Llama-3-8B\nproject_name: p\n"
        "data:\n  path: timdettmers/openassistant-guanaco\n  valid_split: test\n"
        "params:\n  peft: true\n  quantization: int4\n",
    ),
    "unsloth-studio-rank": (
        "unsloth.yaml",
        "model: x/y\ntraining: {gradient_checkpointing: unsloth, random_seed: 1}\nlora: {lora_alpha: 16}\n",
    ),
    "llm-finetuning-toolkit-rank": (
        "llmtune.yml",
        'data:\n  path: "x.json"\n  prompt_stub: "y"\nmodel:\n  hf_model_ckpt: "NousResearch/Llama-2-7b-hf"\n'
        "  quantize: true\n  bitsandbytes:\n    load_in_4bit: true\nlora:\n  lora_alpha: 32\n",
    ),
    "qlora-pipe-lora": (
        "pipe.toml",
        "model = '/data/llama'\noutput_dir = '/data/out'\nlora_rank = 64\npipeline_stages = 1\n\n"
        "[optimizer]\ntype = 'adamw_kahan'\nlr = 5e-6\n",
    ),
    "shell-qlora-artidoro": ("a.sh", "python qlora.py --model_name_or_path x/y --bits 4\n"),
    "shell-peft-sft-unquantized": ("a.sh", "python train.py --model_name_or_path x/y --use_peft_lora True\n"),
    "shell-peft-sft": (
        "a.sh",
        "python train.py --model_name_or_path x/y --use_4bit_quantization True --use_peft_lora True\n",
    ),
    "shell-fsdp-qlora": (
        "a.sh",
        "python train.py --train_type qlora --log_to stdout --precision bf16\n",
    ),
}
