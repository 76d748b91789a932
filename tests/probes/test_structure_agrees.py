"""What structure says without weights is what a real load shows: every fact, on many architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes")

from qlora_doctor import pipeline
from qlora_doctor.facts import Fact
from qlora_doctor.probes.structure.inventory import Inventory
from qlora_doctor.probes.structure.look import (
    adapter_facts,
    fresh_heads,
    look_at_structure,
    model_facts,
    quantization_facts,
)
from qlora_doctor.setup.setup import Lora, Model, Quantization, Setup
from tests.models import CONFIGS


def setup_for(folder: Path, targets: list[str] | str = "all-linear", *, nested: bool = True) -> Setup:
    return Setup(
        model=Model(name_or_path=str(folder)),
        quantization=Quantization(
            bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype="bfloat16"
        ),
        lora=Lora(r=8, target_modules=targets, task_type="CAUSAL_LM"),
    )


def differences(
    predicted: Fact | None, seen: Fact, *, unknown: tuple[str, ...] = ()
) -> dict[str, tuple[object, object]]:
    # How a stored file fits is known before it is loaded; an attached model does not show it.
    names = [name for name in type(seen).model_fields if not name.startswith("stored_")]
    pairs = {name: (getattr(predicted, name), getattr(seen, name)) for name in names if name not in unknown}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_meta_and_real_give_the_same_facts(model_folder: Callable[..., Path], name: str, dtype: str) -> None:
    targets: list[str] | str = ["in_proj"] if name == "mamba" else "all-linear"
    setup = setup_for(model_folder(name, dtype=dtype), targets, nested=dtype == "bfloat16")
    predicted = look_at_structure(setup)
    assert predicted.failure is None

    base = pipeline.build_base(setup, "cpu")
    fresh = fresh_heads(Inventory(base.model), base.architecture.raw["architectures"])
    model = model_facts(base.model, architecture=base.architecture, setup=setup, dtype=base.dtype)
    quantization = quantization_facts(base.model, fresh_heads=fresh)
    pipeline.prepare(base, setup)
    peft_model = pipeline.attach(base, setup)
    adapter = adapter_facts(peft_model, asked_targets=targets, asked_to_save=[], fresh_heads=fresh)

    assert differences(predicted.model, model) == {}
    # Structure tells what preparation will make of stacked experts; here the base was looked at before it.
    assert differences(predicted.quantization, quantization, unknown=("float32_experts_bytes",)) == {}
    assert predicted.quantization is not None
    assert predicted.quantization.float32_experts_bytes == quantization_facts(peft_model).float32_experts_bytes
    # Values exist only on a real device.
    assert differences(predicted.adapter, adapter, unknown=("lora_b_zero",)) == {}
    assert adapter.lora_b_zero is True


@pytest.mark.parametrize("cast", [True, False])
def test_an_adapter_has_the_dtype_that_peft_gives_it(model_folder: Callable[..., Path], cast: bool) -> None:
    """PEFT passes over adapters on the meta device, so that their dtype is set there as it would set it."""
    setup = setup_for(model_folder("llama", dtype="float16"), ["q_proj", "lm_head"])
    setup = setup.model_copy(update={"lora": setup.lora.model_copy(update={"autocast_adapter_dtype": cast})})
    kinds = []
    for device in ("meta", "cpu"):
        model = pipeline.attach(pipeline.build_base(setup, device), setup)
        kinds.append({name: p.dtype for name, p in model.named_parameters() if "lora_" in name})
    assert kinds[0] == kinds[1] and len(kinds[0]) > 0


def test_counts_match_what_peft_prints(tiny_llama: Path) -> None:
    setup = setup_for(tiny_llama)
    base = pipeline.build_base(setup, "cpu")
    model = pipeline.attach(base, setup)
    trainable, total = model.get_nb_trainable_parameters()
    facts = adapter_facts(model)
    assert (facts.trainable_parameters, facts.total_parameters) == (trainable, total)
    assert facts.packed_parameters == sum(parameter.numel() for parameter in model.parameters())


def test_live_states_are_told_apart(tiny_llama: Path) -> None:
    setup = setup_for(tiny_llama, ["q_proj"])
    model = pipeline.attach(pipeline.build_base(setup, "cpu"), setup)
    healthy = adapter_facts(model)
    assert (healthy.all_frozen, healthy.enabled, healthy.merged_adapters, healthy.nested) == (False, True, [], False)
    assert healthy.active_adapters == ["default"] and healthy.irregular is False

    model.base_model.disable_adapter_layers()
    assert adapter_facts(model).enabled is False
    model.base_model.enable_adapter_layers()
    for parameter in model.parameters():
        parameter.requires_grad = False
    frozen = adapter_facts(model)
    assert frozen.all_frozen is True and frozen.trainable_parameters == 0
    assert frozen.expected_trainable_parameters == healthy.expected_trainable_parameters


def test_a_base_that_trains_is_named(tiny_llama: Path) -> None:
    setup = setup_for(tiny_llama, ["q_proj"])
    model = pipeline.attach(pipeline.build_base(setup, "cpu"), setup)
    model.base_model.model.model.norm.weight.requires_grad = True
    facts = adapter_facts(model)
    assert facts.base_parameters_trainable == ["model.norm.weight"]
    assert {group.group for group in facts.trainable_groups or []} == {"lora", "norm"}


def test_a_model_without_adapter_is_no_failure(tiny_llama: Path) -> None:
    base = pipeline.build_base(setup_for(tiny_llama), "cpu")
    facts = adapter_facts(base.model)
    assert facts.attached is False and facts.failure is None and facts.matched_modules == []


def test_a_trained_adapter_is_not_identity(tiny_llama: Path) -> None:
    import torch

    setup = setup_for(tiny_llama, ["q_proj"])
    model = pipeline.attach(pipeline.build_base(setup, "cpu"), setup)
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).view(-1)[0] = 1e-30
    assert adapter_facts(model).lora_b_zero is False


def test_a_continued_adapter_is_frozen_unless_asked(tiny_llama: Path, tmp_path: Path) -> None:
    setup = setup_for(tiny_llama, ["q_proj", "v_proj"])
    pipeline.attach(pipeline.build_base(setup, "cpu"), setup).save_pretrained(tmp_path)
    for trainable in (None, True):
        model = Model(name_or_path=str(tiny_llama), adapter=str(tmp_path), adapter_is_trainable=trainable)
        again = setup.model_copy(update={"model": model, "lora": Lora()})
        predicted = look_at_structure(again).adapter
        real = adapter_facts(pipeline.attach(pipeline.build_base(again, "cpu"), again))
        assert predicted is not None
        for facts in (predicted, real):
            assert facts.all_frozen is (trainable is None)
            assert facts.inference_mode is (trainable is None)
            assert len(facts.matched_modules or []) == 4


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_a_checkpoint_stored_in_4bit(model_folder: Callable[..., Path], tmp_path: Path, name: str) -> None:
    pipeline.build_base(setup_for(model_folder(name)), "cpu").model.save_pretrained(tmp_path)
    asked = Quantization(bnb_4bit_quant_type="fp4")
    setup = Setup(model=Model(name_or_path=str(tmp_path)), quantization=asked, lora=Lora(target_modules="all-linear"))
    predicted = look_at_structure(setup)
    base = pipeline.build_base(setup, "cpu")
    assert predicted.model is not None
    assert predicted.model.checkpoint_conflicts == ["bnb_4bit_quant_type: fp4, nf4"]
    assert differences(predicted.quantization, quantization_facts(base.model, fresh_heads=[])) == {}


def test_a_new_classification_head(tiny_llama: Path) -> None:
    model = Model(name_or_path=str(tiny_llama), task="sequence-classification", num_labels=3)
    setup = setup_for(tiny_llama).model_copy(update={"model": model, "lora": Lora(r=4, task_type="SEQ_CLS")})
    predicted = look_at_structure(setup)
    base = pipeline.build_base(setup, "cpu")
    assert base.loading_info is not None and set(base.loading_info["missing_keys"]) == {"score.weight"}
    assert differences(predicted.quantization, quantization_facts(base.model, fresh_heads=["score"])) == {}
    pipeline.prepare(base, setup)
    adapter = adapter_facts(pipeline.attach(base, setup), asked_to_save=[], fresh_heads=["score"])
    assert differences(predicted.adapter, adapter, unknown=("lora_b_zero",)) == {}
    assert adapter.saved_modules == ["score"] and adapter.random_heads == []
