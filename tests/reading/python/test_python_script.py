"""Scripts and notebooks, read without being run: what is written, whose defaults stand, what stays unknown and why."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.core.report import Report
from qlora_doctor.facts.environment import EnvironmentFacts, Gpu, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.run.checking import check
from tests.reading.python.scripts import (
    ARGPARSE,
    CLASS_BASED,
    DATACLASS,
    HANDBOOK,
    TUTORIAL,
    UNSLOTH,
    notebook,
    read,
    source,
    value,
)

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], set[str]]] = {
    # name: (script, explicit, another's default, unknown)
    "tutorial": (
        TUTORIAL,
        {
            "model.name_or_path": "my/model",
            "model.device_map": {"": 0},
            "model.use_cache": False,
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_quant_type": "nf4",
            "quantization.bnb_4bit_compute_dtype": "float16",
            "lora.r": 64,
            "lora.lora_alpha": 16.0,
            "lora.lora_dropout": 0.1,
            "training.trainer": "trl",
            "training.method": "sft",
            "training.learning_rate": 2e-4,
            "training.optim": "paged_adamw_32bit",
            "training.max_length": 512,
            "training.packing": False,
            "data.train": "my/rows",
        },
        {"training.gradient_checkpointing": False},
        {"hardware.count"},
    ),
    "argparse": (
        ARGPARSE,
        {
            "quantization.load_in_4bit": True,
            "quantization.bnb_4bit_compute_dtype": "bfloat16",
            "lora.target_modules": ["q_proj", "v_proj", "o_proj"],
            "training.trainer": "transformers",
            "training.prepare_for_kbit_training": True,
            "training.gradient_checkpointing": False,
            "training.per_device_train_batch_size": 4,
        },
        {
            "model.name_or_path": "my/model",
            "quantization.bnb_4bit_use_double_quant": True,
            "lora.r": 8,
            "lora.lora_alpha": 32.0,
        },
        {"training.learning_rate", "training.num_train_epochs", "training.max_length", "data.train"},
    ),
    "dataclass": (
        DATACLASS,
        {
            "quantization.bnb_4bit_quant_type": "nf4",
            "lora.task_type": "CAUSAL_LM",
            "training.gradient_checkpointing": True,
        },
        {
            "model.name_or_path": "my/model",
            "quantization.load_in_4bit": True,
            "quantization.load_in_8bit": False,
            "lora.r": 16,
            "lora.target_modules": ["q_proj", "v_proj"],
            "training.optim": "paged_adamw_8bit",
            "training.learning_rate": 1e-4,
        },
        {"model.dtype", "training.bf16", "training.prepare_for_kbit_training"},
    ),
    "handbook": (
        HANDBOOK,
        {"training.trainer": "trl", "training.method": "sft"},
        {},
        {
            "model.name_or_path",
            "quantization.load_in_4bit",
            "quantization.bnb_4bit_quant_type",
            "lora.r",
            "training.learning_rate",
            "training.gradient_checkpointing",
        },
    ),
    "class": (
        CLASS_BASED,
        {
            "model.name_or_path": "my/model",
            "quantization.load_in_4bit": True,
            "lora.r": 32,
            "lora.lora_alpha": 64.0,
            "lora.target_modules": ["q_proj", "k_proj"],
            "training.learning_rate": 3e-4,
            "training.bf16": True,
            "training.prepare_for_kbit_training": True,
        },
        {},
        {"training.max_length"},
    ),
    "unsloth": (
        UNSLOTH,
        {
            "model.name_or_path": "unsloth/my-model",
            "quantization.load_in_4bit": True,
            "lora.r": 16,
            "lora.target_modules": ["q_proj", "k_proj"],
            "training.max_length": 2048,
            "training.gradient_checkpointing": True,
            "training.bf16": True,
            "training.fp16": False,
        },
        {"quantization.bnb_4bit_quant_type": "nf4", "lora.lora_dropout": 0.0},
        {"quantization.bnb_4bit_compute_dtype", "model.dtype", "training.weight_decay"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_script(case: str, tmp_path: Path) -> None:
    script, explicit, defaults, unknown = CASES[case]
    setup = read(tmp_path, script)
    assert setup.dialect == "python"
    for path, expected in explicit.items():
        assert (value(setup, path), source(setup, path)) == (expected, "explicit"), path
    for path, expected in defaults.items():
        assert value(setup, path) == expected, path
        assert source(setup, path) in ("dialect_default", "library_default"), path
        assert setup.origins[path].note, path
    for path in unknown:
        assert setup.is_unknown(path), path
        assert setup.origins[path].note, path


def environment(**values: Any) -> EnvironmentFacts:
    """A machine."""
    plain: dict[str, Any] = {"tool_version": "0", "python": "3.11", "platform": "Linux", "packages": Packages()}
    return EnvironmentFacts(**{**plain, **values})


def place_text(setup: Any, path: str, script: str) -> str:
    """What stands in the file at a value's place."""
    place = setup.place(path)
    assert place.line == place.end_line, path
    line = script.split("\n")[place.line - 1]
    return line[place.column - 1 : place.end_column - 1]


