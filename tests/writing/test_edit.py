"""Edits change what they name and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qlora_doctor.core.report import PatchOperation
from qlora_doctor.writing.edit import apply_patch, yaml_scalar
from qlora_doctor.writing.patch import CannotEdit

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


def add(path: str, value: Any, after: str | None = None) -> PatchOperation:
    return PatchOperation(op="add", path=path, value=value, after=after)


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


@pytest.mark.parametrize(
    ("text", "operations", "after"),
    [
        ("a: 1  # one\nb: 2\n", [remove("/a"), add("/c", 1)], "c: 1  # one\nb: 2\n"),
        ("'a': 1\n", [remove("/a"), add("/b", 1)], "b: 1\n"),
        ("r: 1\nr: 2  # this\n", [put("/r", 2)], "r: 2  # this\n"),
        ("a: {r: 1, r: 2, s: 3}\n", [put("/a/r", 2)], "a: {r: 2, s: 3}\n"),
        ("r: 1\nr: 2\nr: 3\n", [put("/r", 3)], "r: 3\n"),
        ("a: 1 # x\nb: 2\n", [add("/c", 3, after="/a")], "a: 1 # x\nc: 3\nb: 2\n"),
        ("a:\n  b: |\n    text\nc: 1\n", [add("/d", 1, after="/a")], "a:\n  b: |\n    text\nd: 1\nc: 1\n"),
        ("a: 1", [add("/b", 2, after="/a")], "a: 1\nb: 2"),
        ("a: 1\nb: 2\n", [add("/c", 3, after="/gone")], "a: 1\nb: 2\nc: 3\n"),
    ],
    ids=str,
)
def test_names_repetitions_and_places(text: str, operations: list[PatchOperation], after: str) -> None:
    assert apply_patch(text, "yaml", operations) == after


TOML = """\
# top
model = 'x/y'  # base
rank = 8
names = ["a", "b"]  # two

[quantization.bnb]
load_in_4bit = true  # on

[[datasets]]
path = 'd'
"""


@pytest.mark.parametrize(
    ("operation", "old", "new"),
    [
        (put("/rank", 16), "rank = 8", "rank = 16"),
        (put("/quantization/bnb/load_in_4bit", False), "load_in_4bit = true  # on", "load_in_4bit = false  # on"),
        (put("/names", ["c"]), '["a", "b"]  # two', '["c"]  # two'),
        (put("/datasets/0/path", "e"), "path = 'd'", 'path = "e"'),
        (add("/seed", 1, after="/rank"), "rank = 8\n", "rank = 8\nseed = 1\n"),
        (add("/quantization/bnb/type", "nf4"), "true  # on\n", 'true  # on\ntype = "nf4"\n'),
        (remove("/rank"), "rank = 8\n", ""),
        (remove("/absent/key"), "", ""),
    ],
    ids=str,
)
def test_toml(operation: PatchOperation, old: str, new: str) -> None:
    for text in (TOML, TOML.replace("\n", "\r\n")):
        end = "\r\n" if "\r" in text else "\n"
        wanted = TOML.replace(old, new, 1) if old else TOML
        assert apply_patch(text, "toml", [operation]) == wanted.replace("\n", end)


def test_toml_that_cannot_be_edited_is_left_alone() -> None:
    for operation in (add("/model/dtype/x", 1), add("/names/7", "x")):
        with pytest.raises(CannotEdit):
            apply_patch(TOML, "toml", [operation])
    with pytest.raises(CannotEdit):
        apply_patch("x = 1", "text", [put("/x", 2)])
