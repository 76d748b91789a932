"""What lies beside a script: modules, files that it loads, command lines that start it, versions that are pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qlora_doctor.reading.dialects import read_setup
from qlora_doctor.reading.pins import Pin, pins_in
from qlora_doctor.setup.setup import Setup

FIVE = {
    "model.name_or_path": "my/model",
    "quantization.load_in_4bit": True,
    "lora.r": 16,
    "training.learning_rate": 2e-4,
    "training.per_device_train_batch_size": 2,
}
SCRIPT = """\
import torch
{head}
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer
{body}
model = AutoModelForCausalLM.from_pretrained({name}, quantization_config=BitsAndBytesConfig(load_in_4bit={four}))
args = SFTConfig(output_dir="out", learning_rate={rate}, per_device_train_batch_size={batch})
SFTTrainer(model=model, args=args, peft_config=LoraConfig(r={rank})).train()
"""


def script(head: str, body: str, at: str) -> str:
    """A training script whose five values stand at ``at``, with ``{}`` for their names."""
    names = {each: at.format(each) for each in ("name", "four", "rank", "rate", "batch")}
    return SCRIPT.format(head=head, body=body, **names)


def written(folder: Path, files: dict[str, str]) -> Path:
    """The files below a folder; returns the first."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def values(setup: Setup) -> dict[str, Any]:
    found = {path: getattr(getattr(setup, path.split(".")[0]), path.split(".")[1]) for path in FIVE}
    return {path: value for path, value in found.items() if not setup.is_unknown(path)}


CONFIG = """\
from dataclasses import dataclass

BASE = "my/model"

@dataclass
class Config:
    name: str = BASE
    four: bool = True
    rank: int = 8 * 2
    alpha: int = rank * 2
    rate: float = 2e-4
    batch: int = 2
"""
PLAIN = 'name = "my/model"\nfour = True\nrank = 16\nrate = 2e-4\nbatch = 2\n'
YAML = "base:\n  name: my/model\n  four: true\n  rank: 16\n  rate: 0.0002\n  batch: 2\n"
DATA = {"base": {"name": "my/model", "four": True, "rank": 16, "rate": 2e-4, "batch": 2}}
TOML = '[base]\nname = "my/model"\nfour = true\nrank = 16\nrate = 2e-4\nbatch = 2\n'
LOADED = "cfg['base']['{}']"

BESIDE: dict[str, dict[str, str]] = {
    "dataclass of a module": {
        "train.py": script("from settings import Config", "config = Config()", "config.{}"),
        "settings.py": CONFIG,
    },
    "module itself": {"train.py": script("import settings as s", "", "s.{}"), "settings.py": PLAIN},
    "star import": {"train.py": script("from settings import *", "", "{}"), "settings.py": PLAIN},
    "package": {
        "train.py": script("from conf.values import name, four, rank, rate, batch", "", "{}"),
        "conf/__init__.py": "",
        "conf/values.py": "from .more import name, four\nfrom . import more\nrank = more.rank\n"
        "rate = 2e-4\nbatch = 2\n",
        "conf/more.py": 'name = "my/model"\nfour = True\nrank = 16\n',
    },
    "modules that import each other": {
        "train.py": script("import settings", "", "settings.{}"),
        "settings.py": "import other\n" + PLAIN,
        "other.py": "import settings\n",
    },
    "folder above": {
        "src/train.py": script("from settings import Config", "config = Config()", "config.{}"),
        "settings.py": CONFIG,
        "requirements.txt": "trl\n",
    },
    "function of a module": {
        "train.py": script("from settings import get", "config = get()", "config.{}"),
        "settings.py": CONFIG + "\ndef get():\n    return Config()\n",
    },
    "yaml": {
        "train.py": script("import yaml", "with open('c.yaml') as f:\n    cfg = yaml.safe_load(f)", LOADED),
        "c.yaml": YAML,
    },
    "yaml by a function with a default": {
        "train.py": script(
            "import yaml, os",
            "def load(path=os.path.join(os.path.dirname(__file__), 'conf', 'c.yaml')):\n"
            "    with open(path) as f:\n        return yaml.load(f, Loader=yaml.SafeLoader)\ncfg = load()",
            LOADED,
        ),
        "conf/c.yaml": YAML,
    },
    "yaml by Path": {
        "train.py": script(
            "import yaml\nfrom pathlib import Path",
            "cfg = yaml.safe_load((Path(__file__).resolve().parent / 'c.yaml').read_text())",
            LOADED,
        ),
        "c.yaml": YAML,
    },
    "json": {
        "train.py": script("import json", "cfg = json.load(open('c.json'))", LOADED),
        "c.json": json.dumps(DATA),
    },
    "toml": {
        "train.py": script("import tomllib", "with open('c.toml', 'rb') as f:\n    cfg = tomllib.load(f)", LOADED),
        "c.toml": TOML,
    },
    "OmegaConf": {
        "train.py": script("from omegaconf import OmegaConf", "cfg = OmegaConf.load('c.yaml')", "cfg.base.{}"),
        "c.yaml": YAML.replace("rank: 16", "rank: ${size}") + "size: 16\n",
    },
    "object that takes over a dict": {
        "train.py": script(
            "import yaml",
            "class C:\n    def __init__(self, d):\n        for k, v in d.items():\n            setattr(self, k, v)\n"
            "cfg = C(yaml.safe_load(open('c.yaml'))['base'])",
            "cfg.{}",
        ),
        "c.yaml": YAML,
    },
    "pydantic": {
        "train.py": script(
            "import yaml\nfrom pydantic import BaseModel",
            "class Base(BaseModel):\n    name: str\n    four: bool = True\n    rank: int = 16\n"
            "    rate: float\n    batch: int\n"
            "class All(BaseModel):\n    base: Base\ncfg = All(**yaml.safe_load(open('c.yaml')))",
            "cfg.base.{}",
        ),
        "c.yaml": YAML,
    },
}