def test_places_are_where_the_value_is_written(tmp_path: Path) -> None:
    setup = read(tmp_path, TUTORIAL)
    assert place_text(setup, "lora.r", TUTORIAL) == "64"  # behind the name that is passed
    assert place_text(setup, "lora.lora_alpha", TUTORIAL) == "lora_alpha=16"
    assert place_text(setup, "training.learning_rate", TUTORIAL) == "learning_rate=2e-4"
    setup = read(tmp_path, ARGPARSE)
    assert place_text(setup, "lora.r", ARGPARSE) == "8"
    unicode = 'x = "ü"; ' + TUTORIAL.replace("\n", "\n", 1).split("\n")[0] + "\n" + "\n".join(TUTORIAL.split("\n")[1:])
    shifted = unicode.replace("optim=", 'run_name="é", optim=')
    assert place_text(read(tmp_path, shifted), "training.optim", shifted) == 'optim="paged_adamw_32bit"'


# -- notebooks


def cells_of(script: str) -> list[str]:
    return [part + "\n" for part in script.rstrip("\n").split("\n\n")]


def test_notebook_says_what_the_script_says(tmp_path: Path) -> None:
    parts = cells_of(TUTORIAL)
    text = notebook("#md A title", "!pip install -q peft\n%cd /content\n", *parts, "%%bash\nls {x\n", "model?\n")
    setup, script = read(tmp_path, text, "train.ipynb"), read(tmp_path, TUTORIAL)
    for section in ("model", "quantization", "lora", "training", "data"):
        assert getattr(setup, section) == getattr(script, section)
    place = setup.place("lora.r")
    assert place is not None and place.line is not None and place.excerpt is not None
    assert place.cell == 4
    assert text.split("\n")[place.line - 1][place.column - 1 :].startswith("64")


def test_escapes_in_a_notebook_do_not_move_a_place(tmp_path: Path) -> None:
    body = TUTORIAL.replace('model_name = "my/model"', 'title = "a\\tb"; model_name = "my/model"')
    text = notebook(body)
    place = read(tmp_path, text, "t.ipynb").place("model.name_or_path")
    assert place is not None and place.line is not None and place.column is not None
    assert text.split("\n")[place.line - 1][place.column - 1 :].startswith('\\"my/model')


def test_cell_that_cannot_be_read_leaves_what_is_absent_unknown(tmp_path: Path) -> None:
    setup = read(tmp_path, notebook("peft_config = = 3\n", *cells_of(ARGPARSE)), "train.ipynb")
    assert setup.lora.target_modules == ["q_proj", "v_proj", "o_proj"]
    bare = ARGPARSE.replace(
        "return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)", "return model"
    )
    assert source(read(tmp_path, bare), "training.prepare_for_kbit_training") == "library_default"
    setup = read(tmp_path, notebook("x = = 3\n", *cells_of(bare)), "train.ipynb")
    assert setup.is_unknown("training.prepare_for_kbit_training")


