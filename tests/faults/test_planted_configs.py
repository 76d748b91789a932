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

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.engine import load_rules
from tests.faults.planting import check_here, found, healthy_config, told, write
from tests.models import make_data


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
HEAD = [*LLAMA_NAMES, "lm_head"]
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
EIGHT_BIT = quantization(
    load_in_4bit=False,
    load_in_8bit=True,
    bnb_4bit_quant_type=None,
    bnb_4bit_use_double_quant=None,
    bnb_4bit_compute_dtype=None,
)
"""Takes a mixture's experts that stay out of 4-bit out of what is told."""
FP16 = {
    "model": {"dtype": "float16"},
    **quantization(bnb_4bit_compute_dtype="float16"),
    **training(bf16=None, fp16=True, prepare_for_kbit_training=False),
}
PLAIN_CHECKPOINTING = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
TWO_CARDS = {"hardware": {"count": 2}} | training(**PLAIN_CHECKPOINTING)
ZERO3 = training(deepspeed={"zero_optimization": {"stage": 3}})


def fsdp(version: int, storage: str | None = "bfloat16", **values: Any) -> dict[str, Any]:
    """A sharded run in which all is bfloat16, as FSDP wants it."""
    sharded = {"fsdp": "full_shard", "fsdp_config": {"version": version}, "prepare_for_kbit_training": False}
    return {
        "model": {"dtype": "bfloat16"},
        **quantization(bnb_4bit_quant_storage=storage),
        **training(**(sharded | values)),
    }


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
    # what the libraries refuse or pass by
    Fault("load-in-4bit-kwarg-removed", "error", {"model": {"load_in_4bit": True}, "quantization": None}),
    Fault("load-in-4bit-and-quant-config", "error", {"model": {"load_in_4bit": True}}),
    Fault("qlora-flag-contradiction", "error", quantization(load_in_8bit=True), rule="QD126"),
    Fault("liger-lm-head-adapter-ignored", "error", lora(target_modules=HEAD) | training(use_liger_kernel=True)),
    Fault("liger-lm-head-adapter-ignored", "error", lora(target_modules=HEAD) | training(trainer="trl")),
    Fault("conflicting-freeze-controls", "error", lora(layers_to_transform=[0]), rule="QD342"),
    Fault(
        "conflicting-freeze-controls",
        "info",
        lora(layers_to_transform=[0, 1], target_modules=LLAMA_NAMES, bias="all"),
        stages=("config",),
        rule="QD343",
    ),
    Fault(
        "flash-attn-fp32-input",
        "error",
        {"model": {"attn_implementation": "flash_attention_2", "dtype": "float32"}} | training(bf16=False),
        stages=("config",),
        rule="QD134",
    ),
    Fault(
        "packing-no-varlen-attention",
        "warning",
        training(trainer="trl", packing=True, packing_strategy="wrapped"),
        rule="QD613",
    ),
    Fault("packing-no-varlen-attention", "info", training(trainer="trl", packing=True), rule="QD614"),
    Fault("idle-options", "info", lora(eva_config={"rho": 2.0}), stages=("config",), rule="QD347"),
    Fault("padding-free-no-fa-high-loss", "info", training(trainer="trl", padding_free=True), rule="QD614"),
    *(
        Fault(
            "completion-mask-dropped",
            "warning",
            training(trainer="trl", completion_only_loss=True) | {"data": {"train": "t.jsonl", "format": kind}},
        )
        for kind in ("text", "messages")
    ),
    # distribution, which a file shows
    *(
        Fault(failure, level, sections, stages=("config",), rule=rule)
        for failure, level, rule, sections in (
            ("ddp-ready-twice", "error", "QD801", {"hardware": {"count": 2}}),
            ("ddp-ready-twice", "error", "QD801", training(**REENTRANT, ddp_find_unused_parameters=True)),
            (
                "device-map-auto-with-ddp",
                "error",
                "QD802",
                {"model": {"device_map": "auto"}, "hardware": {"count": 2}}
                | training(ddp_find_unused_parameters=False),
            ),
            ("device-map-auto-with-ddp", "warning", "QD803", {"model": {"device_map": "auto"}} | TWO_CARDS),
            ("zero3-device-map", "error", "QD804", {"model": {"device_map": "auto"}} | ZERO3),
            ("fsdp-int-storage", "error", "QD805", fsdp(1, storage=None)),
            ("fsdp-int-storage", "warning", "QD806", fsdp(2, storage=None)),
            ("fsdp-mixed-dtypes", "error", "QD807", fsdp(1, prepare_for_kbit_training=None)),
            ("fsdp-mixed-dtypes", "error", "QD807", fsdp(1) | {"model": {"dtype": "float16"}}),
            ("zero3-4bit-memory-up", "warning", "QD808", ZERO3),
            ("paged-or-8bit-optim-unsupported", "error", "QD809", fsdp(2, optim="paged_adamw_8bit")),
        )
    ),
    # base and 4-bit
    Fault("partial-or-no-4bit-silent", "error", {}, model="falcon", rule="QD202"),
    Fault("moe-experts-not-quantised", "warning", lora(target_modules=LLAMA_NAMES), model="olmoe", rule="QD205"),
    Fault(
        "moe-experts-not-quantised",
        "warning",
        lora(target_modules=LLAMA_NAMES) | training(prepare_for_kbit_training=False),
        model="qwen3_moe",
        rule="QD204",
    ),
    Fault("kbit-prep-fp32-upcast", "info", {"model": "meta-llama/Llama-3.1-8B"}, rule="QD206"),
    Fault("partial-or-no-4bit-silent", "error", quantization(llm_int8_skip_modules=["lm_head", "proj"]), rule="QD202"),
    Fault("skip-substring-overmatch", "warning", quantization(llm_int8_skip_modules=["lm_head", "d"])),
    Fault(
        "skip-modules-clears-defaults",
        "error",
        quantization(llm_int8_skip_modules=["layers.0.mlp"]),
        model="qwen2",
        rule="QD212",
    ),
    Fault(
        "cls-head-quantised",
        "error",
        {"model": {"task": "sequence-classification"}}
        | lora(task_type="SEQ_CLS")
        | quantization(llm_int8_skip_modules=["lm_head"]),
    ),
    Fault("packed-numel-misread", "info", {"budgets": {"trainable_ratio": 0.12}}),
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
    Fault("moe-experts-no-lora", "warning", lora(target_modules=[*LLAMA_NAMES, "expert_proj"]) | EIGHT_BIT, "mixtral"),
    Fault("moe-experts-no-lora", "info", lora(target_modules=LLAMA_NAMES) | EIGHT_BIT, "mixtral", rule="QD311"),
    Fault(
        "moe-shared-expert-only",
        "warning",
        lora(target_modules=["gate_proj", "up_proj", "down_proj"]) | EIGHT_BIT,
        "qwen2_moe",
    ),
    Fault("embeddings-fully-trained", "warning", lora(modules_to_save=["embed_tokens", "lm_head"])),
    Fault("random-head-not-trained", "error", {"model": {"task": "sequence-classification"}} | lora(task_type=None)),
    Fault("task-type-mismatch", "error", {"model": {"task": "sequence-classification"}}, rule="QD339"),
    Fault("conv1d-layers", "info", quantization(llm_int8_skip_modules=["lm_head", "attn"]), "gpt2"),
    Fault(
        "fp16-model-plus-fp16-amp",
        "error",
        FP16 | lora(target_modules=["q_proj", "lm_head"], autocast_adapter_dtype=False),
        rule="QD114",
    ),
    Fault("modules-to-save-fp16-unscale", "error", FP16 | lora(modules_to_save=["lm_head"])),
    Fault(
        "mamba-fused-kernel-bypass",
        "error",
        lora(target_modules=["out_proj"]) | quantization(llm_int8_skip_modules=["lm_head", "dt_proj"]),
        model="mamba",
        rule="QD313",
    ),
    Fault("tied-embeddings-adapted", "warning", lora(modules_to_save=["lm_head"]), model="qwen2"),
    Fault(
        "modules-to-save-in-targets",
        "warning",
        lora(target_modules=[*LLAMA_NAMES, "lm_head"], modules_to_save=["lm_head"]),
        rule="QD318",
    ),
    Fault("task-type-mismatch", "warning", {"model": {"task": "causal-lm"}, **lora(task_type="SEQ_CLS")}),
    Fault("init-pissa-olora-on-4bit", "error", lora(init_lora_weights="pissa"), rule="QD335"),
]


