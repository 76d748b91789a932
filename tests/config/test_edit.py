"""Edits change what they name and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.config import read_setup
from qlora_doctor.config.edit import CannotEdit, apply_patch, yaml_scalar
from qlora_doctor.config.native import setup_from_mapping
from qlora_doctor.report import PatchOperation

YAML = """\
# my run
model: x/y  # the base
lora:
  target_modules:  # these
    - q_proj  # first
    - v_proj

  # rank
  r: 8
training: {bf16: true, learning_rate: 2e-4}
data:
"""
JSON = '{\n    "model": "x/y",\n    "lora": {"r": 8, "target_modules": ["a",\n\t"b"]},\n    "training": {}\n}\n'


def put(path: str, value: Any) -> PatchOperation:
    return PatchOperation(op="replace", path=path, value=value)


def remove(path: str) -> PatchOperation:
    return PatchOperation(op="remove", path=path)


@pytest.mark.parametrize(
    ("operation", "old", "new"),
    [
        (put("/lora/r", 16), "  r: 8\n", "  r: 16\n"),
        (put("/training/learning_rate", 2e-4), "learning_rate: 2e-4", "learning_rate: 0.0002"),
        (put("/training/learning_rate", 1e-5), "learning_rate: 2e-4", "learning_rate: 1.0e-05"),
        (put("/training/fp16", False), "2e-4}", "2e-4, fp16: false}"),
        (put("/lora/target_modules", ["q", "k"]), "- q_proj  # first\n    - v_proj\n", "- q\n    - k\n"),
        (
            put("/lora/target_modules", "all-linear"),
            "  target_modules:  # these\n    - q_proj  # first\n    - v_proj\n",
            "  target_modules: all-linear  # these\n",
        ),
        (put("/lora/target_modules/-", "o_proj"), "    - v_proj\n", "    - v_proj\n    - o_proj\n"),
        (put("/lora/bias", "none"), "  r: 8\n", "  r: 8\n  bias: none\n"),
        (put("/model/dtype", "bfloat16"), "model: x/y  #", "model: {name_or_path: x/y, dtype: bfloat16}  #"),
        (put("/data/format", "text"), "data:\n", "data: {format: text}\n"),
        (put("/hardware/gpu", "RTX 4090"), "data:\n", 'data:\nhardware:\n  gpu: "RTX 4090"\n'),
        (remove("/lora/r"), "  r: 8\n", ""),
        (remove("/lora/target_modules/0"), "    - q_proj  # first\n", ""),
        (remove("/training/bf16"), "{bf16: true, ", "{"),
        (remove("/training/learning_rate"), ", learning_rate: 2e-4", ""),
        (remove("/lora/absent"), "", ""),
    ],
    ids=str,
)
def test_yaml(operation: PatchOperation, old: str, new: str) -> None:
    assert old in YAML
    assert apply_patch(YAML, "yaml", [operation]) == (YAML.replace(old, new, 1) if old else YAML)


@pytest.mark.parametrize(
    ("operation", "old", "new"),
    [
        (put("/lora/r", 16), '"r": 8', '"r": 16'),
        (put("/lora/target_modules", ["q"]), '["a",\n\t"b"]', '["q"]'),
        (put("/lora/target_modules/-", "c"), '\t"b"]', '\t"b",\n\t"c"]'),
        (put("/training/bf16", True), '"training": {}', '"training": {"bf16": true}'),
        (put("/data/format", "text"), "{}\n}", '{},\n    "data": {"format": "text"}\n}'),
        (put("/model/dtype", "auto"), '"x/y"', '{"name_or_path": "x/y", "dtype": "auto"}'),
        (remove("/lora"), '    "lora": {"r": 8, "target_modules": ["a",\n\t"b"]},\n', ""),
        (remove("/model"), '"model": "x/y",\n    ', ""),
        (remove("/training"), ',\n    "training": {}', ""),
    ],
    ids=str,
)
def test_json(operation: PatchOperation, old: str, new: str) -> None:
    assert old in JSON
    edited = apply_patch(JSON, "json", [operation])
    assert edited == JSON.replace(old, new, 1)
    json.loads(edited)


def test_windows_lines_and_tabs_stay() -> None:
    text = YAML.replace("\n", "\r\n")
    edited = apply_patch(text, "yaml", [put("/lora/bias", "none")])
    assert edited == text.replace("  r: 8\r\n", "  r: 8\r\n  bias: none\r\n")


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("a: &x {r: 8}\nb: *x\n", put("/a/r", 16)),  # the other one would change as well
        ("a: &x 8\nb: *x\n", put("/b", 16)),
        ("lora: 8\n", put("/lora/r", 16)),
        ("lora:\n  r: 8\n", remove("/lora/r")),
        ("a: 1\n", put("/b/c/0", 2).model_copy(update={"path": "/a/0"})),
    ],
    ids=str,
)
def test_what_cannot_be_edited_is_left_alone(text: str, operation: PatchOperation) -> None:
    with pytest.raises(CannotEdit):
        apply_patch(text, "yaml", [operation])


KEYS = st.sampled_from(["a", "b", "lora", "x/y", "~z"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.sampled_from([0.5, "x", "no", "2e-4", "a: b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.dictionaries(KEYS, VALUES, min_size=1), path=st.lists(KEYS, min_size=1, max_size=3), value=VALUES)
def test_an_edit_parses_to_what_was_asked_for(data: dict[str, Any], path: list[str], value: Any) -> None:
    """apply_patch holds its own result against the patched data; here it is held against its promise to stay whole."""
    pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)
    for format, text in (("json", json.dumps(data, indent=1)), ("yaml", yaml.safe_dump(data))):
        try:
            edited = apply_patch(text, format, [put(pointer, value)])  # type: ignore[arg-type]
        except CannotEdit:
            continue
        here = json.loads(edited) if format == "json" else yaml.safe_load(edited)
        for step in path:
            here = here[step]
        assert json.dumps(here) == json.dumps(value)


@pytest.mark.parametrize(
    "value", [0.0002, 1e-5, 1e22, 3, True, None, "no", "2e-4", "a: b", "", "# x", "é\n", "all-linear"]
)
def test_scalars_mean_the_same_to_yaml(value: Any) -> None:
    assert yaml.safe_load(f"k: {yaml_scalar(value)}") == {"k": value}


def test_a_diff_of_the_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: x/y\ntraining:\n  max_seq_length: 512")
    diff = diff_of(read_setup(path), [put("/training/max_length", 1024)])
    assert diff == (
        "--- a/run.yaml\n+++ b/run.yaml\n@@ -1,3 +1,3 @@\n model: x/y\n training:\n"
        "-  max_seq_length: 512\n\\ No newline at end of file\n"
        "+  max_seq_length: 1024\n\\ No newline at end of file\n"
    )
    assert diff_of(read_setup(path), [put("/training/max_length", 512)]) is None
    assert path.read_text() == "model: x/y\ntraining:\n  max_seq_length: 512"


def test_no_diff_without_a_file(tmp_path: Path) -> None:
    assert diff_of(setup_from_mapping({"model": "x"}), [put("/lora/r", 8)]) is None
    path = tmp_path / "c.toml"
    path.write_text("model = 'x/y'\n[lora]\nr = 8\n")
    assert diff_of(read_setup(path), [put("/lora/r", 16)]) is None
    (tmp_path / "gone.yaml").write_text("model: x/y\n")
    setup = read_setup(tmp_path / "gone.yaml")
    (tmp_path / "gone.yaml").unlink()
    assert diff_of(setup, [put("/lora/r", 16)]) is None