def test_old_and_odd_notebooks(tmp_path: Path) -> None:
    import json

    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": TUTORIAL, "outputs": []}]}]}
    assert read(tmp_path, json.dumps(old), "old.ipynb").lora.r == 64
    whole = {"nbformat": 4, "cells": [{"cell_type": "code", "source": TUTORIAL}, 3, {"cell_type": "code"}]}
    assert read(tmp_path, json.dumps(whole), "n.ipynb").lora.r == 64
    for strange in ('{"nbformat": 4, "cells": {"LoraConfig": "from_pretrained"}}', '{"nbformat": 4, "LoraConfig": 1}'):
        (tmp_path / "s.ipynb").write_text(strange)
        with contextlib.suppress(ConfigError):
            assert read_setup(tmp_path / "s.ipynb").lora.r is None


# -- what is known and what is not

LOAD = """\
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments
BITS = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
LORA = LoraConfig(r=8)
"""
END = "Trainer(model=model, args=TrainingArguments(output_dir='o', learning_rate=lr)).train()\n"
BASE = "model = AutoModelForCausalLM.from_pretrained('my/model', quantization_config=BITS)\n"


def lr_of(folder: Path, lines: str) -> Any:
    """The learning rate that these lines lead to; the reason where it is unknown."""
    setup = read(folder, LOAD + BASE + lines + END)
    return (
        setup.training.learning_rate
        if setup.training.learning_rate is not None
        else setup.origins["training.learning_rate"].note
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("lr = 1e-4\n", 1e-4),
        ("lr = 2 * 10 ** -4\n", 2e-4),
        ("lr = float('3e-4')\n", 3e-4),
        ("base = {'lr': 1e-3}\nlr = base['lr'] / 10\n", 1e-4),
        ("base = dict(lr=1e-3)\nbase.update(lr=5e-4)\nlr = base.get('lr', 1)\n", 5e-4),
        ("lr, other = 1e-4, 2\n", 1e-4),
        ("lr = 1e-4\nif True:\n    lr = 2e-4\n", 2e-4),
        ("small = 7 < 8\nlr = 1e-4 if small else 2e-4\n", 1e-4),
        ("def f(x, y=2):\n    return x * y\nlr = f(1e-4)\n", 2e-4),
        ("f = lambda: 1e-4\nlr = f()\n", 1e-4),
        ("def f():\n    global lr\n    lr = 4e-4\nlr = 1\nf()\n", 4e-4),
        (
            "def f():\n  x = 1\n  def g():\n    nonlocal x\n    x = 3e-4\n  g()\n  return x\nlr = f()\n",
            3e-4,
        ),
        ("class C:\n    lr = 1e-4\nC.lr = 2e-4\nlr = C().lr\n", 2e-4),
        ("try:\n    lr = 1e-4\nexcept ImportError:\n    lr = 9\n", 1e-4),
        ("lr = 1e-4\nfor _ in range(3):\n    print(lr)\n", 1e-4),
        ("from types import SimpleNamespace\nc = SimpleNamespace(lr=1e-4)\nlr = c.lr\n", 1e-4),
        ("c = dict(a=1)\nlr = c.setdefault('lr', 1e-4)\n", 1e-4),
        ("lr = 1e-4\nwith open('x') as f:\n    text = f.read()\n", 1e-4),
        # what a run decides
        ("import os\nlr = float(os.environ.get('LR', '1e-4'))\n", 1e-4),
        ("import os\nlr = float(os.environ['LR'])\n", None),
        ("import os\nlr = float(os.getenv('LR'))\n", "The environment decides: LR."),
        (
            "import yaml\nlr = yaml.safe_load(open('c.yaml'))['lr']\n",
            "A file that the script reads decides, and is not beside it: c.yaml.",
        ),
        ("from mine import lr\n", "mine, which was not read, decides."),
        ("lr = 1e-4\nif unseen():\n    lr = 2e-4\n", "It depends on a condition in line 8 that is not known."),
        ("lr = 1e-4\nfor step in range(3):\n    lr = lr * 2\n", "It may change in the loop of line 8."),
        ("lr = 1e-4\nfor s in range(3):\n    if s > unseen:\n        lr = 5\n        break\n", None),
        ("lr = 1e-4\nwhile more():\n    if more():\n        lr = 2\n        continue\n", None),
        ("c = {'lr': 1e-4}\nc[unseen] = 3\nlr = c['wd']\n", None),
        ("c = {'lr': 1e-4}\nif unseen:\n    c['lr'] = 5\nlr = c['lr']\n", None),
        ("lr = 1e-4\nfrom mine import *\n", "mine, which was not read, may set it."),
        ("def f():\n    if unseen:\n        return 1e-4\n    return 2e-4\nlr = f()\n", "f() returns several values."),
        ("class C:\n    lr = 1e-4\nc = C()\nif unseen:\n    c.lr = 3\nlr = c.lr\n", None),
        ("from mine import update_config\nc = {'lr': 1e-4}\nupdate_config(c)\nlr = c['lr']\n", None),
        ("lr = [x for x in (1e-4,)][0]\n", 1e-4),
        ("def f(n):\n    return f(n - 1)\nlr = f(3)\n", "It calls itself."),
        ("lr = undefined_name\n", "undefined_name is not set in what was read."),
        ("from mine import A, B\nlr = 1e-4 if A == B else 2e-4\n", None),
    ],
)
def test_simple_dataflow(lines: str, expected: Any, tmp_path: Path) -> None:
    found = lr_of(tmp_path, lines)
    if expected is None:
        assert isinstance(found, str)
    else:
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_branches_that_a_default_leaves_out_are_not_said_to_be_absent(tmp_path: Path) -> None:
    text = LOAD + (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lora', action='store_true')\n"
        "p.add_argument('--four', action='store_true')\na = p.parse_args()\n"
        "model = AutoModelForCausalLM.from_pretrained('my/model', quantization_config=BITS if a.four else None)\n"
        "if a.lora:\n    model = prepare_model_for_kbit_training(model)\n    model = get_peft_model(model, LORA)\n"
        "lr = 1e-4\n"
    )
    setup = read(tmp_path, text + END)
    assert setup.is_unknown("quantization.load_in_4bit")
    assert setup.is_unknown("training.prepare_for_kbit_training")
    assert [remark.kind for remark in setup.remarks] == []