@pytest.mark.parametrize("name", BESIDE)
def test_values_beside_the_script(name: str, tmp_path: Path) -> None:
    setup = read_setup(written(tmp_path / "project", BESIDE[name]))
    assert values(setup) == FIVE
    assert all(setup.origins[path].source == "explicit" for path in FIVE)


def test_the_place_is_in_the_file_that_says_it(tmp_path: Path) -> None:
    setup = read_setup(written(tmp_path, BESIDE["yaml"]))
    place = setup.place("lora.r")
    assert place is not None
    assert (Path(str(place.file)).name, place.line, place.pointer) == ("c.yaml", 4, "/base/rank")
    setup = read_setup(written(tmp_path / "2", BESIDE["dataclass of a module"]))
    place = setup.place("lora.r")
    assert place is not None
    assert (Path(str(place.file)).name, place.line) == ("settings.py", 9)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "A file that the script reads decides, and is not beside it: c.yaml."),
        ({"c.yaml": YAML, "src/c.yaml": YAML.replace("16", "8")}, "several of the name c.yaml"),
        ({"src/c.yaml": "a: [1\n"}, "cannot be read"),
    ],
)
def test_a_file_that_decides_nothing(files: dict[str, str], why: str, tmp_path: Path) -> None:
    text = script("import yaml", "cfg = yaml.safe_load(open('c.yaml'))", LOADED)
    path = written(tmp_path, {"src/train.py": text, "requirements.txt": "", **files})
    setup = read_setup(path)
    assert setup.is_unknown("lora.r")
    assert why in str(setup.origins["lora.r"].note)


def test_nothing_outside_the_project_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    (tmp_path / "settings.py").write_text(CONFIG)
    for written_path in ("../c.yaml", str(tmp_path / "c.yaml")):
        text = script("import yaml", f"cfg = yaml.safe_load(open({written_path!r}))", LOADED)
        path = written(tmp_path / "a", {"train.py": text, "requirements.txt": ""})
        assert read_setup(path).is_unknown("lora.r")
    (tmp_path / "a" / "settings.py").symlink_to(tmp_path / "settings.py")
    (tmp_path / "a" / "train.py").write_text(script("from settings import Config", "config = Config()", "config.{}"))
    assert read_setup(tmp_path / "a" / "train.py").is_unknown("lora.r")


# -- how it is started

