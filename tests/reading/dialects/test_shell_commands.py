"""Command lines: whose arguments they are, what they mean, and where each stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import Setup, read_setup
from tests.reading.dialects.test_readers import value_at, write

PEFT = """accelerate launch --config_file fsdp.yaml --num_processes 2 train.py \\
--model_name_or_path "x/y" --use_peft_lora True --lora_r 8 --lora_target_modules "all-linear" \\
--use_4bit_quantization True --use_nested_quant True --bnb_4bit_compute_dtype "bfloat16" \\
--bnb_4bit_quant_storage_dtype bfloat16 --gradient_checkpointing True --use_reentrant True --bf16 True
"""
CASES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "llamafactory": (
        "CUDA_VISIBLE_DEVICES=0 llamafactory-cli train --stage sft --do_train --finetuning_type lora \\\n"
        "  --model_name_or_path x/y --quantization_bit 4 --lora_rank 4 --bf16 --template llama3 "
        "--lora_target q_proj,v_proj",
        {"quantization.load_in_4bit": True, "lora.r": 4, "lora.lora_alpha": 8, "training.bf16": True,
         "lora.target_modules": ["q_proj", "v_proj"], "quantization.bnb_4bit_compute_dtype": "bfloat16"},
        set(),
    ),
    "ms-swift": (
        "NPROC_PER_NODE=4 swift sft --model x/y --tuner_type lora --torch_dtype bfloat16 --quant_method bnb \\\n"
        "  --quant_bits 4 --target_modules all-linear --dataset 'a#1' 'b#2' --learning_rate 1e-4",
        {"quantization.load_in_4bit": True, "quantization.bnb_4bit_compute_dtype": "bfloat16", "hardware.count": 4,
         "training.learning_rate": 1e-4},
        set(),
    ),
    "trl": (
        "trl sft --model_name_or_path x/y --use_peft --load_in_4bit --lora_r 16 \\\n"
        "  --lora_target_modules q_proj v_proj --dtype bfloat16 --dataset_name d --no_gradient_checkpointing",
        {"quantization.load_in_4bit": True, "lora.target_modules": ["q_proj", "v_proj"], "training.method": "sft",
         "quantization.bnb_4bit_compute_dtype": "bfloat16", "training.gradient_checkpointing": False},
        set(),
    ),
    "autotrain": (
        "nohup autotrain llm --train --project-name p --model $MODEL --data-path d --use-peft --quantization int4 \\\n"
        "  --lr 1e-4 --lora-r 8 --trainer sft > log 2>&1 &",
        {"quantization.load_in_4bit": True, "lora.r": 8, "training.learning_rate": 1e-4,
         "quantization.bnb_4bit_compute_dtype": "float16", "training.method": "sft"},
        {"model.name_or_path"},
    ),
    "litgpt": (
        "litgpt finetune_lora x/y --quantize bnb.nf4-dq --precision bf16-true --train.micro_batch_size 2 --lora_r 4",
        {"quantization.load_in_4bit": True, "model.name_or_path": "x/y", "lora.r": 4,
         "training.per_device_train_batch_size": 2, "quantization.bnb_4bit_use_double_quant": True},
        set(),
    ),
    "peft-sft": (
        PEFT,
        {"quantization.load_in_4bit": True, "quantization.bnb_4bit_quant_storage": "bfloat16", "lora.lora_alpha": 16,
         "model.dtype": "bfloat16", "hardware.count": 2, "quantization.bnb_4bit_use_double_quant": True,
         "training.gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"training.fsdp", "training.deepspeed"},
    ),
    "qlora-artidoro": (
        "python qlora.py --model_name_or_path x/y --bf16 --lora_r 32 --source_max_len 16 --target_max_len 512 "
        "--double_quant",
        {"quantization.load_in_4bit": True, "quantization.bnb_4bit_quant_type": "nf4", "lora.r": 32,
         "lora.target_modules": "all-linear", "training.max_length": 528, "training.optim": "paged_adamw_32bit",
         "quantization.bnb_4bit_compute_dtype": "bfloat16", "training.prepare_for_kbit_training": True},
        set(),
    ),
    "fsdp-qlora": (
        "python train.py --train_type qlora --model_name x/y --context_length 256 --precision bf16_autocast",
        {"quantization.load_in_4bit": True, "quantization.bnb_4bit_quant_storage": "float32",
         "quantization.bnb_4bit_compute_dtype": "bfloat16", "training.fsdp": "full_shard", "training.max_length": 256},
        {"hardware.count"},
    ),
    "generic": (
        "torchrun --nproc_per_node 2 finetune.py --model_name_or_path x/y --use_qlora --lora_rank 64 --lora_alpha 16",
        {"quantization.load_in_4bit": True, "lora.r": 64, "hardware.count": 2},
        {"quantization.bnb_4bit_quant_type", "training.learning_rate"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_arguments_mean_what_the_dialect_says(case: str, tmp_path: Path) -> None:
    text, values, unknown = CASES[case]
    setup = read_setup(write(tmp_path, "run.sh", "#!/bin/bash\nset -e\n" + text + "\n"))
    assert setup.dialect == f"shell-{case}"
    assert {path: value_at(setup, path) for path in values} == values
    assert {path for path in unknown if setup.is_unknown(path)} == unknown
    assert setup.dialect_confidence <= 0.7 if case == "generic" else setup.dialect_confidence >= 0.9
    assert not setup.unknown_keys and not setup.removed_keys
    assert conclude(setup, None).four_bit is True
    assert read_setup(tmp_path / "run.sh", dialect=setup.dialect).dialect == setup.dialect


def read(tmp_path: Path, text: str) -> Setup:
    return read_setup(write(tmp_path, "run.sh", text))


def test_an_argument_has_its_place(tmp_path: Path) -> None:
    setup = read(tmp_path, "A=(--lora_rank 4)\nllamafactory-cli train --finetuning_type lora \\\n\\\n"
                           "    --stage sft --quantization_bit=4 --model_name_or_path x/y \"${A[@]}\"\n")  # fmt: skip
    bits, rank = setup.place("quantization.load_in_4bit"), setup.place("lora.r")
    assert bits is not None and rank is not None
    assert (bits.line, bits.column, bits.end_column) == (4, 17, 37) and str(bits.excerpt)[
        16:36
    ] == "--quantization_bit=4"
    assert (rank.line, rank.column, rank.end_column, rank.pointer) == (1, 4, 17, "/lora_rank")


@pytest.mark.parametrize(
    "start",
    ["accelerate launch --mixed_precision bf16 qlora.py", "python -u qlora.py", "/opt/python3.11 -W ignore qlora.py",
     "torchrun --nproc_per_node=2 qlora.py", "python -m torch.distributed.run --nproc_per_node 2 qlora.py",
     "deepspeed --include localhost:0 qlora.py", "srun -n 1 python qlora.py", "uv run --extra gpu python qlora.py",
     "CUDA_VISIBLE_DEVICES=0 nohup python qlora.py", "nice -n 5 time python qlora.py"],
)  # fmt: skip
def test_launchers(start: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{start} --model_name_or_path x/y --bits 4 --lora_r 7\n").lora.r == 7


@pytest.mark.parametrize(
    "text",
    [
        'CMD="python qlora.py --model_name_or_path x/y --lora_r 7"\n$CMD',
        'bash -c "python qlora.py --model_name_or_path x/y --lora_r 7"',
        'all=("python qlora.py --model_name_or_path x/y --lora_r 7")\nfor c in "${all[@]}"; do $c; done',
        'A="--lora_r 7"\neval "python qlora.py --model_name_or_path x/y $A"',
    ],
)
def test_command_lines_in_texts(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text).lora.r == 7


def test_of_several_runs_the_first_in_4bit_counts(tmp_path: Path) -> None:
    text = "".join(f"python train.py --train_type {kind} --precision bf16 --log_to x --lr {rate}\n"
                   for kind, rate in (("full", 1e-5), ("qlora", 2e-4), ("qlora", 3e-4)))  # fmt: skip
    setup = read(tmp_path, text)
    assert setup.training.learning_rate == 2e-4
    assert setup.dialect_version == "fsdp_qlora, line 2, one of 3 trainings"


def test_what_is_not_constant_is_unknown(tmp_path: Path) -> None:
    text = (
        "llamafactory-cli train --finetuning_type lora --stage sft --model_name_or_path $1 --quantization_bit ${BITS} "
        "--learning_rate $(cat lr) --cutoff_len=$LEN --bf16 $BF\n"
    )
    setup = read(tmp_path, text)
    for path in ("model.name_or_path", "quantization.load_in_4bit", "training.learning_rate", "training.max_length"):
        assert setup.is_unknown(path), path
    assert setup.is_unknown("training.bf16")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("llamafactory-cli train configs/a.yaml\n", "config is in another file, configs/a.yaml"),
        ("accelerate launch -m axolotl.cli.train qlora.yml --lora_r 8\n", "config is in another file, qlora.yml"),
        ("trl sft --config sft.yaml --load_in_4bit\n", "config is in another file, sft.yaml"),
        (
            "tune run --nproc_per_node 2 lora_finetune_distributed --config llama3/8B_lora\n",
            "config is in another file",
        ),
        ("echo python qlora.py --model_name_or_path x/y --lora_r 8\n", "starts no training"),
        (
            "pip install trl peft\nllamafactory-cli export --model_name_or_path x/y --finetuning_type lora\n",
            "no training",
        ),
    ],
)
def test_scripts_that_hold_no_config(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(tmp_path, text)


def test_a_script_is_known_by_its_first_line_too(tmp_path: Path) -> None:
    path = write(
        tmp_path, "launch", "#!/usr/bin/env bash\ntrl sft --model_name_or_path x/y --use_peft --load_in_4bit\n"
    )
    assert read_setup(path).dialect == "shell-trl"


@pytest.mark.parametrize(
    ("start", "effect"),
    [
        ("python src/train.py", "refused"),
        ("llamafactory-cli train", "other-meaning"),
        ("FORCE_TORCHRUN=0 llamafactory-cli train", "other-meaning"),
        ("FORCE_TORCHRUN=1 llamafactory-cli train", None),
        ("export FORCE_TORCHRUN=1\nllamafactory-cli train", None),
        ("torchrun --nproc_per_node 2 src/train.py", None),
        ("deepspeed --num_gpus 2 src/train.py", None),
    ],
)
def test_deepspeed_is_launched(start: str, effect: str | None, tmp_path: Path) -> None:
    """LLaMA-Factory stops where DeepSpeed is asked for and it was not started by torchrun."""
    arguments = "--stage sft --do_train --finetuning_type lora --model_name_or_path a/b --dataset c --deepspeed ds.json"
    setup = read(tmp_path, f"{start} {arguments}\n")
    assert setup.dialect == "shell-llamafactory"
    found = [remark.effect for remark in setup.remarks if remark.kind == "launched-without-torchrun"]
    assert found == ([effect] if effect else [])
