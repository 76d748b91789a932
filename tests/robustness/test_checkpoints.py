"""Model folders that are incomplete, damaged or of another kind: one sentence, one rule, the report kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from tests.robustness.conftest import Ran  # noqa: E402

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
INDEX = "model.safetensors.index.json"
Plant = Callable[[Path], Any]


def says(**changes: Any) -> Plant:
    """config.json with other values; None takes a key out."""

    def plant(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return plant


def holds(name: str, content: bytes) -> Plant:
    return lambda folder: (folder / name).write_bytes(content)


def weights(change: Callable[[dict[str, Any]], Any]) -> Plant:
    """Weights with something changed."""

    def plant(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return plant


def bytes_of_weights(change: Callable[[bytes], bytes]) -> Plant:
    def plant(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return plant


def index(content: Any) -> Plant:
    """An index in place of the single file."""

    def plant(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / INDEX).write_text(content if isinstance(content, str) else json.dumps(content))

    return plant


def one_shard_of_two(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    first = {name: tensor for name, tensor in tensors.items() if "layers.1" not in name}
    files = {n: f"model-0000{1 if n in first else 2}-of-00002.safetensors" for n in tensors}
    save_file(first, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    index({"metadata": {}, "weight_map": files})(folder)


def renamed(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[f"inner.{name}"] = tensors.pop(name)


NOT_BUILT: dict[str, tuple[Plant, str]] = {
    "no-config": (lambda folder: (folder / "config.json").unlink(), "has no config.json."),
    "empty-config": (holds("config.json", b""), "config.json cannot be read"),
    "config-syntax": (holds("config.json", b"{"), "config.json cannot be read"),
    "config-not-text": (holds("config.json", b"\xff\xfe\x00"), "config.json cannot be read"),
    "config-a-list": (holds("config.json", b"[]"), "config.json is no JSON object."),
    "no-model-type": (says(model_type=None), "names no model_type"),
    "unknown-architecture": (says(model_type="florbnet"), "'florbnet', which transformers"),
    "wrong-type": (says(hidden_size="big"), "hidden_size"),
    "no-heads": (says(num_attention_heads=0), "config.json is not valid"),
    "no-vocabulary": (says(vocab_size=0), "Padding_idx"),
    "unknown-activation": (says(hidden_act="florb"), "'florb' is not known."),
    "auto-map-of-another-kind": (says(auto_map=3), "config.json is not valid"),
}


@pytest.mark.parametrize("case", NOT_BUILT.values(), ids=NOT_BUILT)
def test_model_that_cannot_be_built(
    case: tuple[Plant, str], copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    plant, sentence = case
    plant(copied)
    ran = doctor(config_for(copied), "--stage", "config,structure,load,step")
    assert ran.code == 3
    assert ran.rules == {"QD217"} and sentence in ran.message("QD217"), ran.stdout
    assert "Traceback" not in ran.stderr
    structure = ran.stages["structure"]
    assert structure["status"] == "failed" and sentence in structure["reason"] and structure["remedy"]
    assert ran.stages["load"]["status"] == ran.stages["step"]["status"] == "skipped"
    # What was known before is still there.
    assert ran.stages["config"]["status"] == "done" and ran.report["facts"]["config"]["lora_r"] == 8


def test_a_kind_of_model_that_no_stage_builds(
    copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    says(model_type="clip")(copied)
    ran = doctor(config_for(copied), "--stage", "config,structure,load,step")
    assert ran.code == 3 and "QD217" not in ran.rules, ran.stdout
    assert ran.stages["structure"]["status"] == "skipped" and "clip" in ran.stages["structure"]["reason"].lower()


NOT_LOADED: dict[str, tuple[Plant, str, str]] = {
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "QD221", "and no weights"),
    "missing-shard": (one_shard_of_two, "QD221", "1 of 2 weight files are missing"),
    "index-syntax": (index("{"), "QD222", "is no index of weight files"),
    "index-of-another-kind": (index([1]), "QD222", "is no index of weight files"),
    "index-leads-outside": (index({"weight_map": {Q_PROJ: "../../x"}}), "QD222", "outside its folder"),
    "truncated": (bytes_of_weights(lambda b: b[:-1000]), "QD222", "model.safetensors is truncated: it has"),
    "empty": (bytes_of_weights(lambda b: b""), "QD222", "ends before its header does (0 bytes)"),
    "header-cut-off": (bytes_of_weights(lambda b: b[:100]), "QD222", "ends before its header does (100 bytes)"),
    "header-damaged": (bytes_of_weights(lambda b: b[:20] + b"\xff" * 20 + b[40:]), "QD222", "its header is no JSON"),
    "noise": (bytes_of_weights(lambda b: b"\x13" * 5000), "QD222", "an impossible length"),
    "wrong-shape": (
        weights(lambda t: t.update({Q_PROJ: t[Q_PROJ][:32].clone()})),
        "QD223",
        f"{Q_PROJ} is 32 × 64 in the checkpoint and 64 × 64 by its config.json.",
    ),
    "another-models-config": (says(num_key_value_heads=4), "QD223", "by its config.json, and 3 more"),
}


@pytest.mark.parametrize("case", NOT_LOADED.values(), ids=NOT_LOADED)
def test_weights_that_cannot_be_loaded(
    case: tuple[Plant, str, str], copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    plant, rule, sentence = case
    plant(copied)
    ran = doctor(config_for(copied), "--stage", "config,structure,load,step")
    assert ran.code == 3
    assert ran.rules == {rule} and sentence in ran.message(rule), ran.stdout
    assert "Traceback" not in ran.stderr
    assert ran.stages["structure"]["status"] == "done" and ran.report["facts"]["adapter"]["attached"]
    assert ran.stages["load"]["status"] == "failed" and ran.stages["load"]["remedy"]
    assert ran.stages["step"]["status"] == "skipped"
    where = next(f["location"] for f in ran.report["findings"] if f["rule"] == rule)
    assert where["pointer"] == "/model" and where["line"]


def test_without_being_asked_for_a_stage_that_fails_is_a_finding(
    copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    bytes_of_weights(lambda b: b[:-1000])(copied)
    ran = doctor(config_for(copied))
    assert ran.code == 1 and ran.rules == {"QD222"}


def test_an_architecture_alone_is_no_fault(
    copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    """A folder with only config.json is fine: what needs weights is left out, with the reason."""
    (copied / "model.safetensors").unlink()
    ran = doctor(config_for(copied))
    assert ran.code == 0 and not ran.rules, ran.stdout
    for name in ("load", "step"):
        assert ran.stages[name]["status"] == "skipped" and "no weights" in ran.stages[name]["reason"]


WRONG_VALUES: dict[str, tuple[Plant, str, str]] = {
    "nan": (weights(lambda t: t[Q_PROJ].view(-1).__setitem__(3, float("nan"))), "QD230", "NaN or infinite"),
    "inf": (weights(lambda t: t["model.norm.weight"].__setitem__(3, float("inf"))), "QD230", "NaN or infinite"),
    "missing-weight": (weights(lambda t: t.pop(Q_PROJ)), "QD231", "1 tensor of LlamaForCausalLM is not in"),
    "another-models-names": (weights(renamed), "QD231", "21 tensors of LlamaForCausalLM are not in"),
    "more-layers-than-weights": (says(num_hidden_layers=3), "QD231", "9 tensors of LlamaForCausalLM are not in"),
}


@pytest.mark.parametrize("case", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_weights_that_load_and_are_wrong(
    case: tuple[Plant, str, str], copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    plant, rule, sentence = case
    plant(copied)
    ran = doctor(config_for(copied))
    assert ran.code == 1 and ran.rules == {rule} and sentence in ran.message(rule), ran.stdout
    assert ran.stages["load"]["status"] == "done"


def test_a_damaged_tokenizer(copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]) -> None:
    (copied / "tokenizer.json").write_text("{")
    ran = doctor(config_for(copied), "--stage", "step")
    assert ran.code == 3 and ran.stages["load"]["status"] == "done"
    assert "Loading the tokenizer of" in ran.stages["step"]["reason"] and ran.stages["step"]["remedy"]
    assert ran.rules == {"QD426"}


def test_a_model_of_which_nothing_is_known(doctor: Callable[..., Ran], config_for: Callable[..., Path]) -> None:
    ran = doctor(config_for("nobody/nothing-7b"), "--stage", "structure")
    assert ran.code == 3 and "neither a folder, nor" in ran.stages["structure"]["reason"]
    assert ran.stages["structure"]["remedy"] and "Traceback" not in ran.stderr
    # Where no stage is named, what this machine has not at hand is left out; nothing is wrong, but no model was seen.
    ran = doctor(config_for("nobody/nothing-7b", data={"train": "train.jsonl"}))
    assert ran.code == 3 and {s["status"] for s in ran.report["stages"] if s["name"] != "config"} == {"skipped"}


def test_an_adapter_in_place_of_a_model(
    copied: Path, doctor: Callable[..., Ran], config_for: Callable[..., Path]
) -> None:
    (copied / "config.json").rename(copied / "adapter_config.json")
    ran = doctor(config_for(copied), "--stage", "structure")
    assert ran.code == 3 and "holds an adapter, not a model" in ran.stages["structure"]["reason"]