ARGPARSE = script(
    "import argparse",
    "p = argparse.ArgumentParser()\n"
    "p.add_argument('--name', default='other/model')\np.add_argument('--four', action='store_true')\n"
    "p.add_argument('--rank', '-r', type=int, default=4)\np.add_argument('--learning_rate', dest='rate', type=float)\n"
    "p.add_argument('--batch', type=int, required=True)\na = p.parse_args()",
    "a.{}",
)
HF = script(
    "from dataclasses import dataclass\nfrom transformers import HfArgumentParser",
    "@dataclass\nclass A:\n    name: str = 'other/model'\n    four: bool = False\n    rank: int = 4\n"
    "    rate: float = 1e-5\n"
    "    batch: int = 1\n(a,) = HfArgumentParser((A,)).parse_args_into_dataclasses()",
    "a.{}",
)
OPTIONS = "--name my/model --four --rank 16 --rate 2e-4 --batch=2"
LAUNCH = {"configurations": [{"program": "${workspaceFolder}/train.py", "args": OPTIONS.split()}]}
STARTS = {
    "shell": ("run.sh", f"export X=1\naccelerate launch --num_processes 2 train.py \\\n  {OPTIONS}\n"),
    "shell in a folder": ("scripts/run.sh", f"python train.py {OPTIONS}\n"),
    "Makefile": ("Makefile", f"RANK = 16\ntrain: data\n\t@python train.py {OPTIONS.replace('16', '$(RANK)')}\n"),
    "launch.json": (".vscode/launch.json", "// comment\n" + json.dumps(LAUNCH).replace("}]", "},]")),
    "readme": ("README.md", f"# Train\n```bash\n$ python train.py {OPTIONS}\n```\npython train.py --rank 99\n"),
    "notebook": ("run.ipynb", json.dumps({"cells": [{"source": [f"!python train.py {OPTIONS}\n"]}]}, indent=1)),
}


@pytest.mark.parametrize("name", STARTS)
def test_the_command_line_decides(name: str, tmp_path: Path) -> None:
    """``--rate`` stands for ``--learning_rate`` by its ``dest`` in neither parser: an abbreviation does."""
    file, text = STARTS[name]
    argparse = read_setup(written(tmp_path / "a", {"train.py": ARGPARSE, file: text.replace("--rate", "--learn")}))
    assert values(argparse) == FIVE
    assert values(read_setup(written(tmp_path / "h", {"train.py": HF, file: text}))) == FIVE


def test_without_a_start_defaults_are_defaults(tmp_path: Path) -> None:
    setup = read_setup(written(tmp_path, {"train.py": ARGPARSE}))
    assert (setup.lora.r, setup.origins["lora.r"].source) == (4, "dialect_default")
    assert setup.is_unknown("training.per_device_train_batch_size")


def test_several_starts_agree_or_nothing_is_known(tmp_path: Path) -> None:
    files = {
        "train.py": ARGPARSE,
        "a.sh": f"python train.py {OPTIONS.replace('--rate', '--learn')}\n",
        "b.sh": f"python ./train.py {OPTIONS.replace('--rate', '--learn').replace('16', '32')} $EXTRA\n",
        "c.sh": "python another/train.py --rank 3\npython evaluate.py --rank 5\n",
        "another/train.py": "print(1)\n",
    }
    setup = read_setup(written(tmp_path, files))
    assert setup.model.name_or_path == "my/model"
    assert setup.is_unknown("lora.r")
    assert "a.sh, b.sh" in str(setup.origins["lora.r"].note)


def test_configs_of_several_starts(tmp_path: Path) -> None:
    body = "p = argparse.ArgumentParser()\np.add_argument('--config', required=True)\n"
    body += "cfg = yaml.safe_load(open(p.parse_args().config))"
    files = {
        "train.py": script("import argparse, yaml", body, LOADED),
        "a.sh": "python train.py --config a.yaml\n",
        "b.sh": "python train.py --config b.yaml\n",
        "a.yaml": YAML,
        "b.yaml": YAML.replace("16", "32"),
    }
    setup = read_setup(written(tmp_path, files))
    assert {path for path in FIVE if setup.is_unknown(path)} == {"lora.r"}


def test_a_default_that_ends_in_an_error_is_not_what_runs(tmp_path: Path) -> None:
    body = "p = argparse.ArgumentParser()\np.add_argument('--mixed', action='store_true')\na = p.parse_args()\n"
    body += "if not a.mixed:\n    raise SystemExit('use --mixed')"
    text = script("import argparse", f"{body}\n{PLAIN}", "{}")
    assert values(read_setup(written(tmp_path, {"train.py": text}))) == FIVE


