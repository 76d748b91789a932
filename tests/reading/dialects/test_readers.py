"""Every reader on a small config of its own: the dialect, what is written, whose defaults stand, what stays unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects import DIALECTS
from qlora_doctor.run.checking import check

AXOLOTL = """
base_model: my/model
load_in_4bit: true
adapter: {adapter}
lora_r: 16
lora_alpha: 32
lora_target_linear: true
datasets:
  - {{path: rows.jsonl, type: completion}}
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 2e-4
bf16: auto
"""

CASES: dict[str, tuple[str, str, dict[str, Any], set[str]]] = {
    "axolotl": (
        "a.yml",
        AXOLOTL.format(adapter="qlora"),
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_quant_type": "nf4",
            "quantization.bnb_4bit_use_double_quant": True,
            "quantization.bnb_4bit_compute_dtype": "bfloat16",
            "quantization.bnb_4bit_quant_storage": "bfloat16",
            "lora.target_modules": "all-linear",
            "lora.lora_dropout": 0.0,
            "training.learning_rate": 2e-4,
            "training.max_length": 512,
            "training.gradient_checkpointing": False,
            "training.optim": "adamw_torch_fused",
            "training.prepare_for_kbit_training": True,
        },
        set(),
    ),
    "llamafactory": (
        "a.yaml",
        "model_name_or_path: my/model\nfinetuning_type: lora\nstage: sft\nquantization_bit: 4\n"
        "lora_rank: 4\nfp16: true\n"
        "template: llama3\ndataset: mine\nlearning_rate: 1.0e-4\n",
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "float16",
            "quantization.bnb_4bit_quant_storage": "float16",
            "lora.r": 4,
            "lora.lora_alpha": 8.0,
            "lora.target_modules": "all-linear",
            "training.max_length": 2048,
            "training.gradient_checkpointing_kwargs": {"use_reentrant": True},
            "training.prepare_for_kbit_training": False,
        },
        {"data.train"},
    ),
    "llamafactory board": (
        "board.yaml",
        "top.model_path: my/model\ntop.quantization_bit: '4'\ntop.booster: flashattn2\ntrain.lora_rank: 16\n"
        "train.lora_target: q_proj,v_proj\ntrain.compute_type: bf16\ntrain.batch_size: 2\ntrain.cutoff_len: 512\n",
        {
            "model.name_or_path": "my/model",
            "quantization.load_in_4bit": True,
            "lora.target_modules": ["q_proj", "v_proj"],
            "training.bf16": True,
            "training.per_device_train_batch_size": 2,
            "training.max_length": 512,
        },
        set(),
    ),
    "llamafactory-v1": (
        "v1.yaml",
        "model: my/model\ntrain_dataset: d.yaml\npeft_config: {name: lora, r: 8, target_modules: all}\n"
        "quant_config: {name: bnb, quantization_bit: 4}\nmicro_batch_size: 1\n",
        {"quantization.bnb_4bit_compute_dtype": "float16", "lora.target_modules": "all-linear", "lora.r": 8},
        {"training.trainer", "model.dtype"},
    ),
    "trl": (
        "trl.yaml",
        "model_name_or_path: my/model\nuse_peft: true\nload_in_4bit: true\nlora_target_modules: all-linear\n"
        "dataset_name: my/rows\npacking: true\n",
        {
            "model.dtype": "float32",
            "quantization.bnb_4bit_compute_dtype": "float32",
            "quantization.bnb_4bit_use_double_quant": False,
            "lora.r": 16,
            "lora.lora_alpha": 32.0,
            "lora.lora_dropout": 0.05,
            "lora.target_modules": "all-linear",
            "training.trainer": "trl",
            "data.train": "my/rows",
        },
        set(),
    ),
    "alignment-handbook": (
        "h.yaml",
        "model_name_or_path: my/model\ntorch_dtype: auto\nuse_peft: true\nload_in_4bit: true\n"
        "dataset_mixer: {my/rows: 1.0}\nmax_length: 512\nbeta: 0.1\n",
        {
            "training.method": "dpo",
            "training.max_length": 512,
            "data.train": "my/rows",
            "quantization.bnb_4bit_compute_dtype": "float16",
            "training.optim": "rmsprop",
        },
        {"training.learning_rate"},
    ),
    "accelerate-config": (
        "default_config.yaml",
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 2\n",
        {"hardware.count": 2, "training.fsdp": "full_shard auto_wrap"},
        {"model.name_or_path", "quantization.load_in_4bit", "lora.r", "training.learning_rate"},
    ),
    "peft-adapter": (
        "adapter_config.json",
        '{"peft_type": "LORA", "base_model_name_or_path": "my/model", "r": 8, "lora_alpha": 16,'
        ' "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}',
        {"lora.r": 8, "lora.target_modules": ["q_proj"], "model.name_or_path": "my/model"},
        {"quantization.load_in_4bit", "training.learning_rate", "model.dtype"},
    ),
    "hf-model-config": (
        "model.json",
        '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "_name_or_path": "my/model", '
        '"quantization_config":'
        ' {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}}',
        {
            "model.name_or_path": "my/model",
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_quant_type": "nf4",
            "quantization.bnb_4bit_compute_dtype": "float32",
        },
        {"lora.r", "training.learning_rate"},
    ),
    "bnb-config": (
        "bnb.json",
        '{"load_in_4bit": true, "bnb_4bit_compute_dtype": "torch.bfloat16"}',
        {
            "quantization.bnb_4bit_compute_dtype": "bfloat16",
            "quantization.bnb_4bit_quant_type": "fp4",
            "quantization.bnb_4bit_use_double_quant": False,
        },
        {"model.name_or_path", "lora.r"},
    ),
    "torchtune": (
        "t.yaml",
        "model: {_component_: torchtune.models.llama3.qlora_llama3_8b, lora_attn_modules: [q_proj, v_proj],"
        " apply_lora_to_mlp: true, lora_rank: 8}\ncheckpointer: {checkpoint_dir: /m}\ndtype: bf16\nbatch_size: 2\n"
        "optimizer: {_component_: torch.optim.AdamW, lr: 3e-4}\n",
        {
            "quantization.backend": "torchao",
            "quantization.load_in_4bit": True,
            "lora.target_modules": ["q_proj", "v_proj", "w1", "w2", "w3"],
            "lora.lora_alpha": 16.0,
            "training.learning_rate": 3e-4,
            "training.gradient_checkpointing": False,
            "training.optim": "AdamW",
        },
        {"training.trainer", "training.max_length"},
    ),
    "unsloth-studio": (
        "u.yaml",
        "model: my/model\ntraining: {training_type: lora, max_seq_length: 1024}\nlora: {lora_r: 8, use_loftq: false}\n",
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_use_double_quant": True,
            "lora.lora_alpha": 16.0,
            "training.optim": "adamw_8bit",
            "training.gradient_checkpointing": True,
        },
        {"quantization.bnb_4bit_compute_dtype"},
    ),
    "oumi": (
        "o.yaml",
        "model: {model_name: my/model}\ntraining: {trainer_type: TRL_SFT, use_peft: true}\n"
        "peft: {q_lora: true, lora_target_modules: [all-linear]}\ndata: {train: {pack: true}}\n",
        {
            "quantization.bnb_4bit_quant_type": "fp4",
            "quantization.bnb_4bit_compute_dtype": "float32",
            "lora.lora_alpha": 8.0,
            "lora.target_modules": "all-linear",
            "training.packing": True,
            "training.gradient_checkpointing": False,
            "training.trainer": "trl",
        },
        set(),
    ),
    "litgpt": (
        "l.yaml",
        "checkpoint_dir: c/m\nprecision: bf16-true\nquantize: bnb.nf4-dq\nlora_r: 4\n"
        "data: {class_path: litgpt.data.Alpaca}\n"
        "train: {global_batch_size: 8, micro_batch_size: 2}\n",
        {
            "quantization.bnb_4bit_use_double_quant": True,
            "quantization.bnb_4bit_quant_type": "nf4",
            "lora.target_modules": ["query", "value"],
            "training.gradient_accumulation_steps": 4,
        },
        {"training.trainer"},
    ),
    "autotrain": (
        "at.yml",
        "task: llm-sft\nbase_model: my/model\nproject_name: p\nparams: {peft: true, "
        "mixed_precision: bf16, block_size: 256}\n",
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "float16",
            "quantization.bnb_4bit_use_double_quant": False,
            "training.bf16": True,
            "training.max_length": 256,
            "lora.target_modules": "all-linear",
        },
        set(),
    ),
    "ms-swift": (
        "s.yaml",
        "model: my/model\ntuner_type: lora\nquant_method: bnb\nquant_bits: 4\ntorch_dtype: bfloat16\n"
        "target_modules: all-linear\n",
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "bfloat16",
            "lora.lora_alpha": 32.0,
            "training.gradient_accumulation_steps": 16,
            "training.learning_rate": 1e-4,
        },
        {"training.max_length"},
    ),
    "ludwig": (
        "lw.yaml",
        "model_type: llm\nbase_model: my/model\ninput_features: [{name: a, type: text}]\n"
        "output_features: [{name: b, type: text}]\n"
        "adapter: {type: lora}\nquantization: {bits: 4}\ntrainer: {type: finetune, batch_size: auto}\n",
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "float16",
            "lora.r": 8,
            "lora.lora_alpha": 16.0,
            "training.gradient_checkpointing": False,
        },
        {"training.per_device_train_batch_size", "training.trainer"},
    ),
    "h2o-llmstudio": (
        "h2o.yaml",
        "llm_backbone: my/model\narchitecture: {backbone_dtype: int4}\ntraining: {lora: true, lora_r: 8}\n"
        "environment: {mixed_precision_dtype: bfloat16}\n",
        {
            "quantization.bnb_4bit_compute_dtype": "float16",
            "training.bf16": True,
            "lora.target_modules": "all-linear",
            "training.max_length": 512,
        },
        {"training.trainer"},
    ),
    "nemo-automodel": (
        "n.yaml",
        "recipe: TrainFinetuneRecipeForNextTokenPrediction\nstep_scheduler: {global_batch_size: 8, "
        "local_batch_size: 2}\n"
        "model: {_target_: nemo_automodel.X, pretrained_model_name_or_path: my/model}\n"
        "peft: {_target_: nemo_automodel.P, match_all_linear: true}\nquantization: {load_in_4bit: true}\n",
        {
            "quantization.bnb_4bit_quant_storage": "bfloat16",
            "lora.r": 8,
            "lora.lora_alpha": 32.0,
            "lora.target_modules": "all-linear",
        },
        {"training.gradient_accumulation_steps"},
    ),
    "firefly": (
        "f.json",
        '{"model_name_or_path": "my/model", "train_file": "d.jsonl", "lora_rank": 8, '
        '"max_seq_length": 512, "fp16": true}',
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "float16",
            "quantization.bnb_4bit_use_double_quant": True,
            "lora.lora_alpha": 16.0,
            "training.max_length": 512,
        },
        set(),
    ),
    "mftcoder": (
        "m.json",
        '{"data_paths": "$DATA", "pretrained_model_path": "$MODEL", "peft_type": "qlora", "quantization": "4bit"}',
        {
            "quantization.load_in_4bit": True,
            "lora.bias": "lora_only",
            "lora.r": 96,
            "lora.target_modules": "all-linear",
        },
        {"model.name_or_path"},
    ),
    "llm-finetuning-toolkit": (
        "k.yml",
        "model: {hf_model_ckpt: my/model, quantize: true, bitsandbytes: {load_in_4bit: true}}\nlora: {r: [8, 16]}\n"
        "data: {prompt_stub: x}\ntraining: {training_args: {learning_rate: 1.0e-4}, "
        "sft_args: {max_seq_length: 300}}\n",
        {
            "quantization.bnb_4bit_quant_type": "nf4",
            "training.learning_rate": 1e-4,
            "training.max_length": 300,
            "training.optim": "paged_adamw_32bit",
        },
        {"lora.r"},
    ),
    "qlora-pipe": (
        "p.toml",
        "model = '/m'\npipeline_stages = 1\nlora_rank = 8\nlora_alpha = 16\nactivation_checkpointing = true\n"
        "[quantization.bnb]\nload_in_4bit = true\n[optimizer]\ntype = 'adamw_kahan'\nlr = 5e-5\n",
        {
            "quantization.bnb_4bit_quant_type": "nf4",
            "quantization.bnb_4bit_use_double_quant": False,
            "quantization.llm_int8_skip_modules": ["lm_head"],
            "lora.target_modules": "all-linear",
            "training.learning_rate": 5e-5,
        },
        {"training.trainer"},
    ),
    "custom": (
        "c.yaml",
        "model: {name: my/model, load_in_4bit: true}\npeft: {r: 8, alpha: 16, targets: [q_proj]}\n"
        "train: {lr: 2e-4, batch_size: 2}\nevaluation: {batch_size: 64}\n",
        {
            "model.name_or_path": "my/model",
            "quantization.load_in_4bit": True,
            "lora.r": 8,
            "lora.lora_alpha": 16.0,
            "lora.target_modules": ["q_proj"],
            "training.learning_rate": 2e-4,
            "training.per_device_train_batch_size": 2,
        },
        {"quantization.bnb_4bit_quant_type", "training.bf16", "training.optim", "training.gradient_checkpointing"},
    ),
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def value_at(setup: Setup, path: str) -> Any:
    section, _, field = path.partition(".")
    return getattr(getattr(setup, section), field)


@pytest.mark.parametrize("case", CASES)
def test_reads_its_dialect(case: str, tmp_path: Path) -> None:
    name, text, values, unknown = CASES[case]
    setup = read_setup(write(tmp_path, name, text))
    assert setup.dialect == case.removesuffix(" board")
    assert {path: value_at(setup, path) for path in values} == values
    assert {path for path in unknown if setup.is_unknown(path)} == unknown
    assert all(value_at(setup, path) is None for path, origin in setup.origins.items() if origin.source == "unknown")
    assert setup.dialect_confidence <= 0.7 if case == "custom" else setup.dialect_confidence >= 0.85
    facts = conclude(setup, None)
    assert facts.four_bit is None if "quantization.load_in_4bit" in unknown else facts.four_bit is True


def test_every_dialect_has_a_case() -> None:
    assert {case.removesuffix(" board") for case in CASES} >= DIALECTS.keys() - {
        *("native", "foreign", "shell", "python", "xtuner")
    }


def test_a_default_says_whose_it_is_and_a_value_says_where_it_stands(tmp_path: Path) -> None:
    setup = read_setup(write(tmp_path, "a.yml", AXOLOTL.format(adapter="qlora")))
    length, rank = setup.origins["training.max_length"], setup.origins["lora.r"]
    assert length.source == "dialect_default" and "axolotl 0." in str(length.note) and length.place is None
    place = setup.place("lora.r")
    assert rank.source == "explicit" and place is not None
    assert (place.pointer, place.line, place.excerpt) == ("/lora_r", 5, "lora_r: 16")
    whole = setup.place("model")
    assert whole is not None and whole.line == 2


def test_axolotl_lora_is_not_quantized(tmp_path: Path) -> None:
    setup = read_setup(write(tmp_path, "a.yml", AXOLOTL.format(adapter="lora")))
    facts = conclude(setup, None)
    assert facts.four_bit is False
    assert facts.remarks is not None and "four-bit-switch-without-effect" in facts.remarks
    assert facts.refused == []
    place = setup.place("quantization.load_in_4bit")
    assert place is not None and place.line == 3


@pytest.mark.parametrize(("capability", "expected"), [(7.5, "float16"), (8.0, "bfloat16")])
def test_axolotl_auto_precision_follows_the_card(tmp_path: Path, capability: float, expected: str) -> None:
    gpu = Gpu(index=0, name="a card", memory_bytes=16 * 2**30, capability=capability)
    environment = EnvironmentFacts(tool_version="0", python="3.11", platform="linux", packages=Packages(), gpus=[gpu])
    facts = conclude(read_setup(write(tmp_path, "a.yml", AXOLOTL.format(adapter="qlora"))), environment)
    assert (facts.compute_dtype, facts.model_dtype) == (expected, expected)
    assert (facts.bf16, facts.fp16) == (expected == "bfloat16", expected == "float16")


def test_axolotl_refusals_and_keys(tmp_path: Path) -> None:
    text = (
        AXOLOTL.format(adapter="qlora") + "warmup_steps: 1\nwarmup_ratio: 0.1\nwandb_run_name: x\nlora_r: 8\ndebug:\n"
    )
    facts = conclude(read_setup(write(tmp_path, "a.yml", text)), None)
    assert facts.refused is not None and [remark.kind for remark in facts.refused] == ["warmup-twice"]
    assert facts.unknown_keys is not None
    assert [(key.key, key.closest) for key in facts.unknown_keys] == [("wandb_run_name", "wandb_name")]
    assert facts.duplicate_keys == ["lora_r"] and facts.lora_r == 8
    assert facts.string_numbers == ["learning_rate"]


def test_a_plugin_of_ones_own_may_read_any_key(tmp_path: Path) -> None:
    text = AXOLOTL.format(adapter="qlora") + "plugins: [my.plugin]\nmy_key: 1\n"
    assert read_setup(write(tmp_path, "a.yml", text)).unknown_keys == []


def test_trl_keys_that_are_gone_name_what_took_their_place(tmp_path: Path) -> None:
    text = CASES["trl"][1] + "max_seq_length: 512\nevaluation_strategy: epoch\nlora_rnk: 3\n"
    setup = read_setup(write(tmp_path, "trl.yaml", text))
    gone = {key.key: key.closest for key in setup.removed_keys}
    assert gone == {"max_seq_length": "max_length", "evaluation_strategy": "eval_strategy"}
    assert [(key.key, key.closest) for key in setup.unknown_keys] == [("lora_rnk", "lora_r")]
    assert setup.training.max_length == 512


def test_lora_keys_alone_do_nothing_in_trl(tmp_path: Path) -> None:
    text = "model_name_or_path: m/m\nuse_peft: false\nload_in_4bit: true\nlora_r: 8\n"
    facts = conclude(read_setup(write(tmp_path, "t.yaml", text)), None)
    assert facts.remarks is not None and "lora-switched-off" in facts.remarks


def test_llamafactory_renamed_its_method(tmp_path: Path) -> None:
    text = CASES["llamafactory"][1] + "quantization_method: bitsandbytes\n"
    facts = conclude(read_setup(write(tmp_path, "l.yaml", text)), None)
    assert facts.remarks is not None and "quantization-method-renamed" in facts.remarks
    assert facts.four_bit is False, "the name matches no method of 0.9.3 and later, and nothing is quantized"
    pinned, checkout = tmp_path / "pinned", tmp_path / "checkout"
    (checkout / "src" / "llamafactory" / "extras").mkdir(parents=True)
    (checkout / ".git").mkdir()
    write(checkout / "src" / "llamafactory" / "extras", "env.py", 'VERSION = "0.9.2"\n')
    pinned.mkdir()
    write(pinned, "requirements.txt", "llamafactory==0.9.2\n")
    (checkout / "examples").mkdir()
    for folder in (pinned, checkout / "examples"):
        older = conclude(read_setup(write(folder, "l.yaml", text)), None)
        assert older.four_bit is True and "quantization-method-renamed" not in (older.remarks or []), folder


def test_a_method_by_which_llamafactory_quantizes_nothing(tmp_path: Path) -> None:
    text = CASES["llamafactory"][1] + "quantization_method: gptq\n"
    facts = conclude(read_setup(write(tmp_path, "l.yaml", text)), None)
    assert facts.four_bit is False and "four-bit-switch-without-effect" in (facts.remarks or [])


def test_four_bit_options_without_four_bits(tmp_path: Path) -> None:
    text = "model: {name: m/m, load_in_4bit: false}\nquantization: {bnb_4bit_quant_type: nf4}\nlora: {r: 8}\n"
    facts = conclude(read_setup(write(tmp_path, "c.yaml", text)), None)
    assert facts.four_bit is False and facts.idle_four_bit_options == ["bnb_4bit_quant_type"]


def test_a_wrong_type_stops_where_the_trainer_stops(tmp_path: Path) -> None:
    text = AXOLOTL.format(adapter="qlora").replace("lora_r: 16", "lora_r: sixteen")
    with pytest.raises(ConfigError, match="lora_r must be a whole number") as caught:
        read_setup(write(tmp_path, "a.yml", text))
    assert caught.value.place is not None and caught.value.place.line == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: m\nlora_parameters: {rank: 8}\ntrain: true\n", "mlx-lm"),
        ("zero_optimization: {stage: 3}\n", "DeepSpeed"),
        ("model: m/m\npeft_config: {name: lora, adapter_name_or_path: a, export_dir: b}\n", "exports a model"),
    ],
)
def test_other_tools_files_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_setup(write(tmp_path, "x.yaml", text))


def test_the_dialect_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yml", "base_model: m/m\nlora_r: 8\n")
    assert read_setup(path, dialect="axolotl").lora.r == 8
    assert read_setup(path, dialect="alignment-handbook").dialect == "trl"


def test_a_config_beside_its_weights_names_its_folder(tmp_path: Path) -> None:
    text = CASES["hf-model-config"][1]
    assert read_setup(write(tmp_path, "config.json", text)).model.name_or_path == str(tmp_path)


def test_the_folder_of_an_adapter_stands_for_its_config(tmp_path: Path) -> None:
    write(tmp_path, "adapter_config.json", CASES["peft-adapter"][1])
    assert read_setup(tmp_path).dialect == "peft-adapter"


@pytest.mark.parametrize("model", ["/data/models/llama", "./models/llama", "~/llama", "/tmp/Llama-2-7b-hf"])
def test_a_path_of_another_machine_is_no_missing_model(model: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yml", AXOLOTL.format(adapter="qlora").replace("my/model", model))
    assert conclude(read_setup(path), None).model_kind == "elsewhere"
    native = write(tmp_path, "n.yml", f"model: {model}\nlora: {{r: 8}}\n")
    assert conclude(read_setup(native), None).model_kind == "missing"


def test_keys_of_other_adapters_than_lora_are_not_held_against_lora(tmp_path: Path) -> None:
    text = '{"peft_type": "%s", "base_model_name_or_path": "x/y", "r": 8, "init_r": 12, "target_r": 8}'
    for kind in ("LORA", "ADALORA"):
        setup = read_setup(write(tmp_path, "adapter_config.json", text % kind))
        assert bool(setup.stored_keys) is (kind == "LORA")


def test_autotrain_evaluates_with_the_batch_of_training(tmp_path: Path) -> None:
    text = "task: llm-sft\nbase_model: x/y\nproject_name: p\nparams: {peft: true, batch_size: 3}\n"
    assert read_setup(write(tmp_path, "a.yml", text)).training.per_device_eval_batch_size == 3


@pytest.mark.parametrize(
    ("lines", "path", "value"),
    [
        # an absent key is `auto`; null, and fp16 beside it, are not (schemas/config.py, resolve_dtype)
        ("", "training.bf16", True),
        ("bf16: null\n", "training.bf16", False),
        ("fp16: true\n", "training.bf16", False),
        ("fp16: true\n", "training.fp16", True),
        ("bf16: false\n", "model.dtype", "float32"),
        # one that is not mixed trains in bfloat16 all the same (core/builders/base.py, _configure_precision_settings)
        ("bf16: auto\nfloat16: true\n", "model.dtype", "bfloat16"),
        ("bf16: false\nbfloat16: true\n", "training.bf16", True),
        ("bf16: full\n", "training.bf16", False),
        # the default of 1 comes before what batch_size asks for
        ("batch_size: 8\n", "training.gradient_accumulation_steps", 1),
        ("batch_size: 8\ngradient_accumulation_steps:\n", "training.gradient_accumulation_steps", 8),
        ("reward_model: true\n", "training.method", "reward"),
        # the form of checkpointing where the file names none (normalize_config)
        ("gradient_checkpointing: true\n", "training.gradient_checkpointing_kwargs", {"use_reentrant": True}),
        ("gradient_checkpointing: true\nrl: dpo\n", "training.gradient_checkpointing_kwargs", {"use_reentrant": False}),
        (
            "gradient_checkpointing: true\nunfrozen_parameters: [lm_head]\n",
            "training.gradient_checkpointing_kwargs",
            {"use_reentrant": False},
        ),
        (
            "gradient_checkpointing: true\nactivation_offloading: hidden_states\n",
            "training.gradient_checkpointing_kwargs",
            {"use_reentrant": False},
        ),
        ("gradient_checkpointing: offload\n", "training.gradient_checkpointing", None),
    ],
)
def test_axolotl_takes_where_the_file_is_silent(lines: str, path: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(
        "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\n" + lines
    )
    setup = read_setup(tmp_path / "c.yml")
    section, _, field = path.partition(".")
    assert getattr(getattr(setup, section), field) == value
    assert (value is None) == setup.is_unknown(path)


FULL = {
    "axolotl": "base_model: x/y\nsequence_len: 512\nmicro_batch_size: 2\nlearning_rate: 1.0e-5\n",
    "axolotl, null": "base_model: x/y\nadapter:\nlora_r: 8\nsequence_len: 512\nlearning_rate: 1.0e-5\n",
    "trl": "model_name_or_path: m/m\ndataset_name: d/d\nlearning_rate: 1.0e-5\nmax_length: 512\n",
    "oumi": "model: {model_name: m/m}\ndata: {train: {datasets: [{dataset_name: x}]}}\n"
    "training: {trainer_type: TRL_SFT, learning_rate: 1.0e-5}\n",
    "autotrain": "task: llm-sft\nbase_model: x/y\nproject_name: p\nparams: {lr: 1.0e-5, batch_size: 3}\n",
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_fine_tuning_has_its_own_learning_rate(case: str, tmp_path: Path) -> None:
    path = write(tmp_path, "full.yaml", FULL[case])
    assert [remark.kind for remark in read_setup(path).remarks if "lora" in remark.kind] == ["no-lora"]
    assert "QD120" not in [finding.rule for finding in check(path, stages=("config",)).findings]


def test_axolotl_lora_options_without_an_adapter(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yml", FULL["axolotl"] + "lora_r: 8\nlora_target_linear: true\n")
    (finding,) = [each for each in check(path, stages=("config",)).findings if each.rule == "QD129"]
    assert finding.location.line == 5


@pytest.mark.parametrize(("fp16", "expected"), [("", "float16"), ("fp16: false\n", "float32")])
def test_axolotl_declines_fp16(fp16: str, expected: str, tmp_path: Path) -> None:
    """Without bf16 in the card ``auto`` is fp16 only where that is not written off (normalize_config)."""
    (tmp_path / "c.yml").write_text("base_model: x/y\nadapter: qlora\nload_in_4bit: true\nbf16: auto\n" + fp16)
    gpu = Gpu(index=0, name="Tesla T4", memory_bytes=2**34, capability=7.5)
    here = EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=Packages(), gpus=[gpu])
    facts = conclude(read_setup(tmp_path / "c.yml"), here)
    assert (facts.model_dtype, facts.compute_dtype) == (expected, expected)
    assert (facts.bf16, facts.fp16) == (False, expected == "float16")


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("do_train: true\n", {"no-mixed-precision", "norms-not-upcast"}),
        ("", set()),
        ("do_predict: true\n", {"evaluated-while-quantized"}),
        ("do_train: false\n", {"evaluated-while-quantized"}),
    ],
)
def test_llamafactory_trains_only_where_it_is_told_to(line: str, kinds: set[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model_name_or_path: x/y\nstage: sft\nfinetuning_type: lora\ntemplate: llama3\nquantization_bit: 4\n" + line
    )
    of_training = {"no-mixed-precision", "norms-not-upcast", "evaluated-while-quantized"}
    assert {remark.kind for remark in read_setup(tmp_path / "c.yaml").remarks} & of_training == kinds
