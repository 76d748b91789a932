"""Every fix of every rule in every dialect: it says exactly what it means, or it says that it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.assets import asset_folder
from qlora_doctor.core.report import PatchOperation
from qlora_doctor.engine import load_rules
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.reading.document import document_of
from qlora_doctor.reading.lenient import Mismatch, read_as
from qlora_doctor.reading.native import SECTIONS
from qlora_doctor.writing.edit import apply_patch, parsed
from qlora_doctor.writing.express import complaints, express, reread, same, values_of
from qlora_doctor.writing.patch import CannotEdit
from tests.small_configs import SMALL

SAMPLES: dict[str, Any] = {
    "bnb_4bit_compute_dtype": "float16",
    "target_modules": ["q_proj", "o_proj"],
    "llm_int8_skip_modules": ["lm_head"],
    "task_type": "SEQ_CLS",
    "per_device_eval_batch_size": 1,
    "dtype": "float16",
}
"""Values for patches whose own come from facts."""


def patches() -> list[list[PatchOperation]]:
    """The patches of all rules, each once."""
    found: dict[str, list[PatchOperation]] = {}
    for rule in load_rules(asset_folder("rules")):
        if rule.fix is None or not rule.fix.patch:
            continue
        patch = []
        for operation in rule.fix.patch:
            templated = isinstance(operation.value, str) and "{{" in operation.value
            value = sample(operation.path) if templated else operation.value
            patch.append(PatchOperation(op=operation.op, path=operation.path, value=value))
        found[str(patch)] = patch
    return list(found.values())


def sample(path: str) -> Any:
    """A value for a native pointer: the chosen one, or the first that the field takes."""
    section, field = path.strip("/").split("/")
    annotation = SECTIONS[section].model_fields[field].annotation
    for value in (SAMPLES[field],) if field in SAMPLES else (True, 8, 0.5, "bfloat16", ["q_proj"]):
        try:
            return read_as(annotation, value)
        except Mismatch:
            continue
    raise AssertionError(path)


def add(path: str, value: Any) -> PatchOperation:
    return PatchOperation(op="add", path=path, value=value)


def read(dialect: str, folder: Path) -> Setup:
    name, text = SMALL[dialect]
    (folder / name).write_text(text)
    return read_setup(folder / name)


def fixed(setup: Setup, patch: list[PatchOperation]) -> tuple[str, Setup]:
    """The text with the patch, and what its own reader makes of it."""
    document = setup._document
    assert document is not None and document.path is not None
    text = apply_patch(document.text, document.format, list(express(setup, patch).operations))
    return text, reread(setup, document_of(document.path, text))


def lines_of(text: str) -> list[str]:
    return text.splitlines()


@pytest.mark.parametrize("dialect", SMALL)
def test_a_small_config_is_what_it_is_called(dialect: str, tmp_path: Path) -> None:
    assert read(dialect, tmp_path).dialect == dialect.removesuffix("-json")


@pytest.mark.parametrize("dialect", SMALL)
def test_a_fix_says_what_it_means_and_nothing_else(dialect: str, tmp_path: Path) -> None:
    setup = read(dialect, tmp_path)
    before = values_of(setup)
    for patch in patches():
        asked = {o.path.strip("/").replace("/", "."): o.value for o in patch if o.op != "remove"}
        taken = {o.path.strip("/").replace("/", ".") for o in patch if o.op == "remove"}
        try:
            expression = express(setup, patch)
            text, again = fixed(setup, patch)
        except CannotEdit as error:
            assert str(error)
            continue
        after = values_of(again)
        assert {path: after[path] for path in asked} == asked, (asked, text)
        changed = {path for path in before if not same(before[path], after[path])} - asked.keys() - taken
        assert changed == set(expression.follows), (asked, text)
        said = {path for path in changed if (o := setup.origins.get(path)) and o.source == "explicit"}
        places = {operation.path for operation in expression.operations}
        assert all(_place(setup, path) in places for path in said), (asked, said, text)
        assert complaints(again) <= complaints(setup)
        assert again.dialect == setup.dialect
        assert fixed(again, patch)[0] == text  # said once, it is not said again


def _place(setup: Setup, path: str) -> str | None:
    place = setup.origins[path].place
    return place.pointer if place is not None else None


@pytest.mark.parametrize("dialect", SMALL)
def test_comments_and_layout_stay(dialect: str, tmp_path: Path) -> None:
    """Every line is either as it was or one that an operation names."""
    setup = read(dialect, tmp_path)
    document = setup._document
    assert document is not None
    old = lines_of(document.text)
    for patch in patches():
        try:
            operations = express(setup, patch).operations
            new = lines_of(fixed(setup, patch)[0])
        except CannotEdit:
            continue
        named = {step for operation in operations for step in operation.path.split("/")}
        for line in set(old) - set(new):
            key = line.split(":")[0].split("=")[0].strip(' -"')
            listed = line.strip().startswith("- ") or document.format == "json"
            assert key in named or listed, (operations, line)
        comments = [line.partition("#")[2] for line in old if "#" in line]
        kept = [line.partition("#")[2] for line in new if "#" in line]
        lists = sum(operation.path.endswith("target_modules") for operation in operations)
        assert len(set(comments) - set(kept)) <= lists


@pytest.mark.parametrize(
    ("dialect", "patch", "gone", "come"),
    [
        ("native", {"/lora/lora_dropout": 0.0}, [], ["  lora_dropout: 0.0"]),
        ("native", {"/model/use_cache": False}, ["model: meta-llama/Llama-3.1-8B  # the base"],
         ["model: {name_or_path: meta-llama/Llama-3.1-8B, use_cache: false}  # the base"]),
        ("axolotl", {"/quantization/bnb_4bit_quant_type": "fp4"}, [],
         ["bnb_config_kwargs:", "  bnb_4bit_quant_type: fp4"]),
        ("axolotl", {"/lora/target_modules": "all-linear"}, ["lora_target_modules:", "  - q_proj", "  - v_proj"],
         ["lora_target_linear: true"]),
        ("axolotl", {"/training/gradient_checkpointing": True}, [], ["gradient_checkpointing: true"]),
        ("axolotl", {"/quantization/load_in_4bit": False}, ["adapter: qlora", "load_in_4bit: true"],
         ["adapter: lora", "load_in_4bit: false"]),
        ("axolotl", {"/lora/target_parameters": ["mlp.experts.down_proj"], "/lora/lora_dropout": 0},
         ["lora_dropout: 0.05"], ["lora_dropout: 0", "lora_target_parameters: [mlp.experts.down_proj]"]),
        ("llamafactory", {"/quantization/bnb_4bit_quant_type": "fp4"}, [], ["quantization_type: fp4"]),
        ("llamafactory", {"/lora/target_modules": ["q_proj", "o_proj"]}, ["lora_target: q_proj,v_proj"],
         ['lora_target: "q_proj,o_proj"']),
        ("llamafactory", {"/lora/target_modules": "all-linear"}, ["lora_target: q_proj,v_proj"], ["lora_target: all"]),
        ("llamafactory", {"/training/gradient_checkpointing": False}, [], ["disable_gradient_checkpointing: true"]),
        ("llamafactory", {"/training/gradient_checkpointing_kwargs": {"use_reentrant": False}}, [],
         ["use_reentrant_gc: false"]),
        ("llamafactory-v1", {"/quantization/bnb_4bit_compute_dtype": "bfloat16"}, [], ["  compute_dtype: bfloat16"]),
        ("trl", {"/quantization/bnb_4bit_use_double_quant": True},
         ["use_bnb_nested_quant: false  # double quantization"], ["use_bnb_nested_quant: true  # double quantization"]),
        ("trl", {"/quantization/bnb_4bit_compute_dtype": "bfloat16"}, [], ["dtype: bfloat16"]),
        ("torchtune", {"/quantization/bnb_4bit_compute_dtype": "float16"}, ["dtype: bf16"], ["dtype: fp16"]),
        ("litgpt", {"/quantization/bnb_4bit_quant_type": "nf4"}, ["quantize: bnb.fp4  # 4-bit"],
         ["quantize: bnb.nf4  # 4-bit"]),
        ("litgpt", {"/quantization/bnb_4bit_use_double_quant": True}, ["quantize: bnb.fp4  # 4-bit"],
         ["quantize: bnb.fp4-dq  # 4-bit"]),
        ("oumi", {"/quantization/bnb_4bit_quant_type": "nf4"}, ['  bnb_4bit_quant_type: "fp4"  # quoted'],
         ["  bnb_4bit_quant_type: nf4  # quoted"]),
        ("oumi", {"/training/fp16": True, "/training/bf16": False}, ["  mixed_precision_dtype: BF16"],
         ["  mixed_precision_dtype: FP16"]),
        ("autotrain", {"/training/learning_rate": 0.0002}, ["  lr: 1e-5"], ["  lr: 0.0002"]),
        ("unsloth-studio", {"/training/gradient_checkpointing": True}, ['  gradient_checkpointing: "none"  # off'],
         ["  gradient_checkpointing: true  # off"]),
        ("ms-swift", {"/quantization/bnb_4bit_compute_dtype": "bfloat16"}, ["bnb_4bit_compute_dtype: float32"],
         ["bnb_4bit_compute_dtype: bfloat16"]),
        ("ludwig", {"/lora/lora_dropout": 0.0}, [], ["  dropout: 0.0"]),
        ("h2o-llmstudio", {"/lora/target_modules": ["q_proj", "o_proj"]}, ["    lora_target_modules: ''"],
         ['    lora_target_modules: "q_proj,o_proj"']),
        ("nemo-automodel", {"/lora/target_modules": ["q_proj"]}, ["  match_all_linear: True"],
         ["  target_modules: [q_proj]"]),
        ("qlora-pipe", {"/quantization/bnb_4bit_quant_type": "nf4"}, ["bnb_4bit_quant_type = 'fp4'"],
         ['bnb_4bit_quant_type = "nf4"']),
        ("qlora-pipe", {"/lora/use_rslora": True}, [], ["use_rslora = true"]),
        ("custom", {"/training/learning_rate": 0.0002}, ["  lr: 0.00001"], ["  lr: 0.0002"]),
        ("custom", {"/lora/target_modules": "all-linear"}, ['  target_modules: ["q_proj", "v_proj"]'],
         ["  target_modules: all-linear"]),
        ("firefly", {"/training/learning_rate": 0.0002}, ['    "learning_rate": 1e-5,'],
         ['    "learning_rate": 0.0002,']),
    ],
    ids=str,
)  # fmt: skip
def test_in_the_keys_of_the_dialect(
    dialect: str, patch: dict[str, Any], gone: list[str], come: list[str], tmp_path: Path
) -> None:
    setup = read(dialect, tmp_path)
    text, _ = fixed(setup, [add(path, value) for path, value in patch.items()])
    old, new = lines_of(SMALL[dialect][1]), lines_of(text)
    assert [line for line in old if line not in new] == gone
    assert [line for line in new if line not in old] == come


@pytest.mark.parametrize(
    ("dialect", "path", "value", "why"),
    [
        ("autotrain", "/quantization/bnb_4bit_compute_dtype", "bfloat16", "written out in AutoTrain's code"),
        ("firefly", "/lora/target_modules", ["q_proj"], "Firefly adapts every linear layer but the head"),
        ("h2o-llmstudio", "/quantization/bnb_4bit_compute_dtype", "bfloat16", "written out in H2O LLM Studio's code"),
        ("axolotl", "/training/prepare_for_kbit_training", False, "axolotl 0.18.0 has no key that sets prepare_for"),
        ("oumi", "/lora/target_modules", "all-linear", "no key of oumi 0.8 sets target_modules to all-linear"),
        ("litgpt", "/lora/target_modules", ["q_proj"], "lora_query, lora_key"),
        ("custom", "/lora/lora_dropout", 0.0, "the file has no lora_dropout"),
        ("peft-adapter", "/lora/lora_dropout", 0.0, "record of a finished adapter"),
        # use_flash_attention_2 is a key of the handbook 0.2, which computes in float16 whatever the dtype.
        ("alignment-handbook", "/quantization/bnb_4bit_compute_dtype", "bfloat16", "no key of the handbook sets"),
    ],
)
def test_what_a_dialect_cannot_say_is_told(dialect: str, path: str, value: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(CannotEdit, match=why):
        express(read(dialect, tmp_path), [add(path, value)])


def test_the_dtype_of_a_newer_handbook_is_that_of_its_computing(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    text = SMALL["alignment-handbook"][1].replace("use_flash_attention_2: true\n", "")
    file.write_text(text, encoding="utf-8")
    edited, _ = fixed(read_setup(file), [add("/quantization/bnb_4bit_compute_dtype", "bfloat16")])
    assert edited == text.replace("torch_dtype: float16", "torch_dtype: bfloat16")


def test_new_keys_stand_with_their_like(tmp_path: Path) -> None:
    text, _ = fixed(
        read("axolotl", tmp_path),
        [add("/lora/fan_in_fan_out", True), add("/lora/use_rslora", True), add("/training/seed", 1)],
    )
    lines = lines_of(text)
    at = lines.index("  - v_proj")
    assert lines[at + 1 : at + 3] == ["lora_fan_in_fan_out: true", "peft_use_rslora: true"]
    assert lines[-2:] == ["val_set_size: 0", "seed: 1"]


def test_a_key_that_is_used_elsewhere_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "axolotl.yml"
    path.write_text(
        "base_model: x/y\nadapter: qlora\nload_in_4bit: true\nlora_r: &r 8\nlora_alpha: *r\nmicro_batch_size: 1\n"
    )
    setup = read_setup(path)
    for operation in (add("/lora/r", 16), add("/lora/lora_alpha", 16)):
        with pytest.raises(CannotEdit):
            fixed(setup, [operation])


def test_the_edited_text_is_data_of_its_format(tmp_path: Path) -> None:
    text, _ = fixed(read("native-json", tmp_path), [add("/lora/lora_dropout", 0.0)])
    assert parsed(text, "json")["lora"] == {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}


def test_a_value_is_taken_away_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "swift.yaml"
    path.write_text(SMALL["ms-swift"][1] + "device_map: auto  # spread\n")
    text, again = fixed(read_setup(path), [PatchOperation(op="remove", path="/model/device_map")])
    assert text == SMALL["ms-swift"][1]
    assert again.model.device_map is None
    with pytest.raises(CannotEdit):
        express(read("trl", tmp_path), [PatchOperation(op="remove", path="/model/device_map")])