TRL = """\
from datasets import load_dataset
from transformers import AutoModelForCausalLM, HfArgumentParser
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config
from trl.experimental.cpo import CPOConfig, CPOTrainer

s, args, m = {parser}((ScriptArguments, CPOConfig, ModelConfig)).{method}()
model = AutoModelForCausalLM.from_pretrained(m.model_name_or_path, quantization_config=get_quantization_config(m))
CPOTrainer(model, args=args, train_dataset=load_dataset(s.dataset_name), peft_config=get_peft_config(m)).train()
"""
WORDS = "--model_name_or_path my/model --load_in_4bit --use_peft --lora_r 16 --learning_rate 2e-4 "
WORDS += "--per_device_train_batch_size 2"


def test_trl_s_classes(tmp_path: Path) -> None:
    plain = TRL.format(parser="HfArgumentParser", method="parse_args_into_dataclasses")
    setup = read_setup(written(tmp_path / "a", {"cpo.py": plain}))
    assert setup.dialect == "python"
    assert setup.training.method == "cpo"
    assert setup.is_unknown("lora.r")
    setup = read_setup(written(tmp_path / "b", {"cpo.py": plain, "run.sh": f"python cpo.py {WORDS}\n"}))
    assert values(setup) == FIVE
    assert (setup.lora.lora_alpha, setup.lora.task_type) == (32, "CAUSAL_LM")
    keys = dict(zip(*[iter(WORDS.replace("--load_in_4bit", "--load_in_4bit true").replace(
        "--use_peft", "--use_peft true").replace("--", "").split())] * 2, strict=True))  # fmt: skip
    files = {
        "cpo.py": TRL.format(parser="TrlParser", method="parse_args_and_config"),
        "recipe.yaml": "".join(f"{key}: {value}\n" for key, value in keys.items()).replace("2e-4", "0.0002"),
        "run.sh": "python cpo.py --config recipe.yaml --lora_r 16\n",
    }
    files["recipe.yaml"] = files["recipe.yaml"].replace("lora_r: 16", "lora_r: 8")
    assert values(read_setup(written(tmp_path / "c", files))) == FIVE


def test_a_script_whose_training_is_in_a_module(tmp_path: Path) -> None:
    body = "    " + script("", "", "cfg.{}").replace("\n", "\n    ")
    files = {
        "main.py": "from fit import fit\nfrom settings import Config\n\n"
        "if __name__ == '__main__':\n    fit(Config())\n",
        "fit.py": f"def fit(cfg):\n{body}\n",
        "settings.py": CONFIG,
    }
    assert values(read_setup(written(tmp_path, files))) == FIVE


# -- Python that is newer


def test_newer_python(tmp_path: Path) -> None:
    head = (
        'type Rows = list[str]\n\ndef one[T](x: T) -> T:\n    return x\n\nd = {"a": "my"}\n'
        'print(f"{"\\n".join(["a"])} {f"{d["a"]}"}")  # f"{d["\n'
        'long = f"{\n    d["a"]\n}"\ntry:\n    pass\nexcept ValueError, TypeError:\n    pass\n'
    )
    body = PLAIN.replace('"my/model"', 'f"{d["a"]}/model"')
    setup = read_setup(written(tmp_path, {"train.py": script(head, body, "{}")}))
    assert values(setup) == FIVE
    place = setup.place("training.learning_rate")
    assert place is not None
    assert (place.line, place.excerpt) == (23, "rate = 2e-4")


# -- versions

