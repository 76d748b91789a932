"""What is predicted of a stored adapter on the meta device is what PEFT's real load does with it."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor import pipeline
from qlora_doctor.probes.structure.look import look_at_structure
from qlora_doctor.setup.setup import Lora, Model, Quantization, Setup

QV = {"target_modules": ["q_proj", "v_proj"]}
SAVED = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
WIDE, DEEP, SHALLOW = {"hidden_size": 128}, {"num_hidden_layers": 4}, {"num_hidden_layers": 1}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # model, LoraConfig, what is changed in adapter_config.json, what the other base has changed
    ("llama", {"target_modules": "all-linear"}, {}, {}),
    ("llama", {**QV, "use_dora": True}, {}, {}),
    ("llama", {**QV, "bias": "all"}, {}, {}),
    ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}, {}, {}),
    ("llama", {**QV, "rank_pattern": {"q_proj": 4}}, {}, {}),
    ("llama", {**QV, "layers_to_transform": [1]}, {}, {}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, {}, {}),
    ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}, {}, {}),
    ("llama", SAVED, {}, {}),
    ("gpt2", {"target_modules": ["c_attn"]}, {}, {}),
    ("mixtral", {"target_modules": ["q_proj"]}, {}, {}),
    ("llama", QV, {"r": 16}, {}),
    ("llama", QV, {"modules_to_save": ["lm_head"]}, {}),
    ("llama", QV, {"target_modules": ["q_proj"]}, {}),
    ("llama", QV, {"target_modules": ["q_proj", "k_proj", "v_proj"]}, {}),
    ("llama", QV, {"use_dora": True}, {}),
    ("llama", QV, {"bias": "all"}, {}),
    ("llama", {**QV, "use_dora": True}, {"use_dora": False}, {}),
    ("llama", QV, {}, WIDE),
    ("llama", QV, {}, DEEP),
    ("llama", QV, {}, SHALLOW),
    ("llama", SAVED, {}, {"vocab_size": 640}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, {}, {"vocab_size": 640}),
]


@pytest.mark.parametrize(("name", "settings", "edits", "changes"), CASES)
@pytest.mark.parametrize("bits", [4, 16])
def test_prediction_and_load_agree(
    bits: int,
    name: str,
    settings: dict[str, Any],
    edits: dict[str, Any],
    changes: dict[str, Any],
    model_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    _save(model_folder(name), settings, edits, tmp_path)
    setup = Setup(
        model=Model(name_or_path=str(model_folder(name, **changes)), adapter=str(tmp_path), adapter_is_trainable=True),
        quantization=Quantization(load_in_4bit=bits == 4),
        lora=Lora(),
    )
    predicted = look_at_structure(setup).adapter
    assert predicted is not None
    base = pipeline.build_base(setup, "cpu")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model = pipeline.attach(base, setup)
    except (RuntimeError, KeyError) as error:
        assert predicted.failure == "stored-adapter" and predicted.attached is False
        wrong = set(re.findall(r"size mismatch for (\S+):", str(error)))
        assert len(predicted.stored_misfits or []) == len(wrong)
        if isinstance(error, KeyError):
            assert str(error.args[0]).removeprefix("base_model.model.") in (predicted.failure_message or "")
        return
    assert predicted.failure == "none" and predicted.stored_misfits == []
    missing = [str(each.message) for each in heard if "missing adapter keys" in str(each.message)]
    assert len(predicted.stored_missing or []) == sum(text.count("base_model.") for text in missing)
    again = model.load_adapter(str(tmp_path), adapter_name="default", is_trainable=True)
    assert len(predicted.stored_unread or []) == len(again.unexpected_keys)


def test_looking_leaves_the_quantization_as_it_was(tiny_llama: Path, tmp_path: Path) -> None:
    """The state that is hidden from PEFT while it loads is back, or 4-bit layers would no longer count as such."""
    _save(tiny_llama, QV, {}, tmp_path)
    quantization = Quantization(load_in_4bit=True)
    model = Model(name_or_path=str(tiny_llama), adapter=str(tmp_path))
    seen = look_at_structure(Setup(model=model, quantization=quantization, lora=Lora()))
    plain = look_at_structure(
        Setup(model=Model(name_or_path=str(tiny_llama)), quantization=quantization, lora=Lora(**QV, r=8))
    )
    assert seen.adapter is not None and plain.adapter is not None and seen.base is not None
    assert seen.adapter.stored_tensors == 8 and plain.adapter.stored_unread == []
    states = [getattr(parameter, "quant_state", None) for parameter in seen.base.model.parameters()]
    assert sum(state is not None for state in states) == 14
    assert seen.adapter.expected_trainable_parameters == plain.adapter.expected_trainable_parameters


def _save(base: Path, settings: dict[str, Any], edits: dict[str, Any], folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=8, task_type="CAUSAL_LM", **settings)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    stored = json.loads((folder / "adapter_config.json").read_text()) | edits
    (folder / "adapter_config.json").write_text(json.dumps(stored))
