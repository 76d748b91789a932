"""NeMo AutoModel's targets are wildcards over full names, which PEFT would take for names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qlora_doctor.reading import read_setup

LAYER = "model.layers.3"


@pytest.mark.parametrize(
    ("written", "matched", "others"),
    [
        ("'*_proj'", [f"{LAYER}.self_attn.q_proj", f"{LAYER}.mlp.down_proj"], ["lm_head", f"{LAYER}.mlp"]),
        (
            "['*.self_attn.*', lm_head]",
            [f"{LAYER}.self_attn.q_proj", "lm_head"],
            [f"{LAYER}.mlp.down_proj", "my_lm_head"],
        ),
        (
            "'*.q_proj, v_proj'",
            [f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.v_proj"],
            [f"{LAYER}.self_attn.k_proj"],
        ),
    ],
)
def test_wildcards(written: str, matched: list[str], others: list[str], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {_target_: nemo_automodel.X, pretrained_model_name_or_path: my/model}\n"
        f"peft: {{_target_: nemo_automodel.P, target_modules: {written}}}\nquantization: {{load_in_4bit: true}}\n"
    )
    targets = read_setup(path).lora.target_modules
    assert isinstance(targets, str)
    assert all(re.fullmatch(targets, name) for name in matched)
    assert not any(re.fullmatch(targets, name) for name in others)


def test_plain_names_stay_a_list(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {_target_: nemo_automodel.X}\npeft: {_target_: nemo_automodel.P, target_modules: [q_proj]}\n"
    )
    assert read_setup(path).lora.target_modules == ["q_proj"]
