"""Rows that a trainer's own code forms: which Python has it, what it is asked, what is told where it does not answer.

A small package in axolotl's place, made on the spot, is installed in an environment of its own; its strategy writes
every letter in capitals, which no rendering of ours does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("datasets")

from qlora_doctor.pipeline.own_code import asking
from qlora_doctor.pipeline.own_code.finding import TrainerPython, find_trainer
from qlora_doctor.probes.data.look import see_data
from qlora_doctor.reading import read_setup
from qlora_doctor.setup.setup import Setup
from tests.probes.conftest import silent

WRAPPERS = """\
import socket

def get_dataset_wrapper(entry, tokenizer, cfg, base, rows, style=None, processor=None):
    made = []
    for row in rows:
        question, answer = row["instruction"].upper(), row["output"].upper()
        if answer == "HANG":
            import time
            time.sleep(60)
        if answer == "NETWORK":
            socket.create_connection(("192.0.2.1", 80))
        if answer == "ODD":
            raise ValueError("an odd row")
        if not answer:
            continue
        first = tokenizer(question, add_special_tokens=False)["input_ids"]
        second = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        made.append({"input_ids": first + second, "labels": [-100] * len(first) + second})
    return made, None
"""

TOKENIZER = """\
from tokenizers import Tokenizer

class load_tokenizer:
    eos_token, bos_token, pad_token = "<|im_end|>", None, "<|im_end|>"

    def __init__(self, cfg):
        self.inner = Tokenizer.from_file(cfg.tokenizer_config + "/tokenizer.json")
        self.inner.add_tokens(["<|new|>"])
        self.eos_token_id = self.inner.token_to_id(self.eos_token)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": self.inner.encode(text, add_special_tokens=False).ids}

    def get_added_vocab(self):
        return {"<|new|>": self.inner.token_to_id("<|new|>")}
"""
DATASETS = """\
class Dataset(list):
    from_list = classmethod(lambda cls, rows: cls(rows))
    select = lambda self, places: Dataset(self[place] for place in places)

disable_caching = disable_progress_bars = lambda: None
"""
"""The real one takes seconds to import, in each of these processes."""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with a Python (this one, with its packages) and a trainer that takes axolotl's place."""
    root = tmp_path / "env"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = root / "lib" / version / "site-packages"
    for name, text in {
        "__init__.py": "",
        "utils/__init__.py": "",
        "utils/dict.py": "class DictDefault(dict):\n    __getattr__ = dict.get\n",
        "utils/data/__init__.py": "",
        "utils/data/wrappers.py": WRAPPERS,
        "prompt_strategies/__init__.py": "",
        "loaders/__init__.py": "",
        "loaders/tokenizer.py": TOKENIZER,
        "../datasets.py": DATASETS,
    }.items():
        path = packages / "axolotl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    described = packages / "axolotl-9.9.9.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: axolotl\nVersion: 9.9.9\n")
    (root / "bin").mkdir()
    python = root / "bin" / "python"
    mine = os.pathsep.join(each for each in sys.path if each.endswith("site-packages"))
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}{os.pathsep}{mine}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return root


def setup_of(folder: Path, model: Path, answers: list[str], **entry: Any) -> Setup:
    rows = [{"instruction": f"Say {n}", "input": "", "output": answer} for n, answer in enumerate(answers)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "base_model": str(model), "adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "lora_alpha": 16,
        "lora_target_linear": True, "micro_batch_size": 2, "learning_rate": 2e-4, "sequence_len": 128,
        "datasets": [{"path": "rows.jsonl", "type": "alpaca", **entry}],
    }  # fmt: skip
    (folder / "qlora.yml").write_text(json.dumps(config))
    return read_setup(folder / "qlora.yml")


posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in's Python is a shell script")


@posix
def test_the_trainers_own_code_forms_the_rows(tiny_llama: Path, environment: Path, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, tiny_llama, ["it is one", "", "it is two"])
    own = find_trainer(setup, str(environment))
    assert own is not None and own.version == "9.9.9"
    data = see_data(setup, silent, own=own).data
    assert data.failure is None and data.rendered_by == "axolotl 9.9.9's own code" and data.rendered_by_trainer
    assert data.shown is not None and data.left_out == {"it does not take the row": 1} and data.rows == 3
    text = ["".join(part.text for part in row.segments) for row in data.shown]
    assert any("IT IS ONE" in each and "SAY 0" in each for each in text)
    assert data.trained_ratio is not None and 0 < data.trained_ratio < 1 and data.eos_supervised_ratio == 1.0
    ours = see_data(setup, silent).data
    assert ours.rendered_by is not None and ours.rendered_by.startswith("qlora-doctor after axolotl's")
    assert ours.rendered_by_trainer is False


