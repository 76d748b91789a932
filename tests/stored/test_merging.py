"""Merges that PEFT really made, rightly and wrongly, and the verdict of the replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.stored.merging import replayed
from tests.models import make_model
from tests.stored.planting import adapt, load_base, tensors, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("merging") / "base", "llama", dtype="bfloat16")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merging") / "adapter"
    trained(adapt(load_base(base)), steps=4).save_pretrained(folder)
    return folder


def attached(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter)


def once(base: Path, adapter: Path) -> Any:
    return attached(load_base(base), adapter).merge_and_unload()


def in_float32(base: Path, adapter: Path) -> Any:
    import torch

    return attached(load_base(base, dtype=torch.float32), adapter).merge_and_unload()


def rounded_to_float16(base: Path, adapter: Path) -> Any:
    import torch

    return in_float32(base, adapter).to(torch.float16)


def never(base: Path, adapter: Path) -> Any:
    return load_base(base)


def twice(base: Path, adapter: Path) -> Any:
    return attached(once(base, adapter), adapter).merge_and_unload()


def at_half(base: Path, adapter: Path) -> Any:
    model = attached(load_base(base), adapter)
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: value / 2 for name, value in module.scaling.items()}
    return model.merge_and_unload()


def in_one_layer(base: Path, adapter: Path) -> Any:
    merged, plain = once(base, adapter), load_base(base)
    plain.model.layers[0] = merged.model.layers[0]
    return plain


def on_another(base: Path, adapter: Path) -> Any:
    other = make_model(base.parent / "other", "llama", dtype="bfloat16", seed=7)
    return once(other, adapter)


def four_bits(base: Path, **options: Any) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16} | options
    return load_base(base, quantization_config=BitsAndBytesConfig(**options), dtype=torch.bfloat16)


def dequantized(base: Path, adapter: Path) -> Any:
    """Merged into the weights that the 4-bit base gives back, as a script does after a QLoRA run."""
    model = four_bits(base, bnb_4bit_use_double_quant=True).dequantize()
    return attached(model, adapter).merge_and_unload()


def quantized(base: Path, adapter: Path) -> Any:
    return attached(four_bits(base), adapter).merge_and_unload()


def four_bits_without(base: Path, adapter: Path) -> Any:
    return four_bits(base)


@pytest.mark.parametrize(
    ("make", "verdict", "scale"),
    [
        (once, "applied", 1),
        (in_float32, "applied", 1),
        (rounded_to_float16, "applied", 1),
        (never, "not-applied", 0),
        (twice, "twice", 2),
        (at_half, "other-scale", 0.5),
        (in_one_layer, "partly", None),
        (on_another, "other-base", None),
        (dequantized, "applied-to-dequantized", 1),
        (quantized, "applied-and-quantized", 1),
        (four_bits_without, "not-applied", 0),
    ],
)
def test_what_a_merge_did(
    make: Callable[[Path, Path], Any], verdict: str, scale: float | None, base: Path, adapter: Path, tmp_path: Path
) -> None:
    make(base, adapter).save_pretrained(tmp_path / "merged")
    found = replayed(tmp_path / "merged", base, adapter)
    assert found["merge"] == verdict, (found.get("merge_note"), found["merge_tensors"][:3])
    if scale is not None:
        assert found["merge_scale"] == pytest.approx(scale, abs=0.02)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 16},
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 32}},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["dora", "rslora", "head", "patterns", "embeddings"],
)
def test_other_adapters_are_replayed_too(lora: dict[str, Any], base: Path, tmp_path: Path) -> None:
    trained(adapt(load_base(base), **lora), steps=4).save_pretrained(tmp_path / "a")
    once(base, tmp_path / "a").save_pretrained(tmp_path / "merged")
    found = replayed(tmp_path / "merged", base, tmp_path / "a")
    assert found["merge"] == "applied", found["merge_tensors"]
    load_base(base).save_pretrained(tmp_path / "plain")
    assert replayed(tmp_path / "plain", base, tmp_path / "a")["merge"] == "not-applied"


def test_a_change_below_the_spacing_is_no_pass(base: Path, adapter: Path, tmp_path: Path) -> None:
    """A hundred-thousandth of the change is lost in bfloat16, and what is lost cannot be found."""
    import shutil

    from tests.stored.planting import store

    shutil.copytree(adapter, tmp_path / "a")
    store(tmp_path / "a", {n: t * 1e-5 if "lora_B" in n else t for n, t in tensors(adapter).items()})
    once(base, tmp_path / "a").save_pretrained(tmp_path / "merged")
    assert replayed(tmp_path / "merged", base, tmp_path / "a")["merge"] == "undecided"


def test_what_is_missing_is_undecided(base: Path, adapter: Path, tmp_path: Path) -> None:
    once(base, adapter).save_pretrained(tmp_path / "merged")
    for folders in ((tmp_path / "merged", tmp_path, adapter), (tmp_path / "merged", base, tmp_path)):
        found = replayed(*folders)
        assert found["merge"] == "undecided" and found["merge_note"]
