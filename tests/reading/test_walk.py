"""A folder's configs: found by what they hold, and what is left out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qlora_doctor.reading.walk import find_configs
from tests.small_configs import SMALL

AXOLOTL = "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nmicro_batch_size: 1\nsequence_len: 512\n"
NATIVE = "model: x/y\nlora: {r: 8}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {
        "a.yml": AXOLOTL,
        "deep/er/b.yaml": NATIVE,
        "deep/notes.yaml": "title: notes\n",
        "deep/launch.yaml": "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\n",  # Accelerate's own
        "adapter/adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y", "r": 8}),
        "adapter/tokenizer_config.json": json.dumps({"tokenizer_class": "LlamaTokenizer"}),
        "script.py": "print('no training here')\n",
        "broken.yaml": "a: [1, 2\n",
        "a.md": AXOLOTL,  # prose may quote a config
        ".git/c.yaml": NATIVE,
        ".venv/lib/d.yaml": NATIVE,
        "old/e.yaml": NATIVE,
        "old/keep/f.yaml": NATIVE,
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(folder: Path, **options: object) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_configs(folder, **options).configs]  # type: ignore[arg-type]


def test_configs_are_found_by_content(folder: Path) -> None:
    walk = find_configs(folder)
    found = [path.relative_to(folder).as_posix() for path in walk.configs]
    assert found == ["a.yml", "adapter/adapter_config.json", "deep/er/b.yaml", "old/e.yaml", "old/keep/f.yaml"]
    assert walk.passed_over == 2 and [why for _, why in walk.left_out] == [
        "it is a tokenizer's config",
        "it is an Accelerate config",
    ]
    assert len(walk.unreadable) == 1 and "broken.yaml is not valid YAML" in walk.unreadable[0]


@pytest.mark.parametrize("pattern", ["old", "old/", "./old", "*/old/*.yaml", "ol?", "old/*"])
def test_patterns_leave_out_names_and_paths(folder: Path, pattern: str) -> None:
    found = names(folder, exclude=[pattern], base=folder.parent)
    assert "a.yml" in found and "old/e.yaml" not in found


def test_a_pattern_does_not_meet_folders_above_the_walk(folder: Path) -> None:
    assert "a.yml" in names(folder, exclude=[f"{folder.name}/*", folder.name], base=folder)


def test_one_dialect_alone(folder: Path) -> None:
    assert names(folder, dialect="axolotl") == ["a.yml"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_circles_do_not_hold_it_up(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "nowhere.yaml").symlink_to(folder / "gone.yaml")
    assert len(find_configs(folder).configs) == 5


SCRIPT = """
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

def main():
    bits = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForCausalLM.from_pretrained("x/y", quantization_config=bits)
    SFTTrainer(model=model, args=SFTConfig(learning_rate=1e-4), peft_config=LoraConfig(r=8)).train()
