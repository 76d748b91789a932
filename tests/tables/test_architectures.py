"""The bundled architectures against the published parameter counts, built for real on the meta device."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from qlora_doctor.tables.architectures import (
    ARCHITECTURE_IDS,
    Architecture,
    closest_architectures,
    find_architecture,
)

# One or two of each family, and those that a config can get wrong in its own way: tied and untied heads,
# grouped heads, a head_dim of its own, 3-D experts, Conv1D, projections around the embedding, state spaces, vision
# towers with their projector.
REPRESENTATIVE = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-70b-hf",
    "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-3.2-1B",
    "mistralai/Mistral-7B-v0.1",
    "mistralai/Mistral-Nemo-Base-2407",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-2-2b",
    "google/gemma-3-1b-pt",
    "microsoft/phi-2",
    "microsoft/Phi-3-mini-4k-instruct",
    "tiiuae/falcon-7b",
    "tiiuae/Falcon-H1-0.5B-Base",
    "allenai/OLMo-2-1124-7B",
    "allenai/OLMoE-1B-7B-0924",
    "openai-community/gpt2",
    "EleutherAI/pythia-1.4b",
    "facebook/opt-350m",
    "bigscience/bloom-560m",
    "bigcode/starcoder2-3b",
    "deepseek-ai/DeepSeek-V2-Lite",
    "CohereLabs/aya-23-8B",
    "ibm-granite/granite-3.3-8b-instruct",
    "state-spaces/mamba-130m-hf",
    "openai/gpt-oss-20b",
    "google/gemma-3-4b-pt",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
    "Qwen/Qwen3.5-9B",
    "mistralai/Mistral-Small-3.1-24B-Base-2503",
    "allenai/Olmo-3-1025-7B",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    "ibm-granite/granite-4.0-h-tiny",
    "LiquidAI/LFM2-1.2B",
    "google/gemma-4-E2B",
    "mistralai/Ministral-3-8B-Base-2512",
)


def known(model_id: str) -> Architecture:
    architecture = find_architecture(model_id)
    assert architecture is not None, model_id
    return architecture


def logical_parameters(architecture: Architecture) -> int:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = dict(architecture.config)
    config.pop("quantization_config", None)
    model_type = config.pop("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not know {model_type}")
    built = getattr(transformers, config["architectures"][0])
    if "text_config" in config and transformers.__version__.startswith("4."):
        pytest.skip("the config of a model with a vision tower is laid out as transformers 5 has it")
    with torch.device("meta"):
        model = built._from_config(transformers.AutoConfig.for_model(model_type, **config))
    return sum(parameter.numel() for parameter in model.parameters())


def check_count(architecture: Architecture) -> None:
    counted = logical_parameters(architecture)
    assert abs(counted - architecture.published_parameters) <= architecture.published_tolerance, (
        f"{architecture.id}: {counted:,} built, {architecture.published_parameters:,} published"
    )


@pytest.mark.torch
@pytest.mark.parametrize("model_id", REPRESENTATIVE)
def test_builds_with_the_published_parameter_count(model_id: str) -> None:
    check_count(known(model_id))


@pytest.mark.torch
@pytest.mark.parametrize("model_id", [each for each in ARCHITECTURE_IDS if each not in REPRESENTATIVE])
def test_every_other_entry_builds_with_the_published_parameter_count(model_id: str) -> None:
    check_count(known(model_id))


@pytest.mark.torch
def test_every_variant_builds_with_the_count_of_its_entry() -> None:
    seen: set[str] = set()
    for model_id in ARCHITECTURE_IDS:
        entry = known(model_id)
        for alias in entry.aliases:
            variant = known(alias)
            shape = json.dumps({**variant.config, "quantization_config": None}, sort_keys=True)
            if shape not in seen and variant.config != entry.config:
                seen.add(shape)
                check_count(variant)


def test_covers_at_least_fifty_checkpoints_and_the_families_people_fine_tune() -> None:
    assert len(ARCHITECTURE_IDS) >= 50
    families = {known(model_id).config["model_type"] for model_id in ARCHITECTURE_IDS}
    expected = """
        llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 falcon
        falcon_h1 olmo2 olmoe gpt2 gptj gpt_neox opt bloom stablelm starcoder2 deepseek_v2 smollm3 cohere
        cohere2 granite mamba gpt_oss gemma3 qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe qwen3_5 qwen3_5_moe qwen3_next
        llama4 mistral3 idefics3 paligemma llava glm4 glm4_moe olmo3 deepseek_v3 granitemoehybrid nemotron_h lfm2
        lfm2_moe seed_oss apertus exaone4 dots1 ernie4_5 ernie4_5_moe jamba phimoe gemma4 deepseek_v32 glm_moe_dsa
        whisper glm4v kimi_linear minimax_m2
    """
    assert families >= set(expected.split())


def test_most_counts_are_exact_and_a_rounded_one_is_close() -> None:
    entries = [known(model_id) for model_id in ARCHITECTURE_IDS]
    assert sum(entry.published_tolerance == 0 for entry in entries) >= 0.9 * len(entries)
    for entry in entries:
        assert 0 <= entry.published_tolerance <= entry.published_parameters / 8
        assert entry.published_tolerance == 0 or entry.published_note
        assert entry.published_source.startswith("https://")


def test_ids_are_unique_in_any_letter_case() -> None:
    ids = [each for model_id in ARCHITECTURE_IDS for each in (model_id, *known(model_id).aliases)]
    assert len({each.casefold() for each in ids}) == len(ids)
    for each in ids:
        assert known(each).id == each


def test_an_alias_finds_its_entry_in_any_letter_case() -> None:
    found = known("nousresearch/LLAMA-2-7B-HF")
    assert found.id == "NousResearch/Llama-2-7b-hf"
    assert found.base_id == "meta-llama/Llama-2-7b-hf"
    assert "meta-llama/Llama-2-7b-hf" in found.aliases
    assert found.id not in found.aliases


def test_a_variant_differs_where_its_config_does() -> None:
    base, instruct = known("Qwen/Qwen2.5-7B"), known("Qwen/Qwen2.5-7B-Instruct")
    assert (base.context_length, instruct.context_length) == (131072, 32768)
    assert known("google/gemma-2-9b").dtype == known("google/gemma-2-9b").config["torch_dtype"] == "float32"
    assert known("google/gemma-2-9b-it").dtype == "bfloat16"


def test_the_context_length_of_a_model_with_images_is_that_of_its_text() -> None:
    assert known("google/gemma-3-4b-it").context_length == 131072
    assert known("Qwen/Qwen3-VL-8B-Instruct").context_length == 262144


def test_a_4bit_checkpoint_says_so_and_carries_its_quantization_config() -> None:
    prequantized = known("unsloth/llama-3-8b-bnb-4bit")
    assert prequantized.prequantized
    assert prequantized.config["quantization_config"]["quant_method"] == "bitsandbytes"
    assert prequantized.config["quantization_config"]["load_in_4bit"] is True
    plain = known("meta-llama/Meta-Llama-3-8B")
    assert not plain.prequantized
    assert "quantization_config" not in plain.config
    assert known("openai/gpt-oss-20b").config["quantization_config"]["quant_method"] == "mxfp4"
    assert not known("unsloth/gpt-oss-20b-BF16").prequantized


def test_a_caller_may_change_the_config_it_got() -> None:
    mine = known("meta-llama/Llama-3.1-8B").config
    mine["rope_scaling"]["factor"] = 1.0
    mine["vocab_size"] = 5
    again = known("meta-llama/Llama-3.1-8B").config
    assert again["rope_scaling"]["factor"] == 8.0
    assert again["vocab_size"] == 128256


def test_an_unknown_id_is_none_and_a_near_one_is_offered() -> None:
    assert find_architecture("acme/secret-7b") is None
    assert find_architecture("") is None
    assert "meta-llama/Llama-2-7b-hf" in closest_architectures("meta-llama/Llama-2-7b-fh")
    assert "mistralai/Mistral-7B-v0.1" in closest_architectures("mistral/Mistral-7B-v0.1")
    assert closest_architectures("zzzz") == []
    assert len(closest_architectures("Qwen/Qwen2.5-7B-Instrct", n=2)) == 2


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        "import sys; from qlora_doctor.tables.architectures import find_architecture\n"
        "assert find_architecture('gpt2') and not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
