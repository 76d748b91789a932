"""Whatever the bytes: a Setup, or an error that a user can read; never anything else, and nothing is run."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlora_doctor.core.errors import DoctorError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.document import read_document
from qlora_doctor.reading.yaml_reader import YamlProblem, read_yaml

SUFFIXES = st.sampled_from([".json", ".yaml", ".yml", ".toml", ".py", ".ipynb", ".sh", ".bash", ""])
WORDS = st.sampled_from(
    ["model", "lora", "training", "r", "target_modules", "learning_rate", "bf16", "all-linear", "2e-4", "no", "x" * 300]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)
SECTIONS = ("quantization", "lora", "training", "data", "hardware", "budgets", "other")
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path) -> None:
    try:
        setup = read_setup(path)
    except DoctorError as error:
        assert error.message and "\n" not in error.message and error.exit_code == 2
    else:
        conclude(setup, None)
        for origin in setup.origins:
            setup.place(origin)


@QUIET
@given(content=st.binary(max_size=300), suffix=SUFFIXES)
def test_any_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    check(path)


@QUIET
@given(text=st.text(alphabet="{}[]:,-&*!|>#'\"<?%@`\\ \n\tabr01e.~$()=;", max_size=60), suffix=SUFFIXES)
def test_any_punctuation(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_text("model: x\nlora: " + text if suffix == ".yaml" else text)
    check(path)


@QUIET
@given(sections=st.fixed_dictionaries({}, optional=dict.fromkeys(SECTIONS, VALUES)), model=st.just("x/y") | VALUES)
def test_any_values(tmp_path: Path, sections: dict[str, object], model: object) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"model": model, **sections}))
    check(path)


@QUIET
@given(data=VALUES)
def test_yaml_means_what_pyyaml_says(data: object) -> None:
    text = yaml.safe_dump(data)
    try:
        read = read_yaml(text).data
    except YamlProblem:  # a key that is no text, a depth that no config has
        return
    expected = yaml.safe_load(text)
    assert json.dumps(read, default=str) == json.dumps(expected, default=str)


def test_large_files_are_read_in_time(tmp_path: Path) -> None:
    """Five megabytes within two seconds; the limit here leaves room for a busy machine."""
    rows = [{"name": f"x{i}", "lr": 0.5, "targets": ["q_proj", "v_proj"], "on": True} for i in range(80_000)]
    large = {"model": "x", "lora": {"r": 8}, "rows": rows}
    for name, text in (("c.json", json.dumps(large)), ("c.yaml", _as_yaml(rows))):
        path = tmp_path / name
        path.write_text(text)
        assert path.stat().st_size > 4_000_000
        began = time.process_time()
        document = read_document(path)
        assert len(document.data["rows"]) == 80_000
        assert document.place("/rows/79999/lr").pointer == "/rows/79999/lr"
        assert time.process_time() - began < 10


def _as_yaml(rows: list[dict[str, object]]) -> str:
    lines = [f"- {{name: {r['name']}, lr: 0.5, targets: [q_proj, v_proj], on: true}}\n" for r in rows]
    return "model: x\nlora: {r: 8}\nrows:\n" + "".join(lines)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".py", ".sh", ".ipynb", ".toml", ""])
def test_nothing_is_run(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = tmp_path / "witness"
    touch = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{witness}']]"
    code = f"import evil\nopen({str(witness)!r}, 'w')\nfrom peft import LoraConfig\n"
    code += f"LoraConfig(r=open({str(witness)!r}, 'w'))"
    command = (
        f"touch {witness}\nX=$(touch {witness})\npython qlora.py --lora_r `touch {witness}` --model_name_or_path $X"
    )
    notebook = json.dumps({"nbformat": 4, "cells": [{"cell_type": "code", "source": f"!touch {witness}\n{code}"}]})
    (tmp_path / "evil.py").write_text(f"open({str(witness)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"c{suffix}"
    path.write_text({".py": code, ".sh": command, ".ipynb": notebook}.get(suffix, touch))
    check(path)
    assert not witness.exists()


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".py", ".sh", ".ipynb", ".toml", ""])
def test_a_pickle_is_no_config(tmp_path: Path, suffix: str) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "witness",)

    for protocol in range(6):
        path = tmp_path / f"c{suffix}"
        path.write_bytes(pickle.dumps(Touch(), protocol))
        check(path)
    assert not (tmp_path / "witness").exists()