def test_what_is_absent_is_absent_where_all_was_seen(tmp_path: Path) -> None:
    bare = "lr = 1e-4\nmodel = AutoModelForCausalLM.from_pretrained('my/model')\nmodel = get_peft_model(model, LORA)\n"
    setup = read(tmp_path, LOAD + bare + END)
    assert setup.quantization.load_in_4bit is False
    assert setup.training.prepare_for_kbit_training is False
    handed = bare + "from mine import patch\npatch(model)\n"
    setup = read(tmp_path, LOAD + handed + END)
    assert setup.is_unknown("training.prepare_for_kbit_training")
    opaque = "lr = 1\nmodel = AutoModelForCausalLM.from_pretrained('my/model', **unseen())\n"
    setup = read(tmp_path, LOAD + opaque + END)
    assert setup.is_unknown("quantization.load_in_4bit")
    assert setup.is_unknown("model.dtype")


def test_functions_that_nobody_calls_have_unknown_parameters(tmp_path: Path) -> None:
    text = LOAD + (
        "def build(name, rank=8):\n"
        "    model = AutoModelForCausalLM.from_pretrained(name, quantization_config=BITS)\n"
        "    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=4))\n"
    )
    setup = read(tmp_path, text.replace("LORA = LoraConfig(r=8)\n", ""))
    assert setup.lora.lora_alpha == 4
    assert setup.is_unknown("lora.r")
    assert setup.is_unknown("model.name_or_path")
    assert setup.quantization.bnb_4bit_quant_type == "nf4"


