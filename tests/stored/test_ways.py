"""The ways to serve against a plain script that knows nothing of us."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.stored.rows import BUILT_IN
from qlora_doctor.probes.stored.ways import measured
from tests.models import make_model
from tests.stored.planting import adapt, load_base, trained


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("ways") / "base", "llama", dtype="bfloat16")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ways") / "adapter"
    trained(adapt(load_base(base), lora_alpha=32), steps=20, rate=2e-2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def facts(base: Path, adapter: Path) -> dict[str, Any]:
    return measured(adapter, base, None, device="cpu", speed=False)


def plain_logits(model: Any, tokenizer: Any) -> list[Any]:
    import torch

    with torch.no_grad():
        return [model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].float() for text in BUILT_IN]


def four_bits(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        base, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )


def plain(way: str, base: Path, adapter: Path, place: Path) -> Any:
    """The model of a way, as a user makes it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    def sixteen() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)

    if way == "base":
        return four_bits(base)
    if way == "adapter-on-4bit":
        return PeftModel.from_pretrained(four_bits(base), adapter)
    if way == "adapter-on-16bit":
        return PeftModel.from_pretrained(sixteen(), adapter)
    if way == "merged-16bit":
        return PeftModel.from_pretrained(sixteen(), adapter).merge_and_unload()
    if way == "merged-4bit":
        return PeftModel.from_pretrained(four_bits(base), adapter).merge_and_unload()
    if way == "merged-dequantized":
        return PeftModel.from_pretrained(four_bits(base).dequantize(), adapter).merge_and_unload()
    PeftModel.from_pretrained(sixteen(), adapter).merge_and_unload().save_pretrained(place)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        place, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )


def test_every_way_equals_a_plain_script(facts: dict[str, Any], base: Path, adapter: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = [tokenizer(text)["input_ids"] for text in BUILT_IN]
    reference = plain_logits(plain("adapter-on-4bit", base, adapter, tmp_path), tokenizer)
    assert len(facts["ways"]) == 7
    for way in facts["ways"]:
        assert way.failure is None, way
        logits = plain_logits(plain(way.way, base, adapter, tmp_path / way.way), tokenizer)
        divergence, same, nll, count = 0.0, 0, 0.0, 0
        for ids, own, other in zip(texts, logits, reference, strict=True):
            p, q = torch.log_softmax(other[:-1], -1), torch.log_softmax(own[:-1], -1)
            divergence += float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum"))
            same += int((q.argmax(-1) == p.argmax(-1)).sum())
            nll += float(torch.nn.functional.cross_entropy(own[:-1], torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
        assert way.divergence == pytest.approx(divergence / count, rel=1e-4, abs=1e-7), way.way
        assert way.agreement_ratio == same / count
        assert way.perplexity == pytest.approx(math.exp(nll / count), rel=1e-5)


def test_a_merged_model_is_measured_beside_the_ways_that_are_made(base: Path, adapter: Path, tmp_path: Path) -> None:
    """As stored it says what the same merge says that is made here; one that was never merged is as the base."""
    from qlora_doctor.run.session import CheckOptions
    from qlora_doctor.run.stored import judge_stored

    for name, model in (
        ("right", plain("merged-16bit", base, adapter, tmp_path)),
        ("never", load_base(base)),
    ):
        model.save_pretrained(tmp_path / name)
        report = judge_stored(tmp_path / name, CheckOptions(device="cpu"), adapter=adapter, load=True)
        stored = report.facts.stored
        assert stored is not None and stored.ways is not None
        ways = {way.way: way for way in stored.ways}
        rules = [finding.rule for finding in report.findings]
        if name == "right":
            same = ways["merged-16bit"]
            assert ways["merged-as-stored"].divergence == same.divergence
            assert ways["merged-as-stored"].perplexity == same.perplexity and stored.merge == "applied"
            assert "QD391" not in rules
        else:
            assert ways["merged-as-stored"].kept_ratio == pytest.approx(0, abs=0.01)
            assert "QD391" in rules and "merged-as-stored" in (stored.destroying_ways or [])
    alone = judge_stored(tmp_path / "right", CheckOptions(device="cpu"), load=True)
    assert alone.exit_code == 3 and "Give the adapter with --adapter." in (alone.stages[0].reason or "")


def test_a_base_that_is_stored_in_4bit_has_no_16bit_ways(base: Path, adapter: Path, tmp_path: Path) -> None:
    import shutil

    four_bits(base).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "base" / name)
    ways = {way.way: way for way in measured(adapter, tmp_path / "base", None, device="cpu", speed=False)["ways"]}
    for name in ("adapter-on-16bit", "merged-16bit"):
        assert ways[name].failure == "the base is stored quantized, so that its 16-bit weights are not here"
    assert all(way.failure is None for name, way in ways.items() if not name.endswith("16bit"))
    assert ways["merged-quantized-anew"].kept_ratio is not None


def test_what_is_concluded(facts: dict[str, Any]) -> None:
    ways = {way.way: way for way in facts["ways"]}
    assert ways["adapter-on-4bit"].divergence == 0 and ways["adapter-on-4bit"].kept_ratio == 1
    assert ways["base"].divergence > 0 and ways["base"].kept_ratio is None
    assert ways["merged-4bit"].bytes < ways["merged-16bit"].bytes
    assert facts["destroying_ways"] == [w.way for w in facts["ways"] if w.kept_ratio is not None and w.kept_ratio < 0.5]


def test_an_adapter_that_is_small_is_destroyed_by_a_merge_into_4bit(base: Path, tmp_path: Path) -> None:
    """A change far below the steps of nf4 is rounded away, and in 16 bits it is not."""
    trained(adapt(load_base(base)), steps=3, rate=2e-3).save_pretrained(tmp_path / "small")
    facts = measured(tmp_path / "small", base, None, device="cpu", speed=False)
    kept = {way.way: way.kept_ratio for way in facts["ways"]}
    assert "merged-4bit" in facts["destroying_ways"], kept
    assert kept["adapter-on-16bit"] == pytest.approx(1, abs=0.1), kept
    assert kept["merged-dequantized"] > 0.5, kept


def test_speed_and_own_rows(base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"text": "The rank of the base is smaller than the whole."}\n{"prompt": "The", "completion": " base."}\n'
    )
    facts = measured(adapter, base, rows, device="cpu")
    assert facts["data"].startswith("2 rows of rows.jsonl")
    for way in facts["ways"]:
        assert way.prefill_tokens_per_second > 0 and way.decode_tokens_per_second > 0 and way.decode_spread >= 0
