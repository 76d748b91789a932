"""Data that a config names is told in its own keys, be it looked at or not; none only where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qlora_doctor.reading import read_setup
from qlora_doctor.setup.named import why_not_looked_at
from qlora_doctor.setup.setup import NamedData, Setup

AXOLOTL: dict[str, Any] = {
    "base_model": "x/y",
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 8,
    "micro_batch_size": 1,
    "sequence_len": 512,
}
FACTORY: dict[str, Any] = {
    "model_name_or_path": "x/y",
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "quantization_bit": 4,
    "template": "llama3",
    "cutoff_len": 512,
    "output_dir": "out",
    "per_device_train_batch_size": 1,
}
TRL: dict[str, Any] = {
    "model_name_or_path": "x/y",
    "use_peft": True,
    "load_in_4bit": True,
    "lora_r": 8,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 1,
    "output_dir": "out",
}


def read(folder: Path, data: dict[str, Any], dialect: str | None = None) -> Setup:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return read_setup(path, dialect=dialect)


def one(setup: Setup, role: str = "train") -> NamedData:
    (named,) = [each for each in setup.named_data if each.role == role]
    return named


def test_axolotl_names_its_datasets(tmp_path: Path) -> None:
    datasets = [
        {"path": "tatsu-lab/alpaca", "type": "alpaca", "split": "train[:90%]"},
        {"path": "data/own.jsonl", "type": "chat_template", "chat_template": "chatml", "field_messages": "turns"},
        {"path": "json", "data_files": ["a.jsonl"], "type": {"field_instruction": "q"}},
    ]
    setup = read(tmp_path, {**AXOLOTL, "datasets": datasets, "test_datasets": [{"path": "x/z", "type": "alpaca"}]})
    first, second, third = (each for each in setup.named_data if each.role == "train")
    assert (first.kind, first.name, first.format, first.split) == ("hub", "tatsu-lab/alpaca", "alpaca", "train[:90%]")
    assert (second.kind, second.template, second.columns) == ("file", "chatml", {"field_messages": "turns"})
    assert third.files == ["a.jsonl"] and "field_instruction" in str(third.format)
    assert first.key == "datasets.0" and first.place is not None and first.place.pointer == "/datasets/0"
    assert one(setup, "eval").key == "test_datasets.0"
    why, remedy = why_not_looked_at(setup)
    assert "datasets.0: tatsu-lab/alpaca (type alpaca, split train[:90%])" in why and "templates of its own" in why
    assert remedy is None and "names no data" not in why


def test_what_is_looked_at_has_nothing_left_to_follow(tmp_path: Path) -> None:
    datasets = [{"path": "x/text", "type": "completion"}, {"path": "x/more", "type": "completion"}]
    setup = read(tmp_path, {**AXOLOTL, "datasets": datasets})
    first, second = setup.named_data
    assert setup.data.train == "x/text" and first.not_followed is None
    assert "first is looked at" in str(second.not_followed)


@pytest.mark.parametrize("folder", ["data", "."])
def test_llamafactory_names_entries_of_its_own_list(tmp_path: Path, folder: str) -> None:
    config = {**FACTORY, "dataset": "own, alpaca_en ,gone", "dataset_dir": folder}
    setup = read(tmp_path, config)
    assert [(each.kind, each.name) for each in setup.named_data] == [
        ("registry", "own"),
        ("registry", "alpaca_en"),
        ("registry", "gone"),
    ]
    assert "dataset_info.json" in why_not_looked_at(setup)[0] and "is not here" in why_not_looked_at(setup)[0]
    info = {
        "own": {"file_name": "own.json", "formatting": "sharegpt", "columns": {"messages": "turns"}},
        "alpaca_en": {"hf_hub_url": "llamafactory/alpaca_en"},
    }
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "dataset_info.json").write_text(json.dumps(info))
    own, alpaca, gone = read(tmp_path, config).named_data
    assert own.kind == "file" and own.files == [str(tmp_path / folder / "own.json")]
    assert (own.format, own.template, own.columns, own.key) == ("sharegpt", "llama3", {"messages": "turns"}, "dataset")
    assert (alpaca.kind, alpaca.name, alpaca.format) == ("hub", "llamafactory/alpaca_en", "alpaca")
    assert "has no entry gone" in str(gone.not_followed)


@pytest.mark.parametrize(
    ("data", "dialect", "key", "name", "kind"),
    [
        ({**TRL, "dataset_name": "trl-lib/Capybara"}, "trl", "dataset_name", "trl-lib/Capybara", "hub"),
        ({**TRL, "dataset_mixer": {"a/b": 1.0}}, None, "dataset_mixer", "a/b", "hub"),
        (
            {**TRL, "dataset_mixture": {"datasets": [{"id": "a/b", "split": "train"}]}},
            None,
            "dataset_mixture.datasets.0",
            "a/b",
            "hub",
        ),
        ({"model": "x/y", "lora": {"r": 8}, "data": {"train": "a.jsonl"}}, "native", "data.train", "a.jsonl", "file"),
        (
            {"model": "x/y", "dataset": ["a/b:sub#500"], "tuner_type": "lora"},
            "ms-swift",
            "dataset.0",
            "a/b:sub#500",
            "hub",
        ),
        (
            {"dataset": {"_component_": "torchtune.datasets.chat_dataset", "source": "json", "data_files": "a.json"}},
            "torchtune",
            "dataset",
            "a.json",
            "file",
        ),
        (
            {"model": {"model_name": "x/y"}, "data": {"train": {"datasets": [{"dataset_name": "a/b", "subset": "s"}]}}},
            "oumi",
            "data.train.datasets.0",
            "a/b",
            "hub",
        ),
        (
            {"checkpoint_dir": "c", "data": {"class_path": "litgpt.data.JSON", "init_args": {"json_path": "a.json"}}},
            "litgpt",
            "data",
            "a.json",
            "file",
        ),
        ({"checkpoint_dir": "c", "data": "Alpaca"}, "litgpt", "data", "Alpaca", "hub"),
        ({"task": "llm-sft", "base_model": "x/y", "data": {"path": "a/b"}}, "autotrain", "data", "a/b", "hub"),
        ({"dataset": {"path_or_dataset": "a/b", "split": "train"}}, "nemo-automodel", "dataset", "a/b", "hub"),
        ({"train_file": "a.jsonl"}, "firefly", "train_file", "a.jsonl", "file"),
        ({"data_paths": "[a/train]"}, "mftcoder", "data_paths", "[a/train]", "hub"),
        ({"model": {"name": "x/y"}, "lora": {"r": 8}, "data": {"train": "a/b"}}, "custom", "data.train", "a/b", "hub"),
    ],
)
def test_each_dialect_names_its_data(
    tmp_path: Path, data: dict[str, Any], dialect: str | None, key: str, name: str, kind: str
) -> None:
    setup = read(tmp_path, data, dialect)
    named = one(setup)
    assert (named.key, named.name, named.kind) == (key, name, kind)
    assert "names no data" not in why_not_looked_at(setup)[0]


@pytest.mark.parametrize(
    ("data", "dialect"), [(AXOLOTL, "axolotl"), (FACTORY, "llamafactory"), (TRL, "trl"), ({"model": "x/y"}, "native")]
)
def test_none_is_said_where_there_is_none_in_the_keys_of_the_dialect(
    tmp_path: Path, data: dict[str, Any], dialect: str
) -> None:
    setup = read(tmp_path, data, dialect)
    why, remedy = why_not_looked_at(setup)
    assert setup.named_data == [] and why == "The config names no data."
    keys = {"axolotl": "datasets", "llamafactory": "dataset", "trl": "dataset_name", "native": "data.train"}
    assert keys[dialect] in str(remedy)


SCRIPT = """\
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

