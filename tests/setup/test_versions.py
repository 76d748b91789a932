"""The versions that a project asks for decide what silence means, whatever is installed where it is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.facts.config import ConfigFacts
from qlora_doctor.facts.environment import EnvironmentFacts, Packages
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.pins import pins_in, pins_of
from qlora_doctor.setup import defaults
from qlora_doctor.setup.defaults import TURNS
from qlora_doctor.setup.setup import Hardware

PACKAGES = Packages(torch="2.13.0", transformers="5.23.0", peft="0.21.2", trl="1.16.0")
HERE = EnvironmentFacts(tool_version="0", python="3.11", platform="Linux", packages=PACKAGES)
SCRIPT = """\
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import {config}, {trainer}

bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("my/model", quantization_config=bits)
trainer = {trainer}(
    model=model,
    args={config}(output_dir="out"),
    train_dataset=load_dataset("my/rows", split="train"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
"""


def facts(folder: Path, files: dict[str, str], method: str = "SFT") -> ConfigFacts:
    for name, text in files.items():
        (folder / name).write_text(text)
    script = folder / "train.py"
    script.write_text(SCRIPT.format(config=f"{method}Config", trainer=f"{method}Trainer"))
    return conclude(read_setup(script), HERE)


SILENT = ("model_dtype", "bf16", "gradient_checkpointing", "learning_rate", "prepare_for_kbit_training", "optimizer")


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        ("", ("auto", True, True, 2e-5, False, "adamw_torch_fused")),
        ("trl==0.16.0\ntransformers==4.49.0\n", ("float16", False, False, 2e-5, True, "adamw_torch")),
        ("trl==0.9.6\n", ("auto", False, False, 5e-5, True, "adamw_torch_fused")),
        ("trl~=0.22.1\ntransformers<5\n", ("float16", True, True, 2e-5, True, None)),
        ("trl>=0.18,<0.24\n", ("auto", None, None, 2e-5, True, "adamw_torch_fused")),
        ("trl>=0.24,<1.0\n", ("auto", True, True, 2e-5, None, "adamw_torch_fused")),
        ("trl @ git+https://github.com/trl@abcdef1234\n", ("auto", None, None, None, None, "adamw_torch_fused")),
        ("trl>=0.9\n", ("auto", True, True, 2e-5, False, "adamw_torch_fused")),
    ],
)  # fmt: skip
def test_requirements_decide_the_defaults(asked: str, values: tuple[object, ...], tmp_path: Path) -> None:
    found = facts(tmp_path, {"requirements.txt": asked})
    assert tuple(getattr(found, name) for name in SILENT) == values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", '[project]\ndependencies = ["trl==0.12.0"]\n'),
        ("environment.yml", "dependencies:\n  - pip:\n      - trl==0.12.0\n"),
        ("Dockerfile", "FROM python\nRUN pip install -q trl==0.12.0\n"),
        ("install.sh", "pip install \\\n  trl==0.12.0\n"),
        ("README.md", "```bash\npip install trl==0.12.0\n```\n"),
    ],
)
def test_any_file_of_the_project_may_ask(name: str, text: str, tmp_path: Path) -> None:
    found = facts(tmp_path, {name: text})
    assert (found.bf16, found.gradient_checkpointing) == (False, False)
    assert found.versions is not None and found.versions.trl == "0.12.0"
    origin = read_setup(tmp_path / "train.py").origins["training.bf16"]
    assert origin.source == "library_default" and origin.note is not None
    assert origin.note == f"default of TRL, of which {name} asks for trl==0.12.0"


@pytest.mark.parametrize(
    ("method", "asked", "rate"),
    [("DPO", "", 1e-6), ("DPO", "trl==0.9.6", 5e-5), ("Reward", "trl==0.22.0", 5e-5), ("Reward", "", 1e-4)],
)
def test_each_method_has_defaults_of_its_own(method: str, asked: str, rate: float, tmp_path: Path) -> None:
    assert facts(tmp_path, {"requirements.txt": asked}, method).learning_rate == rate


def test_what_a_range_leaves_open_is_unknown_and_says_why(tmp_path: Path) -> None:
    facts(tmp_path, {"requirements.txt": "trl>=0.18,<0.24\n"})
    origin = read_setup(tmp_path / "train.py").origins["training.bf16"]
    assert origin.source == "unknown" and origin.note is not None
    assert "requirements.txt asks for trl>=0.18,<0.24" in origin.note


def test_a_native_config_stands_for_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("trl==0.9.6\n")
    config = tmp_path / "native.yaml"
    config.write_text("model: my/model\ntraining: {trainer: trl}\n")
    assert conclude(read_setup(config), HERE).bf16 is True


def test_a_notebook_that_installs_a_version_has_it(tmp_path: Path) -> None:
    assert pins_of("!pip install -q trl==0.12.0 peft\n", ("trl",), "the notebook")["trl"].exact == "0.12.0"


@pytest.mark.parametrize(
    ("written", "least", "below"),
    [
        (">=0.9,<0.12", "0.9", "0.12"),
        ("~=0.12.1", "0.12.1", "0.13"),
        ("~=4.44", "4.44", "5"),
        ("==0.9.*", "0.9", "0.10"),
        ("<=0.11.4", None, "0.11.4.0.1"),
        ("<0.12,!=0.11.2", None, "0.12"),
    ],
)
def test_ranges(written: str, least: str | None, below: str | None, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(f"trl{written}\n")
    pin = pins_in([tmp_path], ("trl",))["trl"]
    assert (pin.exact, pin.bounded, pin.at_least, pin.below) == (None, True, least, below)


def test_files_that_differ_allow_what_any_of_them_does(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("trl==0.11.4\n")
    (tmp_path / "Dockerfile").write_text("RUN pip install trl==0.15.2\n")
    pin = pins_in([tmp_path], ("trl",))["trl"]
    assert (pin.exact, pin.at_least, pin.below) == (None, "0.11.4", "0.15.2.0.1")


def test_every_release_that_a_default_turns_at_is_looked_at() -> None:
    rows = [row for table in defaults.TRL.values() for row in table.values()]
    turns = {since for row in rows for since, _ in row} - {(0,)}
    assert turns <= set(TURNS["trl"])


MIXER = """\
model_name_or_path: mistralai/Mistral-7B-v0.1
torch_dtype: bfloat16
dataset_mixer: {HuggingFaceH4/ultrachat_200k: 1.0}
use_peft: true
load_in_4bit: true
evaluation_strategy: epoch
max_seq_length: 2048
overwrite_output_dir: true
warmup_ratio: 0.1
"""


MIXTURE = MIXER.replace(
    "dataset_mixer: {HuggingFaceH4/ultrachat_200k: 1.0}", "dataset_mixture: {datasets: [{id: my/rows}]}"
).replace("evaluation_strategy", "eval_strategy")


@pytest.mark.parametrize("recipe", [MIXER, MIXTURE])
def test_a_recipe_of_the_handbook_is_judged_by_the_handbook_of_its_time(recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(recipe)
    found = conclude(read_setup(path), HERE)
    assert found.dialect == "alignment-handbook"
    assert (found.removed_keys, found.unknown_keys) == ([], [])
    assert found.prepare_for_kbit_training is True
    path.write_text(recipe.replace("warmup_ratio", "warmupratio"))
    assert [each.key for each in conclude(read_setup(path), HERE).unknown_keys or ()] == ["warmupratio"]
    (tmp_path / "requirements.txt").write_text("trl==1.9.0\n")
    path.write_text(recipe)
    assert "max_seq_length" in [each.key for each in conclude(read_setup(path), HERE).removed_keys or ()]


def test_what_no_handbook_of_the_time_takes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(MIXTURE.replace("eval_strategy", "evaluation_strategy"))  # transformers 4.53 has it no more
    assert [each.key for each in conclude(read_setup(path), HERE).removed_keys or ()] == ["evaluation_strategy"]


@pytest.mark.parametrize(
    ("asked", "below"),
    [
        ("transformers==4.48.3", "0.18"),
        ("transformers>=4.44,<4.56", "0.23"),
        ("transformers==4.55.4\ntrl<1", "0.23"),
        ("transformers==4.55.4\ntrl<0.20", "0.20"),
        ("transformers==5.9.0", None),
        ("transformers>=4.44", None),
    ],
)
def test_no_trl_is_taken_for_granted_that_needs_a_newer_transformers(
    asked: str, below: str | None, tmp_path: Path
) -> None:
    (tmp_path / "requirements_train.txt").write_text(asked + "\n")
    script = tmp_path / "train.py"
    text = SCRIPT.format(config="GRPOConfig", trainer="GRPOTrainer")
    script.write_text(text.replace('output_dir="out"', 'output_dir="out", max_prompt_length=64'))
    setup = read_setup(script)
    assert (setup.versions["trl"].below if "trl" in setup.versions else None) == below
    refused = conclude(setup, HERE).removed_keys
    assert bool(refused) is (below is None)


def test_a_module_with_several_trainings_keeps_what_its_project_pins(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("transformers==4.31.0\n")
    one = (
        "def train_{0}(model, rows, tokenizer):\n"
        "    model = get_peft_model(model, LoraConfig(r=8))\n"
        "    Trainer(model=model, args=TrainingArguments('out'), train_dataset=rows, tokenizer=tokenizer).train()\n"
    )
    text = "from peft import LoraConfig, get_peft_model\nfrom transformers import Trainer, TrainingArguments\n"
    (tmp_path / "train.py").write_text(text + one.format("a") + one.format("b"))
    setup = read_setup(tmp_path / "train.py")
    assert setup.versions["transformers"].exact == "4.31.0"


OWN_LOSS = """\
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

class MyTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        return model(**inputs).loss

model = AutoModelForCausalLM.from_pretrained("my/model")
MyTrainer(model, TrainingArguments("out", learning_rate=1e-5), train_dataset=rows).train()
"""


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("", True),
        ("transformers==4.40.1", False),
        ("transformers==4.50.0", True),
        ("transformers>=4.40,<5", False),  # some of them hand nothing over
        ("transformers>=4.40", True),  # as installed
    ],
)
def test_what_a_trainer_hands_over_is_its_version_s(asked: str, told: bool, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(asked)
    (tmp_path / "train.py").write_text(OWN_LOSS)
    found = conclude(read_setup(tmp_path / "train.py"), HERE)
    assert ("loss-takes-no-count" in {each.kind for each in found.not_followed or []}) is told


@pytest.mark.parametrize(("name", "compares"), [("MyTrainer", False), ("DPOTrainer", None)])
def test_the_words_of_a_script_with_a_loss_of_its_own_tell_what_it_trains(
    name: str, compares: bool | None, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(OWN_LOSS.replace("MyTrainer", name))
    assert conclude(read_setup(tmp_path / "train.py"), HERE).compares_answers is compares


@pytest.mark.parametrize(("asked", "prepared"), [("", False), ("trl==0.12.0\n", None)])
def test_a_sharded_base_is_not_said_to_be_prepared(asked: str, prepared: bool | None, tmp_path: Path) -> None:
    """PEFT's example under FSDP: TRL of now prepares nothing, and older ones no base whose shards begin on meta."""
    (tmp_path / "requirements.txt").write_text(asked)
    (tmp_path / "run.sh").write_text(
        "python train.py --model_name_or_path my/model --use_peft_lora True --use_4bit_quantization True "
        "--bnb_4bit_quant_storage_dtype bfloat16 --bf16 True --fsdp full_shard\n"
    )
    setup = read_setup(tmp_path / "run.sh")
    assert setup.dialect == "shell-peft-sft"
    assert conclude(setup, HERE).prepare_for_kbit_training is prepared


@pytest.mark.parametrize(("card", "told"), [("t4", True), ("a100", False)])
@pytest.mark.parametrize("name", ["train.py", "recipe.yaml"])
def test_tf32_is_refused_on_a_card_that_lacks_it(name: str, card: str, told: bool, tmp_path: Path) -> None:
    recipe = "model_name_or_path: my/model\nuse_peft: true\nload_in_4bit: true\nlora_r: 8\ndataset_name: my/rows\n"
    text = OWN_LOSS.replace("learning_rate=1e-5", "tf32=True") if name == "train.py" else f"{recipe}tf32: true\n"
    (tmp_path / name).write_text(text)
    setup = read_setup(tmp_path / name).model_copy(update={"hardware": Hardware(gpu=card)})
    refused = conclude(setup, HERE).refused or []
    assert ("tf32-on-older-card" in {each.kind for each in refused}) is told


def test_defaults_are_those_that_were_read_from_the_sources() -> None:
    """``defaults.txt`` has each once more: no library that is installed shows a slip in the row of an older version."""
    rows = [
        f"trl {method} {field} {'.'.join(map(str, since))} {value}"
        for method, fields in defaults.TRL.items()
        for field, row in fields.items()
        for since, value in row
    ]
    for name in ("BITS_AND_BYTES", "LORA", "TRAINING"):
        rows += [f"{name.lower()} {field} {value}" for field, value in getattr(defaults, name).items()]
    assert rows == (Path(__file__).parent / "defaults.txt").read_text(encoding="utf-8").splitlines()