@posix
def test_a_row_at_which_it_stops_is_a_finding(tiny_llama: Path, environment: Path, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, tiny_llama, ["one", "odd"])
    data = see_data(setup, silent, own=find_trainer(setup, str(environment))).data
    assert data.failure is not None and "Row 2" in data.failure and "an odd row" in data.failure


@posix
@pytest.mark.parametrize(("answer", "why"), [("network", "network"), ("hang", "took more than")])
def test_what_it_cannot_do_here_is_no_fault_of_the_data(
    answer: str, why: str, tiny_llama: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "SECONDS", 6.0 if answer == "hang" else 120.0)
    setup = setup_of(tmp_path, tiny_llama, ["one", answer])
    data = see_data(setup, silent, own=find_trainer(setup, str(environment))).data
    assert data.failure is None and data.rows == 2 and data.rendered_by_trainer is False
    assert data.rendered_by is not None and "alpaca (axolotl 9.9.9 did not form them" in data.rendered_by
    assert why in data.rendered_by


@posix
def test_code_of_ones_own_does_not_run(tiny_llama: Path, environment: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "strategy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    setup = setup_of(tmp_path, tiny_llama, ["one"], type="mine.strategy")
    with pytest.raises(Exception, match=r"mine\.strategy"):
        see_data(setup, silent, own=find_trainer(setup, str(environment)))
    assert not (tmp_path / "ran").exists()


@posix
def test_code_of_a_model_does_not_run(tiny_llama: Path, environment: Path, tmp_path: Path) -> None:
    """ms-swift loads every model with its own code, whatever the file says."""
    model = tmp_path / "model"
    shutil.copytree(tiny_llama, model)
    (model / "conf.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import PretrainedConfig as Conf\n"
    )
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "conf.Conf"}}))
    (tokenizer,) = environment.glob("lib/*/site-packages/axolotl/loaders/tokenizer.py")
    trusting = f"""
        from transformers import AutoConfig
        AutoConfig.from_pretrained({str(model)!r}, trust_remote_code=True)
"""
    at = "def __init__(self, cfg):"
    text = tokenizer.read_text()
    assert at in text
    tokenizer.write_text(text.replace(at, at + trusting))
    setup = setup_of(tmp_path, tiny_llama, ["one"])
    data = see_data(setup, silent, own=find_trainer(setup, str(environment))).data
    assert data.rendered_by is not None and "code of its own, which is not run" in data.rendered_by
    assert not (tmp_path / "ran").exists()


def test_which_python_has_the_trainer(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    project = tmp_path / "project"
    project.mkdir()
    setup = setup_of(project, Path("org/model"), ["one"])
    python = str(environment / "bin" / "python")
    assert find_trainer(setup) is None
    (project / ".venv").symlink_to(environment)
    beside = find_trainer(setup)
    assert beside is not None and not beside.asked, "a stranger's repository may bring it"
    told = asking.ask(beside, "axolotl", "model", {}, [])
    assert told.failure is not None and "--trainer-python" in told.failure
    monkeypatch.setenv("VIRTUAL_ENV", str(environment))
    active = find_trainer(setup)
    assert active is not None and active.python == python and active.asked
    monkeypatch.delenv("VIRTUAL_ENV")
    command = tmp_path / "commands" / "axolotl"
    command.parent.mkdir()
    for head in (f"#!{python} -E\n", f"#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n"):
        command.write_text(head + "import axolotl\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent))
        found = find_trainer(setup)
        assert found == TrainerPython("axolotl", python, "9.9.9", found.changed if found else 0), head


def test_a_python_without_the_trainer_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, tiny_llama, ["one"])
    data = see_data(setup, silent, own=find_trainer(setup, sys.executable)).data
    assert data.rendered_by is not None and "it is not installed there" in data.rendered_by