NAME = "tatsu-lab/alpaca"
model = AutoModelForCausalLM.from_pretrained("x/y", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
{load}
trainer = SFTTrainer(model=model, args=SFTConfig(), train_dataset=data, peft_config=LoraConfig(r=8))
trainer.train()
"""


@pytest.mark.parametrize(
    ("load", "name", "kind", "transforms"),
    [
        ("data = load_dataset(NAME, split='train').map(lambda row: row)", "tatsu-lab/alpaca", "hub", ["map (line 8)"]),
        ("data = load_dataset('json', data_files='a.jsonl')['train'].filter(bool)", "a.jsonl", "file",
         ["filter (line 8)"]),
        ("data = load_dataset('json', data_files={'train': 'b.jsonl'})['train'].shuffle()", "b.jsonl", "file",
         ["shuffle (line 8)"]),
        ("data = Dataset.from_pandas(pd.read_csv('c.csv')).map(str)", "c.csv", "file", ["map (line 8)"]),
        ("data = load_dataset(given())['train']", None, "code", []),
    ],
)  # fmt: skip
def test_a_script_names_what_it_loads(
    tmp_path: Path, load: str, name: str | None, kind: str, transforms: list[str]
) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(load=load))
    setup = read_setup(path)
    named = next(each for each in setup.named_data if each.name == name)
    assert (named.kind, named.transforms) == (kind, transforms) and named.place is not None and named.place.line == 8
    why, _ = why_not_looked_at(setup)
    assert "line 8" in why and "names no data" not in why
    assert all(each.partition(" ")[0] in why for each in transforms)


def test_a_script_whose_data_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(load="data = load_dataset(NAME, split='train')"))
    setup = read_setup(path)
    assert setup.data.train == "tatsu-lab/alpaca"
    assert one(setup).not_followed is None and one(setup).split == "train"


def test_a_script_whose_own_function_makes_the_data(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(load="data = make()"))
    assert "Named are make (line 8): what its code decides." in why_not_looked_at(read_setup(path))[0]


def test_a_name_that_dataset_info_lacks_stops_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text('{"faq": {"file_name": "faq.json"}}')
    wrong = read(tmp_path, {**FACTORY, "dataset": "faq,nosuch", "dataset_dir": str(tmp_path / "data")})
    assert [each.kind for each in wrong.remarks if each.effect == "refused"] == ["data-set-not-registered"]
    right = read(tmp_path, {**FACTORY, "dataset": "faq", "dataset_dir": str(tmp_path / "data")})
    assert not [each for each in right.remarks if each.kind == "data-set-not-registered"]


def test_a_value_that_omegaconf_calls_missing_is_no_name(tmp_path: Path) -> None:
    setup = read(tmp_path, {**TRL, "model_name_or_path": "???"})
    assert setup.model.name_or_path is None and setup.is_unknown("model.name_or_path")


@pytest.mark.parametrize(
    ("template", "stops"),
    [("llama3", False), ("lama3", True), ("qwen3_nothnk", True), ("qwen4", False), ("own", False)],
)
def test_a_template_that_llamafactory_lacks(template: str, stops: bool, tmp_path: Path) -> None:
    """A slip of letters; another number may be that of a newer template."""
    setup = read(tmp_path, {**FACTORY, "template": template})
    assert ("template-unknown" in [each.kind for each in setup.remarks]) is stops