def test_unreachable_folder_is_not_said_to_be_missing(tmp_path: Path, tiny_llama: Path) -> None:
    setup = read(tmp_path, LOAD + BASE.replace("my/model", "./made/by/the/script") + "lr = 1\n" + END)
    assert setup.is_unknown("model.name_or_path")
    setup = read(tmp_path, LOAD + BASE.replace("my/model", str(tiny_llama)) + "lr = 1\n" + END)
    assert setup.model.name_or_path == str(tiny_llama)


def test_choice_by_the_card(tmp_path: Path) -> None:
    script = TUTORIAL.replace('bnb_4bit_compute_dtype = "float16"', "").replace(
        "compute_dtype = getattr(torch, bnb_4bit_compute_dtype)",
        "good = torch.cuda.get_device_capability()[0] >= 8\ncompute_dtype = torch.bfloat16 if good else torch.float16",
    )
    script = script.replace("fp16=False", "fp16=not good").replace("bf16=False", "bf16=good")
    setup = read(tmp_path, script)

    def on(capability: float) -> Any:
        return conclude(
            setup, environment(gpus=[Gpu(index=0, name="a card", memory_bytes=1 << 34, capability=capability)])
        )

    new, old = on(9.0), on(7.5)
    assert (new.compute_dtype, new.bf16, new.fp16) == ("bfloat16", True, False)
    assert (old.compute_dtype, old.bf16, old.fp16) == ("float16", False, True)
    assert [remark.kind for remark in setup.remarks] == ["bf16-auto"]
    compared = script.replace("bf16=good", "bf16=compute_dtype == torch.bfloat16")
    assert read(tmp_path, compared).remarks == setup.remarks
    mixed = read(tmp_path, script.replace("bf16=good", "bf16=True").replace("fp16=not good", "fp16=False"))
    assert mixed.is_unknown("quantization.bnb_4bit_compute_dtype")
    assert mixed.training.bf16 is True


# -- gradient checkpointing


@pytest.mark.parametrize(
    ("lines", "arguments", "expected"),
    [
        ("", "", None),
        ("", "gradient_checkpointing=True", True),
        ("", "gradient_checkpointing=False", False),
        ("model.gradient_checkpointing_enable()\n", "", True),
        ("model.gradient_checkpointing_enable()\n", "gradient_checkpointing=False", True),
        ("model.gradient_checkpointing_enable()\nmodel.gradient_checkpointing_disable()\n", "", None),
        ("model = prepare_model_for_kbit_training(model)\n", "", None),  # silent: preparation turns it on
        ("model = prepare_model_for_kbit_training(model)\n", "gradient_checkpointing=False", True),
        ("model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)\n", "", False),
        ("model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=unseen)\n", "", "unknown"),
        ("if unseen:\n    model.gradient_checkpointing_enable()\n", "", "unknown"),
        (
            "model.gradient_checkpointing_enable()\nif unseen:\n    model.gradient_checkpointing_disable()\n",
            "",
            "unknown",
        ),
    ],
)
def test_gradient_checkpointing(lines: str, arguments: str, expected: Any, tmp_path: Path) -> None:
    end = f"Trainer(model=model, args=TrainingArguments({arguments})).train()\n"
    setup = read(tmp_path, LOAD + BASE + lines + "model = get_peft_model(model, LORA)\n" + end)
    if expected == "unknown":
        assert setup.is_unknown("training.gradient_checkpointing")
        return
    assert setup.training.gradient_checkpointing is expected
    concluded = conclude(setup, None).gradient_checkpointing
    assert concluded is (expected if expected is not None else "prepare" in lines)


# -- findings


def found(folder: Path, text: str, name: str = "train.py") -> Report:
    (folder / name).write_text(text, encoding="utf-8")
    return check(folder / name, stages=("config",))


def rules_of(report: Report) -> set[str]:
    return {finding.rule for finding in report.findings if finding.severity != "info"}