@pytest.mark.parametrize("sections", [TWO_CARDS, fsdp(1), fsdp(2)], ids=["ddp", "fsdp1", "fsdp2"])
def test_sound_distribution_is_silent(
    sections: dict[str, Any], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"model": {"name_or_path": str(tiny_llama), **sections.get("model", {})}}
    config = healthy_config(tiny_llama, **{**sections, **model})
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config",))
    assert not found(report, "warning"), told(report)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_planted_fault_is_told_alone(
    fault: Fault, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = dict(fault.sections)
    folder = model_folder(fault.model, **fault.changes)
    if isinstance(sections.get("model"), dict):
        sections["model"] = {"name_or_path": str(folder), **sections["model"]}
    config = healthy_config(folder, **sections)
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=fault.stages)
    expected = _expected(fault)
    told_rules = found(report, fault.level)
    assert told_rules and told_rules <= expected, told(report)


def _expected(fault: Fault) -> set[str]:
    if fault.rule is not None:
        return {fault.rule}
    rules = load_rules(asset_folder("rules"))
    return {rule.id for rule in rules if fault.failure in rule.failures and rule.severity == fault.level}


@pytest.mark.parametrize(
    ("trl", "transformers", "sections", "rule"),
    [
        ("0.19.0", "4.53.0", {"packing": True, "completion_only_loss": True}, "QD615"),
        ("0.17.0", "4.51.0", {"padding_free": True}, "QD613"),
        ("0.24.0", "4.51.0", {"packing": True}, "QD613"),
        ("0.24.0", "4.53.0", {"packing": True}, None),
        ("0.17.0", "4.51.0", {"packing": True, "completion_only_loss": False}, "QD613"),
    ],
)
def test_packing_by_version(
    trl: str,
    transformers: str,
    sections: dict[str, Any],
    rule: str | None,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """padding-free-no-fa-high-loss, packing-no-varlen-attention, completion-mask-dropped: in versions that had them."""
    from qlora_doctor.probes import environment

    installed = environment.installed_packages()
    older = installed.model_copy(update={"trl": trl, "transformers": transformers})
    monkeypatch.setattr(environment, "installed_packages", lambda: older)
    model = {"name_or_path": str(tiny_llama), "attn_implementation": "flash_attention_2" if rule == "QD615" else "sdpa"}
    config = healthy_config(tiny_llama, model=model, **training(trainer="trl", **sections))
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config",))
    assert found(report, "warning") == ({rule} if rule else set()), told(report)


@pytest.mark.parametrize(("installed", "level", "rule"), [("0.13.2", "error", "QD132"), ("0.19.1", "warning", "QD133")])
def test_adapter_of_a_newer_peft(
    installed: str, level: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft-version-config-keys: an older PEFT stops at the key, a newer one drops it; one that has it says nothing."""
    from qlora_doctor.probes import environment

    versions = environment.installed_packages()
    stored = {"peft_type": "LORA", "base_model_name_or_path": "my/model", "r": 8, "lora_alpha": 16, "eva_config": None}
    path = write(tmp_path / "adapter_config.json", stored | {"target_modules": ["q_proj"], "kasa_config": {"a": 1}})
    assert not found(check_here(path, monkeypatch, stages=("config",)), "warning")
    older = versions.model_copy(update={"peft": installed})
    monkeypatch.setattr(environment, "installed_packages", lambda: older)
    report = check_here(path, monkeypatch, stages=("config",))
    assert found(report, level) == {rule}, told(report)


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"model": {"load_in_4bit": True}}, "QD239"),
        (lora(target_modules=HEAD) | training(trainer="trl"), "QD341"),
        (lora(layers_to_transform=[0]), "QD342"),
        (quantization(load_in_8bit=True), "QD126"),
        (training(fp16=True), "QD125"),
        ({"hardware": {"count": 2}}, "QD801"),
    ],
)
def test_what_config_tells_no_later_stage_tells_again(
    sections: dict[str, Any], rule: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {**sections, "model": {"name_or_path": str(tiny_llama), **sections.get("model", {})}}
    report = check_here(write(tmp_path / "config.json", healthy_config(tiny_llama, **sections)), monkeypatch)
    assert found(report, "warning") == {rule}, told(report)


def test_adapter_folder_as_the_base(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """double-peft-wrap: from_pretrained puts the adapter in, and get_peft_model starts it anew."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(tiny_llama), "r": 8})
    report = check_here(write(tmp_path / "config.json", healthy_config(folder)), monkeypatch, stages=("config",))
    assert found(report, "warning") == {"QD240"}, told(report)


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


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_checkpoint_that_is_quantized_another_way(
    method: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """already-quantised-checkpoint-wins, in the form that raises."""
    folder = _with(tiny_llama, tmp_path, quantization_config={"quant_method": method, "bits": 4, "group_size": 128})
    path = write(tmp_path / "config.json", healthy_config(folder))
    report = check_here(path, monkeypatch)
    assert found(report, "warning") == {"QD210"}, told(report)


def test_method_that_transformers_does_not_know_is_ignored(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _with(tiny_llama, tmp_path, quantization_config={"quant_method": "florb"})
    report = check_here(write(tmp_path / "config.json", healthy_config(folder)), monkeypatch)
    assert not found(report, "warning"), told(report)


@pytest.mark.parametrize(
    ("method", "rules"), [("gptq", {"QD354"}), ("awq", {"QD354"}), ("bitsandbytes", set()), ("mxfp4", set())]
)
def test_dora_on_a_checkpoint_of_another_method(
    method: str, rules: set[str], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"quant_method": method, "bits": 4, "group_size": 128, "load_in_4bit": True}
    folder = _with(tiny_llama, tmp_path, quantization_config=stored)
    config = healthy_config(folder, quantization=None, **lora(use_dora=True))
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config", "structure"))
    assert found(report, "error") & {"QD354"} == rules, told(report)


@pytest.mark.parametrize(("method", "rules"), [("gptq", {"QD814"}), ("bitsandbytes", {"QD814"}), ("fp8", set())])
def test_a_stored_quantization_under_zero3(
    method: str, rules: set[str], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLaMA-Factory shards no checkpoint that is quantized already."""
    stored = {"quant_method": method, "bits": 4, "group_size": 128, "load_in_4bit": True}
    folder = _with(tiny_llama, tmp_path, quantization_config=stored)
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    (tmp_path / "config.yaml").write_text(
        f"model_name_or_path: {folder}\nstage: sft\ndo_train: true\nfinetuning_type: lora\ndataset: mine\n"
        f"template: llama3\nbf16: true\ndeepspeed: {tmp_path / 'zero3.json'}\n"
    )
    report = check_here(tmp_path / "config.yaml", monkeypatch, stages=("config", "structure"))
    assert found(report, "error") & {"QD814"} == rules, told(report)


def test_packages_that_are_asked_for(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, where the run likely takes place; one without says nothing of them."""
    from qlora_doctor.facts.environment import Gpu
    from qlora_doctor.probes import environment

    asks = {"name_or_path": str(tiny_llama), "attn_implementation": "flash_attention_2"}
    path = write(tmp_path / "config.json", healthy_config(tiny_llama, model=asks))
    assert not found(check_here(path, monkeypatch, stages=("config",)), "warning")
    gpu = Gpu(index=0, name="NVIDIA H200", memory_bytes=2**37, capability=9.0)
    monkeypatch.setattr(environment, "_gpus", lambda: ([gpu], "580.82.07", None))
    monkeypatch.setattr(environment, "_native_library", lambda *seen: (True, False))
    monkeypatch.setattr(environment, "_torch_cuda", lambda: "13.0")
    report = check_here(path, monkeypatch, stages=("config",))
    assert found(report, "warning") == {"QD116"}, told(report)
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    folder = _with(tiny_llama, tmp_path, quantization_config=stored)
    config = healthy_config(folder, quantization={"backend": "gptq", **dict.fromkeys(BNB)})
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config", "structure"))
    assert found(report, "warning") >= {"QD243"}, told(report)


BNB = ("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")


def _with(model: Path, tmp_path: Path, **values: Any) -> Path:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("trainable", [False, True])
def test_adapter_that_is_continued(
    trainable: bool, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """adapter-loaded-frozen: from_pretrained without is_trainable; with it, nothing is wrong."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), settings).save_pretrained(tmp_path / "adapter")
    model = {"name_or_path": str(tiny_llama), "adapter": str(tmp_path / "adapter"), "adapter_is_trainable": trainable}
    report = check_here(write(tmp_path / "config.json", healthy_config(tiny_llama, model=model)), monkeypatch)
    assert found(report, "warning") == (set() if trainable else {"QD323"}), told(report)


def test_overflow_in_float16(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """loss-nan-or-zero-fp16: activations that bfloat16 holds and float16 does not."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            tensors[name] = tensor * 3000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sections = {**FP16, **training(bf16=False, prepare_for_kbit_training=False)}
    sections["model"] = {"name_or_path": str(folder), "dtype": "float16"}
    report = check_here(write(tmp_path / "config.json", healthy_config(folder, **sections)), monkeypatch)
    assert found(report, "warning") == {"QD408"}, told(report)


@pytest.mark.parametrize(("stages", "rule"), [(None, "QD607"), (("config", "structure", "load", "step"), "QD420")])
@pytest.mark.parametrize("trainer", ["transformers", "trl"])
def test_tokens_added_without_resizing(
    trainer: str, stages: Any, rule: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """token-id-out-of-range: told by the data where it is looked at, else by the step that it ends."""
    from transformers import AutoTokenizer

    pytest.importorskip("datasets")
    pytest.importorskip(trainer)
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"extra{n}" for n in range(512 - len(tokenizer))] + ["rank", "adapter", "gradient", "weight"])
    tokenizer.save_pretrained(folder)
    make_data(tmp_path / "train.jsonl", "text")
    config = healthy_config(
        folder, data={"train": "train.jsonl", "format": "text"}, training={"trainer": trainer, "max_length": 64}
    )
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=stages)
    assert found(report, "error") == {rule}, told(report)


@pytest.mark.parametrize(
    ("built_for", "libraries", "rule"), [("cpu", ["cuda128"], "QD109"), ("12.8", ["cuda118", "cuda130"], "QD108")]
)
def test_packages_that_cannot_use_the_gpu(
    built_for: str, libraries: list[str], rule: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bnb-no-gpu-binary: a GPU is there; torch, or the library that bitsandbytes brings, is for another machine."""
    from qlora_doctor.facts.environment import Gpu
    from qlora_doctor.probes import environment

    monkeypatch.delenv("BNB_CUDA_VERSION", raising=False)
    card = Gpu(index=0, name="NVIDIA L4", memory_bytes=24 << 30, capability=8.9, driver="570.0")
    monkeypatch.setattr(environment, "_gpus", lambda: ([card], "570.0", "12.8"))
    monkeypatch.setattr(environment, "_torch_cuda", lambda: built_for)
    monkeypatch.setattr(environment, "_bitsandbytes_backends", lambda: libraries)
    report = check_here(
        write(tmp_path / "config.json", healthy_config(tiny_llama)), monkeypatch, stages=("config", "structure")
    )
    assert found(report, "warning") == {rule}, told(report)


def test_answers_that_trl_cuts_off_are_told_by_their_labels(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl drops such samples and so keeps none; what is wrong are the labels, not the file."""
    pytest.importorskip("trl")
    make_data(tmp_path / "train.jsonl", "prompt-completion")
    config = healthy_config(
        tiny_llama,
        data={"train": "train.jsonl", "format": "prompt-completion"},
        training={"trainer": "trl", "max_length": 2},
    )
    path = write(tmp_path / "config.json", config)
    report = check_here(path, monkeypatch, stages=("config", "data"))
    assert found(report, "error") == {"QD605"}, told(report)
