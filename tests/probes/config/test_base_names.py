"""Which names of a base mean one model, which mean two, and where that cannot be known."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.probes.config.base_names import bases_differ, revisions_differ
from qlora_doctor.probes.config.stored_adapter import stored_adapter_facts
from qlora_doctor.setup.setup import Model, Origin, Setup
from qlora_doctor.tables.architectures import all_ids, find_architecture

HUB = "/root/.cache/huggingface/hub"
SCOPE = "/mnt/workspace/.cache/modelscope/hub/models"
SAME = [
    ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ("META-LLAMA/llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-8B/", " meta-llama/Llama-3.1-8B "),
    ("https://huggingface.co/meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    # the hub renamed it; mirrors
    ("meta-llama/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
    ("meta-llama/Llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    ("decapoda-research/llama-7b-hf", "huggyllama/llama-7b"),
    ("LLM-Research/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    ("gpt2", "openai-community/gpt2"),
    ("nobody-knows/Foo-7B-Instruct", "somebody/foo-instruct-7b"),
    # folders and caches, of this and of another machine
    ("/data/models/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-8B", "/data/models/Llama-3.1-8B/"),
    ("C:\\models\\Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ("/data/models/my-own", "bob/my-own"),
    ("./merged/", "merged"),
    (f"{HUB}/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f", "meta-llama/Llama-3.1-8B"),
    (f"{HUB}/models--gpt2/snapshots/607a30d", "gpt2"),
    (f"{SCOPE}/Qwen/Qwen2___5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
    # copies stored in fewer bits, or otherwise
    ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "unsloth/llama-3-8b-Instruct-bnb-4bit"),
    ("unsloth/Qwen3-4B-unsloth-bnb-4bit", "Qwen/Qwen3-4B"),
    ("unsloth/mistral-7b-bnb-4bit", "mistralai/Mistral-7B-v0.1"),
    ("unsloth/zephyr-sft", "HuggingFaceH4/mistral-7b-sft-beta"),
    ("TinyPixel/Llama-2-7B-bf16-sharded", "meta-llama/Llama-2-7b-hf"),
    ("TheBloke/Llama-2-7B-GPTQ", "meta-llama/Llama-2-7b-hf"),
    ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
    ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "meta-llama/Llama-3.1-8B-Instruct"),
    ("RedHatAI/Llama-3.1-8B-quantized.w4a16", "meta-llama/Llama-3.1-8B"),
    ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
    ("mlx-community/Llama-3.2-1B-4bit", "meta-llama/Llama-3.2-1B"),
    ("someone/Foo-7B-4-bit", "someone/Foo-7B"),
    ("google/gemma-3-27b-it-qat-q4_0-unquantized", "google/gemma-3-27b-it"),
]
DIFFERENT = [
    ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "meta-llama/Llama-3.1-8B"),
    ("/data/models/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
    (f"{SCOPE}/Qwen/Qwen2___5-7B-Instruct", "Qwen/Qwen2.5-7B"),
    (f"{HUB}/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e39f", "meta-llama/Llama-3.1-8B"),
    ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"),
    ("google/gemma-2-2b-it", "google/gemma-2-2b"),
    ("unsloth/mistral-7b-bnb-4bit", "mistralai/Mistral-7B-v0.3"),
    ("mistralai/Mistral-7B-v0.1", "alignment-handbook/zephyr-7b-sft-full"),
    ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"),
    ("EleutherAI/pythia-1b", "EleutherAI/pythia-1b-deduped"),
    # not in the table
    ("someone/Foo-7B-Instruct", "another/foo-7b"),
    ("someone/foo-7b", "another/bar-13b"),
    ("someone/foo-7b", "someone/bar-7b"),
    ("someone/Foo-Qwen-7B", "another/Llama-Foo-7B"),
    ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
]
UNKNOWN = [
    (None, "meta-llama/Llama-3.1-8B"),
    ("", "meta-llama/Llama-3.1-8B"),
    ("meta-llama/Llama-3.1-8B", None),
    ("/home/bob/base", "meta-llama/Llama-3.1-8B"),
    ("/home/bob/llama-13b-ours", "meta-llama/Llama-2-7b-hf"),
    ("/home/bob/merged", "/srv/merged"),
    ("./runs/one", "./runs/two"),
    ("models/foo-7b", "models/bar-13b"),
    ("base", "meta-llama/Llama-3.1-8B"),
    # a private copy may be called anything
    ("ourcompany/assistant-7b", "mistralai/Mistral-7B-v0.1"),
    ("someone/foo-7b", "another/bar-7b"),
    ("ISTA-DASLab/Meta-Llama-3.1-8B-AQLM-PV-2Bit-1x16-hf", "meta-llama/Llama-3.1-8B"),
    ("Llama-3-1-8B", "meta-llama/Llama-3.1-8B"),
]


def setup_for(name: str | None, **values: Any) -> Setup:
    return Setup(model=Model(name_or_path=name, **values))


@pytest.mark.parametrize(("trained_on", "loads"), SAME)
def test_one_model_by_two_names(trained_on: str, loads: str) -> None:
    assert bases_differ(trained_on, setup_for(loads)) is False
    assert bases_differ(loads, setup_for(trained_on)) is False


@pytest.mark.parametrize(("trained_on", "loads"), DIFFERENT)
def test_two_models(trained_on: str, loads: str) -> None:
    assert bases_differ(trained_on, setup_for(loads)) is True
    assert bases_differ(loads, setup_for(trained_on)) is True


@pytest.mark.parametrize(("trained_on", "loads"), UNKNOWN)
def test_names_that_decide_nothing(trained_on: str | None, loads: str | None) -> None:
    assert bases_differ(trained_on, setup_for(loads)) is None
    assert bases_differ(loads, setup_for(trained_on)) is None


def test_the_table_is_told_apart_by_names() -> None:
    """Copies of one model agree, models of one architecture do not: the table lists which is which by its entries."""
    by_entry: dict[str, list[str]] = defaultdict(list)
    for each in all_ids():
        found = find_architecture(each)
        assert found is not None
        by_entry[found.base_id].append(each)
    firsts = list(by_entry)
    for first, other in pairwise(firsts):
        assert bases_differ(first, setup_for(other)) is True, (first, other)
    for ids in by_entry.values():
        tuned = [each for each in ids if "instruct" in each.lower() or "chat" in each.lower()]
        for each in tuned:
            plain = each.lower().replace("-instruct", "").replace("-chat", "")
            if plain in (other.lower() for other in ids):
                assert bases_differ(each, setup_for(plain)) is True, (each, plain)
        for each in ids:
            if each.endswith("-bnb-4bit"):
                assert bases_differ(each, setup_for(each.removesuffix("-bnb-4bit"))) is False, each


def test_what_the_config_leaves_open_is_unknown() -> None:
    origins = {"model.name_or_path": Origin(source="unknown", note="The script decides.")}
    assert bases_differ("a/b", Setup(model=Model(name_or_path="c/d"), origins=origins)) is None


def test_folders_are_known_by_what_is_in_them(tiny_llama: Path, model_folder: Any, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    assert bases_differ(str(tiny_llama), setup_for(str(tiny_llama) + "/")) is False
    assert bases_differ(str(tiny_llama), setup_for(str(copy))) is False
    assert bases_differ(str(tiny_llama), setup_for(str(model_folder("llama", seed=3)))) is True
    assert bases_differ(str(tiny_llama), setup_for(str(model_folder("llama", hidden_size=128)))) is True
    assert bases_differ(str(tiny_llama), setup_for(str(model_folder("gpt2")))) is True
    assert bases_differ("meta-llama/Llama-3.1-8B", setup_for(str(copy))) is True
    # other bits of the same model: nothing to hold against each other
    assert bases_differ(str(tiny_llama), setup_for(str(model_folder("llama", dtype="float32")))) is None
    (copy / "model.safetensors").unlink()
    assert bases_differ(str(tiny_llama), setup_for(str(copy))) is None


def test_a_resized_vocabulary_is_no_other_model(model_folder: Any, tiny_llama: Path) -> None:
    assert bases_differ(str(tiny_llama), setup_for(str(model_folder("llama", vocab_size=640)))) is None


@pytest.mark.parametrize(
    ("trained_on", "loads", "differ"),
    [
        ("step3000", "step143000", True),
        ("step3000", "step3000", False),
        ("step3000", None, False),
        (None, "step3000", False),
        ("main", "0e9e39f249a16976918f6564b8830bc894c89659", False),
        ("0e9e39f249a16976918f6564b8830bc894c89659", "0e9e39f", False),
        ("0e9e39f249a16976918f6564b8830bc894c89659", "607a30d783dfa663caf39e06633721c8d4cfcd7e", True),
    ],
)
def test_revisions(trained_on: str | None, loads: str | None, differ: bool) -> None:
    assert revisions_differ(trained_on, setup_for("a/b", revision=loads)) is differ


RECORD = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"}


@pytest.mark.parametrize(
    ("text", "differ"),
    [
        (json.dumps(RECORD), True),
        ("\ufeff" + json.dumps(RECORD), True),
        (json.dumps(RECORD | {"base_model_name_or_path": None}), None),
        (json.dumps(RECORD | {"base_model_name_or_path": ["x"]}), None),
        (json.dumps({"peft_type": "LORA"}), None),
        ("[1, 2]", None),
        ("{", None),
        ("[" * 100_000, None),
        (None, None),
    ],
)
def test_what_an_adapter_records(text: str | None, differ: bool | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    facts = stored_adapter_facts(setup_for("meta-llama/Llama-3.1-8B", adapter=str(tmp_path)))
    assert facts["stored_adapter"] == str(tmp_path)
    assert facts.get("adapter_base_differs") is differ


def test_without_an_adapter_nothing_differs() -> None:
    assert stored_adapter_facts(setup_for("a/b")) == {"adapter_base_differs": False}
    assert stored_adapter_facts(setup_for("a/b", adapter="not/here")) == {"stored_adapter": "not/here"}
    open_ = {"model.adapter": Origin(source="unknown")}
    assert stored_adapter_facts(Setup(model=Model(name_or_path="a/b"), origins=open_)) == {}