OLD = script("", PLAIN, "{}").replace("output_dir=", "evaluation_strategy='no', output_dir=")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, True),
        ({"requirements.txt": "transformers==4.57.0\ntrl\n"}, True),
        ({"requirements.txt": "transformers==4.40.2\ntrl==0.9.6\n"}, False),
        ({"requirements.txt": "transformers>=4.40\ntrl\n"}, True),
        ({"environment.yml": "dependencies:\n  - pip:\n    - transformers~=4.40.0\n    - trl~=0.9.0\n"}, False),
        ({"pyproject.toml": '[project]\ndependencies = ["transformers<4.46", "trl<0.12"]\n'}, False),
        ({"Dockerfile": "FROM x\nRUN pip install transformers==4.40.1 trl==0.9.4\n"}, False),
        ({"setup.sh": "pip install 'transformers==4.40.1' trl==0.9.4\n"}, False),
        ({"requirements.txt": "transformers<5.0.0\ntrl\n"}, False),  # a key of transformers, in a class of TRL
        ({"README.md": "```bash\npip install transformers==4.40.1 trl==0.9.4\n```\n"}, False),
        ({"README.md": "It was written for transformers==4.40.1.\n"}, True),
        ({"README.md": "# Versions\n\n- transformers==4.40.1\n- trl==0.9.4\n"}, False),
        ({"README.md": "```\n- transformers, Version: 4.40.1\n- trl, Version: 0.9.4\n```\n"}, False),
        ({"requirements.txt": "-r requirements/chat.txt\n", "requirements/chat.txt": "transformers==4.40.1\n"}, False),
        ({"README.md": "pip install transformers==4.40.1\n", "requirements.txt": "transformers==4.57.0\n"}, True),
        (
            {"uv.lock": 'name = "transformers"\nversion = "4.40.0"\n\n[[package]]\nname = "trl"\nversion = "0.9.4"\n'},
            False,
        ),
    ],
    ids=str,
)
def test_pinned_versions_decide(files: dict[str, str], told: bool, tmp_path: Path) -> None:
    from qlora_doctor.facts.environment import EnvironmentFacts, Packages
    from qlora_doctor.probes.config.conclude import conclude

    setup = read_setup(written(tmp_path, {"train.py": OLD, **files}))
    newest = EnvironmentFacts(
        tool_version="0",
        python="3.11",
        platform="linux",
        packages=Packages(transformers="5.23.0", trl="1.16.0", peft="0.21.2"),
    )
    removed = [key.key for key in conclude(setup, newest).removed_keys or []]
    assert ("SFTConfig.evaluation_strategy" in removed) is told


SWITCHED = """\
from transformers import AutoModelForCausalLM
from peft import LoraConfig, get_peft_model
model = AutoModelForCausalLM.from_pretrained("my/model", load_in_4bit=True)
model = get_peft_model(model, LoraConfig(r=8))
"""


@pytest.mark.parametrize(
    ("requirements", "told"),
    [("transformers\n", True), ("transformers==5.1.0\n", True), ("transformers==4.57.1\n", False),
     ("transformers<5\n", False)],
)  # fmt: skip
def test_pinned_versions_decide_about_switches_of_from_pretrained(
    requirements: str, told: bool, tmp_path: Path
) -> None:
    setup = read_setup(written(tmp_path, {"app/core/train.py": SWITCHED, "requirements.txt": requirements}))
    assert setup.quantization.load_in_4bit is True
    assert any(remark.kind == "quantization-switch-of-from-pretrained" for remark in setup.remarks) is told


def test_pins_of_the_nearest_folder_count(tmp_path: Path) -> None:
    written(
        tmp_path, {"a/requirements.txt": "# trl==0.1\ntrl[quantization]==0.21.0\n", "requirements.txt": "trl==0.9.0\n"}
    )
    assert pins_in([tmp_path / "a", tmp_path], ("trl", "peft")) == {
        "trl": Pin("0.21.0", True, by="requirements.txt asks for trl==0.21.0")
    }


RECIPE = """\
model_name_or_path: my/model
tokenizer_name_or_path: my/tokenizer
use_peft: true
load_in_4bit: true
lora_r: 16
lora_target_modules: all-linear
use_liger: false
max_seq_length: 4096
torch_dtype: bfloat16
"""
READER = """\
from dataclasses import dataclass
from trl import ModelConfig, SFTConfig, TrlParser

@dataclass
class ScriptArguments:
    tokenizer_name_or_path: str | None = None
    use_liger: bool = False
    max_seq_length: int = 2048

script, args, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
"""


def test_a_yaml_that_a_script_beside_it_reads(tmp_path: Path) -> None:
    alone = read_setup(written(tmp_path / "alone", {"recipe.yaml": RECIPE}))
    assert {key.key: key.closest for key in alone.unknown_keys} == {"tokenizer_name_or_path": None}
    assert {key.key for key in alone.removed_keys} == {"use_liger", "max_seq_length", "torch_dtype"}
    files = {"recipe.yaml": RECIPE, "sft.py": READER}
    beside = read_setup(written(tmp_path / "beside", files))
    assert not beside.unknown_keys
    assert {key.key for key in beside.removed_keys} == {"torch_dtype"}
    pinned = read_setup(
        written(tmp_path / "pinned", {**files, "requirements.txt": "trl==0.21.0\ntransformers==4.57.0\n"})
    )
    assert not pinned.unknown_keys
    assert not pinned.removed_keys


HYDRA = """\
import hydra
from fit import fit

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    fit(cfg.base)

if __name__ == "__main__":
    main()
"""