def test_preparation_after_the_adapter(tmp_path: Path) -> None:
    good = "model = prepare_model_for_kbit_training(model)\nmodel = get_peft_model(model, LORA)\nlr = 1e-4\n"
    bad = "model = get_peft_model(model, LORA)\nmodel = prepare_model_for_kbit_training(model)\nlr = 1e-4\n"
    assert "QD350" not in rules_of(found(tmp_path, LOAD + BASE + good + END))
    report = found(tmp_path, LOAD + BASE + bad + END)
    (finding,) = [each for each in report.findings if each.rule == "QD350"]
    assert finding.location.line == 8
    assert "line 7" in finding.message
    counted = "def count(m):\n    return sum(p.numel() for p in m.parameters() if p.requires_grad)\ncount(model)\n"
    assert "QD350" in rules_of(found(tmp_path, LOAD + BASE + bad + counted + END))
    thawed = bad + "for n, p in model.named_parameters():\n    p.requires_grad = 'lora' in n\n"
    assert "QD350" not in rules_of(found(tmp_path, LOAD + BASE + thawed + END))
    perhaps = bad.replace("model = prepare", "if unseen:\n    model = prepare")
    assert "QD350" not in rules_of(found(tmp_path, LOAD + BASE + perhaps + END))


def test_checkpointing_arguments_that_are_replaced(tmp_path: Path) -> None:
    lines = "model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})\n"
    for trainers, expected in (("True", ["checkpointing-arguments-replaced"]), ("False", [])):
        end = END.replace("output_dir", "gradient_checkpointing=True, gradient_checkpointing_kwargs=dict(use_reentrant="
                          f"{trainers}), output_dir")  # fmt: skip
        setup = read(tmp_path, LOAD + BASE + lines + "lr = 1e-4\nmodel = get_peft_model(model, LORA)\n" + end)
        assert [remark.kind for remark in setup.remarks] == expected
        assert setup.training.gradient_checkpointing_kwargs == {"use_reentrant": trainers == "True"}


def test_preparation_of_a_base_in_16_bits_turns_no_checkpointing_on(tmp_path: Path) -> None:
    plain = BASE.replace(", quantization_config=BITS", "")
    lines = "lr = 1\nmodel = prepare_model_for_kbit_training(model)\nmodel = get_peft_model(model, LORA)\n"
    setup = read(tmp_path, LOAD + plain + lines + END)
    assert setup.training.prepare_for_kbit_training is True
    assert conclude(setup, None).gradient_checkpointing is False


def test_adapter_attached_twice(tmp_path: Path) -> None:
    once = TUTORIAL
    twice = TUTORIAL.replace(
        "trainer = SFTTrainer(",
        "from peft import get_peft_model\nmodel = get_peft_model(model, peft_config)\ntrainer = SFTTrainer(",
    )
    assert "QD351" not in rules_of(found(tmp_path, once))
    assert "QD351" in rules_of(found(tmp_path, twice))
    merged = twice.replace("trainer = SFTTrainer(", "model = model.merge_and_unload()\ntrainer = SFTTrainer(")
    assert "QD351" not in rules_of(found(tmp_path, merged))


def test_unsloth_adapts_a_head_that_trl_would_refuse(tmp_path: Path) -> None:
    adapted = UNSLOTH.replace('"k_proj"]', '"k_proj", "lm_head"]')
    assert adapted != UNSLOTH
    assert "QD341" not in rules_of(found(tmp_path, adapted))


def test_switch_as_argument_of_from_pretrained(tmp_path: Path) -> None:
    text = LOAD + "model = AutoModelForCausalLM.from_pretrained('my/model', load_in_4bit=True)\nlr = 1e-4\n" + END
    setup = read(tmp_path, text)
    assert setup.quantization.load_in_4bit is True

    for version, taken in (("5.2.0", False), ("4.57.0", True)):
        facts = conclude(setup, environment(packages=Packages(transformers=version)))
        assert facts.load_switches == ["load_in_4bit"] and facts.load_switches_taken is taken
        assert facts.quantization_written is False and facts.removed_keys == []


