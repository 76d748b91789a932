"""Adapters as people really save them: the wrong ways named, the right ones with no finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.probes.stored import stored_facts
from tests.models import make_model
from tests.stored.planting import LAYERS
from tests.stored.saves import FAULTY, SOUND
from tests.stored.sharded_saves import spawn
from tests.stored.test_stored import told


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("saves") / "base", "llama", dtype="float32", num_hidden_layers=LAYERS)


def test_there_are_enough() -> None:
    assert len(FAULTY) >= 30 and len(SOUND) >= 15


@pytest.mark.parametrize("name", FAULTY)
def test_a_wrong_way_is_named(name: str, base: Path, tmp_path: Path) -> None:
    rules, save = FAULTY[name]
    save(base, tmp_path / "saved")
    assert told(stored_facts(tmp_path / "saved")) == rules


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_right_way(name: str, base: Path, tmp_path: Path) -> None:
    SOUND[name](base, tmp_path / "saved")
    facts = stored_facts(tmp_path / "saved")
    assert facts.weights == "whole" and facts.kind == "adapter"
    assert told(facts) == []


def test_under_fsdp_2(base: Path, tmp_path: Path) -> None:
    """Whole tensors are sound; a rank's own part has half the rank; the parts of all are no adapter."""
    spawn(base, tmp_path)
    found = {name: stored_facts(tmp_path / name) for name in ("whole", "own_part", "checkpoint")}
    assert {name: told(facts) for name, facts in found.items()} == {
        "whole": [], "own_part": ["QD377"], "checkpoint": ["QD370"]
    }  # fmt: skip
    assert found["checkpoint"].sharded == "pytorch_model_fsdp_0"


def test_a_folder_of_adapters_names_them(base: Path, tmp_path: Path) -> None:
    """What a model with two named adapters saves, and what a run's folder holds."""
    from peft import LoraConfig, get_peft_model

    from tests.stored.planting import load_base

    config = LoraConfig(r=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(load_base(base), config, adapter_name="policy")
    model.add_adapter("reference", config)
    model.save_pretrained(tmp_path)
    facts = stored_facts(tmp_path)
    assert facts.inner == ["policy", "reference"] and told(facts) == ["QD370"]
