"""The native dialect: what is meant, where it stands, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import ConfigError, UsageError
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.native import setup_from_mapping
from qlora_doctor.setup.setup import KeyNote


def read(folder: Path, text: str, name: str = "config.yaml") -> Any:
    path = folder / name
    path.write_text(text)
    return read_setup(path)


def test_values_and_their_places(tmp_path: Path) -> None:
    setup = read(
        tmp_path,
        "# mine\nmodel: meta-llama/Llama-2-7b-hf\nlora:\n  r: 16\n  target_modules: [q_proj, v_proj]\n"
        "training:\n  max_seq_length: 512\n",
    )
    assert setup.dialect == "native" and setup.dialect_confidence == 1.0
    assert setup.model.name_or_path == "meta-llama/Llama-2-7b-hf"
    assert setup.lora.target_modules == ["q_proj", "v_proj"]
    assert setup.training.max_length == 512
    assert setup.training.bf16 is None and "training.bf16" not in setup.origins
    assert setup.origins["lora.r"].source == "explicit"
    place = setup.place("lora.target_modules")
    assert (place.line, place.column, place.pointer) == (5, 3, "/lora/target_modules")
    assert place.excerpt == "  target_modules: [q_proj, v_proj]"
    assert setup.place("training.max_length").pointer == "/training/max_seq_length"
    assert setup.place("training.bf16").line == 6  # the section, where the key would stand
    assert setup.place("model.name_or_path").line == 2
    assert setup.place("data.train") is None


def test_a_copy_keeps_its_places(tmp_path: Path) -> None:
    setup = read(tmp_path, "model: x/y\nlora: {r: 8}\n")
    assert setup.model_copy(update={"dialect_confidence": 0.5}).place("lora.r").line == 2


def test_a_setup_survives_the_way_to_another_process(tmp_path: Path) -> None:
    setup = read(tmp_path, "model: x/y\nlora: {r: 8, loftq_config: {loftq_bits: 4}}\ntraining: {adam_beta2: 0.95}\n")
    again = type(setup).model_validate_json(setup.model_dump_json())
    assert again.model_dump() == setup.model_dump()
    assert again.lora.extra == {"loftq_config": {"loftq_bits": 4}} and again.training.extra == {"adam_beta2": 0.95}


@pytest.mark.parametrize(
    ("text", "sentence", "line"),
    [
        (
            "model: x/y\ntraining:\n  learning_rate: fast\n",
            "training.learning_rate must be a number, found the text 'fast'.",
            3,
        ),
        ("model: x/y\nlora:\n  r: true\n", "lora.r must be a whole number, found true.", 3),
        ("model: x/y\nlora:\n  r: 8.5\n", "lora.r must be a whole number, found the number 8.5.", 3),
        ("model: x/y\nlora: {r: 0}\n", "lora.r must be at least 1, found the number 0.", 2),
        ("model: x/y\nlora: [8]\n", "lora must be a mapping, found a list with the number 8.", 2),
        (
            "model: x/y\nlora: {target_modules: [q, 1]}\n",
            "lora.target_modules must be a list of texts or a text, found a list with the number 1.",
            2,
        ),
        (
            "model: x/y\nlora: {bias: some}\n",
            "lora.bias must be one of none, all, lora_only, found the text 'some'.",
            2,
        ),
        (
            "model: x/y\nquantization: {bnb_4bit_quant_type: NF4}\n",
            "quantization.bnb_4bit_quant_type must be one of nf4, fp4, found the text 'NF4'.",
            2,
        ),
        (
            "model: x/y\ntraining: {trainer: lightning}\n",
            "training.trainer must be one of transformers, trl, found the text 'lightning'.",
            2,
        ),
        (
            "model: x/y\ntraining: {learning_rate: .nan}\n",
            "training.learning_rate must be a number, found the number nan.",
            2,
        ),
        ("model: x/y\nhardware: {gpu: rtx-9090}\n", "hardware.gpu 'rtx-9090' is not a known card.", 2),
        (
            "model: x/y\nhardware: {memory: lots}\n",
            "hardware.memory must be a memory size such as 24GiB, or a number of bytes, found the text 'lots'.",
            2,
        ),
        ("model: [x]\n", "model must be a mapping or a text, found a list.", 1),
        ("model:\nlora: {r: 8}\n", "names no model.", 1),
    ],
)
def test_wrong_values(tmp_path: Path, text: str, sentence: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.message.endswith(sentence)
    assert caught.value.exit_code == 2
    assert caught.value.place is not None and caught.value.place.line == line


def test_a_mapping_has_pointers_only() -> None:
    with pytest.raises(ConfigError) as caught:
        setup_from_mapping({"model": "x", "lora": {"r": "many"}})
    assert caught.value.place is not None and caught.value.place.pointer == "/lora/r"
    assert (
        setup_from_mapping({"model": {"name_or_path": "x", "torch_dtype": "torch.bfloat16"}}).model.dtype == "bfloat16"
    )


def test_unknown_keys_are_kept_not_refused(tmp_path: Path) -> None:
    setup = read(
        tmp_path,
        "model: x/y\ntrianing: {}\nquantization: {load_in_4bit: true}\n"
        "lora:\n  r: 8\n  lora_dropout: 0.1\n  learning_rate: 0.1\n  lora_aplha: 16\n"
        "training: {evaluation_strategy: steps, bf16: true, seed: 1}\n",
    )
    found = {key.key: key for key in setup.unknown_keys}
    assert found["trianing"].closest == "training"
    assert found["lora.learning_rate"].closest == "training.learning_rate"
    assert found["lora.lora_aplha"].closest == "lora.lora_alpha"
    assert setup.place("lora.lora_aplha").line == 8
    assert setup.removed_keys == [
        KeyNote(
            key="training.evaluation_strategy",
            closest="training.eval_strategy",
            note="Renamed in transformers 4.41, removed in 4.51.",
        )
    ]
    assert setup.dialect_confidence < 1


def test_numbers_written_as_texts_are_read_and_noted(tmp_path: Path) -> None:
    setup = read(tmp_path, "model: x/y\ntraining: {learning_rate: 2e-4, max_steps: '10', seed: 1.0}\n")
    assert setup.training.learning_rate == 2e-4 and setup.training.max_steps == 10 and setup.training.seed == 1
    assert setup.string_numbers == ["training.learning_rate", "training.max_steps"]


def test_words_that_yaml_takes_for_truth_values(tmp_path: Path) -> None:
    setup = read(tmp_path, "model: x/y\ntraining: {eval_strategy: no, save_strategy: no, bf16: yes}\n")
    assert setup.training.eval_strategy == "no" and setup.training.save_strategy == "no"
    assert setup.training.bf16 is True


def test_duplicates_are_told_by_path(tmp_path: Path) -> None:
    setup = read(tmp_path, '{"model": "x", "lora": {"r": 8, "r": 16}}', "c.json")
    assert setup.duplicate_keys == ["lora.r"] and setup.lora.r == 16


def test_what_nobody_recognises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "fruit: apple\ncolour: red\n")
    assert "fruit" in caught.value.message and caught.value.remedy is not None
    with pytest.raises(ConfigError):
        read(tmp_path, "- a\n- b\n")


def test_the_dialect_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: x/y\nfruit: apple\ncolour: red\nshape: round\n")
    assert read_setup(path, dialect="native").model.name_or_path == "x/y"
    with pytest.raises(UsageError, match="There is no dialect 'latin'"):
        read_setup(path, dialect="latin")
