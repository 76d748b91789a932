"""Adapters that are continued on another base, or whose config and tensors do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.report import Report
from tests.faults import test_planted_files as planted_files
from tests.faults.planting import check_here, found, healthy_config, told, write

QV = ["q_proj", "v_proj"]


def continued(text: str, key: str) -> str:
    """A healthy file of a trainer that continues an adapter, to be filled in with ``model`` and ``adapter``."""
    first, _, rest = text.replace("{", "{{").replace("}", "}}").replace("my/model", "{model}").partition("\n")
    return f"{first}\n{key}: {{adapter}}\n{rest}"


AXOLOTL = continued(planted_files.AXOLOTL, "lora_model_dir")
# The tiny model has no tokens of Llama 3's template, which would be a finding of its own.
LLAMAFACTORY = continued(
    planted_files.LLAMAFACTORY.replace("template: llama3", "template: default"), "adapter_name_or_path"
)
SWIFT = continued(planted_files.SWIFT, "adapters")
SCRIPT = """\
import torch
from datasets import load_dataset
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments

bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                          bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("{model}", quantization_config=bits, dtype=torch.bfloat16)
model = prepare_model_for_kbit_training(model)
model = PeftModel.from_pretrained(model, "{adapter}", is_trainable=True)
data = load_dataset("json", data_files="rows.jsonl")["train"]
args = TrainingArguments(output_dir="out", bf16=True, learning_rate=2e-4)
Trainer(model=model, args=args, train_dataset=data).train()
"""
TEXTS = {
    "axolotl": (AXOLOTL, "yaml", "/lora_model_dir"),
    "llamafactory": (LLAMAFACTORY, "yaml", "/adapter_name_or_path"),
    "ms-swift": (SWIFT, "yaml", "/adapters"),
    "python": (SCRIPT, "py", None),
}
"""By dialect: a config that continues an adapter, how its file ends, and the key that names the adapter."""
LINES = {"axolotl": 2, "llamafactory": 2, "ms-swift": 2, "python": 10}

SaveAdapter = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> SaveAdapter:
    """``saved("llama", target_modules=[…])``: an adapter as PEFT saves it on that tiny model; copy before changing."""
    made: dict[str, Path] = {}

    def save(name: str, model: dict[str, Any] | None = None, **settings: Any) -> Path:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        key = json.dumps([name, model, settings], sort_keys=True)
        if key not in made:
            base = AutoModelForCausalLM.from_pretrained(model_folder(name, **(model or {})))
            said = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
            made[key] = tmp_path_factory.mktemp("adapter")
            get_peft_model(base, LoraConfig(**said)).save_pretrained(made[key])
        return made[key]

    return save


def edited(adapter: Path, folder: Path, **values: Any) -> Path:
    """A copy of an adapter with some values of its config changed."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | values
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def continued(model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Report:
    """A healthy native setup on a model, with the adapter to continue."""
    section = {"name_or_path": str(model), "adapter": str(adapter), "adapter_is_trainable": True}
    path = write(tmp_path / "config.json", healthy_config(model, model=section))
    return check_here(path, monkeypatch, **({"stages": ("config", "structure")} | options))


def places(report: Report) -> dict[str, str | None]:
    return {finding.rule: finding.location.pointer for finding in report.findings}


# -- another base


def test_the_same_base_is_silent(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = continued(tiny_llama, saved("llama"), tmp_path, monkeypatch)
    assert not found(report, "info"), told(report)
    facts = report.facts.adapter
    assert facts is not None and facts.stored_tensors == 28
    assert facts.stored_misfits == facts.stored_unread == facts.stored_missing == []


def test_other_weights_of_the_same_shapes(
    saved: SaveAdapter, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an instruct version is to its base: every shape fits, and no library says a word."""
    report = continued(model_folder("llama", seed=3), saved("llama"), tmp_path, monkeypatch)
    assert found(report, "info") == {"QD352"}, told(report)
    assert places(report) == {"QD352": "/model/adapter"}


@pytest.mark.parametrize(
    ("trained_on", "loads", "rules"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", {"QD352"}),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B", set()),
        ("/data/models/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", set()),
        ("/home/bob/base", "meta-llama/Llama-3.1-8B", set()),
        (None, "meta-llama/Llama-3.1-8B", set()),
    ],
)
def test_bases_of_the_hub(
    trained_on: str | None,
    loads: str,
    rules: set[str],
    saved: SaveAdapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = edited(saved("llama"), tmp_path / "adapter", base_model_name_or_path=trained_on)
    report = continued(Path(loads), adapter, tmp_path, monkeypatch, stages=("config",))
    assert found(report, "info") == rules, told(report)
    outcome = next(outcome for outcome in report.rules if outcome.rule == "QD352")
    assert outcome.status == ("fail" if rules else "skipped" if trained_on in (None, "/home/bob/base") else "pass")


def test_another_revision_of_the_base(saved: SaveAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "EleutherAI/pythia-70m"
    adapter = edited(saved("llama"), tmp_path / "adapter", base_model_name_or_path=name, revision="step3000")
    section = {"name_or_path": name, "revision": "step143000", "adapter": str(adapter), "adapter_is_trainable": True}
    config = healthy_config(Path(name), model=section)
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config",))
    assert found(report, "info") == {"QD352"}, told(report)
    config["model"]["revision"] = "step3000"
    report = check_here(write(tmp_path / "config.json", config), monkeypatch, stages=("config",))
    assert not found(report, "info"), told(report)


# -- tensors that do not fit


@pytest.mark.parametrize(
    ("name", "changes", "error"),
    [("llama", {"hidden_size": 128}, "8 × 64 in the file"), ("gpt2", {}, "not found in the base model")],
)
def test_a_base_of_another_shape(
    name: str,
    changes: dict[str, Any],
    error: str,
    saved: SaveAdapter,
    model_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = continued(model_folder(name, **changes), saved("llama", target_modules=QV), tmp_path, monkeypatch)
    assert found(report, "error") == {"QD353"} and found(report, "info") == {"QD352", "QD353"}, told(report)
    assert places(report) == {"QD352": "/model/adapter", "QD353": "/model/adapter"}
    assert error in next(finding.message for finding in report.findings if finding.rule == "QD353")


def test_no_later_stage_tells_it_again(
    saved: SaveAdapter, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = continued(model_folder("llama", hidden_size=128), saved("llama"), tmp_path, monkeypatch, stages=None)
    assert found(report, "error") == {"QD353"} and found(report, "info") == {"QD352", "QD353"}, told(report)
    ended = {stage.name: stage.status for stage in report.stages}
    assert ended["structure"] == ended["load"] == "done" and ended["memory"] == ended["step"] == "skipped"


def test_a_base_with_fewer_layers(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = saved("llama", {"num_hidden_layers": 4}, target_modules=QV)
    report = continued(tiny_llama, adapter, tmp_path, monkeypatch)
    assert found(report, "error") == {"QD353"} and found(report, "info") == {"QD352", "QD353"}, told(report)
    facts = report.facts.adapter
    assert facts is not None and len(facts.stored_unread or []) == 8 and facts.stored_tensors == 16


def test_a_base_with_more_layers(
    saved: SaveAdapter, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = saved("llama", target_modules=QV)
    report = continued(model_folder("llama", num_hidden_layers=4), adapter, tmp_path, monkeypatch)
    assert not found(report, "error") and found(report, "info") == {"QD352", "QD355"}, told(report)
    assert places(report) == {"QD352": "/model/adapter", "QD355": "/model/adapter"}


EDITS: list[tuple[dict[str, Any], str, str]] = [
    ({"r": 16}, "error", "QD353"),
    ({"modules_to_save": ["lm_head"]}, "error", "QD353"),
    ({"target_modules": ["q_proj"]}, "error", "QD353"),
    ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, "warning", "QD355"),
    ({"lora_alpha": 24, "lora_dropout": 0.1}, "info", ""),
]


@pytest.mark.parametrize(("values", "level", "rule"), EDITS)
def test_config_and_tensors_of_two_adapters(
    values: dict[str, Any],
    level: str,
    rule: str,
    saved: SaveAdapter,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = edited(saved("llama", target_modules=QV), tmp_path / "adapter", **values)
    expected = {rule} - {""}
    report = continued(tiny_llama, adapter, tmp_path, monkeypatch)
    assert found(report, level) == found(report, "info") == expected, told(report)
    # the adapter's own folder says the same of itself
    report = check_here(adapter / "adapter_config.json", monkeypatch, stages=("config", "structure"))
    assert report.setup["dialect"] == "peft-adapter"
    assert found(report, level) == found(report, "info") == expected, told(report)
    assert set(places(report).values()) <= {"/base_model_name_or_path"}


def test_a_record_without_weights_beside_it_is_not_judged(
    saved: SaveAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = edited(saved("llama", target_modules=QV), tmp_path / "adapter", r=16)
    (adapter / "adapter_model.safetensors").unlink()
    report = check_here(adapter / "adapter_config.json", monkeypatch, stages=("config", "structure"))
    assert not found(report, "info"), told(report)
    assert next(outcome.status for outcome in report.rules if outcome.rule == "QD353") == "skipped"


def test_a_file_that_was_cut_short(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = edited(saved("llama", target_modules=QV), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    report = continued(tiny_llama, adapter, tmp_path, monkeypatch)
    assert found(report, "info") == {"QD356"}, told(report)


def test_a_file_under_the_other_name_is_no_pickle(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = edited(saved("llama", target_modules=QV), tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    report = continued(tiny_llama, adapter, tmp_path, monkeypatch)
    assert found(report, "info") == {"QD356"}, told(report)


def test_a_file_that_cannot_be_read_is_left_to_the_step(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = edited(saved("llama", target_modules=QV), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'"F32"', b'"X32"').replace(b'"BF16"', b'"XF16"'))
    report = continued(tiny_llama, adapter, tmp_path, monkeypatch)
    assert not found(report, "info"), told(report)
    facts = report.facts.adapter
    assert facts is not None and facts.failure == "none" and facts.stored_tensors is None


# -- what others call it


@pytest.mark.parametrize("dialect", TEXTS)
def test_in_the_keys_of_other_trainers(
    dialect: str,
    saved: SaveAdapter,
    tiny_llama: Path,
    model_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trainer trains what it continues: on its own base nothing is wrong, on another one the key is pointed at."""
    text, suffix, key = TEXTS[dialect]
    adapter = saved("llama", target_modules=QV)
    path = tmp_path / f"config.{suffix}"
    path.write_text(text.format(model=tiny_llama, adapter=adapter))
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert report.setup["dialect"] == dialect
    assert not found(report, "warning"), told(report)
    path.write_text(text.format(model=model_folder("llama", hidden_size=128), adapter=adapter))
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert found(report, "error") == {"QD353"} and found(report, "warning") == {"QD352", "QD353"}, told(report)
    for finding in report.findings:
        if finding.rule in ("QD352", "QD353"):
            assert finding.location.line == LINES[dialect]
            assert key is None or finding.location.pointer == key


def test_a_trainer_may_resize_the_embeddings_first(
    saved: SaveAdapter, model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = saved("llama", {"vocab_size": 640}, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"])
    smaller = model_folder("llama")
    path = tmp_path / "config.yaml"
    path.write_text(AXOLOTL.format(model=smaller, adapter=adapter))
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert not found(report, "error"), told(report)
    assert next(outcome.status for outcome in report.rules if outcome.rule == "QD353") == "skipped"
    report = continued(smaller, adapter, tmp_path, monkeypatch)
    assert found(report, "error") == {"QD353"}, told(report)


def test_oumi_starts_the_adapter_anew(
    saved: SaveAdapter, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With use_peft it attaches a second adapter of the same name; without, the loaded one is frozen."""
    path = tmp_path / "config.yaml"
    text = (
        f"model: {{model_name: {tiny_llama}, adapter_model: {saved('llama')}, torch_dtype_str: bfloat16}}\n"
        "training: {trainer_type: TRL_SFT, use_peft: PEFT, learning_rate: 2.0e-4}\n"
    )
    bits = "peft: {q_lora: true, lora_r: 16, bnb_4bit_quant_type: nf4, use_bnb_nested_quant: true}\n"
    path.write_text(text.replace("PEFT", "true") + bits)
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert "QD351" in found(report, "warning") and "QD323" not in found(report, "warning"), told(report)
    assert places(report)["QD351"] == "/model/adapter_model"
    path.write_text(text.replace("PEFT", "false"))
    report = check_here(path, monkeypatch, stages=("config", "structure"))
    assert "QD323" in found(report, "error") and "QD351" not in found(report, "warning"), told(report)