def test_switch_beside_a_config(tmp_path: Path) -> None:
    text = LOAD + BASE.replace("quantization_config=", "load_in_4bit=True, quantization_config=") + "lr = 1e-4\n" + END
    setup = read(tmp_path, text)
    for version, told in (("5.2.0", True), ("4.38.0", True), ("4.37.2", False)):  # before, the config takes its place
        facts = conclude(setup, environment(packages=Packages(transformers=version)))
        assert facts.load_switches == (["load_in_4bit"] if told else []) and facts.quantization_written is True


@pytest.mark.parametrize(
    ("layers", "told"), [("", True), (", layers_to_transform=[0]", False), (", layers_to_transform=chosen()", False)]
)
def test_layers_that_are_worked_out_are_not_called_missing(layers: str, told: bool, tmp_path: Path) -> None:
    text = LOAD.replace("LoraConfig(", f"LoraConfig(layers_pattern='layers'{layers}, ") + BASE
    text = (
        text.replace("LORA = LoraConfig", "LORA = LoraConfig")
        + "lr = 1e-4\nmodel = get_peft_model(model, LORA)\n"
        + END
    )
    facts = conclude(read(tmp_path, text), environment())
    assert any(each.kind == "layers-pattern-alone" for each in facts.refused or ()) is told


@pytest.mark.parametrize(
    ("words", "card"),
    [
        ("No card is named.", "Tesla T4"),
        ("A T4 does, an A100 is faster.", "Tesla T4"),
        ("Tested on a 1xA10G 24GB.", None),
        ("| 0  NVIDIA A100-SXM...  Off |", None),
    ],
)
def test_card_that_a_notebook_was_saved_with_yields_to_the_one_it_speaks_of(
    words: str, card: str | None, tmp_path: Path
) -> None:
    import json

    script = LOAD + BASE + "lr = 1e-4\nmodel = get_peft_model(model, LORA)\n" + END
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "metadata": {}, "source": [words]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": script},
    ]
    metadata = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}
    file = tmp_path / "train.ipynb"
    file.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}))
    assert read_setup(file).hardware.gpu == card


def test_comment_suppresses_a_finding(tmp_path: Path) -> None:
    assert "QD120" in rules_of(found(tmp_path, LOAD + BASE + "lr = 2e-6\nmodel = get_peft_model(model, LORA)\n" + END))
    quiet = "lr = 2e-6  # qlora-doctor: ignore[QD120] a last epoch\nmodel = get_peft_model(model, LORA)\n"
    report = found(tmp_path, LOAD + BASE + quiet + END)
    (finding,) = [each for each in report.findings if each.rule == "QD120"]
    assert finding.suppressed is not None and "a last epoch" in finding.suppressed


def test_comment_in_a_notebook_suppresses_a_finding(tmp_path: Path) -> None:
    cell = "# qlora-doctor: ignore[QD120] a last epoch\nlr = 2e-6\nmodel = get_peft_model(model, LORA)\n" + END
    report = found(tmp_path, notebook("#md About", LOAD, BASE, cell), "n.ipynb")
    (finding,) = [each for each in report.findings if each.rule == "QD120"]
    assert finding.suppressed is not None and "a last epoch" in finding.suppressed


def test_finding_in_a_notebook_names_the_cell(tmp_path: Path) -> None:
    from qlora_doctor.reporters import render

    text = notebook(LOAD, BASE, "lr = 2e-6\nmodel = get_peft_model(model, LORA)\n" + END)
    report = found(tmp_path, text, "n.ipynb")
    (finding,) = [each for each in report.findings if each.rule == "QD120"]
    assert finding.location.cell == 3
    assert "(cell 3)" in render(report, "text")


def test_local_model_goes_through_the_structure_stage(tmp_path: Path, tiny_llama: Path) -> None:
    script = (
        LOAD
        + BASE.replace("my/model", str(tiny_llama))
        + (
            "model = prepare_model_for_kbit_training(model)\n"
            "model = get_peft_model(model, LoraConfig(r=4, target_modules=['q_proj', 'nothing_proj']))\nlr = 1e-4\n"
        )
    )
    (tmp_path / "train.py").write_text(script + END)
    report = check(tmp_path / "train.py", stages=("config", "structure"))
    assert report.facts.adapter is not None and report.facts.adapter.unmatched_targets
    (finding,) = [each for each in report.findings if each.rule == "QD304"]
    assert finding.location.line == 8