def test_hydra_composes(tmp_path: Path) -> None:
    body = "    " + script("", "", "cfg.{}").replace("\n", "\n    ")
    files = {
        "main.py": HYDRA,
        "fit.py": f"def fit(cfg):\n{body}\n",
        "conf/config.yaml": "defaults:\n  - _self_\n  - base: small\nbase:\n  rank: 4\n  batch: 2\n",
        "conf/base/small.yaml": "name: my/model\nfour: true\nrank: 16\nrate: ${base.speed}\nspeed: 0.0002\n",
    }
    setup = read_setup(written(tmp_path / "a", {**files, "conf/base/small.yaml": files["conf/base/small.yaml"].replace(
        "${base.speed}", "0.0002")}))  # fmt: skip
    assert values(setup) == FIVE
    assert setup.origins["lora.r"].source == "dialect_default"
    started = {**files, "run.sh": "python main.py base.rank=32 base.rate=1e-4\n"}
    setup = read_setup(written(tmp_path / "b", started))
    assert (setup.lora.r, setup.training.learning_rate) == (32, 1e-4)
    chosen = {**files, "run.sh": "python main.py base=large\n"}
    assert read_setup(written(tmp_path / "c", chosen)).is_unknown("lora.r")


# -- YAML files and what their projects bring

SHAREGPT = "base_model: my/model\nload_in_4bit: true\nadapter: qlora\ndatasets:\n- path: my/data\n  type: sharegpt\n"


@pytest.mark.parametrize(
    ("readme", "told"),
    [
        ("", True),
        ("```\ngit clone https://github.com/x/axolotl\ncd axolotl\npip install -e .\n```\n", True),
        ("```\ngit clone https://github.com/x/axolotl\ncd axolotl\ngit checkout 55cc214c7677\n```\n", False),
        ("```\npip install axolotl==0.4.1\n```\n", False),
        ("```\npip install axolotl==0.19.0\n```\n", True),
        ("```\npip install git+https://github.com/x/axolotl.git@55cc214c7677\n```\n", False),
    ],
)
def test_an_older_axolotl_is_not_held_to_what_newer_ones_refuse(readme: str, told: bool, tmp_path: Path) -> None:
    files = {"runs/qlora.yaml": SHAREGPT, "README.md": readme, ".git/HEAD": ""}
    setup = read_setup(written(tmp_path, files))
    assert any("sharegpt" in str(remark.note) for remark in setup.remarks) is told


@pytest.mark.parametrize(
    ("keys", "method"),
    [("", "dpo"), ("gamma_beta_ratio: 1.6\nobjective_type: simpo\n", None), ("desirable_weight: 1.0\n", "kto")],
)
def test_beta_is_of_dpo_only_where_no_key_of_another_loss_stands_beside_it(
    keys: str, method: str | None, tmp_path: Path
) -> None:
    text = "model_name_or_path: my/model\nuse_peft: true\nload_in_4bit: true\nlora_r: 8\nbeta: 0.0\n" + keys
    setup = read_setup(written(tmp_path, {"recipe.yaml": text}))
    assert (setup.training.method if not setup.is_unknown("training.method") else None) == method


@pytest.mark.parametrize(
    ("head", "converted"),
    [
        ("", False),
        ("# @package _global_\n", True),
        ("defaults:\n- trainer: sft\n- _self_\n", True),
        ("output_dir: ${oc.env:HOME}/out\n", True),
        ("defaults:\n  lr: 1\n", False),
    ],
)
def test_omegaconf_takes_an_exponent_without_a_dot_for_a_number(head: str, converted: bool, tmp_path: Path) -> None:
    text = head + "model:\n  name: my/model\nlora:\n  rank: 8\n  alpha: 16\nlearning_rate: 2e-4\nload_in_4bit: true\n"
    setup = read_setup(written(tmp_path, {"sft.yaml": text}))
    assert setup.string_numbers == ["learning_rate"]
    assert any(remark.kind == "string-numbers-converted" for remark in setup.remarks) is converted


@pytest.mark.parametrize(
    ("reader", "converted"), [("train.py", True), ("sft/train.py", True), ("other/train.py", False)]
)
def test_a_script_two_folders_up_that_converts_is_seen(reader: str, converted: bool, tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "configs"
    folder.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / reader).write_text("rate = float(config['learning_rate'])\n")
    text = "model:\n  name: my/model\nlora:\n  rank: 8\n  alpha: 16\nlearning_rate: 2e-4\nload_in_4bit: true\n"
    (folder / "sft.yaml").write_text(text)
    setup = read_setup(folder / "sft.yaml")
    assert any(remark.kind == "string-numbers-converted" for remark in setup.remarks) is converted


