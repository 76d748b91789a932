"""Stored adapters and merged models: each planted fault named, and nothing said of sound ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import StageError
from qlora_doctor.engine import Rule, judge, load_rules
from qlora_doctor.facts import Facts
from qlora_doctor.facts.stored import StoredFacts
from qlora_doctor.probes.stored import stored_facts
from qlora_doctor.probes.stored.merging import replayed
from qlora_doctor.probes.stored.ways import measured
from qlora_doctor.reporters.afterwards import stored_lines
from tests.models import make_model
from tests.stored.planting import FAULTS, LAYERS, adapt, changed, load_base, plant, trained


@cache
def rules() -> list[Rule]:
    return [rule for rule in load_rules() if rule.stage == "stored"]


def told(stored: StoredFacts) -> list[str]:
    return sorted(finding.rule for finding in judge(Facts(stored=stored), rules()).findings)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("stored") / "base", "llama", dtype="float32", num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def sound(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "adapter"
    trained(adapt(load_base(base))).save_pretrained(folder)
    return folder


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 30


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, sound: Path, tmp_path: Path) -> None:
    rule, fault = FAULTS[name]
    assert told(stored_facts(plant(sound, tmp_path, fault))) == [rule]


def test_nothing_is_unpickled(sound: Path, base: Path, tmp_path: Path) -> None:
    folder = plant(sound, tmp_path, FAULTS["pickled"][1])
    (folder / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    stored_facts(folder)
    with pytest.raises(StageError, match="is a pickle"):
        measured(folder, base, None, device="cpu")
    assert replayed(base, base, folder)["merge"] == "undecided"
    assert not (tmp_path / "ran").exists()


def test_a_pickled_base_is_not_loaded(sound: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shutil.copy(base / "config.json", tmp_path / "base")
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"no pickle")
    with pytest.raises(StageError) as failed:
        measured(sound, tmp_path / "base", None, device="cpu")
    assert failed.value.kind == "pickle-only"


def test_a_pointer_of_git_is_told_from_damage(sound: Path, tmp_path: Path) -> None:
    assert "git lfs pull" in str(stored_facts(plant(sound, tmp_path, FAULTS["a-pointer-of-git"][1])).weights_failure)


HEALTHY: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "two-targets": {"target_modules": ["q_proj", "v_proj"]},
    "regex": {"target_modules": r".*layers\.\d+\.self_attn\.[qv]_proj"},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "lora_alpha": 16},
    "patterns": {"rank_pattern": {"q_proj": 4, r".*\.down_proj": 2}, "alpha_pattern": {"q_proj": 8}},
    "head-saved": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
    "embeddings-saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [4, 5, 6]},
    "some-layers": {"target_modules": ["q_proj"], "layers_to_transform": [0, 3, 4]},
    "excluded": {"exclude_modules": ["down_proj"]},
    "biases": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
    "large-rank": {"r": 64},
    "embedding-adapted": {"target_modules": ["embed_tokens", "q_proj"]},
    "all-biases": {"bias": "all"},
    "bias-of-b": {"lora_bias": True},
    "rank-one": {"r": 1},
    "one-module": {"target_modules": ["model.layers.3.self_attn.q_proj"]},
    "last-layers-by-name": {"target_modules": [f"model.layers.{n}.self_attn.v_proj" for n in (LAYERS - 2, LAYERS - 1)]},
    "norms-saved": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "layers-replicated": {"layer_replication": [[0, 4], [2, 6]]},
    "anchored-patterns": {"rank_pattern": {"^model.layers.2.mlp.*": 2}, "alpha_pattern": {"v_proj": 64}},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_sound_adapter(name: str, base: Path, tmp_path: Path) -> None:
    trained(adapt(load_base(base), **HEALTHY[name])).save_pretrained(tmp_path / "a")
    assert told(stored_facts(tmp_path / "a")) == []


OTHER_KINDS: dict[str, dict[str, Any]] = {
    "VeraConfig": {"target_modules": ["q_proj"]},
    "LoHaConfig": {"r": 4, "target_modules": ["q_proj"]},
    "IA3Config": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "PromptTuningConfig": {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4},
    "AdaLoraConfig": {"total_step": 10, "target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_what_is_no_lora_is_said_to_be_none(kind: str, base: Path, tmp_path: Path) -> None:
    """Nothing is found, and nothing that only LoRA has is said to be right."""
    import peft

    model = peft.get_peft_model(load_base(base), getattr(peft, kind)(**OTHER_KINDS[kind]))
    trained(model).save_pretrained(tmp_path / "a")
    stored = stored_facts(tmp_path / "a")
    assert told(stored) == [] and stored.all_zero is None and stored.learned is None and stored.servers == []
    assert any("and not LoRA" in line for line in stored_lines(stored))
    changed(lambda name: True, lambda tensor: tensor * float("nan"))(tmp_path / "a")
    assert told(stored_facts(tmp_path / "a")) == ["QD374"]


def compiled(base: Path, folder: Path) -> None:
    import torch

    torch.compile(trained(adapt(load_base(base)))).save_pretrained(folder)


def in_bfloat16(base: Path, folder: Path) -> None:
    import torch

    trained(adapt(load_base(base))).to(torch.bfloat16).save_pretrained(folder)


def with_a_name(base: Path, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trained(get_peft_model(load_base(base), config, adapter_name="mine")).save_pretrained(folder)


def resized(base: Path, folder: Path) -> None:
    """New tokens, and embeddings that PEFT stores because their number changed."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<|new{i}|>" for i in range(200)])
    model = load_base(base)
    model.resize_token_embeddings(len(tokenizer))
    trained(adapt(model, modules_to_save=["embed_tokens", "lm_head"])).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def classifier(base: Path, folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.config.pad_token_id = 3
    trained(adapt(model, task_type="SEQ_CLS")).save_pretrained(folder)


def gpt2(base: Path, folder: Path) -> None:
    other = make_model(folder.parent / "gpt2", "gpt2", dtype="float32")
    trained(adapt(load_base(other), target_modules=["c_attn", "c_proj"])).save_pretrained(folder)


def of_a_trainer(base: Path, folder: Path) -> None:
    """A checkpoint with optimizer and scheduler beside the adapter."""
    import torch

    trained(adapt(load_base(base))).save_pretrained(folder)
    torch.save({}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text("{}")


def merged(base: Path, folder: Path) -> None:
    trained(adapt(load_base(base))).merge_and_unload().save_pretrained(folder)


def in_4bit(base: Path, folder: Path) -> None:
    from transformers import BitsAndBytesConfig

    load_base(base, quantization_config=BitsAndBytesConfig(load_in_4bit=True)).save_pretrained(folder)


@pytest.mark.parametrize(
    "save", [compiled, in_bfloat16, with_a_name, resized, classifier, gpt2, of_a_trainer, merged, in_4bit]
)
def test_nothing_is_said_of_other_sound_folders(save: Callable[[Path, Path], None], base: Path, tmp_path: Path) -> None:
    save(base, tmp_path / "saved")
    facts = stored_facts(tmp_path / "saved")
    assert facts.weights == "whole"
    assert told(facts) == []


def test_a_stale_quantization_config_is_named(base: Path, tmp_path: Path) -> None:
    merged(base, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["quantization_config"] = {"load_in_4bit": True, "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert told(stored_facts(tmp_path / "m")) == ["QD389"]


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_other_methods_of_quantization_may_be_stale_too(method: str, base: Path, tmp_path: Path) -> None:
    merged(base, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    assert told(stored_facts(tmp_path / "m")) == ["QD389"]


def test_packed_weights_under_the_config_of_the_base(base: Path, tmp_path: Path) -> None:
    in_4bit(base, tmp_path / "m")
    shutil.copy(base / "config.json", tmp_path / "m" / "config.json")
    assert told(stored_facts(tmp_path / "m")) == ["QD760"]


def test_an_adapter_left_in_a_model_is_named(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = trained(adapt(load_base(base)))
    model.merge_adapter()
    merged(base, tmp_path / "m")
    state = {name.removeprefix("base_model.model."): tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "m" / "model.safetensors")
    assert told(stored_facts(tmp_path / "m")) == ["QD390"]


def test_a_shard_that_is_missing_is_named(base: Path, tmp_path: Path) -> None:
    trained(adapt(load_base(base))).merge_and_unload().save_pretrained(tmp_path / "m", max_shard_size="300KB")
    next((tmp_path / "m").glob("model-0000*.safetensors")).unlink()
    assert told(stored_facts(tmp_path / "m")) == ["QD370"]


def test_what_was_learned_is_what_torch_computes(base: Path, tmp_path: Path) -> None:
    import torch

    model = trained(adapt(load_base(base), rank_pattern={"q_proj": 4}, alpha_pattern={"v_proj": 32}))
    model.save_pretrained(tmp_path / "a")
    learned = {each.module: each for each in stored_facts(tmp_path / "a").learned or []}
    assert len(learned) == 7 * LAYERS
    for name, module in model.base_model.model.named_modules():
        if hasattr(module, "lora_A"):
            change = module.get_delta_weight("default").detach()
            singular = torch.linalg.svdvals(change.double())
            shares = singular[singular > 1e-9 * singular[0]] / singular.sum()
            assert learned[name].norm == pytest.approx(float(change.norm()), rel=1e-4)
            assert learned[name].effective_rank == pytest.approx(
                float(torch.exp(-(shares * shares.log()).sum())), rel=1e-3
            )


def test_serving_needs(base: Path, tmp_path: Path) -> None:
    def servers(**lora: Any) -> dict[str, tuple[str, str | None]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        adapt(load_base(base), **lora).save_pretrained(folder)
        return {server.name: (server.status, server.note) for server in stored_facts(folder).servers or []}

    assert servers()["vLLM"] == ("serves", None)
    assert servers(r=48)["vLLM"] == ("needs", "--max-lora-rank 64")
    assert servers(use_dora=True)["vLLM"][0] == servers(use_dora=True)["llama.cpp"][0] == "refuses"
    assert servers(modules_to_save=["lm_head"], target_modules=["q_proj"])["vLLM"][0] == "refuses"
    assert servers()["TGI"] == ("needs", "LORA_ADAPTERS")
    some = servers(target_modules=["q_proj"], layers_to_transform=[0, 1])
    assert some["TGI"][0] == "alters" and some["vLLM"] == ("serves", None)
    patterns = servers(alpha_pattern={"q_proj": 64})
    assert patterns["vLLM"][0] == patterns["TGI"][0] == patterns["llama.cpp"][0] == "alters"
    ranks = servers(rank_pattern={"q_proj": 4})
    assert ranks["vLLM"][0] == "alters" and ranks["llama.cpp"][0] == "needs"
    rooted = servers(use_rslora=True)
    assert rooted["llama.cpp"][0] == "alters" and rooted["vLLM"] == ("serves", None)
    assert "pissa" in (servers(init_lora_weights="pissa")["vLLM"][1] or "")
    tokens = servers(target_modules=["q_proj"], trainable_token_indices=[4, 5, 6])
    assert "--max-lora-trainable-tokens 3" in (tokens["vLLM"][1] or "")
    assert tokens["llama.cpp"][0] == "refuses" and tokens["TGI"][0] == "alters"
    assert tokens["PEFT"] == ("needs", "0.15 or newer")
    biases = servers(lora_bias=True)
    assert biases["vLLM"][0] == biases["llama.cpp"][0] == "refuses" and biases["TGI"][0] == "alters"
    norms = servers(target_modules=["q_proj"], modules_to_save=["input_layernorm"])
    assert norms["llama.cpp"][0] == "needs" and norms["vLLM"][0] == "refuses"
    copied = servers(layer_replication=[[0, 4], [2, 6]])
    assert copied["vLLM"][0] == copied["llama.cpp"][0] == "refuses" and copied["PEFT"] == ("needs", "0.10 or newer")


def test_names_with_the_adapters_name_are_peft_s_alone(base: Path, tmp_path: Path) -> None:
    from tests.stored.saves import a_state_with_the_adapters_name

    a_state_with_the_adapters_name(base, tmp_path / "a")
    facts = stored_facts(tmp_path / "a")
    status = {server.name: server.status for server in facts.servers or []}
    assert status == {"vLLM": "refuses", "TGI": "refuses", "llama.cpp": "refuses", "PEFT": "serves"}


def test_an_empty_folder(tmp_path: Path) -> None:
    assert told(stored_facts(tmp_path)) == ["QD370"]
    shutil.rmtree(tmp_path)
