"""The schema agrees with the reader, and the starter agrees with both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.errors import ConfigError, UsageError
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.native import setup_from_mapping
from qlora_doctor.reading.schema import ID, config_schema, key_meanings
from qlora_doctor.writing.starter import starter_config

VALIDATOR = jsonschema.Draft7Validator(config_schema())


def test_the_published_schema_is_current() -> None:
    published = json.loads((asset_folder("reports") / "schema" / ID).read_text(encoding="utf-8"))
    assert published == config_schema(), "run `make schema`"
    jsonschema.Draft7Validator.check_schema(published)


@pytest.mark.parametrize(
    "config",
    [
        {"model": "x/y"},
        {"model": {"name_or_path": "x", "torch_dtype": "torch.bfloat16"}, "lora": None},
        {"model": "x", "lora": {"target_modules": "all-linear", "r": 8, "loftq_config": {}}},
        {
            "model": "x",
            "training": {"max_seq_length": 5, "eval_strategy": False, "adam_beta2": 0.9, "warmup_steps": 0.1},
        },
        {"model": "x", "hardware": {"memory": "24GiB"}, "budgets": {"trainable_ratio": {"max": 0.1}}},
    ],
)
def test_what_is_read_is_valid(config: dict[str, Any]) -> None:
    setup_from_mapping(config)
    VALIDATOR.validate(config)


@pytest.mark.parametrize(
    "config",
    [
        {"lora": {}},
        {"model": "x", "lora": {"r": 0}},
        {"model": "x", "lora": {"bias": "some"}},
        {"model": "x", "training": {"learning_rate": "fast"}},
        {"model": "x", "quantization": {"bnb_4bit_compute_dtype": "int4"}},
        {"model": "x", "lora": {"target_modules": [1]}},
    ],
)
def test_what_is_refused_is_invalid(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        setup_from_mapping(config)
    assert list(VALIDATOR.iter_errors(config))


def test_unknown_keys_are_marked() -> None:
    assert list(VALIDATOR.iter_errors({"model": "x", "lora": {"rank": 8}}))


@pytest.mark.parametrize(
    ("model", "gpu", "dtype", "precision"),
    [
        ("meta-llama/Llama-3.1-8B", "rtx 4090", "bfloat16", "bf16"),
        ("meta-llama/Llama-3.1-8B", "T4", "float16", "fp16"),
        ("./my model: a # strange, 'name'", None, "bfloat16", "bf16"),
    ],
)
def test_the_starter(tmp_path: Path, model: str, gpu: str | None, dtype: str, precision: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(starter_config(model, gpu))
    VALIDATOR.validate(yaml.safe_load(path.read_text()))
    setup = read_setup(path)
    assert setup.dialect_confidence == 1 and not setup.unknown_keys and not setup.string_numbers
    assert setup.model.name_or_path == model
    assert setup.quantization.bnb_4bit_compute_dtype == dtype
    assert getattr(setup.training, precision) is True
    assert setup.training.learning_rate == 2e-4


def test_the_starter_knows_no_such_card() -> None:
    with pytest.raises(UsageError, match="is not a known card"):
        starter_config("x/y", "rtx 9090")
    with pytest.raises(UsageError, match="no name"):
        starter_config(" ")


def test_a_name_that_is_nearly_known_is_told() -> None:
    assert "meta-llama/Llama-3.1-8B" in starter_config("meta-lama/Llama-3.1-8B").splitlines()[3].partition("#")[2]


def test_every_key_says_what_it_means() -> None:
    def silent(path: str, schema: dict[str, Any]) -> list[str]:
        properties = {name: each for name, each in schema.get("properties", {}).items() if name != "$schema"}
        own = [] if schema.get("description") or not path else [path]
        inner = [schema, *schema.get("anyOf", [])]
        deeper = [each for part in inner for name, sub in part.get("properties", {}).items() if name != "$schema"
                  for each in silent(f"{path}.{name}".strip("."), sub)]  # fmt: skip
        return own + deeper if properties or len(inner) > 1 or own else own

    assert not silent("", config_schema())


def test_no_meaning_is_of_a_key_that_there_is_not() -> None:
    keys = {
        f"{section}.{key}"
        for section, schema in config_schema()["properties"].items()
        for part in (schema, *schema.get("anyOf", []))
        for key in part.get("properties", {})
    }
    assert not set(key_meanings()) - keys


def test_a_config_may_name_its_schema(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"$schema": "config-v1.schema.json", "model": "x/y", "lora": {"r": 8}}')
    setup = read_setup(tmp_path / "config.json")
    assert setup.dialect == "native" and setup.dialect_confidence == 1 and not setup.unknown_keys
    text = starter_config("x/y", schema="https://example.org/config.json")
    assert text.startswith("# yaml-language-server: $schema=https://example.org/config.json\n")
