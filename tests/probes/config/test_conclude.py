"""What a config means where it is silent, by the versions that are installed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts.config import ConfigFacts
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading.native import setup_from_mapping
from qlora_doctor.setup.setup import Origin, Setup
from qlora_doctor.tables.conditions import is_so


def environment(gpus: list[Gpu] | None = None, **versions: str) -> EnvironmentFacts:
    packages = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0", **versions}
    return EnvironmentFacts(
        tool_version="0", python="3.11", platform="Linux", packages=Packages(**packages), gpus=gpus or []
    )


def facts(config: dict[str, Any] | None = None, gpus: list[Gpu] | None = None, **versions: str) -> ConfigFacts:
    setup = setup_from_mapping({"model": "meta-llama/Llama-2-7b-hf", **(config or {})})
    return conclude(setup, environment(gpus, **versions))


def test_a_silent_config_stands_for_the_libraries_defaults() -> None:
    found = facts()
    expected = {
        "four_bit": True,
        "eight_bit": False,
        "quant_type": "fp4",
        "double_quant": False,
        "compute_dtype": "float32",
        "storage_dtype": "uint8",
        "skip_modules": [],
        "lora_r": 8,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "target_modules": None,
        "modules_to_save": [],
        "bias": "none",
        "task_type": None,
        "init_lora_weights": "true",
        "scaling": 1.0,
        "trainer": "transformers",
        "prepare_for_kbit_training": True,
        "learning_rate": 5e-5,
        "optimizer": "adamw_torch_fused",
        "batch": 8,
        "gradient_accumulation": 1,
        "sequence": None,
        "sequence_is_default": False,
        "bf16": False,
        "fp16": False,
        "gradient_checkpointing": True,  # by prepare_model_for_kbit_training itself
        "use_reentrant": True,  # torch's default, which its empty arguments leave standing
        "use_cache": False,
        "max_grad_norm": 1.0,
        "model_dtype": "auto",
        "model_kind": "table",
        "distributed": "none",
        "evaluates": False,
        "unknown_keys": [],
    }
    assert {name: getattr(found, name) for name in expected} == expected


def test_defaults_agree_with_the_installed_libraries() -> None:
    """The table of defaults against the classes themselves, whatever versions are installed."""
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    trl = pytest.importorskip("trl")
    torch = pytest.importorskip("torch")
    installed = {m.__name__: m.__version__ for m in (transformers, peft, trl, torch)}
    for trainer, arguments in (("transformers", transformers.TrainingArguments), ("trl", trl.SFTConfig)):
        found = facts({"training": {"trainer": trainer, "prepare_for_kbit_training": False}}, **installed)
        defaults = {field.name: field.default for field in dataclasses.fields(arguments)}
        assert found.learning_rate == defaults["learning_rate"]
        assert found.optimizer == defaults["optim"]
        assert found.batch == defaults["per_device_train_batch_size"]
        assert found.max_grad_norm == defaults["max_grad_norm"]
        assert found.gradient_checkpointing == bool(defaults["gradient_checkpointing"])
        assert found.sequence == defaults.get("max_length")
        assert found.fp16 == defaults["fp16"]
        assert found.bf16 == (defaults["bf16"] if trainer == "transformers" else True)
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    found = facts(**installed)
    assert found.quant_type == config.bnb_4bit_quant_type
    assert found.double_quant == config.bnb_4bit_use_double_quant
    assert f"torch.{found.compute_dtype}" == str(config.bnb_4bit_compute_dtype)
    assert f"torch.{found.storage_dtype}" == str(config.bnb_4bit_quant_storage)
    lora = peft.LoraConfig()
    assert (found.lora_r, found.lora_alpha, found.lora_dropout) == (lora.r, lora.lora_alpha, lora.lora_dropout)
    assert (found.bias, found.use_rslora, found.use_dora) == (lora.bias, lora.use_rslora, lora.use_dora)


@pytest.mark.parametrize(
    ("training", "versions", "checkpointing", "reentrant"),
    [
        ({"gradient_checkpointing": True}, {}, True, False),
        ({"gradient_checkpointing": True}, {"transformers": "4.57.1"}, True, True),
        ({"gradient_checkpointing": False}, {}, False, None),
        ({"prepare_for_kbit_training": False}, {}, False, None),
        ({"trainer": "trl"}, {}, True, False),
        ({"trainer": "trl"}, {"trl": "0.20.0"}, True, True),
        ({"trainer": "trl", "prepare_for_kbit_training": False}, {"trl": "0.20.0"}, False, None),
        ({"trainer": "trl"}, {"trl": "0.27.0", "transformers": "4.57.1"}, True, True),
        ({"trainer": "trl"}, {"trl": "0.28.0", "transformers": "4.57.1"}, True, False),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            {},
            True,
            True,
        ),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"preserve_rng_state": False}},
            {},
            True,
            True,
        ),
    ],
)
def test_checkpointing(
    training: dict[str, Any], versions: dict[str, str], checkpointing: bool, reentrant: bool | None
) -> None:
    found = facts({"training": training}, **versions)
    assert (found.gradient_checkpointing, found.use_reentrant) == (checkpointing, reentrant)


def test_trl() -> None:
    found = facts({"training": {"trainer": "trl", "fp16": True}})
    assert (found.learning_rate, found.sequence, found.sequence_is_default) == (2e-5, 1024, True)
    assert (found.bf16, found.method) == (False, "sft")
    assert facts({"training": {"trainer": "trl"}}).bf16 is True
    assert facts({"training": {"trainer": "trl"}}, trl="0.18.0").bf16 is False
    assert facts({"training": {"trainer": "trl", "max_length": None}}).sequence is None
    assert facts({"training": {"trainer": "trl", "max_length": 512}}).sequence_is_default is False


def test_versions() -> None:
    assert facts(transformers="4.57.1").use_cache is None
    assert facts(transformers="4.57.1").model_dtype == "float16"
    assert facts(transformers="4.57.1", torch="2.7.0").optimizer == "adamw_torch"
    assert facts(transformers="4.53.0").optimizer == "adamw_torch"


def test_nothing_is_assumed_of_what_is_not_installed() -> None:
    setup = setup_from_mapping({"model": "x/y", "training": {"trainer": "trl", "prepare_for_kbit_training": False}})
    found = conclude(setup, None)
    for name in ("optimizer", "use_cache", "model_dtype", "bf16", "gradient_checkpointing", "gpu"):
        assert getattr(found, name) is None, name
    assert found.learning_rate == 2e-5 and found.quant_type == "fp4"


def test_what_is_unknown_stays_unknown() -> None:
    setup = setup_from_mapping({"model": "x/y"})
    paths = (
        "quantization.load_in_4bit",
        "lora.r",
        "training.fp16",
        "training.gradient_checkpointing",
        "training.optim",
    )
    unknown = {path: Origin(source="unknown", note="a script decides") for path in paths}
    setup = Setup(**{**dict(setup), "origins": unknown, "dialect": "homemade"})
    found = conclude(setup, environment())
    for name in ("four_bit", "lora_r", "scaling", "fp16", "gradient_checkpointing", "optimizer"):
        assert getattr(found, name) is None, name
    assert found.lora_alpha == 8 and found.quant_type == "fp4"


def test_only_the_native_dialect_is_silent_for_4bit() -> None:
    setup = setup_from_mapping({"model": "x/y"}).model_copy(update={"dialect": "other"})
    assert conclude(setup, environment()).four_bit is False
    assert facts({"quantization": {"load_in_8bit": True}}).four_bit is False
    assert facts({"quantization": {"backend": "hqq"}}).four_bit is False


def test_lora() -> None:
    lora = {
        "r": 16,
        "lora_alpha": 64,
        "use_rslora": True,
        "target_modules": "all-linear",
        "modules_to_save": ["lm_head"],
    }
    found = facts({"lora": lora})
    assert (found.scaling, found.alpha_over_r) == (16.0, 4.0)
    assert found.target_modules == ["all-linear"] and found.targets_also_saved == []
    found = facts({"lora": {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]}})
    assert found.targets_also_saved == ["lm_head"]
    assert facts({"lora": {"modules_to_save": ["lm_head"]}}).targets_also_saved is None
    assert facts({"lora": {"target_modules": []}}).target_modules == []
    assert facts({"lora": {"init_lora_weights": "pissa", "layers_to_transform": 3}}).init_lora_weights == "pissa"
    assert facts({"lora": {"alpha_pattern": {"q": 4}}}).pattern_ranks is True


def test_cards() -> None:
    named = facts({"hardware": {"gpu": "rtx-4090"}})
    assert (named.gpu, named.gpu_source, named.gpu_capability, named.gpu_bf16) == ("RTX 4090", "named", 8.9, True)
    assert named.gpu_memory_bytes is not None and 23e9 < named.gpu_memory_bytes < 26e9
    turing = facts({"hardware": {"gpu": "T4"}})
    assert (turing.gpu_capability, turing.gpu_bf16) == (7.5, False)
    sized = facts({"hardware": {"memory": "24GiB"}})
    assert (sized.gpu, sized.gpu_memory_bytes, sized.gpu_bf16) == (None, 24 * 2**30, None)
    here = Gpu(index=0, name="A card that nobody knows", memory_bytes=10 * 2**30, capability=7.0)
    present = facts(gpus=[here])
    assert (present.gpu_source, present.gpu_memory_bytes, present.gpu_bf16) == ("present", 10 * 2**30, False)
    assert facts({"hardware": {"gpu": "T4"}}, gpus=[here]).gpu == turing.gpu


@pytest.mark.parametrize(
    ("config", "distributed", "world"),
    [
        ({"hardware": {"count": 4}}, "ddp", 4),
        ({"training": {"fsdp": "full_shard", "fsdp_config": {"version": 2}}}, "fsdp2", 1),
        ({"training": {"fsdp": ["full_shard"]}}, "fsdp2", 1),
        ({"training": {"deepspeed": {"zero_optimization": {"stage": 3}}}, "hardware": {"count": 2}}, "zero3", 2),
        ({"training": {"deepspeed": "no/such/file.json"}}, None, 1),
    ],
)
def test_distribution(config: dict[str, Any], distributed: str | None, world: int) -> None:
    found = facts(config)
    assert (found.distributed, found.world_size) == (distributed, world)


def test_a_deepspeed_file_beside_the_config(tmp_path: Path) -> None:
    from qlora_doctor.reading import read_setup

    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    (tmp_path / "c.yaml").write_text("model: x/y\ntraining: {deepspeed: ds.json}\n")
    assert conclude(read_setup(tmp_path / "c.yaml"), environment()).distributed == "zero2"


def test_kinds_of_models(tmp_path: Path) -> None:
    from qlora_doctor.reading import read_setup

    for folder, file in (("base", "config.json"), ("adapter", "adapter_config.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")

    def kind(model: str) -> str | None:
        (tmp_path / "c.yaml").write_text(json.dumps({"model": model, "lora": {"r": 8}}))
        return conclude(read_setup(tmp_path / "c.yaml"), environment()).model_kind

    assert kind("base") == kind("./base") == kind(str(tmp_path / "base")) == "folder"
    assert kind("adapter") == "adapter"
    assert kind("./gone") == kind("/gone") == kind("a/b/c") == "missing"
    assert kind("some-team/some-model") == "hub"


@pytest.mark.parametrize(
    ("config", "versions", "missing"),
    [
        ({"model": {"name_or_path": "a/b", "attn_implementation": "flash_attention_2"}}, {}, ["flash_attn"]),
        ({"model": {"name_or_path": "a/b", "attn_implementation": "flash_attention_2"}}, {"kernels": "0.11"}, []),
        ({"model": {"name_or_path": "a/b", "attn_implementation": "sdpa"}}, {}, []),
        ({"training": {"use_liger_kernel": True}}, {}, ["liger_kernel"]),
        ({"training": {"use_liger_kernel": True}}, {"liger_kernel": "0.6"}, []),
        ({"training": {"optim": "adamw_torch_8bit"}}, {}, ["torchao"]),
        ({"training": {"deepspeed": {"zero_optimization": {"stage": 2}}}}, {}, ["deepspeed"]),
        ({"quantization": {"backend": "gptq"}}, {}, ["gptqmodel", "optimum"]),
        ({"quantization": {"backend": "gptq"}}, {"transformers": "4.57.0"}, ["optimum"]),
        ({"quantization": {"backend": "awq"}}, {"transformers": "4.57.0"}, ["autoawq"]),
        ({"quantization": {"backend": "hqq"}}, {"hqq": "0.2"}, []),
    ],
)
def test_packages_that_options_need(config: dict[str, Any], versions: dict[str, str], missing: list[str]) -> None:
    found = facts(config, **versions).missing_packages
    assert found is not None and [package.name for package in found] == missing
    assert conclude(setup_from_mapping({"model": "a/b", **config}), None).missing_packages is None


def test_another_backend_has_no_defaults_of_bitsandbytes() -> None:
    concluded = facts({"quantization": {"backend": "hqq", "load_in_4bit": True}})
    assert concluded.four_bit and concluded.quant_type is concluded.compute_dtype is concluded.double_quant is None


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("torch < 2.14", True),
        ("torch < 2.13", False),
        ("torch < 2.6", False),
        ("bitsandbytes < 0.43", None),
        ("torch_npu", False),
        ("transformers", True),
        ("gpus < 2", None),
        ("capability < 8.0", None),
    ],
)
def test_conditions_on_the_machine(condition: str, expected: bool | None) -> None:
    assert is_so(condition, environment(), {}) is expected
    assert is_so(condition, None, {}) is None


def test_conditions_on_its_cards() -> None:
    gpu = Gpu(index=0, name="Tesla T4", memory_bytes=2**34, capability=7.5)
    assert is_so("gpus < 2", environment([gpu]), {}) is True
    assert is_so("gpus < 2", environment([gpu, gpu]), {}) is False
    assert is_so("capability < 8.0", None, {"gpu_capability": 7.5}) is True
    assert is_so("capability < 7.5", None, {"gpu_capability": 7.5}) is False


def test_budgets() -> None:
    found = facts(
        {"budgets": {"peak_memory": "20GiB", "trainable_ratio": {"min": 0.001, "max": 0.02}, "step_seconds": 3}}
    )
    assert found.budget_peak_memory_bytes == 20 * 2**30
    assert (found.budget_trainable_ratio_min, found.budget_trainable_ratio_max) == (0.001, 0.02)
    assert facts({"budgets": {"trainable_ratio": 0.05}}).budget_trainable_ratio_max == 0.05


@pytest.mark.parametrize(
    ("options", "unsynced"),
    [
        ({"version": 1, "cpu_ram_efficient_loading": True, "sync_module_states": False}, True),
        ({"fsdp_version": 1, "fsdp_cpu_ram_efficient_loading": "true", "fsdp_sync_module_states": "false"}, True),
        ({"version": 1, "cpu_ram_efficient_loading": True, "sync_module_states": True}, False),
        ({"version": 1, "cpu_ram_efficient_loading": True}, False),
        ({"version": 1, "sync_module_states": False}, False),
        ({"version": 2, "cpu_ram_efficient_loading": True, "sync_module_states": False}, False),
    ],
)
def test_fsdp_that_loads_on_one_rank_has_to_send(options: dict[str, Any], unsynced: bool) -> None:
    found = facts({"training": {"fsdp": "full_shard", "fsdp_config": options}})
    assert found.fsdp_loads_unsynced is unsynced
    assert facts().fsdp_loads_unsynced is False


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("google", False),
        ("llama3", False),
        ("qwen2.5-7b-instruct", False),
        ("gpt2", True),
        ("gpt2-medium", True),
        ("bert-base-uncased", True),
        ("distilbert-base-uncased", True),
        ("t5-small", True),
        ("my-team/qwen", True),
    ],
)
def test_a_model_without_an_owner_is_known_where_the_hub_has_it(model: str, known: bool) -> None:
    found = facts({"model": model}).undecided or []
    assert ("model.name_or_path" not in {each.path for each in found}) is known


@pytest.mark.parametrize(
    ("data", "strategy", "stops"),
    [
        ({"train": "a/rows"}, "steps", True),
        ({"train": "a/rows"}, "epoch", True),
        ({"train": "a/rows"}, "no", False),
        ({"train": "a/rows", "eval": "a/more"}, "steps", False),
        ({}, "steps", False),
    ],
)
def test_an_evaluation_needs_rows(data: dict[str, Any], strategy: str, stops: bool) -> None:
    refused = facts({"data": data, "training": {"eval_strategy": strategy}}).refused or []
    assert any(each.kind == "evaluation-without-data" for each in refused) is stops
