"""Known faults, planted in a config or a model folder: the tool tells exactly the rule, and nothing else at its level.

Faults are named by their ids in the catalogue of failures, as the rules' own ``failures`` name them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor._assets import asset_folder
from qlora_doctor.engine import load_rules
from tests.faults.planting import check_here, found, healthy_config, told, write


@dataclass(frozen=True)
class Fault:
    """One planted fault: what is changed, and at which level which catalogue id must be told."""

    failure: str
    level: str
    sections: dict[str, Any]
    model: str = "llama"
    changes: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("config", "structure")
    rule: str | None = None
    """The very rule, where the fault has several forms."""

    def __str__(self) -> str:
        return f"{self.failure}-{self.model}" + (f"-{self.rule}" if self.rule else "")


def lora(**values: Any) -> dict[str, Any]:
    return {"lora": values}


def quantization(**values: Any) -> dict[str, Any]:
    return {"quantization": values}


def training(**values: Any) -> dict[str, Any]:
    return {"training": values}


LLAMA_NAMES = ["q_proj", "k_proj", "v_proj", "o_proj"]
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
FAULTS = [
    # config and environment
    Fault("compute-dtype-fp32-default", "warning", quantization(bnb_4bit_compute_dtype=None)),
    Fault("quant-type-fp4-default", "info", quantization(bnb_4bit_quant_type=None), rule="QD207"),
    Fault("quant-type-fp4-default", "info", quantization(bnb_4bit_use_double_quant=False), rule="QD208"),
    Fault("bf16-flag-on-unsupported-gpu", "warning", {"hardware": {"gpu": "t4"}}, rule="QD110"),
    Fault("lr-full-ft-value", "warning", training(learning_rate=1e-6)),
    Fault("lr-high-for-rank", "warning", training(learning_rate=5e-2)),
    Fault("alpha-rank-scaling", "info", lora(lora_alpha=1)),
    Fault(
        "target-parameters-dropout",
        "error",
        lora(target_modules=LLAMA_NAMES, target_parameters=["mlp.experts.gate_up_proj"], lora_dropout=0.1),
        model="mixtral",
        stages=("config",),
    ),
    Fault("init-loftq-on-4bit", "error", lora(init_lora_weights="loftq")),
    # base and 4-bit
    Fault("partial-or-no-4bit-silent", "error", {}, model="falcon", rule="QD202"),
    Fault("moe-experts-not-quantised", "warning", lora(target_modules=LLAMA_NAMES), model="olmoe", rule="QD205"),
    Fault(
        "skip-modules-clears-defaults", "warning", quantization(llm_int8_skip_modules=["layers.0.mlp"]), rule="QD211"
    ),
    Fault("skip-modules-name-mismatch", "warning", quantization(llm_int8_skip_modules=["lm_head", "classifier"])),
    # adapter and targets
    Fault("lora-target-none-found", "error", lora(target_modules=["query", "value"])),
    Fault(
        "lora-target-fused-qkv",
        "error",
        lora(target_modules=["q_proj", "k_proj", "v_proj"]),
        model="phi3",
        rule="QD302",
    ),
    Fault("lora-target-fused-qkv", "warning", lora(target_modules=LLAMA_NAMES), model="phi3", rule="QD305"),
    Fault("lora-target-empty-list", "error", lora(target_modules=[])),
    Fault("lora-partial-match-silent", "warning", lora(target_modules=[*LLAMA_NAMES, "fc_in"]), rule="QD304"),
    Fault(
        "lora-low-layer-coverage",
        "warning",
        lora(target_modules=r".*layers\.0\..*(q_proj|v_proj)"),
        changes={"num_hidden_layers": 8},
    ),
    Fault("target-module-unsupported-class", "error", lora(target_modules=["q_proj", "input_layernorm"])),
    Fault("mamba-fused-kernel-bypass", "error", lora(target_modules=["out_proj"]), model="mamba", rule="QD313"),
    Fault("tied-embeddings-adapted", "warning", lora(modules_to_save=["lm_head"]), model="qwen2"),
    Fault(
        "modules-to-save-in-targets",
        "warning",
        lora(target_modules=[*LLAMA_NAMES, "lm_head"], modules_to_save=["lm_head"]),
        rule="QD318",
    ),
    Fault("task-type-mismatch", "warning", lora(task_type="SEQ_CLS")),
    Fault("init-pissa-olora-on-4bit", "error", lora(init_lora_weights="pissa"), rule="QD335"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_planted_fault_is_told_alone(
    fault: Fault, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = healthy_config(model_folder(fault.model, **fault.changes), **fault.sections)
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=fault.stages)
    expected = _expected(fault)
    told_rules = found(report, fault.level)
    assert told_rules and told_rules <= expected, told(report)


def _expected(fault: Fault) -> set[str]:
    if fault.rule is not None:
        return {fault.rule}
    rules = load_rules(asset_folder("rules"))
    return {rule.id for rule in rules if fault.failure in rule.failures and rule.severity == fault.level}


def test_checkpoint_that_is_quantized_already_wins(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_compute_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    path = write(tmp_path / "config.json", healthy_config(folder))
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert found(report, "warning") == {"QD209"}, told(report)
