"""Merges that PEFT really made, rightly and wrongly, and the verdict of the replay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.stored.merging import replayed
from tests.models import make_model
from tests.stored.planting import adapt, load_base, store, tensors, trained


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


def in_half_of_the_layers(base: Path, adapter: Path) -> Any:
    model = attached(load_base(base), adapter)
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), dict) and ".layers.0." in name:
            module.scaling = dict.fromkeys(module.scaling, 0.0)
    return model.merge_and_unload()


def quantized_after_the_merge(base: Path, adapter: Path) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        once(base, adapter).save_pretrained(place)
        return four_bits(Path(place), bnb_4bit_use_double_quant=True)


def broken(base: Path, adapter: Path) -> Any:
    model = once(base, adapter)
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    return model


def of_a_later_checkpoint(base: Path, adapter: Path) -> Any:
    later = base.parent / "later"
    if not later.is_dir():
        trained(adapt(load_base(base)), steps=12).save_pretrained(later)
    return once(base, later)


def with_another_beside_it(base: Path, adapter: Path) -> Any:
    model = attached(load_base(base), adapter)
    of_a_later_checkpoint(base, adapter)
    model.load_adapter(base.parent / "later", "later")
    model.add_weighted_adapter(["default", "later"], [0.7, 0.3], "both", combination_type="linear")
    model.set_adapter("both")
    return model.merge_and_unload()


def to_fp4_weights(base: Path, adapter: Path) -> Any:
    return attached(four_bits(base, bnb_4bit_quant_type="fp4").dequantize(), adapter).merge_and_unload()


def twice_into_dequantized(base: Path, adapter: Path) -> Any:
    return attached(dequantized(base, adapter), adapter).merge_and_unload()


@pytest.mark.parametrize(
    ("make", "verdict", "scale"),
    [
        (in_half_of_the_layers, "partly", None),
        (quantized_after_the_merge, "applied-and-quantized", 1),
        (broken, "not-finite", None),
        (of_a_later_checkpoint, "undecided", None),
        (with_another_beside_it, "undecided", None),
        (to_fp4_weights, "applied-to-dequantized", 1),
        (twice_into_dequantized, "twice", 2),
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


def test_tokens_that_were_trained_by_themselves(base: Path, tmp_path: Path) -> None:
    """The low-rank part is merged, the rows of three tokens are the base's: half a merge, and no pass."""
    adapter = tmp_path / "a"
    trained(adapt(load_base(base), target_modules=["q_proj"], trainable_token_indices=[4, 5, 6])).save_pretrained(
        adapter
    )
    merged = once(base, adapter)
    merged.save_pretrained(tmp_path / "whole")
    assert replayed(tmp_path / "whole", base, adapter)["merge"] == "applied"
    merged.model.embed_tokens = load_base(base).model.embed_tokens
    merged.save_pretrained(tmp_path / "half")
    assert replayed(tmp_path / "half", base, adapter)["merge"] == "partly"


def test_a_head_that_was_left_behind(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "a"
    trained(adapt(load_base(base), target_modules=["q_proj"], modules_to_save=["lm_head"])).save_pretrained(adapter)
    merged = once(base, adapter)
    merged.lm_head = load_base(base).lm_head
    merged.save_pretrained(tmp_path / "merged")
    assert replayed(tmp_path / "merged", base, adapter)["merge"] == "partly"


def test_an_init_that_changes_the_base_is_no_pass(tmp_path: Path) -> None:
    """PiSSA's factors added to the unchanged base: tensor by tensor that is base plus adapter, and it is wrong."""
    import json

    base = make_model(tmp_path / "base", "llama", dtype="float32")
    adapter = tmp_path / "a"
    trained(adapt(load_base(base), init_lora_weights="pissa")).save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": True}))
    once(base, adapter).save_pretrained(tmp_path / "merged")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = replayed(tmp_path / "merged", base, adapter)
    assert found["merge"] == "undecided" and "pissa" in found["merge_note"]


def test_tied_heads(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama", dtype="bfloat16", tie_word_embeddings=True)
    adapter = tmp_path / "a"
    trained(adapt(load_base(base), target_modules=["q_proj"], modules_to_save=["embed_tokens"])).save_pretrained(
        adapter
    )
    once(base, adapter).save_pretrained(tmp_path / "merged")
    assert replayed(tmp_path / "merged", base, adapter)["merge"] == "applied"


def eight_bits(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )


def at(model: Any, times: float) -> Any:
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: value * times for name, value in module.scaling.items()}
    return model


PACKED: dict[str, tuple[Callable[[Path, Path], Any], str, float | None]] = {
    "8-bit": (lambda base, a: attached(eight_bits(base), a).merge_and_unload(), "applied-and-quantized", 1),
    "8-bit, never": (lambda base, a: eight_bits(base), "not-applied", 0),
    "8-bit at a half": (lambda base, a: at(attached(eight_bits(base), a), 0.5).merge_and_unload(), "other-scale", 0.5),
    "8-bit twice": (lambda base, a: at(attached(eight_bits(base), a), 2).merge_and_unload(), "twice", 2),
    "dequantized 8-bit": (
        lambda base, a: attached(eight_bits(base).dequantize(), a).merge_and_unload(), "applied-to-dequantized", 1),
    "4-bit at a half": (lambda base, a: at(attached(four_bits(base), a), 0.5).merge_and_unload(), "other-scale", 0.5),
    "4-bit thrice": (lambda base, a: at(attached(four_bits(base), a), 3).merge_and_unload(), "other-scale", 3),
    "4-bit, taken off": (lambda base, a: at(attached(four_bits(base), a), -1).merge_and_unload(), "other-scale", -1),
}  # fmt: skip


@pytest.mark.parametrize("kind", PACKED)
def test_what_a_merge_into_packed_weights_did(kind: str, base: Path, adapter: Path, tmp_path: Path) -> None:
    make, verdict, scale = PACKED[kind]
    make(base, adapter).save_pretrained(tmp_path / "merged")
    found = replayed(tmp_path / "merged", base, adapter)
    assert found["merge"] == verdict, (found.get("merge_note"), found["merge_tensors"][:3])
    assert found["merge_scale"] == pytest.approx(scale, rel=0.02)


@pytest.mark.parametrize("lora", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
def test_a_head_stays_as_it_is_beside_packed_weights(lora: dict[str, Any], base: Path, tmp_path: Path) -> None:
    trained(adapt(load_base(base), **lora)).save_pretrained(tmp_path / "adapter")
    attached(four_bits(base), tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "merged")
    assert replayed(tmp_path / "merged", base, tmp_path / "adapter")["merge"] == "applied-and-quantized"


def as_lora(base: Path, adapter: Path) -> Any:
    """A merge that passes the magnitudes by."""
    folder = adapter.parent / "as-lora"
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": False}))
    store(folder, {name: tensor for name, tensor in tensors(folder).items() if "magnitude" not in name})
    return once(base, folder)


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda base, a: at(attached(load_base(base), a), 0.5).merge_and_unload(), "other-scale"),
        (lambda base, a: attached(once(base, a), a).merge_and_unload(), "twice"),
        (lambda base, a: attached(four_bits(base), a).merge_and_unload(), "applied-and-quantized"),
        (lambda base, a: at(attached(four_bits(base), a), 0.5).merge_and_unload(), "other-scale"),
        (lambda base, a: attached(four_bits(base).dequantize(), a).merge_and_unload(), "applied-to-dequantized"),
        (as_lora, "without-magnitudes"),
    ],
    ids=["half", "twice", "4-bit", "4-bit-half", "dequantized", "as-lora"],
)
def test_merges_of_dora(make: Callable[[Path, Path], Any], verdict: str, base: Path, tmp_path: Path) -> None:
    trained(adapt(load_base(base), use_dora=True), steps=4).save_pretrained(tmp_path / "a")
    make(base, tmp_path / "a").save_pretrained(tmp_path / "merged")
    assert replayed(tmp_path / "merged", base, tmp_path / "a")["merge"] == verdict


EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def rewritten(folder: Path, place: Path, *, keep_packed: bool) -> Path:
    """The folder with each expert's projections in 4-bit, as transformers 4 stored a mixture, or given back from it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, place)
    found = {}
    for name, tensor in load_file(place / "model.safetensors").items():
        if ".experts." not in name:
            found[name] = tensor
            continue
        packed, state = quantize_4bit(tensor, compress_statistics=True, quant_type="nf4")
        if keep_packed:
            found |= {name: packed, **{f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}}
        else:
            found[name] = dequantize_4bit(packed, state)
    save_file(found, place / "model.safetensors", {"format": "pt"})
    return place


def test_merges_of_experts_in_4bit(tmp_path: Path) -> None:
    """Packed after the merge, merged into what packed weights give back, and both; by a plain and a packed base."""
    moe = make_model(tmp_path / "base", "qwen3_moe", dtype="bfloat16")
    adapter, places = tmp_path / "a", iter(range(100))
    lora = {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "lora_dropout": 0.0}
    trained(adapt(load_base(moe), **lora), steps=4).save_pretrained(adapter)

    def stored(model: Any) -> Path:
        place = tmp_path / str(next(places))
        model.save_pretrained(place)
        return place

    def packed(folder: Path) -> Path:
        return rewritten(folder, tmp_path / str(next(places)), keep_packed=True)

    given_back = rewritten(moe, tmp_path / "given-back", keep_packed=False)
    into_given_back = stored(once(given_back, adapter))
    half = stored(at(attached(load_base(moe), adapter), 0.5).merge_and_unload())
    cases = [
        (packed(stored(once(moe, adapter))), moe, "applied-and-quantized"),
        (packed(stored(load_base(moe))), moe, "not-applied"),
        (packed(half), moe, "other-scale"),
        (into_given_back, moe, "applied-to-dequantized"),
        (into_given_back, packed(moe), "applied-to-dequantized"),
        (packed(into_given_back), packed(moe), "applied-and-quantized"),
        (packed(moe), packed(moe), "not-applied"),
    ]
    for number, (merged, base, verdict) in enumerate(cases):
        found = replayed(merged, base, adapter)
        assert found["merge"] == verdict, (number, found["merge_tensors"])


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_merges_of_experts(family: str, tmp_path: Path) -> None:
    """The checkpoint holds each expert's projections by themselves, the adapter one pair for all of them."""
    moe = make_model(tmp_path / "base", family, dtype="bfloat16")
    lora = {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "lora_dropout": 0.0}
    trained(adapt(load_base(moe), **lora), steps=4).save_pretrained(tmp_path / "a")
    merges = {
        "applied": lambda: once(moe, tmp_path / "a"),
        "not-applied": lambda: load_base(moe),
        "twice": lambda: attached(once(moe, tmp_path / "a"), tmp_path / "a").merge_and_unload(),
        "other-scale": lambda: at(attached(load_base(moe), tmp_path / "a"), 0.5).merge_and_unload(),
    }
    for verdict, make in merges.items():
        make().save_pretrained(tmp_path / verdict)
        found = replayed(tmp_path / verdict, moe, tmp_path / "a")
        assert found["merge"] == verdict, found["merge_tensors"]
        assert {tensor.verdict for tensor in found["merge_tensors"]} == {verdict}