def test_alpaca_loras_names_make_no_axolotl_config(tmp_path: Path) -> None:
    own = {"base_model": "my/model", "micro_batch_size": 1, "lora_r": 16, "lora_alpha": 32, "learning_rate": 1e-4}
    assert read_setup(written(tmp_path, {"info.json": json.dumps(own)})).dialect == "custom"
    assert read_setup(written(tmp_path, {"info.json": json.dumps(own | {"adapter": "lora"})})).dialect == "axolotl"


def test_what_is_no_training_is_told_in_words_of_its_kind(tmp_path: Path) -> None:
    from qlora_doctor.core.errors import ConfigError

    started = {"run.sh": "python tools/train.py --rate 1e-4\n", "tools/train.py": "print()\n", ".git/HEAD": ""}
    with pytest.raises(ConfigError, match=r"starts tools/train\.py") as refused:
        read_setup(written(tmp_path / "a", started))
    assert str(refused.value.remedy).startswith("Check tools/train.py itself")
    with pytest.raises(ConfigError, match="starts no training"):
        read_setup(written(tmp_path / "b", {"run.sh": "python elsewhere/train.py --rate 1e-4\n"}))
    hydra = {"run.sh": "torchrun main.py --config-name=sft.yaml\n"}
    with pytest.raises(ConfigError) as refused:
        read_setup(written(tmp_path / "c", hydra))
    assert str(refused.value.remedy) == "Check sft.yaml itself."
    with pytest.raises(ConfigError, match="builds no LoRA adapter and starts no training"):
        read_setup(written(tmp_path / "d", {"tool.py": "print(1)\n"}))


def test_a_script_whose_load_and_trainer_stand_in_two_modules(tmp_path: Path) -> None:
    files = {
        "train.py": "from load import model\nfrom fit import fit\n\nif __name__ == '__main__':\n    fit(model())\n",
        "load.py": "from transformers import AutoModelForCausalLM\n\ndef model():\n"
        "    return AutoModelForCausalLM.from_pretrained('my/model')\n",
        "fit.py": "from peft import LoraConfig\nfrom trl import SFTConfig, SFTTrainer\n\ndef fit(model):\n"
        "    arguments = SFTConfig(learning_rate=3e-4, per_device_train_batch_size=2)\n"
        "    SFTTrainer(model=model, args=arguments, peft_config=LoraConfig(r=4)).train()\n",
    }
    setup = read_setup(written(tmp_path, files))
    assert (setup.model.name_or_path, setup.lora.r, setup.training.learning_rate) == ("my/model", 4, 3e-4)


@pytest.mark.parametrize(
    ("loader", "converted"),
    [
        ("import yaml\nfrom pydantic import BaseModel\n\ndef load(path, kind: BaseModel):\n"
         "    return kind.parse_obj(yaml.safe_load(open(path)))\n", True),
        ("import yaml\n\ndef load(path):\n    return yaml.safe_load(open(path))\n", False),
    ],
)  # fmt: skip
def test_a_loader_that_hands_what_it_reads_to_pydantic_makes_numbers(
    loader: str, converted: bool, tmp_path: Path
) -> None:
    text = "model:\n  name: my/model\nlora:\n  rank: 8\n  alpha: 16\nlearning_rate: 2e-4\nload_in_4bit: true\n"
    setup = read_setup(written(tmp_path, {"sft.yaml": text, "read.py": loader}))
    assert any(remark.kind == "string-numbers-converted" for remark in setup.remarks) is converted


OWN = """\
pretrained_model_name: my/model
model_name: my-output
{switch}
quantization_config:
  load_in_4bit: true
peft_config:
  r: 8
  lora_alpha: 16
lr: 0.0002
"""


