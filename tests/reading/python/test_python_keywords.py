"""Keyword arguments that the called class does not take, judged by the versions that are installed."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.facts.environment import EnvironmentFacts, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.probes.environment import installed_packages
from qlora_doctor.reading import Setup, read_setup
from qlora_doctor.run.checking import check
from qlora_doctor.tables.conditions import is_so
from qlora_doctor.tables.signatures import LIBRARIES, RefusedArgument, _table, refusals
from tests.reading.python.scripts import UNSLOTH, notebook, read

NEW = {"transformers": "5.23.0", "trl": "1.16.0", "peft": "0.21.2"}
HEAD = """\
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained("my/model")
tokenizer = AutoTokenizer.from_pretrained("my/model")
"""
SCRIPT = f"""\
{HEAD}
quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_typ="nf4")
args = SFTConfig(output_dir="out", evaluation_strategy="steps", max_seq_length=1024)
trainer = SFTTrainer(
    model=model,
    args=args,
    tokenizer=tokenizer,
    max_seq_length=1024,
    dataset_text_field="text",
    peft_config=LoraConfig(rank=8),
)
trainer.train()
"""


def environment(**packages: str | None) -> EnvironmentFacts:
    """A machine with the newest libraries, but for these."""
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=Packages(**(NEW | packages)))


def told(setup: Setup, **packages: str | None) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """(what is removed, what is unknown), each with the name that is proposed."""
    facts = conclude(setup, environment(**packages))
    removed, unknown = facts.removed_keys or [], facts.unknown_keys or []
    assert all(key.note for key in (*removed, *unknown))
    return {key.key: key.closest for key in removed}, {key.key: key.closest for key in unknown}


def of(folder: Path, call: str, **packages: str | None) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """What is told of one call."""
    return told(read(folder, f"{HEAD}{call}\n"), **packages)


def test_script_of_an_old_tutorial(tmp_path: Path) -> None:
    setup = read(tmp_path, SCRIPT)
    assert told(setup) == (
        {
            "SFTConfig.evaluation_strategy": "SFTConfig.eval_strategy",
            "SFTConfig.max_seq_length": "SFTConfig.max_length",
            "SFTTrainer.tokenizer": "SFTTrainer.processing_class",
            "SFTTrainer.max_seq_length": "SFTConfig.max_length",
            "SFTTrainer.dataset_text_field": "SFTConfig.dataset_text_field",
        },
        {
            "BitsAndBytesConfig.bnb_4bit_quant_typ": "BitsAndBytesConfig.bnb_4bit_quant_type",
            "LoraConfig.rank": "LoraConfig.r",
        },
    )


def test_nothing_is_said_where_it_is_not_installed(tmp_path: Path) -> None:
    setup = read(tmp_path, SCRIPT)
    assert told(setup, transformers=None, trl=None, peft=None) == ({}, {})
    assert conclude(setup, None).removed_keys == conclude(setup, None).unknown_keys == []


@pytest.mark.parametrize(
    ("call", "packages", "removed", "unknown"),
    [
        # the release before it went, and the first without it
        ("TrainingArguments(evaluation_strategy='no')", {"transformers": "4.50.3"}, [], []),
        ("TrainingArguments(evaluation_strategy='no')", {"transformers": "4.51.0"}, ["evaluation_strategy"], []),
        ("TrainingArguments(warmup_ratio=0.1)", {"transformers": "5.14.1"}, [], []),
        ("TrainingArguments(warmup_ratio=0.1)", {"transformers": "5.15.0"}, ["warmup_ratio"], []),
        ("Trainer(model, tokenizer=tokenizer)", {"transformers": "4.57.6"}, [], []),
        ("Trainer(model, tokenizer=tokenizer)", {"transformers": "5.0.0"}, ["tokenizer"], []),
        ("Trainer(model, tokenizer=tokenizer)", {"transformers": "5.0.0rc1"}, [], []),
        ("SFTConfig(max_seq_length=8)", {"trl": "0.19.1"}, [], []),
        ("SFTConfig(max_seq_length=8)", {"trl": "0.20.0"}, ["max_seq_length"], []),
        ("SFTConfig(max_seq_length=8)", {"trl": "0.20.0.dev0"}, [], []),
        ("SFTTrainer(model, tokenizer=tokenizer)", {"trl": "0.15.2"}, [], []),
        ("SFTTrainer(model, tokenizer=tokenizer)", {"trl": "0.16"}, ["tokenizer"], []),
        # an argument that came later
        ("SFTConfig(max_length=8)", {"trl": "0.15.2"}, [], ["max_length"]),
        ("SFTConfig(max_length=8)", {"trl": "0.16.0"}, [], []),
        ("TrainingArguments(eval_strategy='no')", {"transformers": "4.40.2"}, [], ["eval_strategy"]),
        ("TrainingArguments(eval_strategy='no')", {"transformers": "4.41.0"}, [], []),
        ("LoraConfig(use_dora=True)", {"peft": "0.8.2"}, [], ["use_dora"]),
        ("LoraConfig(use_dora=True)", {"peft": "0.9.0"}, [], []),
        # one that no version has: nothing is known of a version that is newer than the table
        ("LoraConfig(rank=8)", {"peft": "0.21.2"}, [], ["rank"]),
        ("LoraConfig(rank=8)", {"peft": "0.22.0"}, [], []),
        ("SFTConfig(lenght=8)", {"trl": "1.17.0"}, [], []),
        ("SFTConfig(lenght=8)", {"transformers": "5.24.0"}, [], []),
        ("SFTConfig(lenght=8)", {}, [], ["lenght"]),
        # of the class above, in another library
        ("SFTConfig(evaluation_strategy='no')", {"transformers": "4.50.0", "trl": "0.15.0"}, [], []),
        ("SFTConfig(evaluation_strategy='no')", {"trl": "1.99.0"}, ["evaluation_strategy"], []),
        ("SFTConfig(neftune_noise_alpha=5)", {}, [], []),
        ("SFTConfig(train_sampling_strategy='random')", {"transformers": "4.57.0"}, [], ["train_sampling_strategy"]),
        # every argument of a call that is right
        ("SFTTrainer(model, args=None, processing_class=tokenizer, peft_config=LoraConfig(r=8))", {}, [], []),
    ],
)  # fmt: skip
def test_versions(call: str, packages: dict[str, str], removed: list[str], unknown: list[str], tmp_path: Path) -> None:
    found = of(tmp_path, call, **packages)
    assert [[key.partition(".")[2] for key in keys] for keys in found] == [removed, unknown]


def test_new_name_is_one_that_the_installed_version_has(tmp_path: Path) -> None:
    setup = read(tmp_path, f"{HEAD}SFTTrainer(model, max_seq_length=8)\n")
    for version, now in (("0.13.0", "SFTConfig.max_seq_length"), ("0.16.0", "SFTConfig.max_length")):
        assert told(setup, trl=version)[0] == {"SFTTrainer.max_seq_length": now}
    assert told(setup, trl="0.12.2")[0] == {}


WRONG = "SFTConfig(max_seq_length=8)"
SILENT = {
    "try": f"try:\n    {WRONG}\nexcept Exception:\n    pass",
    "function in try": f"def make():\n    return {WRONG}\ntry:\n    make()\nexcept TypeError:\n    pass",
    "suppressed": f"import contextlib\nwith contextlib.suppress(TypeError):\n    {WRONG}",
    "more arguments": "import json\nmore = json.load(open('a.json'))\nSFTConfig(max_seq_length=8, **more)",
    "own class": "class MyConfig(SFTConfig):\n    max_seq_length: int = 1\nMyConfig(max_seq_length=8)",
    "own class of the same name": f"class SFTConfig(SFTConfig):\n    max_seq_length: int = 1\n{WRONG}",
    "another module": f"from mine import SFTConfig\n{WRONG}",
    "versions": f"import trl\nif trl.__version__ < '0.20':\n    {WRONG}",
    "versions by a name": f"from mine import TRL_VERSION\nif TRL_VERSION < (0, 20):\n    {WRONG}",
    "signature": f"import inspect\nif 'max_seq_length' in inspect.signature(SFTConfig).parameters:\n    {WRONG}",
    "patched": f"SFTConfig.__init__ = mine\n{WRONG}",
    "unsloth": f"import unsloth\n{WRONG}",
    "pinned": f"# pip install 'trl==0.19.1'\n{WRONG}",
    "pinned from below": f"# pip install 'trl>=0.8,<0.20'\n{WRONG}",
    "pinned to a commit": f"# pip install git+https://github.com/huggingface/trl.git@v0.19.1\n{WRONG}",
    "of another package": f"from trl.experimental.sft import SFTConfig\n{WRONG}",
}
HEARD = {
    "plain": WRONG,
    "whole module": "import trl\ntrl.SFTConfig(max_seq_length=8)",
    "its module": "from trl.trainer.sft_config import SFTConfig as Config\nConfig(max_seq_length=8)",
    "other handler": f"try:\n    {WRONG}\nexcept KeyboardInterrupt:\n    pass",
    "known arguments": "more = {'seed': 1}\nSFTConfig(max_seq_length=8, **more)",
    "in a function": f"def main():\n    {WRONG}\nif __name__ == '__main__':\n    main()",
    "condition": f"import os\nif os.environ.get('A'):\n    {WRONG}",
    "versions of others": f"import sys, torch\nif sys.version_info < (3, 9) < torch.__version__:\n    pass\n{WRONG}",
    "any version": f"# pip install -U trl>=0.8 transformers==5.1.0\n{WRONG}",
}


@pytest.mark.parametrize("case", SILENT)
def test_silence(case: str, tmp_path: Path) -> None:
    assert of(tmp_path, SILENT[case]) == ({}, {})


@pytest.mark.parametrize("case", HEARD)
def test_no_silence(case: str, tmp_path: Path) -> None:
    assert of(tmp_path, HEARD[case]) == ({"SFTConfig.max_seq_length": "SFTConfig.max_length"}, {})


def test_unsloth_script(tmp_path: Path) -> None:
    assert told(read(tmp_path, UNSLOTH)) == ({}, {})


def test_a_pin_of_one_library_leaves_of_another_what_goes_with_it(tmp_path: Path) -> None:
    """The TRL that runs with transformers 4.44 takes both keys; the installed one, which runs with 4.56, neither."""
    text = f"# pip install transformers==4.44.0\n{HEAD}SFTConfig(evaluation_strategy='no')\n{WRONG}\n"
    assert told(read(tmp_path, text)) == ({}, {})
    assert told(read(tmp_path, text.replace("SFTConfig(eval", "TrainingArguments(eval"))) == ({}, {})
    removed, _ = told(read(tmp_path, text.replace("4.44.0", "4.56.2")))
    assert [*removed] == ["SFTConfig.evaluation_strategy", "SFTConfig.max_seq_length"]


def test_places(tmp_path: Path) -> None:
    setup = read(tmp_path, SCRIPT)
    for key, written in (
        ("SFTTrainer.tokenizer", "tokenizer=tokenizer"),
        ("BitsAndBytesConfig.bnb_4bit_quant_typ", 'bnb_4bit_quant_typ="nf4"'),
        ("LoraConfig.rank", "rank=8"),
    ):
        place = setup.place(key)
        assert place is not None and place.line is not None and place.column is not None
        assert SCRIPT.split("\n")[place.line - 1][place.column - 1 :].startswith(written)


def test_notebook(tmp_path: Path) -> None:
    text = notebook(
        "#md Old", "!pip install -q trl", HEAD, f"args = 1\nargs = {WRONG}\n", "SFTTrainer(model, args=args)\n"
    )
    setup = read(tmp_path, text, "train.ipynb")
    assert told(setup)[0] == {"SFTConfig.max_seq_length": "SFTConfig.max_length"}
    place = setup.place("SFTConfig.max_seq_length")
    assert place is not None and place.cell == 4 and place.line is not None and place.column is not None
    assert text.split("\n")[place.line - 1][place.column - 1 :].startswith("max_seq_length=8")

    pinned = text.replace("install -q trl", "install -q trl==0.9.6")
    assert told(read(tmp_path, pinned, "pinned.ipynb")) == ({}, {})
    shown = text.replace('"outputs": []', '"outputs": [{"output_type": "stream", "text": ["Collecting trl==0.9.6"]}]')
    assert [*told(read(tmp_path, shown, "shown.ipynb"))[0]] == ["SFTConfig.max_seq_length"]


def test_report_and_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    assert _installed().packages.trl is not None
    report = check(path, stages=("config",))
    found = {finding.rule: finding for finding in report.findings}
    assert report.exit_code == 1
    assert "SFTTrainer.tokenizer is no longer accepted" in found["QD105"].message
    location, remedy = found["QD105"].location, found["QD105"].remediation
    assert location is not None and SCRIPT.split("\n")[(location.line or 0) - 1].startswith("args = SFTConfig(")
    assert remedy is not None and remedy.patch == [] and remedy.safety == "display"
    assert "The closest is LoraConfig.r." in found["QD102"].message


def test_many_strangers_take_no_long_time(tmp_path: Path) -> None:
    arguments = ", ".join(f"a{number}=1" for number in range(3000))
    assert len(told(read(tmp_path, f"{HEAD}SFTConfig({arguments})\n"))[1]) == 100


# -- the tables


def test_tables_are_the_installed_signatures() -> None:
    """Where the installed version is the one of the table, it takes exactly what the table says."""
    compared = 0
    for name in LIBRARIES:
        library, table = importlib.import_module(name), _table(name)
        if not is_so(f"{name} >= {table['version']} and {name} <= {table['version']}", _installed(), {}):
            continue
        for maker, row in table["makers"].items():
            taken = _parameters(getattr(library, maker))
            above = set(_table("transformers")["makers"]["TrainingArguments"]["takes"]) if "extends" in row else set()
            assert taken == set(row["takes"]) | above, maker
            compared += 1
    if not compared:
        pytest.skip("No library has the version of its table.")


def test_what_the_installed_version_takes_is_never_refused() -> None:
    """Of any installed version, those of ``make test-oldest`` too."""
    here = _installed()
    for name in LIBRARIES:
        library = importlib.import_module(name)
        for maker in _table(name)["makers"]:
            for argument in _parameters(getattr(library, maker)) if hasattr(library, maker) else ():
                assert _refused(name, maker, argument, here) == [], (maker, argument)


def test_what_it_does_not_take_is_refused() -> None:
    here = _installed()
    for name in LIBRARIES:
        library, table = importlib.import_module(name), _table(name)
        for maker, row in table["makers"].items():
            if not hasattr(library, maker) or not is_so(f"{name} >= {row['from']}", here, {}):
                continue
            taken = _parameters(getattr(library, maker))
            for argument in {*row["gone"], *row["since"]} - taken:
                assert len(_refused(name, maker, argument, here)) == 1, (maker, argument)


def test_new_names_are_taken() -> None:
    for name in LIBRARIES:
        for maker, row in _table(name)["makers"].items():
            for argument in row["gone"]:
                for each in _refused(name, maker, argument, environment()):
                    now = (each.closest or f"{maker}.").split(".")
                    assert now[1] == "" or _refused(name, now[0], now[1], environment()) == [], (maker, argument)


def _refused(library: str, maker: str, argument: str, here: EnvironmentFacts) -> list[RefusedArgument]:
    return [each for each in refusals(library, maker, argument) if is_so(str(each.machine), here, {})]


def _parameters(taken: Any) -> set[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {each.name for each in inspect.signature(taken).parameters.values() if each.kind not in kinds}


def _installed() -> EnvironmentFacts:
    return EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=installed_packages())


def test_reading_again_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    assert read_setup(path) == read_setup(path)


def test_arguments_that_from_pretrained_of_a_model_took(tmp_path: Path) -> None:
    """Of a model alone: a tokenizer leaves them aside."""
    load = "AutoModelForCausalLM.from_pretrained('my/model', use_auth_token=True, use_flash_attention_2=True)"
    text = "from peft import LoraConfig, get_peft_model\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
    text += f"model = get_peft_model({load}, LoraConfig(r=8))\n"
    script = tmp_path / "train.py"
    script.write_text(text + "tokenizer = AutoTokenizer.from_pretrained('my/model', use_auth_token=True)\n")
    setup = read_setup(script)
    for version, told in (("5.2.0", True), ("4.57.0", False)):
        facts = conclude(setup, environment(transformers=version))
        now = {each.key: each.closest for each in facts.removed_keys or ()}
        assert now == (
            {
                "from_pretrained.use_auth_token": "from_pretrained.token",
                "from_pretrained.use_flash_attention_2": None,
            }
            if told
            else {}
        )
