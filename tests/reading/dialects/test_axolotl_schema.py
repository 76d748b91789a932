"""axolotl: kinds of values, items of datasets, targets that add up, intervals and what is held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.probes.config.settle import settled
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup
from qlora_doctor.tables.shapes import Shape, shapes

HEALTHY = """\
base_model: NousResearch/Llama-3.2-1B
adapter: qlora
load_in_4bit: true
bf16: auto
lora_r: 16
lora_alpha: 32
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
learning_rate: 0.0002
output_dir: ./out
datasets:
  - path: rows.jsonl
    type: alpaca
"""


def read(folder: Path, more: str = "", text: str = HEALTHY) -> Setup:
    file = folder / "axolotl.yml"
    file.write_text(text + more)
    return read_setup(file)


def kinds(setup: Setup, effect: str = "refused") -> set[Any]:
    return {remark.kind for remark in setup.remarks if remark.effect == effect and not remark.machine}


def test_the_healthy_file_is_healthy(tmp_path: Path) -> None:
    setup = read(tmp_path)
    assert kinds(setup) == set()
    assert setup.unknown_keys == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("logging_steps: 0.2", "a whole number, found the number 0.2"),
        ("wandb_watch: false", "a text, found false"),
        ("max_memory: [20GiB]", "a mapping, found a list"),
        ("warmup_steps: 0.1", "a whole number"),
        ("saves_per_epoch: twice", "a whole number"),
        ("special_tokens: [pad]", "a mapping"),
        ("chat_template: llama-3", "one of alpaca"),
        ("load_in_8bit: 3", "true or false"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, line: str, said: str) -> None:
    setup = read(tmp_path, line + "\n")
    notes = [str(remark.note) for remark in setup.remarks if remark.kind == "value-of-another-kind"]
    assert len(notes) == 1 and said in notes[0], notes


@pytest.mark.parametrize(
    "line",
    [
        "flash_attention: auto",
        "logging_steps: 2.0",
        'logging_steps: "5"',
        "max_memory: {0: 20GiB}",
        "saves_per_epoch: 4",
        "eval_steps: 0.2",
        "flash_attention: 'yes'",
        "chat_template: tokenizer_default_fallback_chatml",
        "deepspeed: {zero_optimization: {stage: 2}}",
        "wandb_watch:",
        "logging_steps: ${STEPS}",
    ],
)
def test_what_pydantic_converts_is_taken(tmp_path: Path, line: str) -> None:
    assert "value-of-another-kind" not in kinds(read(tmp_path, line + "\n"))


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("datasets: [{path: d, type: 5}]", "datasets.0.type"),
        ("datasets: [{path: d, type: [alpaca]}]", "datasets.0.type"),
        ("datasets: [{path: [a, b], type: alpaca}]", "datasets.0.path"),
        ("datasets: [{path: d, type: chat_template, roles_to_train: assistant}]", "datasets.0.roles_to_train"),
        ("datasets: [{path: d, type: chat_template, train_on_eos: true}]", "datasets.0.train_on_eos"),
        ("datasets: [{path: d, type: alpaca, shards: ten}]", "datasets.0.shards"),
        ("rl: kto\ndatasets: [{path: d, type: llama3.argilla, data_files: a.json}]", "datasets.0.data_files"),
        ("datasets: [some/rows]", "datasets.0"),
        ("datasets: some/rows", "datasets"),
        ("datasets: []", "datasets"),
    ],
)
def test_an_item_of_datasets_is_judged_by_its_class(tmp_path: Path, lines: str, key: str) -> None:
    setup = read(tmp_path, lines + "\n", HEALTHY.partition("datasets:")[0])
    assert [remark.key for remark in setup.remarks if remark.kind == "value-of-another-kind"] == [key]


@pytest.mark.parametrize(
    "lines",
    [
        "datasets: [{path: d, type: alpaca, data_files: a.json, shards: '10', split: train}]",
        "rl: kto\ndatasets: [{path: d, type: llama3.argilla, data_files: [a.json]}]",
        # any class may be meant by an item of test_datasets
        "datasets: [{path: d, type: alpaca}]\ntest_datasets: [{path: d, type: chat_template, roles_to_train: user}]",
    ],
)
def test_items_that_the_schema_takes(tmp_path: Path, lines: str) -> None:
    assert "value-of-another-kind" not in kinds(read(tmp_path, lines + "\n", HEALTHY.partition("datasets:")[0]))


def test_truths_are_numbers_to_pydantic(tmp_path: Path) -> None:
    setup = read(tmp_path, "neftune_noise_alpha: true\nmax_grad_norm: false\nweight_decay: no\n")
    assert kinds(setup) == set()
    assert (setup.training.neftune_noise_alpha, setup.training.max_grad_norm) == (1, 0)


def test_shapes_are_known_for_most_keys() -> None:
    known = shapes("axolotl").keys
    assert len(known) > 300
    assert known["logging_steps"] == Shape(frozenset({"bool", "int"}))
    assert all(shape.sentence() for shape in known.values())


@pytest.mark.parametrize(
    ("kind", "method", "refused"),
    [
        ("alpacca", "", True),
        ("alpaca.load_no_prompt", "", True),
        ("alpaca:chat", "", False),
        ("alpaca_w_system.load_open_orca", "", False),
        ("alpaca_w_system.load_nothing", "", True),
        ("chat_template", "", False),
        ("completion", "", False),
        ("my_package.my_module", "", False),
        ("chatml.intel", "rl: dpo", False),
        ("chatml.inteel", "rl: dpo", True),
        ("chatml.argilla", "rl: kto", False),
        ("zephyr", "rl: dpo", True),
        ("my_rewards.transform", "rl: grpo", False),
    ],
)
def test_types_name_a_strategy(tmp_path: Path, kind: str, method: str, refused: bool) -> None:
    text = HEALTHY.replace("type: alpaca", f"type: {kind}")
    assert ("dataset-type-unknown" in kinds(read(tmp_path, method + "\n", text))) == refused


def test_unknown_keys_inside_datasets(tmp_path: Path) -> None:
    more = "    roles_to_trian: [assistant]\n  - path: b.jsonl\n    type: {field_instruction: q, field_outptu: a}\n"
    setup = read(tmp_path, more)
    told = {key.key: key.closest for key in setup.unknown_keys}
    assert told == {"datasets.0.roles_to_trian": "roles_to_train", "datasets.1.type.field_outptu": "field_output"}


def test_a_list_is_added_to_every_linear_layer(tmp_path: Path) -> None:
    setup = read(tmp_path, "lora_target_modules: [embed_tokens, lm_head]\n")
    assert (setup.lora.target_modules, setup.lora.targets_beside_linear) == ("all-linear", ["embed_tokens", "lm_head"])
    assert conclude(setup, None).target_modules == ["all-linear", "embed_tokens", "lm_head"]


def test_the_added_names_are_adapted(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("bitsandbytes")
    from qlora_doctor.pipeline.adapter import attach
    from qlora_doctor.pipeline.base import build_base
    from tests.models import make_model

    make_model(tmp_path / "llama", "llama")
    text = HEALTHY.replace("NousResearch/Llama-3.2-1B", str(tmp_path / "llama"))
    setup = read(tmp_path, "lora_target_modules: [embed_tokens, lm_head]\n", text)
    model = attach(build_base(setup, "meta"), setup)
    assert {"embed_tokens", "lm_head", "q_proj", "down_proj"} <= set(model.peft_config["default"].target_modules)
    adapted = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert {"embed_tokens", "lm_head", "q_proj", "down_proj"} <= adapted


def test_bf16_auto_is_what_the_card_decides_in_every_stage(tmp_path: Path) -> None:
    setup = read(tmp_path)
    found = {}
    for name, capability in (("Tesla T4", 7.5), ("NVIDIA L4", 8.9)):
        gpu = Gpu(index=0, name=name, memory_bytes=16 << 30, capability=capability)
        environment = EnvironmentFacts(
            tool_version="0", python="3.11", platform="Linux", packages=Packages(), gpus=[gpu]
        )
        card = settled(setup, conclude(setup, environment))
        found[name] = (
            card.training.bf16, card.training.fp16, card.model.dtype, card.quantization.bnb_4bit_compute_dtype,
        )  # fmt: skip
    assert found == {
        "Tesla T4": (False, True, "float16", "float16"),
        "NVIDIA L4": (True, False, "bfloat16", "bfloat16"),
    }


@pytest.mark.parametrize(
    ("lines", "unused"),
    [
        ("val_set_size: 0.1", True),
        ("val_set_size: 0.1\nevals_per_epoch: 2", False),
        ("val_set_size: 0.1\neval_steps: 50", False),
        ("val_set_size: 0.1\neval_strategy: epoch", False),
        ("val_set_size: 0", False),
    ],
)
def test_rows_that_are_held_out_are_evaluated(tmp_path: Path, lines: str, unused: bool) -> None:
    assert ("held-out-unused" in kinds(read(tmp_path, lines + "\n"), "other-meaning")) == unused


def test_intervals_are_shares_of_the_run(tmp_path: Path) -> None:
    training = read(tmp_path, "val_set_size: 0.1\nevals_per_epoch: 4\nsaves_per_epoch: 1\n").training
    assert (training.eval_steps, training.save_steps, training.save_strategy) == (0.125, 0.5, "steps")
    assert training.load_best_model_at_end is True


def test_a_best_model_that_axolotl_drops(tmp_path: Path) -> None:
    asked = "load_best_model_at_end: true\nval_set_size: 0.1\neval_steps: 30\n"
    assert "best-model-dropped" in kinds(read(tmp_path, asked + "save_steps: 50\n"), "other-meaning")
    assert "best-model-dropped" not in kinds(read(tmp_path, asked + "save_steps: 60\n"), "other-meaning")


def test_vllm_that_takes_the_adapter_alone(tmp_path: Path) -> None:
    group = "rl: grpo\ntrl: {use_vllm: true, num_generations: 4%s}\n"
    text = HEALTHY.replace("type: alpaca", "type: rewards.transform")
    merged = conclude(read(tmp_path, group % "", text), None).preference
    apart = conclude(read(tmp_path, group % ", vllm_lora_sync: true", text), None).preference
    assert merged is not None and merged.merges_into_4bit is True
    assert apart is not None and apart.merges_into_4bit is False