@pytest.mark.parametrize(
    ("switch", "four_bit", "no_lora"),
    [
        ("", True, False),
        ("is_quantized: true\nis_peft: true", True, False),
        ("is_quantized: false", None, False),
        ("is_peft: false", True, True),
        ("quantization:\n  enabled: false\nlora:\n  enabled: false", None, True),
        ("logging:\n  enabled: false", True, False),
    ],
)
def test_a_switch_of_its_own_turns_off_what_stands_below_it(
    switch: str, four_bit: bool | None, no_lora: bool, tmp_path: Path
) -> None:
    setup = read_setup(written(tmp_path, {"sft.yaml": OWN.format(switch=switch)}))
    assert setup.model.name_or_path == "my/model"
    known = None if setup.is_unknown("quantization.load_in_4bit") else setup.quantization.load_in_4bit
    assert known is four_bit
    assert any(remark.kind == "no-lora" for remark in setup.remarks) is no_lora


SEVERAL = """\
import os, sys
from dataclasses import dataclass, field
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, HfArgumentParser, Trainer, TrainingArguments

@dataclass
class Arguments:
    model: str = field(default=None)
    rank: int = field(default=8)

parser = HfArgumentParser((Arguments, TrainingArguments))
if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
    args, training = parser.parse_json_file(json_file=os.path.abspath(sys.argv[1]))
else:
    args, training = parser.parse_args_into_dataclasses(return_remaining_strings=True)[:2]
model = AutoModelForCausalLM.from_pretrained(args.model)
model = get_peft_model(model, LoraConfig(r=args.rank))
Trainer(model=model, args=training).train()
"""


@pytest.mark.parametrize(
    ("start", "rank", "rate"),
    [
        ("python train.py --model a/b --rank 16 --learning_rate 2e-4 --output_dir o\n" * 2, 16, 2e-4),
        ("python train.py --model a/b --rank 16 --output_dir o\n"
         "python train.py --model a/b --rank 16 --output_dir o --max_steps 9\n", 16, None),
        ("python train.py run.json\n", 32, 1e-4),
    ],
)  # fmt: skip
def test_a_script_that_counts_its_words(start: str, rank: int, rate: float | None, tmp_path: Path) -> None:
    files = {"train.py": SEVERAL, "run.sh": start, "requirements.txt": "",
             "run.json": '{"model": "a/b", "rank": 32, "learning_rate": 1e-4, "output_dir": "o"}'}  # fmt: skip
    setup = read_setup(written(tmp_path, files))
    assert (setup.model.name_or_path, setup.lora.r, setup.training.learning_rate) == ("a/b", rank, rate)


FIRE = """\
from typing import List
import fire
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

def train(base_model: str = "", micro_batch_size: int = 4, learning_rate: float = 3e-4, lora_r: int = 8,
          lora_target_modules: List[str] = ["q_proj", "v_proj"], whole: bool = False):
    assert base_model, "Please specify a --base_model"
    model = AutoModelForCausalLM.from_pretrained(base_model)
    model = get_peft_model(model, LoraConfig(r=lora_r, target_modules=lora_target_modules, task_type="CAUSAL_LM"))
    args = TrainingArguments("out", per_device_train_batch_size=micro_batch_size, learning_rate=learning_rate,
                             group_by_length=whole)
    Trainer(model=model, args=args, train_dataset=rows).train()

if __name__ == "__main__":
    fire.Fire(train)
"""
STARTED = """\
python train.py --base_model=my/model --learning-rate 1e-4 --lora_r 16 \\
  --lora_target_modules '["q_proj","k_proj"]' --whole
"""


@pytest.mark.parametrize(("module", "call"), [("fire", "fire.Fire(train)"), ("typer", "typer.run(train)")])
def test_the_command_line_sets_the_parameters_of_a_function(tmp_path: Path, module: str, call: str) -> None:
    text = FIRE.replace("import fire", f"import {module}").replace("fire.Fire(train)", call)
    setup = read_setup(written(tmp_path / "a", {"train.py": text, "run.sh": STARTED, "setup.py": ""}))
    assert (setup.model.name_or_path, setup.lora.r, setup.training.learning_rate) == ("my/model", 16, 1e-4)
    assert setup.lora.target_modules == ["q_proj", "k_proj"] and setup.training.group_by_length is True
    assert setup.training.per_device_train_batch_size == 4
    assert setup.origins["training.per_device_train_batch_size"].note == (
        "default of the script's argument --micro_batch_size"
    )
    again = {"train.py": text, "run.sh": STARTED, "other.sh": STARTED.replace("1e-4", "3e-5"), "setup.py": ""}
    setup = read_setup(written(tmp_path / "b", again))
    assert setup.is_unknown("training.learning_rate") and setup.lora.r == 16