def test_model_that_is_not_known_is_not_built(tmp_path: Path, tiny_llama: Path) -> None:
    script = (
        LOAD
        + BASE.replace("my/model", str(tiny_llama))
        + ("model = get_peft_model(model, LoraConfig(r=4, target_modules=find_names(model)))\nlr = 1e-4\n")
    )
    (tmp_path / "train.py").write_text(script + END)
    report = check(tmp_path / "train.py", stages=("config", "structure"))
    (structure,) = [stage for stage in report.stages if stage.name == "structure"]
    assert structure.status == "skipped"
    assert structure.reason is not None and "lora.target_modules" in structure.reason
    assert report.facts.adapter is None


# -- errors


def test_what_is_no_training_script_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="builds no LoRA adapter and starts no training"):
        read(tmp_path, "print('hello')\n")


def test_the_kind_of_a_classifiers_loss_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "from transformers import AutoModelForSequenceClassification, Trainer\n"
        "model = AutoModelForSequenceClassification.from_pretrained(\n"
        '    "base", num_labels=3, problem_type="multi_label_classification"\n)\n'
        "trainer = Trainer(model=model)\ntrainer.train()\n"
    )
    model = read_setup(path).model
    assert (model.num_labels, model.extra) == (3, {"problem_type": "multi_label_classification"})


@pytest.mark.parametrize(
    ("line", "trains"),
    [("model.generate(x)", False), ("loss.backward()", True), ("Trainer(model=model).train()", True)],
)
def test_a_script_that_uses_an_adapter_is_no_training(line: str, trains: bool, tmp_path: Path) -> None:
    """What it loads is frozen as it should be; the same load before a training is a fault."""
    path = tmp_path / "use.py"
    path.write_text(
        "from peft import LoraConfig, PeftModel\n"
        "from transformers import AutoModelForCausalLM, Trainer\n"
        'model = AutoModelForCausalLM.from_pretrained("base")\n'
        f'model = PeftModel.from_pretrained(model, "adapter")\n{line}\n'
    )
    if trains:
        assert read_setup(path).model.adapter_is_trainable is not True
        return
    with pytest.raises(ConfigError, match="loads an adapter and starts no training"):
        read_setup(path)


def test_syntax_error_has_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid Python") as caught:
        read(tmp_path, TUTORIAL + "x = (\n")
    assert caught.value.place is not None and caught.value.place.line is not None


def test_reading_is_quick(tmp_path: Path) -> None:
    read(tmp_path, TUTORIAL)
    started = time.process_time()
    for _ in range(10):
        read(tmp_path, TUTORIAL)
    assert time.process_time() - started < 1


def test_quantization_of_one_of_several_models(tmp_path: Path) -> None:
    """LoftQ is put on a base in full precision, and another one is loaded in 8 bits: peft's int8_correction.py."""
    text = (
        "from peft import LoraConfig, get_peft_model\n"
        "from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig\n"
        "bits = BitsAndBytesConfig(load_in_8bit=True)\n\n\n"
        "def load(*args, **kwargs):\n    if unknown:\n"
        "        return AutoModelForCausalLM.from_pretrained(*args, **kwargs)\n"
        "    return AutoModelForSeq2SeqLM.from_pretrained(*args, **kwargs)\n\n\n"
        "reference = load('m/m')\nlow = load('m/m', quantization_config=bits)\n"
        "model = get_peft_model(load('m/m'), LoraConfig(init_lora_weights='loftq'))\n"
    )
    setup = read(tmp_path, text)
    assert setup.lora.init_lora_weights == "loftq"
    assert setup.is_unknown("quantization.load_in_8bit") and setup.is_unknown("quantization.load_in_4bit")
