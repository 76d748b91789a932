"""A real load on the CPU: what is seen of a healthy base, and how each damage ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from qlora_doctor.facts import Facts, QuantizationFacts  # noqa: E402
from qlora_doctor.probes import resources  # noqa: E402
from qlora_doctor.probes.load import look as module  # noqa: E402
from qlora_doctor.probes.load.look import LoadSeen, look_at_load  # noqa: E402
from qlora_doctor.probes.structure.look import look_at_structure  # noqa: E402
from tests.probes.conftest import make_setup, silent  # noqa: E402

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def damaged(tiny_llama: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], LoadSeen]:
    """Load a copy whose tensors were changed."""
    from safetensors.torch import load_file, save_file

    def load(change: Callable[[dict[str, Any]], None]) -> LoadSeen:
        folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return look_at_load(make_setup(folder), "cpu", silent)

    return load


def test_healthy_base(tiny_llama: Path) -> None:
    setup = make_setup(tiny_llama)
    structure = look_at_structure(setup, silent)
    predicted = Facts(model=structure.model, quantization=structure.quantization)
    told: list[str] = []
    seen = look_at_load(setup, "cpu", lambda text, *_: told.append(text), facts=predicted)
    facts = seen.facts
    assert facts.failure is not None and facts.failure.kind == "none"
    assert seen.base is not None and seen.error is None
    assert facts.bytes_read == (tiny_llama / "model.safetensors").stat().st_size
    assert facts.nested_ratio == 1.0 and facts.compute_dtypes == ["bfloat16"]
    assert facts.missing_quant_state == [] and facts.nonfinite_tensors == []
    assert facts.missing_keys == [] and facts.unexpected_keys == [] and facts.mismatched_keys == []
    assert facts.differences == []
    assert facts.classes is not None and facts.devices is not None and facts.bytes_by_dtype is not None
    linear = next(c for c in facts.classes if c.module_class == "Linear4bit")
    assert (linear.modules, linear.quant_type, linear.storage_dtype) == (14, "nf4", "uint8")
    assert linear.parameters == predicted.quantization.quantized_parameters  # type: ignore[union-attr]
    assert sum(facts.devices.values()) == sum(facts.bytes_by_dtype.values())
    assert facts.mean_quantization_error == pytest.approx(0.092, abs=0.01), "NF4 on normal weights"
    assert facts.quantization_errors is not None and len(facts.quantization_errors) == 14
    assert facts.float32_upcast_bytes and facts.float32_upcast_bytes > 0
    assert any("Loading" in text for text in told)


def test_fp4_is_further_from_the_weights(tiny_llama: Path) -> None:
    setup = make_setup(tiny_llama)
    quantization = setup.quantization.model_copy(update={"bnb_4bit_quant_type": "fp4"})
    facts = look_at_load(setup.model_copy(update={"quantization": quantization}), "cpu", silent).facts
    assert facts.mean_quantization_error is not None and facts.mean_quantization_error > 0.11


def test_conv1d_weights_are_compared_transposed(model_folder: Callable[..., Path]) -> None:
    facts = look_at_load(make_setup(model_folder("gpt2")), "cpu", silent).facts
    assert facts.max_quantization_error is not None and facts.max_quantization_error < 0.12


def test_differences_from_structure_are_sentences(tiny_llama: Path) -> None:
    predicted = Facts(quantization=QuantizationFacts(quantized_modules=13, quantized_parameters=1, quant_type="fp4"))
    facts = look_at_load(make_setup(tiny_llama), "cpu", silent, facts=predicted).facts
    assert facts.differences == [
        "14 layers are 4-bit; 13 were expected.",
        "73,728 parameters are 4-bit; 1 were expected.",
        "The quantization type is nf4; fp4 was expected.",
    ]


def test_wrong_shape_of_a_quantized_layer(damaged: Callable[..., LoadSeen]) -> None:
    """transformers and bitsandbytes load it in silence."""

    def halve(tensors: dict[str, Any]) -> None:
        tensors[Q_PROJ] = tensors[Q_PROJ][:32].clone()

    seen = damaged(halve)
    assert seen.base is None and seen.error is not None and seen.error.kind == "wrong-shape"
    assert seen.error.message == f"{Q_PROJ} is 32 × 64 in the checkpoint and 64 × 64 by its config.json."
    assert seen.facts.failure is not None and seen.facts.failure.phase == "load"


def test_wrong_shape_of_a_norm(damaged: Callable[..., LoadSeen]) -> None:
    seen = damaged(lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.bfloat16)}))
    assert seen.error is not None and seen.error.kind == "wrong-shape"
    assert "model.norm.weight is 32 in the checkpoint and 64" in seen.error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [Q_PROJ, "model.norm.weight", "model.embed_tokens.weight"])
def test_values_that_are_no_numbers(damaged: Callable[..., LoadSeen], name: str, value: float) -> None:
    def plant(tensors: dict[str, Any]) -> None:
        tensors[name].view(-1)[7] = value

    assert damaged(plant).facts.nonfinite_tensors == [name]


def test_missing_weight(damaged: Callable[..., LoadSeen]) -> None:
    facts = damaged(lambda tensors: tensors.pop(Q_PROJ)).facts
    assert facts.missing_keys == [Q_PROJ] == facts.newly_initialised


def test_head_that_is_new_by_design(tiny_llama: Path) -> None:
    """No checkpoint of a language model holds a classification head; what else is missing is missing."""
    setup = make_setup(tiny_llama)
    model = setup.model.model_copy(update={"task": "sequence-classification", "num_labels": 3})
    facts = look_at_load(setup.model_copy(update={"model": model}), "cpu", silent).facts
    assert facts.missing_keys == ["score.weight"] and facts.newly_initialised == []


def test_truncated_file(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    seen = look_at_load(make_setup(folder), "cpu", silent)
    assert seen.facts.failure is not None and seen.facts.failure.kind == "truncated"
    assert seen.error is not None and "truncated" in seen.error.message


def test_no_room_on_the_host(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "host_memory", lambda: 1000)
    loaded: list[object] = []
    monkeypatch.setattr(module, "build_base", lambda *a, **k: loaded.append(a))
    seen = look_at_load(make_setup(tiny_llama), "cpu", silent)
    assert seen.error is not None and seen.error.kind == "host-out-of-memory"
    assert "GiB" in seen.error.message and not loaded, "told before anything is loaded"


def test_no_room_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "device_memory", lambda device: (10 << 30, 24 << 30))
    with pytest.raises(resources.StageError, match=r"about 35\.0 GiB and the GPU has 10\.0 GiB free of 24\.0 GiB"):
        resources.check_that_it_fits(33 << 30, 1 << 30, torch.device("cuda:0"))
    resources.check_that_it_fits(7 << 30, 1 << 30, torch.device("cuda:0"))


def test_nothing_in_the_folder_changes(tiny_llama: Path) -> None:
    before = {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in tiny_llama.iterdir()}
    look_at_load(make_setup(tiny_llama), "cpu", silent)
    assert {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in tiny_llama.iterdir()} == before


def test_quant_state_that_is_gone(qlora: Callable[..., Any]) -> None:
    from qlora_doctor.probes.load.loaded import four_bit_layers, loaded_facts

    model = qlora()
    name, layer = next(iter(four_bit_layers(model)))
    layer.weight.quant_state = None
    assert loaded_facts(model)["missing_quant_state"] == [], "the layer kept it, and forward takes it there"
    layer.quant_state = None
    assert loaded_facts(model)["missing_quant_state"] == [name]


def test_time_on_a_cpu_grows_with_the_model() -> None:
    assert resources.cpu_load_seconds(50_000_000) < resources.CPU_MINUTE < resources.cpu_load_seconds(7_000_000_000)
    assert resources.cpu_step_seconds(5_000_000, 2 * 64) < resources.CPU_MINUTE
    assert resources.cpu_step_seconds(7_000_000_000, 512) > resources.CPU_MINUTE
