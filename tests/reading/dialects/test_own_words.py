"""Words of a home-made file that its own script turns into values are unknown here, and never passed to a library."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.setup.setup import Setup

_FILE = """
model:
  model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
  torch_dtype: {dtype}
  attn_implementation: {attention}
quantization:
  load_in_4bit: true
  bnb_4bit_quant_type: {kind}
  bnb_4bit_compute_dtype: {compute}
lora:
  r: 16
  lora_alpha: 32
  target_modules: {targets}
training:
  learning_rate: 2.0e-4
  per_device_train_batch_size: {batch}
"""


def read(tmp_path: Path, **words: str) -> Setup:
    usual = {
        "dtype": "bfloat16",
        "attention": "sdpa",
        "kind": "nf4",
        "compute": "bfloat16",
        "targets": "[q_proj]",
        "batch": "2",
    }
    file = tmp_path / "sft.yaml"
    file.write_text(_FILE.format(**usual | words), encoding="utf-8")
    setup = read_setup(file)
    assert setup.dialect == "custom"
    return setup


@pytest.mark.parametrize(
    ("name", "word", "path"),
    [
        ("compute", "auto", "quantization.bnb_4bit_compute_dtype"),
        ("compute", "best", "quantization.bnb_4bit_compute_dtype"),
        ("kind", "default", "quantization.bnb_4bit_quant_type"),
        ("attention", "auto", "model.attn_implementation"),
        ("targets", "auto", "lora.target_modules"),
        ("targets", "[default]", "lora.target_modules"),
        ("batch", "auto", "training.per_device_train_batch_size"),
    ],
)
def test_a_word_for_the_script_is_unknown(tmp_path: Path, name: str, word: str, path: str) -> None:
    setup = read(tmp_path, **{name: word})
    section, _, field = path.partition(".")
    assert setup.is_unknown(path) and getattr(getattr(setup, section), field) is None


def test_a_word_that_the_library_knows_is_read(tmp_path: Path) -> None:
    setup = read(tmp_path, dtype="auto", targets="all-linear")
    assert setup.model.dtype == "auto" and setup.lora.target_modules == "all-linear"


def test_a_trainer_that_hands_it_to_torch_refuses_it(tmp_path: Path) -> None:
    file = tmp_path / "qlora.yml"
    file.write_text(
        "base_model: a/b\nadapter: qlora\nload_in_4bit: true\nlora_r: 8\nmicro_batch_size: 1\n"
        "bnb_config_kwargs:\n  bnb_4bit_compute_dtype: auto\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="bnb_4bit_compute_dtype must be one of"):
        read_setup(file)


@pytest.mark.parametrize(
    ("written", "known"),
    [("attention", False), ("[attention, mlp]", False), ("all", False), ("q_proj", True), ("[q_proj, v_proj]", True),
     ("dense", True), ("all-linear", True)],
)  # fmt: skip
def test_groups_of_layers_are_words_of_the_script(written: str, known: bool, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "model_name: Qwen/Qwen2.5-1.5B\nload_in_4bit: true\nlora_r: 16\nlora_alpha: 32\nlearning_rate: 0.0002\n"
        f"target_modules: {written}\n"
    )
    assert read_setup(path).is_unknown("lora.target_modules") is not known
