"""OmegaConf's files, keys that stand twice, home-made names, the checkpoint's own bits, learning rates by kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qlora_doctor import check
from qlora_doctor.core.report import Report
from qlora_doctor.reading import read_setup
from qlora_doctor.reading.interpolation import interpolated

TORCHTUNE = """\
output_dir: /tmp/out
rank: 64
model:
  _component_: torchtune.models.llama3_1.qlora_llama3_1_8b
  lora_attn_modules: [q_proj, v_proj]
  lora_rank: ${rank}
  lora_alpha: ${.lora_rank}
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: 2048
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: ${output_dir}/base
batch_size: 2
seed: ${oc.env:SEED}
"""
LLAMAFACTORY = """\
model_name_or_path: meta-llama/Llama-3.1-8B
stage: sft
do_train: true
finetuning_type: lora
quantization_bit: 4
lora_rank: 16
template: llama3
dataset: mine
cutoff_len: 2048
learning_rate: 1.0e-4
bf16: true
upcast_layernorm: true
"""
HOME_MADE = """\
base_model: meta-llama/Llama-3.1-8B
bits: 4
quant_type: nf4
rank: 16
alpha: 32
lora_targets: [q_proj, v_proj]
per_device_batch_size: 4
max_length: 1024
epochs: 3
lr: 2.0e-4
pack_sequences: true
mixed_precision: bf16
"""


def checked(folder: Path, text: str, name: str = "config.yaml") -> Report:
    (folder / name).write_text(text)
    return check(folder / name, stages=("config",), cache=False)


def told(folder: Path, text: str, name: str = "config.yaml") -> dict[str, str]:
    return {finding.rule: finding.message for finding in checked(folder, text, name).findings}


# -- OmegaConf


def test_references_within_the_file_are_followed(tmp_path: Path) -> None:
    (tmp_path / "tune.yaml").write_text(TORCHTUNE)
    setup = read_setup(tmp_path / "tune.yaml")
    assert (setup.lora.r, setup.lora.lora_alpha, setup.model.name_or_path) == (64, 64, "/tmp/out/base")
    assert setup.is_unknown("training.seed")
    place = setup.place("lora.r")
    assert place is not None and place.line == 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": "${b}", "b": "${c}", "c": 3}, {"a": 3, "b": 3, "c": 3}),
        ({"a": "${b}", "b": "${a}"}, {"a": "${b}", "b": "${a}"}),
        ({"a": {"b": "${..c}", "d": "${.e}", "e": True}, "c": 1}, {"a": {"b": 1, "d": True, "e": True}, "c": 1}),
        ({"a": "x-${b.0}-${c[1]}", "b": [1], "c": [2, False]}, {"a": "x-1-false", "b": [1], "c": [2, False]}),
        ({"a": "${oc.env:HOME}/x", "b": "${missing}"}, {"a": "${oc.env:HOME}/x", "b": "${missing}"}),
    ],
)
def test_interpolation(data: object, expected: object) -> None:
    assert interpolated(data) == expected


def test_a_repeated_key_stops_omegaconf_whatever_its_value(tmp_path: Path) -> None:
    assert "batch_size stands twice" in told(tmp_path, TORCHTUNE + "batch_size: 2\n")["QD148"]
    assert "QD148" not in told(tmp_path, TORCHTUNE)


def test_llamafactory_stops_at_an_unknown_key(tmp_path: Path) -> None:
    report = checked(tmp_path, LLAMAFACTORY + "lora_ranks: 8\n")
    errors = {finding.rule: finding.message for finding in report.findings if finding.severity == "error"}
    assert set(errors) == {"QD148"} and "lora_rank." in errors["QD148"]
    assert not [f for f in checked(tmp_path, LLAMAFACTORY).findings if f.severity == "error"]


@pytest.mark.parametrize(
    ("package", "dialect"), [("mytuner", "custom"), ("llamafactory", "llamafactory"), (None, "llamafactory")]
)
def test_a_project_that_declares_the_keys_itself_reads_its_files_itself(
    tmp_path: Path, package: str | None, dialect: str
) -> None:
    if package is not None:
        module = tmp_path / "src" / package / "hparams" / "arguments.py"
        module.parent.mkdir(parents=True)
        fields = "    finetuning_type: str = 'lora'\n    wandb_run: str = ''\n"
        module.write_text(f"from dataclasses import dataclass\n@dataclass\nclass FinetuningArguments:\n{fields}")
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "examples").mkdir()
    report = checked(tmp_path / "examples", LLAMAFACTORY + "quant_type_of_mine: nf4\n")
    assert report.setup is not None and report.setup["dialect"] == dialect
    assert ("QD148" in {found.rule for found in report.findings}) is (dialect == "llamafactory")


@pytest.mark.parametrize(
    ("lines", "unused"),
    [
        ("val_size: 0.1", True),
        ("val_size: 0.1\neval_strategy: steps\neval_steps: 100", False),
        ("val_size: 0.1\ndo_eval: true", False),
        ("val_size: 0.0", False),
    ],
)
def test_llamafactory_evaluates_what_it_holds_out(tmp_path: Path, lines: str, unused: bool) -> None:
    assert ("QD165" in told(tmp_path, LLAMAFACTORY + lines + "\n")) == unused


# -- keys that stand twice


@pytest.mark.parametrize(("second", "is_error"), [("16", False), ("8", True), ("true", True), ("16.0", False)])
def test_the_same_value_twice_is_no_error(tmp_path: Path, second: str, is_error: bool) -> None:
    yaml = f"model: a/b\nlora:\n  r: 16\n  r: {second}\n"
    if second == "true":
        yaml = "model: a/b\nlora:\n  use_dora: 1\n  use_dora: true\n".replace("use_dora: 1", "use_dora: false")
    assert ("QD103" in told(tmp_path, yaml)) == is_error
    pairs = yaml.split("lora:\n")[1].split("\n")[:2]
    inside = ", ".join('"{}": {}'.format(*pair.strip().split(": ")) for pair in pairs)
    assert ("QD103" in told(tmp_path, f'{{"model": "a/b", "lora": {{{inside}}}}}', "config.json")) == is_error


# -- home-made files


def test_short_names_of_a_file_that_speaks_of_lora(tmp_path: Path) -> None:
    facts = checked(tmp_path, HOME_MADE).facts.config
    assert facts is not None and facts.dialect == "custom"
    found = (facts.four_bit, facts.eight_bit, facts.quant_type, facts.lora_r, facts.lora_alpha, facts.target_modules)
    assert found == (True, False, "nf4", 16, 32, ["q_proj", "v_proj"])
    assert (facts.batch, facts.sequence, facts.learning_rate, facts.packing) == (4, 1024, 2e-4, True)
    assert (facts.bf16, facts.fp16) == (True, False)


def test_short_names_of_other_files_mean_nothing(tmp_path: Path) -> None:
    from qlora_doctor.reading.dialects import homemade
    from qlora_doctor.reading.document import read_document

    file = tmp_path / "other.yaml"
    file.write_text("rank: 0\nalpha: 0.5\nbits: 8\nepochs: 3\nbatch_size: 4\n")
    assert homemade.recognise(read_document(file)) == 0.0


def test_numbers_that_a_script_beside_the_file_converts(tmp_path: Path) -> None:
    text = HOME_MADE.replace("2.0e-4", "2e-4")
    assert "QD104" in told(tmp_path, text)
    (tmp_path / "train.py").write_text('config = yaml.safe_load(open("config.yaml"))\nrate = float(config["lr"])\n')
    assert "QD104" not in told(tmp_path, text)
    (tmp_path / "train.py").write_text('config = yaml.safe_load(open("config.yaml"))\nrate = config["lr"]\n')
    assert "QD104" in told(tmp_path, text)
    (tmp_path / "train.py").write_text('from omegaconf import OmegaConf\nconfig = OmegaConf.load("config.yaml")\n')
    assert "QD104" not in told(tmp_path, text)


def test_fp16_alone_excludes_bf16(tmp_path: Path) -> None:
    text = HOME_MADE.replace("mixed_precision: bf16", "fp16: true\nbnb_4bit_compute_dtype: bfloat16")
    assert "QD113" in told(tmp_path, text)
    assert "QD113" not in told(tmp_path, text.replace("bfloat16", "float16"))


# -- learning rates


@pytest.mark.parametrize(
    ("change", "rule", "is_told"),
    [
        ({"lr: 2.0e-4": "lr: 1.0e-5"}, "QD120", True),
        ({"lr: 2.0e-4": "lr: 1.0e-5\nbeta: 0.1"}, "QD120", False),
        ({"lr: 2.0e-4": "lr: 1.0e-5\noutput_dir: out/dpo-run"}, "QD120", False),
        ({"lr: 2.0e-4": "lr: 1.0e-5", "meta-llama/Llama-3.1-8B": "openai/whisper-small"}, "QD120", False),
        ({"lr: 2.0e-4": "lr: 1.0e-3", "alpha: 32": "alpha: 64"}, "QD121", True),
        ({"lr: 2.0e-4": "lr: 1.0e-3", "alpha: 32": "alpha: 64", "meta-llama/Llama-3.1-8B": "openai/whisper-small"},
         "QD121", False),
        ({"rank: 16": "rank: 256\nuse_rslora: true"}, "QD121", True),
        ({"rank: 16": "rank: 256\nuse_rslora: false"}, "QD121", False),
    ],
)  # fmt: skip
def test_learning_rates_by_model_and_method(tmp_path: Path, change: dict[str, str], rule: str, is_told: bool) -> None:
    text = HOME_MADE
    for old, new in change.items():
        text = text.replace(old, new)
    assert (rule in told(tmp_path, text)) == is_told


# -- the checkpoint's own bits

SCRIPT = """
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from peft import LoraConfig, get_peft_model
model = AutoModelForCausalLM.from_pretrained("{name}")
model = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj"]))
Trainer(model, TrainingArguments("out", learning_rate=2e-4), train_dataset=rows).train()
"""


@pytest.mark.parametrize(
    ("name", "bits", "quant_type"),
    [
        ("unsloth/llama-2-7b-bnb-4bit", (True, False), "nf4"),
        ("unsloth/Some-New-Model-unsloth-bnb-4bit", (True, False), "nf4"),
        ("someone/Some-New-Model-bnb-4bit", (True, False), None),
        ("someone/Some-New-Model-bnb-8bit", (False, True), None),
        ("someone/Some-New-Model", (False, False), None),
        ("stored", (True, False), "nf4"),
    ],
)
def test_bits_that_the_checkpoint_brings(
    tmp_path: Path, name: str, bits: tuple[bool, bool], quant_type: str | None
) -> None:
    (tmp_path / "stored").mkdir()
    own = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (tmp_path / "stored" / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": own}))
    facts = checked(tmp_path, SCRIPT.format(name=name), "train.py").facts.config
    assert facts is not None
    assert (facts.four_bit, facts.eight_bit) == bits
    assert facts.quant_type == quant_type or not facts.four_bit
    assert facts.bits_of_checkpoint == any(bits)


# -- places in the JSON report


def test_origins_carry_line_and_column(tmp_path: Path) -> None:
    report = json.loads(checked(tmp_path, HOME_MADE).model_dump_json())
    place = report["setup"]["origins"]["lora.r"]["place"]
    assert (place["line"], place["column"], place["pointer"]) == (4, 1, "/rank")
    silent = report["setup"]["origins"]["training.optim"]
    assert silent["place"] is None


@pytest.mark.parametrize("written", ["first, second", "[first, second]"])
def test_llamafactory_trains_on_the_last_of_several_adapters(tmp_path: Path, written: str) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        "model_name_or_path: my/model\nstage: sft\ndo_train: true\nfinetuning_type: lora\ntemplate: default\n"
        f"dataset: mine\nadapter_name_or_path: {written}\n"
    )
    assert read_setup(config).model.adapter == "second"


@pytest.mark.parametrize(("name", "passed_by"), [("o_proj", True), ("output_proj", False)])
def test_layers_that_torchtune_passes_by(name: str, passed_by: bool, tmp_path: Path) -> None:
    model = (
        f"_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_attn_modules: [q_proj, {name}], lora_rank: 8"
    )
    (tmp_path / "tune.yaml").write_text(f"model: {{{model}, quantize_base: true}}\nbatch_size: 2\n")
    setup = read_setup(tmp_path / "tune.yaml")
    assert ("targets-passed-by" in {remark.kind for remark in setup.remarks}) is passed_by
    assert setup.lora.target_modules == (["q_proj"] if passed_by else ["q_proj", "output_proj"])


_SWIFT = "model: my/model\ntuner_type: lora\nquant_method: bnb\nquant_bits: 4\n"
_TRL = "model_name_or_path: my/model\nload_in_4bit: true\nuse_peft: true\nlora_r: 16\n"
_AXOLOTL = "base_model: my/model\nadapter: qlora\nload_in_4bit: true\n"
_FACTORY = "model_name_or_path: my/model\nfinetuning_type: lora\ntemplate: default\nquantization_bit: 4\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_SWIFT + "rlhf_type: rm\n", ("reward", "sequence-classification", 1)),
        (_SWIFT + "task_type: seq_cls\nnum_labels: 3\n", ("sft", "sequence-classification", 3)),
        (_SWIFT + "task_type: embedding\n", ("embedding", None, None)),
        (_SWIFT, ("sft", None, None)),
        (_SWIFT + "rlhf_type: grpo\nnum_generations: 2\n", ("grpo", None, None)),
        (_AXOLOTL + "reward_model: true\nnum_labels: 1\n", ("reward", None, 1)),
        (_AXOLOTL + "process_reward_model: true\nnum_labels: 2\n", ("prm", None, 2)),
        (_FACTORY + "stage: pt\n", ("pretrain", None, None)),
        (_TRL + "desirable_weight: 1.3\n", ("kto", None, None)),
        (_TRL + "center_rewards_coefficient: 0.01\n", ("reward", None, None)),
        (_TRL + "num_generations: 4\nscale_rewards: false\n", ("grpo", None, None)),
        (_TRL + "num_generations: 4\n", (None, None, None)),  # or RLOO's
        (_FACTORY + "stage: rm\n", ("rm", None, None)),  # a value head of its own, not trl's RewardTrainer
    ],
)
def test_what_a_task_makes_of_method_and_head(
    tmp_path: Path, text: str, expected: tuple[str, str | None, int | None]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    setup = read_setup(file)
    assert (setup.training.method, setup.model.task, setup.model.num_labels) == expected
    assert (setup.training.num_generations is not None) == ("num_generations" in text)
