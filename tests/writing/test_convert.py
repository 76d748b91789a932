"""A converted file means what the original means, or says what it does not carry."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from qlora_doctor.cli import main
from qlora_doctor.core.errors import UsageError
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.dialects import dialect_named, recognise
from qlora_doctor.reading.document import document_of
from qlora_doctor.setup.hf_names import in_hf_terms
from qlora_doctor.setup.meaning import meanings
from qlora_doctor.setup.setup import Training
from qlora_doctor.writing.convert import TARGETS, Converted, convert
from tests.models import make_model
from tests.small_configs import SMALL
from tests.traits import traits_of

CONFIGS = [target for target in TARGETS if target != "python"]
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.*[ln]"))
OTHERWISE = {"training.warmup_ratio": "training.warmup_steps"}
"""transformers 5 takes the share of all steps under the other name."""


def read(dialect: str, folder: Path) -> Setup:
    name, text = SMALL[dialect]
    (folder / name).write_text(text)
    return read_setup(folder / name)


def back(converted: Converted, to: str, folder: Path) -> Setup:
    """What the target's own reader makes of a converted file, which must be recognised as the target's."""
    path = folder / ("converted.py" if to == "python" else "converted.yaml")
    document = document_of(path, converted.text)
    assert recognise(document)[0].name == dialect_named(to).name, converted.text
    return dialect_named(to).read(document)


@pytest.mark.parametrize(
    ("written", "there"),
    [("paged_adamw", "paged_adamw_32bit"), ("adamw_hf", None), ("PagedAdamW8bit", "paged_adamw_8bit"), ("sgd", "sgd")],
)
def test_an_optimizer_of_another_trainer_has_transformers_name_or_none(written: str, there: str | None) -> None:
    setup = Setup(dialect="torchtune", traits=traits_of("torchtune"), training=Training(optim=written))
    assert in_hf_terms(setup).training.optim == there


def same(one: Any, other: Any) -> bool:
    return bool(one == other or [one] == other or one == [other]) and isinstance(one, bool) == isinstance(other, bool)


def not_carried(setup: Setup, again: Setup, converted: Converted) -> list[tuple[str, Any, Any]]:
    """(path, value, what it became) of all that is neither equal nor reported."""
    reported = {
        key for lost in converted.lost for key in lost.key.removesuffix(" (a default of the source)").split(", ")
    }
    before, after = meanings(in_hf_terms(setup)), meanings(again)
    found = []
    for path, meaning in before.items():
        if path == "training.trainer" and not meaning.explicit:
            continue  # the target is a trainer of its own
        there = [after[each].value for each in (path, OTHERWISE.get(path, path)) if each in after]
        if not any(same(meaning.value, value) for value in there) and not {path, meaning.key} & reported:
            found.append((path, meaning.value, there))
    return found


@pytest.mark.parametrize("to", CONFIGS)
@pytest.mark.parametrize("dialect", SMALL)
def test_every_value_is_carried_or_reported(dialect: str, to: str, tmp_path: Path) -> None:
    setup = read(dialect, tmp_path)
    converted = convert(setup, to)
    again = back(converted, to, tmp_path)
    assert not_carried(setup, again, converted) == []
    assert not again.unknown_keys and not again.duplicate_keys and not again.string_numbers
    assert [key.key for key in again.removed_keys] == []
    assert again.model.name_or_path == (setup.model.name_or_path or "your/model")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("to", TARGETS)
def test_examples(example: Path, to: str, tmp_path: Path) -> None:
    setup = read_setup(example)
    converted = convert(setup, to)
    again = back(converted, to, tmp_path)
    left = [path for path, _, _ in not_carried(setup, again, converted)]
    if to == "python":  # the script cuts and formats samples by code of its own
        left = [path for path in left if path not in ("training.max_length", "hardware.count") and path[:5] != "data."]
    assert left == []


def test_there_and_back_again(tmp_path: Path) -> None:
    """Native → axolotl → native: what is explicit at first is what it was."""
    setup = read_setup(next(path for path in EXAMPLES if path.suffix == ".yaml" and "rtx" in path.name))
    middle = convert(setup, "axolotl")
    again = convert(back(middle, "axolotl", tmp_path), "native")
    last = meanings(back(again, "native", tmp_path))
    lost = {each.key for each in middle.lost}
    for path, meaning in meanings(setup).items():
        if meaning.explicit and path not in lost:
            assert same(last[path].value, meaning.value), path


def test_axolotl_as_trl(tmp_path: Path) -> None:
    converted = convert(read("axolotl", tmp_path), "trl")
    assert (
        converted.text
        == """\