"""
RUN = '\nif __name__ == "__main__":\n    main()\n'
HOME_MADE = {"model_name": "x/y", "lora_r": 8, "lora_alpha": 16, "learning_rate": 1e-4, "load_in_4bit": True}

KEPT = {
    "train.py": SCRIPT + RUN,
    "helpers.py": "from .model import load_qlora\nfrom trl import SFTTrainer\nmodel = load_qlora()\n"
    "SFTTrainer(model=model).train()\n",  # the adapter is made in a module beside it
    "home.json": json.dumps(HOME_MADE),
    "home.yaml": "model: {name: x/y}\nlora: {r: 8}\ntraining: {learning_rate: 1.0e-4}\n"
    "metric_for_best_model: eval_loss\n",
    "full.yml": "base_model: x/y\nmicro_batch_size: 1\nsequence_len: 512\ndatasets: [{path: a, type: alpaca}]\n"
    "lora_r: 8\n",  # LoRA's options without its switch: a mistake to be told
}
LEFT_OUT = {
    "library.py": (SCRIPT, "module for others"),
    "test_train.py": (SCRIPT + RUN, "test"),
    "words.py": ('WORDS = ("LoraConfig", "SFTTrainer(", "from_pretrained")\nprint(WORDS)\n', "adapts or quantizes"),
    "infer.py": (
        "from transformers import AutoModelForCausalLM\nfrom peft import PeftModel\n"
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("x/y", load_in_4bit=True), "a")\n'
        "print(model.generate())\n",
        "trains nothing",
    ),
    "metrics.json": (json.dumps({**HOME_MADE, "eval_loss": 1.25, "train_runtime": 60.0}), "results (eval_loss)"),
    "manifest.json": (json.dumps({**HOME_MADE, "created_at": "2026-01-01", "files": []}), "results (created_at)"),
    "facts.json": (json.dumps({"lora": {"r": 8}, "model": {"total_parameters": 5}, "lora_alpha": 8}), "results"),
    "report.json": (json.dumps({"schema_version": "1.0", "findings": [], "facts": {"config": HOME_MADE}}), "report"),
    "schema.json": (
        json.dumps({"$schema": "x", "properties": {"lora_r": {}, "lora_alpha": {}, "target_modules": {}}}),
        "schema",
    ),
    "keys.json": (json.dumps({"names": {"lora_r": {}, "lora_alpha": [], "learning_rate": {}}}), "too little"),
    "serve.yaml": ("model: x/y\nquantization: bitsandbytes\nmax_model_len: 4096\nenable_lora: true\n", "serves"),
    "grpo.yaml": (
        "model_name_or_path: x/y\nlearning_rate: 1.0e-6\nper_device_train_batch_size: 1\nbeta: 0.04\n"
        "num_generations: 8\nmax_completion_length: 512\nuse_vllm: true\n",
        "",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_trains_an_adapter_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(KEPT[name])
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_only_looks_like_a_config_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    text, why = LEFT_OUT[name]
    (tmp_path / name).write_text(text)
    walk = find_configs(tmp_path)
    assert walk.configs == []
    ((path, reason),) = walk.left_out
    assert path == tmp_path / name and why in reason


def test_of_this_repository_only_what_trains_is_taken() -> None:
    root = Path(__file__).parents[2]
    found = [path for path in names(root) if not path.startswith("demo/")]  # which `make demo` leaves
    assert {"examples/llama-2-7b-tutorial.json", "benchmarks/plain_step.py"} <= set(found)
    rooms = ("tests/", "rules/", "qlora_doctor/", "reports/schema", "reports/examples/facts", "tools/", "docs/")
    # The logs that rules about a run's course are tested with, and SchemaStore's two examples of a native config.
    trains = {"tests/courses/make.py", "docs/schemastore/valid.yaml", "docs/schemastore/invalid.yaml"}
    assert [path for path in found if path.startswith(rooms) and path not in trains] == []
    assert len(found) <= 20  # the examples, and the benchmarks that train


def test_a_config_of_every_dialect_is_taken(tmp_path: Path) -> None:
    for dialect, (name, text) in SMALL.items():
        (tmp_path / dialect).mkdir()
        (tmp_path / dialect / name).write_text(text)
    assert {path.partition("/")[0] for path in names(tmp_path)} == set(SMALL)


def test_the_corpus_is_taken(tmp_path: Path) -> None:
    corpus = Path(__file__).parents[3] / "shared" / "configs"
    if not corpus.is_dir():
        pytest.skip("the corpus is not here")
    walk = find_configs(corpus)
    assert len(walk.configs) >= 236 and len(walk.left_out) <= 1


def test_whole_models_are_no_configs_of_an_adapter(tmp_path: Path) -> None:
    """Keys that are left empty, and the trainer's own defaults of LoRA, do not make one."""
    recipe = (
        "model_name_or_path: my/model\ndataset_mixer: {my/rows: 1.0}\nlearning_rate: 2.0e-5\nmax_seq_length: 2048\n"
    )
    axolotl = (
        "base_model: my/model\ndatasets: [{path: my/rows, type: alpaca}]\nmicro_batch_size: 1\nlearning_rate: 2e-5\n"
    )
    files = {
        "full.yaml": recipe,
        "qlora.yaml": recipe + "use_peft: true\nload_in_4bit: true\nlora_r: 16\n",
        "whole.yml": axolotl + "adapter:\nlora_r:\nload_in_4bit: false\n",
        "adapter.yml": axolotl + "adapter: lora\nlora_r: 8\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    walk = find_configs(tmp_path)
    assert [path.name for path in walk.configs] == ["adapter.yml", "qlora.yaml"]
    assert {path.name: why for path, why in walk.left_out} == dict.fromkeys(
        ("full.yaml", "whole.yml"), "it has neither LoRA nor 4 bits"
    )
