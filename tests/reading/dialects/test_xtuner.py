"""XTuner's configs: Python that is followed, with XTuner's own defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from qlora_doctor.core.errors import ConfigError
from qlora_doctor.probes.config.conclude import conclude
from qlora_doctor.run.checking import check
from tests.reading.python.scripts import read, source, value

CONFIG = """\
import torch
from datasets import load_dataset
from mmengine.optim import AmpOptimWrapper
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune

base = "my/model"
max_length = 2048
pack_to_max_length = True
accumulative_counts = 16
accumulative_counts *= 1
lr = 2e-4

tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=base)
model = dict(
    type=SupervisedFinetune,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=base,
        trust_remote_code=True,
        torch_dtype=torch.float16,
        quantization_config=dict(
            type=BitsAndBytesConfig,
            load_in_4bit=True,
            llm_int8_threshold=6.0,
            bnb_4bit_compute_dtype=torch.float16,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_quant_type="nf4",
        ),
    ),
    lora=dict(type=LoraConfig, r=64, lora_alpha=16, lora_dropout=0.1, bias="none", task_type="CAUSAL_LM"),
)
rows = dict(
    type=process_hf_dataset,
    dataset=dict(type=load_dataset, path="my/rows"),
    tokenizer=tokenizer,
    max_length=max_length,
    pack_to_max_length=pack_to_max_length,
)
train_dataloader = dict(batch_size=2, num_workers=0, dataset=rows)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=lr, betas=(0.9, 0.999), weight_decay=0),
    clip_grad=dict(max_norm=1, error_if_nonfinite=False),
    accumulative_counts=accumulative_counts,
    loss_scale="dynamic",
    dtype="float16",
)
train_cfg = dict(type=TrainLoop, max_epochs=3)
"""


def test_config(tmp_path: Path) -> None:
    setup = read(tmp_path, CONFIG)
    assert (setup.dialect, setup.dialect_confidence) == ("xtuner", 0.99)
    explicit = {
        "model.name_or_path": "my/model",
        "model.trust_remote_code": True,
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_quant_type": "nf4",
        "quantization.bnb_4bit_compute_dtype": "float16",
        "lora.r": 64,
        "lora.lora_alpha": 16.0,
        "training.per_device_train_batch_size": 2,
        "training.gradient_accumulation_steps": 16,
        "training.learning_rate": 2e-4,
        "training.max_grad_norm": 1.0,
        "training.num_train_epochs": 3.0,
        "training.max_length": 2048,
        "training.packing": True,
        "training.fp16": True,
        "training.bf16": False,
        "training.optim": "adamw_torch",
        "training.method": "sft",
    }
    for path, expected in explicit.items():
        assert (value(setup, path), source(setup, path)) == (expected, "explicit"), path
    for path, expected in {
        "lora.target_modules": "all-linear",
        "training.gradient_checkpointing": True,
        "training.prepare_for_kbit_training": True,
        "model.use_cache": False,
    }.items():
        assert (value(setup, path), source(setup, path)) == (expected, "dialect_default"), path
    for path in ("model.dtype", "data.train", "training.deepspeed", "hardware.count"):
        assert setup.is_unknown(path), path
    assert setup.quantization.extra == {"llm_int8_threshold": 6.0}
    place = setup.place("training.learning_rate")
    assert place is not None and (place.line, place.column) == (16, 6)
    facts = conclude(setup, None)
    assert facts.four_bit is True and facts.gradient_checkpointing is True


@pytest.mark.parametrize(
    ("old", "new", "path", "expected"),
    [
        ("lora=dict(type=LoraConfig", "use_activation_checkpointing=False, lora=dict(type=LoraConfig",
         "training.gradient_checkpointing", False),
        ("lora_alpha=16", "lora_alpha=16, target_modules=['wqkv']", "lora.target_modules", ["wqkv"]),
        ('dtype="float16"', 'dtype="bfloat16"', "training.bf16", True),
        ("bnb_4bit_compute_dtype=torch.float16", "bnb_4bit_compute_dtype='torch.bfloat16'",
         "quantization.bnb_4bit_compute_dtype", "bfloat16"),
        ("dataset=rows)", "dataset=dict(type=ConcatDataset, datasets=[rows, rows]))", "training.max_length", 2048),
        ("dataset=rows)", "dataset=dict(type=ConcatDataset, datasets=[rows, dict(rows, max_length=9)]))",
         "training.max_length", None),
        ("type=AdamW, lr", "type=Lion, lr", "training.optim", None),
        ("train_cfg = ", "model['llm'].pop('quantization_config')\ntrain_cfg = ", "quantization.load_in_4bit", False),
        ("train_cfg = ", "model['lora'].update(r=8)\ntrain_cfg = ", "lora.r", 8),
    ],
)  # fmt: skip
def test_variants(old: str, new: str, path: str, expected: object, tmp_path: Path) -> None:
    assert old in CONFIG
    setup = read(tmp_path, CONFIG.replace(old, new))
    assert value(setup, path) == expected
    assert setup.is_unknown(path) is (expected is None)


def test_config_upon_another_leaves_the_rest_to_it(tmp_path: Path) -> None:
    text = (
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"
        "model.update(dict(lora=dict(r=8)))\noptim_wrapper = dict(optimizer=dict(lr=1e-4))\n"
    )
    setup = read(tmp_path, text)
    assert setup.dialect == "xtuner"
    assert setup.is_unknown("quantization.load_in_4bit")
    assert setup.is_unknown("lora.target_modules")


def test_no_lora_is_said(tmp_path: Path) -> None:
    start, end = CONFIG.index("    lora=dict("), CONFIG.index(")\nrows")
    setup = read(tmp_path, CONFIG[:start] + CONFIG[end:])
    assert [remark.kind for remark in setup.remarks] == ["no-lora"]
    assert setup.is_unknown("lora.r")


LLM, LORA = CONFIG.index("    llm=dict("), CONFIG.index("    lora=dict(")
INTERNVL = (
    CONFIG[:LLM].replace("SupervisedFinetune", "InternVL_V1_5")
    + "    model_path=base, freeze_llm=True, quantization_llm=True,\n"
    + CONFIG[LORA:].replace("lora=dict(", "llm_lora=dict(")
)


def test_internvl_quantizes_by_a_switch_of_its_own(tmp_path: Path) -> None:
    setup = read(tmp_path, INTERNVL)
    for path, expected, whose in [
        ("model.name_or_path", "my/model", "explicit"),
        ("model.dtype", "bfloat16", "dialect_default"),
        ("quantization.load_in_4bit", True, "explicit"),
        ("quantization.bnb_4bit_quant_type", "nf4", "dialect_default"),
        ("quantization.bnb_4bit_compute_dtype", "float16", "dialect_default"),
        ("quantization.llm_int8_skip_modules", ["mlp1", "vision_model"], "dialect_default"),
        ("training.method", "sft", "explicit"),
        ("training.gradient_checkpointing", True, "dialect_default"),
        ("lora.r", 64, "explicit"),
    ]:
        assert (value(setup, path), source(setup, path)) == (expected, whose), path
    assert setup.is_unknown("lora.target_modules")
    assert setup.remarks == []


@pytest.mark.parametrize(
    ("switches", "expected", "unknown"),
    [
        ("", False, False),
        ("quantization_llm=False, quantization_vit=False,", False, False),
        ("quantization_llm=True, quantization_vit=True,", True, False),
        ("quantization_vit=True,", None, True),  # the language model stays in 16 bits
        ("quantization_llm=os.environ['BITS'],", None, True),
    ],
)
def test_internvl_switches(switches: str, expected: bool | None, unknown: bool, tmp_path: Path) -> None:
    setup = read(tmp_path, "import os\n" + INTERNVL.replace("quantization_llm=True,", switches))
    assert setup.quantization.load_in_4bit is expected
    assert setup.is_unknown("quantization.load_in_4bit") is unknown


@pytest.mark.parametrize("kind", ["LLaVAModel", "InternVL_V1_5"])
@pytest.mark.parametrize("frozen", [True, False])
def test_models_without_lora_are_said(kind: str, frozen: bool, tmp_path: Path) -> None:
    end = CONFIG.index(")\nrows")
    text = CONFIG[:LORA].replace("SupervisedFinetune,", f"{kind}, freeze_llm={frozen},") + CONFIG[end:]
    setup = read(tmp_path, text.replace("2e-4", "2e-5"))
    (remark,) = setup.remarks
    assert remark.kind == "no-lora"
    assert ("the whole model is trained" in str(remark.note)) is not frozen
    assert not [each for each in check(Path(str(setup.file)), stages=("config",)).findings if each.rule == "QD120"]


def test_config_of_xtuner_1_is_refused_in_words(tmp_path: Path) -> None:
    text = "from xtuner.v1.model import Qwen3Dense8BConfig\nmodel = Qwen3Dense8BConfig(num_hidden_layers=3)\n"
    with pytest.raises(ConfigError, match="is code of XTuner 1, which is not checked here") as refusal:
        read(tmp_path, text)
    assert "has no LoRA" in str(refusal.value.remedy)
    assert read(tmp_path, text + "from peft import LoraConfig\nLoraConfig(r=8)\n").dialect == "python"


def test_config_of_the_older_kind(tmp_path: Path) -> None:
    start, end = CONFIG.index("model = dict("), CONFIG.index("rows = dict(")
    text = CONFIG[:start] + (
        "model = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=base,\n"
        "    quantization_config=dict(type=BitsAndBytesConfig, load_in_4bit=True))\n"
        "lora = dict(type=LoraConfig, r=16)\n"
        "training_args = dict(type=TrainingArguments, learning_rate=1e-4, fp16=True, optim='paged_adamw_32bit')\n"
    )
    setup = read(tmp_path, text + CONFIG[end:])
    assert (setup.lora.r, setup.training.learning_rate, setup.training.optim) == (16, 1e-4, "paged_adamw_32bit")
    assert setup.training.trainer == "transformers"


def test_finding_points_into_the_config_and_a_comment_silences_it(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("lr = 2e-4", "lr = 2e-6"))
    (finding,) = [each for each in check(path, stages=("config",)).findings if each.rule == "QD120"]
    assert finding.location.line == 16
    path.write_text(CONFIG.replace("lr = 2e-4", "lr = 2e-6  # qlora-doctor: ignore[QD120] the last epoch"))
    (finding,) = [each for each in check(path, stages=("config",)).findings if each.rule == "QD120"]
    assert finding.suppressed is not None


def test_broken_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid Python"):
        read(tmp_path, CONFIG + "x = (")