# Converted by qlora-doctor from axolotl.yml (axolotl).
model_name_or_path: meta-llama/Llama-3.1-8B
dtype: bfloat16
trust_remote_code: false

load_in_4bit: true
use_bnb_nested_quant: true
bnb_4bit_quant_storage: bfloat16

use_peft: true
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_modules:
  - q_proj
  - v_proj

per_device_train_batch_size: 2
per_device_eval_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 0.0002
num_train_epochs: 1
lr_scheduler_type: cosine
optim: adamw_torch_fused
bf16: true
gradient_checkpointing: false
max_length: 512
packing: false
eval_strategy: 'no'
save_strategy: epoch
"""
    )
    assert [str(lost) for lost in converted.lost] == [
        "hardware.expandable_segments (a default of the source) = true: trl has no place for it.",
        "training.prepare_for_kbit_training (a default of the source) = true: TRL 1.9.0 has no key that sets "
        "prepare_for_kbit_training.",
        "data.train: not known and left out. axolotl 0.18.0 formats the samples by templates of its own.",
    ]


def test_defaults_of_the_source_are_written_where_the_target_has_others(tmp_path: Path) -> None:
    """LLaMA-Factory: alpha is twice the rank, dropout 0, double quantization; TRL: 32, 0.05, none."""
    data = yaml.safe_load(convert(read("llamafactory", tmp_path), "trl").text)
    assert (data["lora_alpha"], data["lora_dropout"], data["use_bnb_nested_quant"]) == (16, 0, True)
    data = yaml.safe_load(convert(read("trl", tmp_path), "llamafactory").text)
    assert (data["lora_alpha"], data["lora_dropout"], data["double_quantization"]) == (32, 0.05, False)


def test_what_is_not_translated_is_told(tmp_path: Path) -> None:
    path = tmp_path / "axolotl.yml"
    path.write_text(
        SMALL["axolotl"][1] + "special_tokens:\n  pad_token: <pad>\nsave_steps: 100\ndebug:\nlearning_rte: 1\n"
    )
    lost = {each.key: each for each in convert(read_setup(path), "native").lost}
    assert str(lost["special_tokens.pad_token"]) == (
        'special_tokens.pad_token = "<pad>": qlora-doctor does not translate this key.'
    )
    assert lost["learning_rte"].value == 1
    assert "debug" not in lost  # it says nothing
    for to in ("native", "trl", "llamafactory"):
        text = convert(read_setup(path), to).text
        assert "save_steps: 100\n" in text, to
    assert "save_steps=100" in convert(read_setup(path), "python").text


def test_extras_go_where_they_are_known(tmp_path: Path) -> None:
    path = tmp_path / "native.yaml"
    path.write_text(
        "model: x/y\nlora: {loftq_config: {}}\ntraining: {adam_epsilon: 5.0, adam_beta2: 0.99}\n"
        "budgets: {peak_memory: 20GiB}\n"
    )
    setup = read_setup(path)
    converted = convert(setup, "native")
    assert back(converted, "native", tmp_path).training.extra == {"adam_epsilon": 5.0, "adam_beta2": 0.99}
    assert back(converted, "native", tmp_path).budgets == setup.budgets
    converted = convert(setup, "trl")
    assert yaml.safe_load(converted.text)["adam_beta2"] == 0.99
    assert {"lora.loftq_config", "budgets.peak_memory"} <= {lost.key for lost in converted.lost}


def test_names_of_optimizers_and_schedules(tmp_path: Path) -> None:
    setup = read("qlora-pipe", tmp_path)  # adamw_kahan is nothing that transformers has
    converted = convert(setup, "native")
    assert "optim" not in converted.text
    assert any("transformers has nothing that is called adamw_kahan" in str(lost) for lost in converted.lost)
    assert yaml.safe_load(convert(read("torchtune", tmp_path), "trl").text)["optim"] == "adamw_torch"


def test_an_unknown_model_gets_a_name_that_says_so(tmp_path: Path) -> None:
    converted = convert(read("bnb-config", tmp_path), "native")
    assert "model: your/model\n" in converted.text
    assert any("model.name_or_path" in lost.key for lost in converted.lost)


def test_no_such_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the targets are native, axolotl"):
        convert(read("trl", tmp_path), "torchtune")


# -- scripts


@pytest.mark.parametrize("dialect", SMALL)
def test_scripts(dialect: str, tmp_path: Path) -> None:
    setup = read(dialect, tmp_path)
    converted = convert(setup, "python")
    names = {node.id for node in ast.walk(ast.parse(converted.text)) if isinstance(node, ast.Name)}
    imported = {
        alias.name
        for node in ast.walk(ast.parse(converted.text))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
    }
    assert imported <= names, "an import that is not used"
    again = back(converted, "python", tmp_path)
    left = {path for path, _, _ in not_carried(setup, again, converted)}
    # transformers' Trainer has no such argument: the script cuts, formats and packs by code of its own, or not at all
    left -= {"training.max_length", "training.method", "training.trainer"}
    if again.is_unknown("model.name_or_path"):  # a folder that is not here, which the script might make
        assert json.dumps(setup.model.name_or_path) in converted.text
        left -= {"model.name_or_path"}
    assert not {path for path in left if not path.startswith(("data.", "hardware.", "budgets."))}
    length = setup.training.max_length
    assert length is None or f"max_length={length}" in converted.text


def test_a_text_cannot_break_out_of_its_quotes(tmp_path: Path) -> None:
    path = tmp_path / "native.yaml"
    path.write_text(json.dumps({"model": 'x"); import os; ("\n\\', "data": {"train": "a'\"b\n"}}))
    tree = ast.parse(convert(read_setup(path), "python").text)
    assert not any(isinstance(node, ast.Import) and node.names[0].name == "os" for node in ast.walk(tree))
    assert any(isinstance(node, ast.Constant) and node.value == 'x"); import os; ("\n\\' for node in ast.walk(tree))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["transformers", "trl"])
def test_a_script_trains(trainer: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("datasets")
    pytest.importorskip(trainer)
    folder = make_model(tmp_path / "model", "llama")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"a word and {n} more"}) + "\n" for n in range(8)))
    config = {
        "model": str(folder),
        "lora": {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        "training": {"trainer": trainer, "max_steps": 1, "per_device_train_batch_size": 2, "max_length": 32,
                     "bf16": False, "output_dir": str(tmp_path / "out"), "report_to": "none"},
        "data": {"train": str(tmp_path / "rows.jsonl"), "format": "text"},
    }  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(config))
    script = tmp_path / "train.py"
    script.write_text(convert(read_setup(tmp_path / "c.json"), "python").text)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_trl_takes_what_was_converted(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    for dialect in SMALL:
        parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig))  # it remembers what it has read
        setup = read(dialect, tmp_path)
        path = tmp_path / "trl.yaml"
        path.write_text(convert(setup, "trl").text)
        options = ["--config", str(path), "--use_cpu", "true", "--output_dir", str(tmp_path)]
        _, training, model = parser.parse_args_and_config(options)
        assert model.use_peft and model.lora_r == (setup.lora.r or 16 if setup.dialect != "bnb-config" else 16), dialect
        assert setup.training.learning_rate in (None, training.learning_rate), dialect
        assert model.load_in_4bit == bool(setup.quantization.load_in_4bit or setup.dialect == "native"), dialect


# -- the command


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_stdout_has_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(SMALL["axolotl"][1])
    result = run(tmp_path / "a.yml", "--to", "trl")
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["lora_r"] == 16
    assert "not carried over: data.train: not known" in result.stderr


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(SMALL["axolotl"][1])
    target = tmp_path / "b.yaml"
    assert run(tmp_path / "a.yml", "--to", "native", "-o", target).exit_code == 0
    assert read_setup(target).dialect == "native"
    assert run(tmp_path / "a.yml", "--to", "trl", "-o", target).exit_code == 2
    assert read_setup(target).dialect == "native"
    assert run(tmp_path / "a.yml", "--to", "trl", "-o", target, "--force").exit_code == 0
    assert read_setup(target).dialect == "trl"


def test_what_cannot_be_read_cannot_be_converted(tmp_path: Path) -> None:
    assert run(tmp_path / "gone.yml", "--to", "native").exit_code == 2
    (tmp_path / "a.yml").write_text(SMALL["axolotl"][1])
    assert run(tmp_path / "a.yml", "--to", "mergekit").exit_code == 2


def test_a_local_file_is_what_trl_loads(tmp_path: Path) -> None:
    """``dataset_name`` is a hub id or a folder; load_dataset finds no file by it."""
    source = tmp_path / "setup.yaml"
    source.write_text("model: a/b\nquantization: {load_in_4bit: true}\nlora: {r: 8}\ndata: {train: rows.jsonl}\n")
    text = convert(read_setup(source), "trl").text
    assert yaml.safe_load(text)["datasets"] == [{"path": "json", "data_files": "rows.jsonl"}]
    assert "dataset_name" not in text
    (tmp_path / "trl.yaml").write_text(text)
    assert read_setup(tmp_path / "trl.yaml").data.train == "rows.jsonl"
